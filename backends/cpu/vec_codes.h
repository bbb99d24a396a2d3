/* vec_codes.h - codes of stored weights as vectors: VL bytes become lanes of integers, then floats.
 *
 * A page for each instruction set, as in vec.h.  Every load reads exactly VL codes. */
#ifndef QW_VEC_CODES_H
#define QW_VEC_CODES_H
#include "vec.h"

#if defined __AVX512F__ && defined __AVX512BW__ && defined __AVX512VL__ && defined __AVX512DQ__
/* --- 16 lanes: AVX-512 ------------------------------------------------------------------------ */
typedef __m512i vi;
INLINE __m128i v_bytes(const uint8_t *p) { return _mm_loadu_si128((const void *)p); }
INLINE vi v_u8(const uint8_t *p) { return _mm512_cvtepu8_epi32(v_bytes(p)); }
INLINE vi v_i8(const uint8_t *p) { return _mm512_cvtepi8_epi32(v_bytes(p)); }
INLINE vi v_int(int x) { return _mm512_set1_epi32(x); }
INLINE vi v_and(vi a, vi b) { return _mm512_and_si512(a, b); }
INLINE vi v_or(vi a, vi b) { return _mm512_or_si512(a, b); }
INLINE vi v_plus(vi a, vi b) { return _mm512_add_epi32(a, b); }
INLINE vf v_float(vi a) { return _mm512_cvtepi32_ps(a); }
INLINE float v_half(uint16_t h) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h))); }
INLINE vf v_f16(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
INLINE vf v_f8e5m2(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(v_bytes(p)), 8));
}
/* As f16 with the sign moved up and an exponent that is 8 too small; all ones are a NaN. */
INLINE vf v_f8e4m3(const uint8_t *p)
{
    const __m256i u = _mm256_slli_epi16(_mm256_cvtepi8_epi16(v_bytes(p)), 7);
    const __m256i low = _mm256_set1_epi16(0x3f80), sign = _mm256_set1_epi16((short)0xbf80);
    const __m256i nan = _mm256_cmpeq_epi16(_mm256_and_si256(u, low), low);
    const __m256i h = _mm256_or_si256(_mm256_and_si256(u, sign),
                                      _mm256_and_si256(nan, _mm256_set1_epi16(0x7c00)));
    return _mm512_mul_ps(_mm512_cvtph_ps(h), _mm512_set1_ps(256));
}
/* table[a mod 16], and of two tables [a mod 32] */
#define VEC_LOOKUP 1
INLINE vf v_lookup(vf table, vi a) { return _mm512_permutexvar_ps(a, table); }
INLINE vf v_lookup2(vf low, vf high, vi a) { return _mm512_permutex2var_ps(low, a, high); }
INLINE vf v_iota(void)
{
    return _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
}
#ifdef VEC_BF16_PAIRS
/* 2 VL floats, none of which is subnormal, as bf16. */
INLINE void v_store_bf16_two(uint16_t *p, vf a, vf b)
{
    _mm512_storeu_si512((void *)p, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}
#endif

#elif defined __AVX2__ && defined __FMA__ && defined __F16C__
/* --- 8 lanes: AVX2, FMA, F16C ----------------------------------------------------------------- */
typedef __m256i vi;
INLINE __m128i v_bytes(const uint8_t *p) { return _mm_loadl_epi64((const void *)p); }
INLINE vi v_u8(const uint8_t *p) { return _mm256_cvtepu8_epi32(v_bytes(p)); }
INLINE vi v_i8(const uint8_t *p) { return _mm256_cvtepi8_epi32(v_bytes(p)); }
INLINE vi v_int(int x) { return _mm256_set1_epi32(x); }
INLINE vi v_and(vi a, vi b) { return _mm256_and_si256(a, b); }
INLINE vi v_or(vi a, vi b) { return _mm256_or_si256(a, b); }
INLINE vi v_plus(vi a, vi b) { return _mm256_add_epi32(a, b); }
INLINE vf v_float(vi a) { return _mm256_cvtepi32_ps(a); }
INLINE float v_half(uint16_t h) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h))); }
INLINE vf v_f16(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)); }
INLINE vf v_f8e5m2(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(v_bytes(p)), 8));
}
INLINE vf v_f8e4m3(const uint8_t *p)
{
    const __m128i u = _mm_slli_epi16(_mm_cvtepi8_epi16(v_bytes(p)), 7);
    const __m128i low = _mm_set1_epi16(0x3f80), sign = _mm_set1_epi16((short)0xbf80);
    const __m128i nan = _mm_cmpeq_epi16(_mm_and_si128(u, low), low);
    const __m128i h =
        _mm_or_si128(_mm_and_si128(u, sign), _mm_and_si128(nan, _mm_set1_epi16(0x7c00)));
    return _mm256_mul_ps(_mm256_cvtph_ps(h), _mm256_set1_ps(256));
}

#elif defined __SSE2__
/* --- 4 lanes: SSE2 ---------------------------------------------------------------------------- */
typedef __m128i vi;
INLINE __m128i v_bytes(const uint8_t *p)
{
    int32_t u;
    memcpy(&u, p, sizeof u);
    return _mm_cvtsi32_si128(u);
}
INLINE vi v_u8(const uint8_t *p)
{
    const __m128i zero = _mm_setzero_si128();
    return _mm_unpacklo_epi16(_mm_unpacklo_epi8(v_bytes(p), zero), zero);
}
INLINE vi v_i8(const uint8_t *p)
{
    const __m128i b = v_bytes(p), twice = _mm_unpacklo_epi8(b, b);
    return _mm_srai_epi32(_mm_unpacklo_epi16(twice, twice), 24);
}
INLINE vi v_int(int x) { return _mm_set1_epi32(x); }
INLINE vi v_and(vi a, vi b) { return _mm_and_si128(a, b); }
INLINE vi v_or(vi a, vi b) { return _mm_or_si128(a, b); }
INLINE vi v_plus(vi a, vi b) { return _mm_add_epi32(a, b); }
INLINE vf v_float(vi a) { return _mm_cvtepi32_ps(a); }
INLINE float v_half(uint16_t h) { return qw_f16_to_f32(h); }
INLINE vf v_f16(const uint8_t *p)
{
    uint16_t h[4];
    memcpy(h, p, sizeof h);
    return _mm_set_ps(qw_f16_to_f32(h[3]), qw_f16_to_f32(h[2]), qw_f16_to_f32(h[1]),
                      qw_f16_to_f32(h[0]));
}
INLINE vf v_f8e5m2(const uint8_t *p)
{
    return _mm_set_ps(qw_f8e5m2_to_f32(p[3]), qw_f8e5m2_to_f32(p[2]), qw_f8e5m2_to_f32(p[1]),
                      qw_f8e5m2_to_f32(p[0]));
}
INLINE vf v_f8e4m3(const uint8_t *p)
{
    return _mm_set_ps(qw_f8e4m3_to_f32(p[3]), qw_f8e4m3_to_f32(p[2]), qw_f8e4m3_to_f32(p[1]),
                      qw_f8e4m3_to_f32(p[0]));
}
#endif

/* --- the same on every set -------------------------------------------------------------------- */

/* Logical shifts of each lane; immediate ones where n is a constant. */
typedef uint32_t vec_lanes __attribute__((vector_size(4 * VL)));
INLINE vi v_right(vi a, int n) { return (vi)((vec_lanes)a >> n); }
INLINE vi v_left(vi a, int n) { return (vi)((vec_lanes)a << n); }
#endif
