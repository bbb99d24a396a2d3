/* op.h - the op table: for each operation its operands, its check, its cost and its line. */
#ifndef QW_OP_H
#define QW_OP_H
#include <qwen/backend.h>

enum {
    QW_IN = 1,
    QW_OUT = 2,
    QW_INOUT = 3,
    QW_WEIGHT = 4,
    QW_OPTIONAL = 8,
    QW_WIDE = 16
}; /* of the device's wide type */
typedef struct qw_operand {
    const char *name;
    size_t offset;
    unsigned role;
} qw_operand;
/* The grammar of a case line, "op/types/options/sizes": the meaning of its types and sizes.
 * type[i] is the dtype of an operand.  Where the line leaves it out, it is the dtype at place
 * `like`, or f32 if `floats` is set and that dtype is no float.  size[i] is a dimension of an
 * operand. */
enum { QW_FORM_TYPES = 4, QW_FORM_SIZES = 8 };
typedef struct qw_form {
    struct {
        const char *operand;
        int like, floats;
    } type[QW_FORM_TYPES]; /* `like` of the first is not used; a NULL operand ends them */
    struct {
        const char *name, *operand;
        int dim;
    } size[QW_FORM_SIZES]; /* a NULL name ends them */
} qw_form;
struct qw_words;
typedef struct qw_op_info {
    const char *name;
    size_t args;               /* sizeof the argument struct */
    const qw_operand *operand; /* ends with a NULL name */
    const qw_form *form;
    /* Returns 0, or 1 with a sentence in `why`: wrong ranks, sizes, dtypes, strides. */
    int (*check)(const void *args, char *why, size_t size);
    void (*cost)(const void *args, double *flops, double *bytes);
    void (*options)(const void *args, struct qw_words *out); /* for qw_op_line */
    int (*call)(qw_device *dev, const void *args);           /* QWEN_*, QW_DECLINE */
} qw_op_info;
extern const qw_op_info qw_op_table[QW_NOPS];
/* The call as a case line. */
void qw_op_line(enum qw_op op, const void *args, char *out, size_t size);
/* The default dtype at place i of a line whose dtypes before it are t. */
qw_dtype qw_form_default(const qw_form *f, const qw_dtype *t, int i);
qw_tensor *qw_operand_of(const qw_operand *o, void *args); /* NULL if absent */
#define X(op) qw_##op##_args op;
typedef union qw_any_args {
    QW_OPS(X)
} qw_any_args; /* room for any op's arguments */
#undef X
size_t qw_extent(const qw_tensor *t); /* bytes from t->data to the end of its last element */
size_t qw_scales(const qw_tensor *t); /* floats at t->scale: 0, 1, or one per row */
size_t qw_block_scale_bytes(const qw_tensor *t); /* bytes at t->block_scale, or 0 */
#endif
