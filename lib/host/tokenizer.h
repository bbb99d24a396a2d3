/* tokenizer.h - a tokenizer in memory, made by tokenizer_load.c from files and used by
 * tokenizer.c. */
#ifndef QW_TOKENIZER_H
#define QW_TOKENIZER_H
#include "host/text.h"

/* (a, b) -> (rank, id), open addressing; a key of 0 is an empty slot. */
typedef struct qw_pair_slot {
    uint64_t key;
    int32_t rank, id;
} qw_pair_slot;
typedef struct qw_pair_map {
    qw_pair_slot *slot;
    size_t mask;
} qw_pair_map;

uint64_t qw_pair_key(int32_t a, int32_t b); /* a, b >= 0 */
/* The slot of (a, b), or the empty one where it belongs. */
qw_pair_slot *qw_pair_at(const qw_pair_map *m, int32_t a, int32_t b);

struct qw_tokenizer {
    qw_pair_map merges; /* (left id, right id) -> (rank, id of both) */
    int32_t byte_id[256];
    qw_pair_map trie; /* added tokens: (node, byte) -> node; node 0 is the root */
    int32_t *node_id; /* token that ends at a node, or -1 */
    int nfc;
};
#endif
