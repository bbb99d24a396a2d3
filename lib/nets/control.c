/* control.c - ControlNets: side networks that add to the picture stream between blocks.
 *
 * qw_control_look distinguishes three kinds by their keys: InstantX's (a truncated copy of the
 * transformer; diffusers' QwenImageControlNetModel), DiffSynth's blockwise one, and the "Fun" union
 * of VideoX-Fun.  qw_control_run writes the samples of a side network to scratch of the run;
 * qw_control_after, which the transformer calls after each block, adds them on the device. */
#include "nets/control.h"
#include "nets/dit.h"
#include <math.h>
#include <stdlib.h>

static const double EPS = 1e-6;

struct qw_control {
    qw_control_kind kind;
    qw_dit_config c;
    int64_t features;
    int n; /* blocks, or places of a blockwise net */
    qw_group *group;
    qw_weight img_in, txt_in, time1, time2, embed, before;
    qw_tensor txt_norm;
    qw_dit_block *block;
    qw_weight *out; /* InstantX controlnet_blocks, Fun after_proj; blockwise output_proj */
    qw_weight *in;  /* blockwise input_proj */
    qw_tensor *x_rms, *y_rms;
};

int qw_control_look(const qw_store *s, qw_control_kind *kind, int64_t *features, qw_error *err)
{
    static const char *const entrance[] = { [QW_CONTROL_INSTANTX] = "controlnet_x_embedder.weight",
                                            [QW_CONTROL_BLOCKWISE] = "img_in.weight",
                                            [QW_CONTROL_FUN] = "control_img_in.weight" };
    char found[200];
    *kind = qw_store_find(s, entrance[QW_CONTROL_FUN])             ? QW_CONTROL_FUN
            : qw_store_find(s, "controlnet_blocks.0.x_rms.weight") ? QW_CONTROL_BLOCKWISE
                                                                   : QW_CONTROL_INSTANTX;
    const char *name = entrance[*kind];
    const qw_entry *e = qw_store_find(s, name);
    *features = e && e->rank == 2 ? e->dim[1] : 0;
    if (!e)
        return qw_fail(err, QWEN_EMODEL, "%s: tensor \"%s\" is missing", qw_store_path(s, 0), name);
    if (e->rank == 2) return QWEN_OK;
    qw_shape_text(e, found, sizeof found);
    return qw_fail(err, QWEN_EMODEL, "%s: tensor \"%s\" is %s, expected [any, any]",
                   qw_store_path(s, 0), name, found);
}

static void load_instantx(qw_loader *l, qw_control *k)
{
    const int64_t C = k->c.width;
    qw_load_part(l, &k->img_in, C, k->c.in, 1, "img_in");
    qw_load_part(l, &k->txt_in, C, k->c.text_width, 1, "txt_in");
    qw_load_vector(l, &k->txt_norm, k->c.text_width, "txt_norm.weight");
    qw_load_part(l, &k->time1, C, 256, 1, "time_text_embed.timestep_embedder.linear_1");
    qw_load_part(l, &k->time2, C, C, 1, "time_text_embed.timestep_embedder.linear_2");
    qw_load_part(l, &k->embed, C, k->features, 1, "controlnet_x_embedder");
    qw_dit_new_groups(l, k->block, k->n, "transformer_blocks");
    for (int i = 0; i < k->n && !l->err->status; i++) {
        qw_dit_load_block(l, &k->block[i], &k->c, "transformer_blocks", i);
        l->group = k->block[i].group;
        qw_load_part(l, &k->out[i], C, C, 1, "controlnet_blocks.%d", i);
    }
}

static void load_fun(qw_loader *l, qw_control *k)
{
    const int64_t C = k->c.width;
    qw_load_part(l, &k->embed, C, k->features, 1, "control_img_in");
    qw_load_part(l, &k->before, C, C, 1, "control_blocks.0.before_proj");
    qw_dit_new_groups(l, k->block, k->n, "control_blocks");
    for (int i = 0; i < k->n && !l->err->status; i++) {
        qw_dit_load_block(l, &k->block[i], &k->c, "control_blocks", i);
        l->group = k->block[i].group;
        qw_load_part(l, &k->out[i], C, C, 1, "control_blocks.%d.after_proj", i);
    }
}

static void load_blockwise(qw_loader *l, qw_control *k)
{
    const int64_t C = k->c.width;
    qw_load_part(l, &k->embed, C, k->features, 1, "img_in");
    for (int i = 0; i < k->n && !l->err->status; i++) {
        qw_load_vector(l, &k->x_rms[i], C, "controlnet_blocks.%d.x_rms.weight", i);
        qw_load_vector(l, &k->y_rms[i], C, "controlnet_blocks.%d.y_rms.weight", i);
        qw_load_part(l, &k->in[i], C, C, 1, "controlnet_blocks.%d.input_proj", i);
        qw_load_part(l, &k->out[i], C, C, 1, "controlnet_blocks.%d.output_proj", i);
    }
}

int qw_control_load(qw_control **out, const qw_dit_config *c, qw_loader *l)
{
    *out = NULL;
    qw_control *k = calloc(1, sizeof *k);
    if (!k) return qw_fail(l->err, QWEN_ENOMEM, "no memory for a ControlNet");
    k->c = *c;
    qw_error ignored = { 0 }; /* loading the parts reports the same tensor */
    qw_control_look(l->store, &k->kind, &k->features, &ignored);
    k->n = qw_store_count(l->store,
                          k->kind == QW_CONTROL_FUN ? "control_blocks." : "controlnet_blocks.");
    const size_t n = (size_t)k->n + 1;
    k->block = calloc(n, sizeof *k->block);
    k->out = calloc(n, sizeof *k->out);
    k->in = calloc(n, sizeof *k->in);
    k->x_rms = calloc(n, sizeof *k->x_rms);
    k->y_rms = calloc(n, sizeof *k->y_rms);
    k->group = l->group = qw_group_new(l->res, "controlnet");
    if (!k->block || !k->out || !k->in || !k->x_rms || !k->y_rms || !k->group)
        qw_fail(l->err, QWEN_ENOMEM, "no memory for a ControlNet of %d blocks", k->n);
    else if (!k->n)
        qw_fail(l->err, QWEN_EMODEL, "%s: the ControlNet has no blocks",
                qw_store_path(l->store, 0));
    else if (k->kind == QW_CONTROL_INSTANTX) load_instantx(l, k);
    else if (k->kind == QW_CONTROL_FUN) load_fun(l, k);
    else load_blockwise(l, k);
    if (l->err->status) {
        qw_control_free(k);
        return l->err->status;
    }
    *out = k;
    return QWEN_OK;
}

void qw_control_free(qw_control *k)
{
    if (!k) return;
    qw_weight *const outer[] = {
        &k->img_in, &k->txt_in, &k->time1, &k->time2, &k->embed, &k->before
    };
    for (size_t i = 0; i < sizeof outer / sizeof *outer; i++) qw_weight_free(outer[i]);
    for (int i = 0; i < k->n; i++) {
        if (k->block) qw_dit_free_block(&k->block[i]);
        if (k->out) qw_weight_free(&k->out[i]);
        if (k->in) qw_weight_free(&k->in[i]);
    }
    free(k->block);
    free(k->out);
    free(k->in);
    free(k->x_rms);
    free(k->y_rms);
    free(k);
}

qw_control_kind qw_control_kind_of(const qw_control *k) { return k->kind; }
int64_t qw_control_features(const qw_control *k) { return k->features; }
static int samples_of(const qw_control *k) { return k->kind == QW_CONTROL_BLOCKWISE ? 1 : k->n; }

int qw_control_modulate(qw_run *r, const qw_control *k, const qw_dit *d, const double *t, int steps,
                        qw_modulation **out)
{
    *out = NULL;
    if (k->kind == QW_CONTROL_BLOCKWISE) return r->error.status;
    const int own = k->kind == QW_CONTROL_INSTANTX; /* Fun uses the main network's time embedding */
    return qw_dit_table(r, &k->c, own ? &k->time1 : &d->time1, own ? &k->time2 : &d->time2,
                        own ? NULL : d->addition, k->block, k->n, NULL, own ? k->group : d->group,
                        t, steps, out);
}

/* --- on the device ---------------------------------------------------------------------------- */

/* A vector [n] on the device, every element `value`. */
static qw_tensor put_constant(qw_run *r, int64_t n, double value)
{
    qw_tensor t = qw_new1(r, r->dev->wide, n);
    double *x = malloc((size_t)n * sizeof *x);
    if (!x) qw_run_fail(r, QWEN_ENOMEM, "no memory for a ControlNet's strength");
    for (int64_t j = 0; x && j < n; j++) x[j] = value;
    if (x) qw_put(r, t, x);
    free(x);
    return t;
}

void qw_control_place(qw_run *r, const qw_control *k, const qw_modulation *m,
                      const qw_dit_picture *p, const double *condition, double strength, int layers,
                      qw_control_use *u)
{
    const qw_dit_sequence *s = p->pass[0].s;
    *u = (qw_control_use){ .c = k, .layers = layers };
    if (r->error.status) return;
    u->condition = qw_new2(r, r->dev->wide, s->noise_rows, k->features);
    qw_put(r, u->condition, condition);
    if (k->kind == QW_CONTROL_BLOCKWISE || strength != 1)
        u->strength = put_constant(r, k->c.width, strength);
    if (k->kind == QW_CONTROL_BLOCKWISE) return;
    int64_t text_rows = 0;
    for (int i = 0; i < p->passes; i++)
        if (p->pass[i].s->text_rows > text_rows) text_rows = p->pass[i].s->text_rows;
    qw_dit_positions(r, &k->c, s->grid, s->noise_grids > 0 ? s->noise_grids : 1, text_rows,
                     p->comfy, u->table);
    u->mod = qw_dit_new_row(r, m);
}

void qw_control_put(qw_run *r, const qw_control_use *u, const qw_modulation *m, int step)
{
    if (u->c->kind != QW_CONTROL_BLOCKWISE) qw_dit_put_row(r, m, step, u->mod);
}

/* --- the side network ------------------------------------------------------------------------- */

/* Fills the joint stream x [text + noise][width]: txt_in of the text, then img_in of the noise plus
 * the embedded condition. */
static void enter(qw_run *r, const qw_control_use *use, const qw_dit *d, const qw_dit_pass *p,
                  qw_tensor x)
{
    const size_t mark = r->used;
    const qw_control *k = use->c;
    const qw_dit_sequence *s = p->s;
    const int own = k->kind == QW_CONTROL_INSTANTX;
    const int64_t n = s->noise_rows;
    const qw_tensor text = qw_rows(x, 0, s->text_rows), picture = qw_rows(x, s->text_rows, n);
    qw_tensor h = qw_new2(r, r->dev->prefer, s->text_rows, k->c.text_width);
    qw_tensor u = qw_new2(r, r->dev->prefer, n, k->c.width);
    qw_linear(r, picture, qw_rows(p->x, 0, n), own ? &k->img_in : &d->img_in);
    qw_rms_norm(r, (qw_rms_norm_args){
                       .y = h, .x = p->text, .w = own ? k->txt_norm : d->txt_norm, .eps = EPS });
    qw_linear(r, text, h, own ? &k->txt_in : &d->txt_in);
    if (r->detail && s->tap) {
        qw_tap(r, picture, "control.img_in");
        qw_tap(r, text, "control.txt_in");
        qw_tap(r, h, "control.txt_norm");
    }
    if (own) {
        qw_linear_residual(r, picture, use->condition, &k->embed, (qw_tensor){ 0 });
    } else {
        qw_linear(r, u, use->condition, &k->embed);
        qw_linear_residual(r, picture, u, &k->before, (qw_tensor){ 0 });
    }
    r->used = mark;
}

/* Runs block i over the joint stream x and writes its sample. */
static void run_block(qw_run *r, const qw_control_use *u, const qw_dit_sequence *s, int i,
                      qw_tensor x)
{
    const qw_control *k = u->c;
    const int64_t t = s->text_rows, n = s->noise_rows;
    const qw_tensor picture = qw_rows(x, t, n), text = qw_rows(x, 0, t);
    const qw_tensor y = qw_rows(u->samples, i * n, n);
    const qw_dit_part part[2] = {
        { &k->block[i].text, 0, t, qw_dit_mod(u->mod, k->c.width, i, 1),
          qw_rows(u->table[0][0], 0, t), qw_rows(u->table[0][1], 0, t) },
        { &k->block[i].picture, t, n, qw_dit_mod(u->mod, k->c.width, i, 0), u->table[1][0],
          u->table[1][1] },
    };
    qw_dit_run_block(r, &k->c, &k->block[i], part, 2, x);
    if (r->detail && s->tap) {
        qw_tap(r, picture, "control.img.%d", i);
        qw_tap(r, text, "control.txt.%d", i);
    }
    qw_group_begin(r, k->block[i].group);
    qw_linear_scaled(r, y, picture, &k->out[i], u->strength);
    qw_group_end(r, k->block[i].group);
    if (s->tap) qw_tap(r, y, "%scontrol.%d", s->tap, i);
}

void qw_control_run(qw_run *r, const qw_dit *d, const qw_dit_pass *p, qw_control_use *u)
{
    const qw_control *k = u->c;
    const qw_dit_sequence *s = p->s;
    if (r->error.status) return;
    u->samples = qw_new2(r, r->dev->wide, samples_of(k) * s->noise_rows, k->c.width);
    const size_t mark = r->used;
    qw_group_begin(r, k->group);
    if (k->kind == QW_CONTROL_BLOCKWISE) {
        qw_linear(r, u->samples, u->condition, &k->embed);
        qw_group_end(r, k->group);
        return;
    }
    qw_tensor x = qw_new2(r, r->dev->wide, s->text_rows + s->noise_rows, k->c.width);
    if (k->kind == QW_CONTROL_FUN) qw_group_begin(r, d->group);
    enter(r, u, d, p, x);
    if (k->kind == QW_CONTROL_FUN) qw_group_end(r, d->group);
    qw_group_end(r, k->group); /* ends before the blocks: a streamed one takes its slot */
    for (int i = 0; i < k->n; i++) {
        r->block = i;
        run_block(r, u, s, i, x);
    }
    r->block = -1;
    r->used = mark;
}

/* --- in the main network ---------------------------------------------------------------------- */

/* x += strength output_proj(gelu(input_proj(RMS(x) + RMS(y)))) */
static void blockwise(qw_run *r, const qw_control_use *u, int block, qw_tensor x)
{
    const qw_control *k = u->c;
    const qw_dtype t = r->dev->prefer;
    const int64_t n = x.dim[0], C = k->c.width;
    if (block >= k->n) return;
    qw_tensor a = qw_new2(r, t, n, C), b = qw_new2(r, t, n, C), sum = qw_new2(r, t, n, C);
    qw_group_begin(r, k->group);
    qw_rms_norm(r, (qw_rms_norm_args){ .y = a, .x = x, .w = k->x_rms[block], .eps = EPS });
    qw_rms_norm(r, (qw_rms_norm_args){ .y = b, .x = u->samples, .w = k->y_rms[block], .eps = EPS });
    qw_convert(r, (qw_convert_args){ .y = sum, .x = a, .res = b });
    qw_linear_act(r, a, sum, &k->in[block], QW_GELU_ERF);
    qw_linear_residual(r, x, a, &k->out[block], u->strength);
    qw_group_end(r, k->group);
}

/* InstantX: adds sample b / ceil(L/n) after every block b of L.  Fun: adds sample i after block
 * i ceil(L/n) only. */
void qw_control_after(void *use, qw_run *r, int block, qw_tensor x)
{
    const qw_control_use *u = use;
    const qw_control *k = u->c;
    const size_t mark = r->used;
    const int every = (u->layers + k->n - 1) / k->n, i = block / every;
    if (k->kind == QW_CONTROL_BLOCKWISE) {
        blockwise(r, u, block, x);
    } else if (i < k->n && (k->kind == QW_CONTROL_INSTANTX || block % every == 0)) {
        const qw_tensor y = qw_rows(u->samples, i * x.dim[0], x.dim[0]);
        qw_convert(r, (qw_convert_args){ .y = x, .x = y, .res = x });
    }
    r->used = mark;
}
