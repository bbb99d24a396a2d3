/* residency.h - functions of residency.c for the loader. */
#ifndef QW_RESIDENCY_H
#define QW_RESIDENCY_H
#include "weights/weights.h"

/* Copies bytes to device memory that is kept; NULL with err set when there is none.  data is NULL
 * on the plan device. */
void *qw_residency_keep(qw_residency *s, const void *data, size_t bytes, qw_error *err);
/* Registers the last part of w, which lies in host memory, in a group; parts of one weight are
 * packed by one request.  A host device uses a part that it does not pack where it lies; any other
 * part gets its device address from commit (kept groups) or qw_group_begin (streamed groups). */
int qw_residency_part(qw_residency *s, qw_group *g, const qw_store *store, qw_weight *w,
                      qw_error *err);
/* The same for the dense weights of a convolution, which are copied and kept; data is NULL on the
 * plan device. */
int qw_residency_conv(qw_residency *s, qw_tensor *t, const void *data, qw_error *err);
#endif
