/* residency.c - groups of weights on the device: kept, or streamed in two slots.
 *
 * Small tensors are copied to the device when they are loaded and stay.  Matrices belong to groups,
 * one for each block of a net.  A device that is the host uses them where they lie in the file;
 * with a bound on memory, pages of a group are given back after its use.  Any other device gets
 * them through pack(): groups are kept in their order while they fit beside two slots as large as
 * the largest group, the others take turns in the slots, the copy queue one group ahead of the
 * compute queue.  Where there is no room for two slots one must do, and nothing is copied ahead.
 * Between begin and end a slot is a group's own: nets do not nest more groups than there are
 * slots. */
#define _DEFAULT_SOURCE /* madvise */
#include "weights/residency.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct matrix {
    qw_tensor *view;      /* the net's own tensor */
    qw_tensor host;       /* as it lies in host memory */
    qw_tensor packed;     /* as it lies on the device, in its last place there */
    size_t bytes, offset; /* packed size, place in the group */
    int mapped;           /* lies in a mapping, not in memory of ours */
} matrix;

struct qw_group {
    qw_residency *owner;
    char name[48];
    matrix *matrix;
    int matrices, room;
    size_t bytes; /* packed, all */
    int kept;
    qw_group *next_streamed; /* in a ring */
};

typedef struct slot {
    void *memory;
    qw_group *holds;
    uint64_t ready, used; /* tickets: filled by the copy queue, left by the compute queue */
    int has_used;
    int open; /* between begin and end of what it holds */
} slot;

struct qw_residency {
    qw_device *dev;
    uint64_t memory;
    qw_group **group;
    int groups;
    void **block;
    int blocks;
    uint64_t kept, streamed, copies;
    uint64_t touched; /* host device: mapped bytes used since pages were given back */
    slot slot[2];
    int slots, turn;
};

int qw_residency_new(qw_residency **out, qw_device *dev, uint64_t memory, qw_error *err)
{
    *out = calloc(1, sizeof **out);
    if (!*out) return qw_fail(err, QWEN_ENOMEM, "no memory for weights");
    (*out)->dev = dev;
    (*out)->memory = memory;
    return QWEN_OK;
}

void qw_residency_free(qw_residency *s)
{
    if (!s) return;
    if (s->slots) s->dev->sync(s->dev); /* a group may still be on its way */
    for (int i = 0; i < s->groups; i++) {
        free(s->group[i]->matrix);
        free(s->group[i]);
    }
    for (int i = 0; i < s->blocks; i++) s->dev->free(s->dev, s->block[i]);
    free(s->block);
    free(s->group);
    free(s);
}

qw_device *qw_residency_device(const qw_residency *s) { return s->dev; }

qw_group *qw_group_new(qw_residency *s, const char *format, ...)
{
    qw_group **grown = realloc(s->group, (size_t)(s->groups + 1) * sizeof *grown);
    if (grown) s->group = grown;
    qw_group *g = grown ? calloc(1, sizeof *g) : NULL;
    if (!g) return NULL;
    va_list args;
    va_start(args, format);
    vsnprintf(g->name, sizeof g->name, format, args);
    va_end(args);
    g->owner = s;
    s->group[s->groups++] = g;
    return g;
}

/* Device memory that is freed with the residency. */
static void *device_block(qw_residency *s, size_t bytes, qw_error *err)
{
    void **grown = realloc(s->block, (size_t)(s->blocks + 1) * sizeof *grown);
    void *p = NULL;
    if (grown) s->block = grown;
    if (!grown || s->dev->alloc(s->dev, bytes, &p)) {
        qw_fail(err, QWEN_ENOMEM, "no memory for %zu bytes of weights on %s", bytes, s->dev->name);
        return NULL;
    }
    s->block[s->blocks++] = p;
    return p;
}

void *qw_residency_keep(qw_residency *s, const void *data, size_t bytes, qw_error *err)
{
    void *p = device_block(s, bytes, err);
    if (!p) return NULL;
    if (s->dev->put(s->dev, QW_COMPUTE, p, data, bytes) || s->dev->sync(s->dev)) {
        qw_fail(err, QWEN_EDEVICE, "%s did not take %zu bytes of weights", s->dev->name, bytes);
        return NULL;
    }
    s->kept += bytes;
    s->copies += bytes;
    return p;
}

int qw_residency_matrix(qw_residency *s, qw_group *g, const qw_store *store, qw_tensor *t,
                        qw_error *err)
{
    if (!g) return qw_fail(err, QWEN_ENOMEM, "no memory for a group of weights");
    if (g->matrices == g->room) {
        const int room = g->room ? 2 * g->room : 16;
        matrix *grown = realloc(g->matrix, (size_t)room * sizeof *grown);
        if (!grown) return qw_fail(err, QWEN_ENOMEM, "no memory for a group of weights");
        g->matrix = grown;
        g->room = room;
    }
    matrix *m = &g->matrix[g->matrices++];
    const size_t plain = (size_t)t->dim[0] * qw_row_bytes(t->dtype, t->stride[0]);
    *m = (matrix){ .view = t, .host = *t, .mapped = qw_store_maps(store, t->data) };
    const qw_pack_request q = { .size = sizeof q, .w = t, .parts = 1 };
    m->bytes = s->dev->host ? plain : s->dev->packed(s->dev, &q);
    m->bytes = s->dev->host ? m->bytes : (m->bytes + 255) & ~(size_t)255;
    m->offset = g->bytes;
    g->bytes += m->bytes;
    if (!m->mapped) s->copies += plain;
    return QWEN_OK;
}

/* The group's matrices into device memory at `memory`, by a queue. */
static int fill(qw_residency *s, qw_group *g, void *memory, int queue)
{
    for (int i = 0; i < g->matrices; i++) {
        matrix *m = &g->matrix[i];
        m->packed = m->host;
        const qw_pack_request q = { .size = sizeof q, .w = &m->host, .parts = 1 };
        const int status = s->dev->pack(s->dev, queue, &m->packed, (char *)memory + m->offset, &q);
        if (status) return status;
        m->packed.host = &m->host;
        m->packed.originals = 1;
    }
    return QWEN_OK;
}

/* Tells the net where its matrices are; one that a LoRA has replaced by a patched copy stays so. */
static void show(qw_group *g)
{
    for (int i = 0; i < g->matrices; i++) {
        matrix *m = &g->matrix[i];
        if (m->view->host == &m->host || m->view->data == m->host.data) *m->view = m->packed;
    }
}

/* Memory for the slots, as large as the largest group. */
static int make_slots(qw_residency *s, int n, uint64_t largest, qw_error *err)
{
    for (; s->slots < n && !err->status; s->slots++)
        s->slot[s->slots].memory = device_block(s, (size_t)largest, err);
    return err->status;
}

/* Moves a group for good; 0 if the device has no room for it after all. */
static int keep_group(qw_residency *s, qw_group *g, qw_error *err)
{
    qw_error full = { 0 };
    void *p = device_block(s, g->bytes, &full);
    if (!p) return 0;
    if (fill(s, g, p, QW_COMPUTE))
        qw_fail(err, QWEN_EDEVICE, "%s did not take the weights of %s", s->dev->name, g->name);
    show(g);
    s->kept += g->bytes;
    return 1;
}

/* Groups are kept in their order up to the first that does not fit; that one and the rest take
 * turns. */
static int commit_device(qw_residency *s, qw_error *err)
{
    /* Without a bound a quarter is left for scratch and for what else runs there. */
    const uint64_t bound = s->memory ? s->memory : s->dev->memory - s->dev->memory / 4;
    uint64_t all = 0, largest = 0, room = bound > s->kept ? bound - s->kept : 0;
    qw_group *first = NULL, *last = NULL;
    for (int i = 0; i < s->groups; i++) {
        all += s->group[i]->bytes;
        if (s->group[i]->bytes > largest) largest = s->group[i]->bytes;
    }
    if (all > room) {
        if (largest > room)
            return qw_fail(err, QWEN_ENOMEM,
                           "%s: %llu bytes are too few for weights: the largest group of them has "
                           "%llu",
                           s->dev->name, (unsigned long long)bound, (unsigned long long)largest);
        if (make_slots(s, 2 * largest <= room ? 2 : 1, largest, err)) return err->status;
        room -= (uint64_t)s->slots * largest;
    }
    for (int i = 0; i < s->groups && !err->status; i++) {
        qw_group *g = s->group[i];
        if (!g->matrices) continue;
        g->kept = !first && g->bytes <= room && keep_group(s, g, err);
        if (g->kept) {
            room -= g->bytes;
            continue;
        }
        s->streamed += g->bytes;
        if (last) last->next_streamed = g;
        else first = g;
        last = g;
    }
    if (last) last->next_streamed = first;
    if (first && !s->slots) make_slots(s, 2, largest, err);
    if (!err->status && s->dev->sync(s->dev)) qw_fail(err, QWEN_EDEVICE, "%s failed", s->dev->name);
    return err->status;
}

int qw_residency_commit(qw_residency *s, qw_error *err)
{
    if (err->status) return err->status;
    if (!s->dev->host) return commit_device(s, err);
    for (int i = 0; i < s->groups; i++) { /* pages beyond the bound come and go */
        const uint64_t bytes = s->group[i]->bytes;
        if (s->memory && s->kept + bytes > s->memory) s->streamed += bytes;
        else s->kept += bytes;
    }
    return QWEN_OK;
}

uint64_t qw_residency_bytes(const qw_residency *s, int what)
{
    return !s ? 0 : what == 0 ? s->kept : what == 1 ? s->streamed : s->copies;
}

static slot *slot_of(qw_residency *s, const qw_group *g)
{
    return s->slot[0].holds == g ? &s->slot[0] : s->slot[1].holds == g ? &s->slot[1] : NULL;
}

/* A slot that no group is using, the one whose turn it is first; NULL if there is none. */
static slot *free_slot(qw_residency *s)
{
    for (int i = 0; i < s->slots; i++) {
        slot *at = &s->slot[(s->turn + i) % s->slots];
        if (!at->open) return at;
    }
    return NULL;
}

/* Starts copying a group into a slot, after the compute queue has left it. */
static void fetch(qw_run *r, qw_residency *s, slot *to, qw_group *g)
{
    to->holds = g;
    if ((to->has_used && s->dev->wait(s->dev, QW_COPY, to->used)) || fill(s, g, to->memory, QW_COPY)
        || s->dev->mark(s->dev, QW_COPY, &to->ready))
        qw_run_fail(r, QWEN_EDEVICE, "%s did not take the weights of %s", s->dev->name, g->name);
}

void qw_group_begin(qw_run *r, qw_group *g)
{
    qw_residency *s = g->owner;
    if (r->error.status || r->dev != s->dev || s->dev->host || g->kept || !g->matrices) return;
    slot *at = slot_of(s, g);
    if (!at) {
        at = free_slot(s);
        if (!at) {
            qw_run_fail(r, QWEN_ENOMEM,
                        "%s has no room for the weights of %s beside those of %s: more memory is "
                        "needed",
                        s->dev->name, g->name, s->slot[0].holds->name);
            return;
        }
        fetch(r, s, at, g);
    }
    at->open++;
    show(g);
    if (s->dev->wait(s->dev, QW_COMPUTE, at->ready))
        qw_run_fail(r, QWEN_EDEVICE, "%s lost the weights of %s", s->dev->name, g->name);
    s->turn = at == &s->slot[0];
    slot *ahead = slot_of(s, g->next_streamed) ? NULL : free_slot(s);
    if (ahead) fetch(r, s, ahead, g->next_streamed);
}

/* Gives pages of the file back to the system; they come again by themselves. */
static void release_pages(const qw_residency *s)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < s->groups; i++)
        for (int k = 0; k < s->group[i]->matrices; k++) {
            const matrix *m = &s->group[i]->matrix[k];
            const uintptr_t from = ((uintptr_t)m->host.data + page - 1) / page * page;
            const uintptr_t to = ((uintptr_t)m->host.data + m->bytes) / page * page;
            if (m->mapped && to > from) madvise((void *)from, to - from, MADV_DONTNEED);
        }
}

/* Also after a failure: what was begun is ended, and the compute queue may still be reading. */
void qw_group_end(qw_run *r, qw_group *g)
{
    qw_residency *s = g->owner;
    if (r->dev != s->dev) return;
    if (s->dev->host) {
        s->touched += g->bytes;
        if (s->memory && s->touched > s->memory) {
            release_pages(s);
            s->touched = 0;
        }
        return;
    }
    slot *at = g->kept ? NULL : slot_of(s, g);
    if (!at || !at->open) return;
    at->open--;
    at->has_used = 1;
    if (s->dev->mark(s->dev, QW_COMPUTE, &at->used))
        qw_run_fail(r, QWEN_EDEVICE, "%s failed", s->dev->name);
}
