/* decode_iq.c - GGUF's IQ1, IQ2 and IQ3 blocks: points of a fixed grid, times a scale, with signs.
 *
 * All have 256 elements in 8 groups of 32.  A grid point is 8 (IQ1, IQ2) or 4 (IQ3) elements.
 * Layouts as in ggml-org/ggml, src/ggml-common.h and ggml-quants.c (dequantize_row_iq*).  The
 * arithmetic is exact in f32: at most 11 bits of d, 5 of the scale, 6 of the grid. */
#define QW_QUANT_GRIDS
#include "core/decode_tables.h"

typedef unsigned char byte;

static const float digit2[4] = { 8, 25, 43, 0 };
static const float digit3_xxs[8] = { 4, 12, 20, 28, 36, 44, 52, 62 };
static const float digit3_s[8] = { 1, 3, 5, 7, 9, 11, 13, 15 };

static unsigned u16(const byte *p) { return (unsigned)p[0] | (unsigned)p[1] << 8; }
static unsigned u32(const byte *p) { return u16(p) | u16(p + 2) << 16; }
static float half(const byte *p) { return qw_f16_to_f32((uint16_t)u16(p)); }

/* Seven stored signs; the eighth makes the number of minus signs even. */
static unsigned eight_signs(unsigned seven)
{
    unsigned parity = seven ^ seven >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return seven | (parity & 1) << 7;
}

/* y = scale * grid point of eight two-bit digits, bit e of signs negates element e. */
static void point8(float scale, unsigned digits, unsigned signs, float *y)
{
    for (int e = 0; e < 8; e++) {
        const float v = scale * digit2[digits >> 2 * e & 3];
        y[e] = signs >> e & 1 ? -v : v;
    }
}

/* The same for four digits of three bits, in nibbles. */
static void point4(float scale, const float *meaning, unsigned digits, unsigned signs, float *y)
{
    for (int e = 0; e < 4; e++) {
        const float v = scale * meaning[digits >> 4 * e & 7];
        y[e] = signs >> e & 1 ? -v : v;
    }
}

/* y = scale * (grid point + delta), coordinates -1, 0, 1. */
static void point_ternary(float scale, unsigned digits, float delta, float *y)
{
    for (int e = 0; e < 8; e++) y[e] = scale * ((float)((int)(digits >> 2 * e & 3) - 1) + delta);
}

/* {d; u8 qs[32]; u16 qh[8]}: a group's qh has 3 high index bits per point, 3 scale bits, and a sign
 * of delta. */
void qw_block_iq1_s(const byte *src, float *dst)
{
    const float d = half(src);
    const byte *qs = src + 2, *qh = src + 34;
    for (int g = 0; g < 8; g++) {
        const unsigned h = u16(qh + 2 * g);
        const float scale = d * (float)(2 * (h >> 12 & 7) + 1);
        const float delta = h & 0x8000 ? -0.125f : 0.125f;
        for (int p = 4 * g; p < 4 * g + 4; p++) {
            const unsigned index = qs[p] | (h >> 3 * (p % 4) & 7) << 8;
            point_ternary(scale, iq1_grid[index], delta, dst + 8 * p);
        }
    }
}

/* {u8 qs[32]; u8 qh[16]; u16 sc[4]}: a nibble of qh has 3 index bits and a sign of delta for one
 * point; sc has 3 bits for each 16 elements, and d in the four top nibbles. */
void qw_block_iq1_m(const byte *src, float *dst)
{
    const byte *qs = src, *qh = src + 32, *sc = src + 48;
    const unsigned code = u16(sc) >> 12 | (u16(sc + 2) >> 8 & 0xf0) | (u16(sc + 4) >> 4 & 0xf00)
                          | (u16(sc + 6) & 0xf000);
    const float d = qw_f16_to_f32((uint16_t)code);
    for (int p = 0; p < 32; p++) {
        const unsigned h = qh[p / 2] >> 4 * (p % 2) & 15;
        const unsigned s = u16(sc + 2 * (p / 8)) >> 3 * (p / 2 % 4) & 7;
        const float delta = h & 8 ? -0.125f : 0.125f;
        point_ternary(d * (float)(2 * s + 1), iq1_grid[qs[p] | (h & 7) << 8], delta, dst + 8 * p);
    }
}

/* {d; {u8 point[4]; u32: 4 x 7 signs, 4 scale bits}[8]} */
void qw_block_iq2_xxs(const byte *src, float *dst)
{
    const float d = half(src);
    for (int g = 0; g < 8; g++) {
        const byte *q = src + 2 + 8 * g;
        const unsigned signs = u32(q + 4);
        const float scale = d * (0.5f + (float)(signs >> 28)) * 0.25f;
        for (int p = 0; p < 4; p++, dst += 8)
            point8(scale, iq2_xxs_grid[q[p]], eight_signs(signs >> 7 * p & 127), dst);
    }
}

/* {d; u16 qs[32]: 9 index bits, 7 signs; u8 scales[8]: a nibble per 16 elements} */
void qw_block_iq2_xs(const byte *src, float *dst)
{
    const float d = half(src);
    for (int p = 0; p < 32; p++) {
        const unsigned q = u16(src + 2 + 2 * p), s = src[66 + p / 4] >> 4 * (p / 2 % 2) & 15;
        const float scale = d * (0.5f + (float)s) * 0.25f;
        point8(scale, iq2_xs_grid[q & 511], eight_signs(q >> 9), dst + 8 * p);
    }
}

/* {d; u8 qs[32]; u8 signs[32]; u8 qh[8]: 2 high index bits per point; u8 scales[8]} */
void qw_block_iq2_s(const byte *src, float *dst)
{
    const float d = half(src);
    for (int p = 0; p < 32; p++) {
        const unsigned q = src[2 + p] | (unsigned)(src[66 + p / 4] >> 2 * (p % 4) & 3) << 8;
        const unsigned s = src[74 + p / 4] >> 4 * (p / 2 % 2) & 15;
        point8(d * (0.5f + (float)s) * 0.25f, iq2_s_grid[q], src[34 + p], dst + 8 * p);
    }
}

/* {d; u8 qs[64]; u32[8]: 4 x 7 signs, 4 scale bits}; two points share seven signs. */
void qw_block_iq3_xxs(const byte *src, float *dst)
{
    const float d = half(src);
    for (int g = 0; g < 8; g++) {
        const byte *q = src + 2 + 8 * g;
        const unsigned signs = u32(src + 66 + 4 * g);
        const float scale = d * (0.5f + (float)(signs >> 28)) * 0.5f;
        for (int p = 0; p < 8; p++, dst += 4) {
            const unsigned eight = eight_signs(signs >> 7 * (p / 2) & 127);
            point4(scale, digit3_xxs, iq3_xxs_grid[q[p]], eight >> 4 * (p % 2), dst);
        }
    }
}

/* {d; u8 qs[64]; u8 qh[8]: a ninth index bit per point; u8 signs[32]; u8 scales[4]: a nibble per 32
 * elements} */
void qw_block_iq3_s(const byte *src, float *dst)
{
    const float d = half(src);
    for (int p = 0; p < 64; p++) {
        const unsigned q = src[2 + p] | (unsigned)(src[66 + p / 8] >> p % 8 & 1) << 8;
        const unsigned s = src[106 + p / 16] >> 4 * (p / 8 % 2) & 15;
        const unsigned signs = (unsigned)src[74 + p / 2] >> 4 * (p % 2);
        point4(d * (float)(1 + 2 * s), digit3_s, iq3_s_grid[q], signs, dst + 4 * p);
    }
}
