/* pipeline.h - struct qwen and the stages that the public functions and the pipeline share. */
#ifndef QW_PIPELINE_H
#define QW_PIPELINE_H
#include "host.h"
#include "net.h"

typedef enum qw_variant { QW_T2I, QW_EDIT, QW_EDIT_2509, QW_EDIT_2511, QW_LAYERED } qw_variant;
const char *qw_variant_name(qw_variant v);

/* --- template.c: chat templates -------------------------------------------------------------------- */
typedef struct qw_prompt {
    char   *text;                       /* the filled template, UTF-8 */
    size_t  bytes;
    int64_t drop;                       /* leading tokens whose rows are dropped */
} qw_prompt;
/* name: "t2i", "edit", "edit-plus", or a template text with {}.  system NULL: the template's own.
 * pictures: how many "Picture k: " prefixes edit-plus writes; tokens[i] image pads for picture i. */
int  qw_prompt_make(qw_prompt *out, const char *name, const char *system, const char *user_text,
                    const int64_t *tokens, int pictures, const qw_tokenizer *tok, qw_error *err);
void qw_prompt_free(qw_prompt *p);

/* --- model.c: opening; which files make a model ------------------------------------------------------ */
typedef struct qw_component {           /* a net's files and weights, on a device */
    qw_store     *store;
    qw_residency *res;
    uint64_t      file_bytes;
    int           opened;               /* loaded and committed */
} qw_component;

typedef struct qw_embedding {           /* of one prompt, kept for the next picture */
    char   *key;                        /* what it was made from */
    double *rows;
    int64_t n;
} qw_embedding;

struct qwen {
    qw_error   error;
    qwen_options opt;                   /* strings copied */
    qw_variant variant;
    char      *pipeline_class, *edit_class, *name, *negative;
    int        width, height, steps;    /* defaults; 0: computed */
    double     guidance;
    int64_t    reference_area, condition_area;
    int        comfy, distilled;

    qw_device *dev, *text_dev, *vae_dev, *ref;      /* the last two may equal the first */
    qw_component text_files, vision_files, dit_files, vae_files, control_files;
    qw_text_config text_config;
    qw_vision_config vision_config;
    qw_dit_config dit_config;
    qw_vae_config vae_config;
    qw_schedule_config schedule_config;
    qw_tokenizer *tokenizer;
    qw_text   *text;
    qw_vision *vision;                  /* loaded when first needed */
    qw_dit    *dit;
    qw_vae    *vae;
    qw_embedding embedding[2];          /* positive, negative */
};
int  qw_model_open(qwen *q);
void qw_model_close(qwen *q);
/* Loads what a stage needs if it is not there yet. */
int  qw_need_text(qwen *q);
int  qw_need_vision(qwen *q);
int  qw_need_dit(qwen *q);
int  qw_need_vae(qwen *q, int parts);

/* --- pipeline.c: the stages in order ------------------------------------------------------------------ */
int  qw_generate(qwen *q, const qwen_request *req, qwen_result *out);
int  qw_plan(qwen *q, const qwen_request *req, qwen_plan_report *out);
#endif
