/* host_threads.c - how many threads the cgroups of this process have processors' time for.
 *
 * OpenMP takes as many threads as the process has processors, which containers often leave alone
 * while they limit its time: a team that is larger than the limit waits for its stopped members.
 * Files: Linux kernel, Documentation/admin-guide/cgroup-v2.rst (cpu.max: "QUOTA PERIOD" or
 * "max PERIOD") and scheduler/sched-bwc.rst (cpu.cfs_quota_us, below 0: none). */
#define _GNU_SOURCE /* sched_getaffinity */
#include "core/core.h"
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 1024 };

/* The first line of the file ROOT FOLDER NAME in `line`; 0: it cannot be read. */
static int read_line(const char *root, const char *folder, const char *name, char line[64])
{
    char path[3 * PATH];
    snprintf(path, sizeof path, "%s%s/%s", root, folder, name);
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    const int got = fgets(line, 64, f) != NULL;
    fclose(f);
    return got;
}

/* Processors' worth of time that one cgroup's folder grants; INFINITY: it has no limit. */
static double granted(const char *root, const char *folder)
{
    char line[64], period[64];
    double quota = 0, of = 0;
    if (read_line(root, folder, "cpu.max", line)) {
        if (sscanf(line, "%lf %lf", &quota, &of) != 2) return INFINITY;
    } else {
        if (!read_line(root, folder, "cpu.cfs_quota_us", line)) return INFINITY;
        if (!read_line(root, folder, "cpu.cfs_period_us", period)) return INFINITY;
        quota = strtod(line, NULL);
        of = strtod(period, NULL);
    }
    return quota > 0 && of > 0 ? quota / of : INFINITY;
}

/* The least of a cgroup and those around it.  A container may see its own cgroup's folder as the
 * root of all while /proc has the path outside: folders that are not there have no limit. */
static double least(const char *root, const char *mount, const char *cgroup)
{
    char folder[2 * PATH];
    double least = granted(root, mount);
    snprintf(folder, sizeof folder, "%s%s", mount, cgroup);
    for (char *slash; strlen(folder) > strlen(mount) && (slash = strrchr(folder, '/')); *slash = 0)
        least = fmin(least, granted(root, folder));
    return least;
}

int qw_cgroup_threads(const char *root)
{
    char line[PATH], list[PATH + 3];
    double threads = INFINITY;
    snprintf(line, sizeof line, "%s/proc/self/cgroup", root);
    FILE *f = fopen(line, "r");
    while (f && fgets(line, sizeof line, f)) { /* NUMBER:CONTROLLERS:PATH; version 2: 0::PATH */
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'),
             *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path || path[1] != '/') continue;
        *path++ = 0;
        const int second = !controllers[1];
        snprintf(list, sizeof list, ",%s,", controllers + 1);
        if (!second && !strstr(list, ",cpu,")) continue;
        threads =
            fmin(threads, least(root, second ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu", path));
    }
    if (f) fclose(f);
    return threads < 1e6 ? (int)ceil(threads) : 0;
}

int qw_host_threads(void)
{
    const char *asked = getenv("OMP_NUM_THREADS");
    const int limit = asked && *asked ? 0 : qw_cgroup_threads("");
#ifdef __linux__
    cpu_set_t set;
    if (limit && !sched_getaffinity(0, sizeof set, &set) && CPU_COUNT(&set) > limit) return limit;
#endif
    (void)limit;
    return 0;
}
