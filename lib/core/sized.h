/* sized.h - structs that begin with their size, between a caller of any version and the library. */
#ifndef QW_SIZED_H
#define QW_SIZED_H
#include "core/error.h"

/* The caller's struct of `size` bytes into ours of `known`: a shorter one is completed with zeros; a
 * longer one is QWEN_EUNSUPPORTED unless the part that is unknown here is zero.  A size of 0 is
 * QWEN_EARG.  `name` is the type, for the message. */
int qw_take_struct(qw_error *err, void *ours, size_t known, const void *theirs, size_t size,
                   const char *name);
/* Ours back into the caller's, whose size stays what it says. */
void qw_give_struct(void *theirs, size_t size, void *ours, size_t known);
#endif
