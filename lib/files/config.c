/* config.c - configurations: numbers from the file, the published ones for keys that it lacks.
 *
 * Every number has a range, and an error names its key; widths and numbers of layers in the
 * weights are compared with those of the configuration. */
#include "files/config.h"
#include <math.h>
#include <string.h>

typedef struct reader {
    const json_t *json;
    const char *where;
    qw_error *err;
    json_t *gguf; /* the same keys from a GGUF's metadata, or NULL; owned */
} reader;

/* The value of a key, at the top level or in one of the objects that newer files nest it in. */
static const json_t *value_of(const reader *r, const char *key)
{
    static const char *const nests[] = { "text_config", "rope_parameters", "rope_scaling" };
    const json_t *v = json_object_get(r->json, key);
    for (int i = 0; !v && i < 3; i++) v = json_object_get(json_object_get(r->json, nests[i]), key);
    const json_t *text = json_object_get(r->json, "text_config");
    for (int i = 1; !v && i < 3; i++) v = json_object_get(json_object_get(text, nests[i]), key);
    return v ? v : json_object_get(r->gguf, key);
}

/* A key of llama.cpp and ours.  A list of them ends with NULL. */
typedef struct alias {
    const char *gguf, *key;
} alias;

/* Reads numbers and short arrays of a GGUF's metadata under our keys.  Values are text that is
 * JSON. */
static int read_gguf(reader *r, const qw_store *s, const alias *a)
{
    for (; s && a->gguf; a++) {
        const char *text = qw_store_metadata(s, a->gguf);
        json_error_t why;
        if (!text) continue;
        if (!r->gguf) r->gguf = json_object();
        json_t *v = r->gguf ? json_loads(text, JSON_DECODE_ANY, &why) : NULL;
        if (json_array_size(v) == 4) json_array_remove(v, 3); /* the fourth section is unused */
        if (!r->gguf
            || (v ? json_object_set_new(r->gguf, a->key, v) != 0
                  : json_error_code(&why) == json_error_out_of_memory))
            return qw_fail(r->err, QWEN_ENOMEM, "%s: no memory for its numbers", r->where);
    }
    return QWEN_OK;
}

static void integer(const reader *r, const char *key, int64_t *out, int64_t low, int64_t high)
{
    const json_t *v = value_of(r, key);
    if (!v || json_is_null(v)) return;
    if (!json_is_integer(v))
        qw_fail(r->err, QWEN_EFORMAT, "%s: %s is not an integer", r->where, key);
    else if (json_integer_value(v) < low || json_integer_value(v) > high)
        qw_fail(r->err, QWEN_EFORMAT, "%s: %s is %lld, expected %lld to %lld", r->where, key,
                (long long)json_integer_value(v), (long long)low, (long long)high);
    else *out = json_integer_value(v);
}

static void number(const reader *r, const char *key, double *out, double low, double high)
{
    const json_t *v = value_of(r, key);
    if (!v || json_is_null(v)) return;
    if (!json_is_number(v)) qw_fail(r->err, QWEN_EFORMAT, "%s: %s is not a number", r->where, key);
    else if (!(json_number_value(v) >= low && json_number_value(v) <= high))
        qw_fail(r->err, QWEN_EFORMAT, "%s: %s is %g, expected %g to %g", r->where, key,
                json_number_value(v), low, high);
    else *out = json_number_value(v);
}

static void flag(const reader *r, const char *key, int *out)
{
    const json_t *v = value_of(r, key);
    if (!v || json_is_null(v)) return;
    if (!json_is_boolean(v))
        qw_fail(r->err, QWEN_EFORMAT, "%s: %s is not true or false", r->where, key);
    else *out = json_is_true(v);
}

/* Reads exactly n (n > 0) or up to -n numbers; returns how many, 0 if the key is absent. */
static int numbers(const reader *r, const char *key, double *out, int n, double low, double high)
{
    const json_t *v = value_of(r, key);
    if (!v || json_is_null(v)) return 0;
    const int have = (int)json_array_size(v);
    if (!json_is_array(v) || (n > 0 ? have != n : have > -n || have < 1)) {
        qw_fail(r->err, QWEN_EFORMAT, "%s: %s is not an array of %s%d numbers", r->where, key,
                n > 0 ? "" : "1 to ", n > 0 ? n : -n);
        return 0;
    }
    for (int i = 0; i < have; i++) {
        const json_t *x = json_array_get(v, (size_t)i);
        if (!json_is_number(x) || !(json_number_value(x) >= low && json_number_value(x) <= high)) {
            qw_fail(r->err, QWEN_EFORMAT, "%s: %s[%d] is not a number of %g to %g", r->where, key,
                    i, low, high);
            return 0;
        }
        out[i] = json_number_value(x);
    }
    return have;
}

static int integers(const reader *r, const char *key, int64_t *out, int n, int64_t low,
                    int64_t high)
{
    double x[64];
    const int have = numbers(r, key, x, n, (double)low, (double)high);
    for (int i = 0; i < have; i++) {
        if (x[i] != floor(x[i]))
            qw_fail(r->err, QWEN_EFORMAT, "%s: %s[%d] is not an integer", r->where, key, i);
        out[i] = (int64_t)x[i];
    }
    return have;
}

static int64_t rows_of(const qw_store *s, const char *name, int axis)
{
    const qw_entry *e = s ? qw_store_find(s, name) : NULL;
    return e && axis < e->rank ? e->dim[axis] : 0;
}

/* Compares a number with the one that the weights show: without a key in the configuration that
 * counts, with another value there it is an error. */
static void match_shown(const reader *r, const char *key, int64_t *value, int64_t shown,
                        const char *tensor)
{
    if (!shown || r->err->status) return;
    if (!value_of(r, key)) *value = shown;
    else if (*value != shown)
        qw_fail(r->err, QWEN_EMODEL, "%s: %s is %lld, but \"%s\" shows %lld", r->where, key,
                (long long)*value, tensor, (long long)shown);
}

static int done(const reader *r) { return r->err->status; }

/* The number of layers: that of the file; it is an error if the configuration asks for more, and
 * names the first that is missing. */
static void match_layers(const reader *r, const char *key, int64_t *layers, const qw_store *s,
                         const char *prefix)
{
    const int shown = s ? qw_store_count(s, prefix) : 0;
    if (!shown || r->err->status) return;
    if (!value_of(r, key)) *layers = shown;
    else if (*layers != shown)
        qw_fail(r->err, QWEN_EMODEL,
                "%s: %s is %lld, but the weights end with \"%s%d\": \"%s%lld\" is %s", r->where,
                key, (long long)*layers, prefix, shown - 1, prefix,
                (long long)(*layers > shown ? shown : *layers),
                *layers > shown ? "missing" : "not expected");
}

enum { WIDE = 1 << 20, DEEP = 1000 };

static const alias text_keys[] = {
    { "qwen2vl.attention.head_count", "num_attention_heads" },
    { "qwen2vl.attention.head_count_kv", "num_key_value_heads" },
    { "qwen2vl.attention.layer_norm_rms_epsilon", "rms_norm_eps" },
    { "qwen2vl.rope.freq_base", "rope_theta" },
    { "qwen2vl.rope.dimension_sections", "mrope_section" },
    { NULL, NULL },
};

static int text_config(qw_text_config *c, const reader *from, const qw_store *s)
{
    const reader r = *from;
    const char *const where = r.where;
    qw_error *const err = r.err;
    int64_t section[3] = { 16, 24, 24 }, image = 151655, start = 151652, end = 151653, head = 0;
    *c = (qw_text_config){ .vocab = 152064,
                           .width = 3584,
                           .ff = 18944,
                           .layers = 28,
                           .heads = 28,
                           .kv_heads = 4,
                           .eps = 1e-6,
                           .theta = 1e6 };
    integer(&r, "vocab_size", &c->vocab, 1, 1 << 24);
    integer(&r, "hidden_size", &c->width, 1, WIDE);
    integer(&r, "intermediate_size", &c->ff, 1, WIDE);
    integer(&r, "num_hidden_layers", &c->layers, 1, DEEP);
    integer(&r, "num_attention_heads", &c->heads, 1, 4096);
    integer(&r, "num_key_value_heads", &c->kv_heads, 1, 4096);
    integer(&r, "head_dim", &head, 1, WIDE);
    number(&r, "rms_norm_eps", &c->eps, 0, 1);
    number(&r, "rope_theta", &c->theta, 1, 1e12);
    flag(&r, "tie_word_embeddings", &c->tied);
    integer(&r, "image_token_id", &image, 0, 1 << 24);
    integer(&r, "vision_start_token_id", &start, 0, 1 << 24);
    integer(&r, "vision_end_token_id", &end, 0, 1 << 24);
    const int sections = integers(&r, "mrope_section", section, 3, 0, WIDE);
    if (done(&r)) return err->status;
    match_shown(&r, "vocab_size", &c->vocab, rows_of(s, "model.embed_tokens.weight", 0),
                "model.embed_tokens.weight");
    const char *norm = rows_of(s, "model.norm.weight", 0) ? "model.norm.weight"
                                                          : "model.layers.0.input_layernorm.weight";
    match_shown(&r, "hidden_size", &c->width, rows_of(s, norm, 0), norm);
    match_shown(&r, "intermediate_size", &c->ff,
                rows_of(s, "model.layers.0.mlp.gate_proj.weight", 0),
                "model.layers.0.mlp.gate_proj.weight");
    match_layers(&r, "num_hidden_layers", &c->layers, s, "model.layers.");
    /* Without a configuration: heads of 128, as published. */
    const int64_t q = rows_of(s, "model.layers.0.self_attn.q_proj.weight", 0);
    const int64_t k = rows_of(s, "model.layers.0.self_attn.k_proj.weight", 0);
    if (!value_of(&r, "num_attention_heads") && q) c->heads = q / 128 ? q / 128 : 1;
    if (!value_of(&r, "num_key_value_heads") && k) c->kv_heads = k / 128 ? k / 128 : 1;
    c->head = head ? head : c->width / c->heads;
    if (done(&r)) return err->status;
    if (c->width % c->heads || c->heads % c->kv_heads || c->head % 2)
        return qw_fail(err, QWEN_EFORMAT,
                       "%s: num_attention_heads %lld does not fit hidden_size %lld and "
                       "num_key_value_heads %lld",
                       where, (long long)c->heads, (long long)c->width, (long long)c->kv_heads);
    if (!sections && c->head != 128) {
        section[0] = c->head / 8;
        section[1] = section[2] = c->head * 3 / 16;
    }
    if (section[0] + section[1] + section[2] != c->head / 2)
        return qw_fail(err, QWEN_EFORMAT,
                       "%s: mrope_section %lld + %lld + %lld is not half of the head size %lld",
                       where, (long long)section[0], (long long)section[1], (long long)section[2],
                       (long long)c->head);
    for (int i = 0; i < 3; i++) c->section[i] = (int)section[i];
    c->image_token = (int32_t)image;
    c->vision_start = (int32_t)start;
    c->vision_end = (int32_t)end;
    return QWEN_OK;
}

int qw_text_configure(qw_text_config *c, const json_t *json, const qw_store *s, const char *where,
                      qw_error *err)
{
    reader r = { json, where, err, NULL };
    if (!read_gguf(&r, s, text_keys)) text_config(c, &r, s);
    json_decref(r.gguf);
    return err->status;
}

static void vision_numbers(qw_vision_config *c, const reader *r, const qw_store *s)
{
    integer(r, "depth", &c->depth, 1, DEEP);
    integer(r, "hidden_size", &c->width, 1, WIDE);
    integer(r, "num_heads", &c->heads, 1, 4096);
    integer(r, "intermediate_size", &c->ff, 1, WIDE);
    integer(r, "patch_size", &c->patch, 1, 256);
    integer(r, "temporal_patch_size", &c->temporal, 1, 16);
    integer(r, "spatial_merge_size", &c->merge, 1, 16);
    integer(r, "window_size", &c->window, 1, 1 << 16);
    integer(r, "out_hidden_size", &c->out, 1, WIDE);
    integer(r, "in_channels", &c->channels, 1, 16);
    match_layers(r, "depth", &c->depth, s, "visual.blocks.");
    match_shown(r, "hidden_size", &c->width, rows_of(s, "visual.blocks.0.norm1.weight", 0),
                "visual.blocks.0.norm1.weight");
    match_shown(r, "intermediate_size", &c->ff,
                rows_of(s, "visual.blocks.0.mlp.gate_proj.weight", 0),
                "visual.blocks.0.mlp.gate_proj.weight");
    match_shown(r, "out_hidden_size", &c->out, rows_of(s, "visual.merger.mlp.2.weight", 0),
                "visual.merger.mlp.2.weight");
}

/* The blocks that attend to the whole picture: listed, every n-th by GGUF's n_wa_pattern, or as
 * published. */
static void vision_full(qw_vision_config *c, const reader *r, const qw_store *s)
{
    int64_t full[64];
    const char *pattern = s ? qw_store_metadata(s, "clip.vision.n_wa_pattern") : NULL;
    int64_t every = 8;
    if (pattern && sscanf(pattern, "%7lld", (long long *)&every) != 1) every = 8;
    if (every < 1 || every > DEEP) every = 8;
    c->fulls = integers(r, "fullatt_block_indexes", full, -64, 0, DEEP);
    for (int i = 0; i < c->fulls; i++) c->full[i] = (int)full[i];
    for (int64_t i = every - 1;
         !value_of(r, "fullatt_block_indexes") && i < c->depth && c->fulls < 64; i += every)
        c->full[c->fulls++] = (int)i;
}

/* Reads sizes, patches and colours of pictures.  Newer files have the least and most pixels in
 * `size`. */
static void vision_processor(qw_vision_config *c, const json_t *processor, qw_error *err)
{
    const reader p = { processor, "preprocessor_config.json", err, NULL };
    const reader size = { json_object_get(processor, "size"), p.where, err, NULL };
    int64_t patch = c->patch, merge = c->merge;
    integer(&size, "shortest_edge", &c->min_pixels, 1, (int64_t)1 << 40);
    integer(&size, "longest_edge", &c->max_pixels, 1, (int64_t)1 << 40);
    integer(&p, "min_pixels", &c->min_pixels, 1, (int64_t)1 << 40);
    integer(&p, "max_pixels", &c->max_pixels, 1, (int64_t)1 << 40);
    integer(&p, "patch_size", &patch, 1, 256);
    integer(&p, "merge_size", &merge, 1, 16);
    numbers(&p, "image_mean", c->mean, 3, -1e6, 1e6);
    numbers(&p, "image_std", c->std, 3, 1e-6, 1e6);
    if (err->status) return;
    if (patch != c->patch || merge != c->merge)
        qw_fail(err, QWEN_EMODEL,
                "%s: patch_size %lld and merge_size %lld are not the vision tower's %lld and %lld",
                p.where, (long long)patch, (long long)merge, (long long)c->patch,
                (long long)c->merge);
    else if (c->min_pixels > c->max_pixels)
        qw_fail(err, QWEN_EFORMAT, "%s: min_pixels %lld is more than max_pixels %lld", p.where,
                (long long)c->min_pixels, (long long)c->max_pixels);
}

static const alias vision_keys[] = {
    { "clip.vision.attention.head_count", "num_heads" },
    { "clip.vision.patch_size", "patch_size" },
    { NULL, NULL },
};

static int vision_config(qw_vision_config *c, const reader *from, const json_t *processor,
                         const qw_store *s)
{
    const reader r = *from;
    const char *const where = r.where;
    qw_error *const err = r.err;
    *c = (qw_vision_config){ .depth = 32,
                             .width = 1280,
                             .ff = 3420,
                             .heads = 16,
                             .out = 3584,
                             .patch = 14,
                             .temporal = 2,
                             .merge = 2,
                             .window = 112,
                             .channels = 3,
                             .eps = 1e-6,
                             .min_pixels = 3136,
                             .max_pixels = 12845056,
                             .mean = { 0.48145466, 0.4578275, 0.40821073 },
                             .std = { 0.26862954, 0.26130258, 0.27577711 } };
    vision_numbers(c, &r, s);
    if (!value_of(&r, "num_heads") && c->width != 1280)
        c->heads = c->width / 80 ? c->width / 80 : 1;
    vision_full(c, &r, s);
    vision_processor(c, processor, err);
    if (err->status) return err->status;
    c->head = c->width / c->heads;
    if (c->width % c->heads || c->head % 4)
        return qw_fail(err, QWEN_EFORMAT, "%s: vision num_heads %lld does not fit hidden_size %lld",
                       where, (long long)c->heads, (long long)c->width);
    if (c->window % (c->patch * c->merge))
        return qw_fail(err, QWEN_EFORMAT,
                       "%s: window_size %lld is no multiple of patch_size x spatial_merge_size "
                       "(%lld)",
                       where, (long long)c->window, (long long)(c->patch * c->merge));
    return QWEN_OK;
}

int qw_vision_configure(qw_vision_config *c, const json_t *json, const json_t *processor,
                        const qw_store *s, const char *where, qw_error *err)
{
    const json_t *nested = json_object_get(json, "vision_config");
    reader r = { nested ? nested : json_object_get(json, "depth") ? json : NULL, where, err, NULL };
    if (!read_gguf(&r, s, vision_keys)) vision_config(c, &r, processor, s);
    json_decref(r.gguf);
    return err->status;
}

/* Features of a token as the transformer reads it; 4-bit layouts keep two columns in a byte. */
static int64_t token_features(const qw_store *s)
{
    const qw_entry *e = s ? qw_store_find(s, "img_in.weight") : NULL;
    const int64_t columns = rows_of(s, "img_in.weight", 1);
    return e && (e->dtype == QW_U8 || (e->dtype == QW_I8 && columns == 32)) ? 2 * columns : columns;
}

static void dit_store(qw_dit_config *c, const reader *r, const qw_store *s)
{
    const int64_t in = token_features(s), width = rows_of(s, "img_in.weight", 0);
    if (in == 128 && rows_of(s, "transformer_blocks.0.img_mod.1.weight", 0))
        qw_fail(r->err, QWEN_EMODEL,
                "%s: img_in.weight is [%lld, 128] wide, expected 64: it belongs to another "
                "model family, as Mage Flow's does",
                r->where, (long long)width);
    match_shown(r, "in_channels", &c->in, in, "img_in.weight");
    match_shown(r, "joint_attention_dim", &c->text_width, rows_of(s, "txt_norm.weight", 0),
                "txt_norm.weight");
    match_layers(r, "num_layers", &c->layers, s, "transformer_blocks.");
    if (!value_of(r, "attention_head_dim")) {
        const int64_t head = rows_of(s, "transformer_blocks.0.attn.norm_q.weight", 0);
        if (head) c->head = head;
    }
    if (!value_of(r, "num_attention_heads") && width) c->heads = width / c->head;
    /* These tensors decide even against the configuration, which may be that of another variant. */
    if (s && qw_store_find(s, "__index_timestep_zero__")) c->zero_cond_t = 1;
    if (s && qw_store_find(s, "time_text_embed.addition_t_embedding.weight"))
        c->additional_t = c->layer3d = 1;
}

int qw_dit_configure(qw_dit_config *c, const json_t *json, const qw_store *s, const char *where,
                     qw_error *err)
{
    const reader r = { json, where, err, NULL };
    int guidance = 0;
    *c = (qw_dit_config){ .layers = 60,
                          .heads = 24,
                          .head = 128,
                          .text_width = 3584,
                          .in = 64,
                          .out = 16,
                          .patch = 2,
                          .axes = { 16, 56, 56 } };
    integer(&r, "num_layers", &c->layers, 1, DEEP);
    integer(&r, "num_attention_heads", &c->heads, 1, 4096);
    integer(&r, "attention_head_dim", &c->head, 2, 4096);
    integer(&r, "joint_attention_dim", &c->text_width, 1, WIDE);
    integer(&r, "in_channels", &c->in, 1, 4096);
    integer(&r, "out_channels", &c->out, 1, 1024);
    integer(&r, "patch_size", &c->patch, 1, 16);
    const int axes = integers(&r, "axes_dims_rope", c->axes, 3, 0, 4096);
    flag(&r, "zero_cond_t", &c->zero_cond_t);
    flag(&r, "use_additional_t_cond", &c->additional_t);
    flag(&r, "use_layer3d_rope", &c->layer3d);
    flag(&r, "guidance_embeds", &guidance);
    if (done(&r)) return err->status;
    if (guidance)
        return qw_fail(err, QWEN_EUNSUPPORTED,
                       "%s: guidance_embeds is true; no checkpoint of this family has a "
                       "guidance embedding",
                       where);
    dit_store(c, &r, s);
    if (done(&r)) return err->status;
    if (!axes && c->head != 128) { /* as the published split, 1/8 and twice 7/16, in even numbers */
        c->axes[0] = c->head / 16 * 2;
        if ((c->head - c->axes[0]) % 4) c->axes[0] += 2;
        c->axes[1] = c->axes[2] = (c->head - c->axes[0]) / 2;
    }
    c->width = c->heads * c->head;
    if (c->axes[0] + c->axes[1] + c->axes[2] != c->head || c->axes[0] % 2 || c->axes[1] % 2
        || c->axes[2] % 2)
        return qw_fail(err, QWEN_EFORMAT,
                       "%s: axes_dims_rope %lld + %lld + %lld are not even numbers that sum to the "
                       "head size %lld",
                       where, (long long)c->axes[0], (long long)c->axes[1], (long long)c->axes[2],
                       (long long)c->head);
    if (c->patch != 2 || c->in != c->out * 4)
        return qw_fail(err, QWEN_EUNSUPPORTED,
                       "%s: patch_size %lld, in_channels %lld, out_channels %lld; expected "
                       "patches of 2 and in_channels 4 x out_channels",
                       where, (long long)c->patch, (long long)c->in, (long long)c->out);
    const int64_t shown = rows_of(s, "img_in.weight", 0);
    if (shown && shown != c->width)
        return qw_fail(
            err, QWEN_EMODEL,
            "%s: num_attention_heads %lld x attention_head_dim %lld is not the width %lld "
            "of \"img_in.weight\"",
            where, (long long)c->heads, (long long)c->head, (long long)shown);
    return QWEN_OK;
}

int qw_vae_configure(qw_vae_config *c, const json_t *json, const qw_store *s, const char *where,
                     qw_error *err)
{
    static const double mean[16] = { -0.7571, -0.7089, -0.9113, 0.1075,  -0.1745, 0.9653,
                                     -0.1517, 1.5508,  0.4134,  -0.0715, 0.5517,  -0.3632,
                                     -0.1922, -0.9497, 0.2503,  -0.2921 };
    static const double std[16] = {
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160
    };
    const reader r = { json, where, err, NULL };
    *c = (qw_vae_config){
        .base = 96, .z = 16, .mult = { 1, 2, 4, 4 }, .levels = 4, .res_blocks = 2, .channels = 3
    };
    integer(&r, "base_dim", &c->base, 1, 4096);
    integer(&r, "z_dim", &c->z, 1, 64);
    integer(&r, "num_res_blocks", &c->res_blocks, 1, 16);
    integer(&r, "input_channels", &c->channels, 1, 4);
    const int levels = integers(&r, "dim_mult", c->mult, -8, 1, 64);
    if (levels) c->levels = levels;
    match_shown(&r, "z_dim", &c->z, rows_of(s, "post_quant_conv.weight", 0),
                "post_quant_conv.weight");
    match_shown(&r, "base_dim", &c->base, rows_of(s, "decoder.norm_out.gamma", 0),
                "decoder.norm_out.gamma");
    match_shown(&r, "input_channels", &c->channels, rows_of(s, "encoder.conv_in.weight", 1),
                "encoder.conv_in.weight");
    if (s && !value_of(&r, "num_res_blocks")) {
        const int shown = qw_store_count(s, "decoder.up_blocks.0.resnets.");
        if (shown > 1) c->res_blocks = shown - 1;
    }
    if (done(&r)) return err->status;
    if (c->levels != 4)
        return qw_fail(err, QWEN_EUNSUPPORTED,
                       "%s: dim_mult has %lld levels, expected 4 (a reduction by 8)", where,
                       (long long)c->levels);
    if (c->channels < 3)
        return qw_fail(err, QWEN_EUNSUPPORTED, "%s: input_channels is %lld, expected 3 or 4", where,
                       (long long)c->channels);
    for (int i = 0; i < 64; i++) {
        c->mean[i] = i < 16 && c->z == 16 ? mean[i] : 0;
        c->std[i] = i < 16 && c->z == 16 ? std[i] : 1;
    }
    numbers(&r, "latents_mean", c->mean, (int)c->z, -1e6, 1e6);
    numbers(&r, "latents_std", c->std, (int)c->z, 1e-6, 1e6);
    return done(&r);
}

int qw_schedule_configure(qw_schedule_config *c, const json_t *json, const char *where,
                          qw_error *err)
{
    static const char *const refused[] = { "use_karras_sigmas", "use_exponential_sigmas",
                                           "use_beta_sigmas", "invert_sigmas",
                                           "stochastic_sampling" };
    const reader r = { json, where, err, NULL };
    if (!json) { /* no file: the published numbers */
        *c = (qw_schedule_config){ .shift = 1,
                                   .base_shift = 0.5,
                                   .max_shift = 0.9,
                                   .terminal = 0.02,
                                   .base_len = 256,
                                   .max_len = 8192,
                                   .train_steps = 1000,
                                   .dynamic = 1 };
        return QWEN_OK;
    }
    *c = (qw_schedule_config){ .shift = 1,
                               .base_shift = 0.5,
                               .max_shift = 1.15,
                               .base_len = 256,
                               .max_len = 4096,
                               .train_steps = 1000 };
    number(&r, "shift", &c->shift, 1e-6, 1e6);
    number(&r, "base_shift", &c->base_shift, -100, 100);
    number(&r, "max_shift", &c->max_shift, -100, 100);
    number(&r, "shift_terminal", &c->terminal, 0, 0.999);
    integer(&r, "base_image_seq_len", &c->base_len, 1, (int64_t)1 << 32);
    integer(&r, "max_image_seq_len", &c->max_len, 1, (int64_t)1 << 32);
    integer(&r, "num_train_timesteps", &c->train_steps, 1, 1 << 20);
    flag(&r, "use_dynamic_shifting", &c->dynamic);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        int on = 0;
        flag(&r, refused[i], &on);
        if (on && !done(&r))
            return qw_fail(err, QWEN_EUNSUPPORTED, "%s: %s is true, which is not supported", where,
                           refused[i]);
    }
    const json_t *type = value_of(&r, "time_shift_type");
    const char *name = json_string_value(type);
    if (type && !json_is_null(type)
        && (!name || (strcmp(name, "linear") && strcmp(name, "exponential"))))
        qw_fail(err, QWEN_EUNSUPPORTED,
                "%s: time_shift_type is \"%s\", expected exponential or linear", where,
                name ? name : "no string");
    c->linear = name && !strcmp(name, "linear");
    if (!done(&r) && c->base_len >= c->max_len)
        qw_fail(err, QWEN_EFORMAT,
                "%s: base_image_seq_len %lld is not below max_image_seq_len %lld", where,
                (long long)c->base_len, (long long)c->max_len);
    return done(&r);
}
