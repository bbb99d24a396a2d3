/* find.c - the path of a model, of its pieces and of LoRAs, from the names that the user gave.
 *
 * doc/names.md has the rules.  A name is, in this order: a path that exists; "demo"; an id in the
 * Hugging Face cache; a name that `qwen-image models` lists (places.c), compared by match.c.  A
 * transformer alone gets the other pieces from the same list, by their tensors (pieces.c). */
#include "find/catalog.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- a name ----------------------------------------------------------------------------------- */

/* The entries that answer best to a name, among those an option can have. */
typedef struct choice {
    const model_entry *best;
    answer answer; /* of the best */
    char *all;     /* names of the entries that answer as well, with commas */
    int n, models; /* number of these; of different models among them */
} choice;

static void choice_free(choice *c)
{
    free(c->answer.model);
    free(c->all);
    *c = (choice){ 0 };
}

static int choice_add(choice *c, const model_entry *e)
{
    char *all = c->all ? format_text("%s, %s", c->all, e->name) : format_text("%s", e->name);
    free(c->all);
    c->all = all;
    c->n++;
    return all ? CODE_DONE : no_memory();
}

/* Nonzero if b, which answers as well as a, is another model: under ANSWER_ALIKE and better if the
 * names differ, below if the names without precision differ. */
static int differs(const model_entry *a, const answer *x, const model_entry *b, const answer *y)
{
    if (x->grade >= ANSWER_ALIKE) return strcmp(a->name, b->name) != 0;
    return !x->model || !y->model || strcmp(x->model, y->model);
}

/* Offers an entry with its answer to the choice, which keeps the best; a.model is freed or kept. */
static int choice_offer(choice *c, const model_entry *e, answer a)
{
    if (a.grade < c->answer.grade || !a.grade) {
        free(a.model);
        return CODE_DONE;
    }
    if (a.grade > c->answer.grade) choice_free(c);
    const int first = !c->best, other = !first && differs(c->best, &c->answer, e, &a);
    c->models += first || other;
    if (first || (!other && a.grade < ANSWER_ALIKE && a.precision < c->answer.precision)) {
        free(c->answer.model);
        c->answer = a;
        c->best = e;
    } else {
        free(a.model);
    }
    return choice_add(c, e);
}

/* The best answers to a name.  option FILE_OPTIONS: among all entries. */
static int choose(const catalog *c, int option, const char *name, choice *out)
{
    int code = CODE_DONE;
    *out = (choice){ 0 };
    for (size_t i = 0; i < c->n && !code; i++) {
        const model_entry *e = &c->entry[i];
        answer a = { 0 };
        if (e->shadowed) continue;
        code = name_answers(e->name, name, &a);
        const int barred = a.other && option != LORA && option != CONTROLNET;
        if (code || barred || a.grade < out->answer.grade || !a.grade
            || (option != FILE_OPTIONS && !entry_serves(e, file_options[option].option, 0)))
            free(a.model);
        else code = choice_offer(out, e, a);
    }
    if (code) choice_free(out);
    return code;
}

/* Up to five names that are near, nearest first; malloc'ed, NULL if there are none.  ids: only
 * ids. */
static char *near_names(const catalog *c, int option, const char *name, int ids)
{
    enum { MOST = 5 };
    const model_entry *near[MOST + 1];
    int far[MOST + 1], n = 0;
    char *list = NULL;
    for (size_t i = 0; i < c->n; i++) {
        const model_entry *e = &c->entry[i];
        answer a = { 0 };
        if (e->shadowed || (ids && !is_id(e->name))) continue;
        if (name_answers(e->name, name, &a)) { /* no memory: no suggestion */
            free(a.model);
            break;
        }
        const int d = a.grade ? a.other ? 5 : 0 : name_distance(e->name, name);
        free(a.model);
        if (d >= 1000 || !entry_serves(e, file_options[option].option, 0)) continue;
        int at = n < MOST ? n++ : MOST;
        for (; at && far[at - 1] > d; at--) {
            far[at] = far[at - 1];
            near[at] = near[at - 1];
        }
        far[at] = d;
        near[at] = e;
    }
    for (int i = 0; i < n; i++) {
        char *more = list ? format_text("%s%s%s", list, i == n - 1 ? " or " : ", ", near[i]->name)
                          : format_text("%s", near[i]->name);
        free(list);
        list = more;
    }
    return list;
}

/* Complains if the name is listed as something else than the option takes; else CODE_DONE. */
static int complain_other_kind(const catalog *c, int option, const char *name)
{
    choice all;
    int code = choose(c, FILE_OPTIONS, name, &all);
    if (!code && all.best && all.answer.grade > ANSWER_BEGINS) {
        const int kind = entry_kind(all.best);
        if (kind < FILE_OPTIONS && kind != option)
            code = complain(CODE_MALFORMED, "--%s: %s (%s) is a %s, not a %s%s; --%s takes it",
                            file_options[option].option, all.best->name, all.best->path,
                            file_options[kind].what, file_options[option].what,
                            option == MODEL ? " that draws" : "", file_options[kind].option);
    }
    choice_free(&all);
    return code;
}

/* Complains that no entry answers to the name, with near names if there are any. */
static int complain_missing(const catalog *c, int option, const char *name, const char *where)
{
    const char *o = file_options[option].option;
    const size_t last = strlen(name);
    const int file = name[0] == '/' || name[0] == '.' || (last && name[last - 1] == '/')
                     || is_model_file(name);
    int code = complain_other_kind(c, option, name);
    if (code) return code;
    char *near = near_names(c, option, name, where != NULL);
    if (near)
        code = complain(CODE_READ, "--%s: there is no \"%s\"; did you mean %s?", o, name, near);
    else if (where)
        code = complain(
            CODE_READ,
            "--%s: %s is not in the Hugging Face cache: %s; huggingface-cli download %.*s%s%s "
            "fetches it",
            o, name, where, (int)strcspn(name, "@"), name, strchr(name, '@') ? " --revision " : "",
            strchr(name, '@') ? strchr(name, '@') + 1 : "");
    else if (file) code = complain(CODE_READ, "--%s: %s: %s", o, name, strerror(ENOENT));
    else
        code = complain(
            CODE_READ,
            "--%s: \"%s\" is no file or directory, and no name that qwen-image models lists", o,
            name);
    free(near);
    return code;
}

static int copy_path(char **path, const char *from)
{
    *path = format_text("%s", from);
    return *path ? CODE_DONE : no_memory();
}

/* A search that makes its catalog when the first name needs it. */
typedef struct finder {
    const settings *s;
    catalog c;
    int made;
} finder;

static int need_catalog(finder *f)
{
    if (f->made) return CODE_DONE;
    f->made = 1;
    return catalog_make(&f->c, f->s);
}

/* The path of a listed name.  *listed, if not NULL, becomes its name in the recipe. */
static int find_listed(finder *f, int option, const char *name, const char *where, char **path,
                       char **listed)
{
    choice c = { 0 };
    int code = need_catalog(f);
    if (!code) code = choose(&f->c, option, name, &c);
    if (!code && c.models > 1)
        code = complain(CODE_USAGE, "--%s: \"%s\" is ambiguous: it is %s; give the whole name",
                        file_options[option].option, name, c.all);
    else if (!code && c.best) code = copy_path(path, c.best->path);
    else if (!code) code = complain_missing(&f->c, option, name, where);
    if (!code) {
        char more[64] = "";
        if (c.answer.grade < ANSWER_ALIKE && c.n > 1)
            snprintf(more, sizeof more, "; the list has %d more precision%s of it", c.n - 1,
                     c.n > 2 ? "s" : "");
        notice(f->s, "%s: %s (%s)%s", file_options[option].what, c.best->name, c.best->path, more);
        if (listed) {
            free(*listed);
            *listed = format_text("%s", is_id(c.best->name) && !strcmp(c.best->folder, "diffusers")
                                            ? c.best->name
                                            : base_name(c.best->name));
            code = *listed ? CODE_DONE : no_memory();
        }
    }
    choice_free(&c);
    return code;
}

/* The name with slashes for Windows' backslashes; malloc'ed, or NULL. */
static char *with_slashes(const char *name)
{
    char *out = format_text("%s", name);
    for (char *p = out; p && *p; p++) *p = *p == '\\' ? '/' : *p;
    return out;
}

static int find_name(finder *f, int option, const char *name, char **path, char **listed)
{
    char *where = NULL;
    *path = NULL;
    if (!*name)
        return complain(CODE_USAGE, "--%s: expected a path or a name, found \"\"",
                        file_options[option].option);
    if (path_exists(name)) return copy_path(path, name);
    if (!strcmp(name, "demo") && (*path = find_demo()) && path_exists(*path)) return CODE_DONE;
    free(*path);
    *path = NULL;
    if (is_id(name) && !find_id(name, path, &where)) return CODE_DONE;
    char *slashed = with_slashes(name);
    const int code = slashed ? find_listed(f, option, slashed, where, path, listed) : no_memory();
    free(slashed);
    free(where);
    return code;
}

/* --- the pieces of a transformer -------------------------------------------------------------- */

/* The published tokenizer, which comes with the demo; else that of the first model directory
 * listed. */
static int find_tokenizer(finder *f, char **path)
{
    char *demo = find_demo(), *own = demo ? path_join(demo, "tokenizer") : NULL;
    free(demo);
    if (own && path_is_directory(own)) {
        notice(f->s, "tokenizer: the published one, that came with this program");
        *path = own;
        return CODE_DONE;
    }
    free(own);
    int code = need_catalog(f);
    for (size_t i = 0; i < f->c.n && !code && !*path; i++) {
        const model_entry *e = &f->c.entry[i];
        char *inside = strcmp(e->folder, "diffusers") ? NULL : path_join(e->path, "tokenizer");
        if (inside && path_is_directory(inside)) {
            notice(f->s, "tokenizer: %s (%s)", e->name, inside);
            *path = inside;
        } else {
            free(inside);
        }
    }
    return code;
}

/* Finds the text encoder, VAE and tokenizer that a file, or the directory of a transformer,
 * lacks. */
static int find_pieces(finder *f, found *out)
{
    const char *file = out->transformer ? out->transformer : out->model;
    contents c, model = { 0 };
    int place = 0, code = CODE_DONE;
    if (!file || (out->model && directory_has(out->model, "model_index.json"))) return code;
    look_inside(file, &c);
    if (!c.transformer) return code;
    if (out->model && out->transformer) look_inside(out->model, &model);
    if (f->s->variant && !strcmp(f->s->variant, "layered")) c.layered = 1;
    /* an all-in-one file given as --transformer */
    if (!out->model && c.text && !out->text_encoder) code = copy_path(&out->text_encoder, file);
    if (!code && !out->model && c.vae && !out->vae) code = copy_path(&out->vae, file);
    const int text = !c.text && !model.text && !out->text_encoder && !f->s->embeds;
    const int vae = !c.vae && !model.vae && !out->vae;
    if (!code && (text || vae) && !(code = need_catalog(f)))
        code = catalog_beside(&f->c, f->s, file, &place);
    if (!code && text) code = find_piece(&f->c, f->s, TEXT_ENCODER, &c, place, &out->text_encoder);
    if (!code && vae) code = find_piece(&f->c, f->s, VAE, &c, place, &out->vae);
    if (!code && !out->tokenizer) code = find_tokenizer(f, &out->tokenizer);
    return code;
}

/* --- the model -------------------------------------------------------------------------------- */

/* No model was named: the demo, unless --transformer is given. */
static int find_default(finder *f, found *out)
{
    if (f->s->transformer) return CODE_DONE;
    out->model = find_demo();
    out->label = format_text("demo");
    if (!out->model || !out->label) return no_memory();
    if (!path_exists(out->model))
        return complain(CODE_READ,
                        "no model was named (--model or $QWEN_MODEL), and the demo is not in %s",
                        out->model);
    notice(f->s, "Using the demo checkpoint, which knows simple shapes only; for a real model: "
                 "--model PATH, or "
                 "huggingface-cli download Qwen/Qwen-Image and --model Qwen/Qwen-Image");
    return CODE_DONE;
}

/* The name of a model in the recipe: Qwen-Image for "dir/Qwen-Image/", an id for itself; malloc'ed,
 * or NULL. */
static char *label_of(const char *name)
{
    size_t n = strlen(name);
    while (n > 1 && name[n - 1] == '/') n--;
    char *trimmed = format_text("%.*s", (int)n, name);
    char *label = trimmed ? format_text(
                      "%s", is_id(trimmed) && !path_exists(trimmed) ? trimmed : base_name(trimmed))
                          : NULL;
    free(trimmed);
    return label;
}

int find_model(const settings *s, found *out)
{
    finder f = { .s = s };
    memset(out, 0, sizeof *out);
    const char *set = getenv("QWEN_MODEL"), *name = s->model ? s->model : set && *set ? set : NULL;
    int code;
    if (name) {
        out->label = label_of(name);
        code = out->label ? find_name(&f, MODEL, name, &out->model, &out->label) : no_memory();
    } else {
        code = find_default(&f, out);
    }
    const struct {
        int option;
        const char *name;
        char **path;
    } pieces[] = {
        { TRANSFORMER, s->transformer, &out->transformer },
        { TEXT_ENCODER, s->text_encoder, &out->text_encoder },
        { VISION, s->vision, &out->vision },
        { VAE, s->vae, &out->vae },
        { CONTROLNET, s->controlnet, &out->controlnet },
        { TOKENIZER, s->tokenizer, &out->tokenizer },
    };
    for (size_t i = 0; !code && i < sizeof pieces / sizeof *pieces; i++) {
        if (!pieces[i].name) continue;
        code = find_name(&f, pieces[i].option, pieces[i].name, pieces[i].path, NULL);
        if (!code) code = piece_inside(pieces[i].path, file_options[pieces[i].option].component);
    }
    if (!code && out->model && !directory_has(out->model, "model_index.json"))
        code = piece_inside(&out->model, NULL);
    if (!code) code = find_pieces(&f, out);
    catalog_free(&f.c);
    if (code) found_free(out);
    return code;
}

int find_lora(const settings *s, const char *name, char **path)
{
    finder f = { .s = s };
    const int code = find_name(&f, LORA, name, path, NULL);
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

int find_any(const settings *s, const char *name, char **path)
{
    finder f = { .s = s };
    choice c = { 0 };
    char *slashed = with_slashes(name);
    int code = slashed ? need_catalog(&f) : no_memory();
    if (!code) code = choose(&f.c, FILE_OPTIONS, slashed, &c);
    if (!code && c.models > 1)
        code =
            complain(CODE_USAGE, "\"%s\" is ambiguous: it is %s; give the whole name", name, c.all);
    else if (!code) code = copy_path(path, c.best ? c.best->path : name);
    if (!code && c.best) notice(s, "%s (%s)", c.best->name, c.best->path);
    choice_free(&c);
    free(slashed);
    catalog_free(&f.c);
    return code;
}
