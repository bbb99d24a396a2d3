/* check_stages.c - the public stages one by one: words, templates, noise, networks, the plan. */
#include "api.h"

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
    tcase_add_test(c, plan);
    suite_add_tcase(s, c);
    return run_suite(s);
}
