/* bench_file.c - a checkpoint of random weights: names and shapes, written as safetensors or GGUF.
 *
 * A matrix is made of rows of a pool, which has some 2^18 numbers: large files are written at the
 * speed of the disk.  The data depend on the names and shapes alone. */
#include "bench.h"
#include "fill.h"
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NAME = 128, POOL = 1 << 18, ALIGN = 64, GGUF_VERSION = 3 };

typedef enum role { MATRIX, ROW_SCALES, ONE_SCALE, MARKER, VECTOR } role;
typedef struct item {
    char name[NAME];
    role role;
    qw_dtype type;
    int rank, counted;
    int64_t dim[5];
    double mean;  /* VECTOR */
    int64_t k;    /* elements of a row of the matrix, or of the one that the scales belong to */
    int owner;    /* ROW_SCALES, ONE_SCALE: index of the matrix */
    size_t bytes; /* in the file */
} item;

struct qw_sheet {
    item *item;
    int items, room, failed;
    qw_dtype weights; /* of the matrices that follow */
    int gguf, rotated, counted;
};

/* --- names and shapes ------------------------------------------------------------------------- */

qw_sheet *qw_sheet_new(qw_dtype weights, int rotated)
{
    qw_sheet *s = calloc(1, sizeof *s);
    if (s)
        *s = (qw_sheet){ .weights = weights,
                         .gguf = qw_block_elements(weights) > 1,
                         .rotated = rotated,
                         .counted = 1 };
    return s;
}

void qw_sheet_free(qw_sheet *s)
{
    if (s) free(s->item);
    free(s);
}

void qw_sheet_count(qw_sheet *s, int counted) { s->counted = counted; }
void qw_sheet_type(qw_sheet *s, qw_dtype weights) { s->weights = weights; }

static const char *marker_of(const qw_sheet *s)
{
    return s->rotated
               ? "{\"format\": \"int8_tensorwise\", \"convrot\": true, \"convrot_groupsize\": 256}"
               : "{\"format\": \"int8_tensorwise\"}";
}

static int64_t elements(const item *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->dim[i];
    return n;
}

/* Appends an item named <name><leaf>; returns its index. */
static int add(qw_sheet *s, item t, const char *name, const char *leaf)
{
    if (s->items == s->room) {
        const int room = s->room ? 2 * s->room : 64;
        item *grown = realloc(s->item, (size_t)room * sizeof *grown);
        if (!grown) {
            s->failed = 1;
            return 0;
        }
        s->item = grown;
        s->room = room;
    }
    snprintf(t.name, sizeof t.name, "%.100s%s", name, leaf);
    t.counted = s->counted;
    t.bytes = qw_row_bytes(t.type, elements(&t));
    s->item[s->items] = t;
    return s->items++;
}

static void add_vector(qw_sheet *s, int64_t n, double mean, const char *name, const char *leaf)
{
    /* GGUF files keep vectors in f32. */
    const qw_dtype t = s->gguf || s->weights == QW_F32 ? QW_F32 : QW_BF16;
    add(s, (item){ .role = VECTOR, .type = t, .rank = 1, .dim = { n }, .mean = mean }, name, leaf);
}

#define READ_NAME(name, format)                 \
    char name[NAME];                            \
    va_list args;                               \
    va_start(args, format);                     \
    vsnprintf(name, sizeof name, format, args); \
    va_end(args)

void qw_sheet_linear(qw_sheet *s, int64_t n, int64_t k, int bias, const char *format, ...)
{
    READ_NAME(name, format);
    const qw_dtype t = s->weights;
    item matrix = { .role = MATRIX, .type = t, .rank = 2, .dim = { n, k }, .k = k };
    const int owner = add(s, matrix, name, ".weight");
    if (t == QW_I8) {
        const int64_t length = (int64_t)strlen(marker_of(s));
        add(s, (item){ .role = MARKER, .type = QW_U8, .rank = 1, .dim = { length } }, name,
            ".comfy_quant");
        add(s,
            (item){
                .role = ROW_SCALES, .type = QW_F32, .rank = 2, .dim = { n, 1 }, .owner = owner },
            name, ".weight_scale");
    } else if (t == QW_F8E4M3) {
        add(s, (item){ .role = ONE_SCALE, .type = QW_F32, .rank = 1, .dim = { 1 }, .owner = owner },
            name, ".weight_scale");
    }
    if (bias) add_vector(s, n, 0, name, ".bias");
}

void qw_sheet_conv(qw_sheet *s, int64_t co, int64_t ci, int64_t kernel, int taps,
                   const char *format, ...)
{
    READ_NAME(name, format);
    item t = { .role = MATRIX, .type = s->weights, .k = ci * taps * kernel * kernel };
    const int64_t dim[5] = { co, ci, taps, kernel, kernel };
    for (int i = 0; i < 5; i++)
        if (i != 2 || taps) t.dim[t.rank++] = dim[i];
    if (!taps) t.k = ci * kernel * kernel;
    add(s, t, name, ".weight");
    add_vector(s, co, 0, name, ".bias");
}

void qw_sheet_vector(qw_sheet *s, int64_t n, double mean, const char *format, ...)
{
    READ_NAME(name, format);
    add_vector(s, n, mean, name, "");
}

double qw_sheet_bytes(const qw_sheet *s)
{
    double n = 0;
    for (int i = 0; i < s->items; i++)
        if (s->item[i].counted) /* of the temporal taps of a kernel one is used */
            n += (double)s->item[i].bytes / (double)(s->item[i].rank == 5 ? s->item[i].dim[2] : 1);
    return n;
}

/* --- numbers ---------------------------------------------------------------------------------- */

void qw_bench_normals(double *x, int64_t n, uint64_t seed)
{
    qw_random r = qw_random_of(seed, 7);
    for (int64_t i = 0; i < n; i++) x[i] = qw_stored(QW_BF16, qw_gauss(&r));
}

static uint64_t name_hash(const char *s)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    while (*s) h = (h ^ (unsigned char)*s++) * UINT64_C(0x100000001b3);
    return h;
}

/* The rows that a matrix is made of, as a weight of a case of the kit: deviation 1 / sqrt(k). */
static int make_pool(qw_material *m, const item *t)
{
    const int64_t most = POOL / t->k, rows = most < 16 ? 16 : most;
    const qw_case c = { .op = QW_OP_gemm,
                        .dtype = { QW_BF16, t->type, QW_F32, QW_F32 },
                        .dim = { 1, rows, t->k },
                        .scales = t->type == QW_I8       ? QW_SCALE_ROW
                                  : t->type == QW_F8E4M3 ? QW_SCALE_ONE
                                                         : QW_SCALE_NONE,
                        .fill = QW_NORMAL,
                        .seed = 4 * (name_hash(t->name) % 100000) }; /* dense rows */
    return qw_material_make(m, &c, QW_F32);
}

/* Which row of the pool is row i. */
static int64_t pool_row(const item *t, int64_t i, int64_t rows)
{
    return (int64_t)((name_hash(t->name) + (uint64_t)i * UINT64_C(0x9e3779b97f4a7c15)) >> 20)
           % rows;
}

static int put(FILE *f, const void *data, size_t bytes)
{
    return bytes && fwrite(data, bytes, 1, f) != 1;
}

static int put_matrix(FILE *f, const item *t, const qw_material *m, const qw_datum *w)
{
    const size_t bytes = qw_row_bytes(t->type, t->k);
    const int64_t rows = m->c.dim[1], n = elements(t) / t->k;
    for (int64_t i = 0; i < n; i++)
        if (put(f, w->image + w->begin + (size_t)pool_row(t, i, rows) * bytes, bytes)) return 1;
    return 0;
}

/* Scales of the matrix `owner`, row by row, or its one. */
static int put_scales(FILE *f, const item *owner, const item *t, const qw_material *m,
                      const qw_datum *w)
{
    const int64_t n = elements(t), rows = m->c.dim[1];
    for (int64_t i = 0; i < n; i++) {
        const int64_t row = t->role == ROW_SCALES ? pool_row(owner, i, rows) : 0;
        if (put(f, &w->scale[row], sizeof *w->scale)) return 1;
    }
    return 0;
}

static int put_vector(FILE *f, const item *t)
{
    qw_random r = qw_random_of(name_hash(t->name), 3);
    for (int64_t i = 0; i < t->dim[0]; i++) {
        unsigned char out[8];
        const double x = t->mean + 0.02 * qw_gauss(&r);
        qw_numbers_put(t->type, &x, 1, out);
        if (put(f, out, qw_block_bytes(t->type))) return 1;
    }
    return 0;
}

static int put_item(FILE *f, const qw_sheet *s, const item *t, qw_error *err)
{
    int failed = 0;
    if (t->role == MARKER) failed = put(f, marker_of(s), t->bytes);
    else if (t->role == VECTOR) failed = put_vector(f, t);
    else {
        const item *owner = t->role == MATRIX ? t : &s->item[t->owner];
        qw_material m;
        if (make_pool(&m, owner)) qw_fail(err, QWEN_ENOMEM, "no memory for \"%s\"", t->name);
        else {
            const qw_datum *w = qw_datum_named(&m, "w");
            failed = t->role == MATRIX ? put_matrix(f, t, &m, w) : put_scales(f, owner, t, &m, w);
        }
        qw_material_free(&m);
    }
    if (failed) qw_fail(err, QWEN_EIO, "the temporary file of weights: %s", strerror(errno));
    return err->status;
}

/* --- the two formats -------------------------------------------------------------------------- */

static int put_number(FILE *f, uint64_t v, int width)
{
    unsigned char le[8];
    for (int i = 0; i < width; i++) le[i] = (unsigned char)(v >> 8 * i);
    return put(f, le, (size_t)width);
}

static const char *name_in_safetensors(qw_dtype t)
{
    switch (t) {
    case QW_F32: return "F32";
    case QW_F16: return "F16";
    case QW_BF16: return "BF16";
    case QW_F8E4M3: return "F8_E4M3";
    case QW_I8: return "I8";
    default: return "U8";
    }
}

/* The header, padded with spaces to a multiple of 64 bytes. */
static int put_safetensors_head(FILE *f, const qw_sheet *s)
{
    size_t at = 0, used = 0;
    const size_t room = (size_t)s->items * (NAME + 200) + 2 * ALIGN;
    char *head = malloc(room);
    if (!head) return 1;
    head[used++] = '{';
    for (int i = 0; i < s->items; i++) {
        const item *t = &s->item[i];
        used += (size_t)snprintf(head + used, room - used,
                                 "%s\"%s\": {\"dtype\": \"%s\", \"shape\": [", i ? ", " : "",
                                 t->name, name_in_safetensors(t->type));
        for (int k = 0; k < t->rank; k++)
            used += (size_t)snprintf(head + used, room - used, "%s%lld", k ? ", " : "",
                                     (long long)t->dim[k]);
        used += (size_t)snprintf(head + used, room - used, "], \"data_offsets\": [%zu, %zu]}", at,
                                 at + t->bytes);
        at += t->bytes;
    }
    head[used++] = '}';
    while ((8 + used) % ALIGN) head[used++] = ' ';
    const int failed = put_number(f, used, 8) || put(f, head, used);
    free(head);
    return failed;
}

static uint64_t type_in_gguf(qw_dtype t)
{
    static const unsigned char id[QW_NDTYPES] = {
        [QW_F32] = 0,    [QW_F16] = 1,     [QW_Q4_0] = 2,     [QW_Q4_1] = 3,    [QW_Q5_0] = 6,
        [QW_Q5_1] = 7,   [QW_Q8_0] = 8,    [QW_Q2_K] = 10,    [QW_Q3_K] = 11,   [QW_Q4_K] = 12,
        [QW_Q5_K] = 13,  [QW_Q6_K] = 14,   [QW_IQ2_XXS] = 16, [QW_IQ2_XS] = 17, [QW_IQ3_XXS] = 18,
        [QW_IQ1_S] = 19, [QW_IQ4_NL] = 20, [QW_IQ3_S] = 21,   [QW_IQ2_S] = 22,  [QW_IQ4_XS] = 23,
        [QW_IQ1_M] = 29, [QW_BF16] = 30,
    };
    return id[t];
}

static size_t padded(size_t n) { return (n + ALIGN - 1) / ALIGN * ALIGN; }

/* Magic, version, counts, the alignment, a line for each tensor, padding. */
static int put_gguf_head(FILE *f, const qw_sheet *s)
{
    static const char key[] = "general.alignment";
    enum { U32 = 4 };
    size_t at = 0;
    int bad = put(f, "GGUF", 4) || put_number(f, GGUF_VERSION, 4)
              || put_number(f, (uint64_t)s->items, 8) || put_number(f, 1, 8)
              || put_number(f, sizeof key - 1, 8) || put(f, key, sizeof key - 1)
              || put_number(f, U32, 4) || put_number(f, ALIGN, 4);
    for (int i = 0; i < s->items && !bad; i++) {
        const item *t = &s->item[i];
        bad = put_number(f, strlen(t->name), 8) || put(f, t->name, strlen(t->name))
              || put_number(f, (uint64_t)t->rank, 4);
        for (int k = t->rank - 1; k >= 0 && !bad; k--) bad = put_number(f, (uint64_t)t->dim[k], 8);
        bad = bad || put_number(f, type_in_gguf(t->type), 4) || put_number(f, at, 8);
        at += padded(t->bytes);
    }
    const long end = ftell(f);
    static const char zero[ALIGN];
    return bad || end < 0 || put(f, zero, padded((size_t)end) - (size_t)end);
}

static int put_file(FILE *f, const qw_sheet *s, qw_error *err)
{
    static const char zero[ALIGN];
    if (s->gguf ? put_gguf_head(f, s) : put_safetensors_head(f, s))
        return qw_fail(err, QWEN_EIO, "the temporary file of weights: %s", strerror(errno));
    for (int i = 0; i < s->items && !err->status; i++) {
        const item *t = &s->item[i];
        if (!put_item(f, s, t, err) && s->gguf && put(f, zero, padded(t->bytes) - t->bytes))
            qw_fail(err, QWEN_EIO, "the temporary file of weights: %s", strerror(errno));
    }
    return err->status;
}

int qw_sheet_write(const qw_sheet *s, const char *path, qw_error *err)
{
    if (s->failed) return qw_fail(err, QWEN_ENOMEM, "no memory for the names of weights");
    FILE *f = fopen(path, "wb");
    if (!f) return qw_fail(err, QWEN_EIO, "%s: %s", path, strerror(errno));
    put_file(f, s, err);
    if (fclose(f) && !err->status) qw_fail(err, QWEN_EIO, "%s: %s", path, strerror(errno));
    return err->status;
}

typedef struct opened {
    qw_store *store;
    qw_lora *lora;
} opened;

static void open_store(opened *o, const char *path, qw_error *err)
{
    if (!qw_store_new(&o->store, err)) qw_store_add(o->store, path, err);
}

static void open_lora(opened *o, const char *path, qw_error *err)
{
    qw_lora_open(&o->lora, path, 1, err);
}

/* In a folder of its own under $TMPDIR, which is gone afterwards. */
static int open_temporary(const qw_sheet *s, opened *o,
                          void (*open)(opened *o, const char *path, qw_error *err), qw_error *err)
{
    const char *tmp = getenv("TMPDIR");
    char folder[600], path[640];
    *o = (opened){ .store = NULL };
    snprintf(folder, sizeof folder, "%.500s/qwen-conform.XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(folder)) return qw_fail(err, QWEN_EIO, "%s: %s", folder, strerror(errno));
    snprintf(path, sizeof path, "%s/weights.%s", folder, s->gguf ? "gguf" : "safetensors");
    if (!qw_sheet_write(s, path, err)) open(o, path, err);
    unlink(path);
    rmdir(folder);
    if (!err->status) return QWEN_OK;
    qw_store_free(o->store);
    qw_lora_free(o->lora);
    *o = (opened){ .store = NULL };
    return err->status;
}

int qw_sheet_open(const qw_sheet *s, qw_store **out, qw_error *err)
{
    opened o;
    open_temporary(s, &o, open_store, err);
    *out = o.store;
    return err->status;
}

int qw_sheet_open_lora(const qw_sheet *s, qw_lora **out, qw_error *err)
{
    opened o;
    open_temporary(s, &o, open_lora, err);
    *out = o.lora;
    return err->status;
}
