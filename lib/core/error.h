/* error.h - the first failure of a piece of work, as a value: a status and one sentence. */
#ifndef QW_ERROR_H
#define QW_ERROR_H
#include <qwen/qwen.h>

typedef struct qw_error {
    int status;      /* enum qwen_status; QWEN_OK while nothing has failed */
    char text[1000]; /* one sentence naming the thing, expected and found */
} qw_error;

#if defined __GNUC__
#define QW_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define QW_PRINTF(f, a)
#endif

/* Records the failure if it is the first, and returns the status now held (never QWEN_OK). */
int qw_fail(qw_error *e, int status, const char *format, ...) QW_PRINTF(3, 4);
/* Copies at most size - 1 bytes of text with control characters and broken UTF-8 made visible
 * (\n, \x1b), for names that come out of a file.  Returns dst. */
const char *qw_visible(char *dst, size_t size, const char *text);
#endif
