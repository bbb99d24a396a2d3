/* gemm.c - matrix product with LoRA, bias, activation, gate and residual: every linear layer. */
#include <qwen/ref.h>
#include "rows.h"
#include <stdlib.h>

enum { SLAB = 1024 }; /* rows of x that are held as doubles at a time */

/* Row j of w; `again`: quantised to 8-bit codes against its largest element, as int8 devices do. */
static void weight_row(const qw_gemm_args *a, int64_t j, int again, int8_t *code, double *w)
{
    const int64_t k = a->x.dim[1];
    qw_row_get(&a->w, j, 0, 0, w);
    if (!again) return;
    const double s = (double)qw_row_quantise(w, k, code);
    for (int64_t l = 0; l < k; l++) w[l] = code[l] * s;
}

/* At most SLAB rows.  A row of w is decoded once and multiplied with every row of x.  With y of
 * QW_I8 the results are held as doubles, y [m][n], and quantised by whole rows at the end. */
static int slab(qw_device *dev, const qw_gemm_args *a, int again, atomic_int *stop)
{
    const int64_t m = a->y.dim[0], n = a->y.dim[1], k = a->x.dim[1];
    const int64_t r = qw_present(&a->x2) ? a->x2.dim[1] : 0;
    const int threads = ref_threads(dev, n, m * (k + r)), codes = a->y.dtype == QW_I8;
    double *x = ref_room(m + threads, k), *x2 = ref_room(m + threads, r);
    double *y = codes ? ref_room(m, n) : NULL;
    int8_t *code = (int8_t *)ref_room(again ? threads : 0, k);
    if (!x || !x2 || !code || (codes && !y)) {
        free(x);
        free(x2);
        free(y);
        free(code);
        return QWEN_ENOMEM;
    }
    for (int64_t i = 0; i < m; i++) {
        qw_row_get(&a->x, i, 0, 0, x + i * k);
        if (r) qw_row_get(&a->x2, i, 0, 0, x2 + i * r);
    }
    REF_PARALLEL(threads)
    for (int64_t j = 0; j < n; j++) {
        if (ref_stopped(dev, stop)) continue;
        double *w = x + (m + ref_thread()) * k, *w2 = x2 + (m + ref_thread()) * r;
        weight_row(a, j, again, code + ref_thread() * k, w);
        if (r) qw_row_get(&a->w2, j, 0, 0, w2);
        const double bias = ref_get1(&a->bias, j, 0, 0), gate = ref_get1(&a->gate, j, 0, 1);
        for (int64_t i = 0; i < m; i++) {
            const double z = ref_dot(x + i * k, w, k) + ref_dot(x2 + i * r, w2, r) + bias;
            if (codes) y[i * n + j] = ref_act(a->act, z);
            else ref_put1(&a->y, i, j, ref_get1(&a->res, i, j, 0) + gate * ref_act(a->act, z));
        }
    }
    for (int64_t i = 0; codes && i < m; i++) qw_row_put(&a->y, i, 0, 0, y + i * n);
    free(x);
    free(x2);
    free(y);
    free(code);
    return atomic_load(stop) ? QWEN_ECANCELLED : QWEN_OK;
}

static int slabs(qw_device *dev, const qw_gemm_args *a, int again)
{
    const int64_t m = a->y.dim[0];
    atomic_int stop = 0;
    for (int64_t i = 0; i < m; i += SLAB) {
        const int64_t rows = m - i < SLAB ? m - i : SLAB;
        qw_gemm_args part = *a;
        part.y = qw_rows(a->y, i, rows);
        part.x = qw_rows(a->x, i, rows);
        if (qw_present(&a->x2)) part.x2 = qw_rows(a->x2, i, rows);
        if (qw_present(&a->res)) part.res = qw_rows(a->res, i, rows);
        const int status = slab(dev, &part, again, &stop);
        if (status) return status;
    }
    return QWEN_OK;
}

/* gemm: y = res + gate act(x wT + x2 w2T + bias).
 * x [m][k], w [n][k] of any type, x2 [m][r] and w2 [n][r] (LoRA: x2 = x AT, w2 = strength B),
 * bias and gate [n] for each column, res and y [m][n].
 * torch.nn.functional.linear; the gate is the DiT block's (Peebles and Xie 2023, adaLN-Zero).
 * A w stored in a rotated basis is multiplied as it is: the caller has rotated x.
 * y of QW_I8: each row quantised as by convert.
 * Bound: doc/numerics.md, gemm. */
int ref_gemm(qw_device *dev, const qw_gemm_args *a) { return slabs(dev, a, 0); }

/* The gemm of ref:int8: where x is rows of codes, w becomes rows of codes too. */
int ref_gemm_int8(qw_device *dev, const qw_gemm_args *a)
{
    return slabs(dev, a, a->x.dtype == QW_I8 && a->w.dtype != QW_I8);
}
