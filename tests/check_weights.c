/* check_weights.c - from files to weights: broken files, kinds and names, LoRA, residency.
 *
 * Files that no published writer makes (other prefixes, two-dimensional VAEs, misaligned data) are
 * written here, out of those in testdata, into a folder that goes away with the test. */
#include "host.h"
#include "net.h"
#include "store.h"
#include "testing.h"
#include <ftw.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FORMATS "formats/"
#define BAD FORMATS "bad/"
#define COMFY FORMATS "comfyui/models/"
#define MEDIUM FORMATS "medium/transformer"

static qw_error err;

static void good(int status) { ck_assert_msg(!status && !err.status, "%s", err.text); }

/* --- a folder of our own ---------------------------------------------------------------------- */

static char folder[256];

static void make_folder(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/check_weights.XXXXXX", tmp && *tmp ? tmp : "/tmp");
    ck_assert_msg(mkdtemp(folder) != NULL, "no folder %s", folder);
    err = (qw_error){ 0 };
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st; (void)type; (void)walk;
    return remove(path);
}

static void remove_folder(void) { nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS); }

/* Path of a file in it; good until the fourth call after this one. */
static const char *ours(const char *name)
{
    static char path[4][512];
    static int next;
    char *out = path[next++ % 4];
    snprintf(out, sizeof path[0], "%s/%s", folder, name);
    return out;
}

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "wb");
    ck_assert_msg(f && fputs(text, f) >= 0 && !fclose(f), "%s cannot be written", path);
}

static int64_t count(const qw_entry *e)
{
    int64_t n = 1;
    for (int i = 0; i < e->rank; i++) n *= e->dim[i];
    return n;
}

static const char *dtype_name(qw_dtype t)
{
    switch (t) {
    case QW_F64: return "F64";
    case QW_F32: return "F32";
    case QW_BF16: return "BF16";
    case QW_F16: return "F16";
    case QW_F8E4M3: return "F8_E4M3";
    case QW_F8E5M2: return "F8_E5M2";
    case QW_U8: return "U8";
    default: ck_abort_msg("this test does not write %s", qw_dtype_name(t)); return "";
    }
}

/* Tensors to be written: names of our own, data that somebody else keeps. */
typedef struct sheaf { qw_entry *e; int n; } sheaf;

static qw_entry *sheaf_add(sheaf *s, const char *name, qw_entry e)
{
    s->e = realloc(s->e, (size_t)(s->n + 1) * sizeof *s->e);
    e.name = strdup(name);
    s->e[s->n] = e;
    return &s->e[s->n++];
}

static qw_entry *sheaf_find(sheaf *s, const char *name)
{
    for (int i = 0; i < s->n; i++)
        if (!strcmp(s->e[i].name, name)) return &s->e[i];
    ck_abort_msg("no tensor %s", name);
    return NULL;
}

/* One value under a name, where only names count. */
static void sheaf_name(sheaf *s, const char *name)
{
    static const float one = 1;
    sheaf_add(s, name,
              (qw_entry){ .data = &one, .bytes = 4, .dtype = QW_F32, .rank = 1, .dim = { 1 } });
}

static void sheaf_free(sheaf *s)
{
    for (int i = 0; i < s->n; i++) free(s->e[i].name);
    free(s->e);
    *s = (sheaf){ 0 };
}

/* The file of a sheaf; pad: spaces after the header, which move the data.  Frees the sheaf. */
static const char *sheaf_write(sheaf *s, const char *name, int pad)
{
    const char *path = ours(name);
    char *header = NULL;
    size_t length = 0, at = 0;
    FILE *h = open_memstream(&header, &length), *f = fopen(path, "wb");
    ck_assert(h && f);
    fputc('{', h);
    for (int i = 0; i < s->n; i++) {
        const qw_entry *e = &s->e[i];
        fprintf(h, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", e->name,
                dtype_name(e->dtype));
        for (int k = 0; k < e->rank; k++) fprintf(h, "%s%lld", k ? "," : "", (long long)e->dim[k]);
        fprintf(h, "],\"data_offsets\":[%zu,%zu]}", at, at + e->bytes);
        at += e->bytes;
    }
    fprintf(h, "}%*s", pad, "");
    fclose(h);
    for (int i = 0; i < 8; i++) fputc((int)((uint64_t)length >> 8 * i & 255), f);
    fwrite(header, 1, length, f);
    for (int i = 0; i < s->n; i++)
        ck_assert(!s->e[i].bytes || fwrite(s->e[i].data, s->e[i].bytes, 1, f) == 1);
    ck_assert_int_eq(fclose(f), 0);
    free(header);
    sheaf_free(s);
    return path;
}

static qw_store *open_store(const char *path)
{
    qw_store *s;
    good(qw_store_new(&s, &err));
    good(qw_store_add(s, path, &err));
    return s;
}

/* Everything of a store, with a prefix before the names as they are in the file. */
static void sheaf_store(sheaf *out, const qw_store *s, const char *prefix, int names_only)
{
    char name[400];
    for (int64_t i = 0; qw_store_entry(s, i); i++) {
        const qw_entry *e = qw_store_entry(s, i);
        snprintf(name, sizeof name, "%s%s", prefix, e->key);
        if (names_only) sheaf_name(out, name);
        else sheaf_add(out, name, *e);
    }
}

static double value(const qw_entry *e, int64_t i)
{
    double d;
    float f;
    if (e->dtype == QW_F64) {
        memcpy(&d, (const char *)e->data + 8 * i, 8);
        return d;
    }
    qw_decode_f32(e->dtype, (const char *)e->data + (size_t)i * qw_row_bytes(e->dtype, 1), 1, &f);
    return f;
}

/* A tensor as doubles; the caller frees. */
static double *doubles(const qw_store *s, const char *name)
{
    const qw_entry *e = qw_store_find(s, name);
    ck_assert_msg(e != NULL, "the file has no %s", name);
    double *x = malloc((size_t)(count(e) + 1) * sizeof *x);
    for (int64_t i = 0; i < count(e); i++) x[i] = value(e, i);
    return x;
}

/* --- transformers ----------------------------------------------------------------------------- */

typedef struct model {
    qw_device   *dev, *ref;
    qw_run       run;
    qw_store    *store, *in;
    json_t      *config;
    qw_residency *res;
    qw_dit      *dit;
    qw_dit_config c;
    qw_lora_site site[256];
    int          sites;
} model;

static qw_device *open_device(const char *name)
{
    qw_device *d = NULL;
    good(qw_device_open(name, 1, &d, &err));
    return d;
}

static int add_site(void *user, qw_weight_part *p, int64_t n, int64_t k)
{
    model *m = user;
    ck_assert_int_lt(m->sites, 256);
    m->site[m->sites++] = (qw_lora_site){ p, n, k };
    return 0;
}

static void close_model(model *m)
{
    qw_dit_free(m->dit);
    qw_residency_free(m->res);
    qw_store_free(m->store);
    qw_store_free(m->in);
    json_decref(m->config);
    qw_run_free(&m->run);
    m->dev->close(m->dev);
    m->ref->close(m->ref);
}

/* The transformer of a file on a device, which the model takes; the status of its commit. */
static int open_model(model *m, qw_device *dev, const char *path, const char *config,
                      uint64_t memory)
{
    qw_kind found;
    *m = (model){ .dev = dev, .ref = open_device("ref") };
    m->store = open_store(path);
    good(qw_store_canonical(m->store, QW_KIND_TRANSFORMER, &found, &err));
    if (config) good(qw_json_file(testdata(config), &m->config, &err));
    good(qw_dit_configure(&m->c, m->config, m->store, "config.json", &err));
    good(qw_residency_new(&m->res, dev, memory, &err));
    qw_loader l = { .store = m->store, .res = m->res, .err = &err };
    good(qw_dit_load(&m->dit, &m->c, &l));
    qw_run_init(&m->run, dev, m->ref);
    if (qw_residency_commit(m->res, &err)) {
        const int status = err.status;
        err = (qw_error){ 0 };
        close_model(m);
        return status;
    }
    ck_assert_int_eq(qw_run_reserve(&m->run, (size_t)16 << 20), 0);
    qw_dit_each_weight(m->dit, add_site, m);
    m->in = open_store(testdata(FORMATS "goldens/inputs.safetensors"));
    return QWEN_OK;
}

static int open_medium(model *m, const char *device)
{
    return open_model(m, open_device(device), testdata(MEDIUM), MEDIUM "/config.json", 0);
}

/* The velocity of the golden inputs, 6 x 8 tokens at t = 0.7 (text cut to the width of the net);
 * malloc'ed. */
static double *forward(model *m)
{
    enum { ROWS = 48, TEXT = 20 };
    double *x = doubles(m->in, "dit.hidden_states"),
           *text = doubles(m->in, "dit.encoder_hidden_states");
    double *t = doubles(m->in, "dit.timestep"), *out = malloc(ROWS * 64 * sizeof *out);
    qw_modulation *table = NULL;
    const qw_grid grid = { 1, 6, 8 };
    const qw_dit_sequence s = { .x = x,
                                .rows = ROWS,
                                .noise_rows = ROWS,
                                .grid = &grid,
                                .grids = 1,
                                .noise_grids = 1,
                                .text = text,
                                .text_rows = TEXT,
                                .out = out };
    ck_assert_int_le((int)m->c.text_width, 256);
    ck_assert_msg(!qw_dit_modulate(&m->run, m->dit, t, 1, &table), "%s", m->run.error.text);
    qw_dit_forward(&m->run, m->dit, table, 0, &s, 1, 0, 0);
    ck_assert_msg(!m->run.error.status, "%s", m->run.error.text);
    qw_modulation_free(table);
    free(x);
    free(text);
    free(t);
    return out;
}

static double difference(const double *a, const double *b, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        const double off = fabs(a[i] - b[i]);
        if (!(off <= most)) most = off;
    }
    return most;
}

/* --- broken files ----------------------------------------------------------------------------- */

static json_t *expected;                /* of bad/expect.json */

static const char *nth_key(const json_t *object, int n)
{
    void *it = json_object_iter((json_t *)(uintptr_t)object);
    while (n-- > 0) it = json_object_iter_next((json_t *)(uintptr_t)object, it);
    return json_object_iter_key(it);
}

static int begins(const char *s, const char *with) { return !strncmp(s, with, strlen(with)); }

static int ends(const char *s, const char *with)
{
    const size_t n = strlen(s), m = strlen(with);
    return n >= m && !strcmp(s + n - m, with);
}

/* Takes every occurrence of a word out of a text. */
static void take_out(char *text, const char *word)
{
    for (char *at; *word && (at = strstr(text, word)) != NULL;)
        memmove(at, at + strlen(word), strlen(at + strlen(word)) + 1);
}

/* The status that the case must have: 0 where two will do (broken, or not what it should be). */
static int status_of(const char *name)
{
    if (begins(name, "missing_shard") || begins(name, "is_a_directory")) return QWEN_EIO;
    if (begins(name, "dtype_unknown") || begins(name, "model_index_unknown_class"))
        return QWEN_EUNSUPPORTED;
    return 0;
}

static void try_config(const char *path)
{
    qw_dit_config c;
    qw_kind found;
    json_t *json = NULL;
    qw_store *s = open_store(testdata(MEDIUM));
    good(qw_store_canonical(s, QW_KIND_TRANSFORMER, &found, &err));
    if (!qw_json_file(path, &json, &err)) qw_dit_configure(&c, json, s, path, &err);
    json_decref(json);
    qw_store_free(s);
}

static void try_model(const char *path)
{
    qwen *q = NULL;
    const qwen_options opt = { .size = sizeof opt, .model = path, .device = "ref" };
    const int status = qwen_open(&q, &opt);
    if (status) qw_fail(&err, status, "%s", qwen_error(q));
    qwen_close(q);
}

static void try_lora(const char *path)
{
    model m;
    qw_lora *l;
    qw_overlay *o = NULL;
    open_medium(&m, "ref");
    if (!qw_lora_open(&l, path, 1, &err)) {
        qw_overlay_new(&o, &l, 1, m.site, m.sites, m.dev, 0, NULL, NULL, &err);
        qw_overlay_free(o);
        qw_lora_free(l);
    }
    close_model(&m);
}

/* A file of weights; whole: to a transformer's last tensor. */
static void try_weights(const char *path, int whole)
{
    qw_store *s;
    qw_kind found;
    qw_dit_config c;
    qw_residency *res;
    qw_dit *dit = NULL;
    qw_device *dev = open_device("ref");
    good(qw_store_new(&s, &err));
    good(qw_residency_new(&res, dev, 0, &err));
    qw_loader l = { .store = s, .res = res, .err = &err };
    if (!qw_store_add(s, path, &err) && whole &&
        !qw_store_canonical(s, QW_KIND_TRANSFORMER, &found, &err) &&
        !qw_dit_configure(&c, NULL, s, path, &err))
        qw_dit_load(&dit, &c, &l);
    qw_dit_free(dit);
    qw_residency_free(res);
    qw_store_free(s);
    dev->close(dev);
}

START_TEST(broken)
{
    const char *name = nth_key(expected, _i);
    const json_t *want = json_object_get(expected, name), *word;
    char path[1200], rest[1100];
    size_t i;
    int said = 0;
    if (ends(name, ".gguf") || begins(name, "quant_")) return;  /* check_formats.c has these */
    make_folder();
    snprintf(path, sizeof path, "%s%s", testdata(BAD), name);
    if (begins(name, "is_a_directory")) {       /* an empty directory, which archives may drop */
        snprintf(path, sizeof path, "%s", ours(name));
        ck_assert_int_eq(mkdir(path, 0777), 0);
    }
    if (begins(name, "config_")) try_config(path);
    else if (begins(name, "model_index_") || begins(name, "json_")) try_model(path);
    else if (begins(name, "lora_")) try_lora(path);
    else try_weights(path, begins(name, "transformer_"));
    remove_folder();
    if (!err.status && json_is_true(json_object_get(want, "may_load"))) return;
    ck_assert_msg(err.status != 0, "%s is accepted", name);
    const int status = status_of(name);
    ck_assert_msg(status ? err.status == status
                         : err.status == QWEN_EFORMAT || err.status == QWEN_EMODEL,
                  "%s: status %d: %s", name, err.status, err.text);
    snprintf(rest, sizeof rest, "%s", err.text);
    take_out(rest, path);
    take_out(rest, name);
    json_array_foreach(json_object_get(want, "error_mentions"), i, word) {
        said |= strstr(rest, json_string_value(word)) != NULL;
    }
    ck_assert_msg(said, "%s: \"%s\" has none of the words expected", name, rest);
}
END_TEST

/* --- LoRA ------------------------------------------------------------------------------------- */

static json_t *loras;                   /* of goldens/lora.json */

typedef struct lora_row { qw_lora *lora[4]; int n; } lora_row;

static void open_row(lora_row *r, const json_t *row)
{
    const json_t *files = json_object_get(row, "files");
    char path[300];
    r->n = files ? (int)json_array_size(files) : 1;
    ck_assert_int_le(r->n, 4);
    for (int i = 0; i < r->n; i++) {
        const json_t *pair = json_array_get(files, (size_t)i);
        const char *name =
            json_string_value(files ? json_array_get(pair, 0) : json_object_get(row, "file"));
        const double strength =
            json_number_value(files ? json_array_get(pair, 1) : json_object_get(row, "strength"));
        snprintf(path, sizeof path, COMFY "loras/%s", name);
        good(qw_lora_open(&r->lora[i], testdata(path), strength, &err));
    }
}

static void close_row(lora_row *r)
{
    for (int i = 0; i < r->n; i++) qw_lora_free(r->lora[i]);
}

/* How far float32 may be off: four times what the reference's own float32 run is. */
static double allowed(const char *golden)
{
    json_t *json;
    good(qw_json_file(testdata(FORMATS "goldens/f32_error.json"), &json, &err));
    const double off = json_number_value(
        json_object_get(json_object_get(json_object_get(json, golden), "dit.out"), "max_abs"));
    json_decref(json);
    ck_assert_msg(off > 0, "nothing is known of the error of %s", golden);
    return 4 * off;
}

/* A row of the table on a device; with the files taken off, the net is what it was. */
static void lay(const json_t *row, const char *device)
{
    const char *golden = json_string_value(json_object_get(row, "golden"));
    const char *base = json_string_value(json_object_get(row, "base"));
    char path[300], name[100];
    model m;
    lora_row r;
    qw_overlay *o;
    if (base) snprintf(path, sizeof path, COMFY "diffusion_models/%s", base);
    open_model(&m, open_device(device), testdata(base ? path : MEDIUM), MEDIUM "/config.json", 0);
    open_row(&r, row);
    double *before = forward(&m);
    good(qw_overlay_new(&o, r.lora, r.n, m.site, m.sites, m.dev, 0, NULL, NULL, &err));
    ck_assert_uint_gt(qw_overlay_bytes(o), 0);
    double *with = forward(&m);
    qw_overlay_free(o);
    double *after = forward(&m);
    qw_store *gold = open_store(testdata(FORMATS "goldens/lora.safetensors"));
    snprintf(name, sizeof name, "%s.dit.out", golden);
    double *want = doubles(gold, name);
    const double off = difference(with, want, 48 * 64),
                 limit = m.dev->wide == QW_F64 ? 1e-10 : allowed(golden);
    ck_assert_msg(off <= limit, "%s on %s is off by %.3g, allowed %.3g", golden, device, off,
                  limit);
    ck_assert_msg(difference(before, after, 48 * 64) == 0, "%s leaves traces", golden);
    ck_assert_msg(difference(before, with, 48 * 64) > 0.1, "%s has no effect", golden);
    qw_store_free(gold);
    free(before);
    free(with);
    free(after);
    free(want);
    close_row(&r);
    close_model(&m);
}

START_TEST(lora64) { lay(json_array_get(loras, (size_t)_i), "ref64"); }
END_TEST
START_TEST(lora32) { lay(json_array_get(loras, (size_t)_i), "ref"); }
END_TEST

static void count_notice(void *user, const char *line)
{
    ck_assert_msg(strstr(line, "double_blocks.0.img_attn") != NULL, "%s", line);
    ++*(int *)user;
}

/* Keys that match nothing are an error by name, or a notice when that is asked for. */
START_TEST(lora_partial)
{
    model m;
    qw_lora *l;
    qw_overlay *o;
    int notices = 0;
    sheaf s = { 0 };
    make_folder();
    open_medium(&m, "ref");
    qw_store *plain = open_store(testdata(COMFY "loras/comfyui_diffusion_model.safetensors"));
    sheaf_store(&s, plain, "", 0);
    qw_entry up = s.e[0];
    for (int i = 0; i < s.n; i++)
        if (strstr(s.e[i].name, "lora_up") || strstr(s.e[i].name, "lora_B")) up = s.e[i];
    qw_entry down = up;
    down.dim[0] = up.dim[1];
    down.dim[1] = up.dim[0];
    sheaf_add(&s, "diffusion_model.double_blocks.0.img_attn.lora_B.weight", up);
    sheaf_add(&s, "diffusion_model.double_blocks.0.img_attn.lora_A.weight", down);
    good(qw_lora_open(&l, sheaf_write(&s, "partial.safetensors", 0), 1, &err));
    ck_assert_int_eq(qw_overlay_new(&o, &l, 1, m.site, m.sites, m.dev, 0, NULL, NULL, &err),
                     QWEN_EMODEL);
    ck_assert_msg(strstr(err.text, "double_blocks.0.img_attn") != NULL, "%s", err.text);
    err = (qw_error){ 0 };
    good(qw_overlay_new(&o, &l, 1, m.site, m.sites, m.dev, 1, count_notice, &notices, &err));
    ck_assert_int_eq(notices, 1);
    qw_overlay_free(o);
    qw_lora_free(l);
    qw_store_free(plain);
    close_model(&m);
    remove_folder();
}
END_TEST

/* --- kinds and names -------------------------------------------------------------------------- */

static const struct { const char *path; qw_kind kind; } files[] = {
    { "tiny/transformer", QW_KIND_TRANSFORMER },
    { "tiny-edit-2511/transformer", QW_KIND_TRANSFORMER },
    { "tiny-layered/transformer", QW_KIND_TRANSFORMER },
    { "tiny/text_encoder", QW_KIND_TEXT },
    { "tiny/vae", QW_KIND_VAE },
    { "tiny-layered/vae", QW_KIND_VAE },
    { "tiny-controlnet/controlnet", QW_KIND_CONTROLNET },
    { MEDIUM, QW_KIND_TRANSFORMER },
    { FORMATS "medium/vae", QW_KIND_VAE },
    { COMFY "diffusion_models/qwen_image_medium_bf16.safetensors", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen_image_medium_fp8_e4m3fn.safetensors", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen_image_medium_fp8_e4m3fn_scaled.safetensors",
      QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen_image_medium_fp8_header.safetensors", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen_image_medium_fp8_rows.safetensors", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen_image_medium_fp8mixed.safetensors", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-BF16.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-Q2_K.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-Q3_K.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-Q4_0.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-Q4_K.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-Q5_1.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-Q5_K.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-Q6_K.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-Q8_0.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-mixed.gguf", QW_KIND_TRANSFORMER },
    { COMFY "vae/qwen_image_vae_medium.safetensors", QW_KIND_VAE },
    { COMFY "text_encoders/qwen2.5-vl-medium-mmproj-F16.gguf", QW_KIND_VISION },
    { COMFY "text_encoders/qwen2.5-vl-medium-mmproj-Q8_0.gguf", QW_KIND_VISION },
    { COMFY "text_encoders/qwen2.5-vl-medium-BF16.gguf.gz", QW_KIND_TEXT },
    { COMFY "text_encoders/qwen2.5-vl-medium-Q8_0.gguf.gz", QW_KIND_TEXT },
    { COMFY "text_encoders/qwen_2.5_vl_medium.safetensors.gz", QW_KIND_TEXT },
    { COMFY "text_encoders/qwen_2.5_vl_medium_fp8_scaled.safetensors.gz", QW_KIND_TEXT },
    { COMFY "checkpoints/qwen_image_medium_aio_fp8.safetensors.gz", QW_KIND_CHECKPOINT },
};

/* A tensor that each kind has under its canonical name. */
static const char *landmark(qw_kind k)
{
    return k == QW_KIND_TRANSFORMER ? "transformer_blocks.0.attn.to_q.weight"
         : k == QW_KIND_TEXT ? "model.layers.1.self_attn.k_proj.bias"
         : k == QW_KIND_VISION ? "visual.blocks.0.norm1.weight"
         : k == QW_KIND_VAE ? "decoder.up_blocks.2.upsamplers.0.resample.1.weight"
         : k == QW_KIND_CONTROLNET ? "controlnet_x_embedder.weight" : NULL;
}

static void has(const qw_store *s, const char *path, const char *name)
{
    ck_assert_msg(!name || qw_store_find(s, name), "%s has no %s", path, name);
}

static void is_kind(const char *path, qw_kind part, qw_kind kind)
{
    qw_kind found = QW_KIND_UNKNOWN;
    qw_store *s = open_store(path);
    good(qw_store_canonical(s, part, &found, &err));
    ck_assert_msg(found == kind, "%s is found to be a %s, expected a %s", path, qw_kind_name(found),
                  qw_kind_name(kind));
    has(s, path, landmark(kind));
    qw_store_free(s);
}

/* Every file is what it is, has the canonical names, and is not taken for another kind. */
START_TEST(kinds)
{
    const char *path = testdata(files[_i].path);
    const qw_kind kind = files[_i].kind;
    make_folder();
    if (ends(path, ".gz")) {
        char command[2400];
        const char *plain = ours("unpacked");
        snprintf(command, sizeof command, "gzip -dc '%s' > '%s'", path, plain);
        ck_assert_int_eq(system(command), 0);
        path = plain;
    }
    is_kind(path, QW_KIND_UNKNOWN, kind);
    if (kind == QW_KIND_CHECKPOINT) {
        is_kind(path, QW_KIND_TRANSFORMER, QW_KIND_TRANSFORMER);
        is_kind(path, QW_KIND_TEXT, QW_KIND_TEXT);
        is_kind(path, QW_KIND_VAE, QW_KIND_VAE);
    } else {
        qw_kind found;
        qw_store *s = open_store(path);
        is_kind(path, kind, kind);
        ck_assert_int_eq(qw_store_canonical(s,
                                            kind == QW_KIND_VAE ? QW_KIND_TRANSFORMER : QW_KIND_VAE,
                                            &found, &err),
                         QWEN_EMODEL);
        ck_assert_msg(strstr(err.text, qw_kind_name(kind)) != NULL, "%s", err.text);
        qw_store_free(s);
    }
    remove_folder();
}
END_TEST

START_TEST(lora_kinds)
{
    const json_t *row;
    size_t i;
    char path[300];
    json_array_foreach(loras, i, row) {
        const char *name = json_string_value(json_object_get(row, "file"));
        if (!name) continue;
        snprintf(path, sizeof path, COMFY "loras/%s", name);
        is_kind(testdata(path), QW_KIND_UNKNOWN, QW_KIND_LORA);
    }
}
END_TEST

static const struct { const char *path, *prefix; qw_kind kind; } prefixed[] = {
    { "tiny/transformer", "net.", QW_KIND_TRANSFORMER },
    { "tiny/transformer", "model.model.", QW_KIND_TRANSFORMER },
    { "tiny/transformer", "model.", QW_KIND_TRANSFORMER },
    { "tiny/transformer", "diffusion_model.", QW_KIND_TRANSFORMER },
    { "tiny/transformer", "transformer.", QW_KIND_TRANSFORMER },
    { "tiny/transformer", "model.diffusion_model.", QW_KIND_TRANSFORMER },
    { "tiny/vae", "first_stage_model.", QW_KIND_VAE },
    { "tiny/vae", "vae.", QW_KIND_VAE },
    { COMFY "vae/qwen_image_vae_medium.safetensors", "first_stage_model.", QW_KIND_VAE },
    { "tiny/text_encoder", "text_encoders.qwen25_7b.transformer.", QW_KIND_TEXT },
};

/* With a prefix before all its names a file has the canonical names it has without. */
START_TEST(prefixes)
{
    qw_kind found;
    sheaf s = { 0 };
    make_folder();
    qw_store *plain = open_store(testdata(prefixed[_i].path));
    sheaf_store(&s, plain, prefixed[_i].prefix, prefixed[_i].kind != QW_KIND_VAE);
    sheaf_name(&s, "another.component");
    qw_store *moved = open_store(sheaf_write(&s, "prefixed.safetensors", 0));
    good(qw_store_canonical(moved, prefixed[_i].kind, &found, &err));
    ck_assert_int_eq(found, prefixed[_i].kind);
    good(qw_store_canonical(plain, prefixed[_i].kind, &found, &err));
    for (int64_t i = 0; qw_store_entry(plain, i); i++)
        has(moved, prefixed[_i].prefix, qw_store_entry(plain, i)->name);
    has(moved, prefixed[_i].prefix, landmark(found));
    qw_store_free(plain);
    qw_store_free(moved);
    remove_folder();
}
END_TEST

/* The names that newer writers of transformers use: model.language_model. and model.visual. */
START_TEST(new_text_names)
{
    qw_kind found;
    sheaf s = { 0 };
    char name[400];
    make_folder();
    qw_store *plain = open_store(testdata("tiny/text_encoder"));
    good(qw_store_canonical(plain, QW_KIND_TEXT, &found, &err));
    for (int64_t i = 0; qw_store_entry(plain, i); i++) {
        const char *old = qw_store_entry(plain, i)->name;
        if (begins(old, "model.")) snprintf(name, sizeof name, "model.language_model.%s", old + 6);
        else snprintf(name, sizeof name, "%s%s", begins(old, "visual.") ? "model." : "", old);
        sheaf_name(&s, name);
    }
    qw_store *moved = open_store(sheaf_write(&s, "new.safetensors", 0));
    good(qw_store_canonical(moved, QW_KIND_TEXT, &found, &err));
    for (int64_t i = 0; qw_store_entry(plain, i); i++)
        has(moved, "new names", qw_store_entry(plain, i)->name);
    qw_store_free(plain);
    qw_store_free(moved);
    remove_folder();
}
END_TEST

/* Edit-2511's marker says zero_cond_t, behind any prefix, empty or not; it is known. */
START_TEST(marker)
{
    static const char *const prefix[] = { "", "model.diffusion_model.", "net." };
    qw_dit_config c;
    qw_kind found;
    char name[100];
    make_folder();
    qw_store *plain = open_store(testdata(MEDIUM));
    for (int i = 0; i < 6; i++) {
        sheaf s = { 0 };
        sheaf_store(&s, plain, prefix[i % 3], 0);
        snprintf(name, sizeof name, "%s__index_timestep_zero__", prefix[i % 3]);
        if (i < 3) sheaf_name(&s, name);
        else sheaf_add(&s, name, (qw_entry){ .dtype = QW_F32, .rank = 1 });
        qw_store *marked = open_store(sheaf_write(&s, "marked.safetensors", 0));
        good(qw_store_canonical(marked, QW_KIND_TRANSFORMER, &found, &err));
        good(qw_dit_configure(&c, NULL, marked, "marked", &err));
        ck_assert_int_eq(c.zero_cond_t, 1);
        const qw_entry *e = qw_store_find(marked, "__index_timestep_zero__");
        ck_assert(e && qw_store_unused(marked, NULL, NULL) == (int)(marked->entries - 1));
        qw_store_free(marked);
    }
    good(qw_store_canonical(plain, QW_KIND_TRANSFORMER, &found, &err));
    good(qw_dit_configure(&c, NULL, plain, "plain", &err));
    ck_assert_int_eq(c.zero_cond_t, 0);
    qw_store_free(plain);
    remove_folder();
}
END_TEST

static void shaped(sheaf *s, const char *name, int rank, int64_t a, int64_t b, int64_t k)
{
    static float zeros[1 << 16];
    qw_entry e = { .data = zeros, .dtype = QW_F32, .rank = rank, .dim = { a, b, k, k, k } };
    e.bytes = (size_t)count(&e) * 4;
    ck_assert_uint_le(e.bytes, sizeof zeros);
    sheaf_add(s, name, e);
}

static void refused(sheaf *s, qw_kind part, int status, const char *word)
{
    for (int i = 0; i < 2; i++) {       /* asked for as a part, and asked what it is */
        qw_kind found;
        sheaf copy = { 0 };
        for (int k = 0; k < s->n; k++) sheaf_add(&copy, s->e[k].name, s->e[k]);
        qw_store *store = open_store(sheaf_write(&copy, "x.safetensors", 0));
        ck_assert_msg(qw_store_canonical(store, i ? QW_KIND_UNKNOWN : part, &found, &err) == status,
                      "status %d, expected %d naming %s: %s", err.status, status, word, err.text);
        ck_assert_msg(strstr(err.text, word) != NULL, "\"%s\" does not name %s", err.text, word);
        err = (qw_error){ 0 };
        qw_store_free(store);
    }
    sheaf_free(s);
}

START_TEST(refusals)
{
    static const char *const text[] = { "model.embed_tokens.weight", "model.norm.weight",
        "model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.k_proj.weight", "model.layers.0.mlp.gate_proj.weight" };
    static const char *const next[] = { "txt_in.text_norm.weight", "modulation.1.weight" };
    sheaf s = { 0 };
    make_folder();
    for (int i = 0; i < 2; i++) {
        shaped(&s, "img_in.weight", 2, 128, 64, 0);
        sheaf_name(&s, "transformer_blocks.0.attn.to_q.weight");
        sheaf_name(&s, next[i]);
        refused(&s, QW_KIND_TRANSFORMER, QWEN_EUNSUPPORTED, "Qwen-Image-2.1");
    }
    shaped(&s, "decoder.conv_in.weight", 5, 8, 64, 3);
    sheaf_name(&s, "decoder.mid_block.resnets.0.norm1.gamma");
    refused(&s, QW_KIND_VAE, QWEN_EUNSUPPORTED, "Qwen-Image-2.1");
    for (int i = 0; i < 6; i++) sheaf_name(&s, text[i]);
    sheaf_name(&s, "model.layers.0.self_attn.q_norm.weight");
    refused(&s, QW_KIND_TEXT, QWEN_EUNSUPPORTED, "Qwen-Image-2.1");
    for (int i = 0; i < 6; i++) sheaf_name(&s, text[i]);
    refused(&s, QW_KIND_TEXT, QWEN_EUNSUPPORTED, "language model");
    shaped(&s, "decoder.conv1.weight", 5, 8, 48, 3);
    sheaf_name(&s, "decoder.middle.0.residual.0.gamma");
    sheaf_name(&s, "decoder.upsamples.0.upsamples.0.residual.2.weight");
    refused(&s, QW_KIND_VAE, QWEN_EUNSUPPORTED, "Wan 2.2");
    shaped(&s, "decoder.conv_in.weight", 4, 8, 4, 3);
    sheaf_name(&s, "decoder.mid.block_1.norm1.weight");
    refused(&s, QW_KIND_VAE, QWEN_EUNSUPPORTED, "VAE of another family");
    shaped(&s, "decoder.conv_in.weight", 5, 8, 12, 3);
    sheaf_name(&s, "decoder.mid_block.resnets.0.norm1.gamma");
    refused(&s, QW_KIND_VAE, QWEN_EUNSUPPORTED, "12 latent channels");
    remove_folder();
}
END_TEST

/* --- VAEs ------------------------------------------------------------------------------------- */

enum { LAT_H = 3, LAT_W = 2 };

typedef struct painting { double *picture, *mean, *logvar; int64_t enlarges, size; } painting;

/* Decodes and encodes with the VAE of a file. */
static painting paint(const char *path, const char *config)
{
    qw_kind found;
    qw_vae_config c;
    qw_vae *v;
    qw_run r;
    json_t *json;
    qw_residency *res;
    qw_device *ref = open_device("ref");
    qw_store *s = open_store(path);
    good(qw_json_file(testdata(config), &json, &err));
    good(qw_store_canonical(s, QW_KIND_VAE, &found, &err));
    good(qw_vae_configure(&c, json, s, "config.json", &err));
    good(qw_residency_new(&res, ref, 0, &err));
    qw_loader l = { .store = s, .res = res, .err = &err };
    good(qw_vae_load(&v, &c, QW_VAE_DECODER | QW_VAE_ENCODER, &l));
    good(qw_residency_commit(res, &err));
    ck_assert_int_eq(qw_store_unused(s, NULL, NULL), 0);
    qw_run_init(&r, ref, ref);
    ck_assert_int_eq(qw_run_reserve(&r, (size_t)16 << 20), 0);
    const int64_t e = qw_vae_enlarges(v), pixels = 64 * LAT_H * LAT_W, n = c.z * LAT_H * LAT_W;
    painting p = { .enlarges = e, .size = pixels * 3 * e * e };
    double *latent = malloc((size_t)n * sizeof *latent),
           *in = malloc((size_t)(3 * pixels) * sizeof *in);
    p.picture = malloc((size_t)p.size * sizeof *p.picture);
    p.mean = malloc((size_t)n * sizeof *p.mean);
    p.logvar = malloc((size_t)n * sizeof *p.logvar);
    for (int64_t i = 0; i < n; i++) latent[i] = sin(0.7 * (double)i);
    for (int64_t i = 0; i < 3 * pixels; i++) in[i] = cos(0.3 * (double)i);
    qw_vae_decode(&r, v, latent, LAT_H, LAT_W, 0, p.picture);
    qw_vae_encode(&r, v, in, 8 * LAT_H, 8 * LAT_W, 0, p.mean, p.logvar);
    ck_assert_msg(!r.error.status, "%s", r.error.text);
    free(latent);
    free(in);
    qw_run_free(&r);
    qw_vae_free(v);
    qw_residency_free(res);
    qw_store_free(s);
    json_decref(json);
    ref->close(ref);
    return p;
}

static void painting_free(painting *p)
{
    free(p->picture);
    free(p->mean);
    free(p->logvar);
}

/* The last temporal tap of a 5-D weight, as 4-D; owned by the store. */
static qw_entry last_tap(qw_store *s, const qw_entry *e)
{
    qw_entry flat = *e;
    const int64_t rows = e->dim[0] * e->dim[1], taps = e->dim[2];
    const size_t plane = qw_row_bytes(e->dtype, e->dim[3] * e->dim[4]);
    flat.rank = 4;
    flat.dim[2] = e->dim[3];
    flat.dim[3] = e->dim[4];
    flat.bytes = (size_t)rows * plane;
    char *out = qw_store_own(s, flat.bytes, &err);
    for (int64_t i = 0; i < rows; i++)
        memcpy(out + (size_t)i * plane,
               (const char *)e->data + (size_t)(i * taps + taps - 1) * plane, plane);
    flat.data = out;
    return flat;
}

static const struct { const char *path, *config, *head; } vaes[] = {
    { "tiny/vae", "tiny/vae/config.json", "decoder.conv_out" },
    { COMFY "vae/qwen_image_vae_medium.safetensors", FORMATS "medium/vae/config.json",
      "decoder.head.2" },
};

/* A VAE of 2-D convolutions is the 3-D one with the work done in advance. */
START_TEST(vae_2d)
{
    sheaf s = { 0 };
    make_folder();
    qw_store *plain = open_store(testdata(vaes[_i].path));
    for (int64_t i = 0; qw_store_entry(plain, i); i++) {
        const qw_entry *e = qw_store_entry(plain, i);
        if (strstr(e->key, "time_conv")) continue;
        qw_entry flat = e->rank == 5 ? last_tap(plain, e) : *e;
        if (ends(e->key, ".gamma")) flat.rank = 3;
        sheaf_add(&s, e->key, flat);
    }
    const char *path = sheaf_write(&s, "2d.safetensors", 0);
    painting a = paint(testdata(vaes[_i].path), vaes[_i].config), b = paint(path, vaes[_i].config);
    const size_t n = (size_t)(16 * LAT_H * LAT_W) * sizeof *a.mean;
    ck_assert_int_eq(a.size, b.size);
    ck_assert(!memcmp(a.picture, b.picture, (size_t)a.size * sizeof *a.picture));
    ck_assert(!memcmp(a.mean, b.mean, n) && !memcmp(a.logvar, b.logvar, n));
    painting_free(&a);
    painting_free(&b);
    qw_store_free(plain);
    remove_folder();
}
END_TEST

/* A decoder with 12 outputs draws twice as large: output 4c + 2dy + dx is colour c at
 * (2y + dy, 2x + dx). */
START_TEST(vae_upscale)
{
    sheaf s = { 0 };
    char name[100];
    float bias[12];
    make_folder();
    qw_store *plain = open_store(testdata(vaes[_i].path));
    sheaf_store(&s, plain, "", 0);
    snprintf(name, sizeof name, "%s.weight", vaes[_i].head);
    qw_entry *w = sheaf_find(&s, name);
    const size_t row = w->bytes / 3;
    char *rows = qw_store_own(plain, 12 * row, &err);
    for (size_t i = 0; i < 12; i++)
        memcpy(rows + i * row, (const char *)w->data + i / 4 * row, row);
    w->data = rows;
    w->bytes = 12 * row;
    w->dim[0] = 12;
    snprintf(name, sizeof name, "%s.bias", vaes[_i].head);
    qw_entry *b = sheaf_find(&s, name);
    for (int i = 0; i < 12; i++) bias[i] = (float)(value(b, i / 4) + i % 4);
    b->data = bias;
    b->dim[0] = 12;
    b->bytes = sizeof bias;
    b->dtype = QW_F32;
    const char *path = sheaf_write(&s, "upscale.safetensors", 0);
    painting small = paint(testdata(vaes[_i].path), vaes[_i].config),
             large = paint(path, vaes[_i].config);
    ck_assert_int_eq(small.enlarges, 1);
    ck_assert_int_eq(large.enlarges, 2);
    for (int64_t y = 0; y < 16 * LAT_H; y++)
        for (int64_t x = 0; x < 16 * LAT_W; x++)
            for (int64_t c = 0; c < 3; c++) {
                const double want = small.picture[(y / 2 * 8 * LAT_W + x / 2) * 3 + c] +
                                    (double)(y % 2 * 2 + x % 2);
                ck_assert_double_eq_tol(large.picture[(y * 16 * LAT_W + x) * 3 + c], want, 1e-5);
            }
    painting_free(&small);
    painting_free(&large);
    qw_store_free(plain);
    remove_folder();
}
END_TEST

/* --- files of all sorts ----------------------------------------------------------------------- */

/* Data at odd addresses, all of a transformer: the same output, bit for bit. */
START_TEST(misaligned)
{
    sheaf s = { 0 };
    model m;
    make_folder();
    qw_store *plain = open_store(testdata(MEDIUM));
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
        ck_assert(difference(x, want, 48 * 64) == 0);
        free(x);
        close_model(&m);
    }
    ck_assert_int_eq(moved, 2);
    free(want);
    qw_store_free(plain);
    remove_folder();
}
END_TEST

START_TEST(link_files)
{
    char *to;
    sheaf s = { 0 };
    make_folder();
    sheaf_name(&s, "a");
    sheaf_write(&s, "real.safetensors", 0);
    write_text(ours("link.safetensors"), "real.safetensors");
    write_text(ours("link2.safetensors"), "link.safetensors\n");
    write_text(ours("dangling.safetensors"), "nothing.safetensors");
    write_text(ours("absolute.safetensors"), ours("real.safetensors"));
    write_text(ours("round.safetensors"), "round.safetensors");
    ck_assert_int_eq(qw_follow_link_file(ours("link.safetensors"), &to, &err), 1);
    ck_assert_str_eq(to, ours("real.safetensors"));
    free(to);
    ck_assert_int_eq(qw_follow_link_file(ours("real.safetensors"), &to, &err), 0);
    ck_assert_int_eq(qw_follow_link_file(ours("dangling.safetensors"), &to, &err), 0);
    ck_assert_int_eq(qw_follow_link_file(ours("absolute.safetensors"), &to, &err), 0);
    ck_assert_int_eq(qw_follow_link_file(ours("absent.safetensors"), &to, &err), 0);
    good(0);
    qw_store *one = open_store(ours("link2.safetensors"));
    has(one, "link2", "a");
    qw_store_free(one);
    good(qw_store_new(&one, &err));
    ck_assert_int_eq(qw_store_add(one, ours("round.safetensors"), &err), QWEN_EIO);
    qw_store_free(one);
    remove_folder();
}
END_TEST

/* What is chosen in a directory, and that nothing is chosen between equals. */
START_TEST(directories)
{
    qw_store *store;
    sheaf s = { 0 };
    make_folder();
    good(qw_store_new(&store, &err));
    ck_assert_int_eq(qw_store_add(store, folder, &err), QWEN_EIO);
    ck_assert_msg(strstr(err.text, folder) != NULL, "%s", err.text);
    err = (qw_error){ 0 };
    sheaf_name(&s, "one");
    sheaf_write(&s, "one.safetensors", 0);
    good(qw_store_add(store, folder, &err));
    has(store, folder, "one");
    qw_store_free(store);
    sheaf_name(&s, "two");
    sheaf_write(&s, "two.safetensors", 0);
    good(qw_store_new(&store, &err));
    ck_assert_int_eq(qw_store_add(store, folder, &err), QWEN_EFORMAT);
    ck_assert_msg(strstr(err.text, "several") != NULL, "%s", err.text);
    qw_store_free(store);
    err = (qw_error){ 0 };
    sheaf_name(&s, "three");
    sheaf_write(&s, "model.safetensors", 0);    /* a published name goes before others */
    store = open_store(folder);
    has(store, folder, "three");
    ck_assert(!qw_store_find(store, "one"));
    qw_store_free(store);
    remove_folder();
}
END_TEST

/* The same tensor in two files of a store has no meaning. */
START_TEST(twice)
{
    sheaf s = { 0 };
    make_folder();
    sheaf_name(&s, "a");
    qw_store *store = open_store(sheaf_write(&s, "one.safetensors", 0));
    sheaf_name(&s, "a");
    ck_assert_int_eq(qw_store_add(store, sheaf_write(&s, "two.safetensors", 0), &err),
                     QWEN_EFORMAT);
    ck_assert_msg(strstr(err.text, "\"a\"") && strstr(err.text, "duplicate"), "%s", err.text);
    qw_store_free(store);
    remove_folder();
}
END_TEST

/* --- a device whose memory is not ours, with two queues --------------------------------------- */

/* Addresses that no program can touch: 2^62 is not canonical. */
static const uintptr_t FAR = (uintptr_t)1 << 62;
static void *away(void *p) { return (void *)((uintptr_t)p + FAR); }
static void *near(const void *p) { return (void *)((uintptr_t)p - FAR); }

typedef struct copy { void *dst; const void *src; size_t bytes; uint64_t ticket; } copy;

/* Computes at once, and copies as late as it may: when somebody waits for the copy. */
typedef struct far_device {
    qw_device  d;
    qw_device *ref;
    copy       pending[256];
    int        n;
    uint64_t   tickets, packs;
    uint64_t   held, most;              /* bytes of its memory, and the most there ever were */
} far_device;

static far_device *far_of(qw_device *d) { return (far_device *)(void *)d; }

static void finish(far_device *f, uint64_t ticket)
{
    int left = 0;
    for (int i = 0; i < f->n; i++)
        if (f->pending[i].ticket > ticket) f->pending[left++] = f->pending[i];
        else memcpy(f->pending[i].dst, f->pending[i].src, f->pending[i].bytes);
    f->n = left;
}

static int far_alloc(qw_device *d, size_t bytes, void **out)
{
    const size_t size = (bytes + 255) / 256 * 256 + 256;
    size_t *p = aligned_alloc(256, size);
    *out = p ? away((char *)p + 256) : NULL;
    if (!p) return QWEN_ENOMEM;
    *p = size;
    far_of(d)->held += size - 256;
    if (far_of(d)->held > far_of(d)->most) far_of(d)->most = far_of(d)->held;
    return QWEN_OK;
}

static void far_free(qw_device *d, void *p)
{
    if (!p) return;
    size_t *block = (size_t *)(void *)((char *)near(p) - 256);
    far_of(d)->held -= *block - 256;
    free(block);
}

static int far_put(qw_device *d, int queue, void *dst, const void *src, size_t bytes)
{
    (void)d; (void)queue;
    memcpy(near(dst), src, bytes);
    return QWEN_OK;
}

static int far_get(qw_device *d, int queue, void *dst, const void *src, size_t bytes)
{
    (void)d; (void)queue;
    memcpy(dst, near(src), bytes);
    return QWEN_OK;
}

static int far_mark(qw_device *d, int queue, uint64_t *ticket)
{
    (void)queue;
    *ticket = ++far_of(d)->tickets;
    return QWEN_OK;
}

static int far_wait(qw_device *d, int queue, uint64_t ticket)
{
    if (queue == QW_COMPUTE) finish(far_of(d), ticket);
    return QWEN_OK;
}

static int far_sync(qw_device *d)
{
    finish(far_of(d), UINT64_MAX);
    return QWEN_OK;
}

static size_t far_packed(qw_device *d, const qw_tensor *w)
{
    (void)d;
    return (size_t)w->dim[0] * qw_row_bytes(w->dtype, w->dim[1]);
}

/* What was at the destination is gone at once; what comes may come late. */
static int far_pack(qw_device *d, int queue, qw_tensor *dst, const qw_tensor *w)
{
    far_device *f = far_of(d);
    const size_t bytes = far_packed(d, w);
    f->packs++;
    dst->layout = 9;
    memset(near(dst->data), 0xff, bytes);
    if (queue == QW_COMPUTE) {
        memcpy(near(dst->data), w->data, bytes);
        return QWEN_OK;
    }
    if (f->n == 256) return QWEN_EDEVICE;
    f->pending[f->n++] = (copy){ near(dst->data), w->data, bytes, f->tickets + 1 };
    return QWEN_OK;
}

/* Operands as the reference may read them. */
static void bring(int op, void *args)
{
    for (const qw_operand *o = qw_op_table[op].operand; o->name; o++) {
        qw_tensor *t = qw_operand_of(o, args);
        if (!t || !t->data) continue;
        t->data = near(t->data);
        t->layout = 0;
        t->host = NULL;
    }
}

#define X(name)                                                                                    \
    static int far_##name(qw_device *d, const qw_##name##_args *a)                                 \
    {                                                                                              \
        qw_##name##_args b = *a;                                                                   \
        bring(QW_OP_##name, &b);                                                                   \
        return far_of(d)->ref->op.name(far_of(d)->ref, &b);                                        \
    }
QW_OPS(X)
#undef X

static void far_close(qw_device *d)
{
    far_device *f = far_of(d);
    ck_assert_uint_eq(f->held, 0);
    f->ref->close(f->ref);
    free(f);
}

static qw_device *open_far(void)
{
    far_device *f = calloc(1, sizeof *f);
    f->ref = open_device("ref");
    f->d = *f->ref;
    strcpy(f->d.name, "far");
    f->d.host = 0;
    f->d.memory = (uint64_t)1 << 30;
    f->d.close = far_close;
    f->d.alloc = far_alloc;
    f->d.free = far_free;
    f->d.put = far_put;
    f->d.get = far_get;
    f->d.mark = far_mark;
    f->d.wait = far_wait;
    f->d.sync = far_sync;
    f->d.packed = far_packed;
    f->d.pack = far_pack;
#define X(op_name) f->d.op.op_name = far_##op_name;
    QW_OPS(X)
#undef X
    return &f->d;
}

/* --- residency -------------------------------------------------------------------------------- */

enum { BLOCKS = 4 };

/* The medium transformer with its block four times, so that many groups of one size take turns. */
static const char *make_long(void)
{
    sheaf s = { 0 };
    char name[400];
    static const char first[] = "transformer_blocks.0.";
    qw_store *plain = open_store(testdata(MEDIUM));
    sheaf_store(&s, plain, "", 0);
    for (int64_t i = 0; qw_store_entry(plain, i); i++)
        for (int k = 1; k < BLOCKS && begins(qw_store_entry(plain, i)->key, first); k++) {
            const qw_entry *e = qw_store_entry(plain, i);
            snprintf(name, sizeof name, "transformer_blocks.%d.%s", k, e->key + sizeof first - 1);
            sheaf_add(&s, name, *e);
        }
    const char *path = sheaf_write(&s, "long.safetensors", 0);
    qw_store_free(plain);
    return path;
}

static int open_net(model *m, qw_device *d, uint64_t memory)
{
    return open_model(m, d, ours("long.safetensors"), NULL, memory);
}

/* Three passes: the output is that of the host, and weights move only where they stream. */
static void passes(model *m, const double *want, int part)
{
    const uint64_t moving = qw_residency_bytes(m->res, 1);
    for (int i = 0; i < 3; i++) {
        const uint64_t before = far_of(m->dev)->packs;
        double *x = forward(m);
        ck_assert_msg(difference(x, want, 48 * 64) == 0, "%d/20 of the weights, pass %d", part, i);
        ck_assert_msg(moving ? far_of(m->dev)->packs > before : far_of(m->dev)->packs == before,
                      "pass %d", i);
        free(x);
    }
}

/* On any bound of memory that can be kept the output is what it is on the host, bit for bit. */
START_TEST(streamed)
{
    enum { ROUNDING = 1 << 17 };        /* blocks of a device are multiples of 256 */
    model m;
    int all = 0, too_few = 0;
    uint64_t least = UINT64_MAX, most = 0;
    make_folder();
    make_long();
    open_net(&m, open_device("ref"), 0);
    double *want = forward(&m);
    ck_assert_uint_gt(qw_residency_bytes(m.res, 0), 0);
    ck_assert_uint_eq(qw_residency_bytes(m.res, 1), 0);
    ck_assert_uint_lt(qw_residency_bytes(m.res, 2), qw_residency_bytes(m.res, 0));
    close_model(&m);
    open_net(&m, open_far(), 0);
    const uint64_t total = qw_residency_bytes(m.res, 0);
    ck_assert_uint_eq(qw_residency_bytes(m.res, 1), 0);
    close_model(&m);
    for (int part = 24; part > 0; part--) {
        const uint64_t bound = total * (uint64_t)part / 20;
        const int status = open_net(&m, open_far(), bound);
        if (status) {
            ck_assert_int_eq(status, QWEN_ENOMEM);
            too_few++;
            continue;
        }
        const uint64_t kept = qw_residency_bytes(m.res, 0), moving = qw_residency_bytes(m.res, 1);
        ck_assert_uint_eq(kept + moving, total);
        ck_assert_uint_le(far_of(m.dev)->held - m.run.size, bound + ROUNDING);
        all += !moving;
        if (moving && kept < least) least = kept;
        if (moving && kept > most) most = kept;
        passes(&m, want, part);
        close_model(&m);
    }
    ck_assert_msg(all && too_few && least < most, "all %d, refused %d, kept %llu to %llu", all,
                  too_few, (unsigned long long)least, (unsigned long long)most);
    free(want);
    remove_folder();
}
END_TEST

/* The pages of a bound host come and go. */
START_TEST(bound_host)
{
    model m;
    make_folder();
    make_long();
    open_net(&m, open_device("ref"), 0);
    double *want = forward(&m);
    close_model(&m);
    for (uint64_t memory = 1; memory < (uint64_t)1 << 30; memory <<= 10) {
        open_net(&m, open_device("ref"), memory);
        for (int i = 0; i < 2; i++) {
            double *x = forward(&m);
            ck_assert(difference(x, want, 48 * 64) == 0);
            free(x);
        }
        close_model(&m);
    }
    free(want);
    remove_folder();
}
END_TEST

/* The smallest bound that the net accepts in steps of a twentieth: groups stream. */
static void open_streaming(model *m)
{
    model host;
    open_net(&host, open_device("ref"), 0);
    const uint64_t bytes = qw_residency_bytes(host.res, 0);
    close_model(&host);
    int part = 1;
    while (open_net(m, open_far(), bytes * (uint64_t)part / 20))
        ck_assert_int_lt(++part, 24);
    ck_assert_uint_gt(qw_residency_bytes(m->res, 1), 0);
}

/* LoRA over weights that stream, and over weights that are kept, with passes between. */
START_TEST(lora_streamed)
{
    const json_t *row = json_array_get(loras, (size_t)_i);
    model host, m;
    lora_row r;
    qw_overlay *o;
    if (json_object_get(row, "base")) return;
    make_folder();
    make_long();
    open_row(&r, row);
    open_net(&host, open_device("ref"), 0);
    double *plain = forward(&host);
    good(qw_overlay_new(&o, r.lora, r.n, host.site, host.sites, host.dev, 0, NULL, NULL, &err));
    double *want = forward(&host);
    qw_overlay_free(o);
    close_model(&host);
    for (int streams = 0; streams < 2; streams++) {
        if (streams) open_streaming(&m);
        else open_net(&m, open_far(), 0);
        for (int i = 0; i < 3; i++) {
            good(qw_overlay_new(&o, r.lora, r.n, m.site, m.sites, m.dev, 0, NULL, NULL, &err));
            double *with = forward(&m);
            ck_assert_msg(difference(with, want, 48 * 64) == 0, "%d: with the LoRA, pass %d",
                          streams, i);
            qw_overlay_free(o);
            double *without = i == 1 ? NULL : forward(&m);
            ck_assert_msg(!without || difference(without, plain, 48 * 64) == 0,
                          "%d: without, pass %d", streams, i);
            free(with);
            free(without);
        }
        close_model(&m);
    }
    free(plain);
    free(want);
    close_row(&r);
    remove_folder();
}
END_TEST

/* --- the suite -------------------------------------------------------------------------------- */

static void add_loop(Suite *s, const char *name, const TTest *test, int n)
{
    TCase *c = tcase_create(name);
    tcase_set_timeout(c, 300);
    tcase_add_loop_test(c, test, 0, n);
    suite_add_tcase(s, c);
}

int main(void)
{
    Suite *s = suite_create("weights");
    if (qw_json_file(testdata(BAD "expect.json"), &expected, &err) ||
        qw_json_file(testdata(FORMATS "goldens/lora.json"), &loras, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return EXIT_FAILURE;
    }
    const int rows = (int)json_array_size(loras);
    add_loop(s, "broken", broken, (int)json_object_size(expected));
    add_loop(s, "lora64", lora64, rows);
    add_loop(s, "lora32", lora32, rows);
    add_loop(s, "lora_partial", lora_partial, 1);
    add_loop(s, "kinds", kinds, (int)(sizeof files / sizeof *files));
    add_loop(s, "lora_kinds", lora_kinds, 1);
    add_loop(s, "prefixes", prefixes, (int)(sizeof prefixed / sizeof *prefixed));
    add_loop(s, "new_text_names", new_text_names, 1);
    add_loop(s, "marker", marker, 1);
    add_loop(s, "refusals", refusals, 1);
    add_loop(s, "vae_2d", vae_2d, 2);
    add_loop(s, "vae_upscale", vae_upscale, 2);
    add_loop(s, "misaligned", misaligned, 1);
    add_loop(s, "link_files", link_files, 1);
    add_loop(s, "directories", directories, 1);
    add_loop(s, "twice", twice, 1);
    add_loop(s, "streamed", streamed, 1);
    add_loop(s, "bound_host", bound_host, 1);
    add_loop(s, "lora_streamed", lora_streamed, rows);
    const int failed = run_suite(s);
    json_decref(expected);
    json_decref(loras);
    return failed;
}
