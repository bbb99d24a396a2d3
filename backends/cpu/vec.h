/* vec.h - the words that the kernels of the cpu device are written in: a vector of floats, and what
 * an instruction set does with it.
 *
 * The kernel files are compiled once per set, with QW_SET naming it and the compiler's flags
 * allowing its instructions.  A set is a page of this file: VL lanes, load and store of each
 * storage type, arithmetic, and where there is one a product of bf16 pairs.  Partial vectors are
 * loaded with zeros beyond n and stored without touching what lies beyond.
 *
 * Conversions round to nearest even and keep subnormals. */
#ifndef QW_VEC_H
#define QW_VEC_H
#include <math.h>
#include <qwen/tensor.h>
#include <string.h>

#define QW_PASTE_(a, b) a##_##b
#define QW_PASTE(a, b)  QW_PASTE_(a, b)
#define QW_NAME(f)      QW_PASTE(f, QW_SET) /* gemm_avx2 */
#define INLINE          static inline __attribute__((always_inline))
#define VEC_PRAGMA(x)   _Pragma(#x)
#ifdef __clang__
#define UNROLL(n) VEC_PRAGMA(unroll n)
#else
#define UNROLL(n) VEC_PRAGMA(GCC unroll n)
#endif

/* Asks for a cache line of the second level. */
#define v_prefetch(p)       __builtin_prefetch(p, 0, 2)
#define v_prefetch_write(p) __builtin_prefetch(p, 1)

#if defined __AVX512BF16__ && defined __AVX512VL__ && defined __AVX512BW__ && defined __AVX512DQ__
#define VEC_BF16_PAIRS 1
#endif

#if defined __AVX512F__ && defined __AVX512BW__ && defined __AVX512VL__ && defined __AVX512DQ__
/* --- 16 lanes: AVX-512 -------------------------------------------------------------------------- */
#include <immintrin.h>
enum { VL = 16 };
typedef __m512 vf;
typedef __mmask16 vm; /* which lanes are meant */

INLINE vm v_first(int64_t n) { return n >= VL ? 0xffff : (vm)((1u << (n > 0 ? n : 0)) - 1); }
INLINE vf v_set(float x) { return _mm512_set1_ps(x); }
INLINE vf v_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE vf v_load_n(const float *p, vm m) { return _mm512_maskz_loadu_ps(m, p); }
INLINE void v_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
INLINE void v_store_n(float *p, vm m, vf x) { _mm512_mask_storeu_ps(p, m, x); }
INLINE vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
INLINE vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
INLINE vf v_sqrt(vf a) { return _mm512_sqrt_ps(a); }
INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf v_abs(vf a) { return _mm512_abs_ps(a); }
INLINE vf v_round(vf a) { return _mm512_roundscale_ps(a, 8); }
INLINE vf v_keep(vm m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); } /* a where m, else b */
/* x 2^n, n whole and from -252 to 254 */
INLINE vf v_scale2(vf x, vf n) { return _mm512_scalef_ps(x, n); }
INLINE float v_sum(vf a) { return _mm512_reduce_add_ps(a); }
INLINE float v_most(vf a) { return _mm512_reduce_max_ps(a); }
INLINE vf v_from_bf16(__m256i h)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
INLINE vf v_load_bf16(const uint16_t *p)
{
    return v_from_bf16(_mm256_loadu_si256((const void *)p));
}
INLINE vf v_load_bf16_n(const uint16_t *p, vm m)
{
    return v_from_bf16(_mm256_maskz_loadu_epi16(m, p));
}
INLINE vf v_load_f16_n(const uint16_t *p, vm m)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, p));
}
/* The instruction of AVX512_BF16 makes subnormals zero: these are rounded on integers. */
INLINE __m256i v_bf16(vf x)
{
#ifdef VEC_BF16_PAIRS
    if (!_mm512_fpclass_ps_mask(x, 0x20)) return (__m256i)_mm512_cvtneps_pbh(x);
#endif
    const __m512i u = _mm512_castps_si512(x), one = _mm512_set1_epi32(1);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), one);
    const __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i q = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(nan, r, q), 16));
}
INLINE void v_store_bf16(uint16_t *p, vf x) { _mm256_storeu_si256((void *)p, v_bf16(x)); }
INLINE void v_store_bf16_n(uint16_t *p, vm m, vf x) { _mm256_mask_storeu_epi16(p, m, v_bf16(x)); }
INLINE void v_store_f16_n(uint16_t *p, vm m, vf x)
{
    _mm256_mask_storeu_epi16(p, m, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
/* Lanes a0 a0 a1 a1 ... of the first half of a. */
INLINE vf v_twice(const float *p)
{
    const __m512i at = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    return _mm512_permutexvar_ps(at, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}
/* (a, b) -> (b, a) in each pair of lanes; x c -+ y s with - in even lanes. */
INLINE vf v_swap(vf a) { return _mm512_permute_ps(a, 0xb1); }
INLINE vf v_turn(vf x, vf c, vf s) { return _mm512_fmaddsub_ps(x, c, _mm512_mul_ps(v_swap(x), s)); }

/* VL vectors as the columns of themselves.  Bits only: words of any kind. */
INLINE void v_transpose(vf *r)
{
    __m512 t[16];
    UNROLL(4)
    for (int i = 0; i < 16; i += 4) {
        const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(r[i], r[i + 1]));
        const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(r[i], r[i + 1]));
        const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(r[i + 2], r[i + 3]));
        const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(r[i + 2], r[i + 3]));
        t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    UNROLL(4)
    for (int i = 0; i < 4; i++) {
        const __m512 a = _mm512_shuffle_f32x4(t[i], t[4 + i], 0x88);
        const __m512 b = _mm512_shuffle_f32x4(t[8 + i], t[12 + i], 0x88);
        const __m512 c = _mm512_shuffle_f32x4(t[i], t[4 + i], 0xdd);
        const __m512 d = _mm512_shuffle_f32x4(t[8 + i], t[12 + i], 0xdd);
        r[i] = _mm512_shuffle_f32x4(a, b, 0x88);
        r[8 + i] = _mm512_shuffle_f32x4(a, b, 0xdd);
        r[4 + i] = _mm512_shuffle_f32x4(c, d, 0x88);
        r[12 + i] = _mm512_shuffle_f32x4(c, d, 0xdd);
    }
}

#ifdef VEC_BF16_PAIRS
typedef __m512bh vb;
INLINE vb v_pairs(const void *p) { return (vb)_mm512_loadu_si512(p); }
INLINE vb v_pair(const uint16_t *p)
{
    uint32_t u;
    memcpy(&u, p, sizeof u);
    return (vb)_mm512_set1_epi32((int)u);
}
INLINE vf v_dot2(vf c, vb a, vb b) { return _mm512_dpbf16_ps(c, a, b); }
/* n bf16 from any address as VL words, zeros beyond; at most 2 VL. */
INLINE vf v_words(const void *p, int64_t n)
{
    const __mmask32 m = n >= 32 ? 0xffffffffu : (__mmask32)((1u << (n > 0 ? n : 0)) - 1);
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(m, p));
}
#endif

#elif defined __AVX2__ && defined __FMA__ && defined __F16C__
/* --- 8 lanes: AVX2, FMA, F16C ------------------------------------------------------------------- */
#include <immintrin.h>
enum { VL = 8 };
typedef __m256 vf;
typedef __m256i vm;

INLINE vm v_first(int64_t n)
{
    const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n > VL ? VL : n < 0 ? 0 : n)), lane);
}
INLINE int v_count(vm m)
{
    return __builtin_popcount((unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(m)));
}
INLINE vf v_set(float x) { return _mm256_set1_ps(x); }
INLINE vf v_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE vf v_load_n(const float *p, vm m) { return _mm256_maskload_ps(p, m); }
INLINE void v_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
INLINE void v_store_n(float *p, vm m, vf x) { _mm256_maskstore_ps(p, m, x); }
INLINE vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
INLINE vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
INLINE vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
INLINE vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
INLINE vf v_sqrt(vf a) { return _mm256_sqrt_ps(a); }
INLINE vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
INLINE vf v_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INLINE vf v_round(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE vf v_keep(vm m, vf a, vf b) { return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(m)); }
INLINE vf v_scale2(vf x, vf n)
{
    const __m256i e = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(e, 1);
    const __m256i bias = _mm256_set1_epi32(127), rest = _mm256_sub_epi32(e, half);
    const __m256 a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    const __m256 b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(x, a), b);
}
INLINE float v_sum(vf a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
INLINE float v_most(vf a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
INLINE vf v_from_bf16(__m128i h)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
INLINE vf v_load_bf16(const uint16_t *p) { return v_from_bf16(_mm_loadu_si128((const void *)p)); }
INLINE __m128i v_load16_n(const uint16_t *p, vm m)
{
    uint16_t t[8] = { 0 };
    memcpy(t, p, (size_t)v_count(m) * sizeof *t);
    return _mm_loadu_si128((const void *)t);
}
INLINE void v_store16_n(uint16_t *p, vm m, __m128i h)
{
    uint16_t t[8];
    _mm_storeu_si128((void *)t, h);
    memcpy(p, t, (size_t)v_count(m) * sizeof *t);
}
INLINE vf v_load_bf16_n(const uint16_t *p, vm m) { return v_from_bf16(v_load16_n(p, m)); }
INLINE vf v_load_f16_n(const uint16_t *p, vm m) { return _mm256_cvtph_ps(v_load16_n(p, m)); }
INLINE __m128i v_bf16(vf x)
{
    const __m256i u = _mm256_castps_si256(x), one = _mm256_set1_epi32(1);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), one);
    const __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i q = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    const __m256i h = _mm256_srli_epi32(_mm256_blendv_epi8(r, q, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
}
INLINE void v_store_bf16(uint16_t *p, vf x) { _mm_storeu_si128((void *)p, v_bf16(x)); }
INLINE void v_store_bf16_n(uint16_t *p, vm m, vf x) { v_store16_n(p, m, v_bf16(x)); }
INLINE void v_store_f16_n(uint16_t *p, vm m, vf x)
{
    v_store16_n(p, m, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
INLINE vf v_twice(const float *p)
{
    const __m256i at = _mm256_set_epi32(3, 3, 2, 2, 1, 1, 0, 0);
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), at);
}
INLINE vf v_swap(vf a) { return _mm256_permute_ps(a, 0xb1); }
INLINE vf v_turn(vf x, vf c, vf s) { return _mm256_fmaddsub_ps(x, c, _mm256_mul_ps(v_swap(x), s)); }
/* VL vectors as the columns of themselves. */
INLINE void v_transpose(vf *r)
{
    __m256 t[8], u[8];
    UNROLL(4)
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    UNROLL(2)
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    UNROLL(4)
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(u[i], u[4 + i], 0x20);
        r[4 + i] = _mm256_permute2f128_ps(u[i], u[4 + i], 0x31);
    }
}

#elif defined __SSE2__
/* --- 4 lanes: SSE2, what every x86-64 has ------------------------------------------------------- */
#include <emmintrin.h>
enum { VL = 4 };
typedef __m128 vf;
typedef __m128i vm;

INLINE vm v_first(int64_t n)
{
    return _mm_cmpgt_epi32(_mm_set1_epi32((int)(n > VL  ? VL
                                                : n < 0 ? 0
                                                        : n)),
                           _mm_set_epi32(3, 2, 1, 0));
}
INLINE int v_count(vm m)
{
    const int bits = _mm_movemask_ps(_mm_castsi128_ps(m));
    return (bits & 1) + (bits >> 1 & 1) + (bits >> 2 & 1) + (bits >> 3);
}
INLINE vf v_set(float x) { return _mm_set1_ps(x); }
INLINE vf v_load(const float *p) { return _mm_loadu_ps(p); }
INLINE vf v_load_n(const float *p, vm m)
{
    float t[4] = { 0 };
    memcpy(t, p, (size_t)v_count(m) * sizeof *t);
    return _mm_loadu_ps(t);
}
INLINE void v_store(float *p, vf x) { _mm_storeu_ps(p, x); }
INLINE void v_store_n(float *p, vm m, vf x)
{
    float t[4];
    _mm_storeu_ps(t, x);
    memcpy(p, t, (size_t)v_count(m) * sizeof *t);
}
INLINE vf v_add(vf a, vf b) { return _mm_add_ps(a, b); }
INLINE vf v_sub(vf a, vf b) { return _mm_sub_ps(a, b); }
INLINE vf v_mul(vf a, vf b) { return _mm_mul_ps(a, b); }
INLINE vf v_div(vf a, vf b) { return _mm_div_ps(a, b); }
INLINE vf v_sqrt(vf a) { return _mm_sqrt_ps(a); }
INLINE vf v_fma(vf a, vf b, vf c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
INLINE vf v_max(vf a, vf b) { return _mm_max_ps(a, b); }
INLINE vf v_min(vf a, vf b) { return _mm_min_ps(a, b); }
INLINE vf v_abs(vf a) { return _mm_andnot_ps(_mm_set1_ps(-0.0f), a); }
INLINE vf v_round(vf a) /* |a| below 2^22 */
{
    const vf big = _mm_or_ps(_mm_and_ps(a, _mm_set1_ps(-0.0f)), _mm_set1_ps(0x1p23f));
    return _mm_sub_ps(_mm_add_ps(a, big), big);
}
INLINE vf v_keep(vm m, vf a, vf b)
{
    const vf k = _mm_castsi128_ps(m);
    return _mm_or_ps(_mm_and_ps(k, a), _mm_andnot_ps(k, b));
}
INLINE vf v_scale2(vf x, vf n)
{
    const __m128i e = _mm_cvtps_epi32(n), half = _mm_srai_epi32(e, 1);
    const __m128i bias = _mm_set1_epi32(127), rest = _mm_sub_epi32(e, half);
    const __m128 a = _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(half, bias), 23));
    const __m128 b = _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(rest, bias), 23));
    return _mm_mul_ps(_mm_mul_ps(x, a), b);
}
INLINE float v_sum(vf a)
{
    const __m128 s = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
INLINE float v_most(vf a)
{
    const __m128 s = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
INLINE __m128i v_load16_n(const uint16_t *p, int n)
{
    uint16_t t[8] = { 0 };
    memcpy(t, p, (size_t)n * sizeof *t);
    return _mm_loadu_si128((const void *)t);
}
INLINE vf v_from_bf16(__m128i h)
{
    return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), h));
}
INLINE vf v_load_bf16(const uint16_t *p) { return v_from_bf16(_mm_loadl_epi64((const void *)p)); }
INLINE vf v_load_bf16_n(const uint16_t *p, vm m) { return v_from_bf16(v_load16_n(p, v_count(m))); }
INLINE vf v_load_f16_n(const uint16_t *p, vm m)
{
    float t[4] = { 0 };
    uint16_t h[4];
    memcpy(h, p, (size_t)v_count(m) * sizeof *h); /* weights need not be aligned */
    for (int i = 0; i < v_count(m); i++) t[i] = qw_f16_to_f32(h[i]);
    return _mm_loadu_ps(t);
}
INLINE void v_store_bf16_n(uint16_t *p, vm m, vf x)
{
    float t[4];
    _mm_storeu_ps(t, x);
    for (int i = 0; i < v_count(m); i++) p[i] = qw_f32_to_bf16(t[i]);
}
INLINE void v_store_bf16(uint16_t *p, vf x) { v_store_bf16_n(p, v_first(VL), x); }
INLINE void v_store_f16_n(uint16_t *p, vm m, vf x)
{
    float t[4];
    _mm_storeu_ps(t, x);
    for (int i = 0; i < v_count(m); i++) p[i] = qw_f32_to_f16(t[i]);
}
INLINE vf v_twice(const float *p) { return _mm_set_ps(p[1], p[1], p[0], p[0]); }
INLINE vf v_swap(vf a) { return _mm_shuffle_ps(a, a, 0xb1); }
INLINE vf v_turn(vf x, vf c, vf s)
{
    const vf t = _mm_xor_ps(_mm_mul_ps(v_swap(x), s), _mm_set_ps(0.0f, -0.0f, 0.0f, -0.0f));
    return _mm_add_ps(_mm_mul_ps(x, c), t);
}
/* VL vectors as the columns of themselves. */
INLINE void v_transpose(vf *r) { _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]); }
#else
#error "vec.h has no page for this instruction set"
#endif

/* --- the same on every set ---------------------------------------------------------------------- */

/* Lanes m of elements i and on of a row of F32, BF16 or F16; zeros elsewhere. */
INLINE vf v_get(qw_dtype t, const void *row, int64_t i, vm m)
{
    return t == QW_F32    ? v_load_n((const float *)row + i, m)
           : t == QW_BF16 ? v_load_bf16_n((const uint16_t *)row + i, m)
                          : v_load_f16_n((const uint16_t *)row + i, m);
}
INLINE void v_put(qw_dtype t, void *row, int64_t i, vm m, vf x)
{
    if (t == QW_F32) v_store_n((float *)row + i, m, x);
    else if (t == QW_BF16) v_store_bf16_n((uint16_t *)row + i, m, x);
    else v_store_f16_n((uint16_t *)row + i, m, x);
}

/* All lanes. */
INLINE vf v_get_all(qw_dtype t, const void *row, int64_t i)
{
    return t == QW_F32    ? v_load((const float *)row + i)
           : t == QW_BF16 ? v_load_bf16((const uint16_t *)row + i)
                          : v_load_f16_n((const uint16_t *)row + i, v_first(VL));
}
INLINE void v_put_all(qw_dtype t, void *row, int64_t i, vf x)
{
    if (t == QW_F32) v_store((float *)row + i, x);
    else if (t == QW_BF16) v_store_bf16((uint16_t *)row + i, x);
    else v_store_f16_n((uint16_t *)row + i, v_first(VL), x);
}

/* The sums of VL vectors as lanes, each added up as v_sum does; s is overwritten. */
INLINE vf v_sums(vf *s)
{
    v_transpose(s);
    UNROLL(4)
    for (int h = VL / 2; h; h /= 2) UNROLL(8)
    for (int i = 0; i < h; i++) s[i] = v_add(s[i], s[i + h]);
    return s[0];
}

/* e^x: n = round(x / ln 2), a polynomial of x - n ln 2 (in two parts) in [-ln 2 / 2, ln 2 / 2] with
 * relative error 2^-23, times 2^n.  0 below -104, infinity above 88.8. */
INLINE vf v_exp(vf x)
{
    x = v_max(v_set(-105), v_min(v_set(89.5f), x)); /* in this order a NaN stays */
    const vf n = v_round(v_mul(x, v_set(1.44269504f)));
    vf r = v_fma(n, v_set(-0.693359375f), x);
    r = v_fma(n, v_set(2.12194440e-4f), r);
    vf p = v_set(1.9875691500e-4f);
    p = v_fma(p, r, v_set(1.3981999507e-3f));
    p = v_fma(p, r, v_set(8.3334519073e-3f));
    p = v_fma(p, r, v_set(4.1665795894e-2f));
    p = v_fma(p, r, v_set(1.6666665459e-1f));
    p = v_fma(p, r, v_set(5.0000001201e-1f));
    p = v_fma(v_mul(p, r), r, v_add(r, v_set(1)));
    return v_scale2(p, n);
}
INLINE vf v_sigmoid(vf x) { return v_div(v_set(1), v_add(v_set(1), v_exp(v_sub(v_set(0), x)))); }

/* 2^x: n = round(x), a polynomial of x - n with relative error 2^-22.8, times 2^n.  The polynomial is
 * added up in pairs, which is shorter to wait for.  0 below -151, infinity above 128. */
INLINE vf v_exp2(vf x)
{
    x = v_max(v_set(-152), v_min(v_set(129), x)); /* in this order a NaN stays */
    const vf n = v_round(x), r = v_sub(x, n), r2 = v_mul(r, r);
    const vf a = v_fma(v_set(0.693147421f), r, v_set(1.00000012f));
    const vf b = v_fma(v_set(0.0554971099f), r, v_set(0.240219206f));
    const vf c = v_fma(v_set(0.00136502262f), r, v_set(0.00968467724f));
    return v_scale2(v_fma(v_fma(c, r2, b), r2, a), n);
}

/* x / (1 + e^-x) with an error of 2^-22 |x|; where it is small, not relative to itself. */
INLINE vf v_silu(vf x) { return v_div(x, v_add(v_set(1), v_exp2(v_mul(x, v_set(-1.44269504f))))); }
#endif
