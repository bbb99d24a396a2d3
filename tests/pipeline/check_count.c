/* check_count.c - counting a request opens no file and changes no net.
 *
 * Its numbers do not depend on what is loaded. */
#include "api.h"
#include "files.h"
#include "late.h"
#include "pipeline/model.h"
#include <stdlib.h>
#include <unistd.h>

/* --- reports ---------------------------------------------------------------------------------- */

typedef struct listing { /* of one qwen_plan */
    qwen_plan_report numbers;
    char *text; /* its lines with their counts */
    size_t size;
} listing;

static void add_line(void *user, const char *line, int64_t count)
{
    listing *l = user;
    const size_t more = strlen(line) + 32;
    l->text = realloc(l->text, l->size + more);
    ck_assert_ptr_nonnull(l->text);
    l->size += (size_t)snprintf(l->text + l->size, more, "%lld %s\n", (long long)count, line);
}

static listing counted(qwen *q, const qwen_request *r)
{
    listing l = { .text = NULL };
    qwen_plan_report p = { .size = sizeof p, .ops = add_line, .user = &l };
    ck_assert_msg(!qwen_plan(q, r, &p), "%s", qwen_error(q));
    ck_assert_uint_gt(l.size, 0);
    p.user = NULL;
    l.numbers = p;
    return l;
}

static void same_listing(listing *a, listing *b)
{
    ck_assert_str_eq(a->text, b->text);
    ck_assert_int_eq(a->numbers.text_tokens, b->numbers.text_tokens);
    ck_assert_uint_eq(a->numbers.resident, b->numbers.resident);
    ck_assert_uint_eq(a->numbers.streamed, b->numbers.streamed);
    ck_assert_uint_eq(a->numbers.copies, b->numbers.copies);
    ck_assert_uint_eq(a->numbers.scratch, b->numbers.scratch);
    ck_assert_uint_eq(a->numbers.weights_text, b->numbers.weights_text);
    ck_assert_uint_eq(a->numbers.weights_vision, b->numbers.weights_vision);
    ck_assert_uint_eq(a->numbers.weights_vae, b->numbers.weights_vae);
    ck_assert_uint_eq(a->numbers.weights_transformer, b->numbers.weights_transformer);
    ck_assert(a->numbers.flops_text + a->numbers.flops_vision + a->numbers.flops_encode
                  + a->numbers.flops_denoise + a->numbers.flops_decode
              == b->numbers.flops_text + b->numbers.flops_vision + b->numbers.flops_encode
                     + b->numbers.flops_denoise + b->numbers.flops_decode);
    free(a->text);
    free(b->text);
}

/* --- files ------------------------------------------------------------------------------------ */

/* A model that is opened by a name which is gone afterwards, the tokenizer's included. */
static qwen *opened_and_gone(const char *model)
{
    qwen_array ids = { 0 };
    char *real = realpath(model, NULL);
    ck_assert(real && !symlink(real, made("model")));
    free(real);
    qwen *q = opened(made("model"));
    ck_assert_int_eq(qwen_tokenize(q, "a", 1, &ids), QWEN_OK);
    qwen_array_free(&ids);
    ck_assert_int_eq(unlink(made("model")), 0);
    return q;
}

START_TEST(no_file_is_opened)
{
    make_folder();
    qwen *q = opened_and_gone(tiny), *there = opened(tiny);
    qwen_request r = request("a cat");
    r.guidance = 3;
    listing a = counted(q, &r), b = counted(there, &r);
    same_listing(&a, &b);
    ck_assert_uint_eq(q->nets.loaded, 0);
    qwen_close(q);
    qwen_close(there);
    q = opened_and_gone(edit);
    there = opened(edit);
    qwen_array picture = gradient(40, 30, 3);
    r.input = &picture;
    r.inputs = 1;
    r.reference_area = 56 * 56;
    a = counted(q, &r);
    b = counted(there, &r);
    ck_assert(a.numbers.flops_vision > 0 && a.numbers.flops_encode > 0);
    same_listing(&a, &b);
    qwen_array_free(&picture);
    qwen_close(q);
    qwen_close(there);
    remove_folder();
}
END_TEST

static int at_once(void *user, const qwen_progress *p)
{
    (void)p;
    return ++*(int *)user;
}

/* A sequence beyond 16384 tokens is counted before it is drawn. */
START_TEST(long_sequence)
{
    make_folder();
    qwen *q = opened_and_gone(tiny);
    int calls = 0;
    qwen_request r = request("a cat");
    qwen_result out = { .size = sizeof out };
    r.width = 2064;
    r.height = 2064;
    r.progress = at_once;
    r.user = &calls;
    ck_assert_int_eq(qwen_generate(q, &r, &out), QWEN_ECANCELLED);
    ck_assert_int_eq(calls, 1);
    qwen_close(q);
    remove_folder();
}
END_TEST

/* --- nets ------------------------------------------------------------------------------------- */

/* The nets that a model has loaded, without the overlay's inside. */
static void same_nets(const qw_nets *a, const qw_nets *b)
{
    ck_assert_ptr_eq(a->text, b->text);
    ck_assert_ptr_eq(a->vision, b->vision);
    ck_assert_ptr_eq(a->dit, b->dit);
    ck_assert_ptr_eq(a->vae, b->vae);
    ck_assert_ptr_eq(a->overlay, b->overlay);
    for (int i = 0; i < QW_NETS; i++) ck_assert_ptr_eq(a->weights[i], b->weights[i]);
    ck_assert_int_eq(a->vae_parts, b->vae_parts);
    ck_assert_uint_eq(a->loaded, b->loaded);
    ck_assert_uint_eq(b->borrowed, 0);
}

/* Before anything is loaded and after: the same numbers; and the nets are those of before. */
static void counted_around(const char *model, const qwen_request *r, uint64_t memory)
{
    qwen *q;
    qwen_options o = options(model);
    o.memory = memory;
    ck_assert_int_eq(qwen_open(&q, &o), QWEN_OK);
    listing before = counted(q, r);
    ck_assert_uint_eq(q->nets.loaded, 0);
    qwen_result one = { .size = sizeof one }, two = one;
    ck_assert_int_eq(qwen_generate(q, r, &one), QWEN_OK);
    const qw_nets nets = q->nets;
    listing after = counted(q, r);
    same_nets(&nets, &q->nets);
    same_listing(&before, &after);
    ck_assert_int_eq(qwen_generate(q, r, &two), QWEN_OK);
    ck_assert(same_picture(&one.image[0], &two.image[0]));
    qwen_result_free(&one);
    qwen_result_free(&two);
    qwen_close(q);
}

START_TEST(loaded_nets_stay)
{
    qwen_request r = request("a cat");
    counted_around(tiny, &r, 0);
    counted_around(tiny, &r, 400000);
    qwen_array picture = gradient(40, 30, 3);
    r.input = &picture;
    r.inputs = 1;
    r.reference_area = 56 * 56;
    counted_around(edit, &r, 0);
    r.strength = 0.5;
    counted_around(tiny, &r, 0);
    qwen_array_free(&picture);
}
END_TEST

/* The other half of the VAE is counted beside the one that is loaded, and the other way round. */
START_TEST(halves_of_the_vae)
{
    qwen *q = opened(tiny), *fresh = opened(tiny);
    qwen_array picture = gradient(32, 48, 3);
    qwen_request r = request("a cat"), s = r;
    s.input = &picture;
    s.inputs = 1;
    s.strength = 0.5;
    qwen_result out = drawn(q, &r);
    qwen_result_free(&out);
    ck_assert_int_eq(q->nets.vae_parts, QW_VAE_DECODER);
    qw_nets nets = q->nets;
    listing a = counted(q, &s), b = counted(fresh, &s);
    same_nets(&nets, &q->nets);
    same_listing(&a, &b);
    out = drawn(q, &s);
    qwen_result_free(&out);
    ck_assert_int_eq(q->nets.vae_parts, QW_VAE_DECODER | QW_VAE_ENCODER);
    nets = q->nets;
    a = counted(q, &r);
    b = counted(fresh, &r);
    same_nets(&nets, &q->nets);
    same_listing(&a, &b);
    qwen_array_free(&picture);
    qwen_close(q);
    qwen_close(fresh);
}
END_TEST

/* A LoRA file of rank 2 for one layer of the tiny transformer. */
static const char *write_lora(const qwen *q)
{
    static float a[2 * 4096], b[2 * 4096];
    const int64_t n = q->config.dit.width;
    sheaf s = { 0 };
    ck_assert_int_le(n, 4096);
    for (int64_t i = 0; i < 2 * n; i++) {
        a[i] = (float)(i % 13 - 6) / 16;
        b[i] = (float)(i % 11 - 5) / 16;
    }
    const size_t bytes = (size_t)(2 * n) * sizeof *a;
    sheaf_add(&s, "transformer_blocks.0.attn.to_q.lora_A.weight",
              (qw_entry){ .data = a, .bytes = bytes, .dtype = QW_F32, .rank = 2, .dim = { 2, n } });
    sheaf_add(&s, "transformer_blocks.0.attn.to_q.lora_B.weight",
              (qw_entry){ .data = b, .bytes = bytes, .dtype = QW_F32, .rank = 2, .dim = { n, 2 } });
    return sheaf_write(&s, "lora.safetensors", 0);
}

/* Its factors are counted as they lie over the transformer; the file may be gone. */
START_TEST(lora)
{
    make_folder();
    qwen *q = opened(tiny);
    qwen_request r = request("a cat");
    listing without = counted(q, &r);
    const char *path = write_lora(q);
    ck_assert_msg(!qwen_lora(q, path, 1, 0), "%s", qwen_error(q));
    ck_assert_int_eq(unlink(path), 0);
    qwen_result one = drawn(q, &r);
    const qw_nets nets = q->nets;
    listing with = counted(q, &r);
    same_nets(&nets, &q->nets);
    ck_assert(with.numbers.flops_denoise > without.numbers.flops_denoise);
    ck_assert_uint_eq(with.numbers.copies,
                      without.numbers.copies + 4 * (uint64_t)q->config.dit.width * sizeof(float));
    qwen_result two = drawn(q, &r);
    ck_assert(same_picture(&one.image[0], &two.image[0]));
    qwen_result_free(&one);
    qwen_result_free(&two);
    qwen_lora_clear(q);
    listing again = counted(q, &r);
    same_listing(&without, &again);
    free(with.text);
    qwen_close(q);
    remove_folder();
}
END_TEST

/* On a device of its own memory, which the text encoder has to leave for the transformer. */
START_TEST(far_device)
{
    qwen *q;
    qwen_options o = options(tiny);
    qwen_request r = request("a cat");
    o.memory = 11000000;
    ck_assert_int_eq(qwen_open(&q, &o), QWEN_OK);
    q->devices.main->close(q->devices.main);
    q->devices.main = q->devices.text = q->devices.vae = open_late(3);
    late_device *f = late_of(q->devices.main);
    f->joins = 0; /* a plan device counts the parts of a matrix one by one */
    listing before = counted(q, &r);
    ck_assert_uint_eq(f->puts + f->packs + f->ops + f->held, 0);
    qwen_result out = drawn(q, &r);
    qwen_result_free(&out);
    ck_assert_ptr_null(q->nets.text);
    const qw_nets nets = q->nets;
    const uint64_t ops = f->ops, puts = f->puts, packs = f->packs, held = f->held;
    listing after = counted(q, &r);
    ck_assert_uint_eq(f->ops, ops);
    ck_assert_uint_eq(f->puts, puts);
    ck_assert_uint_eq(f->packs, packs);
    ck_assert_uint_eq(f->held, held);
    same_nets(&nets, &q->nets);
    same_listing(&before, &after);
    qwen_close(q);
}
END_TEST

int main(void)
{
    find_models();
    Suite *s = suite_create("count");
    TCase *c = tcase_create("count");
    tcase_set_timeout(c, 300);
    tcase_add_test(c, no_file_is_opened);
    tcase_add_test(c, long_sequence);
    tcase_add_test(c, loaded_nets_stay);
    tcase_add_test(c, halves_of_the_vae);
    tcase_add_test(c, lora);
    tcase_add_test(c, far_device);
    suite_add_tcase(s, c);
    return run_suite(s);
}
