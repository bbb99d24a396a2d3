/* modules.h - backends in shared objects, for registry.c. */
#ifndef QW_MODULES_H
#define QW_MODULES_H
#include <qwen/backend.h>

/* Name of module i, the file name without ".so", or NULL past the last.  Opens no module.  The
 * first call of a process searches the folders; any thread may call. */
const char *qw_module_name(int i);
/* The backend of module i, which the first call for it opens and nothing closes.  NULL: it cannot
 * be used, and *why is the reason. */
const qw_backend *qw_module_backend(int i, const char **why);
/* elf.c: nonzero: the file is a shared object that ends too soon, which dlopen would not survive. */
int qw_module_is_cut(const char *path);
#endif
