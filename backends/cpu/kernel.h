/* kernel.h - the product that gemm is made of: R rows times a panel.
 *
 * A panel holds V vectors of columns, [k][ldp] floats, or [k / 2][ldp] words of two bf16 each.  c
 * [R][ldc] += x [R][k] panel.  The order of summation over k is that of k, whatever R and V are and
 * however many threads there are. */
#ifndef QW_KERNEL_H
#define QW_KERNEL_H
#include "cpu.h"
#include "vec.h"

/* The tile: as many accumulators as the registers hold beside V vectors and one broadcast. */
#if defined __AVX512F__
enum { MR = 8, NV = 3 };
#elif defined __AVX2__
enum { MR = 4, NV = 3 };
#else
enum { MR = 4, NV = 2 };
#endif
enum { NW = NV * VL }; /* columns of a full panel */

/* What a tile asks of the next memory while it multiplies: every 16 words of k, `per` cache lines that
 * lie `apart` bytes from each other; the first then moves on by `step` bytes. */
typedef struct ahead {
    const char *at; /* NULL: nothing */
    int64_t per;
    size_t apart, step;
} ahead;

INLINE const char *look(const ahead *next, const char *at)
{
    for (int64_t e = 0; e < next->per; e++) v_prefetch(at + (size_t)e * next->apart);
    return at + next->step;
}

/* The float at p in all lanes; a row of a file may lie at any address. */
INLINE vf repeat(const float *p)
{
    float x;
    memcpy(&x, p, sizeof x);
    return v_set(x);
}

INLINE void tile_f32(const int R, const int V, const float *const *x, const float *w, int64_t ldp,
                     int64_t k, float *c, int64_t ldc, int more, const ahead *next)
{
    vf s[MR][NV];
    const char *at = next ? next->at : NULL;
    UNROLL(8)
    for (int r = 0; r < R; r++) UNROLL(4)
    for (int v = 0; v < V; v++) s[r][v] = more ? v_load(c + r * ldc + v * VL) : v_set(0);
    for (int64_t l = 0; l < k;) {
        const int64_t end = k - l < 16 ? k : l + 16;
        if (next && at) at = look(next, at);
        for (; l < end; l++) {
            vf b[NV];
            UNROLL(4)
            for (int v = 0; v < V; v++) b[v] = v_load(w + l * ldp + v * VL);
            UNROLL(8)
            for (int r = 0; r < R; r++) {
                const vf a = repeat(x[r] + l);
                UNROLL(4)
                for (int v = 0; v < V; v++) s[r][v] = v_fma(a, b[v], s[r][v]);
            }
        }
    }
    UNROLL(8)
    for (int r = 0; r < R; r++) UNROLL(4)
    for (int v = 0; v < V; v++) v_store(c + r * ldc + v * VL, s[r][v]);
}

/* R rows from 1 to MR, V vectors from 1 to NV: each pair is a loop of its own. */
#define QW_TILE_CASES(tile)                                              \
    switch (R * 4 + V) {                                                 \
    case 1 * 4 + 1: tile(1, 1, x, w, ldp, k, c, ldc, more, next); break; \
    case 1 * 4 + 2: tile(1, 2, x, w, ldp, k, c, ldc, more, next); break; \
    case 2 * 4 + 1: tile(2, 1, x, w, ldp, k, c, ldc, more, next); break; \
    case 2 * 4 + 2: tile(2, 2, x, w, ldp, k, c, ldc, more, next); break; \
    case 3 * 4 + 1: tile(3, 1, x, w, ldp, k, c, ldc, more, next); break; \
    case 3 * 4 + 2: tile(3, 2, x, w, ldp, k, c, ldc, more, next); break; \
    case 4 * 4 + 1: tile(4, 1, x, w, ldp, k, c, ldc, more, next); break; \
    case 4 * 4 + 2:                                                      \
        tile(4, 2, x, w, ldp, k, c, ldc, more, next);                    \
        break;                                                           \
        QW_TILE_CASES_3(tile)                                            \
        QW_TILE_CASES_8(tile)                                            \
    default: break;                                                      \
    }
#if defined __AVX2__
#define QW_TILE_CASES_3(tile)                                            \
    case 1 * 4 + 3: tile(1, 3, x, w, ldp, k, c, ldc, more, next); break; \
    case 2 * 4 + 3: tile(2, 3, x, w, ldp, k, c, ldc, more, next); break; \
    case 3 * 4 + 3: tile(3, 3, x, w, ldp, k, c, ldc, more, next); break; \
    case 4 * 4 + 3:                                                      \
        tile(4, 3, x, w, ldp, k, c, ldc, more, next);                    \
        break;
#else
#define QW_TILE_CASES_3(tile)
#endif
#if defined __AVX512F__
#define QW_TILE_CASES_8(tile)                                            \
    case 5 * 4 + 1: tile(5, 1, x, w, ldp, k, c, ldc, more, next); break; \
    case 5 * 4 + 2: tile(5, 2, x, w, ldp, k, c, ldc, more, next); break; \
    case 5 * 4 + 3: tile(5, 3, x, w, ldp, k, c, ldc, more, next); break; \
    case 6 * 4 + 1: tile(6, 1, x, w, ldp, k, c, ldc, more, next); break; \
    case 6 * 4 + 2: tile(6, 2, x, w, ldp, k, c, ldc, more, next); break; \
    case 6 * 4 + 3: tile(6, 3, x, w, ldp, k, c, ldc, more, next); break; \
    case 7 * 4 + 1: tile(7, 1, x, w, ldp, k, c, ldc, more, next); break; \
    case 7 * 4 + 2: tile(7, 2, x, w, ldp, k, c, ldc, more, next); break; \
    case 7 * 4 + 3: tile(7, 3, x, w, ldp, k, c, ldc, more, next); break; \
    case 8 * 4 + 1: tile(8, 1, x, w, ldp, k, c, ldc, more, next); break; \
    case 8 * 4 + 2: tile(8, 2, x, w, ldp, k, c, ldc, more, next); break; \
    case 8 * 4 + 3:                                                      \
        tile(8, 3, x, w, ldp, k, c, ldc, more, next);                    \
        break;
#else
#define QW_TILE_CASES_8(tile)
#endif

/* c [R][ldc] (+)= x [R][k] w [k][ldp], V vectors of columns; R at most MR, V at most NV. */
static inline void product_f32(int R, int V, const float *const *x, const float *w, int64_t ldp,
                               int64_t k, float *c, int64_t ldc, int more)
{
    const ahead *const next = NULL;
    QW_TILE_CASES(tile_f32)
}

static inline void product_f32_ahead(int R, int V, const float *const *x, const float *w,
                                     int64_t ldp, int64_t k, float *c, int64_t ldc, int more,
                                     const ahead *next){ QW_TILE_CASES(tile_f32) }

/* VL rows of n floats, `step` floats apart, as the columns of [n][ldp] at out. */
INLINE void columns(const float *rows, int64_t step, int64_t n, float *out, int64_t ldp)
{
    for (int64_t l = 0; l < n; l += VL) {
        vf r[VL];
        const vm m = v_first(n - l);
        UNROLL(16)
        for (int i = 0; i < VL; i++) r[i] = v_load_n(rows + i * step + l, m);
        v_transpose(r);
        for (int i = 0; i < VL && l + i < n; i++) v_store(out + (l + i) * ldp, r[i]);
    }
}

#ifdef VEC_BF16_PAIRS
INLINE void tile_pairs(const int R, const int V, const uint16_t *const *x, const uint32_t *w,
                       int64_t ldp, int64_t k, float *c, int64_t ldc, int more, const ahead *next)
{
    vf s[MR][NV];
    const char *at = next ? next->at : NULL;
    UNROLL(8)
    for (int r = 0; r < R; r++) UNROLL(4)
    for (int v = 0; v < V; v++) s[r][v] = more ? v_load(c + r * ldc + v * VL) : v_set(0);
    for (int64_t l = 0; l < k;) {
        const int64_t end = k - l < 16 ? k : l + 16;
        if (next && at) at = look(next, at);
        for (; l < end; l++) {
            vb b[NV];
            UNROLL(4)
            for (int v = 0; v < V; v++) b[v] = v_pairs(w + l * ldp + v * VL);
            UNROLL(8)
            for (int r = 0; r < R; r++) {
                const vb a = v_pair(x[r] + 2 * l);
                UNROLL(4)
                for (int v = 0; v < V; v++) s[r][v] = v_dot2(s[r][v], a, b[v]);
            }
        }
    }
    UNROLL(8)
    for (int r = 0; r < R; r++) UNROLL(4)
    for (int v = 0; v < V; v++) v_store(c + r * ldc + v * VL, s[r][v]);
}

/* The same with k pairs of bf16. */
static inline void product_pairs(int R, int V, const uint16_t *const *x, const uint32_t *w,
                                 int64_t ldp, int64_t k, float *c, int64_t ldc, int more)
{
    const ahead *const next = NULL;
    QW_TILE_CASES(tile_pairs)
}

static inline void product_pairs_ahead(int R, int V, const uint16_t *const *x, const uint32_t *w,
                                       int64_t ldp, int64_t k, float *c, int64_t ldc, int more,
                                       const ahead *next)
{
    QW_TILE_CASES(tile_pairs)
}
#endif
#endif
