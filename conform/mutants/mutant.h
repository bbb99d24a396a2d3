/* mutant.h - a device in plain C, blocked and threaded as fast devices are, with one fault at a
 * time.
 *
 * Without a fault it is correct, in float arithmetic.  QW_MUTANT names a fault when the device
 * is opened; it changes the one op that it belongs to.  The kit has to catch each. */
#ifndef QW_MUTANT_H
#define QW_MUTANT_H
#include <qwen/backend.h>

/* name, op, what is wrong */
#define MUTANTS(X)                                                                               \
    X(gemm_tail_product, gemm, "the last product of a k that is no multiple of 4")               \
    X(gemm_tail_row, gemm, "the last of an odd number of rows reads the row before")             \
    X(gemm_tail_column, gemm, "the first column of a last tile of one loses its bias")           \
    X(gemm_narrow_sum, gemm, "sums are rounded to bf16 every 128 products")                      \
    X(gemm_row_scale, gemm, "every row of a weight has the scale of the first")                  \
    X(gemm_late_rows, gemm, "no bias beyond row 1024")                                           \
    X(gemm_late_inputs, gemm, "products before input 3072 are lost")                             \
    X(gemm_gate_of_tile, gemm, "each tile of columns has the gate of the first")                 \
    X(gemm_residual_in_place, gemm, "no residual where it is y itself")                          \
    X(gemm_threads, gemm, "sums are grouped by the number of threads")                           \
    X(gemm_dense_rows, gemm, "rows of x are taken for dense")                                    \
    X(gemm_padded_rows, gemm, "the path for dense rows of x forgets the last product")           \
    X(gemm_stale_scratch, gemm, "an odd k is padded with what lay in scratch")                   \
    X(gemm_rounds_twice, gemm, "the product is rounded to y's type before the residual")         \
    X(gemm_late_lora, gemm, "no low-rank product beyond row 64")                                 \
    X(gemm_erf_as_tanh, gemm, "gelu_erf is computed as gelu_tanh")                               \
    X(gemm_bf16_operands, gemm, "f32 operands are rounded to bf16")                              \
    X(gemm_q4_k_minimum, gemm, "Q4_K: no minimum in the last sub-block")                         \
    X(gemm_f8_subnormals, gemm, "e4m3 subnormals are zero")                                      \
    X(gemm_codes_range, gemm, "rows of codes: the largest is looked for without the last")       \
    X(attention_first, attention, "the first key of a range is not seen")                        \
    X(attention_last, attention, "the last key of a range is not seen")                          \
    X(attention_next_key, attention, "the key after the last of a range is seen too")            \
    X(attention_first_rescale, attention, "no rescale at the second tile of keys")               \
    X(attention_late_rescale, attention, "no rescale from the fifth tile of keys on")            \
    X(attention_scale, attention, "the scale of the next power of two of d")                     \
    X(attention_groups, attention, "query head h reads key head h mod hk")                       \
    X(attention_dense_heads, attention, "heads that lie one after the other: a tenth too steep") \
    X(attention_tail_key, attention, "the last key where a tile has one")                        \
    X(attention_stale_keys, attention, "keys beyond the last come from scratch")                 \
    X(conv2d_right_edge, conv2d, "the last column is taken for padding")                         \
    X(conv2d_top_edge, conv2d, "the row above the picture repeats the first")                    \
    X(conv2d_dense_edge, conv2d, "the last column is padding where all rows are dense")          \
    X(conv2d_enlarged, conv2d, "the enlarged picture is shifted by a pixel")                     \
    X(conv2d_stride, conv2d, "no padding on the left of a strided convolution")                  \
    X(conv2d_tail_channel, conv2d, "the last channel of an odd number has no bias")              \
    X(rms_norm_silu, rms_norm, "silu is zero below -8")                                          \
    X(rms_norm_stride, rms_norm, "rows of y are as far apart as those of x")                     \
    X(ln_mod_one_pass, ln_mod, "the variance is the mean square minus the squared mean")         \
    X(ln_mod_scale, ln_mod, "the shift is taken for the scale")                                  \
    X(ln_mod_eps, ln_mod, "eps is forgotten")                                                    \
    X(ln_mod_tail_mean, ln_mod, "the mean leaves out what is no multiple of 4")                  \
    X(norm_rope_last_head, norm_rope, "the last of several heads is not turned")                 \
    X(norm_rope_pairing, norm_rope, "odd heads are paired the other way")                        \
    X(swiglu_halves, swiglu, "the halves change places")                                         \
    X(swiglu_one_more, swiglu, "floats: the last row has one column more, from behind x")        \
    X(swiglu_tail, swiglu, "the last of an odd number of columns is not gated")                  \
    X(convert_late_group, convert, "groups from the fifth on are not turned")                    \
    X(convert_range, convert, "rows of codes: the step is max / 128")                            \
    X(convert_tail_sum, convert, "no sum in a last column beyond a multiple of 8")

#define X(name, op, what) M_##name,
enum { M_NONE, MUTANTS(X) M_COUNT };
#undef X

typedef struct plain_device {
    qw_device d;
    int fault; /* M_* */
} plain_device;

static inline int mutated(const qw_device *d, int fault)
{
    return ((const plain_device *)(const void *)d)->fault == fault;
}

/* --- device.c --- */
/* Opens the device with the fault that QW_MUTANT names; QWEN_EARG: there is none of that name. */
int plain_open(qw_device **out);

/* --- a file each, or rows.c --- */
#define X(op)                                              \
    int plain_##op(qw_device *d, const qw_##op##_args *a); \
    size_t plain_##op##_scratch(const qw_##op##_args *a);
QW_OPS(X)
#undef X

/* --- plain.c: what the ops share --- */
int plain_threads(const qw_device *d);
int plain_thread(void);
/* A row as floats without its scale, and that scale. */
void plain_row(const qw_tensor *t, int64_t i, int64_t j, int64_t k, float *out);
float plain_scale(const qw_tensor *t, int64_t i);
float plain_act(qw_act act, float z);
/* Element (i, j, k) of a tensor of floats, rounded once from f32. */
void plain_put(const qw_tensor *t, int64_t i, int64_t j, int64_t k, float x);
float plain_get(const qw_tensor *t, int64_t i, int64_t j, int64_t k); /* 0 if absent */
/* A row as codes; `seen` of n elements are looked at for the largest, which is divided by
 * `steps`. */
void plain_codes(const qw_tensor *t, int64_t i, const float *x, int64_t seen, float steps);
#endif
