/* norm.c - normalisation of rows, in two passes. */
#include <qwen/ref.h>
#include "rows.h"
#include <math.h>
#include <stdlib.h>

/* rms_norm: y = act(x / sqrt(mean x^2 + eps) w), row by row.  x, y [m][n], y may be x; w [n].
 * Zhang and Sennrich 2019; transformers Qwen2RMSNorm, diffusers RMSNorm.  The VAE's normalisation
 * of channels, x / max(|x|, 1e-12) sqrt(n) gamma, is rms_norm with a tiny eps.  Bound:
 * doc/numerics.md, rms_norm. */
int ref_rms_norm(qw_device *dev, const qw_rms_norm_args *a)
{
    const int64_t m = a->x.dim[0], n = a->x.dim[1];
    const int threads = ref_threads(dev, m, 4 * n);
    double *w = ref_room(1 + threads, n);
    if (!w) return QWEN_ENOMEM;
    qw_row_get(&a->w, 0, 0, 0, w);
    REF_PARALLEL(threads)
    for (int64_t i = 0; i < m; i++) {
        double *x = w + (1 + ref_thread()) * n;
        qw_row_get(&a->x, i, 0, 0, x);
        const double r = 1 / sqrt(ref_dot(x, x, n) / (double)n + a->eps);
        for (int64_t j = 0; j < n; j++) x[j] = ref_act(a->act, x[j] * r * w[j]);
        qw_row_put(&a->y, i, 0, 0, x);
    }
    free(w);
    return QWEN_OK;
}

/* ln_mod: y = (x - mean) / sqrt(var + eps) (1 + scale) + shift, row by row.
 * x, y [m][n]; scale, shift [n], each may be absent; var divides by n.  y of QW_I8: each row
 * quantised as by convert.
 * Peebles and Xie 2023, adaLN: layer normalisation without weights of its own, then modulation;
 * diffusers QwenImageTransformerBlock._modulate, AdaLayerNormContinuous.
 * Bound: doc/numerics.md, ln_mod. */
int ref_ln_mod(qw_device *dev, const qw_ln_mod_args *a)
{
    const int64_t m = a->x.dim[0], n = a->x.dim[1];
    const int threads = ref_threads(dev, m, 4 * n);
    double *scale = ref_room(2 + threads, n);
    if (!scale) return QWEN_ENOMEM;
    double *shift = scale + n;
    ref_vector(&a->scale, n, 0, scale);
    ref_vector(&a->shift, n, 0, shift);
    REF_PARALLEL(threads)
    for (int64_t i = 0; i < m; i++) {
        double *x = scale + (2 + ref_thread()) * n, mean = 0;
        qw_row_get(&a->x, i, 0, 0, x);
        for (int64_t j = 0; j < n; j++) mean += x[j];
        mean /= (double)n;
        for (int64_t j = 0; j < n; j++) x[j] -= mean;
        const double r = 1 / sqrt(ref_dot(x, x, n) / (double)n + a->eps);
        for (int64_t j = 0; j < n; j++) x[j] = x[j] * r * (1 + scale[j]) + shift[j];
        qw_row_put(&a->y, i, 0, 0, x);
    }
    free(scale);
    return QWEN_OK;
}
