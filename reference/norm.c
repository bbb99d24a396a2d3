/* norm.c - the two norms: root mean square, and layer norm with the modulation of a DiT. */
#include "ref.h"
#include "rows.h"
#include <math.h>
#include <stdlib.h>

/* y_j = act( x_j / sqrt( mean_j x_j^2 + eps ) * w_j ), row by row; y, x [...][n], w [n].
 * Zhang & Sennrich 2019.  The VAE's norm over channels, x / max(|x|, 1e-12) sqrt(n) w, is this one with
 * eps = 1e-24 / n, to rounding wherever |x| > 1e-11.  Bound: numerics.md, rms_norm. */
int ref_rms_norm(qw_device *dev, const qw_rms_norm_args *a)
{
    const int64_t m = ref_rows(&a->x), n = ref_length(&a->x);
    const int threads = ref_threads(dev);
    double *w = malloc(sizeof *w * (size_t)n * (size_t)(threads + 1));
    if (!w) return QWEN_ENOMEM;
    ref_get_row(&a->w, 0, w);
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads)
#endif
    for (int64_t i = 0; i < m; i++) {
        double *x = w + n * (1 + ref_thread());
        ref_get_row(&a->x, i, x);
        const double r = 1 / sqrt(ref_dot(x, x, n) / (double)n + a->eps);
        for (int64_t j = 0; j < n; j++) {
            x[j] = x[j] * r * w[j];
            if (a->act == QW_SILU) x[j] /= 1 + exp(-x[j]);
        }
        ref_put_row(&a->y, i, x);
    }
    free(w);
    return QWEN_OK;
}

/* y_j = (x_j - mean) / sqrt(var + eps) * (1 + scale_j) + shift_j, row by row; var divides by n.
 * y, x [m][n]; scale, shift [n], each may be absent.
 * Peebles & Xie 2023, "adaLN", here without affine weights.  Bound: numerics.md, ln_mod. */
int ref_ln_mod(qw_device *dev, const qw_ln_mod_args *a)
{
    const int64_t m = ref_rows(&a->x), n = ref_length(&a->x);
    const int threads = ref_threads(dev);
    double *scale = calloc((size_t)n * (size_t)(threads + 2), sizeof *scale), *shift = scale ? scale + n : NULL;
    if (!scale) return QWEN_ENOMEM;
    if (qw_present(&a->scale)) ref_get_row(&a->scale, 0, scale);
    if (qw_present(&a->shift)) ref_get_row(&a->shift, 0, shift);
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads)
#endif
    for (int64_t i = 0; i < m; i++) {
        double *x = shift + n * (1 + ref_thread()), mean = 0, var = 0;
        ref_get_row(&a->x, i, x);
        for (int64_t j = 0; j < n; j++) mean += x[j];
        mean /= (double)n;
        for (int64_t j = 0; j < n; j++) var += (x[j] - mean) * (x[j] - mean);
        const double r = 1 / sqrt(var / (double)n + a->eps);
        for (int64_t j = 0; j < n; j++) x[j] = (x[j] - mean) * r * (1 + scale[j]) + shift[j];
        ref_put_row(&a->y, i, x);
    }
    free(scale);
    return QWEN_OK;
}
