/* stage.h - the stages of a job in order, and the runner of a stage on its device. */
#ifndef QW_STAGE_H
#define QW_STAGE_H
#include "pipeline/job.h"

/* --- stage.c: work on a device: counted, given scratch, run ----------------------------------- */
/* Calls ops on a run; called with a run on the plan device first, then on the stage's. */
typedef void (*qw_body)(qw_run *r, void *arg);

typedef struct qw_stage {
    qw_run run;
    qw_job *job;
    qw_phase phase;
    int steps, blocks; /* what progress reports; blocks 0: unknown */
    double times;      /* how often the next reserved body will run, for counts; 1 at first */
    int told_step, told_block;
    double started, looked; /* seconds: begin of the stage, last progress inside an op */
} qw_stage;

/* Starts a run on the phase's device and calls progress for the beginning of the phase. */
int qw_stage_begin(qw_stage *s, qw_job *j, qw_phase phase, int steps, int blocks);
/* Runs body on a plan device and reserves the scratch that it took there. */
int qw_stage_reserve(qw_stage *s, qw_body body, void *arg);
/* Runs body.  If out [n] is not finite, runs it again with a check after every op, and fails with
 * the name of the op. */
int qw_stage_run(qw_stage *s, qw_body body, void *arg, const double *out, int64_t n);
/* Frees the run, adds to the job's seconds, and moves the run's failure to the model; returns the
 * model's status. */
int qw_stage_end(qw_stage *s);

/* --- the stages ------------------------------------------------------------------------------- */
int qw_run_stages(qw_job *j, qwen_result *out); /* pipeline.c: all, after qw_job_read */

/* prompt.c.  k: 0 the prompt, 1 the negative one */
int qw_read_prompt(qw_job *j, int k);  /* sets prompt, key, remembered */
int qw_job_look(qw_job *j);            /* sets features, unless no prompt needs them */
int qw_embed_prompt(qw_job *j, int k); /* sets text, text_rows */
/* latents.c */
int qw_job_encode(qw_job *j); /* sets latents of `reference`, condition, mask_tokens, kept */
int qw_job_noise(qw_job *j);  /* sets noise, start, x */
qw_dtype qw_noise_type(const qw_job *j);
/* Latents between the VAE's own numbers and normalised ones: [z][n]. */
void qw_latent_normalise(const qw_vae_config *c, const double *raw, int64_t n, double *out);
void qw_latent_raw(const qw_vae_config *c, const double *normalised, int64_t n, double *out);
/* denoise.c */
int qw_job_denoise(qw_job *j);
/* Tokens of a picture in the sequence; an odd last row or column of its latent has a token too. */
int64_t qw_reference_tokens(const qw_reference *f);
/* decode.c */
int qw_job_decode(qw_job *j, qwen_result *out);

/* --- vae_stage.c: one picture, in bands of rows where memory demands it (a notice) ------------ */
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
/* tiles.c: the same in diffusers' overlapping tiles.  qw_tiles_needed, nonzero: the request has
 * tiling "reference", and the picture is larger than a tile. */
int qw_tiles_needed(const qw_job *j, int64_t w, int64_t h);
int qw_decode_tiled(qw_stage *s, const qw_decode_work *w);
int qw_encode_tiled(qw_stage *s, const qw_encode_work *w);

/* --- count.c: the same stages, counted -------------------------------------------------------- */
/* Runs the stages on plan devices and fills in out, sizes and costs.  Fails if the request is wrong
 * or cannot be run on the model's devices. */
int qw_count(qwen *q, const qwen_request *req, qw_tally *t, qwen_plan_report *out);
void qw_tally_free(qw_tally *t);
/* Logs once the default steps and guidance of a distilled model, if the request leaves them
 * open. */
void qw_tell_distilled(qwen *q, const qwen_request *r);
#endif
