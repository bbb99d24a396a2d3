/* roof.h - what the processor does at most: products a second in registers, bytes read a second. */
#ifndef QW_ROOF_H
#define QW_ROOF_H
#include <stddef.h>
#include <stdint.h>

/* Functions of one instruction set (roof_kernels.c); NULL: the set has no such instruction.
 * Products return the operations that they have done, two for a multiplication and its addition. */
typedef struct qw_roof_set {
    double (*f32)(int64_t rounds, volatile double *sink);
    double (*bf16)(int64_t rounds, volatile double *sink);
    double (*int8)(int64_t rounds, volatile double *sink);
    void (*read)(const void *from, size_t bytes, volatile double *sink);
} qw_roof_set;

typedef enum qw_roof_kind {
    QW_ROOF_F32,
    QW_ROOF_BF16,
    QW_ROOF_INT8,
    QW_ROOF_READ,
    QW_ROOFS
} qw_roof_kind;
extern const char *const qw_roof_name[QW_ROOFS]; /* "f32", "bf16", "int8", "read" */

/* Operations a second, of `read` bytes a second, on all threads together; 0: this machine or the
 * compiler that built the program has no such instruction. */
typedef struct qw_roof {
    double of[QW_ROOFS];
    double at; /* when it was measured, as of qw_seconds */
} qw_roof;

/* The i-th set of this program and its name; NULL past the last.  Sets that this processor or its
 * operating system lacks are passed over. */
const qw_roof_set *qw_roof_set_at(int i, const char **name);
/* Measures for some tenths of a second: each kind as the best of short spells, of all sets. */
void qw_roof_measure(qw_roof *roof, int threads);
/* The higher of both, kind by kind; `at` of the older. */
qw_roof qw_roof_best(const qw_roof *a, const qw_roof *b);
/* Threads that a program may use without being told a number. */
int qw_threads(void);
double qw_seconds(void); /* of a clock that only goes forward */
#endif
