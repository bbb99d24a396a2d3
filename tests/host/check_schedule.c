/* check_schedule.c - schedules of noise: diffusers' bit for bit, ComfyUI's, and requests that are
 * refused. */
#include "host/noise.h"
#include "testing.h"
#include "values.h"
#include <math.h>
#include <string.h>

static qw_schedule_config config_of(const json_t *j)
{
    return (qw_schedule_config){
        .shift = number(j, "shift"),
        .base_shift = number(j, "base_shift"),
        .max_shift = number(j, "max_shift"),
        .terminal = number(j, "shift_terminal"),
        .base_len = json_integer_value(json_object_get(j, "base_image_seq_len")),
        .max_len = json_integer_value(json_object_get(j, "max_image_seq_len")),
        .train_steps = json_integer_value(json_object_get(j, "num_train_timesteps")),
        .dynamic = json_is_true(json_object_get(j, "use_dynamic_shifting")),
        .linear = !strcmp(string(j, "time_shift_type"), "linear")
    };
}

START_TEST(schedule_diffusers) /* bit for bit */
{
    json_t *const all = read_json("units/schedule.json"), *row;
    size_t i;
    json_array_foreach(json_object_get(all, "diffusers"), i, row)
    {
        const char *const name = string(row, "scheduler");
        const qw_schedule_config c =
            config_of(json_object_get(json_object_get(all, "schedulers"), name));
        const json_t *const list = json_object_get(row, "sigmas_in"), *const want = json_object_get(
                                                                          row, "sigmas");
        const json_t *const times = json_object_get(row, "timesteps");
        double sigmas[256];
        ck_assert(json_array_size(list) <= 256);
        for (size_t k = 0; k < json_array_size(list); k++)
            sigmas[k] = json_number_value(json_array_get(list, k));
        const int64_t tokens = json_integer_value(json_object_get(row, "seq_len"));
        const qw_schedule_request q = { .config = &c,
                                        .steps = (int)number(row, "steps"),
                                        .tokens = tokens,
                                        .condition_tokens = tokens,
                                        .layered = !strcmp(name, "layered"),
                                        .sigmas = json_array_size(list) ? sigmas : NULL,
                                        .n_sigmas = (int)json_array_size(list) };
        const size_t start = (size_t)number(row, "start");
        qw_schedule s;
        qw_error err = { 0 };
        ck_assert_msg(!qw_schedule_make(&s, &q, &err), "row %zu: %s", i, err.text);
        ck_assert_uint_eq((size_t)s.steps + 1 - start, json_array_size(want));
        for (size_t k = 0; k < json_array_size(want); k++)
            ck_assert_msg(s.sigma[start + k] == (float)json_number_value(json_array_get(want, k)),
                          "row %zu (%s, %d steps): sigma %zu is %.9g, expected %.9g", i, name,
                          s.steps, k, (double)s.sigma[start + k],
                          json_number_value(json_array_get(want, k)));
        for (size_t k = 0; k < json_array_size(times); k++)
            ck_assert_msg(s.timestep[start + k]
                              == (float)json_number_value(json_array_get(times, k)),
                          "row %zu: timestep %zu", i, k);
        const json_t *const mu = json_object_get(row, "mu");
        if (json_is_number(mu)) ck_assert_double_eq_tol(s.mu, json_number_value(mu), 1e-15);
        else ck_assert(isnan(s.mu));
        qw_schedule_free(&s);
    }
    ck_assert_int_eq(i, 261);
    json_decref(all);
}
END_TEST

START_TEST(schedule_comfyui)
{
    json_t *const all = read_json("units/schedule.json"), *row;
    size_t i;
    json_array_foreach(json_object_get(all, "comfyui"), i, row)
    {
        const json_t *const model =
            json_object_get(json_object_get(all, "comfyui_models"), string(row, "model"));
        const json_t *const want = json_object_get(row, "sigmas");
        const qw_schedule_request q = { .name = string(row, "scheduler"),
                                        .steps = (int)number(row, "steps"),
                                        .shift = number(model, "shift"),
                                        .denoise = number(row, "denoise"),
                                        .sampler = string(row, "sampler"),
                                        .comfy = 1 };
        qw_schedule s;
        qw_error err = { 0 };
        ck_assert_msg(!qw_schedule_make(&s, &q, &err), "row %zu: %s", i, err.text);
        ck_assert_msg((size_t)s.steps + 1 == json_array_size(want),
                      "row %zu (%s): %d steps, expected %zu", i, q.name, s.steps,
                      json_array_size(want) - 1);
        for (size_t k = 0; k < json_array_size(want); k++)
            ck_assert_msg(
                fabs((double)s.sigma[k] - json_number_value(json_array_get(want, k))) <= 2e-7,
                "row %zu (%s %s): sigma %zu is %.9g, expected %.9g", i, string(row, "model"),
                q.name, k, (double)s.sigma[k], json_number_value(json_array_get(want, k)));
        qw_schedule_free(&s);
    }
    ck_assert_int_eq(i, 530);
    json_decref(all);
}
END_TEST

static void schedule_is(qw_schedule_request q, const float *want, int n)
{
    qw_schedule s;
    qw_error err = { 0 };
    ck_assert_msg(!qw_schedule_make(&s, &q, &err), "%s", err.text);
    ck_assert_int_eq(s.steps + 1, n);
    for (int i = 0; i < n; i++)
        ck_assert_msg(fabsf(s.sigma[i] - want[i]) < 2e-6f, "%s: sigma %d is %g, expected %g",
                      q.name ? q.name : "auto", i, (double)s.sigma[i], (double)want[i]);
    qw_schedule_free(&s);
}

static void schedule_refused(qw_schedule_request q, const char *word)
{
    qw_schedule s;
    qw_error err = { 0 };
    ck_assert_int_eq(qw_schedule_make(&s, &q, &err), QWEN_EARG);
    ck_assert_ptr_null(s.sigma);
    ck_assert_msg(strstr(err.text, word) != NULL, "\"%s\" does not say \"%s\"", err.text, word);
}

START_TEST(schedule_names)
{
    static const double list[] = { 0.9, 0.5, 0.25 }, ended[] = { 0.9, 0.5, 0.25, 0 },
                        rising[] = { 0.5, 0.7 }, wild[] = { 1.5 };
    schedule_is((qw_schedule_request){ .steps = 4, .tokens = 4096 },
                (float[]){ 1, 0.766709f, 0.455614f, 0.02f, 0 }, 5);
    schedule_is((qw_schedule_request){ .name = "lightning", .steps = 4, .tokens = 99 },
                (float[]){ 1, .9f, .75f, .5f, 0 }, 5);
    schedule_is((qw_schedule_request){ .steps = 1, .tokens = 4096 }, (float[]){ 1, 0 }, 2);
    schedule_is((qw_schedule_request){ .name = "raw", .sigmas = list, .n_sigmas = 3 },
                (float[]){ .9f, .5f, .25f, 0 }, 4);
    schedule_is((qw_schedule_request){ .name = "raw", .sigmas = ended, .n_sigmas = 4 },
                (float[]){ .9f, .5f, .25f, 0 }, 4);
    schedule_is((qw_schedule_request){ .steps = 4, .comfy = 1 },
                (float[]){ 1, 0.904531f, 0.759511f, 0.512844f, 0 }, 5);
    schedule_is((qw_schedule_request){ .name = "beta", .steps = 4, .shift = 3.1 },
                (float[]){ 1, 0.935541f, 0.756834f, 0.400015f, 0 }, 5);
    schedule_refused((qw_schedule_request){ .name = "karras2", .steps = 4 }, "karras2");
    schedule_refused((qw_schedule_request){ .steps = 0, .tokens = 4096 }, "0 steps");
    schedule_refused((qw_schedule_request){ .steps = -3, .tokens = 4096 }, "-3 steps");
    schedule_refused((qw_schedule_request){ .steps = 1000000, .tokens = 4096 }, "1000000 steps");
    schedule_refused((qw_schedule_request){ .name = "simple", .steps = 9000, .denoise = 0.1 },
                     "denoise");
    schedule_refused((qw_schedule_request){ .name = "simple", .steps = 4, .denoise = -1 },
                     "denoise");
    schedule_refused((qw_schedule_request){ .name = "kl_optimal", .steps = 1 }, "kl_optimal");
    schedule_refused((qw_schedule_request){ .name = "raw", .steps = 4 }, "raw");
    schedule_refused(
        (qw_schedule_request){ .steps = 5, .tokens = 64, .sigmas = list, .n_sigmas = 3 },
        "contradict");
    schedule_refused((qw_schedule_request){ .tokens = 64, .sigmas = rising, .n_sigmas = 2 },
                     "sigma 2");
    schedule_refused((qw_schedule_request){ .name = "raw", .sigmas = wild, .n_sigmas = 1 }, "1.5");
    schedule_refused((qw_schedule_request){ .steps = 4, .shift = (double)NAN }, "shift");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("schedule");
    TCase *c = tcase_create("schedules");
    tcase_add_test(c, schedule_diffusers);
    tcase_add_test(c, schedule_comfyui);
    tcase_add_test(c, schedule_names);
    suite_add_tcase(s, c);
    return run_suite(s);
}
