/* check_parts.c - properties of the networks that golden data do not cover.
 *
 * Linear layers of parts, rotated and with LoRA; sequences and steps that are independent of each
 * other; any number of threads; the scratch that a plan asks for; ControlNets and decoders without
 * golden data, against their formulas. */
#include "nets/control.h"
#include "nets/net.h"
#include "testing.h"
#include <math.h>
#include <string.h>
#include <unistd.h>

static double drawn(int i) { return (double)((i * 7919 + 13) % 101 - 50) / 32; }

static void *room(int64_t n, size_t size)
{
    void *p = calloc(n > 0 ? (size_t)n : 1, size);
    ck_assert_ptr_nonnull(p);
    return p;
}

static double *random_doubles(int64_t n, int seed)
{
    double *x = room(n, sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = drawn((int)i + 1000 * seed);
    return x;
}

/* --- a net on a device ------------------------------------------------------------------------ */

typedef struct net {
    qw_device *dev;
    qw_store *store;
    qw_residency *res;
    json_t *json;
    qw_loader l;
    qw_run run;
    qw_error err;
} net;

/* rel: a component of a model, or NULL for a store that the test fills. */
static void net_open(net *n, const char *device, int threads, const char *rel, qw_kind kind)
{
    qw_kind found;
    char config[1100];
    memset(n, 0, sizeof *n);
    ck_assert_msg(
        !qw_device_open(device, &(qw_device_options){ .threads = threads }, &n->dev, &n->err), "%s",
        n->err.text);
    ck_assert_int_eq(qw_store_new(&n->store, &n->err), QWEN_OK);
    ck_assert_int_eq(qw_residency_new(&n->res, n->dev, 0, &n->err), QWEN_OK);
    n->l = (qw_loader){ .store = n->store, .res = n->res, .err = &n->err };
    qw_run_init(&n->run, n->dev, NULL);
    if (!rel) return;
    ck_assert_msg(!qw_store_add(n->store, testdata(rel), &n->err), "%s", n->err.text);
    ck_assert_msg(!qw_store_canonical(n->store, kind, &found, &n->err), "%s", n->err.text);
    snprintf(config, sizeof config, "%s/config.json", testdata(rel));
    ck_assert_msg(!qw_json_file(config, &n->json, &n->err), "%s", n->err.text);
}

static void net_ready(net *n)
{
    ck_assert_msg(!n->err.status, "%s", n->err.text);
    ck_assert_msg(!qw_residency_commit(n->res, &n->err), "%s", n->err.text);
}

/* Plans a body, reserves exactly the scratch of the plan, and runs it. */
static void walk(net *n, void (*body)(qw_run *r, void *arg), void *arg)
{
    qw_device *plan;
    qw_run p;
    ck_assert_int_eq(qw_plan_open(n->dev, &plan), QWEN_OK);
    qw_run_init(&p, plan, NULL);
    body(&p, arg);
    ck_assert_msg(!p.error.status, "planned: %s", p.error.text);
    ck_assert_uint_eq(p.used, 0);
    qw_run_free(&n->run);
    n->run.peak = 0;
    n->run.flops = 0;
    ck_assert_msg(!qw_run_reserve(&n->run, p.peak), "%s", n->run.error.text);
    body(&n->run, arg);
    ck_assert_msg(!n->run.error.status, "%s", n->run.error.text);
    ck_assert_uint_eq(n->run.used, 0);
    ck_assert_uint_eq(n->run.peak, p.peak);
    ck_assert(n->run.flops == p.flops);
    qw_run_free(&p);
    plan->close(plan);
}

static void net_close(net *n)
{
    qw_run_free(&n->run);
    qw_residency_free(n->res);
    qw_store_free(n->store);
    json_decref(n->json);
    n->dev->close(n->dev);
}

/* Relative distance in the Euclidean norm. */
static double distance(const double *a, const double *b, int64_t n)
{
    double d = 0, m = 0;
    for (int64_t i = 0; i < n; i++) {
        d += (a[i] - b[i]) * (a[i] - b[i]);
        m += b[i] * b[i];
    }
    return sqrt(d / m);
}

/* --- the one door to gemm --------------------------------------------------------------------- */

enum { LM = 3, LK = 16, LN = 5, LR = 2 };

static qw_tensor filled(qw_run *r, int64_t a, int64_t b, int seed, double *copy)
{
    qw_tensor t = b ? qw_new2(r, QW_F64, a, b) : qw_new1(r, QW_F64, a);
    for (int64_t i = 0; i < a * (b ? b : 1); i++) copy[i] = drawn((int)i + 1000 * seed);
    qw_put(r, t, copy);
    return t;
}

static double dot(const double *a, const double *b, int n)
{
    double s = 0;
    for (int i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

/* Two parts, the second stored in a rotated basis and with a LoRA, whose input is x without
 * rotation. */
START_TEST(test_linear)
{
    net n;
    double x[LM * LK], w[2][LN * LK], b[2][LN], la[LR * LK], lb[LN * LR], gate[2 * LN],
        y[LM * 2 * LN];
    double got[2][LM * 2 * LN];
    net_open(&n, "ref64", 0, NULL, QW_KIND_UNKNOWN);
    qw_run *r = &n.run;
    ck_assert_int_eq(qw_run_reserve(r, 1 << 16), QWEN_OK);
    qw_weight l = { .n = 2 * LN, .k = LK, .parts = 2 };
    const qw_tensor tx = filled(r, LM, LK, 1, x), tg = filled(r, 2 * LN, 0, 2, gate);
    for (int p = 0; p < 2; p++) {
        l.part[p].w = filled(r, LN, LK, 3 + p, w[p]);
        l.part[p].bias = filled(r, LN, 0, 5 + p, b[p]);
    }
    qw_tensor turned = qw_new2(r, QW_F64, LN, LK);
    qw_convert(r, (qw_convert_args){ .y = turned, .x = l.part[1].w, .rotate = LK });
    turned.rotated = LK;
    l.part[1].w = turned;
    l.part[1].a = filled(r, LR, LK, 7, la);
    l.part[1].b = filled(r, LN, LR, 8, lb);
    const qw_tensor ty = qw_new2(r, QW_F64, LM, 2 * LN), tz = filled(r, LM, 2 * LN, 9, y);
    const size_t mark = r->used;
    qw_linear(r, ty, tx, &l);
    qw_get(r, ty, got[0]);
    qw_linear_residual(r, tz, tx, &l, tg);
    qw_get(r, tz, got[1]);
    ck_assert_msg(!r->error.status, "%s", r->error.text);
    ck_assert_uint_eq(r->used, mark);
    for (int i = 0; i < LM; i++)
        for (int j = 0; j < 2 * LN; j++) {
            const int p = j / LN, row = j % LN, at = i * 2 * LN + j;
            double z = b[p][row] + dot(x + i * LK, w[p] + row * LK, LK);
            for (int q = 0; q < LR && p; q++)
                z += lb[row * LR + q] * dot(la + q * LK, x + i * LK, LK);
            ck_assert_double_eq_tol(got[0][at], z, 1e-11);
            ck_assert_double_eq_tol(got[1][at], y[at] + gate[j] * z, 1e-11);
        }
    net_close(&n);
}
END_TEST

/* --- positions -------------------------------------------------------------------------------- */

START_TEST(test_mrope_positions)
{
    const qw_text_config c = { .image_token = 7, .head = 8, .section = { 1, 1, 2 }, .theta = 1e6 };
    const int32_t ids[] = { 1, 7, 7, 7, 7, 2, 7, 3 };
    const qw_grid g[] = { { 1, 2, 2 }, { 1, 1, 1 }, { 1, 1, 1 } };
    static const int32_t expected[3][8] = { { 0, 1, 1, 1, 1, 3, 4, 5 },
                                            { 0, 1, 1, 2, 2, 3, 4, 5 },
                                            { 0, 1, 2, 1, 2, 3, 4, 5 } };
    int32_t p[24];
    qw_error err = { 0 };
    ck_assert_int_eq(qw_mrope_positions(&c, ids, 8, g, 2, p, &err), QWEN_OK);
    ck_assert_mem_eq(p, expected, sizeof p);
    for (int pictures = 1; pictures <= 3; pictures += 2) { /* too few, too many */
        err = (qw_error){ 0 };
        ck_assert_int_eq(qw_mrope_positions(&c, ids, 8, g, pictures, p, &err), QWEN_EARG);
        ck_assert_msg(strstr(err.text, "picture") != NULL, "%s", err.text);
    }
    err = (qw_error){ 0 }; /* the prompt ends inside a picture */
    ck_assert_int_eq(qw_mrope_positions(&c, ids, 3, g, 1, p, &err), QWEN_EARG);
}
END_TEST

/* Odd grids: diffusers' rows of 3 are -2, -1, 0 and ComfyUI's -1, 0, 1; the text starts after all
 * pictures or after the first one.  In Layered the last picture is at frame -1. */
START_TEST(test_dit_positions)
{
    qw_dit_config c = { .head = 6, .axes = { 2, 2, 2 } };
    const qw_grid g[] = { { 1, 3, 1 }, { 1, 2, 8 } };
    double a[(3 + 16) * 3];
    for (int comfy = 0; comfy < 2; comfy++) {
        qw_rope_pictures(&c, g, 2, comfy, a);
        for (int y = 0; y < 3; y++) ck_assert_double_eq(a[3 * y + 1], y - 2 + comfy);
        ck_assert_double_eq(a[0], 0);
        ck_assert_double_eq(a[9], 1);
        ck_assert_double_eq(a[9 + 1], -1);
        ck_assert_double_eq(a[9 + 2], -4);
        ck_assert_int_eq(qw_rope_text_start(&c, g, 2, comfy), comfy ? 1 : 4);
    }
    c.layer3d = 1;
    qw_rope_pictures(&c, g, 2, 0, a);
    ck_assert_double_eq(a[0], 0);
    ck_assert_double_eq(a[9], -1);
    const qw_grid five[] = { { 1, 2, 2 }, { 1, 2, 2 }, { 1, 2, 2 }, { 1, 2, 2 }, { 1, 2, 2 } };
    ck_assert_int_eq(qw_rope_text_start(&c, five, 5, 0), 4); /* as many as there are layers */
}
END_TEST

/* --- the transformer -------------------------------------------------------------------------- */

typedef struct dit_work {
    qw_dit *net;
    qw_modulation *mod;
    const double *t;
    int steps, step, sequences;
    qw_dit_sequence seq[2];
} dit_work;

static void dit_body(qw_run *r, void *arg)
{
    dit_work *w = arg;
    qw_dit_sequence s[2];
    qw_modulation_free(w->mod);
    qw_dit_modulate(r, w->net, w->t, w->steps, &w->mod);
    memcpy(s, w->seq, sizeof s);
    for (int i = 0; i < 2 && qw_is_plan(r->dev); i++) s[i].x = s[i].text = NULL;
    qw_dit_forward(r, w->net, w->mod, w->step, s, w->sequences, 0, 0);
}

static const qw_grid one_grid[] = { { 1, 5, 7 } }, two_grids[] = { { 1, 3, 4 }, { 1, 2, 5 } };

/* A picture of 5 x 7 tokens with 6 of text, and one of 3 x 4 with a reference of 2 x 5 and 4 of
 * text. */
static void dit_open(net *n, dit_work *w, const char *device, int threads, const char *component)
{
    static const double t = 0.625;
    qw_dit_config c;
    *w = (dit_work){ .steps = 1, .sequences = 1, .t = &t };
    net_open(n, device, threads, component, QW_KIND_TRANSFORMER);
    ck_assert_msg(!qw_dit_configure(&c, n->json, n->store, "config.json", &n->err), "%s",
                  n->err.text);
    qw_dit_load(&w->net, &c, &n->l);
    net_ready(n);
    w->seq[0] = (qw_dit_sequence){ .x = random_doubles(35 * c.in, 1),
                                   .rows = 35,
                                   .noise_rows = 35,
                                   .grid = one_grid,
                                   .grids = 1,
                                   .noise_grids = 1,
                                   .text = random_doubles(6 * c.text_width, 2),
                                   .text_rows = 6,
                                   .out = room(35 * c.in, sizeof(double)) };
    w->seq[1] = (qw_dit_sequence){ .x = random_doubles(22 * c.in, 3),
                                   .rows = 22,
                                   .noise_rows = 12,
                                   .grid = two_grids,
                                   .grids = 2,
                                   .noise_grids = 1,
                                   .text = random_doubles(4 * c.text_width, 4),
                                   .text_rows = 4,
                                   .out = room(12 * c.in, sizeof(double)) };
}

static void dit_close(net *n, dit_work *w)
{
    for (int i = 0; i < 2; i++) {
        free((void *)(uintptr_t)w->seq[i].x);
        free((void *)(uintptr_t)w->seq[i].text);
        free(w->seq[i].out);
    }
    qw_modulation_free(w->mod);
    qw_dit_free(w->net);
    net_close(n);
}

/* Two sequences in one call have the bits of each alone, and a step of a longer table those of a
 * table of one. */
START_TEST(test_sequences)
{
    net n;
    dit_work w;
    dit_open(&n, &w, "ref", 0, _i ? "tiny-edit-2511/transformer" : "tiny/transformer");
    const qw_dit_sequence both[2] = { w.seq[0], w.seq[1] };
    const int64_t in = qw_dit_config_of(w.net)->in, size[2] = { 35 * in, 12 * in };
    const double times[3] = { 0.9, w.t[0], 0.1 };
    double *alone[2];
    for (int i = 0; i < 2; i++) {
        w.seq[0] = both[i];
        walk(&n, dit_body, &w);
        alone[i] = room(size[i], sizeof **alone);
        memcpy(alone[i], both[i].out, (size_t)size[i] * sizeof **alone);
        memset(both[i].out, 0xff, (size_t)size[i] * sizeof **alone);
    }
    memcpy(w.seq, both, sizeof both);
    w.sequences = 2;
    w.t = times;
    w.steps = 3;
    w.step = 1;
    walk(&n, dit_body, &w);
    for (int i = 0; i < 2; i++) {
        ck_assert_mem_eq(both[i].out, alone[i], (size_t)size[i] * sizeof **alone);
        free(alone[i]);
    }
    dit_close(&n, &w);
}
END_TEST

/* The velocity of the second sequence, [12][in], malloc'ed. */
static double *velocity(const char *device, int threads, const char *component, int64_t *size)
{
    net n;
    dit_work w;
    dit_open(&n, &w, device, threads, component);
    const qw_dit_sequence first = w.seq[0];
    w.seq[0] = w.seq[1];
    w.seq[1] = first;
    walk(&n, dit_body, &w);
    *size = 12 * qw_dit_config_of(w.net)->in;
    double *out = w.seq[0].out;
    w.seq[0].out = NULL;
    dit_close(&n, &w);
    return out;
}

START_TEST(test_threads)
{
    static const char *const devices[] = { "ref64", "ref", "ref:bf16" };
    int64_t n;
    double *one = velocity(devices[_i], 1, "tiny/transformer", &n);
    for (int threads = 2; threads <= 5; threads += 3) {
        double *more = velocity(devices[_i], threads, "tiny/transformer", &n);
        ck_assert_mem_eq(one, more, (size_t)n * sizeof *one);
        free(more);
    }
    free(one);
}
END_TEST

/* Branches stored in bf16 have a larger error than f32, by the roundoff of bf16 and no more. */
START_TEST(test_bf16)
{
    int64_t n;
    double *exact = velocity("ref64", 0, "tiny/transformer", &n),
           *f32 = velocity("ref", 0, "tiny/transformer", &n);
    double *bf16 = velocity("ref:bf16", 0, "tiny/transformer", &n);
    ck_assert(distance(f32, exact, n) < 1e-5);
    ck_assert(distance(bf16, exact, n) > 1e-4);
    ck_assert(distance(bf16, exact, n) < 0.1);
    free(exact);
    free(f32);
    free(bf16);
}
END_TEST

/* Counts of op lines, by their first words. */
typedef struct counts {
    const char *begin[6];
    int n[6], others; /* others: a gemm of numbers */
} counts;

static void count_line(void *user, const char *line)
{
    counts *c = user;
    int found = 0;
    for (int i = 0; i < 6 && c->begin[i]; i++)
        if (!strncmp(line, c->begin[i], strlen(c->begin[i]))) found = ++c->n[i];
    if (!found && !strncmp(line, "gemm/", 5)) c->others++;
}

/* On a device that quantises: in a block the picture's input is quantised once by ln_mod for q, k
 * and v, once by ln_mod for the MLP, once from the attention's output, and once by the MLP's first
 * product.  All 6 products read codes.  The 6 of the text read numbers, since the file has numbers.
 * Outside of blocks there are the two of the timestep, two a block for its modulation, one of the
 * output norm's, two entrances and the exit. */
START_TEST(test_codes)
{
    net n;
    dit_work w;
    qw_device *plan;
    qw_run r;
    counts c = { .begin = { "ln_mod/f32,i8/", "convert/bf16,i8/", "gemm/i8,bf16,i8/",
                            "gemm/i8,bf16,bf16/", "gemm/i8,bf16/" } };
    dit_open(&n, &w, "ref:int8", 0, "tiny/transformer");
    const int blocks = (int)qw_dit_config_of(w.net)->layers;
    ck_assert_int_eq(qw_plan_open(n.dev, &plan), QWEN_OK);
    qw_run_init(&r, plan, NULL);
    r.trace = count_line;
    r.user = &c;
    dit_body(&r, &w);
    ck_assert_msg(!r.error.status, "%s", r.error.text);
    ck_assert_int_eq(c.n[0], 2 * blocks);
    ck_assert_int_eq(c.n[1], blocks);
    ck_assert_int_eq(c.n[2], blocks);
    ck_assert_int_eq(c.n[3], 3 * blocks);
    ck_assert_int_eq(c.n[4], 2 * blocks);
    ck_assert_int_eq(c.others, 6 * blocks + 2 + 2 * blocks + 1 + 2 + 1);
    qw_run_free(&r);
    plan->close(plan);
    dit_close(&n, &w);
}
END_TEST

/* A rotated weight with a LoRA on a device that quantises: the branch stays numbers, its
 * rotation is codes.  Rows of codes cannot be the result of two parts. */
START_TEST(test_rotated_codes)
{
    net n;
    double x[LM * LK], w[LN * LK], la[LR * LK], lb[LN * LR], got[LM * LN], want[LM * LN];
    net_open(&n, "ref:int8", 0, NULL, QW_KIND_UNKNOWN);
    qw_run *r = &n.run;
    ck_assert_int_eq(qw_run_reserve(r, 1 << 16), QWEN_OK);
    qw_weight l = { .n = LN, .k = LK, .parts = 1 };
    ck_assert_int_eq(qw_input_type(r, &l), QW_I8);
    const qw_tensor tx = filled(r, LM, LK, 1, x), plain = filled(r, LN, LK, 3, w);
    l.part[0].w = qw_new2(r, QW_F32, LN, LK);
    qw_convert(r, (qw_convert_args){ .y = l.part[0].w, .x = plain, .rotate = LK });
    l.part[0].w.rotated = LK;
    l.part[0].a = filled(r, LR, LK, 7, la);
    l.part[0].b = filled(r, LN, LR, 8, lb);
    ck_assert_int_eq(qw_input_type(r, &l), QW_BF16);
    const qw_tensor y = qw_new2(r, QW_F32, LM, LN);
    qw_linear(r, y, qw_input(r, tx, &l), &l);
    qw_get(r, y, got);
    for (int i = 0; i < LM; i++)
        for (int j = 0; j < LN; j++) {
            double *z = &want[i * LN + j];
            *z = dot(x + i * LK, w + j * LK, LK);
            for (int q = 0; q < LR; q++) *z += lb[j * LR + q] * dot(la + q * LK, x + i * LK, LK);
        }
    ck_assert_msg(!r->error.status, "%s", r->error.text);
    ck_assert(distance(got, want, LM * LN) > 1e-4);
    ck_assert(distance(got, want, LM * LN) < 0.03); /* two operands of 4 / (127 sqrt(12)) each */
    l.parts = 2;
    l.part[1] = l.part[0];
    qw_linear(r, qw_new2(r, QW_I8, LM, 2 * LN), tx, &l);
    ck_assert_int_eq(r->error.status, QWEN_EUNSUPPORTED);
    net_close(&n);
}
END_TEST

/* The same weights with zero_cond_t: a reference is modulated at t = 0, so at t = 0 nothing
 * changes. */
static void zero_cond(double t, int zero, double *out)
{
    net n;
    dit_work w;
    qw_dit_config c;
    dit_open(&n, &w, "ref64", 0, "tiny/transformer");
    c = *qw_dit_config_of(w.net);
    c.zero_cond_t = zero;
    qw_dit_free(w.net);
    qw_dit_load(&w.net, &c, &n.l);
    net_ready(&n);
    w.sequences = 2;
    w.t = &t;
    walk(&n, dit_body, &w);
    memcpy(out, w.seq[0].out, 35 * 64 * sizeof *out);
    memcpy(out + 35 * 64, w.seq[1].out, 12 * 64 * sizeof *out);
    dit_close(&n, &w);
}

START_TEST(test_zero_cond)
{
    enum { ALONE = 35 * 64, ALL = ALONE + 12 * 64 };
    double *a = room(2 * ALL, sizeof *a), *b = a + ALL;
    zero_cond(0, 0, a);
    zero_cond(0, 1, b);
    ck_assert_mem_eq(a, b, ALL * sizeof *a);
    zero_cond(0.5, 0, a);
    zero_cond(0.5, 1, b);
    ck_assert_mem_eq(a, b, ALONE * sizeof *a); /* without references it is the plain model */
    ck_assert(distance(a + ALONE, b + ALONE, ALL - ALONE) > 1e-3);
    free(a);
}
END_TEST

/* --- a decoder that ends in a pixel shuffle --------------------------------------------------- */

typedef struct decode_work {
    qw_vae *net;
    const double *latent;
    double *picture;
} decode_work;
enum { DH = 4, DW = 3, DPIXELS = 64 * DH * DW };

static void decode_body(qw_run *r, void *arg)
{
    const decode_work *w = arg;
    qw_vae_decode(r, w->net, qw_is_plan(r->dev) ? NULL : w->latent, DH, DW, 0, w->picture);
}

/* The last convolution's entries, with each row four times: the 4c + k-th is (k + 1) times the
 * c-th. */
static void quadruple(net *n, const char *name, float **owned)
{
    qw_entry *e = (qw_entry *)(uintptr_t)qw_store_find(n->store, name);
    ck_assert_ptr_nonnull(e);
    int64_t row = 1;
    for (int i = 1; i < e->rank; i++) row *= e->dim[i];
    float *x = room(4 * e->dim[0] * row, sizeof *x), *old = room(e->dim[0] * row, sizeof *old);
    qw_decode_f32(e->dtype, e->data, e->dim[0] * row, old);
    for (int64_t c = 0; c < e->dim[0]; c++)
        for (int64_t k = 0; k < 4; k++)
            for (int64_t i = 0; i < row; i++)
                x[(4 * c + k) * row + i] = (float)(k + 1) * old[c * row + i];
    free(old);
    e->dim[0] *= 4;
    e->dtype = QW_F32;
    e->data = *owned = x;
    e->bytes = (size_t)(e->dim[0] * row) * sizeof *x;
}

static void decoded(int shuffle, const double *latent, double *picture)
{
    net n;
    qw_vae_config c;
    float *owned[2] = { NULL, NULL };
    decode_work w = { .latent = latent, .picture = picture };
    net_open(&n, "ref64", 0, "tiny/vae", QW_KIND_VAE);
    ck_assert_msg(!qw_vae_configure(&c, n.json, n.store, "config.json", &n.err), "%s", n.err.text);
    if (shuffle) quadruple(&n, "decoder.conv_out.weight", &owned[0]);
    if (shuffle) quadruple(&n, "decoder.conv_out.bias", &owned[1]);
    qw_vae_load(&w.net, &c, QW_VAE_DECODER, &n.l);
    net_ready(&n);
    ck_assert_int_eq(qw_vae_enlarges(w.net), shuffle ? 2 : 1);
    walk(&n, decode_body, &w);
    qw_vae_free(w.net);
    net_close(&n);
    free(owned[0]);
    free(owned[1]);
}

/* rgb[2y + dy][2x + dx][c] = out[y][x][4c + 2 dy + dx] */
START_TEST(test_shuffle)
{
    double *latent = random_doubles(16 * DH * DW, 5), *plain = room(DPIXELS * 3, sizeof *plain);
    double *large = room(4 * DPIXELS * 3, sizeof *large);
    decoded(0, latent, plain);
    decoded(1, latent, large);
    for (int y = 0; y < 16 * DH; y++)
        for (int x = 0; x < 16 * DW; x++)
            for (int c = 0; c < 3; c++) {
                const double a = plain[(y / 2 * 8 * DW + x / 2) * 3 + c],
                             k = 1 + 2 * (y % 2) + x % 2;
                ck_assert_double_eq_tol(large[(y * 16 * DW + x) * 3 + c], k * a,
                                        1e-12 * (1 + fabs(k * a)));
            }
    free(latent);
    free(plain);
    free(large);
}
END_TEST

/* --- the blockwise ControlNet: no published code made golden data ----------------------------- */

enum { BW = 8, BF = 12, BROWS = 5, BBLOCKS = 2 };

static void put_tensor(FILE *f, char *header, size_t size, int *offset, const char *name, int rows,
                       int cols, int seed)
{
    const size_t n = strlen(header);
    const int count = rows * (cols ? cols : 1);
    char shape[32];
    if (cols) snprintf(shape, sizeof shape, "%d,%d", rows, cols);
    else snprintf(shape, sizeof shape, "%d", rows);
    snprintf(header + n, size - n,
             "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%d,%d]}",
             n > 1 ? "," : "", name, shape, *offset, *offset + 4 * count);
    for (int i = 0; i < count; i++) {
        const float x = (float)drawn(i + 1000 * seed);
        fwrite(&x, sizeof x, 1, f);
    }
    *offset += 4 * count;
}

/* A safetensors file of random weights: tensor i of block b is drawn with seed 10 (b + 1) + i. */
static void blockwise_file(FILE *f)
{
    static const char *const leaves[] = { "x_rms.weight",       "y_rms.weight",
                                          "input_proj.weight",  "input_proj.bias",
                                          "output_proj.weight", "output_proj.bias" };
    char header[4000] = "{", name[80];
    FILE *body = tmpfile();
    int offset = 0;
    ck_assert(body && f);
    put_tensor(body, header, sizeof header, &offset, "img_in.weight", BW, BF, 1);
    put_tensor(body, header, sizeof header, &offset, "img_in.bias", BW, 0, 2);
    for (int b = 0; b < BBLOCKS; b++)
        for (int i = 0; i < 6; i++) {
            snprintf(name, sizeof name, "controlnet_blocks.%d.%s", b, leaves[i]);
            put_tensor(body, header, sizeof header, &offset, name, BW, i == 2 || i == 4 ? BW : 0,
                       10 * (b + 1) + i);
        }
    strcat(header, "}");
    uint64_t length = strlen(header);
    for (int i = 0; i < 8; i++) putc((int)(length >> 8 * i & 255), f);
    fwrite(header, 1, length, f);
    rewind(body);
    for (int c; (c = getc(body)) != EOF;) putc(c, f);
    fclose(body);
    ck_assert_int_eq(fclose(f), 0);
}

static double rms_of(const double *x) { return sqrt(dot(x, x, BW) / BW + 1e-6); }

/* x += strength output_proj(gelu_erf(input_proj(RMS(x) + RMS(y)))) for one row, y =
 * img_in(condition). */
static void blockwise_row(int b, double strength, const double *condition, double *x)
{
    double y[BW], u[BW], v[BW];
    const int seed = 1000 * 10 * (b + 1);
    for (int j = 0; j < BW; j++) {
        y[j] = drawn(2000 + j);
        for (int k = 0; k < BF; k++) y[j] += drawn(1000 + j * BF + k) * condition[k];
    }
    for (int j = 0; j < BW; j++)
        u[j] = x[j] / rms_of(x) * drawn(seed + j) + y[j] / rms_of(y) * drawn(seed + 1000 + j);
    for (int j = 0; j < BW; j++) {
        v[j] = drawn(seed + 3000 + j);
        for (int k = 0; k < BW; k++) v[j] += drawn(seed + 2000 + j * BW + k) * u[k];
        v[j] = v[j] / 2 * erfc(-v[j] / sqrt(2));
    }
    for (int j = 0; j < BW; j++) {
        double z = drawn(seed + 5000 + j);
        for (int k = 0; k < BW; k++) z += drawn(seed + 4000 + j * BW + k) * v[k];
        x[j] += strength * z;
    }
}

static void load_blockwise(net *n, qw_control **k)
{
    char folder[] = "/tmp/check_parts.XXXXXX", path[64];
    qw_kind found;
    const qw_dit_config c = { .layers = BBLOCKS, .width = BW, .head = BW, .heads = 1, .in = BF };
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/blockwise.safetensors", folder);
    blockwise_file(fopen(path, "wb"));
    ck_assert_msg(!qw_store_add(n->store, path, &n->err), "%s", n->err.text);
    unlink(path);
    rmdir(folder);
    ck_assert_msg(!qw_store_canonical(n->store, QW_KIND_CONTROLNET, &found, &n->err), "%s",
                  n->err.text);
    ck_assert_int_eq(found, QW_KIND_BLOCKWISE);
    qw_control_load(k, &c, &n->l);
    net_ready(n);
    ck_assert_int_eq(qw_control_kind_of(*k), QW_CONTROL_BLOCKWISE);
    ck_assert_int_eq(qw_control_features(*k), BF);
}

START_TEST(test_blockwise)
{
    net n;
    qw_control *k;
    double x[BROWS * BW], got[BROWS * BW], *condition = random_doubles(BROWS * BF, 90);
    net_open(&n, "ref64", 0, NULL, QW_KIND_UNKNOWN);
    load_blockwise(&n, &k);
    qw_run *r = &n.run;
    ck_assert_int_eq(qw_run_reserve(r, 1 << 16), QWEN_OK);
    const qw_dit_sequence s = { .rows = BROWS, .noise_rows = BROWS };
    const qw_dit_picture picture = { .passes = 1, .pass[0].s = &s };
    qw_control_use use;
    qw_control_place(r, k, NULL, &picture, condition, 0.75, BBLOCKS, &use);
    qw_control_put(r, &use, NULL, 0);
    qw_control_run(r, NULL, &picture.pass[0], &use);
    const qw_tensor t = filled(r, BROWS, BW, 80, x);
    const size_t mark = r->used;
    for (int b = 0; b < BBLOCKS; b++) {
        qw_control_after(&use, r, b, t);
        for (int i = 0; i < BROWS; i++) blockwise_row(b, 0.75, condition + i * BF, x + i * BW);
    }
    ck_assert_uint_eq(r->used, mark);
    qw_get(r, t, got);
    ck_assert_msg(!r->error.status, "%s", r->error.text);
    for (int i = 0; i < BROWS * BW; i++)
        ck_assert_double_eq_tol(got[i], x[i], 1e-11 * (1 + fabs(x[i])));
    qw_control_free(k);
    free(condition);
    net_close(&n);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("parts");
    TCase *t = tcase_create("parts");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, test_linear);
    tcase_add_test(t, test_mrope_positions);
    tcase_add_test(t, test_dit_positions);
    tcase_add_loop_test(t, test_sequences, 0, 2);
    tcase_add_loop_test(t, test_threads, 0, 3);
    tcase_add_test(t, test_bf16);
    tcase_add_test(t, test_codes);
    tcase_add_test(t, test_rotated_codes);
    tcase_add_test(t, test_zero_cond);
    tcase_add_test(t, test_shuffle);
    tcase_add_test(t, test_blockwise);
    suite_add_tcase(s, t);
    return run_suite(s);
}
