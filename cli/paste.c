/* paste.c - puts back the pixels that an inpaint mask keeps; and the resizing that takes.
 *
 * The VAE changes a kept region a little, and the mask works on latents of 8x8 pixels; the file
 * that is written has the original there.  A dump's `image` has not. */
#include "cli.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double lanczos(double x)
{
    const double pi = 3.14159265358979323846;
    if (x == 0)
        return 1;
    return fabs(x) < 3 ? 3 * sin(pi * x) * sin(pi * x / 3) / (pi * pi * x * x) : 0;
}

/* One line: n samples, `step` apart, to m samples, `out_step` apart; c channels beside each other.
 */
static void resize_line(const uint8_t *in, int64_t n, int64_t step, uint8_t *out, int64_t m,
                        int64_t out_step, int64_t c)
{
    const double scale = (double)n / (double)m, wide = scale > 1 ? scale : 1, support = 3 * wide;
    for (int64_t i = 0; i < m; i++) {
        const double centre = ((double)i + 0.5) * scale;
        int64_t from = (int64_t)(centre - support + 0.5), to = (int64_t)(centre + support + 0.5);
        from = from < 0 ? 0 : from;
        to = to > n ? n : to;
        for (int64_t k = 0; k < c; k++) {
            double sum = 0, weights = 0;
            for (int64_t s = from; s < to; s++) {
                const double w = lanczos(((double)s - centre + 0.5) / wide);
                sum += w * in[s * step + k];
                weights += w;
            }
            const double x = weights != 0 ? sum / weights : 0;
            out[i * out_step + k] = (uint8_t)lrint(x < 0 ? 0 : x > 255 ? 255 : x);
        }
    }
}

int resize(const qwen_array *from, int64_t w, int64_t h, qwen_array *to)
{
    const int64_t H = from->dim[0], W = from->dim[1], c = from->dim[2];
    uint8_t *half = malloc((size_t)(H * w * c)), *data = malloc((size_t)(h * w * c));
    *to = (qwen_array){ .data = data, .dtype = QWEN_U8, .rank = 3, .dim = { h, w, c } };
    if (!half || !data) {
        free(half);
        qwen_array_free(to);
        return no_memory();
    }
    if (W == w && H == h) {
        memcpy(data, from->data, (size_t)(h * w * c));
        free(half);
        return CODE_DONE;
    }
    for (int64_t y = 0; y < H; y++)
        resize_line((const uint8_t *)from->data + y * W * c, W, c, half + y * w * c, w, c, c);
    for (int64_t x = 0; x < w; x++)
        resize_line(half + x * c, H, w * c, data + x * c, h, w * c, c);
    free(half);
    return CODE_DONE;
}

/* The grey of a mask, as the library takes it. */
static int grey_at(const qwen_array *m, int64_t i)
{
    const uint8_t *p = (const uint8_t *)m->data + i * m->dim[2];
    return (19595 * p[0] + 38470 * p[1] + 7471 * p[2] + 32768) >> 16;
}

int paste_kept(const settings *s, const job *j, qwen_array *out)
{
    const int *e = s->extend, extended = e[0] || e[1] || e[2] || e[3];
    qwen_array own = { 0 }, mask = { 0 };
    if (s->no_paste || !j->inputs || (!s->mask && !extended))
        return CODE_DONE;
    const int64_t H = out->dim[0], W = out->dim[1], c = out->dim[2];
    const double width = (double)(j->input[0].dim[1] + e[0] + e[1]),
                 height = (double)(j->input[0].dim[0] + e[2] + e[3]);
    const int64_t left = lrint(e[0] * (double)W / width), top = lrint(e[2] * (double)H / height);
    const int64_t w = W - left - lrint(e[1] * (double)W / width),
                  h = H - top - lrint(e[3] * (double)H / height);
    if (w < 1 || h < 1)
        return CODE_DONE;
    int code = resize(&j->input[0], w, h, &own);
    if (!code && s->mask)
        code = resize(&j->mask, w, h, &mask);
    for (int64_t y = 0; y < h && !code; y++)
        for (int64_t x = 0; x < w; x++) {
            if (mask.data && grey_at(&mask, y * w + x) >= 128)
                continue;
            uint8_t *to = (uint8_t *)out->data + ((y + top) * W + x + left) * c;
            memcpy(to, (const uint8_t *)own.data + (y * w + x) * own.dim[2], 3);
            if (c == 4)
                to[3] = own.dim[2] == 4 ? ((const uint8_t *)own.data)[(y * w + x) * 4 + 3] : 255;
        }
    qwen_array_free(&own);
    qwen_array_free(&mask);
    return code;
}
