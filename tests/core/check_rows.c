/* check_rows.c - every code of the small types, rounding once, scales, quantised rows, the
 * rotation. */
#include <qwen/tensor.h>
#include "testing.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- all codes -------------------------------------------------------------------------------- */

static const qw_dtype small[] = { QW_F16, QW_BF16, QW_F8E4M3, QW_F8E5M2 };
enum { SMALL = sizeof small / sizeof small[0] };

static double value(qw_dtype t, unsigned code)
{
    const uint16_t two = (uint16_t)code;
    const uint8_t one = (uint8_t)code;
    double x;
    qw_numbers_get(t, qw_block_bytes(t) == 2 ? (const void *)&two : (const void *)&one, 1, &x);
    return x;
}

static unsigned code_of(qw_dtype t, double x)
{
    uint16_t two = 0;
    uint8_t one = 0;
    qw_numbers_put(t, &x, 1, qw_block_bytes(t) == 2 ? (void *)&two : (void *)&one);
    return qw_block_bytes(t) == 2 ? two : one;
}

/* Every code comes back as itself; a NaN as a NaN. */
START_TEST(codes_return)
{
    const qw_dtype t = small[_i];
    const unsigned all = qw_block_bytes(t) == 2 ? 65536 : 256;
    unsigned numbers = 0;
    for (unsigned c = 0; c < all; c++) {
        const double x = value(t, c);
        if (x != x) {
            const double y = value(t, code_of(t, x));
            ck_assert(y != y);
            continue;
        }
        numbers++;
        ck_assert_msg(code_of(t, x) == c, "%s: code %#x is %g and comes back as %#x",
                      qw_dtype_name(t), c, x, code_of(t, x));
    }
    ck_assert_uint_ge(numbers, all - all / 16);
}
END_TEST

/* The code after c in the order of values, for positive finite c whose next is finite. */
static int next_code(qw_dtype t, unsigned c, unsigned *next)
{
    const unsigned sign = qw_block_bytes(t) == 2 ? 0x8000 : 0x80;
    if (c >= sign - 1) return 0;
    *next = c + 1;
    const double a = value(t, c), b = value(t, *next);
    return isfinite(a) && isfinite(b) && b > a;
}

/* Between two neighbours: the middle rounds to the even one, and a double beside the middle, too
 * close to it for a float, to the nearer. */
START_TEST(neighbours)
{
    const qw_dtype t = small[_i];
    const unsigned sign = qw_block_bytes(t) == 2 ? 0x8000 : 0x80;
    unsigned pairs = 0, d;
    for (unsigned c = 0; c < sign; c++) {
        if (!next_code(t, c, &d)) continue;
        pairs++;
        const double a = value(t, c), b = value(t, d), middle = (a + b) / 2;
        const unsigned even = c % 2 ? d : c;
        for (int s = 1; s >= -1; s -= 2) {
            const unsigned minus = s < 0 ? sign : 0;
            ck_assert_uint_eq(code_of(t, s * middle), even | minus);
            ck_assert_uint_eq(code_of(t, s * nextafter(middle, 0)), c | minus);
            ck_assert_uint_eq(code_of(t, s * nextafter(middle, INFINITY)), d | minus);
            ck_assert_uint_eq(code_of(t, s * (a + 0.25 * (b - a))), c | minus);
            ck_assert_uint_eq(code_of(t, s * (a + 0.75 * (b - a))), d | minus);
        }
    }
    ck_assert_uint_gt(pairs, sign - sign / 8);
}
END_TEST

/* Beyond the largest number: infinity, or in e4m3, which has none, the largest. */
START_TEST(overflow)
{
    static const double largest[SMALL] = { 65504, 0x1.fep127, 448, 57344 };
    static const double half[SMALL] = { 65520, 0x1.ffp127, 464, 61440 };
    const qw_dtype t = small[_i];
    const double x = half[_i], under = nextafter(x, 0);
    ck_assert_double_eq(value(t, code_of(t, under)), largest[_i]);
    const double over = value(t, code_of(t, x));
    if (t != QW_F8E4M3) ck_assert(isinf(over));
    else ck_assert_double_eq(over, largest[_i]);
    ck_assert_double_eq(value(t, code_of(t, -1e300)), t == QW_F8E4M3 ? -448 : -INFINITY);
}
END_TEST

static float to_f32(double x)
{
    float f;
    qw_numbers_put(QW_F32, &x, 1, &f);
    return f;
}

/* The same of f32, for a code in 65,537, subnormal and normal, up to infinity. */
START_TEST(floats)
{
    for (uint32_t c = 0; c < 0x7f7fffff; c += 65537) {
        float a, b;
        memcpy(&a, &c, sizeof a);
        memcpy(&b, &(uint32_t){ c + 1 }, sizeof b);
        const double middle = ((double)a + (double)b) / 2;
        for (int s = 1; s >= -1; s -= 2) {
            ck_assert(to_f32(s * (double)a) == (float)s * a);
            ck_assert(to_f32(s * middle) == (float)s * (c % 2 ? b : a));
            ck_assert(to_f32(s * nextafter(middle, 0)) == (float)s * a);
            ck_assert(to_f32(s * nextafter(middle, INFINITY)) == (float)s * b);
        }
    }
    ck_assert(to_f32(nextafter(0x1.ffffffp127, 0)) == 0x1.fffffep127f);
    ck_assert(isinf(to_f32(0x1.ffffffp127)) && isinf(to_f32(-1e300)) && isnan(to_f32(NAN)));
}
END_TEST

/* A number below half of the smallest one becomes a zero of its sign. */
START_TEST(underflow)
{
    const qw_dtype t = small[_i];
    const unsigned sign = qw_block_bytes(t) == 2 ? 0x8000 : 0x80;
    static const double tiny[] = { 0, 0x1p-1074, 1e-300, 0x1p-150, 0x1p-149 };
    for (size_t i = 0; i < sizeof tiny / sizeof tiny[0]; i++) {
        ck_assert_uint_eq(code_of(t, tiny[i]), 0);
        ck_assert_uint_eq(code_of(t, -tiny[i]), sign);
    }
}
END_TEST

/* Integers keep all their bits. */
START_TEST(whole_numbers)
{
    const int32_t a[3] = { INT32_MIN, 16777217, INT32_MAX };
    const int64_t b[2] = { -9007199254740991, 3 };
    const uint32_t c[2] = { UINT32_MAX, 0 };
    double x[3];
    qw_numbers_get(QW_I32, a, 3, x);
    ck_assert(x[0] == INT32_MIN && x[1] == 16777217 && x[2] == INT32_MAX);
    qw_numbers_get(QW_I64, b, 2, x);
    ck_assert(x[0] == -9007199254740991 && x[1] == 3);
    qw_numbers_get(QW_U32, c, 2, x);
    ck_assert(x[0] == 4294967295.0 && x[1] == 0);
    for (int i = -128; i < 128; i++) {
        const int8_t one = (int8_t)i;
        const uint8_t power = (uint8_t)(i + 128);
        qw_numbers_get(QW_I8, &one, 1, x);
        ck_assert_double_eq(x[0], i);
        qw_numbers_get(QW_F8E8M0, &power, 1, x);
        if (power < 255) ck_assert_double_eq(x[0], ldexp(1, power - 127));
        else ck_assert(x[0] != x[0]);
    }
    int32_t back;
    qw_numbers_put(QW_I32, &(double){ -2.5 }, 1, &back);
    ck_assert_int_eq(back, -2);
    qw_numbers_put(QW_I32, &(double){ 1e20 }, 1, &back);
    ck_assert_int_eq(back, INT32_MAX);
}
END_TEST

/* Types that qw_numbers_put does not write leave memory unchanged. */
START_TEST(stored_types)
{
    int stored = 0;
    for (int t = QW_NONE; t < QW_NDTYPES; t++) {
        unsigned char at[8] = { 1, 2, 3, 4, 5, 6, 7, 8 }, before[8];
        memcpy(before, at, sizeof at);
        qw_numbers_put((qw_dtype)t, &(double){ 0 }, 1, at);
        const size_t size = qw_stores_numbers((qw_dtype)t) ? qw_block_bytes((qw_dtype)t) : 0;
        for (size_t i = 0; i < size; i++) ck_assert_int_eq(at[i], 0);
        ck_assert_mem_eq(at + size, before + size, sizeof at - size);
        stored += size > 0;
    }
    ck_assert_int_eq(stored, 7);
}
END_TEST

/* --- rows ------------------------------------------------------------------------------------- */

/* Rows of every type that is stored, at an odd address and apart from each other: qw_row_get
 * returns the values of qw_row_put, and the bytes between rows stay. */
START_TEST(rows_return)
{
    static const qw_dtype type[] = {
        QW_F64, QW_F32, QW_F16, QW_BF16, QW_F8E4M3, QW_F8E5M2, QW_I32
    };
    enum { ROWS = 2, COLUMNS = 5, APART = 8 };
    for (size_t k = 0; k < sizeof type / sizeof type[0]; k++) {
        unsigned char bytes[1 + ROWS * ROWS * APART * 8];
        memset(bytes, 0x5a, sizeof bytes);
        qw_tensor t = qw_dense3(bytes + 1, type[k], ROWS, ROWS, COLUMNS);
        t.stride[1] = APART;
        t.stride[0] = ROWS * APART;
        const double x[COLUMNS] = { 1, -2, 3, 0, 8 };
        double y[COLUMNS];
        qw_row_put(&t, 1, 0, 0, x);
        qw_row_get(&t, 1, 0, 0, y);
        ck_assert_mem_eq(x, y, sizeof x);
        const size_t from = 1 + qw_row_bytes(type[k], t.stride[0]),
                     n = qw_row_bytes(type[k], COLUMNS);
        for (size_t i = 0; i < sizeof bytes; i++)
            ck_assert(bytes[i] == 0x5a || (i >= from && i < from + n));
    }
}
END_TEST

/* Rows of blocks, at an odd address and apart from each other, equal the blocks decoded by
 * decode.c. */
START_TEST(block_rows)
{
    const qw_dtype t = (qw_dtype)_i;
    if (t == QW_MXFP8 || t == QW_NVFP4) return; /* their scales are elsewhere: check_tensor.c */
    enum { N = 512, ROWS = 2 };
    const size_t bytes = qw_row_bytes(t, 2 * N);
    unsigned char *raw = malloc(ROWS * bytes + 1);
    ck_assert_ptr_nonnull(raw);
    for (size_t i = 0; i < ROWS * bytes; i++) raw[i + 1] = (unsigned char)(i * 37 % 0x30);
    qw_tensor w = qw_dense2(raw + 1, t, ROWS, N);
    w.stride[0] = 2 * N;
    double x[N], most = 0;
    float want[N];
    qw_row_get(&w, 1, 0, 0, x);
    qw_decode_f32(t, raw + 1 + bytes, N, want);
    for (int e = 0; e < N; e++) {
        ck_assert_double_eq(x[e], (double)want[e]);
        most = fmax(most, fabs(x[e]));
    }
    ck_assert_double_gt(most, 0);
    free(raw);
}
END_TEST

/* A kernel [co][kh][kw][ci]: the scale is that of the output. */
START_TEST(kernel_rows)
{
    uint8_t code[2][3][3][4];
    const float s[2] = { 2, -0.5f };
    for (int i = 0; i < 72; i++) (&code[0][0][0][0])[i] = (uint8_t)(0x30 + i % 16);
    qw_tensor w = qw_dense4(code, QW_F8E4M3, 2, 3, 3, 4);
    w.scale = s;
    w.scale_stride = 1;
    double x[4];
    qw_row_get(&w, 1, 2, 1, x);
    for (int e = 0; e < 4; e++)
        ck_assert_double_eq(x[e], -0.5 * (double)qw_f8e4m3_to_f32(code[1][2][1][e]));
}
END_TEST

/* Scales of the tensor and of rows, at any address; strides. */
START_TEST(scales)
{
    unsigned char bytes[1 + 2 * sizeof(float)];
    const float s[2] = { 0.5f, 3 };
    memcpy(bytes + 1, s, sizeof s);
    int8_t code[2][4] = { { 1, -2, 127, 99 }, { -128, 5, 6, 99 } };
    qw_tensor t = qw_dense2(code, QW_I8, 2, 3);
    t.stride[0] = 4;
    t.scale = (const float *)(const void *)(bytes + 1);
    double x[3];
    qw_row_get(&t, 1, 0, 0, x);
    ck_assert(x[0] == -64 && x[1] == 2.5 && x[2] == 3);
    t.scale_stride = 1;
    qw_row_get(&t, 1, 0, 0, x);
    ck_assert(x[0] == -384 && x[1] == 15 && x[2] == 18);
}
END_TEST

START_TEST(quantised)
{
    int8_t code[2][3];
    float scale[2];
    qw_tensor t = qw_dense2(code, QW_I8, 2, 3);
    t.scale = scale;
    t.scale_stride = 1;
    qw_row_put(&t, 0, 0, 0, (double[]){ 254, -1, 3 });
    ck_assert(scale[0] == 2 && code[0][0] == 127 && code[0][1] == 0 && code[0][2] == 2);
    qw_row_put(&t, 1, 0, 0, (double[]){ 0, 0, 0 });
    ck_assert(scale[1] == 1e-30f && !code[1][0] && !code[1][1] && !code[1][2]);
    qw_row_put(&t, 1, 0, 0, (double[]){ 1, NAN, 3 });
    ck_assert(!isfinite(scale[1]) && !code[1][0]);
}
END_TEST

/* qw_hadamard against the definition of H, and applied twice. */
START_TEST(rotation)
{
    enum { GROUP = 16, N = 32 };
    static const double h4[4][4] = {
        { 1, 1, 1, -1 }, { 1, 1, -1, 1 }, { 1, -1, 1, 1 }, { -1, 1, 1, 1 }
    };
    double x[N], y[N], z[N];
    for (int i = 0; i < N; i++) x[i] = y[i] = sin(i * i + 1.0);
    qw_hadamard(y, N, GROUP);
    for (int i = 0; i < N; i++) {
        double want = 0;
        for (int j = i / GROUP * GROUP; j < (i / GROUP + 1) * GROUP; j++)
            want += h4[i % 4][j % 4] * h4[i / 4 % 4][j / 4 % 4] * x[j] / 4;
        ck_assert_double_eq_tol(y[i], want, 1e-14);
    }
    memcpy(z, y, sizeof z);
    qw_hadamard(z, N, GROUP);
    for (int i = 0; i < N; i++) ck_assert_double_eq_tol(z[i], x[i], 1e-14);
    qw_hadamard(z, N, 0);
    float stored[N];
    qw_numbers_put(QW_F32, y, N, stored);
    qw_tensor w = qw_dense2(stored, QW_F32, 1, N);
    w.rotated = GROUP;
    qw_row_get(&w, 0, 0, 0, z);
    for (int i = 0; i < N; i++) ck_assert_double_eq(z[i], (double)stored[i]);
    qw_weight_row(&w, 0, z);
    for (int i = 0; i < N; i++) ck_assert_double_eq_tol(z[i], x[i], 1e-6);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rows");
    TCase *c = tcase_create("rows");
    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, codes_return, 0, SMALL);
    tcase_add_loop_test(c, neighbours, 0, SMALL);
    tcase_add_loop_test(c, overflow, 0, SMALL);
    tcase_add_loop_test(c, underflow, 0, SMALL);
    tcase_add_test(c, floats);
    tcase_add_test(c, whole_numbers);
    tcase_add_test(c, stored_types);
    tcase_add_test(c, rows_return);
    tcase_add_loop_test(c, block_rows, QW_Q8_0, QW_U8);
    tcase_add_test(c, kernel_rows);
    tcase_add_test(c, scales);
    tcase_add_test(c, quantised);
    tcase_add_test(c, rotation);
    suite_add_tcase(s, c);
    return run_suite(s);
}
