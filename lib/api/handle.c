/* handle.c - public functions of a model as a whole: open, close, info, LoRA; and of devices. */
#include "api/api.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef PACKAGE_VERSION
#define PACKAGE_VERSION "0.1.0"
#endif

const char *qwen_version(void) { return PACKAGE_VERSION; }

void qwen_array_free(qwen_array *a)
{
    if (!a) return;
    free(a->data);
    memset(a, 0, sizeof *a);
}

const char *qwen_error(const qwen *q) { return q ? qw_model_failure(q) : "no memory"; }

int qwen_open(qwen **out, const qwen_options *opt)
{
    return out ? qw_model_new(out, opt) : QWEN_EARG;
}

void qwen_close(qwen *q) { qw_model_free(q); }

int qw_usable(qwen *q)
{
    if (!q) return QWEN_EARG;
    qw_error *err = qw_model_error(q);
    if (!qw_model_is_open(q))
        return err->status ? err->status : qw_fail(err, QWEN_EARG, "the model is not open");
    memset(err, 0, sizeof *err);
    return QWEN_OK;
}

int qwen_info(qwen *q, qwen_model_info *out)
{
    const int status = qw_usable(q);
    qwen_model_info info;
    if (status) return status;
    qw_error *err = qw_model_error(q);
    if (!out) return qw_fail(err, QWEN_EARG, "no qwen_model_info");
    const size_t size = out->size;
    if (qw_take_struct(err, &info, sizeof info, out, size, "qwen_model_info")) return err->status;
    qw_model_info(q, &info);
    qw_give_struct(out, size, &info, sizeof info);
    return QWEN_OK;
}

typedef struct listener {
    int (*each)(void *user, const qwen_device_info *d);
    void *user;
} listener;

static int give_device(void *user, const qw_listing *d, int is_default)
{
    const listener *l = user;
    const qwen_device_info info = { .size = sizeof info,
                                    .name = d->name,
                                    .what = d->what,
                                    .identity = d->identity,
                                    .why_not = d->why_not[0] ? d->why_not : NULL,
                                    .score = d->score,
                                    .memory = d->memory,
                                    .is_default = is_default };
    return l->each(l->user, &info);
}

int qwen_devices(int (*each)(void *user, const qwen_device_info *d), void *user)
{
    return each ? qw_device_list(give_device, &(listener){ each, user }) : QWEN_EARG;
}

int qwen_lora(qwen *q, const char *path, double strength, unsigned flags)
{
    const int status = qw_usable(q);
    if (status) return status;
    qw_error *err = qw_model_error(q);
    if (!path) return qw_fail(err, QWEN_EARG, "LoRA: no path");
    if (!(fabs(strength) <= 1e6))
        return qw_fail(err, QWEN_EARG, "%s: strength %g, expected -1e6 to 1e6", path, strength);
    if (flags & ~(unsigned)QWEN_LORA_PARTIAL)
        return qw_fail(err, QWEN_EUNSUPPORTED, "LoRA: flags %#x", flags);
    return qw_lora_add(q, path, strength, flags & QWEN_LORA_PARTIAL);
}

void qwen_lora_clear(qwen *q)
{
    if (q && qw_model_is_open(q)) qw_lora_drop(q);
}
