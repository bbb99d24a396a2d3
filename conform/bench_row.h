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
    uint64_t declined;          /* ops that the device left to the reference, in all runs */
    int has_roof;
    qw_roof_kind arithmetic; /* of the floor */
    qw_roof roof;
    double seconds_ago; /* since the older measurement of the roof */
} qw_bench_row;

typedef struct qw_bench_options {
    qw_device *dev, *ref, *oracle; /* ref: for what dev declines; oracle: ref64 */
    int threads, repeat;           /* 0: chosen */
    int error;                     /* of whole nets too */
} qw_bench_options;

/* Measures one work. */
int qw_bench_measure(qw_bench_row *row, const qw_work *w, const qw_bench_options *o, qw_error *err);
/* One line, in JSON, or for people. */
void qw_bench_print_json(FILE *f, const qw_bench_row *row);
void qw_bench_print(FILE *f, const qw_bench_row *row);
#endif
