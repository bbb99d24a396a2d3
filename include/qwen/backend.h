/* backend.h - the contract between the core and devices, version 2.
 *
 * A backend lists its devices without opening them and opens one as a qw_device: memory behind raw
 * pointers, two in-order queues, eight operations.  The rest of the library runs on the host and is
 * the same for every device.
 *
 * Version 2 promises to a module (doc/backends.md): structs begin with their size, which the
 * side that allocates them sets; fields and enumerators are appended, never moved; an argument
 * struct of an op does not change.  A device belongs to one thread at a time. */
#ifndef QW_BACKEND_H
#define QW_BACKEND_H
#include <qwen/qwen.h> /* for the status codes */
#include <qwen/tensor.h>
#ifdef __cplusplus
extern "C" {
#endif

/* QW_DECLINE: the function does not compute this call (an op, record, replay) or has no device of
 * that index (list, open).  A function that returns it has written nothing. */
enum { QW_BACKEND_ABI = 2, QW_DECLINE = 1 };

typedef enum qw_act { QW_ACT_NONE, QW_SILU, QW_GELU_TANH, QW_GELU_ERF } qw_act;
typedef enum qw_pairing { QW_PAIRS, QW_HALVES } qw_pairing; /* (2i,2i+1) or (i,i+d/2) */

/* --- the operations --------------------------------------------------------------------------- */

/* y = res + gate * act(x w^T + x2 w2^T + bias).  x of QW_I8 has a scale for each row.  y of QW_I8
 * is quantised as by convert; then gate and res are absent. */
typedef struct qw_gemm_args {
    qw_tensor y;               /* [m][n] out */
    qw_tensor x;               /* [m][k] */
    qw_tensor w;               /* [n][k] any dtype, plain or packed */
    qw_tensor x2, w2;          /* [m][r], [n][r]: low-rank additions (LoRA), or absent */
    qw_tensor bias, gate, res; /* [n], [n], [m][n]; each may be absent; res may be y */
    qw_act act;
} qw_gemm_args;

/* y_i = sum_j softmax_j(scale q_i.k_j) v_j, j over first[i] <= j < last[i].  Causal attention has
 * last[i] = nk - nq + i + 1, windows have equal ranges. */
typedef struct qw_attention_args {
    qw_tensor y, q; /* [nq][hq][d] */
    qw_tensor k, v; /* [nk][hk][d], hq = g hk; head h reads h/g */
    /* [nq] each, host memory that may change after the call; not decreasing; NULL: every key */
    const int32_t *first, *last;
    double scale;
} qw_attention_args;

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

/* y = (x - mean) / sqrt(var + eps) * (1 + scale) + shift; scale, shift each may be absent.  y of
 * QW_I8: quantised, as by convert. */
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
#define X(op) QW_OP_##op,
enum qw_op { QW_OPS(X) QW_NOPS };
#undef X

/* A device's promise of the arithmetic inside an op: unit roundoffs, 0 for exact.
 * doc/numerics.md derives the bound of each op from them. */
typedef struct qw_arith {
    /* of an operand before it is multiplied, by the class of its type: mul[QW_CLASS_F32] = 2^-8:
     * the device rounds f32 operands to bf16 */
    float mul[QW_MAX_CLASSES];
    float acc;    /* of the accumulator: 2^-24 for f32 */
    float mid;    /* of stored intermediates, such as softmax weights */
    float fun;    /* of exp, tanh, rsqrt: relative error */
    float row;    /* of an activation quantised against the largest of its row: 1/254 for int8 */
    float row_w;  /* of a weight that is not I8, quantised again against the largest of its row */
    float row_qk; /* of q and k in attention, quantised against the largest of their rows */
} qw_arith;

/* --- a device --------------------------------------------------------------------------------- */

/* Weights for pack: matrices [n][k] that are multiplied with the same x (q, k, v; gate, up), or one
 * convolution [co][kh][kw][ci].  Their layout is 0.  They lie in host memory, which neither moves
 * nor changes while the packed weight is in use. */
typedef struct qw_pack_request {
    size_t size;
    const qw_tensor *w; /* [parts] */
    int parts;
    int64_t rows; /* of x that are expected; 0: unknown */
} qw_pack_request;

typedef struct qw_device qw_device;
enum { QW_COMPUTE, QW_COPY, QW_NQUEUES };
enum { QW_RECORD_END, QW_RECORD_BEGIN, QW_RECORD_DROP };

struct qw_device {
    size_t size;     /* of this struct where the backend was compiled */
    uint32_t abi;    /* QW_BACKEND_ABI where the backend was compiled */
    int host;        /* device pointers are host pointers */
    char name[48];   /* "cuda:0", "cpu:avx2" */
    uint64_t memory; /* bytes free when opened */
    /* Host threads that an op may use; 0: all that this process may use.  The core sets it when the
     * user gives a number, and may change it between calls. */
    int threads;
    int same_bits;   /* results do not depend on the number of threads */
    qw_dtype prefer; /* of branches and LoRA factors: F32 or BF16; F64 on ref64 */
    qw_dtype wide;   /* of streams and of every 1-D operand: F32; F64 on ref64 */
    qw_dtype quant;  /* of branches that only gemms read: I8, or NONE where they are of `prefer` */

    /* Set by the core before it calls an op.  room: scratch of room_bytes, the number that
     * `scratch` returned, 256-byte aligned.  poll, unless NULL: a long op calls it every few tens
     * of milliseconds, on the thread that called the op, and returns QWEN_ECANCELLED when poll
     * returns nonzero. */
    void *room;
    size_t room_bytes;
    int (*poll)(void *user);
    void *poll_user;

    void (*close)(qw_device *);
    /* Returns the sentence of an asynchronous failure, after which every function of the device
     * fails, or NULL before one.  May be NULL where no work is asynchronous. */
    const char *(*failure)(qw_device *);

    /* Memory and queues.  A host device may leave these NULL; the core then sets its own. */
    int (*alloc)(qw_device *, size_t bytes, void **out); /* 256-byte aligned */
    void (*free)(qw_device *, void *);                   /* NULL is fine */
    /* The source may change when put returns; put does not wait for the compute queue. */
    int (*put)(qw_device *, int queue, void *dst, const void *src, size_t bytes);
    int (*get)(qw_device *, int queue, void *dst, const void *src, size_t bytes); /* waits */
    int (*mark)(qw_device *, int queue, uint64_t *ticket); /* the present end of the queue */
    int (*wait)(qw_device *, int queue, uint64_t ticket); /* later work of the queue waits for it */
    int (*sync)(qw_device *);                             /* the host waits for both queues */
    int (*lapse)(qw_device *, uint64_t from, uint64_t to, double *seconds);

    /* Weights.  packed and pack NULL: a host device uses weights where they lie, any other gets
     * their bytes by put.  packed returns the bytes of device memory that pack needs, or 0: the
     * weight is used where it lies.  pack writes dst [parts], copies of the originals before, each
     * with an address in `memory` and a layout of the device's own, not 0; the core sets `host`.  A
     * device may join parts with equal `rotated` to one matrix: then dst[0] is that matrix, the
     * other parts are absent, and gemm gets their biases and gates joined too. */
    size_t (*packed)(qw_device *, const qw_pack_request *);
    int (*pack)(qw_device *, int queue, qw_tensor *dst, void *memory, const qw_pack_request *);

    /* Bytes of `room` that this call of an op needs.  NULL: no op needs any.  Ops allocate no
     * device memory.  The plan device calls it too, with addresses at which there is no memory, and
     * for a weight that would be packed with a layout that no device has. */
    size_t (*scratch)(qw_device *, enum qw_op op, const void *args);

    /* Many ops as one piece of work; record NULL: the device records nothing.  Between BEGIN and
     * END the device keeps the ops without computing them, and the core calls only ops and scratch.
     * END stores the recording; DROP, and an END that fails, discard the kept ops.  QW_DECLINE from
     * BEGIN: the device cannot record now.  replay computes the ops of a recording with the same
     * addresses and shapes and the values that lie there now. */
    int (*record)(qw_device *, int what, uint64_t *recording);
    int (*replay)(qw_device *, uint64_t recording);
    void (*forget)(qw_device *, uint64_t recording);

    struct {
#define X(op)                                       \
    int (*op)(qw_device *, const qw_##op##_args *); \
    qw_arith op##_arith;
        QW_OPS(X)
#undef X
    } op; /* last: new operations are appended */
};

/* --- a backend -------------------------------------------------------------------------------- */

typedef struct qw_listing { /* a device that is not open */
    size_t size;
    char name[48];     /* the backend's, or that, a colon and more */
    char what[160];    /* one line: the hardware, the arithmetic */
    char identity[64]; /* PCI address or UUID; empty where there is none */
    char why_not[256]; /* why it cannot be used; empty: it can be used */
    double score;      /* the highest of the usable ones is the default; 0: never the default.
                        * ref 1, SIMD 10 to 99, GPUs 100 and up */
    uint64_t memory;   /* bytes; 0: unknown */
} qw_listing;

typedef struct qw_open_options {
    size_t size;
    int threads;     /* 0: all that this process may use */
    uint64_t memory; /* bytes of device memory to stay under; 0: what is free */
    char *why;       /* [why_size] for a sentence where open fails; may be NULL */
    size_t why_size;
} qw_open_options;

/* Any thread may call list and open, several at once. */
typedef struct qw_backend {
    size_t size;
    uint32_t abi;
    const char *name; /* a module with it is the file NAME.so */
    /* Describes device or variant i without opening it; QW_DECLINE past the last. */
    int (*list)(int i, qw_listing *out);
    int (*open)(int i, const qw_open_options *options, qw_device **out);
} qw_backend;

#if defined _WIN32
#define QW_EXPORT __declspec(dllexport)
#elif defined __GNUC__
#define QW_EXPORT __attribute__((visibility("default")))
#else
#define QW_EXPORT
#endif
extern const QW_EXPORT qw_backend qw_backend_module_v2; /* what a module exports */
#ifdef __cplusplus
}
#endif
#endif
