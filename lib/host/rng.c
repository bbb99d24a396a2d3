/* rng.c - the normal numbers that PyTorch's generators draw: mt19937 on the CPU, Philox on CUDA.
 *
 * Follows pytorch aten/src/ATen/native/cpu/DistributionTemplates.h (normal_fill),
 * core/MT19937RNGEngine.h, core/DistributionsHelper.h and native/cuda/DistributionTemplates.h
 * with curand's Philox4x32-10.  Each step of the CPU's float32 numbers is rounded to float32, as
 * there: rounding once at the end gives other numbers.  log, sin and cos are those of
 * exact_math.c, so that a seed gives the same bits on every machine. */
#include "host/noise.h"
#include <math.h>
#include <string.h>

static const double two_pi = 6.283185307179586;

/* --- mt19937 ---------------------------------------------------------------------------------- */

static void seed_mt(qw_rng *g, uint32_t seed)
{
    g->state[0] = seed;
    for (uint32_t j = 1; j < 624; j++)
        g->state[j] = UINT32_C(1812433253) * (g->state[j - 1] ^ g->state[j - 1] >> 30) + j;
    g->next = 624;
}

static uint32_t next32(qw_rng *g)
{
    uint32_t *const s = g->state;
    if (g->next >= 624) {
        for (int i = 0; i < 624; i++) {
            const uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % 624] & 0x7FFFFFFFu);
            s[i] = s[(i + 397) % 624] ^ y >> 1 ^ (y & 1 ? 0x9908B0DFu : 0);
        }
        g->next = 0;
    }
    uint32_t y = s[g->next++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9D2C5680u;
    y ^= y << 15 & 0xEFC60000u;
    return y ^ y >> 18;
}

static double uniform53(qw_rng *g) /* [0, 1) in steps of 2^-53; the high word comes first */
{
    const uint64_t high = next32(g), low = next32(g);
    return (double)((high << 32 | low) & ((UINT64_C(1) << 53) - 1)) * 0x1p-53;
}

/* --- the CPU generator ------------------------------------------------------------------------ */

/* The rounding of a draw of 16 or more: bits of the uniform numbers, type of every intermediate. */
typedef struct rounding {
    qw_dtype step;
    uint32_t mask;
    double unit;
} rounding;

static double rounded(qw_dtype t, double x)
{
    switch (t) {
    case QW_F64: return x;
    case QW_BF16: return (double)qw_bf16_to_f32(qw_f32_to_bf16((float)x));
    case QW_F16: return (double)qw_f16_to_f32(qw_f32_to_f16((float)x));
    default: return (double)(float)x;
    }
}

static double uniform(qw_rng *g, const rounding *r)
{
    return r->step == QW_F64 ? uniform53(g) : (double)(next32(g) & r->mask) * r->unit;
}

/* Turns sixteen uniform numbers into normal ones: pairs (j, j + 8) by Box and Muller, in the type
 * of the step. */
static void box_muller_16(double d[16], qw_dtype step)
{
    const double turn = step == QW_F64 ? two_pi : (double)(float)two_pi; /* float32 even in bf16 */
    for (int j = 0; j < 8; j++) {
        const double u1 = rounded(step, 1 - d[j]), u2 = d[j + 8];
        const double radius = rounded(step, sqrt(rounded(step, -2 * rounded(step, qw_log(u1)))));
        const double theta = rounded(step, turn * u2);
        d[j] = rounded(step, radius * rounded(step, qw_cos(theta)));
        d[j + 8] = rounded(step, radius * rounded(step, qw_sin(theta)));
    }
}

/* n >= 16: blocks of sixteen; for a tail the last sixteen numbers are drawn again. */
static void draw_large(qw_rng *g, const rounding *r, int64_t first, int64_t n, double *out)
{
    for (int64_t i = 0; i < first; i++) out[i] = uniform(g, r);
    for (int64_t i = 0; i + 16 <= n; i += 16) box_muller_16(out + i, r->step);
    if (n % 16 == 0) return;
    for (int64_t i = n - 16; i < n; i++) out[i] = uniform(g, r);
    box_muller_16(out + n - 16, r->step);
}

/* n < 16: one by one in double; the second number of a pair is kept for the next small draw. */
static double draw_small(qw_rng *g)
{
    if (g->has_spare) {
        g->has_spare = 0;
        return g->spare;
    }
    const double u1 = uniform53(g), u2 = uniform53(g);
    const double radius = sqrt(-2 * qw_log(1 - u2)); /* torch: log1p(-u2); 1 - u2 is exact */
    g->spare = radius * qw_sin(two_pi * u1);
    g->has_spare = 1;
    return radius * qw_cos(two_pi * u1);
}

static void draw_cpu(qw_rng *g, qw_dtype dtype, int64_t n, double *out)
{
    if (n < 16) {
        for (int64_t i = 0; i < n; i++) out[i] = rounded(dtype, draw_small(g));
        return;
    }
    const int half = dtype == QW_BF16 || dtype == QW_F16;
    if (half && g->kind == QW_RNG_TORCH_CPU_BF16_OLD) {
        const rounding r = dtype == QW_BF16 ? (rounding){ QW_BF16, 0xFF, 0x1p-8 }
                                            : (rounding){ QW_F16, 0x7FF, 0x1p-11 };
        draw_large(g, &r, n, n, out);
        return;
    }
    const rounding r = { half ? QW_F32 : dtype, 0xFFFFFF, 0x1p-24 };
    draw_large(g, &r, half ? n / 16 * 16 : n, n, out);
    if (half)
        for (int64_t i = 0; i < n; i++) out[i] = rounded(dtype, out[i]);
}

/* --- the CUDA generator ----------------------------------------------------------------------- */

static void philox(uint64_t seed, uint64_t counter, uint64_t subsequence, uint32_t c[4])
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    c[0] = (uint32_t)counter;
    c[1] = (uint32_t)(counter >> 32);
    c[2] = (uint32_t)subsequence;
    c[3] = (uint32_t)(subsequence >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)c[0] * 0xD2511F53u, b = (uint64_t)c[2] * 0xCD9E8D57u;
        const uint32_t c1 = c[1], c3 = c[3];
        c[0] = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c[1] = (uint32_t)b;
        c[2] = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c[3] = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* curand's _curand_box_muller; the products are exact in double, so one rounding gives the result
 * of its fused multiply-add. */
static void cuda_pair(uint32_t x, uint32_t y, double z[2])
{
    const double turn = (double)(2.3283064e-10f * 6.2831855f);
    const double u = (double)(float)((double)(float)x * 0x1p-32 + 0x1p-33);
    const double v = (double)(float)((double)(float)y * turn + turn / 2);
    const float s = (float)sqrt((double)(float)(-2 * (double)(float)qw_log(u)));
    z[0] = (double)(float)((double)s * (double)(float)qw_sin(v));
    z[1] = (double)(float)((double)s * (double)(float)qw_cos(v));
}

static void draw_cuda(qw_rng *g, qw_dtype dtype, int64_t n, double *out)
{
    const uint64_t count = (uint64_t)n, blocks = (count - 1) / 256 + 1, most = g->threads / 256;
    const uint64_t threads = 256 * (blocks < most ? blocks : most);
    const uint64_t rounds = (count - 1) / (4 * threads) + 1;
    for (uint64_t round = 0; round < rounds; round++)
        for (uint64_t i = 0; i < threads && round * 4 * threads + i < count; i++) {
            uint32_t c[4];
            double z[4];
            philox(g->seed, g->offset / 4 + round, i, c);
            cuda_pair(c[0], c[1], z);
            cuda_pair(c[2], c[3], z + 2);
            for (uint64_t k = 0; k < 4; k++) {
                const uint64_t at = (round * 4 + k) * threads + i;
                if (at < count) out[at] = rounded(dtype, z[k]);
            }
        }
    g->offset += 4 * rounds;
}

/* --- names ------------------------------------------------------------------------------------ */

/* Threads of a large launch: multiprocessors times threads each.  The default is H100's, for 1024 x
 * 1024 has fewer numbers than it has threads: up to there every card draws the same. */
static uint64_t cuda_threads(const char *name)
{
    static const struct {
        const char *name;
        uint64_t threads;
    } card[] = { { "h100", 132 * 2048 },
                 { "a100", 108 * 2048 },
                 { "4090", 128 * 1536 },
                 { "3090", 82 * 1536 } };
    if (!name) return card[0].threads;
    for (size_t i = 0; i < sizeof card / sizeof *card; i++)
        if (!strcmp(name, card[i].name)) return card[i].threads;
    uint64_t threads = 0;
    for (const char *s = name; *s; s++) {
        if (*s < '0' || *s > '9' || threads > UINT64_C(1) << 32) return 0;
        threads = 10 * threads + (uint64_t)(*s - '0');
    }
    return threads >= 256 && threads % 256 == 0 && threads <= UINT64_C(1) << 32 ? threads : 0;
}

int qw_rng_init(qw_rng *g, const char *name, uint64_t seed, qw_error *err)
{
    static const char cuda[] = "torch-cuda";
    char shown[64];
    memset(g, 0, sizeof *g);
    g->seed = seed;
    g->kind = QW_RNG_TORCH_CPU;
    seed_mt(g, (uint32_t)seed); /* torch's CPU generator uses 32 bits of the seed */
    if (!name || !strcmp(name, "torch-cpu")) return QWEN_OK;
    if (!strcmp(name, "torch-cpu-bf16-old")) {
        g->kind = QW_RNG_TORCH_CPU_BF16_OLD;
        return QWEN_OK;
    }
    const char *const rest = strncmp(name, cuda, sizeof cuda - 1) ? "?" : name + sizeof cuda - 1;
    if (*rest && *rest != ':')
        return qw_fail(
            err, QWEN_EARG,
            "no random numbers are called \"%s\" (torch-cpu, torch-cpu-bf16-old, torch-cuda, "
            "torch-cuda:THREADS, torch-cuda:a100, :h100, :4090, :3090)",
            qw_visible(shown, sizeof shown, name));
    g->kind = QW_RNG_TORCH_CUDA;
    g->threads = cuda_threads(*rest ? rest + 1 : NULL);
    if (!g->threads)
        return qw_fail(
            err, QWEN_EARG,
            "random numbers \"%s\": expected a100, h100, 4090, 3090 or a number of threads "
            "that is a multiple of 256",
            qw_visible(shown, sizeof shown, name));
    return QWEN_OK;
}

int qw_rng_normal(qw_rng *g, qw_dtype dtype, int64_t n, double *out, qw_error *err)
{
    if (n < 0) return qw_fail(err, QWEN_EARG, "%lld random numbers were asked for", (long long)n);
    const int known = dtype == QW_F32 || dtype == QW_BF16 || dtype == QW_F16 || dtype == QW_F64;
    if (!known || (dtype == QW_F64 && g->kind == QW_RNG_TORCH_CUDA))
        return qw_fail(err, QWEN_EUNSUPPORTED,
                       "random numbers of type %s are not drawn by this generator",
                       qw_dtype_name(dtype));
    if (!n) return QWEN_OK;
    if (g->kind == QW_RNG_TORCH_CUDA) draw_cuda(g, dtype, n, out);
    else draw_cpu(g, dtype, n, out);
    return QWEN_OK;
}
