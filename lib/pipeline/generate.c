/* generate.c - qw_generate: a request checked, its stages run, its result filled in. */
#include "pipeline/stage.h"
#include <string.h>

/* Counts the stages of a request with a long sequence before anything is computed; fails if they do
 * not fit the devices. */
static int too_large(const qw_job *j)
{
    enum { LONG = 1 << 14 }; /* tokens: a picture of 2048 x 2048 */
    qw_tally t = { .bounded = 1 };
    qwen_plan_report out = { .size = sizeof out };
    int64_t tokens = j->frames * j->tokens;
    for (int k = 0; k < j->references; k++) tokens += qw_reference_tokens(&j->reference[k]);
    return tokens > LONG ? qw_count(j->q, j->req, &t, &out) : QWEN_OK;
}

/* Moves the picture as it was encoded, and its mask, from the job to the result of an inpainting
 * request, so that the caller can paste the kept pixels back (cli/media/paste.c). */
static void give_kept(qw_job *j, qwen_result *out)
{
    qw_reference *f = j->control >= 0 && j->reference[j->control].holes ? &j->reference[j->control]
                                                                        : &j->reference[0];
    if (!j->mask || !f->image.data) return;
    out->kept = (qwen_array){ .data = f->image.data,
                              .dtype = QWEN_U8,
                              .rank = 3,
                              .dim = { f->image.h, f->image.w, f->image.channels } };
    out->mask = (qwen_array){
        .data = j->mask, .dtype = QWEN_U8, .rank = 2, .dim = { j->height, j->width }
    };
    f->image.data = j->mask = NULL;
}

/* Copies the request's names; the result refers to the copies. */
static void keep_names(qwen *q, const qwen_request *r)
{
    const char *const names[3] = { r->schedule, r->sampler, r->rng };
    for (int i = 0; i < 3; i++) {
        memset(q->names[i], 0, sizeof q->names[i]);
        if (names[i]) strncpy(q->names[i], names[i], sizeof q->names[i] - 1);
    }
}

static uint64_t device_bytes(const qw_job *j)
{
    uint64_t bytes = j->peak_scratch + qw_overlay_bytes(j->nets->overlay);
    for (int i = 0; i < QW_NETS; i++) bytes += qw_residency_bytes(j->nets->weights[i], 0);
    return bytes;
}

static void fill_in(qw_job *j, qwen_result *out)
{
    const qwen *q = j->q;
    const qwen_request *r = j->req;
    const int starts = j->task == QW_REDRAW || j->task == QW_INPAINT || j->task == QW_EDIT_INPAINT;
    out->seed = r->seed;
    out->width = j->width;
    out->height = j->height;
    out->steps = j->steps;
    out->guidance = j->guidance;
    out->variant = qw_variant_name(j->variant);
    out->schedule = r->schedule ? q->names[0] : q->defaults.flat_shift > 0 ? "lightning" : "auto";
    out->sampler = r->sampler ? q->names[1] : "euler";
    out->rng = r->rng ? q->names[2] : "torch-cpu";
    out->seconds_text = j->seconds[QW_PHASE_TEXT];
    out->seconds_vision = j->seconds[QW_PHASE_VISION];
    out->seconds_encode = j->seconds[QW_PHASE_ENCODE];
    out->seconds_denoise = j->seconds[QW_PHASE_DENOISE];
    out->seconds_decode = j->seconds[QW_PHASE_DECODE];
    out->device_bytes = device_bytes(j);
    out->bands_decode = j->bands[0];
    out->bands_encode = j->bands[1];
    out->strength = starts ? j->strength : 0;
    give_kept(j, out);
}

int qw_generate(qwen *q, const qwen_request *req, qwen_result *out)
{
    qw_job j;
    qw_job_start(&j, q, req);
    keep_names(q, req);
    qw_tell_distilled(q, req);
    if (!qw_job_read(&j) && !too_large(&j) && !qw_run_stages(&j, out)) fill_in(&j, out);
    qw_job_free(&j);
    return q->error.status;
}
