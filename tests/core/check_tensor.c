/* check_tensor.c - number formats against golden data and by hand, and views of tensors.
 *
 * Formats are exact, or off by the one f32 rounding that the golden data allow. */
#include "weights/weights.h"
#include <qwen/ref.h>
#include "reference/rows.h"
#include "testing.h"
#include "values.h"
#include <math.h>
#include <string.h>

static qw_store *store;

static void open_dtypes(void) { store = open_data("units/dtypes.safetensors"); }
static void open_blocks(void) { store = open_data("units/gguf_blocks.safetensors"); }
static void close_store(void) { qw_store_free(store); }

/* A copy of a tensor of the golden data, of the file's own type, aligned. */
static void *copy(const char *name, qw_dtype dtype)
{
    const qw_entry *e = entry(store, name);
    ck_assert_msg(e->dtype == dtype, "%s is %s", name, qw_dtype_name(e->dtype));
    void *p = room(e->bytes);
    memcpy(p, e->data, e->bytes);
    return p;
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
    static const struct {
        const char *name;
        float (*f)(uint8_t);
        qw_dtype t;
    } type[] = {
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
    const int64_t n = elements(entry(store, "codes16"));
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
    static const struct {
        const char *name;
        unsigned (*f)(float);
        qw_dtype t;
    } type[] = {
        { "f32_to_bf16", to_bf16, QW_BF16 },
        { "f32_to_f16", to_f16, QW_F16 },
        { "f32_to_f8_e4m3fn", to_e4m3, QW_F8E4M3 },
        { "f32_to_f8_e5m2", to_e5m2, QW_F8E5M2 },
    };
    const int64_t n = elements(entry(store, "f32"));
    float *x = copy("f32", QW_F32);
    int32_t *want = copy(type[_i].name, QW_I32);
    for (int64_t i = 0; i < n; i++) {
        const unsigned got = type[_i].f(x[i]);
        if (isnan(x[i])) { /* any NaN will do */
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
    block[1] = 0x34; /* d = 0.25 */
    block[2] = 0x9a;
    qw_decode_f32(QW_Q4_0, block, 32, y);
    ck_assert_double_eq((double)y[0], 0.5);
    ck_assert_double_eq((double)y[16], 0.25);
    memset(block, 0, sizeof block);
    block[1] = 0x3c; /* d = 1 */
    block[2] = 0x01;
    block[6] = 0x21;
    qw_decode_f32(QW_Q5_0, block, 32, y);
    ck_assert_double_eq((double)y[0], 1);
    ck_assert_double_eq((double)y[16], -14);
}
END_TEST

static const char *const block_type[] = {
    "BF16",  "F16",   "Q8_0",    "Q4_0",   "Q4_1",  "Q5_0",    "Q5_1",
    "Q2_K",  "Q3_K",  "Q4_K",    "Q5_K",   "Q6_K",  "IQ4_NL",  "IQ4_XS",
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S",
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
    const qw_entry *raw = entry(store, name);
    snprintf(name, sizeof name, "%s.f32", block_type[_i]);
    float *want = copy(name, QW_F32);
    const int64_t n = elements(entry(store, name)), block = qw_block_elements(t);
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
            ck_assert_msg(isnan(want[i])   ? isnan(got[i])
                          : isinf(want[i]) ? got[i] == want[i]
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
    unsigned char seen[512 * 4] = { 0 }; /* 256 rows of 5 blocks: padded to 8 */
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
    qw_row_get(&t, 0, 0, 0, x);
    for (int i = 0; i < 16; i++) ck_assert_double_eq_tol(x[i], want[i], 6e-7);
    ck_assert(signbit(x[13]));
}
END_TEST

START_TEST(mxfp8_example)
{
    unsigned char data[2][32] = { { 0 }, { 0x34, 0x8d, 0x78, 0x01 } }, scales[512];
    memset(scales, 0xff, sizeof scales); /* NaN: only the right byte helps */
    scales[16] = 129;                    /* row 1, block 0 */
    double x[32];
    qw_tensor t = qw_dense2(data, QW_MXFP8, 2, 32);
    t.block_scale = scales;
    qw_row_get(&t, 1, 0, 0, x);
    ck_assert_double_eq(x[0], 3);
    ck_assert_double_eq(x[1], -0.1015625);
    ck_assert_double_eq(x[2], 1024);
    ck_assert_double_eq(x[3], 0.0078125);
    for (int i = 4; i < 32; i++) ck_assert_double_eq(x[i], 0);
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

START_TEST(views_of_views)
{
    float data[24];
    for (int i = 0; i < 24; i++) data[i] = (float)i;
    const qw_tensor t = qw_dense2(data, QW_F32, 4, 6), r = qw_rows(t, 1, 2), c = qw_cols(r, 2, 4),
                    h = qw_heads(c, 2);
    ck_assert_int_eq(t.rank, 2);
    ck_assert_int_eq(r.dim[0], 2);
    ck_assert_float_eq(*(float *)qw_at(&r, 0, 0, 0, 0), 6);
    ck_assert_float_eq(*(float *)qw_at(&c, 1, 3, 0, 0), 17);
    ck_assert_int_eq(h.rank, 3);
    ck_assert_int_eq(h.dim[1], 2);
    ck_assert_float_eq(*(float *)qw_at(&h, 1, 1, 1, 0), 17);
    ck_assert_int_eq(qw_elements(&c), 8);
    ck_assert_uint_eq(qw_extent(&c), (6 + 4) * sizeof(float));
    const qw_tensor p = qw_picture(qw_dense2(data, QW_F32, 6, 4), 2, 3), f = qw_flat(p);
    ck_assert_int_eq(p.rank, 3);
    ck_assert_float_eq(*(float *)qw_at(&p, 1, 2, 3, 0), 23);
    ck_assert_int_eq(f.dim[0], 6);
    ck_assert(!qw_present(&(qw_tensor){ 0 }));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("tensor");
    TCase *c = tcase_create("dtypes");
    tcase_add_checked_fixture(c, open_dtypes, close_store);
    tcase_add_loop_test(c, small_floats_decode, 0, 3);
    tcase_add_test(c, halves_decode);
    tcase_add_loop_test(c, floats_narrow, 0, 4);
    suite_add_tcase(s, c);
    c = tcase_create("blocks");
    tcase_add_checked_fixture(c, open_blocks, close_store);
    tcase_add_loop_test(c, blocks_decode, 0, BLOCK_TYPES);
    suite_add_tcase(s, c);
    c = tcase_create("by hand");
    tcase_add_test(c, round_trips);
    tcase_add_test(c, block_examples);
    tcase_add_test(c, names);
    tcase_add_test(c, block_scale_places);
    tcase_add_test(c, nvfp4_example);
    tcase_add_test(c, mxfp8_example);
    tcase_add_test(c, views);
    tcase_add_test(c, views_of_views);
    suite_add_tcase(s, c);
    return run_suite(s);
}
