/* check_registry.c - devices by name, modules that cannot be loaded, and how errors are worded. */
#include "devices.h"
#include "files.h"
#include "testing.h"
#include <string.h>

static int note(void *user, const qw_listing *d, int is_default)
{
    char *all = user;
    ck_assert(d->what[0]);
    if (!d->why_not[0]) strcat(strcat(all, d->name), is_default ? "* " : " ");
    return 0;
}

START_TEST(devices)
{
    char all[1000] = " ";
    ck_assert_int_eq(qw_device_list(note, all), 0);
    ck_assert_ptr_nonnull(strstr(all, " ref* "));
    ck_assert_ptr_nonnull(strstr(all, " ref64 "));
    ck_assert_ptr_nonnull(strstr(all, " ref:bf16 "));
    qw_device *d = NULL;
    qw_error e = { 0 };
    ck_assert_int_eq(qw_device_open("warp:9\n", NULL, &d, &e), QWEN_EARG);
    ck_assert_ptr_null(d);
    ck_assert_ptr_nonnull(strstr(e.text, "warp:9\\n"));
    ck_assert_ptr_nonnull(strstr(e.text, "ref64"));
    d = open_device("ref64");
    ck_assert_int_eq(d->wide, QW_F64);
    ck_assert_int_eq(d->threads, 1);
    d->close(d);
    d = open_device(NULL);
    ck_assert_int_eq(d->abi, QW_BACKEND_ABI);
    d->close(d);
    memset(&e, 0, sizeof e);
    ck_assert_int_eq(qw_device_open("ref", &(qw_device_options){ .threads = -1 }, &d, &e),
                     QWEN_EARG);
}
END_TEST

/* A module that cannot be loaded is listed with the reason, and an error only for who asks for it.
 */
static int find_broken(void *user, const qw_listing *d, int is_default)
{
    (void)is_default;
    if (!strcmp(d->name, "broken")) *(int *)user = d->why_not[0] ? 1 : 2;
    return 0;
}

START_TEST(broken_module)
{
    write_text("broken.so", "this is no shared object");
    setenv("QWEN_MODULES", made(NULL), 1); /* this test runs in a process of its own */
    int found = 0;
    qw_device_list(find_broken, &found);
    ck_assert_int_eq(found, 1);
    qw_device *d = open_device("ref");
    d->close(d);
    qw_error e = { 0 };
    ck_assert_int_eq(qw_device_open("broken:0", NULL, &d, &e), QWEN_EDEVICE);
    ck_assert_ptr_nonnull(strstr(e.text, "broken"));
}
END_TEST

START_TEST(sentences)
{
    qw_error e = { 0 };
    ck_assert_int_eq(qw_fail(&e, QWEN_EIO, "%s is gone", "a.gguf"), QWEN_EIO);
    ck_assert_int_eq(qw_fail(&e, QWEN_EARG, "later"), QWEN_EIO); /* the first stays */
    ck_assert_str_eq(e.text, "a.gguf is gone");
    char out[40], small[9];
    ck_assert_str_eq(qw_visible(out, sizeof out, "a\n\x01\x7f\xff\xc3\xa9"),
                     "a\\n\\x01\\x7f\\xff\xc3\xa9");
    ck_assert_str_eq(qw_visible(out, sizeof out, "\xed\xa0\x80"),
                     "\\xed\\xa0\\x80"); /* a lone surrogate */
    ck_assert_str_eq(qw_visible(out, sizeof out, "\xc0\xaf\xe2\x82"), "\\xc0\\xaf\\xe2\\x82");
    ck_assert_uint_lt(strlen(qw_visible(small, sizeof small, "abcdefghijkl")), sizeof small);
    ck_assert_str_eq(qw_visible(small, 1, "abc"), "");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("registry");
    TCase *c = tcase_create("registry");
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_test(c, devices);
    tcase_add_test(c, broken_module);
    tcase_add_test(c, sentences);
    suite_add_tcase(s, c);
    return run_suite(s);
}
