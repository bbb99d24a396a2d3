/* lora_use.c - LoRA files over the transformer of a model. */
#include "pipeline/pipeline.h"
#include <stdlib.h>
#include <string.h>

typedef struct sites {
    qw_lora_site *site;
    int n, room, failed;
} sites;

static int add_site(void *user, qw_weight_part *p, int64_t n, int64_t k)
{
    sites *s = user;
    if (s->n == s->room) {
        const int room = s->room * 2 + 64;
        qw_lora_site *more = realloc(s->site, (size_t)room * sizeof *more);
        if (!more) {
            s->failed = 1;
            return 1;
        }
        s->site = more;
        s->room = room;
    }
    s->site[s->n++] = (qw_lora_site){ p, n, k };
    return 0;
}

static void lora_notice(void *user, const char *line) { qw_say(user, 0, "%s", line); }

/* One file alone, which checks it, or all of them. */
static int lay(qwen *q, qw_lora *const *lora, int n, int partial, int quiet, qw_overlay **out)
{
    sites s = { 0 };
    qw_dit_each_weight(q->dit, add_site, &s);
    if (s.failed) qw_fail(&q->error, QWEN_ENOMEM, "no memory for the list of layers");
    else
        qw_overlay_new(out, lora, n, s.site, s.n, q->dev, partial, quiet ? NULL : lora_notice, q,
                       &q->error);
    free(s.site);
    return q->error.status;
}

/* A file distilled for few steps changes what a request's silence means. */
static void lora_defaults(qwen *q, const char *path)
{
    if (!q->plain.steps) {
        q->plain.steps = q->steps;
        q->plain.guidance = q->guidance;
        q->plain.flat_shift = q->flat_shift;
        q->plain.distilled = q->distilled;
    }
    qw_distilled(q, path);
}

int qw_lora_add(qwen *q, const char *path, double strength, int partial)
{
    qw_lora *l = NULL;
    if (q->loras == QW_MAX_LORAS)
        return qw_fail(&q->error, QWEN_EARG, "%s: %d LoRA files are the most", path, QW_MAX_LORAS);
    if (qw_need_dit(q) || qw_lora_open(&l, path, strength, &q->error)) return q->error.status;
    qw_overlay_free(q->overlay);
    q->overlay = NULL;
    qw_overlay *alone = NULL;
    lay(q, &l, 1, partial, 0, &alone);
    qw_overlay_free(alone);
    if (q->error.status) {
        qw_lora_free(l);
        const qw_error first = q->error;
        memset(&q->error, 0, sizeof q->error);
        if (q->loras) lay(q, q->lora, q->loras, 1, 1, &q->overlay);
        q->error = first;
        return first.status;
    }
    q->lora[q->loras++] = l;
    lora_defaults(q, path);
    return lay(q, q->lora, q->loras, 1, 1, &q->overlay);
}

void qw_lora_drop(qwen *q)
{
    qw_overlay_free(q->overlay);
    q->overlay = NULL;
    while (q->loras) qw_lora_free(q->lora[--q->loras]);
    if (!q->plain.steps) return;
    q->steps = q->plain.steps;
    q->guidance = q->plain.guidance;
    q->flat_shift = q->plain.flat_shift;
    q->told_distilled = 0;
    q->distilled = q->plain.distilled;
    memset(&q->plain, 0, sizeof q->plain);
}
