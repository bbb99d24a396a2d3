/* dit.c - the MMDiT of Qwen-Image: picture tokens and text tokens, joined in attention.
 *
 * Follows QwenImageTransformer2DModel of diffusers.  Text comes first in the joint sequence, so
 * that one buffer holds both streams and the projections of each are written into its rows.  All
 * that depends on the timestep alone (the embedding, each block's shift, scale and gate) is
 * computed for all steps before the first one: those weights are read once a picture, and the table
 * stays on the host. */
#include "nets/dit.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SINUSOID = 256, MOD = 6 };
static const double EPS = 1e-6;

/* --- weights ---------------------------------------------------------------------------------- */

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
    const int64_t ff = up && up->rank == 2 ? up->dim[0] : 4 * c->width; /* the weights tell */
    qw_load_part(l, &s->up, ff, c->width, 1, "%s.%s_mlp.net.0.proj", block, side);
    qw_load_part(l, &s->down, c->width, ff, 1, "%s.%s_mlp.net.2", block, side);
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

/* Row 0 of the table of additions, which is the one the pipelines take. */
static void load_addition(qw_loader *l, qw_dit *d)
{
    qw_tensor t = { 0 };
    const int64_t n = d->c.width;
    qw_load_table(l, &t, 2, n, "time_text_embed.addition_t_embedding.weight");
    d->addition = malloc((size_t)n * sizeof *d->addition);
    if (!d->addition) qw_fail(l->err, QWEN_ENOMEM, "no memory for the addition embedding");
    if (!l->err->status && t.data) qw_weight_row(&t, 0, d->addition);
}

int qw_dit_load(qw_dit **out, const qw_dit_config *c, qw_loader *l)
{
    *out = NULL;
    qw_dit *d = calloc(1, sizeof *d);
    if (d) d->block = calloc((size_t)c->layers, sizeof *d->block);
    if (!d || !d->block) {
        free(d);
        return qw_fail(l->err, QWEN_ENOMEM, "no memory for the transformer");
    }
    d->c = *c;
    d->group = l->group = qw_group_new(l->res, "transformer");
    qw_load_part(l, &d->img_in, c->width, c->in, 1, "img_in");
    qw_load_part(l, &d->txt_in, c->width, c->text_width, 1, "txt_in");
    qw_load_vector(l, &d->txt_norm, c->text_width, "txt_norm.weight");
    qw_load_part(l, &d->time1, c->width, SINUSOID, 1, "time_text_embed.timestep_embedder.linear_1");
    qw_load_part(l, &d->time2, c->width, c->width, 1, "time_text_embed.timestep_embedder.linear_2");
    qw_load_part(l, &d->norm_out, 2 * c->width, c->width, 1, "norm_out.linear");
    qw_load_part(l, &d->proj_out, c->patch * c->patch * c->out, c->width, 1, "proj_out");
    if (c->additional_t) load_addition(l, d);
    qw_dit_new_groups(l, d->block, (int)c->layers, "transformer_blocks");
    for (int i = 0; i < c->layers && !l->err->status; i++)
        qw_dit_load_block(l, &d->block[i], c, "transformer_blocks", i);
    if (l->err->status) {
        qw_dit_free(d);
        return l->err->status;
    }
    *out = d;
    return QWEN_OK;
}

void qw_dit_free(qw_dit *d)
{
    if (!d) return;
    qw_weight *const outer[] = { &d->img_in, &d->txt_in,   &d->time1,
                                 &d->time2,  &d->norm_out, &d->proj_out };
    for (size_t i = 0; i < sizeof outer / sizeof *outer; i++) qw_weight_free(outer[i]);
    for (int i = 0; i < d->c.layers; i++) qw_dit_free_block(&d->block[i]);
    free(d->addition);
    free(d->block);
    free(d);
}

const qw_dit_config *qw_dit_config_of(const qw_dit *d) { return &d->c; }

static int each_part(qw_weight *w, int (*each)(void *, qw_weight_part *, int64_t, int64_t),
                     void *user)
{
    for (int i = 0; i < w->parts; i++) {
        const int status = each(user, &w->part[i], w->part[i].w.dim[0], w->part[i].w.dim[1]);
        if (status) return status;
    }
    return 0;
}

int qw_dit_each_weight(qw_dit *d, int (*each)(void *user, qw_weight_part *p, int64_t n, int64_t k),
                       void *user)
{
    qw_weight *const outer[] = { &d->img_in, &d->txt_in,   &d->time1,
                                 &d->time2,  &d->norm_out, &d->proj_out };
    int status = 0;
    for (size_t i = 0; i < sizeof outer / sizeof *outer && !status; i++)
        status = each_part(outer[i], each, user);
    for (int i = 0; i < d->c.layers; i++)
        for (int text = 0; text < 2; text++) {
            qw_dit_stream *s = text ? &d->block[i].text : &d->block[i].picture;
            qw_weight *const inner[] = { &s->qkv, &s->out, &s->up, &s->down, &s->mod };
            for (size_t k = 0; k < sizeof inner / sizeof *inner && !status; k++)
                status = each_part(inner[k], each, user);
        }
    return status;
}

/* --- everything that depends on the timestep only --------------------------------------------- */

/* cos then sin of 1000 t 10000^(-k/128), k = 0 .. 127. */
static void sinusoid(double t, double *out)
{
    const int half = SINUSOID / 2;
    for (int k = 0; k < half; k++) {
        const double a = 1000 * (t * exp(-log(10000) * k / half));
        out[k] = cos(a);
        out[half + k] = sin(a);
    }
}

/* Raw bytes of a dense wide tensor to the host. */
static void fetch(qw_run *r, qw_tensor t, unsigned char *out)
{
    if (r->error.status) return;
    if (r->dev->get(r->dev, QW_COMPUTE, out, t.data, qw_row_bytes(t.dtype, qw_elements(&t))))
        qw_run_fail(r, QWEN_EDEVICE, "%s did not give back the modulation", r->dev->name);
}

static qw_modulation *new_table(const qw_dit_config *c, int steps, int blocks, int out,
                                size_t element)
{
    qw_modulation *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    m->steps = steps;
    m->zero = c->zero_cond_t;
    m->rows = steps + m->zero;
    m->blocks = blocks;
    m->width = c->width;
    m->element = element;
    const size_t rows = (size_t)m->rows, width = (size_t)c->width;
    m->proj = calloc(rows * SINUSOID, sizeof *m->proj);
    m->temb = calloc(rows * width, sizeof *m->temb);
    m->table = calloc((size_t)blocks * 2 * rows * MOD * width, element);
    m->last = out ? calloc(rows * 2 * width, element) : NULL;
    if (m->proj && m->temb && m->table && (m->last || !out)) return m;
    qw_modulation_free(m);
    return NULL;
}

void qw_modulation_free(qw_modulation *m)
{
    if (!m) return;
    free(m->proj);
    free(m->temb);
    free(m->table);
    free(m->last);
    free(m);
}

/* temb = linear_2(silu(linear_1(sinusoid))) + addition, and silu(temb) on the device. */
static void embed_time(qw_run *r, const qw_dit_config *c, const qw_weight *time1,
                       const qw_weight *time2, const double *addition, qw_modulation *m,
                       qw_tensor silu)
{
    const size_t mark = r->used;
    const qw_dtype wide = r->dev->wide;
    const int64_t rows = m->rows, n = rows * c->width;
    qw_tensor x = qw_new2(r, wide, rows, SINUSOID), h = qw_new2(r, wide, rows, c->width);
    qw_tensor y = qw_new2(r, wide, rows, c->width);
    double *s = malloc((size_t)n * sizeof *s);
    if (!s) qw_run_fail(r, QWEN_ENOMEM, "no memory for %lld timesteps", (long long)rows);
    qw_put(r, x, m->proj);
    qw_linear_act(r, h, x, time1, QW_SILU);
    qw_linear(r, y, h, time2);
    qw_get(r, y, m->temb);
    for (int64_t i = 0; s && i < n; i++) {
        if (addition) m->temb[i] += addition[i % c->width];
        s[i] = m->temb[i] / (1 + exp(-m->temb[i]));
    }
    qw_put(r, silu, s);
    free(s);
    r->used = mark;
}

int qw_dit_table(qw_run *r, const qw_dit_config *c, const qw_weight *time1, const qw_weight *time2,
                 const double *addition, const qw_dit_block *block, int blocks,
                 const qw_weight *out, qw_group *out_group, const double *t, int steps,
                 qw_modulation **table)
{
    const size_t mark = r->used;
    const qw_dtype wide = r->dev->wide;
    *table = NULL;
    if (r->error.status) return r->error.status;
    qw_modulation *m = new_table(c, steps, blocks, out != NULL, qw_block_bytes(wide));
    if (!m) {
        qw_run_fail(r, QWEN_ENOMEM, "no memory for the modulation of %d steps", steps);
        return r->error.status;
    }
    for (int i = 0; i < m->rows; i++) sinusoid(i < steps && t ? t[i] : 0, m->proj + i * SINUSOID);
    qw_tensor silu = qw_new2(r, wide, m->rows, c->width),
              mod = qw_new2(r, wide, m->rows, MOD * c->width);
    qw_group_begin(r, out_group);
    embed_time(r, c, time1, time2, addition, m, silu);
    if (out) {
        qw_tensor last = qw_new2(r, wide, m->rows, 2 * c->width);
        qw_linear(r, last, silu, out);
        fetch(r, last, m->last);
    }
    qw_group_end(r, out_group);
    const size_t size = (size_t)m->rows * MOD * (size_t)c->width * m->element;
    for (int i = 0; i < blocks; i++) {
        r->block = i;
        qw_group_begin(r, block[i].mod_group);
        for (int text = 0; text < 2; text++) {
            qw_linear(r, mod, silu, text ? &block[i].text.mod : &block[i].picture.mod);
            fetch(r, mod, m->table + (size_t)(2 * i + text) * size);
        }
        qw_group_end(r, block[i].mod_group);
    }
    r->block = -1;
    r->used = mark;
    if (r->error.status) {
        qw_modulation_free(m);
        return r->error.status;
    }
    *table = m;
    return QWEN_OK;
}

int qw_dit_modulate(qw_run *r, const qw_dit *d, const double *t, int steps, qw_modulation **out)
{
    return qw_dit_table(r, &d->c, &d->time1, &d->time2, d->addition, d->block, (int)d->c.layers,
                        &d->norm_out, d->group, t, steps, out);
}

static qw_tensor put_row(qw_run *r, const unsigned char *row, int64_t n)
{
    qw_tensor t = qw_new1(r, r->dev->wide, n);
    if (!r->error.status && r->dev->put(r->dev, QW_COMPUTE, t.data, row, qw_row_bytes(t.dtype, n)))
        qw_run_fail(r, QWEN_EDEVICE, "%s did not take a modulation", r->dev->name);
    return t;
}

qw_tensor qw_dit_mod(qw_run *r, const qw_modulation *m, int block, int stream, int row)
{
    const size_t n = MOD * (size_t)m->width;
    const size_t at = (size_t)(2 * block + stream) * (size_t)m->rows + (size_t)row;
    return put_row(r, m->table + at * n * m->element, (int64_t)n);
}

/* --- one pass --------------------------------------------------------------------------------- */

static qw_tensor chunk(const qw_dit_part *p, int i, int64_t width)
{
    return qw_cols(p->mod, i * width, width);
}

static void head_norm_rope(qw_run *r, qw_tensor x, qw_tensor w, const qw_tensor cs[2],
                           const qw_dit_part *p, int64_t head)
{
    qw_norm_rope(r, (qw_norm_rope_args){ .x = qw_heads(x, head),
                                         .w = w,
                                         .cos = qw_rows(cs[0], p->first, p->rows),
                                         .sin = qw_rows(cs[1], p->first, p->rows),
                                         .pairing = QW_PAIRS,
                                         .eps = EPS });
}

/* The six chunks of a modulation: shift, scale, gate of attention, then of the MLP. */
void qw_dit_run_block(qw_run *r, const qw_dit_config *c, const qw_dit_block *b,
                      const qw_dit_part *p, int parts, qw_tensor x, const qw_tensor cs[2])
{
    const int64_t C = c->width, n = x.dim[0];
    const qw_dtype t = r->dev->prefer;
    const size_t mark = r->used;
    qw_tensor qkv = qw_new2(r, t, n, 3 * C), att = qw_new2(r, t, n, C);

    qw_group_begin(r, b->group);
    for (int i = 0; i < parts; i++) {
        const size_t inner = r->used;
        qw_tensor h = qw_new2(r, t, p[i].rows, C), u = qw_rows(qkv, p[i].first, p[i].rows);
        qw_ln_mod(r, (qw_ln_mod_args){ .y = h,
                                       .x = qw_rows(x, p[i].first, p[i].rows),
                                       .eps = EPS,
                                       .shift = chunk(&p[i], 0, C),
                                       .scale = chunk(&p[i], 1, C) });
        qw_linear(r, u, h, &p[i].w->qkv);
        head_norm_rope(r, qw_cols(u, 0, C), p[i].w->norm_q, cs, &p[i], c->head);
        head_norm_rope(r, qw_cols(u, C, C), p[i].w->norm_k, cs, &p[i], c->head);
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
        qw_tensor h = qw_new2(r, t, p[i].rows, C), u = qw_new2(r, t, p[i].rows, p[i].w->up.n);
        qw_linear_residual(r, s, qw_rows(att, p[i].first, p[i].rows), &p[i].w->out,
                           chunk(&p[i], 2, C));
        qw_ln_mod(r, (qw_ln_mod_args){ .y = h,
                                       .x = s,
                                       .eps = EPS,
                                       .shift = chunk(&p[i], 3, C),
                                       .scale = chunk(&p[i], 4, C) });
        qw_linear_act(r, u, h, &p[i].w->up, QW_GELU_TANH);
        qw_linear_residual(r, s, u, &p[i].w->down, chunk(&p[i], 5, C));
        r->used = inner;
    }
    qw_group_end(r, b->group);
    r->used = mark;
}

/* cos and sin [rows][half] of angles, one after the other.  Tokens of a row share the row's angles
 * and those of a column the column's: what the token before or one row of `cols` tokens above has
 * is not computed again. */
static void turn(const double *angle, int64_t rows, int64_t half, int64_t cols, double *out)
{
    double *sine = out + rows * half;
    for (int64_t i = 0; i < rows * half; i++) {
        const int64_t above = i - cols * half, before = i - half;
        const int64_t same = above >= 0 && angle[above] == angle[i]     ? above
                             : before >= 0 && angle[before] == angle[i] ? before
                                                                        : -1;
        out[i] = same < 0 ? cos(angle[i]) : out[same];
        sine[i] = same < 0 ? sin(angle[i]) : sine[same];
    }
}

void qw_dit_rope(qw_run *r, const qw_dit_config *c, const qw_grid *g, int grids, int64_t text_rows,
                 int comfy, int tap, qw_tensor cs[2])
{
    int64_t rows = text_rows;
    const int64_t half = c->head / 2;
    for (int i = 0; i < grids; i++) rows += (int64_t)g[i].frames * g[i].rows * g[i].cols;
    for (int i = 0; i < 2; i++) cs[i] = qw_new2(r, r->dev->wide, rows, half);
    double *angle = malloc((size_t)(3 * rows * half) * sizeof *angle);
    if (!angle) {
        qw_run_fail(r, QWEN_ENOMEM, "no memory for the positions of %lld tokens", (long long)rows);
        return;
    }
    qw_rope_text(c, qw_rope_text_start(c, g, grids, comfy), text_rows, angle);
    qw_rope_pictures(c, g, grids, comfy, angle + text_rows * half);
    turn(angle, rows, half, grids ? g[0].cols : 1, angle + rows * half);
    for (int i = 0; i < 2; i++) {
        qw_put(r, cs[i], angle + (i ? 2 : 1) * rows * half);
        if (!tap) continue;
        qw_tap(r, qw_rows(cs[i], 0, text_rows), "rope_txt.%s", i ? "sin" : "cos");
        qw_tap(r, qw_rows(cs[i], text_rows, rows - text_rows), "rope_img.%s", i ? "sin" : "cos");
    }
    free(angle);
}

typedef struct state { /* of one sequence while the blocks go by */
    qw_tensor x, cs[2];
    qw_dit_part part[3];
    int parts;
    int row[3]; /* of the modulation table */
} state;

static void tap_time(qw_run *r, const qw_modulation *m, int step, const char *prefix)
{
    const int64_t width = m->width;
    const int rows = 1 + m->zero;
    double *x = malloc((size_t)(2 * (width + SINUSOID)) * sizeof *x);
    if (!x || !r->tap || r->error.status) {
        free(x);
        return;
    }
    for (int i = 0; i < rows; i++) {
        const int row = i ? m->steps : step;
        memcpy(x + i * width, m->temb + row * width, (size_t)width * sizeof *x);
        memcpy(x + 2 * width + i * SINUSOID, m->proj + row * SINUSOID, SINUSOID * sizeof *x);
    }
    qw_tap_doubles(r, x, 2, (const int64_t[]){ rows, width }, "%stemb", prefix);
    if (r->detail)
        qw_tap_doubles(r, x + 2 * width, 2, (const int64_t[]){ rows, SINUSOID }, "%stime_proj",
                       prefix);
    free(x);
}

/* img_in and txt_in into the rows of the joint stream. */
static void enter(qw_run *r, const qw_dit *d, const qw_dit_sequence *s, state *q, int comfy)
{
    const qw_dit_config *c = &d->c;
    const qw_dtype wide = r->dev->wide;
    q->x = qw_new2(r, wide, s->text_rows + s->rows, c->width);
    qw_dit_rope(r, c, s->grid, s->grids, s->text_rows, comfy, s->tap && r->detail, q->cs);
    const size_t mark = r->used;
    const qw_tensor text = qw_rows(q->x, 0, s->text_rows),
                    picture = qw_rows(q->x, s->text_rows, s->rows);
    qw_tensor in = qw_new2(r, wide, s->rows, c->in),
              ctx = qw_new2(r, wide, s->text_rows, c->text_width);
    qw_tensor h = qw_new2(r, r->dev->prefer, s->text_rows, c->text_width);
    qw_put(r, in, s->x);
    qw_put(r, ctx, s->text);
    qw_linear(r, picture, in, &d->img_in);
    qw_rms_norm(r, (qw_rms_norm_args){ .y = h, .x = ctx, .w = d->txt_norm, .eps = EPS });
    qw_linear(r, text, h, &d->txt_in);
    if (s->tap) {
        qw_tap(r, in, "%sx", s->tap);
        qw_tap(r, picture, "%simg_in", s->tap);
        qw_tap(r, text, "%stxt_in", s->tap);
        if (r->detail) qw_tap(r, h, "%stxt_norm", s->tap);
    }
    r->used = mark;
}

/* Text, noise pictures, references; the last two are one part unless references are modulated at t
 * = 0. */
static void divide(const qw_modulation *m, int step, const qw_dit_sequence *s, state *q)
{
    const int apart = m->zero && s->noise_rows < s->rows;
    q->parts = 2 + apart;
    q->part[0] = (qw_dit_part){ .first = 0, .rows = s->text_rows };
    q->part[1] = (qw_dit_part){ .first = s->text_rows, .rows = apart ? s->noise_rows : s->rows };
    q->part[2] =
        (qw_dit_part){ .first = s->text_rows + s->noise_rows, .rows = s->rows - s->noise_rows };
    q->row[0] = q->row[1] = step;
    q->row[2] = m->steps;
}

/* Output norm (scale before shift) and projection of the rows that are kept. */
static void leave(qw_run *r, const qw_dit *d, const qw_modulation *m, int step,
                  const qw_dit_sequence *s, const state *q, int all_rows)
{
    const size_t mark = r->used;
    const int64_t C = d->c.width, rows = all_rows ? s->rows : s->noise_rows;
    qw_tensor mod = put_row(r, m->last + (size_t)step * 2 * (size_t)C * m->element, 2 * C);
    qw_tensor h = qw_new2(r, r->dev->prefer, rows, C),
              v = qw_new2(r, r->dev->wide, rows, d->proj_out.n);
    qw_ln_mod(r, (qw_ln_mod_args){ .y = h,
                                   .x = qw_rows(q->x, s->text_rows, rows),
                                   .eps = EPS,
                                   .scale = qw_cols(mod, 0, C),
                                   .shift = qw_cols(mod, C, C) });
    qw_linear(r, v, h, &d->proj_out);
    if (s->tap && r->detail) {
        qw_tap(r, h, "%snorm_out", s->tap);
        qw_tap(r, v, "%sout", s->tap);
    }
    qw_get(r, v, s->out);
    r->used = mark;
}

void qw_dit_forward(qw_run *r, const qw_dit *d, const qw_modulation *m, int step,
                    const qw_dit_sequence *s, int k, int comfy, int all_rows)
{
    const size_t mark = r->used;
    if (r->error.status) return;
    state *q = calloc((size_t)k, sizeof *q);
    if (!q) {
        qw_run_fail(r, QWEN_ENOMEM, "no memory for %d sequences", k);
        return;
    }
    qw_group_begin(r, d->group);
    for (int i = 0; i < k; i++) {
        enter(r, d, &s[i], &q[i], comfy);
        divide(m, step, &s[i], &q[i]);
        if (s[i].tap) tap_time(r, m, step, s[i].tap);
    }
    qw_group_end(r, d->group);
    for (int b = 0; b < d->c.layers; b++) {
        r->block = b;
        for (int i = 0; i < k; i++) {
            const size_t inner = r->used;
            for (int p = 0; p < q[i].parts; p++) {
                q[i].part[p].w = p ? &d->block[b].picture : &d->block[b].text;
                q[i].part[p].mod = qw_dit_mod(r, m, b, p == 0, q[i].row[p]);
            }
            qw_dit_run_block(r, &d->c, &d->block[b], q[i].part, q[i].parts, q[i].x, q[i].cs);
            if (s[i].tap) {
                qw_tap(r, qw_rows(q[i].x, s[i].text_rows, s[i].rows), "%simg.%d", s[i].tap, b);
                qw_tap(r, qw_rows(q[i].x, 0, s[i].text_rows), "%stxt.%d", s[i].tap, b);
            }
            if (s[i].hook)
                s[i].hook->after(s[i].hook->user, r, b,
                                 qw_rows(q[i].x, s[i].text_rows, s[i].noise_rows));
            r->used = inner;
        }
    }
    r->block = -1;
    qw_group_begin(r, d->group);
    for (int i = 0; i < k; i++) leave(r, d, m, step, &s[i], &q[i], all_rows);
    qw_group_end(r, d->group);
    free(q);
    r->used = mark;
}
