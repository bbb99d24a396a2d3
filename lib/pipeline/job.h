/* job.h - a job: a request with its defaults filled in, and the arrays that its stages pass on. */
#ifndef QW_JOB_H
#define QW_JOB_H
#include "host/noise.h"
#include "host/pictures.h"
#include "pipeline/model.h"

/* A picture of 8 bits; or, as ComfyUI prepares it, of numbers. */
typedef struct qw_image {
    uint8_t *data; /* [h][w][channels] */
    double *value; /* the same in 0..1, if data is NULL */
    int64_t w, h;
    int channels;
} qw_image;

typedef enum qw_task { /* of a request, from the model's variant and the request's pictures */
                       QW_DRAW,
                       QW_EDITING,
                       QW_REDRAW /* image to image */,
                       QW_INPAINT,
                       QW_EDIT_INPAINT,
                       QW_LAYERS
} qw_task;

typedef enum qw_phase { /* a group of stages, as progress names them */
                        QW_PHASE_TEXT,
                        QW_PHASE_VISION,
                        QW_PHASE_ENCODE,
                        QW_PHASE_DENOISE,
                        QW_PHASE_DECODE,
                        QW_PHASES
} qw_phase;

typedef struct qw_reference { /* a picture that the VAE encodes: input, control picture */
    qw_image image;           /* resized; owned */
    int sampled;              /* the latent is a sample of the posterior, else its mean */
    int masked;               /* encoded as 0 where the mask repaints */
    int holes;                /* encoded as -1 where the mask repaints */
    double *mean, *logvar;    /* [z][h/8][w/8] */
    double *latent;           /* normalised [z][h/8][w/8], once encoded */
} qw_reference;

typedef struct qw_tally { /* of a job whose stages are counted and not run */
    double flops[QW_PHASES];
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

enum { QW_MAX_PICTURES = 64 };

typedef struct qw_job {
    qwen *q;
    const qwen_request *req;
    /* q's own; of a job that is counted, plan devices and nets on them */
    const qw_devices *devices;
    qw_nets *nets;
    qw_tally *tally; /* NULL: the stages are run */
    /* a loader's `each` */
    void (*problem)(void *user, const char *missing, const char *sentence);
    void *problem_user;

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
    double *features;                      /* [feature_rows][text width], or NULL */
    int64_t feature_rows;
    uint64_t view_hash;

    /* pictures for the VAE's encoder, in the order of encoding */
    int references;
    int sequence_references; /* the first of them follow the noise in the sequence */
    qw_reference reference[QW_MAX_PICTURES];
    int control; /* index of the control picture in `reference`, or -1 */
    /* index of the picture without its repainted part, for a Fun ControlNet, or -1 */
    int inpaint;
    double *condition; /* [tokens][features of the ControlNet] */
    double control_strength, control_start, control_end;
    uint8_t *mask;       /* [height][width], 0 or 1: 1 is repainted */
    double *mask_tokens; /* [tokens][4 z] */
    double *kept;        /* packed latent of the input picture of image to image, inpainting */

    /* positive, negative */
    qw_prompt prompt[2]; /* text NULL: not read, or given as numbers */
    char *key[2];        /* of a qw_embedding */
    int remembered[2];   /* text is a copy of rows that the model has kept */
    double *text[2];     /* [text_rows][width] */
    int64_t text_rows[2];

    double *noise; /* [frames][z][h][w] */
    double *start; /* packed noise */
    double *x;     /* [frames tokens][4 z] latents */
    double strength;
    qw_image canvas; /* the extended picture of outpainting */
    double seconds[QW_PHASES];
    uint64_t peak_scratch; /* of the stages so far */
    int bands[2];          /* the most of a picture, decoder and encoder; 0: whole */
} qw_job;

/* --- job.c --- */
/* Begins a job of which nothing is read or computed; req NULL: an empty request.  Ends with
 * qw_job_free, also after a failure. */
void qw_job_start(qw_job *j, qwen *q, const qwen_request *req);
void qw_job_free(qw_job *j);
double *qw_doubles(qwen *q, int64_t n, const char *what); /* zeros; NULL with the error set */
int qw_finite(const double *x, int64_t n);
const char *qw_phase_name(qw_phase p);
qw_device *qw_phase_device(const qw_job *j, qw_phase p);
/* Name of the model's device for a phase, also of a job that is counted. */
const char *qw_phase_device_name(const qw_job *j, qw_phase p);
/* Shows host data to the request's tap, in the type of the device of a phase. */
int qw_show(qw_job *j, qw_phase p, const double *x, int rank, const int64_t *dim, const char *name);
int qw_show_ints(qw_job *j, const int32_t *x, int rank, const int64_t *dim, const char *name);
/* log.c: qw_say, silent for a job that is counted. */
void qw_note(const qw_job *j, int level, const char *format, ...) QW_PRINTF(3, 4);

/* --- request.c --- */
/* Decides task, sizes and numbers, and prepares the pictures; after qw_job_start. */
int qw_job_read(qw_job *j);
int qw_job_schedule(qw_job *j);
/* denoise.c.  Nonzero: the ControlNet runs in this step, of all steps of the schedule. */
int qw_control_step(const qw_job *j, int step);
int qw_sees_pictures(const qw_job *j); /* prompt.c.  Nonzero: the prompt has pictures in it. */

/* --- pictures.c --- */
int qw_extends(const qwen_request *r); /* nonzero: the picture gets room around it */
/* The size of about `area` pixels with the picture's aspect, in multiples of 32. */
void qw_fit_area(const qwen_array *a, int64_t area, int64_t *w, int64_t *h);
int64_t qw_reference_area(const qw_job *j); /* pixels of an edit's input picture for the VAE */
/* The picture with room around it, filled with its border pixels: a view of j->canvas. */
int qw_extend_picture(qw_job *j, const qwen_array *a, const int extend[4], qwen_array *out);
/* Prepares the pictures for the vision tower and the VAE, and the mask.  input: the request's
 * pictures after extension, original: before it. */
int qw_prepare_pictures(qw_job *j, const qwen_array *input, const qwen_array *original);

/* --- comfy.c --- */
/* A copy of a picture for the vision tower, by way of about `area` pixels (sizes[2]); one for the
 * VAE, of about `area` pixels. */
int qw_comfy_view(qw_job *j, const qwen_array *a, int64_t area, qw_image *view, int64_t sizes[2]);
int qw_comfy_reference(qw_job *j, const qwen_array *a, int64_t area, qw_image *out);

/* --- geometry.c: logs the sizes of the pictures, or hands them to a tally --- */
void qw_tell_geometry(qw_job *j);

/* --- load_nets.c --- */
/* Loads the nets that the stages of a phase need.  On a host device the first call loads those of
 * all phases; on any other device loading the transformer may free the text encoder. */
int qw_load_for(qw_job *j, qw_phase p);
int qw_load(qw_job *j, unsigned needs); /* of QW_NEED_ */
void qw_nets_free(qw_nets *nets);

#endif
