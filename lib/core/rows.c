/* rows.c - rows of any type to numbers and back: the one place that reads weights and that rounds
 * doubles to stored types.
 *
 * A row is a run of the last dimension.  Its values are code x scale: a scale of the tensor or of
 * the row (F8, I8, the second scale of NVFP4), scales of blocks (MXFP8, NVFP4), and those inside of
 * GGUF's blocks, which decode.c applies.  Rounding is once, to nearest even, from double. */
#include <math.h>
#include <qwen/tensor.h>
#include <string.h>

enum { PART = 256 }; /* elements decoded at a time: a multiple of every block */

/* --- reading ---------------------------------------------------------------------------------- */

/* n values v of a type from any address, each as a double. */
#define WIDEN(type, number)                                                      \
    for (int64_t i = 0; i < n; i++) {                                            \
        type v;                                                                  \
        memcpy(&v, (const unsigned char *)src + (size_t)i * sizeof v, sizeof v); \
        x[i] = (double)number;                                                   \
    }                                                                            \
    return;

void qw_numbers_get(qw_dtype t, const void *src, int64_t n, double *x)
{
    float part[PART];
    switch (t) {
    case QW_F64: memcpy(x, src, (size_t)n * sizeof *x); return;
    case QW_F32: WIDEN(float, v)
    case QW_F16: WIDEN(uint16_t, qw_f16_to_f32(v))
    case QW_BF16: WIDEN(uint16_t, qw_bf16_to_f32(v))
    case QW_I32: WIDEN(int32_t, v)
    case QW_I64: WIDEN(int64_t, v)
    case QW_U32: WIDEN(uint32_t, v)
    case QW_U64: WIDEN(uint64_t, v)
    default: break;
    }
    for (int64_t at = 0; at < n; at += PART) {
        const int64_t m = n - at < PART ? n - at : PART;
        qw_decode_f32(t, (const unsigned char *)src + qw_row_bytes(t, at), m, part);
        for (int64_t e = 0; e < m; e++) x[at + e] = (double)part[e];
    }
}

/* The scale of row i; like the data it need not be aligned. */
static double row_scale(const qw_tensor *t, int64_t i)
{
    float s = 1;
    const size_t at = (size_t)(i * t->scale_stride) * sizeof s;
    if (t->scale) memcpy(&s, (const char *)t->scale + at, sizeof s);
    return (double)s;
}

/* MXFP8: 2^(e - 127) for 32 elements; NVFP4: an e4m3 number for 16. */
static void apply_block_scales(const qw_tensor *t, int64_t i, double *x)
{
    const int64_t size = qw_block_elements(t->dtype), blocks = t->dim[t->rank - 1] / size;
    const uint8_t *scales = t->block_scale;
    for (int64_t b = 0; b < blocks; b++) {
        const uint8_t code = scales[qw_block_scale_at(i, b, blocks)];
        const float s = t->dtype == QW_MXFP8 ? qw_f8e8m0_to_f32(code) : qw_f8e4m3_to_f32(code);
        for (int64_t e = b * size; e < (b + 1) * size; e++) x[e] *= (double)s;
    }
}

void qw_row_get(const qw_tensor *t, int64_t i, int64_t j, int64_t k, double *x)
{
    const int64_t n = t->dim[t->rank - 1];
    qw_numbers_get(t->dtype, qw_at(t, i, j, k, 0), n, x);
    if (t->block_scale) apply_block_scales(t, i, x);
    if (!t->scale) return;
    const double s = row_scale(t, i);
    for (int64_t e = 0; e < n; e++) x[e] *= s;
}

/* --- writing ---------------------------------------------------------------------------------- */

/* x to f32, rounded to odd: an inexact result gets its last bit set, so that a second rounding to
 * fewer bits gives the result of a single rounding (Boldo and Melquiond 2008). */
static float to_odd(double x)
{
    float f = (float)x;
    if ((double)f == x || f != f) return f;
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if (fabs((double)f) > fabs(x)) u--;
    u |= 1;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* n doubles to any address, each as `code` of x. */
#define NARROW(type, code)                                                 \
    for (int64_t i = 0; i < n; i++) {                                      \
        const type v = code;                                               \
        memcpy((unsigned char *)dst + (size_t)i * sizeof v, &v, sizeof v); \
    }                                                                      \
    return;

void qw_numbers_put(qw_dtype t, const double *x, int64_t n, void *dst)
{
    switch (t) {
    case QW_F64: memcpy(dst, x, (size_t)n * sizeof *x); return;
    case QW_F32: NARROW(float, (float)x[i])
    case QW_F16: NARROW(uint16_t, qw_f32_to_f16(to_odd(x[i])))
    case QW_BF16: NARROW(uint16_t, qw_f32_to_bf16(to_odd(x[i])))
    case QW_F8E4M3: NARROW(uint8_t, qw_f32_to_f8e4m3(to_odd(x[i])))
    case QW_F8E5M2: NARROW(uint8_t, qw_f32_to_f8e5m2(to_odd(x[i])))
    case QW_I32: NARROW(int32_t, (int32_t)fmin(fmax(rint(x[i]), INT32_MIN), INT32_MAX))
    default: return;
    }
}

int qw_stores_numbers(qw_dtype t)
{
    return t == QW_F64 || t == QW_F32 || t == QW_F16 || t == QW_BF16 || t == QW_F8E4M3
           || t == QW_F8E5M2 || t == QW_I32;
}

float qw_row_quantise(const double *x, int64_t n, int8_t *code)
{
    double most = 0;
    for (int64_t e = 0; e < n; e++)
        if (fabs(x[e]) > most || x[e] != x[e]) most = fabs(x[e]);
    float s = (float)(most / 127);
    if (s < 1e-30f) s = 1e-30f;
    for (int64_t e = 0; e < n; e++) {
        const double q = isfinite(s) ? rint(x[e] / (double)s) : 0;
        code[e] = (int8_t)(q > 127 ? 127 : q < -128 ? -128 : q);
    }
    return s;
}

void qw_row_put(const qw_tensor *t, int64_t i, int64_t j, int64_t k, const double *x)
{
    const int64_t n = t->dim[t->rank - 1];
    void *p = qw_at(t, i, j, k, 0);
    if (t->dtype == QW_I8)
        ((float *)(uintptr_t)t->scale)[i * t->scale_stride] = qw_row_quantise(x, n, p);
    else qw_numbers_put(t->dtype, x, n, p);
}

/* --- the rotated basis ------------------------------------------------------------------------ */

/* A factor H4/2 for each base-4 digit of the position, H4 being 1 but for -1 on its second
 * diagonal: with t half the sum of the four, the product is t minus each in reverse order. */
void qw_hadamard(double *x, int64_t n, int64_t group)
{
    for (int64_t s = 1; s < group; s *= 4)
        for (int64_t i = 0; i < n; i++) {
            if (i / s % 4) continue; /* i: the place whose digit is 0 */
            double *p = x + i;
            const double a = p[0], b = p[s], c = p[2 * s], d = p[3 * s], t = (a + b + c + d) / 2;
            p[0] = t - d;
            p[s] = t - c;
            p[2 * s] = t - b;
            p[3 * s] = t - a;
        }
}

void qw_weight_row(const qw_tensor *w, int64_t i, double *x)
{
    qw_row_get(w, i, 0, 0, x);
    qw_hadamard(x, w->dim[1], w->rotated);
}
