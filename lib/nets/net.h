/* net.h - the networks: structs of weights, and plain functions that call operations on a run.
 *
 * A _load function reads the weights of a net through a qw_loader and returns the status of the
 * loader's error; a _forward function (of the VAE _decode and _encode) copies its inputs to the
 * run's device, calls ops and copies the outputs back; a failure stays in the run.  Batch is one.
 * Activations are [rows][channels], pictures [height][width][channels].  Inputs and outputs of a
 * net are host memory in double precision, dense, row-major, the caller's.  Taps are named after
 * the tensors of the golden data. */
#ifndef QW_NET_H
#define QW_NET_H
#include "weights/weights.h"

/* --- linear.c: linear layers ------------------------------------------------------------------ */
void qw_linear(qw_run *r, qw_tensor y, qw_tensor x, const qw_weight *w); /* y = x wT + b */
void qw_linear_act(qw_run *r, qw_tensor y, qw_tensor x, const qw_weight *w, qw_act act);
/* y = gate * (x wT + b), and y = y + gate * (x wT + b); gate [n] may be absent */
void qw_linear_scaled(qw_run *r, qw_tensor y, qw_tensor x, const qw_weight *w, qw_tensor gate);
void qw_linear_residual(qw_run *r, qw_tensor y, qw_tensor x, const qw_weight *w, qw_tensor gate);
/* Type of a branch that only linear layers read: the input of w; the result of w that is the input
 * of next.  QW_I8 on devices that quantise, unless the reader has a rotated part or w several
 * parts; else the device's preferred type. */
qw_dtype qw_input_type(const qw_run *r, const qw_weight *w);
qw_dtype qw_output_type(const qw_run *r, const qw_weight *w, const qw_weight *next);
/* x in the type of an input of w: x itself, or a quantised copy in scratch. */
qw_tensor qw_input(qw_run *r, qw_tensor x, const qw_weight *w);

/* --- rope.c: angles of positions, host doubles ------------------------------------------------ */
typedef struct qw_grid { /* size of a picture, in tokens of a sequence or in vision patches */
    int32_t frames, rows, cols;
} qw_grid;
/* Angles of the MMDiT: picture tokens [sum of frames rows cols][head/2], text tokens
 * [n][head/2].  c->layer3d: Layered's rule (the last grid is the condition).  comfy: ComfyUI's
 * centring and its first position of the text. */
void qw_rope_pictures(const qw_dit_config *c, const qw_grid *g, int grids, int comfy,
                      double *angle);
int64_t qw_rope_text_start(const qw_dit_config *c, const qw_grid *g, int grids, int comfy);
void qw_rope_text(const qw_dit_config *c, int64_t start, int64_t n, double *angle);
/* M-RoPE of the language model: positions [3][n] (time, row, column) of ids; merged: the grids of
 * the pictures among them, in merged tokens.  QWEN_EARG where their sizes do not fit the ids. */
int qw_mrope_positions(const qw_text_config *c, const int32_t *ids, int64_t n,
                       const qw_grid *merged, int pictures, int32_t *positions, qw_error *err);
/* angle [n][head/2]; [patches][head/2], patches in merge order */
void qw_mrope_angles(const qw_text_config *c, const int32_t *positions, int64_t n, double *angle);
void qw_vision_angles(const qw_vision_config *c, const qw_grid *g, double *angle);

/* --- text.c: Qwen2.5-VL's language model to its last hidden state ----------------------------- */
typedef struct qw_text qw_text;
int qw_text_load(qw_text **out, const qw_text_config *c, qw_loader *l);
void qw_text_free(qw_text *t);
/* ids [n]; features [feature_rows][width] replace the embeddings of image_token, or NULL; positions
 * [3][n]; out [n][width], after the final norm.  Taps: <names>hidden.i, <names>ids,
 * <names>positions. */
void qw_text_forward(qw_run *r, const qw_text *t, const int32_t *ids, int64_t n,
                     const double *features, int64_t feature_rows, const int32_t *positions,
                     double *out);

/* --- vision.c: Qwen2.5-VL's vision tower ------------------------------------------------------ */
typedef struct qw_vision qw_vision;
int qw_vision_load(qw_vision **out, const qw_vision_config *c, qw_loader *l);
void qw_vision_free(qw_vision *v);
/* pixels [patches][channels temporal patch patch] of one picture with grid g, in merge order; out
 * [patches/merge^2][out width] in raster order of merged patches. */
void qw_vision_forward(qw_run *r, const qw_vision *v, const double *pixels, const qw_grid *g,
                       double *out);

/* --- dit.c, dit_block.c, dit_modulation.c: the MMDiT ------------------------------------------ */
typedef struct qw_dit qw_dit;
int qw_dit_load(qw_dit **out, const qw_dit_config *c, qw_loader *l);
void qw_dit_free(qw_dit *d);
const qw_dit_config *qw_dit_config_of(const qw_dit *d);
/* Calls `each` for every part [n][k] of every linear layer, the sites of LoRA files, until it
 * returns nonzero; returns that. */
int qw_dit_each_weight(qw_dit *d, int (*each)(void *user, qw_weight_part *p, int64_t n, int64_t k),
                       void *user);

/* Additions of a ControlNet to the picture stream: `after` is called after each block with the
 * rows of the noise pictures. */
typedef struct qw_dit_hook {
    void (*after)(void *user, qw_run *r, int block, qw_tensor noise_rows);
    void *user;
} qw_dit_hook;

/* The modulation table, on the host: all that depends on the timestep only, for all steps. */
typedef struct qw_modulation qw_modulation;
/* Computes temb and each block's shift, scale and gate for t [steps], sigma in 0..1; reads the
 * weights of the modulation layers once.  c->zero_cond_t adds a row for t = 0. */
int qw_dit_modulate(qw_run *r, const qw_dit *d, const double *t, int steps, qw_modulation **out);
void qw_modulation_free(qw_modulation *m);

typedef struct qw_dit_sequence { /* one pass: a conditional or unconditional sequence */
    const double *x;          /* [rows][in] packed latents: noise pictures, then input pictures */
    int64_t rows, noise_rows; /* noise_rows: of the noise pictures, whose velocity is the output */
    const qw_grid *grid;      /* pictures in the order of x */
    int grids;
    int noise_grids;    /* how many of them, the first, are noise (1; Layered: layers + 1) */
    const double *text; /* [text_rows][text_width], before txt_norm */
    int64_t text_rows;
    double *out;             /* [noise_rows][out patch^2]: the velocity */
    const qw_dit_hook *hook; /* or NULL */
    const char *tap;         /* prefix of taps ("step0."), or NULL for none */
} qw_dit_sequence;

/* A picture on the device while it is drawn: inputs and outputs of a step and data that all steps
 * share, in scratch, at the same addresses in every step, until r->used is set back. */
enum { QW_PASSES = 2 };
typedef struct qw_dit_pass {
    const qw_dit_sequence *s; /* borrowed */
    qw_tensor x, text, out;   /* [rows][in], [text_rows][text width], [noise_rows][out patch^2] */
    qw_tensor table[2][2];    /* positions of the text, of the pictures: cos, sin [rows][head/2] */
} qw_dit_pass;
typedef struct qw_dit_picture {
    int passes, comfy, all_rows;
    qw_dit_pass pass[QW_PASSES];
    qw_tensor mod[2]; /* a row of the modulation table: of the step; of t = 0, or absent */
} qw_dit_picture;
/* Allocates *p in scratch and copies there the data that the steps share: positions, text, rows of
 * input pictures.  s [k] is borrowed until the last qw_dit_get.  comfy: ComfyUI's rotary
 * positions.  all_rows (tests): out has every row. */
void qw_dit_place(qw_run *r, const qw_dit *d, const qw_modulation *m, const qw_dit_sequence *s,
                  int k, int comfy, int all_rows, qw_dit_picture *p);
/* Copies the noise rows of x, and row `step` of the table in one piece, to the device. */
void qw_dit_put(qw_run *r, const qw_dit_picture *p, const qw_modulation *m, int step);
/* Computes the step by ops alone (and taps), blocks in the outer loop, sequences in the inner. */
void qw_dit_run(qw_run *r, const qw_dit *d, const qw_dit_picture *p);
void qw_dit_get(qw_run *r, const qw_dit_picture *p); /* copies the velocities to s->out */
/* qw_dit_place, _put, _run and _get for one step. */
void qw_dit_forward(qw_run *r, const qw_dit *d, const qw_modulation *m, int step,
                    const qw_dit_sequence *s, int k, int comfy, int all_rows);

/* --- vae.c, vae_bands.c: Wan-style encoder and decoder, one frame ----------------------------- */
typedef struct qw_vae qw_vae;
enum { QW_VAE_DECODER = 1, QW_VAE_ENCODER = 2 };
int qw_vae_load(qw_vae **out, const qw_vae_config *c, int parts, qw_loader *l);
void qw_vae_free(qw_vae *v);
const qw_vae_config *qw_vae_config_of(const qw_vae *v);
/* Factor of the pixel shuffle at the end of the decoder, 2 to 4; 1: there is none. */
int64_t qw_vae_enlarges(const qw_vae *v);
/* latent [z][h][w], raw (not normalised); picture [8h][8w][channels] times qw_vae_enlarges, not
 * clamped.  rows > 0: maps finer than the latent are computed in bands of so many rows of the
 * latent, with the same result (taps of these maps show bands); 0: whole. */
void qw_vae_decode(qw_run *r, const qw_vae *v, const double *latent, int64_t h, int64_t w,
                   int64_t rows, double *picture);
/* picture [H][W][channels] in -1..1; mean, logvar (clamped to -30..20) [z][H/8][W/8].  rows: as
 * above, for sizes that are multiples of 8. */
void qw_vae_encode(qw_run *r, const qw_vae *v, const double *picture, int64_t height, int64_t width,
                   int64_t rows, double *mean, double *logvar);
/* Elements of scratch of qw_vae_encode (encoder nonzero) or qw_vae_decode for a latent of h x w in
 * bands of `rows`. */
int64_t qw_vae_scratch(const qw_vae *v, int encoder, int64_t h, int64_t w, int64_t rows);
#endif
