/* progress.c - progress of a run: a bar on a terminal, lines elsewhere; and signals. */
#include "cli.h"
#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t signals;

/* The first signal stops the run; the second removes a half-written file and ends the program. */
static void on_signal(int number)
{
    if (signals) {
        output_interrupted();
        signal(number, SIG_DFL);
        raise(number);
    }
    signals = 1;
}

void interrupt_install(void)
{
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_signal;
    a.sa_flags = SA_RESTART;
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    struct sigaction old;
    if (!sigaction(SIGHUP, NULL, &old) && old.sa_handler != SIG_IGN) sigaction(SIGHUP, &a, NULL);
    signal(SIGPIPE, SIG_IGN); /* fwrite fails instead, and the failure is reported */
    signal(SIGXFSZ, SIG_IGN);
}

int interrupted(void) { return signals != 0; }

double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void progress_begin(progress *p, const settings *s, int64_t picture, int64_t pictures)
{
    const char *style = s->progress ? s->progress : s->quiet ? "none" : "auto";
    memset(p, 0, sizeof *p);
    p->style = !strcmp(style, "none")    ? 0
               : !strcmp(style, "plain") ? 1
               : !strcmp(style, "bar")   ? 2
               : isatty(STDERR_FILENO)   ? 2
                                         : 1;
    p->picture = picture;
    p->pictures = pictures;
    p->started = p->phase_started = seconds_now();
    p->step = -1;
}

static const char *phase_name(const char *phase)
{
    static const char *const names[][2] = { { "text", "reading the prompt" },
                                            { "vision", "looking at the picture" },
                                            { "encode", "encoding the picture" },
                                            { "denoise", "denoising" },
                                            { "decode", "decoding" } };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(phase, names[i][0])) return names[i][1];
    return phase;
}

static void time_text(double seconds, char out[32])
{
    const long n = (long)ceil(seconds < 1e8 ? seconds : 1e8);
    if (n < 60) snprintf(out, 32, "%lds", n);
    else if (n < 3600) snprintf(out, 32, "%ldm %02lds", n / 60, n % 60);
    else snprintf(out, 32, "%ldh %02ldm", n / 3600, n / 60 % 60);
}

static int columns(void)
{
    struct winsize w;
    return !ioctl(STDERR_FILENO, TIOCGWINSZ, &w) && w.ws_col > 0 ? w.ws_col : 80;
}

/* The part of the phase that is done, 0..1. */
static double share_done(const qwen_progress *now)
{
    const double block = now->blocks > 0 ? fmin(1, (double)now->block / now->blocks) : 0;
    return now->steps > 0 ? fmin(1, (now->step + block) / now->steps) : 0;
}

static void draw_bar(progress *p, const qwen_progress *now, double t)
{
    char left[64], time[32] = "", bar[128];
    const double part = share_done(now), spent = t - p->phase_started;
    const int several = p->pictures > 1, done = now->steps > 0 && now->step >= now->steps;
    if (done) time_text(spent, time);
    else if (part > 0 && spent > 0.5) time_text(spent * (1 - part) / part, time);
    const int step = now->step < now->steps ? now->step + 1 : now->steps;
    snprintf(left, sizeof left, "%s %d/%d", phase_name(p->phase), step, now->steps);
    int room = columns() - 60;
    room = room < 8 ? 8 : room > 40 ? 40 : room;
    const int full = (int)(part * room);
    for (int i = 0; i < room; i++) bar[i] = i < full ? '#' : '.';
    bar[room] = 0;
    fprintf(stderr, "\r");
    if (several) fprintf(stderr, "%lld/%lld ", (long long)p->picture, (long long)p->pictures);
    fprintf(stderr, "%-28s [%s] %s%s\033[K", left, bar, time, done ? "" : *time ? " left" : "");
    p->line = 1;
    if (done) progress_line(p);
    fflush(stderr);
}

void progress_line(progress *p)
{
    if (p->line) fputc('\n', stderr);
    p->line = 0;
}

/* Prints a line when a phase begins and after each step; of more than 20 steps after each tenth. */
static void print_line(progress *p, const qwen_progress *now, int new_phase, double t)
{
    char time[32];
    const int every = now->steps > 20 ? (now->steps + 9) / 10 : 1;
    const int done = now->step >= now->steps;
    if (now->step == p->step || (!new_phase && !done && now->step % every)
        || (done && now->steps < 2))
        return;
    if (p->pictures > 1)
        fprintf(stderr, "%lld/%lld ", (long long)p->picture, (long long)p->pictures);
    if (now->step <= 0 || now->steps < 2) {
        fprintf(stderr, "%s\n", phase_name(p->phase));
        return;
    }
    const double spent = t - p->phase_started;
    time_text(done ? spent : spent * (now->steps - now->step) / now->step, time);
    fprintf(stderr, "%s %d/%d, %s%s\n", phase_name(p->phase), now->step, now->steps, time,
            done ? "" : " left");
}

int progress_show(progress *p, const qwen_progress *now)
{
    const double t = seconds_now();
    if (interrupted()) return 1;
    if (!p->style || !now->phase) return 0;
    const int new_phase = strcmp(p->phase, now->phase) != 0;
    if (new_phase) {
        progress_line(p);
        snprintf(p->phase, sizeof p->phase, "%s", now->phase);
        p->phase_started = t;
        p->step = -1;
        p->shown = 0;
    }
    if (p->style == 1) {
        print_line(p, now, new_phase, t);
    } else if (new_phase || now->step != p->step || t - p->shown > 0.1) {
        if (now->step != p->step || now->step < now->steps) draw_bar(p, now, t);
        p->shown = t;
    }
    p->step = now->step;
    return 0;
}

void progress_end(progress *p) { progress_line(p); }
