/* check_oom.c - opening each kind of file while the k-th allocation fails, for every k.
 *
 * The linker sends malloc, calloc, realloc and strdup of the library to the functions below
 * (--wrap), Jansson's are set.  For each failing allocation the status is QWEN_ENOMEM or the result
 * is complete; under AddressSanitizer nothing is leaked or touched twice. */
#include "host/text.h"
#include "nets/net.h"
#include "testing.h"
#include <check.h>
#include <stdlib.h>
#include <string.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t m);
void *__real_realloc(void *p, size_t n);
char *__real_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t m);
void *__wrap_realloc(void *p, size_t n);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);

static long countdown; /* 0: nothing fails; else the allocation that does */
static long allocations;

static int fails(void)
{
    allocations++;
    return countdown > 0 && --countdown == 0;
}

void *__wrap_malloc(size_t n) { return fails() ? NULL : __real_malloc(n); }
void *__wrap_calloc(size_t n, size_t m) { return fails() ? NULL : __real_calloc(n, m); }
void *__wrap_realloc(void *p, size_t n) { return fails() ? NULL : __real_realloc(p, n); }
char *__wrap_strdup(const char *s) { return fails() ? NULL : __real_strdup(s); }
char *__wrap_strndup(const char *s, size_t n) { return fails() ? NULL : __real_strndup(s, n); }

/* Jansson's own allocations.  Jansson reports lack of memory as bad syntax and ignores some
 * failures, so that here only a crash, a leak or an endless loop is wrong. */
static int in_jansson, jansson_failed;

static void *jansson_malloc(size_t n)
{
    if (!in_jansson) return __real_malloc(n);
    const int failed = fails();
    jansson_failed |= failed;
    return failed ? NULL : __real_malloc(n);
}

typedef int (*attempt)(const char *path); /* opens and closes; the status */

/* Fails allocation 1, 2, 3 ... and, past the first 300, ever larger strides; with and without
 * Jansson's. */
static void sweep(attempt open, const char *path)
{
    for (in_jansson = 0; in_jansson < 2; in_jansson++) {
        countdown = 0;
        allocations = 0;
        ck_assert_msg(open(path) == QWEN_OK, "%s does not open when memory is plenty", path);
        const long total = allocations;
        ck_assert_int_gt(total, 0);
        for (long k = 1; k <= total; k += k < 300 ? 1 : k / 15) {
            countdown = k;
            jansson_failed = 0;
            const int status = open(path);
            const int never = countdown > 0; /* there were fewer allocations */
            countdown = 0;                   /* Check allocates too */
            ck_assert_msg(status == QWEN_ENOMEM || jansson_failed || (status == QWEN_OK && never),
                          "%s: allocation %ld of %ld%s fails and the answer is %d (%s)", path, k,
                          total, jansson_failed ? " (Jansson's)" : "", status,
                          qwen_strerror(status));
        }
    }
    countdown = 0;
}

static int open_store(const char *path)
{
    qw_error err = { 0 };
    qw_store *s = NULL;
    qw_kind kind;
    int status = qw_store_new(&s, &err);
    if (!status) status = qw_store_add(s, path, &err);
    if (!status) status = qw_store_canonical(s, QW_KIND_UNKNOWN, &kind, &err);
    qw_store_free(s);
    return status;
}

static int open_tokenizer(const char *path)
{
    qw_error err = { 0 };
    qw_tokenizer *t = NULL;
    const int status = qw_tokenizer_open(&t, path, &err);
    qw_tokenizer_free(t);
    return status;
}

static int open_lora(const char *path)
{
    qw_error err = { 0 };
    qw_lora *l = NULL;
    const int status = qw_lora_open(&l, path, 1, &err);
    qw_lora_free(l);
    return status;
}

static int open_transformer(const char *path)
{
    qw_error err = { 0 };
    qw_store *s = NULL;
    qw_device *dev = NULL;
    qw_residency *res = NULL;
    qw_dit *dit = NULL;
    qw_dit_config c;
    qw_kind kind;
    int status = qw_store_new(&s, &err);
    if (!status) status = qw_store_add(s, path, &err);
    if (!status) status = qw_store_canonical(s, QW_KIND_TRANSFORMER, &kind, &err);
    if (!status) status = qw_dit_configure(&c, NULL, s, path, &err);
    if (!status) status = qw_device_open("ref", &(qw_device_options){ .threads = 1 }, &dev, &err);
    if (!status) status = qw_residency_new(&res, dev, 0, &err);
    if (!status) {
        qw_loader l = { .store = s, .res = res, .err = &err };
        status = qw_dit_load(&dit, &c, &l);
    }
    if (!status) status = qw_residency_commit(res, &err);
    qw_dit_free(dit);
    qw_residency_free(res);
    if (dev) dev->close(dev);
    qw_store_free(s);
    return status;
}

static int open_model(const char *path)
{
    const qwen_options opt = { .size = sizeof opt, .model = path, .device = "ref", .threads = 1 };
    qwen *q = NULL;
    const int status = qwen_open(&q, &opt);
    qwen_close(q);
    return status;
}

/* --- drawing ---------------------------------------------------------------------------------- */

/* Edits a picture on a handle opened without failures; then allocation k fails (0: none).  If the
 * request succeeds all the same (a cache), the picture is the same. */
static int draw(const char *path, long k, uint8_t *pixels, uint8_t *drawn)
{
    const qwen_options opt = { .size = sizeof opt, .model = path, .device = "ref", .threads = 1 };
    const qwen_array input = { .data = pixels, .dtype = QWEN_U8, .rank = 3, .dim = { 32, 32, 3 } };
    const qwen_request r = { .size = sizeof r,
                             .prompt = "a cat",
                             .negative = "",
                             .input = &input,
                             .inputs = 1,
                             .mask = &input,
                             .steps = 2,
                             .guidance = 2,
                             .reference_area = 32 * 32,
                             .condition_area = 56 * 56,
                             .seed = 1 };
    qwen_result out = { .size = sizeof out };
    qwen *q = NULL;
    in_jansson = 0;
    ck_assert_int_eq(qwen_open(&q, &opt), QWEN_OK);
    allocations = 0;
    countdown = k;
    const int status = qwen_generate(q, &r, &out);
    countdown = 0;
    ck_assert(!status == (out.image != NULL));
    if (!status) memcpy(drawn, out.image[0].data, 32 * 32 * 3);
    qwen_result_free(&out);
    qwen_close(q);
    return status;
}

/* Every allocation of the first 40, then a sample: a picture takes a tenth of a second. */
START_TEST(drawing)
{
    static uint8_t pixels[32 * 32 * 3], whole[32 * 32 * 3], drawn[32 * 32 * 3];
    const char *every = getenv("QW_OOM_EVERY"); /* set: all allocations, which is slow */
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * 7);
    ck_assert_int_eq(draw(testdata("tiny-edit"), 0, pixels, whole), QWEN_OK);
    const long total = allocations;
    for (long k = 1; k <= total; k += every || k < 40 ? 1 : k / 10) {
        const int status = draw(testdata("tiny-edit"), k, pixels, drawn);
        ck_assert_msg(status == QWEN_ENOMEM
                          || (status == QWEN_OK && !memcmp(drawn, whole, sizeof whole)),
                      "allocation %ld of %ld fails and the answer is %d (%s)", k, total, status,
                      qwen_strerror(status));
    }
}
END_TEST

START_TEST(safetensors)
{
    sweep(open_store, testdata("tiny/vae/diffusion_pytorch_model.safetensors"));
}
END_TEST
START_TEST(shards) { sweep(open_store, testdata("tiny/transformer")); }
END_TEST
START_TEST(wan_vae)
{
    sweep(open_store, testdata("formats/comfyui/models/vae/qwen_image_vae_medium.safetensors"));
}
END_TEST
START_TEST(gguf)
{
    sweep(open_store,
          testdata("formats/comfyui/models/diffusion_models/qwen-image-medium-mixed.gguf"));
}
END_TEST
START_TEST(weights) { sweep(open_transformer, testdata("formats/medium/transformer")); }
END_TEST
START_TEST(quantised)
{
    sweep(open_transformer,
          testdata(
              "comfyquant/models/diffusion_models/qwen_image_medium_asym_w4a8_int8.safetensors"));
}
END_TEST
START_TEST(lora)
{
    sweep(open_lora, testdata("formats/comfyui/models/loras/kohya_lora_unet.safetensors"));
}
END_TEST
START_TEST(tokenizer) { sweep(open_tokenizer, testdata("tiny/tokenizer")); }
END_TEST
START_TEST(small_tokenizer) { sweep(open_tokenizer, testdata("fuzz/tokenizer/small.json")); }
END_TEST
START_TEST(model) { sweep(open_model, testdata("tiny")); }
END_TEST

int main(void)
{
    json_set_alloc_funcs(jansson_malloc, free);
    Suite *s = suite_create("oom");
    TCase *c = tcase_create("sweep");
    tcase_set_timeout(c, 300);
    tcase_add_test(c, safetensors);
    tcase_add_test(c, shards);
    tcase_add_test(c, wan_vae);
    tcase_add_test(c, gguf);
    tcase_add_test(c, weights);
    tcase_add_test(c, quantised);
    tcase_add_test(c, lora);
    tcase_add_test(c, tokenizer);
    tcase_add_test(c, small_tokenizer);
    tcase_add_test(c, model);
    tcase_add_test(c, drawing);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
