/* json.c - JSON files, bounded in size and depth: a header or a vocabulary is the largest. */
#include "files/files.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { JSON_BYTES = 64 << 20 };

static int read_all(FILE *f, const char *path, char *data, size_t size, qw_error *err)
{
    const size_t n = fread(data, 1, size, f);
    return n == size && !ferror(f)
               ? QWEN_OK
               : qw_fail(err, QWEN_EIO, "%s: only %zu of %zu bytes can be read", path, n, size);
}

int qw_json_bytes(const void *data, size_t bytes, const char *where, json_t **out, qw_error *err)
{
    json_error_t why;
    char shown[JSON_ERROR_TEXT_LENGTH * 2];
    *out = NULL;
    if (bytes == 0) return qw_fail(err, QWEN_EFORMAT, "%s is empty, expected JSON", where);
    *out = json_loadb(data, bytes, JSON_REJECT_DUPLICATES, &why);
    if (*out) return QWEN_OK;
    qw_visible(shown, sizeof shown, why.text);
    switch (json_error_code(&why)) {
    case json_error_out_of_memory:
        return qw_fail(err, QWEN_ENOMEM, "%s: no memory to parse it", where);
    case json_error_invalid_utf8:
        return qw_fail(err, QWEN_EFORMAT, "%s is not JSON in UTF-8: line %d: %s", where, why.line,
                       shown);
    case json_error_numeric_overflow:
        return qw_fail(err, QWEN_EFORMAT,
                       "%s is not valid JSON: line %d: a number (shape, offset) beyond 64 bits: %s",
                       where, why.line, shown);
    default:
        return qw_fail(err, QWEN_EFORMAT, "%s is not valid JSON: line %d: %s", where, why.line,
                       shown);
    }
}

int qw_json_file(const char *path, json_t **out, qw_error *err)
{
    *out = NULL;
    FILE *f = fopen(path, "rb");
    struct stat st;
    if (!f) return qw_fail(err, QWEN_EIO, "%s cannot be opened: %s", path, strerror(errno));
    char *data = NULL;
    int status = QWEN_OK;
    if (fstat(fileno(f), &st) || !S_ISREG(st.st_mode))
        status = qw_fail(err, QWEN_EIO, "%s is not a regular file", path);
    else if (st.st_size > JSON_BYTES)
        status = qw_fail(err, QWEN_EFORMAT,
                         "%s has %lld bytes, too large for the JSON expected there", path,
                         (long long)st.st_size);
    else if (!(data = malloc((size_t)st.st_size + 1)))
        status = qw_fail(err, QWEN_ENOMEM, "%s: no memory to read it", path);
    else status = read_all(f, path, data, (size_t)st.st_size, err);
    fclose(f);
    if (!status) status = qw_json_bytes(data, (size_t)st.st_size, path, out, err);
    free(data);
    return status;
}
