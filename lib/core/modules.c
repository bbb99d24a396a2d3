/* modules.c - backends in shared objects: looked for once, opened on demand, never closed.
 *
 * Folders, in this order: those of $QWEN_MODULES (a list with colons), the folder "libqwen" beside
 * the library that runs, QW_PKGLIBDIR of the build.  The first module of a name hides later ones.
 * A module that cannot be used is listed with the reason. */
#define _GNU_SOURCE /* dladdr */
#include "core/modules.h"
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef QW_PKGLIBDIR
#define QW_PKGLIBDIR ""
#endif

enum { MODULES = 32, PATH = 1024 };

/* The one piece of process-wide state: which modules have been found.  Filled once. */
static struct {
    pthread_mutex_t lock;
    int filled, n;
    qw_module m[MODULES];
} modules = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void check_backend(qw_module *m, const char *file, const qw_backend *b)
{
    if (b->size < sizeof *b || b->abi != QW_BACKEND_ABI)
        snprintf(m->why, sizeof m->why,
                 "%s has version %u of the device interface, this library version %d", file,
                 (unsigned)b->abi, QW_BACKEND_ABI);
    else if (!b->name || !*b->name || !b->list || !b->open)
        snprintf(m->why, sizeof m->why, "%s has no name, lists nothing or opens nothing", file);
    else m->backend = b;
}

static void load(qw_module *m, const char *folder, const char *file)
{
    char path[PATH];
    const int n = snprintf(path, sizeof path, "%s/%s", folder, file);
    if (n < 0 || (size_t)n >= sizeof path) {
        snprintf(m->why, sizeof m->why, "its path is too long");
        return;
    }
    void *handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    if (!handle) {
        const char *reason = dlerror();
        snprintf(m->why, sizeof m->why, "%s", reason ? reason : "it cannot be loaded");
        return;
    }
    const qw_backend *b = dlsym(handle, "qw_backend_module_v2");
    if (b) check_backend(m, file, b);
    else if (dlsym(handle, "qw_backend_module"))
        snprintf(m->why, sizeof m->why,
                 "%s has version 1 of the device interface, this library version %d", file,
                 QW_BACKEND_ABI);
    else snprintf(m->why, sizeof m->why, "%s exports no qw_backend_module_v2", file);
    if (!m->backend) dlclose(handle);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const qw_module *)a)->name, ((const qw_module *)b)->name);
}

static int known(const char *name)
{
    for (int i = 0; i < modules.n; i++)
        if (!strcmp(modules.m[i].name, name)) return 1;
    return 0;
}

/* The modules of a folder, in the order of their names, after those found before. */
static void search(const char *folder)
{
    const int first = modules.n;
    DIR *d = *folder ? opendir(folder) : NULL;
    for (struct dirent *e; d && modules.n < MODULES && (e = readdir(d));) {
        qw_module *m = &modules.m[modules.n];
        const size_t n = strlen(e->d_name);
        if (n <= 3 || n - 3 >= sizeof m->name || strcmp(e->d_name + n - 3, ".so")) continue;
        memset(m, 0, sizeof *m);
        memcpy(m->name, e->d_name, n - 3);
        if (known(m->name)) continue;
        load(m, folder, e->d_name);
        modules.n++;
    }
    if (d) closedir(d);
    qsort(modules.m + first, (size_t)(modules.n - first), sizeof modules.m[0], by_name);
}

static void search_list(const char *list)
{
    char folder[PATH];
    while (list && *list) {
        const size_t n = strcspn(list, ":");
        if (n && n < sizeof folder) {
            memcpy(folder, list, n);
            folder[n] = 0;
            search(folder);
        }
        list += n + (list[n] == ':');
    }
}

/* The folder of modules beside the file that this function was loaded from. */
static void search_beside(void)
{
    Dl_info info;
    char folder[PATH];
    if (!dladdr((void *)&modules, &info) || !info.dli_fname) return;
    const char *slash = strrchr(info.dli_fname, '/');
    if (!slash) return;
    const int n = (int)(slash - info.dli_fname);
    if (snprintf(folder, sizeof folder, "%.*s/libqwen", n, info.dli_fname) < (int)sizeof folder)
        search(folder);
}

const qw_module *qw_module_at(int i)
{
    pthread_mutex_lock(&modules.lock);
    if (!modules.filled) {
        search_list(getenv("QWEN_MODULES"));
        search_beside();
        search(QW_PKGLIBDIR);
        modules.filled = 1;
    }
    pthread_mutex_unlock(&modules.lock);
    return i < modules.n ? &modules.m[i] : NULL;
}
