/* store.c - the entries of many files under one set of names: memory maps, a hash, read-ahead. */
#include "files/files.h"
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
    /* headers, norms and biases are small and far apart: no read-ahead at first */
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

int64_t qw_store_prefixed(const qw_store *s, const char *prefix)
{
    int64_t n = 0;
    for (int64_t i = 0; i < s->entries; i++) n += qw_starts_with(s->entry[i].name, prefix);
    return n;
}

int qw_starts_with(const char *s, const char *prefix)
{
    return !strncmp(s, prefix, strlen(prefix));
}

int qw_ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

void qw_shape_text(const qw_entry *e, char *out, size_t size)
{
    size_t used = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < e->rank && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%lld", i ? ", " : "",
                                 (long long)e->dim[i]);
    if (used < size) snprintf(out + used, size - used, "]");
}

int qw_store_maps(const qw_store *s, const void *data)
{
    const unsigned char *p = data;
    for (int i = 0; i < s->files; i++)
        if (p >= s->file[i].map && p < s->file[i].map + s->file[i].bytes) return 1;
    return 0;
}
