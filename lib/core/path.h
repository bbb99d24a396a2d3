/* path.h - paths of files: copies, joins, what lies there. */
#ifndef QW_PATH_H
#define QW_PATH_H

char *qw_strdup(const char *s);                              /* NULL for NULL, or without memory */
char *qw_path_join(const char *directory, const char *name); /* malloc'ed; NULL: no memory */
int qw_is_directory(const char *path);
int qw_is_file(const char *path); /* a regular file */
#endif
