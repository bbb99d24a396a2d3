/* testing.h - for every test program: Check, the golden data's folder, one main. */
#ifndef QW_TESTING_H
#define QW_TESTING_H
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

/* Path of a file under testdata/; good until the eighth call after this one. */
static inline const char *testdata(const char *rel)
{
    static char path[8][1024];
    static int next;
    char *out = path[next++ % 8];
    const char *dir = getenv("QW_TESTDATA"), *src = getenv("srcdir");
    if (dir && *dir) snprintf(out, sizeof path[0], "%s/%s", dir, rel);
    else snprintf(out, sizeof path[0], "%s/testdata/%s", src && *src ? src : ".", rel);
    return out;
}

/* Runs a suite; the value for main to return.  CK_FORK=no helps a debugger. */
static inline int run_suite(Suite *s)
{
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
#endif
