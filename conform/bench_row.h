/* bench_row.h - a row of the benchmark: what was measured of a work on a device, and its line. */
#ifndef QW_BENCH_ROW_H
#define QW_BENCH_ROW_H
#include "bench.h"
#include <stdio.h>

typedef struct qw_bench_row {
    char work[96], device[48]; /* device: "" for the roof */
    qw_times times;
    double cold;                /* seconds of the first run, whose weights no run had touched */
    double floor, flops, bytes; /* floor 0: unknown */
    double rss_anon;            /* 0: unknown */
    double error;               /* negative: not measured */
    double before;              /* median of an earlier run to compare with, or 0 */
    uint64_t declined;          /* ops that the device left to the reference, in all runs */
    int threads;                /* as asked for; 0: all */
    int has_roof;
    qw_roof_kind arithmetic; /* of the floor */
    qw_roof roof;
    double seconds_ago; /* since the older measurement of the roof */
} qw_bench_row;

typedef struct qw_bench_options {
    qw_device *dev, *ref, *oracle; /* ref: for what dev declines; oracle: ref64 */
    int threads, repeat;           /* 0: chosen */
    int error;                     /* of whole nets too */
    int roof;                      /* is measured around the repetitions; else no floor */
} qw_bench_options;

/* --- bench_against.c: lines of an earlier run ------------------------------------------------ */
typedef struct qw_against qw_against;
int qw_against_open(qw_against **out, const char *path, qw_error *err);
void qw_against_free(qw_against *a);
/* The median of a work on a device, or 0. */
double qw_against_find(const qw_against *a, const char *work, const char *device);

/* --- bench_row.c ----------------------------------------------------------------------------- */
/* Measures one work. */
int qw_bench_measure(qw_bench_row *row, const qw_work *w, const qw_bench_options *o, qw_error *err);
/* Nonzero: the median is more than 10 % above the earlier one. */
int qw_bench_slower(const qw_bench_row *row);
/* One line, in JSON, or for people. */
void qw_bench_print_json(FILE *f, const qw_bench_row *row);
void qw_bench_print(FILE *f, const qw_bench_row *row);
#endif
