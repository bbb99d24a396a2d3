/* cli.h - exit codes, settings, and the functions that every file of the command may use.
 *
 * Functions that return int return an exit code, 0 for done, unless their comment says otherwise;
 * on failure they have printed one sentence (complain).  Strings in settings point into argv or the
 * recipe. */
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

typedef struct text_list { /* owns the array, not the strings */
    const char **item;
    size_t n;
} text_list;
typedef struct number_list {
    double *item;
    size_t n;
} number_list;

/* Every option of every subcommand; an option that is not given leaves zero. */
typedef struct settings {
    const char *model, *transformer, *text_encoder, *vision, *vae, *controlnet, *tokenizer;
    const char *variant;
    text_list models;
    const char *prompt, *prompt_file, *negative, *chat_template, *system;
    int show_prompt;
    const char *template_text; /* the chat template in a recipe */
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
    unsigned char given[96]; /* by row of the option table: 1 command line, 2 recipe */
    json_t *recipe;          /* of --from; owns the strings taken from it */
} settings;

/* --- say.c: messages, text, files as a whole -------------------------------------------------- */
#if defined __GNUC__
#define CLI_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define CLI_PRINTF(f, a)
#endif
/* Prints one line on stderr; returns code. */
int complain(int code, const char *format, ...) CLI_PRINTF(2, 3);
void notice(const settings *s, const char *format, ...) CLI_PRINTF(2, 3); /* unless --quiet */
int code_of(int qwen_status);
int no_memory(void);                                         /* complains; returns CODE_MEMORY */
char *format_text(const char *format, ...) CLI_PRINTF(1, 2); /* malloc'ed, NULL without memory */
char *path_join(const char *directory, const char *name);    /* malloc'ed, or NULL */
const char *base_name(const char *path);
int path_exists(const char *path); /* nonzero: yes; links are followed */
int path_is_directory(const char *path);
int directory_has(const char *directory, const char *name);
int same_file(const char *a, const char *b); /* nonzero: both exist and are one inode */
/* The whole file ("-" is stdin) with a zero byte after its end; free() *data.  A file of more than
 * `most` bytes is an error. */
int read_file(const char *path, uint64_t most, char **data, size_t *bytes);
int write_stdout(const char *text); /* CODE_WRITE when stdout cannot be written */
int flush_stdout(void);

/* --- a file each: the subcommands ------------------------------------------------------------- */
int run_generate(settings *s);
int run_plan(settings *s);
int run_devices(settings *s);
int run_models(settings *s);
int run_inspect(settings *s);
int run_compare(settings *s);
int run_tokenize(settings *s);

/* --- options.c -------------------------------------------------------------------------------- */
enum { /* subcommands that an option is for */
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
/* Nonzero: the command line or the recipe gives it. */
int option_given(const settings *s, const char *name);
/* Sets the option of that long name from text unless the command line gives it; a name that is no
 * option changes nothing. */
int option_default(settings *s, const char *name, const char *value);
void settings_free(settings *s);
int list_add(text_list *l, const char *text); /* text is not copied */
/* The one of the n names that is nearest to `word`, or NULL if none is near. */
const char *near_miss(const char *word, const char *const *names, size_t n);
/* Edit distance with neighbours swapped at cost 1, up to 63 characters; 99 beyond. */
int edit_distance(const char *a, const char *b);

/* --- output.c: a file that appears whole or not at all ---------------------------------------- */
typedef struct output {
    char *path, *temporary; /* temporary NULL: written in place (a device, stdout) */
    FILE *file;
    int failed; /* errno of the first failure */
} output;
int output_open(output *o, const char *path);
int output_close(output *o, int keep); /* keep 0: removes the temporary file */
int output_check(const char *path);    /* fails if the file could not be written */
void output_interrupted(void);         /* for a signal handler: removes the temporary file */
FILE *output_spool(const char *path);  /* an unnamed file on the same disk, or NULL with errno */

/* --- dump.c: tensors out and in --------------------------------------------------------------- */
typedef struct dump dump;
/* only: globs of the tensors to write, none: all; not copied. */
int dump_open(dump **out, const char *path, const text_list *only);
void dump_add(dump *d, const char *name, const qwen_array *a); /* copies the numbers */
int dump_failed(const dump *d);                        /* nonzero: dump_close will complain */
int dump_close(dump *d, const char *recipe, int keep); /* keep: writes the file; frees d */
/* Reads the first of `names` (NULL ends them) that the file holds; *which is its index, or -1 and
 * CODE_DONE if it holds none. */
int tensor_read(const char *path, const char *const *names, qwen_array *out, int *which);
double array_at(const qwen_array *a, int64_t i); /* element i in memory order, of any type */
int64_t array_count(const qwen_array *a);

/* --- sha256.c --------------------------------------------------------------------------------- */
int sha256_file(const char *path, char hex[65]); /* -1: cannot be read */

/* --- progress.c ------------------------------------------------------------------------------- */
typedef struct progress {
    int style; /* 0 none, 1 plain, 2 bar */
    int64_t picture, pictures;
    double started, phase_started, shown; /* seconds_now() */
    char phase[24];
    int step, line; /* line: the cursor stands behind a bar */
} progress;
void progress_begin(progress *p, const settings *s, int64_t picture, int64_t pictures);
int progress_show(progress *p, const qwen_progress *now); /* nonzero: interrupted, stop */
void progress_end(progress *p);
void progress_line(progress *p); /* ends the bar's line, so that a message has its own */
void interrupt_install(void);    /* handlers of SIGINT, SIGTERM, SIGHUP */
int interrupted(void);
double seconds_now(void); /* of a clock that never goes back */
#endif
