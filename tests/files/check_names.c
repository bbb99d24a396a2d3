/* check_names.c - one canonical name for each tensor of any writer: prefixes, Wan's names for the
 * VAE, new names for language models, all in one file, markers. */
#include "files/files.h"
#include "medium.h"
#include "testing.h"
#include "values.h"
#include <string.h>

/* --- prefixes -------------------------------------------------------------------------------- */

static const item transformer[] = {
    { "txt_norm.weight", "F32", 1, { 8 } },
    { "img_in.weight", "F32", 2, { 8, 64 } },
    { "transformer_blocks.0.img_mod.1.weight", "F32", 2, { 48, 8 } },
    { "__index_timestep_zero__", "F32", 1, { 0 } },
    { "proj_out.weight", "F32", 2, { 64, 8 } },
    { "txt_in.weight", "F32", 2, { 8, 8 } },
    { "img_in.bias", "F32", 1, { 8 } },
};

START_TEST(prefixes_of_items)
{
    static const char *const prefix[] = {
        "",       "model.diffusion_model.", "model.model.", "net.",
        "model.", "diffusion_model.",       "transformer."
    };
    for (size_t i = 0; i < sizeof prefix / sizeof *prefix; i++) {
        qw_error err = { 0 };
        qw_kind kind;
        qw_dit_config c;
        qw_store *s = open_part(write_safetensors("p.safetensors", prefix[i], transformer, 7),
                                QW_KIND_UNKNOWN, &kind, &err);
        ck_assert_msg(!err.status, "prefix \"%s\": %s", prefix[i], err.text);
        ck_assert_int_eq(kind, QW_KIND_TRANSFORMER);
        for (int k = 0; k < 7; k++)
            ck_assert_msg(qw_store_find(s, transformer[k].name) != NULL, "prefix \"%s\": no %s",
                          prefix[i], transformer[k].name);
        ck_assert_int_eq(qw_store_count(s, "transformer_blocks."), 1);
        json_t *json = json_pack("{s:i,s:i,s:i,s:[i,i,i]}", "num_attention_heads", 1,
                                 "attention_head_dim", 8, "joint_attention_dim", 8,
                                 "axes_dims_rope", 2, 2, 4);
        ck_assert_msg(!qw_dit_configure(&c, json, s, "config", &err), "%s", err.text);
        ck_assert(c.zero_cond_t && !c.additional_t && c.layers == 1 && c.width == 8 && c.in == 64);
        json_decref(json);
        qw_store_free(s);
    }
}
END_TEST

#define TO_Q      "transformer_blocks.0.attn.to_q.weight"
#define K_BIAS    "model.layers.1.self_attn.k_proj.bias"
#define UPSAMPLER "decoder.up_blocks.2.upsamplers.0.resample.1.weight"

static const struct {
    const char *path, *prefix;
    qw_kind kind;
    const char *one;
} prefixed[] = {
    { "tiny/transformer", "net.", QW_KIND_TRANSFORMER, TO_Q },
    { "tiny/transformer", "model.model.", QW_KIND_TRANSFORMER, TO_Q },
    { "tiny/transformer", "model.", QW_KIND_TRANSFORMER, TO_Q },
    { "tiny/transformer", "diffusion_model.", QW_KIND_TRANSFORMER, TO_Q },
    { "tiny/transformer", "transformer.", QW_KIND_TRANSFORMER, TO_Q },
    { "tiny/transformer", "model.diffusion_model.", QW_KIND_TRANSFORMER, TO_Q },
    { "tiny/vae", "first_stage_model.", QW_KIND_VAE, UPSAMPLER },
    { "tiny/vae", "vae.", QW_KIND_VAE, UPSAMPLER },
    { COMFY "vae/qwen_image_vae_medium.safetensors", "first_stage_model.", QW_KIND_VAE, UPSAMPLER },
    { "tiny/text_encoder", "text_encoders.qwen25_7b.transformer.", QW_KIND_TEXT, K_BIAS },
};

/* With a prefix before all its names a file has the canonical names it has without. */
START_TEST(prefixes)
{
    qw_error err = { 0 };
    qw_kind found;
    sheaf s = { 0 };
    qw_store *plain = open_data(prefixed[_i].path);
    sheaf_store(&s, plain, prefixed[_i].prefix, prefixed[_i].kind != QW_KIND_VAE);
    sheaf_name(&s, "another.component");
    qw_store *moved = open_store(sheaf_write(&s, "prefixed.safetensors", 0));
    good(qw_store_canonical(moved, prefixed[_i].kind, &found, &err), &err);
    ck_assert_int_eq(found, prefixed[_i].kind);
    good(qw_store_canonical(plain, prefixed[_i].kind, &found, &err), &err);
    for (int64_t i = 0; qw_store_entry(plain, i); i++)
        has(moved, prefixed[_i].prefix, qw_store_entry(plain, i)->name);
    has(moved, prefixed[_i].prefix, prefixed[_i].one);
    qw_store_free(plain);
    qw_store_free(moved);
}
END_TEST

/* The names that newer writers of transformers use: model.language_model. and model.visual. */
START_TEST(new_text_names)
{
    static const char *const prefix[] = { "", "text_encoders.qwen25_7b.transformer." };
    qw_error err = { 0 };
    qw_kind found;
    sheaf s = { 0 };
    char name[400];
    qw_store *plain = open_data("tiny/text_encoder");
    good(qw_store_canonical(plain, QW_KIND_TEXT, &found, &err), &err);
    for (int64_t i = 0; qw_store_entry(plain, i); i++) {
        const char *old = qw_store_entry(plain, i)->name;
        const int in_model = starts_with(old, "model.");
        snprintf(name, sizeof name, "%s%s%s", prefix[_i],
                 in_model                      ? "model.language_model."
                 : starts_with(old, "visual.") ? "model."
                                               : "",
                 in_model ? old + 6 : old);
        sheaf_name(&s, name);
    }
    qw_store *moved = open_store(sheaf_write(&s, "new.safetensors", 0));
    good(qw_store_canonical(moved, QW_KIND_TEXT, &found, &err), &err);
    for (int64_t i = 0; qw_store_entry(plain, i); i++)
        has(moved, "new names", qw_store_entry(plain, i)->name);
    has(moved, "new names", "lm_head.weight");
    has(moved, "new names", "visual.merger.ln_q.weight");
    qw_store_free(plain);
    qw_store_free(moved);
}
END_TEST

/* GGUF's matrices q, k and v in place of a fused one. */
START_TEST(split_modules)
{
    qw_error err = { 0 };
    qw_kind found;
    char name[40];
    for (int split = 0; split < 2; split++) {
        sheaf s = { 0 };
        sheaf_name(&s, "v.blk.0.ln1.weight");
        sheaf_name(&s, split ? "v.blk.0.attn_q.weight" : "v.blk.0.attn_qkv.weight");
        qw_store *vision = open_store(sheaf_write(&s, "vision.safetensors", 0));
        good(qw_store_canonical(vision, QW_KIND_VISION, &found, &err), &err);
        const int parts = qw_store_parts(vision, "visual.blocks.0.attn.qkv");
        ck_assert_int_eq(parts, split ? 3 : 1);
        for (int i = 0; i < parts; i++) {
            static const char *const end[2][3] = { { "qkv" }, { "q", "k", "v" } };
            qw_part_name("visual.blocks.0.attn.qkv", parts, i, name, sizeof name);
            ck_assert(!strncmp(name, "visual.blocks.0.attn.", 21)
                      && !strcmp(name + 21, end[split][i]));
        }
        ck_assert_int_eq(qw_store_parts(vision, "visual.blocks.1.attn.qkv"), 1);
        ck_assert_int_eq(qw_store_parts(vision, "visual.blocks.0.attn.q"), 1);
        qw_store_free(vision);
    }
}
END_TEST

/* Edit-2511's marker sets zero_cond_t, behind any prefix, empty or not, and is no unknown
 * tensor. */
START_TEST(marker)
{
    qw_error err = { 0 };
    static const char *const prefix[] = { "", "model.diffusion_model.", "net." };
    qw_dit_config c;
    qw_kind found;
    char name[100];
    qw_store *plain = open_data(MEDIUM);
    for (int i = 0; i < 6; i++) {
        sheaf s = { 0 };
        sheaf_store(&s, plain, prefix[i % 3], 0);
        snprintf(name, sizeof name, "%s__index_timestep_zero__", prefix[i % 3]);
        if (i < 3) sheaf_name(&s, name);
        else sheaf_add(&s, name, (qw_entry){ .dtype = QW_F32, .rank = 1 });
        qw_store *marked = open_store(sheaf_write(&s, "marked.safetensors", 0));
        good(qw_store_canonical(marked, QW_KIND_TRANSFORMER, &found, &err), &err);
        good(qw_dit_configure(&c, NULL, marked, "marked", &err), &err);
        ck_assert_int_eq(c.zero_cond_t, 1);
        const qw_entry *e = qw_store_find(marked, "__index_timestep_zero__");
        ck_assert(e && qw_store_unused(marked, NULL, NULL) == (int)(marked->entries - 1));
        qw_store_free(marked);
    }
    good(qw_store_canonical(plain, QW_KIND_TRANSFORMER, &found, &err), &err);
    good(qw_dit_configure(&c, NULL, plain, "plain", &err), &err);
    ck_assert_int_eq(c.zero_cond_t, 0);
    qw_store_free(plain);
}
END_TEST

/* --- all in one file ------------------------------------------------------------------------- */

/* All components in one file: each part has its own tensors and no others. */
START_TEST(all_in_one)
{
    const item all[] = {
        { "model.diffusion_model.txt_norm.weight", "F32", 1, { 8 } },
        { "model.diffusion_model.transformer_blocks.0.img_mod.1.weight", "F32", 2, { 48, 8 } },
        { "model.diffusion_model.img_in.weight", "F32", 2, { 8, 64 } },
        { "text_encoders.qwen25_7b.transformer.model.layers.0.self_attn.k_proj.bias",
          "F32",
          1,
          { 8 } },
        { "text_encoders.qwen25_7b.transformer.scaled_fp8", "U8", 1, { 0 } },
        { "text_encoders.qwen25_7b.transformer.visual.merger.ln_q.weight", "F32", 1, { 8 } },
        { "vae.decoder.conv1.weight", "F32", 5, { 8, 16, 1, 1, 1 } },
        { "vae.decoder.middle.0.residual.0.gamma", "F32", 1, { 8 } },
    };
    const char *path = write_safetensors("aio.safetensors", "", all, 8);
    static const struct {
        qw_kind part;
        const char *has, *not ;
    } part[] = {
        { QW_KIND_TRANSFORMER, "txt_norm.weight", "visual.merger.ln_q.weight" },
        { QW_KIND_TEXT, "model.layers.0.self_attn.k_proj.bias", "txt_norm.weight" },
        { QW_KIND_VISION, "visual.merger.ln_q.weight", "decoder.conv_in.weight" },
        { QW_KIND_VAE, "decoder.mid_block.resnets.0.norm1.gamma", "txt_norm.weight" },
    };
    qw_error err = { 0 };
    qw_kind kind;
    qw_store *s = open_part(path, QW_KIND_UNKNOWN, &kind, &err);
    ck_assert_msg(!err.status && kind == QW_KIND_CHECKPOINT, "%s", err.text);
    qw_store_free(s);
    for (int i = 0; i < 4; i++) {
        s = must_open(path, part[i].part);
        ck_assert_msg(qw_store_find(s, part[i].has) != NULL, "%s is not there", part[i].has);
        ck_assert_msg(!qw_store_find(s, part[i].not ), "%s is there", part[i].not );
        qw_store_free(s);
    }
}
END_TEST

/* --- Wan's names ----------------------------------------------------------------------------- */

static const char *wan_names[] = { "conv1.weight",
                                   "conv2.weight",
                                   "encoder.conv1.weight",
                                   "encoder.head.0.gamma",
                                   "encoder.head.2.weight",
                                   "encoder.middle.1.to_qkv.weight",
                                   "encoder.middle.2.residual.6.weight",
                                   "encoder.downsamples.2.resample.1.weight",
                                   "encoder.downsamples.3.shortcut.weight",
                                   "decoder.conv1.weight",
                                   "decoder.middle.0.residual.0.gamma",
                                   "decoder.upsamples.0.residual.2.weight",
                                   "decoder.upsamples.3.resample.1.weight",
                                   "decoder.upsamples.4.shortcut.bias",
                                   "decoder.upsamples.14.residual.3.gamma",
                                   "decoder.head.2.bias" };
static const char *diffusers_names[] = { "quant_conv.weight",
                                         "post_quant_conv.weight",
                                         "encoder.conv_in.weight",
                                         "encoder.norm_out.gamma",
                                         "encoder.conv_out.weight",
                                         "encoder.mid_block.attentions.0.to_qkv.weight",
                                         "encoder.mid_block.resnets.1.conv2.weight",
                                         "encoder.down_blocks.2.resample.1.weight",
                                         "encoder.down_blocks.3.conv_shortcut.weight",
                                         "decoder.conv_in.weight",
                                         "decoder.mid_block.resnets.0.norm1.gamma",
                                         "decoder.up_blocks.0.resnets.0.conv1.weight",
                                         "decoder.up_blocks.0.upsamplers.0.resample.1.weight",
                                         "decoder.up_blocks.1.resnets.0.conv_shortcut.bias",
                                         "decoder.up_blocks.3.resnets.2.norm2.gamma",
                                         "decoder.conv_out.bias" };
enum { WAN = sizeof wan_names / sizeof *wan_names };

START_TEST(wan_vae_names)
{
    static const char *const prefix[] = { "", "vae.", "first_stage_model." };
    item t[WAN];
    for (int i = 0; i < WAN; i++) t[i] = (item){ wan_names[i], "F32", 5, { 16, 16, 1, 1, 1 } };
    for (int p = 0; p < 3; p++) {
        qw_store *s = must_open(write_safetensors("w.safetensors", prefix[p], t, WAN), QW_KIND_VAE);
        for (int i = 0; i < WAN; i++)
            ck_assert_msg(qw_store_find(s, diffusers_names[i]) != NULL, "%s%s is not %s", prefix[p],
                          wan_names[i], diffusers_names[i]);
        qw_store_free(s);
    }
}
END_TEST

/* With R residual blocks a level, decoder index (R + 2) i + j. */
START_TEST(wan_vae_of_one_block)
{
    const item t[] = { { "decoder.conv1.weight", "F32", 5, { 16, 16, 1, 1, 1 } },
                       { "decoder.middle.0.residual.0.gamma", "F32", 1, { 16 } },
                       { "decoder.upsamples.2.resample.1.weight", "F32", 4, { 8, 16, 1, 1 } },
                       { "decoder.upsamples.5.resample.1.weight", "F32", 4, { 8, 16, 1, 1 } },
                       { "decoder.upsamples.4.residual.0.gamma", "F32", 1, { 16 } } };
    qw_store *s = must_open(write_safetensors("r1.safetensors", "", t, 5), QW_KIND_VAE);
    ck_assert(qw_store_find(s, "decoder.up_blocks.1.resnets.1.norm1.gamma")
              && qw_store_find(s, "decoder.up_blocks.1.upsamplers.0.resample.1.weight"));
    qw_store_free(s);
}
END_TEST

/* The same VAE under both names: equal tensors. */
START_TEST(wan_file_equals_diffusers_file)
{
    qw_store *w = must_open(
        testdata("formats/comfyui/models/vae/qwen_image_vae_medium.safetensors"), QW_KIND_VAE);
    qw_store *d = must_open(testdata("formats/medium/vae"), QW_KIND_VAE);
    int64_t n = 0;
    for (const qw_entry *e; (e = qw_store_entry(d, n)); n++) {
        const qw_entry *f = qw_store_find(w, e->name);
        ck_assert_msg(f != NULL, "\"%s\" has no match", e->name);
        ck_assert_msg(f->rank == e->rank && !memcmp(f->dim, e->dim, sizeof f->dim)
                          && f->bytes == e->bytes && !memcmp(f->data, e->data, e->bytes),
                      "\"%s\" differs", e->name);
    }
    ck_assert_int_eq(n, 194);
    qw_store_free(w);
    qw_store_free(d);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("names");
    TCase *c = tcase_create("names");
    tcase_set_timeout(c, 120);
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_test(c, prefixes_of_items);
    tcase_add_loop_test(c, prefixes, 0, (int)(sizeof prefixed / sizeof *prefixed));
    tcase_add_loop_test(c, new_text_names, 0, 2);
    tcase_add_test(c, split_modules);
    tcase_add_test(c, marker);
    tcase_add_test(c, all_in_one);
    tcase_add_test(c, wan_vae_names);
    tcase_add_test(c, wan_vae_of_one_block);
    tcase_add_test(c, wan_file_equals_diffusers_file);
    suite_add_tcase(s, c);
    return run_suite(s);
}
