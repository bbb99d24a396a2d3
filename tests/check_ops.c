/* check_ops.c - number formats and the reference's operations, against golden data and by hand.
 *
 * Formats are exact, or off by the one f32 rounding that the golden data allow.  Operations run in
 * float64 on "ref64" and may differ from the golden values, which were made in float64 too, by
 * 1e-13 of the largest: a few roundings, and nothing that a wrong formula could hide in. */
#include "load.h"
#include "ref.h"
#include "rows.h"
#include "testing.h"
#include <math.h>
#include <string.h>

static qw_store *store;
static qw_device *dev;

static void open_data(const char *rel)
{
    qw_error err = { 0 };
    ck_assert_int_eq(qw_store_new(&store, &err), QWEN_OK);
    ck_assert_msg(qw_store_add(store, testdata(rel), &err) == QWEN_OK, "%s", err.text);
    ck_assert_int_eq(ref_open(1, &dev), QWEN_OK);
}

static void open_ops(void) { open_data("units/ops/ops.safetensors"); }
static void open_dtypes(void) { open_data("units/dtypes.safetensors"); }
static void open_blocks(void) { open_data("units/gguf_blocks.safetensors"); }

static void close_data(void)
{
    qw_store_free(store);
    dev->close(dev);
    store = NULL;
    dev = NULL;
}

static void open_device(void) { ck_assert_int_eq(ref_open(1, &dev), QWEN_OK); }
static void close_device(void) { dev->close(dev); }

static const qw_entry *entry(const char *name)
{
    const qw_entry *e = qw_store_find(store, name);
    ck_assert_msg(e != NULL, "the golden data lack %s", name);
    return e;
}

static int64_t count(const qw_entry *e)
{
    int64_t n = 1;
    for (int i = 0; i < e->rank; i++) n *= e->dim[i];
    return n;
}

static void *room(size_t bytes)
{
    void *p = calloc(bytes ? bytes : 1, 1);
    ck_assert_ptr_nonnull(p);
    return p;
}

/* A malloc'ed copy of a tensor of the golden data as doubles. */
static double *doubles(const char *name)
{
    const qw_entry *e = entry(name);
    const int64_t n = count(e);
    double *x = room((size_t)n * sizeof *x);
    const qw_tensor t = qw_dense1((void *)(uintptr_t)e->data, e->dtype, n);
    ref_get(&t, 0, 0, 0, x);
    return x;
}

/* Of the file's own type, aligned. */
static void *copy(const char *name, qw_dtype dtype)
{
    const qw_entry *e = entry(name);
    ck_assert_msg(e->dtype == dtype, "%s is %s", name, qw_dtype_name(e->dtype));
    void *p = room(e->bytes);
    memcpy(p, e->data, e->bytes);
    return p;
}

/* Dense float64 tensors. */
static qw_tensor vec(double *x, int64_t a) { return qw_dense1(x, QW_F64, a); }
static qw_tensor mat(void *x, int64_t a, int64_t b) { return qw_dense2(x, QW_F64, a, b); }
static qw_tensor cube(void *x, int64_t a, int64_t b, int64_t c)
{
    return qw_dense3(x, QW_F64, a, b, c);
}

static void close_to(const char *what, const double *got, const double *want, int64_t n,
                     double tolerance)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs(want[i]));
    ck_assert_msg(most > 0, "%s: the golden values are all zero", what);
    for (int64_t i = 0; i < n; i++)
        ck_assert_msg(fabs(got[i] - want[i]) <= tolerance * most,
                      "%s[%lld] is %.17g instead of %.17g", what,
                      (long long)i, got[i], want[i]);
}

/* --- number formats -------------------------------------------------------------------------- */

static void same_float(const char *what, int64_t code, float got, float want)
{
    const int same = isnan(want) ? isnan(got) : memcmp(&got, &want, sizeof got) == 0;
    ck_assert_msg(same, "%s of code %lld is %.9g instead of %.9g", what, (long long)code,
                  (double)got, (double)want);
}

START_TEST(small_floats_decode)
{
    static const struct { const char *name; float (*f)(uint8_t); qw_dtype t; } type[] = {
        { "f8_e4m3fn_to_f32", qw_f8e4m3_to_f32, QW_F8E4M3 },
        { "f8_e5m2_to_f32", qw_f8e5m2_to_f32, QW_F8E5M2 },
        { "f8_e8m0_to_f32", qw_f8e8m0_to_f32, QW_F8E8M0 },
    };
    float *want = copy(type[_i].name, QW_F32);
    for (int c = 0; c < 256; c++) {
        const uint8_t code = (uint8_t)c;
        float row;
        qw_decode_f32(type[_i].t, &code, 1, &row);
        same_float(type[_i].name, c, type[_i].f(code), want[c]);
        same_float(type[_i].name, c, row, want[c]);
    }
    free(want);
}
END_TEST

START_TEST(halves_decode)
{
    const int64_t n = count(entry("codes16"));
    int32_t *code = copy("codes16", QW_I32);
    float *bf16 = copy("bf16_to_f32", QW_F32), *f16 = copy("f16_to_f32", QW_F32);
    for (int64_t i = 0; i < n; i++) {
        same_float("bf16", code[i], qw_bf16_to_f32((uint16_t)code[i]), bf16[i]);
        same_float("f16", code[i], qw_f16_to_f32((uint16_t)code[i]), f16[i]);
    }
    free(code);
    free(bf16);
    free(f16);
}
END_TEST

static unsigned to_bf16(float f) { return qw_f32_to_bf16(f); }
static unsigned to_f16(float f) { return qw_f32_to_f16(f); }
static unsigned to_e4m3(float f) { return qw_f32_to_f8e4m3(f); }
static unsigned to_e5m2(float f) { return qw_f32_to_f8e5m2(f); }

START_TEST(floats_narrow)
{
    static const struct { const char *name; unsigned (*f)(float); qw_dtype t; } type[] = {
        { "f32_to_bf16", to_bf16, QW_BF16 }, { "f32_to_f16", to_f16, QW_F16 },
        { "f32_to_f8_e4m3fn", to_e4m3, QW_F8E4M3 }, { "f32_to_f8_e5m2", to_e5m2, QW_F8E5M2 },
    };
    const int64_t n = count(entry("f32"));
    float *x = copy("f32", QW_F32);
    int32_t *want = copy(type[_i].name, QW_I32);
    for (int64_t i = 0; i < n; i++) {
        const unsigned got = type[_i].f(x[i]);
        if (isnan(x[i])) {              /* any NaN will do */
            const uint16_t code = (uint16_t)got;
            const uint8_t byte = (uint8_t)got;
            float back;
            const int is_byte = qw_block_bytes(type[_i].t) == 1;
            qw_decode_f32(type[_i].t, is_byte ? (const void *)&byte : &code, 1, &back);
            ck_assert_msg(isnan(back), "%s of NaN is %u", type[_i].name, got);
        } else
            ck_assert_msg(got == (unsigned)want[i], "%s of %.9g is %u instead of %d", type[_i].name,
                          (double)x[i], got, (int)want[i]);
    }
    free(x);
    free(want);
}
END_TEST

/* Every number of a narrow type comes back from its own value. */
START_TEST(round_trips)
{
    for (unsigned c = 0; c < 65536; c++) {
        const float b = qw_bf16_to_f32((uint16_t)c), h = qw_f16_to_f32((uint16_t)c);
        if (!isnan(b)) ck_assert_uint_eq(qw_f32_to_bf16(b), c);
        if (!isnan(h)) ck_assert_uint_eq(qw_f32_to_f16(h), c);
    }
    for (unsigned c = 0; c < 256; c++) {
        const float a = qw_f8e4m3_to_f32((uint8_t)c), b = qw_f8e5m2_to_f32((uint8_t)c);
        if (!isnan(a)) ck_assert_uint_eq(qw_f32_to_f8e4m3(a), c);
        if (!isnan(b)) ck_assert_uint_eq(qw_f32_to_f8e5m2(b), c);
    }
}
END_TEST

/* Spec examples of GGUF blocks, by hand. */
START_TEST(block_examples)
{
    unsigned char block[34] = { 0x00, 0x38, 0x02, 0xfd };
    float y[32];
    qw_decode_f32(QW_Q8_0, block, 32, y);
    ck_assert_double_eq((double)y[0], 1.0);
    ck_assert_double_eq((double)y[1], -1.5);
    memset(block, 0, sizeof block);
    block[1] = 0x34;                    /* d = 0.25 */
    block[2] = 0x9a;
    qw_decode_f32(QW_Q4_0, block, 32, y);
    ck_assert_double_eq((double)y[0], 0.5);
    ck_assert_double_eq((double)y[16], 0.25);
    memset(block, 0, sizeof block);
    block[1] = 0x3c;                    /* d = 1 */
    block[2] = 0x01;
    block[6] = 0x21;
    qw_decode_f32(QW_Q5_0, block, 32, y);
    ck_assert_double_eq((double)y[0], 1);
    ck_assert_double_eq((double)y[16], -14);
}
END_TEST

static const char *const block_type[] = {
    "BF16", "F16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ4_NL", "IQ4_XS", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S",
};
enum { BLOCK_TYPES = sizeof block_type / sizeof block_type[0] };

/* Decoded from an odd address; off by 1e-7 of the block's largest at most. */
START_TEST(blocks_decode)
{
    char name[40], lower[20];
    for (size_t i = 0; i < sizeof lower; i++) {
        const char c = block_type[_i][i];
        lower[i] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
        if (!c) break;
    }
    const qw_dtype t = qw_dtype_named(lower);
    ck_assert_msg(t != QW_NONE, "no type is named %s", lower);
    snprintf(name, sizeof name, "%s.raw", block_type[_i]);
    const qw_entry *raw = entry(name);
    snprintf(name, sizeof name, "%s.f32", block_type[_i]);
    float *want = copy(name, QW_F32);
    const int64_t n = count(entry(name)), block = qw_block_elements(t);
    ck_assert_uint_eq(qw_row_bytes(t, n), raw->bytes);
    unsigned char *odd = room(raw->bytes + 1);
    memcpy(odd + 1, raw->data, raw->bytes);
    float *got = room((size_t)n * sizeof *got);
    qw_decode_f32(t, odd + 1, n, got);
    double seen = 0;
    for (int64_t b = 0; b < n; b += block) {
        double most = 0;
        for (int64_t i = b; i < b + block; i++)
            if (isfinite(want[i])) most = fmax(most, fabs((double)want[i]));
        for (int64_t i = b; i < b + block; i++)
            ck_assert_msg(isnan(want[i]) ? isnan(got[i]) : isinf(want[i]) ? got[i] == want[i]
                          : fabs((double)got[i] - (double)want[i]) <= 1e-7 * most,
                          "%s[%lld] is %.9g instead of %.9g", name, (long long)i, (double)got[i],
                          (double)want[i]);
        seen = fmax(seen, most);
    }
    ck_assert_double_gt(seen, 0);
    free(want);
    free(got);
    free(odd);
}
END_TEST

START_TEST(names)
{
    for (int t = QW_NONE; t < QW_NDTYPES; t++) {
        const char *name = qw_dtype_name((qw_dtype)t);
        ck_assert_int_eq(qw_dtype_named(name), t);
        for (int u = 0; u < t; u++) ck_assert_str_ne(name, qw_dtype_name((qw_dtype)u));
        if (t != QW_NONE) ck_assert_uint_gt(qw_block_bytes((qw_dtype)t), 0);
    }
    ck_assert_int_eq(qw_dtype_named("q9_k"), QW_NONE);
    ck_assert_str_eq(qw_dtype_name(QW_NDTYPES), "none");
}
END_TEST

/* --- microscaled weights --------------------------------------------------------------------- */

START_TEST(block_scale_places)
{
    ck_assert_uint_eq(qw_block_scale_at(37, 5, 8), 597);
    ck_assert_uint_eq(qw_block_scale_at(64, 0, 8), 8);
    ck_assert_uint_eq(qw_block_scale_at(130, 2, 8), 1058);
    unsigned char seen[512 * 4] = { 0 };        /* 256 rows of 5 blocks: padded to 8 */
    for (int r = 0; r < 256; r++)
        for (int c = 0; c < 5; c++) {
            const size_t at = qw_block_scale_at(r, c, 5);
            ck_assert_uint_lt(at, sizeof seen);
            ck_assert_int_eq(seen[at]++, 0);
        }
}
END_TEST

START_TEST(nvfp4_example)
{
    unsigned char data[8] = { 0x75, 0xb1, 0x04, 0xe2, 0x01, 0x6f, 0x28, 0x24 };
    unsigned char scales[512] = { 0x7e };
    const float second = (float)(6.0 / 2688);
    const double want[16] = { 6, 3, -1.5, 0.5, 0, 2, -4, 1, 0, 0.5, 4, -6, 1, -0.0, 1, 2 };
    double x[16];
    qw_tensor t = qw_dense2(data, QW_NVFP4, 1, 16);
    t.block_scale = scales;
    t.scale = &second;
    ref_get(&t, 0, 0, 0, x);
    for (int i = 0; i < 16; i++) ck_assert_double_eq_tol(x[i], want[i], 6e-7);
    ck_assert(signbit(x[13]));
}
END_TEST

START_TEST(mxfp8_example)
{
    unsigned char data[2][32] = { { 0 }, { 0x34, 0x8d, 0x78, 0x01 } }, scales[512];
    memset(scales, 0xff, sizeof scales);        /* NaN: only the right byte helps */
    scales[16] = 129;                           /* row 1, block 0 */
    double x[32];
    qw_tensor t = qw_dense2(data, QW_MXFP8, 2, 32);
    t.block_scale = scales;
    ref_get(&t, 1, 0, 0, x);
    ck_assert_double_eq(x[0], 3);
    ck_assert_double_eq(x[1], -0.1015625);
    ck_assert_double_eq(x[2], 1024);
    ck_assert_double_eq(x[3], 0.0078125);
    for (int i = 4; i < 32; i++) ck_assert_double_eq(x[i], 0);
}
END_TEST

/* --- rotation and rows of int8 --------------------------------------------------------------- */

static void convert(qw_tensor y, qw_tensor x, int group)
{
    ck_assert_int_eq(ref_convert(dev, &(qw_convert_args){ .y = y, .x = x, .rotate = group }),
                     QWEN_OK);
}

/* Against the definition: the sign of (i, j) is -1 for each pair of base-4 digits of sum 3. */
START_TEST(rotation_is_hadamard)
{
    static const int group[] = { 4, 16, 64, 256 };
    const int g = group[_i];
    double *x = room((size_t)g * sizeof *x), *y = room((size_t)g * sizeof *y);
    for (int i = 0; i < g; i++) {
        memset(x, 0, (size_t)g * sizeof *x);
        x[i] = sqrt(g);
        convert(mat(y, 1, g), mat(x, 1, g), g);
        for (int j = 0; j < g; j++) {
            double sign = 1;
            for (int a = i, b = j, s = 1; s < g; s *= 4, a /= 4, b /= 4)
                if (a % 4 + b % 4 == 3) sign = -sign;
            ck_assert_msg(y[j] == sign, "H%d[%d][%d] is %g instead of %g", g, i, j, y[j], sign);
        }
    }
    free(x);
    free(y);
}
END_TEST

START_TEST(convrot_example)
{
    double w[16] = { [0] = 8, [5] = -2, [15] = 1 }, x[16], rot[16];
    const double w_rot[16] = { 1.75, 1.25, 2.25, -2.75, 1.25, 1.75, 2.75, -2.25, 2.25, 2.75, 1.75,
                               -1.25, -2.75, -2.25, -1.25, 1.75 };
    const double x_rot[16] = { -18, 5, 6, 7, -14, 9, 10, 11, -10, 13, 14, 15, 16, -5, -4, -3 };
    const int8_t w_code[16] = { 81, 58, 104, -127, 58, 81, 127, -104, 104, 127, 81, -58, -127, -104,
                                -58, 81 };
    const int8_t x_code[16] = { -127, 35, 42, 49, -99, 63, 71, 78, -71, 92, 99, 106, 113, -35, -28,
                                -21 };
    for (int i = 0; i < 16; i++) x[i] = i - 7;
    x[3] = 40;
    convert(mat(rot, 1, 16), mat(w, 1, 16), 16);
    for (int i = 0; i < 16; i++) ck_assert_double_eq(rot[i], w_rot[i]);
    convert(mat(rot, 1, 16), mat(x, 1, 16), 16);
    for (int i = 0; i < 16; i++) ck_assert_double_eq(rot[i], x_rot[i]);
    int8_t qw[16], qx[16];
    float sw = 0, sx = 0;
    qw_tensor tw = qw_dense2(qw, QW_I8, 1, 16), tx = qw_dense2(qx, QW_I8, 1, 16);
    tw.scale = &sw;
    tx.scale = &sx;
    tw.scale_stride = tx.scale_stride = 1;
    convert(tw, mat(w, 1, 16), 16);
    convert(tx, mat(x, 1, 16), 16);
    ck_assert_mem_eq(qw, w_code, 16);
    ck_assert_mem_eq(qx, x_code, 16);
    ck_assert(sw == (float)(2.75 / 127) && sx == (float)(18.0 / 127));
    double y = 0;
    ck_assert_int_eq(ref_gemm(dev, &(qw_gemm_args){ .y = mat(&y, 1, 1), .x = tx, .w = tw }),
                     QWEN_OK);
    ck_assert_double_eq_tol(y, -44.38704, 5e-6);
}
END_TEST

/* Ties go to even, a row of zeros has the smallest scale, a row that is not finite says so. */
START_TEST(quantised_rows)
{
    const float x[4][4] = { { 127, 0.5f, 1.5f, -2.5f }, { 0, 0, 0, 0 }, { 1, INFINITY, 2, 3 },
                            { NAN, 1, 2, 3 } };
    const int8_t want[4][4] = { { 127, 0, 2, -2 } };
    int8_t q[4][4];
    float s[4];
    qw_tensor y = qw_dense2(q, QW_I8, 4, 4);
    y.scale = s;
    y.scale_stride = 1;
    convert(y, qw_dense2((void *)(uintptr_t)x, QW_F32, 4, 4), 0);
    ck_assert_mem_eq(q, want, sizeof want);
    ck_assert(s[0] == 1 && s[1] == 1e-30f && isinf(s[2]) && isnan(s[3]));
}
END_TEST

/* A double goes to bf16 and f16 with one rounding: just above a tie it must not fall back on it. */
START_TEST(single_rounding)
{
    const double x[4] = { 1 + 0x1p-8 + 0x1p-40, 1 + 0x1p-11 + 0x1p-50, 1 + 0x1p-8,
                          -1 - 0x1p-8 - 0x1p-40 };
    uint16_t b[4], h[4];
    convert(qw_dense2(b, QW_BF16, 1, 4), mat((void *)(uintptr_t)x, 1, 4), 0);
    convert(qw_dense2(h, QW_F16, 1, 4), mat((void *)(uintptr_t)x, 1, 4), 0);
    ck_assert_uint_eq(b[0], 0x3f81);
    ck_assert_uint_eq(b[2], 0x3f80);
    ck_assert_uint_eq(b[3], 0xbf81);
    ck_assert_uint_eq(h[1], 0x3c01);
}
END_TEST

/* --- operations against golden data ---------------------------------------------------------- */

START_TEST(gemm_is_linear)
{
    double *x = doubles("linear.x"), *w = doubles("linear.weight"), *bias = doubles("linear.bias");
    double *want = doubles("linear.y"), y[15];
    const qw_gemm_args a = { .y = mat(y, 3, 5), .x = mat(x, 3, 7),
                             .w = mat(w, 5, 7), .bias = vec(bias, 5) };
    ck_assert_int_eq(ref_gemm(dev, &a), QWEN_OK);
    close_to("linear.y", y, want, 15, 1e-13);
    free(x);
    free(w);
    free(bias);
    free(want);
}
END_TEST

/* A product with 1 is the activation itself. */
START_TEST(activations)
{
    static const struct { const char *name; qw_act act; } kind[] = {
        { "gelu_tanh.y", QW_GELU_TANH }, { "gelu_erf.y", QW_GELU_ERF }, { "silu.y", QW_SILU },
    };
    const int64_t n = count(entry("activation.x"));
    double *x = doubles("activation.x"), *want = doubles(kind[_i].name), one = 1;
    double *y = room((size_t)n * sizeof *y);
    const qw_gemm_args a = { .y = mat(y, n, 1), .x = mat(x, n, 1),
                             .w = mat(&one, 1, 1), .act = kind[_i].act };
    ck_assert_int_eq(ref_gemm(dev, &a), QWEN_OK);
    close_to(kind[_i].name, y, want, n, 1e-15);
    for (int64_t i = 0; i < n; i++)     /* in the tails too, but for what the golden sum cancels */
        ck_assert(fabs(y[i] - want[i]) <= 4e-16 * fabs(x[i]) + 4e-15 * fabs(want[i]));
    free(x);
    free(want);
    free(y);
}
END_TEST

/* y = res + gate act(x wT + x2 w2T + bias), all of it, in place, against the formula. */
START_TEST(gemm_epilogue)
{
    enum { M = 5, N = 4, K = 11, R = 3 };
    double x[M][K], w[N][K], x2[M][R], w2[N][R], bias[N], gate[N], res[M][N], y[M][N];
    for (int i = 0; i < M; i++) for (int p = 0; p < K; p++) x[i][p] = sin(1.3 * i + 0.7 * p);
    for (int j = 0; j < N; j++) for (int p = 0; p < K; p++) w[j][p] = cos(2.1 * j - 0.9 * p);
    for (int i = 0; i < M; i++) for (int p = 0; p < R; p++) x2[i][p] = sin(3.3 * i + 1.7 * p);
    for (int j = 0; j < N; j++) for (int p = 0; p < R; p++) w2[j][p] = cos(0.1 * j - 2.9 * p);
    for (int j = 0; j < N; j++) bias[j] = 0.1 * j, gate[j] = 1.5 - j;
    for (int i = 0; i < M; i++) for (int j = 0; j < N; j++) y[i][j] = res[i][j] = 0.5 * i - j;
    const qw_tensor out = mat(y, M, N);
    const qw_gemm_args a = { .y = out, .res = out, .x = mat(x, M, K), .w = mat(w, N, K),
                             .x2 = mat(x2, M, R), .w2 = mat(w2, N, R),
                             .bias = vec(bias, N), .gate = vec(gate, N), .act = QW_SILU };
    ck_assert_int_eq(ref_gemm(dev, &a), QWEN_OK);
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            double z = bias[j];
            for (int p = 0; p < K; p++) z += x[i][p] * w[j][p];
            for (int p = 0; p < R; p++) z += x2[i][p] * w2[j][p];
            ck_assert_double_eq_tol(y[i][j], res[i][j] + gate[j] * z / (1 + exp(-z)), 1e-14);
        }
}
END_TEST

/* [heads][n][d] of the golden data as [n][heads][d], and back. */
static double *swapped(const double *x, int64_t a, int64_t b, int64_t d)
{
    double *y = room((size_t)(a * b * d) * sizeof *y);
    for (int64_t i = 0; i < a; i++)
        for (int64_t j = 0; j < b; j++)
            memcpy(y + (j * a + i) * d, x + (i * b + j) * d, (size_t)d * sizeof *y);
    return y;
}

/* keep: which of the six keys there are, or NULL. */
static void attention_case(const char *name, const int32_t *first, const int32_t *last,
                           const uint8_t *keep)
{
    double *q0 = doubles("attention.q"), *k0 = doubles("attention.k"), *v0 = doubles("attention.v");
    double *q = swapped(q0, 4, 6, 8), *k = swapped(k0, 2, 6, 8), *v = swapped(v0, 2, 6, 8);
    double *want0 = doubles(name), *want = swapped(want0, 4, 6, 8), *y = room(192 * sizeof *y);
    int64_t n = 0;
    for (int j = 0; j < 6; j++) {
        if (keep && !keep[j]) continue;
        memmove(k + 16 * n, k + 16 * j, 16 * sizeof *k);
        memmove(v + 16 * n++, v + 16 * j, 16 * sizeof *v);
    }
    const qw_attention_args a = { .y = cube(y, 6, 4, 8), .q = cube(q, 6, 4, 8),
                                  .k = cube(k, n, 2, 8), .v = cube(v, n, 2, 8),
                                  .first = first, .last = last, .scale = 1 / sqrt(8) };
    ck_assert_int_eq(ref_attention(dev, &a), QWEN_OK);
    close_to(name, y, want, 192, 1e-13);
    double *all[] = { q0, k0, v0, want0, q, k, v, want, y };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
}

START_TEST(attention)
{
    int32_t first[6] = { 0 }, last[6];
    attention_case("attention.grouped_full", NULL, NULL, NULL);
    for (int i = 0; i < 6; i++) last[i] = i + 1;
    attention_case("attention.grouped_causal", first, last, NULL);
    int64_t *bound = copy("attention.segment_bounds", QW_I64);
    const int64_t bounds = count(entry("attention.segment_bounds"));
    for (int64_t s = 0; s + 1 < bounds; s++)
        for (int64_t i = bound[s]; i < bound[s + 1]; i++) {
            first[i] = (int32_t)bound[s];
            last[i] = (int32_t)bound[s + 1];
        }
    attention_case("attention.grouped_segments", first, last, NULL);
    free(bound);
    uint8_t *keep = copy("attention.key_mask", QW_U8);
    attention_case("attention.grouped_key_mask", NULL, NULL, keep);
    free(keep);
}
END_TEST

/* With equal keys attention is a mean, and far-off logits neither overflow nor leak. */
START_TEST(softmax)
{
    double *x = doubles("softmax.x"), *want = doubles("softmax.y"), *y = room(27 * sizeof *y);
    double q = 1, k[9], v[9 * 9], out[9];
    memset(v, 0, sizeof v);
    for (int j = 0; j < 9; j++) v[10 * j] = 1;  /* unit vectors: the result is the weights */
    for (int i = 0; i < 3; i++) {
        double keys[9][9] = { { 0 } }, query[9] = { 1 };
        for (int j = 0; j < 9; j++) keys[j][0] = x[9 * i + j];
        const qw_attention_args a = { .y = cube(y + 9 * i, 1, 1, 9), .q = cube(query, 1, 1, 9),
                                      .k = cube(keys, 9, 1, 9), .v = cube(v, 9, 1, 9),
                                      .scale = 1 };
        ck_assert_int_eq(ref_attention(dev, &a), QWEN_OK);
    }
    close_to("softmax.y", y, want, 27, 1e-14);
    for (int j = 0; j < 9; j++) k[j] = j == 4 ? 5000 : -5000, v[j] = j;
    const qw_attention_args far = { .y = cube(out, 1, 1, 1), .q = cube(&q, 1, 1, 1),
                                    .k = cube(k, 9, 1, 1), .v = cube(v, 9, 1, 1), .scale = 1 };
    ck_assert_int_eq(ref_attention(dev, &far), QWEN_OK);
    ck_assert_double_eq(out[0], 4);
    free(x);
    free(want);
    free(y);
}
END_TEST

/* [outer][c][hw] to [outer][hw][c]. */
static double *channels_last(double *x, int64_t outer, int64_t c, int64_t hw)
{
    double *y = room((size_t)(outer * c * hw) * sizeof *y);
    for (int64_t o = 0; o < outer; o++)
        for (int64_t k = 0; k < c; k++)
            for (int64_t p = 0; p < hw; p++) y[(o * hw + p) * c + k] = x[(o * c + k) * hw + p];
    free(x);
    return y;
}

typedef struct conv_case {
    const char *want, *weight;
    int64_t     ho, wo, kernel;
    int         stride, pad;
} conv_case;

START_TEST(convolutions)
{
    static const conv_case cases[] = {
        { "conv.pad1", "conv.weight", 7, 6, 3, 1, 1 },
        { "conv.down_right_bottom_pad_stride2", "conv.weight", 3, 3, 3, 2, 0 },
        { "conv.y1x1", "conv.weight1x1", 7, 6, 1, 1, 0 },
    };
    const conv_case *c = &cases[_i];
    double *x = channels_last(doubles("conv.x"), 1, 3, 42), *bias = doubles("conv.bias");
    double *w = channels_last(doubles(c->weight), 4, 3, c->kernel * c->kernel);
    double *want = channels_last(doubles(c->want), 1, 4, c->ho * c->wo);
    double *y = room((size_t)(c->ho * c->wo * 4) * sizeof *y);
    const qw_conv2d_args a = { .y = cube(y, c->ho, c->wo, 4), .x = cube(x, 7, 6, 3),
                               .w = qw_dense4(w, QW_F64, 4, c->kernel, c->kernel, 3),
                               .bias = vec(bias, 4),
                               .stride = c->stride, .top = c->pad, .left = c->pad, .up = 1 };
    ck_assert_int_eq(ref_conv2d(dev, &a), QWEN_OK);
    close_to(c->want, y, want, c->ho * c->wo * 4, 1e-13);
    free(x);
    free(bias);
    free(w);
    free(want);
    free(y);
}
END_TEST

/* For one frame with two of zeros before it, only a causal kernel's last tap meets data. */
START_TEST(causal_convolution)
{
    double *x = channels_last(doubles("conv.x"), 1, 3, 42), *w5 = doubles("causal_conv3d.weight");
    double *last = room(4 * 3 * 9 * sizeof *last), *want;
    want = channels_last(doubles("causal_conv3d.y"), 1, 4, 42);
    for (int oc = 0; oc < 12; oc++) memcpy(last + 9 * oc, w5 + 27 * oc + 18, 9 * sizeof *last);
    double *w = channels_last(last, 4, 3, 9), *bias = doubles("conv.bias"), y[42 * 4];
    const qw_conv2d_args a = { .y = cube(y, 7, 6, 4), .x = cube(x, 7, 6, 3),
                               .w = qw_dense4(w, QW_F64, 4, 3, 3, 3), .bias = vec(bias, 4),
                               .stride = 1, .top = 1, .left = 1, .up = 1 };
    ck_assert_int_eq(ref_conv2d(dev, &a), QWEN_OK);
    close_to("causal_conv3d.y", y, want, 168, 1e-13);
    free(x);
    free(w);
    free(w5);
    free(bias);
    free(want);
}
END_TEST

/* Enlarging inside conv2d: a kernel that copies, then any kernel on the enlarged picture. */
START_TEST(enlargement)
{
    double *x = channels_last(doubles("upsample.x"), 1, 3, 42);
    double *big = channels_last(doubles("upsample.y"), 1, 3, 168);
    double one[9] = { 1, 0, 0, 0, 1, 0, 0, 0, 1 }, y[504], z[504];
    const qw_conv2d_args copying = { .y = cube(y, 14, 12, 3), .x = cube(x, 7, 6, 3),
                                     .w = qw_dense4(one, QW_F64, 3, 1, 1, 3),
                                     .stride = 1, .up = 2 };
    ck_assert_int_eq(ref_conv2d(dev, &copying), QWEN_OK);
    ck_assert_mem_eq(y, big, sizeof y);
    double w[81];
    for (int i = 0; i < 81; i++) w[i] = sin(i);
    qw_conv2d_args a = { .y = cube(y, 14, 12, 3), .x = cube(x, 7, 6, 3),
                         .w = qw_dense4(w, QW_F64, 3, 3, 3, 3),
                         .stride = 1, .top = 1, .left = 1, .up = 2 };
    ck_assert_int_eq(ref_conv2d(dev, &a), QWEN_OK);
    a.y = cube(z, 14, 12, 3);
    a.x = cube(big, 14, 12, 3);
    a.up = 1;
    ck_assert_int_eq(ref_conv2d(dev, &a), QWEN_OK);
    ck_assert_mem_eq(y, z, sizeof y);
    free(x);
    free(big);
}
END_TEST

START_TEST(rms_norms)
{
    double *x = doubles("rms_norm.x"), *w = doubles("rms_norm.weight"), *want;
    want = doubles("rms_norm.y");
    qw_rms_norm_args a = { .y = mat(x, 4, 24), .x = mat(x, 4, 24),
                           .w = vec(w, 24), .eps = 1e-6 };
    ck_assert_int_eq(ref_rms_norm(dev, &a), QWEN_OK);           /* in place */
    close_to("rms_norm.y", x, want, 96, 1e-14);
    free(x);
    free(w);
    free(want);
    /* The VAE's norm over channels: x / max(|x|, 1e-12) sqrt(c) gamma; one pixel is zero. */
    x = channels_last(doubles("rms_norm_channel.x"), 1, 4, 6);
    want = channels_last(doubles("rms_norm_channel.y"), 1, 4, 6);
    w = doubles("rms_norm_channel.gamma");
    a = (qw_rms_norm_args){ .y = mat(x, 6, 4), .x = mat(x, 6, 4),
                            .w = vec(w, 4), .eps = 1e-24 / 4 };
    ck_assert_int_eq(ref_rms_norm(dev, &a), QWEN_OK);
    close_to("rms_norm_channel.y", x, want, 24, 1e-14);
    free(x);
    free(w);
    free(want);
}
END_TEST

START_TEST(modulation)
{
    double *x = doubles("adaln.x"), *scale = doubles("adaln.scale"), *gate = doubles("adaln.gate");
    double *shift = doubles("adaln.shift"), *branch = doubles("adaln.branch");
    double *want = doubles("adaln.modulated"), *sum = doubles("adaln.residual");
    double y[120], one[400] = { 0 };
    const qw_ln_mod_args a = { .y = mat(y, 6, 20), .x = mat(x, 6, 20), .eps = 1e-6,
                               .scale = vec(scale, 20), .shift = vec(shift, 20) };
    ck_assert_int_eq(ref_ln_mod(dev, &a), QWEN_OK);
    close_to("adaln.modulated", y, want, 120, 1e-13);
    for (int i = 0; i < 20; i++) one[21 * i] = 1;
    const qw_tensor stream = mat(x, 6, 20);
    const qw_gemm_args g = { .y = stream, .res = stream, .x = mat(branch, 6, 20),
                             .w = mat(one, 20, 20), .gate = vec(gate, 20) };
    ck_assert_int_eq(ref_gemm(dev, &g), QWEN_OK);
    close_to("adaln.residual", x, sum, 120, 1e-14);
    double *all[] = { x, scale, shift, gate, branch, want, sum };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
}
END_TEST

START_TEST(rotary)
{
    static const struct { const char *x, *angle, *y; qw_pairing pairing; } kind[] = {
        { "rope_pairs.x", "rope_pairs.angle", "rope_pairs.y", QW_PAIRS },
        { "rope_halves.x", "rope_halves.angle", "rope_halves.y", QW_HALVES },
    };
    double *x = doubles(kind[_i].x), *angle = doubles(kind[_i].angle), *want = doubles(kind[_i].y);
    double c[40], s[40];
    for (int i = 0; i < 40; i++) c[i] = cos(angle[i]), s[i] = sin(angle[i]);
    for (int b = 0; b < 2; b++) {
        const qw_norm_rope_args a = { .x = cube(x + 240 * b, 5, 3, 16), .cos = mat(c, 5, 8),
                                      .sin = mat(s, 5, 8), .pairing = kind[_i].pairing };
        ck_assert_int_eq(ref_norm_rope(dev, &a), QWEN_OK);
    }
    close_to(kind[_i].y, x, want, 480, 1e-14);
    free(x);
    free(angle);
    free(want);
}
END_TEST

/* With a weight: rms_norm first, then the same rotation. */
START_TEST(rotary_with_norm)
{
    double x[2][3][8], y[2][3][8], w[8], c[2][4], s[2][4];
    for (int i = 0; i < 48; i++) (&x[0][0][0])[i] = (&y[0][0][0])[i] = sin(i * i);
    for (int i = 0; i < 8; i++) w[i] = 1 + 0.1 * i, (&c[0][0])[i] = cos(i), (&s[0][0])[i] = sin(i);
    qw_norm_rope_args a = { .x = cube(x, 2, 3, 8), .w = vec(w, 8), .eps = 1e-6,
                            .cos = mat(c, 2, 4), .sin = mat(s, 2, 4), .pairing = QW_PAIRS };
    ck_assert_int_eq(ref_norm_rope(dev, &a), QWEN_OK);
    const qw_rms_norm_args n = { .y = mat(y, 6, 8), .x = mat(y, 6, 8),
                                 .w = vec(w, 8), .eps = 1e-6 };
    ck_assert_int_eq(ref_rms_norm(dev, &n), QWEN_OK);
    a.x = cube(y, 2, 3, 8);
    a.w = (qw_tensor){ .dtype = QW_NONE };
    ck_assert_int_eq(ref_norm_rope(dev, &a), QWEN_OK);
    close_to("norm, then rotation", &x[0][0][0], &y[0][0][0], 48, 1e-15);
}
END_TEST

START_TEST(swiglus)
{
    double x[3][8], y[3][4];
    for (int i = 0; i < 24; i++) (&x[0][0])[i] = 3 * sin(i);
    const qw_swiglu_args a = { .y = mat(y, 3, 4), .x = mat(x, 3, 8) };
    ck_assert_int_eq(ref_swiglu(dev, &a), QWEN_OK);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) {
            const double want = x[i][j] / (1 + exp(-x[i][j])) * x[i][4 + j];
            ck_assert_double_eq_tol(y[i][j], want, 1e-15);
        }
}
END_TEST

/* --- any weight type, any address, any number of threads ------------------------------------- */

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
    for (int j = 0; j < N; j++) ref_get(&w, j, 0, 0, plain + j * K);
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
    if (w.scale_stride) {               /* the scales are in it */
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
    const qw_gemm_args a = { .y = mat(y, M, N), .x = mat(x, M, K),
                             .w = mat(w, N, K) };
    ck_assert_int_eq(ref_gemm(dev, &a), QWEN_OK);
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++)
            ck_assert_double_eq(y[i * N + j], x[i * K] * w[j][0] + x[i * K + 1] * w[j][1]
                                              + x[i * K + 2] * w[j][2]);
    free(x);
    free(y);
}
END_TEST

static uint32_t lcg = 1;
static float next_value(void)
{
    lcg = lcg * 1664525u + 1013904223u;
    return (float)(int32_t)lcg * 0x1p-30f;
}

/* Large enough for every op to be worth five threads. */
enum { N = 1501, C = 240, HEADS = C / 8, NK = 160 };

/* Every op on the same bits of input; the results lie behind one another. */
static void every_op(qw_device *d, float *in, float *out)
{
    float *const y = out, *const x = in, *const w = in + N * C, *const t = w + C * C;
    const qw_tensor tx = qw_dense2(x, QW_F32, N, C), wide = qw_dense1(w, QW_F32, C);
    int status = 0;
    status |= ref_gemm(d, &(qw_gemm_args){ .y = qw_dense2(y, QW_F32, N, C), .x = tx, .res = tx,
                       .bias = wide, .w = qw_dense2(w, QW_F32, C, C), .act = QW_GELU_TANH });
    status |= ref_attention(d, &(qw_attention_args){
                            .y = qw_dense3(y + N * C, QW_F32, NK, HEADS, 8),
                            .q = qw_dense3(x, QW_F32, NK, HEADS, 8),
                            .k = qw_dense3(x, QW_F32, NK, HEADS, 8),
                            .v = qw_dense3(y, QW_F32, NK, HEADS, 8), .scale = 0.3 });
    status |= ref_conv2d(d, &(qw_conv2d_args){ .y = qw_dense3(y + 2 * N * C, QW_F32, N, C / 4, 4),
                         .x = qw_dense3(x, QW_F32, N, C / 4, 4),
                         .w = qw_dense4(w, QW_F32, 4, 3, 3, 4),
                         .stride = 1, .top = 1, .left = 1, .up = 1 });
    status |= ref_rms_norm(d, &(qw_rms_norm_args){ .y = qw_dense2(y + 3 * N * C, QW_F32, N, C),
                           .x = tx, .w = wide, .eps = 1e-6, .act = QW_SILU });
    status |= ref_ln_mod(d, &(qw_ln_mod_args){ .y = qw_dense2(y + 4 * N * C, QW_F32, N, C), .x = tx,
                         .scale = wide, .shift = wide, .eps = 1e-6 });
    memcpy(y + 5 * N * C, x, N * C * sizeof *y);
    status |= ref_norm_rope(d, &(qw_norm_rope_args){
                            .x = qw_dense3(y + 5 * N * C, QW_F32, N, HEADS, 8),
                            .eps = 1e-6, .w = qw_dense1(w, QW_F32, 8),
                            .cos = qw_dense2(t, QW_F32, N, 4),
                            .sin = qw_dense2(t + N * 4, QW_F32, N, 4), .pairing = QW_HALVES });
    status |= ref_swiglu(d, &(qw_swiglu_args){ .y = qw_dense2(y + 6 * N * C, QW_F32, N, C / 2),
                                               .x = tx });
    status |= ref_convert(d, &(qw_convert_args){ .y = qw_dense2(y + 7 * N * C, QW_F32, N, C),
                                                 .x = tx, .rotate = 16 });
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
    for (int part = 0; part < 8; part++) {      /* each op wrote something */
        double sum = 0;
        for (int i = 0; i < N * C; i++) sum += fabs((double)once[part * N * C + i]);
        ck_assert_double_gt(sum, 1);
    }
    free(in);
    free(once);
    free(again);
}
END_TEST

/* --- the device itself ----------------------------------------------------------------------- */

START_TEST(devices)
{
    static const char *const name[] = { "ref", "ref64", "ref:bf16" };
    for (int i = 0; i < 3; i++) {
        qw_device *d;
        ck_assert_int_eq(ref_backend.open(i, &d), QWEN_OK);
        ck_assert_str_eq(d->name, name[i]);
        ck_assert_int_eq(d->abi, QW_BACKEND_ABI);
        ck_assert_int_eq(d->wide, i == 1 ? QW_F64 : QW_F32);
        ck_assert_int_eq(d->prefer, i == 1 ? QW_F64 : i == 2 ? QW_BF16 : QW_F32);
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
    ck_assert_int_eq(ref_backend.open(3, &d), QW_DECLINE);
}
END_TEST

START_TEST(sentences)
{
    qw_error e = { 0 };
    ck_assert_int_eq(qw_fail(&e, QWEN_EIO, "%s is gone", "a.gguf"), QWEN_EIO);
    ck_assert_int_eq(qw_fail(&e, QWEN_EARG, "later"), QWEN_EIO);        /* the first stays */
    ck_assert_str_eq(e.text, "a.gguf is gone");
    char out[40], small[9];
    ck_assert_str_eq(qw_visible(out, sizeof out, "a\n\x01\x7f\xff\xc3\xa9"),
                     "a\\n\\x01\\x7f\\xff\xc3\xa9");
    ck_assert_str_eq(qw_visible(out, sizeof out, "\xed\xa0\x80"),
                     "\\xed\\xa0\\x80");      /* a lone surrogate */
    ck_assert_str_eq(qw_visible(out, sizeof out, "\xc0\xaf\xe2\x82"), "\\xc0\\xaf\\xe2\\x82");
    ck_assert_uint_lt(strlen(qw_visible(small, sizeof small, "abcdefghijkl")), sizeof small);
    ck_assert_str_eq(qw_visible(small, 1, "abc"), "");
}
END_TEST

/* --- views ----------------------------------------------------------------------------------- */

START_TEST(views)
{
    float buffer[4][6];
    for (int i = 0; i < 24; i++) (&buffer[0][0])[i] = (float)i;
    const qw_tensor t = qw_dense2(buffer, QW_F32, 4, 6);
    ck_assert_ptr_eq(qw_at(&t, 2, 3, 0, 0), &buffer[2][3]);
    const qw_tensor r = qw_rows(t, 1, 2), c = qw_cols(t, 2, 4), h = qw_heads(c, 2);
    ck_assert_ptr_eq(r.data, buffer[1]);
    ck_assert_int_eq(r.dim[0], 2);
    ck_assert_ptr_eq(qw_at(&c, 3, 1, 0, 0), &buffer[3][3]);
    ck_assert_ptr_eq(qw_at(&h, 3, 1, 1, 0), &buffer[3][5]);
    ck_assert_int_eq(h.dim[1], 2);
    const qw_tensor p = qw_picture(t, 2, 2), f = qw_flat(p);
    ck_assert_ptr_eq(qw_at(&p, 1, 1, 4, 0), &buffer[3][4]);
    ck_assert_int_eq(f.dim[0], 4);
    ck_assert_ptr_eq(qw_at(&f, 3, 4, 0, 0), &buffer[3][4]);
    ck_assert_int_eq(qw_elements(&p), 24);
    const qw_tensor absent = { .dtype = QW_NONE };
    ck_assert(!qw_present(&absent) && qw_present(&t));
    unsigned char blocks[3][2 * 34];
    const qw_tensor q = qw_dense2(blocks, QW_Q8_0, 3, 64);
    ck_assert_ptr_eq(qw_rows(q, 2, 1).data, blocks[2]);
    ck_assert_ptr_eq(qw_at(&q, 1, 32, 0, 0), &blocks[1][34]);
    const float scale[3] = { 1, 2, 3 };
    qw_tensor s = qw_dense2(blocks, QW_I8, 3, 8);
    s.scale = scale;
    s.scale_stride = 1;
    ck_assert_ptr_eq(qw_rows(s, 2, 1).scale, scale + 2);
}
END_TEST

static TCase *group(Suite *s, const char *name, SFun before, SFun after)
{
    TCase *t = tcase_create(name);
    tcase_add_checked_fixture(t, before, after);
    suite_add_tcase(s, t);
    return t;
}

int main(void)
{
    Suite *s = suite_create("ops");
    TCase *t = group(s, "dtypes", open_dtypes, close_data);
    tcase_add_loop_test(t, small_floats_decode, 0, 3);
    tcase_add_test(t, halves_decode);
    tcase_add_loop_test(t, floats_narrow, 0, 4);
    t = group(s, "blocks", open_blocks, close_data);
    tcase_add_loop_test(t, blocks_decode, 0, BLOCK_TYPES);
    t = group(s, "by hand", open_device, close_device);
    tcase_add_test(t, round_trips);
    tcase_add_test(t, block_examples);
    tcase_add_test(t, names);
    tcase_add_test(t, block_scale_places);
    tcase_add_test(t, nvfp4_example);
    tcase_add_test(t, mxfp8_example);
    tcase_add_loop_test(t, rotation_is_hadamard, 0, 4);
    tcase_add_test(t, convrot_example);
    tcase_add_test(t, quantised_rows);
    tcase_add_test(t, single_rounding);
    tcase_add_test(t, gemm_epilogue);
    tcase_add_test(t, gemm_many_rows);
    tcase_add_test(t, rotary_with_norm);
    tcase_add_test(t, swiglus);
    tcase_add_loop_test(t, weights_of_every_type, QW_F64, QW_U8);
    tcase_add_test(t, threads_do_not_show);
    tcase_add_test(t, devices);
    tcase_add_test(t, sentences);
    tcase_add_test(t, views);
    t = group(s, "golden", open_ops, close_data);
    tcase_add_test(t, gemm_is_linear);
    tcase_add_loop_test(t, activations, 0, 3);
    tcase_add_test(t, attention);
    tcase_add_test(t, softmax);
    tcase_add_loop_test(t, convolutions, 0, 3);
    tcase_add_test(t, causal_convolution);
    tcase_add_test(t, enlargement);
    tcase_add_test(t, rms_norms);
    tcase_add_test(t, modulation);
    tcase_add_loop_test(t, rotary, 0, 2);
    return run_suite(s);
}
