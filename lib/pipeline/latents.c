/* latents.c - the inputs of denoising: encoded pictures, a mask, a control picture, noise. */
#include "pipeline/stage.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

void qw_latent_normalise(const qw_vae_config *c, const double *raw, int64_t n, double *out)
{
    for (int64_t k = 0; k < c->z; k++)
        for (int64_t i = 0; i < n; i++) out[k * n + i] = (raw[k * n + i] - c->mean[k]) / c->std[k];
}

void qw_latent_raw(const qw_vae_config *c, const double *normalised, int64_t n, double *out)
{
    for (int64_t k = 0; k < c->z; k++)
        for (int64_t i = 0; i < n; i++)
            out[k * n + i] = normalised[k * n + i] * c->std[k] + c->mean[k];
}

qw_dtype qw_noise_type(const qw_job *j)
{
    return j->req->noise_dtype && !strcmp(j->req->noise_dtype, "bf16") ? QW_BF16 : QW_F32;
}

/* name: "vae.enc.0.mean" */
static int show_encoded(qw_job *j, int k, const char *part, const double *x, const int64_t dim[3])
{
    char name[64];
    snprintf(name, sizeof name, "vae.enc.%d.%s", k, part);
    return qw_show(j, QW_PHASE_ENCODE, x, 3, dim, name);
}

/* Sets the latent: the normalised mean, or a sample of the posterior, mean + exp(logvar / 2)
 * eps. */
static int use_posterior(qw_job *j, int k)
{
    qwen *q = j->q;
    qw_reference *f = &j->reference[k];
    const int64_t h = f->image.h / 8, w = f->image.w / 8, n = h * w, z = q->config.vae.z;
    const int64_t dim[3] = { z, h, w };
    double *sample = qw_doubles(q, z * n, "a latent");
    f->latent = qw_doubles(q, z * n, "a latent");
    if (!sample || !f->latent) {
        free(sample);
        return q->error.status;
    }
    memcpy(sample, f->mean, (size_t)(z * n) * sizeof *sample);
    if (f->sampled) {
        qw_rng_normal(&j->rng, qw_noise_type(j), z * n, sample, &q->error);
        show_encoded(j, k, "eps", sample, dim);
        for (int64_t i = 0; i < z * n; i++)
            sample[i] = f->mean[i] + exp(0.5 * f->logvar[i]) * sample[i];
    }
    qw_latent_normalise(&q->config.vae, sample, n, f->latent);
    free(sample);
    show_encoded(j, k, "norm", f->latent, dim);
    return q->error.status;
}

static int encode_one(qw_job *j, qw_stage *s, int k)
{
    qwen *q = j->q;
    qw_reference *f = &j->reference[k];
    const int64_t c = f->image.channels, H = f->image.h, W = f->image.w, n = H / 8 * (W / 8),
                  z = q->config.vae.z;
    const int shown = j->req->tap && !j->tally;
    double *picture = qw_doubles(q, H * W * c, "a picture"),
           *chw = qw_doubles(q, shown ? H * W * c : 0, "a picture");
    f->mean = qw_doubles(q, z * n, "a latent");
    f->logvar = qw_doubles(q, z * n, "a latent");
    if (picture && chw && f->mean && f->logvar) {
        for (int64_t i = 0; i < H * W; i++)
            for (int64_t m = 0; m < c; m++)
                picture[i * c + m] = f->masked && j->mask[i]  ? 0
                                     : f->holes && j->mask[i] ? -1
                                     : f->image.data          ? f->image.data[i * c + m] / 127.5 - 1
                                                              : f->image.value[i * c + m] * 2 - 1;
        for (int64_t i = 0; shown && i < H * W; i++)
            for (int64_t m = 0; m < c; m++) chw[m * H * W + i] = picture[i * c + m];
        qw_encode_work w = { j->nets->vae, picture, H, W, f->mean, f->logvar, 0 };
        s->run.step = k;
        if (qw_tiles_needed(j, W, H)) qw_encode_tiled(s, &w);
        else qw_stage_encode(s, &w);
        const int64_t dim[3] = { z, H / 8, W / 8 };
        show_encoded(j, k, "in", chw, (int64_t[]){ c, H, W });
        show_encoded(j, k, "mean", f->mean, dim);
        show_encoded(j, k, "logvar", f->logvar, dim);
        if (shown) {
            qw_latent_normalise(&q->config.vae, f->mean, n,
                                chw); /* z n <= c H W: 8 x 8 pixels a column */
            show_encoded(j, k, "mean_norm", chw, dim);
        }
    }
    free(picture);
    free(chw);
    return q->error.status ? q->error.status : s->run.error.status;
}

/* Adds the input picture with 0 where the mask repaints.  The published pipelines encode it and do
 * not use it; it is encoded here for the taps alone. */
static int add_masked(qw_job *j)
{
    const qw_image *from = &j->reference[0].image;
    qw_reference *f = &j->reference[j->references];
    const size_t bytes = (size_t)(from->w * from->h * from->channels);
    f->image = *from;
    f->sampled = f->masked = 1;
    f->image.data = malloc(bytes);
    if (!f->image.data) return qw_fail(&j->q->error, QWEN_ENOMEM, "no memory for a picture");
    j->references++;
    memcpy(f->image.data, from->data, bytes);
    return QWEN_OK;
}

static int pack_mask(qw_job *j)
{
    double *latent = qw_doubles(j->q, j->z * j->h * j->w, "a mask");
    j->mask_tokens = qw_doubles(j->q, j->z * j->h * j->w, "a mask");
    if (latent && j->mask_tokens) {
        for (int64_t k = 0; k < j->z; k++)
            for (int64_t y = 0; y < j->h; y++)
                for (int64_t x = 0; x < j->w; x++)
                    latent[(k * j->h + y) * j->w + x] = j->mask[8 * y * j->width + 8 * x];
        qw_pack(latent, j->z, j->h, j->w, j->mask_tokens);
        qw_show(j, QW_PHASE_DENOISE, j->mask_tokens, 2, (int64_t[]){ j->tokens, 4 * j->z }, "mask");
    }
    free(latent);
    return j->q->error.status;
}

/* Packs the condition that the ControlNet reads: the control latent; for inpainting then 1 where
 * the mask keeps and, in a Fun one, the latent of the picture without its repainted part; zeros in
 * the other channels. */
static int make_condition(qw_job *j)
{
    qwen *q = j->q;
    const int64_t features = q->files.control_features, n = j->h * j->w;
    double *latent = qw_doubles(q, n * features / 4, "a control latent");
    j->condition = qw_doubles(q, j->tokens * features, "a control latent");
    if (latent && j->condition) {
        memcpy(latent, j->reference[j->control].latent, (size_t)(j->z * n) * sizeof *latent);
        for (int64_t i = 0; (j->reference[j->control].holes || j->inpaint >= 0) && i < n; i++)
            latent[j->z * n + i] = !j->mask[8 * (i / j->w) * j->width + 8 * (i % j->w)];
        if (j->inpaint >= 0)
            memcpy(latent + (j->z + 1) * n, j->reference[j->inpaint].latent,
                   (size_t)(j->z * n) * sizeof *latent);
        qw_pack(latent, features / 4, j->h, j->w, j->condition);
        qw_show(j, QW_PHASE_DENOISE, j->condition, 2, (int64_t[]){ j->tokens, features },
                "control");
    }
    free(latent);
    return q->error.status;
}

static int inpaints(const qw_job *j) { return j->task == QW_INPAINT || j->task == QW_EDIT_INPAINT; }

int qw_job_encode(qw_job *j)
{
    qwen *q = j->q;
    if (!j->references) return QWEN_OK;
    const int own = j->references;
    if (inpaints(j) && j->req->tap && add_masked(j)) return q->error.status;
    qw_stage s;
    qw_stage_begin(&s, j, QW_PHASE_ENCODE, j->references, 0);
    s.run.tap = NULL;
    for (int k = 0; k < j->references && !s.run.error.status && !q->error.status; k++)
        encode_one(j, &s, k);
    if (qw_stage_end(&s)) return q->error.status;
    for (int k = 0; k < own; k++)
        if (use_posterior(j, k)) return q->error.status;
    if ((inpaints(j) && pack_mask(j)) || (j->control >= 0 && make_condition(j)))
        return q->error.status;
    if (j->task == QW_REDRAW || inpaints(j)) {
        if (!(j->kept = qw_doubles(q, j->tokens * 4 * j->z, "a latent"))) return q->error.status;
        qw_pack(j->reference[0].latent, j->z, j->h, j->w, j->kept);
    }
    return QWEN_OK;
}

int qw_encode_picture(qwen *q, const double *picture, qw_latent *latent)
{
    const qw_vae_config *c = &q->config.vae;
    const int64_t n = latent->h * latent->w;
    double *logvar = qw_doubles(q, c->z * n, "a latent");
    qw_job j;
    qw_stage s;
    if (!logvar) return q->error.status;
    qw_job_start(&j, q, NULL);
    qw_encode_work w = { j.nets->vae, picture, 8 * latent->h, 8 * latent->w, latent->x, logvar, 0 };
    qw_stage_begin(&s, &j, QW_PHASE_ENCODE, 1, 0);
    qw_stage_encode(&s, &w);
    if (!qw_stage_end(&s)) qw_latent_normalise(c, latent->x, n, latent->x);
    qw_job_free(&j);
    free(logvar);
    return q->error.status;
}

/* --- noise ------------------------------------------------------------------------------------ */

static int given_noise(qw_job *j, const qwen_array *a)
{
    qwen *q = j->q;
    int64_t dim[4] = { j->frames, j->z, j->h, j->w }, n = j->frames * j->z * j->h * j->w;
    const int64_t *want = j->frames > 1 ? dim : dim + 1;
    const int rank = j->frames > 1 ? 4 : 3;
    int good = a->data && a->rank == rank && (a->dtype == QWEN_F32 || a->dtype == QWEN_F64);
    for (int i = 0; good && i < rank; i++) good = a->dim[i] == want[i];
    if (!good) {
        char expected[100] = "", found[160] = "";
        for (int i = 0; i < rank; i++)
            snprintf(expected + strlen(expected), sizeof expected - strlen(expected), "[%lld]",
                     (long long)want[i]);
        for (int i = 0; i < a->rank && i < 8; i++)
            snprintf(found + strlen(found), sizeof found - strlen(found), "[%lld]",
                     (long long)a->dim[i]);
        return qw_fail(&q->error, QWEN_EARG,
                       "the noise (latents): expected numbers of %s, found %s%s", expected, found,
                       a->dtype == QWEN_F32 || a->dtype == QWEN_F64 ? "" : " of integers");
    }
    for (int64_t i = 0; i < n; i++)
        j->noise[i] = a->dtype == QWEN_F64 ? ((const double *)a->data)[i]
                                           : (double)((const float *)a->data)[i];
    return qw_finite(j->noise, n) ? QWEN_OK
                                  : qw_fail(&q->error, QWEN_EARG, "noise: a number is not finite");
}

/* ComfyUI draws the noise of Layered as [channel][frame], diffusers as [frame][channel]. */
static int reorder_frames(qw_job *j)
{
    const int64_t n = j->h * j->w, all = j->frames * j->z * n;
    double *copy = qw_doubles(j->q, all, "noise");
    if (!copy) return j->q->error.status;
    memcpy(copy, j->noise, (size_t)all * sizeof *copy);
    for (int64_t f = 0; f < j->frames; f++)
        for (int64_t k = 0; k < j->z; k++)
            memcpy(j->noise + (f * j->z + k) * n, copy + (k * j->frames + f) * n,
                   (size_t)n * sizeof *copy);
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
    j->noise = qw_doubles(q, n, "noise");
    j->start = qw_doubles(q, n, "noise");
    j->x = qw_doubles(q, n, "latents");
    if (!j->noise || !j->start || !j->x || j->tally) return q->error.status;
    if (qw_rng_normal(&j->rng, qw_noise_type(j), n, j->noise, &q->error)
        || (q->comfy && j->frames > 1 && reorder_frames(j))
        || (j->req->noise && given_noise(j, j->req->noise)))
        return q->error.status;
    const int64_t dim[4] = { j->frames, j->z, j->h, j->w };
    qw_show(j, QW_PHASE_DENOISE, j->noise, j->frames > 1 ? 4 : 3, j->frames > 1 ? dim : dim + 1,
            "noise");
    for (int64_t f = 0; f < j->frames; f++)
        qw_pack(j->noise + f * frame, j->z, j->h, j->w, j->start + f * frame);
    for (int k = 0; k < j->references; k++) /* add_masked's picture: eps is drawn after the noise */
        if (!j->reference[k].latent && use_posterior(j, k)) return q->error.status;
    const double sigma = j->sched.sigma[j->first_step];
    for (int64_t i = 0; i < n; i++)
        j->x[i] = j->kept ? sigma * j->start[i] + (1 - sigma) * j->kept[i] : j->start[i];
    return q->error.status;
}
