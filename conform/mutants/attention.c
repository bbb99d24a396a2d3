/* attention.c - a query at a time over tiles of 64 keys, with a running maximum. */
#include "mutant.h"
#include <math.h>
#include <string.h>

enum { BK = 64 };

static int64_t padded(int64_t nk) { return (nk + BK - 1) / BK * BK; }

size_t plain_attention_scratch(const qw_attention_args *a)
{
    const int64_t hk = a->k.dim[1], d = a->k.dim[2];
    return (size_t)(2 * padded(a->k.dim[0]) * hk * d + 2 * d + BK + 64) * sizeof(float);
}

typedef struct rooms {
    const float *k, *v; /* [nk padded][hk][d] */
    float *q, *o, *s;   /* [d], [d], [BK] */
} rooms;

/* Keys b .. b + count for one query; the factor for what came before. */
static float weigh(const rooms *r, int64_t b, int64_t count, int64_t step, int64_t d, float scale,
                   float *most, float *total)
{
    float top = *most;
    for (int64_t j = 0; j < count; j++) {
        float s = 0;
        for (int64_t c = 0; c < d; c++) s += r->q[c] * r->k[(b + j) * step + c];
        r->s[j] = s * scale;
        top = fmaxf(top, r->s[j]);
    }
    const float factor = *most == -INFINITY ? 0 : expf(*most - top);
    *total *= factor;
    for (int64_t j = 0; j < count; j++) {
        r->s[j] = expf(r->s[j] - top);
        *total += r->s[j];
    }
    *most = top;
    return factor;
}

static void one(qw_device *dev, const qw_attention_args *a, rooms r, int64_t i, int64_t h)
{
    const int64_t nk = a->k.dim[0], hk = a->k.dim[1], d = a->k.dim[2], hq = a->q.dim[1];
    const int64_t own = mutated(dev, M_attention_groups) ? h % hk : h / (hq / hk), step = hk * d;
    int64_t first = a->first ? a->first[i] : 0, last = a->last ? a->last[i] : nk;
    float scale = (float)a->scale, most = -INFINITY, total = 0;
    if (mutated(dev, M_attention_first) && a->first && first + 1 < last) first++;
    if (mutated(dev, M_attention_last) && a->last && first + 1 < last) last--;
    if (mutated(dev, M_attention_next_key) && last < nk) last++;
    if (mutated(dev, M_attention_tail_key) && last % 8 == 1 && last - first > 1) last--;
    if (mutated(dev, M_attention_stale_keys) && !a->first) last = padded(nk);
    if (mutated(dev, M_attention_scale)) scale = 1 / sqrtf(exp2f(ceilf(log2f((float)d))));
    const int together = a->q.stride[1] == d && a->k.stride[1] == d && a->v.stride[1] == d;
    if (mutated(dev, M_attention_dense_heads) && together && hq > 1) scale *= 1.1f;
    r.k += own * d;
    r.v += own * d;
    plain_row(&a->q, i, h, 0, r.q);
    memset(r.o, 0, (size_t)d * sizeof *r.o);
    for (int64_t b = first, t = 0; b < last; b += BK, t++) {
        const int64_t count = last - b < BK ? last - b : BK;
        float factor = weigh(&r, b, count, step, d, scale, &most, &total);
        if (mutated(dev, M_attention_first_rescale) && t == 1) factor = 1;
        if (mutated(dev, M_attention_late_rescale) && t >= 4) factor = 1;
        for (int64_t c = 0; c < d; c++) {
            float s = 0;
            for (int64_t j = 0; j < count; j++) s += r.s[j] * r.v[(b + j) * step + c];
            r.o[c] = r.o[c] * factor + s;
        }
    }
    for (int64_t c = 0; c < d; c++) plain_put(&a->y, i, h, c, r.o[c] / total);
}

int plain_attention(qw_device *dev, const qw_attention_args *a)
{
    const int64_t nk = a->k.dim[0], hk = a->k.dim[1], d = a->k.dim[2], hq = a->q.dim[1];
    if (dev->room_bytes < (size_t)plain_threads(dev) * plain_attention_scratch(a))
        return QWEN_ENOMEM;
    float *k = dev->room, *v = k + padded(nk) * hk * d, *own = v + padded(nk) * hk * d;
    for (int64_t j = 0; j < nk; j++)
        for (int64_t h = 0; h < hk; h++) {
            plain_row(&a->k, j, h, 0, k + (j * hk + h) * d);
            plain_row(&a->v, j, h, 0, v + (j * hk + h) * d);
        }
#pragma omp parallel for num_threads(plain_threads(dev)) schedule(static)
    for (int64_t i = 0; i < a->q.dim[0]; i++) {
        float *q = own + plain_thread() * (2 * d + BK);
        const rooms r = { k, v, q, q + d, q + 2 * d };
        for (int64_t h = 0; h < hq; h++) one(dev, a, r, i, h);
    }
    return QWEN_OK;
}
