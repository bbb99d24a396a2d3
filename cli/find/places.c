/* places.c - the places where models are searched: rules P1 to P5 of doc/names.md. */
#include "find/catalog.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yaml.h>

/* Searches a folder as one type, unless that was done already. */
static int walk_folder(walk *w, const char *path, const char *type)
{
    const int first = walk_first(w, path, type);
    return first < 0 ? CODE_MEMORY
           : first   ? walk_directory(w, path, "", type, MOST_DEPTH)
                     : CODE_DONE;
}

/* --- extra_model_paths.yaml ------------------------------------------------------------------- */

/* Replaces "~" at the beginning and "$NAME" or "${NAME}" anywhere; malloc'ed, or NULL. */
static char *expand(const char *text)
{
    char *out = format_text("%s", "");
    if (text[0] == '~' && (!text[1] || text[1] == '/') && getenv("HOME")) {
        free(out);
        out = format_text("%s", getenv("HOME"));
        text++;
    }
    while (*text && out) {
        char *longer, name[128] = "";
        size_t n = 0;
        if (text[0] == '$') {
            const int brace = text[1] == '{';
            const char *at = text + 1 + brace;
            while ((at[n] == '_' || (at[n] >= '0' && at[n] <= '9') || (at[n] >= 'A' && at[n] <= 'Z')
                    || (at[n] >= 'a' && at[n] <= 'z'))
                   && n + 1 < sizeof name)
                n++;
            memcpy(name, at, n);
            const char *value = n && (!brace || at[n] == '}') ? getenv(name) : NULL;
            n = value ? (size_t)(at + n + brace - text) : 1;
            longer = value ? format_text("%s%s", out, value) : format_text("%s$", out);
        } else {
            n = strcspn(text, "$");
            longer = format_text("%s%.*s", out, (int)n, text);
        }
        free(out);
        out = longer;
        text += n;
    }
    return out;
}

/* `path` below `base`, unless it is absolute; malloc'ed, or NULL. */
static char *join_below(const char *base, const char *path)
{
    return path[0] == '/' ? format_text("%s", path) : path_join(base, path);
}

static const yaml_node_t *member(yaml_document_t *doc, const yaml_node_t *map, const char *key)
{
    for (yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top;
         p++) {
        const yaml_node_t *k = yaml_document_get_node(doc, p->key);
        if (k && k->type == YAML_SCALAR_NODE && !strcmp((const char *)k->data.scalar.value, key))
            return yaml_document_get_node(doc, p->value);
    }
    return NULL;
}

static const char *scalar(const yaml_node_t *n)
{
    return n && n->type == YAML_SCALAR_NODE ? (const char *)n->data.scalar.value : NULL;
}

/* Searches the directories of one type, a line each. */
static int scan_lines(walk *w, const char *base, const char *lines, const char *type)
{
    int code = CODE_DONE;
    while (*lines && !code) {
        const int n = (int)strcspn(lines, "\n");
        char *line = format_text("%.*s", n, lines), *expanded = line ? expand(line) : NULL;
        char *path = expanded ? join_below(base, expanded) : NULL;
        if (!path) code = no_memory();
        else if (*expanded) code = walk_folder(w, path, type);
        free(line);
        free(expanded);
        free(path);
        lines += n;
        lines += *lines == '\n';
    }
    return code;
}

/* Searches one section: base_path, and directories by type. */
static int scan_section(walk *w, yaml_document_t *doc, const yaml_node_t *section,
                        const char *beside)
{
    const char *base = scalar(member(doc, section, "base_path"));
    char *expanded = expand(base ? base : ""),
         *root = expanded ? join_below(beside, expanded) : NULL;
    int code = root ? CODE_DONE : no_memory();
    for (yaml_node_pair_t *p = section->data.mapping.pairs.start;
         !code && p < section->data.mapping.pairs.top; p++) {
        const char *key = scalar(yaml_document_get_node(doc, p->key));
        const char *lines = scalar(yaml_document_get_node(doc, p->value));
        const char *type = key ? type_named(key) : NULL;
        if (type && lines) code = scan_lines(w, root, lines, type);
    }
    free(expanded);
    free(root);
    return code;
}

static int is_default(yaml_document_t *doc, const yaml_node_t *section)
{
    const char *v = scalar(member(doc, section, "is_default"));
    return v
           && (!strcmp(v, "true") || !strcmp(v, "True") || !strcmp(v, "TRUE") || !strcmp(v, "yes")
               || !strcmp(v, "on"));
}

/* Searches the sections with is_default (defaults 1), or the others. */
static int scan_yaml(walk *w, const char *base, int defaults)
{
    yaml_parser_t parser;
    yaml_document_t doc;
    int code = CODE_DONE;
    char *path = path_join(base, "extra_model_paths.yaml");
    FILE *f = path ? fopen(path, "rb") : NULL;
    if (!f || !yaml_parser_initialize(&parser)) {
        if (f) fclose(f);
        free(path);
        return CODE_DONE;
    }
    yaml_parser_set_input_file(&parser, f);
    if (yaml_parser_load(&parser, &doc)) {
        const yaml_node_t *top = yaml_document_get_root_node(&doc);
        for (yaml_node_pair_t *p =
                 top && top->type == YAML_MAPPING_NODE ? top->data.mapping.pairs.start : NULL;
             p && p < top->data.mapping.pairs.top && !code; p++) {
            const yaml_node_t *section = yaml_document_get_node(&doc, p->value);
            if (section && section->type == YAML_MAPPING_NODE
                && is_default(&doc, section) == defaults)
                code = scan_section(w, &doc, section, base);
        }
        yaml_document_delete(&doc);
    } else if (defaults) {
        notice(w->s, "%s: line %lu: %s; the file is not used", path,
               (unsigned long)parser.problem_mark.line + 1,
               parser.problem ? parser.problem : "no YAML");
    }
    yaml_parser_delete(&parser);
    fclose(f);
    free(path);
    return code;
}

/* --- ComfyUI ---------------------------------------------------------------------------------- */

static int scan_models_folder(walk *w, const char *models)
{
    const char *folder;
    int code = CODE_DONE;
    for (int i = 0; (folder = type_folder(i)) && !code; i++) {
        char *path = path_join(models, folder);
        code = path ? walk_folder(w, path, type_named(folder)) : no_memory();
        free(path);
    }
    return code ? code : walk_directory(w, models, "", "", 0);
}

/* Searches a ComfyUI folder: its base, or its models. */
static int scan_comfyui(walk *w, const char *path)
{
    char *inside = path_join(path, "models"), *parent = path_join(path, "..");
    const int is_base = inside && path_exists(inside);
    const char *base = is_base ? path : parent, *models = is_base ? inside : path;
    char *yaml = base ? path_join(base, "extra_model_paths.yaml") : NULL;
    int code = inside && yaml ? CODE_DONE : no_memory();
    w->place++;
    const int first = code ? 0 : walk_first(w, models, "models");
    const int read = code ? 0 : walk_first(w, yaml, "yaml");
    if (first < 0 || read < 0) code = CODE_MEMORY;
    if (!code && read) code = scan_yaml(w, base, 1);
    if (!code && first) code = scan_models_folder(w, models);
    if (!code && read) code = scan_yaml(w, base, 0);
    free(inside);
    free(parent);
    free(yaml);
    return code;
}

/* Nonzero: the directory has folders that only ComfyUI's models have. */
static int is_models_folder(const char *path)
{
    return directory_has(path, "diffusion_models") || directory_has(path, "text_encoders")
           || directory_has(path, "checkpoints");
}

static int is_comfyui(const char *path)
{
    char *models = path_join(path, "models");
    const int is = directory_has(path, "extra_model_paths.yaml")
                   || (models && is_models_folder(models)) || is_models_folder(path);
    free(models);
    return is;
}

static int scan_listed(walk *w, const char *list)
{
    int code = CODE_DONE;
    while (list && *list && !code) {
        const int n = (int)strcspn(list, ":");
        char *path = format_text("%.*s", n, list);
        if (!path) code = no_memory();
        else if (*path && path_exists(path)) code = scan_comfyui(w, path);
        free(path);
        list += n;
        list += *list == ':';
    }
    return code;
}

/* --- the Hugging Face cache ------------------------------------------------------------------- */

static int scan_snapshot(walk *w, const char *id)
{
    char *path = NULL, *where = NULL, *before = format_text("%s/", id);
    int is = 0, code = before ? CODE_DONE : no_memory();
    w->place++;
    if (!code && !find_id(id, &path, &where)) {
        code = walk_model(w, id, path, &is);
        if (!code && !is) code = walk_directory(w, path, before, "", MOST_DEPTH);
    }
    free(path);
    free(where);
    free(before);
    return code;
}

static int scan_cache(walk *w)
{
    listing l = { 0 };
    char *root = find_cache();
    int code = root ? listing_make(&l, root) : no_memory();
    for (size_t i = 0; i < l.n && !code; i++) {
        const char *organisation = l.name[i] + strlen("models--");
        const char *middle = strncmp(l.name[i], "models--", 8) ? NULL : strstr(organisation, "--");
        if (!middle) continue;
        char *id = format_text("%.*s/%s", (int)(middle - organisation), organisation, middle + 2);
        code = id ? is_id(id) ? scan_snapshot(w, id) : CODE_DONE : no_memory();
        free(id);
    }
    listing_free(&l);
    free(root);
    return code;
}

/* --- all of it -------------------------------------------------------------------------------- */

static int scan_all(walk *w)
{
    const settings *s = w->s;
    int code = CODE_DONE;
    for (size_t i = 0; i < s->models.n && !code; i++) {
        if (!path_exists(s->models.item[i]))
            return complain(CODE_READ, "--models: %s: %s", s->models.item[i], strerror(errno));
        code = scan_comfyui(w, s->models.item[i]);
    }
    if (!code) code = scan_listed(w, getenv("QWEN_MODELS"));
    if (!code && is_comfyui(".")) code = scan_comfyui(w, ".");
    if (!code && path_exists("ComfyUI")) code = scan_comfyui(w, "ComfyUI");
    char *home = getenv("HOME") ? path_join(getenv("HOME"), "ComfyUI") : NULL;
    if (!code && home && path_exists(home)) code = scan_comfyui(w, home);
    free(home);
    if (!code) code = scan_cache(w);
    w->place++;
    return code ? code : walk_directory(w, ".", "", "", 0);
}

int catalog_make(catalog *c, const settings *s)
{
    walk w = { .c = c, .s = s };
    memset(c, 0, sizeof *c);
    const int code = scan_all(&w);
    c->places = w.place;
    free(w.seen);
    return code;
}

int catalog_demo(catalog *c, const settings *s)
{
    walk w = { .c = c, .s = s, .place = ++c->places };
    char *path = find_demo();
    int is;
    const int code = path ? walk_model(&w, "demo", path, &is) : no_memory();
    free(path);
    return code;
}

/* --- what lies beside a file ------------------------------------------------------------------ */

/* Cuts off the last `/NAME` of a path; 0 when nothing is left. */
static int cut_last(char *path)
{
    char *slash = strrchr(path, '/');
    if (!slash || slash == path) return 0;
    *slash = 0;
    return 1;
}

/* Searches the ComfyUI folder or the model directory that holds a directory (*is 1), else the files
 * of the directory. */
static int scan_around(walk *w, const char *directory, int *is)
{
    char *at = format_text("%s", directory);
    int code = at ? CODE_DONE : no_memory();
    *is = 0;
    for (int up = 0; !code && !*is && up < 4; up++) {
        if (up && is_models_folder(at)) {
            code = scan_comfyui(w, at);
            *is = 1;
        } else if (up < 2) {
            code = walk_model(w, base_name(at), at, is);
        }
        if (!cut_last(at)) break;
    }
    if (!code && !*is) code = walk_directory(w, directory, "", "", 0);
    free(at);
    return code;
}

int catalog_beside(catalog *c, const settings *s, const char *path, int *place)
{
    struct stat st;
    *place = 0;
    if (stat(path, &st)) return CODE_DONE;
    for (size_t i = 0; i < c->n && !*place; i++)
        *place = strcmp(c->entry[i].path, path) ? 0 : c->entry[i].place;
    for (size_t i = 0; i < c->n && !*place; i++)
        *place = same_file(c->entry[i].path, path) ? c->entry[i].place : 0;
    if (*place) return CODE_DONE;
    walk w = { .c = c, .s = s, .place = c->places + 1 };
    const size_t before = c->n;
    int is = 0;
    char *directory = format_text("%s", path), *real;
    if (!directory) return no_memory();
    char *slash = strrchr(directory, '/');
    if (S_ISDIR(st.st_mode))
        ;
    else if (slash) slash[slash == directory] = 0;
    else strcpy(directory, ".");
    real = realpath(directory, NULL);
    const int code = real ? scan_around(&w, real, &is) : CODE_DONE;
    for (size_t i = before; i < c->n; i++)
        c->entry[i].place = w.place; /* scan_comfyui may have begun another place */
    c->places = w.place;
    *place = is ? w.place : 0;
    free(real);
    free(directory);
    free(w.seen);
    return code;
}
