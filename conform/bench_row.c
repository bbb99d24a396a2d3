/* bench_row.c - one row of the benchmark: places a work, warms up, repeats, compares, prints. */
#include "bench_row.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { REPEAT = 7, MOST = 200, SAMPLE = 16 };
/* A repetition lasts TURN seconds or longer: short works run several times in it.  Without a number
 * of repetitions, they go on for WHILE seconds. */
static const double TURN = 0.02, WHILE = 1.5;

/* Relative distance in the Euclidean norm. */
static double distance(const double *a, const double *want, int64_t n)
{
    double d = 0, all = 0;
    for (int64_t i = 0; i < n; i++) {
        d += (a[i] - want[i]) * (a[i] - want[i]);
        all += want[i] * want[i];
    }
    return sqrt(d / (all > 0 ? all : 1));
}

static int sampled(const qw_work *w)
{
    return w->kind == QW_WORK_GEMM || w->kind == QW_WORK_ATTENTION;
}

/* Rows that are compared: of all, where they are few. */
static int64_t sample_of(const qw_work *w)
{
    const int64_t rows = w->dim[w->kind == QW_WORK_ATTENTION];
    return !sampled(w) ? 0 : rows < SAMPLE ? rows : SAMPLE;
}

/* The same work on the oracle, against what the device has computed. */
static int compare(qw_bench_row *row, const qw_work_file *f, const qw_bench_options *o,
                   const double *got, int64_t n, qw_error *err)
{
    qw_placed *p = NULL;
    double *want = NULL, seconds;
    int64_t count = 0;
    if (!qw_place(&p, f, o->oracle, NULL, sample_of(&f->work), err)
        && !qw_placed_run(p, &seconds, err) && !qw_placed_result(p, 0, &want, &count, err))
        row->error = count == n ? distance(got, want, n) : NAN;
    free(want);
    qw_placed_free(p);
    return err->status;
}

/* One repetition of `times` runs. */
static int repeat_once(qw_placed *p, int times, int threads, qw_spell *s, qw_error *err)
{
    double sum = 0, seconds = 0;
    const qw_watch watch = qw_watch_start();
    for (int i = 0; i < times && !err->status; i++) {
        qw_placed_run(p, &seconds, err);
        sum += seconds;
    }
    const double all = qw_seconds() - watch.at;
    s->seconds = sum / times;
    s->lost = all > 0 ? qw_watch_lost(&watch, threads) * s->seconds / all
                      : 0; /* of the ops' share */
    return err->status;
}

static int repeat(qw_bench_row *row, qw_placed *p, const qw_bench_options *o, qw_error *err)
{
    qw_spell *s = calloc(MOST, sizeof *s);
    double warm = row->cold;
    if (!s) return qw_fail(err, QWEN_ENOMEM, "no memory for repetitions");
    if (warm < TURN) qw_placed_run(p, &warm, err);
    const int times = warm < TURN ? (int)(TURN / (warm > 1e-6 ? warm : 1e-6)) + 1 : 1;
    const double fit = WHILE / (warm * times);
    const int chosen = fit > MOST ? MOST : fit > REPEAT ? (int)fit : REPEAT;
    const int most = !o->repeat ? chosen : o->repeat < MOST ? o->repeat : MOST;
    int n = 0;
    while (n < most && !err->status && (n < 3 || !qw_times_settled(s, n)))
        repeat_once(p, times, o->threads ? o->threads : qw_threads(), &s[n++], err);
    row->times = qw_times_of(s, n);
    free(s);
    return err->status;
}

/* The roof before and after: the better of the two. */
static int between_roofs(qw_bench_row *row, qw_placed *p, const qw_bench_options *o, qw_error *err)
{
    qw_roof before, after;
    if (!row->has_roof) return repeat(row, p, o, err);
    qw_roof_measure(&before, o->threads);
    if (repeat(row, p, o, err)) return err->status;
    const double end = qw_seconds();
    qw_roof_measure(&after, o->threads);
    row->seconds_ago = end - before.at;
    row->roof = qw_roof_best(&before, &after);
    row->floor = qw_work_floor(&row->roof, row->arithmetic, row->flops, row->bytes);
    return err->status;
}

static int measure(qw_bench_row *row, const qw_work_file *f, const qw_bench_options *o,
                   qw_error *err)
{
    qw_placed *p = NULL;
    double *got = NULL;
    int64_t n = 0;
    const int wanted = sampled(&f->work) || o->error;
    qw_sampler *sampler = qw_sampler_start();
    if (!qw_place(&p, f, o->dev, o->ref, 0, err)) qw_placed_run(p, &row->cold, err);
    row->rss_anon = qw_sampler_stop(sampler);
    if (!err->status) qw_placed_result(p, sample_of(&f->work), &got, &n, err);
    if (!err->status) {
        row->flops = qw_placed_flops(p);
        row->bytes = qw_placed_bytes(p);
        between_roofs(row, p, o, err);
        row->declined = qw_placed_declined(p);
    }
    qw_placed_free(p);
    if (!err->status && wanted) compare(row, f, o, got, n, err);
    free(got);
    return err->status;
}

int qw_bench_measure(qw_bench_row *row, const qw_work *w, const qw_bench_options *o, qw_error *err)
{
    *row = (qw_bench_row){ .error = -1, .has_roof = 1, .threads = o->threads };
    qw_work_print(w, row->work, sizeof row->work);
    if (w->kind == QW_WORK_ROOF) {
        qw_roof_measure(&row->roof, o->threads);
        return QWEN_OK;
    }
    qw_work_file f;
    snprintf(row->device, sizeof row->device, "%s", o->dev->name);
    row->has_roof = o->roof && o->dev->host;
    row->arithmetic = qw_work_arithmetic(w, o->dev->name);
    if (!qw_work_file_open(&f, w, err)) measure(row, &f, o, err);
    qw_work_file_close(&f);
    return err->status;
}

int qw_bench_slower(const qw_bench_row *row)
{
    return row->before > 0 && row->times.median > 1.1 * row->before;
}

/* --- lines ------------------------------------------------------------------------------------ */

/* ", "name": number", or null where there is none. */
static void number(FILE *f, const char *name, double x, int there)
{
    if (there && isfinite(x)) fprintf(f, ", \"%s\": %.5g", name, x);
    else fprintf(f, ", \"%s\": null", name);
}

static void print_roof(FILE *f, const qw_bench_row *row)
{
    fputs(", \"roof\": ", f);
    if (!row->has_roof) {
        fputs("null", f);
        return;
    }
    for (int i = 0; i < QW_ROOFS; i++) {
        fprintf(f, "%s\"%s\": ", i ? ", " : "{", qw_roof_name[i]);
        if (row->roof.of[i] > 0) fprintf(f, "%.4g", row->roof.of[i]);
        else fputs("null", f);
    }
    fprintf(f, ", \"seconds_ago\": %.1f}", row->seconds_ago);
}

/* The line of the roof says where all lines after it were measured. */
static void print_machine(FILE *f, int threads)
{
    const qw_machine m = qw_machine_of(threads);
    fprintf(f,
            ", \"libqwen\": \"%s\", \"processor\": \"%s\", \"online\": %d, \"threads\": %d, "
            "\"memory\": %.4g, \"system\": \"%s\", \"compiler\": \"%s\", \"date\": \"%s\"",
            PACKAGE_VERSION, m.processor, m.online, m.threads, m.memory, m.system, m.compiler,
            m.date);
}

void qw_bench_print_json(FILE *f, const qw_bench_row *row)
{
    const qw_times *t = &row->times;
    const int timed = t->repeat > 0;
    fprintf(f, "{\"work\": \"%s\", \"device\": ", row->work);
    if (row->device[0]) fprintf(f, "\"%s\"", row->device); /* names have no quotes */
    else fputs("null", f);
    number(f, "median", t->median, timed);
    number(f, "best", t->best, timed);
    number(f, "worst", t->worst, timed);
    fprintf(f, ", \"repeat\": %d, \"dropped\": %d, \"disturbed\": %d", t->repeat, t->dropped,
            t->disturbed);
    number(f, "cold", row->cold, timed);
    number(f, "floor", row->floor, row->floor > 0);
    number(f, "ratio", t->median / row->floor, timed && row->floor > 0);
    number(f, "flops", row->flops, timed);
    number(f, "rss_anon", row->rss_anon, row->rss_anon > 0);
    number(f, "error", row->error, row->error >= 0);
    if (row->before > 0) number(f, "against", t->median / row->before, timed);
    fprintf(f, ", \"declined\": %llu", (unsigned long long)row->declined);
    print_roof(f, row);
    if (!row->device[0]) print_machine(f, row->threads);
    fputs("}\n", f);
}

void qw_bench_print(FILE *f, const qw_bench_row *row)
{
    if (!row->device[0]) {
        fprintf(f, "%-32s", row->work);
        for (int i = 0; i < QW_ROOFS; i++) {
            const char *unit = i == QW_ROOF_READ ? "GB/s" : "GFLOP/s";
            if (row->roof.of[i] > 0)
                fprintf(f, "  %s %.1f %s", qw_roof_name[i], row->roof.of[i] / 1e9, unit);
            else fprintf(f, "  no %s", qw_roof_name[i]);
        }
        fputc('\n', f);
        return;
    }
    fprintf(f, "%-32s %-22s %10.4f s", row->work, row->device, row->times.median);
    if (row->floor > 0) fprintf(f, "  %6.3f x floor", row->times.median / row->floor);
    else fprintf(f, "  %14s", "no floor");
    fprintf(f, "  %8.1f GFLOP/s", row->flops / row->times.median / 1e9);
    if (row->error >= 0) fprintf(f, "  error %.1e", row->error);
    if (row->times.disturbed) fputs("  (disturbed)", f);
    if (row->before > 0)
        fprintf(f, "  %.2f x before%s", row->times.median / row->before,
                qw_bench_slower(row) ? ": slower" : "");
    if (row->declined)
        fprintf(f, "  (%llu ops by the reference)", (unsigned long long)row->declined);
    fputc('\n', f);
}
