/* run.c - the op wrappers (check, count, trace, dispatch, fall back) and the scratch stack.
 *
 * A wrapper returns nothing: the first failure stays in the run and what follows does nothing, so
 * that network code reads like mathematics.  A device answers QW_DECLINE before it writes anything;
 * then the reference computes, on the device's own memory when that is host memory, else on host
 * copies of the operands that the op table names. */
#include "core/run.h"
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 256, LINE = 400 };

void qw_run_init(qw_run *r, qw_device *dev, qw_device *ref)
{
    memset(r, 0, sizeof *r);
    r->dev = dev;
    r->ref = ref;
    r->step = r->block = -1;
    if (qw_is_plan(dev)) qw_run_reserve(r, 0);
}

void qw_run_free(qw_run *r)
{
    if (r->base && r->dev) {
        r->dev->sync(r->dev);
        r->dev->free(r->dev, r->base);
    }
    r->base = NULL;
    r->size = r->used = 0;
}

void qw_run_fail(qw_run *r, int status, const char *format, ...)
{
    if (r->error.status) return;
    char text[sizeof r->error.text];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    qw_fail(&r->error, status, "%s", text);
}

/* "denoise, step 3, block 12: " or as much of it as is known. */
static const char *where(const qw_run *r, char *out, size_t size)
{
    char step[32] = "", block[32] = "";
    if (r->step >= 0) snprintf(step, sizeof step, "%sstep %d", r->stage ? ", " : "", r->step);
    if (r->block >= 0)
        snprintf(block, sizeof block, "%sblock %d", r->stage || r->step >= 0 ? ", " : "", r->block);
    snprintf(out, size, "%.60s%s%s%s", r->stage ? r->stage : "", step, block,
             r->stage || step[0] || block[0] ? ": " : "");
    return out;
}

/* --- scratch ------------------------------------------------------------------------------- */

int qw_run_reserve(qw_run *r, size_t bytes)
{
    if (r->error.status) return r->error.status;
    if (r->base && bytes <= r->size) return QWEN_OK;
    if (r->used) {
        qw_run_fail(r, QWEN_ENOMEM, "scratch of %zu bytes cannot grow to %zu while it is in use",
                    r->size, bytes);
        return r->error.status;
    }
    const int plan = qw_is_plan(r->dev);
    qw_run_free(r);
    void *base = NULL;
    const int status = r->dev->alloc(r->dev, plan ? SIZE_MAX / 2 : bytes ? bytes : ALIGN, &base);
    if (status || !base) {
        qw_run_fail(r, status ? status : QWEN_ENOMEM,
                    "device %s has no room for %zu bytes of scratch", r->dev->name, bytes);
        return r->error.status;
    }
    r->base = base;
    r->size = plan ? SIZE_MAX / 2 : bytes ? bytes : ALIGN;
    return QWEN_OK;
}

/* bytes of the scratch block, aligned.  When there are not so many the run fails, and the address
 * is one that views may be computed from but nothing will touch. */
static void *take(qw_run *r, size_t bytes)
{
    void *const nothing = r->base ? (void *)r->base : (void *)&r->base;
    if (r->error.status) return nothing;
    if (bytes > r->size - r->used || r->used > r->size) {
        qw_run_fail(
            r, QWEN_ENOMEM,
            "%zu more bytes of scratch do not fit: %zu of %zu are used, the peak so far is %zu",
            bytes, r->used, r->size, r->peak);
        return nothing;
    }
    void *p = r->base + r->used;
    const size_t left = r->size - r->used, padded = bytes + (ALIGN - bytes % ALIGN) % ALIGN;
    r->used += padded < left ? padded : left;
    if (r->used > r->peak) r->peak = r->used;
    return p;
}

/* Sizes of a scratch tensor that can be: not negative, and their bytes fit an address. */
static int sizes_fit(qw_run *r, qw_dtype t, int rank, const int64_t *dim)
{
    double bytes = (double)qw_block_bytes(t) / (double)qw_block_elements(t);
    for (int i = 0; i < rank; i++) {
        bytes *= (double)dim[i];
        if (dim[i] >= 0) continue;
        qw_run_fail(r, QWEN_EARG, "a scratch tensor with dimension %d of %lld", i,
                    (long long)dim[i]);
        return 0;
    }
    if (bytes < 1e18) return 1;
    qw_run_fail(r, QWEN_ENOMEM, "a scratch tensor of %g bytes", bytes);
    return 0;
}

/* Gives a tensor its memory; quantised rows (I8) get a scale each. */
static qw_tensor placed(qw_run *r, qw_tensor t)
{
    t.data = take(r, qw_row_bytes(t.dtype, qw_elements(&t)));
    if (t.dtype == QW_I8) {
        t.scale = take(r, (size_t)t.dim[0] * sizeof(float));
        t.scale_stride = 1;
    }
    return t;
}

/* Sizes that cannot be become 0; after any other failure a tensor keeps its shape. */
qw_tensor qw_new1(qw_run *r, qw_dtype t, int64_t a)
{
    if (!sizes_fit(r, t, 1, (int64_t[]){ a })) return placed(r, qw_dense1(NULL, t, 0));
    return placed(r, qw_dense1(NULL, t, a));
}

qw_tensor qw_new2(qw_run *r, qw_dtype t, int64_t a, int64_t b)
{
    if (!sizes_fit(r, t, 2, (int64_t[]){ a, b })) return placed(r, qw_dense2(NULL, t, 0, 0));
    return placed(r, qw_dense2(NULL, t, a, b));
}

qw_tensor qw_new3(qw_run *r, qw_dtype t, int64_t a, int64_t b, int64_t c)
{
    if (!sizes_fit(r, t, 3, (int64_t[]){ a, b, c })) return placed(r, qw_dense3(NULL, t, 0, 0, 0));
    return placed(r, qw_dense3(NULL, t, a, b, c));
}

/* --- runs of contiguous elements ----------------------------------------------------------- */

/* A tensor as `count` runs of `n` contiguous elements: dense tensors are one run. */
typedef struct runs {
    int64_t count, n;
    int outer;
} runs;

static runs runs_of(const qw_tensor *t)
{
    runs s = { 1, t->rank > 0 ? t->dim[t->rank - 1] : 1, t->rank - 1 };
    while (s.outer > 0 && t->stride[s.outer - 1] == s.n) s.n *= t->dim[--s.outer];
    for (int i = 0; i < s.outer; i++) s.count *= t->dim[i];
    return s;
}

/* Address of run i. */
static unsigned char *run_at(const qw_tensor *t, const runs *s, int64_t i)
{
    int64_t e = 0;
    for (int d = s->outer - 1; d >= 0; d--) {
        e += i % t->dim[d] * t->stride[d];
        i /= t->dim[d];
    }
    return (unsigned char *)t->data + qw_row_bytes(t->dtype, e);
}

static void encode(qw_dtype type, const double *x, int64_t n, void *out)
{
    for (int64_t i = 0; i < n; i++) switch (type) {
        case QW_F64: ((double *)out)[i] = x[i]; break;
        case QW_F16: ((uint16_t *)out)[i] = qw_f32_to_f16((float)x[i]); break;
        case QW_BF16: ((uint16_t *)out)[i] = qw_f32_to_bf16((float)x[i]); break;
        case QW_I32: ((int32_t *)out)[i] = (int32_t)x[i]; break;
        default: ((float *)out)[i] = (float)x[i]; break;
        }
}

static void decode(qw_dtype type, const void *in, int64_t n, double *x)
{
    float part[256];
    if (type == QW_F64) memcpy(x, in, (size_t)n * sizeof *x);
    else if (type == QW_I32)
        for (int64_t i = 0; i < n; i++) x[i] = ((const int32_t *)in)[i];
    else
        for (int64_t i = 0; i < n; i += 256) {
            const int64_t k = n - i < 256 ? n - i : 256;
            qw_decode_f32(type, (const unsigned char *)in + qw_row_bytes(type, i), k, part);
            for (int64_t j = 0; j < k; j++) x[i + j] = part[j];
        }
}

static int number_type(qw_dtype t)
{
    return t == QW_F64 || t == QW_F32 || t == QW_F16 || t == QW_BF16 || t == QW_I32;
}

void qw_put(qw_run *r, qw_tensor dst, const double *src)
{
    if (r->error.status || qw_is_plan(r->dev)) return;
    if (!number_type(dst.dtype)) {
        qw_run_fail(r, QWEN_EARG, "numbers cannot be put into a tensor of type %s",
                    qw_dtype_name(dst.dtype));
        return;
    }
    const runs s = runs_of(&dst);
    const size_t bytes = qw_row_bytes(dst.dtype, s.n);
    void *row = malloc(bytes ? bytes : 1);
    if (!row) {
        qw_run_fail(r, QWEN_ENOMEM, "no memory for a row of %zu bytes", bytes);
        return;
    }
    int status = QWEN_OK;
    for (int64_t i = 0; i < s.count && !status && s.n; i++) {
        encode(dst.dtype, src + i * s.n, s.n, row);
        status = r->dev->put(r->dev, QW_COMPUTE, run_at(&dst, &s, i), row, bytes);
        /* The next row is written over this one, which the queue may not have read yet. */
        if (!status && !r->dev->host) status = r->dev->sync(r->dev);
    }
    free(row);
    if (status) qw_run_fail(r, status, "device %s failed while taking data", r->dev->name);
}

void qw_get(qw_run *r, qw_tensor src, double *dst)
{
    const runs s = runs_of(&src);
    if (r->error.status || qw_is_plan(r->dev)) {
        memset(dst, 0, (size_t)(s.count * s.n) * sizeof *dst);
        return;
    }
    const size_t bytes = qw_row_bytes(src.dtype, s.n);
    void *row = malloc(bytes ? bytes : 1);
    int status = row ? QWEN_OK : QWEN_ENOMEM;
    for (int64_t i = 0; i < s.count && !status && s.n; i++) {
        status = r->dev->get(r->dev, QW_COMPUTE, row, run_at(&src, &s, i), bytes);
        if (!status) decode(src.dtype, row, s.n, dst + i * s.n);
    }
    free(row);
    if (!status) return;
    memset(dst, 0, (size_t)(s.count * s.n) * sizeof *dst);
    qw_run_fail(r, status, "device %s failed while giving data back", r->dev->name);
}

/* --- finite results ------------------------------------------------------------------------ */

/* Scans n elements; returns the index of the first that is not finite, or n; *most grows. */
static int64_t scan(qw_dtype type, const void *data, int64_t n, double *most)
{
    double part[256];
    for (int64_t i = 0; i < n; i += 256) {
        const int64_t k = n - i < 256 ? n - i : 256;
        decode(type, (const unsigned char *)data + qw_row_bytes(type, i), k, part);
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
    const runs s = runs_of(t);
    for (int64_t i = 0; i < s.count; i++) {
        const unsigned char *p = run_at(t, &s, i);
        const int64_t j = scan(t->dtype, p, s.n, most);
        if (j == s.n) continue;
        decode(t->dtype, p + qw_row_bytes(t->dtype, j), 1, value);
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

static void check_result(qw_run *r, const qw_op_info *info, void *args)
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
                    where(r, place, sizeof place), info->name, o->name,
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
                    where(r, place, sizeof place), what, index_text(&t, at, index, sizeof index),
                    x[at], r->magnitude);
    } else r->magnitude = most;
    free(x);
}

/* --- fallback on a device that is not host ------------------------------------------------- */

enum { OPERANDS = 8 }; /* the most operands of any op */

/* One operand brought to host memory.  dev: where it lies on the device. */
typedef struct staged {
    qw_tensor dev;
    void *data;
    float *scale;
    void *block_scale;
} staged;

static void *fetch(qw_run *r, const void *from, size_t bytes, int *status)
{
    if (*status || !bytes) return NULL;
    void *p = malloc(bytes);
    if (!p) *status = QWEN_ENOMEM;
    else if (from) *status = r->dev->get(r->dev, QW_COMPUTE, p, from, bytes);
    return p;
}

/* Makes t a tensor in host memory.  A packed weight is read from its original. */
static void stage(qw_run *r, staged *s, qw_tensor *t, unsigned role, int *status)
{
    s->dev = *t;
    if (role & QW_WEIGHT && t->host) {
        const qw_tensor *original = t->host;
        *t = *original;
        return;
    }
    const size_t bytes = qw_extent(t);
    /* What is only written need not come over, unless its rows have strangers between them. */
    const int write_only = !(role & QW_IN) && runs_of(t).count == 1;
    s->data = fetch(r, role & QW_WEIGHT || !write_only ? t->data : NULL, bytes, status);
    s->scale = fetch(r, t->scale, qw_scales(t) * sizeof(float), status);
    s->block_scale = fetch(r, t->block_scale, qw_block_scale_bytes(t), status);
    t->data = s->data;
    t->scale = s->scale;
    t->block_scale = s->block_scale;
}

static int unstage(qw_run *r, const staged *s)
{
    int status = r->dev->put(r->dev, QW_COMPUTE, s->dev.data, s->data, qw_extent(&s->dev));
    if (!status && s->scale) /* the scales of quantised rows are written with them */
        status = r->dev->put(r->dev, QW_COMPUTE, (void *)(uintptr_t)s->dev.scale, s->scale,
                             qw_scales(&s->dev) * sizeof(float));
    return status;
}

static int reference_staged(qw_run *r, const qw_op_info *info, void *args)
{
    staged s[OPERANDS] = { { .data = NULL } };
    int status = QWEN_OK, n = 0;
    for (const qw_operand *o = info->operand; o->name; o++, n++) {
        qw_tensor *t = qw_operand_of(o, args);
        if (t && !status) stage(r, &s[n], t, o->role, &status);
    }
    if (!status) status = info->call(r->ref, args);
    n = 0;
    for (const qw_operand *o = info->operand; o->name; o++, n++)
        if (!status && o->role & QW_OUT && s[n].data) status = unstage(r, &s[n]);
    const int last = r->dev->sync(r->dev); /* the queue may still read our copies */
    for (n = 0; n < OPERANDS; n++) {
        free(s[n].data);
        free(s[n].scale);
        free(s[n].block_scale);
    }
    return status ? status : last;
}

static int reference_host(qw_run *r, const qw_op_info *info, void *args)
{
    for (const qw_operand *o = info->operand; o->name; o++) {
        qw_tensor *t = o->role & QW_WEIGHT ? qw_operand_of(o, args) : NULL;
        if (!t || !t->layout) continue;
        const qw_tensor *original = t->host;
        *t = *original;
    }
    return info->call(r->ref, args);
}

/* --- dispatch ------------------------------------------------------------------------------ */

/* Every vector and table must be of the device's wide type. */
static int wide_mismatch(const qw_run *r, const qw_op_info *info, void *args, char *why,
                         size_t size)
{
    for (const qw_operand *o = info->operand; o->name; o++) {
        const qw_tensor *t = o->role & QW_WIDE ? qw_operand_of(o, args) : NULL;
        if (!t || t->dtype == r->dev->wide) continue;
        snprintf(why, size, "%s: %s is %s; device %s takes %s there", info->name, o->name,
                 qw_dtype_name(t->dtype), r->dev->name, qw_dtype_name(r->dev->wide));
        return 1;
    }
    return 0;
}

/* The device declined: strict says no, else the reference does it. */
static int fall_back(qw_run *r, enum qw_op op, const void *args, const char *line)
{
    const qw_op_info *info = &qw_op_table[op];
    char place[160];
    r->declined[op]++;
    if (r->strict) {
        qw_run_fail(r, QWEN_EUNSUPPORTED,
                    "%sdevice %s does not do %s, and falling back was refused",
                    where(r, place, sizeof place), r->dev->name, line);
        return QWEN_EUNSUPPORTED;
    }
    if (!r->ref || r->ref == r->dev) {
        qw_run_fail(r, QWEN_EUNSUPPORTED,
                    "%sdevice %s does not do %s, and there is no reference to fall back to",
                    where(r, place, sizeof place), r->dev->name, line);
        return QWEN_EUNSUPPORTED;
    }
    qw_any_args copy;
    memcpy(&copy, args, info->args);
    return r->dev->host ? reference_host(r, info, &copy) : reference_staged(r, info, &copy);
}

static void dispatch(qw_run *r, enum qw_op op, void *args)
{
    const qw_op_info *info = &qw_op_table[op];
    char line[LINE] = "", why[500], place[160];
    if (r->error.status) return;
    if (r->poll && r->poll(r->user)) {
        qw_run_fail(r, QWEN_ECANCELLED, "cancelled");
        return;
    }
    if (info->check(args, why, sizeof why) || wide_mismatch(r, info, args, why, sizeof why)) {
        qw_run_fail(r, QWEN_EARG, "%s%s", where(r, place, sizeof place), why);
        return;
    }
    double flops = 0, bytes = 0;
    info->cost(args, &flops, &bytes);
    r->calls[op]++;
    r->flops += flops;
    r->bytes += bytes;
    if (r->trace) {
        info->line(args, line, sizeof line);
        r->trace(r->user, line);
    }
    int status = info->call(r->dev, args);
    if (status == QW_DECLINE) {
        if (!line[0]) info->line(args, line, sizeof line);
        status = fall_back(r, op, args, line);
    }
    if (status) {
        if (!line[0]) info->line(args, line, sizeof line);
        qw_run_fail(r, status < 0 ? status : QWEN_EUNSUPPORTED, "%sdevice %s failed in %s: %s",
                    where(r, place, sizeof place), r->dev->name, line,
                    status < 0 ? qwen_strerror(status) : "the reference declined");
    } else if (r->check && r->dev->host && !qw_is_plan(r->dev)) check_result(r, info, args);
}

#define X(op) \
    void qw_##op(qw_run *r, qw_##op##_args a) { dispatch(r, QW_OP_##op, &a); }
QW_OPS(X)
#undef X

/* --- taps ---------------------------------------------------------------------------------- */

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
