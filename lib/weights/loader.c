/* loader.c - loads the weights of a net by canonical name and checks their shapes. */
#include "weights/residency.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { NAME = 256 };

static const qw_entry *take(qw_loader *l, const char *name, const char *leaf)
{
    char key[NAME + 32];
    snprintf(key, sizeof key, "%s%s", name, leaf);
    qw_entry *e = (qw_entry *)(uintptr_t)qw_store_find(l->store, key);
    if (e) e->used = 1;
    return e;
}

static void missing(qw_loader *l, const char *name, const char *leaf)
{
    snprintf(l->missing, sizeof l->missing, "%s%s", name, leaf);
    qw_fail(l->err, QWEN_EMODEL, "%s: tensor \"%s%s\" is missing", qw_store_path(l->store, 0), name,
            leaf);
}

/* With `each`: reports a failure of a tensor, keeps the first, clears err.  Failures of memory and
 * devices stay. */
static void go_on(qw_loader *l)
{
    const int status = l->err->status;
    if (l->each
        && (status == QWEN_EMODEL || status == QWEN_EFORMAT || status == QWEN_EUNSUPPORTED)) {
        l->each(l->user, l->missing[0] ? l->missing : NULL, l->err->text);
        if (!l->failures++) l->first = *l->err;
        memset(l->err, 0, sizeof *l->err);
    }
    l->missing[0] = 0;
}

int qw_loader_end(qw_loader *l)
{
    if (l->failures && !l->err->status) *l->err = l->first;
    return l->err->status;
}

static int64_t elements(const qw_entry *e)
{
    int64_t n = 1;
    for (int i = 0; i < e->rank; i++) n *= e->dim[i];
    return n;
}

static void wrong_shape(qw_loader *l, const qw_entry *e, const char *expected)
{
    char found[200], shown[300];
    qw_shape_text(e, found, sizeof found);
    qw_fail(l->err, QWEN_EMODEL, "%s: tensor \"%s\" is %s, expected %s",
            qw_store_path(l->store, e->file), qw_visible(shown, sizeof shown, e->key), found,
            expected);
}

/* On the plan device no values are read from the file. */
static int planned(const qw_loader *l) { return qw_is_plan(qw_residency_device(l->res)); }

static int number(qw_loader *l, const qw_entry *e)
{
    switch (e->dtype) {
    case QW_I64:
    case QW_I16:
    case QW_U8:
    case QW_U16:
    case QW_U32:
    case QW_U64:
    case QW_BOOL:
    case QW_F4:
    case QW_F8E8M0:
        qw_fail(l->err, QWEN_EUNSUPPORTED, "%s: tensor \"%s\" is %s, expected numbers of a weight",
                qw_store_path(l->store, e->file), e->key, qw_dtype_name(e->dtype));
        return 0;
    default: return 1;
    }
}

/* All values of an entry in order, blocks included; malloc'ed. */
static double *decoded(qw_loader *l, const qw_entry *e)
{
    const int64_t n = elements(e);
    double *x = malloc((size_t)(n ? n : 1) * sizeof *x);
    if (!x) qw_fail(l->err, QWEN_ENOMEM, "no memory for tensor \"%s\"", e->key);
    else if (n % qw_block_elements(e->dtype) == 0) qw_numbers_get(e->dtype, e->data, n, x);
    return x;
}

/* Numbers to a device tensor of a given type, kept for good. */
static void keep(qw_loader *l, qw_tensor *t, const double *x, int64_t n, qw_dtype type)
{
    const size_t bytes = qw_row_bytes(type, n);
    void *staged = x ? malloc(bytes ? bytes : 1) : NULL;
    t->dtype = type;
    if (!x) { /* plan: an address without values */
        t->data = qw_residency_keep(l->res, NULL, bytes, l->err);
        return;
    }
    if (!staged) {
        qw_fail(l->err, QWEN_ENOMEM, "no memory for %zu bytes of weights", bytes);
        return;
    }
    qw_numbers_put(type, x, n, staged);
    t->data = qw_residency_keep(l->res, staged, bytes, l->err);
    free(staged);
}

static void load_vector(qw_loader *l, qw_tensor *t, int64_t n, const char *name)
{
    char expected[64];
    *t = qw_dense1(NULL, QW_NONE, n);
    if (l->err->status) return;
    const qw_entry *e = take(l, name, "");
    if (!e) {
        missing(l, name, "");
        return;
    }
    snprintf(expected, sizeof expected, "%lld values", (long long)n);
    if (elements(e) != n) {
        wrong_shape(l, e, expected);
        return;
    }
    if (!number(l, e)) return;
    double *x = planned(l) ? NULL : decoded(l, e);
    if (x || planned(l)) keep(l, t, x, n, qw_residency_device(l->res)->wide);
    free(x);
}

void qw_load_vector(qw_loader *l, qw_tensor *t, int64_t n, const char *format, ...)
{
    char name[NAME];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    load_vector(l, t, n, name);
    go_on(l);
}

static void add_part(qw_loader *l, qw_weight *w, int64_t n, int64_t k, int bias, const char *name)
{
    if (l->err->status) return;
    if (w->parts == QW_PARTS) {
        qw_fail(l->err, QWEN_EARG, "\"%s\" has more than %d parts", name, QW_PARTS);
        return;
    }
    qw_weight_part *p = &w->part[w->parts];
    *p = (qw_weight_part){ .name = strdup(name) };
    if (!p->name) {
        qw_fail(l->err, QWEN_ENOMEM, "no memory for \"%s\"", name);
        return;
    }
    w->parts++;
    w->n += n;
    w->k = k;
    const qw_entry *e = take(l, name, ".weight");
    if (!e) missing(l, name, ".weight");
    else qw_layout(l->store, e, name, n, k, &p->w, l->err);
    const int before = l->failures;
    go_on(l);
    if (bias) qw_load_vector(l, &p->bias, n, "%s.bias", name);
    if (!l->err->status && l->failures == before)
        qw_residency_part(l->res, l->group, l->store, w, l->err);
    go_on(l);
}

void qw_load_part(qw_loader *l, qw_weight *w, int64_t n, int64_t k, int bias, const char *format,
                  ...)
{
    char name[NAME], part[NAME];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    if (l->err->status) return;
    const int parts = qw_store_parts(l->store, name);
    for (int i = 0; i < parts; i++) {
        qw_part_name(name, parts, i, part, sizeof part);
        add_part(l, w, n / parts, k, bias, part);
    }
}

/* Weights of a convolution in the order [co][kh][kw][ci], of the device's preferred type. */
static void place_conv(qw_loader *l, qw_conv *c, const double *y)
{
    qw_device *dev = qw_residency_device(l->res);
    c->w.dtype = dev->prefer;
    const int64_t n = qw_elements(&c->w);
    void *staged = y ? malloc(qw_row_bytes(dev->prefer, n)) : NULL;
    if (y && !staged) {
        qw_fail(l->err, QWEN_ENOMEM, "no memory for a convolution");
        return;
    }
    if (y) qw_numbers_put(dev->prefer, y, n, staged);
    qw_residency_conv(l->res, &c->w, staged, l->err);
    free(staged);
}

static void load_conv(qw_loader *l, qw_conv *c, int64_t co, int64_t ci, int64_t kernel, int matrix,
                      const char *name)
{
    char expected[96];
    *c = (qw_conv){ .co = co, .ci = ci, .kernel = kernel };
    if (l->err->status) return;
    const qw_entry *e = take(l, name, ".weight");
    if (!e) {
        missing(l, name, ".weight");
        return;
    }
    /* With a single frame only the last temporal tap of a 5-D kernel is multiplied with the
     * picture. */
    const int64_t plane = kernel * kernel, taps = e->rank == 5 ? e->dim[2] : 1;
    const int flat = kernel == 1 && e->rank == 2;
    snprintf(expected, sizeof expected, "[%lld, %lld, (1 or 3,) %lld, %lld]", (long long)co,
             (long long)ci, (long long)kernel, (long long)kernel);
    if ((!flat && e->rank != 4 && e->rank != 5) || e->dim[0] != co || e->dim[1] != ci || taps < 1
        || taps > 3
        || (!flat && (e->dim[e->rank - 1] != kernel || e->dim[e->rank - 2] != kernel))) {
        wrong_shape(l, e, expected);
        return;
    }
    if (!number(l, e)) return;
    double *x = planned(l) ? NULL : decoded(l, e),
           *y = x ? malloc((size_t)(co * ci * plane) * sizeof *y) : NULL;
    if (x && !y) qw_fail(l->err, QWEN_ENOMEM, "no memory for \"%s\"", name);
    for (int64_t o = 0; y && o < co; o++)
        for (int64_t i = 0; i < ci; i++)
            for (int64_t p = 0; p < plane; p++)
                y[(o * plane + p) * ci + i] = x[((o * ci + i) * taps + taps - 1) * plane + p];
    if (y || planned(l)) {
        c->w = matrix ? qw_dense2(NULL, QW_NONE, co, ci)
                      : qw_dense4(NULL, QW_NONE, co, kernel, kernel, ci);
        place_conv(l, c, y);
    }
    free(x);
    free(y);
}

void qw_load_conv(qw_loader *l, qw_conv *c, int64_t co, int64_t ci, int64_t kernel,
                  const char *format, ...)
{
    char name[NAME];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    load_conv(l, c, co, ci, kernel, 0, name);
    go_on(l);
    qw_load_vector(l, &c->bias, co, "%s.bias", name);
}

void qw_load_pointwise(qw_loader *l, qw_conv *c, int64_t co, int64_t ci, const char *format, ...)
{
    char name[NAME];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    load_conv(l, c, co, ci, 1, 1, name);
    go_on(l);
    qw_load_vector(l, &c->bias, co, "%s.bias", name);
}

void qw_load_table(qw_loader *l, qw_tensor *t, int64_t n, int64_t k, const char *format, ...)
{
    char name[NAME];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    *t = (qw_tensor){ 0 };
    if (l->err->status) return;
    const qw_entry *e = take(l, name, "");
    if (!e) missing(l, name, "");
    const size_t length = strlen(name);
    if (length > 7 && !strcmp(name + length - 7, ".weight")) name[length - 7] = 0;
    if (e) qw_layout(l->store, e, name, n, k, t, l->err);
    go_on(l);
}

void qw_weight_free(qw_weight *w)
{
    for (int i = 0; i < w->parts; i++) free(w->part[i].name);
    *w = (qw_weight){ 0 };
}
