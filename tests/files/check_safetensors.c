/* check_safetensors.c - the safetensors container: cut, damaged, at any address. */
#include "files.h"
#include "testing.h"

static const item small[] = { { "a", "F32", 2, { 2, 3 } },
                              { "b", "BF16", 1, { 5 } },
                              { "c", "F32", 0, { 0 } },
                              { "d", "F32", 2, { 0, 7 } } };

START_TEST(every_truncation)
{
    blob b = safetensors_bytes("", small, 4, 0);
    for (size_t n = 0; n < b.n; n++) {
        qw_error err = { 0 };
        qw_store *s = NULL;
        qw_store_new(&s, &err);
        qw_store_add(s, write_file("cut.safetensors", b.data, n), &err);
        ck_assert_msg(err.status == QWEN_EFORMAT, "%zu of %zu bytes: status %d", n, b.n,
                      err.status);
        qw_store_free(s);
    }
    free(b.data);
}
END_TEST

START_TEST(flipped_bits)
{
    blob b = safetensors_bytes("", small, 4, 0);
    flip_bits(".safetensors", &b, 8);
    free(b.data);
}
END_TEST

START_TEST(misaligned_data)
{
    for (size_t pad = 0; pad < 8; pad++) {
        blob b = safetensors_bytes("", small, 4, pad);
        qw_error err = { 0 };
        qw_store *s = NULL;
        qw_store_new(&s, &err);
        ck_assert_msg(!qw_store_add(s, write_file("odd.safetensors", b.data, b.n), &err), "%s",
                      err.text);
        const qw_entry *a = qw_store_find(s, "a"), *c = qw_store_find(s, "c"),
                       *d = qw_store_find(s, "d");
        ck_assert(a && c && d && a->rank == 2 && a->dim[1] == 3 && c->rank == 0 && d->bytes == 0);
        ck_assert_int_eq(((const unsigned char *)a->data)[0], 1);
        ck_assert_uint_eq((uintptr_t)a->data % 8, pad);
        qw_store_free(s);
        free(b.data);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("safetensors");
    TCase *c = tcase_create("safetensors");
    tcase_set_timeout(c, 120);
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_test(c, every_truncation);
    tcase_add_test(c, flipped_bits);
    tcase_add_test(c, misaligned_data);
    suite_add_tcase(s, c);
    return run_suite(s);
}
