/* fill.h - shapes of a case's operands and random numbers, for the files of the kit. */
#ifndef QW_FILL_H
#define QW_FILL_H
#include "conform.h"

/* splitmix64: the same numbers on every machine, a stream per operand. */
typedef struct qw_random {
    uint64_t state;
} qw_random;
qw_random qw_random_of(uint64_t seed, uint64_t stream);
uint64_t qw_next(qw_random *r);
uint64_t qw_below(qw_random *r, uint64_t n); /* 0 .. n-1 */
double qw_uniform(qw_random *r);             /* 0 <= u < 1 */
/* sum of twelve uniforms: no libm, so the same bits */
double qw_gauss(qw_random *r);

/* The type itself if it is a float, else f32. */
qw_dtype qw_plain_float(qw_dtype t);
/* The argument struct with shapes, strides and made-up addresses, key ranges; no data.  0 or
 * QWEN_*. */
int qw_material_shape(qw_material *m, const qw_case *c, qw_dtype wide);
#endif
