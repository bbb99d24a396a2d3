/* conv2d.c - convolution without a matrix of patches: with channels last, a tap of the kernel is a
 * product of pixels with a panel of its weights.
 *
 * The weights become panels once a call; threads take rows of the result, MR pixels at a time, and
 * add up the taps that lie inside the picture.  Enlargement is a division of the coordinates. */
#include "kernel.h"

typedef struct plan {
    int64_t ho, wo, co, hi, wi, ci, kh, kw, taps, panels, cp; /* cp: ci, padded to pairs */
    int pairs, convert, threads;
    size_t panel, zero, flat, sums, x, each, bytes; /* panel: of NW columns, all taps */
} plan;

static int taken(const qw_conv2d_args *a)
{
    return cpu_float(a->x.dtype) && cpu_float(a->w.dtype) && cpu_float(a->y.dtype) && !a->w.layout
           && (!qw_present(&a->res) || cpu_float(a->res.dtype));
}

static plan plan_of(const cpu_device *dev, const qw_conv2d_args *a)
{
    plan p = { .ho = a->y.dim[0], .wo = a->y.dim[1], .co = a->y.dim[2], .hi = a->x.dim[0] };
    p.wi = a->x.dim[1];
    p.ci = a->x.dim[2];
    p.kh = a->w.dim[1];
    p.kw = a->w.dim[2];
    p.taps = p.kh * p.kw;
    p.panels = (p.co + NW - 1) / NW;
#ifdef VEC_BF16_PAIRS
    p.pairs = dev->pairs && a->x.dtype == QW_BF16 && a->w.dtype == QW_BF16 && p.ci % 2 == 0;
#endif
    p.convert = !p.pairs && a->x.dtype != QW_F32;
    p.cp = p.pairs ? p.ci / 2 : p.ci;
    p.threads = cpu_threads(&dev->d, (double)(p.ho * p.wo * p.co) * (double)(p.taps * p.ci));
    p.panel = (size_t)(p.taps * p.cp) * NW * 4;
    p.zero = cpu_line((size_t)p.ci * 4);
    p.flat = cpu_line((size_t)(VL * p.ci) * 4);
    p.sums = cpu_line((size_t)MR * NW * 4);
    p.x = p.convert ? cpu_line((size_t)(p.kh * p.wi * p.ci) * 4) : 0;
    p.each = p.flat + p.sums + p.x;
    p.bytes = (size_t)p.panels * p.panel + p.zero + (size_t)p.threads * p.each + 64;
    return p;
}

size_t QW_NAME(conv2d_scratch)(const cpu_device *dev, const qw_conv2d_args *a);
size_t QW_NAME(conv2d_scratch)(const cpu_device *dev, const qw_conv2d_args *a)
{
    return taken(a) ? plan_of(dev, a).bytes : 0;
}

static const char *pixel(const qw_tensor *t, int64_t i, int64_t j)
{
    return (const char *)t->data
           + (size_t)(i * t->stride[0] + j * t->stride[1]) * qw_block_bytes(t->dtype);
}

/* Weights of output channels o .. o + NW at one tap, as a panel. */
static void lay_tap(const qw_conv2d_args *a, const plan *p, int64_t o, int64_t tap, float *flat,
                    float *to)
{
    const qw_tensor *w = &a->w;
    const size_t size = qw_block_bytes(w->dtype);
    for (int v = 0; v < NV; v++) {
        for (int i = 0; i < VL; i++) {
            const int64_t channel = o + v * VL + i;
            const char *row = (const char *)w->data
                              + (size_t)(channel * w->stride[0] + tap / p->kw * w->stride[1]
                                         + tap % p->kw * w->stride[2])
                                    * size;
            float *f = flat + i * p->ci;
            if (channel >= p->co) memset(f, 0, (size_t)p->ci * sizeof *f);
            else if (p->pairs) memcpy(f, row, (size_t)p->ci * 2);
            else
                for (int64_t c = 0; c < p->ci; c += VL) {
                    const vm m = v_first(p->ci - c);
                    v_store_n(f + c, m, v_get(w->dtype, row, c, m));
                }
        }
        columns(flat, p->ci, p->cp, to + v * VL, NW);
    }
}

/* Rows of x that output row i sees, as floats [kh][wi][ci]; those outside are not touched. */
static void picture_rows(const qw_conv2d_args *a, const plan *p, int64_t i, float *to)
{
    for (int64_t u = 0; u < p->kh; u++) {
        const int64_t row = i * a->stride - a->top + u;
        if (row < 0 || row >= p->hi * a->up) continue;
        for (int64_t j = 0; j < p->wi; j++)
            for (int64_t c = 0; c < p->ci; c += VL) {
                const vm m = v_first(p->ci - c);
                v_store_n(to + (u * p->wi + j) * p->ci + c, m,
                          v_get(a->x.dtype, pixel(&a->x, row / a->up, j), c, m));
            }
    }
}

/* Output pixels j .. j + R of row i, one panel of channels. */
static void pixels(const qw_conv2d_args *a, const plan *p, int64_t i, int64_t j, int R, int64_t t,
                   const float *panel, const char *zero, const float *x, float *sums)
{
    const int64_t o = t * NW, count = p->co - o < NW ? p->co - o : NW;
    const int V = (int)((count + VL - 1) / VL);
    int more = 0;
    for (int64_t u = 0; u < p->kh; u++) {
        const int64_t row = i * a->stride - a->top + u;
        if (row < 0 || row >= p->hi * a->up) continue;
        for (int64_t v = 0; v < p->kw; v++) {
            const void *from[MR];
            for (int q = 0; q < R; q++) {
                const int64_t column = (j + q) * a->stride - a->left + v;
                from[q] = column < 0 || column >= p->wi * a->up ? (const void *)zero
                          : p->convert ? (const void *)(x + (u * p->wi + column / a->up) * p->ci)
                                       : (const void *)pixel(&a->x, row / a->up, column / a->up);
            }
            const float *w = panel + (u * p->kw + v) * p->cp * NW;
#ifdef VEC_BF16_PAIRS
            if (p->pairs)
                product_pairs(R, V, (const uint16_t *const *)from,
                              (const uint32_t *)(const void *)w, NW, p->cp, sums, NW, more);
            else
#endif
                product_f32(R, V, (const float *const *)from, w, NW, p->cp, sums, NW, more);
            more = 1;
        }
    }
    if (!more) memset(sums, 0, (size_t)(R * NW) * sizeof *sums);
    for (int q = 0; q < R; q++) {
        char *y = (char *)(uintptr_t)pixel(&a->y, i, j + q);
        const char *res = a->res.data ? pixel(&a->res, i, j + q) : NULL;
        for (int64_t c = 0; c < count; c += VL) {
            const vm m = v_first(count - c);
            vf z = v_load(sums + q * NW + c);
            if (a->bias.data) z = v_add(z, v_load_n((const float *)a->bias.data + o + c, m));
            if (res) z = v_add(z, v_get(a->res.dtype, res, o + c, m));
            v_put(a->y.dtype, y, o + c, m, z);
        }
    }
}

/* y = res + up(x) * w + bias, reference/conv2d.c. */
int QW_NAME(conv2d)(qw_device *d, const qw_conv2d_args *a);
int QW_NAME(conv2d)(qw_device *d, const qw_conv2d_args *a)
{
    if (!taken(a)) return QW_DECLINE;
    const plan p = plan_of((const cpu_device *)d, a);
    if (d->room_bytes < p.bytes) return QWEN_ENOMEM;
    char *panels = (char *)(((uintptr_t)d->room + 63) & ~(uintptr_t)63);
    char *zero = panels + (size_t)p.panels * p.panel, *own = zero + p.zero;
    memset(zero, 0, p.zero);
    int stop = 0;
    CPU_OMP(parallel num_threads(p.threads))
    {
        float *flat = (float *)(void *)(own + (size_t)cpu_thread() * p.each);
        float *sums = flat + p.flat / 4, *x = sums + p.sums / 4;
CPU_OMP(for schedule(static))
for (int64_t t = 0; t < p.panels * p.taps; t++)
    lay_tap(a, &p, t / p.taps * NW, t % p.taps, flat,
            (float *)(void *)(panels + (size_t)(t / p.taps) * p.panel) + t % p.taps * p.cp * NW);
CPU_OMP(for schedule(dynamic))
for (int64_t i = 0; i < p.ho; i++) {
    int now;
    CPU_OMP(atomic read)
    now = stop;
    if (now) continue;
    if (cpu_thread() == 0 && d->poll && d->poll(d->poll_user)) {
        CPU_OMP(atomic write)
        stop = 1;
    }
    if (p.convert) picture_rows(a, &p, i, x);
    for (int64_t t = 0; t < p.panels; t++)
        for (int64_t j = 0; j < p.wo; j += MR)
            pixels(a, &p, i, j, (int)(p.wo - j < MR ? p.wo - j : MR), t,
                   (const float *)(void *)(panels + (size_t)t * p.panel), zero, x, sums);
}
    }
    return stop ? QWEN_ECANCELLED : QWEN_OK;
}
