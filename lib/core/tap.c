/* tap.c - tensors passed to r->tap, for tests and readers. */
#include "core/run_inside.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void tap_name(const qw_run *r, char *out, size_t size, const char *format, va_list ap)
{
    const int n = snprintf(out, size, "%s", r->names ? r->names : "");
    if (n >= 0 && (size_t)n < size) vsnprintf(out + n, size - (size_t)n, format, ap);
}

/* Hands x over as F64, or rounded to F32 in place. */
static void tap_array(qw_run *r, double *x, int rank, const int64_t *dim, const char *name)
{
    qwen_array a = { .data = x, .dtype = QWEN_F64, .rank = rank };
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= a.dim[i] = dim[i];
    if (r->dev->wide != QW_F64) {
        for (int64_t i = 0; i < n; i++) {
            const float f = (float)x[i];
            memcpy((char *)x + (size_t)i * sizeof f, &f, sizeof f);
        }
        a.dtype = QWEN_F32;
    }
    r->tap(r->user, name, &a);
}

static int tapping(const qw_run *r) { return !r->error.status && r->tap && !qw_is_plan(r->dev); }

static double *tap_room(qw_run *r, int64_t n, const char *name)
{
    double *x = malloc((size_t)(n > 0 ? n : 1) * sizeof *x);
    if (!x) qw_run_fail(r, QWEN_ENOMEM, "no memory to show %s", name);
    return x;
}

void qw_tap(qw_run *r, qw_tensor t, const char *format, ...)
{
    if (!tapping(r)) return;
    char name[200];
    va_list ap;
    va_start(ap, format);
    tap_name(r, name, sizeof name, format, ap);
    va_end(ap);
    double *x = tap_room(r, qw_elements(&t), name);
    if (!x) return;
    qw_get(r, t, x);
    if (!r->error.status) tap_array(r, x, t.rank, t.dim, name);
    free(x);
}

void qw_tap_chw(qw_run *r, qw_tensor t, const char *format, ...)
{
    if (!tapping(r)) return;
    char name[200];
    va_list ap;
    va_start(ap, format);
    tap_name(r, name, sizeof name, format, ap);
    va_end(ap);
    if (t.rank != 3) {
        qw_run_fail(r, QWEN_EARG, "%s is no picture", name);
        return;
    }
    const int64_t h = t.dim[0], w = t.dim[1], c = t.dim[2];
    double *x = tap_room(r, 2 * h * w * c, name);
    if (!x) return;
    double *z = x + h * w * c;
    qw_get(r, t, x);
    for (int64_t i = 0; i < h * w; i++)
        for (int64_t k = 0; k < c; k++) z[k * h * w + i] = x[i * c + k];
    if (!r->error.status) tap_array(r, z, 3, (int64_t[]){ c, h, w }, name);
    free(x);
}

void qw_tap_doubles(qw_run *r, const double *x, int rank, const int64_t *dim, const char *format,
                    ...)
{
    if (!tapping(r)) return;
    char name[200];
    va_list ap;
    va_start(ap, format);
    tap_name(r, name, sizeof name, format, ap);
    va_end(ap);
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dim[i];
    double *copy = tap_room(r, n, name);
    if (!copy) return;
    memcpy(copy, x, (size_t)n * sizeof *x);
    tap_array(r, copy, rank, dim, name);
    free(copy);
}

void qw_tap_ints(qw_run *r, const int32_t *x, int rank, const int64_t *dim, const char *format, ...)
{
    if (!tapping(r)) return;
    char name[200];
    va_list ap;
    va_start(ap, format);
    tap_name(r, name, sizeof name, format, ap);
    va_end(ap);
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dim[i];
    int32_t *copy = malloc((size_t)(n > 0 ? n : 1) * sizeof *copy);
    if (!copy) {
        qw_run_fail(r, QWEN_ENOMEM, "no memory to show %s", name);
        return;
    }
    memcpy(copy, x, (size_t)n * sizeof *x);
    qwen_array a = { .data = copy, .dtype = QWEN_I32, .rank = rank };
    for (int i = 0; i < rank; i++) a.dim[i] = dim[i];
    r->tap(r->user, name, &a);
    free(copy);
}
