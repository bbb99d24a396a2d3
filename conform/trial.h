/* trial.h - a case placed on a device, for judge.c and judge_device.c. */
#ifndef QW_TRIAL_H
#define QW_TRIAL_H
#include "conform.h"

enum { QW_OWNED = 32 };

typedef struct qw_trial {
    qw_device *dev, *oracle;
    qw_material m;
    qw_any_args args; /* with addresses of the device */
    void *on_device[QW_OWNED], *on_host[QW_OWNED];
    int n_device, n_host;
    unsigned char *at[QW_DATA]; /* where each operand's image lies on the device */
    float *scale_at[QW_DATA];   /* where an output's scales lie */
    unsigned char *weight;      /* the copy that a host device reads in place */
    qw_tensor plain;            /* the original of a packed weight */
    unsigned char *got, *again; /* the output's image after the first and the second run */
    float *got_scale;
} qw_trial;

/* Records the first failure; returns 1. */
int qw_trial_fail(qw_verdict *v, const char *format, ...) QW_PRINTF(2, 3);
/* Memory that lives until qw_trial_end; NULL when there is none. */
void *qw_trial_device(qw_trial *t, size_t bytes);
void *qw_trial_host(qw_trial *t, size_t bytes);
/* A copy of host bytes on the device. */
void *qw_trial_upload(qw_trial *t, const void *from, size_t bytes);
void qw_trial_end(qw_trial *t);
#endif
