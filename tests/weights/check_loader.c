/* check_loader.c - from tensors to weights on a device: the same matrices in every format, within
 * the step of the coarser one; convolutions; errors of tensors that do not fit. */
#include "files/files.h"
#include "medium.h"
#include "testing.h"
#include "values.h"
#include <math.h>
#include <string.h>

/* A store, a device and the module loaded from it. */
typedef struct bench {
    qw_device *dev;
    qw_store *store;
    qw_residency *res;
    qw_loader l;
    qw_error err;
} bench;

static void bench_open(bench *b, const char *path, qw_kind part)
{
    memset(b, 0, sizeof *b);
    b->store = must_open(path, part);
    ck_assert_msg(!qw_device_open("ref", &(qw_device_options){ .threads = 1 }, &b->dev, &b->err),
                  "%s", b->err.text);
    ck_assert_msg(!qw_residency_new(&b->res, b->dev, 0, &b->err), "%s", b->err.text);
    b->l = (qw_loader){ .store = b->store, .res = b->res, .err = &b->err };
    b->l.group = qw_group_new(b->res, "all");
}

static void bench_close(bench *b)
{
    qw_residency_free(b->res);
    qw_store_free(b->store);
    if (b->dev) b->dev->close(b->dev);
}

/* Rows 0, step, 2 step ... of a module as doubles; malloc'ed. */
static double *rows_of(bench *b, const char *module, int64_t n, int64_t k, int64_t step)
{
    qw_weight w = { 0 };
    double *out = malloc((size_t)((n + step - 1) / step * k) * sizeof *out);
    ck_assert(out);
    qw_load_part(&b->l, &w, n, k, 0, "%s", module);
    ck_assert_msg(!b->err.status, "%s", b->err.text);
    ck_assert_int_eq(w.parts > 0, 1);
    int64_t row = 0, at = 0;
    for (int p = 0; p < w.parts; p++)
        for (int64_t i = 0; i < w.part[p].w.dim[0]; i++, row++)
            if (row % step == 0) qw_weight_row(&w.part[p].w, i, out + k * at++);
    ck_assert_int_eq(row, n);
    qw_weight_free(&w);
    return out;
}

/* --- quantised matrices ---------------------------------------------------------------------- */

/* Golden rows are float32: a few roundings of the row's largest element (the rotation mixes a
 * row). */
static void compare_rows(const char *what, const double *got, const qw_entry *gold)
{
    const int64_t n = gold->dim[0], k = gold->dim[1];
    for (int64_t i = 0; i < n; i++) {
        double largest = 0, worst = 0;
        for (int64_t j = 0; j < k; j++) {
            float g;
            memcpy(&g, (const char *)gold->data + (size_t)(i * k + j) * 4, 4);
            largest = fmax(largest, fabs((double)g));
            worst = fmax(worst, fabs(got[i * k + j] - (double)g));
        }
        ck_assert_msg(worst <= 0x1p-22 * largest, "%s: row %lld differs by %g of %g", what,
                      (long long)i, worst, largest);
    }
}

static void compare_layout(const char *name)
{
    char path[300], module[200];
    bench b;
    snprintf(path, sizeof path, "comfyquant/goldens/%s.safetensors", name);
    qw_error err = { 0 };
    qw_store *gold = NULL;
    qw_store_new(&gold, &err);
    ck_assert_msg(!qw_store_add(gold, testdata(path), &err), "%s", err.text);
    snprintf(path, sizeof path,
             "comfyquant/models/diffusion_models/qwen_image_medium_%s.safetensors", name);
    bench_open(&b, testdata(path), QW_KIND_TRANSFORMER);
    ck_assert_msg(qw_layouts_check(b.store, &err) == QWEN_OK, "%s", err.text);
    int compared = 0;
    for (int64_t i = 0; qw_store_entry(gold, i); i++) {
        const qw_entry *g = qw_store_entry(gold, i);
        if (!starts_with(g->name, "dequantised.")) continue;
        const char *end = strstr(g->name, ".weight");
        ck_assert_ptr_nonnull(end);
        snprintf(module, sizeof module, "%.*s", (int)(end - g->name) - 12, g->name + 12);
        const int64_t step = end[7] ? strtoll(end + 10, NULL, 10) : 1;
        double *rows = rows_of(&b, module, g->dim[0] * step, g->dim[1], step);
        compare_rows(module, rows, g);
        free(rows);
        compared++;
    }
    ck_assert_int_ge(compared, 5);
    ck_assert_int_eq(qw_store_unused(b.store, NULL, NULL) < 84, 1);
    bench_close(&b);
    qw_store_free(gold);
}

static const char *const layouts[] = { "int8_tensorwise", "int8_convrot", "convrot_w4a4",
                                       "asym_w4a8_int8",  "mxfp8",        "nvfp4",
                                       "awq_w4a16" };
START_TEST(quantised_layouts) { compare_layout(layouts[_i]); }
END_TEST

/* The same matrices in two files: at most `step` of the largest element of each block of 32
 * apart. */
static void compare_files(const char *a, const char *b, qw_kind part, const char *module, int64_t n,
                          int64_t k, double step)
{
    bench x, y;
    bench_open(&x, testdata(a), part);
    bench_open(&y, testdata(b), part);
    double *p = rows_of(&x, module, n, k, 1), *q = rows_of(&y, module, n, k, 1);
    int64_t nonzero = 0;
    for (int64_t i = 0; i < n * k; i++) {
        double largest = 0;
        for (int64_t j = i / 32 * 32; j < i / 32 * 32 + 32 && j < n * k; j++)
            largest = fmax(largest, fabs(p[j]));
        nonzero += p[i] != 0;
        ck_assert_msg(fabs(p[i] - q[i]) <= step * largest,
                      "%s in %s: element %lld is %g, expected %g", module, b, (long long)i, q[i],
                      p[i]);
    }
    ck_assert_int_gt(nonzero, n * k / 20);
    free(p);
    free(q);
    bench_close(&x);
    bench_close(&y);
}

#define MODELS COMFY "diffusion_models/"
static const struct {
    const char *file;
    double step;
} same[] = {
    { MODELS "qwen_image_medium_bf16.safetensors", 0 },
    { MODELS "qwen-image-medium-BF16.gguf", 0 },
    { MODELS "qwen-image-medium-Q8_0.gguf", 1 / 254.0 + 0x1p-10 },
    { MODELS "qwen-image-medium-Q4_0.gguf", 1 / 8.0 + 0x1p-10 },
    { MODELS "qwen-image-medium-Q5_1.gguf", 1 / 31.0 + 0x1p-9 },
    { MODELS "qwen_image_medium_fp8_e4m3fn.safetensors", 0x1p-3 },
    { MODELS "qwen_image_medium_fp8_e4m3fn_scaled.safetensors", 0x1p-3 },
    { MODELS "qwen_image_medium_fp8mixed.safetensors", 0x1p-3 },
    { MODELS "qwen_image_medium_fp8_header.safetensors", 0x1p-3 },
    { MODELS "qwen_image_medium_fp8_rows.safetensors", 0x1p-3 },
};
START_TEST(same_weights)
{
    static const struct {
        const char *name;
        int64_t n, k;
    } module[] = { { "transformer_blocks.0.attn.to_q", 256, 256 },
                   { "transformer_blocks.0.img_mlp.net.2", 256, 1024 },
                   { "transformer_blocks.0.txt_mlp.net.0.proj", 1024, 256 },
                   { "transformer_blocks.0.img_mod.1", 1536, 256 },
                   { "img_in", 256, 64 } };
    for (int i = 0; i < 5; i++)
        compare_files("formats/medium/transformer", same[_i].file, QW_KIND_TRANSFORMER,
                      module[i].name, module[i].n, module[i].k, same[_i].step);
}
END_TEST

/* fp8 with its scale, decoded here from the raw bytes. */
START_TEST(fp8_scales)
{
    static const struct {
        const char *file, *scale;
        int rows;
    } f[] = {
        { MODELS "qwen_image_medium_fp8_e4m3fn_scaled.safetensors",
          "transformer_blocks.0.attn.to_q.scale_weight", 0 },
        { MODELS "qwen_image_medium_fp8_header.safetensors",
          "transformer_blocks.0.attn.to_q.weight_scale", 0 },
        { MODELS "qwen_image_medium_fp8_rows.safetensors",
          "transformer_blocks.0.attn.to_q.weight_scale", 1 },
    };
    for (int i = 0; i < 3; i++) {
        bench b;
        bench_open(&b, testdata(f[i].file), QW_KIND_TRANSFORMER);
        const qw_entry *w = qw_store_find(b.store, "transformer_blocks.0.attn.to_q.weight");
        const qw_entry *s = qw_store_find(b.store, f[i].scale);
        ck_assert(w && s && w->dtype == QW_F8E4M3 && s->dtype == QW_F32);
        double *rows = rows_of(&b, "transformer_blocks.0.attn.to_q", 256, 256, 1);
        for (int64_t j = 0; j < 256 * 256; j++) {
            float scale;
            memcpy(&scale, (const char *)s->data + (f[i].rows ? (size_t)(j / 256) * 4 : 0), 4);
            const double want = (double)qw_f8e4m3_to_f32(((const unsigned char *)w->data)[j])
                                * (double)scale;
            ck_assert_double_eq(rows[j], want);
        }
        free(rows);
        bench_close(&b);
    }
}
END_TEST

#define TEXTS COMFY "text_encoders/"
START_TEST(mmproj)
{
    const char *a = TEXTS "qwen2.5-vl-medium-mmproj-F16.gguf",
               *b = TEXTS "qwen2.5-vl-medium-mmproj-Q8_0.gguf";
    const double step = 1 / 254.0 + 0x1p-10;
    compare_files(a, b, QW_KIND_VISION, "visual.blocks.0.attn.qkv", 480, 160, step);
    compare_files(a, b, QW_KIND_VISION, "visual.blocks.2.mlp.down_proj", 160, 256, step);
    compare_files(a, b, QW_KIND_VISION, "visual.merger.mlp.0", 640, 640, step);
    compare_files(a, b, QW_KIND_VISION, "visual.patch_embed.proj", 160, 1176, step);
    qw_error err = { 0 };
    qw_vision_config c;
    qw_store *s = must_open(testdata(a), QW_KIND_VISION);
    ck_assert_msg(!qw_vision_configure(&c, NULL, NULL, s, "mmproj", &err), "%s", err.text);
    ck_assert(c.depth == 3 && c.width == 160 && c.out == 256 && c.heads == 2 && c.ff == 256);
    qw_store_free(s);
}
END_TEST

/* --- the loader ------------------------------------------------------------------------------ */

/* Wrong shapes and absent tensors are named, with what was expected and found. */
START_TEST(loader_messages)
{
    bench b;
    qw_weight w = { 0 };
    qw_tensor v;
    bench_open(&b, testdata("formats/medium/transformer"), QW_KIND_TRANSFORMER);
    qw_load_part(&b.l, &w, 256, 65, 1, "img_in");
    ck_assert_int_eq(b.err.status, QWEN_EMODEL);
    ck_assert_msg(strstr(b.err.text, "img_in.weight") && strstr(b.err.text, "64")
                      && strstr(b.err.text, "65"),
                  "%s", b.err.text);
    memset(&b.err, 0, sizeof b.err);
    qw_load_part(&b.l, &w, 256, 64, 1, "no_such.%d", 7);
    ck_assert_int_eq(b.err.status, QWEN_EMODEL);
    ck_assert_msg(strstr(b.err.text, "no_such.7.weight") != NULL, "%s", b.err.text);
    memset(&b.err, 0, sizeof b.err);
    qw_load_vector(&b.l, &v, 257, "txt_norm.weight");
    ck_assert_int_eq(b.err.status, QWEN_EMODEL);
    ck_assert_msg(strstr(b.err.text, "txt_norm.weight") && strstr(b.err.text, "257")
                      && strstr(b.err.text, "256"),
                  "%s", b.err.text);
    qw_weight_free(&w);
    bench_close(&b);
}
END_TEST

/* A 5-D weight gives its last temporal tap, a 4-D weight itself; [co][ci][kh][kw] becomes
 * [co][kh][kw][ci]. */
START_TEST(convolutions)
{
    const item t[] = { { "decoder.conv_in.weight", "F32", 5, { 2, 16, 3, 3, 3 } },
                       { "decoder.conv_in.bias", "F32", 1, { 2 } },
                       { "flat.weight", "F32", 4, { 2, 3, 3, 3 } },
                       { "flat.bias", "F32", 1, { 2 } },
                       { "decoder.mid_block.resnets.0.norm1.gamma", "F32", 1, { 2 } } };
    blob f = safetensors_bytes("", t, 5, 3);
    const size_t start = f.n - (2 * 16 * 27 + 2 + 54 + 2 + 2) * 4;
    for (int i = 0; i < 2 * 16 * 27 + 2 + 54 + 4; i++) {
        const float x = (float)i;
        memcpy(f.data + start + (size_t)i * 4, &x, 4);
    }
    bench b;
    qw_conv deep, flat;
    bench_open(&b, write_file("conv.safetensors", f.data, f.n), QW_KIND_VAE);
    free(f.data);
    qw_load_conv(&b.l, &deep, 2, 16, 3, "decoder.conv_in");
    qw_load_conv(&b.l, &flat, 2, 3, 3, "flat");
    ck_assert_msg(!b.err.status && !qw_residency_commit(b.res, &b.err), "%s", b.err.text);
    for (int64_t o = 0; o < 2; o++)
        for (int64_t y = 0; y < 3; y++)
            for (int64_t x = 0; x < 3; x++) {
                for (int64_t i = 0; i < 16; i++)
                    ck_assert_float_eq(*(float *)qw_at(&deep.w, o, y, x, i),
                                       (float)((((o * 16 + i) * 3 + 2) * 3 + y) * 3 + x));
                for (int64_t i = 0; i < 3; i++)
                    ck_assert_float_eq(*(float *)qw_at(&flat.w, o, y, x, i),
                                       (float)(2 * 16 * 27 + 2 + ((o * 3 + i) * 3 + y) * 3 + x));
            }
    ck_assert_float_eq(((float *)deep.bias.data)[1], 2 * 16 * 27 + 1);
    bench_close(&b);
}
END_TEST

/* Data at odd addresses, all of a transformer: the same output, bit for bit. */
START_TEST(misaligned)
{
    sheaf s = { 0 };
    model m;
    qw_store *plain = open_data(MEDIUM);
    static const unsigned char byte = 7;
    sheaf_add(&s, "aaa",
              (qw_entry){ .data = &byte, .bytes = 1, .dtype = QW_U8, .rank = 1, .dim = { 1 } });
    sheaf_store(&s, plain, "", 0);
    qw_store *odd = open_store(sheaf_write(&s, "odd.safetensors", 0));
    for (int64_t i = 0; qw_store_entry(plain, i); i++) {
        const qw_entry *a = qw_store_entry(plain, i), *b = qw_store_find(odd, a->key);
        ck_assert(b && a->bytes == b->bytes && !memcmp(a->data, b->data, a->bytes));
    }
    qw_store_free(odd);
    open_medium(&m, "ref");
    double *want = forward(&m);
    close_model(&m);
    int moved = 0;
    for (int pad = 0; pad < 4; pad++) {
        sheaf t = { 0 };
        sheaf_store(&t, plain, "", 0);
        open_model(&m, open_device("ref"), sheaf_write(&t, "pad.safetensors", pad),
                   MEDIUM "/config.json", 0);
        moved += (uintptr_t)qw_store_find(m.store, "img_in.weight")->data % 2 == 1;
        double *x = forward(&m);
        ck_assert(difference(x, want, OUTPUT) == 0);
        free(x);
        close_model(&m);
    }
    ck_assert_int_eq(moved, 2);
    free(want);
    qw_store_free(plain);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("loader");
    TCase *c = tcase_create("loader");
    tcase_set_timeout(c, 120);
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_loop_test(c, quantised_layouts, 0, (int)(sizeof layouts / sizeof *layouts));
    tcase_add_loop_test(c, same_weights, 0, (int)(sizeof same / sizeof *same));
    tcase_add_test(c, fp8_scales);
    tcase_add_test(c, mmproj);
    tcase_add_test(c, loader_messages);
    tcase_add_test(c, convolutions);
    tcase_add_test(c, misaligned);
    suite_add_tcase(s, c);
    return run_suite(s);
}
