/* model.h - struct qwen: a model's files, nets, devices and defaults. */
#ifndef QW_MODEL_H
#define QW_MODEL_H
#include "files/lora.h"
#include "host/text.h"
#include "nets/control.h"
#include "pipeline/pipeline.h"

typedef enum qw_variant {
    QW_T2I,
    QW_EDIT,
    QW_EDIT_2509,
    QW_EDIT_2511,
    QW_LAYERED,
    QW_NVARIANTS
} qw_variant;

typedef struct qw_component { /* the files of a net */
    qw_store *store;          /* NULL: there are none */
    char *path, *config;      /* config: their config.json, or NULL */
    uint64_t bytes;           /* of its tensors */
    int borrowed;             /* the store is another component's */
} qw_component;

enum { QW_MAX_LORAS = 64 };
typedef struct qw_files {
    qw_component net[QW_NETS];
    /* Failures in files that some requests do not need; qw_require_net returns them. */
    qw_error no_vision, no_control;
    qw_control_kind control_kind;
    int64_t control_features;              /* of a token of the ControlNet's condition */
    char *tokenizer_path, *processor_path; /* preprocessor_config.json; either may be NULL */
    qw_tokenizer *tokenizer;               /* read when first needed */
    qw_lora *lora[QW_MAX_LORAS];           /* in the order they were added */
    int loras;
    qw_kind whole; /* kind of the model if it is a single file */
} qw_files;

typedef struct qw_devices { /* text and vae may equal main */
    qw_device *main, *text, *vae;
    qw_device *ref; /* computes the calls that the others decline; NULL beside plan devices */
} qw_devices;

typedef struct qw_nets { /* NULL: not loaded */
    qw_text *text;
    qw_vision *vision;
    qw_dit *dit;
    qw_vae *vae;
    qw_control *control;
    qw_residency *weights[QW_NETS];
    int vae_parts;       /* of the loaded VAE */
    qw_overlay *overlay; /* all LoRA files over the transformer, or NULL */
    unsigned loaded;     /* bits 1 << QW_TEXT ...: loaded once, also if freed since */
    unsigned borrowed;   /* bits: nets that belong to another qw_nets */
} qw_nets;

typedef struct qw_defaults {  /* of a request's fields that are 0 or NULL */
    int width, height, steps; /* width, height 0: computed */
    double guidance;
    int64_t reference_area, condition_area; /* pixels; 0: the variant's */
    char *negative;
    const char *distilled; /* the word that marks a distilled model; NULL: it is none */
    double flat_shift;     /* the schedule's one shift for all sizes; 0: none */
    struct {               /* the defaults before the first LoRA file; steps 0: there is none */
        int steps;
        const char *distilled;
        double guidance, flat_shift;
    } plain;
} qw_defaults;

typedef struct qw_told { /* notices that have been logged and are not repeated */
    int distilled, control;
    uint64_t scratch; /* the most bytes reported as more than options.memory */
    double maps[2];   /* bytes of the largest picture reported in bands: decoded, encoded */
} qw_told;

typedef struct qw_embedding { /* of one prompt, kept for the next picture */
    char *key;                /* task, prompt and pictures from which it was computed */
    double *rows;             /* [n][text width] */
    int64_t n;
} qw_embedding;

struct qwen {
    qw_error error;
    qwen_options opt; /* strings copied */
    qw_variant variant;
    char *pipeline_class, *edit_class, *name; /* of model_index.json, or NULL */
    int comfy;                                /* options.like is "comfyui" */
    qw_files files;
    qw_configs config;
    qw_devices devices;
    qw_nets nets;
    qw_defaults defaults;
    qw_told told;
    qw_embedding embedding[2]; /* positive, negative */
    char names[3][64];         /* of the last result: schedule, sampler, rng */
};

/* --- log.c --- */
void qw_say(const qwen *q, int level, const char *format, ...) QW_PRINTF(3, 4);
int qw_no_memory(qwen *q);

/* --- component.c --- */
/* A component of a diffusers directory: the path itself, or what a link file of that name points
 * to. NULL if there is nothing (err untouched) or on failure (err set).  malloc'ed. */
char *qw_component_path(const char *directory, const char *name, qw_error *err);
/* Sets c->path and c->config: piece, else <directory>/name, else whole (the single file of the
 * model), else nothing. */
int qw_component_files(qwen *q, qw_component *c, const char *piece, const char *directory,
                       const char *name, const char *whole);
/* Maps the files of a part and names their tensors canonically; found: NULL, or their kind. */
int qw_open_store(qw_component *c, qw_kind part, qw_kind *found, qw_error *err);
void qw_close_component(qw_component *c);
/* Bytes of the vision tower's tensors in a file that may hold both (tower 1), or of the language
 * model's (0) without lm_head. */
uint64_t qw_part_bytes(const qw_store *s, int tower);
int qw_load_json(const char *path, json_t **out, qw_error *err); /* NULL path: NULL */
/* Fails if a net has no files or wrong ones; the sentence names the option that gives them. */
int qw_require_net(qwen *q, qw_net n);

/* --- tower.c --- */
int qw_has_tower(const qw_store *s); /* nonzero: there is a tensor of a vision tower */
/* Finds the file of the vision tower and reads its configuration.  A failure is kept in no_vision,
 * except of options.vision and of memory, which are returned. */
int qw_open_tower(qwen *q);

/* --- variant.c: after the files are known --- */
const char *qw_variant_name(qw_variant v);
int qw_class_named(const char *name, qw_variant *out); /* a pipeline class; nonzero: found */
int qw_name_has(const char *path, const char *word);   /* the last part of a path, in any case */
int qw_decide_variant(qwen *q);
int qw_decide_defaults(qwen *q);
const char *qw_recommended_negative(const qwen *q);
/* Nonzero: the name of the file marks a distilled model; sets its defaults. */
int qw_distilled(qwen *q, const char *path);
#endif
