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
            return q->vae_parts & (i < 2 ? QW_VAE_DECODER : QW_VAE_ENCODER);
    return 1;
}

static void tell_unused(void *user, const qw_entry *e)
{
    char seen[200];
    if (wanted_half(user, e))
        qw_say(user, 1, "not used: %s", qw_visible(seen, sizeof seen, e->key));
}

static int loading(qwen *q, qw_component *c, qw_device *dev, const char *what, const char *option,
                   qw_loader *l)
{
    if (!c->store && c == &q->vision_files && q->opt.text_encoder)
        return qw_fail(&q->error, QWEN_EMODEL, "%s has no %s, and none was given (%s)",
                       q->opt.text_encoder, what, option);
    if (!c->store && q->opt.model && q->whole && q->whole != QW_KIND_CHECKPOINT)
        return qw_fail(&q->error, QWEN_EMODEL,
                       "%s is %s %s: a %s is missing, and none was given (%s)", q->opt.model,
                       qw_kind_article(q->whole), qw_kind_name(q->whole), what, option);
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
    if (qw_residency_new(&c->res, dev, q->opt.memory, &q->error)) return q->error.status;
    l->res = c->res;
    if (!q->plan_of && !qw_is_plan(dev)) /* weights will be read */
        qw_store_read_ahead(c->store);
    return QWEN_OK;
}

static int loaded(qwen *q, qw_component *c, const char *what, qw_loader *l)
{
    if (qw_loader_end(l) || qw_residency_commit(c->res, &q->error)) {
        qw_residency_free(c->res);
        c->res = NULL;
        return q->error.status;
    }
    c->opened = 1;
    qw_say(q, 1, "%s: %.1f MB in %s", what, (double)c->file_bytes / 1e6,
           c->path ? c->path : "the text encoder's file");
    if (!c->borrowed && c != &q->text_files) qw_store_unused(c->store, tell_unused, q);
    return QWEN_OK;
}

int qw_need_tokenizer(qwen *q)
{
    if (q->tokenizer) return QWEN_OK;
    if (!q->tokenizer_path && q->pipeline_class)
        return qw_fail(&q->error, QWEN_EMODEL,
                       "%s has no tokenizer, and none was given (tokenizer)", q->opt.model);
    if (!q->tokenizer_path)
        return qw_fail(&q->error, QWEN_EARG,
                       "no tokenizer: the model has none and none was given (tokenizer)");
    return qw_tokenizer_open(&q->tokenizer, q->tokenizer_path, &q->error);
}

int qw_need_text(qwen *q)
{
    qw_loader l;
    if (q->text) return QWEN_OK;
    if (loading(q, &q->text_files, q->text_dev, "text encoder", "text_encoder", &l))
        return q->error.status;
    qw_text_load(&q->text, &q->text_config, &l);
    if (loaded(q, &q->text_files, "text encoder", &l)) {
        qw_text_free(q->text);
        q->text = NULL;
    }
    return q->error.status;
}

int qw_need_vision(qwen *q)
{
    qw_loader l;
    if (q->vision) return QWEN_OK;
    if (qw_vision_store(q)) return q->error.status;
    qw_component *c = &q->vision_files;
    json_t *json = NULL, *processor = NULL;
    if (loading(q, c, q->text_dev, "vision tower", "vision", &l)
        || qw_load_json(q, c->config, &json) || qw_load_json(q, q->processor_path, &processor)
        || qw_vision_configure(&q->vision_config, json, processor, c->store,
                               c->config ? c->config : "vision tower", &q->error)) {
        json_decref(json);
        json_decref(processor);
        qw_residency_free(c->res);
        c->res = NULL;
        return q->error.status;
    }
    json_decref(json);
    json_decref(processor);
    qw_vision_load(&q->vision, &q->vision_config, &l);
    if (!q->error.status && q->text_files.store && q->vision_config.out != q->text_config.width)
        qw_fail(&q->error, QWEN_EMODEL,
                "the vision tower gives %lld features, the text encoder is %lld wide",
                (long long)q->vision_config.out, (long long)q->text_config.width);
    if (loaded(q, c, "vision tower", &l)) {
        qw_vision_free(q->vision);
        q->vision = NULL;
    }
    return q->error.status;
}

/* On a device of its own memory the text encoder makes room when both do not fit. */
static void make_room(qwen *q)
{
    const uint64_t limit = q->opt.memory ? q->opt.memory : q->dev->memory;
    const uint64_t both = q->dit_files.file_bytes + q->text_files.file_bytes
                          + q->vae_files.file_bytes;
    if (q->dev->host || q->text_dev != q->dev || both < limit - limit / 4) return;
    qw_text_free(q->text);
    q->text = NULL;
    qw_residency_free(q->text_files.res);
    q->text_files.res = NULL;
    qw_vision_free(q->vision);
    q->vision = NULL;
    qw_residency_free(q->vision_files.res);
    q->vision_files.res = NULL;
}

int qw_need_dit(qwen *q)
{
    qw_loader l;
    if (q->dit) return QWEN_OK;
    make_room(q);
    if (loading(q, &q->dit_files, q->dev, "transformer", "transformer", &l)) return q->error.status;
    qw_dit_load(&q->dit, &q->dit_config, &l);
    if (loaded(q, &q->dit_files, "transformer", &l)) {
        qw_dit_free(q->dit);
        q->dit = NULL;
    }
    return q->error.status;
}

int qw_need_control(qwen *q)
{
    qw_loader l;
    if (q->control) return QWEN_OK;
    if (!q->control_files.store)
        return qw_fail(&q->error, QWEN_EARG, "a control picture needs a ControlNet (controlnet)");
    if (qw_need_dit(q) || loading(q, &q->control_files, q->dev, "ControlNet", "controlnet", &l))
        return q->error.status;
    qw_control_load(&q->control, &q->control_config, &l);
    if (!q->error.status && q->control_config.width != q->dit_config.width)
        qw_fail(&q->error, QWEN_EMODEL, "%s: the ControlNet is %lld wide, the transformer %lld",
                q->control_files.path, (long long)q->control_config.width,
                (long long)q->dit_config.width);
    if (loaded(q, &q->control_files, "ControlNet", &l)) {
        qw_control_free(q->control);
        q->control = NULL;
    }
    return q->error.status;
}

int qw_need_vae(qwen *q, int parts)
{
    qw_loader l;
    if (q->vae && (q->vae_parts & parts) == parts) return QWEN_OK;
    qw_vae_free(q->vae);
    q->vae = NULL;
    qw_residency_free(q->vae_files.res);
    q->vae_files.res = NULL;
    if (loading(q, &q->vae_files, q->vae_dev, "VAE", "vae", &l)) return q->error.status;
    q->vae_parts |= parts;
    qw_vae_load(&q->vae, &q->vae_config, q->vae_parts, &l);
    if (loaded(q, &q->vae_files, "VAE", &l)) {
        qw_vae_free(q->vae);
        q->vae = NULL;
        q->vae_parts = 0;
    }
    return q->error.status;
}
