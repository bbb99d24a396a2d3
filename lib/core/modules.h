/* modules.h - backends in shared objects, for registry.c. */
#ifndef QW_MODULES_H
#define QW_MODULES_H
#include <qwen/backend.h>

/* Name of module i, which is its file's without ".so", or NULL past the last.  Opens none.  The
 * first call of a process looks for modules; any thread may call. */
const char *qw_module_name(int i);
/* The backend of module i, which is opened by the first call that asks for it and stays open.
 * NULL: it cannot be used, and *why is the reason. */
const qw_backend *qw_module_backend(int i, const char **why);
#endif
