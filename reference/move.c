/* move.c - what changes little: the gated activation, and conversions. */
#include "ref.h"
#include "rows.h"
#include <math.h>
#include <stdlib.h>

/* y_j = silu(x_j) x_{n+j}, silu(u) = u / (1 + exp(-u)); y [m][n], x [m][2n].
 * Shazeer 2020, "SwiGLU".  Bound: numerics.md, swiglu. */
int ref_swiglu(qw_device *dev, const qw_swiglu_args *a)
{
    const int64_t m = ref_rows(&a->y), n = ref_length(&a->y);
    const int threads = ref_threads(dev);
    double *buffer = malloc(sizeof *buffer * 2 * (size_t)n * (size_t)threads);
    if (!buffer) return QWEN_ENOMEM;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads)
#endif
    for (int64_t i = 0; i < m; i++) {
        double *x = buffer + 2 * n * ref_thread();
        ref_get_row(&a->x, i, x);
        for (int64_t j = 0; j < n; j++) x[j] = x[j] / (1 + exp(-x[j])) * x[n + j];
        ref_put_row(&a->y, i, x);
    }
    free(buffer);
    return QWEN_OK;
}

/* y = res + H x, row by row: dtypes, strides, a sum; H is the identity or the Hadamard rotation of each
 * group of `rotate` columns; a y of I8 is quantised against each row's maximum.
 * y, x, res [...][n].  Bound: numerics.md, convert. */
int ref_convert(qw_device *dev, const qw_convert_args *a)
{
    const int64_t m = ref_rows(&a->y), n = ref_length(&a->y);
    const int threads = ref_threads(dev);
    double *buffer = malloc(sizeof *buffer * 2 * (size_t)n * (size_t)threads);
    if (!buffer) return QWEN_ENOMEM;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads)
#endif
    for (int64_t i = 0; i < m; i++) {
        double *x = buffer + 2 * n * ref_thread(), *res = x + n;
        ref_get_row(&a->x, i, x);
        if (a->rotate) ref_rotate(x, n, a->rotate);
        if (qw_present(&a->res)) {
            ref_get_row(&a->res, i, res);
            for (int64_t j = 0; j < n; j++) x[j] += res[j];
        }
        ref_put_row(&a->y, i, x);
    }
    free(buffer);
    return QWEN_OK;
}
