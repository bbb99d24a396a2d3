/* onednn.h - the oneDNN devices: state, and calls that become primitives.
 *
 * A device has a base, a device of backends/cpu or the reference, that computes every op which
 * oneDNN does not. */
#ifndef QW_ONEDNN_H
#define QW_ONEDNN_H
#include <oneapi/dnnl/dnnl.h>
#include <qwen/backend.h>

/* A matrix or a picture as oneDNN sees it. */
typedef struct onednn_view {
    int64_t type, rank; /* type: dnnl_data_type_t, or 0 for an absent one */
    dnnl_dims_t dim, stride;
} onednn_view;

/* A product or a convolution without its addresses: the key of a primitive.  Every field is
 * int64_t, so that keys are compared as bytes; unused dimensions are 0. */
typedef struct onednn_call {
    int64_t threads, act; /* act: qw_act */
    int64_t conv;         /* a convolution; else a product */
    int64_t bias;         /* f32, one for each column or channel of y */
    int64_t sum;          /* the result is added to y, before act */
    /* product: x [m][k], w [k][n], y [m][n]; convolution: x and y [1][c][h][w], w
     * [co][ci][kh][kw] */
    onednn_view x, w, y;
    dnnl_dims_t step, before, after; /* of a convolution: strides and padding, rows then columns */
} onednn_call;

/* A primitive.  Its scratch and, where oneDNN wants the weights of a
 * convolution in another order, these weights lie in memory of the caller. */
typedef struct onednn_primitive {
    onednn_call call;
    uint64_t used;  /* the clock of its last use; 0: this place is free */
    int unfit;      /* oneDNN has no implementation, or only its reference */
    size_t scratch; /* bytes */
    size_t laid;    /* bytes of the weights in oneDNN's order; 0: they are used as they lie */
    dnnl_primitive_desc_t desc, lay_desc;
    dnnl_primitive_t run, lay; /* created at the first execution */
} onednn_primitive;

enum { ONEDNN_PRIMITIVES = 128 };

typedef struct onednn_device {
    qw_device d;
    qw_device *base;
    int bf16;      /* this processor has products of bf16 pairs, and oneDNN uses them */
    char why[160]; /* the failure after which the device is dead, or empty */
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    uint64_t clock;
    onednn_primitive primitive[ONEDNN_PRIMITIVES]; /* the least recently used is replaced */
} onednn_device;

static inline onednn_device *onednn_of(qw_device *d) { return (onednn_device *)(void *)d; }

/* --- primitive.c ------------------------------------------------------------------------------ */

int onednn_start(onednn_device *dev); /* engine and stream; QWEN_OK, or an error and dev->why */
void onednn_stop(onednn_device *dev); /* frees them and all primitives */
int onednn_has_bf16(void);            /* natively, in oneDNN's own view of the processor */
/* f32 or bf16 as dnnl_data_type_t, 0 for other types and bf16 without its instructions. */
int64_t onednn_type(const onednn_device *dev, qw_dtype t);
int onednn_threads(const onednn_device *dev);
/* The primitive of a call; it is valid until the next onednn_find.  NULL: oneDNN has none that is
 * fast, or it failed and dev->why is the reason. */
onednn_primitive *onednn_find(onednn_device *dev, const onednn_call *call);
/* Weights w in oneDNN's order to `to`, of p->laid bytes. */
int onednn_lay(onednn_device *dev, onednn_primitive *p, const void *w, void *to);
int onednn_run(onednn_device *dev, onednn_primitive *p, const void *x, const void *w, void *y,
               const void *bias, void *scratch);
/* Bytes rounded up to a multiple of 256. */
static inline size_t onednn_round(size_t bytes) { return (bytes + 255) & ~(size_t)255; }
/* Asks poll; QWEN_OK or QWEN_ECANCELLED. */
static inline int onednn_poll(const onednn_device *dev)
{
    return dev->d.poll && dev->d.poll(dev->d.poll_user) ? QWEN_ECANCELLED : QWEN_OK;
}

/* --- finish.c --------------------------------------------------------------------------------- */

static inline int onednn_float(const qw_tensor *t)
{
    return t->dtype == QW_F32 || t->dtype == QW_BF16;
}
/* y = res + gate * sums, a row of n; gate and res may be NULL; res may be y; sums are
 * overwritten. */
void onednn_finish(int64_t n, float *sums, const float *gate, qw_dtype res_type, const void *res,
                   qw_dtype y_type, void *y);

/* --- gemm.c, conv2d.c: QW_DECLINE before anything is written ---------------------------------- */

int onednn_gemm(onednn_device *dev, const qw_gemm_args *a);
int onednn_conv2d(onednn_device *dev, const qw_conv2d_args *a);
/* Stores the bytes of scratch; returns 0 where the call is declined. */
int onednn_gemm_scratch(onednn_device *dev, const qw_gemm_args *a, size_t *bytes);
int onednn_conv2d_scratch(onednn_device *dev, const qw_conv2d_args *a, size_t *bytes);

/* An OpenMP directive, where there is OpenMP. */
#ifdef _OPENMP
#define ONEDNN_PRAGMA(x) _Pragma(#x)
#define ONEDNN_OMP(x)    ONEDNN_PRAGMA(omp x)
#else
#define ONEDNN_OMP(x)
#endif
#endif
