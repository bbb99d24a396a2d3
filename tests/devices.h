/* devices.h - devices of the tests by name, and one that declines everything. */
#ifndef QW_DEVICES_H
#define QW_DEVICES_H
#include "core/run.h"

qw_device *open_device(const char *name); /* one thread */
/* "ref" that declines every op. */
qw_device *open_declining(void);
#endif
