/* main.c - the program qwen-conform. */
#include "conform.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- the program --------------------------------------------------------------------------- */

enum { DEVICES = 32, EXIT_DIFFERS = 1, EXIT_USAGE = 2, EXIT_INPUT = 3, EXIT_DEVICE = 6 };

typedef struct cell {
    int count[QW_NOUTCOMES];
    double ratio;
} cell;

typedef struct session {
    qw_device *oracle, *dev[DEVICES];
    int devices, verbose, strict, cases, ops[QW_NOPS], any_op, failures;
    uint64_t seed;
    double flops;
    const char *line, *shapes[16];
    int n_shapes;
    cell table[DEVICES][QW_NOPS][QW_NDTYPES];
} session;

/* The dtype a case counts under: a gemm's weight, else the first. */
static qw_dtype key_of(const qw_case *c) { return c->op == QW_OP_gemm ? c->dtype[1] : c->dtype[0]; }

static void judge_one(session *s, const qw_case *c)
{
    char line[400];
    qw_case_print(c, line, sizeof line);
    for (int i = 0; i < s->devices; i++) {
        qw_verdict v;
        qw_judge(s->dev[i], s->oracle, c, &v);
        cell *k = &s->table[i][c->op][key_of(c)];
        k->count[v.outcome]++;
        if (v.ratio > k->ratio) k->ratio = v.ratio;
        if (v.outcome == QW_FAILED || (s->strict && v.outcome == QW_DECLINED)) s->failures++;
        if (v.outcome == QW_FAILED) printf("FAIL %s %s: %s\n", s->dev[i]->name, line, v.why);
        else if (s->verbose)
            printf("%s %s %s %.3f %.3f\n", v.outcome == QW_PASSED ? "ok  " : "none",
                   s->dev[i]->name, line, v.ratio, v.rms);
    }
}

static int judge_file(session *s, const char *path)
{
    FILE *f = fopen(path, "r");
    if (!f) {
        fprintf(stderr, "qwen-conform: %s: %s\n", path, strerror(errno));
        return EXIT_INPUT;
    }
    char line[500], why[300];
    for (int number = 1, i = 0; fgets(line, sizeof line, f); number++) {
        line[strcspn(line, " \t\r\n#")] = 0;
        qw_case c;
        if (!line[0]) continue;
        if (qw_case_parse(&c, line, why, sizeof why)) {
            fprintf(stderr, "qwen-conform: %s:%d: %s\n", path, number, why);
            fclose(f);
            return EXIT_INPUT;
        }
        if (s->any_op && !s->ops[c.op]) continue;
        c.fill = (qw_fill)(i++ % QW_NFILLS);
        c.seed = s->seed + (uint64_t)number;
        qw_case_shrink(&c, s->flops);
        judge_one(s, &c);
    }
    fclose(f);
    return 0;
}

/* The last page: passed / declined / failed and the worst ratio per op, dtype and device. */
static void report(const session *s)
{
    for (int i = 0; i < s->devices; i++) {
        printf("\n%-10s %-9s %8s %8s %8s  %s\n", s->dev[i]->name, "", "passed", "declined",
               "failed", "worst ratio");
        for (int op = 0; op < QW_NOPS; op++)
            for (int t = 0; t < QW_NDTYPES; t++) {
                const cell *k = &s->table[i][op][t];
                if (!k->count[QW_PASSED] && !k->count[QW_DECLINED] && !k->count[QW_FAILED])
                    continue;
                printf("%-10s %-9s %8d %8d %8d  %.3f\n", qw_op_table[op].name,
                       qw_dtype_name((qw_dtype)t), k->count[QW_PASSED], k->count[QW_DECLINED],
                       k->count[QW_FAILED], k->ratio);
            }
    }
}

static int add_device(session *s, const char *name)
{
    qw_error e = { 0 };
    if (s->devices == DEVICES) return EXIT_USAGE;
    if (!qw_device_open(name, NULL, &s->dev[s->devices], &e)) {
        s->devices++;
        return 0;
    }
    fprintf(stderr, "qwen-conform: %s\n", e.text);
    return EXIT_DEVICE;
}

static int add_listed(void *user, const qw_listing *d, int is_default)
{
    (void)is_default;
    if (d->why_not[0]) printf("     %s: %s\n", d->name, d->why_not);
    else add_device(user, d->name);
    return 0;
}

static const char usage[] =
    "usage: qwen-conform [options] [device...] [op...]\n"
    "  --cases N      cases per op (60)      --flops F     size of a case (1e6)\n"
    "  --seed HEX     another set of cases   --shapes FILE op lines of a model, cut down to "
    "--flops\n"
    "  --line LINE    this case only         --strict      declining is failing\n"
    "  -v             every case             --help\n";

static int read_argument(session *s, int argc, char **argv, int *i)
{
    const char *a = argv[*i], *value = *i + 1 < argc ? argv[*i + 1] : NULL;
    if (!strcmp(a, "-v")) return s->verbose = 1, 0;
    if (!strcmp(a, "--strict")) return s->strict = 1, 0;
    if (a[0] == '-') {
        if (!value) return EXIT_USAGE;
        ++*i;
        if (!strcmp(a, "--cases")) s->cases = atoi(value);
        else if (!strcmp(a, "--flops")) s->flops = atof(value);
        else if (!strcmp(a, "--seed")) s->seed = strtoull(value, NULL, 16);
        else if (!strcmp(a, "--line")) s->line = value;
        else if (!strcmp(a, "--shapes") && s->n_shapes < 16) s->shapes[s->n_shapes++] = value;
        else return EXIT_USAGE;
        return s->cases < 1 || !(s->flops >= 1) ? EXIT_USAGE : 0;
    }
    for (int op = 0; op < QW_NOPS; op++)
        if (!strcmp(a, qw_op_table[op].name)) return s->ops[op] = s->any_op = 1, 0;
    return add_device(s, a);
}

static int work(session *s)
{
    for (int i = 0; i < s->devices; i++) {
        qw_verdict v;
        qw_judge_device(s->dev[i], &v);
        if (v.outcome != QW_FAILED) continue;
        printf("FAIL %s: %s\n", s->dev[i]->name, v.why);
        s->failures++;
    }
    if (s->line) {
        qw_case c;
        char why[300];
        if (qw_case_parse(&c, s->line, why, sizeof why)) {
            fprintf(stderr, "qwen-conform: %s: %s\n", s->line, why);
            return EXIT_USAGE;
        }
        s->verbose = 1;
        judge_one(s, &c);
        return 0;
    }
    for (int op = 0; op < QW_NOPS && !s->n_shapes; op++)
        for (int i = 0; i < s->cases && (!s->any_op || s->ops[op]); i++) {
            qw_case c;
            qw_case_draw(&c, (enum qw_op)op, i, s->seed, s->flops);
            judge_one(s, &c);
        }
    for (int i = 0; i < s->n_shapes; i++) {
        const int status = judge_file(s, s->shapes[i]);
        if (status) return status;
    }
    return 0;
}

int main(int argc, char **argv)
{
    static session s = { .cases = 60, .seed = 1, .flops = 1e6 };
    qw_error e = { 0 };
    int status = 0;
    for (int i = 1; i < argc && !status; i++) {
        if (!strcmp(argv[i], "--help")) {
            fputs(usage, stdout);
            return 0;
        }
        status = read_argument(&s, argc, argv, &i);
    }
    if (status == EXIT_USAGE) fputs(usage, stderr);
    if (!status && qw_device_open("ref64", NULL, &s.oracle, &e)) {
        fprintf(stderr, "qwen-conform: %s\n", e.text);
        status = EXIT_DEVICE;
    }
    if (!status && !s.devices) qw_device_list(add_listed, &s);
    if (!status) status = work(&s);
    if (!status && !s.line) report(&s);
    for (int i = 0; i < s.devices; i++) s.dev[i]->close(s.dev[i]);
    if (s.oracle) s.oracle->close(s.oracle);
    if (!status) printf("\n%d failed\n", s.failures);
    return status ? status : s.failures ? EXIT_DIFFERS : 0;
}
