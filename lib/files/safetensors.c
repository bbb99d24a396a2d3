/* safetensors.c - a .safetensors header, through Jansson, to entries over the mapping.
 *
 * u64 length of the header, the header (JSON: name -> dtype, shape, data_offsets), the data.
 * The file is hostile: every number is checked before it is used, and the tensors must cover the
 * data exactly, without gap, overlap or rest.  Data need not be aligned. */
#include "files/files.h"
#include <stdlib.h>
#include <string.h>

enum { HEADER_BYTES = 100 << 20 };

typedef struct span {
    int64_t begin, end;
    const char *name;
} span;

static qw_dtype dtype_of(const char *name)
{
    static const struct {
        const char *name;
        qw_dtype type;
    } types[] = {
        { "F64", QW_F64 },        { "F32", QW_F32 },        { "F16", QW_F16 },
        { "BF16", QW_BF16 },      { "F8_E4M3", QW_F8E4M3 }, { "F8_E5M2", QW_F8E5M2 },
        { "F8_E8M0", QW_F8E8M0 }, { "F4", QW_F4 },          { "I64", QW_I64 },
        { "I32", QW_I32 },        { "I16", QW_I16 },        { "I8", QW_I8 },
        { "U64", QW_U64 },        { "U32", QW_U32 },        { "U16", QW_U16 },
        { "U8", QW_U8 },          { "BOOL", QW_BOOL },
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i].name, name)) return types[i].type;
    return QW_NONE;
}

/* Reads a shape: at most 8 integers, none negative; the product of those above 0 must not
 * overflow. */
static int read_shape(const json_t *shape, qw_entry *e, int64_t *elements, const char *where,
                      qw_error *err)
{
    if (!json_is_array(shape))
        return qw_fail(err, QWEN_EFORMAT, "%s: its shape is not an array", where);
    if (json_array_size(shape) > QW_FILE_RANK)
        return qw_fail(err, QWEN_EFORMAT, "%s: its shape has %zu dims, at most %d are supported",
                       where, json_array_size(shape), QW_FILE_RANK);
    int64_t product = 1; /* product of the dims that are not 0 */
    int zero = 0;
    e->rank = (int)json_array_size(shape);
    for (int i = 0; i < e->rank; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return qw_fail(err, QWEN_EFORMAT,
                           "%s: dimension %d of its shape is not a number from 0", where, i);
        e->dim[i] = json_integer_value(d);
        if (e->dim[i] == 0) zero = 1;
        else if (product > INT64_MAX / 16 / e->dim[i])
            return qw_fail(err, QWEN_EFORMAT, "%s: the size of its shape overflows", where);
        else product *= e->dim[i];
    }
    *elements = zero ? 0 : product;
    return QWEN_OK;
}

static int read_offsets(const json_t *offsets, int64_t data, span *out, const char *where,
                        qw_error *err)
{
    const json_t *a = json_array_get(offsets, 0), *b = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(a) || !json_is_integer(b))
        return qw_fail(err, QWEN_EFORMAT, "%s: its data_offsets are not two integers", where);
    out->begin = json_integer_value(a);
    out->end = json_integer_value(b);
    if (out->begin < 0 || out->end < out->begin || out->end > data)
        return qw_fail(err, QWEN_EFORMAT,
                       "%s: its data_offsets %lld..%lld are out of range or truncated: the data "
                       "have %lld bytes",
                       where, (long long)out->begin, (long long)out->end, (long long)data);
    return QWEN_OK;
}

static int read_tensor(qw_store *s, int file, const char *name, const json_t *json,
                       const unsigned char *data, int64_t size, span *at, qw_error *err)
{
    char shown[300], where[700];
    qw_entry e = { .file = file };
    int64_t elements = 0;
    snprintf(where, sizeof where, "%.380s: tensor \"%s\"", s->file[file].path,
             qw_visible(shown, sizeof shown, name));
    const char *dtype = json_string_value(json_object_get(json, "dtype"));
    if (!dtype) return qw_fail(err, QWEN_EFORMAT, "%s has no dtype", where);
    e.dtype = dtype_of(dtype);
    if (e.dtype == QW_NONE)
        return qw_fail(err, QWEN_EUNSUPPORTED, "%s: dtype \"%s\" is not known", where,
                       qw_visible(shown, sizeof shown, dtype));
    int status = read_shape(json_object_get(json, "shape"), &e, &elements, where, err);
    if (!status) status = read_offsets(json_object_get(json, "data_offsets"), size, at, where, err);
    if (status) return status;
    const int64_t block = qw_block_elements(e.dtype);
    if (elements % block)
        return qw_fail(err, QWEN_EFORMAT, "%s: its shape has %lld elements, not whole bytes of %s",
                       where, (long long)elements, dtype);
    if ((int64_t)qw_row_bytes(e.dtype, elements) != at->end - at->begin)
        return qw_fail(err, QWEN_EFORMAT,
                       "%s: its shape needs %lld bytes, its data_offsets have a size of %lld",
                       where, (long long)qw_row_bytes(e.dtype, elements),
                       (long long)(at->end - at->begin));
    e.data = data + at->begin;
    e.bytes = (size_t)(at->end - at->begin);
    at->name = name;
    return qw_store_put(s, name, e, err);
}

static int by_begin(const void *a, const void *b)
{
    const span *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static int check_cover(span *at, int64_t n, int64_t data, const char *path, qw_error *err)
{
    int64_t covered = 0;
    char shown[300];
    qsort(at, (size_t)n, sizeof *at, by_begin);
    for (int64_t i = 0; i < n; i++) {
        if (at[i].begin != covered)
            return qw_fail(
                err, QWEN_EFORMAT, "%s: tensor \"%s\" begins at offset %lld, %s %lld: %s", path,
                qw_visible(shown, sizeof shown, at[i].name), (long long)at[i].begin,
                at[i].begin < covered ? "before the end of the tensor before it at"
                                      : "after a hole from",
                (long long)covered, at[i].begin < covered ? "they overlap" : "there is a gap");
        covered = at[i].end;
    }
    if (covered != data)
        return qw_fail(err, QWEN_EFORMAT,
                       "%s: %lld extra bytes after the last tensor: the size is wrong", path,
                       (long long)(data - covered));
    return QWEN_OK;
}

static int read_metadata(qw_file *f, json_t *meta, qw_error *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(meta))
        return qw_fail(err, QWEN_EFORMAT, "%s: __metadata__ is not an object", f->path);
    json_object_foreach(meta, key, value)
    {
        if (!json_is_string(value))
            return qw_fail(err, QWEN_EFORMAT, "%s: __metadata__ has a value that is not a string",
                           f->path);
    }
    f->metadata = json_incref(meta);
    return QWEN_OK;
}

static int read_header(qw_store *s, int file, json_t *header, size_t skip, qw_error *err)
{
    qw_file *f = &s->file[file];
    const int64_t size = (int64_t)(f->bytes - skip);
    const char *name;
    json_t *value;
    int64_t n = 0;
    int status = QWEN_OK;
    if (!json_is_object(header))
        return qw_fail(err, QWEN_EFORMAT, "%s: its header is not a JSON object", f->path);
    span *at = malloc((json_object_size(header) + 1) * sizeof *at);
    if (!at)
        return qw_fail(err, QWEN_ENOMEM, "%s: no memory for %zu tensors", f->path,
                       json_object_size(header));
    json_object_foreach(header, name, value)
    {
        if (status) break;
        if (!strcmp(name, "__metadata__")) status = read_metadata(f, value, err);
        else status = read_tensor(s, file, name, value, f->map + skip, size, &at[n++], err);
    }
    if (!status) status = check_cover(at, n, size, f->path, err);
    free(at);
    return status;
}

int qw_safetensors_read(qw_store *s, int file, qw_error *err)
{
    const qw_file *f = &s->file[file];
    uint64_t length = 0;
    if (f->bytes < 8)
        return qw_fail(err, QWEN_EFORMAT,
                       "%s has %zu bytes: too short, truncated before the header length", f->path,
                       f->bytes);
    for (int i = 0; i < 8; i++) length |= (uint64_t)f->map[i] << 8 * i;
    if (length > HEADER_BYTES)
        return qw_fail(err, QWEN_EFORMAT,
                       "%s: its header would have a length of %llu bytes, at most %d are accepted: "
                       "it is not a safetensors file",
                       f->path, (unsigned long long)length, HEADER_BYTES);
    if (length > f->bytes - 8)
        return qw_fail(err, QWEN_EFORMAT,
                       "%s is truncated: the header has a length of %llu bytes, %zu are there",
                       f->path, (unsigned long long)length, f->bytes - 8);
    char where[520];
    json_t *header;
    snprintf(where, sizeof where, "%.500s: its header", f->path);
    if (qw_json_bytes(f->map + 8, (size_t)length, where, &header, err)) return err->status;
    const int status = read_header(s, file, header, 8 + (size_t)length, err);
    json_decref(header);
    return status;
}
