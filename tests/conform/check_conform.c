/* check_conform.c - the quick set of conformance on the reference devices, and devices with a fault
 * each that it must catch.
 *
 * The second half has devices with one common mistake each, which must fail, and beside each the
 * same code without the mistake, which must pass. */
#include "conform/conform.h"
#include "testing.h"
#include <math.h>
#include <string.h>

static qw_device *open_device(const char *name)
{
    qw_device *d = NULL;
    qw_error e = { 0 };
    ck_assert_msg(!qw_device_open(name, &(qw_device_options){ .threads = 1 }, &d, &e), "%s",
                  e.text);
    return d;
}

static const char *const judged[] = { "ref", "ref:bf16", "ref:int8" };
enum { JUDGED = 3 };

/* --- the quick set ------------------------------------------------------------------------- */

/* Case i of an op, its keys by turns. */
static void draw(qw_case *c, enum qw_op op, int i, uint64_t seed, double flops)
{
    int keys = 0;
    while (qw_case_key(op, keys)) keys++;
    qw_case_draw(c, op, qw_case_key(op, i % keys), i / keys, seed, flops);
}

static void must_pass(qw_device *d, qw_device *oracle, const qw_case *c)
{
    qw_verdict v;
    char line[400];
    qw_judge(d, oracle, c, &v);
    qw_case_print(c, line, sizeof line);
    ck_assert_msg(v.outcome == QW_PASSED, "%s %s: %s", d->name, line,
                  v.outcome == QW_DECLINED ? "the reference declined" : v.why);
}

static int must_have_passed(void *user, const qw_case *c, const qw_verdict *v)
{
    char line[400];
    qw_case_print(c, line, sizeof line);
    ck_assert_msg(v->outcome == QW_PASSED, "%s: %s", line,
                  v->outcome == QW_DECLINED ? "the reference declined" : v->why);
    ++*(int *)user;
    return 0;
}

/* Borders, random and deep shapes by turns, all fills and types; _i counts (device, op). */
START_TEST(quick)
{
    const enum qw_op op = (enum qw_op)(_i % QW_NOPS);
    qw_device *d = open_device(judged[_i / QW_NOPS]), *oracle = open_device("ref64");
    int keys = 0, passed = 0;
    while (qw_case_key(op, keys)) keys++;
    const int asked = keys > 3 ? 6 : 40;
    for (int k = 0; k < keys; k++)
        qw_judge_key(d, oracle, op, qw_case_key(op, k), asked, 0x5eed, 4e4, must_have_passed,
                     &passed);
    ck_assert_int_eq(passed, keys * asked);
    d->close(d);
    oracle->close(oracle);
}
END_TEST

/* Every weight type in every fill, with every kind of scale it may have. */
START_TEST(weights)
{
    static const qw_dtype type[] = {
        QW_F32,   QW_F16,     QW_BF16,   QW_F8E4M3, QW_F8E5M2,  QW_I8,    QW_Q8_0,
        QW_Q4_0,  QW_Q4_1,    QW_Q5_0,   QW_Q5_1,   QW_Q2_K,    QW_Q3_K,  QW_Q4_K,
        QW_Q5_K,  QW_Q6_K,    QW_IQ4_NL, QW_IQ4_XS, QW_MXFP8,   QW_NVFP4, QW_IQ1_S,
        QW_IQ1_M, QW_IQ2_XXS, QW_IQ2_XS, QW_IQ2_S,  QW_IQ3_XXS, QW_IQ3_S,
    };
    qw_device *d = open_device("ref"), *oracle = open_device("ref64");
    for (size_t i = 0; i < sizeof type / sizeof type[0]; i++)
        for (int scales = 0; scales < (type[i] >= QW_F8E4M3 && type[i] <= QW_I8 ? 3 : 1);
             scales++) {
            const qw_case c = { .op = QW_OP_gemm,
                                .dtype = { _i % 2 ? QW_BF16 : QW_F32, type[i], QW_F32, QW_F32 },
                                .dim = { 3, 130, type[i] >= QW_Q8_0 ? 512 : 100 },
                                .has = QW_HAS_BIAS,
                                .stride = 1,
                                .up = 1,
                                .eps = 1e-6,
                                .x2 = QW_F32,
                                .w2 = QW_F32,
                                .scales = scales,
                                .fill = (qw_fill)_i,
                                .seed = 100 + (uint64_t)i };
            must_pass(d, oracle, &c);
        }
    d->close(d);
    oracle->close(oracle);
}
END_TEST

/* Lines that matter: head 80, key ranges, strided and enlarging convolutions, quantised rows, real
 * files' shapes. */
static const char *const chosen[] = {
    "attention/bf16/-/37x37x4x2x80/hard/1",
    "attention/bf16,bf16,bf16,f32/causal/33x65x4x2x128/hard/2",
    "attention/f32/windows=16/70x70x2x2x80/normal/3",
    "attention/f32/ranges/20x200x3x1x64/hard/4",
    "attention/f16/-/5x300x1x1x384/exact/5",
    "attention/f32/-/9x513x2x1x32/hard/6",
    "conv2d/bf16/bias,stride=2/8x9x6x17x19x5x3x3/normal/1",
    "conv2d/f32/bias,stride=2/8x8x6x16x16x5x3x3/hard/2",
    "conv2d/f32/bias,res,up=2,top=1,left=1/12x14x3x6x7x8x3x3/exact/3",
    "conv2d/bf16,bf16,f32/bias,up=2,top=1,left=1/6x6x3x3x3x8x3x3/hard/4",
    "conv2d/f16/bias,inplace/5x5x7x5x5x9x1x1/exact/5",
    "gemm/i8,i8,f32/scale=row,bias/9x33x96/normal/1",
    "gemm/i8,i8,bf16/scale=one,inplace/9x33x96/exact/2",
    "gemm/bf16,nvfp4,f32/bias,gate,inplace/7x40x64/hard/3",
    "gemm/bf16,mxfp8,f32/bias,gelu_tanh/7x40x64/normal/4",
    "gemm/bf16,q4_k,f32/gate,res,lora=16,w2=f32/5x9x256/normal/5",
    "gemm/f32/silu/70x1x129/hard/6",
    "gemm/f32,bf16/gelu_erf,bias/3x64x3/exact/7",
    "convert/bf16,i8/rotate=256/4x512/hard/1",
    "convert/f32,i8/-/6x127/exact/2",
    "convert/f32,bf16,f32/rotate=16,res/5x64/exact/3",
    "convert/q6_k,bf16/-/3x256/normal/4",
    "convert/bf16,f32/inplace/9x70/hard/5",
    "norm_rope/bf16/halves,norm/9x3x80/hard/1",
    "norm_rope/f32/pairs/9x3x128/exact/2",
    "rms_norm/f32,bf16/silu/9x96/hard/1",
    "ln_mod/f32,bf16/scale,shift/5x3072/hard/1",
    "swiglu/bf16/-/5x3420/hard/1",
};
enum { CHOSEN = sizeof chosen / sizeof chosen[0] };

START_TEST(chosen_lines)
{
    qw_case c;
    char why[300];
    ck_assert_msg(!qw_case_parse(&c, chosen[_i], why, sizeof why), "%s: %s", chosen[_i], why);
    for (int i = 0; i < JUDGED; i++) {
        qw_device *d = open_device(judged[i]), *oracle = open_device("ref64");
        must_pass(d, oracle, &c);
        d->close(d);
        oracle->close(oracle);
    }
}
END_TEST

START_TEST(devices_themselves)
{
    static const char *const name[] = { "ref", "ref64", "ref:bf16", "ref:int8" };
    qw_device *d = open_device(name[_i]);
    qw_verdict v;
    qw_judge_device(d, &v);
    ck_assert_msg(v.outcome == QW_PASSED, "%s: %s", d->name, v.why);
    d->close(d);
}
END_TEST

/* --- a case is a line ---------------------------------------------------------------------- */

START_TEST(line_and_back)
{
    for (int i = 0; i < 200; i++) {
        qw_case a, b;
        char first[400], second[400], why[300] = "";
        draw(&a, (enum qw_op)_i, i, 7, 1e5);
        qw_case_print(&a, first, sizeof first);
        ck_assert_msg(!qw_case_parse(&b, first, why, sizeof why), "%s: %s", first, why);
        qw_case_print(&b, second, sizeof second);
        ck_assert_str_eq(first, second);
        qw_material ma, mb; /* the same bytes, too */
        ck_assert_int_eq(qw_material_make(&ma, &a, QW_F32), QWEN_OK);
        ck_assert_int_eq(qw_material_make(&mb, &b, QW_F32), QWEN_OK);
        for (int k = 0; k < ma.n; k++) {
            ck_assert_uint_eq(ma.d[k].bytes, mb.d[k].bytes);
            ck_assert_msg(!ma.d[k].bytes || !memcmp(ma.d[k].image, mb.d[k].image, ma.d[k].bytes),
                          "%s: %s", first, ma.d[k].operand->name);
        }
        qw_material_free(&ma);
        qw_material_free(&mb);
    }
}
END_TEST

START_TEST(bad_lines)
{
    static const char *const bad[] = {
        "",
        "gemm",
        "gemm/f32",
        "gemm/f32/-",
        "gem/f32/-/1x2x3",
        "gemm/f33/-/1x2x3",
        "gemm/f32/what/1x2x3",
        "gemm/f32/-/1x2",
        "gemm/f32/-/1x2x3x4",
        "gemm/f32/-/1x0x3",
        "gemm/f32/-/1x2x3/soft/1",
        "gemm/f32/-/1x2x3/hard/g",
        "gemm/f32/lora=-1/1x2x3",
        "gemm/f32,f32,f32,f32,f32/-/1x2x3",
        "gemm/f32,q8_0/-/1x2x33",
        "attention/f32/-/1x1x3x2x8",
        "attention/f32/causal/5x3x1x1x8",
        "convert/f32/rotate=8/1x64",
        "norm_rope/f32/pairs/1x1x3",
        "rms_norm/f32/eps=x/1x1",
        "conv2d/f32/up=3/1x1x1x1x1x1x1x1",
        "gemm//-/1x2x3",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        qw_case c;
        char why[300] = "";
        ck_assert_msg(qw_case_parse(&c, bad[i], why, sizeof why) != 0, "%s is taken", bad[i]);
        ck_assert_msg(why[0], "no reason for %s", bad[i]);
    }
}
END_TEST

/* The lines of the published models parse, and can be cut down. */
START_TEST(model_shapes)
{
    const char *src = getenv("srcdir");
    char path[1024], line[400], why[300];
    snprintf(path, sizeof path, "%s/conform/shapes/%s", src && *src ? src : ".",
             (const char *[]){ "transformer.txt", "text.txt", "vision.txt", "vae.txt" }[_i]);
    FILE *f = fopen(path, "r");
    ck_assert_msg(f != NULL, "%s", path);
    int n = 0;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, " \t\r\n#")] = 0;
        if (!line[0]) continue;
        qw_case c, again;
        ck_assert_msg(!qw_case_parse(&c, line, why, sizeof why), "%s: %s", line, why);
        qw_case_shrink(&c, 1e6);
        char small[400];
        qw_case_print(&c, small, sizeof small);
        ck_assert_msg(!qw_case_parse(&again, small, why, sizeof why), "%s from %s: %s", small, line,
                      why);
        n++;
    }
    fclose(f);
    ck_assert_int_ge(n, 5);
}
END_TEST

/* --- saboteurs ----------------------------------------------------------------------------- */

static const qw_arith single = { .acc = 0x1p-24f, .mid = 0x1p-24f, .fun = 0x1p-22f, .row = 0 };

/* A device like ref that promises float32. */
static qw_device *open_single(void)
{
    qw_device *d = open_device("ref");
#define X(name) d->op.name##_arith = single;
    QW_OPS(X)
#undef X
    return d;
}

typedef struct count {
    int failures, passed;
    char *why; /* [size]: the first failure */
    size_t size;
} count;

static int count_verdict(void *user, const qw_case *c, const qw_verdict *v)
{
    count *n = user;
    char line[400];
    qw_case_print(c, line, sizeof line);
    n->passed += v->outcome == QW_PASSED;
    if (v->outcome == QW_FAILED && !n->failures++)
        snprintf(n->why, n->size, "%s: %s", line, v->why);
    return 0;
}

/* The number of failures on d among n judged cases of an op with f32, bf16 and f16. */
static int caught(qw_device *d, enum qw_op op, int n, double flops, char *why, size_t size)
{
    qw_device *oracle = open_device("ref64");
    count all = { 0, 0, why, size };
    for (int k = 0; k < 3; k++)
        qw_judge_key(d, oracle, op, qw_case_key(op, k), n / 3, 0xbad, flops, count_verdict, &all);
    oracle->close(oracle);
    d->close(d);
    if (!all.failures && !all.passed) snprintf(why, size, "nothing was judged");
    return all.failures;
}

static void is_caught(qw_device *d, enum qw_op op, double flops)
{
    char why[900] = "";
    ck_assert_msg(caught(d, op, 90, flops, why, sizeof why) > 0, "not caught %s", why);
}

static void is_innocent(qw_device *d, enum qw_op op, double flops)
{
    char why[900] = "";
    ck_assert_msg(caught(d, op, 90, flops, why, sizeof why) == 0 && !why[0], "%s", why);
}

static float at1(const qw_tensor *t, int64_t i, float absent)
{
    return qw_present(t) ? ((const float *)t->data)[i] : absent;
}

static float *row1(const qw_tensor *t, int64_t i) { return (float *)t->data + i * t->stride[0]; }

static int all_f32(const qw_tensor *const *t, int n)
{
    for (int i = 0; i < n; i++)
        if (qw_present(t[i]) && t[i]->dtype != QW_F32) return 0;
    return 1;
}

/* gemm in float32, one sum after the other; the members select a fault. */
typedef enum gemm_mistake {
    GEMM_RIGHT,
    GEMM_DROPS_ONE,
    GEMM_BF16_OPERANDS,
    GEMM_NO_BIAS
} gemm_mistake;

static int gemm_f32(const qw_gemm_args *a, gemm_mistake how)
{
    const qw_tensor *const t[] = { &a->y, &a->x, &a->w, &a->res };
    if (!all_f32(t, 4) || a->act || qw_present(&a->x2) || a->w.scale || (uintptr_t)a->w.data % 4)
        return QW_DECLINE;
    for (int64_t i = 0; i < a->y.dim[0]; i++)
        for (int64_t j = 0; j < a->y.dim[1]; j++) {
            const float *x = row1(&a->x, i), *w = row1(&a->w, j);
            float s = 0;
            for (int64_t l = 0; l < a->x.dim[1]; l++) {
                if (how == GEMM_DROPS_ONE && l == a->x.dim[1] / 2) continue;
                s += how == GEMM_BF16_OPERANDS ? qw_bf16_to_f32(qw_f32_to_bf16(x[l]))
                                                     * qw_bf16_to_f32(qw_f32_to_bf16(w[l]))
                                               : x[l] * w[l];
            }
            if (how != GEMM_NO_BIAS) s += at1(&a->bias, j, 0);
            const float res = qw_present(&a->res) ? row1(&a->res, i)[j] : 0;
            row1(&a->y, i)[j] = res + at1(&a->gate, j, 1) * s;
        }
    return QWEN_OK;
}

static int gemm_right(qw_device *d, const qw_gemm_args *a)
{
    (void)d;
    return gemm_f32(a, GEMM_RIGHT);
}
static int gemm_drops_one(qw_device *d, const qw_gemm_args *a)
{
    (void)d;
    return gemm_f32(a, GEMM_DROPS_ONE);
}
static int gemm_bf16(qw_device *d, const qw_gemm_args *a)
{
    (void)d;
    return gemm_f32(a, GEMM_BF16_OPERANDS);
}
static int gemm_no_bias(qw_device *d, const qw_gemm_args *a)
{
    (void)d;
    return gemm_f32(a, GEMM_NO_BIAS);
}

START_TEST(gemm)
{
    static int (*const bad[])(qw_device *, const qw_gemm_args *) = { gemm_drops_one, gemm_bf16,
                                                                     gemm_no_bias };
    qw_device *d = open_single();
    d->op.gemm = gemm_right;
    is_innocent(d, QW_OP_gemm, 1e5);
    for (int i = 0; i < 3; i++) {
        d = open_single();
        d->op.gemm = bad[i];
        is_caught(d, QW_OP_gemm, 1e5);
    }
}
END_TEST

/* One dropped product of 12288 with a bf16 result lies within any derived tolerance; the exact fill
 * shows it. */
static int gemm_drops_bf16(qw_device *d, const qw_gemm_args *a)
{
    (void)d;
    if (a->x.dtype != QW_BF16 || a->w.dtype != QW_BF16 || a->y.dtype != QW_BF16
        || (uintptr_t)a->w.data % 2)
        return QW_DECLINE;
    for (int64_t i = 0; i < a->y.dim[0]; i++)
        for (int64_t j = 0; j < a->y.dim[1]; j++) {
            const uint16_t *x = (const uint16_t *)a->x.data + i * a->x.stride[0];
            const uint16_t *w = (const uint16_t *)a->w.data + j * a->w.stride[0];
            float s = 0;
            for (int64_t l = 0; l < a->x.dim[1]; l++)
                if (l != 7777) s += qw_bf16_to_f32(x[l]) * qw_bf16_to_f32(w[l]);
            ((uint16_t *)a->y.data)[i * a->y.stride[0] + j] = qw_f32_to_bf16(s);
        }
    return QWEN_OK;
}

START_TEST(exact_sees)
{
    qw_device *d = open_single(), *oracle = open_device("ref64");
    d->op.gemm = gemm_drops_bf16;
    int seen[QW_NFILLS] = { 0 };
    for (int seed = 0; seed < 8; seed++)
        for (int f = 0; f < 2; f++) {
            qw_case c;
            qw_verdict v;
            char why[300];
            ck_assert(!qw_case_parse(&c, "gemm/bf16/-/2x16x12288", why, sizeof why));
            c.fill = (qw_fill)f;
            c.seed = (uint64_t)seed * 2;
            qw_judge(d, oracle, &c, &v);
            seen[f] += v.outcome == QW_FAILED;
        }
    ck_assert_int_gt(seen[QW_EXACT], 0);
    d->close(d);
    oracle->close(oracle);
}
END_TEST

/* Online softmax in float32 over tiles of 16 keys; `forget`: sums are rescaled, the values are not.
 */
static int attention_f32(const qw_attention_args *a, int forget)
{
    const qw_tensor *const t[] = { &a->y, &a->q, &a->k, &a->v };
    if (!all_f32(t, 4)) return QW_DECLINE;
    const int64_t d = a->q.dim[2], group = a->q.dim[1] / a->k.dim[1];
    float *acc = malloc((size_t)d * sizeof *acc);
    if (!acc) return QWEN_ENOMEM;
    for (int64_t i = 0; i < a->q.dim[0] * a->q.dim[1]; i++) {
        const int64_t n = i / a->q.dim[1], h = i % a->q.dim[1];
        const float *q = qw_at(&a->q, n, h, 0, 0);
        float most = -INFINITY, total = 0;
        const int64_t last = a->last ? a->last[n] : a->k.dim[0];
        for (int64_t c = 0; c < d; c++) acc[c] = 0;
        for (int64_t j = a->first ? a->first[n] : 0; j < last; j++) {
            const float *k = qw_at(&a->k, j, h / group, 0, 0),
                        *v = qw_at(&a->v, j, h / group, 0, 0);
            float s = 0;
            for (int64_t c = 0; c < d; c++) s += q[c] * k[c];
            s *= (float)a->scale;
            if (s > most) {
                const float by = expf(most - s);
                total *= by;
                for (int64_t c = 0; c < d && !(forget && j % 16 == 0); c++) acc[c] *= by;
                most = s;
            }
            const float p = expf(s - most);
            total += p;
            for (int64_t c = 0; c < d; c++) acc[c] += p * v[c];
        }
        for (int64_t c = 0; c < d; c++) ((float *)qw_at(&a->y, n, h, 0, 0))[c] = acc[c] / total;
    }
    free(acc);
    return QWEN_OK;
}

static int attention_right(qw_device *d, const qw_attention_args *a)
{
    (void)d;
    return attention_f32(a, 0);
}
static int attention_forgets(qw_device *d, const qw_attention_args *a)
{
    (void)d;
    return attention_f32(a, 1);
}

START_TEST(attention)
{
    qw_device *d = open_single();
    d->op.attention = attention_right;
    is_innocent(d, QW_OP_attention, 1e5);
    d = open_single();
    d->op.attention = attention_forgets;
    is_caught(d, QW_OP_attention, 1e5);
}
END_TEST

static int ln_f32(const qw_ln_mod_args *a, int one_pass)
{
    const qw_tensor *const t[] = { &a->y, &a->x };
    if (!all_f32(t, 2)) return QW_DECLINE;
    const int64_t n = a->x.dim[1];
    for (int64_t i = 0; i < a->x.dim[0]; i++) {
        const float *x = row1(&a->x, i);
        float mean = 0, var = 0;
        for (int64_t j = 0; j < n; j++) mean += x[j], var += one_pass ? x[j] * x[j] : 0;
        mean /= (float)n;
        float sum = 0;
        for (int64_t j = 0; j < n && !one_pass; j++) sum += (x[j] - mean) * (x[j] - mean);
        var = one_pass ? var / (float)n - mean * mean : sum / (float)n;
        const float r = 1 / sqrtf((var > 0 ? var : 0) + (float)a->eps);
        for (int64_t j = 0; j < n; j++)
            row1(&a->y, i)[j] = (x[j] - mean) * r * (1 + at1(&a->scale, j, 0))
                                + at1(&a->shift, j, 0);
    }
    return QWEN_OK;
}

static int ln_right(qw_device *d, const qw_ln_mod_args *a)
{
    (void)d;
    return ln_f32(a, 0);
}
static int ln_one_pass(qw_device *d, const qw_ln_mod_args *a)
{
    (void)d;
    return ln_f32(a, 1);
}

START_TEST(ln_mod)
{
    qw_device *d = open_single();
    d->op.ln_mod = ln_right;
    is_innocent(d, QW_OP_ln_mod, 1e5);
    d = open_single();
    d->op.ln_mod = ln_one_pass;
    is_caught(d, QW_OP_ln_mod, 1e5);
}
END_TEST

/* swiglu in float32, with faults other than wrong numbers. */
typedef enum manner {
    POLITE,
    WRITES_BEYOND,
    LEAVES_ONE,
    CHANGES_INPUT,
    FLICKERS,
    DECLINES_LATE,
    ALL_ZERO,
    FAILS
} manner;
static manner manners;

static int swiglu_f32(qw_device *d, const qw_swiglu_args *a)
{
    static int calls;
    const qw_tensor *const t[] = { &a->y, &a->x };
    (void)d;
    if (!all_f32(t, 2)) return QW_DECLINE;
    const int64_t m = a->y.dim[0], n = a->y.dim[1];
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            const float x = row1(&a->x, i)[j], g = x / (1 + expf(-x));
            if (manners != LEAVES_ONE || i != m - 1 || j != n - 1)
                row1(&a->y, i)[j] = g * row1(&a->x, i)[n + j];
            if (manners == ALL_ZERO) row1(&a->y, i)[j] = 0;
        }
    if (manners == WRITES_BEYOND) row1(&a->y, m - 1)[n] = 0;
    if (manners == CHANGES_INPUT) row1(&a->x, 0)[0] += 1;
    if (manners == FLICKERS && calls++ % 2)
        row1(&a->y, 0)[0] = nextafterf(row1(&a->y, 0)[0], INFINITY);
    return manners == DECLINES_LATE ? QW_DECLINE : manners == FAILS ? QWEN_EDEVICE : QWEN_OK;
}

START_TEST(behaviour)
{
    static const char *const must_say[] = { "",           "outside its elements",
                                            "",           "input x was changed",
                                            "other bits", "declined, but wrote",
                                            "",           "failed" };
    manners = (manner)_i;
    qw_device *d = open_single();
    d->op.swiglu = swiglu_f32;
    char why[900] = "";
    const int n = caught(d, QW_OP_swiglu, 30, 1e4, why, sizeof why);
    if (_i == POLITE) ck_assert_msg(n == 0, "%s", why);
    else ck_assert_msg(n > 0 && strstr(why, must_say[_i]), "%d: \"%s\"", n, why);
}
END_TEST

/* An elementwise mistake in each other op. */
static qw_device *plain_ref;

static int conv2d_wrong(qw_device *d, const qw_conv2d_args *a)
{
    qw_conv2d_args b = *a;
    (void)d;
    if (b.left > 0) b.left--; /* the picture shifted by a pixel */
    return plain_ref->op.conv2d(plain_ref, &b);
}

static int rms_norm_wrong(qw_device *d, const qw_rms_norm_args *a)
{
    qw_rms_norm_args b = *a;
    (void)d;
    b.eps = a->eps * 10; /* visible in rows of small numbers, or in the last bits */
    return plain_ref->op.rms_norm(plain_ref, &b);
}

static int norm_rope_wrong(qw_device *d, const qw_norm_rope_args *a)
{
    qw_norm_rope_args b = *a;
    (void)d;
    b.pairing = a->pairing == QW_PAIRS ? QW_HALVES : QW_PAIRS;
    return plain_ref->op.norm_rope(plain_ref, &b);
}

static int convert_wrong(qw_device *d, const qw_convert_args *a)
{
    qw_convert_args b = *a;
    (void)d;
    b.rotate = 0;
    return plain_ref->op.convert(plain_ref, &b);
}

START_TEST(other_ops)
{
    static const enum qw_op op[] = { QW_OP_conv2d, QW_OP_rms_norm, QW_OP_norm_rope, QW_OP_convert };
    plain_ref = open_device("ref");
    qw_device *d = open_single();
    d->op.conv2d = conv2d_wrong;
    d->op.rms_norm = rms_norm_wrong;
    d->op.norm_rope = norm_rope_wrong;
    d->op.convert = convert_wrong;
    is_caught(d, op[_i], 3e4);
    plain_ref->close(plain_ref);
}
END_TEST

/* A promise above the ceiling fails. */
START_TEST(promises)
{
    qw_device *d = open_single(), *oracle = open_device("ref64");
    qw_case c;
    qw_verdict v;
    char why[300];
    ck_assert(!qw_case_parse(&c, "gemm/f32/-/3x4x5", why, sizeof why));
    d->op.gemm_arith.acc = 0.1f;
    qw_judge(d, oracle, &c, &v);
    ck_assert_int_eq(v.outcome, QW_FAILED);
    ck_assert_ptr_nonnull(strstr(v.why, "promises acc"));
    d->op.gemm_arith = single;
    d->op.gemm_arith.mul[0] = NAN;
    qw_judge(d, oracle, &c, &v);
    ck_assert_int_eq(v.outcome, QW_FAILED);
    d->close(d);
    oracle->close(oracle);
}
END_TEST

/* Memory that is not aligned, a copy that loses its last byte, a clock that runs away. */
static int crooked_alloc(qw_device *d, size_t bytes, void **out)
{
    (void)d;
    char *p = malloc(bytes + 64);
    *out = p ? p + 16 : NULL;
    return p ? QWEN_OK : QWEN_ENOMEM;
}

static void crooked_free(qw_device *d, void *p)
{
    (void)d;
    if (p) free((char *)p - 16);
}

static int short_put(qw_device *d, int queue, void *dst, const void *src, size_t bytes)
{
    (void)d;
    (void)queue;
    memcpy(dst, src, bytes > 4 ? bytes & ~(size_t)3 : bytes);
    return QWEN_OK;
}

static int wild_lapse(qw_device *d, uint64_t from, uint64_t to, double *seconds)
{
    (void)d;
    (void)from;
    (void)to;
    *seconds = 60;
    return QWEN_OK;
}

START_TEST(device_mistakes)
{
    qw_device *d = open_single();
    if (_i == 0) d->alloc = crooked_alloc, d->free = crooked_free;
    if (_i == 1) d->put = short_put;
    if (_i == 2) d->lapse = wild_lapse;
    if (_i == 3) d->prefer = QW_F16;
    qw_verdict v;
    qw_judge_device(d, &v);
    ck_assert_int_eq(v.outcome, QW_FAILED);
    ck_assert_ptr_nonnull(
        strstr(v.why, (const char *[]){ "aligned", "did not arrive", "lapse", "prefers" }[_i]));
    d->close(d);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("conform");
    TCase *t = tcase_create("quick set"), *u = tcase_create("harness");
    tcase_set_timeout(t, 120);
    tcase_set_timeout(u, 120);
    suite_add_tcase(s, t);
    suite_add_tcase(s, u);
    tcase_add_loop_test(t, quick, 0, JUDGED * QW_NOPS);
    tcase_add_loop_test(t, weights, 0, QW_NFILLS);
    tcase_add_loop_test(t, chosen_lines, 0, CHOSEN);
    tcase_add_loop_test(t, devices_themselves, 0, 4);
    tcase_add_loop_test(u, line_and_back, 0, QW_NOPS);
    tcase_add_test(u, bad_lines);
    tcase_add_loop_test(u, model_shapes, 0, 4);
    tcase_add_test(u, gemm);
    tcase_add_test(u, exact_sees);
    tcase_add_test(u, attention);
    tcase_add_test(u, ln_mod);
    tcase_add_loop_test(u, behaviour, 0, 8);
    tcase_add_loop_test(u, other_ops, 0, 4);
    tcase_add_test(u, promises);
    tcase_add_loop_test(u, device_mistakes, 0, 4);
    return run_suite(s);
}
