/* check_stress.c - 8-bit codes in a deep transformer whose streams have outliers.
 *
 * The net has the structure of the published transformer, 60 blocks of two streams, at a small
 * width, and what measurements of such nets describe: a few channels of the streams are 1000 times
 * the others; the modulation leaves them 30 times the others where linear layers read them; two
 * tokens are massive, 10 times that again, in one channel; there the MLPs have a hidden channel of
 * some hundred times the others, which feeds that channel.  After each block the picture stream of
 * each device and kind of weights is compared with that of ref64 and the weights that were rounded.
 *
 * Without an argument it asserts which choice is better than which.  --long [width]: wider nets,
 * and a table of relative distances (Euclidean norm), of all channels and of the ordinary ones. */
#include "nets/dit.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 60, HEAD = 64, TEXT = 12, ROWS = 5, COLS = 6, PICTURE = ROWS * COLS };
enum { TOKENS = TEXT + PICTURE, OUTLIERS = 4, MATRICES = 6, MOST = 16 };
static const double FAR = 1000, LEFT = 30, MASSIVE = 10, HIDDEN = 300;

typedef struct size {
    int64_t width;
    int group; /* of the rotation */
} size;

static void *room(int64_t n, size_t each)
{
    void *p = calloc((size_t)n, each);
    if (p) return p;
    fprintf(stderr, "no memory\n");
    exit(1);
}

/* --- numbers ---------------------------------------------------------------------------------- */

static uint64_t state;

static uint64_t draw(void)
{
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* The sum of four uniform numbers, of deviation 1. */
static double normal(void)
{
    const uint64_t u = draw();
    const double sum = (double)((u & 0xffff) + (u >> 16 & 0xffff) + (u >> 32 & 0xffff) + (u >> 48));
    return (sum / 65536 - 2) * sqrt(3);
}

static int64_t outlier(const size *z, int i) { return z->width / OUTLIERS * i + 7; }
static int is_outlier(const size *z, int64_t c)
{
    return c % (z->width / OUTLIERS) == 7 && c / (z->width / OUTLIERS) < OUTLIERS;
}
/* The massive tokens, one of each stream, have MASSIVE times the others' in outlier 0. */
static int is_massive(int64_t token) { return token == 0 || token == TEXT + 8; }

/* --- a block ---------------------------------------------------------------------------------- */

/* The forms that a matrix has in files. */
typedef enum form { BF16, INT8, TURNED, FORMS } form;

typedef struct matrix {
    int64_t n, k;
    double *w; /* [n][k], as rounded to bf16 */
    double *bias;
    uint16_t *bf16;
    int8_t *code[2]; /* INT8, TURNED */
    float *scale[2];
} matrix;

typedef struct stream {
    matrix m[MATRICES]; /* q, k, v, out, up, down */
    double *mod;        /* [6 width] */
} stream;

static void matrix_new(matrix *m, int64_t n, int64_t k)
{
    *m = (matrix){ .n = n, .k = k };
    m->w = room(n * k, sizeof *m->w);
    m->bias = room(n, sizeof *m->bias);
    m->bf16 = room(n * k, sizeof *m->bf16);
    for (int i = 0; i < 2; i++) {
        m->code[i] = room(n * k, 1);
        m->scale[i] = room(n, sizeof *m->scale[i]);
    }
}

static void matrix_free(matrix *m)
{
    free(m->w);
    free(m->bias);
    free(m->bf16);
    for (int i = 0; i < 2; i++) {
        free(m->code[i]);
        free(m->scale[i]);
    }
}

static void stream_new(stream *s, const size *z)
{
    for (int i = 0; i < MATRICES; i++)
        matrix_new(&s->m[i], i == 4 ? 4 * z->width : z->width, i == 5 ? 4 * z->width : z->width);
    s->mod = room(6 * z->width, sizeof *s->mod);
}

static void stream_free(stream *s)
{
    for (int i = 0; i < MATRICES; i++) matrix_free(&s->m[i]);
    free(s->mod);
}

/* Rounds w to its forms. */
static void finish(matrix *m, const size *z)
{
    double *row = room(m->k, sizeof *row);
    for (int64_t i = 0; i < m->n; i++) {
        double *w = m->w + i * m->k;
        qw_numbers_put(QW_BF16, w, m->k, m->bf16 + i * m->k);
        qw_numbers_get(QW_BF16, m->bf16 + i * m->k, m->k, w);
        memcpy(row, w, (size_t)m->k * sizeof *row);
        for (int f = 0; f < 2; f++) {
            m->scale[f][i] = qw_row_quantise(row, m->k, m->code[f] + i * m->k);
            qw_hadamard(row, m->k, z->group);
        }
    }
    free(row);
}

/* The hidden channel 3 is large where outlier 0 is: a normed row has sqrt(width) there on a massive
 * token and no more than sqrt(width / OUTLIERS) elsewhere.  It feeds outlier 0 alone. */
static void massive_channel(stream *s, const size *z, double at_massive, double elsewhere)
{
    matrix *up = &s->m[4], *down = &s->m[5];
    const int64_t C = z->width, c = outlier(z, 0);
    const double slope = HIDDEN / (at_massive - (at_massive + elsewhere) / 2);
    for (int64_t k = 0; k < C; k++) up->w[3 * C + k] = k == c ? slope : 0;
    up->bias[3] = -slope * (at_massive + elsewhere) / 2;
    for (int64_t i = 0; i < C; i++) down->w[i * down->k + 3] = 0;
    down->w[c * down->k + 3] = FAR * MASSIVE / HIDDEN / 20;
}

static void draw_stream(stream *s, const size *z)
{
    const int64_t C = z->width;
    for (int i = 0; i < MATRICES; i++) {
        matrix *m = &s->m[i];
        const double unit = 1 / sqrt((double)m->k);
        for (int64_t n = 0; n < m->n; n++) {
            /* what is written into an outlier channel is of its size */
            const double by = i % 2 && i > 2 && is_outlier(z, n) ? FAR / 10 : 1;
            for (int64_t k = 0; k < m->k; k++) /* what is read from one is of the others' size */
                m->w[n * m->k + k] = unit * normal() * by;
            m->bias[n] = 0.05 * normal();
        }
    }
    /* the deviation of a row of the stream, about: that of its outliers */
    const double deviation = FAR * sqrt(OUTLIERS / (double)C), usual = FAR / deviation;
    for (int64_t c = 0; c < 6 * C; c++) {
        const int64_t part = c / C;
        const double n = normal();
        if (part % 3 == 0) s->mod[c] = 0.1 * n;
        else if (part % 3 == 2) s->mod[c] = 0.2 * (1 + 0.3 * n);
        else s->mod[c] = (is_outlier(z, c % C) ? LEFT / usual : deviation) * (1 + 0.2 * n) - 1;
    }
    const int64_t c = outlier(z, 0);
    const double by = 1 + s->mod[4 * C + c];
    massive_channel(s, z, by * sqrt((double)C), by * sqrt((double)C / OUTLIERS));
    for (int i = 0; i < MATRICES; i++) finish(&s->m[i], z);
}

/* --- a block on a device ---------------------------------------------------------------------- */

/* What stays in bf16: the text's layers; the last layer of the picture's MLPs, or both. */
typedef enum kept { NOTHING, WORDS, DOWN, MLP, KEPT } kept;

typedef struct runner {
    const char *device, *what;
    form form;
    kept kept;
    qw_device *dev, *ref;
    qw_residency *res;
    qw_run run;
    double *x;                         /* [TOKENS][width]: the stream */
    double all[BLOCKS], usual[BLOCKS]; /* distances */
} runner;

static void part_of(qw_run *r, qw_weight *w, const matrix *m, form f)
{
    qw_weight_part *p = &w->part[w->parts++];
    w->n += m->n;
    w->k = m->k;
    p->w = f == BF16 ? qw_dense2(m->bf16, QW_BF16, m->n, m->k)
                     : qw_dense2(m->code[f - 1], QW_I8, m->n, m->k);
    if (f != BF16) {
        p->w.scale = m->scale[f - 1];
        p->w.scale_stride = 1;
    }
    p->bias = qw_new1(r, r->dev->wide, m->n);
    qw_put(r, p->bias, m->bias);
}

static void place_stream(qw_run *r, const runner *u, const size *z, const stream *s, int picture,
                         qw_dit_stream *out)
{
    qw_weight *const to[MATRICES] = { &out->qkv, &out->qkv, &out->qkv,
                                      &out->out, &out->up,  &out->down };
    double *one = room(HEAD, sizeof *one);
    *out = (qw_dit_stream){ 0 };
    for (int i = 0; i < MATRICES; i++) part_of(r, to[i], &s->m[i], u->form);
    for (int i = 0; i < MATRICES && u->form == TURNED; i++)
        for (int k = 0; k < to[i]->parts; k++) to[i]->part[k].w.rotated = z->group;
    for (int i = 0; i < MATRICES; i++) to[i]->plain = !picture && u->kept == WORDS;
    if (picture) out->up.plain = u->kept == MLP;
    if (picture) out->down.plain = u->kept >= DOWN;
    for (int i = 0; i < HEAD; i++) one[i] = 1.4;
    out->norm_q = qw_new1(r, r->dev->wide, HEAD);
    out->norm_k = qw_new1(r, r->dev->wide, HEAD);
    qw_put(r, out->norm_q, one);
    qw_put(r, out->norm_k, one);
    free(one);
}

static void run_block(runner *u, const size *z, const stream s[2])
{
    qw_run *r = &u->run;
    const size_t mark = r->used;
    const int64_t C = z->width, first[2] = { 0, TEXT }, rows[2] = { TEXT, PICTURE };
    const qw_dit_config c = { .width = C, .head = HEAD, .axes = { 16, 24, 24 } };
    const qw_grid grid = { 1, ROWS, COLS };
    qw_dit_block b = { .group = qw_group_new(u->res, "block") };
    qw_dit_part part[2];
    qw_tensor table[2][2], x = qw_new2(r, r->dev->wide, TOKENS, C);
    qw_put(r, x, u->x);
    qw_dit_positions(r, &c, &grid, 1, TEXT, 0, table);
    for (int i = 0; i < 2; i++) {
        qw_dit_stream *w = i ? &b.picture : &b.text;
        place_stream(r, u, z, &s[i], i, w);
        part[i] = (qw_dit_part){ .w = w,
                                 .first = first[i],
                                 .rows = rows[i],
                                 .mod = qw_new1(r, r->dev->wide, 6 * C),
                                 .cos = table[i][0],
                                 .sin = table[i][1] };
        qw_put(r, part[i].mod, s[i].mod);
    }
    qw_dit_run_block(r, &c, &b, part, 2, x);
    qw_get(r, x, u->x);
    r->used = mark;
    if (!r->error.status) return;
    fprintf(stderr, "%s: %s\n", u->device, r->error.text);
    exit(1);
}

/* --- the comparison --------------------------------------------------------------------------- */

/* Relative distance of the picture stream from the oracle's. */
static double distance(const runner *u, const runner *oracle, const size *z, int usual)
{
    double d = 0, m = 0;
    for (int64_t i = TEXT * z->width; i < TOKENS * z->width; i++) {
        if (usual && is_outlier(z, i % z->width)) continue;
        d += (u->x[i] - oracle->x[i]) * (u->x[i] - oracle->x[i]);
        m += oracle->x[i] * oracle->x[i];
    }
    return sqrt(d / m);
}

static int open_runner(runner *u, const size *z, const double *x)
{
    qw_error err = { 0 };
    if (qw_device_open(u->device, NULL, &u->dev, &err)) return 1;
    if (qw_device_open("ref", NULL, &u->ref, &err) || qw_residency_new(&u->res, u->dev, 0, &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    qw_run_init(&u->run, u->dev, u->ref);
    if (qw_run_reserve(&u->run, ((size_t)z->width * 64 * TOKENS + ((size_t)16 << 20)) * 2)) exit(1);
    u->x = room(TOKENS * z->width, sizeof *u->x);
    memcpy(u->x, x, (size_t)(TOKENS * z->width) * sizeof *x);
    return 0;
}

static void close_runner(runner *u)
{
    if (!u->dev) return;
    free(u->x);
    qw_run_free(&u->run);
    qw_residency_free(u->res);
    u->ref->close(u->ref);
    u->dev->close(u->dev);
}

/* Runner 0 is the oracle. */
static void run_all(runner *u, int runners, const size *z, uint64_t seed)
{
    stream s[2];
    double *x = room(TOKENS * z->width, sizeof *x);
    state = seed << 32;
    for (int64_t i = 0; i < TOKENS * z->width; i++) {
        const int64_t c = i % z->width, token = i / z->width;
        x[i] = normal();
        if (is_outlier(z, c))
            x[i] = FAR * (c / (z->width / OUTLIERS) % 2 ? -1 : 1) * (1 + 0.2 * x[i]);
        if (is_massive(token) && c == outlier(z, 0)) x[i] *= MASSIVE;
    }
    for (int k = 0; k < runners; k++)
        if (open_runner(&u[k], z, x)) u[k].dev = NULL;
    for (int i = 0; i < 2; i++) stream_new(&s[i], z);
    for (int b = 0; b < BLOCKS; b++) {
        for (int i = 0; i < 2; i++) draw_stream(&s[i], z);
        for (int k = 0; k < runners; k++) {
            if (!u[k].dev) continue;
            run_block(&u[k], z, s);
            u[k].all[b] = distance(&u[k], &u[0], z, 0);
            u[k].usual[b] = distance(&u[k], &u[0], z, 1);
        }
    }
    for (int i = 0; i < 2; i++) stream_free(&s[i]);
    free(x);
}

static void print_all(const runner *u, int runners)
{
    static const char *const file[FORMS] = { "bf16", "int8", "int8_convrot" };
    static const char *const left[KEPT] = { "-", "text", "down", "mlp" };
    printf("%-21s %-13s %-5s %s\n", "device", "weights", "bf16",
           "distance after block 1, 10, 20 .. 60");
    for (int k = 1; k < runners; k++)
        for (int usual = 0; usual < 2 && u[k].dev; usual++) {
            printf("%-21s %-13s %-5s %s", u[k].device, file[u[k].form], left[u[k].kept],
                   usual ? "usual" : "all  ");
            for (int b = 0; b <= BLOCKS; b += 10)
                printf(" %.5f", (usual ? u[k].usual : u[k].all)[b ? b - 1 : 0]);
            printf("\n");
        }
}

/* Distances over several nets: the root of the mean square. */
static void run_seeds(runner *u, int runners, const size *z, int seeds)
{
    double sum[MOST][2][BLOCKS] = { { { 0 } } };
    for (int i = 0; i < seeds; i++) {
        run_all(u, runners, z, (uint64_t)i + 13);
        for (int k = 0; k < runners; k++) {
            for (int b = 0; b < BLOCKS; b++) {
                sum[k][0][b] += u[k].all[b] * u[k].all[b] / seeds;
                sum[k][1][b] += u[k].usual[b] * u[k].usual[b] / seeds;
            }
            close_runner(&u[k]);
        }
    }
    for (int k = 0; k < runners; k++)
        for (int b = 0; b < BLOCKS; b++) {
            u[k].all[b] = sqrt(sum[k][0][b]);
            u[k].usual[b] = sqrt(sum[k][1][b]);
        }
}

/* The root of the mean square distance of the ordinary channels over the first third of the blocks,
 * before the differences that all have made drown those of a choice. */
static double early(const runner *u)
{
    double sum = 0;
    for (int b = 0; b < BLOCKS / 3; b++) sum += u->usual[b] * u->usual[b];
    return sqrt(sum / (BLOCKS / 3));
}

static int closer(const runner *a, const runner *b, const char *what)
{
    if (early(a) < early(b)) return 0;
    fprintf(stderr, "%s: %.5f is not below %.5f\n", what, early(a), early(b));
    return 1;
}

static int short_mode(void)
{
    enum { ORACLE, KEEPS, CODES, CODES_MLP, ROTATED, RUNNERS };
    runner u[RUNNERS] = { { .device = "ref64" },
                          { .device = "ref:bf16" },
                          { .device = "ref:int8", .form = INT8 },
                          { .device = "ref:int8", .form = INT8, .kept = MLP },
                          { .device = "ref:int8", .form = TURNED } };
    const size z = { 128, 64 };
    run_seeds(u, RUNNERS, &z, 1);
    print_all(u, RUNNERS);
    return closer(&u[KEEPS], &u[ROTATED], "bf16 against rotated codes")
           + closer(&u[KEEPS], &u[CODES_MLP], "bf16 against codes but MLPs in bf16")
           + closer(&u[ROTATED], &u[CODES], "rotated codes against codes")
           + closer(&u[CODES_MLP], &u[CODES], "MLPs in bf16 against codes");
}

/* The cpu device where there is one, else the reference. */
static void long_mode(int64_t width)
{
    runner u[MOST] = { { .device = "ref64" }, { .device = "ref:bf16" } };
    int runners = 2;
    qw_device *d = NULL;
    qw_error err = { 0 };
    const char *device =
        qw_device_open("cpu:avx512bf16:int8", NULL, &d, &err) ? "ref:int8" : "cpu:avx512bf16:int8";
    if (d) d->close(d);
    for (int f = 0; f < FORMS; f++)
        for (int k = 0; k < KEPT; k++)
            u[runners++] = (runner){ .device = device, .form = (form)f, .kept = (kept)k };
    const size z = { width, 256 };
    run_seeds(u, runners, &z, 3);
    print_all(u, runners);
}

int main(int argc, char **argv)
{
    if (argc < 2) return short_mode() ? EXIT_FAILURE : EXIT_SUCCESS;
    const long width = argc > 2 ? strtol(argv[2], NULL, 10) : 512;
    if (strcmp(argv[1], "--long") || width < 256 || width > 4096 || width % 256) {
        fprintf(stderr, "usage: check_stress [--long [width, a multiple of 256 up to 4096]]\n");
        return 2;
    }
    long_mode(width);
    return EXIT_SUCCESS;
}
