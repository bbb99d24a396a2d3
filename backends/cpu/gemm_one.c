/* gemm_one.c - linear layers for one row of x: dot products along k, from rows of w as they lie.
 *
 * The time is that of reading w once, so each run of 32 elements is decoded into registers and
 * multiplied with x, which is laid in scratch as floats (for products of bf16 pairs as bf16) with
 * zeros up to a whole run.  Threads take groups of rows of w and read one row after the other:
 * several at a time are read more slowly.  A sum is that of the lanes of PARTS vectors; its order
 * follows from k. */
#include "gemm.h"
#include "gemm_decode.h"

enum { GROUP = 64 };
/* Parts of a sum: a product need not wait for the one before. */
enum { PARTS = 4 };
#if defined __AVX512F__
#define UNROLL_RUNS UNROLL(8)
#else
#define UNROLL_RUNS UNROLL(2)
#endif

/* The operands of a product: rows of w, x [k] with zeros up to a whole run, sums [count] (+)=. */
typedef struct dots {
    const char *w;
    size_t step; /* bytes between rows of w */
    int64_t count, k;
    const void *x;
    float *sums;
    int more;
} dots;

INLINE void put_sum(const dots *d, int64_t j, const vf *part)
{
    const vf sum = v_add(v_add(part[0], part[1]), v_add(part[2], part[3]));
    d->sums[j] = v_sum(sum) + (d->more ? d->sums[j] : 0);
}

/* s [PARTS] += `runs` runs of a row of w, which begin at `at`, times x. */
INLINE void add_runs(const qw_dtype t, const int runs, const uint8_t *at, const float *x, vf *s)
{
    const int64_t apart = step_elements(t) == RUN ? step_bytes(t) : 0; /* bytes between runs */
    scales by;
    UNROLL_RUNS
    for (int b = 0; b < runs; b++) {
        vf w[RUN_VECTORS];
        if (apart || b == 0) step_scales(t, at + b * apart, &by);
        decode_run(t, at + b * apart, apart ? 0 : b, &by, w);
        UNROLL(8)
        for (int v = 0; v < RUN_VECTORS; v++) {
            vf *to = &s[(b * RUN_VECTORS + v) % PARTS];
            *to = v_fma(w[v], v_load(x + b * RUN + v * VL), *to);
        }
    }
}

INLINE void row_dot(const qw_dtype t, const dots *d, int64_t j)
{
    const int64_t bytes = step_bytes(t);
    const int plain = step_elements(t) == RUN, runs = plain ? 4 : 8;
    const float *x = d->x;
    const uint8_t *at = (const uint8_t *)d->w + (size_t)j * d->step;
    vf s[PARTS] = { v_set(0), v_set(0), v_set(0), v_set(0) };
    int64_t l = 0;
    for (; l + runs * RUN <= d->k; l += runs * RUN, at += plain ? runs * bytes : bytes)
        add_runs(t, runs, at, x + l, s);
    for (; plain && l < d->k; l += RUN, at += bytes) {
        uint8_t last[RUN * 4] = { 0 };
        if (d->k - l < RUN) memcpy(last, at, (size_t)((d->k - l) * bytes / RUN));
        add_runs(t, 1, d->k - l < RUN ? last : at, x + l, s);
    }
    put_sum(d, j, s);
}

#define QW_DOTS(name, type)                                         \
    static void name(const dots *d)                                 \
    {                                                               \
        for (int64_t j = 0; j < d->count; j++) row_dot(type, d, j); \
    }
QW_DOTS(dots_f32, QW_F32)
QW_DOTS(dots_f16, QW_F16)
QW_DOTS(dots_bf16, QW_BF16)
QW_DOTS(dots_f8e4m3, QW_F8E4M3)
QW_DOTS(dots_f8e5m2, QW_F8E5M2)
QW_DOTS(dots_i8, QW_I8)
QW_DOTS(dots_q8_0, QW_Q8_0)
QW_DOTS(dots_q4_0, QW_Q4_0)
QW_DOTS(dots_q4_k, QW_Q4_K)
QW_DOTS(dots_q5_k, QW_Q5_K)
QW_DOTS(dots_q6_k, QW_Q6_K)

#ifdef VEC_BF16_PAIRS
/* The same with pairs of bf16. */
static void dots_pairs(const dots *d)
{
    const uint16_t *x = d->x;
    for (int64_t j = 0; j < d->count; j++) {
        const char *row = d->w + (size_t)j * d->step;
        vf s[PARTS] = { v_set(0), v_set(0), v_set(0), v_set(0) };
        int64_t l = 0;
        for (; l + PARTS * RUN <= d->k; l += PARTS * RUN) UNROLL(4)
        for (int b = 0; b < PARTS; b++)
            s[b] = v_dot2(s[b], v_pairs(row + 2 * (l + b * RUN)), v_pairs(x + l + b * RUN));
        for (; l < d->k; l += RUN)
            s[0] = v_dot2(s[0], (vb)v_words(row + 2 * l, d->k - l), v_pairs(x + l));
        put_sum(d, j, s);
    }
}
#endif

static void product(qw_dtype t, int pairs, const dots *d)
{
#ifdef VEC_BF16_PAIRS
    if (pairs) {
        dots_pairs(d);
        return;
    }
#endif
    (void)pairs;
    switch (t) {
    case QW_F32: dots_f32(d); break;
    case QW_F16: dots_f16(d); break;
    case QW_BF16: dots_bf16(d); break;
    case QW_F8E4M3: dots_f8e4m3(d); break;
    case QW_F8E5M2: dots_f8e5m2(d); break;
    case QW_I8: dots_i8(d); break;
    case QW_Q8_0: dots_q8_0(d); break;
    case QW_Q4_0: dots_q4_0(d); break;
    case QW_Q4_K: dots_q4_k(d); break;
    case QW_Q5_K: dots_q5_k(d); break;
    case QW_Q6_K: dots_q6_k(d); break;
    default: break;
    }
}

typedef struct plan {
    int64_t n, k, r;
    int pairs, pairs2; /* products of bf16 pairs */
    int threads;
    size_t x, x2, bytes; /* of x, x2, all */
} plan;

static size_t row_bytes(int64_t k, int pairs)
{
    return cpu_line((size_t)((k + RUN - 1) / RUN * RUN) * (pairs ? 2 : 4));
}

static plan plan_of(const cpu_device *dev, const qw_gemm_args *a)
{
    plan p = { .n = a->y.dim[1], .k = a->x.dim[1], .r = qw_present(&a->x2) ? a->x2.dim[1] : 0 };
#ifdef VEC_BF16_PAIRS
    p.pairs = dev->pairs && a->x.dtype == QW_BF16 && a->w.dtype == QW_BF16;
    p.pairs2 = dev->pairs && p.r && a->x2.dtype == QW_BF16 && a->w2.dtype == QW_BF16;
#endif
    p.x = row_bytes(p.k, p.pairs);
    p.x2 = row_bytes(p.r, p.pairs2);
    p.threads = cpu_threads(&dev->d, 8 * (double)p.n * (double)(p.k + p.r));
    p.bytes = p.x + p.x2 + 64;
    return p;
}

int QW_NAME(gemm_one_takes)(const qw_gemm_args *a)
{
    return a->y.dim[0] == 1 && step_bytes(a->w.dtype);
}

size_t QW_NAME(gemm_one_scratch)(const cpu_device *dev, const qw_gemm_args *a)
{
    return plan_of(dev, a).bytes;
}

/* The row of t as floats or bf16, with zeros up to a whole run. */
static void lay(const qw_tensor *t, int pairs, void *out)
{
    const int64_t k = t->dim[1];
    const size_t bytes = row_bytes(k, pairs);
    if (pairs) {
        memcpy(out, t->data, (size_t)k * 2);
        memset((char *)out + (size_t)k * 2, 0, bytes - (size_t)k * 2);
        return;
    }
    for (int64_t l = 0; l < (int64_t)bytes / 4; l += VL)
        v_store((float *)out + l, v_get(t->dtype, t->data, l, v_first(k - l)));
}

/* Rows j .. j + count of w. */
static void group(const qw_gemm_args *a, const plan *p, int64_t j, int64_t count, const void *x,
                  const void *x2)
{
    float sums[GROUP];
    dots d = { .step = qw_row_bytes(a->w.dtype, a->w.stride[0]), .count = count, .k = p->k };
    d.w = (const char *)a->w.data + (size_t)j * d.step;
    d.x = x;
    d.sums = sums;
    product(a->w.dtype, p->pairs, &d);
    for (int64_t q = 0; a->w.scale && q < count; q++) sums[q] *= QW_NAME(row_scale)(&a->w, j + q);
    if (p->r) {
        d.step = qw_row_bytes(a->w2.dtype, a->w2.stride[0]);
        d.w = (const char *)a->w2.data + (size_t)j * d.step;
        d.x = x2;
        d.k = p->r;
        d.more = 1;
        product(a->w2.dtype, p->pairs2, &d);
    }
    QW_NAME(finish_row)(a, 0, j, count, sums);
}

int QW_NAME(gemm_one)(qw_device *d, const qw_gemm_args *a)
{
    const plan p = plan_of((const cpu_device *)d, a);
    if (d->room_bytes < p.bytes) return QWEN_ENOMEM;
    char *x = (char *)(((uintptr_t)d->room + 63) & ~(uintptr_t)63), *x2 = x + p.x;
    int stop = 0;
    lay(&a->x, p.pairs, x);
    if (p.r) lay(&a->x2, p.pairs2, x2);
    CPU_OMP(parallel for schedule(dynamic) num_threads(p.threads))
    for (int64_t j = 0; j < p.n; j += GROUP)
        if (!cpu_stopped(d, &stop)) group(a, &p, j, p.n - j < GROUP ? p.n - j : GROUP, x, x2);
    return stop ? QWEN_ECANCELLED : QWEN_OK;
}
