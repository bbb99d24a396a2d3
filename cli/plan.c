/* plan.c - the subcommand that prints what a run would cost: memory, arithmetic, every
 * operation. */
#include "request.h"
#include <stdlib.h>
#include <string.h>

typedef struct op_line {
    char *line;
    int64_t count;
} op_line;
typedef struct op_list {
    op_line *item;
    size_t n;
    int failed;
} op_list;

typedef struct collected { /* what the callbacks of qwen_plan add to */
    op_list ops;
    qwen_geometry *picture;
    size_t pictures;
    int failed;
} collected;

static void add_picture(void *user, const qwen_geometry *g)
{
    collected *n = user;
    qwen_geometry *more = realloc(n->picture, (n->pictures + 1) * sizeof *more);
    n->failed |= !more;
    if (!more) return;
    n->picture = more;
    n->picture[n->pictures++] = *g;
}

static void add_op(void *user, const char *line, int64_t count)
{
    op_list *l = &((collected *)user)->ops;
    op_line *more = l->failed ? NULL : realloc(l->item, (l->n + 1) * sizeof *more);
    if (more) l->item = more;
    l->failed |= !more || !(l->item[l->n].line = format_text("%s", line));
    if (l->failed) return;
    l->item[l->n++].count = count;
}

static void bytes_text(uint64_t bytes, char out[24])
{
    const char *const unit[] = { "B", "kB", "MB", "GB", "TB" };
    double x = (double)bytes;
    int k = 0;
    for (; x >= 999.5 && k < 4; k++) x /= 1000;
    snprintf(out, 24, k && x < 99.5 ? "%.1f %s" : "%.0f %s", x, unit[k]);
}

static void print_bytes(const char *what, uint64_t bytes)
{
    char text[24];
    bytes_text(bytes, text);
    printf("  %-28s %10s\n", what, text);
}

static void print_flops(const char *what, double flops)
{
    if (flops > 0) printf("  %-28s %10.4g\n", what, flops / 1e12);
}

static void print_pictures(const collected *n)
{
    for (size_t i = 0; i < n->pictures; i++) {
        const qwen_geometry *g = &n->picture[i];
        printf("%s %d: %dx%d", g->role, g->index, g->width, g->height);
        if (g->seen_width)
            printf(", for the vision tower %dx%d, then %dx%d", g->area_width, g->area_height,
                   g->seen_width, g->seen_height);
        printf(!strcmp(g->role, "mask") ? ", used as %dx%d\n" : ", for the VAE %dx%d\n",
               g->coded_width, g->coded_height);
    }
}

static void print_text(const call *c, const qwen_plan_report *r, const collected *n)
{
    const op_list *ops = &n->ops;
    const double all = r->flops_text + r->flops_vision + r->flops_encode + r->flops_denoise
                       + r->flops_decode;
    printf("%s (%s) on %s: %dx%d, %d steps, %d pass%s a step\n",
           c->files.label ? c->files.label : "the model", c->info.variant, c->info.device, r->width,
           r->height, r->steps, r->passes, r->passes > 1 ? "es" : "");
    printf("tokens: %lld of the picture, %lld of text, %lld of references\n",
           (long long)r->image_tokens, (long long)r->text_tokens, (long long)r->reference_tokens);
    print_pictures(n);
    if (r->bands_encode) printf("the VAE encodes in %d row bands\n", r->bands_encode);
    if (r->bands_decode) printf("the VAE decodes in %d row bands\n", r->bands_decode);
    printf("\nweights in the files\n");
    print_bytes("text encoder", r->weights_text);
    if (r->weights_vision) print_bytes("vision tower", r->weights_vision);
    print_bytes("transformer", r->weights_transformer);
    print_bytes("VAE", r->weights_vae);
    printf("\nmemory\n");
    print_bytes("weights kept on the device", r->resident);
    print_bytes("weights streamed", r->streamed);
    print_bytes("scratch, at its peak", r->scratch);
    print_bytes("copies on the host", r->copies);
    printf("\nfloating-point operations, in units of 10^12\n");
    print_flops("text encoder", r->flops_text);
    print_flops("vision tower", r->flops_vision);
    print_flops("VAE encoder", r->flops_encode);
    print_flops("denoising", r->flops_denoise);
    print_flops("VAE decoder", r->flops_decode);
    print_flops("all", all);
    if (ops->n) printf("\noperations\n");
    for (size_t i = 0; i < ops->n; i++)
        printf("%8lld  %s\n", (long long)ops->item[i].count, ops->item[i].line);
}

static json_t *pictures_json(const collected *n)
{
    json_t *all = json_array();
    for (size_t i = 0; i < n->pictures; i++) {
        const qwen_geometry *g = &n->picture[i];
        json_t *o = json_pack("{s:s,s:i,s:[ii],s:[ii]}", "role", g->role, "index", g->index,
                              "given", g->width, g->height, "used", g->coded_width,
                              g->coded_height);
        if (g->seen_width)
            json_object_set_new(o, "vision",
                                json_pack("[[ii][ii]]", g->area_width, g->area_height,
                                          g->seen_width, g->seen_height));
        json_array_append_new(all, o);
    }
    return all;
}

static int print_json(const call *c, const qwen_plan_report *r, const collected *n)
{
    const op_list *ops = &n->ops;
    json_t *list = json_array();
    for (size_t i = 0; i < ops->n; i++)
        json_array_append_new(list, json_pack("{s:s,s:I}", "op", ops->item[i].line, "count",
                                              (json_int_t)ops->item[i].count));
    json_t *o = json_pack("{s:s,s:s,s:s,s:i,s:i,s:i,s:i}", "model",
                          c->files.label ? c->files.label : "", "variant", c->info.variant,
                          "device", c->info.device, "width", r->width, "height", r->height, "steps",
                          r->steps, "passes", r->passes);
    json_object_set_new(o, "tokens",
                        json_pack("{s:I,s:I,s:I}", "image", (json_int_t)r->image_tokens, "text",
                                  (json_int_t)r->text_tokens, "reference",
                                  (json_int_t)r->reference_tokens));
    json_object_set_new(o, "weights",
                        json_pack("{s:I,s:I,s:I,s:I}", "text", (json_int_t)r->weights_text,
                                  "vision", (json_int_t)r->weights_vision, "transformer",
                                  (json_int_t)r->weights_transformer, "vae",
                                  (json_int_t)r->weights_vae));
    json_object_set_new(o, "memory",
                        json_pack("{s:I,s:I,s:I,s:I}", "resident", (json_int_t)r->resident,
                                  "streamed", (json_int_t)r->streamed, "scratch",
                                  (json_int_t)r->scratch, "copies", (json_int_t)r->copies));
    json_object_set_new(o, "flops",
                        json_pack("{s:f,s:f,s:f,s:f,s:f}", "text", r->flops_text, "vision",
                                  r->flops_vision, "encode", r->flops_encode, "denoise",
                                  r->flops_denoise, "decode", r->flops_decode));
    json_object_set_new(o, "pictures", pictures_json(n));
    json_object_set_new(
        o, "bands", json_pack("{s:i,s:i}", "encode", r->bands_encode, "decode", r->bands_decode));
    if (ops->n) json_object_set(o, "ops", list);
    json_decref(list);
    char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    json_decref(o);
    if (!text) return no_memory();
    printf("%s\n", text);
    free(text);
    return CODE_DONE;
}

static int print_plan(call *c, settings *s)
{
    collected n = { .ops = { 0 } };
    qwen_plan_report r = {
        .size = sizeof r, .ops = s->ops ? add_op : NULL, .geometry = add_picture, .user = &n
    };
    const int status = qwen_plan(c->q, &c->req, &r);
    int code = status                     ? complain(code_of(status), "%s", qwen_error(c->q))
               : n.ops.failed || n.failed ? no_memory()
                                          : CODE_DONE;
    if (!code && s->json) code = print_json(c, &r, &n);
    else if (!code) print_text(c, &r, &n);
    for (size_t i = 0; i < n.ops.n; i++) free(n.ops.item[i].line);
    free(n.ops.item);
    free(n.picture);
    return code ? code : flush_stdout();
}

/* The cost depends on the length of the prompt only; without a prompt an empty one is planned. */
int run_plan(settings *s)
{
    call c = { 0 };
    text_list prompts = { 0 };
    char *storage = NULL;
    int code = recipe_load(s);
    if (!code && !s->words.n && !s->prompt && !s->embeds) s->prompt = "";
    if (!code) code = prompts_read(s, &prompts, &storage);
    if (!code) code = call_begin(&c, s);
    if (!code) code = call_open(&c);
    if (!code) code = print_plan(&c, s);
    call_close(&c);
    free(prompts.item);
    free(storage);
    return code;
}
