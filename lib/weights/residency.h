/* residency.h - what the loader asks of residency.c. */
#ifndef QW_RESIDENCY_H
#define QW_RESIDENCY_H
#include "weights/weights.h"

/* Copies bytes to device memory that stays; NULL with err set when there is none.  data NULL: the
 * device computes nothing. */
void *qw_residency_keep(qw_residency *s, const void *data, size_t bytes, qw_error *err);
/* Registers the last part of w, which lies in host memory, in a group; parts of one weight are packed
 * by one request.  Where the device wants no other layout, a host device uses it where it lies; else
 * the part is made to point at device memory by commit (kept groups) or by qw_group_begin (streamed
 * ones). */
int qw_residency_part(qw_residency *s, qw_group *g, const qw_store *store, qw_weight *w,
                      qw_error *err);
/* The same for the weights of a convolution, dense, which are copied (NULL: the device computes
 * nothing) and kept. */
int qw_residency_conv(qw_residency *s, qw_tensor *t, const void *data, qw_error *err);
#endif
