/* check_generate.c - requests beyond a plain picture: long prompts, input pictures, tiles,
 * samplers. */
#include "api.h"

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
    for (int i = 0; i < WORDS; i++) memcpy(text + 4 * i, "cat ", 5);
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
    for (int i = 0; i < 16 * 6 * 4; i++) x[i] = 3e38f;
    r.noise = &noise;
    refused(q, &r, QWEN_ENUMERIC, "denoise");
    ck_assert_ptr_nonnull(strstr(qwen_error(q), "gemm")); /* names the operation */
    x[5] = (float)strtod("nan", NULL);
    refused(q, &r, QWEN_EARG, "finite");
    r.noise = NULL;
    qwen_result res = drawn(q, &r);
    qwen_result_free(&res);
    free(x);
    qwen_close(q);
}
END_TEST

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
    r.extend[0] = 24; /* 64 by 64 */
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

/* The same prompt with another picture has another embedding. */
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

/* Tiling "reference": one tile has the bits of the whole picture, several tiles have others. */
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
    qwen_options o = options(tiny); /* its numbers differ in many places */
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
    find_models();
    Suite *s = suite_create("generate");
    TCase *c = tcase_create("generate");
    tcase_set_timeout(c, 300);
    tcase_add_test(c, long_prompt);
    tcase_add_test(c, not_finite);
    tcase_add_test(c, pictures);
    tcase_add_test(c, edits);
    tcase_add_test(c, tiles);
    tcase_add_test(c, samplers);
    suite_add_tcase(s, c);
    return run_suite(s);
}
