/* run.h - a walk through a network: a device, scratch memory, the first error.
 *
 * Network code calls the eight wrappers below.  Each returns at once if the run has failed, checks
 * its operands by the op table, counts, calls the device, and falls back to the reference when the
 * device declines.  Nothing is returned: a net is checked once, at its end, by r->error.status.  A
 * run belongs to one thread. */
#ifndef QW_RUN_H
#define QW_RUN_H
#include "core/core.h"
#include "core/op.h"
#include <stdio.h>

typedef struct qw_run {
    qw_device *dev;
    qw_device *ref; /* the fallback: device "ref" (may equal dev) */
    qw_error error;
    int strict; /* a declined op is an error */
    /* look for non-finite results after every op */
    int check;

    unsigned char *base; /* scratch: one block on the device, used as a stack */
    size_t size, used, peak;

    /* "text", "vision", "encode", "denoise", "decode": for messages */
    const char *stage;
    int step, block; /* position in the stage, -1: none; for messages and progress */
    /* the largest |value| seen in a result so far in this stage */
    double magnitude;

    uint64_t calls[QW_NOPS], declined[QW_NOPS];
    double flops, bytes;
    /* Copies and waits of this run between host and device; a recording cannot contain them. */
    uint64_t traffic;
    int recording; /* 1: ops are recorded, not computed; -1: the recording must be dropped */
    /* 1: nets also tap tensors inside a stage, for tests and readers */
    int detail;
    const char *names; /* dotted prefix put before tap names, or NULL */

    int (*poll)(void *user); /* before every op; nonzero cancels (QWEN_ECANCELLED) */
    int (*look)(void *user); /* as poll; a device calls it inside a long op */
    void (*trace)(void *user, const char *line); /* every op as a case line, see op.c */
    void (*tap)(void *user, const char *name, const qwen_array *a);
    void *user;
} qw_run;

/* dev is borrowed; ref may be NULL when dev is itself the reference or the plan device. */
void qw_run_init(qw_run *r, qw_device *dev, qw_device *ref);
int qw_run_reserve(qw_run *r, size_t bytes); /* grows the scratch block while it is unused */
void qw_run_free(qw_run *r);
/* The run's first failure stays.  A status above 0, which only a device returns, is QWEN_EDEVICE. */
void qw_run_fail(qw_run *r, int status, const char *format, ...) QW_PRINTF(3, 4);
/* Fails the run with the sentence of dev->failure if it returns one, else with "device NAME failed
 * while WHAT". */
void qw_run_device_failed(qw_run *r, int status, const char *what);

/* Scratch tensors, dense, uninitialised.  mark = r->used; ...; r->used = mark; gives them back.  A
 * tensor that does not fit the reserved block fails the run (QWEN_ENOMEM, with the peak). */
qw_tensor qw_new1(qw_run *r, qw_dtype t, int64_t a);
qw_tensor qw_new2(qw_run *r, qw_dtype t, int64_t a, int64_t b);
qw_tensor qw_new3(qw_run *r, qw_dtype t, int64_t a, int64_t b, int64_t c);

#define X(op) void qw_##op(qw_run *r, qw_##op##_args a);
QW_OPS(X)
#undef X

/* --- ops that come again (record.c) ----------------------------------------------------------- */
typedef void (*qw_ops)(qw_run *r, void *arg); /* calls ops of r only */
typedef struct qw_recording {                 /* zeros at first; qw_run_forget frees it */
    int state;
    uint64_t id;
    const void *at; /* end of the scratch in use; a recording holds for one address */
    uint64_t calls[QW_NOPS];
    double flops, bytes;
} qw_recording;
/* Calls ops, whose addresses and shapes must be the same each time, or replays the device's
 * recording of them; the results are the same. */
void qw_run_repeat(qw_run *r, qw_recording *p, qw_ops ops, void *arg);
void qw_run_forget(qw_run *r, qw_recording *p);
/* To be called before any function of the device but an op.  Nonzero: ops are being recorded, so
 * that the function must not be called; the recording will be dropped. */
int qw_run_spoils(qw_run *r);

/* --- to the device and back ------------------------------------------------------------------- */
/* Host doubles, dense, to a device tensor of any float dtype, I32 or rows of codes (I8 [n][k]
 * with a scale each, quantised here); and back, which waits.  One call of the device for what is
 * contiguous there. */
void qw_put(qw_run *r, qw_tensor dst, const double *src);
void qw_get(qw_run *r, qw_tensor src, double *dst);

/* Hands a tensor to r->tap if there is one: F64 when the device is wide in F64, else F32.
 * The _chw form turns [h][w][c] into [c][h][w].  The name is printf-formatted. */
void qw_tap(qw_run *r, qw_tensor t, const char *format, ...) QW_PRINTF(3, 4);
void qw_tap_chw(qw_run *r, qw_tensor t, const char *format, ...) QW_PRINTF(3, 4);
/* The same for host data: doubles (handed out as F64 or F32, as above) and 32-bit integers. */
void qw_tap_doubles(qw_run *r, const double *x, int rank, const int64_t *dim, const char *format,
                    ...) QW_PRINTF(5, 6);
void qw_tap_ints(qw_run *r, const int32_t *x, int rank, const int64_t *dim, const char *format, ...)
    QW_PRINTF(5, 6);
/* Fails the run with QWEN_ENUMERIC if t has a non-finite element. */
void qw_require_finite(qw_run *r, qw_tensor t, const char *what);

/* --- devices (registry.c, plan.c) ------------------------------------------------------------- */
typedef struct qw_device_options {
    int threads;     /* 0: all that this process may use */
    uint64_t memory; /* bytes of device memory to stay under; 0: what is free */
    /* Called when the best device does not open (`why` is the sentence) and `used` opens instead;
     * may be NULL. */
    void (*notice)(void *user, const char *why, const char *used);
    void *user;
} qw_device_options;
/* "ref", "ref64", "ref:bf16", "plan", ...; a backend's name: its best; NULL: the best of all that
 * opens.  options may be NULL.  The caller closes it. */
int qw_device_open(const char *name, const qw_device_options *options, qw_device **out,
                   qw_error *err);
/* Calls each for every device, usable or not (why_not has the reason), and opens none; a nonzero
 * result of each ends the list and is returned. */
int qw_device_list(int (*each)(void *user, const qw_listing *d, int is_default), void *user);
/* Sets the functions that a host device leaves NULL.  Returns NULL, or a sentence on what is
 * missing or wrong. */
const char *qw_device_complete(qw_device *dev);
/* The device that computes nothing: alloc hands out addresses, ops succeed.  It copies like's
 * types. */
int qw_plan_open(const qw_device *like, qw_device **out);
int qw_is_plan(const qw_device *dev); /* its addresses must not be dereferenced */
#endif
