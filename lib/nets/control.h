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
/* Kind, by the keys of its files, and features of a ControlNet that is not loaded. */
int qw_control_look(const qw_store *s, qw_control_kind *kind, int64_t *features, qw_error *err);
/* c: InstantX's own configuration; for the others that of the main network. */
int qw_control_load(qw_control **out, const qw_dit_config *c, qw_loader *l);
void qw_control_free(qw_control *c);
qw_control_kind qw_control_kind_of(const qw_control *c);
int64_t qw_control_features(const qw_control *c); /* of the packed condition: 64, 68 or 132 */
/* The table of its own blocks for all steps; NULL for blockwise, which has none. */
int qw_control_modulate(qw_run *r, const qw_control *c, const qw_dit *d, const double *t, int steps,
                        qw_modulation **out);

typedef struct qw_control_use { /* in a pass over a picture: on the device, in scratch of the run */
    const qw_control *c;
    int layers;            /* blocks of the main network */
    qw_tensor condition;   /* [noise rows][features] */
    qw_tensor strength;    /* [width], the same in each; absent: 1 */
    qw_tensor table[2][2]; /* positions, as those of qw_dit_pass */
    qw_tensor mod;         /* a row of its own modulation table */
    qw_tensor
        samples; /* [samples noise rows][width], scaled; a blockwise net's entrance, not scaled */
} qw_control_use;
/* Takes the memory, until r->used is given back, and puts what steps share.  condition [noise
 * rows][features]; layers: blocks of the main network. */
void qw_control_place(qw_run *r, const qw_control *c, const qw_modulation *m,
                      const qw_dit_picture *p, const double *condition, double strength, int layers,
                      qw_control_use *u);
/* Puts what differs between steps: row `step` of its table. */
void qw_control_put(qw_run *r, const qw_control_use *u, const qw_modulation *m, int step);
/* Runs the side network on the noise rows of a pass by ops alone (and taps).  The samples stay in
 * scratch until r->used is given back. */
void qw_control_run(qw_run *r, const qw_dit *d, const qw_dit_pass *p, qw_control_use *u);
/* Adds them: the function of a qw_dit_hook, whose user data is the qw_control_use. */
void qw_control_after(void *use, qw_run *r, int block, qw_tensor noise_rows);
#endif
