/* residency.h - what the loader asks of residency.c. */
#ifndef QW_RESIDENCY_H
#define QW_RESIDENCY_H
#include "weights/weights.h"

/* Copies bytes to device memory that stays; NULL with err set when there is none. */
void *qw_residency_keep(qw_residency *s, const void *data, size_t bytes, qw_error *err);
/* Registers a matrix of a group.  On a host device it stays where it lies; else *t is made to point
 * at device memory by commit (kept groups) or by qw_group_begin (streamed ones). */
int qw_residency_matrix(qw_residency *s, qw_group *g, const qw_store *store, qw_tensor *t,
                        qw_error *err);
#endif
