/* convert.c - changes of type and strides, with a sum, a rotation or quantisation by rows. */
#include <qwen/ref.h>
#include "rows.h"
#include <stdlib.h>

/* convert: y = res + H x, row by row; H is the identity, or with `rotate` the
 * rotation of qw_hadamard.
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
        qw_row_get(&a->x, i, 0, 0, x);
        qw_hadamard(x, n, a->rotate);
        if (qw_present(&a->res)) {
            qw_row_get(&a->res, i, 0, 0, res);
            for (int64_t j = 0; j < n; j++) x[j] += res[j];
        }
        qw_row_put(&a->y, i, 0, 0, x);
    }
    free(room);
    return QWEN_OK;
}
