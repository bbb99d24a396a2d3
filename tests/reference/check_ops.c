/* check_ops.c - the reference's operations against golden data and by hand.
 *
 * Operations run in float64 on "ref64" and may differ from the golden values, which were made in
 * float64 too, by 1e-13 of the largest, a few roundings. */
#include "weights/weights.h"
#include <qwen/ref.h>
#include "testing.h"
#include "values.h"
#include <math.h>
#include <string.h>

static qw_store *store;
static qw_device *dev;

static void open_device(void)
{
    const qw_open_options o = { .size = sizeof o };
    ck_assert_int_eq(ref_backend.open(1, &o, &dev), QWEN_OK);
}
static void close_device(void) { dev->close(dev); }

static void open_golden(void)
{
    store = open_data("units/ops/ops.safetensors");
    open_device();
}

static void close_golden(void)
{
    qw_store_free(store);
    close_device();
}

/* A copy of a tensor of the golden data, of the file's own type, aligned. */
static void *copy(const char *name, qw_dtype dtype)
{
    const qw_entry *e = entry(store, name);
    ck_assert_msg(e->dtype == dtype, "%s is %s", name, qw_dtype_name(e->dtype));
    void *p = room(e->bytes);
    memcpy(p, e->data, e->bytes);
    return p;
}

static double *doubles(const char *name) { return values(store, name, NULL); }

/* Dense float64 tensors. */
static qw_tensor vec(double *x, int64_t a) { return qw_dense1(x, QW_F64, a); }
static qw_tensor mat(void *x, int64_t a, int64_t b) { return qw_dense2(x, QW_F64, a, b); }
static qw_tensor cube(void *x, int64_t a, int64_t b, int64_t c)
{
    return qw_dense3(x, QW_F64, a, b, c);
}

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
    const double w_rot[16] = { 1.75, 1.25, 2.25, -2.75, 1.25,  1.75,  2.75,  -2.25,
                               2.25, 2.75, 1.75, -1.25, -2.75, -2.25, -1.25, 1.75 };
    const double x_rot[16] = { -18, 5, 6, 7, -14, 9, 10, 11, -10, 13, 14, 15, 16, -5, -4, -3 };
    const int8_t w_code[16] = { 81,  58,  104, -127, 58,   81,   127, -104,
                                104, 127, 81,  -58,  -127, -104, -58, 81 };
    const int8_t x_code[16] = { -127, 35, 42, 49,  -99, 63,  71,  78,
                                -71,  92, 99, 106, 113, -35, -28, -21 };
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

/* Ties go to even, a row of zeros has the smallest scale, a row that is not finite has a scale that
 * is not. */
START_TEST(quantised_rows)
{
    const float x[4][4] = {
        { 127, 0.5f, 1.5f, -2.5f }, { 0, 0, 0, 0 }, { 1, INFINITY, 2, 3 }, { NAN, 1, 2, 3 }
    };
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

enum { LONG = 1100, WIDE = 16 }; /* more rows than ref_gemm holds at a time */

/* Room for rows of codes; free() .data and .scale. */
static qw_tensor codes(int64_t m, int64_t n)
{
    qw_tensor t = qw_dense2(room((size_t)(m * n)), QW_I8, m, n);
    t.scale = room((size_t)m * sizeof(float));
    t.scale_stride = 1;
    return t;
}

static void drop(qw_tensor t)
{
    free(t.data);
    free((void *)(uintptr_t)t.scale);
}

/* Rows of codes against the same rows as doubles, quantised here by the definition. */
static void same_codes(const char *what, const qw_tensor *got, const double *y)
{
    const int64_t n = got->dim[1];
    for (int64_t i = 0; i < got->dim[0]; i++) {
        double most = 0;
        for (int64_t j = 0; j < n; j++) most = fmax(most, fabs(y[i * n + j]));
        const float s = (float)(most / 127);
        ck_assert_msg(got->scale[i] == s && s > 0, "%s: row %lld has the scale %g instead of %g",
                      what, (long long)i, (double)got->scale[i], (double)s);
        for (int64_t j = 0; j < n; j++)
            ck_assert_msg(((const int8_t *)got->data)[i * n + j] == rint(y[i * n + j] / (double)s),
                          "%s: code [%lld][%lld] is wrong", what, (long long)i, (long long)j);
    }
}

/* ln_mod, gemm through its activation, and convert write rows of codes. */
START_TEST(ops_write_codes)
{
    double *x = room(LONG * WIDE * sizeof *x), *y = room(LONG * WIDE * sizeof *y);
    double w[WIDE * WIDE], v[2][WIDE];
    for (int i = 0; i < LONG * WIDE; i++) x[i] = (1 + i % 7) * sin(i);
    for (int i = 0; i < WIDE * WIDE; i++) w[i] = cos(3 * i);
    for (int i = 0; i < WIDE; i++) v[0][i] = sin(5 * i), v[1][i] = cos(2 * i);
    qw_tensor q = codes(LONG, WIDE);

    qw_ln_mod_args l = { .y = mat(y, LONG, WIDE),
                         .x = mat(x, LONG, WIDE),
                         .scale = vec(v[0], WIDE),
                         .shift = vec(v[1], WIDE),
                         .eps = 1e-6 };
    ck_assert_int_eq(ref_ln_mod(dev, &l), QWEN_OK);
    l.y = q;
    ck_assert_int_eq(ref_ln_mod(dev, &l), QWEN_OK);
    same_codes("ln_mod", &q, y);

    qw_gemm_args g = { .y = mat(y, LONG, WIDE),
                       .x = mat(x, LONG, WIDE),
                       .w = mat(w, WIDE, WIDE),
                       .x2 = qw_cols(mat(x, LONG, WIDE), 3, 2),
                       .w2 = mat(w, WIDE, 2),
                       .bias = vec(v[0], WIDE),
                       .act = QW_GELU_TANH };
    ck_assert_int_eq(ref_gemm(dev, &g), QWEN_OK);
    g.y = q;
    ck_assert_int_eq(ref_gemm(dev, &g), QWEN_OK);
    same_codes("gemm", &q, y);

    qw_convert_args c = {
        .y = mat(y, LONG, WIDE), .x = mat(x, LONG, WIDE), .rotate = 4, .res = mat(x, LONG, WIDE)
    };
    ck_assert_int_eq(ref_convert(dev, &c), QWEN_OK);
    c.y = q;
    ck_assert_int_eq(ref_convert(dev, &c), QWEN_OK);
    same_codes("convert", &q, y);
    drop(q);
    free(x);
    free(y);
}
END_TEST

/* "ref:int8": rows of codes times a weight that is not of codes is the product with that weight's
 * codes; nothing else is quantised. */
START_TEST(int8_weights)
{
    const qw_open_options o = { .size = sizeof o };
    qw_device *int8;
    ck_assert_int_eq(ref_backend.open(3, &o, &int8), QWEN_OK);
    ck_assert_str_eq(int8->name, "ref:int8");
    ck_assert(int8->quant == QW_I8 && dev->quant == QW_NONE);
    enum { M = 9, N = 7 };
    double x[M * WIDE], w[N * WIDE], y[M * N], z[M * N], plain[M * N];
    uint16_t half[N * WIDE];
    for (int i = 0; i < M * WIDE; i++) x[i] = sin(i);
    for (int i = 0; i < N * WIDE; i++) w[i] = (1 + i / WIDE) * cos(3 * i);
    qw_tensor tx = codes(M, WIDE), tw = codes(N, WIDE), bf16 = qw_dense2(half, QW_BF16, N, WIDE);
    convert(tx, mat(x, M, WIDE), 0);
    convert(bf16, mat(w, N, WIDE), 0);
    convert(tw, bf16, 0);

    qw_gemm_args a = { .y = mat(y, M, N), .x = tx, .w = bf16 };
    ck_assert_int_eq(int8->op.gemm(int8, &a), QWEN_OK);
    a.y = mat(plain, M, N);
    ck_assert_int_eq(ref_gemm(dev, &a), QWEN_OK);
    a.y = mat(z, M, N), a.w = tw;
    ck_assert_int_eq(ref_gemm(dev, &a), QWEN_OK);
    ck_assert_mem_eq(y, z, sizeof y);
    double apart = 0;
    for (int i = 0; i < M * N; i++) apart = fmax(apart, fabs(y[i] - plain[i]));
    ck_assert(apart > 1e-4 && apart < 0.5); /* half a step: 7 / 254 of 16 products at most */

    a.y = mat(y, M, N); /* codes that are in the file stay */
    ck_assert_int_eq(int8->op.gemm(int8, &a), QWEN_OK);
    ck_assert_mem_eq(y, z, sizeof y);
    a.x = mat(x, M, WIDE), a.w = bf16; /* and x of floats has a w of floats */
    ck_assert_int_eq(int8->op.gemm(int8, &a), QWEN_OK);
    a.y = mat(z, M, N);
    ck_assert_int_eq(ref_gemm(dev, &a), QWEN_OK);
    ck_assert_mem_eq(y, z, sizeof y);
    drop(tx);
    drop(tw);
    int8->close(int8);
}
END_TEST

/* A double is rounded to bf16 and f16 once: a value just above a tie rounds up. */
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

/* --- operations ------------------------------------------------------------------------------ */

START_TEST(gemm_is_linear)
{
    double *x = doubles("linear.x"), *w = doubles("linear.weight"), *bias = doubles("linear.bias");
    double *want = doubles("linear.y"), y[15];
    const qw_gemm_args a = {
        .y = mat(y, 3, 5), .x = mat(x, 3, 7), .w = mat(w, 5, 7), .bias = vec(bias, 5)
    };
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
    static const struct {
        const char *name;
        qw_act act;
    } kind[] = {
        { "gelu_tanh.y", QW_GELU_TANH },
        { "gelu_erf.y", QW_GELU_ERF },
        { "silu.y", QW_SILU },
    };
    const int64_t n = elements(entry(store, "activation.x"));
    double *x = doubles("activation.x"), *want = doubles(kind[_i].name), one = 1;
    double *y = room((size_t)n * sizeof *y);
    const qw_gemm_args a = {
        .y = mat(y, n, 1), .x = mat(x, n, 1), .w = mat(&one, 1, 1), .act = kind[_i].act
    };
    ck_assert_int_eq(ref_gemm(dev, &a), QWEN_OK);
    close_to(kind[_i].name, y, want, n, 1e-15);
    for (int64_t i = 0; i < n; i++) /* in the tails too, up to the cancellation in the golden sum */
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
    for (int i = 0; i < M; i++)
        for (int p = 0; p < K; p++) x[i][p] = sin(1.3 * i + 0.7 * p);
    for (int j = 0; j < N; j++)
        for (int p = 0; p < K; p++) w[j][p] = cos(2.1 * j - 0.9 * p);
    for (int i = 0; i < M; i++)
        for (int p = 0; p < R; p++) x2[i][p] = sin(3.3 * i + 1.7 * p);
    for (int j = 0; j < N; j++)
        for (int p = 0; p < R; p++) w2[j][p] = cos(0.1 * j - 2.9 * p);
    for (int j = 0; j < N; j++) bias[j] = 0.1 * j, gate[j] = 1.5 - j;
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) y[i][j] = res[i][j] = 0.5 * i - j;
    const qw_tensor out = mat(y, M, N);
    const qw_gemm_args a = { .y = out,
                             .res = out,
                             .x = mat(x, M, K),
                             .w = mat(w, N, K),
                             .x2 = mat(x2, M, R),
                             .w2 = mat(w2, N, R),
                             .bias = vec(bias, N),
                             .gate = vec(gate, N),
                             .act = QW_SILU };
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
    const qw_attention_args a = { .y = cube(y, 6, 4, 8),
                                  .q = cube(q, 6, 4, 8),
                                  .k = cube(k, n, 2, 8),
                                  .v = cube(v, n, 2, 8),
                                  .first = first,
                                  .last = last,
                                  .scale = 1 / sqrt(8) };
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
    const int64_t bounds = elements(entry(store, "attention.segment_bounds"));
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

/* With equal keys attention is a mean, and logits far apart neither overflow nor mix. */
START_TEST(softmax)
{
    double *x = doubles("softmax.x"), *want = doubles("softmax.y"), *y = room(27 * sizeof *y);
    double q = 1, k[9], v[9 * 9], out[9];
    memset(v, 0, sizeof v);
    for (int j = 0; j < 9; j++) v[10 * j] = 1; /* unit vectors: the result is the weights */
    for (int i = 0; i < 3; i++) {
        double keys[9][9] = { { 0 } }, query[9] = { 1 };
        for (int j = 0; j < 9; j++) keys[j][0] = x[9 * i + j];
        const qw_attention_args a = { .y = cube(y + 9 * i, 1, 1, 9),
                                      .q = cube(query, 1, 1, 9),
                                      .k = cube(keys, 9, 1, 9),
                                      .v = cube(v, 9, 1, 9),
                                      .scale = 1 };
        ck_assert_int_eq(ref_attention(dev, &a), QWEN_OK);
    }
    close_to("softmax.y", y, want, 27, 1e-14);
    for (int j = 0; j < 9; j++) k[j] = j == 4 ? 5000 : -5000, v[j] = j;
    const qw_attention_args far = { .y = cube(out, 1, 1, 1),
                                    .q = cube(&q, 1, 1, 1),
                                    .k = cube(k, 9, 1, 1),
                                    .v = cube(v, 9, 1, 1),
                                    .scale = 1 };
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
    int64_t ho, wo, kernel;
    int stride, pad;
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
    const qw_conv2d_args a = { .y = cube(y, c->ho, c->wo, 4),
                               .x = cube(x, 7, 6, 3),
                               .w = qw_dense4(w, QW_F64, 4, c->kernel, c->kernel, 3),
                               .bias = vec(bias, 4),
                               .stride = c->stride,
                               .top = c->pad,
                               .left = c->pad,
                               .up = 1 };
    ck_assert_int_eq(ref_conv2d(dev, &a), QWEN_OK);
    close_to(c->want, y, want, c->ho * c->wo * 4, 1e-13);
    free(x);
    free(bias);
    free(w);
    free(want);
    free(y);
}
END_TEST

/* With two frames of zeros before the only frame, a causal kernel equals its last temporal tap. */
START_TEST(causal_convolution)
{
    double *x = channels_last(doubles("conv.x"), 1, 3, 42), *w5 = doubles("causal_conv3d.weight");
    double *last = room(4 * 3 * 9 * sizeof *last), *want;
    want = channels_last(doubles("causal_conv3d.y"), 1, 4, 42);
    for (int oc = 0; oc < 12; oc++) memcpy(last + 9 * oc, w5 + 27 * oc + 18, 9 * sizeof *last);
    double *w = channels_last(last, 4, 3, 9), *bias = doubles("conv.bias"), y[42 * 4];
    const qw_conv2d_args a = { .y = cube(y, 7, 6, 4),
                               .x = cube(x, 7, 6, 3),
                               .w = qw_dense4(w, QW_F64, 4, 3, 3, 3),
                               .bias = vec(bias, 4),
                               .stride = 1,
                               .top = 1,
                               .left = 1,
                               .up = 1 };
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
    const qw_conv2d_args copying = { .y = cube(y, 14, 12, 3),
                                     .x = cube(x, 7, 6, 3),
                                     .w = qw_dense4(one, QW_F64, 3, 1, 1, 3),
                                     .stride = 1,
                                     .up = 2 };
    ck_assert_int_eq(ref_conv2d(dev, &copying), QWEN_OK);
    ck_assert_mem_eq(y, big, sizeof y);
    double w[81];
    for (int i = 0; i < 81; i++) w[i] = sin(i);
    qw_conv2d_args a = { .y = cube(y, 14, 12, 3),
                         .x = cube(x, 7, 6, 3),
                         .w = qw_dense4(w, QW_F64, 3, 3, 3, 3),
                         .stride = 1,
                         .top = 1,
                         .left = 1,
                         .up = 2 };
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
    qw_rms_norm_args a = { .y = mat(x, 4, 24), .x = mat(x, 4, 24), .w = vec(w, 24), .eps = 1e-6 };
    ck_assert_int_eq(ref_rms_norm(dev, &a), QWEN_OK); /* in place */
    close_to("rms_norm.y", x, want, 96, 1e-14);
    free(x);
    free(w);
    free(want);
    /* The VAE's norm over channels: x / max(|x|, 1e-12) sqrt(c) gamma; one pixel is zero. */
    x = channels_last(doubles("rms_norm_channel.x"), 1, 4, 6);
    want = channels_last(doubles("rms_norm_channel.y"), 1, 4, 6);
    w = doubles("rms_norm_channel.gamma");
    a = (qw_rms_norm_args){
        .y = mat(x, 6, 4), .x = mat(x, 6, 4), .w = vec(w, 4), .eps = 1e-24 / 4
    };
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
    const qw_ln_mod_args a = { .y = mat(y, 6, 20),
                               .x = mat(x, 6, 20),
                               .eps = 1e-6,
                               .scale = vec(scale, 20),
                               .shift = vec(shift, 20) };
    ck_assert_int_eq(ref_ln_mod(dev, &a), QWEN_OK);
    close_to("adaln.modulated", y, want, 120, 1e-13);
    for (int i = 0; i < 20; i++) one[21 * i] = 1;
    const qw_tensor stream = mat(x, 6, 20);
    const qw_gemm_args g = { .y = stream,
                             .res = stream,
                             .x = mat(branch, 6, 20),
                             .w = mat(one, 20, 20),
                             .gate = vec(gate, 20) };
    ck_assert_int_eq(ref_gemm(dev, &g), QWEN_OK);
    close_to("adaln.residual", x, sum, 120, 1e-14);
    double *all[] = { x, scale, shift, gate, branch, want, sum };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
}
END_TEST

START_TEST(rotary)
{
    static const struct {
        const char *x, *angle, *y;
        qw_pairing pairing;
    } kind[] = {
        { "rope_pairs.x", "rope_pairs.angle", "rope_pairs.y", QW_PAIRS },
        { "rope_halves.x", "rope_halves.angle", "rope_halves.y", QW_HALVES },
    };
    double *x = doubles(kind[_i].x), *angle = doubles(kind[_i].angle), *want = doubles(kind[_i].y);
    double c[40], s[40];
    for (int i = 0; i < 40; i++) c[i] = cos(angle[i]), s[i] = sin(angle[i]);
    for (int b = 0; b < 2; b++) {
        const qw_norm_rope_args a = { .x = cube(x + 240 * b, 5, 3, 16),
                                      .cos = mat(c, 5, 8),
                                      .sin = mat(s, 5, 8),
                                      .pairing = kind[_i].pairing };
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
    qw_norm_rope_args a = { .x = cube(x, 2, 3, 8),
                            .w = vec(w, 8),
                            .eps = 1e-6,
                            .cos = mat(c, 2, 4),
                            .sin = mat(s, 2, 4),
                            .pairing = QW_PAIRS };
    ck_assert_int_eq(ref_norm_rope(dev, &a), QWEN_OK);
    const qw_rms_norm_args n = {
        .y = mat(y, 6, 8), .x = mat(y, 6, 8), .w = vec(w, 8), .eps = 1e-6
    };
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

int main(void)
{
    Suite *s = suite_create("ops");
    TCase *c = tcase_create("by hand");
    tcase_add_checked_fixture(c, open_device, close_device);
    tcase_add_loop_test(c, rotation_is_hadamard, 0, 4);
    tcase_add_test(c, convrot_example);
    tcase_add_test(c, quantised_rows);
    tcase_add_test(c, ops_write_codes);
    tcase_add_test(c, int8_weights);
    tcase_add_test(c, single_rounding);
    tcase_add_test(c, gemm_epilogue);
    tcase_add_test(c, rotary_with_norm);
    tcase_add_test(c, swiglus);
    suite_add_tcase(s, c);
    c = tcase_create("golden");
    tcase_add_checked_fixture(c, open_golden, close_golden);
    tcase_add_test(c, gemm_is_linear);
    tcase_add_loop_test(c, activations, 0, 3);
    tcase_add_test(c, attention);
    tcase_add_test(c, softmax);
    tcase_add_loop_test(c, convolutions, 0, 3);
    tcase_add_test(c, causal_convolution);
    tcase_add_test(c, enlargement);
    tcase_add_test(c, rms_norms);
    tcase_add_test(c, modulation);
    tcase_add_loop_test(c, rotary, 0, 2);
    suite_add_tcase(s, c);
    return run_suite(s);
}
