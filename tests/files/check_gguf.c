/* check_gguf.c - the GGUF container: files of this test, cut and damaged, split, and as other
 * writers make them. */
#include "files.h"
#include "testing.h"
#include "values.h"
#include <dirent.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

START_TEST(versions_and_alignment)
{
    const int64_t dim[2] = { 4, 3 };
    for (int version = 2; version <= 3; version++)
        for (uint32_t alignment = 8; alignment <= 256; alignment *= 2) {
            gguf g = { .version = version, .alignment = alignment };
            qw_error err = { 0 };
            qw_store *s = NULL;
            gguf_text(&g, "some.key", "some value");
            gguf_u32(&g, "some.number", 42);
            gguf_tensor(&g, "x", 0, dim, 2, 0, 48);
            gguf_tensor(&g, "y", 0, dim, 2, 256, 48);
            qw_store_new(&s, &err);
            ck_assert_msg(!qw_store_add(s, write_gguf("v.gguf", &g), &err), "%s", err.text);
            const qw_entry *y = qw_store_find(s, "y");
            ck_assert(y && y->rank == 2 && y->dim[0] == 3 && y->dim[1] == 4 && y->dtype == QW_F32
                      && y->bytes == 48);
            ck_assert_int_eq(*(const unsigned char *)y->data, 1); /* offset 256, counted from 1 */
            ck_assert_str_eq(qw_store_metadata(s, "some.key"), "some value");
            ck_assert_str_eq(qw_store_metadata(s, "some.number"), "42");
            ck_assert_ptr_null(qw_store_metadata(s, "no such key"));
            qw_store_free(s);
        }
}
END_TEST

/* Version 2, alignment 64, every type of value, a shape in the metadata. */
START_TEST(contents)
{
    const int64_t dim[2] = { 6, 2 };
    gguf g = { .version = 2, .alignment = 64 };
    gguf_number(&g, "a.i8", 1, (uint64_t)-3, 1);
    gguf_number(&g, "a.f32", 6, 0x3fc00000, 4);
    gguf_number(&g, "a.bool", 7, 1, 1);
    gguf_number(&g, "a.u64", 10, UINT64_MAX, 8);
    gguf_text(&g, "general.name", "a name");
    gguf_array(&g, "comfy.gguf.orig_shape.x", GGUF_I32, 3);
    for (int i = 0; i < 3; i++) append_number(&g.head, (const uint64_t[]){ 2, 3, 2 }[i], 4);
    gguf_tensor(&g, "x", 0, dim, 2, 64, 48);
    qw_store *s = open_store(write_gguf("a.gguf", &g));
    ck_assert_str_eq(qw_store_metadata(s, "a.i8"), "-3");
    ck_assert_str_eq(qw_store_metadata(s, "a.f32"), "1.5");
    ck_assert_str_eq(qw_store_metadata(s, "a.bool"), "true");
    ck_assert_str_eq(qw_store_metadata(s, "a.u64"), "18446744073709551615");
    ck_assert_str_eq(qw_store_metadata(s, "general.name"), "a name");
    const qw_entry *e = qw_store_find(s, "x");
    ck_assert_ptr_nonnull(e);
    ck_assert_int_eq(e->rank, 3);
    ck_assert_int_eq(e->dim[0], 2);
    ck_assert_int_eq(e->dim[1], 3);
    ck_assert_int_eq(e->dim[2], 2);
    ck_assert_int_eq(*(const unsigned char *)e->data, 65); /* offset 64, counted from 1 */
    qw_store_free(s);
}
END_TEST

/* F32 tensors x [first] at 0 and y [8] at 32. */
static blob two_tensors(int64_t first)
{
    const int64_t x[2] = { first, 1 }, y[2] = { 8, 1 };
    gguf g = { 0 };
    gguf_tensor(&g, "x", 0, x, 2, 0, (size_t)first * 4);
    gguf_tensor(&g, "y", 0, y, 2, 32, 32);
    return gguf_bytes(&g);
}

static int status_of(blob *b, const char *word)
{
    qw_error err = { 0 };
    qw_store *s;
    const char *path = write_blob("a.gguf", b);
    good(qw_store_new(&s, &err), &err);
    const int status = qw_store_add(s, path, &err);
    if (status) ck_assert_msg(strstr(err.text, word) != NULL, "%s, expected %s", err.text, word);
    qw_store_free(s);
    return status;
}

START_TEST(refused)
{
    const int64_t eight[2] = { 8, 1 };
    blob b = two_tensors(8);
    ck_assert_int_eq(status_of(&b, ""), QWEN_OK);
    b = two_tensors(8);
    b.n -= 4;
    ck_assert_int_eq(status_of(&b, "\"y\""), QWEN_EFORMAT);
    b = two_tensors(16);
    ck_assert_int_eq(status_of(&b, "overlap"), QWEN_EFORMAT);
    gguf twice = { 0 }, one_of_two = { 0 }, shape = { 0 };
    gguf_u32(&twice, "k", 1);
    gguf_u32(&twice, "k", 1);
    b = gguf_bytes(&twice);
    ck_assert_int_eq(status_of(&b, "duplicate"), QWEN_EFORMAT);
    gguf_array(&one_of_two, "k", GGUF_STRING, 2);
    gguf_string(&one_of_two.head, "only one of two");
    const size_t end = 24 + one_of_two.head.n;
    b = gguf_bytes(&one_of_two);
    b.n = end;
    ck_assert_int_eq(status_of(&b, "truncated"), QWEN_EFORMAT);
    gguf_array(&shape, "comfy.gguf.orig_shape.x", GGUF_I32, 1);
    append_number(&shape.head, 7, 4);
    gguf_tensor(&shape, "x", 0, eight, 2, 0, 32);
    b = gguf_bytes(&shape);
    ck_assert_int_eq(status_of(&b, "shape"), QWEN_EFORMAT);
}
END_TEST

START_TEST(every_type)
{
    static const struct {
        int id;
        qw_dtype type;
    } types[] = {
        { 0, QW_F32 },     { 1, QW_F16 },      { 30, QW_BF16 },   { 2, QW_Q4_0 },
        { 3, QW_Q4_1 },    { 6, QW_Q5_0 },     { 7, QW_Q5_1 },    { 8, QW_Q8_0 },
        { 10, QW_Q2_K },   { 11, QW_Q3_K },    { 12, QW_Q4_K },   { 13, QW_Q5_K },
        { 14, QW_Q6_K },   { 20, QW_IQ4_NL },  { 23, QW_IQ4_XS }, { 16, QW_IQ2_XXS },
        { 17, QW_IQ2_XS }, { 18, QW_IQ3_XXS }, { 19, QW_IQ1_S },  { 21, QW_IQ3_S },
        { 22, QW_IQ2_S },  { 29, QW_IQ1_M },   { 24, QW_I8 },     { 25, QW_I16 },
        { 26, QW_I32 },    { 27, QW_I64 },     { 28, QW_F64 },
    };
    static const int unknown[] = { 9, 15, 34, 35, 39, 40, 41, 42, 99 },
                     removed[] = { 4, 5, 31, 33, 36, 38 };
    const int64_t dim[2] = { 256, 2 };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        gguf g = { 0 };
        qw_error err = { 0 };
        qw_store *s = NULL;
        gguf_tensor(&g, "x", types[i].id, dim, 2, 0, qw_row_bytes(types[i].type, 512));
        qw_store_new(&s, &err);
        ck_assert_msg(!qw_store_add(s, write_gguf("type.gguf", &g), &err), "type %d: %s",
                      types[i].id, err.text);
        ck_assert_int_eq(qw_store_entry(s, 0)->dtype, types[i].type);
        ck_assert_uint_eq(qw_store_entry(s, 0)->bytes, qw_row_bytes(types[i].type, 512));
        qw_store_free(s);
    }
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        gguf g = { 0 };
        gguf_tensor(&g, "x", unknown[i], dim, 2, 0, 4096);
        const int status = add_status(write_gguf("type.gguf", &g));
        ck_assert_msg(status == QWEN_EUNSUPPORTED, "type %d: status %d", unknown[i], status);
    }
    for (size_t i = 0; i < sizeof removed / sizeof *removed; i++) {
        gguf g = { 0 };
        gguf_tensor(&g, "x", removed[i], dim, 2, 0, 4096);
        ck_assert_int_eq(add_status(write_gguf("type.gguf", &g)), QWEN_EFORMAT);
    }
}
END_TEST

START_TEST(truncations_and_flips)
{
    const int64_t dim[2] = { 32, 2 };
    gguf g = { 0 };
    gguf_text(&g, "general.architecture", "qwen_image");
    gguf_tensor(&g, "x", 8, dim, 2, 0, 68);
    gguf_tensor(&g, "y", 0, dim, 1, 96, 128);
    blob b = gguf_bytes(&g);
    for (size_t n = 0; n < b.n; n++)
        ck_assert_int_eq(add_status(write_file("t.gguf", b.data, n)), QWEN_EFORMAT);
    flip_bits(".gguf", &b, 4);
    free(b.data);
}
END_TEST

/* A part of a split file, with `says` as its number in the metadata; the numbers are of a GGUF
 * type. */
static void write_part(int no, int says, int type, int width)
{
    const int64_t dim[2] = { 8, 1 };
    char name[64];
    gguf g = { 0 };
    gguf_number(&g, "split.no", type, (uint64_t)says, width);
    gguf_number(&g, "split.count", type, 2, width);
    gguf_tensor(&g, no ? "y" : "x", 0, dim, 2, 0, 32);
    snprintf(name, sizeof name, "m-%05d-of-00002.gguf", no + 1);
    write_gguf(name, &g);
}

static int first_part(const char *word)
{
    qw_error err = { 0 };
    qw_store *s;
    good(qw_store_new(&s, &err), &err);
    const int status = qw_store_add(s, made("m-00001-of-00002.gguf"), &err);
    ck_assert_msg(strstr(err.text, word) != NULL, "%s, expected %s", err.text, word);
    qw_store_free(s);
    return status;
}

START_TEST(split)
{
    static const struct {
        int type, width;
    } kind[] = { { GGUF_U16, 2 }, { GGUF_U32, 4 } };
    for (int i = 0; i < 2; i++) {
        unlink(made("m-00002-of-00002.gguf"));
        write_part(0, 0, kind[i].type, kind[i].width);
        ck_assert_int_eq(first_part("m-00002-of-00002.gguf"), QWEN_EIO);
        write_part(1, 1, kind[i].type, kind[i].width);
        qw_store *s = open_store(made("m-00001-of-00002.gguf"));
        ck_assert_ptr_nonnull(qw_store_find(s, "x"));
        ck_assert_ptr_nonnull(qw_store_find(s, "y"));
        ck_assert_int_eq(qw_store_find(s, "y")->file, 1);
        qw_store_free(s);
        write_part(1, 0, kind[i].type, kind[i].width); /* a part with another's number */
        ck_assert_int_eq(first_part("split.no"), QWEN_EFORMAT);
    }
}
END_TEST

static void check_finite(const char *rel, int *seen)
{
    qw_store *s = open_store(testdata(rel));
    const qw_entry *e;
    for (int64_t i = 0; (e = qw_store_entry(s, i)) != NULL; i++) {
        const int64_t n = elements(e);
        float *x = malloc((size_t)n * sizeof *x);
        double sum = 0;
        ck_assert_ptr_nonnull(x);
        qw_decode_f32(e->dtype, e->data, n, x);
        for (int64_t j = 0; j < n; j++) sum += fabs((double)x[j]);
        ck_assert_msg(isfinite(sum) && sum > 0, "%s: %s sums to %g", rel, e->key, sum);
        seen[e->dtype] = 1;
        free(x);
    }
    qw_store_free(s);
}

START_TEST(real_files)
{
    static const qw_dtype types[] = {
        QW_F32,  QW_F16,  QW_BF16, QW_Q8_0, QW_Q4_0, QW_Q4_1,   QW_Q5_0,   QW_Q5_1,
        QW_Q2_K, QW_Q3_K, QW_Q4_K, QW_Q5_K, QW_Q6_K, QW_IQ4_NL, QW_IQ4_XS,
    };
    static const char dir[] = "formats/comfyui/models/diffusion_models";
    int seen[QW_NDTYPES] = { 0 }, n = 0;
    char rel[400];
    DIR *d = opendir(testdata(dir));
    ck_assert_ptr_nonnull(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (!ends_with(e->d_name, ".gguf")) continue;
        snprintf(rel, sizeof rel, "%s/%s", dir, e->d_name);
        check_finite(rel, seen);
        n++;
    }
    closedir(d);
    ck_assert_int_ge(n, 10);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        ck_assert_msg(seen[types[i]], "%s was in no file", qw_dtype_name(types[i]));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("gguf");
    TCase *c = tcase_create("made");
    tcase_set_timeout(c, 120);
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_test(c, versions_and_alignment);
    tcase_add_test(c, contents);
    tcase_add_test(c, refused);
    tcase_add_test(c, every_type);
    tcase_add_test(c, truncations_and_flips);
    tcase_add_test(c, split);
    suite_add_tcase(s, c);
    c = tcase_create("real");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, real_files);
    suite_add_tcase(s, c);
    return run_suite(s);
}
