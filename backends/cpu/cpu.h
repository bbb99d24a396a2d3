/* cpu.h - the cpu device: the table of kernels of an instruction set, and what kernels share.
 *
 * A set is a table of kernels, compiled from the same files with other flags.  The list of devices
 * has the sets that the processor and the operating system support. */
#ifndef QW_CPU_H
#define QW_CPU_H
#include <qwen/backend.h>
#include <qwen/ref.h>

/* An OpenMP directive, where there is OpenMP. */
#ifdef _OPENMP
#define CPU_PRAGMA(x) _Pragma(#x)
#define CPU_OMP(x)    CPU_PRAGMA(omp x)
#else
#define CPU_OMP(x)
#endif

extern const qw_backend cpu_backend;

struct cpu_set;
typedef struct cpu_device {
    qw_device d;
    const struct cpu_set *set;
    int pairs; /* products of bf16 pairs are allowed */
    int codes; /* rows of 8-bit codes are read and written */
    int tiles; /* gemm multiplies tiles */
} cpu_device;

/* The ops that read or write rows of 8-bit codes. */
#define CPU_INT8_OPS(X) X(gemm) X(ln_mod) X(convert)

/* The kernels of a set, and the bytes of scratch that the larger ones need. */
typedef struct cpu_set {
    int pairs; /* the set has a product of bf16 pairs */
#define X(op) int (*op)(qw_device *, const qw_##op##_args *);
    QW_OPS(X)
#undef X
    size_t (*gemm_scratch)(const cpu_device *, const qw_gemm_args *);
    size_t (*attention_scratch)(const cpu_device *, const qw_attention_args *);
    size_t (*conv2d_scratch)(const cpu_device *, const qw_conv2d_args *);
    /* The ops of a device that quantises, NULL where the set has no product of bytes. */
#define X(op)                                              \
    int (*op##_int8)(qw_device *, const qw_##op##_args *); \
    size_t (*op##_int8_scratch)(const cpu_device *, const qw_##op##_args *);
    CPU_INT8_OPS(X)
#undef X
} cpu_set;

/* Threads for an op of `work` multiplications: a thread is woken for no less than some 20
 * microseconds of work. */
int cpu_threads(const qw_device *d, double work);
int cpu_thread(void);
/* 1 once the op must stop: thread 0 asks poll, the others read *stop, which begins as 0. */
int cpu_stopped(qw_device *d, int *stop);
/* f32, bf16 or f16. */
static inline int cpu_float(qw_dtype t) { return t == QW_F32 || t == QW_BF16 || t == QW_F16; }
/* Bytes rounded up to a cache line. */
static inline size_t cpu_line(size_t bytes) { return (bytes + 63) & ~(size_t)63; }
#endif
