/* names.c - the canonical name of every tensor.
 *
 * The prefix under which kind.c has found a signature is removed.  Then names of other programs
 * are translated: GGUF's of the language model and the vision tower (whose fused q, k and v it may
 * have split), Wan's of the VAE, the new names of transformers. */
#include "files/files.h"
#include <stdlib.h>
#include <string.h>

/* --- prefixes ------------------------------------------------------------------------------ */

/* The length of "text_encoders.<any>.transformer." at the head of a key, or 0. */
static size_t text_prefix(const char *name)
{
    if (!qw_starts_with(name, "text_encoders.")) return 0;
    const char *at = strstr(name, ".transformer.");
    return at ? (size_t)(at - name) + strlen(".transformer.") : 0;
}

/* Removes the prefix from the entries that have it; all 0: drops the others, which belong to other
 * components. */
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

/* --- dialects ------------------------------------------------------------------------------ */

typedef struct pair {
    const char *from, *to;
} pair;

/* Translates a name by one line of a table: `from` at `name` becomes `to` in out; both may hold one
 * "{}" for a number. */
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

/* Translates "<module>.weight" or ".bias" by its module, which the tables name. */
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

/* Translates Wan's flat lists: "downsamples.k" is "down_blocks.k"; "upsamples.k" depends on R, the
 * residual blocks of a level. */
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

/* R + 2, the distance between upsamplers; the first of them is the first tensor with "resample". */
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

int qw_store_parts(const qw_store *s, const char *module)
{
    char q[256];
    if (!qw_ends_with(module, ".attn.qkv")) return 1;
    snprintf(q, sizeof q, "%.*sq.weight", (int)(strlen(module) - strlen("qkv")), module);
    return qw_store_find(s, q) ? 3 : 1;
}

void qw_part_name(const char *module, int parts, int i, char *out, size_t size)
{
    if (parts == 1) snprintf(out, size, "%s", module);
    else snprintf(out, size, "%.*s%c", (int)(strlen(module) - strlen("qkv")), module, "qkv"[i]);
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

/* Keeps one component of an all-in-one checkpoint. */
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
    qw_kind kind = qw_kind_of(s, &prefix);
    *found = kind;
    if (kind == QW_KIND_CHECKPOINT && part != QW_KIND_UNKNOWN && part != QW_KIND_CHECKPOINT) {
        status = select_part(s, part, err);
        if (status) return status;
        kind = qw_kind_of(s, &prefix);
    }
    if ((status = qw_kind_refused(s, kind, part, err))) return status;
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
