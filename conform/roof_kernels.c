/* roof_kernels.c - products in registers and a sum of memory, compiled for each instruction set.
 *
 * They measure what the processor can do and share nothing with any device.  A chain of twelve
 * accumulators hides the latency of a multiplication; nothing is loaded or stored inside a loop. */
#include "roof.h"
#if defined __AVX512BF16__ || defined __AVX512VNNI__ || defined __AVXVNNI__ || defined __AMX_TILE__
#define NARROW 1 /* a set for products of narrow types; others measure f32 and reading */
#include <immintrin.h>
#endif

#define JOIN(a, b)   a##b
#define NAME(a, b)   JOIN(a, b)
#define QW_ROOF_NAME NAME(qw_roof_, ROOF_SET)
#define CHAINS(X)    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
enum { CHAIN = 12 };

#if !defined NARROW
#if defined __AVX512F__
enum { WIDTH = 64 };
#elif defined __AVX__
enum { WIDTH = 32 };
#else
enum { WIDTH = 16 };
#endif
typedef float floats __attribute__((vector_size(WIDTH)));
typedef uint64_t words __attribute__((vector_size(WIDTH)));

/* acc = acc a + b, where a and b are such that acc stays near 1. */
static double f32(int64_t rounds, volatile double *sink)
{
    enum { LANES = WIDTH / 4 };
    floats a = { 0 }, b = { 0 };
    for (int i = 0; i < LANES; i++) {
        a[i] = 0.5f;
        b[i] = 0.5f + 0.001f * (float)i;
    }
#define X(i) floats c##i = b * (float)(i + 1);
    CHAINS(X)
#undef X
    for (int64_t r = 0; r < rounds; r++) {
#define X(i) c##i = c##i * a + b;
        CHAINS(X)
#undef X
    }
    floats sum = b;
#define X(i) sum += c##i;
    CHAINS(X)
#undef X
    *sink = (double)sum[0];
    return 2.0 * CHAIN * LANES * (double)rounds;
}

/* Four streams, each with an accumulator; n is a multiple of 4 vectors. */
static void read(const void *from, size_t bytes, volatile double *sink)
{
    const words *x = from;
    const size_t n = bytes / WIDTH / 4;
    words s[4] = { { 0 } };
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < 4; k++) s[k] += x[4 * i + (size_t)k];
    s[0] += s[1] + s[2] + s[3];
    *sink = (double)s[0][0];
}
#endif

#if defined __AVX512BF16__
static double bf16(int64_t rounds, volatile double *sink)
{
    const __m512i ones = _mm512_set1_epi16(0x3f80);
    const __m512bh a = (__m512bh)ones, b = (__m512bh)ones;
#define X(i) __m512 c##i = _mm512_set1_ps((float)(i));
    CHAINS(X)
#undef X
    for (int64_t r = 0; r < rounds; r++) {
#define X(i) c##i = _mm512_dpbf16_ps(c##i, a, b);
        CHAINS(X)
#undef X
    }
    __m512 sum = _mm512_setzero_ps();
#define X(i) sum = _mm512_add_ps(sum, c##i);
    CHAINS(X)
#undef X
    *sink = (double)_mm512_reduce_add_ps(sum);
    return 2.0 * CHAIN * 32 * (double)rounds;
}
#endif

#if defined __AVX512VNNI__ || defined __AVXVNNI__
#if defined __AVX512VNNI__
typedef __m512i codes;
#define DOT(c, a, b) _mm512_dpbusd_epi32(c, a, b)
#define SET(x)       _mm512_set1_epi32(x)
#else
typedef __m256i codes;
#define DOT(c, a, b) _mm256_dpbusd_avx_epi32(c, a, b)
#define SET(x)       _mm256_set1_epi32(x)
#endif
static double int8(int64_t rounds, volatile double *sink)
{
    const codes a = SET(0x01010101), b = SET(0x01010101);
#define X(i) codes c##i = SET(i);
    CHAINS(X)
#undef X
    for (int64_t r = 0; r < rounds; r++) {
#define X(i) c##i = DOT(c##i, a, b);
        CHAINS(X)
#undef X
    }
    union {
        codes v;
        int x[sizeof(codes) / sizeof(int)];
    } sum = { c0 };
    int total = 0;
#define X(i)      \
    sum.v = c##i; \
    total ^= sum.x[0];
    CHAINS(X)
#undef X
    *sink = total;
    return 2.0 * CHAIN * (double)sizeof(codes) * (double)rounds;
}
#endif

#if defined __AMX_TILE__
/* Eight tiles of 16 rows of 64 bytes.  The instruction is written out because compilers disagree on
 * how many bytes its intrinsic reads. */
static void tiles_on(void)
{
    static const struct {
        uint8_t palette, start, zero[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {
        1, 0, { 0 }, { 64, 64, 64, 64, 64, 64, 64, 64 }, { 16, 16, 16, 16, 16, 16, 16, 16 }
    };
    __asm__ volatile("ldtilecfg %0" : : "m"(shape));
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
}

/* Four products of tiles, each of 16 x 16 sums of k products. */
#define TILES(name, product, k)                               \
    static double name(int64_t rounds, volatile double *sink) \
    {                                                         \
        tiles_on();                                           \
        for (int64_t r = 0; r < rounds; r++) {                \
            product(0, 4, 6);                                 \
            product(1, 4, 7);                                 \
            product(2, 5, 6);                                 \
            product(3, 5, 7);                                 \
        }                                                     \
        _tile_release();                                      \
        *sink = 0;                                            \
        return 2.0 * 4 * 16 * 16 * k * (double)rounds;        \
    }
TILES(bf16, _tile_dpbf16ps, 32)
TILES(int8, _tile_dpbssd, 64)
#endif

const qw_roof_set QW_ROOF_NAME = {
#if !defined NARROW
    .f32 = f32,
    .read = read,
#endif
#if defined __AVX512BF16__ || defined __AMX_TILE__
    .bf16 = bf16,
#endif
#if defined __AVX512VNNI__ || defined __AVXVNNI__ || defined __AMX_TILE__
    .int8 = int8,
#endif
};
