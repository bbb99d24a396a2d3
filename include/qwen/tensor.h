/* tensor.h - an operand: a typed, shaped, strided view of memory that it does not own. */
#ifndef QW_TENSOR_H
#define QW_TENSOR_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

/* Element types.  The reference reads every operand type; other devices may decline some. */
/* clang-format off */
typedef enum qw_dtype {                 /* numbers are part of the ABI: append only */
    QW_NONE,                            /* an absent operand: a zeroed tensor */
    QW_F64,                             /* of ref64, the oracle */
    QW_F32, QW_F16, QW_BF16, QW_I32,
    QW_F8E4M3, QW_F8E5M2, QW_I8,        /* value = code * scale, see below */
    QW_Q8_0, QW_Q4_0, QW_Q4_1, QW_Q5_0, QW_Q5_1,          /* GGUF blocks along the last dimension */
    QW_Q2_K, QW_Q3_K, QW_Q4_K, QW_Q5_K, QW_Q6_K, QW_IQ4_NL, QW_IQ4_XS,
    QW_MXFP8, QW_NVFP4,                 /* microscaled blocks */
    QW_IQ1_S, QW_IQ1_M, QW_IQ2_XXS, QW_IQ2_XS, QW_IQ2_S, QW_IQ3_XXS, QW_IQ3_S,
    /* in files only, never operands */
    QW_U8, QW_I16, QW_I64, QW_U16, QW_U32, QW_U64, QW_BOOL, QW_F8E8M0, QW_F4,
    QW_NDTYPES
} qw_dtype;
/* clang-format on */

/* Classes of types by the precision of their elements. */
typedef enum qw_class {
    QW_CLASS_F32, /* f64, f32 */
    QW_CLASS_F16,
    QW_CLASS_BF16,
    QW_CLASS_CODE,  /* f8, i8: bf16 and f16 hold every code */
    QW_CLASS_BLOCK, /* blocks with scales of their own */
    QW_CLASSES,
    QW_MAX_CLASSES = 8
} qw_class;

enum { QW_RANK = 4 };

typedef struct qw_tensor {
    /* address in the memory of the device that runs the op; on a host it need not be aligned when
     * the tensor is a weight */
    void *data;
    /* of F8 and I8 (NVFP4: the tensor's second scale); NULL means 1 */
    const float *scale;
    int64_t scale_stride; /* 0: one scale for the tensor, 1: one per row */
    /* of MXFP8 and NVFP4: in tiles of 128 x 4, as it lies in the file */
    const void *block_scale;
    /* weight stored in the rotated basis of this group size, or 0 */
    int rotated;
    int64_t dim[QW_RANK];    /* outermost first */
    int64_t stride[QW_RANK]; /* in elements; the last is always 1 */
    int rank;
    qw_dtype dtype;
    uint32_t layout; /* 0: plain; else a number of the backend that packed it */
    int originals; /* of a packed weight: how many tensors `host` has, their rows joined in order */
    const struct qw_tensor *host; /* the plain original of a packed weight, in host memory */
} qw_tensor;

/* Facts about a dtype. A plain type has blocks of one element. */
const char *qw_dtype_name(qw_dtype t);     /* "f32", "bf16", "q4_k"; "none"; never NULL */
qw_dtype qw_dtype_named(const char *name); /* the inverse; QW_NONE if unknown */
int64_t qw_block_elements(qw_dtype t);     /* 1, 32 or 256 (MXFP8 32, NVFP4 16: data only) */
size_t qw_block_bytes(qw_dtype t);
size_t qw_row_bytes(qw_dtype t, int64_t n); /* n elements, a multiple of the block */
qw_class qw_class_of(qw_dtype t);
/* unit roundoff: f32 2^-24, bf16 2^-8 ...; 0 for integers */
double qw_roundoff(qw_dtype t);

/* Dense views: the last dimension is contiguous, nothing is padded. */
qw_tensor qw_dense1(void *data, qw_dtype t, int64_t a);
qw_tensor qw_dense2(void *data, qw_dtype t, int64_t a, int64_t b);
qw_tensor qw_dense3(void *data, qw_dtype t, int64_t a, int64_t b, int64_t c);
qw_tensor qw_dense4(void *data, qw_dtype t, int64_t a, int64_t b, int64_t c, int64_t d);
/* Views of views. They copy no data and check no range. */
qw_tensor qw_rows(qw_tensor t, int64_t first, int64_t n); /* along dim[0] */
qw_tensor qw_cols(qw_tensor t, int64_t first, int64_t n); /* along the last dim */
qw_tensor qw_heads(qw_tensor t, int64_t d);               /* [n][h d] as [n][h][d] */
qw_tensor qw_flat(qw_tensor t);                           /* [h][w][c], dense, as [h w][c] */
qw_tensor qw_picture(qw_tensor t, int64_t h, int64_t w);  /* [h w][c], dense, as [h][w][c] */
int64_t qw_elements(const qw_tensor *t);
int qw_present(const qw_tensor *t); /* not absent */
/* Address of element (i, j, k, l); trailing indices beyond the rank are 0. The element begins a
 * block. */
void *qw_at(const qw_tensor *t, int64_t i, int64_t j, int64_t k, int64_t l);

/* Scalar conversions; to narrower types round to nearest even. */
float qw_f16_to_f32(uint16_t h);
uint16_t qw_f32_to_f16(float f);
float qw_bf16_to_f32(uint16_t h);
uint16_t qw_f32_to_bf16(float f);
float qw_f8e4m3_to_f32(uint8_t c);
uint8_t qw_f32_to_f8e4m3(float f); /* saturates to +-448; NaN stays NaN */
float qw_f8e5m2_to_f32(uint8_t c);
uint8_t qw_f32_to_f8e5m2(float f);
float qw_f8e8m0_to_f32(uint8_t c);

/* n elements of a GGUF block type (decode.c) or any plain type, from unaligned memory, to floats.
 * n is a multiple of the block. Scales are not applied. */
void qw_decode_f32(qw_dtype t, const void *src, int64_t n, float *dst);
/* Rows as numbers.  A row is a run of the last dimension; i, j, k are its leading indices, 0
 * where there are none.  qw_row_get reads any type from unaligned memory, with the scales of the
 * tensor, of the row and of its blocks; a weight in a rotated basis stays in it.  qw_row_put
 * rounds once, to nearest even; F8, whose scale it does not use, saturates (e4m3) or becomes
 * infinite (e5m2); I8 is quantised, and the scale of row i stored too. */
void qw_row_get(const qw_tensor *t, int64_t i, int64_t j, int64_t k, double *x);
void qw_row_put(const qw_tensor *t, int64_t i, int64_t j, int64_t k, const double *x);
/* n dense numbers of a type, without scales, from and to any address.  qw_numbers_put writes the
 * types for which qw_stores_numbers returns 1 (f64, f32, f16, bf16, f8, i32) and nothing of
 * others. */
void qw_numbers_get(qw_dtype t, const void *src, int64_t n, double *x);
void qw_numbers_put(qw_dtype t, const double *x, int64_t n, void *dst);
int qw_stores_numbers(qw_dtype t);
/* Codes of a row, x / s to nearest even, s = max|x| / 127 in f32 and at least 1e-30; returns s.  A
 * row with an element that is not finite gets such a scale too, and codes 0. */
float qw_row_quantise(const double *x, int64_t n, int8_t *code);
/* Each run of `group` numbers of n (a power of 4) times the regular Hadamard matrix
 * H4 x H4 x ... / sqrt(group), which is its own inverse; a group of 0 leaves x as it is. */
void qw_hadamard(double *x, int64_t n, int64_t group);
/* Row i of a weight [n][k] in the basis of its inputs: read, then turned back where it is
 * rotated. */
void qw_weight_row(const qw_tensor *w, int64_t i, double *x);
/* Index in bytes of the scale of (row, block) in tiles of 128 x 4 for `blocks` blocks a row. */
size_t qw_block_scale_at(int64_t row, int64_t block, int64_t blocks);
#ifdef __cplusplus
}
#endif
#endif
