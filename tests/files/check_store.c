/* check_store.c - paths: files in place of links, directories, a tensor in two files. */
#include "files.h"
#include "testing.h"
#include <string.h>

/* A text file that git made of a symbolic link is followed, to a file beside it only. */
START_TEST(link_files)
{
    char *to = NULL;
    qw_error err = { 0 };
    sheaf s = { 0 };
    sheaf_name(&s, "a");
    sheaf_write(&s, "real.safetensors", 0);
    write_text("link", "./real.safetensors");
    write_text("link.safetensors", "real.safetensors");
    write_text("link2.safetensors", "link.safetensors\n");
    write_text("missing.safetensors", "./missing");
    write_text("dangling.safetensors", "nothing.safetensors");
    write_text("absolute.safetensors", made("real.safetensors"));
    write_file("nul.safetensors", "./real.safetensors\0x", 20);
    write_text("round.safetensors", "round.safetensors");
    write_text("self", "self");
    ck_assert_int_eq(qw_follow_link_file(made("link"), &to, &err), 1);
    ck_assert_msg(to && ends_with(to, "real.safetensors"), "%s", to ? to : "nothing");
    free(to);
    ck_assert_int_eq(qw_follow_link_file(made("link.safetensors"), &to, &err), 1);
    ck_assert_str_eq(to, made("real.safetensors"));
    free(to);
    static const char *const no_link[] = { "real",     "missing", "dangling",
                                           "absolute", "absent",  "nul" };
    for (size_t i = 0; i < sizeof no_link / sizeof *no_link; i++) {
        char name[40];
        snprintf(name, sizeof name, "%s.safetensors", no_link[i]);
        ck_assert_msg(!qw_follow_link_file(made(name), &to, &err), "%s is a link", name);
        good(0, &err);
    }
    ck_assert_int_eq(add_status(made("link")), QWEN_OK);
    qw_store *one = open_store(made("link2.safetensors"));
    ck_assert(qw_store_find(one, "a") != NULL);
    qw_store_free(one);
    ck_assert_int_eq(add_status(made("round.safetensors")), QWEN_EIO); /* a circle */
    ck_assert_int_ne(add_status(made("self")), QWEN_OK);
}
END_TEST

/* The file chosen in a directory, and the error where several are equal. */
START_TEST(directories)
{
    qw_error err = { 0 };
    const char *const folder = made(NULL);
    qw_store *store;
    sheaf s = { 0 };
    good(qw_store_new(&store, &err), &err);
    ck_assert_int_eq(qw_store_add(store, folder, &err), QWEN_EIO);
    ck_assert_msg(strstr(err.text, folder) != NULL, "%s", err.text);
    err = (qw_error){ 0 };
    sheaf_name(&s, "one");
    sheaf_write(&s, "one.safetensors", 0);
    good(qw_store_add(store, folder, &err), &err);
    has(store, folder, "one");
    qw_store_free(store);
    sheaf_name(&s, "two");
    sheaf_write(&s, "two.safetensors", 0);
    good(qw_store_new(&store, &err), &err);
    ck_assert_int_eq(qw_store_add(store, folder, &err), QWEN_EFORMAT);
    ck_assert_msg(strstr(err.text, "several") != NULL, "%s", err.text);
    qw_store_free(store);
    err = (qw_error){ 0 };
    sheaf_name(&s, "three");
    sheaf_write(&s, "model.safetensors", 0); /* a published name is preferred */
    store = open_store(folder);
    has(store, folder, "three");
    ck_assert(!qw_store_find(store, "one"));
    qw_store_free(store);
}
END_TEST

/* The same tensor in two files of a store is an error. */
START_TEST(twice)
{
    qw_error err = { 0 };
    sheaf s = { 0 };
    sheaf_name(&s, "a");
    qw_store *store = open_store(sheaf_write(&s, "one.safetensors", 0));
    sheaf_name(&s, "a");
    ck_assert_int_eq(qw_store_add(store, sheaf_write(&s, "two.safetensors", 0), &err),
                     QWEN_EFORMAT);
    ck_assert_msg(strstr(err.text, "\"a\"") && strstr(err.text, "duplicate"), "%s", err.text);
    qw_store_free(store);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("store");
    TCase *c = tcase_create("store");
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_test(c, link_files);
    tcase_add_test(c, directories);
    tcase_add_test(c, twice);
    suite_add_tcase(s, c);
    return run_suite(s);
}
