/* onednn.c - the oneDNN devices: gemm and conv2d by oneDNN, all else by a device of this library.
 * "onednn:f32" multiplies in float32; "onednn:bf16" keeps branches in bf16 and multiplies pairs of
 * bf16, on processors that have such an instruction.  Scores are below those of cpu: these devices
 * are chosen by name. */
#include "onednn.h"
#include <qwen/ref.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef QW_HAVE_CPU
#include "backends/cpu/cpu.h"
#define BASE cpu_backend
#else
#define BASE ref_backend
#endif

static const struct {
    const char *name, *what,
        *base; /* base: how the name of the device that it inherits from ends */
    int bf16;
    double score;
} variant[] = {
    { "onednn:f32", "products of f32", ":f32", 0, 0.02 },
    { "onednn:bf16", "products of bf16", ":bf16", 1, 0.03 },
};
enum { VARIANTS = sizeof variant / sizeof variant[0] };

/* --- the base --------------------------------------------------------------------------------- */

/* The index of the best usable device of BASE: one whose name ends so, if there is one. */
static int choose_base(const char *end, qw_listing *best)
{
    qw_listing l = { .size = sizeof l };
    int found = -1, fits = 0;
    for (int i = 0; BASE.list(i, &l) == QWEN_OK; l = (qw_listing){ .size = sizeof l }, i++) {
        const size_t n = strlen(l.name), e = strlen(end);
        const int fit = n >= e && !strcmp(l.name + n - e, end);
        if (l.why_not[0] || fit < fits) continue;
        if (found >= 0 && fit == fits && l.score <= best->score) continue;
        *best = l;
        fits = fit;
        found = i;
    }
    return found;
}

/* The base with what the core has set for this call. */
static qw_device *lend(onednn_device *dev)
{
    qw_device *b = dev->base;
    b->threads = dev->d.threads;
    b->room = dev->d.room;
    b->room_bytes = dev->d.room_bytes;
    b->poll = dev->d.poll;
    b->poll_user = dev->d.poll_user;
    return b;
}

#define X(name)                                                     \
    static int base_##name(qw_device *d, const qw_##name##_args *a) \
    {                                                               \
        onednn_device *dev = onednn_of(d);                          \
        if (dev->why[0]) return QWEN_EDEVICE;                       \
        qw_device *b = lend(dev);                                   \
        return b->op.name ? b->op.name(b, a) : QW_DECLINE;          \
    }
QW_OPS(X)
#undef X

/* --- the device ------------------------------------------------------------------------------- */

static int gemm(qw_device *d, const qw_gemm_args *a)
{
    const int status = onednn_gemm(onednn_of(d), a);
    return status == QW_DECLINE ? base_gemm(d, a) : status;
}

static int conv2d(qw_device *d, const qw_conv2d_args *a)
{
    const int status = onednn_conv2d(onednn_of(d), a);
    return status == QW_DECLINE ? base_conv2d(d, a) : status;
}

static size_t scratch(qw_device *d, enum qw_op op, const void *args)
{
    onednn_device *dev = onednn_of(d);
    size_t bytes = 0;
    if (op == QW_OP_gemm && onednn_gemm_scratch(dev, args, &bytes)) return bytes;
    if (op == QW_OP_conv2d && onednn_conv2d_scratch(dev, args, &bytes)) return bytes;
    qw_device *b = lend(dev);
    return b->scratch ? b->scratch(b, op, args) : 0;
}

static const char *failure(qw_device *d)
{
    const onednn_device *dev = onednn_of(d);
    return dev->why[0] ? dev->why : NULL;
}

static void close_base(qw_device *b)
{
    if (b && b->close) b->close(b);
    else free(b);
}

static void close_device(qw_device *d)
{
    onednn_device *dev = onednn_of(d);
    onednn_stop(dev);
    close_base(dev->base);
    free(dev);
}

/* What the base promises, and what oneDNN's float32 sums and activations lose. */
static void promise(qw_arith *a)
{
    if (a->acc < 0x1p-24f) a->acc = 0x1p-24f;
    if (a->fun < 0x1p-21f) a->fun = 0x1p-21f;
}

static void fill(onednn_device *dev, int i)
{
    qw_device *d = &dev->d;
    ref_init(d, variant[i].name, variant[i].bf16 ? QW_BF16 : QW_F32, QW_F32);
    d->same_bits = 0; /* oneDNN may divide a sum among threads */
    d->close = close_device;
    d->failure = failure;
    d->scratch = scratch;
#define X(name)               \
    d->op.name = base_##name; \
    d->op.name##_arith = dev->base->op.name##_arith;
    QW_OPS(X)
#undef X
    d->op.gemm = gemm;
    d->op.conv2d = conv2d;
    promise(&d->op.gemm_arith);
    promise(&d->op.conv2d_arith);
}

/* NULL, or why this machine has no such device. */
static const char *unusable(int i)
{
    return variant[i].bf16 && !onednn_has_bf16()
               ? "this processor has no products of bf16 pairs, by oneDNN"
               : NULL;
}

static int onednn_list(int i, qw_listing *out)
{
    if (i < 0 || i >= VARIANTS) return QW_DECLINE;
    qw_listing base = { .size = sizeof base };
    const dnnl_version_t *v = dnnl_version();
    choose_base(variant[i].base, &base);
    snprintf(out->name, sizeof out->name, "%s", variant[i].name);
    snprintf(out->what, sizeof out->what, "oneDNN %d.%d.%d, %s; the rest is %s", v->major, v->minor,
             v->patch, variant[i].what, base.name);
    out->score = variant[i].score;
    if (unusable(i)) snprintf(out->why_not, sizeof out->why_not, "%s", unusable(i));
    return QWEN_OK;
}

static int onednn_open(int i, const qw_open_options *options, qw_device **out)
{
    *out = NULL;
    if (i < 0 || i >= VARIANTS) return QW_DECLINE;
    if (unusable(i)) {
        if (options->why) snprintf(options->why, options->why_size, "%s", unusable(i));
        return QWEN_EDEVICE;
    }
    qw_listing base;
    const int from = choose_base(variant[i].base, &base);
    onednn_device *dev = from < 0 ? NULL : calloc(1, sizeof *dev);
    if (!dev) return from < 0 ? QWEN_EDEVICE : QWEN_ENOMEM;
    dev->bf16 = onednn_has_bf16();
    int status = BASE.open(from, options, &dev->base);
    if (!status) status = onednn_start(dev);
    if (status) {
        if (dev->why[0] && options->why) snprintf(options->why, options->why_size, "%s", dev->why);
        onednn_stop(dev);
        close_base(dev->base);
        free(dev);
        return status;
    }
    fill(dev, i);
    dev->d.threads = options->threads;
    *out = &dev->d;
    return QWEN_OK;
}

const qw_backend qw_backend_module_v2 = { sizeof qw_backend_module_v2, QW_BACKEND_ABI, "onednn",
                                          onednn_list, onednn_open };
