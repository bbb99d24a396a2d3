/* run_error.c - the first failure of a run, and its place: stage, step, block. */
#include "core/run_inside.h"
#include <stdarg.h>
#include <stdio.h>

void qw_run_fail(qw_run *r, int status, const char *format, ...)
{
    if (r->error.status) return;
    char text[sizeof r->error.text];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    qw_fail(&r->error, status < 0 ? status : QWEN_EDEVICE, "%s", text);
}

/* "denoise, step 3, block 12: " or as much of it as is set. */
const char *qw_run_where(const qw_run *r, char *out, size_t size)
{
    char step[32] = "", block[32] = "";
    if (r->step >= 0) snprintf(step, sizeof step, "%sstep %d", r->stage ? ", " : "", r->step);
    if (r->block >= 0)
        snprintf(block, sizeof block, "%sblock %d", r->stage || r->step >= 0 ? ", " : "", r->block);
    snprintf(out, size, "%.60s%s%s%s", r->stage ? r->stage : "", step, block,
             r->stage || step[0] || block[0] ? ": " : "");
    return out;
}

void qw_run_device_failed(qw_run *r, int status, const char *what)
{
    const char *sentence = r->dev->failure ? r->dev->failure(r->dev) : NULL;
    if (sentence) qw_run_fail(r, status, "device %s: %s", r->dev->name, sentence);
    else qw_run_fail(r, status, "device %s failed while %s", r->dev->name, what);
}
