/* tiles.c - the VAE in overlapping tiles, as diffusers' enable_tiling() does it.
 *
 * Tiles of 256 pixels begin every 192; each is coded alone, blended linearly with the one above and
 * then the one to the left over 64 pixels, and gives its first 192.  The result differs from that
 * of the whole picture (attention is local); it reproduces pictures that were drawn in tiles. */
#include "pipeline/stage.h"
#include <stdlib.h>
#include <string.h>

enum { TILE = 256, STRIDE = 192, SCALE = 8 };

typedef struct tile {
    double *data;
    int64_t h, w, c;
} tile; /* [h][w][c] */

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The first rows of b become a mixture with the last rows of a. */
static void blend_rows(const tile *a, tile *b, int64_t extent)
{
    const int64_t e = least(extent, least(a->h, b->h));
    for (int64_t y = 0; y < e; y++)
        for (int64_t i = 0; i < b->w * b->c; i++) {
            const double t = (double)y / (double)e,
                         above = a->data[(a->h - e + y) * a->w * a->c + i];
            double *p = &b->data[y * b->w * b->c + i];
            *p = above * (1 - t) + *p * t;
        }
}

static void blend_columns(const tile *a, tile *b, int64_t extent)
{
    const int64_t e = least(extent, least(a->w, b->w));
    for (int64_t y = 0; y < least(a->h, b->h); y++)
        for (int64_t x = 0; x < e; x++)
            for (int64_t k = 0; k < b->c; k++) {
                const double t = (double)x / (double)e;
                const double left = a->data[(y * a->w + a->w - e + x) * a->c + k];
                double *p = &b->data[(y * b->w + x) * b->c + k];
                *p = left * (1 - t) + *p * t;
            }
}

/* Decodes or encodes tile (y, x), in units of the input. */
typedef struct coder {
    qw_stage *stage;
    const qw_decode_work *decode;
    const qw_encode_work *encode;
    int64_t channels;
    int failed;
} coder;

static tile decode_tile(coder *k, int64_t y, int64_t x)
{
    const qw_decode_work *w = k->decode;
    const int64_t z = qw_vae_config_of(w->net)->z, h = least(TILE / SCALE, w->h - y),
                  n = least(TILE / SCALE, w->w - x);
    tile t = { .h = h * SCALE, .w = n * SCALE, .c = k->channels };
    double *latent = malloc((size_t)(z * h * n) * sizeof *latent);
    t.data = calloc((size_t)(t.h * t.w * t.c), sizeof *t.data);
    if (latent && t.data) {
        for (int64_t c = 0; c < z; c++)
            for (int64_t i = 0; i < h; i++)
                memcpy(latent + (c * h + i) * n, w->latent + (c * w->h + y + i) * w->w + x,
                       (size_t)n * sizeof *latent);
        qw_decode_work work = { w->net, latent, h, n, t.data, 0 };
        qw_stage_reserve(k->stage, qw_decode_body, &work);
        k->failed = qw_stage_run(k->stage, qw_decode_body, &work, t.data, t.h * t.w * t.c);
    } else {
        k->failed = QWEN_ENOMEM;
    }
    free(latent);
    return t;
}

/* Moments side by side: [h][w][2 z]. */
static tile encode_tile(coder *k, int64_t y, int64_t x)
{
    const qw_encode_work *w = k->encode;
    const int64_t z = qw_vae_config_of(w->net)->z, C = qw_vae_config_of(w->net)->channels,
                  H = least(TILE, w->h - y), W = least(TILE, w->w - x);
    tile t = { .h = H / SCALE, .w = W / SCALE, .c = 2 * z };
    const int64_t n = t.h * t.w;
    double *picture = malloc((size_t)(H * W * C) * sizeof *picture),
           *moments = calloc((size_t)(2 * z * n), sizeof *moments);
    t.data = calloc((size_t)(n * t.c), sizeof *t.data);
    if (picture && moments && t.data) {
        for (int64_t i = 0; i < H; i++)
            memcpy(picture + i * W * C, w->picture + ((y + i) * w->w + x) * C,
                   (size_t)(W * C) * sizeof *picture);
        qw_encode_work work = { w->net, picture, H, W, moments, moments + z * n, 0 };
        qw_stage_reserve(k->stage, qw_encode_body, &work);
        k->failed = qw_stage_run(k->stage, qw_encode_body, &work, moments, 2 * z * n);
        for (int64_t i = 0; i < n; i++)
            for (int64_t c = 0; c < 2 * z; c++) t.data[i * 2 * z + c] = moments[c * n + i];
    } else {
        k->failed = QWEN_ENOMEM;
    }
    free(picture);
    free(moments);
    return t;
}

/* out [h][w][c] from tiles that begin every `stride` of the input h x w; `keep` of a tile's output
 * is used. */
static void code(coder *k, tile (*one)(coder *, int64_t, int64_t), int64_t h, int64_t w,
                 int64_t stride, int64_t keep, int64_t extent, tile out)
{
    const int64_t columns = (w + stride - 1) / stride;
    tile *above = calloc((size_t)columns, sizeof *above);
    if (!above) {
        k->failed = QWEN_ENOMEM;
        return;
    }
    for (int64_t i = 0; i * stride < h && !k->failed; i++)
        for (int64_t j = 0; j < columns && !k->failed; j++) {
            tile t = one(k, i * stride, j * stride);
            if (i && t.data && !k->failed) blend_rows(&above[j], &t, extent);
            if (j && t.data && !k->failed)
                blend_columns(&above[j - 1], &t, extent); /* of this row already */
            for (int64_t y = 0; t.data && y < least(keep, t.h); y++)
                memcpy(out.data + ((i * keep + y) * out.w + j * keep) * out.c,
                       t.data + y * t.w * t.c, (size_t)(least(keep, t.w) * t.c) * sizeof *t.data);
            free(above[j].data);
            above[j] = t;
        }
    for (int64_t j = 0; j < columns; j++) free(above[j].data);
    free(above);
}

int qw_decode_tiled(qw_stage *s, const qw_decode_work *w)
{
    const int64_t C = qw_vae_config_of(w->net)->channels;
    if (qw_vae_enlarges(w->net) != 1) {
        qw_run_fail(&s->run, QWEN_EUNSUPPORTED, "tiling \"reference\" with a VAE that enlarges");
        return s->run.error.status;
    }
    coder k = { .stage = s, .decode = w, .channels = C };
    code(&k, decode_tile, w->h, w->w, STRIDE / SCALE, STRIDE, TILE - STRIDE,
         (tile){ w->picture, w->h * SCALE, w->w * SCALE, C });
    if (k.failed) qw_run_fail(&s->run, k.failed, "no memory for tiles");
    return s->run.error.status;
}

int qw_encode_tiled(qw_stage *s, const qw_encode_work *w)
{
    const int64_t z = qw_vae_config_of(w->net)->z, h = w->h / SCALE, n = w->w / SCALE;
    coder k = { .stage = s, .encode = w };
    tile out = { calloc((size_t)(h * n * 2 * z), sizeof(double)), h, n, 2 * z };
    if (!out.data) {
        qw_run_fail(&s->run, QWEN_ENOMEM, "no memory for tiles");
        return s->run.error.status;
    }
    code(&k, encode_tile, w->h, w->w, STRIDE, STRIDE / SCALE, (TILE - STRIDE) / SCALE, out);
    for (int64_t i = 0; i < h * n; i++)
        for (int64_t c = 0; c < z; c++) {
            w->mean[c * h * n + i] = out.data[i * 2 * z + c];
            w->logvar[c * h * n + i] = out.data[i * 2 * z + z + c];
        }
    free(out.data);
    if (k.failed) qw_run_fail(&s->run, k.failed, "no memory for tiles");
    return s->run.error.status;
}

int qw_tiles_needed(const qw_job *j, int64_t w, int64_t h)
{
    return j->req->tiling && !strcmp(j->req->tiling, "reference") && (w > TILE || h > TILE);
}
