/* int8_weights.c - rows of a weight as 8-bit codes: as they lie, or quantised again against the
 * largest element of the row. */
#include "gemm.h"
#include "int8.h"

int QW_NAME(codes_of)(const qw_tensor *w) { return QW_NAME(unpacks)(w); }

/* The largest magnitude decides as bits, which are in the order of magnitudes. */
static float bf16_codes(const uint16_t *w, int64_t n, int8_t *to)
{
    const vi size = _mm512_set1_epi16(0x7fff);
    vi most = i_set(0);
    for (int64_t l = 0; l < n; l += 2 * VL) {
        const __mmask32 m = (__mmask32)i_bytes(n - l < 2 * VL ? n - l : 2 * VL);
        most = _mm512_max_epu16(most, _mm512_and_si512(size, _mm512_maskz_loadu_epi16(m, w + l)));
    }
    const vi odd = _mm512_srli_epi32(most, 16), even = _mm512_and_si512(most, i_set(0xffff));
    float times;
    const float s = code_worth(_mm512_slli_epi32(_mm512_max_epu32(odd, even), 16), &times);
    if (!(times > 0)) {
        memset(to, 0, (size_t)n);
        return s;
    }
    const vf by = v_set(times);
    int64_t l = 0;
    for (; l + 4 * VL <= n; l += 4 * VL)
        i_store(to + l, code_pack(v_load_bf16(w + l), v_load_bf16(w + l + VL),
                                  v_load_bf16(w + l + 2 * VL), v_load_bf16(w + l + 3 * VL), by));
    for (; l < n; l += VL)
        code_store(to + l, v_first(n - l), v_load_bf16_n(w + l, v_first(n - l)), by);
    return s;
}

/* --- blocks ----------------------------------------------------------------------------------- */

INLINE vf half_at(const void *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _mm512_cvtph_ps(_mm256_set1_epi16((short)h));
}

/* VL signed bytes times d. */
INLINE vf bytes_at(const void *p, vf d)
{
    return v_mul(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p))), d);
}

/* Blocks of 32: a scale, then bytes. */
static float q8_0_codes(const char *w, int64_t n, int8_t *to)
{
    enum { BLOCK = 32, BYTES = 34 };
    vi even = i_set(0), odd = i_set(0);
    float times;
    for (int64_t b = 0; b < n / BLOCK; b++) {
        const char *p = w + b * BYTES;
        const vf d = half_at(p);
        even = i_most(even, bytes_at(p + 2, d));
        odd = i_most(odd, bytes_at(p + 2 + VL, d));
    }
    const float s = code_worth(_mm512_max_epu32(even, odd), &times);
    if (!(times > 0)) {
        memset(to, 0, (size_t)n);
        return s;
    }
    const vf by = v_set(times);
    for (int64_t b = 0; b < n / BLOCK; b += 2) {
        const int last = b + 1 == n / BLOCK;
        const char *p = w + b * BYTES, *q = last ? p : p + BYTES;
        const vf d = half_at(p), e = half_at(q);
        const vi codes = code_pack(bytes_at(p + 2, d), bytes_at(p + 2 + VL, d), bytes_at(q + 2, e),
                                   bytes_at(q + 2 + VL, e), by);
        _mm512_mask_storeu_epi8(to + b * BLOCK, i_bytes(last ? BLOCK : 2 * BLOCK), codes);
    }
    return s;
}

enum { SUPER = 256, Q4_K_BYTES = 144, SUBS = 8 };

/* What a step and a minimum of each of the 8 runs of 32 of a superblock are worth: out [16]. */
INLINE void q4_k_scales(const char *p, float *out)
{
    uint32_t u[3];
    memcpy(u, p + 4, sizeof u);
    const uint32_t low = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x03030303;
    const uint32_t step = (u[2] & four) | (u[0] >> 6 & two) << 4;
    const uint32_t least = (u[2] >> 4 & four) | (u[1] >> 6 & two) << 4;
    const __m128i six = _mm_set_epi32((int)least, (int)(u[1] & low), (int)step, (int)(u[0] & low));
    const vf d = _mm512_mask_blend_ps(0xff00, half_at(p), half_at(p + 2));
    v_store(out, v_mul(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(six)), d));
}

/* The 16 numbers that run i of a superblock can hold. */
INLINE vf q4_k_numbers(const float *scales, int i)
{
    const vf code = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return v_sub(v_mul(v_set(scales[i]), code), v_set(scales[SUBS + i]));
}

/* The codes of these numbers, in each quarter of 16 bytes. */
INLINE __m256i q4_k_table(const float *scales, int i, vf by)
{
    const vi codes = _mm512_cvtps_epi32(v_mul(q4_k_numbers(scales, i), by));
    return _mm256_broadcastsi128_si256(_mm512_cvtsepi32_epi8(codes));
}

/* Superblocks of 256: 32 bytes hold a run of 32 in their low halves, the next in the high ones.  A
 * code is looked up among the 16 of its run.  room: 16 floats a superblock. */
static float q4_k_codes(const char *w, int64_t n, int8_t *to, float *room)
{
    vi most = i_set(0);
    float times;
    for (int64_t b = 0; b < n / SUPER; b++) {
        const char *p = w + b * Q4_K_BYTES;
        float *scales = room + b * 2 * SUBS;
        q4_k_scales(p, scales);
        for (int i = 0; i < SUBS; i += 2) {
            const vf low = q4_k_numbers(scales, i), high = q4_k_numbers(scales, i + 1);
            for (int h = 0; h < 2; h++) { /* a lookup takes the low 4 bits of each index */
                const __m128i bytes = _mm_loadu_si128((const void *)(p + 16 + 16 * i + 16 * h));
                const vi at = _mm512_cvtepu8_epi32(bytes);
                most = i_most(most, _mm512_permutexvar_ps(at, low));
                most = i_most(most, _mm512_permutexvar_ps(_mm512_srli_epi32(at, 4), high));
            }
        }
    }
    const float s = code_worth(most, &times);
    if (!(times > 0)) {
        memset(to, 0, (size_t)n);
        return s;
    }
    const vf by = v_set(times);
    const __m256i nibble = _mm256_set1_epi8(15);
    for (int64_t b = 0; b < n / SUPER; b++)
        for (int i = 0; i < SUBS; i += 2) {
            const float *scales = room + b * 2 * SUBS;
            const __m256i x = _mm256_loadu_si256((const void *)(w + b * Q4_K_BYTES + 16 + 16 * i));
            const __m256i low = _mm256_and_si256(x, nibble);
            const __m256i high = _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble);
            int8_t *out = to + b * SUPER + 32 * i;
            _mm256_storeu_si256((void *)out, _mm256_shuffle_epi8(q4_k_table(scales, i, by), low));
            _mm256_storeu_si256((void *)(out + 32),
                                _mm256_shuffle_epi8(q4_k_table(scales, i + 1, by), high));
        }
    return s;
}

/* --- any type --------------------------------------------------------------------------------- */

static float row_codes(const qw_tensor *w, int64_t j, int8_t *to, float *room)
{
    const int64_t k = w->dim[1];
    const char *row = (const char *)w->data + (size_t)j * qw_row_bytes(w->dtype, w->stride[0]);
    switch (w->dtype) {
    case QW_I8: memcpy(to, row, (size_t)k); return 1;
    case QW_BF16: return bf16_codes((const uint16_t *)(const void *)row, k, to);
    case QW_Q8_0: return q8_0_codes(row, k, to);
    case QW_Q4_K: return q4_k_codes(row, k, to, room);
    default: QW_NAME(unpack_f32)(w, j, 1, 0, k, room, k); return code_row(room, k, to);
    }
}

/* Asks for row j, which is read soon. */
static void ask_row(const qw_tensor *w, int64_t j)
{
    if (j >= w->dim[0]) return;
    const size_t step = qw_row_bytes(w->dtype, w->stride[0]);
    const char *row = (const char *)w->data + (size_t)j * step;
    for (size_t l = 0; l < qw_row_bytes(w->dtype, w->dim[1]); l += 64) v_prefetch(row + l);
}

void QW_NAME(weight_codes)(const qw_tensor *w, int64_t j, int64_t rows, int8_t *out, int64_t ld,
                           float *worth, float *room)
{
    const int64_t k = w->dim[1];
    for (int64_t i = 0; i < rows; i++) {
        ask_row(w, j + i + 2);
        const float s = row_codes(w, j + i, out + i * ld, room);
        if (ld > k) memset(out + i * ld + k, 0, (size_t)(ld - k));
        worth[i] = s * QW_NAME(row_scale)(w, j + i);
    }
}
