/* pipeline.c - a picture from a request: its stages in order. */
#include "pipeline/stage.h"
#include <stdlib.h>
#include <string.h>

static int read_words(qw_job *j)
{
    if (qw_load_for(j, QW_PHASE_TEXT)) return j->q->error.status;
    for (int k = 0; k < j->passes; k++)
        if (qw_read_prompt(j, k)) return j->q->error.status;
    return qw_load_for(j, QW_PHASE_TEXT); /* nets for prompts whose rows the model lacks */
}

static int embed_words(qw_job *j)
{
    for (int k = 0; k < j->passes; k++)
        if (qw_embed_prompt(j, k)) return j->q->error.status;
    return QWEN_OK;
}

int qw_run_stages(qw_job *j, qwen_result *out)
{
    const int failed = qw_job_schedule(j) || read_words(j) || qw_job_look(j) || embed_words(j)
                       || qw_load_for(j, QW_PHASE_ENCODE) || qw_job_encode(j) || qw_job_noise(j)
                       || qw_load_for(j, QW_PHASE_DENOISE) || qw_job_denoise(j)
                       || qw_load_for(j, QW_PHASE_DECODE) || qw_job_decode(j, out);
    return failed ? j->q->error.status : QWEN_OK;
}
