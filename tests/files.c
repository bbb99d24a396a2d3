/* files.c - files that tests make, in a folder of their own: safetensors, GGUF; opening files. */
#include "files/store.h"
#include "files.h"
#include "testing.h"
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <qwen/tensor.h>

static char folder[256];

void make_folder(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/qwtest.XXXXXX", tmp && *tmp ? tmp : "/tmp");
    ck_assert_msg(mkdtemp(folder) != NULL, "no folder %s", folder);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st;
    (void)type;
    (void)walk;
    return remove(path);
}

void remove_folder(void) { nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS); }

const char *made(const char *name)
{
    static char path[8][600];
    static int next;
    if (!name) return folder;
    char *out = path[next++ % 8];
    snprintf(out, sizeof path[0], "%s/%s", folder, name);
    return out;
}

const char *write_file(const char *name, const void *data, size_t bytes)
{
    const char *path = made(name);
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(data, 1, bytes, f), bytes);
    ck_assert_int_eq(fclose(f), 0);
    return path;
}

const char *write_text(const char *name, const char *text)
{
    return write_file(name, text, strlen(text));
}

/* --- bytes that grow ------------------------------------------------------------------------- */

void append(blob *b, const void *data, size_t n)
{
    if (b->n + n > b->room) {
        b->room = 2 * (b->n + n) + 64;
        b->data = realloc(b->data, b->room);
        ck_assert_ptr_nonnull(b->data);
    }
    if (data) memcpy(b->data + b->n, data, n);
    else memset(b->data + b->n, 0, n);
    b->n += n;
}

void append_text(blob *b, const char *text) { append(b, text, strlen(text)); }

void append_number(blob *b, uint64_t v, int width)
{
    unsigned char le[8];
    for (int i = 0; i < width; i++) le[i] = (unsigned char)(v >> 8 * i);
    append(b, le, (size_t)width);
}

const char *write_blob(const char *name, blob *b)
{
    const char *path = write_file(name, b->data, b->n);
    free(b->data);
    *b = (blob){ 0 };
    return path;
}

/* --- safetensors ----------------------------------------------------------------------------- */

static size_t item_bytes(const item *t)
{
    size_t n = !strcmp(t->dtype, "F32") ? 4
               : !strcmp(t->dtype, "U8") || !strcmp(t->dtype, "F8_E4M3") || !strcmp(t->dtype, "I8")
                   ? 1
                   : 2;
    for (int i = 0; i < t->rank; i++) n *= (size_t)t->dim[i];
    return n;
}

blob safetensors_bytes(const char *prefix, const item *t, int n, size_t pad)
{
    blob head = { 0 }, out = { 0 };
    char line[600];
    size_t at = 0;
    append_text(&head, "{");
    for (int i = 0; i < n; i++) {
        snprintf(line, sizeof line, "%s\"%s%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "",
                 prefix, t[i].name, t[i].dtype);
        append_text(&head, line);
        for (int j = 0; j < t[i].rank; j++) {
            snprintf(line, sizeof line, "%s%lld", j ? "," : "", (long long)t[i].dim[j]);
            append_text(&head, line);
        }
        snprintf(line, sizeof line, "],\"data_offsets\":[%zu,%zu]}", at, at + item_bytes(&t[i]));
        append_text(&head, line);
        at += item_bytes(&t[i]);
    }
    append_text(&head, "}");
    while ((8 + head.n) % 8 != pad) append_text(&head, " ");
    append_number(&out, head.n, 8);
    append(&out, head.data, head.n);
    for (size_t i = 0; i < at; i++) {
        const unsigned char c = (unsigned char)(i + 1);
        append(&out, &c, 1);
    }
    free(head.data);
    return out;
}

const char *write_safetensors(const char *name, const char *prefix, const item *t, int n)
{
    blob b = safetensors_bytes(prefix, t, n, 0);
    return write_blob(name, &b);
}

static const char *dtype_name(qw_dtype t)
{
    switch (t) {
    case QW_F64: return "F64";
    case QW_F32: return "F32";
    case QW_BF16: return "BF16";
    case QW_F16: return "F16";
    case QW_F8E4M3: return "F8_E4M3";
    case QW_F8E5M2: return "F8_E5M2";
    case QW_U8: return "U8";
    default: ck_abort_msg("this test does not write %s", qw_dtype_name(t)); return "";
    }
}

void sheaf_add(sheaf *s, const char *name, qw_entry e)
{
    s->e = realloc(s->e, (size_t)(s->n + 1) * sizeof *s->e);
    e.name = strdup(name);
    ck_assert(s->e && e.name);
    s->e[s->n++] = e;
}

qw_entry *sheaf_find(sheaf *s, const char *name)
{
    for (int i = 0; i < s->n; i++)
        if (!strcmp(s->e[i].name, name)) return &s->e[i];
    ck_abort_msg("no tensor %s", name);
    return NULL;
}

void sheaf_name(sheaf *s, const char *name)
{
    static const float one = 1;
    sheaf_add(s, name,
              (qw_entry){ .data = &one, .bytes = 4, .dtype = QW_F32, .rank = 1, .dim = { 1 } });
}

void sheaf_free(sheaf *s)
{
    for (int i = 0; i < s->n; i++) free(s->e[i].name);
    free(s->e);
    *s = (sheaf){ 0 };
}

const char *sheaf_write(sheaf *s, const char *name, int pad)
{
    const char *path = made(name);
    char *header = NULL;
    size_t length = 0, at = 0;
    FILE *h = open_memstream(&header, &length), *f = fopen(path, "wb");
    ck_assert(h && f);
    fputc('{', h);
    for (int i = 0; i < s->n; i++) {
        const qw_entry *e = &s->e[i];
        fprintf(h, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", e->name,
                dtype_name(e->dtype));
        for (int k = 0; k < e->rank; k++) fprintf(h, "%s%lld", k ? "," : "", (long long)e->dim[k]);
        fprintf(h, "],\"data_offsets\":[%zu,%zu]}", at, at + e->bytes);
        at += e->bytes;
    }
    fprintf(h, "}%*s", pad, "");
    fclose(h);
    for (int i = 0; i < 8; i++) fputc((int)((uint64_t)length >> 8 * i & 255), f);
    fwrite(header, 1, length, f);
    for (int i = 0; i < s->n; i++)
        ck_assert(!s->e[i].bytes || fwrite(s->e[i].data, s->e[i].bytes, 1, f) == 1);
    ck_assert_int_eq(fclose(f), 0);
    free(header);
    sheaf_free(s);
    return path;
}

void sheaf_store(sheaf *out, const qw_store *s, const char *prefix, int names_only)
{
    char name[400];
    for (int64_t i = 0; qw_store_entry(s, i); i++) {
        const qw_entry *e = qw_store_entry(s, i);
        snprintf(name, sizeof name, "%s%s", prefix, e->key);
        if (names_only) sheaf_name(out, name);
        else sheaf_add(out, name, *e);
    }
}

/* --- GGUF ------------------------------------------------------------------------------------ */

void gguf_string(blob *b, const char *s)
{
    append_number(b, strlen(s), 8);
    append_text(b, s);
}

void gguf_number(gguf *g, const char *key, int type, uint64_t v, int width)
{
    gguf_string(&g->head, key);
    append_number(&g->head, (uint64_t)type, 4);
    append_number(&g->head, v, width);
    g->kvs++;
}

void gguf_u32(gguf *g, const char *key, uint32_t v) { gguf_number(g, key, GGUF_U32, v, 4); }

void gguf_text(gguf *g, const char *key, const char *v)
{
    gguf_string(&g->head, key);
    append_number(&g->head, GGUF_STRING, 4);
    gguf_string(&g->head, v);
    g->kvs++;
}

void gguf_array(gguf *g, const char *key, int type, uint64_t n)
{
    gguf_string(&g->head, key);
    append_number(&g->head, GGUF_ARRAY, 4);
    append_number(&g->head, (uint64_t)type, 4);
    append_number(&g->head, n, 8);
    g->kvs++;
}

void gguf_tensor(gguf *g, const char *name, int type, const int64_t *dim, int rank, uint64_t offset,
                 size_t size)
{
    gguf_string(&g->info, name);
    append_number(&g->info, (uint64_t)rank, 4);
    for (int i = 0; i < rank; i++) append_number(&g->info, (uint64_t)dim[i], 8);
    append_number(&g->info, (uint64_t)type, 4);
    append_number(&g->info, offset, 8);
    while (g->data.n < offset + size) {
        const unsigned char c = (unsigned char)(g->data.n + 1);
        append(&g->data, &c, 1);
    }
    g->tensors++;
}

blob gguf_bytes(gguf *g)
{
    blob b = { 0 };
    if (g->alignment) gguf_u32(g, "general.alignment", g->alignment);
    append_text(&b, "GGUF");
    append_number(&b, (uint64_t)(g->version ? g->version : 3), 4);
    append_number(&b, g->tensors, 8);
    append_number(&b, g->kvs, 8);
    append(&b, g->head.data, g->head.n);
    append(&b, g->info.data, g->info.n);
    while (b.n % (g->alignment ? g->alignment : 32)) append(&b, NULL, 1);
    append(&b, g->data.data, g->data.n);
    free(g->head.data);
    free(g->info.data);
    free(g->data.data);
    return b;
}

const char *write_gguf(const char *name, gguf *g)
{
    blob b = gguf_bytes(g);
    return write_blob(name, &b);
}

/* --- stores ---------------------------------------------------------------------------------- */

void good(int status, const qw_error *err)
{
    ck_assert_msg(!status && !err->status, "%s", err->text);
}

qw_store *open_store(const char *path)
{
    qw_error err = { 0 };
    qw_store *s;
    good(qw_store_new(&s, &err), &err);
    good(qw_store_add(s, path, &err), &err);
    return s;
}

qw_store *open_part(const char *path, qw_kind part, qw_kind *found, qw_error *err)
{
    qw_store *s = NULL;
    qw_kind kind = QW_KIND_UNKNOWN;
    if (!qw_store_new(&s, err) && !qw_store_add(s, path, err))
        qw_store_canonical(s, part, &kind, err);
    if (found) *found = kind;
    return s;
}

qw_store *must_open(const char *path, qw_kind part)
{
    qw_error err = { 0 };
    qw_store *s = open_part(path, part, NULL, &err);
    ck_assert_msg(!err.status, "%s", err.text);
    return s;
}

void has(const qw_store *s, const char *path, const char *name)
{
    ck_assert_msg(qw_store_find(s, name) != NULL, "%s has no %s", path, name);
}

int add_status(const char *path)
{
    qw_error err = { 0 };
    qw_store *s = NULL;
    qw_store_new(&s, &err);
    qw_store_add(s, path, &err);
    qw_store_free(s);
    return err.status;
}

void flip_bits(const char *suffix, const blob *b, int bits)
{
    char name[64];
    unsigned opened = 0, sum = 0;
    snprintf(name, sizeof name, "flip%s", suffix);
    for (size_t i = 0; i < b->n; i++)
        for (int bit = 0; bit < bits; bit++) {
            qw_error err = { 0 };
            qw_store *s = NULL;
            qw_kind kind;
            b->data[i] ^= (unsigned char)(1 << bit);
            qw_store_new(&s, &err);
            if (!qw_store_add(s, write_file(name, b->data, b->n), &err))
                qw_store_canonical(s, QW_KIND_UNKNOWN, &kind, &err);
            for (int64_t k = 0; !err.status && qw_store_entry(s, k); k++) {
                const qw_entry *e = qw_store_entry(s, k);
                if (e->bytes)
                    sum += ((const unsigned char *)e->data)[0]
                           + ((const unsigned char *)e->data)[e->bytes - 1];
            }
            opened += !err.status;
            ck_assert_msg(!err.status == !err.text[0], "status %d, \"%s\"", err.status, err.text);
            b->data[i] ^= (unsigned char)(1 << bit);
            qw_store_free(s);
        }
    ck_assert(opened > 0 && opened < 8 * b->n && sum > 0);
}

int starts_with(const char *s, const char *head) { return !strncmp(s, head, strlen(head)); }

int ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}
