/* values.c - golden values: JSON tables, tensors as doubles, and how far a result is off. */
#include "values.h"
#include "testing.h"
#include <math.h>
#include <string.h>

void *room(size_t bytes)
{
    void *p = calloc(bytes ? bytes : 1, 1);
    ck_assert_ptr_nonnull(p);
    return p;
}

json_t *read_json(const char *rel)
{
    json_error_t e;
    json_t *const j = json_load_file(testdata(rel), 0, &e);
    ck_assert_msg(j != NULL, "%s: %s", rel, e.text);
    return j;
}

double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

const char *string(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

qw_store *open_data(const char *rel)
{
    qw_error err = { 0 };
    qw_store *s = NULL;
    ck_assert_msg(!qw_store_new(&s, &err) && !qw_store_add(s, testdata(rel), &err), "%s", err.text);
    return s;
}

const qw_entry *entry(const qw_store *s, const char *name)
{
    const qw_entry *const e = qw_store_find(s, name);
    ck_assert_msg(e != NULL, "there is no tensor %s", name);
    return e;
}

int64_t elements(const qw_entry *e)
{
    int64_t n = 1;
    for (int i = 0; i < e->rank; i++) n *= e->dim[i];
    return n;
}

double value(const qw_entry *e, int64_t i)
{
    double d;
    float f;
    if (e->dtype == QW_F64) {
        memcpy(&d, (const char *)e->data + 8 * i, 8);
        return d;
    }
    qw_decode_f32(e->dtype, (const char *)e->data + (size_t)i * qw_row_bytes(e->dtype, 1), 1, &f);
    return (double)f;
}

double *values(const qw_store *s, const char *name, int64_t *n)
{
    const qw_entry *const e = entry(s, name);
    const int64_t count = elements(e);
    double *const x = room((size_t)count * sizeof *x);
    for (int64_t i = 0; i < count; i++) x[i] = value(e, i);
    if (n) *n = count;
    return x;
}

double largest(const double *x, int64_t n)
{
    double m = 0;
    for (int64_t i = 0; i < n; i++) m = fmax(m, fabs(x[i]));
    return m;
}

double difference(const double *a, const double *b, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        const double off = fabs(a[i] - b[i]);
        if (!(off <= most)) most = off;
    }
    return most;
}

void close_to(const char *what, const double *got, const double *want, int64_t n, double tolerance)
{
    const double most = largest(want, n), limit = tolerance * most;
    ck_assert_msg(most > 0, "%s: the golden values are all zero", what);
    for (int64_t i = 0; i < n; i++)
        ck_assert_msg(fabs(got[i] - want[i]) <= limit,
                      "%s[%lld] is %.17g, expected %.17g (limit %g)", what, (long long)i, got[i],
                      want[i], limit);
}
