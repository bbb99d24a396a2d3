/* int8_gemm.c - gemm where x is rows of 8-bit codes: products of codes, summed as integers.
 *
 * As in gemm.c, rows of x become panels of columns, here of words of four codes, and rows of w are
 * broadcast: rows of I8 where they lie, rows of other types quantised again, a group at a time,
 * into a buffer of the thread.  The product takes unsigned bytes on one side, so a panel holds
 * x + 128, and 128 times the sum of a row of w is taken away from its sums, which is exact.  A sum
 * of k products fits 32 bits up to k = 2^17.
 *
 * The scales of a row of x and of a row of w multiply the sum; then LoRA's product, bias,
 * activation, gate and residual.  A y of codes is computed as floats, a block of rows at a time,
 * and then quantised. */
#include "gemm.h"
#include "int8.h"
#include "kernel.h"
#include "tiles.h"

size_t QW_NAME(gemm_scratch)(const cpu_device *dev, const qw_gemm_args *a);
int QW_NAME(gemm)(qw_device *d, const qw_gemm_args *a);

/* KC: words of a row at a time; a panel of x is then 144 KiB, a group of rows of w 288. */
enum { KC = 768, MC = 1024, GROUP = 96, ROWS = 8, DEEPEST = 1 << 17 };
enum { XBYTES = 16 << 20 }; /* of the panels of x, and of floats that become codes */

typedef struct plan {
    int64_t m, n, k, r, words;
    int direct;             /* rows of w are read where they lie */
    int64_t mc;             /* rows of x at a time */
    int64_t groups, shares; /* of rows of w; of the panels of x, where groups are too few */
    int threads;
    size_t x, x2, codes, row, rows2, sums, sums2, flip; /* bytes of each buffer */
    size_t each, bytes;                                 /* of a thread; of all */
} plan;

static int taken(const qw_gemm_args *a)
{
    if (a->x.dtype != QW_I8 || !cpu_float(a->y.dtype) || !QW_NAME(codes_of)(&a->w)) return 0;
    if (a->x.dim[1] > DEEPEST || (qw_present(&a->res) && !cpu_float(a->res.dtype))) return 0;
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
    p.words = ratio_up(p.k, 4);
    p.direct = a->w.dtype == QW_I8 && p.k % 4 == 0;
    const int64_t most = XBYTES / ((p.words + p.r) * 4 * NW) * NW;
    p.mc = most < NW ? NW : most < MC ? most : MC;
    p.mc = ratio_up(ratio_up(p.m, ratio_up(p.m, p.mc)), VL) * VL; /* blocks of equal size */
    p.groups = ratio_up(p.n, GROUP);
    p.threads = cpu_threads(&dev->d, (double)p.m * (double)p.n * ((double)p.k / 4 + (double)p.r));
    p.shares = p.threads > 1 && p.groups < 8 * p.threads ? ratio_up(8 * p.threads, p.groups) : 1;
    if (p.shares > panels(p.mc)) p.shares = panels(p.mc);
    p.x = (size_t)(p.words * p.mc) * 4;
    p.x2 = (size_t)(p.r * p.mc) * 4;
    p.codes = p.direct ? 0 : cpu_line((size_t)(GROUP * p.words) * 4);
    p.row = p.direct ? 0 : cpu_line((size_t)p.k * 4);
    p.rows2 = cpu_line((size_t)(GROUP * p.r) * 4);
    p.sums = (size_t)(GROUP * (p.words > KC ? p.mc : NW)) * 4;
    p.sums2 = p.r ? GROUP * NW * 4 : 0;
    p.flip = GROUP * VL * 4;
    p.each = p.codes + p.row + p.rows2 + p.sums + p.sums2 + p.flip;
    p.bytes = p.x + p.x2 + (size_t)p.threads * p.each;
    return p;
}

/* --- panels of x ------------------------------------------------------------------------------ */

/* Words l .. l + VL of rows i .. i + count of x, at most VL rows, as columns of out [words][ld]:
 * codes + 128, and 0 beyond k. */
INLINE void pack_codes(const qw_tensor *x, int64_t i, int64_t count, int64_t l, int64_t words,
                       char *out, int64_t ld)
{
    const int8_t *row = (const int8_t *)x->data + i * x->stride[0] + 4 * l;
    const __mmask64 m = i_bytes(x->dim[1] - 4 * l);
    const vi half = _mm512_maskz_set1_epi8(m, (char)0x80);
    vf r[VL];
    UNROLL(16)
    for (int e = 0; e < VL; e++) {
        const int8_t *from = row + (e < count ? e : 0) * x->stride[0];
        r[e] = _mm512_castsi512_ps(_mm512_xor_si512(half, _mm512_maskz_loadu_epi8(m, from)));
    }
    v_transpose(r);
    for (int e = 0; e < VL && l + e < words; e++)
        v_store((float *)(void *)out + (l + e) * ld, r[e]);
}

/* The same of floats. */
INLINE void pack_floats(const qw_tensor *x, int64_t i, int64_t count, int64_t l, int64_t words,
                        char *out, int64_t ld)
{
    const size_t step = (size_t)x->stride[0] * qw_block_bytes(x->dtype);
    const char *row = (const char *)x->data + (size_t)i * step;
    const vm m = v_first(x->dim[1] - l);
    vf r[VL];
    UNROLL(16)
    for (int e = 0; e < VL; e++)
        r[e] = v_get(x->dtype, row + (e < count ? (size_t)e : 0) * step, l, m);
    v_transpose(r);
    for (int e = 0; e < VL && l + e < words; e++)
        v_store((float *)(void *)out + (l + e) * ld, r[e]);
}

enum { PACKED = 512 }; /* words of a unit of packing */

/* Unit u of rows i0 .. i0 + rows of x as panels [words][ld]. */
static void pack(const qw_tensor *x, int64_t words, int64_t i0, int64_t rows, int64_t u, char *out)
{
    const int64_t v = u % vectors(rows), first = u / vectors(rows) * PACKED;
    int64_t p = v * panels(rows) / vectors(rows);
    while (deal(rows, p + 1) <= v) p++;
    const int64_t begin = deal(rows, p), ld = (deal(rows, p + 1) - begin) * VL;
    const int64_t count = rows - v * VL < VL ? rows - v * VL : VL;
    char *to = out + (begin * VL * words + (v - begin) * VL) * 4;
    for (int64_t l = first; l < words && l < first + PACKED; l += VL)
        if (x->dtype == QW_I8) pack_codes(x, i0 + v * VL, count, l, words, to, ld);
        else pack_floats(x, i0 + v * VL, count, l, words, to, ld);
}

/* --- products --------------------------------------------------------------------------------- */

/* c [ROWS][V VL] (+)= ROWS rows of codes w times a panel x [words][V VL].  Meanwhile memory at
 * `next` comes into the cache. */
INLINE void tile(const int V, const int8_t *const *w, const char *x, int64_t words, int32_t *c,
                 int more, const char *next)
{
    vi s[ROWS][NV];
    UNROLL(8)
    for (int r = 0; r < ROWS; r++) UNROLL(4)
    for (int v = 0; v < V; v++) s[r][v] = more ? i_load(c + (r * V + v) * VL) : i_set(0);
    for (int64_t l = 0; l < words; l++) {
        vi b[NV];
        __builtin_prefetch(next + l * 16, 0, 2);
        UNROLL(4)
        for (int v = 0; v < V; v++) b[v] = i_load(x + (l * V + v) * VL * 4);
        UNROLL(8)
        for (int r = 0; r < ROWS; r++) {
            const vi a = i_word(w[r] + 4 * l);
            UNROLL(4)
            for (int v = 0; v < V; v++) s[r][v] = i_dot4(s[r][v], b[v], a);
        }
    }
    UNROLL(8)
    for (int r = 0; r < ROWS; r++) UNROLL(4)
    for (int v = 0; v < V; v++) i_store(c + (r * V + v) * VL, s[r][v]);
}

/* c [count][V VL] (+)= rows of codes times a panel; up to a multiple of ROWS rows are written. */
static void rows_by_panel(const int8_t *rows, int64_t step, int64_t count, int V, const char *panel,
                          int64_t words, int32_t *c, int more)
{
    const char *next = panel + words * V * VL * 4;
    for (int64_t i = 0; i < count; i += ROWS, c += ROWS * V * VL, next += words * 16) {
        const int8_t *w[ROWS];
        for (int q = 0; q < ROWS; q++) w[q] = rows + (i + q < count ? i + q : count - 1) * step;
        if (V == 3) tile(3, w, panel, words, c, more, next);
        else if (V == 2) tile(2, w, panel, words, c, more, next);
        else tile(1, w, panel, words, c, more, next);
    }
}

/* 128 times the sum of each row of codes; it asks for the row after the next one. */
static void row_sums(const int8_t *rows, int64_t step, int64_t count, int64_t k, int32_t *sum)
{
    const vi one = _mm512_set1_epi8(1);
    for (int64_t i = 0; i < count; i++) {
        const int8_t *row = rows + i * step;
        vi a = i_set(0), b = i_set(0);
        for (int64_t l = 0; l < k; l += 128) {
            v_prefetch(row + 2 * step + l);
            v_prefetch(row + 2 * step + l + 64);
            a = i_dot4(a, one, _mm512_maskz_loadu_epi8(i_bytes(k - l), row + l));
            b = i_dot4(b, one, _mm512_maskz_loadu_epi8(i_bytes(k - l - 64), row + l + 64));
        }
        sum[i] = 128 * _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
    }
}

/* --- a group of rows of w --------------------------------------------------------------------- */

typedef struct work {
    const qw_gemm_args *a;
    const plan *p;
    int64_t i0, rows; /* of x, in panels at x and x2 */
    const char *x, *x2;
} work;

/* A thread's buffers, and what belongs to the rows of a group. */
typedef struct own {
    int8_t *codes;
    float *row, *rows2, *sums2, *flip;
    int32_t *sums;
    float worth[GROUP];
    int32_t sum[GROUP]; /* 128 times that of codes */
} own;

static void own_buffers(const plan *p, char *room, own *o)
{
    o->codes = (int8_t *)room, room += p->codes;
    o->row = (float *)(void *)room, room += p->row;
    o->rows2 = (float *)(void *)room, room += p->rows2;
    o->sums = (int32_t *)(void *)room, room += p->sums;
    o->sums2 = (float *)(void *)room, room += p->sums2;
    o->flip = (float *)(void *)room;
}

/* Asks for columns j .. j + count of rows i .. i + rows of a matrix that is written soon. */
static void ask_rows(const qw_tensor *t, int64_t i, int64_t rows, int64_t j, int64_t count)
{
    const size_t size = qw_block_bytes(t->dtype);
    for (int64_t e = 0; t->data && e < rows; e++) {
        const char *row = (const char *)t->data + (size_t)((i + e) * t->stride[0] + j) * size;
        for (size_t l = 0; l < (size_t)count * size; l += 64) __builtin_prefetch(row + l, 1, 2);
    }
}

static float scale_of_x(const qw_tensor *x, int64_t i)
{
    float s = 1;
    if (x->scale)
        memcpy(&s, (const char *)x->scale + (size_t)(i * x->scale_stride) * sizeof s, sizeof s);
    return s;
}

/* VL rows of words [..][ld] from b as columns: r[e] are elements b .. b + VL of column e. */
INLINE void flip_words(const void *c, int64_t b, int64_t count, int64_t ld, vf *r)
{
    UNROLL(16)
    for (int e = 0; e < VL; e++)
        r[e] = v_load((const float *)c + (b + e < count ? b + e : count - 1) * ld);
    v_transpose(r);
}

/* Sums of rows j .. j + count of w and one panel, c [count][V VL], become columns j .. j + count of
 * rows i .. i + rows of y. */
static void finish(const work *s, own *o, int64_t i, int64_t rows, int64_t j, int64_t count, int V,
                   const int32_t *c)
{
    for (int v = 0; v < V && v * VL < rows; v++) {
        const int64_t most = rows - v * VL < VL ? rows - v * VL : VL;
        float of_x[VL];
        for (int e = 0; e < VL; e++) of_x[e] = e < most ? scale_of_x(&s->a->x, i + v * VL + e) : 0;
        for (int64_t b = 0; b < count; b += VL) {
            const vf of_w = v_load_n(o->worth + b, v_first(count - b));
            const vi sum = i_load(o->sum + b);
            vf r[VL], low[VL];
            flip_words(c + v * VL, b, count, V * VL, r);
            UNROLL(16)
            for (int e = 0; e < VL; e++) {
                const vi z = _mm512_sub_epi32(_mm512_castps_si512(r[e]), sum);
                v_store(o->flip + e * GROUP + b,
                        v_mul(v_mul(_mm512_cvtepi32_ps(z), v_set(of_x[e])), of_w));
            }
            if (!s->p->r) continue;
            flip_words(o->sums2 + v * VL, b, count, V * VL, low);
            UNROLL(16)
            for (int e = 0; e < VL; e++)
                v_store(o->flip + e * GROUP + b, v_add(v_load(o->flip + e * GROUP + b), low[e]));
        }
        for (int64_t e = 0; e < most; e++)
            QW_NAME(finish_row)(s->a, i + v * VL + e, j, count, o->flip + e * GROUP);
    }
}

/* sums2 [count][V VL] = rows2 times a panel of x2. */
static void low_rank(const work *s, own *o, int64_t count, int V, const char *panel)
{
    const int64_t r = s->p->r, ld = V * VL;
    for (int64_t i = 0; i < count; i += MR) {
        const int R = (int)(count - i < MR ? count - i : MR);
        const float *row[MR];
        for (int q = 0; q < R; q++) row[q] = o->rows2 + (i + q) * r;
        product_f32(R, V, row, (const float *)(const void *)panel, ld, r, o->sums2 + i * ld, ld, 0);
    }
}

/* Rows j .. j + count of w with panels from .. to of x. */
static void group(const work *s, own *o, int64_t j, int64_t count, int64_t from, int64_t to)
{
    const plan *p = s->p;
    const qw_tensor *w = &s->a->w;
    const int8_t *rows = p->direct ? (const int8_t *)w->data + j * w->stride[0] : o->codes;
    const int64_t step = p->direct ? w->stride[0] : 4 * p->words;
    for (int64_t q = 0; p->direct && q < count; q++) o->worth[q] = QW_NAME(row_scale)(w, j + q);
    if (!p->direct) QW_NAME(weight_codes)(w, j, count, o->codes, step, o->worth, o->row);
    row_sums(rows, step, count, p->k, o->sum);
    if (p->r) QW_NAME(unpack_f32)(&s->a->w2, j, count, 0, p->r, o->rows2, p->r);
    for (int64_t l = 0; l < p->words; l += KC) {
        const int64_t words = p->words - l < KC ? p->words - l : KC;
        for (int64_t t = from; t < to; t++) {
            const int64_t begin = deal(s->rows, t) * VL, ld = deal(s->rows, t + 1) * VL - begin;
            const int V = (int)(ld / VL);
            int32_t *c = o->sums + (p->words > KC ? begin * GROUP : 0);
            const int64_t left = s->rows - begin < ld ? s->rows - begin : ld;
            if (l + words == p->words) ask_rows(&s->a->y, s->i0 + begin, left, j, count);
            rows_by_panel(rows + 4 * l, step, count, V, s->x + (begin * p->words + l * ld) * 4,
                          words, c, l > 0);
            if (l + words < p->words) continue;
            if (p->r) low_rank(s, o, count, V, s->x2 + begin * p->r * 4);
            finish(s, o, s->i0 + begin, left, j, count, V, c);
        }
    }
}

/* --- the op ----------------------------------------------------------------------------------- */

/* All of w with up to mc rows of x. */
static int block(qw_device *d, const work *s, char *x, char *x2, char *room)
{
    const plan *p = s->p;
    const int64_t most = p->words > p->r ? p->words : p->r;
    const int64_t units = vectors(s->rows) * ratio_up(most, PACKED), all = panels(s->rows);
    int stop = 0;
    CPU_OMP(parallel num_threads(p->threads))
    {
        own o;
        own_buffers(p, room + (size_t)cpu_thread() * p->each, &o);
CPU_OMP(for schedule(static))
for (int64_t u = 0; u < units; u++) {
    pack(&s->a->x, p->words, s->i0, s->rows, u, x);
    if (p->r) pack(&s->a->x2, p->r, s->i0, s->rows, u, x2);
}
CPU_OMP(for schedule(dynamic))
for (int64_t t = 0; t < p->groups * p->shares; t++) {
    const int64_t j = t / p->shares * GROUP, share = t % p->shares;
    if (!cpu_stopped(d, &stop))
        group(s, &o, j, p->n - j < GROUP ? p->n - j : GROUP, all * share / p->shares,
              all * (share + 1) / p->shares);
}
    }
    return stop ? QWEN_ECANCELLED : QWEN_OK;
}

/* y of floats. */
static int numbers(qw_device *d, const qw_gemm_args *a)
{
#ifdef VEC_TILES
    const int done = QW_NAME(tile_gemm)(d, a);
    if (done != QW_DECLINE) return done;
#endif
    if (a->x.dtype != QW_I8 || !((const cpu_device *)d)->codes) return QW_NAME(gemm)(d, a);
    if (!taken(a)) return QW_DECLINE;
    const plan p = plan_of((const cpu_device *)d, a);
    if (d->room_bytes < p.bytes) return QWEN_ENOMEM;
    char *x = d->room, *x2 = x + p.x;
    for (int64_t i0 = 0; i0 < p.m; i0 += p.mc) {
        const work s = { a, &p, i0, p.m - i0 < p.mc ? p.m - i0 : p.mc, x, x2 };
        const int status = block(d, &s, x, x2, x2 + p.x2);
        if (status) return status;
    }
    return QWEN_OK;
}

/* Rows of y at a time that are held as floats before they become codes. */
static int64_t held_rows(const qw_gemm_args *a)
{
    const int64_t m = a->y.dim[0], most = XBYTES / 4 / a->y.dim[1] / NW * NW;
    const int64_t rows = most < NW ? NW : most;
    return rows < m ? rows : m;
}

/* The call for rows i .. i + rows with y as floats at `to`, and the bytes of these. */
static qw_gemm_args held_part(const qw_gemm_args *a, int64_t i, int64_t rows, void *to)
{
    qw_gemm_args b = *a;
    b.y = qw_dense2(to, QW_F32, rows, a->y.dim[1]);
    b.x = qw_rows(a->x, i, rows);
    if (qw_present(&a->x2)) b.x2 = qw_rows(a->x2, i, rows);
    return b;
}

/* Rows i .. i + rows of y from floats [rows][n]. */
static void codes_of_rows(const qw_device *d, const qw_tensor *y, int64_t i, int64_t rows,
                          const float *x)
{
    const int64_t n = y->dim[1];
    const int threads = cpu_threads(d, 8.0 * (double)rows * (double)n);
    (void)threads; /* without OpenMP */
CPU_OMP(parallel for num_threads(threads) schedule(static))
for (int64_t q = 0; q < rows; q++) {
    const float s = code_row(x + q * n, n, (int8_t *)y->data + (i + q) * y->stride[0]);
    memcpy((char *)(uintptr_t)y->scale + (size_t)((i + q) * y->scale_stride) * sizeof s, &s,
           sizeof s);
}
}

size_t QW_NAME(gemm_int8_scratch)(const cpu_device *dev, const qw_gemm_args *a);
size_t QW_NAME(gemm_int8_scratch)(const cpu_device *dev, const qw_gemm_args *a)
{
    if (a->y.dtype == QW_I8 && dev->codes) {
        const int64_t rows = held_rows(a);
        const qw_gemm_args b = held_part(a, 0, rows, NULL);
        return cpu_line((size_t)(rows * b.y.dim[1]) * 4) + QW_NAME(gemm_int8_scratch)(dev, &b);
    }
#ifdef VEC_TILES
    const size_t bytes = QW_NAME(tile_gemm_scratch)(dev, a);
    if (bytes) return bytes;
#endif
    if (a->x.dtype != QW_I8 || !dev->codes) return QW_NAME(gemm_scratch)(dev, a);
    return taken(a) ? plan_of(dev, a).bytes : 0;
}

/* y = res + gate act(x wT + x2 w2T + bias), reference/gemm.c. */
int QW_NAME(gemm_int8)(qw_device *d, const qw_gemm_args *a);
int QW_NAME(gemm_int8)(qw_device *d, const qw_gemm_args *a)
{
    if (a->y.dtype != QW_I8 || !((const cpu_device *)d)->codes) return numbers(d, a);
    const int64_t m = a->y.dim[0], n = a->y.dim[1], most = held_rows(a);
    char *const room = d->room;
    const size_t bytes = d->room_bytes, held = cpu_line((size_t)(most * n) * 4);
    if (bytes < held) return QW_DECLINE;
    int status = QWEN_OK;
    for (int64_t i = 0; i < m && !status; i += most) {
        const int64_t rows = m - i < most ? m - i : most;
        const qw_gemm_args b = held_part(a, i, rows, room);
        d->room = room + held, d->room_bytes = bytes - held;
        status = numbers(d, &b);
        d->room = room, d->room_bytes = bytes;
        if (!status) codes_of_rows(d, &a->y, i, rows, (const float *)(void *)room);
    }
    return status;
}
