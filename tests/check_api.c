/* check_api.c - the public header's promises: ownership, errors, sizes of structs, cancelling,
 * threads. */
#include "testing.h"
#include "qwen.h"
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char tiny[500], edit[500];

static qwen_options options(const char *model)
{
    return (qwen_options){
        .size = sizeof(qwen_options), .model = model, .device = "ref", .threads = 1
    };
}

static qwen_request request(const char *prompt)
{
    return (qwen_request){ .size = sizeof(qwen_request),
                           .prompt = prompt,
                           .width = 32,
                           .height = 48,
                           .steps = 2,
                           .guidance = 1,
                           .seed = 7 };
}

static qwen *opened(const char *model)
{
    qwen *q;
    const qwen_options o = options(model);
    const int status = qwen_open(&q, &o);
    ck_assert_msg(!status, "%s: %s", model, qwen_error(q));
    return q;
}

static qwen_result drawn(qwen *q, const qwen_request *r)
{
    qwen_result res = { .size = sizeof res };
    const int status = qwen_generate(q, r, &res);
    ck_assert_msg(!status, "%s", qwen_error(q));
    ck_assert_int_eq(res.n, 1);
    return res;
}

static int same_picture(const qwen_array *a, const qwen_array *b)
{
    return a->dim[0] == b->dim[0] && a->dim[1] == b->dim[1] && a->dim[2] == b->dim[2] &&
           !memcmp(a->data, b->data, (size_t)(a->dim[0] * a->dim[1] * a->dim[2]));
}

/* The request fails with this status, and the sentence holds this word. */
static void refused(qwen *q, const qwen_request *r, int status, const char *word)
{
    qwen_result res = { .size = sizeof res };
    const int got = qwen_generate(q, r, &res);
    ck_assert_msg(got == status, "%d, not %d: %s", got, status, qwen_error(q));
    ck_assert_msg(strstr(qwen_error(q), word) != NULL, "\"%s\" lacks \"%s\"", qwen_error(q), word);
    ck_assert_int_eq(res.n, 0);
    ck_assert_ptr_null(res.image);
}

/* --- structs and statuses
 * ------------------------------------------------------------------------------------ */

START_TEST(names)
{
    ck_assert_ptr_nonnull(qwen_version());
    for (int s = -20; s <= 20; s++)
        ck_assert_ptr_nonnull(qwen_strerror(s));
    ck_assert_str_ne(qwen_strerror(QWEN_EARG), qwen_strerror(QWEN_EIO));
    ck_assert_str_eq(qwen_error(NULL), "no memory");
    int w = 0, h = 0;
    ck_assert_int_eq(qwen_aspect("16:9", &w, &h), QWEN_OK);
    ck_assert_int_eq(w, 1664);
    ck_assert_int_eq(h, 928);
    ck_assert_int_eq(qwen_aspect("5:4", &w, &h), QWEN_EARG);
    qwen_array_free(NULL);
    qwen_result_free(NULL);
    qwen_close(NULL);
    qwen_file_close(NULL);
    qwen_tokenizer_close(NULL);
}
END_TEST

START_TEST(struct_sizes)
{
    struct { qwen_options o; char more[64]; } larger = { .o = options(tiny) };
    qwen *q;
    qwen_options o = options(tiny);
    ck_assert_int_eq(qwen_open(NULL, &o), QWEN_EARG);
    ck_assert_int_eq(qwen_open(&q, NULL), QWEN_EARG);
    qwen_close(q);
    o.size = 0;
    ck_assert_int_eq(qwen_open(&q, &o), QWEN_EARG);
    ck_assert_ptr_nonnull(strstr(qwen_error(q), "size"));
    qwen_close(q);
    larger.o.size = sizeof larger;
    ck_assert_int_eq(qwen_open(&q, &larger.o), QWEN_OK);
    qwen_close(q);
    larger.more[50] = 1;
    ck_assert_int_eq(qwen_open(&q, &larger.o), QWEN_EUNSUPPORTED);
    qwen_close(q);
    o = options(tiny);
    o.size = offsetof(qwen_options, text_device);       /* an older caller */
    ck_assert_int_eq(qwen_open(&q, &o), QWEN_OK);
    qwen_request r = request("a cat");
    r.size = offsetof(qwen_request, chat_template);
    qwen_result res = { .size = offsetof(qwen_result, variant) };
    ck_assert_int_eq(qwen_generate(q, &r, &res), QWEN_OK);
    ck_assert_int_eq(res.n, 1);
    ck_assert_ptr_null(res.variant);
    qwen_result_free(&res);
    ck_assert_ptr_null(res.image);
    qwen_result_free(&res);
    r.size = 0;
    res.size = sizeof res;
    ck_assert_int_eq(qwen_generate(q, &r, &res), QWEN_EARG);
    res.size = 0;
    r.size = sizeof r;
    ck_assert_int_eq(qwen_generate(q, &r, &res), QWEN_EARG);
    ck_assert_int_eq(qwen_generate(q, NULL, &res), QWEN_EARG);
    ck_assert_int_eq(qwen_generate(q, &r, NULL), QWEN_EARG);
    ck_assert_int_eq(qwen_generate(NULL, &r, &res), QWEN_EARG);
    qwen_close(q);
}
END_TEST

static void open_fails(const char *rel, int status, const char *word)
{
    qwen *q;
    char path[600];
    snprintf(path, sizeof path, "%s", testdata(rel));
    const qwen_options o = options(path);
    const int got = qwen_open(&q, &o);
    ck_assert_ptr_nonnull(q);
    ck_assert_msg(got == status, "%s: %d, not %d: %s", rel, got, status, qwen_error(q));
    ck_assert_msg(strstr(qwen_error(q), word) != NULL, "%s: \"%s\" lacks \"%s\"", rel,
                  qwen_error(q), word);
    qwen_request r = request("a cat");
    qwen_result res = { .size = sizeof res };
    ck_assert_int_eq(qwen_generate(q, &r, &res), status);       /* says why again */
    qwen_close(q);
}

START_TEST(open_errors)
{
    open_fails("no-such-model", QWEN_EIO, "no-such-model");
    open_fails("formats/bad/model_index_unknown_class", QWEN_EUNSUPPORTED, "_class_name");
    open_fails("formats/bad/model_index_number", QWEN_EFORMAT, "_class_name");
    open_fails("formats/bad/model_index_array", QWEN_EFORMAT, "_class_name");
    open_fails("formats/bad/model_index_component_number", QWEN_EFORMAT, "transformer");
    open_fails("formats/bad/json_truncated", QWEN_EFORMAT, "JSON");
    open_fails("formats/bad/empty.safetensors", QWEN_EFORMAT, "empty.safetensors");
    qwen *q;
    qwen_options o = options(tiny);
    o.variant = "landscape";
    ck_assert_int_eq(qwen_open(&q, &o), QWEN_EARG);
    qwen_close(q);
    o = options(tiny);
    o.device = "abacus";
    ck_assert_int_eq(qwen_open(&q, &o), QWEN_EARG);
    qwen_close(q);
    o = options(tiny);
    o.like = "other";
    ck_assert_int_eq(qwen_open(&q, &o), QWEN_EARG);
    qwen_close(q);
    o = options(NULL);
    ck_assert_int_eq(qwen_open(&q, &o), QWEN_EARG);
    qwen_close(q);
}
END_TEST

START_TEST(info)
{
    qwen *q = opened(tiny);
    qwen_model_info i = { .size = sizeof i };
    ck_assert_int_eq(qwen_info(q, &i), QWEN_OK);
    ck_assert_str_eq(i.variant, "t2i");
    ck_assert_str_eq(i.pipeline, "QwenImagePipeline");
    ck_assert_str_eq(i.device, "ref");
    ck_assert_str_eq(i.negative, " ");
    ck_assert_int_eq(i.width, 1024);
    ck_assert_int_eq(i.steps, 50);
    ck_assert(i.guidance == 4);
    ck_assert_int_eq(i.text_width, 32);
    ck_assert_int_eq(qwen_info(q, NULL), QWEN_EARG);
    qwen_close(q);
}
END_TEST

/* --- requests --------------------------------------------------------------------------------- */

START_TEST(bad_requests)
{
    qwen *q = opened(tiny);
    qwen_request r = request("a cat");
    r.width = 100;
    refused(q, &r, QWEN_EARG, "96");
    ck_assert_ptr_nonnull(strstr(qwen_error(q), "112"));
    r.width = -16;
    refused(q, &r, QWEN_EARG, "width");
    r = request(NULL);
    refused(q, &r, QWEN_EARG, "prompt");
    r = request("caf\xe9!");
    refused(q, &r, QWEN_EARG, "byte 3");
    r = request("a cat");
    r.steps = -1;
    refused(q, &r, QWEN_EARG, "steps");
    r = request("a cat");
    r.width = r.height = 1 << 24;
    refused(q, &r, QWEN_ENOMEM, "GB");
    r = request("a cat");
    r.width = r.height = 2147483632;
    refused(q, &r, QWEN_ENOMEM, "GB");
    r = request("a cat");
    r.sampler = "magic";
    refused(q, &r, QWEN_EARG, "magic");
    r = request("a cat");
    r.schedule = "magic";
    refused(q, &r, QWEN_EARG, "magic");
    r = request("a cat");
    r.rng = "magic";
    refused(q, &r, QWEN_EARG, "magic");
    r = request("a cat");
    r.chat_template = "no place for words";
    refused(q, &r, QWEN_EARG, "{}");
    r = request("a cat");
    r.strength = 0.5;
    refused(q, &r, QWEN_EARG, "strength");
    r = request("a cat");
    const double sigmas[] = { 1, 0.5, 0.25 };
    r.sigmas = sigmas;
    r.n_sigmas = 3;
    refused(q, &r, QWEN_EARG, "steps");
    r = request("a cat");
    const qwen_array wrong = { .dtype = QWEN_F32, .rank = 1, .dim = { 3 }, .data = &r };
    r.noise = &wrong;
    refused(q, &r, QWEN_EARG, "noise");
    r = request("a cat");               /* still a good handle */
    qwen_result res = drawn(q, &r);
    qwen_result_free(&res);
    qwen_close(q);
    q = opened(edit);
    r = request("make it red");
    refused(q, &r, QWEN_EARG, "picture");
    qwen_close(q);
}
END_TEST

typedef struct stop { int calls, at; char phase[32]; int last_step; } stop;

static int stopping(void *user, const qwen_progress *p)
{
    stop *s = user;
    ck_assert_uint_eq(p->size, sizeof *p);
    ck_assert_int_le(p->step, p->steps);
    if (strcmp(s->phase, p->phase))
        s->last_step = -1;
    ck_assert_int_ge(p->step, s->last_step);
    s->last_step = p->step;
    snprintf(s->phase, sizeof s->phase, "%s", p->phase);
    return ++s->calls == s->at;
}

START_TEST(cancelling)
{
    qwen *q = opened(tiny);
    stop s = { 0 };
    qwen_request r = request("a cat");
    r.guidance = 2;
    r.progress = stopping;
    r.user = &s;
    qwen_result want = drawn(q, &r);
    const int calls = s.calls;
    ck_assert_int_gt(calls, 8);
    for (int at = 1; at <= calls; at += at < 4 ? 1 : calls / 7) {
        s = (stop){ .at = at };
        qwen_result res = { .size = sizeof res };
        ck_assert_int_eq(qwen_generate(q, &r, &res), at <= s.calls ? QWEN_ECANCELLED : QWEN_OK);
        if (s.calls == at)
            ck_assert_ptr_null(res.image);
        qwen_result_free(&res);
    }
    s = (stop){ 0 };
    qwen_result again = drawn(q, &r);
    ck_assert(same_picture(&want.image[0], &again.image[0]));
    qwen_result_free(&want);
    qwen_result_free(&again);
    qwen_close(q);
}
END_TEST

START_TEST(several_pictures)
{
    qwen *q = opened(tiny), *fresh = opened(tiny);
    qwen_request r = request("a cat");
    r.guidance = 3;
    qwen_result first = drawn(q, &r);
    r.seed = 8;
    qwen_result second = drawn(q, &r), alone = drawn(fresh, &r); /* q knows the words already */
    ck_assert(same_picture(&second.image[0], &alone.image[0]));
    ck_assert(!same_picture(&first.image[0], &second.image[0]));
    ck_assert_uint_eq(second.seed, 8);
    ck_assert_int_eq(second.width, 32);
    ck_assert_int_eq(second.height, 48);
    ck_assert_int_eq(second.steps, 2);
    ck_assert_str_eq(second.variant, "t2i");
    r.prompt = "a dog";
    qwen_result third = drawn(q, &r);
    ck_assert(!same_picture(&third.image[0], &second.image[0]));
    qwen_result_free(&first);
    qwen_result_free(&second);
    qwen_result_free(&third);
    qwen_result_free(&alone);
    qwen_close(q);
    qwen_close(fresh);
}
END_TEST

typedef struct job { const char *prompt; qwen_result res; } job;

static void *draw_thread(void *arg)
{
    job *j = arg;
    qwen *q = NULL;
    const qwen_options o = options(tiny);
    const qwen_request r = request(j->prompt);
    j->res = (qwen_result){ .size = sizeof j->res };
    if (!qwen_open(&q, &o))
        qwen_generate(q, &r, &j->res);
    qwen_close(q);
    return NULL;
}

START_TEST(two_threads)
{
    job a = { .prompt = "a cat" }, b = { .prompt = "a dog" }, c = a;
    pthread_t ta, tb;
    ck_assert_int_eq(pthread_create(&ta, NULL, draw_thread, &a), 0);
    ck_assert_int_eq(pthread_create(&tb, NULL, draw_thread, &b), 0);
    pthread_join(ta, NULL);
    pthread_join(tb, NULL);
    draw_thread(&c);
    ck_assert_int_eq(a.res.n, 1);
    ck_assert_int_eq(b.res.n, 1);
    ck_assert(same_picture(&a.res.image[0], &c.res.image[0]));
    ck_assert(!same_picture(&a.res.image[0], &b.res.image[0]));
    qwen_result_free(&a.res);
    qwen_result_free(&b.res);
    qwen_result_free(&c.res);
}
END_TEST

/* --- stages ----------------------------------------------------------------------------------- */

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
    qwen_array hidden = { 0 };          /* the same without the template's part */
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

/* A template of the caller's: the rows of what stands before {} are dropped. */
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
    ck_assert_int_eq(rows.dim[0], 4);   /* a, cat, <|im_end|>, \n */
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
    r = request("{} {x}");              /* braces of the prompt mean nothing */
    ck_assert_int_eq(qwen_prompt(q, &r, 0, &text), QWEN_OK);
    ck_assert_ptr_nonnull(strstr(text, "user\n{} {x}<|im_end|>"));
    free(text);
    qwen_close(q);
}
END_TEST

typedef struct taken { qwen_array noise, latent; } taken;

static void take(void *user, const char *name, const qwen_array *a)
{
    taken *t = user;
    qwen_array *to = !strcmp(name, "noise")       ? &t->noise
                     : !strcmp(name, "latents.2") ? &t->latent
                                                  : NULL;
    size_t bytes = sizeof(float);
    if (!to)
        return;
    for (int i = 0; i < a->rank; i++)
        bytes *= (size_t)a->dim[i];
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

typedef struct lines { int64_t n, calls; } lines;

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

/* --- files ------------------------------------------------------------------------------------ */

static void collect(void *user, const char *key, const char *value)
{
    char *all = user;
    const size_t at = strlen(all);
    snprintf(all + at, 8000 - at, "%s: %s\n", key, value);
}

START_TEST(inspecting)
{
    char all[8000] = "", error[500] = "", path[600];
    const int status = qwen_inspect(tiny, collect, all, error, sizeof error);
    ck_assert_msg(!status, "%d %s\n%s", status, error, all);
    ck_assert_ptr_nonnull(strstr(all, "variant: t2i"));
    ck_assert_ptr_nonnull(strstr(all, "bf16"));
    ck_assert_ptr_nonnull(strstr(all, "parameters"));
    all[0] = 0;
    snprintf(path, sizeof path, "%s",
             testdata("formats/bad/transformer_missing_tensors.safetensors"));
    ck_assert_int_eq(qwen_inspect(path, collect, all, error, sizeof error), QWEN_EMODEL);
    ck_assert_str_ne(error, "");
    ck_assert_ptr_nonnull(strstr(all, "kind: "));
    ck_assert_int_eq(qwen_inspect("/no/such/file", collect, all, error, sizeof error), QWEN_EIO);
    ck_assert_int_eq(qwen_inspect(NULL, NULL, NULL, NULL, 0), QWEN_EARG);
}
END_TEST

START_TEST(file_reading)
{
    char path[600];
    qwen_file *f;
    qwen_array a;
    snprintf(path, sizeof path, "%s", testdata("pipelines/t2i_64.safetensors"));
    ck_assert_int_eq(qwen_file_open(&f, path), QWEN_OK);
    ck_assert_int_gt(qwen_file_count(f), 30);
    ck_assert_int_eq(qwen_file_read(f, "sigmas", &a), QWEN_OK);
    ck_assert_int_eq(a.dim[0], 5);
    ck_assert(((float *)a.data)[0] == 1 && ((float *)a.data)[4] == 0);
    qwen_array_free(&a);
    ck_assert_int_eq(qwen_file_read(f, "nothing", &a), QWEN_EMODEL);
    ck_assert_ptr_nonnull(strstr(qwen_file_error(f), "nothing"));
    qwen_file_close(f);
    ck_assert_int_eq(qwen_file_open(&f, "/no/such/file"), QWEN_EIO);
    ck_assert_str_ne(qwen_file_error(f), "");
    qwen_file_close(f);
    qwen_tokenizer *t;
    snprintf(path, sizeof path, "%s", testdata("tiny/tokenizer"));
    ck_assert_int_eq(qwen_tokenizer_open(&t, path), QWEN_OK);
    ck_assert_int_eq(qwen_tokenizer_ids(t, "a\0b", 3, &a), QWEN_OK);
    ck_assert_int_ge(a.dim[0], 2);
    qwen_array_free(&a);
    ck_assert_int_eq(qwen_tokenizer_ids(t, "\xff", 1, &a), QWEN_EARG);
    qwen_tokenizer_close(t);
    ck_assert_int_eq(qwen_tokenizer_open(&t, "/no/such"), QWEN_EIO);
    qwen_tokenizer_close(t);
}
END_TEST

/* --- beyond the plain picture --------------------------------------------------------------- */

static void count_notice(void *user, int level, const char *line)
{
    ck_assert_ptr_nonnull(line);
    *(int *)user += level == 0;
}

START_TEST(long_prompt)
{
    enum { WORDS = 100000 };
    int notices = 0;
    qwen *q;
    qwen_options o = options(tiny);
    o.log = count_notice;
    o.user = &notices;
    ck_assert_int_eq(qwen_open(&q, &o), QWEN_OK);
    char *text = malloc(WORDS * 4 + 1);
    ck_assert_ptr_nonnull(text);
    for (int i = 0; i < WORDS; i++)
        memcpy(text + 4 * i, "cat ", 5);
    qwen_request r = request(text);
    qwen_array rows = { 0 };
    ck_assert_msg(!qwen_embed(q, &r, 0, &rows), "%s", qwen_error(q));
    ck_assert_int_eq(rows.dim[0], 512);
    ck_assert_int_ge(notices, 1);
    qwen_array_free(&rows);
    free(text);
    qwen_close(q);
}
END_TEST

START_TEST(not_finite)
{
    qwen *q = opened(tiny);
    qwen_request r = request("a cat");
    float *x = malloc(16 * 6 * 4 * sizeof *x);
    const qwen_array noise = { .data = x, .dtype = QWEN_F32, .rank = 3, .dim = { 16, 6, 4 } };
    for (int i = 0; i < 16 * 6 * 4; i++)
        x[i] = 3e38f;
    r.noise = &noise;
    refused(q, &r, QWEN_ENUMERIC, "denoise");
    ck_assert_ptr_nonnull(strstr(qwen_error(q), "gemm"));       /* names the operation */
    x[5] = (float)strtod("nan", NULL);
    refused(q, &r, QWEN_EARG, "finite");
    r.noise = NULL;
    qwen_result res = drawn(q, &r);
    qwen_result_free(&res);
    free(x);
    qwen_close(q);
}
END_TEST

static qwen_array gradient(int64_t w, int64_t h, int64_t c)
{
    qwen_array a = { .dtype = QWEN_U8, .rank = 3, .dim = { h, w, c } };
    uint8_t *p = a.data = malloc((size_t)(w * h * c));
    ck_assert_ptr_nonnull(p);
    for (int64_t i = 0; i < w * h * c; i++)
        p[i] = (uint8_t)(i * 7 / 3);
    return a;
}

START_TEST(pictures)
{
    qwen *q = opened(tiny);
    qwen_array in = gradient(40, 56, 4), mask = gradient(40, 56, 3);
    qwen_request r = request("a cat");
    r.input = &in;
    r.inputs = 1;
    r.strength = 0.5;
    r.width = r.height = 0; /* the picture's own, to multiples of 16: 40 is 2.5 of them */
    qwen_result res = drawn(q, &r);
    ck_assert_int_eq(res.width, 32);
    ck_assert_int_eq(res.height, 64);
    qwen_result_free(&res);
    r.strength = 0;
    r.extend[0] = 24;                   /* 64 by 64 */
    r.extend[3] = 8;
    res = drawn(q, &r);
    ck_assert_int_eq(res.width, 64);
    ck_assert_int_eq(res.height, 64);
    qwen_result_free(&res);
    r.mask = &mask;
    res = drawn(q, &r);
    qwen_result_free(&res);
    r.extend[0] = 25;
    refused(q, &r, QWEN_EARG, "multiple of 16");
    memset(r.extend, 0, sizeof r.extend);
    r.inputs = 0;
    refused(q, &r, QWEN_EARG, "picture");
    r.inputs = 1;
    r.mask = NULL;
    r.strength = 1.5;
    refused(q, &r, QWEN_EARG, "strength");
    r.strength = 0.5;
    in.dim[2] = 2;
    refused(q, &r, QWEN_EARG, "input");
    in.dim[2] = 4;
    r.control = &in;
    refused(q, &r, QWEN_EARG, "ControlNet");
    qwen_array_free(&in);
    qwen_array_free(&mask);
    qwen_close(q);
}
END_TEST

/* The same words about another picture are not the same embedding. */
START_TEST(edits)
{
    qwen *q = opened(edit);
    qwen_array one = gradient(64, 64, 3), two = gradient(64, 64, 3);
    memset(two.data, 200, 64 * 64 * 3);
    qwen_request r = request("make it red");
    r.reference_area = 4096;
    r.input = &one;
    r.inputs = 1;
    qwen_array a = { 0 }, b = { 0 }, c = { 0 };
    ck_assert_msg(!qwen_embed(q, &r, 0, &a), "%s", qwen_error(q));
    r.input = &two;
    ck_assert_int_eq(qwen_embed(q, &r, 0, &b), QWEN_OK);
    r.input = &one;
    ck_assert_int_eq(qwen_embed(q, &r, 0, &c), QWEN_OK);
    ck_assert_int_eq(a.dim[0], b.dim[0]);
    const size_t bytes = (size_t)(a.dim[0] * a.dim[1]) * sizeof(float);
    ck_assert(memcmp(a.data, b.data, bytes));
    ck_assert(!memcmp(a.data, c.data, bytes));
    qwen_plan_report p = { .size = sizeof p };
    ck_assert_msg(!qwen_plan(q, &r, &p), "%s", qwen_error(q));
    ck_assert(p.flops_vision > 0 && p.flops_encode > 0);
    ck_assert_int_eq(p.reference_tokens, 16);
    ck_assert_uint_gt(p.weights_vision, 0);
    const qwen_array both[2] = { one, two };
    r.input = both;
    r.inputs = 2;
    refused(q, &r, QWEN_EARG, "one picture");
    qwen_array_free(&one);
    qwen_array_free(&two);
    qwen_array_free(&a);
    qwen_array_free(&b);
    qwen_array_free(&c);
    qwen_close(q);
}
END_TEST

/* Tiles of the reference: one tile is the whole picture, several are another. */
START_TEST(tiles)
{
    qwen *q = opened(tiny);
    qwen_request r = request("a cat");
    r.width = 32;
    r.height = 272;
    r.steps = 1;
    qwen_result whole = drawn(q, &r);
    r.tiling = "reference";
    qwen_result tiled = drawn(q, &r);
    ck_assert(!same_picture(&whole.image[0], &tiled.image[0]));
    qwen_result_free(&whole);
    qwen_result_free(&tiled);
    r.height = 256;
    tiled = drawn(q, &r);
    r.tiling = NULL;
    whole = drawn(q, &r);
    ck_assert(same_picture(&whole.image[0], &tiled.image[0]));
    qwen_result_free(&whole);
    qwen_result_free(&tiled);
    r.tiling = "mosaic";
    refused(q, &r, QWEN_EARG, "mosaic");
    qwen_close(q);
}
END_TEST

START_TEST(samplers)
{
    static const char *const listed[] = { "heun", "dpm_2", "euler_ancestral", "dpmpp_2m", "lcm" };
    qwen *q = opened(tiny);
    qwen_request r = request("a cat");
    r.steps = 3;
    qwen_result plain = drawn(q, &r);
    for (size_t i = 0; i < sizeof listed / sizeof *listed; i++) {
        r.sampler = listed[i];
        qwen_result res = drawn(q, &r);
        ck_assert(!same_picture(&plain.image[0], &res.image[0]));
        ck_assert_str_eq(res.sampler, listed[i]);
        qwen_result_free(&res);
    }
    qwen_result_free(&plain);
    qwen_close(q);
    qwen_options o = options(tiny);     /* its numbers differ in many places */
    o.like = "comfyui";
    ck_assert_int_eq(qwen_open(&q, &o), QWEN_OK);
    r.sampler = NULL;
    qwen_result res = drawn(q, &r);
    qwen_result_free(&res);
    qwen_close(q);
}
END_TEST

int main(void)
{
    snprintf(tiny, sizeof tiny, "%s", testdata("tiny"));
    snprintf(edit, sizeof edit, "%s", testdata("tiny-edit"));
    Suite *s = suite_create("api");
    TCase *t = tcase_create("api");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, names);
    tcase_add_test(t, struct_sizes);
    tcase_add_test(t, open_errors);
    tcase_add_test(t, info);
    tcase_add_test(t, bad_requests);
    tcase_add_test(t, cancelling);
    tcase_add_test(t, several_pictures);
    tcase_add_test(t, two_threads);
    tcase_add_test(t, words);
    tcase_add_test(t, own_template);
    tcase_add_test(t, given_noise);
    tcase_add_test(t, single_stages);
    tcase_add_test(t, plan);
    tcase_add_test(t, inspecting);
    tcase_add_test(t, file_reading);
    tcase_add_test(t, long_prompt);
    tcase_add_test(t, not_finite);
    tcase_add_test(t, pictures);
    tcase_add_test(t, edits);
    tcase_add_test(t, tiles);
    tcase_add_test(t, samplers);
    suite_add_tcase(s, t);
    return run_suite(s);
}
