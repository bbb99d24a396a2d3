/* comfy.c - a picture as ComfyUI's text encoding nodes prepare it for an edit.
 *
 * Pixels are not rounded to 8 bits.  A picture is averaged to an area of pixels for the VAE, and to
 * an area and then interpolated to whole patches for the vision tower.  TextEncodeQwenImageEdit has
 * one area for both, and the VAE crops the picture to multiples of 8; TextEncodeQwenImageEditPlus
 * has two, the VAE's in multiples of 8 (nodes_qwen.py and qwen_vl.py of ComfyUI). */
#include "pipeline/job.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The first three channels in 0..1, [h][w][3]; NULL with the error set. */
static double *values_of(qwen *q, const qwen_array *a)
{
    const int64_t n = a->dim[0] * a->dim[1], c = a->dim[2];
    double *x = qw_doubles(q, 3 * n, "a picture");
    for (int64_t i = 0; x && i < n; i++)
        for (int k = 0; k < 3; k++) x[3 * i + k] = ((const uint8_t *)a->data)[i * c + k] / 255.0;
    return x;
}

/* *image: the picture averaged to w x h. */
static int scale_to(qwen *q, const qwen_array *a, int64_t w, int64_t h, qw_image *image)
{
    double *x = values_of(q, a);
    *image = (qw_image){ .w = w, .h = h, .channels = 3 };
    if (x && (image->value = qw_doubles(q, 3 * w * h, "a picture")))
        qw_interpolate(QW_AREA, x, a->dim[1], a->dim[0], 3, w, h, image->value, &q->error);
    free(x);
    return q->error.status;
}

static int64_t at_least(double x, int64_t least)
{
    const double r = nearbyint(x);
    return r < (double)least ? least : (int64_t)r;
}

/* The sides of about `area` pixels in multiples of `unit`, halves to even. */
static void fit(const qwen_array *a, int64_t area, int64_t unit, int64_t *w, int64_t *h)
{
    const double by = sqrt((double)area / ((double)a->dim[1] * (double)a->dim[0]));
    *w = at_least((double)a->dim[1] * by / (double)unit, 1) * unit;
    *h = at_least((double)a->dim[0] * by / (double)unit, 1) * unit;
}

int qw_comfy_view(qw_job *j, const qwen_array *a, int64_t area, qw_image *view, int64_t sizes[2])
{
    qwen *q = j->q;
    const qw_vision_config *c = &q->config.vision;
    qw_image scaled;
    int64_t w, h;
    fit(a, area, 1, &sizes[0], &sizes[1]);
    if (scale_to(q, a, sizes[0], sizes[1], &scaled)
        || qw_smart_resize(sizes[0], sizes[1], c->patch * c->merge, c->min_pixels, c->max_pixels,
                           &w, &h, &q->error)) {
        free(scaled.value);
        return q->error.status;
    }
    *view = (qw_image){ .w = w, .h = h, .channels = 3 };
    if ((view->value = qw_doubles(q, 3 * w * h, "a picture")))
        qw_interpolate(QW_BILINEAR, scaled.value, sizes[0], sizes[1], 3, w, h, view->value,
                       &q->error);
    free(scaled.value);
    return q->error.status;
}

int qw_comfy_reference(qw_job *j, const qwen_array *a, int64_t area, qw_image *out)
{
    qwen *q = j->q;
    int64_t w, h;
    fit(a, area, j->variant == QW_EDIT ? 1 : 8, &w, &h);
    if (w < 8 || h < 8)
        return qw_fail(&q->error, QWEN_EARG,
                       "a reference of %lldx%lld is less than 8 pixels wide or high", (long long)w,
                       (long long)h);
    if (scale_to(q, a, w, h, out)) return q->error.status;
    const int64_t W = w / 8 * 8, H = h / 8 * 8, left = w % 8 / 2, top = h % 8 / 2;
    for (int64_t y = 0; y < H; y++) /* the middle, in place */
        memmove(out->value + y * W * 3, out->value + ((y + top) * w + left) * 3,
                (size_t)(W * 3) * sizeof *out->value);
    out->w = W;
    out->h = H;
    return QWEN_OK;
}
