/* cli.h - what the files of the command share.
 *
 * Functions that return int return an exit code, 0 for done, unless their comment says otherwise;
 * they have then told the user why (complain).  Strings in settings are of argv or the recipe. */
#ifndef CLI_H
#define CLI_H
#include <qwen/qwen.h>
#include <jansson.h>
#include <stdio.h>

enum code { /* exit codes: a contract, see the manual */
            CODE_DONE = 0,
            CODE_DIFFERENT = 1,
            CODE_USAGE = 2,
            CODE_READ = 3,
            CODE_MALFORMED = 4,
            CODE_UNSUPPORTED = 5,
            CODE_MEMORY = 6,
            CODE_WRITE = 7,
            CODE_NUMERIC = 8,
            CODE_CANCELLED = 130
};

typedef struct text_list {
    const char **item;
    size_t n;
} text_list;
typedef struct number_list {
    double *item;
    size_t n;
} number_list;

/* Every option of every subcommand; what was not given is zero. */
typedef struct settings {
    const char *model, *transformer, *text_encoder, *vision, *vae, *controlnet, *tokenizer;
    const char *variant;
    text_list models;
    const char *prompt, *prompt_file, *negative, *chat_template, *system;
    int show_prompt;
    const char *template_text; /* of a recipe: the text itself */
    int width, height, size[2];
    const char *aspect;
    int steps;
    double guidance, shift, strength, control_strength, control_start, control_end, tolerance;
    const char *guidance_norm, *schedule, *sampler, *rng, *noise_dtype, *tiling;
    number_list sigmas;
    uint64_t seed, memory;
    int count, layers, threads;
    text_list inputs, loras, dump_only;
    const char *mask, *control;
    int extend[4]; /* left, right, top, bottom */
    int64_t reference_area, condition_area;
    int lora_partial, no_paste;
    const char *output, *dump, *latents, *embeds, *save_embeds, *from;
    const char *device, *text_device, *vae_device, *like, *progress;
    int strict, preview, quiet, verbose, json, jsonl, ops, names, help;
    const char *kind;
    text_list words;         /* arguments that are no options */
    unsigned char given[96]; /* by row of the option table */
    json_t *recipe;          /* of --from; owns the strings that came from it */
} settings;

/* --- say.c ------------------------------------------------------------------------------------ */
#if defined __GNUC__
#define CLI_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define CLI_PRINTF(f, a)
#endif
/* One line on stderr; returns code. */
int complain(int code, const char *format, ...) CLI_PRINTF(2, 3);
void notice(const settings *s, const char *format, ...) CLI_PRINTF(2, 3); /* unless --quiet */
int code_of(int qwen_status);
int no_memory(void); /* says so; CODE_MEMORY */
/* The offset of the first byte that is not UTF-8, or -1. */
int64_t utf8_invalid(const char *text, size_t bytes);
char *format_text(const char *format, ...) CLI_PRINTF(1, 2); /* malloc'ed, NULL without memory */
char *path_join(const char *directory, const char *name);    /* malloc'ed, or NULL */
const char *base_name(const char *path);
/* Everything of a file ("-" is stdin), with a zero after the end; free() *data. */
int read_file(const char *path, uint64_t most, char **data, size_t *bytes);
int write_stdout(const char *text); /* CODE_WRITE when stdout cannot be written */
int flush_stdout(void);

/* Subcommands. */
int run_generate(settings *s);
int run_plan(settings *s);
int run_devices(settings *s);
int run_models(settings *s);
int run_inspect(settings *s);
int run_compare(settings *s);
int run_tokenize(settings *s);

/* --- options.c -------------------------------------------------------------------------------- */
enum { /* who takes an option */
       FOR_GENERATE = 1,
       FOR_PLAN = 2,
       FOR_DEVICES = 4,
       FOR_MODELS = 8,
       FOR_INSPECT = 16,
       FOR_COMPARE = 32,
       FOR_TOKENIZE = 64
};
int options_parse(settings *s, unsigned who, int argc, char **argv);
void options_help(unsigned who, FILE *to);
/* Nonzero: on the command line, or by the recipe. */
int option_given(const settings *s, const char *name);
/* Sets the option of that long name from text unless it is given; unknown names are left alone. */
int option_default(settings *s, const char *name, const char *value);
void settings_free(settings *s);
int list_add(text_list *l, const char *text);
/* The one of the n names that is nearest to `word`, or NULL if none is near. */
const char *near_miss(const char *word, const char *const *names, size_t n);
/* Edit distance with neighbours swapped at cost 1, up to 63 characters; 99 beyond. */
int edit_distance(const char *a, const char *b);

/* --- find.c, places.c: files by name ---------------------------------------------------------- */
typedef struct model_entry {
    char *name, *path;
    const char *folder; /* ComfyUI's type; "diffusers": a directory; "": unknown */
    uint64_t bytes;
    int place;      /* which of the places it lies in, from 1 */
    int shadowed;   /* an earlier place has that type and name */
    int incomplete; /* a file of it is missing */
} model_entry;
typedef struct catalog {
    model_entry *entry;
    size_t n;
    int places;
} catalog;
int catalog_make(catalog *c, const settings *s);
void catalog_free(catalog *c);
typedef struct found { /* paths for qwen_options; owned */
    char *model, *transformer, *text_encoder, *vision, *vae, *controlnet, *tokenizer;
    char *label; /* the model for the recipe: a name or id, no directories */
    int demo;    /* nobody named a model */
} found;
int find_model(const settings *s, found *out);
int find_lora(const settings *s, const char *name, char **path);
/* Whatever is listed under the name; the name itself if nothing is. */
int find_any(const settings *s, const char *name, char **path);
void found_free(found *f);
char *find_demo(void);  /* malloc'ed path of the demo's directory, or NULL */
char *find_cache(void); /* root of the Hugging Face cache; malloc'ed, or NULL */
/* "org/name[@revision]" in the cache: 0 and *path; or -1, and *where says what was looked for and
 * is not there.  Both are malloc'ed. */
int find_id(const char *id, char **path, char **where);
int is_id(const char *name);
int path_exists(const char *path);
int path_is_directory(const char *path);

/* --- picture.c, png.c: pictures in ------------------------------------------------------------ */
enum { PICTURE_NONE, PICTURE_PNG, PICTURE_JPEG, PICTURE_WEBP };
int picture_kind(const char *data, size_t bytes);                       /* by its first bytes */
int picture_read(const settings *s, const char *path, qwen_array *out); /* U8 [H][W][3 or 4] */
int picture_decode(const settings *s, const char *path, const char *data, size_t bytes,
                   qwen_array *out);
int png_decode(const char *path, const char *data, size_t bytes, qwen_array *out, int *orientation,
               int *animated);
char *png_recipe(const char *data, size_t bytes); /* of its iTXt; malloc'ed, or NULL */
int picture_orientation(const unsigned char *exif, size_t bytes); /* 1 to 8 */

/* --- write.c, output.c: files out ------------------------------------------------------------- */
/* A file that appears whole or not at all. */
typedef struct output {
    char *path, *temporary; /* temporary NULL: written in place (a device, stdout) */
    FILE *file;
    int failed; /* errno of the first failure */
} output;
int output_open(output *o, const char *path);
int output_close(output *o, int keep); /* keep 0: removes what was written */
int output_check(const char *path);    /* could it be written? */
void output_interrupted(void);         /* in a signal handler: removes the temporary file */
FILE *output_spool(const char *path);  /* an unnamed file on the same disk, or NULL with errno */
int picture_format(const char *path);  /* PICTURE_* by extension; PICTURE_NONE: not one we write */
int picture_write(const char *path, const qwen_array *picture, const char *recipe);
/* The name of picture `number` (from 1) of several or one; malloc'ed. */
char *picture_name(const char *pattern, int64_t number, int several);

/* --- request.c: what the options say, as the library's structs -------------------------------- */
typedef struct progress progress;
typedef struct job { /* everything that a request points to */
    const settings *s;
    progress *bar; /* of now, or NULL: messages take turns with it */
    qwen_options opt;
    qwen_request req;
    found files;
    qwen *q;
    qwen_model_info info;
    qwen_array *input, mask, control, noise, embeds, negative_embeds;
    size_t inputs;
    char *template_file;
} job;
int job_begin(job *j, settings *s); /* checks options and reads inputs, without a model */
int job_open(job *j);               /* finds and opens the model with its LoRAs */
void job_close(job *j);
/* The prompts of the words, --prompt or --prompt-file; *storage holds the file's. */
int prompts_read(settings *s, text_list *prompts, char **storage);

/* --- metadata.c ------------------------------------------------------------------------------- */
json_t *recipe_make(const settings *s, const job *j, const char *prompt, const qwen_result *res);
int recipe_load(settings *s);                    /* --from */
int sha256_file(const char *path, char hex[65]); /* -1: cannot be read */

/* --- dump.c ----------------------------------------------------------------------------------- */
typedef struct dump dump;
int dump_open(dump **out, const char *path, const text_list *only);
void dump_add(dump *d, const char *name, const qwen_array *a);
int dump_failed(const dump *d);                        /* nonzero: dump_close will say why */
int dump_close(dump *d, const char *recipe, int keep); /* frees d */
int tensor_read(const char *path, const char *const *names, qwen_array *out, int *which);
double array_at(const qwen_array *a, int64_t i);
int64_t array_count(const qwen_array *a);

/* --- progress.c ------------------------------------------------------------------------------- */
struct progress {
    int style; /* 0 none, 1 plain, 2 bar */
    int64_t picture, pictures;
    double started, phase_started, shown;
    char phase[24];
    int step, line; /* line: a bar is on the screen */
};
void progress_begin(progress *p, const settings *s, int64_t picture, int64_t pictures);
int progress_tell(progress *p, const qwen_progress *now); /* nonzero: stop */
void progress_end(progress *p);
void progress_line(progress *p); /* room for a line of text */
void interrupt_install(void);
int interrupted(void);
double seconds_now(void);

/* --- preview.c, edges.c, paste.c -------------------------------------------------------------- */
typedef struct preview preview;
int preview_open(preview **out, const job *j, const char *beside /* the picture's own name */);
void preview_tap(preview *p, const char *name, const qwen_array *a);
void preview_close(preview *p); /* removes the file */
int canny(qwen_array *picture); /* U8 [H][W][3 or 4] becomes its edges, white on black */
/* Outside the mask, and inside the old borders of an extension, the picture's own pixels. */
void paste_kept(const settings *s, const qwen_result *r, qwen_array *picture);
#endif
