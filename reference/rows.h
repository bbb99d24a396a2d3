/* rows.h - helpers of the reference functions: operands that may be absent, sums, threads.
 *
 * Rows are read and written by qw_row_get and qw_row_put. */
#ifndef REF_ROWS_H
#define REF_ROWS_H
#include <qwen/backend.h>
#include <stdatomic.h>

/* Element (i, j) of a matrix of floats, and all n of a vector; `absent` for an absent operand. */
double ref_get1(const qw_tensor *t, int64_t i, int64_t j, double absent);
void ref_vector(const qw_tensor *t, int64_t n, double absent, double *x);
void ref_put1(const qw_tensor *t, int64_t i, int64_t j, double x);

/* sum of a[i] b[i]: eight partial sums over i mod 8, added pairwise.  The order follows from n. */
double ref_dot(const double *a, const double *b, int64_t n);
double ref_act(qw_act act, double x);

/* Number of threads for a loop of n independent iterations of about `cost` multiplications each: a
 * thread gets 2^18 multiplications (0.1 ms) or more, since starting it costs time.  ref_thread:
 * number of the calling thread, from 0. */
int ref_threads(const qw_device *dev, int64_t n, int64_t cost);
int ref_thread(void);
/* Nonzero: the op must stop.  Thread 0 calls dev->poll and sets *stop when that returns nonzero;
 * the other threads read *stop. */
int ref_stopped(const qw_device *dev, atomic_int *stop);
int ref_gemm_int8(qw_device *dev, const qw_gemm_args *a); /* of ref:int8 */
/* `rows` rows of n doubles, or NULL; free() it. */
double *ref_room(int64_t rows, int64_t n);

/* Divides the iterations of the next for loop among threads.  No sum is divided. */
#ifdef _OPENMP
#define REF_PRAGMA(x) _Pragma(#x)
#define REF_PARALLEL(threads) REF_PRAGMA(omp parallel for num_threads(threads) schedule(guided))
#else
#define REF_PARALLEL(threads)
#endif
#endif
