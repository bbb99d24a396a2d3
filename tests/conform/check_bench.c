/* check_bench.c - the benchmark: words of works, statistics, the floor, lines of JSON, small works
 * on the devices of this machine.  No time is asserted. */
#include "conform/bench_row.h"
#include "files.h"
#include "testing.h"
#include <jansson.h>
#include <math.h>
#include <string.h>

/* --- words ------------------------------------------------------------------------------------ */

START_TEST(test_works)
{
    static const char *const good[][2] = {
        { "roof", "roof" },
        { "gemm:1024x3072x3072", "gemm:1024x3072x3072:bf16" },
        { "gemm:1x2x256:q4_k", "gemm:1x2x256:q4_k" },
        { "gemm:1x2x3:f8", "gemm:1x2x3:f8" },
        { "gemm:1x2x512:i8_convrot", "gemm:1x2x512:i8_convrot" },
        { "attention:24x4160x128", "attention:24x4160x128" },
        { "block:1024+64:i8", "block:1024+64:i8" },
        { "block:1024+64:lora32", "block:1024+64:bf16:lora32" },
        { "block:1024+64:q4_k:lora1", "block:1024+64:q4_k:lora1" },
        { "text:64", "text:64:bf16" },
        { "vision:448", "vision:448" },
        { "vae:512", "vae:512" },
        { "vae:512:encode", "vae:512:encode" },
    };
    static const char *const wrong[] = {
        "",
        "gem:1x2x3",
        "gemm",
        "gemm:",
        "gemm:1x2",
        "gemm:1x2x3x4",
        "gemm:0x2x3",
        "gemm:1x2x-3",
        "gemm:1x2x3:",
        "gemm:1x2x3:u8",
        "gemm:1x2x3:q8_0",
        "gemm:1x2x64:i8_convrot",
        "gemm:1x2x3 ",
        "gemm:1 x2x3",
        "gemm:9999999x1x1",
        "gemm:99999999999999999999x1x1",
        "attention:24x4160",
        "attention:1x2x3:bf16",
        "block:1024x64",
        "block:1024",
        "block:1024+64:lora",
        "block:1024+64:lora0",
        "block:1024+64:lora32:bf16",
        "block:1024+64:lora32x",
        "text:64:lora32",
        "text:64:nvfp4",
        "vision:448:bf16",
        "vision:450",
        "vae:8",
        "vae:512:decode",
        "roof:1",
        "roofs",
    };
    qw_work w;
    char why[300], line[96];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        ck_assert_msg(!qw_work_parse(&w, good[i][0], why, sizeof why), "%s: %s", good[i][0], why);
        qw_work_print(&w, line, sizeof line);
        ck_assert_str_eq(line, good[i][1]);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        why[0] = 0;
        ck_assert_msg(qw_work_parse(&w, wrong[i], why, sizeof why), "%s was taken", wrong[i]);
        ck_assert_msg(why[0] != 0, "%s: no sentence", wrong[i]);
    }
}
END_TEST

START_TEST(test_neighbours)
{
    qw_work w;
    char why[300];
    ck_assert(qw_work_parse(&w, "vision:450", why, sizeof why));
    ck_assert_msg(strstr(why, "448") && strstr(why, "476"), "%s", why);
}
END_TEST

/* --- statistics ------------------------------------------------------------------------------- */

START_TEST(test_median)
{
    const qw_spell odd[] = { { 3, 0 }, { 1, 0 }, { 2, 0 } },
                   even[] = { { 4, 0 }, { 1, 0 }, { 2, 0 }, { 3, 0 } };
    qw_times t = qw_times_of(odd, 3);
    ck_assert(t.median == 2 && t.best == 1 && t.worst == 3 && t.repeat == 3 && t.dropped == 0);
    t = qw_times_of(even, 4);
    ck_assert(t.median == 2.5 && t.repeat == 4);
    t = qw_times_of(odd, 1);
    ck_assert(t.median == 3 && t.repeat == 1);
    t = qw_times_of(odd, 0);
    ck_assert(t.median == 0 && t.repeat == 0);
}
END_TEST

/* Three quiet repetitions are enough to drop the others; else the least disturbed count. */
START_TEST(test_disturbed)
{
    const qw_spell some[] = { { 9, 3 }, { 1, 0 }, { 8, 1 }, { 1.1, 0.01 }, { 1.2, 0 } };
    const qw_spell all[] = { { 9, 3 }, { 2, 0.1 }, { 8, 2 }, { 3, 0.3 }, { 4, 0.6 } };
    qw_times t = qw_times_of(some, 5);
    ck_assert(t.median == 1.1 && t.worst == 1.2 && t.repeat == 3 && t.dropped == 2);
    ck_assert_int_eq(t.disturbed, 0);
    t = qw_times_of(all, 5);
    ck_assert(t.median == 3 && t.best == 2 && t.worst == 4 && t.repeat == 3 && t.dropped == 2);
    ck_assert_int_eq(t.disturbed, 3);
}
END_TEST

START_TEST(test_settled)
{
    const qw_spell quiet[] = { { 1, 0 }, { 1.01, 0 }, { 1.015, 0 }, { 3, 0 } };
    const qw_spell spread[] = { { 1, 0 }, { 1.01, 0 }, { 1.03, 0 } };
    const qw_spell noisy[] = { { 1, 0.1 }, { 1, 0.1 }, { 1, 0.1 }, { 1, 0 } };
    ck_assert(!qw_times_settled(quiet, 2));
    ck_assert(qw_times_settled(quiet, 3));
    ck_assert(!qw_times_settled(spread, 3));
    ck_assert(!qw_times_settled(noisy, 4));
}
END_TEST

/* --- the floor -------------------------------------------------------------------------------- */

START_TEST(test_floor)
{
    const qw_roof roof = { .of = { 1e9, 2e9, 0, 1e8 } };
    ck_assert(qw_work_floor(&roof, QW_ROOF_F32, 3e9, 1e8) == 3);
    ck_assert(qw_work_floor(&roof, QW_ROOF_BF16, 3e9, 1e8) == 1.5);
    ck_assert(qw_work_floor(&roof, QW_ROOF_BF16, 3e9, 2e8) == 2);
    ck_assert(qw_work_floor(&roof, QW_ROOF_INT8, 3e9, 2e8) == 0);
    const qw_roof other = { .of = { 2e9, 1e9, 5, 1e8 }, .at = -1 };
    const qw_roof best = qw_roof_best(&roof, &other);
    ck_assert(best.of[0] == 2e9 && best.of[1] == 2e9 && best.of[2] == 5 && best.at == -1);
}
END_TEST

START_TEST(test_arithmetic)
{
    static const struct {
        const char *work, *device;
        qw_roof_kind kind;
    } row[] = {
        { "gemm:1x1x1", "cpu:avx512bf16:bf16", QW_ROOF_BF16 },
        { "gemm:1x1x1", "cpu:avx512bf16:f32", QW_ROOF_F32 },
        { "gemm:1x1x1", "cpu:avx512bf16:int8", QW_ROOF_INT8 },
        { "block:1+1", "cpu:avx512bf16:int8", QW_ROOF_BF16 },
        { "attention:1x1x1", "cpu:amx:int8", QW_ROOF_BF16 },
        { "text:1", "ref", QW_ROOF_F32 },
        { "text:1", "ref:bf16", QW_ROOF_BF16 },
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        qw_work w;
        char why[300];
        ck_assert(!qw_work_parse(&w, row[i].work, why, sizeof why));
        ck_assert_int_eq(qw_work_arithmetic(&w, row[i].device), row[i].kind);
    }
}
END_TEST

/* Every kind that a set of this machine has is measured, and reading always. */
START_TEST(test_roof)
{
    qw_roof roof;
    const qw_roof_set *set;
    int has[QW_ROOFS] = { 0 };
    for (int i = 0; (set = qw_roof_set_at(i, NULL)) != NULL; i++) {
        volatile double sink;
        if (set->f32) ck_assert(set->f32(2, &sink) == 2 * set->f32(1, &sink));
        has[QW_ROOF_F32] |= set->f32 != NULL;
        has[QW_ROOF_BF16] |= set->bf16 != NULL;
        has[QW_ROOF_INT8] |= set->int8 != NULL;
        has[QW_ROOF_READ] |= set->read != NULL;
    }
    ck_assert(has[QW_ROOF_F32] && has[QW_ROOF_READ]);
    qw_roof_measure(&roof, 1);
    for (int k = 0; k < QW_ROOFS; k++) ck_assert_int_eq(roof.of[k] > 0, has[k]);
}
END_TEST

/* --- lines ------------------------------------------------------------------------------------ */

static json_t *line_of(const qw_bench_row *row)
{
    char text[2000];
    json_error_t e;
    FILE *f = tmpfile();
    ck_assert_ptr_nonnull(f);
    qw_bench_print_json(f, row);
    rewind(f);
    ck_assert_ptr_nonnull(fgets(text, sizeof text, f));
    ck_assert_int_eq(fgetc(f), EOF);
    fclose(f);
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, &e);
    ck_assert_msg(json != NULL, "%s: %s", text, e.text);
    return json;
}

static double value(const json_t *json, const char *key)
{
    const json_t *v = json_object_get(json, key);
    ck_assert_msg(v != NULL, "no \"%s\"", key);
    return json_is_null(v) ? -1 : json_number_value(v);
}

START_TEST(test_line)
{
    qw_bench_row row = { .work = "gemm:1x2x3:bf16",
                         .device = "ref",
                         .times = { .median = 3, .best = 2, .worst = 5, .repeat = 4, .dropped = 1 },
                         .cold = 6,
                         .floor = 1.5,
                         .flops = 12,
                         .rss_anon = 100,
                         .error = 0.25,
                         .has_roof = 1,
                         .roof = { .of = { 1e9, 0, 0, 1e8 } } };
    json_t *json = line_of(&row), *roof = json_object_get(json, "roof");
    ck_assert_str_eq(json_string_value(json_object_get(json, "work")), row.work);
    ck_assert_str_eq(json_string_value(json_object_get(json, "device")), "ref");
    ck_assert(value(json, "median") == 3 && value(json, "best") == 2 && value(json, "worst") == 5);
    ck_assert(value(json, "repeat") == 4 && value(json, "cold") == 6 && value(json, "ratio") == 2);
    ck_assert(value(json, "error") == 0.25 && value(json, "rss_anon") == 100);
    ck_assert(value(roof, "f32") == 1e9 && value(roof, "bf16") == -1 && value(roof, "read") == 1e8);
    json_decref(json);

    row.floor = 0;
    row.error = -1;
    row.has_roof = 0;
    json = line_of(&row);
    ck_assert(value(json, "floor") == -1 && value(json, "ratio") == -1
              && value(json, "error") == -1);
    ck_assert(value(json, "roof") == -1);
    json_decref(json);
}
END_TEST

/* The roof's line names the machine. */
START_TEST(test_machine)
{
    static const char *const text[] = { "libqwen", "processor", "system", "compiler", "date" };
    qw_bench_row row = { .work = "roof", .has_roof = 1, .threads = 3, .roof = { .of = { 1e9 } } };
    json_t *json = line_of(&row);
    for (size_t i = 0; i < sizeof text / sizeof *text; i++) {
        const char *s = json_string_value(json_object_get(json, text[i]));
        ck_assert_msg(s && *s && !strstr(s, "unknown"), "%s: %s", text[i], s ? s : "none");
    }
    ck_assert(value(json, "threads") == 3 && value(json, "online") >= 1);
    ck_assert(value(json, "memory") > 1e6);
    json_decref(json);
}
END_TEST

/* --- works on devices ------------------------------------------------------------------------- */

/* Device, its reference and oracle; 0 where there is no such device. */
static int open_all(qw_bench_options *o, const char *device)
{
    qw_error e = { 0 };
    *o = (qw_bench_options){ .threads = 1, .repeat = 1 };
    if (qw_device_open(device, NULL, &o->dev, &e)) return 0;
    ck_assert(!qw_device_open("ref", NULL, &o->ref, &e));
    ck_assert(!qw_device_open("ref64", NULL, &o->oracle, &e));
    return 1;
}

static void close_all(qw_bench_options *o)
{
    o->dev->close(o->dev);
    o->ref->close(o->ref);
    o->oracle->close(o->oracle);
}

/* The work, its products, and how far off the device may be. */
static void measured(const qw_bench_options *o, const char *line, double flops, double error)
{
    qw_work w;
    qw_bench_row row;
    qw_error e = { 0 };
    char why[300];
    ck_assert_msg(!qw_work_parse(&w, line, why, sizeof why), "%s: %s", line, why);
    qw_bench_measure(&row, &w, o, &e);
    ck_assert_msg(!e.status, "%s on %s: %s", line, o->dev->name, e.text);
    ck_assert_msg(row.flops == flops, "%s: %.9g products, expected %.9g", line, row.flops, flops);
    ck_assert_msg(row.error >= 0 && row.error < error, "%s on %s: error %g", line, o->dev->name,
                  row.error);
    ck_assert_int_eq(row.times.repeat, 1);
    ck_assert(row.times.median > 0 && row.cold > 0 && row.rss_anon >= 0);
    json_decref(line_of(&row));
}

/* f32 sums of 512 products: 1e-6 is far above their rounding, far below a lost term. */
START_TEST(test_gemm)
{
    static const char *const weights[] = { "bf16", "f32",  "f16",  "f8",   "i8",   "i8_convrot",
                                           "q8_0", "q4_0", "q4_k", "q5_k", "q6_k", "iq4_xs" };
    char line[100];
    qw_bench_options o;
    ck_assert(open_all(&o, "ref"));
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
        snprintf(line, sizeof line, "gemm:20x768x512:%s", weights[i]);
        measured(&o, line, 2.0 * 20 * 768 * 512, 1e-6);
    }
    close_all(&o);
}
END_TEST

START_TEST(test_attention)
{
    qw_bench_options o;
    ck_assert(open_all(&o, "ref"));
    measured(&o, "attention:2x40x16", 4.0 * 40 * 40 * 2 * 16, 1e-6);
    close_all(&o);
}
END_TEST

/* Products of a block of n tokens: 12 width^2 of linear layers and 2 n width of attention, for
 * each; the result of the reference, f32, against the oracle's. */
START_TEST(test_block)
{
    const double n = 3, C = 3072;
    qw_bench_options o;
    ck_assert(open_all(&o, "ref"));
    o.error = 1;
    measured(&o, "block:2+1:q4_k", 2 * n * 12 * C * C + 4 * n * n * C, 1e-5);
    /* A LoRA of rank r adds r (n + k) a token and layer: rows and columns are 18 C together. */
    measured(&o, "block:2+1:q4_k:lora3", 2 * n * (12 * C * C + 3 * 18 * C) + 4 * n * n * C, 1e-5);
    close_all(&o);
}
END_TEST

/* A layer of the language model: q, k, v, o, gate, up, down; two rows see one and two keys. */
START_TEST(test_text)
{
    const double n = 2, C = 3584, F = 18944, K = 512;
    qw_bench_options o;
    ck_assert(open_all(&o, "ref"));
    o.error = 1;
    measured(&o, "text:2:q4_k", 2 * n * (2 * C * C + 2 * K * C + 3 * C * F) + 4 * 3 * C, 1e-5);
    close_all(&o);
}
END_TEST

/* With bf16 branches: a result rounded to 8 bits. */
START_TEST(test_cpu)
{
    qw_bench_options o;
    if (!open_all(&o, "cpu")) return;
    measured(&o, "gemm:20x768x512", 2.0 * 20 * 768 * 512, 0x1p-7);
    measured(&o, "gemm:1x768x512:q8_0", 2.0 * 1 * 768 * 512, 0x1p-7);
    measured(&o, "attention:2x40x16", 4.0 * 40 * 40 * 2 * 16, 0x1p-7);
    close_all(&o);
}
END_TEST

/* --- the command ------------------------------------------------------------------------------ */

static int command(const char *const *word)
{
    char *argv[16];
    int argc = 0;
    for (; word[argc]; argc++) argv[argc] = (char *)(uintptr_t)word[argc];
    argv[argc] = NULL;
    return qw_bench_main(argc, argv);
}

#define BENCH(...) command((const char *const[]){ "bench", __VA_ARGS__, NULL })

START_TEST(test_usage)
{
    ck_assert_int_eq(BENCH("--help"), 0);
    ck_assert_int_eq(command((const char *const[]){ "bench", NULL }), 2);
    ck_assert_int_eq(BENCH("gemm:1x2"), 2);
    ck_assert_int_eq(BENCH("roof", "--nothing"), 2);
    ck_assert_int_eq(BENCH("roof", "--threads"), 2);
    ck_assert_int_eq(BENCH("roof", "--threads", "0"), 2);
    ck_assert_int_eq(BENCH("roof", "--repeat", "3x"), 2);
    ck_assert_int_eq(BENCH("gemm:1x2x3", "--device", "nowhere"), 2);
    ck_assert_int_eq(BENCH("roof", "--against", "/nowhere/lines"), 3);
    ck_assert_int_eq(BENCH("roof", "--device", "ref", "--report", "/nowhere/report"), 7);
}
END_TEST

/* Saved medians far below and far above any that a machine has. */
START_TEST(test_against)
{
    static const char line[] =
        "{\"work\": \"gemm:2x32x32:bf16\", \"device\": \"ref\", \"median\": ";
    char text[400];
    make_folder();
    const char *path = write_text("none", "# no line\n");
    ck_assert_int_eq(BENCH("roof", "--against", path), 4);
    path = write_text("broken", "{\"work\": \n");
    ck_assert_int_eq(BENCH("roof", "--against", path), 4);
    snprintf(text, sizeof text, "# timings\n%s1e-12}\n", line);
    path = write_text("fast", text);
    ck_assert_int_eq(BENCH("gemm:2x32x32", "--device", "ref", "--repeat", "1", "--against", path),
                     1);
    snprintf(text, sizeof text, "%s1e-12}\n%s1e6}\n", line, line);
    path = write_text("slow", text);
    ck_assert_int_eq(BENCH("gemm:2x32x32", "--device", "ref", "--repeat", "1", "--against", path),
                     0);
    remove_folder();
}
END_TEST

/* The parts of a report; its lines can be compared with; its name appears when it is whole. */
START_TEST(test_report)
{
    static const char *const part[] = { "# machine\n",
                                        "\nprocessor: ",
                                        "\n# devices\n",
                                        "; of this report",
                                        "\n# timings\n{\"work\": \"gemm:2x32x32:bf16\"",
                                        "\n# device\n",
                                        "\n# coverage",
                                        "\ngemm         q4_k ",
                                        "\n# cases\npassed " };
    make_folder();
    const char *path = made("report");
    ck_assert_int_eq(BENCH("gemm:2x32x32", "--device", "ref", "--repeat", "1", "--report", path),
                     0);
    FILE *f = fopen(path, "r");
    ck_assert_ptr_nonnull(f);
    char *text = calloc(1, 1 << 20);
    ck_assert_ptr_nonnull(text);
    ck_assert(fread(text, 1, (1 << 20) - 1, f) > 1000);
    fclose(f);
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        ck_assert_msg(strstr(text, part[i]) != NULL, "the report has no %s", part[i]);
    ck_assert_msg(!strstr(text, "\nfailed "), "the reference failed a case");
    free(text);
    ck_assert(fopen(made("report.part"), "r") == NULL);
    qw_against *a;
    qw_error e = { 0 };
    ck_assert(!qw_against_open(&a, path, &e));
    ck_assert(qw_against_find(a, "gemm:2x32x32:bf16", "ref") > 0);
    ck_assert(qw_against_find(a, "gemm:2x32x32:bf16", "cpu") == 0);
    qw_against_free(a);
    remove_folder();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("bench");
    TCase *words = tcase_create("words"), *works = tcase_create("works");
    tcase_add_test(words, test_works);
    tcase_add_test(words, test_neighbours);
    tcase_add_test(words, test_median);
    tcase_add_test(words, test_disturbed);
    tcase_add_test(words, test_settled);
    tcase_add_test(words, test_floor);
    tcase_add_test(words, test_arithmetic);
    tcase_add_test(words, test_line);
    tcase_add_test(words, test_machine);
    suite_add_tcase(s, words);
    tcase_set_timeout(works, 600);
    tcase_add_test(works, test_roof);
    tcase_add_test(works, test_gemm);
    tcase_add_test(works, test_attention);
    tcase_add_test(works, test_cpu);
    tcase_add_test(works, test_block);
    tcase_add_test(works, test_text);
    tcase_add_test(works, test_usage);
    tcase_add_test(works, test_against);
    tcase_add_test(works, test_report);
    suite_add_tcase(s, works);
    return run_suite(s);
}
