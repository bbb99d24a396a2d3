/* check_geometry.c - resizing, encoding and decoding do not shift a picture.
 *
 * A bright disc on a dark ground is followed by its centroid, in units of the picture's width and
 * height, pixel centres at (i + 1/2) / n.  A size that is no multiple is rounded and the picture
 * stretched to it, which leaves the fractions unchanged. */
#include "host/pictures.h"
#include <qwen/qwen.h>
#include "testing.h"
#include <math.h>
#include <string.h>

typedef struct point {
    double x, y;
} point;

/* A disc at (x, y) in fractions, radius in pixels; soft over one pixel. */
static uint8_t *disc(int w, int h, point at, double radius)
{
    uint8_t *p = malloc((size_t)(w * h * 3));
    ck_assert_ptr_nonnull(p);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const double d = hypot(x + 0.5 - at.x * w, y + 0.5 - at.y * h);
            const double in = fmin(1, fmax(0, radius - d + 0.5));
            for (int c = 0; c < 3; c++) p[(y * w + x) * 3 + c] = (uint8_t)lrint(20 + 220 * in);
        }
    return p;
}

/* The weighted centroid of the pixels brighter than the middle level. */
static point centroid(const double *grey, int w, int h)
{
    double least = INFINITY, most = -INFINITY, sum = 0;
    point c = { 0, 0 };
    for (int i = 0; i < w * h; i++) {
        least = fmin(least, grey[i]);
        most = fmax(most, grey[i]);
    }
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const double v = fmax(0, grey[y * w + x] - (least + most) / 2);
            sum += v;
            c.x += v * (x + 0.5);
            c.y += v * (y + 0.5);
        }
    ck_assert(sum > 0);
    return (point){ c.x / sum / w, c.y / sum / h };
}

static point centroid8(const uint8_t *rgb, int w, int h)
{
    double *grey = malloc((size_t)(w * h) * sizeof *grey);
    ck_assert_ptr_nonnull(grey);
    for (int i = 0; i < w * h; i++) grey[i] = rgb[3 * i] + rgb[3 * i + 1] + rgb[3 * i + 2];
    const point c = centroid(grey, w, h);
    free(grey);
    return c;
}

/* Pixels of w x h between two places, the larger of both directions. */
static double shift(point a, point b, int w, int h)
{
    return fmax(fabs(a.x - b.x) * w, fabs(a.y - b.y) * h);
}

/* Squared differences of a and b moved by (dx, dy), over pixels one or more inside the border. */
static double distance(const double *a, const double *b, int w, int h, int dx, int dy)
{
    double sum = 0;
    for (int y = 1; y < h - 1; y++)
        for (int x = 1; x < w - 1; x++) {
            const double d = a[y * w + x] - b[(y + dy) * w + x + dx];
            sum += d * d;
        }
    return sum;
}

/* Asserts that b fits a better than b shifted by a pixel in any direction. */
static int in_place(const double *a, const double *b, int w, int h)
{
    const double here = distance(a, b, w, h, 0, 0);
    for (int dy = -1; dy <= 1; dy++)
        for (int dx = -1; dx <= 1; dx++)
            if ((dx || dy) && distance(a, b, w, h, dx, dy) <= here) return 0;
    return 1;
}

static const point places[] = { { 0.5, 0.5 }, { 0.3, 0.4 }, { 0.71, 0.62 } };
enum { PLACES = sizeof places / sizeof *places };

/* --- resizing --------------------------------------------------------------------------------- */

START_TEST(resizing_moves_nothing)
{
    static const int sizes[][4] = {
        /* from, to */
        { 256, 256, 256, 256 }, { 256, 256, 512, 512 }, { 512, 384, 256, 192 },
        { 500, 333, 480, 320 }, { 130, 70, 160, 96 },   { 640, 480, 1184, 896 },
    };
    static const qw_filter filters[] = { QW_LANCZOS, QW_BICUBIC };
    qw_error err = { 0 };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int p = 0; p < PLACES; p++)
            for (int f = 0; f < 2; f++) {
                const int w = sizes[i][0], h = sizes[i][1], W = sizes[i][2], H = sizes[i][3];
                uint8_t *a = disc(w, h, places[p], h / 6.0), *b = malloc((size_t)(W * H * 3));
                ck_assert_ptr_nonnull(b);
                ck_assert_msg(!qw_resize(a, w, h, 3, filters[f], W, H, b, &err), "%s", err.text);
                if (w == W && h == H) ck_assert_mem_eq(a, b, (size_t)(w * h * 3));
                const double moved = shift(centroid8(a, w, h), centroid8(b, W, H), W, H);
                ck_assert_msg(moved < 0.05, "%dx%d to %dx%d moved by %.3f pixels", w, h, W, H,
                              moved);
                free(a);
                free(b);
            }
}
END_TEST

/* --- the trained autoencoder ------------------------------------------------------------------ */

static qwen *open_demo(void)
{
    const char *data = getenv("QWEN_DATADIR"), *src = getenv("srcdir");
    char model[1024];
    qwen *q;
    snprintf(model, sizeof model, "%s/demo", data ? data : "");
    if (!data) snprintf(model, sizeof model, "%s/data/demo", src ? src : ".");
    qwen_options o = { .size = sizeof o, .model = model, .device = "ref" };
    qwen_open(&q, &o);
    ck_assert_msg(!*qwen_error(q), "%s", qwen_error(q));
    return q;
}

/* Less than half a pixel, the blur of the small network at an edge; with a shift by a pixel the
 * picture would fit better one pixel away. */
START_TEST(coding_moves_nothing)
{
    static const int sizes[][2] = { { 64, 64 }, { 96, 48 }, { 80, 112 } };
    qwen *q = open_demo();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int p = 0; p < PLACES; p++) {
            const int w = sizes[i][0], h = sizes[i][1], n = w * h;
            uint8_t *a = disc(w, h, places[p], (w < h ? w : h) / 4.0);
            float *x = malloc((size_t)(3 * n) * sizeof *x);
            double *grey = malloc((size_t)n * sizeof *grey), *before = malloc((size_t)n * 8);
            ck_assert(x && grey && before);
            for (int k = 0; k < 3 * n; k++) x[k] = (float)a[k] / 127.5f - 1;
            const qwen_array in = { .data = x, .dtype = QWEN_F32, .rank = 3, .dim = { h, w, 3 } };
            qwen_array latent = { 0 }, out = { 0 };
            ck_assert_msg(!qwen_encode(q, &in, &latent), "%s", qwen_error(q));
            ck_assert_msg(!qwen_decode(q, &latent, &out), "%s", qwen_error(q));
            ck_assert_int_eq(out.dim[0], h);
            ck_assert_int_eq(out.dim[1], w);
            const float *y = out.data;
            for (int k = 0; k < n; k++) grey[k] = y[3 * k] + y[3 * k + 1] + y[3 * k + 2];
            for (int k = 0; k < n; k++) before[k] = x[3 * k] + x[3 * k + 1] + x[3 * k + 2];
            ck_assert_msg(in_place(before, grey, w, h), "%dx%d: coding moved the disc", w, h);
            const double moved = shift(centroid8(a, w, h), centroid(grey, w, h), w, h);
            ck_assert_msg(moved < 0.5, "%dx%d: coding moved the disc by %.3f pixels", w, h, moved);
            qwen_array_free(&latent);
            qwen_array_free(&out);
            free(x);
            free(grey);
            free(before);
            free(a);
        }
    qwen_close(q);
}
END_TEST

/* --- whole requests --------------------------------------------------------------------------- */

typedef struct seen {
    qwen_geometry g;
    int n;
} seen;

static void take_geometry(void *user, const qwen_geometry *g)
{
    seen *s = user;
    s->g = *g;
    s->n++;
}

/* Image to image at the smallest strength: one step at a low noise level, so that the result is the
 * input picture, unshifted. */
START_TEST(pipelines_move_nothing)
{
    static const int sizes[][4] = {
        /* given, drawn (0: the picture's own, rounded to 16) */
        { 64, 64, 64, 64 },   { 96, 64, 96, 64 },   { 130, 70, 128, 64 },
        { 128, 128, 64, 64 }, { 72, 120, 64, 128 },
    };
    qwen *q = open_demo();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int p = 0; p < PLACES; p++) {
            const int w = sizes[i][0], h = sizes[i][1], W = sizes[i][2], H = sizes[i][3];
            const int own = w != 128 || h != 128;
            uint8_t *a = disc(w, h, places[p], (w < h ? w : h) / 4.0);
            const qwen_array in = { .data = a, .dtype = QWEN_U8, .rank = 3, .dim = { h, w, 3 } };
            qwen_request r = { .size = sizeof r,
                               .prompt = "",
                               .input = &in,
                               .inputs = 1,
                               .strength = 0.05,
                               .steps = 20,
                               .guidance = 1,
                               .seed = 1,
                               .width = own ? 0 : W,
                               .height = own ? 0 : H };
            qwen_result out = { .size = sizeof out };
            ck_assert_msg(!qwen_generate(q, &r, &out), "%s", qwen_error(q));
            ck_assert_int_eq(out.width, W);
            ck_assert_int_eq(out.height, H);
            const point after = centroid8(out.image[0].data, W, H);
            const double moved = shift(centroid8(a, w, h), after, W, H);
            ck_assert_msg(moved < 0.5, "%dx%d drawn at %dx%d moved the disc by %.3f pixels", w, h,
                          W, H, moved);
            qwen_result_free(&out);
            free(a);
        }
    qwen_close(q);
}
END_TEST

/* An edit's input picture is not cropped: its size is the area's with the picture's aspect, each
 * side rounded to 32, whatever the size of the output. */
START_TEST(references_are_whole)
{
    static const int given[][2] = { { 130, 70 }, { 96, 96 }, { 70, 200 }, { 1024, 640 } };
    qwen *q = open_demo();
    for (size_t i = 0; i < sizeof given / sizeof *given; i++)
        for (int sized = 0; sized < 2; sized++) {
            const int w = given[i][0], h = given[i][1], area = 128 * 128;
            uint8_t *a = disc(w, h, places[0], 10);
            const qwen_array in = { .data = a, .dtype = QWEN_U8, .rank = 3, .dim = { h, w, 3 } };
            seen s = { .n = 0 };
            qwen_request r = { .size = sizeof r,
                               .prompt = "",
                               .input = &in,
                               .inputs = 1,
                               .steps = 1,
                               .guidance = 1,
                               .reference_area = area,
                               .width = sized ? 64 : 0,
                               .height = sized ? 112 : 0 };
            qwen_plan_report plan = { .size = sizeof plan, .geometry = take_geometry, .user = &s };
            ck_assert_msg(!qwen_plan(q, &r, &plan), "%s", qwen_error(q));
            const double side = sqrt((double)area * w / h);
            const int W = (int)nearbyint(side / 32) * 32,
                      H = (int)nearbyint(side * h / w / 32) * 32;
            ck_assert_int_eq(s.n, 1);
            ck_assert_str_eq(s.g.role, "input");
            ck_assert_int_eq(s.g.width, w);
            ck_assert_int_eq(s.g.height, h);
            ck_assert_int_eq(s.g.coded_width, W);
            ck_assert_int_eq(s.g.coded_height, H);
            ck_assert_int_gt(s.g.seen_width, 0);
            ck_assert_int_eq(plan.width, sized ? 64 : W);
            ck_assert_int_eq(plan.height, sized ? 112 : H);
            ck_assert_int_eq(plan.reference_tokens, W / 16 * (H / 16));
            free(a);
        }
    qwen_close(q);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("geometry");
    TCase *c = tcase_create("geometry");
    tcase_set_timeout(c, 300);
    tcase_add_test(c, resizing_moves_nothing);
    tcase_add_test(c, coding_moves_nothing);
    tcase_add_test(c, pipelines_move_nothing);
    tcase_add_test(c, references_are_whole);
    suite_add_tcase(s, c);
    return run_suite(s);
}
