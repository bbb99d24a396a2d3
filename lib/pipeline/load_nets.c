/* load_nets.c - the one place where nets get their weights: those that a job needs, before its
 * stages.
 *
 * A counted job uses the nets that the model has loaded as they are, and loads the others on plan
 * devices, where weights have addresses and no memory. */
#include "pipeline/job.h"
#include <string.h>

/* --- a set of nets ---------------------------------------------------------------------------- */

static int has(const qw_nets *nets, qw_net n)
{
    switch (n) {
    case QW_TEXT: return nets->text != NULL;
    case QW_VISION: return nets->vision != NULL;
    case QW_DIT: return nets->dit != NULL;
    case QW_VAE: return nets->vae != NULL;
    default: return nets->control != NULL;
    }
}

/* Copies net n of `from` to `to`; from NULL: none. */
static void set(qw_nets *to, qw_net n, const qw_nets *from)
{
    static const qw_nets none = { .text = NULL };
    if (!from) from = &none;
    switch (n) {
    case QW_TEXT: to->text = from->text; break;
    case QW_VISION: to->vision = from->vision; break;
    case QW_DIT:
        to->dit = from->dit;
        to->overlay = from->overlay;
        break;
    case QW_VAE:
        to->vae = from->vae;
        to->vae_parts = from->vae_parts;
        break;
    default: to->control = from->control;
    }
    to->weights[n] = from->weights[n];
}

static void drop(qw_nets *nets, qw_net n)
{
    if (!(nets->borrowed >> n & 1)) {
        switch (n) {
        case QW_TEXT: qw_text_free(nets->text); break;
        case QW_VISION: qw_vision_free(nets->vision); break;
        case QW_DIT: qw_dit_free(nets->dit); break;
        case QW_VAE: qw_vae_free(nets->vae); break;
        default: qw_control_free(nets->control);
        }
        qw_residency_free(nets->weights[n]);
    }
    set(nets, n, NULL);
    nets->borrowed &= ~(1u << n);
}

void qw_nets_free(qw_nets *nets)
{
    for (int n = QW_NETS; n-- > 0;) drop(nets, (qw_net)n);
    nets->loaded = 0;
}

/* --- loading one ------------------------------------------------------------------------------ */

/* Nonzero: a tensor of the encoder or decoder that was not loaded, which is not reported. */
static int other_half(const qw_nets *nets, const qw_entry *e)
{
    static const char *const names[] = { "decoder.", "post_quant_conv.", "encoder.",
                                         "quant_conv." };
    for (int i = 0; i < 4; i++)
        if (!strncmp(e->name, names[i], strlen(names[i])))
            return !(nets->vae_parts & (i < 2 ? QW_VAE_DECODER : QW_VAE_ENCODER));
    return 0;
}

static void tell_unused(void *user, const qw_entry *e)
{
    const qw_job *j = user;
    char seen[200];
    if (!other_half(j->nets, e))
        qw_note(j, 1, "not used: %s", qw_visible(seen, sizeof seen, e->key));
}

static qw_device *device_of(const qw_job *j, qw_net n)
{
    const qw_devices *d = j->devices;
    return n == QW_TEXT || n == QW_VISION ? d->text : n == QW_VAE ? d->vae : d->main;
}

static void call_loader(qw_job *j, qw_net n, qw_loader *l)
{
    qw_configs *c = &j->q->config;
    qw_nets *nets = j->nets;
    switch (n) {
    case QW_TEXT: qw_text_load(&nets->text, &c->text, l); break;
    case QW_VISION: qw_vision_load(&nets->vision, &c->vision, l); break;
    case QW_DIT: qw_dit_load(&nets->dit, &c->dit, l); break;
    case QW_VAE: qw_vae_load(&nets->vae, &c->vae, nets->vae_parts, l); break;
    default: qw_control_load(&nets->control, &c->control, l);
    }
}

/* Fails if net n and the net that is used with it differ in width. */
static void compare_widths(qwen *q, qw_net n)
{
    const qw_configs *c = &q->config;
    if (q->error.status) return;
    if (n == QW_VISION && q->files.net[QW_TEXT].store && c->vision.out != c->text.width)
        qw_fail(&q->error, QWEN_EMODEL,
                "the vision tower gives %lld features, the text encoder is %lld wide",
                (long long)c->vision.out, (long long)c->text.width);
    if (n == QW_CONTROL && c->control.width != c->dit.width)
        qw_fail(&q->error, QWEN_EMODEL, "%s: the ControlNet is %lld wide, the transformer %lld",
                q->files.net[QW_CONTROL].path, (long long)c->control.width,
                (long long)c->dit.width);
}

/* Loads the weights of a net into j->nets; of a VAE those of vae_parts. */
static int load_weights(qw_job *j, qw_net n)
{
    static const char *const names[QW_NETS] = { "text encoder", "vision tower", "transformer",
                                                "VAE", "ControlNet" };
    qwen *q = j->q;
    const qw_component *c = &q->files.net[n];
    qw_device *dev = device_of(j, n);
    qw_residency **res = &j->nets->weights[n];
    if (qw_residency_new(res, dev, q->opt.memory, &q->error)) return q->error.status;
    if (!qw_is_plan(dev)) qw_store_read_ahead(c->store);
    qw_loader l = { .store = c->store,
                    .res = *res,
                    .err = &q->error,
                    .each = j->problem,
                    .user = j->problem_user };
    call_loader(j, n, &l);
    compare_widths(q, n);
    if (qw_loader_end(&l) || qw_residency_commit(*res, &q->error)) {
        drop(j->nets, n);
        return q->error.status;
    }
    j->nets->loaded |= 1u << n;
    qw_note(j, 1, "%s: %.1f MB in %s", names[n], (double)c->bytes / 1e6,
            c->path ? c->path : "the text encoder's file");
    if (!c->borrowed && n != QW_TEXT) qw_store_unused(c->store, tell_unused, j);
    return QWEN_OK;
}

/* Nonzero: a counted job now uses a net that the model has loaded. */
static int borrow(qw_job *j, qw_net n, int vae_parts)
{
    const qw_nets *from = &j->q->nets;
    if (j->nets == from || !has(from, n)) return 0;
    if (n == QW_VAE && from->vae_parts != vae_parts) return 0;
    drop(j->nets, n);
    set(j->nets, n, from);
    j->nets->loaded |= 1u << n;
    j->nets->borrowed |= 1u << n;
    return 1;
}

/* Frees text encoder and vision tower before the transformer is loaded to the same device, if that
 * has its own memory and the nets take more than three quarters of it. */
static void make_room(qw_job *j)
{
    const qwen *q = j->q;
    const qw_device *dev = j->devices->main;
    const uint64_t limit = q->opt.memory ? q->opt.memory : dev->memory;
    const uint64_t both = q->files.net[QW_DIT].bytes + q->files.net[QW_TEXT].bytes
                          + q->files.net[QW_VAE].bytes;
    if (dev->host || j->devices->text != dev || both < limit - limit / 4) return;
    drop(j->nets, QW_TEXT);
    drop(j->nets, QW_VISION);
}

static int load_net(qw_job *j, qw_net n)
{
    if (has(j->nets, n)) return QWEN_OK;
    if (qw_require_net(j->q, n)) return j->q->error.status;
    if (n == QW_DIT) make_room(j);
    return borrow(j, n, 0) ? QWEN_OK : load_weights(j, n);
}

/* Loads the VAE with the parts that are needed and those that it has. */
static int load_vae(qw_job *j, int parts)
{
    qw_nets *nets = j->nets;
    if (nets->vae && (nets->vae_parts & parts) == parts) return QWEN_OK;
    if (qw_require_net(j->q, QW_VAE)) return j->q->error.status;
    parts |= nets->vae_parts;
    if (borrow(j, QW_VAE, parts)) return QWEN_OK;
    drop(nets, QW_VAE);
    nets->vae_parts = parts;
    return load_weights(j, QW_VAE);
}

static int load_tokenizer(qwen *q)
{
    if (q->files.tokenizer) return QWEN_OK;
    if (!q->files.tokenizer_path && q->pipeline_class)
        return qw_fail(&q->error, QWEN_EMODEL,
                       "%s has no tokenizer, and none was given (tokenizer)", q->opt.model);
    if (!q->files.tokenizer_path)
        return qw_fail(&q->error, QWEN_EARG,
                       "no tokenizer: the model has none and none was given (tokenizer)");
    return qw_tokenizer_open(&q->files.tokenizer, q->files.tokenizer_path, &q->error);
}

int qw_load(qw_job *j, unsigned needs)
{
    const int vae = (needs & QW_NEED_DECODER ? QW_VAE_DECODER : 0)
                    | (needs & QW_NEED_ENCODER ? QW_VAE_ENCODER : 0);
    const int failed = (needs & QW_NEED_DIT && load_net(j, QW_DIT))
                       || (needs & QW_NEED_CONTROL && load_net(j, QW_CONTROL))
                       || (needs & QW_NEED_TOKENIZER && load_tokenizer(j->q))
                       || (needs & QW_NEED_TEXT && load_net(j, QW_TEXT))
                       || (needs & QW_NEED_VISION && load_net(j, QW_VISION))
                       || (vae && load_vae(j, vae));
    return failed ? j->q->error.status : QWEN_OK;
}

int qw_model_load(qwen *q, unsigned needs,
                  void (*each)(void *user, const char *missing, const char *sentence), void *user)
{
    qw_job j;
    qw_job_start(&j, q, NULL);
    j.problem = each;
    j.problem_user = user;
    qw_load(&j, needs);
    qw_job_free(&j);
    return q->error.status;
}

/* --- loading what a job needs ----------------------------------------------------------------- */

/* Needs of the prompts that are given as text.  Prompts whose rows the model keeps need no nets,
 * except on a host device. */
static unsigned text_needs(const qw_job *j)
{
    unsigned needs = j->tally && j->views ? QW_NEED_VISION : 0; /* a count runs qw_job_look */
    for (int k = 0; k < j->passes; k++) {
        if (k ? j->req->negative_embeds : j->req->embeds) continue;
        needs |= QW_NEED_TOKENIZER;
        const int unknown = j->prompt[k].text && !j->remembered[k];
        if (unknown || j->devices->main->host)
            needs |= QW_NEED_TEXT | (j->views ? QW_NEED_VISION : 0);
    }
    return needs;
}

static unsigned needs_of(const qw_job *j, qw_phase p)
{
    switch (p) {
    case QW_PHASE_TEXT: return text_needs(j);
    case QW_PHASE_ENCODE: return j->references ? QW_NEED_ENCODER : 0;
    case QW_PHASE_DENOISE: return QW_NEED_DIT | (j->control >= 0 ? QW_NEED_CONTROL : 0);
    case QW_PHASE_DECODE: return QW_NEED_DECODER;
    default: return 0;
    }
}

int qw_load_for(qw_job *j, qw_phase p)
{
    unsigned needs = needs_of(j, p);
    if (j->devices->main->host) /* weights stay in the mapping; a missing net fails at once */
        for (int i = 0; i < QW_PHASES; i++) needs |= needs_of(j, (qw_phase)i);
    return qw_load(j, needs);
}
