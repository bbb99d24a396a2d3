/* exact_math.c - log, sin and cos in double, built from + - * / alone, so that the same seed gives
 * the same bits with every C library.
 *
 * Each reduces its argument to a small interval without loss, sums a Taylor series there (terms
 * down to the precision of double) and adds the parts in an order in which only the last addition
 * rounds by half a unit; errors stay below one unit in the last place.  The build forbids
 * contraction to fused multiply-adds (-ffp-contract=off). */
#include "core/core.h"
#include <math.h>
#include <string.h>

static const double ln2_high = 0x1.62e42feep-1; /* 32 bits: k ln2_high is exact */
static const double ln2_low = 0x1.a39ef35793c76p-33;
static const double half_pi_1 = 0x1.921fb544p0; /* pi/2 in three parts of 33 bits, and the rest */
static const double half_pi_2 = 0x1.0b4611a6p-34;
static const double half_pi_3 = 0x1.3198a2ep-69;
static const double half_pi_rest = 0x1.b839a252049c1p-104;

double qw_log(double x)
{
    if (x != x || x < 0) return (double)NAN;
    if (x == 0) return -HUGE_VAL;
    if (x > 0x1.fffffffffffffp1023) return x;
    int k = 0;
    if (x < 0x1p-1022) { /* subnormal */
        x *= 0x1p54;
        k = -54;
    }
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    k += (int)(bits >> 52) - 1023;
    bits = (bits & UINT64_C(0xFFFFFFFFFFFFF)) | UINT64_C(0x3FF0000000000000);
    double m;
    memcpy(&m, &bits, sizeof m);   /* x = 2^k m, 1 <= m < 2 */
    if (m > 0x1.6a09e667f3bcdp0) { /* sqrt 2 */
        m *= 0.5;
        k++;
    }
    /* f = m - 1, s = f/(2 + f): ln(1 + f) = 2 artanh s = 2 s + s r, r = sum 2 s^2j / (2 j + 1);
     * with 2 s = f - s f and h = f^2/2 that is f - (h - s (h + r)). */
    const double f = m - 1, s = f / (2 + f), z = s * s, h = 0.5 * f * f;
    double r = 2.0 / 23;
    for (int j = 10; j >= 1; j--) r = r * z + 2.0 / (2 * j + 1);
    r *= z;
    if (k == 0) return f == 0 ? 0 : f - (h - s * (h + r));
    return k * ln2_high - ((h - (s * (h + r) + k * ln2_low)) - f);
}

/* a - b and what its rounding loses, exactly (Knuth). */
static double minus(double a, double b, double *lost)
{
    const double d = a - b, t = d - a;
    *lost = (a - (d - t)) - (b + t);
    return d;
}

/* x = n pi/2 + hi + lo, |hi| <= pi/4 (slightly more), n returned mod 4.  |x| <= 2^20. */
static int reduce(double x, double *hi, double *lo)
{
    const double t = x * 0x1.45f306dc9c883p-1; /* 2/pi */
    const int64_t n = (int64_t)(t < 0 ? t - 0.5 : t + 0.5);
    const double k = (double)n; /* k times a part of 33 bits is exact: n has 20 */
    double lost1, lost2;
    const double a = minus(x - k * half_pi_1, k * half_pi_2, &lost1);
    const double b = minus(a, k * half_pi_3, &lost2);
    const double tail = lost1 + (lost2 - k * half_pi_rest);
    *hi = b + tail;
    *lo = (b - *hi) + tail;
    return (int)(n & 3);
}

/* sin(x + e), |x| <= pi/4, |e| tiny */
static double small_sin(double x, double e)
{
    const double z = x * x;
    double r = 1.0 / 355687428096000; /* 1/17! */
    r = r * z - 1.0 / 1307674368000;
    r = r * z + 1.0 / 6227020800;
    r = r * z - 1.0 / 39916800;
    r = r * z + 1.0 / 362880;
    r = r * z - 1.0 / 5040;
    r = r * z + 1.0 / 120;
    const double v = z * x; /* x - (z (e/2 - v r) - e + v/6) */
    return x - ((z * (0.5 * e - v * r) - e) + v * (1.0 / 6));
}

/* cos(x + e) */
static double small_cos(double x, double e)
{
    const double z = x * x, h = 0.5 * z, w = 1 - h;
    double r = 1.0 / 6402373705728000; /* 1/18! */
    r = 1.0 / 20922789888000 - r * z;
    r = r * z - 1.0 / 87178291200;
    r = r * z + 1.0 / 479001600;
    r = r * z - 1.0 / 3628800;
    r = r * z + 1.0 / 40320;
    r = r * z - 1.0 / 720;
    r = r * z + 1.0 / 24;
    return w + (((1 - w) - h) + (z * (z * r) - x * e));
}

double qw_sin(double x)
{
    double hi, lo;
    if (!(x >= -0x1p20 && x <= 0x1p20)) return (double)NAN;
    switch (reduce(x, &hi, &lo)) {
    case 0: return small_sin(hi, lo);
    case 1: return small_cos(hi, lo);
    case 2: return -small_sin(hi, lo);
    default: return -small_cos(hi, lo);
    }
}

double qw_cos(double x)
{
    double hi, lo;
    if (!(x >= -0x1p20 && x <= 0x1p20)) return (double)NAN;
    switch (reduce(x, &hi, &lo)) {
    case 0: return small_cos(hi, lo);
    case 1: return -small_sin(hi, lo);
    case 2: return -small_cos(hi, lo);
    default: return small_sin(hi, lo);
    }
}
