/* check_recording.c - steps that a device records and replays give the same picture. */
#include "api.h"
#include "devices.h"
#include "late.h"
#include "pipeline/model.h"

enum { STEPS = 6 };

/* A model whose three devices are one that is late. */
static late_device *make_late(qwen *q)
{
    q->devices.main->close(q->devices.main);
    q->devices.main = q->devices.text = q->devices.vae = open_late(3);
    return late_of(q->devices.main);
}

static qwen_request six_steps(void)
{
    qwen_request r = request("a cat");
    r.steps = STEPS;
    r.guidance = 3;
    return r;
}

/* The model's picture on "ref", a device that does not record. */
static qwen_result plain(const char *model, const qwen_request *r)
{
    qwen *q = opened(model);
    const qwen_result out = drawn(q, r);
    qwen_close(q);
    return out;
}

/* On the late device, which `change` may change, the picture is the same to the bit, with so many
 * replays. */
static void same_with(const char *model, const qwen_request *r, void (*change)(late_device *f),
                      uint64_t replays)
{
    qwen_result want = plain(model, r);
    qwen *q = opened(model);
    late_device *f = make_late(q);
    if (change) change(f);
    for (int i = 1; i <= 2; i++) {
        qwen_result got = drawn(q, r);
        ck_assert(same_picture(&got.image[0], &want.image[0]));
        ck_assert_uint_eq(f->replays, (uint64_t)i * replays);
        qwen_result_free(&got);
    }
    ck_assert_int_eq(f->recording, 0);
    qwen_result_free(&want);
    qwen_close(q);
}

/* The first step is computed, the second recorded, that and all others are replayed. */
START_TEST(replayed)
{
    qwen_request r = six_steps();
    same_with(tiny, &r, NULL, STEPS - 1);
    r.guidance = 1;
    r.steps = 2;
    same_with(tiny, &r, NULL, 1);
    r.steps = 1;
    same_with(tiny, &r, NULL, 0);
}
END_TEST

/* Two velocities a step, and sigmas that are in no table. */
START_TEST(samplers)
{
    qwen_request r = six_steps();
    r.sampler = "heun"; /* the last step has one velocity */
    same_with(tiny, &r, NULL, 2 * STEPS - 1 - 1);
    r.sampler = "dpm_2";
    same_with(tiny, &r, NULL, 2 * STEPS - 1 - 1);
}
END_TEST

/* References in the sequence, which are modulated at t = 0. */
START_TEST(references)
{
    static uint8_t pixels[32 * 32 * 3];
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * 31 >> 3);
    const qwen_array in = { .data = pixels, .dtype = QWEN_U8, .rank = 3, .dim = { 32, 32, 3 } };
    char model[500];
    snprintf(model, sizeof model, "%s", testdata("tiny-edit-2511"));
    qwen_request r = six_steps();
    r.input = &in;
    r.inputs = 1;
    r.reference_area = 32 * 48;
    r.condition_area = 56 * 56;
    same_with(model, &r, NULL, STEPS - 1);
}
END_TEST

/* Steps with the ControlNet and steps without have a recording each. */
START_TEST(control)
{
    static uint8_t pixels[32 * 48 * 3];
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * 31 >> 3);
    const qwen_array in = { .data = pixels, .dtype = QWEN_U8, .rank = 3, .dim = { 48, 32, 3 } };
    char model[500];
    snprintf(model, sizeof model, "%s", testdata("tiny-controlnet"));
    qwen_request r = six_steps();
    r.control = &in;
    same_with(model, &r, NULL, STEPS - 1);
    r.control_end = 0.5;
    same_with(model, &r, NULL, 2 + 2);
    r.control_strength = 0.7;
    r.control_end = 0.2; /* one step, which is never repeated */
    same_with(model, &r, NULL, 0 + 4);
}
END_TEST

/* One step more is one more put of the latents and one of each network's modulation, and one
 * more get of each pass, whether it is replayed or not. */
static void traffic(const char *model, qwen_request r, int recorded, uint64_t puts)
{
    uint64_t seen[2][2];
    for (int more = 0; more < 2; more++) {
        qwen *q = opened(model);
        late_device *f = make_late(q);
        if (!recorded) f->d.record = NULL;
        r.steps = STEPS + more;
        qwen_result out = drawn(q, &r);
        seen[more][0] = f->puts;
        seen[more][1] = f->gets;
        qwen_result_free(&out);
        qwen_close(q);
    }
    ck_assert_uint_eq(seen[1][0] - seen[0][0], puts);
    ck_assert_uint_eq(seen[1][1] - seen[0][1], 2);
}

START_TEST(little_traffic)
{
    static uint8_t pixels[32 * 48 * 3];
    const qwen_array in = { .data = pixels, .dtype = QWEN_U8, .rank = 3, .dim = { 48, 32, 3 } };
    char model[500];
    qwen_request r = six_steps();
    traffic(tiny, r, _i, 2);
    snprintf(model, sizeof model, "%s", testdata("tiny-controlnet"));
    r.control = &in;
    traffic(model, r, _i, 3);
}
END_TEST

/* --- when there is no recording --------------------------------------------------------------- */

static void decline_one(late_device *f) { f->declines = 1U << QW_OP_norm_rope; }
static void no_record(late_device *f) { f->d.record = NULL; }
static void no_replay(late_device *f) { f->d.replay = NULL; }

static int (*late_record)(qw_device *, int, uint64_t *), asked[3];

static int not_begun(qw_device *d, int what, uint64_t *id)
{
    (void)d;
    (void)id;
    asked[what]++;
    return QW_DECLINE;
}

static int not_ended(qw_device *d, int what, uint64_t *id)
{
    asked[what]++;
    if (what != QW_RECORD_END) return late_record(d, what, id);
    const int dropped = late_record(d, QW_RECORD_DROP, id);
    return dropped ? dropped : QW_DECLINE;
}

static int not_replayed(qw_device *d, uint64_t id)
{
    (void)d;
    (void)id;
    asked[0]++;
    return QW_DECLINE;
}

static int (*late_rope)(qw_device *, const qw_norm_rope_args *);

static int not_recorded(qw_device *d, const qw_norm_rope_args *a)
{
    return late_of(d)->recording ? QW_DECLINE : late_rope(d, a);
}

static void hold(late_device *f)
{
    memset(asked, 0, sizeof asked);
    late_record = f->d.record;
    late_rope = f->d.op.norm_rope;
}

static void refuse_to_begin(late_device *f)
{
    hold(f);
    f->d.record = not_begun;
}

static void refuse_to_end(late_device *f)
{
    hold(f);
    f->d.record = not_ended;
}

static void refuse_to_replay(late_device *f)
{
    hold(f);
    f->d.replay = not_replayed;
}

static void refuse_an_op(late_device *f)
{
    hold(f);
    f->d.op.norm_rope = not_recorded;
}

static void count_drops(late_device *f)
{
    refuse_an_op(f);
    f->d.record = not_ended;
}

START_TEST(declined)
{
    const qwen_request r = six_steps();
    same_with(tiny, &r, decline_one, 0);
    same_with(tiny, &r, no_record, 0);
    same_with(tiny, &r, no_replay, 0);
    same_with(tiny, &r, refuse_to_begin, 0);
    ck_assert_int_eq(asked[QW_RECORD_BEGIN], 2 * (STEPS - 1)); /* declined now, tried again */
    same_with(tiny, &r, refuse_to_end, 0);
    ck_assert_int_eq(asked[QW_RECORD_END], 2); /* once a picture */
    same_with(tiny, &r, refuse_to_replay, 0);
    ck_assert_int_eq(asked[0], 2);
    same_with(tiny, &r, refuse_an_op, 0);
    same_with(tiny, &r, count_drops, 0);
    ck_assert_int_eq(asked[QW_RECORD_DROP], 2);
    ck_assert_int_eq(asked[QW_RECORD_END], 0);
}
END_TEST

/* Weights that stream are copied between the ops. */
START_TEST(streamed)
{
    const qwen_request r = six_steps();
    qwen_result want = plain(tiny, &r);
    qwen *q;
    qwen_options o = options(tiny);
    o.memory = 400000;
    qwen_open(&q, &o);
    late_device *f = make_late(q);
    qwen_result got = drawn(q, &r);
    ck_assert(same_picture(&got.image[0], &want.image[0]));
    ck_assert_uint_gt(qw_residency_bytes(q->nets.weights[QW_DIT], 1), 0);
    ck_assert_uint_eq(f->replays, 0);
    qwen_result_free(&got);
    qwen_result_free(&want);
    qwen_close(q);
}
END_TEST

static void count_tap(void *user, const char *name, const qwen_array *a)
{
    (void)a;
    *(int *)user += !strncmp(name, "step0.", 6);
}

/* The first step is looked into, so that the second is the first that repeats. */
START_TEST(tapped)
{
    qwen_request r = six_steps();
    int taps = 0;
    r.tap = count_tap;
    r.user = &taps;
    same_with(tiny, &r, NULL, STEPS - 2);
    ck_assert_int_gt(taps, 20);
}
END_TEST

/* --- cancelled, failed ------------------------------------------------------------------------ */

static int stop_at(void *user, const qwen_progress *p)
{
    return !strcmp(p->phase, "denoise") && p->step >= *(int *)user;
}

START_TEST(cancelled)
{
    qwen_request r = six_steps();
    qwen_result want = plain(tiny, &r), got = { .size = sizeof got };
    qwen *q = opened(tiny);
    late_device *f = make_late(q);
    int step;
    r.progress = stop_at;
    r.user = &step;
    for (step = 0; step < STEPS; step++) {
        ck_assert_int_eq(qwen_generate(q, &r, &got), QWEN_ECANCELLED);
        ck_assert_int_eq(f->recording, 0);
        qwen_result_free(&got);
    }
    r.progress = NULL;
    got = drawn(q, &r);
    ck_assert(same_picture(&got.image[0], &want.image[0]));
    qwen_result_free(&got);
    qwen_result_free(&want);
    qwen_close(q);
}
END_TEST

START_TEST(failed)
{
    const qwen_request r = six_steps();
    qwen_result got = { .size = sizeof got };
    qwen *q = opened(tiny);
    late_device *f = make_late(q);
    f->fails_at = (uint64_t)_i * 100;
    ck_assert_int_eq(qwen_generate(q, &r, &got), QWEN_EDEVICE);
    ck_assert_msg(strstr(qwen_error(q), f->d.failure(&f->d)) != NULL, "%s", qwen_error(q));
    qwen_result_free(&got);
    qwen_close(q);
}
END_TEST

int main(void)
{
    find_models();
    Suite *s = suite_create("recording");
    TCase *c = tcase_create("recording");
    tcase_set_timeout(c, 300);
    tcase_add_test(c, replayed);
    tcase_add_test(c, samplers);
    tcase_add_test(c, references);
    tcase_add_test(c, control);
    tcase_add_loop_test(c, little_traffic, 0, 2);
    tcase_add_test(c, declined);
    tcase_add_test(c, streamed);
    tcase_add_test(c, tapped);
    tcase_add_test(c, cancelled);
    tcase_add_loop_test(c, failed, 1, 8);
    suite_add_tcase(s, c);
    return run_suite(s);
}
