/* check_rng.c - noise as PyTorch draws it on CPU and CUDA, and qw_log, qw_sin, qw_cos. */
#include "host/noise.h"
#include "testing.h"
#include "values.h"
#include <float.h>
#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    qw_dtype dtype;
    double roundoff;
} noise_type[] = { { "f32", QW_F32, 0 },
                   { "f64", QW_F64, 0 },
                   { "bf16", QW_BF16, 0x1p-8 },
                   { "f16", QW_F16, 0x1p-11 } };

static int64_t size_of(const json_t *shape)
{
    int64_t n = 1;
    for (size_t i = 0; i < json_array_size(shape); i++)
        n *= json_integer_value(json_array_get(shape, i));
    return n;
}

/* f32: 3e-7 of the largest value, f64 2e-15; the short types may differ by one place where the
 * float32 numbers lie on both sides of a rounding boundary, which is rare. */
static void noise_agrees(const char *what, int type, const double *got, const double *want,
                         int64_t n)
{
    if (!noise_type[type].roundoff) {
        close_to(what, got, want, n, noise_type[type].dtype == QW_F64 ? 2e-15 : 3e-7);
        return;
    }
    int64_t different = 0;
    for (int64_t i = 0; i < n; i++) {
        different += got[i] != want[i];
        ck_assert_msg(fabs(got[i] - want[i]) <= 2 * noise_type[type].roundoff * fabs(want[i]),
                      "%s[%lld] is %g, expected %g", what, (long long)i, got[i], want[i]);
    }
    ck_assert_msg(different <= 1 + n / 1000, "%s: %lld of %lld differ", what, (long long)different,
                  (long long)n);
}

static int type_of(const json_t *row)
{
    int type = 0;
    while (strcmp(noise_type[type].name, string(row, "dtype"))) type++;
    return type;
}

static double *draw(const char *name, uint64_t seed, qw_dtype dtype, int64_t n)
{
    qw_error err = { 0 };
    qw_rng g;
    double *const x = malloc((size_t)n * sizeof *x);
    ck_assert_ptr_nonnull(x);
    ck_assert_msg(!qw_rng_init(&g, name, seed, &err) && !qw_rng_normal(&g, dtype, n, x, &err), "%s",
                  err.text);
    return x;
}

START_TEST(noise_cpu)
{
    json_t *const all = read_json("units/noise.json"), *row;
    qw_store *const s = open_data("units/noise.safetensors");
    size_t i;
    json_array_foreach(json_object_get(all, "cpu"), i, row)
    {
        int64_t n;
        double *const want = values(s, string(row, "tensor"), &n);
        const int type = type_of(row);
        ck_assert_int_eq(n, size_of(json_object_get(row, "shape")));
        double *const got = draw(NULL, (uint64_t)json_integer_value(json_object_get(row, "seed")),
                                 noise_type[type].dtype, n);
        noise_agrees(string(row, "tensor"), type, got, want, n);
        free(got);
        free(want);
    }
    ck_assert_int_gt(i, 50);
    json_array_foreach(json_object_get(all, "old_bf16"), i, row)
    {
        int64_t n;
        double *const want = values(s, string(row, "tensor"), &n);
        double *const got = draw("torch-cpu-bf16-old",
                                 (uint64_t)json_integer_value(json_object_get(row, "seed")),
                                 QW_BF16, n);
        close_to(string(row, "tensor"), got, want, n, 0);
        free(got);
        free(want);
    }
    ck_assert_int_gt(i, 5);
    qw_store_free(s);
    json_decref(all);
}
END_TEST

START_TEST(noise_latents) /* every 997th value, the last 16, and sums */
{
    json_t *const all = read_json("units/noise.json"), *row;
    qw_store *const s = open_data("units/noise.safetensors");
    size_t i;
    json_array_foreach(json_object_get(all, "strided"), i, row)
    {
        int64_t n;
        double *const want = values(s, string(row, "tensor"), &n), sum = 0, square = 0;
        const int type = type_of(row);
        const int64_t count = size_of(json_object_get(row, "shape")), strided = (count + 996) / 997;
        ck_assert_int_eq(n, strided + 16);
        double *const got = draw("torch-cpu",
                                 (uint64_t)json_integer_value(json_object_get(row, "seed")),
                                 noise_type[type].dtype, count);
        for (int64_t k = 0; k < count; k++) {
            sum += got[k];
            square += got[k] * got[k];
        }
        /* One bfloat16 that fell on the other side of a boundary moves the sum by up to 2^-6. */
        const double slack = noise_type[type].roundoff ? 0.1 : 0;
        ck_assert_double_eq_tol(sum, number(row, "sum"), 1e-8 * (double)count + slack);
        ck_assert_double_eq_tol(square, number(row, "sum_of_squares"),
                                1e-7 * (double)count + 4 * slack);
        for (int64_t k = 0; k < strided; k++) got[k] = got[997 * k];
        memmove(got + strided, got + count - 16, 16 * sizeof *got);
        noise_agrees(string(row, "tensor"), type, got, want, n);
        free(got);
        free(want);
    }
    ck_assert_int_gt(i, 10);
    qw_store_free(s);
    json_decref(all);
}
END_TEST

START_TEST(noise_sequences)
{
    json_t *const all = read_json("units/noise.json"), *row;
    qw_store *const s = open_data("units/noise.safetensors");
    size_t i, k;
    json_array_foreach(json_object_get(all, "sequences"), i, row)
    {
        int64_t n, at = 0;
        double *const want = values(s, string(row, "tensor"), &n), *const got = calloc((size_t)n,
                                                                                       sizeof *got);
        qw_error err = { 0 };
        qw_rng g;
        json_t *size;
        ck_assert(!qw_rng_init(&g, NULL, (uint64_t)json_integer_value(json_object_get(row, "seed")),
                               &err));
        json_array_foreach(json_object_get(row, "sizes"), k, size)
        {
            ck_assert(!qw_rng_normal(&g, QW_F32, json_integer_value(size), got + at, &err));
            at += json_integer_value(size);
        }
        ck_assert_int_eq(at, n);
        close_to(string(row, "tensor"), got, want, n, 3e-7);
        free(got);
        free(want);
    }
    json_array_foreach(json_object_get(all, "comfyui"), i, row)
    { /* without batch_index: one draw; with: the i-th */
        const json_t *const index = json_object_get(row, "batch_index");
        int64_t n;
        double *const want = values(s, string(row, "tensor"), &n);
        const uint64_t seed = (uint64_t)json_integer_value(json_object_get(row, "seed"));
        const int64_t batch = json_integer_value(json_array_get(json_object_get(row, "shape"), 0)),
                      one = n / batch;
        if (json_is_null(index)) {
            double *const got = draw(NULL, seed, QW_F32, n);
            close_to(string(row, "tensor"), got, want, n, 3e-7);
            free(got);
        }
        for (size_t b = 0; b < json_array_size(index); b++) {
            qw_error err = { 0 };
            qw_rng g;
            double *const got = malloc((size_t)one * sizeof *got);
            ck_assert(got && !qw_rng_init(&g, NULL, seed, &err));
            for (int64_t d = 0; d <= json_integer_value(json_array_get(index, b)); d++)
                ck_assert(!qw_rng_normal(&g, QW_F32, one, got, &err));
            close_to(string(row, "tensor"), got, want + (int64_t)b * one, one, 3e-7);
            free(got);
        }
        free(want);
    }
    qw_store_free(s);
    json_decref(all);
}
END_TEST

START_TEST(noise_cuda)
{
    json_t *const all = read_json("units/noise.json"), *row;
    qw_store *const s = open_data("units/noise.safetensors");
    size_t i;
    json_array_foreach(json_object_get(all, "cuda"), i, row)
    {
        int64_t n;
        double *const want = values(s, string(row, "tensor"), &n), *const got = malloc(
                                                                       (size_t)n * sizeof *got);
        qw_error err = { 0 };
        qw_rng g;
        char name[64];
        snprintf(name, sizeof name, "torch-cuda:%lld",
                 (long long)json_integer_value(json_object_get(row, "threads")));
        ck_assert(!qw_rng_init(&g, name, (uint64_t)json_integer_value(json_object_get(row, "seed")),
                               &err));
        g.offset = (uint64_t)json_integer_value(json_object_get(row, "offset"));
        ck_assert_msg(!qw_rng_normal(&g, QW_F32, n, got, &err), "%s", err.text);
        close_to(string(row, "tensor"), got, want, n, 3e-7);
        ck_assert_uint_eq(g.offset,
                          (uint64_t)json_integer_value(json_object_get(row, "next_offset")));
        free(got);
        free(want);
    }
    ck_assert_int_eq(i, 7);
    qw_store_free(s);
    json_decref(all);
    static const struct {
        const char *name;
        uint64_t threads;
    } card[] = { { "torch-cuda:a100", 221184 },
                 { "torch-cuda:h100", 270336 },
                 { "torch-cuda:4090", 196608 },
                 { "torch-cuda:3090", 125952 },
                 { "torch-cuda:512", 512 } };
    static const char *const wrong[] = {
        "torch",        "torch-cuda:",     "torch-cuda:100",
        "torch-cuda:0", "torch-cuda:gtx",  "torch-cuda:99999999999999999999",
        "torch-cudax",  "torch-cuda:-256", ""
    };
    for (i = 0; i < sizeof card / sizeof *card; i++) {
        qw_error err = { 0 };
        qw_rng g;
        ck_assert_int_eq(qw_rng_init(&g, card[i].name, 0, &err), QWEN_OK);
        ck_assert_uint_eq(g.threads, card[i].threads);
    }
    for (i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        qw_error err = { 0 };
        qw_rng g;
        ck_assert_msg(qw_rng_init(&g, wrong[i], 0, &err) == QWEN_EARG, "%s", wrong[i]);
    }
}
END_TEST

#define ELEMENTARY_SUM (-0x1.2d58a3fc21e46p-1)
/* Against libm's long double: below one unit in the last place. */
START_TEST(elementary)
{
    uint64_t state = 1;
    for (int i = 0; i < 200000; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        const double u = (double)(state >> 11) * 0x1p-53,
                     x = i % 3 ? u * 6.2831853071795862 : (u - 0.5) * 2e6;
        const double p = i % 2 ? 1 - u : ldexp(u + 1, (int)(state % 600) - 300);
        const long double l = logl(p), s = sinl(x), c = cosl(x);
        int e;
        if (LDBL_MANT_DIG <= DBL_MANT_DIG) break;
        ck_assert_msg(fabsl(qw_log(p) - l) <= ldexpl(1, (frexpl(l, &e), e - 53)), "log %a", p);
        ck_assert_msg(fabsl(qw_sin(x) - s) <= ldexpl(1, (frexpl(s, &e), e - 53)), "sin %a", x);
        ck_assert_msg(fabsl(qw_cos(x) - c) <= ldexpl(1, (frexpl(c, &e), e - 53)), "cos %a", x);
    }
    ck_assert(qw_log(1) == 0 && qw_log(0) == -HUGE_VAL && isnan(qw_log(-1))
              && isnan(qw_log((double)NAN)));
    ck_assert(qw_log(HUGE_VAL) == HUGE_VAL && qw_sin(0) == 0 && qw_cos(0) == 1);
    ck_assert(isnan(qw_sin(HUGE_VAL)) && isnan(qw_cos((double)NAN)) && isnan(qw_sin(0x1p21)));
    ck_assert_double_eq_tol(qw_log(0x1p-1074), -744.44007192138126, 1e-12);
    /* A running sum of all three, with the same bits on every machine. */
    double sum = 0;
    for (int i = 1; i <= 100000; i++)
        sum = 0.5 * sum + qw_log(i * 0x1p-17) + qw_sin(i * 0x1p-14) * qw_cos(i * 0x1p-11);
    ck_assert_msg(sum == ELEMENTARY_SUM, "%a", sum);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rng");
    TCase *c = tcase_create("noise");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, noise_cpu);
    tcase_add_test(c, noise_latents);
    tcase_add_test(c, noise_sequences);
    tcase_add_test(c, noise_cuda);
    tcase_add_test(c, elementary);
    suite_add_tcase(s, c);
    return run_suite(s);
}
