/* control.h - ControlNets: side networks that add to the picture stream of the transformer. */
#ifndef QW_CONTROL_H
#define QW_CONTROL_H
#include "nets/net.h"

typedef enum qw_control_kind {
    QW_CONTROL_INSTANTX,  /* its own blocks; one sample a block, spread over the
                                         * main blocks */
    QW_CONTROL_BLOCKWISE, /* DiffSynth: a small map after every main block */
    QW_CONTROL_FUN        /* five blocks that share the main network's entrances */
} qw_control_kind;
typedef struct qw_control qw_control;
/* c: InstantX's own configuration; for the others that of the main network.  The keys tell the
 * kind. */
int qw_control_load(qw_control **out, const qw_dit_config *c, qw_loader *l);
void qw_control_free(qw_control *c);
qw_control_kind qw_control_kind_of(const qw_control *c);
int64_t qw_control_features(const qw_control *c); /* of the packed condition: 64, 68 or 132 */
/* how many maps [noise_rows][width] _forward writes */
int qw_control_samples(const qw_control *c);
/* The table of its own blocks for all steps; NULL for blockwise, which has none. */
int qw_control_modulate(qw_run *r, const qw_control *c, const qw_dit *d, const double *t, int steps,
                        qw_modulation **out);
/* Runs the side network on the noise rows of s.  condition [noise_rows][features]; samples
 * [qw_control_samples][noise_rows][width], scaled by strength (blockwise: its entrance, not
 * scaled). */
void qw_control_forward(qw_run *r, const qw_control *c, const qw_dit *d, const qw_modulation *m,
                        int step, const qw_dit_sequence *s, const double *condition,
                        double strength, int comfy, double *samples);
/* the user data of a qw_dit_hook whose function is qw_control_after */
typedef struct qw_control_use {
    const qw_control *c;
    const double *samples;
    double strength;
    int layers; /* blocks of the main network */
} qw_control_use;
void qw_control_after(void *use, qw_run *r, int block, qw_tensor noise_rows);
#endif
