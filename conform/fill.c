/* fill.c - the operands of a case: shapes with padded strides, three fills, the bytes in memory.
 *
 * exact: integers and powers of two, so that every order of summation gives the same sum.
 * normal: independent normals.  hard: outlier channels, cancellation, subnormals, the largest
 * finite values, zero rows, a mean far above the deviation, a step in the logits. Guards and
 * padding are 0xff: a NaN in every float type, which shows in a result that was computed from
 * it.  Around results they are 0xffbf, a signalling NaN of f32 and bf16: a NaN that was computed
 * has other bits. */
#include "fill.h"
#include "core/core.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- numbers ------------------------------------------------------------------------------- */

uint64_t qw_next(qw_random *r)
{
    uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

qw_random qw_random_of(uint64_t seed, uint64_t stream)
{
    qw_random r = { seed * UINT64_C(0xd1342543de82ef95) + stream * UINT64_C(0xaf251af3b0f025b5) };
    qw_next(&r);
    return r;
}

uint64_t qw_below(qw_random *r, uint64_t n) { return n ? (qw_next(r) >> 11) % n : 0; }

double qw_uniform(qw_random *r) { return (double)(qw_next(r) >> 11) * 0x1p-53; }

double qw_gauss(qw_random *r)
{
    double s = -6;
    for (int i = 0; i < 12; i++) s += qw_uniform(r);
    return s;
}

static double whole(qw_random *r, int most)
{
    return (double)qw_below(r, 2 * (uint64_t)most + 1) - most;
}

double qw_stored(qw_dtype t, double x)
{
    switch (t) {
    case QW_F32: return (float)x;
    case QW_F16: return qw_f16_to_f32(qw_f32_to_f16((float)x));
    case QW_BF16: return qw_bf16_to_f32(qw_f32_to_bf16((float)x));
    default: return x;
    }
}

/* Largest finite value of a float type. */
static double largest(qw_dtype t)
{
    return t == QW_F16 ? 65504 : t == QW_BF16 ? 0x1.fep127 : t == QW_F64 ? 1e300 : 0x1.fffffep127;
}

/* --- shapes -------------------------------------------------------------------------------- */

qw_datum *qw_datum_named(qw_material *m, const char *name)
{
    for (int i = 0; i < m->n; i++)
        if (!strcmp(m->d[i].operand->name, name) && qw_present(&m->d[i].t)) return &m->d[i];
    return NULL;
}

static void shape(qw_material *m, const char *name, qw_dtype type, int rank, const int64_t *dim)
{
    for (int i = 0; i < m->n; i++) {
        qw_datum *d = &m->d[i];
        if (strcmp(d->operand->name, name)) continue;
        d->t = (qw_tensor){ .dtype = type, .rank = rank };
        memcpy(d->t.dim, dim, (size_t)rank * sizeof *dim);
        d->n = 1;
        for (int k = 0; k < rank; k++) d->n *= dim[k];
    }
}

static void shape1(qw_material *m, const char *name, qw_dtype t, int64_t a)
{
    shape(m, name, t, 1, &a);
}

static void shape2(qw_material *m, const char *name, qw_dtype t, int64_t a, int64_t b)
{
    shape(m, name, t, 2, (int64_t[]){ a, b });
}

static void shape3(qw_material *m, const char *name, qw_dtype t, int64_t a, int64_t b, int64_t c)
{
    shape(m, name, t, 3, (int64_t[]){ a, b, c });
}

static void shapes_gemm(qw_material *m, const qw_case *c, qw_dtype wide)
{
    const int64_t rows = c->dim[0], n = c->dim[1], k = c->dim[2];
    shape2(m, "y", c->dtype[2], rows, n);
    shape2(m, "x", c->dtype[0], rows, k);
    shape2(m, "w", c->dtype[1], n, k);
    if (c->lora) shape2(m, "x2", c->x2, rows, c->lora);
    if (c->lora) shape2(m, "w2", c->w2, n, c->lora);
    if (c->has & QW_HAS_BIAS) shape1(m, "bias", wide, n);
    if (c->has & QW_HAS_GATE) shape1(m, "gate", wide, n);
    if (c->has & (QW_HAS_RES | QW_INPLACE)) shape2(m, "res", c->dtype[3], rows, n);
    m->args.gemm.act = c->act;
}

static void shapes_conv2d(qw_material *m, const qw_case *c, qw_dtype wide)
{
    const int64_t *d = c->dim;
    shape3(m, "y", c->dtype[2], d[0], d[1], d[2]);
    shape3(m, "x", c->dtype[0], d[3], d[4], d[5]);
    shape(m, "w", c->dtype[1], 4, (int64_t[]){ d[2], d[6], d[7], d[5] });
    if (c->has & QW_HAS_BIAS) shape1(m, "bias", wide, d[2]);
    if (c->has & (QW_HAS_RES | QW_INPLACE)) shape3(m, "res", c->dtype[3], d[0], d[1], d[2]);
    m->args.conv2d.stride = c->stride;
    m->args.conv2d.up = c->up;
    m->args.conv2d.top = c->top;
    m->args.conv2d.left = c->left;
}

/* Key ranges; none is empty, neither end goes back. */
static int make_ranges(qw_material *m, const qw_case *c)
{
    const int64_t nq = c->dim[0], nk = c->dim[1], w = c->window > 0 ? c->window : 1;
    m->first = calloc((size_t)nq, sizeof *m->first);
    m->last = calloc((size_t)nq, sizeof *m->last);
    if (!m->first || !m->last) return QWEN_ENOMEM;
    qw_random r = qw_random_of(c->seed, 90);
    int64_t first = 0, last = 1 + (int64_t)qw_below(&r, (uint64_t)nk);
    for (int64_t i = 0; i < nq; i++) {
        if (c->ranges == QW_CAUSAL) last = nk - nq + i + 1;
        else if (c->ranges == QW_WINDOWS) {
            first = i / w * w;
            last = first + w < nk ? first + w : nk;
        } else if (!qw_below(&r, 3)) {
            last += (int64_t)qw_below(&r, (uint64_t)(nk - last + 1));
            first += (int64_t)qw_below(&r, (uint64_t)(last - first));
        }
        m->first[i] = (int32_t)first;
        m->last[i] = (int32_t)last;
        if (first < 0 || first >= last || last > nk) return QWEN_EARG;
    }
    m->args.attention.first = m->first;
    m->args.attention.last = m->last;
    return QWEN_OK;
}

static int shapes_attention(qw_material *m, const qw_case *c)
{
    const int64_t *d = c->dim;
    shape3(m, "y", c->dtype[3], d[0], d[2], d[4]);
    shape3(m, "q", c->dtype[0], d[0], d[2], d[4]);
    shape3(m, "k", c->dtype[1], d[1], d[3], d[4]);
    shape3(m, "v", c->dtype[2], d[1], d[3], d[4]);
    m->args.attention.scale = c->scale > 0 ? c->scale : 1 / sqrt((double)d[4]);
    return c->ranges == QW_ALL_KEYS ? QWEN_OK : make_ranges(m, c);
}

static void shapes_rows(qw_material *m, const qw_case *c, qw_dtype wide)
{
    const int64_t rows = c->dim[0], n = c->dim[1], d = c->dim[2];
    switch (c->op) {
    case QW_OP_rms_norm:
        shape2(m, "y", c->dtype[1], rows, n);
        shape2(m, "x", c->dtype[0], rows, n);
        shape1(m, "w", wide, n);
        m->args.rms_norm.eps = c->eps;
        m->args.rms_norm.act = c->act;
        return;
    case QW_OP_ln_mod:
        shape2(m, "y", c->dtype[1], rows, n);
        shape2(m, "x", c->dtype[0], rows, n);
        if (c->has & QW_HAS_SCALE) shape1(m, "scale", wide, n);
        if (c->has & QW_HAS_SHIFT) shape1(m, "shift", wide, n);
        m->args.ln_mod.eps = c->eps;
        return;
    case QW_OP_norm_rope:
        shape3(m, "x", c->dtype[0], rows, n, d);
        if (c->has & QW_HAS_NORM) shape1(m, "w", wide, d);
        shape2(m, "cos", wide, rows, d / 2);
        shape2(m, "sin", wide, rows, d / 2);
        m->args.norm_rope.eps = c->eps;
        m->args.norm_rope.pairing = c->has & QW_IS_HALVES ? QW_HALVES : QW_PAIRS;
        return;
    case QW_OP_swiglu:
        shape2(m, "y", c->dtype[1], rows, n);
        shape2(m, "x", c->dtype[0], rows, 2 * n);
        return;
    default:
        shape2(m, "y", c->dtype[1], rows, n);
        shape2(m, "x", c->dtype[0], rows, n);
        if (c->has & (QW_HAS_RES | QW_INPLACE)) shape2(m, "res", c->dtype[2], rows, n);
        m->args.convert.rotate = c->rotate;
    }
}

/* Strides of a case: dense in half the cases; in a quarter only the outermost step is padded, as
 * where q, k and v are columns of one buffer; in a quarter every step is.  A step is a whole number
 * of blocks. */
static void set_strides(qw_datum *d, uint64_t seed, qw_random *r)
{
    static const int64_t extra[] = { 1, 8, 3, 64 };
    qw_tensor *t = &d->t;
    const int64_t block = qw_block_elements(t->dtype);
    int64_t step = t->dim[t->rank - 1];
    t->stride[t->rank - 1] = 1;
    for (int i = t->rank - 2; i >= 0; i--) {
        const int padded = seed % 4 == 3 || (seed % 4 == 1 && i == 0);
        const int64_t pad = padded ? extra[qw_below(r, 4)] : 0;
        /* Microscaled rows are one array with their scales; padding them has no meaning. */
        if (t->dtype != QW_MXFP8 && t->dtype != QW_NVFP4) step += pad * block;
        t->stride[i] = step;
        step *= t->dim[i];
    }
}

int qw_material_shape(qw_material *m, const qw_case *c, qw_dtype wide)
{
    memset(m, 0, sizeof *m);
    m->c = *c;
    const qw_op_info *info = &qw_op_table[c->op];
    for (const qw_operand *o = info->operand; o->name; o++)
        m->d[m->n++] = (qw_datum){ .operand = o, .same = -1 };
    int status = QWEN_OK;
    if (c->op == QW_OP_gemm) shapes_gemm(m, c, wide);
    else if (c->op == QW_OP_conv2d) shapes_conv2d(m, c, wide);
    else if (c->op == QW_OP_attention) status = shapes_attention(m, c);
    else shapes_rows(m, c, wide);
    if (status) return status;

    uintptr_t address = 1 << 20; /* made up: only told apart, never read */
    for (int i = 0; i < m->n; i++) {
        qw_datum *d = &m->d[i];
        if (!qw_present(&d->t)) continue;
        qw_random r = qw_random_of(c->seed, 50 + (uint64_t)i);
        set_strides(d, c->seed, &r);
        const char *shared = c->op == QW_OP_rms_norm ? "x" : "res";
        if (c->has & QW_INPLACE && !strcmp(d->operand->name, shared)) {
            d->same = 0; /* y is operand 0 of every op */
            d->t = m->d[0].t;
        }
        const int quantised = d->t.dtype == QW_I8 || d->t.dtype == QW_F8E4M3
                              || d->t.dtype == QW_F8E5M2;
        const int rows = d->t.dtype == QW_I8 && strcmp(d->operand->name, "w")
                         && c->op != QW_OP_convert;
        const int scales = !quantised                            ? QW_SCALE_NONE
                           : rows || (d->operand->role & QW_OUT) ? QW_SCALE_ROW
                                                                 : c->scales;
        if (scales) d->t.scale = (float *)(address + 8);
        d->t.scale_stride = scales == QW_SCALE_ROW;
        if (d->t.dtype == QW_MXFP8 || d->t.dtype == QW_NVFP4)
            d->t.block_scale = (void *)(address + 16);
        if (d->t.dtype == QW_NVFP4) d->t.scale = (float *)(address + 24);
        if (d->same < 0) {
            d->t.data = (void *)(address += 4096);
            address += qw_extent(&d->t) + 4096;
        }
        memcpy((char *)&m->args + d->operand->offset, &d->t, sizeof d->t);
    }
    return QWEN_OK;
}

/* --- quantised operands -------------------------------------------------------------------- */

/* Where a GGUF block keeps its f16 factor and minimum; the minimum as a multiple that centres the
 * values; what one unit of a value is when the factor is 1. */
static const struct block {
    int d, m;
    float centre;
    double unit;
} gguf[QW_NDTYPES] = {
    [QW_Q8_0] = { 0, -1, 0, 1 },        [QW_Q4_0] = { 0, -1, 0, 1 },
    [QW_Q4_1] = { 0, 2, -8, 1 },        [QW_Q5_0] = { 0, -1, 0, 1 },
    [QW_Q5_1] = { 0, 2, -16, 1 },       [QW_Q2_K] = { 80, 82, 1, 1 },
    [QW_Q3_K] = { 108, -1, 0, 1 },      [QW_Q4_K] = { 0, 2, 8, 1 },
    [QW_Q5_K] = { 0, 2, 16, 1 },        [QW_Q6_K] = { 208, -1, 0, 1 },
    [QW_IQ4_NL] = { 0, -1, 0, 1 },      [QW_IQ4_XS] = { 0, -1, 0, 1 },
    [QW_IQ1_S] = { 0, -1, 0, 0.125 },   [QW_IQ1_M] = { -1, -1, 0, 0.125 },
    [QW_IQ2_XXS] = { 0, -1, 0, 0.125 }, [QW_IQ2_XS] = { 0, -1, 0, 0.125 },
    [QW_IQ2_S] = { 0, -1, 0, 0.125 },   [QW_IQ3_XXS] = { 0, -1, 0, 0.25 },
    [QW_IQ3_S] = { 0, -1, 0, 1 },
};

static void set16(unsigned char *p, uint16_t v)
{
    p[0] = (unsigned char)(v & 255);
    p[1] = (unsigned char)(v >> 8);
}

static void set_factor(qw_dtype t, unsigned char *block, double factor)
{
    const struct block b = gguf[t];
    const uint16_t h = qw_f32_to_f16((float)factor);
    if (t == QW_IQ1_M) { /* four bits of it in each of four 16-bit words of scales */
        for (int i = 0; i < 4; i++)
            block[48 + 2 * i + 1] =
                (unsigned char)((block[48 + 2 * i + 1] & 15) | (h >> 4 * i & 15) << 4);
        return;
    }
    set16(block + b.d, h);
    if (b.m >= 0) set16(block + b.m, qw_f32_to_f16((float)factor * b.centre));
}

/* A row of blocks with random codes and values of deviation about sigma (sigma 0: factor 1). */
static void fill_gguf(qw_dtype t, unsigned char *row, int64_t n, double sigma, qw_random *r,
                      int hard)
{
    float x[256];
    const int64_t per = qw_block_elements(t);
    const size_t bytes = qw_block_bytes(t);
    for (int64_t i = 0; i < n; i += per, row += bytes) {
        for (size_t k = 0; k < bytes; k++) row[k] = (unsigned char)qw_next(r);
        set_factor(t, row, 1);
        if (!(sigma > 0)) continue;
        double sum = 0;
        qw_decode_f32(t, row, per, x);
        for (int64_t k = 0; k < per; k++) sum += (double)x[k] * x[k];
        double factor = sigma / sqrt(sum / (double)per + 1e-30) * (0.5 + qw_uniform(r));
        if (hard && !qw_below(r, 8)) factor = qw_below(r, 2) ? 0 : 0x1p-20;
        set_factor(t, row, factor * (qw_below(r, 4) ? 1 : -1));
    }
}

static uint8_t f8_code(qw_dtype t, double x)
{
    return t == QW_F8E4M3 || t == QW_MXFP8 ? qw_f32_to_f8e4m3((float)x)
                                           : qw_f32_to_f8e5m2((float)x);
}

static void fill_micro(qw_datum *d, unsigned char *data, double sigma, qw_random *r, int exact)
{
    const int64_t n = d->t.dim[0], k = d->t.dim[1], per = qw_block_elements(d->t.dtype);
    memset(d->block_scale, 0xff, d->block_scales); /* rows and blocks that are only padding */
    for (int64_t i = 0; i < n; i++)
        for (int64_t b = 0; b < k / per; b++) {
            unsigned char *s = d->block_scale + qw_block_scale_at(i, b, k / per);
            unsigned char *row = data + qw_row_bytes(d->t.dtype, i * k + b * per);
            if (d->t.dtype == QW_MXFP8) {
                int e = 0;
                frexp(sigma / 4, &e);
                *s = (unsigned char)(exact ? 127 : 127 + e - 1 + (int)qw_below(r, 3));
                for (int64_t j = 0; j < per; j++)
                    row[j] = f8_code(QW_MXFP8, exact ? whole(r, 3) : 4 * qw_gauss(r));
            } else {
                *s = exact ? 0x38 : qw_f32_to_f8e4m3((float)(0.5 + 1.5 * qw_uniform(r)));
                for (int64_t j = 0; j < per / 2; j++) row[j] = (unsigned char)qw_next(r);
            }
        }
    if (d->t.dtype == QW_NVFP4) d->scale[0] = exact ? 1 : (float)(sigma / 3);
}

/* I8 and F8 with their scales. */
static void fill_scaled(qw_datum *d, unsigned char *data, double sigma, qw_random *r, qw_fill fill)
{
    const int64_t n = d->t.dim[0], k = d->t.dim[1];
    for (size_t i = 0; i < d->scales; i++)
        d->scale[i] = fill == QW_EXACT
                          ? (float)ldexp(1, (int)qw_below(r, 3) - 1)
                          : (float)(sigma / (d->t.dtype == QW_I8 ? 64 : 8) * (0.5 + qw_uniform(r)));
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < k; j++) {
            unsigned char *p = data + i * d->t.stride[0] + j;
            if (d->t.dtype == QW_I8)
                *p = (unsigned char)(int8_t)(fill == QW_EXACT ? whole(r, 5) : whole(r, 127));
            else
                *p = f8_code(d->t.dtype,
                             fill == QW_EXACT ? whole(r, 4) : qw_gauss(r) * (d->scale ? 8 : sigma));
        }
}

/* The dense values of what lies in the image. */
static void decode_values(qw_datum *d)
{
    const int64_t n = d->t.dim[0], k = d->t.dim[d->t.rank - 1], per = qw_block_elements(d->t.dtype);
    float part[256];
    for (int64_t i = 0; i < n; i++) {
        const unsigned char *row = d->image + d->begin
                                   + qw_row_bytes(d->t.dtype, i * d->t.stride[0]);
        for (int64_t j = 0; j < k; j += 256) {
            const int64_t count = k - j < 256 ? k - j : 256;
            qw_decode_f32(d->t.dtype, row + qw_row_bytes(d->t.dtype, j), count, part);
            for (int64_t l = 0; l < count; l++) {
                double scale = d->scale ? (double)d->scale[d->t.scale_stride ? i : 0] : 1;
                if (d->block_scale) {
                    const uint8_t s = d->block_scale[qw_block_scale_at(i, (j + l) / per, k / per)];
                    scale *= d->t.dtype == QW_MXFP8 ? (double)qw_f8e8m0_to_f32(s)
                                                    : (double)qw_f8e4m3_to_f32(s);
                }
                d->v[i * k + j + l] = (double)part[l] * scale;
            }
        }
    }
}

/* One unit of the values of an exact weight. */
static double unit_of(const qw_datum *d)
{
    if (d->t.dtype == QW_NVFP4) return 0.5;
    if (gguf[d->t.dtype].unit > 0) return gguf[d->t.dtype].unit;
    return d->scale ? 0.5 : 1;
}

static int is_quantised(qw_dtype t) { return t >= QW_F8E4M3 && t < QW_U8; }

static void fill_quantised(qw_material *m, qw_datum *d, double sigma, qw_random *r)
{
    const qw_fill fill = m->c.fill;
    unsigned char *data = d->image + d->begin;
    if (d->block_scale) fill_micro(d, data, sigma, r, fill == QW_EXACT);
    else if (d->t.dtype <= QW_I8) fill_scaled(d, data, sigma, r, fill);
    else
        for (int64_t i = 0; i < d->t.dim[0]; i++)
            fill_gguf(d->t.dtype, data + qw_row_bytes(d->t.dtype, i * d->t.stride[0]), d->t.dim[1],
                      fill == QW_EXACT ? 0 : sigma, r, fill == QW_HARD);
    decode_values(d);
}

/* --- memory -------------------------------------------------------------------------------- */

static int make_memory(qw_material *m, int i)
{
    qw_datum *d = &m->d[i];
    qw_random r = qw_random_of(m->c.seed, 70 + (uint64_t)(d->same >= 0 ? d->same : i));
    const size_t element = qw_block_elements(d->t.dtype) > 1 ? 1 : qw_block_bytes(d->t.dtype);
    /* Weights may lie anywhere in a file; activations are views that begin at any element. */
    const uint64_t shift = qw_below(&r, 4);
    d->begin = QW_GUARD
               + (d->operand->role & QW_WEIGHT && d->t.rank == 2 ? shift : shift * 8 * element);
    d->bytes = d->begin + qw_extent(&d->t) + QW_GUARD;
    d->v = calloc((size_t)d->n, sizeof *d->v);
    d->image = malloc(d->bytes);
    d->scales = d->t.scale ? d->t.scale_stride ? (size_t)d->t.dim[0] : 1 : 0;
    if (d->scales) d->scale = calloc(d->scales, sizeof *d->scale);
    d->block_scales = qw_block_scale_bytes(&d->t);
    if (d->block_scales) d->block_scale = malloc(d->block_scales);
    if (!d->v || !d->image || (d->scales && !d->scale) || (d->block_scales && !d->block_scale))
        return QWEN_ENOMEM;
    memset(d->image, 0xff, d->bytes);
    const qw_dtype t = d->t.dtype;
    if (d->operand->role & QW_OUT && (t == QW_F32 || t == QW_BF16 || t == QW_F16))
        for (size_t at = 0; at < d->bytes; at += 2) d->image[at] = 0xbf;
    return QWEN_OK;
}

static void store(qw_dtype t, unsigned char *p, double x)
{
    const float f = (float)x;
    uint16_t h;
    switch (t) {
    case QW_F64: memcpy(p, &x, 8); return;
    case QW_F16:
        h = qw_f32_to_f16(f);
        memcpy(p, &h, 2);
        return;
    case QW_BF16:
        h = qw_f32_to_bf16(f);
        memcpy(p, &h, 2);
        return;
    default: memcpy(p, &f, 4); return;
    }
}

/* Values of a plain float operand into its image, rounded; v becomes what was stored. */
static void store_values(qw_datum *d)
{
    const qw_tensor *t = &d->t;
    const int64_t last = t->dim[t->rank - 1];
    for (int64_t e = 0; e < d->n; e++) {
        int64_t at = e % last, rest = e / last;
        for (int k = t->rank - 2; k >= 0; k--) {
            at += rest % t->dim[k] * t->stride[k];
            rest /= t->dim[k];
        }
        d->v[e] = qw_stored(t->dtype, d->v[e]);
        store(t->dtype, d->image + d->begin + qw_row_bytes(t->dtype, at), d->v[e]);
    }
}

/* --- fills --------------------------------------------------------------------------------- */

static qw_random stream(const qw_material *m, const qw_datum *d)
{
    return qw_random_of(m->c.seed, (uint64_t)(d - m->d) + 1);
}

static void normals(const qw_material *m, qw_datum *d, double sigma)
{
    if (!d) return;
    qw_random r = stream(m, d);
    for (int64_t i = 0; i < d->n; i++) d->v[i] = sigma * qw_gauss(&r);
}

static void integers(const qw_material *m, qw_datum *d, int most)
{
    if (!d) return;
    qw_random r = stream(m, d);
    for (int64_t i = 0; i < d->n; i++) d->v[i] = whole(&r, most);
}

static void powers(const qw_material *m, qw_datum *d)
{
    if (!d) return;
    qw_random r = stream(m, d);
    for (int64_t i = 0; i < d->n; i++)
        d->v[i] = ldexp(qw_below(&r, 2) ? 1 : -1, (int)qw_below(&r, 3) - 1);
}

static double most_of(const qw_datum *d)
{
    double most = 0;
    for (int64_t i = 0; i < d->n; i++) most = fmax(most, fabs(d->v[i]));
    return most;
}

/* Integers whose products with w cannot leave 22 bits (f16 results: 13), however they are summed.
 */
static void exact_rows(const qw_material *m, qw_datum *x, const qw_datum *w, int64_t k, qw_dtype y)
{
    qw_random r = stream(m, x);
    const double unit = unit_of(w),
                 budget = (y == QW_F16 ? fmin(0x1p21 * unit, 0x1p13) : 0x1p21 * unit) - 64;
    const double each = (double)k * fmax(most_of(w), unit);
    const int most = each * 4 <= budget ? 4 : each * 2 <= budget ? 2 : 1;
    const double density = fmin(1, budget / each); /* below 1: sparse rows of +-1 */
    const int64_t rows = x->n / (x->t.dim[x->t.rank - 1]);
    int64_t left = (int64_t)(density * (double)k);
    for (int64_t i = 0; i < x->n; i++) {
        if (i % (x->n / rows) == 0 && x->t.rank == 2) left = (int64_t)(density * (double)k);
        x->v[i] = 0;
        if (density >= 1) x->v[i] = whole(&r, most);
        else if (left > 0 && qw_uniform(&r) < density) x->v[i] = qw_below(&r, 2) ? 1 : -1, left--;
    }
}

/* Outliers, cancelling pairs, subnormals, the largest values, zeros: a kind of row by turns. */
static void hard_rows(const qw_material *m, qw_datum *x, double most)
{
    qw_random r = stream(m, x);
    const int64_t k = x->t.dim[x->t.rank - 1], rows = x->n / k;
    const double tiny = x->t.dtype == QW_F16 ? 0x1p-20 : 0x1p-130;
    const int turn = (int)qw_below(&r, 6);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < k; j++) {
            const double g = qw_gauss(&r);
            double v = j % 61 == 7 || k < 4 ? 1000 * g : g;
            switch ((i + turn) % 6) {
            case 1: v = j % 2 ? -x->v[i * k + j - 1] * (1 + 0x1p-7) : g; break;
            case 2: v = tiny * g; break;
            case 3: v = most * (2 * qw_uniform(&r) - 1); break;
            case 4: v = i % 4 ? v : 0; break;
            default: break;
            }
            x->v[i * k + j] = v;
        }
}

/* w with equal neighbours, so that cancelling pairs of x meet equal weights. */
static void hard_weight(const qw_material *m, qw_datum *w, double sigma)
{
    normals(m, w, sigma);
    const int64_t k = w->t.dim[w->t.rank - 1], rows = w->n / k;
    for (int64_t i = 0; i < rows; i += 2)
        for (int64_t j = 1; j < k; j += 2) w->v[i * k + j] = w->v[i * k + j - 1];
}

/* gemm and conv2d: x, w, and what is added. */
static void fill_product(qw_material *m, int64_t k)
{
    qw_datum *x = qw_datum_named(m, "x"), *w = qw_datum_named(m, "w"),
             *x2 = qw_datum_named(m, "x2");
    qw_datum *w2 = qw_datum_named(m, "w2"), *bias = qw_datum_named(m, "bias"),
             *gate = qw_datum_named(m, "gate");
    qw_datum *res = qw_datum_named(m, "res");
    const qw_dtype y = qw_datum_named(m, "y")->t.dtype;
    const double sigma = 1 / sqrt((double)k);
    qw_random r = stream(m, w);
    if (is_quantised(w->t.dtype)) fill_quantised(m, w, sigma, &r);
    qw_random rx = stream(m, x);
    if (is_quantised(x->t.dtype)) fill_quantised(m, x, 1, &rx);
    if (m->c.fill == QW_EXACT) {
        if (!is_quantised(w->t.dtype)) integers(m, w, 3);
        if (!is_quantised(x->t.dtype)) exact_rows(m, x, w, k, y);
        integers(m, x2, 1);
        integers(m, w2, 1);
        integers(m, bias, 8);
        powers(m, gate);
        integers(m, res, 8);
        return;
    }
    if (m->c.fill == QW_NORMAL) {
        if (!is_quantised(w->t.dtype)) normals(m, w, sigma);
        if (!is_quantised(x->t.dtype)) normals(m, x, 1);
    } else {
        if (!is_quantised(w->t.dtype)) hard_weight(m, w, sigma);
        const double room = fmin(largest(x->t.dtype), largest(y))
                            / (64 * (double)k * fmax(most_of(w), 1));
        if (!is_quantised(x->t.dtype)) hard_rows(m, x, fmin(room, 1e30));
    }
    normals(m, x2, 1);
    normals(m, w2, 1 / sqrt((double)(m->c.lora ? m->c.lora : 1)));
    normals(m, bias, 1);
    normals(m, gate, 1);
    normals(m, res, 3);
}

/* One key far above the others, or all equal: the weights are 0 and 1/n. */
static void exact_attention(qw_material *m)
{
    qw_datum *q = qw_datum_named(m, "q"), *k = qw_datum_named(m, "k");
    const int64_t d = m->c.dim[4], hq = m->c.dim[2], hk = m->c.dim[3];
    qw_random r = stream(m, q);
    const uint64_t period = UINT64_C(1) << qw_below(&r, 6);
    const double far = exp2(ceil(log2(256 / m->args.attention.scale)));
    for (int64_t i = 0; i < m->c.dim[0] * hq; i++) q->v[i * d] = qw_below(&r, 3) ? far : 0;
    for (int64_t j = 0; j < m->c.dim[1]; j++)
        for (int64_t h = 0; h < hk; h++)
            k->v[(j * hk + h) * d] = (uint64_t)(j + 3 * h) % period ? 0 : 1;
    integers(m, qw_datum_named(m, "v"), 8);
}

/* Logits that step up at a tile border, sink at another; values with outliers. */
static void hard_attention(qw_material *m)
{
    qw_datum *q = qw_datum_named(m, "q"), *k = qw_datum_named(m, "k"), *v = qw_datum_named(m, "v");
    const int64_t d = m->c.dim[4], hk = m->c.dim[3];
    qw_random r = stream(m, q);
    normals(m, q, 1);
    normals(m, k, 1);
    normals(m, v, 1);
    const int64_t nk = m->c.dim[1], tile = INT64_C(8) << qw_below(&r, 5),
                  up = nk > tile ? tile : nk - 1;
    const double height = 4 + 36 * qw_uniform(&r), a = sqrt(height / m->args.attention.scale);
    const int kind = (int)qw_below(&r, 3);
    for (int64_t i = 0; i < q->n; i += d) q->v[i] = a;
    for (int64_t j = 0; j < nk; j++)
        for (int64_t h = 0; h < hk; h++) {
            double *key = k->v + (j * hk + h) * d;
            if (kind == 0) key[0] = j == up ? a : 0;       /* one key above all before and after */
            else if (kind == 1) key[0] = j >= up ? a : -a; /* a plateau that begins at a border */
            else
                for (int64_t l = 0; l < d; l++) key[l] = l ? k->v[h * d + l] : a; /* equal logits */
        }
    for (int64_t i = 0; i < v->n; i++) {
        if (i % d == 3) v->v[i] *= 1000;
        if (i % d == 1 && i >= hk * d) v->v[i] = -v->v[i - hk * d]; /* columns that cancel */
    }
}

static void fill_attention(qw_material *m)
{
    if (m->c.fill == QW_EXACT) exact_attention(m);
    else if (m->c.fill == QW_HARD) hard_attention(m);
    else {
        normals(m, qw_datum_named(m, "q"), 1);
        normals(m, qw_datum_named(m, "k"), 1);
        normals(m, qw_datum_named(m, "v"), 1);
    }
}

/* Rows of equal magnitude c around an integer mean (0 without one). */
static void equal_rows(const qw_material *m, qw_datum *x, int mean)
{
    qw_random r = stream(m, x);
    const int64_t n = x->t.dim[x->t.rank - 1];
    for (int64_t i = 0; i < x->n; i += n) {
        const double c = ldexp(1, (int)qw_below(&r, 5)), u = mean ? whole(&r, mean) : 0;
        for (int64_t j = 0; j < n; j++)
            x->v[i + j] = j == n - 1 && n % 2 && mean ? u : u + (j % 2 ? -c : c);
    }
}

/* Rows whose mean is up to 1000 deviations. */
static void far_means(const qw_material *m, qw_datum *x)
{
    qw_random r = stream(m, x);
    const int64_t n = x->t.dim[x->t.rank - 1];
    for (int64_t i = 0; i < x->n; i += n) {
        const double mean = exp2(10 * qw_uniform(&r)) * (qw_below(&r, 2) ? 1 : -1);
        for (int64_t j = 0; j < n; j++) x->v[i + j] = mean + qw_gauss(&r);
    }
}

static void fill_norm(qw_material *m)
{
    qw_datum *x = qw_datum_named(m, "x");
    const double most = x->t.dtype == QW_F16 ? 6e4 : 1e15; /* squares and their sums must fit f32 */
    if (m->c.fill == QW_EXACT) {
        equal_rows(m, x, m->c.op == QW_OP_ln_mod ? 16 : 0);
        powers(m, qw_datum_named(m, "w"));
        integers(m, qw_datum_named(m, "scale"), 3);
        integers(m, qw_datum_named(m, "shift"), 8);
        return;
    }
    if (m->c.fill == QW_NORMAL) normals(m, x, 1);
    else if (m->c.op == QW_OP_ln_mod && m->c.seed % 2) far_means(m, x);
    else hard_rows(m, x, most);
    normals(m, qw_datum_named(m, "w"), 1);
    normals(m, qw_datum_named(m, "scale"), 1);
    normals(m, qw_datum_named(m, "shift"), 1);
}

static void fill_norm_rope(qw_material *m)
{
    fill_norm(m);
    qw_datum *c = qw_datum_named(m, "cos"), *s = qw_datum_named(m, "sin");
    qw_random r = stream(m, c);
    for (int64_t i = 0; i < c->n; i++) {
        const double angle = m->c.fill == QW_HARD ? 1e4 * qw_uniform(&r)
                                                  : 6.283185307 * qw_uniform(&r);
        const int quarter = (int)qw_below(&r, 4);
        c->v[i] = m->c.fill == QW_EXACT ? (double)((quarter == 0) - (quarter == 2)) : qw_cos(angle);
        s->v[i] = m->c.fill == QW_EXACT ? (double)((quarter == 1) - (quarter == 3)) : qw_sin(angle);
    }
}

static void fill_swiglu(qw_material *m)
{
    static const double gate[] = { 0, 64, -256, 128, 32 }; /* silu: 0 or itself, to 1e-13 */
    qw_datum *x = qw_datum_named(m, "x");
    const int64_t n = x->t.dim[1];
    qw_random r = stream(m, x);
    normals(m, x, 1);
    for (int64_t i = 0; i < x->n; i++) {
        const int first = i % n < n / 2;
        if (m->c.fill == QW_EXACT) x->v[i] = first ? gate[qw_below(&r, 5)] : whole(&r, 8);
        else if (m->c.fill == QW_HARD)
            x->v[i] *= first ? exp2(8 * qw_uniform(&r) - 4) : qw_below(&r, 16) ? 1 : 1000;
    }
}

static void fill_convert(qw_material *m)
{
    qw_datum *x = qw_datum_named(m, "x"), *res = qw_datum_named(m, "res");
    const qw_dtype y = qw_datum_named(m, "y")->t.dtype;
    qw_random r = stream(m, x);
    if (is_quantised(x->t.dtype)) fill_quantised(m, x, 1, &r);
    else if (m->c.fill == QW_EXACT) integers(m, x, 100);
    else if (m->c.fill == QW_NORMAL) normals(m, x, 1);
    else hard_rows(m, x, fmin(largest(x->t.dtype), largest(y)) / (m->c.rotate ? 512 : 2));
    if (m->c.fill == QW_EXACT) integers(m, res, 100);
    else normals(m, res, 3);
    if (y != QW_I8 || m->c.fill != QW_EXACT || is_quantised(x->t.dtype) || m->c.rotate) return;
    const int64_t n = x->t.dim[1]; /* a row's largest is 127: its codes are its values */
    for (int64_t i = 0; i < x->n; i += n) x->v[i] = 127;
}

int qw_material_make(qw_material *m, const qw_case *c, qw_dtype wide)
{
    int status = qw_material_shape(m, c, wide);
    for (int i = 0; i < m->n && !status; i++)
        if (qw_present(&m->d[i].t)) status = make_memory(m, i);
    if (status) return status;
    switch (c->op) {
    case QW_OP_gemm: fill_product(m, c->dim[2]); break;
    case QW_OP_conv2d: fill_product(m, c->dim[5] * c->dim[6] * c->dim[7]); break;
    case QW_OP_attention: fill_attention(m); break;
    case QW_OP_norm_rope: fill_norm_rope(m); break;
    case QW_OP_swiglu: fill_swiglu(m); break;
    case QW_OP_convert: fill_convert(m); break;
    default: fill_norm(m); break;
    }
    for (int i = 0; i < m->n; i++) {
        qw_datum *d = &m->d[i];
        if (!qw_present(&d->t) || is_quantised(d->t.dtype)) continue;
        if (d->operand->role != QW_OUT) store_values(d);
    }
    for (int i = 0; i < m->n; i++) /* an output that is also an input starts as that */
        if (m->d[i].same >= 0)
            memcpy(m->d[0].image, m->d[i].image,
                   m->d[i].bytes < m->d[0].bytes ? m->d[i].bytes : m->d[0].bytes);
    return QWEN_OK;
}

void qw_material_free(qw_material *m)
{
    for (int i = 0; i < QW_DATA; i++) {
        free(m->d[i].v);
        free(m->d[i].image);
        free(m->d[i].scale);
        free(m->d[i].block_scale);
    }
    free(m->first);
    free(m->last);
    memset(m, 0, sizeof *m);
}
