/* ref.c - host memory, queues that are already empty, and the table of the reference devices. */
#include "ref.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

int ref_threads(const qw_device *dev)
{
#ifdef _OPENMP
    return dev->threads > 0 ? dev->threads : omp_get_max_threads();
#else
    (void)dev;
    return 1;
#endif
}

int ref_thread(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

int ref_alloc(qw_device *dev, size_t bytes, void **out)
{
    (void)dev;
    const size_t whole = bytes <= SIZE_MAX - 255 ? (bytes + 255) & ~(size_t)255 : 0;
    *out = whole || !bytes ? aligned_alloc(256, whole ? whole : 256) : NULL;
    return *out ? QWEN_OK : QWEN_ENOMEM;
}

void ref_free(qw_device *dev, void *p)
{
    (void)dev;
    free(p);
}

int ref_put(qw_device *dev, int queue, void *dst, const void *src, size_t bytes)
{
    (void)dev;
    (void)queue;
    if (bytes) memcpy(dst, src, bytes);
    return QWEN_OK;
}

int ref_get(qw_device *dev, int queue, void *dst, const void *src, size_t bytes)
{
    return ref_put(dev, queue, dst, src, bytes);
}

/* A ticket is the time in nanoseconds. */
int ref_mark(qw_device *dev, int queue, uint64_t *ticket)
{
    struct timespec now;
    (void)dev;
    (void)queue;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *ticket = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    return QWEN_OK;
}

int ref_wait(qw_device *dev, int queue, uint64_t ticket)
{
    (void)dev;
    (void)queue;
    (void)ticket;
    return QWEN_OK;
}

int ref_sync(qw_device *dev)
{
    (void)dev;
    return QWEN_OK;
}

int ref_lapse(qw_device *dev, uint64_t from, uint64_t to, double *seconds)
{
    (void)dev;
    *seconds = 1e-9 * (double)(to - from);
    return QWEN_OK;
}

size_t ref_packed(qw_device *dev, const qw_tensor *w)
{
    (void)dev;
    return (size_t)w->dim[0] * qw_row_bytes(w->dtype, w->dim[1]);
}

/* Plain and dense: only the strides of the original are lost. */
int ref_pack(qw_device *dev, int queue, qw_tensor *dst, const qw_tensor *w)
{
    const size_t row = qw_row_bytes(w->dtype, w->dim[1]);
    void *data = dst->data;
    (void)dev;
    (void)queue;
    for (int64_t i = 0; i < w->dim[0]; i++) memcpy((char *)data + (size_t)i * row, qw_at(w, i, 0, 0, 0), row);
    *dst = *w;
    dst->data = data;
    dst->stride[0] = w->dim[1];
    dst->host = w;
    return QWEN_OK;
}

static void ref_close(qw_device *dev) { free(dev); }

void ref_fill(qw_device *dev, const char *name, qw_dtype prefer, qw_dtype wide)
{
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    /* Sums and products in double; the C library's exp, tanh and erf are good to a few units. */
    const qw_arith promise = { .mul = 0, .acc = 0x1p-53f, .mid = 0x1p-53f, .fun = 0x1p-50f, .row = 0 };
    dev->abi = QW_BACKEND_ABI;
    strncpy(dev->name, name, sizeof dev->name - 1);
    dev->memory = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
    dev->host = 1;
    dev->prefer = prefer;
    dev->wide = wide;
    dev->close = ref_close;
    dev->alloc = ref_alloc;
    dev->free = ref_free;
    dev->put = ref_put;
    dev->get = ref_get;
    dev->mark = ref_mark;
    dev->wait = ref_wait;
    dev->sync = ref_sync;
    dev->lapse = ref_lapse;
    dev->packed = ref_packed;
    dev->pack = ref_pack;
#define X(name) dev->op.name = ref_##name; dev->op.name##_arith = promise;
    QW_OPS(X)
#undef X
}

int ref_open(int i, qw_device **out)
{
    static const struct { const char *name; qw_dtype prefer, wide; } kinds[] = {
        { "ref", QW_F32, QW_F32 }, { "ref64", QW_F64, QW_F64 }, { "ref:bf16", QW_BF16, QW_F32 },
    };
    *out = NULL;
    if (i < 0 || (size_t)i >= sizeof kinds / sizeof *kinds) return QW_DECLINE;
    qw_device *dev = calloc(1, sizeof *dev);
    if (!dev) return QWEN_ENOMEM;
    ref_fill(dev, kinds[i].name, kinds[i].prefer, kinds[i].wide);
    *out = dev;
    return QWEN_OK;
}

const qw_backend ref_backend = { QW_BACKEND_ABI, "ref", ref_open };
