/* ref.h - the devices "ref", "ref64" and "ref:bf16" and their operations, for hosts that inherit them.
 *
 * All compute in double, always, and store what their operands' dtypes say.  They differ in what the
 * networks are asked to store: ref F32, ref64 F64 (the oracle), ref:bf16 BF16 branches. */
#ifndef QW_REF_H
#define QW_REF_H
#include "backend.h"

extern const qw_backend ref_backend;
int ref_open(int i, qw_device **out);   /* 0 ref, 1 ref64, 2 ref:bf16; QW_DECLINE past the last */

#define X(op) int ref_##op(qw_device *dev, const qw_##op##_args *a);
QW_OPS(X)
#undef X

/* Memory and queues of any host device: both queues are always empty. */
int    ref_alloc(qw_device *dev, size_t bytes, void **out);
void   ref_free(qw_device *dev, void *p);
int    ref_put(qw_device *dev, int queue, void *dst, const void *src, size_t bytes);
int    ref_get(qw_device *dev, int queue, void *dst, const void *src, size_t bytes);
int    ref_mark(qw_device *dev, int queue, uint64_t *ticket);
int    ref_wait(qw_device *dev, int queue, uint64_t ticket);
int    ref_sync(qw_device *dev);
int    ref_lapse(qw_device *dev, uint64_t from, uint64_t to, double *seconds);
size_t ref_packed(qw_device *dev, const qw_tensor *w);
int    ref_pack(qw_device *dev, int queue, qw_tensor *dst, const qw_tensor *w);
/* Fills in name, types, memory, queues and the eight operations. */
void   ref_fill(qw_device *dev, const char *name, qw_dtype prefer, qw_dtype wide);

int    ref_threads(const qw_device *dev);       /* how many an op may use, at least 1 */
int    ref_thread(void);                        /* which one this is, from 0 */
#endif
