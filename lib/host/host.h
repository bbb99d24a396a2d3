/* host.h - what is small and stays on the host in plain C: tokenizer, noise, schedule, sampler,
 * pictures. */
#ifndef QW_HOST_H
#define QW_HOST_H
#include "weights/weights.h"

/* --- tokenizer.c: Qwen2's byte-level BPE ------------------------------------------------------ */
typedef struct qw_tokenizer qw_tokenizer;
/* path: a directory (vocab.json + merges.txt + tokenizer_config.json, or tokenizer.json, or
 * merges.txt alone), or a tokenizer.json. */
int qw_tokenizer_open(qw_tokenizer **out, const char *path, qw_error *err);
/* From a GGUF store's tokenizer.ggml.* keys may come later; not needed by published files. */
void qw_tokenizer_free(qw_tokenizer *t);
/* Special tokens in the text become their ids; nothing is added.  text may hold U+0000.  Invalid
 * UTF-8 is QWEN_EARG with the byte offset.  *ids is malloc'ed. */
int qw_tokenize(const qw_tokenizer *t, const char *text, size_t bytes, int32_t **ids, int64_t *n,
                qw_error *err);
/* Offset of the first byte that is not UTF-8, or -1. */
int64_t qw_utf8_invalid(const char *text, size_t bytes);
/* A copy with every maximal ill-formed part replaced by U+FFFD; malloc'ed, NULL without memory. */
char *qw_utf8_replace(const char *text, size_t bytes, size_t *out_bytes);

/* --- unicode.c: what the tokenizer stands on; text is valid UTF-8 here ------------------------ */
typedef enum qw_char_class {
    QW_CHAR_OTHER,
    QW_CHAR_LETTER,
    QW_CHAR_NUMBER,
    QW_CHAR_SPACE
} qw_char_class;
qw_char_class qw_char_classify(int32_t c); /* categories L*, N*; White_Space; everything else */
/* The code point at text[*at], *at < bytes; moves *at past it. */
int32_t qw_utf8_next(const char *text, size_t bytes, size_t *at);
/* Normalisation form C, in linear time.  *out is malloc'ed, not terminated.  QWEN_OK or
 * QWEN_ENOMEM. */
int qw_nfc(const char *text, size_t bytes, char **out, size_t *out_bytes);

/* --- rng.c: the noise others draw ------------------------------------------------------------- */
typedef enum qw_rng_kind {
    QW_RNG_TORCH_CPU,
    QW_RNG_TORCH_CPU_BF16_OLD,
    QW_RNG_TORCH_CUDA
} qw_rng_kind;
typedef struct qw_rng {
    qw_rng_kind kind;
    uint32_t state[624];
    int next;
    double spare; /* second half of a small draw's Box-Muller pair */
    int has_spare;
    uint64_t seed, offset, threads; /* CUDA: total threads when the draw is large */
} qw_rng;
/* "torch-cpu", "torch-cpu-bf16-old", "torch-cuda", "torch-cuda:THREADS", "torch-cuda:a100" ...;
 * NULL: the first. */
int qw_rng_init(qw_rng *g, const char *name, uint64_t seed, qw_error *err);
/* n normal numbers as torch.randn of that dtype (F32, BF16, F16, F64) draws them. */
int qw_rng_normal(qw_rng *g, qw_dtype dtype, int64_t n, double *out, qw_error *err);
/* log, sin, cos in double whose bits do not depend on the machine's libm (round-to-nearest IEEE
 * only). */
double qw_log(double x);
double qw_sin(double x);
double qw_cos(double x);

/* --- schedule.c ------------------------------------------------------------------------------- */
typedef struct qw_schedule {
    int steps;       /* N */
    float *sigma;    /* [N+1], the last is 0 */
    float *timestep; /* [N] = sigma * 1000 */
    double mu;       /* NAN where there is none */
} qw_schedule;
typedef struct qw_schedule_request {
    /* NULL "auto" "qwen" "lightning" "layered" "raw"; ComfyUI's "simple" ... */
    const char *name;
    const qw_schedule_config *config; /* scheduler_config.json */
    int steps;
    int64_t tokens;           /* S: tokens of the output picture */
    int64_t condition_tokens; /* Layered: mu = sqrt(S_cond / 256) */
    int layered;
    /* explicit, before the shift, without the final 0; or NULL */
    const double *sigmas;
    int n_sigmas;
    double flat;         /* "lightning": the shift at every size; 0: 3 */
    double shift;        /* > 0: static linear shift instead of the dynamic one */
    double denoise;      /* ComfyUI's; 0 or 1: all */
    const char *sampler; /* ComfyUI drops the penultimate sigma for some */
    int comfy;           /* --like comfyui: the default is its own */
} qw_schedule_request;
int qw_schedule_make(qw_schedule *out, const qw_schedule_request *q, qw_error *err);
void qw_schedule_free(qw_schedule *s);

/* --- sampler.c: double precision -------------------------------------------------------------- */
/* v = neg + g (pos - neg), then (norm) times |pos| / |v| per row of n features.  v may be pos or
 * neg. */
void qw_guide(double *v, const double *pos, const double *neg, int64_t rows, int64_t n, double g,
              int norm);
typedef struct qw_sampler { /* the model as the sampler sees it */
    /* velocity of x [count] at sigma; call is the index of the step being run.  nonzero status
     * stops. */
    int (*velocity)(void *user, const double *x, double sigma, int step, double *v);
    int (*noise)(void *user, double *out); /* count fresh normals */
    /* after each step; may change x */
    int (*after)(void *user, int step, double sigma_next, double *x);
    void *user;
} qw_sampler;
/* Runs sigma[0..steps] over x in place.  name NULL "euler", and ComfyUI's others. */
int qw_sample(const char *name, const qw_sampler *s, const float *sigma, int steps, double *x,
              int64_t count, qw_error *err);
int qw_sampler_known(const char *name);
const char *qw_sampler_name(int i); /* NULL past the last */

/* --- image.c: pictures and latents ------------------------------------------------------------ */
typedef enum qw_filter { QW_BICUBIC, QW_LANCZOS } qw_filter;
/* Pillow's resize, 8 bits, byte for byte; channels 1, 3 or 4 (4: premultiplied on the way).  dst is
 * dense. */
int qw_resize(const uint8_t *src, int64_t w, int64_t h, int channels, qw_filter f, int64_t W,
              int64_t H, uint8_t *dst, qw_error *err);
/* torch's interpolate of doubles [h][w][c], as ComfyUI scales pictures; out [H][W][c]. */
typedef enum qw_interpolation { QW_AREA, QW_BILINEAR } qw_interpolation;
int qw_interpolate(qw_interpolation how, const double *in, int64_t w, int64_t h, int64_t c,
                   int64_t W, int64_t H, double *out, qw_error *err);
/* [c][h][w] -> [hw/4][4c] */
void qw_pack(const double *latent, int64_t c, int64_t h, int64_t w, double *tokens);
void qw_unpack(const double *tokens, int64_t c, int64_t h, int64_t w, double *latent);
/* multiples of 32 */
void qw_calculate_dimensions(double area, double ratio, int64_t *w, int64_t *h);
int qw_smart_resize(int64_t w, int64_t h, int64_t factor, int64_t min_pixels, int64_t max_pixels,
                    int64_t *W, int64_t *H, qw_error *err);
/* RGB [h][w][3] of 8 bits, or if that is NULL in 0..1, to vision patches [(h/p)(w/p)][3 t p p],
 * normalised, in merge order. */
void qw_vision_pixels(const uint8_t *rgb, const double *fine, int64_t w, int64_t h,
                      const qw_vision_config *c, double *out);
#endif
