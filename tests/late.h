/* late.h - a device of the tests with memory of its own and two queues that run late.
 *
 * Its addresses are no host addresses.  Work of either queue is done in order, but otherwise at
 * random times: some of it when something is called, the rest when the host waits.  Only wait()
 * orders the queues.  Every access is checked against the blocks that are allocated then; a packed
 * weight is unreadable to all others.  Ops compute what "ref" computes. */
#ifndef QW_LATE_H
#define QW_LATE_H
#include "core/run.h"

enum { TAPES = 64 };

typedef struct late_task late_task;
typedef struct late_block late_block;
typedef struct late_list {
    late_task *first, **last;
} late_list;

typedef struct late_device {
    qw_device d;
    /* Settable by a test after opening. */
    unsigned declines; /* bits 1 << QW_OP_...: ops that it declines */
    int joins;         /* pack makes one matrix of parts of one type without scales */
    int blocks;        /* put and pack return when the copy is done */
    uint64_t op_ticks, kilobyte_ticks; /* ticks of an op; ticks of a copy of 1024 bytes */
    uint64_t fails_at;                 /* number of the op that fails, from 1; 0: none */
    /* Counters. */
    uint64_t ops, puts, gets, waits, syncs, packs, joined, replays;
    uint64_t held;              /* bytes of memory now */
    uint64_t ticks[QW_NQUEUES]; /* tick at which each queue will be empty */
    uint64_t busy[QW_NQUEUES];  /* ticks that each has worked */
    uint64_t now;               /* the host's tick; waiting advances it */
    /* Its own. */
    qw_device *ref;
    uint64_t seed, computed;
    late_block *block;
    late_list queue[QW_NQUEUES];
    uint64_t issued[QW_NQUEUES], done[QW_NQUEUES];
    struct late_mark {
        int queue;
        uint64_t issued, ticks;
    } * mark;
    uint64_t marks;
    late_list tape[TAPES];
    int tapes, recording;
    int dead, noticed; /* an op has failed; a call has waited since */
} late_device;

late_device *late_of(qw_device *d);
/* Closing asserts that nothing is allocated. */
qw_device *open_late(uint64_t seed);
#endif
