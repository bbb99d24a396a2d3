/* conv2d.h - what the files of conv2d share: its plan, the layout of the weights, the tile.
 *
 * Output rows i = phases ii + a, a = 0 .. phases - 1, see the rows ii step + first(a) and on of x as it
 * lies: with up = 2 the rows of an enlarged picture that are copies of one row become one tap, whose
 * weights are sums.  Columns likewise.  A phase (a, b) is then a convolution with fewer taps and no
 * enlargement; where nothing is enlarged there is one phase.
 *
 * Output channels are the lanes.  The weights of a phase are panels of NW channels, [taps][cp][NW]
 * words: floats, or pairs of bf16 that are neighbours along the input channels. */
#ifndef QW_CONV2D_H
#define QW_CONV2D_H
#include "kernel.h"

/* Taps of a phase along rows or columns: source positions first .. first + n. */
typedef struct conv_taps {
    int64_t first, n;
} conv_taps;

typedef struct conv_plan {
    int64_t ho, wo, co, hi, wi, ci, kh, kw;
    int64_t phases, step; /* of rows and of columns */
    int64_t most;         /* taps of a phase, at most */
    int64_t cp, panels;   /* words along ci; panels of NW channels */
    int64_t block;        /* rows of a phase to a task */
    int64_t seen;         /* rows of x that a task sees, at most */
    int64_t left, wide;   /* columns of x that a row of tiles sees, with those outside */
    int pairs, convert, dense, threads;        /* dense: the pixels of a row lie without gaps */
    size_t panel, zero, table, x, each, bytes; /* of a panel; of zeros; of a thread; in all */
} conv_plan;

/* A task's view of x: rows from .. to, which lie in x, and a table of their pixels. */
typedef struct conv_rows {
    int64_t from, to;
    const float *x;     /* [to - from][wi][ci] where they are converted */
    const void **table; /* [to - from][wide] pointers to pixels, from column `left` on */
    float *sums;        /* [MR][NW] */
} conv_rows;

static inline int64_t conv_floor(int64_t x, int64_t by) { return (x - (x < 0 ? by - 1 : 0)) / by; }

/* Taps of phase a with k rows (or columns) of weights and `before` rows of padding. */
static inline conv_taps conv_taps_of(const qw_conv2d_args *args, int64_t a, int64_t k,
                                     int64_t before)
{
    const int64_t at = a * args->stride - before, first = conv_floor(at, args->up);
    return (conv_taps){ first, conv_floor(at + k - 1, args->up) - first + 1 };
}

static inline char *conv_pixel(const qw_tensor *t, int64_t i, int64_t j, size_t size)
{
    return (char *)t->data + (size_t)(i * t->stride[0] + j * t->stride[1]) * size;
}

/* The panel of phase (a, b) for output channels o .. o + NW at tap (r, c). */
void QW_NAME(conv_lay)(const qw_conv2d_args *args, const conv_plan *p, int64_t phase, int64_t o,
                       int64_t tap, float *to);
/* Rows from .. to of x as floats, [to - from][wi][ci]. */
void QW_NAME(conv_lay_rows)(const qw_conv2d_args *args, const conv_plan *p, int64_t from,
                            int64_t to, float *x);
/* Rows ii0 .. ii1 of each phase. */
void QW_NAME(conv_block)(const qw_conv2d_args *args, const conv_plan *p, int64_t ii0, int64_t ii1,
                         const char *panels, const char *zero, const conv_rows *rows);
#endif
