/* module.c - a module for check_registry.c and check_modules.sh, built several times: a correct
 * one, and one for each fault.
 *
 * Its devices are host devices without an operation, so the reference computes for them.  It counts
 * how often it was listed and opened. */
#include <math.h>
#include <qwen/backend.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef MODULE_NAME
#define MODULE_NAME "alpha" /* of the backend */
#endif
#ifndef MODULE_DEVICE
#define MODULE_DEVICE MODULE_NAME /* prefix of the devices' names */
#endif
#ifndef MODULE_WHAT
#define MODULE_WHAT "a device of a test"
#endif
#ifndef MODULE_SYMBOL
#define MODULE_SYMBOL qw_backend_module_v2
#endif
#ifndef MODULE_ABI
#define MODULE_ABI QW_BACKEND_ABI
#endif
#ifndef MODULE_SIZE
#define MODULE_SIZE sizeof(qw_backend)
#endif
#ifndef MODULE_ENDLESS
#define MODULE_ENDLESS 0 /* its list has no end */
#endif

extern const QW_EXPORT qw_backend MODULE_SYMBOL;
extern QW_EXPORT int module_listed, module_opened;
int module_listed, module_opened;

/* The behaviour of each device when it is opened; `why_not` is its sentence in the list. */
static const struct {
    const char *device, *why_not;
    double score;
    uint64_t memory;
} devices[] = {
    { ":asleep", "", 4e6, 0 },        /* fails with a sentence */
    { ":dark", "no power", 9e6, 0 },  /* cannot be used */
    { ":plain", "", 2e6, 0 },         /* opens */
    { ":silent", "", 3e6, 0 },        /* fails without a sentence */
    { ":old", "", 0, 0 },             /* opens as a device of another version */
    { ":halves", "", 0, 0 },          /* prefers a type that no device may */
    { ":far", "", 0, 0 },             /* not host memory, and no memory functions */
    { ":half\n\xff", "", 0, 0 },      /* its name is no UTF-8 text */
    { ":unsure", "", NAN, 0 },        /* a score that is no number */
    { ":best", "", INFINITY, 0 },     /* a score above all */
    { ":vast", "", 5e6, UINT64_MAX }, /* memory that no machine has */
    { ":twice", "", 1, 0 },           /* opens */
    { ":twice", "", 6e6, 0 },         /* has the name of another */
    { ":deep:er", "", 0, 0 },         /* opens */
    { ":deep", "asleep too", 0, 0 },  /* cannot be used */
    { ":lamp:high", "", 5, 0 },       /* opens */
    { ":lamp", "", 1, 0 },            /* opens */
    { ":a b", "", 1, 0 },             /* has a space in its name */
};
enum { DEVICES = sizeof devices / sizeof devices[0] };

static int list(int i, qw_listing *out)
{
    module_listed++;
    if (i < 0 || (i >= DEVICES && !MODULE_ENDLESS)) return QW_DECLINE;
    if (i >= DEVICES) {
        snprintf(out->name, sizeof out->name, "%s:%d", MODULE_DEVICE, i);
        return QWEN_OK;
    }
    snprintf(out->name, sizeof out->name, "%s%s", MODULE_DEVICE, devices[i].device);
    snprintf(out->what, sizeof out->what, "%s", MODULE_WHAT);
    snprintf(out->why_not, sizeof out->why_not, "%s", devices[i].why_not);
    out->score = devices[i].score - (i ? 0 : module_listed); /* that of :asleep falls */
    out->memory = devices[i].memory;
    return QWEN_OK;
}

static int open_device(int i, const qw_open_options *o, qw_device **out)
{
    module_opened++;
    if (i == 0 && o->why) snprintf(o->why, o->why_size, "its driver sleeps");
    if (i == 0 || i == 3) return QWEN_EDEVICE;
    static qw_device old = { .size = sizeof old, .abi = QW_BACKEND_ABI - 1 };
    qw_device *d = i == 4 ? &old : calloc(1, sizeof *d);
    *out = d;
    if (i == 4 || !d) return d ? QWEN_OK : QWEN_ENOMEM;
    d->size = sizeof *d;
    d->abi = QW_BACKEND_ABI;
    d->host = i != 6;
    d->prefer = i == 5 ? QW_F16 : QW_F32;
    d->wide = QW_F32;
    d->threads = 3;
    return QWEN_OK;
}

const qw_backend MODULE_SYMBOL = { MODULE_SIZE, MODULE_ABI, MODULE_NAME, list, open_device };
