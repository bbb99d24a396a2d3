/* linear.c - y = x wT + b: the one door to gemm for all nets.
 *
 * A weight is rows of up to three parts, each with its own dtype, scale and bias: one gemm per part
 * into its columns of y.  A rotated part wants rotated inputs (a weight W = V H has x WT = (x H)
 * VT, H symmetric), which parts in the same basis share.  A LoRA sees the inputs as they are. */
#include "nets/net.h"

/* act(x wT + b) into y, or y + gate act(...) when `add`. */
static void apply(qw_run *r, qw_tensor y, qw_tensor x, const qw_weight *w, qw_act act, int add,
                  qw_tensor gate)
{
    const size_t mark = r->used;
    qw_tensor turned = { 0 };
    int basis = 0;
    int64_t first = 0;
    for (int i = 0; i < w->parts; i++) {
        const qw_weight_part *p = &w->part[i];
        const int64_t n = p->w.dim[0];
        if (p->w.rotated && p->w.rotated != basis) {
            basis = p->w.rotated;
            turned = qw_new2(r, x.dtype, x.dim[0], x.dim[1]);
            qw_convert(r, (qw_convert_args){ .y = turned, .x = x, .rotate = basis });
        }
        qw_gemm_args a = { .y = qw_cols(y, first, n),
                           .x = p->w.rotated ? turned : x,
                           .w = p->w,
                           .bias = p->bias,
                           .act = act };
        if (add) a.res = a.y;
        if (add && qw_present(&gate)) a.gate = qw_cols(gate, first, n);
        if (qw_present(&p->a)) {
            a.x2 = qw_new2(r, r->dev->wide, x.dim[0], p->a.dim[0]);
            a.w2 = p->b;
            qw_gemm(r, (qw_gemm_args){ .y = a.x2, .x = x, .w = p->a });
        }
        qw_gemm(r, a);
        first += n;
    }
    r->used = mark;
}

void qw_linear(qw_run *r, qw_tensor y, qw_tensor x, const qw_weight *w)
{
    apply(r, y, x, w, QW_ACT_NONE, 0, (qw_tensor){ 0 });
}

void qw_linear_act(qw_run *r, qw_tensor y, qw_tensor x, const qw_weight *w, qw_act act)
{
    apply(r, y, x, w, act, 0, (qw_tensor){ 0 });
}

void qw_linear_residual(qw_run *r, qw_tensor y, qw_tensor x, const qw_weight *w, qw_tensor gate)
{
    apply(r, y, x, w, QW_ACT_NONE, 1, gate);
}
