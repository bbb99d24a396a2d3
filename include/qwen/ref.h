/* ref.h - the reference devices, and their functions for host devices that inherit them.
 *
 * A host backend calls ref_init and then sets the ops of its own. */
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

/* Each computes in double and rounds to the operands' dtypes; the results are the same bits for any
 * number of threads.  They return QWEN_OK, QWEN_ENOMEM or QWEN_ECANCELLED.  They check no argument:
 * the caller has used the check of the op table. */
#define X(op) int ref_##op(qw_device *dev, const qw_##op##_args *a);
QW_OPS(X)
#undef X
#ifdef __cplusplus
}
#endif
#endif
