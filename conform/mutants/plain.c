/* plain.c - functions of all ops of the plain device: rows to numbers, threads. */
#include "mutant.h"
#include <math.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

int plain_threads(const qw_device *d)
{
#ifdef _OPENMP
    return d->threads > 0 ? d->threads : omp_get_max_threads();
#else
    (void)d;
    return 1;
#endif
}

int plain_thread(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* F8 and I8 have a scale of rows, which the ops apply to sums; block scales are applied here. */
void plain_row(const qw_tensor *t, int64_t i, int64_t j, int64_t k, float *out)
{
    const int64_t n = t->dim[t->rank - 1];
    if (!t->block_scale) {
        qw_decode_f32(t->dtype, qw_at(t, i, j, k, 0), n, out);
        return;
    }
    double x[256];
    for (int64_t at = 0; at < n; at += 256) { /* rows of blocks are short in scales, long in data */
        qw_tensor part = *t;
        const int64_t size = qw_block_elements(t->dtype), blocks = n / size;
        const int64_t m = n - at < 256 ? n - at : 256;
        qw_numbers_get(part.dtype, (const char *)qw_at(t, i, j, k, 0) + qw_row_bytes(t->dtype, at),
                       m, x);
        for (int64_t e = 0; e < m; e++) {
            const uint8_t c =
                ((const uint8_t *)t->block_scale)[qw_block_scale_at(i, (at + e) / size, blocks)];
            out[at + e] = (float)x[e]
                          * (t->dtype == QW_MXFP8 ? qw_f8e8m0_to_f32(c) : qw_f8e4m3_to_f32(c));
        }
    }
}

float plain_scale(const qw_tensor *t, int64_t i)
{
    float s = 1;
    if (t->scale)
        memcpy(&s, (const char *)t->scale + (size_t)(i * t->scale_stride) * sizeof s, sizeof s);
    return s;
}

float plain_act(qw_act act, float z)
{
    switch (act) {
    case QW_SILU: return z / (1 + expf(-z));
    case QW_GELU_TANH: return z / (1 + expf(-1.5957691216f * (z + 0.044715f * z * z * z)));
    case QW_GELU_ERF: return z / 2 * erfcf(-0.70710678f * z);
    case QW_ACT_NONE: break;
    }
    return z;
}

void plain_put(const qw_tensor *t, int64_t i, int64_t j, int64_t k, float x)
{
    const double y = (double)x;
    qw_numbers_put(t->dtype, &y, 1, qw_at(t, i, j, k, 0));
}

float plain_get(const qw_tensor *t, int64_t i, int64_t j, int64_t k)
{
    double y = 0;
    if (qw_present(t)) qw_numbers_get(t->dtype, qw_at(t, i, j, k, 0), 1, &y);
    return (float)y;
}

void plain_codes(const qw_tensor *t, int64_t i, const float *x, int64_t seen, float steps)
{
    const int64_t n = t->dim[1];
    int8_t *code = qw_at(t, i, 0, 0, 0);
    float most = 0;
    for (int64_t j = 0; j < seen; j++) most = fmaxf(most, fabsf(x[j]));
    float s = most / steps;
    if (!(s >= 1e-30f)) s = 1e-30f;
    ((float *)(uintptr_t)t->scale)[i * t->scale_stride] = s;
    for (int64_t j = 0; j < n; j++) {
        const float q = rintf(x[j] / s);
        code[j] = (int8_t)(q > 127 ? 127 : q < -128 ? -128 : q);
    }
}
