/* find.c - from what the user calls a model, or a piece of one, to a path.
 *
 * A name is, in this order: a path that exists; "demo"; an id in the Hugging Face cache; a name
 * that `qwen-image models` lists (models.c).  A transformer alone gets the other pieces the same
 * way. */
#include "cli.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int exists(const char *path)
{
    struct stat st;
    return !stat(path, &st);
}

static int is_directory(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

/* --- the demo --------------------------------------------------------------------------------- */

/* Beside the program, when it has been moved or not been installed: malloc'ed, or NULL. */
static char *demo_beside(void)
{
    static const char *const places[] = { "../share/libqwen/demo", "../data/demo",
                                          "../../data/demo", "data/demo" };
    char self[4096];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0)
        return NULL;
    self[n] = 0;
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char *path = path_join(self, places[i]);
        char *real = path ? realpath(path, NULL) : NULL;
        free(path);
        if (real)
            return real;
    }
    return NULL;
}

char *find_demo(void)
{
    const char *set = getenv("QWEN_DATADIR");
    char *path = path_join(set && *set ? set : QWEN_DATADIR, "demo");
    if (!path || exists(path) || (set && *set))
        return path;
    char *beside = demo_beside();
    if (!beside)
        return path;
    free(path);
    return beside;
}

/* --- the Hugging Face cache ------------------------------------------------------------------- */

char *find_cache(void)
{
    const char *hub = getenv("HF_HUB_CACHE"), *home = getenv("HF_HOME"),
               *xdg = getenv("XDG_CACHE_HOME");
    const char *user = getenv("HOME");
    if (hub && *hub)
        return format_text("%s", hub);
    if (home && *home)
        return path_join(home, "hub");
    if (xdg && *xdg)
        return path_join(xdg, "huggingface/hub");
    return path_join(user && *user ? user : ".", ".cache/huggingface/hub");
}

/* "org/name" or "org/name@revision", in the letters that such ids have. */
int is_id(const char *name)
{
    const char *slash = strchr(name, '/'), *at = strchr(name, '@');
    const size_t n = at ? (size_t)(at - name) : strlen(name);
    if (!slash || slash == name || (at && at < slash) || (at && !at[1]) || name[0] == '.')
        return 0;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("-_./", name[i]))
            return 0;
    return slash + 1 < name + n && !memchr(slash + 1, '/', n - (size_t)(slash + 1 - name));
}

/* The first line of a small file, without white space at its end; malloc'ed, or NULL. */
static char *first_line(const char *path)
{
    char line[256] = "";
    FILE *f = fopen(path, "r");
    const int got = f && fgets(line, sizeof line, f);
    if (f)
        fclose(f);
    line[strcspn(line, " \t\r\n")] = 0;
    return got && *line && !strchr(line, '/') && line[0] != '.' ? format_text("%s", line) : NULL;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* A snapshot with a model_index.json, else any: the first by name, for want of refs/main. */
static char *any_snapshot(const char *snapshots)
{
    DIR *d = opendir(snapshots);
    char *best = NULL;
    int best_whole = 0;
    for (struct dirent *e; d && (e = readdir(d)); ) {
        char *path = e->d_name[0] == '.' ? NULL : path_join(snapshots, e->d_name);
        char *index = path ? path_join(path, "model_index.json") : NULL;
        const int whole = index && exists(index);
        free(index);
        if (path && is_directory(path) && (!best || whole > best_whole ||
                                           (whole == best_whole && by_name(&path, &best) < 0))) {
            free(best);
            best = path;
            best_whole = whole;
        } else {
            free(path);
        }
    }
    if (d)
        closedir(d);
    return best;
}

static int not_there(char **where, char *what)
{
    *where = what;
    return -1;
}

int find_id(const char *id, char **path, char **where)
{
    const char *slash = strchr(id, '/'), *at = strchr(id, '@');
    const char *revision = at ? at + 1 : "main";
    const int name = (int)(at ? at - slash - 1 : (int)strlen(slash + 1));
    char *root = find_cache();
    char *folder =
        root ? format_text("%s/models--%.*s--%.*s", root, (int)(slash - id), id, name, slash + 1)
             : NULL;
    char *snapshots = folder ? path_join(folder, "snapshots") : NULL;
    char *ref = folder ? format_text("%s/refs/%s", folder, revision) : NULL;
    char *commit = ref ? first_line(ref) : NULL;
    int result = -1;
    *path = *where = NULL;
    if (!ref || !snapshots)
        ;
    else if (!is_directory(folder))
        not_there(where, format_text("%s is no directory", folder));
    else if (!commit && at) {           /* the revision itself may be the commit */
        *path = strchr(revision, '/') ? NULL : path_join(snapshots, revision);
        if (!*path || !is_directory(*path))
            not_there(where, format_text("%s has neither refs/%s nor snapshots/%s", folder,
                                         revision, revision));
    } else if (!commit) {
        *path = exists(ref) ? NULL : any_snapshot(snapshots);
        if (!*path)
            not_there(where, format_text(exists(ref) ? "%s holds no commit"
                                                     : "%s is missing, and there is no snapshot",
                                         ref));
    } else {
        *path = path_join(snapshots, commit);
        if (*path && !is_directory(*path))
            not_there(where,
                      format_text("%s names %s, but %s is no directory", ref, commit, *path));
    }
    if (*path && !*where)
        result = 0;
    if (result) {
        free(*path);
        *path = NULL;
    }
    free(root);
    free(folder);
    free(snapshots);
    free(ref);
    free(commit);
    return result;
}

/* --- a name ----------------------------------------------------------------------------------- */

static const char *const model_folders[] = { "diffusers", "diffusion_models", "checkpoints", "",
                                             NULL };
static const char *const transformer_folders[] = { "diffusion_models", "checkpoints", "", NULL };
static const char *const text_folders[] = { "text_encoders", "checkpoints", "", NULL };
static const char *const vae_folders[] = { "vae", "checkpoints", "", NULL };
static const char *const control_folders[] = { "controlnet", "model_patches", "", NULL };
static const char *const lora_folders[] = { "loras", "", NULL };
static const char *const tokenizer_folders[] = { "diffusers", NULL };

static int in_folders(const model_entry *e, const char *const *folders)
{
    for (; *folders; folders++)
        if (!strcmp(e->folder, *folders))
            return 1;
    return 0;
}

/* The length of a name without the extension of a model file. */
static size_t stem(const char *name)
{
    static const char *const extensions[] = { ".safetensors", ".sft", ".gguf" };
    const size_t n = strlen(name);
    for (size_t i = 0; i < sizeof extensions / sizeof *extensions; i++) {
        const size_t k = strlen(extensions[i]);
        if (n > k && !strcmp(name + n - k, extensions[i]))
            return n - k;
    }
    return n;
}

/* How well an entry answers to a name: 3 the whole name, 2 without extension, 1 its last part, 0
 * not. */
static int answers(const model_entry *e, const char *name)
{
    const size_t n = strlen(name), whole = stem(e->name);
    const char *last = base_name(e->name);
    if (!strcmp(e->name, name))
        return 3;
    if (n == whole && !strncmp(e->name, name, n))
        return 2;
    const size_t part = stem(last);
    return !strcmp(last, name) || (n == part && !strncmp(last, name, n)) ? 1 : 0;
}

/* The entry that `name` means: the best answer, of which only the first place with the very same
 * name counts. NULL with *code 0: none; NULL with *code: ambiguous, and said. */
static const model_entry *pick(const catalog *c, const char *option, const char *name,
                               const char *const *folders, int *code)
{
    const model_entry *best = NULL, *other = NULL;
    int rank = 0;
    *code = CODE_DONE;
    for (size_t i = 0; i < c->n; i++) {
        const model_entry *e = &c->entry[i];
        const int r = in_folders(e, folders) ? answers(e, name) : 0;
        if (r > rank) {
            best = e;
            other = NULL;
            rank = r;
        } else if (r && r == rank && strcmp(e->name, best->name) && !other) {
            other = e;
        }
    }
    if (!other)
        return best;
    *code = complain(
        CODE_USAGE,
        "--%s: \"%s\" is ambiguous: %s (%s) and %s (%s) are meant by it; give the whole name",
        option, name, best->name, best->path, other->name, other->path);
    return NULL;
}

static int missing(const catalog *c, const char *option, const char *name,
                   const char *const *folders, const char *where)
{
    const size_t last = strlen(name);
    const char **names = malloc((c->n + 1) * sizeof *names);
    size_t n = 0;
    for (size_t i = 0; names && i < c->n; i++)
        if (in_folders(&c->entry[i], folders))
            names[n++] = c->entry[i].name;
    const char *near = names ? near_miss(name, names, n) : NULL;
    const int file =
        name[0] == '/' || name[0] == '.' || (last && name[last - 1] == '/') || stem(name) < last;
    int code;
    if (near)
        code =
            complain(CODE_READ, "--%s: there is no \"%s\"; did you mean %s?", option, name, near);
    else if (where)
        code = complain(
            CODE_READ,
            "--%s: %s is not in the Hugging Face cache: %s; huggingface-cli download %.*s%s%s "
            "fetches it",
            option, name, where, (int)strcspn(name, "@"), name,
            strchr(name, '@') ? " --revision " : "",
            strchr(name, '@') ? strchr(name, '@') + 1 : "");
    else if (file)
        code = complain(CODE_READ, "--%s: %s: %s", option, name, strerror(ENOENT));
    else
        code = complain(
            CODE_READ,
            "--%s: \"%s\" is no file or directory, and no name that qwen-image models lists",
            option, name);
    free(names);
    return code;
}

static int copy_path(char **path, const char *from)
{
    *path = format_text("%s", from);
    return *path ? CODE_DONE : no_memory();
}

/* The catalog is made when a name needs it. */
typedef struct finder { const settings *s; catalog c; int made; } finder;

static int need_catalog(finder *f)
{
    if (f->made)
        return CODE_DONE;
    f->made = 1;
    return catalog_make(&f->c, f->s);
}

static int find_name(finder *f, const char *option, const char *name, const char *const *folders,
                     char **path)
{
    char *where = NULL;
    *path = NULL;
    if (!*name)
        return complain(CODE_USAGE, "--%s: expected a path or a name, found \"\"", option);
    if (exists(name))
        return copy_path(path, name);
    if (!strcmp(name, "demo") && (*path = find_demo()) && exists(*path))
        return CODE_DONE;
    free(*path);
    *path = NULL;
    if (is_id(name) && !find_id(name, path, &where))
        return CODE_DONE;
    int code = need_catalog(f);
    const model_entry *e = code ? NULL : pick(&f->c, option, name, folders, &code);
    if (e)
        code = copy_path(path, e->path);
    else if (!code)
        code = missing(&f->c, option, name, folders, where);
    free(where);
    return code;
}

/* --- the pieces of a transformer -------------------------------------------------------------- */

typedef struct contents {               /* what the names of a file's tensors say */
    int     transformer, text, vae;
    int64_t text_width;                 /* of the transformer's input, or of the encoder */
} contents;

static int ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

static int look_inside(const char *path, contents *c)
{
    qwen_file *f = NULL;
    qwen_file_tensor t;
    memset(c, 0, sizeof *c);
    const int status = qwen_file_open(&f, path);
    for (int64_t i = 0; !status && i < qwen_file_count(f); i++) {
        if (qwen_file_tensor_at(f, i, &t))
            continue;
        if (ends_with(t.name, "txt_norm.weight") && t.rank == 1) {
            c->transformer = 1;
            c->text_width = t.dim[0];
        } else if ((ends_with(t.name, "embed_tokens.weight") ||
                    !strcmp(t.name, "token_embd.weight")) &&
                   t.rank == 2) {
            c->text = 1;
            if (!c->text_width)
                c->text_width = t.dim[1];
        } else if (ends_with(t.name, "decoder.conv1.weight") ||
                   ends_with(t.name, "decoder.conv_in.weight")) {
            c->vae = 1;
        }
    }
    qwen_file_close(f);
    return status;
}

static int find_piece(finder *f, const char *what, const char *option, const char *folder,
                      int64_t width, char **path)
{
    const model_entry *first = NULL;
    size_t others = 0;
    int code = need_catalog(f);
    for (size_t i = 0; !code && i < f->c.n; i++) {
        const model_entry *e = &f->c.entry[i];
        contents c;
        if (strcmp(e->folder, folder) || look_inside(e->path, &c) ||
            (width && (!c.text || c.text_width != width)) || (!width && !c.vae))
            continue;
        others += first != NULL;
        first = first ? first : e;
    }
    if (!code && !first)
        notice(f->s, "%s: none in the file, and none was found that fits; --%s PATH gives one",
               what, option);
    if (code || !first)
        return code;
    code = copy_path(path, first->path);
    if (!code)
        notice(f->s, "%s: %s (%s)%s%s", what, first->name, first->path,
               others ? "; others fit too, choose with --" : "", others ? option : "");
    return code;
}

/* The published tokenizer: that of a directory that was found, else the one that came with this
 * program. */
static int find_tokenizer(finder *f, char **path)
{
    char *demo = find_demo(), *own = demo ? path_join(demo, "tokenizer") : NULL;
    free(demo);
    if (own && is_directory(own)) {
        notice(f->s, "tokenizer: the published one, that came with this program");
        *path = own;
    } else {
        free(own);
    }
    return CODE_DONE;
}

/* What a single file leaves out. */
static int find_pieces(finder *f, found *out)
{
    const char *file = out->transformer ? out->transformer : out->model;
    contents c;
    int code = CODE_DONE;
    if (!file || is_directory(file) || (out->model && is_directory(out->model)) ||
        look_inside(file, &c) || !c.transformer)
        return code;
    if (!c.text && !out->text_encoder && !f->s->embeds)
        code = find_piece(f, "text encoder", "text-encoder", "text_encoders", c.text_width,
                          &out->text_encoder);
    if (!code && !c.vae && !out->vae)
        code = find_piece(f, "VAE", "vae", "vae", 0, &out->vae);
    if (!code && !out->tokenizer)
        code = find_tokenizer(f, &out->tokenizer);
    return code;
}

/* --- the model -------------------------------------------------------------------------------- */

/* A tokenizer may be named by the model directory that holds it. */
static int tokenizer_inside(char **path)
{
    char *inside = path_join(*path, "tokenizer");
    if (!inside)
        return no_memory();
    if (is_directory(inside)) {
        free(*path);
        *path = inside;
    } else {
        free(inside);
    }
    return CODE_DONE;
}

static int find_default(finder *f, found *out)
{
    const char *set = getenv("QWEN_MODEL");
    if (set && *set) {
        out->label = format_text("%s", is_id(set) ? set : base_name(set));
        return find_name(f, "model", set, model_folders, &out->model);
    }
    if (f->s->transformer)
        return CODE_DONE;
    out->model = find_demo();
    out->label = format_text("demo");
    out->demo = 1;
    if (!out->model || !out->label)
        return no_memory();
    if (!exists(out->model))
        return complain(CODE_READ,
                        "no model was named (--model or $QWEN_MODEL), and the demo is not in %s",
                        out->model);
    notice(f->s, "Using the demo checkpoint, which knows simple shapes only; for a real model: "
                 "--model PATH, or "
                 "huggingface-cli download Qwen/Qwen-Image and --model Qwen/Qwen-Image");
    return CODE_DONE;
}

/* "dir/Qwen-Image/" is called Qwen-Image, an id is called by itself. */
static char *label_of(const char *name)
{
    size_t n = strlen(name);
    while (n > 1 && name[n - 1] == '/')
        n--;
    char *trimmed = format_text("%.*s", (int)n, name);
    char *label =
        trimmed
            ? format_text("%s", is_id(trimmed) && !exists(trimmed) ? trimmed : base_name(trimmed))
            : NULL;
    free(trimmed);
    return label;
}

int find_model(const settings *s, found *out)
{
    finder f = { .s = s };
    memset(out, 0, sizeof *out);
    int code;
    if (s->model) {
        out->label = label_of(s->model);
        code =
            out->label ? find_name(&f, "model", s->model, model_folders, &out->model) : no_memory();
    } else {
        code = find_default(&f, out);
    }
    const struct {
        const char *option, *name;
        const char *const *folders;
        char **path;
    } pieces[] = {
        { "transformer", s->transformer, transformer_folders, &out->transformer },
        { "text-encoder", s->text_encoder, text_folders, &out->text_encoder },
        { "vision", s->vision, text_folders, &out->vision },
        { "vae", s->vae, vae_folders, &out->vae },
        { "controlnet", s->controlnet, control_folders, &out->controlnet },
        { "tokenizer", s->tokenizer, tokenizer_folders, &out->tokenizer },
    };
    for (size_t i = 0; !code && i < sizeof pieces / sizeof *pieces; i++)
        if (pieces[i].name)
            code =
                find_name(&f, pieces[i].option, pieces[i].name, pieces[i].folders, pieces[i].path);
    if (!code && out->tokenizer)
        code = tokenizer_inside(&out->tokenizer);
    if (!code)
        code = find_pieces(&f, out);
    catalog_free(&f.c);
    if (code)
        found_free(out);
    return code;
}

int find_lora(const settings *s, const char *name, char **path)
{
    finder f = { .s = s };
    const int code = find_name(&f, "lora", name, lora_folders, path);
    catalog_free(&f.c);
    return code;
}

void found_free(found *f)
{
    free(f->model);
    free(f->transformer);
    free(f->text_encoder);
    free(f->vision);
    free(f->vae);
    free(f->controlnet);
    free(f->tokenizer);
    free(f->label);
    memset(f, 0, sizeof *f);
}
