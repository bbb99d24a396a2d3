/* preview.c - the picture that a step's velocity leads to, written after each step.
 *
 * Flow matching: x = (1 - sigma) picture + sigma noise, and the velocity is noise - picture, so
 * that x - sigma v is the picture.  A second handle decodes it, because the first is running. */
#include "media/media.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct preview {
    const settings *s;
    qwen *q;
    char *path;
    qwen_array t, x; /* tensor step.t; the latents of this step, packed */
    int64_t z, h, w; /* shape of the latent, from the tensor noise */
    int written, warned;
};

int preview_open(preview **out, const settings *s, const qwen_options *handle, const char *beside)
{
    preview *p = *out = calloc(1, sizeof *p);
    const char *base = base_name(beside), *dot = strrchr(base, '.');
    if (!p) return no_memory();
    if (!strcmp(beside, "-"))
        return complain(CODE_USAGE,
                        "--preview: expected --output to name a file, found standard output");
    qwen_options opt = *handle;
    opt.log = NULL;
    p->s = s;
    p->path = format_text("%.*s-preview.png",
                          (int)(dot && dot > base ? dot - beside : (long)strlen(beside)), beside);
    if (!p->path) return no_memory();
    const int status = qwen_open(&p->q, &opt);
    return status ? complain(code_of(status), "%s", qwen_error(p->q)) : output_check(p->path);
}

void preview_close(preview *p)
{
    if (!p) return;
    if (p->written) unlink(p->path);
    qwen_close(p->q);
    qwen_array_free(&p->t);
    qwen_array_free(&p->x);
    free(p->path);
    free(p);
}

static void copy_array(qwen_array *to, const qwen_array *from)
{
    const size_t bytes = (size_t)array_count(from)
                         * (from->dtype == QWEN_F64 ? sizeof(double) : sizeof(float));
    qwen_array_free(to);
    void *data = malloc(bytes ? bytes : 1);
    if (!data) return;
    memcpy(data, from->data, bytes);
    *to = *from;
    to->data = data;
}

/* x - sigma v, from packed [rows][4 z], a token 2x2 points of each channel, to [z][h][w]; of
 * several pictures the first.  malloc'ed, or NULL. */
static float *unpacked_end(const preview *p, const qwen_array *v, double sigma)
{
    const int64_t cols = p->w / 2, f = 4 * p->z;
    float *out = malloc((size_t)(p->z * p->h * p->w) * sizeof *out);
    for (int64_t i = 0; out && i < p->z * p->h * p->w; i++) {
        const int64_t c = i / (p->h * p->w), y = i / p->w % p->h, x = i % p->w;
        const int64_t at = (y / 2 * cols + x / 2) * f + c * 4 + y % 2 * 2 + x % 2;
        out[i] = (float)(array_at(&p->x, at) - sigma * array_at(v, at));
    }
    return out;
}

static int write_preview(preview *p, const qwen_array *v, double sigma)
{
    qwen_array latent = { .dtype = QWEN_F32, .rank = 3, .dim = { p->z, p->h, p->w } },
               decoded = { 0 };
    qwen_array picture = { .dtype = QWEN_U8, .rank = 3 };
    int code = CODE_MEMORY;
    latent.data = unpacked_end(p, v, sigma);
    if (latent.data && !qwen_decode(p->q, &latent, &decoded)
        && (picture.data = malloc((size_t)array_count(&decoded)))) {
        memcpy(picture.dim, decoded.dim, sizeof picture.dim);
        for (int64_t i = 0; i < array_count(&decoded); i++)
            ((uint8_t *)picture.data)[i] =
                (uint8_t)lrint(fmin(1, fmax(0, array_at(&decoded, i) / 2 + 0.5)) * 255);
        code = picture_write(p->path, &picture, NULL);
        p->written |= !code;
    }
    qwen_array_free(&latent);
    qwen_array_free(&decoded);
    qwen_array_free(&picture);
    return code;
}

void preview_tensor(preview *p, const char *name, const qwen_array *a)
{
    char *end;
    if (!strcmp(name, "noise") && a->rank >= 3) {
        p->z = a->dim[a->rank - 3];
        p->h = a->dim[a->rank - 2];
        p->w = a->dim[a->rank - 1];
    } else if (!strcmp(name, "step.t")) {
        copy_array(&p->t, a);
    } else if (!strncmp(name, "latents.", 8)) {
        copy_array(&p->x, a);
    } else if (!strncmp(name, "v.", 2)) {
        const long step = strtol(name + 2, &end, 10);
        const int64_t n = p->z * p->h * p->w;
        if (*end || step < 0 || !p->t.data || step >= array_count(&p->t) || !p->x.data
            || array_count(a) < n || array_count(&p->x) < n || !n || interrupted())
            return;
        if (write_preview(p, a, array_at(&p->t, step)) && !p->warned++)
            notice(p->s, "no preview could be made");
    }
}
