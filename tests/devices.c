/* devices.c - devices of the tests by name, and one that declines everything. */
#include "devices.h"
#include "testing.h"
#include <string.h>

qw_device *open_device(const char *name)
{
    qw_device *d = NULL;
    qw_error e = { 0 };
    ck_assert_msg(!qw_device_open(name, &(qw_device_options){ .threads = 1 }, &d, &e), "%s",
                  e.text);
    return d;
}

#define X(name)                                                        \
    static int decline_##name(qw_device *d, const qw_##name##_args *a) \
    {                                                                  \
        (void)d;                                                       \
        (void)a;                                                       \
        return QW_DECLINE;                                             \
    }
QW_OPS(X)
#undef X

static void decline_all(qw_device *d)
{
#define X(op_name) d->op.op_name = decline_##op_name;
    QW_OPS(X)
#undef X
}

qw_device *open_declining(void)
{
    qw_device *d = open_device("ref");
    strcpy(d->name, "stub");
    decline_all(d);
    return d;
}
