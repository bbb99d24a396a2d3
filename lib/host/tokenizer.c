/* tokenizer.c - Qwen2's byte-level BPE: from a text to token ids.
 *
 * A text is cut at the added tokens; each piece between them is normalised (NFC) and cut into
 * words by the rules of Qwen2's pre-tokenizer.  A word begins as the tokens of its bytes; pairs
 * of neighbours are merged, the pair that stands first in merges.txt first (Hugging Face
 * tokenizers, models/bpe/word.rs).  A symbol is a token id: merging needs only the map (left id,
 * right id) -> (rank, id of both). */
#include "host/tokenizer.h"
#include <stdlib.h>
#include <string.h>

enum { MOST_TEXT = 1 << 28 };

/* --- the tokenizer ---------------------------------------------------------------------------- */

uint64_t qw_pair_key(int32_t a, int32_t b) { return ((uint64_t)a + 1) << 32 | ((uint64_t)b + 1); }

qw_pair_slot *qw_pair_at(const qw_pair_map *m, int32_t a, int32_t b)
{
    const uint64_t key = qw_pair_key(a, b);
    uint64_t h = key * UINT64_C(0x9E3779B97F4A7C15);
    h = (h ^ h >> 32) * UINT64_C(0xD6E8FEB86659FD93);
    size_t i = (size_t)(h ^ h >> 32) & m->mask;
    while (m->slot[i].key && m->slot[i].key != key) i = (i + 1) & m->mask;
    return &m->slot[i];
}

void qw_tokenizer_free(qw_tokenizer *t)
{
    if (!t) return;
    free(t->merges.slot);
    free(t->trie.slot);
    free(t->node_id);
    free(t);
}

/* Bytes of the longest added token that begins at s [n], or 0. */
static size_t added_token(const qw_tokenizer *t, const char *s, size_t n, int32_t *id)
{
    size_t longest = 0;
    int32_t node = 0;
    if (!t->trie.slot) return 0;
    for (size_t i = 0; i < n; i++) {
        const qw_pair_slot *p = qw_pair_at(&t->trie, node, (unsigned char)s[i]);
        if (!p->key) break;
        node = p->id;
        if (t->node_id[node] < 0) continue;
        *id = t->node_id[node];
        longest = i + 1;
    }
    return longest;
}

/* --- words ------------------------------------------------------------------------------------ */

static int is_newline(int32_t c) { return c == '\r' || c == '\n'; }

static size_t run_of(const char *s, size_t n, size_t at, qw_char_class k)
{
    for (size_t next = at; at < n; at = next)
        if (qw_char_classify(qw_utf8_next(s, n, &next)) != k) break;
    return at;
}

/* Bytes of one of s t re ve m ll d at s [n], in any case of ASCII, or 0. */
static size_t contraction(const char *s, size_t n)
{
    const int a = n > 0 ? s[0] | 0x20 : 0, b = n > 1 ? s[1] | 0x20 : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 1;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 2;
    return 0;
}

/* End of the whitespace word that begins at `at`, whose first character c ends at `first`:
 *   \s*[\r\n]+ | \s+(?!\S) | \s+  */
static size_t whitespace_end(const char *s, size_t n, size_t at, size_t first, int32_t c)
{
    size_t end = first, last = at, newline = is_newline(c) ? first : 0;
    for (size_t next = end; end < n; end = next) {
        const int32_t d = qw_utf8_next(s, n, &next);
        if (qw_char_classify(d) != QW_CHAR_SPACE) break;
        if (is_newline(d)) newline = next;
        last = end;
    }
    if (newline) return newline;
    return end == n || last == at ? end : last;
}

/* End of the word that begins at s[at].  The alternatives, in order (Qwen2's pre-tokenizer):
 *   (?i:'s|'t|'re|'ve|'m|'ll|'d) | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N} |
 *   \x20?[^\s\p{L}\p{N}]+[\r\n]* | whitespace */
static size_t word_end(const char *s, size_t n, size_t at)
{
    size_t i = at;
    const int32_t c = qw_utf8_next(s, n, &i);
    const size_t short_form = c == '\'' ? contraction(s + i, n - i) : 0;
    if (short_form) return i + short_form;
    const qw_char_class k = qw_char_classify(c);
    if (k == QW_CHAR_LETTER) return run_of(s, n, i, QW_CHAR_LETTER);
    if (k == QW_CHAR_NUMBER) return i;
    size_t j = i;
    const qw_char_class next = j < n ? qw_char_classify(qw_utf8_next(s, n, &j)) : QW_CHAR_SPACE;
    if (next == QW_CHAR_LETTER && !is_newline(c)) return run_of(s, n, j, QW_CHAR_LETTER);
    if (k == QW_CHAR_OTHER || (c == ' ' && next == QW_CHAR_OTHER)) {
        i = run_of(s, n, i, QW_CHAR_OTHER);
        while (i < n && is_newline(s[i])) i++;
        return i;
    }
    return whitespace_end(s, n, at, i, c);
}

/* --- merging ---------------------------------------------------------------------------------- */

typedef struct symbol {
    int32_t id, prev, next;
} symbol; /* id -1: merged into the symbol on its left */
typedef struct candidate {
    int32_t rank, at, left, right, id;
} candidate;

typedef struct work {
    const qw_tokenizer *t;
    symbol *symbol;  /* [room] */
    candidate *heap; /* [3 room]: every merge brings at most two new pairs */
    size_t room, candidates;
    int32_t *ids;
    size_t n, ids_room;
} work;

static int before(const candidate *a, const candidate *b) /* lowest rank, then leftmost */
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void heap_push(work *w, candidate c)
{
    size_t i = w->candidates++;
    for (; i && before(&c, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = c;
}

static candidate heap_pop(work *w)
{
    const candidate top = w->heap[0], c = w->heap[--w->candidates];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= w->candidates) break;
        if (child + 1 < w->candidates && before(&w->heap[child + 1], &w->heap[child])) child++;
        if (!before(&w->heap[child], &c)) break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = c;
    return top;
}

static void propose(work *w, int32_t at) /* the pair that begins at symbol `at` */
{
    const symbol *s = &w->symbol[at];
    if (s->next < 0) return;
    const int32_t right = w->symbol[s->next].id;
    const qw_pair_slot *p = qw_pair_at(&w->t->merges, s->id, right);
    if (p->key) heap_push(w, (candidate){ p->rank, at, s->id, right, p->id });
}

static int grow(work *w, size_t bytes) /* room for a word, and for as many more ids */
{
    if (bytes > w->room) {
        const size_t room = bytes < 256 ? 256 : bytes;
        free(w->symbol);
        free(w->heap);
        w->symbol = malloc(room * sizeof *w->symbol);
        w->heap = malloc(3 * room * sizeof *w->heap);
        w->room = room;
        if (!w->symbol || !w->heap) return QWEN_ENOMEM;
    }
    if (w->n + bytes <= w->ids_room) return QWEN_OK;
    const size_t room = w->n + bytes + w->ids_room / 2;
    int32_t *const ids = realloc(w->ids, room * sizeof *ids);
    if (!ids) return QWEN_ENOMEM;
    w->ids = ids;
    w->ids_room = room;
    return QWEN_OK;
}

static int merge_word(work *w, const char *s, size_t n)
{
    if (grow(w, n)) return QWEN_ENOMEM;
    const int32_t last = (int32_t)n - 1; /* n <= 4 MOST_TEXT < 2^31 */
    for (int32_t i = 0; i <= last; i++)
        w->symbol[i] = (symbol){ w->t->byte_id[(unsigned char)s[i]], i - 1, i < last ? i + 1 : -1 };
    w->candidates = 0;
    for (int32_t i = 0; i < last; i++) propose(w, i);
    while (w->candidates) {
        const candidate c = heap_pop(w);
        symbol *const a = &w->symbol[c.at];
        if (a->id != c.left || a->next < 0) continue; /* a pair whose symbols have changed */
        symbol *const b = &w->symbol[a->next];
        if (b->id != c.right) continue;
        a->id = c.id;
        a->next = b->next;
        b->id = -1;
        if (b->next >= 0) w->symbol[b->next].prev = c.at;
        propose(w, c.at);
        if (a->prev >= 0) propose(w, a->prev);
    }
    for (int32_t i = 0; i >= 0; i = w->symbol[i].next) w->ids[w->n++] = w->symbol[i].id;
    return QWEN_OK;
}

static int tokenize_piece(work *w, const char *s, size_t n)
{
    if (!n) return QWEN_OK;
    char *normal = NULL;
    if (w->t->nfc) {
        if (qw_nfc(s, n, &normal, &n)) return QWEN_ENOMEM;
        s = normal;
    }
    int status = QWEN_OK;
    for (size_t at = 0, end; at < n && !status; at = end) {
        end = word_end(s, n, at);
        status = merge_word(w, s + at, end - at);
    }
    free(normal);
    return status;
}

int qw_tokenize(const qw_tokenizer *t, const char *text, size_t bytes, int32_t **ids, int64_t *n,
                qw_error *err)
{
    *ids = NULL;
    *n = 0;
    if (bytes > MOST_TEXT)
        return qw_fail(err, QWEN_EARG, "the text has %zu bytes, at most %d are taken", bytes,
                       MOST_TEXT);
    const int64_t bad = qw_utf8_invalid(text, bytes);
    if (bad >= 0)
        return qw_fail(err, QWEN_EARG, "the text is not UTF-8 at byte %lld", (long long)bad);
    work w = { .t = t };
    int status = grow(&w, 1);
    size_t start = 0;
    for (size_t at = 0; at < bytes && !status;) {
        int32_t id = 0;
        const size_t length = added_token(t, text + at, bytes - at, &id);
        if (!length) {
            at++;
            continue;
        }
        status = tokenize_piece(&w, text + start, at - start);
        if (!status) status = grow(&w, 1);
        if (!status) w.ids[w.n++] = id;
        start = at += length;
    }
    if (!status) status = tokenize_piece(&w, text + start, bytes - start);
    free(w.symbol);
    free(w.heap);
    if (status) {
        free(w.ids);
        return qw_fail(err, QWEN_ENOMEM, "no memory for the tokens of %zu bytes of text", bytes);
    }
    *ids = w.ids;
    *n = (int64_t)w.n;
    return QWEN_OK;
}
