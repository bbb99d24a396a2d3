/* control.h - ControlNets: side networks that add to the picture stream of the transformer. */
#ifndef QW_CONTROL_H
#define QW_CONTROL_H
#include "nets/net.h"

typedef enum qw_control_kind {
    QW_CONTROL_INSTANTX,  /* a smaller transformer; a sample of each of its blocks */
    QW_CONTROL_BLOCKWISE, /* DiffSynth: two linear layers after every block of the main network */
    QW_CONTROL_FUN        /* blocks behind img_in, txt_in and time embedding of the main network */
} qw_control_kind;
typedef struct qw_control qw_control;
/* Reads the kind of a ControlNet (by its keys) and the features of its condition from its files,
 * without loading it.  QWEN_EMODEL if the layer that reads the condition is missing. */
int qw_control_look(const qw_store *s, qw_control_kind *kind, int64_t *features, qw_error *err);
/* c: InstantX's own configuration; for the other kinds that of the main network. */
int qw_control_load(qw_control **out, const qw_dit_config *c, qw_loader *l);
void qw_control_free(qw_control *c);
qw_control_kind qw_control_kind_of(const qw_control *c);
/* Features of a token of the condition: 64, 68 or 132 in published files. */
int64_t qw_control_features(const qw_control *c);
/* The modulation of its own blocks for all steps; NULL for a blockwise net, which has no blocks. */
int qw_control_modulate(qw_run *r, const qw_control *c, const qw_dit *d, const double *t, int steps,
                        qw_modulation **out);

typedef struct qw_control_use { /* a ControlNet in a pass over a picture; tensors in scratch */
    const qw_control *c;
    int layers;            /* blocks of the main network */
    qw_tensor condition;   /* [noise rows][features] */
    qw_tensor strength;    /* [width], all elements alike; absent: 1 */
    qw_tensor table[2][2]; /* positions, as those of qw_dit_pass */
    qw_tensor mod;         /* a row of the ControlNet's modulation table */
    /* [samples x noise rows][width] times strength; of a blockwise net: img_in of the condition */
    qw_tensor samples;
} qw_control_use;
/* Allocates *u in scratch and copies there the data that the steps share.  condition [noise
 * rows][features]; layers: blocks of the main network. */
void qw_control_place(qw_run *r, const qw_control *c, const qw_modulation *m,
                      const qw_dit_picture *p, const double *condition, double strength, int layers,
                      qw_control_use *u);
/* Copies row `step` of the modulation table to the device. */
void qw_control_put(qw_run *r, const qw_control_use *u, const qw_modulation *m, int step);
/* Runs the side network on the noise rows of a pass by ops alone (and taps).  The samples stay in
 * scratch until r->used is set back. */
void qw_control_run(qw_run *r, const qw_dit *d, const qw_dit_pass *p, qw_control_use *u);
/* Adds the samples that belong to a block: `after` of a qw_dit_hook whose user is the
 * qw_control_use. */
void qw_control_after(void *use, qw_run *r, int block, qw_tensor noise_rows);
#endif
