/* qwen.h - pictures from words with Qwen-Image.  A program needs no other header.
 *
 *     qwen_options opt = { .size = sizeof opt, .model = "path/to/Qwen-Image" };
 *     qwen_request req = { .size = sizeof req, .prompt = "a cat", .seed = 1 };
 *     qwen_result  res = { .size = sizeof res };
 *     qwen *q;
 *     if (qwen_open(&q, &opt) || qwen_generate(q, &req, &res))
 *         fprintf(stderr, "%s\n", qwen_error(q));
 *     ... res.image[0].data is [H][W][3] bytes ...
 *     qwen_result_free(&res);
 *     qwen_close(q);
 *
 * Rules.  Functions that return int return a qwen_status.  Arguments stay the caller's and are only
 * read.  Arrays and results that a function fills are the caller's to free.  Strings returned
 * belong to the handle.  Nothing prints, exits, installs a handler or changes a setting of the
 * process.  A handle is used by one thread at a time; different handles are independent. */
#ifndef QWEN_H
#define QWEN_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#if defined __GNUC__ && !defined _WIN32
#pragma GCC visibility push(default)
#endif

typedef struct qwen qwen; /* a model on a device; one thread at a time */

enum qwen_status { /* every function returning int returns one of these */
                   QWEN_OK = 0,
                   QWEN_EARG = -1,         /* the caller's argument */
                   QWEN_ENOMEM = -2,       /* host or device memory */
                   QWEN_EIO = -3,          /* the file cannot be read */
                   QWEN_EFORMAT = -4,      /* the contents of the file are malformed */
                   QWEN_EMODEL = -5,       /* a tensor is missing or has the wrong shape */
                   QWEN_EUNSUPPORTED = -6, /* valid, but not supported */
                   QWEN_EDEVICE = -7,      /* the device failed */
                   QWEN_ECANCELLED = -8,   /* the progress callback returned nonzero */
                   QWEN_ENUMERIC = -9      /* a result is not finite */
};

enum { QWEN_F32 = 1, QWEN_F64, QWEN_I32, QWEN_U8 }; /* qwen_array.dtype */

/* Structs that callers fill begin with their size.  Zero means default everywhere.  A smaller size
 * (an older caller) is completed with zeros; a larger one is accepted when the bytes beyond this
 * library's struct are zero, else QWEN_EUNSUPPORTED; size 0 is QWEN_EARG. */
typedef struct qwen_options {
    size_t size;
    /* directory or file; the pieces below take precedence, and suffice without it */
    const char *model;
    const char *transformer, *text_encoder, *vision, *vae, *controlnet, *tokenizer;
    /* "t2i", "edit", "edit-2509", "edit-2511", "layered"; NULL: detected from the files */
    const char *variant;
    const char *like;   /* "diffusers" (default) or "comfyui" where they differ */
    const char *device; /* "cuda:0", "cpu", "ref"; NULL: the fastest that opens */
    uint64_t memory;    /* device bytes to stay under; 0: what is free */
    int threads;        /* host threads; 0: all that this process may use */
    int strict;         /* an op that the device declines is an error */
    void (*log)(void *user, int level, const char *line); /* level 0 notice, 1 detail (-v) */
    void *user;
    const char *text_device, *vae_device; /* NULL: device */
} qwen_options;

/* dense, last dimension fastest; the callee's output is malloc'ed */
typedef struct qwen_array {
    void *data;
    int dtype; /* QWEN_F32, QWEN_F64, QWEN_I32, QWEN_U8 */
    int rank;
    int64_t dim[8];
} qwen_array;
void qwen_array_free(qwen_array *a); /* frees data and zeroes the struct; NULL is fine */

typedef struct qwen_progress {
    size_t size;
    const char *phase; /* "text", "vision", "encode", "denoise", "decode" */
    /* inside the phase, from 0; step == steps: the phase is done */
    int step, steps;
    int block, blocks; /* inside the step */
} qwen_progress;

typedef struct qwen_request {
    size_t size;
    const char *prompt, *negative; /* UTF-8; negative NULL: the variant's default */
    const qwen_array *input;       /* [inputs] pictures, U8 [H][W][3 or 4] */
    int inputs;
    int width, height; /* pixels, multiples of 16; 0: the variant's choice */
    int steps;
    /* true classifier-free guidance; up to 1: one pass, no negative; 0: default */
    double guidance;
    uint64_t seed;
    /* names as in the command's manual; NULL: default */
    const char *rng, *schedule, *sampler;
    /* [16][h/8][w/8] (layered: one more leading); NULL: from seed */
    const qwen_array *noise;
    int (*progress)(void *user, const qwen_progress *p); /* nonzero: stop */
    /* called with the tensors of every stage; the data are valid during the call */
    void (*tap)(void *user, const char *name, const qwen_array *a);
    void *user;
    /* "t2i", "edit", "edit-plus", or the text itself, with {} for the prompt */
    const char *chat_template;
    const char *system; /* another system text inside the template */
    /* explicit list, before the shift, without the final 0 ("raw": the final list) */
    const double *sigmas;
    int n_sigmas;
    double shift;            /* static shift; 0: the schedule's own */
    int guidance_norm;       /* 0 the variant's, 1 on, 2 off */
    const char *noise_dtype; /* "f32" (default), "bf16" */
    /* [n][width], as text.embeds of a tap; the text encoder is not used */
    const qwen_array *embeds, *negative_embeds;
    double strength;        /* image to image: 0..1; 0: not given */
    const qwen_array *mask; /* U8 [H][W] or [H][W][3 or 4]: white is repainted */
    int layers;             /* Layered; 0: 4 */
    /* pixels of an input picture for the VAE, for the vision tower; 0: the pipeline's */
    int64_t reference_area, condition_area;
    int extend[4];             /* outpainting: left, right, top, bottom, pixels */
    const qwen_array *control; /* control picture, U8 [H][W][3 or 4] */
    double control_strength, control_start, control_end; /* 0 0 0: 1, 0, 1 */
    const char *tiling; /* NULL: whole; "reference": diffusers' tiles */
} qwen_request;

typedef struct qwen_result { /* the pictures, and the settings that reproduce them */
    size_t size;
    int n;             /* pictures: 1, or the layers */
    qwen_array *image; /* [n], U8 [H][W][3 or 4] */
    uint64_t seed;
    int width, height, steps;
    double guidance;
    /* the settings used; static strings or the handle's */
    const char *variant, *schedule, *sampler, *rng;
    double seconds_text, seconds_vision, seconds_encode, seconds_denoise, seconds_decode;
    uint64_t device_bytes; /* peak of weights and scratch on the device */
    /* of the VAE where memory demanded them; 0: whole */
    int bands_encode, bands_decode;
    double strength; /* as used; 0: started from noise alone */
    /* inpainting: the picture as it was encoded, U8 [height][width][3 or 4], and U8
     * [height][width], 1 where it was repainted; else without data */
    qwen_array kept;
    qwen_array mask;
} qwen_result;

/* An input picture, mask or control picture, and the sizes to which it is resized.  Nothing is
 * cropped, except an Edit's input picture with like "comfyui", by up to 7 pixels. */
typedef struct qwen_geometry {
    size_t size;
    const char *role;  /* "input", "mask", "control" */
    int index;         /* from 1 */
    int width, height; /* as given */
    /* for the vision tower: resized to its area, then to whole patches; 0: not an input of the
     * tower */
    int area_width, area_height, seen_width, seen_height;
    int coded_width, coded_height; /* for the VAE; a mask's: as it is used */
} qwen_geometry;

typedef struct qwen_plan_report {
    size_t size;
    int width, height, steps;
    int passes; /* sequences per step: 1, or 2 with guidance */
    /* of a pass: the pictures that are drawn, the text, the input pictures */
    int64_t image_tokens, text_tokens, reference_tokens;
    /* bytes as they lie in the files */
    uint64_t weights_text, weights_vision, weights_transformer, weights_vae;
    uint64_t resident, streamed; /* device bytes of weights kept and streamed */
    uint64_t scratch;            /* peak device scratch */
    /* host bytes of weights that had to be copied or unpacked */
    uint64_t copies;
    double flops_text, flops_vision, flops_encode, flops_denoise, flops_decode; /* whole run */
    /* in: called with every op line and its count, or NULL */
    void (*ops)(void *user, const char *line, int64_t count);
    void *user;
    int bands_encode, bands_decode; /* of the VAE where memory demands them; 0: whole */
    /* in: called with every input picture, or NULL */
    void (*geometry)(void *user, const qwen_geometry *g);
} qwen_plan_report;

/* An opened model and the defaults of its requests. */
typedef struct qwen_model_info {
    size_t size;
    const char *name;       /* "demo", or NULL */
    const char *variant;    /* "t2i", "edit", ... */
    const char *pipeline;   /* class of model_index.json, or NULL */
    const char *edit_class; /* the class that edits with the same weights, or NULL */
    const char *device;     /* as opened, "ref" */
    int width, height, steps;
    double guidance;
    const char *negative;
    int distilled; /* the file is a distilled model: few steps, guidance 1 */
    int64_t text_width;
    /* the publisher's advice; `negative` is the default */
    const char *recommended_negative;
} qwen_model_info;

const char *qwen_version(void);
const char *qwen_strerror(int status); /* never NULL */

/* *out is set even on failure (unless memory ran out, when it is NULL), so that qwen_error()
 * returns the reason; close it either way. */
int qwen_open(qwen **out, const qwen_options *opt);
void qwen_close(qwen *q); /* NULL is fine */
/* The sentence of the last failure, valid until the next call; q NULL: memory ran out. */
const char *qwen_error(const qwen *q);
int qwen_info(qwen *q, qwen_model_info *out);

int qwen_lora(qwen *q, const char *path, double strength, unsigned flags); /* adds a file */
enum { QWEN_LORA_PARTIAL = 1 }; /* unmatched keys are a notice, not an error */
void qwen_lora_clear(qwen *q);  /* removes all files */

int qwen_generate(qwen *q, const qwen_request *req, qwen_result *out);
void qwen_result_free(qwen_result *r);
/* Fills in sizes, memory and FLOPs of a request; computes nothing. */
int qwen_plan(qwen *q, const qwen_request *req, qwen_plan_report *out);
/* A device, usable or not, as qwen_devices() passes it to `each`, which opens none.  The strings
 * are valid during the callback; a nonzero result of `each` ends the list and is returned. */
typedef struct qwen_device_info {
    size_t size;
    const char *name, *what; /* "cpu:avx2"; one line */
    const char *identity;    /* PCI address or UUID, or "" */
    const char *why_not;     /* why it cannot be used, or NULL */
    double score;            /* the highest usable one is the default */
    uint64_t memory;         /* bytes; 0: unknown */
    int is_default;
} qwen_device_info;
int qwen_devices(int (*each)(void *user, const qwen_device_info *d), void *user);

/* --- the stages, one by one ---------------------------------------------------
 * Latents are [16][h][w], normalised; pictures F32 [H][W][C] in -1..1; text [n][width]. */
int qwen_tokenize(qwen *q, const char *text, size_t bytes, qwen_array *ids);
/* The filled template as it will be tokenised; *out is malloc'ed, free() it. */
int qwen_prompt(qwen *q, const qwen_request *req, int negative, char **out);
int qwen_embed(qwen *q, const qwen_request *req, int negative, qwen_array *text);
/* latent [latents]: the noise (Layered: all but the last), then input pictures. */
int qwen_velocity(qwen *q, const qwen_array *latent, int latents, double sigma,
                  const qwen_array *text, qwen_array *v);
int qwen_decode(qwen *q, const qwen_array *latent, qwen_array *picture);
int qwen_encode(qwen *q, const qwen_array *picture, qwen_array *latent);
/* Hidden states of all of ids (no template, nothing dropped), after the final norm.  features
 * [n][width] replace the picture tokens' embeddings; grid I32 [pictures][3] are their vision grids;
 * both may be NULL. */
int qwen_hidden(qwen *q, const qwen_array *ids, const qwen_array *features, const qwen_array *grid,
                qwen_array *hidden);
/* Vision tower: pixels [patches][1176], grid I32 [pictures][3] -> features [patches/4][width]. */
int qwen_vision(qwen *q, const qwen_array *pixels, const qwen_array *grid, qwen_array *features);

/* --- files, without a model ----------------------------------------------------
 * UTF-8, a tokenizer, files of tensors, kinds of files. */
/* Offset of the first byte that is not UTF-8, or -1. */
int64_t qwen_utf8_invalid(const char *text, size_t bytes);
/* A copy in which U+FFFD replaces every maximal ill-formed part (Unicode, section 3.9), with a zero
 * byte after its end; free() it.  NULL without memory. */
char *qwen_utf8_replace(const char *text, size_t bytes, size_t *out_bytes);

typedef struct qwen_tokenizer qwen_tokenizer;
/* *out is set even on failure, as by qwen_open. */
int qwen_tokenizer_open(qwen_tokenizer **out, const char *path);
int qwen_tokenizer_ids(qwen_tokenizer *t, const char *text, size_t bytes, qwen_array *ids);
const char *qwen_tokenizer_error(const qwen_tokenizer *t);
void qwen_tokenizer_close(qwen_tokenizer *t);

/* a .safetensors or .gguf file, an index with shards, or a directory of these */
typedef struct qwen_file qwen_file;
typedef struct qwen_file_tensor {
    const char *name;  /* as in the file */
    const char *dtype; /* "bf16", "q4_k" */
    int rank;
    int64_t dim[8];
    uint64_t bytes;
} qwen_file_tensor;
/* *out is set even on failure, as by qwen_open. */
int qwen_file_open(qwen_file **out, const char *path);
int64_t qwen_file_count(const qwen_file *f);
int qwen_file_tensor_at(const qwen_file *f, int64_t i, qwen_file_tensor *out);
/* Decoded: integers to I32, U8 as U8, F64 as F64, everything else to F32. */
int qwen_file_read(qwen_file *f, const char *name, qwen_array *out);
const char *qwen_file_metadata(const qwen_file *f, const char *key); /* or NULL */
const char *qwen_file_error(const qwen_file *f);
void qwen_file_close(qwen_file *f);

/* Describes a model file or directory by calls of `say` with a key and a value in words ("kind",
 * "variant", "dtypes", "parameters", "missing", "unknown" ...).  Returns QWEN_OK, QWEN_EFORMAT or
 * QWEN_EMODEL for a broken or incomplete file, QWEN_EUNSUPPORTED for a whole one that is not
 * supported; error_text gets the sentence. */
int qwen_inspect(const char *path, void (*say)(void *user, const char *key, const char *value),
                 void *user, char *error_text, size_t error_size);
/* The published size for an aspect such as "16:9"; QWEN_EARG if the table has no such aspect. */
int qwen_aspect(const char *aspect, int *width, int *height);
#if defined __GNUC__ && !defined _WIN32
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
