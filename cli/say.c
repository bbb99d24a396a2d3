/* say.c - for all subcommands: messages, text, whole files. */
#include "cli.h"
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --- messages --------------------------------------------------------------------------------- */

/* Prints one line on stderr.  Control characters and bytes that are not UTF-8 become \xNN. */
static void say_line(const char *before, const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    fputs(before, stderr);
    for (size_t left = strlen(text); left;) {
        const int64_t bad = qwen_utf8_invalid((const char *)s, left);
        const size_t valid = bad < 0 ? left : (size_t)bad;
        for (size_t i = 0; i < valid; i++) {
            const int control = s[i] < 0x20 || s[i] == 0x7f || (s[i] == 0xc2 && s[i + 1] < 0xa0)
                                || (i && s[i - 1] == 0xc2 && s[i] < 0xa0); /* C1: two bytes */
            if (s[i] == '\n') fputs("\\n", stderr);
            else if (control) fprintf(stderr, "\\x%02x", s[i]);
            else fputc(s[i], stderr);
        }
        s += valid;
        left -= valid;
        if (!left) break;
        fprintf(stderr, "\\x%02x", *s++);
        left--;
    }
    fputc('\n', stderr);
}

int complain(int code, const char *format, ...)
{
    char text[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    say_line("qwen-image: ", text);
    return code;
}

void notice(const settings *s, const char *format, ...)
{
    char text[4096];
    va_list args;
    if (s && s->quiet) return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    say_line("", text);
}

int no_memory(void) { return complain(CODE_MEMORY, "no memory"); }

int code_of(int status)
{
    switch (status) {
    case QWEN_OK: return CODE_DONE;
    case QWEN_EARG: return CODE_USAGE;
    case QWEN_EIO: return CODE_READ;
    case QWEN_EFORMAT:
    case QWEN_EMODEL: return CODE_MALFORMED;
    case QWEN_EUNSUPPORTED: return CODE_UNSUPPORTED;
    case QWEN_ECANCELLED: return CODE_CANCELLED;
    case QWEN_ENUMERIC: return CODE_NUMERIC;
    default: return CODE_MEMORY;
    }
}

/* --- text and files --------------------------------------------------------------------------- */

char *format_text(const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    const int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = n < 0 ? NULL : malloc((size_t)n + 1);
    if (text) vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    return text;
}

char *path_join(const char *directory, const char *name)
{
    const size_t n = strlen(directory);
    return format_text("%s%s%s", directory, n && directory[n - 1] != '/' ? "/" : "", name);
}

const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

int path_exists(const char *path)
{
    struct stat st;
    return !stat(path, &st);
}

int path_is_directory(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

int directory_has(const char *directory, const char *name)
{
    char *path = path_join(directory, name);
    const int has = path && path_exists(path);
    free(path);
    return has;
}

int same_file(const char *a, const char *b)
{
    struct stat x, y;
    return !stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Reads the rest of `from`, at most `most` bytes. */
static int read_all(FILE *from, const char *path, uint64_t most, char **data, size_t *bytes)
{
    char *all = NULL;
    size_t used = 0, room = 0, got;
    do {
        if (room - used < 65536) {
            room = room ? room + room / 2 : 131072;
            char *more = realloc(all, room);
            if (!more) {
                free(all);
                return no_memory();
            }
            all = more;
        }
        got = fread(all + used, 1, room - used - 1, from);
        used += got;
    } while (got && used <= most);
    if (ferror(from) || used > most) {
        free(all);
        return ferror(from) ? complain(CODE_READ, "%s: %s", path, strerror(errno))
                            : complain(CODE_MALFORMED, "%s: more than %llu bytes", path,
                                       (unsigned long long)most);
    }
    all[used] = 0;
    *data = all;
    *bytes = used;
    return CODE_DONE;
}

int read_file(const char *path, uint64_t most, char **data, size_t *bytes)
{
    struct stat st;
    *data = NULL;
    *bytes = 0;
    if (!strcmp(path, "-")) return read_all(stdin, "standard input", most, data, bytes);
    FILE *f = fopen(path, "rb");
    if (!f) return complain(CODE_READ, "%s: %s", path, strerror(errno));
    if (!fstat(fileno(f), &st) && S_ISDIR(st.st_mode)) {
        fclose(f);
        return complain(CODE_READ, "%s: is a directory, expected a file", path);
    }
    const int code = read_all(f, path, most, data, bytes);
    fclose(f);
    return code;
}

int flush_stdout(void)
{
    if (fflush(stdout) || ferror(stdout))
        return complain(CODE_WRITE, "standard output: %s", strerror(errno));
    return CODE_DONE;
}

int write_stdout(const char *text)
{
    fputs(text, stdout);
    return flush_stdout();
}
