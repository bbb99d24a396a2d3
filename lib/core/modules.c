/* modules.c - backends in shared objects: searched once, opened at the first use, never closed.
 *
 * The file of a module is named after its backend: NAME.so.  Folders, in this order: those of
 * $QWEN_MODULES (a list with colons), the folder "libqwen" beside the library that runs, and
 * QW_PKGLIBDIR of the build.  The first module of a name hides later ones.  `why` holds the reason
 * where a module cannot be used. */
#define _GNU_SOURCE /* dladdr, secure_getenv */
#include "core/core.h"
#include "core/modules.h"
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef QW_PKGLIBDIR
#define QW_PKGLIBDIR ""
#endif

enum { MODULES = 64, PATH = 1024 };

typedef struct module {
    char name[64]; /* file name without .so */
    char path[PATH];
    int opened;
    char why[300];             /* why it cannot be used, or empty */
    const qw_backend *backend; /* NULL until it is opened, and where it cannot be used */
} module;

/* The one piece of process-wide state: the modules found. */
static struct {
    pthread_mutex_t lock;
    int filled, n;
    module m[MODULES + 1]; /* the last is one too many */
} modules = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* --- looking ---------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const module *)a)->name, ((const module *)b)->name);
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
    for (struct dirent *e; d && modules.n <= MODULES && (e = readdir(d));) {
        module *m = &modules.m[modules.n];
        const size_t n = strlen(e->d_name);
        if (n <= 3 || n - 3 >= sizeof m->name || strcmp(e->d_name + n - 3, ".so")) continue;
        memset(m, 0, sizeof *m);
        memcpy(m->name, e->d_name, n - 3);
        const int bytes = snprintf(m->path, sizeof m->path, "%s/%s", folder, e->d_name);
        if (bytes < 0 || (size_t)bytes >= sizeof m->path || known(m->name)) continue;
        m->opened = modules.n == MODULES;
        if (m->opened) snprintf(m->why, sizeof m->why, "there are more than %d modules", MODULES);
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

/* Beside the file that this code was loaded from: the library, or a program that it is linked into,
 * which may also lie in a "bin" next to the library's "lib". */
static void search_beside(void)
{
    static const char *const beside[] = { "libqwen", "../lib/libqwen" };
    Dl_info info;
    char file[PATH] = "", folder[PATH + 32];
    if (!dladdr((void *)&modules, &info) || !info.dli_fname) return;
    if (strchr(info.dli_fname, '/')) snprintf(file, sizeof file, "%s", info.dli_fname);
    else if (readlink("/proc/self/exe", file, sizeof file - 1) < 0) return; /* found by $PATH */
    const char *slash = strrchr(file, '/');
    for (int i = 0; slash && i < 2; i++) {
        snprintf(folder, sizeof folder, "%.*s/%s", (int)(slash - file), file, beside[i]);
        search(folder);
    }
}

/* NULL in a set-user-ID or set-group-ID program, which must not load code of its caller's. */
static const char *callers_folders(void)
{
#ifdef __linux__
    return secure_getenv("QWEN_MODULES"); /* file capabilities count, too */
#else
    return getuid() == geteuid() && getgid() == getegid() ? getenv("QWEN_MODULES") : NULL;
#endif
}

/* Module i, or NULL past the last.  The lock is held. */
static module *module_at(int i)
{
    if (!modules.filled) {
        search_list(callers_folders());
        search_beside();
        search(QW_PKGLIBDIR);
        modules.filled = 1;
    }
    return i < modules.n ? &modules.m[i] : NULL;
}

const char *qw_module_name(int i)
{
    pthread_mutex_lock(&modules.lock);
    const module *m = module_at(i);
    pthread_mutex_unlock(&modules.lock);
    return m ? m->name : NULL;
}

/* --- opening ---------------------------------------------------------------------------------- */

static void refuse(module *m, const char *format, ...) QW_PRINTF(2, 3);
static void refuse(module *m, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(m->why, sizeof m->why, format, args);
    va_end(args);
}

static void check_backend(module *m, const qw_backend *b)
{
    if (b->size < sizeof *b || b->abi != QW_BACKEND_ABI)
        refuse(m,
               "%s.so has version %u of the device interface in %zu bytes; this library has "
               "version %d in %zu",
               m->name, (unsigned)b->abi, b->size, QW_BACKEND_ABI, sizeof *b);
    else if (!b->name || !*b->name || !b->list || !b->open)
        refuse(m, "%s.so has no name, lists nothing or opens nothing", m->name);
    else if (strcmp(b->name, m->name))
        refuse(m, "%s.so has the backend \"%.40s\"; the file must be %.40s.so", m->name, b->name,
               b->name);
    else m->backend = b;
}

static void open_module(module *m)
{
    m->opened = 1;
    struct stat st;
    if (!stat(m->path, &st) && !S_ISREG(st.st_mode)) { /* the first read of a pipe would wait */
        refuse(m, "%s.so is not a regular file", m->name);
        return;
    }
    if (qw_module_is_cut(m->path)) {
        refuse(m, "%s.so is cut short: a part of the file is missing", m->name);
        return;
    }
    void *handle = dlopen(m->path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        const char *reason = dlerror();
        refuse(m, "%s", reason ? reason : "it cannot be loaded");
        return;
    }
    const qw_backend *b = dlsym(handle, "qw_backend_module_v2");
    if (b) check_backend(m, b);
    else if (dlsym(handle, "qw_backend_module"))
        refuse(m, "%s.so has version 1 of the device interface; this library has version %d",
               m->name, QW_BACKEND_ABI);
    else refuse(m, "%s.so exports no qw_backend_module_v2", m->name);
}

const qw_backend *qw_module_backend(int i, const char **why)
{
    pthread_mutex_lock(&modules.lock);
    module *m = module_at(i);
    if (m && !m->opened) open_module(m);
    pthread_mutex_unlock(&modules.lock);
    *why = m ? m->why : "";
    return m ? m->backend : NULL;
}
