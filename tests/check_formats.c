/* check_formats.c - GGUF and quantised layouts: what is accepted, refused, and its values. */
#include "store.h"
#include "testing.h"
#include <dirent.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

typedef unsigned char byte;

static qw_store *opened(const char *path)
{
    qw_error err = { 0 };
    qw_store *s;
    ck_assert_int_eq(qw_store_new(&s, &err), QWEN_OK);
    qw_store_add(s, path, &err);
    ck_assert_msg(err.status == QWEN_OK, "%s", err.text);
    return s;
}

static int starts_with(const char *s, const char *head) { return !strncmp(s, head, strlen(head)); }

static int ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

/* --- broken GGUF files ------------------------------------------------------------------------ */

/* Whether one of the words is in the message when the path is taken out of it. */
static int mentions(const char *text, const char *path, const json_t *words)
{
    char rest[1200];
    snprintf(rest, sizeof rest, "%s", text);
    for (char *at; (at = strstr(rest, path)) != NULL;)
        memmove(at, at + strlen(path), strlen(at + strlen(path)) + 1);
    for (size_t i = 0; i < json_array_size(words); i++)
        if (strstr(rest, json_string_value(json_array_get(words, i)))) return 1;
    return 0;
}

static void check_bad(const char *name, const json_t *words)
{
    char rel[300];
    qw_error err = { 0 };
    qw_store *s;
    qw_kind kind;
    snprintf(rel, sizeof rel, "formats/bad/%s", name);
    const char *path = testdata(rel);
    const int unsupported = starts_with(name, "version_") ||
                            starts_with(name, "tensor_type_unknown") ||
                            starts_with(name, "value_type_");
    ck_assert_int_eq(qw_store_new(&s, &err), QWEN_OK);
    qw_store_add(s, path, &err);
    if (!strcmp(name, "wrong_architecture.gguf")) {
        ck_assert_msg(!err.status, "%s: %s", name, err.text);
        qw_store_canonical(s, QW_KIND_TRANSFORMER, &kind, &err);
        ck_assert_msg(err.status != QWEN_OK, "%s is accepted", name);
    } else {
        const int expected = unsupported ? QWEN_EUNSUPPORTED : QWEN_EFORMAT;
        ck_assert_msg(err.status == expected, "%s: %d %s", name, err.status, err.text);
    }
    ck_assert_msg(mentions(err.text, path, words), "%s: %s", name, err.text);
    qw_store_free(s);
}

START_TEST(bad_gguf)
{
    qw_error err = { 0 };
    json_t *expect, *value;
    const char *name;
    int n = 0;
    qw_json_file(testdata("formats/bad/expect.json"), &expect, &err);
    ck_assert_msg(!err.status, "%s", err.text);
    json_object_foreach(expect, name, value) {
        if (!ends_with(name, ".gguf")) continue;
        check_bad(name, json_object_get(value, "error_mentions"));
        n++;
    }
    ck_assert_int_ge(n, 28);
    json_decref(expect);
}
END_TEST

/* --- GGUF files made here --------------------------------------------------------------------- */

typedef struct bytes { byte data[4096]; size_t n; } bytes;

static void put(bytes *b, uint64_t v, int width)
{
    for (int i = 0; i < width; i++) b->data[b->n++] = (byte)(v >> 8 * i);
}

static void put_string(bytes *b, const char *s)
{
    put(b, strlen(s), 8);
    while (*s) b->data[b->n++] = (byte)*s++;
}

static void put_head(bytes *b, int version, int tensors, int keys)
{
    b->n = 0;
    put(b, 0x46554747, 4);
    put(b, (uint64_t)version, 4);
    put(b, (uint64_t)tensors, 8);
    put(b, (uint64_t)keys, 8);
}

static void put_number(bytes *b, const char *key, int type, uint64_t v, int width)
{
    put_string(b, key);
    put(b, (uint64_t)type, 4);
    put(b, v, width);
}

/* An F32 tensor of two dims, innermost first. */
static void put_tensor(bytes *b, const char *name, uint64_t d0, uint64_t d1, uint64_t offset)
{
    put_string(b, name);
    put(b, 2, 4);
    put(b, d0, 8);
    put(b, d1, 8);
    put(b, 0, 4);
    put(b, offset, 8);
}

static void put_data(bytes *b, size_t alignment, int values)
{
    while (b->n % alignment) b->data[b->n++] = 0;
    for (int i = 0; i < values; i++) {
        const float f = (float)i;
        uint32_t u;
        memcpy(&u, &f, 4);
        put(b, u, 4);
    }
}

static void save(const bytes *b, const char *path)
{
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(b->data, 1, b->n, f), b->n);
    fclose(f);
}

static char folder[64];

static void make_folder(void)
{
    snprintf(folder, sizeof folder, "/tmp/check_formats.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void remove_folder(void)
{
    char path[400];
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (e->d_name[0] != '.') unlink(path);
    }
    if (d) closedir(d);
    rmdir(folder);
}

static const char *in_folder(const char *name)
{
    static char path[4][400];
    static int next;
    char *out = path[next++ % 4];
    snprintf(out, sizeof path[0], "%s/%s", folder, name);
    return out;
}

static int status_of(const bytes *b, const char *word)
{
    qw_error err = { 0 };
    qw_store *s;
    save(b, in_folder("a.gguf"));
    ck_assert_int_eq(qw_store_new(&s, &err), QWEN_OK);
    const int status = qw_store_add(s, in_folder("a.gguf"), &err);
    if (status) ck_assert_msg(strstr(err.text, word) != NULL, "%s, expected %s", err.text, word);
    qw_store_free(s);
    return status;
}

/* Version 2, alignment 64, every type of value, a shape in the metadata. */
START_TEST(gguf_contents)
{
    bytes b;
    put_head(&b, 2, 1, 7);
    put_number(&b, "general.alignment", 4, 64, 4);
    put_number(&b, "a.i8", 1, (uint64_t)-3, 1);
    put_number(&b, "a.f32", 6, 0x3fc00000, 4);
    put_number(&b, "a.bool", 7, 1, 1);
    put_number(&b, "a.u64", 10, UINT64_MAX, 8);
    put_string(&b, "general.name");
    put(&b, 8, 4);
    put_string(&b, "a name");
    put_string(&b, "comfy.gguf.orig_shape.x");
    put(&b, 9, 4);
    put(&b, 5, 4);
    put(&b, 3, 8);
    put(&b, 2, 4);
    put(&b, 3, 4);
    put(&b, 2, 4);
    put_tensor(&b, "x", 6, 2, 64);
    put_data(&b, 64, 16 + 12);
    save(&b, in_folder("a.gguf"));
    qw_store *s = opened(in_folder("a.gguf"));
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
    float first;
    memcpy(&first, e->data, sizeof first);
    ck_assert(first == 16);
    qw_store_free(s);
}
END_TEST

START_TEST(gguf_refused)
{
    bytes b;
    put_head(&b, 3, 2, 0);
    put_tensor(&b, "x", 8, 1, 0);
    put_tensor(&b, "y", 8, 1, 32);
    put_data(&b, 32, 16);
    ck_assert_int_eq(status_of(&b, ""), QWEN_OK);
    b.n -= 4;
    ck_assert_int_eq(status_of(&b, "\"y\""), QWEN_EFORMAT);
    put_head(&b, 3, 2, 0);
    put_tensor(&b, "x", 16, 1, 0);
    put_tensor(&b, "y", 8, 1, 32);
    put_data(&b, 32, 16);
    ck_assert_int_eq(status_of(&b, "overlap"), QWEN_EFORMAT);
    put_head(&b, 3, 0, 2);
    put_number(&b, "k", 4, 1, 4);
    put_number(&b, "k", 4, 1, 4);
    ck_assert_int_eq(status_of(&b, "duplicate"), QWEN_EFORMAT);
    put_head(&b, 3, 0, 1);
    put_string(&b, "k");
    put(&b, 9, 4);
    put(&b, 8, 4);
    put(&b, 2, 8);
    put_string(&b, "only one of two");
    ck_assert_int_eq(status_of(&b, "truncated"), QWEN_EFORMAT);
    put_head(&b, 3, 1, 1);
    put_string(&b, "comfy.gguf.orig_shape.x");
    put(&b, 9, 4);
    put(&b, 5, 4);
    put(&b, 1, 8);
    put(&b, 7, 4);
    put_tensor(&b, "x", 8, 1, 0);
    put_data(&b, 32, 8);
    ck_assert_int_eq(status_of(&b, "shape"), QWEN_EFORMAT);
}
END_TEST

static void save_part(int no, int count, int says, int first)
{
    bytes b;
    char name[64];
    put_head(&b, 3, 1, 2);
    put_number(&b, "split.no", 2, (uint64_t)says, 2);
    put_number(&b, "split.count", 2, (uint64_t)count, 2);
    put_tensor(&b, no ? "y" : "x", 8, 1, 0);
    put_data(&b, 32, 8);
    snprintf(name, sizeof name, "m-%05d-of-%05d.gguf", no + first, count);
    save(&b, in_folder(name));
}

START_TEST(gguf_split)
{
    qw_error err = { 0 };
    qw_store *s;
    save_part(0, 2, 0, 1);
    ck_assert_int_eq(qw_store_new(&s, &err), QWEN_OK);
    ck_assert_int_eq(qw_store_add(s, in_folder("m-00001-of-00002.gguf"), &err), QWEN_EIO);
    ck_assert_ptr_nonnull(strstr(err.text, "m-00002-of-00002.gguf"));
    qw_store_free(s);
    save_part(1, 2, 1, 1);
    s = opened(in_folder("m-00001-of-00002.gguf"));
    ck_assert_ptr_nonnull(qw_store_find(s, "x"));
    ck_assert_ptr_nonnull(qw_store_find(s, "y"));
    ck_assert_int_eq(qw_store_find(s, "y")->file, 1);
    qw_store_free(s);
    save_part(1, 2, 0, 1);              /* a part with another's number */
    ck_assert_int_eq(qw_store_new(&s, &err), QWEN_OK);
    err = (qw_error){ 0 };
    ck_assert_int_eq(qw_store_add(s, in_folder("m-00001-of-00002.gguf"), &err), QWEN_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "split.no"));
    qw_store_free(s);
}
END_TEST

/* --- real GGUF files -------------------------------------------------------------------------- */

static int64_t elements(const qw_entry *e)
{
    int64_t n = 1;
    for (int i = 0; i < e->rank; i++) n *= e->dim[i];
    return n;
}

static void check_finite(const char *rel, int *seen)
{
    qw_store *s = opened(testdata(rel));
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

START_TEST(real_gguf)
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

/* --- quantised layers of ComfyUI -------------------------------------------------------------- */

/* "dequantised.<module>.weight" or "...[::n]", every n-th row from the first. */
static void check_layer(qw_store *model, const qw_entry *truth)
{
    char module[256];
    qw_error err = { 0 };
    qw_tensor w;
    long step = 1;
    snprintf(module, sizeof module, "%s", truth->name + strlen("dequantised."));
    char *bracket = strstr(module, "[::");
    if (bracket) {
        step = strtol(bracket + 3, NULL, 10);
        *bracket = 0;
    }
    const qw_entry *e = qw_store_find(model, module);
    ck_assert_msg(e != NULL, "%s", module);
    module[strlen(module) - strlen(".weight")] = 0;
    const int64_t n = e->dim[0], k = truth->dim[1];
    qw_layout(model, e, module, n, k, &w, &err);
    ck_assert_msg(!err.status, "%s", err.text);
    ck_assert_int_eq(w.dim[0], n);
    ck_assert_int_eq(w.dim[1], k);
    double *row = malloc((size_t)k * sizeof *row), worst = 0, top = 0;
    float *scratch = malloc((size_t)k * sizeof *scratch);
    ck_assert(row && scratch);
    for (int64_t i = 0; i < truth->dim[0]; i++) {
        qw_weight_row(&w, i * step, row, scratch);
        for (int64_t j = 0; j < k; j++) {
            float t;
            memcpy(&t, (const char *)truth->data + (i * k + j) * 4, sizeof t);
            worst = fmax(worst, fabs(row[j] - (double)t));
            top = fmax(top, fabs((double)t));
        }
    }
    ck_assert_msg(worst <= 1e-6 * top, "%s: %g of %g", truth->name, worst, top);
    free(row);
    free(scratch);
}

static void check_golden(const char *name)
{
    static const char dir[] = "comfyquant/models/diffusion_models/qwen_image_medium_";
    char rel[300];
    int n = 0;
    const qw_entry *e;
    qw_error err = { 0 };
    snprintf(rel, sizeof rel, "%s%s.safetensors", dir, name);
    qw_store *model = opened(testdata(rel));
    ck_assert_msg(qw_layouts_check(model, &err) == QWEN_OK, "%s", err.text);
    snprintf(rel, sizeof rel, "comfyquant/goldens/%s.safetensors", name);
    qw_store *golden = opened(testdata(rel));
    for (int64_t i = 0; (e = qw_store_entry(golden, i)) != NULL; i++) {
        if (!starts_with(e->name, "dequantised.")) continue;
        check_layer(model, e);
        n++;
    }
    ck_assert_int_ge(n, 5);
    qw_store_free(model);
    qw_store_free(golden);
}

START_TEST(comfy_quant)
{
    static const char *const names[] = { "int8_tensorwise", "int8_convrot", "convrot_w4a4",
                                         "asym_w4a8_int8", "mxfp8", "nvfp4", "awq_w4a16" };
    check_golden(names[_i]);
}
END_TEST

/* --- the worked examples ---------------------------------------------------------------------- */

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
    float scratch[64];
    lay(s, 1, k, &w, NULL);
    qw_weight_row(&w, 0, row, scratch);
    for (int64_t j = 0; j < k; j++)
        ck_assert_msg(fabs(row[j] - expected[j]) <= bound, "%lld: %.9g, expected %.9g",
                      (long long)j, row[j], expected[j]);
    qw_store_free(s);
}

static const int8_t rotated_codes[16] = { 81,  58,  104, -127, 58,   81,   127, -104,
                                          104, 127, 81,  -58,  -127, -104, -58, 81 };
static const float rotated_scale[1] = { 2.75f / 127 };

START_TEST(example_int8_convrot)
{
    static const double x[16] = { -7, -6, -5, 40, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8 };
    qw_store *s = synthetic();
    qw_tensor w;
    double row[16], y = 0;
    float scratch[16];
    add(s, "l.weight", QW_I8, 1, 16, rotated_codes);
    add(s, "l.weight_scale", QW_F32, 1, 1, rotated_scale);
    mark(s, "{\"format\": \"int8_tensorwise\", "
            "\"params\": {\"convrot\": true, \"convrot_groupsize\": 16}}");
    lay(s, 1, 16, &w, NULL);
    ck_assert_int_eq(w.dtype, QW_I8);
    ck_assert_int_eq(w.rotated, 16);
    ck_assert_ptr_eq(w.data, rotated_codes);
    qw_weight_row(&w, 0, row, scratch);
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
        if (i) {                        /* a factor for each input */
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
    0.052541f, 0.156985f, 0.265284f, 0.379533f, 0.502636f, 0.638953f, 0.794876f, 0.980671f,
};

/* The codes are in the rotated basis: the operand says so, the integers are the example's. */
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
    ck_assert_int_eq(q[0], -64);        /* -0.500986 * 128 = -64.13 */
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

/* --- what fp8 may have beside it, and what is refused ----------------------------------------- */

START_TEST(fp8_scales)
{
    static const byte codes[4] = { 0x38, 0x3c, 0xb8, 0x7e };    /* 1, 1.5, -1, 448 */
    static const uint16_t rows[2] = { 0x4000, 0x3f00 };         /* bf16: 2, 0.5 */
    double row[2];
    float scratch[2];
    qw_tensor w;
    for (int i = 0; i < 4; i++) {
        qw_store *s = synthetic();
        const int each = i >= 2;
        add(s, "l.weight", QW_F8E4M3, 2, 2, codes);
        add(s, i ? "l.weight_scale" : "l.scale_weight", QW_BF16, each ? 2 : i, i == 3, rows);
        lay(s, 2, 2, &w, NULL);
        ck_assert_int_eq(w.scale_stride, each);
        qw_weight_row(&w, 1, row, scratch);
        ck_assert(row[0] == (each ? -0.5 : -2) && row[1] == (each ? 224 : 896));
        qw_store_free(s);
    }
}
END_TEST

/* A scale that is no number, in a file: refused, not carried into pictures. */
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
#define CONVROT ", \"convrot\": true"
#define GROUP(size) ", \"convrot_groupsize\": " size

typedef struct refusal { const char *marker, *word; qw_dtype type; int64_t k; int status; } refusal;

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

/* The table in the header: under the key in the file, then the canonical name. */
START_TEST(header_table)
{
    static const char *const tables[] = {
        "{\"layers\": {\"l\": " FORMAT("int8_tensorwise") CONVROT GROUP("16") "}}}",
        "{\"layers\": {\"p.l\": " FORMAT("int8_tensorwise") CONVROT GROUP("16") "},"
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
    static const struct { const char *name; int status; const char *word; } cases[] = {
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
        qw_store *s = opened(testdata(rel));
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
    Suite *s = suite_create("formats");
    TCase *gguf = tcase_create("gguf"), *made = tcase_create("made");
    TCase *quant = tcase_create("quant");
    tcase_set_timeout(gguf, 120);
    tcase_set_timeout(quant, 120);
    tcase_add_test(gguf, bad_gguf);
    tcase_add_test(gguf, real_gguf);
    tcase_add_checked_fixture(made, make_folder, remove_folder);
    tcase_add_test(made, gguf_contents);
    tcase_add_test(made, gguf_refused);
    tcase_add_test(made, gguf_split);
    tcase_add_loop_test(quant, comfy_quant, 0, 7);
    tcase_add_test(quant, example_int8_convrot);
    tcase_add_test(quant, example_nvfp4);
    tcase_add_test(quant, example_mxfp8);
    tcase_add_test(quant, example_w4a8);
    tcase_add_test(quant, example_awq);
    tcase_add_test(quant, fp8_scales);
    tcase_add_loop_test(quant, refused, 0, 16);
    tcase_add_test(quant, scale_not_finite);
    tcase_add_test(quant, header_table);
    tcase_add_test(quant, bad_quant);
    suite_add_tcase(s, gguf);
    suite_add_tcase(s, made);
    suite_add_tcase(s, quant);
    return run_suite(s);
}
