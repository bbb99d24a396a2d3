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

const char *qw_visible(char *dst, size_t size, const char *text)
{
    const size_t bytes = strlen(text);
    size_t used = 0;
    for (size_t at = 0; at < bytes && used + 5 <= size;) {
        size_t next = at;
        const int32_t c = qw_utf8_next(text, bytes, &next);
        if (c < 0x20 || (c >= 0x7f && c < 0xa0)) { /* -1: not UTF-8 */
            used += (size_t)snprintf(dst + used, 5, c == '\n' ? "\\n" : "\\x%02x",
                                     (unsigned)(unsigned char)text[at]);
            at++;
        } else {
            memcpy(dst + used, text + at, next - at);
            used += next - at;
            at = next;
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
