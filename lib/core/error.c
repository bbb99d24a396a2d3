/* error.c - the first failure of a piece of work, as a value. */
#include "core/core.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int qw_fail(qw_error *e, int status, const char *format, ...)
{
    if (e->status) return e->status;
    va_list args;
    va_start(args, format);
    vsnprintf(e->text, sizeof e->text, format, args);
    va_end(args);
    e->status = status;
    return status;
}

/* Length of the well-formed UTF-8 sequence at s, or 0. */
static int sequence(const unsigned char *s)
{
    const int n = s[0] < 0x80   ? 1
                  : s[0] < 0xc2 ? 0
                  : s[0] < 0xe0 ? 2
                  : s[0] < 0xf0 ? 3
                  : s[0] < 0xf5 ? 4
                                : 0;
    for (int i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if (s[0] == 0xe0 && s[1] < 0xa0) return 0; /* overlong */
    if (s[0] == 0xed && s[1] > 0x9f) return 0; /* a surrogate */
    if (s[0] == 0xf0 && s[1] < 0x90) return 0;
    if (s[0] == 0xf4 && s[1] > 0x8f) return 0; /* beyond U+10FFFF */
    return n;
}

const char *qw_visible(char *dst, size_t size, const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t used = 0;
    while (*s && used + 5 <= size) {
        const int n = *s < 0x20 || *s == 0x7f ? 0 : sequence(s);
        if (n == 0) {
            used += (size_t)snprintf(dst + used, 5, *s == '\n' ? "\\n" : "\\x%02x", *s);
            s++;
        } else {
            memcpy(dst + used, s, (size_t)n);
            used += (size_t)n;
            s += n;
        }
    }
    if (size) dst[used] = 0;
    return dst;
}

const char *qwen_strerror(int status)
{
    static const char *const text[] = {
        "done",
        "an argument is wrong",
        "memory does not suffice",
        "a file cannot be read",
        "a file is not what it claims to be",
        "a tensor is missing or has the wrong shape",
        "this is not supported",
        "the device failed",
        "cancelled",
        "a result is not finite",
    };
    return status > 0 || status < QWEN_ENUMERIC ? "unknown status" : text[-status];
}
