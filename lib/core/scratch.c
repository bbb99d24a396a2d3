/* scratch.c - a run and its scratch: one block of device memory, used as a stack. */
#include "core/run_inside.h"
#include <string.h>

enum { ALIGN = 256 };

void qw_run_init(qw_run *r, qw_device *dev, qw_device *ref)
{
    memset(r, 0, sizeof *r);
    r->dev = dev;
    r->ref = ref;
    r->step = r->block = -1;
    if (qw_is_plan(dev)) qw_run_reserve(r, 0);
}

void qw_run_free(qw_run *r)
{
    if (r->base && r->dev) {
        r->dev->sync(r->dev);
        r->dev->free(r->dev, r->base);
    }
    r->base = NULL;
    r->size = r->used = 0;
}

int qw_run_reserve(qw_run *r, size_t bytes)
{
    if (r->error.status) return r->error.status;
    if (r->base && bytes <= r->size) return QWEN_OK;
    if (r->used) {
        qw_run_fail(r, QWEN_ENOMEM, "scratch of %zu bytes cannot grow to %zu while it is in use",
                    r->size, bytes);
        return r->error.status;
    }
    const int plan = qw_is_plan(r->dev);
    qw_run_free(r);
    void *base = NULL;
    const int status = r->dev->alloc(r->dev, plan ? SIZE_MAX / 2 : bytes ? bytes : ALIGN, &base);
    if (status || !base) {
        if (status == QWEN_EDEVICE) qw_run_device_failed(r, status, "giving memory for scratch");
        qw_run_fail(r, status ? status : QWEN_ENOMEM,
                    "device %s has no room for %zu bytes of scratch", r->dev->name, bytes);
        return r->error.status;
    }
    r->base = base;
    r->size = plan ? SIZE_MAX / 2 : bytes ? bytes : ALIGN;
    return QWEN_OK;
}

/* Takes bytes of the scratch block, 256-byte aligned.  When they do not fit, the run fails; views
 * may be computed from the address returned, which no op uses. */
void *qw_run_take(qw_run *r, size_t bytes)
{
    void *const nothing = r->base ? (void *)r->base : (void *)&r->base;
    if (r->error.status) return nothing;
    if (bytes > r->size - r->used || r->used > r->size) {
        qw_run_fail(
            r, QWEN_ENOMEM,
            "%zu more bytes of scratch do not fit: %zu of %zu are used, the peak so far is %zu",
            bytes, r->used, r->size, r->peak);
        return nothing;
    }
    void *p = r->base + r->used;
    const size_t left = r->size - r->used, padded = bytes + (ALIGN - bytes % ALIGN) % ALIGN;
    r->used += padded < left ? padded : left;
    if (r->used > r->peak) r->peak = r->used;
    return p;
}

/* Checks the sizes of a scratch tensor: none negative, fewer than 1e18 bytes. */
static int sizes_fit(qw_run *r, qw_dtype t, int rank, const int64_t *dim)
{
    double bytes = (double)qw_block_bytes(t) / (double)qw_block_elements(t);
    for (int i = 0; i < rank; i++) {
        bytes *= (double)dim[i];
        if (dim[i] >= 0) continue;
        qw_run_fail(r, QWEN_EARG, "a scratch tensor with dimension %d of %lld", i,
                    (long long)dim[i]);
        return 0;
    }
    if (bytes < 1e18) return 1;
    qw_run_fail(r, QWEN_ENOMEM, "a scratch tensor of %g bytes", bytes);
    return 0;
}

/* Gives a tensor its memory; quantised rows (I8) get a scale each. */
static qw_tensor placed(qw_run *r, qw_tensor t)
{
    t.data = qw_run_take(r, qw_row_bytes(t.dtype, qw_elements(&t)));
    if (t.dtype == QW_I8) {
        t.scale = qw_run_take(r, (size_t)t.dim[0] * sizeof(float));
        t.scale_stride = 1;
    }
    return t;
}

/* Sizes that fail the check become 0; after any other failure a tensor keeps its shape. */
qw_tensor qw_new1(qw_run *r, qw_dtype t, int64_t a)
{
    if (!sizes_fit(r, t, 1, (int64_t[]){ a })) return placed(r, qw_dense1(NULL, t, 0));
    return placed(r, qw_dense1(NULL, t, a));
}

qw_tensor qw_new2(qw_run *r, qw_dtype t, int64_t a, int64_t b)
{
    if (!sizes_fit(r, t, 2, (int64_t[]){ a, b })) return placed(r, qw_dense2(NULL, t, 0, 0));
    return placed(r, qw_dense2(NULL, t, a, b));
}

qw_tensor qw_new3(qw_run *r, qw_dtype t, int64_t a, int64_t b, int64_t c)
{
    if (!sizes_fit(r, t, 3, (int64_t[]){ a, b, c })) return placed(r, qw_dense3(NULL, t, 0, 0, 0));
    return placed(r, qw_dense3(NULL, t, a, b, c));
}
