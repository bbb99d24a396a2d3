/* weights.h - named tensors to weights on a device: layers, residency, the loader, LoRA laid
 * over. */
#ifndef QW_WEIGHTS_H
#define QW_WEIGHTS_H
#include "core/run.h"
#include "files/config.h"
#include "files/lora.h"

/* --- layers --- */
/* A linear layer: rows of up to three parts (q, k, v; gate, up), each with dtype, scale and
 * bias. */
enum { QW_PARTS = 3 };
typedef struct qw_weight_part {
    qw_tensor w;    /* [n][k] */
    qw_tensor bias; /* [n] of the device's wide type, or absent */
    qw_tensor a, b; /* LoRA: [r][k], [n][r] with the strength in it, or absent */
    int patched;    /* w or bias is a copy that a LoRA has changed */
    char *name;     /* canonical module name, for LoRA and messages; owned */
} qw_weight_part;
typedef struct qw_weight {
    int64_t n, k; /* n: rows of all parts */
    int parts;
    int plain; /* its inputs are of the preferred type, also on devices that quantise */
    qw_weight_part part[QW_PARTS];
    /* [n][k] and [n]: all parts as one, where pack has joined them, else absent.  The parts of a
     * joined weight have no device memory of their own. */
    qw_tensor joined, joined_bias;
} qw_weight;
typedef struct qw_conv {
    qw_tensor w, bias; /* [co][kh][kw][ci], or [co][ci] of a pointwise one; [co] */
    int64_t co, ci, kernel;
} qw_conv;

typedef struct qw_residency qw_residency;
typedef struct qw_group qw_group;

/* memory: device bytes for weights to stay under; 0: what is free. */
int qw_residency_new(qw_residency **out, qw_device *dev, uint64_t memory, qw_error *err);
void qw_residency_free(qw_residency *s);
qw_device *qw_residency_device(const qw_residency *s);
/* NULL: no memory. */
qw_group *qw_group_new(qw_residency *s, const char *format, ...) QW_PRINTF(2, 3);
/* After the last load: decides which groups are kept and which stream; moves the kept ones. */
int qw_residency_commit(qw_residency *s, qw_error *err);
/* Bytes of weights; what: 0 kept on the device, 1 streamed, 2 copied or unpacked instead of used in
 * the mapping. */
uint64_t qw_residency_bytes(const qw_residency *s, int what);
/* A net calls them before and after the ops that use a group's weights.  qw_group_end of a streamed
 * group issues the copy of the next one, behind the ops of this one. */
void qw_group_begin(qw_run *r, qw_group *g);
void qw_group_end(qw_run *r, qw_group *g);

/* The argument of a net's load function.  Every call checks shapes against the entry, records the
 * first failure in err and does nothing after it: a net is checked once, at its end.  With `each`
 * set, the calls after a failure go on: `each` is called for every tensor that is missing (with its
 * name, else NULL) or wrong.  Then the net must not be used, and qw_loader_end returns the first
 * failure. */
typedef struct qw_loader {
    qw_store *store;
    qw_residency *res;
    qw_group *group; /* group of the parts loaded next */
    qw_error *err;
    void (*each)(void *user, const char *missing, const char *sentence);
    void *user;
    int failures;
    qw_error first;
    char missing[288]; /* name of the tensor last found missing */
} qw_loader;
/* With `each`: puts the first failure back into err.  Returns the status of err. */
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
/* A convolution of one pixel as a matrix [co][ci], for gemm. */
void qw_load_pointwise(qw_loader *l, qw_conv *c, int64_t co, int64_t ci, const char *format, ...)
    QW_PRINTF(5, 6);
/* <name> itself as a host tensor [n][k] that stays in the mapping: the token embedding. */
void qw_load_table(qw_loader *l, qw_tensor *t, int64_t n, int64_t k, const char *format, ...)
    QW_PRINTF(5, 6);
/* Frees the names; the data belong to the store and the residency. */
void qw_weight_free(qw_weight *w);

/* --- LoRA (overlay.c) --- */
typedef struct qw_lora_site { /* a linear layer of the net, by its canonical module name */
    qw_weight_part *part;
    int64_t n, k;
} qw_lora_site;
typedef struct qw_overlay qw_overlay;
/* Lays the files, in this order, over the layers: low-rank differences as factors a, b of the part,
 * all others as a patched copy of the weight.  Keys that match no layer are QWEN_EMODEL, or with
 * `partial` a notice; a file of which nothing matches is always an error. */
int qw_overlay_new(qw_overlay **out, qw_lora *const *lora, int loras, const qw_lora_site *site,
                   int sites, qw_device *dev, int partial,
                   void (*notice)(void *user, const char *line), void *user, qw_error *err);
void qw_overlay_free(qw_overlay *o); /* restores the layers; NULL is fine */
uint64_t qw_overlay_bytes(const qw_overlay *o);
#endif
