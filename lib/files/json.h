/* json.h - JSON files, bounded in size and depth. */
#ifndef QW_JSON_H
#define QW_JSON_H
#include "core/core.h"
#include <jansson.h>

/* JSON files: size-bounded, depth-bounded, no duplicate keys.  Caller json_decref()s. */
int qw_json_file(const char *path, json_t **out, qw_error *err);
#endif
