/* swiglu.c - the product of halves in a gated MLP. */
#include <qwen/ref.h>
#include "rows.h"
#include <stdlib.h>

/* swiglu: y[i][j] = silu(x[i][j]) x[i][n + j].
 * x [m][2n]: gate, then up; y [m][n].  Shazeer 2020; transformers Qwen2MLP.
 * Bound: doc/numerics.md, swiglu. */
int ref_swiglu(qw_device *dev, const qw_swiglu_args *a)
{
    const int64_t m = a->y.dim[0], n = a->y.dim[1];
    const int threads = ref_threads(dev, m, 16 * n);
    double *room = ref_room(threads, 2 * n);
    if (!room) return QWEN_ENOMEM;
    REF_PARALLEL(threads)
    for (int64_t i = 0; i < m; i++) {
        double *x = room + ref_thread() * 2 * n;
        qw_row_get(&a->x, i, 0, 0, x);
        for (int64_t j = 0; j < n; j++) x[j] = ref_act(QW_SILU, x[j]) * x[n + j];
        qw_row_put(&a->y, i, 0, 0, x);
    }
    free(room);
    return QWEN_OK;
}
