/* lora.c - LoRA files: their tensors grouped by module, in every published spelling.
 *
 * A key is a base and a suffix.  The suffix gives the role of the tensor (table below); the base
 * is a module's name in one of the forms of `forms`, which overlay.c compares whole with the
 * modules of a net.  Here the tensors are grouped by base, and each group is checked as far as
 * that needs no model: both factors, one rank, no second spelling. */
#include "files/json.h"
#include "files/lora.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>

/* Suffixes, longest first where one ends in another. */
static const struct {
    const char *text;
    qw_role role;
} suffixes[] = {
    { ".lora_linear_layer.down.weight", QW_DOWN },
    { ".lora_linear_layer.up.weight", QW_UP },
    { ".lora_A.default.weight", QW_DOWN },
    { ".lora_B.default.weight", QW_UP },
    { ".lora_down.weight", QW_DOWN },
    { ".lora_up.weight", QW_UP },
    { "_lora.down.weight", QW_DOWN },
    { "_lora.up.weight", QW_UP },
    { ".lora.down.weight", QW_DOWN },
    { ".lora.up.weight", QW_UP },
    { ".lora_A.weight", QW_DOWN },
    { ".lora_B.weight", QW_UP },
    { ".lora_A", QW_DOWN },
    { ".lora_B", QW_UP },
    { ".alpha", QW_ALPHA },
    { ".dora_scale", QW_DORA },
    { ".diff", QW_DIFF },
    { ".diff_b", QW_DIFF_B },
    { ".w_norm", QW_DIFF },
    { ".b_norm", QW_DIFF_B },
    { ".set_weight", QW_SET },
    { ".hada_w1_a", QW_W1_A },
    { ".hada_w1_b", QW_W1_B },
    { ".hada_w2_a", QW_W2_A },
    { ".hada_w2_b", QW_W2_B },
    { ".lokr_w1", QW_K1 },
    { ".lokr_w1_a", QW_K1_A },
    { ".lokr_w1_b", QW_K1_B },
    { ".lokr_w2", QW_K2 },
    { ".lokr_w2_a", QW_K2_A },
    { ".lokr_w2_b", QW_K2_B },
};
/* Suffixes of other kinds: they would change the result, so they are refused by name, not
 * ignored. */
static const char *const refused[] = { ".lora_mid.weight", ".hada_t1",        ".hada_t2",
                                       ".lokr_t2",         ".reshape_weight", ".oft_blocks",
                                       ".oft_diag",        ".a1.weight",      ".b1.weight" };

static int ends_with(const char *s, const char *end, size_t *base)
{
    const size_t n = strlen(s), m = strlen(end);
    if (n <= m || strcmp(s + n - m, end)) return 0;
    *base = n - m;
    return 1;
}

int qw_lora_key(const char *key, size_t *base, qw_role *role)
{
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (ends_with(key, suffixes[i].text, base)) {
            *role = suffixes[i].role;
            return 1;
        }
    return 0;
}

static qw_lora_module *module_of(qw_lora *l, const char *key, size_t base, qw_error *err)
{
    for (int64_t i = l->modules; i-- > 0;) /* keys of a module are mostly neighbours */
        if (!strncmp(l->module[i].base, key, base) && !l->module[i].base[base])
            return &l->module[i];
    if (l->modules == QW_LORA_MODULES) {
        qw_fail(err, QWEN_EUNSUPPORTED, "%s has more than %d modules", l->path, QW_LORA_MODULES);
        return NULL;
    }
    if (l->modules == l->room) {
        const int64_t room = l->room ? 2 * l->room : 64;
        qw_lora_module *m = realloc(l->module, (size_t)room * sizeof *m);
        if (!m) goto nomem;
        l->module = m;
        l->room = room;
    }
    qw_lora_module *m = &l->module[l->modules];
    memset(m, 0, sizeof *m);
    m->base = malloc(base + 1);
    if (!m->base) goto nomem;
    memcpy(m->base, key, base);
    m->base[base] = 0;
    l->modules++;
    return m;
nomem:
    qw_fail(err, QWEN_ENOMEM, "%s: no memory for its list of modules", l->path);
    return NULL;
}

static int add_key(qw_lora *l, const qw_entry *e, qw_error *err)
{
    char shown[200];
    size_t base;
    qw_role role;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (ends_with(e->key, refused[i], &base))
            return qw_fail(err, QWEN_EUNSUPPORTED,
                           "%s: \"%s\": adapters of this kind (%s) are not supported", l->path,
                           qw_visible(shown, sizeof shown, e->key), refused[i] + 1);
    if (!qw_lora_key(e->key, &base, &role)) {
        if (!l->stray) l->stray = e->key;
        l->strays++;
        return QWEN_OK;
    }
    qw_lora_module *m = module_of(l, e->key, base, err);
    if (!m) return err->status;
    if (m->role[role])
        return qw_fail(err, QWEN_EFORMAT, "%s: \"%s\" and \"%s\" are two spellings of one factor",
                       l->path, m->role[role]->key, qw_visible(shown, sizeof shown, e->key));
    m->role[role] = e;
    return QWEN_OK;
}

static int64_t count(const qw_entry *e)
{
    int64_t n = 1;
    for (int i = 0; i < e->rank; i++) n *= e->dim[i];
    return n;
}

/* up [n][r] and down [r][k] of one kind; either both or neither. */
static int check_pair(const qw_lora *l, const qw_lora_module *m, qw_role up, qw_role down,
                      const char *names, qw_error *err)
{
    const qw_entry *u = m->role[up], *d = m->role[down];
    if (!u && !d) return QWEN_OK;
    if (!u || !d)
        return qw_fail(err, QWEN_EFORMAT, "%s: \"%s\" has no %s matrix (%s)", l->path, m->base,
                       u ? "down" : "up", names);
    if (u->rank != 2 || d->rank != 2)
        return qw_fail(err, QWEN_EFORMAT,
                       "%s: \"%s\": the factors have %d and %d dimensions, expected 2 (%s)",
                       l->path, m->base, u->rank, d->rank, names);
    if (u->dim[1] < 1 || d->dim[0] < 1)
        return qw_fail(err, QWEN_EFORMAT, "%s: \"%s\" has rank 0", l->path, m->base);
    if (u->dim[1] != d->dim[0])
        return qw_fail(err, QWEN_EFORMAT, "%s: \"%s\": up has rank %lld, down has rank %lld",
                       l->path, m->base, (long long)u->dim[1], (long long)d->dim[0]);
    return QWEN_OK;
}

static int check_module(const qw_lora *l, const qw_lora_module *m, qw_error *err)
{
    const int lora = !!m->role[QW_UP], loha = !!m->role[QW_W1_A];
    const int lokr = m->role[QW_K1] || m->role[QW_K1_A] || m->role[QW_K2] || m->role[QW_K2_A];
    int status = check_pair(l, m, QW_UP, QW_DOWN, "lora_B and lora_A", err);
    if (!status) status = check_pair(l, m, QW_W1_A, QW_W1_B, "hada_w1_a, hada_w1_b", err);
    if (!status) status = check_pair(l, m, QW_W2_A, QW_W2_B, "hada_w2_a, hada_w2_b", err);
    if (!status) status = check_pair(l, m, QW_K1_A, QW_K1_B, "lokr_w1_a, lokr_w1_b", err);
    if (!status) status = check_pair(l, m, QW_K2_A, QW_K2_B, "lokr_w2_a, lokr_w2_b", err);
    if (status) return status;
    if (loha != !!m->role[QW_W2_A])
        return qw_fail(err, QWEN_EFORMAT, "%s: \"%s\": one of the two LoHa products is missing",
                       l->path, m->base);
    if (lokr
        && ((m->role[QW_K1] != NULL) == (m->role[QW_K1_A] != NULL)
            || (m->role[QW_K2] != NULL) == (m->role[QW_K2_A] != NULL)))
        return qw_fail(err, QWEN_EFORMAT,
                       "%s: \"%s\": LoKr needs lokr_w1 and lokr_w2, each whole or as a product",
                       l->path, m->base);
    if (lora + loha + lokr > 1)
        return qw_fail(err, QWEN_EFORMAT, "%s: \"%s\" has factors of several adapter kinds",
                       l->path, m->base);
    if (m->role[QW_DORA] && lora + loha + lokr == 0)
        return qw_fail(err, QWEN_EFORMAT, "%s: \"%s\" has a dora_scale and no factors", l->path,
                       m->base);
    if (m->role[QW_ALPHA] && count(m->role[QW_ALPHA]) != 1)
        return qw_fail(err, QWEN_EFORMAT, "%s: \"%s\": alpha has %lld values, expected 1", l->path,
                       m->base, (long long)count(m->role[QW_ALPHA]));
    return QWEN_OK;
}

/* Reads PEFT's settings in the header: lora_alpha and r, each perhaps under "transformer.". */
static int read_metadata(qw_lora *l, qw_error *err)
{
    static const char *const patterns[] = { "rank_pattern", "alpha_pattern" };
    const char *text = qw_store_metadata(l->store, "lora_adapter_metadata");
    if (!text) return QWEN_OK;
    json_error_t why;
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(json)) {
        json_decref(json);
        return qw_fail(err, QWEN_EFORMAT,
                       "%s: lora_adapter_metadata in the header is not a JSON object", l->path);
    }
    char key[64];
    int status = QWEN_OK;
    for (int p = 0; p < 2 && !status; p++) {
        const char *prefix = p ? "transformer." : "";
        for (size_t i = 0; i < 2 && !status; i++) {
            snprintf(key, sizeof key, "%s%s", prefix, patterns[i]);
            if (json_object_size(json_object_get(json, key)))
                status = qw_fail(err, QWEN_EUNSUPPORTED,
                                 "%s: %s in lora_adapter_metadata is not supported", l->path,
                                 patterns[i]);
        }
        snprintf(key, sizeof key, "%slora_alpha", prefix);
        const json_t *alpha = json_object_get(json, key);
        if (json_is_number(alpha)) l->alpha = json_number_value(alpha);
        snprintf(key, sizeof key, "%sr", prefix);
        const json_t *rank = json_object_get(json, key);
        if (json_is_number(rank)) l->alpha_rank = json_number_value(rank);
    }
    json_decref(json);
    if (!status && (!isfinite(l->alpha) || (l->alpha != 0 && !(l->alpha_rank > 0))))
        status = qw_fail(err, QWEN_EFORMAT,
                         "%s: lora_adapter_metadata has lora_alpha %g and rank r %g", l->path,
                         l->alpha, l->alpha_rank);
    return status;
}

int qw_lora_open(qw_lora **out, const char *path, double strength, qw_error *err)
{
    *out = NULL;
    qw_lora *l = calloc(1, sizeof *l);
    if (l) l->path = strdup(path);
    if (!l || !l->path) {
        free(l);
        return qw_fail(err, QWEN_ENOMEM, "%s: no memory to open it", path);
    }
    l->strength = strength;
    int status = qw_store_new(&l->store, err);
    if (!status) status = qw_store_add(l->store, path, err);
    for (int64_t i = 0; !status && qw_store_entry(l->store, i); i++)
        status = add_key(l, qw_store_entry(l->store, i), err);
    for (int64_t i = 0; !status && i < l->modules; i++)
        status = check_module(l, &l->module[i], err);
    if (!status) status = read_metadata(l, err);
    if (!status) qw_store_read_ahead(l->store); /* all tensors will be read */
    if (!status && !l->modules)
        status = qw_fail(err, QWEN_EMODEL, "%s is no LoRA: none of its keys (\"%s\" ...) is one",
                         path, l->stray ? l->stray : "none");
    if (status) {
        qw_lora_free(l);
        return status;
    }
    *out = l;
    return QWEN_OK;
}

void qw_lora_free(qw_lora *l)
{
    if (!l) return;
    for (int64_t i = 0; i < l->modules; i++) free(l->module[i].base);
    free(l->module);
    qw_store_free(l->store);
    free(l->path);
    free(l);
}

double *qw_lora_values(const qw_lora *l, const qw_entry *e, int64_t expected, qw_error *err)
{
    const int64_t n = count(e);
    if (expected >= 0 && n != expected) {
        qw_fail(err, QWEN_EMODEL, "%s: \"%s\" has %lld values, expected %lld", l->path, e->key,
                (long long)n, (long long)expected);
        return NULL;
    }
    if (e->dtype != QW_F64 && e->dtype != QW_F32 && e->dtype != QW_F16 && e->dtype != QW_BF16) {
        qw_fail(err, QWEN_EUNSUPPORTED, "%s: \"%s\" is %s, expected f32, f16 or bf16", l->path,
                e->key, qw_dtype_name(e->dtype));
        return NULL;
    }
    double *x = malloc((size_t)(n ? n : 1) * sizeof *x);
    if (!x) {
        qw_fail(err, QWEN_ENOMEM, "%s: no memory for \"%s\"", l->path, e->key);
        return NULL;
    }
    qw_numbers_get(e->dtype, e->data, n, x);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i])) {
            qw_fail(err, QWEN_EFORMAT, "%s: \"%s\" is not finite (element %lld is %g)", l->path,
                    e->key, (long long)i, x[i]);
            free(x);
            return NULL;
        }
    return x;
}

int qw_lora_factor(const qw_lora *l, const qw_lora_module *m, double rank, double *factor,
                   qw_error *err)
{
    *factor = 1;
    if (m->role[QW_ALPHA]) {
        double *alpha = qw_lora_values(l, m->role[QW_ALPHA], 1, err);
        if (!alpha) return err->status;
        *factor = *alpha / rank;
        free(alpha);
    } else if (l->alpha != 0) {
        *factor = l->alpha / l->alpha_rank;
    }
    return QWEN_OK;
}
