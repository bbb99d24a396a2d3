/* roof_sets.c - the instruction sets that both the program and this machine have. */
#define _DEFAULT_SOURCE /* syscall */
#include "roof.h"
#if ROOF_X86
#include <cpuid.h>
#if defined __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

extern const qw_roof_set qw_roof_plain;
static int always(void) { return 1; }

#if ROOF_X86
extern const qw_roof_set qw_roof_avx2, qw_roof_avx512;
static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static int has_avx512(void) { return has_avx2() && __builtin_cpu_supports("avx512f"); }
#endif

#if ROOF_VNNI || ROOF_BF16 || ROOF_AVXVNNI || ROOF_AMX
enum { EAX, EBX, ECX, EDX };
/* A bit of CPUID leaf 7; the compilers have no common names for these. */
static int cpuid7(unsigned leaf, int reg, int bit)
{
    unsigned r[4] = { 0 };
    return __get_cpuid_count(7, leaf, &r[EAX], &r[EBX], &r[ECX], &r[EDX]) && (r[reg] >> bit & 1);
}
#endif
#if ROOF_VNNI
extern const qw_roof_set qw_roof_avx512vnni;
static int has_vnni(void) { return has_avx512() && cpuid7(0, ECX, 11); }
#endif
#if ROOF_BF16
extern const qw_roof_set qw_roof_avx512bf16;
static int has_bf16(void) { return has_avx512() && cpuid7(1, EAX, 5); }
#endif
#if ROOF_AVXVNNI
extern const qw_roof_set qw_roof_avxvnni;
static int has_avxvnni(void) { return has_avx2() && cpuid7(1, EAX, 4); }
#endif
#if ROOF_AMX
extern const qw_roof_set qw_roof_amx;
/* The kernel saves tiles (XCR0 bits 17 and 18) and gives this process leave to use them. */
static int has_amx(void)
{
#if defined __linux__ && defined SYS_arch_prctl
    enum { REQUEST = 0x1023, TILE_DATA = 18 };
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0; /* OSXSAVE */
    if (!cpuid7(0, EDX, 24) || !cpuid7(0, EDX, 22) || !cpuid7(0, EDX, 25)) return 0;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (a >> 17 & 3) == 3 && syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
#else
    return 0;
#endif
}
#endif

static const struct {
    const char *name;
    const qw_roof_set *set;
    int (*has)(void);
} known[] = {
    { "plain", &qw_roof_plain, always },
#if ROOF_X86
    { "avx2", &qw_roof_avx2, has_avx2 },
    { "avx512", &qw_roof_avx512, has_avx512 },
#endif
#if ROOF_AVXVNNI
    { "avxvnni", &qw_roof_avxvnni, has_avxvnni },
#endif
#if ROOF_VNNI
    { "avx512vnni", &qw_roof_avx512vnni, has_vnni },
#endif
#if ROOF_BF16
    { "avx512bf16", &qw_roof_avx512bf16, has_bf16 },
#endif
#if ROOF_AMX
    { "amx", &qw_roof_amx, has_amx },
#endif
};

const qw_roof_set *qw_roof_set_at(int i, const char **name)
{
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
        if (!known[k].has() || i-- > 0) continue;
        if (name) *name = known[k].name;
        return known[k].set;
    }
    return NULL;
}
