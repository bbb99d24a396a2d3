/* variant.c - the variant of a model, and the defaults of its requests.
 *
 * options.variant decides, else the class in model_index.json (with 2511's mark in the
 * transformer), else the transformer's marks of 2511 and Layered, else the name of the file.  A
 * variant that does not fit the weights is an error.  doc/formats.md has the rules. */
#include "pipeline/model.h"
#include <ctype.h>
#include <string.h>

/* --- variants --------------------------------------------------------------------------------- */

static const char *const variant_names[QW_NVARIANTS] = { "t2i", "edit", "edit-2509", "edit-2511",
                                                         "layered" };

const char *qw_variant_name(qw_variant v) { return variant_names[v]; }

static int variant_named(const char *name, qw_variant *out)
{
    for (int i = 0; i < QW_NVARIANTS; i++)
        if (!strcmp(name, variant_names[i])) {
            *out = (qw_variant)i;
            return 1;
        }
    return 0;
}

/* Pipeline classes of model_index.json. */
static const struct {
    const char *name;
    qw_variant variant;
} classes[] = {
    { "QwenImagePipeline", QW_T2I },
    { "QwenImageImg2ImgPipeline", QW_T2I },
    { "QwenImageInpaintPipeline", QW_T2I },
    { "QwenImageControlNetPipeline", QW_T2I },
    { "QwenImageControlNetInpaintPipeline", QW_T2I },
    { "QwenImageEditPipeline", QW_EDIT },
    { "QwenImageEditInpaintPipeline", QW_EDIT },
    { "QwenImageEditPlusPipeline", QW_EDIT_2509 },
    { "QwenImageLayeredPipeline", QW_LAYERED },
};

int qw_class_named(const char *name, qw_variant *out)
{
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (!strcmp(name, classes[i].name)) {
            *out = classes[i].variant;
            return 1;
        }
    return 0;
}

/* Where word ends in the last part of a path, or NULL.  Case is ignored; '-', '_' and '.' are
 * alike; whole: no letter stands beside it. */
static const char *in_name(const char *path, const char *word, int whole)
{
    const char *slash = path ? strrchr(path, '/') : NULL, *name = slash ? slash + 1 : path;
    for (const char *p = name; p && *p; p++) {
        size_t i = 0;
        while (word[i] && p[i]) {
            const int c = p[i] == '-' || p[i] == '_' ? '.' : tolower((unsigned char)p[i]);
            if (c != word[i]) break;
            i++;
        }
        const int beside = (p > name && isalpha((unsigned char)p[-1]))
                           || isalpha((unsigned char)p[i]);
        if (!word[i] && !(whole && beside)) return p + i;
    }
    return NULL;
}

int qw_name_has(const char *path, const char *word) { return in_name(path, word, 0) != NULL; }

static qw_variant variant_of_file(const char *path)
{
    if (qw_name_has(path, "layered")) return QW_LAYERED;
    if (qw_name_has(path, "2511")) return QW_EDIT_2511;
    if (qw_name_has(path, "2509") || qw_name_has(path, "edit.plus") || qw_name_has(path, "firered"))
        return QW_EDIT_2509;
    return qw_name_has(path, "edit") ? QW_EDIT : QW_T2I;
}

/* --- the variant and the defaults ------------------------------------------------------------- */

/* "4steps", "8-step": the number before "step" in a file's name, or 0. */
static int steps_in_name(const char *path)
{
    for (int n = 16; n > 0; n--) {
        char a[24], b[24];
        snprintf(a, sizeof a, "%dstep", n);
        snprintf(b, sizeof b, "%d.step", n);
        if (qw_name_has(path, a) || qw_name_has(path, b)) return n;
    }
    return 0;
}

int qw_decide_variant(qwen *q)
{
    const char *path = q->files.net[QW_DIT].path;
    if (q->opt.variant) {
        if (!variant_named(q->opt.variant, &q->variant))
            return qw_fail(&q->error, QWEN_EARG,
                           "variant \"%s\" is none of t2i, edit, edit-2509, edit-2511, layered",
                           q->opt.variant);
    } else if (!q->pipeline_class) {
        q->variant = path ? variant_of_file(path) : QW_T2I;
        if (q->config.dit.zero_cond_t) q->variant = QW_EDIT_2511;
        if (q->config.dit.layer3d || q->config.dit.additional_t) q->variant = QW_LAYERED;
    } else if (q->variant == QW_EDIT_2509 && q->config.dit.zero_cond_t) {
        q->variant = QW_EDIT_2511;
    }
    const int layered = q->config.dit.layer3d || q->config.dit.additional_t;
    if (path && q->variant == QW_EDIT_2511 && !q->config.dit.zero_cond_t) {
        q->config.dit.zero_cond_t = 1;
        qw_say(q, 0,
               "%s has no mark of 2511; references are modulated at t = 0 all the same, as "
               "%s",
               path, q->opt.variant ? "the variant asks" : "its name says");
    }
    if (path && q->config.dit.zero_cond_t && (q->variant == QW_EDIT || q->variant == QW_EDIT_2509))
        return qw_fail(&q->error, QWEN_EMODEL,
                       "%s: the variant is %s, but the transformer is that of edit-2511", path,
                       qw_variant_name(q->variant));
    if (path && (q->variant == QW_LAYERED) != layered)
        return qw_fail(&q->error, QWEN_EMODEL,
                       "%s: the variant is %s, but the transformer is %s of Layered", path,
                       qw_variant_name(q->variant), layered ? "that" : "not that");
    if (path && q->files.net[QW_VAE].store && (q->config.vae.channels == 4) != layered)
        return qw_fail(&q->error, QWEN_EMODEL,
                       "%s: the VAE has %lld picture channels, a transformer %s Layered expects %d",
                       q->files.net[QW_VAE].path, (long long)q->config.vae.channels,
                       layered ? "of" : "that is not of", layered ? 4 : 3);
    return QWEN_OK;
}

/* The publisher's negative prompt: of 2512, recognised by a name, a text of its own. */
const char *qw_recommended_negative(const qwen *q)
{
    return qw_name_has(q->files.net[QW_DIT].path, "2512") || qw_name_has(q->opt.model, "2512")
                   || (q->files.net[QW_DIT].path
                       && strstr(q->files.net[QW_DIT].path, "Qwen-Image-2512"))
               ? "低分辨率，低画质，肢体畸形，手指畸形，画面过饱和，蜡像感，"
                 "人脸无细节，过度光滑，画面具有AI感。构图混乱。文字模糊，扭曲。"
               : q->defaults.negative;
}

/* Words in a name that mark a distilled model, its steps, and the one shift of its schedule (0: the
 * ordinary schedule); its guidance is 1. */
static const struct {
    const char *word;
    int whole, steps;
    double shift;
} distilled[] = {
    { "lightning", 0, 8, 3 }, { "rapid", 1, 4, 3 }, { "dmd2", 1, 3, 2.5 },   { "turbo", 1, 8, 3 },
    { "hyper", 1, 8, 3 },     { "lcm", 1, 8, 3 },   { "distill", 0, 15, 0 },
};

int qw_distilled(qwen *q, const char *path)
{
    for (size_t i = 0; i < sizeof distilled / sizeof *distilled; i++) {
        if (!in_name(path, distilled[i].word, distilled[i].whole)) continue;
        q->defaults.distilled = distilled[i].word;
        q->told.distilled = 0;
        q->defaults.flat_shift = distilled[i].shift;
        q->defaults.steps = steps_in_name(path) ? steps_in_name(path) : distilled[i].steps;
        q->defaults.guidance = 1;
        return 1;
    }
    return 0;
}

int qw_decide_defaults(qwen *q)
{
    const qw_schedule_config *s = &q->config.schedule;
    const char *name = q->files.net[QW_DIT].path, *model = q->opt.model;
    const int plus = q->variant == QW_EDIT_2509 || q->variant == QW_EDIT_2511;
    /* Lightning's own scheduler has one shift for every size and no terminal. */
    const int flat = s->dynamic && s->terminal == 0 && s->base_shift == s->max_shift;
    const int steps = q->defaults.steps, said = steps_in_name(model);
    const double guidance = q->defaults.guidance; /* of the block in model_index.json */
    q->defaults.steps = plus ? 40 : 50;
    q->defaults.guidance = 4;
    if (!qw_distilled(q, name) && !qw_distilled(q, model) && flat) {
        q->defaults.distilled = "its scheduler";
        q->defaults.steps = said ? said : 8;
        q->defaults.guidance = 1;
    }
    if (steps) q->defaults.steps = steps;
    if (guidance > 0) q->defaults.guidance = guidance;
    if (!q->defaults.negative && !(q->defaults.negative = qw_strdup(" "))) return qw_no_memory(q);
    return QWEN_OK;
}
