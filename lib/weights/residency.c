/* residency.c - groups of weights on the device: kept, or streamed in two slots.
 *
 * Vectors are copied to the device when they are loaded and stay.  Matrices belong to groups, one
 * for each block of a net; convolutions are in a group that is always kept.  A host device uses
 * matrices where they lie in the file, unless it packs them; under a bound on memory, mapped pages
 * are released when the weights used since the last release exceed the bound.  Any other device
 * gets them through pack, or by put where it has no pack: groups are kept in their order while they
 * fit beside two slots as large as the largest group, the others alternate in the slots.  Where two
 * slots do not fit, there is one.  The copy of a group is issued on the copy queue after the ops of
 * the group before it have been issued, so that a copy that blocks its caller overlaps with them
 * too.  Between qw_group_begin and qw_group_end a slot is not reused: nets do not nest more groups
 * than there are slots. */
#define _DEFAULT_SOURCE /* madvise */
#include "weights/residency.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct packet {         /* of one pack request: the parts of a weight, or a convolution */
    qw_weight *weight;          /* NULL: a convolution */
    qw_tensor *view[QW_PARTS];  /* the net's own tensors */
    qw_tensor host[QW_PARTS];   /* as they lie in host memory */
    qw_tensor device[QW_PARTS]; /* as last placed on the device */
    int mapped[QW_PARTS];       /* lies in a mapped file */
    int parts;
    size_t plain, bytes, offset; /* in host memory; on the device, and its place in the group */
} packet;

struct qw_group {
    qw_residency *owner;
    char name[48];
    packet *packet;
    int packets, room;
    size_t plain, bytes; /* what is used as it lies in host memory; what is on the device */
    int kept;
    qw_group *next_streamed; /* in a ring */
};

typedef struct slot {
    void *memory;
    qw_group *holds;
    uint64_t ready, used; /* tickets: end of the copy into it; end of the ops that read it */
    int has_used;
    int open; /* groups begun and not ended in it */
} slot;

struct qw_residency {
    qw_device *dev;
    uint64_t memory;
    qw_group **group;
    int groups;
    qw_group *outside; /* convolutions; NULL: none */
    void **block;      /* device memory */
    int blocks;
    void **own; /* host memory */
    int owns;
    uint64_t kept, streamed, copies;
    uint64_t touched; /* host device: bytes of groups used since the last release of pages */
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
    if (s->blocks) s->dev->sync(s->dev); /* a copy may still be queued */
    for (int i = 0; i < s->groups; i++) {
        free(s->group[i]->packet);
        free(s->group[i]);
    }
    for (int i = 0; i < s->owns; i++) free(s->own[i]);
    free(s->own);
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
    if (!grown || s->dev->alloc(s->dev, bytes, &p) || !p) {
        qw_fail(err, QWEN_ENOMEM, "no memory for %zu bytes of weights on %s", bytes, s->dev->name);
        return NULL;
    }
    s->block[s->blocks++] = p;
    return p;
}

/* Why a call of the device failed, for messages. */
static const char *why(const qw_residency *s)
{
    const char *sentence = s->dev->failure ? s->dev->failure(s->dev) : NULL;
    return sentence ? sentence : "it failed";
}

void *qw_residency_keep(qw_residency *s, const void *data, size_t bytes, qw_error *err)
{
    void *p = device_block(s, bytes, err);
    if (!p) return NULL;
    if (s->dev->put(s->dev, QW_COMPUTE, p, data, bytes)) {
        qw_fail(err, QWEN_EDEVICE, "%s did not take %zu bytes of weights: %s", s->dev->name, bytes,
                why(s));
        return NULL;
    }
    s->kept += bytes;
    s->copies += bytes;
    return p;
}

static packet *new_packet(qw_group *g)
{
    if (g->packets == g->room) {
        const int room = g->room ? 2 * g->room : 16;
        packet *grown = realloc(g->packet, (size_t)room * sizeof *grown);
        if (!grown) return NULL;
        g->packet = grown;
        g->room = room;
    }
    packet *p = &g->packet[g->packets++];
    memset(p, 0, sizeof *p);
    return p;
}

static size_t plain_bytes(const qw_tensor *t)
{
    return (size_t)t->dim[0] * qw_row_bytes(t->dtype, t->stride[0]);
}

int qw_residency_part(qw_residency *s, qw_group *g, const qw_store *store, qw_weight *w,
                      qw_error *err)
{
    packet *p = g && g->packets ? &g->packet[g->packets - 1] : NULL;
    /* A first part begins a packet: another weight may have had this address before. */
    if (!p || p->weight != w || w->parts == 1) p = g ? new_packet(g) : NULL;
    if (!p) return qw_fail(err, QWEN_ENOMEM, "no memory for a group of weights");
    const int i = p->parts++;
    qw_tensor *t = &w->part[w->parts - 1].w;
    const size_t plain = plain_bytes(t);
    p->weight = w;
    p->view[i] = t;
    p->host[i] = *t;
    p->mapped[i] = qw_store_maps(store, t->data);
    p->plain += plain;
    if (!p->mapped[i]) s->copies += plain;
    return QWEN_OK;
}

/* Host memory that is freed with the residency. */
static void *own_copy(qw_residency *s, const void *data, size_t bytes, qw_error *err)
{
    void **grown = realloc(s->own, (size_t)(s->owns + 1) * sizeof *grown);
    void *p = NULL;
    if (grown) s->own = grown;
    if (!grown || posix_memalign(&p, 64, bytes ? bytes : 1)) {
        qw_fail(err, QWEN_ENOMEM, "no memory for %zu bytes of a convolution", bytes);
        return NULL;
    }
    s->own[s->owns++] = p;
    return memcpy(p, data, bytes);
}

int qw_residency_conv(qw_residency *s, qw_tensor *t, const void *data, qw_error *err)
{
    const size_t bytes = qw_row_bytes(t->dtype, qw_elements(t));
    if (!s->outside) s->outside = qw_group_new(s, "convolutions");
    packet *p = s->outside ? new_packet(s->outside) : NULL;
    if (!p) return qw_fail(err, QWEN_ENOMEM, "no memory for a group of weights");
    t->data = data ? own_copy(s, data, bytes, err) : (void *)t; /* plan: any address */
    p->view[0] = t;
    p->host[0] = *t;
    p->parts = 1;
    p->plain = bytes;
    s->copies += bytes;
    return err->status;
}

/* --- on the device --- */

static qw_pack_request request(const packet *p)
{
    return (qw_pack_request){ .size = sizeof(qw_pack_request), .w = p->host, .parts = p->parts };
}

static size_t aligned(size_t bytes) { return (bytes + 255) & ~(size_t)255; }

/* Bytes on a device without a layout of its own: the parts as they are, with their scales. */
static size_t unpacked(const packet *p)
{
    size_t bytes = 0;
    for (int i = 0; i < p->parts; i++)
        bytes += aligned(qw_extent(&p->host[i])) + aligned(qw_scales(&p->host[i]) * sizeof(float))
                 + aligned(qw_block_scale_bytes(&p->host[i]));
    return bytes;
}

static int packs(const qw_residency *s) { return s->dev->packed && s->dev->pack; }

#define MOST (SIZE_MAX / 4) /* bytes: more than a device gives; two of them do not overflow */

/* Sizes and places of a group's packets. */
static void measure(qw_residency *s, qw_group *g)
{
    g->plain = g->bytes = 0;
    for (int i = 0; i < g->packets; i++) {
        packet *p = &g->packet[i];
        const qw_pack_request q = request(p);
        p->bytes = packs(s) ? s->dev->packed(s->dev, &q) : s->dev->host ? 0 : unpacked(p);
        p->bytes = aligned(p->bytes < MOST ? p->bytes : MOST);
        p->offset = g->bytes;
        g->bytes = g->bytes + p->bytes < MOST ? g->bytes + p->bytes : MOST;
        if (!p->bytes) g->plain += p->plain;
    }
}

/* Copies `bytes` at `from` to *at and advances *at; *to is their address on the device. */
static int put_bytes(qw_residency *s, int queue, char **at, const void *from, size_t bytes,
                     const void **to)
{
    if (!from || !bytes) return QWEN_OK;
    *to = *at;
    *at += aligned(bytes);
    return s->dev->put(s->dev, queue, (void *)(uintptr_t)*to, from, bytes);
}

/* The parts as they are, for a device without a layout of its own. */
static int put_plain(qw_residency *s, packet *p, char *memory, int queue)
{
    int status = QWEN_OK;
    for (int i = 0; i < p->parts && !status; i++) {
        const qw_tensor *h = &p->host[i];
        qw_tensor *d = &p->device[i];
        const void *data = d->data, *scale = d->scale;
        status = put_bytes(s, queue, &memory, h->data, qw_extent(h), &data);
        if (!status)
            status = put_bytes(s, queue, &memory, h->scale, qw_scales(h) * sizeof(float), &scale);
        if (!status)
            status = put_bytes(s, queue, &memory, h->block_scale, qw_block_scale_bytes(h),
                               &d->block_scale);
        d->data = (void *)(uintptr_t)data;
        d->scale = scale;
    }
    return status;
}

/* Packs or copies a group's packets into device memory at `memory`, on a queue. */
static int fill(qw_residency *s, qw_group *g, void *memory, int queue)
{
    for (int i = 0; i < g->packets; i++) {
        packet *p = &g->packet[i];
        if (!p->bytes) continue; /* used as it lies */
        memcpy(p->device, p->host, sizeof p->device);
        const qw_pack_request q = request(p);
        char *at = (char *)memory + p->offset;
        const int status = packs(s) ? s->dev->pack(s->dev, queue, p->device, at, &q)
                                    : put_plain(s, p, at, queue);
        if (status) return status;
        for (int k = 0; k < p->parts; k++) {
            p->device[k].host = &p->host[k];
            p->device[k].originals = 1;
        }
    }
    return QWEN_OK;
}

/* A part of a joined weight: only the reference can use it, and reads its original. */
static qw_tensor left_on_host(const qw_tensor *host)
{
    qw_tensor t = *host;
    t.layout = UINT32_MAX;
    t.host = host;
    t.originals = 1;
    return t;
}

/* Points the net's tensors at the device; a part that a LoRA has replaced by a patched copy is left
 * alone. */
static void show(qw_group *g)
{
    for (int i = 0; i < g->packets; i++) {
        packet *p = &g->packet[i];
        if (!p->bytes) continue;
        const int joined = p->parts > 1 && !qw_present(&p->device[1]);
        if (joined) {
            p->weight->joined = p->device[0];
            p->weight->joined.host = p->host;
            p->weight->joined.originals = p->parts;
        }
        for (int k = 0; k < p->parts; k++)
            if (p->view[k]->host == &p->host[k] || p->view[k]->data == p->host[k].data)
                *p->view[k] = joined ? left_on_host(&p->host[k]) : p->device[k];
    }
}

/* Sets joined_bias, the biases of all parts in order, where the device may join the parts. */
static int join_biases(qw_residency *s, const packet *p, qw_error *err)
{
    qw_weight *w = p->weight;
    if (!w || p->parts < 2 || !p->bytes || !packs(s)) return QWEN_OK;
    for (int i = 0; i < p->parts; i++)
        if (!qw_present(&w->part[i].bias)) return QWEN_OK;
    const size_t size = qw_block_bytes(s->dev->wide), bytes = (size_t)w->n * size;
    char *host = malloc(bytes), *at = host;
    int status = host ? QWEN_OK : QWEN_ENOMEM;
    for (int i = 0; i < p->parts && !status; i++) {
        const size_t n = (size_t)w->part[i].bias.dim[0] * size;
        status = s->dev->get(s->dev, QW_COMPUTE, at, w->part[i].bias.data, n);
        at += n;
    }
    if (status) qw_fail(err, status, "%s did not give back a bias: %s", s->dev->name, why(s));
    else w->joined_bias = qw_dense1(qw_residency_keep(s, host, bytes, err), s->dev->wide, w->n);
    free(host);
    return err->status;
}

/* Memory for the slots, as large as the largest group. */
static int make_slots(qw_residency *s, int n, uint64_t largest, qw_error *err)
{
    for (; s->slots < n && !err->status; s->slots++)
        s->slot[s->slots].memory = device_block(s, (size_t)largest, err);
    return err->status;
}

/* Puts a group into device memory of its own; 0 if alloc fails. */
static int keep_group(qw_residency *s, qw_group *g, qw_error *err)
{
    qw_error full = { 0 };
    void *p = device_block(s, g->bytes, &full);
    if (!p) return 0;
    if (fill(s, g, p, QW_COMPUTE))
        qw_fail(err, QWEN_EDEVICE, "%s did not take the weights of %s: %s", s->dev->name, g->name,
                why(s));
    show(g);
    s->kept += g->bytes;
    return 1;
}

/* Keeps a group regardless of the bound: convolutions, and every group of a host device. */
static int keep_always(qw_residency *s, qw_group *g, qw_error *err)
{
    g->kept = 1;
    if (g->bytes && !keep_group(s, g, err) && !err->status)
        qw_fail(err, QWEN_ENOMEM, "no memory for %zu bytes of weights of %s on %s", g->bytes,
                g->name, s->dev->name);
    return err->status;
}

/* Groups are kept in their order up to the first that does not fit; that one and the rest are
 * streamed. */
static int commit_device(qw_residency *s, qw_error *err)
{
    /* Without a bound a quarter of the memory is left for scratch and other programs. */
    const uint64_t bound = s->memory ? s->memory : s->dev->memory - s->dev->memory / 4;
    if (s->outside && keep_always(s, s->outside, err)) return err->status;
    uint64_t all = 0, largest = 0, room = bound > s->kept ? bound - s->kept : 0;
    qw_group *first = NULL, *last = NULL;
    for (int i = 0; i < s->groups; i++) {
        if (s->group[i] == s->outside) continue;
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
        if (!g->packets || g == s->outside) continue;
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
    if (!err->status && s->dev->sync(s->dev))
        qw_fail(err, QWEN_EDEVICE, "%s did not take the weights: %s", s->dev->name, why(s));
    return err->status;
}

int qw_residency_commit(qw_residency *s, qw_error *err)
{
    for (int i = 0; i < s->groups && !err->status; i++) {
        measure(s, s->group[i]);
        for (int k = 0; k < s->group[i]->packets && !err->status; k++)
            join_biases(s, &s->group[i]->packet[k], err);
    }
    if (err->status) return err->status;
    if (!s->dev->host) return commit_device(s, err);
    for (int i = 0; i < s->groups; i++) { /* pages beyond the bound are released and read again */
        qw_group *g = s->group[i];
        if (keep_always(s, g, err)) return err->status;
        if (g == s->outside) s->kept += g->plain;
        else if (s->memory && s->kept + g->plain > s->memory) s->streamed += g->plain;
        else s->kept += g->plain;
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

/* A slot that is not open, s->turn first; NULL if there is none. */
static slot *free_slot(qw_residency *s)
{
    for (int i = 0; i < s->slots; i++) {
        slot *at = &s->slot[(s->turn + i) % s->slots];
        if (!at->open) return at;
    }
    return NULL;
}

/* Issues the copy of a group into a slot, behind the ops that read the slot's former content. */
static void fetch(qw_run *r, qw_residency *s, slot *to, qw_group *g)
{
    to->holds = g;
    if ((to->has_used && s->dev->wait(s->dev, QW_COPY, to->used)) || fill(s, g, to->memory, QW_COPY)
        || s->dev->mark(s->dev, QW_COPY, &to->ready))
        qw_run_fail(r, QWEN_EDEVICE, "%s did not take the weights of %s: %s", s->dev->name, g->name,
                    why(s));
}

void qw_group_begin(qw_run *r, qw_group *g)
{
    qw_residency *s = g->owner;
    if (r->error.status || r->dev != s->dev || s->dev->host || g->kept || !g->packets) return;
    if (qw_run_spoils(r)) return;
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
        qw_run_fail(r, QWEN_EDEVICE, "%s lost the weights of %s: %s", s->dev->name, g->name,
                    why(s));
    s->turn = at == &s->slot[0];
}

/* Releases the mapped pages of all groups; the system reads them again at the next access. */
static void release_pages(const qw_residency *s)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < s->groups; i++)
        for (int k = 0; k < s->group[i]->packets; k++)
            for (int n = 0; n < s->group[i]->packet[k].parts; n++) {
                const packet *p = &s->group[i]->packet[k];
                const uintptr_t at = (uintptr_t)p->host[n].data;
                const uintptr_t from = (at + page - 1) / page * page;
                const uintptr_t to = (at + plain_bytes(&p->host[n])) / page * page;
                if (p->mapped[n] && to > from) madvise((void *)from, to - from, MADV_DONTNEED);
            }
}

/* Marks and closes the slot after a failure too: the compute queue may still read it. */
void qw_group_end(qw_run *r, qw_group *g)
{
    qw_residency *s = g->owner;
    if (r->dev != s->dev) return;
    if (s->dev->host) {
        if (s->streamed) qw_run_spoils(r);
        s->touched += g->plain;
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
    if (s->dev->mark(s->dev, QW_COMPUTE, &at->used)) {
        qw_run_fail(r, QWEN_EDEVICE, "%s failed after %s: %s", s->dev->name, g->name, why(s));
        return;
    }
    slot *ahead = r->error.status || slot_of(s, g->next_streamed) ? NULL : free_slot(s);
    if (ahead) fetch(r, s, ahead, g->next_streamed);
}
