/* component.c - the files of one component of a model: found, opened, closed. */
#include "pipeline/model.h"
#include <stdlib.h>
#include <string.h>

char *qw_component_path(const char *directory, const char *name, qw_error *err)
{
    char *path = qw_path_join(directory, name);
    if (!path) {
        qw_fail(err, QWEN_ENOMEM, "no memory for a path");
        return NULL;
    }
    if (qw_is_file(path)) {
        char *target = NULL;
        qw_follow_link_file(path, &target, err);
        if (err->status) {
            free(path);
            return NULL;
        }
        if (target) {
            free(path);
            path = target;
        }
    }
    if (!qw_is_directory(path) && !qw_is_file(path)) {
        free(path);
        return NULL;
    }
    return path;
}

char *qw_config_beside(const char *path, qw_error *err)
{
    char *directory = qw_strdup(path);
    if (!directory) {
        qw_fail(err, QWEN_ENOMEM, "%s: no memory to look for its configuration", path);
        return NULL;
    }
    if (!qw_is_directory(path)) {
        char *slash = strrchr(directory, '/');
        if (slash) slash[slash == directory] = 0;
        else strcpy(directory, path[0] ? "." : "");
    }
    char *config = qw_component_path(directory, "config.json", err);
    free(directory);
    return config;
}

uint64_t qw_part_bytes(const qw_store *s, int tower)
{
    uint64_t bytes = 0;
    const qw_entry *e;
    for (int64_t i = 0; (e = qw_store_entry(s, i)); i++)
        if ((strncmp(e->name, "visual.", 7) == 0) == tower && strncmp(e->name, "lm_head.", 8))
            bytes += e->bytes;
    return bytes;
}

int qw_open_store(qw_component *c, qw_kind part, qw_kind *found, qw_error *err)
{
    qw_kind kind = QW_KIND_UNKNOWN;
    if (qw_store_new(&c->store, err) || qw_store_add(c->store, c->path, err)
        || qw_store_canonical(c->store, part, &kind, err))
        return err->status;
    const qw_entry *e;
    c->bytes = 0;
    for (int64_t i = 0; (e = qw_store_entry(c->store, i)); i++) c->bytes += e->bytes;
    if (found) *found = kind;
    return QWEN_OK;
}

int qw_component_files(qwen *q, qw_component *c, const char *piece, const char *directory,
                       const char *name, const char *whole)
{
    char *own = NULL, *shared = NULL;
    if (directory) own = qw_component_path(directory, name, &q->error);
    if (q->error.status) return q->error.status;
    if (own) shared = qw_config_beside(own, &q->error);
    const char *path = piece ? piece : own ? own : whole;
    if (path && !q->error.status) {
        c->path = qw_strdup(path);
        c->config = piece || !own ? qw_config_beside(path, &q->error) : NULL;
        if (!c->config) {
            c->config = shared;
            shared = NULL;
        }
        if (!c->path) qw_no_memory(q);
    }
    free(own);
    free(shared);
    return q->error.status;
}

int qw_load_json(const char *path, json_t **out, qw_error *err)
{
    *out = NULL;
    return path ? qw_json_file(path, out, err) : QWEN_OK;
}

void qw_close_component(qw_component *c)
{
    if (!c->borrowed) qw_store_free(c->store);
    free(c->path);
    free(c->config);
    memset(c, 0, sizeof *c);
}

int qw_require_net(qwen *q, qw_net n)
{
    /* name of the net, and the option that gives its files */
    static const char *const names[QW_NETS][2] = { { "text encoder", "text_encoder" },
                                                   { "vision tower", "vision" },
                                                   { "transformer", "transformer" },
                                                   { "VAE", "vae" },
                                                   { "ControlNet", "controlnet" } };
    const char *what = names[n][0], *option = names[n][1], *model = q->opt.model;
    const qw_error *why = n == QW_VISION    ? &q->files.no_vision
                          : n == QW_CONTROL ? &q->files.no_control
                                            : NULL;
    if (why && why->status) {
        q->error = *why;
        return q->error.status;
    }
    if (q->files.net[n].store) return QWEN_OK;
    if (n == QW_CONTROL)
        return qw_fail(&q->error, QWEN_EARG, "a control picture needs a ControlNet (controlnet)");
    if (n == QW_VISION && q->opt.text_encoder) model = q->opt.text_encoder;
    else if (model && q->files.whole && q->files.whole != QW_KIND_CHECKPOINT)
        return qw_fail(&q->error, QWEN_EMODEL,
                       "%s is %s %s: a %s is missing, and none was given (%s)", model,
                       qw_kind_article(q->files.whole), qw_kind_name(q->files.whole), what, option);
    if (!model)
        return qw_fail(&q->error, QWEN_EARG, "no %s: the model has none and none was given (%s)",
                       what, option);
    return qw_fail(&q->error, QWEN_EMODEL, "%s has no %s, and none was given (%s)", model, what,
                   option);
}
