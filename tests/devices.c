/* devices.c - devices of the tests: by name, one that declines everything, one with far memory. */
#include "devices.h"
#include "testing.h"
#include <string.h>

qw_device *open_device(const char *name)
{
    qw_device *d = NULL;
    qw_error e = { 0 };
    ck_assert_msg(!qw_device_open(name, &(qw_device_options){ .threads = 1 }, &d, &e), "%s",
                  e.text);
    return d;
}

#define X(name)                                                        \
    static int decline_##name(qw_device *d, const qw_##name##_args *a) \
    {                                                                  \
        (void)d;                                                       \
        (void)a;                                                       \
        return QW_DECLINE;                                             \
    }
QW_OPS(X)
#undef X

static void decline_all(qw_device *d)
{
#define X(op_name) d->op.op_name = decline_##op_name;
    QW_OPS(X)
#undef X
}

qw_device *open_declining(void)
{
    qw_device *d = open_device("ref");
    strcpy(d->name, "stub");
    decline_all(d);
    return d;
}

/* --- memory that is not ours ----------------------------------------------------------------- */

/* 2^62 is not a canonical address. */
static const uintptr_t FAR = (uintptr_t)1 << 62;
static void *away(void *p) { return (void *)((uintptr_t)p + FAR); }
static void *near(const void *p) { return (void *)((uintptr_t)p - FAR); }

far_device *far_of(qw_device *d) { return (far_device *)(void *)d; }

static void finish(far_device *f, uint64_t ticket)
{
    int left = 0;
    for (int i = 0; i < f->n; i++)
        if (f->pending[i].ticket > ticket) f->pending[left++] = f->pending[i];
        else memcpy(f->pending[i].dst, f->pending[i].src, f->pending[i].bytes);
    f->n = left;
}

static int far_alloc(qw_device *d, size_t bytes, void **out)
{
    const size_t size = (bytes + 255) / 256 * 256 + 256;
    size_t *p = aligned_alloc(256, size);
    *out = p ? away((char *)p + 256) : NULL;
    if (!p) return QWEN_ENOMEM;
    *p = size;
    far_of(d)->held += size - 256;
    return QWEN_OK;
}

static void far_free(qw_device *d, void *p)
{
    if (!p) return;
    size_t *block = (size_t *)(void *)((char *)near(p) - 256);
    far_of(d)->held -= *block - 256;
    free(block);
}

static int far_put(qw_device *d, int queue, void *dst, const void *src, size_t bytes)
{
    (void)d;
    (void)queue;
    memcpy(near(dst), src, bytes);
    return QWEN_OK;
}

static int far_get(qw_device *d, int queue, void *dst, const void *src, size_t bytes)
{
    (void)d;
    (void)queue;
    memcpy(dst, near(src), bytes);
    return QWEN_OK;
}

static int far_mark(qw_device *d, int queue, uint64_t *ticket)
{
    (void)queue;
    *ticket = ++far_of(d)->tickets;
    return QWEN_OK;
}

static int far_wait(qw_device *d, int queue, uint64_t ticket)
{
    if (queue == QW_COMPUTE) finish(far_of(d), ticket);
    return QWEN_OK;
}

static int far_sync(qw_device *d)
{
    finish(far_of(d), UINT64_MAX);
    return QWEN_OK;
}

static size_t plain(const qw_tensor *w)
{
    size_t rows = 1;
    for (int i = 0; i + 1 < w->rank; i++) rows *= (size_t)w->dim[i];
    return (rows * qw_row_bytes(w->dtype, w->dim[w->rank - 1]) + 255) / 256 * 256;
}

static size_t far_packed(qw_device *d, const qw_pack_request *q)
{
    (void)d;
    size_t bytes = 0;
    for (int i = 0; i < q->parts; i++) bytes += plain(&q->w[i]);
    return bytes;
}

/* What was at the destination is gone at once; what comes may come late. */
static int far_pack(qw_device *d, int queue, qw_tensor *dst, void *memory, const qw_pack_request *q)
{
    far_device *f = far_of(d);
    memset(near(memory), 0xff, far_packed(d, q));
    for (int i = 0; i < q->parts; i++) {
        const qw_tensor *w = &q->w[i];
        const size_t bytes = qw_extent(w);
        f->packs++;
        dst[i].data = memory;
        dst[i].layout = 9;
        memory = (char *)memory + plain(w);
        if (queue == QW_COMPUTE) memcpy(near(dst[i].data), w->data, bytes);
        else if (f->n == 256) return QWEN_EDEVICE;
        else f->pending[f->n++] = (far_copy){ near(dst[i].data), w->data, bytes, f->tickets + 1 };
    }
    return QWEN_OK;
}

/* Operands as the reference may read them. */
static void bring(int op, void *args)
{
    for (const qw_operand *o = qw_op_table[op].operand; o->name; o++) {
        qw_tensor *t = qw_operand_of(o, args);
        if (!t || !t->data) continue;
        t->data = near(t->data);
        t->layout = 0;
        t->host = NULL;
    }
}

#define X(name)                                                    \
    static int far_##name(qw_device *d, const qw_##name##_args *a) \
    {                                                              \
        qw_##name##_args b = *a;                                   \
        bring(QW_OP_##name, &b);                                   \
        return far_of(d)->ref->op.name(far_of(d)->ref, &b);        \
    }
QW_OPS(X)
#undef X

static void far_close(qw_device *d)
{
    far_device *f = far_of(d);
    ck_assert_uint_eq(f->held, 0);
    f->ref->close(f->ref);
    free(f);
}

qw_device *open_far(void)
{
    far_device *f = calloc(1, sizeof *f);
    f->ref = open_device("ref");
    f->d = *f->ref;
    strcpy(f->d.name, "far");
    f->d.host = 0;
    f->d.memory = (uint64_t)1 << 30;
    f->d.close = far_close;
    f->d.alloc = far_alloc;
    f->d.free = far_free;
    f->d.put = far_put;
    f->d.get = far_get;
    f->d.mark = far_mark;
    f->d.wait = far_wait;
    f->d.sync = far_sync;
    f->d.packed = far_packed;
    f->d.pack = far_pack;
#define X(op_name) f->d.op.op_name = far_##op_name;
    QW_OPS(X)
#undef X
    return &f->d;
}

qw_device *open_far_declining(void)
{
    qw_device *d = open_far();
    decline_all(d);
    d->packed = NULL;
    d->pack = NULL;
    return d;
}
