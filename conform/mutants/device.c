/* device.c - the device: its table of ops, its scratch, its fault. */
#include "mutant.h"
#include <qwen/ref.h>
#include <stdlib.h>
#include <string.h>

static size_t scratch(qw_device *d, enum qw_op op, const void *args)
{
    const size_t threads = (size_t)plain_threads(d);
    switch (op) {
#define X(name) \
    case QW_OP_##name: return threads * plain_##name##_scratch(args);
        QW_OPS(X)
#undef X
    default: return 0;
    }
}

static int fault_named(const char *name)
{
    static const char *const names[M_COUNT] = { "",
#define X(name, op, what) #name,
                                                MUTANTS(X)
#undef X
    };
    for (int i = 0; i < M_COUNT; i++)
        if (!strcmp(name, names[i])) return i;
    return -1;
}

int plain_open(qw_device **out)
{
    const char *name = getenv("QW_MUTANT");
    const int fault = fault_named(name ? name : "");
    if (fault < 0) return QWEN_EARG;
    plain_device *p = calloc(1, sizeof *p);
    if (!p) return QWEN_ENOMEM;
    ref_init(&p->d, "plain", QW_BF16, QW_F32);
    p->fault = fault;
    p->d.quant = QW_I8;
    p->d.scratch = scratch;
    const qw_arith arith = { .mul[QW_CLASS_BLOCK] = 0x1p-24f, /* the second scale of NVFP4 */
                             .acc = 0x1p-24f,
                             .mid = 0x1p-24f,
                             .fun = 0x1p-21f };
#define X(op_name)                     \
    p->d.op.op_name = plain_##op_name; \
    p->d.op.op_name##_arith = arith;
    QW_OPS(X)
#undef X
    *out = &p->d;
    return QWEN_OK;
}
