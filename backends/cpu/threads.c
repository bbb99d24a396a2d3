/* threads.c - the number of threads of an op, the index of the calling one, and whether to stop. */
#include "cpu.h"
#ifdef _OPENMP
#include <omp.h>
#endif

int cpu_threads(const qw_device *d, double work)
{
#ifdef _OPENMP
    const int most = d->threads > 0 ? d->threads : omp_get_max_threads();
#else
    const int most = 1;
    (void)d;
#endif
    const double worth = work / (1 << 18);
    return worth >= most ? most : worth > 1 ? (int)worth : 1;
}

int cpu_thread(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

int cpu_stopped(qw_device *d, int *stop)
{
    int now;
    CPU_OMP(atomic read)
    now = *stop;
    if (now || cpu_thread() || !d->poll || !d->poll(d->poll_user)) return now;
    CPU_OMP(atomic write)
    *stop = 1;
    return 1;
}
