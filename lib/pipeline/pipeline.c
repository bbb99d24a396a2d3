/* pipeline.c - a picture from a request: the stages in order; or the same stages, counted. */
#include "pipeline/pipeline.h"
#include "files/lora.h"
#include <stdlib.h>
#include <string.h>

/* Everything up to the latents' first step. */
static int prepare(qw_job *j)
{
    if (qw_job_schedule(j) || qw_embed_prompt(j, 0) || (j->passes > 1 && qw_embed_prompt(j, 1)))
        return j->q->error.status;
    return qw_job_encode(j) || qw_job_noise(j) ? j->q->error.status : QWEN_OK;
}

static uint64_t on_device(const qwen *q)
{
    uint64_t bytes = 0;
    for (int i = 0; i < QW_NETS; i++) bytes += qw_residency_bytes(q->nets.weights[i], 0);
    return bytes + qw_overlay_bytes(q->nets.overlay);
}

/* The FLOPs counted since the last call. */
static double take_flops(qw_tally *t)
{
    const double flops = t->flops;
    t->flops = 0;
    return flops;
}

static int count_stages(qw_job *j, qw_tally *t, qwen_plan_report *out)
{
    qwen *q = j->q;
    t->times = 1;
    if (qw_job_schedule(j)) return q->error.status;
    if (j->views) {
        /* The tower is walked by the first prompt: its share is what comes before the text. */
        if (qw_plan_features(j)) return q->error.status;
        out->flops_vision = take_flops(t);
    }
    if (qw_embed_prompt(j, 0) || (j->passes > 1 && qw_embed_prompt(j, 1))) return q->error.status;
    out->flops_text = take_flops(t);
    if (qw_job_encode(j) || qw_job_noise(j)) return q->error.status;
    out->flops_encode = take_flops(t);
    if (qw_job_denoise(j)) return q->error.status;
    out->flops_denoise = take_flops(t);
    if (qw_job_decode(j, NULL)) return q->error.status;
    out->flops_decode = take_flops(t);
    return QWEN_OK;
}

/* An embedding that is given or that another component makes has no weights here. */
static uint64_t bytes_of(const qwen *q, qw_net n)
{
    return q->nets.loaded >> n & 1 ? q->files.net[n].bytes : 0;
}

static void report(const qwen *q, const qw_job *j, const qw_tally *t, qwen_plan_report *out)
{
    out->width = j->width;
    out->height = j->height;
    out->steps = j->steps - j->first_step;
    out->passes = j->passes;
    out->image_tokens = j->frames * j->tokens;
    out->text_tokens = j->text_rows[0];
    for (int k = 0; k < j->sequence_references; k++)
        out->reference_tokens += qw_reference_tokens(&j->reference[k]);
    out->weights_text = bytes_of(q, QW_TEXT);
    out->weights_vision = bytes_of(q, QW_VISION);
    out->weights_transformer = bytes_of(q, QW_DIT);
    out->weights_vae = bytes_of(q, QW_VAE);
    for (int i = 0; i < QW_NETS; i++) {
        out->resident += qw_residency_bytes(q->nets.weights[i], 0);
        out->streamed += qw_residency_bytes(q->nets.weights[i], 1);
        out->copies += qw_residency_bytes(q->nets.weights[i], 2);
    }
    out->copies += qw_overlay_bytes(q->nets.overlay);
    out->scratch = t->scratch;
    out->bands_decode = q->bands[0];
    out->bands_encode = q->bands[1];
    for (int64_t i = 0; i < t->lines; i++) out->ops(out->user, t->line[i].line, t->line[i].count);
}

/* What a distilled model does when the request leaves it open is said once. */
static void tell_distilled(qwen *q, const qwen_request *r)
{
    if (!q->defaults.distilled || q->told.distilled
        || ((r->steps || r->n_sigmas) && r->guidance > 0))
        return;
    q->told.distilled = 1;
    qw_say(q, 0, "a distilled model (\"%s\"): %d steps, guidance %g unless said otherwise",
           q->defaults.distilled, q->defaults.steps, q->defaults.guidance);
}

/* What will be needed is there and whole: said before hours of work, not after them. */
static int require(qw_job *j)
{
    qwen *q = j->q;
    const qwen_request *r = j->req;
    const int words = !r->embeds || (j->passes > 1 && !r->negative_embeds);
    if (!q->devices.main->host) /* there not all may fit at once */
        return QWEN_OK;
    return qw_need_dit(q) || (words && (qw_need_tokenizer(q) || qw_need_text(q)))
                   || qw_need_vae(q, QW_VAE_DECODER | (j->references ? QW_VAE_ENCODER : 0))
               ? q->error.status
               : QWEN_OK;
}

/* A second handle of the same files, on devices that compute nothing: no weight goes anywhere. */
static int walk(qwen *q, const qwen_request *req, qw_tally *t, qwen_plan_report *out)
{
    qw_job j = { 0 };
    qwen *p = NULL;
    int status = qw_model_new(&p, &q->opt, q);
    for (int i = 0; !status && i < q->files.loras; i++)
        status = qw_lora_add(p, q->files.lora[i]->path, q->files.lora[i]->strength, 1);
    if (!status) {
        p->tally = t;
        p->defaults.steps = q->defaults.steps;
        p->defaults.guidance = q->defaults.guidance;
        status = qw_job_init(&j, p, req) || require(&j) || count_stages(&j, t, out);
    }
    if (!p) qw_fail(&q->error, QWEN_ENOMEM, "no memory for a plan");
    else if (status) q->error = p->error;
    else report(p, &j, t, out);
    qw_job_free(&j);
    qw_model_free(p);
    return q->error.status;
}

int qw_plan(qwen *q, const qwen_request *req, qwen_plan_report *out)
{
    tell_distilled(q, req);
    qw_tally t = { .want_lines = out->ops != NULL, .geometry = out->geometry, .user = out->user };
    walk(q, req, &t, out);
    qw_tally_free(&t);
    return q->error.status;
}

/* A sequence so long that memory may not do is walked to its end before anything is computed. */
static int too_large(const qw_job *j)
{
    enum { LONG = 1 << 14 }; /* tokens: a picture of 2048 x 2048 */
    qw_tally t = { .bounded = 1 };
    qwen_plan_report out = { .size = sizeof out };
    int64_t tokens = j->frames * j->tokens;
    for (int k = 0; k < j->references; k++) tokens += qw_reference_tokens(&j->reference[k]);
    return tokens > LONG ? walk(j->q, j->req, &t, &out) : QWEN_OK;
}

/* What an inpaint mask keeps, for those who put it back: the job's own arrays. */
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

int qw_generate(qwen *q, const qwen_request *req, qwen_result *out)
{
    qw_job j;
    q->peak_scratch = 0;
    q->bands[0] = q->bands[1] = 0;
    tell_distilled(q, req);
    if (!qw_job_init(&j, q, req) && !require(&j) && !too_large(&j) && !prepare(&j)
        && !qw_job_denoise(&j) && !qw_job_decode(&j, out)) {
        out->seed = req->seed;
        out->width = j.width;
        out->height = j.height;
        out->steps = j.steps;
        out->guidance = j.guidance;
        out->variant = qw_variant_name(j.variant);
        out->schedule = req->schedule                ? q->names[0]
                        : q->defaults.flat_shift > 0 ? "lightning"
                                                     : "auto";
        out->sampler = req->sampler ? q->names[1] : "euler";
        out->rng = req->rng ? q->names[2] : "torch-cpu";
        out->seconds_text = j.seconds_text;
        out->seconds_vision = j.seconds_vision;
        out->seconds_encode = j.seconds_encode;
        out->seconds_denoise = j.seconds_denoise;
        out->seconds_decode = j.seconds_decode;
        out->device_bytes = on_device(q) + q->peak_scratch;
        out->bands_decode = q->bands[0];
        out->bands_encode = q->bands[1];
        const int starts = j.task == QW_REDRAW || j.task == QW_INPAINT || j.task == QW_EDIT_INPAINT;
        out->strength = starts ? j.strength : 0;
        give_kept(&j, out);
    }
    qw_job_free(&j);
    return q->error.status;
}
