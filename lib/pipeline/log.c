/* log.c - lines for the log that the caller gave. */
#include "pipeline/pipeline.h"
#include <stdarg.h>
#include <stdio.h>

void qw_say(const qwen *q, int level, const char *format, ...)
{
    if (!q->opt.log || q->plan_of) /* a plan's handle says what its original has said */
        return;
    char line[1200];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    q->opt.log(q->opt.user, level, line);
}

int qw_no_memory(qwen *q) { return qw_fail(&q->error, QWEN_ENOMEM, "no memory to open the model"); }
