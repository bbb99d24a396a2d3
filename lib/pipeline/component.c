/* component.c - the files of one component of a model: found, opened, closed. */
#include "pipeline/pipeline.h"
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

/* config.json in a component's directory, or beside its file; NULL if there is none. */
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

/* Bytes of the tower's tensors in a file that holds both, or of what is left for the language
 * model. */
uint64_t qw_part_bytes(const qw_store *s, int tower)
{
    uint64_t bytes = 0;
    const qw_entry *e;
    for (int64_t i = 0; (e = qw_store_entry(s, i)); i++)
        if ((strncmp(e->name, "visual.", 7) == 0) == tower && strncmp(e->name, "lm_head.", 8))
            bytes += e->bytes;
    return bytes;
}

int qw_open_store(qwen *q, qw_component *c, qw_kind part, qw_kind *found)
{
    qw_kind kind = QW_KIND_UNKNOWN;
    if (qw_store_new(&c->store, &q->error) || qw_store_add(c->store, c->path, &q->error)
        || qw_store_canonical(c->store, part, &kind, &q->error))
        return q->error.status;
    const qw_entry *e;
    c->bytes = 0;
    for (int64_t i = 0; (e = qw_store_entry(c->store, i)); i++) c->bytes += e->bytes;
    if (found) *found = kind;
    return QWEN_OK;
}

/* Takes piece, else <directory>/name, else whole (the single file of the model); none is no
 * failure. */
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

int qw_load_json(qwen *q, const char *path, json_t **out)
{
    *out = NULL;
    return path ? qw_json_file(path, out, &q->error) : QWEN_OK;
}

void qw_close_component(qw_component *c)
{
    if (!c->borrowed) qw_store_free(c->store);
    free(c->path);
    free(c->config);
    memset(c, 0, sizeof *c);
}
