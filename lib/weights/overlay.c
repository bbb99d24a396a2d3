/* overlay.c - LoRA files laid over the linear layers of a net.
 *
 * Low-rank differences stay factors: W' = W + s (alpha/r) up down becomes a = down, b = s (alpha/r)
 * up of the part, and several files concatenate their ranks.  That is exact for every weight
 * format.  Other modules (DoRA, LoHa, LoKr, full differences, replaced weights) are applied to a
 * patched copy of the weight.  Factors and copies are of the device's preferred type, biases of its
 * wide type.  Files are applied in their order; before a file replaces or rescales (DoRA) a part,
 * the factors of earlier files are added to its copy, since the order matters there. */
#include "weights/weights.h"
#include "files/lora.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>

typedef struct layer { /* a part while files are laid over it */
    qw_lora_site site;
    qw_device *dev;
    qw_weight_part before; /* as it was */
    double *w;             /* [n][k] patched copy, or NULL */
    double *bias;          /* [n] patched copy, or NULL */
    double *a, *b;         /* [rank][k]; [n][rank] with strength */
    int64_t rank;
    const qw_lora_module *by; /* module of the present file for this layer */
    int touched;
} layer;

struct qw_overlay {
    qw_device *dev;
    layer *layer;
    int layers;
    void **block; /* device memory of the copies */
    int blocks;
    uint64_t bytes;
};

typedef struct form {
    char *name;
    int site;
} form; /* one spelling of a layer's name */
typedef struct forms {
    form *form;
    int n;
} forms;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const form *)a)->name, ((const form *)b)->name);
}

static void forms_free(forms *f)
{
    for (int i = 0; i < f->n; i++) free(f->form[i].name);
    free(f->form);
}

/* Every spelling of every layer, sorted; whole names are compared, and none is split at
 * underscores. */
static int forms_make(forms *f, const qw_lora_site *site, int sites, qw_error *err)
{
    static const char *const dotted[] = { "", "transformer.", "diffusion_model.",
                                          "base_model.model.", "model.diffusion_model." };
    static const char *const joined[] = { "lora_unet_", "lycoris_", "lora_transformer_" };
    enum { DOTTED = sizeof dotted / sizeof *dotted, ALL = DOTTED + sizeof joined / sizeof *joined };
    f->n = 0;
    f->form = malloc((size_t)sites * ALL * sizeof *f->form + 1);
    if (!f->form) return qw_fail(err, QWEN_ENOMEM, "no memory for the names of %d layers", sites);
    for (int i = 0; i < sites; i++)
        for (int j = 0; j < ALL; j++) {
            const char *prefix = j < DOTTED ? dotted[j] : joined[j - DOTTED];
            const size_t n = strlen(prefix) + strlen(site[i].part->name) + 1;
            char *name = malloc(n);
            if (!name)
                return qw_fail(err, QWEN_ENOMEM, "no memory for the names of %d layers", sites);
            snprintf(name, n, "%s%s", prefix, site[i].part->name);
            if (j >= DOTTED)
                for (char *c = name; *c; c++)
                    if (*c == '.') *c = '_';
            f->form[f->n++] = (form){ name, i };
        }
    qsort(f->form, (size_t)f->n, sizeof *f->form, by_name);
    return QWEN_OK;
}

static int forms_find(const forms *f, char *name)
{
    const form key = { name, 0 };
    const form *found = bsearch(&key, f->form, (size_t)f->n, sizeof *f->form, by_name);
    return found ? found->site : -1;
}

/* Makes y->w, the weight as doubles, if there is none.  with_factors: adds the factors laid so far
 * and frees them. */
static int unfold(layer *y, int with_factors, qw_error *err)
{
    const int64_t n = y->site.n, k = y->site.k;
    if (!y->w) {
        const qw_tensor *w = y->before.w.host ? y->before.w.host : &y->before.w;
        y->w = malloc((size_t)n * (size_t)k * sizeof *y->w);
        if (!y->w)
            return qw_fail(err, QWEN_ENOMEM, "no memory for a patched copy of \"%s\"",
                           y->before.name);
        for (int64_t i = 0; i < n; i++) qw_weight_row(w, i, y->w + i * k);
    }
    if (!with_factors) return QWEN_OK;
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < y->rank; r++)
            for (int64_t j = 0; j < k; j++)
                y->w[i * k + j] += y->b[i * y->rank + r] * y->a[r * k + j];
    free(y->a);
    free(y->b);
    y->a = y->b = NULL;
    y->rank = 0;
    return QWEN_OK;
}

/* out [n][k] += factor a [n][r] b [r][k] */
static void add_product(double *out, const double *a, const double *b, int64_t n, int64_t r,
                        int64_t k, double factor)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t p = 0; p < r; p++)
            for (int64_t j = 0; j < k; j++) out[i * k + j] += factor * a[i * r + p] * b[p * k + j];
}

static int wrong_shape(const qw_lora *l, const qw_lora_module *m, int64_t n, int64_t k,
                       const layer *y, qw_error *err)
{
    return qw_fail(err, QWEN_EMODEL,
                   "%s: \"%s\" is for a weight [%lld, %lld], the model's is [%lld, %lld]", l->path,
                   m->base, (long long)n, (long long)k, (long long)y->site.n, (long long)y->site.k);
}

/* A pair of factors of any module as one matrix [rows of a][columns of b]; NULL with err set. */
static double *product(const qw_lora *l, const qw_entry *a, const qw_entry *b, qw_error *err)
{
    double *x = qw_lora_values(l, a, -1, err), *y = x ? qw_lora_values(l, b, -1, err) : NULL;
    double *out = y ? calloc((size_t)(a->dim[0] * b->dim[1]), sizeof *out) : NULL;
    if (y && !out) qw_fail(err, QWEN_ENOMEM, "%s: no memory for a product", l->path);
    if (out) add_product(out, x, y, a->dim[0], a->dim[1], b->dim[1], 1);
    free(x);
    free(y);
    return out;
}

static int matrix_shape(const qw_lora *l, const qw_entry *whole, const qw_entry *a,
                        const qw_entry *b, int64_t dim[2], qw_error *err)
{
    if (whole && whole->rank != 2)
        return qw_fail(err, QWEN_EFORMAT, "%s: \"%s\" has %d dimensions, expected 2", l->path,
                       whole->key, whole->rank);
    dim[0] = whole ? whole->dim[0] : a->dim[0];
    dim[1] = whole ? whole->dim[1] : b->dim[1];
    return QWEN_OK;
}

/* LoKr: delta [n][k] = factor times the Kronecker product of W1 and W2, each whole or a product. */
static int lokr(const qw_lora *l, const qw_lora_module *m, const layer *y, double *delta,
                qw_error *err)
{
    const qw_entry *const *r = m->role;
    int64_t s[2] = { 0 }, t[2] = { 0 };
    double factor = 1;
    int status = matrix_shape(l, r[QW_K1], r[QW_K1_A], r[QW_K1_B], s, err);
    if (!status) status = matrix_shape(l, r[QW_K2], r[QW_K2_A], r[QW_K2_B], t, err);
    if (status) return status;
    if (s[0] * t[0] != y->site.n || s[1] * t[1] != y->site.k)
        return wrong_shape(l, m, s[0] * t[0], s[1] * t[1], y, err);
    const qw_entry *last = r[QW_K2_B] ? r[QW_K2_B]
                                      : r[QW_K1_B]; /* alpha applies to products only */
    if (last && (status = qw_lora_factor(l, m, (double)last->dim[0], &factor, err))) return status;
    double *w1 = r[QW_K1] ? qw_lora_values(l, r[QW_K1], -1, err)
                          : product(l, r[QW_K1_A], r[QW_K1_B], err);
    double *w2 = !w1        ? NULL
                 : r[QW_K2] ? qw_lora_values(l, r[QW_K2], -1, err)
                            : product(l, r[QW_K2_A], r[QW_K2_B], err);
    if (w2)
        for (int64_t i = 0; i < y->site.n; i++)
            for (int64_t j = 0; j < y->site.k; j++)
                delta[i * y->site.k + j] = factor * w1[i / t[0] * s[1] + j / t[1]]
                                           * w2[i % t[0] * t[1] + j % t[1]];
    free(w1);
    free(w2);
    return w2 ? QWEN_OK : err->status;
}

/* LoHa: delta [n][k] = factor times the elementwise product of two products. */
static int loha(const qw_lora *l, const qw_lora_module *m, const layer *y, double *delta,
                qw_error *err)
{
    const qw_entry *const *r = m->role;
    const int64_t n = y->site.n, k = y->site.k;
    double factor;
    int status = qw_lora_factor(l, m, (double)r[QW_W1_B]->dim[0], &factor, err);
    if (status) return status;
    for (int i = 0; i < 2; i++) {
        const qw_entry *a = r[i ? QW_W2_A : QW_W1_A], *b = r[i ? QW_W2_B : QW_W1_B];
        if (a->dim[0] != n || b->dim[1] != k)
            return wrong_shape(l, m, a->dim[0], b->dim[1], y, err);
    }
    double *w1 = product(l, r[QW_W1_A], r[QW_W1_B], err),
           *w2 = w1 ? product(l, r[QW_W2_A], r[QW_W2_B], err) : NULL;
    if (w2)
        for (int64_t i = 0; i < n * k; i++) delta[i] = factor * w1[i] * w2[i];
    free(w1);
    free(w2);
    return w2 ? QWEN_OK : err->status;
}

/* a and b of a low-rank module, b with alpha/rank and strength in it. */
static int low_rank(const qw_lora *l, const qw_lora_module *m, const layer *y, double strength,
                    double **a, double **b, int64_t *rank, qw_error *err)
{
    const qw_entry *up = m->role[QW_UP], *down = m->role[QW_DOWN];
    double factor;
    *rank = down->dim[0];
    if (up->dim[0] != y->site.n || down->dim[1] != y->site.k)
        return wrong_shape(l, m, up->dim[0], down->dim[1], y, err);
    const int status = qw_lora_factor(l, m, (double)*rank, &factor, err);
    if (status) return status;
    *a = qw_lora_values(l, down, *rank * y->site.k, err);
    *b = *a ? qw_lora_values(l, up, *rank * y->site.n, err) : NULL;
    if (!*b) {
        free(*a);
        *a = NULL;
        return err->status;
    }
    for (int64_t i = 0; i < *rank * y->site.n; i++) (*b)[i] *= factor * strength;
    return QWEN_OK;
}

/* Appends factors to those of the layer: the ranks are concatenated.  Owns a and b from now on. */
static int append(layer *y, double *a, double *b, int64_t rank, qw_error *err)
{
    const int64_t all = y->rank + rank, k = y->site.k;
    if (!y->rank) {
        y->a = a;
        y->b = b;
        y->rank = rank;
        return QWEN_OK;
    }
    double *grown = realloc(y->a, (size_t)all * (size_t)k * sizeof *grown);
    double *wide = malloc((size_t)all * (size_t)y->site.n * sizeof *wide);
    if (grown) y->a = grown;
    if (grown && wide) {
        memcpy(y->a + y->rank * k, a, (size_t)rank * (size_t)k * sizeof *a);
        for (int64_t i = 0; i < y->site.n; i++) {
            memcpy(wide + i * all, y->b + i * y->rank, (size_t)y->rank * sizeof *wide);
            memcpy(wide + i * all + y->rank, b + i * rank, (size_t)rank * sizeof *wide);
        }
        free(y->b);
        y->b = wide;
        y->rank = all;
        wide = NULL;
    }
    free(wide);
    free(a);
    free(b);
    return y->rank == all
               ? QWEN_OK
               : qw_fail(err, QWEN_ENOMEM, "no memory for the LoRA of \"%s\"", y->before.name);
}

/* W <- W + s (W1 m / norm - W), W1 = W + delta: rows (m [n][1], norms of W) or columns (m [1][k],
 * of W1). */
static int dora(const qw_lora *l, const qw_entry *e, layer *y, const double *delta, qw_error *err)
{
    const int64_t n = y->site.n, k = y->site.k;
    const int rows = e->rank >= 1 && e->dim[0] == n;
    double *m = qw_lora_values(l, e, rows ? n : k, err);
    double *norm = m ? calloc((size_t)(rows ? n : k), sizeof *norm) : NULL;
    if (!norm) {
        free(m);
        return err->status ? err->status : qw_fail(err, QWEN_ENOMEM, "no memory for DoRA norms");
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < k; j++) {
            const double w = y->w[i * k + j] + (rows ? 0 : delta[i * k + j]);
            norm[rows ? i : j] += w * w;
        }
    for (int64_t i = 0; i < (rows ? n : k); i++) norm[i] = m[i] / (sqrt(norm[i]) + 0x1p-23);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < k; j++) {
            double *w = &y->w[i * k + j];
            *w += l->strength * ((*w + delta[i * k + j]) * norm[rows ? i : j] - *w);
        }
    free(m);
    free(norm);
    return QWEN_OK;
}

/* Applies a module to the copy of the weight. */
static int patch(const qw_lora *l, const qw_lora_module *m, layer *y, qw_error *err)
{
    const int64_t size = y->site.n * y->site.k;
    const int factors = m->role[QW_UP] || m->role[QW_W1_A] || m->role[QW_K1] || m->role[QW_K1_A];
    int status = unfold(y, m->role[QW_DORA] || m->role[QW_SET], err);
    if (status) return status;
    if (m->role[QW_SET]) {
        double *w = qw_lora_values(l, m->role[QW_SET], size, err);
        if (!w) return err->status;
        free(y->w);
        y->w = w;
    }
    if (m->role[QW_DIFF]) {
        double *d = qw_lora_values(l, m->role[QW_DIFF], size, err);
        if (!d) return err->status;
        for (int64_t i = 0; i < size; i++) y->w[i] += l->strength * d[i];
        free(d);
    }
    if (!factors) return QWEN_OK;
    double *delta = calloc((size_t)size, sizeof *delta), *a, *b;
    int64_t rank;
    if (!delta)
        return qw_fail(err, QWEN_ENOMEM, "no memory for the difference of \"%s\"", y->before.name);
    if (m->role[QW_UP]) {
        status = low_rank(l, m, y, 1, &a, &b, &rank, err);
        if (!status) {
            add_product(delta, b, a, y->site.n, rank, y->site.k, 1);
            free(a);
            free(b);
        }
    } else {
        status = m->role[QW_W1_A] ? loha(l, m, y, delta, err) : lokr(l, m, y, delta, err);
    }
    if (!status && m->role[QW_DORA]) status = dora(l, m->role[QW_DORA], y, delta, err);
    else if (!status)
        for (int64_t i = 0; i < size; i++) y->w[i] += l->strength * delta[i];
    free(delta);
    return status;
}

/* The layer's bias, which lies on the device in its wide type, as doubles; zeros where it has
 * none. */
static double *bias_of(const layer *y, qw_error *err)
{
    const qw_tensor *old = &y->before.bias;
    const int64_t n = y->site.n;
    double *out = calloc((size_t)n, sizeof *out);
    float *narrow =
        out && qw_present(old) && old->dtype != QW_F64 ? malloc((size_t)n * sizeof *narrow) : NULL;
    if (!out || (qw_present(old) && old->dtype != QW_F64 && !narrow)) {
        qw_fail(err, QWEN_ENOMEM, "no memory for the bias of \"%s\"", y->before.name);
    } else if (qw_present(old)) {
        void *to = narrow ? (void *)narrow : (void *)out;
        if (y->dev->get(y->dev, QW_COMPUTE, to, old->data, qw_row_bytes(old->dtype, n)))
            qw_fail(err, QWEN_EDEVICE, "%s did not give back the bias of \"%s\"", y->dev->name,
                    y->before.name);
        for (int64_t i = 0; narrow && i < n; i++) out[i] = narrow[i];
    }
    free(narrow);
    if (!err->status) return out;
    free(out);
    return NULL;
}

static int patch_bias(const qw_lora *l, const qw_lora_module *m, layer *y, qw_error *err)
{
    const int64_t n = y->site.n;
    double *d = qw_lora_values(l, m->role[QW_DIFF_B], n, err);
    if (!d) return err->status;
    if (!y->bias) y->bias = bias_of(y, err);
    if (y->bias)
        for (int64_t i = 0; i < n; i++) y->bias[i] += l->strength * d[i];
    free(d);
    return err->status;
}

static int lay_module(const qw_lora *l, const qw_lora_module *m, layer *y, qw_error *err)
{
    if (y->by)
        return qw_fail(err, QWEN_EFORMAT, "%s: \"%s\" and \"%s\" are two spellings of one module",
                       l->path, y->by->base, m->base);
    y->by = m;
    y->touched = 1;
    int status = QWEN_OK;
    const int low = m->role[QW_UP] && !m->role[QW_DORA] && !m->role[QW_DIFF] && !m->role[QW_SET];
    if (low) {
        double *a, *b;
        int64_t rank;
        status = low_rank(l, m, y, l->strength, &a, &b, &rank, err);
        if (!status) status = append(y, a, b, rank, err);
    } else if (m->role[QW_UP] || m->role[QW_DIFF] || m->role[QW_SET] || m->role[QW_W1_A]
               || m->role[QW_K1] || m->role[QW_K1_A]) {
        status = patch(l, m, y, err);
    }
    if (!status && m->role[QW_DIFF_B]) status = patch_bias(l, m, y, err);
    return status;
}

static int lay_file(qw_overlay *o, const qw_lora *l, const forms *f, int partial,
                    void (*notice)(void *, const char *), void *user, qw_error *err)
{
    const char *stray = l->stray;
    int64_t strays = l->strays, matched = 0;
    int status = QWEN_OK;
    for (int i = 0; i < o->layers; i++) o->layer[i].by = NULL;
    for (int64_t i = 0; !status && i < l->modules; i++) {
        const int at = forms_find(f, l->module[i].base);
        if (at >= 0) {
            matched++;
            status = lay_module(l, &l->module[i], &o->layer[at], err);
        } else {
            if (!stray) stray = l->module[i].base;
            strays++;
        }
    }
    if (status || !strays) return status;
    if (!matched || !partial)
        return qw_fail(err, QWEN_EMODEL,
                       "%s: %lld of its keys match no layer of this model, the first is \"%s\"%s",
                       l->path, (long long)strays, stray,
                       matched ? " (a partial LoRA must be asked for)" : "");
    if (notice) {
        char line[1200];
        snprintf(line, sizeof line,
                 "%s: %lld keys match no layer of this model and are left out, the first is \"%s\"",
                 l->path, (long long)strays, stray);
        notice(user, line);
    }
    return QWEN_OK;
}

/* Doubles to device memory as type t. */
static int move(qw_overlay *o, const double *x, int64_t rows, int64_t cols, qw_dtype t,
                qw_tensor *out, qw_error *err)
{
    const int64_t n = rows * cols;
    const size_t bytes = qw_row_bytes(t, n);
    void *data = NULL, *staged = t == QW_F64 ? NULL : malloc(bytes);
    void **grown = realloc(o->block, (size_t)(o->blocks + 1) * sizeof *grown);
    if (grown) o->block = grown;
    if (!grown || (t != QW_F64 && !staged) || o->dev->alloc(o->dev, bytes, &data) || !data) {
        free(staged);
        return qw_fail(err, QWEN_ENOMEM, "no memory for %zu bytes of LoRA on %s", bytes,
                       o->dev->name);
    }
    o->block[o->blocks++] = data;
    o->bytes += bytes;
    if (staged) qw_numbers_put(t, x, n, staged);
    const int failed = o->dev->put(o->dev, QW_COMPUTE, data, staged ? staged : x, bytes)
                       || o->dev->sync(o->dev);
    free(staged);
    *out = rows == 1 ? qw_dense1(data, t, cols) : qw_dense2(data, t, rows, cols);
    return failed ? qw_fail(err, QWEN_EDEVICE, "%s failed to take %zu bytes of LoRA", o->dev->name,
                            bytes)
                  : QWEN_OK;
}

static int settle(qw_overlay *o, layer *y, qw_error *err)
{
    const int64_t n = y->site.n, k = y->site.k;
    const qw_dtype prefer = o->dev->prefer;
    qw_weight_part *p = y->site.part;
    int status = QWEN_OK;
    p->patched = y->w || y->bias;
    if (y->w) status = move(o, y->w, n, k, prefer, &p->w, err);
    if (!status && y->bias) status = move(o, y->bias, 1, n, o->dev->wide, &p->bias, err);
    if (!status && y->rank) status = move(o, y->a, y->rank, k, prefer, &p->a, err);
    if (!status && y->rank) status = move(o, y->b, n, y->rank, prefer, &p->b, err);
    if (!status && y->rank == 1) p->a = qw_dense2(p->a.data, p->a.dtype, 1, k);
    return status;
}

static void forget(layer *y)
{
    free(y->w);
    free(y->bias);
    free(y->a);
    free(y->b);
    y->w = y->bias = y->a = y->b = NULL;
    y->rank = 0;
}

int qw_overlay_new(qw_overlay **out, qw_lora *const *lora, int loras, const qw_lora_site *site,
                   int sites, qw_device *dev, int partial, void (*notice)(void *, const char *),
                   void *user, qw_error *err)
{
    *out = NULL;
    qw_overlay *o = calloc(1, sizeof *o);
    forms f = { 0 };
    int status = QWEN_OK;
    if (o) o->layer = calloc((size_t)sites + 1, sizeof *o->layer);
    if (!o || !o->layer)
        status = qw_fail(err, QWEN_ENOMEM, "no memory to lay LoRA over %d layers", sites);
    if (!status) {
        o->dev = dev;
        o->layers = sites;
        for (int i = 0; i < sites; i++) {
            o->layer[i].site = site[i];
            o->layer[i].dev = dev;
            o->layer[i].before = *site[i].part;
        }
        status = forms_make(&f, site, sites, err);
    }
    for (int i = 0; !status && i < loras; i++)
        status = lay_file(o, lora[i], &f, partial, notice, user, err);
    for (int i = 0; !status && i < sites; i++)
        if (o->layer[i].touched) status = settle(o, &o->layer[i], err);
    for (int i = 0; o && o->layer && i < sites; i++) forget(&o->layer[i]);
    forms_free(&f);
    if (status) {
        qw_overlay_free(o);
        return status;
    }
    *out = o;
    return QWEN_OK;
}

void qw_overlay_free(qw_overlay *o)
{
    if (!o) return;
    for (int i = 0; o->layer && i < o->layers; i++)
        if (o->layer[i].touched) *o->layer[i].site.part = o->layer[i].before;
    for (int i = 0; i < o->blocks; i++) o->dev->free(o->dev, o->block[i]);
    free(o->block);
    free(o->layer);
    free(o);
}

uint64_t qw_overlay_bytes(const qw_overlay *o) { return o ? o->bytes : 0; }
