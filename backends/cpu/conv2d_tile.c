/* conv2d_tile.c - tiles of MR pixels and NW channels of a convolution. */
#include "conv2d.h"

/* An output row of a phase, one panel. */
typedef struct line {
    const void *const *table; /* [rows][wide] */
    int64_t rows, columns, wide, step, cp;
    int64_t from, to;   /* output pixels from .. to meet no zeros at the sides */
    const float *panel; /* at the first of these rows */
    float *sums;
} line;

/* sums [MR][NW] = pixels j .. j + MR of a line, V vectors of channels. */
INLINE void tile(const int V, const int pairs, const line *e, int64_t j)
{
    vf s[MR][NV];
    UNROLL(8)
    for (int q = 0; q < MR; q++) UNROLL(4)
    for (int v = 0; v < V; v++) s[q][v] = v_set(0);
    const float *w = e->panel;
    /* The pixels of a row of taps lie one behind the other: they are one longer tap. */
    const int one = j >= e->from && j + MR <= e->to;
    const int64_t columns = one ? 1 : e->columns, k = one ? e->columns * e->cp : e->cp;
    for (int64_t r = 0; r < e->rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            const void *const *at = e->table + r * e->wide + j * e->step + c;
            const float *x[MR];
            UNROLL(8)
            for (int q = 0; q < MR; q++) x[q] = at[q * e->step];
            for (int64_t l = 0; l < k; l++, w += NW) {
#ifdef VEC_BF16_PAIRS
                if (pairs) {
                    vb b[NV];
                    UNROLL(4)
                    for (int v = 0; v < V; v++)
                        b[v] = v_pairs((const uint32_t *)(const void *)(w + v * VL));
                    UNROLL(8)
                    for (int q = 0; q < MR; q++) {
                        const vb a = v_pair((const uint16_t *)(const void *)(x[q] + l));
                        UNROLL(4)
                        for (int v = 0; v < V; v++) s[q][v] = v_dot2(s[q][v], a, b[v]);
                    }
                    continue;
                }
#endif
                vf b[NV];
                UNROLL(4)
                for (int v = 0; v < V; v++) b[v] = v_load(w + v * VL);
                UNROLL(8)
                for (int q = 0; q < MR; q++) {
                    const vf a = v_set(x[q][l]);
                    UNROLL(4)
                    for (int v = 0; v < V; v++) s[q][v] = v_fma(a, b[v], s[q][v]);
                }
            }
        }
    (void)pairs;
    UNROLL(8)
    for (int q = 0; q < MR; q++) UNROLL(4)
    for (int v = 0; v < V; v++) v_store(e->sums + q * NW + v * VL, s[q][v]);
}

static void product(int V, int pairs, const line *e, int64_t j)
{
    switch (V * 2 + pairs) {
    case 2: tile(1, 0, e, j); break;
    case 4: tile(2, 0, e, j); break;
#if defined __AVX2__
    case 6: tile(3, 0, e, j); break;
#endif
#ifdef VEC_BF16_PAIRS
    case 3: tile(1, 1, e, j); break;
    case 5: tile(2, 1, e, j); break;
    case 7: tile(3, 1, e, j); break;
#endif
    default: break;
    }
}

/* A tile on its way to y: R pixels, `count` channels from o. */
typedef struct results {
    char *y[MR];
    const char *res[MR];
    int64_t R, o, count;
} results;

INLINE void finish(const qw_conv2d_args *a, qw_dtype y, qw_dtype res, const results *to,
                   const float *sums)
{
    for (int64_t c = 0; c < to->count; c += VL) {
        const vm m = v_first(to->count - c);
        const vf bias = a->bias.data ? v_load_n((const float *)a->bias.data + to->o + c, m)
                                     : v_set(0);
        for (int64_t q = 0; q < to->R; q++) {
            vf z = v_add(v_load(sums + q * NW + c), bias);
            if (res) z = v_add(z, v_get(res, to->res[q], to->o + c, m));
            v_put(y, to->y[q], to->o + c, m, z);
        }
    }
}

/* The types that occur most are constants of their own loops. */
static void finish_any(const qw_conv2d_args *a, const results *to, const float *sums)
{
    const qw_dtype y = a->y.dtype, res = a->res.data ? a->res.dtype : QW_NONE;
    if (y == QW_BF16 && !res) finish(a, QW_BF16, QW_NONE, to, sums);
    else if (y == QW_BF16 && res == QW_BF16) finish(a, QW_BF16, QW_BF16, to, sums);
    else if (y == QW_F32 && !res) finish(a, QW_F32, QW_NONE, to, sums);
    else if (y == QW_F32 && res == QW_F32) finish(a, QW_F32, QW_F32, to, sums);
    else finish(a, y, res, to, sums);
}

/* Asks for n bytes that are needed some thousand cycles later. */
INLINE void ask(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i += 64) v_prefetch_write(p + i);
    v_prefetch_write(p + n - 1);
}

/* Output row i, columns b, b + phases, ..., one panel of channels from o. */
static void run(const qw_conv2d_args *a, const conv_plan *p, const line *e, int64_t i, int64_t b,
                int64_t o)
{
    const int64_t count = p->co - o < NW ? p->co - o : NW;
    const int64_t n = (p->wo - b + p->phases - 1) / p->phases;
    const size_t size = qw_block_bytes(a->y.dtype);
    const size_t res_size = a->res.data ? qw_block_bytes(a->res.dtype) : 0;
    for (int64_t j = 0; j < n; j += MR) {
        results to = { .R = n - j < MR ? n - j : MR, .o = o, .count = count };
        for (int64_t q = 0; q < to.R; q++) {
            const int64_t k = (j + q) * p->phases + b;
            to.y[q] = conv_pixel(&a->y, i, k, size);
            to.res[q] = res_size ? conv_pixel(&a->res, i, k, res_size) : NULL;
            ask(to.y[q] + (size_t)o * size, (size_t)count * size);
            if (res_size && to.res[q] != to.y[q])
                ask(to.res[q] + (size_t)o * res_size, (size_t)count * res_size);
        }
        product((int)((count + VL - 1) / VL), p->pairs, e, j);
        finish_any(a, &to, e->sums);
    }
}

/* The table of pixels of rows from .. to of x, with zeros at both sides. */
static void list_pixels(const qw_conv2d_args *args, const conv_plan *p, const char *zero,
                        const conv_rows *x)
{
    const size_t size = qw_block_bytes(args->x.dtype);
    for (int64_t r = 0; r < x->to - x->from; r++) {
        const void **to = x->table + r * p->wide;
        const char *row = p->convert ? (const char *)(x->x + r * p->wi * p->ci)
                                     : conv_pixel(&args->x, x->from + r, 0, size);
        const size_t step = p->convert ? (size_t)p->ci * sizeof(float)
                                       : (size_t)args->x.stride[1] * size;
        for (int64_t k = 0; k < p->wide; k++) {
            const int64_t j = k + p->left;
            to[k] = j < 0 || j >= p->wi ? zero : row + (size_t)j * step;
        }
    }
}

/* The rows and taps that output row ii of phase (a, b) meets; rows outside the picture are left out. */
static line look_at(const conv_plan *p, conv_taps rows, conv_taps columns, int64_t ii,
                    const float *panel, const conv_rows *x)
{
    const int64_t at = ii * p->step + rows.first, end = at + rows.n;
    const int64_t from = at < 0 ? 0 : at, to = end < p->hi ? end : p->hi;
    line e = {
        .columns = columns.n, .wide = p->wide, .step = p->step, .cp = p->cp, .sums = x->sums
    };
    if (to <= from) return e;
    e.rows = to - from;
    e.table = (const void *const *)x->table + (from - x->from) * p->wide + columns.first - p->left;
    e.panel = panel + (from - at) * columns.n * p->cp * NW;
    if (p->dense) {
        e.from = (-columns.first + p->step - 1) / p->step;
        e.to = conv_floor(p->wi - columns.first - columns.n, p->step) + 1;
    }
    return e;
}

void QW_NAME(conv_block)(const qw_conv2d_args *args, const conv_plan *p, int64_t ii0, int64_t ii1,
                         const char *panels, const char *zero, const conv_rows *x)
{
    list_pixels(args, p, zero, x);
    for (int64_t k = 0; k < p->phases * p->phases * p->panels; k++) {
        const int64_t a = k / p->panels / p->phases, b = k / p->panels % p->phases;
        const conv_taps rows = conv_taps_of(args, a, p->kh, args->top);
        const conv_taps columns = conv_taps_of(args, b, p->kw, args->left);
        const float *panel = (const float *)(const void *)(panels + (size_t)k * p->panel);
        for (int64_t ii = ii0; ii < ii1 && ii * p->phases + a < p->ho; ii++) {
            const line e = look_at(p, rows, columns, ii, panel, x);
            run(args, p, &e, ii * p->phases + a, b, k % p->panels * NW);
        }
    }
}
