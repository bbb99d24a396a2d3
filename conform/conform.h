/* conform.h - judging a device: a case, what it is made of, what is expected, the verdict.
 *
 * A case is a line and a line is a case:  gemm/bf16,q8_0/bias,gate,res/127x3072x64/normal/5eed
 * The line says everything: shapes, strides and data come from it alone, on any machine. */
#ifndef QW_CONFORM_H
#define QW_CONFORM_H
#include "core/run.h"

typedef enum qw_fill { QW_EXACT, QW_NORMAL, QW_HARD, QW_NFILLS } qw_fill;
typedef enum qw_ranges { QW_ALL_KEYS, QW_CAUSAL, QW_WINDOWS, QW_RANGES } qw_ranges;

enum { /* which optional operands a case has */
       QW_HAS_BIAS = 1,
       QW_HAS_GATE = 2,
       QW_HAS_RES = 4,
       QW_INPLACE = 8,
       QW_HAS_SCALE = 16,
       QW_HAS_SHIFT = 32,
       QW_HAS_NORM = 64,
       QW_IS_HALVES = 128
};
enum { QW_SCALE_NONE, QW_SCALE_ONE, QW_SCALE_ROW };

typedef struct qw_case {
    enum qw_op op;
    qw_dtype dtype[4]; /* in the order of the op's line, defaults filled in */
    int64_t dim[8];    /* the numbers of the shape */
    unsigned has;
    qw_act act;
    int64_t lora; /* rank, 0: none */
    qw_dtype x2, w2;
    int scales; /* of a quantised weight: QW_SCALE_* */
    int stride, up, top, left, rotate;
    qw_ranges ranges;
    int64_t window;
    double eps, scale; /* scale 0: 1 / sqrt(d) */
    qw_fill fill;
    uint64_t seed;
} qw_case;

/* One operand of a drawn case. */
typedef struct qw_datum {
    const qw_operand *operand;
    qw_tensor t; /* shape, strides, dtype; no addresses */
    double *v;   /* [n] dense: the values after rounding to storage (outputs: none) */
    int64_t n;
    unsigned char *image; /* what lies in memory: guards, padding, elements */
    size_t bytes, begin;  /* begin: where element 0 is */
    float *scale;
    size_t scales;
    unsigned char *block_scale;
    size_t block_scales;
    int same; /* index of the operand whose memory this is, or -1 */
} qw_datum;

enum { QW_DATA = 8, QW_GUARD = 256 };
typedef struct qw_material {
    qw_case c;
    qw_any_args args; /* no addresses in it */
    int n;
    qw_datum d[QW_DATA]; /* in the order of the op table */
    int32_t *first, *last;
} qw_material;

/* --- cases.c, draw.c, fill.c ---------------------------------------------------------------- */
/* 0, or an error sentence in why.  Without fill and seed: normal, seed 1. */
int qw_case_parse(qw_case *c, const char *line, char *why, size_t size);
void qw_case_print(const qw_case *c, char *out, size_t size);
/* Cases are counted by op and key: the type of a weight, or else of the first operand.  Key i of
 * an op, QW_NONE past the last; the key of a case. */
qw_dtype qw_case_key(enum qw_op op, int i);
qw_dtype qw_case_key_of(const qw_case *c);
/* The i-th case of an op and key for a seed, about `flops` large: borders, random and (of four
 * times that size) deep shapes by turns, all fills. */
void qw_case_draw(qw_case *c, enum qw_op op, qw_dtype key, int i, uint64_t seed, double flops);
/* Makes a line of the real model fit: its first dimension shrinks until the cost does. */
void qw_case_shrink(qw_case *c, double flops);
/* Operands and data.  wide: the device's type of vectors.  0, or QWEN_ENOMEM or QWEN_EARG. */
int qw_material_make(qw_material *m, const qw_case *c, qw_dtype wide);
void qw_material_free(qw_material *m);
qw_datum *qw_datum_named(qw_material *m, const char *name); /* NULL if absent */
double qw_stored(qw_dtype t, double x);                     /* x rounded to a plain float type */

/* --- bounds.c: what is expected ------------------------------------------------------------ */
typedef struct qw_expect {
    int64_t rows, cols; /* judged: rows of the result (pixels, queries) and columns of each */
    int64_t *row, *col; /* their indices */
    double *y, *e, *s;  /* [rows][cols]: value, bound, standard deviation, all before storage */
    int exact;          /* the tolerance is zero */
    void *owned[64];
    int n_owned, failed;
} qw_expect;
/* rows, cols: at most so many are judged, chosen by the case's seed. */
int qw_expect_make(qw_expect *x, qw_material *m, qw_device *oracle, const qw_arith *promise,
                   int64_t rows, int64_t cols);
void qw_expect_free(qw_expect *x);
const qw_arith *qw_promise(const qw_device *dev, enum qw_op op);
/* 0, or a sentence: the promise is above the ceiling. */
int qw_promise_check(const qw_arith *p, char *why, size_t size);

/* --- judge.c -------------------------------------------------------------------------------- */
typedef enum qw_outcome { QW_PASSED, QW_DECLINED, QW_FAILED, QW_NOUTCOMES } qw_outcome;
typedef struct qw_verdict {
    qw_outcome outcome;
    double ratio; /* worst |got - y| / allowed; above 1 fails */
    double rms;   /* above 2 fails */
    char why[400];
} qw_verdict;
void qw_judge(qw_device *dev, qw_device *oracle, const qw_case *c, qw_verdict *v);
/* Draws cases of an op and a key until `asked` of them have been judged, which declined ones
 * have not, and hands each verdict to `each`; a nonzero answer stops and is returned.  Drawing
 * ends too when the device has declined 2 asked + 8 cases and taken none, or 32 asked + 8 in
 * all. */
int qw_judge_key(qw_device *dev, qw_device *oracle, enum qw_op op, qw_dtype key, int asked,
                 uint64_t seed, double flops,
                 int (*each)(void *user, const qw_case *c, const qw_verdict *v), void *user);
/* Memory, copies, queues and clock, before any op. */
void qw_judge_device(qw_device *dev, qw_verdict *v);
#endif
