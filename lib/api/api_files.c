/* api_files.c - public functions without a model: UTF-8, tokenizer, file of tensors, sizes. */
#include "api/api.h"
#include "files/store.h"
#include "host/text.h"
#include <stdlib.h>
#include <string.h>

int qw_give_ids(qw_error *err, int32_t *ids, int64_t n, qwen_array *out)
{
    *out = (qwen_array){ .data = ids, .dtype = QWEN_I32, .rank = 1, .dim = { n } };
    if (!ids && !(out->data = malloc(1))) return qw_fail(err, QWEN_ENOMEM, "no memory for the ids");
    return QWEN_OK;
}

int64_t qwen_utf8_invalid(const char *text, size_t bytes)
{
    return text ? qw_utf8_invalid(text, bytes) : -1;
}

char *qwen_utf8_replace(const char *text, size_t bytes, size_t *out_bytes)
{
    size_t n;
    return qw_utf8_replace(text ? text : "", text ? bytes : 0, out_bytes ? out_bytes : &n);
}

/* --- a tokenizer alone ------------------------------------------------------------------------ */

struct qwen_tokenizer {
    qw_error error;
    qw_tokenizer *t;
};

int qwen_tokenizer_open(qwen_tokenizer **out, const char *path)
{
    if (!out) return QWEN_EARG;
    qwen_tokenizer *t = *out = calloc(1, sizeof *t);
    if (!t) return QWEN_ENOMEM;
    if (!path) return qw_fail(&t->error, QWEN_EARG, "no path of a tokenizer");
    return qw_tokenizer_open(&t->t, path, &t->error);
}

int qwen_tokenizer_ids(qwen_tokenizer *t, const char *text, size_t bytes, qwen_array *ids)
{
    int32_t *list = NULL;
    int64_t n = 0;
    if (!t) return QWEN_EARG;
    if (!t->t) return t->error.status;
    memset(&t->error, 0, sizeof t->error);
    if (!ids || (!text && bytes))
        return qw_fail(&t->error, QWEN_EARG, "no text, or nowhere to put the ids");
    if (qw_tokenize(t->t, text ? text : "", bytes, &list, &n, &t->error)) return t->error.status;
    return qw_give_ids(&t->error, list, n, ids);
}

const char *qwen_tokenizer_error(const qwen_tokenizer *t)
{
    return t ? t->error.text : "no memory";
}

void qwen_tokenizer_close(qwen_tokenizer *t)
{
    if (!t) return;
    qw_tokenizer_free(t->t);
    free(t);
}

/* --- a file of tensors ------------------------------------------------------------------------ */

struct qwen_file {
    qw_error error;
    qw_store *store;
    int64_t count;
};

int qwen_file_open(qwen_file **out, const char *path)
{
    if (!out) return QWEN_EARG;
    qwen_file *f = *out = calloc(1, sizeof *f);
    if (!f) return QWEN_ENOMEM;
    if (!path) return qw_fail(&f->error, QWEN_EARG, "no path of a file");
    if (qw_store_new(&f->store, &f->error) || qw_store_add(f->store, path, &f->error))
        return f->error.status;
    while (qw_store_entry(f->store, f->count)) f->count++;
    return QWEN_OK;
}

int64_t qwen_file_count(const qwen_file *f) { return f ? f->count : 0; }

int qwen_file_tensor_at(const qwen_file *f, int64_t i, qwen_file_tensor *out)
{
    const qw_entry *e = f && f->store && i >= 0 ? qw_store_entry(f->store, i) : NULL;
    if (!e || !out) return QWEN_EARG;
    *out = (qwen_file_tensor){
        .name = e->key, .dtype = qw_dtype_name(e->dtype), .rank = e->rank, .bytes = e->bytes
    };
    memcpy(out->dim, e->dim, sizeof out->dim);
    return QWEN_OK;
}

static int64_t entry_elements(const qw_entry *e)
{
    int64_t n = 1;
    for (int i = 0; i < e->rank; i++) n *= e->dim[i];
    return n;
}

static int32_t integer_at(const qw_entry *e, int64_t i)
{
    const unsigned char *p = (const unsigned char *)e->data + (size_t)i * qw_block_bytes(e->dtype);
    int16_t i16;
    uint16_t u16;
    int32_t i32;
    int64_t i64;
    switch (e->dtype) {
    case QW_I8: return *(const signed char *)p;
    case QW_BOOL: return *p != 0;
    case QW_I16: memcpy(&i16, p, sizeof i16); return i16;
    case QW_U16: memcpy(&u16, p, sizeof u16); return u16;
    case QW_I64:
    case QW_U64:
        memcpy(&i64, p, sizeof i64);
        return i64 > INT32_MAX ? INT32_MAX : i64 < INT32_MIN ? INT32_MIN : (int32_t)i64;
    default: memcpy(&i32, p, sizeof i32); return i32;
    }
}

int qwen_file_read(qwen_file *f, const char *name, qwen_array *out)
{
    if (!f) return QWEN_EARG;
    if (!f->store || !f->count)
        return f->error.status ? f->error.status
                               : qw_fail(&f->error, QWEN_EARG, "the file holds no tensors");
    memset(&f->error, 0, sizeof f->error);
    if (!name || !out)
        return qw_fail(&f->error, QWEN_EARG, "no name, or nowhere to put the tensor");
    qw_store_read_ahead(f->store);
    const qw_entry *e = qw_store_find(f->store, name);
    char seen[200];
    if (!e)
        return qw_fail(&f->error, QWEN_EMODEL, "%s: there is no tensor \"%s\"",
                       qw_store_path(f->store, 0), qw_visible(seen, sizeof seen, name));
    const qw_dtype t = e->dtype;
    const int whole = t == QW_I8 || t == QW_I16 || t == QW_I32 || t == QW_I64 || t == QW_U16
                      || t == QW_U32 || t == QW_U64 || t == QW_BOOL;
    const int64_t n = entry_elements(e);
    *out = (qwen_array){ .dtype = t == QW_U8    ? QWEN_U8
                                  : t == QW_F64 ? QWEN_F64
                                  : whole       ? QWEN_I32
                                                : QWEN_F32,
                         .rank = e->rank };
    memcpy(out->dim, e->dim, sizeof out->dim);
    const size_t size = out->dtype == QWEN_U8 ? 1 : out->dtype == QWEN_F64 ? 8 : 4;
    out->data = malloc(n > 0 ? (size_t)n * size : 1);
    if (!out->data)
        return qw_fail(&f->error, QWEN_ENOMEM, "no memory for \"%s\"",
                       qw_visible(seen, sizeof seen, name));
    if (out->dtype == QWEN_U8 || out->dtype == QWEN_F64)
        memcpy(out->data, e->data, (size_t)n * size);
    else if (whole)
        for (int64_t i = 0; i < n; i++) ((int32_t *)out->data)[i] = integer_at(e, i);
    else qw_decode_f32(t, e->data, n, out->data);
    return QWEN_OK;
}

const char *qwen_file_metadata(const qwen_file *f, const char *key)
{
    return f && f->store && key ? qw_store_metadata(f->store, key) : NULL;
}

const char *qwen_file_error(const qwen_file *f) { return f ? f->error.text : "no memory"; }

void qwen_file_close(qwen_file *f)
{
    if (!f) return;
    qw_store_free(f->store);
    free(f);
}

/* --- sizes ------------------------------------------------------------------------------------ */

int qwen_aspect(const char *aspect, int *width, int *height)
{
    /* from the published model card */
    static const struct {
        const char *name;
        int w, h;
    } table[] = {
        { "1:1", 1328, 1328 }, { "16:9", 1664, 928 }, { "9:16", 928, 1664 }, { "4:3", 1472, 1104 },
        { "3:4", 1104, 1472 }, { "3:2", 1584, 1056 }, { "2:3", 1056, 1584 },
    };
    if (!aspect || !width || !height) return QWEN_EARG;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!strcmp(aspect, table[i].name)) {
            *width = table[i].w;
            *height = table[i].h;
            return QWEN_OK;
        }
    return QWEN_EARG;
}
