/* main.c - the program qwen-conform: devices, operations and cases by name, their verdicts.
 *
 *     qwen-conform [options] [device...] [op...]
 *     qwen-conform bench WORK...                      (bench.c)
 *
 * Without a device it judges all that can be opened; without an op, all eight. */
#include "bench.h"
#include "conform.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEVICES = 64, EXIT_DIFFERS = 1, EXIT_USAGE = 2, EXIT_INPUT = 3, EXIT_DEVICE = 6 };

typedef struct cell {
    int count[QW_NOUTCOMES];
    double ratio;
} cell;

typedef struct session {
    qw_device *oracle, *dev[DEVICES];
    int devices, at; /* at: the device that is judged */
    int verbose, json, list, strict, cases, ops[QW_NOPS], any_op, failures;
    uint64_t seed;
    double flops;
    const char *line, *shapes[16];
    int n_shapes;
    cell table[DEVICES][QW_NOPS][QW_NDTYPES];
} session;

static const char *const outcome_name[QW_NOUTCOMES] = { "passed", "declined", "failed" };

/* A line of JSON; names and sentences are printed with quotes and control characters escaped. */
static void print_string(const char *name, const char *text)
{
    printf(", \"%s\": \"", name);
    for (const unsigned char *s = (const unsigned char *)text; *s; s++)
        if (*s == '"' || *s == '\\') printf("\\%c", *s);
        else if (*s < 32) printf("\\u%04x", *s);
        else putchar(*s);
    putchar('"');
}

static int note(void *user, const qw_case *c, const qw_verdict *v)
{
    session *s = user;
    char line[400];
    const char *name = s->dev[s->at]->name;
    cell *k = &s->table[s->at][c->op][qw_case_key_of(c)];
    k->count[v->outcome]++;
    if (v->ratio > k->ratio) k->ratio = v->ratio;
    const int failed = v->outcome == QW_FAILED || (s->strict && v->outcome == QW_DECLINED);
    s->failures += failed;
    qw_case_print(c, line, sizeof line);
    if (s->json) {
        printf("{\"outcome\": \"%s\"", outcome_name[v->outcome]);
        print_string("device", name);
        print_string("case", line);
        if (v->outcome == QW_PASSED) printf(", \"ratio\": %.4g, \"rms\": %.4g", v->ratio, v->rms);
        if (v->why[0]) print_string("why", v->why);
        puts("}");
    } else if (failed) {
        printf("FAIL %s %s: %s\n", name, line, v->why[0] ? v->why : "declined");
    } else if (s->verbose) {
        printf("%s %s %s %.3f %.3f\n", v->outcome == QW_PASSED ? "ok  " : "none", name, line,
               v->ratio, v->rms);
    }
    return 0;
}

/* A case on every device. */
static void judge_one(session *s, const qw_case *c)
{
    for (s->at = 0; s->at < s->devices; s->at++) {
        qw_verdict v;
        qw_judge(s->dev[s->at], s->oracle, c, &v);
        note(s, c, &v);
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
    int i = 0;
    for (int number = 1; fgets(line, sizeof line, f); number++) {
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
    if (i) return 0;
    fprintf(stderr, "qwen-conform: %s: no line of %s\n", path,
            s->any_op ? "an operation that is to be judged" : "an operation");
    return EXIT_INPUT;
}

/* The last page: passed, declined, failed and the worst ratio by device, op and key. */
static void report(const session *s)
{
    for (int i = 0; i < s->devices; i++) {
        printf("\n%-20s %-9s %8s %8s %8s  %s\n", s->dev[i]->name, "", "passed", "declined",
               "failed", "worst ratio");
        for (int op = 0; op < QW_NOPS; op++)
            for (int t = 0; t < QW_NDTYPES; t++) {
                const cell *k = &s->table[i][op][t];
                if (!k->count[QW_PASSED] && !k->count[QW_DECLINED] && !k->count[QW_FAILED])
                    continue;
                printf("%-20s %-9s %8d %8d %8d  %.3f\n", qw_op_table[op].name,
                       qw_dtype_name((qw_dtype)t), k->count[QW_PASSED], k->count[QW_DECLINED],
                       k->count[QW_FAILED], k->ratio);
            }
    }
}

static int add_device(session *s, const char *name)
{
    qw_error e = { 0 };
    if (s->devices == DEVICES) {
        fprintf(stderr, "qwen-conform: %d devices are the most\n", DEVICES);
        return EXIT_USAGE;
    }
    if (!qw_device_open(name, NULL, &s->dev[s->devices], &e)) {
        s->devices++;
        return 0;
    }
    fprintf(stderr, "qwen-conform: %s\n", e.text);
    if (e.status != QWEN_EARG) return EXIT_DEVICE;
    fprintf(stderr, "qwen-conform: nor an operation of that name; these are judged:");
    for (int op = 0; op < QW_NOPS; op++) fprintf(stderr, " %s", qw_op_table[op].name);
    fputc('\n', stderr);
    return EXIT_USAGE;
}

/* Devices that can be used; those that cannot are named with the reason. */
static int add_listed(void *user, const qw_listing *d, int is_default)
{
    (void)is_default;
    session *s = user;
    if (d->why_not[0]) {
        if (!s->json) printf("     %s: %s\n", d->name, d->why_not);
        return 0;
    }
    return add_device(s, d->name);
}

/* Devices x ops x keys. */
static void list(const session *s)
{
    for (int i = 0; i < s->devices; i++)
        for (int op = 0; op < QW_NOPS; op++) {
            if (s->any_op && !s->ops[op]) continue;
            printf("%s %s", s->dev[i]->name, qw_op_table[op].name);
            for (int k = 0; qw_case_key((enum qw_op)op, k); k++)
                printf("%c%s", k ? ',' : ' ', qw_dtype_name(qw_case_key((enum qw_op)op, k)));
            putchar('\n');
        }
}

static const char usage[] =
    "usage: qwen-conform [options] [device...] [op...]\n"
    "  --cases N      judged cases of each op and type (24)\n"
    "  --flops F      size of a case (1e6)   --seed HEX     another set of cases\n"
    "  --shapes FILE  op lines of a model, cut down to --flops\n"
    "  --line LINE    this case only         --strict       declining is failing\n"
    "  --list         devices, ops, types    --json         a line of JSON for each case\n"
    "  -v             every case             --help\n"
    "qwen-conform bench --help: times parts of the published model\n"
    "exit: 0 all passed, 1 a case failed, 2 usage, 3 a file, 6 a device\n";

static int read_argument(session *s, int argc, char **argv, int *i)
{
    const char *a = argv[*i], *value = *i + 1 < argc ? argv[*i + 1] : NULL;
    char *end = NULL;
    if (!strcmp(a, "-v")) return s->verbose = 1, 0;
    if (!strcmp(a, "--strict")) return s->strict = 1, 0;
    if (!strcmp(a, "--list")) return s->list = 1, 0;
    if (!strcmp(a, "--json")) return s->json = 1, 0;
    if (a[0] == '-') {
        if (!value) return EXIT_USAGE;
        ++*i;
        if (!strcmp(a, "--cases")) s->cases = (int)strtol(value, &end, 10);
        else if (!strcmp(a, "--flops")) s->flops = strtod(value, &end);
        else if (!strcmp(a, "--seed")) s->seed = strtoull(value, &end, 16);
        else if (!strcmp(a, "--line")) s->line = value;
        else if (!strcmp(a, "--shapes") && s->n_shapes < 16) s->shapes[s->n_shapes++] = value;
        else return EXIT_USAGE;
        if (end && (*end || end == value)) return EXIT_USAGE;
        return s->cases < 1 || !(s->flops >= 1) ? EXIT_USAGE : 0;
    }
    for (int op = 0; op < QW_NOPS; op++)
        if (!strcmp(a, qw_op_table[op].name)) return s->ops[op] = s->any_op = 1, 0;
    return add_device(s, a);
}

static void judge_devices(session *s)
{
    for (int i = 0; i < s->devices; i++) {
        qw_verdict v;
        qw_judge_device(s->dev[i], &v);
        if (v.outcome != QW_FAILED) continue;
        s->failures++;
        if (!s->json) {
            printf("FAIL %s: %s\n", s->dev[i]->name, v.why);
            continue;
        }
        printf("{\"outcome\": \"failed\"");
        print_string("device", s->dev[i]->name);
        print_string("why", v.why);
        puts("}");
    }
}

static int work(session *s)
{
    judge_devices(s);
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
    for (s->at = 0; s->at < s->devices && !s->n_shapes; s->at++)
        for (int op = 0; op < QW_NOPS; op++)
            for (int k = 0; (!s->any_op || s->ops[op]) && qw_case_key((enum qw_op)op, k); k++)
                qw_judge_key(s->dev[s->at], s->oracle, (enum qw_op)op,
                             qw_case_key((enum qw_op)op, k), s->cases, s->seed, s->flops, note, s);
    for (int i = 0; i < s->n_shapes; i++) {
        const int status = judge_file(s, s->shapes[i]);
        if (status) return status;
    }
    return 0;
}

int main(int argc, char **argv)
{
    static session s = { .cases = 24, .seed = 1, .flops = 1e6 };
    qw_error e = { 0 };
    int status = 0;
    if (argc > 1 && !strcmp(argv[1], "bench")) return qw_bench_main(argc - 1, argv + 1);
    for (int i = 1; i < argc && !status; i++) {
        if (!strcmp(argv[i], "--help")) {
            fputs(usage, stdout);
            return 0;
        }
        const int option = argv[i][0] == '-';
        status = read_argument(&s, argc, argv, &i);
        if (status == EXIT_USAGE && option) fputs(usage, stderr);
    }
    if (!status && qw_device_open("ref64", NULL, &s.oracle, &e)) {
        fprintf(stderr, "qwen-conform: %s\n", e.text);
        status = EXIT_DEVICE;
    }
    if (!status && !s.devices) status = qw_device_list(add_listed, &s);
    if (!status && s.list) list(&s);
    else if (!status) status = work(&s);
    const int judged = !status && !s.list;
    if (judged && !s.line && !s.json) report(&s);
    for (int i = 0; i < s.devices; i++) s.dev[i]->close(s.dev[i]);
    if (s.oracle) s.oracle->close(s.oracle);
    if (judged && !s.json) printf("\n%d failed\n", s.failures);
    if (!status && (fflush(stdout) || ferror(stdout))) return 7;
    return status ? status : s.failures ? EXIT_DIFFERS : 0;
}
