/* conv2d.c - convolutions of oneDNN, in bands of rows of the result.
 *
 * oneDNN wants the weights in an order of its own: they are laid so once a call, which is little
 * beside the maps of a VAE.  A residual is added here, as in gemm.c.  An input that is enlarged is
 * enlarged in scratch, for one band at a time. */
#include "onednn.h"
#include <string.h>

#define WORK (INT64_C(1) << 32) /* the most multiplications of a band */

typedef struct plan {
    int64_t ho, wo, co, hi, wi, ci, kh, kw; /* hi, wi: of the enlarged input */
    int64_t rows;                           /* of a band */
    int direct;                             /* oneDNN writes to y; else to sums in scratch */
    size_t laid, large, sums, bytes; /* of the weights, an enlarged band, sums of a band; of all */
} plan;

/* Rows of the result of a band, and the rows of the enlarged input that it reads. */
typedef struct band {
    int64_t row, rows, from, to;
} band;

static int taken(const onednn_device *dev, const qw_conv2d_args *a)
{
    const int64_t x = onednn_type(dev, a->x.dtype);
    if (!x || a->w.dtype != a->x.dtype || a->w.layout) return 0;
    if (a->x.dtype == QW_BF16 && a->x.dim[2] % 2) return 0; /* oneDNN reads pairs, past the pixel */
    return onednn_float(&a->y) && (!qw_present(&a->res) || onednn_float(&a->res));
}

static band band_at(const qw_conv2d_args *a, const plan *p, int64_t row)
{
    band b = { .row = row, .rows = p->ho - row < p->rows ? p->ho - row : p->rows };
    b.from = row * a->stride - a->top;
    b.to = (row + b.rows - 1) * a->stride - a->top + p->kh;
    return b;
}

static onednn_view view(int64_t type, int64_t c, int64_t h, int64_t w, int64_t row, int64_t column)
{
    return (onednn_view){
        .type = type, .rank = 4, .dim = { 1, c, h, w }, .stride = { h * row, 1, row, column }
    };
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Padding follows from what a band reads outside of the input; columns that it does not read are
 * cut off. */
static onednn_call convolution(const onednn_device *dev, const qw_conv2d_args *a, const plan *p,
                               const band *b)
{
    const int64_t from = b->from < 0 ? 0 : b->from, to = least(b->to, p->hi);
    const int64_t last = (p->wo - 1) * a->stride - a->left + p->kw;
    const int64_t columns = least(last, p->wi), large = a->up > 1;
    onednn_call c;
    memset(&c, 0, sizeof c);
    c.threads = onednn_threads(dev);
    c.conv = 1;
    c.bias = qw_present(&a->bias);
    c.x = view(onednn_type(dev, a->x.dtype), p->ci, to - from, columns,
               large ? p->wi * p->ci : a->x.stride[0], large ? p->ci : a->x.stride[1]);
    c.y = p->direct ? view(onednn_type(dev, a->y.dtype), p->co, b->rows, p->wo, a->y.stride[0],
                           a->y.stride[1])
                    : view(dnnl_f32, p->co, b->rows, p->wo, p->wo * p->co, p->co);
    c.w = (onednn_view){ .type = c.x.type,
                         .rank = 4,
                         .dim = { p->co, p->ci, p->kh, p->kw },
                         .stride = { a->w.stride[0], 1, a->w.stride[1], a->w.stride[2] } };
    c.step[0] = c.step[1] = a->stride;
    c.before[0] = from - b->from;
    c.before[1] = a->left;
    c.after[0] = b->to - to;
    c.after[1] = last - columns;
    return c;
}

/* 0: declined, or the device failed. */
static int plan_of(onednn_device *dev, const qw_conv2d_args *a, plan *p)
{
    memset(p, 0, sizeof *p);
    if (!taken(dev, a)) return 0;
    p->ho = a->y.dim[0];
    p->wo = a->y.dim[1];
    p->co = a->y.dim[2];
    p->hi = a->x.dim[0] * a->up;
    p->wi = a->x.dim[1] * a->up;
    p->ci = a->x.dim[2];
    p->kh = a->w.dim[1];
    p->kw = a->w.dim[2];
    p->direct = !qw_present(&a->res) && (a->y.dtype == QW_F32 || a->x.dtype == QW_BF16);
    p->rows = WORK / (p->wo * p->co * p->kh * p->kw * p->ci);
    p->rows = p->rows < 4 ? 4 : p->rows;
    /* Each window has a row and a column of the input, so that no band is all padding. */
    if (a->top >= p->kh || a->left >= p->kw || (p->ho - 1) * a->stride - a->top >= p->hi
        || (p->wo - 1) * a->stride - a->left >= p->wi)
        return 0;
    size_t scratch = 0;
    for (int64_t row = 0; row < p->ho; row += p->rows) {
        const band b = band_at(a, p, row);
        const onednn_call c = convolution(dev, a, p, &b);
        const onednn_primitive *q = onednn_find(dev, &c);
        if (!q) return 0;
        const size_t large = (size_t)(c.x.dim[2] * p->wi * p->ci) * qw_block_bytes(a->x.dtype);
        if (q->laid > p->laid) p->laid = q->laid;
        if (q->scratch > scratch) scratch = q->scratch;
        if (a->up > 1 && large > p->large) p->large = large;
    }
    p->laid = onednn_round(p->laid);
    p->large = onednn_round(p->large);
    if (!p->direct)
        p->sums = onednn_round((size_t)(least(p->rows, p->ho) * p->wo * p->co) * sizeof(float));
    p->bytes = p->laid + p->large + p->sums + onednn_round(scratch);
    return 1;
}

int onednn_conv2d_scratch(onednn_device *dev, const qw_conv2d_args *a, size_t *bytes)
{
    plan p;
    const int ok = plan_of(dev, a, &p);
    *bytes = p.bytes;
    return ok;
}

static char *pixel(const qw_tensor *t, int64_t i, int64_t j)
{
    return (char *)t->data
           + (size_t)(i * t->stride[0] + j * t->stride[1]) * qw_block_bytes(t->dtype);
}

/* Rows from to from + rows of the enlarged input, to [rows][wi][ci]. */
static void enlarge(const onednn_device *dev, const qw_conv2d_args *a, const plan *p, int64_t from,
                    int64_t rows, char *out)
{
    const size_t bytes = (size_t)p->ci * qw_block_bytes(a->x.dtype);
    const int threads = onednn_threads(dev);
    (void)threads;
    ONEDNN_OMP(parallel for num_threads(threads))
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < p->wi; j++)
            memcpy(out + (size_t)(i * p->wi + j) * bytes,
                   pixel(&a->x, (from + i) / a->up, j / a->up), bytes);
}

/* y = res + sums, a band. */
static void finish(const onednn_device *dev, const qw_conv2d_args *a, const plan *p, const band *b,
                   float *sums)
{
    const int threads = onednn_threads(dev);
    (void)threads;
    ONEDNN_OMP(parallel for num_threads(threads))
    for (int64_t i = 0; i < b->rows; i++)
        for (int64_t j = 0; j < p->wo; j++)
            onednn_finish(p->co, sums + (i * p->wo + j) * p->co, NULL, a->res.dtype,
                          qw_present(&a->res) ? pixel(&a->res, b->row + i, j) : NULL, a->y.dtype,
                          pixel(&a->y, b->row + i, j));
}

/* y = res + up(x) * w + bias, reference/conv2d.c. */
int onednn_conv2d(onednn_device *dev, const qw_conv2d_args *a)
{
    plan p;
    if (!plan_of(dev, a, &p)) return dev->why[0] ? QWEN_EDEVICE : QW_DECLINE;
    if (dev->d.room_bytes < p.bytes) return QWEN_ENOMEM;
    char *laid = dev->d.room, *large = laid + p.laid, *sums = large + p.large,
         *scratch = sums + p.sums;
    const onednn_primitive *before = NULL;
    int status = QWEN_OK;
    for (int64_t row = 0; row < p.ho && !status; row += p.rows) {
        const band b = band_at(a, &p, row);
        const onednn_call c = convolution(dev, a, &p, &b);
        onednn_primitive *q = onednn_find(dev, &c);
        status = q ? onednn_poll(dev) : QWEN_EDEVICE;
        if (status) break;
        const int64_t from = b.from + c.before[0];
        if (q->laid && q != before) status = onednn_lay(dev, q, a->w.data, laid);
        if (a->up > 1) enlarge(dev, a, &p, from, c.x.dim[2], large);
        if (!status)
            status = onednn_run(dev, q, a->up > 1 ? large : pixel(&a->x, from, 0),
                                q->laid ? laid : a->w.data,
                                p.direct ? pixel(&a->y, b.row, 0) : sums, a->bias.data, scratch);
        if (!status && !p.direct) finish(dev, a, &p, &b, (float *)(void *)sums);
        before = q;
    }
    return status;
}
