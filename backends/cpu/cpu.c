/* cpu.c - the cpu devices: one for each instruction set that this machine has, and each arithmetic.
 *
 * "cpu:SET:f32" multiplies in float32; "cpu:SET:bf16" multiplies pairs of bf16 where the set has
 * such an instruction, and keeps branches in bf16; "cpu:SET:int8" does so too, but branches that
 * only gemms read are rows of 8-bit codes, and gemms and the scores of attention without ranges
 * multiply bytes.  With AMX gemms of bf16 and of codes multiply tiles, and the other ops f32, which
 * these processors multiply faster than pairs.  Calls that a kernel declines are left to the
 * reference. */
#define _DEFAULT_SOURCE /* syscall */
#include "cpu.h"
#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined QW_HAVE_AMX && defined __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

extern const cpu_set cpu_set_sse2, cpu_set_avx2, cpu_set_avx512, cpu_set_avx512bf16;

static int has_sse2(void) { return 1; } /* every x86-64 */
/* The compilers have no common name for F16C: CPUID leaf 1, ECX bit 29.  AVX2 stands for the state
 * that the operating system saves. */
static int has_avx2(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
           && __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
}
static int has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
           && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
/* As with F16C: CPUID leaf 7, subleaf 1, EAX bit 5.  Every processor that has it has VNNI too. */
static int has_avx512bf16(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    return has_avx512() && __builtin_cpu_supports("avx512vnni")
           && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}

#ifdef QW_HAVE_AMX
extern const cpu_set cpu_set_amx;
/* -1: the processor has it, and the kernel does not save its tiles or refuses them.  The kernel
 * gives a process leave once, on request. */
static int has_amx(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    const unsigned parts = 1u << 22 | 1u << 24 | 1u << 25; /* bf16, tiles, int8 */
    if (!has_avx512bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & parts) != parts)
        return 0;
#if defined __linux__ && defined SYS_arch_prctl
    enum { ALLOWED = 0x1022, REQUEST = 0x1023, TILE_DATA = 18 };
    uint64_t now = 0;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    if ((a >> 17 & 3) != 3) return -1;
    if (!syscall(SYS_arch_prctl, ALLOWED, &now) && now >> TILE_DATA & 1) return 1;
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) ? -1 : 1;
#else
    return -1;
#endif
}
#endif

/* What a device does: branches are bf16; products of pairs; rows of codes; products of tiles. */
enum { BF16 = 1, PAIRS = 2, CODES = 4, TILES = 8 };
/* From the least to the best; the best that the machine has is the default.  AMX is chosen by name:
 * its kernels have been judged with tiles in plain C alone. */
static const struct {
    const char *name, *what;
    const cpu_set *set;
    int (*has)(void);
    int does;
    double score;
} variant[] = {
    { "cpu:sse2:f32", "SSE2, products of f32", &cpu_set_sse2, has_sse2, 0, 10 },
    { "cpu:avx2:f32", "AVX2, products of f32", &cpu_set_avx2, has_avx2, 0, 20 },
    { "cpu:avx512:f32", "AVX-512, products of f32", &cpu_set_avx512, has_avx512, 0, 30 },
    { "cpu:avx512bf16:f32", "AVX-512 BF16, products of f32", &cpu_set_avx512bf16, has_avx512bf16, 0,
      40 },
#ifdef QW_HAVE_AMX
    { "cpu:amx:int8", "AMX, products of int8: less exact", &cpu_set_amx, has_amx,
      BF16 | CODES | TILES, 0 },
    { "cpu:amx:bf16", "AMX, products of bf16", &cpu_set_amx, has_amx, BF16 | TILES, 0 },
#endif
    { "cpu:avx512bf16:int8", "AVX-512 BF16 and VNNI, products of int8: less exact",
      &cpu_set_avx512bf16, has_avx512bf16, BF16 | PAIRS | CODES, 0 },
    { "cpu:avx512bf16:bf16", "AVX-512 BF16, products of bf16", &cpu_set_avx512bf16, has_avx512bf16,
      BF16 | PAIRS, 50 },
};
enum { VARIANTS = sizeof variant / sizeof variant[0] };

static size_t scratch(qw_device *d, enum qw_op op, const void *args)
{
    const cpu_device *c = (const cpu_device *)(const void *)d;
#define X(name) \
    if (c->codes && op == QW_OP_##name) return c->set->name##_int8_scratch(c, args);
    CPU_INT8_OPS(X)
#undef X
    if (c->tiles && op == QW_OP_gemm) return c->set->gemm_int8_scratch(c, args);
    switch (op) {
    case QW_OP_gemm: return c->set->gemm_scratch(c, args);
    case QW_OP_attention: return c->set->attention_scratch(c, args);
    case QW_OP_conv2d: return c->set->conv2d_scratch(c, args);
    default: return 0;
    }
}

static int cpu_list(int i, qw_listing *out)
{
    if (i < 0 || i >= VARIANTS) return QW_DECLINE;
    snprintf(out->name, sizeof out->name, "%s", variant[i].name);
    snprintf(out->what, sizeof out->what, "%s", variant[i].what);
    out->score = variant[i].score;
    const int has = variant[i].has(), n = (int)strcspn(variant[i].what, ",");
    if (has < 1)
        snprintf(out->why_not, sizeof out->why_not, "%s %.*s",
                 has ? "the kernel does not allow" : "this processor has no", n, variant[i].what);
    return QWEN_OK;
}

static int cpu_open(int i, const qw_open_options *options, qw_device **out)
{
    *out = NULL;
    if (i < 0 || i >= VARIANTS) return QW_DECLINE;
    if (variant[i].has() < 1) return QWEN_EDEVICE;
    const int does = variant[i].does;
    cpu_device *c = malloc(sizeof *c);
    if (!c) return QWEN_ENOMEM;
    ref_init(&c->d, variant[i].name, does & BF16 ? QW_BF16 : QW_F32, QW_F32);
    c->set = variant[i].set;
    c->pairs = (does & PAIRS) != 0;
    c->codes = (does & CODES) != 0;
    c->tiles = (does & TILES) != 0;
    c->d.threads = options->threads;
    c->d.scratch = scratch;
    qw_arith arith = { .acc = 0x1p-24f, .mid = 0x1p-24f, .fun = 0x1p-21f };
    if (does & BF16) {
        arith.mul[QW_CLASS_BLOCK] = 0x1p-8f; /* blocks become bf16 */
        arith.mid = 0x1p-8f;                 /* so do softmax weights */
    }
#define X(op_name)                     \
    c->d.op.op_name = c->set->op_name; \
    c->d.op.op_name##_arith = arith;
    QW_OPS(X)
#undef X
    if (c->tiles) c->d.op.gemm = c->set->gemm_int8; /* which looks for tiles first */
    if (c->codes) {
        c->d.quant = QW_I8;
        c->d.op.gemm_arith.row_w = 1 / 254.0f; /* half a step */
        if (c->pairs) c->d.op.attention_arith.row_qk = 1 / 254.0f;
#define X(op_name) c->d.op.op_name = c->set->op_name##_int8;
        CPU_INT8_OPS(X)
#undef X
    }
    *out = &c->d;
    return QWEN_OK;
}

const qw_backend cpu_backend = { sizeof cpu_backend, QW_BACKEND_ABI, "cpu", cpu_list, cpu_open };
