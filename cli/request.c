/* request.c - options as structs of the library. */
#include "request.h"
#include "media/media.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --- sizes ------------------------------------------------------------------------------------ */

static int check_side(const char *option, int n)
{
    if (n % 16 == 0) return CODE_DONE;
    const int below = n / 16 * 16;
    return below ? complain(CODE_USAGE, "--%s: expected a multiple of 16 (%d or %d), found %d",
                            option, below, below + 16, n)
                 : complain(CODE_USAGE,
                            "--%s: expected a multiple of 16 (16 is the smallest), found %d",
                            option, n);
}

static int set_sizes(settings *s)
{
    const int sides = s->width || s->height;
    if ((s->size[0] && sides) || (s->aspect && (s->size[0] || sides)))
        return complain(CODE_USAGE, "--%s: expected alone, found beside %s",
                        s->aspect ? "aspect" : "size",
                        s->aspect && s->size[0] ? "--size"
                        : s->width              ? "--width"
                                                : "--height");
    if (s->size[0]) {
        s->width = s->size[0];
        s->height = s->size[1];
    }
    if (s->aspect && qwen_aspect(s->aspect, &s->width, &s->height))
        return complain(CODE_USAGE,
                        "--aspect: expected 1:1, 16:9, 9:16, 4:3, 3:4, 3:2 or 2:3, found \"%s\"",
                        s->aspect);
    const char *const name[] = { s->size[0] ? "size" : "width", s->size[0] ? "size" : "height" };
    const int code = check_side(name[0], s->width);
    return code ? code : check_side(name[1], s->height);
}

/* --- words ------------------------------------------------------------------------------------ */

static int check_utf8(const char *option, const char *text)
{
    const int64_t at = text ? qwen_utf8_invalid(text, strlen(text)) : -1;
    if (at < 0) return CODE_DONE;
    return complain(CODE_USAGE, "--%s: expected UTF-8, found the byte 0x%02x at offset %lld",
                    option, (unsigned char)text[at], (long long)at);
}

static int split_lines(const char *path, char *data, size_t bytes, text_list *prompts)
{
    int code = CODE_DONE;
    long long number = 1;
    char *line = bytes >= 3 && !memcmp(data, "\xef\xbb\xbf", 3) ? data + 3 : data;
    for (char *end = data + bytes; line < end && !code; number++) {
        char *stop = memchr(line, '\n', (size_t)(end - line));
        stop = stop ? stop : end;
        const size_t n = (size_t)(stop - line);
        const int64_t at = qwen_utf8_invalid(line, n);
        if (memchr(line, 0, n))
            return complain(CODE_USAGE, "%s: line %lld: expected text, found a zero byte", path,
                            number);
        if (at >= 0)
            return complain(
                CODE_USAGE,
                "%s: line %lld: expected UTF-8, found the byte 0x%02x at offset %lld of the line",
                path, number, (unsigned char)line[at], (long long)at);
        *stop = 0;
        if (n && line[n - 1] == '\r') line[n - 1] = 0;
        if (line[strspn(line, " \t")]) code = list_add(prompts, line);
        line = stop + 1;
    }
    if (!code && !prompts->n)
        code = complain(CODE_USAGE, "%s: expected a prompt a line, found none", path);
    return code;
}

int prompts_read(settings *s, text_list *prompts, char **storage)
{
    size_t bytes = 0;
    *storage = NULL;
    if (s->words.n > 1)
        return complain(
            CODE_USAGE,
            "expected one prompt, found a second argument \"%s\" (quote a prompt of several words)",
            s->words.item[1]);
    if (s->words.n && option_given(s, "prompt"))
        return complain(CODE_USAGE, "the prompt is given twice: --prompt \"%s\" and \"%s\"",
                        s->prompt, s->words.item[0]);
    if (s->words.n) s->prompt = s->words.item[0];
    if (s->prompt_file && (s->words.n || s->prompt))
        return complain(CODE_USAGE, "--prompt-file: expected no other prompt, found \"%s\"",
                        s->prompt);
    if (s->prompt_file) {
        const int code = read_file(s->prompt_file, 1 << 28, storage, &bytes);
        return code ? code : split_lines(s->prompt_file, *storage, bytes, prompts);
    }
    if (!s->prompt && !s->embeds)
        return complain(
            CODE_USAGE,
            "a prompt is missing: give it as the argument, with --prompt or --prompt-file%s",
            s->inputs.n ? "; for layers it is a caption of the picture, which is not written for "
                          "you yet"
                        : "");
    const int code = check_utf8("prompt", s->prompt);
    return code ? code : list_add(prompts, s->prompt);
}

static int set_template(call *c)
{
    static const char *const names[] = { "t2i", "edit", "edit-plus" };
    const settings *s = c->s;
    size_t bytes;
    struct stat st;
    if (s->template_text && !s->chat_template) {
        c->req.chat_template = s->template_text;
        return CODE_DONE;
    }
    if (!s->chat_template) return CODE_DONE;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(s->chat_template, names[i])) {
            c->req.chat_template = names[i];
            return CODE_DONE;
        }
    if (stat(s->chat_template, &st) && !strpbrk(s->chat_template, "/."))
        return complain(CODE_USAGE,
                        "--template: expected t2i, edit, edit-plus or a file, found \"%s\"",
                        s->chat_template);
    const int code = read_file(s->chat_template, 1 << 24, &c->template_file, &bytes);
    if (code) return code;
    if (memchr(c->template_file, 0, bytes) || qwen_utf8_invalid(c->template_file, bytes) >= 0)
        return complain(CODE_MALFORMED, "%s: expected UTF-8 text", s->chat_template);
    if (!strstr(c->template_file, "{}"))
        return complain(CODE_MALFORMED, "%s: expected {} in the place of the prompt, found none",
                        s->chat_template);
    c->req.chat_template = c->template_file;
    return CODE_DONE;
}

/* --- tensors ---------------------------------------------------------------------------------- */

/* Copies the name of a packed latent of the file, for the message; nonzero: it has one. */
static int packed_name(const char *path, char *name, size_t size)
{
    qwen_file *f = NULL;
    qwen_file_tensor t;
    int there = 0;
    if (!qwen_file_open(&f, path))
        for (int64_t i = 0; i < qwen_file_count(f) && !there; i++)
            if (!qwen_file_tensor_at(f, i, &t) && !strncmp(t.name, "latents.", 8)) {
                there = 1;
                snprintf(name, size, "%s", t.name);
            }
    qwen_file_close(f);
    return there;
}

static int read_noise(call *c)
{
    static const char *const names[] = { "noise", "latents", NULL };
    const char *path = c->s->latents;
    char packed[80];
    int which;
    const int code = tensor_read(path, names, &c->noise, &which);
    if (code) return code;
    if (which < 0 && packed_name(path, packed, sizeof packed))
        return complain(
            CODE_MALFORMED,
            "%s: expected a tensor \"noise\" or \"latents\" of [16][height/8][width/8], found "
            "the packed \"%s\"",
            path, packed);
    if (which < 0)
        return complain(CODE_MALFORMED,
                        "%s: expected a tensor \"noise\" or \"latents\", found neither", path);
    const int rank = c->noise.rank;
    if ((rank != 3 && rank != 4) || (c->noise.dtype != QWEN_F32 && c->noise.dtype != QWEN_F64))
        return complain(
            CODE_MALFORMED,
            "%s: expected \"%s\" to hold numbers of 3 or 4 dimensions, found %d dimensions%s", path,
            names[which], rank,
            c->noise.dtype == QWEN_I32 || c->noise.dtype == QWEN_U8 ? " of integers" : "");
    c->req.noise = &c->noise;
    if (!c->req.width && !c->req.height && !c->inputs && rank == 3 && c->noise.dim[1] < 1 << 17
        && c->noise.dim[2] < 1 << 17) {
        c->req.width = (int)c->noise.dim[2] * 8;
        c->req.height = (int)c->noise.dim[1] * 8;
    }
    return CODE_DONE;
}

static int check_embeds(const char *path, const char *name, const qwen_array *a)
{
    if (a->rank == 2 && (a->dtype == QWEN_F32 || a->dtype == QWEN_F64)) return CODE_DONE;
    return complain(CODE_MALFORMED,
                    "%s: expected \"%s\" to hold numbers of [tokens][width], found %d dimensions",
                    path, name, a->rank);
}

static int read_embeds(call *c)
{
    static const char *const text[] = { "text.embeds", NULL }, *const negative[] = { "neg.embeds",
                                                                                     NULL };
    const char *path = c->s->embeds;
    int which;
    int code = tensor_read(path, text, &c->embeds, &which);
    if (!code && which < 0)
        code = complain(CODE_MALFORMED, "%s: expected a tensor \"text.embeds\", found none", path);
    if (!code) code = check_embeds(path, "text.embeds", &c->embeds);
    c->req.embeds = &c->embeds;
    if (!code && !c->s->negative) code = tensor_read(path, negative, &c->negative_embeds, &which);
    if (!code && !c->s->negative && which >= 0) {
        code = check_embeds(path, "neg.embeds", &c->negative_embeds);
        c->req.negative_embeds = &c->negative_embeds;
    }
    return code;
}

/* --- pictures --------------------------------------------------------------------------------- */

static int check_aspect(const char *path, const qwen_array *a)
{
    if (a->dim[0] <= 200 * a->dim[1] && a->dim[1] <= 200 * a->dim[0]) return CODE_DONE;
    return complain(CODE_MALFORMED, "%s: expected sides of at most 200 to 1, found %lldx%lld", path,
                    (long long)a->dim[1], (long long)a->dim[0]);
}

static int read_control(call *c)
{
    const char *path = c->s->control;
    struct stat st;
    const int edges = !strncmp(path, "canny:", 6) && stat(path, &st);
    int code = picture_read(c->s, edges ? path + 6 : path, &c->control);
    if (!code) code = check_aspect(path, &c->control);
    if (!code && edges) code = canny(&c->control);
    c->req.control = &c->control;
    c->req.control_strength = option_given(c->s, "control-strength") ? c->s->control_strength : 1;
    c->req.control_start = c->s->control_start;
    c->req.control_end = option_given(c->s, "control-end") ? c->s->control_end : 1;
    if (c->req.control_strength == 0 && c->req.control_start == 0 && c->req.control_end == 0)
        c->req.control_end =
            1; /* all three zero would mean the defaults; at strength 0 the end changes nothing */
    return code;
}

static int read_pictures(call *c)
{
    const settings *s = c->s;
    int code = CODE_DONE;
    if (s->inputs.n > 32)
        return complain(CODE_USAGE, "--input: expected up to 32 pictures, found %zu", s->inputs.n);
    c->input = calloc(s->inputs.n + 1, sizeof *c->input);
    if (!c->input) return no_memory();
    for (size_t i = 0; i < s->inputs.n && !code; i++) {
        code = picture_read(s, s->inputs.item[i], &c->input[i]);
        c->inputs += !code;
        if (!code) code = check_aspect(s->inputs.item[i], &c->input[i]);
    }
    c->req.input = c->inputs ? c->input : NULL;
    c->req.inputs = (int)c->inputs;
    if (!code && s->mask) {
        code = picture_read(s, s->mask, &c->mask);
        c->req.mask = &c->mask;
    }
    if (!code && s->control) code = read_control(c);
    return code;
}

/* Options that contradict each other or need another, checked before any file is read. */
static int check_together(const settings *s)
{
    const int extend = s->extend[0] || s->extend[1] || s->extend[2] || s->extend[3];
    const struct {
        int given;
        const char *option;
    } need_input[] = { { s->mask != NULL, "mask" },
                       { extend, "extend" },
                       { option_given(s, "strength"), "strength" } };
    for (size_t i = 0; i < sizeof need_input / sizeof *need_input; i++)
        if (need_input[i].given && !s->inputs.n && (i || !s->control)) /* a ControlNet inpaints */
            return complain(CODE_USAGE, "--%s: expected a picture (--input), found none",
                            need_input[i].option);
    if (!s->control
        && (option_given(s, "control-strength") || option_given(s, "control-start")
            || option_given(s, "control-end")))
        return complain(CODE_USAGE,
                        "--control-%s: expected a control picture (--control), found none",
                        option_given(s, "control-strength") ? "strength"
                        : option_given(s, "control-start")  ? "start"
                                                            : "end");
    if (s->control && option_given(s, "control-end") && s->control_start > s->control_end)
        return complain(CODE_USAGE, "--control-start: expected at most --control-end, %g, found %g",
                        s->control_end, s->control_start);
    if (s->sigmas.n && s->steps && (!s->schedule || strcmp(s->schedule, "raw"))
        && (size_t)s->steps != s->sigmas.n)
        return complain(CODE_USAGE, "--steps: expected %zu, as many as --sigmas has, found %d",
                        s->sigmas.n, s->steps);
    if (s->embeds && (s->prompt || s->words.n || s->prompt_file))
        notice(s, "The prompt is not read: --embeds takes its place");
    if (s->no_paste && !s->mask && !extend)
        notice(s, "--no-paste changes nothing: there is no mask");
    if (s->lora_partial && !s->loras.n)
        return complain(CODE_USAGE, "--lora-partial: expected a LoRA (--lora), found none");
    return CODE_DONE;
}

static void fill_request(call *c)
{
    const settings *s = c->s;
    qwen_request *r = &c->req;
    *r = (qwen_request){ .size = sizeof *r,
                         .prompt = s->prompt,
                         .negative = s->negative,
                         .width = s->width,
                         .height = s->height,
                         .steps = s->steps,
                         .seed = s->seed,
                         .rng = s->rng,
                         .schedule = s->schedule,
                         .sampler = s->sampler,
                         .system = s->system,
                         .sigmas = s->sigmas.item,
                         .n_sigmas = (int)s->sigmas.n,
                         .shift = s->shift,
                         .noise_dtype = s->noise_dtype,
                         .strength = s->strength,
                         .layers = s->layers,
                         .reference_area = s->reference_area,
                         .condition_area = s->condition_area,
                         .tiling = s->tiling };
    memcpy(r->extend, s->extend, sizeof r->extend);
    if (option_given(s, "guidance")) /* 0 would mean the default; up to 1: one pass */
        r->guidance = s->guidance > 0 ? s->guidance : 1;
    if (s->guidance_norm) r->guidance_norm = !strcmp(s->guidance_norm, "on") ? 1 : 2;
}

int call_begin(call *c, settings *s)
{
    memset(c, 0, sizeof *c);
    c->s = s;
    int code = check_together(s);
    if (!code) code = set_sizes(s);
    if (!code) code = check_utf8("negative", s->negative);
    if (!code) code = check_utf8("system", s->system);
    fill_request(c);
    if (!code) code = set_template(c);
    if (!code) code = read_pictures(c);
    if (!code && s->latents) code = read_noise(c);
    if (!code && s->embeds) code = read_embeds(c);
    return code;
}

/* --- the model -------------------------------------------------------------------------------- */

static void on_log(void *user, int level, const char *line)
{
    call *c = user;
    if (c->s->quiet || (level > 0 && !c->s->verbose)) return;
    if (c->bar) progress_line(c->bar);
    notice(c->s, "%s", line);
}

/* Splits "name:0.8" at its last colon, unless a file has the whole name.  *name is malloc'ed. */
static int split_lora(const char *text, char **name, double *strength)
{
    struct stat st;
    char *end;
    const char *colon = strrchr(text, ':');
    *strength = 1;
    *name = NULL;
    if (colon && stat(text, &st)) {
        const double x = strtod(colon + 1, &end);
        if (!colon[1] || (!*end && !isfinite(x)))
            return complain(CODE_USAGE, "--lora: expected a strength after the colon, found \"%s\"",
                            text);
        if (*end) colon = NULL; /* no number: the colon belongs to the name */
        else *strength = x;
    }
    *name = format_text("%.*s", (int)(colon && stat(text, &st) ? colon - text : (long)strlen(text)),
                        text);
    return *name ? CODE_DONE : no_memory();
}

static int add_loras(call *c)
{
    int code = CODE_DONE;
    for (size_t i = 0; i < c->s->loras.n && !code; i++) {
        char *name = NULL, *path = NULL;
        double strength;
        code = split_lora(c->s->loras.item[i], &name, &strength);
        if (!code) code = find_lora(c->s, name, &path);
        const int status =
            code ? QWEN_OK
                 : qwen_lora(c->q, path, strength, c->s->lora_partial ? QWEN_LORA_PARTIAL : 0);
        if (status) code = complain(code_of(status), "%s", qwen_error(c->q));
        free(name);
        free(path);
    }
    return code;
}

int call_open(call *c)
{
    const settings *s = c->s;
    int code = find_model(s, &c->files);
    if (code) return code;
    c->opt = (qwen_options){ .size = sizeof c->opt,
                             .model = c->files.model,
                             .transformer = c->files.transformer,
                             .text_encoder = c->files.text_encoder,
                             .vision = c->files.vision,
                             .vae = c->files.vae,
                             .controlnet = c->files.controlnet,
                             .tokenizer = c->files.tokenizer,
                             .variant = s->variant,
                             .like = s->like,
                             .device = s->device,
                             .text_device = s->text_device,
                             .vae_device = s->vae_device,
                             .memory = s->memory,
                             .threads = s->threads,
                             .strict = s->strict,
                             .log = on_log,
                             .user = c };
    int status = qwen_open(&c->q, &c->opt);
    c->info.size = sizeof c->info;
    if (!status && !(code = add_loras(c))) status = qwen_info(c->q, &c->info);
    if (!status && !code && s->negative && !strcmp(s->negative, "default"))
        c->req.negative = c->info.recommended_negative;
    if (status == QWEN_EIO && s->model && is_id(s->model) && strcmp(s->model, c->files.model))
        return complain(CODE_READ, "%s; huggingface-cli download %.*s fetches what is missing",
                        qwen_error(c->q), (int)strcspn(s->model, "@"), s->model);
    return status ? complain(code_of(status), "%s", qwen_error(c->q)) : code;
}

void call_close(call *c)
{
    qwen_close(c->q);
    for (size_t i = 0; i < c->inputs; i++) qwen_array_free(&c->input[i]);
    free(c->input);
    qwen_array_free(&c->mask);
    qwen_array_free(&c->control);
    qwen_array_free(&c->noise);
    qwen_array_free(&c->embeds);
    qwen_array_free(&c->negative_embeds);
    free(c->template_file);
    found_free(&c->files);
}
