/* pictures.h - pictures and latents on the host: resizing, packing, patches. */
#ifndef QW_PICTURES_H
#define QW_PICTURES_H
#include "files/config.h"

/* --- interpolate.c ---------------------------------------------------------------------------- */
/* torch's interpolate of doubles, as ComfyUI scales pictures: in [h][w][c], out [H][W][c]. */
typedef enum qw_interpolation { QW_AREA, QW_BILINEAR } qw_interpolation;
int qw_interpolate(qw_interpolation how, const double *in, int64_t w, int64_t h, int64_t c,
                   int64_t W, int64_t H, double *out, qw_error *err);

/* --- image.c: pictures and latents ------------------------------------------------------------ */
typedef enum qw_filter { QW_BICUBIC, QW_LANCZOS } qw_filter;
/* Pillow's resize of 8-bit pixels, byte for byte; src and dst dense, channels 1, 3 or 4 (4: colours
 * are multiplied by alpha before, divided after). */
int qw_resize(const uint8_t *src, int64_t w, int64_t h, int channels, qw_filter f, int64_t W,
              int64_t H, uint8_t *dst, qw_error *err);
/* [c][h][w] -> [hw/4][4c] */
void qw_pack(const double *latent, int64_t c, int64_t h, int64_t w, double *tokens);
void qw_unpack(const double *tokens, int64_t c, int64_t h, int64_t w, double *latent);
/* Sides of about `area` pixels at ratio = width / height, in multiples of 32. */
void qw_calculate_dimensions(double area, double ratio, int64_t *w, int64_t *h);
int qw_smart_resize(int64_t w, int64_t h, int64_t factor, int64_t min_pixels, int64_t max_pixels,
                    int64_t *W, int64_t *H, qw_error *err);
/* rgb [h][w][3] of 8 bits, or if that is NULL fine [h][w][3] in 0..1, to vision patches
 * [(h/p)(w/p)][3 t p p], normalised, in merge order. */
void qw_vision_pixels(const uint8_t *rgb, const double *fine, int64_t w, int64_t h,
                      const qw_vision_config *c, double *out);
#endif
