/* lora_use.c - lays LoRA files over the transformer of a model.
 *
 * lib/files/lora.c reads a file and lib/weights/overlay.c applies it to the weights. */
#include "pipeline/model.h"
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

/* Makes an overlay of n files: of one alone to check it, or of all. */
static int lay(qwen *q, qw_lora *const *lora, int n, int partial, int quiet, qw_overlay **out)
{
    sites s = { 0 };
    qw_dit_each_weight(q->nets.dit, add_site, &s);
    if (s.failed) qw_fail(&q->error, QWEN_ENOMEM, "no memory for the list of layers");
    else
        qw_overlay_new(out, lora, n, s.site, s.n, q->devices.main, partial,
                       quiet ? NULL : lora_notice, q, &q->error);
    free(s.site);
    return q->error.status;
}

/* A LoRA of a distilled model sets the defaults of steps, guidance and shift; `plain` keeps those
 * before. */
static void lora_defaults(qwen *q, const char *path)
{
    if (!q->defaults.plain.steps) {
        q->defaults.plain.steps = q->defaults.steps;
        q->defaults.plain.guidance = q->defaults.guidance;
        q->defaults.plain.flat_shift = q->defaults.flat_shift;
        q->defaults.plain.distilled = q->defaults.distilled;
    }
    qw_distilled(q, path);
}

int qw_lora_add(qwen *q, const char *path, double strength, int partial)
{
    qw_lora *l = NULL;
    if (q->files.loras == QW_MAX_LORAS)
        return qw_fail(&q->error, QWEN_EARG, "%s: %d LoRA files are the most", path, QW_MAX_LORAS);
    if (qw_model_load(q, QW_NEED_DIT, NULL, NULL) || qw_lora_open(&l, path, strength, &q->error))
        return q->error.status;
    qw_overlay_free(q->nets.overlay);
    q->nets.overlay = NULL;
    qw_overlay *alone = NULL;
    lay(q, &l, 1, partial, 0, &alone);
    qw_overlay_free(alone);
    if (q->error.status) {
        qw_lora_free(l);
        const qw_error first = q->error;
        memset(&q->error, 0, sizeof q->error);
        if (q->files.loras) lay(q, q->files.lora, q->files.loras, 1, 1, &q->nets.overlay);
        q->error = first;
        return first.status;
    }
    q->files.lora[q->files.loras++] = l;
    lora_defaults(q, path);
    return lay(q, q->files.lora, q->files.loras, 1, 1, &q->nets.overlay);
}

void qw_lora_drop(qwen *q)
{
    qw_overlay_free(q->nets.overlay);
    q->nets.overlay = NULL;
    while (q->files.loras) qw_lora_free(q->files.lora[--q->files.loras]);
    if (!q->defaults.plain.steps) return;
    q->defaults.steps = q->defaults.plain.steps;
    q->defaults.guidance = q->defaults.plain.guidance;
    q->defaults.flat_shift = q->defaults.plain.flat_shift;
    q->told.distilled = 0;
    q->defaults.distilled = q->defaults.plain.distilled;
    memset(&q->defaults.plain, 0, sizeof q->defaults.plain);
}
