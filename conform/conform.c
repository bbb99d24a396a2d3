/* conform.c - judging devices by the reference's oracle: the harness, and the program qwen-conform.
 *
 *     qwen-conform [options] [device...] [op...]
 *
 * devices x ops x cases.  Every case is guarded: guards around each buffer stay as they were, so do
 * inputs and padding; outputs begin as NaN; a second run gives the same bits; a declined op wrote
 * nothing. */
#include "conform.h"
#include "fill.h"
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* --- one case on one device ---------------------------------------------------------------- */

enum { OWNED = 32, ROWS = 64, COLS = 64 };

typedef struct trial {
    qw_device *dev, *oracle;
    qw_material m;
    qw_any_args args; /* with addresses of the device */
    void *on_device[OWNED], *on_host[OWNED];
    int n_device, n_host;
    unsigned char *at[QW_DATA]; /* where each operand's image lies on the device */
    float *scale_at[QW_DATA];   /* where an output's scales lie */
    unsigned char *weight;      /* the copy that a host device reads in place */
    qw_tensor plain;            /* the original of a packed weight */
    unsigned char *got, *again; /* the output's image after the first and the second run */
    float *got_scale;
} trial;

static int fail(qw_verdict *v, const char *format, ...) QW_PRINTF(2, 3);
static int fail(qw_verdict *v, const char *format, ...)
{
    if (v->outcome == QW_FAILED && v->why[0]) return 1;
    v->outcome = QW_FAILED;
    va_list ap;
    va_start(ap, format);
    vsnprintf(v->why, sizeof v->why, format, ap);
    va_end(ap);
    return 1;
}

static void *take_device(trial *t, size_t bytes)
{
    void *p = NULL;
    if (t->n_device == OWNED || t->dev->alloc(t->dev, bytes ? bytes : 1, &p)) return NULL;
    return t->on_device[t->n_device++] = p;
}

static void *take_host(trial *t, size_t bytes)
{
    void *p = t->n_host < OWNED ? malloc(bytes ? bytes : 1) : NULL;
    return p ? t->on_host[t->n_host++] = p : NULL;
}

static void give_back(trial *t)
{
    while (t->n_device > 0) t->dev->free(t->dev, t->on_device[--t->n_device]);
    while (t->n_host > 0) free(t->on_host[--t->n_host]);
    qw_material_free(&t->m);
}

static void *upload(trial *t, const void *from, size_t bytes)
{
    void *p = take_device(t, bytes);
    return p && !t->dev->put(t->dev, QW_COMPUTE, p, from, bytes) ? p : NULL;
}

static qw_tensor *operand(trial *t, int i)
{
    return (qw_tensor *)(void *)((char *)&t->args + t->m.d[i].operand->offset);
}

/* A gemm's weight lies in a mapped file; a convolution's has been re-laid and copied like anything
 * else. */
static int in_file(const qw_datum *d) { return (d->operand->role & QW_WEIGHT) && d->t.rank == 2; }

/* A weight: through pack where the device has one, else as it lies (host) or copied as it is.  A
 * host device must take both, so there every second case leaves the weight in place. */
static int place_weight(trial *t, int i, qw_verdict *v)
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
        void *memory = take_device(t, bytes);
        if (!memory) return fail(v, "no device memory for a packed weight of %zu bytes", bytes);
        if (t->dev->pack(t->dev, QW_COPY, w, memory, &q) || t->dev->mark(t->dev, QW_COPY, &ticket)
            || t->dev->wait(t->dev, QW_COMPUTE, ticket))
            return fail(v, "packing the weight failed");
        w->host = &t->plain;
        w->originals = 1;
        return 0;
    }
    *w = t->plain;
    if (t->dev->host) {
        t->weight = take_host(t, d->bytes);
        if (!t->weight) return fail(v, "no memory");
        memcpy(t->weight, d->image, d->bytes);
        w->data = t->weight + d->begin;
        return 0;
    }
    w->data = upload(t, d->image + d->begin, qw_extent(&d->t));
    if (d->scale) w->scale = upload(t, d->scale, d->scales * sizeof *d->scale);
    if (d->block_scale) w->block_scale = upload(t, d->block_scale, d->block_scales);
    if (!w->data || (d->scale && !w->scale) || (d->block_scale && !w->block_scale))
        return fail(v, "no device memory for a weight");
    w->host = &t->plain;
    return 0;
}

static int place(trial *t, qw_verdict *v)
{
    t->args = t->m.args;
    for (int i = 0; i < t->m.n; i++) {
        qw_datum *d = &t->m.d[i];
        if (!qw_present(&d->t)) continue;
        if (in_file(d)) {
            if (place_weight(t, i, v)) return 1;
            continue;
        }
        if (d->same < 0) t->at[i] = upload(t, d->image, d->bytes);
        else t->at[i] = t->at[d->same];
        if (!t->at[i]) return fail(v, "no device memory for %s", d->operand->name);
        qw_tensor *o = operand(t, i);
        o->data = t->at[i] + t->m.d[d->same < 0 ? i : d->same].begin;
        o->block_scale = d->block_scale ? upload(t, d->block_scale, d->block_scales) : NULL;
        if (!d->scale) continue;
        if (d->operand->role & QW_OUT) memset(d->scale, 0xff, d->scales * sizeof *d->scale);
        o->scale = t->scale_at[i] = upload(t, d->scale, d->scales * sizeof *d->scale);
        if (!o->scale) return fail(v, "no device memory for scales");
    }
    return 0;
}

/* The datum that the op writes: operand 0 of every op. */
static qw_datum *output(trial *t) { return &t->m.d[0]; }

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
                return fail(v, "%s was written at byte %lld from its start, outside its elements",
                            d->operand->name, (long long)at - (long long)d->begin);
        at = end;
    }
    return 0;
}

/* Every input still holds what it held. */
static int check_inputs(trial *t, qw_verdict *v)
{
    for (int i = 1; i < t->m.n; i++) {
        qw_datum *d = &t->m.d[i];
        if (!qw_present(&d->t) || d->same >= 0) continue;
        if (in_file(d)) {
            if (t->weight && memcmp(t->weight, d->image, d->bytes))
                return fail(v, "the weight was changed");
            continue;
        }
        unsigned char *now = take_host(t, d->bytes);
        if (!now || t->dev->get(t->dev, QW_COMPUTE, now, t->at[i], d->bytes))
            return fail(v, "reading back failed");
        if (memcmp(now, d->image, d->bytes))
            return fail(v, "the input %s was changed", d->operand->name);
    }
    return 0;
}

static int read_output(trial *t, unsigned char *to, float *scale, qw_verdict *v)
{
    const qw_datum *d = output(t);
    if (t->dev->get(t->dev, QW_COMPUTE, to, t->at[0], d->bytes))
        return fail(v, "reading the result failed");
    if (scale && t->dev->get(t->dev, QW_COMPUTE, scale, t->scale_at[0], d->scales * sizeof *scale))
        return fail(v, "reading the result's scales failed");
    return 0;
}

/* Runs the op twice from the same start; 1 when the verdict is already known. */
static int run_twice(trial *t, qw_verdict *v)
{
    const qw_op_info *info = &qw_op_table[t->m.c.op];
    qw_datum *d = output(t);
    t->got = take_host(t, d->bytes);
    t->again = take_host(t, d->bytes);
    t->got_scale = d->scales ? take_host(t, d->scales * sizeof(float)) : NULL;
    float *again_scale = d->scales ? take_host(t, d->scales * sizeof(float)) : NULL;
    if (!t->got || !t->again || (d->scales && (!t->got_scale || !again_scale)))
        return fail(v, "no memory");

    const int status = info->call(t->dev, &t->args);
    if (status && status != QW_DECLINE) return fail(v, "the op failed: %s", qwen_strerror(status));
    if (read_output(t, t->got, t->got_scale, v)) return 1;
    if (status == QW_DECLINE) {
        if (memcmp(t->got, d->image, d->bytes))
            return fail(v, "it declined, but wrote to %s", d->operand->name);
        v->outcome = QW_DECLINED;
        return 1;
    }
    if (check_padding(d, t->got, v) || check_inputs(t, v)) return 1;
    if (t->dev->put(t->dev, QW_COMPUTE, t->at[0], d->image, d->bytes))
        return fail(v, "restoring the output failed");
    if (d->scales
        && t->dev->put(t->dev, QW_COMPUTE, t->scale_at[0], d->scale, d->scales * sizeof(float)))
        return fail(v, "restoring the output's scales failed");
    if (info->call(t->dev, &t->args)) return fail(v, "the second run failed");
    if (read_output(t, t->again, again_scale, v)) return 1;
    if (memcmp(t->got, t->again, d->bytes)
        || (d->scales && memcmp(t->got_scale, again_scale, d->scales * sizeof(float))))
        return fail(v, "a second run gives other bits");
    return 0;
}

/* Element e (row-major) of the result. */
static double got_at(const trial *t, int64_t e)
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
static int judge_element(trial *t, const qw_expect *x, int64_t o, int64_t e, tally *sum,
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
    return fail(
        v, "element [%" PRId64 "][%" PRId64 "] is %.9g, expected %.9g within %.3g (%s), ratio %.3g",
        x->row[o / x->cols], x->col[o % x->cols], got, y, x->exact ? 0.0 : allowed,
        x->exact ? "exact" : "bound", ratio);
}

static void compare(trial *t, qw_verdict *v)
{
    qw_expect x;
    const qw_datum *d = output(t);
    const int64_t width = d->n
                          / (t->m.c.op == QW_OP_conv2d ? d->t.dim[0] * d->t.dim[1] : d->t.dim[0]);
    const int64_t rows = t->m.c.op == QW_OP_attention ? 8 : ROWS;
    if (qw_expect_make(&x, &t->m, t->oracle, qw_promise(t->dev, t->m.c.op), rows, COLS)) {
        fail(v, "the oracle cannot say what to expect");
        qw_expect_free(&x);
        return;
    }
    tally sum = { 0, 0, 0, 0 };
    v->outcome = QW_PASSED;
    for (int64_t o = 0; o < x.rows * x.cols; o++)
        judge_element(t, &x, o, x.row[o / x.cols] * width + x.col[o % x.cols], &sum, v);
    v->rms = sum.n ? sqrt(sum.square / (double)sum.n) : 0;
    if (sum.n >= 64 && !(v->rms <= 2))
        fail(v, "the rms of error over deviation is %.3g; it may be 2", v->rms);
    /* Elsewhere results may cancel to zero within the bound. */
    const int64_t spare = x.exact                    ? 0
                          : t->m.c.fill == QW_NORMAL ? 1 + x.rows * x.cols / 64
                                                     : x.rows * x.cols;
    if (sum.zeros > sum.expected_zeros + spare)
        fail(v, "vacuous: %" PRId64 " zeros where the oracle has %" PRId64, sum.zeros,
             sum.expected_zeros);
    for (int64_t e = 0; e < d->n; e++) /* the elements that were not judged: written at all */
        if (isnan(got_at(t, e))) {
            fail(v, "element %" PRId64 " is not a number", e);
            break;
        }
    qw_expect_free(&x);
}

void qw_judge(qw_device *dev, qw_device *oracle, const qw_case *c, qw_verdict *v)
{
    trial t = { .dev = dev, .oracle = oracle };
    memset(v, 0, sizeof *v);
    v->outcome = QW_NOUTCOMES;
    char why[300];
    if (qw_promise_check(qw_promise(dev, c->op), why, sizeof why)) fail(v, "%s", why);
    else if (qw_material_make(&t.m, c, dev->wide)) fail(v, "the case cannot be made");
    else if (qw_op_table[c->op].check(&t.m.args, why, sizeof why))
        fail(v, "the case is not valid: %s", why);
    else if (!place(&t, v) && !run_twice(&t, v)) compare(&t, v);
    give_back(&t);
    if (dev->sync(dev) && v->outcome != QW_FAILED) fail(v, "the device failed afterwards");
}

/* --- the device itself --------------------------------------------------------------------- */

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int judge_alignment(trial *t, qw_verdict *v)
{
    static const size_t sizes[] = { 1, 255, 256, 257, 4096, 1000003 };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        void *p = take_device(t, sizes[i]);
        if (!p) return fail(v, "alloc of %zu bytes failed", sizes[i]);
        if ((uintptr_t)p % 256)
            return fail(v, "alloc of %zu bytes is not aligned to 256", sizes[i]);
    }
    return 0;
}

/* Odd sizes at odd offsets come back, neighbours stay. */
static int judge_copies(trial *t, qw_verdict *v)
{
    enum { SIZE = 5000 };
    unsigned char *a = take_host(t, SIZE), *b = take_host(t, SIZE), *p = take_device(t, SIZE);
    if (!a || !b || !p) return fail(v, "no memory");
    qw_random r = qw_random_of(1, 2);
    for (int i = 0; i < SIZE; i++) a[i] = (unsigned char)qw_next(&r);
    if (t->dev->put(t->dev, QW_COMPUTE, p, a, SIZE)) return fail(v, "put failed");
    for (int i = 0; i < 20; i++) {
        const size_t at = qw_below(&r, SIZE - 1200), n = 1 + qw_below(&r, 1199);
        for (size_t k = 0; k < n; k++) a[at + k] ^= 0x5a;
        if (t->dev->put(t->dev, i % 2 ? QW_COPY : QW_COMPUTE, p + at, a + at, n)
            || t->dev->sync(t->dev))
            return fail(v, "put of %zu bytes failed", n);
        if (t->dev->get(t->dev, QW_COMPUTE, b, p, SIZE)) return fail(v, "get failed");
        if (memcmp(a, b, SIZE))
            return fail(v, "put of %zu bytes at %zu did not arrive, or wrote elsewhere", n, at);
    }
    return 0;
}

/* Compute waits for copy: a put on the copy queue is seen by what follows the wait. */
static int judge_order(trial *t, qw_verdict *v)
{
    enum { SIZE = 1 << 20 };
    unsigned char *a = take_host(t, SIZE), *b = take_host(t, SIZE), *p = take_device(t, SIZE);
    if (!a || !b || !p) return fail(v, "no memory");
    for (int i = 1; i < 6; i++) {
        uint64_t copied, read;
        memset(a, i, SIZE);
        if (t->dev->put(t->dev, QW_COPY, p, a, SIZE) || t->dev->mark(t->dev, QW_COPY, &copied)
            || t->dev->wait(t->dev, QW_COMPUTE, copied)
            || t->dev->get(t->dev, QW_COMPUTE, b, p, SIZE)
            || t->dev->mark(t->dev, QW_COMPUTE, &read) || t->dev->wait(t->dev, QW_COPY, read))
            return fail(v, "put, mark, wait or get failed");
        if (memcmp(a, b, SIZE)) return fail(v, "the compute queue did not wait for the copy queue");
    }
    return 0;
}

static int judge_clock(trial *t, qw_verdict *v)
{
    uint64_t from, to;
    double device = -1;
    const double begin = seconds_now();
    if (t->dev->mark(t->dev, QW_COMPUTE, &from)) return fail(v, "mark failed");
    const struct timespec nap = { 0, 5000000 };
    nanosleep(&nap, NULL);
    if (t->dev->mark(t->dev, QW_COMPUTE, &to) || t->dev->sync(t->dev)
        || t->dev->lapse(t->dev, from, to, &device))
        return fail(v, "lapse failed");
    const double host = seconds_now() - begin;
    if (!(device >= 0) || device > host * 1.5 + 0.01)
        return fail(v, "lapse says %g s where the host's clock saw %g s", device, host);
    return 0;
}

void qw_judge_device(qw_device *dev, qw_verdict *v)
{
    trial t = { .dev = dev };
    memset(v, 0, sizeof *v);
    v->outcome = QW_PASSED;
    if (dev->wide != QW_F32 && dev->wide != QW_F64)
        fail(v, "its wide type is %s", qw_dtype_name(dev->wide));
    else if (dev->prefer != QW_F32 && dev->prefer != QW_BF16 && dev->prefer != QW_F64)
        fail(v, "it prefers %s", qw_dtype_name(dev->prefer));
    else if (!judge_alignment(&t, v) && !judge_copies(&t, v) && !judge_order(&t, v))
        judge_clock(&t, v);
    give_back(&t);
}

/* --- the program --------------------------------------------------------------------------- */
#ifdef QW_CONFORM_MAIN
#include <errno.h>

enum { DEVICES = 32, EXIT_DIFFERS = 1, EXIT_USAGE = 2, EXIT_INPUT = 3, EXIT_DEVICE = 6 };

typedef struct cell {
    int count[QW_NOUTCOMES];
    double ratio;
} cell;

typedef struct session {
    qw_device *oracle, *dev[DEVICES];
    int devices, verbose, strict, cases, ops[QW_NOPS], any_op, failures;
    uint64_t seed;
    double flops;
    const char *line, *shapes[16];
    int n_shapes;
    cell table[DEVICES][QW_NOPS][QW_NDTYPES];
} session;

/* The dtype a case counts under: a gemm's weight, else the first. */
static qw_dtype key_of(const qw_case *c) { return c->op == QW_OP_gemm ? c->dtype[1] : c->dtype[0]; }

static void judge_one(session *s, const qw_case *c)
{
    char line[400];
    qw_case_print(c, line, sizeof line);
    for (int i = 0; i < s->devices; i++) {
        qw_verdict v;
        qw_judge(s->dev[i], s->oracle, c, &v);
        cell *k = &s->table[i][c->op][key_of(c)];
        k->count[v.outcome]++;
        if (v.ratio > k->ratio) k->ratio = v.ratio;
        if (v.outcome == QW_FAILED || (s->strict && v.outcome == QW_DECLINED)) s->failures++;
        if (v.outcome == QW_FAILED) printf("FAIL %s %s: %s\n", s->dev[i]->name, line, v.why);
        else if (s->verbose)
            printf("%s %s %s %.3f %.3f\n", v.outcome == QW_PASSED ? "ok  " : "none",
                   s->dev[i]->name, line, v.ratio, v.rms);
    }
}

static int judge_file(session *s, const char *path)
{
    FILE *f = fopen(path, "r");
    if (!f) {
        fprintf(stderr, "qwen-conform: %s: %s\n", path, strerror(errno));
        return EXIT_INPUT;
    }
    char line[500], why[300];
    for (int number = 1, i = 0; fgets(line, sizeof line, f); number++) {
        line[strcspn(line, " \t\r\n#")] = 0;
        qw_case c;
        if (!line[0]) continue;
        if (qw_case_parse(&c, line, why, sizeof why)) {
            fprintf(stderr, "qwen-conform: %s:%d: %s\n", path, number, why);
            fclose(f);
            return EXIT_INPUT;
        }
        if (s->any_op && !s->ops[c.op]) continue;
        c.fill = (qw_fill)(i++ % QW_NFILLS);
        c.seed = s->seed + (uint64_t)number;
        qw_case_shrink(&c, s->flops);
        judge_one(s, &c);
    }
    fclose(f);
    return 0;
}

/* The last page: passed / declined / failed and the worst ratio per op, dtype and device. */
static void report(const session *s)
{
    for (int i = 0; i < s->devices; i++) {
        printf("\n%-10s %-9s %8s %8s %8s  %s\n", s->dev[i]->name, "", "passed", "declined",
               "failed", "worst ratio");
        for (int op = 0; op < QW_NOPS; op++)
            for (int t = 0; t < QW_NDTYPES; t++) {
                const cell *k = &s->table[i][op][t];
                if (!k->count[QW_PASSED] && !k->count[QW_DECLINED] && !k->count[QW_FAILED])
                    continue;
                printf("%-10s %-9s %8d %8d %8d  %.3f\n", qw_op_table[op].name,
                       qw_dtype_name((qw_dtype)t), k->count[QW_PASSED], k->count[QW_DECLINED],
                       k->count[QW_FAILED], k->ratio);
            }
    }
}

static int add_device(session *s, const char *name)
{
    qw_error e = { 0 };
    if (s->devices == DEVICES) return EXIT_USAGE;
    if (!qw_device_open(name, NULL, &s->dev[s->devices], &e)) {
        s->devices++;
        return 0;
    }
    fprintf(stderr, "qwen-conform: %s\n", e.text);
    return EXIT_DEVICE;
}

static int add_listed(void *user, const qw_listing *d, int is_default)
{
    (void)is_default;
    if (d->why_not[0]) printf("     %s: %s\n", d->name, d->why_not);
    else add_device(user, d->name);
    return 0;
}

static const char usage[] =
    "usage: qwen-conform [options] [device...] [op...]\n"
    "  --cases N      cases per op (60)      --flops F     size of a case (1e6)\n"
    "  --seed HEX     another set of cases   --shapes FILE op lines of a model, cut down to "
    "--flops\n"
    "  --line LINE    this case only         --strict      declining is failing\n"
    "  -v             every case             --help\n";

static int read_argument(session *s, int argc, char **argv, int *i)
{
    const char *a = argv[*i], *value = *i + 1 < argc ? argv[*i + 1] : NULL;
    if (!strcmp(a, "-v")) return s->verbose = 1, 0;
    if (!strcmp(a, "--strict")) return s->strict = 1, 0;
    if (a[0] == '-') {
        if (!value) return EXIT_USAGE;
        ++*i;
        if (!strcmp(a, "--cases")) s->cases = atoi(value);
        else if (!strcmp(a, "--flops")) s->flops = atof(value);
        else if (!strcmp(a, "--seed")) s->seed = strtoull(value, NULL, 16);
        else if (!strcmp(a, "--line")) s->line = value;
        else if (!strcmp(a, "--shapes") && s->n_shapes < 16) s->shapes[s->n_shapes++] = value;
        else return EXIT_USAGE;
        return s->cases < 1 || !(s->flops >= 1) ? EXIT_USAGE : 0;
    }
    for (int op = 0; op < QW_NOPS; op++)
        if (!strcmp(a, qw_op_table[op].name)) return s->ops[op] = s->any_op = 1, 0;
    return add_device(s, a);
}

static int work(session *s)
{
    for (int i = 0; i < s->devices; i++) {
        qw_verdict v;
        qw_judge_device(s->dev[i], &v);
        if (v.outcome != QW_FAILED) continue;
        printf("FAIL %s: %s\n", s->dev[i]->name, v.why);
        s->failures++;
    }
    if (s->line) {
        qw_case c;
        char why[300];
        if (qw_case_parse(&c, s->line, why, sizeof why)) {
            fprintf(stderr, "qwen-conform: %s: %s\n", s->line, why);
            return EXIT_USAGE;
        }
        s->verbose = 1;
        judge_one(s, &c);
        return 0;
    }
    for (int op = 0; op < QW_NOPS && !s->n_shapes; op++)
        for (int i = 0; i < s->cases && (!s->any_op || s->ops[op]); i++) {
            qw_case c;
            qw_case_draw(&c, (enum qw_op)op, i, s->seed, s->flops);
            judge_one(s, &c);
        }
    for (int i = 0; i < s->n_shapes; i++) {
        const int status = judge_file(s, s->shapes[i]);
        if (status) return status;
    }
    return 0;
}

int main(int argc, char **argv)
{
    static session s = { .cases = 60, .seed = 1, .flops = 1e6 };
    qw_error e = { 0 };
    int status = 0;
    for (int i = 1; i < argc && !status; i++) {
        if (!strcmp(argv[i], "--help")) {
            fputs(usage, stdout);
            return 0;
        }
        status = read_argument(&s, argc, argv, &i);
    }
    if (status == EXIT_USAGE) fputs(usage, stderr);
    if (!status && qw_device_open("ref64", NULL, &s.oracle, &e)) {
        fprintf(stderr, "qwen-conform: %s\n", e.text);
        status = EXIT_DEVICE;
    }
    if (!status && !s.devices) qw_device_list(add_listed, &s);
    if (!status) status = work(&s);
    if (!status && !s.line) report(&s);
    for (int i = 0; i < s.devices; i++) s.dev[i]->close(s.dev[i]);
    if (s.oracle) s.oracle->close(s.oracle);
    if (!status) printf("\n%d failed\n", s.failures);
    return status ? status : s.failures ? EXIT_DIFFERS : 0;
}
#endif
