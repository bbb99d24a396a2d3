/* run.c - the op wrappers: check, count, trace, dispatch, fall back.
 *
 * A wrapper returns nothing: the first failure stays in the run and later wrappers do nothing, so
 * that network code contains no checks.  When a device returns QW_DECLINE, the reference computes
 * the op (fallback.c). */
#include "core/run_inside.h"
#include <string.h>

enum { LINE = 400 };

/* Every vector and table must be of the device's wide type. */
static int wide_mismatch(const qw_run *r, const qw_op_info *info, void *args, char *why,
                         size_t size)
{
    for (const qw_operand *o = info->operand; o->name; o++) {
        const qw_tensor *t = o->role & QW_WIDE ? qw_operand_of(o, args) : NULL;
        if (!t || t->dtype == r->dev->wide) continue;
        snprintf(why, size, "%s: %s is %s; device %s takes %s there", info->name, o->name,
                 qw_dtype_name(t->dtype), r->dev->name, qw_dtype_name(r->dev->wide));
        return 1;
    }
    return 0;
}

/* After QW_DECLINE: fails a strict run, else calls the reference. */
static int fall_back(qw_run *r, enum qw_op op, const void *args, const char *line)
{
    char place[160];
    r->declined[op]++;
    if (r->strict) {
        qw_run_fail(r, QWEN_EUNSUPPORTED,
                    "%sdevice %s does not do %s, and falling back was refused",
                    qw_run_where(r, place, sizeof place), r->dev->name, line);
        return QWEN_EUNSUPPORTED;
    }
    if (!r->ref || r->ref == r->dev) {
        qw_run_fail(r, QWEN_EUNSUPPORTED,
                    "%sdevice %s does not do %s, and there is no reference to fall back to",
                    qw_run_where(r, place, sizeof place), r->dev->name, line);
        return QWEN_EUNSUPPORTED;
    }
    return qw_reference(r, op, args);
}

/* Calls the device's function with its scratch and poll set.  The queue is in order, so that the
 * next op may take the same scratch when the call returns. */
static int ask(qw_run *r, enum qw_op op, void *args)
{
    qw_device *d = r->dev;
    const size_t mark = r->used, bytes = d->scratch ? d->scratch(d, op, args) : 0;
    d->room = bytes ? qw_run_take(r, bytes) : NULL;
    d->room_bytes = bytes;
    d->poll = r->look;
    d->poll_user = r->user;
    const int status = r->error.status ? r->error.status : qw_op_table[op].call(d, args);
    d->room = NULL;
    d->room_bytes = 0;
    d->poll = NULL;
    r->used = mark;
    return status;
}

/* Fails the run with the status of an op and a message: place, device, line, the device's
 * sentence. */
static void op_failed(qw_run *r, int status, const char *line)
{
    char place[160];
    const char *sentence = r->dev->failure ? r->dev->failure(r->dev) : NULL;
    const int declined = status == QW_DECLINE; /* by the reference, after the device */
    if (!sentence) sentence = declined ? "the reference declined" : qwen_strerror(status);
    if (status == QWEN_ECANCELLED) qw_run_fail(r, status, "cancelled");
    else
        qw_run_fail(r, declined ? QWEN_EUNSUPPORTED : status, "%sdevice %s failed in %s: %s",
                    qw_run_where(r, place, sizeof place), r->dev->name, line, sentence);
}

static void dispatch(qw_run *r, enum qw_op op, void *args)
{
    const qw_op_info *info = &qw_op_table[op];
    char line[LINE] = "", why[500], place[160];
    if (r->error.status || r->recording < 0) return;
    if (r->poll && r->poll(r->user)) {
        qw_run_fail(r, QWEN_ECANCELLED, "cancelled");
        return;
    }
    if (info->check(args, why, sizeof why) || wide_mismatch(r, info, args, why, sizeof why)) {
        qw_run_fail(r, QWEN_EARG, "%s%s", qw_run_where(r, place, sizeof place), why);
        return;
    }
    double flops = 0, bytes = 0;
    info->cost(args, &flops, &bytes);
    r->calls[op]++;
    r->flops += flops;
    r->bytes += bytes;
    if (r->trace) {
        qw_op_line(op, args, line, sizeof line);
        r->trace(r->user, line);
    }
    int status = ask(r, op, args);
    if (status && r->recording
        && !r->error.status) { /* qw_run_repeat calls the op again, without recording */
        r->recording = -1;
        return;
    }
    if (status == QW_DECLINE) {
        if (!line[0]) qw_op_line(op, args, line, sizeof line);
        status = fall_back(r, op, args, line);
    }
    if (status) {
        if (!line[0]) qw_op_line(op, args, line, sizeof line);
        op_failed(r, status, line);
    } else if (r->check && !qw_is_plan(r->dev)) qw_check_result(r, info, args);
}

#define X(op) \
    void qw_##op(qw_run *r, qw_##op##_args a) { dispatch(r, QW_OP_##op, &a); }
QW_OPS(X)
#undef X
