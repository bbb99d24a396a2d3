/* store.c - many files, one name space: names to host tensors over mappings. */
#include "store.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int qw_store_new(qw_store **out, qw_error *err)
{
    *out = calloc(1, sizeof **out);
    return *out ? QWEN_OK : qw_fail(err, QWEN_ENOMEM, "no memory for a store");
}

void qw_store_free(qw_store *s)
{
    if (!s) return;
    for (int64_t i = 0; i < s->entries; i++) {
        if (s->entry[i].name != s->entry[i].key) free(s->entry[i].name);
        free((char *)(uintptr_t)s->entry[i].key);
    }
    for (int i = 0; i < s->files; i++) {
        if (s->file[i].map) munmap((void *)(uintptr_t)s->file[i].map, s->file[i].bytes);
        json_decref(s->file[i].metadata);
        json_decref(s->file[i].layers);
        free(s->file[i].path);
    }
    for (int i = 0; i < s->owns; i++) free(s->owned[i]);
    free(s->owned);
    free(s->operand);
    free(s->file);
    free(s->entry);
    free(s->slot);
    free(s);
}

void *qw_store_own(qw_store *s, size_t bytes, qw_error *err)
{
    void **grown = realloc(s->owned, (size_t)(s->owns + 1) * sizeof *grown);
    if (grown) s->owned = grown;
    void *p = grown ? malloc(bytes ? bytes : 1) : NULL;
    if (!p) {
        qw_fail(err, QWEN_ENOMEM, "no memory for %zu bytes of unpacked weights", bytes);
        return NULL;
    }
    s->owned[s->owns++] = p;
    s->owned_bytes += bytes;
    return p;
}

/* --- files --------------------------------------------------------------------------------- */

static int map(qw_file *f, int fd, qw_error *err)
{
    struct stat st;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode))
        return qw_fail(err, QWEN_EIO, "%s is not a regular file", f->path);
    if (st.st_size == 0)
        return qw_fail(err, QWEN_EFORMAT, "%s is empty: too short for any format, truncated",
                       f->path);
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return qw_fail(err, QWEN_EIO, "%s cannot be mapped: %s", f->path, strerror(errno));
    f->map = p;
    f->bytes = (size_t)st.st_size;
    /* Headers, norms and biases are small and far apart. */
    posix_madvise(p, f->bytes, POSIX_MADV_RANDOM);
    return QWEN_OK;
}

void qw_store_read_ahead(qw_store *s)
{
    for (; s->ahead < s->files; s->ahead++) {
        const qw_file *f = &s->file[s->ahead];
        posix_madvise((void *)(uintptr_t)f->map, f->bytes, POSIX_MADV_NORMAL);
    }
}

int qw_store_map(qw_store *s, const char *path, int *index, qw_error *err)
{
    qw_file *grown = realloc(s->file, (size_t)(s->files + 1) * sizeof *grown);
    if (grown) s->file = grown;
    qw_file f = { .path = grown ? strdup(path) : NULL };
    if (!f.path) return qw_fail(err, QWEN_ENOMEM, "no memory to open %s", path);
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    const int status =
        fd < 0 ? qw_fail(err, QWEN_EIO, "%s cannot be opened: %s", path, strerror(errno))
               : map(&f, fd, err);
    if (fd >= 0) close(fd);
    *index = s->files;
    s->file[s->files++] = f;
    return status;
}

/* What git leaves of a symbolic link where there are none: a short file that holds a relative
 * path. */
int qw_follow_link_file(const char *path, char **resolved, qw_error *err)
{
    enum { LONGEST = 4096 };
    struct stat st;
    char text[LONGEST + 1];
    *resolved = NULL;
    if (stat(path, &st) || !S_ISREG(st.st_mode) || st.st_size < 1 || st.st_size > LONGEST) return 0;
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    size_t n = fread(text, 1, LONGEST, f);
    fclose(f);
    if (n && text[n - 1] == '\n') n--;
    text[n] = 0;
    if (n == 0 || strlen(text) != n || strpbrk(text, "\n\r{") || text[0] == '/') return 0;
    const char *slash = strrchr(path, '/');
    const size_t folder = slash ? (size_t)(slash - path) + 1 : 0;
    char *target = malloc(folder + n + 1);
    if (!target) {
        qw_fail(err, QWEN_ENOMEM, "no memory for a path");
        return 0;
    }
    memcpy(target, path, folder);
    memcpy(target + folder, text, n + 1);
    if (stat(target, &st)) {
        free(target);
        return 0;
    }
    *resolved = target;
    return 1;
}

/* Follows such files to what they stand for; *out is malloc'ed. */
static int resolve(const char *path, char **out, qw_error *err)
{
    enum { LINKS = 8 };
    char *at = strdup(path), *next = NULL;
    int links = 0;
    *out = NULL;
    if (!at) return qw_fail(err, QWEN_ENOMEM, "no memory for a path");
    for (; links <= LINKS && qw_follow_link_file(at, &next, err); links++) {
        free(at);
        at = next;
    }
    if (!err->status && links > LINKS)
        qw_fail(err, QWEN_EIO, "%s: links that lead to no end", path);
    if (err->status) free(at);
    else *out = at;
    return err->status;
}

static int ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

static char *joined(const char *folder, const char *name, qw_error *err)
{
    const size_t n = strlen(folder) + strlen(name) + 2;
    char *path = malloc(n);
    if (path) snprintf(path, n, "%s/%s", folder, name);
    else qw_fail(err, QWEN_ENOMEM, "no memory for a path");
    return path;
}

/* What people give by mistake, from its first bytes; NULL: none of these. */
static const char *other_format(const qw_file *f)
{
    static const struct {
        const char *head, *what;
    } formats[] = {
        { "\x89PNG\r\n", "a PNG picture" },
        { "\xff\xd8\xff", "a JPEG picture" },
        { "PK\x03\x04", "a zip archive (as PyTorch's .ckpt and .pth are)" },
        { "\x80\x02", "a Python pickle (an old PyTorch checkpoint)" },
        { "<!DOCTYPE", "a web page" },
        { "<!doctype", "a web page" },
        { "<html", "a web page" },
        { "version https://git-lfs", "a Git LFS pointer, whose file was not downloaded" },
    };
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        const size_t n = strlen(formats[i].head);
        if (f->bytes > n + 8 && !memcmp(f->map, formats[i].head, n)) return formats[i].what;
    }
    return NULL;
}

static int add_file(qw_store *s, const char *path, qw_error *err)
{
    int file;
    char *target;
    if (resolve(path, &target, err)) return err->status;
    const int status = qw_store_map(s, target, &file, err);
    free(target);
    if (status) return status;
    qw_file *f = &s->file[file];
    const char *other = other_format(f);
    if (other) return qw_fail(err, QWEN_EFORMAT, "%s is %s, expected weights", f->path, other);
    f->gguf = f->bytes >= 4 && !memcmp(f->map, "GGUF", 4);
    if (f->gguf || ends_with(path, ".gguf")) return qw_gguf_read(s, file, err);
    return qw_safetensors_read(s, file, err);
}

/* Opens each shard once and checks that each tensor is where the index says. */
static int add_shards(qw_store *s, const char *path, const json_t *map, qw_error *err)
{
    const char *slash = strrchr(path, '/'), *key;
    json_t *value, *seen = json_object();
    char *folder = slash ? strndup(path, (size_t)(slash - path)) : strdup(".");
    char shown[300];
    int status = seen && folder ? QWEN_OK : qw_fail(err, QWEN_ENOMEM, "no memory to read %s", path);
    json_object_foreach((json_t *)(uintptr_t)map, key, value)
    {
        if (status) break;
        const char *name = json_string_value(value);
        if (!name) {
            status = qw_fail(err, QWEN_EFORMAT,
                             "%s: weight_map has a value that is not a file name", path);
        } else if (strpbrk(name, "/\\") || !strcmp(name, "..") || !*name) {
            status = qw_fail(err, QWEN_EFORMAT,
                             "%s: weight_map names \"%s\": a shard must lie beside its index, "
                             "without a path separator",
                             path, qw_visible(shown, sizeof shown, name));
        } else if (!json_object_get(seen, name)) {
            char *shard = joined(folder, name, err);
            if (json_object_set_new(seen, name, json_integer(s->files)))
                qw_fail(err, QWEN_ENOMEM, "no memory to read %s", path);
            status = shard && !err->status ? add_file(s, shard, err) : err->status;
            free(shard);
        }
    }
    if (!status) status = qw_store_index(s, err);
    json_object_foreach((json_t *)(uintptr_t)map, key, value)
    {
        if (status) break;
        const qw_entry *e = qw_store_find(s, key);
        const json_t *file = json_object_get(seen, json_string_value(value));
        if (!e || e->file != json_integer_value(file))
            status = qw_fail(err, QWEN_EFORMAT, "%s: \"%s\" is not in %s, where the index puts it",
                             path, qw_visible(shown, sizeof shown, key), json_string_value(value));
    }
    json_decref(seen);
    free(folder);
    return status;
}

static int add_index(qw_store *s, const char *path, qw_error *err)
{
    json_t *json;
    int status = qw_json_file(path, &json, err);
    if (status) return status;
    const json_t *map = json_object_get(json, "weight_map");
    if (!json_is_object(map) || !json_object_size(map))
        status = qw_fail(err, QWEN_EFORMAT, "%s has no object weight_map (name -> file)", path);
    else status = add_shards(s, path, map, err);
    json_decref(json);
    return status;
}

/* The file of a directory that holds the weights: an index before single files, published names
 * first. */
static int choose(const char *folder, char **out, qw_error *err)
{
    static const char *const ends[] = { ".safetensors.index.json", ".safetensors", ".gguf" };
    static const char *const known[] = { "diffusion_pytorch_model", "model" };
    char *best = NULL;
    int rank = 99, several = 0;
    DIR *d = opendir(folder);
    if (!d) return qw_fail(err, QWEN_EIO, "%s cannot be opened: %s", folder, strerror(errno));
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        int r = 99;
        for (int i = 0; i < 3 && r == 99; i++) {
            if (!ends_with(e->d_name, ends[i])) continue;
            r = 3 * i + 2;
            for (int k = 0; k < 2; k++)
                if (strlen(e->d_name) == strlen(known[k]) + strlen(ends[i])
                    && !strncmp(e->d_name, known[k], strlen(known[k])))
                    r = 3 * i + k;
        }
        if (r == 99 || r > rank) continue;
        several = r == rank;
        rank = r;
        free(best);
        best = strdup(e->d_name);
        if (!best) break;
    }
    closedir(d);
    if (rank < 99 && !best) return qw_fail(err, QWEN_ENOMEM, "no memory to read %s", folder);
    if (!best)
        return qw_fail(err, QWEN_EIO,
                       "%s has no .safetensors, .safetensors.index.json or .gguf file", folder);
    *out = joined(folder, best, err);
    free(best);
    if (*out && several) {
        free(*out);
        *out = NULL;
        return qw_fail(err, QWEN_EFORMAT, "%s holds several files of weights: name one of them",
                       folder);
    }
    return *out ? QWEN_OK : err->status;
}

int qw_store_add(qw_store *s, const char *path, qw_error *err)
{
    struct stat st;
    char *at, *inside = NULL;
    if (err->status) return err->status;
    if (stat(path, &st))
        return qw_fail(err, QWEN_EIO, "%s cannot be opened: %s", path, strerror(errno));
    if (resolve(path, &at, err)) return err->status;
    if (!stat(at, &st) && S_ISDIR(st.st_mode)) {
        if (ends_with(at, ".safetensors") || ends_with(at, ".gguf"))
            qw_fail(err, QWEN_EIO, "%s is a directory, expected a file", at);
        else choose(at, &inside, err);
    }
    const char *file = inside ? inside : at;
    if (!err->status && ends_with(file, ".index.json")) add_index(s, file, err);
    else if (!err->status) add_file(s, file, err);
    free(inside);
    free(at);
    return err->status ? err->status : qw_store_index(s, err);
}

/* --- names --------------------------------------------------------------------------------- */

int qw_store_put(qw_store *s, const char *name, qw_entry e, qw_error *err)
{
    if (s->entries == s->room) {
        const int64_t room = s->room ? 2 * s->room : 256;
        qw_entry *grown = realloc(s->entry, (size_t)room * sizeof *grown);
        if (!grown) return qw_fail(err, QWEN_ENOMEM, "no memory for %lld tensors", (long long)room);
        s->entry = grown;
        s->room = room;
    }
    e.name = strdup(name);
    if (!e.name) return qw_fail(err, QWEN_ENOMEM, "no memory for the name of a tensor");
    e.key = e.name;
    s->entry[s->entries++] = e;
    return QWEN_OK;
}

int qw_store_rename(qw_store *s, qw_entry *e, const char *name, qw_error *err)
{
    char *copy = strdup(name);
    (void)s;
    if (!copy) return qw_fail(err, QWEN_ENOMEM, "no memory for the name of a tensor");
    if (e->name != e->key) free(e->name);
    e->name = copy;
    return QWEN_OK;
}

static uint64_t hash(const char *s)
{
    uint64_t h = 1469598103934665603u;
    for (; *s; s++) h = (h ^ (unsigned char)*s) * 1099511628211u;
    return h ^ h >> 29;
}

int qw_store_index(qw_store *s, qw_error *err)
{
    size_t slots = 16;
    char shown[300];
    while (slots < 2 * (size_t)s->entries) slots *= 2;
    int64_t *slot = calloc(slots, sizeof *slot);
    if (!slot)
        return qw_fail(err, QWEN_ENOMEM, "no memory for the index of %lld tensors",
                       (long long)s->entries);
    free(s->slot);
    s->slot = slot;
    s->slots = slots;
    for (int64_t i = 0; i < s->entries; i++) {
        size_t h = (size_t)hash(s->entry[i].name) & (slots - 1);
        for (; slot[h]; h = (h + 1) & (slots - 1))
            if (!strcmp(s->entry[slot[h] - 1].name, s->entry[i].name))
                return qw_fail(err, QWEN_EFORMAT,
                               "%s: tensor \"%s\" is there twice, a duplicate (%s)",
                               s->file[s->entry[i].file].path,
                               qw_visible(shown, sizeof shown, s->entry[i].key),
                               s->file[s->entry[slot[h] - 1].file].path);
        slot[h] = i + 1;
    }
    return QWEN_OK;
}

const qw_entry *qw_store_find(const qw_store *s, const char *name)
{
    if (!s->slots) return NULL;
    for (size_t h = (size_t)hash(name) & (s->slots - 1); s->slot[h]; h = (h + 1) & (s->slots - 1))
        if (!strcmp(s->entry[s->slot[h] - 1].name, name)) return &s->entry[s->slot[h] - 1];
    return NULL;
}

const qw_entry *qw_store_entry(const qw_store *s, int64_t i)
{
    return i >= 0 && i < s->entries ? &s->entry[i] : NULL;
}

const char *qw_store_path(const qw_store *s, int file)
{
    return file >= 0 && file < s->files ? s->file[file].path : "(no file)";
}

const char *qw_store_metadata(const qw_store *s, const char *key)
{
    for (int i = 0; i < s->files; i++) {
        const char *value = json_string_value(json_object_get(s->file[i].metadata, key));
        if (value) return value;
    }
    return NULL;
}

int qw_store_count(const qw_store *s, const char *prefix)
{
    const size_t n = strlen(prefix);
    long highest = -1;
    for (int64_t i = 0; i < s->entries; i++) {
        const char *digits = s->entry[i].name + n;
        if (strncmp(s->entry[i].name, prefix, n) || *digits < '0' || *digits > '9') continue;
        char *end;
        const long k = strtol(digits, &end, 10);
        if (*end == '.' && k > highest && k < 100000) highest = k;
    }
    return (int)highest + 1;
}
