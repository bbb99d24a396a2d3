/* conv2d_lay.c - operands of conv2d as words: weights as panels, rows of x as floats. */
#include "conv2d.h"

static const char *weights_at(const qw_tensor *w, int64_t o, int64_t u, int64_t v)
{
    return (const char *)w->data
           + (size_t)(o * w->stride[0] + u * w->stride[1] + v * w->stride[2])
                 * qw_block_bytes(w->dtype);
}

/* The rows (or columns) u0 .. u1 of the weights that tap r of phase a sums. */
static void merged(const qw_conv2d_args *args, int64_t a, int64_t r, int64_t k, int64_t before,
                   int64_t *u0, int64_t *u1)
{
    const int64_t at = a * args->stride - before;
    const int64_t from = (conv_floor(at, args->up) + r) * args->up - at, to = from + args->up;
    *u0 = from > 0 ? from : 0;
    *u1 = to < k ? to : k;
}

/* Words c and on of a tap of output channel o: floats, summed, or pairs. */
static vf words(const qw_conv2d_args *args, const conv_plan *p, int64_t o, const int64_t *u,
                const int64_t *v, int64_t c)
{
    const qw_tensor *w = &args->w;
#ifdef VEC_BF16_PAIRS
    if (p->pairs)
        return v_words((const uint16_t *)(const void *)weights_at(w, o, u[0], v[0]) + 2 * c,
                       p->ci - 2 * c);
#endif
    const vm m = v_first(p->ci - c);
    vf s = v_set(0);
    for (int64_t i = u[0]; i < u[1]; i++)
        for (int64_t j = v[0]; j < v[1]; j++)
            s = v_add(s, v_get(w->dtype, weights_at(w, o, i, j), c, m));
    return s;
}

void QW_NAME(conv_lay)(const qw_conv2d_args *args, const conv_plan *p, int64_t phase, int64_t o,
                       int64_t tap, float *to)
{
    const int64_t a = phase / p->phases, b = phase % p->phases;
    const conv_taps rows = conv_taps_of(args, a, p->kh, args->top);
    const conv_taps columns = conv_taps_of(args, b, p->kw, args->left);
    if (tap >= rows.n * columns.n) return; /* of another phase */
    int64_t u[2], v[2];
    merged(args, a, tap / columns.n, p->kh, args->top, &u[0], &u[1]);
    merged(args, b, tap % columns.n, p->kw, args->left, &v[0], &v[1]);
    to += tap * p->cp * NW;
    for (int i = 0; i < NW; i += VL)
        for (int64_t c = 0; c < p->cp; c += VL) {
            vf r[VL];
            for (int k = 0; k < VL; k++)
                r[k] = o + i + k < p->co ? words(args, p, o + i + k, u, v, c) : v_set(0);
            v_transpose(r);
            for (int64_t k = 0; k < VL && c + k < p->cp; k++) v_store(to + (c + k) * NW + i, r[k]);
        }
}

void QW_NAME(conv_lay_rows)(const qw_conv2d_args *args, const conv_plan *p, int64_t from,
                            int64_t to, float *x)
{
    const size_t size = qw_block_bytes(args->x.dtype);
    for (int64_t i = from; i < to; i++)
        for (int64_t j = 0; j < p->wi; j++, x += p->ci)
            for (int64_t c = 0; c < p->ci; c += VL) {
                const vm m = v_first(p->ci - c);
                v_store_n(x + c, m, v_get(args->x.dtype, conv_pixel(&args->x, i, j, size), c, m));
            }
}
