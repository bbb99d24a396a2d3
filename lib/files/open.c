/* open.c - files into a store: one file, an index with its shards, a directory, files in place of
 * links. */
#include "files/files.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Systems without symbolic links get a short file with a relative path in place of each. */
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

/* The file at the end of a chain of such files; *out is malloc'ed. */
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

static char *joined(const char *folder, const char *name, qw_error *err)
{
    const size_t n = strlen(folder) + strlen(name) + 2;
    char *path = malloc(n);
    if (path) snprintf(path, n, "%s/%s", folder, name);
    else qw_fail(err, QWEN_ENOMEM, "no memory for a path");
    return path;
}

/* The name of another format, by its first bytes; NULL: none of these. */
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
    if (f->gguf || qw_ends_with(path, ".gguf")) return qw_gguf_read(s, file, err);
    return qw_safetensors_read(s, file, err);
}

/* Opens each shard once and checks that each tensor is in the shard that the index names. */
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

/* The file with the weights of a directory: an index before single files, published names first. */
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
            if (!qw_ends_with(e->d_name, ends[i])) continue;
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
        if (qw_ends_with(at, ".safetensors") || qw_ends_with(at, ".gguf"))
            qw_fail(err, QWEN_EIO, "%s is a directory, expected a file", at);
        else choose(at, &inside, err);
    }
    const char *file = inside ? inside : at;
    if (!err->status && qw_ends_with(file, ".index.json")) add_index(s, file, err);
    else if (!err->status) add_file(s, file, err);
    free(inside);
    free(at);
    return err->status ? err->status : qw_store_index(s, err);
}
