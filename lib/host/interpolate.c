/* interpolate.c - pictures of doubles scaled as torch.nn.functional.interpolate does. */
#include "host/pictures.h"
#include <math.h>
#include <stdlib.h>

/* torch.nn.functional.interpolate, mode "area": the mean of the inputs that an output covers, along
 * one axis of n to m samples of c values. */
static void average(const double *in, int64_t n, double *out, int64_t m, int64_t c)
{
    for (int64_t o = 0; o < m; o++) {
        const int64_t from = o * n / m, to = ((o + 1) * n + m - 1) / m;
        for (int64_t k = 0; k < c; k++) {
            double sum = 0;
            for (int64_t i = from; i < to; i++) sum += in[i * c + k];
            out[o * c + k] = sum / (double)(to - from);
        }
    }
}

/* torch.nn.functional.interpolate, mode "bilinear", align_corners false, no antialiasing. */
static void between(const double *in, int64_t n, double *out, int64_t m, int64_t c)
{
    for (int64_t o = 0; o < m; o++) {
        const double at = fmax(0, ((double)o + 0.5) * (double)n / (double)m - 0.5);
        const int64_t a = at < (double)(n - 1) ? (int64_t)at : n - 1, b = a + 1 < n ? a + 1 : a;
        const double t = at - (double)a;
        for (int64_t k = 0; k < c; k++)
            out[o * c + k] = (1 - t) * in[a * c + k] + t * in[b * c + k];
    }
}

int qw_interpolate(qw_interpolation how, const double *in, int64_t w, int64_t h, int64_t c,
                   int64_t W, int64_t H, double *out, qw_error *err)
{
    void (*const line)(const double *, int64_t, double *, int64_t, int64_t) =
        how == QW_AREA ? average : between;
    double *half = malloc((size_t)(h * W * c) * sizeof *half);
    if (!half)
        return qw_fail(err, QWEN_ENOMEM, "no memory for a picture of %lldx%lld", (long long)W,
                       (long long)h);
    for (int64_t y = 0; y < h; y++) line(in + y * w * c, w, half + y * W * c, W, c);
    line(half, h, out, H, W * c);
    free(half);
    return QWEN_OK;
}
