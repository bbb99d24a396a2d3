/* rows.h - a row of any dtype to doubles and back: all the reference knows about storage.
 *
 * A row is the run of elements along a tensor's last dimension; rows are numbered in order over the
 * dimensions before it. */
#ifndef QW_ROWS_H
#define QW_ROWS_H
#include "tensor.h"

int64_t ref_rows(const qw_tensor *t);           /* how many rows: 1 for a vector */
int64_t ref_length(const qw_tensor *t);         /* elements in each */
void    ref_get_row(const qw_tensor *t, int64_t row, double *x);
/* Stores once, rounding to nearest even; a row of I8 is quantised against its own maximum, and its scale
 * written to t->scale[row * scale_stride]. */
void    ref_put_row(const qw_tensor *t, int64_t row, const double *x);

/* sum x_j w_j, j ascending within each of four interleaved partial sums, which are then added in order:
 * one order for every caller, so that results depend on nothing else. */
double  ref_dot(const double *x, const double *w, int64_t n);
/* Each group of `group` (a power of 4) columns times the regular Hadamard matrix of that size, which is
 * symmetric and its own inverse: per base-4 digit (a, b, c, d) -> (t-d, t-c, t-b, t-a), t = (a+b+c+d)/2. */
void    ref_rotate(double *x, int64_t n, int64_t group);
#endif
