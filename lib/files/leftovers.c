/* leftovers.c - tensors that no net has loaded. */
#include "files/files.h"
#include <string.h>

/* Nonzero: a marker, a companion of a quantised weight, or a tensor that other programs use; never
 * a weight here. */
static int expected_leftover(const char *name)
{
    static const char *const ends[] = { "scaled_fp8",         "__index_timestep_zero__",
                                        ".comfy_quant",       ".scale_weight",
                                        ".scale_input",       ".weight_scale",
                                        ".weight_scale_2",    ".input_scale",
                                        ".pre_quant_scale",   ".weight_s_rel",
                                        ".weight_s_channel",  ".weight_codebook",
                                        ".weight_zeros",      ".weight_zero",
                                        ".weight_correction", "rotary_emb.inv_freq",
                                        ".rope_freqs.weight", "lm_head.weight" };
    if (strstr(name, ".time_conv.")) return 1;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (qw_ends_with(name, ends[i])) return 1;
    return 0;
}

int qw_store_unused(const qw_store *s, void (*each)(void *user, const qw_entry *e), void *user)
{
    int n = 0;
    for (int64_t i = 0; i < s->entries; i++) {
        if (s->entry[i].used || expected_leftover(s->entry[i].name)) continue;
        n++;
        if (each) each(user, &s->entry[i]);
    }
    return n;
}
