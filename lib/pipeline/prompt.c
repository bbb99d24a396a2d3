/* prompt.c - from a prompt to the rows that the transformer reads, pictures in it included.
 *
 * It fills the template, tokenises, runs the vision tower and the language model, and drops and
 * cuts rows as the published pipelines do. */
#include "pipeline/stage.h"
#include <stdlib.h>
#include <string.h>

enum { TOKENS_MAX = 1024, ROWS_MAX = 512 }; /* of the text-to-image pipelines */

int qw_token_ids(qwen *q, const char *text, size_t bytes, int32_t **ids, int64_t *n)
{
    return qw_tokenize(q->files.tokenizer, text, bytes, ids, n, &q->error);
}

/* --- the prompt as text ----------------------------------------------------------------------- */

static const char *words_of(const qw_job *j, int k) { return k ? j->negative : j->req->prompt; }

static const qwen_array *given_rows(const qw_job *j, int k)
{
    return k ? j->req->negative_embeds : j->req->embeds;
}

/* Nonzero: no template is added, as in ComfyUI to a text that begins like one. */
static int is_template(const qw_job *j, const char *text)
{
    return j->q->comfy && !strncmp(text, "<|im_start|>", 12);
}

static int fill_template(qw_job *j, int k)
{
    qwen *q = j->q;
    qw_prompt *out = &j->prompt[k];
    const char *text = words_of(j, k), *name = j->req->chat_template;
    if (!name) name = !qw_sees_pictures(j) ? "t2i" : j->variant == QW_EDIT ? "edit" : "edit-plus";
    if (!is_template(j, text))
        return qw_prompt_make(out, name, j->req->system, text, j->view_tokens, j->views,
                              q->files.tokenizer, &q->error);
    out->text = qw_strdup(text);
    out->bytes = strlen(text);
    return out->text ? QWEN_OK : qw_fail(&q->error, QWEN_ENOMEM, "no memory for the prompt");
}

int qw_prompt_text(qwen *q, const qwen_request *req, int negative, char **out)
{
    const int k = negative != 0;
    qw_job j;
    qw_job_start(&j, q, req);
    *out = NULL;
    if (!qw_job_read(&j)) {
        const char *text = words_of(&j, k);
        if (!text) qw_fail(&q->error, QWEN_EARG, "the request has no prompt");
        else if ((is_template(&j, text) || !qw_load(&j, QW_NEED_TOKENIZER))
                 && !fill_template(&j, k)) {
            *out = j.prompt[k].text;
            j.prompt[k].text = NULL;
        }
    }
    qw_job_free(&j);
    return q->error.status;
}

/* --- rows that the model keeps ---------------------------------------------------------------- */

static const qw_embedding *kept_rows(const qw_job *j, int k)
{
    for (int i = 0; i < 2; i++) {
        const qw_embedding *e = &j->q->embedding[i];
        if (e->key && !strcmp(e->key, j->key[k])) return e;
    }
    return NULL;
}

static int recall(qw_job *j, int k, const qw_embedding *e)
{
    const int64_t n = e->n * j->q->config.text.width;
    if (!(j->text[k] = qw_doubles(j->q, n, "embeddings"))) return j->q->error.status;
    memcpy(j->text[k], e->rows, (size_t)n * sizeof *e->rows);
    j->text_rows[k] = e->n;
    j->remembered[k] = 1;
    return QWEN_OK;
}

int qw_read_prompt(qw_job *j, int k)
{
    qwen *q = j->q;
    qw_prompt *p = &j->prompt[k];
    if (given_rows(j, k)) return QWEN_OK;
    if (!words_of(j, k)) return qw_fail(&q->error, QWEN_EARG, "the request has no prompt");
    if (fill_template(j, k)) return q->error.status;
    char *key = j->key[k] = malloc(p->bytes + 64);
    if (!key) return qw_fail(&q->error, QWEN_ENOMEM, "no memory for the prompt");
    snprintf(key, 64, "%d %lld %016llx ", (int)j->task, (long long)p->drop,
             (unsigned long long)j->view_hash);
    memcpy(key + strlen(key), p->text, p->bytes + 1);
    /* a request with a tap gets every tensor of the computation */
    const qw_embedding *kept = j->tally || j->req->tap ? NULL : kept_rows(j, k);
    return kept ? recall(j, k, kept) : QWEN_OK;
}

/* Copies the rows of prompt k to the model, with the key, which the job loses. */
static void keep_rows(qw_job *j, int k)
{
    qw_embedding *e = &j->q->embedding[k];
    const size_t bytes = (size_t)(j->text_rows[k] * j->q->config.text.width) * sizeof *e->rows;
    free(e->key);
    free(e->rows);
    e->key = j->key[k];
    e->n = j->text_rows[k];
    e->rows = malloc(bytes);
    j->key[k] = NULL;
    if (e->rows) {
        memcpy(e->rows, j->text[k], bytes);
        return;
    }
    free(e->key); /* no memory: the next request computes the rows again */
    memset(e, 0, sizeof *e);
}

/* --- the vision tower ------------------------------------------------------------------------- */

typedef struct vision_work {
    const qw_vision *net;
    const double *pixels;
    const qw_grid *grid;
    double *out;
} vision_work;

static void vision_body(qw_run *r, void *arg)
{
    const vision_work *w = arg;
    qw_vision_forward(r, w->net, w->pixels, w->grid, w->out);
}

static int64_t patch_values(const qw_vision_config *c)
{
    return c->channels * c->temporal * c->patch * c->patch;
}

/* Runs the vision tower over pictures with these grids of patches, one after another. */
static int run_vision(qw_job *j, const double *pixels, const qw_grid *patches, int pictures,
                      double *out)
{
    const qw_vision_config *c = &j->q->config.vision;
    qw_stage s;
    qw_stage_begin(&s, j, QW_PHASE_VISION, pictures, (int)c->depth);
    s.run.tap = NULL;
    for (int i = 0; i < pictures; i++) {
        const int64_t n = (int64_t)patches[i].rows * patches[i].cols;
        vision_work w = { j->nets->vision, pixels, &patches[i], out };
        s.run.step = i;
        qw_stage_reserve(&s, vision_body, &w);
        qw_stage_run(&s, vision_body, &w, out, n / (c->merge * c->merge) * c->out);
        pixels += n * patch_values(c);
        out += n / (c->merge * c->merge) * c->out;
    }
    return qw_stage_end(&s);
}

int qw_picture_features(qwen *q, const double *pixels, const qw_grid *patches, int pictures,
                        double *out)
{
    qw_job j;
    qw_job_start(&j, q, NULL);
    run_vision(&j, pixels, patches, pictures, out);
    qw_job_free(&j);
    return q->error.status;
}

static int show_features(qw_job *j, const double *pixels)
{
    const qw_vision_config *c = &j->q->config.vision;
    int32_t grid[QW_MAX_PICTURES * 3];
    for (int i = 0; i < j->views; i++) {
        grid[3 * i] = 1;
        grid[3 * i + 1] = j->view_grid[i].rows;
        grid[3 * i + 2] = j->view_grid[i].cols;
    }
    qw_show_ints(j, grid, 2, (int64_t[]){ j->views, 3 }, "vision.grid");
    qw_show(j, QW_PHASE_VISION, pixels, 2,
            (int64_t[]){ j->feature_rows * c->merge * c->merge, patch_values(c) }, "vision.pixels");
    return qw_show(j, QW_PHASE_VISION, j->features, 2, (int64_t[]){ j->feature_rows, c->out },
                   "vision.out");
}

/* Sets j->features, those of all views. */
static int look(qw_job *j)
{
    qwen *q = j->q;
    const qw_vision_config *c = &q->config.vision;
    const int64_t values = patch_values(c), unit = c->merge * c->merge;
    double *pixels = qw_doubles(q, j->feature_rows * unit * values, "pixels"), *to = pixels;
    j->features = qw_doubles(q, j->feature_rows * c->out, "picture features");
    if (pixels && j->features) {
        for (int i = 0; i < j->views; i++) {
            const qw_image *v = &j->view[i];
            qw_vision_pixels(v->data, v->value, v->w, v->h, c, to);
            to += j->view_tokens[i] * unit * values;
        }
        if (!run_vision(j, pixels, j->view_grid, j->views, j->features)) show_features(j, pixels);
    }
    free(pixels);
    return q->error.status;
}

int qw_job_look(qw_job *j)
{
    int wanted = j->tally != NULL;
    for (int k = 0; k < j->passes; k++) wanted |= !given_rows(j, k) && !j->remembered[k];
    return j->views && wanted ? look(j) : QWEN_OK;
}

/* --- the language model ----------------------------------------------------------------------- */

typedef struct text_work {
    const qw_text *net;
    const int32_t *ids, *positions; /* [n], [3][n] */
    int64_t n;
    const double *features; /* [feature_rows][width], or NULL */
    int64_t feature_rows;
    double *out; /* [n][width] */
    const char *names;
} text_work;

static void text_body(qw_run *r, void *arg)
{
    const text_work *w = arg;
    const char *names = r->names;
    r->names = w->names;
    qw_text_forward(r, w->net, w->ids, w->n, w->features, w->feature_rows, w->positions, w->out);
    r->names = names;
}

/* Runs the language model over w->ids.  w->names, the prefix of its taps: "text.", "neg." for the
 * negative prompt (step 1 of the phase), NULL for ids without a prompt. */
static int run_text(qw_job *j, text_work *w, const qw_grid *merged, int pictures)
{
    qwen *q = j->q;
    const size_t n = (size_t)w->n;
    qw_stage s;
    int32_t *positions = malloc(n * 3 * sizeof *positions), *ones = malloc(n * sizeof *ones);
    if (!positions || !ones)
        qw_fail(&q->error, QWEN_ENOMEM, "no memory for %lld positions", (long long)w->n);
    else qw_mrope_positions(&q->config.text, w->ids, w->n, merged, pictures, positions, &q->error);
    if (!q->error.status) {
        for (size_t i = 0; i < n; i++) ones[i] = 1;
        w->net = j->nets->text;
        w->positions = positions;
        qw_stage_begin(&s, j, QW_PHASE_TEXT, j->passes, (int)q->config.text.layers);
        s.run.step = w->names && w->names[0] == 'n';
        qw_tap_ints(&s.run, ones, 1, &w->n, "%smask", w->names ? w->names : "");
        qw_stage_reserve(&s, text_body, w);
        qw_stage_run(&s, text_body, w, w->out, w->n * q->config.text.width);
        qw_stage_end(&s);
    }
    free(positions);
    free(ones);
    return q->error.status;
}

int qw_hidden_states(qwen *q, const int32_t *ids, int64_t n, const double *features,
                     int64_t feature_rows, const qw_grid *merged, int pictures, double *out)
{
    qw_job j;
    qw_job_start(&j, q, NULL);
    run_text(
        &j,
        &(text_work){
            .ids = ids, .n = n, .features = features, .feature_rows = feature_rows, .out = out },
        merged, pictures);
    qw_job_free(&j);
    return q->error.status;
}

/* --- from ids to rows ------------------------------------------------------------------------- */

int qw_sees_pictures(const qw_job *j)
{
    return j->task == QW_EDITING || j->task == QW_EDIT_INPAINT;
}

/* The number of tokens that ComfyUI drops: those before the second "<|im_start|>", and three more
 * if "user\n" follows it; all but the last if there is no "<|im_start|>". */
static int64_t comfy_drop(const qwen *q, const int32_t *ids, int64_t n)
{
    int32_t *start = NULL, *user = NULL;
    int64_t ns = 0, nu = 0, drop = -1, found = 0;
    qw_error err = { 0 };
    if (!qw_tokenize(q->files.tokenizer, "<|im_start|>", 12, &start, &ns, &err)
        && !qw_tokenize(q->files.tokenizer, "user\n", 5, &user, &nu, &err) && ns == 1 && nu == 2)
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

/* The text-to-image pipelines read at most TOKENS_MAX tokens after the dropped ones, and at most
 * ROWS_MAX rows of these reach the transformer; of Layered's only the rows are limited. */
static int64_t cut_tokens(qw_job *j, int64_t n, int64_t drop)
{
    const int64_t most = TOKENS_MAX + drop;
    if (j->q->comfy || qw_sees_pictures(j) || j->task == QW_LAYERS || n <= most) return n;
    qw_note(j, 0, "the prompt has %lld tokens; the pipeline reads %lld", (long long)n,
            (long long)most);
    return most;
}

static int64_t cut_rows(qw_job *j, int64_t rows)
{
    if (j->q->comfy || qw_sees_pictures(j) || rows <= ROWS_MAX) return rows;
    qw_note(j, 0, "the prompt is cut to %d of %lld tokens", ROWS_MAX, (long long)rows);
    return ROWS_MAX;
}

/* hidden [n][width] of ids, through the text encoder. */
static int encode_ids(qw_job *j, int k, const int32_t *ids, int64_t n, double *hidden)
{
    const int32_t m = (int32_t)j->q->config.vision.merge;
    qw_grid merged[QW_MAX_PICTURES];
    for (int i = 0; i < j->views; i++)
        merged[i] = (qw_grid){ 1, j->view_grid[i].rows / m, j->view_grid[i].cols / m };
    text_work w = { .ids = ids,
                    .n = n,
                    .features = j->features,
                    .feature_rows = j->feature_rows,
                    .out = hidden,
                    .names = k ? "neg." : "text." };
    return run_text(j, &w, merged, j->views);
}

/* Sets the rows of prompt k from its text. */
static int encode_prompt(qw_job *j, int k)
{
    qwen *q = j->q;
    const qw_prompt *p = &j->prompt[k];
    int32_t *ids = NULL;
    int64_t n = 0, drop = p->drop;
    if (qw_tokenize(q->files.tokenizer, p->text, p->bytes, &ids, &n, &q->error))
        return q->error.status;
    if (q->comfy) drop = comfy_drop(q, ids, n);
    n = cut_tokens(j, n, drop);
    const int64_t width = q->config.text.width;
    double *hidden = n > drop ? qw_doubles(q, n * width, "hidden states") : NULL;
    if (n <= drop)
        qw_fail(&q->error, QWEN_EARG, "the prompt has %lld tokens, of which %lld are dropped",
                (long long)n, (long long)drop);
    if (hidden && !encode_ids(j, k, ids, n, hidden)) {
        const int64_t rows = cut_rows(j, n - drop);
        j->text[k] = qw_doubles(q, rows * width, "embeddings");
        j->text_rows[k] = rows;
        if (j->text[k])
            memcpy(j->text[k], hidden + drop * width, (size_t)(rows * width) * sizeof *hidden);
    }
    free(hidden);
    free(ids);
    return q->error.status;
}

/* Sets the rows of prompt k from the caller's embeddings [n][width], F32 or F64. */
static int take_rows(qw_job *j, int k, const qwen_array *a)
{
    qwen *q = j->q;
    const char *what = k ? "negative_embeds" : "embeds";
    const int64_t width = q->files.net[QW_DIT].store ? q->config.dit.text_width
                          : a->rank == 2             ? a->dim[1]
                                                     : 0;
    if (!a->data || a->rank != 2 || a->dim[0] < 1 || a->dim[0] > 1 << 24 || a->dim[1] != width
        || (a->dtype != QWEN_F32 && a->dtype != QWEN_F64))
        return qw_fail(&q->error, QWEN_EARG, "%s: not numbers of [rows][%lld]", what,
                       (long long)width);
    const int64_t n = a->dim[0] * width;
    double *x = j->text[k] = qw_doubles(q, n, "embeddings");
    j->text_rows[k] = a->dim[0];
    if (!x) return q->error.status;
    for (int64_t i = 0; i < n; i++)
        x[i] = a->dtype == QWEN_F64 ? ((const double *)a->data)[i]
                                    : (double)((const float *)a->data)[i];
    if (!qw_finite(x, n)) return qw_fail(&q->error, QWEN_EARG, "%s: a number is not finite", what);
    return QWEN_OK;
}

int qw_embed_prompt(qw_job *j, int k)
{
    qwen *q = j->q;
    const qwen_array *given = given_rows(j, k);
    if (given ? take_rows(j, k, given) : !j->remembered[k] && encode_prompt(j, k))
        return q->error.status;
    if (!given && !j->remembered[k] && !j->tally) keep_rows(j, k);
    const int64_t width = given ? given->dim[1] : q->config.text.width;
    return qw_show(j, QW_PHASE_TEXT, j->text[k], 2, (int64_t[]){ j->text_rows[k], width },
                   k ? "neg.embeds" : "text.embeds");
}

/* Loads the nets that the rows of prompt k need, and computes the rows. */
static int make_rows(qw_job *j, int k)
{
    if (given_rows(j, k)) return qw_embed_prompt(j, k);
    if (qw_load(j, QW_NEED_TOKENIZER) || qw_read_prompt(j, k)) return j->q->error.status;
    if (!j->remembered[k]
        && (qw_load(j, QW_NEED_TEXT | (j->views ? QW_NEED_VISION : 0)) || (j->views && look(j))))
        return j->q->error.status;
    return qw_embed_prompt(j, k);
}

int qw_prompt_rows(qwen *q, const qwen_request *req, int negative, double **rows, int64_t dim[2])
{
    const int k = negative != 0;
    qw_job j;
    qw_job_start(&j, q, req);
    *rows = NULL;
    if (!qw_job_read(&j) && !make_rows(&j, k)) {
        const qwen_array *given = given_rows(&j, k);
        dim[0] = j.text_rows[k];
        dim[1] = given ? given->dim[1] : q->config.text.width;
        *rows = j.text[k];
        j.text[k] = NULL;
    }
    qw_job_free(&j);
    return q->error.status;
}
