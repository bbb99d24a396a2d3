/* check_stages.c - the public stages one by one: words, templates, noise, networks, the plan.
 *
 * Each gives the tensors of the pipeline, bit by bit. */
#include "api.h"
#include "host/pictures.h"

START_TEST(words)
{
    qwen *q = opened(tiny);
    qwen_array ids = { 0 }, rows = { 0 };
    qwen_request r = request("a cat");
    char *text = NULL;
    ck_assert_int_eq(qwen_tokenize(q, "a cat", 5, &ids), QWEN_OK);
    ck_assert_int_eq(ids.dim[0], 2);
    ck_assert_int_eq(((int32_t *)ids.data)[0], 64);
    ck_assert_int_eq(((int32_t *)ids.data)[1], 8251);
    qwen_array_free(&ids);
    ck_assert_int_eq(qwen_prompt(q, &r, 0, &text), QWEN_OK);
    ck_assert_ptr_nonnull(
        strstr(text, "objects and background:<|im_end|>\n<|im_start|>user\na cat<|im_end|>\n"));
    ck_assert_int_eq(qwen_tokenize(q, text, strlen(text), &ids), QWEN_OK);
    ck_assert_int_eq(ids.dim[0], 41);
    free(text);
    ck_assert_int_eq(qwen_embed(q, &r, 0, &rows), QWEN_OK);
    ck_assert_int_eq(rows.dim[0], 7);
    ck_assert_int_eq(rows.dim[1], 32);
    qwen_array hidden = { 0 }; /* the same without the template's part */
    ck_assert_int_eq(qwen_hidden(q, &ids, NULL, NULL, &hidden), QWEN_OK);
    ck_assert_int_eq(hidden.dim[0], 41);
    ck_assert(!memcmp((float *)hidden.data + 34 * 32, rows.data, 7 * 32 * sizeof(float)));
    qwen_result one = drawn(q, &r);
    r.prompt = NULL;
    r.embeds = &rows;
    qwen_result two = drawn(q, &r);
    ck_assert_int_eq(one.n, two.n);
    for (int64_t i = 0; i < 32 * 48 * 3; i++)
        ck_assert_int_le(abs(((uint8_t *)one.image[0].data)[i] - ((uint8_t *)two.image[0].data)[i]),
                         1);
    qwen_result_free(&one);
    qwen_result_free(&two);
    qwen_array_free(&ids);
    qwen_array_free(&rows);
    qwen_array_free(&hidden);
    qwen_close(q);
}
END_TEST

/* A template of the caller's: the rows of the text before {} are dropped. */
START_TEST(own_template)
{
    qwen *q = opened(tiny);
    qwen_request r = request("a cat");
    qwen_array rows = { 0 }, other = { 0 };
    char *text = NULL;
    r.chat_template = "<|im_start|>user\n{}<|im_end|>\n";
    ck_assert_int_eq(qwen_prompt(q, &r, 0, &text), QWEN_OK);
    ck_assert_str_eq(text, "<|im_start|>user\na cat<|im_end|>\n");
    free(text);
    ck_assert_int_eq(qwen_embed(q, &r, 0, &rows), QWEN_OK);
    ck_assert_int_eq(rows.dim[0], 4); /* a, cat, <|im_end|>, \n */
    qwen_array_free(&rows);
    r.chat_template = NULL;
    r.system = "Say {} what you see.";
    ck_assert_int_eq(qwen_prompt(q, &r, 0, &text), QWEN_OK);
    ck_assert_str_eq(
        text,
        "<|im_start|>system\nSay {} what you see.<|im_end|>\n<|im_start|>user\na cat<|im_end|>\n"
        "<|im_start|>assistant\n");
    free(text);
    ck_assert_int_eq(qwen_embed(q, &r, 0, &other), QWEN_OK);
    ck_assert_int_eq(other.dim[0], 7);
    qwen_array_free(&other);
    r = request("{} {x}"); /* braces in the prompt are plain text */
    ck_assert_int_eq(qwen_prompt(q, &r, 0, &text), QWEN_OK);
    ck_assert_ptr_nonnull(strstr(text, "user\n{} {x}<|im_end|>"));
    free(text);
    qwen_close(q);
}
END_TEST

typedef struct taken {
    qwen_array noise, latent;
} taken;

static void take(void *user, const char *name, const qwen_array *a)
{
    taken *t = user;
    qwen_array *to = !strcmp(name, "noise")       ? &t->noise
                     : !strcmp(name, "latents.2") ? &t->latent
                                                  : NULL;
    size_t bytes = sizeof(float);
    if (!to) return;
    for (int i = 0; i < a->rank; i++) bytes *= (size_t)a->dim[i];
    *to = *a;
    to->data = malloc(bytes);
    memcpy(to->data, a->data, bytes);
}

START_TEST(given_noise)
{
    qwen *q = opened(tiny);
    taken t = { 0 };
    qwen_request r = request("a cat");
    qwen_result one = drawn(q, &r);
    r.tap = take;
    r.user = &t;
    qwen_result two = drawn(q, &r);
    r.tap = NULL;
    r.noise = &t.noise;
    r.seed = 99;
    qwen_result three = drawn(q, &r);
    ck_assert(same_picture(&one.image[0], &two.image[0]));
    ck_assert(same_picture(&one.image[0], &three.image[0]));
    qwen_array_free(&t.noise);
    qwen_array_free(&t.latent);
    qwen_result_free(&one);
    qwen_result_free(&two);
    qwen_result_free(&three);
    qwen_close(q);
}
END_TEST

START_TEST(single_stages)
{
    qwen *q = opened(tiny);
    float latent[16 * 4 * 6], text[3 * 32], picture[32 * 48 * 3];
    for (size_t i = 0; i < sizeof latent / sizeof *latent; i++)
        latent[i] = (float)((int)(i * 37 % 101) - 50) / 50;
    for (size_t i = 0; i < sizeof text / sizeof *text; i++)
        text[i] = (float)((int)(i * 29 % 83) - 41) / 41;
    for (size_t i = 0; i < sizeof picture / sizeof *picture; i++)
        picture[i] = (float)((int)(i * 13 % 71) - 35) / 36;
    const qwen_array z = { .data = latent, .dtype = QWEN_F32, .rank = 3, .dim = { 16, 4, 6 } };
    const qwen_array w = { .data = text, .dtype = QWEN_F32, .rank = 2, .dim = { 3, 32 } };
    const qwen_array p = { .data = picture, .dtype = QWEN_F32, .rank = 3, .dim = { 32, 48, 3 } };
    qwen_array out = { 0 };
    ck_assert_int_eq(qwen_velocity(q, &z, 1, 0.5, &w, &out), QWEN_OK);
    ck_assert_int_eq(out.rank, 3);
    ck_assert_int_eq(out.dim[2], 6);
    qwen_array_free(&out);
    ck_assert_int_eq(qwen_velocity(q, &z, 1, 2, &w, &out), QWEN_EARG);
    ck_assert_int_eq(qwen_velocity(q, &z, 1, 0.5, &p, &out), QWEN_EARG);
    ck_assert_int_eq(qwen_decode(q, &z, &out), QWEN_OK);
    ck_assert_int_eq(out.dim[0], 32);
    ck_assert_int_eq(out.dim[1], 48);
    ck_assert_int_eq(out.dim[2], 3);
    qwen_array_free(&out);
    ck_assert_int_eq(qwen_decode(q, &p, &out), QWEN_EARG);
    ck_assert_int_eq(qwen_encode(q, &p, &out), QWEN_OK);
    ck_assert_int_eq(out.dim[0], 16);
    ck_assert_int_eq(out.dim[1], 4);
    qwen_array_free(&out);
    qwen_close(q);
}
END_TEST

/* --- the pipeline's own tensors --------------------------------------------------------------- */

enum { TAPS = 256 };
typedef struct taps { /* doubles of the first run, by name */
    char name[TAPS][32];
    qwen_array a[TAPS];
    int n;
} taps;

static void keep_tap(void *user, const char *name, const qwen_array *a)
{
    taps *t = user;
    size_t bytes = a->dtype == QWEN_F64 ? sizeof(double) : a->dtype == QWEN_I32 ? 4 : 1;
    ck_assert_int_lt(t->n, TAPS);
    for (int i = 0; i < a->rank; i++) bytes *= (size_t)a->dim[i];
    snprintf(t->name[t->n], sizeof t->name[0], "%s", name);
    t->a[t->n] = *a;
    t->a[t->n].data = malloc(bytes);
    memcpy(t->a[t->n++].data, a->data, bytes);
}

static const qwen_array *tapped(const taps *t, const char *name)
{
    for (int i = 0; i < t->n; i++)
        if (!strcmp(t->name[i], name)) return &t->a[i];
    ck_abort_msg("there is no tensor %s", name);
    return NULL;
}

static int64_t size_of(const qwen_array *a)
{
    int64_t n = 1;
    for (int i = 0; i < a->rank; i++) n *= a->dim[i];
    return n;
}

/* Takes a. */
static void same_doubles(qwen_array *a, const double *b, int64_t n, const char *what)
{
    ck_assert_int_eq(a->dtype, QWEN_F64);
    ck_assert_int_eq(size_of(a), n);
    ck_assert_msg(!memcmp(a->data, b, (size_t)n * sizeof *b), "%s differs", what);
    qwen_array_free(a);
}

/* Latents [frames][z][h][w] of rows [frames hw/4][4z]. */
static double *unpacked(const qwen_array *rows, int64_t frames, int64_t h, int64_t w)
{
    const int64_t z = rows->dim[1] / 4, frame = z * h * w;
    double *x = malloc((size_t)(frames * frame) * sizeof *x);
    ck_assert_int_eq(size_of(rows), frames * frame);
    for (int64_t k = 0; k < frames; k++)
        qw_unpack((const double *)rows->data + k * frame, z, h, w, x + k * frame);
    return x;
}

/* [c][h][w] as [h][w][c] */
static qwen_array turned(const qwen_array *a)
{
    const int64_t c = a->dim[0], n = a->dim[1] * a->dim[2];
    qwen_array out = { .dtype = QWEN_F64,
                       .rank = 3,
                       .dim = { a->dim[1], a->dim[2], c },
                       .data = malloc((size_t)(c * n) * 8) };
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < c; k++)
            ((double *)out.data)[i * c + k] = ((const double *)a->data)[k * n + i];
    return out;
}

/* The first velocity, from the noise and what was encoded. */
static void same_velocity(qwen *q, const taps *t)
{
    const qwen_array *noise = tapped(t, "noise");
    const int frames = noise->rank == 4 ? (int)noise->dim[0] : 1;
    const int64_t *dim = noise->dim + (noise->rank == 4);
    qwen_array latent[16], v = { 0 };
    int n = 0;
    for (; n < frames; n++)
        latent[n] = (qwen_array){ .dtype = QWEN_F64,
                                  .rank = 3,
                                  .dim = { dim[0], dim[1], dim[2] },
                                  .data = (double *)noise->data + n * dim[0] * dim[1] * dim[2] };
    for (int i = 0; i < t->n; i++)
        if (strstr(t->name[i], "vae.enc.") && strstr(t->name[i], ".norm")) latent[n++] = t->a[i];
    ck_assert_msg(!qwen_velocity(q, latent, n, 1, tapped(t, "text.embeds"), &v), "%s",
                  qwen_error(q));
    double *want = unpacked(tapped(t, "v.0"), frames, dim[1], dim[2]);
    same_doubles(&v, want, size_of(noise), "the velocity");
    free(want);
}

/* The decoded picture of the last latent; a layered model's first picture is not decoded. */
static void same_picture_of(qwen *q, const taps *t, const char *last)
{
    const qwen_array *noise = tapped(t, "noise"), *decoded = tapped(t, "vae.dec.out");
    const int64_t frames = noise->rank == 4 ? noise->dim[0] : 1, n = size_of(noise) / frames;
    const int64_t *dim = noise->dim + (noise->rank == 4);
    double *x = unpacked(tapped(t, last), frames, dim[1], dim[2]);
    for (int64_t k = frames > 1; k < frames; k++) {
        const qwen_array latent = {
            .dtype = QWEN_F64, .rank = 3, .dim = { dim[0], dim[1], dim[2] }, .data = x + k * n
        };
        qwen_array got = { 0 };
        ck_assert_msg(!qwen_decode(q, &latent, &got), "%s", qwen_error(q));
        const int64_t size = size_of(&got), *to = decoded->dim + (frames > 1);
        const qwen_array one = { .rank = 3,
                                 .dim = { to[0], to[1], to[2] },
                                 .data = (double *)decoded->data + (k - (frames > 1)) * size };
        qwen_array want = turned(&one);
        same_doubles(&got, want.data, size, "the decoded picture");
        qwen_array_free(&want);
    }
    free(x);
}

static void same_encoded(qwen *q, const taps *t)
{
    const qwen_array *mean = tapped(t, "vae.enc.0.mean_norm");
    qwen_array picture = turned(tapped(t, "vae.enc.0.in")), got = { 0 };
    ck_assert_msg(!qwen_encode(q, &picture, &got), "%s", qwen_error(q));
    same_doubles(&got, mean->data, size_of(mean), "the encoded picture");
    qwen_array_free(&picture);
}

/* The rows of the prompt: the last ones of its hidden states. */
static void same_rows(qwen *q, const qwen_request *r, const taps *t, int sees)
{
    const qwen_array *rows = tapped(t, "text.embeds");
    qwen_array ids = { 0 }, hidden = { 0 }, features = { 0 };
    char *text = NULL;
    if (sees) {
        const qwen_array *want = tapped(t, "vision.out");
        ck_assert_msg(
            !qwen_vision(q, tapped(t, "vision.pixels"), tapped(t, "vision.grid"), &features), "%s",
            qwen_error(q));
        ck_assert(!memcmp(features.data, want->data, (size_t)size_of(want) * sizeof(double)));
    }
    ck_assert_int_eq(qwen_prompt(q, r, 0, &text), QWEN_OK);
    ck_assert_int_eq(qwen_tokenize(q, text, strlen(text), &ids), QWEN_OK);
    ck_assert_msg(!qwen_hidden(q, &ids, sees ? &features : NULL,
                               sees ? tapped(t, "vision.grid") : NULL, &hidden),
                  "%s", qwen_error(q));
    const int64_t drop = (hidden.dim[0] - rows->dim[0]) * rows->dim[1];
    ck_assert_int_gt(drop, 0);
    ck_assert(
        !memcmp((double *)hidden.data + drop, rows->data, (size_t)size_of(rows) * sizeof(double)));
    free(text);
    qwen_array_free(&ids);
    qwen_array_free(&hidden);
    qwen_array_free(&features);
}

static const struct {
    const char *model;
    int pictures, sees;
} same[] = {
    { "tiny", 0, 0 }, { "tiny-edit", 1, 1 }, { "tiny-edit-plus", 2, 1 }, { "tiny-layered", 1, 0 }
};

START_TEST(same_as_the_pipeline)
{
    qwen *q;
    taps t = { .n = 0 };
    qwen_array picture[2] = { gradient(40, 30, 3), gradient(30, 50, 3) };
    qwen_options o = options(testdata(same[_i].model));
    o.device = "ref64";
    ck_assert_msg(!qwen_open(&q, &o), "%s", qwen_error(q));
    qwen_request r = request("a cat");
    r.tap = keep_tap;
    r.user = &t;
    r.input = same[_i].pictures ? picture : NULL;
    r.inputs = same[_i].pictures;
    r.reference_area = r.inputs ? 56 * 56 : 0;
    r.condition_area = same[_i].sees && r.inputs == 2 ? 56 * 56 : 0;
    if (same[_i].pictures && !same[_i].sees) {
        r.width = r.height = 0;
        r.layers = 2;
    }
    qwen_result out = { .size = sizeof out };
    ck_assert_msg(!qwen_generate(q, &r, &out), "%s", qwen_error(q));
    same_rows(q, &r, &t, same[_i].sees);
    same_velocity(q, &t);
    same_picture_of(q, &t, "latents.2");
    if (same[_i].pictures) same_encoded(q, &t);
    for (int i = 0; i < t.n; i++) qwen_array_free(&t.a[i]);
    for (int i = 0; i < 2; i++) qwen_array_free(&picture[i]);
    qwen_result_free(&out);
    qwen_close(q);
}
END_TEST

/* Noises of several sizes have no common velocity. */
START_TEST(noises_of_one_size)
{
    qwen *q = opened(testdata("tiny-layered"));
    float latent[16 * 4 * 6] = { 0 }, text[3 * 32] = { 0 };
    const qwen_array w = { .data = text, .dtype = QWEN_F32, .rank = 2, .dim = { 3, 32 } };
    qwen_array z[3], out = { 0 };
    for (int i = 0; i < 3; i++)
        z[i] = (qwen_array){ .data = latent, .dtype = QWEN_F32, .rank = 3, .dim = { 16, 4, 4 } };
    z[2].dim[2] = 6;
    ck_assert_msg(!qwen_velocity(q, z, 3, 0.5, &w, &out), "%s", qwen_error(q));
    ck_assert_int_eq(out.rank, 4);
    ck_assert_int_eq(out.dim[0], 2);
    qwen_array_free(&out);
    z[1].dim[2] = 6;
    ck_assert_int_eq(qwen_velocity(q, z, 3, 0.5, &w, &out), QWEN_EARG);
    ck_assert_str_eq(qwen_error(q), "latent 2 is 6x4, the first is 4x4");
    z[1].dim[2] = 5;
    ck_assert_int_eq(qwen_velocity(q, z, 3, 0.5, &w, &out), QWEN_EARG);
    qwen_close(q);
}
END_TEST

/* --- the plan --------------------------------------------------------------------------------- */

typedef struct lines {
    int64_t n, calls;
} lines;

static void count_line(void *user, const char *line, int64_t count)
{
    lines *l = user;
    ck_assert_ptr_nonnull(strchr(line, '/'));
    l->n++;
    l->calls += count;
}

START_TEST(plan)
{
    qwen *q = opened(tiny);
    lines l = { 0 };
    qwen_request r = request("a cat");
    r.guidance = 3;
    qwen_plan_report p = { .size = sizeof p, .ops = count_line, .user = &l };
    ck_assert_msg(!qwen_plan(q, &r, &p), "%s", qwen_error(q));
    ck_assert_int_eq(p.width, 32);
    ck_assert_int_eq(p.steps, 2);
    ck_assert_int_eq(p.passes, 2);
    ck_assert_int_eq(p.image_tokens, 6);
    ck_assert_int_eq(p.text_tokens, 7);
    ck_assert(p.flops_text > 0 && p.flops_denoise > 0 && p.flops_decode > 0);
    ck_assert(p.flops_vision <= 0 && p.flops_encode <= 0);
    ck_assert_uint_gt(p.scratch, 0);
    ck_assert_uint_gt(p.weights_transformer, 0);
    ck_assert_int_gt(l.n, 10);
    ck_assert_int_gt(l.calls, l.n);
    const double two = p.flops_denoise;
    r.steps = 4;
    p = (qwen_plan_report){ .size = sizeof p };
    ck_assert_int_eq(qwen_plan(q, &r, &p), QWEN_OK);
    ck_assert(p.flops_denoise > 1.5 * two && p.flops_denoise < 2.1 * two);
    qwen_close(q);
}
END_TEST

int main(void)
{
    find_models();
    Suite *s = suite_create("stages");
    TCase *c = tcase_create("stages");
    tcase_set_timeout(c, 300);
    tcase_add_test(c, words);
    tcase_add_test(c, own_template);
    tcase_add_test(c, given_noise);
    tcase_add_test(c, single_stages);
    tcase_add_loop_test(c, same_as_the_pipeline, 0, 4);
    tcase_add_test(c, noises_of_one_size);
    tcase_add_test(c, plan);
    suite_add_tcase(s, c);
    return run_suite(s);
}
