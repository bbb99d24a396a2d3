/* decode.c - blocks of GGUF and microscaled types, and every plain type, to floats.
 *
 * The only place with the layouts (ggml-org/ggml, src/ggml-common.h; IQ1 to IQ3 are in
 * decode_iq.c).  A block is read byte by byte, so its memory need not be aligned.  In the layouts
 * below d, m and dmin are f16.  Every value is exact but for the rounding of one f32 operation. */
#include "core/decode_tables.h"
#include <string.h>

typedef unsigned char byte;

static unsigned u16(const byte *p) { return (unsigned)p[0] | (unsigned)p[1] << 8; }
static unsigned u32(const byte *p) { return u16(p) | u16(p + 2) << 16; }
static float half(const byte *p) { return qw_f16_to_f32((uint16_t)u16(p)); }

/* --- blocks of 32 ---------------------------------------------------------------------------- */

/* {d; i8 q[32]}: y = d q */
static void q8_0(const byte *s, float *y)
{
    const float d = half(s);
    for (int j = 0; j < 32; j++) y[j] = d * (float)(int8_t)s[2 + j];
}

/* {d; u8 q[16]}: elements j and j + 16 are the nibbles of q[j]; y = d (q - 8) */
static void q4_0(const byte *s, float *y)
{
    const float d = half(s);
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)((s[2 + j] & 15) - 8);
        y[j + 16] = d * (float)((s[2 + j] >> 4) - 8);
    }
}

/* {d; m; u8 q[16]}: y = d q + m */
static void q4_1(const byte *s, float *y)
{
    const float d = half(s), m = half(s + 2);
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)(s[4 + j] & 15) + m;
        y[j + 16] = d * (float)(s[4 + j] >> 4) + m;
    }
}

/* {d; u32 h; u8 q[16]}: bit j of h is the fifth bit of element j; y = d (q - 16) */
static void q5_0(const byte *s, float *y)
{
    const float d = half(s);
    const unsigned h = u32(s + 2);
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)((int)((s[6 + j] & 15u) | (h >> j & 1) << 4) - 16);
        y[j + 16] = d * (float)((int)((unsigned)s[6 + j] >> 4 | (h >> (j + 16) & 1) << 4) - 16);
    }
}

/* {d; m; u32 h; u8 q[16]}: y = d q + m */
static void q5_1(const byte *s, float *y)
{
    const float d = half(s), m = half(s + 2);
    const unsigned h = u32(s + 4);
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)((s[8 + j] & 15u) | (h >> j & 1) << 4) + m;
        y[j + 16] = d * (float)((unsigned)s[8 + j] >> 4 | (h >> (j + 16) & 1) << 4) + m;
    }
}

static const float iq4[16] = { -127, -104, -83, -65, -49, -35, -22, -10,
                               1,    13,   25,  38,  53,  69,  89,  113 };

/* 16 bytes of nibbles that index the table above. */
static void nonlinear(float d, const byte *q, float *y)
{
    for (int j = 0; j < 16; j++) {
        y[j] = d * iq4[q[j] & 15];
        y[j + 16] = d * iq4[q[j] >> 4];
    }
}

/* {d; u8 q[16]} */
static void iq4_nl(const byte *s, float *y) { nonlinear(half(s), s + 2, y); }

/* --- blocks of 256 --------------------------------------------------------------------------- */

/* {u8 scales[16]; u8 q[64]; d; dmin}: 16 groups of 16; y = d (scale & 15) q - dmin (scale >> 4) */
static void q2_k(const byte *s, float *y)
{
    const float d = half(s + 80), dmin = half(s + 82);
    for (int g = 0; g < 16; g++, y += 16) {
        const byte *q = s + 16 + 32 * (g / 8) + 16 * (g % 2);
        const int shift = g % 8 / 2 * 2;
        const float scale = d * (float)(s[g] & 15), min = dmin * (float)(s[g] >> 4);
        for (int j = 0; j < 16; j++) y[j] = scale * (float)(q[j] >> shift & 3) - min;
    }
}

/* {u8 hmask[32]; u8 q[64]; u8 scales[12]; d}: 16 groups of 16 with 6-bit scales (4 low bits in
 * scales[0..7], 2 high ones in scales[8..11]); a clear mask bit subtracts 4;
 * y = d (scale - 32) q */
static void q3_k(const byte *s, float *y)
{
    const byte *low = s + 96, *high = s + 104;
    const float d = half(s + 108);
    for (int g = 0; g < 16; g++, y += 16) {
        const byte *q = s + 32 + 32 * (g / 8) + 16 * (g % 2), *mask = s + 16 * (g % 2);
        const int shift = g % 8 / 2 * 2, bit = g / 2;
        const int scale = (low[g % 8] >> 4 * (g / 8) & 15) | (high[g % 4] >> 2 * (g / 4) & 3) << 4;
        const float f = d * (float)(scale - 32);
        for (int j = 0; j < 16; j++)
            y[j] = f * (float)((q[j] >> shift & 3) - (mask[j] >> bit & 1 ? 0 : 4));
    }
}

/* The 6-bit scale and minimum of sub-block j of Q4_K and Q5_K, from their 12 bytes. */
static void scale_and_min(const byte *s, int j, int *scale, int *min)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
        *min = s[j + 4] >> 4 | s[j] >> 6 << 4;
    }
}

/* {d; dmin; u8 scales[12]; u8 q[128]}: 8 sub-blocks of 32, two to a run of 32 bytes (low nibbles,
 * then high); y = d scale q - dmin min */
static void q4_k(const byte *s, float *y)
{
    const float d = half(s), dmin = half(s + 2);
    for (int b = 0; b < 8; b++, y += 32) {
        const byte *q = s + 16 + 32 * (b / 2);
        int scale, min;
        scale_and_min(s + 4, b, &scale, &min);
        const float f = d * (float)scale, m = dmin * (float)min;
        for (int j = 0; j < 32; j++) y[j] = f * (float)(q[j] >> 4 * (b % 2) & 15) - m;
    }
}

/* {d; dmin; u8 scales[12]; u8 h[32]; u8 q[128]}: as Q4_K, bit b of h[j] is the fifth bit */
static void q5_k(const byte *s, float *y)
{
    const float d = half(s), dmin = half(s + 2);
    const byte *h = s + 16;
    for (int b = 0; b < 8; b++, y += 32) {
        const byte *q = s + 48 + 32 * (b / 2);
        int scale, min;
        scale_and_min(s + 4, b, &scale, &min);
        const float f = d * (float)scale, m = dmin * (float)min;
        for (int j = 0; j < 32; j++)
            y[j] = f * (float)((q[j] >> 4 * (b % 2) & 15) + (h[j] >> b & 1) * 16) - m;
    }
}

/* {u8 low[128]; u8 high[64]; i8 scales[16]; d}: 16 groups of 16; y = d scale (q - 32).  Each half
 * of 128 elements has four runs of 32: the low nibbles of low[0..31] and low[32..63], then the high
 * ones; run r takes bits 2r of high[0..31]. */
static void q6_k(const byte *s, float *y)
{
    const float d = half(s + 208);
    for (int g = 0; g < 16; g++, y += 16) {
        const int run = g % 8 / 2, at = g % 2 * 16;
        const byte *low = s + 64 * (g / 8) + 32 * (run % 2) + at;
        const byte *high = s + 128 + 32 * (g / 8) + at;
        const float f = d * (float)(int8_t)s[192 + g];
        for (int j = 0; j < 16; j++) {
            const int q = (low[j] >> 4 * (run / 2) & 15) | (high[j] >> 2 * run & 3) << 4;
            y[j] = f * (float)(q - 32);
        }
    }
}

/* {d; u16 high; u8 low[4]; u8 q[128]}: 8 sub-blocks of 32, 6-bit scales;
 * y = d (scale - 32) table[q] */
static void iq4_xs(const byte *s, float *y)
{
    const float d = half(s);
    const unsigned high = u16(s + 2);
    for (int b = 0; b < 8; b++) {
        const int scale = (s[4 + b / 2] >> 4 * (b % 2) & 15) | (int)(high >> 2 * b & 3) << 4;
        nonlinear(d * (float)(scale - 32), s + 8 + 16 * b, y + 32 * b);
    }
}

/* --- four-bit floats and microscaled codes (their scales lie elsewhere) ---------------------- */

/* e2m1, OCP Microscaling Formats 1.0 */
static const float e2m1[16] = { 0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                                -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6 };

static void mxfp8(const byte *s, float *y)
{
    for (int j = 0; j < 32; j++) y[j] = qw_f8e4m3_to_f32(s[j]);
}

/* The even column is in the high nibble. */
static void nvfp4(const byte *s, float *y)
{
    for (int j = 0; j < 8; j++) {
        y[2 * j] = e2m1[s[j] >> 4];
        y[2 * j + 1] = e2m1[s[j] & 15];
    }
}

/* Two to a byte, the first in the low nibble. */
static void f4(const byte *s, float *y)
{
    y[0] = e2m1[*s & 15];
    y[1] = e2m1[*s >> 4];
}

/* --- plain types: one element ---------------------------------------------------------------- */

#define PLAIN(name, type, value)              \
    static void name(const byte *s, float *y) \
    {                                         \
        type v;                               \
        memcpy(&v, s, sizeof v);              \
        *y = value;                           \
    }
PLAIN(f64, double, (float)v)
PLAIN(f32, float, v)
PLAIN(f16, uint16_t, qw_f16_to_f32(v))
PLAIN(bf16, uint16_t, qw_bf16_to_f32(v))
PLAIN(f8e4m3, uint8_t, qw_f8e4m3_to_f32(v))
PLAIN(f8e5m2, uint8_t, qw_f8e5m2_to_f32(v))
PLAIN(f8e8m0, uint8_t, qw_f8e8m0_to_f32(v))
PLAIN(i8, int8_t, (float)v)
PLAIN(i16, int16_t, (float)v)
PLAIN(i32, int32_t, (float)v)
PLAIN(i64, int64_t, (float)v)
PLAIN(u8, uint8_t, (float)v)
PLAIN(u32_, uint32_t, (float)v)
PLAIN(u16_, uint16_t, (float)v)
PLAIN(u64, uint64_t, (float)v)
#undef PLAIN

static void (*const decoder[QW_NDTYPES])(const byte *src, float *dst) = {
    [QW_F64] = f64,
    [QW_F32] = f32,
    [QW_F16] = f16,
    [QW_BF16] = bf16,
    [QW_I32] = i32,
    [QW_F8E4M3] = f8e4m3,
    [QW_F8E5M2] = f8e5m2,
    [QW_I8] = i8,
    [QW_Q8_0] = q8_0,
    [QW_Q4_0] = q4_0,
    [QW_Q4_1] = q4_1,
    [QW_Q5_0] = q5_0,
    [QW_Q5_1] = q5_1,
    [QW_Q2_K] = q2_k,
    [QW_Q3_K] = q3_k,
    [QW_Q4_K] = q4_k,
    [QW_Q5_K] = q5_k,
    [QW_Q6_K] = q6_k,
    [QW_IQ4_NL] = iq4_nl,
    [QW_IQ4_XS] = iq4_xs,
    [QW_MXFP8] = mxfp8,
    [QW_NVFP4] = nvfp4,
    [QW_IQ1_S] = qw_block_iq1_s,
    [QW_IQ1_M] = qw_block_iq1_m,
    [QW_IQ2_XXS] = qw_block_iq2_xxs,
    [QW_IQ2_XS] = qw_block_iq2_xs,
    [QW_IQ2_S] = qw_block_iq2_s,
    [QW_IQ3_XXS] = qw_block_iq3_xxs,
    [QW_IQ3_S] = qw_block_iq3_s,
    [QW_U8] = u8,
    [QW_I16] = i16,
    [QW_I64] = i64,
    [QW_U16] = u16_,
    [QW_U32] = u32_,
    [QW_U64] = u64,
    [QW_BOOL] = u8,
    [QW_F8E8M0] = f8e8m0,
    [QW_F4] = f4,
};

void qw_decode_f32(qw_dtype t, const void *src, int64_t n, float *dst)
{
    const byte *s = src;
    if (t == QW_F32) {
        memcpy(dst, src, (size_t)n * sizeof *dst);
        return;
    }
    if ((int)t <= QW_NONE || t >= QW_NDTYPES) return;
    const int64_t elements = qw_block_elements(t);
    const size_t bytes = qw_block_bytes(t);
    for (int64_t i = 0; i < n; i += elements, s += bytes) decoder[t](s, dst + i);
}
