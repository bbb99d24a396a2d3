/* late.c - a device of the tests with memory of its own and two queues that run late. */
#include "late.h"
#include "devices.h"
#include "testing.h"
#include <string.h>

enum { OPERANDS = 8, GUARD = 256, PACKED = 9, JOINED = 10, MASK = 0x5a, GARBAGE = 0xff };

struct late_block { /* in host memory: GUARD bytes, size bytes, GUARD bytes */
    unsigned char *memory;
    size_t size;
    late_block *next;
};

struct late_task {
    enum { COPY, PACK, WAIT, OP } what;
    void *to;         /* COPY, PACK: on the device */
    const void *from; /* of the host */
    void *own;        /* host memory to free */
    size_t bytes;
    uint64_t ticket; /* WAIT */
    enum qw_op op;
    qw_any_args args;
    void *room;
    size_t room_bytes;
    late_task *next;
};

/* An assertion of Check writes a file each time that it holds. */
static void must(int holds, const char *what)
{
    if (!holds) ck_abort_msg("device late: %s", what);
}

static const char recording[] = "nothing but ops while a step is recorded";

late_device *late_of(qw_device *d) { return (late_device *)(void *)d; }

/* --- memory ----------------------------------------------------------------------------------- */

/* 2^62 is not a canonical address. */
static const uintptr_t FAR = (uintptr_t)1 << 62;

/* Host address of bytes on the device, which must be allocated. */
static void *near(const late_device *f, const void *p, size_t bytes)
{
    unsigned char *at = (unsigned char *)((uintptr_t)p - FAR);
    for (const late_block *b = f->block; b; b = b->next)
        if (at >= b->memory && at + bytes <= b->memory + b->size) return at;
    ck_abort_msg("%zu bytes at %p are no memory of the device", bytes, p);
    return NULL;
}

/* QWEN_EDEVICE once a call has waited after the failure. */
static int failed(const late_device *f) { return f->noticed ? QWEN_EDEVICE : QWEN_OK; }

static int late_alloc(qw_device *d, size_t bytes, void **out)
{
    late_device *f = late_of(d);
    const size_t size = (bytes + 255) / 256 * 256;
    late_block *b = malloc(sizeof *b);
    unsigned char *p = NULL;
    *out = NULL;
    must(!f->recording, recording);
    if (!failed(f) && f->held + size <= d->memory) p = aligned_alloc(256, size + 2 * GUARD);
    if (!p) {
        free(b);
        return failed(f) ? failed(f) : QWEN_ENOMEM;
    }
    memset(p, GARBAGE, size + 2 * GUARD);
    *b = (late_block){ p + GUARD, size, f->block };
    f->block = b;
    f->held += size;
    *out = (void *)((uintptr_t)b->memory + FAR);
    return QWEN_OK;
}

static void late_free(qw_device *d, void *p)
{
    late_device *f = late_of(d);
    if (!p) return;
    late_block **at = &f->block, *b;
    while (*at && (*at)->memory != (void *)((uintptr_t)p - FAR)) at = &(*at)->next;
    b = *at;
    must(b != NULL, "what is freed was allocated");
    for (int i = 0; i < GUARD; i++)
        must(b->memory[-1 - i] == GARBAGE && b->memory[b->size + (size_t)i] == GARBAGE,
             "nothing is written beside a block");
    *at = b->next;
    f->held -= b->size;
    free(b->memory - GUARD);
    free(b);
}

/* --- what a task does ------------------------------------------------------------------------- */

static void mask(unsigned char *to, const unsigned char *from, size_t n)
{
    for (size_t i = 0; i < n; i++) to[i] = from[i] ^ MASK;
}

/* Operands as the reference may read them; the memory of what was packed goes to `own`. */
static void bring(const late_device *f, enum qw_op op, void *args, void **own)
{
    for (const qw_operand *o = qw_op_table[op].operand; o->name; o++, own++) {
        qw_tensor *t = qw_operand_of(o, args);
        if (!t) continue;
        const size_t bytes = qw_extent(t);
        t->data = near(f, t->data, bytes);
        if (t->scale) t->scale = near(f, t->scale, qw_scales(t) * sizeof(float));
        if (t->block_scale) t->block_scale = near(f, t->block_scale, qw_block_scale_bytes(t));
        t->host = NULL;
        if (!t->layout) continue;
        *own = malloc(bytes);
        mask(*own, t->data, bytes);
        t->data = *own;
        t->layout = 0;
    }
}

/* The scratch is written before the op and checked after it, so that no other op may use it. */
static void compute(late_device *f, const late_task *t)
{
    void *own[OPERANDS] = { NULL };
    qw_any_args args = t->args;
    unsigned char *room = t->room_bytes ? near(f, t->room, t->room_bytes) : NULL;
    if (f->dead || (f->fails_at && ++f->computed == f->fails_at)) {
        f->dead = 1;
        return;
    }
    if (room) memset(room, GARBAGE, t->room_bytes);
    bring(f, t->op, &args, own);
    must(qw_op_table[t->op].call(f->ref, &args) == QWEN_OK, "the reference does every op");
    for (size_t i = 0; i < t->room_bytes; i++)
        must(room[i] == GARBAGE, "the scratch of an op is its own");
    for (int i = 0; i < OPERANDS; i++) free(own[i]);
}

static void execute(late_device *f, const late_task *t)
{
    switch (t->what) {
    case COPY:
        if (!f->dead) memcpy(near(f, t->to, t->bytes), t->from, t->bytes);
        break;
    case PACK:
        if (!f->dead) mask(near(f, t->to, t->bytes), t->from, t->bytes);
        break;
    case OP: compute(f, t); break;
    case WAIT: break;
    }
}

/* --- queues ----------------------------------------------------------------------------------- */

static uint64_t below(late_device *f, uint64_t n)
{
    f->seed = f->seed * 6364136223846793005u + 1442695040888963407u;
    return (f->seed >> 33) % n;
}

static void append(late_list *l, const late_task *t)
{
    late_task *copy = malloc(sizeof *copy);
    *copy = *t;
    copy->next = NULL;
    if (!l->first) l->last = &l->first;
    *l->last = copy;
    l->last = &copy->next;
}

/* The next task of a queue; 0 if there is none, or it waits for the other queue. */
static int step(late_device *f, int queue)
{
    late_task *t = f->queue[queue].first;
    if (!t) return 0;
    if (t->what == WAIT) {
        const struct late_mark *m = &f->mark[t->ticket];
        if (f->done[m->queue] < m->issued) return 0;
    }
    execute(f, t);
    f->queue[queue].first = t->next;
    f->done[queue]++;
    free(t->own);
    free(t);
    return 1;
}

/* Runs all tasks of a queue. */
static void drain(late_device *f, int queue)
{
    while (f->queue[queue].first) {
        const int any = (int)below(f, QW_NQUEUES);
        must(step(f, any) || step(f, !any), "queues do not wait for each other");
    }
    if (f->now < f->ticks[queue]) f->now = f->ticks[queue];
    f->noticed = f->dead;
}

/* Appends a task that takes `ticks` to a queue, and runs a few queued tasks. */
static void issue(late_device *f, int queue, const late_task *t, uint64_t ticks)
{
    append(&f->queue[queue], t);
    f->issued[queue]++;
    if (f->ticks[queue] < f->now) f->ticks[queue] = f->now;
    f->ticks[queue] += ticks;
    f->busy[queue] += ticks;
    for (uint64_t n = below(f, 16); n; n--) step(f, (int)below(f, QW_NQUEUES));
}

/* A copy of host memory; `late` memory is read when the copy is done, other when it is issued. */
static void issue_copy(late_device *f, int queue, void *to, const void *from, size_t bytes,
                       int packs)
{
    late_task t = { .what = packs ? PACK : COPY, .to = to, .from = from, .bytes = bytes };
    if (!packs) {
        t.from = t.own = malloc(bytes + 1);
        memcpy(t.own, from, bytes);
    }
    issue(f, queue, &t, (bytes * f->kilobyte_ticks + 1023) / 1024);
    if (f->blocks) drain(f, queue);
}

static int late_put(qw_device *d, int queue, void *dst, const void *src, size_t bytes)
{
    late_device *f = late_of(d);
    must(!f->recording, recording);
    f->puts++;
    near(f, dst, bytes);
    if (!failed(f)) issue_copy(f, queue, dst, src, bytes, 0);
    return failed(f);
}

static int late_get(qw_device *d, int queue, void *dst, const void *src, size_t bytes)
{
    late_device *f = late_of(d);
    must(!f->recording, recording);
    f->gets++;
    drain(f, queue);
    if (!failed(f)) memcpy(dst, near(f, src, bytes), bytes);
    return failed(f);
}

static int late_mark(qw_device *d, int queue, uint64_t *ticket)
{
    late_device *f = late_of(d);
    must(!f->recording, recording);
    f->mark = realloc(f->mark, (f->marks + 1) * sizeof *f->mark);
    f->mark[f->marks] = (struct late_mark){ queue, f->issued[queue], f->ticks[queue] };
    *ticket = f->marks++;
    return failed(f);
}

static int late_wait(qw_device *d, int queue, uint64_t ticket)
{
    late_device *f = late_of(d);
    must(!f->recording, recording);
    must(ticket < f->marks, "a ticket was given");
    f->waits++;
    f->noticed = f->dead;
    if (f->ticks[queue] < f->mark[ticket].ticks) f->ticks[queue] = f->mark[ticket].ticks;
    issue(f, queue, &(late_task){ .what = WAIT, .ticket = ticket }, 0);
    return failed(f);
}

static int late_sync(qw_device *d)
{
    late_device *f = late_of(d);
    must(!f->recording, recording);
    f->syncs++;
    drain(f, QW_COMPUTE);
    drain(f, QW_COPY);
    return failed(f);
}

static int late_lapse(qw_device *d, uint64_t from, uint64_t to, double *seconds)
{
    const late_device *f = late_of(d);
    *seconds = ((double)f->mark[to].ticks - (double)f->mark[from].ticks) * 1e-6;
    return failed(f);
}

static const char *late_failure(qw_device *d)
{
    return late_of(d)->noticed ? "the late device has lost its place" : NULL;
}

/* --- weights ---------------------------------------------------------------------------------- */

static size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

static size_t late_packed(qw_device *d, const qw_pack_request *q)
{
    size_t bytes = 0;
    for (int i = 0; i < q->parts; i++) {
        const qw_tensor *w = &q->w[i];
        const size_t scales = late_of(d)->joins ? (size_t)w->dim[0] : qw_scales(w);
        bytes += aligned(qw_extent(w)) + aligned(scales * sizeof(float))
                 + aligned(qw_block_scale_bytes(w));
    }
    return bytes;
}

/* Dense parts of one type in one basis, without scales of blocks. */
static int joinable(const qw_pack_request *q)
{
    const qw_tensor *a = q->w;
    for (int i = 0; i < q->parts; i++) {
        const qw_tensor *b = &q->w[i];
        if (b->dtype != a->dtype || b->block_scale || b->rotated != a->rotated || b->rank != 2
            || b->stride[0] != b->dim[1])
            return 0;
    }
    return q->parts > 1;
}

/* One matrix of all rows, with a scale for each where a part has any. */
static void pack_joined(late_device *f, int queue, qw_tensor *dst, unsigned char *memory,
                        const qw_pack_request *q)
{
    float *scale = NULL;
    int64_t n = 0;
    size_t scales = 0;
    dst[0].data = memory;
    dst[0].layout = JOINED;
    for (int i = 0; i < q->parts; i++) {
        const qw_tensor *w = &q->w[i];
        const size_t bytes = qw_extent(w);
        scales += qw_scales(w);
        issue_copy(f, queue, memory, w->data, bytes, 1);
        memory += bytes;
        scale = realloc(scale, (size_t)(n + w->dim[0]) * sizeof *scale);
        for (int64_t k = 0; k < w->dim[0]; k++, n++) {
            scale[n] = 1;
            if (w->scale)
                memcpy(&scale[n], (const char *)w->scale + (k * w->scale_stride) * 4,
                       sizeof *scale);
        }
        if (i) dst[i] = (qw_tensor){ 0 };
    }
    memory = (unsigned char *)dst[0].data
             + aligned((size_t)(memory - (unsigned char *)dst[0].data));
    if (scales) issue_copy(f, queue, memory, scale, (size_t)n * sizeof *scale, 0);
    if (scales) dst[0].scale = (float *)(void *)memory;
    if (scales) dst[0].scale_stride = 1;
    dst[0].dim[0] = n;
    free(scale);
    f->joined++;
}

static int late_pack(qw_device *d, int queue, qw_tensor *dst, void *memory,
                     const qw_pack_request *q)
{
    late_device *f = late_of(d);
    unsigned char *at = memory;
    must(!f->recording, recording);
    f->packs++;
    near(f, memory, late_packed(d, q));
    if (f->joins && joinable(q)) {
        pack_joined(f, queue, dst, memory, q);
        return failed(f);
    }
    for (int i = 0; i < q->parts; i++) {
        const qw_tensor *w = &q->w[i];
        const size_t bytes = qw_extent(w), scales = qw_scales(w) * sizeof(float),
                     block_scales = qw_block_scale_bytes(w);
        dst[i].layout = PACKED;
        dst[i].data = at;
        issue_copy(f, queue, at, w->data, bytes, 1);
        at += aligned(bytes);
        if (scales) issue_copy(f, queue, at, w->scale, scales, 0);
        if (scales) dst[i].scale = (float *)(void *)at;
        at += aligned(scales);
        if (block_scales) issue_copy(f, queue, at, w->block_scale, block_scales, 0);
        if (block_scales) dst[i].block_scale = at;
        at += aligned(block_scales);
    }
    return failed(f);
}

/* --- ops -------------------------------------------------------------------------------------- */

/* Bytes of scratch, which depend on y only; the ops use none of it. */
static size_t late_scratch(qw_device *d, enum qw_op op, const void *args)
{
    qw_any_args copy;
    (void)d;
    memcpy(&copy, args, qw_op_table[op].args);
    const qw_tensor *y = qw_operand_of(qw_op_table[op].operand, &copy);
    return op == QW_OP_swiglu ? 0 : 77 + 3 * (size_t)qw_elements(y);
}

/* Copies first and last: the caller may change them when the call returns. */
static void keep_arrays(late_task *t)
{
    qw_attention_args *a = &t->args.attention;
    if (t->op != QW_OP_attention) return;
    const int64_t n = a->q.dim[0];
    int32_t *both = malloc((size_t)(2 * n) * sizeof *both + 1);
    if (a->first) memcpy(both, a->first, (size_t)n * sizeof *both), a->first = both;
    if (a->last) memcpy(both + n, a->last, (size_t)n * sizeof *both), a->last = both + n;
    t->own = both;
}

static int call(qw_device *d, enum qw_op op, const void *args, size_t size)
{
    late_device *f = late_of(d);
    late_task t = { .what = OP, .op = op, .room = d->room, .room_bytes = d->room_bytes };
    memcpy(&t.args, args, size);
    if (f->declines >> op & 1) return QW_DECLINE;
    for (const qw_operand *o = qw_op_table[op].operand; o->name; o++) {
        const qw_tensor *w = qw_operand_of(o, &t.args);
        if (w && w->layout && w->layout != PACKED && w->layout != JOINED) return QW_DECLINE;
    }
    must(d->room_bytes == late_scratch(d, op, args), "an op has the scratch that it asks for");
    if (d->poll && d->poll(d->poll_user)) return QWEN_ECANCELLED;
    if (failed(f)) return failed(f);
    keep_arrays(&t);
    f->ops++;
    if (f->recording) append(&f->tape[f->tapes], &t);
    else issue(f, QW_COMPUTE, &t, f->op_ticks);
    return QWEN_OK;
}

#define X(name)                                                     \
    static int late_##name(qw_device *d, const qw_##name##_args *a) \
    {                                                               \
        return call(d, QW_OP_##name, a, sizeof *a);                 \
    }
QW_OPS(X)
#undef X

/* --- a step as one piece of work -------------------------------------------------------------- */

static void erase(late_list *l)
{
    while (l->first) {
        late_task *next = l->first->next;
        free(l->first->own);
        free(l->first);
        l->first = next;
    }
}

static int late_record(qw_device *d, int what, uint64_t *tape)
{
    late_device *f = late_of(d);
    must(f->recording == (what != QW_RECORD_BEGIN), "a recording begins, then ends");
    must(f->tapes < TAPES, "there is room for a recording");
    f->recording = what == QW_RECORD_BEGIN;
    if (what == QW_RECORD_DROP) erase(&f->tape[f->tapes]);
    if (what == QW_RECORD_END) *tape = (uint64_t)f->tapes++;
    return failed(f);
}

static int late_replay(qw_device *d, uint64_t tape)
{
    late_device *f = late_of(d);
    must(!f->recording && tape < (uint64_t)f->tapes, "what is replayed was recorded");
    f->replays++;
    for (const late_task *t = f->tape[tape].first; t; t = t->next) {
        late_task again = *t;
        keep_arrays(&again);
        issue(f, QW_COMPUTE, &again, f->op_ticks);
    }
    return failed(f);
}

static void late_forget(qw_device *d, uint64_t tape) { erase(&late_of(d)->tape[tape]); }

/* --- the device ------------------------------------------------------------------------------- */

static void late_close(qw_device *d)
{
    late_device *f = late_of(d);
    drain(f, QW_COMPUTE);
    drain(f, QW_COPY);
    for (int i = 0; i <= f->tapes && i < TAPES; i++) erase(&f->tape[i]);
    must(!f->held, "all memory is free in the end");
    f->ref->close(f->ref);
    free(f->mark);
    free(f);
}

qw_device *open_late(uint64_t seed)
{
    late_device *f = calloc(1, sizeof *f);
    f->ref = open_device("ref");
    f->seed = seed;
    f->d = (qw_device){ .size = sizeof f->d,
                        .abi = QW_BACKEND_ABI,
                        .name = "late",
                        .memory = (uint64_t)1 << 30,
                        .prefer = QW_F32,
                        .wide = QW_F32,
                        .close = late_close,
                        .failure = late_failure,
                        .alloc = late_alloc,
                        .free = late_free,
                        .put = late_put,
                        .get = late_get,
                        .mark = late_mark,
                        .wait = late_wait,
                        .sync = late_sync,
                        .lapse = late_lapse,
                        .packed = late_packed,
                        .pack = late_pack,
                        .scratch = late_scratch,
                        .record = late_record,
                        .replay = late_replay,
                        .forget = late_forget,
#define X(name) .op.name = late_##name,
                        QW_OPS(X)
#undef X
    };
    return &f->d;
}
