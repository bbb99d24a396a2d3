/* rows.c - a row of any dtype to doubles and back. */
#include "rows.h"
#include <math.h>
#include <string.h>

int64_t ref_rows(const qw_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i + 1 < t->rank; i++) n *= t->dim[i];
    return n;
}

int64_t ref_length(const qw_tensor *t) { return t->dim[t->rank - 1]; }

static void *row_data(const qw_tensor *t, int64_t row)
{
    int64_t offset = 0;
    for (int i = t->rank - 2; i >= 0; i--) {
        offset += row % t->dim[i] * t->stride[i];
        row /= t->dim[i];
    }
    return (char *)t->data + qw_row_bytes(t->dtype, offset);
}

/* Values of the codes, before any scale.  Memory need not be aligned. */
static void decode(qw_dtype type, const unsigned char *src, int64_t n, double *x)
{
    enum { CHUNK = 256 };               /* a multiple of every block */
    float f[CHUNK];
    if (type == QW_F64) {
        memcpy(x, src, (size_t)n * sizeof *x);
        return;
    }
    for (int64_t i = 0; i < n; i += CHUNK) {
        const int64_t m = n - i < CHUNK ? n - i : CHUNK;
        qw_decode_f32(type, src + qw_row_bytes(type, i), m, f);
        for (int64_t j = 0; j < m; j++) x[i + j] = f[j];
    }
}

static void scale_blocks(const qw_tensor *t, int64_t row, int64_t n, double *x)
{
    const int64_t size = qw_block_elements(t->dtype), blocks = (n + size - 1) / size;
    const uint8_t *code = t->block_scale;
    const double second = t->dtype == QW_NVFP4 && t->scale ? t->scale[0] : 1;
    for (int64_t b = 0; b < blocks; b++) {
        const uint8_t c = code[qw_block_scale_at(row, b, blocks)];
        const double s = t->dtype == QW_MXFP8 ? (double)qw_f8e8m0_to_f32(c) : qw_f8e4m3_to_f32(c) * second;
        for (int64_t j = b * size; j < n && j < (b + 1) * size; j++) x[j] *= s;
    }
}

void ref_get_row(const qw_tensor *t, int64_t row, double *x)
{
    const int64_t n = ref_length(t);
    decode(t->dtype, row_data(t, row), n, x);
    if (t->block_scale) scale_blocks(t, row, n, x);
    else if (t->scale)
        for (int64_t j = 0; j < n; j++) x[j] *= t->scale[row * t->scale_stride];
}

/* q = round(x / s), s = max |x| / 127. */
static void quantise(const qw_tensor *t, int64_t row, const double *x, int64_t n, int8_t *q)
{
    double top = 0;
    for (int64_t j = 0; j < n; j++) top = fmax(top, fabs(x[j]));
    const float s = (float)fmax(top / 127, 1e-30);
    for (int64_t j = 0; j < n; j++) q[j] = (int8_t)fmax(-128, fmin(127, rint(x[j] / s)));
    if (t->scale) ((float *)(uintptr_t)t->scale)[row * t->scale_stride] = s;
}

void ref_put_row(const qw_tensor *t, int64_t row, const double *x)
{
    const int64_t n = ref_length(t);
    void *dst = row_data(t, row);
    switch (t->dtype) {
    case QW_F64: memcpy(dst, x, (size_t)n * sizeof *x); break;
    case QW_F32: for (int64_t j = 0; j < n; j++) ((float *)dst)[j] = (float)x[j]; break;
    case QW_F16: for (int64_t j = 0; j < n; j++) ((uint16_t *)dst)[j] = qw_f32_to_f16((float)x[j]); break;
    case QW_BF16: for (int64_t j = 0; j < n; j++) ((uint16_t *)dst)[j] = qw_f32_to_bf16((float)x[j]); break;
    case QW_F8E4M3: for (int64_t j = 0; j < n; j++) ((uint8_t *)dst)[j] = qw_f32_to_f8e4m3((float)x[j]); break;
    case QW_F8E5M2: for (int64_t j = 0; j < n; j++) ((uint8_t *)dst)[j] = qw_f32_to_f8e5m2((float)x[j]); break;
    case QW_I32: for (int64_t j = 0; j < n; j++) ((int32_t *)dst)[j] = (int32_t)rint(x[j]); break;
    case QW_I8: quantise(t, row, x, n, dst); break;
    default: break;                     /* op.c lets no other type be a result */
    }
}

double ref_dot(const double *x, const double *w, int64_t n)
{
    double s[4] = { 0, 0, 0, 0 };
    int64_t j = 0;
    for (; j + 4 <= n; j += 4)
        for (int l = 0; l < 4; l++) s[l] += x[j + l] * w[j + l];
    for (; j < n; j++) s[j % 4] += x[j] * w[j];
    return s[0] + s[1] + s[2] + s[3];
}

void ref_rotate(double *x, int64_t n, int64_t group)
{
    for (int64_t step = 1; step < group; step *= 4)
        for (int64_t i = 0; i < n; i++) {
            if (i / step % 4) continue;
            double *p = x + i;
            const double a = p[0], b = p[step], c = p[2 * step], d = p[3 * step], t = (a + b + c + d) / 2;
            p[0] = t - d;
            p[step] = t - c;
            p[2 * step] = t - b;
            p[3 * step] = t - a;
        }
}
