/* check_streaming.c - a whole transformer on a device with too little memory has the output of the
 * host, bit for bit, with LoRA and without. */
#include "late.h"
#include "medium.h"
#include "testing.h"
#include "values.h"
#include <string.h>

static json_t *loras; /* of goldens/lora.json */

enum { BLOCKS = 4 };

/* The medium transformer with its block four times, so that several groups of one size share the
 * slots. */
static const char *make_long(void)
{
    sheaf s = { 0 };
    char name[400];
    static const char first[] = "transformer_blocks.0.";
    qw_store *plain = open_data(MEDIUM);
    sheaf_store(&s, plain, "", 0);
    for (int64_t i = 0; qw_store_entry(plain, i); i++)
        for (int k = 1; k < BLOCKS && starts_with(qw_store_entry(plain, i)->key, first); k++) {
            const qw_entry *e = qw_store_entry(plain, i);
            snprintf(name, sizeof name, "transformer_blocks.%d.%s", k, e->key + sizeof first - 1);
            sheaf_add(&s, name, *e);
        }
    const char *path = sheaf_write(&s, "long.safetensors", 0);
    qw_store_free(plain);
    return path;
}

static int open_net(model *m, qw_device *d, uint64_t memory)
{
    return open_model(m, d, made("long.safetensors"), NULL, memory);
}

/* Three passes: the output is that of the host, and weights move only where they stream. */
static void passes(model *m, const double *want, int part)
{
    const uint64_t moving = qw_residency_bytes(m->res, 1);
    for (int i = 0; i < 3; i++) {
        const uint64_t before = late_of(m->dev)->packs;
        double *x = forward(m);
        ck_assert_msg(difference(x, want, OUTPUT) == 0, "%d/20 of the weights, pass %d", part, i);
        ck_assert_msg(moving ? late_of(m->dev)->packs > before : late_of(m->dev)->packs == before,
                      "pass %d", i);
        free(x);
    }
}

/* For every bound of memory that the net accepts, the output has the bits of the host's. */
START_TEST(streamed)
{
    enum { ROUNDING = 1 << 17 }; /* blocks of a device are multiples of 256 */
    model m;
    int all = 0, too_few = 0;
    uint64_t least = UINT64_MAX, most = 0;
    make_long();
    open_net(&m, open_device("ref"), 0);
    double *want = forward(&m);
    ck_assert_uint_gt(qw_residency_bytes(m.res, 0), 0);
    ck_assert_uint_eq(qw_residency_bytes(m.res, 1), 0);
    ck_assert_uint_lt(qw_residency_bytes(m.res, 2), qw_residency_bytes(m.res, 0));
    close_model(&m);
    open_net(&m, open_late(1), 0);
    const uint64_t total = qw_residency_bytes(m.res, 0);
    ck_assert_uint_eq(qw_residency_bytes(m.res, 1), 0);
    close_model(&m);
    for (int part = 24; part > 0; part--) {
        const uint64_t bound = total * (uint64_t)part / 20;
        const int status = open_net(&m, open_late(1), bound);
        if (status) {
            ck_assert_int_eq(status, QWEN_ENOMEM);
            too_few++;
            continue;
        }
        const uint64_t kept = qw_residency_bytes(m.res, 0), moving = qw_residency_bytes(m.res, 1);
        ck_assert_uint_eq(kept + moving, total);
        ck_assert_uint_le(late_of(m.dev)->held - m.run.size, bound + ROUNDING);
        all += !moving;
        if (moving && kept < least) least = kept;
        if (moving && kept > most) most = kept;
        passes(&m, want, part);
        close_model(&m);
    }
    ck_assert_msg(all && too_few && least < most, "all %d, refused %d, kept %llu to %llu", all,
                  too_few, (unsigned long long)least, (unsigned long long)most);
    free(want);
}
END_TEST

/* Under a bound a host device releases pages and reads them again. */
START_TEST(bound_host)
{
    model m;
    make_long();
    open_net(&m, open_device("ref"), 0);
    double *want = forward(&m);
    close_model(&m);
    for (uint64_t memory = 1; memory < (uint64_t)1 << 30; memory <<= 10) {
        open_net(&m, open_device("ref"), memory);
        for (int i = 0; i < 2; i++) {
            double *x = forward(&m);
            ck_assert(difference(x, want, OUTPUT) == 0);
            free(x);
        }
        close_model(&m);
    }
    free(want);
}
END_TEST

/* The smallest bound that the net accepts in steps of a twentieth: groups stream. */
static void open_streaming(model *m)
{
    model host;
    open_net(&host, open_device("ref"), 0);
    const uint64_t bytes = qw_residency_bytes(host.res, 0);
    close_model(&host);
    int part = 1;
    while (open_net(m, open_late(1), bytes * (uint64_t)part / 20)) ck_assert_int_lt(++part, 24);
    ck_assert_uint_gt(qw_residency_bytes(m->res, 1), 0);
}

/* LoRA over weights that stream, and over weights that are kept, with passes between. */
START_TEST(lora_streamed)
{
    qw_error err = { 0 };
    const json_t *row = json_array_get(loras, (size_t)_i);
    model host, m;
    lora_row r;
    qw_overlay *o;
    if (json_object_get(row, "base")) return;
    make_long();
    open_row(&r, row);
    open_net(&host, open_device("ref"), 0);
    double *plain = forward(&host);
    good(qw_overlay_new(&o, r.lora, r.n, host.site, host.sites, host.dev, 0, NULL, NULL, &err),
         &err);
    double *want = forward(&host);
    qw_overlay_free(o);
    close_model(&host);
    for (int streams = 0; streams < 2; streams++) {
        if (streams) open_streaming(&m);
        else open_net(&m, open_late(1), 0);
        for (int i = 0; i < 3; i++) {
            good(qw_overlay_new(&o, r.lora, r.n, m.site, m.sites, m.dev, 0, NULL, NULL, &err),
                 &err);
            double *with = forward(&m);
            ck_assert_msg(difference(with, want, OUTPUT) == 0, "%d: with the LoRA, pass %d",
                          streams, i);
            qw_overlay_free(o);
            double *without = i == 1 ? NULL : forward(&m);
            ck_assert_msg(!without || difference(without, plain, OUTPUT) == 0,
                          "%d: without, pass %d", streams, i);
            free(with);
            free(without);
        }
        close_model(&m);
    }
    free(plain);
    free(want);
    close_row(&r);
}
END_TEST

/* Weights of every format on the device, packed, joined, or as they lie. */
START_TEST(formats)
{
    static const char *const file[] = {
        COMFY "diffusion_models/qwen_image_medium_bf16.safetensors",
        COMFY "diffusion_models/qwen_image_medium_fp8_rows.safetensors",
        COMFY "diffusion_models/qwen_image_medium_fp8mixed.safetensors",
        COMFY "diffusion_models/qwen_image_medium_fp8_e4m3fn_scaled.safetensors",
        COMFY "diffusion_models/qwen-image-medium-mixed.gguf",
        COMFY "diffusion_models/qwen-image-medium-Q4_K.gguf",
        "comfyquant/models/diffusion_models/qwen_image_medium_convrot_w4a4.safetensors",
        "comfyquant/models/diffusion_models/qwen_image_medium_int8_convrot.safetensors",
        "comfyquant/models/diffusion_models/qwen_image_medium_int8_tensorwise.safetensors",
        "comfyquant/models/diffusion_models/qwen_image_medium_mxfp8.safetensors",
        "comfyquant/models/diffusion_models/qwen_image_medium_nvfp4.safetensors",
    };
    for (size_t k = 0; k < sizeof file / sizeof file[0]; k++) {
        model m;
        ck_assert(!open_model(&m, open_device("ref"), testdata(file[k]), NULL, 0));
        double *want = forward(&m);
        close_model(&m);
        qw_device *d = open_late(k + 1);
        late_of(d)->joins = _i == 1;
        if (_i == 2) d->packed = NULL, d->pack = NULL;
        ck_assert(!open_model(&m, d, testdata(file[k]), NULL, 0));
        ck_assert(k || (late_of(d)->joined > 0) == (_i == 1));
        double *x = forward(&m);
        ck_assert_msg(difference(x, want, OUTPUT) == 0, "%s, %d", file[k], _i);
        for (int i = 0; i < QW_NOPS; i++) ck_assert_uint_eq(m.run.declined[i], 0);
        free(x);
        free(want);
        close_model(&m);
    }
}
END_TEST

int main(void)
{
    const int rows = open_loras(&loras);
    if (!rows) return EXIT_FAILURE;
    Suite *s = suite_create("streaming");
    TCase *c = tcase_create("streaming");
    tcase_set_timeout(c, 300);
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_test(c, streamed);
    tcase_add_test(c, bound_host);
    tcase_add_loop_test(c, formats, 0, 3);
    tcase_add_loop_test(c, lora_streamed, 0, rows);
    suite_add_tcase(s, c);
    const int failed = run_suite(s);
    json_decref(loras);
    return failed;
}
