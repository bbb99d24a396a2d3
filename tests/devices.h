/* devices.h - devices of the tests: by name, one that declines everything, one with far memory. */
#ifndef QW_DEVICES_H
#define QW_DEVICES_H
#include "core/run.h"

qw_device *open_device(const char *name); /* one thread */
/* "ref" that declines every op. */
qw_device *open_declining(void);

/* Memory behind addresses that no program can touch, and two queues: computes at once, copies
 * packed weights as late as it may, which is when somebody waits.  Closing asserts that all memory
 * is free. */
typedef struct far_copy {
    void *dst;
    const void *src;
    size_t bytes;
    uint64_t ticket;
} far_copy;
typedef struct far_device {
    qw_device d;
    qw_device *ref;
    far_copy pending[256];
    int n;
    uint64_t tickets, packs;
    uint64_t held; /* bytes of its memory */
} far_device;
far_device *far_of(qw_device *d);
qw_device *open_far(void);
qw_device *open_far_declining(void); /* packs nothing */
#endif
