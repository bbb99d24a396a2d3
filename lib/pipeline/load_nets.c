/* load_nets.c - loading a net when it is first needed, and LoRA files over the transformer. */
#include "pipeline/pipeline.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

/* Half of a VAE that no one asked for is no news. */
static int wanted_half(const qwen *q, const qw_entry *e)
{
    static const char *const names[] = { "decoder.", "post_quant_conv.", "encoder.",
                                         "quant_conv." };
    for (int i = 0; i < 4; i++)
        if (!strncmp(e->name, names[i], strlen(names[i])))
            return q->nets.vae_parts & (i < 2 ? QW_VAE_DECODER : QW_VAE_ENCODER);
    return 1;
}

static void tell_unused(void *user, const qw_entry *e)
{
    char seen[200];
    if (wanted_half(user, e))
        qw_say(user, 1, "not used: %s", qw_visible(seen, sizeof seen, e->key));
}

static int loading(qwen *q, qw_net n, qw_device *dev, const char *what, const char *option,
                   qw_loader *l)
{
    const qw_component *c = &q->files.net[n];
    if (!c->store && n == QW_VISION && q->opt.text_encoder)
        return qw_fail(&q->error, QWEN_EMODEL, "%s has no %s, and none was given (%s)",
                       q->opt.text_encoder, what, option);
    if (!c->store && q->opt.model && q->files.whole && q->files.whole != QW_KIND_CHECKPOINT)
        return qw_fail(&q->error, QWEN_EMODEL,
                       "%s is %s %s: a %s is missing, and none was given (%s)", q->opt.model,
                       qw_kind_article(q->files.whole), qw_kind_name(q->files.whole), what, option);
    if (!c->store && q->opt.model)
        return qw_fail(&q->error, QWEN_EMODEL, "%s has no %s, and none was given (%s)",
                       q->opt.model, what, option);
    if (!c->store)
        return qw_fail(&q->error, QWEN_EARG, "no %s: the model has none and none was given (%s)",
                       what, option);
    memset(l, 0, sizeof *l);
    l->store = c->store;
    l->err = &q->error;
    l->each = q->problem;
    l->user = q->problem_user;
    if (qw_residency_new(&q->nets.weights[n], dev, q->opt.memory, &q->error))
        return q->error.status;
    l->res = q->nets.weights[n];
    if (!q->plan_of && !qw_is_plan(dev)) /* weights will be read */
        qw_store_read_ahead(c->store);
    return QWEN_OK;
}

static void drop_weights(qwen *q, qw_net n)
{
    qw_residency_free(q->nets.weights[n]);
    q->nets.weights[n] = NULL;
}

static int loaded(qwen *q, qw_net n, const char *what, qw_loader *l)
{
    const qw_component *c = &q->files.net[n];
    if (qw_loader_end(l) || qw_residency_commit(l->res, &q->error)) {
        drop_weights(q, n);
        return q->error.status;
    }
    q->nets.loaded |= 1u << n;
    qw_say(q, 1, "%s: %.1f MB in %s", what, (double)c->bytes / 1e6,
           c->path ? c->path : "the text encoder's file");
    if (!c->borrowed && n != QW_TEXT) qw_store_unused(c->store, tell_unused, q);
    return QWEN_OK;
}

int qw_need_tokenizer(qwen *q)
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

int qw_need_text(qwen *q)
{
    qw_loader l;
    if (q->nets.text) return QWEN_OK;
    if (loading(q, QW_TEXT, q->devices.text, "text encoder", "text_encoder", &l))
        return q->error.status;
    qw_text_load(&q->nets.text, &q->config.text, &l);
    if (loaded(q, QW_TEXT, "text encoder", &l)) {
        qw_text_free(q->nets.text);
        q->nets.text = NULL;
    }
    return q->error.status;
}

int qw_need_vision(qwen *q)
{
    qw_loader l;
    if (q->nets.vision) return QWEN_OK;
    if (qw_vision_store(q)) return q->error.status;
    const qw_component *c = &q->files.net[QW_VISION];
    json_t *json = NULL, *processor = NULL;
    if (loading(q, QW_VISION, q->devices.text, "vision tower", "vision", &l)
        || qw_load_json(q, c->config, &json) || qw_load_json(q, q->files.processor_path, &processor)
        || qw_vision_configure(&q->config.vision, json, processor, c->store,
                               c->config ? c->config : "vision tower", &q->error)) {
        json_decref(json);
        json_decref(processor);
        drop_weights(q, QW_VISION);
        return q->error.status;
    }
    json_decref(json);
    json_decref(processor);
    qw_vision_load(&q->nets.vision, &q->config.vision, &l);
    if (!q->error.status && q->files.net[QW_TEXT].store
        && q->config.vision.out != q->config.text.width)
        qw_fail(&q->error, QWEN_EMODEL,
                "the vision tower gives %lld features, the text encoder is %lld wide",
                (long long)q->config.vision.out, (long long)q->config.text.width);
    if (loaded(q, QW_VISION, "vision tower", &l)) {
        qw_vision_free(q->nets.vision);
        q->nets.vision = NULL;
    }
    return q->error.status;
}

/* On a device of its own memory the text encoder makes room when both do not fit. */
static void make_room(qwen *q)
{
    const uint64_t limit = q->opt.memory ? q->opt.memory : q->devices.main->memory;
    const uint64_t both = q->files.net[QW_DIT].bytes + q->files.net[QW_TEXT].bytes
                          + q->files.net[QW_VAE].bytes;
    if (q->devices.main->host || q->devices.text != q->devices.main || both < limit - limit / 4)
        return;
    qw_text_free(q->nets.text);
    q->nets.text = NULL;
    drop_weights(q, QW_TEXT);
    qw_vision_free(q->nets.vision);
    q->nets.vision = NULL;
    drop_weights(q, QW_VISION);
}

int qw_need_dit(qwen *q)
{
    qw_loader l;
    if (q->nets.dit) return QWEN_OK;
    make_room(q);
    if (loading(q, QW_DIT, q->devices.main, "transformer", "transformer", &l))
        return q->error.status;
    qw_dit_load(&q->nets.dit, &q->config.dit, &l);
    if (loaded(q, QW_DIT, "transformer", &l)) {
        qw_dit_free(q->nets.dit);
        q->nets.dit = NULL;
    }
    return q->error.status;
}

int qw_need_control(qwen *q)
{
    qw_loader l;
    if (q->nets.control) return QWEN_OK;
    if (!q->files.net[QW_CONTROL].store)
        return qw_fail(&q->error, QWEN_EARG, "a control picture needs a ControlNet (controlnet)");
    if (qw_need_dit(q) || loading(q, QW_CONTROL, q->devices.main, "ControlNet", "controlnet", &l))
        return q->error.status;
    qw_control_load(&q->nets.control, &q->config.control, &l);
    if (!q->error.status && q->config.control.width != q->config.dit.width)
        qw_fail(&q->error, QWEN_EMODEL, "%s: the ControlNet is %lld wide, the transformer %lld",
                q->files.net[QW_CONTROL].path, (long long)q->config.control.width,
                (long long)q->config.dit.width);
    if (loaded(q, QW_CONTROL, "ControlNet", &l)) {
        qw_control_free(q->nets.control);
        q->nets.control = NULL;
    }
    return q->error.status;
}

int qw_need_vae(qwen *q, int parts)
{
    qw_loader l;
    if (q->nets.vae && (q->nets.vae_parts & parts) == parts) return QWEN_OK;
    qw_vae_free(q->nets.vae);
    q->nets.vae = NULL;
    drop_weights(q, QW_VAE);
    if (loading(q, QW_VAE, q->devices.vae, "VAE", "vae", &l)) return q->error.status;
    q->nets.vae_parts |= parts;
    qw_vae_load(&q->nets.vae, &q->config.vae, q->nets.vae_parts, &l);
    if (loaded(q, QW_VAE, "VAE", &l)) {
        qw_vae_free(q->nets.vae);
        q->nets.vae = NULL;
        q->nets.vae_parts = 0;
    }
    return q->error.status;
}
