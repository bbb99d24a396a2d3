/* set.c - the table of kernels of one instruction set. */
#include "cpu.h"
#include "int8.h"
#include "vec.h"

#define X(op) int QW_NAME(op)(qw_device * d, const qw_##op##_args *a);
QW_OPS(X)
#undef X
size_t QW_NAME(gemm_scratch)(const cpu_device *d, const qw_gemm_args *a);
size_t QW_NAME(attention_scratch)(const cpu_device *d, const qw_attention_args *a);
size_t QW_NAME(conv2d_scratch)(const cpu_device *d, const qw_conv2d_args *a);
#ifdef VEC_DOT4
#define X(op)                                                       \
    int QW_NAME(op##_int8)(qw_device * d, const qw_##op##_args *a); \
    size_t QW_NAME(op##_int8_scratch)(const cpu_device *d, const qw_##op##_args *a);
CPU_INT8_OPS(X)
#undef X
#endif

const cpu_set QW_NAME(cpu_set) = {
#ifdef VEC_BF16_PAIRS
    .pairs = 1,
#endif
#define X(op) .op = QW_NAME(op),
    QW_OPS(X)
#undef X
        .gemm_scratch = QW_NAME(gemm_scratch),
    .attention_scratch = QW_NAME(attention_scratch),
    .conv2d_scratch = QW_NAME(conv2d_scratch),
#ifdef VEC_DOT4
#define X(op) .op##_int8 = QW_NAME(op##_int8), .op##_int8_scratch = QW_NAME(op##_int8_scratch),
    CPU_INT8_OPS(X)
#undef X
#endif
};
