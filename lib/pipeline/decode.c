/* decode.c - the last stage: latents to pictures of 8 bits. */
#include "pipeline/stage.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct decoding {
    double *latent;  /* [n][z][h][w], raw */
    double *picture; /* [n][H][W][C], clamped */
    double *chw;     /* [n][C][H][W] */
    int64_t n, H, W, C;
} decoding;

static int show_decoded(qw_job *j, decoding *d)
{
    const int64_t in[4] = { d->n, j->z, j->h, j->w }, out[4] = { d->n, d->C, d->H, d->W };
    const int64_t image[4] = { d->n, d->H, d->W, d->C }, n = d->n * d->H * d->W * d->C;
    const int rank = j->layers ? 4 : 3, skip = j->layers ? 0 : 1;
    if (!j->req->tap) return QWEN_OK;
    if (!(d->chw = qw_doubles(j->q, n, "a picture"))) return j->q->error.status;
    for (int64_t k = 0; k < d->n; k++)
        for (int64_t c = 0; c < d->C; c++)
            for (int64_t i = 0; i < d->H * d->W; i++)
                d->chw[(k * d->C + c) * d->H * d->W + i] =
                    d->picture[(k * d->H * d->W + i) * d->C + c];
    qw_show(j, QW_PHASE_DECODE, d->latent, rank, in + skip, "vae.dec.in");
    qw_show(j, QW_PHASE_DECODE, d->chw, rank, out + skip, "vae.dec.out");
    for (int64_t i = 0; i < n; i++) d->chw[i] = d->picture[i] * 0.5 + 0.5;
    return qw_show(j, QW_PHASE_DECODE, d->chw, rank, image + skip, "image");
}

/* Gives the caller the pictures: round(255 (x / 2 + 1/2)), halves to even. */
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
        out->image[k] =
            (qwen_array){ .data = p, .dtype = QWEN_U8, .rank = 3, .dim = { d->H, d->W, d->C } };
        if (!p) {
            free(all);
            return qw_fail(&q->error, QWEN_ENOMEM, "no memory for the picture");
        }
        for (int64_t i = 0; i < n; i++)
            p[i] = (uint8_t)nearbyint((d->picture[k * n + i] * 0.5 + 0.5) * 255);
        if (all) memcpy(all + k * n, p, (size_t)n);
    }
    if (all) {
        qwen_array a = { .data = all, .dtype = QWEN_U8, .rank = 3, .dim = { d->H, d->W, d->C } };
        if (j->layers)
            a = (qwen_array){
                .data = all, .dtype = QWEN_U8, .rank = 4, .dim = { d->n, d->H, d->W, d->C }
            };
        j->req->tap(j->req->user, "image.u8", &a);
    }
    free(all);
    return QWEN_OK;
}

/* Decodes a latent [z][h][w] to a picture in -1..1; makes the latent raw in place. */
static void decode_one(qw_stage *s, double *latent, int64_t h, int64_t w, double *picture)
{
    const qw_job *j = s->job;
    const qw_vae *net = j->nets->vae;
    const qw_vae_config *c = qw_vae_config_of(net);
    const int64_t up = 8 * qw_vae_enlarges(net), n = h * w * up * up * c->channels;
    qw_decode_work work = { net, latent, h, w, picture, 0 };
    qw_latent_raw(c, latent, h * w, latent);
    if (qw_tiles_needed(j, 8 * w, 8 * h)) qw_decode_tiled(s, &work);
    else qw_stage_decode(s, &work);
    for (int64_t i = 0; i < n; i++) picture[i] = fmax(-1, fmin(1, picture[i]));
}

int qw_decode_latent(qwen *q, const qw_latent *latent, double *picture)
{
    const int64_t n = q->config.vae.z * latent->h * latent->w;
    double *raw = qw_doubles(q, n, "latents");
    qw_job j;
    qw_stage s;
    if (!raw) return q->error.status;
    qw_job_start(&j, q, NULL);
    memcpy(raw, latent->x, (size_t)n * sizeof *raw);
    qw_stage_begin(&s, &j, QW_PHASE_DECODE, 1, 0);
    decode_one(&s, raw, latent->h, latent->w, picture);
    qw_stage_end(&s);
    qw_job_free(&j);
    free(raw);
    return q->error.status;
}

static int decode_frames(qw_job *j, decoding *d)
{
    const int64_t frame = j->z * j->h * j->w, size = d->H * d->W * d->C, first = j->frames - d->n;
    qw_stage s;
    qw_stage_begin(&s, j, QW_PHASE_DECODE, (int)d->n, 0);
    s.run.tap = NULL;
    for (int64_t k = 0; k < d->n; k++) {
        qw_unpack(j->x + (first + k) * frame, j->z, j->h, j->w, d->latent + k * frame);
        s.run.step = (int)k;
        decode_one(&s, d->latent + k * frame, j->h, j->w, d->picture + k * size);
    }
    return qw_stage_end(&s);
}

int qw_job_decode(qw_job *j, qwen_result *out)
{
    qwen *q = j->q;
    const int64_t up = 8 * qw_vae_enlarges(j->nets->vae);
    decoding d = {
        .n = j->layers ? j->layers : 1, .H = j->h * up, .W = j->w * up, .C = q->config.vae.channels
    };
    d.latent = qw_doubles(q, d.n * j->z * j->h * j->w, "latents");
    d.picture = qw_doubles(q, d.n * d.H * d.W * d.C, "a picture");
    if (d.latent && d.picture && !decode_frames(j, &d) && !j->tally && !show_decoded(j, &d))
        give_pictures(j, &d, out);
    free(d.latent);
    free(d.picture);
    free(d.chw);
    return q->error.status;
}
