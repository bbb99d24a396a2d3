/* copy.c - numbers on the host to tensors on a device and back. */
#include "core/run_inside.h"
#include <stdlib.h>
#include <string.h>

qw_runs qw_runs_of(const qw_tensor *t)
{
    qw_runs s = { 1, t->rank > 0 ? t->dim[t->rank - 1] : 1, t->rank - 1 };
    while (s.outer > 0 && t->stride[s.outer - 1] == s.n) s.n *= t->dim[--s.outer];
    for (int i = 0; i < s.outer; i++) s.count *= t->dim[i];
    return s;
}

/* Address of run i. */
unsigned char *qw_run_at(const qw_tensor *t, const qw_runs *s, int64_t i)
{
    int64_t e = 0;
    for (int d = s->outer - 1; d >= 0; d--) {
        e += i % t->dim[d] * t->stride[d];
        i /= t->dim[d];
    }
    return (unsigned char *)t->data + qw_row_bytes(t->dtype, e);
}

/* Host memory for a copy of t: its elements dense, then the scales of its rows if it has codes. */
static qw_tensor twin(qw_run *r, const qw_tensor *t)
{
    const size_t bytes = qw_row_bytes(t->dtype, qw_elements(t)), before = (bytes + 7) / 8 * 8;
    char *p = malloc(before + qw_scales(t) * sizeof(float) + 1);
    qw_tensor h = *t;
    h.data = p;
    for (int i = h.rank - 2; i >= 0; i--) h.stride[i] = h.stride[i + 1] * h.dim[i + 1];
    if (t->scale) h.scale = (float *)(void *)(p + before);
    if (!p) qw_run_fail(r, QWEN_ENOMEM, "no memory for a copy of %zu bytes", bytes);
    return h;
}

enum { TO_DEVICE, TO_HOST };

static int copy(qw_device *dev, int way, void *device, void *host, size_t bytes)
{
    if (!bytes) return QWEN_OK;
    return way == TO_DEVICE ? dev->put(dev, QW_COMPUTE, device, host, bytes)
                            : dev->get(dev, QW_COMPUTE, host, device, bytes);
}

/* Copies t to or from its twin: one call for each contiguous run of t, one for the scales. */
static int copy_all(qw_device *dev, int way, const qw_tensor *t, const qw_tensor *twin)
{
    const qw_runs s = qw_runs_of(t);
    const size_t bytes = qw_row_bytes(t->dtype, s.n);
    int status = QWEN_OK;
    for (int64_t i = 0; i < s.count && !status; i++)
        status = copy(dev, way, qw_run_at(t, &s, i), (char *)twin->data + (size_t)i * bytes, bytes);
    if (status || !t->scale) return status;
    return copy(dev, way, (void *)(uintptr_t)t->scale, (void *)(uintptr_t)twin->scale,
                qw_scales(t) * sizeof(float));
}

/* Nonzero: t is rows of codes [rows][n] with a scale each. */
static int is_codes(const qw_tensor *t)
{
    return t->dtype == QW_I8 && t->rank == 2 && t->scale && t->scale_stride == 1;
}

void qw_put(qw_run *r, qw_tensor dst, const double *src)
{
    if (r->error.status || qw_is_plan(r->dev) || qw_run_spoils(r)) return;
    if (!qw_stores_numbers(dst.dtype) && !is_codes(&dst)) {
        qw_run_fail(r, QWEN_EARG, "numbers cannot be put into a tensor of type %s",
                    qw_dtype_name(dst.dtype));
        return;
    }
    const qw_tensor h = twin(r, &dst);
    if (!h.data) return;
    if (is_codes(&h))
        for (int64_t i = 0; i < h.dim[0]; i++) qw_row_put(&h, i, 0, 0, src + i * h.dim[1]);
    else qw_numbers_put(h.dtype, src, qw_elements(&h), h.data);
    const int status = copy_all(r->dev, TO_DEVICE, &dst, &h);
    free(h.data);
    if (status) qw_run_device_failed(r, status, "taking data");
}

void qw_get(qw_run *r, qw_tensor src, double *dst)
{
    const int64_t n = qw_elements(&src);
    memset(dst, 0, (size_t)n * sizeof *dst);
    if (r->error.status || qw_is_plan(r->dev) || qw_run_spoils(r)) return;
    const qw_tensor h = twin(r, &src);
    if (!h.data) return;
    const int status = copy_all(r->dev, TO_HOST, &src, &h);
    if (status) qw_run_device_failed(r, status, "giving data back");
    else if (is_codes(&h))
        for (int64_t i = 0; i < h.dim[0]; i++) qw_row_get(&h, i, 0, 0, dst + i * h.dim[1]);
    else qw_numbers_get(h.dtype, h.data, n, dst);
    free(h.data);
}
