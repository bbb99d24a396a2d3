/* check_bands.c - the VAE in bands of rows has the bits of the whole picture on the reference
 * devices; the bound of memory decides between them. */
#include "nets/net.h"
#include <qwen/qwen.h>
#include "testing.h"
#include <string.h>

enum { H = 41, W = 3, MOST = 64 * H * W * 4 };

typedef struct coding {
    qw_vae *net;
    int encoder;
    int64_t rows, channels, z;
    double *picture, *latent; /* [8 H][8 W][channels]; [z][H][W], encoded: twice that */
} coding;

static void code(qw_run *r, const coding *c)
{
    if (c->encoder)
        qw_vae_encode(r, c->net, c->picture, 8 * H, 8 * W, c->rows, c->latent,
                      c->latent + c->z * H * W);
    else qw_vae_decode(r, c->net, c->latent, H, W, c->rows, c->picture);
}

/* Plans, reserves exactly the scratch of the plan; the formula of the scratch agrees. */
static void run(qw_device *dev, const coding *c)
{
    qw_device *plan;
    qw_run walk, r;
    ck_assert_int_eq(qw_plan_open(dev, &plan), QWEN_OK);
    qw_run_init(&walk, plan, NULL);
    code(&walk, c);
    ck_assert_msg(!walk.error.status, "%s", walk.error.text);
    const size_t formula = (size_t)qw_vae_scratch(c->net, c->encoder, H, W, c->rows)
                           * qw_row_bytes(dev->prefer, 1);
    ck_assert_uint_ge(walk.peak, formula);
    ck_assert_uint_le(walk.peak, formula + 4 * 256);
    qw_run_init(&r, dev, NULL);
    ck_assert_int_eq(qw_run_reserve(&r, walk.peak), QWEN_OK);
    code(&r, c);
    ck_assert_msg(!r.error.status, "%s", r.error.text);
    ck_assert_uint_eq(r.peak, walk.peak);
    qw_run_free(&r);
    qw_run_free(&walk);
    plan->close(plan);
}

static void bands_equal(const char *device, const char *folder)
{
    static const int64_t bands[] = { 1, 8, 13, 20, H - 1, H, H + 5 };
    qw_error err = { 0 };
    qw_device *dev;
    qw_store *store;
    qw_residency *res;
    qw_kind found;
    qw_vae_config config;
    json_t *json;
    coding c = { .encoder = 0 };
    char path[1100];
    ck_assert_msg(!qw_device_open(device, NULL, &dev, &err), "%s", err.text);
    ck_assert_int_eq(qw_store_new(&store, &err), QWEN_OK);
    ck_assert_int_eq(qw_residency_new(&res, dev, 0, &err), QWEN_OK);
    qw_loader l = { .store = store, .res = res, .err = &err };
    ck_assert_msg(!qw_store_add(store, testdata(folder), &err), "%s", err.text);
    ck_assert_msg(!qw_store_canonical(store, QW_KIND_VAE, &found, &err), "%s", err.text);
    snprintf(path, sizeof path, "%s/config.json", testdata(folder));
    ck_assert_msg(!qw_json_file(path, &json, &err), "%s", err.text);
    ck_assert_msg(!qw_vae_configure(&config, json, store, path, &err), "%s", err.text);
    qw_vae_load(&c.net, &config, QW_VAE_DECODER | QW_VAE_ENCODER, &l);
    ck_assert_msg(!err.status && !qw_residency_commit(res, &err), "%s", err.text);
    c.channels = config.channels;
    c.z = config.z;
    double *latent = calloc((size_t)(2 * c.z * H * W), sizeof *latent), *picture = calloc(MOST, 8);
    double *again = calloc((size_t)(2 * c.z * H * W), sizeof *again), *other = calloc(MOST, 8);
    ck_assert(latent && picture && again && other);
    for (c.encoder = 0; c.encoder < 2; c.encoder++) {
        const size_t n = c.encoder ? (size_t)(2 * c.z * H * W) : (size_t)(64 * H * W * c.channels);
        const size_t in = c.encoder ? MOST : (size_t)(c.z * H * W);
        double *given = c.encoder ? picture : latent;
        for (size_t i = 0; i < in; i++) given[i] = (double)((i * 7919 + 13) % 101) / 50 - 1;
        c.rows = 0;
        c.latent = latent;
        c.picture = picture;
        run(dev, &c);
        for (size_t i = 0; i < sizeof bands / sizeof *bands; i++) {
            double *result = c.encoder ? again : other;
            memset(result, 0, n * sizeof *result);
            *(c.encoder ? &c.latent : &c.picture) = result;
            c.rows = bands[i];
            run(dev, &c);
            ck_assert_msg(!memcmp(result, c.encoder ? latent : picture, n * sizeof *result),
                          "%s, %s: bands of %d rows differ from the whole", folder,
                          c.encoder ? "encoder" : "decoder", (int)bands[i]);
        }
    }
    free(latent);
    free(picture);
    free(again);
    free(other);
    qw_vae_free(c.net);
    qw_residency_free(res);
    qw_store_free(store);
    json_decref(json);
    dev->close(dev);
}

START_TEST(bands_rgb) { bands_equal("ref", "tiny/vae"); }
END_TEST
START_TEST(bands_rgba) { bands_equal("ref", "tiny-layered/vae"); }
END_TEST
START_TEST(bands_wide) { bands_equal("ref64", "tiny/vae"); }
END_TEST
START_TEST(bands_bf16) { bands_equal("ref:bf16", "tiny/vae"); }
END_TEST

/* --- memory decides --------------------------------------------------------------------------- */

static void take_line(void *user, int level, const char *line)
{
    if (!level && strstr(line, " bands of ")) ++*(int *)user;
}

/* An image-to-image run of a tall picture under a bound of memory. */
static void draw(uint64_t memory, qwen_result *out, int *notices, int planned[2])
{
    qwen *q;
    enum { TALL = 512, WIDE = 32 };
    uint8_t pixels[TALL * WIDE * 3];
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * 31 >> 3);
    const qwen_array picture = {
        .data = pixels, .dtype = QWEN_U8, .rank = 3, .dim = { TALL, WIDE, 3 }
    };
    qwen_options o = { .size = sizeof o,
                       .model = testdata("tiny"),
                       .device = "ref",
                       .memory = memory,
                       .log = take_line,
                       .user = notices };
    qwen_request r = { .size = sizeof r,
                       .prompt = "a",
                       .input = &picture,
                       .inputs = 1,
                       .strength = 0.5,
                       .steps = 2,
                       .guidance = 1,
                       .seed = 3 };
    qwen_plan_report plan = { .size = sizeof plan };
    *notices = 0;
    *out = (qwen_result){ .size = sizeof *out };
    qwen_open(&q, &o);
    ck_assert_msg(!*qwen_error(q), "%s", qwen_error(q));
    ck_assert_msg(!qwen_plan(q, &r, &plan), "%s", qwen_error(q));
    planned[0] = plan.bands_encode;
    planned[1] = plan.bands_decode;
    ck_assert_msg(!qwen_generate(q, &r, out), "%s", qwen_error(q));
    qwen_close(q);
}

START_TEST(memory_decides)
{
    qwen_result whole, banded;
    int told, planned[2];
    draw(0, &whole, &told, planned);
    ck_assert_int_eq(told, 0);
    ck_assert_int_eq(whole.bands_encode + whole.bands_decode + planned[0] + planned[1], 0);
    draw(1500000, &banded, &told, planned);
    ck_assert_int_ge(told, 2); /* of the plan's handle and of this one */
    ck_assert_int_gt(banded.bands_encode, 1);
    ck_assert_int_gt(banded.bands_decode, 1);
    ck_assert_int_eq(banded.bands_encode, planned[0]);
    ck_assert_int_eq(banded.bands_decode, planned[1]);
    const qwen_array *a = &whole.image[0], *b = &banded.image[0];
    ck_assert_int_eq(a->dim[0], 512);
    ck_assert_int_eq(a->dim[0], b->dim[0]);
    ck_assert_int_eq(a->dim[1], b->dim[1]);
    ck_assert(!memcmp(a->data, b->data, (size_t)(a->dim[0] * a->dim[1] * a->dim[2])));
    qwen_result_free(&whole);
    qwen_result_free(&banded);
}
END_TEST

/* Of several pictures the largest number of bands is reported, and a notice comes once. */
START_TEST(several_pictures)
{
    static uint8_t tall[512 * 48 * 3], small[48 * 48 * 3];
    const qwen_array pictures[] = {
        { .data = tall, .dtype = QWEN_U8, .rank = 3, .dim = { 512, 48, 3 } },
        { .data = small, .dtype = QWEN_U8, .rank = 3, .dim = { 48, 48, 3 } },
    };
    int notices = 0;
    qwen *q;
    qwen_options o = { .size = sizeof o,
                       .model = testdata("tiny-edit-plus"),
                       .device = "ref",
                       .memory = 3000000,
                       .log = take_line,
                       .user = &notices };
    qwen_request r = { .size = sizeof r,
                       .prompt = "a",
                       .input = pictures,
                       .inputs = 2,
                       .steps = 1,
                       .guidance = 1,
                       .width = 32,
                       .height = 32,
                       .reference_area = 448 * 96,
                       .condition_area = 56 * 56 };
    qwen_open(&q, &o);
    ck_assert_msg(!*qwen_error(q), "%s", qwen_error(q));
    for (int i = 0; i < 2; i++) {
        qwen_result out = { .size = sizeof out };
        ck_assert_msg(!qwen_generate(q, &r, &out), "%s", qwen_error(q));
        ck_assert_int_gt(out.bands_encode, 1);
        ck_assert_int_eq(out.bands_decode, 0);
        qwen_result_free(&out);
        ck_assert(i ? !notices : notices > 0);
        notices = 0;
    }
    qwen_close(q);
}
END_TEST

/* A picture too large for any machine is refused before any op runs. */
START_TEST(absurd_sizes)
{
    qwen *q;
    qwen_options o = { .size = sizeof o, .model = testdata("tiny"), .device = "ref" };
    qwen_request r = {
        .size = sizeof r, .prompt = "a", .width = 65536, .height = 65536, .steps = 1, .guidance = 1
    };
    qwen_result out = { .size = sizeof out };
    qwen_open(&q, &o);
    ck_assert_msg(!*qwen_error(q), "%s", qwen_error(q));
    ck_assert_int_eq(qwen_generate(q, &r, &out), QWEN_ENOMEM);
    ck_assert_ptr_nonnull(strstr(qwen_error(q), " GB"));
    r.width = 16;
    ck_assert_int_eq(qwen_generate(q, &r, &out), QWEN_EARG);
    ck_assert_ptr_nonnull(strstr(qwen_error(q), "longer than 200 to 1"));
    qwen_close(q);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("bands");
    TCase *c = tcase_create("bands");
    tcase_set_timeout(c, 300);
    tcase_add_test(c, bands_rgb);
    tcase_add_test(c, bands_rgba);
    tcase_add_test(c, bands_wide);
    tcase_add_test(c, bands_bf16);
    tcase_add_test(c, memory_decides);
    tcase_add_test(c, several_pictures);
    tcase_add_test(c, absurd_sizes);
    suite_add_tcase(s, c);
    return run_suite(s);
}
