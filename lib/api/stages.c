/* stages.c - public functions of single stages: check arrays, call the pipeline, hand over. */
#include "api/api.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PICTURES = 64 }; /* the most of one call */

/* --- arrays ----------------------------------------------------------------------------------- */

/* Copies x [dim[0]]...[dim[rank - 1]] to a new array of the caller: F64 if the wide type of the
 * net's device is F64, else F32. */
static int give_numbers(qwen *q, qw_net net, const double *x, int rank, const int64_t *dim,
                        qwen_array *out)
{
    int64_t n = 1;
    *out = (qwen_array){ .dtype = qw_model_wide(q, net) == QW_F64 ? QWEN_F64 : QWEN_F32,
                         .rank = rank };
    for (int i = 0; i < rank; i++) n *= out->dim[i] = dim[i];
    out->data =
        malloc((size_t)(n > 0 ? n : 1) * (out->dtype == QWEN_F64 ? sizeof(double) : sizeof(float)));
    if (!out->data) return qw_fail(qw_model_error(q), QWEN_ENOMEM, "no memory for the result");
    for (int64_t i = 0; i < n; i++)
        if (out->dtype == QWEN_F64) ((double *)out->data)[i] = x[i];
        else ((float *)out->data)[i] = (float)x[i];
    return QWEN_OK;
}

/* Copies the caller's numbers to doubles, malloc'ed; NULL with the error set if the shape is not
 * dim.  dim[i] < 0: any size from 1, which is written back. */
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
        if (good) qw_fail(qw_model_error(q), QWEN_ENOMEM, "no memory for %s", what);
        else qw_fail(qw_model_error(q), QWEN_EARG, "%s: not numbers of %s", what, shape);
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
        qw_fail(qw_model_error(q), QWEN_EARG, "%s: not 32-bit integers of %s", what,
                rank == 2 ? "[any][3]" : "[any]");
    return good ? a->data : NULL;
}

/* --- words ------------------------------------------------------------------------------------ */

int qwen_tokenize(qwen *q, const char *text, size_t bytes, qwen_array *ids)
{
    int32_t *list = NULL;
    int64_t n = 0;
    const int status = qw_usable(q);
    if (status) return status;
    qw_error *err = qw_model_error(q);
    if (!ids || (!text && bytes))
        return qw_fail(err, QWEN_EARG, "no text, or nowhere to put the ids");
    if (qw_model_load(q, QW_NEED_TOKENIZER, NULL, NULL)
        || qw_token_ids(q, text ? text : "", bytes, &list, &n))
        return err->status;
    return qw_give_ids(err, list, n, ids);
}

int qwen_prompt(qwen *q, const qwen_request *req, int negative, char **out)
{
    qwen_request r;
    const int status = qw_usable(q);
    if (status) return status;
    if (!out) return qw_fail(qw_model_error(q), QWEN_EARG, "nowhere to put the prompt");
    *out = NULL;
    return qw_take_request(q, &r, req) ? qw_model_error(q)->status
                                       : qw_prompt_text(q, &r, negative, out);
}

int qwen_embed(qwen *q, const qwen_request *req, int negative, qwen_array *text)
{
    qwen_request r;
    double *rows;
    int64_t dim[2];
    const int status = qw_usable(q);
    if (status) return status;
    qw_error *err = qw_model_error(q);
    if (!text) return qw_fail(err, QWEN_EARG, "nowhere to put the embeddings");
    if (qw_take_request(q, &r, req) || qw_prompt_rows(q, &r, negative, &rows, dim))
        return err->status;
    give_numbers(q, QW_TEXT, rows, 2, dim, text);
    free(rows);
    return err->status;
}

/* Checks vision grids [pictures][3] of patches; copies them, and the grids of merged patches. */
static int take_grids(qwen *q, const qwen_array *grid, int64_t merge, qw_grid *patches,
                      qw_grid *merged, int *pictures)
{
    const int32_t *g = take_ints(q, grid, 2, 3, "grid");
    qw_error *err = qw_model_error(q);
    *pictures = 0;
    if (!g) return err->status;
    if (grid->dim[0] > PICTURES)
        return qw_fail(err, QWEN_EARG, "grid: %lld pictures", (long long)grid->dim[0]);
    for (int64_t i = 0; i < grid->dim[0]; i++, g += 3) {
        if (g[0] != 1 || g[1] < 1 || g[2] < 1 || g[1] > 1 << 14 || g[2] > 1 << 14 || g[1] % merge
            || g[2] % merge)
            return qw_fail(
                err, QWEN_EARG,
                "grid: picture %lld is %dx%dx%d patches, not 1 frame of multiples of %lld",
                (long long)i, g[0], g[1], g[2], (long long)merge);
        patches[i] = (qw_grid){ 1, g[1], g[2] };
        merged[i] = (qw_grid){ 1, (int32_t)(g[1] / merge), (int32_t)(g[2] / merge) };
    }
    *pictures = (int)grid->dim[0];
    return QWEN_OK;
}

/* hidden [n][width] */
static int hidden_states(qwen *q, const int32_t *ids, int64_t n, const double *features,
                         int64_t rows, const qw_grid *merged, int pictures, qwen_array *hidden)
{
    const int64_t dim[2] = { n, qw_model_configs(q)->text.width };
    double *out = calloc((size_t)(n * dim[1]), sizeof *out);
    if (!out)
        qw_fail(qw_model_error(q), QWEN_ENOMEM, "no memory for %lld hidden states", (long long)n);
    else if (!qw_hidden_states(q, ids, n, features, rows, merged, pictures, out))
        give_numbers(q, QW_TEXT, out, 2, dim, hidden);
    free(out);
    return qw_model_error(q)->status;
}

/* The number of picture tokens among ids; -1 if an id is not in the vocabulary. */
static int64_t picture_tokens(qwen *q, const int32_t *ids, int64_t n)
{
    const qw_text_config *c = &qw_model_configs(q)->text;
    int64_t images = 0;
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= c->vocab) {
            qw_fail(qw_model_error(q), QWEN_EARG, "ids: %d is not in the vocabulary of %lld",
                    ids[i], (long long)c->vocab);
            return -1;
        }
        images += ids[i] == c->image_token;
    }
    return images;
}

int qwen_hidden(qwen *q, const qwen_array *ids, const qwen_array *features, const qwen_array *grid,
                qwen_array *hidden)
{
    qw_grid patches[PICTURES], merged[PICTURES];
    int pictures = 0;
    const int status = qw_usable(q);
    if (status) return status;
    qw_error *err = qw_model_error(q);
    const int32_t *list = take_ints(q, ids, 1, 0, "ids");
    if (!list || !hidden) return qw_fail(err, QWEN_EARG, "nowhere to put the hidden states");
    if (qw_model_load(q, QW_NEED_TEXT, NULL, NULL)) return err->status;
    const int64_t n = ids->dim[0], images = picture_tokens(q, list, n);
    if (images < 0) return err->status;
    if (!features != !grid) return qw_fail(err, QWEN_EARG, "features and grid go together");
    if (!features) return hidden_states(q, list, n, NULL, 0, NULL, 0, hidden);
    const qw_configs *c = qw_model_configs(q);
    const int64_t merge = c->vision.merge ? c->vision.merge : 2;
    int64_t dim[2] = { images, c->text.width };
    if (take_grids(q, grid, merge, patches, merged, &pictures)) return err->status;
    double *x = take_numbers(q, features, 2, dim, "features");
    if (x) hidden_states(q, list, n, x, images, merged, pictures, hidden);
    free(x);
    return err->status;
}

int qwen_vision(qwen *q, const qwen_array *pixels, const qwen_array *grid, qwen_array *features)
{
    qw_grid patches[PICTURES], merged[PICTURES];
    int pictures = 0;
    const int status = qw_usable(q);
    if (status) return status;
    qw_error *err = qw_model_error(q);
    const qw_vision_config *c = &qw_model_configs(q)->vision;
    if (!features) return qw_fail(err, QWEN_EARG, "nowhere to put the features");
    if (qw_model_load(q, QW_NEED_VISION, NULL, NULL)
        || take_grids(q, grid, c->merge, patches, merged, &pictures))
        return err->status;
    int64_t in[2] = { 0, c->channels * c->temporal * c->patch * c->patch }, to[2] = { 0, c->out };
    for (int i = 0; i < pictures; i++) {
        in[0] += (int64_t)patches[i].rows * patches[i].cols;
        to[0] += (int64_t)merged[i].rows * merged[i].cols;
    }
    double *x = take_numbers(q, pixels, 2, in, "pixels");
    double *out = x ? calloc((size_t)(to[0] * to[1]), sizeof *out) : NULL;
    if (x && !out) qw_fail(err, QWEN_ENOMEM, "no memory for features");
    if (out && !qw_picture_features(q, x, patches, pictures, out))
        give_numbers(q, QW_VISION, out, 2, to, features);
    free(x);
    free(out);
    return err->status;
}

/* --- latents ---------------------------------------------------------------------------------- */

/* Copies latents [z][h][w] to out[i].x, malloc'ed.  All sides must be even, and the noises, the
 * first ones, of one size. */
static int take_latents(qwen *q, const qwen_array *latent, int latents, int noises, qw_latent *out)
{
    const qw_configs *c = qw_model_configs(q);
    qw_error *err = qw_model_error(q);
    for (int i = 0; i < latents; i++) {
        int64_t dim[3] = { c->vae.z ? c->vae.z : c->dit.out, -1, -1 };
        double *x = out[i].x = take_numbers(q, &latent[i], 3, dim, "latent");
        if (!x) return err->status;
        out[i].h = dim[1];
        out[i].w = dim[2];
        if (dim[1] % 2 || dim[2] % 2)
            return qw_fail(err, QWEN_EARG, "latent: %lldx%lld is not even", (long long)dim[2],
                           (long long)dim[1]);
        if (i < noises && (dim[1] != out[0].h || dim[2] != out[0].w))
            return qw_fail(err, QWEN_EARG, "latent %d is %lldx%lld, the first is %lldx%lld", i + 1,
                           (long long)dim[2], (long long)dim[1], (long long)out[0].w,
                           (long long)out[0].h);
    }
    return QWEN_OK;
}

int qwen_velocity(qwen *q, const qwen_array *latent, int latents, double sigma,
                  const qwen_array *text, qwen_array *v)
{
    qw_latent list[PICTURES] = { { .x = NULL } };
    const int status = qw_usable(q);
    if (status) return status;
    qw_error *err = qw_model_error(q);
    if (!latent || latents < 1 || latents > PICTURES || !v || !(sigma >= 0 && sigma <= 1))
        return qw_fail(err, QWEN_EARG, "velocity: %d latents, sigma %g", latents, sigma);
    if (qw_model_load(q, QW_NEED_DIT, NULL, NULL)) return err->status;
    const int noises = qw_noises(q, latents);
    int64_t rows[2] = { -1, qw_model_configs(q)->dit.text_width };
    double *words = take_numbers(q, text, 2, rows, "text"), *out = NULL;
    if (words && !take_latents(q, latent, latents, noises, list)) {
        const int64_t dim[4] = { noises, qw_model_configs(q)->dit.in / 4, list[0].h, list[0].w };
        out = calloc((size_t)(dim[0] * dim[1] * dim[2] * dim[3]), sizeof *out);
        if (!out) qw_fail(err, QWEN_ENOMEM, "no memory for the velocity");
        else if (!qw_velocity(q, list, latents, sigma, words, rows[0], out))
            give_numbers(q, QW_DIT, out, noises > 1 ? 4 : 3, noises > 1 ? dim : dim + 1, v);
    }
    for (int i = 0; i < latents; i++) free(list[i].x);
    free(words);
    free(out);
    return err->status;
}

int qwen_decode(qwen *q, const qwen_array *latent, qwen_array *picture)
{
    const int status = qw_usable(q);
    if (status) return status;
    qw_error *err = qw_model_error(q);
    if (!picture) return qw_fail(err, QWEN_EARG, "nowhere to put the picture");
    if (qw_model_load(q, QW_NEED_DECODER, NULL, NULL)) return err->status;
    const qw_vae_config *c = &qw_model_configs(q)->vae;
    int64_t dim[3] = { c->z, -1, -1 };
    double *x = take_numbers(q, latent, 3, dim, "latent");
    if (!x) return err->status;
    const int64_t up = 8 * qw_model_enlarges(q);
    const int64_t to[3] = { dim[1] * up, dim[2] * up, c->channels };
    double *out = calloc((size_t)(to[0] * to[1] * to[2]), sizeof *out);
    if (!out)
        qw_fail(err, QWEN_ENOMEM, "no memory for a picture of %lldx%lld", (long long)to[1],
                (long long)to[0]);
    else if (!qw_decode_latent(q, &(qw_latent){ x, dim[1], dim[2] }, out))
        give_numbers(q, QW_VAE, out, 3, to, picture);
    free(x);
    free(out);
    return err->status;
}

int qwen_encode(qwen *q, const qwen_array *picture, qwen_array *latent)
{
    const int status = qw_usable(q);
    if (status) return status;
    qw_error *err = qw_model_error(q);
    if (!latent) return qw_fail(err, QWEN_EARG, "nowhere to put the latent");
    if (qw_model_load(q, QW_NEED_ENCODER, NULL, NULL)) return err->status;
    const qw_vae_config *c = &qw_model_configs(q)->vae;
    int64_t dim[3] = { -1, -1, c->channels };
    double *x = take_numbers(q, picture, 3, dim, "picture");
    if (!x) return err->status;
    if (dim[0] % 8 || dim[1] % 8)
        qw_fail(err, QWEN_EARG, "picture: %lldx%lld is no multiple of 8", (long long)dim[1],
                (long long)dim[0]);
    qw_latent to = { .h = dim[0] / 8, .w = dim[1] / 8 };
    if (!err->status && !(to.x = calloc((size_t)(c->z * to.h * to.w), sizeof *to.x)))
        qw_fail(err, QWEN_ENOMEM, "no memory for a latent");
    if (!err->status && !qw_encode_picture(q, x, &to))
        give_numbers(q, QW_VAE, to.x, 3, (int64_t[]){ c->z, to.h, to.w }, latent);
    free(x);
    free(to.x);
    return err->status;
}
