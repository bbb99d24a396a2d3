/* vae.c - the Wan-style autoencoder on one frame: encoder and decoder, channels last.
 *
 * The formulas are those of AutoencoderKLQwenImage of diffusers, a causal network for films.  On
 * one frame only the last temporal tap of a 3x3x3 kernel is multiplied with data and the temporal
 * resamplers do nothing, so the result is exactly that of a network on pictures
 * (tests/nets/check_nets.c shows it).
 *
 * Each of three buffers has the size of the largest map: a block reads one, works in the others
 * and leaves its result in one of them.  vae_bands.c computes the finer maps in bands of rows
 * where the buffers do not fit. */
#include "nets/vae.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- weights ---------------------------------------------------------------------------------- */

static void load_resnet(qw_loader *l, qw_vae_resnet *b, int64_t in, int64_t out, const char *name)
{
    qw_load_vector(l, &b->norm1, in, "%s.norm1.gamma", name);
    qw_load_conv(l, &b->conv1, out, in, 3, "%s.conv1", name);
    qw_load_vector(l, &b->norm2, out, "%s.norm2.gamma", name);
    qw_load_conv(l, &b->conv2, out, out, 3, "%s.conv2", name);
    b->has_shortcut = in != out;
    if (b->has_shortcut) qw_load_conv(l, &b->shortcut, out, in, 1, "%s.conv_shortcut", name);
}

static void load_middle(qw_loader *l, qw_vae_half *h, int64_t c, const char *side)
{
    char name[96];
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s.mid_block.resnets.%d", side, i);
        load_resnet(l, &h->mid[i], c, c, name);
    }
    qw_load_vector(l, &h->att.norm, c, "%s.mid_block.attentions.0.norm.gamma", side);
    qw_load_pointwise(l, &h->att.qkv, 3 * c, c, "%s.mid_block.attentions.0.to_qkv", side);
    qw_load_pointwise(l, &h->att.proj, c, c, "%s.mid_block.attentions.0.proj", side);
}

/* Levels go down in one numbered list of blocks: R residual blocks, then a reduction except after
 * the last level. */
static void load_encoder(qw_loader *l, qw_vae_half *h, const qw_vae_config *c)
{
    const int levels = (int)c->levels;
    char name[96];
    int k = 0;
    h->levels = levels;
    h->blocks = (int)c->res_blocks;
    qw_load_conv(l, &h->in, c->base, c->channels, 3, "encoder.conv_in");
    int64_t in = c->base;
    for (int i = 0; i < levels; i++) {
        const int64_t out = c->base * c->mult[i];
        for (int j = 0; j < h->blocks; j++, in = out) {
            snprintf(name, sizeof name, "encoder.down_blocks.%d", k++);
            load_resnet(l, &h->block[i][j], in, out, name);
        }
        if (i + 1 < levels)
            qw_load_conv(l, &h->resample[i], out, out, 3, "encoder.down_blocks.%d.resample.1", k++);
    }
    load_middle(l, h, in, "encoder");
    qw_load_vector(l, &h->norm, in, "encoder.norm_out.gamma");
    qw_load_conv(l, &h->out, 2 * c->z, in, 3, "encoder.conv_out");
}

/* Levels go up, R + 1 residual blocks each; an enlargement halves the channels. */
static void load_decoder(qw_loader *l, qw_vae_half *h, const qw_vae_config *c, int64_t out_channels)
{
    const int levels = (int)c->levels;
    char name[96];
    h->levels = levels;
    h->blocks = (int)c->res_blocks + 1;
    int64_t in = c->base * c->mult[levels - 1];
    qw_load_conv(l, &h->in, in, c->z, 3, "decoder.conv_in");
    load_middle(l, h, in, "decoder");
    for (int i = 0; i < levels; i++) {
        const int64_t out = c->base * c->mult[levels - 1 - i];
        for (int j = 0; j < h->blocks; j++, in = out) {
            snprintf(name, sizeof name, "decoder.up_blocks.%d.resnets.%d", i, j);
            load_resnet(l, &h->block[i][j], in, out, name);
        }
        if (i + 1 == levels) continue;
        qw_load_conv(l, &h->resample[i], out / 2, out, 3,
                     "decoder.up_blocks.%d.upsamplers.0.resample.1", i);
        in = out / 2;
    }
    qw_load_vector(l, &h->norm, in, "decoder.norm_out.gamma");
    qw_load_conv(l, &h->out, out_channels, in, 3, "decoder.conv_out");
}

/* Channels of the decoder's last convolution: 3 or 4 colours, times r^2 before a pixel shuffle by
 * r = *shuffle. */
static int64_t decoder_channels(qw_loader *l, const qw_vae_config *c, int64_t *shuffle)
{
    const qw_entry *e = qw_store_find(l->store, "decoder.conv_out.weight");
    *shuffle = 1;
    if (!e || e->rank < 1 || e->dim[0] == c->channels) return c->channels;
    for (int64_t r = 2; r <= 4; r++)
        if (e->dim[0] == c->channels * r * r) {
            *shuffle = r;
            return e->dim[0];
        }
    return c->channels;
}

int qw_vae_load(qw_vae **out, const qw_vae_config *c, int parts, qw_loader *l)
{
    *out = NULL;
    qw_vae *v = calloc(1, sizeof *v);
    if (!v) return qw_fail(l->err, QWEN_ENOMEM, "no memory for the VAE");
    v->c = *c;
    v->parts = parts;
    v->group = l->group = qw_group_new(l->res, "vae");
    if (c->levels > QW_VAE_LEVELS || c->res_blocks + 1 > QW_VAE_RESNETS)
        qw_fail(l->err, QWEN_EUNSUPPORTED, "a VAE of %lld levels with %lld residual blocks",
                (long long)c->levels, (long long)c->res_blocks);
    const int64_t colours = decoder_channels(l, c, &v->shuffle);
    v->dec = parts & QW_VAE_DECODER ? calloc(1, sizeof *v->dec) : NULL;
    v->enc = parts & QW_VAE_ENCODER ? calloc(1, sizeof *v->enc) : NULL;
    if (!v->group || (parts & QW_VAE_DECODER && !v->dec) || (parts & QW_VAE_ENCODER && !v->enc))
        qw_fail(l->err, QWEN_ENOMEM, "no memory for the VAE");
    if (v->dec && !l->err->status) {
        qw_load_conv(l, &v->post_quant, c->z, c->z, 1, "post_quant_conv");
        load_decoder(l, v->dec, c, colours);
    }
    if (v->enc && !l->err->status) {
        load_encoder(l, v->enc, c);
        qw_load_conv(l, &v->quant, 2 * c->z, 2 * c->z, 1, "quant_conv");
    }
    if (l->err->status) {
        qw_vae_free(v);
        return l->err->status;
    }
    *out = v;
    return QWEN_OK;
}

void qw_vae_free(qw_vae *v)
{
    if (!v) return;
    free(v->enc);
    free(v->dec);
    free(v);
}

const qw_vae_config *qw_vae_config_of(const qw_vae *v) { return &v->c; }
int64_t qw_vae_enlarges(const qw_vae *v) { return v->shuffle; }

/* --- three buffers ---------------------------------------------------------------------------- */

qw_tensor qw_vae_map(const qw_vae_maps *m, int ahead, int64_t h, int64_t w, int64_t c)
{
    const qw_tensor *b = &m->buffer[(m->at + ahead) % 3];
    return qw_dense3(b->data, b->dtype, h, w, c);
}

static void move_to(qw_vae_maps *m, int ahead, qw_tensor x)
{
    m->at = (m->at + ahead) % 3;
    m->x = x;
}

void qw_vae_open_maps(qw_vae_maps *m, qw_run *r, int64_t largest, const char *side)
{
    *m = (qw_vae_maps){ .r = r, .side = side };
    for (int i = 0; i < 3; i++) m->buffer[i] = qw_new1(r, r->dev->prefer, largest);
}

static void tap(const qw_vae_maps *m, const char *what)
{
    if (m->r->detail) qw_tap_chw(m->r, m->x, "%s.%s", m->side, what);
}

/* x / max(|x|, 1e-12) sqrt(C) gamma over the channels of each pixel, as the root mean square norm
 * with an epsilon of 1e-24 / C: the same to 10^-8 where |x| > 1e-8, and 0 for pixels of zeros. */
static void norm(qw_run *r, qw_tensor y, qw_tensor x, qw_tensor gamma, qw_act act)
{
    qw_rms_norm(r, (qw_rms_norm_args){ .y = qw_flat(y),
                                       .x = qw_flat(x),
                                       .w = gamma,
                                       .act = act,
                                       .eps = 1e-24 / (double)x.dim[2] });
}

static void conv(qw_run *r, qw_tensor y, qw_tensor x, const qw_conv *w, qw_tensor res)
{
    const int pad = (int)w->kernel / 2;
    qw_conv2d(r, (qw_conv2d_args){ .y = y,
                                   .x = x,
                                   .w = w->w,
                                   .bias = w->bias,
                                   .res = res,
                                   .stride = 1,
                                   .top = pad,
                                   .left = pad,
                                   .up = 1 });
}

/* Convolves x into the next buffer. */
static void step_conv(qw_vae_maps *m, const qw_conv *w, const char *what)
{
    qw_tensor y = qw_vae_map(m, 1, m->x.dim[0], m->x.dim[1], w->co);
    conv(m->r, y, m->x, w, (qw_tensor){ 0 });
    move_to(m, 1, y);
    tap(m, what);
}

/* y = shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x)))))) */
static void run_resnet(qw_vae_maps *m, const qw_vae_resnet *b)
{
    const int64_t h = m->x.dim[0], w = m->x.dim[1], in = m->x.dim[2], out = b->conv1.co;
    qw_tensor n = qw_vae_map(m, 1, h, w, in), u = qw_vae_map(m, 2, h, w, out);
    norm(m->r, n, m->x, b->norm1, QW_SILU);
    conv(m->r, u, n, &b->conv1, (qw_tensor){ 0 });
    norm(m->r, u, u, b->norm2, QW_SILU);
    if (!b->has_shortcut) {
        conv(m->r, m->x, u, &b->conv2, m->x);
        return;
    }
    qw_tensor y = qw_vae_map(m, 1, h, w, out);
    conv(m->r, y, m->x, &b->shortcut, (qw_tensor){ 0 });
    conv(m->r, y, u, &b->conv2, y);
    move_to(m, 1, y);
}

/* One head over all pixels: x += proj(softmax(q kT / sqrt(c)) v). */
static void run_attention(qw_vae_maps *m, const qw_vae_attention *a)
{
    const int64_t h = m->x.dim[0], w = m->x.dim[1], c = m->x.dim[2];
    qw_tensor n = qw_vae_map(m, 1, h, w, c), flat = qw_flat(n);
    qw_tensor qkv = qw_flat(qw_vae_map(m, 2, h, w, 3 * c));
    norm(m->r, n, m->x, a->norm, QW_ACT_NONE);
    qw_gemm(m->r, (qw_gemm_args){ .y = qkv, .x = flat, .w = a->qkv.w, .bias = a->qkv.bias });
    qw_attention(m->r, (qw_attention_args){ .y = qw_heads(flat, c),
                                            .q = qw_heads(qw_cols(qkv, 0, c), c),
                                            .k = qw_heads(qw_cols(qkv, c, c), c),
                                            .v = qw_heads(qw_cols(qkv, 2 * c, c), c),
                                            .scale = 1 / sqrt((double)c) });
    qw_gemm(m->r, (qw_gemm_args){ .y = qw_flat(m->x),
                                  .x = flat,
                                  .w = a->proj.w,
                                  .bias = a->proj.bias,
                                  .res = qw_flat(m->x) });
}

static void run_middle(qw_vae_maps *m, const qw_vae_half *h)
{
    run_resnet(m, &h->mid[0]);
    tap(m, "mid.0");
    run_attention(m, &h->att);
    tap(m, "mid.1");
    run_resnet(m, &h->mid[1]);
    tap(m, "mid.2");
}

/* Norm with SiLU and the last convolution.  For the tap of the norm without SiLU the norm is
 * computed once more. */
static void run_head(qw_vae_maps *m, const qw_vae_half *h)
{
    qw_tensor y = qw_vae_map(m, 1, m->x.dim[0], m->x.dim[1], m->x.dim[2]);
    if (m->r->detail) {
        norm(m->r, y, m->x, h->norm, QW_ACT_NONE);
        qw_tap_chw(m->r, y, "%s.norm_out", m->side);
    }
    norm(m->r, y, m->x, h->norm, QW_SILU);
    move_to(m, 1, y);
    step_conv(m, &h->out, "conv_out");
}

/* Host [c][h][w] to x [h][w][c]. */
static void put_map(qw_vae_maps *m, const double *chw, int64_t c, int64_t h, int64_t w)
{
    m->x = qw_vae_map(m, 0, h, w, c);
    double *x = chw ? malloc((size_t)(c * h * w) * sizeof *x) : NULL;
    if (chw && !x) qw_run_fail(m->r, QWEN_ENOMEM, "no memory for a latent");
    for (int64_t k = 0; x && k < c; k++)
        for (int64_t i = 0; i < h * w; i++) x[i * c + k] = chw[k * h * w + i];
    qw_put(m->r, m->x, x);
    free(x);
}

/* Channels [h][w][c r^2] to a picture [h r][w r][c], dense host. */
static void shuffle_out(const double *x, int64_t h, int64_t w, int64_t c, int64_t r, double *out)
{
    for (int64_t y = 0; y < h * r; y++)
        for (int64_t z = 0; z < w * r; z++)
            for (int64_t k = 0; k < c; k++)
                out[(y * w * r + z) * c + k] =
                    x[(y / r * w + z / r) * c * r * r + k * r * r + y % r * r + z % r];
}

void qw_vae_get_picture(qw_run *r, const qw_vae *v, qw_tensor y, double *picture)
{
    const int64_t n = qw_elements(&y);
    if (v->shuffle == 1) {
        qw_get(r, y, picture);
        return;
    }
    double *x = malloc((size_t)n * sizeof *x);
    if (!x) qw_run_fail(r, QWEN_ENOMEM, "no memory for a picture");
    else qw_get(r, y, x);
    if (x && picture && !r->error.status)
        shuffle_out(x, y.dim[0], y.dim[1], v->c.channels, v->shuffle, picture);
    free(x);
}

/* --- decoder ---------------------------------------------------------------------------------- */

/* A level's residual blocks. */
static void decode_level(qw_vae_maps *m, const qw_vae_half *d, int i)
{
    char name[32];
    for (int j = 0; j < d->blocks; j++) {
        run_resnet(m, &d->block[i][j]);
        snprintf(name, sizeof name, "up.%d.%d", i, j);
        tap(m, name);
    }
}

void qw_vae_decode_coarse(qw_vae_maps *m, const qw_vae *v, const double *latent, int64_t h,
                          int64_t w)
{
    put_map(m, latent, v->c.z, h, w);
    step_conv(m, &v->post_quant, "post_quant_conv");
    step_conv(m, &v->dec->in, "conv_in");
    run_middle(m, v->dec);
    decode_level(m, v->dec, 0);
}

void qw_vae_decode_fine(qw_vae_maps *m, const qw_vae_half *d)
{
    char name[32];
    for (int i = 1; i < d->levels; i++) {
        const qw_conv *up = &d->resample[i - 1];
        qw_tensor y = qw_vae_map(m, 1, 2 * m->x.dim[0], 2 * m->x.dim[1], up->co);
        qw_conv2d(m->r, (qw_conv2d_args){ .y = y,
                                          .x = m->x,
                                          .w = up->w,
                                          .bias = up->bias,
                                          .stride = 1,
                                          .top = 1,
                                          .left = 1,
                                          .up = 2 });
        move_to(m, 1, y);
        snprintf(name, sizeof name, "up.%d.up", i - 1);
        tap(m, name);
        decode_level(m, d, i);
    }
    run_head(m, d);
}

/* --- encoder ---------------------------------------------------------------------------------- */

/* Splits [h][w][2 z] into mean and log-variance, [z][h][w] each. */
void qw_vae_get_moments(qw_vae_maps *m, int64_t z, double *mean, double *logvar)
{
    const int64_t n = m->x.dim[0] * m->x.dim[1];
    double *x = malloc((size_t)(2 * z * n) * sizeof *x);
    if (!x) qw_run_fail(m->r, QWEN_ENOMEM, "no memory for a latent");
    else qw_get(m->r, m->x, x);
    for (int64_t k = 0; x && mean && logvar && k < z; k++)
        for (int64_t i = 0; i < n; i++) {
            mean[k * n + i] = x[i * 2 * z + k];
            logvar[k * n + i] = fmin(20, fmax(-30, x[i * 2 * z + z + k]));
        }
    free(x);
}

/* A level's residual blocks; *k is the number of the next block. */
static void encode_level(qw_vae_maps *m, const qw_vae_half *e, int i, int *k)
{
    char name[32];
    for (int j = 0; j < e->blocks; j++) {
        run_resnet(m, &e->block[i][j]);
        snprintf(name, sizeof name, "down.%d", (*k)++);
        tap(m, name);
    }
}

void qw_vae_encode_fine(qw_vae_maps *m, const qw_vae_half *e, int *k)
{
    char name[32];
    step_conv(m, &e->in, "conv_in");
    for (int i = 0; i + 1 < e->levels; i++) {
        encode_level(m, e, i, k);
        /* Zeros on the right and at the bottom only, then every second position. */
        const qw_conv *down = &e->resample[i];
        qw_tensor y = qw_vae_map(m, 1, m->x.dim[0] / 2, m->x.dim[1] / 2, down->co);
        qw_conv2d(m->r,
                  (qw_conv2d_args){
                      .y = y, .x = m->x, .w = down->w, .bias = down->bias, .stride = 2, .up = 1 });
        move_to(m, 1, y);
        snprintf(name, sizeof name, "down.%d", (*k)++);
        tap(m, name);
    }
}

void qw_vae_encode_coarse(qw_vae_maps *m, const qw_vae *v, int *k)
{
    encode_level(m, v->enc, v->enc->levels - 1, k);
    run_middle(m, v->enc);
    run_head(m, v->enc);
    step_conv(m, &v->quant, "quant_conv");
}
