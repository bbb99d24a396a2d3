/* gguf.c - a GGUF container, version 2 or 3, to entries over the mapping.
 *
 * Magic, version, the number of tensors and of keys; the keys; the tensors (name, dims with the
 * innermost first, type, offset); padding to the alignment; the data.  All little endian.  The file
 * is hostile: every count and length is held against the bytes left before it is used. */
#include "store.h"
#include "host.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_LEAST = 13, TENSOR_LEAST = 32, ARRAY_SHOWN = 64, DIMS = 4 };
enum {
    T_U8, T_I8, T_U16, T_I16, T_U32, T_I32, T_F32, T_BOOL, T_STRING, T_ARRAY, T_U64, T_I64, T_F64,
    T_TYPES
};
static const unsigned char widths[T_TYPES] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

typedef struct reader {
    const unsigned char *p;
    size_t      left;
    const char *path;
    qw_error   *err;
} reader;

typedef struct span { uint64_t begin, end; int64_t entry; } span;

typedef struct part {                   /* of a file that may be split */
    uint64_t no, count, tensors;
} part;

static const unsigned char *take(reader *r, size_t n, const char *what)
{
    if (n > r->left) {
        qw_fail(r->err, QWEN_EFORMAT, "%s is truncated: %s needs %zu bytes, %zu are left", r->path,
                what, n, r->left);
        return NULL;
    }
    const unsigned char *p = r->p;
    r->p += n;
    r->left -= n;
    return p;
}

static uint64_t little(const unsigned char *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) v |= (uint64_t)p[i] << 8 * i;
    return v;
}

static int number(reader *r, size_t bytes, uint64_t *out, const char *what)
{
    const unsigned char *p = take(r, bytes, what);
    *out = p ? little(p, bytes) : 0;
    return p ? QWEN_OK : r->err->status;
}

static int string(reader *r, const char **text, size_t *bytes, const char *what)
{
    uint64_t length = 0;
    if (number(r, 8, &length, what)) return r->err->status;
    if (length > r->left)
        return qw_fail(r->err, QWEN_EFORMAT,
                       "%s is truncated: the string of %s has a length of %" PRIu64
                       " bytes, %zu are left", r->path, what, length, r->left);
    *text = (const char *)take(r, (size_t)length, what);
    *bytes = (size_t)length;
    return QWEN_OK;
}

/* A name is UTF-8 without a zero inside; *out is malloc'ed. */
static int name_of(reader *r, char **out, const char *what)
{
    const char *text;
    size_t bytes;
    *out = NULL;
    if (string(r, &text, &bytes, what)) return r->err->status;
    if (qw_utf8_invalid(text, bytes) >= 0 || memchr(text, 0, bytes))
        return qw_fail(r->err, QWEN_EFORMAT, "%s: the name of %s is not UTF-8 text", r->path, what);
    *out = malloc(bytes + 1);
    if (!*out) return qw_fail(r->err, QWEN_ENOMEM, "%s: no memory for a name", r->path);
    memcpy(*out, text, bytes);
    (*out)[bytes] = 0;
    return QWEN_OK;
}

/* --- keys ------------------------------------------------------------------------------------ */

static int scalar_text(int type, const unsigned char *p, char *out, size_t size)
{
    const uint64_t v = little(p, widths[type]);
    const uint32_t low = (uint32_t)v;
    float f;
    double d;
    memcpy(&f, &low, sizeof f);
    memcpy(&d, &v, sizeof d);
    switch (type) {
    case T_I8:   return snprintf(out, size, "%d", (int)(int8_t)low);
    case T_I16:  return snprintf(out, size, "%d", (int)(int16_t)low);
    case T_I32:  return snprintf(out, size, "%ld", (long)(int32_t)low);
    case T_I64:  return snprintf(out, size, "%lld", (long long)(int64_t)v);
    case T_F32:  return snprintf(out, size, "%.17g", (double)f);
    case T_F64:  return snprintf(out, size, "%.17g", d);
    case T_BOOL: return snprintf(out, size, "%d", v != 0);
    default:     return snprintf(out, size, "%llu", (unsigned long long)v);
    }
}

static int type_of(reader *r, uint64_t *type, const char *where)
{
    if (number(r, 4, type, where)) return r->err->status;
    if (*type >= T_TYPES)
        return qw_fail(r->err, QWEN_EUNSUPPORTED,
                       "%s: %s has a value of the unknown type %" PRIu64, r->path,
                       where, *type);
    return QWEN_OK;
}

/* A short array of scalars as "1,2,3"; of any other array only the bounds are checked. */
static int read_array(reader *r, const char *where, json_t **out)
{
    uint64_t type = 0, count = 0;
    char text[ARRAY_SHOWN * 32], what[400];
    snprintf(what, sizeof what, "the array of %s", where);
    if (type_of(r, &type, what) || number(r, 8, &count, what)) return r->err->status;
    if (type == T_ARRAY)
        return qw_fail(r->err, QWEN_EFORMAT, "%s: %s has arrays nested in it", r->path, what);
    const size_t width = type == T_STRING ? 8 : widths[type];
    if (count > r->left / width)
        return qw_fail(r->err, QWEN_EFORMAT,
                       "%s is truncated: %s has a length of %" PRIu64 ", %zu bytes are left",
                       r->path,
                       what, count, r->left);
    if (type == T_STRING) {
        const char *ignored;
        size_t bytes;
        for (uint64_t i = 0; i < count; i++)
            if (string(r, &ignored, &bytes, what)) return r->err->status;
        return QWEN_OK;
    }
    const unsigned char *p = take(r, (size_t)count * width, what);
    if (!p || count > ARRAY_SHOWN) return r->err->status;
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; i < count; i++) {
        if (i) text[used++] = ',';
        used += (size_t)scalar_text((int)type, p + i * width, text + used, sizeof text - used);
    }
    *out = json_string(text);
    return *out ? QWEN_OK : qw_fail(r->err, QWEN_ENOMEM, "%s: no memory for %s", r->path, where);
}

/* *out stays NULL where the value is not kept. */
static int read_value(reader *r, uint64_t type, const char *where, json_t **out)
{
    if (type == T_ARRAY) return read_array(r, where, out);
    if (type == T_STRING) {
        const char *text;
        size_t bytes, clean;
        if (string(r, &text, &bytes, where)) return r->err->status;
        char *copy = qw_utf8_replace(text, bytes, &clean);
        if (copy) *out = json_stringn(copy, clean);
        free(copy);
    } else {
        char text[64];
        const unsigned char *p = take(r, widths[type], where);
        if (!p) return r->err->status;
        scalar_text((int)type, p, text, sizeof text);
        *out = json_string(text);
    }
    return *out ? QWEN_OK : qw_fail(r->err, QWEN_ENOMEM, "%s: no memory for %s", r->path, where);
}

static int read_key(reader *r, json_t *seen, json_t *metadata)
{
    char *key, shown[300], where[340];
    uint64_t type = 0;
    json_t *value = NULL;
    if (name_of(r, &key, "a metadata key")) return r->err->status;
    snprintf(where, sizeof where, "metadata key \"%s\"", qw_visible(shown, sizeof shown, key));
    int status;
    if (json_object_get(seen, key))
        status = qw_fail(r->err, QWEN_EFORMAT,
                         "%s: %s is there twice, a duplicate", r->path, where);
    else if (json_object_set_new(seen, key, json_true()))
        status = qw_fail(r->err, QWEN_ENOMEM, "%s: no memory for %s", r->path, where);
    else
        status = type_of(r, &type, where);
    if (!status) status = read_value(r, type, where, &value);
    if (!status && value && json_object_set(metadata, key, value))
        status = qw_fail(r->err, QWEN_ENOMEM, "%s: no memory for %s", r->path, where);
    json_decref(value);
    free(key);
    return status;
}

static int read_keys(reader *r, uint64_t count, json_t *metadata)
{
    json_t *seen = json_object();
    int status = seen ? QWEN_OK : qw_fail(r->err, QWEN_ENOMEM,
                                          "%s: no memory for its keys", r->path);
    for (uint64_t i = 0; i < count && !status; i++) status = read_key(r, seen, metadata);
    json_decref(seen);
    return status;
}

/* A key that is a whole number from 0; otherwise fallback when it is not there. */
static int whole(const json_t *metadata, const char *key, uint64_t fallback, uint64_t *out,
                 const char *path, qw_error *err)
{
    const char *text = json_string_value(json_object_get(metadata, key));
    char *end, shown[100];
    *out = fallback;
    if (!text) return QWEN_OK;
    *out = strtoull(text, &end, 10);
    if (*text >= '0' && *text <= '9' && !*end && strlen(text) < 20) return QWEN_OK;
    return qw_fail(err, QWEN_EFORMAT, "%s: %s is \"%s\", expected a whole number", path, key,
                   qw_visible(shown, sizeof shown, text));
}

/* --- tensors --------------------------------------------------------------------------------- */

static qw_dtype dtype_of(uint64_t id)
{
    static const unsigned char types[] = {
        [0] = QW_F32, [1] = QW_F16, [2] = QW_Q4_0, [3] = QW_Q4_1, [6] = QW_Q5_0, [7] = QW_Q5_1,
        [8] = QW_Q8_0, [10] = QW_Q2_K, [11] = QW_Q3_K, [12] = QW_Q4_K, [13] = QW_Q5_K,
        [14] = QW_Q6_K, [16] = QW_IQ2_XXS, [17] = QW_IQ2_XS, [18] = QW_IQ3_XXS, [19] = QW_IQ1_S,
        [20] = QW_IQ4_NL, [21] = QW_IQ3_S, [22] = QW_IQ2_S, [23] = QW_IQ4_XS, [24] = QW_I8,
        [25] = QW_I16, [26] = QW_I32, [27] = QW_I64, [28] = QW_F64, [29] = QW_IQ1_M,
        [30] = QW_BF16,
    };
    return id < sizeof types ? (qw_dtype)types[id] : QW_NONE;
}

/* The dims, reversed to outermost first; their product. */
static int read_dims(reader *r, qw_entry *e, int64_t *elements, const char *where)
{
    uint64_t rank = 0, d = 0;
    if (number(r, 4, &rank, where)) return r->err->status;
    if (rank < 1 || rank > DIMS)
        return qw_fail(r->err, QWEN_EFORMAT,
                       "%s: %s has %" PRIu64 " dims, expected 1 to %d", r->path, where,
                       rank, DIMS);
    e->rank = (int)rank;
    *elements = 1;
    for (int i = e->rank - 1; i >= 0; i--) {
        if (number(r, 8, &d, where)) return r->err->status;
        if (d < 1) return qw_fail(r->err, QWEN_EFORMAT, "%s: %s has a dim of 0", r->path, where);
        if (d > (uint64_t)(INT64_MAX / 16 / *elements))
            return qw_fail(r->err, QWEN_EFORMAT,
                           "%s: the dims of %s overflow: their size is too large", r->path,
                           where);
        e->dim[i] = (int64_t)d;
        *elements *= (int64_t)d;
    }
    return QWEN_OK;
}

/* comfy.gguf.orig_shape.<name>: the shape meant, outermost first, of the same size. */
static int original_shape(const qw_store *s, qw_entry *e, const char *name, int64_t elements,
                          const char *where, reader *r)
{
    static const char head[] = "comfy.gguf.orig_shape.";
    char *key = malloc(sizeof head + strlen(name));
    if (!key) return qw_fail(r->err, QWEN_ENOMEM, "%s: no memory for a name", r->path);
    strcpy(key, head);
    strcat(key, name);
    const char *text = qw_store_metadata(s, key);
    free(key);
    if (!text) return QWEN_OK;
    int64_t dim[QW_FILE_RANK], product = 1;
    int rank = 0, good = 1;
    for (char *end; good && *text; text = *end == ',' ? end + 1 : end) {
        const long long d = strtoll(text, &end, 10);
        good = end != text && (!*end || (*end == ',' && end[1])) && rank < QW_FILE_RANK && d > 0 &&
               d <= elements / product;
        if (!good) break;
        product *= dim[rank++] = d;
    }
    if (!good || !rank || product != elements)
        return qw_fail(r->err, QWEN_EFORMAT,
                       "%s: %s has %lld elements, %s<name> says another shape", r->path,
                       where, (long long)elements, head);
    e->rank = rank;
    memcpy(e->dim, dim, (size_t)rank * sizeof *dim);
    return QWEN_OK;
}

static int read_type(reader *r, qw_entry *e, int64_t elements, const char *where)
{
    uint64_t type = 0;
    const int64_t row = e->dim[e->rank - 1];
    if (number(r, 4, &type, where)) return r->err->status;
    e->dtype = dtype_of(type);
    if (e->dtype == QW_NONE)
        return qw_fail(r->err, QWEN_EUNSUPPORTED,
                       "%s: %s has type %" PRIu64 ", which is not known or was removed",
                       r->path, where, type);
    const int64_t block = qw_block_elements(e->dtype);
    if (row % block)
        return qw_fail(r->err, QWEN_EFORMAT,
                       "%s: %s has rows of %lld elements, not whole blocks of %lld (%s)",
                       r->path, where, (long long)row, (long long)block, qw_dtype_name(e->dtype));
    e->bytes = qw_row_bytes(e->dtype, elements);
    return QWEN_OK;
}

static int read_tensor(reader *r, qw_store *s, int file, span *at)
{
    qw_entry e = { .file = file };
    int64_t elements = 0;
    char *name, shown[300], where[340];
    if (name_of(r, &name, "a tensor")) return r->err->status;
    snprintf(where, sizeof where, "tensor \"%s\"", qw_visible(shown, sizeof shown, name));
    int status = read_dims(r, &e, &elements, where);
    if (!status) status = read_type(r, &e, elements, where);
    if (!status) status = number(r, 8, &at->begin, where);
    if (!status) status = original_shape(s, &e, name, elements, where, r);
    at->entry = s->entries;
    at->end = e.bytes;                  /* the begin is added when the data's size is known */
    if (!status) status = qw_store_put(s, name, e, r->err);
    free(name);
    return status;
}

static int by_begin(const void *a, const void *b)
{
    const span *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static int check_overlap(const qw_store *s, span *at, uint64_t n, const char *path, qw_error *err)
{
    char a[300], b[300];
    qsort(at, (size_t)n, sizeof *at, by_begin);
    for (uint64_t i = 1; i < n; i++) {
        const char *before = s->entry[at[i - 1].entry].key, *name = s->entry[at[i].entry].key;
        if (at[i].begin >= at[i - 1].end) continue;
        if (!strcmp(before, name))
            return qw_fail(err, QWEN_EFORMAT, "%s: tensor \"%s\" is there twice, a duplicate", path,
                           qw_visible(a, sizeof a, name));
        return qw_fail(err, QWEN_EFORMAT,
                       "%s: tensors \"%s\" and \"%s\" overlap at offset %" PRIu64, path,
                       qw_visible(a, sizeof a, before), qw_visible(b, sizeof b, name), at[i].begin);
    }
    return QWEN_OK;
}

/* Offsets to addresses. data: the bytes after the padded header. */
static int place(qw_store *s, span *at, uint64_t n, const unsigned char *data, uint64_t size,
                 uint64_t alignment, reader *r)
{
    char shown[300];
    for (uint64_t i = 0; i < n; i++) {
        qw_entry *e = &s->entry[at[i].entry];
        qw_visible(shown, sizeof shown, e->key);
        if (at[i].begin % alignment)
            return qw_fail(r->err, QWEN_EFORMAT,
                           "%s: tensor \"%s\" has offset %" PRIu64 ", not aligned to %" PRIu64,
                           r->path, shown, at[i].begin, alignment);
        if (at[i].begin > size || e->bytes > size - at[i].begin)
            return qw_fail(r->err, QWEN_EFORMAT,
                           "%s: tensor \"%s\" has %zu bytes at offset %" PRIu64
                           ", out of range or truncated: the data have %" PRIu64, r->path, shown,
                           e->bytes, at[i].begin, size);
        e->data = data + at[i].begin;
        at[i].end += at[i].begin;
    }
    return check_overlap(s, at, n, r->path, r->err);
}

static int read_tensors(reader *r, qw_store *s, int file, uint64_t count)
{
    const qw_file f = s->file[file];
    uint64_t alignment;
    int status = whole(f.metadata, "general.alignment", 32, &alignment, r->path, r->err);
    if (status) return status;
    if (!alignment || alignment & (alignment - 1) || alignment > 1 << 30)
        return qw_fail(r->err, QWEN_EFORMAT,
                       "%s: alignment %" PRIu64 " is no power of two up to 2^30", r->path,
                       alignment);
    if (count > r->left / TENSOR_LEAST)
        return qw_fail(r->err, QWEN_EFORMAT,
                       "%s is truncated: it would have %" PRIu64 " tensors, %zu bytes are left",
                       r->path,
                       count, r->left);
    span *at = malloc(((size_t)count + 1) * sizeof *at);
    if (!at) return qw_fail(r->err, QWEN_ENOMEM, "%s: no memory for its tensors", r->path);
    for (uint64_t i = 0; i < count && !status; i++) status = read_tensor(r, s, file, &at[i]);
    const uint64_t header = f.bytes - r->left, start = (header + alignment - 1) & ~(alignment - 1);
    if (!status && count && start > f.bytes)
        status = qw_fail(r->err, QWEN_EFORMAT,
                         "%s is truncated: its data would begin at byte %" PRIu64
                         " (alignment %" PRIu64 "), it has %zu", r->path, start, alignment, f.bytes);
    if (!status && count)
        status = place(s, at, count, f.map + start, f.bytes - start, alignment, r);
    free(at);
    return status;
}

/* --- files ----------------------------------------------------------------------------------- */

static int read_head(reader *r, uint64_t *tensors, uint64_t *keys)
{
    uint64_t magic = 0, version = 0;
    if (r->left < 24)
        return qw_fail(r->err, QWEN_EFORMAT,
                       "%s has %zu bytes: too short, truncated in the head of a GGUF file",
                       r->path, r->left);
    number(r, 4, &magic, "the magic");
    if (magic != 0x46554747)
        return qw_fail(r->err, QWEN_EFORMAT, "%s does not begin with the magic \"GGUF\"", r->path);
    number(r, 4, &version, "the version");
    if (version != 2 && version != 3)
        return qw_fail(r->err, QWEN_EUNSUPPORTED,
                       "%s has GGUF version %" PRIu64 "%s, versions 2 and 3 are supported",
                       r->path, version,
                       version && !(version & 0xffff) ? " (or is big-endian)" : "");
    number(r, 8, tensors, "the number of tensors");
    number(r, 8, keys, "the number of keys");
    if (*keys > r->left / KEY_LEAST)
        return qw_fail(r->err, QWEN_EFORMAT,
                       "%s is truncated: it would have %" PRIu64
                       " metadata keys, %zu bytes are left",
                       r->path, *keys, r->left);
    return QWEN_OK;
}

static int read_part(qw_store *s, int file, part *out, qw_error *err)
{
    qw_file *f = &s->file[file];
    reader r = { f->map, f->bytes, f->path, err };
    uint64_t keys = 0;
    int status = read_head(&r, &out->tensors, &keys);
    if (status) return status;
    f->gguf = 1;
    f->metadata = json_object();
    if (!f->metadata) return qw_fail(err, QWEN_ENOMEM, "%s: no memory for its keys", f->path);
    status = read_keys(&r, keys, f->metadata);
    if (!status) status = whole(f->metadata, "split.no", 0, &out->no, f->path, err);
    if (!status) status = whole(f->metadata, "split.count", 1, &out->count, f->path, err);
    return status ? status : read_tensors(&r, s, file, out->tensors);
}

/* "<name>-00001-of-00003.gguf" of a path, with another number in it; malloc'ed. */
static char *part_path(const char *path, uint64_t number_of, uint64_t count, qw_error *err)
{
    enum { TAIL = sizeof "-00001-of-00001.gguf" - 1 };
    char tail[TAIL + 40];
    const size_t n = strlen(path);
    snprintf(tail, sizeof tail, "-%05d-of-%05" PRIu64 ".gguf", 1, count);
    if (count > 99999 || n < TAIL || strcmp(path + n - TAIL, tail)) {
        qw_fail(err, QWEN_EFORMAT,
                "%s is part 1 of %" PRIu64 ", its name must end with %s", path, count, tail);
        return NULL;
    }
    char *out = malloc(n + 1);
    if (!out) {
        qw_fail(err, QWEN_ENOMEM, "no memory for a path");
        return NULL;
    }
    snprintf(tail, sizeof tail, "-%05" PRIu64 "-of-%05" PRIu64 ".gguf", number_of, count);
    memcpy(out, path, n - TAIL);
    memcpy(out + n - TAIL, tail, TAIL + 1);
    return out;
}

static int read_next(qw_store *s, int first, uint64_t no, uint64_t count, uint64_t *tensors,
                     qw_error *err)
{
    part p;
    int file;
    char *path = part_path(s->file[first].path, no + 1, count, err);
    if (!path) return err->status;
    int status = qw_store_map(s, path, &file, err);
    if (!status) status = read_part(s, file, &p, err);
    if (!status && (p.no != no || p.count != count))
        status = qw_fail(err, QWEN_EFORMAT,
                         "%s says it is split.no %" PRIu64 " of %" PRIu64 ", its name says %" PRIu64
                         " of %" PRIu64, path, p.no, p.count, no, count);
    if (!status) *tensors += p.tensors;
    free(path);
    return status;
}

int qw_gguf_read(qw_store *s, int file, qw_error *err)
{
    part p;
    uint64_t expected;
    int status = read_part(s, file, &p, err);
    if (status || p.count <= 1) return status;
    if (p.no)
        return qw_fail(err, QWEN_EFORMAT,
                       "%s is part %" PRIu64 " of %" PRIu64 ": name the first one",
                       s->file[file].path, p.no + 1, p.count);
    uint64_t tensors = p.tensors;
    for (uint64_t no = 1; no < p.count && !status; no++)
        status = read_next(s, file, no, p.count, &tensors, err);
    const qw_file *f = &s->file[file];
    if (!status) status = whole(f->metadata, "split.tensors.count",
    tensors, &expected, f->path, err);
    if (!status && expected != tensors)
        status = qw_fail(err, QWEN_EFORMAT,
                         "%s: the parts have %" PRIu64 " tensors, split.tensors.count is %" PRIu64,
                         f->path, tensors, expected);
    return status;
}
