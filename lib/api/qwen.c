/* qwen.c - the public functions: arguments checked, structs of other sizes taken, errors kept.
 *
 * Everything here is thin: a function checks what the caller handed over, clears the handle's
 * error, and calls the stage that does the work. */
#include "pipeline/pipeline.h"
#include "core/core.h"
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef PACKAGE_VERSION
#define PACKAGE_VERSION "0.1.0"
#endif

const char *qwen_version(void) { return PACKAGE_VERSION; }

void qwen_array_free(qwen_array *a)
{
    if (!a) return;
    free(a->data);
    memset(a, 0, sizeof *a);
}

static int begin(qwen *q)
{
    memset(&q->error, 0, sizeof q->error);
    return QWEN_OK;
}

const char *qwen_error(const qwen *q) { return q ? q->error.text : "no memory"; }

/* --- opening ---------------------------------------------------------------------------------- */

int qwen_open(qwen **out, const qwen_options *opt)
{
    return out ? qw_model_new(out, opt, NULL) : QWEN_EARG;
}

void qwen_close(qwen *q) { qw_model_free(q); }

/* A handle that failed to open can say why, and nothing else. */
static int usable(qwen *q)
{
    if (!q) return QWEN_EARG;
    if (!q->devices.main)
        return q->error.status ? q->error.status
                               : qw_fail(&q->error, QWEN_EARG, "the model is not open");
    return begin(q);
}

int qwen_info(qwen *q, qwen_model_info *out)
{
    const int status = usable(q);
    qwen_model_info info;
    if (status) return status;
    if (!out) return qw_fail(&q->error, QWEN_EARG, "no qwen_model_info");
    const size_t size = out->size;
    if (qw_take_struct(&q->error, &info, sizeof info, out, size, "qwen_model_info"))
        return q->error.status;
    info = (qwen_model_info){
        .name = q->name,
        .variant = qw_variant_name(q->variant),
        .pipeline = q->pipeline_class,
        .edit_class = q->edit_class,
        .device = q->devices.main->name,
        .width = q->defaults.width ? q->defaults.width : 1024,
        .height = q->defaults.height ? q->defaults.height : 1024,
        .steps = q->defaults.steps,
        .guidance = q->defaults.guidance,
        .negative = q->defaults.negative,
        .distilled = q->defaults.distilled != NULL,
        .text_width = q->config.dit.text_width,
        .recommended_negative = qw_recommended_negative(q),
    };
    qw_give_struct(out, size, &info, sizeof info);
    return QWEN_OK;
}

typedef struct listener {
    int (*each)(void *user, const qwen_device_info *d);
    void *user;
} listener;

static int give_device(void *user, const qw_listing *d, int is_default)
{
    const listener *l = user;
    const qwen_device_info info = { .size = sizeof info,
                                    .name = d->name,
                                    .what = d->what,
                                    .identity = d->identity,
                                    .why_not = d->why_not[0] ? d->why_not : NULL,
                                    .score = d->score,
                                    .memory = d->memory,
                                    .is_default = is_default };
    return l->each(l->user, &info);
}

int qwen_devices(int (*each)(void *user, const qwen_device_info *d), void *user)
{
    return each ? qw_device_list(give_device, &(listener){ each, user }) : QWEN_EARG;
}

int qwen_lora(qwen *q, const char *path, double strength, unsigned flags)
{
    const int status = usable(q);
    if (status) return status;
    if (!path) return qw_fail(&q->error, QWEN_EARG, "LoRA: no path");
    if (!(fabs(strength) <= 1e6))
        return qw_fail(&q->error, QWEN_EARG, "%s: strength %g, expected -1e6 to 1e6", path,
                       strength);
    if (flags & ~(unsigned)QWEN_LORA_PARTIAL)
        return qw_fail(&q->error, QWEN_EUNSUPPORTED, "LoRA: flags %#x", flags);
    return qw_lora_add(q, path, strength, flags & QWEN_LORA_PARTIAL);
}

void qwen_lora_clear(qwen *q)
{
    if (q && q->devices.main) qw_lora_drop(q);
}

/* --- pictures --------------------------------------------------------------------------------- */

static int take_request(qwen *q, qwen_request *r, const qwen_request *req)
{
    if (!req) return qw_fail(&q->error, QWEN_EARG, "no request");
    return qw_take_struct(&q->error, r, sizeof *r, req, req->size, "qwen_request");
}

static void free_result(qwen_result *r)
{
    for (int i = 0; r->image && i < r->n; i++) qwen_array_free(&r->image[i]);
    free(r->image);
    qwen_array_free(&r->kept);
    qwen_array_free(&r->mask);
}

void qwen_result_free(qwen_result *r)
{
    if (!r) return;
    const size_t size = r->size;
    qwen_result mine = { 0 };
    memcpy(&mine, r, size < sizeof mine ? size : sizeof mine);
    free_result(&mine);
    memset(r, 0, size < sizeof mine ? size : sizeof mine);
    if (size >= sizeof size) r->size = size;
}

int qwen_generate(qwen *q, const qwen_request *req, qwen_result *out)
{
    const int status = usable(q);
    qwen_request r;
    qwen_result mine;
    if (status) return status;
    if (!out) return qw_fail(&q->error, QWEN_EARG, "no qwen_result");
    const size_t size = out->size;
    if (take_request(q, &r, req)
        || qw_take_struct(&q->error, &mine, sizeof mine, out, size, "qwen_result"))
        return q->error.status;
    if (size < offsetof(qwen_result, seed))
        return qw_fail(&q->error, QWEN_EARG, "qwen_result: size is %zu", size);
    memset(&mine, 0, sizeof mine);
    const char *const names[3] = { r.schedule, r.sampler, r.rng };
    for (int i = 0; i < 3; i++) {
        memset(q->names[i], 0, sizeof q->names[i]);
        if (names[i]) strncpy(q->names[i], names[i], sizeof q->names[i] - 1);
    }
    if (qw_generate(q, &r, &mine)) {
        free_result(&mine);
        memset(&mine, 0, sizeof mine);
    }
    if (size < offsetof(qwen_result, mask) + sizeof mine.mask) { /* a caller without room */
        qwen_array_free(&mine.kept);
        qwen_array_free(&mine.mask);
    }
    qw_give_struct(out, size, &mine, sizeof mine);
    return q->error.status;
}

int qwen_plan(qwen *q, const qwen_request *req, qwen_plan_report *out)
{
    const int status = usable(q);
    qwen_request r;
    qwen_plan_report mine, asked;
    if (status) return status;
    if (!out) return qw_fail(&q->error, QWEN_EARG, "no qwen_plan_report");
    const size_t size = out->size;
    if (take_request(q, &r, req)
        || qw_take_struct(&q->error, &asked, sizeof asked, out, size, "qwen_plan_report"))
        return q->error.status;
    r.tap = NULL;
    r.progress = NULL;
    mine = (qwen_plan_report){ .ops = asked.ops, .user = asked.user, .geometry = asked.geometry };
    qw_plan(q, &r, &mine);
    qw_give_struct(out, size, &mine, sizeof mine);
    return q->error.status;
}

/* --- the stages, one by one ------------------------------------------------------------------- */

/* An array of doubles becomes the caller's: F64 where the device is wide in F64, else F32. */
static int give_numbers(qwen *q, const qw_device *dev, const double *x, int rank,
                        const int64_t *dim, qwen_array *out)
{
    int64_t n = 1;
    *out = (qwen_array){ .dtype = dev->wide == QW_F64 ? QWEN_F64 : QWEN_F32, .rank = rank };
    for (int i = 0; i < rank; i++) n *= out->dim[i] = dim[i];
    out->data =
        malloc((size_t)(n > 0 ? n : 1) * (out->dtype == QWEN_F64 ? sizeof(double) : sizeof(float)));
    if (!out->data) return qw_fail(&q->error, QWEN_ENOMEM, "no memory for the result");
    for (int64_t i = 0; i < n; i++)
        if (out->dtype == QWEN_F64) ((double *)out->data)[i] = x[i];
        else ((float *)out->data)[i] = (float)x[i];
    return QWEN_OK;
}

/* The caller's numbers as doubles; dim[i] < 0: any size from 1, which is written back. */
static double *take_numbers(qwen *q, const qwen_array *a, int rank, int64_t *dim, const char *what)
{
    char shape[120] = "";
    int64_t n = 1;
    int good = a && a->data && a->rank == rank && (a->dtype == QWEN_F32 || a->dtype == QWEN_F64);
    for (int i = 0; i < rank; i++) {
        const size_t at = strlen(shape);
        if (dim[i] < 0) snprintf(shape + at, sizeof shape - at, "[any]");
        else snprintf(shape + at, sizeof shape - at, "[%lld]", (long long)dim[i]);
        good = good && a->dim[i] > 0 && (dim[i] < 0 || dim[i] == a->dim[i])
               && a->dim[i] < ((int64_t)1 << 40) / n;
        if (good) n *= dim[i] = a->dim[i];
    }
    double *x = good ? malloc((size_t)n * sizeof *x) : NULL;
    if (!x) {
        if (good) qw_fail(&q->error, QWEN_ENOMEM, "no memory for %s", what);
        else qw_fail(&q->error, QWEN_EARG, "%s: not numbers of %s", what, shape);
        return NULL;
    }
    for (int64_t i = 0; i < n; i++)
        x[i] = a->dtype == QWEN_F64 ? ((const double *)a->data)[i]
                                    : (double)((const float *)a->data)[i];
    return x;
}

static const int32_t *take_ints(qwen *q, const qwen_array *a, int rank, int64_t last,
                                const char *what)
{
    int good = a && a->data && a->rank == rank && a->dtype == QWEN_I32 && a->dim[0] > 0
               && a->dim[0] < 1 << 28;
    if (good && rank == 2) good = a->dim[1] == last;
    if (!good)
        qw_fail(&q->error, QWEN_EARG, "%s: not 32-bit integers of %s", what,
                rank == 2 ? "[any][3]" : "[any]");
    return good ? a->data : NULL;
}

int qwen_tokenize(qwen *q, const char *text, size_t bytes, qwen_array *ids)
{
    int32_t *list = NULL;
    int64_t n = 0;
    const int status = usable(q);
    if (status) return status;
    if (!ids || (!text && bytes))
        return qw_fail(&q->error, QWEN_EARG, "no text, or nowhere to put the ids");
    if (qw_need_tokenizer(q)
        || qw_tokenize(q->files.tokenizer, text ? text : "", bytes, &list, &n, &q->error))
        return q->error.status;
    return qw_give_ids(&q->error, list, n, ids);
}

int qwen_prompt(qwen *q, const qwen_request *req, int negative, char **out)
{
    qwen_request r;
    qw_job j;
    qw_prompt p = { 0 };
    const int status = usable(q);
    if (status) return status;
    if (!out) return qw_fail(&q->error, QWEN_EARG, "nowhere to put the prompt");
    *out = NULL;
    if (take_request(q, &r, req)) return q->error.status;
    if (!qw_job_init(&j, q, &r)) {
        if (!negative && !r.prompt) qw_fail(&q->error, QWEN_EARG, "the request has no prompt");
        else if (!qw_job_prompt(&j, negative != 0, &p)) *out = p.text;
    }
    qw_job_free(&j);
    return q->error.status;
}

int qwen_embed(qwen *q, const qwen_request *req, int negative, qwen_array *text)
{
    qwen_request r;
    qw_job j;
    const int status = usable(q), k = negative != 0;
    if (status) return status;
    if (!text) return qw_fail(&q->error, QWEN_EARG, "nowhere to put the embeddings");
    if (take_request(q, &r, req)) return q->error.status;
    if (!qw_job_init(&j, q, &r) && !qw_embed_prompt(&j, k)) {
        const qwen_array *given = k ? r.negative_embeds : r.embeds;
        const int64_t width = given ? given->dim[1] : q->config.text.width;
        give_numbers(q, q->devices.text, j.text[k], 2, (int64_t[]){ j.text_rows[k], width }, text);
    }
    qw_job_free(&j);
    return q->error.status;
}

/* Pictures' latents packed one after another; grid and rows are filled in. */
static double *pack_latents(qwen *q, const qwen_array *latent, int latents, qw_grid *grid,
                            int64_t *rows)
{
    const int64_t z = q->config.vae.z ? q->config.vae.z : q->config.dit.out;
    double *all = NULL;
    *rows = 0;
    for (int i = 0; i < latents; i++) {
        int64_t dim[3] = { z, -1, -1 };
        double *x = take_numbers(q, &latent[i], 3, dim, "latent");
        if (x && (dim[1] % 2 || dim[2] % 2))
            qw_fail(&q->error, QWEN_EARG, "latent: %lldx%lld is not even", (long long)dim[2],
                    (long long)dim[1]);
        const int64_t n = x ? dim[1] / 2 * (dim[2] / 2) : 0;
        double *more = q->error.status ? NULL
                                       : realloc(all, (size_t)((*rows + n) * 4 * z) * sizeof *all);
        if (!more) {
            qw_fail(&q->error, QWEN_ENOMEM, "no memory for the latents");
            free(x);
            free(all);
            return NULL;
        }
        all = more;
        qw_pack(x, z, dim[1], dim[2], all + *rows * 4 * z);
        free(x);
        grid[i] = (qw_grid){ 1, (int32_t)(dim[1] / 2), (int32_t)(dim[2] / 2) };
        *rows += n;
    }
    return all;
}

typedef struct velocity_call {
    qw_velocity_work work;
    double t;
    qw_modulation *table;
} velocity_call;

static void velocity_body(qw_run *r, void *arg)
{
    velocity_call *c = arg;
    qw_modulation_free(c->table);
    c->table = NULL;
    if (qw_dit_modulate(r, c->work.q->nets.dit, &c->t, 1, &c->table)) return;
    c->work.mod = c->table;
    qw_velocity_body(r, &c->work);
}

int qwen_velocity(qwen *q, const qwen_array *latent, int latents, double sigma,
                  const qwen_array *text, qwen_array *v)
{
    qw_grid grid[QW_MAX_PICTURES];
    qw_stage s;
    int64_t rows = 0;
    const int status = usable(q);
    if (status) return status;
    if (!latent || latents < 1 || latents > QW_MAX_PICTURES || !v || !(sigma >= 0 && sigma <= 1))
        return qw_fail(&q->error, QWEN_EARG, "velocity: %d latents, sigma %g", latents, sigma);
    if (qw_need_dit(q)) return q->error.status;
    int64_t dim[2] = { -1, q->config.dit.text_width };
    double *words = take_numbers(q, text, 2, dim, "text");
    double *x = words ? pack_latents(q, latent, latents, grid, &rows) : NULL;
    const int noises = q->config.dit.layer3d && latents > 1 ? latents - 1 : 1;
    int64_t noise_rows = 0;
    for (int i = 0; x && i < noises; i++) noise_rows += (int64_t)grid[i].rows * grid[i].cols;
    const int64_t f = q->config.dit.in, z = f / 4, h = 2 * (int64_t)grid[0].rows,
                  w = 2 * (int64_t)grid[0].cols;
    double *out = x ? calloc((size_t)(noise_rows * f), sizeof *out) : NULL;
    double *latents_out = out ? calloc((size_t)(noise_rows * f), sizeof *out) : NULL;
    if (x && !latents_out) qw_fail(&q->error, QWEN_ENOMEM, "no memory for the velocity");
    if (latents_out) {
        velocity_call c = { .t = sigma, .work = { .q = q, .passes = 1 } };
        c.work.seq[0] = (qw_dit_sequence){ .x = x,
                                           .rows = rows,
                                           .noise_rows = noise_rows,
                                           .grid = grid,
                                           .grids = latents,
                                           .noise_grids = noises,
                                           .text = words,
                                           .text_rows = dim[0],
                                           .out = out };
        qw_stage_begin(&s, q, NULL, q->devices.main, "denoise", 1, (int)q->config.dit.layers);
        qw_stage_reserve(&s, velocity_body, &c);
        qw_stage_run(&s, velocity_body, &c, out, noise_rows * f);
        qw_stage_end(&s, NULL);
        qw_modulation_free(c.table);
        for (int i = 0; i < noises; i++)
            qw_unpack(out + i * h * w * z, z, h, w, latents_out + i * h * w * z);
        if (!q->error.status)
            give_numbers(q, q->devices.main, latents_out, noises > 1 ? 4 : 3,
                         noises > 1 ? (int64_t[]){ noises, z, h, w } : (int64_t[]){ z, h, w, 0 },
                         v);
    }
    free(words);
    free(x);
    free(out);
    free(latents_out);
    return q->error.status;
}

int qwen_decode(qwen *q, const qwen_array *latent, qwen_array *picture)
{
    qw_stage s;
    const int status = usable(q);
    if (status) return status;
    if (!picture) return qw_fail(&q->error, QWEN_EARG, "nowhere to put the picture");
    if (qw_need_vae(q, QW_VAE_DECODER)) return q->error.status;
    int64_t dim[3] = { q->config.vae.z, -1, -1 };
    double *x = take_numbers(q, latent, 3, dim, "latent");
    if (!x) return q->error.status;
    const int64_t up = 8 * qw_vae_enlarges(q->nets.vae), H = dim[1] * up, W = dim[2] * up,
                  C = q->config.vae.channels;
    double *out = calloc((size_t)(H * W * C), sizeof *out);
    if (!out) {
        free(x);
        return qw_fail(&q->error, QWEN_ENOMEM, "no memory for a picture of %lldx%lld", (long long)W,
                       (long long)H);
    }
    qw_latent_raw(&q->config.vae, x, dim[1] * dim[2], x);
    qw_decode_work w = { q, x, dim[1], dim[2], out, 0 };
    qw_stage_begin(&s, q, NULL, q->devices.vae, "decode", 1, 0);
    qw_stage_decode(&s, &w);
    if (!qw_stage_end(&s, NULL)) {
        for (int64_t i = 0; i < H * W * C; i++) out[i] = fmax(-1, fmin(1, out[i]));
        give_numbers(q, q->devices.vae, out, 3, (int64_t[]){ H, W, C }, picture);
    }
    free(x);
    free(out);
    return q->error.status;
}

int qwen_encode(qwen *q, const qwen_array *picture, qwen_array *latent)
{
    qw_stage s;
    const int status = usable(q);
    if (status) return status;
    if (!latent) return qw_fail(&q->error, QWEN_EARG, "nowhere to put the latent");
    if (qw_need_vae(q, QW_VAE_ENCODER)) return q->error.status;
    int64_t dim[3] = { -1, -1, q->config.vae.channels };
    double *x = take_numbers(q, picture, 3, dim, "picture");
    if (x && (dim[0] % 8 || dim[1] % 8))
        qw_fail(&q->error, QWEN_EARG, "picture: %lldx%lld is no multiple of 8", (long long)dim[1],
                (long long)dim[0]);
    const int64_t h = dim[0] / 8, w = dim[1] / 8, z = q->config.vae.z;
    double *mean = q->error.status ? NULL : calloc((size_t)(2 * z * h * w), sizeof *mean);
    if (!mean) {
        free(x);
        return qw_fail(&q->error, QWEN_ENOMEM, "no memory for a latent");
    }
    qw_encode_work work = { q, x, dim[0], dim[1], mean, mean + z * h * w, 0 };
    qw_stage_begin(&s, q, NULL, q->devices.vae, "encode", 1, 0);
    qw_stage_encode(&s, &work);
    if (!qw_stage_end(&s, NULL)) {
        qw_latent_normalise(&q->config.vae, mean, h * w, mean);
        give_numbers(q, q->devices.vae, mean, 3, (int64_t[]){ z, h, w }, latent);
    }
    free(x);
    free(mean);
    return q->error.status;
}

/* Vision grids [pictures][3] of patches, checked, and merged as the language model sees them. */
static int take_grids(qwen *q, const qwen_array *grid, int64_t merge, qw_grid *patches,
                      qw_grid *merged, int *pictures)
{
    const int32_t *g = take_ints(q, grid, 2, 3, "grid");
    *pictures = 0;
    if (!g) return q->error.status;
    if (grid->dim[0] > QW_MAX_PICTURES)
        return qw_fail(&q->error, QWEN_EARG, "grid: %lld pictures", (long long)grid->dim[0]);
    for (int64_t i = 0; i < grid->dim[0]; i++, g += 3) {
        if (g[0] != 1 || g[1] < 1 || g[2] < 1 || g[1] > 1 << 14 || g[2] > 1 << 14 || g[1] % merge
            || g[2] % merge)
            return qw_fail(
                &q->error, QWEN_EARG,
                "grid: picture %lld is %dx%dx%d patches, not 1 frame of multiples of %lld",
                (long long)i, g[0], g[1], g[2], (long long)merge);
        patches[i] = (qw_grid){ 1, g[1], g[2] };
        merged[i] = (qw_grid){ 1, (int32_t)(g[1] / merge), (int32_t)(g[2] / merge) };
    }
    *pictures = (int)grid->dim[0];
    return QWEN_OK;
}

static int hidden_states(qwen *q, const int32_t *ids, int64_t n, const double *features,
                         int64_t rows, const qw_grid *merged, int pictures, qwen_array *hidden)
{
    qw_stage s;
    const int64_t width = q->config.text.width;
    int32_t *positions = malloc((size_t)n * 3 * sizeof *positions);
    double *out = calloc((size_t)(n * width), sizeof *out);
    if (!positions || !out)
        qw_fail(&q->error, QWEN_ENOMEM, "no memory for %lld hidden states", (long long)n);
    else if (!qw_mrope_positions(&q->config.text, ids, n, merged, pictures, positions, &q->error)) {
        qw_text_work w = { .q = q,
                           .ids = ids,
                           .n = n,
                           .features = features,
                           .feature_rows = rows,
                           .positions = positions,
                           .out = out };
        qw_stage_begin(&s, q, NULL, q->devices.text, "text", 1, (int)q->config.text.layers);
        qw_stage_reserve(&s, qw_text_body, &w);
        qw_stage_run(&s, qw_text_body, &w, out, n * width);
        if (!qw_stage_end(&s, NULL))
            give_numbers(q, q->devices.text, out, 2, (int64_t[]){ n, width }, hidden);
    }
    free(positions);
    free(out);
    return q->error.status;
}

int qwen_hidden(qwen *q, const qwen_array *ids, const qwen_array *features, const qwen_array *grid,
                qwen_array *hidden)
{
    qw_grid patches[QW_MAX_PICTURES], merged[QW_MAX_PICTURES];
    int pictures = 0;
    const int status = usable(q);
    if (status) return status;
    const int32_t *list = take_ints(q, ids, 1, 0, "ids");
    if (!list || !hidden) return qw_fail(&q->error, QWEN_EARG, "nowhere to put the hidden states");
    if (qw_need_text(q)) return q->error.status;
    int64_t images = 0;
    for (int64_t i = 0; i < ids->dim[0]; i++) {
        if (list[i] < 0 || list[i] >= q->config.text.vocab)
            return qw_fail(&q->error, QWEN_EARG, "ids: %d is not in the vocabulary of %lld",
                           list[i], (long long)q->config.text.vocab);
        images += list[i] == q->config.text.image_token;
    }
    if (!features != !grid) return qw_fail(&q->error, QWEN_EARG, "features and grid go together");
    if (!features) return hidden_states(q, list, ids->dim[0], NULL, 0, NULL, 0, hidden);
    int64_t dim[2] = { images, q->config.text.width };
    const int64_t merge = q->config.vision.merge ? q->config.vision.merge : 2;
    if (take_grids(q, grid, merge, patches, merged, &pictures)) return q->error.status;
    double *x = take_numbers(q, features, 2, dim, "features");
    if (x) hidden_states(q, list, ids->dim[0], x, images, merged, pictures, hidden);
    free(x);
    return q->error.status;
}

int qwen_vision(qwen *q, const qwen_array *pixels, const qwen_array *grid, qwen_array *features)
{
    qw_grid patches[QW_MAX_PICTURES], merged[QW_MAX_PICTURES];
    qw_stage s;
    int pictures = 0;
    const int status = usable(q);
    if (status) return status;
    if (!features) return qw_fail(&q->error, QWEN_EARG, "nowhere to put the features");
    if (qw_need_vision(q)
        || take_grids(q, grid, q->config.vision.merge, patches, merged, &pictures))
        return q->error.status;
    const qw_vision_config *c = &q->config.vision;
    int64_t rows = 0, out_rows = 0;
    for (int i = 0; i < pictures; i++) {
        rows += (int64_t)patches[i].rows * patches[i].cols;
        out_rows += (int64_t)merged[i].rows * merged[i].cols;
    }
    int64_t dim[2] = { rows, c->channels * c->temporal * c->patch * c->patch };
    double *x = take_numbers(q, pixels, 2, dim, "pixels");
    double *out = x ? calloc((size_t)(out_rows * c->out), sizeof *out) : NULL;
    if (x && !out) qw_fail(&q->error, QWEN_ENOMEM, "no memory for features");
    if (out) {
        const double *in = x;
        double *to = out;
        qw_stage_begin(&s, q, NULL, q->devices.text, "vision", pictures, (int)c->depth);
        for (int i = 0; i < pictures; i++) {
            qw_vision_work w = { q, in, patches[i], to };
            const int64_t n = (int64_t)merged[i].rows * merged[i].cols * c->out;
            s.run.step = i;
            qw_stage_reserve(&s, qw_vision_body, &w);
            qw_stage_run(&s, qw_vision_body, &w, to, n);
            in += (int64_t)patches[i].rows * patches[i].cols * dim[1];
            to += n;
        }
        if (!qw_stage_end(&s, NULL))
            give_numbers(q, q->devices.text, out, 2, (int64_t[]){ out_rows, c->out }, features);
    }
    free(x);
    free(out);
    return q->error.status;
}
