/* gemm_unpack.c - rows of a weight, as they lie in the file, to rows of floats or of bf16. */
#include "gemm.h"
#include "gemm_decode.h"

int QW_NAME(unpacks)(const qw_tensor *w)
{
    switch (w->dtype) {
    case QW_F32:
    case QW_F16:
    case QW_BF16:
    case QW_F8E4M3:
    case QW_F8E5M2:
    case QW_I8:
    case QW_Q8_0:
    case QW_Q4_0:
    case QW_Q4_1:
    case QW_Q5_0:
    case QW_Q5_1:
    case QW_Q2_K:
    case QW_Q3_K:
    case QW_Q4_K:
    case QW_Q5_K:
    case QW_Q6_K: return !w->layout && !w->block_scale;
    default: return 0;
    }
}

static const uint8_t *row_at(const qw_tensor *w, int64_t j)
{
    return (const uint8_t *)w->data + (size_t)j * qw_row_bytes(w->dtype, w->stride[0]);
}

INLINE void put_f32(float *out, int64_t n, const vf *w)
{
    UNROLL(8)
    for (int v = 0; v < RUN_VECTORS; v++)
        if (n == RUN) v_store(out + v * VL, w[v]);
        else v_store_n(out + v * VL, v_first(n - v * VL), w[v]);
}

/* None of the types has subnormal values of f32, which the instruction makes zero. */
INLINE void put_bf16(uint16_t *out, int64_t n, const vf *w)
{
#ifdef VEC_BF16_PAIRS
    if (n == RUN) {
        v_store_bf16_two(out, w[0], w[1]);
        return;
    }
#endif
    for (int v = 0; v < RUN_VECTORS; v++) v_store_bf16_n(out + v * VL, v_first(n - v * VL), w[v]);
}

/* `count` elements of a row from `at`, as runs of 32: floats at f, or bf16 at h.  The last run of a
 * plain type may be partial. */
INLINE void decode(const qw_dtype t, const uint8_t *at, int64_t count, float *f, uint16_t *h)
{
    const int64_t elements = step_elements(t), bytes = step_bytes(t);
    for (int64_t l = 0; l < count; l += elements, at += bytes) {
        uint8_t last[RUN * 4] = { 0 };
        const int64_t left = count - l;
        const int partial = elements == RUN && left < RUN;
        const uint8_t *from = at;
        if (partial) from = memcpy(last, at, (size_t)(left * bytes / RUN));
        scales by;
        step_scales(t, from, &by);
        UNROLL(8)
        for (int b = 0; b < elements / RUN; b++) {
            vf w[RUN_VECTORS];
            decode_run(t, from, b, &by, w);
            if (h) put_bf16(h + l + b * RUN, partial ? left : RUN, w);
            else put_f32(f + l + b * RUN, partial ? left : RUN, w);
        }
    }
}

/* The same with one loop for each type; types without vectors as in lib/core. */
#define QW_DECODE(type) \
    case type: decode(type, at, count, f, h); break;
static void decode_as_f32(qw_dtype t, const uint8_t *at, int64_t count, float *f)
{
    uint16_t *const h = NULL;
    switch (t) {
        QW_DECODE(QW_F16)
        QW_DECODE(QW_BF16)
        QW_DECODE(QW_F8E4M3)
        QW_DECODE(QW_F8E5M2)
        QW_DECODE(QW_I8)
        QW_DECODE(QW_Q8_0)
        QW_DECODE(QW_Q4_0)
        QW_DECODE(QW_Q4_K)
        QW_DECODE(QW_Q5_K)
        QW_DECODE(QW_Q6_K)
    default: qw_decode_f32(t, at, count, f); break;
    }
}

void QW_NAME(unpack_f32)(const qw_tensor *w, int64_t j, int64_t rows, int64_t l, int64_t count,
                         float *out, int64_t ld)
{
    for (int64_t i = 0; i < rows; i++)
        decode_as_f32(w->dtype, row_at(w, j + i) + qw_row_bytes(w->dtype, l), count, out + i * ld);
}

/* Types without vectors by floats, a step at a time. */
static void decode_slowly(qw_dtype t, const uint8_t *at, int64_t count, uint16_t *h)
{
    enum { CHUNK = 256 };
    for (int64_t c = 0; c < count; c += CHUNK) {
        float f[CHUNK];
        const int64_t n = count - c < CHUNK ? count - c : CHUNK;
        qw_decode_f32(t, at + qw_row_bytes(t, c), n, f);
        for (int64_t e = 0; e < n; e += VL) {
            const vm m = v_first(n - e);
            v_store_bf16_n(h + c + e, m, v_load_n(f + e, m));
        }
    }
}

static void decode_as_bf16(qw_dtype t, const uint8_t *at, int64_t count, uint16_t *h)
{
    float *const f = NULL;
    switch (t) {
        QW_DECODE(QW_F8E4M3)
        QW_DECODE(QW_F8E5M2)
        QW_DECODE(QW_I8)
        QW_DECODE(QW_Q8_0)
        QW_DECODE(QW_Q4_0)
        QW_DECODE(QW_Q4_K)
        QW_DECODE(QW_Q5_K)
        QW_DECODE(QW_Q6_K)
    case QW_BF16: memcpy(h, at, (size_t)count * sizeof *h); break;
    default: decode_slowly(t, at, count, h); break;
    }
}

void QW_NAME(unpack_bf16)(const qw_tensor *w, int64_t j, int64_t rows, int64_t l, int64_t count,
                          uint16_t *out, int64_t ld)
{
    for (int64_t i = 0; i < rows; i++) {
        if (count % 2) out[i * ld + count] = 0;
        decode_as_bf16(w->dtype, row_at(w, j + i) + qw_row_bytes(w->dtype, l), count, out + i * ld);
    }
}

float QW_NAME(row_scale)(const qw_tensor *w, int64_t j)
{
    float s = 1; /* like the data it need not be aligned */
    if (w->scale)
        memcpy(&s, (const char *)w->scale + (size_t)(j * w->scale_stride) * sizeof s, sizeof s);
    return s;
}
