/* bench_against.c - lines of an earlier benchmark, to compare with. */
#include "bench_row.h"
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { LINE = 4000 };

typedef struct saved {
    char work[96], device[48];
    double median;
} saved;

struct qw_against {
    saved *row;
    int rows;
};

static int keep(qw_against *a, const char *work, const char *device, double median)
{
    saved *grown = realloc(a->row, (size_t)(a->rows + 1) * sizeof *grown);
    if (!grown) return 1;
    a->row = grown;
    saved *s = &grown[a->rows++];
    snprintf(s->work, sizeof s->work, "%s", work);
    snprintf(s->device, sizeof s->device, "%s", device);
    s->median = median;
    return 0;
}

/* A line of JSON with a work; the roof's, and those of cases in a report, have no median. */
static int read_line(qw_against *a, const char *line, const char *where, qw_error *err)
{
    json_error_t e;
    json_t *json = json_loads(line, JSON_REJECT_DUPLICATES, &e);
    if (!json) return qw_fail(err, QWEN_EFORMAT, "%s: %s", where, e.text);
    const char *work = json_string_value(json_object_get(json, "work"));
    const char *device = json_string_value(json_object_get(json, "device"));
    const json_t *median = json_object_get(json, "median");
    if (work && device && json_is_number(median) && json_number_value(median) > 0
        && keep(a, work, device, json_number_value(median)))
        qw_fail(err, QWEN_ENOMEM, "no memory for %s", where);
    json_decref(json);
    return err->status;
}

int qw_against_open(qw_against **out, const char *path, qw_error *err)
{
    char line[LINE], where[600];
    FILE *f = fopen(path, "r");
    *out = NULL;
    if (!f) return qw_fail(err, QWEN_EIO, "%s: %s", path, strerror(errno));
    qw_against *a = calloc(1, sizeof *a);
    if (!a) qw_fail(err, QWEN_ENOMEM, "no memory for %s", path);
    for (int n = 1; !err->status && fgets(line, sizeof line, f); n++) {
        snprintf(where, sizeof where, "%.500s:%d", path, n);
        if (line[0] == '{') read_line(a, line, where, err); /* a report has other lines too */
    }
    if (!err->status && ferror(f)) qw_fail(err, QWEN_EIO, "%s: %s", path, strerror(errno));
    if (!err->status && !a->rows)
        qw_fail(err, QWEN_EFORMAT, "%s has no line of a timed work", path);
    fclose(f);
    if (!err->status) *out = a;
    else qw_against_free(a);
    return err->status;
}

void qw_against_free(qw_against *a)
{
    if (a) free(a->row);
    free(a);
}

double qw_against_find(const qw_against *a, const char *work, const char *device)
{
    for (int i = a->rows - 1; i >= 0; i--) /* the last one holds */
        if (!strcmp(a->row[i].work, work) && !strcmp(a->row[i].device, device))
            return a->row[i].median;
    return 0;
}
