/* ref.h - the reference devices, and their functions for host devices that inherit them.
 *
 * A host backend starts with ref_init, then overrides what it does better. */
#ifndef REF_H
#define REF_H
#include <qwen/backend.h>
#ifdef __cplusplus
extern "C" {
#endif

/* "ref" (streams and branches f32), "ref64" (both f64: the oracle), "ref:bf16" (streams f32,
 * branches bf16), "ref:int8" (as ref:bf16; branches that only gemms read are rows of 8-bit codes,
 * and gemms that read them quantise their weights by rows too). */
extern const qw_backend ref_backend;

/* Fills in a host device: its types, the eight functions below, and close, which free()s it. */
void ref_init(qw_device *dev, const char *name, qw_dtype prefer, qw_dtype wide);

/* Each computes in double and stores what the operands' dtypes say; the results are the same bits
 * for any number of threads.  They return QWEN_OK or QWEN_ENOMEM and check nothing: op.c has. */
#define X(op) int ref_##op(qw_device *dev, const qw_##op##_args *a);
QW_OPS(X)
#undef X
#ifdef __cplusplus
}
#endif
#endif
