/* text.c - Qwen2.5-VL's language model, from tokens to the last hidden state.
 *
 * The formulas are those of Qwen2_5_VLTextModel of transformers: pre-norm layers with grouped-query
 * attention, M-RoPE and SwiGLU.  The pipelines use the output of the last layer after the final
 * norm. */
#include "nets/net.h"
#include <math.h>
#include <stdlib.h>

typedef struct layer {
    qw_group *group;
    qw_tensor norm1, norm2;       /* [width] */
    qw_weight qkv, out, up, down; /* up: gate and up */
} layer;

struct qw_text {
    qw_text_config c;
    qw_tensor embed; /* [vocab][width], in the mapped file */
    layer *layer;
    qw_tensor norm;
};

static void load_layer(qw_loader *l, layer *y, const qw_text_config *c, int i)
{
    const int64_t q = c->heads * c->head, k = c->kv_heads * c->head;
    y->group = l->group = qw_group_new(l->res, "model.layers.%d", i);
    qw_load_vector(l, &y->norm1, c->width, "model.layers.%d.input_layernorm.weight", i);
    qw_load_vector(l, &y->norm2, c->width, "model.layers.%d.post_attention_layernorm.weight", i);
    qw_load_part(l, &y->qkv, q, c->width, 1, "model.layers.%d.self_attn.q_proj", i);
    qw_load_part(l, &y->qkv, k, c->width, 1, "model.layers.%d.self_attn.k_proj", i);
    qw_load_part(l, &y->qkv, k, c->width, 1, "model.layers.%d.self_attn.v_proj", i);
    qw_load_part(l, &y->out, c->width, q, 0, "model.layers.%d.self_attn.o_proj", i);
    qw_load_part(l, &y->up, c->ff, c->width, 0, "model.layers.%d.mlp.gate_proj", i);
    qw_load_part(l, &y->up, c->ff, c->width, 0, "model.layers.%d.mlp.up_proj", i);
    qw_load_part(l, &y->down, c->width, c->ff, 0, "model.layers.%d.mlp.down_proj", i);
}

int qw_text_load(qw_text **out, const qw_text_config *c, qw_loader *l)
{
    *out = NULL;
    qw_text *t = calloc(1, sizeof *t);
    if (t) t->layer = calloc((size_t)c->layers, sizeof *t->layer);
    if (!t || !t->layer) {
        free(t);
        return qw_fail(l->err, QWEN_ENOMEM, "no memory for the text encoder");
    }
    t->c = *c;
    qw_load_table(l, &t->embed, c->vocab, c->width, "model.embed_tokens.weight");
    for (int i = 0; i < c->layers; i++) load_layer(l, &t->layer[i], c, i);
    qw_load_vector(l, &t->norm, c->width, "model.norm.weight");
    if (l->err->status) {
        qw_text_free(t);
        return l->err->status;
    }
    *out = t;
    return QWEN_OK;
}

void qw_text_free(qw_text *t)
{
    if (!t) return;
    for (int i = 0; i < t->c.layers; i++) {
        qw_weight_free(&t->layer[i].qkv);
        qw_weight_free(&t->layer[i].out);
        qw_weight_free(&t->layer[i].up);
        qw_weight_free(&t->layer[i].down);
    }
    free(t->layer);
    free(t);
}

/* The embeddings of ids, picture tokens replaced by features; [n][width], malloc'ed, NULL without
 * memory (the run has failed). */
static double *embed(qw_run *r, const qw_text *t, const int32_t *ids, int64_t n,
                     const double *features, int64_t feature_rows)
{
    const int64_t width = t->c.width;
    double *x = malloc((size_t)(n * width) * sizeof *x);
    int64_t feature = 0;
    if (!x) qw_run_fail(r, QWEN_ENOMEM, "no memory for %lld embeddings", (long long)n);
    for (int64_t i = 0; i < n && !r->error.status; i++) {
        if (ids[i] < 0 || ids[i] >= t->c.vocab)
            qw_run_fail(r, QWEN_EARG, "token %d is outside the vocabulary of %lld", ids[i],
                        (long long)t->c.vocab);
        else if (ids[i] != t->c.image_token || !feature_rows)
            qw_weight_row(&t->embed, ids[i], x + i * width);
        else if (feature == feature_rows)
            qw_run_fail(r, QWEN_EARG, "more picture tokens than the %lld rows of features",
                        (long long)feature_rows);
        else {
            for (int64_t j = 0; features && j < width; j++)
                x[i * width + j] = features[feature * width + j];
            feature++;
        }
    }
    if (feature < feature_rows)
        qw_run_fail(r, QWEN_EARG, "%lld rows of features for %lld picture tokens",
                    (long long)feature_rows, (long long)feature);
    return x;
}

/* cos and sin of M-RoPE, [n][head/2] each, on the device. */
static void put_rope(qw_run *r, const qw_text_config *c, const int32_t *positions, int64_t n,
                     qw_tensor cs[2])
{
    const int64_t size = n * (c->head / 2);
    double *angle = malloc((size_t)size * 2 * sizeof *angle);
    if (!angle) {
        qw_run_fail(r, QWEN_ENOMEM, "no memory for positions");
        return;
    }
    qw_mrope_angles(c, positions, n, angle);
    for (int64_t i = 0; i < size; i++) {
        const double a = angle[i];
        angle[i] = cos(a);
        angle[size + i] = sin(a);
    }
    for (int i = 0; i < 2; i++) {
        qw_put(r, cs[i], angle + i * size);
        if (r->detail) qw_tap(r, cs[i], i ? "sin" : "cos");
    }
    free(angle);
}

static void forward_layer(qw_run *r, const qw_text_config *c, const layer *y, qw_tensor x,
                          const qw_tensor cs[2], const int32_t *first, const int32_t *last)
{
    const size_t mark = r->used;
    const qw_dtype t = r->dev->prefer;
    const int64_t n = x.dim[0], q = c->heads * c->head, k = c->kv_heads * c->head;
    qw_tensor h = qw_new2(r, t, n, c->width), qkv = qw_new2(r, t, n, q + 2 * k),
              att = qw_new2(r, t, n, q);
    const qw_tensor qs = qw_heads(qw_cols(qkv, 0, q), c->head),
                    ks = qw_heads(qw_cols(qkv, q, k), c->head);

    qw_group_begin(r, y->group);
    qw_rms_norm(r, (qw_rms_norm_args){ .y = h, .x = x, .w = y->norm1, .eps = c->eps });
    qw_linear(r, qkv, qw_input(r, h, &y->qkv), &y->qkv);
    qw_norm_rope(r,
                 (qw_norm_rope_args){ .x = qs, .cos = cs[0], .sin = cs[1], .pairing = QW_HALVES });
    qw_norm_rope(r,
                 (qw_norm_rope_args){ .x = ks, .cos = cs[0], .sin = cs[1], .pairing = QW_HALVES });
    qw_attention(r, (qw_attention_args){ .y = qw_heads(att, c->head),
                                         .q = qs,
                                         .k = ks,
                                         .v = qw_heads(qw_cols(qkv, q + k, k), c->head),
                                         .first = first,
                                         .last = last,
                                         .scale = 1 / sqrt((double)c->head) });
    qw_linear_residual(r, x, qw_input(r, att, &y->out), &y->out, (qw_tensor){ 0 });
    qw_rms_norm(r, (qw_rms_norm_args){ .y = h, .x = x, .w = y->norm2, .eps = c->eps });
    qw_tensor up = qw_new2(r, t, n, 2 * c->ff), gated = qw_new2(r, t, n, c->ff);
    qw_linear(r, up, qw_input(r, h, &y->up), &y->up);
    qw_swiglu(r, (qw_swiglu_args){ .y = gated, .x = up });
    qw_linear_residual(r, x, qw_input(r, gated, &y->down), &y->down, (qw_tensor){ 0 });
    qw_group_end(r, y->group);
    r->used = mark;
}

void qw_text_forward(qw_run *r, const qw_text *t, const int32_t *ids, int64_t n,
                     const double *features, int64_t feature_rows, const int32_t *positions,
                     double *out)
{
    const qw_text_config *c = &t->c;
    const size_t mark = r->used;
    if (r->error.status) return;
    int32_t *range = malloc((size_t)n * 2 * sizeof *range); /* causal: keys 0 .. i of query i */
    double *x0 = embed(r, t, ids, n, features, feature_rows);
    if (!range) qw_run_fail(r, QWEN_ENOMEM, "no memory for %lld tokens", (long long)n);
    for (int64_t i = 0; range && i < n; i++) {
        range[i] = 0;
        range[n + i] = (int32_t)i + 1;
    }
    if (!r->error.status) {
        qw_tensor x = qw_new2(r, r->dev->wide, n, c->width),
                  y = qw_new2(r, r->dev->wide, n, c->width);
        const qw_tensor cs[2] = { qw_new2(r, r->dev->wide, n, c->head / 2),
                                  qw_new2(r, r->dev->wide, n, c->head / 2) };
        qw_put(r, x, x0);
        put_rope(r, c, positions, n, (qw_tensor[]){ cs[0], cs[1] });
        qw_tap_ints(r, ids, 1, &n, "ids");
        qw_tap_ints(r, positions, 2, (const int64_t[]){ 3, n }, "positions");
        qw_tap(r, x, "hidden.0");
        for (int i = 0; i < c->layers; i++) {
            r->block = i;
            forward_layer(r, c, &t->layer[i], x, cs, range, range + n);
            if (i + 1 < c->layers) qw_tap(r, x, "hidden.%d", i + 1);
            else if (r->detail) qw_tap(r, x, "layer.%d", i);
        }
        r->block = -1;
        qw_rms_norm(r, (qw_rms_norm_args){ .y = y, .x = x, .w = t->norm, .eps = c->eps });
        qw_tap(r, y, "hidden.%d", (int)c->layers);
        qw_get(r, y, out);
    }
    free(range);
    free(x0);
    r->used = mark;
}
