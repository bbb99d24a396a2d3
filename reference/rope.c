/* rope.c - head norm and rotary position embedding, in place. */
#include "ref.h"
#include "rows.h"
#include <math.h>
#include <stdlib.h>

/* z = x / sqrt(mean x^2 + eps) * w, or x where w is absent; then for each pair (z_a, z_b) and its angle
 *     x_a = z_a cos - z_b sin,   x_b = z_b cos + z_a sin.
 * x [n][h][d]; w [d]; cos, sin [n][d/2], the same for every head.  PAIRS: (2i, 2i+1), HALVES: (i, i+d/2).
 * Su et al. 2021 (RoFormer).  Bound: numerics.md, norm_rope. */
int ref_norm_rope(qw_device *dev, const qw_norm_rope_args *a)
{
    const int64_t n = a->x.dim[0], h = a->x.dim[1], d = a->x.dim[2], half = d / 2;
    const int threads = ref_threads(dev);
    const int pairs = a->pairing == QW_PAIRS;
    double *w = malloc(sizeof *w * (size_t)d * (size_t)(1 + 2 * threads));
    if (!w) return QWEN_ENOMEM;
    if (qw_present(&a->w)) ref_get_row(&a->w, 0, w);
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads)
#endif
    for (int64_t i = 0; i < n; i++) {
        double *x = w + d * (1 + 2 * ref_thread()), *c = x + d, *s = c + half;
        ref_get_row(&a->cos, i, c);
        ref_get_row(&a->sin, i, s);
        for (int64_t head = 0; head < h; head++) {
            ref_get_row(&a->x, i * h + head, x);
            const double r = qw_present(&a->w) ? 1 / sqrt(ref_dot(x, x, d) / (double)d + a->eps) : 1;
            for (int64_t j = 0; qw_present(&a->w) && j < d; j++) x[j] = x[j] * r * w[j];
            for (int64_t j = 0; j < half; j++) {
                double *u = x + (pairs ? 2 * j : j), *v = pairs ? u + 1 : u + half;
                const double z = *u;
                *u = z * c[j] - *v * s[j];
                *v = *v * c[j] + z * s[j];
            }
            ref_put_row(&a->x, i * h + head, x);
        }
    }
    free(w);
    return QWEN_OK;
}
