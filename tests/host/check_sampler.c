/* check_sampler.c - every sampler calls the model at the published sampler's points, ends at its
 * result, and returns failures; guidance. */
#include "host/noise.h"
#include "testing.h"
#include "values.h"
#include <math.h>
#include <string.h>

typedef struct trace {
    const double *x, *sigma; /* expected arguments of the model, [calls][n], [calls] */
    const double *noise;     /* [40][n] */
    int64_t n, calls, call, draws;
    int steps, after;
    const char *what;
} trace;

/* Compares the argument of a call; returns the velocity of the fixture's denoiser there. */
static int traced_velocity(void *user, const double *x, double sigma, int step, double *v)
{
    trace *const t = user;
    ck_assert_msg(t->call < t->calls, "%s: more than %lld calls", t->what, (long long)t->calls);
    ck_assert(step >= 0 && step < t->steps);
    ck_assert_msg(fabs(sigma - t->sigma[t->call]) <= 1e-12,
                  "%s: call %lld at sigma %.17g, expected %.17g", t->what, (long long)t->call,
                  sigma, t->sigma[t->call]);
    close_to(t->what, x, t->x + t->call * t->n, t->n, 1e-12);
    for (int64_t i = 0; i < t->n; i++) {
        const double d = 0.8 * tanh(1.7 * x[i] * (1 - 0.5 * sigma) + 0.3 * sigma)
                         - 0.35 * tanh(2.3 * x[i] - 0.6) + 0.15 * (1 - sigma) * x[i];
        v[i] = (x[i] - d) / sigma;
    }
    t->call++;
    return 0;
}

static int traced_noise(void *user, double *out)
{
    trace *const t = user;
    memcpy(out, t->noise + t->n * t->draws++, (size_t)t->n * sizeof *out);
    return 0;
}

static int traced_after(void *user, int step, double sigma_next, double *x)
{
    trace *const t = user;
    ck_assert_int_eq(step, t->after++);
    ck_assert(sigma_next >= 0 && x != NULL);
    return 0;
}

static double *named(const qw_store *s, const char *a, const char *b, const char *c, int64_t *n)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s%s%s", a, b, *c ? "." : "", c);
    return values(s, name, n);
}

static void run_case(const qw_store *s, const json_t *schedules, const json_t *row,
                     const double *noise)
{
    const char *const schedule = string(row, "schedule"), *const sampler = string(row, "sampler");
    const json_t *const list = json_object_get(schedules, schedule);
    float sigma[64];
    const int steps = (int)json_array_size(list) - 1;
    char what[128];
    int64_t n, calls, m;
    snprintf(what, sizeof what, "%s.%s", schedule, sampler);
    for (int i = 0; i <= steps; i++)
        sigma[i] = (float)json_number_value(json_array_get(list, (size_t)i));
    double *const x = named(s, schedule, "x", "", &n), *const final =
                                                           named(s, schedule, sampler, "final", &n);
    double *const call_x = named(s, schedule, sampler, "call_x", &m), *const at = named(
                                                                          s, schedule, sampler,
                                                                          "call_sigma", &calls);
    trace t = { .x = call_x,
                .sigma = at,
                .noise = noise,
                .n = n,
                .calls = calls,
                .steps = steps,
                .what = what };
    const qw_sampler model = { traced_velocity, traced_noise, traced_after, &t };
    qw_error err = { 0 };
    ck_assert_msg(!qw_sample(sampler, &model, sigma, steps, x, n, &err), "%s: %s", what, err.text);
    ck_assert_int_eq(t.call, calls);
    ck_assert_int_eq(t.after, steps);
    if (!strncmp(sampler, "uni_pc", 6) && sigma[steps] == 0) /* undo ComfyUI's last division */
        for (int64_t i = 0; i < n; i++) x[i] *= 1 - 0.001;
    close_to(what, x, final, n, 1e-12);
    free(x);
    free(final);
    free(call_x);
    free(at);
}

START_TEST(samplers_agree)
{
    json_t *const all = read_json("units/samplers.json"), *row;
    qw_store *const s = open_data("units/samplers.safetensors");
    int64_t n;
    double *const noise = values(s, "noise", &n);
    size_t i;
    int run = 0;
    json_array_foreach(json_object_get(all, "cases"), i, row)
    {
        const int own = strstr(string(row, "source"), "own formula") != NULL,
                  known = qw_sampler_known(string(row, "sampler"));
        ck_assert_msg(known || !own, "%s is missing", string(row, "sampler"));
        if (!known) continue;
        run_case(s, json_object_get(all, "schedules"), row, noise);
        run++;
    }
    ck_assert_int_ge(run, 60);
    free(noise);
    qw_store_free(s);
    json_decref(all);
}
END_TEST

static int failing_velocity(void *user, const double *x, double sigma, int step, double *v)
{
    (void)user;
    (void)x;
    (void)sigma;
    (void)step;
    (void)v;
    return QWEN_ECANCELLED;
}

static int failing_noise(void *user, double *out)
{
    (void)user;
    (void)out;
    return QWEN_EDEVICE;
}

static int zero_velocity(void *user, const double *x, double sigma, int step, double *v)
{
    (void)user;
    (void)sigma;
    (void)step;
    memset(v, 0, 24 * sizeof *v);
    return x ? 0 : QWEN_EARG;
}

START_TEST(samplers_refuse)
{
    double x[24] = { 0 };
    const float sigma[] = { 1, 0.5f, 0 }, rising[] = { 0.5f, 1, 0 }, twice[] = { 1, 0, 0 };
    const qw_sampler stop = { failing_velocity, failing_noise, NULL, NULL },
                     noisy = { zero_velocity, failing_noise, NULL, NULL };
    const qw_sampler plain = { zero_velocity, NULL, NULL, NULL };
    static const char *const name[] = { "euler",
                                        "heun",
                                        "dpm_2",
                                        "dpmpp_2m",
                                        "res_multistep",
                                        "ipndm",
                                        "lms",
                                        "gradient_estimation",
                                        "uni_pc",
                                        "uni_pc_bh2",
                                        "euler_ancestral",
                                        "lcm" };
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        qw_error err = { 0 };
        ck_assert_msg(qw_sample(name[i], &stop, sigma, 2, x, 24, &err) == QWEN_ECANCELLED, "%s",
                      name[i]);
        ck_assert_int_eq(err.status, QWEN_ECANCELLED);
    }
    for (int steps = 1; steps <= 2; steps++) /* few steps are enough for every one */
        for (size_t i = 0; i < 10; i++) {
            qw_error err = { 0 };
            ck_assert_msg(!qw_sample(name[i], &plain, sigma + 2 - steps, steps, x, 24, &err),
                          "%s: %s", name[i], err.text);
            ck_assert_msg(isfinite(x[0]), "%s", name[i]);
        }
    qw_error err = { 0 };
    ck_assert_int_eq(qw_sample("lcm", &noisy, sigma, 2, x, 24, &err), QWEN_EDEVICE);
    err.status = 0;
    ck_assert_int_eq(qw_sample("lcm", &plain, sigma, 2, x, 24, &err), QWEN_EARG);
    err.status = 0;
    ck_assert_int_eq(qw_sample("eulre", &plain, sigma, 2, x, 24, &err), QWEN_EARG);
    ck_assert(strstr(err.text, "eulre") && !qw_sampler_known("eulre") && qw_sampler_known(NULL));
    err.status = 0;
    ck_assert_int_eq(qw_sample(NULL, &plain, rising, 2, x, 24, &err), QWEN_EARG);
    err.status = 0;
    ck_assert_int_eq(qw_sample(NULL, &plain, twice, 2, x, 24, &err), QWEN_EARG);
}
END_TEST

START_TEST(guidance)
{
    qw_store *const s = open_data("units/samplers.safetensors");
    int64_t n;
    double *const pos = values(s, "guidance.pos", &n), *const neg = values(s, "guidance.neg", &n);
    double *const plain = values(s, "guidance.plain_4", &n), *const scaled = values(
                                                                 s, "guidance.rescaled_4", &n);
    double *const v = malloc((size_t)n * sizeof *v);
    ck_assert_ptr_nonnull(v);
    qw_guide(v, pos, neg, 5, 64, 4, 0);
    close_to("plain", v, plain, n, 1e-15);
    qw_guide(v, pos, neg, 5, 64, 4, 1);
    close_to("rescaled", v, scaled, n, 1e-14);
    memcpy(v, pos, (size_t)n * sizeof *v);
    qw_guide(v, v, neg, 5, 64, 4, 1); /* in place */
    close_to("rescaled", v, scaled, n, 1e-14);
    memcpy(v, neg, (size_t)n * sizeof *v);
    qw_guide(v, pos, v, 5, 64, 4, 1);
    close_to("rescaled", v, scaled, n, 1e-14);
    const double zero[4] = { 0 };
    double w[4] = { 1, 1, 1, 1 };
    qw_guide(w, zero, zero, 1, 4, 4, 1);
    ck_assert(w[0] == 0 && w[3] == 0);
    free(v);
    free(scaled);
    free(plain);
    free(neg);
    free(pos);
    qw_store_free(s);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sampler");
    TCase *c = tcase_create("samplers");
    tcase_add_test(c, samplers_agree);
    tcase_add_test(c, samplers_refuse);
    tcase_add_test(c, guidance);
    suite_add_tcase(s, c);
    return run_suite(s);
}
