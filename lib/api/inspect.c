/* inspect.c - qwen_inspect: describes a model file or directory and names what it lacks.
 *
 * The report comes from the functions that a run calls: the store's kind, the configurations, and
 * the nets' load functions on the plan device.  So it finds the errors that a run would find. */
#include "files/lora.h"
#include "nets/control.h"
#include "pipeline/pipeline.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct report {
    void (*say)(void *user, const char *key, const char *value);
    void *user;
    qw_error error;
    int64_t unknown, problems;
    int contents;     /* say_contents was called */
    const char *part; /* "transformer: " before what is missing, or NULL */
} report;

static void say(report *r, const char *key, const char *format, ...) QW_PRINTF(3, 4);

static void say(report *r, const char *key, const char *format, ...)
{
    char line[1200];
    va_list args;
    if (!r->say) return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    r->say(r->user, key, line);
}

static int64_t elements(const qw_entry *e)
{
    int64_t n = 1;
    for (int i = 0; i < e->rank; i++) n *= e->dim[i];
    return n;
}

/* Numbers of tensors, of tensors by type ("f32 12, bf16 300"), of parameters, of bytes. */
static void say_contents(report *r, const char *what, const qw_store *s)
{
    int64_t count[QW_NDTYPES] = { 0 }, tensors = 0, parameters = 0;
    uint64_t bytes = 0;
    char line[600] = "";
    const qw_entry *e;
    r->contents = 1;
    for (; (e = qw_store_entry(s, tensors)); tensors++) {
        count[e->dtype]++;
        parameters += elements(e);
        bytes += e->bytes;
    }
    for (int t = 0; t < QW_NDTYPES; t++) {
        const size_t at = strlen(line);
        if (count[t])
            snprintf(line + at, sizeof line - at, "%s%s %" PRId64, at ? ", " : "",
                     qw_dtype_name((qw_dtype)t), count[t]);
    }
    say(r, "tensors", "%s%" PRId64, what, tensors);
    say(r, "dtypes", "%s%s", what, line);
    say(r, "parameters", "%s%" PRId64, what, parameters);
    say(r, "bytes", "%s%" PRIu64, what, bytes);
}

static void say_unknown(void *user, const qw_entry *e)
{
    report *r = user;
    char seen[300];
    r->unknown++;
    say(r, "unknown", "%s", qw_visible(seen, sizeof seen, e->key));
}

/* The `each` of a loader: a tensor that is missing, by name, or wrong. */
static void say_problem(void *user, const char *missing, const char *sentence)
{
    report *r = user;
    char seen[300];
    r->problems++;
    if (missing)
        say(r, "missing", "%s%s", r->part ? r->part : "", qw_visible(seen, sizeof seen, missing));
    else say(r, "wrong", "%s", sentence);
}

/* Moves the model's error to the report, with the number of further problems: the first becomes
 * the report's error, later ones lines. */
static void keep_error(report *r, qwen *q)
{
    qw_error *err = qw_model_error(q);
    char more[40] = "";
    if (!err->status) return;
    if (r->problems > 1)
        snprintf(more, sizeof more, " (and %" PRId64 " more like it)", r->problems - 1);
    if (r->error.status) say(r, "error", "%s%s", err->text, more);
    else qw_fail(&r->error, err->status, "%s%s", err->text, more);
    memset(err, 0, sizeof *err);
    r->problems = 0;
}

/* Loads nets.  Nonzero: every tensor was looked up, so that unused entries are unknown ones. */
static int check_net(report *r, qwen *q, unsigned needs)
{
    const int status = qw_model_load(q, needs, say_problem, r), seen = !status || r->problems;
    keep_error(r, q);
    return seen;
}

/* Loads the nets that have files, and those that a directory should have. */
static void check_nets(report *r, qwen *q, int is_directory)
{
    static const struct {
        qw_net net;
        unsigned needs;
        const char *name;
    } nets[] = { { QW_DIT, QW_NEED_DIT, "transformer: " },
                 { QW_TEXT, QW_NEED_TEXT, "text encoder: " },
                 { QW_VAE, QW_NEED_DECODER | QW_NEED_ENCODER, "VAE: " },
                 { QW_CONTROL, QW_NEED_CONTROL, "ControlNet: " } };
    for (size_t i = 0; i < sizeof nets / sizeof *nets; i++) {
        const qw_net n = nets[i].net;
        const qw_store *store = qw_model_store(q, n);
        if (!store && (n == QW_CONTROL || !is_directory))
            continue; /* a directory should have the first three, a file any of them */
        if (store) {
            say(r, "component", "%s%s", nets[i].name, qw_model_path(q, n));
            say_contents(r, nets[i].name, store);
        }
        r->part = nets[i].name;
        int seen = check_net(r, q, nets[i].needs);
        if (seen && n == QW_TEXT && qw_model_wants_vision(q)) {
            r->part = "vision tower: ";
            seen = check_net(r, q, QW_NEED_VISION);
        }
        if (seen && store) qw_store_unused(store, say_unknown, r);
        if (n == QW_VAE && qw_model_enlarges(q) > 1)
            say(r, "note", "the VAE draws at %" PRId64 " times the size", qw_model_enlarges(q));
    }
    if (qw_model_wants_tokenizer(q)) check_net(r, q, QW_NEED_TOKENIZER);
}

static void say_model(report *r, const qwen *q, const qwen_model_info *info)
{
    const qw_configs *c = qw_model_configs(q);
    const qw_dit_config *d = &c->dit;
    if (qw_model_store(q, QW_DIT) || info->pipeline) say(r, "variant", "%s", info->variant);
    if (info->pipeline) say(r, "pipeline", "%s", info->pipeline);
    if (info->edit_class) say(r, "edits with", "%s", info->edit_class);
    if (info->name) say(r, "name", "%s", info->name);
    if (qw_model_store(q, QW_DIT))
        say(r, "transformer", "%" PRId64 " layers, %" PRId64 " heads of %" PRId64 "%s%s", d->layers,
            d->heads, d->head, d->zero_cond_t ? ", references at t = 0" : "",
            d->layer3d ? ", layers" : "");
    if (qw_model_store(q, QW_TEXT))
        say(r, "text encoder", "%" PRId64 " layers of width %" PRId64, c->text.layers,
            c->text.width);
    if (qw_model_store(q, QW_VAE))
        say(r, "VAE", "%" PRId64 " latent channels, %" PRId64 " picture channels", c->vae.z,
            c->vae.channels);
}

/* Opens a model or a part of one on the plan device, and describes it. */
static void inspect_model(report *r, const char *path, qw_kind kind)
{
    qwen *q = NULL;
    qwen_options opt = { .size = sizeof opt, .device = "plan" };
    if (kind == QW_KIND_VISION) opt.vision = path;
    else opt.model = path;
    qw_model_new(&q, &opt);
    if (!q) {
        qw_fail(&r->error, QWEN_ENOMEM, "no memory");
        return;
    }
    keep_error(r, q);
    if (!r->error.status && kind == QW_KIND_VISION) {
        const int seen = check_net(r, q, QW_NEED_VISION);
        const qw_store *store = qw_model_store(q, QW_VISION);
        if (store) say_contents(r, "", store);
        if (seen && store) qw_store_unused(store, say_unknown, r);
    } else if (qw_model_is_open(q)) {
        qwen_model_info info;
        qw_model_info(q, &info);
        say_model(r, q, &info);
        check_nets(r, q, info.pipeline != NULL);
    }
    qw_model_free(q);
}

/* Nonzero: a module's name, joined by dots or underscores, has one of the transformer's in it. */
static int module_known(const char *base)
{
    static const char *const parts[] = { "transformer_blocks", "img_in",   "txt_in",
                                         "time_text_embed",    "norm_out", "proj_out" };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strstr(base, parts[i])) return 1;
    return 0;
}

/* Checks a LoRA file without its model: forms, ranks, finite values, names of this family. */
static void inspect_lora(report *r, const char *path)
{
    qw_lora *l = NULL;
    int64_t known = 0;
    if (qw_lora_open(&l, path, 1, &r->error)) return;
    for (int64_t i = 0; i < l->modules && !r->error.status; i++) {
        const qw_lora_module *m = &l->module[i];
        known += module_known(m->base);
        for (int k = 0; k < QW_ROLES && !r->error.status; k++)
            if (m->role[k]) free(qw_lora_values(l, m->role[k], -1, &r->error));
    }
    say(r, "modules", "%" PRId64, l->modules);
    if (l->strays) say(r, "unknown", "%s", l->stray);
    if (!known && l->modules && !r->error.status) {
        char seen[200];
        qw_fail(&r->error, QWEN_EMODEL,
                "%s: none of its modules matches this model; the first is \"%s\"", path,
                qw_visible(seen, sizeof seen, l->module[0].base));
    }
    qw_lora_free(l);
}

/* The configuration of a ControlNet.  Fun and blockwise ones have none of their own: the published
 * one of the transformer, with the width and head size of their tensors. */
static int control_config(qw_store *s, qw_kind kind, const char *path, qw_dit_config *c,
                          qw_error *err)
{
    if (kind != QW_KIND_CONTROLNET) {
        const qw_entry *w =
            qw_store_find(s, kind == QW_KIND_FUN ? "control_img_in.weight" : "img_in.weight");
        const qw_entry *h = qw_store_find(s, "control_blocks.0.attn.norm_q.weight");
        if (qw_dit_configure(c, NULL, NULL, path, err)) return err->status;
        c->width = w && w->rank == 2 && w->dim[0] > 0 ? w->dim[0] : c->width;
        c->head = h && h->rank == 1 && h->dim[0] > 0 ? h->dim[0] : c->head;
        c->heads = c->width / c->head;
        return QWEN_OK;
    }
    json_t *json = NULL;
    char *config = qw_config_beside(path, err);
    if (!err->status && (!config || !qw_json_file(config, &json, err)))
        qw_dit_configure(c, json, s, config ? config : path, err);
    json_decref(json);
    free(config);
    return err->status;
}

/* Loads a ControlNet on the plan device, and describes it. */
static void inspect_control(report *r, qw_store *s, qw_kind kind, const char *path)
{
    static const char *const kinds[] = { "InstantX", "blockwise", "Fun" };
    qw_error err = { 0 };
    qw_dit_config c;
    qw_device *dev = NULL;
    qw_residency *res = NULL;
    qw_control *net = NULL;
    if (!control_config(s, kind, path, &c, &err) && !qw_device_open("plan", NULL, &dev, &err)
        && !qw_residency_new(&res, dev, 0, &err)) {
        qw_loader l = { .store = s, .res = res, .err = &err, .each = say_problem, .user = r };
        qw_control_load(&net, &c, &l);
        if (net) {
            say(r, "control", "%s, width %" PRId64 ", reads %" PRId64 " features%s",
                kinds[qw_control_kind_of(net)], c.width, qw_control_features(net),
                qw_control_features(net) == 4 * c.out + 4 ? " (inpainting)" : "");
            qw_store_unused(s, say_unknown, r);
        }
        qw_loader_end(&l);
    }
    if (err.status && !r->error.status && r->problems > 1)
        qw_fail(&r->error, err.status, "%s (and %" PRId64 " more like it)", err.text,
                r->problems - 1);
    else if (err.status && !r->error.status) r->error = err;
    qw_control_free(net);
    qw_residency_free(res);
    if (dev) dev->close(dev);
}

static void inspect_file(report *r, const char *path)
{
    qw_store *s = NULL;
    qw_kind kind = QW_KIND_UNKNOWN;
    if (qw_store_new(&s, &r->error) || qw_store_add(s, path, &r->error)) {
        qw_store_free(s);
        return;
    }
    qw_store_canonical(s, QW_KIND_UNKNOWN, &kind, &r->error);
    say(r, "kind", "%s", qw_kind_name(kind));
    const int model = kind == QW_KIND_TRANSFORMER || kind == QW_KIND_TEXT || kind == QW_KIND_VISION
                      || kind == QW_KIND_VAE || kind == QW_KIND_CHECKPOINT;
    const int known = model && !r->error.status;
    if (!known) say_contents(r, "", s);
    if (kind == QW_KIND_UNKNOWN && !r->error.status) {
        char seen[100];
        const char *architecture = qw_store_metadata(s, "general.architecture");
        qw_fail(&r->error, QWEN_EMODEL,
                "%s: the names of its tensors are of no model that is known%s%s", path,
                architecture ? "; its architecture is " : "",
                architecture ? qw_visible(seen, sizeof seen, architecture) : "");
    }
    if (!r->error.status
        && (kind == QW_KIND_CONTROLNET || kind == QW_KIND_BLOCKWISE || kind == QW_KIND_FUN))
        inspect_control(r, s, kind, path);
    if (known) inspect_model(r, path, kind);
    if (known && !r->contents) /* the model was refused before its nets were loaded */
        say_contents(r, "", s);
    qw_store_free(s);
    if (!r->error.status && kind == QW_KIND_LORA) inspect_lora(r, path);
}

int qwen_inspect(const char *path, void (*each)(void *user, const char *key, const char *value),
                 void *user, char *error_text, size_t error_size)
{
    report r = { .say = each, .user = user };
    struct stat st;
    char *index = path ? qw_path_join(path, "model_index.json") : NULL;
    if (!path) qw_fail(&r.error, QWEN_EARG, "no path");
    else if (!index) qw_fail(&r.error, QWEN_ENOMEM, "no memory");
    else if (!stat(index, &st)) {
        say(&r, "kind", "model directory");
        inspect_model(&r, path, QW_KIND_CHECKPOINT);
    } else {
        inspect_file(&r, path);
    }
    free(index);
    if (r.unknown && !r.error.status)
        say(&r, "note", "%" PRId64 " tensors are used by no net", r.unknown);
    if (error_text && error_size) snprintf(error_text, error_size, "%s", r.error.text);
    return r.error.status;
}
