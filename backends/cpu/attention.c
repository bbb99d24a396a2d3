/* attention.c - softmax attention in blocks of queries and keys: no matrix of all scores.
 *
 * For some heads of keys at a time, threads lay keys and values out as words.  Then they take tasks of
 * queries, which go through the keys in blocks (Milakov and Gimelshein 2018; Dao 2023).  Query heads
 * that share a head of keys are rows of one task. */
#include "attention.h"

/* CODED: the widest head whose queries and keys become codes. */
enum { CODED = 256 };
enum { PACKED = 16 << 20 }; /* bytes of packed keys and values, unless one head has more */

static int taken(const qw_attention_args *a)
{
    return cpu_float(a->q.dtype) && cpu_float(a->k.dtype) && cpu_float(a->v.dtype)
           && cpu_float(a->y.dtype) && a->scale > 0;
}

static att_plan plan_of(const cpu_device *dev, const qw_attention_args *a)
{
    att_plan p = { .nq = a->q.dim[0], .hq = a->q.dim[1], .d = a->q.dim[2], .nk = a->k.dim[0] };
    p.hk = a->k.dim[1];
#ifdef VEC_BF16_PAIRS
    p.pairs = dev->pairs && a->q.dtype == QW_BF16 && a->k.dtype == QW_BF16 && a->v.dtype == QW_BF16;
#endif
    p.scale = (float)(a->scale * 1.4426950408889634);
#ifdef VEC_DOT4
    /* Ranges are those of texts and windows, wide heads those of the autoencoder: short, or sensitive. */
    p.codes = p.pairs && dev->codes && !a->first && !a->last && p.d <= CODED;
    if (p.codes) p.q_scale = p.scale, p.scale = 1;
#endif
    p.rows = p.nq * (p.hq / p.hk);
    p.vectors = (p.rows + VL - 1) / VL;
    p.strips = (p.vectors + NV - 1) / NV;
    p.kd = p.codes ? (p.d + 3) / 4 : p.pairs ? (p.d + 1) / 2 : p.d;
    const int64_t padded = (p.nk + VL - 1) / VL * VL;
    p.kg = padded / MR;
    p.kv = p.pairs ? padded / 2 : padded;
    p.vg = (p.d + MR - 1) / MR;
    p.threads = cpu_threads(&dev->d, 2.0 * (double)p.rows * (double)p.nk * (double)(p.hk * p.d));
    p.worth = cpu_line((size_t)(p.kg * p.kd) * MR * 4);
    p.keys = p.worth + (p.codes ? cpu_line((size_t)(padded + p.d + VL) * 4) : 0);
    p.values = cpu_line((size_t)(p.vg * p.kv) * MR * 4);
    p.batch = (int64_t)(PACKED / (p.keys + p.values));
    p.batch = p.batch < 1 ? 1 : p.batch > p.hk ? p.hk : p.batch;
    p.q = (size_t)p.kd * NW * 4;
    p.o = (size_t)(p.vg * MR) * NW * 4;
    p.strip = p.q + p.o + (size_t)7 * NW * 4;
    p.each = TASK * cpu_line(p.strip) + (size_t)(p.pairs ? BK / 2 : BK) * NW * 4;
    p.bytes = (size_t)p.batch * (p.keys + p.values) + (size_t)p.threads * p.each + 64;
    return p;
}

size_t QW_NAME(attention_scratch)(const cpu_device *dev, const qw_attention_args *a);
size_t QW_NAME(attention_scratch)(const cpu_device *dev, const qw_attention_args *a)
{
    return taken(a) ? plan_of(dev, a).bytes : 0;
}

/* Strip t of head h in room: its queries, nothing summed yet. */
static void begin(const qw_attention_args *a, const att_plan *p, int64_t h, int64_t t, char *room,
                  att_strip *s)
{
    const int64_t group = p->hq / p->hk;
    const int64_t v0 = p->vectors * t / p->strips, v1 = p->vectors * (t + 1) / p->strips;
    *s = (att_strip){ .r0 = v0 * VL, .vectors = (int)(v1 - v0), .q = (float *)(void *)room };
    s->n = p->rows < v1 * VL ? p->rows - s->r0 : (v1 - v0) * VL;
    s->o = s->q + p->q / 4;
    s->minus = s->o + p->o / 4;
    s->limit = s->minus + NW;
    s->sum = s->limit + NW;
    s->from = (int32_t *)(void *)(s->sum + NW);
    s->to = s->from + NW;
    s->less = s->to + NW;
    s->worth = (float *)(void *)(s->less + NW);
    for (int64_t r = 0; r < NW; r++) {
        const int64_t i = (s->r0 + (r < s->n ? r : s->n - 1)) / group;
        s->from[r] = a->first ? a->first[i] : 0;
        s->to[r] = a->last ? a->last[i] : (int32_t)p->nk;
        s->minus[r] = s->sum[r] = 0;
        s->limit[r] = -INFINITY;
    }
    s->first = s->from[0];
    s->last = s->to[NW - 1];
    s->all = s->from[NW - 1];
    s->none = s->to[0];
    memset(s->o, 0, p->o);
    QW_NAME(att_lay_queries)(a, p, h, s);
}

/* Strips t0 .. t1 of head h. */
static void task(const qw_attention_args *a, const att_plan *p, int64_t h, int64_t t0, int64_t t1,
                 const float *keys, const float *values, char *room)
{
    att_strip s[TASK] = { { 0 } };
    const int n = (int)(t1 - t0);
    float *w = (float *)(void *)(room + TASK * cpu_line(p->strip));
    for (int i = 0; i < n; i++)
        begin(a, p, h, t0 + i, room + (size_t)i * cpu_line(p->strip), &s[i]);
    for (int64_t b = s[0].first / MR * MR; b < s[n - 1].last; b += BK)
        for (int i = 0; i < n; i++) {
            const int64_t own = s[i].first / MR * MR, end = b + BK;
            QW_NAME(att_block)
            (p, &s[i], own > b ? own : b, end < s[i].last ? end : s[i].last, keys, values, w);
        }
    for (int i = 0; i < n; i++) QW_NAME(att_finish)(a, p, h, &s[i]);
}

#ifdef VEC_DOT4
/* The mean of the keys of the h-th packed head, behind what their codes are worth. */
static float *mean_of(const att_plan *p, char *packed, int64_t h)
{
    return (float *)(void *)(packed + (size_t)h * (p->keys + p->values) + p->worth) + p->kg * MR;
}
#endif

/* Keys and values j .. j + VL of head h0 + h, the h-th packed one. */
static void lay(const qw_attention_args *a, const att_plan *p, int64_t h0, int64_t h, int64_t j,
                char *packed)
{
    char *to = packed + (size_t)h * (p->keys + p->values);
    float *const keys = (float *)(void *)to;
    QW_NAME(att_lay_values)(a, p, h0 + h, j, (float *)(void *)(to + p->keys));
#ifdef VEC_DOT4
    float *const worth = (float *)(void *)(to + p->worth);
    if (p->codes) QW_NAME(att_lay_codes)(a, p, h0 + h, j, mean_of(p, packed, h), keys, worth);
    else
#endif
        QW_NAME(att_lay_keys)(a, p, h0 + h, j, keys);
}

/* y_i = sum_j softmax_j(scale q_i.k_j) v_j, reference/attention.c. */
int QW_NAME(attention)(qw_device *d, const qw_attention_args *a);
int QW_NAME(attention)(qw_device *d, const qw_attention_args *a)
{
    if (!taken(a)) return QW_DECLINE;
    const att_plan p = plan_of((const cpu_device *)d, a);
    if (d->room_bytes < p.bytes) return QWEN_ENOMEM;
    char *const packed = (char *)(((uintptr_t)d->room + 63) & ~(uintptr_t)63);
    char *const own = packed + (size_t)p.batch * (p.keys + p.values);
    const int64_t tasks = (p.strips + TASK - 1) / TASK, padded = p.kg * MR;
    int stop = 0;
    for (int64_t h0 = 0; h0 < p.hk && !stop; h0 += p.batch) {
        const int64_t heads = p.hk - h0 < p.batch ? p.hk - h0 : p.batch;
        CPU_OMP(parallel num_threads(p.threads))
        {
#ifdef VEC_DOT4
            if (p.codes) {
    CPU_OMP(for schedule(static))
    for (int64_t h = 0; h < heads; h++) QW_NAME(att_mean)(a, &p, h0 + h, mean_of(&p, packed, h));
            }
#endif
CPU_OMP(for schedule(static))
for (int64_t t = 0; t < heads * (padded / VL); t++)
    lay(a, &p, h0, t % heads, t / heads * VL, packed);
CPU_OMP(for schedule(dynamic))
for (int64_t t = 0; t < heads * tasks; t++) {
    if (cpu_stopped(d, &stop)) continue;
    const int64_t h = t / tasks, t0 = t % tasks * TASK;
    const char *from = packed + (size_t)h * (p.keys + p.values);
    task(a, &p, h0 + h, t0, t0 + TASK < p.strips ? t0 + TASK : p.strips,
         (const float *)(const void *)from, (const float *)(const void *)(from + p.keys),
         own + (size_t)cpu_thread() * p.each);
}
        }
    }
    return stop ? QWEN_ECANCELLED : QWEN_OK;
}
