/* config.h - the numbers of a model: those of its files, the published ones for keys that they
 * lack. */
#ifndef QW_CONFIG_H
#define QW_CONFIG_H
#include "files/json.h"
#include "files/store.h"

typedef struct qw_text_config {
    int64_t vocab, width, ff, layers, heads, kv_heads, head; /* head = width / heads */
    double eps, theta;
    int section[3]; /* M-RoPE: frequencies of time, height, width */
    int tied;
    int32_t image_token, vision_start, vision_end;
} qw_text_config;
typedef struct qw_vision_config {
    int64_t depth, width, ff, heads, head, out, patch, temporal, merge, window, channels;
    int full[64], fulls; /* blocks with full attention */
    double eps;
    int64_t min_pixels, max_pixels; /* from preprocessor_config.json */
    double mean[3], std[3];
} qw_vision_config;
typedef struct qw_dit_config {
    int64_t layers, heads, head, width, text_width, in, out,
        patch; /* in: features of a token, 64 */
    int64_t axes[3];
    int zero_cond_t, additional_t, layer3d;
} qw_dit_config;
typedef struct qw_vae_config {
    int64_t base, z, mult[8], levels, res_blocks, channels;
    double mean[64], std[64];
} qw_vae_config;
typedef struct qw_schedule_config {
    double shift, base_shift, max_shift, terminal; /* terminal 0: none */
    int64_t base_len, max_len, train_steps;
    int dynamic, linear; /* time_shift_type linear, else exponential */
} qw_schedule_config;
/* Each reads `json` (NULL: published numbers) and compares it with the store's shapes, which
 * decide for keys that it lacks.  `where` names the file in messages.  Errors name the key:
 * "num_layers". */
int qw_text_configure(qw_text_config *c, const json_t *json, const qw_store *s, const char *where,
                      qw_error *err);
int qw_vision_configure(qw_vision_config *c, const json_t *json, const json_t *processor,
                        const qw_store *s, const char *where, qw_error *err);
int qw_dit_configure(qw_dit_config *c, const json_t *json, const qw_store *s, const char *where,
                     qw_error *err);
int qw_vae_configure(qw_vae_config *c, const json_t *json, const qw_store *s, const char *where,
                     qw_error *err);
int qw_schedule_configure(qw_schedule_config *c, const json_t *json, const char *where,
                          qw_error *err);
#endif
