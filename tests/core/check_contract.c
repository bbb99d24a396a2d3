/* check_contract.c - runs on a device with late queues: copies, scratch, polling, failures,
 * recordings. */
#include "devices.h"
#include "late.h"
#include "testing.h"
#include <math.h>
#include <string.h>

enum { N = 96 }; /* numbers of a body's result */

/* Ops of a run, and their results. */
typedef void body(qw_run *r, double *out);

static qw_device *ref;
static void open_ref(void) { ref = open_device("ref"); }
static void close_ref(void) { ref->close(ref); }

static void begin(qw_run *r, qw_device *dev)
{
    qw_run_init(r, dev, ref);
    qw_run_reserve(r, 1 << 17);
}

/* The results on the late device, under several orders of its work, are those of the reference. */
static void same_as_ref(body *f, unsigned declines, qw_dtype quant)
{
    double want[N] = { 0 }, got[N] = { 0 };
    qw_run r;
    ref->quant = quant;
    begin(&r, ref);
    f(&r, want);
    ck_assert_msg(!r.error.status, "%s", r.error.text);
    qw_run_free(&r);
    ref->quant = QW_NONE;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        qw_device *dev = open_late(seed);
        dev->quant = quant;
        late_of(dev)->declines = declines;
        begin(&r, dev);
        f(&r, got);
        ck_assert_msg(!r.error.status, "%s", r.error.text);
        for (int i = 0; i < N; i++)
            ck_assert_msg(got[i] == want[i], "[%d] is %g, expected %g (seed %d)", i, got[i],
                          want[i], (int)seed);
        qw_run_free(&r);
        dev->close(dev);
    }
}

static void some(qw_run *r, qw_tensor t, double from)
{
    double x[1024];
    const int64_t n = qw_elements(&t);
    ck_assert_int_le(n, 1024);
    for (int64_t i = 0; i < n; i++) x[i] = sin(from + 0.7 * (double)i);
    qw_put(r, t, x);
}

/* --- copies ----------------------------------------------------------------------------------- */

/* A contiguous tensor is copied by one call that does not wait; rows apart by one call each. */
START_TEST(copies)
{
    qw_device *dev = open_late(3);
    late_device *f = late_of(dev);
    qw_run r;
    double x[600], y[600];
    begin(&r, dev);
    const qw_tensor t = qw_new3(&r, QW_BF16, 5, 10, 12), part = qw_cols(t, 3, 2);
    for (int i = 0; i < 600; i++) x[i] = i % 256;
    qw_put(&r, t, x);
    ck_assert_uint_eq(f->puts, 1);
    memset(x, 0, sizeof x);
    qw_put(&r, part, x);
    ck_assert_uint_eq(f->puts, 51);
    ck_assert_uint_eq(f->syncs + f->waits + f->gets, 0);
    qw_get(&r, t, y);
    ck_assert_uint_eq(f->gets, 1);
    for (int i = 0; i < 600; i++)
        ck_assert_double_eq(y[i], i % 12 == 3 || i % 12 == 4 ? 0 : i % 256);
    ck_assert_int_eq(r.error.status, 0);
    qw_run_free(&r);
    dev->close(dev);
}
END_TEST

/* Rows of codes are quantised when they are put, and come back as code x scale. */
static void put_codes(qw_run *r, double *out)
{
    qw_tensor q = qw_new2(r, QW_I8, 4, 12), y = qw_new2(r, QW_F32, 4, 12);
    double x[48];
    for (int i = 0; i < 48; i++) x[i] = sin(i) * pow(10, i / 12);
    qw_put(r, q, x);
    qw_get(r, q, out);
    for (int i = 0; i < 48; i++) ck_assert_double_eq_tol(out[i], x[i], pow(10, i / 12) / 250);
    qw_convert(r, (qw_convert_args){ .y = y, .x = q });
    qw_get(r, y, out + 48);
}

START_TEST(quantised) { same_as_ref(put_codes, 0, QW_NONE); }
END_TEST

/* --- ops -------------------------------------------------------------------------------------- */

/* A block of a net: codes where the device has them, windows of keys from arrays that are freed
 * after the call, a residual stream. */
static void block(qw_run *r, double *out)
{
    const qw_dtype t = r->dev->quant ? r->dev->quant : r->dev->prefer;
    const size_t mark = r->used;
    qw_tensor x = qw_new2(r, QW_F32, 6, 16), v = qw_new1(r, QW_F32, 16),
              w = qw_new2(r, QW_F32, 48, 16), tab = qw_new2(r, QW_F32, 6, 4),
              wide = qw_new1(r, QW_F32, 48);
    qw_tensor h = qw_new2(r, t, 6, 16), qkv = qw_new2(r, QW_F32, 6, 48),
              u = qw_new2(r, QW_F32, 6, 16), turned = qw_new2(r, t, 6, 16);
    some(r, x, 1), some(r, v, 2), some(r, w, 3), some(r, tab, 4), some(r, wide, 5);
    for (int i = 0; i < 3; i++) {
        int32_t first[6] = { 0, 0, 1, 1, 2, 3 }, last[6] = { 1, 2, 3, 4, 6, 6 };
        qw_ln_mod(r, (qw_ln_mod_args){ .y = h, .x = x, .scale = v, .shift = v, .eps = 1e-6 });
        qw_gemm(r, (qw_gemm_args){ .y = qkv, .x = h, .w = w, .bias = wide });
        qw_norm_rope(
            r, (qw_norm_rope_args){
                   .x = qw_heads(qw_cols(qkv, 0, 16), 8), .cos = tab, .sin = tab, .eps = 1e-6 });
        qw_attention(r, (qw_attention_args){ .y = qw_heads(u, 8),
                                             .q = qw_heads(qw_cols(qkv, 0, 16), 8),
                                             .k = qw_heads(qw_cols(qkv, 16, 16), 8),
                                             .v = qw_heads(qw_cols(qkv, 32, 16), 8),
                                             .first = first,
                                             .last = last,
                                             .scale = 0.4 });
        memset(first, 0x7f, sizeof first);
        memset(last, 0x7f, sizeof last);
        qw_convert(r, (qw_convert_args){ .y = turned, .x = u, .rotate = 16 });
        qw_gemm(r,
                (qw_gemm_args){ .y = x, .x = turned, .w = qw_rows(w, 0, 16), .res = x, .gate = v });
    }
    qw_get(r, x, out);
    r->used = mark;
}

/* Also: each op has the scratch of its size, and no other op uses it. */
START_TEST(late_ops)
{
    same_as_ref(block, 0, QW_NONE);
    same_as_ref(block, 0, QW_I8);
}
END_TEST

/* Every op in turn by the reference, the others by the late device. */
START_TEST(late_fallback)
{
    same_as_ref(block, 1u << _i, QW_NONE);
    same_as_ref(block, 1u << _i, QW_I8);
}
END_TEST

/* The plan counts an op's scratch; without room for it the run fails. */
START_TEST(scratch)
{
    qw_device *dev = open_late(1), *plan = NULL;
    double out[N];
    qw_run r, p;
    ck_assert_int_eq(qw_plan_open(dev, &plan), 0);
    begin(&p, plan);
    block(&p, out);
    begin(&r, dev);
    block(&r, out);
    ck_assert_msg(!r.error.status && !p.error.status, "%s%s", r.error.text, p.error.text);
    ck_assert_uint_eq(r.peak, p.peak);
    ck_assert_uint_eq(r.used, 0);
    const size_t least = r.peak;
    for (size_t less = 0; less <= 256; less += 256) {
        qw_run_free(&r);
        qw_run_init(&r, dev, ref);
        qw_run_reserve(&r, least - less);
        block(&r, out);
        ck_assert_int_eq(r.error.status, less ? QWEN_ENOMEM : QWEN_OK);
    }
    qw_run_free(&r);
    qw_run_free(&p);
    plan->close(plan);
    dev->close(dev);
}
END_TEST

/* --- looking up ------------------------------------------------------------------------------- */

static int countdown(void *user) { return --*(int *)user <= 0; }

/* The late device calls poll inside an op and stops; so does the reference as its fallback. */
START_TEST(look)
{
    for (int on = 0; on < 3; on++) {
        qw_device *dev = on ? open_late(1) : ref;
        int left = 4;
        qw_run r;
        double out[N];
        if (on == 2) late_of(dev)->declines = ~0u;
        begin(&r, dev);
        r.look = countdown;
        r.user = &left;
        block(&r, out);
        ck_assert_int_eq(r.error.status, QWEN_ECANCELLED);
        ck_assert_int_eq(left, 0);
        ck_assert_ptr_null(dev->poll);
        qw_run_free(&r);
        if (on) dev->close(dev);
    }
    ck_assert_ptr_null(ref->poll);
}
END_TEST

/* An op of the reference calls poll many times, for any number of threads. */
START_TEST(look_often)
{
    ref->threads = _i;
    int left = 20;
    qw_run r;
    begin(&r, ref);
    r.look = countdown;
    r.user = &left;
    qw_tensor x = qw_new2(&r, QW_F32, 8, 16), w = qw_new2(&r, QW_F32, 60, 16),
              y = qw_new2(&r, QW_F32, 8, 60);
    some(&r, x, 1), some(&r, w, 2);
    qw_gemm(&r, (qw_gemm_args){ .y = y, .x = x, .w = w });
    ck_assert_int_eq(r.error.status, QWEN_ECANCELLED);
    ck_assert_int_eq(left, 0);
    qw_run_free(&r);
}
END_TEST

/* --- failures --------------------------------------------------------------------------------- */

static const char lost[] = "the late device has lost its place";

static void must_say(const qw_run *r)
{
    ck_assert_int_eq(r->error.status, QWEN_EDEVICE);
    ck_assert_msg(strstr(r->error.text, lost) != NULL, "\"%s\"", r->error.text);
}

/* An op fails after its call has returned: the next call that waits fails with the sentence, and so
 * do all later calls. */
START_TEST(failure)
{
    qw_device *dev = open_late(1);
    qw_run r;
    double out[N];
    late_of(dev)->fails_at = 3;
    begin(&r, dev);
    block(&r, out);
    must_say(&r);
    for (int i = 0; i < N; i++) ck_assert_double_eq(out[i], 0);
    qw_tensor t = qw_dense2(r.base, QW_F32, 4, 4), u = qw_dense2(r.base + 256, QW_F32, 4, 2);
    for (int i = 0; i < 4; i++) {
        qw_run s;
        qw_run_init(&s, dev, ref);
        if (i == 0) qw_put(&s, t, out);
        if (i == 1) qw_get(&s, t, out);
        if (i == 2) qw_run_reserve(&s, 100);
        if (i == 3) s.base = r.base, s.size = r.size, qw_swiglu(&s, (qw_swiglu_args){ u, t });
        must_say(&s);
    }
    qw_run_free(&r);
    dev->close(dev);
}
END_TEST

/* The same when the fallback fetches operands, and when a result is checked for finite numbers. */
START_TEST(failure_found)
{
    for (int by_check = 0; by_check < 2; by_check++) {
        qw_device *dev = open_late(1);
        qw_run r;
        double out[N];
        late_of(dev)->fails_at = 1;
        if (!by_check) late_of(dev)->declines = 1u << QW_OP_attention;
        begin(&r, dev);
        r.check = by_check;
        block(&r, out);
        must_say(&r);
        qw_run_free(&r);
        dev->close(dev);
    }
}
END_TEST

/* --- numbers that are not finite -------------------------------------------------------------- */

START_TEST(not_finite)
{
    for (int codes = 0; codes < 2; codes++) {
        qw_device *dev = open_late(1);
        qw_run r;
        begin(&r, dev);
        r.check = 1;
        qw_tensor x = qw_new2(&r, QW_F32, 3, 4), y = qw_new2(&r, codes ? QW_I8 : QW_BF16, 3, 4);
        const double good[12] = { 1, -8, 3, 4 }, bad[12] = { 1, 2, 3, 4, 0, NAN };
        qw_put(&r, x, good);
        qw_convert(&r, (qw_convert_args){ .y = y, .x = x });
        ck_assert_msg(!r.error.status, "%s", r.error.text);
        ck_assert_double_eq_tol(r.magnitude, 8, 1e-6);
        qw_put(&r, x, bad);
        qw_convert(&r, (qw_convert_args){ .y = y, .x = x });
        ck_assert_int_eq(r.error.status, QWEN_ENUMERIC);
        ck_assert_msg(strstr(r.error.text, codes ? "y[1][0]" : "y[1][1]") != NULL, "%s",
                      r.error.text);
        qw_run_free(&r);
        dev->close(dev);
    }
}
END_TEST

/* --- recording -------------------------------------------------------------------------------- */

/* x = swiglu of windows of attention of itself, into the same place. */
static void kept_step(qw_run *r, qw_tensor x, qw_tensor y)
{
    int32_t first[6] = { 0 }, last[6] = { 1, 2, 3, 4, 5, 6 };
    qw_attention(r, (qw_attention_args){ .y = qw_heads(y, 8),
                                         .q = qw_heads(x, 8),
                                         .k = qw_heads(x, 8),
                                         .v = qw_heads(x, 8),
                                         .first = first,
                                         .last = last,
                                         .scale = 0.4 });
    memset(last, 0x7f, sizeof last);
    qw_swiglu(r, (qw_swiglu_args){ .y = qw_cols(x, 0, 8), .x = y });
}

/* Ops between BEGIN and END are kept, not computed; a replay computes them on the present
 * values. */
START_TEST(record)
{
    qw_device *dev = open_late(5);
    late_device *f = late_of(dev);
    double out[2][3][N], untouched[N];
    uint64_t tape = 99;
    qw_run r;
    for (int recorded = 0; recorded < 2; recorded++) {
        begin(&r, dev);
        const qw_tensor x = qw_new2(&r, QW_F32, 6, 16), y = qw_new2(&r, QW_F32, 6, 16);
        some(&r, x, 1);
        if (recorded) {
            ck_assert_int_eq(dev->record(dev, QW_RECORD_BEGIN, NULL), 0);
            kept_step(&r, x, y);
            ck_assert_int_eq(dev->record(dev, QW_RECORD_END, &tape), 0);
            qw_get(&r, x, untouched);
            for (int i = 0; i < N; i++)
                ck_assert_double_eq(untouched[i], (double)(float)sin(1 + 0.7 * i));
        }
        for (int i = 0; i < 3; i++) {
            if (i == 2) some(&r, x, 2);
            if (recorded) ck_assert_int_eq(dev->replay(dev, tape), 0);
            else kept_step(&r, x, y);
            qw_get(&r, x, out[recorded][i]);
        }
        ck_assert_msg(!r.error.status, "%s", r.error.text);
        qw_run_free(&r);
    }
    ck_assert_int_eq(memcmp(out[0], out[1], sizeof out[0]), 0);
    ck_assert_double_ne(out[0][0][0], out[0][1][0]);
    ck_assert_uint_eq(f->replays, 3);
    dev->forget(dev, tape);
    dev->close(dev);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("contract");
    TCase *c = tcase_create("contract");
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, open_ref, close_ref);
    tcase_add_test(c, copies);
    tcase_add_test(c, quantised);
    tcase_add_test(c, late_ops);
    tcase_add_loop_test(c, late_fallback, 0, QW_NOPS);
    tcase_add_test(c, scratch);
    tcase_add_test(c, look);
    tcase_add_loop_test(c, look_often, 1, 3);
    tcase_add_test(c, failure);
    tcase_add_test(c, failure_found);
    tcase_add_test(c, not_finite);
    tcase_add_test(c, record);
    suite_add_tcase(s, c);
    return run_suite(s);
}
