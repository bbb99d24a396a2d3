/* run_inside.h - declarations shared by the files of a run. */
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

/* Takes bytes of the scratch stack; setting r->used back frees them.  When they do not fit, the run
 * fails and the address must not be dereferenced. */
void *qw_run_take(qw_run *r, size_t bytes);

/* Fails the run if an output of the op has an element that is not finite; updates r->magnitude. */
void qw_check_result(qw_run *r, const qw_op_info *info, void *args);

/* Computes an op by the reference: in the device's memory where that is host memory, else on
 * copies.  Returns the op's status. */
int qw_reference(qw_run *r, enum qw_op op, const void *args);
#endif
