/* norm.c - normalisation of rows in two passes, rotation, the product of halves, conversion. */
#include "cpu.h"
#include "vec.h"

/* Row i of t, whose type is f32, bf16 or f16. */
static inline const char *row_of(const qw_tensor *t, int64_t i, qw_dtype type)
{
    return (const char *)t->data + (size_t)(i * t->stride[0]) * (type == QW_F32 ? 4 : 2);
}

/* ln_mod, reference/norm.c. */
int QW_NAME(ln_mod)(qw_device *d, const qw_ln_mod_args *a);
int QW_NAME(ln_mod)(qw_device *d, const qw_ln_mod_args *a)
{
    if (!cpu_float(a->x.dtype) || !cpu_float(a->y.dtype)) return QW_DECLINE;
    const int64_t m = a->x.dim[0], n = a->x.dim[1];
    const int threads = cpu_threads(d, 8.0 * (double)m * (double)n);
    (void)threads; /* without OpenMP */
    const qw_dtype t = a->x.dtype;
CPU_OMP(parallel for num_threads(threads) schedule(static))
for (int64_t i = 0; i < m; i++) {
    const char *x = row_of(&a->x, i, a->x.dtype);
    char *y = (char *)(uintptr_t)row_of(&a->y, i, a->y.dtype);
    vf s = v_set(0);
    for (int64_t j = 0; j < n; j += VL) s = v_add(s, v_get(t, x, j, v_first(n - j)));
    const vf mean = v_set(v_sum(s) / (float)n);
    s = v_set(0);
    for (int64_t j = 0; j < n; j += VL) {
        const vm k = v_first(n - j);
        const vf c = v_keep(k, v_sub(v_get(t, x, j, k), mean), v_set(0));
        s = v_fma(c, c, s);
    }
    const vf r = v_set((float)(1 / sqrt((double)v_sum(s) / (double)n + a->eps)));
    for (int64_t j = 0; j < n; j += VL) {
        const vm k = v_first(n - j);
        vf c = v_mul(v_sub(v_get(t, x, j, k), mean), r);
        if (a->scale.data)
            c = v_mul(c, v_add(v_set(1), v_load_n((const float *)a->scale.data + j, k)));
        if (a->shift.data) c = v_add(c, v_load_n((const float *)a->shift.data + j, k));
        v_put(a->y.dtype, y, j, k, c);
    }
}
return QWEN_OK;
}

/* Rows i .. i + R of rms_norm, R at most VL; tx, ty and act are constants. */
INLINE void rms_rows(const qw_rms_norm_args *a, const qw_dtype tx, const qw_dtype ty,
                     const qw_act act, int64_t i, int64_t R)
{
    const int64_t n = a->x.dim[1], whole = n / VL * VL;
    const vm m = v_first(n - whole);
    const float *w = a->w.data;
    vf s[VL];
    float r[VL];
    for (int64_t q = 0; q < VL; q++) {
        s[q] = v_set(0);
        if (q >= R) continue;
        const char *x = row_of(&a->x, i + q, tx);
        vf one = v_set(0), other = v_set(0);
        for (int64_t j = 0; j + VL < whole; j += 2 * VL) {
            const vf c = v_get_all(tx, x, j), d = v_get_all(tx, x, j + VL);
            one = v_fma(c, c, one);
            other = v_fma(d, d, other);
        }
        if (whole / VL % 2) {
            const vf c = v_get_all(tx, x, whole - VL);
            one = v_fma(c, c, one);
        }
        if (whole < n) {
            const vf c = v_get(tx, x, whole, m);
            other = v_fma(c, c, other);
        }
        s[q] = v_add(one, other);
    }
    const vf mean = v_add(v_div(v_sums(s), v_set((float)n)), v_set((float)a->eps));
    v_store(r, v_div(v_set(1), v_sqrt(mean)));
    for (int64_t q = 0; q < R; q++) {
        const char *x = row_of(&a->x, i + q, tx);
        char *y = (char *)(uintptr_t)row_of(&a->y, i + q, ty);
        const vf by = v_set(r[q]);
        for (int64_t j = 0; j < whole; j += VL) {
            vf c = v_mul(v_mul(v_get_all(tx, x, j), by), v_load(w + j));
            if (act == QW_SILU) c = v_silu(c);
            v_put_all(ty, y, j, c);
        }
        if (whole == n) continue;
        vf c = v_mul(v_mul(v_get(tx, x, whole, m), by), v_load_n(w + whole, m));
        if (act == QW_SILU) c = v_silu(c);
        v_put(ty, y, whole, m, c);
    }
}

/* The types that occur most are constants of their own loops. */
static void rms_any(const qw_rms_norm_args *a, int64_t i, int64_t R)
{
    const qw_dtype x = a->x.dtype, y = a->y.dtype;
    const int silu = a->act == QW_SILU;
    if (x == QW_BF16 && y == QW_BF16 && silu) rms_rows(a, QW_BF16, QW_BF16, QW_SILU, i, R);
    else if (x == QW_F32 && y == QW_F32 && silu) rms_rows(a, QW_F32, QW_F32, QW_SILU, i, R);
    else rms_rows(a, x, y, a->act, i, R);
}

/* rms_norm, reference/norm.c. */
int QW_NAME(rms_norm)(qw_device *d, const qw_rms_norm_args *a);
int QW_NAME(rms_norm)(qw_device *d, const qw_rms_norm_args *a)
{
    if (!cpu_float(a->x.dtype) || !cpu_float(a->y.dtype)) return QW_DECLINE;
    if (a->act != QW_ACT_NONE && a->act != QW_SILU) return QW_DECLINE;
    const int64_t m = a->x.dim[0];
    const int threads = cpu_threads(d, 8.0 * (double)m * (double)a->x.dim[1]);
    (void)threads; /* without OpenMP */
CPU_OMP(parallel for num_threads(threads) schedule(static))
for (int64_t i = 0; i < m; i += VL) rms_any(a, i, m - i < VL ? m - i : VL);
return QWEN_OK;
}

enum { HEAD = 1024 }; /* the widest head */

/* Vector j of a head, normalised. */
INLINE vf head_part(const qw_norm_rope_args *a, const qw_dtype t, const char *x, int64_t j, vm m,
                    vf by)
{
    const vf z = v_get(t, x, j, m);
    return a->w.data ? v_mul(v_mul(z, by), v_load_n((const float *)a->w.data + j, m)) : z;
}

/* Heads at x, R of them, at most VL; cs, sn: [d] of pairs, each number twice, or [d / 2]. */
INLINE void turn_heads(const qw_norm_rope_args *a, const qw_dtype t, char *x, int64_t R,
                       const float *cs, const float *sn)
{
    const int64_t d = a->x.dim[2], half = d / 2;
    const size_t step = (size_t)a->x.stride[1] * (t == QW_F32 ? 4 : 2);
    float r[VL];
    vf s[VL];
    for (int64_t q = 0; q < VL; q++) {
        s[q] = v_set(0);
        for (int64_t j = 0; j < d && q < R && a->w.data; j += VL) {
            const vf c = v_get(t, x + (size_t)q * step, j, v_first(d - j));
            s[q] = v_fma(c, c, s[q]);
        }
    }
    const vf mean = v_add(v_div(v_sums(s), v_set((float)d)), v_set((float)a->eps));
    v_store(r, v_div(v_set(1), v_sqrt(mean)));
    for (int64_t q = 0; q < R; q++, x += step) {
        const vf by = v_set(r[q]);
        for (int64_t j = 0; j < d && a->pairing == QW_PAIRS; j += VL) {
            const vm m = v_first(d - j);
            v_put(t, x, j, m, v_turn(head_part(a, t, x, j, m, by), v_load(cs + j), v_load(sn + j)));
        }
        for (int64_t j = 0; j < half && a->pairing != QW_PAIRS; j += VL) {
            const vm m = v_first(half - j);
            const vf c = v_load_n(cs + j, m), u = v_load_n(sn + j, m);
            const vf y = head_part(a, t, x, j, m, by), z = head_part(a, t, x, half + j, m, by);
            v_put(t, x, j, m, v_sub(v_mul(y, c), v_mul(z, u)));
            v_put(t, x, half + j, m, v_add(v_mul(z, c), v_mul(y, u)));
        }
    }
}

/* Each of n numbers twice. */
static void twice(const float *x, int64_t n, float *to)
{
    int64_t k = 0;
    for (; k + VL / 2 <= n; k += VL / 2) v_store(to + 2 * k, v_twice(x + k));
    for (; k < n; k++) to[2 * k] = to[2 * k + 1] = x[k];
}

/* All heads of token i. */
static void turn_token(const qw_norm_rope_args *a, int64_t i)
{
    const int64_t heads = a->x.dim[1], d = a->x.dim[2];
    const int f32 = a->x.dtype == QW_F32;
    const float *cs = (const float *)a->cos.data + i * a->cos.stride[0];
    const float *sn = (const float *)a->sin.data + i * a->sin.stride[0];
    float c[HEAD + VL], u[HEAD + VL];
    if (a->pairing == QW_PAIRS) {
        twice(cs, d / 2, c);
        twice(sn, d / 2, u);
        for (int64_t j = d; j % VL; j++) c[j] = u[j] = 0;
        cs = c, sn = u;
    }
    for (int64_t h = 0; h < heads; h += VL) {
        char *x = (char *)a->x.data
                  + (size_t)(i * a->x.stride[0] + h * a->x.stride[1]) * (f32 ? 4 : 2);
        const int64_t R = heads - h < VL ? heads - h : VL;
        if (f32) turn_heads(a, QW_F32, x, R, cs, sn);
        else if (a->x.dtype == QW_BF16) turn_heads(a, QW_BF16, x, R, cs, sn);
        else turn_heads(a, QW_F16, x, R, cs, sn);
    }
}

/* norm_rope, reference/rope.c. */
int QW_NAME(norm_rope)(qw_device *dev, const qw_norm_rope_args *a);
int QW_NAME(norm_rope)(qw_device *dev, const qw_norm_rope_args *a)
{
    const int64_t n = a->x.dim[0], heads = a->x.dim[1], d = a->x.dim[2];
    if (!cpu_float(a->x.dtype) || d > HEAD) return QW_DECLINE;
    const int threads = cpu_threads(dev, 16.0 * (double)n * (double)(heads * d));
    (void)threads; /* without OpenMP */
CPU_OMP(parallel for num_threads(threads) schedule(static))
for (int64_t i = 0; i < n; i++) turn_token(a, i);
return QWEN_OK;
}

/* swiglu, reference/swiglu.c. */
int QW_NAME(swiglu)(qw_device *d, const qw_swiglu_args *a);
int QW_NAME(swiglu)(qw_device *d, const qw_swiglu_args *a)
{
    if (!cpu_float(a->x.dtype) || !cpu_float(a->y.dtype)) return QW_DECLINE;
    const int64_t m = a->y.dim[0], n = a->y.dim[1];
    const int threads = cpu_threads(d, 32.0 * (double)m * (double)n);
    (void)threads; /* without OpenMP */
CPU_OMP(parallel for num_threads(threads) schedule(static))
for (int64_t i = 0; i < m; i++) {
    const char *x = row_of(&a->x, i, a->x.dtype);
    char *y = (char *)(uintptr_t)row_of(&a->y, i, a->y.dtype);
    for (int64_t j = 0; j < n; j += VL) {
        const vm k = v_first(n - j);
        const vf g = v_get(a->x.dtype, x, j, k), u = v_get(a->x.dtype, x, n + j, k);
        v_put(a->y.dtype, y, j, k, v_mul(v_mul(g, v_sigmoid(g)), u));
    }
}
return QWEN_OK;
}

/* convert without rotation and rows of codes, reference/convert.c. */
int QW_NAME(convert)(qw_device *d, const qw_convert_args *a);
int QW_NAME(convert)(qw_device *d, const qw_convert_args *a)
{
    if (!cpu_float(a->x.dtype) || !cpu_float(a->y.dtype) || a->rotate || a->x.scale)
        return QW_DECLINE;
    if (qw_present(&a->res) && !cpu_float(a->res.dtype)) return QW_DECLINE;
    const int64_t m = a->y.dim[0], n = a->y.dim[1];
    const int threads = cpu_threads(d, 4.0 * (double)m * (double)n);
    (void)threads; /* without OpenMP */
CPU_OMP(parallel for num_threads(threads) schedule(static))
for (int64_t i = 0; i < m; i++) {
    const char *x = row_of(&a->x, i, a->x.dtype),
               *res = a->res.data ? row_of(&a->res, i, a->res.dtype) : NULL;
    char *y = (char *)(uintptr_t)row_of(&a->y, i, a->y.dtype);
    for (int64_t j = 0; j < n; j += VL) {
        const vm k = v_first(n - j);
        vf v = v_get(a->x.dtype, x, j, k);
        if (res) v = v_add(v, v_get(a->res.dtype, res, j, k));
        v_put(a->y.dtype, y, j, k, v);
    }
}
return QWEN_OK;
}
