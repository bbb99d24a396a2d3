/* kind.c - the kind of a file, from its keys, and the reasons for which a file is refused.
 *
 * The keys decide, never the file's name.  Each kind has signatures (keys that only it has),
 * which are looked for under every known prefix. */
#include "files/lora.h"
#include "files/files.h"
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

/* Prefixes of transformers, VAEs and ControlNets; "" last, so that a longer one is not missed. */
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

/* The first prefix under which the store has all of the names (NULL ends them), or NULL. */
static const char *prefix_of(const qw_store *s, const char *const *names)
{
    for (int p = 0; p < PREFIXES; p++) {
        int all = 1;
        for (const char *const *n = names; *n && all; n++) all = find2(s, prefixes[p], *n) != NULL;
        if (all) return prefixes[p];
    }
    return NULL;
}

/* --- kinds ------------------------------------------------------------------------------------ */

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

/* The layout of another quantiser, which keeps several tensors for a weight under its own names;
 * NULL: none. */
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

/* The family of another model, by a piece of a name that only it has; NULL: none. */
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

/* The signatures of each kind in the order in which they are tested; the first that is there
 * decides. */
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

/* Input channels of the decoder's first convolution: 16 for this family, 48 Wan 2.2, 64 Qwen-
 * Image-2.1. */
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

qw_kind qw_kind_of(const qw_store *s, const char **prefix)
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

/* The reason for which a file is refused that resembles a supported one, or belongs to another
 * family. */
int qw_kind_refused(const qw_store *s, qw_kind kind, qw_kind part, qw_error *err)
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

int qw_store_has(const qw_store *s, qw_kind part)
{
    if (part == QW_KIND_TEXT) return qw_store_prefixed(s, "text_encoders.") > 0;
    if (part == QW_KIND_VAE)
        return qw_store_prefixed(s, "vae.") > 0 || qw_store_prefixed(s, "first_stage_model.") > 0;
    return part == QW_KIND_TRANSFORMER && qw_store_prefixed(s, "model.diffusion_model.") > 0;
}
