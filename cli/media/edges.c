/* edges.c - Canny's edges, for control pictures: white lines on black.
 *
 * As OpenCV's Canny(image, 100, 200), by which control pictures are usually made: 3x3 Sobel (border
 * pixels repeated), magnitude |dx| + |dy| of the channel where it is largest, thinning along the
 * gradient's direction in steps of 45 degrees, then hysteresis: magnitudes above 200, and
 * those above 100 that touch them. */
#include "media/media.h"
#include <stdlib.h>
#include <string.h>

enum { LOW = 100, HIGH = 200 };
enum { NOTHING, WEAK, STRONG };

typedef struct gradient {
    int dx, dy, size;
} gradient;

static int64_t clamp(int64_t i, int64_t n) { return i < 0 ? 0 : i >= n ? n - 1 : i; }

static gradient gradient_at(const qwen_array *a, int64_t y, int64_t x)
{
    static const int smooth[3] = { 1, 2, 1 };
    gradient best = { 0, 0, -1 };
    const int64_t h = a->dim[0], w = a->dim[1], c = a->dim[2];
    for (int64_t k = 0; k < 3; k++) {
        gradient g = { 0, 0, 0 };
        for (int i = -1; i <= 1; i++)
            for (int j = -1; j <= 1; j++) {
                const int v =
                    ((const uint8_t *)a->data)[(clamp(y + i, h) * w + clamp(x + j, w)) * c + k];
                g.dx += j * smooth[i + 1] * v;
                g.dy += i * smooth[j + 1] * v;
            }
        g.size = abs(g.dx) + abs(g.dy);
        if (g.size > best.size) best = g;
    }
    return best;
}

/* The magnitude at (y, x), 0 outside the picture. */
static int size_at(const gradient *g, int64_t h, int64_t w, int64_t y, int64_t x)
{
    return y < 0 || y >= h || x < 0 || x >= w ? 0 : g[y * w + x].size;
}

/* Nonzero: the magnitude is largest along its gradient.  Tan 22.5 and tan 67.5 degrees, in 15 bits,
 * separate the directions. */
static int is_ridge(const gradient *g, int64_t h, int64_t w, int64_t y, int64_t x)
{
    const gradient *p = &g[y * w + x];
    const int64_t ax = llabs((long long)p->dx), ay = llabs((long long)p->dy) << 15;
    const int64_t low = ax * 13573, high = low + (ax << 16);
    if (ay < low)
        return p->size > size_at(g, h, w, y, x - 1) && p->size >= size_at(g, h, w, y, x + 1);
    if (ay > high)
        return p->size > size_at(g, h, w, y - 1, x) && p->size >= size_at(g, h, w, y + 1, x);
    const int s = (p->dx < 0) != (p->dy < 0) ? -1 : 1;
    return p->size > size_at(g, h, w, y - 1, x - s) && p->size > size_at(g, h, w, y + 1, x + s);
}

/* Makes weak neighbours of strong pixels strong.  stack has room for every pixel. */
static void grow(uint8_t *class, int64_t h, int64_t w, int64_t *stack)
{
    int64_t n = 0;
    for (int64_t i = 0; i < h * w; i++)
        if (class[i] == STRONG) stack[n++] = i;
    while (n) {
        const int64_t y = stack[n - 1] / w, x = stack[n - 1] % w;
        n--;
        for (int64_t k = 0; k < 9; k++) {
            const int64_t ny = y + k / 3 - 1, nx = x + k % 3 - 1;
            if (ny < 0 || ny >= h || nx < 0 || nx >= w || class[ny * w + nx] != WEAK) continue;
            class[ny * w + nx] = STRONG;
            stack[n++] = ny * w + nx;
        }
    }
}

int canny(qwen_array *a)
{
    const int64_t h = a->dim[0], w = a->dim[1], c = a->dim[2];
    gradient *g = malloc((size_t)(h * w) * sizeof *g);
    uint8_t *class = malloc((size_t)(h * w));
    int64_t *stack = malloc((size_t)(h * w) * sizeof *stack);
    const int good = g && class && stack;
    for (int64_t i = 0; good && i < h * w; i++) g[i] = gradient_at(a, i / w, i % w);
    for (int64_t i = 0; good && i < h * w; i++)
        class[i] = g[i].size <= LOW || !is_ridge(g, h, w, i / w, i % w) ? NOTHING
                   : g[i].size > HIGH                                   ? STRONG
                                                                        : WEAK;
    if (good) grow(class, h, w, stack);
    for (int64_t i = 0; good && i < h * w; i++)
        memset((uint8_t *)a->data + i * c, class[i] == STRONG ? 255 : 0, 3);
    free(g);
    free(class);
    free(stack);
    return good ? CODE_DONE : no_memory();
}
