/* bounds.c - the expected result of a case: the oracle's value, the error bound, the deviation.
 *
 * A transcription of doc/numerics.md, one function per op.  The judged part of a case is copied out
 * as dense float64 operands; the device "ref64" computes values and magnitude sums (the same op on
 * absolute values) from them.  e bounds |got - y| before y is stored; s is the deviation that
 * independent roundings would have.  Convolutions are judged as products of their gathered windows,
 * so the reference's own convolution is checked by different code. */
#include "conform.h"
#include "fill.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Any operand, product or sum below this may be flushed to zero: float32's smallest normal. */
static const double FLUSH = 0x1p-126;
/* Rows of which the largest is nothing get a scale that can be divided by. */
static const double FLOOR = 1e-30;
/* |act'| of SiLU and GELU is nowhere above this (GELU: 1.129, SiLU: 1.0998). */
static const double SLOPE = 1.13;

/* Doubles underneath: the oracle's own roundings are not the device's fault. */
typedef struct promise {
    double mul[QW_MAX_CLASSES], acc, mid, fun, row, row_w, row_qk;
} promise;

static promise promise_of(const qw_arith *a)
{
    promise p = { .acc = fmax(a->acc, 0x1p-53),
                  .mid = a->mid,
                  .fun = fmax(a->fun, 0x1p-51),
                  .row = a->row,
                  .row_w = a->row_w,
                  .row_qk = a->row_qk };
    for (int i = 0; i < QW_MAX_CLASSES; i++) p.mul[i] = a->mul[i];
    return p;
}

/* The relative error that an operand of the case may have before it is multiplied. */
static double loss(qw_material *m, const promise *p, const char *name)
{
    const qw_datum *d = qw_datum_named(m, name);
    return d ? p->mul[qw_class_of(d->t.dtype)] : 0;
}

/* The products of a gemm or a convolution: what each side loses, and what rounding of rows to codes
 * may lose: of activations that are not codes yet, and of weights that meet codes. */
typedef struct product {
    double x, w, row, row_w;
} product;

static product product_of(qw_material *m, const promise *p)
{
    const int codes = qw_datum_named(m, "x")->t.dtype == QW_I8;
    const int weights = qw_datum_named(m, "w")->t.dtype == QW_I8;
    return (product){ .x = fmax(loss(m, p, "x"), loss(m, p, "x2")),
                      .w = fmax(loss(m, p, "w"), loss(m, p, "w2")),
                      .row = codes ? 0 : p->row,
                      .row_w = weights || (!codes && !(p->row > 0)) ? 0 : p->row_w };
}

/* Rounding of a sum of n terms, relative to the sum of magnitudes (Higham and Mary 2019, lambda =
 * 8). */
static double gamma_of(double n, double acc) { return fmin(n, 8 * sqrt(n)) * acc; }

const qw_arith *qw_promise(const qw_device *dev, enum qw_op op)
{
    switch (op) {
#define X(name) \
    case QW_OP_##name: return &dev->op.name##_arith;
        QW_OPS(X)
#undef X
    default: return NULL;
    }
}

int qw_promise_check(const qw_arith *p, char *why, size_t size)
{
    /* By class: f32, f16, bf16, codes, blocks; bf16 and codes fit every format of products. */
    static const double mul[QW_MAX_CLASSES] = { 0x1p-8, 0x1p-8, 0, 0, 0x1p-8 };
    const struct {
        const char *name;
        double value, most;
    } ceiling[] = {
        { "acc", (double)p->acc, 0x1p-23 },       { "mid", (double)p->mid, 0x1p-8 },
        { "fun", (double)p->fun, 0x1p-10 },       { "row", (double)p->row, 1 / 253.0 },
        { "row_w", (double)p->row_w, 1 / 253.0 }, { "row_qk", (double)p->row_qk, 1 / 253.0 },
    };
    for (int i = 0; i < QW_MAX_CLASSES; i++) {
        if (p->mul[i] >= 0 && (double)p->mul[i] <= mul[i]) continue;
        snprintf(why, size, "it promises mul[%d] = %g; the most is %g", i, (double)p->mul[i],
                 mul[i]);
        return 1;
    }
    for (size_t i = 0; i < sizeof ceiling / sizeof ceiling[0]; i++) {
        if (ceiling[i].value >= 0 && ceiling[i].value <= ceiling[i].most) continue;
        snprintf(why, size, "it promises %s = %g; the most is %g", ceiling[i].name,
                 ceiling[i].value, ceiling[i].most);
        return 1;
    }
    return 0;
}

/* --- memory of an expectation -------------------------------------------------------------- */

static double *room(qw_expect *x, int64_t n)
{
    double *p = x->n_owned < 64 ? calloc((size_t)(n > 0 ? n : 1), sizeof *p) : NULL;
    if (p) x->owned[x->n_owned++] = p;
    else x->failed = QWEN_ENOMEM;
    return p;
}

void qw_expect_free(qw_expect *x)
{
    while (x->n_owned > 0) free(x->owned[--x->n_owned]);
    free(x->row);
    free(x->col);
    memset(x, 0, sizeof *x);
}

/* --- judged parts as dense float64 operands ------------------------------------------------ */

/* Rows x->row of an operand of any rank, all of each row. */
static qw_tensor rows_of(qw_expect *x, const qw_datum *d)
{
    if (!d) return (qw_tensor){ 0 };
    const int64_t width = d->n / d->t.dim[0];
    double *v = room(x, x->rows * width);
    for (int64_t i = 0; v && i < x->rows; i++)
        memcpy(v + i * width, d->v + x->row[i] * width, (size_t)width * sizeof *v);
    qw_tensor t = d->t.rank == 3 ? qw_dense3(v, QW_F64, x->rows, d->t.dim[1], d->t.dim[2])
                                 : qw_dense2(v, QW_F64, x->rows, width);
    return t;
}

/* Rows x->col of a weight, or elements x->col of a vector. */
static qw_tensor cols_of(qw_expect *x, const qw_datum *d)
{
    if (!d) return (qw_tensor){ 0 };
    const int64_t width = d->n / d->t.dim[0];
    double *v = room(x, x->cols * width);
    for (int64_t j = 0; v && j < x->cols; j++)
        memcpy(v + j * width, d->v + x->col[j] * width, (size_t)width * sizeof *v);
    return d->t.rank == 1 ? qw_dense1(v, QW_F64, x->cols) : qw_dense2(v, QW_F64, x->cols, width);
}

/* Elements (x->row, x->col) of a matrix [rows][width]. */
static qw_tensor part_of(qw_expect *x, const qw_datum *d, int64_t width)
{
    if (!d) return (qw_tensor){ 0 };
    double *v = room(x, x->rows * x->cols);
    for (int64_t i = 0; v && i < x->rows; i++)
        for (int64_t j = 0; j < x->cols; j++)
            v[i * x->cols + j] = d->v[x->row[i] * width + x->col[j]];
    return qw_dense2(v, QW_F64, x->rows, x->cols);
}

static qw_tensor whole_of(const qw_datum *d)
{
    if (!d) return (qw_tensor){ 0 };
    const int64_t *n = d->t.dim;
    return d->t.rank == 1   ? qw_dense1(d->v, QW_F64, n[0])
           : d->t.rank == 2 ? qw_dense2(d->v, QW_F64, n[0], n[1])
                            : qw_dense3(d->v, QW_F64, n[0], n[1], n[2]);
}

/* A copy with each element replaced by its absolute value or its square. */
static qw_tensor mapped(qw_expect *x, qw_tensor t, int square)
{
    if (!qw_present(&t) || x->failed) return t;
    const int64_t n = qw_elements(&t);
    const double *from = t.data;
    double *v = room(x, n);
    for (int64_t i = 0; v && i < n; i++) v[i] = square ? from[i] * from[i] : fabs(from[i]);
    t.data = v;
    return t;
}

static void ask(qw_expect *x, qw_device *oracle, enum qw_op op, const void *args)
{
    char why[300];
    if (x->failed) return;
    if (qw_op_table[op].check(args, why, sizeof why)) x->failed = QWEN_EARG;
    else if (qw_op_table[op].call(oracle, args)) x->failed = QWEN_EDEVICE;
}

static double at(const qw_tensor *t, int64_t i)
{
    return qw_present(t) ? ((const double *)t->data)[i] : 0;
}

static double act_of(qw_act a, double z)
{
    switch (a) {
    case QW_SILU: return z / (1 + exp(-z));
    case QW_GELU_TANH: return 0.5 * z * (1 + tanh(0.7978845608028654 * (z + 0.044715 * z * z * z)));
    case QW_GELU_ERF: return 0.5 * z * (1 + erf(z * 0.7071067811865476));
    default: return z;
    }
}

/* --- gemm, and conv2d as one --------------------------------------------------------------- */

/* e before storage: (mul x + mul w + gamma(k)) sum |x||w| + row max|x| sum |w| + row_w max|w|
 * sum |x|, maxima over rows, through act, gate and res. */
static void expect_product(qw_expect *x, qw_device *oracle, const qw_gemm_args *a, const promise *p,
                           const product *f)
{
    const int64_t m = x->rows, n = x->cols, k = a->x.dim[1];
    qw_gemm_args z = *a, sum = *a, square = *a;
    z.act = sum.act = square.act = QW_ACT_NONE;
    z.gate = z.res = (qw_tensor){ 0 };
    sum = (qw_gemm_args){ .x = mapped(x, a->x, 0),
                          .w = mapped(x, a->w, 0),
                          .x2 = mapped(x, a->x2, 0),
                          .w2 = mapped(x, a->w2, 0),
                          .bias = mapped(x, a->bias, 0) };
    square = (qw_gemm_args){ .x = mapped(x, a->x, 1),
                             .w = mapped(x, a->w, 1),
                             .x2 = mapped(x, a->x2, 1),
                             .w2 = mapped(x, a->w2, 1),
                             .bias = mapped(x, a->bias, 1) };
    double *zv = room(x, m * n), *sv = room(x, m * n), *qv = room(x, m * n), *w1 = room(x, n),
           *w2 = room(x, n);
    z.y = qw_dense2(zv, QW_F64, m, n);
    sum.y = qw_dense2(sv, QW_F64, m, n);
    square.y = qw_dense2(qv, QW_F64, m, n);
    ask(x, oracle, QW_OP_gemm, &z);
    ask(x, oracle, QW_OP_gemm, &sum);
    ask(x, oracle, QW_OP_gemm, &square);
    ask(x, oracle, QW_OP_gemm, a);
    if (x->failed) return;
    double *most = room(x, n), wmost = 0;
    for (int64_t j = 0; j < n && most; j++) {
        for (int64_t l = 0; l < k; l++) {
            const double w = fabs(at(&a->w, j * k + l));
            w1[j] += w;
            w2[j] += w * w;
            most[j] = fmax(most[j], w);
        }
        wmost = fmax(wmost, most[j]);
    }
    if (x->failed) return;
    const double terms = (double)k + (qw_present(&a->x2) ? (double)a->x2.dim[1] : 0)
                         + (qw_present(&a->bias) ? 1 : 0);
    for (int64_t i = 0; i < m; i++) {
        double xmost = 0, x1 = 0, xx = 0;
        for (int64_t l = 0; l < k; l++) {
            const double v = fabs(at(&a->x, i * k + l));
            xmost = fmax(xmost, v);
            x1 += v;
            xx += v * v;
        }
        for (int64_t j = 0; j < n; j++) {
            const int64_t o = i * n + j;
            const double Z = zv[o], q = sqrt(qv[o]), flush = terms * FLUSH * (xmost + wmost + 1);
            const double rx = f->row * xmost, rw = f->row_w * most[j];
            double e = (f->x + f->w + gamma_of(terms, p->acc)) * sv[o] + rx * w1[j] + rw * x1
                       + (double)k * rx * rw + flush;
            double v = (f->x * f->x + f->w * f->w) / 3 * qv[o]
                       + p->acc * p->acc * terms * (fabs(Z) + q) * (fabs(Z) + q)
                       + (rx * rx * w2[j] + rw * rw * xx) / 3 + flush * flush;
            if (a->act) {
                e = SLOPE * e + (p->fun + 3 * p->acc) * fabs(Z) + 1024 * FLUSH;
                v = SLOPE * SLOPE * v + (p->fun * p->fun + 9 * p->acc * p->acc) * Z * Z;
            }
            const double g = qw_present(&a->gate) ? at(&a->gate, j) : 1,
                         ga = fabs(g * act_of(a->act, Z));
            const double added = 2 * ga * (qw_present(&a->gate) || qw_present(&a->res))
                                 + fabs(at(&a->res, o));
            x->e[o] = fabs(g) * e + p->acc * added;
            x->s[o] = sqrt(g * g * v + p->acc * p->acc * added * added);
        }
    }
}

/* All of v survive rounding to `mul` and are small enough to be summed without error. */
static int survive(const qw_tensor *t, double mul)
{
    if (!qw_present(t) || !(mul > 0)) return 1;
    const int64_t n = qw_elements(t);
    for (int64_t i = 0; i < n; i++) {
        int e;
        const double f = frexp(at(t, i), &e) / mul; /* mul 2^-8: 8 bits */
        if (f != floor(f)) return 0;
    }
    return 1;
}

static int product_exact(const qw_gemm_args *a, const promise *p, const product *f)
{
    return !a->act && !(f->row > 0) && !(f->row_w > 0) && p->acc <= 0x1p-24 && survive(&a->x, f->x)
           && survive(&a->w, f->w) && survive(&a->x2, f->x) && survive(&a->w2, f->w);
}

static void expect_gemm(qw_expect *x, qw_material *m, qw_device *oracle, const promise *p)
{
    const int64_t n = m->c.dim[1];
    qw_gemm_args a = { .act = m->c.act,
                       .x = rows_of(x, qw_datum_named(m, "x")),
                       .w = cols_of(x, qw_datum_named(m, "w")),
                       .x2 = rows_of(x, qw_datum_named(m, "x2")),
                       .w2 = cols_of(x, qw_datum_named(m, "w2")),
                       .bias = cols_of(x, qw_datum_named(m, "bias")),
                       .gate = cols_of(x, qw_datum_named(m, "gate")),
                       .res = part_of(x, qw_datum_named(m, "res"), n) };
    a.y = qw_dense2(x->y, QW_F64, x->rows, x->cols);
    const product f = product_of(m, p);
    expect_product(x, oracle, &a, p, &f);
    if (!x->failed) x->exact = m->c.fill == QW_EXACT && product_exact(&a, p, &f);
}

/* The window of each judged pixel as a row [kh kw ci]; beyond the picture: zeros. */
static qw_tensor windows(qw_expect *x, const qw_material *m, const qw_datum *d)
{
    const int64_t wo = m->c.dim[1], hi = m->c.dim[3], wi = m->c.dim[4], ci = m->c.dim[5];
    const int64_t kh = m->c.dim[6], kw = m->c.dim[7], k = kh * kw * ci;
    double *v = room(x, x->rows * k);
    for (int64_t i = 0; v && i < x->rows; i++) {
        const int64_t top = x->row[i] / wo * m->c.stride - m->c.top,
                      left = x->row[i] % wo * m->c.stride - m->c.left;
        for (int64_t r = 0; r < kh; r++)
            for (int64_t s = 0; s < kw; s++) {
                const int64_t py = top + r, px = left + s;
                if (py < 0 || px < 0 || py >= m->c.up * hi || px >= m->c.up * wi) continue;
                memcpy(v + i * k + (r * kw + s) * ci,
                       d->v + ((py / m->c.up) * wi + px / m->c.up) * ci, (size_t)ci * sizeof *v);
            }
    }
    return qw_dense2(v, QW_F64, x->rows, k);
}

static void expect_conv2d(qw_expect *x, qw_material *m, qw_device *oracle, const promise *p)
{
    const int64_t co = m->c.dim[2];
    const qw_datum *w = qw_datum_named(m, "w");
    qw_gemm_args a = { .x = windows(x, m, qw_datum_named(m, "x")),
                       .w = qw_dense2(w->v, QW_F64, co, w->n / co),
                       .bias = whole_of(qw_datum_named(m, "bias")),
                       .res = part_of(x, qw_datum_named(m, "res"), co) };
    a.y = qw_dense2(x->y, QW_F64, x->rows, x->cols);
    const product f = product_of(m, p);
    expect_product(x, oracle, &a, p, &f);
    if (!x->failed) x->exact = m->c.fill == QW_EXACT && product_exact(&a, p, &f);
}

/* --- attention ----------------------------------------------------------------------------- */

/* One query and head: weights p [last - first], delta = bound of a logit's error, and its
 * deviation. */
typedef struct logits {
    double delta, deviation;
    int powers;
} logits;

/* Relative errors of q, k and v before they are multiplied. */
typedef struct losses {
    double q, k, v;
} losses;

static logits weigh(const double *q, const double *k, int64_t step, int64_t first, int64_t last,
                    int64_t d, double scale, const promise *p, const losses *f, double *w)
{
    logits l = { 0, 0, 1 };
    double most = -INFINITY, total = 0, q1 = 0, qmost = 0;
    for (int64_t i = 0; i < d; i++) {
        q1 += fabs(q[i]);
        qmost = fmax(qmost, fabs(q[i]));
    }
    for (int64_t j = first; j < last; j++) {
        double s = 0, sum = 0, square = 0, k1 = 0, kmost = 0;
        for (int64_t i = 0; i < d; i++) {
            const double t = q[i] * k[j * step + i];
            s += t;
            sum += fabs(t);
            square += t * t;
            k1 += fabs(k[j * step + i]);
            kmost = fmax(kmost, fabs(k[j * step + i]));
        }
        const double codes = p->row_qk * (qmost * k1 + kmost * q1);
        w[j - first] = s *= scale;
        most = fmax(most, s);
        const double flush = (double)d * FLUSH * 1e4;
        l.delta =
            fmax(l.delta,
                 fabs(scale) * ((f->q + f->k + gamma_of((double)d, p->acc)) * sum + codes + flush)
                     + 3 * p->acc * fabs(s));
        l.deviation = fmax(l.deviation, fabs(scale)
                                                * sqrt((f->q * f->q + f->k * f->k) / 3 * square
                                                       + p->acc * p->acc * (double)d * 4 * square
                                                       + codes * codes / 3)
                                            + 3 * p->acc * fabs(s));
    }
    for (int64_t j = first; j < last; j++) total += w[j - first] = exp(w[j - first] - most);
    int e;
    for (int64_t j = first; j < last; j++) {
        w[j - first] /= total;
        if (w[j - first] > 1e-40 && frexp(w[j - first], &e) != 0.5) l.powers = 0;
    }
    return l;
}

/* e: (e^(2 delta) - 1 + 2 fun + mid + 2 mul v + 2 gamma(nk)) sum p|v| */
static void expect_head(qw_expect *x, const qw_material *m, int64_t i, int64_t h, const double *q,
                        const double *k, const double *v, double *w, const promise *p,
                        const losses *f)
{
    const int64_t hq = m->c.dim[2], hk = m->c.dim[3], d = m->c.dim[4], own = h / (hq / hk);
    const int64_t first = m->first ? m->first[x->row[i]] : 0,
                  last = m->last ? m->last[x->row[i]] : m->c.dim[1];
    const logits l =
        weigh(q, k + own * d, hk * d, first, last, d, m->args.attention.scale, p, f, w);
    const double n = (double)(last - first);
    const int exact = m->c.fill == QW_EXACT;
    for (int64_t c = 0; c < d; c++) {
        double sum = 0, square = 0, most = 0;
        for (int64_t j = first; j < last; j++) {
            const double vj = v[(j * hk + own) * d + c], t = w[j - first] * fabs(vj);
            sum += t;
            square += t * t;
            most = fmax(most, fabs(vj));
        }
        const int64_t o = (i * hq + h) * d + c;
        const double y = fabs(x->y[o]), q2 = sqrt(square), flush = n * FLUSH * (most + 1);
        const double general = expm1(2 * l.delta) + 2 * p->fun + p->mid + 2 * f->v
                               + 2 * gamma_of(n, p->acc);
        x->e[o] = flush
                  + sum * (exact ? 8 * p->acc + 2 * p->fun + (l.powers ? 0 : p->mid) : general);
        x->s[o] = sqrt(square
                           * (4 * l.deviation * l.deviation + 4 * p->fun * p->fun + p->mid * p->mid
                              + f->v * f->v)
                       + p->acc * p->acc * n * (y + q2) * (y + q2) + p->fun * p->fun * y * y
                       + flush * flush);
        if (exact) x->s[o] = x->e[o];
    }
}

static void expect_attention(qw_expect *x, qw_material *m, qw_device *oracle, const promise *p)
{
    const int64_t hq = m->c.dim[2], d = m->c.dim[4], nk = m->c.dim[1];
    int32_t *range = (int32_t *)(void *)room(x, x->rows);
    double *w = room(x, nk);
    qw_attention_args a = { .q = rows_of(x, qw_datum_named(m, "q")),
                            .k = whole_of(qw_datum_named(m, "k")),
                            .v = whole_of(qw_datum_named(m, "v")),
                            .scale = m->args.attention.scale };
    a.y = qw_dense3(x->y, QW_F64, x->rows, hq, d);
    if (x->failed) return;
    if (m->first) { /* the judged queries' ranges; room() gave 8 bytes for each pair */
        for (int64_t i = 0; i < x->rows; i++) {
            range[i] = m->first[x->row[i]];
            range[x->rows + i] = m->last[x->row[i]];
        }
        a.first = range;
        a.last = range + x->rows;
    }
    ask(x, oracle, QW_OP_attention, &a);
    if (x->failed) return;
    const losses f = { loss(m, p, "q"), loss(m, p, "k"), loss(m, p, "v") };
    for (int64_t i = 0; i < x->rows; i++)
        for (int64_t h = 0; h < hq; h++)
            expect_head(x, m, i, h, (const double *)a.q.data + (i * hq + h) * d, a.k.data, a.v.data,
                        w, p, &f);
}

/* --- norms --------------------------------------------------------------------------------- */

/* The share of the terms below acc times the sum in the sum of squares of v - mean.  A sum may lose
 * them one by one, each loss with the same sign (doc/numerics.md, lost squares). */
static double vanishing(const double *v, int64_t n, double mean, double acc)
{
    double sum = 0, small = 0;
    for (int64_t j = 0; j < n; j++) sum += (v[j] - mean) * (v[j] - mean);
    for (int64_t j = 0; j < n; j++) {
        const double square = (v[j] - mean) * (v[j] - mean);
        if (square < acc * sum) small += square;
    }
    return sum > 0 ? small / sum : 0;
}

/* e: |y| ((gamma(n) + vanishing) / 2 + fun + 3 acc), through SiLU; here |y| is that of the norm. */
static void expect_rms_norm(qw_expect *x, qw_material *m, qw_device *oracle, const promise *p)
{
    const int64_t n = m->c.dim[1];
    qw_rms_norm_args a = { .x = rows_of(x, qw_datum_named(m, "x")),
                           .w = whole_of(qw_datum_named(m, "w")),
                           .eps = m->c.eps,
                           .act = m->c.act };
    qw_rms_norm_args plain = a;
    double *z = room(x, x->rows * n);
    a.y = qw_dense2(x->y, QW_F64, x->rows, n);
    plain.y = qw_dense2(z, QW_F64, x->rows, n);
    plain.act = QW_ACT_NONE;
    ask(x, oracle, QW_OP_rms_norm, &plain);
    ask(x, oracle, QW_OP_rms_norm, &a);
    if (x->failed) return;
    const double sums = m->c.fill == QW_EXACT ? 5 * p->acc : gamma_of((double)n, p->acc) / 2;
    const double walk = p->acc * sqrt((double)n) / 2, r = 1 / sqrt(m->c.eps + 1e-30);
    double gone = 0; /* of the row */
    for (int64_t o = 0; o < x->rows * n; o++) {
        if (o % n == 0) gone = vanishing((const double *)a.x.data + o, n, 0, p->acc) / 2;
        const double Z = fabs(z[o]), flush = FLUSH * (1 + r * fabs(at(&a.w, o % n)));
        double e = Z * (sums + gone + p->fun + 3 * p->acc) + flush,
               s = Z * sqrt(walk * walk + gone * gone + p->fun * p->fun + 9 * p->acc * p->acc)
                   + flush;
        if (a.act) {
            e = SLOPE * e + (p->fun + 3 * p->acc) * Z + 1024 * FLUSH;
            s = SLOPE * s + (p->fun + 3 * p->acc) * Z;
        }
        x->e[o] = e;
        x->s[o] = s;
    }
}

/* e: (gamma(n) mean|x| + acc (|x| + |mean|)) r |1 + scale|
 *    + |y - shift| (gamma(n) + vanishing / 2 + fun) + 3 acc (|y| + |shift|) */
static void expect_ln_mod(qw_expect *x, qw_material *m, qw_device *oracle, const promise *p)
{
    const int64_t n = m->c.dim[1];
    qw_ln_mod_args a = { .x = rows_of(x, qw_datum_named(m, "x")),
                         .scale = whole_of(qw_datum_named(m, "scale")),
                         .shift = whole_of(qw_datum_named(m, "shift")),
                         .eps = m->c.eps };
    a.y = qw_dense2(x->y, QW_F64, x->rows, n);
    ask(x, oracle, QW_OP_ln_mod, &a);
    if (x->failed) return;
    /* Integers around an integer mean: their sums have no error. */
    const double g = m->c.fill == QW_EXACT ? 4 * p->acc : gamma_of((double)n, p->acc);
    const double g0 = m->c.fill == QW_EXACT ? 0 : g, walk = p->acc * sqrt((double)n);
    for (int64_t i = 0; i < x->rows; i++) {
        const double *v = (const double *)a.x.data + i * n;
        double mean = 0, size = 0, var = 0;
        for (int64_t j = 0; j < n; j++) mean += v[j] / (double)n, size += fabs(v[j]) / (double)n;
        for (int64_t j = 0; j < n; j++) var += (v[j] - mean) * (v[j] - mean) / (double)n;
        const double r = 1 / sqrt(var + m->c.eps), gone = vanishing(v, n, mean, p->acc) / 2;
        for (int64_t j = 0; j < n; j++) {
            const int64_t o = i * n + j;
            const double shift = fabs(at(&a.shift, j)), y = fabs(x->y[o]),
                         part = fabs(x->y[o] - at(&a.shift, j));
            const double up = r * fabs(1 + at(&a.scale, j)), both = fabs(v[j]) + fabs(mean),
                         last = 3 * p->acc * (y + shift);
            const double flush = FLUSH * (2 + up);
            x->e[o] = (g0 * size + p->acc * both) * up + part * (g + gone + p->fun) + last + flush;
            const double s1 = (walk * size + p->acc * both) * up,
                         s2 = part * (walk / 2 + gone + p->fun);
            x->s[o] = sqrt(s1 * s1 + s2 * s2 + last * last) + flush;
        }
    }
}

/* e: 2 (e_norm + 2 acc)(|z0 cos| + |z1 sin|), e_norm the relative bound of rms_norm, 0 without a
 * norm */
static void expect_norm_rope(qw_expect *x, qw_material *m, qw_device *oracle, const promise *p)
{
    const int64_t h = m->c.dim[1], d = m->c.dim[2], half = d / 2;
    qw_norm_rope_args a = { .x = rows_of(x, qw_datum_named(m, "x")),
                            .w = whole_of(qw_datum_named(m, "w")),
                            .cos = rows_of(x, qw_datum_named(m, "cos")),
                            .sin = rows_of(x, qw_datum_named(m, "sin")),
                            .pairing = m->args.norm_rope.pairing,
                            .eps = m->c.eps };
    qw_norm_rope_args b = a; /* on magnitudes: |z0| |cos| + |z1| |sin| needs |-sin|: two calls */
    const int64_t n = x->rows * h * d;
    double *z = room(x, n), *one = room(x, x->rows * half), *zero = room(x, x->rows * half);
    if (x->failed) return;
    memcpy(x->y, a.x.data, (size_t)n * sizeof *x->y);
    a.x.data = x->y;
    memcpy(z, b.x.data, (size_t)n * sizeof *z);
    for (int64_t i = 0; i < x->rows * half; i++) one[i] = 1;
    b.x.data = z; /* the norm alone: a rotation by nothing */
    b.cos.data = one;
    b.sin.data = zero;
    ask(x, oracle, QW_OP_norm_rope, &b);
    ask(x, oracle, QW_OP_norm_rope, &a);
    if (x->failed) return;
    const int norm = qw_present(&a.w), halves = a.pairing == QW_HALVES;
    const double sums = m->c.fill == QW_EXACT ? 5 * p->acc : gamma_of((double)d, p->acc) / 2;
    const double r = norm ? 1 / sqrt(m->c.eps + 1e-30) : 1;
    const qw_datum *given = qw_datum_named(m, "x");
    double gone = 0; /* of the head */
    for (int64_t o = 0; o < n; o++) {
        if (norm && o % d == 0)
            gone = vanishing(given->v + x->row[o / (h * d)] * h * d + o % (h * d), d, 0, p->acc)
                   / 2;
        const double en = norm ? sums + gone + p->fun + 3 * p->acc : 0;
        const int64_t i = o / (h * d), c = o % d, pair = halves ? c % half : c / 2;
        const int second = halves ? c >= half : c % 2;
        const int64_t other = o + (halves ? (second ? -half : half) : second ? -1 : 1);
        const double cs = fabs(at(&a.cos, i * half + pair)), sn = fabs(at(&a.sin, i * half + pair));
        const double size = fabs(z[o]) * cs + fabs(z[other]) * sn;
        const double w = norm ? fabs(at(&a.w, c)) + fabs(at(&a.w, other % d)) : 1,
                     flush = FLUSH * (4 + 2 * r * w);
        x->e[o] = 2 * (en + 2 * p->acc) * size + flush;
        x->s[o] = (norm ? p->acc * sqrt((double)d) / 2 + gone + p->fun + 3 * p->acc : 0) * size
                  + 2 * p->acc * size + flush;
    }
}

/* --- swiglu, convert ----------------------------------------------------------------------- */

/* e: |y| (fun + 3 acc) */
static void expect_swiglu(qw_expect *x, qw_material *m, qw_device *oracle, const promise *p)
{
    const int64_t n = m->c.dim[1];
    qw_swiglu_args a = { .x = rows_of(x, qw_datum_named(m, "x")) };
    a.y = qw_dense2(x->y, QW_F64, x->rows, n);
    ask(x, oracle, QW_OP_swiglu, &a);
    for (int64_t o = 0; o < x->rows * n && !x->failed; o++) {
        /* exp overflows in f32 at -88.7, where silu is 3e-37; what is below may be zero. */
        const double flush = 1024 * FLUSH * (1 + fabs(at(&a.x, o / n * 2 * n + n + o % n)));
        x->e[o] = fabs(x->y[o]) * (p->fun + (m->c.fill == QW_EXACT ? 8 : 3) * p->acc) + flush;
        x->s[o] = fabs(x->y[o]) * sqrt(p->fun * p->fun + 9 * p->acc * p->acc) + flush;
    }
}

/* e: 0; with res or rotate (2 acc + gamma(rotate)) of the magnitudes */
static void expect_convert(qw_expect *x, qw_material *m, qw_device *oracle, const promise *p)
{
    const int64_t n = m->c.dim[1];
    const int g = m->c.rotate;
    qw_convert_args a = { .x = rows_of(x, qw_datum_named(m, "x")),
                          .res = rows_of(x, qw_datum_named(m, "res")),
                          .rotate = g };
    a.y = qw_dense2(x->y, QW_F64, x->rows, n);
    ask(x, oracle, QW_OP_convert, &a);
    if (x->failed) return;
    const int res = qw_present(&a.res);
    const double each = res || g ? 2 * p->acc + (g ? gamma_of(g, p->acc) : 0) : 0;
    x->exact = m->c.fill == QW_EXACT && p->acc <= 0x1p-24;
    for (int64_t o = 0; o < x->rows * n; o++) {
        const int64_t j = o % n, from = g ? j / g * g : j, to = g ? from + g : j + 1;
        double size = fabs(at(&a.res, o)), square = 0;
        for (int64_t l = from; l < to; l++) {
            const double v = fabs(at(&a.x, o - j + l)) / (g ? sqrt(g) : 1);
            size += v;
            square += v * v;
        }
        const double flush = each > 0 ? FLUSH * (g + 1) : 0;
        x->e[o] = each * size + flush;
        x->s[o] = res || g ? (2 + sqrt(g)) * p->acc * (fabs(x->y[o]) + sqrt(square)) + flush : 0;
    }
}

/* Rows that become codes: half a step of the row more, and what an error of its largest does to the
 * step. */
static void expect_codes(qw_expect *x)
{
    for (int64_t i = 0; i < x->rows; i++) {
        double most = 0, worst = 0;
        for (int64_t o = i * x->cols; o < (i + 1) * x->cols; o++) {
            most = fmax(most, fabs(x->y[o]));
            worst = fmax(worst, x->e[o]);
        }
        const double step = most / 127;
        if (most != 127) x->exact = 0;
        for (int64_t o = i * x->cols; o < (i + 1) * x->cols; o++) {
            x->e[o] += 0.5 * step * (1 + 0x1p-10) + 2 * worst + 0x1p-22 * fabs(x->y[o]) + FLOOR;
            x->s[o] += step / sqrt(12) + FLOOR;
        }
    }
}

/* --- all ----------------------------------------------------------------------------------- */

/* At most `most` of 0 .. n-1, in order; all when they are few. */
static int64_t *choose(int64_t n, int64_t most, uint64_t seed, int64_t *count)
{
    const int64_t k = n < most ? n : most;
    int64_t *p = calloc((size_t)k, sizeof *p);
    qw_random r = qw_random_of(seed, 80);
    for (int64_t i = 0; p && i < k; i++) { /* one from each of k equal stretches */
        const int64_t from = n * i / k, to = n * (i + 1) / k;
        p[i] = from + (int64_t)qw_below(&r, (uint64_t)(to - from));
    }
    *count = k;
    return p;
}

int qw_expect_make(qw_expect *x, qw_material *m, qw_device *oracle, const qw_arith *given,
                   int64_t rows, int64_t cols)
{
    memset(x, 0, sizeof *x);
    const promise p = promise_of(given);
    const int64_t *d = m->c.dim;
    const int conv = m->c.op == QW_OP_conv2d;
    const int64_t width = m->c.op == QW_OP_attention   ? d[2] * d[4]
                          : conv                       ? d[2]
                          : m->c.op == QW_OP_norm_rope ? d[1] * d[2]
                                                       : d[1];
    x->row = choose(conv ? d[0] * d[1] : d[0], rows, m->c.seed, &x->rows);
    const int codes = m->d[0].t.dtype == QW_I8; /* a row of them depends on all of its elements */
    x->col = choose(width, m->c.op == QW_OP_gemm && !codes ? cols : width, m->c.seed + 1, &x->cols);
    if (!x->row || !x->col) return QWEN_ENOMEM;
    x->y = room(x, x->rows * x->cols);
    x->e = room(x, x->rows * x->cols);
    x->s = room(x, x->rows * x->cols);
    if (x->failed) return x->failed;
    switch (m->c.op) {
#define X(name) \
    case QW_OP_##name: expect_##name(x, m, oracle, &p); break;
        QW_OPS(X)
#undef X
    default: return QWEN_EARG;
    }
    if (codes && !x->failed) expect_codes(x);
    return x->failed;
}
