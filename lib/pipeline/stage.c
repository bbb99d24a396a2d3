/* stage.c - the runner of a stage: counts its scratch and costs, then runs it on a device.
 *
 * qw_stage_reserve runs the body of a stage on a plan device, which gives its scratch, FLOPs and op
 * lines; qw_stage_run runs the same body on the phase's device.  Data between stages are host
 * memory in double precision. */
#include "pipeline/stage.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Calls the request's progress; nonzero: stop. */
static int report_progress(qw_stage *s, int step, int block)
{
    const qwen_request *r = s->job->req;
    if (!r->progress || s->job->tally) return 0;
    const qwen_progress p = { .size = sizeof p,
                              .phase = qw_phase_name(s->phase),
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
    return report_progress(s, step, block);
}

/* Called inside a long op: progress every 50 ms at most, also without a new step or block. */
static int stage_look(void *user)
{
    qw_stage *s = user;
    const double t = now();
    if (t - s->looked < 0.05) return 0;
    s->looked = t;
    return report_progress(s, s->told_step, s->told_block);
}

static void stage_tap(void *user, const char *name, const qwen_array *a)
{
    const qwen_request *r = ((const qw_stage *)user)->job->req;
    r->tap(r->user, name, a);
}

int qw_stage_begin(qw_stage *s, qw_job *j, qw_phase phase, int steps, int blocks)
{
    const qwen_request *r = j->req;
    memset(s, 0, sizeof *s);
    s->job = j;
    s->phase = phase;
    s->steps = steps;
    s->blocks = blocks;
    s->times = 1;
    s->started = now();
    qw_run_init(&s->run, qw_phase_device(j, phase), j->devices->ref);
    s->run.stage = qw_phase_name(phase);
    s->run.strict = j->q->opt.strict;
    s->run.user = s;
    s->run.poll = r->progress ? stage_poll : NULL;
    s->run.look = r->progress ? stage_look : NULL;
    s->run.tap = r->tap && !j->tally ? stage_tap : NULL;
    if (report_progress(s, 0, 0)) qw_run_fail(&s->run, QWEN_ECANCELLED, "cancelled");
    return s->run.error.status;
}

static void tally_line(void *user, const char *line)
{
    const qw_stage *s = user;
    qw_tally *t = s->job->tally;
    const int64_t times = (int64_t)s->times;
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

/* Fails if the device has less memory than the scratch, which a host would else try to provide;
 * logs a notice if only options.memory is less. */
static void require_room(qw_stage *s, uint64_t bytes)
{
    const qw_job *j = s->job;
    qwen *q = j->q;
    const qw_device *dev = s->run.dev;
    const char *name = qw_phase_name(s->phase);
    if (dev->memory && bytes > dev->memory)
        qw_run_fail(&s->run, QWEN_ENOMEM, "%s needs %.1f GB of scratch, device %s has %.1f GB free",
                    name, (double)bytes / 1e9, qw_phase_device_name(j, s->phase),
                    (double)dev->memory / 1e9);
    else if (!j->tally && q->opt.memory && bytes > q->opt.memory && bytes > q->told.scratch) {
        q->told.scratch = bytes;
        qw_say(q, 0, "%s needs %.4g MB of scratch, more than the memory of %.4g MB to stay under",
               name, (double)bytes / 1e6, (double)q->opt.memory / 1e6);
    }
}

int qw_stage_reserve(qw_stage *s, qw_body body, void *arg)
{
    qw_job *j = s->job;
    qw_tally *t = j->tally;
    qw_device *plan = NULL;
    qw_run r;
    if (s->run.error.status) return s->run.error.status;
    const int opened = qw_plan_open(s->run.dev, &plan);
    if (opened) {
        qw_run_fail(&s->run, opened, "no memory for a plan");
        return opened;
    }
    void *skipped; /* keeps scratch above the addresses that weights have on a plan device */
    if (qw_is_plan(s->run.dev)) plan->alloc(plan, SIZE_MAX / 2048, &skipped);
    qw_run_init(&r, plan, NULL);
    r.stage = s->run.stage;
    r.step = s->run.step;
    r.user = s;
    r.trace = t && t->want_lines ? tally_line : NULL;
    body(&r, arg);
    if (r.error.status) s->run.error = r.error;
    if (!t || t->bounded) require_room(s, r.peak);
    if (r.peak > j->peak_scratch) j->peak_scratch = r.peak;
    if (t) {
        t->flops[s->phase] += r.flops * s->times;
        if (t->failed) qw_run_fail(&s->run, QWEN_ENOMEM, "no memory for the list of operations");
    } else if (!s->run.error.status) {
        qw_run_reserve(&s->run, r.peak);
    }
    qw_run_free(&r);
    plan->close(plan);
    return s->run.error.status;
}

int qw_stage_run(qw_stage *s, qw_body body, void *arg, const double *out, int64_t n)
{
    qw_run *r = &s->run;
    if (r->error.status || s->job->tally) return r->error.status;
    body(r, arg);
    if (r->error.status || qw_finite(out, n)) return r->error.status;
    r->check = 1; /* once more, with a check of each op's result */
    r->tap = NULL;
    r->magnitude = 0;
    body(r, arg);
    qw_run_fail(r, QWEN_ENUMERIC,
                "%s: a result is not finite; the largest magnitude before it was %.4g", r->stage,
                r->magnitude);
    return r->error.status;
}

static const char *const op_names[] = {
#define X(op) #op,
    QW_OPS(X)
#undef X
};

int qw_stage_end(qw_stage *s)
{
    qw_run *r = &s->run;
    qw_job *j = s->job;
    if (!r->error.status && s->steps == r->step + 1 && report_progress(s, s->steps, s->blocks))
        qw_run_fail(r, QWEN_ECANCELLED, "cancelled");
    for (int i = 0; i < QW_NOPS; i++)
        if (r->declined[i])
            qw_note(j, 1, "%s: %s declined %llu of %llu calls of %s", r->stage, r->dev->name,
                    (unsigned long long)r->declined[i], (unsigned long long)r->calls[i],
                    op_names[i]);
    if (r->error.status && !j->q->error.status) j->q->error = r->error;
    j->seconds[s->phase] += now() - s->started;
    qw_run_free(r);
    return j->q->error.status;
}
