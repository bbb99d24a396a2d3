/* vae.h - the inside of the VAE, for vae.c and vae_bands.c: weights, buffers of maps, and the
 * coarse and the fine part of each half. */
#ifndef QW_VAE_H
#define QW_VAE_H
#include "nets/net.h"

enum { QW_VAE_LEVELS = 8, QW_VAE_RESNETS = 24 };

typedef struct qw_vae_resnet {
    qw_tensor norm1, norm2;
    qw_conv conv1, conv2, shortcut;
    int has_shortcut;
} qw_vae_resnet;
typedef struct qw_vae_attention {
    qw_tensor norm;
    qw_conv qkv, proj;
} qw_vae_attention;
typedef struct qw_vae_half { /* encoder or decoder */
    qw_conv in, out;
    qw_vae_resnet mid[2];
    qw_vae_attention att;
    qw_tensor norm;
    qw_vae_resnet block[QW_VAE_LEVELS][QW_VAE_RESNETS];
    qw_conv resample[QW_VAE_LEVELS];
    int blocks, levels;
} qw_vae_half;

struct qw_vae {
    qw_vae_config c;
    int parts;
    int64_t shuffle; /* factor of the pixel shuffle at the decoder's end; 1: none */
    qw_vae_half *enc, *dec;
    qw_conv quant, post_quant;
    qw_group *group;
};

typedef struct qw_vae_maps {
    qw_run *r;
    qw_tensor buffer[3]; /* flat, of the largest map */
    int at;              /* index of the buffer that holds x */
    qw_tensor x;         /* [h][w][c] */
    const char *side;    /* "enc" or "dec": prefix of taps */
} qw_vae_maps;
void qw_vae_open_maps(qw_vae_maps *m, qw_run *r, int64_t largest, const char *side);
/* The buffer `ahead` places after that of x as a map [h][w][c]. */
qw_tensor qw_vae_map(const qw_vae_maps *m, int ahead, int64_t h, int64_t w, int64_t c);

/* Decoder.  The coarse part takes a latent, host [z][h][w], to the last map at the latent's
 * resolution; the fine part takes that to a map of the picture's channels. */
void qw_vae_decode_coarse(qw_vae_maps *m, const qw_vae *v, const double *latent, int64_t h,
                          int64_t w);
void qw_vae_decode_fine(qw_vae_maps *m, const qw_vae_half *d);
/* Copies map y to host memory as a picture [h][w][channels], dense, its pixel shuffle undone. */
void qw_vae_get_picture(qw_run *r, const qw_vae *v, qw_tensor y, double *picture);

/* Encoder.  The fine part takes a picture to the latent's resolution, the coarse part that to mean
 * and log-variance; qw_vae_get_moments copies these to host memory, [z][h][w] each.  *k counts the
 * blocks for taps. */
void qw_vae_encode_fine(qw_vae_maps *m, const qw_vae_half *e, int *k);
void qw_vae_encode_coarse(qw_vae_maps *m, const qw_vae *v, int *k);
void qw_vae_get_moments(qw_vae_maps *m, int64_t z, double *mean, double *logvar);
#endif
