/* ref.c - the reference devices: host memory, queues that are always empty, the table. */
#include <qwen/ref.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

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

/* Work is done when its call returns, so a point in the queue is a point in time: a ticket is the
 * monotonic clock in nanoseconds. */
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

/* Weights are used as they lie in the file's mapping: packing needs no memory and moves nothing. */
static size_t host_packed(qw_device *dev, const qw_tensor *w)
{
    (void)dev, (void)w;
    return 0;
}

static int host_pack(qw_device *dev, int queue, qw_tensor *dst, const qw_tensor *w)
{
    (void)dev, (void)queue;
    *dst = *w;
    return QWEN_OK;
}

static void host_close(qw_device *dev) { free(dev); }

/* Memory that can be had without swapping: the kernel's estimate, or what is not in use. */
static uint64_t host_memory(void)
{
    char line[128];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && !kib && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu", &kib) != 1) kib = 0;
    if (f) fclose(f);
    if (kib) return kib * 1024;
#ifdef _SC_AVPHYS_PAGES
    const long pages = sysconf(_SC_AVPHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page > 0) return (uint64_t)pages * (uint64_t)page;
#endif
    return UINT64_C(1) << 32;
}

void ref_init(qw_device *dev, const char *name, qw_dtype prefer, qw_dtype wide)
{
    /* Double throughout; the C library's exp and erfc are good to a few units. */
    const qw_arith arith = { .acc = 0x1p-53f, .mid = 0x1p-53f, .fun = 0x1p-50f };
    *dev = (qw_device){ .abi = QW_BACKEND_ABI,
                        .memory = host_memory(),
                        .host = 1,
                        .prefer = prefer,
                        .wide = wide,
                        .close = host_close,
                        .alloc = host_alloc,
                        .free = host_free,
                        .put = host_copy,
                        .get = host_copy,
                        .mark = host_mark,
                        .wait = host_wait,
                        .sync = host_sync,
                        .lapse = host_lapse,
                        .packed = host_packed,
                        .pack = host_pack,
#define X(name) .op.name = ref_##name, .op.name##_arith = arith,
                        QW_OPS(X)
#undef X
    };
    snprintf(dev->name, sizeof dev->name, "%s", name);
}

int ref_open(int i, qw_device **out)
{
    static const struct {
        const char *name;
        qw_dtype prefer, wide;
    } variant[] = {
        { "ref", QW_F32, QW_F32 },
        { "ref64", QW_F64, QW_F64 },
        { "ref:bf16", QW_BF16, QW_F32 },
    };
    *out = NULL;
    if (i < 0 || i >= (int)(sizeof variant / sizeof variant[0])) return QW_DECLINE;
    qw_device *dev = malloc(sizeof *dev);
    if (!dev) return QWEN_ENOMEM;
    ref_init(dev, variant[i].name, variant[i].prefer, variant[i].wide);
    *out = dev;
    return QWEN_OK;
}

const qw_backend ref_backend = { QW_BACKEND_ABI, "ref", ref_open };
