/* gemm.c - tiles of 16 columns, blocks of 1024 rows and 3072 inputs. */
#include "mutant.h"
#include <math.h>
#include <string.h>

enum { NR = 16, MC = 1024, KC = 3072 };

static int64_t rank_of(const qw_gemm_args *a) { return qw_present(&a->x2) ? a->x2.dim[1] : 0; }

/* Of one thread; the first thread's part also holds x and x2 as floats, and y where it becomes
 * codes: all threads have room for that, which is generous. */
size_t plain_gemm_scratch(const qw_gemm_args *a)
{
    const int64_t m = a->y.dim[0], n = a->y.dim[1], k = a->x.dim[1] + 1, r = rank_of(a);
    return (size_t)(m * (k + r) + (a->y.dtype == QW_I8 ? m * n : 0) + NR * (k + r)
                    + (m < MC ? m : MC) * NR + 64)
           * sizeof(float);
}

/* Q4_K without the minimum of its last 32 elements. */
static void without_minimum(const qw_tensor *w, int64_t j, float *row)
{
    for (int64_t b = 0; b < w->dim[1] / 256; b++) {
        const unsigned char *s = (const unsigned char *)qw_at(w, j, 0, 0, 0) + b * 144;
        const float dmin = qw_f16_to_f32((uint16_t)(s[2] | s[3] << 8));
        const int min = s[4 + 11] >> 4 | (s[4 + 7] >> 6) << 4;
        for (int e = 224; e < 256; e++) row[b * 256 + e] += dmin * (float)min;
    }
}

static void weight_row(qw_device *d, const qw_gemm_args *a, int64_t j, float *row)
{
    const int64_t k = a->x.dim[1];
    plain_row(&a->w, j, 0, 0, row);
    if (mutated(d, M_gemm_q4_k_minimum) && a->w.dtype == QW_Q4_K) without_minimum(&a->w, j, row);
    for (int64_t l = 0; l < k; l++) {
        if (mutated(d, M_gemm_f8_subnormals) && a->w.dtype == QW_F8E4M3 && fabsf(row[l]) < 0x1p-6f)
            row[l] = 0;
        if (mutated(d, M_gemm_bf16_operands) && a->w.dtype == QW_F32)
            row[l] = qw_bf16_to_f32(qw_f32_to_bf16(row[l]));
    }
}

/* sum of x[l] w[l], l0 <= l < l1, on top of s. */
static float sum(qw_device *d, const float *x, const float *w, int64_t l0, int64_t l1, float s)
{
    if (mutated(d, M_gemm_threads)) { /* a part for each thread */
        const int parts = plain_threads(d);
        float all = 0;
        for (int p = 0; p < parts; p++) {
            float part = 0;
            for (int64_t l = l0 + (l1 - l0) * p / parts; l < l0 + (l1 - l0) * (p + 1) / parts; l++)
                part += x[l] * w[l];
            all += part;
        }
        return s + all;
    }
    float lane[4] = { s, 0, 0, 0 };
    int64_t l = l0;
    for (; l + 4 <= l1; l += 4) {
        for (int e = 0; e < 4; e++) lane[e] += x[l + e] * w[l + e];
        if (mutated(d, M_gemm_narrow_sum) && l % 128 == 124)
            for (int e = 0; e < 4; e++) lane[e] = qw_bf16_to_f32(qw_f32_to_bf16(lane[e]));
    }
    const int64_t end = mutated(d, M_gemm_tail_product) && l1 % 4 && l1 > 4 ? l1 - 1 : l1;
    for (; l < end; l++) lane[0] += x[l] * w[l];
    return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

typedef struct rooms {
    float *x, *x2, *y; /* all rows */
    float *w, *w2, *s; /* of a thread: a tile of weights, factors, sums */
    int64_t step;      /* of a row of x and of w: k, and one more where k is odd */
} rooms;

/* The result from the sum at (i, j). */
static void finish(qw_device *d, const qw_gemm_args *a, const rooms *q, int64_t i, int64_t j, int c,
                   float z)
{
    const int64_t n = a->y.dim[1], r = rank_of(a);
    const int64_t scale_row = mutated(d, M_gemm_row_scale) ? 0 : j;
    z *= plain_scale(&a->w, scale_row) * plain_scale(&a->x, i);
    if (!(mutated(d, M_gemm_late_lora) && i >= 64))
        for (int64_t l = 0; l < r; l++) z += q->x2[i * r + l] * q->w2[c * r + l];
    const int no_bias = (mutated(d, M_gemm_late_rows) && i >= MC)
                        || (mutated(d, M_gemm_tail_column) && j == n - 1 && n % NR == 1 && n > 1);
    if (!no_bias) z += plain_get(&a->bias, j, 0, 0);
    z = plain_act(mutated(d, M_gemm_erf_as_tanh) && a->act == QW_GELU_ERF ? QW_GELU_TANH : a->act,
                  z);
    if (a->y.dtype == QW_I8) {
        q->y[i * n + j] = z;
        return;
    }
    if (qw_present(&a->gate))
        z *= plain_get(&a->gate, mutated(d, M_gemm_gate_of_tile) ? c : j, 0, 0);
    if (mutated(d, M_gemm_rounds_twice) && a->y.dtype == QW_BF16)
        z = qw_bf16_to_f32(qw_f32_to_bf16(z));
    const int in_place = a->res.data == a->y.data;
    if (!(mutated(d, M_gemm_residual_in_place) && in_place)) z += plain_get(&a->res, i, j, 0);
    plain_put(&a->y, i, j, 0, z);
}

static void tile(qw_device *d, const qw_gemm_args *a, const rooms *q, int64_t j0)
{
    const int64_t m = a->y.dim[0], n = a->y.dim[1], k = a->x.dim[1], r = rank_of(a);
    const int64_t odd = mutated(d, M_gemm_stale_scratch) ? q->step : k;
    const int dense = a->x.stride[0] == k || m == 1;
    const int64_t all = mutated(d, M_gemm_padded_rows) && dense && k > 1 ? k - 1 : odd;
    const int count = (int)(n - j0 < NR ? n - j0 : NR);
    for (int c = 0; c < count; c++) {
        weight_row(d, a, j0 + c, q->w + c * q->step);
        if (q->step > k) q->w[c * q->step + k] = mutated(d, M_gemm_stale_scratch) ? 1 : 0;
        if (r) plain_row(&a->w2, j0 + c, 0, 0, q->w2 + c * r);
    }
    for (int64_t i0 = 0; i0 < m; i0 += MC) {
        const int64_t rows = m - i0 < MC ? m - i0 : MC;
        memset(q->s, 0, (size_t)(rows * NR) * sizeof *q->s);
        for (int64_t l0 = 0; l0 < all; l0 += KC) {
            const int64_t l1 = all - l0 < KC ? all : l0 + KC;
            for (int64_t i = 0; i < rows; i++) {
                const int64_t from = mutated(d, M_gemm_tail_row) && m % 2 && i0 + i == m - 1
                                     && m > 1;
                const float *x = q->x + (i0 + i - from) * q->step;
                for (int c = 0; c < count; c++) {
                    float *s = q->s + i * NR + c;
                    const float before = mutated(d, M_gemm_late_inputs) ? 0 : *s;
                    *s = sum(d, x, q->w + c * q->step, l0, l1, before);
                }
            }
        }
        for (int64_t i = 0; i < rows; i++)
            for (int c = 0; c < count; c++) finish(d, a, q, i0 + i, j0 + c, c, q->s[i * NR + c]);
    }
}

int plain_gemm(qw_device *d, const qw_gemm_args *a)
{
    const int64_t m = a->y.dim[0], n = a->y.dim[1], k = a->x.dim[1], r = rank_of(a);
    const size_t each = plain_gemm_scratch(a);
    if (d->room_bytes < (size_t)plain_threads(d) * each) return QWEN_ENOMEM;
    rooms q = { .x = d->room, .step = k + k % 2 };
    q.x2 = q.x + m * q.step;
    q.y = q.x2 + m * r;
    for (int64_t i = 0; i < m; i++) {
        qw_tensor x = a->x;
        if (mutated(d, M_gemm_dense_rows)) x.stride[0] = k;
        plain_row(&x, i, 0, 0, q.x + i * q.step);
        if (q.step > k && !mutated(d, M_gemm_stale_scratch)) q.x[i * q.step + k] = 0;
        if (mutated(d, M_gemm_bf16_operands) && a->x.dtype == QW_F32)
            for (int64_t l = 0; l < k; l++)
                q.x[i * q.step + l] = qw_bf16_to_f32(qw_f32_to_bf16(q.x[i * q.step + l]));
        if (r) plain_row(&a->x2, i, 0, 0, q.x2 + i * r);
    }
    const int64_t shared = m * (q.step + r) + (a->y.dtype == QW_I8 ? m * n : 0);
#pragma omp parallel for num_threads(plain_threads(d)) schedule(static)
    for (int64_t j0 = 0; j0 < n; j0 += NR) {
        rooms own = q; /* behind what is shared, a stretch for each thread */
        own.w = (float *)d->room + shared
                + plain_thread() * (NR * (q.step + r) + (m < MC ? m : MC) * NR);
        own.w2 = own.w + NR * q.step;
        own.s = own.w2 + NR * r;
        tile(d, a, &own, j0);
    }
    for (int64_t i = 0; a->y.dtype == QW_I8 && i < m; i++) {
        const int64_t seen = mutated(d, M_gemm_codes_range) && n > 1 ? n - 1 : n;
        plain_codes(&a->y, i, q.y + i * n, seen, 127);
    }
    return QWEN_OK;
}
