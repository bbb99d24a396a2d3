/* judge_device.c - the verdict on a device itself: memory, copies, queues, clock. */
#include "fill.h"
#include "trial.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int judge_alignment(qw_trial *t, qw_verdict *v)
{
    static const size_t sizes[] = { 1, 255, 256, 257, 4096, 1000003 };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        void *p = qw_trial_device(t, sizes[i]);
        if (!p) return qw_trial_fail(v, "alloc of %zu bytes failed", sizes[i]);
        if ((uintptr_t)p % 256)
            return qw_trial_fail(v, "alloc of %zu bytes is not aligned to 256", sizes[i]);
    }
    return 0;
}

/* Odd sizes at odd offsets come back, neighbours stay. */
static int judge_copies(qw_trial *t, qw_verdict *v)
{
    enum { SIZE = 5000 };
    unsigned char *a = qw_trial_host(t, SIZE), *b = qw_trial_host(t, SIZE),
                  *p = qw_trial_device(t, SIZE);
    if (!a || !b || !p) return qw_trial_fail(v, "no memory");
    qw_random r = qw_random_of(1, 2);
    for (int i = 0; i < SIZE; i++) a[i] = (unsigned char)qw_next(&r);
    if (t->dev->put(t->dev, QW_COMPUTE, p, a, SIZE)) return qw_trial_fail(v, "put failed");
    for (int i = 0; i < 20; i++) {
        const size_t at = qw_below(&r, SIZE - 1200), n = 1 + qw_below(&r, 1199);
        for (size_t k = 0; k < n; k++) a[at + k] ^= 0x5a;
        if (t->dev->put(t->dev, i % 2 ? QW_COPY : QW_COMPUTE, p + at, a + at, n)
            || t->dev->sync(t->dev))
            return qw_trial_fail(v, "put of %zu bytes failed", n);
        if (t->dev->get(t->dev, QW_COMPUTE, b, p, SIZE)) return qw_trial_fail(v, "get failed");
        if (memcmp(a, b, SIZE))
            return qw_trial_fail(v, "put of %zu bytes at %zu did not arrive, or wrote elsewhere", n,
                                 at);
    }
    return 0;
}

/* Compute waits for copy: a put on the copy queue is seen by what follows the wait. */
static int judge_order(qw_trial *t, qw_verdict *v)
{
    enum { SIZE = 1 << 20 };
    unsigned char *a = qw_trial_host(t, SIZE), *b = qw_trial_host(t, SIZE),
                  *p = qw_trial_device(t, SIZE);
    if (!a || !b || !p) return qw_trial_fail(v, "no memory");
    for (int i = 1; i < 6; i++) {
        uint64_t copied, read;
        memset(a, i, SIZE);
        if (t->dev->put(t->dev, QW_COPY, p, a, SIZE) || t->dev->mark(t->dev, QW_COPY, &copied)
            || t->dev->wait(t->dev, QW_COMPUTE, copied)
            || t->dev->get(t->dev, QW_COMPUTE, b, p, SIZE)
            || t->dev->mark(t->dev, QW_COMPUTE, &read) || t->dev->wait(t->dev, QW_COPY, read))
            return qw_trial_fail(v, "put, mark, wait or get failed");
        if (memcmp(a, b, SIZE))
            return qw_trial_fail(v, "the compute queue did not wait for the copy queue");
    }
    return 0;
}

static int judge_clock(qw_trial *t, qw_verdict *v)
{
    uint64_t from, to;
    double device = -1;
    const double begin = seconds_now();
    if (t->dev->mark(t->dev, QW_COMPUTE, &from)) return qw_trial_fail(v, "mark failed");
    const struct timespec nap = { 0, 5000000 };
    nanosleep(&nap, NULL);
    if (t->dev->mark(t->dev, QW_COMPUTE, &to) || t->dev->sync(t->dev)
        || t->dev->lapse(t->dev, from, to, &device))
        return qw_trial_fail(v, "lapse failed");
    const double host = seconds_now() - begin;
    if (!(device >= 0) || device > host * 1.5 + 0.01)
        return qw_trial_fail(v, "lapse says %g s where the host's clock saw %g s", device, host);
    return 0;
}

void qw_judge_device(qw_device *dev, qw_verdict *v)
{
    qw_trial t = { .dev = dev };
    memset(v, 0, sizeof *v);
    v->outcome = QW_PASSED;
    if (dev->wide != QW_F32 && dev->wide != QW_F64)
        qw_trial_fail(v, "its wide type is %s", qw_dtype_name(dev->wide));
    else if (dev->prefer != QW_F32 && dev->prefer != QW_BF16 && dev->prefer != QW_F64)
        qw_trial_fail(v, "it prefers %s", qw_dtype_name(dev->prefer));
    else if (!judge_alignment(&t, v) && !judge_copies(&t, v) && !judge_order(&t, v))
        judge_clock(&t, v);
    qw_trial_end(&t);
}
