/* ref.c - the reference devices: list, open, and their types. */
#include <qwen/ref.h>
#include "rows.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void ref_close(qw_device *dev) { free(dev); }

/* Bytes that can be allocated without swapping: MemAvailable, else free pages, else 4 GiB. */
static uint64_t host_memory(void)
{
    char line[128];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && !kib && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu", &kib) != 1) kib = 0;
    if (f) fclose(f);
    if (kib) return kib * 1024;
#ifdef _SC_AVPHYS_PAGES
    const long pages = sysconf(_SC_AVPHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page > 0) return (uint64_t)pages * (uint64_t)page;
#endif
    return UINT64_C(1) << 32;
}

void ref_init(qw_device *dev, const char *name, qw_dtype prefer, qw_dtype wide)
{
    /* Double throughout; the C library's exp and erfc are good to a few units. */
    const qw_arith arith = { .acc = 0x1p-53f, .mid = 0x1p-53f, .fun = 0x1p-50f };
    *dev = (qw_device){ .size = sizeof *dev,
                        .abi = QW_BACKEND_ABI,
                        .memory = host_memory(),
                        .host = 1,
                        .same_bits = 1,
                        .prefer = prefer,
                        .wide = wide,
                        .close = ref_close,
#define X(name) .op.name = ref_##name, .op.name##_arith = arith,
                        QW_OPS(X)
#undef X
    };
    snprintf(dev->name, sizeof dev->name, "%s", name);
}

static const struct {
    const char *name, *what;
    qw_dtype prefer, wide;
    double score;
} variant[] = {
    { "ref", "the reference: computes in double, keeps f32", QW_F32, QW_F32, 1 },
    { "ref64", "the oracle: computes in double, keeps f64", QW_F64, QW_F64, 0 },
    { "ref:bf16", "the reference with branches kept in bf16", QW_BF16, QW_F32, 0 },
    { "ref:int8", "the reference with branches of 8-bit codes", QW_BF16, QW_F32, 0 },
};
enum { INT8 = 3, VARIANTS = sizeof variant / sizeof variant[0] };

static int ref_list(int i, qw_listing *out)
{
    if (i < 0 || i >= VARIANTS) return QW_DECLINE;
    snprintf(out->name, sizeof out->name, "%s", variant[i].name);
    snprintf(out->what, sizeof out->what, "%s", variant[i].what);
    out->score = variant[i].score;
    out->memory = host_memory();
    return QWEN_OK;
}

static int ref_open(int i, const qw_open_options *options, qw_device **out)
{
    *out = NULL;
    if (i < 0 || i >= VARIANTS) return QW_DECLINE;
    qw_device *dev = malloc(sizeof *dev);
    if (!dev) return QWEN_ENOMEM;
    ref_init(dev, variant[i].name, variant[i].prefer, variant[i].wide);
    dev->threads = options->threads;
    if (i == INT8) {
        dev->quant = QW_I8;
        dev->op.gemm = ref_gemm_int8;
        dev->op.gemm_arith.row_w = 1 / 254.0f; /* half a step */
    }
    *out = dev;
    return QWEN_OK;
}

const qw_backend ref_backend = { sizeof ref_backend, QW_BACKEND_ABI, "ref", ref_list, ref_open };
