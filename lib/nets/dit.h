/* dit.h - the inside of the MMDiT, for dit*.c and for control.c, whose nets have the same
 * blocks. */
#ifndef QW_DIT_H
#define QW_DIT_H
#include "nets/net.h"

typedef struct qw_dit_stream { /* one of the two streams of a block: picture or text */
    qw_weight qkv, out, up, down;
    qw_tensor norm_q, norm_k; /* [head] */
    qw_weight mod; /* [6 width][width]: shift, scale, gate of attention, then of the MLP */
} qw_dit_stream;
typedef struct qw_dit_block {
    qw_group *group, *mod_group; /* mod_group: the `mod` weights, which qw_dit_table alone reads */
    qw_dit_stream picture, text;
} qw_dit_block;

struct qw_dit {
    qw_dit_config c;
    qw_weight img_in, txt_in, time1, time2, norm_out, proj_out;
    qw_tensor txt_norm;
    double *addition; /* [width], row 0 of addition_t_embedding; or NULL */
    qw_group *group;  /* the weights outside the blocks */
    qw_dit_block *block;
};

/* Modulation of a net's blocks at all timesteps, on the host. */
struct qw_modulation {
    int steps, rows, blocks, zero; /* rows: steps, and one more for t = 0 when zero is set */
    int last;                      /* a row ends with scale and shift of the output norm */
    int64_t width;
    double *proj, *temb;  /* [rows][256], [rows][width] */
    size_t element;       /* bytes of the device's wide type */
    unsigned char *table; /* [rows] of [blocks][2: picture, text][6 width] and `last` [2 width] */
};

typedef struct qw_dit_part { /* rows of the joint sequence that share weights and modulation */
    const qw_dit_stream *w;
    int64_t first, rows;
    qw_tensor mod;      /* [6 width] */
    qw_tensor cos, sin; /* [rows][head/2] */
} qw_dit_part;

/* Makes the groups of n blocks.  The residency keeps groups on the device in the order in which
 * they are made, so the modulation weights, which no step of denoising reads, come last. */
void qw_dit_new_groups(qw_loader *l, qw_dit_block *b, int n, const char *prefix);
void qw_dit_load_block(qw_loader *l, qw_dit_block *b, const qw_dit_config *c, const char *prefix,
                       int i);
void qw_dit_free_block(qw_dit_block *b);
/* Computes proj, temb and the table of `blocks` blocks at t [steps] (NULL: zeros).  out: the weight
 * of the output norm's scale and shift, or NULL; addition [width] to temb, or NULL. */
int qw_dit_table(qw_run *r, const qw_dit_config *c, const qw_weight *time1, const qw_weight *time2,
                 const double *addition, const qw_dit_block *block, int blocks,
                 const qw_weight *out, qw_group *out_group, const double *t, int steps,
                 qw_modulation **table);
qw_tensor qw_dit_new_row(qw_run *r, const qw_modulation *m); /* scratch for a row of the table */
/* Copies a row of the table to the device in one piece. */
void qw_dit_put_row(qw_run *r, const qw_modulation *m, int row, qw_tensor to);
/* Views of a row: [6 width] of a block's stream (0 picture, 1 text), [2 width] of the output
 * norm. */
qw_tensor qw_dit_mod(qw_tensor row, int64_t width, int block, int stream);
qw_tensor qw_dit_mod_last(qw_tensor row, int64_t width);
void qw_dit_tap_time(qw_run *r, const qw_modulation *m, int step, const char *prefix);
/* Runs a block over the joint sequence x [rows][width] of the wide type, text first; p [parts]: its
 * rows. */
void qw_dit_run_block(qw_run *r, const qw_dit_config *c, const qw_dit_block *b,
                      const qw_dit_part *p, int parts, qw_tensor x);
/* Computes tables of positions in scratch: cos and sin [rows][head/2] of the text, then of the
 * pictures. */
void qw_dit_positions(qw_run *r, const qw_dit_config *c, const qw_grid *g, int grids,
                      int64_t text_rows, int comfy, qw_tensor table[2][2]);
#endif
