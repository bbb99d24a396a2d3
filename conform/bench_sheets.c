/* bench_sheets.c - the checkpoint of each work: tensors with the published names and shapes. */
#include "bench_inside.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Beyond the caches of a processor: a gemm takes a weight that no run before it has left there. */
static const double BEYOND = 256e6;

static void gemm(qw_sheet *s, qw_work_file *f)
{
    const int64_t n = f->work.dim[1], k = f->work.dim[2];
    qw_sheet_linear(s, n, k, 1, "gemm.0");
    f->bytes = qw_sheet_bytes(s);
    f->copies = f->bytes >= BEYOND ? 1 : (int)(BEYOND / f->bytes) + 1;
    if (f->copies > QW_COPIES) f->copies = QW_COPIES;
    for (int i = 1; i < f->copies; i++) qw_sheet_linear(s, n, k, 1, "gemm.%d", i);
}

/* The linear layers of a block, after "transformer_blocks.N."; n and k in widths. */
static const struct {
    const char *name;
    int n, k;
} linear[] = {
    { "attn.to_q", 1, 1 },       { "attn.to_k", 1, 1 },          { "attn.to_v", 1, 1 },
    { "attn.to_out.0", 1, 1 },   { "img_mlp.net.0.proj", 4, 1 }, { "img_mlp.net.2", 1, 4 },
    { "attn.add_q_proj", 1, 1 }, { "attn.add_k_proj", 1, 1 },    { "attn.add_v_proj", 1, 1 },
    { "attn.to_add_out", 1, 1 }, { "txt_mlp.net.0.proj", 4, 1 }, { "txt_mlp.net.2", 1, 4 },
};
enum { LINEARS = sizeof linear / sizeof *linear };

void qw_sheet_block(qw_sheet *s, const qw_dit_config *c, int block)
{
    static const char *const norm[] = { "norm_q", "norm_k", "norm_added_q", "norm_added_k" };
    for (int i = 0; i < LINEARS; i++)
        qw_sheet_linear(s, linear[i].n * c->width, linear[i].k * c->width, 1,
                        "transformer_blocks.%d.%s", block, linear[i].name);
    for (int i = 0; i < 4; i++)
        qw_sheet_vector(s, c->head, 1, "transformer_blocks.%d.attn.%s.weight", block, norm[i]);
    qw_sheet_count(s, 0); /* the benchmark of a block takes its modulation ready-made */
    for (int i = 0; i < 2; i++)
        qw_sheet_linear(s, 6 * c->width, c->width, 1, "transformer_blocks.%d.%s_mod.1", block,
                        i ? "txt" : "img");
    qw_sheet_count(s, 1);
}

void qw_sheet_lora(qw_sheet *s, const qw_dit_config *c, int rank)
{
    for (int i = 0; i < LINEARS; i++) {
        qw_sheet_linear(s, rank, linear[i].k * c->width, 0, "transformer_blocks.0.%s.lora_A",
                        linear[i].name);
        qw_sheet_linear(s, linear[i].n * c->width, rank, 0, "transformer_blocks.0.%s.lora_B",
                        linear[i].name);
    }
}

static void block(qw_sheet *s, qw_error *err)
{
    qw_dit_config c;
    if (!qw_dit_configure(&c, NULL, NULL, "the published transformer", err))
        qw_sheet_block(s, &c, 0);
}

static int open_lora(qw_work_file *f, qw_error *err)
{
    qw_dit_config c;
    qw_sheet *s = qw_sheet_new(QW_BF16, 0);
    if (!s) return qw_fail(err, QWEN_ENOMEM, "no memory for the names of weights");
    if (!qw_dit_configure(&c, NULL, NULL, "the published transformer", err)) {
        qw_sheet_lora(s, &c, f->work.lora);
        f->bytes += qw_sheet_bytes(s);
        qw_sheet_open_lora(s, &f->lora, err);
    }
    qw_sheet_free(s);
    return err->status;
}

void qw_sheet_layer(qw_sheet *s, const qw_text_config *c, int layer)
{
    const int64_t q = c->heads * c->head, k = c->kv_heads * c->head;
    char l[64];
    snprintf(l, sizeof l, "model.layers.%d", layer);
    qw_sheet_vector(s, c->width, 1, "%s.input_layernorm.weight", l);
    qw_sheet_vector(s, c->width, 1, "%s.post_attention_layernorm.weight", l);
    qw_sheet_linear(s, q, c->width, 1, "%s.self_attn.q_proj", l);
    qw_sheet_linear(s, k, c->width, 1, "%s.self_attn.k_proj", l);
    qw_sheet_linear(s, k, c->width, 1, "%s.self_attn.v_proj", l);
    qw_sheet_linear(s, c->width, q, 0, "%s.self_attn.o_proj", l);
    qw_sheet_linear(s, c->ff, c->width, 0, "%s.mlp.gate_proj", l);
    qw_sheet_linear(s, c->ff, c->width, 0, "%s.mlp.up_proj", l);
    qw_sheet_linear(s, c->width, c->ff, 0, "%s.mlp.down_proj", l);
}

static void text(qw_sheet *s, qw_error *err)
{
    qw_text_config c;
    if (qw_text_configure(&c, NULL, NULL, "the published language model", err)) return;
    qw_sheet_layer(s, &c, 0);
    qw_sheet_count(s, 0);
    qw_sheet_linear(s, QW_BENCH_VOCAB, c.width, 0, "model.embed_tokens");
    qw_sheet_vector(s, c.width, 1, "model.norm.weight");
}

static void vision(qw_sheet *s, qw_error *err)
{
    qw_vision_config c;
    if (qw_vision_configure(&c, NULL, NULL, NULL, "the published vision tower", err)) return;
    const int64_t merged = c.width * c.merge * c.merge;
    qw_sheet_linear(s, c.width, c.channels * c.temporal * c.patch * c.patch, 0,
                    "visual.patch_embed.proj");
    qw_sheet_vector(s, c.width, 1, "visual.merger.ln_q.weight");
    qw_sheet_linear(s, merged, merged, 1, "visual.merger.mlp.0");
    qw_sheet_linear(s, c.out, merged, 1, "visual.merger.mlp.2");
    for (int i = 0; i < c.depth; i++) {
        qw_sheet_vector(s, c.width, 1, "visual.blocks.%d.norm1.weight", i);
        qw_sheet_vector(s, c.width, 1, "visual.blocks.%d.norm2.weight", i);
        qw_sheet_linear(s, 3 * c.width, c.width, 1, "visual.blocks.%d.attn.qkv", i);
        qw_sheet_linear(s, c.width, c.width, 1, "visual.blocks.%d.attn.proj", i);
        qw_sheet_linear(s, c.ff, c.width, 1, "visual.blocks.%d.mlp.gate_proj", i);
        qw_sheet_linear(s, c.ff, c.width, 1, "visual.blocks.%d.mlp.up_proj", i);
        qw_sheet_linear(s, c.width, c.ff, 1, "visual.blocks.%d.mlp.down_proj", i);
    }
}

/* --- the autoencoder -------------------------------------------------------------------------- */

static void resnet(qw_sheet *s, int64_t in, int64_t out, const char *name)
{
    qw_sheet_vector(s, in, 1, "%s.norm1.gamma", name);
    qw_sheet_conv(s, out, in, 3, 3, "%s.conv1", name);
    qw_sheet_vector(s, out, 1, "%s.norm2.gamma", name);
    qw_sheet_conv(s, out, out, 3, 3, "%s.conv2", name);
    if (in != out) qw_sheet_conv(s, out, in, 1, 1, "%s.conv_shortcut", name);
}

static void middle(qw_sheet *s, int64_t c, const char *side)
{
    char name[96];
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s.mid_block.resnets.%d", side, i);
        resnet(s, c, c, name);
    }
    qw_sheet_vector(s, c, 1, "%s.mid_block.attentions.0.norm.gamma", side);
    qw_sheet_conv(s, 3 * c, c, 1, 0, "%s.mid_block.attentions.0.to_qkv", side);
    qw_sheet_conv(s, c, c, 1, 0, "%s.mid_block.attentions.0.proj", side);
}

void qw_sheet_encoder(qw_sheet *s, const qw_vae_config *c)
{
    char name[96];
    int k = 0;
    qw_sheet_conv(s, c->base, c->channels, 3, 3, "encoder.conv_in");
    int64_t in = c->base;
    for (int i = 0; i < c->levels; i++) {
        const int64_t out = c->base * c->mult[i];
        for (int j = 0; j < c->res_blocks; j++, in = out) {
            snprintf(name, sizeof name, "encoder.down_blocks.%d", k++);
            resnet(s, in, out, name);
        }
        if (i + 1 < c->levels)
            qw_sheet_conv(s, out, out, 3, 0, "encoder.down_blocks.%d.resample.1", k++);
    }
    middle(s, in, "encoder");
    qw_sheet_vector(s, in, 1, "encoder.norm_out.gamma");
    qw_sheet_conv(s, 2 * c->z, in, 3, 3, "encoder.conv_out");
    qw_sheet_conv(s, 2 * c->z, 2 * c->z, 1, 1, "quant_conv");
}

void qw_sheet_decoder(qw_sheet *s, const qw_vae_config *c)
{
    char name[96];
    int64_t in = c->base * c->mult[c->levels - 1];
    qw_sheet_conv(s, c->z, c->z, 1, 1, "post_quant_conv");
    qw_sheet_conv(s, in, c->z, 3, 3, "decoder.conv_in");
    middle(s, in, "decoder");
    for (int i = 0; i < c->levels; i++) {
        const int64_t out = c->base * c->mult[c->levels - 1 - i];
        for (int j = 0; j <= c->res_blocks; j++, in = out) {
            snprintf(name, sizeof name, "decoder.up_blocks.%d.resnets.%d", i, j);
            resnet(s, in, out, name);
        }
        if (i + 1 == c->levels) continue;
        qw_sheet_conv(s, out / 2, out, 3, 0, "decoder.up_blocks.%d.upsamplers.0.resample.1", i);
        in = out / 2;
    }
    qw_sheet_vector(s, in, 1, "decoder.norm_out.gamma");
    qw_sheet_conv(s, c->channels, in, 3, 3, "decoder.conv_out");
}

static void vae(qw_sheet *s, int encode, qw_error *err)
{
    qw_vae_config c;
    if (qw_vae_configure(&c, NULL, NULL, "the published VAE", err)) return;
    if (encode) qw_sheet_encoder(s, &c);
    else qw_sheet_decoder(s, &c);
}

/* ---------------------------------------------------------------------------------------------- */

/* Reads a byte of each page of the copies of gemm's weight, but of the first: every repetition is
 * the first to use its copy, and would otherwise wait until the system has mapped its pages. */
static void touch_pages(const qw_store *s)
{
    enum { PAGE = 4096 };
    const qw_entry *e;
    volatile unsigned char last;
    for (int64_t i = 0; (e = qw_store_entry(s, i)); i++) {
        if (!strncmp(e->name, "gemm.0.", 7)) continue;
        for (size_t at = 0; at < e->bytes; at += PAGE) last = ((const unsigned char *)e->data)[at];
    }
    (void)last;
}

int qw_work_file_open(qw_work_file *f, const qw_work *w, qw_error *err)
{
    *f = (qw_work_file){ .work = *w };
    if (w->kind == QW_WORK_ROOF || w->kind == QW_WORK_ATTENTION) return QWEN_OK;
    qw_sheet *s = qw_sheet_new(w->weights, w->rotated);
    if (!s) return qw_fail(err, QWEN_ENOMEM, "no memory for the names of weights");
    switch (w->kind) {
    case QW_WORK_GEMM: gemm(s, f); break;
    case QW_WORK_BLOCK: block(s, err); break;
    case QW_WORK_TEXT: text(s, err); break;
    case QW_WORK_VISION: vision(s, err); break;
    default: vae(s, w->encode, err); break;
    }
    if (w->kind != QW_WORK_GEMM) f->bytes = qw_sheet_bytes(s);
    if (!err->status) qw_sheet_open(s, &f->store, err);
    if (!err->status && w->kind == QW_WORK_GEMM) touch_pages(f->store);
    if (!err->status && w->lora) open_lora(f, err);
    qw_sheet_free(s);
    return err->status;
}

void qw_work_file_close(qw_work_file *f)
{
    qw_store_free(f->store);
    qw_lora_free(f->lora);
    f->store = NULL;
    f->lora = NULL;
}
