/* attention.c - scaled dot-product attention with grouped heads and a key range per query. */
#include "ref.h"
#include "rows.h"
#include <math.h>
#include <stdlib.h>

/* One query of one head: two passes over the scores, the largest first. */
static void attend(const double *q, const double *k, const double *v, int64_t first, int64_t last, int64_t d,
                   double scale, double *s, double *y)
{
    double top = -INFINITY, sum = 0;
    for (int64_t c = 0; c < d; c++) y[c] = 0;
    for (int64_t j = first; j < last; j++) {
        s[j] = scale * ref_dot(q, k + j * d, d);
        if (s[j] > top || isnan(s[j])) top = s[j];
    }
    for (int64_t j = first; j < last; j++) {
        const double p = exp(s[j] - top);
        sum += p;
        for (int64_t c = 0; c < d; c++) y[c] += p * v[j * d + c];
    }
    for (int64_t c = 0; c < d && last > first; c++) y[c] /= sum;
}

/* y_ih = sum_j softmax_j( scale q_ih . k_jg ) v_jg,  g = h / (hq / hk),  first_i <= j < last_i
 * y, q [nq][hq][d]; k, v [nk][hk][d].  An empty range gives zeros.
 * Vaswani et al. 2017; grouped heads: Ainslie et al. 2023.  Bound: numerics.md, attention. */
int ref_attention(qw_device *dev, const qw_attention_args *a)
{
    const int64_t nq = a->q.dim[0], hq = a->q.dim[1], d = a->q.dim[2], nk = a->k.dim[0], hk = a->k.dim[1];
    const int64_t group = hq / hk;
    const int threads = ref_threads(dev);
    const size_t each = (size_t)(nk + 2 * d);
    double *k = malloc(sizeof *k * (size_t)(2 * nk * d + 1));
    double *buffer = malloc(sizeof *buffer * each * (size_t)threads);
    if (!k || !buffer) {
        free(k);
        free(buffer);
        return QWEN_ENOMEM;
    }
    double *v = k + nk * d;
    for (int64_t g = 0; g < hk; g++) {
        for (int64_t j = 0; j < nk; j++) {
            ref_get_row(&a->k, j * hk + g, k + j * d);
            ref_get_row(&a->v, j * hk + g, v + j * d);
        }
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads)
#endif
        for (int64_t i = 0; i < nq * group; i++) {
            const int64_t query = i / group, row = query * hq + g * group + i % group;
            double *s = buffer + (size_t)ref_thread() * each, *q = s + nk, *y = q + d;
            ref_get_row(&a->q, row, q);
            attend(q, k, v, a->first ? a->first[query] : 0, a->last ? a->last[query] : nk, d, a->scale, s, y);
            ref_put_row(&a->y, row, y);
        }
    }
    free(k);
    free(buffer);
    return QWEN_OK;
}
