/* gemm.c - every linear layer: a matrix product and what rides along. */
#include <qwen/ref.h>
#include "rows.h"
#include <stdlib.h>

enum { SLAB = 1024 }; /* rows of x that are held as doubles at a time */

/* At most SLAB rows.  A row of w is decoded once and multiplied with every row of x. */
static int slab(qw_device *dev, const qw_gemm_args *a)
{
    const int64_t m = a->y.dim[0], n = a->y.dim[1], k = a->x.dim[1];
    const int64_t r = qw_present(&a->x2) ? a->x2.dim[1] : 0;
    const int threads = ref_threads(dev, n, m * (k + r));
    double *x = ref_room(m + threads, k), *x2 = ref_room(m + threads, r);
    if (!x || !x2) {
        free(x);
        free(x2);
        return QWEN_ENOMEM;
    }
    for (int64_t i = 0; i < m; i++) {
        qw_row_get(&a->x, i, 0, 0, x + i * k);
        if (r) qw_row_get(&a->x2, i, 0, 0, x2 + i * r);
    }
    REF_PARALLEL(threads)
    for (int64_t j = 0; j < n; j++) {
        double *w = x + (m + ref_thread()) * k, *w2 = x2 + (m + ref_thread()) * r;
        qw_row_get(&a->w, j, 0, 0, w);
        if (r) qw_row_get(&a->w2, j, 0, 0, w2);
        const double bias = ref_get1(&a->bias, j, 0, 0), gate = ref_get1(&a->gate, j, 0, 1);
        for (int64_t i = 0; i < m; i++) {
            const double z = ref_dot(x + i * k, w, k) + ref_dot(x2 + i * r, w2, r) + bias;
            ref_put1(&a->y, i, j, ref_get1(&a->res, i, j, 0) + gate * ref_act(a->act, z));
        }
    }
    free(x);
    free(x2);
    return QWEN_OK;
}

/* gemm: y = res + gate act(x wT + x2 w2T + bias).
 * x [m][k], w [n][k] of any type, x2 [m][r] and w2 [n][r] (LoRA: x2 = x AT, w2 = strength B),
 * bias and gate [n] for each column, res and y [m][n].
 * torch.nn.functional.linear; the gate is the DiT block's (Peebles and Xie 2023, adaLN-Zero).
 * A w stored in a rotated basis is multiplied as it is: the caller has rotated x.
 * Bound: doc/numerics.md, gemm. */
int ref_gemm(qw_device *dev, const qw_gemm_args *a)
{
    const int64_t m = a->y.dim[0];
    for (int64_t i = 0; i < m; i += SLAB) {
        const int64_t rows = m - i < SLAB ? m - i : SLAB;
        qw_gemm_args part = *a;
        part.y = qw_rows(a->y, i, rows);
        part.x = qw_rows(a->x, i, rows);
        if (qw_present(&a->x2)) part.x2 = qw_rows(a->x2, i, rows);
        if (qw_present(&a->res)) part.res = qw_rows(a->res, i, rows);
        const int status = slab(dev, &part);
        if (status) return status;
    }
    return QWEN_OK;
}
