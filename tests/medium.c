/* medium.c - the medium transformer of testdata on a device, its output, and LoRA files for it. */
#include "medium.h"
#include "testing.h"
#include "values.h"
#include <string.h>

static int add_site(void *user, qw_weight_part *p, int64_t n, int64_t k)
{
    model *m = user;
    ck_assert_int_lt(m->sites, 256);
    m->site[m->sites++] = (qw_lora_site){ p, n, k };
    return 0;
}

void close_model(model *m)
{
    qw_dit_free(m->dit);
    qw_residency_free(m->res);
    qw_store_free(m->store);
    qw_store_free(m->in);
    json_decref(m->config);
    qw_run_free(&m->run);
    m->dev->close(m->dev);
    m->ref->close(m->ref);
}

int open_model(model *m, qw_device *dev, const char *path, const char *config, uint64_t memory)
{
    qw_kind found;
    qw_error err = { 0 };
    *m = (model){ .dev = dev, .ref = open_device("ref") };
    m->store = open_store(path);
    good(qw_store_canonical(m->store, QW_KIND_TRANSFORMER, &found, &err), &err);
    if (config) good(qw_json_file(testdata(config), &m->config, &err), &err);
    good(qw_dit_configure(&m->c, m->config, m->store, "config.json", &err), &err);
    good(qw_residency_new(&m->res, dev, memory, &err), &err);
    qw_loader l = { .store = m->store, .res = m->res, .err = &err };
    good(qw_dit_load(&m->dit, &m->c, &l), &err);
    qw_run_init(&m->run, dev, m->ref);
    if (qw_residency_commit(m->res, &err)) {
        close_model(m);
        return err.status;
    }
    ck_assert_int_eq(qw_run_reserve(&m->run, (size_t)16 << 20), 0);
    qw_dit_each_weight(m->dit, add_site, m);
    m->in = open_data(FORMATS "goldens/inputs.safetensors");
    return QWEN_OK;
}

void open_medium(model *m, const char *device)
{
    const int status =
        open_model(m, open_device(device), testdata(MEDIUM), MEDIUM "/config.json", 0);
    ck_assert_int_eq(status, QWEN_OK);
}

/* Text is cut to the width of the net. */
double *forward(model *m)
{
    enum { ROWS = 48, TEXT = 20 };
    double *x = values(m->in, "dit.hidden_states", NULL),
           *text = values(m->in, "dit.encoder_hidden_states", NULL);
    double *t = values(m->in, "dit.timestep", NULL), *out = room(OUTPUT * sizeof *out);
    qw_modulation *table = NULL;
    const qw_grid grid = { 1, 6, 8 };
    const qw_dit_sequence s = { .x = x,
                                .rows = ROWS,
                                .noise_rows = ROWS,
                                .grid = &grid,
                                .grids = 1,
                                .noise_grids = 1,
                                .text = text,
                                .text_rows = TEXT,
                                .out = out };
    ck_assert_int_le((int)m->c.text_width, 256);
    ck_assert_msg(!qw_dit_modulate(&m->run, m->dit, t, 1, &table), "%s", m->run.error.text);
    qw_dit_forward(&m->run, m->dit, table, 0, &s, 1, 0, 0);
    ck_assert_msg(!m->run.error.status, "%s", m->run.error.text);
    qw_modulation_free(table);
    free(x);
    free(text);
    free(t);
    return out;
}

void open_row(lora_row *r, const json_t *row)
{
    const json_t *files = json_object_get(row, "files");
    qw_error err = { 0 };
    char path[300];
    r->n = files ? (int)json_array_size(files) : 1;
    ck_assert_int_le(r->n, 4);
    for (int i = 0; i < r->n; i++) {
        const json_t *pair = json_array_get(files, (size_t)i);
        const char *name =
            json_string_value(files ? json_array_get(pair, 0) : json_object_get(row, "file"));
        const double strength =
            json_number_value(files ? json_array_get(pair, 1) : json_object_get(row, "strength"));
        snprintf(path, sizeof path, COMFY "loras/%s", name);
        good(qw_lora_open(&r->lora[i], testdata(path), strength, &err), &err);
    }
}

void close_row(lora_row *r)
{
    for (int i = 0; i < r->n; i++) qw_lora_free(r->lora[i]);
}

int open_loras(json_t **out)
{
    qw_error err = { 0 };
    if (!qw_json_file(testdata(FORMATS "goldens/lora.json"), out, &err))
        return (int)json_array_size(*out);
    fprintf(stderr, "%s\n", err.text);
    return 0;
}
