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

void QW_NAME(weight_codes)(const qw_tensor *w, int64_t j, int64_t rows, int8_t *out, int64_t ld,
                           float *worth, float *room)
{
    const int64_t k = w->dim[1];
    for (int64_t i = 0; i < rows; i++) {
        const char *row = (const char *)w->data
                          + (size_t)(j + i) * qw_row_bytes(w->dtype, w->stride[0]);
        int8_t *to = out + i * ld;
        float s = 1;
        if (w->dtype == QW_I8) memcpy(to, row, (size_t)k);
        else if (w->dtype == QW_BF16) s = bf16_codes((const uint16_t *)(const void *)row, k, to);
        else {
            QW_NAME(unpack_f32)(w, j + i, 1, 0, k, room, k);
            s = code_row(room, k, to);
        }
        if (ld > k) memset(to + k, 0, (size_t)(ld - k));
        worth[i] = s * QW_NAME(row_scale)(w, j + i);
    }
}
