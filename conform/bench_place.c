/* bench_place.c - a work on a device, through the nets' own code: weights by loader and residency,
 * ops by a run whose scratch a plan has counted. */
#include "bench_inside.h"
#include "nets/dit.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBERS = 1 << 16 };

struct qw_placed {
    const qw_work_file *f;
    qw_device *dev, *ref;
    qw_residency *res;
    qw_run run;
    double *number; /* [NUMBERS] normals, of which inputs are made */
    double *row;    /* a row of them */
    int64_t sample; /* rows that are computed, 0: all */
    qw_weight weight[QW_COPIES];
    qw_group *group[QW_COPIES];
    int turn;
    qw_dit_config dit;
    qw_dit_block block;
    qw_overlay *overlay; /* NULL: no LoRA */
    qw_dit_part part[2];
    qw_text *text;
    qw_vision *vision;
    qw_vae *vae;
    int32_t *ids; /* [rows] of the text, then its positions [3][rows] */
    qw_tensor x, y;
    double *in, *out; /* of whole nets, in host memory */
    int64_t outs;
    double began, ended; /* of the ops */
    double flops, bytes; /* bytes of inputs and outputs */
};

/* --- inputs ----------------------------------------------------------------------------------- */

/* n numbers of a stream. */
static void numbers(const qw_placed *p, uint64_t stream, int64_t n, double *x)
{
    const uint64_t from = stream * UINT64_C(0x9e3779b97f4a7c15) >> 40;
    for (int64_t i = 0; i < n; i++) x[i] = p->number[(from + (uint64_t)i) % NUMBERS];
}

/* Rows of x from the streams of those rows of all that are computed. */
static void put_rows(qw_run *r, const qw_placed *p, qw_tensor x, int64_t all, uint64_t stream)
{
    const int64_t rows = x.dim[0], n = x.dim[1];
    for (int64_t i = 0; i < rows && !qw_is_plan(r->dev); i++) {
        numbers(p, stream + (uint64_t)(i * all / rows), n, p->row);
        qw_put(r, qw_rows(x, i, 1), p->row);
    }
}

/* --- gemm and attention ----------------------------------------------------------------------- */

static void load_gemm(qw_placed *p, qw_loader *l)
{
    for (int i = 0; i < p->f->copies; i++) {
        p->group[i] = l->group = qw_group_new(p->res, "gemm.%d", i);
        qw_load_part(l, &p->weight[i], p->f->work.dim[1], p->f->work.dim[2], 1, "gemm.%d", i);
    }
}

static void put_gemm(qw_run *r, qw_placed *p)
{
    const int64_t *d = p->f->work.dim, m = p->sample ? p->sample : d[0];
    p->x = qw_new2(r, qw_input_type(r, &p->weight[0]), m, d[2]);
    p->y = qw_new2(r, r->dev->prefer, m, d[1]);
    put_rows(r, p, p->x, d[0], 1);
}

/* The next copy of the weight, but the first where a sample is compared. */
static void run_gemm(qw_run *r, qw_placed *p)
{
    const int i = p->sample ? 0 : p->turn % p->f->copies;
    qw_group_begin(r, p->group[i]);
    qw_linear(r, p->y, p->x, &p->weight[i]);
    qw_group_end(r, p->group[i]);
}

static void put_attention(qw_run *r, qw_placed *p)
{
    const int64_t *d = p->f->work.dim, width = d[0] * d[2], m = p->sample ? p->sample : d[1];
    p->x = qw_new2(r, r->dev->prefer, d[1], 3 * width); /* q, k and v as columns of one buffer */
    p->y = qw_new2(r, r->dev->prefer, m, width);
    put_rows(r, p, qw_cols(qw_rows(p->x, 0, m), 0, width), d[1], 1);
    put_rows(r, p, qw_cols(p->x, width, width), d[1], 1u << 20);
    put_rows(r, p, qw_cols(p->x, 2 * width, width), d[1], 1u << 21);
}

static void run_attention(qw_run *r, qw_placed *p)
{
    const int64_t d = p->f->work.dim[2], width = p->f->work.dim[0] * d;
    const qw_tensor q = qw_cols(qw_rows(p->x, 0, p->y.dim[0]), 0, width);
    qw_attention(r, (qw_attention_args){ .y = qw_heads(p->y, d),
                                         .q = qw_heads(q, d),
                                         .k = qw_heads(qw_cols(p->x, width, width), d),
                                         .v = qw_heads(qw_cols(p->x, 2 * width, width), d),
                                         .scale = 1 / sqrt((double)d) });
}

/* --- a block of the transformer --------------------------------------------------------------- */

static void load_block(qw_placed *p, qw_loader *l)
{
    if (qw_dit_configure(&p->dit, NULL, NULL, "the published transformer", l->err)) return;
    qw_dit_new_groups(l, &p->block, 1, "transformer_blocks");
    qw_dit_load_block(l, &p->block, &p->dit, "transformer_blocks", 0);
}

/* Lays the LoRA over the block's linear layers. */
static void lay_lora(qw_placed *p, qw_error *err)
{
    qw_lora_site site[32];
    int n = 0;
    for (int text = 0; text < 2; text++) {
        qw_dit_stream *s = text ? &p->block.text : &p->block.picture;
        qw_weight *const w[] = { &s->qkv, &s->out, &s->up, &s->down };
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < w[i]->parts; k++, n++)
                site[n] = (qw_lora_site){ &w[i]->part[k], w[i]->part[k].w.dim[0], w[i]->k };
    }
    qw_overlay_new(&p->overlay, &p->f->lora, 1, site, n, p->dev, 0, NULL, NULL, err);
}

/* Rows and columns of n tokens, as square as they divide. */
static qw_grid grid_of(int64_t n)
{
    int64_t rows = 1;
    for (int64_t i = 1; i * i <= n; i++)
        if (n % i == 0) rows = i;
    return (qw_grid){ 1, (int32_t)rows, (int32_t)(n / rows) };
}

/* The stream, which the block changes, is put before every run by run_block's caller. */
static void put_block(qw_run *r, qw_placed *p)
{
    const int64_t *d = p->f->work.dim, C = p->dit.width;
    const qw_grid grid = grid_of(d[0]);
    qw_tensor table[2][2];
    qw_dit_positions(r, &p->dit, &grid, 1, d[1], 0, table);
    p->x = p->y = qw_new2(r, r->dev->wide, d[0] + d[1], C);
    for (int i = 0; i < 2; i++) {
        const qw_tensor mod = qw_new1(r, r->dev->wide, 6 * C);
        p->part[i] = (qw_dit_part){ .w = i ? &p->block.picture : &p->block.text,
                                    .first = i ? d[1] : 0,
                                    .rows = d[!i],
                                    .mod = mod,
                                    .cos = table[i][0],
                                    .sin = table[i][1] };
        numbers(p, 77 + (uint64_t)i, 6 * C, p->row);
        for (int64_t k = 0; k < 6 * C; k++) p->row[k] /= 4;
        qw_put(r, mod, p->row);
    }
    put_rows(r, p, p->x, d[0] + d[1], 1);
}

static void run_block(qw_run *r, qw_placed *p)
{
    qw_dit_run_block(r, &p->dit, &p->block, p->part, 2, p->x);
}

/* --- whole nets ------------------------------------------------------------------------------- */

/* Host memory for a net's input and output. */
static void host_memory(qw_placed *p, int64_t in, int64_t out, qw_error *err)
{
    p->in = malloc((size_t)in * sizeof *p->in);
    p->out = calloc((size_t)out, sizeof *p->out);
    p->outs = out;
    if (!p->in || !p->out) qw_fail(err, QWEN_ENOMEM, "no memory for the inputs of a work");
    else numbers(p, 5, in, p->in);
    p->bytes = 4 * (double)(in + out);
}

static void load_text(qw_placed *p, qw_loader *l)
{
    qw_text_config c;
    const int64_t rows = p->f->work.dim[0];
    if (qw_text_configure(&c, NULL, NULL, "the published language model", l->err)) return;
    c.layers = 1;
    c.vocab = QW_BENCH_VOCAB;
    host_memory(p, 1, rows * c.width, l->err);
    p->bytes *= 2;
    p->ids = malloc((size_t)rows * 4 * sizeof *p->ids);
    if (!p->ids) qw_fail(l->err, QWEN_ENOMEM, "no memory for the inputs of a work");
    for (int64_t i = 0; p->ids && i < 4 * rows; i++)
        p->ids[i] = (int32_t)(i < rows ? i * 7 % QW_BENCH_VOCAB : i % rows);
    if (!l->err->status) qw_text_load(&p->text, &c, l);
}

/* Called before every op: times what runs from the first op of a block to the next outside. */
static int watch_layer(void *user)
{
    qw_placed *p = user;
    if (p->run.block >= 0 && !(p->began > 0)) {
        p->dev->sync(p->dev);
        p->began = qw_seconds();
    } else if (p->run.block < 0 && p->began > 0 && !(p->ended > 0)) {
        p->dev->sync(p->dev);
        p->ended = qw_seconds();
    }
    return 0;
}

static void run_text(qw_run *r, qw_placed *p)
{
    const int64_t rows = p->f->work.dim[0];
    qw_text_forward(r, p->text, p->ids, rows, NULL, 0, p->ids + rows, p->out);
}

static void load_vision(qw_placed *p, qw_loader *l)
{
    qw_vision_config c;
    if (qw_vision_configure(&c, NULL, NULL, NULL, "the published vision tower", l->err)) return;
    const int64_t side = p->f->work.dim[0] / c.patch, patches = side * side;
    host_memory(p, patches * c.channels * c.temporal * c.patch * c.patch,
                patches / (c.merge * c.merge) * c.out, l->err);
    if (!l->err->status) qw_vision_load(&p->vision, &c, l);
}

static void run_vision(qw_run *r, qw_placed *p)
{
    const int32_t side = (int32_t)(p->f->work.dim[0] / 14);
    const qw_grid grid = { 1, side, side };
    qw_vision_forward(r, p->vision, p->in, &grid, p->out);
}

static void load_vae(qw_placed *p, qw_loader *l)
{
    qw_vae_config c;
    const int64_t pixels = p->f->work.dim[0] * p->f->work.dim[0];
    const int encode = p->f->work.encode;
    if (qw_vae_configure(&c, NULL, NULL, "the published VAE", l->err)) return;
    const int64_t picture = pixels * c.channels, latent = pixels / 64 * c.z;
    host_memory(p, encode ? picture : latent, encode ? 2 * latent : picture, l->err);
    if (!l->err->status) qw_vae_load(&p->vae, &c, encode ? QW_VAE_ENCODER : QW_VAE_DECODER, l);
}

static void run_vae(qw_run *r, qw_placed *p)
{
    const int64_t side = p->f->work.dim[0];
    if (p->f->work.encode)
        qw_vae_encode(r, p->vae, p->in, side, side, 0, p->out, p->out + p->outs / 2);
    else qw_vae_decode(r, p->vae, p->in, side / 8, side / 8, 0, p->out);
}

/* ---------------------------------------------------------------------------------------------- */

static const struct {
    void (*load)(qw_placed *p, qw_loader *l); /* NULL: no weights */
    void (*put)(qw_run *r, qw_placed *p);     /* takes scratch and puts inputs; NULL: run does */
    void (*run)(qw_run *r, qw_placed *p);
} known[QW_WORKS] = {
    [QW_WORK_GEMM] = { load_gemm, put_gemm, run_gemm },
    [QW_WORK_ATTENTION] = { NULL, put_attention, run_attention },
    [QW_WORK_BLOCK] = { load_block, put_block, run_block },
    [QW_WORK_TEXT] = { load_text, NULL, run_text },
    [QW_WORK_VISION] = { load_vision, NULL, run_vision },
    [QW_WORK_VAE] = { load_vae, NULL, run_vae },
};

/* Called before every op of a plan: counts the products of the op before it. */
typedef struct tally {
    const qw_run *run;
    double seen, flops;
    uint64_t products;
} tally;
static int count_products(void *user)
{
    tally *t = user;
    const uint64_t *calls = t->run->calls;
    const uint64_t products = calls[QW_OP_gemm] + calls[QW_OP_attention] + calls[QW_OP_conv2d];
    if (products != t->products) t->flops += t->run->flops - t->seen;
    t->products = products;
    t->seen = t->run->flops;
    return 0;
}

/* Counts scratch and products on a plan device. */
static int plan(qw_placed *p, size_t *scratch, qw_error *err)
{
    qw_device *dev;
    qw_run r;
    if (qw_plan_open(p->dev, &dev)) return qw_fail(err, QWEN_ENOMEM, "no memory for a plan");
    qw_run_init(&r, dev, NULL);
    tally t = { .run = &r };
    r.poll = count_products;
    r.user = &t;
    if (known[p->f->work.kind].put) known[p->f->work.kind].put(&r, p);
    known[p->f->work.kind].run(&r, p);
    count_products(&t);
    p->flops = t.flops;
    *scratch = r.peak;
    if (r.error.status) qw_fail(err, r.error.status, "%s", r.error.text);
    qw_run_free(&r);
    dev->close(dev);
    return err->status;
}

static double tensor_bytes(const qw_tensor *t)
{
    return (double)qw_row_bytes(t->dtype, qw_elements(t));
}

static int prepare(qw_placed *p, qw_error *err)
{
    const qw_work *w = &p->f->work;
    size_t scratch = 0;
    qw_loader l = { .store = p->f->store, .res = p->res, .err = err };
    if (known[w->kind].load) {
        known[w->kind].load(p, &l);
        if (!qw_loader_end(&l)) qw_residency_commit(p->res, err);
        if (!err->status && p->f->lora) lay_lora(p, err);
    }
    if (err->status || plan(p, &scratch, err)) return err->status;
    if (qw_run_reserve(&p->run, scratch)) return qw_fail(err, QWEN_ENOMEM, "%s", p->run.error.text);
    if (!known[w->kind].put) return QWEN_OK;
    known[w->kind].put(&p->run, p);
    p->bytes = tensor_bytes(&p->x) + tensor_bytes(&p->y);
    if (p->run.error.status) qw_fail(err, p->run.error.status, "%s", p->run.error.text);
    return err->status;
}

int qw_place(qw_placed **out, const qw_work_file *f, qw_device *dev, qw_device *ref, int64_t sample,
             qw_error *err)
{
    const int64_t most = f->work.dim[0] * f->work.dim[2];
    qw_placed *p = *out = calloc(1, sizeof *p);
    if (!p) return qw_fail(err, QWEN_ENOMEM, "no memory for a work");
    *p = (qw_placed){ .f = f, .dev = dev, .ref = ref, .sample = sample };
    qw_run_init(&p->run, dev, ref);
    p->number = malloc(NUMBERS * sizeof *p->number);
    p->row = malloc((size_t)(most > NUMBERS ? most : NUMBERS) * sizeof *p->row);
    if (!p->number || !p->row) qw_fail(err, QWEN_ENOMEM, "no memory for the inputs of a work");
    else qw_bench_normals(p->number, NUMBERS, 1);
    if (!err->status && !qw_residency_new(&p->res, dev, 0, err)) prepare(p, err);
    if (!err->status) return QWEN_OK;
    qw_placed_free(p);
    *out = NULL;
    return err->status;
}

void qw_placed_free(qw_placed *p)
{
    if (!p) return;
    qw_run_free(&p->run);
    for (int i = 0; i < QW_COPIES; i++) qw_weight_free(&p->weight[i]);
    qw_overlay_free(p->overlay);
    qw_dit_free_block(&p->block);
    qw_text_free(p->text);
    qw_vision_free(p->vision);
    qw_vae_free(p->vae);
    qw_residency_free(p->res);
    free(p->ids);
    free(p->in);
    free(p->out);
    free(p->number);
    free(p->row);
    free(p);
}

int qw_placed_run(qw_placed *p, double *seconds, qw_error *err)
{
    const qw_work *w = &p->f->work;
    qw_run *r = &p->run;
    if (w->kind == QW_WORK_BLOCK) put_rows(r, p, p->x, p->x.dim[0], 1);
    const int layer = w->kind == QW_WORK_TEXT;
    p->began = p->ended = 0;
    r->poll = layer ? watch_layer : NULL;
    r->user = p;
    p->dev->sync(p->dev);
    const double from = qw_seconds();
    known[w->kind].run(r, p);
    p->dev->sync(p->dev);
    *seconds = layer ? p->ended - p->began : qw_seconds() - from;
    p->turn++;
    if (r->error.status) qw_fail(err, r->error.status, "%s", r->error.text);
    return err->status;
}

int qw_placed_result(qw_placed *p, int64_t sample, double **out, int64_t *n, qw_error *err)
{
    const int64_t rows = sample ? sample : p->y.dim[0], all = p->y.dim[0];
    const int net = !known[p->f->work.kind].put;
    *n = net ? p->outs : rows * p->y.dim[1];
    double *y = *out = malloc((size_t)*n * sizeof *y);
    if (!y) return qw_fail(err, QWEN_ENOMEM, "no memory for a result");
    if (net) memcpy(y, p->out, (size_t)*n * sizeof *y);
    for (int64_t i = 0; !net && i < rows; i++)
        qw_get(&p->run, qw_rows(p->y, i * all / rows, 1), y + i * p->y.dim[1]);
    if (p->run.error.status) qw_fail(err, p->run.error.status, "%s", p->run.error.text);
    for (int64_t i = 0; i < *n && !err->status; i++)
        if (!isfinite(y[i])) qw_fail(err, QWEN_ENUMERIC, "its result is not finite");
    return err->status;
}

double qw_placed_flops(const qw_placed *p) { return p->flops; }
double qw_placed_bytes(const qw_placed *p) { return p->bytes + p->f->bytes; }

uint64_t qw_placed_declined(const qw_placed *p)
{
    uint64_t n = 0;
    for (int i = 0; i < QW_NOPS; i++) n += p->run.declined[i];
    return n;
}
