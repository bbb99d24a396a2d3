/* tiles.h - tile registers: AMX where the set has it, else the same in plain C.
 *
 * Eight tiles of 16 rows of 64 bytes: 16 x 16 words of 32 bits.  A word is a float or an integer, a
 * pair of bf16, or four bytes.  c [16][16] += a [16][16 words] b [16 words][16]: a row of b has a
 * word of each of 16 columns.  The numbers of tiles are written as literals. */
#ifndef QW_TILES_H
#define QW_TILES_H
#include "cpu.h"
#include "vec.h"

enum { TILE = 16, TILE_BYTES = TILE * TILE * 4 };

/* gemm with products of tiles: x of bf16, or of codes; QW_DECLINE for other calls. */
size_t QW_NAME(tile_gemm_scratch)(const cpu_device *dev, const qw_gemm_args *a);
int QW_NAME(tile_gemm)(qw_device *d, const qw_gemm_args *a);

#if defined __AMX_TILE__ && defined __AMX_BF16__ && defined __AMX_INT8__
#define VEC_TILES 1
typedef struct tiles {
    char none; /* they are the thread's registers */
} tiles;

/* Written out, because the compilers' own words for these do not say which memory is read. */
#define TILE_ASM(...)              __asm__ volatile(__VA_ARGS__ : "memory")
#define TILE_AT(p, by)             "r"((const void *)(p)), "r"((int64_t)(by))
#define tile_zero(t, c)            TILE_ASM("tilezero %%tmm" #c : :)
#define tile_load(t, c, p, by)     TILE_ASM("tileloadd (%0,%1,1), %%tmm" #c : : TILE_AT(p, by))
#define tile_store(t, c, p, by)    TILE_ASM("tilestored %%tmm" #c ", (%0,%1,1)" : : TILE_AT(p, by))
#define tile_dot_pairs(t, c, a, b) TILE_ASM("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)
#define tile_dot_bytes(t, c, a, b) TILE_ASM("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)
/* Each thread shapes its tiles before it uses them. */
static inline void tiles_begin(tiles *t)
{
    static const struct {
        uint8_t palette, start, zero[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = { 1,
                0,
                { 0 },
                { 64, 64, 64, 64, 64, 64, 64, 64 },
                { TILE, TILE, TILE, TILE, TILE, TILE, TILE, TILE } };
    (void)t;
    __asm__ volatile("ldtilecfg %0" : : "m"(shape));
}
static inline void tiles_end(tiles *t)
{
    (void)t;
    TILE_ASM("tilerelease" : :);
}
#else
typedef struct tiles {
    unsigned char row[8][TILE][64];
} tiles;

static inline void tiles_begin(tiles *t) { memset(t, 0, sizeof *t); }
static inline void tiles_end(tiles *t) { (void)t; }
static inline void tile_zero(tiles *t, int c) { memset(t->row[c], 0, sizeof t->row[c]); }
static inline void tile_load(tiles *t, int c, const void *p, size_t by)
{
    for (size_t i = 0; i < TILE; i++) memcpy(t->row[c][i], (const char *)p + i * by, 64);
}
static inline void tile_store(const tiles *t, int c, void *p, size_t by)
{
    for (size_t i = 0; i < TILE; i++) memcpy((char *)p + i * by, t->row[c][i], 64);
}
/* Element e of the word at p, as bf16. */
static inline float tile_bf16(const unsigned char *p, int e)
{
    uint16_t h;
    memcpy(&h, p + 2 * e, sizeof h);
    return qw_bf16_to_f32(h);
}
/* Sums of the even and of the odd products, then both. */
static inline void tile_dot_pairs(tiles *t, int c, int a, int b)
{
    for (int i = 0; i < TILE; i++)
        for (int j = 0; j < TILE; j++) {
            float even = 0, odd = 0, sum;
            for (int l = 0; l < TILE; l++) {
                const unsigned char *x = t->row[a][i] + 4 * l, *y = t->row[b][l] + 4 * j;
                even = fmaf(tile_bf16(x, 0), tile_bf16(y, 0), even);
                odd = fmaf(tile_bf16(x, 1), tile_bf16(y, 1), odd);
            }
            memcpy(&sum, t->row[c][i] + 4 * j, sizeof sum);
            sum += even + odd;
            memcpy(t->row[c][i] + 4 * j, &sum, sizeof sum);
        }
}
/* Signed bytes. */
static inline void tile_dot_bytes(tiles *t, int c, int a, int b)
{
    for (int i = 0; i < TILE; i++)
        for (int j = 0; j < TILE; j++) {
            int32_t sum;
            memcpy(&sum, t->row[c][i] + 4 * j, sizeof sum);
            for (int l = 0; l < 4 * TILE; l++)
                sum += (int8_t)t->row[a][i][l] * (int8_t)t->row[b][l / 4][4 * j + l % 4];
            memcpy(t->row[c][i] + 4 * j, &sum, sizeof sum);
        }
}
#endif
#endif
