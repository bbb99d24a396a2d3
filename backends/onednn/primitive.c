/* primitive.c - calls of oneDNN: primitives by shape, and the differences between versions 2 and 3.
 *
 * Creating a primitive compiles code, which takes milliseconds, so each is kept for its shape,
 * strides and number of threads. */
#include "onednn.h"
#include <oneapi/dnnl/dnnl_debug.h>
#include <stdio.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

/* --- versions --------------------------------------------------------------------------------- */

/* A description is a struct in version 2 and a pointer in version 3. */
#if DNNL_VERSION_MAJOR >= 3
typedef const_dnnl_memory_desc_t described;
#define DESCRIBED(d) (d)
#else
typedef const dnnl_memory_desc_t *described;
#define DESCRIBED(d) (&(d))
#endif

/* What a primitive is made of. */
typedef struct parts {
    dnnl_memory_desc_t x, w, plain, y, bias; /* w: the order that oneDNN chooses, of convolutions */
    dnnl_primitive_attr_t attr;
    dnnl_post_ops_t post;
} parts;

static dnnl_status_t describe(dnnl_memory_desc_t *out, const onednn_view *v, int any)
{
    const dnnl_data_type_t type = (dnnl_data_type_t)v->type;
    const int rank = (int)v->rank;
#if DNNL_VERSION_MAJOR >= 3
    if (any) return dnnl_memory_desc_create_with_tag(out, rank, v->dim, type, dnnl_format_tag_any);
    return dnnl_memory_desc_create_with_strides(out, rank, v->dim, type, v->stride);
#else
    if (any) return dnnl_memory_desc_init_by_tag(out, rank, v->dim, type, dnnl_format_tag_any);
    return dnnl_memory_desc_init_by_strides(out, rank, v->dim, type, v->stride);
#endif
}

static dnnl_status_t append(dnnl_post_ops_t post, const onednn_call *c)
{
    const dnnl_alg_kind_t how = c->act == QW_SILU        ? dnnl_eltwise_swish
                                : c->act == QW_GELU_TANH ? dnnl_eltwise_gelu_tanh
                                                         : dnnl_eltwise_gelu_erf;
    dnnl_status_t s = dnnl_success;
#if DNNL_VERSION_MAJOR >= 3
    if (c->sum) s = dnnl_post_ops_append_sum(post, 1, 0, dnnl_data_type_undef);
    if (!s && c->act) s = dnnl_post_ops_append_eltwise(post, how, 1, 0);
#else
    if (c->sum) s = dnnl_post_ops_append_sum(post, 1);
    if (!s && c->act) s = dnnl_post_ops_append_eltwise(post, 1, how, 1, 0);
#endif
    return s;
}

static dnnl_status_t choose(onednn_device *dev, const onednn_call *c, const parts *q,
                            dnnl_primitive_desc_t *out)
{
    const described bias = c->bias ? DESCRIBED(q->bias) : NULL;
#if DNNL_VERSION_MAJOR >= 3
    const dnnl_dims_t dense = { 0 };
    if (!c->conv)
        return dnnl_matmul_primitive_desc_create(out, dev->engine, q->x, q->w, bias, q->y, q->attr);
    return dnnl_convolution_forward_primitive_desc_create(
        out, dev->engine, dnnl_forward_inference, dnnl_convolution_direct, q->x, q->w, bias, q->y,
        c->step, dense, c->before, c->after, q->attr);
#else
    dnnl_matmul_desc_t matmul;
    dnnl_convolution_desc_t conv;
    const dnnl_status_t s = c->conv ? dnnl_convolution_forward_desc_init(
                                &conv, dnnl_forward_inference, dnnl_convolution_direct, &q->x,
                                &q->w, bias, &q->y, c->step, c->before, c->after)
                                    : dnnl_matmul_desc_init(&matmul, &q->x, &q->w, bias, &q->y);
    const void *op = c->conv ? (const void *)&conv : &matmul;
    return s ? s : dnnl_primitive_desc_create(out, op, q->attr, dev->engine, NULL);
#endif
}

static void free_parts(parts *q)
{
#if DNNL_VERSION_MAJOR >= 3
    dnnl_memory_desc_destroy(q->x);
    dnnl_memory_desc_destroy(q->w);
    dnnl_memory_desc_destroy(q->plain);
    dnnl_memory_desc_destroy(q->y);
    dnnl_memory_desc_destroy(q->bias);
#endif
    dnnl_post_ops_destroy(q->post);
    dnnl_primitive_attr_destroy(q->attr);
}

/* --- threads and failures --------------------------------------------------------------------- */

int onednn_threads(const onednn_device *dev)
{
#ifdef _OPENMP
    return dev->d.threads > 0 ? dev->d.threads : omp_get_max_threads();
#else
    (void)dev;
    return 1;
#endif
}

/* oneDNN has the number of threads from OpenMP's setting for the calling thread.  Returns the
 * setting before. */
static int set_threads(int threads)
{
#ifdef _OPENMP
    const int before = omp_get_max_threads();
    if (threads != before) omp_set_num_threads(threads);
    return before;
#else
    return threads;
#endif
}

static int failed(onednn_device *dev, const char *what, dnnl_status_t s)
{
    snprintf(dev->why, sizeof dev->why, "oneDNN %s: %s", what, dnnl_status2str(s));
    return s == dnnl_out_of_memory ? QWEN_ENOMEM : QWEN_EDEVICE;
}

int onednn_start(onednn_device *dev)
{
    dnnl_status_t s = dnnl_engine_create(&dev->engine, dnnl_cpu, 0);
    if (s) return failed(dev, "has no engine for this processor", s);
    s = dnnl_stream_create(&dev->stream, dev->engine, dnnl_stream_default_flags);
    return s ? failed(dev, "has no stream", s) : QWEN_OK;
}

int onednn_has_bf16(void)
{
    const int isa = (int)dnnl_get_effective_cpu_isa(), need = (int)dnnl_cpu_isa_avx512_core_bf16;
    return (isa & need) == need;
}

int64_t onednn_type(const onednn_device *dev, qw_dtype t)
{
    return t == QW_F32 ? dnnl_f32 : t == QW_BF16 && dev->bf16 ? dnnl_bf16 : 0;
}

/* --- primitives ------------------------------------------------------------------------------- */

static void free_primitive(onednn_primitive *p)
{
    if (p->run) dnnl_primitive_destroy(p->run);
    if (p->lay) dnnl_primitive_destroy(p->lay);
    if (p->desc) dnnl_primitive_desc_destroy(p->desc);
    if (p->lay_desc) dnnl_primitive_desc_destroy(p->lay_desc);
    memset(p, 0, sizeof *p);
}

void onednn_stop(onednn_device *dev)
{
    for (int i = 0; i < ONEDNN_PRIMITIVES; i++) free_primitive(&dev->primitive[i]);
    if (dev->stream) dnnl_stream_destroy(dev->stream);
    if (dev->engine) dnnl_engine_destroy(dev->engine);
}

/* Scratch, and the order of the weights of a convolution. */
static dnnl_status_t complete(onednn_device *dev, onednn_primitive *p, const parts *q)
{
    const described w = dnnl_primitive_desc_query_md(p->desc, dnnl_query_weights_md, 0);
    const described room = dnnl_primitive_desc_query_md(p->desc, dnnl_query_scratchpad_md, 0);
    p->scratch = room ? dnnl_memory_desc_get_size(room) : 0;
    if (!p->call.conv || dnnl_memory_desc_equal(w, DESCRIBED(q->plain))) return dnnl_success;
    p->laid = dnnl_memory_desc_get_size(w);
    return dnnl_reorder_primitive_desc_create(&p->lay_desc, DESCRIBED(q->plain), dev->engine, w,
                                              dev->engine, NULL);
}

/* Fills in a primitive but for its compiled code.  Products of f32 stay products of f32, whatever
 * the environment asks of oneDNN. */
static dnnl_status_t make(onednn_device *dev, onednn_primitive *p)
{
    const onednn_call *c = &p->call;
    onednn_view bias = { .type = dnnl_f32, .rank = c->conv ? 1 : 2 };
    bias.dim[0] = c->conv ? c->y.dim[1] : 1;
    bias.dim[1] = bias.stride[0] = c->conv ? 1 : c->y.dim[1];
    bias.stride[1] = 1;
    parts q;
    memset(&q, 0, sizeof q);
    dnnl_status_t s = describe(&q.x, &c->x, 0);
    if (!s) s = describe(&q.w, &c->w, c->conv != 0);
    if (!s) s = describe(&q.plain, &c->w, 0);
    if (!s) s = describe(&q.y, &c->y, 0);
    if (!s) s = describe(&q.bias, &bias, 0);
    if (!s) s = dnnl_primitive_attr_create(&q.attr);
    if (!s) s = dnnl_post_ops_create(&q.post);
    if (!s) s = append(q.post, c);
    if (!s) s = dnnl_primitive_attr_set_post_ops(q.attr, q.post);
    if (!s) s = dnnl_primitive_attr_set_scratchpad_mode(q.attr, dnnl_scratchpad_mode_user);
    if (!s) s = dnnl_primitive_attr_set_fpmath_mode(q.attr, dnnl_fpmath_mode_strict);
    if (!s) {
        s = choose(dev, c, &q, &p->desc);
        if (s == dnnl_unimplemented || s == dnnl_invalid_arguments) p->unfit = 1;
    }
    const char *name = "";
    if (!s) s = dnnl_primitive_desc_query(p->desc, dnnl_query_impl_info_str, 0, &name);
    p->unfit |= !s && strstr(name, "ref") != NULL;
    if (!s && !p->unfit) s = complete(dev, p, &q);
    free_parts(&q);
    return p->unfit ? dnnl_success : s;
}

onednn_primitive *onednn_find(onednn_device *dev, const onednn_call *call)
{
    onednn_primitive *oldest = &dev->primitive[0];
    if (dev->why[0]) return NULL;
    for (int i = 0; i < ONEDNN_PRIMITIVES; i++) {
        onednn_primitive *p = &dev->primitive[i];
        if (p->used && !memcmp(&p->call, call, sizeof *call)) {
            p->used = ++dev->clock;
            return p->unfit ? NULL : p;
        }
        if (p->used < oldest->used) oldest = p;
    }
    free_primitive(oldest);
    oldest->call = *call;
    const int before = set_threads((int)call->threads);
    const dnnl_status_t s = make(dev, oldest);
    set_threads(before);
    if (s) {
        free_primitive(oldest);
        failed(dev, "describes no primitive", s);
        return NULL;
    }
    oldest->used = ++dev->clock;
    return oldest->unfit ? NULL : oldest;
}

/* --- execution -------------------------------------------------------------------------------- */

typedef struct operand {
    int what;
    const void *data;
} operand;

/* Computes a primitive that is created now if it is not there yet. */
static dnnl_status_t execute(onednn_device *dev, const_dnnl_primitive_desc_t desc,
                             dnnl_primitive_t *run, const operand *o, int n)
{
    dnnl_exec_arg_t e[5];
    int made = 0;
    dnnl_status_t s = *run ? dnnl_success : dnnl_primitive_create(run, desc);
    for (; made < n && !s; made += !s) {
        const described d =
            dnnl_primitive_desc_query_md(desc, dnnl_query_exec_arg_md, o[made].what);
        e[made].arg = o[made].what;
        s = dnnl_memory_create(&e[made].memory, d, dev->engine, (void *)(uintptr_t)o[made].data);
    }
    if (!s) s = dnnl_primitive_execute(*run, dev->stream, n, e);
    if (!s) s = dnnl_stream_wait(dev->stream);
    while (made-- > 0) dnnl_memory_destroy(e[made].memory);
    return s;
}

int onednn_lay(onednn_device *dev, onednn_primitive *p, const void *w, void *to)
{
    const operand o[] = { { DNNL_ARG_FROM, w }, { DNNL_ARG_TO, to } };
    const int before = set_threads((int)p->call.threads);
    const dnnl_status_t s = execute(dev, p->lay_desc, &p->lay, o, 2);
    set_threads(before);
    return s ? failed(dev, "cannot reorder weights", s) : QWEN_OK;
}

int onednn_run(onednn_device *dev, onednn_primitive *p, const void *x, const void *w, void *y,
               const void *bias, void *scratch)
{
    operand o[5] = { { DNNL_ARG_SRC, x }, { DNNL_ARG_WEIGHTS, w }, { DNNL_ARG_DST, y } };
    int n = 3;
    if (p->call.bias) o[n++] = (operand){ DNNL_ARG_BIAS, bias };
    if (p->scratch) o[n++] = (operand){ DNNL_ARG_SCRATCHPAD, scratch };
    const int before = set_threads((int)p->call.threads);
    const dnnl_status_t s = execute(dev, p->desc, &p->run, o, n);
    set_threads(before);
    return s ? failed(dev, p->call.conv ? "cannot convolve" : "cannot multiply", s) : QWEN_OK;
}
