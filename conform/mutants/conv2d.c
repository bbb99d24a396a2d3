/* conv2d.c - a row of the result at a time, taps added up pixel by pixel. */
#include "mutant.h"

size_t plain_conv2d_scratch(const qw_conv2d_args *a)
{
    const int64_t w = a->w.dim[0] * a->w.dim[1] * a->w.dim[2] * a->w.dim[3];
    return (size_t)(w + a->x.dim[0] * a->x.dim[1] * a->x.dim[2] + 64) * sizeof(float);
}

static int dense(const qw_tensor *t)
{
    return t->stride[1] == t->dim[2] && t->stride[0] == t->dim[1] * t->dim[2];
}

/* The pixel of x that an output pixel meets at a tap, or NULL outside. */
static const float *pixel(qw_device *d, const qw_conv2d_args *a, const float *x, int64_t i,
                          int64_t j, int64_t u, int64_t v)
{
    const int64_t hi = a->x.dim[0] * a->up, wi = a->x.dim[1] * a->up;
    const int64_t left = mutated(d, M_conv2d_stride) && a->stride > 1 ? 0 : a->left;
    int64_t row = i * a->stride - a->top + u, column = j * a->stride - left + v;
    if (mutated(d, M_conv2d_top_edge) && row == -1) row = 0;
    if (row < 0 || row >= hi || column < 0 || column >= wi) return NULL;
    if (mutated(d, M_conv2d_right_edge) && column == wi - 1 && wi > 1) return NULL;
    if (mutated(d, M_conv2d_dense_edge) && column == wi - 1 && wi > 1 && dense(&a->x)
        && dense(&a->y))
        return NULL;
    if (mutated(d, M_conv2d_enlarged) && a->up == 2 && column + 1 < wi) column++;
    return x + ((row / a->up) * a->x.dim[1] + column / a->up) * a->x.dim[2];
}

static float sum(qw_device *d, const qw_conv2d_args *a, const float *x, const float *w, int64_t i,
                 int64_t j)
{
    const int64_t kh = a->w.dim[1], kw = a->w.dim[2], ci = a->x.dim[2];
    float s = 0;
    for (int64_t u = 0; u < kh; u++)
        for (int64_t v = 0; v < kw; v++) {
            const float *p = pixel(d, a, x, i, j, u, v), *t = w + (u * kw + v) * ci;
            for (int64_t c = 0; p && c < ci; c++) s += p[c] * t[c];
        }
    return s;
}

int plain_conv2d(qw_device *d, const qw_conv2d_args *a)
{
    const int64_t co = a->y.dim[2], kh = a->w.dim[1], kw = a->w.dim[2], ci = a->x.dim[2];
    if (d->room_bytes < plain_conv2d_scratch(a)) return QWEN_ENOMEM;
    float *w = d->room, *x = w + co * kh * kw * ci;
    for (int64_t o = 0; o < co; o++)
        for (int64_t t = 0; t < kh * kw; t++)
            plain_row(&a->w, o, t / kw, t % kw, w + (o * kh * kw + t) * ci);
    for (int64_t i = 0; i < a->x.dim[0]; i++)
        for (int64_t j = 0; j < a->x.dim[1]; j++)
            plain_row(&a->x, i, j, 0, x + (i * a->x.dim[1] + j) * ci);
#pragma omp parallel for num_threads(plain_threads(d)) schedule(static)
    for (int64_t i = 0; i < a->y.dim[0]; i++)
        for (int64_t j = 0; j < a->y.dim[1]; j++)
            for (int64_t o = 0; o < co; o++) {
                float z = sum(d, a, x, w + o * kh * kw * ci, i, j);
                const int last = mutated(d, M_conv2d_tail_channel) && co % 2 && o == co - 1;
                if (!last) z += plain_get(&a->bias, o, 0, 0);
                plain_put(&a->y, i, j, o, z + plain_get(&a->res, i, j, o));
            }
    return QWEN_OK;
}
