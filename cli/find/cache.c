/* cache.c - the demo's directory, and ids in the Hugging Face cache. */
#include "find/catalog.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- the demo --------------------------------------------------------------------------------- */

/* The demo's directory relative to the program, which may be moved or not installed; malloc'ed, or
 * NULL. */
static char *demo_beside(void)
{
    static const char *const places[] = { "../share/libqwen/demo", "../data/demo",
                                          "../../data/demo", "data/demo" };
    char self[4096];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return NULL;
    self[n] = 0;
    char *slash = strrchr(self, '/');
    if (slash) *slash = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char *path = path_join(self, places[i]);
        char *real = path ? realpath(path, NULL) : NULL;
        free(path);
        if (real) return real;
    }
    return NULL;
}

char *find_demo(void)
{
    const char *set = getenv("QWEN_DATADIR");
    char *path = path_join(set && *set ? set : QWEN_DATADIR, "demo");
    if (!path || path_exists(path) || (set && *set)) return path;
    char *beside = demo_beside();
    if (!beside) return path;
    free(path);
    return beside;
}

/* --- the Hugging Face cache ------------------------------------------------------------------- */

char *find_cache(void)
{
    const char *hub = getenv("HF_HUB_CACHE"), *home = getenv("HF_HOME"),
               *xdg = getenv("XDG_CACHE_HOME");
    const char *user = getenv("HOME");
    if (hub && *hub) return format_text("%s", hub);
    if (home && *home) return path_join(home, "hub");
    if (xdg && *xdg) return path_join(xdg, "huggingface/hub");
    return path_join(user && *user ? user : ".", ".cache/huggingface/hub");
}

/* Only the letters that ids may have count; a path with two slashes is no id. */
int is_id(const char *name)
{
    const char *slash = strchr(name, '/'), *at = strchr(name, '@');
    const size_t n = at ? (size_t)(at - name) : strlen(name);
    if (!slash || slash == name || (at && at < slash) || (at && !at[1]) || name[0] == '.') return 0;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("-_./", name[i])) return 0;
    return slash + 1 < name + n && !memchr(slash + 1, '/', n - (size_t)(slash + 1 - name));
}

/* The first word of a small file; malloc'ed, or NULL if it could leave the directory. */
static char *first_line(const char *path)
{
    char line[256] = "";
    FILE *f = fopen(path, "r");
    const int got = f && fgets(line, sizeof line, f);
    if (f) fclose(f);
    line[strcspn(line, " \t\r\n")] = 0;
    return got && *line && !strchr(line, '/') && line[0] != '.' ? format_text("%s", line) : NULL;
}

/* Without refs/main: the first snapshot by name with a model_index.json, else the first. */
static char *any_snapshot(const char *snapshots)
{
    listing l;
    char *best = NULL;
    int best_whole = 0;
    if (listing_make(&l, snapshots)) return NULL;
    for (size_t i = 0; i < l.n; i++) {
        char *path = path_join(snapshots, l.name[i]);
        const int whole = path && directory_has(path, "model_index.json");
        if (path && path_is_directory(path) && (!best || whole > best_whole)) {
            free(best);
            best = path;
            best_whole = whole;
        } else {
            free(path);
        }
    }
    listing_free(&l);
    return best;
}

static int not_there(char **where, char *what)
{
    *where = what;
    return -1;
}

int find_id(const char *id, char **path, char **where)
{
    const char *slash = strchr(id, '/'), *at = strchr(id, '@');
    const char *revision = at ? at + 1 : "main";
    const int name = (int)(at ? at - slash - 1 : (int)strlen(slash + 1));
    char *root = find_cache();
    char *folder =
        root ? format_text("%s/models--%.*s--%.*s", root, (int)(slash - id), id, name, slash + 1)
             : NULL;
    char *snapshots = folder ? path_join(folder, "snapshots") : NULL;
    char *ref = folder ? format_text("%s/refs/%s", folder, revision) : NULL;
    char *commit = ref ? first_line(ref) : NULL;
    int result = -1;
    *path = *where = NULL;
    if (!ref || !snapshots)
        ;
    else if (!path_is_directory(folder))
        not_there(where, format_text("%s is no directory", folder));
    else if (!commit && at) { /* the revision may be a commit itself */
        *path = strchr(revision, '/') ? NULL : path_join(snapshots, revision);
        if (!*path || !path_is_directory(*path))
            not_there(where, format_text("%s has neither refs/%s nor snapshots/%s", folder,
                                         revision, revision));
    } else if (!commit) {
        *path = path_exists(ref) ? NULL : any_snapshot(snapshots);
        if (!*path)
            not_there(where,
                      format_text(path_exists(ref) ? "%s holds no commit"
                                                   : "%s is missing, and there is no snapshot",
                                  ref));
    } else {
        *path = path_join(snapshots, commit);
        if (*path && !path_is_directory(*path))
            not_there(where,
                      format_text("%s names %s, but %s is no directory", ref, commit, *path));
    }
    if (*path && !*where) result = 0;
    if (result) {
        free(*path);
        *path = NULL;
    }
    free(root);
    free(folder);
    free(snapshots);
    free(ref);
    free(commit);
    return result;
}
