/* tiles_gemm.c - gemm as products of tiles: x of bf16, or rows of 8-bit codes.
 *
 * Both kinds are words of 32 bits: a pair of bf16, or four codes.  Rows of x become columns of
 * words once a call, 16 rows at a time, so that 16 words of them are a tile.  A thread takes GROUP
 * rows of w at a time and copies KW words of each, unpacked or quantised where they are neither
 * bf16 nor codes, into tiles that stay in the second-level cache.  2 x 2 tiles of sums stay in
 * registers for KW words; between them they lie in a buffer of the thread.
 *
 * The sums become floats, times the scales of rows; LoRA's product is added by tiles of bf16.  Then
 * a block is transposed and leaves as rows of y.  The order of additions follows from k alone. */
#include "tiles.h"
#include "gemm.h"
#include "int8.h"

enum { GROUP = 128, KW = 1536, MC = 1024, PAIR = 2 * TILE, LEAST = TILE, DEEPEST = 1 << 17 };
enum { XBYTES = 24 << 20 }; /* of the columns of x */

typedef union word {
    float f;
    int32_t i;
    uint32_t bits;
} word;

typedef struct plan {
    int64_t m, n, k, r;
    int codes;              /* x is rows of codes, else bf16 */
    int direct;             /* rows of w are of the type of x */
    int64_t words, words2;  /* of a row of x, of x2: whole tiles */
    int64_t mc;             /* rows of x at a time: whole pairs of tiles */
    int64_t groups, shares; /* of rows of w; of the columns, where groups are too few */
    int threads;
    size_t x, x2, tiles, tiles2, rows, row, sums, flip; /* bytes of each buffer */
    size_t each, bytes;                                 /* of a thread; of all */
} plan;

static int64_t ratio_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int taken(const cpu_device *dev, const qw_gemm_args *a)
{
    const int codes = a->x.dtype == QW_I8;
    if (codes ? !dev->codes : a->x.dtype != QW_BF16) return 0;
    if (a->y.dim[0] < LEAST || a->x.dim[1] > DEEPEST) return 0;
    if (!cpu_float(a->y.dtype) || !QW_NAME(unpacks)(&a->w)) return 0;
    if (!codes && (a->w.dtype == QW_F32 || a->w.dtype == QW_F16))
        return 0; /* they would lose bits */
    if (qw_present(&a->res) && !cpu_float(a->res.dtype)) return 0;
    return !qw_present(&a->x2) || (a->x2.dtype == QW_BF16 && a->w2.dtype == QW_BF16);
}

static plan plan_of(const cpu_device *dev, const qw_gemm_args *a)
{
    plan p = { .m = a->y.dim[0], .n = a->y.dim[1], .k = a->x.dim[1] };
    p.r = qw_present(&a->x2) ? a->x2.dim[1] : 0;
    p.codes = a->x.dtype == QW_I8;
    p.direct = a->w.dtype == a->x.dtype;
    p.words = ratio_up(p.k, p.codes ? 4 * TILE : 2 * TILE) * TILE;
    p.words2 = ratio_up(p.r, 2 * TILE) * TILE;
    const int64_t most = XBYTES / ((p.words + p.words2) * 4 * PAIR) * PAIR;
    p.mc = most < PAIR ? PAIR : most < MC ? most : MC;
    p.mc = ratio_up(ratio_up(p.m, ratio_up(p.m, p.mc)), PAIR) * PAIR; /* blocks of equal size */
    p.groups = ratio_up(p.n, GROUP);
    p.threads = cpu_threads(&dev->d, (double)p.m * (double)p.n * (double)(p.k + p.r) / 4);
    p.shares = p.threads > 1 && p.groups < 8 * p.threads ? ratio_up(8 * p.threads, p.groups) : 1;
    if (p.shares > p.mc / PAIR) p.shares = p.mc / PAIR;
    const int64_t deep = p.words < KW ? p.words : KW;
    p.x = (size_t)(p.words * p.mc) * 4;
    p.x2 = (size_t)(p.words2 * p.mc) * 4;
    p.tiles = (size_t)(GROUP * deep) * 4;
    p.tiles2 = (size_t)(GROUP * p.words2) * 4;
    if (!p.direct) p.rows = (size_t)(GROUP * (p.codes ? p.words : deep)) * 4;
    if (!p.direct && p.codes) p.row = cpu_line((size_t)p.k * 8);
    p.sums = (size_t)(GROUP * (p.words > KW ? p.mc : PAIR)) * 4;
    p.flip = (size_t)(GROUP * TILE) * 4;
    p.each = p.tiles + p.tiles2 + p.rows + p.row + p.sums + p.flip;
    p.bytes = p.x + p.x2 + (size_t)p.threads * p.each + 64;
    return p;
}

size_t QW_NAME(tile_gemm_scratch)(const cpu_device *dev, const qw_gemm_args *a)
{
    return taken(dev, a) ? plan_of(dev, a).bytes : 0;
}

/* --- columns of x ----------------------------------------------------------------------------- */

/* Words l .. l + TILE of rows i .. i + count of x, at most TILE, as a tile of columns; zeros
 * beyond. */
static void pack_tile(const qw_tensor *x, int64_t i, int64_t count, int64_t l, char *out)
{
    const size_t size = qw_block_bytes(x->dtype), row = (size_t)x->dim[1] * size;
    const size_t at = (size_t)l * 4, left = at < row ? row - at : 0;
    float from[TILE][TILE] = { { 0 } }, to[TILE][TILE];
    for (int64_t e = 0; e < count && left; e++)
        memcpy(from[e], (const char *)x->data + (size_t)((i + e) * x->stride[0]) * size + at,
               left < 64 ? left : 64);
    for (int p = 0; p < TILE; p += VL)
        for (int e = 0; e < TILE; e += VL) {
            vf r[VL];
            for (int q = 0; q < VL; q++) r[q] = v_load(from[e + q] + p);
            v_transpose(r);
            for (int q = 0; q < VL; q++) v_store(to[p + q] + e, r[q]);
        }
    memcpy(out, to, sizeof to);
}

/* Rows i0 + TILE u .. of x, up to i0 + rows, as columns [words][TILE]. */
static void pack(const qw_tensor *x, int64_t words, int64_t i0, int64_t rows, int64_t u, char *out)
{
    const int64_t left = rows - u * TILE, count = left < 0 ? 0 : left < TILE ? left : TILE;
    for (int64_t l = 0; l < words; l += TILE)
        pack_tile(x, i0 + u * TILE, count, l, out + (u * words + l) * TILE * 4);
}

/* --- tiles of w ------------------------------------------------------------------------------- */

/* `bytes` bytes of each of `count` rows as tiles [ceil(count / TILE)][words / TILE]; zeros
 * beyond. */
static void copy_tiles(const char *rows, size_t step, int64_t count, size_t bytes, int64_t words,
                       char *out)
{
    for (int64_t i = 0; i < ratio_up(count, PAIR) * PAIR; i++) {
        char *to = out + (i / TILE * words * TILE + i % TILE * TILE) * 4;
        for (size_t at = 0; at < (size_t)words * 4; at += 64, to += TILE_BYTES) {
            const size_t left = i < count && at < bytes ? bytes - at : 0;
            if (left < 64) memset(to, 0, 64);
            if (left) memcpy(to, rows + (size_t)i * step + at, left < 64 ? left : 64);
        }
    }
}

#ifndef VEC_DOT4
/* As in int8_weights.c, for sets that do not have it. */
static void QW_NAME(weight_codes)(const qw_tensor *w, int64_t j, int64_t rows, int8_t *out,
                                  int64_t ld, float *worth, void *room)
{
    for (int64_t q = 0; q < rows; q++) {
        qw_row_get(w, j + q, 0, 0, room);
        worth[q] = qw_row_quantise(room, w->dim[1], out + q * ld);
    }
}
#endif

typedef struct work {
    const qw_gemm_args *a;
    const plan *p;
    int64_t i0, rows; /* of x, as columns at x and x2 */
    const char *x, *x2;
} work;

/* A thread's buffers, and what belongs to the rows of a group. */
typedef struct own {
    char *tiles, *tiles2, *rows;
    void *row; /* room for the numbers of a row */
    word *sums;
    float *flip;
    float worth[GROUP]; /* of a sum of row j + q */
    tiles t;
} own;

static void own_buffers(const plan *p, char *room, own *o)
{
    o->tiles = room, room += p->tiles;
    o->tiles2 = room, room += p->tiles2;
    o->rows = room, room += p->rows;
    o->row = room, room += p->row;
    o->sums = (word *)(void *)room, room += p->sums;
    o->flip = (float *)(void *)room;
}

/* Before the first words: what a sum of each row is worth, rows of codes, the second factor. */
static void begin_group(const work *s, own *o, int64_t j, int64_t count)
{
    const plan *p = s->p;
    const qw_tensor *w = &s->a->w, *w2 = &s->a->w2;
    if (p->codes && !p->direct)
        QW_NAME(weight_codes)(w, j, count, (int8_t *)o->rows, 4 * p->words, o->worth, o->row);
    else
        for (int64_t q = 0; q < count; q++) o->worth[q] = QW_NAME(row_scale)(w, j + q);
    if (!p->r) return;
    const size_t step = (size_t)w2->stride[0] * 2;
    copy_tiles((const char *)w2->data + (size_t)j * step, step, count, (size_t)p->r * 2, p->words2,
               o->tiles2);
}

/* Words l .. l + words of rows j .. j + count of w as tiles. */
static void tiles_of_w(const work *s, own *o, int64_t j, int64_t count, int64_t l, int64_t words)
{
    const plan *p = s->p;
    const qw_tensor *w = &s->a->w;
    const size_t each = p->codes ? 1 : 2, all = (size_t)p->k * each, at = (size_t)l * 4;
    const size_t left = all - at < (size_t)words * 4 ? all - at : (size_t)words * 4;
    const char *rows = o->rows;
    size_t step = (size_t)words * 4;
    if (p->direct) {
        step = (size_t)w->stride[0] * each;
        rows = (const char *)w->data + (size_t)j * step + at;
    } else if (p->codes) {
        step = (size_t)p->words * 4;
        rows += at;
    } else QW_NAME(unpack_bf16)
    (w, j, count, 2 * l, (int64_t)left / 2, (uint16_t *)(void *)o->rows, 2 * words);
    copy_tiles(rows, step, count, left, words, o->tiles);
}

/* --- products --------------------------------------------------------------------------------- */

/* c [PAIR][PAIR] (+)= two rows of tiles at a times two columns of tiles at b, `words` long.  Memory
 * at `next` comes into the cache, `lines` cache lines a step. */
#define TILE_PRODUCT(name, dot)                                                                    \
    static void name(tiles *t, const char *a, const char *b, int64_t step, int64_t words, word *c, \
                     int more, const char *next, int64_t lines)                                    \
    {                                                                                              \
        const char *a1 = a + words * TILE * 4, *b1 = b + step;                                     \
        (void)t;                                                                                   \
        tile_zero(t, 0);                                                                           \
        tile_zero(t, 1);                                                                           \
        tile_zero(t, 2);                                                                           \
        tile_zero(t, 3);                                                                           \
        if (more) {                                                                                \
            tile_load(t, 0, c, PAIR * 4);                                                          \
            tile_load(t, 1, c + TILE, PAIR * 4);                                                   \
            tile_load(t, 2, c + TILE * PAIR, PAIR * 4);                                            \
            tile_load(t, 3, c + TILE * PAIR + TILE, PAIR * 4);                                     \
        }                                                                                          \
        for (int64_t l = 0; l < words * TILE * 4; l += TILE_BYTES) {                               \
            tile_load(t, 4, a + l, 64);                                                            \
            tile_load(t, 6, b + l, 64);                                                            \
            dot(t, 0, 4, 6);                                                                       \
            tile_load(t, 7, b1 + l, 64);                                                           \
            dot(t, 1, 4, 7);                                                                       \
            tile_load(t, 5, a1 + l, 64);                                                           \
            dot(t, 2, 5, 6);                                                                       \
            dot(t, 3, 5, 7);                                                                       \
            for (int64_t e = 0; e < lines; e++, next += 64) v_prefetch(next);                      \
        }                                                                                          \
        tile_store(t, 0, c, PAIR * 4);                                                             \
        tile_store(t, 1, c + TILE, PAIR * 4);                                                      \
        tile_store(t, 2, c + TILE * PAIR, PAIR * 4);                                               \
        tile_store(t, 3, c + TILE * PAIR + TILE, PAIR * 4);                                        \
    }
TILE_PRODUCT(product_pairs, tile_dot_pairs)
TILE_PRODUCT(product_bytes, tile_dot_bytes)

/* c [count][PAIR] (+)= `count` rows of tiles a times columns b; next: the columns after these. */
static void product(own *o, int codes, const char *a, int64_t count, const char *b, int64_t step,
                    int64_t words, word *c, int more, const char *next)
{
    const int64_t pairs = ratio_up(count, PAIR), steps = pairs * (words / TILE);
    const int64_t lines = ratio_up(words * PAIR * 4 / 64, steps);
    for (int64_t i = 0; i < pairs; i++) {
        const char *rows = a + i * PAIR * words * 4,
                   *ahead = next + i * (words / TILE) * lines * 64;
        if (codes)
            product_bytes(&o->t, rows, b, step, words, c + i * PAIR * PAIR, more, ahead, lines);
        else product_pairs(&o->t, rows, b, step, words, c + i * PAIR * PAIR, more, ahead, lines);
    }
}

/* --- rows of y -------------------------------------------------------------------------------- */

static float scale_of_x(const qw_tensor *x, int64_t i)
{
    float s = 1;
    if (x->scale)
        memcpy(&s, (const char *)x->scale + (size_t)(i * x->scale_stride) * sizeof s, sizeof s);
    return s;
}

/* Sums [count][PAIR] of columns i .. i + rows become floats, times what they are worth. */
static void numbers(const work *s, const own *o, int64_t i, int64_t rows, int64_t count, word *c)
{
    float of_x[PAIR];
    if (!s->p->codes && !s->a->w.scale) return;
    for (int64_t e = 0; e < PAIR; e++)
        of_x[e] = s->p->codes && e < rows ? scale_of_x(&s->a->x, i + e) : 1;
    for (int64_t q = 0; q < count; q++, c += PAIR)
        for (int e = 0; e < PAIR; e++)
            c[e].f = (s->p->codes ? (float)c[e].i : c[e].f) * (o->worth[q] * of_x[e]);
}

/* Floats c [count][PAIR] become columns j .. j + count of rows i .. i + rows of y. */
static void finish(const work *s, own *o, int64_t i, int64_t rows, int64_t j, int64_t count,
                   const word *c)
{
    for (int64_t v = 0; v < PAIR && v < rows; v += TILE) {
        for (int64_t b = 0; b < count; b += VL)
            for (int e = 0; e < TILE; e += VL) {
                vf r[VL];
                for (int q = 0; q < VL; q++) r[q] = v_load(&c[(b + q) * PAIR + v + e].f);
                v_transpose(r);
                for (int q = 0; q < VL; q++) v_store(o->flip + (e + q) * GROUP + b, r[q]);
            }
        for (int64_t e = 0; e < TILE && v + e < rows; e++)
            QW_NAME(finish_row)(s->a, i + v + e, j, count, o->flip + e * GROUP);
    }
}

/* Rows j .. j + count of w with pairs of columns from .. to of x. */
static void group(const work *s, own *o, int64_t j, int64_t count, int64_t from, int64_t to)
{
    const plan *p = s->p;
    begin_group(s, o, j, count);
    for (int64_t l = 0; l < p->words; l += KW) {
        const int64_t words = p->words - l < KW ? p->words - l : KW;
        const int64_t column = p->words * TILE * 4, column2 = p->words2 * TILE * 4;
        tiles_of_w(s, o, j, count, l, words);
        for (int64_t t = from; t < to; t++) {
            word *c = o->sums + (p->words > KW ? t * PAIR * GROUP : 0);
            const char *b = s->x + 2 * t * column + l * TILE * 4;
            const int64_t begin = t * PAIR, left = s->rows - begin;
            product(o, p->codes, o->tiles, count, b, column, words, c, l > 0, b + 2 * column);
            if (l + words < p->words) continue;
            numbers(s, o, s->i0 + begin, left, count, c);
            if (p->r)
                product(o, 0, o->tiles2, count, s->x2 + 2 * t * column2, column2, p->words2, c, 1,
                        b + 2 * column);
            finish(s, o, s->i0 + begin, left < PAIR ? left : PAIR, j, count, c);
        }
    }
}

/* --- the op ----------------------------------------------------------------------------------- */

/* All of w with up to mc rows of x. */
static int block(qw_device *d, const work *s, char *x, char *x2, char *room)
{
    const plan *p = s->p;
    const int64_t all = ratio_up(s->rows, PAIR);
    int stop = 0;
    CPU_OMP(parallel num_threads(p->threads))
    {
        own o;
        own_buffers(p, room + (size_t)cpu_thread() * p->each, &o);
        tiles_begin(&o.t);
CPU_OMP(for schedule(static))
for (int64_t u = 0; u < 2 * all; u++) {
    pack(&s->a->x, p->words, s->i0, s->rows, u, x);
    if (p->r) pack(&s->a->x2, p->words2, s->i0, s->rows, u, x2);
}
CPU_OMP(for schedule(dynamic))
for (int64_t t = 0; t < p->groups * p->shares; t++) {
    const int64_t j = t / p->shares * GROUP, share = t % p->shares;
    if (!cpu_stopped(d, &stop))
        group(s, &o, j, p->n - j < GROUP ? p->n - j : GROUP, all * share / p->shares,
              all * (share + 1) / p->shares);
}
tiles_end(&o.t);
    }
    return stop ? QWEN_ECANCELLED : QWEN_OK;
}

int QW_NAME(tile_gemm)(qw_device *d, const qw_gemm_args *a)
{
    if (!taken((const cpu_device *)d, a)) return QW_DECLINE;
    const plan p = plan_of((const cpu_device *)d, a);
    if (d->room_bytes < p.bytes) return QWEN_ENOMEM;
    char *x = (char *)(((uintptr_t)d->room + 63) & ~(uintptr_t)63), *x2 = x + p.x;
    for (int64_t i0 = 0; i0 < p.m; i0 += p.mc) {
        const work s = { a, &p, i0, p.m - i0 < p.mc ? p.m - i0 : p.mc, x, x2 };
        const int status = block(d, &s, x, x2, x2 + p.x2);
        if (status) return status;
    }
    return QWEN_OK;
}
