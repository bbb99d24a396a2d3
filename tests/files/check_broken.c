/* check_broken.c - every broken file of testdata/formats/bad is refused, with the right status and
 * a sentence that names what is wrong. */
#include "medium.h"
#include <qwen/qwen.h>
#include "testing.h"
#include <string.h>
#include <sys/stat.h>

#define BAD FORMATS "bad/"

static json_t *expected; /* of bad/expect.json */

static const char *nth_key(const json_t *object, int n)
{
    void *it = json_object_iter((json_t *)(uintptr_t)object);
    while (n-- > 0) it = json_object_iter_next((json_t *)(uintptr_t)object, it);
    return json_object_iter_key(it);
}

/* Takes every occurrence of a word out of a text. */
static void take_out(char *text, const char *word)
{
    for (char *at; *word && (at = strstr(text, word)) != NULL;)
        memmove(at, at + strlen(word), strlen(at + strlen(word)) + 1);
}

/* The status that the case must have, or 0 where both QWEN_EFORMAT and QWEN_EMODEL are right. */
static int status_of(const char *name)
{
    static const char *const unsupported[] = { "dtype_unknown",       "model_index_unknown_class",
                                               "quant_unsupported",   "version_",
                                               "tensor_type_unknown", "value_type_" };
    if (starts_with(name, "missing_shard") || starts_with(name, "is_a_directory")) return QWEN_EIO;
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++)
        if (starts_with(name, unsupported[i])) return QWEN_EUNSUPPORTED;
    return ends_with(name, ".gguf") && !starts_with(name, "wrong_architecture") ? QWEN_EFORMAT : 0;
}

static void try_config(const char *path, qw_error *err)
{
    qw_dit_config c;
    json_t *json = NULL;
    qw_store *s = must_open(testdata(MEDIUM), QW_KIND_TRANSFORMER);
    if (!qw_json_file(path, &json, err)) qw_dit_configure(&c, json, s, path, err);
    json_decref(json);
    qw_store_free(s);
}

static void try_model(const char *path, qw_error *err)
{
    qwen *q = NULL;
    const qwen_options opt = { .size = sizeof opt, .model = path, .device = "ref" };
    const int status = qwen_open(&q, &opt);
    if (status) qw_fail(err, status, "%s", qwen_error(q));
    qwen_close(q);
}

static void try_json(const char *path, qw_error *err)
{
    char file[1300];
    json_t *json = NULL;
    snprintf(file, sizeof file, "%s/model_index.json", path);
    qw_json_file(file, &json, err);
    json_decref(json);
}

static void try_lora(const char *path, qw_error *err)
{
    model m;
    qw_lora *l;
    qw_overlay *o = NULL;
    open_medium(&m, "ref");
    if (!qw_lora_open(&l, path, 1, err)) {
        qw_overlay_new(&o, &l, 1, m.site, m.sites, m.dev, 0, NULL, NULL, err);
        qw_overlay_free(o);
        qw_lora_free(l);
    }
    close_model(&m);
}

/* A file of weights; whole: to a transformer's last tensor. */
static void try_weights(const char *path, int whole, qw_error *err)
{
    qw_store *s;
    qw_kind found;
    qw_dit_config c;
    qw_residency *res;
    qw_dit *dit = NULL;
    qw_device *dev = open_device("ref");
    good(qw_store_new(&s, err), err);
    good(qw_residency_new(&res, dev, 0, err), err);
    qw_loader l = { .store = s, .res = res, .err = err };
    if (!qw_store_add(s, path, err) && whole
        && !qw_store_canonical(s, QW_KIND_TRANSFORMER, &found, err)
        && !qw_dit_configure(&c, NULL, s, path, err))
        qw_dit_load(&dit, &c, &l);
    qw_dit_free(dit);
    qw_residency_free(res);
    qw_store_free(s);
    dev->close(dev);
}

static void try_file(const char *name, const char *path, qw_error *err)
{
    const int whole = starts_with(name, "transformer_") || starts_with(name, "quant_")
                      || starts_with(name, "wrong_architecture");
    if (starts_with(name, "config_")) try_config(path, err);
    else if (starts_with(name, "model_index_") || starts_with(name, "json_")) try_model(path, err);
    else if (starts_with(name, "lora_")) try_lora(path, err);
    else try_weights(path, whole, err);
}

static void must_fail(const char *name, const char *path, const json_t *want, qw_error *err)
{
    char rest[1100];
    const json_t *word;
    size_t i;
    int said = 0;
    if (!err->status && json_is_true(json_object_get(want, "may_load"))) return;
    ck_assert_msg(err->status != 0, "%s (%s) is accepted", name,
                  json_string_value(json_object_get(want, "what")));
    const int status = status_of(name);
    ck_assert_msg(status ? err->status == status
                         : err->status == QWEN_EFORMAT || err->status == QWEN_EMODEL,
                  "%s: status %d: %s", name, err->status, err->text);
    snprintf(rest, sizeof rest, "%s", err->text);
    take_out(rest, path);
    take_out(rest, name);
    json_array_foreach(json_object_get(want, "error_mentions"), i, word)
    {
        said |= strstr(rest, json_string_value(word)) != NULL;
    }
    ck_assert_msg(said, "%s: \"%s\" has none of the words expected", name, rest);
}

START_TEST(broken)
{
    const char *name = nth_key(expected, _i);
    const json_t *want = json_object_get(expected, name);
    qw_error err = { 0 };
    char path[1200];
    snprintf(path, sizeof path, "%s%s", testdata(BAD), name);
    if (starts_with(name, "is_a_directory")) { /* an empty one, which archives may drop */
        snprintf(path, sizeof path, "%s", made(name));
        ck_assert_int_eq(mkdir(path, 0777), 0);
    }
    try_file(name, path, &err);
    must_fail(name, path, want, &err);
    if (!starts_with(name, "json_")) return;
    err = (qw_error){ 0 }; /* the JSON by itself too */
    try_json(path, &err);
    must_fail(name, path, want, &err);
}
END_TEST

/* The list has every file of the folder. */
START_TEST(all_there)
{
    const char *name;
    json_t *one;
    int ggufs = 0, others = 0;
    json_object_foreach(expected, name, one)
    {
        ggufs += ends_with(name, ".gguf");
        others += !ends_with(name, ".gguf") && !starts_with(name, "model_index_");
    }
    ck_assert_int_ge(ggufs, 28);
    ck_assert_int_ge(ggufs + others, 80);
}
END_TEST

int main(void)
{
    qw_error err = { 0 };
    if (qw_json_file(testdata(BAD "expect.json"), &expected, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return EXIT_FAILURE;
    }
    Suite *s = suite_create("broken");
    TCase *c = tcase_create("broken");
    tcase_set_timeout(c, 120);
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_loop_test(c, broken, 0, (int)json_object_size(expected));
    tcase_add_test(c, all_there);
    suite_add_tcase(s, c);
    const int failed = run_suite(s);
    json_decref(expected);
    return failed;
}
