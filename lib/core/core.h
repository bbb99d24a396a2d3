/* core.h - declarations for every room: errors as values, paths, UTF-8, structs that begin with
 * their size, exact functions. */
#ifndef QW_CORE_H
#define QW_CORE_H
#include <qwen/qwen.h>

/* --- error.c: the first failure of a piece of work, as a value: a status and one sentence --- */
typedef struct qw_error {
    int status;      /* enum qwen_status; QWEN_OK while nothing has failed */
    char text[1000]; /* one sentence: the thing, what was expected, what was found */
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

/* --- path.c --- */
char *qw_strdup(const char *s);                              /* NULL for NULL, or without memory */
char *qw_path_join(const char *directory, const char *name); /* malloc'ed; NULL: no memory */
int qw_is_directory(const char *path);
int qw_is_file(const char *path); /* a regular file */

/* --- sized.c --- */
/* Copies the caller's struct of `size` bytes to the library's of `known`.  A shorter one is
 * completed with zeros; a longer one is QWEN_EUNSUPPORTED unless its bytes beyond `known` are
 * zero.  A size of 0 is QWEN_EARG.  `name` is the type, for the message. */
int qw_take_struct(qw_error *err, void *ours, size_t known, const void *theirs, size_t size,
                   const char *name);
/* Copies the library's struct back to the caller's, whose size field keeps its value. */
void qw_give_struct(void *theirs, size_t size, void *ours, size_t known);

/* --- host_threads.c --- */
/* Threads that an op on the host may have where the cgroups of this process grant less time than
 * it has processors; 0: OpenMP's own number, also where $OMP_NUM_THREADS is set.  Linux alone. */
int qw_host_threads(void);
/* The threads that those cgroups grant, rounded up, or 0: no limit.  root: before /proc and /sys. */
int qw_cgroup_threads(const char *root);

/* --- utf8.c --- */
/* Offset of the first byte that is not UTF-8, or -1. */
int64_t qw_utf8_invalid(const char *text, size_t bytes);
/* A copy with every maximal ill-formed part replaced by U+FFFD; malloc'ed, NULL without memory. */
char *qw_utf8_replace(const char *text, size_t bytes, size_t *out_bytes);
/* The code point at text[*at], *at < bytes; moves *at past it. */
int32_t qw_utf8_next(const char *text, size_t bytes, size_t *at);

/* --- exact_math.c --- */
/* log, sin, cos in double whose bits do not depend on the machine's libm (round-to-nearest IEEE
 * only). */
double qw_log(double x);
double qw_sin(double x);
double qw_cos(double x);
#endif
