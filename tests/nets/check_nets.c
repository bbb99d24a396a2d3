/* check_nets.c - the networks against the published modules, in float64 and in float32.
 *
 * ref64 must agree to 1e-10 of each tensor's largest value, which checks layouts, orders and
 * formulas.  ref, whose streams are float32, must be within four times the error of the published
 * code's float32 run (GOLDEN.md); so must late, which computes the same from memory of its own.
 * Every tensor of a stage file is compared, or the test fails. */
#include "nets/control.h"
#include "nets/dit.h"
#include "host/pictures.h"
#include "late.h"
#include "testing.h"
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef const char *(*renaming)(const char *tapped, char *out);

typedef struct bench { /* a device, the golden file of a stage, what has been compared */
    qw_device *dev, *ref;
    qw_run run;
    qw_store *gold;
    double tolerance, worst;
    int euclid; /* differences of whole tensors, not of their elements */
    char worst_name[64];
    renaming rename;
    char seen[200][64];
    int seens;
} bench;

static qw_error err;

/* Devices whose streams are float32; late:joins packs parts as one matrix. */
static const char *const in_f32[] = { "ref", "late", "late:joins" };
enum { IN_F32 = sizeof in_f32 / sizeof in_f32[0] };

static const qw_entry *gold(const bench *b, const char *name)
{
    return qw_store_find(b->gold, name);
}

static int64_t count(const qw_entry *e)
{
    int64_t n = 1;
    for (int i = 0; i < e->rank; i++) n *= e->dim[i];
    return n;
}

static double value(const qw_entry *e, int64_t i)
{
    double d;
    int32_t k;
    float f;
    switch (e->dtype) {
    case QW_F64: memcpy(&d, (const char *)e->data + 8 * i, 8); return d;
    case QW_I32: memcpy(&k, (const char *)e->data + 4 * i, 4); return k;
    default: memcpy(&f, (const char *)e->data + 4 * i, 4); return f;
    }
}

/* A golden tensor as doubles; the caller frees. */
static double *doubles(const bench *b, const char *name)
{
    const qw_entry *e = gold(b, name);
    ck_assert_msg(e != NULL, "the golden file has no %s", name);
    double *x = malloc((size_t)(count(e) + 1) * sizeof *x);
    for (int64_t i = 0; i < count(e); i++) x[i] = value(e, i);
    return x;
}

static int32_t *ints(const bench *b, const char *name)
{
    double *x = doubles(b, name);
    const int64_t n = count(gold(b, name));
    int32_t *k = malloc((size_t)(n + 1) * sizeof *k);
    for (int64_t i = 0; i < n; i++) k[i] = (int32_t)x[i];
    free(x);
    return k;
}

static void compare(bench *b, const char *name, const double *x, int64_t n)
{
    const qw_entry *e = gold(b, name);
    if (!e) return;
    double top = 0, off = 0, all = 0, sum = 0;
    ck_assert_msg(count(e) == n, "%s has %lld values, expected %lld", name, (long long)n,
                  (long long)count(e));
    for (int64_t i = 0; i < n; i++) {
        const double want = value(e, i), d = fabs(want - x[i]);
        ck_assert_msg(isfinite(x[i]), "%s[%lld] is not finite", name, (long long)i);
        top = fmax(top, fabs(want));
        off = fmax(off, d);
        all += want * want;
        sum += d * d;
    }
    if (b->euclid) off = sqrt(sum), top = sqrt(all);
    off /= top > 0 ? top : 1;
    if (off > b->worst) {
        b->worst = off;
        snprintf(b->worst_name, sizeof b->worst_name, "%s", name);
    }
    ck_assert_msg(off <= b->tolerance, "%s: %s is off by %.3g, allowed %.3g", b->dev->name, name,
                  off, b->tolerance);
    snprintf(b->seen[b->seens++ % 200], 64, "%s", name);
}

static void on_tap(void *user, const char *name, const qwen_array *a)
{
    bench *b = user;
    char out[96];
    int64_t n = 1;
    for (int i = 0; i < a->rank; i++) n *= a->dim[i];
    double *x = malloc((size_t)(n + 1) * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = a->dtype == QWEN_F64   ? ((double *)a->data)[i]
               : a->dtype == QWEN_F32 ? (double)((float *)a->data)[i]
                                      : ((int32_t *)a->data)[i];
    compare(b, b->rename ? b->rename(name, out) : name, x, n);
    free(x);
}

static void open_bench(bench *b, const char *device, const char *stage, double tolerance,
                       renaming rename)
{
    char path[128];
    *b = (bench){ .tolerance = tolerance, .rename = rename };
    b->euclid = !strcmp(device, "ref:int8");
    err = (qw_error){ 0 };
    if (!strncmp(device, "late", 4)) {
        b->dev = open_late(27);
        late_of(b->dev)->joins = !strcmp(device, "late:joins");
    } else
        ck_assert_msg(!qw_device_open(device, &(qw_device_options){ .threads = 2 }, &b->dev, &err),
                      "%s", err.text);
    ck_assert_msg(!qw_device_open("ref", &(qw_device_options){ .threads = 2 }, &b->ref, &err), "%s",
                  err.text);
    ck_assert_int_eq(qw_store_new(&b->gold, &err), 0);
    snprintf(path, sizeof path, "%s.safetensors", stage);
    ck_assert_msg(!qw_store_add(b->gold, testdata(path), &err), "%s", err.text);
    qw_run_init(&b->run, b->dev, b->ref);
    ck_assert_int_eq(qw_run_reserve(&b->run, (size_t)64 << 20), 0);
    b->run.check = b->run.detail = 1;
    b->run.tap = on_tap;
    b->run.user = b;
}

/* Everything but inputs must have been compared. */
static void close_bench(bench *b)
{
    ck_assert_msg(!b->run.error.status, "%s", b->run.error.text);
    if (b->euclid)
        printf("%s, %s: %.4f of its length at most, in %s; the bound is %.4f\n", b->dev->name,
               qw_store_path(b->gold, 0), b->worst, b->worst_name, b->tolerance);
    for (int64_t i = 0; qw_store_entry(b->gold, i); i++) {
        const char *name = qw_store_entry(b->gold, i)->name;
        int seen = !strncmp(name, "in.", 3);
        for (int k = 0; k < b->seens && !seen; k++) seen = !strcmp(b->seen[k], name);
        ck_assert_msg(seen, "%s has not been compared", name);
    }
    ck_assert_int_eq((int)b->run.used, 0);
    qw_run_free(&b->run);
    qw_store_free(b->gold);
    b->dev->close(b->dev);
    b->ref->close(b->ref);
}

/* --- models ----------------------------------------------------------------------------------- */

typedef struct model {
    qw_store *store;
    qw_residency *res;
    json_t *json;
    qw_loader loader;
} model;

static void open_model(model *m, bench *b, const char *folder, qw_kind kind)
{
    char path[160];
    qw_kind found;
    *m = (model){ 0 };
    ck_assert_int_eq(qw_store_new(&m->store, &err), 0);
    ck_assert_msg(!qw_store_add(m->store, testdata(folder), &err), "%s", err.text);
    ck_assert_msg(!qw_store_canonical(m->store, kind, &found, &err), "%s", err.text);
    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *f = fopen(testdata(path), "rb");
    if (f) {
        fclose(f);
        ck_assert_msg(!qw_json_file(testdata(path), &m->json, &err), "%s", err.text);
    }
    ck_assert_int_eq(qw_residency_new(&m->res, b->dev, 0, &err), 0);
    m->loader = (qw_loader){ .store = m->store, .res = m->res, .err = &err };
}

static void close_model(model *m)
{
    qw_residency_free(m->res);
    qw_store_free(m->store);
    json_decref(m->json);
}

static void loaded(model *m)
{
    ck_assert_msg(!err.status, "%s", err.text);
    ck_assert_msg(!qw_residency_commit(m->res, &err), "%s", err.text);
}

/* --- text ------------------------------------------------------------------------------------- */

static const char *text_name(const char *tapped, char *out)
{
    int i;
    if (sscanf(tapped, "hidden.%d", &i) != 1) return tapped;
    if (i == 0) return "embeds";
    if (i == 3) return "norm";
    sprintf(out, "layer.%d", i - 1);
    return out;
}

/* The golden tables hold both halves of a head: columns d/2 .. repeat the others. */
static void text_tap(void *user, const char *name, const qwen_array *a)
{
    bench *b = user;
    if (strcmp(name, "cos") && strcmp(name, "sin")) {
        on_tap(user, name, a);
        return;
    }
    const int64_t n = a->dim[0], half = a->dim[1];
    double *x = malloc((size_t)(2 * n * half) * sizeof *x);
    for (int64_t i = 0; i < 2 * n * half; i++) {
        const int64_t k = i / (2 * half) * half + i % half;
        x[i] = a->dtype == QWEN_F64 ? ((double *)a->data)[k] : (double)((float *)a->data)[k];
    }
    compare(b, name, x, 2 * n * half);
    free(x);
}

static void run_text(const char *device, const char *stage, double tolerance)
{
    bench b;
    model m;
    qw_text_config c;
    qw_text *t;
    open_bench(&b, device, stage, tolerance, text_name);
    b.run.tap = text_tap;
    open_model(&m, &b, "tiny/text_encoder", QW_KIND_TEXT);
    ck_assert_msg(!qw_text_configure(&c, m.json, m.store, "config.json", &err), "%s", err.text);
    qw_text_load(&t, &c, &m.loader);
    loaded(&m);
    const int64_t n = count(gold(&b, "in.ids"));
    int32_t *ids = ints(&b, "in.ids"), *grid = gold(&b, "in.grid") ? ints(&b, "in.grid") : NULL;
    double *features = grid ? doubles(&b, "in.features") : NULL,
           *out = malloc((size_t)(n * c.width) * sizeof *out);
    const int pictures = grid ? (int)gold(&b, "in.grid")->dim[0] : 0;
    qw_grid merged[4] = { { 0, 0, 0 } };
    for (int i = 0; i < pictures; i++)
        merged[i] = (qw_grid){ 1, grid[3 * i + 1] / 2, grid[3 * i + 2] / 2 };
    int32_t *positions = malloc((size_t)(3 * n) * sizeof *positions);
    ck_assert_msg(!qw_mrope_positions(&c, ids, n, merged, pictures, positions, &err), "%s",
                  err.text);
    qw_tap_ints(&b.run, positions, 2, (const int64_t[]){ 3, n }, "positions");
    qw_text_forward(&b.run, t, ids, n, features, features ? gold(&b, "in.features")->dim[0] : 0,
                    positions, out);
    compare(&b, "norm", out, n * c.width);
    free(ids);
    free(grid);
    free(features);
    free(out);
    free(positions);
    qw_text_free(t);
    close_model(&m);
    close_bench(&b);
}

START_TEST(text64) { run_text("ref64", "stages/text", 1e-10); }
END_TEST
START_TEST(text32) { run_text(in_f32[_i], "stages/text", 4 * 7.3e-7); }
END_TEST
START_TEST(text_image64) { run_text("ref64", "stages/text_image", 1e-10); }
END_TEST
START_TEST(text_image32) { run_text(in_f32[_i], "stages/text_image", 4 * 8.8e-7); }
END_TEST

/* --- vision ----------------------------------------------------------------------------------- */

/* Several pictures are independent: their taps are gathered and compared at the end. */
typedef struct gather {
    char name[32];
    double *x;
    int64_t n;
} gather;
static gather gathered[32];
static int gathers;
static int64_t unit_base;

static void vision_tap(void *user, const char *name, const qwen_array *a)
{
    (void)user;
    int64_t n = 1;
    int at = 0;
    for (int i = 0; i < a->rank; i++) n *= a->dim[i];
    while (at < gathers && strcmp(gathered[at].name, name)) at++;
    gather *g = &gathered[at];
    if (at == gathers) {
        gathers++;
        snprintf(g->name, sizeof g->name, "%s", name);
    }
    g->x = realloc(g->x, (size_t)(g->n + n) * sizeof *g->x);
    for (int64_t i = 0; i < n; i++)
        g->x[g->n + i] = a->dtype == QWEN_F64   ? ((double *)a->data)[i]
                         : a->dtype == QWEN_F32 ? (double)((float *)a->data)[i]
                                                : (double)(((int32_t *)a->data)[i] + unit_base);
    g->n += n;
}

static void run_vision(const char *device, const char *stage, double tolerance)
{
    bench b;
    model m;
    qw_vision_config c;
    qw_vision *v;
    open_bench(&b, device, stage, tolerance, NULL);
    b.run.tap = vision_tap;
    memset(gathered, 0, sizeof gathered);
    gathers = 0;
    unit_base = 0;
    open_model(&m, &b, "tiny/text_encoder", QW_KIND_VISION);
    ck_assert_msg(!qw_vision_configure(&c, m.json, NULL, m.store, "config.json", &err), "%s",
                  err.text);
    qw_vision_load(&v, &c, &m.loader);
    loaded(&m);
    double *pixels = doubles(&b, "in.pixels");
    int32_t *grid = ints(&b, "in.grid");
    const int64_t patches = gold(&b, "in.pixels")->dim[0], features = gold(&b, "in.pixels")->dim[1];
    double *out = malloc((size_t)(patches / 4 * c.out) * sizeof *out);
    for (int64_t i = 0, first = 0; i < gold(&b, "in.grid")->dim[0]; i++) {
        const qw_grid g = { 1, grid[3 * i + 1], grid[3 * i + 2] };
        unit_base = first / 4;
        qw_vision_forward(&b.run, v, pixels + first * features, &g, out + first / 4 * c.out);
        first += (int64_t)g.rows * g.cols;
    }
    ck_assert_msg(!b.run.error.status, "%s", b.run.error.text);
    for (int i = 0; i < gathers; i++) {
        compare(&b, gathered[i].name, gathered[i].x, gathered[i].n);
        free(gathered[i].x);
    }
    compare(&b, "out", out, patches / 4 * c.out);
    free(pixels);
    free(grid);
    free(out);
    qw_vision_free(v);
    close_model(&m);
    close_bench(&b);
}

START_TEST(vision64)
{
    run_vision("ref64", "stages/vision_partial", 1e-10);
    run_vision("ref64", "stages/vision_exact", 1e-10);
    run_vision("ref64", "stages/vision_two", 1e-10);
}
END_TEST
START_TEST(vision32)
{
    run_vision(in_f32[_i], "stages/vision_partial", 4 * 1.6e-6);
    run_vision(in_f32[_i], "stages/vision_exact", 4 * 1.7e-6);
    run_vision(in_f32[_i], "stages/vision_two", 4 * 1.8e-6);
}
END_TEST

/* --- dit -------------------------------------------------------------------------------------- */

static int grids_of(const bench *b, qw_grid *g)
{
    int32_t *shape = ints(b, "in.img_shapes");
    const int n = (int)gold(b, "in.img_shapes")->dim[0];
    for (int i = 0; i < n; i++)
        g[i] = (qw_grid){ shape[3 * i], shape[3 * i + 1], shape[3 * i + 2] };
    free(shape);
    return n;
}

static void run_dit(const char *device, const char *stage, const char *folder, int noise_grids,
                    double tolerance)
{
    bench b;
    model m;
    qw_dit_config c;
    qw_dit *d;
    qw_modulation *table;
    qw_grid grid[8];
    open_bench(&b, device, stage, tolerance, NULL);
    open_model(&m, &b, folder, QW_KIND_TRANSFORMER);
    ck_assert_msg(!qw_dit_configure(&c, m.json, m.store, "config.json", &err), "%s", err.text);
    qw_dit_load(&d, &c, &m.loader);
    loaded(&m);
    const int grids = grids_of(&b, grid);
    double *x = doubles(&b, "in.x"), *text = doubles(&b, "in.text"), *t = doubles(&b, "in.t");
    const int64_t rows = gold(&b, "in.x")->dim[0];
    double *out = malloc((size_t)(rows * c.in) * sizeof *out);
    qw_dit_sequence s = { .x = x,
                          .rows = rows,
                          .grid = grid,
                          .grids = grids,
                          .noise_grids = noise_grids ? noise_grids : grids,
                          .text = text,
                          .text_rows = gold(&b, "in.text")->dim[0],
                          .out = out,
                          .tap = "" };
    for (int i = 0; i < s.noise_grids; i++)
        s.noise_rows += (int64_t)grid[i].frames * grid[i].rows * grid[i].cols;
    ck_assert_msg(!qw_dit_modulate(&b.run, d, t, 1, &table), "%s", b.run.error.text);
    qw_dit_forward(&b.run, d, table, 0, &s, 1, 0, 1);
    ck_assert_msg(!b.run.error.status, "%s", b.run.error.text);
    compare(&b, "out", out, rows * c.in);
    qw_modulation_free(table);
    free(x);
    free(text);
    free(t);
    free(out);
    qw_dit_free(d);
    close_model(&m);
    close_bench(&b);
}

START_TEST(dit64)
{
    run_dit("ref64", "stages/dit_t2i", "tiny/transformer", 1, 1e-10);
    run_dit("ref64", "stages/dit_edit", "tiny/transformer", 1, 1e-10);
    run_dit("ref64", "stages/dit_edit_2511", "tiny-edit-2511/transformer", 1, 1e-10);
    run_dit("ref64", "stages/dit_layered", "tiny-layered/transformer", 0, 1e-10);
}
END_TEST
START_TEST(dit32)
{
    run_dit(in_f32[_i], "stages/dit_t2i", "tiny/transformer", 1, 4 * 3.6e-5);
    run_dit(in_f32[_i], "stages/dit_edit", "tiny/transformer", 1, 4 * 2.6e-5);
    run_dit(in_f32[_i], "stages/dit_edit_2511", "tiny-edit-2511/transformer", 1, 4 * 2.6e-5);
    run_dit(in_f32[_i], "stages/dit_layered", "tiny-layered/transformer", 0, 4 * 4.4e-5);
}
END_TEST

/* --- ControlNets ------------------------------------------------------------------------------ */

static const char *control_name(const char *tapped, char *out)
{
    int i, used = 0;
    if (sscanf(tapped, "main.control.%d%n", &i, &used) == 1 && !tapped[used]) {
        sprintf(out, "sample.%d", i);
        return out;
    }
    if (!strncmp(tapped, "control.", 8)) return tapped + 8;
    return strcmp(tapped, "main.temb") && strcmp(tapped, "main.time_proj") ? tapped : "none";
}

static void run_control(const char *device, double tolerance)
{
    bench b;
    model m, side;
    qw_dit_config c, cc;
    qw_dit *d;
    qw_control *k;
    qw_modulation *table, *own;
    qw_grid grid[8];
    open_bench(&b, device, "stages/controlnet", tolerance, control_name);
    open_model(&m, &b, "tiny/transformer", QW_KIND_TRANSFORMER);
    ck_assert_msg(!qw_dit_configure(&c, m.json, m.store, "config.json", &err), "%s", err.text);
    qw_dit_load(&d, &c, &m.loader);
    loaded(&m);
    open_model(&side, &b, "tiny-controlnet/controlnet", QW_KIND_CONTROLNET);
    ck_assert_msg(!qw_dit_configure(&cc, side.json, side.store, "config.json", &err), "%s",
                  err.text);
    qw_control_load(&k, &cc, &side.loader);
    loaded(&side);
    ck_assert_int_eq(qw_control_kind_of(k), QW_CONTROL_INSTANTX);
    double *x = doubles(&b, "in.x"), *text = doubles(&b, "in.text"), *t = doubles(&b, "in.t");
    double *given = doubles(&b, "in.control"), *scale = doubles(&b, "in.scale");
    const int64_t rows = gold(&b, "in.x")->dim[0];
    double *out = malloc((size_t)(rows * c.in) * sizeof *out);
    qw_control_use use;
    qw_dit_picture picture;
    const qw_dit_hook hook = { qw_control_after, &use };
    qw_dit_sequence s = { .x = x,
                          .rows = rows,
                          .noise_rows = rows,
                          .grid = grid,
                          .grids = grids_of(&b, grid),
                          .noise_grids = 1,
                          .text = text,
                          .text_rows = gold(&b, "in.text")->dim[0],
                          .out = out,
                          .hook = &hook,
                          .tap = "main." };
    ck_assert_msg(!qw_control_modulate(&b.run, k, d, t, 1, &own), "%s", b.run.error.text);
    ck_assert_msg(!qw_dit_modulate(&b.run, d, t, 1, &table), "%s", b.run.error.text);
    compare(&b, "temb", own->temb, c.width);
    compare(&b, "time_proj", own->proj, 256);
    qw_dit_place(&b.run, d, table, &s, 1, 0, 1, &picture);
    qw_control_place(&b.run, k, own, &picture, given, *scale, (int)c.layers, &use);
    qw_dit_put(&b.run, &picture, table, 0);
    qw_control_put(&b.run, &use, own, 0);
    qw_control_run(&b.run, d, &picture.pass[0], &use);
    qw_dit_run(&b.run, d, &picture);
    qw_dit_get(&b.run, &picture);
    b.run.used = 0;
    ck_assert_msg(!b.run.error.status, "%s", b.run.error.text);
    compare(&b, "main.out", out, rows * c.in);
    qw_modulation_free(table);
    qw_modulation_free(own);
    free(x);
    free(text);
    free(t);
    free(given);
    free(scale);
    free(out);
    qw_control_free(k);
    qw_dit_free(d);
    close_model(&side);
    close_model(&m);
    close_bench(&b);
}

START_TEST(control64) { run_control("ref64", 1e-10); }
END_TEST
START_TEST(control32) { run_control(in_f32[_i], 4 * 5.5e-5); }
END_TEST

/* --- VAE -------------------------------------------------------------------------------------- */

static void run_vae(const char *device, const char *stage, const char *folder, double tolerance)
{
    bench b;
    model m;
    qw_vae_config c;
    qw_vae *v;
    open_bench(&b, device, stage, tolerance, NULL);
    open_model(&m, &b, folder, QW_KIND_VAE);
    ck_assert_msg(!qw_vae_configure(&c, m.json, m.store, "config.json", &err), "%s", err.text);
    qw_vae_load(&v, &c, QW_VAE_DECODER | QW_VAE_ENCODER, &m.loader);
    loaded(&m);
    double *latent = doubles(&b, "in.dec.in"), *chw = doubles(&b, "in.enc.in");
    const int64_t h = gold(&b, "in.dec.in")->dim[1], w = gold(&b, "in.dec.in")->dim[2],
                  n = 64 * h * w;
    const int64_t z = c.z * h * w;
    double *picture = malloc((size_t)(n * c.channels) * sizeof *picture),
           *turned = calloc((size_t)(n * c.channels), 8);
    double *mean = malloc((size_t)(4 * z) * sizeof *mean), *logvar = mean + z, *std = logvar + z,
           *norm = std + z;
    qw_vae_decode(&b.run, v, latent, h, w, 0, picture);
    for (int64_t k = 0; k < c.channels; k++)
        for (int64_t i = 0; i < n; i++)
            turned[k * n + i] = fmin(1, fmax(-1, picture[i * c.channels + k]));
    compare(&b, "dec.out", turned, n * c.channels);
    for (int64_t k = 0; k < c.channels; k++)
        for (int64_t i = 0; i < n; i++) picture[i * c.channels + k] = chw[k * n + i];
    qw_vae_encode(&b.run, v, picture, 8 * h, 8 * w, 0, mean, logvar);
    for (int64_t i = 0; i < z; i++) {
        std[i] = exp(logvar[i] / 2);
        norm[i] = (mean[i] - c.mean[i / (h * w)]) / c.std[i / (h * w)];
    }
    compare(&b, "enc.mean", mean, z);
    compare(&b, "enc.logvar", logvar, z);
    compare(&b, "enc.std", std, z);
    compare(&b, "enc.mean_norm", norm, z);
    free(latent);
    free(chw);
    free(picture);
    free(turned);
    free(mean);
    qw_vae_free(v);
    close_model(&m);
    close_bench(&b);
}

START_TEST(vae64)
{
    run_vae("ref64", "stages/vae_rgb", "tiny/vae", 1e-10);
    run_vae("ref64", "stages/vae_rgba", "tiny-layered/vae", 1e-10);
}
END_TEST
START_TEST(vae32)
{
    run_vae(in_f32[_i], "stages/vae_rgb", "tiny/vae", 4 * 3.0e-6);
    run_vae(in_f32[_i], "stages/vae_rgba", "tiny-layered/vae", 4 * 1.2e-6);
}
END_TEST

/* One frame after two frames of zeros: the 3x3x3 causal kernel is its last temporal tap. */
START_TEST(one_frame)
{
    bench b;
    open_bench(&b, "ref64", "units/ops/ops", 1e-12, NULL);
    const qw_entry *w = gold(&b, "causal_conv3d.weight");
    const qw_entry *x = gold(&b, "conv.x"), *y = gold(&b, "causal_conv3d.y");
    const qw_entry *bias = gold(&b, "conv.bias");
    ck_assert(w && x && y && bias);
    const int64_t co = w->dim[0], ci = w->dim[1], H = y->dim[y->rank - 2], W = y->dim[y->rank - 1];
    const int64_t frames = count(x) / (ci * H * W);
    double *k = malloc((size_t)(co * 9 * ci) * 8), *in = malloc((size_t)(H * W * ci) * 8);
    double *out = malloc((size_t)(H * W * co) * 8), *chw = malloc((size_t)(H * W * co) * 8);
    double *zero = calloc((size_t)co, 8);
    for (int64_t o = 0; o < co; o++)
        for (int64_t i = 0; i < ci; i++)
            for (int64_t p = 0; p < 9; p++)
                k[(o * 9 + p) * ci + i] = value(w, ((o * ci + i) * 3 + 2) * 9 + p);
    for (int64_t o = 0; o < co; o++) zero[o] = value(bias, o);
    for (int64_t i = 0; i < ci; i++)
        for (int64_t p = 0; p < H * W; p++)
            in[p * ci + i] = value(x, (i * frames + frames - 1) * H * W + p);
    const qw_conv2d_args a = { .y = qw_dense3(out, QW_F64, H, W, co),
                               .x = qw_dense3(in, QW_F64, H, W, ci),
                               .w = qw_dense4(k, QW_F64, co, 3, 3, ci),
                               .bias = qw_dense1(zero, QW_F64, co),
                               .stride = 1,
                               .top = 1,
                               .left = 1,
                               .up = 1 };
    qw_conv2d(&b.run, a);
    ck_assert_msg(!b.run.error.status, "%s", b.run.error.text);
    for (int64_t o = 0; o < co; o++)
        for (int64_t p = 0; p < H * W; p++) chw[o * H * W + p] = out[p * co + o];
    b.tolerance = 1e-12;
    compare(&b, "causal_conv3d.y", chw, co * H * W);
    ck_assert_int_eq(b.seens, 1);
    free(k);
    free(in);
    free(out);
    free(chw);
    free(zero);
    qw_run_free(&b.run);
    qw_store_free(b.gold);
    b.dev->close(b.dev);
    b.ref->close(b.ref);
}
END_TEST

/* The Fun ControlNet: blocks that share the main network's input layers; its hints, and the main
 * network with them at two strengths. */
static void run_fun_case(bench *b, const qw_dit *d, const qw_control *k, qw_dit_sequence *s,
                         const double *t, const char *name)
{
    char key[64];
    qw_modulation *table, *own;
    const int64_t C = qw_dit_config_of(d)->width, size = s->rows * C;
    snprintf(key, sizeof key, "%s.context", name);
    double *context = doubles(b, key), *samples = malloc((size_t)(5 * size) * sizeof *samples);
    ck_assert_int_eq(gold(b, key)->dim[1], qw_control_features(k));
    ck_assert_msg(!qw_control_modulate(&b->run, k, d, t, 1, &own), "%s", b->run.error.text);
    ck_assert_msg(!qw_dit_modulate(&b->run, d, t, 1, &table), "%s", b->run.error.text);
    for (int half = 0; half < 2; half++) {
        qw_control_use use;
        qw_dit_picture picture;
        const qw_dit_hook hook = { qw_control_after, &use };
        qw_dit_place(&b->run, d, table, s, 1, 0, 0, &picture);
        qw_control_place(&b->run, k, own, &picture, context, half ? 0.5 : 1,
                         (int)qw_dit_config_of(d)->layers, &use);
        qw_dit_put(&b->run, &picture, table, 0);
        qw_control_put(&b->run, &use, own, 0);
        qw_control_run(&b->run, d, &picture.pass[0], &use);
        ck_assert_int_le(qw_elements(&use.samples), 5 * size);
        qw_get(&b->run, use.samples, samples);
        for (int i = 0; i < use.samples.dim[0] / s->rows && !half; i++) {
            snprintf(key, sizeof key, "%s.hint.%d", name, i);
            compare(b, key, samples + i * size, size);
        }
        s->hook = &hook;
        qw_dit_run(&b->run, d, &picture);
        qw_dit_get(&b->run, &picture);
        s->hook = NULL;
        b->run.used = 0;
        snprintf(key, sizeof key, "%s.out.%s", name, half ? "0.5" : "1.0");
        compare(b, key, s->out, s->rows * 64);
    }
    qw_modulation_free(own);
    qw_modulation_free(table);
    free(context);
    free(samples);
}

START_TEST(fun64)
{
    bench b;
    model m, side;
    qw_dit_config c;
    qw_dit *d;
    qw_control *k;
    qw_modulation *table;
    open_bench(&b, "ref64", "fun-controlnet/goldens", 1e-10, NULL);
    b.run.tap = NULL;
    open_model(&m, &b, "tiny/transformer", QW_KIND_TRANSFORMER);
    ck_assert_msg(!qw_dit_configure(&c, m.json, m.store, "config.json", &err), "%s", err.text);
    qw_dit_load(&d, &c, &m.loader);
    loaded(&m);
    open_model(&side, &b, "fun-controlnet/fun_controlnet_tiny.safetensors", QW_KIND_CONTROLNET);
    qw_control_load(&k, &c, &side.loader);
    loaded(&side);
    ck_assert_int_eq(qw_control_kind_of(k), QW_CONTROL_FUN);
    double *latent = doubles(&b, "latent"), *text = doubles(&b, "text"),
           *t = doubles(&b, "timestep");
    const int64_t h = gold(&b, "latent")->dim[1], w = gold(&b, "latent")->dim[2], rows = h * w / 4;
    double *x = malloc((size_t)(rows * 64) * sizeof *x),
           *out = malloc((size_t)(rows * 64) * sizeof *out);
    qw_pack(latent, 16, h, w, x);
    const qw_grid grid = { 1, (int32_t)(h / 2), (int32_t)(w / 2) };
    qw_dit_sequence s = { .x = x,
                          .rows = rows,
                          .noise_rows = rows,
                          .grid = &grid,
                          .grids = 1,
                          .noise_grids = 1,
                          .text = text,
                          .text_rows = gold(&b, "text")->dim[0],
                          .out = out };
    ck_assert_msg(!qw_dit_modulate(&b.run, d, t, 1, &table), "%s", b.run.error.text);
    qw_dit_forward(&b.run, d, table, 0, &s, 1, 0, 0);
    compare(&b, "no_control.out", out, rows * 64);
    run_fun_case(&b, d, k, &s, t, "plain");
    run_fun_case(&b, d, k, &s, t, "inpaint");
    ck_assert_msg(!b.run.error.status, "%s", b.run.error.text);
    ck_assert_int_eq(b.seens, 9);
    qw_modulation_free(table);
    free(latent);
    free(text);
    free(t);
    free(x);
    free(out);
    qw_control_free(k);
    qw_dit_free(d);
    close_model(&side);
    close_model(&m);
    qw_run_free(&b.run);
    qw_store_free(b.gold);
    b.dev->close(b.dev);
    b.ref->close(b.ref);
}
END_TEST

/* --- codes of 8 bits -------------------------------------------------------------------------- */

/* Rounding to codes is off by a uniform error of max / 127 in width: of the length of a row of
 * normal numbers, whose largest is below 4 deviations, 4 / (127 sqrt(12)); both operands of a
 * product are quantised.  A block has 4 products that follow one another, and at worst the
 * errors of all add up. */
static double int8_bound(int blocks) { return 4 * blocks * sqrt(2) * 4 / (127 * sqrt(12)); }

START_TEST(text8)
{
    run_text("ref:int8", "stages/text", int8_bound(3));
    run_text("ref:int8", "stages/text_image", int8_bound(3));
}
END_TEST
START_TEST(vision8)
{
    run_vision("ref:int8", "stages/vision_partial", int8_bound(4));
    run_vision("ref:int8", "stages/vision_two", int8_bound(4));
}
END_TEST
START_TEST(dit8)
{
    run_dit("ref:int8", "stages/dit_t2i", "tiny/transformer", 1, int8_bound(3));
    run_dit("ref:int8", "stages/dit_edit_2511", "tiny-edit-2511/transformer", 1, int8_bound(3));
}
END_TEST
START_TEST(control8) { run_control("ref:int8", int8_bound(3 + 2)); }
END_TEST

int main(void)
{
    Suite *s = suite_create("nets");
    TCase *t = tcase_create("stages");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, text64);
    tcase_add_loop_test(t, text32, 0, IN_F32);
    tcase_add_test(t, text_image64);
    tcase_add_loop_test(t, text_image32, 0, IN_F32);
    tcase_add_test(t, vision64);
    tcase_add_loop_test(t, vision32, 0, IN_F32);
    tcase_add_test(t, dit64);
    tcase_add_loop_test(t, dit32, 0, IN_F32);
    tcase_add_test(t, control64);
    tcase_add_loop_test(t, control32, 0, IN_F32);
    tcase_add_test(t, vae64);
    tcase_add_loop_test(t, vae32, 0, IN_F32);
    tcase_add_test(t, one_frame);
    tcase_add_test(t, fun64);
    tcase_add_test(t, text8);
    tcase_add_test(t, vision8);
    tcase_add_test(t, dit8);
    tcase_add_test(t, control8);
    suite_add_tcase(s, t);
    return run_suite(s);
}
