/* path.c - paths of files: copies, joins, files and directories. */
#include "core/core.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

char *qw_strdup(const char *s)
{
    if (!s) return NULL;
    const size_t n = strlen(s) + 1;
    char *copy = malloc(n);
    return copy ? memcpy(copy, s, n) : NULL;
}

char *qw_path_join(const char *directory, const char *name)
{
    const size_t n = strlen(directory), m = strlen(name);
    char *path = malloc(n + m + 2);
    if (!path) return NULL;
    memcpy(path, directory, n);
    size_t at = n;
    if (n && path[n - 1] != '/') path[at++] = '/';
    memcpy(path + at, name, m + 1);
    return path;
}

int qw_is_directory(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

int qw_is_file(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISREG(st.st_mode);
}
