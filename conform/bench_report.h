/* bench_report.h - the report of a device: machine, devices, timings, coverage, cases. */
#ifndef QW_BENCH_REPORT_H
#define QW_BENCH_REPORT_H
#include "bench_row.h"

typedef struct qw_report qw_report;
/* Opens FILE.part and writes the machine and the devices. */
int qw_report_begin(qw_report **out, const char *path, const qw_bench_options *o, qw_error *err);
void qw_report_row(qw_report *r, const qw_bench_row *row);
/* A work that was not timed, with the reason. */
void qw_report_skip(qw_report *r, const char *work, const char *why);
/* Judges the device, some cases of each operation and type, writes what was found and gives the
 * file its name.  oracle NULL: the report is dropped.  Frees r. */
int qw_report_end(qw_report *r, qw_device *oracle, qw_error *err);
#endif
