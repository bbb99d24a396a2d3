/* weights.h - from files to weights: store (names -> host tensors over mapped files), LoRA, residency,
 * and the loader through which nets take their weights.
 *
 * A store maps files and never reads them whole.  Inside a store every component has canonical
 * names, whatever the file calls its tensors: the transformer and the VAE those of diffusers
 * ("transformer_blocks.0.attn.to_q.weight", "decoder.mid_block.resnets.0.norm1.gamma"), the
 * language model "model.layers.0...", the vision tower "visual.blocks.0...".  Prefixes, Wan names,
 * llama.cpp names are undone when a file is added. */
#ifndef QW_LOAD_H
#define QW_LOAD_H
#include "core/run.h"
#include <jansson.h>

enum { QW_FILE_RANK = 8 };

/* One tensor of a file, as it lies there. */
typedef struct qw_entry {
    char *name;       /* canonical; owned by the store */
    const char *key;  /* as in the file (for messages and header look-ups) */
    const void *data; /* into the mapping, not aligned; or owned by the store */
    size_t bytes;
    qw_dtype dtype;
    int rank;
    int64_t dim[QW_FILE_RANK]; /* outermost first (GGUF's are reversed) */
    int file;                  /* index in the store */
    int used;                  /* a net has taken it */
} qw_entry;

typedef enum qw_kind { /* what a file is, from its keys */
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
const char *qw_kind_article(qw_kind k); /* "a", "an" */

typedef struct qw_store qw_store;

int qw_store_new(qw_store **out, qw_error *err);
void qw_store_free(qw_store *s); /* NULL is fine; unmaps */
/* Adds a .safetensors or .gguf file, an index.json with its shards, or a directory that holds one
 * of these.  Entries keep the file's names until qw_store_canonical. */
int qw_store_add(qw_store *s, const char *path, qw_error *err);
/* Decides what the store holds and gives every entry its canonical name; part selects a component
 * of an all-in-one checkpoint (entries of other components are dropped from the name space). part
 * QW_KIND_UNKNOWN: whatever it is.  *found says what it is.  A kind other than the wanted part is
 * QWEN_EMODEL; what exists but is not supported QWEN_EUNSUPPORTED; both name what it is. */
int qw_store_canonical(qw_store *s, qw_kind part, qw_kind *found, qw_error *err);
/* Has an all-in-one checkpoint this part? */
int qw_store_has(const qw_store *s, qw_kind part);
const qw_entry *qw_store_find(const qw_store *s, const char *name); /* NULL if absent */
const qw_entry *qw_store_entry(const qw_store *s, int64_t i);       /* NULL past the last */
/* Where path is a short regular file that holds a relative path (what git leaves of a symbolic link
 * on systems without them), 1 and that path, malloc'ed; else 0. */
int qw_follow_link_file(const char *path, char **resolved, qw_error *err);
const char *qw_store_path(const qw_store *s, int file);
/* From now on weights are read through: until this, pages come one by one, so that opening a file
 * of many gigabytes reads little of it. */
void qw_store_read_ahead(qw_store *s);
/* A string of the safetensors __metadata__ or of a GGUF key (strings and numbers printed), or
 * NULL. */
const char *qw_store_metadata(const qw_store *s, const char *key);
/* The highest N + 1 of keys that begin "<prefix>N.", or 0. */
int qw_store_count(const qw_store *s, const char *prefix);
/* Entries no net has taken, but for known markers and companions (scales, masks, time_conv ...). */
int qw_store_unused(const qw_store *s, void (*each)(void *user, const qw_entry *e), void *user);

/* JSON files: size-bounded, depth-bounded, no duplicate keys.  Caller json_decref()s. */
int qw_json_file(const char *path, json_t **out, qw_error *err);

/* --- configurations (config.c); numbers come from the file, published ones where it is silent */
typedef struct qw_text_config {
    int64_t vocab, width, ff, layers, heads, kv_heads, head; /* head = width / heads */
    double eps, theta;
    int section[3]; /* M-RoPE: frequencies of time, height, width */
    int tied;
    int32_t image_token, vision_start, vision_end;
} qw_text_config;
typedef struct qw_vision_config {
    int64_t depth, width, ff, heads, head, out, patch, temporal, merge, window, channels;
    int full[64], fulls; /* blocks with full attention */
    double eps;
    int64_t min_pixels, max_pixels; /* from preprocessor_config.json */
    double mean[3], std[3];
} qw_vision_config;
typedef struct qw_dit_config {
    int64_t layers, heads, head, width, text_width, in, out, patch; /* in: packed features, 64 */
    int64_t axes[3];
    int zero_cond_t, additional_t, layer3d;
} qw_dit_config;
typedef struct qw_vae_config {
    int64_t base, z, mult[8], levels, res_blocks, channels;
    double mean[64], std[64];
} qw_vae_config;
typedef struct qw_schedule_config {
    double shift, base_shift, max_shift, terminal; /* terminal 0: none */
    int64_t base_len, max_len, train_steps;
    int dynamic, linear; /* time_shift_type linear, else exponential */
} qw_schedule_config;
/* Each reads `json` (NULL: published numbers) and lets the store's shapes decide or contradict it.
 * `where` names the file in messages.  Errors name the key: "num_layers". */
int qw_text_configure(qw_text_config *c, const json_t *json, const qw_store *s, const char *where,
                      qw_error *err);
int qw_vision_configure(qw_vision_config *c, const json_t *json, const json_t *processor,
                        const qw_store *s, const char *where, qw_error *err);
int qw_dit_configure(qw_dit_config *c, const json_t *json, const qw_store *s, const char *where,
                     qw_error *err);
int qw_vae_configure(qw_vae_config *c, const json_t *json, const qw_store *s, const char *where,
                     qw_error *err);
int qw_schedule_configure(qw_schedule_config *c, const json_t *json, const char *where,
                          qw_error *err);

/* --- weights ------------------------------------------------------------------------------- */
/* A linear layer: rows of up to three parts (q, k, v; gate, up), each with dtype, scale and
 * bias. */
enum { QW_PARTS = 3 };
typedef struct qw_weight_part {
    qw_tensor w;    /* [n][k] */
    qw_tensor bias; /* [n] of the device's wide type, or absent */
    qw_tensor a, b; /* LoRA: [r][k], [n][r] with the strength in it, or absent */
    char *name;     /* canonical module name, for LoRA and messages; owned */
} qw_weight_part;
typedef struct qw_weight {
    int64_t n, k; /* n: rows of all parts */
    int parts;
    qw_weight_part part[QW_PARTS];
} qw_weight;
typedef struct qw_conv {
    qw_tensor w, bias;
    int64_t co, ci, kernel;
} qw_conv; /* w [co][kh][kw][ci] */

typedef struct qw_residency qw_residency;
typedef struct qw_group qw_group;

/* memory: device bytes for weights to stay under; 0: what is free. */
int qw_residency_new(qw_residency **out, qw_device *dev, uint64_t memory, qw_error *err);
void qw_residency_free(qw_residency *s);
/* NULL: no memory. */
qw_group *qw_group_new(qw_residency *s, const char *format, ...) QW_PRINTF(2, 3);
/* After the last load: decides which groups are kept and which stream; moves the kept ones. */
int qw_residency_commit(qw_residency *s, qw_error *err);
/* what: 0 kept on the device, 1 streamed, 2 copies made here. */
uint64_t qw_residency_bytes(const qw_residency *s, int what);
/* Around the use of a group's weights by ops of this run.  The next group in order is fetched
 * ahead. */
void qw_group_begin(qw_run *r, qw_group *g);
void qw_group_end(qw_run *r, qw_group *g);

/* What a net's load function is given.  Every call checks shapes against the entry, records the
 * first failure in err and does nothing after it: a net is checked once, at its end.  With `each`
 * the calls go on: it hears of every tensor that is missing (its name, else NULL) or wrong, and
 * what was loaded serves for nothing but qw_loader_end, which gives the first failure back. */
typedef struct qw_loader {
    qw_store *store;
    qw_residency *res;
    qw_group *group; /* where what is loaded next belongs */
    qw_error *err;
    void (*each)(void *user, const char *missing, const char *sentence);
    void *user;
    int failures;
    qw_error first;
    char missing[288]; /* the name of the last that is */
} qw_loader;
/* Restores the first failure of a loader with `each`; the status of err. */
int qw_loader_end(qw_loader *l);
/* Appends one part: <name>.weight [n][k] with its scales, and <name>.bias [n] if `bias` (required
 * then). */
void qw_load_part(qw_loader *l, qw_weight *w, int64_t n, int64_t k, int bias, const char *format,
                  ...) QW_PRINTF(6, 7);
/* n values of any shape, as a 1-D tensor of the device's wide type. */
void qw_load_vector(qw_loader *l, qw_tensor *t, int64_t n, const char *format, ...) QW_PRINTF(4, 5);
/* <name>.weight [co][ci][kh][kw], [co][ci][kt][kh][kw] (last temporal tap) and <name>.bias. */
void qw_load_conv(qw_loader *l, qw_conv *c, int64_t co, int64_t ci, int64_t kernel,
                  const char *format, ...) QW_PRINTF(6, 7);
/* <name> itself as a host tensor [n][k] that stays in the mapping: the token embedding. */
void qw_load_table(qw_loader *l, qw_tensor *t, int64_t n, int64_t k, const char *format, ...)
    QW_PRINTF(5, 6);
/* The columns joined: parts of one matrix split along the inputs (the vision patch embedding in
 * GGUF). */
void qw_weight_free(qw_weight *w); /* names only; data belongs to store and residency */

/* --- LoRA (lora.c, overlay.c) -------------------------------------------------------------- */
typedef struct qw_lora qw_lora;
/* Opens a file and groups its tensors by module; nothing is matched yet. */
int qw_lora_open(qw_lora **out, const char *path, double strength, qw_error *err);
void qw_lora_free(qw_lora *l);

typedef struct qw_lora_site { /* a linear layer of the net, by its canonical module name */
    qw_weight_part *part;
    int64_t n, k;
} qw_lora_site;
typedef struct qw_overlay qw_overlay;
/* Lays the files, in this order, over the layers: low rank as run-time factors a, b of the part,
 * what is not low-rank as a patched copy of the weight.  Keys that match no layer are QWEN_EMODEL,
 * or with `partial` a notice; a file of which nothing matches is always an error. */
int qw_overlay_new(qw_overlay **out, qw_lora *const *lora, int loras, const qw_lora_site *site,
                   int sites, qw_device *dev, int partial,
                   void (*notice)(void *user, const char *line), void *user, qw_error *err);
void qw_overlay_free(qw_overlay *o); /* the layers are as they were; NULL is fine */
uint64_t qw_overlay_bytes(const qw_overlay *o);
/* Row i of a [n][k] host weight as doubles, scales applied, in the original basis (not rotated). */
void qw_weight_row(const qw_tensor *w, int64_t i, double *out, float *scratch /* [k] */);
#endif
