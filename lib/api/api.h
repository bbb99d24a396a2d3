/* api.h - what the files of the public functions share. */
#ifndef QW_API_FILES_H
#define QW_API_FILES_H
#include "core/core.h"
#include "pipeline/pipeline.h"

/* Clears the model's error; a handle that failed to open keeps its own, which is returned. */
int qw_usable(qwen *q);
/* The caller's request, of any known size, as ours. */
int qw_take_request(qwen *q, qwen_request *r, const qwen_request *req);
int qw_give_ids(qw_error *err, int32_t *ids, int64_t n, qwen_array *out); /* takes ids over */
#endif
