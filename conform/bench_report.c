/* bench_report.c - a file for somebody who has not this machine: what it is, what was judged, what
 * was timed, what was left out and why. */
#include "bench_report.h"
#include "conform.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CASES = 6 };

struct qw_report {
    FILE *file, *cases; /* the file while it has another name; lines that come last */
    char path[1024], part[1040];
    qw_device *dev;
    int count[QW_NOPS][QW_NDTYPES][QW_NOUTCOMES];
    double worst[QW_NOPS][QW_NDTYPES];
};

/* --- the machine ------------------------------------------------------------------------------ */

static void write_machine(FILE *f, int threads)
{
    const qw_machine m = qw_machine_of(threads);
    const char *name;
    fprintf(f, "date: %s\nlibqwen: %s\ncompiler: %s\nsystem: %s\n", m.date, PACKAGE_VERSION,
            m.compiler, m.system);
    fprintf(f, "processor: %s, %d online, %d threads used\nmemory: %.3g GB\n", m.processor,
            m.online, m.threads, m.memory / 1e9);
    fputs("instruction sets of the roof:", f);
    for (int i = 0; qw_roof_set_at(i, &name); i++) fprintf(f, " %s", name);
    fputc('\n', f);
}

typedef struct seeker {
    FILE *f;
    const char *name;
} seeker;

/* Every device, its identity, and why it cannot be used. */
static int write_device(void *user, const qw_listing *d, int is_default)
{
    const seeker *s = user;
    fprintf(s->f, "%-22s %s", d->name, d->what);
    if (d->identity[0]) fprintf(s->f, "; %s", d->identity);
    if (d->memory) fprintf(s->f, "; %.3g GB", (double)d->memory / 1e9);
    if (!strcmp(d->name, s->name)) fputs("; of this report", s->f);
    if (is_default) fputs("; the default", s->f);
    if (d->why_not[0]) fprintf(s->f, "; left out: %s", d->why_not);
    fputc('\n', s->f);
    return 0;
}

/* --- cases ------------------------------------------------------------------------------------ */

static int note(void *user, const qw_case *c, const qw_verdict *v)
{
    static const char *const word[QW_NOUTCOMES] = { "passed", "declined", "failed" };
    qw_report *r = user;
    char line[400];
    const qw_dtype key = qw_case_key_of(c);
    r->count[c->op][key][v->outcome]++;
    if (v->ratio > r->worst[c->op][key]) r->worst[c->op][key] = v->ratio;
    qw_case_print(c, line, sizeof line);
    fprintf(r->cases, "%s %s", word[v->outcome], line);
    if (v->outcome == QW_PASSED) fprintf(r->cases, " ratio %.3g", v->ratio);
    else if (v->why[0]) fprintf(r->cases, ": %s", v->why);
    fputc('\n', r->cases);
    return 0;
}

static void write_coverage(const qw_report *r)
{
    fprintf(r->file, "\n# coverage: cases by operation and type\n%-12s %-9s %8s %8s %8s  %s\n", "",
            "", "passed", "declined", "failed", "worst ratio");
    for (int op = 0; op < QW_NOPS; op++)
        for (int t = 0; t < QW_NDTYPES; t++) {
            const int *n = r->count[op][t];
            if (n[QW_PASSED] + n[QW_DECLINED] + n[QW_FAILED] == 0) continue;
            fprintf(r->file, "%-12s %-9s %8d %8d %8d  %.3f\n", qw_op_table[op].name,
                    qw_dtype_name((qw_dtype)t), n[QW_PASSED], n[QW_DECLINED], n[QW_FAILED],
                    r->worst[op][t]);
        }
}

static void judge(qw_report *r, qw_device *oracle)
{
    qw_verdict v;
    qw_judge_device(r->dev, &v);
    fprintf(r->file, "\n# device\nmemory, copies, queues and clock: %s\n",
            v.outcome == QW_FAILED ? v.why : "passed");
    for (int op = 0; op < QW_NOPS; op++)
        for (int k = 0; qw_case_key((enum qw_op)op, k); k++)
            qw_judge_key(r->dev, oracle, (enum qw_op)op, qw_case_key((enum qw_op)op, k), CASES, 1,
                         1e6, note, r);
    write_coverage(r);
}

/* ---------------------------------------------------------------------------------------------- */

int qw_report_begin(qw_report **out, const char *path, const qw_bench_options *o, qw_error *err)
{
    qw_report *r = *out = calloc(1, sizeof *r);
    if (!r) return qw_fail(err, QWEN_ENOMEM, "no memory for a report");
    snprintf(r->path, sizeof r->path, "%s", path);
    snprintf(r->part, sizeof r->part, "%s.part", r->path);
    r->dev = o->dev;
    r->file = fopen(r->part, "w");
    r->cases = tmpfile();
    if (!r->file || !r->cases) {
        qw_fail(err, QWEN_EIO, "%s: %s", r->part, strerror(errno));
        qw_report_end(r, NULL, NULL);
        *out = NULL;
        return err->status;
    }
    fputs("# machine\n", r->file);
    write_machine(r->file, o->threads);
    fputs("\n# devices\n", r->file);
    qw_device_list(write_device, &(seeker){ r->file, r->dev->name });
    fputs("\n# timings\n", r->file);
    return QWEN_OK;
}

void qw_report_row(qw_report *r, const qw_bench_row *row) { qw_bench_print_json(r->file, row); }

void qw_report_skip(qw_report *r, const char *work, const char *why)
{
    fprintf(r->file, "left out: %s: %s\n", work, why);
}

static void copy(FILE *from, FILE *to)
{
    char part[4096];
    rewind(from);
    for (size_t n; (n = fread(part, 1, sizeof part, from)) > 0;) fwrite(part, 1, n, to);
}

int qw_report_end(qw_report *r, qw_device *oracle, qw_error *err)
{
    int failed = !oracle;
    if (oracle) {
        judge(r, oracle);
        fputs("\n# cases\n", r->file);
        copy(r->cases, r->file);
        failed = fflush(r->file) || ferror(r->file) || ferror(r->cases);
    }
    if (r->cases) fclose(r->cases);
    if (r->file && fclose(r->file)) failed = 1;
    if (!failed && rename(r->part, r->path)) failed = 1;
    if (failed) {
        if (err) qw_fail(err, QWEN_EIO, "%s: %s", r->path, strerror(errno));
        if (r->file) unlink(r->part);
    }
    free(r);
    return failed;
}
