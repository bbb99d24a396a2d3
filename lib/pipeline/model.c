/* model.c - opens a model: finds its files, reads their headers and configurations, opens devices.
 *
 * A model is a diffusers directory (model_index.json), a single file, or pieces given one by one; a
 * piece overrides the directory's.  A file without a config.json beside it has that of the
 * directory, else the published numbers.  Opening loads no weight (load_nets.c does). */
#include "pipeline/job.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- model_index.json ------------------------------------------------------------------------- */

static int index_number(qwen *q, const json_t *block, const char *where, const char *key,
                        double low, double high, int whole, double *out)
{
    const json_t *v = json_object_get(block, key);
    if (!v) return QWEN_OK;
    const double x = json_is_number(v) ? json_number_value(v) : NAN;
    if (!(x >= low && x <= high) || (whole && x != floor(x)))
        return qw_fail(&q->error, QWEN_EFORMAT,
                       "%s: \"libqwen\": \"%s\" is not a%s number from %g to %g", where, key,
                       whole ? " whole" : "", low, high);
    *out = x;
    return QWEN_OK;
}

static int index_string(qwen *q, const json_t *block, const char *where, const char *key,
                        char **out)
{
    const json_t *v = json_object_get(block, key);
    if (!v) return QWEN_OK;
    if (!json_is_string(v))
        return qw_fail(&q->error, QWEN_EFORMAT, "%s: \"libqwen\": \"%s\" is not a string", where,
                       key);
    free(*out);
    *out = qw_strdup(json_string_value(v));
    return *out ? QWEN_OK : qw_no_memory(q);
}

/* The object "libqwen" in model_index.json: defaults of a small checkpoint. */
static int read_block(qwen *q, const json_t *block, const char *where)
{
    double width = q->defaults.width, height = q->defaults.height, steps = q->defaults.steps,
           guidance = q->defaults.guidance;
    double reference = (double)q->defaults.reference_area,
           condition = (double)q->defaults.condition_area;
    if (!json_is_object(block))
        return qw_fail(&q->error, QWEN_EFORMAT, "%s: \"libqwen\" is not an object", where);
    if (index_number(q, block, where, "width", 16, 65536, 1, &width)
        || index_number(q, block, where, "height", 16, 65536, 1, &height)
        || index_number(q, block, where, "steps", 1, 10000, 1, &steps)
        || index_number(q, block, where, "guidance", 0, 1000, 0, &guidance)
        || index_number(q, block, where, "reference_area", 256, 4294967296.0, 1, &reference)
        || index_number(q, block, where, "condition_area", 256, 4294967296.0, 1, &condition)
        || index_string(q, block, where, "name", &q->name)
        || index_string(q, block, where, "negative", &q->defaults.negative)
        || index_string(q, block, where, "edit_class", &q->edit_class))
        return q->error.status;
    if ((int)width % 16 || (int)height % 16)
        return qw_fail(&q->error, QWEN_EFORMAT, "%s: \"libqwen\": %gx%g is no multiple of 16",
                       where, width, height);
    qw_variant v;
    if (q->edit_class && !qw_class_named(q->edit_class, &v)) {
        char seen[100];
        return qw_fail(&q->error, QWEN_EUNSUPPORTED,
                       "%s: \"libqwen\": edit_class \"%s\" is not supported", where,
                       qw_visible(seen, sizeof seen, q->edit_class));
    }
    q->defaults.width = (int)width;
    q->defaults.height = (int)height;
    q->defaults.steps = (int)steps;
    q->defaults.guidance = guidance;
    q->defaults.reference_area = (int64_t)reference;
    q->defaults.condition_area = (int64_t)condition;
    return QWEN_OK;
}

/* Components are pairs of strings, or of nulls where there is none. */
static int check_components(qwen *q, const json_t *index, const char *where)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)index, key, v)
    {
        if (key[0] == '_' || !strcmp(key, "libqwen")) continue;
        static const char *const parts[] = { "transformer", "text_encoder", "vae",
                                             "tokenizer",   "scheduler",    "processor",
                                             "controlnet" };
        int known = 0;
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) known |= !strcmp(key, parts[i]);
        if (!known) continue;
        const json_t *a = json_array_get(v, 0), *b = json_array_get(v, 1);
        const int pair =
            json_is_array(v) && json_array_size(v) == 2
            && ((json_is_string(a) && json_is_string(b)) || (json_is_null(a) && json_is_null(b)));
        if (!pair)
            return qw_fail(&q->error, QWEN_EFORMAT, "%s: \"%s\" is not a pair of library and class",
                           where, key);
    }
    return QWEN_OK;
}

static int read_index(qwen *q, const json_t *index, const char *where)
{
    const json_t *class = json_object_get(index, "_class_name");
    if (!json_is_string(class))
        return qw_fail(&q->error, QWEN_EFORMAT, "%s: no string \"_class_name\"", where);
    const char *name = json_string_value(class);
    if (!qw_class_named(name, &q->variant)) {
        char seen[100];
        return qw_fail(&q->error, QWEN_EUNSUPPORTED,
                       "%s: \"_class_name\": pipeline class %s is not supported%s", where,
                       qw_visible(seen, sizeof seen, name),
                       strstr(name, "QwenImage21") ? " (Qwen-Image-2.1 is another model)" : "");
    }
    q->pipeline_class = qw_strdup(name);
    if (!q->pipeline_class) return qw_no_memory(q);
    if (check_components(q, index, where)) return q->error.status;
    const json_t *block = json_object_get(index, "libqwen");
    return block ? read_block(q, block, where) : QWEN_OK;
}

static const char *where_of(const qw_component *c) { return c->config ? c->config : c->path; }

static int open_dit(qwen *q)
{
    json_t *json;
    if (!q->files.net[QW_DIT].path) return QWEN_OK;
    if (qw_load_json(q->files.net[QW_DIT].config, &json, &q->error)
        || qw_open_store(&q->files.net[QW_DIT], QW_KIND_TRANSFORMER, NULL, &q->error)) {
        json_decref(json);
        return q->error.status;
    }
    qw_dit_configure(&q->config.dit, json, q->files.net[QW_DIT].store,
                     where_of(&q->files.net[QW_DIT]), &q->error);
    json_decref(json);
    return q->error.status;
}

/* A language model alone, Qwen2, has the keys of Qwen2.5-VL's and was not trained with pictures.
 * Qwen2.5-VL has a vision tower beside it, GGUF's architecture key, or a config.json. */
static int is_language_model(qwen *q)
{
    const qw_component *c = &q->files.net[QW_TEXT];
    if (q->opt.vision || qw_has_tower(c->store)
        || qw_store_metadata(c->store, "general.architecture"))
        return 0;
    json_t *json = NULL;
    char *config = qw_config_beside(c->path, &q->error);
    if (!q->error.status) qw_load_json(config, &json, &q->error);
    const char *type = json_string_value(json_object_get(json, "model_type"));
    const int seen = json_object_get(json, "vision_config") || (type && strstr(type, "_vl"));
    json_decref(json);
    free(config);
    return !seen && !q->error.status;
}

static int open_text(qwen *q)
{
    json_t *json;
    if (!q->files.net[QW_TEXT].path) return QWEN_OK;
    if (qw_load_json(q->files.net[QW_TEXT].config, &json, &q->error)
        || qw_open_store(&q->files.net[QW_TEXT], QW_KIND_TEXT, NULL, &q->error)) {
        json_decref(json);
        return q->error.status;
    }
    q->files.net[QW_TEXT].bytes = qw_part_bytes(q->files.net[QW_TEXT].store, 0);
    qw_text_configure(&q->config.text, json, q->files.net[QW_TEXT].store,
                      where_of(&q->files.net[QW_TEXT]), &q->error);
    json_decref(json);
    if (!q->error.status && is_language_model(q))
        qw_fail(&q->error, QWEN_EMODEL,
                "%s is a language model without a vision tower (Qwen2), expected Qwen2.5-VL",
                q->files.net[QW_TEXT].path);
    if (!q->error.status && q->files.net[QW_DIT].store
        && q->config.text.width != q->config.dit.text_width)
        return qw_fail(&q->error, QWEN_EMODEL,
                       "%s: the text encoder is %lld wide, the transformer expects %lld",
                       q->files.net[QW_TEXT].path, (long long)q->config.text.width,
                       (long long)q->config.dit.text_width);
    return q->error.status;
}

static int open_vae(qwen *q)
{
    json_t *json;
    if (!q->files.net[QW_VAE].path) return QWEN_OK;
    if (qw_load_json(q->files.net[QW_VAE].config, &json, &q->error)
        || qw_open_store(&q->files.net[QW_VAE], QW_KIND_VAE, NULL, &q->error)) {
        json_decref(json);
        return q->error.status;
    }
    qw_vae_configure(&q->config.vae, json, q->files.net[QW_VAE].store,
                     where_of(&q->files.net[QW_VAE]), &q->error);
    json_decref(json);
    const int64_t patch = q->config.dit.patch;
    if (!q->error.status && q->files.net[QW_DIT].store
        && q->config.vae.z * patch * patch != q->config.dit.in)
        return qw_fail(&q->error, QWEN_EMODEL,
                       "%s: the VAE has %lld latent channels, the transformer expects %lld",
                       q->files.net[QW_VAE].path, (long long)q->config.vae.z,
                       (long long)(q->config.dit.in / (patch * patch)));
    return q->error.status;
}

static int open_control(qwen *q)
{
    json_t *json;
    qw_component *c = &q->files.net[QW_CONTROL];
    qw_kind kind = QW_KIND_UNKNOWN;
    if (!c->path) return QWEN_OK;
    if (qw_load_json(c->config, &json, &q->error)
        || qw_open_store(c, QW_KIND_CONTROLNET, &kind, &q->error)) {
        json_decref(json);
        return q->error.status;
    }
    q->config.control = q->config.dit; /* of Fun and blockwise ControlNets */
    if (kind == QW_KIND_CONTROLNET)
        qw_dit_configure(&q->config.control, json, c->store, where_of(c), &q->error);
    json_decref(json);
    if (!q->error.status)
        qw_control_look(c->store, &q->files.control_kind, &q->files.control_features,
                        &q->files.no_control);
    return q->error.status;
}

static int open_schedule(qwen *q, const char *directory)
{
    json_t *json = NULL;
    char *scheduler = directory ? qw_component_path(directory, "scheduler", &q->error) : NULL;
    char *path = scheduler ? qw_component_path(scheduler, "scheduler_config.json", &q->error)
                           : NULL;
    if (!q->error.status && !qw_load_json(path, &json, &q->error))
        qw_schedule_configure(&q->config.schedule, json, path ? path : "scheduler", &q->error);
    json_decref(json);
    free(scheduler);
    free(path);
    return q->error.status;
}

static int open_tokenizer(qwen *q, const char *directory)
{
    char *own = directory && !q->opt.tokenizer
                    ? qw_component_path(directory, "tokenizer", &q->error)
                    : NULL;
    char *processor = directory ? qw_component_path(directory, "processor", &q->error) : NULL;
    if (processor)
        q->files.processor_path =
            qw_component_path(processor, "preprocessor_config.json", &q->error);
    free(processor);
    q->files.tokenizer_path = q->opt.tokenizer ? qw_strdup(q->opt.tokenizer) : own;
    if (q->opt.tokenizer && !q->files.tokenizer_path) return qw_no_memory(q);
    return q->error.status;
}

/* Assigns the model's single file to the components that it holds. */
static int whole_file(qwen *q, const char *dit[1], const char *text[1], const char *vae[1])
{
    qw_component probe = { .path = qw_strdup(q->opt.model) };
    qw_kind kind = QW_KIND_UNKNOWN;
    const int status = probe.path ? qw_open_store(&probe, QW_KIND_UNKNOWN, &kind, &q->error)
                                  : qw_no_memory(q);
    const int parts = status ? 0
                             : qw_store_has(probe.store, QW_KIND_TRANSFORMER)
                                   | qw_store_has(probe.store, QW_KIND_TEXT) << 1
                                   | qw_store_has(probe.store, QW_KIND_VAE) << 2;
    qw_close_component(&probe);
    q->files.whole = kind;
    if (status) return status;
    switch (kind) {
    case QW_KIND_TRANSFORMER: *dit = q->opt.model; return QWEN_OK;
    case QW_KIND_TEXT: *text = q->opt.model; return QWEN_OK;
    case QW_KIND_VAE: *vae = q->opt.model; return QWEN_OK;
    case QW_KIND_CHECKPOINT:
        *dit = parts & 1 ? q->opt.model : NULL;
        *text = parts & 2 ? q->opt.model : NULL;
        *vae = parts & 4 ? q->opt.model : NULL;
        return QWEN_OK;
    default:
        return qw_fail(&q->error, QWEN_EMODEL, "%s: this is %s %s, not a model that draws",
                       q->opt.model, qw_kind_article(kind),
                       kind == QW_KIND_UNKNOWN ? "unknown file" : qw_kind_name(kind));
    }
}

static int find_files(qwen *q)
{
    const char *model = q->opt.model, *directory = NULL, *dit = NULL, *text = NULL, *vae = NULL;
    if (model) {
        const int directory_given = qw_is_directory(model);
        char *path = directory_given ? qw_path_join(model, "model_index.json") : NULL;
        if (directory_given && !path)
            return qw_fail(&q->error, QWEN_ENOMEM, "%s: no memory to open it", model);
        const int indexed = path && qw_is_file(path);
        json_t *index = NULL;
        if (indexed && !qw_load_json(path, &index, &q->error)) read_index(q, index, path);
        json_decref(index);
        free(path);
        if (indexed) directory = model;
        else if (!q->error.status) whole_file(q, &dit, &text, &vae);
    }
    if (q->error.status) return q->error.status;
    if (qw_component_files(q, &q->files.net[QW_DIT], q->opt.transformer, directory, "transformer",
                           dit)
        || qw_component_files(q, &q->files.net[QW_TEXT], q->opt.text_encoder, directory,
                              "text_encoder", text)
        || qw_component_files(q, &q->files.net[QW_VAE], q->opt.vae, directory, "vae", vae)
        || qw_component_files(q, &q->files.net[QW_CONTROL], q->opt.controlnet, directory,
                              "controlnet", NULL)
        || open_tokenizer(q, directory) || open_schedule(q, directory))
        return q->error.status;
    if (!q->files.net[QW_DIT].path && !q->files.net[QW_TEXT].path && !q->files.net[QW_VAE].path
        && !q->files.tokenizer_path && !q->opt.vision)
        return qw_fail(&q->error, QWEN_EARG, "%s: no transformer, text encoder or VAE here",
                       model ? model : "no model given");
    return open_dit(q) || open_text(q) || open_vae(q) || open_control(q) || qw_open_tower(q)
               ? q->error.status
               : QWEN_OK;
}

/* --- opening and closing ---------------------------------------------------------------------- */

static void say_next(void *user, const char *why, const char *used)
{
    qw_say(user, 0, "%s; the device is %s", why, used);
}

static int open_devices(qwen *q)
{
    const qwen_options *o = &q->opt;
    const qw_device_options how = {
        .threads = o->threads, .memory = o->memory, .notice = say_next, .user = q
    };
    if (qw_device_open(o->device, &how, &q->devices.main, &q->error)) return q->error.status;
    q->devices.text = q->devices.vae = q->devices.main;
    if (o->text_device && qw_device_open(o->text_device, &how, &q->devices.text, &q->error))
        return q->error.status;
    if (o->vae_device && qw_device_open(o->vae_device, &how, &q->devices.vae, &q->error))
        return q->error.status;
    return qw_device_open("ref", &how, &q->devices.ref, &q->error);
}

static int open_model(qwen *q)
{
    const char *like = q->opt.like;
    if (like && strcmp(like, "diffusers") && strcmp(like, "comfyui"))
        return qw_fail(&q->error, QWEN_EARG, "like \"%s\" is neither diffusers nor comfyui", like);
    q->comfy = like && !strcmp(like, "comfyui");
    if (find_files(q) || qw_decide_variant(q) || qw_decide_defaults(q) || open_devices(q))
        return q->error.status;
    qw_say(q, 1, "variant %s, device %s", qw_variant_name(q->variant), q->devices.main->name);
    return QWEN_OK;
}

static void close_device(qw_device *dev)
{
    if (dev) dev->close(dev);
}

static void close_model(qwen *q)
{
    for (int i = 0; i < 2; i++) {
        free(q->embedding[i].key);
        free(q->embedding[i].rows);
    }
    qw_lora_drop(q);
    qw_nets_free(&q->nets);
    for (int i = 0; i < QW_NETS; i++) qw_close_component(&q->files.net[i]);
    qw_tokenizer_free(q->files.tokenizer);
    if (q->devices.vae && q->devices.vae != q->devices.main) close_device(q->devices.vae);
    if (q->devices.text && q->devices.text != q->devices.main) close_device(q->devices.text);
    close_device(q->devices.ref);
    close_device(q->devices.main);
    free(q->files.tokenizer_path);
    free(q->files.processor_path);
    free(q->pipeline_class);
    free(q->edit_class);
    free(q->name);
    free(q->defaults.negative);
}

static const char **option_strings(qwen_options *o, int i)
{
    const char **const all[] = { &o->model, &o->transformer, &o->text_encoder, &o->vision,
                                 &o->vae,   &o->controlnet,  &o->tokenizer,    &o->variant,
                                 &o->like,  &o->device,      &o->text_device,  &o->vae_device };
    return i < (int)(sizeof all / sizeof *all) ? all[i] : NULL;
}

static int copy_options(qwen *q, const qwen_options *opt)
{
    const int status =
        qw_take_struct(&q->error, &q->opt, sizeof q->opt, opt, opt->size, "qwen_options");
    const char **s;
    int failed = 0;
    for (int i = 0; (s = option_strings(&q->opt, i)); i++) {
        char *copy = status ? NULL : qw_strdup(*s);
        failed |= *s && !copy && !status;
        *s = copy;
    }
    return status   ? status
           : failed ? qw_fail(&q->error, QWEN_ENOMEM, "no memory for the options")
                    : QWEN_OK;
}

int qw_model_new(qwen **out, const qwen_options *opt)
{
    qwen *q = *out = calloc(1, sizeof *q);
    if (!q) return QWEN_ENOMEM;
    if (!opt) return qw_fail(&q->error, QWEN_EARG, "no options");
    if (copy_options(q, opt)) return q->error.status;
    if (q->opt.threads < 0) return qw_fail(&q->error, QWEN_EARG, "threads is %d", q->opt.threads);
    return open_model(q);
}

void qw_model_free(qwen *q)
{
    if (!q) return;
    close_model(q);
    const char **s;
    for (int i = 0; (s = option_strings(&q->opt, i)); i++) free((void *)(uintptr_t)*s);
    free(q);
}

/* --- facts about a model ---------------------------------------------------------------------- */

int qw_model_is_open(const qwen *q) { return q->devices.main != NULL; }

qw_error *qw_model_error(qwen *q) { return &q->error; }

const char *qw_model_failure(const qwen *q) { return q->error.text; }

const qw_configs *qw_model_configs(const qwen *q) { return &q->config; }

const qw_store *qw_model_store(const qwen *q, qw_net n) { return q->files.net[n].store; }

const char *qw_model_path(const qwen *q, qw_net n) { return q->files.net[n].path; }

qw_dtype qw_model_wide(const qwen *q, qw_net n)
{
    const qw_devices *d = &q->devices;
    return (n == QW_TEXT || n == QW_VISION ? d->text : n == QW_VAE ? d->vae : d->main)->wide;
}

int64_t qw_model_enlarges(const qwen *q) { return q->nets.vae ? qw_vae_enlarges(q->nets.vae) : 1; }

/* Models that edit, and text encoders whose files hold a tensor of a tower. */
int qw_model_wants_vision(const qwen *q)
{
    const qw_store *text = q->files.net[QW_TEXT].store;
    return (text && qw_has_tower(text)) || q->variant == QW_EDIT || q->variant == QW_EDIT_2509
           || q->variant == QW_EDIT_2511 || q->edit_class;
}

int qw_model_wants_tokenizer(const qwen *q) { return q->files.tokenizer_path || q->pipeline_class; }

void qw_model_info(const qwen *q, qwen_model_info *out)
{
    const qw_defaults *d = &q->defaults;
    *out = (qwen_model_info){
        .name = q->name,
        .variant = qw_variant_name(q->variant),
        .pipeline = q->pipeline_class,
        .edit_class = q->edit_class,
        .device = q->devices.main->name,
        .width = d->width ? d->width : 1024,
        .height = d->height ? d->height : 1024,
        .steps = d->steps,
        .guidance = d->guidance,
        .negative = d->negative,
        .distilled = d->distilled != NULL,
        .text_width = q->config.dit.text_width,
        .recommended_negative = qw_recommended_negative(q),
    };
}
