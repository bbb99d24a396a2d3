/* unicode.c - Unicode classes and normalisation form C, as far as the tokenizer needs them.
 *
 * Categories, decompositions and compositions are utf8proc's.  Canonical ordering is done here,
 * because utf8proc needs quadratic time for long runs of combining marks. */
#include "host/text.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

qw_char_class qw_char_classify(int32_t c)
{
    if (c < 0) return QW_CHAR_OTHER;
    if ((c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680
        || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F
        || c == 0x3000)
        return QW_CHAR_SPACE;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return QW_CHAR_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return QW_CHAR_NUMBER;
    default: return QW_CHAR_OTHER;
    }
}

static int combining(int32_t c) { return utf8proc_get_property(c)->combining_class & 255; }

/* Canonical ordering: every run of characters with a combining class other than 0 is sorted by
 * class, equal classes keeping their order.  Counting sort: c [n], spare [n]. */
static void order_marks(int32_t *c, int32_t *spare, size_t n)
{
    for (size_t i = 0, end; i < n; i = end + 1) {
        for (end = i; end < n && combining(c[end]); end++) {}
        if (end - i < 2) continue;
        size_t count[256] = { 0 }, at = 0;
        for (size_t j = i; j < end; j++) count[combining(c[j])]++;
        for (int k = 0; k < 256; k++) {
            const size_t m = count[k];
            count[k] = at;
            at += m;
        }
        for (size_t j = i; j < end; j++) spare[count[combining(c[j])]++] = c[j];
        memcpy(c + i, spare, (end - i) * sizeof *c);
    }
}

/* Below U+0300 nothing combines and nothing changes. */
static int surely_nfc(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)text[i] >= 0xCC) return 0;
    return 1;
}

int qw_nfc(const char *text, size_t bytes, char **out, size_t *out_bytes)
{
    enum { MOST = 4 }; /* no canonical decomposition is longer */
    const utf8proc_option_t form = (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    *out = NULL;
    *out_bytes = 0;
    if (bytes > SIZE_MAX / 64) return QWEN_ENOMEM;
    if (surely_nfc(text, bytes)) {
        char *const copy = malloc(bytes + 1);
        if (!copy) return QWEN_ENOMEM;
        memcpy(copy, text, bytes);
        *out = copy;
        *out_bytes = bytes;
        return QWEN_OK;
    }
    size_t chars = 0;
    for (size_t i = 0; i < bytes; i++) chars += (text[i] & 0xC0) != 0x80;
    int32_t *const c = malloc((MOST * chars + 1) * sizeof *c);
    int32_t *const spare = malloc((MOST * chars + 1) * sizeof *c);
    if (!c || !spare) goto no_memory;
    size_t n = 0;
    int bound = 0;
    for (size_t i = 0; i < bytes;) {
        const int32_t code = qw_utf8_next(text, bytes, &i);
        const utf8proc_ssize_t m = utf8proc_decompose_char(code, c + n, MOST, form, &bound);
        if (m > 0 && m <= MOST) n += (size_t)m;
        else c[n++] = code;
    }
    order_marks(c, spare, n);
    const utf8proc_ssize_t composed = utf8proc_normalize_utf32(c, (utf8proc_ssize_t)n, form);
    char *const s = malloc(4 * n + 4);
    if (composed < 0 || !s) {
        free(s);
        goto no_memory;
    }
    size_t written = 0;
    for (utf8proc_ssize_t i = 0; i < composed; i++)
        written += (size_t)utf8proc_encode_char(c[i], (utf8proc_uint8_t *)s + written);
    free(c);
    free(spare);
    *out = s;
    *out_bytes = written;
    return QWEN_OK;
no_memory:
    free(c);
    free(spare);
    return QWEN_ENOMEM;
}
