/* check_op_table.c - the op table refuses wrong calls and prints lines. */
#include "devices.h"
#include "testing.h"
#include <math.h>
#include <string.h>

typedef struct fixture {
    qw_device *ref;
    qw_run r;
    float x[4096];
    double zero[4096];
} fixture;

/* A valid call of each op on scratch; the tests below make it wrong. */
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

static void accepted(const qw_op_info *info, const qw_any_args *a)
{
    char why[300] = "";
    ck_assert_msg(!info->check(a, why, sizeof why), "%s", why);
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
        /* A convolution's picture may have more rows than the output needs. */
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

/* Rules of a single op. */
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
    const float scale[3] = { 0 };
    b.convert.y.scale = scale;
    refused(row(QW_OP_convert), &b, "one scale for all rows of codes");
    b.convert.y.scale_stride = 1;
    accepted(row(QW_OP_convert), &b);
    valid(&r, &a, QW_OP_ln_mod), a.ln_mod.y.dtype = QW_I8;
    refused(row(QW_OP_ln_mod), &a, "codes without scales");
    a.ln_mod.y.scale = scale, a.ln_mod.y.scale_stride = 1;
    accepted(row(QW_OP_ln_mod), &a);
    valid(&r, &a, QW_OP_gemm), a.gemm.gate = a.gemm.res = (qw_tensor){ 0 }, a.gemm.y.dtype = QW_I8;
    refused(row(QW_OP_gemm), &a, "codes without scales");
    a.gemm.y.scale = scale, a.gemm.y.scale_stride = 1;
    accepted(row(QW_OP_gemm), &a);
    valid(&r, &b, QW_OP_gemm), a.gemm.gate = b.gemm.gate;
    refused(row(QW_OP_gemm), &a, "codes with a gate");
    a.gemm.gate = (qw_tensor){ 0 }, a.gemm.res = b.gemm.res;
    refused(row(QW_OP_gemm), &a, "codes with a residual");
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
        qw_op_line(op, &a, line, sizeof line);
        ck_assert_str_eq(line, want[op]);
        char small[8];
        qw_op_line(op, &a, small, sizeof small);
        ck_assert(strlen(small) < sizeof small);
    }
    qw_run_free(&r);
    ref->close(ref);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("op table");
    TCase *c = tcase_create("op table");
    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, checks, 0, QW_NOPS);
    tcase_add_test(c, own_checks);
    tcase_add_test(c, columns_of_one_buffer);
    tcase_add_test(c, lines);
    suite_add_tcase(s, c);
    return run_suite(s);
}
