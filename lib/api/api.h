/* api.h - what the files of the public functions share. */
#ifndef QW_API_FILES_H
#define QW_API_FILES_H
#include "core/core.h"
#include "pipeline/pipeline.h"

/* Clears the model's error and returns QWEN_OK; of a handle that failed to open, returns its error;
 * of NULL, QWEN_EARG. */
int qw_usable(qwen *q);
/* Copies the caller's request, of any known size, to *r.  Its pointers stay the caller's. */
int qw_take_request(qwen *q, qwen_request *r, const qwen_request *req);
/* Makes ids [n] (malloc'ed, or NULL for none) the data of *out, which owns them. */
int qw_give_ids(qw_error *err, int32_t *ids, int64_t n, qwen_array *out);
#endif
