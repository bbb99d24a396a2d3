/* gemm.c - every linear layer, from weights as they lie in the file.
 *
 * Rows of x become panels of columns once a call (up to MC rows at a time), in cache: x is small and
 * is used by every row of w.  Threads take groups of rows of w and broadcast their elements as they
 * lie, without a copy where the type is that of the product, else unpacked KC words a row at a time
 * into a buffer that stays in the second-level cache.  A tile of MR rows of w and a panel of x keeps
 * its sums in registers for KC words; between them they lie in a buffer of the thread.  Then a block
 * of sums is transposed and leaves as rows of y.
 *
 * Two kinds of products: f32; and pairs of bf16 where the set has them and the device allows them.
 * Scales of rows of w multiply the sums, before LoRA's product, bias, activation, gate and residual.
 * The order of additions follows from k alone. */
#include "gemm.h"
#include "kernel.h"

/* KC: words of a row at a time; a panel of x is then 144 KiB of AVX-512 vectors. */
enum { KC = 768, MC = 1024, GROUP = 64 };
enum { XBYTES = 16 << 20 }; /* of the panels of x: they lie in the last-level cache */

typedef struct plan {
    int64_t m, n, k, r;
    int pairs;              /* products of bf16 pairs; a word is such a pair, else a float */
    int pairs2;             /* the same of the low-rank product */
    int direct;             /* rows of w are read where they lie */
    int64_t mc;             /* rows of x at a time */
    int64_t words, words2;  /* of a row of x, of x2 */
    int64_t groups, shares; /* of rows of w; of the panels of x, where groups are too few */
    int threads;
    size_t x, x2, rows, rows2, sums, flip; /* bytes of each buffer */
    size_t each, bytes;                    /* of a thread; of all */
} plan;

static int taken(const qw_gemm_args *a)
{
    if (!cpu_float(a->x.dtype) || !cpu_float(a->y.dtype) || !QW_NAME(unpacks)(&a->w)) return 0;
    if (qw_present(&a->res) && !cpu_float(a->res.dtype)) return 0;
    return !qw_present(&a->x2) || (cpu_float(a->x2.dtype) && cpu_float(a->w2.dtype));
}

static int64_t ratio_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Vectors of columns for `rows` rows of x, and the panels that they are dealt to: panel p begins
 * with vector deal(p), and none has more than NV. */
static int64_t vectors(int64_t rows) { return ratio_up(rows, VL); }
static int64_t panels(int64_t rows) { return ratio_up(vectors(rows), NV); }
static int64_t deal(int64_t rows, int64_t p) { return vectors(rows) * p / panels(rows); }

static plan plan_of(const cpu_device *dev, const qw_gemm_args *a)
{
    plan p = { .m = a->y.dim[0], .n = a->y.dim[1], .k = a->x.dim[1] };
    p.r = qw_present(&a->x2) ? a->x2.dim[1] : 0;
#ifdef VEC_BF16_PAIRS
    p.pairs = dev->pairs && a->x.dtype == QW_BF16 && a->w.dtype != QW_F32 && a->w.dtype != QW_F16;
    p.pairs2 = dev->pairs && p.r && a->x2.dtype == QW_BF16 && a->w2.dtype == QW_BF16;
#endif
    p.direct = p.pairs ? a->w.dtype == QW_BF16 && p.k % 2 == 0 : a->w.dtype == QW_F32;
    p.words = p.pairs ? (p.k + 1) / 2 : p.k;
    p.words2 = p.pairs2 ? (p.r + 1) / 2 : p.r;
    const int64_t most = XBYTES / ((p.words + 1) * 4 * NW) * NW;
    p.mc = most < NW ? NW : most < MC ? most : MC;
    p.mc = ratio_up(ratio_up(p.m, ratio_up(p.m, p.mc)), VL) * VL; /* blocks of equal size */
    p.groups = ratio_up(p.n, GROUP);
    p.threads = cpu_threads(&dev->d, (double)p.m * (double)p.n * (double)(p.k + p.r));
    p.shares = p.threads > 1 && p.groups < 8 * p.threads ? ratio_up(8 * p.threads, p.groups) : 1;
    if (p.shares > panels(p.mc)) p.shares = panels(p.mc);
    p.x = (size_t)(p.words * p.mc) * 4;
    p.x2 = (size_t)(p.words2 * p.mc) * 4;
    p.rows = p.direct ? 0 : (size_t)GROUP * KC * 4;
    p.rows2 = cpu_line((size_t)(GROUP * p.words2) * 4);
    p.sums = (size_t)GROUP * (size_t)p.mc * 4;
    p.flip = (size_t)GROUP * VL * 4;
    p.each = p.rows + p.rows2 + p.sums + p.flip;
    p.bytes = p.x + p.x2 + (size_t)p.threads * p.each + 64;
    return p;
}

size_t QW_NAME(gemm_scratch)(const cpu_device *dev, const qw_gemm_args *a);
size_t QW_NAME(gemm_scratch)(const cpu_device *dev, const qw_gemm_args *a)
{
    if (!taken(a)) return 0;
    return QW_NAME(gemm_one_takes)(a) ? QW_NAME(gemm_one_scratch)(dev, a) : plan_of(dev, a).bytes;
}

/* Words l .. l + VL of rows i .. i + count of t, at most VL rows, as columns of out [words][ld]. */
INLINE void pack_square(const qw_tensor *t, int pairs, int64_t i, int64_t count, int64_t l,
                        int64_t words, float *out, int64_t ld)
{
    vf r[VL];
    const char *row = (const char *)t->data + (size_t)(i * t->stride[0]) * qw_block_bytes(t->dtype);
    const size_t step = (size_t)t->stride[0] * qw_block_bytes(t->dtype);
    UNROLL(16)
    for (int e = 0; e < VL; e++) {
        if (e >= count) r[e] = v_set(0);
#ifdef VEC_BF16_PAIRS
        else if (pairs) r[e] = v_words(row + (size_t)e * step + (size_t)l * 4, t->dim[1] - 2 * l);
#endif
        else r[e] = v_get(t->dtype, row + (size_t)e * step, l, v_first(t->dim[1] - l));
    }
    (void)pairs;
    v_transpose(r);
    for (int e = 0; e < VL && l + e < words; e++) v_store(out + (l + e) * ld, r[e]);
}

/* Rows i0 .. i0 + rows of t [..][k] as panels [words][ld], zeros beyond the last row; unit u of
 * several. */
enum { PACKED = 512 }; /* words of a unit */
static void pack(const qw_tensor *t, int pairs, int64_t words, int64_t i0, int64_t rows, int64_t u,
                 float *out)
{
    const int64_t v = u % vectors(rows), first = u / vectors(rows) * PACKED;
    int64_t p = v * panels(rows) / vectors(rows);
    while (deal(rows, p + 1) <= v) p++;
    const int64_t begin = deal(rows, p), ld = (deal(rows, p + 1) - begin) * VL;
    const int64_t count = rows - v * VL < VL ? rows - v * VL : VL;
    for (int64_t l = first; l < words && l < first + PACKED; l += VL)
        pack_square(t, pairs, i0 + v * VL, count, l, words,
                    out + begin * VL * words + (v - begin) * VL, ld);
}

/* What the tiles of a group ask for: each its share of a run of bytes (the next panel), or the rows
 * after its own (of the next part of w). */
typedef struct soon {
    const char *at; /* NULL: nothing */
    size_t bytes;   /* of a run; 0: rows, `step` bytes apart */
    size_t step;
    const qw_gemm_args *a; /* rows i .. i + rows, columns j .. j + count of y and res; or NULL */
    int64_t i, rows, j, count;
} soon;

/* Asks for the lines of rows i .. to of t that hold columns j .. j + count. */
static void touch(const qw_tensor *t, int64_t i, int64_t to, int64_t j, int64_t count, int write)
{
    const size_t size = qw_block_bytes(t->dtype);
    for (; i < to; i++) {
        const char *row = (const char *)t->data + (size_t)(i * t->stride[0] + j) * size;
        for (size_t b = 0; b < (size_t)count * size; b += 64)
            if (write) v_prefetch_write(row + b);
            else v_prefetch(row + b);
    }
}

static void touch_share(const soon *s, int64_t tile, int64_t tiles)
{
    if (!s->a) return;
    const int64_t i = s->i + s->rows * tile / tiles, to = s->i + s->rows * (tile + 1) / tiles;
    touch(&s->a->y, i, to, s->j, s->count, 1);
    if (s->a->res.data && s->a->res.data != s->a->y.data)
        touch(&s->a->res, i, to, s->j, s->count, 0);
}

static ahead share_of(const soon *s, int64_t tile, int64_t tiles, int64_t words)
{
    ahead a = { .at = s->at };
    if (!s->at) return a;
    if (!s->bytes) {
        a.at += (size_t)(tile * MR) * s->step;
        a.per = MR;
        a.apart = s->step;
        a.step = 64;
        return a;
    }
    const int64_t lines = ratio_up((int64_t)s->bytes, 64 * tiles);
    a.at += (size_t)(tile * lines) * 64;
    a.per = ratio_up(lines, ratio_up(words, 16));
    a.apart = 64;
    a.step = (size_t)a.per * 64;
    return a;
}

/* c [count][V VL] (+)= rows of words [count][words] times a panel. */
static void rows_by_panel(int pairs, const char *rows, size_t step, int64_t count, int V,
                          const float *panel, int64_t words, float *c, int more, const soon *s)
{
    for (int64_t i = 0; i < count; i += MR) {
        const int R = (int)(count - i < MR ? count - i : MR);
        const void *row[MR];
        const ahead next = share_of(s, i / MR, ratio_up(count, MR), words);
        for (int q = 0; q < R; q++) row[q] = rows + (size_t)(i + q) * step;
        touch_share(s, i / MR, ratio_up(count, MR));
#ifdef VEC_BF16_PAIRS
        if (pairs)
            product_pairs_ahead(R, V, (const uint16_t *const *)row, (const uint32_t *)panel, V * VL,
                                words, c + i * V * VL, V * VL, more, &next);
        else
#endif
            product_f32_ahead(R, V, (const float *const *)row, panel, V * VL, words, c + i * V * VL,
                              V * VL, more, &next);
    }
    (void)pairs;
}

/* Sums of rows j .. j + count of w and one panel, c [count][V VL], become columns j .. j + count of
 * rows i .. i + rows of y. */
static void finish(const qw_gemm_args *a, int64_t i, int64_t rows, int64_t j, int64_t count, int V,
                   float *c, float *flip)
{
    for (int v = 0; v < V; v++) {
        for (int64_t b = 0; b < count; b += VL) {
            vf r[VL];
            UNROLL(16)
            for (int e = 0; e < VL; e++) {
                const int64_t q = b + e < count ? b + e : count - 1;
                r[e] = v_load(c + q * V * VL + v * VL);
            }
            v_transpose(r);
            UNROLL(16)
            for (int e = 0; e < VL; e++) v_store(flip + e * GROUP + b, r[e]);
        }
        for (int64_t e = 0; e < VL && v * VL + e < rows; e++)
            QW_NAME(finish_row)(a, i + v * VL + e, j, count, flip + e * GROUP);
    }
}

typedef struct work {
    const qw_gemm_args *a;
    const plan *p;
    int64_t i0, rows; /* of x, in panels at x and x2 */
    const float *x, *x2;
} work;

/* LoRA's product and scales of rows: c [count][V VL] = c scale + w2 x2 */
static void add_low_rank(const work *s, int64_t j, int64_t count, int V, const float *x2,
                         const char *rows2, size_t step2, float *c)
{
    const qw_tensor *w = &s->a->w;
    for (int64_t q = 0; w->scale && q < count; q++) {
        const vf by = v_set(QW_NAME(row_scale)(w, j + q));
        for (int v = 0; v < V; v++)
            v_store(c + (q * V + v) * VL, v_mul(v_load(c + (q * V + v) * VL), by));
    }
    const soon nothing = { 0 };
    if (s->p->r)
        rows_by_panel(s->p->pairs2, rows2, step2, count, V, x2, s->p->words2, c, 1, &nothing);
}

/* What is read after panel t of words l .. l + words: the next panel, or more of w. */
static soon after(const work *s, int64_t j, int64_t l, int64_t words, int64_t t, int64_t to)
{
    const plan *p = s->p;
    soon next = { 0 };
    if (t + 1 < to) {
        const int64_t begin = deal(s->rows, t + 1) * VL, ld = deal(s->rows, t + 2) * VL - begin;
        next.at = (const char *)(s->x + begin * p->words + l * ld);
        next.bytes = (size_t)(words * ld) * 4;
    } else if (p->direct) {
        const int turn = l + words < p->words;
        next.step = qw_row_bytes(s->a->w.dtype, s->a->w.stride[0]);
        next.at = (const char *)s->a->w.data + (size_t)(turn ? j : j + GROUP) * next.step
                  + (size_t)(turn ? l + words : 0) * 4;
    }
    return next;
}

/* Elements l .. l + n of rows j .. j + count of w as words, rows `ld` words apart. */
static void unpack(const qw_tensor *w, int pairs, int64_t j, int64_t count, int64_t l, int64_t n,
                   char *out, int64_t ld)
{
#ifdef VEC_BF16_PAIRS
    if (pairs) {
        QW_NAME(unpack_bf16)(w, j, count, l, n, (uint16_t *)(void *)out, 2 * ld);
        return;
    }
#endif
    (void)pairs;
    QW_NAME(unpack_f32)(w, j, count, l, n, (float *)(void *)out, ld);
}

/* Rows j .. j + count of w with panels from .. to of x. */
static void group(const work *s, int64_t j, int64_t count, int64_t from, int64_t to, char *room)
{
    const plan *p = s->p;
    const qw_tensor *w = &s->a->w;
    float *sums = (float *)(void *)(room + p->rows + p->rows2), *flip = sums + p->sums / 4;
    char *rows2 = room + p->rows;
    if (p->r) unpack(&s->a->w2, p->pairs2, j, count, 0, p->r, rows2, p->words2);
    for (int64_t l = 0; l < p->words; l += KC) {
        const int64_t words = p->words - l < KC ? p->words - l : KC;
        const int64_t first = p->pairs ? 2 * l : l, left = p->k - first;
        const char *rows = room;
        size_t step = (size_t)KC * 4;
        if (p->direct) {
            step = qw_row_bytes(w->dtype, w->stride[0]);
            rows = (const char *)w->data + (size_t)j * step + (size_t)l * 4;
        } else {
            const int64_t most = p->pairs ? 2 * KC : KC;
            unpack(w, p->pairs, j, count, first, left < most ? left : most, room, KC);
        }
        for (int64_t t = from; t < to; t++) {
            const int64_t begin = deal(s->rows, t) * VL, ld = deal(s->rows, t + 1) * VL - begin;
            const int V = (int)(ld / VL);
            float *c = sums + begin * GROUP;
            soon next = after(s, j, l, words, t, to);
            const int last = l + words == p->words;
            if (last) {
                next.a = s->a;
                next.i = s->i0 + begin;
                next.rows = s->rows - begin < ld ? s->rows - begin : ld;
                next.j = j;
                next.count = count;
            }
            rows_by_panel(p->pairs, rows, step, count, V, s->x + begin * p->words + l * ld, words,
                          c, l > 0, &next);
            if (!last) continue;
            add_low_rank(s, j, count, V, s->x2 + begin * p->words2, rows2, (size_t)p->words2 * 4,
                         c);
            finish(s->a, s->i0 + begin, s->rows - begin, j, count, V, c, flip);
        }
    }
}

/* All of w with up to mc rows of x. */
static int block(qw_device *d, const work *s, float *x, float *x2, char *own)
{
    const plan *p = s->p;
    const int64_t most = p->words > p->words2 ? p->words : p->words2;
    const int64_t units = vectors(s->rows) * ratio_up(most, PACKED), all = panels(s->rows);
    int stop = 0;
    CPU_OMP(parallel num_threads(p->threads))
    {
        char *room = own + (size_t)cpu_thread() * p->each;
CPU_OMP(for schedule(static))
for (int64_t u = 0; u < units; u++) {
    pack(&s->a->x, p->pairs, p->words, s->i0, s->rows, u, x);
    if (p->r) pack(&s->a->x2, p->pairs2, p->words2, s->i0, s->rows, u, x2);
}
CPU_OMP(for schedule(dynamic))
for (int64_t t = 0; t < p->groups * p->shares; t++) {
    const int64_t j = t / p->shares * GROUP, share = t % p->shares;
    if (!cpu_stopped(d, &stop))
        group(s, j, p->n - j < GROUP ? p->n - j : GROUP, all * share / p->shares,
              all * (share + 1) / p->shares, room);
}
    }
    return stop ? QWEN_ECANCELLED : QWEN_OK;
}

/* y = res + gate act(x wT + x2 w2T + bias), reference/gemm.c. */
int QW_NAME(gemm)(qw_device *d, const qw_gemm_args *a);
int QW_NAME(gemm)(qw_device *d, const qw_gemm_args *a)
{
    if (!taken(a)) return QW_DECLINE;
    if (QW_NAME(gemm_one_takes)(a)) return QW_NAME(gemm_one)(d, a);
    const plan p = plan_of((const cpu_device *)d, a);
    if (d->room_bytes < p.bytes) return QWEN_ENOMEM;
    float *x = (float *)(((uintptr_t)d->room + 63) & ~(uintptr_t)63), *x2 = x + p.x / 4;
    for (int64_t i0 = 0; i0 < p.m; i0 += p.mc) {
        const work s = { a, &p, i0, p.m - i0 < p.mc ? p.m - i0 : p.mc, x, x2 };
        const int status = block(d, &s, x, x2, (char *)x2 + p.x2);
        if (status) return status;
    }
    return QWEN_OK;
}
