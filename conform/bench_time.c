/* bench_time.c - repetitions: what the scheduler took from each, which of them count, when they
 * agree; and a thread that samples the memory of the process. */
#include "bench.h"
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { LEAST = 3, MOST = 4096 };
static const double DISTURBED = 0.02, SPREAD = 0.02;

/* --- statistics ------------------------------------------------------------------------------- */

static double share(const qw_spell *s) { return s->seconds > 0 ? s->lost / s->seconds : 0; }

static int by_share(const void *a, const void *b)
{
    const double x = share(a), y = share(b);
    return (x > y) - (x < y);
}

static int by_seconds(const void *a, const void *b)
{
    const double x = ((const qw_spell *)a)->seconds, y = ((const qw_spell *)b)->seconds;
    return (x > y) - (x < y);
}

/* Copies those that count, by their seconds: the undisturbed ones, or the three that were disturbed
 * least. */
static int counted(const qw_spell *s, int n, qw_spell *out)
{
    int keep = 0;
    if (n > MOST) n = MOST;
    if (n < 1) return 0;
    memcpy(out, s, (size_t)n * sizeof *s);
    qsort(out, (size_t)n, sizeof *out, by_share);
    while (keep < n && (keep < LEAST || share(&out[keep]) <= DISTURBED)) keep++;
    qsort(out, (size_t)keep, sizeof *out, by_seconds);
    return keep;
}

static double middle(const qw_spell *s, int n)
{
    return n % 2 ? s[n / 2].seconds : (s[n / 2 - 1].seconds + s[n / 2].seconds) / 2;
}

qw_times qw_times_of(const qw_spell *s, int n)
{
    static const qw_times none;
    qw_spell *kept = malloc(MOST * sizeof *kept);
    const int keep = kept ? counted(s, n, kept) : 0;
    qw_times t = none;
    if (keep)
        t = (qw_times){ .median = middle(kept, keep),
                        .best = kept[0].seconds,
                        .worst = kept[keep - 1].seconds,
                        .repeat = keep,
                        .dropped = n - keep };
    for (int i = 0; i < keep; i++) t.disturbed += share(&kept[i]) > DISTURBED;
    free(kept);
    return t;
}

/* The half in the middle, or all of three. */
int qw_times_settled(const qw_spell *s, int n)
{
    qw_spell *kept = malloc(MOST * sizeof *kept);
    const int keep = kept ? counted(s, n, kept) : 0, off = keep / 4;
    int quiet = keep >= LEAST;
    for (int i = 0; i < keep; i++) quiet = quiet && share(&kept[i]) <= DISTURBED;
    if (quiet)
        quiet = kept[keep - 1 - off].seconds - kept[off].seconds < SPREAD * middle(kept, keep);
    free(kept);
    return quiet;
}

/* --- what the scheduler took ------------------------------------------------------------------ */

/* Seconds that the threads of this process have waited for a processor; negative: unknown. */
static double waited(void)
{
    DIR *d = opendir("/proc/self/task");
    double sum = 0;
    int found = 0;
    if (!d) return -1;
    for (const struct dirent *e; (e = readdir(d)) != NULL;) {
        char path[300];
        unsigned long long ran, wait;
        snprintf(path, sizeof path, "/proc/self/task/%.200s/schedstat", e->d_name);
        FILE *f = e->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (!f) continue;
        if (fscanf(f, "%llu %llu", &ran, &wait) == 2) {
            sum += (double)wait * 1e-9;
            found = 1;
        }
        fclose(f);
    }
    closedir(d);
    return found ? sum : -1;
}

/* Seconds that the host of a virtual machine has taken from all its processors. */
static double stolen(void)
{
    unsigned long long t[8] = { 0 };
    FILE *f = fopen("/proc/stat", "r");
    const int n = !f ? 0
                     : fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &t[0], &t[1], &t[2],
                              &t[3], &t[4], &t[5], &t[6], &t[7]);
    if (f) fclose(f);
    const long ticks = sysconf(_SC_CLK_TCK);
    return n == 8 && ticks > 0 ? (double)t[7] / (double)ticks : 0;
}

qw_watch qw_watch_start(void)
{
    struct rusage u = { 0 };
    getrusage(RUSAGE_SELF, &u);
    return (qw_watch){
        .waited = waited(), .stolen = stolen(), .switches = u.ru_nivcsw, .at = qw_seconds()
    };
}

/* Where the system does not say how long threads waited, an involuntary switch counts as 2 ms. */
double qw_watch_lost(const qw_watch *from, int threads)
{
    const qw_watch now = qw_watch_start();
    const double wait = from->waited < 0 || now.waited < 0
                            ? 2e-3 * (double)(now.switches - from->switches)
                            : now.waited - from->waited;
    const double sum = wait + (now.stolen - from->stolen);
    return sum > 0 ? sum / (threads > 0 ? threads : 1) : 0;
}

/* --- memory ----------------------------------------------------------------------------------- */

struct qw_sampler {
    pthread_t thread;
    atomic_int stop;
    double most;
};

/* RssAnon in bytes, or 0. */
static double anonymous(void)
{
    char line[200];
    unsigned long long kilobytes = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "RssAnon: %llu", &kilobytes) == 1) break;
    if (f) fclose(f);
    return 1024.0 * (double)kilobytes;
}

static void *sample(void *arg)
{
    qw_sampler *s = arg;
    for (;;) {
        const double now = anonymous();
        if (now > s->most) s->most = now;
        if (atomic_load(&s->stop)) return NULL;
        nanosleep(&(struct timespec){ .tv_nsec = 4000000 }, NULL);
    }
}

qw_sampler *qw_sampler_start(void)
{
    qw_sampler *s = calloc(1, sizeof *s);
    if (s && !pthread_create(&s->thread, NULL, sample, s)) return s;
    free(s);
    return NULL;
}

double qw_sampler_stop(qw_sampler *s)
{
    if (!s) return 0;
    atomic_store(&s->stop, 1);
    pthread_join(s->thread, NULL);
    const double most = s->most;
    free(s);
    return most;
}
