/* fallback.c - an op that a device declined, computed by the reference.
 *
 * On a host device the reference works on the device's own memory.  On any other device the
 * operands that the op table names are copied to the host, and the outputs are copied back. */
#include "core/run_inside.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OPERANDS = 8 }; /* the most operands of any op */

/* One operand brought to host memory.  dev: where it lies on the device. */
typedef struct staged {
    qw_tensor dev;
    void *data;
    float *scale;
    void *block_scale;
} staged;

static void *fetch(qw_run *r, const void *from, size_t bytes, int *status)
{
    if (*status || !bytes) return NULL;
    void *p = malloc(bytes);
    if (!p) *status = QWEN_ENOMEM;
    else if (from) *status = r->dev->get(r->dev, QW_COMPUTE, p, from, bytes);
    return p;
}

/* Makes t a tensor in host memory.  A packed weight is read from its original. */
static void stage(qw_run *r, staged *s, qw_tensor *t, unsigned role, int *status)
{
    s->dev = *t;
    if (role & QW_WEIGHT && t->host) {
        const qw_tensor *original = t->host;
        *t = *original;
        return;
    }
    const size_t bytes = qw_extent(t);
    /* An output with gaps between its rows is fetched, since the bytes in the gaps must survive; a
     * dense output is not fetched. */
    const int write_only = !(role & QW_IN) && qw_runs_of(t).count == 1;
    s->data = fetch(r, role & QW_WEIGHT || !write_only ? t->data : NULL, bytes, status);
    s->scale = fetch(r, t->scale, qw_scales(t) * sizeof(float), status);
    s->block_scale = fetch(r, t->block_scale, qw_block_scale_bytes(t), status);
    t->data = s->data;
    t->scale = s->scale;
    t->block_scale = s->block_scale;
}

static int unstage(qw_run *r, const staged *s)
{
    int status = r->dev->put(r->dev, QW_COMPUTE, s->dev.data, s->data, qw_extent(&s->dev));
    if (!status && s->scale) /* the scales of quantised rows are written with them */
        status = r->dev->put(r->dev, QW_COMPUTE, (void *)(uintptr_t)s->dev.scale, s->scale,
                             qw_scales(&s->dev) * sizeof(float));
    return status;
}

static int on_copies(qw_run *r, const qw_op_info *info, void *args)
{
    staged s[OPERANDS] = { { .data = NULL } };
    int status = QWEN_OK, n = 0;
    for (const qw_operand *o = info->operand; o->name; o++, n++) {
        qw_tensor *t = qw_operand_of(o, args);
        if (t && !status) stage(r, &s[n], t, o->role, &status);
    }
    if (!status) status = info->call(r->ref, args);
    n = 0;
    for (const qw_operand *o = info->operand; o->name; o++, n++)
        if (!status && o->role & QW_OUT && s[n].data) status = unstage(r, &s[n]);
    const int last = r->dev->sync(r->dev); /* the queue may still read the copies */
    for (n = 0; n < OPERANDS; n++) {
        free(s[n].data);
        free(s[n].scale);
        free(s[n].block_scale);
    }
    return status ? status : last;
}

static int in_place(qw_run *r, const qw_op_info *info, void *args)
{
    for (const qw_operand *o = info->operand; o->name; o++) {
        qw_tensor *t = o->role & QW_WEIGHT ? qw_operand_of(o, args) : NULL;
        if (!t || !t->layout) continue;
        const qw_tensor *original = t->host;
        *t = *original;
    }
    return info->call(r->ref, args);
}

static int reference(qw_run *r, const qw_op_info *info, void *args)
{
    return r->dev->host ? in_place(r, info, args) : on_copies(r, info, args);
}

/* A gemm with a joined weight: one call of the reference for each original, for its columns of
 * y. */
static int one_by_one(qw_run *r, const qw_op_info *info, const qw_gemm_args *a)
{
    int64_t first = 0;
    if (a->y.dtype == QW_I8) return QWEN_EUNSUPPORTED; /* a row has one scale */
    for (int i = 0; i < a->w.originals; i++) {
        const qw_tensor *w = &a->w.host[i];
        const int64_t n = w->dim[0];
        qw_any_args part = { .gemm = *a };
        part.gemm.w = *w;
        part.gemm.w.host = w;
        part.gemm.y = qw_cols(a->y, first, n);
        if (qw_present(&a->w2)) part.gemm.w2 = qw_rows(a->w2, first, n);
        if (qw_present(&a->bias)) part.gemm.bias = qw_cols(a->bias, first, n);
        if (qw_present(&a->gate)) part.gemm.gate = qw_cols(a->gate, first, n);
        if (qw_present(&a->res)) part.gemm.res = qw_cols(a->res, first, n);
        const int status = reference(r, info, &part);
        if (status) return status;
        first += n;
    }
    return QWEN_OK;
}

int qw_reference(qw_run *r, enum qw_op op, const void *args)
{
    const qw_op_info *info = &qw_op_table[op];
    qw_any_args copy;
    memcpy(&copy, args, info->args);
    const int joined = op == QW_OP_gemm && copy.gemm.w.layout && copy.gemm.w.originals > 1;
    r->ref->poll = r->look;
    r->ref->poll_user = r->user;
    const int status = joined ? one_by_one(r, info, &copy.gemm) : reference(r, info, &copy);
    r->ref->poll = NULL;
    return status;
}
