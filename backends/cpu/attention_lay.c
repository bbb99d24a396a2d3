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

#ifdef VEC_DOT4
/* Whole vectors: a masked store is slow to be loaded again. */
void QW_NAME(att_mean)(const qw_attention_args *a, const att_plan *p, int64_t h, float *mean)
{
    for (int64_t c = 0; c < p->d; c += VL) v_store(mean + c, v_set(0));
    for (int64_t j = 0; j < p->nk; j++) {
        const char *row = att_row(&a->k, j, h);
        for (int64_t c = 0; c < p->d; c += VL)
            v_store(mean + c,
                    v_add(v_load(mean + c), v_load_bf16_n((const uint16_t *)(const void *)row + c,
                                                          v_first(p->d - c))));
    }
    for (int64_t c = 0; c < p->d; c += VL)
        v_store(mean + c, v_div(v_load(mean + c), v_set((float)p->nk)));
}

enum { CODES = 256 }; /* bytes of a row of codes, at most; see plan_of */

/* A row, less `mean` unless NULL, as codes, whole vectors of them; returns what they are worth. */
static float code_head(const char *row, int64_t d, const float *mean, int8_t *to)
{
    float x[CODES], times;
    vi most = i_set(0);
    for (int64_t c = 0; c < d; c += VL) {
        const vm m = v_first(d - c);
        vf v = v_load_bf16_n((const uint16_t *)(const void *)row + c, m);
        if (mean) v = v_sub(v, v_load(mean + c)); /* whose lanes beyond d are 0 */
        v_store(x + c, v);
        most = i_most(most, v);
    }
    for (int64_t c = (d + VL - 1) / VL * VL; c % 64; c += VL) v_store(x + c, v_set(0));
    const float s = code_worth(most, &times);
    const vf by = v_set(times);
    for (int64_t c = 0; c < d; c += 64)
        i_store(to + c, code_pack(v_load(x + c), v_load(x + c + VL), v_load(x + c + 2 * VL),
                                  v_load(x + c + 3 * VL), by));
    return s;
}

/* VL rows of codes as [kd][step] words, in parts of MR or whole. */
static void put_codes(int8_t (*code)[CODES], int64_t kd, int keys, float *to)
{
    for (int64_t c = 0; c < kd; c += VL) {
        vf r[VL];
        for (int i = 0; i < VL; i++) r[i] = v_load((const float *)(const void *)(code[i] + 4 * c));
        v_transpose(r);
        for (int64_t i = 0; i < VL && c + i < kd; i++)
            if (keys) put_parts(r[i], to + (c + i) * MR, kd * MR, VL / MR);
            else v_store(to + (c + i) * NW, r[i]);
    }
}

void QW_NAME(att_lay_codes)(const qw_attention_args *a, const att_plan *p, int64_t h, int64_t j,
                            const float *mean, float *keys, float *worth)
{
    int8_t code[VL][CODES];
    for (int64_t i = 0; i < VL; i++) {
        worth[j + i] = 0;
        if (j + i < p->nk) worth[j + i] = code_head(att_row(&a->k, j + i, h), p->d, mean, code[i]);
        else memset(code[i], 0, CODES);
        for (int64_t c = 0; c < p->d; c += 64)
            i_store(code[i] + c, _mm512_xor_si512(i_load(code[i] + c), _mm512_set1_epi8(-128)));
    }
    put_codes(code, p->kd, 1, keys + j * p->kd);
}

void QW_NAME(att_lay_query_codes)(const qw_attention_args *a, const att_plan *p, int64_t h,
                                  att_strip *s)
{
    const int64_t group = p->hq / p->hk;
    int8_t code[VL][CODES];
    for (int64_t v = 0; v < s->vectors; v++) {
        for (int64_t i = 0; i < VL; i++) {
            const int64_t at = v * VL + i, row = s->r0 + at;
            s->worth[at] = 0;
            s->less[at] = 0;
            if (at >= s->n) {
                memset(code[i], 0, CODES);
                continue;
            }
            const char *q = att_row(&a->q, row / group, h * group + row % group);
            s->worth[at] = p->q_scale * code_head(q, p->d, NULL, code[i]);
            vi sum = i_set(0);
            for (int64_t c = 0; c < p->d; c += 64)
                sum = i_dot4(sum, _mm512_set1_epi8(-128), i_load(code[i] + c));
            s->less[at] = -_mm512_reduce_add_epi32(sum);
        }
        put_codes(code, p->kd, 0, s->q + v * VL);
    }
}
#endif

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
#ifdef VEC_DOT4
    if (p->codes) {
        QW_NAME(att_lay_query_codes)(a, p, h, s);
        return;
    }
#endif
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
