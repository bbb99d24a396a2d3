/* check_golden.c - whole pictures through the public functions, every stage against the golden
 * data.
 *
 * The error of a stage may be four times that of the published code's float32 run against its
 * float64 run (GOLDEN.md, the table of relative differences); ids, positions and shapes must be
 * equal. */
#include "testing.h"
#include <qwen/qwen.h>
#include <check.h>
#include <fnmatch.h>
#include <jansson.h>
#include <math.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Patterns in order; the first that fits holds.  0: equal. */
static const struct {
    const char *name;
    double relative;
} tolerances[] = {
    { "text.ids", 0 },
    { "neg.ids", 0 },
    { "text.mask", 0 },
    { "neg.mask", 0 },
    { "text.positions", 0 },
    { "img_shapes", 0 },
    { "vision.grid", 0 },
    { "mask", 0 },
    { "noise", 3e-7 / 4 },
    { "vae.enc.?.eps", 3e-7 / 4 },
    { "control", 2.0e-7 },
    { "image", 1.6e-5 },
    { "latents.*", 2.6e-5 },
    { "mu", 2.4e-8 },
    { "neg.embeds", 2.0e-6 },
    { "step.t", 3.0e-8 },
    { "step0.control.*", 3.4e-6 },
    { "step0.img.*", 4.0e-5 },
    { "step0.img_in", 4.1e-7 },
    { "step0.temb", 1.3e-5 },
    { "step0.txt.*", 1.2e-5 },
    { "step0.txt_in", 2.1e-6 },
    { "step0.x", 2.0e-7 },
    { "text.embeds", 2.0e-6 },
    { "text.hidden.*", 2.5e-6 },
    { "timesteps", 2.7e-8 },
    { "sigmas", 2.7e-8 },
    { "v.*.pos", 3.0e-5 },
    { "v.*.neg", 3.0e-5 },
    { "v.*", 5.0e-5 },
    { "vae.dec.in", 2.3e-5 },
    { "vae.dec.out", 3.3e-5 },
    { "vae.enc.?.logvar", 4.7e-7 },
    { "vae.enc.?.mean", 6.2e-7 },
    { "vae.enc.?.mean_norm", 6.6e-7 },
    { "vae.enc.?.norm", 6.6e-7 },
    { "vae.enc.?.in", 1e-7 },
    { "vision.out", 5.1e-7 },
    { "vision.pixels", 1e-7 },
};

/* --- what a run hands out
 * ---------------------------------------------------------------------------------- */

enum { MOST = 400 };
typedef struct dump {
    int n;
    char name[MOST][64];
    qwen_array a[MOST];
} dump;

static size_t element(int dtype) { return dtype == QWEN_U8 ? 1 : dtype == QWEN_F64 ? 8 : 4; }

static int64_t count(const qwen_array *a)
{
    int64_t n = 1;
    for (int i = 0; i < a->rank; i++) n *= a->dim[i];
    return n;
}

static void tap(void *user, const char *name, const qwen_array *a)
{
    dump *d = user;
    ck_assert_int_lt(d->n, MOST);
    for (int i = 0; i < d->n; i++)
        ck_assert_msg(strcmp(d->name[i], name), "%s is shown twice", name);
    snprintf(d->name[d->n], sizeof *d->name, "%s", name);
    qwen_array *to = &d->a[d->n++];
    const size_t bytes = (size_t)count(a) * element(a->dtype);
    *to = *a;
    to->data = malloc(bytes ? bytes : 1);
    ck_assert_ptr_nonnull(to->data);
    memcpy(to->data, a->data, bytes);
}

static void dump_free(dump *d)
{
    for (int i = 0; i < d->n; i++) qwen_array_free(&d->a[i]);
    d->n = 0;
}

static const qwen_array *found(const dump *d, const char *name)
{
    for (int i = 0; i < d->n; i++)
        if (!strcmp(d->name[i], name)) return &d->a[i];
    return NULL;
}

static double number(const qwen_array *a, int64_t i)
{
    switch (a->dtype) {
    case QWEN_F64: return ((const double *)a->data)[i];
    case QWEN_F32: return (double)((const float *)a->data)[i];
    case QWEN_I32: return ((const int32_t *)a->data)[i];
    default: return ((const uint8_t *)a->data)[i];
    }
}

/* --- pictures --------------------------------------------------------------------------------- */

static qwen_array read_png(const char *path, int channels)
{
    png_image image = { .version = PNG_IMAGE_VERSION };
    ck_assert_msg(png_image_begin_read_from_file(&image, path), "%s: %s", path, image.message);
    const int had = image.format & PNG_FORMAT_FLAG_ALPHA ? 4 : 3;
    const int c = channels ? channels : had;
    image.format = c == 4 ? PNG_FORMAT_RGBA : PNG_FORMAT_RGB;
    qwen_array a = { .dtype = QWEN_U8, .rank = 3, .dim = { image.height, image.width, c } };
    a.data = malloc(PNG_IMAGE_SIZE(image));
    ck_assert_ptr_nonnull(a.data);
    /* Alpha is dropped, not composed: read with it, then take three of four. */
    if (had == 4 && c == 3) {
        image.format = PNG_FORMAT_RGBA;
        uint8_t *rgba = malloc(PNG_IMAGE_SIZE(image));
        ck_assert(png_image_finish_read(&image, NULL, rgba, 0, NULL));
        for (int64_t i = 0; i < (int64_t)image.width * image.height; i++)
            memcpy((uint8_t *)a.data + 3 * i, rgba + 4 * i, 3);
        free(rgba);
    } else {
        ck_assert(png_image_finish_read(&image, NULL, a.data, 0, NULL));
    }
    return a;
}

/* --- cases ------------------------------------------------------------------------------------ */

static json_t *cases, *demo, *loras;

static const char *string(const json_t *c, const char *key)
{
    return json_string_value(json_object_get(c, key));
}

static double real(const json_t *c, const char *key, double otherwise)
{
    const json_t *v = json_object_get(c, key);
    return json_is_number(v) ? json_number_value(v) : otherwise;
}

/* testdata() has one buffer of its own. */
static void path_of(char *out, size_t size, const char *format, const char *name)
{
    char rel[300];
    snprintf(rel, sizeof rel, format, name);
    snprintf(out, size, "%s", testdata(rel));
}

static void must(qwen *q, int status, const char *name)
{
    char text[1000];
    snprintf(text, sizeof text, "%s", qwen_error(q));
    ck_assert_msg(status == QWEN_OK, "%s: %d %s", name, status, text);
}

static double tolerance(const char *name)
{
    for (size_t i = 0; i < sizeof tolerances / sizeof *tolerances; i++)
        if (!fnmatch(tolerances[i].name, name, 0)) return 4 * tolerances[i].relative;
    ck_abort_msg("no tolerance for %s", name);
    return 0;
}

/* max |a - b| / max |a| */
static double distance(const qwen_array *a, const qwen_array *b)
{
    double most = 0, off = 0;
    for (int64_t i = 0; i < count(a); i++) {
        const double x = number(a, i), y = number(b, i);
        most = fmax(most, fabs(x));
        if (!(fabs(x - y) <= off)) off = fabs(x - y);
        if (y != y) return (double)INFINITY;
    }
    return most > 0 ? off / most : off;
}

static int worse(const char *name, const qwen_array *want, const qwen_array *got, char *text,
                 size_t size)
{
    int same = got && got->rank == want->rank;
    for (int i = 0; same && i < want->rank; i++) same = want->dim[i] == got->dim[i];
    if (!got || !same) {
        snprintf(text, size, "%s: %s", name, got ? "another shape" : "missing");
        return 1;
    }
    if (!strcmp(name, "image.u8")) {
        for (int64_t i = 0; i < count(want); i++)
            if (fabs(number(want, i) - number(got, i)) > 1) {
                snprintf(text, size, "image.u8: off by more than 1 at %lld", (long long)i);
                return 1;
            }
        return 0;
    }
    const double e = distance(want, got), limit = tolerance(name);
    if (e <= limit) return 0;
    snprintf(text, size, "%s: %.2g > %.2g", name, e, limit);
    return 1;
}

static void compare(const char *name, const dump *d)
{
    char path[500], all[900] = "", text[160];
    qwen_file *f;
    path_of(path, sizeof path, "pipelines/%s.safetensors", name);
    ck_assert_msg(!qwen_file_open(&f, path), "%s", qwen_file_error(f));
    int bad = 0;
    ck_assert_int_gt(qwen_file_count(f), 20);
    for (int64_t i = 0; i < qwen_file_count(f); i++) {
        qwen_file_tensor t;
        qwen_array want;
        ck_assert_int_eq(qwen_file_tensor_at(f, i, &t), QWEN_OK);
        ck_assert_int_eq(qwen_file_read(f, t.name, &want), QWEN_OK);
        if (worse(t.name, &want, found(d, t.name), text, sizeof text) && bad++ < 6)
            snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", bad > 1 ? "; " : "",
                     text);
        qwen_array_free(&want);
    }
    qwen_file_close(f);
    ck_assert_msg(!bad, "%s: %d stages differ: %s", name, bad, all);
}

/* Pictures of a case; returns how many. */
static int case_pictures(const json_t *c, qwen_array *picture)
{
    const json_t *images = json_object_get(c, "images");
    const int n = (int)json_array_size(images), layered = !strcmp(string(c, "kind"), "layered");
    for (int i = 0; i < n; i++) {
        char path[500];
        path_of(path, sizeof path, "pipelines/%s",
                json_string_value(json_array_get(images, (size_t)i)));
        picture[i] = read_png(path, layered ? 4 : 3);
    }
    return n;
}

static void run_case(const json_t *c, const char *device)
{
    const char *kind = string(c, "kind"), *name = string(c, "name");
    char path[500];
    qwen_array picture[8], mask = { 0 };
    double sigmas[64];
    dump *d = calloc(1, sizeof *d);
    ck_assert_ptr_nonnull(d);
    const int n = case_pictures(c, picture), control = !strcmp(kind, "controlnet");
    qwen_options opt = { .size = sizeof opt, .device = device, .threads = 1 };
    path_of(path, sizeof path, "%s", string(c, "model"));
    opt.model = path;
    qwen_request req = {
        .size = sizeof req,
        .prompt = string(c, "prompt"),
        .negative = string(c, "negative_prompt"),
        .input = picture,
        .inputs = control ? 0 : n,
        .control = control ? picture : NULL,
        .width = (int)real(c, "width", 0),
        .height = (int)real(c, "height", 0),
        .steps = (int)real(c, "steps", 0),
        .guidance = real(c, "true_cfg_scale", 1),
        .seed = (uint64_t)json_integer_value(json_object_get(c, "seed")),
        .strength = real(c, "strength", 0),
        .layers = (int)real(c, "layers", 0),
        .reference_area = (int64_t)real(c, "vae_area", 0),
        .condition_area = (int64_t)real(c, "condition_area", 0),
        .control_strength = real(c, "controlnet_conditioning_scale", 0),
        .control_start = real(c, "control_guidance_start", 0),
        .control_end = real(c, "control_guidance_end", 0),
        .tap = tap,
        .user = d,
    };
    if (json_is_true(json_object_get(c, "cfg_normalize"))) req.guidance_norm = 1;
    const json_t *list = json_object_get(c, "sigmas");
    for (size_t i = 0; i < json_array_size(list); i++)
        sigmas[req.n_sigmas++] = json_number_value(json_array_get(list, i));
    req.sigmas = list ? sigmas : NULL;
    if (string(c, "mask")) {
        char file[500];
        path_of(file, sizeof file, "pipelines/%s", string(c, "mask"));
        mask = read_png(file, 3);
        req.mask = &mask;
    }
    qwen_result res = { .size = sizeof res };
    qwen *q;
    const int status = qwen_open(&q, &opt);
    must(q, status, name);
    must(q, qwen_generate(q, &req, &res), name);
    ck_assert_int_eq(res.n, req.layers ? req.layers : 1);
    ck_assert_int_eq(res.width, (int)real(c, "output_width", -1));
    ck_assert_int_eq(res.height, (int)real(c, "output_height", -1));
    qwen_result_free(&res);
    qwen_close(q);
    compare(name, d);
    dump_free(d);
    free(d);
    qwen_array_free(&mask);
    for (int i = 0; i < n; i++) qwen_array_free(&picture[i]);
}

START_TEST(pipeline) { run_case(json_array_get(cases, (size_t)_i), "ref"); }
END_TEST

/* A float64 run has a smaller error than the golden float32 run. */
START_TEST(pipeline_f64) { run_case(json_array_get(cases, (size_t)_i), "ref64"); }
END_TEST

/* --- the trained checkpoint: pictures, not numbers
 * -------------------------------------------------------------------- */

START_TEST(demo_picture)
{
    const json_t *c = json_array_get(demo, (size_t)_i);
    const char *data = getenv("QWEN_DATADIR"), *src = getenv("srcdir");
    char model[500], path[500];
    qwen_array input = { 0 };
    if (data) snprintf(model, sizeof model, "%s/demo", data);
    else snprintf(model, sizeof model, "%s/data/demo", src ? src : ".");
    if (string(c, "input")) {
        path_of(path, sizeof path, "demo/%s", string(c, "input"));
        input = read_png(path, 3);
    }
    qwen_options opt = { .size = sizeof opt, .model = model, .device = "ref" };
    qwen_request req = { .size = sizeof req,
                         .prompt = string(c, "prompt"),
                         .negative = string(c, "negative"),
                         .guidance = real(c, "guidance", 0),
                         .steps = (int)real(c, "steps", 0),
                         .seed = (uint64_t)real(c, "seed", 0),
                         .input = &input,
                         .inputs = input.data != NULL };
    qwen_result res = { .size = sizeof res };
    qwen *q;
    const int status = qwen_open(&q, &opt);
    must(q, status, string(c, "file"));
    must(q, qwen_generate(q, &req, &res), string(c, "file"));
    path_of(path, sizeof path, "demo/%s", string(c, "file"));
    qwen_array want = read_png(path, 3);
    ck_assert_int_eq(want.dim[0], res.image[0].dim[0]);
    ck_assert_int_eq(want.dim[1], res.image[0].dim[1]);
    double most = 0;
    for (int64_t i = 0; i < count(&want); i++)
        most = fmax(most, fabs(number(&want, i) - number(&res.image[0], i)));
    ck_assert_msg(most <= 2, "%s: off by %g levels", string(c, "file"), most);
    qwen_array_free(&want);
    qwen_array_free(&input);
    qwen_result_free(&res);
    qwen_close(q);
}
END_TEST

/* --- every layout of a file gives the same network ------------------------------------------ */

static const struct {
    const char *file, *golden;
} layouts[] = {
    { "qwen_image_medium_bf16.safetensors", "bf16" },
    { "qwen_image_medium_fp8_e4m3fn.safetensors", "fp8_e4m3fn" },
    { "qwen_image_medium_fp8_e4m3fn_scaled.safetensors", "fp8_scaled_old" },
    { "qwen_image_medium_fp8mixed.safetensors", "fp8_comfy_quant" },
    { "qwen_image_medium_fp8_header.safetensors", "fp8_header" },
    { "qwen_image_medium_fp8_rows.safetensors", "fp8_rows" },
    { "qwen-image-medium-BF16.gguf", "gguf_bf16" },
    { "qwen-image-medium-Q8_0.gguf", "gguf_q8_0" },
    { "qwen-image-medium-Q4_0.gguf", "gguf_q4_0" },
    { "qwen-image-medium-Q5_1.gguf", "gguf_q5_1" },
    { "qwen-image-medium-Q4_K.gguf", "gguf_q4_k" },
    { "qwen-image-medium-Q6_K.gguf", "gguf_q6_k" },
    { "qwen-image-medium-Q5_K.gguf", "gguf_q5_k" },
    { "qwen-image-medium-Q2_K.gguf", "gguf_q2_k" },
    { "qwen-image-medium-Q3_K.gguf", "gguf_q3_k" },
    { "qwen-image-medium-mixed.gguf", "gguf_mixed" },
};

static qwen_array tensor_of(const char *file, const char *name)
{
    qwen_file *f;
    qwen_array a;
    ck_assert_msg(!qwen_file_open(&f, testdata(file)), "%s", file);
    ck_assert_msg(!qwen_file_read(f, name, &a), "%s: %s", file, qwen_file_error(f));
    qwen_file_close(f);
    return a;
}

/* Token n, feature f of a packed latent, as an index into [16][2 rows][2 columns]. */
static int64_t unpacked(int64_t n, int64_t f, int64_t rows, int64_t columns)
{
    const int64_t y = 2 * (n / columns) + f / 2 % 2, x = 2 * (n % columns) + f % 2;
    return (f / 4 * 2 * rows + y) * 2 * columns + x;
}

/* The velocity at the inputs of goldens/inputs.safetensors: 6 rows, 8 columns of tokens. */
static void check_velocity(qwen *q, const char *file, const char *tensor, double limit)
{
    enum { ROWS = 6, COLUMNS = 8, TOKENS = ROWS * COLUMNS };
    static float latent[TOKENS * 64];
    qwen_array x = tensor_of("formats/goldens/inputs.safetensors", "dit.hidden_states");
    qwen_array text = tensor_of("formats/goldens/inputs.safetensors", "dit.encoder_hidden_states");
    qwen_array t = tensor_of("formats/goldens/inputs.safetensors", "dit.timestep");
    qwen_array want = tensor_of(file, tensor), v = { 0 };
    for (int64_t i = 0; i < TOKENS * 64; i++)
        latent[unpacked(i / 64, i % 64, ROWS, COLUMNS)] = (float)number(&x, i);
    const qwen_array z = {
        .data = latent, .dtype = QWEN_F32, .rank = 3, .dim = { 16, 2 * ROWS, 2 * COLUMNS }
    };
    text.rank = 2;
    text.dim[0] = 20;
    text.dim[1] = 256;
    ck_assert_msg(!qwen_velocity(q, &z, 1, number(&t, 0), &text, &v), "%s", qwen_error(q));
    double most = 0, off = 0;
    for (int64_t i = 0; i < TOKENS * 64; i++) {
        const double a = number(&want, i);
        const double b = number(&v, unpacked(i / 64, i % 64, ROWS, COLUMNS));
        most = fmax(most, fabs(a));
        off = fmax(off, fabs(a - b));
    }
    ck_assert_msg(off <= limit * most, "%s: off by %.2g", tensor, off / most);
    qwen_array_free(&x);
    qwen_array_free(&text);
    qwen_array_free(&t);
    qwen_array_free(&want);
    qwen_array_free(&v);
}

static qwen *open_transformer(const char *name)
{
    char path[500];
    qwen *q;
    path_of(path, sizeof path, "formats/comfyui/models/diffusion_models/%s", name);
    const qwen_options o = { .size = sizeof o, .transformer = path, .device = "ref64" };
    const int status = qwen_open(&q, &o);
    must(q, status, name);
    return q;
}

START_TEST(layout)
{
    char golden[200];
    snprintf(golden, sizeof golden, "formats/goldens/%s.safetensors", layouts[_i].golden);
    qwen *q = open_transformer(layouts[_i].file);
    /* The golden weights of scaled FP8 are products rounded to float32: 2^-24 apart from ours. */
    const int scaled = strstr(layouts[_i].golden, "fp8_") && !strstr(layouts[_i].golden, "e4m3fn");
    check_velocity(q, golden, "dit.out", scaled ? 6e-8 : 1e-9);
    qwen_close(q);
}
END_TEST

static void add_lora(qwen *q, const char *file, double strength)
{
    char path[500];
    path_of(path, sizeof path, "formats/comfyui/models/loras/%s", file);
    must(q, qwen_lora(q, path, strength, 0), file);
}

START_TEST(lora)
{
    const json_t *c = json_array_get(loras, (size_t)_i), *files = json_object_get(c, "files");
    const char *base = string(c, "base");
    char tensor[100];
    qwen *q = open_transformer(base ? base : "qwen_image_medium_bf16.safetensors");
    for (size_t i = 0; i < json_array_size(files); i++) {
        const json_t *pair = json_array_get(files, i);
        add_lora(q, json_string_value(json_array_get(pair, 0)),
                 json_number_value(json_array_get(pair, 1)));
    }
    if (!files) add_lora(q, string(c, "file"), real(c, "strength", 1));
    snprintf(tensor, sizeof tensor, "%s.dit.out", string(c, "golden"));
    check_velocity(q, "formats/goldens/lora.safetensors", tensor, 1e-9);
    qwen_lora_clear(q);
    if (!base) check_velocity(q, "formats/goldens/bf16.safetensors", "dit.out", 1e-9);
    char path[500];
    path_of(path, sizeof path, "formats/bad/%s", "lora_no_match.safetensors");
    ck_assert_int_eq(qwen_lora(q, path, 1, 0), QWEN_EMODEL);
    ck_assert_int_eq(qwen_lora(q, path, 1, QWEN_LORA_PARTIAL), QWEN_EMODEL);
    qwen_close(q);
}
END_TEST

static json_t *load(const char *rel)
{
    json_error_t e;
    json_t *j = json_load_file(testdata(rel), 0, &e);
    if (!j) fprintf(stderr, "%s: %s\n", rel, e.text);
    return j;
}

int main(void)
{
    json_t *all = load("pipelines/cases.json");
    cases = json_object_get(all, "cases");
    demo = load("demo/cases.json");
    loras = load("formats/goldens/lora.json");
    if (!cases || !demo || !loras) return 1;
    Suite *s = suite_create("golden");
    TCase *t = tcase_create("pipelines");
    tcase_set_timeout(t, 600);
    for (int i = 0; i < (int)json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, (size_t)i);
        tcase_add_loop_test(t, pipeline, i, i + 1);
        if (!strcmp(string(c, "name"), "t2i_cfg") || !strcmp(string(c, "name"), "edit_2511_1"))
            tcase_add_loop_test(t, pipeline_f64, i, i + 1);
    }
    suite_add_tcase(s, t);
    t = tcase_create("demo");
    tcase_set_timeout(t, 600);
    for (int i = 0; i < (int)json_array_size(demo); i += 6)
        tcase_add_loop_test(t, demo_picture, i, i + 1);
    suite_add_tcase(s, t);
    t = tcase_create("formats");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, layout, 0, (int)(sizeof layouts / sizeof *layouts));
    tcase_add_loop_test(t, lora, 0, (int)json_array_size(loras));
    suite_add_tcase(s, t);
    const int failed = run_suite(s);
    json_decref(all);
    json_decref(demo);
    json_decref(loras);
    return failed;
}
