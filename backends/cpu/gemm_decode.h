/* gemm_decode.h - 32 elements of a row of a weight as vectors of floats, for every type that gemm
 * reads.
 *
 * Layouts are those of lib/core/decode.c.  A step is what is decoded with one set of scales: a block
 * of 256 elements, or 32 elements of any other type.  Each value is rounded once, as there. */
#ifndef QW_GEMM_DECODE_H
#define QW_GEMM_DECODE_H
#include "vec_codes.h"

enum { RUN = 32, RUN_VECTORS = RUN / VL };

/* Elements of a step. */
INLINE int64_t step_elements(qw_dtype t)
{
    return t == QW_Q4_K || t == QW_Q5_K || t == QW_Q6_K ? 256 : RUN;
}

/* Bytes of a step; 0: runs of this type are not decoded here. */
INLINE int64_t step_bytes(qw_dtype t)
{
    switch (t) {
    case QW_F32: return 128;
    case QW_F16:
    case QW_BF16: return 64;
    case QW_F8E4M3:
    case QW_F8E5M2:
    case QW_I8: return 32;
    case QW_Q8_0: return 34;
    case QW_Q4_0: return 18;
    case QW_Q4_K: return 144;
    case QW_Q5_K: return 176;
    case QW_Q6_K: return 210;
    default: return 0;
    }
}

/* Scales of the runs of a step: element = by q + add.  Of Q6_K one for 16 elements. */
typedef struct scales {
    float by[16], add[16];
} scales;

INLINE float half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return v_half(h);
}

/* 12 bytes of 6-bit scales and minimums of Q4_K and Q5_K as 8 and 8 bytes. */
INLINE void six_bits(const uint8_t *s, uint8_t *out)
{
    uint32_t u[3], q[4];
    memcpy(u, s, sizeof u);
    q[0] = u[0] & 0x3f3f3f3f;
    q[1] = (u[2] & 0x0f0f0f0f) | (u[0] >> 6 & 0x03030303) << 4;
    q[2] = u[1] & 0x3f3f3f3f;
    q[3] = (u[2] >> 4 & 0x0f0f0f0f) | (u[1] >> 6 & 0x03030303) << 4;
    memcpy(out, q, sizeof q);
}

/* The scales of the step at s. */
INLINE void step_scales(qw_dtype t, const uint8_t *s, scales *k)
{
    if (t == QW_Q8_0 || t == QW_Q4_0) {
        k->by[0] = half_at(s);
    } else if (t == QW_Q4_K || t == QW_Q5_K) {
        const float d = half_at(s), min = -half_at(s + 2);
        uint8_t q[16];
        float f[16];
        six_bits(s + 4, q);
        UNROLL(4)
        for (int i = 0; i < 16; i += VL) v_store(f + i, v_float(v_u8(q + i)));
        UNROLL(8)
        for (int i = 0; i < 8; i++) k->by[i] = d * f[i];
        UNROLL(8)
        for (int i = 0; i < 8; i++) k->add[i] = min * f[8 + i];
    } else if (t == QW_Q6_K) {
        const vf d = v_set(half_at(s + 208));
        UNROLL(4)
        for (int i = 0; i < 16; i += VL) v_store(k->by + i, v_mul(d, v_float(v_i8(s + 192 + i))));
    }
}

INLINE vf centred(vi q, int middle, float by)
{
    return v_mul(v_float(v_plus(q, v_int(-middle))), v_set(by));
}

/* Nibbles of 16 or 32 bytes at q, shifted by `shift`, as by q + add. */
INLINE void nibbles(const uint8_t *q, int shift, float by, float add, int vectors, vf *out)
{
#ifdef VEC_LOOKUP
    const vf table = v_fma(v_iota(), v_set(by), v_set(add));
    UNROLL(8)
    for (int v = 0; v < vectors; v++) out[v] = v_lookup(table, v_right(v_u8(q + v * VL), shift));
#else
    UNROLL(8)
    for (int v = 0; v < vectors; v++)
        out[v] = v_fma(v_float(v_and(v_right(v_u8(q + v * VL), shift), v_int(15))), v_set(by),
                       v_set(add));
#endif
}

INLINE void run_q4_0(const uint8_t *s, float by, vf *out)
{
    UNROLL(8)
    for (int v = 0; v < RUN_VECTORS / 2; v++) {
        const vi q = v_u8(s + 2 + v * VL);
#ifdef VEC_LOOKUP
        const vf table = v_mul(v_add(v_iota(), v_set(-8)), v_set(by));
        out[v] = v_lookup(table, q);
        out[RUN_VECTORS / 2 + v] = v_lookup(table, v_right(q, 4));
#else
        out[v] = centred(v_and(q, v_int(15)), 8, by);
        out[RUN_VECTORS / 2 + v] = centred(v_right(q, 4), 8, by);
#endif
    }
}

INLINE void run_q5_k(const uint8_t *s, int b, float by, float add, vf *out)
{
    UNROLL(8)
    for (int v = 0; v < RUN_VECTORS; v++) {
        const vi low = v_right(v_u8(s + 48 + 32 * (b / 2) + v * VL), 4 * (b % 2));
        const vi high = v_left(v_right(v_u8(s + 16 + v * VL), b), 4);
        const vi q = v_or(v_and(low, v_int(15)), v_and(high, v_int(16)));
        out[v] = v_fma(v_float(q), v_set(by), v_set(add));
    }
}

INLINE void run_q6_k(const uint8_t *s, int b, const float *by, vf *out)
{
    const int r = b % 4;
    const uint8_t *low = s + 64 * (b / 4) + 32 * (r % 2), *high = s + 128 + 32 * (b / 4);
    UNROLL(8)
    for (int v = 0; v < RUN_VECTORS; v++) {
        const vi l = v_and(v_right(v_u8(low + v * VL), 4 * (r / 2)), v_int(15));
        const vi h = v_left(v_and(v_right(v_u8(high + v * VL), 2 * r), v_int(3)), 4);
        out[v] = centred(v_or(l, h), 32, by[2 * b + v * VL / 16]);
    }
}

/* Run b of the step at s. */
INLINE void decode_run(qw_dtype t, const uint8_t *s, int b, const scales *k, vf *out)
{
    if (t == QW_Q4_0) run_q4_0(s, k->by[0], out);
    else if (t == QW_Q4_K) {
        const uint8_t *q = s + 16 + 32 * (b / 2);
        nibbles(q, 4 * (b % 2), k->by[b], k->add[b], RUN_VECTORS, out);
    } else if (t == QW_Q5_K) run_q5_k(s, b, k->by[b], k->add[b], out);
    else if (t == QW_Q6_K) run_q6_k(s, b, k->by, out);
    else {
        UNROLL(8)
        for (int v = 0; v < RUN_VECTORS; v++)
            out[v] = t == QW_F32    ? v_load((const float *)(const void *)(s + v * VL * 4))
                     : t == QW_BF16 ? v_load_bf16((const uint16_t *)(const void *)(s + v * VL * 2))
                     : t == QW_F16  ? v_f16(s + v * VL * 2)
                     : t == QW_F8E4M3 ? v_f8e4m3(s + v * VL)
                     : t == QW_F8E5M2 ? v_f8e5m2(s + v * VL)
                     : t == QW_I8     ? v_float(v_i8(s + v * VL))
                                      : v_mul(v_float(v_i8(s + 2 + v * VL)), v_set(k->by[0]));
    }
}
#endif
