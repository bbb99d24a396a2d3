/* check_residency.c - groups of weights on a device: kept or streamed, and used only after their
 * copy. */
#include "files.h"
#include "late.h"
#include "devices.h"
#include "testing.h"
#include "values.h"
#include "weights/weights.h"
#include <math.h>
#include <string.h>

enum { GROUPS = 7, ROWS = 16, COLS = 32, GROUP_BYTES = 2 * ROWS * COLS * 2 };

/* Numbers of bf16 from 0.5 to 2. */
static unsigned char byte_of_blocks(size_t i)
{
    return i % 2 ? 0x3f : (unsigned char)(i * 31 + i / 251);
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
    for (size_t i = 0; i < data; i++) b.data[b.n - data + i] = byte_of_blocks(i);
    qw_error err = { 0 };
    qw_store *s = NULL;
    qw_store_new(&s, &err);
    ck_assert_msg(!qw_store_add(s, write_file("blocks.safetensors", b.data, b.n), &err), "%s",
                  err.text);
    free(b.data);
    return s;
}

/* The blocks on a device, x [1][COLS], and y [2 * GROUPS][ROWS]: x by each matrix. */
typedef struct blocks {
    qw_device *dev, *ref;
    qw_store *store;
    qw_residency *res;
    qw_group *g[GROUPS];
    qw_weight w[GROUPS][2];
    qw_run r;
    qw_tensor x, y;
} blocks;

static double ramp[COLS];

static int open_blocks(blocks *b, qw_device *dev, uint64_t memory)
{
    qw_error err = { 0 };
    *b = (blocks){ .dev = dev, .ref = open_device("ref"), .store = blocks_file() };
    ck_assert(!qw_residency_new(&b->res, dev, memory, &err));
    for (int i = 0; i < GROUPS; i++) {
        qw_loader l = { .store = b->store, .res = b->res, .err = &err };
        l.group = b->g[i] = qw_group_new(b->res, "block %d", i);
        for (int k = 0; k < 2; k++)
            qw_load_part(&l, &b->w[i][k], ROWS, COLS, 0, "block.%d.%c", i, "ab"[k]);
    }
    ck_assert_msg(!err.status, "%s", err.text);
    const int status = qw_residency_commit(b->res, &err);
    qw_run_init(&b->r, dev, b->ref);
    if (status) return status;
    qw_run_reserve(&b->r, 1 << 16);
    b->x = qw_new2(&b->r, QW_F32, 1, COLS);
    b->y = qw_new2(&b->r, QW_F32, 2 * GROUPS, ROWS);
    for (int i = 0; i < COLS; i++) ramp[i] = i - 7;
    qw_put(&b->r, b->x, ramp);
    return QWEN_OK;
}

static void close_blocks(blocks *b)
{
    for (int i = 0; i < GROUPS; i++)
        for (int k = 0; k < 2; k++) qw_weight_free(&b->w[i][k]);
    qw_run_free(&b->r);
    qw_residency_free(b->res);
    qw_store_free(b->store);
    b->dev->close(b->dev);
    b->ref->close(b->ref);
}

static void use_block(blocks *b, int i)
{
    qw_group_begin(&b->r, b->g[i]);
    for (int k = 0; k < 2; k++)
        qw_gemm(&b->r, (qw_gemm_args){ .y = qw_rows(b->y, 2 * i + k, 1),
                                       .x = b->x,
                                       .w = b->w[i][k].part[0].w });
    qw_group_end(&b->r, b->g[i]);
}

/* All rows of y are what the bytes of the file give, which blocks_file made. */
static void check_blocks(blocks *b)
{
    double got[2 * GROUPS * ROWS], row[COLS];
    unsigned char bytes[2 * COLS];
    qw_get(&b->r, b->y, got);
    ck_assert_msg(!b->r.error.status, "%s", b->r.error.text);
    for (int i = 0; i < 2 * GROUPS * ROWS; i++) {
        double sum = 0;
        for (size_t j = 0; j < sizeof bytes; j++)
            bytes[j] = byte_of_blocks((size_t)i * sizeof bytes + j);
        qw_numbers_get(QW_BF16, bytes, COLS, row);
        for (int j = 0; j < COLS; j++) sum += row[j] * ramp[j];
        ck_assert_msg(fabs(got[i] - sum) <= 1e-5 * fabs(sum), "row %d is %g, expected %g", i,
                      got[i], sum);
    }
}

/* Walks over the blocks several times; whatever the order of the work, each op must meet its own
 * weights. */
static void stream_with(qw_device *dev, uint64_t memory, int streamed_expected)
{
    blocks b;
    ck_assert_int_eq(open_blocks(&b, dev, memory), 0);
    ck_assert_uint_le(late_of(dev)->held - b.r.size, memory);
    ck_assert_uint_eq(qw_residency_bytes(b.res, 1) / GROUP_BYTES, (uint64_t)streamed_expected);
    for (int pass = 0; pass < 4; pass++) {
        for (int i = 0; i < GROUPS; i++)
            if (pass != 2 || i % 3 != 1) use_block(&b, i); /* not every walk takes every block */
        check_blocks(&b);
    }
    close_blocks(&b);
}

START_TEST(all_kept) { stream_with(open_late(1), 100 * GROUP_BYTES, 0); }
END_TEST

static qw_device *without_pack(uint64_t seed)
{
    qw_device *d = open_late(seed);
    d->packed = NULL;
    d->pack = NULL;
    return d;
}

START_TEST(streams_in_two_slots)
{
    qw_device *(*const open[])(uint64_t) = { open_late, without_pack };
    for (uint64_t seed = 1; seed <= 10; seed++)
        for (int i = 0; i < 2; i++) {
            stream_with(open[i](seed), GROUP_BYTES, GROUPS);
            stream_with(open[i](seed), 2 * GROUP_BYTES, GROUPS);
            stream_with(open[i](seed), 4 * GROUP_BYTES, GROUPS - 2);
            stream_with(open[i](seed), 6 * GROUP_BYTES, GROUPS - 4);
        }
}
END_TEST

/* A block's ops take 100 ticks and its copy 90: both run at once, also on a device whose copy
 * blocks its caller. */
START_TEST(overlap)
{
    blocks b;
    qw_device *dev = open_late(3);
    late_device *f = late_of(dev);
    ck_assert_int_eq(open_blocks(&b, dev, 2 * GROUP_BYTES), 0);
    ck_assert_uint_eq(qw_residency_bytes(b.res, 1), GROUPS * GROUP_BYTES);
    dev->sync(dev);
    f->blocks = _i;
    f->op_ticks = 50;
    f->kilobyte_ticks = 90 * 1024 / GROUP_BYTES;
    for (int pass = 0; pass < 10; pass++)
        for (int i = 0; i < GROUPS; i++) use_block(&b, i);
    dev->sync(dev);
    ck_assert_uint_eq(f->busy[QW_COMPUTE], 10 * GROUPS * 100);
    ck_assert_uint_ge(f->busy[QW_COPY], 10 * GROUPS * 90);
    ck_assert_msg(f->now < 10 * GROUPS * 120, "%llu ticks", (unsigned long long)f->now);
    check_blocks(&b);
    close_blocks(&b);
}
END_TEST

START_TEST(too_little_memory)
{
    blocks b;
    ck_assert_int_eq(open_blocks(&b, open_late(1), GROUP_BYTES / 4), QWEN_ENOMEM);
    close_blocks(&b);
}
END_TEST

/* A host device with a bound gives pages back; what it uses is the file's all the same. */
START_TEST(host_memory_bound)
{
    blocks b;
    ck_assert_int_eq(open_blocks(&b, open_device("ref"), GROUP_BYTES), 0);
    ck_assert_uint_eq(qw_residency_bytes(b.res, 0), GROUP_BYTES);
    for (int pass = 0; pass < 3; pass++) {
        for (int i = 0; i < GROUPS; i++) use_block(&b, i);
        check_blocks(&b);
    }
    close_blocks(&b);
}
END_TEST

/* A plan counts what the device that it stands for would take. */
START_TEST(planned)
{
    qw_device *like[] = { open_device("ref"), open_late(1), without_pack(1) };
    for (int i = 0; i < 3; i++)
        for (uint64_t memory = GROUP_BYTES; memory <= 100 * GROUP_BYTES; memory *= 10) {
            blocks b, p;
            qw_device *plan;
            ck_assert_int_eq(qw_plan_open(like[i], &plan), 0);
            ck_assert_int_eq(open_blocks(&p, plan, memory), 0);
            qw_device *dev = i == 0 ? open_device("ref") : i == 1 ? open_late(1) : without_pack(1);
            ck_assert_int_eq(open_blocks(&b, dev, memory), 0);
            for (int what = 0; what < 3; what++)
                ck_assert_uint_eq(qw_residency_bytes(p.res, what), qw_residency_bytes(b.res, what));
            close_blocks(&b);
            close_blocks(&p);
        }
    for (int i = 0; i < 3; i++) like[i]->close(like[i]);
}
END_TEST

/* A weight that LoRA replaced stays replaced while its group streams, and comes back afterwards. */
START_TEST(overlay_outlives_streaming)
{
    blocks b;
    double ones[ROWS * COLS], y[ROWS], sum = 0;
    ck_assert_int_eq(open_blocks(&b, open_late(7), 2 * GROUP_BYTES), 0);
    qw_weight_part *part = &b.w[3][0].part[0];
    const qw_weight_part before = *part;
    for (int i = 0; i < ROWS * COLS; i++) ones[i] = 1;
    for (int i = 0; i < COLS; i++) sum += ramp[i];
    part->w = qw_new2(&b.r, QW_F32, ROWS, COLS);
    qw_put(&b.r, part->w, ones);
    for (int i = 0; i < GROUPS; i++) use_block(&b, i);
    qw_get(&b.r, qw_rows(b.y, 6, 1), y);
    for (int i = 0; i < ROWS; i++) ck_assert_double_eq(y[i], sum);
    *part = before;
    for (int i = 0; i < GROUPS; i++) use_block(&b, i);
    check_blocks(&b);
    close_blocks(&b);
}
END_TEST

/* A device that dies while weights stream says so. */
START_TEST(failure)
{
    blocks b;
    qw_device *dev = open_late(7);
    late_of(dev)->fails_at = 3;
    ck_assert_int_eq(open_blocks(&b, dev, 2 * GROUP_BYTES), 0);
    for (int i = 0; i < 40 && !b.r.error.status; i++) use_block(&b, i % GROUPS);
    ck_assert_int_eq(b.r.error.status, QWEN_EDEVICE);
    ck_assert_msg(strstr(b.r.error.text, "has lost its place") != NULL, "%s", b.r.error.text);
    close_blocks(&b);
}
END_TEST

/* --- what is packed --------------------------------------------------------------------------- */

enum { CHANNELS = 6 };

/* A weight of three parts with biases, and a convolution. */
typedef struct layers {
    qw_device *ref;
    qw_store *store;
    qw_residency *res;
    qw_weight w;
    qw_conv conv;
} layers;

static void open_layers(layers *l, qw_device *dev)
{
    static const item t[] = {
        { "q.weight", "F32", 2, { 8, 12 } },
        { "k.weight", "F32", 2, { 4, 12 } },
        { "v.weight", "F32", 2, { 4, 12 } },
        { "q.bias", "F32", 1, { 8 } },
        { "k.bias", "F32", 1, { 4 } },
        { "v.bias", "F32", 1, { 4 } },
        { "conv.weight", "F32", 4, { CHANNELS, CHANNELS, 3, 3 } },
        { "conv.bias", "F32", 1, { CHANNELS } },
    };
    enum { N = sizeof t / sizeof t[0] };
    qw_error err = { 0 };
    blob b = safetensors_bytes("", t, N, 0);
    const size_t n = 16 * 12 + 16 + CHANNELS * CHANNELS * 9 + CHANNELS;
    for (size_t i = 0; i < n; i++) {
        const float f = (float)sin(1.3 * (double)i);
        memcpy(b.data + b.n - (n - i) * sizeof f, &f, sizeof f);
    }
    *l = (layers){ .ref = open_device("ref") };
    qw_store_new(&l->store, &err);
    good(qw_store_add(l->store, write_file("layers.safetensors", b.data, b.n), &err), &err);
    free(b.data);
    good(qw_residency_new(&l->res, dev, 0, &err), &err);
    qw_loader o = { .store = l->store, .res = l->res, .err = &err };
    o.group = qw_group_new(l->res, "layers");
    qw_load_part(&o, &l->w, 8, 12, 1, "q");
    qw_load_part(&o, &l->w, 4, 12, 1, "k");
    qw_load_part(&o, &l->w, 4, 12, 1, "v");
    qw_load_conv(&o, &l->conv, CHANNELS, CHANNELS, 3, "conv");
    good(qw_residency_commit(l->res, &err), &err);
}

static void close_layers(layers *l)
{
    qw_weight_free(&l->w);
    qw_residency_free(l->res);
    qw_store_free(l->store);
    l->ref->close(l->ref);
}

/* Both layers on a device; out [7 * 16 + 5 * 4 * CHANNELS] */
static void use_layers(const layers *l, qw_device *dev, double *out)
{
    qw_run r;
    double x[5 * 4 * CHANNELS];
    const qw_weight *w = &l->w;
    for (int i = 0; i < 5 * 4 * CHANNELS; i++) x[i] = cos(i);
    qw_run_init(&r, dev, l->ref);
    qw_run_reserve(&r, 1 << 16);
    qw_tensor a = qw_new2(&r, QW_F32, 7, 12), y = qw_new2(&r, QW_F32, 7, 16),
              m = qw_new3(&r, QW_F32, 5, 4, CHANNELS), z = qw_new3(&r, QW_F32, 5, 4, CHANNELS);
    qw_put(&r, a, x);
    qw_put(&r, m, x);
    if (qw_present(&w->joined))
        qw_gemm(&r, (qw_gemm_args){
                        .y = y, .x = a, .w = w->joined, .bias = w->joined_bias, .act = QW_SILU });
    for (int i = 0, first = 0; i < w->parts && !qw_present(&w->joined); i++) {
        const qw_weight_part *p = &w->part[i];
        qw_gemm(&r, (qw_gemm_args){ .y = qw_cols(y, first, p->w.dim[0]),
                                    .x = a,
                                    .w = p->w,
                                    .bias = p->bias,
                                    .act = QW_SILU });
        first += (int)p->w.dim[0];
    }
    qw_conv2d(&r, (qw_conv2d_args){ .y = z,
                                    .x = m,
                                    .w = l->conv.w,
                                    .bias = l->conv.bias,
                                    .stride = 1,
                                    .top = 1,
                                    .left = 1,
                                    .up = 1 });
    qw_get(&r, y, out);
    qw_get(&r, z, out + 7 * 16);
    ck_assert_msg(!r.error.status, "%s", r.error.text);
    qw_run_free(&r);
}

enum { RESULTS = 7 * 16 + 5 * 4 * CHANNELS };

static void same_layers(qw_device *dev, int packs)
{
    layers host, l;
    double want[RESULTS], got[RESULTS];
    qw_device *ref = open_device("ref");
    open_layers(&host, ref);
    use_layers(&host, ref, want);
    open_layers(&l, dev);
    use_layers(&l, dev, got);
    ck_assert_int_eq(memcmp(want, got, sizeof want), 0);
    ck_assert_int_eq(l.w.part[0].w.layout != 0, packs);
    ck_assert_int_eq(l.conv.w.layout != 0, packs);
    close_layers(&l);
    close_layers(&host);
    dev->close(dev);
    ref->close(ref);
}

/* Parts go to pack together and convolutions too; packed or joined, or in the reference because the
 * device declines, they give what plain ones give. */
START_TEST(packed)
{
    for (int joins = 0; joins < 2; joins++)
        for (int declines = 0; declines < 2; declines++) {
            qw_device *dev = open_late(5);
            late_of(dev)->joins = joins;
            if (declines) late_of(dev)->declines = 1u << QW_OP_gemm | 1u << QW_OP_conv2d;
            layers l;
            open_layers(&l, dev);
            ck_assert_uint_eq(late_of(dev)->packs, 2);
            ck_assert_uint_eq(late_of(dev)->joined, (uint64_t)joins);
            ck_assert_int_eq(qw_present(&l.w.joined), joins);
            close_layers(&l);
            same_layers(dev, 1);
        }
}
END_TEST

START_TEST(not_packed) { same_layers(without_pack(1), 0); }
END_TEST

/* A host device that packs convolutions alone, into memory that is counted. */
static size_t pack_bytes(qw_device *d, const qw_pack_request *q)
{
    (void)d;
    return q->w->rank == 4 ? qw_extent(q->w) : 0;
}

static int pack_copy(qw_device *d, int queue, qw_tensor *dst, void *memory,
                     const qw_pack_request *q)
{
    (void)d, (void)queue;
    memcpy(memory, q->w->data, qw_extent(q->w));
    dst->data = memory;
    dst->layout = 5;
    return QWEN_OK;
}

START_TEST(host_packs)
{
    layers l;
    double want[RESULTS], got[RESULTS];
    uint64_t kept[2];
    for (int i = 0; i < 2; i++) {
        qw_device *dev = open_device("ref");
        if (i) dev->packed = pack_bytes, dev->pack = pack_copy;
        open_layers(&l, dev);
        use_layers(&l, dev, i ? got : want);
        kept[i] = qw_residency_bytes(l.res, 0);
        ck_assert_int_eq(l.conv.w.layout, i ? 5 : 0);
        ck_assert_int_eq(l.w.part[2].w.layout, 0);
        ck_assert(qw_store_maps(l.store, l.w.part[2].w.data));
        close_layers(&l);
        dev->close(dev);
    }
    ck_assert_int_eq(memcmp(want, got, sizeof want), 0);
    /* the packed copy, a multiple of 256, in place of the plain one */
    const size_t plain = CHANNELS * CHANNELS * 9 * sizeof(float);
    ck_assert_uint_eq(kept[1], kept[0] - plain + (plain + 255) / 256 * 256);
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
    tcase_add_loop_test(c, overlap, 0, 2);
    tcase_add_test(c, planned);
    tcase_add_test(c, failure);
    tcase_add_test(c, packed);
    tcase_add_test(c, not_packed);
    tcase_add_test(c, host_packs);
    suite_add_tcase(s, c);
    return run_suite(s);
}
