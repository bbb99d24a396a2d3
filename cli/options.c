/* options.c - one table of options for all subcommands, from which they are parsed and explained.
 *
 * Long options are "--name value" or "--name=value", short ones "-x value" or "-xvalue"; short
 * flags may be joined.  Arguments after a lone "--" are no options.  The last of a repeated option
 * counts; lists collect. */
#include "cli.h"
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef enum value_kind {
    FLAG,
    TEXT,
    LIST,
    INTEGER, /* int, lo..hi */
    NUMBER,  /* double, lo..hi */
    NUMBERS, /* a list of doubles */
    AREA,
    BYTES,
    UNSIGNED, /* int64_t pixels; uint64_t with a suffix; uint64_t */
    SIZE,
    EXTEND, /* int[2]; int[4] */
    CHOICE  /* one of the words of `argument` */
} value_kind;

typedef struct row {
    unsigned who;
    char letter;
    const char *name;
    value_kind kind;
    size_t at;
    const char *argument; /* name of the value in --help; of CHOICE: the words */
    double lo, hi;
    const char *help;
} row;

#define AT(field) offsetof(settings, field)
enum { GP = FOR_GENERATE | FOR_PLAN, G = FOR_GENERATE };
enum { WITH_MODEL = GP | FOR_TOKENIZE, WITH_FILES = WITH_MODEL | FOR_MODELS };
enum { ALL = 255, OUTPUTS_JSON = GP | FOR_DEVICES | FOR_MODELS | FOR_INSPECT | FOR_COMPARE };

static const row rows[] = {
    { 0, 0, "The model", FLAG, 0, 0, 0, 0, 0 },
    { WITH_MODEL, 'm', "model", TEXT, AT(model), "PATH|NAME|ID", 0, 0,
      "directory, file, name (see: models) or Hugging Face id in the local cache; else "
      "$QWEN_MODEL, else the demo" },
    { GP, 0, "transformer", TEXT, AT(transformer), "PATH|NAME", 0, 0,
      "the transformer, instead of the model's" },
    { GP, 0, "text-encoder", TEXT, AT(text_encoder), "PATH|NAME", 0, 0, "the text encoder" },
    { GP, 0, "vision", TEXT, AT(vision), "PATH|NAME", 0, 0, "the vision tower" },
    { GP, 0, "vae", TEXT, AT(vae), "PATH|NAME", 0, 0, "the VAE" },
    { GP, 0, "controlnet", TEXT, AT(controlnet), "PATH|NAME", 0, 0, "a ControlNet" },
    { WITH_MODEL, 0, "tokenizer", TEXT, AT(tokenizer), "PATH|NAME", 0, 0,
      "the tokenizer's directory" },
    { WITH_FILES, 0, "models", LIST, AT(models), "DIR", 0, 0,
      "a ComfyUI models folder to find names in; repeatable; also $QWEN_MODELS" },
    { GP, 0, "variant", CHOICE, AT(variant), "t2i|edit|edit-2509|edit-2511|layered", 0, 0,
      "the variant, if the files do not show it" },
    { GP, 0, "lora", LIST, AT(loras), "FILE|NAME[:STRENGTH]", 0, 0,
      "lay a LoRA over the transformer; repeatable" },
    { GP, 0, "lora-partial", FLAG, AT(lora_partial), NULL, 0, 0,
      "keys of a LoRA that match nothing are a warning" },

    { 0, 0, "The words", FLAG, 0, 0, 0, 0, 0 },
    { GP, 'p', "prompt", TEXT, AT(prompt), "TEXT", 0, 0, "what to draw; also the first argument" },
    { G, 0, "prompt-file", TEXT, AT(prompt_file), "FILE", 0, 0,
      "one prompt a line (- is standard input)" },
    { GP, 'n', "negative", TEXT, AT(negative), "TEXT", 0, 0,
      "what to keep away from (default: the variant's)" },
    { GP, 0, "template", TEXT, AT(chat_template), "NAME|FILE", 0, 0,
      "chat template: t2i, edit, edit-plus, or a file with {} for the prompt" },
    { GP, 0, "system", TEXT, AT(system), "TEXT", 0, 0, "another system text in the template" },
    { G, 0, "show-prompt", FLAG, AT(show_prompt), NULL, 0, 0, "print the text that is tokenised" },
    { GP, 0, "embeds", TEXT, AT(embeds), "FILE", 0, 0,
      "use text.embeds and neg.embeds of that file" },
    { G, 0, "save-embeds", TEXT, AT(save_embeds), "FILE", 0, 0,
      "write text.embeds and neg.embeds to that file" },

    { 0, 0, "The picture", FLAG, 0, 0, 0, 0, 0 },
    { GP, 'W', "width", INTEGER, AT(width), "PIXELS", 1, 1 << 20, "a multiple of 16" },
    { GP, 'H', "height", INTEGER, AT(height), "PIXELS", 1, 1 << 20, "a multiple of 16" },
    { GP, 0, "size", SIZE, AT(size), "WxH", 1, 1 << 20, "both" },
    { GP, 0, "aspect", TEXT, AT(aspect), "A:B", 0, 0,
      "the published size of that aspect: 1:1, 16:9, 9:16, 4:3, 3:4, 3:2, 2:3" },
    { GP, 's', "steps", INTEGER, AT(steps), "N", 1, 10000, "denoising steps" },
    { GP, 'g', "guidance", NUMBER, AT(guidance), "X", 0, 1e6,
      "true classifier-free guidance; up to 1: one pass, no negative prompt" },
    { GP, 0, "guidance-norm", CHOICE, AT(guidance_norm), "on|off", 0, 0,
      "keep the norm of the positive prediction" },
    { GP, 0, "schedule", TEXT, AT(schedule), "NAME", 0, 0,
      "auto, qwen, lightning, layered, raw, simple, normal, beta, sgm_uniform, karras, "
      "exponential, ddim_uniform, linear_quadratic, kl_optimal" },
    { GP, 0, "shift", NUMBER, AT(shift), "X", 1e-6, 1e6, "a fixed shift of the schedule" },
    { GP, 0, "sigmas", NUMBERS, AT(sigmas), "LIST", 0, 1e6,
      "the noise levels, before the shift, without the final 0; with --schedule raw the final "
      "list" },
    { GP, 0, "sampler", TEXT, AT(sampler), "NAME", 0, 0,
      "euler (default), heun, dpmpp_2m, uni_pc and others" },
    { GP, 0, "seed", UNSIGNED, AT(seed), "N", 0, 0,
      "of the first picture; the next has N+1 (default: random)" },
    { G, 0, "count", INTEGER, AT(count), "N", 1, 1 << 30, "pictures of each prompt" },
    { GP, 0, "rng", TEXT, AT(rng), "NAME", 0, 0,
      "generator of the noise: torch-cpu (default), torch-cpu-bf16-old, torch-cuda[:THREADS|GPU]" },
    { GP, 0, "noise-dtype", CHOICE, AT(noise_dtype), "f32|bf16", 0, 0,
      "the type the noise is drawn in" },
    { GP, 0, "latents", TEXT, AT(latents), "FILE", 0, 0,
      "start from the tensor noise (or latents) of that file" },

    { 0, 0, "Pictures in", FLAG, 0, 0, 0, 0, 0 },
    { GP, 'i', "input", LIST, AT(inputs), "PICTURE", 0, 0,
      "PNG, JPEG or WebP: what to edit, or to start from; repeatable" },
    { GP, 0, "strength", NUMBER, AT(strength), "X", 1e-9, 1,
      "image to image: how much of it is redrawn, up to 1" },
    { GP, 0, "mask", TEXT, AT(mask), "PICTURE", 0, 0, "white is repainted" },
    { G, 0, "no-paste", FLAG, AT(no_paste), NULL, 0, 0,
      "do not put the picture's own pixels back where the mask is black" },
    { GP, 0, "extend", EXTEND, AT(extend), "left=N,...", 0, 1 << 20,
      "paint beyond the borders: left, right, top, bottom, in pixels" },
    { GP, 0, "layers", INTEGER, AT(layers), "N", 1, 64,
      "layers of the layered variant (default 4)" },
    { GP, 0, "reference-area", AREA, AT(reference_area), "PIXELS", 1024, 1e9,
      "area of the inputs for the VAE; layered: of the result" },
    { GP, 0, "condition-area", AREA, AT(condition_area), "PIXELS", 1024, 1e9,
      "area of the inputs for the vision tower" },
    { GP, 0, "control", TEXT, AT(control), "[canny:]PICTURE", 0, 0,
      "control picture; canny: finds its edges first" },
    { GP, 0, "control-strength", NUMBER, AT(control_strength), "X", -1e6, 1e6, "default 1" },
    { GP, 0, "control-start", NUMBER, AT(control_start), "X", 0, 1,
      "from that part of the steps on (default 0)" },
    { GP, 0, "control-end", NUMBER, AT(control_end), "X", 0, 1,
      "until that part of the steps (default 1)" },

    { 0, 0, "Files out", FLAG, 0, 0, 0, 0, 0 },
    { G, 'o', "output", TEXT, AT(output), "FILE", 0, 0,
      "PNG, JPEG or WebP by extension, - is standard output; %d becomes the picture's number "
      "(default output.png)" },
    { G, 0, "dump", TEXT, AT(dump), "FILE", 0, 0, "write every stage's tensor, as safetensors" },
    { G, 0, "dump-only", LIST, AT(dump_only), "GLOB", 0, 0,
      "only tensors of such names; repeatable" },
    { GP, 0, "from", TEXT, AT(from), "PICTURE", 0, 0,
      "the recipe in a picture's metadata; options beside it win" },
    { G, 0, "preview", FLAG, AT(preview), NULL, 0, 0,
      "write OUTPUT-preview.png after each step; gone at the end" },

    { 0, 0, "The machine", FLAG, 0, 0, 0, 0, 0 },
    { GP, 0, "device", TEXT, AT(device), "NAME", 0, 0,
      "see: devices (default: the fastest that opens)" },
    { GP, 0, "text-device", TEXT, AT(text_device), "NAME", 0, 0,
      "for the text encoder and the vision tower" },
    { GP, 0, "vae-device", TEXT, AT(vae_device), "NAME", 0, 0, "for the VAE" },
    { GP, 0, "threads", INTEGER, AT(threads), "N", 1, 65536, "of the host (default: all)" },
    { GP, 0, "memory", BYTES, AT(memory), "SIZE", 0, 0, "device memory to stay under: 8G, 500M" },
    { GP, 0, "tiling", CHOICE, AT(tiling), "reference", 0, 0, "decode in diffusers' tiles" },
    { GP, 0, "strict", FLAG, AT(strict), NULL, 0, 0, "refuse to fall back to the reference" },
    { GP, 0, "like", CHOICE, AT(like), "diffusers|comfyui", 0, 0,
      "the program to follow where the two differ" },

    { 0, 0, "Reports", FLAG, 0, 0, 0, 0, 0 },
    { FOR_PLAN, 0, "ops", FLAG, AT(ops), NULL, 0, 0, "every operation, and how often" },
    { FOR_COMPARE, 0, "tolerance", NUMBER, AT(tolerance), "X", 0, 1e300,
      "relative difference (pictures: levels) that is none (default 0)" },
    { FOR_TOKENIZE, 0, "jsonl", FLAG, AT(jsonl), NULL, 0, 0,
      "lines {\"text\": ...} in, {\"ids\": [...]} out" },
    { FOR_MODELS, 0, "names", FLAG, AT(names), NULL, 0, 0,
      "the names alone, opening no file that --kind does not ask for" },
    { FOR_MODELS, 0, "kind", CHOICE, AT(kind),
      "model|transformer|text-encoder|vision|vae|controlnet|lora|tokenizer", 0, 0,
      "only what that option takes" },
    { G, 0, "progress", CHOICE, AT(progress), "auto|bar|plain|none", 0, 0, "how to show progress" },
    { ALL, 'q', "quiet", FLAG, AT(quiet), NULL, 0, 0, "errors only" },
    { GP, 'v', "verbose", FLAG, AT(verbose), NULL, 0, 0, "more about what happens" },
    { OUTPUTS_JSON, 0, "json", FLAG, AT(json), NULL, 0, 0, "results as JSON on standard output" },
    { ALL, 'h', "help", FLAG, AT(help), NULL, 0, 0, "this text" },
};
enum { ROWS = (int)(sizeof rows / sizeof *rows) };
_Static_assert(ROWS <= (int)sizeof((settings *)0)->given,
               "settings.given has a byte for every row");

/* --- near misses ------------------------------------------------------------------------------ */

int edit_distance(const char *a, const char *b)
{
    int d[64][64];
    const int m = (int)strlen(a), n = (int)strlen(b);
    if (m > 63 || n > 63) return 99;
    for (int i = 0; i <= m; i++)
        for (int j = 0; j <= n; j++) {
            if (!i || !j) {
                d[i][j] = i + j;
                continue;
            }
            int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            best = d[i - 1][j] + 1 < best ? d[i - 1][j] + 1 : best;
            best = d[i][j - 1] + 1 < best ? d[i][j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]
                && d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[m][n];
}

const char *near_miss(const char *word, const char *const *names, size_t n)
{
    const char *best = NULL;
    const int length = (int)strlen(word);
    int least = length < 4 ? 2 : length < 8 ? 3 : 4;
    for (size_t i = 0; i < n; i++) {
        const int far = edit_distance(word, names[i]);
        if (far < least) {
            least = far;
            best = names[i];
        } else if (length >= 3 && !best && !strncmp(word, names[i], (size_t)length)) {
            best = names[i];
        }
    }
    return best;
}

static int unknown_option(unsigned who, const char *shown, const char *name)
{
    const char *names[ROWS];
    size_t n = 0;
    for (int i = 0; i < ROWS; i++)
        if (rows[i].who & who) names[n++] = rows[i].name;
    const char *near = near_miss(name, names, n);
    return near ? complain(CODE_USAGE, "there is no option %s; did you mean --%s?", shown, near)
                : complain(CODE_USAGE, "there is no option %s; --help lists them", shown);
}

/* --- values ----------------------------------------------------------------------------------- */

int list_add(text_list *l, const char *text)
{
    const char **more = realloc(l->item, (l->n + 1) * sizeof *more);
    if (!more) return no_memory();
    l->item = more;
    l->item[l->n++] = text;
    return CODE_DONE;
}

/* Decimal numbers only: no hexadecimal, no infinity.  *end is behind the number. */
static int read_number(const char *text, double *x, const char **end)
{
    char *stop;
    const char *digits = text + (*text == '-' || *text == '+');
    if (!strchr("0123456789.", *digits) || !*digits || digits[1] == 'x' || digits[1] == 'X')
        return 0;
    *x = strtod(text, &stop);
    *end = stop;
    return stop > digits && isfinite(*x);
}

static int read_integer(const char *text, int64_t *x, const char **end)
{
    char *stop;
    if (!strchr("0123456789-+", *text) || !*text) return 0;
    errno = 0;
    *x = strtoll(text, &stop, 10);
    *end = stop;
    return stop > text && !errno;
}

static int expected(const row *r, const char *what, const char *seen)
{
    return complain(CODE_USAGE, "--%s: expected %s, found \"%s\"", r->name, what, seen);
}

static int set_integer(const row *r, const char *value, int64_t *x)
{
    char what[80];
    const char *end;
    snprintf(what, sizeof what, "a whole number from %.0f to %.0f", r->lo, r->hi);
    if (!read_integer(value, x, &end) || *end || (double)*x < r->lo || (double)*x > r->hi)
        return expected(r, what, value);
    return CODE_DONE;
}

static int set_number(const row *r, const char *value, double *x)
{
    char what[80];
    const char *end;
    if (r->lo == 1e-9 || r->lo == 1e-6)
        snprintf(what, sizeof what, "a number above 0, up to %g", r->hi);
    else if (r->hi < 1e6) snprintf(what, sizeof what, "a number from %g to %g", r->lo, r->hi);
    else snprintf(what, sizeof what, "a number%s", r->lo == 0 ? " from 0 up" : "");
    if (!read_number(value, x, &end) || *end || *x < r->lo || *x > r->hi)
        return expected(r, what, value);
    return CODE_DONE;
}

static int set_numbers(const row *r, const char *value, number_list *list)
{
    const char *at = value;
    number_list new = { 0 };
    for (;;) {
        double x;
        while (*at == ' ') at++;
        double *more = realloc(new.item, (new.n + 1) * sizeof *more);
        if (!more) {
            free(new.item);
            return no_memory();
        }
        new.item = more;
        if (!read_number(at, &x, &at)) {
            free(new.item);
            return expected(r, "numbers with commas between them", value);
        }
        new.item[new.n++] = x;
        while (*at == ' ') at++;
        if (!*at) break;
        if (*at == ',') at++;
    }
    free(list->item);
    *list = new;
    return CODE_DONE;
}

static int set_unsigned(const row *r, const char *value, uint64_t *x)
{
    char *end;
    errno = 0;
    *x = *value >= '0' && *value <= '9' ? strtoull(value, &end, 10) : 0;
    if (*value < '0' || *value > '9' || *end || errno)
        return expected(r, "a whole number from 0 to 18446744073709551615", value);
    return CODE_DONE;
}

/* A size in bytes: "8G", "1.5GiB", "500M", "1000000". */
static int set_bytes(const row *r, const char *value, uint64_t *x)
{
    static const char suffix[] = "KMGT";
    const char *end = value;
    double n = 0, times = 1;
    const int good = read_number(value, &n, &end);
    const char upper = *end >= 'a' && *end <= 'z' ? (char)(*end - 'a' + 'A') : *end;
    const char *s = good && upper ? strchr(suffix, upper) : NULL;
    if (s) {
        for (const char *i = suffix; i <= s; i++) times *= 1024;
        end++;
        if (*end == 'i') end++;
    }
    if (good && (*end == 'B' || *end == 'b')) end++;
    if (!good || *end || n * times < 1 || n * times >= 9e18)
        return expected(r, "a size as 8G or 500M", value);
    *x = (uint64_t)(n * times);
    return CODE_DONE;
}

static int set_size(const row *r, const char *value, int *size)
{
    int64_t w, h;
    const char *end;
    int good = read_integer(value, &w, &end) && (*end == 'x' || *end == 'X' || *end == '*');
    good = good && read_integer(end + 1, &h, &end) && !*end;
    if (!good || w < 1 || h < 1 || (double)w > r->hi || (double)h > r->hi)
        return expected(r, "WIDTHxHEIGHT", value);
    size[0] = (int)w;
    size[1] = (int)h;
    return CODE_DONE;
}

static int set_extend(const row *r, const char *value, int *extend)
{
    static const char *const side[] = { "left", "right", "top", "bottom" };
    static const char sides[] = "left=N,right=N,top=N,bottom=N (some of them, each once)";
    const char *at = value;
    int seen = 0;
    while (*at) {
        int k = 0;
        int64_t n;
        while (k < 4 && strncmp(at, side[k], strlen(side[k]))) k++;
        if (k == 4 || at[strlen(side[k])] != '=' || seen & 1 << k
            || !read_integer(at + strlen(side[k]) + 1, &n, &at) || n < 0 || (double)n > r->hi
            || (*at && *at != ','))
            return expected(r, sides, value);
        extend[k] = (int)n;
        seen |= 1 << k;
        if (*at == ',') at++;
    }
    return seen ? CODE_DONE : expected(r, sides, value);
}

static int set_choice(const row *r, const char *value, const char **out)
{
    const size_t n = strlen(value);
    for (const char *at = r->argument; n && (at = strstr(at, value)); at += n)
        if ((at == r->argument || at[-1] == '|') && (!at[n] || at[n] == '|')) {
            *out = value;
            return CODE_DONE;
        }
    return expected(r, r->argument, value);
}

static int set_value(settings *s, const row *r, const char *value)
{
    void *at = (char *)s + r->at;
    int64_t n = 0;
    int code;
    switch (r->kind) {
    case FLAG: *(int *)at = 1; return CODE_DONE;
    case TEXT: *(const char **)at = value; return CODE_DONE;
    case LIST: return list_add(at, value);
    case INTEGER:
        code = set_integer(r, value, &n);
        *(int *)at = (int)n;
        return code;
    case AREA:
        code = set_integer(r, value, &n);
        *(int64_t *)at = n;
        return code;
    case NUMBER: return set_number(r, value, at);
    case NUMBERS: return set_numbers(r, value, at);
    case BYTES: return set_bytes(r, value, at);
    case UNSIGNED: return set_unsigned(r, value, at);
    case SIZE: return set_size(r, value, at);
    case EXTEND: return set_extend(r, value, at);
    case CHOICE: return set_choice(r, value, at);
    }
    return CODE_USAGE;
}

/* --- the command line ------------------------------------------------------------------------- */

static const row *row_named(unsigned who, const char *name, size_t n)
{
    for (int i = 0; i < ROWS; i++)
        if ((rows[i].who & who) && strlen(rows[i].name) == n && !strncmp(rows[i].name, name, n))
            return &rows[i];
    return NULL;
}

static const row *row_lettered(unsigned who, char letter)
{
    for (int i = 0; i < ROWS; i++)
        if ((rows[i].who & who) && rows[i].letter == letter) return &rows[i];
    return NULL;
}

static int set_option(settings *s, const row *r, const char *value)
{
    s->given[r - rows] = 1;
    return set_value(s, r, value);
}

static int long_option(settings *s, unsigned who, int argc, char **argv, int *i)
{
    const char *name = argv[*i] + 2, *equals = strchr(name, '=');
    const size_t n = equals ? (size_t)(equals - name) : strlen(name);
    const row *r = row_named(who, name, n);
    if (!r) {
        char *shown = format_text("--%.*s", (int)n, name);
        const int code = shown ? unknown_option(who, shown, shown + 2) : no_memory();
        free(shown);
        return code;
    }
    if (r->kind == FLAG)
        return equals
                   ? complain(CODE_USAGE, "--%s takes no value, found \"%s\"", r->name, equals + 1)
                   : set_option(s, r, NULL);
    if (equals) return set_option(s, r, equals + 1);
    if (*i + 1 >= argc)
        return complain(CODE_USAGE, "--%s: expected a value (%s), found the end of the command",
                        r->name, r->argument);
    return set_option(s, r, argv[++*i]);
}

static int short_options(settings *s, unsigned who, int argc, char **argv, int *i)
{
    for (const char *c = argv[*i] + 1; *c; c++) {
        const row *r = row_lettered(who, *c);
        if (!r) {
            const char shown[] = { '-', *c, 0 };
            return complain(CODE_USAGE, "there is no option %s; --help lists them",
                            (unsigned char)*c < 0x80 ? shown : argv[*i]);
        }
        if (r->kind == FLAG) {
            const int code = set_option(s, r, NULL);
            if (code) return code;
            continue;
        }
        if (c[1]) return set_option(s, r, c[1] == '=' ? c + 2 : c + 1);
        if (*i + 1 >= argc)
            return complain(CODE_USAGE, "-%c: expected a value (%s), found the end of the command",
                            *c, r->argument);
        return set_option(s, r, argv[++*i]);
    }
    return CODE_DONE;
}

int options_parse(settings *s, unsigned who, int argc, char **argv)
{
    int options = 1;
    for (int i = 0; i < argc; i++) {
        const char *a = argv[i];
        int code;
        if (options && !strcmp(a, "--")) {
            options = 0;
            continue;
        }
        if (options && a[0] == '-' && a[1] == '-') code = long_option(s, who, argc, argv, &i);
        else if (options && a[0] == '-' && a[1]) code = short_options(s, who, argc, argv, &i);
        else code = list_add(&s->words, a);
        if (code) return code;
        if (s->help) return CODE_DONE;
    }
    return CODE_DONE;
}

int option_given(const settings *s, const char *name)
{
    const row *r = row_named(ALL, name, strlen(name));
    return r && s->given[r - rows];
}

int option_default(settings *s, const char *name, const char *value)
{
    const row *r = row_named(FOR_GENERATE, name, strlen(name));
    if (!r || s->given[r - rows] == 1) return CODE_DONE;
    s->given[r - rows] = 2; /* set by the recipe; further items of a list may follow */
    return set_value(s, r, value);
}

/* --- help ------------------------------------------------------------------------------------- */

/* Prints text from column `column` on, broken before column 100. */
static void print_wrapped(FILE *to, const char *text, int column)
{
    int at = column;
    while (*text) {
        const int n = (int)strcspn(text, " ");
        if (at > column && at + 1 + n > 100) {
            fprintf(to, "\n%*s", column, "");
            at = column;
        }
        fprintf(to, "%s%.*s", at > column ? " " : "", n, text);
        at += n + (at > column);
        text += n;
        text += strspn(text, " ");
    }
    fputc('\n', to);
}

void options_help(unsigned who, FILE *to)
{
    enum { COLUMN = 36 };
    const char *group = NULL;
    for (int i = 0; i < ROWS; i++) {
        char left[120];
        const row *r = &rows[i];
        if (!r->who) {
            group = r->name;
            continue;
        }
        if (!(r->who & who)) continue;
        if (group) fprintf(to, "\n%s\n", group);
        group = NULL;
        const int n = snprintf(left, sizeof left, "  %c%c%s --%s%s%s", r->letter ? '-' : ' ',
                               r->letter ? r->letter : ' ', r->letter ? "," : " ", r->name,
                               r->argument ? " " : "", r->argument ? r->argument : "");
        if (n < COLUMN - 1) fprintf(to, "%-*s", COLUMN, left);
        else fprintf(to, "%s\n%*s", left, COLUMN, "");
        print_wrapped(to, r->help, COLUMN);
    }
}

void settings_free(settings *s)
{
    free(s->models.item);
    free(s->sigmas.item);
    free(s->inputs.item);
    free(s->loras.item);
    free(s->dump_only.item);
    free(s->words.item);
    json_decref(s->recipe);
}
