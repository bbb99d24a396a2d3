/* attention.c - softmax attention with grouped heads and a range of keys for each query. */
#include <qwen/ref.h>
#include "rows.h"
#include <math.h>
#include <stdlib.h>

/* One query and head: q [d]; k [n], a key every `step` doubles; v [d], the n values of a column, a
 * column every `nk`; s [n] room; y [d] may be q. */
static void one(const double *q, const double *k, int64_t step, const double *v, int64_t nk,
                int64_t n, int64_t d, double scale, double *s, double *y)
{
    double most = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++) {
        s[j] = scale * ref_dot(q, k + j * step, d);
        if (s[j] > most) most = s[j];
    }
    for (int64_t j = 0; j < n; j++) {
        s[j] = exp(s[j] - most);
        sum += s[j];
    }
    for (int64_t c = 0; c < d; c++) y[c] = ref_dot(s, v + c * nk, n) / sum;
}

/* Keys to k [nk][hk][d] and values, transposed, to v [hk][d][nk]; row [d] is room. */
static void read_keys(const qw_attention_args *a, double *k, double *v, double *row)
{
    const int64_t nk = a->k.dim[0], hk = a->k.dim[1], d = a->k.dim[2];
    for (int64_t j = 0; j < nk; j++)
        for (int64_t h = 0; h < hk; h++) {
            qw_row_get(&a->k, j, h, 0, k + (j * hk + h) * d);
            qw_row_get(&a->v, j, h, 0, row);
            for (int64_t c = 0; c < d; c++) v[(h * d + c) * nk + j] = row[c];
        }
}

/* attention: y_i = sum_j p_ij v_j, p_i = softmax over j of scale q_i.k_j, first[i] <= j < last[i].
 * q, y [nq][hq][d]; k, v [nk][hk][d]; query head h reads key head h / (hq / hk) (Ainslie et al.
 * 2023).  Vaswani et al. 2017; torch.nn.functional.scaled_dot_product_attention.  The maximum is
 * subtracted before exp: the quotient is the same, and the sum stays finite.  Bound:
 * doc/numerics.md, attention. */
int ref_attention(qw_device *dev, const qw_attention_args *a)
{
    const int64_t nq = a->q.dim[0], hq = a->q.dim[1], d = a->q.dim[2];
    const int64_t nk = a->k.dim[0], hk = a->k.dim[1];
    const int threads = ref_threads(dev, nq, 2 * nk * hq * d);
    double *k = ref_room(2 * nk, hk * d), *room = ref_room(threads, nk + d);
    if (!k || !room) {
        free(k);
        free(room);
        return QWEN_ENOMEM;
    }
    double *v = k + nk * hk * d;
    atomic_int stop = 0;
    read_keys(a, k, v, room);
    REF_PARALLEL(threads)
    for (int64_t i = 0; i < nq; i++) {
        if (ref_stopped(dev, &stop)) continue;
        double *s = room + ref_thread() * (nk + d), *q = s + nk;
        const int64_t first = a->first ? a->first[i] : 0, last = a->last ? a->last[i] : nk;
        for (int64_t h = 0; h < hq; h++) {
            const int64_t g = h / (hq / hk);
            qw_row_get(&a->q, i, h, 0, q);
            one(q, k + (first * hk + g) * d, hk * d, v + g * d * nk + first, nk, last - first, d,
                a->scale, s, q);
            qw_row_put(&a->y, i, h, 0, q);
        }
    }
    free(k);
    free(room);
    return atomic_load(&stop) ? QWEN_ECANCELLED : QWEN_OK;
}
