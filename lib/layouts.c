/* layouts.c - the weight of a linear layer, however a writer quantised it, as an operand [n][k].
 *
 * What the operand can say lies where it is in the file: plain types, GGUF blocks, fp8 and int8
 * with their scales, mxfp8, nvfp4.  What it cannot say is unpacked: 4 and 6 bit rotated layouts to
 * int8, awq and pre-scaled nvfp4 to floats.  A layer says what it is in a tensor
 * <layer>.comfy_quant (JSON) or in the header, under the key _quantization_metadata; fp8 may have a
 * scale and say nothing. */
#include "store.h"
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { MARKER_BYTES = 64 << 10, NAME = 320 };

typedef struct layer {
    qw_store       *s;
    const qw_entry *w;
    const char     *module;             /* canonical */
    int64_t         n, k;
    const json_t   *marker;             /* what the writer says, or NULL */
    const char     *format;             /* "plain" without marker */
    qw_tensor      *out;
    qw_error       *err;
} layer;

static int malformed(const layer *l, const char *format, ...) QW_PRINTF(2, 3);
static int malformed(const layer *l, const char *format, ...)
{
    char why[400], shown[64];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    return qw_fail(l->err, QWEN_EFORMAT, "%s: layer \"%s\" is malformed as %s: %s",
                   qw_store_path(l->s, l->w->file), l->module,
                   qw_visible(shown, sizeof shown, l->format), why);
}

static int no_memory(const layer *l)
{
    return qw_fail(l->err, QWEN_ENOMEM, "no memory for the weight of \"%s\"", l->module);
}

/* <module>.<leaf>, taken; NULL if it is not there. */
static const qw_entry *companion(const layer *l, const char *leaf)
{
    char name[NAME];
    snprintf(name, sizeof name, "%s.%s", l->module, leaf);
    qw_entry *e = (qw_entry *)(uintptr_t)qw_store_find(l->s, name);
    if (e) e->used = 1;
    return e;
}

static int64_t elements(const qw_entry *e)
{
    int64_t n = 1;
    for (int i = 0; i < e->rank; i++) n *= e->dim[i];
    return n;
}

/* --- shapes and small tensors ---------------------------------------------------------------- */

static int matrix(const layer *l, const qw_entry *e, const char *leaf, int64_t rows,
                  int64_t columns)
{
    char found[200];
    if (!e) return malformed(l, "%s is missing", leaf);
    qw_shape_text(e, found, sizeof found);
    if (e->rank != 2 || e->dim[0] != rows || e->dim[1] != columns)
        return malformed(l, "%s is %s %s, expected [%lld, %lld]",
        leaf, qw_dtype_name(e->dtype), found,
                         (long long)rows, (long long)columns);
    return QWEN_OK;
}

static int typed(const layer *l, const qw_entry *e, const char *leaf, qw_dtype a, qw_dtype b)
{
    if (e->dtype == a || e->dtype == b) return QWEN_OK;
    return malformed(l, "%s is %s, expected %s or %s",
    leaf, qw_dtype_name(e->dtype), qw_dtype_name(a),
                     qw_dtype_name(b));
}

/* The count values of e as floats in dst; all finite.  bytes_are: what U8 means, or QW_NONE. */
static int floats(const layer *l, const qw_entry *e, const char *leaf, int64_t count,
                  qw_dtype bytes_are, float *dst)
{
    const qw_dtype t = e->dtype == QW_U8 ? bytes_are : e->dtype;
    switch (t) {
    case QW_F32: case QW_F16: case QW_BF16: case QW_F8E4M3: case QW_F8E5M2:
        qw_decode_f32(t, e->data, count, dst);
        break;
    case QW_F64:
        for (int64_t i = 0; i < count; i++) {
            double d;
            memcpy(&d, (const char *)e->data + i * 8, sizeof d);
            dst[i] = (float)d;
        }
        break;
    default: return malformed(l, "%s is %s, expected floats", leaf, qw_dtype_name(e->dtype));
    }
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(dst[i])) return malformed(l, "value %lld of %s is not finite",
        (long long)i, leaf);
    return QWEN_OK;
}

/* The values of <leaf>, malloc'ed; it must have count of them in this shape (columns 0: [rows]). */
static float *loaded(const layer *l, const char *leaf, int64_t rows, int64_t columns,
                     qw_dtype bytes_are)
{
    const qw_entry *e = companion(l, leaf);
    char found[200];
    if (!e) {
        malformed(l, "%s is missing", leaf);
        return NULL;
    }
    qw_shape_text(e, found, sizeof found);
    if (columns) {
        if (matrix(l, e, leaf, rows, columns)) return NULL;
    } else if (!e->rank || e->dim[0] != rows || elements(e) != rows) {
        malformed(l, "%s is %s, expected [%lld]", leaf, found, (long long)rows);
        return NULL;
    }
    const int64_t count = elements(e);
    float *x = malloc((size_t)(count ? count : 1) * sizeof *x);
    if (!x) no_memory(l);
    if (x && floats(l, e, leaf, count, bytes_are, x)) {
        free(x);
        x = NULL;
    }
    return x;
}

/* A scale for the tensor ([], [1]) or for each row ([n], [n, 1]) as the operand's. */
static int scale(const layer *l, const qw_entry *e, const char *leaf, int rows)
{
    const int64_t count = elements(e);
    const int one = count == 1;
    const int each = (e->rank == 1 || e->rank == 2) && e->dim[0] == l->n && count == l->n;
    char found[200];
    qw_shape_text(e, found, sizeof found);
    if (!one && !(rows && each))
        return malformed(l, "%s is %s, expected one value%s for %lld rows", leaf, found,
                         rows ? " or one a row" : "", (long long)l->n);
    float *x = qw_store_own(l->s, (size_t)count * sizeof *x, l->err);
    if (!x) return l->err->status;
    l->out->scale = x;
    l->out->scale_stride = !one;
    return floats(l, e, leaf, count, QW_NONE, x);
}

/* --- the marker ------------------------------------------------------------------------------ */

/* The outer key wins over the one inside "params". */
static const json_t *option(const layer *l, const char *key)
{
    const json_t *v = json_object_get(l->marker, key);
    return v ? v : json_object_get(json_object_get(l->marker, "params"), key);
}

static int whole_option(const layer *l, const char *key, int64_t fallback, int64_t *out)
{
    const json_t *v = option(l, key);
    *out = v ? json_integer_value(v) : fallback;
    if (v && !json_is_integer(v)) return malformed(l, "%s is not a whole number", key);
    if (*out < 1 || l->k % *out)
        return malformed(l, "%s %lld does not divide the %lld inputs", key, (long long)*out,
                         (long long)l->k);
    return QWEN_OK;
}

/* The group of inputs that are rotated together: a power of 4 that divides k. */
static int rotation(const layer *l)
{
    int64_t g, rest;
    if (whole_option(l, "convrot_groupsize", 256, &g)) return l->err->status;
    for (rest = g; rest % 4 == 0; rest /= 4) {}
    if (rest != 1 || g < 4 || g > 1 << 20)
        return malformed(l, "convrot_groupsize %lld is not a power of 4", (long long)g);
    l->out->rotated = (int)g;
    return QWEN_OK;
}

/* The table of layers in a file's header, parsed once and kept beside the text; NULL if none. */
static const json_t *table(const layer *l, int file)
{
    static const char key[] = "_quantization_metadata", parsed[] = "_quantization_metadata.parsed";
    json_t *meta = l->s->file[file].metadata, *known = json_object_get(meta, parsed);
    const char *text = json_string_value(json_object_get(meta, key));
    if (json_is_object(known) || !text) return json_object_get(known, "layers");
    json_error_t why;
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (!json && json_error_code(&why) == json_error_out_of_memory) {
        no_memory(l);
    } else if (!json_is_object(json)) {
        malformed(l, "%s in the header is not a JSON object", key);
    } else if (json_object_set(meta, parsed, json)) {
        no_memory(l);
    }
    json_decref(json);
    known = json_object_get(meta, parsed);
    return l->err->status ? NULL : json_object_get(known, "layers");
}

/* What the header says of the layer, under its name in the file or else its canonical one. */
static int header_marker(layer *l)
{
    static const char leaf[] = ".weight";
    char *key = strdup(l->w->key);
    if (!key) return no_memory(l);
    const size_t n = strlen(key), m = sizeof leaf - 1;
    if (n > m && !strcmp(key + n - m, leaf)) key[n - m] = 0;
    for (int i = -1; i < l->s->files && !l->marker && !l->err->status; i++) {
        const json_t *layers = table(l, i < 0 ? l->w->file : i);
        l->marker = json_object_get(layers, key);
        if (!l->marker) l->marker = json_object_get(layers, l->module);
    }
    free(key);
    return l->err->status;
}

/* The marker of the layer; *owned is to be released. */
static int find_marker(layer *l, json_t **owned)
{
    const qw_entry *e = companion(l, "comfy_quant");
    *owned = NULL;
    l->format = "comfy_quant";
    if (!e) {
        if (header_marker(l)) return l->err->status;
    } else {
        if (e->dtype != QW_U8 && e->dtype != QW_I8)
            return malformed(l, "it is %s, expected bytes", qw_dtype_name(e->dtype));
        if (e->bytes > MARKER_BYTES)
            return malformed(l, "it has %zu bytes, at most %d are accepted",
            e->bytes, MARKER_BYTES);
        json_error_t why;
        char shown[2 * JSON_ERROR_TEXT_LENGTH];
        *owned = json_loadb(e->data, e->bytes, JSON_REJECT_DUPLICATES, &why);
        if (!*owned && json_error_code(&why) == json_error_out_of_memory) return no_memory(l);
        if (!*owned)
            return malformed(l, "not valid JSON: %s", qw_visible(shown, sizeof shown, why.text));
        l->marker = *owned;
    }
    if (!l->marker) {
        l->format = "plain";
        return QWEN_OK;
    }
    if (!json_is_object(l->marker)) return malformed(l, "it is not a JSON object");
    const char *format = json_string_value(json_object_get(l->marker, "format"));
    if (!format && json_object_get(l->marker, "per_row")) format = "int8_tensorwise";
    if (!format) return malformed(l, "it has no string \"format\"");
    l->format = format;
    return QWEN_OK;
}

/* --- what the operand can say ---------------------------------------------------------------- */

/* [n][k], or more dimensions of the same rows: kernels of 1 x 1, patches. */
static int check_shape(const layer *l)
{
    const qw_entry *e = l->w;
    int64_t row = 1;
    char found[200], shown[300];
    for (int i = 1; i < e->rank; i++) row *= e->dim[i];
    if (e->rank >= 1 && e->dim[0] == l->n && row == l->k) return QWEN_OK;
    qw_shape_text(e, found, sizeof found);
    return qw_fail(l->err, QWEN_EMODEL, "%s: tensor \"%s\" is %s, expected [%lld, %lld]",
                   qw_store_path(l->s, e->file), qw_visible(shown, sizeof shown, e->key), found,
                   (long long)l->n, (long long)l->k);
}

static void lie(const layer *l, qw_dtype type)
{
    *l->out = qw_dense2((void *)(uintptr_t)l->w->data, type, l->n, l->k);
}

/* Memory of the store as the operand, of a type with whole elements; NULL with err set. */
static void *unpacked(const layer *l, qw_dtype type)
{
    if (l->n > INT64_MAX / 16 / (l->k ? l->k : 1)) {
        no_memory(l);
        return NULL;
    }
    void *x = qw_store_own(l->s, qw_row_bytes(type, l->n * l->k), l->err);
    *l->out = qw_dense2(x, type, l->n, l->k);
    return x;
}

static int plain_floats(const layer *l)
{
    float *x = unpacked(l, QW_F32);
    if (!x) return l->err->status;
    if (l->w->dtype != QW_F64) {
        qw_decode_f32(l->w->dtype, l->w->data, l->n * l->k, x);
        return QWEN_OK;
    }
    for (int64_t i = 0; i < l->n * l->k; i++) {
        double d;
        memcpy(&d, (const char *)l->w->data + i * 8, sizeof d);
        x[i] = (float)d;
    }
    return QWEN_OK;
}

/* A scale beside a type that needs none must be 1. */
static int check_idle_scale(const layer *l, const qw_entry *e, const char *leaf)
{
    if (!e) return QWEN_OK;
    const int status = scale(l, e, leaf, 1);
    for (int64_t i = 0; !status && i < elements(e); i++)
        if (l->out->scale[i] != 1)
            return malformed(l, "%s is not 1, but the weight is %s",
            leaf, qw_dtype_name(l->w->dtype));
    l->out->scale = NULL;
    l->out->scale_stride = 0;
    return status;
}

static int plain(const layer *l)
{
    const qw_entry *e = l->w, *old = companion(l, "scale_weight"),
                   *s = old ? old : companion(l, "weight_scale");
    const char *leaf = old ? "scale_weight" : "weight_scale";
    const qw_dtype t = e->dtype;
    char shown[300];
    companion(l, "scale_input");
    companion(l, "input_scale");
    if (check_shape(l)) return l->err->status;
    switch (t) {
    case QW_F8E4M3: case QW_F8E5M2:
        lie(l, t);
        return s ? scale(l, s, leaf, 1) : QWEN_OK;
    case QW_F64:
        return plain_floats(l) ? l->err->status : check_idle_scale(l, s, leaf);
    case QW_I8:
        lie(l, t);
        if (s) return scale(l, s, leaf, 1);
        return malformed(l, "the weight is i8 and has no weight_scale");
    case QW_NONE: case QW_I32: case QW_U8: case QW_I16: case QW_I64: case QW_U16: case QW_U32:
    case QW_U64: case QW_BOOL: case QW_F8E8M0: case QW_F4: case QW_MXFP8: case QW_NVFP4:
    case QW_NDTYPES:
        return qw_fail(l->err, QWEN_EUNSUPPORTED,
                       "%s: tensor \"%s\" is %s, expected numbers of a weight",
                       qw_store_path(l->s, e->file), qw_visible(shown, sizeof shown, e->key),
                       qw_dtype_name(t));
    default:
        if (l->k % qw_block_elements(t)) return plain_floats(l);
        lie(l, t);
        return check_idle_scale(l, s, leaf);
    }
}

static int float8(const layer *l, qw_dtype type)
{
    const qw_entry *s = companion(l, "weight_scale");
    companion(l, "input_scale");
    if (check_shape(l)) return l->err->status;
    if (l->w->dtype != type)
        return malformed(l, "the weight is %s", qw_dtype_name(l->w->dtype));
    if (!s) return malformed(l, "weight_scale is missing");
    lie(l, type);
    return scale(l, s, "weight_scale", 1);
}

static int float8_e4m3fn(const layer *l) { return float8(l, QW_F8E4M3); }
static int float8_e5m2(const layer *l) { return float8(l, QW_F8E5M2); }

static int int8_tensorwise(const layer *l)
{
    const qw_entry *s = companion(l, "weight_scale");
    const json_t *rotated = option(l, "convrot");
    companion(l, "input_scale");
    if (check_shape(l)) return l->err->status;
    if (l->w->dtype != QW_I8) return malformed(l, "the weight is %s", qw_dtype_name(l->w->dtype));
    if (rotated && !json_is_boolean(rotated)) return malformed(l, "convrot is not true or false");
    if (!s) return malformed(l, "weight_scale is missing");
    lie(l, QW_I8);
    if (json_is_true(rotated) && rotation(l)) return l->err->status;
    return scale(l, s, "weight_scale", 1);
}

/* The scales of blocks of `size` inputs, in tiles of 128 rows x 4 blocks. */
static int block_scales(const layer *l, int64_t size, qw_dtype type)
{
    const qw_entry *s = companion(l, "weight_scale");
    const int64_t blocks = l->k / size;
    if (l->k % size)
        return malformed(l, "its %lld inputs are not whole blocks of %lld", (long long)l->k,
                         (long long)size);
    if (matrix(l, s, "weight_scale", (l->n + 127) / 128 * 128, (blocks + 3) / 4 * 4) ||
        typed(l, s, "weight_scale", type, QW_U8)) return l->err->status;
    l->out->block_scale = s->data;
    return QWEN_OK;
}

static int mxfp8(const layer *l)
{
    companion(l, "input_scale");
    if (matrix(l, l->w, "weight", l->n, l->k)) return l->err->status;
    if (l->w->dtype != QW_F8E4M3) return malformed(l, "the weight is %s",
    qw_dtype_name(l->w->dtype));
    lie(l, QW_MXFP8);
    return block_scales(l, 32, QW_F8E8M0);
}

/* Each input's factor into the weight: no operand holds it. */
static int prescaled(const layer *l)
{
    const qw_tensor w = *l->out;
    const uint8_t *scales = w.block_scale;
    const int64_t blocks = l->k / 16;
    float *factor = loaded(l, "pre_quant_scale", l->k, 0, QW_NONE);
    float *x = factor ? unpacked(l, QW_F32) : NULL;
    for (int64_t i = 0; x && i < l->n; i++) {
        const unsigned char *row = (const unsigned char *)w.data + i * (l->k / 2);
        float *y = x + i * l->k;
        qw_decode_f32(QW_NVFP4, row, l->k, y);
        for (int64_t j = 0; j < l->k; j++) {
            const uint8_t code = scales[qw_block_scale_at(i, j / 16, blocks)];
            y[j] = (float)((double)y[j] * (double)qw_f8e4m3_to_f32(code) * (double)*w.scale *
                           (double)factor[j]);
        }
    }
    free(factor);
    return l->err->status;
}

static int nvfp4(const layer *l)
{
    const qw_entry *second = companion(l, "weight_scale_2");
    companion(l, "input_scale");
    if (l->k % 16)
        return malformed(l, "its %lld inputs are not whole blocks of 16", (long long)l->k);
    if (matrix(l, l->w, "weight", l->n, l->k / 2)) return l->err->status;
    if (l->w->dtype != QW_U8) return malformed(l, "the weight is %s", qw_dtype_name(l->w->dtype));
    if (!second) return malformed(l, "weight_scale_2 is missing");
    lie(l, QW_NVFP4);
    if (block_scales(l, 16, QW_F8E4M3) || scale(l, second, "weight_scale_2",
    0)) return l->err->status;
    return companion(l, "pre_quant_scale") ? prescaled(l) : QWEN_OK;
}

/* --- what is unpacked ------------------------------------------------------------------------ */

/* Half a byte an element, the even column in the low half. */
static int nibble(const unsigned char *row, int64_t j)
{
    return row[j / 2] >> (j & 1 ? 4 : 0) & 15;
}

static int packed_bytes(const layer *l)
{
    return typed(l, l->w, "weight", QW_I8, QW_U8);
}

/* Two's complement halves, one scale a row. */
static int convrot_w4a4(const layer *l)
{
    const qw_entry *s = companion(l, "weight_scale");
    if (l->k % 2) return malformed(l, "its %lld inputs are odd", (long long)l->k);
    if (matrix(l, l->w, "weight", l->n, l->k / 2) || packed_bytes(l)) return l->err->status;
    if (!s) return malformed(l, "weight_scale is missing");
    int8_t *q = unpacked(l, QW_I8);
    if (!q || rotation(l)) return l->err->status;
    for (int64_t i = 0; i < l->n; i++) {
        const unsigned char *row = (const unsigned char *)l->w->data + i * (l->k / 2);
        for (int64_t j = 0; j < l->k; j++) {
            const int code = nibble(row, j);
            q[i * l->k + j] = (int8_t)(code < 8 ? code : code - 16);
        }
    }
    return scale(l, s, "weight_scale", 1);
}

/* 4 bits: halves of bytes.  6 bits: k / 2 bytes of low halves, then k / 4 of two upper bits. */
static int code_of(const unsigned char *row, int64_t j, int64_t k, int bits)
{
    const int low = nibble(row, j);
    return bits == 4 ? low : low | (row[k / 2 + j / 4] >> 2 * (j % 4) & 3) << 4;
}

/* The rounding to an integer is part of the value. */
static int unpack_w4a8(const layer *l, int bits, const float *relative, int64_t group,
                       const float *codebook, int8_t *q)
{
    const int64_t bytes = l->k * bits / 8, groups = l->k / group;
    for (int64_t i = 0; i < l->n; i++) {
        const unsigned char *row = (const unsigned char *)l->w->data + i * bytes;
        for (int64_t j = 0; j < l->k; j++) {
            const int c = code_of(row, j, l->k, bits);
            const float v = bits == 6 ? (float)(c - 32) : codebook ? codebook[c] : (float)(c - 8);
            const float x = rintf(v * relative[i * groups + j / group]);
            q[i * l->k + j] = (int8_t)fminf(fmaxf(x, -127), 127);
        }
    }
    return QWEN_OK;
}

static int asym_w4a8_int8(const layer *l)
{
    const qw_entry *s = companion(l, "weight_s_channel");
    const int bits = l->w->rank == 2 && l->w->dim[1] == l->k / 2 && l->k % 2 == 0 ? 4 : 6;
    int64_t group = 0;
    if (l->k % 4) return malformed(l, "its %lld inputs are not a multiple of 4", (long long)l->k);
    if (matrix(l, l->w, bits == 4 ? "weight (4 bits)" : "weight (6 bits)", l->n, l->k * bits / 8) ||
        packed_bytes(l) || whole_option(l, "group_size", 16, &group)) return l->err->status;
    if (!s) return malformed(l, "weight_s_channel is missing");
    float *relative = loaded(l, "weight_s_rel", l->n, l->k / group, QW_F8E4M3), *codebook = NULL;
    if (relative && companion(l, "weight_codebook") && bits == 4)
        codebook = loaded(l, "weight_codebook", 16, 0, QW_NONE);
    int8_t *q = relative && !l->err->status ? unpacked(l, QW_I8) : NULL;
    if (q && !rotation(l)) {
        unpack_w4a8(l, bits, relative, group, codebook, q);
        scale(l, s, "weight_s_channel", 1);
    }
    free(relative);
    free(codebook);
    return l->err->status;
}

/* (u4 - 8) s + z, with s and z [k / group][n]. */
static int awq_w4a16(const layer *l)
{
    const char *zeros = companion(l, "weight_zeros") ? "weight_zeros" : "weight_zero";
    int64_t group = 0;
    if (l->k % 2) return malformed(l, "its %lld inputs are odd", (long long)l->k);
    if (matrix(l, l->w, "weight", l->n, l->k / 2) || packed_bytes(l) ||
        whole_option(l, "group_size", 64, &group)) return l->err->status;
    float *s = loaded(l, "weight_scale", l->k / group, l->n, QW_NONE);
    float *z = s ? loaded(l, zeros, l->k / group, l->n, QW_NONE) : NULL;
    float *x = z ? unpacked(l, QW_F32) : NULL;
    for (int64_t i = 0; x && i < l->n; i++) {
        const unsigned char *row = (const unsigned char *)l->w->data + i * (l->k / 2);
        for (int64_t j = 0; j < l->k; j++) {
            const int64_t at = j / group * l->n + i;
            x[i * l->k + j] = (float)(nibble(row, j) - 8) * s[at] + z[at];
        }
    }
    free(s);
    free(z);
    return l->err->status;
}

int qw_layout(qw_store *s, const qw_entry *weight, const char *module, int64_t n, int64_t k,
              qw_tensor *out, qw_error *err)
{
    static const struct { const char *name; int (*read)(const layer *); } formats[] = {
        { "plain", plain },
        { "float8_e4m3fn", float8_e4m3fn },
        { "float8_e5m2", float8_e5m2 },
        { "int8_tensorwise", int8_tensorwise },
        { "mxfp8", mxfp8 },
        { "nvfp4", nvfp4 },
        { "convrot_w4a4", convrot_w4a4 },
        { "asym_w4a8_int8", asym_w4a8_int8 },
        { "awq_w4a16", awq_w4a16 },
    };
    layer l = { .s = s, .w = weight, .module = module, .n = n, .k = k, .out = out, .err = err };
    char shown[100];
    json_t *owned = NULL;
    *out = (qw_tensor){ 0 };
    if (err->status) return err->status;
    ((qw_entry *)(uintptr_t)weight)->used = 1;
    int status = find_marker(&l, &owned);
    size_t i = l.marker ? 1 : 0;        /* "plain" is no name a file can give */
    const size_t end = l.marker ? sizeof formats / sizeof *formats : 1;
    while (!status && i < end && strcmp(formats[i].name, l.format)) i++;
    if (!status && i == end)
        status = qw_fail(err, QWEN_EUNSUPPORTED,
                         "%s: layer \"%s\" has the quantisation format %s, which is not supported",
                         qw_store_path(s, weight->file), module,
                         qw_visible(shown, sizeof shown, l.format));
    if (!status) status = formats[i].read(&l);
    if (status) *out = (qw_tensor){ 0 };
    json_decref(owned);
    return status;
}
