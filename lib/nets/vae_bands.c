/* vae_bands.c - a picture through the VAE: whole, or in row bands where its maps are too large.
 *
 * All layers but the attention are local: a norm reads one pixel, a 3x3 kernel one row above and
 * one below.  So maps finer than the latent can be computed in bands of rows, each with the rows
 * around it on which its own depend; a band at the picture's border is padded with zeros as the
 * whole picture is.  Maps at the latent's resolution, with the attention, are computed once. */
#include "nets/vae.h"

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* The number of latent rows on each side of a band on which its rows depend in the fine part. */
static int64_t reach(const qw_vae_half *h, int encoder)
{
    int64_t rows = encoder ? 0 : 1; /* decoder: conv_out */
    for (int i = h->levels - 1; i >= 1; i--)
        /* A reduction reads a row below; an enlargement reads a row of the larger map. */
        rows = encoder ? 2 * rows + 1 + 2 * h->blocks : (rows + 2 * h->blocks + 2) / 2;
    const int64_t scale = (int64_t)1 << (h->levels - 1);
    return encoder ? (rows + 1 + scale - 1) / scale : rows; /* encoder: conv_in */
}

/* Elements of the largest map at the latent's resolution, and of the largest finer one for `rows`
 * rows of the latent. */
static int64_t largest_coarse(const qw_vae_config *c, int64_t h, int64_t w)
{
    const int64_t top = c->base * c->mult[c->levels - 1],
                  next = c->levels > 1 ? c->base * c->mult[c->levels - 2] : 0;
    return h * w * larger(3 * top, larger(2 * c->z, next));
}

static int64_t largest_fine(const qw_vae *v, int64_t rows, int64_t w)
{
    const qw_vae_config *c = &v->c;
    const int levels = (int)c->levels;
    int64_t most = rows * w * c->base * c->mult[levels - 1], scale = 1;
    for (int i = levels - 1; i >= 0; i--, scale *= 4) { /* from the coarsest */
        most = larger(most, rows * w * scale * c->base * c->mult[i]);
        if (i + 1 < levels) most = larger(most, rows * w * scale * c->base * c->mult[i + 1] / 2);
    }
    return larger(most,
                  rows * w * scale / 4 * larger(c->base, c->channels * v->shuffle * v->shuffle));
}

/* Channels of the map between the coarse and the fine part. */
static int64_t border_channels(const qw_vae_config *c, int encoder)
{
    return c->base * c->mult[encoder && c->levels > 1 ? c->levels - 2 : c->levels - 1];
}

/* A band: latent rows [at, at + rows) of h, computed from [from, to). */
typedef struct band {
    int64_t at, rows, from, to;
} band;

static band band_at(int64_t at, int64_t rows, int64_t h, int64_t around)
{
    return (band){ .at = at,
                   .rows = at + rows < h ? rows : h - at,
                   .from = at > around ? at - around : 0,
                   .to = at + rows + around < h ? at + rows + around : h };
}

int64_t qw_vae_scratch(const qw_vae *v, int encoder, int64_t h, int64_t w, int64_t rows)
{
    const int64_t coarse = largest_coarse(&v->c, h, w);
    if (!rows || rows >= h) return 3 * larger(coarse, largest_fine(v, h, w));
    const int64_t around = reach(encoder ? v->enc : v->dec, encoder);
    int64_t seen = 0;
    for (int64_t at = 0; at < h; at += rows) {
        const band b = band_at(at, rows, h, around);
        seen = larger(seen, b.to - b.from);
    }
    return h * w * border_channels(&v->c, encoder) + 3 * larger(coarse, largest_fine(v, seen, w));
}

/* Rows of a map [h][w][c] as a map. */
static qw_tensor rows_of(qw_tensor x, int64_t at, int64_t rows)
{
    const size_t row = qw_row_bytes(x.dtype, x.dim[1] * x.dim[2]);
    return qw_dense3((char *)x.data + (size_t)at * row, x.dtype, rows, x.dim[1], x.dim[2]);
}

static void copy_map(qw_run *r, qw_tensor y, qw_tensor x)
{
    qw_convert(r, (qw_convert_args){ .y = qw_flat(y), .x = qw_flat(x) });
}

static void decode_bands(qw_run *r, const qw_vae *v, const double *latent, int64_t h, int64_t w,
                         int64_t rows, double *picture)
{
    const int64_t around = reach(v->dec, 0), scale = (int64_t)1 << (v->dec->levels - 1);
    const int64_t out_row = w * scale * v->shuffle * v->shuffle * v->c.channels;
    const size_t mark = r->used;
    qw_tensor coarse = qw_new3(r, r->dev->prefer, h, w, border_channels(&v->c, 0));
    const size_t own = r->used;
    qw_vae_maps m;
    qw_vae_open_maps(&m, r, largest_coarse(&v->c, h, w), "dec");
    qw_vae_decode_coarse(&m, v, latent, h, w);
    copy_map(r, coarse, m.x);
    for (int64_t at = 0; at < h && !r->error.status; at += rows) {
        const band b = band_at(at, rows, h, around);
        r->used = own;
        r->block = (int)(at / rows);
        qw_vae_open_maps(&m, r, largest_fine(v, b.to - b.from, w), "dec");
        m.x = qw_vae_map(&m, 0, b.to - b.from, w, coarse.dim[2]);
        copy_map(r, m.x, rows_of(coarse, b.from, b.to - b.from));
        qw_vae_decode_fine(&m, v->dec);
        qw_vae_get_picture(r, v, rows_of(m.x, (at - b.from) * scale, b.rows * scale),
                           picture ? picture + at * scale * out_row : NULL);
    }
    r->block = -1;
    r->used = mark;
}

void qw_vae_decode(qw_run *r, const qw_vae *v, const double *latent, int64_t h, int64_t w,
                   int64_t rows, double *picture)
{
    const size_t mark = r->used;
    qw_vae_maps m;
    if (r->error.status) return;
    qw_group_begin(r, v->group);
    if (rows && rows < h) {
        decode_bands(r, v, latent, h, w, rows, picture);
    } else {
        qw_vae_open_maps(&m, r, larger(largest_coarse(&v->c, h, w), largest_fine(v, h, w)), "dec");
        qw_vae_decode_coarse(&m, v, latent, h, w);
        qw_vae_decode_fine(&m, v->dec);
        qw_vae_get_picture(r, v, m.x, picture);
    }
    qw_group_end(r, v->group);
    r->used = mark;
}

static void encode_bands(qw_run *r, const qw_vae *v, const double *picture, int64_t height,
                         int64_t width, int64_t rows, double *mean, double *logvar)
{
    const int64_t around = reach(v->enc, 1), scale = (int64_t)1 << (v->enc->levels - 1);
    const int64_t h = height / scale, w = width / scale, row = width * v->c.channels;
    const size_t mark = r->used;
    qw_tensor coarse = qw_new3(r, r->dev->prefer, h, w, border_channels(&v->c, 1));
    const size_t own = r->used;
    qw_vae_maps m;
    int k = 0;
    for (int64_t at = 0; at < h && !r->error.status; at += rows) {
        const band b = band_at(at, rows, h, around);
        r->used = own;
        r->block = (int)(at / rows);
        qw_vae_open_maps(&m, r, largest_fine(v, b.to - b.from, w), "enc");
        m.x = qw_vae_map(&m, 0, (b.to - b.from) * scale, width, v->c.channels);
        qw_put(r, m.x, picture ? picture + b.from * scale * row : NULL);
        k = 0;
        qw_vae_encode_fine(&m, v->enc, &k);
        copy_map(r, rows_of(coarse, at, b.rows), rows_of(m.x, at - b.from, b.rows));
    }
    r->block = -1;
    r->used = own;
    qw_vae_open_maps(&m, r, largest_coarse(&v->c, h, w), "enc");
    m.x = qw_vae_map(&m, 0, h, w, coarse.dim[2]);
    copy_map(r, m.x, coarse);
    qw_vae_encode_coarse(&m, v, &k);
    qw_vae_get_moments(&m, v->c.z, mean, logvar);
    r->used = mark;
}

void qw_vae_encode(qw_run *r, const qw_vae *v, const double *picture, int64_t height, int64_t width,
                   int64_t rows, double *mean, double *logvar)
{
    const size_t mark = r->used;
    const int64_t scale = (int64_t)1 << (v->enc->levels - 1);
    const int64_t h = (height + scale - 1) / scale, w = (width + scale - 1) / scale;
    qw_vae_maps m;
    int k = 0;
    if (r->error.status) return;
    qw_group_begin(r, v->group);
    if (rows && rows < h) {
        encode_bands(r, v, picture, height, width, rows, mean, logvar);
    } else {
        qw_vae_open_maps(&m, r, larger(largest_coarse(&v->c, h, w), largest_fine(v, h, w)), "enc");
        m.x = qw_vae_map(&m, 0, height, width, v->c.channels);
        qw_put(r, m.x, picture);
        qw_vae_encode_fine(&m, v->enc, &k);
        qw_vae_encode_coarse(&m, v, &k);
        qw_vae_get_moments(&m, v->c.z, mean, logvar);
    }
    qw_group_end(r, v->group);
    r->used = mark;
}
