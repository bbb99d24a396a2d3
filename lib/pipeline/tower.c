/* tower.c - the file that holds the vision tower: given, the text encoder's own, or an mmproj beside it. */
#include "pipeline/pipeline.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

/* The mmproj file beside a language GGUF: the one whose merger is as wide as the language model. */
static int find_mmproj(qwen *q)
{
    char *directory = qw_strdup(q->files.net[QW_TEXT].path);
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
        if (!out || out->rank < 1 || out->dim[0] != q->config.text.width) {
            qw_close_component(&c);
        } else if (q->files.net[QW_VISION].store) {
            qw_fail(&q->error, QWEN_EARG, "%s and %s both fit the text encoder: say which (vision)",
                    q->files.net[QW_VISION].path, c.path);
            qw_close_component(&c);
        } else {
            q->files.net[QW_VISION] = c;
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
    qw_component *c = &q->files.net[QW_VISION];
    if (q->opt.vision) {
        if (qw_component_files(q, c, q->opt.vision, NULL, NULL, NULL)) return q->error.status;
        if (!c->config && q->files.net[QW_TEXT].config
            && !(c->config = qw_strdup(q->files.net[QW_TEXT].config)))
            return qw_no_memory(q); /* beside the text encoder, or the model's */
        return qw_open_store(q, c, QW_KIND_VISION, NULL);
    }
    return QWEN_OK;
}

int qw_vision_store(qwen *q)
{
    qw_component *c = &q->files.net[QW_VISION];
    if (c->store) return QWEN_OK;
    if (q->files.net[QW_TEXT].store && qw_has_tower(q->files.net[QW_TEXT].store)) {
        c->store = q->files.net[QW_TEXT].store;
        c->borrowed = 1;
        c->bytes = qw_part_bytes(c->store, 1);
        c->config = qw_strdup(q->files.net[QW_TEXT].config);
        return !c->config && q->files.net[QW_TEXT].config ? qw_no_memory(q) : QWEN_OK;
    }
    return q->files.net[QW_TEXT].path && !qw_is_directory(q->files.net[QW_TEXT].path)
               ? find_mmproj(q)
               : QWEN_OK;
}
