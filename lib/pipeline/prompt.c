/* prompt.c - from a prompt to the rows that the transformer reads, pictures in it included.
 *
 * Template, tokens, vision tower, language model; what the pipelines drop and cut. */
#include "pipeline/pipeline.h"
#include <stdlib.h>
#include <string.h>

enum { TOKENS_MAX = 1024, ROWS_MAX = 512 }; /* of the text-to-image pipelines */

void qw_text_body(qw_run *r, void *arg)
{
    const qw_text_work *w = arg;
    const char *names = r->names;
    r->names = w->names;
    qw_text_forward(r, w->q->nets.text, w->ids, w->n, w->features, w->feature_rows, w->positions,
                    w->out);
    r->names = names;
}

void qw_vision_body(qw_run *r, void *arg)
{
    const qw_vision_work *w = arg;
    qw_vision_forward(r, w->q->nets.vision, w->pixels, &w->grid, w->out);
}

int qw_sees_pictures(const qw_job *j)
{
    return j->task == QW_EDITING || j->task == QW_EDIT_INPAINT;
}

int qw_job_prompt(qw_job *j, int negative, qw_prompt *out)
{
    qwen *q = j->q;
    const char *text = negative ? j->negative : j->req->prompt, *name = j->req->chat_template;
    if (!name) name = !qw_sees_pictures(j) ? "t2i" : j->variant == QW_EDIT ? "edit" : "edit-plus";
    memset(out, 0, sizeof *out);
    if (q->comfy && !strncmp(text, "<|im_start|>", 12)) { /* taken verbatim */
        out->text = qw_strdup(text);
        out->bytes = strlen(text);
        return out->text ? QWEN_OK : qw_fail(&q->error, QWEN_ENOMEM, "no memory for the prompt");
    }
    if (qw_need_tokenizer(q)) return q->error.status;
    return qw_prompt_make(out, name, j->req->system, text, j->view_tokens, j->views,
                          q->files.tokenizer, &q->error);
}

/* ComfyUI's rule: up to the second "<|im_start|>", and three more if "user\n" follows it. */
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

/* Features of all pictures, in order. */
static int make_features(qw_job *j)
{
    qwen *q = j->q;
    if (j->features || !j->views) return QWEN_OK;
    if (qw_need_vision(q)) return q->error.status;
    const qw_vision_config *c = &q->config.vision;
    const int64_t width = c->channels * c->temporal * c->patch * c->patch,
                  unit = c->merge * c->merge;
    double *pixels = qw_doubles(q, j->feature_rows * unit * width, "pixels");
    j->features = qw_doubles(q, j->feature_rows * c->out, "picture features");
    qw_stage s;
    int64_t row = 0;
    int32_t grid[QW_MAX_PICTURES * 3];
    if (!pixels || !j->features) {
        free(pixels);
        return q->error.status;
    }
    qw_stage_begin(&s, q, j->req, q->devices.text, "vision", j->views, (int)c->depth);
    void (*const tap)(void *, const char *, const qwen_array *) = s.run.tap;
    s.run.tap = NULL; /* the tower's own taps are for single stages */
    for (int i = 0; i < j->views; i++) {
        qw_vision_work w = { q, pixels + row * unit * width, j->view_grid[i],
                             j->features + row * c->out };
        qw_vision_pixels(j->view[i].data, j->view[i].value, j->view[i].w, j->view[i].h, c,
                         pixels + row * unit * width);
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

int qw_plan_features(qw_job *j) { return make_features(j); }

/* The cut of the text-to-image pipelines loses the end of a long prompt. */
static int64_t cut_tokens(qw_job *j, int64_t n, int64_t drop)
{
    const int64_t most = TOKENS_MAX + drop;
    if (j->q->comfy || qw_sees_pictures(j) || j->task == QW_LAYERS || n <= most) return n;
    qw_say(j->q, 0, "the prompt has %lld tokens; the pipeline reads %lld", (long long)n,
           (long long)most);
    return most;
}

static int64_t cut_rows(qw_job *j, int64_t rows)
{
    if (j->q->comfy || qw_sees_pictures(j) || rows <= ROWS_MAX) return rows;
    qw_say(j->q, 0, "the prompt is cut to %d of %lld tokens", ROWS_MAX, (long long)rows);
    return ROWS_MAX;
}

/* hidden [n][width] of ids, through the text encoder. */
static int run_text(qw_job *j, int negative, const int32_t *ids, int64_t n, double *hidden)
{
    qwen *q = j->q;
    const int64_t m = q->config.vision.merge ? q->config.vision.merge : 1;
    qw_grid merged[QW_MAX_PICTURES];
    qw_stage s;
    int32_t *positions = malloc((size_t)n * 3 * sizeof *positions),
            *ones = malloc((size_t)n * sizeof *ones);
    for (int i = 0; i < j->views; i++)
        merged[i] = (qw_grid){ 1, (int32_t)(j->view_grid[i].rows / m),
                               (int32_t)(j->view_grid[i].cols / m) };
    if (!positions || !ones)
        qw_fail(&q->error, QWEN_ENOMEM, "no memory for %lld positions", (long long)n);
    else qw_mrope_positions(&q->config.text, ids, n, merged, j->views, positions, &q->error);
    if (q->error.status) {
        free(positions);
        free(ones);
        return q->error.status;
    }
    for (int64_t i = 0; i < n; i++) ones[i] = 1;
    qw_text_work w = { .q = q,
                       .ids = ids,
                       .n = n,
                       .features = j->features,
                       .feature_rows = j->feature_rows,
                       .positions = positions,
                       .out = hidden,
                       .names = negative ? "neg." : "text." };
    qw_stage_begin(&s, q, j->req, q->devices.text, "text", j->passes, (int)q->config.text.layers);
    s.run.step = negative;
    qw_tap_ints(&s.run, ones, 1, &n, "%smask", w.names);
    qw_stage_reserve(&s, qw_text_body, &w);
    qw_stage_run(&s, qw_text_body, &w, hidden, n * q->config.text.width);
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
    if (qw_need_tokenizer(q) || qw_need_text(q)
        || qw_tokenize(q->files.tokenizer, p->text, p->bytes, &ids, &n, &q->error))
        return q->error.status;
    if (q->comfy) drop = comfy_drop(q, ids, n);
    n = cut_tokens(j, n, drop);
    const int64_t width = q->config.text.width;
    double *hidden = n > drop ? qw_doubles(q, n * width, "hidden states") : NULL;
    if (n <= drop)
        qw_fail(&q->error, QWEN_EARG, "the prompt has %lld tokens, of which %lld are dropped",
                (long long)n, (long long)drop);
    if (hidden && !make_features(j) && !run_text(j, negative, ids, n, hidden)) {
        const int64_t rows = cut_rows(j, n - drop);
        j->text[negative] = qw_doubles(q, rows * width, "embeddings");
        j->text_rows[negative] = rows;
        if (j->text[negative])
            memcpy(j->text[negative], hidden + drop * width,
                   (size_t)(rows * width) * sizeof *hidden);
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
    const int64_t width = q->files.net[QW_DIT].store ? q->config.dit.text_width
                          : a->rank == 2             ? a->dim[1]
                                                     : 0;
    if (!a->data || a->rank != 2 || a->dim[0] < 1 || a->dim[0] > 1 << 24 || a->dim[1] != width
        || (a->dtype != QWEN_F32 && a->dtype != QWEN_F64))
        return qw_fail(&q->error, QWEN_EARG, "%s: not numbers of [rows][%lld]", what,
                       (long long)width);
    const int64_t n = a->dim[0] * width;
    double *x = j->text[negative] = qw_doubles(q, n, "embeddings");
    j->text_rows[negative] = a->dim[0];
    if (!x) return q->error.status;
    for (int64_t i = 0; i < n; i++)
        x[i] = a->dtype == QWEN_F64 ? ((const double *)a->data)[i]
                                    : (double)((const float *)a->data)[i];
    if (!qw_finite(x, n)) return qw_fail(&q->error, QWEN_EARG, "%s: a number is not finite", what);
    return QWEN_OK;
}

/* The handle keeps the last prompts, so that another picture of the same words need not read them
 * again. */
static int remembered(qw_job *j, int negative, const char *key)
{
    qwen *q = j->q;
    for (int i = 0; i < 2 && !j->req->tap; i++) { /* who taps wants to see it computed */
        const qw_embedding *e = &q->embedding[i];
        if (!e->key || strcmp(e->key, key)) continue;
        const int64_t n = e->n * q->config.text.width;
        if (!(j->text[negative] = qw_doubles(q, n, "embeddings"))) return 0;
        memcpy(j->text[negative], e->rows, (size_t)n * sizeof *e->rows);
        j->text_rows[negative] = e->n;
        return 1;
    }
    return 0;
}

static void remember(qw_job *j, int negative, char *key)
{
    qw_embedding *e = &j->q->embedding[negative];
    const size_t bytes = (size_t)(j->text_rows[negative] * j->q->config.text.width)
                         * sizeof *e->rows;
    free(e->key);
    free(e->rows);
    e->key = key;
    e->n = j->text_rows[negative];
    e->rows = malloc(bytes);
    if (e->rows) {
        memcpy(e->rows, j->text[negative], bytes);
        return;
    }
    free(e->key); /* no memory to remember: it is made again */
    memset(e, 0, sizeof *e);
}

int qw_embed_prompt(qw_job *j, int negative)
{
    qwen *q = j->q;
    const qwen_array *given = negative ? j->req->negative_embeds : j->req->embeds;
    qw_prompt p;
    if (given) {
        if (given_embedding(j, negative, given)) return q->error.status;
    } else {
        if (!negative && !j->req->prompt)
            return qw_fail(&q->error, QWEN_EARG, "the request has no prompt");
        if (qw_job_prompt(j, negative, &p)) return q->error.status;
        char *key = malloc(p.bytes + 64);
        if (!key) {
            qw_prompt_free(&p);
            return qw_fail(&q->error, QWEN_ENOMEM, "no memory for the prompt");
        }
        snprintf(key, 64, "%d %lld %016llx ", (int)j->task, (long long)p.drop,
                 (unsigned long long)j->view_hash);
        memcpy(key + strlen(key), p.text, p.bytes + 1);
        const int known = remembered(j, negative, key);
        if (!known && !q->error.status) encode_prompt(j, negative, &p);
        qw_prompt_free(&p);
        if (known || q->error.status || q->tally) free(key);
        else remember(j, negative, key);
    }
    if (q->error.status) return q->error.status;
    const int64_t width = given ? given->dim[1] : q->config.text.width;
    return qw_show(j, q->devices.text, j->text[negative], 2,
                   (int64_t[]){ j->text_rows[negative], width },
                   negative ? "neg.embeds" : "text.embeds");
}
