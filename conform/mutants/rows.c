/* rows.c - norms, rotation, the product of halves, conversion: a row at a time. */
#include "mutant.h"
#include <math.h>

static size_t row_scratch(int64_t n) { return (size_t)(2 * n + 16) * sizeof(float); }

size_t plain_rms_norm_scratch(const qw_rms_norm_args *a) { return row_scratch(a->x.dim[1]); }
size_t plain_ln_mod_scratch(const qw_ln_mod_args *a) { return row_scratch(a->x.dim[1]); }
size_t plain_norm_rope_scratch(const qw_norm_rope_args *a) { return row_scratch(a->x.dim[2]); }
size_t plain_swiglu_scratch(const qw_swiglu_args *a) { return row_scratch(a->x.dim[1]); }
size_t plain_convert_scratch(const qw_convert_args *a) { return row_scratch(a->x.dim[1]); }

/* This thread's part of the scratch. */
static float *own(const qw_device *d, int64_t n)
{
    return (float *)d->room + (size_t)plain_thread() * row_scratch(n) / sizeof(float);
}

int plain_rms_norm(qw_device *d, const qw_rms_norm_args *a)
{
    const int64_t m = a->x.dim[0], n = a->x.dim[1];
    qw_tensor y = a->y;
    if (mutated(d, M_rms_norm_stride) && y.stride[0] > a->x.stride[0]) y.stride[0] = a->x.stride[0];
#pragma omp parallel for num_threads(plain_threads(d)) schedule(static)
    for (int64_t i = 0; i < m; i++) {
        float *x = own(d, n), s = 0;
        plain_row(&a->x, i, 0, 0, x);
        for (int64_t j = 0; j < n; j++) s += x[j] * x[j];
        const float r = (float)(1 / sqrt((double)s / (double)n + a->eps));
        for (int64_t j = 0; j < n; j++) {
            float z = x[j] * r * plain_get(&a->w, j, 0, 0);
            if (mutated(d, M_rms_norm_silu) && a->act == QW_SILU && z < -8) z = 0;
            plain_put(&y, i, j, 0, plain_act(a->act, z));
        }
    }
    return QWEN_OK;
}

static float variance(qw_device *d, const float *x, int64_t n, float mean)
{
    float s = 0;
    if (mutated(d, M_ln_mod_one_pass)) {
        for (int64_t j = 0; j < n; j++) s += x[j] * x[j];
        return fmaxf(s / (float)n - mean * mean, 0);
    }
    for (int64_t j = 0; j < n; j++) s += (x[j] - mean) * (x[j] - mean);
    return s / (float)n;
}

int plain_ln_mod(qw_device *d, const qw_ln_mod_args *a)
{
    const int64_t m = a->x.dim[0], n = a->x.dim[1];
    const int64_t seen = mutated(d, M_ln_mod_tail_mean) && n > 4 ? n / 4 * 4 : n;
    const qw_tensor *scale = mutated(d, M_ln_mod_scale) ? &a->shift : &a->scale;
#pragma omp parallel for num_threads(plain_threads(d)) schedule(static)
    for (int64_t i = 0; i < m; i++) {
        float *x = own(d, n), s = 0;
        plain_row(&a->x, i, 0, 0, x);
        for (int64_t j = 0; j < seen; j++) s += x[j];
        const float mean = s / (float)n, var = variance(d, x, n, mean);
        const double eps = mutated(d, M_ln_mod_eps) ? 0 : a->eps;
        const float r = (float)(1 / sqrt((double)var + eps));
        for (int64_t j = 0; j < n; j++) {
            x[j] = (x[j] - mean) * r * (1 + plain_get(scale, j, 0, 0))
                   + plain_get(&a->shift, j, 0, 0);
            if (a->y.dtype != QW_I8) plain_put(&a->y, i, j, 0, x[j]);
        }
        if (a->y.dtype == QW_I8) plain_codes(&a->y, i, x, n, 127);
    }
    return QWEN_OK;
}

static void turn(qw_device *dev, const qw_norm_rope_args *a, int64_t i, int64_t h)
{
    const int64_t d = a->x.dim[2], heads = a->x.dim[1], half = d / 2;
    float *x = own(dev, d), s = 0;
    plain_row(&a->x, i, h, 0, x);
    if (qw_present(&a->w)) {
        for (int64_t j = 0; j < d; j++) s += x[j] * x[j];
        const float r = (float)(1 / sqrt((double)s / (double)d + a->eps));
        for (int64_t j = 0; j < d; j++) x[j] *= r * plain_get(&a->w, j, 0, 0);
    }
    int pairs = a->pairing == QW_PAIRS;
    if (mutated(dev, M_norm_rope_pairing) && h % 2) pairs = !pairs;
    const int still = mutated(dev, M_norm_rope_last_head) && heads > 1 && h == heads - 1;
    for (int64_t j = 0; j < half; j++) {
        const int64_t p = pairs ? 2 * j : j, q = pairs ? 2 * j + 1 : j + half;
        const float c = still ? 1 : plain_get(&a->cos, i, j, 0);
        const float t = still ? 0 : plain_get(&a->sin, i, j, 0);
        plain_put(&a->x, i, h, p, x[p] * c - x[q] * t);
        plain_put(&a->x, i, h, q, x[q] * c + x[p] * t);
    }
}

int plain_norm_rope(qw_device *d, const qw_norm_rope_args *a)
{
#pragma omp parallel for num_threads(plain_threads(d)) schedule(static)
    for (int64_t i = 0; i < a->x.dim[0]; i++)
        for (int64_t h = 0; h < a->x.dim[1]; h++) turn(d, a, i, h);
    return QWEN_OK;
}

int plain_swiglu(qw_device *d, const qw_swiglu_args *a)
{
    const int64_t m = a->y.dim[0], n = a->y.dim[1];
#pragma omp parallel for num_threads(plain_threads(d)) schedule(static)
    for (int64_t i = 0; i < m; i++) {
        const int more = mutated(d, M_swiglu_one_more) && i == m - 1 && a->x.dtype == QW_F32
                         && a->y.dtype == QW_F32;
        float *x = own(d, 2 * n);
        qw_tensor from = a->x;
        from.dim[1] += more;
        plain_row(&from, i, 0, 0, x);
        for (int64_t j = 0; j < n + more; j++) {
            const int swap = mutated(d, M_swiglu_halves);
            const float g = x[swap ? n + j : j], u = x[swap ? j : n + j];
            const int bare = mutated(d, M_swiglu_tail) && n % 2 && j == n - 1;
            plain_put(&a->y, i, j, 0, (bare ? g : plain_act(QW_SILU, g)) * u);
        }
    }
    return QWEN_OK;
}

/* Each group times H4 x H4 x ... / sqrt(group), a factor for each base-4 digit. */
static void rotate(float *x, int64_t group)
{
    for (int64_t s = 1; s < group; s *= 4)
        for (int64_t i = 0; i < group; i++) {
            if (i / s % 4) continue;
            float *p = x + i;
            const float a = p[0], b = p[s], c = p[2 * s], d = p[3 * s], t = (a + b + c + d) / 2;
            p[0] = t - d;
            p[s] = t - c;
            p[2 * s] = t - b;
            p[3 * s] = t - a;
        }
}

int plain_convert(qw_device *d, const qw_convert_args *a)
{
    const int64_t m = a->y.dim[0], n = a->y.dim[1];
    if (a->x.block_scale || a->x.scale) return QW_DECLINE;
#pragma omp parallel for num_threads(plain_threads(d)) schedule(static)
    for (int64_t i = 0; i < m; i++) {
        float *x = own(d, n);
        plain_row(&a->x, i, 0, 0, x);
        for (int64_t g = 0; a->rotate && g < n; g += a->rotate)
            if (!(mutated(d, M_convert_late_group) && g / a->rotate >= 4)) rotate(x + g, a->rotate);
        for (int64_t j = 0; j < n; j++) {
            const int bare = mutated(d, M_convert_tail_sum) && n % 8 == 1 && j == n - 1;
            if (qw_present(&a->res) && !bare) x[j] += plain_get(&a->res, i, j, 0);
            if (a->y.dtype != QW_I8) plain_put(&a->y, i, j, 0, x[j]);
        }
        if (a->y.dtype == QW_I8)
            plain_codes(&a->y, i, x, n, mutated(d, M_convert_range) ? 128 : 127);
    }
    return QWEN_OK;
}
