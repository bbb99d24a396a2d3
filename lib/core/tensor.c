/* tensor.c - views, sizes, names of dtypes, and scalar conversions. */
#include <qwen/tensor.h>
#include <math.h>
#include <string.h>

/* Elements and bytes of a block, unit roundoff. */
static const struct {
    const char *name;
    int64_t elements;
    size_t bytes;
    double roundoff;
} types[QW_NDTYPES] = {
    [QW_NONE] = { "none", 1, 0, 0 },
    [QW_F64] = { "f64", 1, 8, 0x1p-53 },
    [QW_F32] = { "f32", 1, 4, 0x1p-24 },
    [QW_F16] = { "f16", 1, 2, 0x1p-11 },
    [QW_BF16] = { "bf16", 1, 2, 0x1p-8 },
    [QW_I32] = { "i32", 1, 4, 0 },
    [QW_F8E4M3] = { "f8_e4m3", 1, 1, 0x1p-4 },
    [QW_F8E5M2] = { "f8_e5m2", 1, 1, 0x1p-3 },
    [QW_I8] = { "i8", 1, 1, 0 },
    [QW_Q8_0] = { "q8_0", 32, 34, 0 },
    [QW_Q4_0] = { "q4_0", 32, 18, 0 },
    [QW_Q4_1] = { "q4_1", 32, 20, 0 },
    [QW_Q5_0] = { "q5_0", 32, 22, 0 },
    [QW_Q5_1] = { "q5_1", 32, 24, 0 },
    [QW_Q2_K] = { "q2_k", 256, 84, 0 },
    [QW_Q3_K] = { "q3_k", 256, 110, 0 },
    [QW_Q4_K] = { "q4_k", 256, 144, 0 },
    [QW_Q5_K] = { "q5_k", 256, 176, 0 },
    [QW_Q6_K] = { "q6_k", 256, 210, 0 },
    [QW_IQ4_NL] = { "iq4_nl", 32, 18, 0 },
    [QW_IQ4_XS] = { "iq4_xs", 256, 136, 0 },
    [QW_MXFP8] = { "mxfp8", 32, 32, 0 },
    [QW_NVFP4] = { "nvfp4", 16, 8, 0 },
    [QW_IQ1_S] = { "iq1_s", 256, 50, 0 },
    [QW_IQ1_M] = { "iq1_m", 256, 56, 0 },
    [QW_IQ2_XXS] = { "iq2_xxs", 256, 66, 0 },
    [QW_IQ2_XS] = { "iq2_xs", 256, 74, 0 },
    [QW_IQ2_S] = { "iq2_s", 256, 82, 0 },
    [QW_IQ3_XXS] = { "iq3_xxs", 256, 98, 0 },
    [QW_IQ3_S] = { "iq3_s", 256, 110, 0 },
    [QW_U8] = { "u8", 1, 1, 0 },
    [QW_I16] = { "i16", 1, 2, 0 },
    [QW_I64] = { "i64", 1, 8, 0 },
    [QW_U16] = { "u16", 1, 2, 0 },
    [QW_U32] = { "u32", 1, 4, 0 },
    [QW_U64] = { "u64", 1, 8, 0 },
    [QW_BOOL] = { "bool", 1, 1, 0 },
    [QW_F8E8M0] = { "f8_e8m0", 1, 1, 0 },
    [QW_F4] = { "f4", 2, 1, 0 },
};

static int known(qw_dtype t) { return (int)t > 0 && t < QW_NDTYPES; }

const char *qw_dtype_name(qw_dtype t) { return known(t) ? types[t].name : types[QW_NONE].name; }

qw_dtype qw_dtype_named(const char *name)
{
    for (int t = 1; t < QW_NDTYPES; t++)
        if (!strcmp(types[t].name, name)) return (qw_dtype)t;
    return QW_NONE;
}

int64_t qw_block_elements(qw_dtype t) { return known(t) ? types[t].elements : 1; }
size_t qw_block_bytes(qw_dtype t) { return known(t) ? types[t].bytes : 0; }
qw_class qw_class_of(qw_dtype t)
{
    switch (t) {
    case QW_F16: return QW_CLASS_F16;
    case QW_BF16: return QW_CLASS_BF16;
    case QW_F8E4M3:
    case QW_F8E5M2:
    case QW_I8: return QW_CLASS_CODE;
    default: return qw_block_elements(t) > 1 ? QW_CLASS_BLOCK : QW_CLASS_F32;
    }
}

double qw_roundoff(qw_dtype t) { return known(t) ? types[t].roundoff : 0; }

size_t qw_row_bytes(qw_dtype t, int64_t n)
{
    return known(t) ? (size_t)(n / types[t].elements) * types[t].bytes : 0;
}

static qw_tensor dense(void *data, qw_dtype t, int rank, int64_t a, int64_t b, int64_t c, int64_t d)
{
    qw_tensor x = { .data = data, .dtype = t, .rank = rank, .dim = { a, b, c, d } };
    int64_t stride = 1;
    for (int i = rank; i-- > 0; stride *= x.dim[i]) x.stride[i] = stride;
    return x;
}

qw_tensor qw_dense1(void *data, qw_dtype t, int64_t a) { return dense(data, t, 1, a, 0, 0, 0); }

qw_tensor qw_dense2(void *data, qw_dtype t, int64_t a, int64_t b)
{
    return dense(data, t, 2, a, b, 0, 0);
}

qw_tensor qw_dense3(void *data, qw_dtype t, int64_t a, int64_t b, int64_t c)
{
    return dense(data, t, 3, a, b, c, 0);
}

qw_tensor qw_dense4(void *data, qw_dtype t, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return dense(data, t, 4, a, b, c, d);
}

/* Address of the element `offset` elements after the first, at the start of a block. */
static void *moved(const qw_tensor *t, int64_t offset)
{
    return t->data ? (char *)t->data + qw_row_bytes(t->dtype, offset) : NULL;
}

qw_tensor qw_rows(qw_tensor t, int64_t first, int64_t n)
{
    if (t.scale && t.scale_stride) t.scale += first * t.scale_stride;
    t.data = moved(&t, first * t.stride[0]);
    t.dim[0] = n;
    return t;
}

qw_tensor qw_cols(qw_tensor t, int64_t first, int64_t n)
{
    t.data = moved(&t, first);
    t.dim[t.rank - 1] = n;
    return t;
}

qw_tensor qw_heads(qw_tensor t, int64_t d)
{
    t.rank = 3;
    t.dim[2] = d;
    t.dim[1] = t.dim[1] / d;
    t.stride[2] = 1;
    t.stride[1] = d;
    return t;
}

qw_tensor qw_flat(qw_tensor t)
{
    t.rank = 2;
    t.dim[0] *= t.dim[1];
    t.dim[1] = t.dim[2];
    t.stride[0] = t.stride[1];
    t.stride[1] = 1;
    t.dim[2] = t.stride[2] = 0;
    return t;
}

qw_tensor qw_picture(qw_tensor t, int64_t h, int64_t w)
{
    t.rank = 3;
    t.dim[2] = t.dim[1];
    t.stride[2] = 1;
    t.dim[1] = w;
    t.stride[1] = t.stride[0];
    t.dim[0] = h;
    t.stride[0] *= w;
    return t;
}

int64_t qw_elements(const qw_tensor *t)
{
    int64_t n = t->rank > 0;
    for (int i = 0; i < t->rank; i++) n *= t->dim[i];
    return n;
}

int qw_present(const qw_tensor *t) { return t->dtype != QW_NONE; }

void *qw_at(const qw_tensor *t, int64_t i, int64_t j, int64_t k, int64_t l)
{
    return moved(t, i * t->stride[0] + j * t->stride[1] + k * t->stride[2] + l * t->stride[3]);
}

float qw_bf16_to_f32(uint16_t h)
{
    const uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

uint16_t qw_f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40); /* NaN stays NaN */
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* The finite value of a code split into its fields; `bits` is the width of the mantissa.  Made of
 * bits and one exact product, so that it is right where the CPU flushes subnormals to zero. */
static float small_float(unsigned sign, unsigned exponent, unsigned mantissa, int bits, int bias)
{
    const uint32_t power = (uint32_t)((exponent ? (int)exponent : 1 - bits) - bias + 127) << 23;
    const uint32_t u = sign << 31 | power | (exponent ? mantissa << (23 - bits) : 0);
    float f;
    memcpy(&f, &u, sizeof f);
    return exponent ? f : f * (float)mantissa;
}

float qw_f16_to_f32(uint16_t h)
{
    const unsigned sign = h >> 15, exponent = h >> 10 & 31, mantissa = h & 1023;
    if (exponent == 31) return mantissa ? NAN : sign ? -INFINITY : INFINITY;
    return small_float(sign, exponent, mantissa, 10, 15);
}

float qw_f8e4m3_to_f32(uint8_t c)
{
    if ((c & 0x7f) == 0x7f) return NAN;
    return small_float(c >> 7, c >> 3 & 15, c & 7, 3, 7);
}

float qw_f8e5m2_to_f32(uint8_t c)
{
    const unsigned sign = c >> 7, exponent = c >> 2 & 31, mantissa = c & 3;
    if (exponent == 31) return mantissa ? NAN : sign ? -INFINITY : INFINITY;
    return small_float(sign, exponent, mantissa, 2, 15);
}

float qw_f8e8m0_to_f32(uint8_t c) { return c == 255 ? NAN : ldexpf(1, (int)c - 127); }

/* |f| to the nearest code of a type with `bits` mantissa bits and that bias, ties to even; the code
 * may overflow into that of infinity; the callers exclude what must not. */
static unsigned nearest(float f, int bits, int bias)
{
    int e;
    if (f == 0) return 0;
    frexpf(f, &e); /* f = m 2^e, m in [1/2, 1) */
    int exponent = e - 1 + bias;
    if (exponent < 1) exponent = 1; /* subnormals share the spacing of the first normals */
    const float units = rintf(ldexpf(f, bits - (exponent - bias))); /* ldexpf is exact */
    return (unsigned)units + ((unsigned)(exponent - 1) << bits);
}

uint16_t qw_f32_to_f16(float f)
{
    const unsigned sign = signbit(f) ? 0x8000 : 0;
    if (isnan(f)) return (uint16_t)(sign | 0x7e00);
    const float a = fabsf(f);
    return (uint16_t)(sign | (a >= 65520 ? 0x7c00 : nearest(a, 10, 15)));
}

uint8_t qw_f32_to_f8e4m3(float f)
{
    const unsigned sign = signbit(f) ? 0x80 : 0;
    if (isnan(f)) return (uint8_t)(sign | 0x7f);
    const float a = fabsf(f);
    return (uint8_t)(sign | (a >= 448 ? 0x7e : nearest(a, 3, 7)));
}

uint8_t qw_f32_to_f8e5m2(float f)
{
    const unsigned sign = signbit(f) ? 0x80 : 0;
    if (isnan(f)) return (uint8_t)(sign | 0x7f);
    const float a = fabsf(f);
    return (uint8_t)(sign | (a >= 61440 ? 0x7c : nearest(a, 2, 15)));
}

size_t qw_block_scale_at(int64_t row, int64_t block, int64_t blocks)
{
    const int64_t tile = row / 128 * ((blocks + 3) / 4) + block / 4;
    return (size_t)(tile * 512 + row % 32 * 16 + row % 128 / 32 * 4 + block % 4);
}
