/* roof.c - measures what the processor can do: short spells on all threads, the best of them. */
#define _DEFAULT_SOURCE /* madvise */
#include "roof.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#define OMP(x)    PRAGMA(omp x)
#define PRAGMA(x) _Pragma(#x)
#else
#define OMP(x)
#endif

/* Memory is read in runs of PART.  SPELL seconds are longer than a thread needs to start and
 * shorter than a turn of the scheduler. */
enum { SPELLS = 10, THREADS = 1024, LINE = 256, HUGE = 2 << 20, READ = 512 << 20, PART = 8 << 20 };
static const double SPELL = 1.5e-3;

const char *const qw_roof_name[QW_ROOFS] = { "f32", "bf16", "int8", "read" };

double qw_seconds(void)
{
    struct timespec t = { 0 };
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int qw_threads(void)
{
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

typedef double product(int64_t rounds, volatile double *sink);

static product *product_of(const qw_roof_set *set, int kind)
{
    return kind == QW_ROOF_F32 ? set->f32 : kind == QW_ROOF_BF16 ? set->bf16 : set->int8;
}

/* One spell on every thread at once; rate[t] becomes the best of thread t. */
static void spell(product *f, int64_t rounds, int threads, double *rate)
{
    OMP(parallel for num_threads(threads) schedule(static, 1))
    for (int t = 0; t < threads; t++) {
        volatile double sink;
        const double from = qw_seconds(), done = f(rounds, &sink), seconds = qw_seconds() - from;
        if (seconds > 0 && done / seconds > rate[t]) rate[t] = done / seconds;
    }
}

/* The sum of the best spell of each thread: a disturbed spell counts for no thread. */
static double products(product *f, int threads)
{
    double rate[THREADS] = { 0 }, sum = 0;
    volatile double sink;
    const double each = f(1, &sink);
    int64_t rounds = 1 << 10;
    for (int i = 0; i < SPELLS; i++) {
        spell(f, rounds, threads, rate);
        rounds = (int64_t)(SPELL * rate[0] / each) + 1;
    }
    for (int t = 0; t < threads; t++) sum += rate[t];
    return sum;
}

/* Bytes that the caches cannot hold. */
static size_t beyond(void)
{
#if defined _SC_LEVEL3_CACHE_SIZE
    const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (cache > READ / 4) return (size_t)cache / PART * PART * 4;
#endif
    return READ;
}

/* The best part of memory that was written before, from the part written first on, so that none of
 * it is left in a cache; each thread reads a run of its own.  The last quarter is not read. */
static double reading(const qw_roof_set *set, int threads)
{
    const size_t bytes = beyond(), run = PART / (size_t)threads / LINE * LINE;
    void *memory = NULL;
    double best = 0;
    if (posix_memalign(&memory, HUGE, bytes)) return 0;
#if defined MADV_HUGEPAGE
    madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    const unsigned char *x = memset(memory, 1, bytes);
    for (size_t at = 0; at < bytes / 4 * 3; at += PART) {
        const double from = qw_seconds();
        OMP(parallel for num_threads(threads) schedule(static, 1))
        for (int t = 0; t < threads; t++) {
            volatile double sink;
            set->read(x + at + (size_t)t * run, run, &sink);
        }
        const double rate = (double)run * threads / (qw_seconds() - from);
        if (rate > best) best = rate;
    }
    free(memory);
    return best;
}

static double better(double a, double b) { return a > b ? a : b; }

void qw_roof_measure(qw_roof *roof, int threads)
{
    const qw_roof_set *set, *reads = NULL;
    memset(roof, 0, sizeof *roof);
    if (threads < 1) threads = qw_threads();
    if (threads > THREADS) threads = THREADS;
#ifndef _OPENMP
    threads = 1;
#endif
    for (int i = 0; (set = qw_roof_set_at(i, NULL)) != NULL; i++) {
        for (int kind = 0; kind < QW_ROOF_READ; kind++) {
            product *f = product_of(set, kind);
            if (f) roof->of[kind] = better(roof->of[kind], products(f, threads));
        }
        if (set->read) reads = set; /* the widest */
    }
    if (reads) roof->of[QW_ROOF_READ] = reading(reads, threads);
    roof->at = qw_seconds();
}

qw_roof qw_roof_best(const qw_roof *a, const qw_roof *b)
{
    qw_roof best = { .at = a->at < b->at ? a->at : b->at };
    for (int i = 0; i < QW_ROOFS; i++) best.of[i] = better(a->of[i], b->of[i]);
    return best;
}
