/* need.c - loading a net when it is first needed, and LoRA files over the transformer. */
#include "pipeline.h"
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

/* The mmproj file beside a language GGUF: the one whose merger is as wide as the language model. */
static int find_mmproj(qwen *q)
{
    char *directory = qw_strdup(q->text_files.path);
    if (!directory) return qw_no_memory(q);
    char *slash = strrchr(directory, '/');
    if (slash) slash[slash == directory] = 0;
    DIR *d = opendir(slash ? directory : ".");
    struct dirent *e;
    while (d && !q->error.status && (e = readdir(d))) {
        if (!qw_name_has(e->d_name, "mmproj") || !qw_name_has(e->d_name, ".gguf")) continue;
        qw_component c = { .path = qw_path_join(slash ? directory : ".", e->d_name) };
        qwen probe = { .error = { 0 } };
        const qw_entry *out = NULL;
        if (c.path && !qw_open_store(&probe, &c, QW_KIND_VISION, NULL))
            out = qw_store_find(c.store, "visual.merger.mlp.2.weight");
        if (!out || out->rank < 1 || out->dim[0] != q->text_config.width) {
            qw_close_component(&c);
        } else if (q->vision_files.store) {
            qw_fail(&q->error, QWEN_EARG, "%s and %s both fit the text encoder: say which (vision)",
                    q->vision_files.path, c.path);
            qw_close_component(&c);
        } else {
            q->vision_files = c;
        }
    }
    if (d) closedir(d);
    free(directory);
    return q->error.status;
}

/* Any of its tensors: one that is missing is said when it is loaded. */
int qw_has_tower(const qw_store *s)
{
    const qw_entry *e;
    for (int64_t i = 0; (e = qw_store_entry(s, i)); i++)
        if (!strncmp(e->name, "visual.", 7)) return 1;
    return 0;
}

int qw_open_vision(qwen *q)
{
    qw_component *c = &q->vision_files;
    if (q->opt.vision) {
        if (qw_component_files(q, c, q->opt.vision, NULL, NULL, NULL)) return q->error.status;
        if (!c->config && q->text_files.config && !(c->config = qw_strdup(q->text_files.config)))
            return qw_no_memory(q); /* beside the text encoder, or the model's */
        return qw_open_store(q, c, QW_KIND_VISION, NULL);
    }
    return QWEN_OK;
}

static int vision_store(qwen *q)
{
    qw_component *c = &q->vision_files;
    if (c->store) return QWEN_OK;
    if (q->text_files.store && qw_has_tower(q->text_files.store)) {
        c->store = q->text_files.store;
        c->borrowed = 1;
        c->file_bytes = qw_part_bytes(c->store, 1);
        c->config = qw_strdup(q->text_files.config);
        return !c->config && q->text_files.config ? qw_no_memory(q) : QWEN_OK;
    }
    return q->text_files.path && !qw_is_directory(q->text_files.path) ? find_mmproj(q) : QWEN_OK;
}

int qw_need_vision(qwen *q)
{
    qw_loader l;
    if (q->vision) return QWEN_OK;
    if (vision_store(q)) return q->error.status;
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

/* --- LoRA ------------------------------------------------------------------------------------- */

typedef struct sites {
    qw_lora_site *site;
    int n, room, failed;
} sites;

static int add_site(void *user, qw_weight_part *p, int64_t n, int64_t k)
{
    sites *s = user;
    if (s->n == s->room) {
        const int room = s->room * 2 + 64;
        qw_lora_site *more = realloc(s->site, (size_t)room * sizeof *more);
        if (!more) {
            s->failed = 1;
            return 1;
        }
        s->site = more;
        s->room = room;
    }
    s->site[s->n++] = (qw_lora_site){ p, n, k };
    return 0;
}

static void lora_notice(void *user, const char *line) { qw_say(user, 0, "%s", line); }

/* One file alone, which checks it, or all of them. */
static int lay(qwen *q, qw_lora *const *lora, int n, int partial, int quiet, qw_overlay **out)
{
    sites s = { 0 };
    qw_dit_each_weight(q->dit, add_site, &s);
    if (s.failed) qw_fail(&q->error, QWEN_ENOMEM, "no memory for the list of layers");
    else
        qw_overlay_new(out, lora, n, s.site, s.n, q->dev, partial, quiet ? NULL : lora_notice, q,
                       &q->error);
    free(s.site);
    return q->error.status;
}

/* A file distilled for few steps changes what a request's silence means. */
static void lora_defaults(qwen *q, const char *path)
{
    if (!q->plain.steps) {
        q->plain.steps = q->steps;
        q->plain.guidance = q->guidance;
        q->plain.flat_shift = q->flat_shift;
        q->plain.distilled = q->distilled;
    }
    qw_distilled(q, path);
}

int qw_lora_add(qwen *q, const char *path, double strength, int partial)
{
    qw_lora *l = NULL;
    if (q->loras == QW_MAX_LORAS)
        return qw_fail(&q->error, QWEN_EARG, "%s: %d LoRA files are the most", path, QW_MAX_LORAS);
    if (qw_need_dit(q) || qw_lora_open(&l, path, strength, &q->error)) return q->error.status;
    qw_overlay_free(q->overlay);
    q->overlay = NULL;
    qw_overlay *alone = NULL;
    lay(q, &l, 1, partial, 0, &alone);
    qw_overlay_free(alone);
    if (q->error.status) {
        qw_lora_free(l);
        const qw_error first = q->error;
        memset(&q->error, 0, sizeof q->error);
        if (q->loras) lay(q, q->lora, q->loras, 1, 1, &q->overlay);
        q->error = first;
        return first.status;
    }
    q->lora[q->loras++] = l;
    lora_defaults(q, path);
    return lay(q, q->lora, q->loras, 1, 1, &q->overlay);
}

void qw_lora_drop(qwen *q)
{
    qw_overlay_free(q->overlay);
    q->overlay = NULL;
    while (q->loras) qw_lora_free(q->lora[--q->loras]);
    if (!q->plain.steps) return;
    q->steps = q->plain.steps;
    q->guidance = q->plain.guidance;
    q->flat_shift = q->plain.flat_shift;
    q->told_distilled = 0;
    q->distilled = q->plain.distilled;
    memset(&q->plain, 0, sizeof q->plain);
}
