/* check_load_nets.c - a request loads the nets that it needs, before its stages, and no others. */
#include "api.h"
#include "files.h"
#include "late.h"
#include "pipeline/model.h"

enum { TEXT = 1 << QW_TEXT, VISION = 1 << QW_VISION, DIT = 1 << QW_DIT, VAE = 1 << QW_VAE };

/* Notes the first words of lines that say what was loaded, in order: "text encoder,VAE,". */
static void note_loads(void *user, int level, const char *line)
{
    char *all = user;
    const char *end = strstr(line, " MB in ") ? strchr(line, ':') : NULL;
    if (level != 1 || !end) return;
    snprintf(all + strlen(all), 200 - strlen(all), "%.*s,", (int)(end - line), line);
}

static qwen *opened_noting(const char *model, char log[200])
{
    qwen *q;
    qwen_options o = options(model);
    o.log = note_loads;
    o.user = log;
    log[0] = 0;
    ck_assert_msg(!qwen_open(&q, &o), "%s", qwen_error(q));
    return q;
}

static qwen_request edit_request(const qwen_array *picture)
{
    qwen_request r = request("a cat");
    r.input = picture;
    r.inputs = 1;
    r.reference_area = 56 * 56;
    return r;
}

/* --- a prompt's text -------------------------------------------------------------------------- */

START_TEST(text_loads_nothing)
{
    static const char *const models[] = { "tiny", "tiny-edit", "tiny-edit-plus", "tiny-layered",
                                          "tiny-controlnet" };
    qwen_array picture = gradient(40, 30, 3);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char log[200], *text = NULL;
        qwen *q = opened_noting(testdata(models[i]), log);
        qwen_array ids = { 0 };
        qwen_request r = i && i < 4 ? edit_request(&picture) : request("a cat");
        if (i == 3) r.width = r.height = 0;
        if (i == 4) r.control = &picture;
        ck_assert_int_eq(qwen_tokenize(q, "a cat", 5, &ids), QWEN_OK);
        for (int negative = 0; negative < 2; negative++) {
            ck_assert_msg(!qwen_prompt(q, &r, negative, &text), "%s: %s", models[i], qwen_error(q));
            ck_assert_ptr_nonnull(strstr(text, negative ? "user\n" : "a cat"));
            ck_assert((i == 1 || i == 2) == (strstr(text, "<|image_pad|>") != NULL));
            free(text);
        }
        ck_assert_uint_eq(q->nets.loaded, 0);
        ck_assert_str_eq(log, "");
        qwen_array_free(&ids);
        qwen_close(q);
    }
    qwen_array_free(&picture);
}
END_TEST

/* The tiny transformer under a name of its own, but for one tensor. */
static const char *write_incomplete(void)
{
    char path[600];
    sheaf s = { 0 };
    snprintf(path, sizeof path, "%s/transformer", tiny);
    qw_store *whole = open_store(path);
    sheaf_store(&s, whole, "", 0);
    qw_entry *e = sheaf_find(&s, "transformer_blocks.1.img_mlp.net.2.bias");
    ck_assert_ptr_nonnull(e);
    e->name[0] = 'T';
    const char *written = sheaf_write(&s, "transformer.safetensors", 0);
    qw_store_free(whole);
    return written;
}

/* Such a transformer gives its prompt's text; its picture is refused. */
START_TEST(incomplete_model)
{
    qwen *q;
    char *text = NULL, tokenizer[600];
    make_folder();
    qwen_options o = options(NULL);
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer", tiny);
    o.transformer = write_incomplete();
    o.tokenizer = tokenizer;
    ck_assert_msg(!qwen_open(&q, &o), "%s", qwen_error(q));
    qwen_request r = request("a cat");
    ck_assert_msg(!qwen_prompt(q, &r, 0, &text), "%s", qwen_error(q));
    ck_assert_ptr_nonnull(strstr(text, "a cat"));
    free(text);
    refused(q, &r, QWEN_EMODEL, "\"transformer_blocks.1.img_mlp.net.2.bias\" is missing");
    ck_assert_uint_eq(q->nets.loaded, 0);
    qwen_close(q);
    remove_folder();
}
END_TEST

/* An edit without a vision tower is refused before anything is loaded. */
START_TEST(no_tower)
{
    char log[200], transformer[600], vae[600], tokenizer[600];
    qwen *q;
    qwen_array picture = gradient(40, 30, 3);
    qwen_options o = options(NULL);
    snprintf(transformer, sizeof transformer, "%s/transformer", edit);
    snprintf(vae, sizeof vae, "%s/vae", edit);
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer", edit);
    log[0] = 0;
    o.transformer = transformer;
    o.vae = vae;
    o.tokenizer = tokenizer;
    o.variant = "edit";
    o.log = note_loads;
    o.user = log;
    ck_assert_msg(!qwen_open(&q, &o), "%s", qwen_error(q));
    qwen_request r = edit_request(&picture);
    refused(q, &r, QWEN_EARG, "no vision tower: the model has none and none was given (vision)");
    char *text = NULL;
    ck_assert_int_eq(qwen_prompt(q, &r, 0, &text), QWEN_EARG);
    ck_assert_ptr_null(text);
    ck_assert_str_eq(log, "");
    qwen_array_free(&picture);
    qwen_close(q);
}
END_TEST

/* --- stages and pictures ---------------------------------------------------------------------- */

START_TEST(stages_load_their_own)
{
    char log[200];
    qwen *q = opened_noting(edit, log);
    qwen_array picture = gradient(40, 30, 3), rows = { 0 }, out = { 0 };
    qwen_request r = edit_request(&picture);
    float latent[16 * 4 * 6];
    for (size_t i = 0; i < sizeof latent / sizeof *latent; i++) latent[i] = (float)(i % 7) / 7;
    const qwen_array z = { .data = latent, .dtype = QWEN_F32, .rank = 3, .dim = { 16, 4, 6 } };
    ck_assert_int_eq(qwen_embed(q, &r, 0, &rows), QWEN_OK);
    ck_assert_str_eq(log, "text encoder,vision tower,");
    ck_assert_int_eq(qwen_velocity(q, &z, 1, 0.5, &rows, &out), QWEN_OK);
    qwen_array_free(&out);
    ck_assert_str_eq(log, "text encoder,vision tower,transformer,");
    ck_assert_int_eq(qwen_decode(q, &z, &out), QWEN_OK);
    qwen_array_free(&out);
    ck_assert_int_eq(q->nets.vae_parts, QW_VAE_DECODER);
    ck_assert_str_eq(log, "text encoder,vision tower,transformer,VAE,");
    ck_assert_uint_eq(q->nets.loaded, TEXT | VISION | DIT | VAE);
    qwen_array_free(&rows);
    qwen_array_free(&picture);
    qwen_close(q);
}
END_TEST

/* Embeddings that are given need no text encoder, and no tokenizer. */
START_TEST(given_embeddings)
{
    char log[200];
    qwen *q = opened_noting(tiny, log);
    float text[3 * 32] = { 1, 2, 3 };
    const qwen_array w = { .data = text, .dtype = QWEN_F32, .rank = 2, .dim = { 3, 32 } };
    qwen_request r = request(NULL);
    r.embeds = &w;
    qwen_result out = drawn(q, &r);
    ck_assert_str_eq(log, "transformer,VAE,");
    ck_assert_ptr_null(q->files.tokenizer);
    qwen_result_free(&out);
    qwen_close(q);
}
END_TEST

/* On a host device all that a request needs is loaded first: what is missing is known at once. */
static int no_phase(void *user, const qwen_progress *p)
{
    (void)user;
    (void)p;
    ck_abort_msg("a stage begins");
    return 0;
}

START_TEST(missing_is_known_first)
{
    char text[600], transformer[600], tokenizer[600];
    qwen *q;
    qwen_options o = options(NULL);
    snprintf(text, sizeof text, "%s/text_encoder", tiny);
    snprintf(transformer, sizeof transformer, "%s/transformer", tiny);
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer", tiny);
    o.text_encoder = text;
    o.transformer = transformer;
    o.tokenizer = tokenizer;
    ck_assert_msg(!qwen_open(&q, &o), "%s", qwen_error(q));
    qwen_request r = request("a cat");
    r.progress = no_phase;
    refused(q, &r, QWEN_EARG, "no VAE: the model has none and none was given (vae)");
    qwen_close(q);
}
END_TEST

/* On a device of its own memory the text encoder comes first and makes room for the transformer; a
 * prompt whose rows are kept does not bring it back. */
START_TEST(turns)
{
    char log[200];
    qwen *q = opened_noting(tiny, log);
    qwen_request r = request("a cat");
    q->opt.memory = 11000000;
    q->devices.main->close(q->devices.main);
    q->devices.main = q->devices.text = q->devices.vae = open_late(3);
    qwen_result one = drawn(q, &r);
    ck_assert_str_eq(log, "text encoder,transformer,VAE,");
    ck_assert_ptr_null(q->nets.text);
    qwen_result two = drawn(q, &r);
    ck_assert_str_eq(log, "text encoder,transformer,VAE,");
    ck_assert(same_picture(&one.image[0], &two.image[0]));
    qwen_result_free(&two);
    r.prompt = "a dog";
    two = drawn(q, &r);
    ck_assert_str_eq(log, "text encoder,transformer,VAE,text encoder,");
    ck_assert(!same_picture(&one.image[0], &two.image[0]));
    qwen_result_free(&one);
    qwen_result_free(&two);
    qwen_close(q);
}
END_TEST

/* A prompt that was the positive one comes back as the negative one, beside a new one. */
START_TEST(kept_rows)
{
    qwen *q = opened(tiny), *fresh = opened(tiny);
    qwen_request r = request("a cat");
    qwen_result one = drawn(q, &r);
    qwen_result_free(&one);
    r.prompt = "a dog";
    r.negative = "a cat";
    r.guidance = 3;
    one = drawn(q, &r);
    qwen_result two = drawn(fresh, &r);
    ck_assert(same_picture(&one.image[0], &two.image[0]));
    qwen_result_free(&one);
    qwen_result_free(&two);
    qwen_close(q);
    qwen_close(fresh);
}
END_TEST

int main(void)
{
    find_models();
    Suite *s = suite_create("load_nets");
    TCase *c = tcase_create("load_nets");
    tcase_set_timeout(c, 300);
    tcase_add_test(c, text_loads_nothing);
    tcase_add_test(c, incomplete_model);
    tcase_add_test(c, no_tower);
    tcase_add_test(c, stages_load_their_own);
    tcase_add_test(c, given_embeddings);
    tcase_add_test(c, missing_is_known_first);
    tcase_add_test(c, turns);
    tcase_add_test(c, kept_rows);
    suite_add_tcase(s, c);
    return run_suite(s);
}
