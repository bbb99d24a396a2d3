/* gemm.c - every linear layer, from weights as they lie in the file.
 *
 * Threads take panels of NW rows of w.  A panel is unpacked KC inputs at a time into a buffer that
 * stays in the second-level cache, as the columns that the tile of kernel.h reads, and is multiplied
 * with up to MC rows of x; sums stay in a buffer of the thread until all of k has passed.  Nothing of
 * w is kept.  Two kinds of products: f32, with x converted once a block of rows; and pairs of bf16,
 * with x as it lies, where the set has them and the device allows them.
 *
 * Scales of rows of w multiply the sums, before LoRA's product, bias, activation, gate and residual.
 * The order of additions follows from k alone. */
#include "kernel.h"

enum { KC = 1536, CHUNK = 256 }; /* KC: a panel of floats is 288 KiB of AVX-512 columns */

typedef struct plan {
    int64_t m, n, k, r;
    int pairs;   /* products of bf16 pairs */
    int convert; /* x is copied: to floats, or to an even number of bf16 */
    int64_t mc;  /* rows at a time */
    int64_t ldx; /* elements of a copied row */
    int threads;
    size_t x, x2, panel, more, rows, sums; /* bytes of each buffer */
    size_t each, bytes;                    /* of a thread; of all */
} plan;

static int weight_taken(const qw_tensor *w)
{
    switch (w->dtype) {
    case QW_F32:
    case QW_F16:
    case QW_BF16:
    case QW_F8E4M3:
    case QW_F8E5M2:
    case QW_I8:
    case QW_Q8_0:
    case QW_Q4_0:
    case QW_Q4_1:
    case QW_Q5_0:
    case QW_Q5_1:
    case QW_Q2_K:
    case QW_Q3_K:
    case QW_Q4_K:
    case QW_Q5_K:
    case QW_Q6_K: return !w->layout && !w->block_scale;
    default: return 0;
    }
}

static int taken(const qw_gemm_args *a)
{
    if (!cpu_float(a->x.dtype) || !cpu_float(a->y.dtype) || !weight_taken(&a->w)) return 0;
    if (qw_present(&a->res) && !cpu_float(a->res.dtype)) return 0;
    return !qw_present(&a->x2) || (cpu_float(a->x2.dtype) && cpu_float(a->w2.dtype));
}

static plan plan_of(const cpu_device *dev, const qw_gemm_args *a)
{
    plan p = { .m = a->y.dim[0], .n = a->y.dim[1], .k = a->x.dim[1] };
    p.r = qw_present(&a->x2) ? a->x2.dim[1] : 0;
#ifdef VEC_BF16_PAIRS
    p.pairs = dev->pairs && a->x.dtype == QW_BF16 && a->w.dtype != QW_F32 && a->w.dtype != QW_F16;
#endif
    p.convert = p.pairs ? p.k % 2 != 0 : a->x.dtype != QW_F32;
    p.mc = p.pairs ? 1024 : 512;
    if (p.m < p.mc) p.mc = p.m;
    p.ldx = p.pairs ? (p.k + 1) / 2 * 2 : p.k;
    const int64_t panels = (p.n + NW - 1) / NW;
    p.threads = cpu_threads(&dev->d, (double)p.m * (double)p.n * (double)(p.k + p.r));
    if (p.threads > panels) p.threads = (int)panels;
    const int64_t kc = p.k < KC ? p.k + 1 : KC;
    p.x = p.convert ? cpu_line((size_t)(p.mc * p.ldx) * (p.pairs ? 2 : 4)) : 0;
    p.x2 = p.r ? cpu_line((size_t)(p.mc * p.r) * 4) : 0;
    p.panel = cpu_line((size_t)(p.pairs ? (kc + 1) / 2 : kc) * NW * 4);
    p.more = cpu_line((size_t)p.r * NW * 4);
    p.rows = cpu_line((size_t)VL * CHUNK * 4);
    p.sums = cpu_line((size_t)(p.mc * NW) * 4);
    p.each = p.panel + p.more + p.rows + p.sums;
    p.bytes = p.x + p.x2 + (size_t)p.threads * p.each + 64;
    return p;
}

size_t QW_NAME(gemm_scratch)(const cpu_device *dev, const qw_gemm_args *a);
size_t QW_NAME(gemm_scratch)(const cpu_device *dev, const qw_gemm_args *a)
{
    return taken(a) ? plan_of(dev, a).bytes : 0;
}

/* Elements l .. l + count of row j of w as floats, scales of rows not applied; count is a multiple
 * of the block unless the row ends. */
static void row_floats(const qw_tensor *w, int64_t j, int64_t l, int64_t count, float *out)
{
    const char *row = (const char *)w->data + (size_t)j * qw_row_bytes(w->dtype, w->stride[0]);
    if (cpu_float(w->dtype) && w->dtype != QW_F32) {
        for (int64_t i = 0; i < count; i += VL) {
            const vm m = v_first(count - i);
            v_store_n(out + i, m, v_get(w->dtype, row, l + i, m));
        }
        return;
    }
    qw_decode_f32(w->dtype, row + qw_row_bytes(w->dtype, l), count, out);
}

/* Rows j .. j + count of w, inputs l0 .. l0 + kc, as a panel [kc][NW]; zeros beyond count. */
static void unpack(const qw_tensor *w, int64_t j, int64_t count, int64_t l0, int64_t kc,
                   float *rows, float *panel)
{
    for (int64_t l = 0; l < kc; l += CHUNK) {
        const int64_t chunk = kc - l < CHUNK ? kc - l : CHUNK;
        for (int v = 0; v < NV; v++) {
            for (int i = 0; i < VL; i++) {
                if (v * VL + i < count)
                    row_floats(w, j + v * VL + i, l0 + l, chunk, rows + i * CHUNK);
                else memset(rows + i * CHUNK, 0, (size_t)chunk * sizeof *rows);
            }
            columns(rows, CHUNK, chunk, panel + l * NW + v * VL, NW);
        }
    }
}

#ifdef VEC_BF16_PAIRS
/* VL words of VL rows as columns. */
INLINE void word_columns(const uint16_t *const *row, int64_t n, uint32_t *out)
{
    for (int64_t l = 0; l < n; l += 2 * VL) {
        vf r[VL];
        const int64_t left = n - l;
        const __mmask32 m = left >= 32 ? 0xffffffffu : (__mmask32)((1u << left) - 1);
        UNROLL(16)
        for (int i = 0; i < VL; i++)
            r[i] = row[i] ? _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(m, row[i] + l)) : v_set(0);
        v_transpose(r);
        const int64_t pairs = left >= 2 * VL ? VL : (left + 1) / 2;
        for (int64_t p = 0; p < pairs; p++) v_store((float *)(out + (l / 2 + p) * NW), r[p]);
    }
}

/* The same as pairs of bf16 [(kc + 1) / 2][NW]: bf16 as it lies, other types by way of floats. */
static void unpack_pairs(const qw_tensor *w, int64_t j, int64_t count, int64_t l0, int64_t kc,
                         float *rows, uint32_t *panel)
{
    const uint16_t *row[VL];
    for (int v = 0; v < NV; v++) {
        if (w->dtype == QW_BF16) {
            for (int i = 0; i < VL; i++)
                row[i] = v * VL + i < count
                             ? (const uint16_t *)w->data + (j + v * VL + i) * w->stride[0] + l0
                             : NULL;
            word_columns(row, kc, panel + v * VL);
            continue;
        }
        for (int64_t l = 0; l < kc; l += CHUNK) {
            const int64_t chunk = kc - l < CHUNK ? kc - l : CHUNK;
            for (int i = 0; i < VL; i++) {
                float *f = rows + i * CHUNK;
                row[i] = v * VL + i < count ? (const uint16_t *)f : NULL;
                if (!row[i]) continue;
                row_floats(w, j + v * VL + i, l0 + l, chunk, f);
                for (int64_t c = 0; c < chunk; c += VL) { /* in place: behind what is still read */
                    const vm m = v_first(chunk - c);
                    v_store_bf16_n((uint16_t *)f + c, m, v_load_n(f + c, m));
                }
            }
            word_columns(row, chunk, panel + l / 2 * NW + v * VL);
        }
    }
}
#endif

/* act(z) */
INLINE vf activate(qw_act act, vf z)
{
    switch (act) {
    case QW_SILU: return v_mul(z, v_sigmoid(z));
    case QW_GELU_TANH: {
        const vf cubic = v_fma(v_mul(z, z), v_set(0.044715f), v_set(1));
        return v_mul(z, v_sigmoid(v_mul(v_mul(z, v_set(1.5957691216f)), cubic)));
    }
    case QW_GELU_ERF: { /* erfc by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7 */
        const vf x = v_mul(v_abs(z), v_set(0.70710678f));
        const vf t = v_div(v_set(1), v_fma(v_set(0.3275911f), x, v_set(1)));
        vf p = v_set(1.061405429f);
        p = v_fma(p, t, v_set(-1.453152027f));
        p = v_fma(p, t, v_set(1.421413741f));
        p = v_fma(p, t, v_set(-0.284496736f));
        p = v_fma(p, t, v_set(0.254829592f));
        const vf half = v_mul(v_mul(v_mul(p, t), v_exp(v_sub(v_set(0), v_mul(x, x)))), v_set(0.5f));
        /* Phi(|z|) = 1 - half; z Phi(z) = max(z, 0) - |z| half */
        return v_sub(v_max(z, v_set(0)), v_mul(v_abs(z), half));
    }
    default: return z;
    }
}

static float scale_of(const qw_tensor *w, int64_t j)
{
    float s = 1; /* like the data it need not be aligned */
    if (w->scale)
        memcpy(&s, (const char *)w->scale + (size_t)(j * w->scale_stride) * sizeof s, sizeof s);
    return s;
}

/* Row i, columns j .. j + count, from sums to y. */
static void finish(const qw_gemm_args *a, int64_t i, int64_t j, int64_t count, const float *sums)
{
    char *y = (char *)a->y.data + (size_t)(i * a->y.stride[0]) * qw_block_bytes(a->y.dtype);
    const char *res = a->res.data;
    if (res) res += (size_t)(i * a->res.stride[0]) * qw_block_bytes(a->res.dtype);
    for (int64_t c = 0; c < count; c += VL) {
        const vm m = v_first(count - c);
        vf z = v_load(sums + c);
        if (a->bias.data) z = v_add(z, v_load_n((const float *)a->bias.data + j + c, m));
        if (a->act) z = activate(a->act, z);
        if (a->gate.data) z = v_mul(z, v_load_n((const float *)a->gate.data + j + c, m));
        if (res) z = v_add(z, v_get(a->res.dtype, res, j + c, m));
        v_put(a->y.dtype, y, j + c, m, z);
    }
}

/* Rows of a tensor of floats, from i0, as floats [rows][n]. */
static void floats(const qw_tensor *t, int64_t i0, int64_t rows, float *out, int threads)
{
    const int64_t n = t->dim[1];
    (void)threads; /* without OpenMP */
CPU_OMP(parallel for num_threads(threads) schedule(static))
for (int64_t i = 0; i < rows; i++) {
    const char *row = (const char *)t->data
                      + (size_t)((i0 + i) * t->stride[0]) * qw_block_bytes(t->dtype);
    for (int64_t l = 0; l < n; l += VL) {
        const vm m = v_first(n - l);
        v_store_n(out + i * n + l, m, v_get(t->dtype, row, l, m));
    }
}
}

/* One panel of w with rows i0 .. i0 + rows of x; x and x2 are copies of these rows, or NULL. */
static void panel_product(const qw_gemm_args *a, const plan *p, int64_t j, int64_t i0, int64_t rows,
                          const void *x, const float *x2, char *room)
{
    float *panel = (float *)(void *)room, *more = (float *)(void *)(room + p->panel);
    float *flat = (float *)(void *)(room + p->panel + p->more);
    float *sums = (float *)(void *)(room + p->panel + p->more + p->rows);
    const int64_t count = p->n - j < NW ? p->n - j : NW;
    const int V = (int)((count + VL - 1) / VL);
    const size_t size = qw_block_bytes(a->x.dtype);
    for (int64_t l0 = 0; l0 < p->k; l0 += KC) {
        const int64_t kc = p->k - l0 < KC ? p->k - l0 : KC;
#ifdef VEC_BF16_PAIRS
        if (p->pairs) unpack_pairs(&a->w, j, count, l0, kc, flat, (uint32_t *)panel);
        else
#endif
            unpack(&a->w, j, count, l0, kc, flat, panel);
        for (int64_t i = 0; i < rows; i += MR) {
            const int R = (int)(rows - i < MR ? rows - i : MR);
            const void *row[MR];
            for (int q = 0; q < R; q++)
                row[q] = x ? (const char *)x + (size_t)((i + q) * p->ldx + l0) * (p->pairs ? 2 : 4)
                           : (const char *)a->x.data
                                 + (size_t)((i0 + i + q) * a->x.stride[0] + l0) * size;
#ifdef VEC_BF16_PAIRS
            if (p->pairs)
                product_pairs(R, V, (const uint16_t *const *)row, (uint32_t *)panel, NW,
                              (kc + 1) / 2, sums + i * NW, NW, l0 > 0);
            else
#endif
                product_f32(R, V, (const float *const *)row, panel, NW, kc, sums + i * NW, NW,
                            l0 > 0);
        }
    }
    if (a->w.scale) {
        float s[NW] = { 0 };
        for (int64_t c = 0; c < count; c++) s[c] = scale_of(&a->w, j + c);
        for (int64_t i = 0; i < rows; i++)
            for (int v = 0; v < V; v++)
                v_store(sums + i * NW + v * VL,
                        v_mul(v_load(sums + i * NW + v * VL), v_load(s + v * VL)));
    }
    if (p->r) {
        unpack(&a->w2, j, count, 0, p->r, flat, more);
        for (int64_t i = 0; i < rows; i += MR) {
            const int R = (int)(rows - i < MR ? rows - i : MR);
            const float *row[MR];
            for (int q = 0; q < R; q++) row[q] = x2 + (i + q) * p->r;
            product_f32(R, V, row, more, NW, p->r, sums + i * NW, NW, 1);
        }
    }
    for (int64_t i = 0; i < rows; i++) finish(a, i0 + i, j, count, sums + i * NW);
}

/* y = res + gate act(x wT + x2 w2T + bias), reference/gemm.c. */
int QW_NAME(gemm)(qw_device *d, const qw_gemm_args *a);
int QW_NAME(gemm)(qw_device *d, const qw_gemm_args *a)
{
    if (!taken(a)) return QW_DECLINE;
    const plan p = plan_of((const cpu_device *)d, a);
    if (d->room_bytes < p.bytes) return QWEN_ENOMEM;
    char *room = (char *)(((uintptr_t)d->room + 63) & ~(uintptr_t)63);
    char *x = room, *x2 = x + p.x, *own = x2 + p.x2;
    for (int64_t i0 = 0; i0 < p.m; i0 += p.mc) {
        const int64_t rows = p.m - i0 < p.mc ? p.m - i0 : p.mc;
        if (p.convert && !p.pairs) floats(&a->x, i0, rows, (float *)(void *)x, p.threads);
        if (p.convert && p.pairs)
            for (int64_t i = 0; i < rows; i++) { /* pairs need a last zero */
                uint16_t *to = (uint16_t *)(void *)x + i * p.ldx;
                memcpy(to, (const uint16_t *)a->x.data + (i0 + i) * a->x.stride[0],
                       (size_t)p.k * 2);
                to[p.k] = 0;
            }
        if (p.r) floats(&a->x2, i0, rows, (float *)(void *)x2, p.threads);
        int stop = 0;
        const int64_t panels = (p.n + NW - 1) / NW;
CPU_OMP(parallel for num_threads(p.threads) schedule(static))
for (int64_t t = 0; t < panels; t++) {
    int now;
    CPU_OMP(atomic read)
    now = stop;
    if (now) continue;
    if (cpu_thread() == 0 && d->poll && d->poll(d->poll_user)) {
        CPU_OMP(atomic write)
        stop = 1;
    }
    panel_product(a, &p, t * NW, i0, rows, p.convert ? x : NULL,
                  p.r ? (const float *)(void *)x2 : NULL, own + (size_t)cpu_thread() * p.each);
}
if (stop) return QWEN_ECANCELLED;
    }
    return QWEN_OK;
}
