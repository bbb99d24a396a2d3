/* finite.c - results with elements that are not finite fail the run, with op, element and place. */
#include "core/run_inside.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LINE = 400 };

/* Scans n elements; returns the index of the first that is not finite, or n; *most grows. */
static int64_t scan(qw_dtype type, const void *data, int64_t n, double *most)
{
    double part[256];
    for (int64_t i = 0; i < n; i += 256) {
        const int64_t k = n - i < 256 ? n - i : 256;
        qw_numbers_get(type, (const unsigned char *)data + qw_row_bytes(type, i), k, part);
        for (int64_t j = 0; j < k; j++) {
            const double a = fabs(part[j]);
            if (!(a <= 1.7976931348623157e308)) return i + j;
            if (a > *most) *most = a;
        }
    }
    return n;
}

enum { PIECE = 1 << 16 }; /* bytes that are fetched and checked at a time */

/* `bytes` of device memory as host memory: where they lie, or a copy in room [PIECE]; NULL: the run
 * has failed. */
static const void *seen(qw_run *r, const void *at, size_t bytes, void *room)
{
    if (r->dev->host) return at;
    const int status = r->dev->get(r->dev, QW_COMPUTE, room, at, bytes);
    if (!status) return room;
    qw_run_device_failed(r, status, "giving data back");
    return NULL;
}

/* Index of the first number in row-major order that is not finite, or -1. */
static int64_t number_not_finite(qw_run *r, const qw_tensor *t, double *most, double *value)
{
    unsigned char room[PIECE];
    const qw_runs s = qw_runs_of(t);
    const int64_t piece = PIECE / (int64_t)qw_block_bytes(t->dtype);
    for (int64_t i = 0; i < s.count; i++)
        for (int64_t k = 0; k < s.n; k += piece) {
            const int64_t n = s.n - k < piece ? s.n - k : piece;
            const unsigned char *p = seen(r, qw_run_at(t, &s, i) + qw_row_bytes(t->dtype, k),
                                          qw_row_bytes(t->dtype, n), room);
            const int64_t j = p ? scan(t->dtype, p, n, most) : n;
            if (!p) return -1;
            if (j == n) continue;
            qw_numbers_get(t->dtype, p + qw_row_bytes(t->dtype, j), 1, value);
            return i * s.n + k + j;
        }
    return -1;
}

/* Index of the first element that is not finite, or -1.  Codes are always finite, so that their
 * scales are checked. */
static int64_t not_finite(qw_run *r, const qw_tensor *t, double *most, double *value)
{
    if (t->dtype != QW_I8) return number_not_finite(r, t, most, value);
    if (!t->scale) return -1;
    const int64_t rows = t->scale_stride ? t->dim[0] : 1;
    const qw_tensor scale = qw_dense1((void *)(uintptr_t)t->scale, QW_F32, rows);
    double largest = 0;
    const int64_t row = number_not_finite(r, &scale, &largest, value);
    *most = fmax(*most, 127 * largest);
    return row < 0 ? row : row * t->dim[1];
}

/* "[5][17]" */
static const char *index_text(const qw_tensor *t, int64_t e, char *out, size_t size)
{
    int64_t at[QW_RANK] = { 0 };
    for (int d = t->rank - 1; d >= 0; d--) {
        at[d] = t->dim[d] ? e % t->dim[d] : 0;
        e = t->dim[d] ? e / t->dim[d] : 0;
    }
    size_t n = 0;
    out[0] = 0;
    for (int d = 0; d < t->rank && n + 24 < size; d++)
        n += (size_t)snprintf(out + n, size - n, "[%" PRId64 "]", at[d]);
    return out;
}

void qw_check_result(qw_run *r, const qw_op_info *info, void *args)
{
    double most = r->magnitude;
    for (const qw_operand *o = info->operand; o->name; o++) {
        const qw_tensor *t = o->role & QW_OUT ? qw_operand_of(o, args) : NULL;
        double value = 0;
        const int64_t at = t ? not_finite(r, t, &most, &value) : -1;
        if (r->error.status) return;
        if (at < 0) continue;
        char line[LINE], place[160], index[120];
        qw_op_line((enum qw_op)(info - qw_op_table), args, line, sizeof line);
        qw_run_fail(r, QWEN_ENUMERIC,
                    "%s%s gave %s%s = %g (%s); the largest magnitude before it was %.4g",
                    qw_run_where(r, place, sizeof place), info->name, o->name,
                    index_text(t, at, index, sizeof index), value, line, r->magnitude);
        return;
    }
    r->magnitude = most;
}

void qw_require_finite(qw_run *r, qw_tensor t, const char *what)
{
    if (r->error.status || qw_is_plan(r->dev)) return;
    double most = r->magnitude, value = 0;
    const int64_t at = not_finite(r, &t, &most, &value);
    if (r->error.status) return;
    if (at < 0) {
        r->magnitude = most;
        return;
    }
    char place[160], index[120];
    qw_run_fail(r, QWEN_ENUMERIC, "%s%s%s is %g; the largest magnitude before it was %.4g",
                qw_run_where(r, place, sizeof place), what, index_text(&t, at, index, sizeof index),
                value, r->magnitude);
}
