/* gemm.c - linear layers as products of oneDNN, in blocks of rows and columns of y.
 * A block is what one thread multiplies in some tens of milliseconds; between blocks poll is asked.
 * Weights of the type of x are read where they lie; other weights become f32, the rows of one block
 * at a time, where x is f32.  Bias and activation are oneDNN's; where there is a gate, a second
 * product or a residual, a block is summed in scratch and finished here: oneDNN would begin some
 * sums with the residual, and each addition would lose bits of it. */
#include "onednn.h"
#include <string.h>

enum { ROWS = 1024, ALIGN = 64 };
#define WORK   (INT64_C(1) << 32) /* the most multiplications of a block */
#define SUMS   (INT64_C(1) << 21) /* the most elements of a block in scratch */
#define PANELS (INT64_C(1) << 21) /* the most elements of decoded weights */

typedef struct plan {
    int64_t m, n, k, r, mb, nb; /* mb, nb: of a block */
    int decoded, direct;        /* w becomes f32; blocks are written to y by oneDNN */
    size_t sums, panel, bytes;  /* of each part of the scratch; of all */
} plan;

/* The weights that qw_decode_f32 reads whole. */
static int is_decoded(const qw_tensor *w)
{
    return w->dtype != QW_F64 && w->dtype != QW_I32 && !w->scale && !w->block_scale;
}

static int taken(const onednn_device *dev, const qw_gemm_args *a)
{
    if (!onednn_type(dev, a->x.dtype) || a->w.layout || !onednn_float(&a->y)) return 0;
    if (a->w.dtype != a->x.dtype && (a->x.dtype != QW_F32 || !is_decoded(&a->w))) return 0;
    if (qw_present(&a->res) && !onednn_float(&a->res)) return 0;
    if (a->act > QW_GELU_ERF) return 0;
    return !qw_present(&a->x2)
           || (onednn_type(dev, a->x2.dtype) && a->w2.dtype == a->x2.dtype && !a->w2.layout);
}

/* n in equal parts of at most `most`, but at least ALIGN. */
static int64_t part(int64_t n, int64_t most)
{
    if (most < ALIGN) most = ALIGN;
    const int64_t parts = (n + most - 1) / most, each = (n + parts - 1) / parts;
    const int64_t round = (each + ALIGN - 1) / ALIGN * ALIGN;
    return round < n ? round : n;
}

static onednn_view matrix(int64_t type, int64_t a, int64_t b, int64_t step, int64_t next)
{
    return (onednn_view){ .type = type, .rank = 2, .dim = { a, b }, .stride = { step, next } };
}

/* x w^T of `rows` rows and `cols` columns; the rows of w lie `step` elements apart. */
static onednn_call product(const onednn_device *dev, const qw_tensor *x, int64_t step, int64_t rows,
                           int64_t cols, onednn_view y)
{
    const int64_t type = onednn_type(dev, x->dtype), k = x->dim[1];
    onednn_call c;
    memset(&c, 0, sizeof c);
    c.threads = onednn_threads(dev);
    c.x = matrix(type, rows, k, x->stride[0], 1);
    c.w = matrix(type, k, cols, 1, step);
    c.y = y;
    return c;
}

/* The products of a block: that of x2, where there is one, is added to. */
static onednn_call low_rank(const onednn_device *dev, const qw_gemm_args *a, const plan *p,
                            int64_t rows, int64_t cols)
{
    return product(dev, &a->x2, a->w2.stride[0], rows, cols,
                   matrix(dnnl_f32, rows, cols, p->nb, 1));
}
static onednn_call main_product(const onednn_device *dev, const qw_gemm_args *a, const plan *p,
                                int64_t rows, int64_t cols)
{
    const int64_t type = p->direct ? onednn_type(dev, a->y.dtype) : dnnl_f32;
    onednn_call c = product(dev, &a->x, p->decoded ? p->k : a->w.stride[0], rows, cols,
                            matrix(type, rows, cols, p->direct ? a->y.stride[0] : p->nb, 1));
    c.act = (int64_t)a->act;
    c.bias = qw_present(&a->bias);
    c.sum = p->r > 0;
    return c;
}

static int need(onednn_device *dev, onednn_call c, size_t *most)
{
    const onednn_primitive *q = onednn_find(dev, &c);
    if (q && q->scratch > *most) *most = q->scratch;
    return q != NULL;
}

/* 0: declined, or the device failed. */
static int plan_of(onednn_device *dev, const qw_gemm_args *a, plan *p)
{
    memset(p, 0, sizeof *p);
    if (!taken(dev, a)) return 0;
    p->m = a->y.dim[0];
    p->n = a->y.dim[1];
    p->k = a->x.dim[1];
    p->r = qw_present(&a->x2) ? a->x2.dim[1] : 0;
    p->decoded = a->w.dtype != a->x.dtype;
    p->direct = !p->r && !qw_present(&a->gate) && !qw_present(&a->res)
                && (a->y.dtype == QW_F32 || a->x.dtype == QW_BF16);
    p->mb = part(p->m, ROWS);
    int64_t most = WORK / (p->mb * (p->k + p->r));
    if (!p->direct && most > SUMS / p->mb) most = SUMS / p->mb;
    if (p->decoded && most > PANELS / p->k) most = PANELS / p->k;
    p->nb = part(p->n, most);
    p->sums = p->direct ? 0 : onednn_round((size_t)(p->mb * p->nb) * sizeof(float));
    p->panel = p->decoded ? onednn_round((size_t)(p->nb * p->k) * sizeof(float)) : 0;
    size_t scratch = 0;
    for (int i = 0; i < 4; i++) { /* whole blocks and those at the ends */
        const int64_t rows = i & 1 ? p->m % p->mb : p->mb, cols = i & 2 ? p->n % p->nb : p->nb;
        if (!rows || !cols) continue;
        if (!need(dev, main_product(dev, a, p, rows, cols), &scratch)) return 0;
        if (p->r && !need(dev, low_rank(dev, a, p, rows, cols), &scratch)) return 0;
    }
    p->bytes = p->sums + p->panel + onednn_round(scratch);
    return 1;
}

int onednn_gemm_scratch(onednn_device *dev, const qw_gemm_args *a, size_t *bytes)
{
    plan p;
    const int ok = plan_of(dev, a, &p);
    *bytes = p.bytes;
    return ok;
}

static int threads_for(const onednn_device *dev, int64_t elements)
{
    return elements < 1 << 15 ? 1 : onednn_threads(dev);
}

/* `cols` rows of w from row j as f32. */
static void decode(const onednn_device *dev, const qw_tensor *w, int64_t j, int64_t cols, int64_t k,
                   float *panel)
{
    const size_t row = qw_row_bytes(w->dtype, w->stride[0]);
    const int threads = threads_for(dev, cols * k);
    (void)threads;
    ONEDNN_OMP(parallel for num_threads(threads))
    for (int64_t c = 0; c < cols; c++)
        qw_decode_f32(w->dtype, (const char *)w->data + (size_t)(j + c) * row, k, panel + c * k);
}

/* The address of element (i, j). */
static char *at(const qw_tensor *t, int64_t i, int64_t j)
{
    return (char *)t->data + (size_t)(i * t->stride[0] + j) * qw_block_bytes(t->dtype);
}

/* y = res + gate * sums, a block. */
static void finish(const onednn_device *dev, const qw_gemm_args *a, const plan *p, int64_t i,
                   int64_t j, int64_t rows, int64_t cols, float *sums)
{
    const int threads = threads_for(dev, rows * cols);
    const float *gate = qw_present(&a->gate) ? (const float *)a->gate.data + j : NULL;
    (void)threads;
    ONEDNN_OMP(parallel for num_threads(threads))
    for (int64_t r = 0; r < rows; r++)
        onednn_finish(cols, sums + r * p->nb, gate, a->res.dtype,
                      qw_present(&a->res) ? at(&a->res, i + r, j) : NULL, a->y.dtype,
                      at(&a->y, i + r, j));
}

static int multiply(onednn_device *dev, onednn_call c, const void *x, const void *w, void *y,
                    const float *bias, void *scratch)
{
    onednn_primitive *q = onednn_find(dev, &c);
    return q ? onednn_run(dev, q, x, w, y, bias, scratch) : QWEN_EDEVICE;
}

/* Rows i to i + rows of columns j to j + cols; w: these rows of the weight. */
static int block(onednn_device *dev, const qw_gemm_args *a, const plan *p, int64_t i, int64_t j,
                 const void *w)
{
    const int64_t rows = p->m - i < p->mb ? p->m - i : p->mb;
    const int64_t cols = p->n - j < p->nb ? p->n - j : p->nb;
    float *sums = (float *)dev->d.room;
    char *scratch = (char *)dev->d.room + p->sums + p->panel;
    const float *bias = qw_present(&a->bias) ? (const float *)a->bias.data + j : NULL;
    int status = QWEN_OK;
    if (p->r)
        status = multiply(dev, low_rank(dev, a, p, rows, cols), at(&a->x2, i, 0), at(&a->w2, j, 0),
                          sums, NULL, scratch);
    if (!status)
        status = multiply(dev, main_product(dev, a, p, rows, cols), at(&a->x, i, 0), w,
                          p->direct ? (void *)at(&a->y, i, j) : sums, bias, scratch);
    if (!status && !p->direct) finish(dev, a, p, i, j, rows, cols, sums);
    return status;
}

/* y = res + gate act(x wT + x2 w2T + bias), reference/gemm.c. */
int onednn_gemm(onednn_device *dev, const qw_gemm_args *a)
{
    plan p;
    if (!plan_of(dev, a, &p)) return dev->why[0] ? QWEN_EDEVICE : QW_DECLINE;
    if (dev->d.room_bytes < p.bytes) return QWEN_ENOMEM;
    float *panel = (float *)(void *)((char *)dev->d.room + p.sums);
    int status = QWEN_OK;
    for (int64_t j = 0; j < p.n && !status; j += p.nb) {
        const int64_t cols = p.n - j < p.nb ? p.n - j : p.nb;
        if (p.decoded) decode(dev, &a->w, j, cols, p.k, panel);
        for (int64_t i = 0; i < p.m && !status; i += p.mb) {
            status = onednn_poll(dev);
            if (!status)
                status = block(dev, a, &p, i, j, p.decoded ? (void *)panel : at(&a->w, j, 0));
        }
    }
    return status;
}
