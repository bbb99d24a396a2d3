/* check_kinds.c - the kind of a file, from its names: every kind, and the kinds that are refused by
 * name. */
#include "medium.h"
#include "testing.h"
#include "values.h"
#include <string.h>

/* --- files of testdata ----------------------------------------------------------------------- */

static const struct {
    const char *path;
    qw_kind kind;
} files[] = {
    { "tiny/transformer", QW_KIND_TRANSFORMER },
    { "tiny-edit-2511/transformer", QW_KIND_TRANSFORMER },
    { "tiny-layered/transformer", QW_KIND_TRANSFORMER },
    { "tiny/text_encoder", QW_KIND_TEXT },
    { "tiny/vae", QW_KIND_VAE },
    { "tiny-layered/vae", QW_KIND_VAE },
    { "tiny-controlnet/controlnet", QW_KIND_CONTROLNET },
    { MEDIUM, QW_KIND_TRANSFORMER },
    { FORMATS "medium/vae", QW_KIND_VAE },
    { COMFY "diffusion_models/qwen_image_medium_bf16.safetensors", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen_image_medium_fp8_e4m3fn.safetensors", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen_image_medium_fp8_e4m3fn_scaled.safetensors",
      QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen_image_medium_fp8_header.safetensors", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen_image_medium_fp8_rows.safetensors", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen_image_medium_fp8mixed.safetensors", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-BF16.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-Q2_K.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-Q3_K.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-Q4_0.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-Q4_K.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-Q5_1.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-Q5_K.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-Q6_K.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-Q8_0.gguf", QW_KIND_TRANSFORMER },
    { COMFY "diffusion_models/qwen-image-medium-mixed.gguf", QW_KIND_TRANSFORMER },
    { COMFY "vae/qwen_image_vae_medium.safetensors", QW_KIND_VAE },
    { COMFY "text_encoders/qwen2.5-vl-medium-mmproj-F16.gguf", QW_KIND_VISION },
    { COMFY "text_encoders/qwen2.5-vl-medium-mmproj-Q8_0.gguf", QW_KIND_VISION },
    { COMFY "text_encoders/qwen2.5-vl-medium-BF16.gguf.gz", QW_KIND_TEXT },
    { COMFY "text_encoders/qwen2.5-vl-medium-Q8_0.gguf.gz", QW_KIND_TEXT },
    { COMFY "text_encoders/qwen_2.5_vl_medium.safetensors.gz", QW_KIND_TEXT },
    { COMFY "text_encoders/qwen_2.5_vl_medium_fp8_scaled.safetensors.gz", QW_KIND_TEXT },
    { COMFY "checkpoints/qwen_image_medium_aio_fp8.safetensors.gz", QW_KIND_CHECKPOINT },
};

/* A tensor that each kind has under its canonical name. */
static const char *landmark(qw_kind k)
{
    return k == QW_KIND_TRANSFORMER  ? "transformer_blocks.0.attn.to_q.weight"
           : k == QW_KIND_TEXT       ? "model.layers.1.self_attn.k_proj.bias"
           : k == QW_KIND_VISION     ? "visual.blocks.0.norm1.weight"
           : k == QW_KIND_VAE        ? "decoder.up_blocks.2.upsamplers.0.resample.1.weight"
           : k == QW_KIND_CONTROLNET ? "controlnet_x_embedder.weight"
                                     : NULL;
}

static void is_kind(const char *path, qw_kind part, qw_kind kind)
{
    qw_error err = { 0 };
    qw_kind found = QW_KIND_UNKNOWN;
    qw_store *s = open_store(path);
    good(qw_store_canonical(s, part, &found, &err), &err);
    ck_assert_msg(found == kind, "%s is found to be a %s, expected a %s", path, qw_kind_name(found),
                  qw_kind_name(kind));
    const char *one = landmark(kind);
    ck_assert_msg(!one || qw_store_find(s, one), "%s has no %s", path, one);
    qw_store_free(s);
}

/* Every file has its kind and the canonical names, and is refused as another kind. */
START_TEST(kinds)
{
    qw_error err = { 0 };
    const char *path = testdata(files[_i].path);
    const qw_kind kind = files[_i].kind;
    if (ends_with(path, ".gz")) {
        char command[2400];
        const char *plain = made("unpacked");
        snprintf(command, sizeof command, "gzip -dc '%s' > '%s'", path, plain);
        ck_assert_int_eq(system(command), 0);
        path = plain;
    }
    is_kind(path, QW_KIND_UNKNOWN, kind);
    if (kind == QW_KIND_CHECKPOINT) {
        is_kind(path, QW_KIND_TRANSFORMER, QW_KIND_TRANSFORMER);
        is_kind(path, QW_KIND_TEXT, QW_KIND_TEXT);
        is_kind(path, QW_KIND_VAE, QW_KIND_VAE);
    } else {
        qw_kind found;
        qw_store *s = open_store(path);
        is_kind(path, kind, kind);
        ck_assert_int_eq(qw_store_canonical(s,
                                            kind == QW_KIND_VAE ? QW_KIND_TRANSFORMER : QW_KIND_VAE,
                                            &found, &err),
                         QWEN_EMODEL);
        ck_assert_msg(strstr(err.text, qw_kind_name(kind)) != NULL, "%s", err.text);
        qw_store_free(s);
    }
}
END_TEST

START_TEST(lora_kinds)
{
    json_t *const loras = read_json(FORMATS "goldens/lora.json"), *row;
    size_t i;
    char path[300];
    json_array_foreach(loras, i, row)
    {
        const char *name = json_string_value(json_object_get(row, "file"));
        if (!name) continue;
        snprintf(path, sizeof path, COMFY "loras/%s", name);
        is_kind(testdata(path), QW_KIND_UNKNOWN, QW_KIND_LORA);
    }
    json_decref(loras);
}
END_TEST

/* A language model may be opened for its vision tower, and a Fun control network as a control
 * network. */
START_TEST(other_parts)
{
    qw_store_free(must_open(testdata("tiny/text_encoder"), QW_KIND_VISION));
    qw_store_free(
        must_open(testdata("fun-controlnet/fun_controlnet_tiny.safetensors"), QW_KIND_CONTROLNET));
}
END_TEST

/* --- files made here ------------------------------------------------------------------------- */

/* For each set of keys: the kind, or the status and a word of the reason. */
static const struct {
    const char *what;
    int n;
    item t[5];
    qw_kind kind;
    int status;
    const char *word;
} known[] = {
    { "fun",
      2,
      { { "control_img_in.weight", "F32", 2, { 8, 132 } },
        { "control_blocks.0.after_proj.weight", "F32", 2, { 8, 8 } } },
      QW_KIND_FUN,
      0,
      "" },
    { "blockwise",
      3,
      { { "controlnet_blocks.0.x_rms.weight", "F32", 1, { 8 } },
        { "controlnet_blocks.0.y_rms.weight", "F32", 1, { 8 } },
        { "img_in.weight", "F32", 2, { 8, 64 } } },
      QW_KIND_BLOCKWISE,
      0,
      "" },
    { "instantx",
      3,
      { { "controlnet_x_embedder.weight", "F32", 2, { 8, 64 } },
        { "txt_norm.weight", "F32", 1, { 8 } },
        { "transformer_blocks.0.img_mod.1.weight", "F32", 2, { 48, 8 } } },
      QW_KIND_CONTROLNET,
      0,
      "" },
    { "qwen 2.1",
      2,
      { { "txt_in.text_norm.weight", "F32", 1, { 8 } }, { "img_in.weight", "F32", 2, { 8, 64 } } },
      QW_KIND_QWEN21,
      QWEN_EUNSUPPORTED,
      "2.1" },
    { "qwen 2.1 modulation",
      1,
      { { "modulation.1.weight", "F32", 2, { 48, 8 } } },
      QW_KIND_QWEN21,
      QWEN_EUNSUPPORTED,
      "2.1" },
    { "qwen3",
      2,
      { { "model.layers.0.self_attn.q_norm.weight", "F32", 1, { 8 } },
        { "model.layers.0.self_attn.k_proj.weight", "F32", 2, { 8, 8 } } },
      QW_KIND_QWEN21,
      QWEN_EUNSUPPORTED,
      "2.1" },
    { "2.1 vae",
      2,
      { { "decoder.conv1.weight", "F32", 5, { 8, 64, 1, 1, 1 } },
        { "decoder.middle.0.residual.0.gamma", "F32", 1, { 8 } } },
      QW_KIND_QWEN21,
      QWEN_EUNSUPPORTED,
      "2.1" },
    { "wan 2.2",
      2,
      { { "decoder.conv1.weight", "F32", 5, { 8, 48, 1, 1, 1 } },
        { "decoder.middle.0.residual.0.gamma", "F32", 1, { 8 } } },
      QW_KIND_VAE,
      QWEN_EUNSUPPORTED,
      "2.2" },
    { "sd vae",
      2,
      { { "decoder.conv_in.weight", "F32", 4, { 8, 16, 3, 3 } },
        { "encoder.conv_in.weight", "F32", 4, { 8, 3, 3, 3 } } },
      QW_KIND_UNKNOWN,
      QWEN_EUNSUPPORTED,
      "VAE" },
    { "text, new names",
      4,
      { { "model.language_model.layers.0.self_attn.k_proj.bias", "F32", 1, { 8 } },
        { "model.language_model.norm.weight", "F32", 1, { 8 } },
        { "model.visual.merger.ln_q.weight", "F32", 1, { 8 } },
        { "lm_head.weight", "F32", 2, { 8, 8 } } },
      QW_KIND_TEXT,
      0,
      "" },
    { "lora",
      3,
      { { "transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "F32", 2, { 2, 8 } },
        { "transformer.transformer_blocks.0.attn.to_q.lora_B.weight", "F32", 2, { 8, 2 } },
        { "transformer.transformer_blocks.0.attn.to_q.alpha", "F32", 0, { 0 } } },
      QW_KIND_LORA,
      0,
      "" },
    { "nothing known", 1, { { "xyz", "F32", 1, { 8 } } }, QW_KIND_UNKNOWN, 0, "" },
};

START_TEST(kind_of_files)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        qw_error err = { 0 };
        qw_kind kind = QW_KIND_UNKNOWN;
        qw_store *s = open_part(write_safetensors("k.safetensors", "", known[i].t, known[i].n),
                                QW_KIND_UNKNOWN, &kind, &err);
        ck_assert_msg(err.status == known[i].status, "%s: status %d, \"%s\"", known[i].what,
                      err.status, err.text);
        ck_assert_msg(err.status || kind == known[i].kind, "%s is a %s", known[i].what,
                      qw_kind_name(kind));
        ck_assert_msg(!err.status || strstr(err.text, known[i].word), "%s: \"%s\"", known[i].what,
                      err.text);
        qw_store_free(s);
    }
    qw_error err = { 0 };
    qw_store *s = open_part(made("k.safetensors"), QW_KIND_VAE, NULL, &err);
    ck_assert_int_eq(err.status, QWEN_EMODEL);
    qw_store_free(s);
}
END_TEST

static void shaped(sheaf *s, const char *name, int rank, int64_t a, int64_t b, int64_t k)
{
    static float zeros[1 << 16];
    qw_entry e = { .data = zeros, .dtype = QW_F32, .rank = rank, .dim = { a, b, k, k, k } };
    e.bytes = (size_t)elements(&e) * 4;
    ck_assert_uint_le(e.bytes, sizeof zeros);
    sheaf_add(s, name, e);
}

static void refused(sheaf *s, qw_kind part, int status, const char *word)
{
    qw_error err = { 0 };
    for (int i = 0; i < 2; i++) { /* opened as a part, and without a part */
        qw_kind found;
        sheaf copy = { 0 };
        for (int k = 0; k < s->n; k++) sheaf_add(&copy, s->e[k].name, s->e[k]);
        qw_store *store = open_store(sheaf_write(&copy, "x.safetensors", 0));
        ck_assert_msg(qw_store_canonical(store, i ? QW_KIND_UNKNOWN : part, &found, &err) == status,
                      "status %d, expected %d naming %s: %s", err.status, status, word, err.text);
        ck_assert_msg(strstr(err.text, word) != NULL, "\"%s\" does not name %s", err.text, word);
        err = (qw_error){ 0 };
        qw_store_free(store);
    }
    sheaf_free(s);
}

START_TEST(refusals)
{
    static const char *const text[] = { "model.embed_tokens.weight",
                                        "model.norm.weight",
                                        "model.layers.0.input_layernorm.weight",
                                        "model.layers.0.self_attn.q_proj.weight",
                                        "model.layers.0.self_attn.k_proj.weight",
                                        "model.layers.0.mlp.gate_proj.weight" };
    static const char *const next[] = { "txt_in.text_norm.weight", "modulation.1.weight" };
    sheaf s = { 0 };
    for (int i = 0; i < 2; i++) {
        shaped(&s, "img_in.weight", 2, 128, 64, 0);
        sheaf_name(&s, "transformer_blocks.0.attn.to_q.weight");
        sheaf_name(&s, next[i]);
        refused(&s, QW_KIND_TRANSFORMER, QWEN_EUNSUPPORTED, "Qwen-Image-2.1");
    }
    shaped(&s, "decoder.conv_in.weight", 5, 8, 64, 3);
    sheaf_name(&s, "decoder.mid_block.resnets.0.norm1.gamma");
    refused(&s, QW_KIND_VAE, QWEN_EUNSUPPORTED, "Qwen-Image-2.1");
    for (int i = 0; i < 6; i++) sheaf_name(&s, text[i]);
    sheaf_name(&s, "model.layers.0.self_attn.q_norm.weight");
    refused(&s, QW_KIND_TEXT, QWEN_EUNSUPPORTED, "Qwen-Image-2.1");
    for (int i = 0; i < 6; i++) sheaf_name(&s, text[i]);
    refused(&s, QW_KIND_TEXT, QWEN_EUNSUPPORTED, "language model");
    shaped(&s, "decoder.conv1.weight", 5, 8, 48, 3);
    sheaf_name(&s, "decoder.middle.0.residual.0.gamma");
    sheaf_name(&s, "decoder.upsamples.0.upsamples.0.residual.2.weight");
    refused(&s, QW_KIND_VAE, QWEN_EUNSUPPORTED, "Wan 2.2");
    shaped(&s, "decoder.conv_in.weight", 4, 8, 4, 3);
    sheaf_name(&s, "decoder.mid.block_1.norm1.weight");
    refused(&s, QW_KIND_VAE, QWEN_EUNSUPPORTED, "VAE of another family");
    shaped(&s, "decoder.conv_in.weight", 5, 8, 12, 3);
    sheaf_name(&s, "decoder.mid_block.resnets.0.norm1.gamma");
    refused(&s, QW_KIND_VAE, QWEN_EUNSUPPORTED, "12 latent channels");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kinds");
    TCase *c = tcase_create("kinds");
    tcase_set_timeout(c, 120);
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_loop_test(c, kinds, 0, (int)(sizeof files / sizeof *files));
    tcase_add_test(c, lora_kinds);
    tcase_add_test(c, other_parts);
    tcase_add_test(c, kind_of_files);
    tcase_add_test(c, refusals);
    suite_add_tcase(s, c);
    return run_suite(s);
}
