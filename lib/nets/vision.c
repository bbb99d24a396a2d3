/* vision.c - Qwen2.5-VL's vision tower: patches, windows, merger.
 *
 * The formulas are those of Qwen2_5_VisionTransformer of transformers.  Patches are given in merge
 * order (groups of merge x merge); the host puts whole groups into window order, with their angles,
 * so that a window is a range of keys.  Blocks with `full` attend to the whole picture.  The host
 * puts the merger's rows back into raster order. */
#include "nets/net.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct block {
    qw_group *group;
    qw_tensor norm1, norm2;
    qw_weight qkv, proj, up, down; /* up: gate and up */
    int full;
} block;

struct qw_vision {
    qw_vision_config c;
    qw_group *group;
    qw_weight patch, merge1, merge2;
    qw_tensor ln_q;
    block *block;
};

static void load_block(qw_loader *l, block *b, const qw_vision_config *c, int i)
{
    b->group = l->group = qw_group_new(l->res, "visual.blocks.%d", i);
    qw_load_vector(l, &b->norm1, c->width, "visual.blocks.%d.norm1.weight", i);
    qw_load_vector(l, &b->norm2, c->width, "visual.blocks.%d.norm2.weight", i);
    qw_load_part(l, &b->qkv, 3 * c->width, c->width, 1, "visual.blocks.%d.attn.qkv", i);
    qw_load_part(l, &b->proj, c->width, c->width, 1, "visual.blocks.%d.attn.proj", i);
    qw_load_part(l, &b->up, c->ff, c->width, 1, "visual.blocks.%d.mlp.gate_proj", i);
    qw_load_part(l, &b->up, c->ff, c->width, 1, "visual.blocks.%d.mlp.up_proj", i);
    qw_load_part(l, &b->down, c->width, c->ff, 1, "visual.blocks.%d.mlp.down_proj", i);
    for (int k = 0; k < c->fulls; k++) b->full |= c->full[k] == i;
}

int qw_vision_load(qw_vision **out, const qw_vision_config *c, qw_loader *l)
{
    const int64_t merged = c->width * c->merge * c->merge;
    *out = NULL;
    qw_vision *v = calloc(1, sizeof *v);
    if (v) v->block = calloc((size_t)c->depth, sizeof *v->block);
    if (!v || !v->block) {
        free(v);
        return qw_fail(l->err, QWEN_ENOMEM, "no memory for the vision tower");
    }
    v->c = *c;
    v->group = l->group = qw_group_new(l->res, "visual");
    qw_load_part(l, &v->patch, c->width, c->channels * c->temporal * c->patch * c->patch, 0,
                 "visual.patch_embed.proj");
    qw_load_vector(l, &v->ln_q, c->width, "visual.merger.ln_q.weight");
    qw_load_part(l, &v->merge1, merged, merged, 1, "visual.merger.mlp.0");
    qw_load_part(l, &v->merge2, c->out, merged, 1, "visual.merger.mlp.2");
    for (int i = 0; i < c->depth && !l->err->status; i++) load_block(l, &v->block[i], c, i);
    if (l->err->status) {
        qw_vision_free(v);
        return l->err->status;
    }
    *out = v;
    return QWEN_OK;
}

void qw_vision_free(qw_vision *v)
{
    if (!v) return;
    qw_weight_free(&v->patch);
    qw_weight_free(&v->merge1);
    qw_weight_free(&v->merge2);
    for (int i = 0; i < v->c.depth; i++) {
        qw_weight_free(&v->block[i].qkv);
        qw_weight_free(&v->block[i].proj);
        qw_weight_free(&v->block[i].up);
        qw_weight_free(&v->block[i].down);
    }
    free(v->block);
    free(v);
}

/* Window order of merged units (merge^2 patches each): order[n] is the n-th unit; first and last
 * [patches] are the range of each patch's keys, in that order.  Windows at the border are
 * smaller. */
static void window_order(const qw_vision_config *c, const qw_grid *g, int32_t *order,
                         int32_t *first, int32_t *last)
{
    const int rows = g->rows / (int)c->merge, cols = g->cols / (int)c->merge,
              unit = (int)(c->merge * c->merge);
    const int side = (int)(c->window / (c->patch * c->merge));
    int n = 0;
    for (int wy = 0; wy < rows; wy += side)
        for (int wx = 0; wx < cols; wx += side) {
            const int begin = n;
            for (int y = wy; y < rows && y < wy + side; y++)
                for (int x = wx; x < cols && x < wx + side; x++) order[n++] = y * cols + x;
            for (int p = begin * unit; p < n * unit; p++) {
                first[p] = begin * unit;
                last[p] = n * unit;
            }
        }
}

/* Gathers n groups of `size` numbers in `order` (scatter: puts them back); dst may not be src. */
static void permute(const double *src, const int32_t *order, int64_t n, int64_t size, int scatter,
                    double *dst)
{
    for (int64_t i = 0; i < n; i++)
        memcpy(dst + (scatter ? order[i] : i) * size, src + (scatter ? i : order[i]) * size,
               (size_t)size * sizeof *dst);
}

static void run_block(qw_run *r, const qw_vision_config *c, const block *b, qw_tensor x,
                      const qw_tensor cs[2], const int32_t *first, const int32_t *last)
{
    const size_t mark = r->used;
    const qw_dtype t = r->dev->prefer;
    const int64_t n = x.dim[0], C = c->width;
    qw_tensor h = qw_new2(r, t, n, C), qkv = qw_new2(r, t, n, 3 * C), att = qw_new2(r, t, n, C);
    qw_group_begin(r, b->group);
    qw_rms_norm(r, (qw_rms_norm_args){ .y = h, .x = x, .w = b->norm1, .eps = c->eps });
    qw_linear(r, qkv, qw_input(r, h, &b->qkv), &b->qkv);
    for (int i = 0; i < 2; i++)
        qw_norm_rope(r, (qw_norm_rope_args){ .x = qw_heads(qw_cols(qkv, i * C, C), c->head),
                                             .cos = cs[0],
                                             .sin = cs[1],
                                             .pairing = QW_HALVES });
    qw_attention(r, (qw_attention_args){ .y = qw_heads(att, c->head),
                                         .q = qw_heads(qw_cols(qkv, 0, C), c->head),
                                         .k = qw_heads(qw_cols(qkv, C, C), c->head),
                                         .v = qw_heads(qw_cols(qkv, 2 * C, C), c->head),
                                         .first = b->full ? NULL : first,
                                         .last = b->full ? NULL : last,
                                         .scale = 1 / sqrt((double)c->head) });
    qw_linear_residual(r, x, qw_input(r, att, &b->proj), &b->proj, (qw_tensor){ 0 });
    qw_rms_norm(r, (qw_rms_norm_args){ .y = h, .x = x, .w = b->norm2, .eps = c->eps });
    qw_tensor up = qw_new2(r, t, n, 2 * c->ff), gated = qw_new2(r, t, n, c->ff);
    qw_linear(r, up, qw_input(r, h, &b->up), &b->up);
    qw_swiglu(r, (qw_swiglu_args){ .y = gated, .x = up });
    qw_linear_residual(r, x, qw_input(r, gated, &b->down), &b->down, (qw_tensor){ 0 });
    qw_group_end(r, b->group);
    r->used = mark;
}

/* One picture on the host. */
typedef struct ordered {
    double *pixels, *angle, *merged; /* in window order */
    int32_t *order, *first, *last;
    int64_t patches, units, features;
} ordered;

static void ordered_free(ordered *p)
{
    free(p->pixels);
    free(p->angle);
    free(p->merged);
    free(p->order);
}

static int ordered_make(ordered *p, const qw_vision_config *c, const double *pixels,
                        const qw_grid *g)
{
    const int64_t unit = c->merge * c->merge, half = c->head / 2;
    p->patches = (int64_t)g->rows * g->cols;
    p->units = p->patches / unit;
    p->features = c->channels * c->temporal * c->patch * c->patch;
    p->pixels = calloc((size_t)(p->patches * p->features), sizeof *p->pixels);
    p->angle = malloc((size_t)(p->patches * half * 3) * sizeof *p->angle);
    p->merged = malloc((size_t)(p->units * c->out) * sizeof *p->merged);
    p->order = malloc((size_t)(p->units + 2 * p->patches) * sizeof *p->order);
    if (!p->pixels || !p->angle || !p->merged || !p->order) return 0;
    p->first = p->order + p->units;
    p->last = p->first + p->patches;
    window_order(c, g, p->order, p->first, p->last);
    if (pixels) permute(pixels, p->order, p->units, unit * p->features, 0, p->pixels);
    double *raw = p->angle + 2 * p->patches * half;
    qw_vision_angles(c, g, raw);
    permute(raw, p->order, p->units, unit * half, 0, p->angle);
    for (int64_t i = 0; i < p->patches * half; i++) {
        const double a = p->angle[i];
        p->angle[i] = cos(a);
        p->angle[p->patches * half + i] = sin(a);
    }
    return 1;
}

/* Taps patch_embed in the order of the inputs, which is that of the published code. */
static void tap_input_order(qw_run *r, qw_tensor x, const ordered *p, const qw_vision_config *c)
{
    const int64_t n = p->patches * c->width;
    if (!r->tap || !r->detail) return;
    double *a = malloc((size_t)(2 * n) * sizeof *a);
    if (!a) {
        qw_run_fail(r, QWEN_ENOMEM, "no memory to show the patch embedding");
    } else {
        qw_get(r, x, a);
        permute(a, p->order, p->units, c->merge * c->merge * c->width, 1, a + n);
        qw_tap_doubles(r, a + n, 2, (const int64_t[]){ p->patches, c->width }, "patch_embed");
        qw_tap_ints(r, p->order, 1, (const int64_t[]){ p->units }, "window_index");
    }
    free(a);
}

void qw_vision_forward(qw_run *r, const qw_vision *v, const double *pixels, const qw_grid *g,
                       double *out)
{
    const qw_vision_config *c = &v->c;
    const size_t mark = r->used;
    const qw_dtype wide = r->dev->wide, t = r->dev->prefer;
    const int64_t unit = c->merge * c->merge, merged = c->width * unit;
    ordered p = { 0 };
    if (r->error.status) return;
    if (g->rows < 1 || g->cols < 1 || g->rows % c->merge || g->cols % c->merge)
        qw_run_fail(r, QWEN_EARG, "a vision grid of %d x %d patches, expected multiples of %lld",
                    g->rows, g->cols, (long long)c->merge);
    else if (!ordered_make(&p, c, pixels, g))
        qw_run_fail(r, QWEN_ENOMEM, "no memory for %d x %d patches", g->rows, g->cols);
    if (!r->error.status) {
        const int64_t n = p.patches;
        qw_tensor x = qw_new2(r, wide, n, c->width), in = qw_new2(r, wide, n, p.features),
                  h = qw_new2(r, t, n, c->width);
        const qw_tensor cs[2] = { qw_new2(r, wide, n, c->head / 2),
                                  qw_new2(r, wide, n, c->head / 2) };
        qw_tensor m = qw_new2(r, t, p.units, merged), y = qw_new2(r, wide, p.units, c->out);
        qw_put(r, in, p.pixels);
        for (int i = 0; i < 2; i++) qw_put(r, cs[i], p.angle + i * n * (c->head / 2));
        qw_group_begin(r, v->group);
        qw_linear(r, x, in, &v->patch);
        qw_group_end(r, v->group);
        tap_input_order(r, x, &p, c);
        for (int i = 0; i < c->depth; i++) {
            r->block = i;
            run_block(r, c, &v->block[i], x, cs, p.first, p.last);
            if (r->detail) qw_tap(r, x, "block.%d", i);
        }
        r->block = -1;
        qw_rms_norm(r, (qw_rms_norm_args){ .y = h, .x = x, .w = v->ln_q, .eps = c->eps });
        qw_group_begin(r, v->group);
        qw_linear_act(r, m, qw_dense2(h.data, t, p.units, merged), &v->merge1, QW_GELU_ERF);
        qw_linear(r, y, m, &v->merge2);
        qw_group_end(r, v->group);
        if (r->detail) qw_tap(r, y, "merger");
        qw_get(r, y, p.merged);
        if (out && !r->error.status) permute(p.merged, p.order, p.units, c->out, 1, out);
    }
    ordered_free(&p);
    r->used = mark;
}
