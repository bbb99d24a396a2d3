/* full_model.c - writes a model of the published size with random weights, for measurements.
 *
 *     full_model DIR
 *
 * DIR, which exists, gets transformer.gguf (60 blocks) and text_encoder/model.gguf (28 layers), both
 * with matrices of Q4_K, text_encoder/config.json, and vae.safetensors in bf16: 16 GB together.
 * Pictures of it are noise. */
#include "conform/bench.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void transformer(qw_sheet *s, qw_error *err)
{
    qw_dit_config c;
    if (qw_dit_configure(&c, NULL, NULL, "the published transformer", err)) return;
    for (int i = 0; i < c.layers; i++) qw_sheet_block(s, &c, i);
    qw_sheet_vector(s, c.text_width, 1, "txt_norm.weight");
    qw_sheet_linear(s, c.width, c.text_width, 1, "txt_in");
    qw_sheet_linear(s, c.width, 256, 1, "time_text_embed.timestep_embedder.linear_1");
    qw_sheet_linear(s, c.width, c.width, 1, "time_text_embed.timestep_embedder.linear_2");
    qw_sheet_linear(s, 2 * c.width, c.width, 1, "norm_out.linear");
    qw_sheet_linear(s, c.patch * c.patch * c.out, c.width, 1, "proj_out");
    qw_sheet_type(s, QW_F32); /* its rows are shorter than a block of Q4_K */
    qw_sheet_linear(s, c.width, c.in, 1, "img_in");
}

static void text_encoder(qw_sheet *s, qw_error *err)
{
    qw_text_config c;
    if (qw_text_configure(&c, NULL, NULL, "the published language model", err)) return;
    for (int i = 0; i < c.layers; i++) qw_sheet_layer(s, &c, i);
    qw_sheet_linear(s, c.vocab, c.width, 0, "model.embed_tokens");
    qw_sheet_vector(s, c.width, 1, "model.norm.weight");
}

static void vae(qw_sheet *s, qw_error *err)
{
    qw_vae_config c;
    if (qw_vae_configure(&c, NULL, NULL, "the published VAE", err)) return;
    qw_sheet_encoder(s, &c);
    qw_sheet_decoder(s, &c);
}

/* The folder of the language model, with the kind that its tensors alone do not show. */
static void text_folder(const char *dir, qw_error *err)
{
    char path[1024];
    snprintf(path, sizeof path, "%.900s/text_encoder", dir);
    if (mkdir(path, 0777) && errno != EEXIST)
        qw_fail(err, QWEN_EIO, "%s: %s", path, strerror(errno));
    snprintf(path, sizeof path, "%.900s/text_encoder/config.json", dir);
    FILE *f = err->status ? NULL : fopen(path, "w");
    if (f) fputs("{\"model_type\": \"qwen2_5_vl\"}\n", f);
    if (!err->status && (!f || fclose(f))) qw_fail(err, QWEN_EIO, "%s: %s", path, strerror(errno));
}

int main(int argc, char **argv)
{
    static const struct {
        const char *file;
        qw_dtype weights;
        void (*list)(qw_sheet *s, qw_error *err);
    } part[] = { { "transformer.gguf", QW_Q4_K, transformer },
                 { "text_encoder/model.gguf", QW_Q4_K, text_encoder },
                 { "vae.safetensors", QW_BF16, vae } };
    qw_error e = { 0 };
    if (argc != 2 || argv[1][0] == '-') {
        fputs("usage: full_model DIR\n", stderr);
        return 2;
    }
    text_folder(argv[1], &e);
    for (size_t i = 0; i < sizeof part / sizeof *part && !e.status; i++) {
        char path[1024];
        qw_sheet *s = qw_sheet_new(part[i].weights, 0);
        snprintf(path, sizeof path, "%.900s/%s", argv[1], part[i].file);
        if (s) part[i].list(s, &e);
        else qw_fail(&e, QWEN_ENOMEM, "no memory for the names of weights");
        if (!e.status && !qw_sheet_write(s, path, &e)) puts(path);
        qw_sheet_free(s);
    }
    if (e.status) fprintf(stderr, "full_model: %s\n", e.text);
    return e.status != 0;
}
