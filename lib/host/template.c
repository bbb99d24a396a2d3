/* template.c - chat templates: the text that the text encoder reads around a prompt.
 *
 * The strings are those of diffusers' Qwen-Image pipelines (0.36 to 0.42).  The rows of the
 * fixed beginning are dropped from the encoder's output: 34 tokens of the text-to-image template
 * and 64 of the edit template, as published.  For other texts the tokenizer counts them. */
#include "host/text.h"
#include <stdlib.h>
#include <string.h>
#include <stdio.h>

typedef struct template
{
    const char *name, *system, *before, *after; /* before and after the prompt */
    int64_t drop;
}
template;

#define EDIT_SYSTEM                                                                                \
    "Describe the key features of the input image (color, shape, size, texture, objects, "         \
    "background), then explain "                                                                   \
    "how the user's text instruction should alter or modify the image. Generate a new image that " \
    "meets the user's "                                                                            \
    "requirements while maintaining consistency with the original input where appropriate."
#define PAD          "<|image_pad|>"
#define VISION       "<|vision_start|>" PAD "<|vision_end|>"
#define SYSTEM_BEGIN "<|im_start|>system\n"
#define SYSTEM_END   "<|im_end|>\n<|im_start|>user\n"
#define USER_END     "<|im_end|>\n<|im_start|>assistant\n"

static const template templates[] = {
    { "t2i",
      "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial "
      "relationships "
      "of the objects and background:",
      "", USER_END, 34 },
    { "edit", EDIT_SYSTEM, VISION, USER_END, 64 },
    { "edit-plus", EDIT_SYSTEM, "", USER_END, 64 },
};

/* A string that grows; failed: no memory. */
typedef struct buffer {
    char *data;
    size_t used, room;
    int failed;
} buffer;

static void append_bytes(buffer *b, const char *s, size_t n)
{
    if (b->failed) return;
    if (n >= b->room - b->used) {
        const size_t room = b->room + n + b->room / 2 + 256;
        char *data = realloc(b->data, room);
        if (!data) {
            b->failed = 1;
            return;
        }
        b->data = data;
        b->room = room;
    }
    memcpy(b->data + b->used, s, n);
    b->used += n;
    b->data[b->used] = 0;
}

static void append(buffer *b, const char *s) { append_bytes(b, s, strlen(s)); }

static void append_pads(buffer *b, int64_t n)
{
    for (int64_t i = 0; i < n && !b->failed; i++) append(b, PAD);
}

/* "Picture 1: <|vision_start|>...<|vision_end|>Picture 2: ..." */
static void append_pictures(buffer *b, const int64_t *tokens, int pictures)
{
    for (int i = 0; i < pictures; i++) {
        char label[32];
        snprintf(label, sizeof label, "Picture %d: ", i + 1);
        append(b, label);
        append(b, "<|vision_start|>");
        append_pads(b, tokens[i]);
        append(b, "<|vision_end|>");
    }
}

/* Appends the first n bytes of s; each image pad in it becomes the pads of the next picture. */
static void append_template(buffer *b, const char *s, size_t n, const int64_t *tokens, int pictures,
                            int *next)
{
    const char *end = s + n;
    for (const char *p; (p = strstr(s, PAD)) && p < end; s = p + strlen(PAD)) {
        append_bytes(b, s, (size_t)(p - s));
        append_pads(b, *next < pictures ? tokens[*next] : 1);
        ++*next;
    }
    append_bytes(b, s, (size_t)(end - s));
}

static int count_tokens(const qw_tokenizer *tok, const char *s, size_t n, int64_t *count,
                        qw_error *err)
{
    int32_t *ids = NULL;
    *count = 0;
    if (!n) return QWEN_OK;
    if (qw_tokenize(tok, s, n, &ids, count, err)) return err->status;
    free(ids);
    return QWEN_OK;
}

/* The text of a template with {}: a published one with its own or another system text, or the
 * caller's. */
static char *template_text(const char *name, const char *system, int64_t *drop, qw_error *err)
{
    buffer b = { 0 };
    *drop = -1;
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++) {
        const template *t = &templates[i];
        if (strcmp(name, t->name)) continue;
        *drop = system ? -1 : t->drop;
        append(&b, SYSTEM_BEGIN);
        append(&b, system ? system : t->system);
        append(&b, SYSTEM_END);
        append(&b, t->before);
        append(&b, "{}");
        append(&b, t->after);
        break;
    }
    if (!b.data && !b.failed) {
        const char *brace = strstr(name, "{}"), *own = strstr(name, SYSTEM_BEGIN);
        if (!brace) {
            char seen[80];
            qw_fail(err, QWEN_EARG,
                    "template \"%s\" is none of t2i, edit, edit-plus, and has no {} for the prompt",
                    qw_visible(seen, sizeof seen, name));
            return NULL;
        }
        const char *end = own ? strstr(own, "<|im_end|>") : NULL;
        if (system && (!end || end > brace)) {
            qw_fail(err, QWEN_EARG, "the template has no system text that could be replaced");
            return NULL;
        }
        if (system) {
            append_bytes(&b, name, (size_t)(own - name) + strlen(SYSTEM_BEGIN));
            append(&b, system);
            append(&b, end);
        } else {
            append(&b, name);
        }
    }
    if (b.failed) {
        free(b.data);
        qw_fail(err, QWEN_ENOMEM, "no memory for the prompt");
        return NULL;
    }
    return b.data;
}

int qw_prompt_make(qw_prompt *out, const char *name, const char *system, const char *user_text,
                   const int64_t *tokens, int pictures, const qw_tokenizer *tok, qw_error *err)
{
    memset(out, 0, sizeof *out);
    int next = 0;
    char *text = template_text(name, system, &out->drop, err);
    if (!text) return err->status;

    /* The rows before {} are dropped, but not those of pictures that stand before it.  A system
     * text of the caller may hold braces: then {} is looked for behind it. */
    const char *turn = system ? strstr(text, "<|im_end|>") : text;
    const char *brace = strstr(turn && strstr(turn, "{}") ? turn : text, "{}");
    const char *vision = strstr(text, "<|vision_start|>");
    const size_t kept = (size_t)((vision && vision < brace ? vision : brace) - text);
    if (out->drop < 0 && count_tokens(tok, text, kept, &out->drop, err)) {
        free(text);
        return err->status;
    }
    buffer b = { 0 };
    append_template(&b, text, (size_t)(brace - text), tokens, pictures, &next);
    if (next == 0 && !strstr(brace, PAD)) append_pictures(&b, tokens, pictures);
    append(&b, user_text);
    append_template(&b, brace + 2, strlen(brace + 2), tokens, pictures, &next);
    free(text);
    if (b.failed) {
        free(b.data);
        return qw_fail(err, QWEN_ENOMEM, "no memory for the prompt");
    }
    if (next > 0 && next != pictures) {
        free(b.data);
        return qw_fail(err, QWEN_EARG,
                       "the template has places for %d pictures, the request has %d", next,
                       pictures);
    }
    out->text = b.data;
    out->bytes = b.used;
    return QWEN_OK;
}

void qw_prompt_free(qw_prompt *p)
{
    free(p->text);
    memset(p, 0, sizeof *p);
}
