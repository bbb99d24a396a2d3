/* registry.c - all devices: those of modules, then the built-in ones.
 *
 * A backend lists its devices without opening them, up to QW_DECLINE.  Their names begin with the
 * backend's own; the backend's name alone means its usable device of the highest score. */
#include "core/modules.h"
#include "core/run.h"
#ifdef QW_HAVE_CPU
#include "backends/cpu/cpu.h"
#endif
#include <math.h>
#include <qwen/ref.h>
#include <stdio.h>
#include <string.h>

static const qw_backend *const built_in[] = {
#ifdef QW_HAVE_CPU
    &cpu_backend,
#endif
    &ref_backend,
};
enum {
    BUILT_IN = sizeof built_in / sizeof built_in[0],
    VARIANTS = 256, /* devices of a backend */
    WHY = 300,
    LINE = 4 * WHY + 5
};

/* Of names. */
#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:._+-"

/* --- backends --------------------------------------------------------------------------------- */

/* `name` is that of the backend `of` or of one of its devices: a colon follows, but in "ref64". */
static int belongs(const char *name, const char *of)
{
    const size_t n = strlen(of);
    if (strncmp(name, of, n)) return 0;
    return !name[n] || name[n] == ':' || (of == ref_backend.name && !strcmp(name + n, "64"));
}

static int count_modules(void)
{
    int n = 0;
    while (qw_module_name(n)) n++;
    return n;
}

/* Name of backend i of all, or NULL past the last.  Opens no module. */
static const char *backend_name(int i)
{
    const int modules = count_modules();
    if (i < modules) return qw_module_name(i);
    return i - modules < BUILT_IN ? built_in[i - modules]->name : NULL;
}

/* Backend i of all; opens its module.  NULL: it cannot be used, and *why is the reason. */
static const qw_backend *backend_at(int i, const char **why)
{
    const int modules = count_modules();
    *why = "";
    if (i >= modules) return built_in[i - modules];
    int taken = !strcmp(qw_module_name(i), "plan");
    for (int k = 0; k < BUILT_IN; k++) taken |= belongs(qw_module_name(i), built_in[k]->name);
    *why = "a built-in device has that name";
    return taken ? NULL : qw_module_backend(i, why);
}

/* Terminates text that a module wrote; control characters and broken UTF-8 become visible. */
static void clean(char *text, size_t size)
{
    char copy[WHY], shown[LINE];
    text[size - 1] = 0;
    snprintf(copy, sizeof copy, "%s", text);
    const size_t bytes = strlen(qw_visible(shown, sizeof shown, copy)) + 1;
    if (bytes <= size) memcpy(text, shown, bytes);
    else qw_visible(text, size, copy);
}

/* What list says about device k, its text made readable; the status of list. */
static int ask(const qw_backend *b, int k, qw_listing *out)
{
    *out = (qw_listing){ .size = sizeof *out };
    const int status = b->list(k, out);
    clean(out->name, sizeof out->name);
    clean(out->what, sizeof out->what);
    clean(out->identity, sizeof out->identity);
    clean(out->why_not, sizeof out->why_not);
    if (!out->name[0]) snprintf(out->name, sizeof out->name, "%.47s", b->name);
    return status;
}

/* NULL, or why device k, listed as d, cannot be used whatever its backend says. */
static const char *misfit(const qw_backend *b, int k, const qw_listing *d)
{
    if (k == VARIANTS) return "the backend lists too many devices";
    if (strspn(d->name, LETTERS) != strlen(d->name))
        return "its name has other characters than letters, digits and :._+-";
    if (!isfinite(d->score)) return "its score is not a finite number";
    if (d->memory > INT64_MAX) return "its memory is over 2^63 bytes";
    for (int i = 0; i < k; i++) {
        qw_listing other;
        if (ask(b, i, &other) == QWEN_OK && !strcmp(other.name, d->name))
            return "another device of the backend has its name";
    }
    return NULL;
}

/* Device k of a backend; 0 past the last. */
static int list_at(const qw_backend *b, int k, qw_listing *out)
{
    const int status = k > VARIANTS ? QW_DECLINE : ask(b, k, out);
    if (status == QW_DECLINE) return 0;
    if (status && !out->why_not[0])
        snprintf(out->why_not, sizeof out->why_not, "listing it failed: %s", qwen_strerror(status));
    const char *wrong = misfit(b, k, out);
    if (wrong) {
        snprintf(out->why_not, sizeof out->why_not, "%s", wrong);
        out->score = 0;
        out->memory = 0;
    }
    if (!belongs(out->name, b->name)) { /* else it could hide a device of another backend */
        snprintf(out->why_not, sizeof out->why_not,
                 "its name is \"%s\", which is not the backend's or that and a colon and more",
                 out->name);
        snprintf(out->name, sizeof out->name, "%.47s", b->name);
    }
    return 1;
}

/* --- choosing --------------------------------------------------------------------------------- */

typedef struct choice {
    const qw_backend *backend;
    int order, k; /* the backend's place among all, the device's in the backend */
    qw_listing listing;
} choice;

/* The order in which defaults are tried: by score, then by place in the list. */
static int before(const choice *a, const choice *b)
{
    if (a->listing.score != b->listing.score) return a->listing.score > b->listing.score;
    return a->order != b->order ? a->order < b->order : a->k < b->k;
}

/* Devices that did not open. */
typedef struct tried {
    int n, order[32], k[32];
} tried;

static int was_tried(const tried *t, const choice *c)
{
    for (int i = 0; i < t->n; i++)
        if (t->order[i] == c->order && t->k[i] == c->k) return 1;
    return 0;
}

/* The default, or the next best where some were tried; 0: there is none. */
static int choose_default(const tried *t, choice *out)
{
    const char *why;
    choice c;
    int found = 0;
    for (c.order = 0; backend_name(c.order); c.order++) {
        c.backend = backend_at(c.order, &why);
        for (c.k = 0; c.backend && list_at(c.backend, c.k, &c.listing); c.k++) {
            if (c.listing.why_not[0] || !(c.listing.score > 0) || was_tried(t, &c)) continue;
            if (!found || before(&c, out)) *out = c;
            found = 1;
        }
    }
    return found;
}

/* Nonzero: a name is all of another, or all of it up to a colon. */
static int begins(const char *name, const char *all)
{
    const size_t n = strlen(name);
    return !strncmp(name, all, n) && (!all[n] || all[n] == ':');
}

/* The usable device of that name; the name of a backend, or of a device without its last words
 * ("cpu:avx2"), means the usable one that begins with it and has the highest score.
 * 0: there is none; then out has the first that has the name and cannot be used, if any. */
static int choose_named(const char *name, choice *out)
{
    const char *why;
    choice c;
    int found = 0;
    for (c.order = 0; backend_name(c.order); c.order++) {
        if (!belongs(name, backend_name(c.order))) continue;
        c.backend = backend_at(c.order, &why);
        for (c.k = 0; c.backend && list_at(c.backend, c.k, &c.listing); c.k++) {
            const int usable = !c.listing.why_not[0], exact = !strcmp(name, c.listing.name);
            if (!exact && !begins(name, c.listing.name)) continue;
            if (usable ? !found || c.listing.score > out->listing.score : !out->backend) *out = c;
            found |= usable;
            if (!exact) continue;
            *out = c;
            return usable;
        }
    }
    return found;
}

/* --- opening ---------------------------------------------------------------------------------- */

/* NULL, or what is wrong with a device that has been opened. */
static const char *complete(qw_device *d, const choice *c, const qw_device_options *options)
{
    memcpy(d->name, c->listing.name, sizeof d->name);
    if (options->threads) d->threads = options->threads;
    return qw_device_complete(d);
}

/* Opens the chosen device and sets the functions that it leaves NULL. */
static int open_choice(const choice *c, const qw_device_options *options, qw_device **out,
                       qw_error *err)
{
    char why[WHY] = "";
    const qw_open_options o = { .size = sizeof o,
                                .threads = options->threads ? options->threads : qw_host_threads(),
                                .memory = options->memory,
                                .why = why,
                                .why_size = sizeof why };
    int status = c->backend->open(c->k, &o, out);
    if (!status && !*out) status = QWEN_EDEVICE;
    if (status) *out = NULL;
    if (!status && ((*out)->size < sizeof **out || (*out)->abi != QW_BACKEND_ABI)) {
        snprintf(why, sizeof why, "the device has another version of the device interface");
        status = QWEN_EDEVICE;
        *out = NULL; /* close may lie elsewhere in its struct: it is leaked */
    }
    const char *wrong = status ? NULL : complete(*out, c, options);
    if (wrong) {
        snprintf(why, sizeof why, "%s", wrong);
        status = QWEN_EDEVICE;
        (*out)->close(*out);
        *out = NULL;
    }
    if (!status) return QWEN_OK;
    clean(why, sizeof why);
    return qw_fail(err, status == QWEN_ENOMEM ? status : QWEN_EDEVICE,
                   "device %s does not open: %s", c->listing.name,
                   why[0]       ? why
                   : status < 0 ? qwen_strerror(status)
                                : "it is no longer there");
}

/* Opens the default of the highest score that opens.  options->notice gets the first failure before
 * it. */
static int open_default(const qw_device_options *options, qw_device **out, qw_error *err)
{
    qw_error first = { 0 };
    choice c;
    tried t = { 0 };
    while (t.n < 32 && choose_default(&t, &c)) {
        qw_error e = { 0 };
        if (!open_choice(&c, options, out, &e)) {
            if (first.status && options->notice)
                options->notice(options->user, first.text, c.listing.name);
            return QWEN_OK;
        }
        if (!first.status) first = e;
        t.order[t.n] = c.order;
        t.k[t.n++] = c.k;
    }
    if (first.status) return qw_fail(err, first.status, "%s", first.text);
    return qw_fail(err, QWEN_EDEVICE, "no device can be used");
}

typedef struct list {
    char text[700];
    size_t n;
} list;

static int add_name(void *user, const qw_listing *d, int is_default)
{
    (void)is_default;
    list *l = user;
    if (d->why_not[0] || l->n + strlen(d->name) + 3 > sizeof l->text) return 0;
    l->n +=
        (size_t)snprintf(l->text + l->n, sizeof l->text - l->n, "%s%s", l->n ? ", " : "", d->name);
    return 0;
}

/* The reason why the module of a device of that name cannot be used; NULL: no such module. */
static const char *broken_module(const char *name)
{
    const char *why, *backend;
    for (int i = 0; (backend = backend_name(i)); i++)
        if (belongs(name, backend) && !backend_at(i, &why)) return why;
    return NULL;
}

int qw_device_open(const char *name, const qw_device_options *options, qw_device **out,
                   qw_error *err)
{
    static const qw_device_options none = { .threads = 0 };
    if (!options) options = &none;
    *out = NULL;
    if (options->threads < 0) return qw_fail(err, QWEN_EARG, "%d threads", options->threads);
    if (!name) return open_default(options, out, err);
    if (!strcmp(name, "plan")) {
        const int status = qw_plan_open(NULL, out);
        return status ? qw_fail(err, status, "device plan: %s", qwen_strerror(status)) : QWEN_OK;
    }
    choice c = { .backend = NULL };
    if (choose_named(name, &c)) return open_choice(&c, options, out, err);
    char shown[100];
    qw_visible(shown, sizeof shown, name);
    const char *why = c.backend ? c.listing.why_not : broken_module(name);
    if (why) return qw_fail(err, QWEN_EDEVICE, "device %s cannot be used: %s", shown, why);
    list l = { "", 0 };
    qw_device_list(add_name, &l);
    return qw_fail(err, QWEN_EARG, "there is no device %s; these open: %s", shown, l.text);
}

/* --- listing ---------------------------------------------------------------------------------- */

int qw_device_list(int (*each)(void *user, const qw_listing *d, int is_default), void *user)
{
    choice best = { .backend = NULL };
    const char *name, *why;
    const int any = choose_default(&(tried){ 0 }, &best);
    for (int i = 0; (name = backend_name(i)); i++) {
        qw_listing d = { .size = sizeof d };
        const qw_backend *b = backend_at(i, &why);
        if (!b) {
            snprintf(d.name, sizeof d.name, "%.*s", (int)sizeof d.name - 1, name);
            snprintf(d.what, sizeof d.what, "module");
            snprintf(d.why_not, sizeof d.why_not, "%.*s", (int)sizeof d.why_not - 1, why);
            clean(d.name, sizeof d.name);
            clean(d.why_not, sizeof d.why_not);
            const int stop = each(user, &d, 0);
            if (stop) return stop;
        }
        for (int k = 0; b && list_at(b, k, &d); k++) {
            const int stop = each(user, &d, any && best.order == i && best.k == k);
            if (stop) return stop;
        }
    }
    return QWEN_OK;
}
