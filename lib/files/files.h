/* files.h - the inside of a store, for the files that fill it: formats, names, layouts. */
#ifndef QW_FILES_INSIDE_H
#define QW_FILES_INSIDE_H
#include "files/json.h"
#include "files/store.h"

typedef struct qw_file {
    char *path;
    const unsigned char *map; /* the whole file, read-only; NULL before it is mapped */
    size_t bytes;
    json_t *metadata; /* object of strings: safetensors __metadata__, GGUF keys */
    json_t *layers;   /* the layer table of _quantization_metadata, or NULL */
    int gguf;
} qw_file;

struct qw_store {
    qw_file *file;
    int files;
    int ahead; /* number of files, from the first, that are read ahead */
    qw_entry *entry;
    int64_t entries, room;
    int64_t *slot; /* hash of names -> entry + 1; 0 empty; a power of two of them */
    size_t slots;
    void **owned; /* memory made for entries */
    int owns;
    uint64_t owned_bytes;
    qw_kind kind;       /* after qw_store_canonical */
    qw_tensor *operand; /* [operands] of qw_layout, by entry; no type: not made yet */
    int64_t operands;
};

/* Maps a regular file that is not empty and appends it to the store; *index is its number. */
int qw_store_map(qw_store *s, const char *path, int *index, qw_error *err);
/* Appends an entry; e->name and e->key are set here, to one copy of name. */
int qw_store_put(qw_store *s, const char *name, qw_entry e, qw_error *err);
/* Rebuilds the hash after names changed; two entries of one name are QWEN_EFORMAT. */
int qw_store_index(qw_store *s, qw_error *err);
/* Gives an entry another name; the hash stays as it is. */
int qw_store_rename(qw_store *s, qw_entry *e, const char *name, qw_error *err);
/* The number of entries whose name begins with the prefix. */
int64_t qw_store_prefixed(const qw_store *s, const char *prefix);
int qw_starts_with(const char *s, const char *prefix);
int qw_ends_with(const char *s, const char *end);
/* Parses one JSON document; `where` begins the message. */
int qw_json_bytes(const void *data, size_t bytes, const char *where, json_t **out, qw_error *err);
/* What a store holds, and the prefix of its keys under which that was seen ("" where none is to be
 * taken off). */
qw_kind qw_kind_of(const qw_store *s, const char **prefix);
/* QWEN_OK, or the reason why a store of this kind is not read as `part`: another generation or
 * family, another quantiser, an incomplete model. */
int qw_kind_refused(const qw_store *s, qw_kind kind, qw_kind part, qw_error *err);
int qw_safetensors_read(qw_store *s, int file, qw_error *err);
int qw_gguf_read(qw_store *s, int file, qw_error *err);
/* Checks that every marked layer has a known format and companions that fit.  Reads the tables in
 * the headers. */
int qw_layouts_check(qw_store *s, qw_error *err);
#endif
