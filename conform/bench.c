/* bench.c - `qwen-conform bench`: times parts of the published model on a device.
 *
 *     qwen-conform bench WORK... [--device D] [--threads N] [--repeat N] [--json] [--error]
 *         [--against FILE] [--report FILE] */
#include "bench_report.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    EXIT_SLOWER = 1,
    EXIT_USAGE = 2,
    EXIT_INPUT = 3,
    EXIT_FORMAT = 4,
    EXIT_DEVICE = 6,
    EXIT_OUTPUT = 7,
    EXIT_NUMERIC = 8
};
enum { WORKS = 256 };

typedef struct bench {
    qw_work work[WORKS];
    int works, json, slower;
    const char *device, *against, *report;
    qw_against *earlier;
    qw_report *file;
    qw_bench_options options;
} bench;

static const char usage[] =
    "usage: qwen-conform bench WORK... [options]\n"
    "  roof                             what the processor can do at most\n"
    "  gemm:MxNxK[:WEIGHTS]             attention:HEADSxROWSxD\n"
    "  block:PICTURE+TEXT[:WEIGHTS]     a block of the transformer, tokens of each stream;\n"
    "                                   :loraRANK after it lays a LoRA over its linear layers\n"
    "  text:ROWS[:WEIGHTS]              a layer of the language model\n"
    "  vision:SIZE                      the vision tower; SIZE in pixels\n"
    "  vae:SIZE[:encode]                the decoder, or the encoder\n"
    "  WEIGHTS: bf16 f32 f16 f8 i8 i8_convrot q8_0 q4_0 q4_k q5_k q6_k ... (bf16)\n"
    "options:\n"
    "  --device NAME  another than the default     --threads N  (all)\n"
    "  --repeat N     at most so often             --json       a line of JSON for each work\n"
    "  --error        compare whole nets too       --help\n"
    "  --against FILE compare with saved lines     --report FILE  machine, timings and cases\n"
    "exit: 0 done, 1 a median is more than 10 % slower than in FILE, 2 usage, 3 FILE cannot be "
    "read,\n"
    "      4 it has no lines, 6 a device, 7 a file cannot be written, 8 a result is not finite\n";

static int bad(const char *format, const char *word, const char *why)
{
    fprintf(stderr, "qwen-conform bench: ");
    fprintf(stderr, format, word, why);
    fputc('\n', stderr);
    return EXIT_USAGE;
}

static int read_number(const char *option, const char *value, int *out)
{
    char *end;
    const long v = strtol(value, &end, 10);
    if (*end || end == value || v < 1 || v > 100000)
        return bad("%s takes a number from 1 to 100000, not \"%s\"", option, value);
    *out = (int)v;
    return 0;
}

/* Reads argument *i and its value. */
static int read_argument(bench *b, int argc, char **argv, int *i)
{
    const char *a = argv[*i], *value = *i + 1 < argc ? argv[*i + 1] : NULL;
    char why[300];
    if (!strcmp(a, "--json")) return b->json = 1, 0;
    if (!strcmp(a, "--error")) return b->options.error = 1, 0;
    if (a[0] == '-') {
        static const char *const known[] = { "--device", "--threads", "--repeat", "--against",
                                             "--report" };
        int found = 0;
        for (size_t k = 0; k < sizeof known / sizeof *known; k++) found |= !strcmp(a, known[k]);
        if (!found) return bad("there is no option %s%s", a, "");
        if (!value) return bad("%s takes a value%s", a, "");
        ++*i;
        if (!strcmp(a, "--threads")) return read_number(a, value, &b->options.threads);
        if (!strcmp(a, "--repeat")) return read_number(a, value, &b->options.repeat);
        const char **const text = !strcmp(a, "--device")    ? &b->device
                                  : !strcmp(a, "--against") ? &b->against
                                                            : &b->report;
        return *text = value, 0;
    }
    if (b->works == WORKS) return bad("%s: too many works%s", a, "");
    if (qw_work_parse(&b->work[b->works++], a, why, sizeof why)) return bad("%s: %s", a, why);
    return 0;
}

static int open_devices(bench *b)
{
    const qw_device_options options = { .threads = b->options.threads };
    qw_error e = { 0 };
    int needed = 0;
    for (int i = 0; i < b->works; i++) needed |= b->work[i].kind != QW_WORK_ROOF;
    if (!needed && !b->device && !b->report) return 0;
    if (!qw_device_open(b->device, &options, &b->options.dev, &e)
        && !qw_device_open("ref", &options, &b->options.ref, &e))
        qw_device_open("ref64", &options, &b->options.oracle, &e);
    if (!e.status) return 0;
    fprintf(stderr, "qwen-conform bench: %s\n", e.text);
    return e.status == QWEN_EARG ? EXIT_USAGE : EXIT_DEVICE;
}

/* Prints what failed; returns the exit status. */
static int failure(const char *what, const qw_error *e)
{
    fprintf(stderr, "qwen-conform bench: %s%s%s\n", what, what[0] ? ": " : "", e->text);
    return e->status == QWEN_EIO        ? EXIT_OUTPUT
           : e->status == QWEN_ENUMERIC ? EXIT_NUMERIC
                                        : EXIT_DEVICE;
}

static int print(bench *b, qw_bench_row *row)
{
    if (b->earlier) {
        row->before = qw_against_find(b->earlier, row->work, row->device);
        if (row->device[0] && !(row->before > 0))
            fprintf(stderr, "qwen-conform bench: %s has no line of %s on %s\n", b->against,
                    row->work, row->device);
        b->slower |= qw_bench_slower(row);
    }
    if (b->json) qw_bench_print_json(stdout, row);
    else qw_bench_print(stdout, row);
    if (b->file) qw_report_row(b->file, row);
    return fflush(stdout) ? EXIT_OUTPUT : 0;
}

/* With a report, a work that fails is left out of it with the reason, and the others go on. */
static int run(bench *b)
{
    int status = 0;
    for (int i = 0; i < b->works; i++) {
        qw_bench_row row;
        qw_error e = { 0 };
        int failed = 0;
        if (!qw_bench_measure(&row, &b->work[i], &b->options, &e)) failed = print(b, &row);
        else failed = failure(row.work, &e);
        if (!status) status = failed;
        if (failed && !b->file) return failed;
        if (failed) qw_report_skip(b->file, row.work, e.text);
    }
    return status;
}

/* The files named by options, before anything is timed. */
static int open_files(bench *b)
{
    qw_error e = { 0 };
    if (b->against && qw_against_open(&b->earlier, b->against, &e)) {
        failure("", &e);
        return e.status == QWEN_EIO ? EXIT_INPUT : EXIT_FORMAT;
    }
    if (b->report && qw_report_begin(&b->file, b->report, &b->options, &e)) return failure("", &e);
    return 0;
}

int qw_bench_main(int argc, char **argv)
{
    bench b = { .options.roof = 1 };
    int status = 0;
    for (int i = 1; i < argc && !status; i++) {
        if (!strcmp(argv[i], "--help")) {
            fputs(usage, stdout);
            return 0;
        }
        status = read_argument(&b, argc, argv, &i);
    }
    if (!status && !b.works && !b.report) {
        fputs(usage, stderr);
        status = EXIT_USAGE;
    }
    if (!status) status = open_devices(&b);
    if (!status) status = open_files(&b);
    if (!status) status = run(&b);
    if (b.file) {
        qw_error e = { 0 };
        if (qw_report_end(b.file, b.options.oracle, &e) && !status) status = failure("", &e);
    }
    qw_against_free(b.earlier);
    qw_device *const opened[] = { b.options.dev, b.options.ref, b.options.oracle };
    for (int i = 0; i < 3; i++)
        if (opened[i]) opened[i]->close(opened[i]);
    return status ? status : b.slower ? EXIT_SLOWER : 0;
}
