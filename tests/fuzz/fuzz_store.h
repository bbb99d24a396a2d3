/* fuzz_store.h - the checks of a file of tensors in any format. */
#ifndef QW_FUZZ_STORE_H
#define QW_FUZZ_STORE_H
#include "weights/weights.h"

/* Reads one byte of every page of an entry, so that a range beyond the mapping is seen. */
static inline unsigned touch(const qw_entry *e)
{
    unsigned sum = 0;
    for (size_t i = 0; i < e->bytes; i += 4096) sum += ((const unsigned char *)e->data)[i];
    return e->bytes ? sum + ((const unsigned char *)e->data)[e->bytes - 1] : sum;
}

static inline int fuzz_store(const char *path)
{
    qw_error err = { 0 };
    qw_store *s = NULL;
    if (!path || qw_store_new(&s, &err)) return 0;
    if (!qw_store_add(s, path, &err)) {
        qw_kind kind = QW_KIND_UNKNOWN;
        volatile unsigned sum = 0; /* keeps the reading alive */
        (void)sum;
        for (int64_t i = 0; qw_store_entry(s, i); i++) sum += touch(qw_store_entry(s, i));
        if (!qw_store_canonical(s, QW_KIND_UNKNOWN, &kind, &err))
            for (int64_t i = 0; qw_store_entry(s, i); i++) sum += touch(qw_store_entry(s, i));
    }
    qw_store_free(s);
    return 0;
}
#endif
