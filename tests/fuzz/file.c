/* file.c - bytes as a file, for targets whose interface is a path. */
#include "fuzz.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64], path[160];

static void remove_folder(void)
{
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (folder[0] && system(command) != 0) fprintf(stderr, "%s is left behind\n", folder);
}

const char *fuzz_folder(void)
{
    if (!folder[0]) {
        strcpy(folder, access("/dev/shm", W_OK) ? "/tmp/qwfuzzXXXXXX" : "/dev/shm/qwfuzzXXXXXX");
        if (!mkdtemp(folder)) {
            perror(folder);
            exit(1);
        }
        atexit(remove_folder);
    }
    return folder;
}

const char *fuzz_file(const char *name, const uint8_t *data, size_t size)
{
    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    FILE *f = fopen(path, "wb");
    if (!f) return NULL;
    const size_t n = fwrite(data, 1, size, f);
    return fclose(f) || n != size ? NULL : path;
}
