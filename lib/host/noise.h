/* noise.h - the parts of denoising on the host: random numbers, schedules, samplers. */
#ifndef QW_NOISE_H
#define QW_NOISE_H
#include "files/config.h"

/* --- rng.c: the noise that PyTorch draws ------------------------------------------------------ */
typedef enum qw_rng_kind {
    QW_RNG_TORCH_CPU,
    QW_RNG_TORCH_CPU_BF16_OLD,
    QW_RNG_TORCH_CUDA
} qw_rng_kind;
typedef struct qw_rng {
    qw_rng_kind kind;
    uint32_t state[624];
    int next;
    double spare; /* the second number of a Box-Muller pair, for the next small draw */
    int has_spare;
    uint64_t seed, offset, threads; /* of CUDA; threads of a large launch */
} qw_rng;
/* "torch-cpu", "torch-cpu-bf16-old", "torch-cuda", "torch-cuda:THREADS", "torch-cuda:a100" ...;
 * NULL: torch-cpu. */
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
    /* before the shift, without the final 0; or NULL */
    const double *sigmas;
    int n_sigmas;
    double flat;    /* of "lightning": the shift at every size; 0: 3 */
    double shift;   /* > 0: static linear shift instead of the dynamic one */
    double denoise; /* of ComfyUI's schedules: the part of the steps that is run; 0 or 1: all */
    const char *sampler; /* for some samplers ComfyUI drops the last sigma but one */
    int comfy;           /* --like comfyui: ComfyUI's default schedule */
} qw_schedule_request;
int qw_schedule_make(qw_schedule *out, const qw_schedule_request *q, qw_error *err);
void qw_schedule_free(qw_schedule *s);

/* --- sampler.c: double precision -------------------------------------------------------------- */
/* v = neg + g (pos - neg); with norm each row of n features is then scaled to the length of pos.  v
 * may be pos or neg. */
void qw_guide(double *v, const double *pos, const double *neg, int64_t rows, int64_t n, double g,
              int norm);
typedef struct qw_sampler { /* callbacks by which a sampler runs the model */
    /* v [count] at x [count] and sigma; step is the index of the step being run.  A nonzero status
     * ends the run. */
    int (*velocity)(void *user, const double *x, double sigma, int step, double *v);
    int (*noise)(void *user, double *out); /* count fresh normal numbers */
    /* called after each step; may change x */
    int (*after)(void *user, int step, double sigma_next, double *x);
    void *user;
} qw_sampler;
/* Runs sigma[0..steps] over x [count] in place.  name: "euler" (NULL), or one of
 * qw_sampler_name. */
int qw_sample(const char *name, const qw_sampler *s, const float *sigma, int steps, double *x,
              int64_t count, qw_error *err);
int qw_sampler_known(const char *name);
const char *qw_sampler_name(int i); /* NULL past the last */
#endif
