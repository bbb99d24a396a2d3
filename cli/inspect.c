/* inspect.c - the subcommand that describes a file: a model, a LoRA, a dump, a picture. */
#include "find/find.h"
#include "media/media.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct line_list {
    json_t *all;
    const settings *s;
} line_list;

static int print_json(json_t *o)
{
    char *text = json_dumps(o, JSON_INDENT(2));
    if (!text) return no_memory();
    printf("%s\n", text);
    free(text);
    return flush_stdout();
}

/* --- models ----------------------------------------------------------------------------------- */

/* Keys that come once for each component are always a list; another key becomes one when it comes
 * again. */
static void add_line(void *user, const char *key, const char *value)
{
    line_list *l = user;
    json_t *text = json_string(value), *before = json_object_get(l->all, key);
    static const char *const lists[] = { "component", "tensors", "dtypes",  "parameters",
                                         "bytes",     "missing", "unknown", "wrong" };
    int list = 0;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) list |= !strcmp(key, lists[i]);
    if (!text) text = json_string("(not UTF-8)");
    if (!before) json_object_set_new(l->all, key, list ? json_pack("[o]", text) : text);
    else if (json_is_array(before)) json_array_append_new(before, text);
    else json_object_set_new(l->all, key, json_pack("[O,o]", before, text));
    if (!l->s->json) printf("%-14s %s\n", key, value);
}

static int inspect_model(const settings *s, const char *path)
{
    line_list l = { json_object(), s };
    char error[1024] = "";
    const int status = qwen_inspect(path, add_line, &l, error, sizeof error);
    int code = CODE_DONE;
    if (s->json) {
        if (*error) json_object_set_new(l.all, "error", json_string(error));
        code = print_json(l.all);
    } else {
        code = flush_stdout();
    }
    json_decref(l.all);
    return status ? complain(code_of(status), "%s", *error ? error : qwen_strerror(status)) : code;
}

/* --- pictures --------------------------------------------------------------------------------- */

static int inspect_picture(const settings *s, const char *path, const char *data, size_t bytes)
{
    static const char *const kinds[] = { "", "PNG", "JPEG", "WebP" };
    qwen_array a;
    const int kind = picture_kind(data, bytes);
    int code = picture_decode(s, path, data, bytes, &a);
    if (code) return code;
    char *recipe = kind == PICTURE_PNG ? png_recipe(data, bytes) : NULL;
    json_t *parsed = recipe ? json_loads(recipe, 0, NULL) : NULL;
    if (s->json) {
        json_t *o = json_pack("{s:s,s:s,s:I,s:I,s:I}", "kind", "picture", "format", kinds[kind],
                              "width", (json_int_t)a.dim[1], "height", (json_int_t)a.dim[0],
                              "channels", (json_int_t)a.dim[2]);
        if (parsed) json_object_set(o, "recipe", parsed);
        code = print_json(o);
        json_decref(o);
    } else {
        printf("%-14s picture\n%-14s %s\n%-14s %lldx%lld\n%-14s %lld\n", "kind", "format",
               kinds[kind], "size", (long long)a.dim[1], (long long)a.dim[0], "channels",
               (long long)a.dim[2]);
        const char *key;
        json_t *v;
        json_object_foreach(parsed, key, v)
        {
            char *text = json_is_string(v) ? format_text("%s", json_string_value(v))
                                           : json_dumps(v, JSON_ENCODE_ANY);
            printf("recipe         %s: %s\n", key, text ? text : "");
            free(text);
        }
        code = flush_stdout();
    }
    json_decref(parsed);
    free(recipe);
    qwen_array_free(&a);
    return code;
}

/* --- dumps ------------------------------------------------------------------------------------ */

/* A dump has a metadata "order", or tensors with names of stages. */
static int is_dump(const qwen_file *f)
{
    static const char *const names[] = { "text.ids", "text.embeds", "noise",    "sigmas",
                                         "image.u8", "image",       "latents.0" };
    qwen_file_tensor t;
    if (qwen_file_metadata(f, "order")) return 1;
    for (int64_t i = 0; i < qwen_file_count(f); i++)
        for (size_t k = 0; k < sizeof names / sizeof *names; k++)
            if (!qwen_file_tensor_at(f, i, &t) && !strcmp(t.name, names[k])) return 1;
    return 0;
}

typedef struct statistics {
    double least, most, mean, deviation;
    int64_t n, bad;
} statistics;

static statistics measure(const qwen_array *a)
{
    statistics s = { INFINITY, -INFINITY, 0, 0, array_count(a), 0 };
    int64_t good = 0;
    for (int64_t i = 0; i < s.n; i++) {
        const double x = array_at(a, i);
        if (!isfinite(x)) {
            s.bad++;
            continue;
        }
        const double before = s.mean; /* Welford 1962 */
        s.mean += (x - s.mean) / (double)++good;
        s.deviation += (x - s.mean) * (x - before);
        s.least = fmin(s.least, x);
        s.most = fmax(s.most, x);
    }
    s.deviation = good ? sqrt(s.deviation / (double)good) : 0;
    if (!good) s.least = s.most = 0;
    return s;
}

static int print_stage(const settings *s, json_t *all, const qwen_file_tensor *t,
                       const qwen_array *a)
{
    const statistics m = measure(a);
    char shape[160] = "";
    for (int i = 0; i < t->rank; i++) {
        const size_t at = strlen(shape);
        snprintf(shape + at, sizeof shape - at, "[%lld]", (long long)t->dim[i]);
    }
    if (!s->json) {
        printf("%-22s %-4s %-18s min %-11.5g max %-11.5g mean %-11.5g dev %-11.5g", t->name,
               t->dtype, shape, m.least, m.most, m.mean, m.deviation);
        printf(m.bad ? " %lld not finite\n" : "\n", (long long)m.bad);
        return ferror(stdout) ? flush_stdout() : CODE_DONE;
    }
    json_array_append_new(all, json_pack("{s:s,s:s,s:s,s:f,s:f,s:f,s:f,s:I}", "name", t->name,
                                         "dtype", t->dtype, "shape", shape, "min", m.least, "max",
                                         m.most, "mean", m.mean, "deviation", m.deviation,
                                         "not_finite", (json_int_t)m.bad));
    return CODE_DONE;
}

static int inspect_dump(const settings *s, qwen_file *f)
{
    json_t *all = json_array();
    const int64_t n = qwen_file_count(f);
    int code = CODE_DONE;
    if (!s->json) printf("%-14s dump\n%-14s %lld\n", "kind", "tensors", (long long)n);
    for (int64_t i = 0; i < n && !code; i++) {
        qwen_file_tensor t;
        qwen_array a = { 0 };
        if (qwen_file_tensor_at(f, i, &t)) continue;
        const int status = qwen_file_read(f, t.name, &a);
        code = status ? complain(code_of(status), "%s", qwen_file_error(f))
                      : print_stage(s, all, &t, &a);
        qwen_array_free(&a);
    }
    if (!code && s->json) {
        json_t *o = json_pack("{s:s,s:O}", "kind", "dump", "tensors", all);
        code = print_json(o);
        json_decref(o);
    }
    json_decref(all);
    return code ? code : flush_stdout();
}

/* --- any -------------------------------------------------------------------------------------- */

/* The path itself if it exists, else the path of that name. */
static int find_path(settings *s, char **path)
{
    found f;
    const char *name = s->words.item[0];
    *path = NULL;
    if (path_exists(name)) {
        *path = format_text("%s", name);
        return *path ? CODE_DONE : no_memory();
    }
    int code = strcmp(name, "demo") ? find_any(s, name, path) : CODE_DONE;
    if (code || (*path && (strcmp(*path, name) || !is_id(name)))) return code;
    free(*path);
    *path = NULL;
    s->model = name;
    code = find_model(s, &f);
    if (!code) {
        *path = f.model;
        f.model = NULL;
        found_free(&f);
    }
    return code;
}

static int inspect_path(const settings *s, const char *path)
{
    struct stat st;
    char head[16] = "", *data;
    size_t bytes = 0;
    if (stat(path, &st)) return complain(CODE_READ, "%s: %s", path, strerror(errno));
    if (S_ISREG(st.st_mode)) {
        FILE *f = fopen(path, "rb");
        if (!f) return complain(CODE_READ, "%s: %s", path, strerror(errno));
        bytes = fread(head, 1, sizeof head, f);
        fclose(f);
    }
    if (picture_kind(head, bytes) != PICTURE_NONE) {
        int code = read_file(path, 1 << 30, &data, &bytes);
        if (!code) code = inspect_picture(s, path, data, bytes);
        free(data);
        return code;
    }
    qwen_file *f = NULL;
    const int stages = S_ISREG(st.st_mode) && !qwen_file_open(&f, path) && is_dump(f);
    const int code = stages ? inspect_dump(s, f) : CODE_DONE;
    qwen_file_close(f);
    return stages ? code : inspect_model(s, path);
}

int run_inspect(settings *s)
{
    char *path;
    if (s->words.n != 1)
        return s->words.n
                   ? complain(CODE_USAGE, "inspect: expected one path, found a second, \"%s\"",
                              s->words.item[1])
                   : complain(CODE_USAGE, "inspect: expected a path, found none");
    int code = find_path(s, &path);
    if (!code) code = inspect_path(s, path);
    free(path);
    return code;
}
