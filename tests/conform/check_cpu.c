/* check_cpu.c - every cpu device of this machine against the reference: the kit, and names. */
#include "conform/conform.h"
#include "testing.h"
#include <string.h>

enum { MOST = 16, ASKED = 6 };

typedef struct names {
    char name[MOST][48];
    int n;
} names;

static int note(void *user, const qw_listing *d, int is_default)
{
    names *all = user;
    (void)is_default;
    if (!d->why_not[0] && !strncmp(d->name, "cpu:", 4) && all->n < MOST)
        memcpy(all->name[all->n++], d->name, sizeof d->name);
    return 0;
}

static names cpu_devices(void)
{
    names all = { .n = 0 };
    qw_device_list(note, &all);
    return all;
}

static qw_device *open_device(const char *name)
{
    qw_device *d = NULL;
    qw_error e = { 0 };
    ck_assert_msg(!qw_device_open(name, NULL, &d, &e), "%s", e.text);
    return d;
}

typedef struct tally {
    const char *device;
    int passed;
} tally;

static int must_not_fail(void *user, const qw_case *c, const qw_verdict *v)
{
    tally *t = user;
    char line[400];
    qw_case_print(c, line, sizeof line);
    ck_assert_msg(v->outcome != QW_FAILED, "%s %s: %s", t->device, line, v->why);
    t->passed += v->outcome == QW_PASSED;
    return 0;
}

/* Each op of each device; _i counts (device, op).  It must not decline bf16, f32 and f16. */
START_TEST(judged)
{
    const names all = cpu_devices();
    const enum qw_op op = (enum qw_op)(_i % QW_NOPS);
    if (_i / QW_NOPS >= all.n) return;
    tally t = { all.name[_i / QW_NOPS], 0 };
    qw_device *d = open_device(t.device), *oracle = open_device("ref64");
    for (int k = 0; qw_case_key(op, k); k++) {
        const int before = t.passed;
        qw_judge_key(d, oracle, op, qw_case_key(op, k), ASKED, 0xcafe, 1e5, must_not_fail, &t);
        if (k < 3) ck_assert_int_eq(t.passed - before, ASKED); /* bf16, f32, f16 */
    }
    d->close(d);
    oracle->close(oracle);
}
END_TEST

START_TEST(themselves)
{
    const names all = cpu_devices();
    for (int i = 0; i < all.n; i++) {
        qw_device *d = open_device(all.name[i]);
        qw_verdict v;
        qw_judge_device(d, &v);
        ck_assert_msg(v.outcome == QW_PASSED, "%s: %s", d->name, v.why);
        d->close(d);
    }
}
END_TEST

/* "cpu" is the best of them, "cpu:SET" the best of a set. */
START_TEST(short_names)
{
    const names all = cpu_devices();
    if (!all.n) return;
    qw_device *d = open_device("cpu");
    ck_assert_str_eq(d->name, all.name[all.n - 1]);
    d->close(d);
    char set[48];
    memcpy(set, all.name[0], sizeof set);
    *strrchr(set, ':') = 0;
    d = open_device(set);
    ck_assert_str_eq(d->name, all.name[0]);
    d->close(d);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cpu");
    TCase *c = tcase_create("cpu");
    tcase_set_timeout(c, 300);
    suite_add_tcase(s, c);
    tcase_add_loop_test(c, judged, 0, 6 * QW_NOPS);
    tcase_add_test(c, themselves);
    tcase_add_test(c, short_names);
    return run_suite(s);
}
