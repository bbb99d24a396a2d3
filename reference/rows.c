/* rows.c - rows of any type to doubles and back, threads, sums. */
#include "rows.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

enum {
    PART = 256, /* elements decoded at a time: a multiple of every block */
    WORTH = 1 << 18
}; /* multiplications that are worth a thread */

/* --- reading ----------------------------------------------------------------------------- */

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

void ref_get(const qw_tensor *t, int64_t i, int64_t j, int64_t k, double *x)
{
    const int64_t n = t->dim[t->rank - 1];
    const unsigned char *p = qw_at(t, i, j, k, 0);
    if (t->dtype == QW_F64) {
        memcpy(x, p, (size_t)n * sizeof *x);
        return;
    }
    float part[PART];
    for (int64_t at = 0; at < n; at += PART) {
        const int64_t m = n - at < PART ? n - at : PART;
        qw_decode_f32(t->dtype, p + qw_row_bytes(t->dtype, at), m, part);
        for (int64_t e = 0; e < m; e++) x[at + e] = (double)part[e];
    }
    if (t->block_scale) apply_block_scales(t, i, x);
    if (!t->scale) return;
    const double s = row_scale(t, i);
    for (int64_t e = 0; e < n; e++) x[e] *= s;
}

double ref_get1(const qw_tensor *t, int64_t i, int64_t j, double absent)
{
    if (!qw_present(t)) return absent;
    const void *p = qw_at(t, i, j, 0, 0);
    switch (t->dtype) {
    case QW_F64: return *(const double *)p;
    case QW_F16: return (double)qw_f16_to_f32(*(const uint16_t *)p);
    case QW_BF16: return (double)qw_bf16_to_f32(*(const uint16_t *)p);
    default: return (double)*(const float *)p;
    }
}

/* --- writing ----------------------------------------------------------------------------- */

/* x to f32, rounded to odd: what is not exact gets its last bit set, so that a second rounding to
 * fewer bits gives what one rounding would have (Boldo and Melquiond 2008). */
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

static void store(qw_dtype t, void *p, double x)
{
    switch (t) {
    case QW_F64: *(double *)p = x; break;
    case QW_F16: *(uint16_t *)p = qw_f32_to_f16(to_odd(x)); break;
    case QW_BF16: *(uint16_t *)p = qw_f32_to_bf16(to_odd(x)); break;
    default: *(float *)p = (float)x; break;
    }
}

/* s = max|x| / 127 in f32, at least 1e-30; codes x / s to nearest even.  A row that is not finite
 * gets a scale that is not, and codes 0. */
static void quantise(const qw_tensor *t, int64_t i, const double *x, int8_t *code)
{
    const int64_t n = t->dim[t->rank - 1];
    double most = 0;
    for (int64_t e = 0; e < n; e++)
        if (fabs(x[e]) > most || x[e] != x[e]) most = fabs(x[e]);
    float s = (float)(most / 127);
    if (s < 1e-30f) s = 1e-30f;
    ((float *)(uintptr_t)t->scale)[i * t->scale_stride] = s;
    for (int64_t e = 0; e < n; e++) {
        const double q = isfinite(s) ? rint(x[e] / (double)s) : 0;
        code[e] = (int8_t)(q > 127 ? 127 : q < -128 ? -128 : q);
    }
}

void ref_put(const qw_tensor *t, int64_t i, int64_t j, int64_t k, const double *x)
{
    const int64_t n = t->dim[t->rank - 1];
    char *p = qw_at(t, i, j, k, 0);
    if (t->dtype == QW_I8) {
        quantise(t, i, x, (int8_t *)p);
        return;
    }
    const size_t size = qw_block_bytes(t->dtype);
    for (int64_t e = 0; e < n; e++) store(t->dtype, p + (size_t)e * size, x[e]);
}

void ref_put1(const qw_tensor *t, int64_t i, int64_t j, double x)
{
    store(t->dtype, qw_at(t, i, j, 0, 0), x);
}

/* --- sums and functions ------------------------------------------------------------------ */

double ref_dot(const double *a, const double *b, int64_t n)
{
    double s[8] = { 0 };
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) { /* written out: compilers then use what vectors they have */
        s[0] += a[i] * b[i];
        s[1] += a[i + 1] * b[i + 1];
        s[2] += a[i + 2] * b[i + 2];
        s[3] += a[i + 3] * b[i + 3];
        s[4] += a[i + 4] * b[i + 4];
        s[5] += a[i + 5] * b[i + 5];
        s[6] += a[i + 6] * b[i + 6];
        s[7] += a[i + 7] * b[i + 7];
    }
    for (int l = 0; i + l < n; l++) s[l] += a[i + l] * b[i + l];
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

/* SiLU: x sigmoid(x).  GELU (Hendrycks and Gimpel 2016): x Phi(x), or its approximation
 * x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), which is x sigmoid of twice that argument.
 * Written so that nothing cancels for large negative x. */
double ref_act(qw_act act, double x)
{
    const double root_2_over_pi = 0.79788456080286535588, root_half = 0.70710678118654752440;
    switch (act) {
    case QW_SILU: return x / (1 + exp(-x));
    case QW_GELU_TANH: return x / (1 + exp(-2 * root_2_over_pi * (x + 0.044715 * x * x * x)));
    case QW_GELU_ERF: return x / 2 * erfc(-root_half * x);
    case QW_ACT_NONE: break;
    }
    return x;
}

/* --- threads and memory ------------------------------------------------------------------ */

int ref_threads(const qw_device *dev, int64_t n, int64_t cost)
{
#ifdef _OPENMP
    const int most = dev->threads > 0 ? dev->threads : omp_get_max_threads();
#else
    const int most = 1;
    (void)dev;
#endif
    const double worth = (double)n * (double)cost / WORTH;
    if (n < most && (double)n < worth) return n > 1 ? (int)n : 1;
    return worth < most ? (worth > 1 ? (int)worth : 1) : most;
}

int ref_thread(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

double *ref_room(int64_t rows, int64_t n)
{
    if (rows > 0 && (uint64_t)n > SIZE_MAX / sizeof(double) / (uint64_t)rows) return NULL;
    const size_t bytes = (size_t)(rows * n) * sizeof(double);
    return malloc(bytes ? bytes : 1);
}
