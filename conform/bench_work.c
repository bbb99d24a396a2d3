/* bench_work.c - a work as a word of the command line, and the floor of its time. */
#include "bench.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONVROT = 256, LARGEST = 1 << 20 };

/* The words of a work; a dimension is called by its letter in messages. */
static const struct {
    const char *name, *form, *between; /* what stands between the dimensions */
    int dims, weights;                 /* weights: may be named */
} form[QW_WORKS] = {
    [QW_WORK_ROOF] = { "roof", "roof", "", 0, 0 },
    [QW_WORK_GEMM] = { "gemm", "gemm:MxNxK[:WEIGHTS]", "xx", 3, 1 },
    [QW_WORK_ATTENTION] = { "attention", "attention:HEADSxROWSxD", "xx", 3, 0 },
    [QW_WORK_BLOCK] = { "block", "block:PICTURE+TEXT[:WEIGHTS][:loraRANK]", "+", 2, 1 },
    [QW_WORK_TEXT] = { "text", "text:ROWS[:WEIGHTS]", "", 1, 1 },
    [QW_WORK_VISION] = { "vision", "vision:SIZE", "", 1, 0 },
    [QW_WORK_VAE] = { "vae", "vae:SIZE[:encode]", "", 1, 0 },
};

/* Types of a weight that a file can be made of; microscaled blocks are not among them. */
static int can_be_made(qw_dtype t)
{
    return t == QW_F32 || t == QW_F16 || t == QW_BF16 || t == QW_F8E4M3 || t == QW_I8
           || (t >= QW_Q8_0 && t <= QW_IQ4_XS) || (t >= QW_IQ1_S && t <= QW_IQ3_S);
}

/* Takes ":loraRANK" off the end of a block's words. */
static int parse_lora(qw_work *w, char *words, char *why, size_t size)
{
    char *at = strstr(words, ":lora"), *end;
    if (!at || w->kind != QW_WORK_BLOCK) return 0;
    const long rank = at[5] >= '1' && at[5] <= '9' ? strtol(at + 5, &end, 10) : 0;
    if (rank < 1 || rank > 1024 || *end) {
        snprintf(why, size, "\"%s\" is no LoRA: \"lora\" and its rank, from 1 to 1024", at + 1);
        return 1;
    }
    w->lora = (int)rank;
    *at = 0;
    return 0;
}

static int parse_weights(qw_work *w, const char *word, char *why, size_t size)
{
    w->rotated = !strcmp(word, "i8_convrot") ? CONVROT : 0;
    w->weights = w->rotated ? QW_I8 : !strcmp(word, "f8") ? QW_F8E4M3 : qw_dtype_named(word);
    if (can_be_made(w->weights)) return 0;
    snprintf(why, size,
             "\"%s\" is no type of weights that can be made: bf16, f32, f16, f8, i8, "
             "i8_convrot, q8_0, q4_0, q4_k, q5_k, q6_k ...",
             word);
    return 1;
}

static int parse_dims(qw_work *w, const char **at, char *why, size_t size)
{
    for (int i = 0; i < form[w->kind].dims; i++) {
        char *end = NULL;
        const char between = i ? form[w->kind].between[i - 1] : ':';
        const long long v =
            **at == between && (*at)[1] >= '0' && (*at)[1] <= '9' ? strtoll(*at + 1, &end, 10) : -1;
        if (v < 1 || v > LARGEST) {
            snprintf(why, size, "it is not %s with numbers from 1 to %d", form[w->kind].form,
                     LARGEST);
            return 1;
        }
        w->dim[i] = v;
        *at = end;
    }
    return 0;
}

/* Sizes that the model or the type of the weights cannot have. */
static int check_sizes(const qw_work *w, char *why, size_t size)
{
    const int64_t block = w->weights ? qw_block_elements(w->weights) : 1, side = w->dim[0];
    const int64_t step = w->kind == QW_WORK_VISION ? 28 : w->kind == QW_WORK_VAE ? 16 : 1;
    if (w->kind == QW_WORK_GEMM && (w->dim[2] % block || (w->rotated && w->dim[2] % w->rotated))) {
        snprintf(why, size, "K is %lld, expected a multiple of %lld for %s", (long long)w->dim[2],
                 (long long)(w->rotated ? w->rotated : block), qw_dtype_name(w->weights));
        return 1;
    }
    if (side % step) {
        snprintf(why, size, "a side of %lld pixels, expected a multiple of %lld: %lld or %lld",
                 (long long)side, (long long)step,
                 (long long)(side < step ? step : side / step * step),
                 (long long)(side / step * step + step));
        return 1;
    }
    return 0;
}

int qw_work_parse(qw_work *w, const char *line, char *why, size_t size)
{
    const size_t length = strcspn(line, ":");
    memset(w, 0, sizeof *w);
    for (w->kind = 0; w->kind < QW_WORKS; w->kind++)
        if (strlen(form[w->kind].name) == length && !strncmp(form[w->kind].name, line, length))
            break;
    if (w->kind == QW_WORKS) {
        snprintf(why, size,
                 "no such work; there are roof, gemm, attention, block, text, vision, vae");
        return 1;
    }
    const char *at = line + length;
    if (parse_dims(w, &at, why, size)) return 1;
    if (w->kind != QW_WORK_ROOF && w->kind != QW_WORK_ATTENTION) w->weights = QW_BF16;
    char words[64];
    if ((size_t)snprintf(words, sizeof words, "%s", at) >= sizeof words) words[0] = '?';
    if (parse_lora(w, words, why, size)) return 1;
    if (words[0] == ':' && form[w->kind].weights) {
        if (parse_weights(w, words + 1, why, size)) return 1;
    } else if (w->kind == QW_WORK_VAE && !strcmp(words, ":encode")) {
        w->encode = 1;
    } else if (words[0]) {
        snprintf(why, size, "it is not %s", form[w->kind].form);
        return 1;
    }
    return check_sizes(w, why, size);
}

void qw_work_print(const qw_work *w, char *out, size_t size)
{
    size_t used = (size_t)snprintf(out, size, "%s", form[w->kind].name);
    for (int i = 0; i < form[w->kind].dims && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%c%lld",
                                 i ? form[w->kind].between[i - 1] : ':', (long long)w->dim[i]);
    if (used >= size) return;
    if (w->encode) snprintf(out + used, size - used, ":encode");
    if (w->encode || !form[w->kind].weights) return;
    used += (size_t)snprintf(out + used, size - used, ":%s",
                             w->rotated                ? "i8_convrot"
                             : w->weights == QW_F8E4M3 ? "f8"
                                                       : qw_dtype_name(w->weights));
    if (w->lora && used < size) snprintf(out + used, size - used, ":lora%d", w->lora);
}

/* --- the floor -------------------------------------------------------------------------------- */

qw_roof_kind qw_work_arithmetic(const qw_work *w, const char *device)
{
    const char *colon = strrchr(device, ':'), *last = colon ? colon + 1 : device;
    if (!strcmp(last, "bf16")) return QW_ROOF_BF16;
    if (!strcmp(last, "int8")) return w->kind == QW_WORK_GEMM ? QW_ROOF_INT8 : QW_ROOF_BF16;
    return QW_ROOF_F32;
}

double qw_work_floor(const qw_roof *roof, qw_roof_kind arithmetic, double flops, double bytes)
{
    const double speed = roof->of[arithmetic], read = roof->of[QW_ROOF_READ];
    if (!(speed > 0) || !(read > 0)) return 0;
    const double products = flops / speed, reading = bytes / read;
    return products > reading ? products : reading;
}
