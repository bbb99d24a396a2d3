/* denoise.c - from noise to a latent: a sampler with the transformer as its velocity.
 *
 * The steps' sigmas are those of j->sched (lib/host/schedule.c); the loop over steps is qw_sample
 * (lib/host/sampler.c), which calls velocity(), fresh_noise() and after_step() here. */
#include "pipeline/stage.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One step of the transformer over a picture, all passes. */
typedef struct velocity_work {
    const qw_nets *nets;
    int comfy;
    qw_modulation *mod, *control_mod;
    int step, passes;
    const double *condition; /* of the ControlNet, or NULL: there is none */
    double strength;
    int controlled; /* the ControlNet runs in this step */
    int each;       /* it runs in every pass, with the pass's text; else in the first alone */
    qw_dit_sequence seq[QW_PASSES];
    qw_dit_picture picture; /* set by place() */
    qw_control_use use[QW_PASSES];
    qw_dit_hook hook[QW_PASSES];
    qw_recording recording[2]; /* of a step without and with the ControlNet */
} velocity_work;

typedef struct modulate_work {
    const qw_nets *nets;
    const double *t; /* [steps] */
    int steps;
    qw_modulation **out, **control; /* control NULL: there is no ControlNet */
    velocity_work *placed;          /* for between_body */
} modulate_work;

static void modulate_body(qw_run *r, void *arg)
{
    const modulate_work *w = arg;
    qw_modulation_free(*w->out);
    *w->out = NULL;
    qw_dit_modulate(r, w->nets->dit, w->t, w->steps, w->out);
    if (!w->control) return;
    qw_modulation_free(*w->control);
    *w->control = NULL;
    qw_control_modulate(r, w->nets->control, w->nets->dit, w->t, w->steps, w->control);
}

/* Allocates scratch for the picture and copies there the data that its steps share.  Any number of
 * step_body follows; the caller forgets their recordings. */
static void place(qw_run *r, velocity_work *w)
{
    const qw_nets *nets = w->nets;
    qw_dit_place(r, nets->dit, w->mod, w->seq, w->passes, w->comfy, 0, &w->picture);
    if (!w->condition) return;
    qw_control_place(r, nets->control, w->control_mod, &w->picture, w->condition, w->strength,
                     (int)qw_dit_config_of(nets->dit)->layers, &w->use[0]);
    for (int p = 1; p < w->passes; p++) w->use[p] = w->use[0];
}

/* The ops of a step: the ControlNet once, with the positive prompt, or in every pass, with the
 * pass's; then the transformer. */
static void step_ops(qw_run *r, void *arg)
{
    velocity_work *w = arg;
    const size_t mark = r->used;
    for (int p = 0; p < w->passes && w->controlled; p++)
        if (!p || w->each) qw_control_run(r, w->nets->dit, &w->picture.pass[p], &w->use[p]);
        else w->use[p].samples = w->use[0].samples;
    qw_dit_run(r, w->nets->dit, &w->picture);
    r->used = mark;
}

static void step_body(qw_run *r, void *arg)
{
    velocity_work *w = arg;
    int tapped = 0;
    for (int p = 0; p < w->passes; p++) {
        tapped |= w->seq[p].tap != NULL;
        w->hook[p] = (qw_dit_hook){ qw_control_after, &w->use[p] };
        w->seq[p].hook = w->controlled ? &w->hook[p] : NULL;
    }
    qw_dit_put(r, &w->picture, w->mod, w->step);
    if (w->controlled) qw_control_put(r, &w->use[0], w->control_mod, w->step);
    if (tapped) step_ops(r, w);
    else qw_run_repeat(r, &w->recording[w->controlled], step_ops, w);
    qw_dit_get(r, &w->picture);
}

/* place() and one step. */
static void velocity_body(qw_run *r, void *arg)
{
    velocity_work *w = arg;
    const size_t mark = r->used;
    place(r, w);
    step_body(r, w);
    qw_run_forget(r, &w->recording[w->controlled]);
    r->used = mark;
}

/* Counts the scratch for the modulation of a sigma that the table lacks, while a picture is placed:
 * find_modulation computes it so between steps. */
static void between_body(qw_run *r, void *arg)
{
    modulate_work *w = arg;
    const size_t mark = r->used;
    place(r, w->placed);
    modulate_body(r, w);
    r->used = mark;
}

typedef struct denoising {
    qw_job *j;
    qw_stage stage;
    velocity_work work;
    qw_modulation *table, *extra; /* of the steps; of a sigma between them */
    qw_modulation *control_table, *control_extra;
    double *in;        /* [rows][4 z]: noise, then input pictures */
    double *pos, *neg; /* [frames tokens][4 z] */
    double *t;         /* [steps run] */
    qw_grid *grid;
    qw_rng rng;       /* fresh noise of ancestral samplers */
    double *fresh;    /* [z][h][w] */
    int steps, shown; /* shown: the last step whose latents were shown */
} denoising;

static int64_t step_rows(const qw_job *j) { return j->frames * j->tokens; }

static modulate_work between(denoising *d, const double *t)
{
    return (modulate_work){ d->j->nets, t, 1, &d->extra, d->j->condition ? &d->control_extra : NULL,
                            &d->work };
}

/* Sets the modulation for sigma: that of the step or the next one in the table, else one that is
 * computed here, for samplers that evaluate the model between the sigmas. */
static int find_modulation(denoising *d, double sigma, int step)
{
    const float *s = d->j->sched.sigma + d->j->first_step;
    d->work.mod = d->table;
    d->work.control_mod = d->control_table;
    d->work.step = step;
    if (sigma == (double)s[step]) return QWEN_OK;
    if (step + 1 < d->steps && sigma == (double)s[step + 1]) {
        d->work.step = step + 1;
        return QWEN_OK;
    }
    modulate_work w = between(d, &sigma);
    qw_stage_run(&d->stage, modulate_body, &w, NULL, 0);
    d->work.mod = d->extra;
    d->work.control_mod = d->control_extra;
    d->work.step = 0;
    return d->stage.run.error.status;
}

/* The ControlNet runs in step i of N if i/N >= start and (i+1)/N <= end. */
int qw_control_step(const qw_job *j, int step)
{
    const double i = step, n = j->steps;
    return i / n >= j->control_start && (i + 1) / n <= j->control_end;
}

static int controlled(const qw_job *j, int step)
{
    return j->condition && qw_control_step(j, j->first_step + step);
}

static void show_step(denoising *d, const char *format, int step, const double *x)
{
    qw_run *r = &d->stage.run;
    const qw_job *j = d->j;
    qw_tap_doubles(r, x, 2, (int64_t[]){ step_rows(j), 4 * j->z }, format, step);
}

static int velocity(void *user, const double *x, double sigma, int step, double *v)
{
    denoising *d = user;
    qw_job *j = d->j;
    const int64_t n = step_rows(j) * 4 * j->z;
    const int first = step > d->shown;
    d->stage.run.step = step;
    d->stage.run.block = -1;
    if (first) show_step(d, "latents.%d", step, x);
    d->shown = step;
    memcpy(d->in, x, (size_t)n * sizeof *x);
    if (find_modulation(d, sigma, step)) return d->stage.run.error.status;
    d->work.controlled = controlled(j, step);
    d->work.seq[0].tap = first && step == 0 && d->stage.run.tap ? "step0." : NULL;
    if (qw_stage_run(&d->stage, step_body, &d->work, d->pos, n)) return d->stage.run.error.status;
    memcpy(v, d->pos, (size_t)n * sizeof *v);
    if (j->passes > 1) {
        if (first) {
            show_step(d, "v.%d.pos", step, d->pos);
            show_step(d, "v.%d.neg", step, d->neg);
        }
        qw_guide(v, d->pos, d->neg, step_rows(j), 4 * j->z, j->guidance, j->norm);
    }
    if (!qw_finite(v, n))
        qw_run_fail(&d->stage.run, QWEN_ENUMERIC, "denoise, step %d: the velocity is not finite",
                    step);
    if (first) show_step(d, "v.%d", step, v);
    return d->stage.run.error.status;
}

static int fresh_noise(void *user, double *out)
{
    denoising *d = user;
    qw_job *j = d->j;
    const int64_t frame = j->z * j->h * j->w;
    for (int64_t f = 0; f < j->frames; f++) {
        if (qw_rng_normal(&d->rng, qw_noise_type(j), frame, d->fresh, &d->stage.run.error))
            return d->stage.run.error.status;
        qw_pack(d->fresh, j->z, j->h, j->w, out + f * frame);
    }
    return QWEN_OK;
}

/* Inpainting: sets tokens that the mask keeps to the input picture's latent, noised to sigma_next
 * with the noise that the run began from. */
static int after_step(void *user, int step, double sigma_next, double *x)
{
    denoising *d = user;
    const qw_job *j = d->j;
    (void)step;
    if (!j->mask_tokens) return QWEN_OK;
    for (int64_t i = 0; i < j->tokens * 4 * j->z; i++) {
        const double m = j->mask_tokens[i],
                     kept = sigma_next * j->start[i] + (1 - sigma_next) * j->kept[i];
        x[i] = (1 - m) * kept + m * x[i];
    }
    return QWEN_OK;
}

int64_t qw_reference_tokens(const qw_reference *f)
{
    return (f->image.w / 8 + 1) / 2 * ((f->image.h / 8 + 1) / 2);
}

/* Packs a latent into tokens of 2 x 2.  Odd sides, which occur with like "comfyui" only, are
 * continued from their beginning (pad_to_patch_size of ComfyUI is circular). */
static int pack_reference(qwen *q, const double *latent, int64_t z, int64_t h, int64_t w,
                          double *tokens)
{
    const int64_t H = (h + 1) / 2 * 2, W = (w + 1) / 2 * 2;
    double *even = h == H && w == W ? NULL : qw_doubles(q, z * H * W, "a reference");
    if (q->error.status) return q->error.status;
    for (int64_t i = 0; even && i < z * H * W; i++)
        even[i] = latent[(i / (H * W) * h + i / W % H % h) * w + i % W % w];
    qw_pack(even ? even : latent, z, H, W, tokens);
    free(even);
    return QWEN_OK;
}

/* Sets the sequences of all passes: the noise, then the input pictures. */
static int set_sequence(denoising *d)
{
    qw_job *j = d->j;
    qwen *q = j->q;
    const int grids = (int)j->frames + j->sequence_references;
    int64_t rows = step_rows(j), at = rows;
    for (int k = 0; k < j->sequence_references; k++) rows += qw_reference_tokens(&j->reference[k]);
    const int64_t n = step_rows(j) * 4 * j->z;
    d->grid = calloc((size_t)grids, sizeof *d->grid);
    d->in = qw_doubles(q, rows * 4 * j->z, "the sequence");
    d->pos = qw_doubles(q, n, "a velocity");
    d->neg = qw_doubles(q, n, "a velocity");
    d->fresh = qw_doubles(q, j->z * j->h * j->w, "noise");
    if (!d->grid || !d->in || !d->pos || !d->neg || !d->fresh)
        return qw_fail(&q->error, QWEN_ENOMEM, "no memory for the sequence");
    for (int k = 0; k < grids; k++) {
        const int f = k - (int)j->frames;
        const qw_reference *ref = f >= 0 ? &j->reference[f] : NULL;
        const int64_t h = ref ? ref->image.h / 8 : j->h, w = ref ? ref->image.w / 8 : j->w;
        d->grid[k] = (qw_grid){ 1, (int32_t)((h + 1) / 2), (int32_t)((w + 1) / 2) };
        if (ref && ref->latent && pack_reference(q, ref->latent, j->z, h, w, d->in + at * 4 * j->z))
            return q->error.status;
        at += ref ? qw_reference_tokens(ref) : 0;
    }
    for (int p = 0; p < j->passes; p++)
        d->work.seq[p] = (qw_dit_sequence){ .x = d->in,
                                            .rows = rows,
                                            .noise_rows = step_rows(j),
                                            .grid = d->grid,
                                            .grids = grids,
                                            .noise_grids = (int)j->frames,
                                            .text = j->text[p],
                                            .text_rows = j->text_rows[p],
                                            .out = p ? d->neg : d->pos };
    d->work.nets = j->nets;
    d->work.comfy = q->comfy;
    d->work.passes = j->passes;
    return QWEN_OK;
}

/* A Fun ControlNet, and in ComfyUI InstantX's, runs in every pass; others in the first alone. */
static void set_control(denoising *d)
{
    const qw_job *j = d->j;
    const qwen *q = j->q;
    if (!j->condition) return;
    const qw_control_kind kind = q->files.control_kind;
    d->work.condition = j->condition;
    d->work.each = kind == QW_CONTROL_FUN || (q->comfy && kind == QW_CONTROL_INSTANTX);
    d->work.strength = q->comfy && kind == QW_CONTROL_FUN ? sqrt(j->control_strength)
                                                          : j->control_strength;
}

static int show_sequence(denoising *d)
{
    qw_job *j = d->j;
    const int grids = d->work.seq[0].grids, n = j->steps;
    int32_t *shapes = malloc((size_t)grids * 3 * sizeof *shapes);
    double *x = qw_doubles(j->q, n + 1, "sigmas");
    if (shapes && x) {
        for (int k = 0; k < grids; k++)
            memcpy(shapes + 3 * k,
                   (int32_t[]){ d->grid[k].frames, d->grid[k].rows, d->grid[k].cols },
                   3 * sizeof *shapes);
        qw_show_ints(j, shapes, 2, (int64_t[]){ grids, 3 }, "img_shapes");
        if (!isnan(j->sched.mu))
            qw_show(j, QW_PHASE_DENOISE, &j->sched.mu, 1, (int64_t[]){ 1 }, "mu");
        for (int i = 0; i <= n; i++) x[i] = j->sched.sigma[i];
        qw_show(j, QW_PHASE_DENOISE, x, 1, (int64_t[]){ n + 1 }, "sigmas");
        for (int i = 0; i < n; i++) x[i] = j->sched.timestep[i];
        qw_show(j, QW_PHASE_DENOISE, x, 1, (int64_t[]){ n }, "timesteps");
        qw_show(j, QW_PHASE_DENOISE, d->t, 1, (int64_t[]){ d->steps }, "step.t");
    } else {
        qw_fail(&j->q->error, QWEN_ENOMEM, "no memory for the sigmas");
    }
    free(shapes);
    free(x);
    return j->q->error.status;
}

/* Sets the transformer's t of each step: timestep / 1000 in float32, as in diffusers; sigma, as in
 * ComfyUI. */
static int set_times(denoising *d)
{
    const qw_job *j = d->j;
    d->steps = j->steps - j->first_step;
    if (!(d->t = qw_doubles(j->q, d->steps, "timesteps"))) return j->q->error.status;
    for (int i = 0; i < d->steps; i++) {
        const float *timestep = j->sched.timestep + j->first_step,
                    *sigma = j->sched.sigma + j->first_step;
        d->t[i] = j->q->comfy ? (double)sigma[i] : (double)(float)(timestep[i] / 1000.0f);
    }
    return QWEN_OK;
}

static void denoise_steps(denoising *d)
{
    const qw_job *j = d->j;
    qw_run *r = &d->stage.run;
    modulate_work m = { j->nets, d->t, d->steps, &d->table, j->condition ? &d->control_table : NULL,
                        NULL };
    qw_stage_reserve(&d->stage, modulate_body, &m);
    qw_stage_run(&d->stage, modulate_body, &m, NULL, 0);
    d->work.mod = d->table;
    d->work.control_mod = d->control_table;
    d->work.controlled = j->condition != NULL;
    d->work.step = 0;
    d->stage.times = d->steps;
    qw_stage_reserve(&d->stage, velocity_body, &d->work);
    if (r->error.status || j->tally) return;
    m = between(d, d->t);
    qw_stage_reserve(&d->stage, between_body, &m);
    place(r, &d->work);
    const qw_sampler s = { velocity, fresh_noise, after_step, d };
    qw_error err = { 0 };
    qw_sample(j->sampler, &s, j->sched.sigma + j->first_step, d->steps, j->x,
              step_rows(j) * 4 * j->z, &err);
    if (err.status && !r->error.status) r->error = err;
    show_step(d, "latents.%d", d->steps, j->x);
    r->step = d->steps - 1;
    for (int i = 0; i < 2; i++) qw_run_forget(r, &d->work.recording[i]);
    r->used = 0;
}

static void free_denoising(denoising *d)
{
    qw_modulation_free(d->table);
    qw_modulation_free(d->extra);
    qw_modulation_free(d->control_table);
    qw_modulation_free(d->control_extra);
    free(d->grid);
    free(d->in);
    free(d->pos);
    free(d->neg);
    free(d->fresh);
    free(d->t);
}

int qw_job_denoise(qw_job *j)
{
    qwen *q = j->q;
    denoising d = { .j = j, .shown = -1 };
    set_control(&d);
    if (!set_sequence(&d) && !set_times(&d) && !show_sequence(&d)
        && !qw_rng_init(&d.rng, j->rng_name, j->req->seed, &q->error)) {
        qw_stage_begin(&d.stage, j, QW_PHASE_DENOISE, d.steps, (int)q->config.dit.layers);
        denoise_steps(&d);
        qw_stage_end(&d.stage);
    }
    free_denoising(&d);
    return q->error.status;
}

/* --- a single velocity ------------------------------------------------------------------------ */

int qw_noises(const qwen *q, int latents)
{
    return q->config.dit.layer3d && latents > 1 ? latents - 1 : 1;
}

/* The first latents give the size of the noise; the others become the sequence's input pictures.
 * The arrays stay the caller's. */
static void set_latents(qw_job *j, const qw_latent *latent, int latents)
{
    j->frames = qw_noises(j->q, latents);
    j->z = j->q->config.dit.in / 4;
    j->h = latent[0].h;
    j->w = latent[0].w;
    j->tokens = (j->h / 2) * (j->w / 2);
    j->sequence_references = latents - (int)j->frames;
    for (int i = 0; i < j->sequence_references; i++) {
        const qw_latent *from = &latent[j->frames + i];
        j->reference[i].image.w = 8 * from->w;
        j->reference[i].image.h = 8 * from->h;
        j->reference[i].latent = from->x;
    }
}

/* v [frames][z][h][w] */
static void one_velocity(denoising *d, const qw_latent *latent, double sigma, double *v)
{
    const qw_job *j = d->j;
    const int64_t frame = j->z * j->h * j->w;
    modulate_work m = { j->nets, &sigma, 1, &d->table, NULL, NULL };
    for (int64_t i = 0; i < j->frames; i++)
        qw_pack(latent[i].x, j->z, j->h, j->w, d->in + i * frame);
    qw_stage_reserve(&d->stage, modulate_body, &m);
    qw_stage_run(&d->stage, modulate_body, &m, NULL, 0);
    d->work.mod = d->table;
    qw_stage_reserve(&d->stage, velocity_body, &d->work);
    qw_stage_run(&d->stage, velocity_body, &d->work, d->pos, j->frames * frame);
    for (int64_t i = 0; i < j->frames; i++)
        qw_unpack(d->pos + i * frame, j->z, j->h, j->w, v + i * frame);
}

int qw_velocity(qwen *q, const qw_latent *latent, int latents, double sigma, const double *text,
                int64_t text_rows, double *out)
{
    qw_job j;
    qw_job_start(&j, q, NULL);
    denoising d = { .j = &j, .shown = -1 };
    set_latents(&j, latent, latents);
    if (!set_sequence(&d)) {
        d.work.seq[0].text = text;
        d.work.seq[0].text_rows = text_rows;
        qw_stage_begin(&d.stage, &j, QW_PHASE_DENOISE, 1, (int)q->config.dit.layers);
        one_velocity(&d, latent, sigma, out);
        qw_stage_end(&d.stage);
    }
    free_denoising(&d);
    qw_job_free(&j);
    return q->error.status;
}
