/* schedule.c - the sigmas of the steps, 1 noise .. 0 picture: diffusers' schedule and ComfyUI's.
 *
 * Every operation of diffusers' schedule (FlowMatchEulerDiscreteScheduler.set_timesteps) is
 * computed in float32, as there, and the result is equal bit for bit; double rounded at the end
 * differs. exp(mu) is libm's in double rounded to float32: libms differ by 2^-29 of a float32
 * unit, which changes the result only beside a rounding boundary.  ComfyUI's schedules
 * (comfy/samplers.py) are computed in double from its table of sigmas and rounded at the end:
 * they agree with its float32 to about 1e-7, by which ComfyUI's own results vary. */
#include "host/noise.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_STEPS = 10000 };

void qw_schedule_free(qw_schedule *s)
{
    if (!s) return;
    free(s->sigma);
    free(s->timestep);
    memset(s, 0, sizeof *s);
}

static int new_schedule(qw_schedule *s, int steps, qw_error *err)
{
    s->steps = steps;
    s->mu = (double)NAN;
    s->sigma = calloc((size_t)steps + 1, sizeof *s->sigma);
    s->timestep = calloc((size_t)steps + 1, sizeof *s->timestep);
    if (s->sigma && s->timestep) return QWEN_OK;
    qw_schedule_free(s);
    return qw_fail(err, QWEN_ENOMEM, "no memory for a schedule of %d steps", steps);
}

static void set_timesteps(qw_schedule *s, int64_t train_steps)
{
    for (int i = 0; i < s->steps; i++) s->timestep[i] = s->sigma[i] * (float)train_steps;
}

/* --- explicit sigmas -------------------------------------------------------------------------- */

static int check_sigmas(const qw_schedule_request *q, int n, qw_error *err)
{
    for (int i = 0; i < n; i++) {
        const double s = q->sigmas[i];
        if (!(s > 0 && s <= 1))
            return qw_fail(err, QWEN_EARG, "sigma %d is %g, expected more than 0 and at most 1",
                           i + 1, s);
        if (i && !(s < q->sigmas[i - 1]))
            return qw_fail(err, QWEN_EARG,
                           "sigma %d is %g, expected less than the one before it, %g", i + 1, s,
                           q->sigmas[i - 1]);
    }
    return QWEN_OK;
}

static int check_steps(int steps, qw_error *err)
{
    if (steps >= 1 && steps <= MOST_STEPS) return QWEN_OK;
    return qw_fail(err, QWEN_EARG, "%d steps, expected 1 to %d", steps, MOST_STEPS);
}

/* The sigmas as given, with or without the final 0. */
static int make_raw(qw_schedule *s, const qw_schedule_request *q, int64_t train_steps,
                    qw_error *err)
{
    if (!q->sigmas) return qw_fail(err, QWEN_EARG, "the schedule \"raw\" needs a list of sigmas");
    const int n = q->n_sigmas > 0 && q->sigmas[q->n_sigmas - 1] == 0 ? q->n_sigmas - 1
                                                                     : q->n_sigmas;
    if (check_steps(n, err) || check_sigmas(q, n, err)) return err->status;
    if (q->steps > 0 && q->steps != n)
        return qw_fail(err, QWEN_EARG, "%d steps contradict a list of %d sigmas", q->steps, n);
    if (new_schedule(s, n, err)) return err->status;
    for (int i = 0; i < n; i++) s->sigma[i] = (float)q->sigmas[i];
    set_timesteps(s, train_steps);
    return QWEN_OK;
}

/* --- diffusers -------------------------------------------------------------------------------- */

static const qw_schedule_config published = { .shift = 1,
                                              .base_shift = 0.5,
                                              .max_shift = 0.9,
                                              .terminal = 0.02,
                                              .base_len = 256,
                                              .max_len = 8192,
                                              .train_steps = 1000,
                                              .dynamic = 1 };

/* The scheduler of the published Lightning models: one shift (3) at every size, no terminal. */
static qw_schedule_config lightning(qw_schedule_config c, double shift)
{
    c.dynamic = 1;
    c.linear = 0;
    const double three = 1.0986122886681098; /* ln 3 as in the published file */
    c.base_shift = c.max_shift = shift > 0 && shift != 3 ? log(shift) : three;
    c.terminal = 0;
    return c;
}

static double mu_of(const qw_schedule_request *q, const qw_schedule_config *c)
{
    if (q->layered) return sqrt((double)q->condition_tokens / 256);
    const double m = (c->max_shift - c->base_shift) / (double)(c->max_len - c->base_len);
    return (double)q->tokens * m + (c->base_shift - m * (double)c->base_len);
}

/* numpy.linspace(1, 1/N, N), or the sigmas of the request. */
static double unshifted(const qw_schedule_request *q, int i, int n)
{
    if (q->sigmas) return q->sigmas[i];
    if (n == 1) return 1;
    if (i == n - 1) return 1.0 / n;
    return 1 + i * ((1.0 / n - 1) / (n - 1));
}

/* Stretches the list so that its last sigma becomes `terminal`, in float32.  A last sigma of 1,
 * where diffusers divides 0 by 0, is not stretched. */
static void stretch(float *sigma, int n, double terminal)
{
    const float scale = (1.0f - sigma[n - 1]) / (float)(1 - terminal);
    if (scale == 0) return;
    for (int i = 0; i < n; i++) {
        const float z = 1.0f - sigma[i], stretched = z / scale;
        sigma[i] = 1.0f - stretched;
    }
}

static int make_diffusers(qw_schedule *s, const qw_schedule_request *q, qw_schedule_config c,
                          qw_error *err)
{
    const int n = q->sigmas ? q->n_sigmas : q->steps;
    if (check_steps(n, err) || (q->sigmas && check_sigmas(q, n, err))) return err->status;
    if (q->sigmas && q->steps > 0 && q->steps != n)
        return qw_fail(err, QWEN_EARG, "%d steps contradict a list of %d sigmas", q->steps, n);
    if (q->shift > 0) {
        c.dynamic = 0;
        c.shift = q->shift;
    }
    double mu = (double)NAN;
    if (c.dynamic) {
        if (c.max_len == c.base_len)
            return qw_fail(err, QWEN_EMODEL,
                           "the scheduler's max_image_seq_len and base_image_seq_len are both %lld",
                           (long long)c.max_len);
        mu = mu_of(q, &c);
    }
    const float e = (float)(c.linear ? mu : exp(mu));
    const float shift = (float)c.shift, less = (float)(c.shift - 1);
    if (c.dynamic && !(e > 0 && e <= 3e38f))
        return qw_fail(err, QWEN_EARG, "the schedule's shift mu is %g, which is no shift", mu);
    if (new_schedule(s, n, err)) return err->status;
    s->mu = mu;
    for (int i = 0; i < n; i++) {
        const float t = (float)unshifted(q, i, n);
        if (c.dynamic) {
            const float rest = 1.0f / t - 1.0f;
            s->sigma[i] = e / (e + rest);
        } else {
            const float below = 1.0f + less * t, above = shift * t;
            s->sigma[i] = above / below;
        }
    }
    if (c.terminal > 0) stretch(s->sigma, n, c.terminal);
    set_timesteps(s, c.train_steps);
    return QWEN_OK;
}

/* --- ComfyUI ---------------------------------------------------------------------------------- */

typedef struct comfy { /* comfy/model_sampling.py: ModelSamplingFlux, ModelSamplingDiscreteFlow */
    double shift;      /* linear: sigma(t) = shift t / (1 + (shift - 1) t) */
    int n;             /* entries of the table, t = k/n for k = 1 .. n */
    int steps;         /* steps of the request, and one more for samplers that drop one */
    double *out;       /* [room] sigmas so far; the one that is dropped is among them */
    int count;
} comfy;

static double shifted(const comfy *m, double t) { return m->shift * t / (1 + (m->shift - 1) * t); }

static double table(const comfy *m, int k) /* k = 0 .. n - 1, ascending */
{
    return shifted(m, (k + 1) / (double)m->n);
}

static void append(comfy *m, double sigma) { m->out[m->count++] = sigma; }

static void simple(comfy *m)
{
    const double stride = (double)m->n / m->steps;
    for (int i = 0; i < m->steps; i++) append(m, table(m, m->n - 1 - (int)(i * stride)));
    append(m, 0);
}

/* As ComfyUI, applies the shift to end points that are shifted already. */
static void normal(comfy *m, int uniform)
{
    const double a = table(m, m->n - 1), b = table(m, 0);
    const int vanishing = !uniform && fabs(shifted(m, b)) < 1e-5;
    const int n = m->steps + vanishing, spaces = uniform ? n : n - 1;
    for (int i = 0; i < n; i++) append(m, shifted(m, spaces ? a + (b - a) * i / spaces : a));
    if (vanishing) m->out[m->count - 1] = 0;
    else append(m, 0);
}

/* The continued fraction of the incomplete beta function (Lentz; DLMF 8.17.22), 0 < x < 1. */
static double beta_fraction(double x, double a, double b)
{
    double c = 1, d = 1 / (1 - (a + b) * x / (a + 1)), f = d;
    for (int m = 1; m < 200; m++) {
        const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        d = 1 / (1 + even * d);
        c = 1 + even / c;
        f *= c * d;
        const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        d = 1 / (1 + odd * d);
        c = 1 + odd / c;
        f *= c * d;
        if (fabs(c * d - 1) < 1e-16) break;
    }
    return f;
}

/* x with I_x(0.6, 0.6) = p, 0 <= p <= 1. */
static double beta_inverse(double p)
{
    const double a = 0.6, b = 0.6, whole = tgamma(a) * tgamma(b) / tgamma(a + b);
    if (p <= 0 || p >= 1 || p == 0.5) return p;
    if (p > 0.5) return 1 - beta_inverse(1 - p);
    double low = 0, high = 0.5;
    for (int i = 0; i < 80; i++) {
        const double x = 0.5 * (low + high);
        const double value = pow(x, a) * pow(1 - x, b) / (a * whole) * beta_fraction(x, a, b);
        if (value < p) low = x;
        else high = x;
    }
    return 0.5 * (low + high);
}

static void beta(comfy *m)
{
    int last = -1;
    for (int i = 0; i < m->steps; i++) {
        const int k = (int)rint(beta_inverse(1 - i * (1.0 / m->steps)) * (m->n - 1));
        if (k != last) append(m, table(m, k));
        last = k;
    }
    append(m, 0);
}

static void karras(comfy *m)
{
    const double rho = 7, a = pow(table(m, m->n - 1), 1 / rho), b = pow(table(m, 0), 1 / rho);
    for (int i = 0; i < m->steps; i++)
        append(m, pow(a + (m->steps > 1 ? i / (m->steps - 1.0) : 0) * (b - a), rho));
    append(m, 0);
}

static void exponential(comfy *m)
{
    const double a = log(table(m, m->n - 1)), b = log(table(m, 0));
    for (int i = 0; i < m->steps; i++)
        append(m, exp(a + (m->steps > 1 ? i / (m->steps - 1.0) : 0) * (b - a)));
    append(m, 0);
}

static void ddim_uniform(comfy *m) /* may have more steps than the request, as ComfyUI's */
{
    const int stride = m->n / m->steps > 1 ? m->n / m->steps : 1;
    int last = 1;
    while (last + stride < m->n) last += stride;
    for (int k = last; k >= 1; k -= stride) append(m, table(m, k));
    append(m, 0);
}

static void linear_quadratic(comfy *m)
{
    const int n = m->steps, half = n / 2, rest = n - half;
    const double threshold = 0.025, top = table(m, m->n - 1);
    if (n == 1) {
        append(m, top);
        append(m, 0);
        return;
    }
    const double d = half - threshold * n, a = d / ((double)half * rest * rest);
    const double b = threshold / half - 2 * d / ((double)rest * rest), c = a * half * half;
    for (int i = 0; i < half; i++) append(m, top * (1 - i * threshold / half));
    for (int i = half; i < n; i++) append(m, top * (1 - (a * i * i + b * i + c)));
    append(m, 0);
}

static void kl_optimal(comfy *m)
{
    const double low = atan(table(m, 0)), high = atan(table(m, m->n - 1));
    for (int i = 0; i < m->steps; i++) {
        const double r = i / (m->steps - 1.0);
        append(m, tan(r * low + (1 - r) * high));
    }
    append(m, 0);
}

static void sgm_uniform(comfy *m) { normal(m, 1); }
static void plain_normal(comfy *m) { normal(m, 0); }

static const struct {
    const char *name;
    void (*fill)(comfy *m);
} comfy_schedule[] = { { "simple", simple },
                       { "normal", plain_normal },
                       { "sgm_uniform", sgm_uniform },
                       { "beta", beta },
                       { "karras", karras },
                       { "exponential", exponential },
                       { "ddim_uniform", ddim_uniform },
                       { "linear_quadratic", linear_quadratic },
                       { "kl_optimal", kl_optimal } };
enum { COMFY_SCHEDULES = sizeof comfy_schedule / sizeof *comfy_schedule };

/* ComfyUI runs these samplers with one step more and drops the last sigma but one. */
static int drops_penultimate(const char *sampler)
{
    static const char *const name[] = { "dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2" };
    for (size_t i = 0; sampler && i < sizeof name / sizeof *name; i++)
        if (!strcmp(sampler, name[i])) return 1;
    return 0;
}

static int make_comfy(qw_schedule *s, const qw_schedule_request *q, int which, qw_error *err)
{
    const int part = q->denoise > 0 && q->denoise <= 0.9999;
    if (q->sigmas)
        return qw_fail(
            err, QWEN_EARG,
            "the schedule \"%s\" makes its own sigmas; a list goes with \"raw\" or \"qwen\"",
            comfy_schedule[which].name);
    if (check_steps(q->steps, err)) return err->status;
    const double all = part ? q->steps / q->denoise : q->steps;
    if (!(all < MOST_STEPS + 1.0))
        return qw_fail(err, QWEN_EARG,
                       "%d steps at denoise %g are %.0f in all, expected at most %d", q->steps,
                       q->denoise, all, MOST_STEPS);
    const int dropped = drops_penultimate(q->sampler);
    comfy m = { .n = q->shift > 0 ? 1000 : 10000,
                .shift = q->shift > 0 ? q->shift : exp(1.15),
                .steps = (int)all + dropped };
    if (comfy_schedule[which].fill == kl_optimal && m.steps == 1)
        return qw_fail(err, QWEN_EARG, "the schedule \"kl_optimal\" needs at least 2 steps");
    m.out = malloc(((size_t)m.steps + 10002) * sizeof *m.out); /* ddim_uniform may fill the table */
    if (!m.out) return qw_fail(err, QWEN_ENOMEM, "no memory for a schedule of %d steps", m.steps);
    comfy_schedule[which].fill(&m);
    if (dropped && m.count > 2) {
        m.out[m.count - 2] = m.out[m.count - 1];
        m.count--;
    }
    const int keep = part && m.count > q->steps + 1 ? q->steps + 1 : m.count;
    if (!new_schedule(s, keep - 1, err)) {
        for (int i = 0; i < keep; i++) s->sigma[i] = (float)m.out[m.count - keep + i];
        set_timesteps(s, 1000);
    }
    free(m.out);
    return err->status;
}

/* --- by name ---------------------------------------------------------------------------------- */

int qw_schedule_make(qw_schedule *out, const qw_schedule_request *q, qw_error *err)
{
    qw_schedule s = { 0 };
    qw_error own = { 0 };
    char shown[64];
    const qw_schedule_config c = q->config ? *q->config : published;
    const char *const automatic = q->comfy && !q->sigmas ? "simple" : "qwen";
    const char *const name = q->name && strcmp(q->name, "auto") ? q->name : automatic;
    int which = 0;
    memset(out, 0, sizeof *out);
    while (which < COMFY_SCHEDULES && strcmp(name, comfy_schedule[which].name)) which++;
    if (q->shift != 0 && !(q->shift > 0 && q->shift <= 1e6))
        qw_fail(&own, QWEN_EARG, "the shift is %g, expected more than 0 and at most 1e6", q->shift);
    else if (q->denoise != 0 && !(q->denoise > 0 && q->denoise <= 1))
        qw_fail(&own, QWEN_EARG, "denoise is %g, expected more than 0 and at most 1", q->denoise);
    else if (!strcmp(name, "qwen") || !strcmp(name, "layered")) {
        qw_schedule_request r = *q;
        r.layered = r.layered || *name == 'l';
        make_diffusers(&s, &r, c, &own);
    } else if (!strcmp(name, "lightning")) {
        qw_schedule_request r = *q;
        r.layered = 0; /* one mu for all sizes */
        make_diffusers(&s, &r, lightning(c, q->flat), &own);
    } else if (!strcmp(name, "raw")) make_raw(&s, q, c.train_steps, &own);
    else if (which < COMFY_SCHEDULES) make_comfy(&s, q, which, &own);
    else
        qw_fail(
            &own, QWEN_EARG,
            "there is no schedule \"%s\" (auto, qwen, lightning, layered, raw, simple, normal, "
            "sgm_uniform, beta, karras, exponential, ddim_uniform, linear_quadratic, kl_optimal)",
            qw_visible(shown, sizeof shown, name));
    if (own.status) return qw_fail(err, own.status, "%s", own.text);
    *out = s;
    return QWEN_OK;
}
