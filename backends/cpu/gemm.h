/* gemm.h - what the files of the cpu device's gemm share: rows of w as numbers, and the end of a row
 * of y.  Compiled once for each set. */
#ifndef QW_GEMM_H
#define QW_GEMM_H
#include "cpu.h"
#include "vec.h"

/* 1: unpack reads this weight. */
int QW_NAME(unpacks)(const qw_tensor *w);
/* Elements l .. l + count of rows j .. j + rows of w as floats, out [rows][ld], or as bf16 rounded to
 * nearest even, with a zero after an odd count.  Scales of the tensor and of rows are not applied.
 * l, and l + count unless the row ends there, are multiples of the block. */
void QW_NAME(unpack_f32)(const qw_tensor *w, int64_t j, int64_t rows, int64_t l, int64_t count,
                         float *out, int64_t ld);
void QW_NAME(unpack_bf16)(const qw_tensor *w, int64_t j, int64_t rows, int64_t l, int64_t count,
                          uint16_t *out, int64_t ld);
/* The scale of row j of w, 1 where it has none. */
float QW_NAME(row_scale)(const qw_tensor *w, int64_t j);
/* Columns j .. j + count of row i of y from sums: bias, activation, gate, residual. */
void QW_NAME(finish_row)(const qw_gemm_args *a, int64_t i, int64_t j, int64_t count,
                         const float *sums);
/* Linear layers for one row of x, gemm_one.c: 1 where it takes the call, its scratch, the call. */
int QW_NAME(gemm_one_takes)(const qw_gemm_args *a);
size_t QW_NAME(gemm_one_scratch)(const cpu_device *dev, const qw_gemm_args *a);
int QW_NAME(gemm_one)(qw_device *d, const qw_gemm_args *a);
#endif
