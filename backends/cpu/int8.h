/* int8.h - what the files of the int8 path share: rows of 8-bit codes, and weights as such rows.
 *
 * A set has this path where it has a product of four bytes with four bytes (VEC_DOT4). */
#ifndef QW_INT8_H
#define QW_INT8_H
#include "cpu.h"
#include "vec.h"

#if defined __AVX512VNNI__ && defined __AVX512BW__ && defined __AVX512VL__ && defined __AVX512DQ__
#define VEC_DOT4 1

typedef __m512i vi; /* VL words of 32 bits */

INLINE vi i_load(const void *p) { return _mm512_loadu_si512(p); }
INLINE void i_store(void *p, vi x) { _mm512_storeu_si512(p, x); }
INLINE vi i_set(int32_t x) { return _mm512_set1_epi32(x); }
/* Four bytes from any address, in every lane. */
INLINE vi i_word(const void *p)
{
    int32_t u;
    memcpy(&u, p, sizeof u);
    return _mm512_set1_epi32(u);
}
/* c + four products of unsigned bytes of a with signed bytes of b, in each lane.  With the
 * intrinsic gcc 12 copies each sum of a tile to another register and back: 2.6 times slower. */
INLINE vi i_dot4(vi c, vi a, vi b)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
    return c;
}
/* Which of the first 64 bytes are below n. */
INLINE __mmask64 i_bytes(int64_t n)
{
    return n >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << (n > 0 ? n : 0)) - 1;
}

/* The larger of most and the bits of |x|; numbers that are not finite are above all others. */
INLINE vi i_most(vi most, vf x) { return _mm512_max_epu32(most, _mm512_castps_si512(v_abs(x))); }

/* What a code is worth in a row whose largest magnitude has the bits `most`, by qw_row_quantise's
 * rule; *times: the codes of x are x times this, 0 where the worth is not finite. */
INLINE float code_worth(vi most, float *times)
{
    const uint32_t bits = _mm512_reduce_max_epu32(most);
    float m;
    memcpy(&m, &bits, sizeof m);
    float s = m / 127;
    if (s < 1e-30f) s = 1e-30f;
    *times = bits >= 0x7f800000 ? 0 : 1 / s;
    return s;
}

/* Codes of the lanes m of x. */
INLINE void code_store(int8_t *to, vm m, vf x, vf times)
{
    const vi q = _mm512_cvtps_epi32(_mm512_maskz_mul_ps(m, x, times));
    _mm512_mask_cvtsepi32_storeu_epi8(to, m, q);
}

/* 64 codes of four vectors. */
INLINE vi code_pack(vf a, vf b, vf c, vf d, vf times)
{
    const vi low = _mm512_packs_epi32(_mm512_cvtps_epi32(v_mul(a, times)),
                                      _mm512_cvtps_epi32(v_mul(b, times)));
    const vi high = _mm512_packs_epi32(_mm512_cvtps_epi32(v_mul(c, times)),
                                       _mm512_cvtps_epi32(v_mul(d, times)));
    const vi order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    return _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high));
}

/* n floats as codes; returns what a code is worth. */
INLINE float code_row(const float *x, int64_t n, int8_t *to)
{
    vi most = i_set(0);
    float times;
    for (int64_t l = 0; l < n; l += VL) most = i_most(most, v_load_n(x + l, v_first(n - l)));
    const float s = code_worth(most, &times);
    if (!(times > 0)) {
        memset(to, 0, (size_t)n);
        return s;
    }
    const vf by = v_set(times);
    int64_t l = 0;
    for (; l + 4 * VL <= n; l += 4 * VL)
        i_store(to + l, code_pack(v_load(x + l), v_load(x + l + VL), v_load(x + l + 2 * VL),
                                  v_load(x + l + 3 * VL), by));
    for (; l < n; l += VL) code_store(to + l, v_first(n - l), v_load_n(x + l, v_first(n - l)), by);
    return s;
}

/* 1: weight_codes reads this weight. */
int QW_NAME(codes_of)(const qw_tensor *w);
/* Rows j .. j + rows of w, whole, as codes, out [rows][ld], and what a code of each row is worth,
 * scales of rows included.  room: a row as floats. */
void QW_NAME(weight_codes)(const qw_tensor *w, int64_t j, int64_t rows, int8_t *out, int64_t ld,
                           float *worth, float *room);
#endif
#endif
