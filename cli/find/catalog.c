/* catalog.c - the entries of a directory: files, sets of shards, components, model directories.
 *
 * The name of a file is its path below the folder of its type.  Files NAME-00001-of-00003.EXT are
 * one entry, NAME.EXT; a directory whose shards have an index is one entry, the directory.  An
 * entry with a link into nowhere or a missing shard is incomplete. */
#include "find/catalog.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const struct {
    const char *directory, *type;
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

const char *type_folder(int i)
{
    return i < (int)(sizeof folders / sizeof *folders) ? folders[i].directory : NULL;
}

const char *type_named(const char *name)
{
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        if (!strcmp(folders[i].directory, name)) return folders[i].type;
    return NULL;
}

/* --- entries ---------------------------------------------------------------------------------- */

static int add_entry(walk *w, const char *name, const char *path, const char *type, uint64_t bytes,
                     int incomplete)
{
    catalog *c = w->c;
    int shadowed = 0;
    for (size_t i = 0; i < c->n && !shadowed; i++) {
        shadowed = !strcmp(c->entry[i].folder, type) && !strcmp(c->entry[i].name, name);
        if (shadowed && c->entry[i].place == w->place) return CODE_DONE;
    }
    if (c->n >= MOST_ENTRIES) return CODE_DONE;
    if (!(c->n & (c->n - 1))) { /* the array has room for a power of two of entries */
        model_entry *more = realloc(c->entry, (c->n ? 2 * c->n : 1) * sizeof *more);
        if (!more) return no_memory();
        c->entry = more;
    }
    model_entry *e = &c->entry[c->n];
    *e = (model_entry){ .name = format_text("%s", name),
                        .path = format_text("%s", path),
                        .folder = type,
                        .bytes = bytes,
                        .place = w->place,
                        .shadowed = shadowed,
                        .incomplete = incomplete };
    if (!e->name || !e->path) {
        free(e->name);
        free(e->path);
        return no_memory();
    }
    c->n++;
    return CODE_DONE;
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

/* --- a directory ------------------------------------------------------------------------------ */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void listing_free(listing *l)
{
    for (size_t i = 0; i < l->n; i++) free(l->name[i]);
    free(l->name);
    *l = (listing){ 0 };
}

int listing_make(listing *l, const char *path)
{
    DIR *d = opendir(path);
    int failed = 0;
    *l = (listing){ 0 };
    for (struct dirent *e; d && !failed && l->n < MOST_ENTRIES && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        char **more = realloc(l->name, (l->n + 1) * sizeof *more);
        if (more) l->name = more;
        failed = !more || !(l->name[l->n] = format_text("%s", e->d_name));
        l->n += !failed;
    }
    if (d) closedir(d);
    if (l->name) qsort(l->name, l->n, sizeof *l->name, by_name);
    if (!failed) return CODE_DONE;
    listing_free(l);
    return no_memory();
}

static int listing_has(const listing *l, const char *name)
{
    return l->name && bsearch(&name, l->name, l->n, sizeof *l->name, by_name);
}

/* Makes *here the link of a directory, after those above it; nonzero: it is one of them, a loop. */
static int chain_add(chain *here, const struct stat *st, const chain *above)
{
    *here = (chain){ .device = st->st_dev, .inode = st->st_ino, .above = above };
    for (const chain *a = above; a; a = a->above)
        if (a->device == st->st_dev && a->inode == st->st_ino) return 1;
    return 0;
}

/* Nonzero if all shards of an index lie beside it; an index that cannot be read has none. */
static int index_whole(const char *directory, const char *name)
{
    char *path = path_join(directory, name);
    json_t *index = path ? json_load_file(path, 0, NULL) : NULL;
    json_t *map = json_object_get(index, "weight_map"), *shard;
    int whole = json_is_object(map);
    const char *key, *last = NULL;
    json_object_foreach(map, key, shard)
    {
        const char *file = json_string_value(shard);
        if (!file || (last && !strcmp(last, file))) continue;
        whole &= directory_has(directory, file);
        last = file;
    }
    json_decref(index);
    free(path);
    return whole;
}

/* Bytes of all files below a directory; *broken: a link leads nowhere, or a shard is missing. */
static uint64_t tree_bytes(const char *path, const chain *above, int depth, int *broken)
{
    listing l;
    uint64_t bytes = 0;
    if (depth > MOST_DEPTH || listing_make(&l, path)) return 0;
    for (size_t i = 0; i < l.n; i++) {
        struct stat st;
        chain here;
        char *inside = path_join(path, l.name[i]);
        if (inside && stat(inside, &st)) *broken = 1;
        else if (inside && !S_ISDIR(st.st_mode)) bytes += (uint64_t)st.st_size;
        else if (inside && !chain_add(&here, &st, above))
            bytes += tree_bytes(inside, &here, depth + 1, broken);
        if (ends_with(l.name[i], ".safetensors.index.json"))
            *broken |= !index_whole(path, l.name[i]);
        free(inside);
    }
    listing_free(&l);
    return bytes;
}

/* Nonzero: a directory of a whole model is missing; the others can still serve as pieces. */
static int components_missing(const char *path)
{
    static const char *const components[] = { "transformer", "text_encoder", "vae", "tokenizer" };
    int missing = 0;
    for (size_t i = 0; i < sizeof components / sizeof *components; i++)
        missing |= !directory_has(path, components[i]);
    return missing;
}

int walk_model(walk *w, const char *name, const char *path, int *is)
{
    struct stat st;
    chain here;
    int broken = 0;
    char *index = path_join(path, "model_index.json");
    *is = index && !lstat(index, &st) && !stat(path, &st) && !chain_add(&here, &st, NULL);
    free(index);
    if (!*is) return CODE_DONE;
    const uint64_t bytes = tree_bytes(path, &here, 0, &broken);
    return add_entry(w, name, path, "diffusers", bytes, broken || components_missing(path));
}

/* --- sets of files ---------------------------------------------------------------------------- */

typedef struct shard_set {
    size_t stem;
    int shards, found;
    uint64_t bytes;
} shard_set;

/* Nonzero if the file `at` of a sorted listing is the first of a set of shards: then *out is the
 * set. */
static int set_begins(const listing *l, const char *directory, size_t at, shard_set *out)
{
    int shard, shards;
    const char *first = l->name[at], *extension = first + name_stem(first);
    const size_t stem = name_shard(first, &shard, &shards);
    *out = (shard_set){ .stem = stem, .shards = stem ? shards : 0 };
    for (size_t i = 0; out->stem && i < l->n; i++) {
        int other, of;
        struct stat st;
        const size_t n = name_shard(l->name[i], &other, &of);
        if (n != out->stem || of != shards || strncmp(l->name[i], first, n)
            || strcmp(l->name[i] + name_stem(l->name[i]), extension))
            continue;
        if (i < at) return 0;
        char *path = path_join(directory, l->name[i]);
        if (path && !stat(path, &st)) {
            out->found++;
            out->bytes += (uint64_t)st.st_size;
        }
        free(path);
    }
    return out->stem != 0;
}

static int is_shard(const char *name)
{
    int shard, shards;
    return name_shard(name, &shard, &shards) != 0;
}

/* The path of a set: of safetensors its index, of GGUF its first shard. */
static int add_set(walk *w, const listing *l, const char *directory, const char *before, size_t at,
                   const shard_set *s, const char *type)
{
    const char *first = l->name[at], *extension = first + name_stem(first);
    char *index = format_text("%.*s%s.index.json", (int)s->stem, first, extension);
    char *name = format_text("%s%.*s%s", before, (int)s->stem, first, extension);
    const int indexed = index && listing_has(l, index);
    const int gguf = is_gguf(first);
    char *path = path_join(directory, indexed ? index : first);
    const int code = index && name && path ? add_entry(w, name, path, type, s->bytes,
                                                       s->found < s->shards || (!gguf && !indexed))
                                           : no_memory();
    free(index);
    free(name);
    free(path);
    return code;
}

/* The only index of a component's directory, or NULL. */
static const char *only_index(const listing *l)
{
    const char *index = NULL;
    for (size_t i = 0; i < l->n; i++)
        if (ends_with(l->name[i], ".safetensors.index.json")) {
            if (index) return NULL;
            index = l->name[i];
        }
    return index;
}

/* A directory with shards and their index is one entry; *is: it was one. */
static int add_component(walk *w, const listing *l, const char *path, const char *before,
                         const char *type, int *is)
{
    uint64_t bytes = 0;
    const char *index = only_index(l);
    *is = index && *before;
    if (!*is) return CODE_DONE;
    for (size_t i = 0; i < l->n; i++) {
        struct stat st;
        char *inside = is_shard(l->name[i]) ? path_join(path, l->name[i]) : NULL;
        if (inside && !stat(inside, &st)) bytes += (uint64_t)st.st_size;
        free(inside);
    }
    char *name = format_text("%.*s", (int)strlen(before) - 1, before);
    const int code = name ? add_entry(w, name, path, type, bytes, !index_whole(path, index))
                          : no_memory();
    free(name);
    return code;
}

/* --- the search ------------------------------------------------------------------------------- */

static int scan_directory(walk *w, const char *path, const char *before, const char *type,
                          int depth, const chain *here);

/* Adds what one name in a directory stands for; `here` is the chain of the directory. */
static int scan_name(walk *w, const char *path, const char *name, const char *before,
                     const char *type, int depth, const chain *here)
{
    struct stat st;
    chain deeper;
    int is = 0, code = CODE_DONE;
    char *inside = path_join(path, name), *full = format_text("%s%s", before, name);
    char *below = format_text("%s%s/", before, name);
    if (!inside || !full || !below) code = no_memory();
    else if (stat(inside, &st)) /* a link into nowhere */
        code = is_model_file(name) && !lstat(inside, &st) && S_ISLNK(st.st_mode)
                   ? add_entry(w, full, inside, type, 0, 1)
                   : CODE_DONE;
    else if (S_ISREG(st.st_mode) && is_model_file(name))
        code = add_entry(w, full, inside, type, (uint64_t)st.st_size, 0);
    else if (S_ISDIR(st.st_mode) && !chain_add(&deeper, &st, here)
             && !(code = walk_model(w, full, inside, &is)) && !is
             && (*type || depth || !type_named(name)))
        code = scan_directory(w, inside, below,
                              !*type && type_named(name) ? type_named(name) : type, depth - 1,
                              &deeper);
    free(inside);
    free(full);
    free(below);
    return code;
}

/* At depth -1 a directory can be a component; its files are not listed. */
static int scan_directory(walk *w, const char *path, const char *before, const char *type,
                          int depth, const chain *here)
{
    listing l;
    int component = 0, code = listing_make(&l, path);
    if (!code) code = add_component(w, &l, path, before, type, &component);
    for (size_t i = 0; i < l.n && !code && depth >= 0; i++) {
        shard_set s;
        if (!is_shard(l.name[i])) code = scan_name(w, path, l.name[i], before, type, depth, here);
        else if (!component && set_begins(&l, path, i, &s))
            code = add_set(w, &l, path, before, i, &s, type);
    }
    listing_free(&l);
    return code;
}

int walk_directory(walk *w, const char *path, const char *before, const char *type, int depth)
{
    enum { MOST_ABOVE = 64 };
    chain above[MOST_ABOVE];
    struct stat st;
    char *up = format_text("%s", path);
    int n = 0;
    /* from the directory itself to the root: a link to any of them is a loop */
    while (up && n < MOST_ABOVE && !stat(up, &st) && S_ISDIR(st.st_mode)
           && !(n && above[n - 1].device == st.st_dev && above[n - 1].inode == st.st_ino)) {
        above[n] = (chain){ .device = st.st_dev, .inode = st.st_ino };
        if (n) above[n - 1].above = &above[n];
        n++;
        char *more = path_join(up, "..");
        free(up);
        up = more;
    }
    const int failed = !up;
    free(up);
    return failed ? no_memory()
           : n    ? scan_directory(w, path, before, type, depth, above)
                  : CODE_DONE;
}

int walk_first(walk *w, const char *path, const char *type)
{
    struct stat st;
    if (stat(path, &st)) return 0;
    for (size_t i = 0; i < w->n_seen; i++)
        if (w->seen[i].device == st.st_dev && w->seen[i].inode == st.st_ino
            && !strcmp(w->seen[i].type, type))
            return 0;
    void *more = realloc(w->seen, (w->n_seen + 1) * sizeof *w->seen);
    if (!more) {
        no_memory();
        return -1;
    }
    w->seen = more;
    w->seen[w->n_seen].device = st.st_dev;
    w->seen[w->n_seen].inode = st.st_ino;
    w->seen[w->n_seen++].type = type;
    return 1;
}
