/* dit.c - the MMDiT of Qwen-Image: picture tokens and text tokens, joined in attention.
 *
 * Follows QwenImageTransformer2DModel of diffusers.  Text comes first in the joint sequence, so
 * that one buffer holds both streams and the projections of each are written into its rows. */
#include "nets/dit.h"
#include <math.h>
#include <stdlib.h>

enum { SINUSOID = 256 };
static const double EPS = 1e-6;

/* --- weights ---------------------------------------------------------------------------------- */

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

/* --- one pass --------------------------------------------------------------------------------- */

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
    qw_tensor mod = qw_dit_mod_last(r, m, step);
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
        if (s[i].tap) qw_dit_tap_time(r, m, step, s[i].tap);
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
