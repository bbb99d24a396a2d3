/* stages.c - the pieces of a picture: text, vision, encoding, denoising, decoding, each as work on a device.
 *
 * A stage walks its body on the plan device first: that tells how much scratch it needs, and everything
 * that qwen_plan reports.  Then the same body runs in earnest.  What crosses between stages is host memory
 * in double precision. */
#include "pipeline.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* --- a stage on a device --------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* nonzero: stop */
static int tell(qw_stage *s, int step, int block)
{
    const qwen_request *r = s->req;
    if (!r || !r->progress)
        return 0;
    const qwen_progress p = { .size = sizeof p, .phase = s->name, .step = step, .steps = s->steps, .block = block,
                              .blocks = s->blocks };
    s->told_step = step;
    s->told_block = block;
    return r->progress(r->user, &p);
}

static int stage_poll(void *user)
{
    qw_stage *s = user;
    const int step = s->run.step < 0 ? 0 : s->run.step, block = s->run.block < 0 ? 0 : s->run.block;
    if (step == s->told_step && block == s->told_block)
        return 0;
    return tell(s, step, block);
}

static void stage_tap(void *user, const char *name, const qwen_array *a)
{
    const qw_stage *s = user;
    s->req->tap(s->req->user, name, a);
}

int qw_stage_begin(qw_stage *s, qwen *q, const qwen_request *req, qw_device *dev, const char *name, int steps,
                   int blocks)
{
    memset(s, 0, sizeof *s);
    s->q = q;
    s->req = req;
    s->name = name;
    s->steps = steps;
    s->blocks = blocks;
    s->started = now();
    qw_run_init(&s->run, dev, strncmp(dev->name, "ref", 3) ? q->ref : NULL);
    s->run.stage = name;
    s->run.strict = q->opt.strict;
    s->run.user = s;
    s->run.poll = req && req->progress ? stage_poll : NULL;
    s->run.tap = req && req->tap && !q->tally ? stage_tap : NULL;
    if (!q->tally && tell(s, 0, 0))
        qw_run_fail(&s->run, QWEN_ECANCELLED, "cancelled");
    return s->run.error.status;
}

static void tally_line(void *user, const char *line)
{
    qw_tally *t = user;
    const int64_t times = (int64_t)t->times;
    for (int64_t i = t->lines - 1; i >= 0; i--)
        if (!strcmp(t->line[i].line, line)) {
            t->line[i].count += times;
            return;
        }
    if (t->lines == t->room) {
        const int64_t room = t->room * 2 + 64;
        struct qw_tally_line *more = realloc(t->line, (size_t)room * sizeof *more);
        if (!more) {
            t->failed = 1;
            return;
        }
        t->line = more;
        t->room = room;
    }
    t->line[t->lines].line = qw_strdup(line);
    t->line[t->lines].count = times;
    if (t->line[t->lines].line)
        t->lines++;
    else
        t->failed = 1;
}

void qw_tally_free(qw_tally *t)
{
    for (int64_t i = 0; i < t->lines; i++)
        free(t->line[i].line);
    free(t->line);
    memset(t, 0, sizeof *t);
}

int qw_stage_reserve(qw_stage *s, qw_body body, void *arg)
{
    qw_device *plan = NULL;
    qw_run r;
    if (s->run.error.status)
        return s->run.error.status;
    const int opened = qw_plan_open(s->run.dev, &plan);
    if (opened) {
        qw_run_fail(&s->run, opened, "no memory for a plan");
        return opened;
    }
    void *skipped;                      /* where qwen_plan's weights have their addresses, below 2^53 in each 2^54 */
    if (qw_is_plan(s->run.dev))
        plan->alloc(plan, SIZE_MAX / 2048, &skipped);
    qw_run_init(&r, plan, NULL);
    r.stage = s->name;
    r.step = s->run.step;
    qw_tally *t = s->q->tally;
    if (t && t->want_lines) {
        r.trace = tally_line;
        r.user = t;
    }
    body(&r, arg);
    if (r.error.status)
        s->run.error = r.error;
    if (t) {
        t->scratch = r.peak > t->scratch ? r.peak : t->scratch;
        t->flops += r.flops * t->times;
        if (t->failed)
            qw_run_fail(&s->run, QWEN_ENOMEM, "no memory for the list of operations");
    } else if (!s->run.error.status) {
        qw_run_reserve(&s->run, r.peak);
    }
    if (r.peak > s->q->peak_scratch)
        s->q->peak_scratch = r.peak;
    qw_run_free(&r);
    plan->close(plan);
    return s->run.error.status;
}

static int finite(const double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(x[i]) <= DBL_MAX))
            return 0;
    return 1;
}

int qw_stage_run(qw_stage *s, qw_body body, void *arg, const double *out, int64_t n)
{
    qw_run *r = &s->run;
    if (r->error.status || s->q->tally)
        return r->error.status;
    body(r, arg);
    if (r->error.status || finite(out, n))
        return r->error.status;
    r->check = 1;                       /* once more, looking at each result */
    r->tap = NULL;
    r->magnitude = 0;
    body(r, arg);
    qw_run_fail(r, QWEN_ENUMERIC, "%s: a result is not finite; the largest magnitude before it was %.4g", s->name,
                r->magnitude);
    return r->error.status;
}

static const char *const op_names[] = {
#define X(op) #op,
    QW_OPS(X)
#undef X
};

int qw_stage_end(qw_stage *s, double *seconds)
{
    qw_run *r = &s->run;
    qwen *q = s->q;
    if (!r->error.status && !q->tally && s->steps == r->step + 1 && tell(s, s->steps, s->blocks))
        qw_run_fail(r, QWEN_ECANCELLED, "cancelled");
    for (int i = 0; i < QW_NOPS; i++)
        if (r->declined[i] && !q->tally)
            qw_say(q, 1, "%s: %s declined %llu of %llu calls of %s", s->name, r->dev->name,
                   (unsigned long long)r->declined[i], (unsigned long long)r->calls[i], op_names[i]);
    if (r->error.status && !q->error.status)
        q->error = r->error;
    if (seconds)
        *seconds += now() - s->started;
    qw_run_free(r);
    return q->error.status;
}

/* --- bodies -------------------------------------------------------------------------------------------------- */

void qw_text_body(qw_run *r, void *arg)
{
    const qw_text_work *w = arg;
    const char *names = r->names;
    r->names = w->names;
    qw_text_forward(r, w->q->text, w->ids, w->n, w->features, w->feature_rows, w->positions, w->out);
    r->names = names;
}

void qw_vision_body(qw_run *r, void *arg)
{
    const qw_vision_work *w = arg;
    qw_vision_forward(r, w->q->vision, w->pixels, &w->grid, w->out);
}

void qw_decode_body(qw_run *r, void *arg)
{
    const qw_decode_work *w = arg;
    qw_vae_decode(r, w->q->vae, w->latent, w->h, w->w, w->picture);
}

void qw_encode_body(qw_run *r, void *arg)
{
    const qw_encode_work *w = arg;
    qw_vae_encode(r, w->q->vae, w->picture, w->h, w->w, w->mean, w->logvar);
}

/* The side network once with the positive prompt, or in every pass with its own. */
static void run_control(qw_run *r, qw_velocity_work *w)
{
    const qwen *q = w->q;
    for (int p = 0; p < w->passes; p++) {
        w->seq[p].hook = NULL;
        if (!w->condition)
            continue;
        if (!p || w->samples[p] != w->samples[0])
            qw_control_forward(r, q->control, q->dit, w->control_mod, w->step, &w->seq[p], w->condition, w->strength,
                               q->comfy, w->samples[p]);
        w->use[p] = (qw_control_use){ q->control, w->samples[p], w->strength, (int)q->dit_config.layers };
        w->hook[p] = (qw_dit_hook){ qw_control_after, &w->use[p] };
        w->seq[p].hook = &w->hook[p];
    }
}

void qw_velocity_body(qw_run *r, void *arg)
{
    qw_velocity_work *w = arg;
    run_control(r, w);
    qw_dit_forward(r, w->q->dit, w->mod, w->step, w->seq, w->passes, w->q->comfy, 0);
}

typedef struct modulate_work {
    qwen         *q;
    const double *t;                    /* [steps] */
    int           steps;
    qw_modulation **out, **control;     /* control NULL: there is no ControlNet */
} modulate_work;

static void modulate_body(qw_run *r, void *arg)
{
    const modulate_work *w = arg;
    qw_modulation_free(*w->out);
    *w->out = NULL;
    qw_dit_modulate(r, w->q->dit, w->t, w->steps, w->out);
    if (!w->control)
        return;
    qw_modulation_free(*w->control);
    *w->control = NULL;
    qw_control_modulate(r, w->q->control, w->q->dit, w->t, w->steps, w->control);
}

/* --- small things shared by the stages -------------------------------------------------------------------------- */

static double *doubles(qwen *q, int64_t n, const char *what)
{
    double *x = calloc((size_t)(n > 0 ? n : 1), sizeof *x);
    if (!x)
        qw_fail(&q->error, QWEN_ENOMEM, "no memory for %lld numbers of %s", (long long)n, what);
    return x;
}

/* Shows host data outside of any stage, in the type of the device it was or will be on. */
static int show(qw_job *j, qw_device *dev, const double *x, int rank, const int64_t *dim, const char *name)
{
    qw_stage s = { .q = j->q, .req = j->req };
    if (!j->req->tap || j->q->tally)
        return QWEN_OK;
    qw_run_init(&s.run, dev, NULL);
    s.run.tap = stage_tap;
    s.run.user = &s;
    qw_tap_doubles(&s.run, x, rank, dim, "%s", name);
    if (s.run.error.status)
        j->q->error = s.run.error;
    return j->q->error.status;
}

static int show_ints(qw_job *j, const int32_t *x, int rank, const int64_t *dim, const char *name)
{
    qw_stage s = { .q = j->q, .req = j->req };
    if (!j->req->tap || j->q->tally)
        return QWEN_OK;
    qw_run_init(&s.run, j->q->dev, NULL);
    s.run.tap = stage_tap;
    s.run.user = &s;
    qw_tap_ints(&s.run, x, rank, dim, "%s", name);
    if (s.run.error.status)
        j->q->error = s.run.error;
    return j->q->error.status;
}

void qw_latent_normalise(const qw_vae_config *c, const double *raw, int64_t n, double *out)
{
    for (int64_t k = 0; k < c->z; k++)
        for (int64_t i = 0; i < n; i++)
            out[k * n + i] = (raw[k * n + i] - c->mean[k]) / c->std[k];
}

void qw_latent_raw(const qw_vae_config *c, const double *normalised, int64_t n, double *out)
{
    for (int64_t k = 0; k < c->z; k++)
        for (int64_t i = 0; i < n; i++)
            out[k * n + i] = normalised[k * n + i] * c->std[k] + c->mean[k];
}

/* --- text ----------------------------------------------------------------------------------------------------------- */

enum { TOKENS_MAX = 1024, ROWS_MAX = 512 };     /* of the text-to-image pipelines (spec 02 §6) */

static int sees_pictures(const qw_job *j)
{
    return j->task == QW_EDITING || j->task == QW_EDIT_INPAINT;
}

int qw_job_prompt(qw_job *j, int negative, qw_prompt *out)
{
    qwen *q = j->q;
    const char *text = negative ? j->negative : j->req->prompt, *name = j->req->chat_template;
    if (!name)
        name = !sees_pictures(j) ? "t2i" : j->variant == QW_EDIT ? "edit" : "edit-plus";
    memset(out, 0, sizeof *out);
    if (q->comfy && !strncmp(text, "<|im_start|>", 12)) {       /* taken verbatim */
        out->text = qw_strdup(text);
        out->bytes = strlen(text);
        return out->text ? QWEN_OK : qw_fail(&q->error, QWEN_ENOMEM, "no memory for the prompt");
    }
    if (qw_need_tokenizer(q))
        return q->error.status;
    return qw_prompt_make(out, name, j->req->system, text, j->view_tokens, j->views, q->tokenizer, &q->error);
}

/* ComfyUI's rule: up to the second "<|im_start|>", and three more if "user\n" follows it. */
static int64_t comfy_drop(const qwen *q, const int32_t *ids, int64_t n)
{
    int32_t *start = NULL, *user = NULL;
    int64_t ns = 0, nu = 0, drop = -1, found = 0;
    qw_error err = { 0 };
    if (!qw_tokenize(q->tokenizer, "<|im_start|>", 12, &start, &ns, &err) &&
        !qw_tokenize(q->tokenizer, "user\n", 5, &user, &nu, &err) && ns == 1 && nu == 2)
        for (int64_t i = 0; i < n && found < 2; i++)
            if (ids[i] == start[0]) {
                drop = i;
                found++;
            }
    if (drop >= 0 && drop + 2 < n && ids[drop + 1] == user[0] && ids[drop + 2] == user[1])
        drop += 3;
    free(start);
    free(user);
    return drop < 0 ? n - 1 : drop;
}

/* Features of all pictures, in order. */
static int make_features(qw_job *j)
{
    qwen *q = j->q;
    if (j->features || !j->views)
        return QWEN_OK;
    if (qw_need_vision(q))
        return q->error.status;
    const qw_vision_config *c = &q->vision_config;
    const int64_t width = c->channels * c->temporal * c->patch * c->patch, unit = c->merge * c->merge;
    double *pixels = doubles(q, j->feature_rows * unit * width, "pixels");
    j->features = doubles(q, j->feature_rows * c->out, "picture features");
    qw_stage s;
    int64_t row = 0;
    int32_t grid[QW_MAX_PICTURES * 3];
    if (!pixels || !j->features) {
        free(pixels);
        return q->error.status;
    }
    qw_stage_begin(&s, q, j->req, q->text_dev, "vision", j->views, (int)c->depth);
    void (*const tap)(void *, const char *, const qwen_array *) = s.run.tap;
    s.run.tap = NULL;                   /* the tower's own taps are for single stages */
    for (int i = 0; i < j->views; i++) {
        qw_vision_work w = { q, pixels + row * unit * width, j->view_grid[i], j->features + row * c->out };
        qw_vision_pixels(j->view[i].data, j->view[i].w, j->view[i].h, c, pixels + row * unit * width);
        s.run.step = i;
        qw_stage_reserve(&s, qw_vision_body, &w);
        qw_stage_run(&s, qw_vision_body, &w, w.out, j->view_tokens[i] * c->out);
        row += j->view_tokens[i];
        memcpy(grid + 3 * i, (int32_t[]){ 1, w.grid.rows, w.grid.cols }, 3 * sizeof *grid);
    }
    s.run.tap = tap;
    qw_tap_ints(&s.run, grid, 2, (int64_t[]){ j->views, 3 }, "vision.grid");
    qw_tap_doubles(&s.run, pixels, 2, (int64_t[]){ row * unit, width }, "vision.pixels");
    qw_tap_doubles(&s.run, j->features, 2, (int64_t[]){ row, c->out }, "vision.out");
    free(pixels);
    return qw_stage_end(&s, &j->seconds_vision);
}

int qw_plan_features(qw_job *j)
{
    return make_features(j);
}

/* The cut of the text-to-image pipelines loses the end of a long prompt. */
static int64_t cut_tokens(qw_job *j, int64_t n, int64_t drop)
{
    const int64_t most = TOKENS_MAX + drop;
    if (j->q->comfy || sees_pictures(j) || j->task == QW_LAYERS || n <= most)
        return n;
    qw_say(j->q, 0, "the prompt has %lld tokens; the pipeline reads %lld", (long long)n, (long long)most);
    return most;
}

static int64_t cut_rows(qw_job *j, int64_t rows)
{
    if (j->q->comfy || sees_pictures(j) || rows <= ROWS_MAX)
        return rows;
    qw_say(j->q, 0, "the prompt is cut to %d of %lld tokens", ROWS_MAX, (long long)rows);
    return ROWS_MAX;
}

/* hidden [n][width] of ids, through the text encoder. */
static int run_text(qw_job *j, int negative, const int32_t *ids, int64_t n, double *hidden)
{
    qwen *q = j->q;
    const int64_t m = q->vision_config.merge ? q->vision_config.merge : 1;
    qw_grid merged[QW_MAX_PICTURES];
    qw_stage s;
    int32_t *positions = malloc((size_t)n * 3 * sizeof *positions), *ones = malloc((size_t)n * sizeof *ones);
    for (int i = 0; i < j->views; i++)
        merged[i] = (qw_grid){ 1, (int32_t)(j->view_grid[i].rows / m), (int32_t)(j->view_grid[i].cols / m) };
    if (!positions || !ones)
        qw_fail(&q->error, QWEN_ENOMEM, "no memory for %lld positions", (long long)n);
    else
        qw_mrope_positions(&q->text_config, ids, n, merged, j->views, positions, &q->error);
    if (q->error.status) {
        free(positions);
        free(ones);
        return q->error.status;
    }
    for (int64_t i = 0; i < n; i++)
        ones[i] = 1;
    qw_text_work w = { .q = q, .ids = ids, .n = n, .features = j->features, .feature_rows = j->feature_rows,
                       .positions = positions, .out = hidden, .names = negative ? "neg." : "text." };
    qw_stage_begin(&s, q, j->req, q->text_dev, "text", j->passes, (int)q->text_config.layers);
    s.run.step = negative;
    qw_tap_ints(&s.run, ids, 1, &n, "%sids", w.names);
    qw_tap_ints(&s.run, ones, 1, &n, "%smask", w.names);
    qw_tap_ints(&s.run, positions, 2, (int64_t[]){ 3, n }, "%spositions", w.names);
    qw_stage_reserve(&s, qw_text_body, &w);
    qw_stage_run(&s, qw_text_body, &w, hidden, n * q->text_config.width);
    free(positions);
    free(ones);
    return qw_stage_end(&s, &j->seconds_text);
}

/* The rows that the transformer reads, from the prompt's text. */
static int encode_prompt(qw_job *j, int negative, const qw_prompt *p)
{
    qwen *q = j->q;
    int32_t *ids = NULL;
    int64_t n = 0, drop = p->drop;
    if (qw_need_tokenizer(q) || qw_need_text(q) || qw_tokenize(q->tokenizer, p->text, p->bytes, &ids, &n, &q->error))
        return q->error.status;
    if (q->comfy)
        drop = comfy_drop(q, ids, n);
    n = cut_tokens(j, n, drop);
    const int64_t width = q->text_config.width;
    double *hidden = n > drop ? doubles(q, n * width, "hidden states") : NULL;
    if (n <= drop)
        qw_fail(&q->error, QWEN_EARG, "the prompt has %lld tokens, of which %lld are dropped", (long long)n,
                (long long)drop);
    if (hidden && !make_features(j) && !run_text(j, negative, ids, n, hidden)) {
        const int64_t rows = cut_rows(j, n - drop);
        j->text[negative] = doubles(q, rows * width, "embeddings");
        j->text_rows[negative] = rows;
        if (j->text[negative])
            memcpy(j->text[negative], hidden + drop * width, (size_t)(rows * width) * sizeof *hidden);
    }
    free(hidden);
    free(ids);
    return q->error.status;
}

/* Embeddings that the caller gave: [n][width], F32 or F64. */
static int given_embedding(qw_job *j, int negative, const qwen_array *a)
{
    qwen *q = j->q;
    const char *what = negative ? "negative_embeds" : "embeds";
    const int64_t width = q->dit_files.store ? q->dit_config.text_width : a->rank == 2 ? a->dim[1] : 0;
    if (!a->data || a->rank != 2 || a->dim[0] < 1 || a->dim[0] > 1 << 24 || a->dim[1] != width ||
        (a->dtype != QWEN_F32 && a->dtype != QWEN_F64))
        return qw_fail(&q->error, QWEN_EARG, "%s: not numbers of [rows][%lld]", what, (long long)width);
    const int64_t n = a->dim[0] * width;
    double *x = j->text[negative] = doubles(q, n, "embeddings");
    j->text_rows[negative] = a->dim[0];
    if (!x)
        return q->error.status;
    for (int64_t i = 0; i < n; i++)
        x[i] = a->dtype == QWEN_F64 ? ((const double *)a->data)[i] : (double)((const float *)a->data)[i];
    if (!finite(x, n))
        return qw_fail(&q->error, QWEN_EARG, "%s: a number is not finite", what);
    return QWEN_OK;
}

/* The handle keeps the last prompts, so that another picture of the same words need not read them again. */
static int remembered(qw_job *j, int negative, const char *key)
{
    qwen *q = j->q;
    for (int i = 0; i < 2 && !j->req->tap; i++) {       /* who taps wants to see it computed */
        const qw_embedding *e = &q->embedding[i];
        if (!e->key || strcmp(e->key, key))
            continue;
        const int64_t n = e->n * q->text_config.width;
        if (!(j->text[negative] = doubles(q, n, "embeddings")))
            return 0;
        memcpy(j->text[negative], e->rows, (size_t)n * sizeof *e->rows);
        j->text_rows[negative] = e->n;
        return 1;
    }
    return 0;
}

static void remember(qw_job *j, int negative, char *key)
{
    qw_embedding *e = &j->q->embedding[negative];
    const size_t bytes = (size_t)(j->text_rows[negative] * j->q->text_config.width) * sizeof *e->rows;
    free(e->key);
    free(e->rows);
    e->key = key;
    e->n = j->text_rows[negative];
    e->rows = malloc(bytes);
    if (e->rows) {
        memcpy(e->rows, j->text[negative], bytes);
        return;
    }
    free(e->key);                       /* no memory to remember: it is made again */
    memset(e, 0, sizeof *e);
}

int qw_embed_prompt(qw_job *j, int negative)
{
    qwen *q = j->q;
    const qwen_array *given = negative ? j->req->negative_embeds : j->req->embeds;
    qw_prompt p;
    if (given) {
        if (given_embedding(j, negative, given))
            return q->error.status;
    } else {
        if (!negative && !j->req->prompt)
            return qw_fail(&q->error, QWEN_EARG, "the request has no prompt");
        if (qw_job_prompt(j, negative, &p))
            return q->error.status;
        char *key = malloc(p.bytes + 64);
        if (!key) {
            qw_prompt_free(&p);
            return qw_fail(&q->error, QWEN_ENOMEM, "no memory for the prompt");
        }
        snprintf(key, 64, "%d %lld %016llx ", (int)j->task, (long long)p.drop, (unsigned long long)j->view_hash);
        memcpy(key + strlen(key), p.text, p.bytes + 1);
        const int known = remembered(j, negative, key);
        if (!known && !q->error.status)
            encode_prompt(j, negative, &p);
        qw_prompt_free(&p);
        if (known || q->error.status || q->tally)
            free(key);
        else
            remember(j, negative, key);
    }
    if (q->error.status)
        return q->error.status;
    const int64_t width = given ? given->dim[1] : q->text_config.width;
    return show(j, q->text_dev, j->text[negative], 2, (int64_t[]){ j->text_rows[negative], width },
                negative ? "neg.embeds" : "text.embeds");
}

/* --- pictures to latents ---------------------------------------------------------------------------------------------- */

/* name: "vae.enc.0.mean" */
static int show_encoded(qw_job *j, int k, const char *part, const double *x, const int64_t dim[3])
{
    char name[64];
    snprintf(name, sizeof name, "vae.enc.%d.%s", k, part);
    return show(j, j->q->vae_dev, x, 3, dim, name);
}

static qw_dtype noise_type(const qw_job *j)
{
    return j->req->noise_dtype && !strcmp(j->req->noise_dtype, "bf16") ? QW_BF16 : QW_F32;
}

/* latent = normalised mean, or a sample of the posterior: mean + exp(logvar / 2) eps. */
static int settle(qw_job *j, int k)
{
    qwen *q = j->q;
    qw_reference *f = &j->reference[k];
    const int64_t h = f->image.h / 8, w = f->image.w / 8, n = h * w, z = q->vae_config.z;
    const int64_t dim[3] = { z, h, w };
    double *sample = doubles(q, z * n, "a latent");
    f->latent = doubles(q, z * n, "a latent");
    if (!sample || !f->latent) {
        free(sample);
        return q->error.status;
    }
    memcpy(sample, f->mean, (size_t)(z * n) * sizeof *sample);
    if (f->sampled) {
        qw_rng_normal(&j->rng, noise_type(j), z * n, sample, &q->error);
        show_encoded(j, k, "eps", sample, dim);
        for (int64_t i = 0; i < z * n; i++)
            sample[i] = f->mean[i] + exp(0.5 * f->logvar[i]) * sample[i];
    }
    qw_latent_normalise(&q->vae_config, sample, n, f->latent);
    free(sample);
    show_encoded(j, k, "norm", f->latent, dim);
    return q->error.status;
}

static int encode_one(qw_job *j, qw_stage *s, int k)
{
    qwen *q = j->q;
    qw_reference *f = &j->reference[k];
    const int64_t c = f->image.channels, H = f->image.h, W = f->image.w, n = H / 8 * (W / 8), z = q->vae_config.z;
    double *picture = doubles(q, H * W * c, "a picture"), *chw = doubles(q, H * W * c, "a picture");
    f->mean = doubles(q, z * n, "a latent");
    f->logvar = doubles(q, z * n, "a latent");
    if (picture && chw && f->mean && f->logvar) {
        for (int64_t i = 0; i < H * W; i++)
            for (int64_t m = 0; m < c; m++)
                chw[m * H * W + i] = picture[i * c + m] =
                    f->masked && j->mask[i] ? 0 : f->holes && j->mask[i] ? -1 : f->image.data[i * c + m] / 127.5 - 1;
        qw_encode_work w = { q, picture, H, W, f->mean, f->logvar };
        s->run.step = k;
        if (qw_tiles_needed(j, W, H)) {
            qw_encode_tiled(s, &w);
        } else {
            qw_stage_reserve(s, qw_encode_body, &w);
            qw_stage_run(s, qw_encode_body, &w, f->mean, z * n);
        }
        const int64_t dim[3] = { z, H / 8, W / 8 };
        show_encoded(j, k, "in", chw, (int64_t[]){ c, H, W });
        show_encoded(j, k, "mean", f->mean, dim);
        show_encoded(j, k, "logvar", f->logvar, dim);
        if (j->req->tap && !q->tally) {
            qw_latent_normalise(&q->vae_config, f->mean, n, chw);       /* z n <= c H W: 8 x 8 pixels a column */
            show_encoded(j, k, "mean_norm", chw, dim);
        }
    }
    free(picture);
    free(chw);
    return q->error.status ? q->error.status : s->run.error.status;
}

/* The picture with nothing where it is repainted: encoded by the pipelines, and never used. */
static int add_masked(qw_job *j)
{
    const qw_image *from = &j->reference[0].image;
    qw_reference *f = &j->reference[j->references];
    const size_t bytes = (size_t)(from->w * from->h * from->channels);
    f->image = *from;
    f->sampled = f->masked = 1;
    f->image.data = malloc(bytes);
    if (!f->image.data)
        return qw_fail(&j->q->error, QWEN_ENOMEM, "no memory for a picture");
    j->references++;
    memcpy(f->image.data, from->data, bytes);
    return QWEN_OK;
}

static int pack_mask(qw_job *j)
{
    double *latent = doubles(j->q, j->z * j->h * j->w, "a mask");
    j->mask_tokens = doubles(j->q, j->z * j->h * j->w, "a mask");
    if (latent && j->mask_tokens) {
        for (int64_t k = 0; k < j->z; k++)
            for (int64_t y = 0; y < j->h; y++)
                for (int64_t x = 0; x < j->w; x++)
                    latent[(k * j->h + y) * j->w + x] = j->mask[8 * y * j->width + 8 * x];
        qw_pack(latent, j->z, j->h, j->w, j->mask_tokens);
        show(j, j->q->dev, j->mask_tokens, 2, (int64_t[]){ j->tokens, 4 * j->z }, "mask");
    }
    free(latent);
    return j->q->error.status;
}

/* What the ControlNet reads: the control latent; for inpainting the mask of what is kept; zeros beyond that. */
static int make_condition(qw_job *j)
{
    qwen *q = j->q;
    const int64_t features = qw_control_features(q->control), n = j->h * j->w;
    double *latent = doubles(q, n * features / 4, "a control latent");
    j->condition = doubles(q, j->tokens * features, "a control latent");
    if (latent && j->condition) {
        memcpy(latent, j->reference[j->control].latent, (size_t)(j->z * n) * sizeof *latent);
        for (int64_t i = 0; j->reference[j->control].holes && i < n; i++)
            latent[j->z * n + i] = !j->mask[8 * (i / j->w) * j->width + 8 * (i % j->w)];
        qw_pack(latent, features / 4, j->h, j->w, j->condition);
        show(j, q->dev, j->condition, 2, (int64_t[]){ j->tokens, features }, "control");
    }
    free(latent);
    return q->error.status;
}

static int inpaints(const qw_job *j)
{
    return j->task == QW_INPAINT || j->task == QW_EDIT_INPAINT;
}

int qw_job_encode(qw_job *j)
{
    qwen *q = j->q;
    if (!j->references)
        return QWEN_OK;
    if (qw_need_vae(q, QW_VAE_ENCODER))
        return q->error.status;
    const int own = j->references;
    if (inpaints(j) && j->req->tap && add_masked(j))
        return q->error.status;
    qw_stage s;
    qw_stage_begin(&s, q, j->req, q->vae_dev, "encode", j->references, 0);
    void (*const tap)(void *, const char *, const qwen_array *) = s.run.tap;
    s.run.tap = NULL;
    for (int k = 0; k < j->references && !s.run.error.status && !q->error.status; k++)
        encode_one(j, &s, k);
    s.run.tap = tap;
    if (qw_stage_end(&s, &j->seconds_encode))
        return q->error.status;
    for (int k = 0; k < own; k++)
        if (settle(j, k))
            return q->error.status;
    if ((inpaints(j) && pack_mask(j)) || (j->control >= 0 && make_condition(j)))
        return q->error.status;
    if (j->task == QW_REDRAW || inpaints(j)) {
        if (!(j->kept = doubles(q, j->tokens * 4 * j->z, "a latent")))
            return q->error.status;
        qw_pack(j->reference[0].latent, j->z, j->h, j->w, j->kept);
    }
    return QWEN_OK;
}

/* --- noise ------------------------------------------------------------------------------------------------------------------ */

static int given_noise(qw_job *j, const qwen_array *a)
{
    qwen *q = j->q;
    int64_t dim[4] = { j->frames, j->z, j->h, j->w }, n = j->frames * j->z * j->h * j->w;
    const int64_t *want = j->frames > 1 ? dim : dim + 1;
    const int rank = j->frames > 1 ? 4 : 3;
    int good = a->data && a->rank == rank && (a->dtype == QWEN_F32 || a->dtype == QWEN_F64);
    for (int i = 0; good && i < rank; i++)
        good = a->dim[i] == want[i];
    if (!good)
        return qw_fail(&q->error, QWEN_EARG, "noise: not numbers of [%lld][%lld][%lld]%s", (long long)j->z,
                       (long long)j->h, (long long)j->w, j->frames > 1 ? " for each frame" : "");
    for (int64_t i = 0; i < n; i++)
        j->noise[i] = a->dtype == QWEN_F64 ? ((const double *)a->data)[i] : (double)((const float *)a->data)[i];
    return finite(j->noise, n) ? QWEN_OK : qw_fail(&q->error, QWEN_EARG, "noise: a number is not finite");
}

/* Layered in ComfyUI draws [channel][frame] where the reference draws [frame][channel]. */
static int reorder_frames(qw_job *j)
{
    const int64_t n = j->h * j->w, all = j->frames * j->z * n;
    double *copy = doubles(j->q, all, "noise");
    if (!copy)
        return j->q->error.status;
    memcpy(copy, j->noise, (size_t)all * sizeof *copy);
    for (int64_t f = 0; f < j->frames; f++)
        for (int64_t k = 0; k < j->z; k++)
            memcpy(j->noise + (f * j->z + k) * n, copy + (k * j->frames + f) * n, (size_t)n * sizeof *copy);
    free(copy);
    return QWEN_OK;
}

int qw_job_noise(qw_job *j)
{
    qwen *q = j->q;
    const int64_t frame = j->z * j->h * j->w, n = j->frames * frame;
    const char *type = j->req->noise_dtype;
    if (type && strcmp(type, "f32") && strcmp(type, "bf16"))
        return qw_fail(&q->error, QWEN_EARG, "noise_dtype \"%s\" is neither f32 nor bf16", type);
    j->noise = doubles(q, n, "noise");
    j->start = doubles(q, n, "noise");
    j->x = doubles(q, n, "latents");
    if (!j->noise || !j->start || !j->x || q->tally)
        return q->error.status;
    if (qw_rng_normal(&j->rng, noise_type(j), n, j->noise, &q->error) ||
        (q->comfy && j->frames > 1 && reorder_frames(j)) || (j->req->noise && given_noise(j, j->req->noise)))
        return q->error.status;
    const int64_t dim[4] = { j->frames, j->z, j->h, j->w };
    show(j, q->dev, j->noise, j->frames > 1 ? 4 : 3, j->frames > 1 ? dim : dim + 1, "noise");
    for (int64_t f = 0; f < j->frames; f++)
        qw_pack(j->noise + f * frame, j->z, j->h, j->w, j->start + f * frame);
    for (int k = 0; k < j->references; k++)     /* the masked picture's eps comes after the noise */
        if (!j->reference[k].latent && settle(j, k))
            return q->error.status;
    const double sigma = j->sched.sigma[j->first_step];
    for (int64_t i = 0; i < n; i++)
        j->x[i] = j->kept ? sigma * j->start[i] + (1 - sigma) * j->kept[i] : j->start[i];
    return q->error.status;
}

/* --- denoising -------------------------------------------------------------------------------------------------------------- */

typedef struct denoising {
    qw_job          *j;
    qw_stage         stage;
    qw_velocity_work work;
    qw_modulation   *table, *extra;     /* of the steps; of one sigma that a sampler put between them */
    qw_modulation   *control_table, *control_extra;
    double          *in;                /* [rows][4 z]: noise and references */
    double          *pos, *neg;         /* [frames tokens][4 z] */
    double          *t;                 /* [steps run] */
    qw_grid         *grid;
    qw_rng           rng;               /* fresh noise of ancestral samplers */
    double          *fresh;             /* [z][h][w] */
    int              steps, shown;      /* shown: the last step whose latents were shown */
} denoising;

static int64_t step_rows(const qw_job *j) { return j->frames * j->tokens; }

/* Which modulation belongs to sigma: a row of the table, or one made for it. */
static int find_modulation(denoising *d, double sigma, int step)
{
    const float *s = d->j->sched.sigma + d->j->first_step;
    d->work.mod = d->table;
    d->work.control_mod = d->control_table;
    d->work.step = step;
    if (sigma == (double)s[step])
        return QWEN_OK;
    if (step + 1 < d->steps && sigma == (double)s[step + 1]) {
        d->work.step = step + 1;
        return QWEN_OK;
    }
    modulate_work w = { d->j->q, &sigma, 1, &d->extra, d->j->condition ? &d->control_extra : NULL };
    qw_stage_reserve(&d->stage, modulate_body, &w);
    qw_stage_run(&d->stage, modulate_body, &w, NULL, 0);
    d->work.mod = d->extra;
    d->work.control_mod = d->control_extra;
    d->work.step = 0;
    return d->stage.run.error.status;
}

/* Step i of N has the ControlNet if i/N >= start and (i+1)/N <= end. */
static int controlled(const qw_job *j, int step)
{
    const double i = j->first_step + step, n = j->steps;
    return j->condition && i / n >= j->control_start && (i + 1) / n <= j->control_end;
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
    if (first)
        show_step(d, "latents.%d", step, x);
    d->shown = step;
    memcpy(d->in, x, (size_t)n * sizeof *x);
    if (find_modulation(d, sigma, step))
        return d->stage.run.error.status;
    d->work.condition = controlled(j, step) ? j->condition : NULL;
    d->work.seq[0].tap = first && step == 0 && d->stage.run.tap ? "step0." : NULL;
    if (qw_stage_run(&d->stage, qw_velocity_body, &d->work, d->pos, n))
        return d->stage.run.error.status;
    memcpy(v, d->pos, (size_t)n * sizeof *v);
    if (j->passes > 1) {
        if (first) {
            show_step(d, "v.%d.pos", step, d->pos);
            show_step(d, "v.%d.neg", step, d->neg);
        }
        qw_guide(v, d->pos, d->neg, step_rows(j), 4 * j->z, j->guidance, j->norm);
    }
    if (!finite(v, n))
        qw_run_fail(&d->stage.run, QWEN_ENUMERIC, "denoise, step %d: the velocity is not finite", step);
    if (first)
        show_step(d, "v.%d", step, v);
    return d->stage.run.error.status;
}

static int fresh_noise(void *user, double *out)
{
    denoising *d = user;
    qw_job *j = d->j;
    const int64_t frame = j->z * j->h * j->w;
    for (int64_t f = 0; f < j->frames; f++) {
        if (qw_rng_normal(&d->rng, noise_type(j), frame, d->fresh, &d->stage.run.error))
            return d->stage.run.error.status;
        qw_pack(d->fresh, j->z, j->h, j->w, out + f * frame);
    }
    return QWEN_OK;
}

/* Inpainting: what the mask keeps follows the picture's own noised path. */
static int after_step(void *user, int step, double sigma_next, double *x)
{
    denoising *d = user;
    const qw_job *j = d->j;
    (void)step;
    if (!j->mask_tokens)
        return QWEN_OK;
    for (int64_t i = 0; i < j->tokens * 4 * j->z; i++) {
        const double m = j->mask_tokens[i], kept = sigma_next * j->start[i] + (1 - sigma_next) * j->kept[i];
        x[i] = (1 - m) * kept + m * x[i];
    }
    return QWEN_OK;
}

/* Sequence of pictures: the noise, then the references. */
static int set_sequence(denoising *d)
{
    qw_job *j = d->j;
    qwen *q = j->q;
    const int grids = (int)j->frames + j->sequence_references;
    int64_t rows = step_rows(j), at = rows;
    for (int k = 0; k < j->sequence_references; k++)
        rows += j->reference[k].image.w / 16 * (j->reference[k].image.h / 16);
    const int64_t n = step_rows(j) * 4 * j->z;
    d->grid = calloc((size_t)grids, sizeof *d->grid);
    d->in = doubles(q, rows * 4 * j->z, "the sequence");
    d->pos = doubles(q, n, "a velocity");
    d->neg = doubles(q, n, "a velocity");
    d->fresh = doubles(q, j->z * j->h * j->w, "noise");
    if (!d->grid || !d->in || !d->pos || !d->neg || !d->fresh)
        return qw_fail(&q->error, QWEN_ENOMEM, "no memory for the sequence");
    for (int k = 0; k < grids; k++) {
        const int f = k - (int)j->frames;
        const qw_reference *ref = f >= 0 ? &j->reference[f] : NULL;
        const int64_t h = ref ? ref->image.h / 8 : j->h, w = ref ? ref->image.w / 8 : j->w;
        d->grid[k] = (qw_grid){ 1, (int32_t)(h / 2), (int32_t)(w / 2) };
        if (ref && ref->latent)
            qw_pack(ref->latent, j->z, h, w, d->in + at * 4 * j->z);
        at += ref ? h / 2 * (w / 2) : 0;
    }
    for (int p = 0; p < j->passes; p++)
        d->work.seq[p] = (qw_dit_sequence){ .x = d->in, .rows = rows, .noise_rows = step_rows(j), .grid = d->grid,
            .grids = grids, .noise_grids = (int)j->frames, .text = j->text[p], .text_rows = j->text_rows[p],
            .out = p ? d->neg : d->pos };
    d->work.q = q;
    d->work.passes = j->passes;
    return QWEN_OK;
}

/* Room for the ControlNet's samples: Fun's and ComfyUI's run in both passes, InstantX' of diffusers in the first. */
static int set_control(denoising *d)
{
    const qw_job *j = d->j;
    qwen *q = j->q;
    if (!j->condition)
        return QWEN_OK;
    const qw_control_kind kind = qw_control_kind_of(q->control);
    const int64_t n = qw_control_samples(q->control) * step_rows(j) * q->dit_config.width;
    const int both = j->passes > 1 && (kind == QW_CONTROL_FUN || (q->comfy && kind == QW_CONTROL_INSTANTX));
    d->work.strength = q->comfy && kind == QW_CONTROL_FUN ? sqrt(j->control_strength) : j->control_strength;
    d->work.samples[0] = d->work.samples[1] = doubles(q, n, "control samples");
    if (both)
        d->work.samples[1] = doubles(q, n, "control samples");
    return q->error.status;
}

static int show_sequence(denoising *d)
{
    qw_job *j = d->j;
    const int grids = d->work.seq[0].grids, n = j->steps;
    int32_t *shapes = malloc((size_t)grids * 3 * sizeof *shapes);
    double *x = doubles(j->q, n + 1, "sigmas");
    if (shapes && x) {
        for (int k = 0; k < grids; k++)
            memcpy(shapes + 3 * k, (int32_t[]){ d->grid[k].frames, d->grid[k].rows, d->grid[k].cols },
                   3 * sizeof *shapes);
        show_ints(j, shapes, 2, (int64_t[]){ grids, 3 }, "img_shapes");
        if (!isnan(j->sched.mu))
            show(j, j->q->dev, &j->sched.mu, 1, (int64_t[]){ 1 }, "mu");
        for (int i = 0; i <= n; i++)
            x[i] = j->sched.sigma[i];
        show(j, j->q->dev, x, 1, (int64_t[]){ n + 1 }, "sigmas");
        for (int i = 0; i < n; i++)
            x[i] = j->sched.timestep[i];
        show(j, j->q->dev, x, 1, (int64_t[]){ n }, "timesteps");
        show(j, j->q->dev, d->t, 1, (int64_t[]){ d->steps }, "step.t");
    } else {
        qw_fail(&j->q->error, QWEN_ENOMEM, "no memory for the sigmas");
    }
    free(shapes);
    free(x);
    return j->q->error.status;
}

/* The transformer's timestep: timesteps / 1000 in float32, as the reference computes it; ComfyUI's is sigma. */
static int set_times(denoising *d)
{
    const qw_job *j = d->j;
    d->steps = j->steps - j->first_step;
    if (!(d->t = doubles(j->q, d->steps, "timesteps")))
        return j->q->error.status;
    for (int i = 0; i < d->steps; i++) {
        const float *timestep = j->sched.timestep + j->first_step, *sigma = j->sched.sigma + j->first_step;
        d->t[i] = j->q->comfy ? (double)sigma[i] : (double)(float)(timestep[i] / 1000.0f);
    }
    return QWEN_OK;
}

static void denoise_steps(denoising *d)
{
    qw_job *j = d->j;
    qwen *q = j->q;
    qw_run *r = &d->stage.run;
    modulate_work m = { q, d->t, d->steps, &d->table, j->condition ? &d->control_table : NULL };
    qw_tally *tally = q->tally;
    if (tally)
        tally->times = 1;
    qw_stage_reserve(&d->stage, modulate_body, &m);
    qw_stage_run(&d->stage, modulate_body, &m, NULL, 0);
    d->work.mod = d->table;
    d->work.control_mod = d->control_table;
    d->work.condition = j->condition;
    d->work.step = 0;
    if (tally)
        tally->times = d->steps;
    qw_stage_reserve(&d->stage, qw_velocity_body, &d->work);
    if (r->error.status || tally)
        return;
    const qw_sampler s = { velocity, fresh_noise, after_step, d };
    qw_error err = { 0 };
    qw_sample(j->sampler, &s, j->sched.sigma + j->first_step, d->steps, j->x, step_rows(j) * 4 * j->z, &err);
    if (err.status && !r->error.status)
        r->error = err;
    show_step(d, "latents.%d", d->steps, j->x);
    r->step = d->steps - 1;
}

int qw_job_denoise(qw_job *j)
{
    qwen *q = j->q;
    if (qw_need_dit(q))
        return q->error.status;
    denoising d = { .j = j, .shown = -1 };
    if (!set_sequence(&d) && !set_control(&d) && !set_times(&d) && !show_sequence(&d) &&
        !qw_rng_init(&d.rng, j->rng_name, j->req->seed, &q->error)) {
        qw_stage_begin(&d.stage, q, j->req, q->dev, "denoise", d.steps, (int)q->dit_config.layers);
        denoise_steps(&d);
        qw_stage_end(&d.stage, &j->seconds_denoise);
    }
    qw_modulation_free(d.table);
    qw_modulation_free(d.extra);
    qw_modulation_free(d.control_table);
    qw_modulation_free(d.control_extra);
    if (d.work.samples[1] != d.work.samples[0])
        free(d.work.samples[1]);
    free(d.work.samples[0]);
    free(d.grid);
    free(d.in);
    free(d.pos);
    free(d.neg);
    free(d.fresh);
    free(d.t);
    return q->error.status;
}

/* --- latents to pictures ------------------------------------------------------------------------------------------------------- */

typedef struct decoding {
    double *latent;                     /* [n][z][h][w], raw */
    double *picture;                    /* [n][H][W][C], clamped */
    double *chw;                        /* [n][C][H][W] */
    int64_t n, H, W, C;
} decoding;

static int show_decoded(qw_job *j, decoding *d)
{
    const int64_t in[4] = { d->n, j->z, j->h, j->w }, out[4] = { d->n, d->C, d->H, d->W };
    const int64_t image[4] = { d->n, d->H, d->W, d->C }, n = d->n * d->H * d->W * d->C;
    const int rank = j->layers ? 4 : 3, skip = j->layers ? 0 : 1;
    if (!j->req->tap)
        return QWEN_OK;
    if (!(d->chw = doubles(j->q, n, "a picture")))
        return j->q->error.status;
    for (int64_t k = 0; k < d->n; k++)
        for (int64_t c = 0; c < d->C; c++)
            for (int64_t i = 0; i < d->H * d->W; i++)
                d->chw[(k * d->C + c) * d->H * d->W + i] = d->picture[(k * d->H * d->W + i) * d->C + c];
    show(j, j->q->vae_dev, d->latent, rank, in + skip, "vae.dec.in");
    show(j, j->q->vae_dev, d->chw, rank, out + skip, "vae.dec.out");
    for (int64_t i = 0; i < n; i++)
        d->chw[i] = d->picture[i] * 0.5 + 0.5;
    return show(j, j->q->vae_dev, d->chw, rank, image + skip, "image");
}

/* Result pictures: round(255 (x / 2 + 1/2)), halves to even. */
static int give_pictures(qw_job *j, const decoding *d, qwen_result *out)
{
    qwen *q = j->q;
    const int64_t n = d->H * d->W * d->C;
    uint8_t *all = j->req->tap ? malloc((size_t)(d->n * n)) : NULL;
    out->image = calloc((size_t)d->n, sizeof *out->image);
    if (!out->image || (j->req->tap && !all)) {
        free(all);
        return qw_fail(&q->error, QWEN_ENOMEM, "no memory for the picture");
    }
    out->n = (int)d->n;
    for (int64_t k = 0; k < d->n; k++) {
        uint8_t *p = malloc((size_t)n);
        out->image[k] = (qwen_array){ .data = p, .dtype = QWEN_U8, .rank = 3, .dim = { d->H, d->W, d->C } };
        if (!p) {
            free(all);
            return qw_fail(&q->error, QWEN_ENOMEM, "no memory for the picture");
        }
        for (int64_t i = 0; i < n; i++)
            p[i] = (uint8_t)nearbyint((d->picture[k * n + i] * 0.5 + 0.5) * 255);
        if (all)
            memcpy(all + k * n, p, (size_t)n);
    }
    if (all) {
        qwen_array a = { .data = all, .dtype = QWEN_U8, .rank = 3, .dim = { d->H, d->W, d->C } };
        if (j->layers)
            a = (qwen_array){ .data = all, .dtype = QWEN_U8, .rank = 4, .dim = { d->n, d->H, d->W, d->C } };
        j->req->tap(j->req->user, "image.u8", &a);
    }
    free(all);
    return QWEN_OK;
}

static int decode_frames(qw_job *j, decoding *d)
{
    qwen *q = j->q;
    const int64_t frame = j->z * j->h * j->w, size = d->H * d->W * d->C, first = j->frames - d->n;
    qw_stage s;
    qw_stage_begin(&s, q, j->req, q->vae_dev, "decode", (int)d->n, 0);
    s.run.tap = NULL;
    if (q->tally)
        q->tally->times = 1;
    for (int64_t k = 0; k < d->n; k++) {
        double *latent = d->latent + k * frame;
        qw_decode_work w = { q, latent, j->h, j->w, d->picture + k * size };
        qw_unpack(j->x + (first + k) * frame, j->z, j->h, j->w, latent);
        qw_latent_raw(&q->vae_config, latent, j->h * j->w, latent);
        s.run.step = (int)k;
        if (qw_tiles_needed(j, j->width, j->height)) {
            qw_decode_tiled(&s, &w);
        } else {
            qw_stage_reserve(&s, qw_decode_body, &w);
            qw_stage_run(&s, qw_decode_body, &w, w.picture, size);
        }
        for (int64_t i = 0; i < size; i++)
            w.picture[i] = w.picture[i] < -1 ? -1 : w.picture[i] > 1 ? 1 : w.picture[i];
    }
    return qw_stage_end(&s, &j->seconds_decode);
}

int qw_job_decode(qw_job *j, qwen_result *out)
{
    qwen *q = j->q;
    if (qw_need_vae(q, QW_VAE_DECODER))
        return q->error.status;
    const int64_t up = 8 * qw_vae_enlarges(q->vae);
    decoding d = { .n = j->layers ? j->layers : 1, .H = j->h * up, .W = j->w * up, .C = q->vae_config.channels };
    d.latent = doubles(q, d.n * j->z * j->h * j->w, "latents");
    d.picture = doubles(q, d.n * d.H * d.W * d.C, "a picture");
    if (d.latent && d.picture && !decode_frames(j, &d) && !q->tally && !show_decoded(j, &d))
        give_pictures(j, &d, out);
    free(d.latent);
    free(d.picture);
    free(d.chw);
    return q->error.status;
}
