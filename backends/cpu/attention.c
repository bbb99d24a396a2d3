/* attention.c - softmax attention in blocks of queries and keys: no matrix of all scores.
 *
 * For each head of keys, threads first lay its keys out as panels of columns and its values as
 * floats (or both as pairs of bf16).  Then they take blocks of BQ queries: scores of BK keys at a
 * time, their maximum and sum so far in each row, and the weighted values, rescaled where the
 * maximum grows (Milakov and Gimelshein 2018; Dao 2023).  Scores are in units of log 2. */
#include "kernel.h"

enum { BQ = 64, BK = 240 }; /* BK: a multiple of NW on every set */

typedef struct plan {
    int64_t nq, nk, hq, hk, d, dp, kp; /* dp: d padded to NW; kp: keys padded to NW */
    int pairs, threads;
    size_t keys, values, q, s, o, flat, each, bytes;
} plan;

static int taken(const qw_attention_args *a)
{
    return cpu_float(a->q.dtype) && cpu_float(a->k.dtype) && cpu_float(a->v.dtype)
           && cpu_float(a->y.dtype);
}

static plan plan_of(const cpu_device *dev, const qw_attention_args *a)
{
    plan p = { .nq = a->q.dim[0], .hq = a->q.dim[1], .d = a->q.dim[2], .nk = a->k.dim[0] };
    p.hk = a->k.dim[1];
    p.dp = (p.d + NW - 1) / NW * NW;
    p.kp = (p.nk + NW - 1) / NW * NW;
#ifdef VEC_BF16_PAIRS
    p.pairs = dev->pairs && a->q.dtype == QW_BF16 && a->k.dtype == QW_BF16 && a->v.dtype == QW_BF16
              && p.d % 2 == 0;
#endif
    p.threads = cpu_threads(&dev->d, 2.0 * (double)p.nq * (double)p.nk * (double)(p.hq * p.d));
    p.keys = cpu_line((size_t)(p.kp * p.d) * (p.pairs ? 2 : 4));
    p.values = cpu_line((size_t)((p.kp + 1) * p.dp) * (p.pairs ? 2 : 4));
    p.q = cpu_line((size_t)(BQ * p.d) * 4);
    p.s = cpu_line((size_t)BQ * BK * 4);
    p.o = cpu_line((size_t)(BQ * p.dp) * 4);
    p.flat = cpu_line((size_t)(VL * p.d) * 4);
    p.each = p.q + p.s + (p.pairs ? p.s : 0) + p.o + p.flat + cpu_line(2 * BQ * 4);
    p.bytes = p.keys + p.values + (size_t)p.threads * p.each + 64;
    return p;
}

size_t QW_NAME(attention_scratch)(const cpu_device *dev, const qw_attention_args *a);
size_t QW_NAME(attention_scratch)(const cpu_device *dev, const qw_attention_args *a)
{
    return taken(a) ? plan_of(dev, a).bytes : 0;
}

static const char *head_row(const qw_tensor *t, int64_t i, int64_t h)
{
    return (const char *)t->data
           + (size_t)(i * t->stride[0] + h * t->stride[1]) * qw_block_bytes(t->dtype);
}

static void row_floats(const qw_tensor *t, int64_t i, int64_t h, int64_t d, float factor,
                       float *out)
{
    const char *row = head_row(t, i, h);
    for (int64_t c = 0; c < d; c += VL) {
        const vm m = v_first(d - c);
        v_store_n(out + c, m, v_mul(v_get(t->dtype, row, c, m), v_set(factor)));
    }
}

/* Keys j .. j + NW of head h as a panel [d][NW] (or [d / 2][NW] pairs); zeros beyond the last. */
static void lay_keys(const qw_attention_args *a, const plan *p, int64_t h, int64_t j, float *flat,
                     char *to)
{
    for (int v = 0; v < NV; v++) {
        const int64_t first = j + v * VL;
#ifdef VEC_BF16_PAIRS
        if (p->pairs) {
            for (int64_t c = 0; c < p->d; c += 2 * VL) {
                vf r[VL];
                const int64_t left = p->d - c;
                const __mmask32 m = left >= 32 ? 0xffffffffu : (__mmask32)((1u << left) - 1);
                for (int i = 0; i < VL; i++)
                    r[i] =
                        first + i < p->nk ? _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(
                            m, (const uint16_t *)(const void *)head_row(&a->k, first + i, h) + c))
                                          : v_set(0);
                v_transpose(r);
                for (int64_t i = 0; i < VL && 2 * i < left; i++)
                    v_store((float *)(void *)to + (c / 2 + i) * NW + v * VL, r[i]);
            }
            continue;
        }
#endif
        for (int i = 0; i < VL; i++)
            if (first + i < p->nk) row_floats(&a->k, first + i, h, p->d, 1, flat + i * p->d);
            else memset(flat + i * p->d, 0, (size_t)p->d * sizeof *flat);
        columns(flat, p->d, p->d, (float *)(void *)to + v * VL, NW);
    }
}

/* Values j .. j + NW of head h as rows [dp] of floats, or as pairs of keys [dp]; zeros beyond. */
static void lay_values(const qw_attention_args *a, const plan *p, int64_t h, int64_t j,
                       char *values)
{
#ifdef VEC_BF16_PAIRS
    if (p->pairs) {
        for (int64_t i = j; i < j + NW; i += 2) {
            uint32_t *to = (uint32_t *)(void *)values + i / 2 * p->dp;
            memset(to, 0, (size_t)p->dp * sizeof *to);
            for (int64_t e = 0; e < 2 && i + e < p->nk; e++) {
                const uint16_t *row = (const uint16_t *)(const void *)head_row(&a->v, i + e, h);
                for (int64_t c = 0; c < p->d; c++) to[c] |= (uint32_t)row[c] << 16 * e;
            }
        }
        return;
    }
#endif
    for (int64_t i = j; i < j + NW; i++) {
        float *to = (float *)(void *)values + i * p->dp;
        memset(to, 0, (size_t)p->dp * sizeof *to);
        if (i < p->nk) row_floats(&a->v, i, h, p->d, 1, to);
    }
}

/* Scores s [count] of the keys from `b` of one query: those outside first .. last are -infinity.
 * They become weights 2^(s - most); *most and *sum go on from earlier blocks.  Returns the factor
 * for what was summed before. */
static float weigh(float *s, int64_t count, int64_t first, int64_t last, float *most, float *sum)
{
    vf top = v_set(*most);
    for (int64_t c = 0; c < count; c += VL) {
        vf z = v_load(s + c);
        if (c < first) z = v_keep(v_first(first - c), v_set(-INFINITY), z);
        if (c + VL > last) z = v_keep(v_first(last - c), z, v_set(-INFINITY));
        v_store(s + c, z);
        top = v_max(top, z);
    }
    const float now = v_most(top), before = *most;
    if (now == -INFINITY) { /* none of these keys is seen */
        for (int64_t c = 0; c < count; c += VL) v_store(s + c, v_set(0));
        return 1;
    }
    vf total = v_set(0);
    for (int64_t c = 0; c < count; c += VL) {
        const vf w = v_exp(v_mul(v_sub(v_load(s + c), v_set(now)), v_set(0.69314718f)));
        total = v_add(total, w);
        v_store(s + c, w);
    }
    float factor = 0;
    if (before > -INFINITY) {
        float t[VL];
        v_store(t, v_exp(v_set((before - now) * 0.69314718f)));
        factor = t[0];
    }
    *sum = *sum * factor + v_sum(total);
    *most = now;
    return factor;
}

/* Queries i0 .. i0 + rows of one head. */
static void block(const qw_attention_args *a, const plan *p, int64_t head, int64_t i0, int64_t rows,
                  const char *keys, const char *values, char *room)
{
    float *q = (float *)(void *)room, *s = (float *)(void *)(room + p->q);
    char *w = room + p->q + p->s;
    float *o = (float *)(void *)(w + (p->pairs ? p->s : 0));
    float *most = (float *)(void *)((char *)o + p->o + p->flat), *sum = most + BQ;
    const int64_t first = a->first ? a->first[i0] : 0;
    const int64_t last = a->last ? a->last[i0 + rows - 1] : p->nk;
    const float scale = (float)(a->scale * 1.4426950408889634);
    for (int64_t i = 0; i < rows; i++) {
        most[i] = -INFINITY;
        sum[i] = 0;
        if (!p->pairs) row_floats(&a->q, i0 + i, head, p->d, 1, q + i * p->d);
    }
    memset(o, 0, (size_t)(rows * p->dp) * sizeof *o);
    for (int64_t b = first / NW * NW; b < last; b += BK) {
        const int64_t seen = last - b < BK ? last - b : BK, count = (seen + NW - 1) / NW * NW;
        for (int64_t c = 0; c < count; c += NW)
            for (int64_t i = 0; i < rows; i += MR) {
                const int R = (int)(rows - i < MR ? rows - i : MR);
                const void *row[MR];
                for (int e = 0; e < R; e++)
                    row[e] = p->pairs ? (const void *)head_row(&a->q, i0 + i + e, head)
                                      : (const void *)(q + (i + e) * p->d);
#ifdef VEC_BF16_PAIRS
                if (p->pairs)
                    product_pairs(R, NV, (const uint16_t *const *)row,
                                  (const uint32_t *)(const void *)keys + (b + c) * (p->d / 2), NW,
                                  p->d / 2, s + i * BK + c, BK, 0);
                else
#endif
                    product_f32(R, NV, (const float *const *)row,
                                (const float *)(const void *)keys + (b + c) * p->d, NW, p->d,
                                s + i * BK + c, BK, 0);
            }
        for (int64_t i = 0; i < rows; i++) {
            float *z = s + i * BK;
            for (int64_t c = 0; c < count; c += VL)
                v_store(z + c, v_mul(v_load(z + c), v_set(scale)));
            const int64_t f = (a->first ? a->first[i0 + i] : 0) - b;
            const int64_t l = (a->last ? a->last[i0 + i] : p->nk) - b;
            const float factor = weigh(z, count, f, l, &most[i], &sum[i]);
            if (factor != 1)
                for (int64_t c = 0; c < p->dp; c += VL)
                    v_store(o + i * p->dp + c, v_mul(v_load(o + i * p->dp + c), v_set(factor)));
            if (p->pairs)
                for (int64_t c = 0; c < count; c += VL)
                    v_store_bf16_n((uint16_t *)(void *)w + i * BK + c, v_first(VL), v_load(z + c));
        }
        for (int64_t c = 0; c < p->dp; c += NW)
            for (int64_t i = 0; i < rows; i += MR) {
                const int R = (int)(rows - i < MR ? rows - i : MR);
                const int V = (int)((p->d - c < NW ? p->d - c + VL - 1 : NW) / VL);
                const void *row[MR];
                for (int e = 0; e < R; e++)
                    row[e] = p->pairs ? (const void *)((uint16_t *)(void *)w + (i + e) * BK)
                                      : (const void *)(s + (i + e) * BK);
#ifdef VEC_BF16_PAIRS
                if (p->pairs)
                    product_pairs(R, V, (const uint16_t *const *)row,
                                  (const uint32_t *)(const void *)values + b / 2 * p->dp + c, p->dp,
                                  count / 2, o + i * p->dp + c, p->dp, 1);
                else
#endif
                    product_f32(R, V, (const float *const *)row,
                                (const float *)(const void *)values + b * p->dp + c, p->dp, count,
                                o + i * p->dp + c, p->dp, 1);
            }
    }
    for (int64_t i = 0; i < rows; i++) {
        char *y = (char *)(uintptr_t)head_row(&a->y, i0 + i, head);
        const vf by = v_set(1 / sum[i]);
        for (int64_t c = 0; c < p->d; c += VL)
            v_put(a->y.dtype, y, c, v_first(p->d - c), v_mul(v_load(o + i * p->dp + c), by));
    }
}

/* y_i = sum_j softmax_j(scale q_i.k_j) v_j, reference/attention.c. */
int QW_NAME(attention)(qw_device *d, const qw_attention_args *a);
int QW_NAME(attention)(qw_device *d, const qw_attention_args *a)
{
    if (!taken(a)) return QW_DECLINE;
    const plan p = plan_of((const cpu_device *)d, a);
    if (d->room_bytes < p.bytes) return QWEN_ENOMEM;
    char *keys = (char *)(((uintptr_t)d->room + 63) & ~(uintptr_t)63);
    char *values = keys + p.keys, *own = values + p.values;
    const int64_t group = p.hq / p.hk, blocks = (p.nq + BQ - 1) / BQ;
    int stop = 0;
    for (int64_t h = 0; h < p.hk && !stop; h++) {
        CPU_OMP(parallel num_threads(p.threads))
        {
            char *room = own + (size_t)cpu_thread() * p.each;
            float *flat = (float *)(void *)(room + p.q + p.s + (p.pairs ? p.s : 0) + p.o);
CPU_OMP(for schedule(static))
for (int64_t j = 0; j < p.kp; j += NW) {
    lay_keys(a, &p, h, j, flat, keys + (size_t)(j * p.d) * (p.pairs ? 2 : 4));
    lay_values(a, &p, h, j, values);
}
CPU_OMP(for schedule(dynamic))
for (int64_t t = 0; t < group * blocks; t++) {
    int now;
    CPU_OMP(atomic read)
    now = stop;
    if (now) continue;
    if (cpu_thread() == 0 && d->poll && d->poll(d->poll_user)) {
        CPU_OMP(atomic write)
        stop = 1;
    }
    const int64_t i0 = t / group * BQ;
    block(a, &p, h * group + t % group, i0, p.nq - i0 < BQ ? p.nq - i0 : BQ, keys, values, room);
}
        }
    }
    return stop ? QWEN_ECANCELLED : QWEN_OK;
}
