/* conv2d.c - convolution of a picture with channels last: the plan, and the tasks of threads.
 *
 * The weights become panels once a call; threads take blocks of output rows.  The sum over taps and
 * channels of a tile of MR pixels and NW channels stays in registers. */
#include "conv2d.h"

/* PIXELS: of a task, that a panel meets while it lies in the second level cache. */
enum { PIXELS = 256 };

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t gcd(int64_t a, int64_t b) { return b ? gcd(b, a % b) : a; }

static int taken(const qw_conv2d_args *a)
{
    return cpu_float(a->x.dtype) && cpu_float(a->w.dtype) && cpu_float(a->y.dtype) && !a->w.layout
           && (!qw_present(&a->res) || cpu_float(a->res.dtype));
}

/* Rows of x that rows ii0 .. ii1 of every phase see. */
static void see(const qw_conv2d_args *a, const conv_plan *p, int64_t ii0, int64_t ii1,
                int64_t *from, int64_t *to)
{
    const conv_taps f = conv_taps_of(a, 0, p->kh, a->top);
    const conv_taps l = conv_taps_of(a, p->phases - 1, p->kh, a->top);
    const int64_t first = ii0 * p->step + f.first, end = (ii1 - 1) * p->step + l.first + l.n;
    *from = first < 0 ? 0 : first < p->hi ? first : p->hi;
    *to = end < *from ? *from : end < p->hi ? end : p->hi;
}

static conv_plan plan_of(const cpu_device *dev, const qw_conv2d_args *a)
{
    conv_plan p = { .ho = a->y.dim[0], .wo = a->y.dim[1], .co = a->y.dim[2], .hi = a->x.dim[0] };
    p.wi = a->x.dim[1];
    p.ci = a->x.dim[2];
    p.kh = a->w.dim[1];
    p.kw = a->w.dim[2];
    p.phases = a->up / gcd(a->up, a->stride);
    p.step = p.phases * a->stride / a->up;
    int64_t rows = 0, columns = 0;
    for (int64_t i = 0; i < p.phases; i++) {
        rows = most(rows, conv_taps_of(a, i, p.kh, a->top).n);
        columns = most(columns, conv_taps_of(a, i, p.kw, a->left).n);
    }
    p.most = rows * columns;
#ifdef VEC_BF16_PAIRS
    /* Sums of weights are no bf16. */
    p.pairs = dev->pairs && a->x.dtype == QW_BF16 && a->w.dtype == QW_BF16 && p.ci % 2 == 0
              && a->up == 1;
#endif
    p.convert = !p.pairs && a->x.dtype != QW_F32;
    p.dense = p.convert || a->x.stride[1] == p.ci;
    p.cp = p.pairs ? p.ci / 2 : p.ci;
    p.panels = (p.co + NW - 1) / NW;
    const int64_t wide = (p.wo + p.phases - 1) / p.phases, high = (p.ho + p.phases - 1) / p.phases;
    p.block = most(1, PIXELS / wide);
    if (p.block > high) p.block = high;
    p.seen = p.block * p.step + rows;
    p.left = conv_taps_of(a, 0, p.kw, a->left).first;
    p.wide = (wide + MR) * p.step + columns + 1;
    p.threads = cpu_threads(&dev->d, (double)(p.ho * p.wo * p.co) * (double)(p.most * p.ci));
    p.panel = (size_t)(p.most * p.cp) * NW * 4;
    p.zero = cpu_line((size_t)p.ci * 4);
    p.table = cpu_line((size_t)(p.seen * p.wide) * sizeof(void *));
    p.x = p.convert ? cpu_line((size_t)(p.seen * p.wi * p.ci) * 4) : 0;
    p.each = p.table + p.x + cpu_line((size_t)MR * NW * 4);
    p.bytes = (size_t)(p.phases * p.phases * p.panels) * p.panel + p.zero
              + (size_t)p.threads * p.each + 64;
    return p;
}

size_t QW_NAME(conv2d_scratch)(const cpu_device *dev, const qw_conv2d_args *a);
size_t QW_NAME(conv2d_scratch)(const cpu_device *dev, const qw_conv2d_args *a)
{
    return taken(a) ? plan_of(dev, a).bytes : 0;
}

/* y = res + up(x) * w + bias, reference/conv2d.c. */
int QW_NAME(conv2d)(qw_device *d, const qw_conv2d_args *a);
int QW_NAME(conv2d)(qw_device *d, const qw_conv2d_args *a)
{
    if (!taken(a)) return QW_DECLINE;
    const conv_plan p = plan_of((const cpu_device *)d, a);
    if (d->room_bytes < p.bytes) return QWEN_ENOMEM;
    char *panels = (char *)(((uintptr_t)d->room + 63) & ~(uintptr_t)63);
    const int64_t all = p.phases * p.phases * p.panels, high = (p.ho + p.phases - 1) / p.phases;
    char *zero = panels + (size_t)all * p.panel, *own = zero + p.zero;
    memset(zero, 0, p.zero);
    int stop = 0;
    CPU_OMP(parallel num_threads(p.threads))
    {
        char *room = own + (size_t)cpu_thread() * p.each;
        conv_rows rows = { .table = (const void **)(void *)room };
        rows.sums = (float *)(void *)(room + p.table);
        float *const x = rows.sums + MR * NW;
        rows.x = x;
CPU_OMP(for schedule(static))
for (int64_t t = 0; t < all * p.most; t++) QW_NAME(conv_lay)
(a, &p, t / p.most / p.panels, t / p.most % p.panels * NW, t % p.most,
 (float *)(void *)(panels + (size_t)(t / p.most) * p.panel));
CPU_OMP(for schedule(dynamic))
for (int64_t ii = 0; ii < high; ii += p.block) {
    if (cpu_stopped(d, &stop)) continue;
    const int64_t end = ii + p.block < high ? ii + p.block : high;
    see(a, &p, ii, end, &rows.from, &rows.to);
    if (p.convert) QW_NAME(conv_lay_rows)(a, &p, rows.from, rows.to, x);
    QW_NAME(conv_block)(a, &p, ii, end, panels, zero, &rows);
}
    }
    return stop ? QWEN_ECANCELLED : QWEN_OK;
}
