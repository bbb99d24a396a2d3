/* job.c - begin and end of a job, its arrays, its phases, its taps outside of a stage. */
#include "pipeline/job.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void qw_job_start(qw_job *j, qwen *q, const qwen_request *req)
{
    static const qwen_request empty = { .size = sizeof empty };
    memset(j, 0, sizeof *j);
    j->q = q;
    j->req = req ? req : &empty;
    j->devices = &q->devices;
    j->nets = &q->nets;
    j->control = j->inpaint = -1;
    j->passes = 1;
}

void qw_job_free(qw_job *j)
{
    for (int i = 0; i < j->views; i++) {
        free(j->view[i].data);
        free(j->view[i].value);
    }
    for (int i = 0; i < j->references; i++) {
        free(j->reference[i].image.data);
        free(j->reference[i].image.value);
        free(j->reference[i].mean);
        free(j->reference[i].logvar);
        free(j->reference[i].latent);
    }
    for (int k = 0; k < 2; k++) {
        qw_prompt_free(&j->prompt[k]);
        free(j->key[k]);
        free(j->text[k]);
    }
    free(j->canvas.data);
    free(j->condition);
    free(j->features);
    free(j->mask);
    free(j->mask_tokens);
    free(j->kept);
    free(j->noise);
    free(j->start);
    free(j->x);
    qw_schedule_free(&j->sched);
    memset(j, 0, sizeof *j);
}

double *qw_doubles(qwen *q, int64_t n, const char *what)
{
    double *x = calloc((size_t)(n > 0 ? n : 1), sizeof *x);
    if (!x) qw_fail(&q->error, QWEN_ENOMEM, "no memory for %lld numbers of %s", (long long)n, what);
    return x;
}

int qw_finite(const double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(x[i]) <= DBL_MAX)) return 0;
    return 1;
}

/* --- phases ----------------------------------------------------------------------------------- */

const char *qw_phase_name(qw_phase p)
{
    static const char *const names[QW_PHASES] = { "text", "vision", "encode", "denoise", "decode" };
    return names[p];
}

static qw_device *device_of(const qw_devices *d, qw_phase p)
{
    switch (p) {
    case QW_PHASE_TEXT:
    case QW_PHASE_VISION: return d->text;
    case QW_PHASE_ENCODE:
    case QW_PHASE_DECODE: return d->vae;
    default: return d->main;
    }
}

qw_device *qw_phase_device(const qw_job *j, qw_phase p) { return device_of(j->devices, p); }

const char *qw_phase_device_name(const qw_job *j, qw_phase p)
{
    return device_of(&j->q->devices, p)->name;
}

/* --- taps outside of any stage ---------------------------------------------------------------- */

static void hand_out(void *user, const char *name, const qwen_array *a)
{
    const qwen_request *r = user;
    r->tap(r->user, name, a);
}

static int begin(qw_run *r, const qw_job *j, qw_phase p)
{
    if (!j->req->tap || j->tally) return 0;
    qw_run_init(r, qw_phase_device(j, p), NULL);
    r->tap = hand_out;
    r->user = (void *)(uintptr_t)j->req;
    return 1;
}

static int end(const qw_run *r, qw_job *j)
{
    if (r->error.status) j->q->error = r->error;
    return j->q->error.status;
}

int qw_show(qw_job *j, qw_phase p, const double *x, int rank, const int64_t *dim, const char *name)
{
    qw_run r;
    if (!begin(&r, j, p)) return QWEN_OK;
    qw_tap_doubles(&r, x, rank, dim, "%s", name);
    return end(&r, j);
}

int qw_show_ints(qw_job *j, const int32_t *x, int rank, const int64_t *dim, const char *name)
{
    qw_run r;
    if (!begin(&r, j, QW_PHASE_DENOISE)) return QWEN_OK;
    qw_tap_ints(&r, x, rank, dim, "%s", name);
    return end(&r, j);
}
