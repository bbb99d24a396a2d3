/* files.h - files that tests make, in a folder of their own: safetensors, GGUF; opening files. */
#ifndef QW_FILES_H
#define QW_FILES_H
#include "files/store.h"
#include "files/files.h"

/* --- a folder for the files of one test: a fixture ------------------------------------------- */
void make_folder(void);
void remove_folder(void);
/* Path of a file in it, NULL: its own; good until the eighth call after this one. */
const char *made(const char *name);
/* Both give the path. */
const char *write_file(const char *name, const void *data, size_t bytes);
const char *write_text(const char *name, const char *text);

/* --- bytes that grow ------------------------------------------------------------------------- */
typedef struct blob {
    unsigned char *data;
    size_t n, room;
} blob;
void append(blob *b, const void *data, size_t n); /* data NULL: zeros */
void append_text(blob *b, const char *text);
void append_number(blob *b, uint64_t v, int width); /* little-endian */
const char *write_blob(const char *name, blob *b);  /* frees it */

/* --- safetensors ----------------------------------------------------------------------------- */
typedef struct item {
    const char *name, *dtype;
    int rank;
    int64_t dim[5];
} item;
/* A file of the items, every byte of data counting up from 1; prefix before every name; the data
 * begin at an address that leaves `pad` when divided by 8. */
blob safetensors_bytes(const char *prefix, const item *t, int n, size_t pad);
const char *write_safetensors(const char *name, const char *prefix, const item *t, int n);

/* Tensors to be written: owned names, borrowed data. */
typedef struct sheaf {
    qw_entry *e;
    int n;
} sheaf;
void sheaf_add(sheaf *s, const char *name, qw_entry e);
void sheaf_name(sheaf *s, const char *name); /* one value under it, where only names count */
qw_entry *sheaf_find(sheaf *s, const char *name);
/* Everything of a store, with a prefix before the names as they are in the file. */
void sheaf_store(sheaf *out, const qw_store *s, const char *prefix, int names_only);
/* The file of a sheaf; pad: spaces after the header, which move the data.  Frees the sheaf. */
const char *sheaf_write(sheaf *s, const char *name, int pad);
void sheaf_free(sheaf *s);

/* --- GGUF ------------------------------------------------------------------------------------ */
typedef struct gguf {
    blob head, info, data;
    uint64_t kvs, tensors;
    int version;        /* 0: 3 */
    uint32_t alignment; /* 0: not in the file */
} gguf;
enum { GGUF_U16 = 2, GGUF_U32 = 4, GGUF_I32 = 5, GGUF_STRING = 8, GGUF_ARRAY = 9 };
void gguf_string(blob *b, const char *s);
/* A key with a number of a GGUF type, or with a string. */
void gguf_number(gguf *g, const char *key, int type, uint64_t v, int width);
void gguf_u32(gguf *g, const char *key, uint32_t v);
void gguf_text(gguf *g, const char *key, const char *v);
/* The head of an array of n values, which the caller appends to g->head. */
void gguf_array(gguf *g, const char *key, int type, uint64_t n);
/* A tensor of type F32 (0), Q8_0 (8) ... with dims as in the file (fastest first), at an offset;
 * the bytes of the data count up from 1. */
void gguf_tensor(gguf *g, const char *name, int type, const int64_t *dim, int rank, uint64_t offset,
                 size_t size);
blob gguf_bytes(gguf *g); /* frees g */
const char *write_gguf(const char *name, gguf *g);

/* --- stores ---------------------------------------------------------------------------------- */
void good(int status, const qw_error *err); /* asserts that nothing failed */
qw_store *open_store(const char *path);     /* names as in the file */
/* With canonical names, as a part; the error is the caller's to look at. */
qw_store *open_part(const char *path, qw_kind part, qw_kind *found, qw_error *err);
qw_store *must_open(const char *path, qw_kind part);
/* Asserts that there is such a tensor; path begins the message. */
void has(const qw_store *s, const char *path, const char *name);
/* One bit changed at a time: refused or opened, and whatever is opened lies inside the file. */
void flip_bits(const char *suffix, const blob *b, int bits);
int add_status(const char *path); /* of qw_store_add */

int starts_with(const char *s, const char *head);
int ends_with(const char *s, const char *end);
#endif
