/* backend.h - the contract between the core and whatever does the arithmetic.
 *
 * A backend fills in a qw_device.  Memory is raw pointers, work goes to two
 * in-order queues, and there are eight operations.  Everything else in the
 * library is host code that does not know which device it runs on. */
#ifndef QW_BACKEND_H
#define QW_BACKEND_H
#include <qwen/qwen.h> /* status codes, nothing else */
#include <qwen/tensor.h>

enum { QW_BACKEND_ABI = 1, QW_DECLINE = 1 }; /* DECLINE: "not me"; nothing was written */

typedef enum qw_act { QW_ACT_NONE, QW_SILU, QW_GELU_TANH, QW_GELU_ERF } qw_act;
typedef enum qw_pairing { QW_PAIRS, QW_HALVES } qw_pairing; /* (2i,2i+1) or (i,i+d/2) */

/* y = res + gate * act(x w^T + x2 w2^T + bias) */
typedef struct qw_gemm_args {
    qw_tensor y;               /* [m][n] out */
    qw_tensor x;               /* [m][k] */
    qw_tensor w;               /* [n][k] any dtype, plain or packed */
    qw_tensor x2, w2;          /* [m][r], [n][r]: low-rank additions (LoRA), or absent */
    qw_tensor bias, gate, res; /* [n], [n], [m][n]; each may be absent; res may be y */
    qw_act act;
} qw_gemm_args;

/* y_i = sum_j softmax_j(scale q_i.k_j) v_j, j over first[i] <= j < last[i] */
typedef struct qw_attention_args {
    qw_tensor y, q; /* [nq][hq][d] */
    qw_tensor k, v; /* [nk][hk][d], hq = g hk; head h reads h/g */
    /* [nq] each, host memory, not decreasing; NULL: every key */
    const int32_t *first, *last;
    double scale;
} qw_attention_args; /* causal: last[i] = nk - nq + i + 1;
                                         * windows: equal ranges */

/* y = res + up(x) * w + bias, channels last; right and bottom padding follow from y's size */
typedef struct qw_conv2d_args {
    qw_tensor y, x;      /* [ho][wo][co], [hi][wi][ci] */
    qw_tensor w;         /* [co][kh][kw][ci] */
    qw_tensor bias, res; /* [co], [ho][wo][co] or absent; res may be y */
    int stride, top, left;
    int up; /* 1, or 2: x is read as if enlarged twice (nearest) */
} qw_conv2d_args;

/* y = act(x / sqrt(mean x^2 + eps) * w), over the last dimension; y may be x */
typedef struct qw_rms_norm_args {
    qw_tensor y, x, w;
    double eps;
    qw_act act;
} qw_rms_norm_args;

/* y = (x - mean) / sqrt(var + eps) * (1 + scale) + shift; scale, shift each may be absent */
typedef struct qw_ln_mod_args {
    qw_tensor y, x, scale, shift;
    double eps;
} qw_ln_mod_args;

/* x = rotate(rms_norm(x) * w), in place, head by head; w absent: no norm */
typedef struct qw_norm_rope_args {
    qw_tensor x;        /* [n][h][d] in and out */
    qw_tensor w;        /* [d] or absent */
    qw_tensor cos, sin; /* [n][d/2], of the device's wide type */
    qw_pairing pairing;
    double eps;
} qw_norm_rope_args;

/* y = silu(x[:, :n]) x[:, n:] */
typedef struct qw_swiglu_args {
    qw_tensor y, x;
} qw_swiglu_args;

/* y = res + H x: dtype, strides, addition; H is the identity, or the Hadamard rotation of each
 * group of `rotate` columns; a y of QW_I8 is quantised row by row into y.data and y.scale */
typedef struct qw_convert_args {
    qw_tensor y, x, res;
    int rotate;
} qw_convert_args;

#define QW_OPS(X) \
    X(gemm) X(attention) X(conv2d) X(rms_norm) X(ln_mod) X(norm_rope) X(swiglu) X(convert)

/* what the arithmetic inside an op promises (unit roundoffs) */
typedef struct qw_arith {
    float mul; /* operands before multiplying: 0 kept, 2^-11 TF32, ... */
    float acc; /* accumulator: 2^-24 for f32 */
    float mid; /* stored intermediates, e.g. softmax weights */
    float fun; /* exp, tanh, rsqrt: relative error */
    float row; /* operands quantised against their row's maximum */
} qw_arith;

typedef struct qw_device qw_device;
enum { QW_COMPUTE, QW_COPY, QW_NQUEUES };

struct qw_device { /* first member of each backend's own device struct */
    uint32_t abi;
    char name[32];   /* "cuda:0", "cpu:avx2" */
    uint64_t memory; /* bytes free when opened */
    int host;        /* device pointers are host pointers */
    /* host threads an op may use; 0: all that this process may use */
    int threads;
    /* dtype of branches it is fastest with: F32 or BF16, never F16 */
    qw_dtype prefer;
    /* dtype of streams and of every 1-D operand: F32; F64 on ref64 */
    qw_dtype wide;
    void (*close)(qw_device *);

    int (*alloc)(qw_device *, size_t bytes, void **out); /* 256-byte aligned */
    void (*free)(qw_device *, void *);
    int (*put)(qw_device *, int queue, void *dst, const void *src, size_t bytes);
    int (*get)(qw_device *, int queue, void *dst, const void *src, size_t bytes); /* waits */
    int (*mark)(qw_device *, int queue, uint64_t *ticket); /* a point in the queue */
    int (*wait)(qw_device *, int queue, uint64_t ticket);  /* queue waits for it */
    int (*sync)(qw_device *);                              /* host waits for both queues */
    int (*lapse)(qw_device *, uint64_t from, uint64_t to, double *seconds);

    size_t (*packed)(qw_device *, const qw_tensor *w); /* bytes pack() needs */
    int (*pack)(qw_device *, int queue, qw_tensor *dst, const qw_tensor *w);

    struct {
#define X(op)                                       \
    int (*op)(qw_device *, const qw_##op##_args *); \
    qw_arith op##_arith;
        QW_OPS(X)
#undef X
    } op;
};

typedef struct qw_backend {
    uint32_t abi;
    const char *name;
    /* i-th device or variant; QW_DECLINE past the last */
    int (*open)(int i, qw_device **out);
} qw_backend;

#if defined _WIN32
#define QW_EXPORT __declspec(dllexport)
#elif defined __GNUC__
#define QW_EXPORT __attribute__((visibility("default")))
#else
#define QW_EXPORT
#endif
#ifdef __cplusplus
extern "C" {
#endif
extern const QW_EXPORT qw_backend qw_backend_module; /* what a module exports */
#ifdef __cplusplus
}
#endif
#endif
