/* check_quantised.c - quantised layers of ComfyUI: worked examples, scales, and layers that are
 * refused. */
#include "files/json.h"
#include "files/files.h"
#include "weights/weights.h"
#include "files/store.h"
#include "files.h"
#include "testing.h"
#include <math.h>
#include <string.h>

typedef unsigned char byte;

/* A store whose entries lie in memory of the test. */
static qw_store *synthetic(void)
{
    qw_error err = { 0 };
    qw_store *s;
    ck_assert_int_eq(qw_store_new(&s, &err), QWEN_OK);
    s->file = calloc(1, sizeof *s->file);
    ck_assert_ptr_nonnull(s->file);
    s->files = 1;
    s->file[0].path = strdup("made.safetensors");
    s->file[0].metadata = json_object();
    return s;
}

/* columns 0: a vector; rows 0 too: a scalar. */
static void add(qw_store *s, const char *name, qw_dtype t, int64_t rows, int64_t columns,
                const void *data)
{
    qw_error err = { 0 };
    const int64_t n = (rows ? rows : 1) * (columns ? columns : 1);
    qw_entry e = { .dtype = t, .rank = columns ? 2 : rows ? 1 : 0, .dim = { rows, columns } };
    e.data = data;
    e.bytes = qw_row_bytes(t, n);
    ck_assert_int_eq(qw_store_put(s, name, e, &err), QWEN_OK);
    ck_assert_int_eq(qw_store_index(s, &err), QWEN_OK);
}

static void mark(qw_store *s, const char *json)
{
    add(s, "l.comfy_quant", QW_U8, (int64_t)strlen(json), 0, json);
}

static int lay(qw_store *s, int64_t n, int64_t k, qw_tensor *w, char *text)
{
    qw_error err = { 0 };
    const int status = qw_layout(s, qw_store_find(s, "l.weight"), "l", n, k, w, &err);
    if (text) strcpy(text, err.text);
    else ck_assert_msg(!status, "%s", err.text);
    return status;
}

static void expect_row(qw_store *s, int64_t k, const double *expected, double bound)
{
    qw_tensor w;
    double row[64];
    lay(s, 1, k, &w, NULL);
    qw_weight_row(&w, 0, row);
    for (int64_t j = 0; j < k; j++)
        ck_assert_msg(fabs(row[j] - expected[j]) <= bound, "%lld: %.9g, expected %.9g",
                      (long long)j, row[j], expected[j]);
    qw_store_free(s);
}

/* --- the worked examples --------------------------------------------------------------------- */

static const int8_t rotated_codes[16] = { 81,  58,  104, -127, 58,   81,   127, -104,
                                          104, 127, 81,  -58,  -127, -104, -58, 81 };
static const float rotated_scale[1] = { 2.75f / 127 };

START_TEST(example_int8_convrot)
{
    static const double x[16] = { -7, -6, -5, 40, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8 };
    qw_store *s = synthetic();
    qw_tensor w;
    double row[16], y = 0;
    add(s, "l.weight", QW_I8, 1, 16, rotated_codes);
    add(s, "l.weight_scale", QW_F32, 1, 1, rotated_scale);
    mark(s, "{\"format\": \"int8_tensorwise\", "
            "\"params\": {\"convrot\": true, \"convrot_groupsize\": 16}}");
    lay(s, 1, 16, &w, NULL);
    ck_assert_int_eq(w.dtype, QW_I8);
    ck_assert_int_eq(w.rotated, 16);
    ck_assert_ptr_eq(w.data, rotated_codes);
    qw_weight_row(&w, 0, row);
    for (int j = 0; j < 16; j++) y += x[j] * row[j];
    ck_assert_msg(fabs(y + 44.12991) < 2e-5, "%.9g", y);
    qw_store_free(s);
}
END_TEST

START_TEST(example_nvfp4)
{
    static const byte codes[8] = { 0x75, 0xb1, 0x04, 0xe2, 0x01, 0x6f, 0x28, 0x24 };
    static const float second[1] = { 6.0f / 2688 };
    static const float factor[16] = { 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3 };
    double expected[16] = { 6, 3, -1.5, 0.5, 0, 2, -4, 1, 0, 0.5, 4, -6, 1, 0, 1, 2 };
    byte scales[128 * 4] = { 0x7e };
    for (int i = 0; i < 2; i++) {
        qw_store *s = synthetic();
        add(s, "l.weight", QW_U8, 1, 8, codes);
        add(s, "l.weight_scale", i ? QW_U8 : QW_F8E4M3, 128, 4, scales);
        add(s, "l.weight_scale_2", QW_F32, 0, 0, second);
        mark(s, "{\"format\": \"nvfp4\"}");
        if (i) { /* a factor for each input */
            add(s, "l.pre_quant_scale", QW_F32, 16, 0, factor);
            expected[0] *= 2;
            expected[15] *= 3;
        }
        expect_row(s, 16, expected, 1e-6);
    }
}
END_TEST

START_TEST(example_mxfp8)
{
    static const byte codes[32] = { 0x34, 0x8d, 0x78, 0x01 };
    static const double expected[32] = { 3, -0.1015625, 1024, 0.0078125 };
    byte scales[128 * 4] = { 129 };
    qw_store *s = synthetic();
    add(s, "l.weight", QW_F8E4M3, 1, 32, codes);
    add(s, "l.weight_scale", QW_F8E8M0, 128, 4, scales);
    mark(s, "{\"format\": \"mxfp8\"}");
    expect_row(s, 32, expected, 0);
}
END_TEST

static const float codebook[16] = {
    -0.980602f, -0.794529f, -0.638165f, -0.500986f, -0.377321f, -0.263187f, -0.155210f, -0.050720f,
    0.052541f,  0.156985f,  0.265284f,  0.379533f,  0.502636f,  0.638953f,  0.794876f,  0.980671f,
};

/* The codes are in the rotated basis: the operand has `rotated` set, the integers are the
 * example's. */
START_TEST(example_w4a8)
{
    static const byte codes[8] = { 0x03, 0xf0, 0, 0, 0, 0, 0, 0 };
    static const float relative[1] = { 128 }, channel[1] = { 0.013900869f };
    qw_store *s = synthetic();
    qw_tensor w;
    add(s, "l.weight", QW_I8, 1, 8, codes);
    add(s, "l.weight_s_rel", QW_F32, 1, 1, relative);
    add(s, "l.weight_s_channel", QW_F32, 1, 0, channel);
    add(s, "l.weight_codebook", QW_F32, 16, 0, codebook);
    mark(s, "{\"format\": \"asym_w4a8_int8\", \"convrot_groupsize\": 16}");
    lay(s, 1, 16, &w, NULL);
    ck_assert_int_eq(w.dtype, QW_I8);
    ck_assert_int_eq(w.rotated, 16);
    const int8_t *q = w.data;
    ck_assert_int_eq(q[0], -64); /* -0.500986 * 128 = -64.13 */
    ck_assert_int_eq(q[1], -126);
    ck_assert_int_eq(q[3], 126);
    ck_assert(fabs((double)q[0] * (double)w.scale[0] + 0.889656) < 1e-6);
    qw_store_free(s);
}
END_TEST

START_TEST(example_awq)
{
    static const byte codes[2] = { 0x8b, 0xf0 };
    static const float scale[1] = { 0.25f }, zero[1] = { 0.1f };
    static const double expected[4] = { 0.85, 0.1, -1.9, 1.85 };
    qw_store *s = synthetic();
    add(s, "l.weight", QW_I8, 1, 2, codes);
    add(s, "l.weight_scale", QW_F32, 1, 1, scale);
    add(s, "l.weight_zero", QW_F32, 1, 1, zero);
    mark(s, "{\"format\": \"awq_w4a16\", \"group_size\": 4}");
    expect_row(s, 4, expected, 1e-6);
}
END_TEST

/* --- what fp8 may have beside it, and what is refused ---------------------------------------- */

START_TEST(fp8_scales)
{
    static const byte codes[4] = { 0x38, 0x3c, 0xb8, 0x7e }; /* 1, 1.5, -1, 448 */
    static const uint16_t rows[2] = { 0x4000, 0x3f00 };      /* bf16: 2, 0.5 */
    double row[2];
    qw_tensor w;
    for (int i = 0; i < 4; i++) {
        qw_store *s = synthetic();
        const int each = i >= 2;
        add(s, "l.weight", QW_F8E4M3, 2, 2, codes);
        add(s, i ? "l.weight_scale" : "l.scale_weight", QW_BF16, each ? 2 : i, i == 3, rows);
        lay(s, 2, 2, &w, NULL);
        ck_assert_int_eq(w.scale_stride, each);
        qw_weight_row(&w, 1, row);
        ck_assert(row[0] == (each ? -0.5 : -2) && row[1] == (each ? 224 : 896));
        qw_store_free(s);
    }
}
END_TEST

/* A scale in a file that is NaN or infinite is refused. */
START_TEST(scale_not_finite)
{
    static const float nan_scale[1] = { NAN };
    char text[1000];
    qw_tensor w;
    qw_store *s = synthetic();
    add(s, "l.weight", QW_I8, 1, 16, rotated_codes);
    add(s, "l.weight_scale", QW_F32, 1, 1, nan_scale);
    ck_assert_int_eq(lay(s, 1, 16, &w, text), QWEN_EFORMAT);
    ck_assert_ptr_nonnull(strstr(text, "finite"));
    qw_store_free(s);
}
END_TEST

#define FORMAT(name) "{\"format\": \"" name "\""
#define CONVROT      ", \"convrot\": true"
#define GROUP(size)  ", \"convrot_groupsize\": " size

typedef struct refusal {
    const char *marker, *word;
    qw_dtype type;
    int64_t k;
    int status;
} refusal;

START_TEST(refused)
{
    static const refusal cases[] = {
        { FORMAT("int3x") "}", "int3x", QW_I8, 16, QWEN_EUNSUPPORTED },
        { FORMAT("plain") "}", "plain", QW_I8, 16, QWEN_EUNSUPPORTED },
        { FORMAT("svdquant_w4a4") "}", "svdquant", QW_I8, 8, QWEN_EUNSUPPORTED },
        { "{\"format\": ", "comfy_quant", QW_I8, 16, QWEN_EFORMAT },
        { "[1]", "comfy_quant", QW_I8, 16, QWEN_EFORMAT },
        { "{}", "comfy_quant", QW_I8, 16, QWEN_EFORMAT },
        { FORMAT("float8_e5m2") "}", "float8_e5m2", QW_F8E4M3, 16, QWEN_EFORMAT },
        { FORMAT("float8_e4m3fn") "}", "weight_scale", QW_F8E4M3, 16, QWEN_EMODEL },
        { FORMAT("nvfp4") "}", "nvfp4", QW_F8E4M3, 16, QWEN_EMODEL },
        { FORMAT("mxfp8") "}", "mxfp8", QW_F8E4M3, 16, QWEN_EMODEL },
        { FORMAT("int8_tensorwise") CONVROT "}", "256", QW_I8, 16, QWEN_EFORMAT },
        { FORMAT("int8_tensorwise") CONVROT GROUP("8") "}", "power of 4", QW_I8, 16, QWEN_EFORMAT },
        { FORMAT("int8_tensorwise") CONVROT GROUP("0") "}", "groupsize", QW_I8, 16, QWEN_EFORMAT },
        { FORMAT("int8_tensorwise") "}", "[1, 8]", QW_I8, 8, QWEN_EMODEL },
        { FORMAT("asym_w4a8_int8") "}", "weight_s_rel", QW_I8, 8, QWEN_EMODEL },
        { FORMAT("awq_w4a16") "}", "weight_zeros", QW_I8, 8, QWEN_EMODEL },
    };
    static const byte zeros[16];
    char text[1000];
    qw_tensor w;
    const refusal *c = &cases[_i];
    qw_store *s = synthetic();
    add(s, "l.weight", c->type, 1, c->k, zeros);
    if (c->type == QW_I8) add(s, "l.weight_scale", QW_F32, 1, 1, rotated_scale);
    mark(s, c->marker);
    ck_assert_msg(lay(s, 1, 16, &w, text) == c->status, "%s: %s", c->marker, text);
    ck_assert_msg(strstr(text, c->word) != NULL, "%s: %s", c->marker, text);
    ck_assert_msg(strstr(text, "\"l") != NULL, "%s: %s", c->marker, text);
    qw_store_free(s);
}
END_TEST

/* --- halves ---------------------------------------------------------------------------------- */

/* [2 outputs][3 colours][2][2] */
static void add_half(qw_store *s, const char *name, qw_dtype t, int64_t outputs, const void *data)
{
    qw_error err = { 0 };
    qw_entry e = { .dtype = t, .rank = 4, .dim = { outputs, 3, 2, 2 }, .data = data };
    e.bytes = qw_row_bytes(t, 12 * outputs);
    ck_assert_int_eq(qw_store_put(s, name, e, &err), QWEN_OK);
    ck_assert_int_eq(qw_store_index(s, &err), QWEN_OK);
}

/* The temporal halves of a patch embedding lie side by side for each output and colour. */
START_TEST(halves)
{
    float first[24];
    uint16_t second[24];
    for (int i = 0; i < 24; i++) {
        first[i] = (float)i;
        second[i] = qw_f32_to_f16((float)(100 + i));
    }
    qw_store *s = synthetic();
    qw_tensor w;
    double row[24];
    add_half(s, "l.weight", QW_F32, 2, first);
    add_half(s, "l.weight.1", QW_F16, 2, second);
    lay(s, 2, 24, &w, NULL);
    ck_assert(w.dtype == QW_F32 && w.dim[0] == 2 && w.dim[1] == 24);
    for (int64_t o = 0; o < 2; o++) {
        qw_row_get(&w, o, 0, 0, row);
        for (int j = 0; j < 24; j++)
            ck_assert_double_eq(row[j],
                                (double)(12 * o + j / 8 * 4 + j % 4) + (j / 4 % 2 ? 100 : 0));
    }
    ck_assert(qw_store_find(s, "l.weight.1")->used);
    qw_store_free(s);
}
END_TEST

START_TEST(halves_refused)
{
    static const float numbers[36] = { 0 };
    static const struct {
        qw_dtype type;
        int64_t outputs, k;
        const char *says;
    } bad[] = {
        { QW_F32, 3, 24, "half of the patch embedding" },
        { QW_F32, 2, 26, "half of the patch embedding" },
        { QW_F32, 2, 12, "half of the patch embedding" },
        { QW_U8, 2, 24, "u8" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[1000];
        qw_tensor w;
        qw_store *s = synthetic();
        add_half(s, "l.weight", QW_F32, 2, numbers);
        add_half(s, "l.weight.1", bad[i].type, bad[i].outputs, numbers);
        ck_assert_int_ne(lay(s, 2, bad[i].k, &w, text), QWEN_OK);
        ck_assert_msg(strstr(text, bad[i].says) != NULL, "%s", text);
        qw_store_free(s);
    }
}
END_TEST

/* The table in the header: under the key in the file, then the canonical name. */
START_TEST(header_table)
{
    static const char *const tables[] = {
        "{\"layers\": {\"l\": " FORMAT("int8_tensorwise") CONVROT GROUP("16") "}}}",
        "{\"layers\": {\"p.l\": " FORMAT("int8_tensorwise")
            CONVROT GROUP("16") "},"
                                " \"l\": " FORMAT("int3x") "}}}",
    };
    for (int i = 0; i < 2; i++) {
        qw_error err = { 0 };
        qw_tensor w;
        qw_store *s = synthetic();
        add(s, "p.l.weight", QW_I8, 1, 16, rotated_codes);
        ck_assert_int_eq(qw_store_rename(s, &s->entry[0], "l.weight", &err), QWEN_OK);
        add(s, "l.weight_scale", QW_F32, 1, 1, rotated_scale);
        json_object_set_new(s->file[0].metadata, "_quantization_metadata", json_string(tables[i]));
        ck_assert_msg(qw_layouts_check(s, &err) == QWEN_OK, "%s", err.text);
        for (int again = 0; again < 2; again++) {
            lay(s, 1, 16, &w, NULL);
            ck_assert_int_eq(w.rotated, 16);
        }
        qw_store_free(s);
    }
}
END_TEST

/* The broken files of the golden data, layer by layer. */
START_TEST(bad_quant)
{
    static const struct {
        const char *name;
        int status;
        const char *word;
    } cases[] = {
        { "quant_broken_json", QWEN_EFORMAT, "comfy_quant" },
        { "quant_nvfp4_malformed", QWEN_EMODEL, "nvfp4" },
        { "quant_unsupported", QWEN_EUNSUPPORTED, "int3x" },
    };
    static const char module[] = "transformer_blocks.0.img_mod.1";
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char rel[200], key[200];
        qw_error err = { 0 };
        qw_tensor w;
        snprintf(rel, sizeof rel, "formats/bad/%s.safetensors", cases[i].name);
        snprintf(key, sizeof key, "%s.weight", module);
        qw_store *s = open_store(testdata(rel));
        const qw_entry *e = qw_store_find(s, key);
        ck_assert_ptr_nonnull(e);
        qw_layout(s, e, module, e->dim[0], e->dim[1], &w, &err);
        ck_assert_msg(err.status == cases[i].status, "%s: %s", rel, err.text);
        ck_assert_msg(strstr(err.text, cases[i].word) != NULL, "%s: %s", rel, err.text);
        ck_assert_msg(strstr(err.text, module) != NULL, "%s: %s", rel, err.text);
        qw_store_free(s);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("quant");
    TCase *c = tcase_create("quant");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, example_int8_convrot);
    tcase_add_test(c, example_nvfp4);
    tcase_add_test(c, example_mxfp8);
    tcase_add_test(c, example_w4a8);
    tcase_add_test(c, example_awq);
    tcase_add_test(c, fp8_scales);
    tcase_add_loop_test(c, refused, 0, 16);
    tcase_add_test(c, scale_not_finite);
    tcase_add_test(c, halves);
    tcase_add_test(c, halves_refused);
    tcase_add_test(c, header_table);
    tcase_add_test(c, bad_quant);
    suite_add_tcase(s, c);
    return run_suite(s);
}
