/* lora.h - a LoRA file: its tensors grouped by module, for weights/overlay.c to lay over a net. */
#ifndef QW_LORA_H
#define QW_LORA_H
#include "files/store.h"

typedef struct qw_lora qw_lora;
/* Opens a file and groups its tensors by module; nothing is matched yet. */
int qw_lora_open(qw_lora **out, const char *path, double strength, qw_error *err);
void qw_lora_free(qw_lora *l);

typedef enum qw_role { /* role of a tensor in its module */
                       QW_UP,
                       QW_DOWN, /* [n][r], [r][k] */
                       QW_ALPHA,
                       QW_DORA, /* one value; [n][1] or [1][k] */
                       QW_DIFF,
                       QW_DIFF_B,
                       QW_SET, /* [n][k], [n], [n][k] */
                       QW_W1_A,
                       QW_W1_B,
                       QW_W2_A,
                       QW_W2_B, /* LoHa: [n][r], [r][k] twice */
                       QW_K1,
                       QW_K1_A,
                       QW_K1_B,
                       QW_K2,
                       QW_K2_A,
                       QW_K2_B, /* LoKr */
                       QW_ROLES
} qw_role;

enum { QW_LORA_MODULES = 16384 }; /* more than any net of this family has */

typedef struct qw_lora_module {
    char *base; /* as in the file, prefix included */
    const qw_entry *role[QW_ROLES];
} qw_lora_module;

struct qw_lora {
    char *path;
    double strength;
    qw_store *store;
    qw_lora_module *module;
    int64_t modules, room;
    double alpha, alpha_rank; /* of the header; alpha 0: none */
    const char *stray;        /* the first key that is no LoRA's, and their number */
    int64_t strays;
};

/* Splits a key into base and role; 0: no suffix of a LoRA. */
int qw_lora_key(const char *key, size_t *base, qw_role *role);
/* All values of an entry as doubles; one that is not finite is an error.  malloc'ed, NULL with err
 * set.  expected: their number, < 0: any. */
double *qw_lora_values(const qw_lora *l, const qw_entry *e, int64_t expected, qw_error *err);
/* alpha / rank of a module, 1 where there is no alpha. */
int qw_lora_factor(const qw_lora *l, const qw_lora_module *m, double rank, double *factor,
                   qw_error *err);
#endif
