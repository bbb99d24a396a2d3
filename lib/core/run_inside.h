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
/* Fails the run with what the device says of itself, if it does, else with "device NAME failed while
 * WHAT". */
void qw_run_device_failed(qw_run *r, int status, const char *what);

/* Room of the scratch stack, given back by the mark of r->used; on failure an address that nothing
 * will touch. */
void *qw_run_take(qw_run *r, size_t bytes);

/* Fails the run if an output of the op has an element that is not finite; updates r->magnitude. */
void qw_check_result(qw_run *r, const qw_op_info *info, void *args);

/* The reference computes an op: on the device's memory where that is the host's, else on copies. */
int qw_reference(qw_run *r, enum qw_op op, const void *args);
#endif
