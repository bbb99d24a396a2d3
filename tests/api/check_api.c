/* check_api.c - the public header's promises: ownership, errors, sizes of structs, cancelling,
 * threads, files. */
#include "api.h"
#include <pthread.h>

/* --- structs and statuses -------------------------------------------------------------------- */

START_TEST(names)
{
    ck_assert_ptr_nonnull(qwen_version());
    for (int s = -20; s <= 20; s++) ck_assert_ptr_nonnull(qwen_strerror(s));
    ck_assert_str_ne(qwen_strerror(QWEN_EARG), qwen_strerror(QWEN_EIO));
    ck_assert_str_eq(qwen_error(NULL), "no memory");
    int w = 0, h = 0;
    ck_assert_int_eq(qwen_aspect("16:9", &w, &h), QWEN_OK);
    ck_assert_int_eq(w, 1664);
    ck_assert_int_eq(h, 928);
    ck_assert_int_eq(qwen_aspect("5:4", &w, &h), QWEN_EARG);
    qwen_array_free(NULL);
    qwen_result_free(NULL);
    qwen_close(NULL);
    qwen_file_close(NULL);
    qwen_tokenizer_close(NULL);
}
END_TEST

START_TEST(struct_sizes)
{
    struct {
        qwen_options o;
        char more[64];
    } larger = { .o = options(tiny) };
    qwen *q;
    qwen_options o = options(tiny);
    ck_assert_int_eq(qwen_open(NULL, &o), QWEN_EARG);
    ck_assert_int_eq(qwen_open(&q, NULL), QWEN_EARG);
    qwen_close(q);
    o.size = 0;
    ck_assert_int_eq(qwen_open(&q, &o), QWEN_EARG);
    ck_assert_ptr_nonnull(strstr(qwen_error(q), "size"));
    qwen_close(q);
    larger.o.size = sizeof larger;
    ck_assert_int_eq(qwen_open(&q, &larger.o), QWEN_OK);
    qwen_close(q);
    larger.more[50] = 1;
    ck_assert_int_eq(qwen_open(&q, &larger.o), QWEN_EUNSUPPORTED);
    qwen_close(q);
    o = options(tiny);
    o.size = offsetof(qwen_options, text_device); /* an older caller */
    ck_assert_int_eq(qwen_open(&q, &o), QWEN_OK);
    qwen_request r = request("a cat");
    r.size = offsetof(qwen_request, chat_template);
    qwen_result res = { .size = offsetof(qwen_result, variant) };
    ck_assert_int_eq(qwen_generate(q, &r, &res), QWEN_OK);
    ck_assert_int_eq(res.n, 1);
    ck_assert_ptr_null(res.variant);
    qwen_result_free(&res);
    ck_assert_ptr_null(res.image);
    qwen_result_free(&res);
    r.size = 0;
    res.size = sizeof res;
    ck_assert_int_eq(qwen_generate(q, &r, &res), QWEN_EARG);
    res.size = 0;
    r.size = sizeof r;
    ck_assert_int_eq(qwen_generate(q, &r, &res), QWEN_EARG);
    ck_assert_int_eq(qwen_generate(q, NULL, &res), QWEN_EARG);
    ck_assert_int_eq(qwen_generate(q, &r, NULL), QWEN_EARG);
    ck_assert_int_eq(qwen_generate(NULL, &r, &res), QWEN_EARG);
    qwen_close(q);
}
END_TEST

static void open_fails(const char *rel, int status, const char *word)
{
    qwen *q;
    char path[600];
    snprintf(path, sizeof path, "%s", testdata(rel));
    const qwen_options o = options(path);
    const int got = qwen_open(&q, &o);
    ck_assert_ptr_nonnull(q);
    ck_assert_msg(got == status, "%s: %d, not %d: %s", rel, got, status, qwen_error(q));
    ck_assert_msg(strstr(qwen_error(q), word) != NULL, "%s: \"%s\" lacks \"%s\"", rel,
                  qwen_error(q), word);
    qwen_request r = request("a cat");
    qwen_result res = { .size = sizeof res };
    ck_assert_int_eq(qwen_generate(q, &r, &res), status); /* sets the sentence again */
    qwen_close(q);
}

START_TEST(open_errors)
{
    open_fails("no-such-model", QWEN_EIO, "no-such-model");
    open_fails("formats/bad/model_index_unknown_class", QWEN_EUNSUPPORTED, "_class_name");
    open_fails("formats/bad/model_index_number", QWEN_EFORMAT, "_class_name");
    open_fails("formats/bad/model_index_array", QWEN_EFORMAT, "_class_name");
    open_fails("formats/bad/model_index_component_number", QWEN_EFORMAT, "transformer");
    open_fails("formats/bad/json_truncated", QWEN_EFORMAT, "JSON");
    open_fails("formats/bad/empty.safetensors", QWEN_EFORMAT, "empty.safetensors");
    qwen *q;
    qwen_options o = options(tiny);
    o.variant = "landscape";
    ck_assert_int_eq(qwen_open(&q, &o), QWEN_EARG);
    qwen_close(q);
    o = options(tiny);
    o.device = "abacus";
    ck_assert_int_eq(qwen_open(&q, &o), QWEN_EARG);
    qwen_close(q);
    o = options(tiny);
    o.like = "other";
    ck_assert_int_eq(qwen_open(&q, &o), QWEN_EARG);
    qwen_close(q);
    o = options(NULL);
    ck_assert_int_eq(qwen_open(&q, &o), QWEN_EARG);
    qwen_close(q);
}
END_TEST

START_TEST(info)
{
    qwen *q = opened(tiny);
    qwen_model_info i = { .size = sizeof i };
    ck_assert_int_eq(qwen_info(q, &i), QWEN_OK);
    ck_assert_str_eq(i.variant, "t2i");
    ck_assert_str_eq(i.pipeline, "QwenImagePipeline");
    ck_assert_str_eq(i.device, "ref");
    ck_assert_str_eq(i.negative, " ");
    ck_assert_int_eq(i.width, 1024);
    ck_assert_int_eq(i.steps, 50);
    ck_assert(i.guidance == 4);
    ck_assert_int_eq(i.text_width, 32);
    ck_assert_int_eq(qwen_info(q, NULL), QWEN_EARG);
    qwen_close(q);
}
END_TEST

/* --- requests -------------------------------------------------------------------------------- */

START_TEST(bad_requests)
{
    qwen *q = opened(tiny);
    qwen_request r = request("a cat");
    r.width = 100;
    refused(q, &r, QWEN_EARG, "96");
    ck_assert_ptr_nonnull(strstr(qwen_error(q), "112"));
    r.width = -16;
    refused(q, &r, QWEN_EARG, "width");
    r = request(NULL);
    refused(q, &r, QWEN_EARG, "prompt");
    r = request("caf\xe9!");
    refused(q, &r, QWEN_EARG, "byte 3");
    r = request("a cat");
    r.steps = -1;
    refused(q, &r, QWEN_EARG, "steps");
    r = request("a cat");
    r.width = r.height = 1 << 24;
    refused(q, &r, QWEN_ENOMEM, "GB");
    r = request("a cat");
    r.width = r.height = 2147483632;
    refused(q, &r, QWEN_ENOMEM, "GB");
    r = request("a cat");
    r.sampler = "magic";
    refused(q, &r, QWEN_EARG, "magic");
    r = request("a cat");
    r.schedule = "magic";
    refused(q, &r, QWEN_EARG, "magic");
    r = request("a cat");
    r.rng = "magic";
    refused(q, &r, QWEN_EARG, "magic");
    r = request("a cat");
    r.chat_template = "no place for words";
    refused(q, &r, QWEN_EARG, "{}");
    r = request("a cat");
    r.strength = 0.5;
    refused(q, &r, QWEN_EARG, "strength");
    r = request("a cat");
    const double sigmas[] = { 1, 0.5, 0.25 };
    r.sigmas = sigmas;
    r.n_sigmas = 3;
    refused(q, &r, QWEN_EARG, "steps");
    r = request("a cat");
    const qwen_array wrong = { .dtype = QWEN_F32, .rank = 1, .dim = { 3 }, .data = &r };
    r.noise = &wrong;
    refused(q, &r, QWEN_EARG, "noise");
    r = request("a cat"); /* the handle stays usable */
    qwen_result res = drawn(q, &r);
    qwen_result_free(&res);
    qwen_close(q);
    q = opened(edit);
    r = request("make it red");
    refused(q, &r, QWEN_EARG, "picture");
    qwen_close(q);
}
END_TEST

typedef struct stop {
    int calls, at;
    char phase[32];
    int last_step;
} stop;

static int stopping(void *user, const qwen_progress *p)
{
    stop *s = user;
    ck_assert_uint_eq(p->size, sizeof *p);
    ck_assert_int_le(p->step, p->steps);
    if (strcmp(s->phase, p->phase)) s->last_step = -1;
    ck_assert_int_ge(p->step, s->last_step);
    s->last_step = p->step;
    snprintf(s->phase, sizeof s->phase, "%s", p->phase);
    return ++s->calls == s->at;
}

START_TEST(cancelling)
{
    qwen *q = opened(tiny);
    stop s = { 0 };
    qwen_request r = request("a cat");
    r.guidance = 2;
    r.progress = stopping;
    r.user = &s;
    qwen_result want = drawn(q, &r);
    const int calls = s.calls;
    ck_assert_int_gt(calls, 8);
    for (int at = 1; at <= calls; at += at < 4 ? 1 : calls / 7) {
        s = (stop){ .at = at };
        qwen_result res = { .size = sizeof res };
        ck_assert_int_eq(qwen_generate(q, &r, &res), at <= s.calls ? QWEN_ECANCELLED : QWEN_OK);
        if (s.calls == at) ck_assert_ptr_null(res.image);
        qwen_result_free(&res);
    }
    s = (stop){ 0 };
    qwen_result again = drawn(q, &r);
    ck_assert(same_picture(&want.image[0], &again.image[0]));
    qwen_result_free(&want);
    qwen_result_free(&again);
    qwen_close(q);
}
END_TEST

START_TEST(several_pictures)
{
    qwen *q = opened(tiny), *fresh = opened(tiny);
    qwen_request r = request("a cat");
    r.guidance = 3;
    qwen_result first = drawn(q, &r);
    r.seed = 8;
    qwen_result second = drawn(q, &r), alone = drawn(fresh, &r); /* the embedding is cached in q */
    ck_assert(same_picture(&second.image[0], &alone.image[0]));
    ck_assert(!same_picture(&first.image[0], &second.image[0]));
    ck_assert_uint_eq(second.seed, 8);
    ck_assert_int_eq(second.width, 32);
    ck_assert_int_eq(second.height, 48);
    ck_assert_int_eq(second.steps, 2);
    ck_assert_str_eq(second.variant, "t2i");
    r.prompt = "a dog";
    qwen_result third = drawn(q, &r);
    ck_assert(!same_picture(&third.image[0], &second.image[0]));
    qwen_result_free(&first);
    qwen_result_free(&second);
    qwen_result_free(&third);
    qwen_result_free(&alone);
    qwen_close(q);
    qwen_close(fresh);
}
END_TEST

typedef struct job {
    const char *prompt;
    qwen_result res;
} job;

static void *draw_thread(void *arg)
{
    job *j = arg;
    qwen *q = NULL;
    const qwen_options o = options(tiny);
    const qwen_request r = request(j->prompt);
    j->res = (qwen_result){ .size = sizeof j->res };
    if (!qwen_open(&q, &o)) qwen_generate(q, &r, &j->res);
    qwen_close(q);
    return NULL;
}

START_TEST(two_threads)
{
    job a = { .prompt = "a cat" }, b = { .prompt = "a dog" }, c = a;
    pthread_t ta, tb;
    ck_assert_int_eq(pthread_create(&ta, NULL, draw_thread, &a), 0);
    ck_assert_int_eq(pthread_create(&tb, NULL, draw_thread, &b), 0);
    pthread_join(ta, NULL);
    pthread_join(tb, NULL);
    draw_thread(&c);
    ck_assert_int_eq(a.res.n, 1);
    ck_assert_int_eq(b.res.n, 1);
    ck_assert(same_picture(&a.res.image[0], &c.res.image[0]));
    ck_assert(!same_picture(&a.res.image[0], &b.res.image[0]));
    qwen_result_free(&a.res);
    qwen_result_free(&b.res);
    qwen_result_free(&c.res);
}
END_TEST

/* --- files ----------------------------------------------------------------------------------- */

static void collect(void *user, const char *key, const char *value)
{
    char *all = user;
    const size_t at = strlen(all);
    snprintf(all + at, 8000 - at, "%s: %s\n", key, value);
}

START_TEST(inspecting)
{
    char all[8000] = "", error[500] = "", path[600];
    const int status = qwen_inspect(tiny, collect, all, error, sizeof error);
    ck_assert_msg(!status, "%d %s\n%s", status, error, all);
    ck_assert_ptr_nonnull(strstr(all, "variant: t2i"));
    ck_assert_ptr_nonnull(strstr(all, "bf16"));
    ck_assert_ptr_nonnull(strstr(all, "parameters"));
    all[0] = 0;
    snprintf(path, sizeof path, "%s",
             testdata("formats/bad/transformer_missing_tensors.safetensors"));
    ck_assert_int_eq(qwen_inspect(path, collect, all, error, sizeof error), QWEN_EMODEL);
    ck_assert_str_ne(error, "");
    ck_assert_ptr_nonnull(strstr(all, "kind: "));
    ck_assert_int_eq(qwen_inspect("/no/such/file", collect, all, error, sizeof error), QWEN_EIO);
    ck_assert_int_eq(qwen_inspect(NULL, NULL, NULL, NULL, 0), QWEN_EARG);
}
END_TEST

START_TEST(file_reading)
{
    char path[600];
    qwen_file *f;
    qwen_array a;
    snprintf(path, sizeof path, "%s", testdata("pipelines/t2i_64.safetensors"));
    ck_assert_int_eq(qwen_file_open(&f, path), QWEN_OK);
    ck_assert_int_gt(qwen_file_count(f), 30);
    ck_assert_int_eq(qwen_file_read(f, "sigmas", &a), QWEN_OK);
    ck_assert_int_eq(a.dim[0], 5);
    ck_assert(((float *)a.data)[0] == 1 && ((float *)a.data)[4] == 0);
    qwen_array_free(&a);
    ck_assert_int_eq(qwen_file_read(f, "nothing", &a), QWEN_EMODEL);
    ck_assert_ptr_nonnull(strstr(qwen_file_error(f), "nothing"));
    qwen_file_close(f);
    ck_assert_int_eq(qwen_file_open(&f, "/no/such/file"), QWEN_EIO);
    ck_assert_str_ne(qwen_file_error(f), "");
    qwen_file_close(f);
    qwen_tokenizer *t;
    snprintf(path, sizeof path, "%s", testdata("tiny/tokenizer"));
    ck_assert_int_eq(qwen_tokenizer_open(&t, path), QWEN_OK);
    ck_assert_int_eq(qwen_tokenizer_ids(t, "a\0b", 3, &a), QWEN_OK);
    ck_assert_int_ge(a.dim[0], 2);
    qwen_array_free(&a);
    ck_assert_int_eq(qwen_tokenizer_ids(t, "\xff", 1, &a), QWEN_EARG);
    qwen_tokenizer_close(t);
    ck_assert_int_eq(qwen_tokenizer_open(&t, "/no/such"), QWEN_EIO);
    qwen_tokenizer_close(t);
}
END_TEST

int main(void)
{
    find_models();
    Suite *s = suite_create("api");
    TCase *c = tcase_create("api");
    tcase_set_timeout(c, 300);
    tcase_add_test(c, names);
    tcase_add_test(c, struct_sizes);
    tcase_add_test(c, open_errors);
    tcase_add_test(c, info);
    tcase_add_test(c, bad_requests);
    tcase_add_test(c, cancelling);
    tcase_add_test(c, several_pictures);
    tcase_add_test(c, two_threads);
    tcase_add_test(c, inspecting);
    tcase_add_test(c, file_reading);
    suite_add_tcase(s, c);
    return run_suite(s);
}
