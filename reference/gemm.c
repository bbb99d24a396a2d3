/* gemm.c - every linear layer: y = res + gate * act(x w^T + x2 w2^T + bias). */
#include "ref.h"
#include "rows.h"
#include <math.h>
#include <stdlib.h>

enum { ROWS = 512 };                    /* of x held as doubles at a time */

static double activate(double u, qw_act act)
{
    switch (act) {
    case QW_SILU: return u / (1 + exp(-u));
    case QW_GELU_TANH: return 0.5 * u * (1 + tanh(0.7978845608028654 * (u + 0.044715 * u * u * u)));
    case QW_GELU_ERF: return 0.5 * u * (1 + erf(u * 0.7071067811865476));
    default: return u;
    }
}

/* Rows first .. first + m of y, all columns: column j needs row j of w, which is decoded once. */
static void columns(const qw_gemm_args *a, const double *x, const double *x2, double *y, double *buffer, size_t each,
                    const double *bias, const double *gate, int64_t m, int threads)
{
    const int64_t n = a->w.dim[0], k = a->w.dim[1], r = qw_present(&a->w2) ? a->w2.dim[1] : 0;
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads)
#endif
    for (int64_t j = 0; j < n; j++) {
        double *w = buffer + (size_t)ref_thread() * each, *w2 = w + k;
        ref_get_row(&a->w, j, w);
        if (r) ref_get_row(&a->w2, j, w2);
        for (int64_t i = 0; i < m; i++) {
            double u = ref_dot(x + i * k, w, k);
            if (r) u += ref_dot(x2 + i * r, w2, r);
            u = activate(bias ? u + bias[j] : u, a->act);
            y[i * n + j] = gate ? gate[j] * u : u;
        }
    }
}

/* y_ij = res_ij + gate_j act( sum_p x_ip w_jp + sum_q x2_iq w2_jq + bias_j )
 * y, res [m][n]; x [m][k]; w [n][k] of any dtype; x2 [m][r], w2 [n][r]; bias, gate [n].
 * torch.nn.Linear; the second product is a LoRA (Hu et al. 2021).  Bound: numerics.md, gemm. */
int ref_gemm(qw_device *dev, const qw_gemm_args *a)
{
    const int64_t m = a->y.dim[0], n = a->y.dim[1], k = a->x.dim[1];
    const int64_t r = qw_present(&a->x2) ? a->x2.dim[1] : 0, chunk = m < ROWS ? m : ROWS;
    const int threads = ref_threads(dev);
    const size_t each = (size_t)(k + r);
    double *x = malloc(sizeof *x * (size_t)(chunk * (k + r + n) + 3 * n + 1));
    double *buffer = malloc(sizeof *buffer * each * (size_t)threads + 1);
    if (!x || !buffer) {
        free(x);
        free(buffer);
        return QWEN_ENOMEM;
    }
    double *x2 = x + chunk * k, *y = x2 + chunk * r, *bias = y + chunk * n, *gate = bias + n, *res = gate + n;
    if (qw_present(&a->bias)) ref_get_row(&a->bias, 0, bias);
    if (qw_present(&a->gate)) ref_get_row(&a->gate, 0, gate);
    for (int64_t first = 0; first < m; first += chunk) {
        const int64_t rows = m - first < chunk ? m - first : chunk;
        for (int64_t i = 0; i < rows; i++) {
            ref_get_row(&a->x, first + i, x + i * k);
            if (r) ref_get_row(&a->x2, first + i, x2 + i * r);
        }
        columns(a, x, x2, y, buffer, each, qw_present(&a->bias) ? bias : NULL, qw_present(&a->gate) ? gate : NULL,
                rows, threads);
        for (int64_t i = 0; i < rows; i++) {
            if (qw_present(&a->res)) {
                ref_get_row(&a->res, first + i, res);
                for (int64_t j = 0; j < n; j++) y[i * n + j] += res[j];
            }
            ref_put_row(&a->y, first + i, y + i * n);
        }
    }
    free(x);
    free(buffer);
    return QWEN_OK;
}
