/* request.c - reads a request: checks it, decides task, sizes and defaults, makes its schedule.
 *
 * The rules are those of the published pipelines: an edit's pictures follow the noise in the
 * sequence; image to image and inpainting start from a noised picture; Layered divides one picture
 * with alpha. */
#include "pipeline/job.h"
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- pictures --------------------------------------------------------------------------------- */

/* number: from 1 where there are several, else 0. */
static int check_picture(qwen *q, const qwen_array *a, const char *role, int number, int grey)
{
    char what[32];
    snprintf(what, sizeof what, number ? "%s %d" : "%s", role, number);
    if (!a->data || a->dtype != QWEN_U8)
        return qw_fail(&q->error, QWEN_EARG, "%s: no 8-bit data", what);
    const int flat = grey && a->rank == 2,
              deep = a->rank == 3 && (a->dim[2] == 3 || a->dim[2] == 4);
    if (!flat && !deep)
        return qw_fail(&q->error, QWEN_EARG, "%s: not [height][width][3 or 4]%s", what,
                       grey ? " or [height][width]" : "");
    if (a->dim[0] < 1 || a->dim[1] < 1 || a->dim[0] > 1 << 20 || a->dim[1] > 1 << 20)
        return qw_fail(&q->error, QWEN_EARG, "%s: %lldx%lld pixels", what, (long long)a->dim[1],
                       (long long)a->dim[0]);
    if (!grey && (a->dim[0] > 200 * a->dim[1] || a->dim[1] > 200 * a->dim[0]))
        return qw_fail(&q->error, QWEN_EARG, "%s: %lldx%lld is longer than 200 to 1", what,
                       (long long)a->dim[1], (long long)a->dim[0]);
    return QWEN_OK;
}

/* --- the task --------------------------------------------------------------------------------- */

static qw_variant edit_variant(const qwen *q)
{
    if (q->edit_class && !strcmp(q->edit_class, "QwenImageEditPlusPipeline"))
        return q->config.dit.zero_cond_t ? QW_EDIT_2511 : QW_EDIT_2509;
    return q->edit_class ? QW_EDIT : QW_T2I;
}

static int layered_task(qw_job *j)
{
    const qwen_request *r = j->req;
    qwen *q = j->q;
    j->task = QW_LAYERS;
    if (r->inputs != 1)
        return qw_fail(&q->error, QWEN_EARG,
                       "the layered variant expects one picture (input), found %d", r->inputs);
    if (r->mask || qw_extends(r) || r->strength > 0 || r->control)
        return qw_fail(&q->error, QWEN_EARG,
                       "the layered variant expects no %s: it divides one picture",
                       r->mask           ? "mask"
                       : qw_extends(r)   ? "extension (extend)"
                       : r->strength > 0 ? "strength"
                                         : "control picture (control)");
    if (r->width || r->height)
        return qw_fail(&q->error, QWEN_EARG,
                       "the layered variant chooses its size by the picture and its area "
                       "(reference-area), found %dx%d",
                       r->width, r->height);
    if (r->prompt && strspn(r->prompt, " ") == strlen(r->prompt))
        qw_note(j, 0,
                "the prompt is empty, where the reference writes a caption of the picture, "
                "which is not built yet: a caption as the prompt draws better");
    j->layers = r->layers ? r->layers : 4;
    if (j->layers < 1 || j->layers > 64)
        return qw_fail(&q->error, QWEN_EARG, "layers is %d, not 1 to 64", j->layers);
    return QWEN_OK;
}

/* Nonzero: the ControlNet reads the mask, and the task is not inpainting. */
static int control_takes_mask(const qw_job *j)
{
    const int64_t plain = 4 * j->q->config.vae.z;
    return j->req->control && !j->req->inputs && j->q->files.control_features == plain + 4;
}

static int decide_task(qw_job *j)
{
    const qwen_request *r = j->req;
    qwen *q = j->q;
    const int masked = (r->mask && !control_takes_mask(j)) || qw_extends(r);
    j->variant = q->variant;
    j->layers = 0;
    if (q->variant == QW_LAYERED) return layered_task(j);
    if (r->layers)
        return qw_fail(&q->error, QWEN_EARG,
                       "layers are the layered variant's; this model is of the variant %s",
                       qw_variant_name(q->variant));
    if (q->variant == QW_T2I && r->inputs && !(r->strength > 0) && !r->control)
        j->variant = edit_variant(q);
    else if (q->variant != QW_T2I && r->inputs && r->strength > 0 && !masked)
        j->variant = QW_T2I; /* image to image with an edit model */
    if (!r->inputs && masked)
        return qw_fail(&q->error, QWEN_EARG, "a mask or an extension needs a picture (input)");
    if (!r->inputs && r->strength > 0)
        return qw_fail(&q->error, QWEN_EARG, "strength needs a picture (input)");
    if (j->variant == QW_T2I) {
        if (r->inputs > 1)
            return qw_fail(&q->error, QWEN_EARG, "the variant t2i takes one picture, not %d",
                           r->inputs);
        j->task = !r->inputs ? QW_DRAW : masked ? QW_INPAINT : QW_REDRAW;
        return QWEN_OK;
    }
    if (!r->inputs && !q->comfy)
        return qw_fail(&q->error, QWEN_EARG, "the variant %s needs a picture (input)",
                       qw_variant_name(j->variant));
    if (r->control)
        return qw_fail(&q->error, QWEN_EUNSUPPORTED,
                       "a control picture (control) goes with the variant t2i, this model is of "
                       "the variant %s",
                       qw_variant_name(j->variant));
    if (r->inputs > 1 && (j->variant == QW_EDIT || masked))
        return qw_fail(&q->error, QWEN_EARG, "%s takes one picture, not %d",
                       masked ? "inpainting" : "the variant edit", r->inputs);
    j->task = !r->inputs ? QW_DRAW : masked ? QW_EDIT_INPAINT : QW_EDITING;
    return QWEN_OK;
}

static int check_size(qwen *q, const char *what, int n)
{
    if (n < 0) return qw_fail(&q->error, QWEN_EARG, "%s is %d", what, n);
    if (n % 16 == 0) return QWEN_OK;
    if (n < 16)
        return qw_fail(&q->error, QWEN_EARG,
                       "%s is %d, which is no multiple of 16: the smallest is 16", what, n);
    return qw_fail(&q->error, QWEN_EARG, "%s is %d, which is no multiple of 16: %d and %d are",
                   what, n, n / 16 * 16, n / 16 * 16 + 16);
}

static int own_size(int64_t n)
{
    const double m = nearbyint((double)n / 16) * 16;
    return m < 16 ? 16 : (int)m;
}

static int decide_size(qw_job *j)
{
    const qwen_request *r = j->req;
    qwen *q = j->q;
    int64_t w = r->width, h = r->height;
    const qwen_array *last = r->inputs ? &r->input[r->inputs - 1] : NULL;
    if (check_size(q, "width", r->width) || check_size(q, "height", r->height))
        return q->error.status;
    if (j->task == QW_DRAW) {
        w = w ? w : q->defaults.width ? q->defaults.width : 1024;
        h = h ? h : q->defaults.height ? q->defaults.height : 1024;
    } else if (j->task == QW_REDRAW || j->task == QW_INPAINT) {
        w = w ? w : own_size(last->dim[1]);
        h = h ? h : own_size(last->dim[0]);
        if ((w != last->dim[1] || h != last->dim[0]) && (!r->width || !r->height))
            qw_note(j, 0, "the picture of %lldx%lld becomes %lldx%lld", (long long)last->dim[1],
                    (long long)last->dim[0], (long long)w, (long long)h);
    } else if (j->task == QW_EDIT_INPAINT && qw_extends(r)) {
        w = last->dim[1]; /* kept pixels are not resized */
        h = last->dim[0];
    } else {
        int64_t fw, fh;
        qw_fit_area(last, qw_reference_area(j), &fw, &fh);
        w = w ? w : fw;
        h = h ? h : fh;
        if (j->task == QW_EDIT_INPAINT && (w != last->dim[1] || h != last->dim[0]))
            qw_note(j, 0, "the picture of %lldx%lld becomes %lldx%lld", (long long)last->dim[1],
                    (long long)last->dim[0], (long long)w, (long long)h);
    }
    if (w > 200 * h || h > 200 * w)
        return qw_fail(&q->error, QWEN_EARG, "a picture of %lldx%lld is longer than 200 to 1",
                       (long long)w, (long long)h);
    if (w > INT_MAX || h > INT_MAX)
        return qw_fail(&q->error, QWEN_EARG, "a picture of %lldx%lld", (long long)w, (long long)h);
    j->width = (int)w;
    j->height = (int)h;
    return QWEN_OK;
}

/* Fails if a lower bound of the memory for these sizes exceeds the device's, before anything is
 * allocated. */
static int check_memory(qw_job *j)
{
    qwen *q = j->q;
    const double pixels = (double)j->width * j->height, rows = pixels / 256 * (double)j->frames;
    const double stream = rows * (double)q->config.dit.width * 4
                          * 6; /* x, q k v, attention, branch */
    const double picture =
        pixels * (8.0 * 3 + 4.0 * 2 * (double)(q->config.vae.base ? q->config.vae.base : 1) / 8);
    const double need = stream > picture ? stream : picture, have = (double)q->devices.main->memory;
    if (rows < 4294967296.0 && (q->devices.main->memory == 0 || need <= have) && need < 1e15)
        return QWEN_OK;
    return qw_fail(&q->error, QWEN_ENOMEM,
                   "a picture of %dx%d needs at least %.1f GB, device %s has %.1f GB", j->width,
                   j->height, need / 1e9, q->devices.main->name, have / 1e9);
}

static int no_sampler(qwen *q, const char *name)
{
    char list[400] = "";
    const char *s;
    for (int i = 0; (s = qw_sampler_name(i)); i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", s);
    return qw_fail(&q->error, QWEN_EARG, "there is no sampler %s (%s)", name, list);
}

static int decide_numbers(qw_job *j)
{
    const qwen_request *r = j->req;
    qwen *q = j->q;
    if (r->steps < 0 || r->steps > 10000)
        return qw_fail(&q->error, QWEN_EARG, "steps is %d, not 1 to 10000", r->steps);
    if (!(r->guidance >= 0 && r->guidance <= 1e6))
        return qw_fail(&q->error, QWEN_EARG, "guidance is %g", r->guidance);
    if (!(r->strength >= 0 && r->strength <= 1))
        return qw_fail(&q->error, QWEN_EARG, "strength is %g, not 0 to 1", r->strength);
    if (r->guidance_norm < 0 || r->guidance_norm > 2)
        return qw_fail(&q->error, QWEN_EARG, "guidance_norm is %d, not 0, 1 or 2",
                       r->guidance_norm);
    if (r->reference_area < 0 || r->condition_area < 0 || r->reference_area > (int64_t)1 << 32
        || r->condition_area > (int64_t)1 << 32)
        return qw_fail(&q->error, QWEN_EARG,
                       "reference_area or condition_area is not 0 to 2^32 pixels");
    if (r->n_sigmas < 0 || (r->n_sigmas && !r->sigmas))
        return qw_fail(&q->error, QWEN_EARG, "n_sigmas is %d without a list", r->n_sigmas);
    if (r->tiling && strcmp(r->tiling, "reference"))
        return qw_fail(&q->error, QWEN_EARG, "tiling \"%s\" is not reference", r->tiling);
    if (!qw_sampler_known(r->sampler ? r->sampler : "euler")) return no_sampler(q, r->sampler);
    const int raw = r->schedule && !strcmp(r->schedule, "raw");
    if (r->n_sigmas && r->steps && !raw && r->steps != r->n_sigmas)
        return qw_fail(&q->error, QWEN_EARG, "steps is %d, but %d sigmas are given", r->steps,
                       r->n_sigmas);
    j->steps = r->steps ? r->steps : r->n_sigmas ? r->n_sigmas : q->defaults.steps;
    j->guidance = r->guidance > 0 ? r->guidance : q->defaults.guidance;
    j->passes = j->guidance > 1 ? 2 : 1;
    j->norm = r->guidance_norm ? r->guidance_norm == 1 : j->variant != QW_LAYERED && !q->comfy;
    j->negative = r->negative ? r->negative : q->defaults.negative;
    j->schedule = r->schedule ? r->schedule : "auto";
    j->sampler = r->sampler ? r->sampler : "euler";
    j->rng_name = r->rng ? r->rng : "torch-cpu";
    j->strength = r->strength > 0 ? r->strength : qw_extends(r) ? 1 : 0.6;
    if (j->passes == 1 && r->negative)
        qw_note(j, 0, "the negative prompt is not used: guidance is %g", j->guidance);
    return QWEN_OK;
}

static int check_inputs(qw_job *j)
{
    const qwen_request *r = j->req;
    qwen *q = j->q;
    if (r->inputs < 0 || r->inputs > QW_MAX_PICTURES / 2 || (r->inputs && !r->input))
        return qw_fail(&q->error, QWEN_EARG, "inputs is %d, not 0 to %d with pictures", r->inputs,
                       QW_MAX_PICTURES / 2);
    for (int i = 0; i < r->inputs; i++)
        if (check_picture(q, &r->input[i], "input", r->inputs > 1 ? i + 1 : 0, 0))
            return q->error.status;
    for (int i = 0; i < 4; i++)
        if (r->extend[i] < 0 || r->extend[i] > 1 << 20)
            return qw_fail(&q->error, QWEN_EARG, "extend is %d pixels", r->extend[i]);
    if ((r->mask && check_picture(q, r->mask, "mask", 0, 1))
        || (r->control && check_picture(q, r->control, "control", 0, 0)))
        return q->error.status;
    return QWEN_OK;
}

static int check_texts(const qw_job *j)
{
    const qwen_request *r = j->req;
    qwen *q = j->q;
    const char *texts[] = { r->prompt, r->negative, r->chat_template, r->system };
    const char *names[] = { "prompt", "negative prompt", "template", "system text" };
    if (!r->prompt && !r->embeds) return qw_fail(&q->error, QWEN_EARG, "the request has no prompt");
    for (int i = 0; i < 4; i++) {
        const int64_t at = texts[i] ? qw_utf8_invalid(texts[i], strlen(texts[i])) : -1;
        if (at >= 0)
            return qw_fail(&q->error, QWEN_EARG, "the %s is not UTF-8 at byte %lld", names[i],
                           (long long)at);
    }
    return QWEN_OK;
}

/* A control picture needs a ControlNet; a ControlNet without one is a notice. */
static int check_control(const qw_job *j)
{
    qwen *q = j->q;
    const int other = q->variant != QW_T2I && !(j->req->strength > 0);
    if (j->req->control) return other ? QWEN_OK : qw_require_net(q, QW_CONTROL);
    if (q->files.net[QW_CONTROL].store && !q->told.control && !j->tally) {
        q->told.control = 1;
        qw_say(q, 0, "the ControlNet is not used: there is no control picture (control)");
    }
    return QWEN_OK;
}

int qw_job_read(qw_job *j)
{
    qwen *q = j->q;
    const qwen_request *req = j->req;
    if (check_texts(j) || check_inputs(j) || check_control(j) || decide_task(j) || decide_numbers(j)
        || qw_rng_init(&j->rng, j->rng_name, req->seed, &q->error))
        return q->error.status;
    qwen_array extended;
    const qwen_array *input = req->input, *original = req->input;
    qwen_request moved = *req;
    if (qw_extends(req)) {
        if (req->width || req->height)
            return qw_fail(&q->error, QWEN_EARG,
                           "an extended picture has its own size: no width or height");
        if (qw_extend_picture(j, req->input, req->extend, &extended)) return q->error.status;
        moved.input = input = &extended;
    }
    j->req = &moved;
    const int sized = decide_size(j);
    j->req = req;
    if (sized) return sized;
    j->h = j->height / 8;
    j->w = j->width / 8;
    j->z = q->config.vae.z ? q->config.vae.z : q->config.dit.out;
    j->tokens = (j->h / 2) * (j->w / 2);
    j->frames = j->task == QW_LAYERS ? j->layers + 1 : 1;
    if (check_memory(j) || qw_prepare_pictures(j, input, original)) return q->error.status;
    qw_tell_geometry(j);
    return QWEN_OK;
}

/* --- the schedule, and the step at which strength begins -------------------------------------- */

int qw_job_schedule(qw_job *j)
{
    qwen *q = j->q;
    const qwen_request *r = j->req;
    const int raw = r->schedule && !strcmp(r->schedule, "raw");
    const qw_schedule_request s = {
        .name = r->schedule                  ? r->schedule
                : q->defaults.flat_shift > 0 ? "lightning"
                                             : NULL,
        .flat = q->defaults.flat_shift,
        .config = &q->config.schedule,
        .steps = raw ? r->steps : j->steps,
        .tokens = j->tokens,
        .condition_tokens = j->task == QW_LAYERS ? j->tokens : 0,
        .layered = j->task == QW_LAYERS,
        .sigmas = r->sigmas,
        .n_sigmas = r->n_sigmas,
        .shift = r->shift,
        .sampler = j->sampler,
        .comfy = q->comfy,
        .denoise = q->comfy && (j->task == QW_REDRAW || j->task == QW_INPAINT) ? j->strength : 0,
    };
    if (qw_schedule_make(&j->sched, &s, &q->error)) return q->error.status;
    j->steps = j->sched.steps;
    j->first_step = 0;
    const int starts = j->task == QW_REDRAW || j->task == QW_INPAINT || j->task == QW_EDIT_INPAINT;
    if (starts && !q->comfy) {
        const double n = j->steps, init = n * j->strength < n ? n * j->strength : n;
        j->first_step = (int)(n - init > 0 ? n - init : 0);
    }
    int used = 0;
    for (int i = j->first_step; j->req->control && i < j->steps; i++) used += qw_control_step(j, i);
    if (j->req->control && !used)
        qw_note(j, 0,
                "the control picture is used in none of %d steps: none lies between %g and %g",
                j->steps - j->first_step, j->control_start, j->control_end);
    if (j->steps - j->first_step < 1)
        return qw_fail(&q->error, QWEN_EARG, "strength %g leaves none of %d steps", j->strength,
                       j->steps);
    return QWEN_OK;
}
