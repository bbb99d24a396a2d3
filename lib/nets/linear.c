/* linear.c - y = x wT + b, the linear layers of all nets.
 *
 * A weight has up to three parts, rows with a dtype, scale and bias of their own: one gemm per part
 * writes its columns of y, or one gemm all of them where the device has joined the parts.  A
 * rotated part is multiplied with rotated inputs (a weight W = V H has x WT = (x H) VT, H
 * symmetric), which parts in the same basis share.  The factors of a LoRA are multiplied with the
 * inputs before a rotation.
 *
 * On a device that quantises, a branch that only these layers read is rows of codes with a scale
 * each (QW_I8).  The op that computes the branch writes the codes, or a conversion if that op
 * does not write codes; q, k, v and the factors of a LoRA share them.  A branch that a rotated
 * part reads is of the preferred type: the LoRA reads it so, and the rotation writes the codes. */
#include "nets/net.h"

/* The use of z = x wT + b: y = gate act(z), or with add y = y + gate act(z). */
typedef struct use {
    qw_act act;
    int add;
    qw_tensor gate; /* [n] or absent */
} use;

/* x aT, the operand x2 of a part with a LoRA; absent for a part without. */
static qw_tensor low_rank(qw_run *r, qw_tensor x, const qw_weight_part *p)
{
    if (!qw_present(&p->a)) return (qw_tensor){ 0 };
    const qw_tensor y = qw_new2(r, r->dev->prefer, x.dim[0], p->a.dim[0]);
    qw_gemm(r, (qw_gemm_args){ .y = y, .x = x, .w = p->a });
    return y;
}

/* x in the rotated basis; QW_I8 on devices that quantise, unless w is plain. */
static qw_tensor rotated(qw_run *r, qw_tensor x, const qw_weight *w, int basis)
{
    const qw_dtype t = r->dev->quant == QW_I8 && !w->plain ? QW_I8 : x.dtype;
    const qw_tensor y = qw_new2(r, t, x.dim[0], x.dim[1]);
    qw_convert(r, (qw_convert_args){ .y = y, .x = x, .rotate = basis });
    return y;
}

/* One gemm for all parts, then the LoRA products of the parts are added to their columns; a layer
 * with an activation and a LoRA is not computed here (apply). */
static void apply_joined(qw_run *r, qw_tensor y, qw_tensor x, const qw_weight *w, const use *u)
{
    qw_gemm_args a = { .y = y, .x = x, .w = w->joined, .bias = w->joined_bias, .act = u->act };
    a.gate = u->gate;
    if (u->add) a.res = y;
    if (w->joined.rotated) a.x = rotated(r, x, w, w->joined.rotated);
    qw_gemm(r, a);
    int64_t first = 0;
    for (int i = 0; i < w->parts; i++) {
        const qw_weight_part *p = &w->part[i];
        const int64_t n = p->w.dim[0];
        if (qw_present(&p->a)) {
            const qw_tensor part = qw_cols(y, first, n);
            qw_gemm_args b = { .y = part, .x = low_rank(r, x, p), .w = p->b, .res = part };
            if (qw_present(&u->gate)) b.gate = qw_cols(u->gate, first, n);
            qw_gemm(r, b);
        }
        first += n;
    }
}

static void apply_parts(qw_run *r, qw_tensor y, qw_tensor x, const qw_weight *w, const use *u)
{
    qw_tensor turned = { 0 };
    int basis = 0;
    int64_t first = 0;
    for (int i = 0; i < w->parts; i++) {
        const qw_weight_part *p = &w->part[i];
        const int64_t n = p->w.dim[0];
        if (p->w.rotated && p->w.rotated != basis) {
            basis = p->w.rotated;
            turned = rotated(r, x, w, basis);
        }
        qw_gemm_args a = { .y = qw_cols(y, first, n),
                           .x = p->w.rotated ? turned : x,
                           .w = p->w,
                           .bias = p->bias,
                           .x2 = low_rank(r, x, p),
                           .act = u->act };
        if (qw_present(&p->a)) a.w2 = p->b;
        if (u->add) a.res = a.y;
        if (qw_present(&u->gate)) a.gate = qw_cols(u->gate, first, n);
        qw_gemm(r, a);
        first += n;
    }
}

static void apply(qw_run *r, qw_tensor y, qw_tensor x, const qw_weight *w, use u)
{
    const size_t mark = r->used;
    if (y.dtype == QW_I8 && w->parts > 1) { /* a row has one scale */
        qw_run_fail(r, QWEN_EUNSUPPORTED, "rows of codes from a layer of %d parts", w->parts);
        return;
    }
    int joined = qw_present(&w->joined);
    for (int i = 0; i < w->parts; i++) {
        joined = joined && !w->part[i].patched;
        joined = joined && qw_present(&w->part[i].bias) == qw_present(&w->joined_bias);
        joined = joined && !(u.act && qw_present(&w->part[i].a));
    }
    if (joined) apply_joined(r, y, x, w, &u);
    else apply_parts(r, y, x, w, &u);
    r->used = mark;
}

void qw_linear(qw_run *r, qw_tensor y, qw_tensor x, const qw_weight *w)
{
    apply(r, y, x, w, (use){ QW_ACT_NONE, 0, { 0 } });
}

void qw_linear_act(qw_run *r, qw_tensor y, qw_tensor x, const qw_weight *w, qw_act act)
{
    apply(r, y, x, w, (use){ act, 0, { 0 } });
}

void qw_linear_scaled(qw_run *r, qw_tensor y, qw_tensor x, const qw_weight *w, qw_tensor gate)
{
    apply(r, y, x, w, (use){ QW_ACT_NONE, 0, gate });
}

void qw_linear_residual(qw_run *r, qw_tensor y, qw_tensor x, const qw_weight *w, qw_tensor gate)
{
    apply(r, y, x, w, (use){ QW_ACT_NONE, 1, gate });
}

/* --- inputs ----------------------------------------------------------------------------------- */

/* A rotated part quantises its input after the rotation. */
qw_dtype qw_input_type(const qw_run *r, const qw_weight *w)
{
    int turned = w->plain;
    for (int i = 0; i < w->parts; i++) turned |= w->part[i].w.rotated != 0;
    return r->dev->quant == QW_I8 && !turned ? QW_I8 : r->dev->prefer;
}

qw_dtype qw_output_type(const qw_run *r, const qw_weight *w, const qw_weight *next)
{
    return w->parts == 1 ? qw_input_type(r, next) : r->dev->prefer;
}

qw_tensor qw_input(qw_run *r, qw_tensor x, const qw_weight *w)
{
    if (x.dtype == QW_I8 || qw_input_type(r, w) != QW_I8) return x;
    const qw_tensor y = qw_new2(r, QW_I8, x.dim[0], x.dim[1]);
    qw_convert(r, (qw_convert_args){ .y = y, .x = x });
    return y;
}
