/* record.c - ops that are called again with the same addresses and shapes, as one piece of work.
 *
 * The first call of qw_run_repeat computes the ops.  If they contained no copy and no wait, and the
 * device declined none, the second call records them, where the device can record; it and every
 * later call replay the recording.  Where recording or replay fails, the ops are called. */
#include "core/run_inside.h"
#include <string.h>

enum { FRESH, REGULAR, RECORDED, PLAIN };

/* A number that grows with every event that a recording cannot contain. */
static uint64_t disturbances(const qw_run *r)
{
    uint64_t n = r->traffic;
    for (int i = 0; i < QW_NOPS; i++) n += r->declined[i];
    return n;
}

static void count(qw_run *r, const qw_recording *p)
{
    for (int i = 0; i < QW_NOPS; i++) r->calls[i] += p->calls[i];
    r->flops += p->flops;
    r->bytes += p->bytes;
}

/* Resets the counters of the run to those of `before`. */
static void uncount(qw_run *r, const qw_run *before)
{
    memcpy(r->calls, before->calls, sizeof r->calls);
    memcpy(r->declined, before->declined, sizeof r->declined);
    r->flops = before->flops;
    r->bytes = before->bytes;
    r->traffic = before->traffic;
}

/* Records the ops without computing or counting them.  Nonzero: there is a recording. */
static int record(qw_run *r, qw_recording *p, qw_ops ops, void *arg)
{
    qw_device *d = r->dev;
    const qw_run before = *r;
    const int begun = d->record(d, QW_RECORD_BEGIN, &p->id);
    if (begun) { /* QW_DECLINE: try again at the next call; else never again */
        if (begun != QW_DECLINE) p->state = PLAIN;
        return 0;
    }
    r->recording = 1;
    ops(r, arg);
    const int whole = r->recording > 0 && !r->error.status;
    r->recording = 0;
    for (int i = 0; i < QW_NOPS; i++) p->calls[i] = r->calls[i] - before.calls[i];
    p->flops = r->flops - before.flops;
    p->bytes = r->bytes - before.bytes;
    uncount(r, &before);
    const int ended = d->record(d, whole ? QW_RECORD_END : QW_RECORD_DROP, &p->id);
    p->state = whole && !ended ? RECORDED : PLAIN;
    return p->state == RECORDED;
}

/* Nonzero: the ops are computed, or the run has failed. */
static int replay(qw_run *r, qw_recording *p)
{
    qw_device *d = r->dev;
    if (r->poll && r->poll(r->user)) {
        qw_run_fail(r, QWEN_ECANCELLED, "cancelled");
        return 1;
    }
    d->poll = r->look;
    d->poll_user = r->user;
    const int status = d->replay(d, p->id);
    d->poll = NULL;
    if (status == QW_DECLINE) {
        qw_run_forget(r, p);
        p->state = PLAIN;
        return 0;
    }
    if (status == QWEN_ECANCELLED) qw_run_fail(r, status, "cancelled");
    else if (status) qw_run_device_failed(r, status, "replaying a recording");
    count(r, p);
    return 1;
}

void qw_run_repeat(qw_run *r, qw_recording *p, qw_ops ops, void *arg)
{
    qw_device *d = r->dev;
    if (r->error.status) return;
    if (p->state != PLAIN && p->state != FRESH && p->at != r->base + r->used) qw_run_forget(r, p);
    p->at = r->base + r->used;
    if (d->record && d->replay && !r->check) {
        if (p->state == REGULAR) record(r, p, ops, arg);
        if (r->error.status || (p->state == RECORDED && replay(r, p))) return;
    }
    const uint64_t before = disturbances(r);
    ops(r, arg);
    if (p->state == FRESH && !r->error.status)
        p->state = disturbances(r) == before ? REGULAR : FRESH;
}

void qw_run_forget(qw_run *r, qw_recording *p)
{
    if (p->state == RECORDED) {
        r->dev->sync(r->dev); /* a replay may still run */
        if (r->dev->forget) r->dev->forget(r->dev, p->id);
    }
    memset(p, 0, sizeof *p);
}

int qw_run_spoils(qw_run *r)
{
    r->traffic++;
    if (!r->recording) return 0;
    r->recording = -1;
    return 1;
}
