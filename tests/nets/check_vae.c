/* check_vae.c - VAEs of files without a publication: two-dimensional ones, and decoders that
 * enlarge. */
#include "files/files.h"
#include "medium.h"
#include "testing.h"
#include "values.h"
#include <math.h>
#include <string.h>

enum { LAT_H = 3, LAT_W = 2 };

typedef struct painting {
    double *picture, *mean, *logvar;
    int64_t enlarges, size;
} painting;

/* Decodes and encodes with the VAE of a file. */
static painting paint(const char *path, const char *config)
{
    qw_error err = { 0 };
    qw_kind found;
    qw_vae_config c;
    qw_vae *v;
    qw_run r;
    json_t *json;
    qw_residency *res;
    qw_device *ref = open_device("ref");
    qw_store *s = open_store(path);
    good(qw_json_file(testdata(config), &json, &err), &err);
    good(qw_store_canonical(s, QW_KIND_VAE, &found, &err), &err);
    good(qw_vae_configure(&c, json, s, "config.json", &err), &err);
    good(qw_residency_new(&res, ref, 0, &err), &err);
    qw_loader l = { .store = s, .res = res, .err = &err };
    good(qw_vae_load(&v, &c, QW_VAE_DECODER | QW_VAE_ENCODER, &l), &err);
    good(qw_residency_commit(res, &err), &err);
    ck_assert_int_eq(qw_store_unused(s, NULL, NULL), 0);
    qw_run_init(&r, ref, ref);
    ck_assert_int_eq(qw_run_reserve(&r, (size_t)16 << 20), 0);
    const int64_t e = qw_vae_enlarges(v), pixels = 64 * LAT_H * LAT_W, n = c.z * LAT_H * LAT_W;
    painting p = { .enlarges = e, .size = pixels * 3 * e * e };
    double *latent = malloc((size_t)n * sizeof *latent),
           *in = malloc((size_t)(3 * pixels) * sizeof *in);
    p.picture = malloc((size_t)p.size * sizeof *p.picture);
    p.mean = malloc((size_t)n * sizeof *p.mean);
    p.logvar = malloc((size_t)n * sizeof *p.logvar);
    for (int64_t i = 0; i < n; i++) latent[i] = sin(0.7 * (double)i);
    for (int64_t i = 0; i < 3 * pixels; i++) in[i] = cos(0.3 * (double)i);
    qw_vae_decode(&r, v, latent, LAT_H, LAT_W, 0, p.picture);
    qw_vae_encode(&r, v, in, 8 * LAT_H, 8 * LAT_W, 0, p.mean, p.logvar);
    ck_assert_msg(!r.error.status, "%s", r.error.text);
    free(latent);
    free(in);
    qw_run_free(&r);
    qw_vae_free(v);
    qw_residency_free(res);
    qw_store_free(s);
    json_decref(json);
    ref->close(ref);
    return p;
}

static void painting_free(painting *p)
{
    free(p->picture);
    free(p->mean);
    free(p->logvar);
}

/* The last temporal tap of a 5-D weight, as 4-D; owned by the store. */
static qw_entry last_tap(qw_store *s, const qw_entry *e, qw_error *err)
{
    qw_entry flat = *e;
    const int64_t rows = e->dim[0] * e->dim[1], taps = e->dim[2];
    const size_t plane = qw_row_bytes(e->dtype, e->dim[3] * e->dim[4]);
    flat.rank = 4;
    flat.dim[2] = e->dim[3];
    flat.dim[3] = e->dim[4];
    flat.bytes = (size_t)rows * plane;
    char *out = qw_store_own(s, flat.bytes, err);
    for (int64_t i = 0; i < rows; i++)
        memcpy(out + (size_t)i * plane,
               (const char *)e->data + (size_t)(i * taps + taps - 1) * plane, plane);
    flat.data = out;
    return flat;
}

static const struct {
    const char *path, *config, *head;
} vaes[] = {
    { "tiny/vae", "tiny/vae/config.json", "decoder.conv_out" },
    { COMFY "vae/qwen_image_vae_medium.safetensors", FORMATS "medium/vae/config.json",
      "decoder.head.2" },
};

/* A VAE of 2-D convolutions, the last temporal taps, equals the 3-D one. */
START_TEST(vae_2d)
{
    qw_error err = { 0 };
    sheaf s = { 0 };
    qw_store *plain = open_data(vaes[_i].path);
    for (int64_t i = 0; qw_store_entry(plain, i); i++) {
        const qw_entry *e = qw_store_entry(plain, i);
        if (strstr(e->key, "time_conv")) continue;
        qw_entry flat = e->rank == 5 ? last_tap(plain, e, &err) : *e;
        if (ends_with(e->key, ".gamma")) flat.rank = 3;
        sheaf_add(&s, e->key, flat);
    }
    const char *path = sheaf_write(&s, "2d.safetensors", 0);
    painting a = paint(testdata(vaes[_i].path), vaes[_i].config), b = paint(path, vaes[_i].config);
    const size_t n = (size_t)(16 * LAT_H * LAT_W) * sizeof *a.mean;
    ck_assert_int_eq(a.size, b.size);
    ck_assert(!memcmp(a.picture, b.picture, (size_t)a.size * sizeof *a.picture));
    ck_assert(!memcmp(a.mean, b.mean, n) && !memcmp(a.logvar, b.logvar, n));
    painting_free(&a);
    painting_free(&b);
    qw_store_free(plain);
}
END_TEST

/* A decoder with 12 outputs draws twice as large: output 4c + 2dy + dx is colour c at
 * (2y + dy, 2x + dx). */
START_TEST(vae_upscale)
{
    qw_error err = { 0 };
    sheaf s = { 0 };
    char name[100];
    float bias[12];
    qw_store *plain = open_data(vaes[_i].path);
    sheaf_store(&s, plain, "", 0);
    snprintf(name, sizeof name, "%s.weight", vaes[_i].head);
    qw_entry *w = sheaf_find(&s, name);
    const size_t row = w->bytes / 3;
    char *rows = qw_store_own(plain, 12 * row, &err);
    for (size_t i = 0; i < 12; i++)
        memcpy(rows + i * row, (const char *)w->data + i / 4 * row, row);
    w->data = rows;
    w->bytes = 12 * row;
    w->dim[0] = 12;
    snprintf(name, sizeof name, "%s.bias", vaes[_i].head);
    qw_entry *b = sheaf_find(&s, name);
    for (int i = 0; i < 12; i++) bias[i] = (float)(value(b, i / 4) + i % 4);
    b->data = bias;
    b->dim[0] = 12;
    b->bytes = sizeof bias;
    b->dtype = QW_F32;
    const char *path = sheaf_write(&s, "upscale.safetensors", 0);
    painting small = paint(testdata(vaes[_i].path), vaes[_i].config),
             large = paint(path, vaes[_i].config);
    ck_assert_int_eq(small.enlarges, 1);
    ck_assert_int_eq(large.enlarges, 2);
    for (int64_t y = 0; y < 16 * LAT_H; y++)
        for (int64_t x = 0; x < 16 * LAT_W; x++)
            for (int64_t c = 0; c < 3; c++) {
                const double want = small.picture[(y / 2 * 8 * LAT_W + x / 2) * 3 + c]
                                    + (double)(y % 2 * 2 + x % 2);
                ck_assert_double_eq_tol(large.picture[(y * 16 * LAT_W + x) * 3 + c], want, 1e-5);
            }
    painting_free(&small);
    painting_free(&large);
    qw_store_free(plain);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("vae");
    TCase *c = tcase_create("vae");
    tcase_set_timeout(c, 300);
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_loop_test(c, vae_2d, 0, 2);
    tcase_add_loop_test(c, vae_upscale, 0, 2);
    suite_add_tcase(s, c);
    return run_suite(s);
}
