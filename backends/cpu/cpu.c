/* cpu.c - the cpu devices: one for each instruction set that this machine has, and each arithmetic.
 *
 * "cpu:SET:f32" multiplies in float32; "cpu:SET:bf16" multiplies pairs of bf16 where the set has
 * such an instruction, and keeps branches in bf16; "cpu:SET:int8" does so too, but branches that
 * only gemms read are rows of 8-bit codes, and gemms multiply bytes.  Calls that a kernel declines
 * are left to the reference. */
#include "cpu.h"
#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* From the least to the best; the best that the machine has is the default. */
static const struct {
    const char *name, *what;
    const cpu_set *set;
    int (*has)(void);
    int pairs, codes;
    double score;
} variant[] = {
    { "cpu:sse2:f32", "SSE2, products of f32", &cpu_set_sse2, has_sse2, 0, 0, 10 },
    { "cpu:avx2:f32", "AVX2, products of f32", &cpu_set_avx2, has_avx2, 0, 0, 20 },
    { "cpu:avx512:f32", "AVX-512, products of f32", &cpu_set_avx512, has_avx512, 0, 0, 30 },
    { "cpu:avx512bf16:f32", "AVX-512 BF16, products of f32", &cpu_set_avx512bf16, has_avx512bf16, 0,
      0, 40 },
    { "cpu:avx512bf16:int8", "AVX-512 BF16 and VNNI, products of int8: less exact",
      &cpu_set_avx512bf16, has_avx512bf16, 1, 1, 0 },
    { "cpu:avx512bf16:bf16", "AVX-512 BF16, products of bf16", &cpu_set_avx512bf16, has_avx512bf16,
      1, 0, 50 },
};
enum { VARIANTS = sizeof variant / sizeof variant[0] };

static size_t scratch(qw_device *d, enum qw_op op, const void *args)
{
    const cpu_device *c = (const cpu_device *)(const void *)d;
#define X(name) \
    if (c->codes && op == QW_OP_##name) return c->set->name##_int8_scratch(c, args);
    CPU_INT8_OPS(X)
#undef X
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
    if (!variant[i].has())
        snprintf(out->why_not, sizeof out->why_not, "this processor has no %.*s",
                 (int)strcspn(variant[i].what, ","), variant[i].what);
    return QWEN_OK;
}

static int cpu_open(int i, const qw_open_options *options, qw_device **out)
{
    *out = NULL;
    if (i < 0 || i >= VARIANTS) return QW_DECLINE;
    if (!variant[i].has()) return QWEN_EDEVICE;
    cpu_device *c = malloc(sizeof *c);
    if (!c) return QWEN_ENOMEM;
    ref_init(&c->d, variant[i].name, variant[i].pairs ? QW_BF16 : QW_F32, QW_F32);
    c->set = variant[i].set;
    c->pairs = variant[i].pairs;
    c->codes = variant[i].codes;
    c->d.threads = options->threads;
    c->d.scratch = scratch;
    qw_arith arith = { .acc = 0x1p-24f, .mid = 0x1p-24f, .fun = 0x1p-21f };
    if (c->pairs) {
        arith.mul[QW_CLASS_BLOCK] = 0x1p-8f; /* blocks become bf16 */
        arith.mid = 0x1p-8f;                 /* so do softmax weights */
    }
#define X(op_name)                     \
    c->d.op.op_name = c->set->op_name; \
    c->d.op.op_name##_arith = arith;
    QW_OPS(X)
#undef X
    if (c->codes) {
        c->d.quant = QW_I8;
        c->d.op.gemm_arith.row_w = 1 / 254.0f; /* half a step */
#define X(op_name) c->d.op.op_name = c->set->op_name##_int8;
        CPU_INT8_OPS(X)
#undef X
    }
    *out = &c->d;
    return QWEN_OK;
}

const qw_backend cpu_backend = { sizeof cpu_backend, QW_BACKEND_ABI, "cpu", cpu_list, cpu_open };
