/* modules.h - backends in shared objects, for registry.c. */
#ifndef QW_MODULES_H
#define QW_MODULES_H
#include <qwen/backend.h>

typedef struct qw_module {
    char name[64];             /* file name without .so */
    char why[300];             /* why it cannot be used, or empty */
    const qw_backend *backend; /* NULL where it cannot be used */
} qw_module;

/* Module i of those found, or NULL past the last.  The first call of a process looks for them; any
 * thread may call. */
const qw_module *qw_module_at(int i);
#endif
