/* medium.h - the medium transformer of testdata on a device, its output, and LoRA files for it. */
#ifndef QW_MEDIUM_H
#define QW_MEDIUM_H
#include "devices.h"
#include "files.h"
#include "nets/net.h"

#define FORMATS "formats/"
#define COMFY   FORMATS "comfyui/models/"
#define MEDIUM  FORMATS "medium/transformer"

enum { OUTPUT = 48 * 64 }; /* values of forward() */

typedef struct model {
    qw_device *dev, *ref;
    qw_run run;
    qw_store *store, *in;
    json_t *config;
    qw_residency *res;
    qw_dit *dit;
    qw_dit_config c;
    qw_lora_site site[256];
    int sites;
} model;

/* The transformer of a file on a device, which the model takes; config: of testdata, or NULL;
 * memory: for weights, 0: any.  The status of the commit; nothing is to be closed if it failed. */
int open_model(model *m, qw_device *dev, const char *path, const char *config, uint64_t memory);
void open_medium(model *m, const char *device);
void close_model(model *m);
/* The velocity of the golden inputs, 6 x 8 tokens at t = 0.7; malloc'ed. */
double *forward(model *m);

/* goldens/lora.json for main(): the number of its rows, 0 after a message if it cannot be read. */
int open_loras(json_t **out);
/* The files of a row of goldens/lora.json with their strengths. */
typedef struct lora_row {
    qw_lora *lora[4];
    int n;
} lora_row;
void open_row(lora_row *r, const json_t *row);
void close_row(lora_row *r);
#endif
