/* check_lora.c - LoRA files: all spellings are equal, outputs are golden, keys that match nothing
 * are named, and freeing restores the net. */
#include "medium.h"
#include "testing.h"
#include "values.h"
#include <string.h>

/* --- spellings ------------------------------------------------------------------------------- */

#define LORAS COMFY "loras/"
static const struct {
    const char *file;
    double factor;
} spellings[] = {
    { LORAS "peft_bare.safetensors", 1 },
    { LORAS "peft_default_adapter.safetensors", 1 },
    { LORAS "base_model_prefix.safetensors", 1 },
    { LORAS "lora_dot_up.safetensors", 1 },
    { LORAS "lora_linear_layer.safetensors", 1 },
    { LORAS "lora_B_no_weight.safetensors", 1 },
    { LORAS "underscore_lora_up.safetensors", 1 },
    { LORAS "peft_with_alpha.safetensors", 0.5 },
    { LORAS "peft_metadata.safetensors", 0.5 },
    { LORAS "comfyui_diffusion_model.safetensors", 0.5 },
    { LORAS "model_diffusion_model.safetensors", 0.5 },
    { LORAS "kohya_lora_unet.safetensors", 0.5 },
    { LORAS "lora_transformer.safetensors", 0.5 },
    { LORAS "lycoris_underscored.safetensors", 0.5 },
    { LORAS "lightning_bare.safetensors", 0.5 },
};

static void lay_file(model *m, const char *file, double strength, qw_overlay **o)
{
    qw_error err = { 0 };
    qw_lora *l = NULL;
    ck_assert_msg(!qw_lora_open(&l, testdata(file), strength, &err), "%s", err.text);
    ck_assert_msg(!qw_overlay_new(o, &l, 1, m->site, m->sites, m->dev, 0, NULL, NULL, &err), "%s",
                  err.text);
    qw_lora_free(l);
}

/* All spellings hold the same matrices: the factors are those of the first, times alpha / rank. */
START_TEST(lora_spellings)
{
    model one, two;
    qw_overlay *p = NULL, *q = NULL;
    int laid = 0;
    open_medium(&one, "ref");
    open_medium(&two, "ref");
    lay_file(&one, LORAS "peft_transformer.safetensors", 1, &p);
    lay_file(&two, spellings[_i].file, 2, &q);
    for (int i = 0; i < one.sites; i++) {
        const qw_weight_part *a = one.site[i].part, *b = two.site[i].part;
        ck_assert_int_eq(qw_present(&a->a), qw_present(&b->a));
        if (!qw_present(&a->a)) continue;
        laid++;
        ck_assert_int_eq(b->a.dim[0], 4);
        for (int64_t j = 0; j < 4 * one.site[i].k; j++)
            ck_assert_float_eq(((float *)a->a.data)[j], ((float *)b->a.data)[j]);
        for (int64_t j = 0; j < 4 * one.site[i].n; j++)
            ck_assert_float_eq((float)(2 * spellings[_i].factor) * ((float *)a->b.data)[j],
                               ((float *)b->b.data)[j]);
    }
    ck_assert_int_ge(laid, 8);
    qw_overlay_free(p);
    qw_overlay_free(q);
    for (int i = 0; i < two.sites; i++) ck_assert(!qw_present(&two.site[i].part->a));
    close_model(&one);
    close_model(&two);
}
END_TEST

/* --- golden outputs -------------------------------------------------------------------------- */

static json_t *loras; /* of goldens/lora.json */

/* The bound for float32: four times the error of the published code's float32 run. */
static double allowed(const char *golden)
{
    qw_error err = { 0 };
    json_t *json;
    good(qw_json_file(testdata(FORMATS "goldens/f32_error.json"), &json, &err), &err);
    const double off = json_number_value(
        json_object_get(json_object_get(json_object_get(json, golden), "dit.out"), "max_abs"));
    json_decref(json);
    ck_assert_msg(off > 0, "nothing is known of the error of %s", golden);
    return 4 * off;
}

/* A row of the table on a device; without the files the output is the former one. */
static void lay_row(const json_t *row, const char *device)
{
    qw_error err = { 0 };
    const char *golden = json_string_value(json_object_get(row, "golden"));
    const char *base = json_string_value(json_object_get(row, "base"));
    char path[300], name[100];
    model m;
    lora_row r;
    qw_overlay *o;
    if (base) snprintf(path, sizeof path, COMFY "diffusion_models/%s", base);
    open_model(&m, open_device(device), testdata(base ? path : MEDIUM), MEDIUM "/config.json", 0);
    open_row(&r, row);
    double *before = forward(&m);
    good(qw_overlay_new(&o, r.lora, r.n, m.site, m.sites, m.dev, 0, NULL, NULL, &err), &err);
    ck_assert_uint_gt(qw_overlay_bytes(o), 0);
    double *with = forward(&m);
    qw_overlay_free(o);
    double *after = forward(&m);
    qw_store *gold = open_data(FORMATS "goldens/lora.safetensors");
    snprintf(name, sizeof name, "%s.dit.out", golden);
    double *want = values(gold, name, NULL);
    const double off = difference(with, want, OUTPUT),
                 limit = m.dev->wide == QW_F64 ? 1e-10 : allowed(golden);
    ck_assert_msg(off <= limit, "%s on %s is off by %.3g, allowed %.3g", golden, device, off,
                  limit);
    ck_assert_msg(difference(before, after, OUTPUT) == 0, "%s leaves traces", golden);
    ck_assert_msg(difference(before, with, OUTPUT) > 0.1, "%s has no effect", golden);
    qw_store_free(gold);
    free(before);
    free(with);
    free(after);
    free(want);
    close_row(&r);
    close_model(&m);
}

START_TEST(lora64) { lay_row(json_array_get(loras, (size_t)_i), "ref64"); }
END_TEST
START_TEST(lora32) { lay_row(json_array_get(loras, (size_t)_i), "ref"); }
END_TEST

static void count_notice(void *user, const char *line)
{
    ck_assert_msg(strstr(line, "double_blocks.0.img_attn") != NULL, "%s", line);
    ++*(int *)user;
}

/* Keys that match nothing are an error with a name, or with `partial` a notice. */
START_TEST(lora_partial)
{
    qw_error err = { 0 };
    model m;
    qw_lora *l;
    qw_overlay *o;
    int notices = 0;
    sheaf s = { 0 };
    open_medium(&m, "ref");
    qw_store *plain = open_data(COMFY "loras/comfyui_diffusion_model.safetensors");
    sheaf_store(&s, plain, "", 0);
    qw_entry up = s.e[0];
    for (int i = 0; i < s.n; i++)
        if (strstr(s.e[i].name, "lora_up") || strstr(s.e[i].name, "lora_B")) up = s.e[i];
    qw_entry down = up;
    down.dim[0] = up.dim[1];
    down.dim[1] = up.dim[0];
    sheaf_add(&s, "diffusion_model.double_blocks.0.img_attn.lora_B.weight", up);
    sheaf_add(&s, "diffusion_model.double_blocks.0.img_attn.lora_A.weight", down);
    good(qw_lora_open(&l, sheaf_write(&s, "partial.safetensors", 0), 1, &err), &err);
    ck_assert_int_eq(qw_overlay_new(&o, &l, 1, m.site, m.sites, m.dev, 0, NULL, NULL, &err),
                     QWEN_EMODEL);
    ck_assert_msg(strstr(err.text, "double_blocks.0.img_attn") != NULL, "%s", err.text);
    err = (qw_error){ 0 };
    good(qw_overlay_new(&o, &l, 1, m.site, m.sites, m.dev, 1, count_notice, &notices, &err), &err);
    ck_assert_int_eq(notices, 1);
    qw_overlay_free(o);
    qw_lora_free(l);
    qw_store_free(plain);
    close_model(&m);
}
END_TEST

int main(void)
{
    const int rows = open_loras(&loras);
    if (!rows) return EXIT_FAILURE;
    Suite *s = suite_create("lora");
    TCase *c = tcase_create("spellings");
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, lora_spellings, 0, (int)(sizeof spellings / sizeof *spellings));
    suite_add_tcase(s, c);
    c = tcase_create("golden");
    tcase_set_timeout(c, 300);
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_loop_test(c, lora64, 0, rows);
    tcase_add_loop_test(c, lora32, 0, rows);
    tcase_add_test(c, lora_partial);
    suite_add_tcase(s, c);
    const int failed = run_suite(s);
    json_decref(loras);
    return failed;
}
