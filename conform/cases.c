/* cases.c - a case is a line and a line is a case: reading, printing, drawing shapes and options.
 *
 * The grammar is that of lib/core/op.c's case lines, followed by /fill/seed.  conform/fill.c makes the
 * data. */
#include "conform.h"
#include "fill.h"
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char *const fill_name[QW_NFILLS] = { "exact", "normal", "hard" };

static int sentence(char *why, size_t size, const char *format, ...) QW_PRINTF(3, 4);
static int sentence(char *why, size_t size, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(why, size, format, ap);
    va_end(ap);
    return 1;
}

/* --- reading ------------------------------------------------------------------------------- */

/* How many dtypes and how many numbers a line of each op has. */
static const struct {
    int dtypes, dims;
} form[QW_NOPS] = {
    [QW_OP_gemm] = { 4, 3 },     [QW_OP_attention] = { 4, 5 }, [QW_OP_conv2d] = { 4, 8 },
    [QW_OP_rms_norm] = { 2, 2 }, [QW_OP_ln_mod] = { 2, 2 },    [QW_OP_norm_rope] = { 1, 3 },
    [QW_OP_swiglu] = { 2, 2 },   [QW_OP_convert] = { 3, 2 },
};

static qw_dtype plain_float(qw_dtype t)
{
    return t == QW_F64 || t == QW_F32 || t == QW_F16 || t == QW_BF16 ? t : QW_F32;
}

/* What dtype i is when the line stops before it. */
static qw_dtype usual(const qw_case *c, int i)
{
    const qw_dtype *t = c->dtype;
    switch (c->op) {
    case QW_OP_gemm: return i == 1 ? t[0] : i == 2 ? plain_float(t[0]) : t[2];
    case QW_OP_conv2d: return i == 3 ? t[2] : t[0];
    case QW_OP_attention: return i == 2 ? t[1] : t[0];
    case QW_OP_convert: return i == 1 ? t[0] : plain_float(t[1]);
    default: return t[0];
    }
}

static int read_dtypes(qw_case *c, char *text, char *why, size_t size)
{
    int n = 0;
    char *save = NULL;
    for (char *s = strtok_r(text, ",", &save); s; s = strtok_r(NULL, ",", &save)) {
        if (n == form[c->op].dtypes) return sentence(why, size, "more than %d dtypes", n);
        c->dtype[n] = qw_dtype_named(s);
        if (c->dtype[n] == QW_NONE) return sentence(why, size, "%s is no dtype", s);
        n++;
    }
    if (!n) return sentence(why, size, "no dtype");
    for (; n < form[c->op].dtypes; n++) c->dtype[n] = usual(c, n);
    return 0;
}

static int read_word(qw_case *c, const char *s)
{
    static const struct {
        const char *word;
        unsigned has;
    } flags[] = {
        { "bias", QW_HAS_BIAS },
        { "gate", QW_HAS_GATE },
        { "res", QW_HAS_RES },
        { "inplace", QW_INPLACE },
        { "scale", QW_HAS_SCALE },
        { "shift", QW_HAS_SHIFT },
        { "norm", QW_HAS_NORM },
        { "halves", QW_IS_HALVES },
        { "pairs", 0 },
        { "-", 0 },
    };
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++)
        if (!strcmp(s, flags[i].word)) {
            c->has |= flags[i].has;
            return 0;
        }
    if (!strcmp(s, "silu")) c->act = QW_SILU;
    else if (!strcmp(s, "gelu_tanh")) c->act = QW_GELU_TANH;
    else if (!strcmp(s, "gelu_erf")) c->act = QW_GELU_ERF;
    else if (!strcmp(s, "scale=one")) c->scales = QW_SCALE_ONE;
    else if (!strcmp(s, "scale=row")) c->scales = QW_SCALE_ROW;
    else if (!strcmp(s, "causal")) c->ranges = QW_CAUSAL;
    else if (!strcmp(s, "ranges")) c->ranges = QW_RANGES;
    else return 1;
    return 0;
}

static int read_value(qw_case *c, const char *key, const char *value)
{
    char *end;
    const double x = strtod(value, &end);
    if (!strcmp(key, "x2") || !strcmp(key, "w2")) {
        const qw_dtype t = qw_dtype_named(value);
        *(key[0] == 'x' ? &c->x2 : &c->w2) = t;
        return t == QW_NONE;
    }
    if (*end || !(x >= 0 && x <= 1e9)) return 1;
    if (!strcmp(key, "lora")) c->lora = (int64_t)x;
    else if (!strcmp(key, "windows")) c->ranges = QW_WINDOWS, c->window = (int64_t)x;
    else if (!strcmp(key, "stride")) c->stride = (int)x;
    else if (!strcmp(key, "up")) c->up = (int)x;
    else if (!strcmp(key, "top")) c->top = (int)x;
    else if (!strcmp(key, "left")) c->left = (int)x;
    else if (!strcmp(key, "rotate")) c->rotate = (int)x;
    else if (!strcmp(key, "eps")) c->eps = x;
    else if (!strcmp(key, "scale")) c->scale = x;
    else return 1;
    return 0;
}

static int read_options(qw_case *c, char *text, char *why, size_t size)
{
    char *save = NULL;
    for (char *s = strtok_r(text, ",", &save); s; s = strtok_r(NULL, ",", &save)) {
        char *value = strchr(s, '=');
        if (!read_word(c, s)) continue;
        if (value) *value++ = 0;
        if (!value || read_value(c, s, value)) return sentence(why, size, "%s is no option", s);
    }
    return 0;
}

static int read_shape(qw_case *c, const char *text, char *why, size_t size)
{
    const int n = form[c->op].dims;
    for (int i = 0; i < n; i++) {
        char *end;
        const long long d = strtoll(text, &end, 10);
        if (end == text || d < 1 || d > INT32_MAX || *end != (i < n - 1 ? 'x' : 0))
            return sentence(why, size, "a shape has %d numbers with x between", n);
        c->dim[i] = d;
        text = end + 1;
    }
    return 0;
}

int qw_case_parse(qw_case *c, const char *line, char *why, size_t size)
{
    char copy[400], *part[6] = { NULL };
    int n = 0;
    if (strlen(line) >= sizeof copy) return sentence(why, size, "the line is too long");
    memcpy(copy, line, strlen(line) + 1);
    for (char *s = copy; s && n < 6; n++) {
        part[n] = s;
        s = strchr(s, '/');
        if (s) *s++ = 0;
        else if (n < 3) return sentence(why, size, "a case is op/dtypes/options/shape/fill/seed");
    }
    *c =
        (qw_case){ .op = QW_NOPS, .stride = 1, .up = 1, .eps = 1e-6, .fill = QW_NORMAL, .seed = 1 };
    for (int i = 0; i < QW_NOPS; i++)
        if (!strcmp(part[0], qw_op_table[i].name)) c->op = (enum qw_op)i;
    if (c->op == QW_NOPS) return sentence(why, size, "%s is no operation", part[0]);
    if (read_dtypes(c, part[1], why, size) || read_options(c, part[2], why, size)
        || read_shape(c, part[3], why, size))
        return 1;
    c->x2 = c->x2 ? c->x2 : plain_float(c->dtype[0]);
    c->w2 = c->w2 ? c->w2 : plain_float(c->dtype[0]);
    if (part[4]) {
        int f = 0;
        while (f < QW_NFILLS && strcmp(part[4], fill_name[f])) f++;
        if (f == QW_NFILLS)
            return sentence(why, size, "%s is no fill; there are exact, normal and hard", part[4]);
        c->fill = (qw_fill)f;
    }
    if (part[5]) {
        char *end;
        c->seed = strtoull(part[5], &end, 16);
        if (*end || end == part[5])
            return sentence(why, size, "%s is no hexadecimal seed", part[5]);
    }
    qw_material m; /* what the op itself would refuse */
    int status = qw_material_shape(&m, c, QW_F32);
    if (!status && qw_op_table[c->op].check(&m.args, why, size)) status = 1;
    else if (status) sentence(why, size, "%s", qwen_strerror(status));
    qw_material_free(&m);
    return status != 0;
}

void qw_case_print(const qw_case *c, char *out, size_t size)
{
    qw_material m;
    if (qw_material_shape(&m, c, QW_F32)) snprintf(out, size, "%s", qw_op_table[c->op].name);
    else {
        qw_op_table[c->op].line(&m.args, out, size);
        const size_t n = strlen(out);
        if (n < size)
            snprintf(out + n, size - n, "/%s/%llx", fill_name[c->fill],
                     (unsigned long long)c->seed);
    }
    qw_material_free(&m);
}

/* --- drawing ------------------------------------------------------------------------------- */

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
    c->x2 = plain_float(c->dtype[0]);
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
    c->dtype[2] = qw_below(r, 2) ? plain_float(c->dtype[1]) : draw_float(r);
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
