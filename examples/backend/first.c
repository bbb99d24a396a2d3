/* first.c - a device that computes swiglu itself and leaves the rest to the reference.
 *
 *     cc -O2 -fPIC -shared first.c -o first.so `pkg-config --cflags --libs libqwen-backend` */
#include <math.h>
#include <qwen/ref.h>
#include <stdio.h>
#include <stdlib.h>

/* y = silu(x[:, :n]) x[:, n:], rows of floats */
static int first_swiglu(qw_device *dev, const qw_swiglu_args *a)
{
    (void)dev;
    if (a->x.dtype != QW_F32 || a->y.dtype != QW_F32) return QW_DECLINE;
    const int64_t n = a->y.dim[1];
    for (int64_t i = 0; i < a->y.dim[0]; i++) {
        const float *x = qw_at(&a->x, i, 0, 0, 0);
        float *y = qw_at(&a->y, i, 0, 0, 0);
        for (int64_t j = 0; j < n; j++) y[j] = x[j] / (1 + expf(-x[j])) * x[n + j];
    }
    return QWEN_OK;
}

static int first_list(int i, qw_listing *out)
{
    if (i) return QW_DECLINE; /* there is one device */
    snprintf(out->name, sizeof out->name, "first");
    snprintf(out->what, sizeof out->what, "the reference with a swiglu of floats");
    return QWEN_OK;
}

static int first_open(int i, const qw_open_options *options, qw_device **out)
{
    (void)i, (void)options;
    qw_device *dev = *out = malloc(sizeof *dev);
    if (!dev) return QWEN_ENOMEM;
    ref_init(dev, "first", QW_F32, QW_F32);
    dev->op.swiglu = first_swiglu;
    dev->op.swiglu_arith = (qw_arith){ .acc = 0x1p-24f, .fun = 0x1p-22f };
    return QWEN_OK;
}

const qw_backend qw_backend_module_v2 = { sizeof qw_backend_module_v2, QW_BACKEND_ABI, "first",
                                          first_list, first_open };
