/* stage.h - the stages of a job in order, and the runner that does each on its device. */
#ifndef QW_STAGE_H
#define QW_STAGE_H
#include "pipeline/job.h"

/* --- stage.c: a piece of work on a device: counted, given scratch, run ------------------------ */
/* Pure ops on a run; called for the plan, then in earnest. */
typedef void (*qw_body)(qw_run *r, void *arg);

typedef struct qw_stage {
    qw_run run;
    qw_job *job;
    qw_phase phase;
    int steps, blocks; /* what progress reports; blocks 0: unknown */
    double times;      /* how often what is reserved next is run; 1 at first */
    int told_step, told_block;
    double started, looked; /* seconds: the stage, its last look at progress inside of an op */
} qw_stage;

/* Readies a run on the phase's device and calls progress for the beginning of the phase. */
int qw_stage_begin(qw_stage *s, qw_job *j, qw_phase phase, int steps, int blocks);
/* Runs body on a device that computes nothing and reserves the scratch that this needed. */
int qw_stage_reserve(qw_stage *s, qw_body body, void *arg);
/* Runs body; then out [n] must be finite, else the run is repeated with a check after every op, to
 * name it. */
int qw_stage_run(qw_stage *s, qw_body body, void *arg, const double *out, int64_t n);
/* Frees; adds to the job's seconds; returns the first failure, which is now the model's. */
int qw_stage_end(qw_stage *s);

/* --- the stages ------------------------------------------------------------------------------- */
int qw_run_stages(qw_job *j, qwen_result *out); /* pipeline.c: all, after qw_job_read */

/* prompt.c.  k: 0 the prompt, 1 the negative one */
int qw_read_prompt(qw_job *j, int k);  /* prompt, key, remembered */
int qw_job_look(qw_job *j);            /* features of the views, if a prompt will need them */
int qw_embed_prompt(qw_job *j, int k); /* text, text_rows */
/* latents.c */
int qw_job_encode(qw_job *j); /* reference latents; draws what the pipeline draws */
int qw_job_noise(qw_job *j);
qw_dtype qw_noise_type(const qw_job *j);
/* Latents between the VAE's own numbers and normalised ones: [z][n]. */
void qw_latent_normalise(const qw_vae_config *c, const double *raw, int64_t n, double *out);
void qw_latent_raw(const qw_vae_config *c, const double *normalised, int64_t n, double *out);
/* denoise.c */
int qw_job_denoise(qw_job *j);
/* Tokens of a reference; a row or column of the latent that has no partner meets the first one. */
int64_t qw_reference_tokens(const qw_reference *f);
/* decode.c */
int qw_job_decode(qw_job *j, qwen_result *out);

/* --- vae_stage.c: one picture, in row bands where memory demands it (a notice) ---------------- */
typedef struct qw_decode_work {
    const qw_vae *net;
    const double *latent; /* [z][h][w], raw */
    int64_t h, w;
    double *picture; /* [8h][8w][channels] times what the net enlarges */
    int64_t rows;    /* of a band, of the latent; 0: whole */
} qw_decode_work;
void qw_decode_body(qw_run *r, void *arg);
typedef struct qw_encode_work {
    const qw_vae *net;
    const double *picture; /* [h][w][channels], -1..1 */
    int64_t h, w;
    double *mean, *logvar; /* [z][h/8][w/8] */
    int64_t rows;          /* of a band, of the latent; 0: whole */
} qw_encode_work;
void qw_encode_body(qw_run *r, void *arg);
int qw_stage_decode(qw_stage *s, qw_decode_work *w);
int qw_stage_encode(qw_stage *s, qw_encode_work *w);
/* tiles.c: the same in the reference's overlapping tiles; for pictures beyond one tile when asked
 * for. */
int qw_tiles_needed(const qw_job *j, int64_t w, int64_t h);
int qw_decode_tiled(qw_stage *s, const qw_decode_work *w);
int qw_encode_tiled(qw_stage *s, const qw_encode_work *w);

/* --- count.c: the same stages, counted -------------------------------------------------------- */
/* Nonzero: the request cannot be run on these devices, or is wrong.  out: sizes and costs. */
int qw_count(qwen *q, const qwen_request *req, qw_tally *t, qwen_plan_report *out);
void qw_tally_free(qw_tally *t);
/* A notice, once, of steps and guidance of a distilled model that the request leaves open. */
void qw_tell_distilled(qwen *q, const qwen_request *r);
#endif
