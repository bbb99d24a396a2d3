/* values.h - golden values: JSON tables, tensors as doubles, and how far a result is off. */
#ifndef QW_VALUES_H
#define QW_VALUES_H
#include "weights/weights.h"

void *room(size_t bytes);           /* zeros; the caller frees */
json_t *read_json(const char *rel); /* of testdata; the caller json_decref()s */
double number(const json_t *object, const char *key);
const char *string(const json_t *object, const char *key);

qw_store *open_data(const char *rel); /* a file of testdata, names as in the file */
const qw_entry *entry(const qw_store *s, const char *name); /* asserts that it is there */
int64_t elements(const qw_entry *e);
double value(const qw_entry *e, int64_t i);
/* All values of a tensor, the caller frees; n may be NULL. */
double *values(const qw_store *s, const char *name, int64_t *n);

double largest(const double *x, int64_t n);                     /* absolute */
double difference(const double *a, const double *b, int64_t n); /* the largest; NaN if one is */
/* Every difference at most `tolerance` of the largest value wanted, which is not 0. */
void close_to(const char *what, const double *got, const double *want, int64_t n, double tolerance);
#endif
