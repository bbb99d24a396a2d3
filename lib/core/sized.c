/* sized.c - structs that begin with their size, between a caller of any version and the library. */
#include "core/core.h"
#include <string.h>

int qw_take_struct(qw_error *err, void *ours, size_t known, const void *theirs, size_t size,
                   const char *what)
{
    memset(ours, 0, known);
    if (!size) return qw_fail(err, QWEN_EARG, "%s: size is 0, not the size of the struct", what);
    if (size < sizeof(size_t)) return qw_fail(err, QWEN_EARG, "%s: size is %zu", what, size);
    memcpy(ours, theirs, size < known ? size : known);
    const unsigned char *bytes = theirs;
    for (size_t i = known; i < size; i++)
        if (bytes[i])
            return qw_fail(err, QWEN_EUNSUPPORTED,
                           "%s: this library knows %zu bytes of it, and byte %zu of the caller's "
                           "%zu is set",
                           what, known, i, size);
    return QWEN_OK;
}

void qw_give_struct(void *theirs, size_t size, void *ours, size_t known)
{
    memcpy(ours, &size, sizeof size);
    memcpy(theirs, ours, size < known ? size : known);
}
