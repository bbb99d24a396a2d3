/* inspect.c - what a model file or directory is, and whether it is whole.
 *
 * The report uses what opening uses: the store's kind, the configurations, and the nets' own load
 * functions on the device that computes nothing, so that it cannot disagree with a later run. */
#include "lora.h"
#include "pipeline.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct report {
    void    (*say)(void *user, const char *key, const char *value);
    void     *user;
    qw_error  error;
    int64_t   unknown;
} report;

static void say(report *r, const char *key, const char *format, ...) QW_PRINTF(3, 4);

static void say(report *r, const char *key, const char *format, ...)
{
    char line[1200];
    va_list args;
    if (!r->say)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    r->say(r->user, key, line);
}

static int64_t elements(const qw_entry *e)
{
    int64_t n = 1;
    for (int i = 0; i < e->rank; i++)
        n *= e->dim[i];
    return n;
}

/* "f32 12, bf16 300", and how many numbers there are. */
static void say_contents(report *r, const char *what, const qw_store *s)
{
    int64_t count[QW_NDTYPES] = { 0 }, tensors = 0, parameters = 0;
    uint64_t bytes = 0;
    char line[600] = "";
    const qw_entry *e;
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

/* The first error is the report's; later ones are lines. */
static void keep_error(report *r, qwen *q)
{
    if (!q->error.status)
        return;
    if (r->error.status)
        say(r, "error", "%s", q->error.text);
    else
        r->error = q->error;
    memset(&q->error, 0, sizeof q->error);
}

/* Loads every net that there are files for. */
static void check_nets(report *r, qwen *q)
{
    static const char *const names[] = { "transformer: ", "text encoder: ", "VAE: " };
    qw_component *const files[] = { &q->dit_files, &q->text_files, &q->vae_files };
    for (int i = 0; i < 3; i++) {
        if (!files[i]->store && !q->pipeline_class)
            continue;                   /* a directory has all, a file what it has */
        if (files[i]->store) {
            say(r, "component", "%s%s", names[i], files[i]->path);
            say_contents(r, names[i], files[i]->store);
        }
        const int status = i == 0 ? qw_need_dit(q) : i == 1 ? qw_need_text(q)
                                  : qw_need_vae(q, QW_VAE_DECODER | QW_VAE_ENCODER);
        keep_error(r, q);
        if (!status && i == 1) {        /* the tower lies in the same files, or nowhere */
            if (qw_store_find(files[i]->store, "visual.merger.ln_q.weight") ||
                q->variant == QW_EDIT || q->variant == QW_EDIT_2509 || q->variant == QW_EDIT_2511 ||
                q->edit_class)
                qw_need_vision(q);
            keep_error(r, q);
        }
        if (!status && files[i]->store)
            qw_store_unused(files[i]->store, say_unknown, r);
    }
    if (q->tokenizer_path || q->pipeline_class) {
        qw_need_tokenizer(q);
        keep_error(r, q);
    }
}

static void say_model(report *r, const qwen *q)
{
    const qw_dit_config *d = &q->dit_config;
    say(r, "variant", "%s", qw_variant_name(q->variant));
    if (q->pipeline_class)
        say(r, "pipeline", "%s", q->pipeline_class);
    if (q->edit_class)
        say(r, "edits with", "%s", q->edit_class);
    if (q->name)
        say(r, "name", "%s", q->name);
    if (q->dit_files.store)
        say(r, "transformer", "%" PRId64 " layers, %" PRId64 " heads of %" PRId64 "%s%s", d->layers,
            d->heads, d->head, d->zero_cond_t ? ", references at t = 0" : "",
            d->layer3d ? ", layers" : "");
    if (q->text_files.store)
        say(r, "text encoder", "%" PRId64 " layers of width %" PRId64, q->text_config.layers,
            q->text_config.width);
    if (q->vae_files.store)
        say(r, "VAE", "%" PRId64 " latent channels, %" PRId64 " picture channels", q->vae_config.z,
            q->vae_config.channels);
}

/* A model or a part of one: opened on the device that computes nothing. */
static void inspect_model(report *r, const char *path, qw_kind kind)
{
    qwen *q = NULL;
    qwen_options opt = { .size = sizeof opt, .device = "plan" };
    if (kind == QW_KIND_VISION)
        opt.vision = path;
    else
        opt.model = path;
    qwen_open(&q, &opt);
    if (!q) {
        qw_fail(&r->error, QWEN_ENOMEM, "no memory");
        return;
    }
    keep_error(r, q);
    if (!r->error.status && kind == QW_KIND_VISION) {
        qw_need_vision(q);
        keep_error(r, q);
        if (q->vision_files.store) {
            say_contents(r, "", q->vision_files.store);
            qw_store_unused(q->vision_files.store, say_unknown, r);
        }
    } else if (q->dev) {
        say_model(r, q);
        check_nets(r, q);
    }
    qwen_close(q);
}

/* Is a module's name one of the transformer's, joined by dots or underscores? */
static int module_known(const char *base)
{
    static const char *const parts[] = { "transformer_blocks", "img_in",   "txt_in",
                                         "time_text_embed",    "norm_out", "proj_out" };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strstr(base, parts[i]))
            return 1;
    return 0;
}

/* All that can be told without the model: forms, ranks, finite values, names of this family. */
static void inspect_lora(report *r, const char *path)
{
    qw_lora *l = NULL;
    int64_t known = 0;
    if (qw_lora_open(&l, path, 1, &r->error))
        return;
    for (int64_t i = 0; i < l->modules && !r->error.status; i++) {
        const qw_lora_module *m = &l->module[i];
        known += module_known(m->base);
        for (int k = 0; k < QW_ROLES && !r->error.status; k++)
            if (m->role[k])
                free(qw_lora_values(l, m->role[k], -1, &r->error));
    }
    say(r, "modules", "%" PRId64, l->modules);
    if (l->strays)
        say(r, "unknown", "%s", l->stray);
    if (!known && l->modules && !r->error.status) {
        char seen[200];
        qw_fail(&r->error, QWEN_EMODEL,
                "%s: none of its modules matches this model; the first is \"%s\"", path,
                qw_visible(seen, sizeof seen, l->module[0].base));
    }
    qw_lora_free(l);
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
    const int model = kind == QW_KIND_TRANSFORMER || kind == QW_KIND_TEXT ||
                      kind == QW_KIND_VISION || kind == QW_KIND_VAE || kind == QW_KIND_CHECKPOINT;
    if (!model || r->error.status)
        say_contents(r, "", s);
    if (kind == QW_KIND_UNKNOWN && !r->error.status) {
        char seen[100];
        const char *architecture = qw_store_metadata(s, "general.architecture");
        qw_fail(&r->error, QWEN_EMODEL,
                "%s: the names of its tensors are of no model that is known%s%s", path,
                architecture ? "; its architecture is " : "",
                architecture ? qw_visible(seen, sizeof seen, architecture) : "");
    }
    qw_store_free(s);
    if (r->error.status)
        return;
    if (model)
        inspect_model(r, path, kind);
    else if (kind == QW_KIND_LORA)
        inspect_lora(r, path);
}

int qwen_inspect(const char *path, void (*each)(void *user, const char *key, const char *value),
                 void *user, char *error_text, size_t error_size)
{
    report r = { .say = each, .user = user };
    struct stat st;
    char *index = path ? qw_path_join(path, "model_index.json") : NULL;
    if (!path)
        qw_fail(&r.error, QWEN_EARG, "no path");
    else if (!index)
        qw_fail(&r.error, QWEN_ENOMEM, "no memory");
    else if (!stat(index, &st)) {
        say(&r, "kind", "model directory");
        inspect_model(&r, path, QW_KIND_CHECKPOINT);
    } else {
        inspect_file(&r, path);
    }
    free(index);
    if (r.unknown && !r.error.status)
        say(&r, "note", "%" PRId64 " tensors are used by no net", r.unknown);
    if (error_text && error_size)
        snprintf(error_text, error_size, "%s", r.error.text);
    return r.error.status;
}
