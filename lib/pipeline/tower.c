/* tower.c - finds the vision tower's file: given, the text encoder's own, or an mmproj beside
 * it. */
#include "pipeline/model.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

/* The mmproj file beside a language GGUF: the one whose merger is as wide as the language model. */
static int find_mmproj(qwen *q, qw_component *tower, qw_error *err)
{
    char *directory = qw_strdup(q->files.net[QW_TEXT].path);
    if (!directory) return qw_fail(err, QWEN_ENOMEM, "no memory to open the model");
    char *slash = strrchr(directory, '/');
    if (slash) slash[slash == directory] = 0;
    DIR *d = opendir(slash ? directory : ".");
    struct dirent *e;
    while (d && !err->status && (e = readdir(d))) {
        if (!qw_name_has(e->d_name, "mmproj") || !qw_name_has(e->d_name, ".gguf")) continue;
        qw_component c = { .path = qw_path_join(slash ? directory : ".", e->d_name) };
        qw_error unfit = { 0 };
        const qw_entry *out = NULL;
        if (c.path && !qw_open_store(&c, QW_KIND_VISION, NULL, &unfit))
            out = qw_store_find(c.store, "visual.merger.mlp.2.weight");
        if (!c.path || unfit.status == QWEN_ENOMEM)
            qw_fail(err, QWEN_ENOMEM, "no memory to open the model");
        if (!out || out->rank < 1 || out->dim[0] != q->config.text.width) {
            qw_close_component(&c);
        } else if (tower->store) {
            qw_fail(err, QWEN_EARG, "%s and %s both fit the text encoder: say which (vision)",
                    tower->path, c.path);
            qw_close_component(&c);
        } else {
            *tower = c;
        }
    }
    if (d) closedir(d);
    free(directory);
    return err->status;
}

/* Looks for any tensor of a tower; loading reports those that are missing. */
int qw_has_tower(const qw_store *s)
{
    const qw_entry *e;
    for (int64_t i = 0; (e = qw_store_entry(s, i)); i++)
        if (!strncmp(e->name, "visual.", 7)) return 1;
    return 0;
}

/* Opens options.vision; without a config.json beside it, it has the text encoder's. */
static int open_given(qwen *q)
{
    qw_component *c = &q->files.net[QW_VISION];
    const char *shared = q->files.net[QW_TEXT].config;
    if (qw_component_files(q, c, q->opt.vision, NULL, NULL, NULL)) return q->error.status;
    if (!c->config && shared && !(c->config = qw_strdup(shared))) return qw_no_memory(q);
    return qw_open_store(c, QW_KIND_VISION, NULL, &q->error);
}

static int find_tower(qwen *q, qw_error *err)
{
    qw_component *c = &q->files.net[QW_VISION];
    const qw_component *text = &q->files.net[QW_TEXT];
    if (c->store) return QWEN_OK;
    if (text->store && qw_has_tower(text->store)) {
        c->store = text->store;
        c->borrowed = 1;
        c->bytes = qw_part_bytes(c->store, 1);
        c->config = qw_strdup(text->config);
        return !c->config && text->config ? qw_fail(err, QWEN_ENOMEM, "no memory to open the model")
                                          : QWEN_OK;
    }
    return text->path && !qw_is_directory(text->path) ? find_mmproj(q, c, err) : QWEN_OK;
}

static int configure(qwen *q, qw_error *err)
{
    const qw_component *c = &q->files.net[QW_VISION];
    json_t *json = NULL, *processor = NULL;
    if (!qw_load_json(c->config, &json, err)
        && !qw_load_json(q->files.processor_path, &processor, err))
        qw_vision_configure(&q->config.vision, json, processor, c->store,
                            c->config ? c->config : "vision tower", err);
    json_decref(json);
    json_decref(processor);
    if (err->status) memset(&q->config.vision, 0, sizeof q->config.vision);
    return err->status;
}

int qw_open_tower(qwen *q)
{
    qw_error *err = &q->files.no_vision;
    if (q->opt.vision && open_given(q)) return q->error.status;
    if (!find_tower(q, err) && q->files.net[QW_VISION].store) configure(q, err);
    if (err->status != QWEN_ENOMEM) return QWEN_OK;
    q->error = *err;
    return q->error.status;
}
