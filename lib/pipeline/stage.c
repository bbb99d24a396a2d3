/* stage.c - work on a device: planned, given scratch, run, looked at.
 *
 * A stage walks its body on the plan device first: that tells how much scratch it needs, and
 * everything that qwen_plan reports.  Then the same body runs in earnest.  What crosses between
 * stages is host memory in double precision. */
#include "pipeline/pipeline.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* --- a stage on a device ---------------------------------------------------------------------- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* nonzero: stop */
static int tell(qw_stage *s, int step, int block)
{
    const qwen_request *r = s->req;
    if (!r || !r->progress) return 0;
    const qwen_progress p = { .size = sizeof p,
                              .phase = s->name,
                              .step = step,
                              .steps = s->steps,
                              .block = block,
                              .blocks = s->blocks };
    s->told_step = step;
    s->told_block = block;
    return r->progress(r->user, &p);
}

static int stage_poll(void *user)
{
    qw_stage *s = user;
    const int step = s->run.step < 0 ? 0 : s->run.step, block = s->run.block < 0 ? 0 : s->run.block;
    if (step == s->told_step && block == s->told_block) return 0;
    return tell(s, step, block);
}

/* Inside of a long op: at most every 50 ms, though nothing has changed. */
static int stage_look(void *user)
{
    qw_stage *s = user;
    const double t = now();
    if (t - s->looked < 0.05) return 0;
    s->looked = t;
    return tell(s, s->told_step, s->told_block);
}

static void stage_tap(void *user, const char *name, const qwen_array *a)
{
    const qw_stage *s = user;
    s->req->tap(s->req->user, name, a);
}

int qw_stage_begin(qw_stage *s, qwen *q, const qwen_request *req, qw_device *dev, const char *name,
                   int steps, int blocks)
{
    memset(s, 0, sizeof *s);
    s->q = q;
    s->req = req;
    s->name = name;
    s->steps = steps;
    s->blocks = blocks;
    s->started = now();
    qw_run_init(&s->run, dev, strncmp(dev->name, "ref", 3) ? q->devices.ref : NULL);
    s->run.stage = name;
    s->run.strict = q->opt.strict;
    s->run.user = s;
    s->run.poll = req && req->progress ? stage_poll : NULL;
    s->run.look = req && req->progress ? stage_look : NULL;
    s->run.tap = req && req->tap && !q->tally ? stage_tap : NULL;
    if (!q->tally && tell(s, 0, 0)) qw_run_fail(&s->run, QWEN_ECANCELLED, "cancelled");
    return s->run.error.status;
}

static void tally_line(void *user, const char *line)
{
    qw_tally *t = user;
    const int64_t times = (int64_t)t->times;
    for (int64_t i = t->lines - 1; i >= 0; i--)
        if (!strcmp(t->line[i].line, line)) {
            t->line[i].count += times;
            return;
        }
    if (t->lines == t->room) {
        const int64_t room = t->room * 2 + 64;
        struct qw_tally_line *more = realloc(t->line, (size_t)room * sizeof *more);
        if (!more) {
            t->failed = 1;
            return;
        }
        t->line = more;
        t->room = room;
    }
    t->line[t->lines].line = qw_strdup(line);
    t->line[t->lines].count = times;
    if (t->line[t->lines].line) t->lines++;
    else t->failed = 1;
}

void qw_tally_free(qw_tally *t)
{
    for (int64_t i = 0; i < t->lines; i++) free(t->line[i].line);
    free(t->line);
    memset(t, 0, sizeof *t);
}

/* More scratch than the device has in all would end in a system without memory, not in an error. */
static void require_room(qw_stage *s, uint64_t bytes)
{
    const qw_device *dev = s->run.dev;
    qwen *q = s->q;
    if (dev->memory && bytes > dev->memory)
        qw_run_fail(&s->run, QWEN_ENOMEM, "%s needs %.1f GB of scratch, device %s has %.1f GB free",
                    s->name, (double)bytes / 1e9, qw_device_name(q, dev),
                    (double)dev->memory / 1e9);
    else if (q->opt.memory && bytes > q->opt.memory && bytes > q->told.scratch) {
        q->told.scratch = bytes;
        qw_say(q, 0, "%s needs %.4g MB of scratch, more than the memory of %.4g MB to stay under",
               s->name, (double)bytes / 1e6, (double)q->opt.memory / 1e6);
    }
}

int qw_stage_reserve(qw_stage *s, qw_body body, void *arg)
{
    qw_device *plan = NULL;
    qw_run r;
    if (s->run.error.status) return s->run.error.status;
    const int opened = qw_plan_open(s->run.dev, &plan);
    if (opened) {
        qw_run_fail(&s->run, opened, "no memory for a plan");
        return opened;
    }
    void *skipped; /* where qwen_plan's weights have their addresses, below 2^53 in each 2^54 */
    if (qw_is_plan(s->run.dev)) plan->alloc(plan, SIZE_MAX / 2048, &skipped);
    qw_run_init(&r, plan, NULL);
    r.stage = s->name;
    r.step = s->run.step;
    qw_tally *t = s->q->tally;
    if (t && t->want_lines) {
        r.trace = tally_line;
        r.user = t;
    }
    body(&r, arg);
    if (r.error.status) s->run.error = r.error;
    if (!t || t->bounded) require_room(s, r.peak);
    if (t) {
        t->scratch = r.peak > t->scratch ? r.peak : t->scratch;
        t->flops += r.flops * t->times;
        if (t->failed) qw_run_fail(&s->run, QWEN_ENOMEM, "no memory for the list of operations");
    } else if (!s->run.error.status) {
        qw_run_reserve(&s->run, r.peak);
    }
    if (r.peak > s->q->peak_scratch) s->q->peak_scratch = r.peak;
    qw_run_free(&r);
    plan->close(plan);
    return s->run.error.status;
}

int qw_finite(const double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(x[i]) <= DBL_MAX)) return 0;
    return 1;
}

int qw_stage_run(qw_stage *s, qw_body body, void *arg, const double *out, int64_t n)
{
    qw_run *r = &s->run;
    if (r->error.status || s->q->tally) return r->error.status;
    body(r, arg);
    if (r->error.status || qw_finite(out, n)) return r->error.status;
    r->check = 1; /* once more, looking at each result */
    r->tap = NULL;
    r->magnitude = 0;
    body(r, arg);
    qw_run_fail(r, QWEN_ENUMERIC,
                "%s: a result is not finite; the largest magnitude before it was %.4g", s->name,
                r->magnitude);
    return r->error.status;
}

static const char *const op_names[] = {
#define X(op) #op,
    QW_OPS(X)
#undef X
};

int qw_stage_end(qw_stage *s, double *seconds)
{
    qw_run *r = &s->run;
    qwen *q = s->q;
    if (!r->error.status && !q->tally && s->steps == r->step + 1 && tell(s, s->steps, s->blocks))
        qw_run_fail(r, QWEN_ECANCELLED, "cancelled");
    for (int i = 0; i < QW_NOPS; i++)
        if (r->declined[i] && !q->tally)
            qw_say(q, 1, "%s: %s declined %llu of %llu calls of %s", s->name, r->dev->name,
                   (unsigned long long)r->declined[i], (unsigned long long)r->calls[i],
                   op_names[i]);
    if (r->error.status && !q->error.status) q->error = r->error;
    if (seconds) *seconds += now() - s->started;
    qw_run_free(r);
    return q->error.status;
}

/* --- small things shared by the stages -------------------------------------------------------- */

double *qw_doubles(qwen *q, int64_t n, const char *what)
{
    double *x = calloc((size_t)(n > 0 ? n : 1), sizeof *x);
    if (!x) qw_fail(&q->error, QWEN_ENOMEM, "no memory for %lld numbers of %s", (long long)n, what);
    return x;
}

/* Shows host data outside of any stage, in the type of the device it was or will be on. */
int qw_show(qw_job *j, qw_device *dev, const double *x, int rank, const int64_t *dim,
            const char *name)
{
    qw_stage s = { .q = j->q, .req = j->req };
    if (!j->req->tap || j->q->tally) return QWEN_OK;
    qw_run_init(&s.run, dev, NULL);
    s.run.tap = stage_tap;
    s.run.user = &s;
    qw_tap_doubles(&s.run, x, rank, dim, "%s", name);
    if (s.run.error.status) j->q->error = s.run.error;
    return j->q->error.status;
}

int qw_show_ints(qw_job *j, const int32_t *x, int rank, const int64_t *dim, const char *name)
{
    qw_stage s = { .q = j->q, .req = j->req };
    if (!j->req->tap || j->q->tally) return QWEN_OK;
    qw_run_init(&s.run, j->q->devices.main, NULL);
    s.run.tap = stage_tap;
    s.run.user = &s;
    qw_tap_ints(&s.run, x, rank, dim, "%s", name);
    if (s.run.error.status) j->q->error = s.run.error;
    return j->q->error.status;
}
