/* dit_modulation.c - the part of the MMDiT that depends on the timestep only.
 *
 * qw_dit_modulate computes the embedding and each block's shift, scale and gate for all steps
 * before the first one, and so reads these weights once a picture; the table stays on the host.
 * A step copies one row of it to the device, in one piece, before the first block. */
#include "nets/dit.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SINUSOID = 256, MOD = 6 };

/* cos then sin of 1000 t 10000^(-k/128), k = 0 .. 127. */
static void sinusoid(double t, double *out)
{
    const int half = SINUSOID / 2;
    for (int k = 0; k < half; k++) {
        const double a = 1000 * (t * exp(-log(10000) * k / half));
        out[k] = cos(a);
        out[half + k] = sin(a);
    }
}

/* Elements of a row of the table. */
static size_t row_size(const qw_modulation *m)
{
    return (2 * MOD * (size_t)m->blocks + (m->last ? 2 : 0)) * (size_t)m->width;
}

static void *row_of(const qw_modulation *m, int row)
{
    return m->table + (size_t)row * row_size(m) * m->element;
}

/* Copies a dense tensor [rows][n] of the wide type from the device into the rows of the table, at
 * element `at`.  room: host memory for the whole tensor. */
static void fetch(qw_run *r, qw_tensor t, const qw_modulation *m, size_t at, void *room)
{
    const size_t bytes = qw_row_bytes(t.dtype, t.dim[1]);
    if (r->error.status || qw_is_plan(r->dev) || qw_run_spoils(r)) return;
    const int status = r->dev->get(r->dev, QW_COMPUTE, room, t.data, (size_t)m->rows * bytes);
    if (status) {
        qw_run_device_failed(r, status, "giving the modulation back");
        return;
    }
    for (int i = 0; i < m->rows; i++)
        memcpy((unsigned char *)row_of(m, i) + at * m->element,
               (unsigned char *)room + (size_t)i * bytes, bytes);
}

static qw_modulation *new_table(const qw_dit_config *c, int steps, int blocks, int out,
                                size_t element)
{
    qw_modulation *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    m->steps = steps;
    m->zero = c->zero_cond_t;
    m->rows = steps + m->zero;
    m->blocks = blocks;
    m->width = c->width;
    m->element = element;
    m->last = out;
    const size_t rows = (size_t)m->rows;
    m->proj = calloc(rows * SINUSOID, sizeof *m->proj);
    m->temb = calloc(rows * (size_t)c->width, sizeof *m->temb);
    m->table = calloc(rows * row_size(m), element);
    if (m->proj && m->temb && m->table) return m;
    qw_modulation_free(m);
    return NULL;
}

void qw_modulation_free(qw_modulation *m)
{
    if (!m) return;
    free(m->proj);
    free(m->temb);
    free(m->table);
    free(m);
}

/* Computes temb = linear_2(silu(linear_1(sinusoid))) + addition on the host, and puts silu(temb) to
 * the device. */
static void embed_time(qw_run *r, const qw_dit_config *c, const qw_weight *time1,
                       const qw_weight *time2, const double *addition, qw_modulation *m,
                       qw_tensor silu)
{
    const size_t mark = r->used;
    const qw_dtype wide = r->dev->wide;
    const int64_t rows = m->rows, n = rows * c->width;
    qw_tensor x = qw_new2(r, wide, rows, SINUSOID), h = qw_new2(r, wide, rows, c->width);
    qw_tensor y = qw_new2(r, wide, rows, c->width);
    double *s = malloc((size_t)n * sizeof *s);
    if (!s) qw_run_fail(r, QWEN_ENOMEM, "no memory for %lld timesteps", (long long)rows);
    qw_put(r, x, m->proj);
    qw_linear_act(r, h, x, time1, QW_SILU);
    qw_linear(r, y, h, time2);
    qw_get(r, y, m->temb);
    for (int64_t i = 0; s && i < n; i++) {
        if (addition) m->temb[i] += addition[i % c->width];
        s[i] = m->temb[i] / (1 + exp(-m->temb[i]));
    }
    qw_put(r, silu, s);
    free(s);
    r->used = mark;
}

int qw_dit_table(qw_run *r, const qw_dit_config *c, const qw_weight *time1, const qw_weight *time2,
                 const double *addition, const qw_dit_block *block, int blocks,
                 const qw_weight *out, qw_group *out_group, const double *t, int steps,
                 qw_modulation **table)
{
    const size_t mark = r->used;
    const qw_dtype wide = r->dev->wide;
    *table = NULL;
    if (r->error.status) return r->error.status;
    qw_modulation *m = new_table(c, steps, blocks, out != NULL, qw_block_bytes(wide));
    if (!m) {
        qw_run_fail(r, QWEN_ENOMEM, "no memory for the modulation of %d steps", steps);
        return r->error.status;
    }
    for (int i = 0; i < m->rows; i++) sinusoid(i < steps && t ? t[i] : 0, m->proj + i * SINUSOID);
    const size_t width = (size_t)c->width;
    void *room = malloc((size_t)m->rows * MOD * width * m->element);
    if (!room) qw_run_fail(r, QWEN_ENOMEM, "no memory for a modulation");
    qw_tensor silu = qw_new2(r, wide, m->rows, c->width),
              mod = qw_new2(r, wide, m->rows, MOD * c->width);
    qw_group_begin(r, out_group);
    embed_time(r, c, time1, time2, addition, m, silu);
    if (out) {
        qw_tensor last = qw_new2(r, wide, m->rows, 2 * c->width);
        qw_linear(r, last, silu, out);
        fetch(r, last, m, 2 * MOD * (size_t)blocks * width, room);
    }
    qw_group_end(r, out_group);
    for (int i = 0; i < blocks; i++) {
        r->block = i;
        qw_group_begin(r, block[i].mod_group);
        for (int text = 0; text < 2; text++) {
            qw_linear(r, mod, silu, text ? &block[i].text.mod : &block[i].picture.mod);
            fetch(r, mod, m, (size_t)(2 * i + text) * MOD * width, room);
        }
        qw_group_end(r, block[i].mod_group);
    }
    free(room);
    r->block = -1;
    r->used = mark;
    if (r->error.status) {
        qw_modulation_free(m);
        return r->error.status;
    }
    *table = m;
    return QWEN_OK;
}

int qw_dit_modulate(qw_run *r, const qw_dit *d, const double *t, int steps, qw_modulation **out)
{
    return qw_dit_table(r, &d->c, &d->time1, &d->time2, d->addition, d->block, (int)d->c.layers,
                        &d->norm_out, d->group, t, steps, out);
}

/* --- on the device ---------------------------------------------------------------------------- */

qw_tensor qw_dit_new_row(qw_run *r, const qw_modulation *m)
{
    return qw_new1(r, r->dev->wide, (int64_t)row_size(m));
}

void qw_dit_put_row(qw_run *r, const qw_modulation *m, int row, qw_tensor to)
{
    if (r->error.status || qw_run_spoils(r)) return;
    const int status =
        r->dev->put(r->dev, QW_COMPUTE, to.data, row_of(m, row), row_size(m) * m->element);
    if (status) qw_run_device_failed(r, status, "taking a modulation");
}

qw_tensor qw_dit_mod(qw_tensor row, int64_t width, int block, int stream)
{
    return qw_cols(row, (2 * block + stream) * MOD * width, MOD * width);
}

qw_tensor qw_dit_mod_last(qw_tensor row, int64_t width)
{
    return qw_cols(row, row.dim[0] - 2 * width, 2 * width);
}

void qw_dit_tap_time(qw_run *r, const qw_modulation *m, int step, const char *prefix)
{
    const int64_t width = m->width;
    const int rows = 1 + m->zero;
    double *x = malloc((size_t)(2 * (width + SINUSOID)) * sizeof *x);
    if (!x || !r->tap || r->error.status) {
        free(x);
        return;
    }
    for (int i = 0; i < rows; i++) {
        const int row = i ? m->steps : step;
        memcpy(x + i * width, m->temb + row * width, (size_t)width * sizeof *x);
        memcpy(x + 2 * width + i * SINUSOID, m->proj + row * SINUSOID, SINUSOID * sizeof *x);
    }
    qw_tap_doubles(r, x, 2, (const int64_t[]){ rows, width }, "%stemb", prefix);
    if (r->detail)
        qw_tap_doubles(r, x + 2 * width, 2, (const int64_t[]){ rows, SINUSOID }, "%stime_proj",
                       prefix);
    free(x);
}
