/* convert.c - numbers from one form to another: types, strides, a sum, a rotation, quantised rows. */
#include <qwen/ref.h>
#include "rows.h"
#include <stdlib.h>

/* Each run of `group` numbers times the regular Hadamard matrix H4 x H4 x ... / sqrt(group), where
 * H4 is 1 but for -1 on its second diagonal: a factor for each base-4 digit of the position.  For a
 * factor H4/2, with t half the sum of the four, the product is t minus each in reverse order.
 * H is its own inverse. */
static void rotate(double *x, int64_t n, int64_t group)
{
    for (int64_t s = 1; s < group; s *= 4)
        for (int64_t i = 0; i < n; i++) {
            if (i / s % 4) continue; /* i: the place whose digit is 0 */
            double *p = x + i;
            const double a = p[0], b = p[s], c = p[2 * s], d = p[3 * s], t = (a + b + c + d) / 2;
            p[0] = t - d;
            p[s] = t - c;
            p[2 * s] = t - b;
            p[3 * s] = t - a;
        }
}

/* convert: y = res + H x, row by row; H is the identity, or with `rotate` the rotation above.
 * x, res, y [m][n], x of any type; y of I8 is quantised against the largest of its row:
 * s = max|y| / 127, codes y / s to nearest even.
 * comfy-kitchen's "convrot" and int8 rows.  Bound: doc/numerics.md, convert. */
int ref_convert(qw_device *dev, const qw_convert_args *a)
{
    const int64_t m = a->y.dim[0], n = a->y.dim[1];
    const int threads = ref_threads(dev, m, 4 * n);
    double *room = ref_room(2 * threads, n);
    if (!room) return QWEN_ENOMEM;
    REF_PARALLEL(threads)
    for (int64_t i = 0; i < m; i++) {
        double *x = room + 2 * ref_thread() * n, *res = x + n;
        ref_get(&a->x, i, 0, 0, x);
        rotate(x, n, a->rotate);
        if (qw_present(&a->res)) {
            ref_get(&a->res, i, 0, 0, res);
            for (int64_t j = 0; j < n; j++) x[j] += res[j];
        }
        ref_put(&a->y, i, 0, 0, x);
    }
    free(room);
    return QWEN_OK;
}
