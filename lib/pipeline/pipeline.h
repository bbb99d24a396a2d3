/* pipeline.h - a model and its uses: pictures, plans, single stages.
 *
 * A function that can fail returns the status of the model's error, which holds the first failure
 * until the caller clears it.  Arrays are dense, row-major, and the caller's. */
#ifndef QW_PIPELINE_H
#define QW_PIPELINE_H
#include "nets/net.h"

/* --- a model ---------------------------------------------------------------------------------- */
/* The nets of a model: language model, vision tower, transformer, VAE, ControlNet. */
typedef enum qw_net { QW_TEXT, QW_VISION, QW_DIT, QW_VAE, QW_CONTROL, QW_NETS } qw_net;

typedef struct qw_configs { /* of the files, else the published ones; zeros without files */
    qw_text_config text;
    qw_vision_config vision;
    qw_dit_config dit, control;
    qw_vae_config vae;
    qw_schedule_config schedule;
} qw_configs;

/* Copies the options, maps the files, reads their headers, opens the devices.  Loads no weight.
 * *out is set on failure too, unless memory ran out. */
int qw_model_new(qwen **out, const qwen_options *opt);
void qw_model_free(qwen *q);                 /* NULL is fine */
int qw_model_is_open(const qwen *q);         /* 0: opening failed; only its error may be used */
qw_error *qw_model_error(qwen *q);           /* the model's, to be read, set and cleared */
const char *qw_model_failure(const qwen *q); /* its sentence */
void qw_model_info(const qwen *q, qwen_model_info *out);
const qw_configs *qw_model_configs(const qwen *q);
const qw_store *qw_model_store(const qwen *q, qw_net n); /* NULL: there are no files of this net */
const char *qw_model_path(const qwen *q, qw_net n);
qw_dtype qw_model_wide(const qwen *q, qw_net n); /* wide type of the net's device */
/* qw_vae_enlarges of the loaded VAE; 1 while there is none. */
int64_t qw_model_enlarges(const qwen *q);
/* Nonzero: this model should have a vision tower (a tokenizer), and is incomplete without. */
int qw_model_wants_vision(const qwen *q);
int qw_model_wants_tokenizer(const qwen *q);
/* The config.json of the folder in which a file lies, or of a directory, malloc'ed; NULL: none, or
 * no memory (err set). */
char *qw_config_beside(const char *path, qw_error *err);

/* Loads the transformer and lays a LoRA file over it. */
int qw_lora_add(qwen *q, const char *path, double strength, int partial);
void qw_lora_drop(qwen *q); /* all of them */

enum { /* bits: what can be loaded */
       QW_NEED_TOKENIZER = 1,
       QW_NEED_TEXT = 2,
       QW_NEED_VISION = 4,
       QW_NEED_DIT = 8,
       QW_NEED_CONTROL = 16,
       QW_NEED_DECODER = 32,
       QW_NEED_ENCODER = 64
};
/* Loads what is not loaded yet; `each` (or NULL) as in qw_loader. */
int qw_model_load(qwen *q, unsigned needs,
                  void (*each)(void *user, const char *missing, const char *sentence), void *user);

/* --- pictures --------------------------------------------------------------------------------- */
int qw_generate(qwen *q, const qwen_request *req, qwen_result *out);
/* Counts the stages of qw_generate on plan devices: computes nothing, loads no weight.  Calls
 * out->ops and out->geometry, fills in the rest. */
int qw_plan(qwen *q, const qwen_request *req, qwen_plan_report *out);

/* --- single stages; the nets are loaded by qw_model_load -------------------------------------- */
int qw_token_ids(qwen *q, const char *text, size_t bytes, int32_t **ids, int64_t *n);
/* The prompt as it is tokenised, malloc'ed; loads no net. */
int qw_prompt_text(qwen *q, const qwen_request *req, int negative, char **out);
/* The prompt's rows as the transformer reads them, [dim[0]][dim[1]], malloc'ed; loads what it
 * needs. */
int qw_prompt_rows(qwen *q, const qwen_request *req, int negative, double **rows, int64_t dim[2]);
/* out [n][text width]; features [feature_rows][text width] of pictures with merged grids, or
 * NULL. */
int qw_hidden_states(qwen *q, const int32_t *ids, int64_t n, const double *features,
                     int64_t feature_rows, const qw_grid *merged, int pictures, double *out);
/* pixels [patches of all][values of one], out [merged patches of all][vision out] */
int qw_picture_features(qwen *q, const double *pixels, const qw_grid *patches, int pictures,
                        double *out);

typedef struct qw_latent { /* of one picture, normalised */
    double *x;             /* [z][h][w] */
    int64_t h, w;
} qw_latent;
/* The velocity of the noise, which is the first qw_noises() latents, all of one size; the others
 * are input pictures.  text [text_rows][text width], out [noises][z][h][w]. */
int qw_velocity(qwen *q, const qw_latent *latent, int latents, double sigma, const double *text,
                int64_t text_rows, double *out);
int qw_noises(const qwen *q, int latents);
/* latent [z][h][w], normalised; picture [8h][8w][channels] times qw_model_enlarges, in -1..1 */
int qw_decode_latent(qwen *q, const qw_latent *latent, double *picture);
/* picture [8h][8w][channels] in -1..1; writes the normalised mean to latent->x */
int qw_encode_picture(qwen *q, const double *picture, qw_latent *latent);
#endif
