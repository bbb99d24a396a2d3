/* registry.c - the devices there are: built in, or modules in the package's library directory.
 *
 * A backend opens its i-th device or variant until it answers QW_DECLINE.  Its devices' names begin
 * with its own name.  A module that cannot be loaded is listed with the reason and bothers nobody
 * who did not ask for it.  Modules stay loaded: their code may be running.  The directory is
 * QW_PKGLIBDIR of the build, or the environment's QWEN_MODULES. */
#include <qwen/ref.h>
#include "core/run.h"
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef QW_PKGLIBDIR
#define QW_PKGLIBDIR ""
#endif

static const qw_backend *const built_in[] = { &ref_backend };
enum { BUILT_IN = sizeof built_in / sizeof built_in[0], MODULES = 16, VARIANTS = 256 };

/* What NULL means: the first of these backends that opens a device.  Others come after them, before
 * ref. */
static const char *const fastest_first[] = { "cuda", "hip", "cpu", "onednn" };

typedef struct module {
    char name[64]; /* file name without .so */
    char why[300]; /* why it cannot be used, or empty */
    const qw_backend *backend;
} module;

/* The one piece of process-wide state: which modules have been found.  Filled once. */
static struct {
    pthread_mutex_t lock;
    int filled, n;
    module m[MODULES];
} modules = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void load_module(module *m, const char *dir, const char *file)
{
    char path[1024];
    const int n = snprintf(path, sizeof path, "%s/%s", dir, file);
    snprintf(m->name, sizeof m->name, "%.*s", (int)(strlen(file) - 3 < 63 ? strlen(file) - 3 : 63),
             file);
    if (n < 0 || (size_t)n >= sizeof path) {
        snprintf(m->why, sizeof m->why, "its path is too long");
        return;
    }
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const char *reason = handle ? NULL : dlerror();
    const qw_backend *b = handle ? dlsym(handle, "qw_backend_module") : NULL;
    if (!handle) snprintf(m->why, sizeof m->why, "%s", reason ? reason : "it cannot be loaded");
    else if (!b) snprintf(m->why, sizeof m->why, "%s exports no qw_backend_module", file);
    else if (b->abi != QW_BACKEND_ABI)
        snprintf(m->why, sizeof m->why,
                 "%s speaks version %u of the device interface, this library version %d", file,
                 (unsigned)b->abi, QW_BACKEND_ABI);
    else if (!b->name || !b->open)
        snprintf(m->why, sizeof m->why, "%s has no name or opens nothing", file);
    else {
        m->backend = b;
        return;
    }
    if (handle) dlclose(handle);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const module *)a)->name, ((const module *)b)->name);
}

static void find_modules(void)
{
    pthread_mutex_lock(&modules.lock);
    if (!modules.filled) {
        const char *dir = getenv("QWEN_MODULES");
        if (!dir || !*dir) dir = QW_PKGLIBDIR;
        DIR *d = *dir ? opendir(dir) : NULL;
        for (struct dirent *e; d && modules.n < MODULES && (e = readdir(d));) {
            const size_t n = strlen(e->d_name);
            if (n > 3 && !strcmp(e->d_name + n - 3, ".so"))
                load_module(&modules.m[modules.n++], dir, e->d_name);
        }
        if (d) closedir(d);
        qsort(modules.m, (size_t)modules.n, sizeof modules.m[0], by_name);
        modules.filled = 1;
    }
    pthread_mutex_unlock(&modules.lock);
}

/* Backend i of all: modules, then what is built in.  *m is its module or NULL; 0 past the last. */
static int backend_at(int i, const qw_backend **b, const module **m)
{
    *m = NULL;
    if (i < modules.n) {
        *m = &modules.m[i];
        *b = modules.m[i].backend;
        return 1;
    }
    if (i - modules.n >= BUILT_IN) return 0;
    *b = built_in[i - modules.n];
    return 1;
}

/* Opens device or variant i of a backend; a device of another ABI is refused. */
static int open_at(const qw_backend *b, int i, int threads, qw_device **out)
{
    *out = NULL;
    const int status = b->open(i, out);
    if (status) return status;
    if (!*out) return QWEN_EDEVICE;
    if ((*out)->abi != QW_BACKEND_ABI) {
        (*out)->close(*out);
        *out = NULL;
        return QWEN_EUNSUPPORTED;
    }
    (*out)->threads = threads;
    return QWEN_OK;
}

static int starts_with(const char *name, const char *prefix)
{
    return !strncmp(name, prefix, strlen(prefix));
}

/* The device of that name, or the backend's first that opens when the name is the backend's own.
 * QW_DECLINE: this backend has none of that name. */
static int open_named(const qw_backend *b, const char *name, int threads, qw_device **out)
{
    int failed = QW_DECLINE;
    for (int i = 0; i < VARIANTS; i++) {
        const int status = open_at(b, i, threads, out);
        if (status == QW_DECLINE) break;
        if (status == QWEN_ENOMEM) return status; /* the next variant is another device */
        if (status) {
            failed = status;
            continue;
        }
        if (!strcmp((*out)->name, name) || !strcmp(b->name, name)) return QWEN_OK;
        (*out)->close(*out);
        *out = NULL;
    }
    return strcmp(b->name, name) ? QW_DECLINE : failed;
}

static int rank(const char *name)
{
    const int n = sizeof fastest_first / sizeof fastest_first[0];
    for (int i = 0; i < n; i++)
        if (!strcmp(name, fastest_first[i])) return i;
    return strcmp(name, "ref") ? n : n + 1;
}

static int open_fastest(int threads, qw_device **out)
{
    const int ranks = sizeof fastest_first / sizeof fastest_first[0] + 2;
    const qw_backend *b;
    const module *m;
    for (int want = 0; want < ranks; want++)
        for (int i = 0; backend_at(i, &b, &m); i++)
            if (b && rank(b->name) == want && !open_named(b, b->name, threads, out)) return QWEN_OK;
    return QWEN_EDEVICE;
}

typedef struct list {
    char text[700];
    size_t n;
} list;

static int add_name(void *user, const char *name, const char *what, const char *why_not)
{
    (void)what;
    list *l = user;
    if (why_not || l->n + strlen(name) + 3 > sizeof l->text) return 0;
    l->n += (size_t)snprintf(l->text + l->n, sizeof l->text - l->n, "%s%s", l->n ? ", " : "", name);
    return 0;
}

int qw_device_open(const char *name, int threads, qw_device **out, qw_error *err)
{
    *out = NULL;
    if (threads < 0) return qw_fail(err, QWEN_EARG, "%d threads", threads);
    find_modules();
    if (!name) {
        const int status = open_fastest(threads, out);
        return status ? qw_fail(err, status, "no device opens") : QWEN_OK;
    }
    if (!strcmp(name, "plan")) {
        const int status = qw_plan_open(NULL, out);
        return status ? qw_fail(err, status, "device plan: %s", qwen_strerror(status)) : QWEN_OK;
    }
    const qw_backend *b;
    const module *m;
    char shown[100];
    qw_visible(shown, sizeof shown, name);
    for (int i = 0; backend_at(i, &b, &m); i++) {
        if (!b) {
            if (!strcmp(m->name, name)
                || (starts_with(name, m->name) && name[strlen(m->name)] == ':'))
                return qw_fail(err, QWEN_EDEVICE, "device %s cannot be used: %s", shown, m->why);
            continue;
        }
        if (!starts_with(name, b->name)) continue;
        const int status = open_named(b, name, threads, out);
        if (!status) return QWEN_OK;
        if (status != QW_DECLINE)
            return qw_fail(err, status, "device %s does not open: %s", shown,
                           qwen_strerror(status));
    }
    list l = { "", 0 };
    qw_device_list(add_name, &l);
    return qw_fail(err, QWEN_EARG, "there is no device %s; these open: %s", shown, l.text);
}

static void describe(const qw_device *d, char *out, size_t size)
{
    char memory[40] = "";
    if (d->memory && d->memory < UINT64_MAX / 4)
        snprintf(memory, sizeof memory, ", %.1f GB free", (double)d->memory / 1e9);
    snprintf(out, size, "streams %s, branches %s%s", qw_dtype_name(d->wide),
             qw_dtype_name(d->prefer), memory);
}

int qw_device_list(int (*each)(void *user, const char *name, const char *what, const char *why_not),
                   void *user)
{
    const qw_backend *b;
    const module *m;
    find_modules();
    for (int i = 0; backend_at(i, &b, &m); i++) {
        if (!b) {
            const int stop = each(user, m->name, "module", m->why);
            if (stop) return stop;
            continue;
        }
        for (int k = 0; k < VARIANTS; k++) {
            qw_device *d = NULL;
            char what[120], name[40];
            const int status = open_at(b, k, 0, &d);
            if (status == QW_DECLINE) break;
            snprintf(name, sizeof name, "%.39s", d ? d->name : b->name);
            if (d) describe(d, what, sizeof what);
            if (d) d->close(d);
            const int stop = each(user, name, d ? what : "", status ? qwen_strerror(status) : NULL);
            if (stop) return stop;
        }
    }
    return QWEN_OK;
}
