/* op.c - the op table: for each operation its operands, shape check, cost and case line.
 *
 * Dispatch checks a call before it calls a device, so that kernels check no argument.  A case line
 * is op/dtypes/options/shape, for example
 *
 *     gemm/bf16,q8_0/bias,gate,res/127x3072x64        shape m x n x k
 *
 * Dtypes come in the order given above each line function; trailing ones that equal their default
 * are left out.  doc/ops.md has the grammar; conform/cases.c reads the lines back. */
#include "core/run.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* --- sentences and lines ------------------------------------------------------------------- */

typedef struct text {
    char *out;
    size_t size, n;
} text;

static void add(text *t, const char *format, ...) QW_PRINTF(2, 3);
static void add(text *t, const char *format, ...)
{
    if (t->n + 1 >= t->size) return;
    va_list ap;
    va_start(ap, format);
    const int k = vsnprintf(t->out + t->n, t->size - t->n, format, ap);
    va_end(ap);
    if (k > 0) t->n += (size_t)k < t->size - t->n ? (size_t)k : t->size - t->n - 1;
}

/* A check: the name of the op, and the buffer of its one sentence. */
typedef struct check {
    const char *op;
    char *why;
    size_t size;
} check;

static int bad(const check *c, const char *format, ...) QW_PRINTF(2, 3);
static int bad(const check *c, const char *format, ...)
{
    text t = { c->why, c->size, 0 };
    add(&t, "%s: ", c->op);
    if (t.n >= c->size) return 1;
    va_list ap;
    va_start(ap, format);
    vsnprintf(c->why + t.n, c->size - t.n, format, ap);
    va_end(ap);
    return 1;
}

/* --- facts about operands ------------------------------------------------------------------ */

qw_tensor *qw_operand_of(const qw_operand *o, void *args)
{
    qw_tensor *t = (qw_tensor *)(void *)((char *)args + o->offset);
    return qw_present(t) ? t : NULL;
}

size_t qw_extent(const qw_tensor *t)
{
    if (t->rank < 1) return 0;
    int64_t before = 0; /* elements before the last run of the last dimension */
    for (int i = 0; i < t->rank - 1; i++) before += (t->dim[i] - 1) * t->stride[i];
    return qw_row_bytes(t->dtype, before) + qw_row_bytes(t->dtype, t->dim[t->rank - 1]);
}

size_t qw_scales(const qw_tensor *t)
{
    if (!t->scale) return 0;
    return t->scale_stride ? (size_t)((t->dim[0] - 1) * t->scale_stride + 1) : 1;
}

size_t qw_block_scale_bytes(const qw_tensor *t)
{
    if (!t->block_scale || (t->dtype != QW_MXFP8 && t->dtype != QW_NVFP4)) return 0;
    const int64_t blocks = t->dim[t->rank - 1] / qw_block_elements(t->dtype);
    return (size_t)((t->dim[0] + 127) / 128) * (size_t)((blocks + 3) / 4) * 512;
}

static size_t bytes_of(const qw_tensor *t)
{
    if (!qw_present(t)) return 0;
    int64_t rows = 1;
    for (int i = 0; i < t->rank - 1; i++) rows *= t->dim[i];
    return (size_t)rows * qw_row_bytes(t->dtype, t->dim[t->rank - 1]);
}

static int is_float(qw_dtype t)
{
    return t == QW_F64 || t == QW_F32 || t == QW_F16 || t == QW_BF16;
}
static int is_operand(qw_dtype t) { return t > QW_NONE && t < QW_U8 && t != QW_I32; }

/* Sets of dtypes that an operand may have. */
typedef enum kind { FLOATS, WIDE, ROWS, WEIGHT } kind;

static int kind_has(kind k, qw_dtype t)
{
    switch (k) {
    case FLOATS: return is_float(t);
    case WIDE: return t == QW_F32 || t == QW_F64;
    case ROWS: return is_float(t) || t == QW_I8;
    case WEIGHT: return is_operand(t);
    }
    return 0;
}

static const char *kind_text(kind k)
{
    switch (k) {
    case FLOATS: return "f64, f32, f16 or bf16";
    case WIDE: return "f32, or f64 on a device that is wide in f64";
    case ROWS: return "f64, f32, f16, bf16 or i8";
    case WEIGHT: return "a type that weights may have";
    }
    return "";
}

/* A present operand: address, rank, dtype, sizes, strides. */
static int bad_tensor(const check *c, const char *name, const qw_tensor *t, int rank, kind k)
{
    if (!qw_present(t)) return bad(c, "%s is missing", name);
    if (t->layout) { /* packed: rank, dtype and sizes are checked, strides are the device's */
        if (k != WEIGHT || !t->host)
            return bad(c, "%s is packed, but only a weight with its original may be", name);
    } else if (!t->data) return bad(c, "%s has no memory", name);
    if (t->rank != rank) return bad(c, "%s has %d dimensions instead of %d", name, t->rank, rank);
    if ((unsigned)t->dtype >= QW_NDTYPES || !kind_has(k, t->dtype))
        return bad(c, "%s is %s; it must be %s", name, qw_dtype_name(t->dtype), kind_text(k));
    int64_t inner = 1; /* the least stride of this dimension */
    const int64_t block = qw_block_elements(t->dtype);
    for (int i = rank - 1; i >= 0; i--) {
        if (t->dim[i] < 1 || t->dim[i] > INT64_C(1) << 40)
            return bad(c, "dimension %d of %s is %lld", i, name, (long long)t->dim[i]);
        if (t->layout) continue;
        if (i == rank - 1 ? t->stride[i] != 1 : t->dim[i] > 1 && t->stride[i] < inner)
            return bad(c, "stride %d of %s is %lld; it must be %s%lld", i, name,
                       (long long)t->stride[i], i == rank - 1 ? "" : "at least ", (long long)inner);
        if (t->dim[i] > 1 && i < rank - 1 && t->stride[i] % block)
            return bad(c,
                       "stride %d of %s is %lld, not a multiple of the %lld elements of a %s block",
                       i, name, (long long)t->stride[i], (long long)block, qw_dtype_name(t->dtype));
        inner = (t->dim[i] - 1) * (i == rank - 1 ? 1 : t->stride[i]) + (i == rank - 1 ? 1 : inner);
    }
    if (t->dim[rank - 1] % block)
        return bad(c, "rows of %s have %lld elements, not a multiple of the %lld of a %s block",
                   name, (long long)t->dim[rank - 1], (long long)block, qw_dtype_name(t->dtype));
    if (t->scale_stride != 0 && t->scale_stride != 1)
        return bad(c, "the scale stride of %s is %lld; it must be 0 or 1", name,
                   (long long)t->scale_stride);
    if (!t->layout && (t->dtype == QW_MXFP8 || t->dtype == QW_NVFP4) && !t->block_scale)
        return bad(c, "%s is %s without block scales", name, qw_dtype_name(t->dtype));
    return 0;
}

/* Rows that an op writes: floats, or codes with room for a scale of each row. */
static int bad_rows_out(const check *c, const qw_tensor *y)
{
    if (bad_tensor(c, "y", y, 2, ROWS)) return 1;
    if (y->dtype == QW_I8 && (!y->scale || (y->scale_stride != 1 && y->dim[0] > 1)))
        return bad(c, "y is i8 without room for a scale per row");
    return 0;
}

/* dim[i] of operand t must be `want`, a size of `whose`. */
static int bad_dim(const check *c, const char *name, const qw_tensor *t, int i, int64_t want,
                   const char *whose)
{
    if (t->dim[i] == want) return 0;
    return bad(c, "dimension %d of %s is %lld, but %s is %lld", i, name, (long long)t->dim[i],
               whose, (long long)want);
}

/* A vector [n] of f32 or f64; if optional, it may be absent. */
static int bad_vector(const check *c, const char *name, const qw_tensor *t, int64_t n,
                      const char *whose, int optional)
{
    if (optional && !qw_present(t)) return 0;
    return bad_tensor(c, name, t, 1, WIDE) || bad_dim(c, name, t, 0, n, whose);
}

static int same_shape(const check *c, const char *name, const qw_tensor *t, const qw_tensor *y)
{
    for (int i = 0; i < y->rank; i++)
        if (bad_dim(c, name, t, i, y->dim[i], "y's")) return 1;
    return 0;
}

/* A residual: absent, or y's shape. */
static int bad_res(const check *c, const qw_tensor *res, const qw_tensor *y)
{
    if (!qw_present(res)) return 0;
    return bad_tensor(c, "res", res, y->rank, FLOATS) || same_shape(c, "res", res, y);
}

static int same_view(const qw_tensor *a, const qw_tensor *b)
{
    if (a->data != b->data || a->dtype != b->dtype || a->rank != b->rank) return 0;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i] || (a->dim[i] > 1 && a->stride[i] != b->stride[i])) return 0;
    return 1;
}

/* Columns of one buffer interleave without sharing an element: same row step, disjoint windows of
 * it. */
static int share_memory(const qw_tensor *a, const qw_tensor *b)
{
    const uintptr_t pa = (uintptr_t)a->data, pb = (uintptr_t)b->data;
    if (pa + qw_extent(a) <= pb || pb + qw_extent(b) <= pa) return 0;
    if (a->rank < 2 || b->rank < 2) return 1;
    const size_t step = qw_row_bytes(a->dtype, a->stride[0]);
    if (!step || step != qw_row_bytes(b->dtype, b->stride[0])) return 1;
    qw_tensor ra = *a, rb = *b; /* one row of each */
    ra.dim[0] = rb.dim[0] = 1;
    const size_t wa = qw_extent(&ra), wb = qw_extent(&rb);
    const size_t offset = pb >= pa ? (size_t)(pb - pa) % step
                                   : (step - (size_t)(pa - pb) % step) % step;
    return !(offset >= wa && offset + wb <= step);
}

/* An output may not share memory with an input; if `same` is set, it may be the identical view. */
static int bad_alias(const check *c, const qw_tensor *y, const char *name, const qw_tensor *t,
                     int same)
{
    if (!qw_present(t) || t->layout) return 0;
    if (same && same_view(y, t)) return 0;
    if (!share_memory(y, t)) return 0;
    return bad(c, "y and %s overlap in memory%s", name, same ? " without being the same" : "");
}

static const char *act_name(qw_act a)
{
    switch (a) {
    case QW_ACT_NONE: return "none";
    case QW_SILU: return "silu";
    case QW_GELU_TANH: return "gelu_tanh";
    case QW_GELU_ERF: return "gelu_erf";
    }
    return NULL;
}

/* --- line helpers -------------------------------------------------------------------------- */

/* Options, comma between, '-' for none. */
typedef struct qw_words {
    text *t;
    int n;
} options;

static void option(options *o, int yes, const char *format, ...) QW_PRINTF(3, 4);
static void option(options *o, int yes, const char *format, ...)
{
    if (!yes) return;
    char word[80];
    va_list ap;
    va_start(ap, format);
    vsnprintf(word, sizeof word, format, ap);
    va_end(ap);
    add(o->t, "%s%s", o->n++ ? "," : "", word);
}

static void option_eps(options *o, double eps) { option(o, eps != 1e-6, "eps=%.17g", eps); }

static void option_scale(options *o, const char *name, const qw_tensor *t)
{
    option(o, t->scale && t->scale_stride == 0, "%s=one", name);
    option(o, t->scale && t->scale_stride == 1, "%s=row", name);
}

static qw_dtype float_of(qw_dtype t) { return is_float(t) ? t : QW_F32; }

/* --- gemm: y = res + gate * act(x wT + x2 w2T + bias) -------------------------------------- */

#define AT(op, member, role)                            \
    {                                                   \
#member, offsetof(qw_##op##_args, member), role \
    }
#define END        \
    {              \
        NULL, 0, 0 \
    }

static const qw_operand gemm_operands[] = { AT(gemm, y, QW_OUT),
                                            AT(gemm, x, QW_IN),
                                            AT(gemm, w, QW_WEIGHT),
                                            AT(gemm, x2, QW_IN | QW_OPTIONAL),
                                            AT(gemm, w2, QW_IN | QW_OPTIONAL),
                                            AT(gemm, bias, QW_IN | QW_OPTIONAL | QW_WIDE),
                                            AT(gemm, gate, QW_IN | QW_OPTIONAL | QW_WIDE),
                                            AT(gemm, res, QW_IN | QW_OPTIONAL),
                                            END };

static int gemm_check(const void *args, char *why, size_t size)
{
    const qw_gemm_args *a = args;
    const check c = { "gemm", why, size };
    if (bad_rows_out(&c, &a->y) || bad_tensor(&c, "x", &a->x, 2, ROWS)
        || bad_tensor(&c, "w", &a->w, 2, WEIGHT))
        return 1;
    if (a->y.dtype == QW_I8 && (qw_present(&a->gate) || qw_present(&a->res)))
        return bad(&c, "y is i8, which has no gate and no residual");
    const int64_t m = a->y.dim[0], n = a->y.dim[1], k = a->w.dim[1];
    if (bad_dim(&c, "x", &a->x, 0, m, "y's dimension 0")
        || bad_dim(&c, "w", &a->w, 0, n, "y's dimension 1")
        || bad_dim(&c, "x", &a->x, 1, k, "w's dimension 1"))
        return 1;
    if (qw_present(&a->x2) != qw_present(&a->w2))
        return bad(&c, "x2 and w2 come together or not at all");
    if (qw_present(&a->x2)) {
        if (bad_tensor(&c, "x2", &a->x2, 2, FLOATS) || bad_tensor(&c, "w2", &a->w2, 2, FLOATS)
            || bad_dim(&c, "x2", &a->x2, 0, m, "y's dimension 0")
            || bad_dim(&c, "w2", &a->w2, 0, n, "y's dimension 1")
            || bad_dim(&c, "x2", &a->x2, 1, a->w2.dim[1], "w2's dimension 1"))
            return 1;
    }
    if (bad_vector(&c, "bias", &a->bias, n, "y's dimension 1", 1)
        || bad_vector(&c, "gate", &a->gate, n, "y's dimension 1", 1) || bad_res(&c, &a->res, &a->y))
        return 1;
    if (!act_name(a->act)) return bad(&c, "%d is no activation", (int)a->act);
    return bad_alias(&c, &a->y, "x", &a->x, 0) || bad_alias(&c, &a->y, "w", &a->w, 0)
           || bad_alias(&c, &a->y, "x2", &a->x2, 0) || bad_alias(&c, &a->y, "w2", &a->w2, 0)
           || bad_alias(&c, &a->y, "bias", &a->bias, 0) || bad_alias(&c, &a->y, "gate", &a->gate, 0)
           || bad_alias(&c, &a->y, "res", &a->res, 1);
}

static void gemm_cost(const void *args, double *flops, double *bytes)
{
    const qw_gemm_args *a = args;
    const double m = (double)a->y.dim[0], n = (double)a->y.dim[1];
    const double k = (double)a->w.dim[1] + (qw_present(&a->w2) ? (double)a->w2.dim[1] : 0);
    *flops = 2 * m * n * k;
    *bytes = (double)(bytes_of(&a->y) + bytes_of(&a->x) + bytes_of(&a->w) + bytes_of(&a->x2)
                      + bytes_of(&a->w2) + bytes_of(&a->bias) + bytes_of(&a->gate)
                      + bytes_of(&a->res));
}

static const qw_form gemm_form = { { { "x", 0, 0 }, { "w", 0, 0 }, { "y", 0, 1 }, { "res", 2, 1 } },
                                   { { "m", "y", 0 }, { "n", "y", 1 }, { "k", "w", 1 } } };

static void gemm_options(const void *args, options *o)
{
    const qw_gemm_args *a = args;
    const int res = qw_present(&a->res), lora = qw_present(&a->x2);
    const qw_dtype x = float_of(a->x.dtype);
    option_scale(o, "scale", a->w.layout && a->w.host ? a->w.host : &a->w);
    option(o, qw_present(&a->bias), "bias");
    option(o, a->act != QW_ACT_NONE, "%s", act_name(a->act));
    option(o, qw_present(&a->gate), "gate");
    option(o, res, "%s", res && same_view(&a->res, &a->y) ? "inplace" : "res");
    option(o, lora, "lora=%lld", (long long)a->x2.dim[1]);
    option(o, lora && a->x2.dtype != x, "x2=%s", qw_dtype_name(a->x2.dtype));
    option(o, lora && a->w2.dtype != x, "w2=%s", qw_dtype_name(a->w2.dtype));
}

/* --- attention: y_i = sum_j softmax_j(scale q_i.k_j) v_j ----------------------------------- */

static const qw_operand attention_operands[] = { AT(attention, y, QW_OUT), AT(attention, q, QW_IN),
                                                 AT(attention, k, QW_IN), AT(attention, v, QW_IN),
                                                 END };

static int attention_ranges(const check *c, const qw_attention_args *a)
{
    if (!a->first && !a->last) return 0;
    if (!a->first || !a->last) return bad(c, "first and last come together or not at all");
    const int64_t nq = a->q.dim[0], nk = a->k.dim[0];
    for (int64_t i = 0; i < nq; i++) {
        if (a->first[i] < 0 || a->first[i] >= a->last[i] || a->last[i] > nk)
            return bad(c, "the keys of query %lld are %ld..%ld of %lld", (long long)i,
                       (long)a->first[i], (long)a->last[i], (long long)nk);
        if (i && (a->first[i] < a->first[i - 1] || a->last[i] < a->last[i - 1]))
            return bad(c, "the key range of query %lld goes back", (long long)i);
    }
    return 0;
}

static int attention_check(const void *args, char *why, size_t size)
{
    const qw_attention_args *a = args;
    const check c = { "attention", why, size };
    if (bad_tensor(&c, "y", &a->y, 3, FLOATS) || bad_tensor(&c, "q", &a->q, 3, FLOATS)
        || bad_tensor(&c, "k", &a->k, 3, FLOATS) || bad_tensor(&c, "v", &a->v, 3, FLOATS))
        return 1;
    if (same_shape(&c, "q", &a->q, &a->y) || bad_dim(&c, "k", &a->k, 2, a->q.dim[2], "q's")
        || bad_dim(&c, "v", &a->v, 0, a->k.dim[0], "k's")
        || bad_dim(&c, "v", &a->v, 1, a->k.dim[1], "k's")
        || bad_dim(&c, "v", &a->v, 2, a->k.dim[2], "k's"))
        return 1;
    if (a->q.dim[1] % a->k.dim[1])
        return bad(&c, "%lld query heads are not a multiple of %lld key heads",
                   (long long)a->q.dim[1], (long long)a->k.dim[1]);
    if (!(fabs(a->scale) <= 1e30)) return bad(&c, "the scale is %g", a->scale);
    return attention_ranges(&c, a) || bad_alias(&c, &a->y, "q", &a->q, 0)
           || bad_alias(&c, &a->y, "k", &a->k, 0) || bad_alias(&c, &a->y, "v", &a->v, 0);
}

static void attention_cost(const void *args, double *flops, double *bytes)
{
    const qw_attention_args *a = args;
    double pairs = (double)a->q.dim[0] * (double)a->k.dim[0];
    if (a->first) {
        pairs = 0;
        for (int64_t i = 0; i < a->q.dim[0]; i++) pairs += a->last[i] - a->first[i];
    }
    *flops = 4 * pairs * (double)a->q.dim[1] * (double)a->q.dim[2];
    *bytes = (double)(bytes_of(&a->y) + bytes_of(&a->q) + bytes_of(&a->k) + bytes_of(&a->v));
}

/* The word for the key ranges: causal, windows=W (equal ones, the last may be shorter), ranges. */
static void attention_word(options *o, const qw_attention_args *a)
{
    if (!a->first) return;
    const int64_t nq = a->q.dim[0], nk = a->k.dim[0], w = a->last[0];
    int causal = 1, windows = 1;
    for (int64_t i = 0; i < nq; i++) {
        causal = causal && a->first[i] == 0 && a->last[i] == nk - nq + i + 1;
        const int64_t end = (i / w + 1) * w;
        windows = windows && a->first[i] == i / w * w && a->last[i] == (end < nk ? end : nk);
    }
    option(o, causal, "causal");
    option(o, !causal && windows, "windows=%lld", (long long)w);
    option(o, !causal && !windows, "ranges");
}

static const qw_form attention_form = {
    { { "q", 0, 0 }, { "k", 0, 0 }, { "v", 1, 0 }, { "y", 0, 0 } },
    { { "nq", "q", 0 }, { "nk", "k", 0 }, { "hq", "q", 1 }, { "hk", "k", 1 }, { "d", "q", 2 } }
};

static void attention_options(const void *args, options *o)
{
    const qw_attention_args *a = args;
    attention_word(o, a);
    const double usual = 1 / sqrt((double)a->q.dim[2]);
    option(o, fabs(a->scale - usual) > 1e-15 * usual, "scale=%.17g", a->scale);
}

/* --- conv2d: y = res + up(x) * w + bias ---------------------------------------------------- */

static const qw_operand conv2d_operands[] = { AT(conv2d, y, QW_OUT),
                                              AT(conv2d, x, QW_IN),
                                              AT(conv2d, w, QW_WEIGHT),
                                              AT(conv2d, bias, QW_IN | QW_OPTIONAL | QW_WIDE),
                                              AT(conv2d, res, QW_IN | QW_OPTIONAL),
                                              END };

/* Every window must meet at least one pixel of the picture. */
static int conv2d_side(const check *c, const char *side, int64_t out, int64_t in, int64_t kernel,
                       int64_t before, int64_t stride)
{
    if (before < 0 || before >= kernel)
        return bad(c, "%lld pixels of padding before %s for a kernel of %lld", (long long)before,
                   side, (long long)kernel);
    if ((out - 1) * stride - before >= in)
        return bad(c, "output %s %lld lies beyond the input's %lld", side, (long long)out,
                   (long long)in);
    return 0;
}

static int conv2d_check(const void *args, char *why, size_t size)
{
    const qw_conv2d_args *a = args;
    const check c = { "conv2d", why, size };
    if (bad_tensor(&c, "y", &a->y, 3, FLOATS) || bad_tensor(&c, "x", &a->x, 3, FLOATS)
        || bad_tensor(&c, "w", &a->w, 4, WEIGHT))
        return 1;
    if (!a->w.layout && !is_float(a->w.dtype))
        return bad(&c, "w is %s; it must be %s", qw_dtype_name(a->w.dtype), kind_text(FLOATS));
    if (bad_dim(&c, "w", &a->w, 0, a->y.dim[2], "y's dimension 2")
        || bad_dim(&c, "w", &a->w, 3, a->x.dim[2], "x's dimension 2")
        || bad_vector(&c, "bias", &a->bias, a->y.dim[2], "y's dimension 2", 1)
        || bad_res(&c, &a->res, &a->y))
        return 1;
    if (a->up != 1 && a->up != 2) return bad(&c, "up is %d; it must be 1 or 2", a->up);
    if (a->stride < 1) return bad(&c, "the stride is %d", a->stride);
    return conv2d_side(&c, "row", a->y.dim[0], a->up * a->x.dim[0], a->w.dim[1], a->top, a->stride)
           || conv2d_side(&c, "column", a->y.dim[1], a->up * a->x.dim[1], a->w.dim[2], a->left,
                          a->stride)
           || bad_alias(&c, &a->y, "x", &a->x, 0) || bad_alias(&c, &a->y, "w", &a->w, 0)
           || bad_alias(&c, &a->y, "bias", &a->bias, 0) || bad_alias(&c, &a->y, "res", &a->res, 1);
}

static void conv2d_cost(const void *args, double *flops, double *bytes)
{
    const qw_conv2d_args *a = args;
    *flops = 2.0 * (double)a->y.dim[0] * (double)a->y.dim[1] * (double)a->y.dim[2]
             * (double)a->w.dim[1] * (double)a->w.dim[2] * (double)a->w.dim[3];
    *bytes = (double)(bytes_of(&a->y) + bytes_of(&a->x) + bytes_of(&a->w) + bytes_of(&a->bias)
                      + bytes_of(&a->res));
}

static const qw_form conv2d_form = {
    { { "x", 0, 0 }, { "w", 0, 0 }, { "y", 0, 0 }, { "res", 2, 0 } },
    { { "ho", "y", 0 },
      { "wo", "y", 1 },
      { "co", "y", 2 },
      { "hi", "x", 0 },
      { "wi", "x", 1 },
      { "ci", "x", 2 },
      { "kh", "w", 1 },
      { "kw", "w", 2 } }
};

static void conv2d_options(const void *args, options *o)
{
    const qw_conv2d_args *a = args;
    const int res = qw_present(&a->res);
    option(o, qw_present(&a->bias), "bias");
    option(o, res, "%s", res && same_view(&a->res, &a->y) ? "inplace" : "res");
    option(o, a->stride != 1, "stride=%d", a->stride);
    option(o, a->up != 1, "up=%d", a->up);
    option(o, a->top != 0, "top=%d", a->top);
    option(o, a->left != 0, "left=%d", a->left);
}

/* --- rms_norm: y = act(x / sqrt(mean x^2 + eps) * w) --------------------------------------- */

static const qw_operand rms_norm_operands[] = { AT(rms_norm, y, QW_OUT), AT(rms_norm, x, QW_IN),
                                                AT(rms_norm, w, QW_IN | QW_WIDE), END };

static int bad_eps(const check *c, double eps)
{
    return eps >= 0 && eps <= 1 ? 0 : bad(c, "eps is %g", eps);
}

static int rms_norm_check(const void *args, char *why, size_t size)
{
    const qw_rms_norm_args *a = args;
    const check c = { "rms_norm", why, size };
    if (bad_tensor(&c, "y", &a->y, 2, FLOATS) || bad_tensor(&c, "x", &a->x, 2, FLOATS)
        || same_shape(&c, "x", &a->x, &a->y)
        || bad_vector(&c, "w", &a->w, a->y.dim[1], "y's dimension 1", 0) || bad_eps(&c, a->eps))
        return 1;
    if (!act_name(a->act)) return bad(&c, "%d is no activation", (int)a->act);
    return bad_alias(&c, &a->y, "x", &a->x, 1) || bad_alias(&c, &a->y, "w", &a->w, 0);
}

static void rms_norm_cost(const void *args, double *flops, double *bytes)
{
    const qw_rms_norm_args *a = args;
    *flops = (a->act ? 8.0 : 4.0) * (double)qw_elements(&a->y);
    *bytes = (double)(bytes_of(&a->y) + bytes_of(&a->x) + bytes_of(&a->w));
}

static const qw_form rms_norm_form = { { { "x", 0, 0 }, { "y", 0, 0 } },
                                       { { "m", "y", 0 }, { "n", "y", 1 } } };

static void rms_norm_options(const void *args, options *o)
{
    const qw_rms_norm_args *a = args;
    option(o, a->act != QW_ACT_NONE, "%s", act_name(a->act));
    option(o, same_view(&a->x, &a->y), "inplace");
    option_eps(o, a->eps);
}

/* --- ln_mod: y = (x - mean) / sqrt(var + eps) * (1 + scale) + shift ------------------------ */

static const qw_operand ln_mod_operands[] = { AT(ln_mod, y, QW_OUT), AT(ln_mod, x, QW_IN),
                                              AT(ln_mod, scale, QW_IN | QW_OPTIONAL | QW_WIDE),
                                              AT(ln_mod, shift, QW_IN | QW_OPTIONAL | QW_WIDE),
                                              END };

static int ln_mod_check(const void *args, char *why, size_t size)
{
    const qw_ln_mod_args *a = args;
    const check c = { "ln_mod", why, size };
    if (bad_rows_out(&c, &a->y) || bad_tensor(&c, "x", &a->x, 2, FLOATS)
        || same_shape(&c, "x", &a->x, &a->y)
        || bad_vector(&c, "scale", &a->scale, a->y.dim[1], "y's dimension 1", 1)
        || bad_vector(&c, "shift", &a->shift, a->y.dim[1], "y's dimension 1", 1)
        || bad_eps(&c, a->eps))
        return 1;
    return bad_alias(&c, &a->y, "x", &a->x, 0) || bad_alias(&c, &a->y, "scale", &a->scale, 0)
           || bad_alias(&c, &a->y, "shift", &a->shift, 0);
}

static void ln_mod_cost(const void *args, double *flops, double *bytes)
{
    const qw_ln_mod_args *a = args;
    *flops = 8.0 * (double)qw_elements(&a->y);
    *bytes =
        (double)(bytes_of(&a->y) + bytes_of(&a->x) + bytes_of(&a->scale) + bytes_of(&a->shift));
}

static const qw_form ln_mod_form = { { { "x", 0, 0 }, { "y", 0, 0 } },
                                     { { "m", "y", 0 }, { "n", "y", 1 } } };

static void ln_mod_options(const void *args, options *o)
{
    const qw_ln_mod_args *a = args;
    option(o, qw_present(&a->scale), "scale");
    option(o, qw_present(&a->shift), "shift");
    option_eps(o, a->eps);
}

/* --- norm_rope: x = rotate(rms_norm(x) * w) in place, head by head ------------------------- */

static const qw_operand norm_rope_operands[] = { AT(norm_rope, x, QW_INOUT),
                                                 AT(norm_rope, w, QW_IN | QW_OPTIONAL | QW_WIDE),
                                                 AT(norm_rope, cos, QW_IN | QW_WIDE),
                                                 AT(norm_rope, sin, QW_IN | QW_WIDE), END };

static int norm_rope_check(const void *args, char *why, size_t size)
{
    const qw_norm_rope_args *a = args;
    const check c = { "norm_rope", why, size };
    if (bad_tensor(&c, "x", &a->x, 3, FLOATS)) return 1;
    const int64_t n = a->x.dim[0], d = a->x.dim[2];
    if (d % 2) return bad(&c, "the head size of x, %lld, is odd", (long long)d);
    if (bad_vector(&c, "w", &a->w, d, "x's dimension 2", 1)
        || bad_tensor(&c, "cos", &a->cos, 2, WIDE) || bad_tensor(&c, "sin", &a->sin, 2, WIDE)
        || bad_dim(&c, "cos", &a->cos, 0, n, "x's dimension 0")
        || bad_dim(&c, "sin", &a->sin, 0, n, "x's dimension 0")
        || bad_dim(&c, "cos", &a->cos, 1, d / 2, "half a head of x")
        || bad_dim(&c, "sin", &a->sin, 1, d / 2, "half a head of x") || bad_eps(&c, a->eps))
        return 1;
    if (a->pairing != QW_PAIRS && a->pairing != QW_HALVES)
        return bad(&c, "%d is no pairing", (int)a->pairing);
    if ((qw_present(&a->w) && share_memory(&a->x, &a->w)) || share_memory(&a->x, &a->cos)
        || share_memory(&a->x, &a->sin))
        return bad(&c, "x overlaps its tables in memory");
    return 0;
}

static void norm_rope_cost(const void *args, double *flops, double *bytes)
{
    const qw_norm_rope_args *a = args;
    *flops = (qw_present(&a->w) ? 7.0 : 3.0) * (double)qw_elements(&a->x);
    *bytes =
        (double)(2 * bytes_of(&a->x) + bytes_of(&a->w) + bytes_of(&a->cos) + bytes_of(&a->sin));
}

static const qw_form norm_rope_form = { { { "x", 0, 0 } },
                                        { { "n", "x", 0 }, { "h", "x", 1 }, { "d", "x", 2 } } };

static void norm_rope_options(const void *args, options *o)
{
    const qw_norm_rope_args *a = args;
    option(o, 1, a->pairing == QW_PAIRS ? "pairs" : "halves");
    option(o, qw_present(&a->w), "norm");
    if (qw_present(&a->w)) option_eps(o, a->eps);
}

/* --- swiglu: y = silu(x[:, :n]) x[:, n:] --------------------------------------------------- */

static const qw_operand swiglu_operands[] = { AT(swiglu, y, QW_OUT), AT(swiglu, x, QW_IN), END };

static int swiglu_check(const void *args, char *why, size_t size)
{
    const qw_swiglu_args *a = args;
    const check c = { "swiglu", why, size };
    return bad_tensor(&c, "y", &a->y, 2, FLOATS) || bad_tensor(&c, "x", &a->x, 2, FLOATS)
           || bad_dim(&c, "x", &a->x, 0, a->y.dim[0], "y's")
           || bad_dim(&c, "x", &a->x, 1, 2 * a->y.dim[1], "twice y's")
           || bad_alias(&c, &a->y, "x", &a->x, 0);
}

static void swiglu_cost(const void *args, double *flops, double *bytes)
{
    const qw_swiglu_args *a = args;
    *flops = 5.0 * (double)qw_elements(&a->y);
    *bytes = (double)(bytes_of(&a->y) + bytes_of(&a->x));
}

static const qw_form swiglu_form = { { { "x", 0, 0 }, { "y", 0, 0 } },
                                     { { "m", "y", 0 }, { "n", "y", 1 } } };

static void swiglu_options(const void *args, options *o)
{
    (void)args;
    (void)o;
}

/* --- convert: y = res + H x ---------------------------------------------------------------- */

static const qw_operand convert_operands[] = { AT(convert, y, QW_OUT), AT(convert, x, QW_IN),
                                               AT(convert, res, QW_IN | QW_OPTIONAL), END };

static int convert_check(const void *args, char *why, size_t size)
{
    const qw_convert_args *a = args;
    const check c = { "convert", why, size };
    if (bad_rows_out(&c, &a->y) || bad_tensor(&c, "x", &a->x, 2, WEIGHT)
        || same_shape(&c, "x", &a->x, &a->y) || bad_res(&c, &a->res, &a->y))
        return 1;
    if (a->x.layout) return bad(&c, "x is packed");
    if (a->rotate < 0) return bad(&c, "rotate is %d", a->rotate);
    if (a->rotate) {
        int g = a->rotate;
        while (g % 4 == 0) g /= 4;
        if (g != 1 || a->rotate == 1)
            return bad(&c, "rotate is %d; it must be a power of four", a->rotate);
        if (a->y.dim[1] % a->rotate)
            return bad(&c, "%lld columns are no multiple of the rotation's %d",
                       (long long)a->y.dim[1], a->rotate);
    }
    return bad_alias(&c, &a->y, "x", &a->x, 0) || bad_alias(&c, &a->y, "res", &a->res, 1);
}

static void convert_cost(const void *args, double *flops, double *bytes)
{
    const qw_convert_args *a = args;
    double each = qw_present(&a->res) ? 1 : 0;
    for (int g = a->rotate; g > 1; g /= 4) each += 4;
    *flops = each * (double)qw_elements(&a->y);
    *bytes = (double)(bytes_of(&a->y) + bytes_of(&a->x) + bytes_of(&a->res));
}

static const qw_form convert_form = { { { "x", 0, 0 }, { "y", 0, 0 }, { "res", 1, 1 } },
                                      { { "m", "y", 0 }, { "n", "y", 1 } } };

static void convert_options(const void *args, options *o)
{
    const qw_convert_args *a = args;
    const int res = qw_present(&a->res);
    option_scale(o, "scale", &a->x);
    option(o, a->rotate != 0, "rotate=%d", a->rotate);
    option(o, res, "%s", res && same_view(&a->res, &a->y) ? "inplace" : "res");
}

/* --- the table ----------------------------------------------------------------------------- */

#define X(name)                                                     \
    static int name##_call(qw_device *dev, const void *args)        \
    {                                                               \
        return dev->op.name ? dev->op.name(dev, args) : QW_DECLINE; \
    }
QW_OPS(X)
#undef X

const qw_op_info qw_op_table[QW_NOPS] = {
#define X(op)                                                                   \
    { #op,       sizeof(qw_##op##_args), op##_operands, &op##_form, op##_check, \
      op##_cost, op##_options,           op##_call },
    QW_OPS(X)
#undef X
};

/* --- a call as a line ------------------------------------------------------------------------ */

static const qw_tensor *operand_named(const qw_op_info *info, const char *name, const void *args)
{
    for (const qw_operand *o = info->operand; o->name; o++)
        if (!strcmp(o->name, name))
            return (const qw_tensor *)(const void *)((const char *)args + o->offset);
    return NULL;
}

qw_dtype qw_form_default(const qw_form *f, const qw_dtype *t, int i)
{
    const qw_dtype like = t[f->type[i].like];
    return f->type[i].floats ? float_of(like) : like;
}

void qw_op_line(enum qw_op op, const void *args, char *out, size_t size)
{
    const qw_op_info *info = &qw_op_table[op];
    const qw_form *f = info->form;
    text t = { out, size, 0 };
    qw_dtype have[QW_FORM_TYPES];
    int n = 0, last = 1;
    if (size) out[0] = 0;
    for (; n < QW_FORM_TYPES && f->type[n].operand; n++) {
        const qw_tensor *o = operand_named(info, f->type[n].operand, args);
        have[n] = qw_present(o) ? o->dtype : QW_NONE;
        if (n && !qw_present(o)) have[n] = qw_form_default(f, have, n);
        if (n && have[n] != qw_form_default(f, have, n)) last = n + 1;
    }
    add(&t, "%s/", info->name);
    for (int i = 0; i < last; i++) add(&t, "%s%s", i ? "," : "", qw_dtype_name(have[i]));
    add(&t, "/");
    options o = { &t, 0 };
    info->options(args, &o);
    add(&t, o.n ? "/" : "-/");
    for (int i = 0; i < QW_FORM_SIZES && f->size[i].name; i++)
        add(&t, "%s%lld", i ? "x" : "",
            (long long)operand_named(info, f->size[i].operand, args)->dim[f->size[i].dim]);
}
