/* rows.c - operands that may be absent, sums and functions, threads. */
#include "rows.h"
#include <math.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif

enum { WORTH = 1 << 18 }; /* multiplications per thread, at least */

/* --- operands ---------------------------------------------------------------------------- */

double ref_get1(const qw_tensor *t, int64_t i, int64_t j, double absent)
{
    if (qw_present(t)) qw_numbers_get(t->dtype, qw_at(t, i, j, 0, 0), 1, &absent);
    return absent;
}

void ref_vector(const qw_tensor *t, int64_t n, double absent, double *x)
{
    if (qw_present(t)) qw_row_get(t, 0, 0, 0, x);
    else
        for (int64_t i = 0; i < n; i++) x[i] = absent;
}

void ref_put1(const qw_tensor *t, int64_t i, int64_t j, double x)
{
    qw_numbers_put(t->dtype, &x, 1, qw_at(t, i, j, 0, 0));
}

/* --- sums and functions ------------------------------------------------------------------ */

double ref_dot(const double *a, const double *b, int64_t n)
{
    double s[8] = { 0 };
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) { /* written out, so that compilers use vector instructions */
        s[0] += a[i] * b[i];
        s[1] += a[i + 1] * b[i + 1];
        s[2] += a[i + 2] * b[i + 2];
        s[3] += a[i + 3] * b[i + 3];
        s[4] += a[i + 4] * b[i + 4];
        s[5] += a[i + 5] * b[i + 5];
        s[6] += a[i + 6] * b[i + 6];
        s[7] += a[i + 7] * b[i + 7];
    }
    for (int l = 0; i + l < n; l++) s[l] += a[i + l] * b[i + l];
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

/* SiLU: x sigmoid(x).  GELU (Hendrycks and Gimpel 2016): x Phi(x), or its approximation
 * x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), which is x sigmoid of twice that argument.
 * Written so that nothing cancels for large negative x. */
double ref_act(qw_act act, double x)
{
    const double root_2_over_pi = 0.79788456080286535588, root_half = 0.70710678118654752440;
    switch (act) {
    case QW_SILU: return x / (1 + exp(-x));
    case QW_GELU_TANH: return x / (1 + exp(-2 * root_2_over_pi * (x + 0.044715 * x * x * x)));
    case QW_GELU_ERF: return x / 2 * erfc(-root_half * x);
    case QW_ACT_NONE: break;
    }
    return x;
}

/* --- threads and memory ------------------------------------------------------------------ */

int ref_threads(const qw_device *dev, int64_t n, int64_t cost)
{
#ifdef _OPENMP
    const int most = dev->threads > 0 ? dev->threads : omp_get_max_threads();
#else
    const int most = 1;
    (void)dev;
#endif
    const double worth = (double)n * (double)cost / WORTH;
    if (n < most && (double)n < worth) return n > 1 ? (int)n : 1;
    return worth < most ? (worth > 1 ? (int)worth : 1) : most;
}

int ref_thread(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

double *ref_room(int64_t rows, int64_t n)
{
    if (rows > 0 && (uint64_t)n > SIZE_MAX / sizeof(double) / (uint64_t)rows) return NULL;
    const size_t bytes = (size_t)(rows * n) * sizeof(double);
    return malloc(bytes ? bytes : 1);
}

int ref_stopped(const qw_device *dev, atomic_int *stop)
{
    if (atomic_load(stop)) return 1;
    if (dev->poll && ref_thread() == 0 && dev->poll(dev->poll_user)) atomic_store(stop, 1);
    return atomic_load(stop);
}
