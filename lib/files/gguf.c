/* gguf.c - a GGUF container, version 2 or 3, to entries over the mapping.
 *
 * Magic, version, counts, key/value pairs, tensor infos, padding, data; everything little
 * endian, strings with 64-bit lengths.  The file is hostile: every count and length is compared
 * with the bytes that are left before it is used, and no number of the file decides how much is
 * allocated. Dimensions are stored fastest first and reversed here;
 * "comfy.gguf.orig_shape.<name>" overrides them.  Values are kept as text for qw_store_metadata;
 * arrays of strings (vocabularies) and long arrays are skipped. */
#include "core/core.h"
#include "files/files.h"
#include <stdlib.h>
#include <string.h>

enum {
    KV_LEAST = 13,
    TENSOR_LEAST = 32,
    KEY_BYTES = 65535,
    TEXT_BYTES = 1 << 20,
    ARRAY_KEPT = 64,
    SPLITS = 1000
};
enum value_type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    BOOL,
    STRING,
    ARRAY,
    U64,
    I64,
    F64,
    VALUE_TYPES
};

typedef struct cursor {
    const unsigned char *at, *end;
    qw_store *store;
    int file;
    const char *path;
    qw_error *err;
} cursor;

static int truncated(cursor *c, const char *what)
{
    return qw_fail(c->err, QWEN_EFORMAT, "%s is truncated inside %s", c->path, what);
}

static uint64_t left(const cursor *c) { return (uint64_t)(c->end - c->at); }

static uint64_t number(cursor *c, int width, const char *what)
{
    uint64_t v = 0;
    if (c->err->status) return 0;
    if (left(c) < (uint64_t)width) {
        truncated(c, what);
        return 0;
    }
    for (int i = 0; i < width; i++) v |= (uint64_t)c->at[i] << 8 * i;
    c->at += width;
    return v;
}

/* Bytes of a string, in place; NULL with err set. */
static const char *text(cursor *c, uint64_t *bytes, const char *what)
{
    *bytes = number(c, 8, what);
    if (c->err->status) return NULL;
    if (*bytes > left(c)) {
        qw_fail(c->err, QWEN_EFORMAT,
                "%s is truncated: the length of a string in %s is %llu bytes, %llu are left",
                c->path, what, (unsigned long long)*bytes, (unsigned long long)left(c));
        return NULL;
    }
    const char *s = (const char *)c->at;
    c->at += *bytes;
    return s;
}

/* Nonzero: UTF-8 without NUL. */
static int is_name(const char *s, uint64_t bytes)
{
    return !memchr(s, 0, (size_t)bytes) && qw_utf8_invalid(s, (size_t)bytes) < 0;
}

/* A key or a tensor's name as a malloc'ed string. */
static char *name(cursor *c, const char *what)
{
    uint64_t n;
    const char *s = text(c, &n, what);
    if (!s) return NULL;
    if (n > KEY_BYTES || n == 0) {
        qw_fail(c->err, QWEN_EFORMAT, "%s: the name of %s has a length of %llu bytes", c->path,
                what, (unsigned long long)n);
        return NULL;
    }
    char *copy = malloc((size_t)n + 1);
    if (!copy) {
        qw_fail(c->err, QWEN_ENOMEM, "%s: no memory for a name", c->path);
        return NULL;
    }
    memcpy(copy, s, (size_t)n);
    copy[n] = 0;
    if (is_name(s, n)) return copy;
    char shown[200];
    qw_fail(c->err, QWEN_EFORMAT, "%s: the name \"%s\" of %s is not UTF-8", c->path,
            qw_visible(shown, sizeof shown, copy), what);
    free(copy);
    return NULL;
}

/* --- key/value pairs ----------------------------------------------------------------------- */

static int width_of(uint64_t type)
{
    static const int width[VALUE_TYPES] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
    return type < VALUE_TYPES ? width[type] : 0;
}

/* Appends a number of `type` as text to out. */
static void print_number(uint64_t type, uint64_t v, char *out, size_t size)
{
    float f;
    double d;
    const uint32_t low = (uint32_t)v;
    memcpy(&f, &low, 4);
    memcpy(&d, &v, 8);
    switch (type) {
    case I8: snprintf(out, size, "%d", (int8_t)v); break;
    case I16: snprintf(out, size, "%d", (int16_t)v); break;
    case I32: snprintf(out, size, "%ld", (long)(int32_t)v); break;
    case I64: snprintf(out, size, "%lld", (long long)(int64_t)v); break;
    case F32: snprintf(out, size, "%.9g", (double)f); break;
    case F64: snprintf(out, size, "%.17g", d); break;
    case BOOL: snprintf(out, size, "%s", v ? "true" : "false"); break;
    default: snprintf(out, size, "%llu", (unsigned long long)v); break;
    }
}

static int unknown_type(cursor *c, const char *key, uint64_t type)
{
    char shown[200];
    return qw_fail(c->err, QWEN_EUNSUPPORTED,
                   "%s: key \"%s\" has a value of type %llu, which is not known", c->path,
                   qw_visible(shown, sizeof shown, key), (unsigned long long)type);
}

/* Reads an array: short ones of numbers as "[1, 2]" into out; all others are skipped. */
static int array(cursor *c, const char *key, char *out, size_t size)
{
    char shown[200];
    const uint64_t type = number(c, 4, "the metadata (an array)"),
                   n = number(c, 8, "the metadata (an array)");
    const int width = width_of(type);
    size_t used = 0;
    if (c->err->status) return c->err->status;
    if (type >= VALUE_TYPES) return unknown_type(c, key, type);
    if (type == ARRAY)
        return qw_fail(c->err, QWEN_EFORMAT,
                       "%s: key \"%s\" is an array of arrays: they do not nest here", c->path,
                       qw_visible(shown, sizeof shown, key));
    if (n > left(c) / (uint64_t)(width ? width : 8))
        return qw_fail(
            c->err, QWEN_EFORMAT,
            "%s is truncated: the array \"%s\" has a length of %llu, %llu bytes are left", c->path,
            qw_visible(shown, sizeof shown, key), (unsigned long long)n,
            (unsigned long long)left(c));
    for (uint64_t i = 0; type == STRING && i < n; i++) {
        uint64_t bytes;
        if (!text(c, &bytes, "the metadata (an array of strings)")) return c->err->status;
    }
    if (type == STRING) return QWEN_OK;
    if (n > ARRAY_KEPT) {
        c->at += n * (uint64_t)width;
        return QWEN_OK;
    }
    used += (size_t)snprintf(out, size, "[");
    for (uint64_t i = 0; i < n; i++) {
        if (i) used += (size_t)snprintf(out + used, size - used, ", ");
        print_number(type, number(c, width, "the metadata"), out + used, size - used);
        used += strlen(out + used);
    }
    snprintf(out + used, size - used, "]");
    return c->err->status;
}

static int keep(cursor *c, const char *key, const char *value, size_t bytes)
{
    json_t *meta = c->store->file[c->file].metadata;
    if (bytes > TEXT_BYTES || !is_name(value, bytes))
        return QWEN_OK; /* a long string: a chat template, binary data */
    return json_object_set_new(meta, key, json_stringn(value, bytes))
               ? qw_fail(c->err, QWEN_ENOMEM, "%s: no memory for its metadata", c->path)
               : QWEN_OK;
}

static int pair(cursor *c, const char *key)
{
    char shown[200], out[ARRAY_KEPT * 28] = "";
    const uint64_t type = number(c, 4, "the metadata (a key's type)");
    const char *value = out;
    uint64_t bytes = 0;
    if (c->err->status) return c->err->status;
    if (type >= VALUE_TYPES) return unknown_type(c, key, type);
    if (json_object_get(c->store->file[c->file].metadata, key))
        return qw_fail(c->err, QWEN_EFORMAT, "%s: key \"%s\" is there twice, a duplicate", c->path,
                       qw_visible(shown, sizeof shown, key));
    if (!strcmp(key, "general.alignment") && type != U32)
        return qw_fail(c->err, QWEN_EFORMAT, "%s: general.alignment is not a 32-bit number",
                       c->path);
    if (type == STRING) value = text(c, &bytes, "the metadata (a value)");
    else if (type == ARRAY) array(c, key, out, sizeof out);
    else print_number(type, number(c, width_of(type), "the metadata (a value)"), out, sizeof out);
    if (c->err->status) return c->err->status;
    return keep(c, key, value, type == STRING ? (size_t)bytes : strlen(out));
}

static int pairs(cursor *c, uint64_t n)
{
    c->store->file[c->file].metadata = json_object();
    if (!c->store->file[c->file].metadata)
        return qw_fail(c->err, QWEN_ENOMEM, "%s: no memory for its metadata", c->path);
    if (n > left(c) / KV_LEAST)
        return qw_fail(c->err, QWEN_EFORMAT,
                       "%s is truncated: %llu metadata keys do not fit into %llu bytes", c->path,
                       (unsigned long long)n, (unsigned long long)left(c));
    for (uint64_t i = 0; i < n && !c->err->status; i++) {
        char *key = name(c, "a metadata key");
        if (key) pair(c, key);
        free(key);
    }
    return c->err->status;
}

static uint64_t unsigned_of(const cursor *c, const char *key, uint64_t silent)
{
    const char *v = json_string_value(json_object_get(c->store->file[c->file].metadata, key));
    return v ? strtoull(v, NULL, 10) : silent;
}

/* --- tensors ------------------------------------------------------------------------------- */

typedef struct span {
    uint64_t begin, end;
    int64_t entry;
} span;

static qw_dtype type_of(uint64_t id)
{
    static const unsigned char types[] = {
        [0] = QW_F32,    [1] = QW_F16,     [2] = QW_Q4_0,     [3] = QW_Q4_1,    [6] = QW_Q5_0,
        [7] = QW_Q5_1,   [8] = QW_Q8_0,    [10] = QW_Q2_K,    [11] = QW_Q3_K,   [12] = QW_Q4_K,
        [13] = QW_Q5_K,  [14] = QW_Q6_K,   [16] = QW_IQ2_XXS, [17] = QW_IQ2_XS, [18] = QW_IQ3_XXS,
        [19] = QW_IQ1_S, [20] = QW_IQ4_NL, [21] = QW_IQ3_S,   [22] = QW_IQ2_S,  [23] = QW_IQ4_XS,
        [24] = QW_I8,    [25] = QW_I16,    [26] = QW_I32,     [27] = QW_I64,    [28] = QW_F64,
        [29] = QW_IQ1_M, [30] = QW_BF16,
    };
    return id < sizeof types ? (qw_dtype)types[id] : QW_NONE;
}

/* Types that the format has dropped; no file of a supported version holds them. */
static int was_removed(uint64_t id)
{
    return id == 4 || id == 5 || (id >= 31 && id <= 33) || (id >= 36 && id <= 38);
}

static int read_dims(cursor *c, const char *where, qw_entry *e, int64_t *elements)
{
    const uint64_t rank = number(c, 4, "the list of tensors");
    if (c->err->status) return c->err->status;
    if (rank < 1 || rank > 4)
        return qw_fail(c->err, QWEN_EFORMAT, "%s has %llu dims, expected 1 to 4", where,
                       (unsigned long long)rank);
    e->rank = (int)rank;
    *elements = 1;
    for (int i = e->rank; i-- > 0;) {
        const uint64_t d = number(c, 8, "the list of tensors");
        if (c->err->status) return c->err->status;
        if (d < 1) return qw_fail(c->err, QWEN_EFORMAT, "%s has a dim of 0", where);
        if (d > (uint64_t)(INT64_MAX / 16 / *elements))
            return qw_fail(c->err, QWEN_EFORMAT, "%s: the product of its dims overflows", where);
        e->dim[i] = (int64_t)d;
        *elements *= e->dim[i];
    }
    return QWEN_OK;
}

/* Sets the shape that the tensor had before it was flattened, in PyTorch's order; the product must
 * agree. */
static int original_shape(cursor *c, const char *tensor, const char *where, qw_entry *e,
                          int64_t elements)
{
    char key[KEY_BYTES + 64];
    snprintf(key, sizeof key, "comfy.gguf.orig_shape.%s", tensor);
    const char *v = json_string_value(json_object_get(c->store->file[c->file].metadata, key));
    if (!v) return QWEN_OK;
    json_t *shape = json_loads(v, 0, NULL);
    const size_t rank = json_array_size(shape);
    int64_t product = 1;
    int good = rank >= 1 && rank <= QW_FILE_RANK;
    for (size_t i = 0; good && i < rank; i++) {
        const int64_t d = json_integer_value(json_array_get(shape, i));
        good = d >= 1 && d <= elements / product;
        if (!good) break;
        product *= d;
        e->dim[i] = d;
    }
    json_decref(shape);
    e->rank = (int)rank;
    return good && product == elements
               ? QWEN_OK
               : qw_fail(c->err, QWEN_EFORMAT,
                         "%s: its comfy.gguf.orig_shape %.100s does not have its %lld elements",
                         where, v, (long long)elements);
}

static int read_tensor(cursor *c, const char *tensor, uint64_t alignment, span *at)
{
    char shown[300], where[760];
    qw_entry e = { .file = c->file };
    int64_t elements = 0;
    snprintf(where, sizeof where, "%.400s: tensor \"%s\"", c->path,
             qw_visible(shown, sizeof shown, tensor));
    if (read_dims(c, where, &e, &elements)) return c->err->status;
    const uint64_t type = number(c, 4, "the list of tensors"),
                   offset = number(c, 8, "the list of tensors");
    if (c->err->status) return c->err->status;
    e.dtype = type_of(type);
    if (was_removed(type))
        return qw_fail(c->err, QWEN_EFORMAT, "%s has type %llu, which was removed from the format",
                       where, (unsigned long long)type);
    if (e.dtype == QW_NONE)
        return qw_fail(c->err, QWEN_EUNSUPPORTED, "%s has type %llu, which is not supported", where,
                       (unsigned long long)type);
    if (e.dim[e.rank - 1] % qw_block_elements(e.dtype))
        return qw_fail(c->err, QWEN_EFORMAT,
                       "%s: a row of %lld elements is no whole number of %s blocks of %lld", where,
                       (long long)e.dim[e.rank - 1], qw_dtype_name(e.dtype),
                       (long long)qw_block_elements(e.dtype));
    if (offset % alignment)
        return qw_fail(c->err, QWEN_EFORMAT, "%s: its offset %llu does not fit the alignment %llu",
                       where, (unsigned long long)offset, (unsigned long long)alignment);
    e.bytes = qw_row_bytes(e.dtype, elements);
    at->begin = offset;
    at->end = offset + e.bytes; /* compared with the data's size at the end */
    at->entry = c->store->entries;
    if (at->end < offset)
        return qw_fail(c->err, QWEN_EFORMAT, "%s: its offset %llu is out of range", where,
                       (unsigned long long)offset);
    if (original_shape(c, tensor, where, &e, elements)) return c->err->status;
    return qw_store_put(c->store, tensor, e, c->err);
}

static int by_begin(const void *a, const void *b)
{
    const span *x = a, *y = b;
    return x->begin != y->begin ? (x->begin < y->begin ? -1 : 1)
                                : (x->end > y->end) - (x->end < y->end);
}

/* Checks that every tensor lies inside the data and none over another; gaps are padding. */
static int place(cursor *c, span *at, uint64_t n, uint64_t alignment)
{
    const qw_file *f = &c->store->file[c->file];
    const uint64_t head = (uint64_t)(c->at - f->map),
                   data = head + (alignment - head % alignment) % alignment;
    const uint64_t size = data <= f->bytes ? f->bytes - data : 0;
    char shown[300];
    if (n && data > f->bytes)
        return qw_fail(c->err, QWEN_EFORMAT,
                       "%s is truncated: with an alignment of %llu its data begin at %llu of %zu "
                       "bytes",
                       c->path, (unsigned long long)alignment, (unsigned long long)data, f->bytes);
    qsort(at, (size_t)n, sizeof *at, by_begin);
    for (uint64_t i = 0; i < n; i++) {
        qw_entry *e = &c->store->entry[at[i].entry];
        qw_visible(shown, sizeof shown, e->key);
        if (at[i].end > size)
            return qw_fail(c->err, QWEN_EFORMAT,
                           "%s: tensor \"%s\": its offset and size %llu..%llu are out of range or "
                           "truncated: the data have %llu bytes",
                           c->path, shown, (unsigned long long)at[i].begin,
                           (unsigned long long)at[i].end, (unsigned long long)size);
        if (i && at[i].begin < at[i - 1].end)
            return qw_fail(c->err, QWEN_EFORMAT,
                           "%s: tensor \"%s\" begins at offset %llu, inside another: they overlap",
                           c->path, shown, (unsigned long long)at[i].begin);
        e->data = f->map + data + at[i].begin;
    }
    return QWEN_OK;
}

static int tensors(cursor *c, uint64_t n, uint64_t alignment)
{
    if (n > left(c) / TENSOR_LEAST)
        return qw_fail(c->err, QWEN_EFORMAT,
                       "%s is truncated: %llu tensors do not fit into %llu bytes", c->path,
                       (unsigned long long)n, (unsigned long long)left(c));
    span *at = malloc(((size_t)n + 1) * sizeof *at);
    if (!at)
        return qw_fail(c->err, QWEN_ENOMEM, "%s: no memory for %llu tensors", c->path,
                       (unsigned long long)n);
    for (uint64_t i = 0; i < n && !c->err->status; i++) {
        char *tensor = name(c, "a tensor");
        if (tensor) read_tensor(c, tensor, alignment, &at[i]);
        free(tensor);
    }
    if (!c->err->status) place(c, at, n, alignment);
    free(at);
    return c->err->status;
}

/* --- the file ------------------------------------------------------------------------------ */

static int read_one(qw_store *s, int file, qw_error *err)
{
    const qw_file *f = &s->file[file];
    cursor c = { f->map, f->map + f->bytes, s, file, f->path, err };
    if (f->bytes < 24)
        return qw_fail(err, QWEN_EFORMAT, "%s has %zu bytes: too short for GGUF, truncated",
                       f->path, f->bytes);
    if (memcmp(f->map, "GGUF", 4))
        return qw_fail(err, QWEN_EFORMAT, "%s has not the magic of a GGUF file", f->path);
    c.at += 4;
    const uint64_t version = number(&c, 4, "the head");
    if (version != 2 && version != 3)
        return qw_fail(err, QWEN_EUNSUPPORTED, "%s has GGUF version %llu%s, expected 2 or 3",
                       f->path, (unsigned long long)version,
                       version & 0xffff ? "" : " (a big-endian file)");
    const uint64_t count = number(&c, 8, "the head"), keys = number(&c, 8, "the head");
    if (pairs(&c, keys)) return err->status;
    const uint64_t alignment = unsigned_of(&c, "general.alignment", 32);
    if (alignment == 0 || alignment & (alignment - 1))
        return qw_fail(err, QWEN_EFORMAT, "%s: its alignment %llu is no power of two", f->path,
                       (unsigned long long)alignment);
    return tensors(&c, count, alignment);
}

/* Checks that a part is the one that its name says. */
static int check_split(qw_store *s, int file, uint64_t no, uint64_t count, qw_error *err)
{
    const cursor c = { .store = s, .file = file };
    const uint64_t own = unsigned_of(&c, "split.no", 0), all = unsigned_of(&c, "split.count", 1);
    return own == no && all == count
               ? QWEN_OK
               : qw_fail(err, QWEN_EFORMAT, "%s says split.no %llu of %llu, its name %llu of %llu",
                         s->file[file].path, (unsigned long long)own, (unsigned long long)all,
                         (unsigned long long)no, (unsigned long long)count);
}

/* Adds the other parts of a split file: "<name>-00001-of-00003.gguf". */
static int read_splits(qw_store *s, int first, qw_error *err)
{
    const cursor c = { .store = s, .file = first };
    const uint64_t count = unsigned_of(&c, "split.count", 1), own = unsigned_of(&c, "split.no", 0);
    char tail[32];
    if (count <= 1) return QWEN_OK;
    char *path = strdup(s->file[first].path);
    if (!path) return qw_fail(err, QWEN_ENOMEM, "no memory for a path");
    const size_t n = strlen(path);
    snprintf(tail, sizeof tail, "-%05u-of-%05u.gguf", (unsigned)(own + 1), (unsigned)count);
    if (count > SPLITS || own >= count || n < strlen(tail) || strcmp(path + n - strlen(tail), tail))
        qw_fail(err, QWEN_EFORMAT,
                "%s says that it is part %llu of %llu, but its name does not end in %s", path,
                (unsigned long long)own + 1, (unsigned long long)count, tail);
    for (uint64_t i = 0; i < count && !err->status; i++) {
        int file;
        if (i == own) continue;
        snprintf(path + n - strlen(tail), strlen(tail) + 1, "-%05u-of-%05u.gguf", (unsigned)(i + 1),
                 (unsigned)count);
        if (!qw_store_map(s, path, &file, err)) {
            s->file[file].gguf = 1;
            if (!read_one(s, file, err)) check_split(s, file, i, count, err);
        }
    }
    free(path);
    return err->status;
}

int qw_gguf_read(qw_store *s, int file, qw_error *err)
{
    s->file[file].gguf = 1;
    const int status = read_one(s, file, err);
    return status ? status : read_splits(s, file, err);
}
