/* check_image.c - pictures on the host: resizing byte for byte, packing, sizes, vision patches. */
#include "host/pictures.h"
#include "testing.h"
#include "values.h"
#include <math.h>
#include <png.h>
#include <string.h>

typedef struct picture {
    int64_t w, h;
    int channels;
    uint8_t *data;
} picture;

static picture read_png(const char *name, int channels) /* 0: 4 if it has alpha, else 3 */
{
    char rel[256];
    png_image p;
    memset(&p, 0, sizeof p);
    p.version = PNG_IMAGE_VERSION;
    snprintf(rel, sizeof rel, "units/resize/%s", name);
    ck_assert_msg(png_image_begin_read_from_file(&p, testdata(rel)), "%s: %s", rel, p.message);
    if (!channels) channels = p.format & PNG_FORMAT_FLAG_ALPHA ? 4 : 3;
    p.format = channels == 4 ? PNG_FORMAT_RGBA : PNG_FORMAT_RGB;
    const picture out = { p.width, p.height, channels, malloc(PNG_IMAGE_SIZE(p)) };
    ck_assert_msg(out.data && png_image_finish_read(&p, NULL, out.data, 0, NULL), "%s: %s", rel,
                  p.message);
    return out;
}

START_TEST(resize_pillow) /* byte for byte */
{
    json_t *const all = read_json("units/resize/cases.json"), *row;
    size_t i;
    json_array_foreach(all, i, row)
    {
        const picture in = read_png(string(row, "input"), 0),
                      want = read_png(string(row, "output"), in.channels);
        const qw_filter f = strcmp(string(row, "filter"), "lanczos") ? QW_BICUBIC : QW_LANCZOS;
        const int64_t pixels = want.w * want.h;
        uint8_t *const got = malloc((size_t)pixels * 4), *const grey =
                                                             malloc((size_t)(in.w * in.h));
        qw_error err = { 0 };
        ck_assert(got && grey && want.w == (int64_t)number(row, "width")
                  && want.h == (int64_t)number(row, "height"));
        ck_assert_msg(!qw_resize(in.data, in.w, in.h, in.channels, f, want.w, want.h, got, &err),
                      "%s", err.text);
        ck_assert_msg(!memcmp(got, want.data, (size_t)(pixels * in.channels)), "%s differs",
                      string(row, "output"));
        if (in.channels == 3) { /* a channel alone must come out the same */
            for (int64_t k = 0; k < in.w * in.h; k++) grey[k] = in.data[3 * k + 1];
            ck_assert(!qw_resize(grey, in.w, in.h, 1, f, want.w, want.h, got, &err));
            for (int64_t k = 0; k < pixels; k++) ck_assert_uint_eq(got[k], want.data[3 * k + 1]);
        }
        free(in.data);
        free(want.data);
        free(got);
        free(grey);
    }
    ck_assert_int_gt(i, 50);
    json_decref(all);
    uint8_t px[4] = { 0 };
    qw_error err = { 0 };
    ck_assert_int_eq(qw_resize(px, 1, 1, 2, QW_BICUBIC, 1, 1, px, &err), QWEN_EARG);
    err.status = 0;
    ck_assert_int_eq(qw_resize(px, 1, 0, 3, QW_BICUBIC, 1, 1, px, &err), QWEN_EARG);
    err.status = 0;
    ck_assert_int_eq(qw_resize(px, 1, 1, 3, QW_BICUBIC, 1, INT64_MAX, px, &err), QWEN_EARG);
}
END_TEST

/* Interpolation as torch does it, from the pictures' values in 0..1: within float32's rounding. */
START_TEST(resize_torch)
{
    qw_store *const s = open_data("units/resize/torch.safetensors");
    const qw_entry *e;
    int done = 0;
    for (int64_t i = 0; (e = qw_store_entry(s, i)); i++) {
        int w, h, W, H;
        char mode[32], name[64];
        qw_error err = { 0 };
        ck_assert_int_eq(sscanf(e->name, "%dx%d_%31[a-z-]_%dx%d", &w, &h, mode, &W, &H), 5);
        if (strcmp(mode, "area") && strcmp(mode, "bilinear")) continue;
        snprintf(name, sizeof name, "in_%dx%d_rgb.png", w, h);
        const picture in = read_png(name, 3);
        int64_t n;
        double *const want = values(s, e->name, &n);
        double *const x = malloc((size_t)(3 * w * h) * sizeof *x), *const y = malloc((size_t)n
                                                                                     * sizeof *y);
        ck_assert(x && y && n == 3 * W * H);
        for (int k = 0; k < 3 * w * h; k++) x[k] = in.data[k] / 255.0;
        ck_assert(!qw_interpolate(*mode == 'a' ? QW_AREA : QW_BILINEAR, x, w, h, 3, W, H, y, &err));
        for (int64_t k = 0; k < n; k++) {
            const double a = want[k % 3 * W * H + k / 3]; /* the golden one is [3][H][W] */
            ck_assert_msg(fabs(y[k] - a) < 2e-6, "%s: %g, expected %g", e->name, y[k], a);
        }
        done++;
        free(x);
        free(y);
        free(want);
        free(in.data);
    }
    ck_assert_int_gt(done, 10);
    qw_store_free(s);
}
END_TEST

START_TEST(packing)
{
    qw_store *const s = open_data("units/ops/ops.safetensors");
    int64_t n;
    double *const latent = values(s, "pack.latent", &n), *const tokens =
                                                             values(s, "pack.tokens", &n);
    double *const got = malloc((size_t)n * sizeof *got);
    ck_assert_ptr_nonnull(got);
    qw_pack(latent, 16, 4, 6, got);
    close_to("packed", got, tokens, n, 0);
    qw_unpack(tokens, 16, 4, 6, got);
    close_to("unpacked", got, latent, n, 0);
    free(got);
    free(tokens);
    free(latent);
    qw_store_free(s);
}
END_TEST

START_TEST(sizes)
{
    static const int64_t fit[][4] = { /* w, h, at 1024^2, at 384^2 as w, h */
                                      { 1920, 1080, 1376, 768 },
                                      { 1000, 1000, 1024, 1024 },
                                      { 640, 480, 1184, 896 },
                                      { 1080, 1920, 768, 1376 }
    };
    static const int64_t small[][2] = { { 512, 288 }, { 384, 384 }, { 448, 320 }, { 288, 512 } };
    static const int64_t smart[][4] = { /* w, h -> W, H */
                                        { 384, 384, 392, 392 },   { 512, 288, 504, 280 },
                                        { 448, 336, 448, 336 },   { 1024, 1024, 1036, 1036 },
                                        { 1344, 768, 1344, 756 }, { 30, 30, 56, 56 },
                                        { 42, 70, 56, 56 },       { 10000, 10000, 3556, 3556 }
    };
    int64_t w, h;
    for (size_t i = 0; i < 4; i++) {
        const double ratio = (double)fit[i][0] / (double)fit[i][1];
        qw_calculate_dimensions(1024 * 1024, ratio, &w, &h);
        ck_assert(w == fit[i][2] && h == fit[i][3]);
        qw_calculate_dimensions(384 * 384, ratio, &w, &h);
        ck_assert(w == small[i][0] && h == small[i][1]);
    }
    qw_calculate_dimensions(64 * 64, 200, &w, &h);
    ck_assert(h == 32 && w == 896);
    for (size_t i = 0; i < sizeof smart / sizeof *smart; i++) {
        qw_error err = { 0 };
        ck_assert(!qw_smart_resize(smart[i][0], smart[i][1], 28, 3136, 12845056, &w, &h, &err));
        ck_assert_msg(w == smart[i][2] && h == smart[i][3], "%lldx%lld", (long long)w,
                      (long long)h);
    }
    qw_error err = { 0 };
    ck_assert_int_eq(qw_smart_resize(2010, 10, 28, 3136, 12845056, &w, &h, &err), QWEN_EARG);
    err.status = 0;
    ck_assert_int_eq(qw_smart_resize(0, 10, 28, 3136, 12845056, &w, &h, &err), QWEN_EARG);
}
END_TEST

START_TEST(vision_patches)
{
    enum { P = 14, M = 2, T = 2, GW = 6, GH = 4, W = GW * P, H = GH * P, F = 3 * T * P * P };
    const qw_vision_config c = {
        .patch = P, .merge = M, .temporal = T, .mean = { 0.5, 0.25, 0.125 }, .std = { 0.5, 2, 0.25 }
    };
    uint8_t *const rgb = malloc(W * H * 3);
    double *const out = malloc(sizeof *out * GW * GH * F);
    ck_assert(rgb && out);
    for (int i = 0; i < W * H * 3; i++) rgb[i] = (uint8_t)((i * 7919 + i / 255) & 255);
    qw_vision_pixels(rgb, NULL, W, H, &c, out);
    int patch = 0;
    for (int by = 0; by < GH / M; by++)
        for (int bx = 0; bx < GW / M; bx++)
            for (int my = 0; my < M; my++)
                for (int mx = 0; mx < M; mx++, patch++)
                    for (int f = 0; f < F; f++) {
                        const int x = (bx * M + mx) * P + f % P, y = (by * M + my) * P + f / P % P,
                                  k = f / (P * P * T);
                        const double want = (rgb[(y * W + x) * 3 + k] / 255.0 - c.mean[k])
                                            / c.std[k];
                        ck_assert_double_eq_tol(out[patch * F + f], want, 1e-14);
                    }
    ck_assert_int_eq(patch, GW * GH);
    free(rgb);
    free(out);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("image");
    TCase *c = tcase_create("pictures");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, resize_pillow);
    tcase_add_test(c, resize_torch);
    tcase_add_test(c, packing);
    tcase_add_test(c, sizes);
    tcase_add_test(c, vision_patches);
    suite_add_tcase(s, c);
    return run_suite(s);
}
