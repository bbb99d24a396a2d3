/* names.c - what a file is, from its keys, and the canonical name of every tensor.
 *
 * The keys decide, never the file's name.  Each kind has signatures (a key that only it has); a
 * signature is looked for under every prefix that is out there, and the prefix where it is found is
 * taken off.  Then dialects are undone: GGUF's names of language model and vision tower, Wan's
 * names of the VAE, the new names of transformers. */
#include "files/lora.h"
#include "files/files.h"
#include <stdlib.h>
#include <string.h>

const char *qw_kind_name(qw_kind k)
{
    static const char *const names[] = { "unknown",
                                         "transformer",
                                         "text encoder",
                                         "vision tower",
                                         "VAE",
                                         "all-in-one checkpoint",
                                         "LoRA",
                                         "ControlNet",
                                         "blockwise ControlNet",
                                         "Fun ControlNet",
                                         "Qwen-Image-2.1",
                                         "dump" };
    return (size_t)k < sizeof names / sizeof *names ? names[k] : names[0];
}

const char *qw_kind_article(qw_kind k)
{
    return k == QW_KIND_CHECKPOINT || k == QW_KIND_UNKNOWN ? "an" : "a";
}

/* --- prefixes ------------------------------------------------------------------------------ */

/* Of transformers, VAEs and ControlNets; "" last, so that a longer one is not missed. */
static const char *const prefixes[] = { "model.diffusion_model.", "model.model.", "net.",
                                        "diffusion_model.",       "transformer.", "vae.",
                                        "first_stage_model.",     "model.",       "" };
enum { PREFIXES = sizeof prefixes / sizeof *prefixes };

static const qw_entry *find2(const qw_store *s, const char *prefix, const char *name)
{
    char key[256];
    snprintf(key, sizeof key, "%s%s", prefix, name);
    return qw_store_find(s, key);
}

/* The prefix under which every one of the names (ending with NULL) is there, or NULL. */
static const char *prefix_of(const qw_store *s, const char *const *names)
{
    for (int p = 0; p < PREFIXES; p++) {
        int all = 1;
        for (const char *const *n = names; *n && all; n++) all = find2(s, prefixes[p], *n) != NULL;
        if (all) return prefixes[p];
    }
    return NULL;
}

/* "text_encoders.<any>.transformer." or the like at the head of a key, as its length, else 0. */
static size_t text_prefix(const char *name)
{
    if (!qw_starts_with(name, "text_encoders.")) return 0;
    const char *at = strstr(name, ".transformer.");
    return at ? (size_t)(at - name) + strlen(".transformer.") : 0;
}

/* Keeps the entries with the prefix and takes it off; entries of other components leave the
 * store. */
static int keep_prefix(qw_store *s, const char *prefix, int all, qw_error *err)
{
    const size_t n = strlen(prefix);
    int64_t kept = 0;
    int status = QWEN_OK;
    for (int64_t i = 0; i < s->entries; i++) {
        qw_entry e = s->entry[i];
        if (n && !qw_starts_with(e.name, prefix) && !all) {
            if (e.name != e.key) free(e.name);
            free((char *)(uintptr_t)e.key);
            continue;
        }
        if (n && !status && qw_starts_with(e.name, prefix))
            status = qw_store_rename(s, &e, e.name + n, err);
        s->entry[kept++] = e;
    }
    s->entries = kept;
    return status;
}

static int keep_text(qw_store *s, qw_error *err)
{
    for (int64_t i = 0; i < s->entries; i++) {
        const size_t n = text_prefix(s->entry[i].name);
        if (!n) continue;
        char *prefix = strndup(s->entry[i].name, n);
        if (!prefix) return qw_fail(err, QWEN_ENOMEM, "no memory for a prefix");
        const int status = keep_prefix(s, prefix, 0, err);
        free(prefix);
        return status;
    }
    return QWEN_OK;
}

/* --- what it is ---------------------------------------------------------------------------- */

static int is_checkpoint(const qw_store *s)
{
    const int transformer = qw_store_prefixed(s, "model.diffusion_model.") > 0;
    const int text = qw_store_prefixed(s, "text_encoders.") > 0;
    const int vae = qw_store_prefixed(s, "vae.") > 0
                    || qw_store_prefixed(s, "first_stage_model.") > 0;
    return transformer + text + vae > 1;
}

static int is_lora(const qw_store *s)
{
    int64_t n = 0;
    size_t base;
    qw_role role;
    for (int64_t i = 0; i < s->entries; i++) n += qw_lora_key(s->entry[i].name, &base, &role);
    return s->entries > 0 && 2 * n > s->entries;
}

static int ends_anywhere(const qw_store *s, const char *end)
{
    for (int64_t i = 0; i < s->entries; i++)
        if (qw_ends_with(s->entry[i].name, end)) return 1;
    return 0;
}

static const char *architecture(const qw_store *s)
{
    const char *a = qw_store_metadata(s, "general.architecture");
    return a ? a : "";
}

/* Layouts of other quantisers, which keep several tensors for a weight under their own names. */
static const char *foreign_layout(const qw_store *s)
{
    static const struct {
        const char *end, *what;
    } layouts[] = {
        { ".wscales", "SVDQuant (Nunchaku)" },
        { ".weight.quant_state.bitsandbytes__nf4", "bitsandbytes NF4" },
        { ".weight.quant_state.bitsandbytes__fp4", "bitsandbytes FP4" },
        { ".weight.absmax", "bitsandbytes" },
        { ".SCB", "bitsandbytes LLM.int8()" },
        { ".qzeros", "AWQ or GPTQ" },
    };
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        if (ends_anywhere(s, layouts[i].end)) return layouts[i].what;
    return NULL;
}

/* A model of another family, by a piece of a name that only it has. */
static const char *foreign_family(const qw_store *s)
{
    static const struct {
        const char *piece, *what;
    } families[] = {
        { "double_blocks.0.img_", "Flux or HunyuanVideo" },
        { "joint_blocks.0.", "Stable Diffusion 3" },
        { "input_blocks.0.0.", "Stable Diffusion or SDXL" },
        { "noise_refiner.0.", "Lumina or Z-Image" },
        { "blocks.0.cross_attn.norm_k.", "Wan" },
    };
    for (size_t f = 0; f < sizeof families / sizeof *families; f++)
        for (int64_t i = 0; i < s->entries; i++)
            if (strstr(s->entry[i].name, families[f].piece)) return families[f].what;
    return NULL;
}

/* Each kind's signatures, tested in this order (spec of the family: the first match decides). */
static const struct {
    qw_kind kind;
    const char *names[3];
} signatures[] = {
    { QW_KIND_QWEN21, { "txt_in.text_norm.weight" } },
    { QW_KIND_QWEN21, { "modulation.1.weight" } },
    { QW_KIND_FUN, { "control_img_in.weight", "control_blocks.0.after_proj.weight" } },
    { QW_KIND_BLOCKWISE, { "controlnet_blocks.0.x_rms.weight" } },
    { QW_KIND_CONTROLNET, { "controlnet_x_embedder.weight" } },
    { QW_KIND_TRANSFORMER, { "txt_norm.weight", "transformer_blocks.0.img_mod.1.weight" } },
    { QW_KIND_VAE, { "decoder.mid_block.resnets.0.norm1.gamma" } },
    { QW_KIND_VAE, { "decoder.middle.0.residual.0.gamma" } },
};

/* Inputs of the decoder's first convolution: 16 for this family, 48 Wan 2.2, 64 Qwen-Image-2.1. */
static int64_t latent_channels(const qw_store *s)
{
    static const char *const names[] = { "decoder.conv_in.weight", "decoder.conv1.weight" };
    for (int i = 0; i < 2; i++)
        for (int p = 0; p < PREFIXES; p++) {
            const qw_entry *e = find2(s, prefixes[p], names[i]);
            if (e && e->rank >= 4) return e->dim[1];
        }
    return 0;
}

static qw_kind detect(const qw_store *s, const char **prefix)
{
    *prefix = "";
    if (is_lora(s)) return QW_KIND_LORA;
    if (is_checkpoint(s)) return QW_KIND_CHECKPOINT;
    if (latent_channels(s) == 64 || ends_anywhere(s, ".self_attn.q_norm.weight")
        || ends_anywhere(s, ".attn_q_norm.weight"))
        return QW_KIND_QWEN21;
    for (size_t i = 0; i < sizeof signatures / sizeof *signatures; i++) {
        const char *found = prefix_of(s, signatures[i].names);
        if (!found) continue;
        *prefix = found;
        return signatures[i].kind;
    }
    if (qw_store_find(s, "v.blk.0.ln1.weight") || !strcmp(architecture(s), "clip"))
        return QW_KIND_VISION;
    if (ends_anywhere(s, ".self_attn.k_proj.bias") || qw_store_find(s, "blk.0.attn_k.bias"))
        return QW_KIND_TEXT;
    if (qw_store_find(s, "visual.patch_embed.proj.weight")
        || qw_store_find(s, "model.visual.patch_embed.proj.weight"))
        return QW_KIND_VISION;
    if (qw_store_find(s, "noise") || qw_store_find(s, "text.embeds")
        || qw_store_find(s, "latents.0"))
        return QW_KIND_DUMP;
    return QW_KIND_UNKNOWN;
}

/* Something that is nearly what it should be, or known and not of this family: the reason it is
 * refused. */
static int refuse(const qw_store *s, qw_kind kind, qw_kind part, qw_error *err)
{
    const char *path = qw_store_path(s, 0), *foreign = foreign_layout(s);
    static const char *const nothing[] = { "txt_norm.weight", NULL };
    if (foreign)
        return qw_fail(err, QWEN_EUNSUPPORTED, "%s is quantised as %s, which is not supported",
                       path, foreign);
    if (kind == QW_KIND_UNKNOWN || kind == QW_KIND_CHECKPOINT) foreign = foreign_family(s);
    if (foreign)
        return qw_fail(err, QWEN_EUNSUPPORTED, "%s is a model of another family: %s", path,
                       foreign);
    if (kind == QW_KIND_QWEN21)
        return qw_fail(err, QWEN_EUNSUPPORTED,
                       "%s belongs to Qwen-Image-2.1, another generation of the model, which "
                       "is not supported",
                       path);
    if (latent_channels(s) == 48
        || ends_anywhere(s, "decoder.upsamples.0.upsamples.0.residual.2.weight"))
        return qw_fail(err, QWEN_EUNSUPPORTED,
                       "%s is the VAE of Wan 2.2 (48 latent channels), expected 16", path);
    if (kind == QW_KIND_VAE && latent_channels(s) != 16)
        return qw_fail(err, QWEN_EUNSUPPORTED, "%s is a VAE with %lld latent channels, expected 16",
                       path, (long long)latent_channels(s));
    const char *arch = architecture(s);
    char shown[80];
    qw_visible(shown, sizeof shown, arch);
    if (kind == QW_KIND_TEXT && *arch && strcmp(arch, "qwen2vl") && strcmp(arch, "pig"))
        return qw_fail(err, QWEN_EUNSUPPORTED,
                       "%s has the architecture \"%s\", expected \"qwen2vl\": a language "
                       "model that was not trained with pictures",
                       path, shown);
    if (kind != QW_KIND_UNKNOWN) return QWEN_OK;
    if (prefix_of(s, nothing) || ends_anywhere(s, "img_in.weight")
        || ends_anywhere(s, "proj_out.weight"))
        return qw_fail(err, QWEN_EMODEL,
                       "%s is no whole transformer: \"transformer_blocks.0.img_mod.1.weight\" or "
                       "\"txt_norm.weight\" is missing",
                       path);
    if (ends_anywhere(s, "decoder.conv_in.weight") || ends_anywhere(s, "decoder.conv1.weight"))
        return qw_fail(err, QWEN_EUNSUPPORTED,
                       "%s is the VAE of another family: it has no channel norm (gamma)", path);
    if (ends_anywhere(s, ".self_attn.k_proj.weight") || qw_store_find(s, "blk.0.attn_k.weight"))
        return qw_fail(err, QWEN_EUNSUPPORTED,
                       "%s is a language model without biases in its attention, not "
                       "Qwen2.5-VL",
                       path);
    const char *first = s->entries ? s->entry[0].key : "none";
    if (part == QW_KIND_UNKNOWN && *arch)
        return qw_fail(err, QWEN_EMODEL,
                       "%s is of no model of this family: its architecture is \"%s\"", path, shown);
    return part == QW_KIND_UNKNOWN
               ? QWEN_OK
               : qw_fail(err, QWEN_EMODEL,
                         "%s is no %s: it has none of its tensors (the first is \"%s\")%s%s", path,
                         qw_kind_name(part), first, *arch ? "; its architecture is " : "", shown);
}

/* --- dialects ------------------------------------------------------------------------------ */

typedef struct pair {
    const char *from, *to;
} pair;

/* One line of a table: `from` at `name` becomes `to` in out; both may hold one "{}" for a
 * number. */
static int translate(const char *name, const pair *table, size_t n, char *out, size_t size)
{
    for (size_t i = 0; i < n; i++) {
        const char *hole = strstr(table[i].from, "{}"), *target = strstr(table[i].to, "{}");
        if (!hole) {
            if (strcmp(name, table[i].from)) continue;
            snprintf(out, size, "%s", table[i].to);
            return 1;
        }
        const size_t head = (size_t)(hole - table[i].from);
        if (strncmp(name, table[i].from, head)) continue;
        const size_t digits = strspn(name + head, "0123456789");
        if (!digits || digits > 5 || strcmp(name + head + digits, hole + 2)) continue;
        snprintf(out, size, "%.*s%.*s%s", (int)(target - table[i].to), table[i].to, (int)digits,
                 name + head, target + 2);
        return 1;
    }
    return 0;
}

static const pair gguf_text[] = {
    { "token_embd.", "model.embed_tokens." },
    { "output_norm.", "model.norm." },
    { "output.", "lm_head." },
    { "blk.{}.attn_norm.", "model.layers.{}.input_layernorm." },
    { "blk.{}.attn_q.", "model.layers.{}.self_attn.q_proj." },
    { "blk.{}.attn_k.", "model.layers.{}.self_attn.k_proj." },
    { "blk.{}.attn_v.", "model.layers.{}.self_attn.v_proj." },
    { "blk.{}.attn_output.", "model.layers.{}.self_attn.o_proj." },
    { "blk.{}.ffn_norm.", "model.layers.{}.post_attention_layernorm." },
    { "blk.{}.ffn_gate.", "model.layers.{}.mlp.gate_proj." },
    { "blk.{}.ffn_up.", "model.layers.{}.mlp.up_proj." },
    { "blk.{}.ffn_down.", "model.layers.{}.mlp.down_proj." },
};
static const pair gguf_vision[] = {
    { "v.patch_embd.", "visual.patch_embed.proj." },
    { "v.post_ln.", "visual.merger.ln_q." },
    { "mm.0.", "visual.merger.mlp.0." },
    { "mm.2.", "visual.merger.mlp.2." },
    { "v.blk.{}.ln1.", "visual.blocks.{}.norm1." },
    { "v.blk.{}.ln2.", "visual.blocks.{}.norm2." },
    { "v.blk.{}.attn_qkv.", "visual.blocks.{}.attn.qkv." },
    { "v.blk.{}.attn_q.", "visual.blocks.{}.attn.q." },
    { "v.blk.{}.attn_k.", "visual.blocks.{}.attn.k." },
    { "v.blk.{}.attn_v.", "visual.blocks.{}.attn.v." },
    { "v.blk.{}.attn_out.", "visual.blocks.{}.attn.proj." },
    { "v.blk.{}.ffn_gate.", "visual.blocks.{}.mlp.gate_proj." },
    { "v.blk.{}.ffn_up.", "visual.blocks.{}.mlp.up_proj." },
    { "v.blk.{}.ffn_down.", "visual.blocks.{}.mlp.down_proj." },
};

/* Splits "<module>.weight" at its last dot so that the tables speak of modules only. */
static int translate_module(const char *name, const pair *table, size_t n, char *out, size_t size)
{
    char module[256];
    const char *leaf = qw_ends_with(name, ".weight") ? "weight"
                       : qw_ends_with(name, ".bias") ? "bias"
                                                     : NULL;
    if (!leaf || strlen(name) >= sizeof module) return 0;
    snprintf(module, sizeof module, "%.*s", (int)(strlen(name) - strlen(leaf)), name);
    if (!translate(module, table, n, out, size)) return 0;
    const size_t used = strlen(out);
    snprintf(out + used, size - used, "%s", leaf);
    return 1;
}

static int text_name(const char *name, char *out, size_t size)
{
    if (!strcmp(name, "v.patch_embd.weight.1")) {
        snprintf(out, size, "visual.patch_embed.proj.weight.1");
        return 1;
    }
    if (qw_starts_with(name, "model.language_model.")) {
        snprintf(out, size, "model.%s", name + strlen("model.language_model."));
        return 1;
    }
    if (qw_starts_with(name, "model.visual.")) {
        snprintf(out, size, "visual.%s", name + strlen("model.visual."));
        return 1;
    }
    return translate_module(name, gguf_text, sizeof gguf_text / sizeof *gguf_text, out, size)
           || translate_module(name, gguf_vision, sizeof gguf_vision / sizeof *gguf_vision, out,
                               size);
}

/* Wan's flat lists: "downsamples.k" is "down_blocks.k", "upsamples.k" depends on R residual blocks
 * a level. */
static int wan_leaf(const char *rest, char *out, size_t size)
{
    static const pair leaves[] = {
        { "residual.0.gamma", "norm1.gamma" },         { "residual.3.gamma", "norm2.gamma" },
        { "residual.2.weight", "conv1.weight" },       { "residual.2.bias", "conv1.bias" },
        { "residual.6.weight", "conv2.weight" },       { "residual.6.bias", "conv2.bias" },
        { "shortcut.weight", "conv_shortcut.weight" }, { "shortcut.bias", "conv_shortcut.bias" },
    };
    if (translate(rest, leaves, sizeof leaves / sizeof *leaves, out, size)) return 1;
    snprintf(out, size, "%s", rest);
    return 1;
}

static int wan_name(const char *name, int per_level, char *out, size_t size)
{
    static const pair tops[] = {
        { "conv1.weight", "quant_conv.weight" },
        { "conv1.bias", "quant_conv.bias" },
        { "conv2.weight", "post_quant_conv.weight" },
        { "conv2.bias", "post_quant_conv.bias" },
    };
    static const pair inside[] = {
        { "conv1.weight", "conv_in.weight" }, { "conv1.bias", "conv_in.bias" },
        { "head.0.gamma", "norm_out.gamma" }, { "head.2.weight", "conv_out.weight" },
        { "head.2.bias", "conv_out.bias" },
    };
    char leaf[128], short_name[160];
    if (translate(name, tops, sizeof tops / sizeof *tops, out, size)) return 1;
    const char *half = qw_starts_with(name, "encoder.")   ? "encoder."
                       : qw_starts_with(name, "decoder.") ? "decoder."
                                                          : NULL;
    if (!half) return 0;
    const char *rest = name + strlen(half);
    if (translate(rest, inside, sizeof inside / sizeof *inside, short_name, sizeof short_name)) {
        snprintf(out, size, "%s%s", half, short_name);
        return 1;
    }
    const char *list = qw_starts_with(rest, "downsamples.") ? "downsamples."
                       : qw_starts_with(rest, "upsamples.") ? "upsamples."
                       : qw_starts_with(rest, "middle.")    ? "middle."
                                                            : NULL;
    if (!list) return 0;
    char *end;
    const long k = strtol(rest + strlen(list), &end, 10);
    if (*end != '.' || k < 0 || k > 999) return 0;
    wan_leaf(end + 1, leaf, sizeof leaf);
    if (list[0] == 'd') snprintf(out, size, "%sdown_blocks.%ld.%s", half, k, leaf);
    else if (list[0] == 'm' && k == 1)
        snprintf(out, size, "%smid_block.attentions.0.%s", half, leaf);
    else if (list[0] == 'm') snprintf(out, size, "%smid_block.resnets.%ld.%s", half, k / 2, leaf);
    else if (k % per_level == per_level - 1)
        snprintf(out, size, "%sup_blocks.%ld.upsamplers.0.%s", half, k / per_level, leaf);
    else
        snprintf(out, size, "%sup_blocks.%ld.resnets.%ld.%s", half, k / per_level, k % per_level,
                 leaf);
    return 1;
}

/* R + 2: the distance between upsamplers, the first of which is the only kind with "resample". */
static int wan_level(const qw_store *s)
{
    int first = 1000;
    for (int64_t i = 0; i < s->entries; i++) {
        int k, used = 0;
        if (sscanf(s->entry[i].name, "decoder.upsamples.%d.resample.1.weight%n", &k, &used) == 1
            && used && k < first)
            first = k;
    }
    return first < 1000 ? first + 1 : 4;
}

static int rename_all(qw_store *s, qw_kind kind, qw_error *err)
{
    const int level = kind == QW_KIND_VAE ? wan_level(s) : 0;
    const int wan = kind == QW_KIND_VAE
                    && qw_store_find(s, "decoder.middle.0.residual.0.gamma") != NULL;
    char out[512];
    for (int64_t i = 0; i < s->entries; i++) {
        qw_entry *e = &s->entry[i];
        const int renamed = kind == QW_KIND_TEXT || kind == QW_KIND_VISION
                                ? text_name(e->name, out, sizeof out)
                            : wan ? wan_name(e->name, level, out, sizeof out)
                                  : 0;
        const int status = renamed ? qw_store_rename(s, e, out, err) : QWEN_OK;
        if (status) return status;
    }
    return qw_store_index(s, err);
}

int qw_store_has(const qw_store *s, qw_kind part)
{
    if (part == QW_KIND_TEXT) return qw_store_prefixed(s, "text_encoders.") > 0;
    if (part == QW_KIND_VAE)
        return qw_store_prefixed(s, "vae.") > 0 || qw_store_prefixed(s, "first_stage_model.") > 0;
    return part == QW_KIND_TRANSFORMER && qw_store_prefixed(s, "model.diffusion_model.") > 0;
}

/* A part of an all-in-one checkpoint. */
static int select_part(qw_store *s, qw_kind part, qw_error *err)
{
    int status = QWEN_OK;
    if (part == QW_KIND_TEXT || part == QW_KIND_VISION) status = keep_text(s, err);
    else if (part == QW_KIND_VAE)
        status =
            keep_prefix(s, qw_store_prefixed(s, "vae.") ? "vae." : "first_stage_model.", 0, err);
    else if (part != QW_KIND_UNKNOWN && part != QW_KIND_CHECKPOINT)
        status = keep_prefix(s, "model.diffusion_model.", 0, err);
    return status ? status : qw_store_index(s, err);
}

int qw_store_canonical(qw_store *s, qw_kind part, qw_kind *found, qw_error *err)
{
    const char *prefix;
    int status = QWEN_OK;
    qw_kind kind = detect(s, &prefix);
    *found = kind;
    if (kind == QW_KIND_CHECKPOINT && part != QW_KIND_UNKNOWN && part != QW_KIND_CHECKPOINT) {
        status = select_part(s, part, err);
        if (status) return status;
        kind = detect(s, &prefix);
    }
    if ((status = refuse(s, kind, part, err))) return status;
    const int together = (part == QW_KIND_VISION && kind == QW_KIND_TEXT); /* one file holds both */
    const int control = part == QW_KIND_CONTROLNET
                        && (kind == QW_KIND_BLOCKWISE || kind == QW_KIND_FUN);
    if (part != QW_KIND_UNKNOWN && kind != part && !together && !control)
        return qw_fail(err, QWEN_EMODEL, "%s is %s %s, expected %s %s", qw_store_path(s, 0),
                       qw_kind_article(kind), qw_kind_name(kind), qw_kind_article(part),
                       qw_kind_name(part));
    if (*prefix) status = keep_prefix(s, prefix, 1, err);
    else if (kind == QW_KIND_TEXT || kind == QW_KIND_VISION) status = keep_text(s, err);
    if (!status) status = qw_store_index(s, err);
    if (!status && kind != QW_KIND_LORA && kind != QW_KIND_DUMP && kind != QW_KIND_CHECKPOINT)
        status = rename_all(s, kind, err);
    if (!status && kind != QW_KIND_LORA && kind != QW_KIND_DUMP) status = qw_layouts_check(s, err);
    s->kind = kind;
    *found = kind;
    return status;
}

/* --- what no net has taken ----------------------------------------------------------------- */

/* Tensors that mean something to somebody and are never weights of ours. */
static int expected_leftover(const char *name)
{
    static const char *const ends[] = { "scaled_fp8",         "__index_timestep_zero__",
                                        ".comfy_quant",       ".scale_weight",
                                        ".scale_input",       ".weight_scale",
                                        ".weight_scale_2",    ".input_scale",
                                        ".pre_quant_scale",   ".weight_s_rel",
                                        ".weight_s_channel",  ".weight_codebook",
                                        ".weight_zeros",      ".weight_zero",
                                        ".weight_correction", "rotary_emb.inv_freq",
                                        ".rope_freqs.weight", "lm_head.weight" };
    if (strstr(name, ".time_conv.")) return 1;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (qw_ends_with(name, ends[i])) return 1;
    return 0;
}

int qw_store_unused(const qw_store *s, void (*each)(void *user, const qw_entry *e), void *user)
{
    int n = 0;
    for (int64_t i = 0; i < s->entries; i++) {
        if (s->entry[i].used || expected_leftover(s->entry[i].name)) continue;
        n++;
        if (each) each(user, &s->entry[i]);
    }
    return n;
}
