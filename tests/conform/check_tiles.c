/* check_tiles.c - the cpu device's gemm of tiles, with the tile instructions in plain C, judged by
 * the kit on every machine. */
#include "backends/cpu/cpu.h"
#include "conform/conform.h"
#include "core/run.h"
#include "testing.h"
#include <string.h>

enum { ASKED = 12 };

size_t tile_gemm_scratch_tiles(const cpu_device *dev, const qw_gemm_args *a);
int tile_gemm_tiles(qw_device *d, const qw_gemm_args *a);

static size_t scratch(qw_device *d, enum qw_op op, const void *args)
{
    return op == QW_OP_gemm ? tile_gemm_scratch_tiles((const cpu_device *)(const void *)d, args)
                            : 0;
}

/* The reference with a gemm that takes rows of codes where `codes`, else bf16. */
static void open_tiles(cpu_device *c, int codes)
{
    memset(c, 0, sizeof *c);
    ref_init(&c->d, codes ? "tiles:int8" : "tiles:bf16", QW_BF16, QW_F32);
    c->codes = codes;
    if (codes) c->d.quant = QW_I8;
    c->d.scratch = scratch;
    c->d.op.gemm = tile_gemm_tiles;
    c->d.op.gemm_arith = (qw_arith){ .acc = 0x1p-24f, .mid = 0x1p-8f, .fun = 0x1p-21f };
    c->d.op.gemm_arith.mul[QW_CLASS_BLOCK] = 0x1p-8f;
    if (codes) c->d.op.gemm_arith.row_w = 1 / 254.0f;
    const char *missing = qw_device_complete(&c->d);
    ck_assert_msg(!missing, "%s", missing);
}

static int must_not_fail(void *user, const qw_case *c, const qw_verdict *v)
{
    char line[400];
    qw_case_print(c, line, sizeof line);
    ck_assert_msg(v->outcome != QW_FAILED, "%s: %s", line, v->why);
    *(int *)user += v->outcome == QW_PASSED;
    return 0;
}

/* Each type of weight, then lines whose sums do not stay in registers: rows of w beyond a group,
 * and more words than a tile sums at once. */
static void judge(int codes, const char *const *line)
{
    static const qw_dtype type[] = { QW_BF16, QW_I8, QW_Q8_0, QW_Q4_K };
    cpu_device c;
    qw_case one;
    qw_verdict v;
    char why[200];
    qw_device *oracle = NULL;
    qw_error e = { 0 };
    int passed = 0, asked = 0;
    open_tiles(&c, codes);
    ck_assert_int_eq(qw_device_open("ref64", NULL, &oracle, &e), QWEN_OK);
    for (size_t k = 0; k < sizeof type / sizeof *type; k++, asked += ASKED)
        qw_judge_key(&c.d, oracle, QW_OP_gemm, type[k], ASKED, 0xcafe, 1e6, must_not_fail, &passed);
    for (; *line; line++, asked++) {
        ck_assert_msg(!qw_case_parse(&one, *line, why, sizeof why), "%s: %s", *line, why);
        qw_judge(&c.d, oracle, &one, &v);
        ck_assert_msg(v.outcome == QW_PASSED, "%s: %s", *line, v.why);
        must_not_fail(&passed, &one, &v);
    }
    ck_assert_int_eq(passed, asked);
    oracle->close(oracle);
}

START_TEST(pairs)
{
    static const char *const line[] = { "gemm/bf16/bias,lora=40,gate/70x150x6500/normal/1",
                                        "gemm/bf16,q4_k/res/33x129x6656/normal/2", NULL };
    judge(0, line);
}
END_TEST

START_TEST(codes)
{
    static const char *const line[] = {
        "gemm/i8/bias/70x150x12700/normal/1",
        "gemm/i8,bf16/res,lora=40,x2=bf16,w2=bf16/33x129x6500/normal/2", NULL
    };
    judge(1, line);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("tiles");
    TCase *c = tcase_create("tiles");
    tcase_set_timeout(c, 300);
    suite_add_tcase(s, c);
    tcase_add_test(c, pairs);
    tcase_add_test(c, codes);
    return run_suite(s);
}
