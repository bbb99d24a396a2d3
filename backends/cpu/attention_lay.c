/* attention_lay.c - operands of attention to words and back: keys, values, queries, the result. */
#include "attention.h"

/* Words c .. c + VL of a row as a vector: floats, or pairs of bf16; zeros beyond d. */
static vf row_words(const qw_tensor *t, const char *row, int64_t c, int64_t d, int pairs)
{
#ifdef VEC_BF16_PAIRS
    if (pairs) {
        const int64_t left = d - 2 * c;
        const __mmask32 m = left >= 32 ? 0xffffffffu
                                       : (__mmask32)((1u << (left > 0 ? left : 0)) - 1);
        return _mm512_castsi512_ps(
            _mm512_maskz_loadu_epi16(m, (const uint16_t *)(const void *)row + 2 * c));
    }
#endif
    (void)pairs;
    return v_get(t->dtype, row, c, v_first(d - c));
}

/* Parts of MR of a vector, each `step` floats further. */
static void put_parts(vf x, float *to, int64_t step, int64_t parts)
{
    float t[VL];
    v_store(t, x);
    for (int64_t g = 0; g < VL / MR && g < parts; g++)
        memcpy(to + g * step, t + g * MR, MR * sizeof *t);
}

/* keys [group][kd][MR] */
void QW_NAME(att_lay_keys)(const qw_attention_args *a, const att_plan *p, int64_t h, int64_t j,
                           float *keys)
{
    float *to = keys + j * p->kd;
    for (int64_t c = 0; c < p->kd; c += VL) {
        vf r[VL];
        for (int i = 0; i < VL; i++)
            r[i] = j + i < p->nk ? row_words(&a->k, att_row(&a->k, j + i, h), c, p->d, p->pairs)
                                 : v_set(0);
        v_transpose(r);
        for (int64_t i = 0; i < VL && c + i < p->kd; i++)
            put_parts(r[i], to + (c + i) * MR, p->kd * MR, VL / MR);
    }
}

#ifdef VEC_BF16_PAIRS
/* Columns c .. c + VL of two rows as pairs. */
static vf pairs_of(const char *one, const char *other, int64_t c, vm m)
{
    const uint16_t *x = (const uint16_t *)(const void *)one, *y = (const void *)other;
    const __m512i lo = x ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, x + c))
                         : _mm512_setzero_si512();
    const __m512i hi = y ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, y + c))
                         : _mm512_setzero_si512();
    return _mm512_castsi512_ps(_mm512_or_si512(lo, _mm512_slli_epi32(hi, 16)));
}
#endif

/* values [group][kv][MR] */
void QW_NAME(att_lay_values)(const qw_attention_args *a, const att_plan *p, int64_t h, int64_t j,
                             float *values)
{
    const int step = p->pairs ? 2 : 1;
    for (int64_t i = j; i < j + VL; i += step) {
        const char *row = i < p->nk ? att_row(&a->v, i, h) : NULL;
        for (int64_t c = 0; c < p->d; c += VL) {
            const vm m = v_first(p->d - c);
            vf x = v_set(0);
#ifdef VEC_BF16_PAIRS
            if (p->pairs) x = pairs_of(row, i + 1 < p->nk ? att_row(&a->v, i + 1, h) : NULL, c, m);
            else
#endif
                if (row)
                x = v_get(a->v.dtype, row, c, m);
            put_parts(x, values + (c / MR * p->kv + i / step) * MR, p->kv * MR, p->vg - c / MR);
        }
    }
}

/* q [kd][NW] */
void QW_NAME(att_lay_queries)(const qw_attention_args *a, const att_plan *p, int64_t h,
                              att_strip *s)
{
    const int64_t group = p->hq / p->hk;
    for (int v = 0; v < s->vectors; v++)
        for (int64_t c = 0; c < p->kd; c += VL) {
            vf r[VL];
            for (int i = 0; i < VL; i++) {
                const int64_t row = s->r0 + v * VL + i;
                r[i] = v * VL + i < s->n
                           ? row_words(&a->q, att_row(&a->q, row / group, h * group + row % group),
                                       c, p->d, p->pairs)
                           : v_set(0);
            }
            v_transpose(r);
            for (int64_t i = 0; i < VL && c + i < p->kd; i++)
                v_store(s->q + (c + i) * NW + v * VL, r[i]);
        }
}

void QW_NAME(att_finish)(const qw_attention_args *a, const att_plan *p, int64_t h,
                         const att_strip *s)
{
    const int64_t group = p->hq / p->hk;
    for (int v = 0; v < s->vectors; v++) {
        const vf by = v_div(v_set(1), v_load(s->sum + v * VL));
        for (int64_t c = 0; c < p->d; c += VL) {
            vf r[VL];
            for (int64_t i = 0; i < VL; i++)
                r[i] = c + i < p->d ? v_mul(v_load(s->o + (c + i) * NW + v * VL), by) : v_set(0);
            v_transpose(r);
            for (int64_t i = 0; i < VL && v * VL + i < s->n; i++) {
                const int64_t row = s->r0 + v * VL + i;
                char *y = (char *)(uintptr_t)att_row(&a->y, row / group, h * group + row % group);
                v_put(a->y.dtype, y, c, v_first(p->d - c), r[i]);
            }
        }
    }
}
