/* output.c - files that appear whole or not at all.
 *
 * A file is written under a temporary name beside its target, flushed to the disk and renamed over
 * it. What exists and is no regular file (a device, a pipe) is written in place; links are
 * followed. */
#include "cli.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Path of the open temporary file, for the signal handler: a second Ctrl-C removes it. */
static volatile sig_atomic_t unlink_pending;
static char unlink_path[4096];

void output_interrupted(void)
{
    if (unlink_pending) unlink(unlink_path);
}

static void set_unlink_path(const char *path)
{
    unlink_pending = 0;
    if (path && strlen(path) < sizeof unlink_path) {
        strcpy(unlink_path, path);
        unlink_pending = 1;
    }
}

static int cannot_write(const char *path, int why)
{
    return complain(CODE_WRITE, "%s: cannot be written: %s", path, strerror(why));
}

/* The file that a path names, links followed as far as they lead somewhere.  malloc'ed, or NULL. */
static char *resolve(const char *path)
{
    struct stat st;
    char *real = !lstat(path, &st) && S_ISLNK(st.st_mode) ? realpath(path, NULL) : NULL;
    return real ? real : format_text("%s", path);
}

/* Opens "dir/.name.XXXXXX"; *temporary is malloc'ed.  -1 with errno on failure. */
static int open_beside(const char *path, char **temporary)
{
    const char *name = base_name(path);
    *temporary = format_text("%.*s.%.200s.XXXXXX", (int)(name - path), path, name);
    if (!*temporary) {
        errno = ENOMEM;
        return -1;
    }
    const int fd = mkstemp(*temporary);
    if (fd < 0) {
        const int why = errno;
        free(*temporary);
        *temporary = NULL;
        errno = why;
    }
    return fd;
}

static mode_t wanted_mode(const char *path)
{
    struct stat st;
    if (!stat(path, &st)) return st.st_mode & 0777;
    const mode_t mask = umask(0);
    umask(mask);
    return 0666 & ~mask;
}

int output_open(output *o, const char *path)
{
    struct stat st;
    memset(o, 0, sizeof *o);
    if (!strcmp(path, "-")) {
        o->file = stdout;
        o->path = format_text("standard output");
        return o->path ? CODE_DONE : no_memory();
    }
    o->path = resolve(path);
    if (!o->path) return no_memory();
    const int there = !stat(o->path, &st);
    int fd, why = 0;
    if (there && S_ISDIR(st.st_mode)) {
        why = EISDIR;
    } else if (there && !S_ISREG(st.st_mode)) {
        o->file = fopen(o->path, "wb");
        why = errno;
    } else if (there && access(o->path, W_OK)) {
        why = errno;
    } else if ((fd = open_beside(o->path, &o->temporary)) < 0) {
        why = errno;
    } else {
        set_unlink_path(o->temporary);
        fchmod(fd, wanted_mode(o->path));
        o->file = fdopen(fd, "wb");
        why = errno;
        if (!o->file) close(fd);
    }
    if (o->file) return CODE_DONE;
    const int code = cannot_write(path, why);
    output_close(o, 0);
    return code;
}

/* Flushes the directory, so that the renamed file survives a crash.  Some systems cannot; that is
 * no failure. */
static void sync_directory(const char *path)
{
    const char *name = base_name(path);
    char *directory = name > path ? format_text("%.*s", (int)(name - path), path)
                                  : format_text(".");
    const int fd = directory ? open(directory, O_RDONLY) : -1;
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(directory);
}

int output_close(output *o, int keep)
{
    int code = CODE_DONE, why = o->failed;
    if (o->file == stdout) {
        if (fflush(stdout) && !why) why = errno;
    } else if (o->file) {
        if (!why && (ferror(o->file) || fflush(o->file))) why = errno ? errno : EIO;
        if (!why && keep && fsync(fileno(o->file)) && errno != EINVAL && errno != ENOTSUP
            && errno != EROFS)
            why = errno;
        if (fclose(o->file) && !why) why = errno;
    }
    if (o->temporary && o->file && keep && !why && rename(o->temporary, o->path)) why = errno;
    if (o->temporary && (!o->file || !keep || why)) unlink(o->temporary);
    else if (o->temporary) sync_directory(o->path);
    if (o->temporary) set_unlink_path(NULL);
    if (o->file && keep && why) code = cannot_write(o->path, why);
    free(o->path);
    free(o->temporary);
    memset(o, 0, sizeof *o);
    return code;
}

int output_check(const char *path)
{
    struct stat st;
    output o;
    if (!strcmp(path, "-") || (!stat(path, &st) && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))
        return CODE_DONE;
    const int code = output_open(&o, path);
    if (!code) output_close(&o, 0);
    return code;
}

FILE *output_spool(const char *path)
{
    struct stat st;
    char *temporary = NULL, *real = NULL;
    if (stat(path, &st) || S_ISREG(st.st_mode)) real = resolve(path);
    const int fd = real ? open_beside(real, &temporary) : -1;
    free(real);
    if (fd < 0) return tmpfile();
    unlink(temporary);
    free(temporary);
    FILE *f = fdopen(fd, "w+b");
    if (!f) close(fd);
    return f;
}
