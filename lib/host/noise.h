/* noise.h - what denoising is made of: random numbers, schedules, samplers. */
#ifndef QW_NOISE_H
#define QW_NOISE_H
#include "files/config.h"

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
#endif
