/* check_inspect.c - the report of inspect on whole files, incomplete ones and ones with unknown
 * tensors. */
#include <qwen/qwen.h>
#include "testing.h"
#include <jansson.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

/* --- a report as a list of lines -------------------------------------------------------------- */

typedef struct report {
    char line[400][200];
    int n;
    char error[1000];
    int status;
} report;

static void take(void *user, const char *key, const char *value)
{
    report *r = user;
    ck_assert_int_lt(r->n, 400);
    snprintf(r->line[r->n++], sizeof r->line[0], "%s %s", key, value);
}

static int lines(const report *r, const char *start)
{
    int n = 0;
    for (int i = 0; i < r->n; i++) n += !strncmp(r->line[i], start, strlen(start));
    return n;
}

static int has(const report *r, const char *line)
{
    for (int i = 0; i < r->n; i++)
        if (!strcmp(r->line[i], line)) return 1;
    return 0;
}

static void inspect(report *r, const char *path)
{
    memset(r, 0, sizeof *r);
    r->status = qwen_inspect(path, take, r, r->error, sizeof r->error);
}

/* --- a copy of a file with other keys --------------------------------------------------------- */

typedef struct edit {
    const char *from, *to, *shape;
} edit;

/* The header's keys are renamed, or get another shape; the data stay, without holes. */
static void rewrite(const char *from, const char *to, const edit *e, int edits)
{
    FILE *f = fopen(from, "rb");
    uint64_t size;
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fread(&size, sizeof size, 1, f), 1);
    char *header = calloc(1, size + 1), data[4096];
    ck_assert_uint_eq(fread(header, 1, size, f), size);
    json_t *o = json_loads(header, 0, NULL);
    ck_assert_ptr_nonnull(o);
    for (int i = 0; i < edits; i++) {
        json_t *v = json_object_get(o, e[i].from);
        ck_assert_msg(v != NULL, "%s", e[i].from);
        json_incref(v);
        json_object_del(o, e[i].from);
        if (e[i].shape) json_object_set_new(v, "shape", json_loads(e[i].shape, 0, NULL));
        json_object_set_new(o, e[i].to, v);
    }
    free(header);
    header = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    FILE *out = fopen(to, "wb");
    ck_assert_ptr_nonnull(out);
    const uint64_t length = strlen(header), padded = (length + 7) / 8 * 8;
    fwrite(&padded, sizeof padded, 1, out);
    fprintf(out, "%s%*s", header, (int)(padded - length), "");
    for (size_t n; (n = fread(data, 1, sizeof data, f));) fwrite(data, 1, n, out);
    fclose(f);
    ck_assert_int_eq(fclose(out), 0);
    free(header);
}

static const char *scratch(void)
{
    static char path[64];
    snprintf(path, sizeof path, "inspect.%ld.safetensors", (long)getpid());
    return path;
}

/* --- models ----------------------------------------------------------------------------------- */

START_TEST(whole_directory)
{
    report r;
    inspect(&r, testdata("tiny-edit-2511"));
    ck_assert_msg(!r.status, "%s", r.error);
    ck_assert(has(&r, "kind model directory"));
    ck_assert(has(&r, "variant edit-2511"));
    ck_assert(has(&r, "pipeline QwenImageEditPlusPipeline"));
    ck_assert_int_eq(lines(&r, "component "), 3);
    ck_assert_int_eq(lines(&r, "missing") + lines(&r, "unknown") + lines(&r, "error"), 0);
}
END_TEST

/* Every missing tensor, every wrong shape, every unknown tensor, in one report. */
START_TEST(incomplete_vae)
{
    static const edit e[] = {
        { "decoder.conv_in.bias", "decoder.conv_in.biases", NULL },
        { "decoder.mid_block.resnets.0.conv1.bias", "a stranger", NULL },
        { "encoder.norm_out.gamma", "encoder.norm_out.beta", NULL },
        { "encoder.mid_block.attentions.0.to_qkv.weight",
          "encoder.mid_block.attentions.0.to_qkv.weight", "[32, 96, 1, 1]" },
    };
    report r;
    rewrite(testdata("tiny/vae/diffusion_pytorch_model.safetensors"), scratch(), e, 4);
    inspect(&r, scratch());
    unlink(scratch());
    ck_assert_int_eq(r.status, QWEN_EMODEL);
    ck_assert(has(&r, "kind VAE"));
    ck_assert(has(&r, "missing VAE: decoder.conv_in.bias"));
    ck_assert(has(&r, "missing VAE: decoder.mid_block.resnets.0.conv1.bias"));
    ck_assert(has(&r, "missing VAE: encoder.norm_out.gamma"));
    ck_assert_int_eq(lines(&r, "missing "), 3);
    ck_assert(has(&r, "unknown decoder.conv_in.biases"));
    ck_assert(has(&r, "unknown a stranger"));
    ck_assert_int_eq(lines(&r, "unknown "), 3);
    ck_assert_int_eq(lines(&r, "wrong "), 1);
    ck_assert_ptr_nonnull(strstr(r.error, "decoder.conv_in.bias"));
    ck_assert_ptr_nonnull(strstr(r.error, "(and 3 more like it)"));
}
END_TEST

/* --- ControlNets ------------------------------------------------------------------------------ */

START_TEST(control_nets)
{
    report r;
    inspect(&r, testdata("tiny-controlnet/controlnet/diffusion_pytorch_model.safetensors"));
    ck_assert_msg(!r.status, "%s", r.error);
    ck_assert(has(&r, "kind ControlNet"));
    ck_assert(has(&r, "control InstantX, width 48, reads 64 features"));
    ck_assert_int_eq(lines(&r, "unknown "), 0);
    inspect(&r, testdata("fun-controlnet/fun_controlnet_tiny.safetensors"));
    ck_assert_msg(!r.status, "%s", r.error);
    ck_assert(has(&r, "control Fun, width 48, reads 132 features"));
    ck_assert_int_eq(lines(&r, "unknown "), 0);
    inspect(&r, testdata("tiny-controlnet"));
    ck_assert_msg(!r.status, "%s", r.error);
    ck_assert_int_eq(lines(&r, "component ControlNet: "), 1);
}
END_TEST

START_TEST(incomplete_control)
{
    static const edit e[] = { { "control_blocks.1.after_proj.bias", "control_bias", NULL },
                              { "control_blocks.0.before_proj.weight", "stranger", NULL } };
    report r;
    rewrite(testdata("fun-controlnet/fun_controlnet_tiny.safetensors"), scratch(), e, 2);
    inspect(&r, scratch());
    unlink(scratch());
    ck_assert_int_eq(r.status, QWEN_EMODEL);
    ck_assert(has(&r, "missing control_blocks.1.after_proj.bias"));
    ck_assert(has(&r, "missing control_blocks.0.before_proj.weight"));
    ck_assert(has(&r, "unknown stranger"));
    ck_assert_int_eq(lines(&r, "missing ") + lines(&r, "unknown "), 4);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("inspect");
    TCase *c = tcase_create("inspect");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, whole_directory);
    tcase_add_test(c, incomplete_vae);
    tcase_add_test(c, control_nets);
    tcase_add_test(c, incomplete_control);
    suite_add_tcase(s, c);
    return run_suite(s);
}
