/* replay.c - runs a fuzz target over saved inputs, without a fuzzer: files, or folders of files. */
#include "fuzz.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int ran;

static int replay(const char *path)
{
    struct stat st;
    if (stat(path, &st)) {
        perror(path);
        return 1;
    }
    if (S_ISDIR(st.st_mode)) {
        DIR *d = opendir(path);
        if (!d) {
            perror(path);
            return 1;
        }
        int bad = 0;
        for (struct dirent *e; (e = readdir(d)) != NULL;) {
            char sub[4096];
            if (e->d_name[0] == '.') continue;
            snprintf(sub, sizeof sub, "%s/%s", path, e->d_name);
            bad |= replay(sub);
        }
        closedir(d);
        return bad;
    }
    FILE *f = fopen(path, "rb");
    uint8_t *data = malloc((size_t)st.st_size + 1);
    const size_t n = f && data ? fread(data, 1, (size_t)st.st_size, f) : 0;
    if (f) fclose(f);
    if (!f || !data) {
        perror(path);
        free(data);
        return 1;
    }
    LLVMFuzzerTestOneInput(data, n);
    free(data);
    ran++;
    return 0;
}

int main(int argc, char **argv)
{
    int bad = 0;
    for (int i = 1; i < argc; i++) bad |= replay(argv[i]);
    printf("%d inputs\n", ran);
    return bad || !ran;
}
