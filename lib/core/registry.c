/* registry.c - the devices there are: those of modules, then what is built in.
 *
 * A backend lists its devices without opening them, until it answers QW_DECLINE.  Their names begin
 * with the backend's own; the backend's name alone means its usable device of the highest score. */
#include "core/modules.h"
#include "core/run.h"
#include <qwen/ref.h>
#include <stdio.h>
#include <string.h>

static const qw_backend *const built_in[] = { &ref_backend };
enum { BUILT_IN = sizeof built_in / sizeof built_in[0], VARIANTS = 256 };

/* Backend i of all.  *m is its module or NULL; 0 past the last. */
static int backend_at(int i, const qw_backend **b, const qw_module **m)
{
    int modules = 0;
    for (; (*m = qw_module_at(modules)); modules++)
        if (modules == i) {
            *b = (*m)->backend;
            return 1;
        }
    if (i - modules >= BUILT_IN) return 0;
    *b = built_in[i - modules];
    return 1;
}

/* Device k of a backend; 0 past the last. */
static int list_at(const qw_backend *b, int k, qw_listing *out)
{
    memset(out, 0, sizeof *out);
    out->size = sizeof *out;
    if (k >= VARIANTS) return 0;
    const int status = b->list(k, out);
    if (status == QW_DECLINE) return 0;
    out->name[sizeof out->name - 1] = out->what[sizeof out->what - 1] = 0;
    out->identity[sizeof out->identity - 1] = out->why_not[sizeof out->why_not - 1] = 0;
    if (!out->name[0]) snprintf(out->name, sizeof out->name, "%s", b->name);
    if (status && !out->why_not[0])
        snprintf(out->why_not, sizeof out->why_not, "%s", qwen_strerror(status));
    return 1;
}

/* A choice among all devices. */
typedef struct choice {
    const qw_backend *backend;
    int k;
    qw_listing listing;
} choice;

/* The usable device of that name; NULL: of the highest score above 0.  A backend's own name means
 * its usable one of the highest score.  0: there is none; then out has the first that has the name
 * and cannot be used, if any. */
static int choose(const char *name, choice *out)
{
    const qw_backend *b;
    const qw_module *m;
    choice c;
    int found = 0;
    for (int i = 0; backend_at(i, &b, &m); i++)
        for (int k = 0; b && list_at(b, k, &c.listing); k++) {
            const int named = !name || !strcmp(name, c.listing.name) || !strcmp(name, b->name);
            if (!named || (!name && c.listing.score <= 0)) continue;
            c.backend = b;
            c.k = k;
            const int usable = !c.listing.why_not[0];
            if (!usable && !found && !out->backend) *out = c;
            if (!usable) continue;
            if (!found || c.listing.score > out->listing.score) *out = c;
            found = 1;
            if (name && !strcmp(name, c.listing.name)) return 1;
        }
    return found;
}

/* Opens what was chosen and fills in what it left to the core. */
static int open_choice(const choice *c, const qw_device_options *options, qw_device **out,
                       qw_error *err)
{
    char why[300] = "";
    const qw_open_options o = { .size = sizeof o,
                                .threads = options ? options->threads : 0,
                                .memory = options ? options->memory : 0,
                                .why = why,
                                .why_size = sizeof why };
    int status = c->backend->open(c->k, &o, out);
    if (!status && !*out) status = QWEN_EDEVICE;
    if (!status && ((*out)->size < sizeof **out || (*out)->abi != QW_BACKEND_ABI)) {
        snprintf(why, sizeof why, "it has another version of the device interface");
        status = QWEN_EUNSUPPORTED;
        *out = NULL; /* how to close it is not known */
    }
    if (!status && qw_device_complete(*out)) {
        snprintf(why, sizeof why, "it has no memory functions, and its memory is not the host's");
        status = QWEN_EDEVICE;
        (*out)->close(*out);
        *out = NULL;
    }
    why[sizeof why - 1] = 0;
    if (status)
        return qw_fail(err, status < 0 ? status : QWEN_EDEVICE, "device %s does not open: %s",
                       c->listing.name,
                       why[0]       ? why
                       : status < 0 ? qwen_strerror(status)
                                    : "it is no longer there");
    (*out)->threads = options ? options->threads : 0;
    return QWEN_OK;
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

/* The module of that name, or whose name and a colon begin it, which cannot be used; or NULL. */
static const qw_module *broken_module(const char *name)
{
    const qw_module *m;
    for (int i = 0; (m = qw_module_at(i)); i++) {
        const size_t n = strlen(m->name);
        if (!m->backend && !strncmp(name, m->name, n) && (!name[n] || name[n] == ':')) return m;
    }
    return NULL;
}

int qw_device_open(const char *name, const qw_device_options *options, qw_device **out,
                   qw_error *err)
{
    *out = NULL;
    if (options && options->threads < 0)
        return qw_fail(err, QWEN_EARG, "%d threads", options->threads);
    if (name && !strcmp(name, "plan")) {
        const int status = qw_plan_open(NULL, out);
        return status ? qw_fail(err, status, "device plan: %s", qwen_strerror(status)) : QWEN_OK;
    }
    choice c = { .backend = NULL };
    if (choose(name, &c)) return open_choice(&c, options, out, err);
    if (!name) return qw_fail(err, QWEN_EDEVICE, "no device can be used");
    char shown[100];
    qw_visible(shown, sizeof shown, name);
    if (c.backend)
        return qw_fail(err, QWEN_EDEVICE, "device %s cannot be used: %s", shown, c.listing.why_not);
    const qw_module *m = broken_module(name);
    if (m) return qw_fail(err, QWEN_EDEVICE, "device %s cannot be used: %s", shown, m->why);
    list l = { "", 0 };
    qw_device_list(add_name, &l);
    return qw_fail(err, QWEN_EARG, "there is no device %s; these open: %s", shown, l.text);
}

int qw_device_list(int (*each)(void *user, const qw_listing *d, int is_default), void *user)
{
    const qw_backend *b;
    const qw_module *m;
    choice best = { .backend = NULL };
    const int any = choose(NULL, &best);
    for (int i = 0; backend_at(i, &b, &m); i++) {
        qw_listing d = { .size = sizeof d };
        if (!b) {
            snprintf(d.name, sizeof d.name, "%.*s", (int)sizeof d.name - 1, m->name);
            snprintf(d.what, sizeof d.what, "module");
            snprintf(d.why_not, sizeof d.why_not, "%.*s", (int)sizeof d.why_not - 1, m->why);
            const int stop = each(user, &d, 0);
            if (stop) return stop;
        }
        for (int k = 0; b && list_at(b, k, &d); k++) {
            const int stop = each(user, &d, any && best.backend == b && best.k == k);
            if (stop) return stop;
        }
    }
    return QWEN_OK;
}
