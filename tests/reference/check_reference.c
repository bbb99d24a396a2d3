/* check_reference.c - the reference as a device: weights of every type, threads, functions. */
#include "core/run.h"
#include <qwen/ref.h>
#include "reference/rows.h"
#include "testing.h"
#include "values.h"
#include <math.h>
#include <string.h>

static qw_device *dev;

static void open_device(void)
{
    const qw_open_options o = { .size = sizeof o };
    ck_assert_int_eq(ref_backend.open(1, &o, &dev), QWEN_OK);
}
static void close_device(void) { dev->close(dev); }

/* A dense float64 matrix. */
static qw_tensor mat(void *x, int64_t a, int64_t b) { return qw_dense2(x, QW_F64, a, b); }

/* Weights of every type at an odd address, with scales: gemm against a gemm of the decoded rows. */
START_TEST(weights_of_every_type)
{
    const qw_dtype t = (qw_dtype)_i;
    if (t == QW_I32) return;
    enum { M = 3, N = 5, K = 512 };
    const size_t bytes = qw_row_bytes(t, K), size = bytes * N;
    unsigned char *raw = room(size + 1), scales[512 * 8];
    for (size_t i = 0; i < size; i++) raw[i + 1] = (unsigned char)(i * 37 % 0x30);
    for (size_t i = 0; i < sizeof scales; i++) scales[i] = (unsigned char)(0x30 + i % 16);
    const float scale[N] = { 1, 2, 0.5f, 3, -1 };
    qw_tensor w = qw_dense2(raw + 1, t, N, K);
    if (t == QW_I8 || t == QW_F8E4M3 || t == QW_F8E5M2) w.scale = scale, w.scale_stride = 1;
    if (t == QW_NVFP4) w.scale = scale + 1;
    if (t == QW_MXFP8 || t == QW_NVFP4) w.block_scale = scales;
    double *plain = room(N * K * sizeof *plain), *x = room(M * K * sizeof *x), y[M * N], z[M * N];
    for (int j = 0; j < N; j++) qw_row_get(&w, j, 0, 0, plain + j * K);
    for (int i = 0; i < M * K; i++) x[i] = sin(i);
    qw_gemm_args a = { .y = mat(y, M, N), .x = mat(x, M, K), .w = w };
    ck_assert_int_eq(ref_gemm(dev, &a), QWEN_OK);
    a.y = mat(z, M, N);
    a.w = mat(plain, N, K);
    ck_assert_int_eq(ref_gemm(dev, &a), QWEN_OK);
    ck_assert_mem_eq(y, z, sizeof y);
    double most = 0;
    for (int j = 0; j < N * K; j++) most = fmax(most, fabs(plain[j]));
    ck_assert_msg(most > 0 && isfinite(most), "weights of %s are vacuous", qw_dtype_name(t));
    if (w.scale_stride) { /* the scales are in it */
        float first;
        qw_decode_f32(t, raw + 1 + bytes, 1, &first);
        ck_assert_double_eq(plain[K], 2 * (double)first);
    }
    free(raw);
    free(plain);
    free(x);
}
END_TEST

/* More rows than are held as doubles at a time. */
START_TEST(gemm_many_rows)
{
    enum { M = 2500, N = 2, K = 3 };
    double *x = room(M * K * sizeof *x), *y = room(M * N * sizeof *y);
    double w[N][K] = { { 1, 2, 3 }, { -1, 0, 1 } };
    for (int i = 0; i < M * K; i++) x[i] = i % 17;
    const qw_gemm_args a = { .y = mat(y, M, N), .x = mat(x, M, K), .w = mat(w, N, K) };
    ck_assert_int_eq(ref_gemm(dev, &a), QWEN_OK);
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++)
            ck_assert_double_eq(y[i * N + j], x[i * K] * w[j][0] + x[i * K + 1] * w[j][1]
                                                  + x[i * K + 2] * w[j][2]);
    free(x);
    free(y);
}
END_TEST

/* --- threads --------------------------------------------------------------------------------- */

static uint32_t lcg = 1;
static float next_value(void)
{
    lcg = lcg * 1664525u + 1013904223u;
    return (float)(int32_t)lcg * 0x1p-30f;
}

/* Large enough for every op to be worth five threads. */
enum { N = 1501, C = 240, HEADS = C / 8, NK = 160 };

/* Every op on the same input; the results are stored one after the other. */
static void every_op(qw_device *d, float *in, float *out)
{
    float *const y = out, *const x = in, *const w = in + N * C, *const t = w + C * C;
    const qw_tensor tx = qw_dense2(x, QW_F32, N, C), wide = qw_dense1(w, QW_F32, C);
    int status = 0;
    status |= ref_gemm(d, &(qw_gemm_args){ .y = qw_dense2(y, QW_F32, N, C),
                                           .x = tx,
                                           .res = tx,
                                           .bias = wide,
                                           .w = qw_dense2(w, QW_F32, C, C),
                                           .act = QW_GELU_TANH });
    status |=
        ref_attention(d, &(qw_attention_args){ .y = qw_dense3(y + N * C, QW_F32, NK, HEADS, 8),
                                               .q = qw_dense3(x, QW_F32, NK, HEADS, 8),
                                               .k = qw_dense3(x, QW_F32, NK, HEADS, 8),
                                               .v = qw_dense3(y, QW_F32, NK, HEADS, 8),
                                               .scale = 0.3 });
    status |= ref_conv2d(d, &(qw_conv2d_args){ .y = qw_dense3(y + 2 * N * C, QW_F32, N, C / 4, 4),
                                               .x = qw_dense3(x, QW_F32, N, C / 4, 4),
                                               .w = qw_dense4(w, QW_F32, 4, 3, 3, 4),
                                               .stride = 1,
                                               .top = 1,
                                               .left = 1,
                                               .up = 1 });
    status |= ref_rms_norm(d, &(qw_rms_norm_args){ .y = qw_dense2(y + 3 * N * C, QW_F32, N, C),
                                                   .x = tx,
                                                   .w = wide,
                                                   .eps = 1e-6,
                                                   .act = QW_SILU });
    status |= ref_ln_mod(d, &(qw_ln_mod_args){ .y = qw_dense2(y + 4 * N * C, QW_F32, N, C),
                                               .x = tx,
                                               .scale = wide,
                                               .shift = wide,
                                               .eps = 1e-6 });
    memcpy(y + 5 * N * C, x, N * C * sizeof *y);
    status |=
        ref_norm_rope(d, &(qw_norm_rope_args){ .x = qw_dense3(y + 5 * N * C, QW_F32, N, HEADS, 8),
                                               .eps = 1e-6,
                                               .w = qw_dense1(w, QW_F32, 8),
                                               .cos = qw_dense2(t, QW_F32, N, 4),
                                               .sin = qw_dense2(t + N * 4, QW_F32, N, 4),
                                               .pairing = QW_HALVES });
    status |= ref_swiglu(
        d, &(qw_swiglu_args){ .y = qw_dense2(y + 6 * N * C, QW_F32, N, C / 2), .x = tx });
    status |= ref_convert(
        d,
        &(qw_convert_args){ .y = qw_dense2(y + 7 * N * C, QW_F32, N, C), .x = tx, .rotate = 16 });
    ck_assert_int_eq(status, QWEN_OK);
}

START_TEST(threads_do_not_show)
{
    enum { IN = N * C + C * C + N * 8, OUT = 8 * N * C };
    float *in = room(IN * sizeof *in);
    float *once = room(OUT * sizeof *once), *again = room(OUT * sizeof *again);
    for (int i = 0; i < IN; i++) in[i] = next_value();
    dev->threads = 1;
    every_op(dev, in, once);
    for (int threads = 2; threads <= 5; threads++) {
        memset(again, 0, OUT * sizeof *again);
        dev->threads = threads;
        every_op(dev, in, again);
        ck_assert_mem_eq(once, again, OUT * sizeof *once);
    }
    for (int part = 0; part < 8; part++) { /* each op wrote something */
        double sum = 0;
        for (int i = 0; i < N * C; i++) sum += fabs((double)once[part * N * C + i]);
        ck_assert_double_gt(sum, 1);
    }
    free(in);
    free(once);
    free(again);
}
END_TEST

/* --- the device ------------------------------------------------------------------------------ */

START_TEST(devices)
{
    static const char *const name[] = { "ref", "ref64", "ref:bf16", "ref:int8" };
    for (int i = 0; i < 4; i++) {
        qw_device *d;
        qw_error e = { 0 };
        qw_listing listing = { .size = sizeof listing };
        ck_assert_int_eq(ref_backend.list(i, &listing), QWEN_OK);
        ck_assert_str_eq(listing.name, name[i]);
        ck_assert_int_eq(qw_device_open(name[i], NULL, &d, &e), QWEN_OK);
        ck_assert_str_eq(d->name, name[i]);
        ck_assert_int_eq(d->abi, QW_BACKEND_ABI);
        ck_assert_int_eq(d->wide, i == 1 ? QW_F64 : QW_F32);
        ck_assert_int_eq(d->prefer, i == 1 ? QW_F64 : i >= 2 ? QW_BF16 : QW_F32);
        ck_assert_uint_gt(d->memory, 0);
        void *p, *q;
        uint64_t t0, t1;
        double seconds;
        ck_assert_int_eq(d->alloc(d, 3, &p), QWEN_OK);
        ck_assert_int_eq(d->alloc(d, 0, &q), QWEN_OK);
        ck_assert_uint_eq((uintptr_t)p % 256, 0);
        d->free(d, q);
        ck_assert_int_eq(d->mark(d, QW_COMPUTE, &t0), QWEN_OK);
        ck_assert_int_eq(d->put(d, QW_COPY, p, "abc", 3), QWEN_OK);
        ck_assert_int_eq(d->mark(d, QW_COPY, &t1), QWEN_OK);
        ck_assert_int_eq(d->wait(d, QW_COMPUTE, t1), QWEN_OK);
        char back[3];
        ck_assert_int_eq(d->get(d, QW_COMPUTE, back, p, 3), QWEN_OK);
        ck_assert_mem_eq(back, "abc", 3);
        ck_assert_int_eq(d->sync(d), QWEN_OK);
        ck_assert_int_eq(d->lapse(d, t0, t1, &seconds), QWEN_OK);
        ck_assert(seconds >= 0 && seconds < 10);
        ck_assert_int_eq(d->alloc(d, SIZE_MAX, &q), QWEN_ENOMEM);
        ck_assert_ptr_null(q);
        d->free(d, p);
        d->free(d, NULL);
        d->close(d);
    }
    qw_device *d;
    qw_listing past = { .size = sizeof past };
    ck_assert_int_eq(ref_backend.list(4, &past), QW_DECLINE);
    ck_assert_int_eq(ref_backend.open(4, &(qw_open_options){ .size = sizeof(qw_open_options) }, &d),
                     QW_DECLINE);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("reference");
    TCase *c = tcase_create("reference");
    tcase_add_checked_fixture(c, open_device, close_device);
    tcase_add_test(c, gemm_many_rows);
    tcase_add_loop_test(c, weights_of_every_type, QW_F64, QW_U8);
    tcase_add_test(c, threads_do_not_show);
    tcase_add_test(c, devices);
    suite_add_tcase(s, c);
    return run_suite(s);
}
