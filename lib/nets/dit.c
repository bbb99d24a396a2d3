/* dit.c - the MMDiT of Qwen-Image: picture tokens and text tokens, joined in attention.
 *
 * The formulas are those of QwenImageTransformer2DModel of diffusers.  One buffer holds the joint
 * sequence, text first, and the linear layers of each stream write into their rows of it. */
#include "nets/dit.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SINUSOID = 256 };
static const double EPS = 1e-6;

/* --- weights ---------------------------------------------------------------------------------- */

/* Reads row 0 of the table of additions, the row that the published pipeline uses. */
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

/* cos, then sin, of angles [rows][half].  Tokens of a row share the row's angles, tokens of a
 * column the column's: an angle that the token before or the token above (a row has `cols`
 * tokens) has too is not computed again. */
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

void qw_dit_positions(qw_run *r, const qw_dit_config *c, const qw_grid *g, int grids,
                      int64_t text_rows, int comfy, qw_tensor table[2][2])
{
    const int64_t half = c->head / 2;
    int64_t rows[2] = { text_rows, 0 };
    for (int i = 0; i < grids; i++) rows[1] += (int64_t)g[i].frames * g[i].rows * g[i].cols;
    const int64_t most = rows[0] > rows[1] ? rows[0] : rows[1];
    double *angle = malloc((size_t)(3 * most * half) * sizeof *angle);
    double *turned = angle ? angle + most * half : NULL;
    if (!angle)
        qw_run_fail(r, QWEN_ENOMEM, "no memory for the positions of %lld tokens", (long long)most);
    for (int i = 0; i < 2; i++) {
        if (angle && i) qw_rope_pictures(c, g, grids, comfy, angle);
        else if (angle) qw_rope_text(c, qw_rope_text_start(c, g, grids, comfy), text_rows, angle);
        if (angle) turn(angle, rows[i], half, i && grids ? g[0].cols : 1, turned);
        for (int k = 0; k < 2; k++) {
            table[i][k] = qw_new2(r, r->dev->wide, rows[i], half);
            if (angle) qw_put(r, table[i][k], turned + k * rows[i] * half);
        }
    }
    free(angle);
}

/* --- a picture on the device ------------------------------------------------------------------ */

static int same_grids(const qw_dit_sequence *a, const qw_dit_sequence *b)
{
    if (a->grids != b->grids) return 0;
    for (int i = 0; i < a->grids; i++)
        if (a->grid[i].frames != b->grid[i].frames || a->grid[i].rows != b->grid[i].rows
            || a->grid[i].cols != b->grid[i].cols)
            return 0;
    return 1;
}

/* Allocates pass i.  Passes over the same pictures share the tables of positions, and x where s->x
 * is the same memory. */
static void place_pass(qw_run *r, const qw_dit *d, qw_dit_picture *p, int i, int64_t text_rows)
{
    const qw_dit_config *c = &d->c;
    const qw_dtype wide = r->dev->wide;
    const qw_dit_sequence *s = p->pass[i].s;
    qw_dit_pass *q = &p->pass[i];
    const qw_dit_pass *first = i && same_grids(s, p->pass[0].s) ? &p->pass[0] : NULL;
    if (first) memcpy(q->table, first->table, sizeof q->table);
    else qw_dit_positions(r, c, s->grid, s->grids, text_rows, p->comfy, q->table);
    if (first && s->x == first->s->x && s->rows == first->s->rows) {
        q->x = first->x;
    } else {
        q->x = qw_new2(r, wide, s->rows, c->in);
        qw_put(r, q->x, s->x);
    }
    q->text = qw_new2(r, wide, s->text_rows, c->text_width);
    qw_put(r, q->text, s->text);
    q->out = qw_new2(r, wide, p->all_rows ? s->rows : s->noise_rows, d->proj_out.n);
    for (int k = 0; k < 2 && s->tap && r->detail; k++) {
        qw_tap(r, qw_rows(q->table[0][k], 0, s->text_rows), "rope_txt.%s", k ? "sin" : "cos");
        qw_tap(r, q->table[1][k], "rope_img.%s", k ? "sin" : "cos");
    }
}

void qw_dit_place(qw_run *r, const qw_dit *d, const qw_modulation *m, const qw_dit_sequence *s,
                  int k, int comfy, int all_rows, qw_dit_picture *p)
{
    int apart = 0;
    int64_t text_rows = 0;
    *p = (qw_dit_picture){ .passes = k, .comfy = comfy, .all_rows = all_rows };
    if (r->error.status) return;
    if (k < 1 || k > QW_PASSES) {
        qw_run_fail(r, QWEN_EARG, "%d sequences in a step, at most %d", k, QW_PASSES);
        return;
    }
    for (int i = 0; i < k; i++) {
        p->pass[i].s = &s[i];
        apart |= m->zero && s[i].noise_rows < s[i].rows;
        if (s[i].text_rows > text_rows) text_rows = s[i].text_rows;
    }
    for (int i = 0; i < k; i++) place_pass(r, d, p, i, text_rows);
    p->mod[0] = qw_dit_new_row(r, m);
    if (!apart) return;
    p->mod[1] = qw_dit_new_row(r, m);
    qw_dit_put_row(r, m, m->steps, p->mod[1]);
}

void qw_dit_put(qw_run *r, const qw_dit_picture *p, const qw_modulation *m, int step)
{
    for (int i = 0; i < p->passes; i++) {
        const qw_dit_sequence *s = p->pass[i].s;
        if (!i || p->pass[i].x.data != p->pass[0].x.data)
            qw_put(r, qw_rows(p->pass[i].x, 0, s->noise_rows), s->x);
        if (s->tap) qw_dit_tap_time(r, m, step, s->tap);
    }
    qw_dit_put_row(r, m, step, p->mod[0]);
}

void qw_dit_get(qw_run *r, const qw_dit_picture *p)
{
    for (int i = 0; i < p->passes; i++) qw_get(r, p->pass[i].out, p->pass[i].s->out);
}

/* --- one step --------------------------------------------------------------------------------- */

/* Fills the joint stream x: txt_in of the text, then img_in of the pictures. */
static void enter(qw_run *r, const qw_dit *d, const qw_dit_pass *p, qw_tensor x)
{
    const qw_dit_sequence *s = p->s;
    const size_t mark = r->used;
    const qw_tensor text = qw_rows(x, 0, s->text_rows), picture = qw_rows(x, s->text_rows, s->rows);
    qw_tensor h = qw_new2(r, r->dev->prefer, s->text_rows, d->c.text_width);
    qw_linear(r, picture, p->x, &d->img_in);
    qw_rms_norm(r, (qw_rms_norm_args){ .y = h, .x = p->text, .w = d->txt_norm, .eps = EPS });
    qw_linear(r, text, h, &d->txt_in);
    if (s->tap) {
        qw_tap(r, p->x, "%sx", s->tap);
        qw_tap(r, picture, "%simg_in", s->tap);
        qw_tap(r, text, "%stxt_in", s->tap);
        if (r->detail) qw_tap(r, h, "%stxt_norm", s->tap);
    }
    r->used = mark;
}

/* Divides the joint sequence into parts for block b: text, noise pictures, input pictures; the last
 * two are one part unless input pictures are modulated at t = 0.  Returns the number of parts. */
static int divide(const qw_dit *d, const qw_dit_picture *p, const qw_dit_pass *q, int b,
                  qw_dit_part part[3])
{
    const qw_dit_sequence *s = q->s;
    const int apart = qw_present(&p->mod[1]) && s->noise_rows < s->rows;
    const int64_t first[3] = { 0, 0, s->noise_rows };
    const int64_t rows[3] = { s->text_rows, apart ? s->noise_rows : s->rows,
                              s->rows - s->noise_rows };
    for (int i = 0; i < 2 + apart; i++)
        part[i] = (qw_dit_part){ .w = i ? &d->block[b].picture : &d->block[b].text,
                                 .first = (i ? s->text_rows : 0) + first[i],
                                 .rows = rows[i],
                                 .mod = qw_dit_mod(p->mod[i == 2], d->c.width, b, !i),
                                 .cos = qw_rows(q->table[i > 0][0], first[i], rows[i]),
                                 .sin = qw_rows(q->table[i > 0][1], first[i], rows[i]) };
    return 2 + apart;
}

static void run_block(qw_run *r, const qw_dit *d, const qw_dit_picture *p, int i, int b,
                      qw_tensor x)
{
    const qw_dit_sequence *s = p->pass[i].s;
    qw_dit_part part[3];
    qw_dit_run_block(r, &d->c, &d->block[b], part, divide(d, p, &p->pass[i], b, part), x);
    if (s->tap) {
        qw_tap(r, qw_rows(x, s->text_rows, s->rows), "%simg.%d", s->tap, b);
        qw_tap(r, qw_rows(x, 0, s->text_rows), "%stxt.%d", s->tap, b);
    }
    if (s->hook) s->hook->after(s->hook->user, r, b, qw_rows(x, s->text_rows, s->noise_rows));
}

/* Output norm (scale before shift) and projection of the rows of p->pass[i].out. */
static void leave(qw_run *r, const qw_dit *d, const qw_dit_picture *p, int i, qw_tensor x)
{
    const size_t mark = r->used;
    const qw_dit_sequence *s = p->pass[i].s;
    const int64_t C = d->c.width, rows = p->pass[i].out.dim[0];
    const qw_tensor mod = qw_dit_mod_last(p->mod[0], C);
    qw_tensor h = qw_new2(r, r->dev->prefer, rows, C);
    qw_ln_mod(r, (qw_ln_mod_args){ .y = h,
                                   .x = qw_rows(x, s->text_rows, rows),
                                   .eps = EPS,
                                   .scale = qw_cols(mod, 0, C),
                                   .shift = qw_cols(mod, C, C) });
    qw_linear(r, p->pass[i].out, h, &d->proj_out);
    if (s->tap && r->detail) {
        qw_tap(r, h, "%snorm_out", s->tap);
        qw_tap(r, p->pass[i].out, "%sout", s->tap);
    }
    r->used = mark;
}

void qw_dit_run(qw_run *r, const qw_dit *d, const qw_dit_picture *p)
{
    const size_t mark = r->used;
    qw_tensor x[QW_PASSES];
    if (r->error.status) return;
    qw_group_begin(r, d->group);
    for (int i = 0; i < p->passes; i++) {
        const qw_dit_sequence *s = p->pass[i].s;
        x[i] = qw_new2(r, r->dev->wide, s->text_rows + s->rows, d->c.width);
        enter(r, d, &p->pass[i], x[i]);
    }
    qw_group_end(r, d->group);
    for (int b = 0; b < d->c.layers; b++) {
        r->block = b;
        for (int i = 0; i < p->passes; i++) run_block(r, d, p, i, b, x[i]);
    }
    r->block = -1;
    qw_group_begin(r, d->group);
    for (int i = 0; i < p->passes; i++) leave(r, d, p, i, x[i]);
    qw_group_end(r, d->group);
    r->used = mark;
}

void qw_dit_forward(qw_run *r, const qw_dit *d, const qw_modulation *m, int step,
                    const qw_dit_sequence *s, int k, int comfy, int all_rows)
{
    const size_t mark = r->used;
    qw_dit_picture p;
    qw_dit_place(r, d, m, s, k, comfy, all_rows, &p);
    qw_dit_put(r, &p, m, step);
    qw_dit_run(r, d, &p);
    qw_dit_get(r, &p);
    r->used = mark;
}
