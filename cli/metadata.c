/* metadata.c - the recipe of a picture: its options as JSON in its metadata, written and read.
 *
 * Keys are the names of options.  Files are recorded by name without directories; inputs with their
 * SHA-256, so that a recipe does not silently use another picture of the same name. */
#include "request.h"
#include "media/media.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --- out -------------------------------------------------------------------------------------- */

static void put_text(json_t *o, const char *key, const char *value)
{
    if (value) json_object_set_new(o, key, json_string(value));
}

/* A component's directory is recorded by the name of the model directory that holds it. */
static void put_file(json_t *o, const char *key, const char *path)
{
    static const char *const parts[] = { "transformer", "text_encoder", "vae", "controlnet",
                                         "tokenizer" };
    char *model = NULL;
    for (size_t i = 0; path && i < sizeof parts / sizeof *parts; i++) {
        const size_t before = (size_t)(base_name(path) - path);
        if (!strcmp(base_name(path), parts[i]) && before > 1)
            model = format_text("%.*s", (int)before - 1, path);
    }
    if (path) put_text(o, key, base_name(model ? model : path));
    free(model);
}

static json_t *input_of(const char *path)
{
    char hex[65] = "";
    const char *prefix = !strncmp(path, "canny:", 6) ? "canny:" : "",
               *plain = path + strlen(prefix);
    struct stat st;
    if (*prefix && !stat(path, &st)) {
        plain = path;
        prefix = "";
    }
    char *name = format_text("%s%s", prefix, base_name(plain));
    json_t *o = name ? json_pack("{s:s}", "file", name) : NULL;
    free(name);
    if (strcmp(plain, "-") && !sha256_file(plain, hex)) put_text(o, "sha256", hex);
    return o;
}

static void put_inputs(json_t *o, const settings *s)
{
    const struct {
        const char *key, *path;
    } one[] = { { "mask", s->mask },
                { "control", s->control },
                { "latents", s->latents },
                { "embeds", s->embeds } };
    json_t *list = json_array();
    for (size_t i = 0; i < s->inputs.n; i++)
        json_array_append_new(list, input_of(s->inputs.item[i]));
    if (s->inputs.n) json_object_set(o, "input", list);
    json_decref(list);
    for (size_t i = 0; i < sizeof one / sizeof *one; i++)
        if (one[i].path) json_object_set_new(o, one[i].key, input_of(one[i].path));
}

static void put_model(json_t *o, const settings *s, const call *c)
{
    json_t *list = json_array();
    put_text(o, "model", c->files.label);
    put_file(o, "transformer", c->files.transformer);
    put_file(o, "text-encoder", c->files.text_encoder);
    put_file(o, "vision", c->files.vision);
    put_file(o, "vae", c->files.vae);
    put_file(o, "controlnet", c->files.controlnet);
    put_text(o, "variant", s->variant);
    put_text(o, "like", s->like);
    for (size_t i = 0; i < s->loras.n; i++)
        json_array_append_new(list, json_string(base_name(s->loras.item[i])));
    if (s->loras.n) json_object_set(o, "lora", list);
    json_decref(list);
    if (s->lora_partial) json_object_set_new(o, "lora-partial", json_true());
}

static void put_numbers(json_t *o, const settings *s, const call *c, const qwen_result *res)
{
    json_object_set_new(o, "width", json_integer(res->width));
    json_object_set_new(o, "height", json_integer(res->height));
    if (!s->sigmas.n) json_object_set_new(o, "steps", json_integer(res->steps));
    json_object_set_new(o, "guidance", json_real(res->guidance));
    put_text(o, "guidance-norm", s->guidance_norm);
    put_text(o, "schedule", s->schedule);
    put_text(o, "sampler", res->sampler);
    put_text(o, "rng", res->rng);
    put_text(o, "noise-dtype", s->noise_dtype);
    put_text(o, "tiling", s->tiling);
    if (s->shift > 0) json_object_set_new(o, "shift", json_real(s->shift));
    json_t *sigmas = json_array();
    for (size_t i = 0; i < s->sigmas.n; i++)
        json_array_append_new(sigmas, json_real(s->sigmas.item[i]));
    if (s->sigmas.n) json_object_set(o, "sigmas", sigmas);
    json_decref(sigmas);
    if (s->strength > 0) json_object_set_new(o, "strength", json_real(s->strength));
    else if (res->strength > 0) /* no option of this name: --strength would choose another task */
        json_object_set_new(o, "default-strength", json_real(res->strength));
    if (s->layers) json_object_set_new(o, "layers", json_integer(s->layers));
    if (s->reference_area)
        json_object_set_new(o, "reference-area", json_integer(s->reference_area));
    if (s->condition_area)
        json_object_set_new(o, "condition-area", json_integer(s->condition_area));
    if (s->no_paste) json_object_set_new(o, "no-paste", json_true());
    if (res->bands_encode)
        json_object_set_new(o, "vae-bands-encode", json_integer(res->bands_encode));
    if (res->bands_decode)
        json_object_set_new(o, "vae-bands-decode", json_integer(res->bands_decode));
    if (s->control) {
        json_object_set_new(o, "control-strength", json_real(c->req.control_strength));
        json_object_set_new(o, "control-start", json_real(c->req.control_start));
        json_object_set_new(o, "control-end", json_real(c->req.control_end));
    }
    if (s->extend[0] || s->extend[1] || s->extend[2] || s->extend[3]) {
        char text[120];
        snprintf(text, sizeof text, "left=%d,right=%d,top=%d,bottom=%d", s->extend[0], s->extend[1],
                 s->extend[2], s->extend[3]);
        put_text(o, "extend", text);
    }
}

json_t *recipe_make(const settings *s, const call *c, const char *prompt, const qwen_result *res)
{
    json_t *o = json_object();
    char *program = format_text("qwen-image %s", qwen_version()),
         *seed = format_text("%llu", (unsigned long long)res->seed);
    if (!o || !program || !seed) {
        json_decref(o);
        o = NULL;
    } else {
        put_text(o, "program", program);
        put_text(o, "prompt", prompt);
        put_text(o, "negative",
                 c->req.negative                   ? c->req.negative
                 : res->guidance > 1 && !s->embeds ? c->info.negative
                                                   : NULL);
        if (res->seed <= INT64_MAX)
            json_object_set_new(o, "seed", json_integer((json_int_t)res->seed));
        else put_text(o, "seed", seed); /* many readers of JSON read integers up to 2^63 only */
        put_model(o, s, c);
        put_numbers(o, s, c, res);
        if (c->template_file || s->template_text)
            put_text(o, "template-text", c->req.chat_template);
        else put_text(o, "template", s->chat_template);
        put_text(o, "system", s->system);
        put_inputs(o, s);
        put_text(o, "drew", res->variant);
        put_text(o, "device", c->info.device);
    }
    free(program);
    free(seed);
    return o;
}

/* --- in --------------------------------------------------------------------------------------- */

/* A value as text, in a string that the array `kept` owns.  NULL: an option cannot have this
 * value. */
static const char *as_text(json_t *kept, json_t *v)
{
    char number[40];
    if (json_is_string(v)) return json_string_value(v);
    if (json_is_true(v)) return "";
    if (json_is_integer(v))
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v)) snprintf(number, sizeof number, "%.17g", json_real_value(v));
    else return NULL;
    json_t *text = json_string(number);
    return json_array_append_new(kept, text) ? NULL : json_string_value(text);
}

static int wrong_value(const settings *s, const char *key)
{
    return complain(CODE_MALFORMED, "%s: \"%s\" of its recipe is no value of that option", s->from,
                    key);
}

static int set_list(settings *s, json_t *kept, const char *key, json_t *list)
{
    size_t i;
    json_t *v;
    int code = CODE_DONE;
    json_array_foreach(list, i, v)
    {
        const char *text = as_text(kept, v);
        code = code ? code : text ? option_default(s, key, text) : wrong_value(s, key);
    }
    return code;
}

static int set_sigmas(settings *s, json_t *kept, json_t *list)
{
    size_t i;
    json_t *v;
    char *all = format_text("%s", "");
    json_array_foreach(list, i, v)
    {
        const char *text = as_text(kept, v);
        char *longer = all && text ? format_text("%s%s%s", all, i ? "," : "", text) : NULL;
        free(all);
        all = longer;
    }
    const int code = all ? option_default(s, "sigmas", all) : wrong_value(s, "sigmas");
    free(all);
    return code;
}

/* The path of an input: in the working directory, or beside the picture that holds the recipe.
 * A file of the recorded hash is preferred; *same: it has that hash.  malloc'ed; NULL without
 * memory. */
static char *input_path(const settings *s, const char *plain, const char *hash, int *same)
{
    const int directory = (int)(base_name(s->from) - s->from);
    char *path[2] = { format_text("%s", plain), format_text("%.*s%s", directory, s->from, plain) };
    char hex[65];
    int good = -1, there = -1;
    struct stat st;
    for (int i = 1; i >= 0 && path[0] && path[1]; i--) {
        if (stat(path[i], &st)) continue;
        there = i;
        if (!hash || (!sha256_file(path[i], hex) && !strcmp(hash, hex))) good = i;
    }
    *same = good >= 0;
    const int chosen = good >= 0 ? good : there >= 0 ? there : 0;
    char *out = path[1] ? path[chosen] : NULL;
    free(out == path[0] ? path[1] : path[0]);
    return out;
}

/* Sets the option of an input to its path; a missing file or another hash is an error. */
static int set_input(settings *s, json_t *kept, const char *key, json_t *o)
{
    const char *file = json_string_value(json_object_get(o, "file")),
               *hash = json_string_value(json_object_get(o, "sha256"));
    struct stat st;
    int same;
    if (!file || strchr(file, '/')) return wrong_value(s, key);
    if (!strcmp(file, "-"))
        return complain(CODE_READ,
                        "--from: %s: its --%s came from standard input; give it with --%s", s->from,
                        key, key);
    const char *plain = !strncmp(file, "canny:", 6) && !strcmp(key, "control") ? file + 6 : file;
    char *path = input_path(s, plain, hash, &same);
    char *value = path ? format_text("%.*s%s", (int)(plain - file), file, path) : NULL;
    json_t *text = value ? json_string(value) : NULL;
    int code = text && !json_array_append_new(kept, text) ? CODE_DONE : no_memory();
    if (!code && stat(path, &st))
        code =
            complain(CODE_READ,
                     "--from: %s: its --%s \"%s\" is neither here nor beside it; give it with --%s",
                     s->from, key, plain, key);
    else if (!code && !same)
        code = complain(
            CODE_MALFORMED,
            "--from: %s: %s is not the file that was used (its SHA-256 differs); give the --%s "
            "you mean",
            s->from, path, key);
    if (!code) code = option_default(s, key, json_string_value(text));
    free(path);
    free(value);
    return code;
}

static int is_flag(const char *key)
{
    return !strcmp(key, "lora-partial") || !strcmp(key, "no-paste");
}

/* Nonzero: the options beside --from replace this key of the recipe. */
static int superseded(const settings *s, const json_t *recipe, const char *key)
{
    if (option_given(s, key)) return 1;
    if (!strcmp(key, "prompt")) return s->words.n || s->prompt_file;
    if (!strcmp(key, "width") || !strcmp(key, "height")) {
        const char *drew = json_string_value(json_object_get(recipe, "drew"));
        return s->size[0] || s->aspect || (drew && !strcmp(drew, "layered"))
               || json_object_get(recipe, "extend") || s->inputs.n;
    }
    if (!strcmp(key, "steps")) return s->sigmas.n > 0;
    if (!strcmp(key, "sigmas")) return option_given(s, "steps") || option_given(s, "schedule");
    if (!strcmp(key, "template") || !strcmp(key, "template-text")) return s->chat_template != NULL;
    return 0;
}

static int set_key(settings *s, json_t *recipe, json_t *kept, const char *key, json_t *v)
{
    static const char *const options[] = { "model",
                                           "transformer",
                                           "text-encoder",
                                           "vision",
                                           "vae",
                                           "controlnet",
                                           "variant",
                                           "like",
                                           "prompt",
                                           "negative",
                                           "seed",
                                           "width",
                                           "height",
                                           "steps",
                                           "guidance",
                                           "guidance-norm",
                                           "schedule",
                                           "sampler",
                                           "rng",
                                           "noise-dtype",
                                           "tiling",
                                           "shift",
                                           "strength",
                                           "layers",
                                           "reference-area",
                                           "condition-area",
                                           "control-strength",
                                           "control-start",
                                           "control-end",
                                           "extend",
                                           "template",
                                           "system",
                                           "lora-partial",
                                           "no-paste" };
    if (superseded(s, recipe, key)) return CODE_DONE;
    if (!strcmp(key, "template-text") && json_is_string(v)) {
        s->template_text = json_string_value(v);
        return CODE_DONE;
    }
    if (!strcmp(key, "sigmas") && json_is_array(v)) return set_sigmas(s, kept, v);
    if (!strcmp(key, "lora") && json_is_array(v)) return set_list(s, kept, key, v);
    if (!strcmp(key, "mask") || !strcmp(key, "control") || !strcmp(key, "latents")
        || !strcmp(key, "embeds"))
        return set_input(s, kept, key, v);
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (!strcmp(key, options[i])) {
            const char *text = as_text(kept, v);
            if (!text || (json_is_boolean(v) && !is_flag(key))) return wrong_value(s, key);
            return option_default(s, key, text) ? wrong_value(s, key) : CODE_DONE;
        }
    return CODE_DONE; /* keys for readers only, and those of later versions */
}

static int set_all(settings *s, json_t *recipe, json_t *kept)
{
    const char *key;
    json_t *v, *inputs = json_object_get(recipe, "input");
    size_t i;
    int code = CODE_DONE;
    json_object_foreach(recipe, key, v)
    {
        if (!code && strcmp(key, "input")) code = set_key(s, recipe, kept, key, v);
    }
    const int given = option_given(s, "input");
    json_array_foreach(inputs, i, v)
    {
        if (!code && !given) code = set_input(s, kept, "input", v);
    }
    return code;
}

int recipe_load(settings *s)
{
    char *data, *text = NULL;
    size_t bytes;
    if (!s->from) return CODE_DONE;
    int code = read_file(s->from, 1 << 30, &data, &bytes);
    if (code) return code;
    if (picture_kind(data, bytes) == PICTURE_PNG) text = png_recipe(data, bytes);
    free(data);
    json_t *recipe = text ? json_loads(text, 0, NULL) : NULL;
    if (!text)
        code = complain(CODE_MALFORMED,
                        "--from: %s: expected a PNG with a recipe (iTXt qwen-image), found none",
                        s->from);
    else if (!json_is_object(recipe))
        code = complain(CODE_MALFORMED, "--from: %s: its recipe is no JSON object", s->from);
    free(text);
    json_t *kept = json_array();
    s->recipe = json_pack("[o,o]", recipe ? recipe : json_null(), kept);
    if (!s->recipe) return code ? code : no_memory();
    return code ? code : set_all(s, recipe, kept);
}
