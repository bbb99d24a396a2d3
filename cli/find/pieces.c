/* pieces.c - the kind of a file by its tensors, and the piece that fits a transformer.
 *
 * Names and shapes of tensors decide, never the file's name: a text encoder has biases on its keys,
 * no norms of them, and the width that the transformer reads; a VAE has the transformer's latent
 * channels and no group norms.  doc/names.md, rules F, has the order of those that fit; rank_of
 * packs it into bits. */
#include "find/catalog.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --- contents --------------------------------------------------------------------------------- */

typedef struct signs {
    int norm, blocks, control, bias, key_norm, decoder, gamma;
} signs;

static void look_at(const qwen_file_tensor *t, contents *c, signs *s)
{
    const char *n = t->name;
    if (ends_with(n, "txt_norm.weight") && t->rank == 1) {
        s->norm = 1;
        c->text_in = t->dim[0];
    } else if (strstr(n, "transformer_blocks.0.img_mod.")) {
        s->blocks = 1;
    } else if (ends_with(n, "addition_t_embedding.weight")) {
        c->layered = 1;
    } else if (ends_with(n, "proj_out.bias") && !strstr(n, "coder.") && t->rank == 1) {
        c->latents = t->dim[0] / 4; /* a token is 2 x 2 points */
    } else if (ends_with(n, "controlnet_x_embedder.weight")
               || ends_with(n, "controlnet_blocks.0.x_rms.weight")
               || ends_with(n, "control_img_in.weight")) {
        s->control = 1;
    } else if (ends_with(n, "layers.0.self_attn.k_proj.bias") || !strcmp(n, "blk.0.attn_k.bias")) {
        s->bias = 1;
    } else if (ends_with(n, "self_attn.q_norm.weight") || ends_with(n, "attn_q_norm.weight")) {
        s->key_norm = 1;
    } else if ((ends_with(n, "layers.0.input_layernorm.weight")
                || !strcmp(n, "blk.0.attn_norm.weight"))
               && t->rank == 1) {
        c->text_out = t->dim[0];
    } else if (strstr(n, "visual.blocks.0.") || !strncmp(n, "v.blk.0.", 8)) {
        c->vision = 1;
    } else if ((ends_with(n, "decoder.conv1.weight") || ends_with(n, "decoder.conv_in.weight"))
               && t->rank >= 2) {
        s->decoder = 1;
        c->vae_latents = t->dim[1];
    } else if ((ends_with(n, "decoder.head.2.bias") || ends_with(n, "decoder.conv_out.bias"))
               && t->rank == 1) {
        c->channels = t->dim[0];
    } else if (strstr(n, "decoder.") && ends_with(n, ".gamma")) {
        s->gamma = 1;
    }
}

void look_inside(const char *path, contents *c)
{
    qwen_file *f = NULL;
    qwen_file_tensor t;
    signs s = { 0 };
    *c = (contents){ .latents = 16 }; /* as published */
    c->readable = !qwen_file_open(&f, path);
    for (int64_t i = 0; c->readable && i < qwen_file_count(f); i++)
        if (!qwen_file_tensor_at(f, i, &t)) look_at(&t, c, &s);
    c->transformer = s.norm && s.blocks && !s.control;
    c->text = s.bias && !s.key_norm && c->text_out;
    c->vae = s.decoder && s.gamma;
    qwen_file_close(f);
}

/* --- options and what they take --------------------------------------------------------------- */

const file_option file_options[FILE_OPTIONS] = {
    [MODEL] = { "model", "model", { "diffusers", "diffusion_models" }, NULL, { NULL } },
    [TRANSFORMER] = { "transformer",
                      "transformer",
                      { "diffusion_models", "diffusers" },
                      "transformer",
                      { NULL } },
    [TEXT_ENCODER] = { "text-encoder",
                       "text encoder",
                       { "text_encoders", "diffusers" },
                       "text_encoder",
                       { "qwen", "vl" } },
    [VISION] = { "vision",
                 "vision tower",
                 { "text_encoders", "diffusers" },
                 "text_encoder",
                 { NULL } },
    [VAE] = { "vae", "VAE", { "vae", "diffusers" }, "vae", { "qwen" } },
    [CONTROLNET] = { "controlnet",
                     "ControlNet",
                     { "controlnet", "model_patches", "diffusers" },
                     "controlnet",
                     { NULL } },
    [LORA] = { "lora", "LoRA", { "loras" }, NULL, { NULL } },
    [TOKENIZER] = { "tokenizer", "tokenizer", { "diffusers" }, "tokenizer", { NULL } },
};

static int in_folders(const model_entry *e, const file_option *w)
{
    for (int i = 0; i < 4 && w->folders[i]; i++)
        if (!strcmp(e->folder, w->folders[i])) return 1;
    return 0;
}

/* By tensors; a file whose tensors do not decide is judged by its folder. */
int entry_kind(const model_entry *e)
{
    contents c;
    if (!strcmp(e->folder, "diffusers")) return MODEL;
    look_inside(e->path, &c);
    const int kind = c.transformer && (c.text || c.vae) ? MODEL
                     : c.transformer                    ? TRANSFORMER
                     : c.text                           ? TEXT_ENCODER
                     : c.vae                            ? VAE
                     : c.vision                         ? VISION
                                                        : FILE_OPTIONS;
    for (int i = 0; kind == FILE_OPTIONS && i < FILE_OPTIONS; i++)
        if (in_folders(e, &file_options[i])) return i;
    return kind;
}

/* Nonzero: the tensors of a file of no type, or of one all-in-one file, can serve the option.  An
 * unreadable file can (not strictly), and fails when it is opened. */
static int holds(const model_entry *e, int option, int strictly)
{
    contents c;
    look_inside(e->path, &c);
    if (!c.readable) return !strictly;
    switch (option) {
    case MODEL:
    case TRANSFORMER: return c.transformer;
    case TEXT_ENCODER: return c.text;
    case VISION: return c.vision;
    case VAE: return c.vae;
    case TOKENIZER: return 0;
    default: return !c.transformer && !c.text && !c.vae && !c.vision;
    }
}

int entry_serves(const model_entry *e, const char *option, int strictly)
{
    int i = 0;
    while (i < FILE_OPTIONS && strcmp(file_options[i].option, option)) i++;
    const int directory = !strcmp(e->folder, "diffusers");
    if (i == FILE_OPTIONS || (strictly && directory && i != MODEL && i != TOKENIZER)) return 0;
    if (in_folders(e, &file_options[i]))
        return !strictly || strcmp(e->folder, "text_encoders") || holds(e, i, 1);
    if (!strcmp(e->folder, "checkpoints")) return strictly ? i == MODEL : holds(e, i, 0);
    return !*e->folder && holds(e, i, strictly);
}

/* --- directories ------------------------------------------------------------------------------ */

/* The path of the only GGUF file of a directory without other weights, mmproj aside; of a set its
 * first shard.  malloc'ed, or NULL. */
static char *only_gguf(const char *directory)
{
    listing l;
    const char *one = NULL;
    int others = 0;
    if (listing_make(&l, directory)) return NULL;
    for (size_t i = 0; i < l.n; i++) {
        const char *name = l.name[i];
        const int gguf = is_gguf(name);
        int shard = 0, shards;
        if (!is_model_file(name) || (gguf && name_has_word(name, "mmproj"))) continue;
        if (gguf && name_shard(name, &shard, &shards) && shard > 1)
            continue; /* the first shard stands for the set */
        others += !gguf || one;
        one = gguf && !one ? name : one;
    }
    char *path = one && !others ? path_join(directory, one) : NULL;
    listing_free(&l);
    return path;
}

int piece_inside(char **path, const char *component)
{
    if (!path_is_directory(*path)) return CODE_DONE;
    char *inside = component ? path_join(*path, component) : NULL;
    if (component && !inside) return no_memory();
    if (!inside || !path_is_directory(inside)) {
        free(inside);
        inside = only_gguf(*path);
    }
    if (inside) {
        free(*path);
        *path = inside;
    }
    return CODE_DONE;
}

/* --- a piece that fits ------------------------------------------------------------------------ */

/* The path of the piece in an entry: in a model directory its component.  malloc'ed, or NULL. */
static char *path_of(const model_entry *e, const file_option *k)
{
    return strcmp(e->folder, "diffusers") ? format_text("%s", e->path)
                                          : path_join(e->path, k->component);
}

/* 0: it does not fit; 2 fits better than 1.  A language model in safetensors without a vision tower
 * is Qwen2, unless a configuration beside it says otherwise. */
static int fitness(const contents *c, int piece, const contents *transformer, const char *path)
{
    if (piece == TEXT_ENCODER)
        return !c->text || c->text_out != transformer->text_in ? 0
               : c->vision || is_gguf(path)                    ? 2
                                                               : 1;
    if (!c->vae || c->vae_latents != transformer->latents) return 0;
    if (transformer->layered) return c->channels == 4 ? 2 : 0;
    return c->channels == 3 ? 2 : c->channels == 12;
}

static int rank_of(const model_entry *e, const file_option *k, const contents *c, int fit,
                   int place)
{
    const int tower = k == &file_options[TEXT_ENCODER] && c->vision;
    const int alone = !c->transformer && strcmp(e->folder, "diffusers");
    const int says = name_has_word(e->name, k->words[0])
                     && (!k->words[1] || name_has_word(e->name, k->words[1]));
    return fit << 5 | (place && e->place == place) << 4 | tower << 3 | says << 2
           | (!strcmp(e->folder, k->folders[0]) ? 2 : alone);
}

static int may_hold(const model_entry *e, int place)
{
    return (!e->shadowed || e->place == place) && strcmp(e->folder, "loras")
           && strcmp(e->folder, "controlnet") && strcmp(e->folder, "model_patches");
}

int find_piece(const catalog *c, const settings *s, int piece, const contents *transformer,
               int place, char **path)
{
    const file_option *k = &file_options[piece];
    const model_entry *best = NULL;
    int best_rank = 0, n[3] = { 0 };
    *path = NULL;
    for (size_t i = 0; i < c->n; i++) {
        const model_entry *e = &c->entry[i];
        contents inside;
        char *at = may_hold(e, place) ? path_of(e, k) : NULL;
        if (!at) continue;
        look_inside(at, &inside);
        const int fit = fitness(&inside, piece, transformer, at);
        const int rank = fit ? rank_of(e, k, &inside, fit, place) : 0;
        n[fit] += !*path || !same_file(at, *path);
        if (rank > best_rank) {
            free(*path);
            *path = at;
            at = NULL;
            best = e;
            best_rank = rank;
        }
        free(at);
    }
    if (!best) {
        notice(s, "%s: none in the file, and none was found that fits; --%s PATH gives one",
               k->what, k->option);
        return CODE_DONE;
    }
    const int others = n[best_rank >> 5] > 1;
    notice(s, "%s: %s (%s)%s%s%s", k->what, best->name, *path,
           piece == VAE && best_rank >> 5 == 1
               ? ", which draws at twice the size; no plain one was found"
               : "",
           others ? "; others fit too, choose with --" : "", others ? k->option : "");
    return CODE_DONE;
}
