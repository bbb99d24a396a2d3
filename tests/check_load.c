/* check_load.c - from files to weights: formats, names, quantised layouts, LoRA spellings,
 * residency.
 *
 * Broken files are those of testdata/formats/bad and files made here; each must be refused with the
 * right status and a sentence that names what is wrong.  Whole files are compared with golden
 * values or with the same tensors in another format, within the step of the coarser one. */
#include "load.h"
#include "testing.h"
#include <dirent.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- small tools --------------------------------------------------------------------------- */

static char folder[256];                /* for files made here; gone after the test */

static void make_folder(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/qwload.XXXXXX", tmp && *tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void remove_folder(void)
{
    DIR *d = opendir(folder);
    char path[1024];
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        unlink(path);
    }
    if (d) closedir(d);
    rmdir(folder);
}

static const char *made(const char *name)
{
    static char path[8][600];
    static int next;
    char *out = path[next++ % 8];
    snprintf(out, sizeof path[0], "%s/%s", folder, name);
    return out;
}

static const char *write_file(const char *name, const void *data, size_t bytes)
{
    const char *path = made(name);
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(data, 1, bytes, f), bytes);
    ck_assert_int_eq(fclose(f), 0);
    return path;
}

/* Opens a path as a part; the error is the caller's to look at. */
static qw_store *open_part(const char *path, qw_kind part, qw_kind *found, qw_error *err)
{
    qw_store *s = NULL;
    qw_kind kind = QW_KIND_UNKNOWN;
    if (!qw_store_new(&s, err) && !qw_store_add(s, path, err))
        qw_store_canonical(s, part, &kind, err);
    if (found) *found = kind;
    return s;
}

static qw_store *must_open(const char *path, qw_kind part)
{
    qw_error err = { 0 };
    qw_store *s = open_part(path, part, NULL, &err);
    ck_assert_msg(!err.status, "%s", err.text);
    return s;
}

/* --- writers ------------------------------------------------------------------------------- */

typedef struct item { const char *name, *dtype; int rank; int64_t dim[5]; } item;

static size_t item_bytes(const item *t)
{
    size_t n = !strcmp(t->dtype, "F32") ? 4
               : !strcmp(t->dtype, "U8") || !strcmp(t->dtype, "F8_E4M3") || !strcmp(t->dtype, "I8")
                   ? 1
                   : 2;
    for (int i = 0; i < t->rank; i++) n *= (size_t)t->dim[i];
    return n;
}

typedef struct blob { unsigned char *data; size_t n, room; } blob;

static void append(blob *b, const void *data, size_t n)
{
    if (b->n + n > b->room) {
        b->room = 2 * (b->n + n) + 64;
        b->data = realloc(b->data, b->room);
        ck_assert_ptr_nonnull(b->data);
    }
    if (data) memcpy(b->data + b->n, data, n);
    else memset(b->data + b->n, 0, n);
    b->n += n;
}

static void append_text(blob *b, const char *text) { append(b, text, strlen(text)); }

static void append_number(blob *b, uint64_t v, int width)
{
    unsigned char le[8];
    for (int i = 0; i < width; i++) le[i] = (unsigned char)(v >> 8 * i);
    append(b, le, (size_t)width);
}

/* A safetensors file of the items, every byte of data counting up from 1; prefix before every
 * name. */
static blob safetensors_bytes(const char *prefix, const item *t, int n, size_t pad)
{
    blob head = { 0 }, out = { 0 };
    char line[600];
    size_t at = 0;
    append_text(&head, "{");
    for (int i = 0; i < n; i++) {
        snprintf(line, sizeof line, "%s\"%s%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "",
                 prefix, t[i].name, t[i].dtype);
        append_text(&head, line);
        for (int j = 0; j < t[i].rank; j++) {
            snprintf(line, sizeof line, "%s%lld", j ? "," : "", (long long)t[i].dim[j]);
            append_text(&head, line);
        }
        snprintf(line, sizeof line, "],\"data_offsets\":[%zu,%zu]}", at, at + item_bytes(&t[i]));
        append_text(&head, line);
        at += item_bytes(&t[i]);
    }
    append_text(&head, "}");
    while ((8 + head.n) % 8 != pad) append_text(&head, " ");
    append_number(&out, head.n, 8);
    append(&out, head.data, head.n);
    for (size_t i = 0; i < at; i++) {
        const unsigned char c = (unsigned char)(i + 1);
        append(&out, &c, 1);
    }
    free(head.data);
    return out;
}

static const char *write_safetensors(const char *name, const char *prefix, const item *t, int n)
{
    blob b = safetensors_bytes(prefix, t, n, 0);
    const char *path = write_file(name, b.data, b.n);
    free(b.data);
    return path;
}

/* --- broken files -------------------------------------------------------------------------- */

static json_t *expectations(void)
{
    json_t *json = NULL;
    qw_error err = { 0 };
    ck_assert_msg(!qw_json_file(testdata("formats/bad/expect.json"), &json, &err), "%s", err.text);
    return json;
}

static int starts_with(const char *s, const char *prefix)
{
    return !strncmp(s, prefix, strlen(prefix));
}

static int ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

/* The status behind the exit code that testdata/formats/README.md asks for. */
static int status_fits(const char *name, int status)
{
    if (!strcmp(name, "missing_shard") || starts_with(name, "is_a_directory"))
        return status == QWEN_EIO;
    if (starts_with(name, "version_") || strstr(name, "type_unknown") ||
        starts_with(name, "quant_unsupported"))
        return status == QWEN_EUNSUPPORTED;
    return status == QWEN_EFORMAT || status == QWEN_EMODEL;
}

/* The sentence without the path, in which one of the words must occur. */
static int mentions(const char *text, const char *path, const json_t *words)
{
    char *copy = strdup(text), *at;
    size_t i;
    json_t *word;
    int found = 0;
    ck_assert_ptr_nonnull(copy);
    while ((at = strstr(copy, path))) memmove(at, at + strlen(path), strlen(at + strlen(path)) + 1);
    json_array_foreach(words, i, word) found |= strstr(copy, json_string_value(word)) != NULL;
    free(copy);
    return found;
}

static void open_config(const char *path, qw_error *err)
{
    json_t *json = NULL;
    qw_dit_config c;
    qw_store *s = must_open(testdata("formats/medium/transformer"), QW_KIND_TRANSFORMER);
    if (!qw_json_file(path, &json, err)) qw_dit_configure(&c, json, s, path, err);
    json_decref(json);
    qw_store_free(s);
}

typedef struct net {
    qw_device *dev;
    qw_store *store;
    qw_residency *res;
    qw_weight w[32];
    qw_lora_site site[32];
    int n;
} net;
static void net_open(net *n);
static void net_close(net *n);

static void open_bad(const char *name, const char *path, qw_error *err)
{
    if (starts_with(name, "config_")) {
        open_config(path, err);
    } else if (starts_with(name, "json_")) {
        char file[1024];
        json_t *json = NULL;
        snprintf(file, sizeof file, "%s/model_index.json", path);
        qw_json_file(file, &json, err);
        json_decref(json);
    } else if (starts_with(name, "lora_")) {
        net n = { 0 };
        qw_lora *l = NULL;
        qw_overlay *o = NULL;
        net_open(&n);
        if (!qw_lora_open(&l, path, 1, err))
            qw_overlay_new(&o, &l, 1, n.site, n.n, n.dev, 0, NULL, NULL, err);
        qw_overlay_free(o);
        qw_lora_free(l);
        net_close(&n);
    } else {
        qw_dit_config c;
        qw_store *s = open_part(path, QW_KIND_TRANSFORMER, NULL, err);
        if (!err->status) qw_dit_configure(&c, NULL, s, path, err);
        qw_store_free(s);
    }
}

START_TEST(broken_files)
{
    json_t *all = expectations(), *one;
    const char *name;
    int tried = 0;
    json_object_foreach(all, name, one) {
        qw_error err = { 0 };
        char path[1200];
        if (starts_with(name, "model_index_")) continue;        /* check_api's */
        snprintf(path, sizeof path, "%s/%s", testdata("formats/bad"), name);
        open_bad(name, path, &err);
        tried++;
        if (!err.status && json_is_true(json_object_get(one, "may_load"))) continue;
        ck_assert_msg(status_fits(name, err.status), "%s (%s): status %d, \"%s\"", name,
                      json_string_value(json_object_get(one, "what")), err.status, err.text);
        ck_assert_msg(mentions(err.text, path, json_object_get(one, "error_mentions")),
                      "%s: \"%s\" mentions none of the expected words", name, err.text);
    }
    ck_assert_int_ge(tried, 80);
    json_decref(all);
}
END_TEST

static const item small[] = { { "a", "F32", 2, { 2, 3 } },
                              { "b", "BF16", 1, { 5 } },
                              { "c", "F32", 0, { 0 } },
                              { "d", "F32", 2, { 0, 7 } } };

START_TEST(every_truncation)
{
    blob b = safetensors_bytes("", small, 4, 0);
    for (size_t n = 0; n < b.n; n++) {
        qw_error err = { 0 };
        qw_store *s = NULL;
        qw_store_new(&s, &err);
        qw_store_add(s, write_file("cut.safetensors", b.data, n), &err);
        ck_assert_msg(err.status == QWEN_EFORMAT, "%zu of %zu bytes: status %d", n, b.n,
                      err.status);
        qw_store_free(s);
    }
    free(b.data);
}
END_TEST

/* One byte changed: refused or opened, and whatever is opened lies inside the file. */
static void flip(const char *suffix, const blob *b, int bits)
{
    char name[64];
    unsigned opened = 0, sum = 0;
    snprintf(name, sizeof name, "flip%s", suffix);
    for (size_t i = 0; i < b->n; i++)
        for (int bit = 0; bit < bits; bit++) {
            qw_error err = { 0 };
            qw_store *s = NULL;
            qw_kind kind;
            b->data[i] ^= (unsigned char)(1 << bit);
            qw_store_new(&s, &err);
            if (!qw_store_add(s, write_file(name, b->data, b->n), &err))
                qw_store_canonical(s, QW_KIND_UNKNOWN, &kind, &err);
            for (int64_t k = 0; !err.status && qw_store_entry(s, k); k++) {
                const qw_entry *e = qw_store_entry(s, k);
                if (e->bytes)
                    sum += ((const unsigned char *)e->data)[0] +
                           ((const unsigned char *)e->data)[e->bytes - 1];
            }
            opened += !err.status;
            ck_assert_msg(!err.status == !err.text[0], "status %d, \"%s\"", err.status, err.text);
            b->data[i] ^= (unsigned char)(1 << bit);
            qw_store_free(s);
        }
    ck_assert(opened > 0 && opened < 8 * b->n && sum > 0);
}

START_TEST(flipped_bits)
{
    blob b = safetensors_bytes("", small, 4, 0);
    flip(".safetensors", &b, 8);
    free(b.data);
}
END_TEST

START_TEST(misaligned_data)
{
    for (size_t pad = 0; pad < 8; pad++) {
        blob b = safetensors_bytes("", small, 4, pad);
        qw_error err = { 0 };
        qw_store *s = NULL;
        qw_store_new(&s, &err);
        ck_assert_msg(!qw_store_add(s, write_file("odd.safetensors", b.data, b.n), &err), "%s",
                      err.text);
        const qw_entry *a = qw_store_find(s, "a"), *c = qw_store_find(s, "c"),
                       *d = qw_store_find(s, "d");
        ck_assert(a && c && d && a->rank == 2 && a->dim[1] == 3 && c->rank == 0 && d->bytes == 0);
        ck_assert_int_eq(((const unsigned char *)a->data)[0], 1);
        ck_assert_uint_eq((uintptr_t)a->data % 8, pad);
        qw_store_free(s);
        free(b.data);
    }
}
END_TEST

/* --- GGUF ---------------------------------------------------------------------------------- */

typedef struct gguf {
    blob head, info, data;
    uint64_t kvs, tensors;
    int version;
    uint32_t alignment;
} gguf;

static void gguf_string(blob *b, const char *s)
{
    append_number(b, strlen(s), 8);
    append_text(b, s);
}

static void gguf_u32(gguf *g, const char *key, uint32_t v)
{
    gguf_string(&g->head, key);
    append_number(&g->head, 4, 4);
    append_number(&g->head, v, 4);
    g->kvs++;
}

static void gguf_text(gguf *g, const char *key, const char *v)
{
    gguf_string(&g->head, key);
    append_number(&g->head, 8, 4);
    gguf_string(&g->head, v);
    g->kvs++;
}

/* A tensor of type F32 (0), Q8_0 (8) ... with dims as in the file (fastest first), at an offset. */
static void gguf_tensor(gguf *g, const char *name, int type, const int64_t *dim, int rank,
                        uint64_t offset, size_t size)
{
    gguf_string(&g->info, name);
    append_number(&g->info, (uint64_t)rank, 4);
    for (int i = 0; i < rank; i++) append_number(&g->info, (uint64_t)dim[i], 8);
    append_number(&g->info, (uint64_t)type, 4);
    append_number(&g->info, offset, 8);
    while (g->data.n < offset + size) {
        const unsigned char c = (unsigned char)(g->data.n + 1);
        append(&g->data, &c, 1);
    }
    g->tensors++;
}

static blob gguf_bytes(gguf *g)
{
    blob b = { 0 };
    if (g->alignment) gguf_u32(g, "general.alignment", g->alignment);
    append_text(&b, "GGUF");
    append_number(&b, (uint64_t)(g->version ? g->version : 3), 4);
    append_number(&b, g->tensors, 8);
    append_number(&b, g->kvs, 8);
    append(&b, g->head.data, g->head.n);
    append(&b, g->info.data, g->info.n);
    while (b.n % (g->alignment ? g->alignment : 32)) append(&b, NULL, 1);
    append(&b, g->data.data, g->data.n);
    free(g->head.data);
    free(g->info.data);
    free(g->data.data);
    return b;
}

static const char *write_gguf(const char *name, gguf *g)
{
    blob b = gguf_bytes(g);
    const char *path = write_file(name, b.data, b.n);
    free(b.data);
    return path;
}

static int add_status(const char *path)
{
    qw_error err = { 0 };
    qw_store *s = NULL;
    qw_store_new(&s, &err);
    qw_store_add(s, path, &err);
    qw_store_free(s);
    return err.status;
}

START_TEST(gguf_versions_and_alignment)
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
            ck_assert(y && y->rank == 2 && y->dim[0] == 3 && y->dim[1] == 4 && y->dtype == QW_F32 &&
                      y->bytes == 48);
            ck_assert_int_eq(*(const unsigned char *)y->data, 1); /* offset 256, counted from 1 */
            ck_assert_str_eq(qw_store_metadata(s, "some.key"), "some value");
            ck_assert_str_eq(qw_store_metadata(s, "some.number"), "42");
            ck_assert_ptr_null(qw_store_metadata(s, "no such key"));
            qw_store_free(s);
        }
}
END_TEST

START_TEST(gguf_overlap)
{
    const int64_t dim[2] = { 16, 4 };
    gguf g = { 0 };
    gguf_tensor(&g, "x", 0, dim, 2, 0, 256);
    gguf_tensor(&g, "y", 0, dim, 2, 224, 256);
    ck_assert_int_eq(add_status(write_gguf("o.gguf", &g)), QWEN_EFORMAT);
}
END_TEST

START_TEST(gguf_truncations_and_flips)
{
    const int64_t dim[2] = { 32, 2 };
    gguf g = { 0 };
    gguf_text(&g, "general.architecture", "qwen_image");
    gguf_tensor(&g, "x", 8, dim, 2, 0, 68);
    gguf_tensor(&g, "y", 0, dim, 1, 96, 128);
    blob b = gguf_bytes(&g);
    for (size_t n = 0; n < b.n; n++)
        ck_assert_int_eq(add_status(write_file("t.gguf", b.data, n)), QWEN_EFORMAT);
    flip(".gguf", &b, 4);
    free(b.data);
}
END_TEST

START_TEST(gguf_every_type)
{
    static const struct { int id; qw_dtype type;
    } types[] = {
        { 0, QW_F32 },     { 1, QW_F16 },      { 30, QW_BF16 },   { 2, QW_Q4_0 },
        { 3, QW_Q4_1 },    { 6, QW_Q5_0 },     { 7, QW_Q5_1 },    { 8, QW_Q8_0 },
        { 10, QW_Q2_K },   { 11, QW_Q3_K },    { 12, QW_Q4_K },   { 13, QW_Q5_K },
        { 14, QW_Q6_K },   { 20, QW_IQ4_NL },  { 23, QW_IQ4_XS }, { 16, QW_IQ2_XXS },
        { 17, QW_IQ2_XS }, { 18, QW_IQ3_XXS }, { 19, QW_IQ1_S },  { 21, QW_IQ3_S },
        { 22, QW_IQ2_S },  { 29, QW_IQ1_M },   { 24, QW_I8 },     { 25, QW_I16 },
        { 26, QW_I32 },    { 27, QW_I64 },     { 28, QW_F64 },
    };
    static const int refused[] = { 9, 15, 34, 35, 39, 40, 41, 42, 99 },
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
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        gguf g = { 0 };
        gguf_tensor(&g, "x", refused[i], dim, 2, 0, 4096);
        const int status = add_status(write_gguf("type.gguf", &g));
        ck_assert_msg(status == QWEN_EUNSUPPORTED, "type %d: status %d", refused[i], status);
    }
    for (size_t i = 0; i < sizeof removed / sizeof *removed; i++) {
        gguf g = { 0 };
        gguf_tensor(&g, "x", removed[i], dim, 2, 0, 4096);
        ck_assert_int_eq(add_status(write_gguf("type.gguf", &g)), QWEN_EFORMAT);
    }
}
END_TEST

START_TEST(gguf_split)
{
    const int64_t dim[1] = { 8 };
    const char *first = NULL;
    for (int i = 0; i < 2; i++) {
        gguf g = { 0 };
        gguf_u32(&g, "split.no", (uint32_t)i);
        gguf_u32(&g, "split.count", 2);
        gguf_tensor(&g, i ? "y" : "x", 0, dim, 1, 0, 32);
        const char *path = write_gguf(i ? "m-00002-of-00002.gguf" : "m-00001-of-00002.gguf", &g);
        if (!i) first = path;
    }
    qw_error err = { 0 };
    qw_store *s = NULL;
    qw_store_new(&s, &err);
    ck_assert_msg(!qw_store_add(s, first, &err), "%s", err.text);
    ck_assert(qw_store_find(s, "x") && qw_store_find(s, "y"));
    qw_store_free(s);
    unlink(made("m-00002-of-00002.gguf"));
    ck_assert_int_eq(add_status(made("m-00001-of-00002.gguf")), QWEN_EIO);
}
END_TEST

/* --- names and kinds ----------------------------------------------------------------------- */

static const item transformer[] = {
    { "txt_norm.weight", "F32", 1, { 8 } },
    { "img_in.weight", "F32", 2, { 8, 64 } },
    { "transformer_blocks.0.img_mod.1.weight", "F32", 2, { 48, 8 } },
    { "__index_timestep_zero__", "F32", 1, { 0 } },
    { "proj_out.weight", "F32", 2, { 64, 8 } },
    { "txt_in.weight", "F32", 2, { 8, 8 } },
    { "img_in.bias", "F32", 1, { 8 } },
};

START_TEST(prefixes)
{
    static const char *const prefix[] = {
        "",       "model.diffusion_model.", "model.model.", "net.",
        "model.", "diffusion_model.",       "transformer."
    };
    for (size_t i = 0; i < sizeof prefix / sizeof *prefix; i++) {
        qw_error err = { 0 };
        qw_kind kind;
        qw_dit_config c;
        qw_store *s = open_part(write_safetensors("p.safetensors", prefix[i], transformer, 7),
                                QW_KIND_UNKNOWN, &kind, &err);
        ck_assert_msg(!err.status, "prefix \"%s\": %s", prefix[i], err.text);
        ck_assert_int_eq(kind, QW_KIND_TRANSFORMER);
        for (int k = 0; k < 7; k++)
            ck_assert_msg(qw_store_find(s, transformer[k].name) != NULL, "prefix \"%s\": no %s",
                          prefix[i], transformer[k].name);
        ck_assert_int_eq(qw_store_count(s, "transformer_blocks."), 1);
        json_t *json =
            json_pack("{s:i,s:i,s:i,s:[i,i,i]}", "num_attention_heads", 1, "attention_head_dim", 8,
                      "joint_attention_dim", 8, "axes_dims_rope", 2, 2, 4);
        ck_assert_msg(!qw_dit_configure(&c, json, s, "config", &err), "%s", err.text);
        ck_assert(c.zero_cond_t && !c.additional_t && c.layers == 1 && c.width == 8 && c.in == 64);
        json_decref(json);
        qw_store_free(s);
    }
}
END_TEST

/* One key set after another: what it is, or how it is refused, and a word of the reason. */
static const struct {
    const char *what;
    int n;
    item t[5];
    qw_kind kind;
    int status;
    const char *word;
} kinds[] = {
    { "fun",
      2,
      { { "control_img_in.weight", "F32", 2, { 8, 132 } },
        { "control_blocks.0.after_proj.weight", "F32", 2, { 8, 8 } } },
      QW_KIND_FUN,
      0,
      "" },
    { "blockwise",
      3,
      { { "controlnet_blocks.0.x_rms.weight", "F32", 1, { 8 } },
        { "controlnet_blocks.0.y_rms.weight", "F32", 1, { 8 } },
        { "img_in.weight", "F32", 2, { 8, 64 } } },
      QW_KIND_BLOCKWISE,
      0,
      "" },
    { "instantx",
      3,
      { { "controlnet_x_embedder.weight", "F32", 2, { 8, 64 } },
        { "txt_norm.weight", "F32", 1, { 8 } },
        { "transformer_blocks.0.img_mod.1.weight", "F32", 2, { 48, 8 } } },
      QW_KIND_CONTROLNET,
      0,
      "" },
    { "qwen 2.1",
      2,
      { { "txt_in.text_norm.weight", "F32", 1, { 8 } }, { "img_in.weight", "F32", 2, { 8, 64 } } },
      QW_KIND_QWEN21,
      QWEN_EUNSUPPORTED,
      "2.1" },
    { "qwen 2.1 modulation",
      1,
      { { "modulation.1.weight", "F32", 2, { 48, 8 } } },
      QW_KIND_QWEN21,
      QWEN_EUNSUPPORTED,
      "2.1" },
    { "qwen3",
      2,
      { { "model.layers.0.self_attn.q_norm.weight", "F32", 1, { 8 } },
        { "model.layers.0.self_attn.k_proj.weight", "F32", 2, { 8, 8 } } },
      QW_KIND_QWEN21,
      QWEN_EUNSUPPORTED,
      "2.1" },
    { "2.1 vae",
      2,
      { { "decoder.conv1.weight", "F32", 5, { 8, 64, 1, 1, 1 } },
        { "decoder.middle.0.residual.0.gamma", "F32", 1, { 8 } } },
      QW_KIND_QWEN21,
      QWEN_EUNSUPPORTED,
      "2.1" },
    { "wan 2.2",
      2,
      { { "decoder.conv1.weight", "F32", 5, { 8, 48, 1, 1, 1 } },
        { "decoder.middle.0.residual.0.gamma", "F32", 1, { 8 } } },
      QW_KIND_VAE,
      QWEN_EUNSUPPORTED,
      "2.2" },
    { "sd vae",
      2,
      { { "decoder.conv_in.weight", "F32", 4, { 8, 16, 3, 3 } },
        { "encoder.conv_in.weight", "F32", 4, { 8, 3, 3, 3 } } },
      QW_KIND_UNKNOWN,
      QWEN_EUNSUPPORTED,
      "VAE" },
    { "text, new names",
      4,
      { { "model.language_model.layers.0.self_attn.k_proj.bias", "F32", 1, { 8 } },
        { "model.language_model.norm.weight", "F32", 1, { 8 } },
        { "model.visual.merger.ln_q.weight", "F32", 1, { 8 } },
        { "lm_head.weight", "F32", 2, { 8, 8 } } },
      QW_KIND_TEXT,
      0,
      "" },
    { "lora",
      3,
      { { "transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "F32", 2, { 2, 8 } },
        { "transformer.transformer_blocks.0.attn.to_q.lora_B.weight", "F32", 2, { 8, 2 } },
        { "transformer.transformer_blocks.0.attn.to_q.alpha", "F32", 0, { 0 } } },
      QW_KIND_LORA,
      0,
      "" },
    { "nothing known", 1, { { "xyz", "F32", 1, { 8 } } }, QW_KIND_UNKNOWN, 0, "" },
};

START_TEST(kind_of_files)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        qw_error err = { 0 };
        qw_kind kind = QW_KIND_UNKNOWN;
        qw_store *s = open_part(write_safetensors("k.safetensors", "", kinds[i].t, kinds[i].n),
                                QW_KIND_UNKNOWN, &kind, &err);
        ck_assert_msg(err.status == kinds[i].status, "%s: status %d, \"%s\"", kinds[i].what,
                      err.status, err.text);
        ck_assert_msg(err.status || kind == kinds[i].kind, "%s is a %s", kinds[i].what,
                      qw_kind_name(kind));
        ck_assert_msg(!err.status || strstr(err.text, kinds[i].word), "%s: \"%s\"", kinds[i].what,
                      err.text);
        qw_store_free(s);
    }
    qw_error err = { 0 };
    qw_store *s = open_part(made("k.safetensors"), QW_KIND_VAE, NULL, &err);
    ck_assert_int_eq(err.status, QWEN_EMODEL);
    qw_store_free(s);
}
END_TEST

START_TEST(new_text_names)
{
    qw_store *s =
        must_open(write_safetensors("t.safetensors", "", kinds[9].t, kinds[9].n), QW_KIND_TEXT);
    ck_assert(qw_store_find(s, "model.layers.0.self_attn.k_proj.bias") &&
              qw_store_find(s, "model.norm.weight") &&
              qw_store_find(s, "visual.merger.ln_q.weight") && qw_store_find(s, "lm_head.weight"));
    qw_store_free(s);
    s = must_open(write_safetensors("t.safetensors", "text_encoders.qwen25_7b.transformer.",
                                    kinds[9].t, kinds[9].n),
                  QW_KIND_TEXT);
    ck_assert(qw_store_find(s, "model.norm.weight") &&
              qw_store_find(s, "visual.merger.ln_q.weight"));
    qw_store_free(s);
}
END_TEST

/* All components in one file: each part sees its own tensors, the others are not there. */
START_TEST(all_in_one)
{
    const item all[] = {
        { "model.diffusion_model.txt_norm.weight", "F32", 1, { 8 } },
        { "model.diffusion_model.transformer_blocks.0.img_mod.1.weight", "F32", 2, { 48, 8 } },
        { "model.diffusion_model.img_in.weight", "F32", 2, { 8, 64 } },
        { "text_encoders.qwen25_7b.transformer.model.layers.0.self_attn.k_proj.bias",
          "F32",
          1,
          { 8 } },
        { "text_encoders.qwen25_7b.transformer.scaled_fp8", "U8", 1, { 0 } },
        { "text_encoders.qwen25_7b.transformer.visual.merger.ln_q.weight", "F32", 1, { 8 } },
        { "vae.decoder.conv1.weight", "F32", 5, { 8, 16, 1, 1, 1 } },
        { "vae.decoder.middle.0.residual.0.gamma", "F32", 1, { 8 } },
    };
    const char *path = write_safetensors("aio.safetensors", "", all, 8);
    static const struct { qw_kind part; const char *has, *not; } part[] = {
        { QW_KIND_TRANSFORMER, "txt_norm.weight", "visual.merger.ln_q.weight" },
        { QW_KIND_TEXT, "model.layers.0.self_attn.k_proj.bias", "txt_norm.weight" },
        { QW_KIND_VISION, "visual.merger.ln_q.weight", "decoder.conv_in.weight" },
        { QW_KIND_VAE, "decoder.mid_block.resnets.0.norm1.gamma", "txt_norm.weight" },
    };
    qw_error err = { 0 };
    qw_kind kind;
    qw_store *s = open_part(path, QW_KIND_UNKNOWN, &kind, &err);
    ck_assert_msg(!err.status && kind == QW_KIND_CHECKPOINT, "%s", err.text);
    qw_store_free(s);
    for (int i = 0; i < 4; i++) {
        s = must_open(path, part[i].part);
        ck_assert_msg(qw_store_find(s, part[i].has) != NULL, "%s is not there", part[i].has);
        ck_assert_msg(!qw_store_find(s, part[i].not), "%s is there", part[i].not);
        qw_store_free(s);
    }
}
END_TEST

static const char *wan_names[] = { "conv1.weight",
                                   "conv2.weight",
                                   "encoder.conv1.weight",
                                   "encoder.head.0.gamma",
                                   "encoder.head.2.weight",
                                   "encoder.middle.1.to_qkv.weight",
                                   "encoder.middle.2.residual.6.weight",
                                   "encoder.downsamples.2.resample.1.weight",
                                   "encoder.downsamples.3.shortcut.weight",
                                   "decoder.conv1.weight",
                                   "decoder.middle.0.residual.0.gamma",
                                   "decoder.upsamples.0.residual.2.weight",
                                   "decoder.upsamples.3.resample.1.weight",
                                   "decoder.upsamples.4.shortcut.bias",
                                   "decoder.upsamples.14.residual.3.gamma",
                                   "decoder.head.2.bias" };
static const char *diffusers_names[] = { "quant_conv.weight",
                                         "post_quant_conv.weight",
                                         "encoder.conv_in.weight",
                                         "encoder.norm_out.gamma",
                                         "encoder.conv_out.weight",
                                         "encoder.mid_block.attentions.0.to_qkv.weight",
                                         "encoder.mid_block.resnets.1.conv2.weight",
                                         "encoder.down_blocks.2.resample.1.weight",
                                         "encoder.down_blocks.3.conv_shortcut.weight",
                                         "decoder.conv_in.weight",
                                         "decoder.mid_block.resnets.0.norm1.gamma",
                                         "decoder.up_blocks.0.resnets.0.conv1.weight",
                                         "decoder.up_blocks.0.upsamplers.0.resample.1.weight",
                                         "decoder.up_blocks.1.resnets.0.conv_shortcut.bias",
                                         "decoder.up_blocks.3.resnets.2.norm2.gamma",
                                         "decoder.conv_out.bias" };
enum { WAN = sizeof wan_names / sizeof *wan_names };

START_TEST(wan_vae_names)
{
    static const char *const prefix[] = { "", "vae.", "first_stage_model." };
    item t[WAN];
    for (int i = 0; i < WAN; i++) t[i] = (item){ wan_names[i], "F32", 5, { 16, 16, 1, 1, 1 } };
    for (int p = 0; p < 3; p++) {
        qw_store *s = must_open(write_safetensors("w.safetensors", prefix[p], t, WAN), QW_KIND_VAE);
        for (int i = 0; i < WAN; i++)
            ck_assert_msg(qw_store_find(s, diffusers_names[i]) != NULL, "%s%s is not %s", prefix[p],
                          wan_names[i], diffusers_names[i]);
        qw_store_free(s);
    }
}
END_TEST

/* With R residual blocks a level, decoder index (R + 2) i + j. */
START_TEST(wan_vae_of_one_block)
{
    const item t[] = { { "decoder.conv1.weight", "F32", 5, { 16, 16, 1, 1, 1 } },
                       { "decoder.middle.0.residual.0.gamma", "F32", 1, { 16 } },
                       { "decoder.upsamples.2.resample.1.weight", "F32", 4, { 8, 16, 1, 1 } },
                       { "decoder.upsamples.5.resample.1.weight", "F32", 4, { 8, 16, 1, 1 } },
                       { "decoder.upsamples.4.residual.0.gamma", "F32", 1, { 16 } } };
    qw_store *s = must_open(write_safetensors("r1.safetensors", "", t, 5), QW_KIND_VAE);
    ck_assert(qw_store_find(s, "decoder.up_blocks.1.resnets.1.norm1.gamma") &&
              qw_store_find(s, "decoder.up_blocks.1.upsamplers.0.resample.1.weight"));
    qw_store_free(s);
}
END_TEST

/* The same VAE under both names: equal tensors. */
START_TEST(wan_file_equals_diffusers_file)
{
    qw_store *w = must_open(
        testdata("formats/comfyui/models/vae/qwen_image_vae_medium.safetensors"), QW_KIND_VAE);
    qw_store *d = must_open(testdata("formats/medium/vae"), QW_KIND_VAE);
    int64_t n = 0;
    for (const qw_entry *e; (e = qw_store_entry(d, n)); n++) {
        const qw_entry *f = qw_store_find(w, e->name);
        ck_assert_msg(f != NULL, "\"%s\" has no match", e->name);
        ck_assert_msg(f->rank == e->rank && !memcmp(f->dim, e->dim, sizeof f->dim) &&
                          f->bytes == e->bytes && !memcmp(f->data, e->data, e->bytes),
                      "\"%s\" differs", e->name);
    }
    ck_assert_int_eq(n, 194);
    qw_store_free(w);
    qw_store_free(d);
}
END_TEST

START_TEST(link_files)
{
    char *to = NULL;
    qw_error err = { 0 };
    write_safetensors("real.safetensors", "", small, 4);
    const char *link = write_file("link", "./real.safetensors", strlen("./real.safetensors"));
    ck_assert_int_eq(qw_follow_link_file(link, &to, &err), 1);
    ck_assert_msg(to && ends_with(to, "real.safetensors"), "%s", to ? to : "nothing");
    free(to);
    ck_assert_int_eq(add_status(link), QWEN_OK);
    ck_assert_int_eq(qw_follow_link_file(write_file("no", "./missing", 9), &to, &err), 0);
    ck_assert_int_eq(qw_follow_link_file(made("real.safetensors"), &to, &err), 0);
    ck_assert_int_eq(qw_follow_link_file(made("not there"), &to, &err), 0);
    ck_assert_int_eq(qw_follow_link_file(write_file("nul", "./real.safetensors\0x", 20), &to, &err),
                     0);
    ck_assert_int_eq(err.status, 0);
    ck_assert_int_ne(add_status(write_file("self", "self", 4)),
                     QWEN_OK); /* and does not loop for ever */
}
END_TEST

/* --- weights ------------------------------------------------------------------------------- */

static void net_open(net *n)
{
    qw_error err = { 0 };
    static const char *const names[] = {
        "attn.to_q",          "attn.to_k",       "attn.to_v",          "attn.add_q_proj",
        "attn.add_k_proj",    "attn.add_v_proj", "attn.to_out.0",      "attn.to_add_out",
        "img_mlp.net.0.proj", "img_mlp.net.2",   "txt_mlp.net.0.proj", "txt_mlp.net.2",
        "img_mod.1",          "txt_mod.1"
    };
    static const char *const outer[] = { "img_in",
                                         "txt_in",
                                         "proj_out",
                                         "norm_out.linear",
                                         "time_text_embed.timestep_embedder.linear_1",
                                         "time_text_embed.timestep_embedder.linear_2" };
    char module[128];
    n->store = must_open(testdata("formats/medium/transformer"), QW_KIND_TRANSFORMER);
    ck_assert_msg(!qw_device_open("ref", 1, &n->dev, &err), "%s", err.text);
    ck_assert_msg(!qw_residency_new(&n->res, n->dev, 0, &err), "%s", err.text);
    qw_loader l = { .store = n->store, .res = n->res, .err = &err };
    l.group = qw_group_new(n->res, "all");
    for (size_t i = 0; i < 20; i++) {
        snprintf(module, sizeof module, "%s%s", i < 14 ? "transformer_blocks.0." : "",
                 i < 14 ? names[i] : outer[i - 14]);
        char weight[160];
        snprintf(weight, sizeof weight, "%s.weight", module);
        const qw_entry *e = qw_store_find(n->store, weight);
        ck_assert_msg(e != NULL, "no %s", weight);
        qw_load_part(&l, &n->w[i], e->dim[0], e->dim[1], 1, "%s", module);
        n->site[i] = (qw_lora_site){ &n->w[i].part[0], e->dim[0], e->dim[1] };
    }
    n->n = 20;
    ck_assert_msg(!err.status && !qw_residency_commit(n->res, &err), "%s", err.text);
}

static void net_close(net *n)
{
    for (int i = 0; i < n->n; i++) qw_weight_free(&n->w[i]);
    qw_residency_free(n->res);
    qw_store_free(n->store);
    if (n->dev) n->dev->close(n->dev);
}

/* A store, a device and what is loaded from it, one module at a time. */
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
    ck_assert_msg(!qw_device_open("ref", 1, &b->dev, &b->err), "%s", b->err.text);
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
    float *scratch = malloc((size_t)k * sizeof *scratch);
    ck_assert(out && scratch);
    qw_load_part(&b->l, &w, n, k, 0, "%s", module);
    ck_assert_msg(!b->err.status, "%s", b->err.text);
    ck_assert_int_eq(w.parts > 0, 1);
    int64_t row = 0, at = 0;
    for (int p = 0; p < w.parts; p++)
        for (int64_t i = 0; i < w.part[p].w.dim[0]; i++, row++)
            if (row % step == 0) qw_weight_row(&w.part[p].w, i, out + k * at++, scratch);
    ck_assert_int_eq(row, n);
    qw_weight_free(&w);
    free(scratch);
    return out;
}

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

#define MODELS "formats/comfyui/models/diffusion_models/"
static const struct { const char *file; double step;
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
    static const struct { const char *name; int64_t n, k;
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
    static const struct { const char *file, *scale; int rows;
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
            const double want =
                (double)qw_f8e4m3_to_f32(((const unsigned char *)w->data)[j]) * (double)scale;
            ck_assert_double_eq(rows[j], want);
        }
        free(rows);
        bench_close(&b);
    }
}
END_TEST

#define TEXTS "formats/comfyui/models/text_encoders/"
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

START_TEST(whole_directories)
{
    static const struct { const char *path; qw_kind part;
    } d[] = { { "tiny/transformer", QW_KIND_TRANSFORMER },
              { "tiny/text_encoder", QW_KIND_TEXT },
              { "tiny/vae", QW_KIND_VAE },
              { "tiny/text_encoder", QW_KIND_VISION },
              { "tiny-controlnet/controlnet", QW_KIND_CONTROLNET },
              { "tiny-layered/transformer", QW_KIND_TRANSFORMER },
              { "tiny-layered/vae", QW_KIND_VAE },
              { "fun-controlnet/fun_controlnet_tiny.safetensors", QW_KIND_CONTROLNET } };
    for (size_t i = 0; i < sizeof d / sizeof *d; i++)
        qw_store_free(must_open(testdata(d[i].path), d[i].part));
}
END_TEST

START_TEST(configurations)
{
    qw_error err = { 0 };
    json_t *json = NULL;
    qw_text_config t;
    qw_vision_config v;
    qw_dit_config d;
    qw_vae_config a;
    qw_schedule_config c;
    qw_store *s = must_open(testdata("tiny/text_encoder"), QW_KIND_TEXT);
    ck_assert(!qw_json_file(testdata("tiny/text_encoder/config.json"), &json, &err));
    ck_assert_msg(!qw_text_configure(&t, json, s, "text", &err), "%s", err.text);
    ck_assert(t.width == 32 && t.layers == 3 && t.heads == 4 && t.kv_heads == 2 && t.head == 8 &&
              t.ff == 48 && !t.tied && t.section[2] == 2 && t.theta == 1e6 &&
              t.image_token == 151655);
    ck_assert_msg(!qw_vision_configure(&v, json, NULL, s, "vision", &err), "%s", err.text);
    ck_assert(v.depth == 4 && v.width == 32 && v.heads == 2 && v.fulls == 2 && v.full[1] == 3 &&
              v.window == 56 && v.channels == 3 && v.max_pixels == 12845056);
    json_decref(json);
    qw_store_free(s);
    s = must_open(testdata("tiny-layered/transformer"), QW_KIND_TRANSFORMER);
    ck_assert(!qw_json_file(testdata("tiny-layered/transformer/config.json"), &json, &err));
    ck_assert_msg(!qw_dit_configure(&d, json, s, "dit", &err), "%s", err.text);
    ck_assert(d.layers == 3 && d.heads == 3 && d.head == 16 && d.width == 48 &&
              d.text_width == 32 && d.axes[0] == 4 && d.additional_t && d.layer3d &&
              !d.zero_cond_t && d.out == 16);
    json_decref(json);
    qw_store_free(s);
    s = must_open(testdata("tiny-layered/vae"), QW_KIND_VAE);
    ck_assert(!qw_json_file(testdata("tiny-layered/vae/config.json"), &json, &err));
    ck_assert_msg(!qw_vae_configure(&a, json, s, "vae", &err), "%s", err.text);
    ck_assert(a.base == 8 && a.z == 16 && a.levels == 4 && a.res_blocks == 2 && a.channels == 4 &&
              a.std[1] == 1.07);
    json_decref(json);
    qw_store_free(s);
    ck_assert(
        !qw_json_file(testdata("tiny-lightning/scheduler/scheduler_config.json"), &json, &err));
    ck_assert_msg(!qw_schedule_configure(&c, json, "schedule", &err), "%s", err.text);
    ck_assert(c.terminal == 0 && c.max_len == 8192 && c.dynamic && !c.linear &&
              c.base_shift > 1.0986);
    json_decref(json);
    ck_assert(!qw_schedule_configure(&c, NULL, "schedule", &err) && c.terminal == 0.02 &&
              c.max_shift == 0.9);
}
END_TEST

/* What a GGUF says about its heads, without a config.json. */
START_TEST(gguf_configuration)
{
    const int64_t q[2] = { 32, 32 }, k[2] = { 32, 16 }, one[1] = { 32 }, bias[1] = { 16 };
    gguf g = { 0 };
    gguf_text(&g, "general.architecture", "qwen2vl");
    gguf_u32(&g, "qwen2vl.attention.head_count", 4);
    gguf_u32(&g, "qwen2vl.attention.head_count_kv", 2);
    gguf_string(&g.head, "qwen2vl.rope.dimension_sections");
    append_number(&g.head, 9, 4);
    append_number(&g.head, 5, 4);
    append_number(&g.head, 4, 8);
    for (int i = 0; i < 4; i++) append_number(&g.head, (const uint64_t[]){ 2, 1, 1, 0 }[i], 4);
    g.kvs++;
    gguf_tensor(&g, "blk.0.attn_q.weight", 0, q, 2, 0, 4096);
    gguf_tensor(&g, "blk.0.attn_k.weight", 0, k, 2, 4096, 2048);
    gguf_tensor(&g, "blk.0.attn_k.bias", 0, bias, 1, 6144, 64);
    gguf_tensor(&g, "output_norm.weight", 0, one, 1, 6208, 128);
    qw_error err = { 0 };
    qw_text_config c;
    qw_store *s = must_open(write_gguf("text.gguf", &g), QW_KIND_TEXT);
    ck_assert(qw_store_find(s, "model.layers.0.self_attn.k_proj.bias") != NULL);
    ck_assert_msg(!qw_text_configure(&c, NULL, s, "text", &err), "%s", err.text);
    ck_assert(c.heads == 4 && c.kv_heads == 2 && c.head == 8 && c.width == 32 && c.layers == 1);
    ck_assert(c.section[0] == 2 && c.section[1] == 1 && c.section[2] == 1);
    qw_store_free(s);
}
END_TEST

/* Wrong shapes and absent tensors are named, with what was expected and found. */
START_TEST(loader_messages)
{
    bench b;
    qw_weight w = { 0 };
    qw_tensor v;
    bench_open(&b, testdata("formats/medium/transformer"), QW_KIND_TRANSFORMER);
    qw_load_part(&b.l, &w, 256, 65, 1, "img_in");
    ck_assert_int_eq(b.err.status, QWEN_EMODEL);
    ck_assert_msg(strstr(b.err.text, "img_in.weight") && strstr(b.err.text, "64") &&
                      strstr(b.err.text, "65"),
                  "%s", b.err.text);
    memset(&b.err, 0, sizeof b.err);
    qw_load_part(&b.l, &w, 256, 64, 1, "no_such.%d", 7);
    ck_assert_int_eq(b.err.status, QWEN_EMODEL);
    ck_assert_msg(strstr(b.err.text, "no_such.7.weight") != NULL, "%s", b.err.text);
    memset(&b.err, 0, sizeof b.err);
    qw_load_vector(&b.l, &v, 257, "txt_norm.weight");
    ck_assert_int_eq(b.err.status, QWEN_EMODEL);
    ck_assert_msg(strstr(b.err.text, "txt_norm.weight") && strstr(b.err.text, "257") &&
                      strstr(b.err.text, "256"),
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

/* --- LoRA spellings ------------------------------------------------------------------------ */

#define LORAS "formats/comfyui/models/loras/"
static const struct { const char *file; double factor;
} spellings[] = {
    { LORAS "peft_bare.safetensors", 1 },
    { LORAS "peft_default_adapter.safetensors", 1 },
    { LORAS "base_model_prefix.safetensors", 1 },
    { LORAS "lora_dot_up.safetensors", 1 },
    { LORAS "lora_linear_layer.safetensors", 1 },
    { LORAS "lora_B_no_weight.safetensors", 1 },
    { LORAS "underscore_lora_up.safetensors", 1 },
    { LORAS "peft_with_alpha.safetensors", 0.5 },
    { LORAS "peft_metadata.safetensors", 0.5 },
    { LORAS "comfyui_diffusion_model.safetensors", 0.5 },
    { LORAS "model_diffusion_model.safetensors", 0.5 },
    { LORAS "kohya_lora_unet.safetensors", 0.5 },
    { LORAS "lora_transformer.safetensors", 0.5 },
    { LORAS "lycoris_underscored.safetensors", 0.5 },
    { LORAS "lightning_bare.safetensors", 0.5 },
};

static void lay(net *n, const char *file, double strength, qw_overlay **o)
{
    qw_error err = { 0 };
    qw_lora *l = NULL;
    ck_assert_msg(!qw_lora_open(&l, testdata(file), strength, &err), "%s", err.text);
    ck_assert_msg(!qw_overlay_new(o, &l, 1, n->site, n->n, n->dev, 0, NULL, NULL, &err), "%s",
                  err.text);
    qw_lora_free(l);
}

/* All spellings hold the same matrices: the factors are those of the first, times alpha / rank. */
START_TEST(lora_spellings)
{
    net one = { 0 }, two = { 0 };
    qw_overlay *p = NULL, *q = NULL;
    int laid = 0;
    net_open(&one);
    net_open(&two);
    lay(&one, LORAS "peft_transformer.safetensors", 1, &p);
    lay(&two, spellings[_i].file, 2, &q);
    for (int i = 0; i < one.n; i++) {
        const qw_weight_part *a = one.site[i].part, *b = two.site[i].part;
        ck_assert_int_eq(qw_present(&a->a), qw_present(&b->a));
        if (!qw_present(&a->a)) continue;
        laid++;
        ck_assert_int_eq(b->a.dim[0], 4);
        for (int64_t j = 0; j < 4 * one.site[i].k; j++)
            ck_assert_float_eq(((float *)a->a.data)[j], ((float *)b->a.data)[j]);
        for (int64_t j = 0; j < 4 * one.site[i].n; j++)
            ck_assert_float_eq((float)(2 * spellings[_i].factor) * ((float *)a->b.data)[j],
                               ((float *)b->b.data)[j]);
    }
    ck_assert_int_ge(laid, 8);
    qw_overlay_free(p);
    qw_overlay_free(q);
    for (int i = 0; i < two.n; i++) ck_assert(!qw_present(&two.site[i].part->a));
    net_close(&one);
    net_close(&two);
}
END_TEST

/* --- residency ----------------------------------------------------------------------------- */

/* A device whose memory is not the host's as far as residency knows, and whose two queues run
 * later, in a seeded random interleaving that respects nothing but the waits: a forgotten wait
 * shows. */
typedef struct task {
    enum { COPY, WAIT, CHECK } what;
    void *to;
    const void *from;
    void *own;
    size_t n;
    uint64_t ticket;
} task;
typedef struct far_device {
    qw_device dev;
    task      queue[QW_NQUEUES][4096];
    int       head[QW_NQUEUES], tail[QW_NQUEUES];
    uint64_t
        done[QW_NQUEUES]; /* tickets passed: a ticket is queue number * 2^32 + tail at the mark */
    uint64_t  seed, allocated;
    int       checks, wrong;
    void     *block[256];
    int       blocks;
} far_device;

static void far_step(far_device *d, int q)
{
    if (d->head[q] == d->tail[q]) return;
    task *t = &d->queue[q][d->head[q]];
    if (t->what == WAIT && d->head[t->ticket >> 32] < (int)(t->ticket & 0xffffffff))
        return; /* not yet */
    if (t->what == COPY) memcpy(t->to, t->from, t->n);
    if (t->what == CHECK) {
        d->checks++;
        d->wrong += memcmp(t->to, t->from, t->n) != 0;
    }
    free(t->own);
    d->head[q]++;
}

static void far_some(far_device *d)
{
    d->seed = d->seed * 6364136223846793005u + 1442695040888963407u;
    for (uint64_t n = d->seed >> 60; n; n--) {
        d->seed = d->seed * 6364136223846793005u + 1442695040888963407u;
        far_step(d, (int)(d->seed >> 63));
    }
}

static void far_push(far_device *d, int q, task t)
{
    ck_assert_int_lt(d->tail[q], 4096);
    d->queue[q][d->tail[q]++] = t;
    far_some(d);
}

static int far_alloc(qw_device *dev, size_t bytes, void **out)
{
    far_device *d = (far_device *)dev;
    if (d->allocated + bytes > dev->memory || posix_memalign(out, 256, bytes ? bytes : 1))
        return QWEN_ENOMEM;
    d->allocated += bytes;
    return QWEN_OK;
}

static void far_free(qw_device *dev, void *p) { (void)dev; free(p); }

static int far_put(qw_device *dev, int queue, void *dst, const void *src, size_t bytes)
{
    void *copy = malloc(bytes ? bytes : 1);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, src, bytes);
    far_push((far_device *)dev, queue, (task){ COPY, dst, copy, copy, bytes, 0 });
    return QWEN_OK;
}

static int far_mark(qw_device *dev, int queue, uint64_t *ticket)
{
    *ticket = (uint64_t)queue << 32 | (uint64_t)((far_device *)dev)->tail[queue];
    return QWEN_OK;
}

static int far_wait(qw_device *dev, int queue, uint64_t ticket)
{
    far_push((far_device *)dev, queue, (task){ .what = WAIT, .ticket = ticket });
    return QWEN_OK;
}

static int far_sync(qw_device *dev)
{
    far_device *d = (far_device *)dev;
    for (int turns = 0; d->head[0] < d->tail[0] || d->head[1] < d->tail[1]; turns++) {
        ck_assert_msg(turns < 1000000, "the queues wait for each other");
        far_step(d, turns & 1);
    }
    return QWEN_OK;
}

static size_t far_packed(qw_device *dev, const qw_tensor *w)
{
    (void)dev;
    return (size_t)w->dim[0] * qw_row_bytes(w->dtype, w->dim[1]);
}

static int far_pack(qw_device *dev, int queue, qw_tensor *dst, const qw_tensor *w)
{
    void *data = dst->data;
    far_push((far_device *)dev, queue, (task){ COPY, data, w->data, NULL, far_packed(dev, w), 0 });
    *dst = *w;
    dst->data = data;
    dst->host = w;
    return QWEN_OK;
}

enum { GROUPS = 7, ROWS = 16, COLS = 32, GROUP_BYTES = 2 * ROWS * COLS * 2 };

static void far_open(far_device *d, uint64_t seed)
{
    memset(d, 0, sizeof *d);
    d->seed = seed;
    d->dev = (qw_device){ .abi = QW_BACKEND_ABI,
                          .name = "far",
                          .memory = 1 << 20,
                          .prefer = QW_F32,
                          .wide = QW_F32,
                          .alloc = far_alloc,
                          .free = far_free,
                          .put = far_put,
                          .mark = far_mark,
                          .wait = far_wait,
                          .sync = far_sync,
                          .packed = far_packed,
                          .pack = far_pack };
}

/* GROUPS blocks of two matrices each, in a file of its own. */
static qw_store *blocks_file(void)
{
    static char name[2 * GROUPS][40];
    item t[2 * GROUPS];
    for (int i = 0; i < 2 * GROUPS; i++) {
        snprintf(name[i], sizeof name[i], "block.%d.%c.weight", i / 2, i % 2 ? 'b' : 'a');
        t[i] = (item){ name[i], "BF16", 2, { ROWS, COLS } };
    }
    blob b = safetensors_bytes("", t, 2 * GROUPS, 0);
    const size_t data = 2 * GROUPS * ROWS * COLS * 2;
    for (size_t i = 0; i < data; i++) b.data[b.n - data + i] = (unsigned char)(i * 31 + i / 251);
    qw_error err = { 0 };
    qw_store *s = NULL;
    qw_store_new(&s, &err);
    ck_assert_msg(!qw_store_add(s, write_file("blocks.safetensors", b.data, b.n), &err), "%s",
                  err.text);
    free(b.data);
    return s;
}

static void load_blocks(qw_store *s, qw_residency *res, qw_group **g, qw_weight (*w)[2],
                        qw_error *err)
{
    for (int i = 0; i < GROUPS; i++) {
        qw_loader l = { .store = s, .res = res, .err = err };
        l.group = g[i] = qw_group_new(res, "block %d", i);
        for (int k = 0; k < 2; k++)
            qw_load_part(&l, &w[i][k], ROWS, COLS, 0, "block.%d.%c", i, "ab"[k]);
    }
    ck_assert_msg(!err->status && !qw_residency_commit(res, err), "%s", err->text);
}

/* Walks over the blocks several times; whatever the interleaving, each op must meet its own
 * weights. */
static void stream_with(uint64_t memory, uint64_t seed, int streamed_expected)
{
    far_device *d = malloc(sizeof *d);
    qw_error err = { 0 };
    qw_residency *res = NULL;
    qw_group *g[GROUPS];
    qw_weight w[GROUPS][2] = { 0 };
    qw_run r;
    ck_assert_ptr_nonnull(d);
    far_open(d, seed);
    qw_store *s = blocks_file();
    ck_assert(!qw_residency_new(&res, &d->dev, memory, &err));
    load_blocks(s, res, g, w, &err);
    ck_assert_uint_le(d->allocated, memory);
    ck_assert_uint_eq(qw_residency_bytes(res, 1) / GROUP_BYTES, (uint64_t)streamed_expected);
    qw_run_init(&r, &d->dev, NULL);
    for (int pass = 0; pass < 5; pass++)
        for (int i = 0; i < GROUPS; i++) {
            if (pass == 3 && i % 3 == 1) continue; /* not every walk takes every block */
            qw_group_begin(&r, g[i]);
            for (int k = 0; k < 2; k++) {
                const qw_tensor *t = &w[i][k].part[0].w;
                ck_assert(t->host != NULL && t->data != t->host->data);
                far_push(d, QW_COMPUTE,
                         (task){ CHECK, t->data, t->host->data, NULL, ROWS * COLS * 2, 0 });
            }
            qw_group_end(&r, g[i]);
        }
    ck_assert_int_eq(r.error.status, 0);
    far_sync(&d->dev);
    ck_assert_int_ge(d->checks, 60);
    ck_assert_msg(!d->wrong, "%d of %d uses met other weights (seed %llu)", d->wrong, d->checks,
                  (unsigned long long)seed);
    for (int i = 0; i < GROUPS; i++)
        for (int k = 0; k < 2; k++) qw_weight_free(&w[i][k]);
    qw_residency_free(res);
    qw_store_free(s);
    free(d);
}

START_TEST(all_kept) { stream_with(100 * GROUP_BYTES, 1, 0); }
END_TEST
START_TEST(streams_in_two_slots)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        stream_with(GROUP_BYTES, seed, GROUPS);
        stream_with(2 * GROUP_BYTES, seed, GROUPS);
        stream_with(4 * GROUP_BYTES, seed, GROUPS - 2);
        stream_with(6 * GROUP_BYTES, seed, GROUPS - 4);
    }
}
END_TEST

START_TEST(too_little_memory)
{
    far_device *d = malloc(sizeof *d);
    qw_error err = { 0 };
    qw_residency *res = NULL;
    qw_weight w = { 0 };
    ck_assert_ptr_nonnull(d);
    far_open(d, 1);
    qw_store *s = blocks_file();
    qw_residency_new(&res, &d->dev, GROUP_BYTES / 4, &err);
    qw_loader l = { .store = s, .res = res, .err = &err };
    l.group = qw_group_new(res, "block 0");
    qw_load_part(&l, &w, ROWS, COLS, 0, "block.0.a");
    ck_assert_int_eq(qw_residency_commit(res, &err), QWEN_ENOMEM);
    qw_weight_free(&w);
    qw_residency_free(res);
    qw_store_free(s);
    free(d);
}
END_TEST

/* A host device with a bound gives pages back; what it uses is the file's all the same. */
START_TEST(host_memory_bound)
{
    qw_device *dev;
    qw_error err = { 0 };
    qw_residency *res = NULL;
    qw_group *g[GROUPS];
    qw_weight w[GROUPS][2] = { 0 };
    qw_run r;
    qw_store *s = blocks_file();
    ck_assert(!qw_device_open("ref", 1, &dev, &err) &&
              !qw_residency_new(&res, dev, GROUP_BYTES, &err));
    load_blocks(s, res, g, w, &err);
    qw_run_init(&r, dev, NULL);
    for (int pass = 0; pass < 3; pass++)
        for (int i = 0; i < GROUPS; i++) {
            qw_group_begin(&r, g[i]);
            for (int k = 0; k < 2; k++) {
                const unsigned char *data = w[i][k].part[0].w.data;
                for (size_t j = 0; j < ROWS * COLS * 2; j++) {
                    const size_t at = (size_t)(2 * i + k) * ROWS * COLS * 2 + j;
                    ck_assert_int_eq(data[j], (unsigned char)(at * 31 + at / 251));
                }
            }
            qw_group_end(&r, g[i]);
        }
    ck_assert_int_eq(r.error.status, 0);
    for (int i = 0; i < GROUPS; i++)
        for (int k = 0; k < 2; k++) qw_weight_free(&w[i][k]);
    qw_residency_free(res);
    qw_store_free(s);
    dev->close(dev);
}
END_TEST

/* A weight that LoRA replaced stays replaced while its group streams, and comes back afterwards. */
START_TEST(overlay_outlives_streaming)
{
    far_device *d = malloc(sizeof *d);
    qw_error err = { 0 };
    qw_residency *res = NULL;
    qw_group *g[GROUPS];
    qw_weight w[GROUPS][2] = { 0 };
    qw_run r;
    ck_assert_ptr_nonnull(d);
    far_open(d, 7);
    qw_store *s = blocks_file();
    ck_assert(!qw_residency_new(&res, &d->dev, 2 * GROUP_BYTES, &err));
    load_blocks(s, res, g, w, &err);
    qw_run_init(&r, &d->dev, NULL);
    qw_weight_part *part = &w[3][0].part[0];
    const qw_weight_part before = *part;
    float patched[4] = { 1, 2, 3, 4 };
    part->w = qw_dense2(patched, QW_F32, ROWS, COLS);
    for (int i = 0; i < GROUPS; i++) {
        qw_group_begin(&r, g[i]);
        if (i == 3) ck_assert_ptr_eq(part->w.data, patched);
        qw_group_end(&r, g[i]);
    }
    *part = before;
    for (int i = 0; i < GROUPS; i++) {
        qw_group_begin(&r, g[i]);
        if (i == 3)
            far_push(d, QW_COMPUTE,
                     (task){ CHECK, part->w.data, part->w.host->data, NULL, ROWS * COLS * 2, 0 });
        qw_group_end(&r, g[i]);
    }
    far_sync(&d->dev);
    ck_assert(d->checks == 1 && !d->wrong && !r.error.status);
    for (int i = 0; i < GROUPS; i++)
        for (int k = 0; k < 2; k++) qw_weight_free(&w[i][k]);
    qw_residency_free(res);
    qw_store_free(s);
    free(d);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("load");
    TCase *c = tcase_create("files");
    tcase_set_timeout(c, 120);
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_test(c, broken_files);
    tcase_add_test(c, every_truncation);
    tcase_add_test(c, flipped_bits);
    tcase_add_test(c, misaligned_data);
    tcase_add_test(c, gguf_versions_and_alignment);
    tcase_add_test(c, gguf_overlap);
    tcase_add_test(c, gguf_truncations_and_flips);
    tcase_add_test(c, gguf_every_type);
    tcase_add_test(c, gguf_split);
    tcase_add_test(c, link_files);
    suite_add_tcase(s, c);
    c = tcase_create("names");
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_test(c, prefixes);
    tcase_add_test(c, kind_of_files);
    tcase_add_test(c, new_text_names);
    tcase_add_test(c, all_in_one);
    tcase_add_test(c, wan_vae_names);
    tcase_add_test(c, wan_vae_of_one_block);
    tcase_add_test(c, wan_file_equals_diffusers_file);
    tcase_add_test(c, whole_directories);
    tcase_add_test(c, configurations);
    tcase_add_test(c, gguf_configuration);
    suite_add_tcase(s, c);
    c = tcase_create("weights");
    tcase_set_timeout(c, 120);
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_loop_test(c, quantised_layouts, 0, (int)(sizeof layouts / sizeof *layouts));
    tcase_add_loop_test(c, same_weights, 0, (int)(sizeof same / sizeof *same));
    tcase_add_test(c, fp8_scales);
    tcase_add_test(c, mmproj);
    tcase_add_test(c, loader_messages);
    tcase_add_test(c, convolutions);
    tcase_add_loop_test(c, lora_spellings, 0, (int)(sizeof spellings / sizeof *spellings));
    suite_add_tcase(s, c);
    c = tcase_create("residency");
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_test(c, all_kept);
    tcase_add_test(c, streams_in_two_slots);
    tcase_add_test(c, too_little_memory);
    tcase_add_test(c, host_memory_bound);
    tcase_add_test(c, overlay_outlives_streaming);
    suite_add_tcase(s, c);
    return run_suite(s);
}
