/* models.c - the models that are found by name, and the subcommand that lists them.
 *
 * Places, in order: the folders of --models, those of $QWEN_MODELS (with colons between), ComfyUI
 * beside the working directory and in the home directory, the Hugging Face cache, the working
 * directory.  A ComfyUI folder is its base, with `models` in it, or that folder itself; an
 * extra_model_paths.yaml in the base adds directories.  The name of a file is its path below the
 * folder of its type; of a directory with model_index.json that directory's; in the cache org/name,
 * and org/name/file for single files.  Where two places have the same type and name, the first
 * holds. */
#include "cli.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yaml.h>

enum { MOST_ENTRIES = 100000, MOST_DEPTH = 8 };

static const struct { const char *directory, *type;
} folders[] = {
    { "unet", "diffusion_models" },
    { "diffusion_models", "diffusion_models" },
    { "text_encoders", "text_encoders" },
    { "clip", "text_encoders" },
    { "vae", "vae" },
    { "loras", "loras" },
    { "controlnet", "controlnet" },
    { "t2i_adapter", "controlnet" },
    { "model_patches", "model_patches" },
    { "checkpoints", "checkpoints" },
    { "diffusers", "diffusers" },
};
enum { FOLDERS = (int)(sizeof folders / sizeof *folders) };

static const char *type_named(const char *name)
{
    for (int i = 0; i < FOLDERS; i++)
        if (!strcmp(folders[i].directory, name))
            return folders[i].type;
    return NULL;
}

static int exists(const char *path)
{
    struct stat st;
    return !stat(path, &st);
}

static int is_model_file(const char *name)
{
    static const char *const extensions[] = { ".safetensors", ".sft", ".gguf" };
    const size_t n = strlen(name);
    for (size_t i = 0; i < sizeof extensions / sizeof *extensions; i++) {
        const size_t k = strlen(extensions[i]);
        if (n > k && !strcmp(name + n - k, extensions[i]))
            return 1;
    }
    return 0;
}

static int add(catalog *c, const char *name, const char *path, const char *type, uint64_t bytes)
{
    for (size_t i = 0; i < c->n; i++)
        if (!strcmp(c->entry[i].folder, type) && !strcmp(c->entry[i].name, name))
            return CODE_DONE;
    if (c->n >= MOST_ENTRIES)
        return CODE_DONE;
    if (!(c->n & (c->n - 1))) {         /* room for a power of two */
        model_entry *more = realloc(c->entry, (c->n ? 2 * c->n : 1) * sizeof *more);
        if (!more)
            return no_memory();
        c->entry = more;
    }
    model_entry *e = &c->entry[c->n];
    *e = (model_entry){ .name = format_text("%s", name),
                        .path = format_text("%s", path),
                        .folder = type,
                        .bytes = bytes };
    if (!e->name || !e->path) {
        free(e->name);
        free(e->path);
        return no_memory();
    }
    c->n++;
    return CODE_DONE;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void names_free(char **names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
}

/* The names in a directory, sorted, without those that begin with a dot.  A directory that cannot
 * be read is empty. */
static int read_names(const char *path, char ***out, size_t *n)
{
    DIR *d = opendir(path);
    char **names = NULL;
    int failed = 0;
    *n = 0;
    for (struct dirent *e; d && !failed && *n < MOST_ENTRIES && (e = readdir(d)); ) {
        if (e->d_name[0] == '.')
            continue;
        char **more = realloc(names, (*n + 1) * sizeof *more);
        if (more)
            names = more;
        failed = !more || !(names[*n] = format_text("%s", e->d_name));
        *n += !failed;
    }
    if (d)
        closedir(d);
    if (names)
        qsort(names, *n, sizeof *names, by_name);
    *out = names;
    if (!failed)
        return CODE_DONE;
    names_free(names, *n);
    *out = NULL;
    *n = 0;
    return no_memory();
}

static uint64_t tree_bytes(const char *path, int depth)
{
    char **names;
    size_t n;
    uint64_t bytes = 0;
    if (depth > MOST_DEPTH || read_names(path, &names, &n))
        return 0;
    for (size_t i = 0; i < n; i++) {
        struct stat st;
        char *inside = path_join(path, names[i]);
        if (inside && !stat(inside, &st))
            bytes += S_ISDIR(st.st_mode) ? tree_bytes(inside, depth + 1) : (uint64_t)st.st_size;
        free(inside);
    }
    names_free(names, n);
    return bytes;
}

/* A directory with a model_index.json: one entry.  *is: it was one. */
static int add_directory(catalog *c, const char *name, const char *path, int *is)
{
    char *index = path_join(path, "model_index.json");
    *is = index && exists(index);
    free(index);
    return *is ? add(c, name, path, "diffusers", tree_bytes(path, 0)) : CODE_DONE;
}

/* Files and model directories below path; names begin with `before`. */
static int scan(catalog *c, const char *path, const char *before, const char *type, int depth)
{
    char **names;
    size_t n;
    int code = read_names(path, &names, &n);
    for (size_t i = 0; i < n && !code; i++) {
        struct stat st;
        int is = 0;
        char *inside = path_join(path, names[i]), *name = format_text("%s%s", before, names[i]);
        char *deeper = format_text("%s%s/", before, names[i]);
        if (!inside || !name || !deeper)
            code = no_memory();
        else if (stat(inside, &st))
            ;
        else if (S_ISREG(st.st_mode) && is_model_file(names[i]))
            code = add(c, name, inside, type, (uint64_t)st.st_size);
        else if (S_ISDIR(st.st_mode) && !(code = add_directory(c, name, inside, &is)) && !is &&
                 depth > 0)
            code = scan(c, inside, deeper, type, depth - 1);
        free(inside);
        free(name);
        free(deeper);
    }
    names_free(names, n);
    return code;
}

/* --- ComfyUI ---------------------------------------------------------------------------------- */

static int scan_models_folder(catalog *c, const char *models)
{
    int code = CODE_DONE;
    for (int i = 0; i < FOLDERS && !code; i++) {
        char *path = path_join(models, folders[i].directory);
        code = path ? scan(c, path, "", folders[i].type, MOST_DEPTH) : no_memory();
        free(path);
    }
    return code;
}

/* "~" and "$NAME" or "${NAME}" at any place are replaced; malloc'ed, or NULL. */
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
            while ((at[n] == '_' || (at[n] >= '0' && at[n] <= '9') ||
                    (at[n] >= 'A' && at[n] <= 'Z') || (at[n] >= 'a' && at[n] <= 'z')) &&
                   n + 1 < sizeof name)
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

/* `path` below `base`, unless it is absolute. */
static char *below(const char *base, const char *path)
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

/* The directories of one type, a line each. */
static int scan_lines(catalog *c, const char *base, const char *lines, const char *type)
{
    int code = CODE_DONE;
    while (*lines && !code) {
        const int n = (int)strcspn(lines, "\n");
        char *line = format_text("%.*s", n, lines), *expanded = line ? expand(line) : NULL;
        char *path = expanded ? below(base, expanded) : NULL;
        if (!path)
            code = no_memory();
        else if (*expanded)
            code = scan(c, path, "", type, MOST_DEPTH);
        free(line);
        free(expanded);
        free(path);
        lines += n;
        lines += *lines == '\n';
    }
    return code;
}

/* One section: base_path, and directories by type. */
static int scan_section(catalog *c, yaml_document_t *doc, const yaml_node_t *section,
                        const char *beside)
{
    const char *base = scalar(member(doc, section, "base_path"));
    char *expanded = expand(base ? base : ""), *root = expanded ? below(beside, expanded) : NULL;
    int code = root ? CODE_DONE : no_memory();
    for (yaml_node_pair_t *p = section->data.mapping.pairs.start;
         !code && p < section->data.mapping.pairs.top; p++) {
        const char *key = scalar(yaml_document_get_node(doc, p->key));
        const char *lines = scalar(yaml_document_get_node(doc, p->value));
        const char *type = key ? type_named(key) : NULL;
        if (type && lines)
            code = scan_lines(c, root, lines, type);
    }
    free(expanded);
    free(root);
    return code;
}

static int is_default(yaml_document_t *doc, const yaml_node_t *section)
{
    const char *v = scalar(member(doc, section, "is_default"));
    return v && (!strcmp(v, "true") || !strcmp(v, "True") || !strcmp(v, "TRUE") ||
                 !strcmp(v, "yes") || !strcmp(v, "on"));
}

/* Sections of the wanted kind: with is_default before, the others after ComfyUI's own folders. */
static int scan_yaml(catalog *c, const settings *s, const char *base, int defaults)
{
    yaml_parser_t parser;
    yaml_document_t doc;
    int code = CODE_DONE;
    char *path = path_join(base, "extra_model_paths.yaml");
    FILE *f = path ? fopen(path, "rb") : NULL;
    if (!f || !yaml_parser_initialize(&parser)) {
        if (f)
            fclose(f);
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
            if (section && section->type == YAML_MAPPING_NODE &&
                is_default(&doc, section) == defaults)
                code = scan_section(c, &doc, section, base);
        }
        yaml_document_delete(&doc);
    } else if (defaults) {
        notice(s, "%s: line %lu: %s; the file is not used", path,
               (unsigned long)parser.problem_mark.line + 1,
               parser.problem ? parser.problem : "no YAML");
    }
    yaml_parser_delete(&parser);
    fclose(f);
    free(path);
    return code;
}

/* A ComfyUI folder: its base, or its models. */
static int scan_comfyui(catalog *c, const settings *s, const char *path)
{
    char *inside = path_join(path, "models"), *parent = path_join(path, "..");
    int code = inside && parent ? CODE_DONE : no_memory();
    const int is_base = !code && exists(inside);
    const char *base = is_base ? path : parent;
    if (!code)
        code = scan_yaml(c, s, base, 1);
    if (!code)
        code = scan_models_folder(c, is_base ? inside : path);
    if (!code)
        code = scan(c, is_base ? inside : path, "", "", 0);
    if (!code)
        code = scan_yaml(c, s, base, 0);
    free(inside);
    free(parent);
    return code;
}

/* --- the Hugging Face cache, and all of it ---------------------------------------------------- */

static int scan_snapshot(catalog *c, const char *id)
{
    char *path = NULL, *where = NULL, *before = format_text("%s/", id);
    int is = 0, code = before ? CODE_DONE : no_memory();
    if (!code && !find_id(id, &path, &where)) {
        code = add_directory(c, id, path, &is);
        if (!code && !is)
            code = scan(c, path, before, "", MOST_DEPTH);
    }
    free(path);
    free(where);
    free(before);
    return code;
}

static int scan_cache(catalog *c)
{
    char *root = find_cache(), **names = NULL;
    size_t n = 0;
    int code = root ? read_names(root, &names, &n) : no_memory();
    for (size_t i = 0; i < n && !code; i++) {
        const char *organisation = names[i] + strlen("models--");
        const char *middle = strncmp(names[i], "models--", 8) ? NULL : strstr(organisation, "--");
        if (!middle)
            continue;
        char *id = format_text("%.*s/%s", (int)(middle - organisation), organisation, middle + 2);
        code = id ? is_id(id) ? scan_snapshot(c, id) : CODE_DONE : no_memory();
        free(id);
    }
    names_free(names, n);
    free(root);
    return code;
}

static int scan_listed(catalog *c, const settings *s, const char *list)
{
    int code = CODE_DONE;
    while (list && *list && !code) {
        const int n = (int)strcspn(list, ":");
        char *path = format_text("%.*s", n, list);
        if (!path)
            code = no_memory();
        else if (*path)
            code = scan_comfyui(c, s, path);
        free(path);
        list += n;
        list += *list == ':';
    }
    return code;
}

int catalog_make(catalog *c, const settings *s)
{
    int code = CODE_DONE;
    memset(c, 0, sizeof *c);
    for (size_t i = 0; i < s->models.n && !code; i++) {
        if (!exists(s->models.item[i]))
            return complain(CODE_READ, "--models: %s: %s", s->models.item[i], strerror(errno));
        code = scan_comfyui(c, s, s->models.item[i]);
    }
    if (!code)
        code = scan_listed(c, s, getenv("QWEN_MODELS"));
    if (!code && exists("ComfyUI"))
        code = scan_comfyui(c, s, "ComfyUI");
    char *home = getenv("HOME") ? path_join(getenv("HOME"), "ComfyUI") : NULL;
    if (!code && home && exists(home))
        code = scan_comfyui(c, s, home);
    free(home);
    if (!code)
        code = scan_cache(c);
    if (!code)
        code = scan(c, ".", "", "", 0);
    return code;
}

void catalog_free(catalog *c)
{
    for (size_t i = 0; i < c->n; i++) {
        free(c->entry[i].name);
        free(c->entry[i].path);
    }
    free(c->entry);
    memset(c, 0, sizeof *c);
}

/* --- the subcommand --------------------------------------------------------------------------- */

typedef struct told { char kind[64], variant[32], dtype[32]; } told;

/* The type that most bytes of a file have, or of a model directory's transformer. */
static void find_dtype(const model_entry *e, char *out, size_t size)
{
    struct { char name[32]; uint64_t bytes; } sum[32] = { { "", 0 } };
    qwen_file *f = NULL;
    qwen_file_tensor t;
    size_t n = 0, most = 0;
    char *inside = !strcmp(e->folder, "diffusers") ? path_join(e->path, "transformer") : NULL;
    const int status = qwen_file_open(&f, inside ? inside : e->path);
    for (int64_t i = 0; !status && i < qwen_file_count(f); i++) {
        size_t k = 0;
        if (qwen_file_tensor_at(f, i, &t))
            continue;
        while (k < n && strcmp(sum[k].name, t.dtype))
            k++;
        if (k == n && n < sizeof sum / sizeof *sum)
            snprintf(sum[n++].name, sizeof sum->name, "%s", t.dtype);
        if (k < n)
            sum[k].bytes += t.bytes;
    }
    for (size_t k = 1; k < n; k++)
        most = sum[k].bytes > sum[most].bytes ? k : most;
    if (n)
        snprintf(out, size, "%s", sum[most].name);
    qwen_file_close(f);
    free(inside);
}

static void take_line(void *user, const char *key, const char *value)
{
    told *t = user;
    if (!strcmp(key, "kind") && !*t->kind)
        snprintf(t->kind, sizeof t->kind, "%s", value);
    else if (!strcmp(key, "variant") && !*t->variant)
        snprintf(t->variant, sizeof t->variant, "%s", value);
}

static void size_text(uint64_t bytes, char out[24])
{
    const char *const unit[] = { "B", "kB", "MB", "GB", "TB" };
    double x = (double)bytes;
    int k = 0;
    for (; x >= 999.5 && k < 4; k++)
        x /= 1000;
    snprintf(out, 24, x < 9.95 && k ? "%.1f %s" : "%.0f %s", x, unit[k]);
}

static int add_demo(catalog *c)
{
    char *path = find_demo();
    int is, code = path ? add_directory(c, "demo", path, &is) : no_memory();
    free(path);
    return code;
}

static int print_json(const catalog *c, const told *t)
{
    json_t *all = json_array();
    for (size_t i = 0; i < c->n; i++)
        json_array_append_new(all, json_pack("{s:s,s:s,s:s,s:s,s:I,s:s}", "name", c->entry[i].name,
                                             "kind", t[i].kind, "variant", t[i].variant, "dtype",
                                             t[i].dtype, "bytes", (json_int_t)c->entry[i].bytes,
                                             "path", c->entry[i].path));
    char *text = json_dumps(all, JSON_INDENT(2));
    json_decref(all);
    const int code = text ? write_stdout(text) : no_memory();
    if (text && !code)
        write_stdout("\n");
    free(text);
    return code;
}

/* Columns: width in characters, not bytes. */
static int width_of(const char *s)
{
    int n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static void print_cell(const char *text, int width)
{
    printf("%s%*s", text, width - width_of(text) + 2, "");
}

static int print_table(const catalog *c, const told *t)
{
    int name = 4, kind = 4;
    for (size_t i = 0; i < c->n; i++) {
        name = width_of(c->entry[i].name) > name ? width_of(c->entry[i].name) : name;
        kind = width_of(t[i].kind) > kind ? width_of(t[i].kind) : kind;
    }
    print_cell("NAME", name);
    print_cell("KIND", kind);
    printf("VARIANT    DTYPE    SIZE     PATH\n");
    for (size_t i = 0; i < c->n; i++) {
        char size[24];
        size_text(c->entry[i].bytes, size);
        print_cell(c->entry[i].name, name);
        print_cell(t[i].kind, kind);
        printf("%-9s  %-7s  %-7s  %s\n", t[i].variant, t[i].dtype, size, c->entry[i].path);
    }
    return flush_stdout();
}

static int print_names(const catalog *c)
{
    for (size_t i = 0; i < c->n; i++)
        printf("%s\n", c->entry[i].name);
    return flush_stdout();
}

int run_models(settings *s)
{
    catalog c = { 0 };
    told *t = NULL;
    if (s->words.n)
        return complain(CODE_USAGE, "models takes no argument, found \"%s\"", s->words.item[0]);
    int code = catalog_make(&c, s);
    if (!code)
        code = add_demo(&c);
    if (!code && s->names)
        code = print_names(&c);
    else if (!code && !(t = calloc(c.n + 1, sizeof *t)))
        code = no_memory();
    else if (!code) {
        for (size_t i = 0; i < c.n; i++) {
            char error[8] = "";
            const int status = qwen_inspect(c.entry[i].path, take_line, &t[i], error, sizeof error);
            if (!*t[i].kind)
                snprintf(t[i].kind, sizeof t[i].kind, "%s", status ? "unreadable" : "unknown");
            find_dtype(&c.entry[i], t[i].dtype, sizeof t[i].dtype);
        }
        code = s->json ? print_json(&c, t) : print_table(&c, t);
    }
    free(t);
    catalog_free(&c);
    return code;
}
