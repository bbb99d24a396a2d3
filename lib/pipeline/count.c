/* count.c - counts the stages of a request, for qwen_plan and before a long sequence is drawn.
 *
 * A counted job has plan devices in place of the model's, and nets of its own (load_nets.c).  It
 * opens no device and loads no weight of the model, and logs nothing. */
#include "pipeline/stage.h"
#include <stdlib.h>
#include <string.h>

void qw_tally_free(qw_tally *t)
{
    for (int64_t i = 0; i < t->lines; i++) free(t->line[i].line);
    free(t->line);
    memset(t, 0, sizeof *t);
}

/* --- plan devices ----------------------------------------------------------------------------- */

static void close_devices(qw_devices *d)
{
    if (d->vae && d->vae != d->main) d->vae->close(d->vae);
    if (d->text && d->text != d->main) d->text->close(d->text);
    if (d->main) d->main->close(d->main);
}

/* Opens a plan device for each of the model's, one for those that are the same. */
static int open_devices(qw_devices *d, const qw_devices *like, qw_error *err)
{
    int status = qw_plan_open(like->main, &d->main);
    d->text = d->vae = d->main;
    if (!status && like->text != like->main) status = qw_plan_open(like->text, &d->text);
    if (!status && like->vae != like->main) status = qw_plan_open(like->vae, &d->vae);
    return status ? qw_fail(err, QWEN_ENOMEM, "no memory for a plan") : QWEN_OK;
}

/* --- the report ------------------------------------------------------------------------------- */

/* Bytes of a net's tensors, 0 for a net that the request does not need. */
static uint64_t file_bytes(const qw_job *j, qw_net n)
{
    return j->nets->loaded >> n & 1 ? j->q->files.net[n].bytes : 0;
}

static void report_weights(const qw_job *j, qwen_plan_report *out)
{
    const qw_nets *nets = j->nets;
    out->weights_text = file_bytes(j, QW_TEXT);
    out->weights_vision = file_bytes(j, QW_VISION);
    out->weights_transformer = file_bytes(j, QW_DIT);
    out->weights_vae = file_bytes(j, QW_VAE);
    for (int i = 0; i < QW_NETS; i++) {
        out->resident += qw_residency_bytes(nets->weights[i], 0);
        out->streamed += qw_residency_bytes(nets->weights[i], 1);
        out->copies += qw_residency_bytes(nets->weights[i], 2);
    }
    out->copies += qw_overlay_bytes(nets->overlay);
}

static void report(const qw_job *j, qwen_plan_report *out)
{
    const qw_tally *t = j->tally;
    out->width = j->width;
    out->height = j->height;
    out->steps = j->steps - j->first_step;
    out->passes = j->passes;
    out->image_tokens = j->frames * j->tokens;
    out->text_tokens = j->text_rows[0];
    for (int k = 0; k < j->sequence_references; k++)
        out->reference_tokens += qw_reference_tokens(&j->reference[k]);
    report_weights(j, out);
    out->scratch = j->peak_scratch;
    out->bands_decode = j->bands[0];
    out->bands_encode = j->bands[1];
    out->flops_text = t->flops[QW_PHASE_TEXT];
    out->flops_vision = t->flops[QW_PHASE_VISION];
    out->flops_encode = t->flops[QW_PHASE_ENCODE];
    out->flops_denoise = t->flops[QW_PHASE_DENOISE];
    out->flops_decode = t->flops[QW_PHASE_DECODE];
    for (int64_t i = 0; i < t->lines; i++) out->ops(out->user, t->line[i].line, t->line[i].count);
}

/* --- counting --------------------------------------------------------------------------------- */

int qw_count(qwen *q, const qwen_request *req, qw_tally *t, qwen_plan_report *out)
{
    qw_devices devices = { .main = NULL };
    qw_nets nets = { .text = NULL };
    qw_job j;
    qw_job_start(&j, q, req);
    j.devices = &devices;
    j.nets = &nets;
    j.tally = t;
    if (!open_devices(&devices, &q->devices, &q->error) && !qw_job_read(&j)
        && !qw_run_stages(&j, NULL))
        report(&j, out);
    qw_job_free(&j);
    qw_nets_free(&nets);
    close_devices(&devices);
    return q->error.status;
}

void qw_tell_distilled(qwen *q, const qwen_request *r)
{
    const qw_defaults *d = &q->defaults;
    if (!d->distilled || q->told.distilled || ((r->steps || r->n_sigmas) && r->guidance > 0))
        return;
    q->told.distilled = 1;
    qw_say(q, 0, "a distilled model (\"%s\"): %d steps, guidance %g unless said otherwise",
           d->distilled, d->steps, d->guidance);
}

int qw_plan(qwen *q, const qwen_request *req, qwen_plan_report *out)
{
    qw_tell_distilled(q, req);
    qw_tally t = { .want_lines = out->ops != NULL, .geometry = out->geometry, .user = out->user };
    qw_count(q, req, &t, out);
    qw_tally_free(&t);
    return q->error.status;
}
