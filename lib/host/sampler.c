/* sampler.c - samplers (Euler's method and others) and guidance, in double precision.
 *
 * The model gives a velocity v = noise - picture at sigma; D(x) = x - sigma v is the denoised
 * estimate.  Formulas after ComfyUI's comfy/k_diffusion/sampling.py and
 * comfy/extra_samplers/uni_pc.py for flow models.  s is sigma[i], s' is sigma[i+1] (`next`), x0
 * is D at (x, s), d is v, t is -ln sigma. */
#include "host/noise.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFERS = 8, HISTORY = 4 };

typedef struct walk {
    const qw_sampler *s;
    const float *sigma; /* [steps + 1] */
    int steps, step;
    int64_t n;
    double *x;          /* [n] */
    double *b[BUFFERS]; /* [n] each, in one block */
    qw_error *err;
    int variant;
} walk;

void qw_guide(double *v, const double *pos, const double *neg, int64_t rows, int64_t n, double g,
              int norm)
{
    for (int64_t r = 0; r < rows; r++) {
        double wanted = 0, found = 0;
        for (int64_t i = r * n; i < (r + 1) * n; i++) {
            const double p = pos[i], c = neg[i] + g * (p - neg[i]);
            wanted += p * p;
            found += c * c;
            v[i] = c;
        }
        if (!norm || found == 0) continue;
        const double scale = sqrt(wanted) / sqrt(found);
        for (int64_t i = r * n; i < (r + 1) * n; i++) v[i] *= scale;
    }
}

/* --- parts of a step -------------------------------------------------------------------------- */

static int stopped(walk *w, int status)
{
    return qw_fail(w->err, status, "the sampler was stopped in step %d of %d", w->step + 1,
                   w->steps);
}

static int velocity(walk *w, const double *x, double sigma, double *v)
{
    const int status = w->s->velocity(w->s->user, x, sigma, w->step, v);
    return status ? stopped(w, status) : QWEN_OK;
}

static int denoise(walk *w, const double *x, double sigma, double *x0) /* D(x, sigma) */
{
    if (velocity(w, x, sigma, x0)) return w->err->status;
    for (int64_t i = 0; i < w->n; i++) x0[i] = x[i] - sigma * x0[i];
    return QWEN_OK;
}

static int noise(walk *w, double *out)
{
    const int status = w->s->noise(w->s->user, out);
    return status ? stopped(w, status) : QWEN_OK;
}

static int finish_step(walk *w)
{
    if (!w->s->after) return QWEN_OK;
    const int status = w->s->after(w->s->user, w->step, (double)w->sigma[w->step + 1], w->x);
    return status ? stopped(w, status) : QWEN_OK;
}

static void copy(walk *w, double *to, const double *from)
{
    memcpy(to, from, (size_t)w->n * sizeof *to);
}

static void add(walk *w, double *y, double a, const double *x) /* y += a x */
{
    for (int64_t i = 0; i < w->n; i++) y[i] += a * x[i];
}

/* --- one step of each: from w->x at s to w->x at s' ------------------------------------------- */

static int step_euler(walk *w, double s, double next)
{
    double *const v = w->b[0];
    if (velocity(w, w->x, s, v)) return w->err->status;
    add(w, w->x, next - s, v);
    return QWEN_OK;
}

static int step_heun(walk *w, double s, double next)
{
    double *const d = w->b[0], *const x2 = w->b[1], *const d2 = w->b[2];
    if (velocity(w, w->x, s, d)) return w->err->status;
    if (next == 0) {
        add(w, w->x, next - s, d);
        return QWEN_OK;
    }
    copy(w, x2, w->x);
    add(w, x2, next - s, d);
    if (velocity(w, x2, next, d2)) return w->err->status;
    for (int64_t i = 0; i < w->n; i++) w->x[i] += (d[i] + d2[i]) / 2 * (next - s);
    return QWEN_OK;
}

static int step_dpm_2(walk *w, double s, double next) /* midpoint in ln sigma */
{
    double *const d = w->b[0], *const x2 = w->b[1];
    if (velocity(w, w->x, s, d)) return w->err->status;
    if (next == 0) {
        add(w, w->x, next - s, d);
        return QWEN_OK;
    }
    const double mid = sqrt(s * next);
    copy(w, x2, w->x);
    add(w, x2, mid - s, d);
    if (velocity(w, x2, mid, d)) return w->err->status;
    add(w, w->x, next - s, d);
    return QWEN_OK;
}

static int step_dpmpp_2m(walk *w, double s, double next)
{
    double *const x0 = w->b[0], *const last = w->b[1];
    if (denoise(w, w->x, s, x0)) return w->err->status;
    if (next == 0) copy(w, w->x, x0);
    else {
        const double h = log(s / next), grow = -expm1(-h);
        double a = 0;
        if (w->step) a = h / (2 * log((double)w->sigma[w->step - 1] / s)); /* 1/(2 r) */
        for (int64_t i = 0; i < w->n; i++) {
            const double target = w->step ? (1 + a) * x0[i] - a * last[i] : x0[i];
            w->x[i] = next / s * w->x[i] + grow * target;
        }
    }
    copy(w, last, x0);
    return QWEN_OK;
}

static int step_res_multistep(walk *w, double s, double next)
{
    double *const x0 = w->b[0], *const last = w->b[1];
    if (denoise(w, w->x, s, x0)) return w->err->status;
    if (!w->step || next == 0)
        for (int64_t i = 0; i < w->n; i++) w->x[i] += (w->x[i] - x0[i]) / s * (next - s);
    else {
        const double h = log(s / next), c2 = log(s / (double)w->sigma[w->step - 1]) / h;
        const double phi1 = expm1(-h) / -h, phi2 = (phi1 - 1) / -h;
        const double b1 = phi1 - phi2 / c2, b2 = phi2 / c2, decay = exp(-h);
        for (int64_t i = 0; i < w->n; i++)
            w->x[i] = decay * w->x[i] + h * (b1 * x0[i] + b2 * last[i]);
    }
    copy(w, last, x0);
    return QWEN_OK;
}

static int step_gradient_estimation(walk *w, double s, double next)
{
    double *const d = w->b[0], *const last = w->b[1];
    if (velocity(w, w->x, s, d)) return w->err->status;
    if (next == 0) add(w, w->x, -s, d);
    else
        for (int64_t i = 0; i < w->n; i++)
            w->x[i] += (d[i] + (w->step ? d[i] - last[i] : 0)) * (next - s);
    copy(w, last, d);
    return QWEN_OK;
}

/* Returns room for a new velocity in w->b[0]; the older ones move to w->b[1 ..], newest first. */
static double *newest(walk *w)
{
    double *const oldest = w->b[HISTORY - 1];
    for (int i = HISTORY - 1; i > 0; i--) w->b[i] = w->b[i - 1];
    return w->b[0] = oldest;
}

static void combine(walk *w, const double *weight, int order) /* x += sum weight_j d_j */
{
    for (int64_t i = 0; i < w->n; i++) {
        double sum = 0;
        for (int j = 0; j < order; j++) sum += weight[j] * w->b[j][i];
        w->x[i] += sum;
    }
}

/* Adams and Bashforth's weights for equal steps */
static int step_ipndm(walk *w, double s, double next)
{
    static const double table[HISTORY][HISTORY] = { { 1 },
                                                    { 3.0 / 2, -1.0 / 2 },
                                                    { 23.0 / 12, -16.0 / 12, 5.0 / 12 },
                                                    { 55.0 / 24, -59.0 / 24, 37.0 / 24,
                                                      -9.0 / 24 } };
    double weight[HISTORY];
    double *const d = newest(w);
    if (velocity(w, w->x, s, d)) return w->err->status;
    const int order = next == 0 ? 1 : w->step < HISTORY ? w->step + 1 : HISTORY;
    for (int j = 0; j < order; j++) weight[j] = table[order - 1][j] * (next - s);
    combine(w, weight, order);
    return QWEN_OK;
}

/* The integral from sigma[i] to sigma[i+1] of the Lagrange polynomial that is 1 at sigma[i-j] and 0
 * at the other sigma[i-k], k < order: two Gauss points are exact up to degree 3. */
static double lagrange_integral(const float *sigma, int i, int j, int order)
{
    const double a = (double)sigma[i], b = (double)sigma[i + 1];
    const double half = (b - a) / 2, point = half / sqrt(3);
    double sum = 0;
    for (int side = -1; side <= 1; side += 2) {
        const double tau = (a + b) / 2 + side * point;
        double product = 1;
        for (int k = 0; k < order; k++)
            if (k != j)
                product *= (tau - (double)sigma[i - k])
                           / ((double)sigma[i - j] - (double)sigma[i - k]);
        sum += product;
    }
    return sum * half;
}

static int step_lms(walk *w, double s, double next)
{
    double weight[HISTORY] = { -s }; /* to sigma 0: D(x) itself */
    double *const d = newest(w);
    if (velocity(w, w->x, s, d)) return w->err->status;
    const int order = next == 0 ? 1 : w->step < HISTORY ? w->step + 1 : HISTORY;
    for (int j = 0; j < order && next != 0; j++)
        weight[j] = lagrange_integral(w->sigma, w->step, j, order);
    combine(w, weight, order);
    return QWEN_OK;
}

/* A step to sigma `down`, then noise up to s', the picture's part scaled to 1 - s'. */
static int step_euler_ancestral(walk *w, double s, double next)
{
    double *const x0 = w->b[0], *const e = w->b[1];
    if (denoise(w, w->x, s, x0)) return w->err->status;
    if (next == 0) {
        copy(w, w->x, x0);
        return QWEN_OK;
    }
    if (noise(w, e)) return w->err->status;
    const double down = next * (next / s), scale = (1 - next) / (1 - down);
    const double square = next * next - down * down * scale * scale;
    const double up = sqrt(square > 0 ? square : 0);
    for (int64_t i = 0; i < w->n; i++)
        w->x[i] = scale * (down / s * w->x[i] + (1 - down / s) * x0[i]) + up * e[i];
    return QWEN_OK;
}

static int step_lcm(walk *w, double s, double next)
{
    double *const x0 = w->b[0], *const e = w->b[1];
    if (denoise(w, w->x, s, x0)) return w->err->status;
    if (next > 0 && noise(w, e)) return w->err->status;
    for (int64_t i = 0; i < w->n; i++)
        w->x[i] = next > 0 ? next * e[i] + (1 - next) * x0[i] : x0[i];
    return QWEN_OK;
}

/* --- UniPC ------------------------------------------------------------------------------------ */

/* Gaussian elimination with row pivots, n <= 3; b becomes the solution. */
static void solve(int n, double a[3][3], double *b)
{
    for (int c = 0; c < n; c++) {
        int p = c;
        for (int r = c + 1; r < n; r++)
            if (fabs(a[r][c]) > fabs(a[p][c])) p = r;
        for (int k = 0; k < n; k++) {
            const double t = a[c][k];
            a[c][k] = a[p][k];
            a[p][k] = t;
        }
        const double t = b[c];
        b[c] = b[p];
        b[p] = t;
        for (int r = c + 1; r < n; r++) {
            const double f = a[r][c] / a[c][c];
            for (int k = c; k < n; k++) a[r][k] -= f * a[c][k];
            b[r] -= f * b[c];
        }
    }
    for (int r = n - 1; r >= 0; r--) {
        for (int k = r + 1; k < n; k++) b[r] -= a[r][k] * b[k];
        b[r] /= a[r][r];
    }
}

typedef struct unipc {
    double r[3];  /* places of the older points, in units of h; the newest has 1 */
    double ratio; /* std(s') / std(s): weight of the old x */
    double push;  /* - alpha(s') expm1(-h) for the newest D */
    double pull;  /* - alpha(s') B for the corrections */
    double predict[3], correct[3];
} unipc;

static double alpha_of(double sigma) { return 1 / sqrt(1 + sigma * sigma); }

/* Coefficients of the step t[step-1] -> t[step] with `order` (bh 0: B = -h, 1: B = expm1(-h)). */
static unipc unipc_step(const double *t, int step, int order, int bh)
{
    unipc u = { .ratio = t[step] * alpha_of(t[step]) / (t[step - 1] * alpha_of(t[step - 1])) };
    double a[3][3], b[3], small[3][3];
    const double h = log(t[step - 1] / t[step]), e = expm1(-h), base = bh ? e : -h;
    for (int i = 1; i < order; i++) u.r[i - 1] = log(t[step - 1] / t[step - 1 - i]) / h;
    u.r[order - 1] = 1;
    double phi = e / -h - 1, factorial = 1;
    for (int i = 0; i < order; i++) {
        for (int j = 0; j < order; j++)
            a[i][j] = small[i][j] = i ? (i > 1 ? u.r[j] * u.r[j] : u.r[j]) : 1;
        b[i] = phi * factorial / base;
        factorial *= i + 2;
        phi = phi / -h - 1 / factorial;
    }
    memcpy(u.predict, b, sizeof b);
    memcpy(u.correct, b, sizeof b);
    if (order == 2) u.predict[0] = 0.5;
    else if (order > 2) solve(order - 1, small, u.predict);
    if (order == 1) u.correct[0] = 0.5;
    else solve(order, a, u.correct);
    u.push = -alpha_of(t[step]) * e;
    u.pull = -alpha_of(t[step]) * base;
    return u;
}

/* Data prediction, multistep, on y = x / sqrt(1 + s^2).  w->b[0..2]: D at the last points, newest
 * first. */
static int run_unipc(walk *w)
{
    const int most = w->steps > 2 ? (w->steps - 1 < 3 ? w->steps - 1 : 3) : 1;
    double *const x = w->x, *const plain = w->b[3], *const fresh = w->b[4];
    double *const t = malloc(((size_t)w->steps + 1) * sizeof *t);
    if (!t) return qw_fail(w->err, QWEN_ENOMEM, "no memory for %d steps", w->steps);
    for (int i = 0; i <= w->steps; i++) t[i] = (double)w->sigma[i];
    const int to_zero = t[w->steps] == 0;
    if (to_zero) t[w->steps] = 0.001;
    int status = denoise(w, x, t[0], w->b[0]);
    for (int64_t i = 0; i < w->n; i++) x[i] *= alpha_of(t[0]);
    for (int step = 1; step <= w->steps && !status; step++) {
        const int left = w->steps + 1 - step;
        const int order = step < most ? step : most < left ? most : left;
        const unipc u = unipc_step(t, step, order, w->variant);
        const double scale = 1 / alpha_of(t[step]);
        for (int64_t i = 0; i < w->n; i++) {
            const double d0 = w->b[0][i];
            double sum = 0;
            for (int j = 0; j + 1 < order; j++)
                sum += u.predict[j] * (w->b[j + 1][i] - d0) / u.r[j];
            plain[i] = u.ratio * x[i] + u.push * d0;
            x[i] = (plain[i] + u.pull * sum) * scale;
        }
        w->step = step - 1;
        if (step == w->steps) break; /* no corrector, no evaluation after the last */
        w->step = step;
        if ((status = denoise(w, x, t[step], fresh))) break;
        for (int64_t i = 0; i < w->n; i++) {
            const double d0 = w->b[0][i];
            double sum = u.correct[order - 1] * (fresh[i] - d0);
            for (int j = 0; j + 1 < order; j++)
                sum += u.correct[j] * (w->b[j + 1][i] - d0) / u.r[j];
            x[i] = (plain[i] + u.pull * sum) * scale;
        }
        w->step = step - 1;
        status = finish_step(w);
        for (int64_t i = 0; i < w->n; i++) {
            x[i] /= scale;
            w->b[2][i] = w->b[1][i];
            w->b[1][i] = w->b[0][i];
            w->b[0][i] = fresh[i];
        }
    }
    /* ComfyUI writes 0.001 over the final 0 of its own list and so divides by 1 - 0.001. */
    for (int64_t i = 0; i < w->n && to_zero && !status; i++) x[i] /= 1 - t[w->steps];
    free(t);
    return status ? status : finish_step(w);
}

/* --- by name ---------------------------------------------------------------------------------- */

static const struct entry {
    const char *name;
    int (*step)(walk *w, double s, double next);
    int (*run)(walk *w);
    int variant, noisy;
} samplers[] = {
    { "euler", step_euler, NULL, 0, 0 },
    { "heun", step_heun, NULL, 0, 0 },
    { "dpm_2", step_dpm_2, NULL, 0, 0 },
    { "dpmpp_2m", step_dpmpp_2m, NULL, 0, 0 },
    { "res_multistep", step_res_multistep, NULL, 0, 0 },
    { "ipndm", step_ipndm, NULL, 0, 0 },
    { "lms", step_lms, NULL, 0, 0 },
    { "gradient_estimation", step_gradient_estimation, NULL, 0, 0 },
    { "uni_pc", NULL, run_unipc, 0, 0 },
    { "uni_pc_bh2", NULL, run_unipc, 1, 0 },
    { "euler_ancestral", step_euler_ancestral, NULL, 0, 1 },
    { "lcm", step_lcm, NULL, 0, 1 },
};

static const struct entry *find(const char *name)
{
    if (!name) return samplers;
    for (size_t i = 0; i < sizeof samplers / sizeof *samplers; i++)
        if (!strcmp(name, samplers[i].name)) return &samplers[i];
    return NULL;
}

int qw_sampler_known(const char *name) { return find(name) != NULL; }

const char *qw_sampler_name(int i)
{
    return i >= 0 && (size_t)i < sizeof samplers / sizeof *samplers ? samplers[i].name : NULL;
}

static int run_steps(walk *w, const struct entry *e)
{
    for (w->step = 0; w->step < w->steps; w->step++)
        if (e->step(w, (double)w->sigma[w->step], (double)w->sigma[w->step + 1]) || finish_step(w))
            return w->err->status;
    return QWEN_OK;
}

int qw_sample(const char *name, const qw_sampler *s, const float *sigma, int steps, double *x,
              int64_t count, qw_error *err)
{
    const struct entry *const e = find(name);
    char shown[64];
    if (!e)
        return qw_fail(
            err, QWEN_EARG,
            "there is no sampler \"%s\" (euler, heun, dpm_2, dpmpp_2m, res_multistep, ipndm, "
            "lms, gradient_estimation, uni_pc, uni_pc_bh2, euler_ancestral, lcm)",
            qw_visible(shown, sizeof shown, name));
    if (e->noisy && !s->noise)
        return qw_fail(err, QWEN_EARG, "the sampler \"%s\" needs fresh noise", e->name);
    for (int i = 0; i < steps; i++)
        if (!(sigma[i] > 0 && sigma[i + 1] >= 0 && sigma[i + 1] < sigma[i]
              && (sigma[i + 1] > 0 || i == steps - 1)))
            return qw_fail(
                err, QWEN_EARG,
                "the sigmas %d and %d are %g and %g, expected falling ones that end in 0 at the "
                "earliest with the last",
                i, i + 1, (double)sigma[i], (double)sigma[i + 1]);
    if (steps < 1 || count < 1) return QWEN_OK;
    if ((uint64_t)count > SIZE_MAX / sizeof *x / BUFFERS)
        return qw_fail(err, QWEN_ENOMEM, "no memory for a sampler of %lld values",
                       (long long)count);
    double *const block = malloc((size_t)count * BUFFERS * sizeof *block);
    if (!block)
        return qw_fail(err, QWEN_ENOMEM, "no memory for a sampler of %lld values",
                       (long long)count);
    qw_error own = { 0 };
    walk w = { .s = s,
               .sigma = sigma,
               .steps = steps,
               .n = count,
               .x = x,
               .err = &own,
               .variant = e->variant };
    for (int i = 0; i < BUFFERS; i++) w.b[i] = block + i * count;
    const int status = e->run ? e->run(&w) : run_steps(&w, e);
    free(block);
    return status ? qw_fail(err, status, "%s", own.text) : QWEN_OK;
}
