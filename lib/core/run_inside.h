/* run_inside.h - what the files that make up a run share. */
#ifndef QW_RUN_INSIDE_H
#define QW_RUN_INSIDE_H
#include "core/run.h"

/* "denoise, step 3, block 12: " or as much of it as is set; out. */
const char *qw_run_where(const qw_run *r, char *out, size_t size);

/* A tensor as `count` runs of `n` contiguous elements: dense tensors are one run. */
typedef struct qw_runs {
    int64_t count, n;
    int outer;
} qw_runs;

qw_runs qw_runs_of(const qw_tensor *t);
/* Address of run i. */
unsigned char *qw_run_at(const qw_tensor *t, const qw_runs *s, int64_t i);
/* Fails the run if an output of the op has an element that is not finite; updates r->magnitude. */
void qw_check_result(qw_run *r, const qw_op_info *info, void *args);

/* The reference computes an op: on host copies of the operands, or on host memory itself.  args is
 * a copy that these may change. */
int qw_reference_staged(qw_run *r, const qw_op_info *info, void *args);
int qw_reference_host(qw_run *r, const qw_op_info *info, void *args);
#endif
