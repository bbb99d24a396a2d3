/* conv2d.c - convolution of a picture, channels last. */
#include "ref.h"
#include "rows.h"
#include <stdlib.h>
#include <string.h>

/* The kernel's view at output column ox: [kh][kw][ci], zeros outside the picture.  rows: the kh rows of
 * x that this output row sees, decoded, or NULL where they are padding. */
static void patch(const qw_conv2d_args *a, double *const *rows, int64_t ox, double *out)
{
    const int64_t kh = a->w.dim[1], kw = a->w.dim[2], ci = a->w.dim[3], wide = a->x.dim[1] * a->up;
    for (int64_t ky = 0; ky < kh; ky++)
        for (int64_t kx = 0; kx < kw; kx++, out += ci) {
            const int64_t ix = ox * a->stride + kx - a->left;
            if (rows[ky] && ix >= 0 && ix < wide)
                memcpy(out, rows[ky] + ix / a->up * ci, (size_t)ci * sizeof *out);
            else
                memset(out, 0, (size_t)ci * sizeof *out);
        }
}

/* Output row oy.  scratch: kh rows of x, a patch, an output pixel, a pixel of res; `row` points at kh pointers. */
static void output_row(const qw_conv2d_args *a, const double *w, const double *bias, int64_t oy, double *scratch,
                       double **row)
{
    const int64_t kh = a->w.dim[1], kw = a->w.dim[2], ci = a->w.dim[3], co = a->w.dim[0], wi = a->x.dim[1];
    const int64_t size = kh * kw * ci;
    double *seen = scratch + kh * wi * ci, *y = seen + size, *res = y + co;
    for (int64_t ky = 0; ky < kh; ky++) {
        const int64_t iy = oy * a->stride + ky - a->top;
        row[ky] = iy >= 0 && iy < a->x.dim[0] * a->up ? scratch + ky * wi * ci : NULL;
        for (int64_t ix = 0; row[ky] && ix < wi; ix++) ref_get_row(&a->x, iy / a->up * wi + ix, row[ky] + ix * ci);
    }
    for (int64_t ox = 0; ox < a->y.dim[1]; ox++) {
        patch(a, row, ox, seen);
        if (qw_present(&a->res)) ref_get_row(&a->res, oy * a->y.dim[1] + ox, res);
        for (int64_t o = 0; o < co; o++) {
            y[o] = ref_dot(seen, w + o * size, size);
            if (bias) y[o] += bias[o];
            if (qw_present(&a->res)) y[o] += res[o];
        }
        ref_put_row(&a->y, oy * a->y.dim[1] + ox, y);
    }
}

/* y[oy][ox][o] = res[oy][ox][o] + bias[o]
 *              + sum_{ky,kx,c} up(x)[oy stride + ky - top][ox stride + kx - left][c] w[o][ky][kx][c]
 * y, res [ho][wo][co]; x [hi][wi][ci]; w [co][kh][kw][ci]; up(x) repeats each pixel `up` times both
 * ways; what lies outside the picture is zero.
 * torch.nn.Conv2d and Upsample(nearest-exact).  Bound: numerics.md, conv2d. */
int ref_conv2d(qw_device *dev, const qw_conv2d_args *a)
{
    const int64_t co = a->w.dim[0], kh = a->w.dim[1], kw = a->w.dim[2], ci = a->w.dim[3];
    const int64_t size = kh * kw * ci;
    const int threads = ref_threads(dev);
    const size_t each = (size_t)(kh * a->x.dim[1] * ci + size + 2 * co);
    double *w = malloc(sizeof *w * (size_t)(co * size + co + 1));
    double *buffer = malloc(sizeof *buffer * each * (size_t)threads);
    double **rows = malloc(sizeof *rows * (size_t)kh * (size_t)threads);
    const int ok = w && buffer && rows;
    if (ok) {
        double *bias = w + co * size;
        for (int64_t i = 0; i < co * kh * kw; i++) ref_get_row(&a->w, i, w + i * ci);
        if (qw_present(&a->bias)) ref_get_row(&a->bias, 0, bias);
        else bias = NULL;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads)
#endif
        for (int64_t oy = 0; oy < a->y.dim[0]; oy++)
            output_row(a, w, bias, oy, buffer + (size_t)ref_thread() * each, rows + ref_thread() * kh);
    }
    free(w);
    free(buffer);
    free(rows);
    return ok ? QWEN_OK : QWEN_ENOMEM;
}
