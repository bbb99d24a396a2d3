/* conv2d.c - two-dimensional convolution, channels last. */
#include <qwen/ref.h>
#include "rows.h"
#include <stdlib.h>
#include <string.h>

/* The window of output column j, out of rows [kh][wi][ci] of the picture, to patch [kh][kw][ci];
 * zeros outside. */
static void window(const qw_conv2d_args *a, const double *rows, int64_t j, double *patch)
{
    const int64_t kh = a->w.dim[1], kw = a->w.dim[2], wi = a->x.dim[1], ci = a->x.dim[2];
    for (int64_t v = 0; v < kw; v++) {
        const int64_t column = j * a->stride - a->left + v; /* of the enlarged picture */
        const int inside = column >= 0 && column < wi * a->up;
        for (int64_t u = 0; u < kh; u++) {
            double *p = patch + (u * kw + v) * ci;
            if (inside) memcpy(p, rows + (u * wi + column / a->up) * ci, (size_t)ci * sizeof *p);
            else memset(p, 0, (size_t)ci * sizeof *p);
        }
    }
}

/* Rows of the picture under the windows of output row i, [kh][wi][ci]; zeros outside. */
static void picture_rows(const qw_conv2d_args *a, int64_t i, double *rows)
{
    const int64_t hi = a->x.dim[0], wi = a->x.dim[1], ci = a->x.dim[2];
    for (int64_t u = 0; u < a->w.dim[1]; u++) {
        const int64_t row = i * a->stride - a->top + u; /* of the enlarged picture */
        double *p = rows + u * wi * ci;
        if (row < 0 || row >= hi * a->up) memset(p, 0, (size_t)(wi * ci) * sizeof *p);
        else
            for (int64_t c = 0; c < wi; c++) qw_row_get(&a->x, row / a->up, c, 0, p + c * ci);
    }
}

/* conv2d: y[i][j][o] = res[i][j][o] + bias[o]
 *                    + sum over u, v, c of w[o][u][v][c] X[i s - top + u][j s - left + v][c],
 * s the stride, X the picture x enlarged `up` times by repetition (nearest), 0 outside.
 * x [hi][wi][ci], w [co][kh][kw][ci], bias [co], res and y [ho][wo][co].
 * torch.nn.functional.conv2d after F.pad and nearest F.interpolate.
 * Bound: doc/numerics.md, conv2d. */
int ref_conv2d(qw_device *dev, const qw_conv2d_args *a)
{
    const int64_t ho = a->y.dim[0], wo = a->y.dim[1], co = a->y.dim[2];
    const int64_t kh = a->w.dim[1], kw = a->w.dim[2], ci = a->x.dim[2], k = kh * kw * ci;
    const int64_t seen = kh * a->x.dim[1] * ci, each = seen + k + 2 * co;
    const int threads = ref_threads(dev, ho, wo * co * k);
    double *w = ref_room(co, k + 1), *room = ref_room(threads, each);
    if (!w || !room) {
        free(w);
        free(room);
        return QWEN_ENOMEM;
    }
    for (int64_t o = 0; o < co; o++)
        for (int64_t uv = 0; uv < kh * kw; uv++)
            qw_row_get(&a->w, o, uv / kw, uv % kw, w + (o * kh * kw + uv) * ci);
    double *bias = w + co * k;
    ref_vector(&a->bias, co, 0, bias);
    atomic_int stop = 0;
    REF_PARALLEL(threads)
    for (int64_t i = 0; i < ho; i++) {
        if (ref_stopped(dev, &stop)) continue;
        double *rows = room + ref_thread() * each, *patch = rows + seen, *y = patch + k;
        double *res = y + co;
        picture_rows(a, i, rows);
        for (int64_t o = 0; o < co; o++) res[o] = 0;
        for (int64_t j = 0; j < wo; j++) {
            window(a, rows, j, patch);
            if (qw_present(&a->res)) qw_row_get(&a->res, i, j, 0, res);
            for (int64_t o = 0; o < co; o++) y[o] = res[o] + bias[o] + ref_dot(w + o * k, patch, k);
            qw_row_put(&a->y, i, j, 0, y);
        }
    }
    free(w);
    free(room);
    return atomic_load(&stop) ? QWEN_ECANCELLED : QWEN_OK;
}
