/* host_device.c - the memory and queues of a device whose memory is the host's.
 *
 * A host device leaves these functions NULL; its queues are always empty, since each call finishes
 * its work before it returns. */
#include "core/run.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int host_alloc(qw_device *dev, size_t bytes, void **out)
{
    (void)dev;
    *out = NULL;
    if (bytes > PTRDIFF_MAX || posix_memalign(out, 256, bytes ? bytes : 1)) *out = NULL;
    return *out ? QWEN_OK : QWEN_ENOMEM;
}

static void host_free(qw_device *dev, void *p)
{
    (void)dev;
    free(p);
}

static int host_copy(qw_device *dev, int queue, void *dst, const void *src, size_t bytes)
{
    (void)dev, (void)queue;
    if (bytes) memmove(dst, src, bytes);
    return QWEN_OK;
}

/* A ticket is the monotonic clock in nanoseconds, for the queue is always empty. */
static int host_mark(qw_device *dev, int queue, uint64_t *ticket)
{
    (void)dev, (void)queue;
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t)) return QWEN_EDEVICE;
    *ticket = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    return QWEN_OK;
}

static int host_lapse(qw_device *dev, uint64_t from, uint64_t to, double *seconds)
{
    (void)dev;
    *seconds = (double)(int64_t)(to - from) * 1e-9;
    return QWEN_OK;
}

static int host_wait(qw_device *dev, int queue, uint64_t ticket)
{
    (void)dev, (void)queue, (void)ticket;
    return QWEN_OK;
}

static int host_sync(qw_device *dev)
{
    (void)dev;
    return QWEN_OK;
}

static void host_close(qw_device *dev) { free(dev); }

/* Sets the memory functions that are NULL; alloc and free together. */
static void complete_host(qw_device *d)
{
    if (!d->alloc) {
        d->alloc = host_alloc;
        d->free = host_free;
    }
    if (!d->put) d->put = host_copy;
    if (!d->get) d->get = host_copy;
    if (!d->mark) d->mark = host_mark;
    if (!d->wait) d->wait = host_wait;
    if (!d->sync) d->sync = host_sync;
    if (!d->lapse) d->lapse = host_lapse;
}

const char *qw_device_complete(qw_device *d)
{
    if (!d->close) d->close = host_close;
    if (!d->alloc != !d->free) return "it has only one of alloc and free";
    if (!d->packed != !d->pack) return "it has only one of packed and pack";
    if (d->record && (!d->replay || !d->forget)) return "it has record, but not replay and forget";
    if (d->wide != QW_F32 && d->wide != QW_F64) return "its wide type is neither f32 nor f64";
    if (d->prefer != QW_F32 && d->prefer != QW_BF16 && d->prefer != QW_F64)
        return "the type it prefers is neither f32 nor bf16";
    if (d->quant != QW_NONE && d->quant != QW_I8) return "its quantised type is not i8";
    if (d->host) complete_host(d);
    const int memory = d->alloc && d->free && d->put && d->get;
    return memory && d->mark && d->wait && d->sync && d->lapse
               ? NULL
               : "it has no memory functions, and its memory is not the host's";
}
