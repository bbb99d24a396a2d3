/* bench_inside.h - what the files of a placed work share. */
#ifndef QW_BENCH_INSIDE_H
#define QW_BENCH_INSIDE_H
#include "bench.h"

enum { QW_COPIES = 64, QW_BENCH_VOCAB = 512 };
#endif
