/* check_config.c - the numbers of a model: from its config.json, from its GGUF, published ones. */
#include "files/config.h"
#include "files.h"
#include "testing.h"

START_TEST(configurations)
{
    qw_error err = { 0 };
    json_t *json = NULL;
    qw_text_config t;
    qw_vision_config v;
    qw_dit_config d;
    qw_vae_config a;
    qw_schedule_config c;
    qw_store *s = must_open(testdata("tiny/text_encoder"), QW_KIND_TEXT);
    ck_assert(!qw_json_file(testdata("tiny/text_encoder/config.json"), &json, &err));
    ck_assert_msg(!qw_text_configure(&t, json, s, "text", &err), "%s", err.text);
    ck_assert(t.width == 32 && t.layers == 3 && t.heads == 4 && t.kv_heads == 2 && t.head == 8
              && t.ff == 48 && !t.tied && t.section[2] == 2 && t.theta == 1e6
              && t.image_token == 151655);
    ck_assert_msg(!qw_vision_configure(&v, json, NULL, s, "vision", &err), "%s", err.text);
    ck_assert(v.depth == 4 && v.width == 32 && v.heads == 2 && v.fulls == 2 && v.full[1] == 3
              && v.window == 56 && v.channels == 3 && v.max_pixels == 12845056);
    json_decref(json);
    qw_store_free(s);
    s = must_open(testdata("tiny-layered/transformer"), QW_KIND_TRANSFORMER);
    ck_assert(!qw_json_file(testdata("tiny-layered/transformer/config.json"), &json, &err));
    ck_assert_msg(!qw_dit_configure(&d, json, s, "dit", &err), "%s", err.text);
    ck_assert(d.layers == 3 && d.heads == 3 && d.head == 16 && d.width == 48 && d.text_width == 32
              && d.axes[0] == 4 && d.additional_t && d.layer3d && !d.zero_cond_t && d.out == 16);
    json_decref(json);
    qw_store_free(s);
    s = must_open(testdata("tiny-layered/vae"), QW_KIND_VAE);
    ck_assert(!qw_json_file(testdata("tiny-layered/vae/config.json"), &json, &err));
    ck_assert_msg(!qw_vae_configure(&a, json, s, "vae", &err), "%s", err.text);
    ck_assert(a.base == 8 && a.z == 16 && a.levels == 4 && a.res_blocks == 2 && a.channels == 4
              && a.std[1] == 1.07);
    json_decref(json);
    qw_store_free(s);
    ck_assert(
        !qw_json_file(testdata("tiny-lightning/scheduler/scheduler_config.json"), &json, &err));
    ck_assert_msg(!qw_schedule_configure(&c, json, "schedule", &err), "%s", err.text);
    ck_assert(c.terminal == 0 && c.max_len == 8192 && c.dynamic && !c.linear
              && c.base_shift > 1.0986);
    json_decref(json);
    ck_assert(!qw_schedule_configure(&c, NULL, "schedule", &err) && c.terminal == 0.02
              && c.max_shift == 0.9);
}
END_TEST

/* The heads of a model from its GGUF, without a config.json. */
START_TEST(gguf_configuration)
{
    const int64_t q[2] = { 32, 32 }, k[2] = { 32, 16 }, one[1] = { 32 }, bias[1] = { 16 };
    gguf g = { 0 };
    gguf_text(&g, "general.architecture", "qwen2vl");
    gguf_u32(&g, "qwen2vl.attention.head_count", 4);
    gguf_u32(&g, "qwen2vl.attention.head_count_kv", 2);
    gguf_array(&g, "qwen2vl.rope.dimension_sections", GGUF_I32, 4);
    for (int i = 0; i < 4; i++) append_number(&g.head, (const uint64_t[]){ 2, 1, 1, 0 }[i], 4);
    gguf_tensor(&g, "blk.0.attn_q.weight", 0, q, 2, 0, 4096);
    gguf_tensor(&g, "blk.0.attn_k.weight", 0, k, 2, 4096, 2048);
    gguf_tensor(&g, "blk.0.attn_k.bias", 0, bias, 1, 6144, 64);
    gguf_tensor(&g, "output_norm.weight", 0, one, 1, 6208, 128);
    qw_error err = { 0 };
    qw_text_config c;
    qw_store *s = must_open(write_gguf("text.gguf", &g), QW_KIND_TEXT);
    ck_assert(qw_store_find(s, "model.layers.0.self_attn.k_proj.bias") != NULL);
    ck_assert_msg(!qw_text_configure(&c, NULL, s, "text", &err), "%s", err.text);
    ck_assert(c.heads == 4 && c.kv_heads == 2 && c.head == 8 && c.width == 32 && c.layers == 1);
    ck_assert(c.section[0] == 2 && c.section[1] == 1 && c.section[2] == 1);
    qw_store_free(s);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("config");
    TCase *c = tcase_create("config");
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_test(c, configurations);
    tcase_add_test(c, gguf_configuration);
    suite_add_tcase(s, c);
    return run_suite(s);
}
