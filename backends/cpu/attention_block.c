/* attention_block.c - scores, weights and weighted values of one strip of queries.
 *
 * Weights are 2^(score - offset).  The offset of a query is a score that was its largest once; it grows
 * only when a score exceeds it by RISE, so that sums are rarely rescaled.  Weights below 2^RISE and a
 * largest one of 1 or more lose nothing: floats and bf16 have the same exponents. */
#include "attention.h"

#define RISE 16.0f

/* c [MR][NW] (+)= a [k][MR] words, transposed, times w [k][NW] words; V vectors of columns. */
INLINE void tile(const int V, const int pairs, const float *a, const float *w, int64_t k, float *c,
                 int more)
{
    vf s[MR][NV];
    UNROLL(8)
    for (int r = 0; r < MR; r++) UNROLL(4)
    for (int v = 0; v < V; v++) s[r][v] = more ? v_load(c + r * NW + v * VL) : v_set(0);
    for (int64_t l = 0; l < k; l++) {
#ifdef VEC_BF16_PAIRS
        if (pairs) {
            vb b[NV];
            UNROLL(4)
            for (int v = 0; v < V; v++)
                b[v] = v_pairs((const uint32_t *)(const void *)w + l * NW + v * VL);
            UNROLL(8)
            for (int r = 0; r < MR; r++) {
                const vb x = v_pair((const uint16_t *)(const void *)(a + l * MR + r));
                UNROLL(4)
                for (int v = 0; v < V; v++) s[r][v] = v_dot2(s[r][v], x, b[v]);
            }
            continue;
        }
#endif
        vf b[NV];
        UNROLL(4)
        for (int v = 0; v < V; v++) b[v] = v_load(w + l * NW + v * VL);
        UNROLL(8)
        for (int r = 0; r < MR; r++) {
            const vf x = v_set(a[l * MR + r]);
            UNROLL(4)
            for (int v = 0; v < V; v++) s[r][v] = v_fma(x, b[v], s[r][v]);
        }
    }
    (void)pairs;
    UNROLL(8)
    for (int r = 0; r < MR; r++) UNROLL(4)
    for (int v = 0; v < V; v++) v_store(c + r * NW + v * VL, s[r][v]);
}

static void product(int V, int pairs, const float *a, const float *w, int64_t k, float *c, int more)
{
    switch (V * 2 + pairs) {
    case 2: tile(1, 0, a, w, k, c, more); break;
    case 4: tile(2, 0, a, w, k, c, more); break;
#if defined __AVX2__
    case 6: tile(3, 0, a, w, k, c, more); break;
#endif
#ifdef VEC_BF16_PAIRS
    case 3: tile(1, 1, a, w, k, c, more); break;
    case 5: tile(2, 1, a, w, k, c, more); break;
    case 7: tile(3, 1, a, w, k, c, more); break;
#endif
    default: break;
    }
}

#ifdef VEC_DOT4
/* score [MR][NW] of codes: keys [k][MR] words, worth [MR], times the queries of a strip. */
INLINE void tile_codes(const int V, const float *keys, const float *worth, const att_strip *q,
                       int64_t k, float *score)
{
    vi s[MR][NV];
    const float *w = q->q;
    UNROLL(4)
    for (int v = 0; v < V; v++) {
        const vi less = i_load(q->less + v * VL);
        UNROLL(8)
        for (int r = 0; r < MR; r++) s[r][v] = less;
    }
    for (int64_t l = 0; l < k; l++) {
        vi b[NV];
        UNROLL(4)
        for (int v = 0; v < V; v++) b[v] = i_load(w + l * NW + v * VL);
        UNROLL(8)
        for (int r = 0; r < MR; r++) {
            const vi x = i_word(keys + l * MR + r);
            UNROLL(4)
            for (int v = 0; v < V; v++) s[r][v] = i_dot4(s[r][v], x, b[v]);
        }
    }
    UNROLL(4)
    for (int v = 0; v < V; v++) {
        const vf by = v_load(q->worth + v * VL);
        UNROLL(8)
        for (int r = 0; r < MR; r++)
            v_store(score + r * NW + v * VL,
                    v_mul(v_mul(_mm512_cvtepi32_ps(s[r][v]), v_set(worth[r])), by));
    }
}

static void product_codes(int V, const float *keys, const float *worth, const att_strip *q,
                          int64_t k, float *score)
{
    if (V == 1) tile_codes(1, keys, worth, q, k, score);
    else if (V == 2) tile_codes(2, keys, worth, q, k, score);
    else tile_codes(3, keys, worth, q, k, score);
}
#endif

/* Scores of keys j .. j + MR. */
static void score_tile(const att_plan *p, const att_strip *s, int64_t j, const float *keys,
                       float *score)
{
#ifdef VEC_DOT4
    if (p->codes) {
        const float *worth = (const float *)(const void *)((const char *)keys + p->worth);
        product_codes(s->vectors, keys + j * p->kd, worth + j, s, p->kd, score);
        return;
    }
#endif
    product(s->vectors, p->pairs, keys + j * p->kd, s->q, p->kd, score, 0);
}

/* 2^x, x at most 126: n = round(x), a polynomial of x - n with relative error 2^-22.8, times 2^n; 0
 * below -151. */
INLINE vf exp2_of(vf x)
{
    x = v_max(v_set(-152), x); /* in this order a NaN stays */
    const vf n = v_round(x), r = v_sub(x, n);
    vf p = v_set(0.00136502262f);
    p = v_fma(p, r, v_set(0.00968467724f));
    p = v_fma(p, r, v_set(0.0554971099f));
    p = v_fma(p, r, v_set(0.240219206f));
    p = v_fma(p, r, v_set(0.693147421f));
    p = v_fma(p, r, v_set(1.00000012f));
    return v_scale2(p, n);
}

#ifdef VEC_BF16_PAIRS
/* Two rows of weights as pairs of bf16, rounded to nearest, ties away from zero; weights are not
 * negative, and a NaN stays one. */
INLINE vf pair_up(vf x, vf y)
{
    const __m512i half = _mm512_set1_epi32(0x8000);
    const __m512i a = _mm512_add_epi32(_mm512_castps_si512(x), half);
    const __m512i b = _mm512_add_epi32(_mm512_castps_si512(y), half);
    return _mm512_castsi512_ps(_mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(a, 16), b));
}
#endif

/* Is a lane of x larger than that of y? */
INLINE int any_above(vf x, vf y)
{
#if defined __AVX512F__
    return _mm512_cmp_ps_mask(x, y, _CMP_GT_OQ) != 0;
#elif defined __AVX2__
    return _mm256_movemask_ps(_mm256_cmp_ps(x, y, _CMP_GT_OQ)) != 0;
#else
    return _mm_movemask_ps(_mm_cmpgt_ps(x, y)) != 0;
#endif
}

/* Scores [MR][NW] of keys from j: -infinity where the query does not see the key. */
static void hide(const att_strip *s, int64_t j, float *score)
{
    for (int i = 0; i < MR; i++)
        for (int r = 0; r < NW; r++)
            if (j + i < s->from[r] || j + i >= s->to[r]) score[i * NW + r] = -INFINITY;
}

INLINE vf largest(const float *score, int v)
{
    vf m = v_load(score + v * VL);
    UNROLL(8)
    for (int i = 1; i < MR; i++) m = v_max(m, v_load(score + i * NW + v * VL));
    return m;
}

/* Is a score too far above its offset? */
static int exceeds(const att_plan *p, const att_strip *s, const float *score)
{
    int any = 0;
    for (int v = 0; v < s->vectors; v++)
        any |= any_above(v_mul(largest(score, v), v_set(p->scale)), v_load(s->limit + v * VL));
    return any;
}

/* Offsets up to the largest scores, and what was summed so far with them. */
static void grow(const att_plan *p, att_strip *s, const float *score)
{
    for (int v = 0; v < s->vectors; v++) {
        float top[VL], factor[VL];
        v_store(top, v_mul(largest(score, v), v_set(p->scale)));
        for (int i = 0; i < VL; i++) {
            const int r = v * VL + i;
            const int up = top[i] > s->limit[r];
            factor[i] = up ? -s->minus[r] - top[i] : 0; /* at first there are only zeros */
            if (up) s->minus[r] = -top[i], s->limit[r] = top[i] + RISE;
        }
        const vf by = exp2_of(v_min(v_load(factor), v_set(0)));
        v_store(s->sum + v * VL, v_mul(v_load(s->sum + v * VL), by));
        for (int64_t c = 0; c < p->vg * MR; c++)
            v_store(s->o + c * NW + v * VL, v_mul(v_load(s->o + c * NW + v * VL), by));
    }
}

/* Weights w [MR][NW] (or pairs of them) of scores, and their sums. */
INLINE void weigh_tile(const int V, const int pairs, const att_plan *p, att_strip *s,
                       const float *score, float *w)
{
    const vf scale = v_set(p->scale);
    UNROLL(4)
    for (int v = 0; v < V; v++) {
        const vf minus = v_load(s->minus + v * VL);
        vf sum = v_set(0);
        UNROLL(4)
        for (int i = 0; i < MR; i += 2) {
            const float *z = score + i * NW + v * VL;
            const vf x = exp2_of(v_fma(v_load(z), scale, minus));
            const vf y = exp2_of(v_fma(v_load(z + NW), scale, minus));
            sum = v_add(sum, v_add(x, y));
#ifdef VEC_BF16_PAIRS
            if (pairs) {
                v_store(w + i / 2 * NW + v * VL, pair_up(x, y));
                continue;
            }
#endif
            (void)pairs;
            v_store(w + i * NW + v * VL, x);
            v_store(w + (i + 1) * NW + v * VL, y);
        }
        v_store(s->sum + v * VL, v_add(v_load(s->sum + v * VL), sum));
    }
}

static void weigh(const att_plan *p, att_strip *s, const float *score, float *w)
{
    switch (s->vectors * 2 + p->pairs) {
    case 2: weigh_tile(1, 0, p, s, score, w); break;
    case 4: weigh_tile(2, 0, p, s, score, w); break;
#if defined __AVX2__
    case 6: weigh_tile(3, 0, p, s, score, w); break;
#endif
#ifdef VEC_BF16_PAIRS
    case 3: weigh_tile(1, 1, p, s, score, w); break;
    case 5: weigh_tile(2, 1, p, s, score, w); break;
    case 7: weigh_tile(3, 1, p, s, score, w); break;
#endif
    default: break;
    }
}

/* o += values b .. end, weighted. */
static void add_values(const att_plan *p, att_strip *s, int64_t b, int64_t end, const float *values,
                       const float *w)
{
    const int step = p->pairs ? 2 : 1;
    if (b >= end) return;
    for (int64_t g = 0; g < p->vg; g++)
        product(s->vectors, p->pairs, values + (g * p->kv + b / step) * MR, w, (end - b) / step,
                s->o + g * MR * NW, 1);
}

/* The weights of a tile of scores are computed after the scores of the next one: neither waits for the
 * other, and the processor overlaps them. */
void QW_NAME(att_block)(const att_plan *p, att_strip *s, int64_t b, int64_t end, const float *keys,
                        const float *values, float *w)
{
    float score[2][MR * NW];
    const int64_t tile_words = (p->pairs ? MR / 2 : MR) * NW;
    int64_t done = b; /* keys before it are in o */
    float *to = w;
    for (int64_t j = b; j < end + MR; j += MR) {
        if (j < end) score_tile(p, s, j, keys, score[j / MR & 1]);
        const int64_t i = j - MR; /* the tile before */
        if (i < b) continue;
        float *z = score[i / MR & 1];
        if (i < s->all || i + MR > s->none) hide(s, i, z);
        if (exceeds(p, s, z)) {
            add_values(p, s, done, i, values, w);
            grow(p, s, z);
            done = i;
            to = w;
        }
        weigh(p, s, z, to);
        to += tile_words;
    }
    if (end > b) add_values(p, s, done, (end + MR - 1) / MR * MR, values, w);
}
