/* pipeline.h - struct qwen and the stages that the public functions and the pipeline share. */
#ifndef QW_PIPELINE_H
#define QW_PIPELINE_H
#include "host/noise.h"
#include "host/pictures.h"
#include "host/text.h"
#include "nets/control.h"
#include "nets/net.h"

typedef enum qw_variant {
    QW_T2I,
    QW_EDIT,
    QW_EDIT_2509,
    QW_EDIT_2511,
    QW_LAYERED,
    QW_NVARIANTS
} qw_variant;
const char *qw_variant_name(qw_variant v);
int qw_variant_named(const char *name, qw_variant *out); /* nonzero: found */
int qw_class_named(const char *name, qw_variant *out);   /* a pipeline class; nonzero: found */

/* --- model.c: opening; which files make a model ----------------------------------------------- */
typedef enum qw_net { QW_TEXT, QW_VISION, QW_DIT, QW_VAE, QW_CONTROL, QW_NETS } qw_net;

typedef struct qw_component { /* the files of a net */
    qw_store *store;          /* NULL: there are none */
    char *path, *config;      /* config: their config.json, or NULL */
    uint64_t bytes;           /* of its tensors */
    int borrowed;             /* the store is another component's */
} qw_component;

enum { QW_MAX_LORAS = 64 };
typedef struct qw_files {
    qw_component net[QW_NETS];
    char *tokenizer_path, *processor_path; /* preprocessor_config.json; either may be NULL */
    qw_tokenizer *tokenizer;               /* read when first needed */
    qw_lora *lora[QW_MAX_LORAS];           /* in the order they were added */
    int loras;
    qw_kind whole; /* kind of the model if it is a single file */
} qw_files;

typedef struct qw_configs { /* of the files, else the published ones */
    qw_text_config text;
    qw_vision_config vision;
    qw_dit_config dit, control;
    qw_vae_config vae;
    qw_schedule_config schedule;
} qw_configs;

typedef struct qw_devices { /* text and vae may equal main */
    qw_device *main, *text, *vae;
    qw_device *ref; /* computes what the others decline */
} qw_devices;

typedef struct qw_nets { /* NULL: not loaded */
    qw_text *text;
    qw_vision *vision;
    qw_dit *dit;
    qw_vae *vae;
    qw_control *control;
    qw_residency *weights[QW_NETS];
    int vae_parts;       /* of the loaded VAE */
    unsigned loaded;     /* 1 << QW_TEXT ...: also those that have made room since */
    qw_overlay *overlay; /* all LoRA files over the transformer, or NULL */
} qw_nets;

typedef struct qw_defaults {  /* of a request's fields that are 0 or NULL */
    int width, height, steps; /* width, height 0: computed */
    double guidance;
    int64_t reference_area, condition_area; /* pixels; 0: the variant's */
    char *negative;
    const char *distilled; /* the word of a name that says so; NULL: it is not */
    double flat_shift;     /* of the schedule at every size; 0: none */
    struct {               /* without the LoRA files; steps 0: there are none */
        int steps;
        const char *distilled;
        double guidance, flat_shift;
    } plain;
} qw_defaults;

typedef struct qw_told { /* notices that were given and are not repeated */
    int distilled, control;
    uint64_t scratch; /* the most bytes that were more than options.memory */
    double maps[2];   /* bytes of the largest picture in bands: decoded, encoded */
} qw_told;

typedef struct qw_embedding { /* of one prompt, kept for the next picture */
    char *key;                /* what it was made from */
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

    const qwen *plan_of;    /* computes nothing: stands for that handle's devices */
    struct qw_tally *tally; /* qwen_plan: stages are walked and counted, not run */
    /* inspect: a loader's `each` */
    void (*problem)(void *user, const char *missing, const char *sentence);
    void *problem_user;
    uint64_t peak_scratch; /* of the stages of this request, for device_bytes */
    /* of the VAE in this request, decoder and encoder; 0: whole */
    int bands[2];
};
int qw_model_new(qwen **out, const qwen_options *opt, const qwen *plan_of); /* as qwen_open */
void qw_model_free(qwen *q);                                                /* NULL is fine */
int qw_model_open(qwen *q);
/* variant.c: after the files are known */
int qw_decide_variant(qwen *q);
int qw_decide_defaults(qwen *q);
void qw_model_close(qwen *q);
/* Loads what a stage needs if it is not there yet. */
int qw_need_tokenizer(qwen *q);
int qw_need_text(qwen *q);
int qw_need_vision(qwen *q);
int qw_need_dit(qwen *q);
int qw_need_control(qwen *q);
int qw_need_vae(qwen *q, int parts);
/* load_nets.c; what it shares with model.c */
int qw_name_has(const char *path, const char *word);
const char *qw_recommended_negative(const qwen *q);
/* nonzero: its name says so, and the defaults are set */
int qw_distilled(qwen *q, const char *path);
int qw_has_tower(const qw_store *s); /* any tensor of a vision tower */
int qw_open_vision(qwen *q);         /* the file of options.vision, if there is one */
/* Opens the file of the vision tower if it is not open yet. */
int qw_vision_store(qwen *q);
int qw_no_memory(qwen *q);
int qw_load_json(qwen *q, const char *path, json_t **out); /* NULL path: NULL */
int qw_open_store(qwen *q, qw_component *c, qw_kind part, qw_kind *found);
uint64_t qw_part_bytes(const qw_store *s, int tower);
int qw_component_files(qwen *q, qw_component *c, const char *piece, const char *directory,
                       const char *name, const char *whole);
void qw_close_component(qw_component *c);
/* The config.json of the folder in which a file lies, or of a directory, malloc'ed; NULL: none, or
 * no memory (err set). */
char *qw_config_beside(const char *path, qw_error *err);
int qw_lora_add(qwen *q, const char *path, double strength, int partial);
void qw_lora_drop(qwen *q); /* all of them */
/* What a device is called, also by a handle that only plans. */
const char *qw_device_name(const qwen *q, const qw_device *dev);
void qw_say(const qwen *q, int level, const char *format, ...) QW_PRINTF(3, 4);
/* A component of a diffusers directory: the path itself, or what a link file of that name points
 * to. NULL if there is nothing (err untouched) or on failure (err set).  malloc'ed. */
char *qw_component_path(const char *directory, const char *name, qw_error *err);

/* --- stage.c: a piece of work on a device: planned, reserved, run ---------------------------- */
/* Pure ops on a run; called for the plan, then in earnest. */
typedef void (*qw_body)(qw_run *r, void *arg);

typedef struct qw_stage {
    qw_run run;
    qwen *q;
    const qwen_request *req; /* progress and tap, or NULL */
    const char *name;
    int steps, blocks; /* what progress reports; blocks 0: unknown */
    int told_step, told_block;
    double started, looked; /* seconds: the stage, its last look at progress inside of an op */
} qw_stage;

/* Readies a run and tells progress that the phase begins. */
int qw_stage_begin(qw_stage *s, qwen *q, const qwen_request *req, qw_device *dev, const char *name,
                   int steps, int blocks);
/* Walks body on a device that computes nothing and reserves the scratch that this needed. */
int qw_stage_reserve(qw_stage *s, qw_body body, void *arg);
/* Runs body; then out [n] must be finite, else the run is repeated with a check after every op, to
 * name it. */
int qw_stage_run(qw_stage *s, qw_body body, void *arg, const double *out, int64_t n);
/* Frees; adds the seconds to *seconds (or NULL); returns the first failure, which is now q's. */
int qw_stage_end(qw_stage *s, double *seconds);

typedef struct qw_tally { /* what qwen_plan counts */
    uint64_t scratch;
    double flops; /* of the walks so far, times `times` */
    double times; /* how often the stage that is walked now runs */
    struct qw_tally_line {
        char *line;
        int64_t count;
    } * line;
    int64_t lines, room;
    int want_lines, failed; /* failed: no memory */
    int bounded;            /* a stage that cannot fit its device is an error */
    void (*geometry)(void *user, const qwen_geometry *g);
    void *user;
} qw_tally;
void qw_tally_free(qw_tally *t);

/* A picture of 8 bits; or, as ComfyUI prepares it, of numbers. */
typedef struct qw_image {
    uint8_t *data; /* [h][w][channels] */
    double *value; /* the same in 0..1, if data is NULL */
    int64_t w, h;
    int channels;
} qw_image;

typedef enum qw_task { /* what a request asks for */
                       QW_DRAW,
                       QW_EDITING,
                       QW_REDRAW /* image to image */,
                       QW_INPAINT,
                       QW_EDIT_INPAINT,
                       QW_LAYERS
} qw_task;

typedef struct qw_reference { /* a picture that is encoded by the VAE */
    qw_image image;           /* resized; owned */
    int sampled;              /* a sample of the posterior is used, else its mean */
    int masked;               /* 0 where the mask repaints */
    int holes;                /* -1 where the mask repaints */
    double *mean, *logvar;    /* [z][h/8][w/8] */
    double *latent;           /* normalised [z][h/8][w/8], once encoded */
} qw_reference;

enum { QW_MAX_PICTURES = 64 };

/* A request with its defaults filled in, and what is made from it on the way. */
typedef struct qw_job {
    qwen *q;
    const qwen_request *req;
    qw_task task;
    qw_variant variant;
    int width, height, steps, first_step, layers;
    int64_t h, w;              /* of the latent */
    int64_t z, frames, tokens; /* channels; noise pictures; tokens of one of them */
    double guidance;
    int passes, norm;
    const char *negative, *schedule, *sampler, *rng_name;
    qw_rng rng;
    qw_schedule sched;

    /* pictures for the vision tower */
    int views;
    qw_image view[QW_MAX_PICTURES];        /* RGB, resized to whole patches */
    qw_grid view_grid[QW_MAX_PICTURES];    /* of patches */
    int64_t view_area[QW_MAX_PICTURES][2]; /* width, height before that: of the area */
    int64_t view_tokens[QW_MAX_PICTURES];  /* rows of features */
    double *features;                      /* [feature_rows][text width], made when first needed */
    int64_t feature_rows;
    uint64_t view_hash;

    /* pictures for the VAE's encoder, in the order of encoding */
    int references;
    int sequence_references; /* the first of them follow the noise in the sequence */
    qw_reference reference[QW_MAX_PICTURES];
    int control; /* the control picture among the references, or -1 */
    /* the picture with holes that a Fun ControlNet reads, or -1 */
    int inpaint;
    double *condition; /* [tokens][features of the ControlNet] */
    double control_strength, control_start, control_end;
    uint8_t *mask;       /* [height][width], 0 or 1: 1 is repainted */
    double *mask_tokens; /* [tokens][4 z] */
    double *kept;        /* packed latent of the picture that is changed */

    double *noise; /* [frames][z][h][w] */
    double *start; /* packed noise */
    double *x;     /* [frames tokens][4 z] latents */
    double strength;
    qw_image canvas; /* the extended picture of outpainting; owned */
    double *text[2]; /* positive, negative: [text_rows][width]; owned */
    int64_t text_rows[2];
    double seconds_text, seconds_vision, seconds_encode, seconds_denoise, seconds_decode;
} qw_job;

/* request.c: fills in sizes and prepares pictures.  qw_job_free follows whatever happens. */
int qw_job_init(qw_job *j, qwen *q, const qwen_request *req);
void qw_job_free(qw_job *j);
int qw_job_schedule(qw_job *j);
/* is this step, of all, one of the ControlNet's? */
int qw_control_step(const qw_job *j, int step);

/* pictures.c */
int qw_extends(const qwen_request *r); /* nonzero: the picture gets room around it */
/* The size of about `area` pixels with the picture's aspect, in multiples of 32. */
void qw_fit_area(const qwen_array *a, int64_t area, int64_t *w, int64_t *h);
int64_t qw_reference_area(const qw_job *j); /* pixels of a reference for the VAE */
/* The picture with room around it, filled with its border pixels: a view of j->canvas. */
int qw_extend_picture(qw_job *j, const qwen_array *a, const int extend[4], qwen_array *out);
/* Views, references, mask and control picture.  input: the pictures, extended; original: before. */
int qw_prepare_pictures(qw_job *j, const qwen_array *input, const qwen_array *original);

void qw_tell_geometry(qw_job *j); /* geometry.c */
/* comfy.c: the copies of a picture for the vision tower (sizes: of its area, before that) and for
 * the VAE, of about `area` pixels. */
int qw_comfy_view(qw_job *j, const qwen_array *a, int64_t area, qw_image *view, int64_t sizes[2]);
int qw_comfy_reference(qw_job *j, const qwen_array *a, int64_t area, qw_image *out);
/* Tokens of a reference; a row or column of the latent that has no partner meets the first one. */
int64_t qw_reference_tokens(const qw_reference *f);

/* prompt.c, latents.c, denoise.c, decode.c */
int qw_embed_prompt(qw_job *j, int negative); /* text[negative], text_rows[negative] */
int qw_plan_features(qw_job *j);              /* the vision tower alone */
int qw_job_prompt(qw_job *j, int negative, qw_prompt *out);
int qw_job_encode(qw_job *j); /* reference latents; draws what the pipeline draws */
int qw_job_noise(qw_job *j);
int qw_job_denoise(qw_job *j);
int qw_job_decode(qw_job *j, qwen_result *out);

/* Small things that they share. */
double *qw_doubles(qwen *q, int64_t n, const char *what); /* zeros; NULL with the error set */
int qw_finite(const double *x, int64_t n);
qw_dtype qw_noise_type(const qw_job *j);
int qw_sees_pictures(const qw_job *j); /* does the prompt hold pictures? */
/* Shows host data outside of any stage, in the type of the device it was or will be on. */
int qw_show(qw_job *j, qw_device *dev, const double *x, int rank, const int64_t *dim,
            const char *name);
int qw_show_ints(qw_job *j, const int32_t *x, int rank, const int64_t *dim, const char *name);
/* The latent of reference k from its posterior: the normalised mean, or a sample. */
int qw_settle(qw_job *j, int k);

typedef struct qw_text_work { /* argument of qw_text_body */
    qwen *q;
    const int32_t *ids, *positions;
    const double *features;
    double *out;
    int64_t n, feature_rows;
    const char *names;
} qw_text_work;
void qw_text_body(qw_run *r, void *arg);
typedef struct qw_vision_work {
    qwen *q;
    const double *pixels;
    qw_grid grid;
    double *out;
} qw_vision_work;
void qw_vision_body(qw_run *r, void *arg);
typedef struct qw_decode_work {
    qwen *q;
    const double *latent;
    int64_t h, w;
    double *picture;
    int64_t rows; /* of a band, of the latent; 0: whole */
} qw_decode_work;
void qw_decode_body(qw_run *r, void *arg);
typedef struct qw_encode_work {
    qwen *q;
    const double *picture; /* [h][w][channels], -1..1 */
    int64_t h, w;
    double *mean, *logvar; /* [z][h/8][w/8] */
    int64_t rows;          /* of a band, of the latent; 0: whole */
} qw_encode_work;
void qw_encode_body(qw_run *r, void *arg);
typedef struct qw_velocity_work { /* the transformer over a picture: one step, all passes */
    qwen *q;
    qw_modulation *mod, *control_mod;
    int step, passes;
    const double *condition; /* of the ControlNet, or NULL: there is none */
    double strength;
    int controlled; /* it takes part in this step */
    int each;       /* it runs in every pass with its own text, else in the first alone */
    qw_dit_sequence seq[QW_PASSES];
    qw_dit_picture picture; /* on the device, from qw_velocity_place */
    qw_control_use use[QW_PASSES];
    qw_dit_hook hook[QW_PASSES];
    qw_recording recording[2]; /* of a step without and with the ControlNet */
} qw_velocity_work;
/* Takes scratch for the picture and puts what its steps share; then any number of steps, whose
 * recordings are the caller's to forget.  qw_velocity_body: both, for one step. */
void qw_velocity_place(qw_run *r, qw_velocity_work *w);
void qw_velocity_step(qw_run *r, void *arg);
void qw_velocity_body(qw_run *r, void *arg);

/* vae_stage.c: reserve and run them, in row bands where memory demands it (a notice). */
int qw_stage_decode(qw_stage *s, qw_decode_work *w);
int qw_stage_encode(qw_stage *s, qw_encode_work *w);

/* tiles.c: the same in the reference's overlapping tiles; for pictures beyond one tile when asked
 * for. */
int qw_tiles_needed(const qw_job *j, int64_t w, int64_t h);
int qw_decode_tiled(qw_stage *s, const qw_decode_work *w);
int qw_encode_tiled(qw_stage *s, const qw_encode_work *w);

/* Latents between the VAE's own numbers and normalised ones: [z][n]. */
void qw_latent_normalise(const qw_vae_config *c, const double *raw, int64_t n, double *out);
void qw_latent_raw(const qw_vae_config *c, const double *normalised, int64_t n, double *out);

int qw_give_ids(qw_error *err, int32_t *ids, int64_t n, qwen_array *out); /* takes ids over */

/* --- pipeline.c: the stages in order ---------------------------------------------------------- */
int qw_generate(qwen *q, const qwen_request *req, qwen_result *out);
int qw_plan(qwen *q, const qwen_request *req, qwen_plan_report *out);
#endif
