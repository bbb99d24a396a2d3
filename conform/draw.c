/* draw.c - the cases of the kit: shapes and options. */
#include "fill.h"
#include <math.h>
#include <string.h>

/* A border (1, 2, 3, t-1, t, t+1 for t = 8 .. 128) or a log-uniform number up to most. */
static int64_t draw_size(qw_random *r, int64_t most)
{
    int64_t n;
    if (qw_below(r, 2)) {
        const int64_t t = INT64_C(8) << qw_below(r, 5), border[] = { 1, 2, 3, t - 1, t, t + 1 };
        n = border[qw_below(r, 6)];
    } else n = (int64_t)exp(qw_uniform(r) * log((double)most + 1));
    return n < 1 ? 1 : n > most ? most : n;
}

/* Sizes whose product stays below the budget: the later ones take what the earlier ones left. */
static void draw_sizes(qw_random *r, int n, int64_t *d, double budget)
{
    for (int i = 0; i < n; i++) {
        const double room = budget < 1 ? 1 : budget;
        d[i] = draw_size(r, room < 12288 ? (int64_t)room : 12288);
        budget /= (double)d[i];
    }
    for (int i = n - 1; i > 0; i--) { /* any of them may be the large one */
        const int j = (int)qw_below(r, (uint64_t)i + 1);
        const int64_t t = d[i];
        d[i] = d[j];
        d[j] = t;
    }
}

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

static qw_dtype draw_float(qw_random *r)
{
    static const qw_dtype t[] = { QW_F32, QW_BF16, QW_F32, QW_BF16, QW_F16 };
    return t[qw_below(r, 5)];
}

static qw_dtype draw_weight(qw_random *r, int i)
{
    static const qw_dtype t[] = {
        QW_BF16,  QW_F32,     QW_F16,    QW_F8E4M3, QW_F8E5M2,  QW_I8,    QW_Q8_0,
        QW_Q4_0,  QW_Q4_1,    QW_Q5_0,   QW_Q5_1,   QW_Q2_K,    QW_Q3_K,  QW_Q4_K,
        QW_Q5_K,  QW_Q6_K,    QW_IQ4_NL, QW_IQ4_XS, QW_MXFP8,   QW_NVFP4, QW_IQ1_S,
        QW_IQ1_M, QW_IQ2_XXS, QW_IQ2_XS, QW_IQ2_S,  QW_IQ3_XXS, QW_IQ3_S,
    };
    enum { N = sizeof t / sizeof t[0] };
    /* Every second case walks through all types in turn, the others are the plain ones. */
    return i % 2 ? t[i / 2 % N] : t[qw_below(r, 3)];
}

static void draw_gemm(qw_case *c, qw_random *r, int i, double flops)
{
    c->dtype[0] = i % 8 == 5 ? QW_I8 : draw_float(r);
    c->dtype[1] = i % 8 == 5 ? QW_I8 : draw_weight(r, i);
    c->dtype[2] = c->dtype[3] = draw_float(r);
    draw_sizes(r, 3, c->dim, flops / 2);
    const int64_t block = qw_block_elements(c->dtype[1]);
    c->dim[2] = round_up(c->dim[2], block);
    if (block > 1) /* a block is long: fewer rows */
        while ((double)c->dim[0] * (double)c->dim[1] * (double)c->dim[2] > flops
               && c->dim[0] + c->dim[1] > 2)
            *(c->dim[0] > c->dim[1] ? &c->dim[0] : &c->dim[1]) /= 2;
    if (c->dim[0] < 1) c->dim[0] = 1;
    if (c->dim[1] < 1) c->dim[1] = 1;
    const qw_dtype w = c->dtype[1];
    if (w == QW_I8 || w == QW_F8E4M3 || w == QW_F8E5M2) c->scales = (int)qw_below(r, 3);
    c->has = (unsigned)qw_below(r, 16);
    if (c->has & QW_INPLACE) c->has &= ~(unsigned)QW_HAS_RES, c->dtype[3] = c->dtype[2];
    c->act = qw_below(r, 3) ? QW_ACT_NONE : (qw_act)qw_below(r, 4);
    c->lora = qw_below(r, 4) ? 0 : 1 + (int64_t)qw_below(r, 33);
    c->x2 = qw_plain_float(c->dtype[0]);
    c->w2 = qw_below(r, 2) ? QW_F32 : c->x2;
}

static void draw_attention(qw_case *c, qw_random *r, double flops)
{
    static const int64_t head[] = { 80, 128, 72, 64, 16, 384, 1, 3, 8, 32 };
    const int64_t d = head[qw_below(r, 10)];
    int64_t n[2];
    const int64_t hk = 1 + (int64_t)qw_below(r, 3), g = 1 + (int64_t)qw_below(r, 3);
    draw_sizes(r, 2, n, flops / (4.0 * (double)(d * hk * g)));
    int64_t shape[] = { n[0], n[1], hk * g, hk, d };
    memcpy(c->dim, shape, sizeof shape);
    c->ranges = (qw_ranges)qw_below(r, 4);
    if (c->ranges == QW_CAUSAL && n[1] < n[0]) c->dim[1] = n[0];
    c->window = 1 + (int64_t)qw_below(r, 64);
    if (c->ranges == QW_WINDOWS) c->dim[1] = c->dim[0]; /* windows divide one sequence */
    c->dtype[0] = draw_float(r);
    c->dtype[1] = c->dtype[2] = qw_below(r, 4) ? c->dtype[0] : draw_float(r);
    c->dtype[3] = qw_below(r, 4) ? c->dtype[0] : draw_float(r);
}

static void draw_conv2d(qw_case *c, qw_random *r, double flops)
{
    const int64_t k = 1 + 2 * (int64_t)qw_below(r, 2);
    int64_t n[4]; /* ho wo co ci */
    draw_sizes(r, 4, n, flops / (2.0 * (double)(k * k)));
    c->up = qw_below(r, 4) ? 1 : 2;
    c->stride = c->up == 1 && !qw_below(r, 3) ? 2 : 1;
    /* Padded all round (1 of 3), only right and bottom (as a strided encoder does), or not at all.
     */
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
    c->dtype[0] = draw_float(r);
    c->dtype[1] = qw_below(r, 2) ? c->dtype[0] : draw_float(r);
    c->dtype[2] = c->dtype[3] = qw_below(r, 2) ? c->dtype[0] : draw_float(r);
    if (c->has & QW_INPLACE) c->has &= ~(unsigned)QW_HAS_RES;
    else if (c->has & QW_HAS_RES) c->dtype[3] = draw_float(r);
}

static void draw_rows(qw_case *c, qw_random *r, double flops)
{
    draw_sizes(r, 2, c->dim, flops / 8);
    c->dtype[0] = draw_float(r);
    c->dtype[1] = qw_below(r, 2) ? c->dtype[0] : draw_float(r);
    if (c->op == QW_OP_rms_norm) {
        c->act = qw_below(r, 2) ? QW_SILU : QW_ACT_NONE;
        c->has = qw_below(r, 3) ? 0 : QW_INPLACE;
        if (c->has) c->dtype[1] = c->dtype[0];
    }
    if (c->op == QW_OP_ln_mod) c->has = (unsigned)qw_below(r, 4) * QW_HAS_SCALE;
}

static void draw_norm_rope(qw_case *c, qw_random *r, double flops)
{
    static const int64_t head[] = { 128, 80, 72, 64, 16, 2, 6 };
    c->dim[2] = head[qw_below(r, 7)];
    draw_sizes(r, 2, c->dim, flops / (7.0 * (double)c->dim[2]));
    c->has = (qw_below(r, 2) ? QW_HAS_NORM : 0) | (qw_below(r, 2) ? QW_IS_HALVES : 0);
    c->dtype[0] = draw_float(r);
}

static void draw_convert(qw_case *c, qw_random *r, int i, double flops)
{
    static const int group[] = { 0, 0, 4, 16, 64, 256 };
    draw_sizes(r, 2, c->dim, flops / 8);
    c->dtype[0] = draw_float(r);
    c->dtype[1] = i % 3 == 2 ? QW_I8 : draw_float(r);
    c->dtype[2] = qw_below(r, 2) ? qw_plain_float(c->dtype[1]) : draw_float(r);
    if (i % 5 == 4) {
        c->dtype[0] = draw_weight(r, 2 * i + 1);
        const qw_dtype w = c->dtype[0];
        if (w == QW_I8 || w == QW_F8E4M3 || w == QW_F8E5M2) c->scales = (int)qw_below(r, 3);
        c->dim[1] = round_up(c->dim[1], qw_block_elements(w));
    }
    c->rotate = group[qw_below(r, 6)];
    if (c->rotate) c->dim[1] = round_up(c->dim[1], c->rotate);
    while ((double)c->dim[0] * (double)c->dim[1] > flops && c->dim[0] > 1) c->dim[0] /= 2;
    c->has = c->dtype[1] == QW_I8 ? 0 : (unsigned[]){ 0, QW_HAS_RES, QW_INPLACE }[qw_below(r, 3)];
    if (c->has & QW_INPLACE) c->dtype[2] = c->dtype[1];
}

void qw_case_draw(qw_case *c, enum qw_op op, int i, uint64_t seed, double flops)
{
    qw_random r = qw_random_of(seed, 1000 + (uint64_t)op * 100003 + (uint64_t)i);
    *c = (qw_case){ .op = op, .stride = 1, .up = 1, .eps = 1e-6, .fill = (qw_fill)(i % QW_NFILLS) };
    c->seed = qw_next(&r) & 0xffffff;
    switch (op) {
    case QW_OP_gemm: draw_gemm(c, &r, i / QW_NFILLS, flops); break;
    case QW_OP_attention: draw_attention(c, &r, flops); break;
    case QW_OP_conv2d: draw_conv2d(c, &r, flops); break;
    case QW_OP_norm_rope: draw_norm_rope(c, &r, flops); break;
    case QW_OP_convert: draw_convert(c, &r, i / QW_NFILLS, flops); break;
    default: draw_rows(c, &r, flops); break;
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
