/* check_functions.c - exp and tanh of every cpu device, through ops whose result is one of them.
 *
 * Values are all finite bf16 codes; with QW_ALL_FLOATS in the environment, all finite floats (an hour).
 * Expected values are libm's in double precision; tolerances are the bounds of doc/numerics.md. */
#include <math.h>
#include <qwen/ref.h>
#include <string.h>
#include "conform/conform.h"
#include "testing.h"

enum { N = 1 << 16, MOST = 16 };

static char device_name[MOST][48];
static int devices;

static int note(void *user, const qw_listing *d, int is_default)
{
    (void)user, (void)is_default;
    if (!d->why_not[0] && !strncmp(d->name, "cpu:", 4) && devices < MOST)
        memcpy(device_name[devices++], d->name, sizeof d->name);
    return 0;
}

typedef struct values {
    float x[2 * N], y[N], one[N]; /* x: the values, then ones */
    int64_t n;
} values;

/* Part k of all floats: those whose upper half is k; part -1: all bf16 codes. */
static void fill(values *v, int k)
{
    v->n = 0;
    for (uint32_t i = 0; i < N; i++) {
        const uint32_t bits = k < 0 ? i << 16 : (uint32_t)k << 16 | i;
        float x;
        memcpy(&x, &bits, sizeof x);
        if (isfinite(x)) v->x[v->n++] = x;
        v->one[i] = 1;
    }
    for (int64_t i = 0; i < v->n; i++) v->x[v->n + i] = 1;
}

static double silu(double x) { return x / (1 + exp(-x)); }
static double gelu_erf(double x) { return x * 0.5 * erfc(-x * sqrt(0.5)); }
static double gelu_tanh(double x)
{
    const double t = sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x);
    return x / (1 + exp(-2 * t));
}
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

/* Every y of x is as f says, off by at most a |f(x)| + b |x|, and by what underflows. */
static void compare(const char *what, const values *v, double (*f)(double), double a, double b)
{
    for (int64_t i = 0; i < v->n; i++) {
        const double x = (double)v->x[i], want = f(x), got = (double)v->y[i];
        const double e = a * fabs(want) + b * fabs(x) + 0x1p-116;
        ck_assert_msg(fabs(got - want) <= e, "%s of %.9g is %.9g, not %.9g", what, x, got, want);
    }
}

static void *room_for(qw_device *d, enum qw_op op, const void *args)
{
    d->room_bytes = d->scratch ? d->scratch(d, op, args) : 0;
    return d->room = aligned_alloc(256, (d->room_bytes + 256) & ~(size_t)255);
}

static void check_swiglu(qw_device *d, values *v, double loss)
{
    const qw_swiglu_args a = { .y = qw_dense2(v->y, QW_F32, 1, v->n),
                               .x = qw_dense2(v->x, QW_F32, 1, 2 * v->n) };
    ck_assert_int_eq(d->op.swiglu(d, &a), QWEN_OK);
    compare("swiglu", v, silu, loss, 0);
}

static void check_norm(qw_device *d, values *v, double loss)
{
    const qw_rms_norm_args a = { .y = qw_dense2(v->y, QW_F32, 1, v->n),
                                 .x = qw_dense2(v->one, QW_F32, 1, v->n),
                                 .w = qw_dense1(v->x, QW_F32, v->n),
                                 .act = QW_SILU };
    ck_assert_int_eq(d->op.rms_norm(d, &a), QWEN_OK);
    compare("silu of rms_norm", v, silu, 0, loss);
}

static void check_act(qw_device *d, values *v, qw_act act, double (*f)(double), double loss)
{
    const qw_gemm_args a = { .y = qw_dense2(v->y, QW_F32, 1, v->n),
                             .x = qw_dense2(v->one, QW_F32, 1, 1),
                             .w = qw_dense2(v->x, QW_F32, v->n, 1),
                             .act = act };
    void *room = room_for(d, QW_OP_gemm, &a);
    ck_assert_int_eq(d->op.gemm(d, &a), QWEN_OK);
    compare(act == QW_SILU        ? "silu"
            : act == QW_GELU_TANH ? "gelu_tanh"
                                  : "gelu_erf",
            v, f, 0, loss);
    free(room);
}

/* Softmax of the scores 0 and x; the values are 0 and 1.  Floats do not tell scores beyond 2^29 apart. */
static void check_softmax(qw_device *d, values *v, double loss)
{
    float pair[2] = { 0, 1 };
    const qw_tensor keys = qw_dense3(pair, QW_F32, 2, 1, 1);
    const qw_attention_args a = { .y = qw_dense3(v->y, QW_F32, v->n, 1, 1),
                                  .q = qw_dense3(v->x, QW_F32, v->n, 1, 1),
                                  .k = keys,
                                  .v = keys,
                                  .scale = 1 };
    void *room = room_for(d, QW_OP_attention, &a);
    ck_assert_int_eq(d->op.attention(d, &a), QWEN_OK);
    /* A score is off by 3 roundings of itself; where it is large, so is 1 / e. */
    for (int64_t i = 0; i < v->n; i++) {
        const double x = (double)v->x[i], want = sigmoid(x), got = (double)v->y[i];
        if (fabs(x) > 0x1p29) continue;
        const double e = want * (2 * expm1(fmin(2 * 3 * 0x1p-24 * fabs(x), 700)) + loss) + 0x1p-116;
        ck_assert_msg(fabs(got - want) <= e, "softmax of 0 and %.9g is %.9g, not %.9g", x, got,
                      want);
    }
    free(room);
}

START_TEST(functions)
{
    if (_i >= devices) return;
    qw_device *d = NULL;
    qw_error e = { 0 };
    ck_assert_msg(!qw_device_open(device_name[_i], NULL, &d, &e), "%s", e.text);
    const double acc = 0x1p-24;
    values *v = malloc(sizeof *v);
    ck_assert_ptr_nonnull(v);
    const int all = getenv("QW_ALL_FLOATS") != NULL;
    for (int k = all ? 0 : -1; k < (all ? N : 0); k++) {
        fill(v, k);
        if (!v->n) continue;
        check_swiglu(d, v, (double)d->op.swiglu_arith.fun + 3 * acc);
        check_norm(d, v, (double)d->op.rms_norm_arith.fun + 6 * acc);
        const double fun = (double)d->op.gemm_arith.fun + 3 * acc;
        check_act(d, v, QW_SILU, silu, fun);
        check_act(d, v, QW_GELU_TANH, gelu_tanh, fun);
        check_act(d, v, QW_GELU_ERF, gelu_erf, fun);
        check_softmax(d, v, 4 * (double)d->op.attention_arith.fun + 8 * acc);
    }
    free(v);
    d->close(d);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("functions");
    TCase *c = tcase_create("functions");
    qw_device_list(note, NULL);
    tcase_set_timeout(c, getenv("QW_ALL_FLOATS") ? 1e5 : 100);
    suite_add_tcase(s, c);
    tcase_add_loop_test(c, functions, 0, MOST);
    return run_suite(s);
}
