/* tokenizer_load.c - from a tokenizer's files to a tokenizer: vocabulary, merges, added tokens.
 *
 * Three layouts are read: vocab.json with merges.txt; tokenizer.json; merges.txt alone, from
 * which the vocabulary follows.  The strings of the vocabulary are freed when the merges have
 * ids; the added tokens become a trie. */
#include "files/json.h"
#include "host/tokenizer.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MOST_IDS = 1 << 24, MOST_BYTES = 64 << 20 };

/* --- maps ------------------------------------------------------------------------------------- */

static size_t table_size(size_t entries) /* a power of two, at most half full */
{
    size_t n = 16;
    while (n < 2 * entries) n *= 2;
    return n;
}

static int pair_map_new(qw_pair_map *m, size_t entries)
{
    const size_t n = table_size(entries);
    m->slot = calloc(n, sizeof *m->slot);
    m->mask = n - 1;
    return m->slot ? QWEN_OK : QWEN_ENOMEM;
}

/* string -> id; strings are borrowed. */
typedef struct name_slot {
    const char *text;
    size_t length;
    uint64_t hash;
    int32_t id;
} name_slot;
typedef struct name_map {
    name_slot *slot;
    size_t mask;
} name_map;

static uint64_t hash_bytes(uint64_t h, const char *s,
                           size_t n) /* One step of FNV-1a over n bytes. */
{
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * UINT64_C(0x100000001B3);
    return h;
}

/* The slot of the string a followed by b, or the empty one where it belongs. */
static name_slot *name_at(const name_map *m, const char *a, size_t an, const char *b, size_t bn,
                          uint64_t *hash)
{
    const uint64_t h = hash_bytes(hash_bytes(UINT64_C(0xCBF29CE484222325), a, an), b, bn);
    size_t i = (size_t)(h ^ h >> 29) & m->mask;
    for (; m->slot[i].text; i = (i + 1) & m->mask) {
        const name_slot *s = &m->slot[i];
        if (s->hash == h && s->length == an + bn && !memcmp(s->text, a, an)
            && !memcmp(s->text + an, b, bn))
            break;
    }
    if (hash) *hash = h;
    return &m->slot[i];
}

/* --- loading ---------------------------------------------------------------------------------- */

typedef struct loading {
    qw_tokenizer *t;
    qw_error *err;
    const char *where; /* the file being read */
    name_map names;
    unsigned char *taken; /* bit per id */
    int32_t next;         /* the largest id so far, plus 1 */
} loading;

static int no_memory(loading *l)
{
    return qw_fail(l->err, QWEN_ENOMEM, "%s: no memory for the tokenizer", l->where);
}

static int add_name(loading *l, const char *text, size_t length, int64_t id)
{
    char shown[80];
    if (id < 0 || id >= MOST_IDS)
        return qw_fail(l->err, QWEN_EFORMAT, "%s: token \"%s\" has id %lld, expected 0 to %d",
                       l->where, qw_visible(shown, sizeof shown, text), (long long)id,
                       MOST_IDS - 1);
    if (l->taken[id / 8] >> id % 8 & 1)
        return qw_fail(l->err, QWEN_EFORMAT,
                       "%s: token \"%s\" has id %lld, which another token has", l->where,
                       qw_visible(shown, sizeof shown, text), (long long)id);
    uint64_t hash;
    name_slot *const s = name_at(&l->names, text, length, "", 0, &hash);
    if (s->text)
        return qw_fail(l->err, QWEN_EFORMAT, "%s: token \"%s\" occurs twice", l->where,
                       qw_visible(shown, sizeof shown, text));
    *s = (name_slot){ text, length, hash, (int32_t)id };
    l->taken[id / 8] = (unsigned char)(l->taken[id / 8] | 1u << id % 8);
    if (id >= l->next) l->next = (int32_t)id + 1;
    return QWEN_OK;
}

static int new_names(loading *l, size_t entries)
{
    if (entries > MOST_IDS)
        return qw_fail(l->err, QWEN_EFORMAT, "%s: %zu tokens, at most %d are taken", l->where,
                       entries, MOST_IDS);
    const size_t n = table_size(entries);
    l->names.slot = calloc(n, sizeof *l->names.slot);
    l->names.mask = n - 1;
    l->taken = calloc(MOST_IDS / 8, 1);
    return l->names.slot && l->taken ? QWEN_OK : no_memory(l);
}

static int add_vocabulary(loading *l, const json_t *vocab)
{
    const char *key;
    json_t *value;
    if (!json_is_object(vocab))
        return qw_fail(l->err, QWEN_EFORMAT,
                       "%s: the vocabulary is not an object of tokens and ids", l->where);
    if (new_names(l, json_object_size(vocab))) return l->err->status;
    json_object_foreach((json_t *)vocab, key, value)
    {
        char shown[80];
        if (!json_is_integer(value))
            return qw_fail(l->err, QWEN_EFORMAT, "%s: the id of token \"%s\" is not an integer",
                           l->where, qw_visible(shown, sizeof shown, key));
        if (add_name(l, key, strlen(key), json_integer_value(value))) return l->err->status;
    }
    return QWEN_OK;
}

/* Writes the character for byte b in token strings, as UTF-8; returns its bytes, 1 or 2. */
static size_t byte_name(int b, char out[3])
{
    int c = b;
    if (b <= 0x20) c = 0x100 + b;
    else if (b >= 0x7F && b <= 0xA0) c = 0x121 + (b - 0x7F);
    else if (b == 0xAD) c = 0x143;
    const size_t n = c < 0x80 ? 1 : 2;
    out[0] = (char)(n == 1 ? c : 0xC0 | c >> 6);
    out[1] = (char)(n == 1 ? 0 : 0x80 | (c & 0x3F));
    out[2] = 0;
    return n;
}

static int find_bytes(loading *l)
{
    for (int b = 0; b < 256; b++) {
        char name[3];
        const size_t n = byte_name(b, name);
        const name_slot *s = name_at(&l->names, name, n, "", 0, NULL);
        if (!s->text)
            return qw_fail(l->err, QWEN_EFORMAT,
                           "%s: the vocabulary has no token \"%s\" for byte %d", l->where, name, b);
        l->t->byte_id[b] = s->id;
    }
    return QWEN_OK;
}

/* Adds merge `rank`: tokens a and b become the token ab.  Of two equal merges the later one counts,
 * as in Hugging Face's tokenizers. */
static int add_merge(loading *l, int64_t rank, const char *a, size_t an, const char *b, size_t bn)
{
    const name_slot *left = name_at(&l->names, a, an, "", 0, NULL);
    const name_slot *right = name_at(&l->names, b, bn, "", 0, NULL);
    const name_slot *both = name_at(&l->names, a, an, b, bn, NULL);
    if (!left->text || !right->text || !both->text)
        return qw_fail(l->err, QWEN_EFORMAT, "%s: merge %lld: %s is not in the vocabulary",
                       l->where, (long long)rank,
                       !left->text    ? "its left token"
                       : !right->text ? "its right token"
                                      : "its result");
    qw_pair_slot *const p = qw_pair_at(&l->t->merges, left->id, right->id);
    *p = (qw_pair_slot){ qw_pair_key(left->id, right->id), (int32_t)rank, both->id };
    return QWEN_OK;
}

/* Splits "left right"; *bn is 0 if it is not two tokens with one space between. */
static void split_merge(const char *line, size_t n, size_t *an, const char **b, size_t *bn)
{
    const char *space = n ? memchr(line, ' ', n) : NULL;
    *bn = 0;
    if (!space || space == line) return;
    *an = (size_t)(space - line);
    *b = space + 1;
    *bn = n - *an - 1;
    if (*bn && memchr(*b, ' ', *bn)) *bn = 0;
}

/* Calls `each` with every merge in the text of a merges.txt, without blank lines and the version
 * line. */
static int each_merge(loading *l, const char *text, size_t bytes,
                      int (*each)(loading *, int64_t rank, const char *, size_t, const char *,
                                  size_t))
{
    int64_t rank = 0, line = 0;
    for (size_t at = 0; at < bytes;) {
        const char *s = text + at, *newline = memchr(s, '\n', bytes - at);
        size_t n = newline ? (size_t)(newline - s) : bytes - at, an = 0, bn = 0;
        const char *b = NULL;
        at += n + 1;
        line++;
        if (n && s[n - 1] == '\r') n--;
        if (!n || (line == 1 && n >= 8 && !memcmp(s, "#version", 8))) continue;
        split_merge(s, n, &an, &b, &bn);
        if (!bn)
            return qw_fail(l->err, QWEN_EFORMAT,
                           "%s: line %lld is not two tokens with a space between", l->where,
                           (long long)line);
        if (rank >= MOST_IDS)
            return qw_fail(l->err, QWEN_EFORMAT, "%s: more than %d merges", l->where, MOST_IDS);
        if (each(l, rank++, s, an, b, bn)) return l->err->status;
    }
    return QWEN_OK;
}

/* Reads a whole file; *text is malloc'ed. */
static int read_text(loading *l, char **text, size_t *bytes)
{
    struct stat st;
    *text = NULL;
    FILE *const f = fopen(l->where, "rb");
    if (!f) return qw_fail(l->err, QWEN_EIO, "%s: %s", l->where, strerror(errno));
    if (fstat(fileno(f), &st) || !S_ISREG(st.st_mode)) {
        fclose(f);
        return qw_fail(l->err, QWEN_EIO, "%s: not a file", l->where);
    }
    if (st.st_size > MOST_BYTES) {
        fclose(f);
        return qw_fail(l->err, QWEN_EFORMAT, "%s: %lld bytes, at most %d are taken", l->where,
                       (long long)st.st_size, MOST_BYTES);
    }
    *bytes = (size_t)st.st_size;
    *text = malloc(*bytes + 1);
    const int short_read = *text && fread(*text, 1, *bytes, f) != *bytes;
    fclose(f);
    if (!*text) return no_memory(l);
    return short_read ? qw_fail(l->err, QWEN_EIO, "%s: cannot be read to its end", l->where)
                      : QWEN_OK;
}

static size_t lines_of(const char *text, size_t bytes)
{
    size_t n = 1;
    for (size_t i = 0; i < bytes; i++) n += text[i] == '\n';
    return n;
}

static int read_merges(loading *l)
{
    char *text;
    size_t bytes;
    if (!read_text(l, &text, &bytes)) {
        if (pair_map_new(&l->t->merges, lines_of(text, bytes))) no_memory(l);
        else each_merge(l, text, bytes, add_merge);
    }
    free(text);
    return l->err->status;
}

static int add_json_merges(loading *l, const json_t *merges)
{
    if (!json_is_array(merges))
        return qw_fail(l->err, QWEN_EFORMAT, "%s: model.merges is not an array", l->where);
    if (json_array_size(merges) > MOST_IDS)
        return qw_fail(l->err, QWEN_EFORMAT, "%s: more than %d merges", l->where, MOST_IDS);
    if (pair_map_new(&l->t->merges, json_array_size(merges))) return no_memory(l);
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *m = json_array_get(merges, i);
        const char *a = json_string_value(m), *b = NULL;
        size_t an = 0, bn = 0;
        if (a) split_merge(a, json_string_length(m), &an, &b, &bn);
        else if (json_array_size(m) == 2) {
            const json_t *x = json_array_get(m, 0), *y = json_array_get(m, 1);
            a = json_string_value(x);
            b = json_string_value(y);
            an = json_string_length(x);
            bn = a && b ? json_string_length(y) : 0;
        }
        if (!bn)
            return qw_fail(l->err, QWEN_EFORMAT, "%s: model.merges[%zu] is not two tokens",
                           l->where, i);
        if (add_merge(l, (int64_t)i, a, an, b, bn)) return l->err->status;
    }
    return QWEN_OK;
}

/* --- added tokens ----------------------------------------------------------------------------- */

typedef struct added {
    const char *text;
    int64_t id;
} added;

static int build_trie(loading *l, const added *a, size_t n)
{
    qw_tokenizer *const t = l->t;
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) bytes += strlen(a[i].text);
    if (bytes > MOST_BYTES)
        return qw_fail(l->err, QWEN_EFORMAT, "%s: the added tokens are too long", l->where);
    t->node_id = malloc((bytes + 1) * sizeof *t->node_id);
    if (!t->node_id || pair_map_new(&t->trie, bytes)) return no_memory(l);
    int32_t nodes = 1;
    t->node_id[0] = -1;
    for (size_t i = 0; i < n; i++) {
        int32_t node = 0;
        for (const char *s = a[i].text; *s; s++) {
            qw_pair_slot *const p = qw_pair_at(&t->trie, node, (unsigned char)*s);
            if (!p->key) {
                *p = (qw_pair_slot){ qw_pair_key(node, (unsigned char)*s), 0, nodes };
                t->node_id[nodes++] = -1;
            }
            node = p->id;
        }
        char shown[80];
        qw_visible(shown, sizeof shown, a[i].text);
        if (!node) return qw_fail(l->err, QWEN_EFORMAT, "%s: an added token is empty", l->where);
        if (a[i].id < 0 || a[i].id >= MOST_IDS)
            return qw_fail(l->err, QWEN_EFORMAT,
                           "%s: added token \"%s\" has id %lld, expected 0 to %d", l->where, shown,
                           (long long)a[i].id, MOST_IDS - 1);
        if (t->node_id[node] >= 0 && t->node_id[node] != a[i].id)
            return qw_fail(l->err, QWEN_EFORMAT, "%s: added token \"%s\" has two ids, %d and %lld",
                           l->where, shown, t->node_id[node], (long long)a[i].id);
        t->node_id[node] = (int32_t)a[i].id;
    }
    return QWEN_OK;
}

/* Adds one entry of added_tokens (its own id) or added_tokens_decoder (the key is the id, as
 * text). */
static int one_added(loading *l, const json_t *entry, const char *key, added *a)
{
    static const char *const refused[] = { "lstrip", "rstrip", "single_word" };
    a->text = json_string_value(json_object_get(entry, "content"));
    if (!a->text)
        return qw_fail(l->err, QWEN_EFORMAT, "%s: an added token has no text under \"content\"",
                       l->where);
    char shown[80];
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (json_is_true(json_object_get(entry, refused[i])))
            return qw_fail(l->err, QWEN_EUNSUPPORTED,
                           "%s: added token \"%s\" has %s, which is not supported", l->where,
                           qw_visible(shown, sizeof shown, a->text), refused[i]);
    if (!key) {
        const json_t *id = json_object_get(entry, "id");
        a->id = json_is_integer(id) ? json_integer_value(id) : -1;
        return QWEN_OK;
    }
    char *end;
    errno = 0;
    const long long id = strtoll(key, &end, 10);
    a->id = *end || end == key || errno ? -1 : id;
    return QWEN_OK;
}

/* list: an array of entries, an object id -> entry, or an object text -> id. */
static int read_added(loading *l, const json_t *list)
{
    const size_t n = json_is_array(list) ? json_array_size(list) : json_object_size(list);
    if (!json_is_array(list) && !json_is_object(list))
        return qw_fail(l->err, QWEN_EFORMAT,
                       "%s: the added tokens are neither a list nor an object", l->where);
    added *const a = calloc(n + 1, sizeof *a);
    if (!a) return no_memory(l);
    const char *key;
    json_t *value;
    size_t i = 0;
    if (json_is_array(list)) {
        for (; i < n; i++)
            if (one_added(l, json_array_get(list, i), NULL, &a[i])) break;
    } else {
        json_object_foreach((json_t *)list, key, value)
        {
            if (json_is_integer(value)) a[i] = (added){ key, json_integer_value(value) };
            else if (one_added(l, value, key, &a[i])) break;
            i++;
        }
    }
    if (!l->err->status) build_trie(l, a, n);
    free(a);
    return l->err->status;
}

/* The added tokens of every published Qwen2.5-VL, after the vocabulary, for files that name
 * none. */
static int default_added(loading *l)
{
    static const char *const text[] = {
        "<|endoftext|>",      "<|im_start|>",     "<|im_end|>",     "<|object_ref_start|>",
        "<|object_ref_end|>", "<|box_start|>",    "<|box_end|>",    "<|quad_start|>",
        "<|quad_end|>",       "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
        "<|image_pad|>",      "<|video_pad|>",    "<tool_call>",    "</tool_call>",
        "<|fim_prefix|>",     "<|fim_middle|>",   "<|fim_suffix|>", "<|fim_pad|>",
        "<|repo_name|>",      "<|file_sep|>"
    };
    enum { N = sizeof text / sizeof *text };
    added a[N];
    for (int i = 0; i < N; i++) a[i] = (added){ text[i], (int64_t)l->next + i };
    return build_trie(l, a, N);
}

/* --- the layouts ------------------------------------------------------------------------------ */

/* Makes the vocabulary from the merges: the 256 bytes, those that are printed as themselves first,
 * then the results of the merges by rank.  Token strings go to arena, which has room for the file
 * and the bytes. */
static int rebuild(loading *l, const char *text, size_t bytes, char *arena)
{
    if (new_names(l, lines_of(text, bytes) + 256)) return l->err->status;
    for (int own = 1; own >= 0; own--)
        for (int b = 0; b < 256; b++) {
            const size_t n = byte_name(b, arena);
            const int stands_for_itself = (b > 0x20 && b < 0x7F) || (b > 0xA0 && b != 0xAD);
            if (stands_for_itself != own) continue;
            if (add_name(l, arena, n, l->next)) return l->err->status;
            arena += n + 1;
        }
    for (size_t at = 0, first = 1; at < bytes; first = 0) {
        const char *s = text + at, *newline = memchr(s, '\n', bytes - at), *b = NULL;
        size_t n = newline ? (size_t)(newline - s) : bytes - at, an = 0, bn = 0;
        at += n + 1;
        if (n && s[n - 1] == '\r') n--;
        if (!n || (first && n >= 8 && !memcmp(s, "#version", 8))) continue;
        split_merge(s, n, &an, &b, &bn);
        if (!bn) continue; /* each_merge reports it */
        memcpy(arena, s, an);
        memcpy(arena + an, b, bn);
        arena[an + bn] = 0;
        if (add_name(l, arena, an + bn, l->next)) return l->err->status;
        arena += an + bn + 1;
    }
    return QWEN_OK;
}

static int load_merges_alone(loading *l)
{
    char *text, *arena = NULL;
    size_t bytes;
    if (!read_text(l, &text, &bytes)) {
        arena = malloc(bytes + 3 * 256 + 3);
        if (!arena || pair_map_new(&l->t->merges, lines_of(text, bytes))) no_memory(l);
        else if (!rebuild(l, text, bytes, arena) && !find_bytes(l))
            each_merge(l, text, bytes, add_merge);
    }
    free(arena);
    free(text);
    return l->err->status;
}

/* Checks that tokenizer.json asks for Qwen2's rules. */
static const char qwen2_pattern[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
                                    "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+"
                                    "|\\s+(?!\\S)|\\s+";

static int check_pattern(loading *l, const json_t *pre)
{
    const json_t *const steps = json_object_get(pre, "pretokenizers");
    for (size_t i = 0; i < json_array_size(steps); i++) {
        const json_t *regex =
            json_object_get(json_object_get(json_array_get(steps, i), "pattern"), "Regex");
        if (regex
            && strcmp(json_string_value(regex) ? json_string_value(regex) : "", qwen2_pattern))
            return qw_fail(l->err, QWEN_EUNSUPPORTED,
                           "%s: the pre-tokenizer's pattern is not that of Qwen2", l->where);
    }
    return QWEN_OK;
}

static int check_options(loading *l, const json_t *root, const json_t *model)
{
    static const char *const off[] = { "byte_fallback", "ignore_merges" };
    static const char *const empty[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    const char *const type = json_string_value(json_object_get(model, "type"));
    char shown[80];
    if (type && strcmp(type, "BPE"))
        return qw_fail(l->err, QWEN_EUNSUPPORTED,
                       "%s: the tokenizer's model is \"%s\", expected \"BPE\"", l->where,
                       qw_visible(shown, sizeof shown, type));
    for (size_t i = 0; i < 2; i++) {
        const char *s = json_string_value(json_object_get(model, empty[i]));
        if ((s && *s) || json_is_true(json_object_get(model, off[i])))
            return qw_fail(l->err, QWEN_EUNSUPPORTED, "%s: model.%s is set, which is not supported",
                           l->where, s && *s ? empty[i] : off[i]);
    }
    const json_t *const normalizer = json_object_get(root, "normalizer");
    const char *const form = json_string_value(json_object_get(normalizer, "type"));
    if (json_is_null(normalizer)) l->t->nfc = 0;
    else if (normalizer && (!form || strcmp(form, "NFC")))
        return qw_fail(l->err, QWEN_EUNSUPPORTED, "%s: the normalizer is not NFC", l->where);
    return check_pattern(l, json_object_get(root, "pre_tokenizer"));
}

static int load_json(loading *l)
{
    json_t *root = NULL;
    if (qw_json_file(l->where, &root, l->err)) return l->err->status;
    const json_t *const model = json_object_get(root, "model");
    const json_t *const list = json_object_get(root, "added_tokens");
    if (!json_is_object(model))
        qw_fail(l->err, QWEN_EFORMAT, "%s: there is no object \"model\"", l->where);
    else if (!check_options(l, root, model) && !add_vocabulary(l, json_object_get(model, "vocab"))
             && !find_bytes(l) && !add_json_merges(l, json_object_get(model, "merges"))) {
        if (list) read_added(l, list);
        else default_added(l);
    }
    json_decref(root);
    return l->err->status;
}

static int load_vocabulary_and_merges(loading *l, const char *vocab_path, const char *merges_path)
{
    json_t *vocab = NULL;
    l->where = vocab_path;
    if (qw_json_file(vocab_path, &vocab, l->err)) return l->err->status;
    if (!add_vocabulary(l, vocab) && !find_bytes(l)) {
        l->where = merges_path;
        read_merges(l);
    }
    json_decref(vocab);
    return l->err->status;
}

static int is_file(const char *path)
{
    struct stat st;
    return path && !stat(path, &st) && S_ISREG(st.st_mode);
}

static char *joined(const char *directory, const char *name)
{
    const size_t n = strlen(directory) + strlen(name) + 2;
    char *const s = malloc(n);
    if (s) snprintf(s, n, "%s/%s", directory, name);
    return s;
}

static int load_added(loading *l, const char *config_path, const char *added_path)
{
    json_t *root = NULL;
    if (is_file(config_path)) {
        l->where = config_path;
        if (qw_json_file(config_path, &root, l->err)) return l->err->status;
        const json_t *const list = json_object_get(root, "added_tokens_decoder");
        if (list) read_added(l, list);
    }
    if (!l->err->status && !l->t->node_id && is_file(added_path)) {
        json_decref(root);
        root = NULL;
        l->where = added_path;
        if (!qw_json_file(added_path, &root, l->err)) read_added(l, root);
    }
    if (!l->err->status && !l->t->node_id) default_added(l);
    json_decref(root);
    return l->err->status;
}

static int load_directory(loading *l, const char *path)
{
    enum { VOCAB, MERGES, CONFIG, ADDED, FAST, FILES };
    static const char *const name[FILES] = { "vocab.json", "merges.txt", "tokenizer_config.json",
                                             "added_tokens.json", "tokenizer.json" };
    char *file[FILES];
    int missing = 0;
    for (int i = 0; i < FILES; i++) missing |= !(file[i] = joined(path, name[i]));
    l->where = path;
    if (missing) no_memory(l);
    else if (!(is_file(file[VOCAB]) && is_file(file[MERGES])) && is_file(file[FAST])) {
        l->where = file[FAST];
        load_json(l);
    } else if (is_file(file[MERGES])) {
        l->where = file[MERGES];
        const int status = is_file(file[VOCAB])
                               ? load_vocabulary_and_merges(l, file[VOCAB], file[MERGES])
                               : load_merges_alone(l);
        if (!status) load_added(l, file[CONFIG], file[ADDED]);
    } else
        qw_fail(l->err, QWEN_EIO,
                "%s: there is no tokenizer in it (vocab.json with merges.txt, tokenizer.json, or "
                "merges.txt)",
                path);
    for (int i = 0; i < FILES; i++) free(file[i]);
    return l->err->status;
}

int qw_tokenizer_open(qw_tokenizer **out, const char *path, qw_error *err)
{
    struct stat st;
    *out = NULL;
    if (stat(path, &st)) return qw_fail(err, QWEN_EIO, "%s: %s", path, strerror(errno));
    qw_error own = { 0 }; /* err may hold an earlier failure */
    loading l = { .t = calloc(1, sizeof *l.t), .err = &own, .where = path };
    if (!l.t) return qw_fail(err, QWEN_ENOMEM, "%s: no memory for the tokenizer", path);
    l.t->nfc = 1;
    const size_t n = strlen(path);
    if (S_ISDIR(st.st_mode)) load_directory(&l, path);
    else if (n >= 4 && !strcmp(path + n - 4, ".txt")) {
        if (!load_merges_alone(&l)) default_added(&l);
    } else load_json(&l);
    free(l.names.slot);
    free(l.taken);
    if (own.status) {
        qw_tokenizer_free(l.t);
        return qw_fail(err, own.status, "%s", own.text);
    }
    *out = l.t;
    return QWEN_OK;
}
