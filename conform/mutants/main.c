/* main.c - shows that the kit catches faults: each of a plain device's, with the default number of
 * cases, and that the device without one passes.
 *
 *     mutants [--seeds N] [NAME...]
 *
 * Only the op that a fault belongs to is judged.  --seeds: how many sets of cases the device
 * without a fault has to pass (20).  Exit 1 where a fault slips through or the correct device
 * fails, 2 where there is no fault of that name. */
#include "conform/conform.h"
#include "mutant.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CASES = 24 }; /* as qwen-conform does */
static const double FLOPS = 1e6;

static const struct {
    const char *name, *what;
    enum qw_op op;
} mutant[] = {
#define X(name, op, what) { #name, what, QW_OP_##op },
    MUTANTS(X)
#undef X
};
enum { COUNT = sizeof mutant / sizeof mutant[0] };

typedef struct finding {
    int judged, failed;
    char line[1000]; /* the first case that failed, and why */
} finding;

static int note(void *user, const qw_case *c, const qw_verdict *v)
{
    finding *f = user;
    char line[400];
    f->judged += v->outcome != QW_DECLINED;
    if (v->outcome != QW_FAILED) return 0;
    qw_case_print(c, line, sizeof line);
    snprintf(f->line, sizeof f->line, "%s: %s", line, v->why);
    f->failed = 1;
    return 1;
}

/* One op of the device that QW_MUTANT asks for. */
static int judge(enum qw_op op, uint64_t seed, finding *f)
{
    qw_device *d = NULL, *oracle = NULL;
    qw_error e = { 0 };
    if (plain_open(&d) || qw_device_complete(d) || qw_device_open("ref64", NULL, &oracle, &e)) {
        fprintf(stderr, "mutants: a device does not open: %s\n", e.text);
        return 1;
    }
    for (int k = 0; qw_case_key(op, k) && !f->failed; k++)
        qw_judge_key(d, oracle, op, qw_case_key(op, k), CASES, seed, FLOPS, note, f);
    d->close(d);
    oracle->close(oracle);
    return 0;
}

static int wanted(const char *name, int argc, char **argv)
{
    int named = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--seeds")) i++;
        else if (!strcmp(argv[i], name)) return 1;
        else named = 1;
    }
    return !named;
}

/* A name that no fault has; NULL: there is none. */
static const char *unknown(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        int known = 0;
        if (!strcmp(argv[i], "--seeds")) {
            i++;
            continue;
        }
        for (int k = 0; k < COUNT; k++) known |= !strcmp(argv[i], mutant[k].name);
        if (!known) return argv[i];
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (unknown(argc, argv)) {
        fprintf(stderr, "mutants: there is no fault %s\n", unknown(argc, argv));
        return 2;
    }
    int seeds = 20, passed = 0, failed = 0;
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], "--seeds")) seeds = atoi(argv[i + 1]);
    for (int i = 0; i < COUNT; i++) {
        finding f = { 0 };
        if (!wanted(mutant[i].name, argc, argv)) continue;
        setenv("QW_MUTANT", mutant[i].name, 1);
        if (judge(mutant[i].op, 1, &f)) return 6;
        if (f.failed) passed++;
        else failed++;
        printf("%s %s (%s)\n     after %d cases%s%s\n", f.failed ? "caught" : "MISSED",
               mutant[i].name, mutant[i].what, f.judged, f.failed ? ": " : "", f.line);
        fflush(stdout);
    }
    unsetenv("QW_MUTANT");
    for (int s = 1; s <= seeds; s++) {
        finding f = { 0 };
        for (int op = 0; op < QW_NOPS; op++)
            if (judge((enum qw_op)op, (uint64_t)s, &f)) return 6;
        if (f.failed) failed++;
        else passed++;
        if (f.failed) printf("FAILED without a fault, seed %d: %s\n", s, f.line);
        else printf("passed without a fault, seed %d: %d cases\n", s, f.judged);
        fflush(stdout);
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
