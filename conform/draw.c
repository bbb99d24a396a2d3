/* draw.c - the cases of the kit: shapes and options. */
#include "fill.h"
#include <math.h>
#include <string.h>

enum { MOST = 12288 }; /* of a size that is not meant to be deep */

/* The state of a drawing: random numbers, and a number that walks through borders and depths. */
typedef struct drawing {
    qw_random *r;
    int turn;
} drawing;

/* By turns each border of a tile (1, 2, 3, t-1, t, t+1 for t = 8 .. 128), in half the cases; else a
 * log-uniform number; up to most. */
static int64_t draw_size(drawing *w, int64_t most)
{
    int64_t n;
    if (qw_below(w->r, 2)) {
        const int64_t t = INT64_C(8) << w->turn % 5, border[] = { 1, 2, 3, t - 1, t, t + 1 };
        n = border[w->turn / 5 % 6];
        w->turn += 7;
    } else n = (int64_t)exp(qw_uniform(w->r) * log((double)most + 1));
    return n < 1 ? 1 : n > most ? most : n;
}

/* A size beyond the blockings of the day: past 256, 1024, 3072 and 12288, rarely by a whole
 * tile. */
static int64_t draw_deep(drawing *w, int64_t most)
{
    static const int64_t deep[] = { 1025, 3079, 1040, 4101, 1031, 6150, 1153, 12300, 2055 };
    const int64_t n = deep[w->turn++ % 9];
    return n <= most ? n : 1025 + (int64_t)qw_below(w->r, 100);
}

/* Sizes whose product stays below the budget: the later ones take what the earlier ones left.  In a
 * deep case one of them is. */
static void draw_sizes(drawing *w, int n, int64_t *d, double budget, int deep)
{
    for (int i = 0; i < n; i++) {
        const double room = budget < 1 ? 1 : budget;
        if (deep && i == 0) d[i] = draw_deep(w, room < 2 * MOST ? (int64_t)room : 2 * MOST);
        else d[i] = draw_size(w, room < MOST ? (int64_t)room : MOST);
        budget /= (double)d[i];
    }
    for (int i = n - 1; i > 0; i--) { /* any of them may be the large one */
        const int k = (int)qw_below(w->r, (uint64_t)i + 1);
        const int64_t s = d[i];
        d[i] = d[k];
        d[k] = s;
    }
}

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

static qw_dtype draw_float(qw_random *r)
{
    static const qw_dtype t[] = { QW_F32, QW_BF16, QW_F32, QW_BF16, QW_F16 };
    return t[qw_below(r, 5)];
}

static const qw_dtype weights[] = {
    QW_BF16,  QW_F32,   QW_F16,   QW_F8E4M3, QW_F8E5M2,  QW_I8,     QW_Q8_0,  QW_Q4_0,    QW_Q4_1,
    QW_Q5_0,  QW_Q5_1,  QW_Q2_K,  QW_Q3_K,   QW_Q4_K,    QW_Q5_K,   QW_Q6_K,  QW_IQ4_NL,  QW_IQ4_XS,
    QW_MXFP8, QW_NVFP4, QW_IQ1_S, QW_IQ1_M,  QW_IQ2_XXS, QW_IQ2_XS, QW_IQ2_S, QW_IQ3_XXS, QW_IQ3_S,
};
enum { WEIGHTS = sizeof weights / sizeof weights[0], FLOATS = 3 };

qw_dtype qw_case_key(enum qw_op op, int i)
{
    const int n = op == QW_OP_gemm || op == QW_OP_convert ? WEIGHTS : FLOATS;
    return i < n ? weights[i] : QW_NONE;
}

qw_dtype qw_case_key_of(const qw_case *c)
{
    return c->dtype[c->op == QW_OP_gemm || c->op == QW_OP_conv2d];
}

static int scaled(qw_dtype t) { return t == QW_I8 || t == QW_F8E4M3 || t == QW_F8E5M2; }

static void draw_gemm(qw_case *c, drawing *w, int i, double flops, int deep)
{
    const qw_dtype key = c->dtype[1];
    qw_random *r = w->r;
    c->dtype[0] = i % 4 == 3 ? QW_I8 : draw_float(r);
    c->dtype[2] = c->dtype[3] = draw_float(r);
    draw_sizes(w, 3, c->dim, flops / 2, deep);
    const int64_t block = qw_block_elements(key);
    c->dim[2] = round_up(c->dim[2], block);
    if (block > 1) /* a block is long: fewer rows */
        while ((double)c->dim[0] * (double)c->dim[1] * (double)c->dim[2] > flops
               && c->dim[0] + c->dim[1] > 2)
            *(c->dim[0] > c->dim[1] ? &c->dim[0] : &c->dim[1]) /= 2;
    if (c->dim[0] < 1) c->dim[0] = 1;
    if (c->dim[1] < 1) c->dim[1] = 1;
    if (scaled(key)) c->scales = (int)qw_below(r, 3);
    c->has = (unsigned)qw_below(r, 16);
    if (c->has & QW_INPLACE) c->has &= ~(unsigned)QW_HAS_RES, c->dtype[3] = c->dtype[2];
    c->act = qw_below(r, 3) ? QW_ACT_NONE : (qw_act)qw_below(r, 4);
    if (!qw_below(r, 4)) c->lora = 1 + (int64_t)qw_below(r, 40);
    c->x2 = qw_below(r, 2) ? qw_plain_float(c->dtype[0]) : draw_float(r);
    c->w2 = qw_below(r, 2) ? qw_plain_float(c->dtype[0]) : draw_float(r);
    if (i % 8 == 6) { /* rows of codes come out */
        c->dtype[2] = QW_I8;
        c->dtype[3] = QW_F32;
        c->has &= QW_HAS_BIAS;
    }
}

static void draw_attention(qw_case *c, drawing *w, double flops, int deep)
{
    static const int64_t head[] = { 128, 80, 72, 64, 384, 16, 2, 33 };
    qw_random *r = w->r;
    const qw_dtype key = c->dtype[0];
    const int64_t d = head[qw_below(r, 8)], hk = 1 + (int64_t)qw_below(r, 3);
    const int64_t g = 1 + (int64_t)qw_below(r, 3);
    int64_t n[2];
    draw_sizes(w, 2, n, flops / (4.0 * (double)(d * hk * g)), deep);
    int64_t shape[] = { n[0], n[1], hk * g, hk, d };
    memcpy(c->dim, shape, sizeof shape);
    c->ranges = (qw_ranges)qw_below(r, 4);
    if (c->ranges == QW_CAUSAL && n[1] < n[0]) c->dim[1] = n[0];
    c->window = 1 + (int64_t)qw_below(r, 64);
    if (c->ranges == QW_WINDOWS) c->dim[1] = c->dim[0]; /* windows divide one sequence */
    c->dtype[1] = c->dtype[2] = qw_below(r, 4) ? key : draw_float(r);
    c->dtype[3] = qw_below(r, 4) ? key : draw_float(r);
}

static void draw_conv2d(qw_case *c, drawing *w, double flops, int deep)
{
    qw_random *r = w->r;
    const qw_dtype key = c->dtype[1];
    const int64_t k = 1 + 2 * (int64_t)qw_below(r, 2);
    int64_t n[4]; /* ho wo co ci */
    draw_sizes(w, 4, n, flops / (2.0 * (double)(k * k)), deep);
    c->up = qw_below(r, 4) ? 1 : 2;
    c->stride = c->up == 1 && !qw_below(r, 3) ? 2 : 1;
    /* Padded all round (1 of 3), only right and bottom (as a strided encoder does), or not at
     * all. */
    const int64_t before = k == 3 && qw_below(r, 2) ? 1 : 0,
                  after = k == 3 && (before || qw_below(r, 2)) ? 1 : 0;
    int64_t in[2];
    for (int i = 0; i < 2; i++) {
        int64_t need = (n[i] - 1) * c->stride + k - before - after; /* enlarged input */
        in[i] = need < 1 ? 1 : (need + c->up - 1) / c->up;
        const int64_t out = (c->up * in[i] + before + after - k) / c->stride + 1;
        if (c->up * in[i] + before + after >= k && out >= 1) n[i] = out;
        else n[i] = 1;
    }
    c->top = c->left = (int)before;
    int64_t shape[] = { n[0], n[1], n[2], in[0], in[1], n[3], k, k };
    memcpy(c->dim, shape, sizeof shape);
    c->has = (unsigned)qw_below(r, 16) & (QW_HAS_BIAS | QW_HAS_RES | QW_INPLACE);
    c->dtype[0] = qw_below(r, 3) ? key : draw_float(r);
    c->dtype[2] = c->dtype[3] = qw_below(r, 2) ? c->dtype[0] : draw_float(r);
    if (c->has & QW_INPLACE) c->has &= ~(unsigned)QW_HAS_RES;
    else if (c->has & QW_HAS_RES) c->dtype[3] = draw_float(r);
}

static void draw_rows(qw_case *c, drawing *w, int i, double flops, int deep)
{
    qw_random *r = w->r;
    const qw_dtype key = c->dtype[0];
    draw_sizes(w, 2, c->dim, flops / 8, deep);
    c->dtype[1] = qw_below(r, 2) ? key : draw_float(r);
    if (c->op == QW_OP_rms_norm) {
        c->act = qw_below(r, 2) ? QW_SILU : QW_ACT_NONE;
        c->has = qw_below(r, 3) ? 0 : QW_INPLACE;
        if (c->has) c->dtype[1] = key;
    }
    if (c->op == QW_OP_ln_mod) {
        c->has = (unsigned)qw_below(r, 4) * QW_HAS_SCALE;
        if (i % 8 == 6) c->dtype[1] = QW_I8;
    }
}

static void draw_norm_rope(qw_case *c, drawing *w, double flops, int deep)
{
    static const int64_t head[] = { 128, 80, 72, 64, 16, 2, 6 };
    c->dim[2] = head[qw_below(w->r, 7)];
    draw_sizes(w, 2, c->dim, flops / (7.0 * (double)c->dim[2]), deep);
    c->has = (qw_below(w->r, 2) ? QW_HAS_NORM : 0) | (qw_below(w->r, 2) ? QW_IS_HALVES : 0);
}

static void draw_convert(qw_case *c, drawing *w, int i, double flops, int deep)
{
    static const int group[] = { 0, 0, 4, 16, 64, 256 };
    qw_random *r = w->r;
    const qw_dtype key = c->dtype[0];
    draw_sizes(w, 2, c->dim, flops / 8, deep);
    c->dtype[1] = i % 3 == 2 ? QW_I8 : draw_float(r);
    c->dtype[2] = qw_below(r, 2) ? qw_plain_float(c->dtype[1]) : draw_float(r);
    if (scaled(key)) c->scales = (int)qw_below(r, 3);
    c->dim[1] = round_up(c->dim[1], qw_block_elements(key));
    c->rotate = group[qw_below(r, 6)];
    if (c->rotate) c->dim[1] = round_up(c->dim[1], c->rotate);
    while ((double)c->dim[0] * (double)c->dim[1] > flops && c->dim[0] > 1) c->dim[0] /= 2;
    c->has = c->dtype[1] == QW_I8 ? 0 : (unsigned[]){ 0, QW_HAS_RES, QW_INPLACE }[qw_below(r, 3)];
    if (c->has & QW_INPLACE) c->dtype[2] = c->dtype[1];
}

void qw_case_draw(qw_case *c, enum qw_op op, qw_dtype key, int i, uint64_t seed, double flops)
{
    qw_random r =
        qw_random_of(seed, 1000 + (uint64_t)op * 100003 + (uint64_t)key * 7919 + (uint64_t)i);
    drawing w = { &r, i + 5 * (int)key };
    const int turn = i / QW_NFILLS, deep = turn % 4 == 1;
    const double size = deep ? 4 * flops : flops;
    *c = (qw_case){ .op = op, .stride = 1, .up = 1, .eps = 1e-6, .fill = (qw_fill)(i % QW_NFILLS) };
    c->seed = qw_next(&r) & 0xffffff;
    c->dtype[op == QW_OP_gemm || op == QW_OP_conv2d] = key;
    switch (op) {
    case QW_OP_gemm: draw_gemm(c, &w, turn, size, deep); break;
    case QW_OP_attention: draw_attention(c, &w, size, deep); break;
    case QW_OP_conv2d: draw_conv2d(c, &w, size, deep); break;
    case QW_OP_norm_rope: draw_norm_rope(c, &w, size, deep); break;
    case QW_OP_convert: draw_convert(c, &w, turn, size, deep); break;
    default: draw_rows(c, &w, turn, size, deep); break;
    }
}

void qw_case_shrink(qw_case *c, double flops)
{
    for (int i = 0; i < 64; i++) {
        qw_material m;
        double f = 0, bytes = 0;
        if (!qw_material_shape(&m, c, QW_F32)) qw_op_table[c->op].cost(&m.args, &f, &bytes);
        qw_material_free(&m);
        if (f + bytes / 8 <= flops) return;
        /* The longest of the dimensions that only repeat the work. */
        const int last = c->op == QW_OP_gemm || c->op == QW_OP_attention ? 2 : 1;
        int64_t *d = &c->dim[0];
        for (int k = 1; k < last; k++)
            if (c->dim[k] > *d) d = &c->dim[k];
        if (c->op == QW_OP_conv2d) { /* a picture of half the height */
            if (c->dim[0] < 2 || c->dim[3] < 2) return;
            c->dim[0] /= 2;
            c->dim[3] /= 2;
            continue;
        }
        if (*d < 2) return;
        *d = *d / 2;
        if (c->op == QW_OP_attention && c->ranges != QW_ALL_KEYS) c->dim[0] = c->dim[1] = *d;
    }
}
