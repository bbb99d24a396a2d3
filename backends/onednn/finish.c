/* finish.c - from sums of float32 to y, in loops that compilers vectorise. */
#include "onednn.h"
#include <string.h>

static float widened(uint16_t h)
{
    const uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* To bf16, to nearest even; a NaN stays one. */
static uint16_t narrowed(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    const uint32_t nearest = (u + 0x7fff + (u >> 16 & 1)) >> 16, nan = u >> 16 | 0x40;
    return (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? nan : nearest);
}

void onednn_finish(int64_t n, float *sums, const float *gate, qw_dtype res_type, const void *res,
                   qw_dtype y_type, void *y)
{
    const float *wide = res_type == QW_F32 ? res : NULL;
    const uint16_t *narrow = res_type == QW_BF16 ? res : NULL;
    for (int64_t i = 0; gate && i < n; i++) sums[i] *= gate[i];
    for (int64_t i = 0; wide && i < n; i++) sums[i] += wide[i];
    for (int64_t i = 0; narrow && i < n; i++) sums[i] += widened(narrow[i]);
    if (y_type == QW_F32) {
        memcpy(y, sums, (size_t)n * sizeof *sums);
        return;
    }
    uint16_t *to = y;
    for (int64_t i = 0; i < n; i++) to[i] = narrowed(sums[i]);
}
