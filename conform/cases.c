/* cases.c - reads a case from a line of text, and prints it as one.
 *
 * The grammar is that of lib/core/op.c's case lines, whose types and sizes are data of the op table
 * (qw_form), followed by /fill/seed. */
#include "conform.h"
#include "fill.h"
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char *const fill_name[QW_NFILLS] = { "exact", "normal", "hard" };

static int sentence(char *why, size_t size, const char *format, ...) QW_PRINTF(3, 4);
static int sentence(char *why, size_t size, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(why, size, format, ap);
    va_end(ap);
    return 1;
}

/* --- reading ------------------------------------------------------------------------------- */

qw_dtype qw_plain_float(qw_dtype t)
{
    return t == QW_F64 || t == QW_F32 || t == QW_F16 || t == QW_BF16 ? t : QW_F32;
}

/* The numbers of types and of sizes in a line of the op. */
static int types_of(const qw_form *f)
{
    int n = 0;
    while (n < QW_FORM_TYPES && f->type[n].operand) n++;
    return n;
}

static int sizes_of(const qw_form *f)
{
    int n = 0;
    while (n < QW_FORM_SIZES && f->size[n].name) n++;
    return n;
}

static int read_dtypes(qw_case *c, char *text, char *why, size_t size)
{
    const qw_form *f = qw_op_table[c->op].form;
    int n = 0;
    char *save = NULL;
    for (char *s = strtok_r(text, ",", &save); s; s = strtok_r(NULL, ",", &save)) {
        if (n == types_of(f)) return sentence(why, size, "more than %d dtypes", n);
        c->dtype[n] = qw_dtype_named(s);
        if (c->dtype[n] == QW_NONE) return sentence(why, size, "%s is no dtype", s);
        n++;
    }
    if (!n) return sentence(why, size, "no dtype");
    for (; n < types_of(f); n++) c->dtype[n] = qw_form_default(f, c->dtype, n);
    return 0;
}

static int read_word(qw_case *c, const char *s)
{
    static const struct {
        const char *word;
        unsigned has;
    } flags[] = {
        { "bias", QW_HAS_BIAS },
        { "gate", QW_HAS_GATE },
        { "res", QW_HAS_RES },
        { "inplace", QW_INPLACE },
        { "scale", QW_HAS_SCALE },
        { "shift", QW_HAS_SHIFT },
        { "norm", QW_HAS_NORM },
        { "halves", QW_IS_HALVES },
        { "pairs", 0 },
        { "-", 0 },
    };
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++)
        if (!strcmp(s, flags[i].word)) {
            c->has |= flags[i].has;
            return 0;
        }
    if (!strcmp(s, "silu")) c->act = QW_SILU;
    else if (!strcmp(s, "gelu_tanh")) c->act = QW_GELU_TANH;
    else if (!strcmp(s, "gelu_erf")) c->act = QW_GELU_ERF;
    else if (!strcmp(s, "scale=one")) c->scales = QW_SCALE_ONE;
    else if (!strcmp(s, "scale=row")) c->scales = QW_SCALE_ROW;
    else if (!strcmp(s, "causal")) c->ranges = QW_CAUSAL;
    else if (!strcmp(s, "ranges")) c->ranges = QW_RANGES;
    else return 1;
    return 0;
}

static int read_value(qw_case *c, const char *key, const char *value)
{
    char *end;
    const double x = strtod(value, &end);
    if (!strcmp(key, "x2") || !strcmp(key, "w2")) {
        const qw_dtype t = qw_dtype_named(value);
        *(key[0] == 'x' ? &c->x2 : &c->w2) = t;
        return t == QW_NONE;
    }
    if (*end || !(x >= 0 && x <= 1e9)) return 1;
    if (!strcmp(key, "lora")) c->lora = (int64_t)x;
    else if (!strcmp(key, "windows")) c->ranges = QW_WINDOWS, c->window = (int64_t)x;
    else if (!strcmp(key, "stride")) c->stride = (int)x;
    else if (!strcmp(key, "up")) c->up = (int)x;
    else if (!strcmp(key, "top")) c->top = (int)x;
    else if (!strcmp(key, "left")) c->left = (int)x;
    else if (!strcmp(key, "rotate")) c->rotate = (int)x;
    else if (!strcmp(key, "eps")) c->eps = x;
    else if (!strcmp(key, "scale")) c->scale = x;
    else return 1;
    return 0;
}

static int read_options(qw_case *c, char *text, char *why, size_t size)
{
    char *save = NULL;
    for (char *s = strtok_r(text, ",", &save); s; s = strtok_r(NULL, ",", &save)) {
        char *value = strchr(s, '=');
        if (!read_word(c, s)) continue;
        if (value) *value++ = 0;
        if (!value || read_value(c, s, value)) return sentence(why, size, "%s is no option", s);
    }
    return 0;
}

static int read_shape(qw_case *c, const char *text, char *why, size_t size)
{
    const qw_form *f = qw_op_table[c->op].form;
    const int n = sizes_of(f);
    for (int i = 0; i < n; i++) {
        char *end;
        const long long d = strtoll(text, &end, 10);
        if (end == text || d < 1 || d > INT32_MAX || *end != (i < n - 1 ? 'x' : 0))
            return sentence(why, size, "the shape lacks %s, number %d of %d with x between",
                            f->size[i].name, i + 1, n);
        c->dim[i] = d;
        text = end + 1;
    }
    return 0;
}

int qw_case_parse(qw_case *c, const char *line, char *why, size_t size)
{
    char copy[400], *part[6] = { NULL };
    int n = 0;
    if (strlen(line) >= sizeof copy) return sentence(why, size, "the line is too long");
    memcpy(copy, line, strlen(line) + 1);
    for (char *s = copy; s && n < 6; n++) {
        part[n] = s;
        s = strchr(s, '/');
        if (s) *s++ = 0;
        else if (n < 3) return sentence(why, size, "a case is op/dtypes/options/shape/fill/seed");
    }
    *c =
        (qw_case){ .op = QW_NOPS, .stride = 1, .up = 1, .eps = 1e-6, .fill = QW_NORMAL, .seed = 1 };
    for (int i = 0; i < QW_NOPS; i++)
        if (!strcmp(part[0], qw_op_table[i].name)) c->op = (enum qw_op)i;
    if (c->op == QW_NOPS) return sentence(why, size, "%s is no operation", part[0]);
    if (read_dtypes(c, part[1], why, size) || read_options(c, part[2], why, size)
        || read_shape(c, part[3], why, size))
        return 1;
    c->x2 = c->x2 ? c->x2 : qw_plain_float(c->dtype[0]);
    c->w2 = c->w2 ? c->w2 : qw_plain_float(c->dtype[0]);
    if (part[4]) {
        int f = 0;
        while (f < QW_NFILLS && strcmp(part[4], fill_name[f])) f++;
        if (f == QW_NFILLS)
            return sentence(why, size, "%s is no fill; there are exact, normal and hard", part[4]);
        c->fill = (qw_fill)f;
    }
    if (part[5]) {
        char *end;
        c->seed = strtoull(part[5], &end, 16);
        if (*end || end == part[5])
            return sentence(why, size, "%s is no hexadecimal seed", part[5]);
    }
    qw_material m; /* what the op itself would refuse */
    int status = qw_material_shape(&m, c, QW_F32);
    if (!status && qw_op_table[c->op].check(&m.args, why, size)) status = 1;
    else if (status) sentence(why, size, "%s", qwen_strerror(status));
    qw_material_free(&m);
    return status != 0;
}

void qw_case_print(const qw_case *c, char *out, size_t size)
{
    qw_material m;
    if (qw_material_shape(&m, c, QW_F32)) snprintf(out, size, "%s", qw_op_table[c->op].name);
    else {
        qw_op_line(c->op, &m.args, out, size);
        const size_t n = strlen(out);
        if (n < size)
            snprintf(out + n, size - n, "/%s/%llx", fill_name[c->fill],
                     (unsigned long long)c->seed);
    }
    qw_material_free(&m);
}
