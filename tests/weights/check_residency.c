/* check_residency.c - groups of weights on a device: kept or streamed, and used only after their
 * copy. */
#include "core/run.h"
#include "weights/weights.h"
#include "files.h"
#include "testing.h"
#include <string.h>

/* A device with host = 0 and two queues that run later, in a seeded random interleaving ordered by
 * waits only, so that a forgotten wait gives wrong weights. */
typedef struct task {
    enum { COPY, WAIT, CHECK } what;
    void *to;
    const void *from;
    void *own;
    size_t n;
    uint64_t ticket;
} task;
typedef struct queue_device {
    qw_device dev;
    task queue[QW_NQUEUES][4096];
    int head[QW_NQUEUES], tail[QW_NQUEUES];
    uint64_t
        done[QW_NQUEUES]; /* tickets passed: a ticket is queue number * 2^32 + tail at the mark */
    uint64_t seed, allocated;
    int checks, wrong;
    void *block[256];
    int blocks;
} queue_device;

static void far_step(queue_device *d, int q)
{
    if (d->head[q] == d->tail[q]) return;
    task *t = &d->queue[q][d->head[q]];
    if (t->what == WAIT && d->head[t->ticket >> 32] < (int)(t->ticket & 0xffffffff))
        return; /* not yet */
    if (t->what == COPY) memcpy(t->to, t->from, t->n);
    if (t->what == CHECK) {
        d->checks++;
        d->wrong += memcmp(t->to, t->from, t->n) != 0;
    }
    free(t->own);
    d->head[q]++;
}

static void far_some(queue_device *d)
{
    d->seed = d->seed * 6364136223846793005u + 1442695040888963407u;
    for (uint64_t n = d->seed >> 60; n; n--) {
        d->seed = d->seed * 6364136223846793005u + 1442695040888963407u;
        far_step(d, (int)(d->seed >> 63));
    }
}

static void far_push(queue_device *d, int q, task t)
{
    ck_assert_int_lt(d->tail[q], 4096);
    d->queue[q][d->tail[q]++] = t;
    far_some(d);
}

static int far_alloc(qw_device *dev, size_t bytes, void **out)
{
    queue_device *d = (queue_device *)dev;
    if (d->allocated + bytes > dev->memory || posix_memalign(out, 256, bytes ? bytes : 1))
        return QWEN_ENOMEM;
    d->allocated += bytes;
    return QWEN_OK;
}

static void far_free(qw_device *dev, void *p)
{
    (void)dev;
    free(p);
}

static int far_put(qw_device *dev, int queue, void *dst, const void *src, size_t bytes)
{
    void *copy = malloc(bytes ? bytes : 1);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, src, bytes);
    far_push((queue_device *)dev, queue, (task){ COPY, dst, copy, copy, bytes, 0 });
    return QWEN_OK;
}

static int far_mark(qw_device *dev, int queue, uint64_t *ticket)
{
    *ticket = (uint64_t)queue << 32 | (uint64_t)((queue_device *)dev)->tail[queue];
    return QWEN_OK;
}

static int far_wait(qw_device *dev, int queue, uint64_t ticket)
{
    far_push((queue_device *)dev, queue, (task){ .what = WAIT, .ticket = ticket });
    return QWEN_OK;
}

static int far_sync(qw_device *dev)
{
    queue_device *d = (queue_device *)dev;
    for (int turns = 0; d->head[0] < d->tail[0] || d->head[1] < d->tail[1]; turns++) {
        ck_assert_msg(turns < 1000000, "the queues wait for each other");
        far_step(d, turns & 1);
    }
    return QWEN_OK;
}

static size_t far_packed(qw_device *dev, const qw_pack_request *q)
{
    (void)dev;
    return (size_t)q->w->dim[0] * qw_row_bytes(q->w->dtype, q->w->dim[1]);
}

static int far_pack(qw_device *dev, int queue, qw_tensor *dst, void *memory,
                    const qw_pack_request *q)
{
    far_push((queue_device *)dev, queue,
             (task){ COPY, memory, q->w->data, NULL, far_packed(dev, q), 0 });
    dst->data = memory;
    return QWEN_OK;
}

enum { GROUPS = 7, ROWS = 16, COLS = 32, GROUP_BYTES = 2 * ROWS * COLS * 2 };

static void far_open(queue_device *d, uint64_t seed)
{
    memset(d, 0, sizeof *d);
    d->seed = seed;
    d->dev = (qw_device){ .size = sizeof d->dev,
                          .abi = QW_BACKEND_ABI,
                          .name = "far",
                          .memory = 1 << 20,
                          .prefer = QW_F32,
                          .wide = QW_F32,
                          .alloc = far_alloc,
                          .free = far_free,
                          .put = far_put,
                          .mark = far_mark,
                          .wait = far_wait,
                          .sync = far_sync,
                          .packed = far_packed,
                          .pack = far_pack };
}

/* GROUPS blocks of two matrices each, in a file of its own. */
static qw_store *blocks_file(void)
{
    static char name[2 * GROUPS][40];
    item t[2 * GROUPS];
    for (int i = 0; i < 2 * GROUPS; i++) {
        snprintf(name[i], sizeof name[i], "block.%d.%c.weight", i / 2, i % 2 ? 'b' : 'a');
        t[i] = (item){ name[i], "BF16", 2, { ROWS, COLS } };
    }
    blob b = safetensors_bytes("", t, 2 * GROUPS, 0);
    const size_t data = 2 * GROUPS * ROWS * COLS * 2;
    for (size_t i = 0; i < data; i++) b.data[b.n - data + i] = (unsigned char)(i * 31 + i / 251);
    qw_error err = { 0 };
    qw_store *s = NULL;
    qw_store_new(&s, &err);
    ck_assert_msg(!qw_store_add(s, write_file("blocks.safetensors", b.data, b.n), &err), "%s",
                  err.text);
    free(b.data);
    return s;
}

static void load_blocks(qw_store *s, qw_residency *res, qw_group **g, qw_weight (*w)[2],
                        qw_error *err)
{
    for (int i = 0; i < GROUPS; i++) {
        qw_loader l = { .store = s, .res = res, .err = err };
        l.group = g[i] = qw_group_new(res, "block %d", i);
        for (int k = 0; k < 2; k++)
            qw_load_part(&l, &w[i][k], ROWS, COLS, 0, "block.%d.%c", i, "ab"[k]);
    }
    ck_assert_msg(!err->status && !qw_residency_commit(res, err), "%s", err->text);
}

/* Uses the blocks several times; with every interleaving each op must read its own weights. */
static void stream_with(uint64_t memory, uint64_t seed, int streamed_expected)
{
    queue_device *d = malloc(sizeof *d);
    qw_error err = { 0 };
    qw_residency *res = NULL;
    qw_group *g[GROUPS];
    qw_weight w[GROUPS][2] = { 0 };
    qw_run r;
    ck_assert_ptr_nonnull(d);
    far_open(d, seed);
    qw_store *s = blocks_file();
    ck_assert(!qw_residency_new(&res, &d->dev, memory, &err));
    load_blocks(s, res, g, w, &err);
    ck_assert_uint_le(d->allocated, memory);
    ck_assert_uint_eq(qw_residency_bytes(res, 1) / GROUP_BYTES, (uint64_t)streamed_expected);
    qw_run_init(&r, &d->dev, NULL);
    for (int pass = 0; pass < 5; pass++)
        for (int i = 0; i < GROUPS; i++) {
            if (pass == 3 && i % 3 == 1) continue; /* not every walk takes every block */
            qw_group_begin(&r, g[i]);
            for (int k = 0; k < 2; k++) {
                const qw_tensor *t = &w[i][k].part[0].w;
                ck_assert(t->host != NULL && t->data != t->host->data);
                far_push(d, QW_COMPUTE,
                         (task){ CHECK, t->data, t->host->data, NULL, ROWS * COLS * 2, 0 });
            }
            qw_group_end(&r, g[i]);
        }
    ck_assert_int_eq(r.error.status, 0);
    far_sync(&d->dev);
    ck_assert_int_ge(d->checks, 60);
    ck_assert_msg(!d->wrong, "%d of %d uses met other weights (seed %llu)", d->wrong, d->checks,
                  (unsigned long long)seed);
    for (int i = 0; i < GROUPS; i++)
        for (int k = 0; k < 2; k++) qw_weight_free(&w[i][k]);
    qw_residency_free(res);
    qw_store_free(s);
    free(d);
}

START_TEST(all_kept) { stream_with(100 * GROUP_BYTES, 1, 0); }
END_TEST

START_TEST(streams_in_two_slots)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        stream_with(GROUP_BYTES, seed, GROUPS);
        stream_with(2 * GROUP_BYTES, seed, GROUPS);
        stream_with(4 * GROUP_BYTES, seed, GROUPS - 2);
        stream_with(6 * GROUP_BYTES, seed, GROUPS - 4);
    }
}
END_TEST

START_TEST(too_little_memory)
{
    queue_device *d = malloc(sizeof *d);
    qw_error err = { 0 };
    qw_residency *res = NULL;
    qw_weight w = { 0 };
    ck_assert_ptr_nonnull(d);
    far_open(d, 1);
    qw_store *s = blocks_file();
    qw_residency_new(&res, &d->dev, GROUP_BYTES / 4, &err);
    qw_loader l = { .store = s, .res = res, .err = &err };
    l.group = qw_group_new(res, "block 0");
    qw_load_part(&l, &w, ROWS, COLS, 0, "block.0.a");
    ck_assert_int_eq(qw_residency_commit(res, &err), QWEN_ENOMEM);
    qw_weight_free(&w);
    qw_residency_free(res);
    qw_store_free(s);
    free(d);
}
END_TEST

/* Under a bound a host device releases pages; the weights still equal the file's. */
START_TEST(host_memory_bound)
{
    qw_device *dev;
    qw_error err = { 0 };
    qw_residency *res = NULL;
    qw_group *g[GROUPS];
    qw_weight w[GROUPS][2] = { 0 };
    qw_run r;
    qw_store *s = blocks_file();
    ck_assert(!qw_device_open("ref", &(qw_device_options){ .threads = 1 }, &dev, &err)
              && !qw_residency_new(&res, dev, GROUP_BYTES, &err));
    load_blocks(s, res, g, w, &err);
    qw_run_init(&r, dev, NULL);
    for (int pass = 0; pass < 3; pass++)
        for (int i = 0; i < GROUPS; i++) {
            qw_group_begin(&r, g[i]);
            for (int k = 0; k < 2; k++) {
                const unsigned char *data = w[i][k].part[0].w.data;
                for (size_t j = 0; j < ROWS * COLS * 2; j++) {
                    const size_t at = (size_t)(2 * i + k) * ROWS * COLS * 2 + j;
                    ck_assert_int_eq(data[j], (unsigned char)(at * 31 + at / 251));
                }
            }
            qw_group_end(&r, g[i]);
        }
    ck_assert_int_eq(r.error.status, 0);
    for (int i = 0; i < GROUPS; i++)
        for (int k = 0; k < 2; k++) qw_weight_free(&w[i][k]);
    qw_residency_free(res);
    qw_store_free(s);
    dev->close(dev);
}
END_TEST

/* A weight that LoRA replaced stays replaced while its group streams, and comes back afterwards. */
START_TEST(overlay_outlives_streaming)
{
    queue_device *d = malloc(sizeof *d);
    qw_error err = { 0 };
    qw_residency *res = NULL;
    qw_group *g[GROUPS];
    qw_weight w[GROUPS][2] = { 0 };
    qw_run r;
    ck_assert_ptr_nonnull(d);
    far_open(d, 7);
    qw_store *s = blocks_file();
    ck_assert(!qw_residency_new(&res, &d->dev, 2 * GROUP_BYTES, &err));
    load_blocks(s, res, g, w, &err);
    qw_run_init(&r, &d->dev, NULL);
    qw_weight_part *part = &w[3][0].part[0];
    const qw_weight_part before = *part;
    float patched[4] = { 1, 2, 3, 4 };
    part->w = qw_dense2(patched, QW_F32, ROWS, COLS);
    for (int i = 0; i < GROUPS; i++) {
        qw_group_begin(&r, g[i]);
        if (i == 3) ck_assert_ptr_eq(part->w.data, patched);
        qw_group_end(&r, g[i]);
    }
    *part = before;
    for (int i = 0; i < GROUPS; i++) {
        qw_group_begin(&r, g[i]);
        if (i == 3)
            far_push(d, QW_COMPUTE,
                     (task){ CHECK, part->w.data, part->w.host->data, NULL, ROWS * COLS * 2, 0 });
        qw_group_end(&r, g[i]);
    }
    far_sync(&d->dev);
    ck_assert(d->checks == 1 && !d->wrong && !r.error.status);
    for (int i = 0; i < GROUPS; i++)
        for (int k = 0; k < 2; k++) qw_weight_free(&w[i][k]);
    qw_residency_free(res);
    qw_store_free(s);
    free(d);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("residency");
    TCase *c = tcase_create("residency");
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_test(c, all_kept);
    tcase_add_test(c, streams_in_two_slots);
    tcase_add_test(c, too_little_memory);
    tcase_add_test(c, host_memory_bound);
    tcase_add_test(c, overlay_outlives_streaming);
    suite_add_tcase(s, c);
    return run_suite(s);
}
