/* models.c - the subcommand that lists the models, pieces and LoRAs that have a name. */
#include "find/find.h"
#include <stdlib.h>
#include <string.h>

typedef struct description {
    char kind[64], variant[32], dtype[32];
    int incomplete;
} description;

/* The type of most bytes of a file, or of a model directory's transformer. */
static void find_dtype(const model_entry *e, char *out, size_t size)
{
    struct {
        char name[32];
        uint64_t bytes;
    } sum[32] = { { "", 0 } };
    qwen_file *f = NULL;
    qwen_file_tensor t;
    size_t n = 0, most = 0;
    char *inside = !strcmp(e->folder, "diffusers") ? path_join(e->path, "transformer") : NULL;
    const int status = qwen_file_open(&f, inside ? inside : e->path);
    for (int64_t i = 0; !status && i < qwen_file_count(f); i++) {
        size_t k = 0;
        if (qwen_file_tensor_at(f, i, &t)) continue;
        while (k < n && strcmp(sum[k].name, t.dtype)) k++;
        if (k == n && n < sizeof sum / sizeof *sum)
            snprintf(sum[n++].name, sizeof sum->name, "%s", t.dtype);
        if (k < n) sum[k].bytes += t.bytes;
    }
    for (size_t k = 1; k < n; k++) most = sum[k].bytes > sum[most].bytes ? k : most;
    if (n) snprintf(out, size, "%s", sum[most].name);
    qwen_file_close(f);
    free(inside);
}

static void add_line(void *user, const char *key, const char *value)
{
    description *t = user;
    if (!strcmp(key, "kind") && !*t->kind) snprintf(t->kind, sizeof t->kind, "%s", value);
    else if (!strcmp(key, "variant") && !*t->variant)
        snprintf(t->variant, sizeof t->variant, "%s", value);
}

static void size_text(uint64_t bytes, char out[24])
{
    const char *const unit[] = { "B", "kB", "MB", "GB", "TB" };
    double x = (double)bytes;
    int k = 0;
    for (; x >= 999.5 && k < 4; k++) x /= 1000;
    snprintf(out, 24, x < 9.95 && k ? "%.1f %s" : "%.0f %s", x, unit[k]);
}

static int print_json(const catalog *c, const description *t)
{
    json_t *all = json_array();
    for (size_t i = 0; i < c->n; i++)
        json_array_append_new(all,
                              json_pack("{s:s,s:s,s:s,s:s,s:I,s:s,s:b}", "name", c->entry[i].name,
                                        "kind", t[i].kind, "variant", t[i].variant, "dtype",
                                        t[i].dtype, "bytes", (json_int_t)c->entry[i].bytes, "path",
                                        c->entry[i].path, "incomplete", t[i].incomplete));
    char *text = json_dumps(all, JSON_INDENT(2));
    json_decref(all);
    const int code = text ? write_stdout(text) : no_memory();
    if (text && !code) write_stdout("\n");
    free(text);
    return code;
}

/* Width in characters, not bytes. */
static int width_of(const char *s)
{
    int n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static void print_cell(const char *text, int width)
{
    printf("%s%*s", text, width - width_of(text) + 2, "");
}

static int print_table(const catalog *c, const description *t)
{
    static const char incomplete[] = ", incomplete";
    int name = 4, kind = 4;
    for (size_t i = 0; i < c->n; i++) {
        name = width_of(c->entry[i].name) > name ? width_of(c->entry[i].name) : name;
        const int k = width_of(t[i].kind) + (t[i].incomplete ? (int)strlen(incomplete) : 0);
        kind = k > kind ? k : kind;
    }
    print_cell("NAME", name);
    print_cell("KIND", kind);
    printf("VARIANT    DTYPE    SIZE     PATH\n");
    for (size_t i = 0; i < c->n; i++) {
        char size[24], what[96];
        size_text(c->entry[i].bytes, size);
        print_cell(c->entry[i].name, name);
        snprintf(what, sizeof what, "%s%s", t[i].kind, t[i].incomplete ? incomplete : "");
        print_cell(what, kind);
        printf("%-9s  %-7s  %-7s  %s\n", *t[i].variant ? t[i].variant : "-",
               *t[i].dtype ? t[i].dtype : "-", size, c->entry[i].path);
    }
    return flush_stdout();
}

static int print_names(const catalog *c)
{
    for (size_t i = 0; i < c->n; i++) printf("%s\n", c->entry[i].name);
    return flush_stdout();
}

/* Removes entries that an earlier place shadows, and those that --kind does not ask for. */
static void keep_asked(catalog *c, const char *kind)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n; i++) {
        model_entry *e = &c->entry[i];
        if (!e->shadowed && (!kind || entry_serves(e, kind, 1))) {
            c->entry[n++] = *e;
        } else {
            free(e->name);
            free(e->path);
        }
    }
    c->n = n;
}

/* Only models and transformers have a variant. */
static int has_variant(const char *kind)
{
    return !strcmp(kind, "transformer") || !strcmp(kind, "model directory")
           || !strcmp(kind, "all-in-one checkpoint");
}

static void describe(const model_entry *e, description *t)
{
    char error[8] = "";
    const int status = qwen_inspect(e->path, add_line, t, error, sizeof error);
    if (!*t->kind) snprintf(t->kind, sizeof t->kind, "%s", status ? "unreadable" : "unknown");
    if (!has_variant(t->kind)) *t->variant = 0;
    find_dtype(e, t->dtype, sizeof t->dtype);
    t->incomplete = e->incomplete || (!strcmp(e->folder, "diffusers") && status == QWEN_EIO);
}

int run_models(settings *s)
{
    catalog c = { 0 };
    description *t = NULL;
    if (s->words.n)
        return complain(CODE_USAGE, "models takes no argument, found \"%s\"", s->words.item[0]);
    int code = catalog_make(&c, s);
    if (!code) code = catalog_demo(&c, s);
    if (!code) keep_asked(&c, s->kind);
    if (!code && s->names) code = print_names(&c);
    else if (!code && !(t = calloc(c.n + 1, sizeof *t))) code = no_memory();
    else if (!code) {
        for (size_t i = 0; i < c.n; i++) describe(&c.entry[i], &t[i]);
        code = s->json ? print_json(&c, t) : print_table(&c, t);
    }
    free(t);
    catalog_free(&c);
    return code;
}
