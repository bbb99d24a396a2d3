/* attention.h - what the files of attention share: its plan, the layout of its operands, the tile.
 *
 * Queries are the lanes.  A task is up to TASK strips of at most NW queries that read one head of
 * keys.  Scores of a group of MR keys are an [MR][NW] product of the keys with the strip's
 * queries; values [d] weighted and summed are a [d][NW] product.  Both broadcast words of a packed operand
 * [k][MR] against vectors of [k][NW].  A word is a float, or a pair of bf16 that are neighbours along
 * the summed dimension, or four such codes of 8 bits.
 *
 * Codes are those of queries, and of keys less the mean of all keys, which adds the same to every score
 * of a query.  Codes of keys are stored as bytes of code + 128. */
#ifndef QW_ATTENTION_H
#define QW_ATTENTION_H
#include "int8.h"
#include "kernel.h"

/* BK: keys whose weights are kept before they meet the values. */
enum { TASK = 2, BK = 256 };

typedef struct att_plan {
    int64_t nq, nk, hq, hk, d;
    int64_t rows, vectors, strips; /* queries of a head of keys, in vectors, in strips */
    int64_t kd, kg;                /* words along d; groups of MR keys */
    int64_t kv, vg;                /* words along the keys; groups of MR columns of the values */
    int64_t batch;                 /* heads of keys that are packed at a time */
    int pairs, threads;
    int codes;     /* of queries and keys; the values are pairs then */
    float q_scale; /* of codes: what `scale` is without them */
    float scale;   /* of scores, in units of log 2 */
    size_t keys, worth, values, q, o, strip, each,
        bytes; /* of a head; of a strip; of a thread; in all */
} att_plan;

/* A strip: queries r0 .. r0 + n of a head of keys, and what is known of them after some keys. */
typedef struct att_strip {
    int64_t r0, n, first, last; /* keys that one of them sees */
    int64_t all, none;          /* keys from `all` to `none` are seen by each of them */
    int vectors;
    float *q, *o;         /* [kd][NW] words, [vg MR][NW] */
    float *minus, *limit; /* [NW]: less the offset of the scores; above it the offset grows */
    float *sum;           /* [NW] of weights 2^(score - offset) */
    int32_t *from, *to;   /* [NW] keys that a query sees */
    float *worth;         /* [NW]: of codes of a query, times the scale */
    int32_t *less;        /* [NW]: -128 times the sum of the codes */
} att_strip;

/* Row r of a head of keys h is the query r / group with the head h group + r % group. */
static inline const char *att_row(const qw_tensor *t, int64_t i, int64_t h)
{
    return (const char *)t->data
           + (size_t)(i * t->stride[0] + h * t->stride[1]) * qw_block_bytes(t->dtype);
}

/* Keys and values of head h, keys j .. j + VL, to words; zeros beyond the last. */
void QW_NAME(att_lay_keys)(const qw_attention_args *a, const att_plan *p, int64_t h, int64_t j,
                           float *keys);
void QW_NAME(att_lay_values)(const qw_attention_args *a, const att_plan *p, int64_t h, int64_t j,
                             float *values);
void QW_NAME(att_lay_queries)(const qw_attention_args *a, const att_plan *p, int64_t h,
                              att_strip *s);
/* y of a strip, o / sum. */
void QW_NAME(att_finish)(const qw_attention_args *a, const att_plan *p, int64_t h,
                         const att_strip *s);
/* Adds keys b .. end (b a multiple of MR) to a strip; w [BK][NW] words are room. */
void QW_NAME(att_block)(const att_plan *p, att_strip *s, int64_t b, int64_t end, const float *keys,
                        const float *values, float *w);
#ifdef VEC_DOT4
/* Keys j .. j + VL as codes, with what those of a key are worth at worth [kg MR]. */
void QW_NAME(att_lay_codes)(const qw_attention_args *a, const att_plan *p, int64_t h, int64_t j,
                            const float *mean, float *keys, float *worth);
/* The mean [d] of all keys of head h. */
void QW_NAME(att_mean)(const qw_attention_args *a, const att_plan *p, int64_t h, float *mean);
void QW_NAME(att_lay_query_codes)(const qw_attention_args *a, const att_plan *p, int64_t h,
                                  att_strip *s);
#endif
#endif
