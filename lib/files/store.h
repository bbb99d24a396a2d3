/* store.h - from files to named tensors: a store maps files and never reads them whole.
 *
 * Every component has canonical names, whatever the file calls its tensors: the transformer and
 * the VAE those of diffusers ("transformer_blocks.0.attn.to_q.weight",
 * "decoder.mid_block.resnets.0.norm1.gamma"), the language model "model.layers.0...", the vision
 * tower "visual.blocks.0...".  qw_store_canonical removes prefixes and translates the names of
 * Wan and of llama.cpp. */
#ifndef QW_STORE_H
#define QW_STORE_H
#include "core/core.h"
#include <qwen/tensor.h>

enum { QW_FILE_RANK = 8 };

/* A tensor of a file, as it lies there. */
typedef struct qw_entry {
    char *name;       /* canonical; owned by the store */
    const char *key;  /* the file's name of it, for messages and headers */
    const void *data; /* into the mapping, not aligned; or owned by the store */
    size_t bytes;
    qw_dtype dtype;
    int rank;
    int64_t dim[QW_FILE_RANK]; /* outermost first (GGUF's are reversed) */
    int file;                  /* index in the store */
    int used;                  /* a net has loaded it */
} qw_entry;

typedef enum qw_kind { /* kind of a file, from its keys */
                       QW_KIND_UNKNOWN,
                       QW_KIND_TRANSFORMER,
                       QW_KIND_TEXT,
                       QW_KIND_VISION,
                       QW_KIND_VAE,
                       QW_KIND_CHECKPOINT,
                       QW_KIND_LORA,
                       QW_KIND_CONTROLNET,
                       QW_KIND_BLOCKWISE,
                       QW_KIND_FUN,
                       QW_KIND_QWEN21,
                       QW_KIND_DUMP
} qw_kind;
const char *qw_kind_name(qw_kind k);
const char *qw_kind_article(qw_kind k); /* of the kind's name: "a", "an" */

typedef struct qw_store qw_store;

int qw_store_new(qw_store **out, qw_error *err);
void qw_store_free(qw_store *s); /* s may be NULL; unmaps the files */
/* Adds a .safetensors or .gguf file, an index.json with its shards, or a directory that holds one
 * of these.  Entries keep the file's names until qw_store_canonical. */
int qw_store_add(qw_store *s, const char *path, qw_error *err);
/* Decides the kind of the store and gives every entry its canonical name; part selects a component
 * of an all-in-one checkpoint (entries of other components are dropped), QW_KIND_UNKNOWN allows
 * every kind.  *found is the kind.  A kind other than the wanted part is QWEN_EMODEL, one that is
 * not supported QWEN_EUNSUPPORTED; both messages name it. */
int qw_store_canonical(qw_store *s, qw_kind part, qw_kind *found, qw_error *err);
/* Nonzero: the all-in-one checkpoint holds this part. */
int qw_store_has(const qw_store *s, qw_kind part);
const qw_entry *qw_store_find(const qw_store *s, const char *name); /* NULL if absent */
const qw_entry *qw_store_entry(const qw_store *s, int64_t i);       /* NULL past the last */
/* If path is a short regular file that holds a relative path (in place of a symbolic link, on
 * systems without them): 1 and that path, malloc'ed; else 0. */
int qw_follow_link_file(const char *path, char **resolved, qw_error *err);
const char *qw_store_path(const qw_store *s, int file);
/* Lets the system read ahead in the files added so far.  Before this call pages are read one by
 * one, so that opening a file of many gigabytes reads little of it. */
void qw_store_read_ahead(qw_store *s);
/* A string of the safetensors __metadata__ or of a GGUF key (strings and numbers printed), or
 * NULL. */
const char *qw_store_metadata(const qw_store *s, const char *key);
/* The highest N + 1 of keys that begin "<prefix>N.", or 0. */
int qw_store_count(const qw_store *s, const char *prefix);
/* Calls `each` with the entries that no net has loaded, but for known markers and companions
 * (scales, masks, time_conv ...); returns their number. */
int qw_store_unused(const qw_store *s, void (*each)(void *user, const qw_entry *e), void *user);

/* The number of modules that hold the rows of a linear layer: 1, the layer itself, or 3 of equal
 * size, q, k and v, where GGUF has split a fused "....attn.qkv"; and the name of the i-th. */
int qw_store_parts(const qw_store *s, const char *module);
void qw_part_name(const char *module, int parts, int i, char *out, size_t size);
/* The entry of a linear layer's weight (or an embedding) as an operand [n][k], with its companions:
 * scales, block scales, rotation, the second half of a patch embedding.  A layout that no operand
 * can express is unpacked into memory of the store (quantised.c). */
int qw_layout(qw_store *s, const qw_entry *weight, const char *module, int64_t n, int64_t k,
              qw_tensor *out, qw_error *err);
/* Memory that the store frees with itself; NULL with err set when there is none. */
void *qw_store_own(qw_store *s, size_t bytes, qw_error *err);
/* Nonzero: the address lies in the mapping of one of its files. */
int qw_store_maps(const qw_store *s, const void *data);
/* "[2, 3]", for messages. */
void qw_shape_text(const qw_entry *e, char *out, size_t size);
#endif
