/* judge.c - the verdict on one case: a device against the oracle.
 *
 * Every case is guarded: guards around each buffer stay as they were, so do inputs and padding;
 * outputs begin as NaN; a second run gives the same bits; a declined op wrote nothing. */
#include "fill.h"
#include "trial.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 64, COLS = 64 };

static qw_tensor *operand(qw_trial *t, int i)
{
    return (qw_tensor *)(void *)((char *)&t->args + t->m.d[i].operand->offset);
}

/* A gemm's weight lies in a mapped file; a convolution's has been re-laid and copied like anything
 * else. */
static int in_file(const qw_datum *d) { return (d->operand->role & QW_WEIGHT) && d->t.rank == 2; }

/* A weight: through pack where the device has one, else as it lies (host) or copied as it is.  A
 * host device must take both, so there every second case leaves the weight in place. */
static int place_weight(qw_trial *t, int i, qw_verdict *v)
{
    qw_datum *d = &t->m.d[i];
    qw_tensor *w = operand(t, i);
    t->plain = d->t;
    t->plain.data = d->image + d->begin;
    t->plain.scale = d->scale;
    t->plain.block_scale = d->block_scale;
    const int in_place = t->dev->host && t->m.c.seed % 2;
    const qw_pack_request q = { .size = sizeof q, .w = &t->plain, .parts = 1 };
    const size_t bytes = t->dev->packed && t->dev->pack && !in_place ? t->dev->packed(t->dev, &q)
                                                                     : 0;
    if (bytes) {
        uint64_t ticket;
        *w = t->plain;
        void *memory = qw_trial_device(t, bytes);
        if (!memory)
            return qw_trial_fail(v, "no device memory for a packed weight of %zu bytes", bytes);
        if (t->dev->pack(t->dev, QW_COPY, w, memory, &q) || t->dev->mark(t->dev, QW_COPY, &ticket)
            || t->dev->wait(t->dev, QW_COMPUTE, ticket))
            return qw_trial_fail(v, "packing the weight failed");
        w->host = &t->plain;
        w->originals = 1;
        return 0;
    }
    *w = t->plain;
    if (t->dev->host) {
        t->weight = qw_trial_host(t, d->bytes);
        if (!t->weight) return qw_trial_fail(v, "no memory");
        memcpy(t->weight, d->image, d->bytes);
        w->data = t->weight + d->begin;
        return 0;
    }
    w->data = qw_trial_upload(t, d->image + d->begin, qw_extent(&d->t));
    if (d->scale) w->scale = qw_trial_upload(t, d->scale, d->scales * sizeof *d->scale);
    if (d->block_scale) w->block_scale = qw_trial_upload(t, d->block_scale, d->block_scales);
    if (!w->data || (d->scale && !w->scale) || (d->block_scale && !w->block_scale))
        return qw_trial_fail(v, "no device memory for a weight");
    w->host = &t->plain;
    return 0;
}

static int place(qw_trial *t, qw_verdict *v)
{
    t->args = t->m.args;
    for (int i = 0; i < t->m.n; i++) {
        qw_datum *d = &t->m.d[i];
        if (!qw_present(&d->t)) continue;
        if (in_file(d)) {
            if (place_weight(t, i, v)) return 1;
            continue;
        }
        if (d->same < 0) t->at[i] = qw_trial_upload(t, d->image, d->bytes);
        else t->at[i] = t->at[d->same];
        if (!t->at[i]) return qw_trial_fail(v, "no device memory for %s", d->operand->name);
        qw_tensor *o = operand(t, i);
        o->data = t->at[i] + t->m.d[d->same < 0 ? i : d->same].begin;
        o->block_scale = d->block_scale ? qw_trial_upload(t, d->block_scale, d->block_scales)
                                        : NULL;
        if (!d->scale) continue;
        if (d->operand->role & QW_OUT) memset(d->scale, 0xff, d->scales * sizeof *d->scale);
        o->scale = t->scale_at[i] = qw_trial_upload(t, d->scale, d->scales * sizeof *d->scale);
        if (!o->scale) return qw_trial_fail(v, "no device memory for scales");
    }
    return 0;
}

/* The datum that the op writes: operand 0 of every op. */
static qw_datum *output(qw_trial *t) { return &t->m.d[0]; }

static int64_t run_of(const qw_tensor *t) { return t->dim[t->rank - 1]; }

/* Bytes of the output's image outside its elements must be as they were. */
static int check_padding(const qw_datum *d, const unsigned char *got, qw_verdict *v)
{
    const qw_tensor *t = &d->t;
    const int64_t last = run_of(t), rows = d->n / last;
    size_t at = 0;
    for (int64_t r = 0; r <= rows; r++) {
        size_t begin = d->bytes, end = d->bytes;
        if (r < rows) {
            int64_t e = 0, rest = r;
            for (int k = t->rank - 2; k >= 0; k--) {
                e += rest % t->dim[k] * t->stride[k];
                rest /= t->dim[k];
            }
            begin = d->begin + qw_row_bytes(t->dtype, e);
            end = begin + qw_row_bytes(t->dtype, last);
        }
        for (; at < begin; at++)
            if (got[at] != d->image[at])
                return qw_trial_fail(
                    v, "%s was written at byte %lld from its start, outside its elements",
                    d->operand->name, (long long)at - (long long)d->begin);
        at = end;
    }
    return 0;
}

/* Every input still holds what it held. */
static int check_inputs(qw_trial *t, qw_verdict *v)
{
    for (int i = 1; i < t->m.n; i++) {
        qw_datum *d = &t->m.d[i];
        if (!qw_present(&d->t) || d->same >= 0) continue;
        if (in_file(d)) {
            if (t->weight && memcmp(t->weight, d->image, d->bytes))
                return qw_trial_fail(v, "the weight was changed");
            continue;
        }
        unsigned char *now = qw_trial_host(t, d->bytes);
        if (!now || t->dev->get(t->dev, QW_COMPUTE, now, t->at[i], d->bytes))
            return qw_trial_fail(v, "reading back failed");
        if (memcmp(now, d->image, d->bytes))
            return qw_trial_fail(v, "the input %s was changed", d->operand->name);
    }
    return 0;
}

static int read_output(qw_trial *t, unsigned char *to, float *scale, qw_verdict *v)
{
    const qw_datum *d = output(t);
    if (t->dev->get(t->dev, QW_COMPUTE, to, t->at[0], d->bytes))
        return qw_trial_fail(v, "reading the result failed");
    if (scale && t->dev->get(t->dev, QW_COMPUTE, scale, t->scale_at[0], d->scales * sizeof *scale))
        return qw_trial_fail(v, "reading the result's scales failed");
    return 0;
}

enum { CANARY = 64 };

/* The op once, with `threads` threads (0: all) and the scratch that the device wants, which
 * begins as NaN and ends at a canary. */
static int call(qw_trial *t, int threads, qw_verdict *v)
{
    qw_device *d = t->dev;
    const enum qw_op op = t->m.c.op;
    const int before = d->threads;
    d->threads = threads;
    const size_t bytes = d->scratch ? d->scratch(d, op, &t->args) : 0;
    d->threads = before;
    unsigned char *room = bytes ? qw_trial_device(t, bytes + CANARY) : NULL;
    unsigned char *mirror = bytes ? qw_trial_host(t, bytes + CANARY) : NULL;
    if (bytes && (!room || !mirror)) {
        qw_trial_fail(v, "no memory for %zu bytes of scratch", bytes);
        return QWEN_ENOMEM;
    }
    if (bytes) memset(mirror, 0xff, bytes + CANARY);
    if (bytes && d->put(d, QW_COMPUTE, room, mirror, bytes + CANARY)) return QWEN_EDEVICE;
    d->room = room;
    d->room_bytes = bytes;
    d->threads = threads;
    int status = qw_op_table[op].call(d, &t->args);
    d->threads = before;
    d->room = NULL;
    d->room_bytes = 0;
    if (bytes && d->get(d, QW_COMPUTE, mirror, room + bytes, CANARY)) status = QWEN_EDEVICE;
    for (int i = 0; bytes && i < CANARY; i++)
        if (mirror[i] != 0xff) qw_trial_fail(v, "it wrote beyond its %zu bytes of scratch", bytes);
    return status;
}

/* Runs the op twice from the same start; 1 when the verdict is already known.  A device whose
 * results do not depend on the number of threads has another number the second time. */
static int run_twice(qw_trial *t, qw_verdict *v)
{
    static const int threads[3][2] = { { 1, 2 }, { 2, 0 }, { 3, 1 } };
    const int *const n = threads[t->m.c.seed % 3];
    qw_datum *d = output(t);
    t->got = qw_trial_host(t, d->bytes);
    t->again = qw_trial_host(t, d->bytes);
    t->got_scale = d->scales ? qw_trial_host(t, d->scales * sizeof(float)) : NULL;
    float *again_scale = d->scales ? qw_trial_host(t, d->scales * sizeof(float)) : NULL;
    if (!t->got || !t->again || (d->scales && (!t->got_scale || !again_scale)))
        return qw_trial_fail(v, "no memory");

    const int status = call(t, n[0], v);
    if (v->outcome == QW_FAILED) return 1;
    if (status && status != QW_DECLINE)
        return qw_trial_fail(v, "the op failed: %s", qwen_strerror(status));
    if (read_output(t, t->got, t->got_scale, v)) return 1;
    if (status == QW_DECLINE) {
        if (memcmp(t->got, d->image, d->bytes))
            return qw_trial_fail(v, "it declined, but wrote to %s", d->operand->name);
        v->outcome = QW_DECLINED;
        return 1;
    }
    if (check_padding(d, t->got, v) || check_inputs(t, v)) return 1;
    if (t->dev->put(t->dev, QW_COMPUTE, t->at[0], d->image, d->bytes))
        return qw_trial_fail(v, "restoring the output failed");
    if (d->scales
        && t->dev->put(t->dev, QW_COMPUTE, t->scale_at[0], d->scale, d->scales * sizeof(float)))
        return qw_trial_fail(v, "restoring the output's scales failed");
    if (call(t, t->dev->same_bits ? n[1] : n[0], v))
        return qw_trial_fail(v, "the second run failed");
    if (v->outcome == QW_FAILED) return 1;
    if (read_output(t, t->again, again_scale, v)) return 1;
    if (memcmp(t->got, t->again, d->bytes)
        || (d->scales && memcmp(t->got_scale, again_scale, d->scales * sizeof(float))))
        return qw_trial_fail(v, "a second run gives other bits%s",
                             t->dev->same_bits ? " (with another number of threads)" : "");
    return 0;
}

/* Element e (row-major) of the result. */
static double got_at(const qw_trial *t, int64_t e)
{
    const qw_datum *d = &t->m.d[0];
    const int64_t last = run_of(&d->t);
    int64_t at = e % last, rest = e / last;
    for (int k = d->t.rank - 2; k >= 0; k--) {
        at += rest % d->t.dim[k] * d->t.stride[k];
        rest /= d->t.dim[k];
    }
    const unsigned char *p = t->got + d->begin + qw_row_bytes(d->t.dtype, at);
    double x;
    float f;
    if (d->t.dtype == QW_F64) {
        memcpy(&x, p, sizeof x);
        return x;
    }
    qw_decode_f32(d->t.dtype, p, 1, &f);
    return d->scales ? (double)f * (double)t->got_scale[d->t.scale_stride ? e / last : 0]
                     : (double)f;
}

/* Where storage itself ends: what underflows, what overflows. */
static double underflow_of(qw_dtype t)
{
    return t == QW_F16 ? 0x1p-25 : t == QW_F64 || t == QW_I8 ? 0 : 0x1p-126;
}

static int overflows(qw_dtype t, double y, double e, double got)
{
    const double most = t == QW_F16    ? 65504
                        : t == QW_BF16 ? 0x1.fep127
                        : t == QW_F32  ? 0x1.fffffep127
                                       : 1e308;
    if (t == QW_I8 || fabs(y) + e < most * (1 - 2 * qw_roundoff(t))) return 0;
    return (got > 0) == (y > 0) && fabs(got) >= 0.99 * most;
}

typedef struct tally {
    double square;
    int64_t n, zeros, expected_zeros;
} tally;

/* One judged element; 1 when it fails. */
static int judge_element(qw_trial *t, const qw_expect *x, int64_t o, int64_t e, tally *sum,
                         qw_verdict *v)
{
    const qw_dtype type = t->m.d[0].t.dtype;
    const double y = x->y[o], got = got_at(t, e), u = qw_roundoff(type), tiny = underflow_of(type);
    const double allowed = u * (1 + 0x1p-10) * fabs(y) + x->e[o] + tiny;
    sum->zeros += got == 0;
    sum->expected_zeros += qw_stored(type, y) == 0 || fabs(y) <= 0x1p-110
                           || (type == QW_I8 && fabs(y) <= x->e[o]);
    if (overflows(type, y, x->e[o], got)) return 0;
    const double off = fabs(got - y);
    double ratio = off == 0 ? 0 : allowed > 0 ? off / allowed : INFINITY;
    if (x->exact) ratio = got == qw_stored(type, y) ? 0 : fmax(ratio, 1.0001);
    if (!(ratio <= v->ratio)) v->ratio = isnan(ratio) ? INFINITY : ratio;
    const double s = sqrt(x->s[o] * x->s[o] + u * u * y * y / 3 + tiny * tiny);
    if (s > 0) sum->square += off / s * (off / s), sum->n++;
    if (ratio <= 1) return 0;
    return qw_trial_fail(
        v, "element [%" PRId64 "][%" PRId64 "] is %.9g, expected %.9g within %.3g (%s), ratio %.3g",
        x->row[o / x->cols], x->col[o % x->cols], got, y, x->exact ? 0.0 : allowed,
        x->exact ? "exact" : "bound", ratio);
}

static void compare(qw_trial *t, qw_verdict *v)
{
    qw_expect x;
    const qw_datum *d = output(t);
    const int64_t width = d->n
                          / (t->m.c.op == QW_OP_conv2d ? d->t.dim[0] * d->t.dim[1] : d->t.dim[0]);
    const int64_t rows = t->m.c.op == QW_OP_attention ? 8 : ROWS;
    if (qw_expect_make(&x, &t->m, t->oracle, qw_promise(t->dev, t->m.c.op), rows, COLS)) {
        qw_trial_fail(v, "the oracle cannot say what to expect");
        qw_expect_free(&x);
        return;
    }
    tally sum = { 0, 0, 0, 0 };
    v->outcome = QW_PASSED;
    for (int64_t o = 0; o < x.rows * x.cols; o++)
        judge_element(t, &x, o, x.row[o / x.cols] * width + x.col[o % x.cols], &sum, v);
    v->rms = sum.n ? sqrt(sum.square / (double)sum.n) : 0;
    if (sum.n >= 64 && !(v->rms <= 2))
        qw_trial_fail(v, "the rms of error over deviation is %.3g; it may be 2", v->rms);
    /* Elsewhere results may cancel to zero within the bound. */
    const int64_t spare = x.exact                    ? 0
                          : t->m.c.fill == QW_NORMAL ? 1 + x.rows * x.cols / 64
                                                     : x.rows * x.cols;
    if (sum.zeros > sum.expected_zeros + spare)
        qw_trial_fail(v, "vacuous: %" PRId64 " zeros where the oracle has %" PRId64, sum.zeros,
                      sum.expected_zeros);
    for (int64_t e = 0; e < d->n; e++) /* the elements that were not judged: written at all */
        if (isnan(got_at(t, e))) {
            qw_trial_fail(v, "element %" PRId64 " is not a number", e);
            break;
        }
    qw_expect_free(&x);
}

void qw_judge(qw_device *dev, qw_device *oracle, const qw_case *c, qw_verdict *v)
{
    qw_trial t = { .dev = dev, .oracle = oracle };
    memset(v, 0, sizeof *v);
    v->outcome = QW_NOUTCOMES;
    char why[300];
    if (qw_promise_check(qw_promise(dev, c->op), why, sizeof why)) qw_trial_fail(v, "%s", why);
    else if (qw_material_make(&t.m, c, dev->wide)) qw_trial_fail(v, "the case cannot be made");
    else if (qw_op_table[c->op].check(&t.m.args, why, sizeof why))
        qw_trial_fail(v, "the case is not valid: %s", why);
    else if (!place(&t, v) && !run_twice(&t, v)) compare(&t, v);
    qw_trial_end(&t);
    if (dev->sync(dev) && v->outcome != QW_FAILED) qw_trial_fail(v, "the device failed afterwards");
}

int qw_judge_key(qw_device *dev, qw_device *oracle, enum qw_op op, qw_dtype key, int asked,
                 uint64_t seed, double flops,
                 int (*each)(void *user, const qw_case *c, const qw_verdict *v), void *user)
{
    int judged = 0, declined = 0;
    for (int i = 0; judged < asked && declined < (judged ? 32 : 2) * asked + 8; i++) {
        qw_case c;
        qw_verdict v;
        qw_case_draw(&c, op, key, i, seed, flops);
        qw_judge(dev, oracle, &c, &v);
        if (v.outcome == QW_DECLINED) declined++;
        else judged++;
        const int stop = each(user, &c, &v);
        if (stop) return stop;
    }
    return 0;
}
