/* bench_machine.c - the machine, system and compiler of a measurement, and its date. */
#include "bench.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

/* The value after "KEY  : " in a file of /proc; out keeps what it has where there is none.  Quotes
 * and backslashes become spaces: the value stands in JSON. */
static void value_of(const char *path, const char *key, char *out, size_t size)
{
    char line[400];
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        const size_t n = strlen(key);
        if (strncmp(line, key, n)) continue;
        const char *at = line + n + strspn(line + n, " \t:");
        snprintf(out, size, "%.*s", (int)strcspn(at, "\n"), at);
        for (char *c = out; *c; c++)
            if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ') *c = ' ';
        break;
    }
    if (f) fclose(f);
}

qw_machine qw_machine_of(int threads)
{
    qw_machine m = { .processor = "an unknown processor",
                     .system = "an unknown system",
                     .compiler = "an unknown compiler",
                     .online = (int)sysconf(_SC_NPROCESSORS_ONLN),
                     .threads = threads > 0 ? threads : qw_threads() };
    char memory[100] = "";
    struct utsname u;
    struct tm tm;
    const time_t now = time(NULL);
    value_of("/proc/cpuinfo", "model name", m.processor, sizeof m.processor);
    value_of("/proc/meminfo", "MemTotal", memory, sizeof memory);
    m.memory = 1024 * strtod(memory, NULL);
    if (uname(&u) >= 0)
        snprintf(m.system, sizeof m.system, "%.60s %.60s %.60s", u.sysname, u.release, u.machine);
#if defined __clang__
    snprintf(m.compiler, sizeof m.compiler, "%.90s", __VERSION__);
#elif defined __GNUC__
    snprintf(m.compiler, sizeof m.compiler, "GCC %.90s", __VERSION__);
#endif
    if (gmtime_r(&now, &tm)) strftime(m.date, sizeof m.date, "%Y-%m-%d %H:%M UTC", &tm);
    return m;
}
