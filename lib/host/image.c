/* image.c - pictures and latents: Pillow's resize, sizes, packing, and the vision tower's patches.
 *
 * The resize is Pillow 13's (src/libImaging/Resample.c) byte for byte: two passes with integer
 * weights of 22 bits, the picture between them rounded to 8 bits. */
#include "host/pictures.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WEIGHT_BITS = 22, HALF = 1 << (WEIGHT_BITS - 1), MOST_SIDE = 1 << 20 };

/* --- filters ---------------------------------------------------------------------------------- */

static double sinc(double x)
{
    const double a = x * 3.14159265358979323846;
    return x == 0 ? 1 : qw_sin(a) / a;
}

static double lanczos(double x) /* support: three lobes */
{
    return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

static double bicubic(double x) /* a = -1/2 */
{
    const double a = -0.5, t = x < 0 ? -x : x;
    if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
    return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

/* Where output o of an axis reads: weights [room] for inputs first .. first + n - 1. */
typedef struct tap {
    int64_t first, n;
} tap;
typedef struct axis {
    int64_t out, room;
    tap *tap;        /* [out] */
    int32_t *weight; /* [out][room], 2^22 is 1 */
} axis;

static void axis_free(axis *a)
{
    free(a->tap);
    free(a->weight);
}

static int axis_new(axis *a, int64_t in, int64_t out, qw_filter filter)
{
    double (*const f)(double) = filter == QW_LANCZOS ? lanczos : bicubic;
    const double scale = (double)in / (double)out, stretch = scale < 1 ? 1 : scale;
    const double inverse = 1 / stretch;
    const double support = (filter == QW_LANCZOS ? 3 : 2) * stretch;
    a->out = out;
    a->room = (int64_t)ceil(support) * 2 + 1;
    a->tap = malloc((size_t)out * sizeof *a->tap);
    a->weight = calloc((size_t)(out * a->room), sizeof *a->weight);
    double *const w = malloc((size_t)a->room * sizeof *w);
    if (!a->tap || !a->weight || !w) {
        free(w);
        return QWEN_ENOMEM;
    }
    for (int64_t o = 0; o < out; o++) {
        const double center = ((double)o + 0.5) * scale;
        int64_t first = (int64_t)(center - support + 0.5), end = (int64_t)(center + support + 0.5);
        if (first < 0) first = 0;
        if (end > in) end = in;
        double sum = 0;
        for (int64_t i = first; i < end; i++)
            sum += w[i - first] = f(((double)(i - first) + (double)first - center + 0.5) * inverse);
        for (int64_t i = 0; i < end - first; i++) {
            const double k = (sum != 0 ? w[i] / sum : w[i]) * (1 << WEIGHT_BITS);
            a->weight[o * a->room + i] = (int32_t)(k < 0 ? k - 0.5 : k + 0.5);
        }
        a->tap[o] = (tap){ first, end - first };
    }
    free(w);
    return QWEN_OK;
}

/* --- the two passes --------------------------------------------------------------------------- */

static uint8_t clip(int64_t sum)
{
    const int64_t v = sum >> WEIGHT_BITS; /* an arithmetic shift rounds down */
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* src [h][w][c] -> dst [h][a->out][c] */
static void horizontal(const axis *a, const uint8_t *src, int64_t w, int64_t h, int64_t c,
                       uint8_t *dst)
{
    for (int64_t y = 0; y < h; y++)
        for (int64_t o = 0; o < a->out; o++) {
            const int32_t *const k = a->weight + o * a->room;
            const uint8_t *const p = src + (y * w + a->tap[o].first) * c;
            int64_t sum[4] = { HALF, HALF, HALF, HALF };
            for (int64_t i = 0; i < a->tap[o].n; i++)
                for (int64_t j = 0; j < c; j++) sum[j] += (int64_t)k[i] * p[i * c + j];
            for (int64_t j = 0; j < c; j++) dst[(y * a->out + o) * c + j] = clip(sum[j]);
        }
}

/* src [h][row] -> dst [a->out][row]; sum [row] is scratch */
static void vertical(const axis *a, const uint8_t *src, int64_t row, int64_t *sum, uint8_t *dst)
{
    for (int64_t o = 0; o < a->out; o++) {
        const int32_t *const k = a->weight + o * a->room;
        for (int64_t x = 0; x < row; x++) sum[x] = HALF;
        for (int64_t i = 0; i < a->tap[o].n; i++) {
            const uint8_t *const p = src + (a->tap[o].first + i) * row;
            for (int64_t x = 0; x < row; x++) sum[x] += (int64_t)k[i] * p[x];
        }
        for (int64_t x = 0; x < row; x++) dst[o * row + x] = clip(sum[x]);
    }
}

/* Colour times alpha, as Pillow's RGBA -> RGBa; src and dst may be the same. */
static void premultiply(const uint8_t *src, int64_t pixels, uint8_t *dst)
{
    for (int64_t i = 0; i < 4 * pixels; i += 4) {
        const unsigned alpha = src[i + 3];
        for (int64_t j = i; j < i + 3; j++) {
            const unsigned t = src[j] * alpha + 128;
            dst[j] = (uint8_t)(((t >> 8) + t) >> 8);
        }
        dst[i + 3] = (uint8_t)alpha;
    }
}

/* RGBa -> RGBA; where alpha is 0 or 255 the colour is copied. */
static void unpremultiply(uint8_t *p, int64_t pixels)
{
    for (int64_t i = 0; i < 4 * pixels; i += 4) {
        const unsigned alpha = p[i + 3];
        if (alpha == 0 || alpha == 255) continue;
        for (int64_t j = i; j < i + 3; j++) {
            const unsigned v = 255u * p[j] / alpha;
            p[j] = (uint8_t)(v > 255 ? 255 : v);
        }
    }
}

typedef struct resize {
    axis x, y;
    uint8_t *source, *between; /* premultiplied copy; the picture between the passes */
    int64_t *sum;
} resize;

static int resize_in(resize *r, const uint8_t *src, int64_t w, int64_t h, int64_t c, qw_filter f,
                     int64_t W, int64_t H, uint8_t *dst)
{
    const int across = W != w, down = H != h;
    /* Pillow 13 shrinks the height first where that costs less; up to 12 the width came first. */
    const int vertical_first = across && down && H < h && h - H > 2 * (w - W);
    const int64_t bw = vertical_first ? w : W, bh = vertical_first ? H : h;
    if ((across && axis_new(&r->x, w, W, f)) || (down && axis_new(&r->y, h, H, f)))
        return QWEN_ENOMEM;
    r->sum = malloc((size_t)((w > W ? w : W) * c) * sizeof *r->sum);
    if (!r->sum) return QWEN_ENOMEM;
    if (c == 4) {
        r->source = malloc((size_t)(w * h * c));
        if (!r->source) return QWEN_ENOMEM;
        premultiply(src, w * h, r->source);
        src = r->source;
    }
    if (across && down) {
        r->between = malloc((size_t)(bw * bh * c));
        if (!r->between) return QWEN_ENOMEM;
    }
    if (vertical_first) {
        vertical(&r->y, src, w * c, r->sum, r->between);
        horizontal(&r->x, r->between, w, H, c, dst);
    } else {
        if (across) horizontal(&r->x, src, w, h, c, down ? r->between : dst);
        if (down) vertical(&r->y, across ? r->between : src, W * c, r->sum, dst);
    }
    if (c == 4) unpremultiply(dst, W * H);
    return QWEN_OK;
}

int qw_resize(const uint8_t *src, int64_t w, int64_t h, int channels, qw_filter f, int64_t W,
              int64_t H, uint8_t *dst, qw_error *err)
{
    const int64_t sides[] = { w, h, W, H };
    for (int i = 0; i < 4; i++)
        if (sides[i] < 1 || sides[i] > MOST_SIDE)
            return qw_fail(err, QWEN_EARG,
                           "a picture of %lldx%lld cannot become %lldx%lld: sides are 1 to %d",
                           (long long)w, (long long)h, (long long)W, (long long)H, MOST_SIDE);
    if (channels != 1 && channels != 3 && channels != 4)
        return qw_fail(err, QWEN_EARG,
                       "a picture of %d channels cannot be resized, expected 1, 3 or 4", channels);
    if (W == w && H == h) {
        memcpy(dst, src, (size_t)(w * h * channels));
        return QWEN_OK;
    }
    resize r = { 0 };
    const int status = resize_in(&r, src, w, h, channels, f, W, H, dst);
    axis_free(&r.x);
    axis_free(&r.y);
    free(r.source);
    free(r.between);
    free(r.sum);
    return status ? qw_fail(err, status, "no memory to resize a picture of %lldx%lld to %lldx%lld",
                            (long long)w, (long long)h, (long long)W, (long long)H)
                  : QWEN_OK;
}

/* --- latents ---------------------------------------------------------------------------------- */

/* tokens[y (w/2) + x][4 c + 2 dy + dx] = latent[c][2 y + dy][2 x + dx]; h, w even */
void qw_pack(const double *latent, int64_t c, int64_t h, int64_t w, double *tokens)
{
    for (int64_t k = 0; k < c; k++)
        for (int64_t y = 0; y < h; y++)
            for (int64_t x = 0; x < w; x++)
                tokens[(y / 2 * (w / 2) + x / 2) * 4 * c + 4 * k + y % 2 * 2 + x % 2] =
                    latent[(k * h + y) * w + x];
}

void qw_unpack(const double *tokens, int64_t c, int64_t h, int64_t w, double *latent)
{
    for (int64_t k = 0; k < c; k++)
        for (int64_t y = 0; y < h; y++)
            for (int64_t x = 0; x < w; x++)
                latent[(k * h + y) * w + x] =
                    tokens[(y / 2 * (w / 2) + x / 2) * 4 * c + 4 * k + y % 2 * 2 + x % 2];
}

/* --- sizes ------------------------------------------------------------------------------------ */

/* diffusers' calculate_dimensions: about `area` pixels at ratio = width / height, each side rounded
 * (halves to even) to a multiple of 32, and at least 32. */
void qw_calculate_dimensions(double area, double ratio, int64_t *w, int64_t *h)
{
    const double width = sqrt(area * ratio), height = width / ratio;
    const double a = rint(width / 32), b = rint(height / 32);
    *w = a >= 1 ? (a < 1e9 ? (int64_t)a : 1000000000) * 32 : 32;
    *h = b >= 1 ? (b < 1e9 ? (int64_t)b : 1000000000) * 32 : 32;
}

/* transformers' smart_resize: sides in multiples of `factor`, area from min_pixels to
 * max_pixels. */
int qw_smart_resize(int64_t w, int64_t h, int64_t factor, int64_t min_pixels, int64_t max_pixels,
                    int64_t *W, int64_t *H, qw_error *err)
{
    if (w < 1 || h < 1 || w > MOST_SIDE || h > MOST_SIDE || factor < 1 || factor > MOST_SIDE
        || min_pixels > max_pixels)
        return qw_fail(
            err, QWEN_EARG,
            "a picture of %lldx%lld cannot be fitted to multiples of %lld with %lld to %lld pixels",
            (long long)w, (long long)h, (long long)factor, (long long)min_pixels,
            (long long)max_pixels);
    const double width = (double)w, height = (double)h, f = (double)factor;
    const double ratio = (width > height ? width : height) / (width > height ? height : width);
    if (ratio > 200)
        return qw_fail(
            err, QWEN_EARG,
            "the picture's sides %lldx%lld differ by a factor of %.0f, at most 200 is possible",
            (long long)w, (long long)h, ratio);
    double a = rint(height / f) * f, b = rint(width / f) * f;
    if (a * b > (double)max_pixels) {
        const double by = sqrt(height * width / (double)max_pixels);
        a = floor(height / by / f) * f;
        b = floor(width / by / f) * f;
    } else if (a * b < (double)min_pixels) {
        const double by = sqrt((double)min_pixels / (height * width));
        a = ceil(height * by / f) * f;
        b = ceil(width * by / f) * f;
    }
    *H = a < f ? factor : (int64_t)a;
    *W = b < f ? factor : (int64_t)b;
    return QWEN_OK;
}

/* --- the vision tower's input ----------------------------------------------------------------- */

/* rgb or fine [h][w][3] -> [(h/p)(w/p)][3 t p p].  Patches of one merge group follow each other:
 * patch ((by (gw/m) + bx) m + my) m + mx is row m by + my, column m bx + mx; feature
 * ((c t + f) p + y) p + x, all t frames equal; h and w are multiples of m p. */
void qw_vision_pixels(const uint8_t *rgb, const double *fine, int64_t w, int64_t h,
                      const qw_vision_config *c, double *out)
{
    const int64_t p = c->patch, m = c->merge, t = c->temporal, features = 3 * t * p * p;
    const int64_t gw = w / p, gh = h / p;
    double value[3][256];
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < 256; i++) value[k][i] = (i / 255.0 - c->mean[k]) / c->std[k];
    for (int64_t row = 0; row < gh; row++)
        for (int64_t column = 0; column < gw; column++) {
            const int64_t group = row / m * (gw / m) + column / m;
            const int64_t patch = (group * m + row % m) * m + column % m;
            double *o = out + patch * features;
            for (int64_t k = 0; k < 3; k++)
                for (int64_t f = 0; f < t; f++)
                    for (int64_t y = row * p; y < (row + 1) * p; y++)
                        for (int64_t x = column * p; x < (column + 1) * p; x++) {
                            const int64_t i = (y * w + x) * 3 + k;
                            *o++ = rgb ? value[k][rgb[i]] : (fine[i] - c->mean[k]) / c->std[k];
                        }
        }
}
