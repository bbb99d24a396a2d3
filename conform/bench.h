/* bench.h - timing parts of the published model: a work, its synthetic checkpoint, the work on a
 * device, repetitions, the machine. */
#ifndef QW_BENCH_H
#define QW_BENCH_H
#include "files/config.h"
#include "files/lora.h"
#include "roof.h"
#include "weights/weights.h"

/* --- bench_work.c: what is timed -------------------------------------------------------------- */
typedef enum qw_work_kind {
    QW_WORK_ROOF,
    QW_WORK_GEMM,
    QW_WORK_ATTENTION,
    QW_WORK_BLOCK,
    QW_WORK_TEXT,
    QW_WORK_VISION,
    QW_WORK_VAE,
    QW_WORKS
} qw_work_kind;
typedef struct qw_work {
    qw_work_kind kind;
    /* gemm: m, n, k; attention: heads, rows, d; block: picture tokens, text tokens; text: rows;
     * vision and vae: pixels of a side */
    int64_t dim[3];
    qw_dtype weights; /* NONE: attention and the roof */
    int rotated;      /* group of the rotated basis of i8_convrot, or 0 */
    int encode;       /* vae: the encoder */
    int lora;         /* block: the rank of a LoRA over all its linear layers, 0: none */
} qw_work;
/* "gemm:1024x3072x3072:q8_0"; 0, or a sentence in why. */
int qw_work_parse(qw_work *w, const char *line, char *why, size_t size);
/* The same, whole: with the weights that a line may leave out. */
void qw_work_print(const qw_work *w, char *out, size_t size);
/* The arithmetic whose roof is the work's floor on a device, by the last part of its name: its own
 * for gemm; bf16 for the other works on a device of int8, so that the two compare. */
qw_roof_kind qw_work_arithmetic(const qw_work *w, const char *device);
/* Seconds of so many operations and bytes at the roof; 0: unknown. */
double qw_work_floor(const qw_roof *roof, qw_roof_kind arithmetic, double flops, double bytes);

/* --- bench_file.c: a checkpoint of random weights --------------------------------------------- */
typedef struct qw_sheet qw_sheet; /* names and shapes of the tensors of a file */
/* weights: the type of matrices, rotated: their basis; a block format makes a GGUF file, all others
 * safetensors.  NULL: no memory. */
qw_sheet *qw_sheet_new(qw_dtype weights, int rotated);
void qw_sheet_free(qw_sheet *s);
/* <name>.weight [n][k] with its scales and <name>.bias [n]. */
void qw_sheet_linear(qw_sheet *s, int64_t n, int64_t k, int bias, const char *format, ...)
    QW_PRINTF(5, 6);
/* <name>.weight [co][ci][taps][kernel][kernel], or [co][ci][kernel][kernel] for taps 0, and
 * <name>.bias [co]. */
void qw_sheet_conv(qw_sheet *s, int64_t co, int64_t ci, int64_t kernel, int taps,
                   const char *format, ...) QW_PRINTF(6, 7);
/* n values around a mean, of deviation 0.02. */
void qw_sheet_vector(qw_sheet *s, int64_t n, double mean, const char *format, ...) QW_PRINTF(4, 5);
/* 0: tensors that follow are not counted, since the work does not read them. */
void qw_sheet_count(qw_sheet *s, int counted);
/* The type of the matrices that follow; not into or out of a block format. */
void qw_sheet_type(qw_sheet *s, qw_dtype weights);
/* Bytes of the counted tensors in the file. */
double qw_sheet_bytes(const qw_sheet *s);
/* Writes the file; what was written stays when it fails. */
int qw_sheet_write(const qw_sheet *s, const char *path, qw_error *err);
/* Each writes a temporary file, opens it as a store or as a LoRA and removes its name; the pages stay
 * until what was opened is freed. */
int qw_sheet_open(const qw_sheet *s, qw_store **out, qw_error *err);
int qw_sheet_open_lora(const qw_sheet *s, qw_lora **out, qw_error *err);
/* n normal numbers that bf16 holds exactly; the seed names the stream. */
void qw_bench_normals(double *x, int64_t n, uint64_t seed);

/* --- bench_sheets.c: tensors with the published names -------------------------------------------- */
void qw_sheet_block(qw_sheet *s, const qw_dit_config *c, int block);
/* A LoRA over the linear layers of block 0. */
void qw_sheet_lora(qw_sheet *s, const qw_dit_config *c, int rank);
void qw_sheet_layer(qw_sheet *s, const qw_text_config *c, int layer);
void qw_sheet_encoder(qw_sheet *s, const qw_vae_config *c);
void qw_sheet_decoder(qw_sheet *s, const qw_vae_config *c);

/* --- bench_place.c: a work on a device -------------------------------------------------------- */
typedef struct qw_placed qw_placed;
typedef struct qw_work_file { /* what works of any device share */
    qw_work work;
    qw_store *store; /* NULL: no weights */
    qw_lora *lora;   /* NULL: none */
    int copies;      /* gemm: of the weight, so that together they are beyond the caches */
    double bytes;    /* of the weights that one pass reads */
} qw_work_file;
int qw_work_file_open(qw_work_file *f, const qw_work *w, qw_error *err);
void qw_work_file_close(qw_work_file *f);
/* sample: rows of the result that are computed, spread over all, 0: all (gemm and attention only).
 * The devices are borrowed; ref computes what dev declines. */
int qw_place(qw_placed **out, const qw_work_file *f, qw_device *dev, qw_device *ref, int64_t sample,
             qw_error *err);
void qw_placed_free(qw_placed *p);
/* Computes once; seconds of its ops. */
int qw_placed_run(qw_placed *p, double *seconds, qw_error *err);
/* The result of the last run, or a sample of its rows; n numbers, malloc'ed.  A number that is not
 * finite is an error. */
int qw_placed_result(qw_placed *p, int64_t sample, double **out, int64_t *n, qw_error *err);
/* Products of one run, two for a multiplication with its addition; bytes that it has to read and
 * write at least; ops that the device declined. */
double qw_placed_flops(const qw_placed *p);
double qw_placed_bytes(const qw_placed *p);
uint64_t qw_placed_declined(const qw_placed *p);

/* --- bench_time.c: repetitions ---------------------------------------------------------------- */
typedef struct qw_spell { /* one repetition */
    double seconds, lost; /* lost: of it, while threads that could run waited for a processor */
} qw_spell;
typedef struct qw_times {
    double median, best, worst; /* of the repetitions that count */
    int repeat, dropped;        /* how many count; how many the scheduler disturbed and do not */
    int disturbed;              /* of those that count, since there were no others */
} qw_times;
/* Disturbed repetitions do not count where three others do. */
qw_times qw_times_of(const qw_spell *s, int n);
/* Nonzero: three repetitions or more count, and they agree to 2 %. */
int qw_times_settled(const qw_spell *s, int n);
/* Begins and ends a repetition of `threads` threads. */
typedef struct qw_watch {
    double waited, stolen;
    long switches;
    double at;
} qw_watch;
qw_watch qw_watch_start(void);
double qw_watch_lost(const qw_watch *from, int threads);
/* The largest RssAnon of this process between start and stop, by samples; 0: unknown. */
typedef struct qw_sampler qw_sampler;
qw_sampler *qw_sampler_start(void);
double qw_sampler_stop(qw_sampler *s); /* frees it */

/* --- bench_machine.c: where the numbers come from -------------------------------------------- */
typedef struct qw_machine {
    char processor[200], system[200], compiler[100], date[40]; /* texts without quotes, UTC */
    int online, threads;                                       /* processors, threads used */
    double memory;                                             /* bytes, 0: unknown */
} qw_machine;
/* threads 0: as many as a program takes without being given a number. */
qw_machine qw_machine_of(int threads);

/* --- bench.c --------------------------------------------------------------------------------- */
/* `qwen-conform bench`; argv[0] is "bench".  Returns the exit status. */
int qw_bench_main(int argc, char **argv);
#endif
