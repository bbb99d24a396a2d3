/* utf8.c - checks, repairs and decodes UTF-8. */
#include "core/core.h"
#include <stdlib.h>
#include <string.h>

/* Bytes of the sequence at s [n], n > 0, and its code point; or the bytes of the maximal ill-formed
 * part there (Unicode, section 3.9: a prefix of a well-formed sequence, a byte at least) and -1. */
static size_t sequence(const unsigned char *s, size_t n, int32_t *c)
{
    const unsigned char b = s[0];
    *c = b;
    if (b < 0x80) return 1;
    *c = -1;
    if (b < 0xC2 || b > 0xF4) return 1;
    const size_t length = b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
    int32_t code = b & (0xFF >> (length + 1));
    unsigned char low = 0x80, high = 0xBF; /* of the second byte: no overlong, no surrogates */
    if (b == 0xE0) low = 0xA0;
    if (b == 0xED) high = 0x9F;
    if (b == 0xF0) low = 0x90;
    if (b == 0xF4) high = 0x8F;
    for (size_t i = 1; i < length; i++) {
        if (i >= n || s[i] < low || s[i] > high) return i;
        code = code << 6 | (s[i] & 0x3F);
        low = 0x80;
        high = 0xBF;
    }
    *c = code;
    return length;
}

int64_t qw_utf8_invalid(const char *text, size_t bytes)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t i = 0; i < bytes;) {
        int32_t c;
        const size_t length = sequence(s + i, bytes - i, &c);
        if (c < 0) return (int64_t)i;
        i += length;
    }
    return -1;
}

char *qw_utf8_replace(const char *text, size_t bytes, size_t *out_bytes)
{
    const unsigned char *s = (const unsigned char *)text;
    if (bytes > SIZE_MAX / 3 - 1) return NULL;
    char *const out = malloc(3 * bytes + 1); /* one bad byte becomes the three of U+FFFD */
    if (!out) return NULL;
    size_t n = 0;
    for (size_t i = 0; i < bytes;) {
        int32_t c;
        const size_t length = sequence(s + i, bytes - i, &c);
        const size_t write = c < 0 ? 3 : length;
        memcpy(out + n, c < 0 ? "\xEF\xBF\xBD" : text + i, write);
        n += write;
        i += length;
    }
    out[n] = 0;
    *out_bytes = n;
    return out;
}

int32_t qw_utf8_next(const char *text, size_t bytes, size_t *at)
{
    int32_t c;
    *at += sequence((const unsigned char *)text + *at, bytes - *at, &c);
    return c;
}
