/* rope.c - normalisation and rotation of the heads of queries and keys. */
#include <qwen/ref.h>
#include "rows.h"
#include <math.h>
#include <stdlib.h>

/* norm_rope: each head x [d] of row i, in place: first x / sqrt(mean x^2 + eps) w (no w: nothing),
 * then the pair (z0, z1) number p turns by the angle of (i, p):
 *     z0' = z0 cos - z1 sin,   z1' = z1 cos + z0 sin.
 * x [n][h][d], w [d], cos and sin [n][d/2]; pair p is (2p, 2p + 1), or (p, p + d/2) with QW_HALVES.
 * Su et al. 2021; diffusers apply_rotary_emb_qwen (pairs), transformers
 * apply_multimodal_rotary_pos_emb and apply_rotary_pos_emb_vision (halves).
 * Bound: doc/numerics.md, norm_rope. */
int ref_norm_rope(qw_device *dev, const qw_norm_rope_args *a)
{
    const int64_t n = a->x.dim[0], heads = a->x.dim[1], d = a->x.dim[2];
    const int64_t step = a->pairing == QW_PAIRS ? 2 : 1, other = a->pairing == QW_PAIRS ? 1 : d / 2;
    const int threads = ref_threads(dev, n, 6 * heads * d);
    double *w = ref_room(1 + 2 * threads, d);
    if (!w) return QWEN_ENOMEM;
    if (qw_present(&a->w)) qw_row_get(&a->w, 0, 0, 0, w);
    REF_PARALLEL(threads)
    for (int64_t i = 0; i < n; i++) {
        double *x = w + (1 + 2 * ref_thread()) * d, *c = x + d, *s = c + d / 2;
        qw_row_get(&a->cos, i, 0, 0, c);
        qw_row_get(&a->sin, i, 0, 0, s);
        for (int64_t h = 0; h < heads; h++) {
            qw_row_get(&a->x, i, h, 0, x);
            if (qw_present(&a->w)) {
                const double r = 1 / sqrt(ref_dot(x, x, d) / (double)d + a->eps);
                for (int64_t j = 0; j < d; j++) x[j] *= r * w[j];
            }
            for (int64_t p = 0; p < d / 2; p++) {
                const double z0 = x[step * p], z1 = x[step * p + other];
                x[step * p] = z0 * c[p] - z1 * s[p];
                x[step * p + other] = z1 * c[p] + z0 * s[p];
            }
            qw_row_put(&a->x, i, h, 0, x);
        }
    }
    free(w);
    return QWEN_OK;
}
