/* int8_rows.c - ops that write rows of 8-bit codes: ln_mod and convert, and the Hadamard rotation.
 *
 * A row is computed as floats in a thread's buffer, where its largest element is found and from
 * which its codes are written. */
#include "int8.h"

int QW_NAME(ln_mod)(qw_device *d, const qw_ln_mod_args *a);
int QW_NAME(convert)(qw_device *d, const qw_convert_args *a);

static const char *row_of(const qw_tensor *t, int64_t i)
{
    return (const char *)t->data + (size_t)(i * t->stride[0]) * qw_block_bytes(t->dtype);
}

static int rows_threads(const qw_device *d, int64_t m, int64_t n)
{
    return cpu_threads(d, 8.0 * (double)m * (double)n);
}

static size_t rows_bytes(const qw_device *d, int64_t m, int64_t n)
{
    return (size_t)rows_threads(d, m, n) * cpu_line((size_t)n * 4);
}

/* The buffer of the calling thread. */
static float *own_row(const qw_device *d, int64_t n)
{
    return (float *)(void *)((char *)d->room + (size_t)cpu_thread() * cpu_line((size_t)n * 4));
}

/* n floats to row i of y. */
static void put_row(const qw_tensor *y, int64_t i, const float *x, int64_t n)
{
    char *to = (char *)(uintptr_t)row_of(y, i);
    if (y->dtype == QW_I8) {
        const float s = code_row(x, n, (int8_t *)to);
        memcpy((char *)(uintptr_t)y->scale + (size_t)(i * y->scale_stride) * sizeof s, &s,
               sizeof s);
        return;
    }
    for (int64_t l = 0; l < n; l += VL) v_put(y->dtype, to, l, v_first(n - l), v_load(x + l));
}

/* --- ln_mod ----------------------------------------------------------------------------------- */

/* Row i of ln_mod as floats; as in norm.c. */
static void ln_mod_row(const qw_ln_mod_args *a, int64_t i, float *y)
{
    const int64_t n = a->x.dim[1];
    const qw_dtype t = a->x.dtype;
    const char *x = row_of(&a->x, i);
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
        v_store_n(y + j, k, c);
    }
}

static int ln_mod_taken(const qw_ln_mod_args *a)
{
    return cpu_float(a->x.dtype) && a->y.dtype == QW_I8;
}

size_t QW_NAME(ln_mod_int8_scratch)(const cpu_device *d, const qw_ln_mod_args *a);
size_t QW_NAME(ln_mod_int8_scratch)(const cpu_device *d, const qw_ln_mod_args *a)
{
    return ln_mod_taken(a) ? rows_bytes(&d->d, a->x.dim[0], a->x.dim[1]) : 0;
}

int QW_NAME(ln_mod_int8)(qw_device *d, const qw_ln_mod_args *a);
int QW_NAME(ln_mod_int8)(qw_device *d, const qw_ln_mod_args *a)
{
    if (!ln_mod_taken(a)) return QW_NAME(ln_mod)(d, a);
    const int64_t m = a->x.dim[0], n = a->x.dim[1];
    if (d->room_bytes < rows_bytes(d, m, n)) return QWEN_ENOMEM;
CPU_OMP(parallel for num_threads(rows_threads(d, m, n)) schedule(static))
for (int64_t i = 0; i < m; i++) {
    float *row = own_row(d, n);
    ln_mod_row(a, i, row);
    put_row(&a->y, i, row, n);
}
return QWEN_OK;
}

/* --- convert ---------------------------------------------------------------------------------- */

/* The factor of qw_hadamard for digits of weight 1 (step 1) or 4 (step 4), inside a vector. */
INLINE vf turn_inside(vf x, int step)
{
    if (step == 1) {
        vf t = v_add(x, _mm512_permute_ps(x, 0xb1));
        t = v_add(t, _mm512_permute_ps(t, 0x4e));
        return v_sub(v_mul(t, v_set(0.5f)), _mm512_permute_ps(x, 0x1b));
    }
    vf t = v_add(x, _mm512_shuffle_f32x4(x, x, 0xb1));
    t = v_add(t, _mm512_shuffle_f32x4(t, t, 0x4e));
    return v_sub(v_mul(t, v_set(0.5f)), _mm512_shuffle_f32x4(x, x, 0x1b));
}

/* qw_hadamard on floats. */
static void hadamard(float *x, int64_t n, int64_t group)
{
    for (int64_t i = 0; i < n && group > 1; i += VL) {
        const vm m = v_first(n - i);
        vf v = turn_inside(v_load_n(x + i, m), 1);
        if (group > 4) v = turn_inside(v, 4);
        v_store_n(x + i, m, v);
    }
    for (int64_t s = VL; s < group; s *= 4)
        for (int64_t i = 0; i < n; i += 4 * s)
            for (int64_t j = i; j < i + s; j += VL) {
                const vf a = v_load(x + j), b = v_load(x + j + s);
                const vf c = v_load(x + j + 2 * s), d = v_load(x + j + 3 * s);
                const vf t = v_mul(v_add(v_add(a, b), v_add(c, d)), v_set(0.5f));
                v_store(x + j, v_sub(t, d));
                v_store(x + j + s, v_sub(t, c));
                v_store(x + j + 2 * s, v_sub(t, b));
                v_store(x + j + 3 * s, v_sub(t, a));
            }
}

static int convert_taken(const qw_convert_args *a)
{
    if (!cpu_float(a->x.dtype) || a->x.scale) return 0;
    if (qw_present(&a->res) && !cpu_float(a->res.dtype)) return 0;
    return a->y.dtype == QW_I8 || (a->rotate && cpu_float(a->y.dtype));
}

size_t QW_NAME(convert_int8_scratch)(const cpu_device *d, const qw_convert_args *a);
size_t QW_NAME(convert_int8_scratch)(const cpu_device *d, const qw_convert_args *a)
{
    return convert_taken(a) ? rows_bytes(&d->d, a->y.dim[0], a->y.dim[1]) : 0;
}

int QW_NAME(convert_int8)(qw_device *d, const qw_convert_args *a);
int QW_NAME(convert_int8)(qw_device *d, const qw_convert_args *a)
{
    if (!convert_taken(a)) return QW_NAME(convert)(d, a);
    const int64_t m = a->y.dim[0], n = a->y.dim[1];
    if (d->room_bytes < rows_bytes(d, m, n)) return QWEN_ENOMEM;
CPU_OMP(parallel for num_threads(rows_threads(d, m, n)) schedule(static))
for (int64_t i = 0; i < m; i++) {
    float *row = own_row(d, n);
    for (int64_t l = 0; l < n; l += VL) {
        const vm k = v_first(n - l);
        v_store_n(row + l, k, v_get(a->x.dtype, row_of(&a->x, i), l, k));
    }
    hadamard(row, n, a->rotate);
    for (int64_t l = 0; a->res.data && l < n; l += VL) {
        const vm k = v_first(n - l);
        const vf r = v_get(a->res.dtype, row_of(&a->res, i), l, k);
        v_store_n(row + l, k, v_add(v_load_n(row + l, k), r));
    }
    put_row(&a->y, i, row, n);
}
return QWEN_OK;
}
