/* log.c - lines for the caller's log function. */
#include "pipeline/job.h"
#include <stdarg.h>
#include <stdio.h>

static void say(const qwen *q, int level, const char *format, va_list args)
{
    char line[1200];
    vsnprintf(line, sizeof line, format, args);
    q->opt.log(q->opt.user, level, line);
}

void qw_say(const qwen *q, int level, const char *format, ...)
{
    va_list args;
    if (!q->opt.log) return;
    va_start(args, format);
    say(q, level, format, args);
    va_end(args);
}

void qw_note(const qw_job *j, int level, const char *format, ...)
{
    va_list args;
    if (!j->q->opt.log || j->tally) return;
    va_start(args, format);
    say(j->q, level, format, args);
    va_end(args);
}

int qw_no_memory(qwen *q) { return qw_fail(&q->error, QWEN_ENOMEM, "no memory to open the model"); }
