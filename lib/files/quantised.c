/* quantised.c - a linear layer's weight with its companions as an operand: scales, block scales,
 * rotation, a second half.
 *
 * A quantised layer L is marked by a tensor "L.comfy_quant" (JSON) or by the layer table in the
 * header's _quantization_metadata; fp8 and int8 weights may also just have "L.weight_scale" or
 * "L.scale_weight" beside them.  Weights that an operand can describe (a scale per tensor or row,
 * block scales, a rotated basis) stay in the mapping; others are unpacked into memory of the store:
 * 4 and 6 bit codes become int8, awq and layers with pre_quant_scale become f32.  Formats:
 * comfy-kitchen, docs of comfy-quants. */
#include "files/files.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NAME = 320, JSON_BYTES = 64 << 10, GROUP_LARGEST = 1 << 16 };

typedef enum format { PLAIN, FP8, INT8, MXFP8, NVFP4, W4A4, W4A8, AWQ } format;

typedef struct layer {
    qw_store *store;
    const qw_entry *weight;
    const char *module;
    qw_error *err;
    format format;
    char name[40];          /* of the format, as the file has it; "" without a marker */
    qw_dtype fp8;           /* that the marker names, or NONE */
    int64_t rotation;       /* group of the rotated basis, or 0 */
    int64_t group;          /* inputs per scale */
    int64_t n, k;           /* logical */
    int dry;                /* only check */
    char where[NAME + 460]; /* head of messages */
} layer;

static const qw_entry *companion(const layer *l, const char *leaf)
{
    char name[NAME];
    if ((size_t)snprintf(name, sizeof name, "%s.%s", l->module, leaf) >= sizeof name) return NULL;
    return qw_store_find(l->store, name);
}

static int64_t elements(const qw_entry *e)
{
    int64_t n = 1;
    for (int i = 0; i < e->rank; i++) n *= e->dim[i];
    return n;
}

static int refuse_shape(const layer *l, const qw_entry *e, const char *expected)
{
    char found[200], shown[200];
    qw_shape_text(e, found, sizeof found);
    return qw_fail(l->err, QWEN_EMODEL, "%s: tensor \"%s\" is %s %s, expected %s", l->where,
                   qw_visible(shown, sizeof shown, e->key), qw_dtype_name(e->dtype), found,
                   expected);
}

/* --- the marker ---------------------------------------------------------------------------- */

/* A key of the marker, or of the object `params` inside it. */
static const json_t *setting(const json_t *marker, const char *key)
{
    const json_t *v = json_object_get(marker, key);
    return v ? v : json_object_get(json_object_get(marker, "params"), key);
}

static int read_group(const layer *l, const json_t *marker, const char *key, int64_t silent,
                      int64_t *out)
{
    const json_t *v = setting(marker, key);
    *out = v ? json_integer_value(v) : silent;
    return *out >= 1 && *out <= GROUP_LARGEST
               ? QWEN_OK
               : qw_fail(l->err, QWEN_EFORMAT, "%s: %s is not a number from 1 to %d", l->where, key,
                         GROUP_LARGEST);
}

/* The rotation's group: a power of four. */
static int read_rotation(layer *l, const json_t *marker)
{
    if (read_group(l, marker, "convrot_groupsize", 256, &l->rotation)) return l->err->status;
    int64_t power = 1;
    while (power < l->rotation) power *= 4;
    return power == l->rotation && power > 1
               ? QWEN_OK
               : qw_fail(l->err, QWEN_EFORMAT, "%s: convrot_groupsize %lld is no power of 4",
                         l->where, (long long)l->rotation);
}

static int read_format(layer *l, const json_t *marker)
{
    static const struct {
        const char *name;
        format format;
        qw_dtype fp8;
        int64_t group;
    } known[] = {
        { "float8_e4m3fn", FP8, QW_F8E4M3, 0 },
        { "float8_e5m2", FP8, QW_F8E5M2, 0 },
        { "int8_tensorwise", INT8, 0, 0 },
        { "mxfp8", MXFP8, 0, 0 },
        { "nvfp4", NVFP4, 0, 0 },
        { "convrot_w4a4", W4A4, 0, 0 },
        { "asym_w4a8_int8", W4A8, 0, 16 },
        { "awq_w4a16", AWQ, 0, 64 },
    };
    char shown[100];
    const char *name = json_string_value(setting(marker, "format"));
    if (!name && json_is_true(setting(marker, "per_row")) && l->weight->dtype == QW_I8)
        name = "int8_tensorwise";
    if (!name)
        return qw_fail(l->err, QWEN_EFORMAT, "%s: its comfy_quant names no format", l->where);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name)) continue;
        snprintf(l->name, sizeof l->name, "%s", name);
        snprintf(l->where + strlen(l->where), sizeof l->where - strlen(l->where), " (%s)", name);
        l->format = known[i].format;
        l->fp8 = known[i].fp8;
        if (known[i].group && read_group(l, marker, "group_size", known[i].group, &l->group))
            return l->err->status;
        const int rotated = l->format == W4A4 || l->format == W4A8
                            || (l->format == INT8 && json_is_true(setting(marker, "convrot")));
        return rotated ? read_rotation(l, marker) : QWEN_OK;
    }
    return qw_fail(l->err, QWEN_EUNSUPPORTED, "%s: comfy_quant format \"%s\" is not supported",
                   l->where, qw_visible(shown, sizeof shown, name));
}

/* The layer's entry in the header of its file: under the key as in the file, then under our
 * name. */
static const json_t *in_header(const layer *l)
{
    char name[NAME];
    const json_t *table = l->store->file[l->weight->file].layers;
    const size_t n = strlen(l->weight->key);
    if (!table || n < 7 || n - 7 >= sizeof name) return NULL;
    snprintf(name, sizeof name, "%.*s", (int)(n - 7), l->weight->key);
    const json_t *v = json_object_get(table, name);
    return v ? v : json_object_get(table, l->module);
}

static int read_marker(layer *l)
{
    const qw_entry *e = companion(l, "comfy_quant");
    const json_t *header = e ? NULL : in_header(l);
    json_t *own = NULL;
    int status;
    if (!e && !header) {
        l->format = qw_block_elements(l->weight->dtype) > 1                          ? PLAIN
                    : l->weight->dtype == QW_F8E4M3 || l->weight->dtype == QW_F8E5M2 ? FP8
                    : l->weight->dtype == QW_I8                                      ? INT8
                                                                                     : PLAIN;
        return QWEN_OK;
    }
    if (e) {
        if (e->dtype != QW_U8 || e->bytes > JSON_BYTES || e->bytes == 0)
            return qw_fail(l->err, QWEN_EFORMAT,
                           "%s: its comfy_quant is %s of %zu bytes, expected JSON in u8", l->where,
                           qw_dtype_name(e->dtype), e->bytes);
        json_error_t why;
        own = json_loadb(e->data, e->bytes, JSON_REJECT_DUPLICATES, &why);
        if (!own && json_error_code(&why) == json_error_out_of_memory)
            return qw_fail(l->err, QWEN_ENOMEM, "%s: no memory to read its comfy_quant", l->where);
    }
    if (!json_is_object(own ? own : header))
        status =
            qw_fail(l->err, QWEN_EFORMAT, "%s: its comfy_quant is not a JSON object", l->where);
    else status = read_format(l, own ? own : header);
    json_decref(own);
    return status;
}

/* --- pieces -------------------------------------------------------------------------------- */

/* The n numbers of a companion of any float type as floats (bytes of u8 are e4m3 codes), in memory
 * of the store. */
static float *floats(const layer *l, const qw_entry *e)
{
    enum { PART = 256 }; /* a multiple of every block */
    const qw_dtype type = e->dtype == QW_U8 ? QW_F8E4M3 : e->dtype;
    const int64_t n = elements(e);
    double part[PART];
    float *x = qw_store_own(l->store, (size_t)n * sizeof *x, l->err);
    if (!x) return NULL;
    for (int64_t i = 0; i < n; i += PART) {
        const int64_t m = n - i < PART ? n - i : PART;
        qw_numbers_get(type, (const char *)e->data + qw_row_bytes(type, i), m, part);
        qw_numbers_put(QW_F32, part, m, x + i);
    }
    for (int64_t i = 0; e != l->weight && i < n; i++) {
        if (isfinite(x[i])) continue;
        qw_fail(l->err, QWEN_EFORMAT, "%s: value %lld of \"%s\" is not finite", l->where,
                (long long)i, e->name);
        return NULL;
    }
    return x;
}

static int is_float(const qw_entry *e)
{
    return e->dtype == QW_F64 || e->dtype == QW_F32 || e->dtype == QW_F16 || e->dtype == QW_BF16;
}

/* The weight as it lies, [n][k] of its own type. */
static int plain_shape(const layer *l)
{
    const qw_entry *e = l->weight;
    char expected[80];
    snprintf(expected, sizeof expected, "[%lld, %lld]", (long long)l->n, (long long)l->k);
    return e->rank >= 1 && e->dim[0] == l->n && elements(e) == l->n * l->k
               ? QWEN_OK
               : refuse_shape(l, e, expected);
}

/* One scale for the tensor ([] or [1]) or one per row ([n] or [n, 1]). */
static int row_scale(layer *l, const qw_entry *e, qw_tensor *out)
{
    char expected[120];
    const int64_t n = elements(e);
    const int rows = n == l->n && e->rank >= 1 && e->dim[0] == l->n;
    snprintf(expected, sizeof expected, "floats [], [1], [%lld] or [%lld, 1]", (long long)l->n,
             (long long)l->n);
    if (!is_float(e) || (n != 1 && !rows)) return refuse_shape(l, e, expected);
    if (l->dry) return QWEN_OK;
    out->scale = floats(l, e);
    out->scale_stride = n == 1 ? 0 : 1;
    return l->err->status;
}

static const qw_entry *required(const layer *l, const char *leaf)
{
    const qw_entry *e = companion(l, leaf);
    if (!e) qw_fail(l->err, QWEN_EMODEL, "%s: its \"%s\" is missing", l->where, leaf);
    return e;
}

static int check_rotation(const layer *l)
{
    return !l->rotation || l->k % l->rotation == 0
               ? QWEN_OK
               : qw_fail(l->err, QWEN_EFORMAT,
                         "%s: convrot_groupsize %lld does not divide its %lld inputs", l->where,
                         (long long)l->rotation, (long long)l->k);
}

/* Codes packed into bytes: [n][bytes a row]. */
static int packed_shape(const layer *l, int64_t bytes)
{
    const qw_entry *e = l->weight;
    char expected[80];
    snprintf(expected, sizeof expected, "i8 or u8 [%lld, %lld]", (long long)l->n, (long long)bytes);
    return (e->dtype == QW_I8 || e->dtype == QW_U8) && e->rank == 2 && e->dim[0] == l->n
                   && e->dim[1] == bytes
               ? QWEN_OK
               : refuse_shape(l, e, expected);
}

/* Block scales in tiles of 128 x 4, padded: as they lie in the file. */
static int block_scales(layer *l, int64_t block, qw_dtype type, qw_tensor *out)
{
    const qw_entry *e = required(l, "weight_scale");
    if (!e) return l->err->status;
    const int64_t rows = (l->n + 127) / 128 * 128, columns = (l->k / block + 3) / 4 * 4;
    char expected[120];
    snprintf(expected, sizeof expected, "%s or u8 [%lld, %lld]", qw_dtype_name(type),
             (long long)rows, (long long)columns);
    if (l->k % block)
        return qw_fail(l->err, QWEN_EFORMAT,
                       "%s: its %lld inputs are no whole number of blocks of %lld", l->where,
                       (long long)l->k, (long long)block);
    if ((e->dtype != type && e->dtype != QW_U8) || elements(e) != rows * columns || e->rank < 1
        || (e->rank == 2 && e->dim[0] != rows))
        return refuse_shape(l, e, expected);
    out->block_scale = e->data;
    return QWEN_OK;
}

/* --- formats ------------------------------------------------------------------------------- */

/* Codes that mean nothing without a marker. */
static int refuse_codes(const layer *l, const qw_entry *e)
{
    switch (e->dtype) {
    case QW_F8E8M0:
    case QW_F4:
    case QW_I16:
    case QW_I32:
    case QW_I64:
    case QW_U8:
    case QW_U16:
    case QW_U32:
    case QW_U64:
    case QW_BOOL:
        return qw_fail(l->err, QWEN_EUNSUPPORTED,
                       "%s: its weight is %s without a comfy_quant, which says nothing", l->where,
                       qw_dtype_name(e->dtype));
    default: return QWEN_OK;
    }
}

static int layout_plain(layer *l, qw_tensor *out)
{
    const qw_entry *e = l->weight;
    if (plain_shape(l) || refuse_codes(l, e)) return l->err->status;
    *out = qw_dense2((void *)(uintptr_t)e->data, e->dtype, l->n, l->k);
    /* Blocks across rows (a GGUF whose shape was changed) and doubles become f32. */
    if (l->dry || (l->k % qw_block_elements(e->dtype) == 0 && e->dtype != QW_F64)) return QWEN_OK;
    *out = qw_dense2(floats(l, e), QW_F32, l->n, l->k);
    return l->err->status;
}

/* The temporal halves of the vision patch embedding in GGUF, [n][c][p][p] each, as f32
 * [n][c][2][p][p]. */
static int layout_halves(layer *l, const qw_entry *second, qw_tensor *out)
{
    const qw_entry *half[2] = { l->weight, second };
    const int64_t c = half[0]->rank == 4 ? half[0]->dim[1] : 0, plane = c ? l->k / 2 / c : 0;
    for (int h = 0; h < 2; h++) {
        if (half[h]->rank != 4 || half[h]->dim[0] != l->n || half[h]->dim[1] != c || !plane
            || elements(half[h]) != l->n * c * plane || l->k != 2 * c * plane
            || plane % qw_block_elements(half[h]->dtype))
            return refuse_shape(l, half[h], "half of the patch embedding");
        if (refuse_codes(l, half[h])) return l->err->status;
    }
    float *joined = qw_store_own(l->store, (size_t)(l->n * l->k) * sizeof *joined, l->err);
    double *x = joined ? malloc((size_t)plane * sizeof *x) : NULL;
    if (joined && !x) qw_fail(l->err, QWEN_ENOMEM, "%s: no memory for a plane", l->where);
    for (int64_t i = 0; x && i < 2 * l->n * c; i++) {
        const qw_entry *e = half[i % 2];
        const size_t at = qw_row_bytes(e->dtype, i / 2 * plane);
        qw_numbers_get(e->dtype, (const char *)e->data + at, plane, x);
        qw_numbers_put(QW_F32, x, plane, joined + i * plane);
    }
    free(x);
    *out = qw_dense2(joined, QW_F32, l->n, l->k);
    return l->err->status;
}

static int layout_fp8(layer *l, qw_tensor *out)
{
    const qw_entry *e = l->weight, *scale = companion(l, "weight_scale");
    if (l->fp8 && e->dtype != l->fp8)
        return qw_fail(l->err, QWEN_EFORMAT, "%s: its weight is %s", l->where,
                       qw_dtype_name(e->dtype));
    if (plain_shape(l)) return l->err->status;
    *out = qw_dense2((void *)(uintptr_t)e->data, e->dtype, l->n, l->k);
    if (!scale) scale = companion(l, "scale_weight");
    if (!scale && *l->name) scale = required(l, "weight_scale");
    return scale ? row_scale(l, scale, out) : l->err->status;
}

static int layout_int8(layer *l, qw_tensor *out)
{
    const qw_entry *scale = required(l, "weight_scale");
    if (!scale || plain_shape(l) || check_rotation(l)) return l->err->status;
    if (l->weight->dtype != QW_I8) return refuse_shape(l, l->weight, "i8");
    *out = qw_dense2((void *)(uintptr_t)l->weight->data, QW_I8, l->n, l->k);
    out->rotated = (int)l->rotation;
    return row_scale(l, scale, out);
}

static int layout_mxfp8(layer *l, qw_tensor *out)
{
    if (plain_shape(l)) return l->err->status;
    if (l->weight->dtype != QW_F8E4M3) return refuse_shape(l, l->weight, "f8_e4m3");
    *out = qw_dense2((void *)(uintptr_t)l->weight->data, QW_MXFP8, l->n, l->k);
    return block_scales(l, 32, QW_F8E8M0, out);
}

/* Rows as f32, inputs times pre_quant_scale [k]. */
static int scale_inputs(layer *l, const qw_entry *pre, qw_tensor *out)
{
    if (!is_float(pre) || elements(pre) != l->k)
        return refuse_shape(l, pre, "floats, one an input");
    if (l->dry) return QWEN_OK;
    const float *x = floats(l, pre);
    float *w = x ? qw_store_own(l->store, (size_t)(l->n * l->k) * sizeof *w, l->err) : NULL;
    double *row = w ? malloc((size_t)l->k * sizeof *row) : NULL;
    if (w && !row)
        return qw_fail(l->err, QWEN_ENOMEM, "%s: no memory for a row of %lld inputs", l->where,
                       (long long)l->k);
    for (int64_t i = 0; row && i < l->n; i++) {
        qw_row_get(out, i, 0, 0, row);
        for (int64_t j = 0; j < l->k; j++) row[j] *= (double)x[j];
        qw_numbers_put(QW_F32, row, l->k, w + i * l->k);
    }
    free(row);
    *out = qw_dense2(w, QW_F32, l->n, l->k);
    return l->err->status;
}

static int layout_nvfp4(layer *l, qw_tensor *out)
{
    const qw_entry *second = required(l, "weight_scale_2"), *pre = companion(l, "pre_quant_scale");
    if (packed_shape(l, l->k / 2) || !second) return l->err->status;
    *out = qw_dense2((void *)(uintptr_t)l->weight->data, QW_NVFP4, l->n, l->k);
    if (block_scales(l, 16, QW_F8E4M3, out)) return l->err->status;
    if (!is_float(second) || elements(second) != 1) return refuse_shape(l, second, "one float");
    if (!l->dry && !(out->scale = floats(l, second))) return l->err->status;
    return pre ? scale_inputs(l, pre, out) : QWEN_OK;
}

static int nibble(const unsigned char *row, int64_t j)
{
    return row[j / 2] >> (j % 2 ? 4 : 0) & 15;
}

static int layout_w4a4(layer *l, qw_tensor *out)
{
    const qw_entry *scale = required(l, "weight_scale");
    if (!scale || packed_shape(l, l->k / 2) || check_rotation(l)) return l->err->status;
    if (row_scale(l, scale, out) || l->dry) return l->err->status;
    signed char *w = qw_store_own(l->store, (size_t)(l->n * l->k), l->err);
    if (!w) return l->err->status;
    for (int64_t i = 0; i < l->n; i++)
        for (int64_t j = 0; j < l->k; j++)
            w[i * l->k + j] =
                (signed char)((nibble((const unsigned char *)l->weight->data + i * (l->k / 2), j)
                               ^ 8)
                              - 8);
    const qw_tensor scaled = *out;
    *out = qw_dense2(w, QW_I8, l->n, l->k);
    out->scale = scaled.scale;
    out->scale_stride = scaled.scale_stride;
    out->rotated = (int)l->rotation;
    return QWEN_OK;
}

/* Code j of a row: 4 bits, or the low 4 bits first and the upper two after k/2 bytes. */
static int code_of(const unsigned char *row, int64_t j, int64_t k, int six)
{
    return nibble(row, j) | (six ? (row[k / 2 + j / 4] >> 2 * (j % 4) & 3) << 4 : 0);
}

static int layout_w4a8(layer *l, qw_tensor *out)
{
    const qw_entry *rel = required(l, "weight_s_rel"), *channel = required(l, "weight_s_channel");
    const qw_entry *book = companion(l, "weight_codebook");
    if (!rel || !channel) return l->err->status;
    const int six = l->weight->rank == 2 && l->k % 4 == 0 && l->weight->dim[1] == l->k / 4 * 3;
    if (l->k % l->group || l->k % 2 || packed_shape(l, six ? l->k / 4 * 3 : l->k / 2)
        || check_rotation(l))
        return qw_fail(l->err, QWEN_EFORMAT, "%s: group_size %lld does not divide its %lld inputs",
                       l->where, (long long)l->group, (long long)l->k);
    if (elements(rel) != l->n * (l->k / l->group)
        || (!is_float(rel) && rel->dtype != QW_F8E4M3 && rel->dtype != QW_U8))
        return refuse_shape(l, rel, "a scale for each row and group");
    if (!is_float(channel) || elements(channel) != l->n)
        return refuse_shape(l, channel, "a scale for each row");
    if (book && (!is_float(book) || elements(book) != 16))
        return refuse_shape(l, book, "16 floats");
    if (l->dry) return QWEN_OK;
    const float *s = floats(l, rel), *table = s && book ? floats(l, book) : NULL;
    const float *rows = s ? floats(l, channel) : NULL;
    signed char *w = rows ? qw_store_own(l->store, (size_t)(l->n * l->k), l->err) : NULL;
    if (!w || (book && !table)) return l->err->status;
    const int64_t row_bytes = l->weight->dim[1];
    for (int64_t i = 0; i < l->n; i++)
        for (int64_t j = 0; j < l->k; j++) {
            const int c =
                code_of((const unsigned char *)l->weight->data + i * row_bytes, j, l->k, six);
            const float v = table && !six ? table[c] : (float)(c - (six ? 32 : 8));
            const float q =
                rintf(v * s[(i * l->k + j) / l->group]); /* the rounding is part of the format */
            w[i * l->k + j] = (signed char)(q > 127 ? 127 : q < -127 ? -127 : q == q ? q : 0);
        }
    *out = qw_dense2(w, QW_I8, l->n, l->k);
    out->scale = rows;
    out->scale_stride = 1;
    out->rotated = (int)l->rotation;
    return QWEN_OK;
}

/* w = (u - 8) s + z with s and z [k / group][n]. */
static int layout_awq(layer *l, qw_tensor *out)
{
    const qw_entry *scale = required(l, "weight_scale"), *zero = companion(l, "weight_zeros");
    if (!zero) zero = companion(l, "weight_zero");
    if (scale && !zero) zero = required(l, "weight_zeros");
    if (!scale || !zero || packed_shape(l, l->k / 2)) return l->err->status;
    if (l->k % l->group)
        return qw_fail(l->err, QWEN_EFORMAT, "%s: group_size %lld does not divide its %lld inputs",
                       l->where, (long long)l->group, (long long)l->k);
    for (int i = 0; i < 2; i++) {
        const qw_entry *e = i ? zero : scale;
        if (!is_float(e) || e->rank != 2 || e->dim[0] != l->k / l->group || e->dim[1] != l->n)
            return refuse_shape(l, e, "floats [inputs / group_size, outputs]");
    }
    if (l->dry) return QWEN_OK;
    const float *s = floats(l, scale), *z = s ? floats(l, zero) : NULL;
    float *w = z ? qw_store_own(l->store, (size_t)(l->n * l->k) * sizeof *w, l->err) : NULL;
    if (!w) return l->err->status;
    for (int64_t i = 0; i < l->n; i++)
        for (int64_t j = 0; j < l->k; j++) {
            const int u = nibble((const unsigned char *)l->weight->data + i * (l->k / 2), j);
            const int64_t at = j / l->group * l->n + i;
            w[i * l->k + j] = (float)((double)(u - 8) * (double)s[at] + (double)z[at]);
        }
    *out = qw_dense2(w, QW_F32, l->n, l->k);
    return QWEN_OK;
}

static int lay_out(layer *l, qw_tensor *out)
{
    *out = (qw_tensor){ 0 };
    switch (l->format) {
    case FP8: return layout_fp8(l, out);
    case INT8: return layout_int8(l, out);
    case MXFP8: return layout_mxfp8(l, out);
    case NVFP4: return layout_nvfp4(l, out);
    case W4A4: return layout_w4a4(l, out);
    case W4A8: return layout_w4a8(l, out);
    case AWQ: return layout_awq(l, out);
    case PLAIN: break;
    }
    const qw_entry *second = companion(l, "weight.1");
    return second ? layout_halves(l, second, out) : layout_plain(l, out);
}

static layer layer_of(qw_store *s, const qw_entry *weight, const char *module, qw_error *err)
{
    layer l = { .store = s, .weight = weight, .module = module, .err = err };
    char shown[NAME];
    snprintf(l.where, sizeof l.where, "%.400s: \"%s\"", qw_store_path(s, weight->file),
             qw_visible(shown, sizeof shown, module));
    return l;
}

/* A tensor laid out before, for nets that are loaded more than once from one store. */
static qw_tensor *remembered(qw_store *s, const qw_entry *weight, qw_error *err)
{
    if (!s->operand) {
        s->operand = calloc((size_t)s->entries + 1, sizeof *s->operand);
        s->operands = s->entries;
        if (!s->operand) qw_fail(err, QWEN_ENOMEM, "no memory for a list of weights");
    }
    const int64_t i = weight - s->entry;
    return s->operand && i >= 0 && i < s->operands ? &s->operand[i] : NULL;
}

int qw_layout(qw_store *s, const qw_entry *weight, const char *module, int64_t n, int64_t k,
              qw_tensor *out, qw_error *err)
{
    layer l = layer_of(s, weight, module, err);
    *out = (qw_tensor){ 0 };
    if (err->status) return err->status;
    qw_tensor *before = remembered(s, weight, err);
    if (before && before->rank == 2 && before->dim[0] == n && before->dim[1] == k) {
        *out = *before;
        return QWEN_OK;
    }
    l.n = n;
    l.k = k;
    const qw_entry *second = companion(&l, "weight.1");
    if (second) s->entry[second - s->entry].used = 1;
    if (read_marker(&l) || lay_out(&l, out)) {
        *out = (qw_tensor){ 0 };
        return err->status;
    }
    if (before) *before = *out;
    return err->status;
}

/* Inputs of a marked layer, from what the file holds. */
static int64_t inputs_of(const layer *l)
{
    const int64_t rows = l->weight->rank ? l->weight->dim[0] : 0,
                  stored = rows ? elements(l->weight) / rows : 0;
    const qw_entry *rel = l->format == W4A8 ? companion(l, "weight_s_rel") : NULL;
    if (rel && rows && elements(rel) <= INT64_MAX / GROUP_LARGEST)
        return elements(rel) / rows * l->group;
    return l->format == NVFP4 || l->format == W4A4 || l->format == W4A8 || l->format == AWQ
               ? 2 * stored
               : stored;
}

/* The table in the header: {"layers": {"<layer>": {"format": ...}}}. */
static int read_table(qw_file *f, qw_error *err)
{
    const char *text = json_string_value(json_object_get(f->metadata, "_quantization_metadata"));
    json_error_t why;
    if (!text || f->layers) return QWEN_OK;
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    f->layers = json_incref(json_object_get(json, "layers"));
    json_decref(json);
    if (!json && json_error_code(&why) == json_error_out_of_memory)
        return qw_fail(err, QWEN_ENOMEM, "%s: no memory to read its _quantization_metadata",
                       f->path);
    return json_is_object(f->layers)
               ? QWEN_OK
               : qw_fail(err, QWEN_EFORMAT,
                         "%s: its _quantization_metadata is not JSON with an object \"layers\"",
                         f->path);
}

int qw_layouts_check(qw_store *s, qw_error *err)
{
    for (int i = 0; i < s->files; i++)
        if (read_table(&s->file[i], err)) return err->status;
    for (int64_t i = 0; i < s->entries; i++) {
        char module[NAME];
        const qw_entry *e = &s->entry[i];
        const size_t length = strlen(e->name);
        if (length < 8 || length - 7 >= sizeof module || !qw_ends_with(e->name, ".weight"))
            continue;
        snprintf(module, sizeof module, "%.*s", (int)(length - 7), e->name);
        layer l = layer_of(s, e, module, err);
        if (!companion(&l, "comfy_quant") && !in_header(&l)) continue;
        qw_tensor unused;
        l.dry = 1;
        if (read_marker(&l)) return err->status;
        l.n = e->rank ? e->dim[0] : 0;
        l.k = inputs_of(&l);
        if (lay_out(&l, &unused)) return err->status;
    }
    return QWEN_OK;
}
