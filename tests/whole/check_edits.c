/* check_edits.c - requests with pictures: sizes, masks, kept pixels, variants, names. */
#include "api.h"
#include "files.h"
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

static char layered[500], plus[500];

static void find_all(void)
{
    make_folder();
    find_models();
    snprintf(layered, sizeof layered, "%s", testdata("tiny-layered"));
    snprintf(plus, sizeof plus, "%s", testdata("tiny-edit-2511"));
}

/* A link to a path that may be relative to here. */
static void make_link(const char *to, const char *name)
{
    char *whole = realpath(to, NULL);
    ck_assert_msg(whole && !symlink(whole, made(name)), "%s", to);
    free(whole);
}

static qwen_request over(const qwen_array *picture)
{
    qwen_request r = request("a cat");
    r.input = picture;
    r.inputs = 1;
    r.width = r.height = 0;
    r.reference_area = 32 * 32;
    r.condition_area = 56 * 56;
    return r;
}

/* Asserts that a model does not open, with this status and a word of the sentence. */
static void not_opened(qwen_options o, int status, const char *word)
{
    qwen *q;
    const int got = qwen_open(&q, &o);
    ck_assert_msg(got == status, "%d, not %d: %s", got, status, qwen_error(q));
    ck_assert_msg(strstr(qwen_error(q), word) != NULL, "\"%s\" lacks \"%s\"", qwen_error(q), word);
    qwen_close(q);
}

/* --- inpainting ------------------------------------------------------------------------------- */

/* Half of a picture is repainted: `mask` and `kept` of the result, and kept pixels equal the
 * picture's. */
START_TEST(kept_pixels)
{
    const qwen_array picture = gradient(48, 32, 3);
    uint8_t grey[32 * 48];
    for (int i = 0; i < 32 * 48; i++) grey[i] = i % 48 < 24 ? 255 : 0;
    const qwen_array mask = { .data = grey, .dtype = QWEN_U8, .rank = 2, .dim = { 32, 48 } };
    qwen *q = opened(tiny);
    qwen_request r = over(&picture);
    r.mask = &mask;
    qwen_result out = drawn(q, &r);
    ck_assert_int_eq(out.width, 48);
    ck_assert_int_eq(out.height, 32);
    ck_assert(out.strength > 0.59 && out.strength < 0.61);
    ck_assert(same_picture(&out.kept, &picture));
    ck_assert_int_eq(out.mask.dim[0], 32);
    ck_assert_int_eq(out.mask.dim[1], 48);
    for (int i = 0; i < 32 * 48; i++)
        ck_assert_int_eq(((const uint8_t *)out.mask.data)[i], grey[i] != 0);
    qwen_result_free(&out);
    ck_assert_ptr_null(out.kept.data);
    r.mask = NULL; /* nothing is kept without one */
    r.strength = 0.5;
    out = drawn(q, &r);
    ck_assert_ptr_null(out.kept.data);
    ck_assert_ptr_null(out.mask.data);
    qwen_result_free(&out);
    qwen_close(q);
    free(picture.data);
}
END_TEST

/* An older caller, without these fields, leaks nothing. */
START_TEST(older_result)
{
    const qwen_array picture = gradient(32, 32, 3);
    uint8_t white[32 * 32];
    memset(white, 255, sizeof white);
    const qwen_array mask = { .data = white, .dtype = QWEN_U8, .rank = 2, .dim = { 32, 32 } };
    qwen *q = opened(tiny);
    qwen_request r = over(&picture);
    r.mask = &mask;
    qwen_result out = { .size = offsetof(qwen_result, kept) };
    ck_assert_msg(!qwen_generate(q, &r, &out), "%s", qwen_error(q));
    ck_assert_ptr_null(out.kept.data);
    ck_assert_int_eq(out.n, 1);
    qwen_result_free(&out);
    qwen_close(q);
    free(picture.data);
}
END_TEST

/* Edit-inpainting: the pipeline's size, the caller's, or an extended picture's, which stays. */
START_TEST(edit_inpaint_sizes)
{
    const qwen_array picture = gradient(64, 32, 3);
    uint8_t white[64 * 32];
    memset(white, 255, sizeof white);
    const qwen_array mask = { .data = white, .dtype = QWEN_U8, .rank = 2, .dim = { 32, 64 } };
    qwen *q = opened(edit);
    qwen_request r = over(&picture);
    r.mask = &mask;
    r.reference_area = 96 * 48;
    qwen_result out = drawn(q, &r);
    ck_assert_int_eq(out.width, 96);
    ck_assert_int_eq(out.height, 64);
    qwen_result_free(&out);
    r.width = 48;
    r.height = 48;
    out = drawn(q, &r);
    ck_assert_int_eq(out.width, 48);
    ck_assert_int_eq(out.height, 48);
    ck_assert_int_eq(out.kept.dim[1], 48);
    qwen_result_free(&out);
    r.width = r.height = 0;
    r.mask = NULL;
    r.extend[0] = 16;
    r.extend[3] = 32;
    out = drawn(q, &r);
    ck_assert_int_eq(out.width, 80);
    ck_assert_int_eq(out.height, 64);
    const uint8_t *kept = out.kept.data, *made = out.mask.data;
    for (int y = 0; y < 64; y++)
        for (int x = 0; x < 80; x++) {
            const int old = x >= 16 && y < 32;
            ck_assert_int_eq(made[y * 80 + x], !old);
            if (old)
                ck_assert_mem_eq(kept + (y * 80 + x) * 3,
                                 (const uint8_t *)picture.data + (y * 64 + x - 16) * 3, 3);
        }
    qwen_result_free(&out);
    r.extend[0] = 8;
    refused(q, &r, QWEN_EARG, "64x64 and 80x64");
    qwen_close(q);
    free(picture.data);
}
END_TEST

/* --- a ControlNet that inpaints --------------------------------------------------------------- */

/* The tiny ControlNet with four more inputs, the mask's: the first columns are its own. */
static const char *inpainting_net(void)
{
    qw_store *s =
        must_open(testdata("tiny-controlnet/controlnet/diffusion_pytorch_model.safetensors"),
                  QW_KIND_CONTROLNET);
    sheaf f = { .n = 0 };
    sheaf_store(&f, s, "", 0);
    qw_entry *e = sheaf_find(&f, "controlnet_x_embedder.weight");
    ck_assert_int_eq(e->dim[1], 64);
    ck_assert_int_eq(e->dtype, QW_BF16);
    const int64_t n = e->dim[0];
    uint16_t *wide = calloc((size_t)(n * 68), sizeof *wide);
    for (int64_t i = 0; i < n; i++) {
        memcpy(wide + i * 68, (const uint16_t *)e->data + i * 64, 128);
        for (int k = 64; k < 68; k++) wide[i * 68 + k] = 0x3f00; /* 0.5 */
    }
    e->data = wide;
    e->dim[1] = 68;
    e->bytes = (size_t)(n * 136);
    const char *path = sheaf_write(&f, "inpaint.safetensors", 0);
    free(wide);
    qw_store_free(s);
    return path;
}

START_TEST(control_inpaints)
{
    const char *net = inpainting_net();
    make_link(testdata("tiny-controlnet/controlnet/config.json"), "config.json");
    const qwen_array picture = gradient(48, 32, 3);
    uint8_t grey[32 * 48];
    for (int i = 0; i < 32 * 48; i++) grey[i] = i / 48 < 16 ? 255 : 0;
    const qwen_array mask = { .data = grey, .dtype = QWEN_U8, .rank = 2, .dim = { 32, 48 } };
    qwen_options o = options(tiny);
    o.controlnet = net;
    qwen *q;
    ck_assert_msg(!qwen_open(&q, &o), "%s", qwen_error(q));
    qwen_request r = request("a cat");
    r.width = 48;
    r.height = 32;
    r.control = &picture;
    refused(q, &r, QWEN_EARG, "a mask");
    r.mask = &mask;
    qwen_result out = drawn(q, &r);
    ck_assert(same_picture(&out.kept, &picture));
    for (int i = 0; i < 32 * 48; i++)
        ck_assert_int_eq(((const uint8_t *)out.mask.data)[i], grey[i] != 0);
    qwen_result_free(&out);
    qwen_close(q);
    free(picture.data);
}
END_TEST

typedef struct control_tap {
    float *x;
    int64_t rows, columns;
} control_tap;

static void take_control(void *user, const char *name, const qwen_array *a)
{
    control_tap *t = user;
    if (strcmp(name, "control")) return;
    t->rows = a->dim[0];
    t->columns = a->dim[1];
    t->x = malloc((size_t)(t->rows * t->columns) * sizeof *t->x);
    ck_assert_ptr_nonnull(t->x);
    memcpy(t->x, a->data, (size_t)(t->rows * t->columns) * sizeof *t->x);
}

/* A Fun ControlNet reads, beside the control picture, the mask of what is kept and the latent of
 * the picture with mid-grey in the repainted part. */
START_TEST(fun_inpaints)
{
    enum { W = 48, H = 32, Z = 16 };
    const qwen_array picture = gradient(W, H, 3), edges = gradient(40, 40, 3);
    uint8_t grey[H * W];
    float hole[H * W * 3];
    for (int i = 0; i < H * W; i++) {
        grey[i] = i % W < 24 ? 255 : 0;
        for (int k = 0; k < 3; k++)
            hole[3 * i + k] = grey[i] ? 0
                                      : (float)(((uint8_t *)picture.data)[3 * i + k] / 127.5 - 1);
    }
    const qwen_array mask = { .data = grey, .dtype = QWEN_U8, .rank = 2, .dim = { H, W } };
    const qwen_array with_hole = { .data = hole, .dtype = QWEN_F32, .rank = 3, .dim = { H, W, 3 } };
    qwen_array latent = { 0 };
    control_tap t = { 0 };
    qwen_options o = options(tiny);
    o.controlnet = testdata("fun-controlnet/fun_controlnet_tiny.safetensors");
    qwen *q;
    ck_assert_msg(!qwen_open(&q, &o), "%s", qwen_error(q));
    qwen_request r = over(&picture);
    r.mask = &mask;
    r.control = &edges;
    r.tap = take_control;
    r.user = &t;
    qwen_result out = drawn(q, &r);
    ck_assert_int_eq(t.rows, W / 16 * (H / 16));
    ck_assert_int_eq(t.columns, 4 * (2 * Z + 1));
    ck_assert_msg(!qwen_encode(q, &with_hole, &latent), "%s", qwen_error(q));
    const float *z = latent.data;
    for (int64_t row = 0; row < t.rows; row++)
        for (int f = 0; f < 4; f++) { /* features of a channel: the four corners of a patch */
            const int64_t y = row / (W / 16) * 2 + f / 2, x = row % (W / 16) * 2 + f % 2;
            const float *v = t.x + row * t.columns;
            ck_assert(v[4 * Z + f] == (float)!grey[8 * y * W + 8 * x]);
            for (int c = 0; c < Z; c++) {
                const double want = z[(c * (H / 8) + y) * (W / 8) + x];
                ck_assert(fabs(v[4 * (Z + 1 + c) + f] - want) < 1e-5);
            }
        }
    qwen_array_free(&latent);
    qwen_result_free(&out);
    qwen_close(q);
    free(t.x);
    free(picture.data);
    free(edges.data);
}
END_TEST

/* --- pictures that are refused ---------------------------------------------------------------- */

START_TEST(too_long)
{
    const qwen_array picture[2] = { gradient(32, 32, 3), gradient(402, 2, 3) };
    qwen *q = opened(plus);
    qwen_request r = over(picture);
    r.inputs = 2;
    refused(q, &r, QWEN_EARG, "input 2: 402x2 is longer than 200 to 1");
    r.inputs = 1;
    r.input = &picture[1];
    refused(q, &r, QWEN_EARG, "input: 402x2 is longer than 200 to 1");
    qwen_close(q);
    free(picture[0].data);
    free(picture[1].data);
}
END_TEST

/* --- as ComfyUI prepares an edit ------------------------------------------------------------- */

static void take_sizes(void *user, const qwen_geometry *g) { *(qwen_geometry *)user = *g; }

/* ComfyUI's nodes fit areas without multiples of 32: an Edit's copy is cropped to multiples of 8, a
 * 2509's is made in them; sides of the latent may be odd. */
START_TEST(comfy_sizes)
{
    static const struct {
        int plus, w, h, area, vw, vh, cw, ch;
        int64_t tokens;
    } cases[] = {
        { 0, 100, 60, 48 * 48, 62, 37, 56, 32, 8 },  /* 61.97 x 37.18; 56 x 32; 4 x 2 tokens */
        { 1, 100, 60, 48 * 48, 72, 43, 64, 40, 12 }, /* 7.75 and 4.65 eights; 4 x 3 tokens */
        { 1, 64, 64, 64 * 64, 56, 56, 64, 64, 16 },
    };
    const qwen_array picture = gradient(cases[_i].w, cases[_i].h, 3);
    qwen_options o = options(cases[_i].plus ? testdata("tiny-edit-plus") : edit);
    o.like = "comfyui";
    qwen *q;
    ck_assert_msg(!qwen_open(&q, &o), "%s", qwen_error(q));
    qwen_request r = over(&picture);
    r.reference_area = cases[_i].area;
    r.width = 32;
    r.height = 48;
    qwen_geometry g = { .size = 0 };
    qwen_plan_report plan = { .size = sizeof plan, .geometry = take_sizes, .user = &g };
    ck_assert_msg(!qwen_plan(q, &r, &plan), "%s", qwen_error(q));
    if (!cases[_i].plus) {
        ck_assert_int_eq(g.area_width, cases[_i].vw);
        ck_assert_int_eq(g.area_height, cases[_i].vh);
    }
    ck_assert_int_eq(g.coded_width, cases[_i].cw);
    ck_assert_int_eq(g.coded_height, cases[_i].ch);
    ck_assert_int_eq(plan.reference_tokens, cases[_i].tokens);
    qwen_result out[2] = { drawn(q, &r), { .size = sizeof(qwen_result) } };
    ck_assert_int_eq(out[0].width, 32);
    qwen_close(q);
    q = opened(o.model); /* and another picture than diffusers' */
    out[1] = drawn(q, &r);
    ck_assert(!same_picture(&out[0].image[0], &out[1].image[0]));
    qwen_result_free(&out[0]);
    qwen_result_free(&out[1]);
    qwen_close(q);
    free(picture.data);
}
END_TEST

/* --- variants --------------------------------------------------------------------------------- */

static void take(void *user, int level, const char *line)
{
    if (!level) snprintf(user, 400, "%s", line);
}

/* The 2511 transformer without its marker in the configuration. */
static const char *unmarked(void)
{
    const char *from = testdata("tiny-edit-2511/transformer");
    char name[600], target[700];
    DIR *d = opendir(from);
    struct dirent *e;
    ck_assert_ptr_nonnull(d);
    ck_assert_int_eq(mkdir(made("plain"), 0777), 0);
    while ((e = readdir(d))) {
        snprintf(name, sizeof name, "plain/%s", e->d_name);
        snprintf(target, sizeof target, "%s/%s", from, e->d_name);
        if (e->d_name[0] != '.' && strcmp(e->d_name, "config.json")) make_link(target, name);
    }
    closedir(d);
    json_t *json = json_load_file(testdata("tiny-edit-2511/transformer/config.json"), 0, NULL);
    ck_assert_ptr_nonnull(json);
    ck_assert_int_eq(json_object_del(json, "zero_cond_t"), 0);
    char *text = json_dumps(json, 0);
    write_text("plain/config.json", text);
    free(text);
    json_decref(json);
    return made("plain");
}

/* The marker overrides the variant of another Edit; without it the option makes a 2511. */
START_TEST(variant_2511)
{
    const qwen_array picture = gradient(32, 32, 3);
    char notice[400] = "";
    qwen *q[3];
    qwen_options o = options(plus);
    o.variant = "edit-2509";
    not_opened(o, QWEN_EMODEL, "that of edit-2511");
    o.variant = "edit";
    not_opened(o, QWEN_EMODEL, "that of edit-2511");
    o.variant = NULL;
    ck_assert_msg(!qwen_open(&q[0], &o), "%s", qwen_error(q[0]));
    o.transformer = unmarked();
    o.variant = "edit-2511";
    o.log = take;
    o.user = notice;
    ck_assert_msg(!qwen_open(&q[1], &o), "%s", qwen_error(q[1]));
    ck_assert_msg(strstr(notice, "no mark of 2511") != NULL, "%s", notice);
    o.variant = "edit-2509";
    ck_assert_msg(!qwen_open(&q[2], &o), "%s", qwen_error(q[2]));
    const qwen_request r = over(&picture);
    qwen_result out[3] = { drawn(q[0], &r), drawn(q[1], &r), drawn(q[2], &r) };
    ck_assert(same_picture(&out[0].image[0], &out[1].image[0]));
    ck_assert(!same_picture(&out[0].image[0], &out[2].image[0]));
    for (int i = 0; i < 3; i++) {
        qwen_result_free(&out[i]);
        qwen_close(q[i]);
    }
    free(picture.data);
}
END_TEST

START_TEST(wrong_vae)
{
    char vae[600];
    qwen_options o = options(tiny);
    snprintf(vae, sizeof vae, "%s/vae", layered);
    o.vae = vae;
    not_opened(o, QWEN_EMODEL, "4 picture channels");
    o = options(layered);
    snprintf(vae, sizeof vae, "%s/vae", tiny);
    o.vae = vae;
    not_opened(o, QWEN_EMODEL, "3 picture channels");
}
END_TEST

/* A language model without a vision tower is Qwen2, unless another file has the tower. */
START_TEST(without_vision)
{
    char path[600];
    qw_kind found;
    qw_error err = { 0 };
    snprintf(path, sizeof path, "%s/text_encoder", tiny);
    qw_store *s = open_part(path, QW_KIND_TEXT, &found, &err);
    sheaf f = { .n = 0 };
    const qw_entry *e;
    for (int64_t i = 0; (e = qw_store_entry(s, i)); i++)
        if (!starts_with(e->name, "visual.")) sheaf_add(&f, e->name, *e);
    qwen_options o = options(tiny);
    o.text_encoder = sheaf_write(&f, "language.safetensors", 0);
    qw_store_free(s);
    not_opened(o, QWEN_EMODEL, "without a vision tower (Qwen2)");
    o.vision = path;
    qwen *q;
    ck_assert_msg(!qwen_open(&q, &o), "%s", qwen_error(q));
    qwen_close(q);
    o.vision = testdata("tiny/vae");
    not_opened(o, QWEN_EMODEL, "expected a vision tower");
}
END_TEST

/* Missing and broken files fail before the first step. */
static int count_steps(void *user, const qwen_progress *p)
{
    ++*(int *)user;
    return p->size == 0;
}

START_TEST(missing_before_work)
{
    char dit[600], text[600];
    int called = 0;
    snprintf(dit, sizeof dit, "%s/transformer", tiny);
    snprintf(text, sizeof text, "%s/text_encoder", tiny);
    qwen_options o = options(NULL);
    o.transformer = dit;
    o.text_encoder = text;
    o.tokenizer = testdata("tiny/tokenizer");
    qwen *q;
    ck_assert_msg(!qwen_open(&q, &o), "%s", qwen_error(q));
    qwen_request r = request("a cat");
    r.progress = count_steps;
    r.user = &called;
    refused(q, &r, QWEN_EARG, "no VAE");
    ck_assert_int_eq(called, 0);
    qwen_close(q);
    o = options(text);
    ck_assert_msg(!qwen_open(&q, &o), "%s", qwen_error(q));
    refused(q, &r, QWEN_EMODEL, "is a text encoder");
    qwen_close(q);
}
END_TEST

/* --- names ------------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    int steps;
    double guidance;
    int distilled;
} names[] = {
    { "Qwen-Rapid-AIO-v1", 4, 1, 1 },        { "Qwen-Image-Lightning-4steps-V1.0", 4, 1, 1 },
    { "qwen_image_lightning", 8, 1, 1 },     { "qwen_image_dmd2", 3, 1, 1 },
    { "qwen_image_turbo_6-step", 6, 1, 1 },  { "qwen_image_distill_full", 15, 1, 1 },
    { "qwen_image_hyperreal_v2", 50, 4, 0 }, { "qwen_image_bf16", 50, 4, 0 },
};

START_TEST(distilled_names)
{
    qwen_model_info info = { .size = sizeof info };
    make_link(tiny, names[_i].name);
    qwen *q = opened(made(names[_i].name));
    ck_assert_int_eq(qwen_info(q, &info), QWEN_OK);
    ck_assert_int_eq(info.steps, names[_i].steps);
    ck_assert(info.guidance == names[_i].guidance);
    ck_assert_int_eq(info.distilled, names[_i].distilled);
    qwen_close(q);
}
END_TEST

START_TEST(advised_negative)
{
    qwen_model_info info = { .size = sizeof info };
    make_link(tiny, "Qwen-Image-2512");
    qwen *q = opened(made("Qwen-Image-2512"));
    ck_assert_int_eq(qwen_info(q, &info), QWEN_OK);
    ck_assert_str_eq(info.negative, " ");
    ck_assert(starts_with(info.recommended_negative, "低分辨率"));
    qwen_close(q);
    q = opened(tiny);
    ck_assert_int_eq(qwen_info(q, &info), QWEN_OK);
    ck_assert_str_eq(info.recommended_negative, " ");
    qwen_close(q);
}
END_TEST

/* Layouts of other quantisers and other families, by name. */
START_TEST(foreign_files)
{
    static const struct {
        const char *name, *word;
        int status;
    } cases[] = {
        { "transformer_blocks.0.attn.to_q.wscales", "SVDQuant", QWEN_EUNSUPPORTED },
        { "transformer_blocks.0.attn.to_q.weight.quant_state.bitsandbytes__nf4", "NF4",
          QWEN_EUNSUPPORTED },
        { "double_blocks.0.img_mod.lin.weight", "Flux", QWEN_EUNSUPPORTED },
        { "model.diffusion_model.input_blocks.0.0.weight", "Stable Diffusion", QWEN_EUNSUPPORTED },
        { "nobody.knows.weight", "no model that is known", QWEN_EMODEL },
    };
    char text[1000];
    sheaf f = { .n = 0 };
    sheaf_name(&f, cases[_i].name);
    const char *path = sheaf_write(&f, "foreign.safetensors", 0);
    ck_assert_int_eq(qwen_inspect(path, NULL, NULL, text, sizeof text), cases[_i].status);
    ck_assert_msg(strstr(text, cases[_i].word) != NULL, "%s", text);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("edits");
    TCase *c = tcase_create("edits");
    tcase_add_checked_fixture(c, find_all, remove_folder);
    tcase_set_timeout(c, 120);
    tcase_add_test(c, kept_pixels);
    tcase_add_test(c, older_result);
    tcase_add_test(c, edit_inpaint_sizes);
    tcase_add_test(c, control_inpaints);
    tcase_add_test(c, fun_inpaints);
    tcase_add_test(c, too_long);
    tcase_add_loop_test(c, comfy_sizes, 0, 3);
    tcase_add_test(c, variant_2511);
    tcase_add_test(c, wrong_vae);
    tcase_add_test(c, without_vision);
    tcase_add_test(c, missing_before_work);
    tcase_add_loop_test(c, distilled_names, 0, (int)(sizeof names / sizeof *names));
    tcase_add_test(c, advised_negative);
    tcase_add_loop_test(c, foreign_files, 0, 5);
    suite_add_tcase(s, c);
    return run_suite(s);
}
