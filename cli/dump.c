/* dump.c - tensors out to a safetensors file in the order they were computed, and tensors in.
 *
 * The header of a safetensors file names all tensors with their offsets and comes first, but the
 * tensors of a run are complete only at its end: data go to an unnamed file, which is copied behind
 * the header.  Metadata "order" lists the names in order of computation, a line each. */
#include "cli.h"
#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

typedef struct tensor {
    char *name;
    int dtype, rank;
    int64_t dim[8];
    uint64_t at, bytes;
} tensor;

struct dump {
    char *path;
    const text_list *only;
    FILE *spool;
    tensor *tensor;
    size_t n, room;
    uint64_t bytes;
    int failed; /* errno of the first failure */
};

int64_t array_count(const qwen_array *a)
{
    int64_t n = 1;
    for (int i = 0; i < a->rank; i++) n *= a->dim[i];
    return n;
}

double array_at(const qwen_array *a, int64_t i)
{
    switch (a->dtype) {
    case QWEN_F32: return (double)((const float *)a->data)[i];
    case QWEN_F64: return ((const double *)a->data)[i];
    case QWEN_I32: return ((const int32_t *)a->data)[i];
    default: return ((const uint8_t *)a->data)[i];
    }
}

static size_t element(int dtype) { return dtype == QWEN_F64 ? 8 : dtype == QWEN_U8 ? 1 : 4; }

int dump_open(dump **out, const char *path, const text_list *only)
{
    dump *d = *out = calloc(1, sizeof *d);
    if (!d) return no_memory();
    d->only = only;
    d->path = format_text("%s", path);
    d->spool = output_spool(path);
    if (d->path && d->spool) return CODE_DONE;
    const int code = d->path
                         ? complain(CODE_WRITE, "%s: cannot be written: %s", path, strerror(errno))
                         : no_memory();
    dump_close(d, NULL, 0);
    *out = NULL;
    return code;
}

static int is_selected(const dump *d, const char *name)
{
    for (size_t i = 0; i < d->only->n; i++)
        if (!fnmatch(d->only->item[i], name, 0)) return 1;
    return !d->only->n;
}

static void spool(dump *d, const void *data, size_t bytes)
{
    errno = 0;
    if (fwrite(data, 1, bytes, d->spool) != bytes) d->failed = errno ? errno : EIO;
    d->bytes += bytes;
}

/* `image` is written as F32 on every device; all other tensors keep their type. */
static void spool_as_float(dump *d, const qwen_array *a)
{
    const int64_t n = array_count(a);
    for (int64_t i = 0; i < n && !d->failed; i++) {
        const float x = (float)((const double *)a->data)[i];
        spool(d, &x, sizeof x);
    }
}

void dump_add(dump *d, const char *name, const qwen_array *a)
{
    if (d->failed || !is_selected(d, name)) return;
    for (size_t i = 0; i < d->n; i++) /* a name that comes again keeps its first tensor */
        if (!strcmp(d->tensor[i].name, name)) return;
    if (d->n == d->room) {
        const size_t room = d->room ? 2 * d->room : 256;
        tensor *more = realloc(d->tensor, room * sizeof *more);
        if (!more) {
            d->failed = ENOMEM;
            return;
        }
        d->tensor = more;
        d->room = room;
    }
    const int narrow = a->dtype == QWEN_F64 && !strcmp(name, "image");
    tensor *t = &d->tensor[d->n];
    *t = (tensor){ .name = format_text("%s", name),
                   .dtype = narrow ? QWEN_F32 : a->dtype,
                   .rank = a->rank,
                   .at = d->bytes };
    if (!t->name) {
        d->failed = ENOMEM;
        return;
    }
    memcpy(t->dim, a->dim, sizeof t->dim);
    d->n++;
    if (narrow) spool_as_float(d, a);
    else spool(d, a->data, (size_t)array_count(a) * element(a->dtype));
    t->bytes = d->bytes - t->at;
}

int dump_failed(const dump *d) { return d && d->failed; }

/* The names, a line each; malloc'ed, or NULL. */
static char *order_of(const dump *d)
{
    size_t bytes = 1;
    for (size_t i = 0; i < d->n; i++) bytes += strlen(d->tensor[i].name) + 1;
    char *order = malloc(bytes), *at = order;
    for (size_t i = 0; order && i < d->n; i++) {
        const size_t n = strlen(d->tensor[i].name);
        memcpy(at, d->tensor[i].name, n);
        at += n;
        *at++ = '\n';
    }
    if (order) *(at > order ? at - 1 : at) = 0;
    return order;
}

static json_t *header(const dump *d, const char *recipe)
{
    static const char *const dtypes[] = { "", "F32", "F64", "I32", "U8" };
    json_t *top = json_object();
    char *order = order_of(d);
    json_t *meta = order ? json_pack("{s:s}", "order", order) : NULL;
    free(order);
    int bad = !meta || (recipe && json_object_set_new(meta, "qwen-image", json_string(recipe)));
    bad = json_object_set_new(top, "__metadata__", meta) || bad;
    for (size_t i = 0; i < d->n && !bad; i++) {
        const tensor *t = &d->tensor[i];
        json_t *shape = json_array();
        for (int k = 0; k < t->rank; k++)
            bad |= json_array_append_new(shape, json_integer(t->dim[k]));
        bad |= json_object_set_new(top, t->name,
                                   json_pack("{s:s,s:o,s:[I,I]}", "dtype", dtypes[t->dtype],
                                             "shape", shape, "data_offsets", (json_int_t)t->at,
                                             (json_int_t)(t->at + t->bytes)));
    }
    if (!bad) return top;
    json_decref(top);
    return NULL;
}

/* Copies the unnamed file's bytes behind what o holds. */
static void copy_spool(dump *d, output *o)
{
    enum { CHUNK = 1 << 16 };
    char buffer[CHUNK];
    size_t n;
    rewind(d->spool);
    while ((n = fread(buffer, 1, CHUNK, d->spool)) > 0)
        if (fwrite(buffer, 1, n, o->file) != n) {
            o->failed = errno ? errno : EIO;
            return;
        }
    if (ferror(d->spool)) o->failed = EIO;
}

static int write_whole(dump *d, const char *recipe)
{
    output o;
    json_t *top = header(d, recipe);
    char *text = top ? json_dumps(top, JSON_COMPACT) : NULL;
    json_decref(top);
    if (!text) return no_memory();
    int code = output_open(&o, d->path);
    if (!code) {
        const size_t used = strlen(text), all = (used + 7) / 8 * 8;
        unsigned char length[8];
        for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)all >> 8 * i);
        errno = 0;
        if (fwrite(length, 1, 8, o.file) != 8 || fwrite(text, 1, used, o.file) != used
            || fwrite("        ", 1, all - used, o.file) != all - used)
            o.failed = errno ? errno : EIO;
        else copy_spool(d, &o);
        code = output_close(&o, 1);
    }
    free(text);
    return code;
}

int dump_close(dump *d, const char *recipe, int keep)
{
    int code = CODE_DONE;
    if (!d) return code;
    if (keep && !d->failed && (fflush(d->spool) || ferror(d->spool)))
        d->failed = errno ? errno : EIO;
    if (keep && d->failed == ENOMEM) code = no_memory();
    else if (keep && d->failed)
        code = complain(CODE_WRITE, "%s: cannot be written: %s", d->path, strerror(d->failed));
    else if (keep) code = write_whole(d, recipe);
    if (d->spool) fclose(d->spool);
    for (size_t i = 0; i < d->n; i++) free(d->tensor[i].name);
    free(d->tensor);
    free(d->path);
    free(d);
    return code;
}

/* --- in --------------------------------------------------------------------------------------- */

static int has_tensor(const qwen_file *f, const char *name)
{
    qwen_file_tensor t;
    for (int64_t i = 0; i < qwen_file_count(f); i++)
        if (!qwen_file_tensor_at(f, i, &t) && !strcmp(t.name, name)) return 1;
    return 0;
}

int tensor_read(const char *path, const char *const *names, qwen_array *out, int *which)
{
    qwen_file *f = NULL;
    int status = qwen_file_open(&f, path), code = CODE_DONE;
    memset(out, 0, sizeof *out);
    *which = -1;
    for (int i = 0; !status && names[i] && *which < 0; i++)
        if (has_tensor(f, names[i])) {
            *which = i;
            status = qwen_file_read(f, names[i], out);
        }
    if (status) code = complain(code_of(status), "%s", qwen_file_error(f));
    qwen_file_close(f);
    return code;
}
