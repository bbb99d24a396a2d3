/* rope.c - angles of positions in the MMDiT, the language model and the vision tower.
 *
 * An angle is a position, an integer, times a frequency, a power, in double; the op norm_rope
 * rotates by the angles. */
#include "nets/net.h"
#include <math.h>

enum {
    THETA = 10000, /* of the MMDiT and of the vision tower */
    HALF = 2048    /* half of the largest head that a configuration may have */
};

/* Axis a has axes[a] / 2 frequencies 10000^(-2k / axes[a]); out [head/2]: the three axes one after
 * another. */
static void frequencies(const qw_dit_config *c, double *out)
{
    for (int a = 0; a < 3; a++)
        for (int64_t k = 0; k < c->axes[a] / 2; k++)
            *out++ = pow(THETA, -2.0 * (double)k / (double)c->axes[a]);
}

/* Angles of one token at (frame, row, column). */
static void token_angles(const qw_dit_config *c, const double *frequency, const int64_t position[3],
                         double *angle)
{
    for (int a = 0; a < 3; a++)
        for (int64_t k = 0; k < c->axes[a] / 2; k++) *angle++ = (double)position[a] * *frequency++;
}

/* Rows and columns of each picture are counted from its centre; pictures differ in their frame
 * position.  Rows of an odd grid of 2m + 1 run from -(m + 1) (diffusers) or from -m (ComfyUI).  In
 * Layered the last grid is the condition, at frame -1. */
void qw_rope_pictures(const qw_dit_config *c, const qw_grid *g, int grids, int comfy, double *angle)
{
    double frequency[HALF];
    frequencies(c, frequency);
    for (int i = 0; i < grids; i++) {
        const int64_t rows = g[i].rows, cols = g[i].cols;
        const int64_t top = comfy ? rows / 2 : rows - rows / 2,
                      left = comfy ? cols / 2 : cols - cols / 2;
        const int64_t frame = c->layer3d && i == grids - 1 ? -1 : i;
        for (int64_t f = 0; f < g[i].frames; f++)
            for (int64_t y = 0; y < rows; y++)
                for (int64_t x = 0; x < cols; x++, angle += c->head / 2)
                    token_angles(c, frequency, (const int64_t[]){ frame + f, y - top, x - left },
                                 angle);
    }
}

int64_t qw_rope_text_start(const qw_dit_config *c, const qw_grid *g, int grids, int comfy)
{
    int64_t start = 0;
    for (int i = 0; i < (comfy ? 1 : grids); i++) {
        if (g[i].rows / 2 > start) start = g[i].rows / 2;
        if (g[i].cols / 2 > start) start = g[i].cols / 2;
    }
    if (c->layer3d && !comfy && grids - 1 > start) start = grids - 1;
    return start;
}

void qw_rope_text(const qw_dit_config *c, int64_t start, int64_t n, double *angle)
{
    double frequency[HALF];
    frequencies(c, frequency);
    for (int64_t j = 0; j < n; j++)
        token_angles(c, frequency, (const int64_t[]){ start + j, start + j, start + j },
                     angle + j * (c->head / 2));
}

/* A text token advances all three axes by one.  The rows x cols merged tokens of a picture have one
 * time and their rows and columns on the other axes; the token after them is max(rows, cols) later
 * on all axes. */
int qw_mrope_positions(const qw_text_config *c, const int32_t *ids, int64_t n,
                       const qw_grid *merged, int pictures, int32_t *positions, qw_error *err)
{
    int32_t next = 0;
    int picture = 0;
    for (int64_t i = 0; i < n;) {
        if (ids[i] != c->image_token || !pictures) {
            for (int a = 0; a < 3; a++) positions[a * n + i] = next;
            next++;
            i++;
            continue;
        }
        if (picture == pictures)
            return qw_fail(err, QWEN_EARG,
                           "the prompt has picture tokens for more than the %d pictures given",
                           pictures);
        const qw_grid g = merged[picture++];
        const int64_t tokens = (int64_t)g.rows * g.cols;
        for (int64_t t = 0; t < tokens; t++, i++) {
            if (i >= n || ids[i] != c->image_token)
                return qw_fail(err, QWEN_EARG,
                               "picture %d has %lld tokens, the prompt has room for %lld", picture,
                               (long long)tokens, (long long)t);
            positions[i] = next;
            positions[n + i] = next + (int32_t)(t / g.cols);
            positions[2 * n + i] = next + (int32_t)(t % g.cols);
        }
        next += g.rows > g.cols ? g.rows : g.cols;
    }
    if (picture != pictures)
        return qw_fail(err, QWEN_EARG, "the prompt has picture tokens for %d of %d pictures",
                       picture, pictures);
    return QWEN_OK;
}

/* Frequency k multiplies the time, row or column position, by its section. */
void qw_mrope_angles(const qw_text_config *c, const int32_t *positions, int64_t n, double *angle)
{
    const int64_t half = c->head / 2;
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < half; k++) {
            const int axis = k < c->section[0] ? 0 : k < c->section[0] + c->section[1] ? 1 : 2;
            angle[i * half + k] = positions[axis * n + i]
                                  * pow(c->theta, -2.0 * (double)k / (double)c->head);
        }
}

/* Patches are in merge order (groups of merge x merge together); the first half of a patch's angles
 * is of its row, the second of its column. */
void qw_vision_angles(const qw_vision_config *c, const qw_grid *g, double *angle)
{
    const int64_t quarter = c->head / 4, m = c->merge;
    for (int64_t by = 0; by < g->rows / m; by++)
        for (int64_t bx = 0; bx < g->cols / m; bx++)
            for (int64_t p = 0; p < m * m; p++, angle += 2 * quarter)
                for (int64_t j = 0; j < quarter; j++) {
                    const double f = pow(THETA, -2.0 * (double)j / (double)(2 * quarter));
                    angle[j] = (double)(by * m + p / m) * f;
                    angle[quarter + j] = (double)(bx * m + p % m) * f;
                }
}
