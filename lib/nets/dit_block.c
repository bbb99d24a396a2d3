/* dit_block.c - a block of the MMDiT: its weights, and its two streams joined in attention. */
#include "nets/dit.h"
#include <math.h>

enum { MOD = 6 };
static const double EPS = 1e-6;

/* --- weights ---------------------------------------------------------------------------------- */

/* Nonzero: the file has numbers, which a device that quantises would have to quantise at each
 * use. */
static int numbers(const qw_weight *w)
{
    for (int i = 0; i < w->parts; i++)
        if (w->part[i].w.dtype == QW_I8 || qw_block_elements(w->part[i].w.dtype) > 1) return 0;
    return 1;
}

/* At the few rows of a text it takes as long to quantise a weight as the products of codes save. */
static void leave_plain(qw_dit_stream *s)
{
    qw_weight *const all[] = { &s->qkv, &s->out, &s->up, &s->down };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) all[i]->plain = numbers(all[i]);
}

static void load_stream(qw_loader *l, qw_dit_stream *s, const qw_dit_config *c, const char *block,
                        int text)
{
    static const char *const project[2][3] = { { "to_q", "to_k", "to_v" },
                                               { "add_q_proj", "add_k_proj", "add_v_proj" } };
    const char *side = text ? "txt" : "img", *norm = text ? "norm_added_" : "norm_";
    char key[300];
    for (int i = 0; i < 3; i++)
        qw_load_part(l, &s->qkv, c->width, c->width, 1, "%s.attn.%s", block, project[text][i]);
    qw_load_part(l, &s->out, c->width, c->width, 1, "%s.attn.%s", block,
                 text ? "to_add_out" : "to_out.0");
    qw_load_vector(l, &s->norm_q, c->head, "%s.attn.%sq.weight", block, norm);
    qw_load_vector(l, &s->norm_k, c->head, "%s.attn.%sk.weight", block, norm);
    snprintf(key, sizeof key, "%.200s.%s_mlp.net.0.proj.weight", block, side);
    const qw_entry *up = qw_store_find(l->store, key);
    const int64_t ff = up && up->rank == 2 ? up->dim[0] : 4 * c->width; /* the file's */
    qw_load_part(l, &s->up, ff, c->width, 1, "%s.%s_mlp.net.0.proj", block, side);
    qw_load_part(l, &s->down, c->width, ff, 1, "%s.%s_mlp.net.2", block, side);
    if (text) leave_plain(s);
}

void qw_dit_new_groups(qw_loader *l, qw_dit_block *b, int n, const char *prefix)
{
    for (int i = 0; i < n; i++) b[i].group = qw_group_new(l->res, "%.32s.%d", prefix, i);
    for (int i = 0; i < n; i++) b[i].mod_group = qw_group_new(l->res, "%.32s.%d mod", prefix, i);
}

void qw_dit_load_block(qw_loader *l, qw_dit_block *b, const qw_dit_config *c, const char *prefix,
                       int i)
{
    char name[128];
    snprintf(name, sizeof name, "%.100s.%d", prefix, i);
    l->group = b->group;
    load_stream(l, &b->picture, c, name, 0);
    load_stream(l, &b->text, c, name, 1);
    l->group = b->mod_group;
    qw_load_part(l, &b->picture.mod, MOD * c->width, c->width, 1, "%s.img_mod.1", name);
    qw_load_part(l, &b->text.mod, MOD * c->width, c->width, 1, "%s.txt_mod.1", name);
}

static void free_stream(qw_dit_stream *s)
{
    qw_weight_free(&s->qkv);
    qw_weight_free(&s->out);
    qw_weight_free(&s->up);
    qw_weight_free(&s->down);
    qw_weight_free(&s->mod);
}

void qw_dit_free_block(qw_dit_block *b)
{
    free_stream(&b->picture);
    free_stream(&b->text);
}

/* --- one pass --------------------------------------------------------------------------------- */

static qw_tensor chunk(const qw_dit_part *p, int i, int64_t width)
{
    return qw_cols(p->mod, i * width, width);
}

static void head_norm_rope(qw_run *r, qw_tensor x, qw_tensor w, const qw_dit_part *p, int64_t head)
{
    qw_norm_rope(r, (qw_norm_rope_args){ .x = qw_heads(x, head),
                                         .w = w,
                                         .cos = p->cos,
                                         .sin = p->sin,
                                         .pairing = QW_PAIRS,
                                         .eps = EPS });
}

/* Chunks 0 to 5 of a part's modulation are shift, scale, gate of attention, then of the MLP. */
void qw_dit_run_block(qw_run *r, const qw_dit_config *c, const qw_dit_block *b,
                      const qw_dit_part *p, int parts, qw_tensor x)
{
    const int64_t C = c->width, n = x.dim[0];
    const qw_dtype t = r->dev->prefer;
    const size_t mark = r->used;
    qw_tensor qkv = qw_new2(r, t, n, 3 * C), att = qw_new2(r, t, n, C);

    qw_group_begin(r, b->group);
    for (int i = 0; i < parts; i++) {
        const size_t inner = r->used;
        const qw_dit_stream *w = p[i].w;
        qw_tensor h = qw_new2(r, qw_input_type(r, &w->qkv), p[i].rows, C);
        qw_tensor u = qw_rows(qkv, p[i].first, p[i].rows);
        qw_ln_mod(r, (qw_ln_mod_args){ .y = h,
                                       .x = qw_rows(x, p[i].first, p[i].rows),
                                       .eps = EPS,
                                       .shift = chunk(&p[i], 0, C),
                                       .scale = chunk(&p[i], 1, C) });
        qw_linear(r, u, h, &w->qkv);
        head_norm_rope(r, qw_cols(u, 0, C), w->norm_q, &p[i], c->head);
        head_norm_rope(r, qw_cols(u, C, C), w->norm_k, &p[i], c->head);
        r->used = inner;
    }
    qw_attention(r, (qw_attention_args){ .y = qw_heads(att, c->head),
                                         .q = qw_heads(qw_cols(qkv, 0, C), c->head),
                                         .k = qw_heads(qw_cols(qkv, C, C), c->head),
                                         .v = qw_heads(qw_cols(qkv, 2 * C, C), c->head),
                                         .scale = 1 / sqrt((double)c->head) });
    for (int i = 0; i < parts; i++) {
        const size_t inner = r->used;
        qw_tensor s = qw_rows(x, p[i].first, p[i].rows);
        const qw_dit_stream *w = p[i].w;
        qw_tensor h = qw_new2(r, qw_input_type(r, &w->up), p[i].rows, C);
        qw_tensor u = qw_new2(r, qw_output_type(r, &w->up, &w->down), p[i].rows, w->up.n);
        qw_tensor o = qw_input(r, qw_rows(att, p[i].first, p[i].rows), &w->out);
        qw_linear_residual(r, s, o, &w->out, chunk(&p[i], 2, C));
        qw_ln_mod(r, (qw_ln_mod_args){ .y = h,
                                       .x = s,
                                       .eps = EPS,
                                       .shift = chunk(&p[i], 3, C),
                                       .scale = chunk(&p[i], 4, C) });
        qw_linear_act(r, u, h, &w->up, QW_GELU_TANH);
        qw_linear_residual(r, s, qw_input(r, u, &w->down), &w->down, chunk(&p[i], 5, C));
        r->used = inner;
    }
    qw_group_end(r, b->group);
    r->used = mark;
}
