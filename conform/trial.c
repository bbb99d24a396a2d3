/* trial.c - memory of a trial, and its first failure. */
#include "trial.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int qw_trial_fail(qw_verdict *v, const char *format, ...)
{
    if (v->outcome == QW_FAILED && v->why[0]) return 1;
    v->outcome = QW_FAILED;
    va_list ap;
    va_start(ap, format);
    vsnprintf(v->why, sizeof v->why, format, ap);
    va_end(ap);
    return 1;
}

void *qw_trial_device(qw_trial *t, size_t bytes)
{
    void *p = NULL;
    if (t->n_device == QW_OWNED || t->dev->alloc(t->dev, bytes ? bytes : 1, &p)) return NULL;
    return t->on_device[t->n_device++] = p;
}

void *qw_trial_host(qw_trial *t, size_t bytes)
{
    void *p = t->n_host < QW_OWNED ? malloc(bytes ? bytes : 1) : NULL;
    return p ? t->on_host[t->n_host++] = p : NULL;
}

void qw_trial_end(qw_trial *t)
{
    while (t->n_device > 0) t->dev->free(t->dev, t->on_device[--t->n_device]);
    while (t->n_host > 0) free(t->on_host[--t->n_host]);
    qw_material_free(&t->m);
}

void *qw_trial_upload(qw_trial *t, const void *from, size_t bytes)
{
    void *p = qw_trial_device(t, bytes);
    return p && !t->dev->put(t->dev, QW_COMPUTE, p, from, bytes) ? p : NULL;
}
