/* example.c - a device outside the library: the reference with one operation of its own, gemm.
 *
 *     cc -O3 -fopenmp -fPIC -shared example.c -o example.so \
 *         `pkg-config --cflags --libs libqwen-backend`
 *     QWEN_MODULES=. qwen-image devices
 *
 * gemm sums in float, in tiles that stay in the cache; calls for which it has no code it declines,
 * and the reference computes them.  doc/backends.md explains each step. */
#include <math.h>
#include <qwen/ref.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_max_threads() 1
#endif

/* A tile of y has ROWS x COLS elements and is summed over DEPTH inputs at a time, four by four.
 * poll is called after SIDE x SIDE elements. */
enum { ROWS = 64, COLS = 32, DEPTH = 128, FOUR = 4, SIDE = 256 };

static int is_float(const qw_tensor *t)
{
    return !qw_present(t) || t->dtype == QW_F32 || t->dtype == QW_BF16 || t->dtype == QW_F16;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* sum [rows][COLS] += x [rows][depth] w [depth][COLS]; two rows at a time, so that w is read half
 * as often. */
static void multiply(int64_t rows, int64_t depth, float x[ROWS][DEPTH + FOUR],
                     float w[restrict DEPTH + FOUR][COLS], float sum[ROWS][COLS])
{
    for (int64_t l = 0; l < depth; l += FOUR)
        for (int64_t i = 0; i < rows; i += 2) {
            const float *p = &x[i][l], *q = &x[i + 1][l];
            const float p0 = p[0], p1 = p[1], p2 = p[2], p3 = p[3];
            const float q0 = q[0], q1 = q[1], q2 = q[2], q3 = q[3];
            float *restrict s = sum[i], *restrict t = sum[i + 1];
            for (int j = 0; j < COLS; j++) {
                const float v0 = w[l][j], v1 = w[l + 1][j], v2 = w[l + 2][j], v3 = w[l + 3][j];
                s[j] += (p0 * v0 + p1 * v1) + (p2 * v2 + p3 * v3);
                t[j] += (q0 * v0 + q1 * v1) + (q2 * v2 + q3 * v3);
            }
        }
}

static double activate(qw_act act, double z)
{
    switch (act) {
    case QW_SILU: return z / (1 + exp(-z));
    case QW_GELU_TANH: return z / (1 + exp(-1.5957691216057308 * (z + 0.044715 * z * z * z)));
    case QW_GELU_ERF: return z / 2 * erfc(-0.70710678118654752 * z);
    default: return z;
    }
}

/* Element (i, j) of a matrix or j of a vector, of floats. */
static double number(const qw_tensor *t, int64_t i, int64_t j)
{
    double x;
    qw_numbers_get(t->dtype, t->rank == 1 ? qw_at(t, j, 0, 0, 0) : qw_at(t, i, j, 0, 0), 1, &x);
    return x;
}

/* Rows first to first + rows of the columns from `column`, once they are summed. */
static void finish(const qw_gemm_args *a, int64_t first, int64_t rows, int64_t column, int64_t cols,
                   float sum[ROWS][COLS])
{
    for (int64_t i = 0; i < rows; i++) {
        double y[COLS];
        for (int64_t j = 0; j < cols; j++) {
            const double bias = qw_present(&a->bias) ? number(&a->bias, 0, column + j) : 0;
            const double gate = qw_present(&a->gate) ? number(&a->gate, 0, column + j) : 1;
            const double res = qw_present(&a->res) ? number(&a->res, first + i, column + j) : 0;
            y[j] = res + gate * activate(a->act, (double)sum[i][j] + bias);
        }
        qw_numbers_put(a->y.dtype, y, cols, qw_at(&a->y, first + i, column, 0, 0));
    }
}

/* Elements past the last row, column or input of a tile are zero. */
static void tile(const qw_gemm_args *a, int64_t first, int64_t column)
{
    float x[ROWS][DEPTH + FOUR] = { { 0 } }, w[DEPTH + FOUR][COLS] = { { 0 } };
    float sum[ROWS][COLS] = { { 0 } }, row[DEPTH];
    const int64_t k = a->x.dim[1], rows = least(ROWS, a->y.dim[0] - first),
                  cols = least(COLS, a->y.dim[1] - column);
    for (int64_t at = 0; at < k; at += DEPTH) {
        const int64_t depth = least(DEPTH, k - at);
        for (int64_t i = 0; i < rows; i++) {
            qw_decode_f32(a->x.dtype, qw_at(&a->x, first + i, at, 0, 0), depth, x[i]);
            memset(x[i] + depth, 0, FOUR * sizeof x[i][0]);
        }
        for (int64_t j = 0; j < cols; j++) {
            qw_decode_f32(a->w.dtype, qw_at(&a->w, column + j, at, 0, 0), depth, row);
            for (int64_t l = 0; l < depth; l++) w[l][j] = row[l];
        }
        memset(w[depth], 0, FOUR * sizeof w[0]);
        multiply(rows, depth, x, w, sum);
    }
    finish(a, first, rows, column, cols, sum);
}

static int example_gemm(qw_device *dev, const qw_gemm_args *a)
{
    const int mine = (a->w.dtype == QW_BF16 || a->w.dtype == QW_F32) && !a->w.layout
                     && is_float(&a->x) && is_float(&a->y) && is_float(&a->res)
                     && !qw_present(&a->x2) && a->act <= QW_GELU_ERF;
    if (!mine) return QW_DECLINE; /* before anything is written */
    const int64_t m = a->y.dim[0], n = a->y.dim[1];
    const int threads = dev->threads > 0 ? dev->threads : omp_get_max_threads();
    (void)threads;
    for (int64_t i = 0; i < m; i += SIDE)
        for (int64_t j = 0; j < n; j += SIDE) {
            if (dev->poll && dev->poll(dev->poll_user)) return QWEN_ECANCELLED;
#pragma omp parallel for collapse(2) num_threads(threads)
            for (int64_t r = i; r < least(i + SIDE, m); r += ROWS)
                for (int64_t c = j; c < least(j + SIDE, n); c += COLS) tile(a, r, c);
        }
    return QWEN_OK;
}

static int example_list(int i, qw_listing *out)
{
    if (i) return QW_DECLINE; /* one device */
    snprintf(out->name, sizeof out->name, "example");
    snprintf(out->what, sizeof out->what, "the reference with a gemm of floats");
    return QWEN_OK; /* score 0: never the default */
}

static int example_open(int i, const qw_open_options *options, qw_device **out)
{
    (void)i, (void)options;
    qw_device *dev = *out = malloc(sizeof *dev);
    if (!dev) return QWEN_ENOMEM;
    ref_init(dev, "example", QW_F32, QW_F32);
    dev->op.gemm = example_gemm;
    dev->op.gemm_arith = (qw_arith){ .acc = 0x1p-24f, .fun = 0x1p-22f };
    return QWEN_OK;
}

const qw_backend qw_backend_module_v2 = { sizeof qw_backend_module_v2, QW_BACKEND_ABI, "example",
                                          example_list, example_open };
