/* compare.c - the subcommand that compares two dumps by tensor, or two pictures by pixel. */
#include "media/media.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct comparison {
    const settings *s;
    json_t *all;
    int64_t same, different, missing, extra;
    char *first; /* the first tensor that differs */
    int first_rank;
} comparison;

/* --- dumps ------------------------------------------------------------------------------------ */

/* Names in order of computation: those of the metadata "order", copied to *text, else those of the
 * file, which are its own strings. */
static int order_of(const qwen_file *f, text_list *names, char **text)
{
    const char *order = qwen_file_metadata(f, "order");
    qwen_file_tensor t;
    int code = CODE_DONE;
    *text = order ? format_text("%s", order) : NULL;
    if (order && !*text) return no_memory();
    for (char *line = *text; line && *line && !code;) {
        char *stop = line + strcspn(line, "\n");
        const int more = *stop != 0;
        *stop = 0;
        code = list_add(names, line);
        line = stop + more;
    }
    for (int64_t i = 0; !order && i < qwen_file_count(f) && !code; i++)
        if (!qwen_file_tensor_at(f, i, &t)) code = list_add(names, t.name);
    return code;
}

/* The place of a name in the order of computation, for files without a metadata "order"; 99 for a
 * name that no stage has. */
static int stage_rank(const char *name)
{
    static const char *const stages[] = {
        "vision.pixels", "vision.", "text.", "neg.",     "vae.enc.",  "mask",
        "control",       "noise",   "mu",    "sigmas",   "timesteps", "img_shapes",
        "step.t",        "step0.",  "v.",    "latents.", "vae.dec.",  "image"
    };
    for (int i = 0; i < (int)(sizeof stages / sizeof *stages); i++)
        if (!strncmp(name, stages[i], strlen(stages[i]))) return i;
    return 99;
}

static int has(const qwen_file *f, const char *name, qwen_file_tensor *t)
{
    for (int64_t i = 0; i < qwen_file_count(f); i++)
        if (!qwen_file_tensor_at(f, i, t) && !strcmp(t->name, name)) return 1;
    return 0;
}

static int same_shape(const qwen_array *a, const qwen_array *b)
{
    int same = a->rank == b->rank;
    for (int i = 0; i < a->rank && same; i++) same = a->dim[i] == b->dim[i];
    return same;
}

/* max|a-b| / max|a|; where a is all zero, max|a-b|.  Infinite where one is finite and the other is
 * not. */
static double difference(const qwen_array *a, const qwen_array *b)
{
    double most = 0, size = 0;
    const int64_t n = array_count(a);
    for (int64_t i = 0; i < n; i++) {
        const double x = array_at(a, i), y = array_at(b, i);
        if (isfinite(x) && isfinite(y)) {
            most = fmax(most, fabs(x - y));
            size = fmax(size, fabs(x));
        } else if (!(isnan(x) && isnan(y)) && !(x == y)) {
            return INFINITY;
        }
    }
    return size > 0 ? most / size : most;
}

static void report(comparison *c, const char *name, const char *verdict, const char *shape,
                   double e, int differs)
{
    if (!c->s->json)
        printf("%-24s %-20s %-9s %s\n", name, shape, verdict, differs ? "DIFFERS" : "");
    json_t *o = json_pack("{s:s,s:s,s:b}", "name", name, "verdict", verdict, "differs", differs);
    if (isfinite(e)) json_object_set_new(o, "difference", json_real(e));
    json_array_append_new(c->all, o);
    const int rank = stage_rank(name);
    if (differs && (!c->first || (c->first_rank > rank && c->first_rank >= 0))) {
        free(c->first);
        c->first = format_text("%s", name);
        c->first_rank = rank;
    }
}

static int compare_tensor(comparison *c, qwen_file *a, qwen_file *b, const char *name)
{
    qwen_file_tensor ta, tb;
    qwen_array x = { 0 }, y = { 0 };
    char shape[100] = "", verdict[40];
    if (!has(a, name, &ta)) return CODE_DONE;
    for (int i = 0; i < ta.rank; i++) {
        const size_t at = strlen(shape);
        snprintf(shape + at, sizeof shape - at, "[%lld]", (long long)ta.dim[i]);
    }
    if (!has(b, name, &tb)) {
        c->missing++;
        report(c, name, "missing", shape, INFINITY, 1);
        return CODE_DONE;
    }
    int status = qwen_file_read(a, name, &x);
    if (status) return complain(code_of(status), "%s", qwen_file_error(a));
    status = qwen_file_read(b, name, &y);
    const int code = status ? complain(code_of(status), "%s", qwen_file_error(b)) : CODE_DONE;
    if (!status) {
        const int fits = same_shape(&x, &y);
        const double e = fits ? difference(&x, &y) : INFINITY;
        const int differs = !(e <= c->s->tolerance);
        snprintf(verdict, sizeof verdict, fits ? "%.3g" : "shape", e);
        c->different += differs;
        c->same += !differs;
        report(c, name, verdict, shape, e, differs);
    }
    qwen_array_free(&x);
    qwen_array_free(&y);
    return code;
}

static void list_extra(comparison *c, const qwen_file *a, const qwen_file *b)
{
    qwen_file_tensor t, ignored;
    for (int64_t i = 0; i < qwen_file_count(b); i++)
        if (!qwen_file_tensor_at(b, i, &t) && !has(a, t.name, &ignored)) {
            c->extra++;
            if (!c->s->json) printf("%-24s only in B\n", t.name);
        }
}

static int summary(comparison *c)
{
    const int64_t bad = c->different + c->missing;
    if (c->s->json) {
        json_t *o = json_pack("{s:I,s:I,s:I,s:I,s:O}", "same", (json_int_t)c->same, "different",
                              (json_int_t)c->different, "missing", (json_int_t)c->missing,
                              "only_in_b", (json_int_t)c->extra, "tensors", c->all);
        if (c->first) json_object_set_new(o, "first", json_string(c->first));
        char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
        json_decref(o);
        if (!text) return no_memory();
        printf("%s\n", text);
        free(text);
    } else {
        printf("%lld the same, %lld different, %lld missing in B, %lld only in B",
               (long long)c->same, (long long)c->different, (long long)c->missing,
               (long long)c->extra);
        if (c->first) printf("; first difference: %s", c->first);
        printf("\n");
    }
    const int code = flush_stdout();
    return code ? code : bad ? CODE_DIFFERENT : CODE_DONE;
}

static int compare_dumps(const settings *s, qwen_file *a, qwen_file *b)
{
    comparison c = { .s = s, .all = json_array() };
    text_list names = { 0 };
    char *text = NULL;
    int code = order_of(a, &names, &text);
    if (text) c.first_rank = -1; /* the order of the metadata holds */
    const int own_order = c.first_rank < 0;
    for (size_t i = 0; i < names.n && !code; i++) {
        code = compare_tensor(&c, a, b, names.item[i]);
        if (own_order) c.first_rank = -1;
    }
    if (!code) {
        list_extra(&c, a, b);
        code = summary(&c);
    }
    free(c.first);
    free(text);
    free(names.item);
    json_decref(c.all);
    return code;
}

/* --- pictures --------------------------------------------------------------------------------- */

/* Channel k of pixel i, 0..255; a picture without alpha is opaque. */
static int level(const qwen_array *a, int64_t i, int64_t k)
{
    return k < a->dim[2] ? ((const uint8_t *)a->data)[i * a->dim[2] + k] : 255;
}

/* Compares 8-bit levels; prints the largest difference, how many values differ, and PSNR. */
static int compare_pictures(const settings *s, const qwen_array *a, const qwen_array *b)
{
    const int64_t channels = a->dim[2] > b->dim[2] ? a->dim[2] : b->dim[2],
                  n = a->dim[0] * a->dim[1];
    int64_t differ = 0;
    double squares = 0;
    int most = 0;
    if (a->dim[2] != b->dim[2])
        notice(s, "A has %s alpha, B has %s: a picture without it counts as opaque",
               a->dim[2] == 4 ? "an" : "no", b->dim[2] == 4 ? "one" : "none");
    if (a->dim[0] != b->dim[0] || a->dim[1] != b->dim[1]) {
        printf(s->json ? "{\"differs\": true, \"a\": \"%lldx%lld\", \"b\": \"%lldx%lld\"}\n"
                       : "sizes differ: A is %lldx%lld, B is %lldx%lld\n",
               (long long)a->dim[1], (long long)a->dim[0], (long long)b->dim[1],
               (long long)b->dim[0]);
        const int code = flush_stdout();
        return code ? code : CODE_DIFFERENT;
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < channels; k++) {
            const int d = level(a, i, k) - level(b, i, k);
            most = abs(d) > most ? abs(d) : most;
            squares += d * d;
            differ += d != 0;
        }
    const double values = (double)(n * channels), psnr = 10 * log10(255.0 * 255 * values / squares);
    if (s->json && squares > 0)
        printf("{\"differs\": %s, \"most\": %d, \"values\": %lld, \"psnr\": %.4f}\n",
               most > s->tolerance ? "true" : "false", most, (long long)differ, psnr);
    else if (s->json) printf("{\"differs\": false, \"most\": 0, \"values\": 0, \"psnr\": null}\n");
    else if (squares > 0)
        printf("largest difference %d of 255 levels, %lld of %.0f values differ, PSNR %.2f dB\n",
               most, (long long)differ, values, psnr);
    else
        printf("the same: %lldx%lld, all %.0f values\n", (long long)a->dim[1], (long long)a->dim[0],
               values);
    const int code = flush_stdout();
    return code ? code : most > s->tolerance ? CODE_DIFFERENT : CODE_DONE;
}

static int is_picture(const char *path, int *yes)
{
    char head[16] = "";
    FILE *f = fopen(path, "rb");
    if (!f) return complain(CODE_READ, "%s: %s", path, strerror(errno));
    const size_t n = fread(head, 1, sizeof head, f);
    fclose(f);
    *yes = picture_kind(head, n) != PICTURE_NONE;
    return CODE_DONE;
}

static int with_pictures(const settings *s)
{
    qwen_array a = { 0 }, b = { 0 };
    int code = picture_read(s, s->words.item[0], &a);
    if (!code) code = picture_read(s, s->words.item[1], &b);
    if (!code) code = compare_pictures(s, &a, &b);
    qwen_array_free(&a);
    qwen_array_free(&b);
    return code;
}

static int with_dumps(const settings *s)
{
    qwen_file *a = NULL, *b = NULL;
    int status = qwen_file_open(&a, s->words.item[0]), code = CODE_DONE;
    if (status) code = complain(code_of(status), "%s", qwen_file_error(a));
    else if ((status = qwen_file_open(&b, s->words.item[1])))
        code = complain(code_of(status), "%s", qwen_file_error(b));
    if (!code) code = compare_dumps(s, a, b);
    qwen_file_close(a);
    qwen_file_close(b);
    return code;
}

int run_compare(settings *s)
{
    int a, b;
    if (s->words.n != 2)
        return complain(CODE_USAGE, "compare: expected two files, found %zu", s->words.n);
    int code = is_picture(s->words.item[0], &a);
    if (!code) code = is_picture(s->words.item[1], &b);
    if (code) return code;
    if (a != b)
        return complain(CODE_MALFORMED, "%s is %s, expected another like it, found %s in %s",
                        s->words.item[0], a ? "a picture" : "a file of tensors",
                        b ? "a picture" : "a file of tensors", s->words.item[1]);
    return a ? with_pictures(s) : with_dumps(s);
}
