/* check_run.c - the run: scratch, moving data, counting on the plan device, fallback, errors. */
#include "devices.h"
#include "late.h"
#include "testing.h"
#include <math.h>
#include <string.h>

static qw_device *late_declining(void)
{
    qw_device *d = open_late(1);
    late_of(d)->declines = ~0u;
    return d;
}

/* --- scratch --------------------------------------------------------------------------------- */

START_TEST(scratch)
{
    qw_device *ref = open_device("ref");
    qw_run r;
    qw_run_init(&r, ref, ref);
    ck_assert_int_eq(qw_run_reserve(&r, 4096), QWEN_OK);
    const qw_tensor a = qw_new2(&r, QW_F32, 3, 5);
    const size_t mark = r.used;
    const qw_tensor b = qw_new1(&r, QW_BF16, 7), q = qw_new2(&r, QW_I8, 3, 8);
    ck_assert_uint_eq((uintptr_t)a.data % 256, 0);
    ck_assert_uint_eq((uintptr_t)b.data % 256, 0);
    ck_assert(b.data != a.data);
    ck_assert_ptr_nonnull(q.scale);
    ck_assert_int_eq(q.scale_stride, 1);
    const size_t peak = r.peak;
    r.used = mark;
    const qw_tensor c = qw_new1(&r, QW_F32, 1);
    ck_assert_ptr_eq(c.data, b.data);
    ck_assert_uint_eq(r.peak, peak);
    qw_new1(&r, QW_F32, 4000);
    ck_assert_int_eq(r.error.status, QWEN_ENOMEM);
    ck_assert_ptr_nonnull(strstr(r.error.text, "16000"));
    qw_run_free(&r);
    qw_run_init(&r, ref, ref);
    qw_new2(&r, QW_F32, INT64_C(1) << 40, INT64_C(1) << 40);
    ck_assert_int_eq(r.error.status, QWEN_ENOMEM);
    qw_run_free(&r);
    qw_run_init(&r, ref, ref);
    qw_new1(&r, QW_F32, -1);
    ck_assert_int_eq(r.error.status, QWEN_EARG);
    qw_run_free(&r);
    ref->close(ref);
}
END_TEST

static const qw_dtype number[] = { QW_F64, QW_F32, QW_F16, QW_BF16, QW_I32 };

/* Strided tensors of each type, put and got; bytes between rows stay; with host memory and
 * without. */
START_TEST(put_and_get)
{
    qw_device *dev = _i % 2 ? late_declining() : open_device("ref");
    const qw_dtype t = number[_i / 2];
    qw_run r;
    qw_run_init(&r, dev, dev);
    qw_run_reserve(&r, 1 << 16);
    double all[60], part[24], back[60];
    for (int i = 0; i < 60; i++) all[i] = i;
    for (int i = 0; i < 24; i++) part[i] = -i;
    const qw_tensor big = qw_new3(&r, t, 3, 4, 5), view = qw_cols(big, 1, 2);
    qw_put(&r, big, all);
    qw_put(&r, view, part);
    qw_get(&r, big, back);
    for (int i = 0; i < 60; i++) {
        const int in = i % 5 == 1 || i % 5 == 2;
        ck_assert_double_eq(back[i], in ? -(i / 5 * 2 + i % 5 - 1) : i);
    }
    qw_get(&r, view, back);
    for (int i = 0; i < 24; i++) ck_assert_double_eq(back[i], -i);
    ck_assert_int_eq(r.error.status, QWEN_OK);
    qw_run_free(&r);
    dev->close(dev);
}
END_TEST

/* --- a small walk through all ops ------------------------------------------------------------ */

typedef struct seen {
    int lines, taps;
    char last[400];
    float sum;
} seen;

static void count_line(void *user, const char *line)
{
    seen *s = user;
    s->lines++;
    snprintf(s->last, sizeof s->last, "%s", line);
}

static void count_tap(void *user, const char *name, const qwen_array *a)
{
    seen *s = user;
    s->taps++;
    ck_assert_int_eq(strncmp(name, "walk.", 5), 0);
    ck_assert_int_eq(a->dtype, QWEN_F32);
}

static void some(qw_run *r, qw_tensor t, double begin)
{
    double x[1024];
    const int64_t n = qw_elements(&t);
    ck_assert_int_le(n, 1024);
    for (int64_t i = 0; i < n; i++) x[i] = sin(begin + 0.7 * (double)i);
    qw_put(r, t, x);
}

/* All eight ops, with views, weights in blocks, quantised rows; fills out [64]. */
static void walk(qw_run *r, const qw_tensor *w, double *out)
{
    const qw_dtype p = r->dev->prefer, wide = r->dev->wide;
    const size_t mark = r->used;
    qw_tensor x = qw_new2(r, wide, 8, 64), h = qw_new2(r, p, 8, 64), qkv = qw_new2(r, p, 8, 192),
              u = qw_new2(r, p, 8, 64);
    qw_tensor v = qw_new1(r, wide, 64), tab = qw_new2(r, wide, 8, 4),
              codes = qw_new2(r, QW_I8, 8, 64);
    qw_tensor kernel = qw_new3(r, p, 4, 9, 64), map = qw_new3(r, p, 2, 4, 4),
              lora = qw_new2(r, p, 64, 3);
    some(r, x, 1), some(r, v, 2), some(r, tab, 3), some(r, qw_flat(qw_rows(kernel, 0, 1)), 4),
        some(r, lora, 5);
    some(r, qw_flat(qw_rows(kernel, 1, 1)), 4.5), some(r, qw_flat(qw_rows(kernel, 2, 1)), 4.6);
    some(r, qw_flat(qw_rows(kernel, 3, 1)), 4.7);
    kernel = qw_dense4(kernel.data, p, 4, 3, 3, 64);
    qw_ln_mod(r, (qw_ln_mod_args){ .y = h, .x = x, .scale = v, .eps = 1e-6 });
    for (int i = 0; i < 3; i++)
        qw_gemm(
            r,
            (qw_gemm_args){
                .y = qw_cols(qkv, 64 * i, 64), .x = h, .w = *w, .bias = v, .act = QW_GELU_TANH });
    qw_norm_rope(r,
                 (qw_norm_rope_args){
                     .x = qw_heads(qw_cols(qkv, 0, 64), 8), .cos = tab, .sin = tab, .eps = 1e-6 });
    qw_attention(r, (qw_attention_args){ .y = qw_heads(u, 8),
                                         .q = qw_heads(qw_cols(qkv, 0, 64), 8),
                                         .scale = 0.35,
                                         .k = qw_heads(qw_cols(qkv, 64, 64), 8),
                                         .v = qw_heads(qw_cols(qkv, 128, 64), 8) });
    qw_convert(r, (qw_convert_args){ .y = codes, .x = u, .rotate = 16 });
    qw_gemm(r, (qw_gemm_args){ .y = x, .x = codes, .w = *w, .res = x, .gate = v });
    qw_gemm(
        r, (qw_gemm_args){ .y = x, .x = u, .w = *w, .x2 = qw_cols(u, 0, 3), .w2 = lora, .res = x });
    qw_rms_norm(r, (qw_rms_norm_args){ .y = h, .x = x, .w = v, .eps = 1e-6, .act = QW_SILU });
    qw_swiglu(r, (qw_swiglu_args){ .y = qw_cols(u, 32, 32), .x = h });
    qw_conv2d(r, (qw_conv2d_args){ .y = map,
                                   .x = qw_picture(u, 2, 4),
                                   .w = kernel,
                                   .stride = 1,
                                   .top = 1,
                                   .left = 1,
                                   .up = 1 });
    qw_tap(r, x, "x%d", 1);
    qw_tap_chw(r, map, "map");
    qw_get(r, qw_flat(map), out);
    qw_get(r, qw_rows(x, 7, 1), out + 32);
    r->used = mark;
}

/* A weight in Q8_0 blocks in host memory. */
static void make_weight(unsigned char *data, qw_tensor *w)
{
    *w = qw_dense2(data, QW_Q8_0, 64, 64);
    for (int b = 0; b < 128; b++) {
        const uint16_t d = qw_f32_to_f16(0.001f * (float)(1 + b % 7));
        data[34 * b] = (unsigned char)(d & 255), data[34 * b + 1] = (unsigned char)(d >> 8);
        for (int i = 0; i < 32; i++) data[34 * b + 2 + i] = (unsigned char)(37 * i + 11 * b);
    }
}

static void walk_on(qw_device *dev, qw_device *ref, double *out, qw_run *r, seen *s, int strict)
{
    unsigned char data[34 * 128];
    qw_tensor plain, w;
    make_weight(data, &plain);
    memset(s, 0, sizeof *s);
    qw_run_init(r, dev, ref);
    r->strict = strict;
    r->check = 1;
    r->user = s;
    r->trace = count_line;
    r->tap = count_tap;
    r->names = "walk.";
    qw_run_reserve(r, 1 << 17);
    w = plain;
    if (!dev->host && !qw_is_plan(dev)) {
        void *p = NULL;
        dev->alloc(dev, sizeof data, &p);
        dev->put(dev, QW_COMPUTE, p, data, sizeof data);
        w.data = p;
    }
    walk(r, &w, out);
    if (w.data != plain.data && !qw_is_plan(dev)) dev->free(dev, w.data);
}

/* The plan device counts as a computing run does, and writes no memory. */
START_TEST(plan_counts)
{
    qw_device *ref = open_device(_i ? "ref:bf16" : "ref"), *plan = NULL;
    ck_assert_int_eq(qw_plan_open(ref, &plan), QWEN_OK);
    double out[2][160];
    qw_run r[2];
    seen s[2];
    walk_on(ref, ref, out[0], &r[0], &s[0], 1);
    walk_on(plan, NULL, out[1], &r[1], &s[1], 1);
    ck_assert_msg(!r[0].error.status, "%s", r[0].error.text);
    ck_assert_msg(!r[1].error.status, "%s", r[1].error.text);
    ck_assert_double_gt(r[0].flops, 1e5);
    ck_assert_double_eq(r[0].flops, r[1].flops);
    ck_assert_double_eq(r[0].bytes, r[1].bytes);
    ck_assert_uint_eq(r[0].peak, r[1].peak);
    ck_assert_int_eq(memcmp(r[0].calls, r[1].calls, sizeof r[0].calls), 0);
    ck_assert_int_eq(s[0].lines, 12);
    ck_assert_int_eq(s[1].lines, 12);
    ck_assert_str_eq(s[0].last, s[1].last);
    ck_assert_int_eq(s[0].taps, 2);
    ck_assert_int_eq(s[1].taps, 0);
    ck_assert_double_gt(r[0].magnitude, 0);
    for (int i = 0; i < 96; i++) ck_assert_double_eq(out[1][i], 0);
    qw_run_free(&r[0]);
    qw_run_free(&r[1]);
    plan->close(plan);
    ref->close(ref);
}
END_TEST

/* Scratch of the plan device is unlimited. */
START_TEST(plan_scratch)
{
    qw_device *plan = open_device("plan");
    qw_run r;
    qw_run_init(&r, plan, NULL);
    ck_assert_int_eq(qw_run_reserve(&r, 10), QWEN_OK);
    const qw_tensor t = qw_new2(&r, QW_F32, 1 << 20, 1 << 18);
    ck_assert_int_eq(r.error.status, QWEN_OK);
    ck_assert_ptr_nonnull(t.data);
    ck_assert_uint_ge(r.peak, (size_t)1 << 40);
    /* The plan device checks calls too. */
    qw_swiglu(&r, (qw_swiglu_args){ .y = t, .x = t });
    ck_assert_int_eq(r.error.status, QWEN_EARG);
    qw_run_free(&r);
    plan->close(plan);
}
END_TEST

/* A device that declines every op, with host memory or not, yields the reference's bits. */
START_TEST(fallback)
{
    qw_device *ref = open_device("ref"), *stub = _i ? late_declining() : open_declining();
    double want[160], got[160];
    qw_run r;
    seen s;
    walk_on(ref, ref, want, &r, &s, 1);
    ck_assert_msg(!r.error.status, "%s", r.error.text);
    qw_run_free(&r);
    walk_on(stub, ref, got, &r, &s, 0);
    ck_assert_msg(!r.error.status, "%s", r.error.text);
    ck_assert_int_eq(memcmp(want, got, 96 * sizeof *want), 0);
    uint64_t calls = 0, declined = 0;
    for (int i = 0; i < QW_NOPS; i++) calls += r.calls[i], declined += r.declined[i];
    ck_assert_uint_eq(calls, 12);
    ck_assert_uint_eq(declined, 12);
    qw_run_free(&r);
    stub->close(stub);
    ref->close(ref);
}
END_TEST

START_TEST(strict)
{
    qw_device *ref = open_device("ref"), *stub = open_declining();
    double got[160];
    qw_run r;
    seen s;
    walk_on(stub, ref, got, &r, &s, 1);
    ck_assert_int_eq(r.error.status, QWEN_EUNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(r.error.text, "stub"));
    ck_assert_ptr_nonnull(strstr(r.error.text, "ln_mod/f32/scale/8x64"));
    ck_assert_int_eq(s.lines, 1);
    qw_run_free(&r);
    walk_on(stub, NULL, got, &r, &s, 0);
    ck_assert_int_eq(r.error.status, QWEN_EUNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(r.error.text, "no reference"));
    qw_run_free(&r);
    stub->close(stub);
    ref->close(ref);
}
END_TEST

/* A packed weight is read from its original when the device declines. */
START_TEST(packed_original)
{
    qw_device *ref = open_device("ref"), *stub = _i ? late_declining() : open_declining();
    unsigned char data[34 * 128];
    qw_tensor plain;
    make_weight(data, &plain);
    qw_tensor packed = plain;
    packed.data = NULL;
    packed.layout = 3;
    packed.host = &plain;
    double sum[2];
    for (int i = 0; i < 2; i++) {
        qw_run r;
        double out[64];
        qw_run_init(&r, i ? stub : ref, ref);
        qw_run_reserve(&r, 4096);
        qw_tensor x = qw_new2(&r, QW_F32, 1, 64), y = qw_new2(&r, QW_F32, 1, 64);
        some(&r, x, 1);
        qw_gemm(&r, (qw_gemm_args){ .y = y, .x = x, .w = i ? packed : plain });
        qw_get(&r, y, out);
        ck_assert_msg(!r.error.status, "%s", r.error.text);
        sum[i] = 0;
        for (int j = 0; j < 64; j++) sum[i] += out[j] * (j + 1);
        qw_run_free(&r);
    }
    ck_assert_double_eq(sum[0], sum[1]);
    ck_assert_double_ne(sum[0], 0);
    stub->close(stub);
    ref->close(ref);
}
END_TEST

/* --- errors ---------------------------------------------------------------------------------- */

static int after_three(void *user) { return ++*(int *)user > 3; }

START_TEST(cancel)
{
    qw_device *ref = open_device("ref");
    unsigned char data[34 * 128];
    qw_tensor w;
    double out[160];
    int polled = 0;
    make_weight(data, &w);
    qw_run r;
    qw_run_init(&r, ref, ref);
    qw_run_reserve(&r, 1 << 17);
    r.poll = after_three;
    r.user = &polled;
    walk(&r, &w, out);
    ck_assert_int_eq(r.error.status, QWEN_ECANCELLED);
    ck_assert_int_eq(polled, 4);
    uint64_t calls = 0;
    for (int i = 0; i < QW_NOPS; i++) calls += r.calls[i];
    ck_assert_uint_eq(calls, 3);
    qw_run_free(&r);
    ref->close(ref);
}
END_TEST

/* A result that is not finite names op, line, stage, step, block and the largest magnitude before
 * it. */
START_TEST(not_finite)
{
    qw_device *ref = open_device("ref");
    qw_run r;
    qw_run_init(&r, ref, ref);
    qw_run_reserve(&r, 1 << 16);
    r.check = 1;
    r.stage = "denoise";
    r.step = 3;
    r.block = 12;
    qw_tensor x = qw_new2(&r, QW_F32, 2, 4), h = qw_new2(&r, QW_F16, 2, 4),
              y = qw_new2(&r, QW_F32, 2, 4);
    const double big[8] = { 1, -54321, 3, 4, 5, 6, 7, 8 }, huge[8] = { 0, 0, 0, 0, 0, 0, 1e6, 0 };
    qw_put(&r, x, big);
    qw_convert(&r, (qw_convert_args){ .y = y, .x = x });
    ck_assert_int_eq(r.error.status, QWEN_OK);
    ck_assert_double_eq(r.magnitude, 54321);
    qw_put(&r, x, huge);
    qw_convert(&r, (qw_convert_args){ .y = h, .x = x });
    ck_assert_int_eq(r.error.status, QWEN_ENUMERIC);
    static const char *const must[] = { "denoise",  "step 3", "block 12",
                                        "convert",  "[1][2]", "convert/f32,f16/-/2x4",
                                        "5.432e+04" };
    for (size_t i = 0; i < sizeof must / sizeof must[0]; i++)
        ck_assert_msg(strstr(r.error.text, must[i]) != NULL, "\"%s\" is not in \"%s\"", must[i],
                      r.error.text);
    qw_run_free(&r);
    ref->close(ref);
}
END_TEST

START_TEST(require_finite)
{
    qw_device *ref = open_device("ref"), *dev = late_declining();
    qw_run r;
    qw_run_init(&r, dev, ref);
    qw_run_reserve(&r, 4096);
    r.stage = "decode";
    qw_tensor x = qw_new2(&r, QW_BF16, 2, 3);
    double v[6] = { 1, 2, -3, 4, 5, 6 };
    qw_put(&r, x, v);
    qw_require_finite(&r, x, "velocity");
    ck_assert_int_eq(r.error.status, QWEN_OK);
    ck_assert_double_eq(r.magnitude, 6);
    v[4] = NAN;
    qw_put(&r, x, v);
    qw_require_finite(&r, x, "velocity");
    ck_assert_int_eq(r.error.status, QWEN_ENUMERIC);
    ck_assert_ptr_nonnull(strstr(r.error.text, "decode: velocity[1][1]"));
    qw_run_free(&r);
    dev->close(dev);
    ref->close(ref);
}
END_TEST

static int broken(qw_device *d, const qw_swiglu_args *a)
{
    (void)d;
    (void)a;
    return QWEN_EDEVICE;
}

static int unknown(qw_device *d, const qw_swiglu_args *a)
{
    (void)d;
    (void)a;
    return QW_DECLINE + 1;
}

/* Only QW_DECLINE gives an op to the reference. */
START_TEST(unknown_status)
{
    qw_device *ref = open_device("ref"), *dev = open_device("ref");
    qw_run r;
    qw_run_init(&r, dev, ref);
    qw_run_reserve(&r, 4096);
    dev->op.swiglu = unknown;
    qw_tensor x = qw_new2(&r, QW_F32, 2, 8), y = qw_new2(&r, QW_F32, 2, 4);
    const double v[16] = { 0 };
    qw_put(&r, x, v);
    qw_swiglu(&r, (qw_swiglu_args){ .y = y, .x = x });
    ck_assert_int_eq(r.error.status, QWEN_EDEVICE);
    ck_assert_ptr_nonnull(strstr(r.error.text, "unknown status"));
    qw_run_free(&r);
    dev->close(dev);
    ref->close(ref);
}
END_TEST

/* The first error stays; later calls do nothing. */
START_TEST(first_error)
{
    qw_device *ref = open_device("ref");
    qw_run r;
    seen s = { 0 };
    qw_run_init(&r, ref, ref);
    qw_run_reserve(&r, 4096);
    r.trace = count_line;
    r.user = &s;
    ref->op.swiglu = broken;
    qw_tensor x = qw_new2(&r, QW_F32, 2, 8), y = qw_new2(&r, QW_F32, 2, 4);
    const double v[16] = { 0 };
    double back[16];
    qw_put(&r, x, v);
    qw_swiglu(&r, (qw_swiglu_args){ .y = y, .x = x });
    ck_assert_int_eq(r.error.status, QWEN_EDEVICE);
    ck_assert_ptr_nonnull(strstr(r.error.text, "swiglu/f32/-/2x4"));
    char text[sizeof r.error.text];
    strcpy(text, r.error.text);
    qw_swiglu(&r, (qw_swiglu_args){ .y = x, .x = x });
    qw_run_fail(&r, QWEN_EIO, "another");
    qw_new1(&r, QW_F32, 1 << 20);
    qw_get(&r, x, back);
    ck_assert_double_eq(back[3], 0);
    ck_assert_str_eq(r.error.text, text);
    ck_assert_int_eq(r.error.status, QWEN_EDEVICE);
    ck_assert_int_eq(s.lines, 1);
    qw_run_free(&r);
    ref->close(ref);
}
END_TEST

/* Vectors of another type than the device's wide one are refused. */
START_TEST(wide_vectors)
{
    qw_device *d = open_device("ref64");
    qw_run r;
    qw_run_init(&r, d, d);
    qw_run_reserve(&r, 4096);
    qw_tensor x = qw_new2(&r, QW_F64, 2, 8), y = qw_new2(&r, QW_F64, 2, 8),
              w = qw_new1(&r, QW_F32, 8);
    qw_rms_norm(&r, (qw_rms_norm_args){ .y = y, .x = x, .w = w, .eps = 1e-6 });
    ck_assert_int_eq(r.error.status, QWEN_EARG);
    ck_assert_ptr_nonnull(strstr(r.error.text, "f64"));
    qw_run_free(&r);
    d->close(d);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("run");
    TCase *c = tcase_create("run");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, scratch);
    tcase_add_loop_test(c, put_and_get, 0, 10);
    tcase_add_loop_test(c, plan_counts, 0, 2);
    tcase_add_test(c, plan_scratch);
    tcase_add_loop_test(c, fallback, 0, 2);
    tcase_add_test(c, strict);
    tcase_add_loop_test(c, packed_original, 0, 2);
    tcase_add_test(c, cancel);
    tcase_add_test(c, not_finite);
    tcase_add_test(c, require_finite);
    tcase_add_test(c, unknown_status);
    tcase_add_test(c, first_error);
    tcase_add_test(c, wide_vectors);
    suite_add_tcase(s, c);
    return run_suite(s);
}
