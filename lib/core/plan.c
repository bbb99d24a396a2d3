/* plan.c - a device that computes nothing: its memory is an address counter, its ops succeed.
 *
 * A network run on it yields FLOPs, bytes, peak scratch and op lines without memory or time.  Its
 * types are those of the device `like`, so that a net makes the same calls on both. */
#include "core/run.h"
#include <stdlib.h>
#include <string.h>

typedef struct plan {
    qw_device dev;
    const qw_device *like; /* borrowed; NULL: a device wide and preferring f32 */
    uintptr_t next;        /* the next address handed out */
    uint64_t ticket;
} plan;

enum { FIRST = 1 << 20, ALIGN = 256 };

static int plan_alloc(qw_device *dev, size_t bytes, void **out)
{
    plan *p = (plan *)dev;
    *out = (void *)p->next;
    /* A run's unlimited scratch must not push later addresses out of range. */
    const size_t step = bytes < SIZE_MAX / 1024 ? bytes : SIZE_MAX / 1024;
    p->next += step + (ALIGN - step % ALIGN) % ALIGN + ALIGN;
    if (p->next > UINTPTR_MAX / 4) p->next = FIRST;
    return QWEN_OK;
}

static void plan_free(qw_device *dev, void *p)
{
    (void)dev;
    (void)p;
}

static int plan_put(qw_device *dev, int queue, void *dst, const void *src, size_t bytes)
{
    (void)dev;
    (void)queue;
    (void)dst;
    (void)src;
    (void)bytes;
    return QWEN_OK;
}

static int plan_get(qw_device *dev, int queue, void *dst, const void *src, size_t bytes)
{
    (void)dev;
    (void)queue;
    (void)src;
    memset(dst, 0, bytes);
    return QWEN_OK;
}

static int plan_mark(qw_device *dev, int queue, uint64_t *ticket)
{
    (void)queue;
    *ticket = ++((plan *)dev)->ticket;
    return QWEN_OK;
}

static int plan_wait(qw_device *dev, int queue, uint64_t ticket)
{
    (void)dev;
    (void)queue;
    (void)ticket;
    return QWEN_OK;
}

static int plan_sync(qw_device *dev)
{
    (void)dev;
    return QWEN_OK;
}

static int plan_lapse(qw_device *dev, uint64_t from, uint64_t to, double *seconds)
{
    (void)dev;
    (void)from;
    (void)to;
    *seconds = 0;
    return QWEN_OK;
}

/* packed only computes a number, so `like` may be passed without its const. */
static size_t plan_packed(qw_device *dev, const qw_pack_request *q)
{
    qw_device *like = (qw_device *)(uintptr_t)((plan *)dev)->like;
    return like->packed(like, q);
}

static int plan_pack(qw_device *dev, int queue, qw_tensor *dst, void *memory,
                     const qw_pack_request *q)
{
    (void)dev;
    (void)queue;
    for (int i = 0; i < q->parts; i++) {
        dst[i].data = memory;
        dst[i].layout = UINT32_MAX;
    }
    return QWEN_OK;
}

static size_t plan_scratch(qw_device *dev, enum qw_op op, const void *args)
{
    const qw_device *like = ((plan *)dev)->like;
    return like && like->scratch ? like->scratch((qw_device *)(uintptr_t)like, op, args) : 0;
}

static void plan_close(qw_device *dev) { free(dev); }

#define X(name)                                                       \
    static int plan_##name(qw_device *dev, const qw_##name##_args *a) \
    {                                                                 \
        (void)dev;                                                    \
        (void)a;                                                      \
        return QWEN_OK;                                               \
    }
QW_OPS(X)
#undef X

int qw_is_plan(const qw_device *dev) { return dev && dev->close == plan_close; }

int qw_plan_open(const qw_device *like, qw_device **out)
{
    *out = NULL;
    plan *p = calloc(1, sizeof *p);
    if (!p) return QWEN_ENOMEM;
    p->like = like;
    p->next = FIRST;
    p->dev = (qw_device){ .size = sizeof p->dev,
                          .abi = QW_BACKEND_ABI,
                          .name = "plan",
                          .memory = like ? like->memory : UINT64_MAX / 2,
                          .host = like ? like->host : 0,
                          .threads = like ? like->threads : 0,
                          .prefer = like ? like->prefer : QW_F32,
                          .wide = like ? like->wide : QW_F32,
                          .quant = like ? like->quant : QW_NONE,
                          .close = plan_close,
                          .alloc = plan_alloc,
                          .free = plan_free,
                          .put = plan_put,
                          .get = plan_get,
                          .mark = plan_mark,
                          .wait = plan_wait,
                          .sync = plan_sync,
                          .lapse = plan_lapse,
                          .packed = like && like->packed ? plan_packed : NULL,
                          .pack = like && like->packed ? plan_pack : NULL,
                          .scratch = plan_scratch,
#define X(name) .op.name = plan_##name,
                          QW_OPS(X)
#undef X
    };
    *out = &p->dev;
    return QWEN_OK;
}
