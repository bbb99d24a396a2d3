/* finite.c - a result that is not finite is an error that names op, element and place. */
#include "core/run_inside.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

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

/* Row by row through host memory; index of the first non-finite element in row-major order, or -1.
 */
static int64_t not_finite(const qw_tensor *t, double *most, double *value)
{
    if (t->dtype == QW_I8) { /* codes are finite; their scales might not be */
        for (int64_t i = 0; i < t->dim[0]; i++) {
            const double scale = t->scale ? (double)t->scale[t->scale_stride * i] : 1;
            *value = scale;
            if (!isfinite(scale)) return i * t->dim[1];
            if (127 * fabs(scale) > *most) *most = 127 * fabs(scale);
        }
        return -1;
    }
    const qw_runs s = qw_runs_of(t);
    for (int64_t i = 0; i < s.count; i++) {
        const unsigned char *p = qw_run_at(t, &s, i);
        const int64_t j = scan(t->dtype, p, s.n, most);
        if (j == s.n) continue;
        qw_numbers_get(t->dtype, p + qw_row_bytes(t->dtype, j), 1, value);
        return i * s.n + j;
    }
    return -1;
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
        const int64_t at = t ? not_finite(t, &most, &value) : -1;
        if (at < 0) continue;
        char line[LINE], place[160], index[120];
        info->line(args, line, sizeof line);
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
    const int64_t n = qw_elements(&t);
    double *x = malloc((size_t)(n > 0 ? n : 1) * sizeof *x);
    if (!x) {
        qw_run_fail(r, QWEN_ENOMEM, "no memory to look at %s", what);
        return;
    }
    qw_get(r, t, x);
    double most = r->magnitude;
    const int64_t at = r->error.status ? n : scan(QW_F64, x, n, &most);
    if (at < n) {
        char place[160], index[120];
        qw_run_fail(r, QWEN_ENUMERIC, "%s%s%s is %g; the largest magnitude before it was %.4g",
                    qw_run_where(r, place, sizeof place), what,
                    index_text(&t, at, index, sizeof index), x[at], r->magnitude);
    } else r->magnitude = most;
    free(x);
}
