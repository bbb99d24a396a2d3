/* check_core.c - tensors' views, the op table, the run, scratch, the plan device, fallback,
 * devices. */
#include "run.h"
#include "testing.h"
#include <math.h>
#include <string.h>

/* --- devices of our own -------------------------------------------------------------------- */

static qw_device *open_device(const char *name)
{
    qw_device *d = NULL;
    qw_error e = { 0 };
    ck_assert_msg(!qw_device_open(name, 1, &d, &e), "%s", e.text);
    return d;
}

#define X(name) static int decline_##name(qw_device *d, const qw_##name##_args *a) \
    { (void)d; (void)a; return QW_DECLINE; }
QW_OPS(X)
#undef X

/* "ref" that declines every op. */
static qw_device *open_declining(void)
{
    qw_device *d = open_device("ref");
    strcpy(d->name, "stub");
#define X(op_name) d->op.op_name = decline_##op_name;
    QW_OPS(X)
#undef X
    return d;
}

/* Memory behind addresses that no program can touch: 2^62 is not canonical. */
static const uintptr_t FAR = (uintptr_t)1 << 62;
static void *away(void *p) { return (void *)((uintptr_t)p + FAR); }
static void *near(const void *p) { return (void *)((uintptr_t)p - FAR); }

static int far_alloc(qw_device *d, size_t bytes, void **out)
{
    (void)d;
    void *p = aligned_alloc(256, (bytes + 255) / 256 * 256 + 256);
    *out = p ? away(p) : NULL;
    return p ? QWEN_OK : QWEN_ENOMEM;
}

static void far_free(qw_device *d, void *p)
{
    (void)d;
    if (p) free(near(p));
}

static int far_put(qw_device *d, int queue, void *dst, const void *src, size_t bytes)
{
    (void)d; (void)queue;
    memcpy(near(dst), src, bytes);
    return QWEN_OK;
}

static int far_get(qw_device *d, int queue, void *dst, const void *src, size_t bytes)
{
    (void)d; (void)queue;
    memcpy(dst, near(src), bytes);
    return QWEN_OK;
}

static qw_device *open_far(void)
{
    qw_device *d = open_declining();
    d->host = 0;
    d->alloc = far_alloc;
    d->free = far_free;
    d->put = far_put;
    d->get = far_get;
    d->packed = NULL;
    d->pack = NULL;
    return d;
}

/* --- tensors ------------------------------------------------------------------------------- */

START_TEST(views)
{
    float data[24];
    for (int i = 0; i < 24; i++) data[i] = (float)i;
    const qw_tensor t = qw_dense2(data, QW_F32, 4, 6), r = qw_rows(t, 1, 2), c = qw_cols(r, 2, 4),
                    h = qw_heads(c, 2);
    ck_assert_int_eq(t.rank, 2);
    ck_assert_int_eq(r.dim[0], 2);
    ck_assert_float_eq(*(float *)qw_at(&r, 0, 0, 0, 0), 6);
    ck_assert_float_eq(*(float *)qw_at(&c, 1, 3, 0, 0), 17);
    ck_assert_int_eq(h.rank, 3);
    ck_assert_int_eq(h.dim[1], 2);
    ck_assert_float_eq(*(float *)qw_at(&h, 1, 1, 1, 0), 17);
    ck_assert_int_eq(qw_elements(&c), 8);
    ck_assert_uint_eq(qw_extent(&c), (6 + 4) * sizeof(float));
    const qw_tensor p = qw_picture(qw_dense2(data, QW_F32, 6, 4), 2, 3), f = qw_flat(p);
    ck_assert_int_eq(p.rank, 3);
    ck_assert_float_eq(*(float *)qw_at(&p, 1, 2, 3, 0), 23);
    ck_assert_int_eq(f.dim[0], 6);
    ck_assert(!qw_present(&(qw_tensor){ 0 }));
}
END_TEST

/* --- the op table -------------------------------------------------------------------------- */

typedef struct fixture { qw_device *ref; qw_run r; float x[4096]; double zero[4096]; } fixture;

/* A valid call of each op on scratch, for the tests below to spoil. */
static void valid(qw_run *r, qw_any_args *a, enum qw_op op)
{
    memset(a, 0, sizeof *a);
    const qw_dtype t = QW_F32;
    switch (op) {
    case QW_OP_gemm:
        a->gemm = (qw_gemm_args){ .y = qw_new2(r, t, 3, 5),
                                  .x = qw_new2(r, t, 3, 4),
                                  .w = qw_new2(r, QW_BF16, 5, 4),
                                  .x2 = qw_new2(r, t, 3, 2),
                                  .w2 = qw_new2(r, t, 5, 2),
                                  .bias = qw_new1(r, t, 5),
                                  .gate = qw_new1(r, t, 5),
                                  .res = qw_new2(r, t, 3, 5) };
        break;
    case QW_OP_attention:
        a->attention = (qw_attention_args){ .y = qw_new3(r, t, 3, 4, 8),
                                            .q = qw_new3(r, t, 3, 4, 8),
                                            .k = qw_new3(r, t, 5, 2, 8),
                                            .v = qw_new3(r, t, 5, 2, 8),
                                            .scale = 0.3 };
        break;
    case QW_OP_conv2d:
        a->conv2d = (qw_conv2d_args){ .y = qw_new3(r, t, 4, 4, 2),
                                      .x = qw_new3(r, t, 4, 4, 3),
                                      .w = qw_new3(r, t, 2, 9, 3),
                                      .bias = qw_new1(r, t, 2),
                                      .res = qw_new3(r, t, 4, 4, 2),
                                      .stride = 1,
                                      .top = 1,
                                      .left = 1,
                                      .up = 1 };
        a->conv2d.w = qw_dense4(a->conv2d.w.data, t, 2, 3, 3, 3);
        break;
    case QW_OP_rms_norm:
        a->rms_norm = (qw_rms_norm_args){
            .y = qw_new2(r, t, 3, 8), .x = qw_new2(r, t, 3, 8), .w = qw_new1(r, t, 8), .eps = 1e-6
        };
        break;
    case QW_OP_ln_mod:
        a->ln_mod = (qw_ln_mod_args){ .y = qw_new2(r, t, 3, 8),
                                      .x = qw_new2(r, t, 3, 8),
                                      .scale = qw_new1(r, t, 8),
                                      .shift = qw_new1(r, t, 8),
                                      .eps = 1e-6 };
        break;
    case QW_OP_norm_rope:
        a->norm_rope = (qw_norm_rope_args){ .x = qw_new3(r, t, 3, 2, 8),
                                            .w = qw_new1(r, t, 8),
                                            .cos = qw_new2(r, t, 3, 4),
                                            .sin = qw_new2(r, t, 3, 4),
                                            .eps = 1e-6 };
        break;
    case QW_OP_swiglu:
        a->swiglu = (qw_swiglu_args){ .y = qw_new2(r, t, 3, 8), .x = qw_new2(r, t, 3, 16) };
        break;
    default:
        a->convert = (qw_convert_args){ .y = qw_new2(r, t, 3, 16),
                                        .x = qw_new2(r, QW_BF16, 3, 16),
                                        .res = qw_new2(r, t, 3, 16),
                                        .rotate = 4 };
    }
}

static const qw_op_info *row(int op) { return &qw_op_table[op]; }

static void refused(const qw_op_info *info, qw_any_args *a, const char *what)
{
    char why[300] = "";
    ck_assert_msg(info->check(a, why, sizeof why) != 0, "%s accepts %s", info->name, what);
    ck_assert_msg(!strncmp(why, info->name, strlen(info->name))
                      && strlen(why) > strlen(info->name) + 8,
                  "%s says \"%s\" of %s", info->name, why, what);
}

/* Every operand of every op with a wrong rank, size, dtype, stride or no memory is refused with a
 * sentence. */
START_TEST(checks)
{
    fixture *f = calloc(1, sizeof *f);
    f->ref = open_device("ref");
    qw_run_init(&f->r, f->ref, f->ref);
    ck_assert_int_eq(qw_run_reserve(&f->r, 1 << 16), QWEN_OK);
    const qw_op_info *info = row(_i);
    qw_any_args a, b;
    char why[300];
    valid(&f->r, &a, (enum qw_op)_i);
    ck_assert_msg(!info->check(&a, why, sizeof why), "%s", why);
    for (const qw_operand *o = info->operand; o->name; o++) {
        qw_tensor *t = (qw_tensor *)(void *)((char *)&b + o->offset);
        b = a;
        const int only_one = t->rank == 1 && t->dim[0] == 1;
        t->data = NULL;
        refused(info, &b, "no memory");
        b = a, t->rank--;
        refused(info, &b, "a missing dimension");
        b = a, t->dim[0] += 1;
        /* A convolution's picture may go on below what the output needs. */
        if (_i != QW_OP_conv2d || strcmp(o->name, "x")) refused(info, &b, "another first size");
        b = a, t->dim[t->rank - 1] += 2;
        refused(info, &b, "another last size");
        b = a, t->dim[0] = 0;
        refused(info, &b, "no elements");
        b = a, t->dtype = QW_I32;
        refused(info, &b, "integers");
        b = a, t->dtype = (qw_dtype)99;
        refused(info, &b, "no dtype at all");
        b = a, t->stride[t->rank - 1] = 2;
        refused(info, &b, "a last stride of 2");
        if (t->rank > 1 && !only_one) {
            b = a, t->stride[0] = 1;
            refused(info, &b, "rows that overlap");
        }
        if (!(o->role & QW_OPTIONAL)) {
            b = a, *t = (qw_tensor){ 0 };
            refused(info, &b, "a missing operand");
        } else if (strcmp(o->name, "x2") && strcmp(o->name, "w2")) {
            b = a, *t = (qw_tensor){ 0 };
            ck_assert_msg(!info->check(&b, why, sizeof why), "%s without %s: %s", info->name,
                          o->name, why);
        }
        if (o != info->operand && t->rank == 2) {
            b = a,
            ((qw_tensor *)(void *)((char *)&b + info->operand->offset))->data = (char *)t->data + 4;
            refused(info, &b, "an output over an input");
        }
    }
    qw_run_free(&f->r);
    f->ref->close(f->ref);
    free(f);
}
END_TEST

/* What belongs to one op only. */
START_TEST(own_checks)
{
    qw_device *ref = open_device("ref");
    qw_run r;
    qw_run_init(&r, ref, ref);
    qw_run_reserve(&r, 1 << 16);
    qw_any_args a, b;
    valid(&r, &a, QW_OP_gemm);
    b = a, b.gemm.act = (qw_act)9;
    refused(row(QW_OP_gemm), &b, "an unknown activation");
    b = a, b.gemm.x2 = (qw_tensor){ 0 };
    refused(row(QW_OP_gemm), &b, "half a LoRA");
    b = a, b.gemm.w.dtype = QW_Q8_0;
    refused(row(QW_OP_gemm), &b, "part of a block");
    b = a, b.gemm.w.dtype = QW_NVFP4;
    refused(row(QW_OP_gemm), &b, "micro blocks without scales");
    b = a, b.gemm.w.layout = 7;
    refused(row(QW_OP_gemm), &b, "a packed weight without its original");
    b = a, b.gemm.x.scale_stride = 3;
    refused(row(QW_OP_gemm), &b, "a scale stride of 3");

    valid(&r, &a, QW_OP_attention);
    int32_t first[3] = { 0, 0, 1 }, last[3] = { 1, 2, 5 };
    char why[300];
    a.attention.first = first, a.attention.last = last;
    ck_assert_msg(!row(QW_OP_attention)->check(&a, why, sizeof why), "%s", why);
    last[2] = 6;
    refused(row(QW_OP_attention), &a, "keys past the end");
    last[2] = 1;
    refused(row(QW_OP_attention), &a, "an empty range");
    last[2] = 5, first[1] = 1, first[2] = 0;
    refused(row(QW_OP_attention), &a, "a range that goes back");
    a.attention.last = NULL;
    refused(row(QW_OP_attention), &a, "half a range");
    valid(&r, &a, QW_OP_attention), a.attention.scale = NAN;
    refused(row(QW_OP_attention), &a, "no scale");
    valid(&r, &a, QW_OP_attention), a.attention.q.dim[1] = a.attention.y.dim[1] = 3;
    refused(row(QW_OP_attention), &a, "3 heads over 2");

    valid(&r, &a, QW_OP_conv2d);
    b = a, b.conv2d.up = 3;
    refused(row(QW_OP_conv2d), &b, "enlargement by 3");
    b = a, b.conv2d.stride = 0;
    refused(row(QW_OP_conv2d), &b, "stride 0");
    b = a, b.conv2d.top = 3;
    refused(row(QW_OP_conv2d), &b, "padding as large as the kernel");
    b = a, b.conv2d.stride = 2, b.conv2d.y.dim[0] = b.conv2d.res.dim[0] = 4;
    refused(row(QW_OP_conv2d), &b, "windows beyond the picture");

    valid(&r, &a, QW_OP_rms_norm), a.rms_norm.eps = -1;
    refused(row(QW_OP_rms_norm), &a, "a negative eps");
    valid(&r, &a, QW_OP_norm_rope), a.norm_rope.pairing = (qw_pairing)5;
    refused(row(QW_OP_norm_rope), &a, "an unknown pairing");
    valid(&r, &a, QW_OP_convert);
    b = a, b.convert.rotate = 8;
    refused(row(QW_OP_convert), &b, "a rotation of 8");
    b = a, b.convert.rotate = 64;
    refused(row(QW_OP_convert), &b, "a rotation wider than the row");
    b = a, b.convert.y.dtype = QW_I8;
    refused(row(QW_OP_convert), &b, "codes without scales");
    qw_run_free(&r);
    ref->close(ref);
}
END_TEST

/* Columns of one buffer may be read and written at once; overlapping ones may not. */
START_TEST(columns_of_one_buffer)
{
    qw_device *ref = open_device("ref");
    qw_run r;
    qw_run_init(&r, ref, ref);
    qw_run_reserve(&r, 1 << 16);
    const qw_tensor t = qw_new2(&r, QW_F32, 4, 24);
    qw_convert_args a = { .y = qw_cols(t, 0, 8), .x = qw_cols(t, 8, 8) };
    char why[300];
    ck_assert_msg(!row(QW_OP_convert)->check(&a, why, sizeof why), "%s", why);
    a.x = qw_cols(t, 7, 8);
    ck_assert(row(QW_OP_convert)->check(&a, why, sizeof why));
    a.x = qw_cols(t, 16, 8), a.y = qw_cols(t, 4, 8);
    ck_assert(!row(QW_OP_convert)->check(&a, why, sizeof why));
    qw_run_free(&r);
    ref->close(ref);
}
END_TEST

START_TEST(lines)
{
    qw_device *ref = open_device("ref");
    qw_run r;
    qw_run_init(&r, ref, ref);
    qw_run_reserve(&r, 1 << 16);
    static const char *const want[] = {
        "gemm/f32,bf16/bias,gate,res,lora=2/3x5x4",
        "attention/f32/scale=0.29999999999999999/3x5x4x2x8",
        "conv2d/f32/bias,res,top=1,left=1/4x4x2x4x4x3x3x3",
        "rms_norm/f32/-/3x8",
        "ln_mod/f32/scale,shift/3x8",
        "norm_rope/f32/pairs,norm/3x2x8",
        "swiglu/f32/-/3x8",
        "convert/bf16,f32/rotate=4,res/3x16",
    };
    qw_any_args a;
    char line[300];
    for (int op = 0; op < QW_NOPS; op++) {
        valid(&r, &a, (enum qw_op)op);
        row(op)->line(&a, line, sizeof line);
        ck_assert_str_eq(line, want[op]);
        char small[8];
        row(op)->line(&a, small, sizeof small);
        ck_assert(strlen(small) < sizeof small);
    }
    qw_run_free(&r);
    ref->close(ref);
}
END_TEST

/* --- scratch ------------------------------------------------------------------------------- */

START_TEST(scratch)
{
    qw_device *ref = open_device("ref");
    qw_run r;
    qw_run_init(&r, ref, ref);
    ck_assert_int_eq(qw_run_reserve(&r, 4096), QWEN_OK);
    const qw_tensor a = qw_new2(&r, QW_F32, 3, 5);
    const size_t mark = r.used;
    const qw_tensor b = qw_new1(&r, QW_BF16, 7), q = qw_new2(&r, QW_I8, 3, 8);
    ck_assert_uint_eq((uintptr_t)a.data % 256, 0);
    ck_assert_uint_eq((uintptr_t)b.data % 256, 0);
    ck_assert(b.data != a.data);
    ck_assert_ptr_nonnull(q.scale);
    ck_assert_int_eq(q.scale_stride, 1);
    const size_t peak = r.peak;
    r.used = mark;
    const qw_tensor c = qw_new1(&r, QW_F32, 1);
    ck_assert_ptr_eq(c.data, b.data);
    ck_assert_uint_eq(r.peak, peak);
    qw_new1(&r, QW_F32, 4000);
    ck_assert_int_eq(r.error.status, QWEN_ENOMEM);
    ck_assert_ptr_nonnull(strstr(r.error.text, "16000"));
    qw_run_free(&r);
    qw_run_init(&r, ref, ref);
    qw_new2(&r, QW_F32, INT64_C(1) << 40, INT64_C(1) << 40);
    ck_assert_int_eq(r.error.status, QWEN_ENOMEM);
    qw_run_free(&r);
    qw_run_init(&r, ref, ref);
    qw_new1(&r, QW_F32, -1);
    ck_assert_int_eq(r.error.status, QWEN_EARG);
    qw_run_free(&r);
    ref->close(ref);
}
END_TEST

static const qw_dtype number[] = { QW_F64, QW_F32, QW_F16, QW_BF16, QW_I32 };

/* Strided tensors of each type, there and back; neighbours stay; on devices of both kinds. */
START_TEST(put_and_get)
{
    qw_device *dev = _i % 2 ? open_far() : open_device("ref");
    const qw_dtype t = number[_i / 2];
    qw_run r;
    qw_run_init(&r, dev, dev);
    qw_run_reserve(&r, 1 << 16);
    double all[60], part[24], back[60];
    for (int i = 0; i < 60; i++) all[i] = i;
    for (int i = 0; i < 24; i++) part[i] = -i;
    const qw_tensor big = qw_new3(&r, t, 3, 4, 5), view = qw_cols(big, 1, 2);
    qw_put(&r, big, all);
    qw_put(&r, view, part);
    qw_get(&r, big, back);
    for (int i = 0; i < 60; i++) {
        const int in = i % 5 == 1 || i % 5 == 2;
        ck_assert_double_eq(back[i], in ? -(i / 5 * 2 + i % 5 - 1) : i);
    }
    qw_get(&r, view, back);
    for (int i = 0; i < 24; i++) ck_assert_double_eq(back[i], -i);
    ck_assert_int_eq(r.error.status, QWEN_OK);
    qw_run_free(&r);
    dev->close(dev);
}
END_TEST

/* --- a small walk through all ops ---------------------------------------------------------- */

typedef struct seen { int lines, taps; char last[400]; float sum; } seen;

static void count_line(void *user, const char *line)
{
    seen *s = user;
    s->lines++;
    snprintf(s->last, sizeof s->last, "%s", line);
}

static void count_tap(void *user, const char *name, const qwen_array *a)
{
    seen *s = user;
    s->taps++;
    ck_assert_int_eq(strncmp(name, "walk.", 5), 0);
    ck_assert_int_eq(a->dtype, QWEN_F32);
}

static void some(qw_run *r, qw_tensor t, double begin)
{
    double x[1024];
    const int64_t n = qw_elements(&t);
    ck_assert_int_le(n, 1024);
    for (int64_t i = 0; i < n; i++) x[i] = sin(begin + 0.7 * (double)i);
    qw_put(r, t, x);
}

/* All eight ops, with views, weights in blocks, quantised rows; fills out [64]. */
static void walk(qw_run *r, const qw_tensor *w, double *out)
{
    const qw_dtype p = r->dev->prefer, wide = r->dev->wide;
    const size_t mark = r->used;
    qw_tensor x = qw_new2(r, wide, 8, 64), h = qw_new2(r, p, 8, 64), qkv = qw_new2(r, p, 8, 192),
              u = qw_new2(r, p, 8, 64);
    qw_tensor v = qw_new1(r, wide, 64), tab = qw_new2(r, wide, 8, 4),
              codes = qw_new2(r, QW_I8, 8, 64);
    qw_tensor kernel = qw_new3(r, p, 4, 9, 64), map = qw_new3(r, p, 2, 4, 4),
              lora = qw_new2(r, p, 64, 3);
    some(r, x, 1), some(r, v, 2), some(r, tab, 3), some(r, qw_flat(qw_rows(kernel, 0, 1)), 4),
        some(r, lora, 5);
    some(r, qw_flat(qw_rows(kernel, 1, 1)), 4.5), some(r, qw_flat(qw_rows(kernel, 2, 1)), 4.6);
    some(r, qw_flat(qw_rows(kernel, 3, 1)), 4.7);
    kernel = qw_dense4(kernel.data, p, 4, 3, 3, 64);
    qw_ln_mod(r, (qw_ln_mod_args){ .y = h, .x = x, .scale = v, .eps = 1e-6 });
    for (int i = 0; i < 3; i++)
        qw_gemm(
            r,
            (qw_gemm_args){
                .y = qw_cols(qkv, 64 * i, 64), .x = h, .w = *w, .bias = v, .act = QW_GELU_TANH });
    qw_norm_rope(r,
                 (qw_norm_rope_args){
                     .x = qw_heads(qw_cols(qkv, 0, 64), 8), .cos = tab, .sin = tab, .eps = 1e-6 });
    qw_attention(r, (qw_attention_args){ .y = qw_heads(u, 8),
                                         .q = qw_heads(qw_cols(qkv, 0, 64), 8),
                                         .scale = 0.35,
                                         .k = qw_heads(qw_cols(qkv, 64, 64), 8),
                                         .v = qw_heads(qw_cols(qkv, 128, 64), 8) });
    qw_convert(r, (qw_convert_args){ .y = codes, .x = u, .rotate = 16 });
    qw_gemm(r, (qw_gemm_args){ .y = x, .x = codes, .w = *w, .res = x, .gate = v });
    qw_gemm(
        r, (qw_gemm_args){ .y = x, .x = u, .w = *w, .x2 = qw_cols(u, 0, 3), .w2 = lora, .res = x });
    qw_rms_norm(r, (qw_rms_norm_args){ .y = h, .x = x, .w = v, .eps = 1e-6, .act = QW_SILU });
    qw_swiglu(r, (qw_swiglu_args){ .y = qw_cols(u, 32, 32), .x = h });
    qw_conv2d(r, (qw_conv2d_args){ .y = map,
                                   .x = qw_picture(u, 2, 4),
                                   .w = kernel,
                                   .stride = 1,
                                   .top = 1,
                                   .left = 1,
                                   .up = 1 });
    qw_tap(r, x, "x%d", 1);
    qw_tap_chw(r, map, "map");
    qw_get(r, qw_flat(map), out);
    qw_get(r, qw_rows(x, 7, 1), out + 32);
    r->used = mark;
}

/* A weight in Q8_0 blocks in host memory. */
static void make_weight(unsigned char *data, qw_tensor *w)
{
    *w = qw_dense2(data, QW_Q8_0, 64, 64);
    for (int b = 0; b < 128; b++) {
        const uint16_t d = qw_f32_to_f16(0.001f * (float)(1 + b % 7));
        data[34 * b] = (unsigned char)(d & 255), data[34 * b + 1] = (unsigned char)(d >> 8);
        for (int i = 0; i < 32; i++) data[34 * b + 2 + i] = (unsigned char)(37 * i + 11 * b);
    }
}

static void walk_on(qw_device *dev, qw_device *ref, double *out, qw_run *r, seen *s, int strict)
{
    unsigned char data[34 * 128];
    qw_tensor plain, w;
    make_weight(data, &plain);
    memset(s, 0, sizeof *s);
    qw_run_init(r, dev, ref);
    r->strict = strict;
    r->check = 1;
    r->user = s;
    r->trace = count_line;
    r->tap = count_tap;
    r->names = "walk.";
    qw_run_reserve(r, 1 << 17);
    w = plain;
    if (!dev->host && !qw_is_plan(dev)) {
        void *p = NULL;
        dev->alloc(dev, sizeof data, &p);
        dev->put(dev, QW_COMPUTE, p, data, sizeof data);
        w.data = p;
    }
    walk(r, &w, out);
    if (w.data != plain.data && !qw_is_plan(dev)) dev->free(dev, w.data);
}

/* The plan device counts what the real run counts, and touches nothing. */
START_TEST(plan_counts)
{
    qw_device *ref = open_device(_i ? "ref:bf16" : "ref"), *plan = NULL;
    ck_assert_int_eq(qw_plan_open(ref, &plan), QWEN_OK);
    double out[2][160];
    qw_run r[2];
    seen s[2];
    walk_on(ref, ref, out[0], &r[0], &s[0], 1);
    walk_on(plan, NULL, out[1], &r[1], &s[1], 1);
    ck_assert_msg(!r[0].error.status, "%s", r[0].error.text);
    ck_assert_msg(!r[1].error.status, "%s", r[1].error.text);
    ck_assert_double_gt(r[0].flops, 1e5);
    ck_assert_double_eq(r[0].flops, r[1].flops);
    ck_assert_double_eq(r[0].bytes, r[1].bytes);
    ck_assert_uint_eq(r[0].peak, r[1].peak);
    ck_assert_int_eq(memcmp(r[0].calls, r[1].calls, sizeof r[0].calls), 0);
    ck_assert_int_eq(s[0].lines, 12);
    ck_assert_int_eq(s[1].lines, 12);
    ck_assert_str_eq(s[0].last, s[1].last);
    ck_assert_int_eq(s[0].taps, 2);
    ck_assert_int_eq(s[1].taps, 0);
    ck_assert_double_gt(r[0].magnitude, 0);
    for (int i = 0; i < 96; i++) ck_assert_double_eq(out[1][i], 0);
    qw_run_free(&r[0]);
    qw_run_free(&r[1]);
    plan->close(plan);
    ref->close(ref);
}
END_TEST

/* Scratch on plan has no end. */
START_TEST(plan_scratch)
{
    qw_device *plan = open_device("plan");
    qw_run r;
    qw_run_init(&r, plan, NULL);
    ck_assert_int_eq(qw_run_reserve(&r, 10), QWEN_OK);
    const qw_tensor t = qw_new2(&r, QW_F32, 1 << 20, 1 << 18);
    ck_assert_int_eq(r.error.status, QWEN_OK);
    ck_assert_ptr_nonnull(t.data);
    ck_assert_uint_ge(r.peak, (size_t)1 << 40);
    /* The table's checks still hold there. */
    qw_swiglu(&r, (qw_swiglu_args){ .y = t, .x = t });
    ck_assert_int_eq(r.error.status, QWEN_EARG);
    qw_run_free(&r);
    plan->close(plan);
}
END_TEST

/* A device that declines everything, host or not, gives the reference's bits. */
START_TEST(fallback)
{
    qw_device *ref = open_device("ref"), *stub = _i ? open_far() : open_declining();
    double want[160], got[160];
    qw_run r;
    seen s;
    walk_on(ref, ref, want, &r, &s, 1);
    ck_assert_msg(!r.error.status, "%s", r.error.text);
    qw_run_free(&r);
    walk_on(stub, ref, got, &r, &s, 0);
    ck_assert_msg(!r.error.status, "%s", r.error.text);
    ck_assert_int_eq(memcmp(want, got, 96 * sizeof *want), 0);
    uint64_t calls = 0, declined = 0;
    for (int i = 0; i < QW_NOPS; i++) calls += r.calls[i], declined += r.declined[i];
    ck_assert_uint_eq(calls, 12);
    ck_assert_uint_eq(declined, 12);
    qw_run_free(&r);
    stub->close(stub);
    ref->close(ref);
}
END_TEST

START_TEST(strict)
{
    qw_device *ref = open_device("ref"), *stub = open_declining();
    double got[160];
    qw_run r;
    seen s;
    walk_on(stub, ref, got, &r, &s, 1);
    ck_assert_int_eq(r.error.status, QWEN_EUNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(r.error.text, "stub"));
    ck_assert_ptr_nonnull(strstr(r.error.text, "ln_mod/f32/scale/8x64"));
    ck_assert_int_eq(s.lines, 1);
    qw_run_free(&r);
    walk_on(stub, NULL, got, &r, &s, 0);
    ck_assert_int_eq(r.error.status, QWEN_EUNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(r.error.text, "no reference"));
    qw_run_free(&r);
    stub->close(stub);
    ref->close(ref);
}
END_TEST

/* A packed weight is read from its original when the device declines. */
START_TEST(packed_original)
{
    qw_device *ref = open_device("ref"), *stub = _i ? open_far() : open_declining();
    unsigned char data[34 * 128];
    qw_tensor plain;
    make_weight(data, &plain);
    qw_tensor packed = plain;
    packed.data = NULL;
    packed.layout = 3;
    packed.host = &plain;
    double sum[2];
    for (int i = 0; i < 2; i++) {
        qw_run r;
        double out[64];
        qw_run_init(&r, i ? stub : ref, ref);
        qw_run_reserve(&r, 4096);
        qw_tensor x = qw_new2(&r, QW_F32, 1, 64), y = qw_new2(&r, QW_F32, 1, 64);
        some(&r, x, 1);
        qw_gemm(&r, (qw_gemm_args){ .y = y, .x = x, .w = i ? packed : plain });
        qw_get(&r, y, out);
        ck_assert_msg(!r.error.status, "%s", r.error.text);
        sum[i] = 0;
        for (int j = 0; j < 64; j++) sum[i] += out[j] * (j + 1);
        qw_run_free(&r);
    }
    ck_assert_double_eq(sum[0], sum[1]);
    ck_assert_double_ne(sum[0], 0);
    stub->close(stub);
    ref->close(ref);
}
END_TEST

/* --- errors -------------------------------------------------------------------------------- */

static int after_three(void *user) { return ++*(int *)user > 3; }

START_TEST(cancel)
{
    qw_device *ref = open_device("ref");
    unsigned char data[34 * 128];
    qw_tensor w;
    double out[160];
    int polled = 0;
    make_weight(data, &w);
    qw_run r;
    qw_run_init(&r, ref, ref);
    qw_run_reserve(&r, 1 << 17);
    r.poll = after_three;
    r.user = &polled;
    walk(&r, &w, out);
    ck_assert_int_eq(r.error.status, QWEN_ECANCELLED);
    ck_assert_int_eq(polled, 4);
    uint64_t calls = 0;
    for (int i = 0; i < QW_NOPS; i++) calls += r.calls[i];
    ck_assert_uint_eq(calls, 3);
    qw_run_free(&r);
    ref->close(ref);
}
END_TEST

/* A result that is not finite names op, line, stage, step, block and the largest magnitude before
 * it. */
START_TEST(not_finite)
{
    qw_device *ref = open_device("ref");
    qw_run r;
    qw_run_init(&r, ref, ref);
    qw_run_reserve(&r, 1 << 16);
    r.check = 1;
    r.stage = "denoise";
    r.step = 3;
    r.block = 12;
    qw_tensor x = qw_new2(&r, QW_F32, 2, 4), h = qw_new2(&r, QW_F16, 2, 4),
              y = qw_new2(&r, QW_F32, 2, 4);
    const double big[8] = { 1, -54321, 3, 4, 5, 6, 7, 8 }, huge[8] = { 0, 0, 0, 0, 0, 0, 1e6, 0 };
    qw_put(&r, x, big);
    qw_convert(&r, (qw_convert_args){ .y = y, .x = x });
    ck_assert_int_eq(r.error.status, QWEN_OK);
    ck_assert_double_eq(r.magnitude, 54321);
    qw_put(&r, x, huge);
    qw_convert(&r, (qw_convert_args){ .y = h, .x = x });
    ck_assert_int_eq(r.error.status, QWEN_ENUMERIC);
    static const char *const must[] = { "denoise",  "step 3", "block 12",
                                        "convert",  "[1][2]", "convert/f32,f16/-/2x4",
                                        "5.432e+04" };
    for (size_t i = 0; i < sizeof must / sizeof must[0]; i++)
        ck_assert_msg(strstr(r.error.text, must[i]) != NULL, "\"%s\" is not in \"%s\"", must[i],
                      r.error.text);
    qw_run_free(&r);
    ref->close(ref);
}
END_TEST

START_TEST(require_finite)
{
    qw_device *ref = open_device("ref"), *dev = open_far();
    qw_run r;
    qw_run_init(&r, dev, ref);
    qw_run_reserve(&r, 4096);
    r.stage = "decode";
    qw_tensor x = qw_new2(&r, QW_BF16, 2, 3);
    double v[6] = { 1, 2, -3, 4, 5, 6 };
    qw_put(&r, x, v);
    qw_require_finite(&r, x, "velocity");
    ck_assert_int_eq(r.error.status, QWEN_OK);
    ck_assert_double_eq(r.magnitude, 6);
    v[4] = NAN;
    qw_put(&r, x, v);
    qw_require_finite(&r, x, "velocity");
    ck_assert_int_eq(r.error.status, QWEN_ENUMERIC);
    ck_assert_ptr_nonnull(strstr(r.error.text, "decode: velocity[1][1]"));
    qw_run_free(&r);
    dev->close(dev);
    ref->close(ref);
}
END_TEST

static int broken(qw_device *d, const qw_swiglu_args *a)
{
    (void)d; (void)a;
    return QWEN_EDEVICE;
}

/* The first error stays; what follows does nothing. */
START_TEST(first_error)
{
    qw_device *ref = open_device("ref");
    qw_run r;
    seen s = { 0 };
    qw_run_init(&r, ref, ref);
    qw_run_reserve(&r, 4096);
    r.trace = count_line;
    r.user = &s;
    ref->op.swiglu = broken;
    qw_tensor x = qw_new2(&r, QW_F32, 2, 8), y = qw_new2(&r, QW_F32, 2, 4);
    const double v[16] = { 0 };
    double back[16];
    qw_put(&r, x, v);
    qw_swiglu(&r, (qw_swiglu_args){ .y = y, .x = x });
    ck_assert_int_eq(r.error.status, QWEN_EDEVICE);
    ck_assert_ptr_nonnull(strstr(r.error.text, "swiglu/f32/-/2x4"));
    char text[sizeof r.error.text];
    strcpy(text, r.error.text);
    qw_swiglu(&r, (qw_swiglu_args){ .y = x, .x = x });
    qw_run_fail(&r, QWEN_EIO, "another");
    qw_new1(&r, QW_F32, 1 << 20);
    qw_get(&r, x, back);
    ck_assert_double_eq(back[3], 0);
    ck_assert_str_eq(r.error.text, text);
    ck_assert_int_eq(r.error.status, QWEN_EDEVICE);
    ck_assert_int_eq(s.lines, 1);
    qw_run_free(&r);
    ref->close(ref);
}
END_TEST

/* Vectors of another type than the device's wide one are refused. */
START_TEST(wide_vectors)
{
    qw_device *d = open_device("ref64");
    qw_run r;
    qw_run_init(&r, d, d);
    qw_run_reserve(&r, 4096);
    qw_tensor x = qw_new2(&r, QW_F64, 2, 8), y = qw_new2(&r, QW_F64, 2, 8),
              w = qw_new1(&r, QW_F32, 8);
    qw_rms_norm(&r, (qw_rms_norm_args){ .y = y, .x = x, .w = w, .eps = 1e-6 });
    ck_assert_int_eq(r.error.status, QWEN_EARG);
    ck_assert_ptr_nonnull(strstr(r.error.text, "f64"));
    qw_run_free(&r);
    d->close(d);
}
END_TEST

/* --- devices ------------------------------------------------------------------------------- */

static int note(void *user, const char *name, const char *what, const char *why_not)
{
    char *all = user;
    ck_assert_ptr_nonnull(what);
    if (!why_not) strcat(strcat(all, name), " ");
    return 0;
}

START_TEST(devices)
{
    char all[1000] = " ";
    ck_assert_int_eq(qw_device_list(note, all), 0);
    ck_assert_ptr_nonnull(strstr(all, " ref "));
    ck_assert_ptr_nonnull(strstr(all, " ref64 "));
    ck_assert_ptr_nonnull(strstr(all, " ref:bf16 "));
    qw_device *d = NULL;
    qw_error e = { 0 };
    ck_assert_int_eq(qw_device_open("warp:9\n", 0, &d, &e), QWEN_EARG);
    ck_assert_ptr_null(d);
    ck_assert_ptr_nonnull(strstr(e.text, "warp:9\\n"));
    ck_assert_ptr_nonnull(strstr(e.text, "ref64"));
    d = open_device("ref64");
    ck_assert_int_eq(d->wide, QW_F64);
    ck_assert_int_eq(d->threads, 1);
    d->close(d);
    d = open_device(NULL);
    ck_assert_int_eq(d->abi, QW_BACKEND_ABI);
    d->close(d);
    memset(&e, 0, sizeof e);
    ck_assert_int_eq(qw_device_open("ref", -1, &d, &e), QWEN_EARG);
}
END_TEST

/* A module that cannot be loaded is listed with the reason, and an error only for who asks for it.
 */
static int find_broken(void *user, const char *name, const char *what, const char *why_not)
{
    (void)what;
    if (!strcmp(name, "broken")) *(int *)user = why_not && *why_not ? 1 : 2;
    return 0;
}

START_TEST(broken_module)
{
    char dir[] = "/tmp/qwen-modules-XXXXXX", path[100];
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/broken.so", dir);
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs("this is no shared object", f);
    fclose(f);
    setenv("QWEN_MODULES", dir, 1);     /* this test runs in a process of its own */
    int found = 0;
    qw_device_list(find_broken, &found);
    remove(path);
    remove(dir);
    ck_assert_int_eq(found, 1);
    qw_device *d = open_device("ref");
    d->close(d);
    qw_error e = { 0 };
    ck_assert_int_eq(qw_device_open("broken:0", 0, &d, &e), QWEN_EDEVICE);
    ck_assert_ptr_nonnull(strstr(e.text, "broken"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("core");
    TCase *t = tcase_create("run");
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    tcase_add_test(t, views);
    tcase_add_loop_test(t, checks, 0, QW_NOPS);
    tcase_add_test(t, own_checks);
    tcase_add_test(t, columns_of_one_buffer);
    tcase_add_test(t, lines);
    tcase_add_test(t, scratch);
    tcase_add_loop_test(t, put_and_get, 0, 10);
    tcase_add_loop_test(t, plan_counts, 0, 2);
    tcase_add_test(t, plan_scratch);
    tcase_add_loop_test(t, fallback, 0, 2);
    tcase_add_test(t, strict);
    tcase_add_loop_test(t, packed_original, 0, 2);
    tcase_add_test(t, cancel);
    tcase_add_test(t, not_finite);
    tcase_add_test(t, require_finite);
    tcase_add_test(t, first_error);
    tcase_add_test(t, wide_vectors);
    tcase_add_test(t, devices);
    tcase_add_test(t, broken_module);
    return run_suite(s);
}
