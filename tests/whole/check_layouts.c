/* check_layouts.c - every file format and layout gives its golden outputs through the public
 * functions.
 *
 * Transformer, text encoder, vision tower and VAE of one small model, in every published form;
 * expected values are of the published network on the dequantised weights (formats/README.md,
 * comfyquant/README.md).  The error of a result may be four times that of the published code's
 * float32 run. */
#include <qwen/qwen.h>
#include "testing.h"
#include <check.h>
#include <jansson.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64]; /* where archives are unpacked, for this run */
static json_t *errors;  /* f32_error.json */

static int64_t count(const qwen_array *a)
{
    int64_t n = 1;
    for (int i = 0; i < a->rank; i++) n *= a->dim[i];
    return n;
}

static double at(const qwen_array *a, int64_t i)
{
    return a->dtype == QWEN_F64   ? ((double *)a->data)[i]
           : a->dtype == QWEN_F32 ? (double)((float *)a->data)[i]
                                  : ((int32_t *)a->data)[i];
}

static qwen_array read_tensor(const char *file, const char *name)
{
    qwen_file *f;
    qwen_array a = { 0 };
    ck_assert_msg(!qwen_file_open(&f, testdata(file)), "%s", qwen_file_error(f));
    ck_assert_msg(!qwen_file_read(f, name, &a), "%s", qwen_file_error(f));
    qwen_file_close(f);
    if (a.rank > 2 && a.dim[0] == 1) { /* the batch */
        a.rank--;
        memmove(a.dim, a.dim + 1, sizeof a.dim - sizeof *a.dim);
    }
    return a;
}

static qwen_array input(const char *name)
{
    return read_tensor("formats/goldens/inputs.safetensors", name);
}

/* Path of a file of testdata; archives are unpacked first. */
static void unpack(const char *rel, char *out, size_t size)
{
    char command[2300];
    struct stat st;
    const char *path = testdata(rel);
    if (!stat(path, &st)) {
        snprintf(out, size, "%s", path);
        return;
    }
    const char *slash = strrchr(rel, '/');
    snprintf(out, size, "%s/%s", folder, slash + 1);
    if (!stat(out, &st)) return;
    snprintf(command, sizeof command, "gzip -dc '%s.gz' > '%s'", path, out);
    ck_assert_msg(system(command) == 0, "%s.gz cannot be unpacked", path);
}

/* The diffusers directory with its archives unpacked. */
static void medium(char *out, size_t size)
{
    char command[4096];
    struct stat st;
    snprintf(out, size, "%s/medium", folder);
    if (!stat(out, &st)) return;
    snprintf(command, sizeof command,
             "cp -RL '%s' '%s' && chmod -R u+w '%s' && gzip -d '%s'/text_encoder/*.gz",
             testdata("formats/medium"), out, out, out);
    ck_assert_msg(system(command) == 0, "medium cannot be unpacked");
}

static double allowed(const char *golden, const char *name)
{
    const json_t *e =
        json_object_get(json_object_get(json_object_get(errors, golden), name), "max_abs");
    return e ? 4 * json_number_value(e) : 4 * 1.8e-5;
}

static void compare(const char *what, const char *file, const char *golden, const char *name,
                    const qwen_array *got)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s.safetensors", file, golden);
    qwen_array want = read_tensor(path, name);
    double off = 0;
    ck_assert_msg(count(&want) == count(got), "%s: %s has %lld values, expected %lld", what, name,
                  (long long)count(got), (long long)count(&want));
    for (int64_t i = 0; i < count(got); i++) off = fmax(off, fabs(at(got, i) - at(&want, i)));
    ck_assert_msg(off <= allowed(golden, name), "%s: %s is off by %.3g, allowed %.3g", what, name,
                  off, allowed(golden, name));
    qwen_array_free(&want);
}

static qwen *open_with(const qwen_options *opt)
{
    qwen *q;
    ck_assert_msg(!qwen_open(&q, opt), "%s", qwen_error(q));
    return q;
}

/* --- transformers ----------------------------------------------------------------------------- */

static const struct {
    const char *file, *goldens, *golden;
} transformers[] = {
#define DIT(f, g)                                                          \
    {                                                                      \
        "formats/comfyui/models/diffusion_models/" f, "formats/goldens", g \
    }
#define QUANT(n)                                                                  \
    {                                                                             \
        "comfyquant/models/diffusion_models/qwen_image_medium_" n ".safetensors", \
            "comfyquant/goldens", n                                               \
    }
    { "formats/medium/transformer", "formats/goldens", "bf16" },
    DIT("qwen_image_medium_bf16.safetensors", "bf16"),
    DIT("qwen_image_medium_fp8_e4m3fn.safetensors", "fp8_e4m3fn"),
    DIT("qwen_image_medium_fp8_e4m3fn_scaled.safetensors", "fp8_scaled_old"),
    DIT("qwen_image_medium_fp8mixed.safetensors", "fp8_comfy_quant"),
    DIT("qwen_image_medium_fp8_header.safetensors", "fp8_header"),
    DIT("qwen_image_medium_fp8_rows.safetensors", "fp8_rows"),
    DIT("qwen-image-medium-BF16.gguf", "gguf_bf16"),
    DIT("qwen-image-medium-Q8_0.gguf", "gguf_q8_0"),
    DIT("qwen-image-medium-Q4_0.gguf", "gguf_q4_0"),
    DIT("qwen-image-medium-Q5_1.gguf", "gguf_q5_1"),
    DIT("qwen-image-medium-Q4_K.gguf", "gguf_q4_k"),
    DIT("qwen-image-medium-Q6_K.gguf", "gguf_q6_k"),
    DIT("qwen-image-medium-Q5_K.gguf", "gguf_q5_k"),
    DIT("qwen-image-medium-Q2_K.gguf", "gguf_q2_k"),
    DIT("qwen-image-medium-Q3_K.gguf", "gguf_q3_k"),
    DIT("qwen-image-medium-mixed.gguf", "gguf_mixed"),
    { "formats/comfyui/models/checkpoints/qwen_image_medium_aio_fp8.safetensors", "formats/goldens",
      "fp8_e4m3fn" },
    QUANT("int8_tensorwise"),
    QUANT("int8_convrot"),
    QUANT("convrot_w4a4"),
    QUANT("asym_w4a8_int8"),
    QUANT("mxfp8"),
    QUANT("nvfp4"),
    QUANT("awq_w4a16"),
};

/* The golden input is packed, 6 x 8 tokens of 64; the function takes and gives latents
 * [16][12][16]. */
static void repack(const qwen_array *from, qwen_array *to, int packing)
{
    const int64_t h = 12, w = 16;
    for (int64_t c = 0; c < 16; c++)
        for (int64_t y = 0; y < h; y++)
            for (int64_t x = 0; x < w; x++) {
                const int64_t latent = (c * h + y) * w + x;
                const int64_t token = (y / 2 * (w / 2) + x / 2) * 64 + c * 4 + y % 2 * 2 + x % 2;
                ((float *)to->data)[packing ? token : latent] =
                    (float)at(from, packing ? latent : token);
            }
}

static qwen_array velocity(qwen *q)
{
    qwen_array packed = input("dit.hidden_states"), text = input("dit.encoder_hidden_states"),
               t = input("dit.timestep");
    qwen_array latent = { .dtype = QWEN_F32, .rank = 3, .dim = { 16, 12, 16 } }, v = { 0 },
               out = packed;
    latent.data = calloc(3072, sizeof(float));
    out.data = calloc(3072, sizeof(float));
    out.dtype = QWEN_F32;
    repack(&packed, &latent, 0);
    ck_assert_msg(!qwen_velocity(q, &latent, 1, at(&t, 0), &text, &v), "%s", qwen_error(q));
    repack(&v, &out, 1);
    qwen_array_free(&packed);
    qwen_array_free(&text);
    qwen_array_free(&t);
    qwen_array_free(&latent);
    qwen_array_free(&v);
    return out;
}

START_TEST(transformer)
{
    char file[1200];
    unpack(transformers[_i].file, file, sizeof file);
    const qwen_options opt = { .size = sizeof opt, .transformer = file, .device = "ref" };
    qwen *q = open_with(&opt);
    qwen_array v = velocity(q);
    compare(transformers[_i].file, transformers[_i].goldens, transformers[_i].golden, "dit.out",
            &v);
    qwen_array_free(&v);
    qwen_close(q);
}
END_TEST

/* A LoRA on rotated int8 weights gets the inputs without rotation. */
START_TEST(rotated_lora)
{
    const qwen_options opt = {
        .size = sizeof opt,
        .device = "ref",
        .transformer = testdata(
            "comfyquant/models/diffusion_models/qwen_image_medium_int8_convrot.safetensors")
    };
    qwen *q = open_with(&opt);
    ck_assert_msg(
        !qwen_lora(q, testdata("formats/comfyui/models/loras/comfyui_diffusion_model.safetensors"),
                   0.8, 0),
        "%s", qwen_error(q));
    qwen_array v = velocity(q);
    compare("int8_convrot with a LoRA", "comfyquant/goldens", "int8_convrot", "dit.out.lora_0.8",
            &v);
    qwen_array_free(&v);
    qwen_close(q);
}
END_TEST

/* --- text and vision -------------------------------------------------------------------------- */

static const struct {
    const char *text, *vision, *golden;
} encoders[] = {
    { NULL, NULL, "bf16" },
    { "formats/comfyui/models/text_encoders/qwen_2.5_vl_medium.safetensors", NULL, "bf16" },
    { "formats/comfyui/models/text_encoders/qwen_2.5_vl_medium_fp8_scaled.safetensors", NULL,
      "fp8_scaled_old" },
    { "formats/comfyui/models/text_encoders/qwen2.5-vl-medium-BF16.gguf",
      "formats/comfyui/models/text_encoders/qwen2.5-vl-medium-mmproj-F16.gguf", "gguf_bf16" },
    { "formats/comfyui/models/text_encoders/qwen2.5-vl-medium-Q8_0.gguf",
      "formats/comfyui/models/text_encoders/qwen2.5-vl-medium-mmproj-Q8_0.gguf", "gguf_q8_0" },
    { "formats/comfyui/models/checkpoints/qwen_image_medium_aio_fp8.safetensors", NULL,
      "fp8_scaled_old" },
};

START_TEST(encoder)
{
    char model[128], text[1200], vision[1200], name[64];
    medium(model, sizeof model);
    if (encoders[_i].text) unpack(encoders[_i].text, text, sizeof text);
    if (encoders[_i].vision) unpack(encoders[_i].vision, vision, sizeof vision);
    const qwen_options opt = { .size = sizeof opt,
                               .model = model,
                               .device = "ref",
                               .text_encoder = encoders[_i].text ? text : NULL,
                               .vision = encoders[_i].vision ? vision : NULL };
    qwen *q = open_with(&opt);
    qwen_array pixels = input("vision.pixels"), grid = input("vision.grid"), features = { 0 },
               hidden = { 0 };
    if (grid.rank == 1) { /* one picture: the batch axis was its list */
        grid.rank = 2;
        grid.dim[1] = grid.dim[0];
        grid.dim[0] = 1;
    }
    ck_assert_msg(!qwen_vision(q, &pixels, &grid, &features), "%s", qwen_error(q));
    compare(text, "formats/goldens", encoders[_i].golden, "vision.out", &features);
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "text.%d.ids", i);
        qwen_array ids = input(name);
        ck_assert_msg(!qwen_hidden(q, &ids, NULL, NULL, &hidden), "%s", qwen_error(q));
        snprintf(name, sizeof name, "text.%d.hidden", i);
        compare(encoders[_i].golden, "formats/goldens", encoders[_i].golden, name, &hidden);
        qwen_array_free(&ids);
        qwen_array_free(&hidden);
    }
    qwen_array ids = input("edit.ids");
    ck_assert_msg(!qwen_hidden(q, &ids, &features, &grid, &hidden), "%s", qwen_error(q));
    compare(encoders[_i].golden, "formats/goldens", encoders[_i].golden, "edit.hidden", &hidden);
    qwen_array_free(&ids);
    qwen_array_free(&hidden);
    qwen_array_free(&features);
    qwen_array_free(&pixels);
    qwen_array_free(&grid);
    qwen_close(q);
}
END_TEST

/* --- VAE -------------------------------------------------------------------------------------- */

static const char *const vaes[] = {
    NULL, "formats/comfyui/models/vae/qwen_image_vae_medium.safetensors",
    "formats/comfyui/models/checkpoints/qwen_image_medium_aio_fp8.safetensors"
};

START_TEST(vae)
{
    char model[128], file[1200];
    medium(model, sizeof model);
    if (vaes[_i]) unpack(vaes[_i], file, sizeof file);
    const qwen_options opt = {
        .size = sizeof opt, .model = model, .device = "ref", .vae = vaes[_i] ? file : NULL
    };
    qwen *q = open_with(&opt);
    qwen_array latent = input("vae.latent"), chw = input("vae.picture"), got = { 0 };
    ck_assert_msg(!qwen_decode(q, &latent, &got), "%s", qwen_error(q));
    qwen_array turned = { .dtype = QWEN_F32, .rank = 3, .dim = { 3, got.dim[0], got.dim[1] } };
    turned.data = calloc((size_t)count(&got), sizeof(float));
    const int64_t n = got.dim[0] * got.dim[1];
    for (int64_t i = 0; i < 3 * n; i++)
        ((float *)turned.data)[i % 3 * n + i / 3] = (float)at(&got, i);
    compare("decoder", "formats/goldens", "bf16", "vae.decoded", &turned);
    qwen_array_free(&got);
    qwen_array picture = { .dtype = QWEN_F32, .rank = 3, .dim = { chw.dim[1], chw.dim[2], 3 } };
    picture.data = calloc((size_t)count(&chw), sizeof(float));
    const int64_t m = chw.dim[1] * chw.dim[2];
    for (int64_t i = 0; i < 3 * m; i++)
        ((float *)picture.data)[i % m * 3 + i / m] = (float)at(&chw, i);
    ck_assert_msg(!qwen_encode(q, &picture, &got), "%s", qwen_error(q));
    json_t *config;
    char path[256];
    json_error_t why;
    snprintf(path, sizeof path, "%s/vae/config.json", model);
    ck_assert_ptr_nonnull(config = json_load_file(path, 0, &why));
    for (int64_t i = 0; i < count(&got); i++) { /* the golden mean is not normalised */
        const size_t c = (size_t)(i / (got.dim[1] * got.dim[2]));
        const double mean =
            json_number_value(json_array_get(json_object_get(config, "latents_mean"), c));
        const double std =
            json_number_value(json_array_get(json_object_get(config, "latents_std"), c));
        ((float *)got.data)[i] = (float)(at(&got, i) * std + mean);
    }
    compare("encoder", "formats/goldens", "bf16", "vae.mean", &got);
    json_decref(config);
    qwen_array_free(&got);
    qwen_array_free(&picture);
    qwen_array_free(&turned);
    qwen_array_free(&latent);
    qwen_array_free(&chw);
    qwen_close(q);
}
END_TEST

/* --- one model, two layouts, one picture ------------------------------------------------------ */

static qwen_array draw(const qwen_options *opt)
{
    qwen *q = open_with(opt);
    const qwen_request req = { .size = sizeof req,
                               .prompt = "a cat",
                               .negative = " ",
                               .guidance = 3,
                               .steps = 2,
                               .width = 64,
                               .height = 48,
                               .seed = 7 };
    qwen_result res = { .size = sizeof res };
    ck_assert_msg(!qwen_generate(q, &req, &res), "%s", qwen_error(q));
    qwen_array a = res.image[0];
    a.data = malloc((size_t)count(&a));
    memcpy(a.data, res.image[0].data, (size_t)count(&a));
    qwen_result_free(&res);
    qwen_close(q);
    return a;
}

START_TEST(same_picture)
{
    char model[128], text[1200];
    medium(model, sizeof model);
    unpack(encoders[1].text, text, sizeof text);
    const qwen_options directory = { .size = sizeof directory, .model = model, .device = "ref" };
    const qwen_options pieces = {
        .size = sizeof pieces,
        .model = model,
        .device = "ref",
        .transformer =
            testdata("formats/comfyui/models/diffusion_models/qwen_image_medium_bf16.safetensors"),
        .text_encoder = text,
        .vae = testdata(vaes[1])
    };
    qwen_array a = draw(&directory), b = draw(&pieces);
    ck_assert_int_eq(count(&a), count(&b));
    ck_assert_msg(!memcmp(a.data, b.data, (size_t)count(&a)), "the pictures differ");
    qwen_array_free(&a);
    qwen_array_free(&b);
}
END_TEST

int main(void)
{
    json_error_t why;
    char command[128];
    strcpy(folder, "/tmp/qwlayoutsXXXXXX");
    if (!mkdtemp(folder)
        || !(errors = json_load_file(testdata("formats/goldens/f32_error.json"), 0, &why))) {
        perror("check_layouts");
        return 99;
    }
    Suite *s = suite_create("layouts");
    TCase *t = tcase_create("files");
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, transformer, 0, sizeof transformers / sizeof *transformers);
    tcase_add_test(t, rotated_lora);
    tcase_add_loop_test(t, encoder, 0, sizeof encoders / sizeof *encoders);
    tcase_add_loop_test(t, vae, 0, sizeof vaes / sizeof *vaes);
    tcase_add_test(t, same_picture);
    suite_add_tcase(s, t);
    const int failed = run_suite(s);
    json_decref(errors);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command) ? 1 : failed;
}
