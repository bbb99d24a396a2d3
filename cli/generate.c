/* generate.c - the subcommand that draws: one run per prompt and seed, its files and its report. */
#include "request.h"
#include "media/media.h"
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

typedef struct session { /* what the callbacks of a run share */
    settings *s;
    call call;
    progress bar;
    dump *dump;
    preview *preview;
    text_list prompts;
    char *storage;             /* owns the text of the prompts */
    int64_t pictures, per_run; /* pictures of all runs; layers of one run */
    int64_t written;
    uint64_t seed;
} session;

static int on_progress(void *user, const qwen_progress *now)
{
    session *x = user;
    return progress_show(&x->bar, now) || dump_failed(x->dump); /* the dump failed: stop */
}

static void on_tensor(void *user, const char *name, const qwen_array *a)
{
    session *x = user;
    if (x->dump) dump_add(x->dump, name, a);
    if (x->preview) preview_tensor(x->preview, name, a);
}

/* --- before anything is loaded ---------------------------------------------------------------- */

static int check_output(const session *x)
{
    const settings *s = x->s;
    const int several = x->pictures > 1;
    if (!*s->output || s->output[strlen(s->output) - 1] == '/')
        return complain(CODE_WRITE, "--output: expected the name of a file, found \"%s\"",
                        s->output);
    if (!strcmp(s->output, "-")) {
        if (several)
            return complain(CODE_USAGE, "--output: standard output takes one picture, found %lld",
                            (long long)x->pictures);
        if (s->json || s->show_prompt)
            return complain(CODE_USAGE,
                            "--output: standard output is the picture's; expected no --%s",
                            s->json ? "json" : "show-prompt");
        if (isatty(STDOUT_FILENO))
            return complain(CODE_USAGE, "--output: a picture is not written to a terminal");
        return CODE_DONE;
    }
    if (picture_format(s->output) == PICTURE_NONE)
        return complain(CODE_USAGE,
                        "--output: expected a name in .png, .jpg or .webp, found \"%s\"",
                        s->output);
    char *name = picture_name(s->output, 1, several);
    const int code = name ? output_check(name) : no_memory();
    free(name);
    return code;
}

static int check_files(const session *x)
{
    const settings *s = x->s;
    if (s->dump && x->prompts.n * (uint64_t)(s->count ? s->count : 1) > 1)
        return complain(CODE_USAGE, "--dump: expected one seed and one prompt, found %llu pictures",
                        (unsigned long long)x->prompts.n * (unsigned)(s->count ? s->count : 1));
    if (s->dump_only.n && !s->dump)
        return complain(CODE_USAGE, "--dump-only: expected --dump, found none");
    if (s->save_embeds && x->prompts.n > 1)
        return complain(CODE_USAGE, "--save-embeds: expected one prompt, found %zu", x->prompts.n);
    int code = s->dump ? output_check(s->dump) : CODE_DONE;
    if (!code && s->save_embeds) code = output_check(s->save_embeds);
    return code ? code : check_output(x);
}

/* 32 bits from the system. */
static uint64_t random_seed(void)
{
    uint32_t x = 0;
    FILE *f = fopen("/dev/urandom", "rb");
    if (!f || fread(&x, sizeof x, 1, f) != 1)
        x = (uint32_t)(seconds_now() * 1e9) ^ (uint32_t)getpid() * 2654435761u;
    if (f) fclose(f);
    return x;
}

static int prepare(session *x)
{
    settings *s = x->s;
    int code = recipe_load(s);
    if (!code) code = prompts_read(s, &x->prompts, &x->storage);
    s->output = s->output ? s->output : "output.png";
    x->per_run = s->layers ? s->layers : 1;
    x->pictures = (int64_t)x->prompts.n * (s->count ? s->count : 1) * x->per_run;
    if (!code) code = call_begin(&x->call, s);
    return code ? code : check_files(x);
}

/* Checks of --output that need the opened model: the number of layers, and transparency. */
static int check_layers(session *x)
{
    const settings *s = x->s;
    if (!strcmp(x->call.info.variant, "layered")) {
        x->per_run = s->layers ? s->layers : 4;
        x->pictures = (int64_t)x->prompts.n * (s->count ? s->count : 1) * x->per_run;
        if (picture_format(s->output) == PICTURE_JPEG)
            return complain(
                CODE_USAGE,
                "--output: layers are transparent, which JPEG is not; expected a name in .png or "
                ".webp, found \"%s\"",
                s->output);
        return check_output(x);
    }
    return CODE_DONE;
}

static void choose_seed(session *x)
{
    x->seed = x->s->seed;
    if (option_given(x->s, "seed")) return;
    x->seed = random_seed();
    notice(x->s, "Seed %llu", (unsigned long long)x->seed);
}

/* --- words ------------------------------------------------------------------------------------ */

static int cancelled(const session *x)
{
    return x->written ? complain(CODE_CANCELLED, "cancelled; %lld picture%s written before",
                                 (long long)x->written, x->written > 1 ? "s were" : " was")
                      : complain(CODE_CANCELLED, "cancelled; no picture was written");
}

static int library_failed(session *x, int status)
{
    progress_end(&x->bar);
    if (status == QWEN_ECANCELLED) return cancelled(x);
    return complain(code_of(status), "%s", qwen_error(x->call.q));
}

static int uses_negative(const session *x)
{
    return (x->call.req.guidance > 0 ? x->call.req.guidance : x->call.info.guidance) > 1;
}

static int show_prompt(session *x)
{
    FILE *to = x->s->json ? stderr : stdout;
    for (int negative = 0; negative <= uses_negative(x); negative++) {
        char *text = NULL;
        const int status = x->call.req.prompt || negative
                               ? qwen_prompt(x->call.q, &x->call.req, negative, &text)
                               : QWEN_OK;
        if (status) return library_failed(x, status);
        if (text) fprintf(to, "%s\n", text);
        free(text);
    }
    return to == stdout ? flush_stdout() : CODE_DONE;
}

static int save_embeds(session *x)
{
    static const text_list all = { 0 };
    dump *d = NULL;
    int code = dump_open(&d, x->s->save_embeds, &all);
    for (int negative = 0; negative <= uses_negative(x) && !code; negative++) {
        qwen_array a = { 0 };
        const int status = qwen_embed(x->call.q, &x->call.req, negative, &a);
        if (status) code = library_failed(x, status);
        else dump_add(d, negative ? "neg.embeds" : "text.embeds", &a);
        qwen_array_free(&a);
    }
    const int closed = dump_close(d, NULL, !code);
    return code ? code : closed;
}

/* --- results ---------------------------------------------------------------------------------- */

static void put_seconds(json_t *o, const qwen_result *r, double total)
{
    json_object_set_new(o, "seconds",
                        json_pack("{s:f,s:f,s:f,s:f,s:f,s:f}", "text", r->seconds_text, "vision",
                                  r->seconds_vision, "encode", r->seconds_encode, "denoise",
                                  r->seconds_denoise, "decode", r->seconds_decode, "total", total));
}

/* Prints the object of one picture.  JSON_INTEGER ends at 2^63 in Jansson, so the seed is printed
 * by printf. */
static int print_json(const session *x, const char *file, const qwen_result *r, const char *prompt,
                      double total)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    json_t *o = json_pack("{s:s,s:i,s:i,s:i,s:f,s:s}", "file", file, "width", r->width, "height",
                          r->height, "steps", r->steps, "guidance", r->guidance, "variant",
                          r->variant);
    if (prompt) json_object_set_new(o, "prompt", json_string(prompt));
    json_object_set_new(o, "model", json_string(x->call.files.label ? x->call.files.label : ""));
    json_object_set_new(o, "device", json_string(x->call.info.device));
    put_seconds(o, r, total);
    json_object_set_new(o, "memory",
                        json_pack("{s:I,s:I}", "host", (json_int_t)usage.ru_maxrss * 1024, "device",
                                  (json_int_t)r->device_bytes));
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(o);
    if (!text) return no_memory();
    printf("{\"seed\":%llu,%s\n", (unsigned long long)r->seed, text + 1);
    free(text);
    return flush_stdout();
}

static int write_pictures(session *x, int64_t run, const char *prompt, qwen_result *r, double total,
                          const char *recipe)
{
    int code = CODE_DONE;
    if (r->n == 1) paste_kept(x->s, r, &r->image[0]);
    for (int i = 0; i < r->n && !code; i++) {
        char *name = picture_name(x->s->output, run * r->n + i + 1, x->pictures > 1);
        code = name ? picture_write(name, &r->image[i], recipe) : no_memory();
        x->written += !code;
        if (!code && x->s->json) code = print_json(x, name, r, prompt, total);
        else if (!code && strcmp(name, "-"))
            notice(x->s, "%s: %dx%d, seed %llu, %d steps, %.1f s", name, r->width, r->height,
                   (unsigned long long)r->seed, r->steps, total);
        free(name);
    }
    return code;
}

/* torch-cuda draws in an order that depends on the number of a card's threads: a notice if the
 * picture has more numbers than the smallest card has threads. */
static void warn_of_threads(const session *x, const qwen_result *r)
{
    enum { FEWEST = 82 * 1536 }; /* threads of the 3090, the fewest of the cards that rng.c names */
    const int64_t numbers = (int64_t)r->width * r->height / 4; /* 16 channels of 1/8 by 1/8 */
    if (x->s->rng && !strcmp(x->s->rng, "torch-cuda") && numbers > FEWEST)
        notice(x->s, "The noise of torch-cuda depends on the GPU at this size; this is an H100's, "
                     "--rng torch-cuda:a100, :4090, :3090 or :THREADS are others'");
}

static int write_results(session *x, int64_t run, const char *prompt, qwen_result *r, double total)
{
    json_t *recipe = recipe_make(x->s, &x->call, prompt, r);
    char *text = recipe ? json_dumps(recipe, JSON_COMPACT) : NULL;
    json_decref(recipe);
    if (!text) return no_memory();
    int code = write_pictures(x, run, prompt, r, total, text);
    if (x->dump) {
        const int closed = dump_close(x->dump, text, !code);
        x->dump = NULL;
        code = code ? code : closed;
    }
    free(text);
    return code;
}

/* One run: a prompt and a seed. */
static int draw(session *x, int64_t run, const char *prompt)
{
    qwen_result r = { .size = sizeof r };
    const double started = seconds_now();
    int code = CODE_DONE;
    x->call.req.prompt = prompt;
    x->call.req.seed = x->seed + (uint64_t)run;
    progress_begin(&x->bar, x->s, run + 1, x->pictures / x->per_run);
    if (run == 0 && x->s->save_embeds) code = save_embeds(x);
    if (!code && x->s->dump) code = dump_open(&x->dump, x->s->dump, &x->s->dump_only);
    if (code) return code;
    const int status = qwen_generate(x->call.q, &x->call.req, &r);
    if (status == QWEN_ECANCELLED && dump_failed(x->dump)) {
        progress_end(&x->bar);
        code = dump_close(x->dump, NULL, 1);
        x->dump = NULL;
        return code;
    }
    if (status) return library_failed(x, status);
    progress_end(&x->bar);
    if (run == 0) warn_of_threads(x, &r);
    code = interrupted() ? library_failed(x, QWEN_ECANCELLED)
                         : write_results(x, run, prompt, &r, seconds_now() - started);
    qwen_result_free(&r);
    return code;
}

static int draw_all(session *x)
{
    const int count = x->s->count ? x->s->count : 1;
    int64_t run = 0;
    int code = CODE_DONE;
    x->call.req.progress = on_progress;
    x->call.req.tap = x->s->dump || x->preview ? on_tensor : NULL;
    x->call.req.user = x;
    x->call.bar = &x->bar;
    for (size_t p = 0; p < x->prompts.n && !code; p++) {
        x->call.req.prompt = x->prompts.item[p];
        if (x->s->show_prompt) code = show_prompt(x);
        for (int i = 0; i < count && !code; i++) {
            code = draw(x, run++, x->prompts.item[p]);
            if (!code && interrupted())
                code = p + 1 < x->prompts.n || i + 1 < count ? cancelled(x) : CODE_DONE;
        }
    }
    return code;
}

int run_generate(settings *s)
{
    session x = { .s = s };
    interrupt_install();
    int code = prepare(&x);
    if (!code) code = call_open(&x.call);
    if (!code) code = check_layers(&x);
    if (!code && interrupted()) code = cancelled(&x);
    if (!code && s->preview) code = preview_open(&x.preview, s, &x.call.opt, s->output);
    if (!code) {
        choose_seed(&x);
        code = draw_all(&x);
    }
    preview_close(x.preview);
    dump_close(x.dump, NULL, 0);
    call_close(&x.call);
    free(x.prompts.item);
    free(x.storage);
    return code;
}
