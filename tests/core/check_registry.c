/* check_registry.c - devices by name, modules that cannot be loaded, and how errors are worded. */
#include "devices.h"
#include "files.h"
#include "testing.h"
#include <dlfcn.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int note(void *user, const qw_listing *d, int is_default)
{
    char *all = user;
    ck_assert(d->what[0]);
    if (!d->why_not[0]) strcat(strcat(all, d->name), is_default ? "* " : " ");
    return 0;
}

START_TEST(devices)
{
    char all[1000] = " ";
    ck_assert_int_eq(qw_device_list(note, all), 0);
    ck_assert_ptr_nonnull(strstr(all, " ref"));
    ck_assert_ptr_nonnull(strchr(all, '*'));
    ck_assert_ptr_eq(strchr(all, '*'), strrchr(all, '*')); /* one default */
    ck_assert_ptr_nonnull(strstr(all, " ref64 "));
    ck_assert_ptr_nonnull(strstr(all, " ref:bf16 "));
    qw_device *d = NULL;
    qw_error e = { 0 };
    ck_assert_int_eq(qw_device_open("warp:9\n", NULL, &d, &e), QWEN_EARG);
    ck_assert_ptr_null(d);
    ck_assert_ptr_nonnull(strstr(e.text, "warp:9\\n"));
    ck_assert_ptr_nonnull(strstr(e.text, "ref64"));
    d = open_device("ref64");
    ck_assert_int_eq(d->wide, QW_F64);
    ck_assert_int_eq(d->threads, 1);
    d->close(d);
    d = open_device(NULL);
    ck_assert_int_eq(d->abi, QW_BACKEND_ABI);
    d->close(d);
    memset(&e, 0, sizeof e);
    ck_assert_int_eq(qw_device_open("ref", &(qw_device_options){ .threads = -1 }, &d, &e),
                     QWEN_EARG);
}
END_TEST

/* A module that cannot be loaded is listed with the reason, and is an error only when its device is
 * named.
 * */
static int find_broken(void *user, const qw_listing *d, int is_default)
{
    (void)is_default;
    if (!strcmp(d->name, "broken")) *(int *)user = d->why_not[0] ? 1 : 2;
    return 0;
}

START_TEST(broken_module)
{
    write_text("broken.so", "this is no shared object");
    setenv("QWEN_MODULES", made(NULL), 1); /* this test runs in a process of its own */
    int found = 0;
    qw_device_list(find_broken, &found);
    ck_assert_int_eq(found, 1);
    qw_device *d = open_device("ref");
    d->close(d);
    qw_error e = { 0 };
    ck_assert_int_eq(qw_device_open("broken:0", NULL, &d, &e), QWEN_EDEVICE);
    ck_assert_ptr_nonnull(strstr(e.text, "broken"));
}
END_TEST

/* --- modules ------------------------------------------------------------------------------------
 * Built from module.c; a test puts links to them into folders of its own.  Every test runs in a
 * process of its own: modules are looked for once. */

static const char *built(const char *module)
{
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s.so", getenv("QW_MODULES_BUILT"), module);
    return path;
}

static int have_modules(void)
{
    return getenv("QW_MODULES_BUILT") && !access(built("module_alpha"), R_OK);
}

/* The module under a name, in a folder of the test, which may be there. */
static void put_module(const char *folder, const char *name, const char *module)
{
    char link_name[200];
    if (folder[0]) mkdir(made(folder), 0777);
    snprintf(link_name, sizeof link_name, "%s/%s.so", folder, name);
    ck_assert_int_eq(symlink(built(module), made(link_name)), 0);
}

/* A handle of the module if it has been loaded. */
static void *loaded(const char *module) { return dlopen(built(module), RTLD_NOW | RTLD_NOLOAD); }

static int count_of(const char *module, const char *counter)
{
    void *m = loaded(module);
    ck_assert_ptr_nonnull(m);
    const int *n = dlsym(m, counter);
    ck_assert_ptr_nonnull(n);
    return *n;
}

typedef struct found {
    const char *name; /* of the device to find */
    qw_listing d;
    int times, is_default;
} found;

static int find(void *user, const qw_listing *d, int is_default)
{
    found *f = user;
    if (strcmp(d->name, f->name)) return 0;
    f->d = *d;
    f->is_default = is_default;
    f->times++;
    return 0;
}

static found listed(const char *name)
{
    found f = { .name = name };
    ck_assert_int_eq(qw_device_list(find, &f), 0);
    return f;
}

/* The sentence with which a device does not open. */
static const char *refusal(const char *name, int status)
{
    static qw_error e;
    qw_device *d = NULL;
    memset(&e, 0, sizeof e);
    ck_assert_int_eq(qw_device_open(name, NULL, &d, &e), status);
    ck_assert_ptr_null(d);
    return e.text;
}

static void ck_says(const char *text, const char *part)
{
    ck_assert_msg(strstr(text, part) != NULL, "\"%s\" does not say \"%s\"", text, part);
}

/* A name loads no other backend's module; listing opens no device. */
START_TEST(on_demand)
{
    put_module("", "alpha", "module_alpha");
    setenv("QWEN_MODULES", made(NULL), 1);
    qw_device *d = open_device("ref");
    d->close(d);
    ck_assert_ptr_null(loaded("module_alpha"));
    found f = listed("alpha:plain");
    ck_assert_int_eq(f.times, 1);
    ck_assert_str_eq(f.d.what, "a device of a test");
    ck_assert_str_eq(f.d.why_not, "");
    ck_assert_int_gt(count_of("module_alpha", "module_listed"), 0);
    ck_assert_int_eq(count_of("module_alpha", "module_opened"), 0);
    d = open_device("alpha:plain");
    ck_assert_int_eq(count_of("module_alpha", "module_opened"), 1);
    ck_assert_str_eq(d->name, "alpha:plain"); /* the module left it empty */
    ck_assert_int_eq(d->threads, 1);
    void *p = NULL;
    ck_assert_int_eq(d->alloc(d, 1000, &p), QWEN_OK); /* the core's */
    ck_assert_uint_eq((uintptr_t)p % 256, 0);
    d->free(d, p);
    ck_assert_int_eq(d->sync(d), QWEN_OK);
    d->close(d);
    ck_assert_ptr_nonnull(loaded("module_alpha")); /* never closed */
    qw_error e = { 0 };
    ck_assert_int_eq(qw_device_open("alpha:plain", NULL, &d, &e), QWEN_OK);
    ck_assert_int_eq(d->threads, 3); /* the module's own where options give no number */
    d->close(d);
}
END_TEST

static char noticed[1200];
static void notice(void *user, const char *why, const char *used)
{
    ck_assert_ptr_eq(user, noticed);
    snprintf(noticed, sizeof noticed, "%s|%s", why, used);
}

/* The default: unusable devices are skipped without a notice, those that do not open with one. */
START_TEST(defaults)
{
    put_module("", "alpha", "module_alpha");
    setenv("QWEN_MODULES", made(NULL), 1);
    ck_assert_int_eq(listed("alpha:asleep").is_default, 1);
    ck_assert_int_eq(listed("alpha:dark").is_default, 0);
    ck_assert_str_eq(listed("alpha:dark").d.why_not, "no power");
    qw_device *d = NULL;
    qw_error e = { 0 };
    const qw_device_options o = { .notice = notice, .user = noticed };
    ck_assert_int_eq(qw_device_open(NULL, &o, &d, &e), QWEN_OK);
    ck_assert_str_eq(d->name, "alpha:plain");
    ck_assert_int_eq(e.status, QWEN_OK);
    ck_assert_str_eq(noticed, "device alpha:asleep does not open: its driver sleeps|alpha:plain");
    d->close(d);
    noticed[0] = 0;
    ck_assert_int_eq(qw_device_open("alpha:plain", &o, &d, &e), QWEN_OK);
    ck_assert_str_eq(noticed, "");
    d->close(d);
    /* A device named by its own name or its backend's opens, or fails with a sentence. */
    ck_assert_int_eq(qw_device_open("alpha", &o, &d, &e), QWEN_EDEVICE);
    ck_says(e.text, "device alpha:asleep does not open: its driver sleeps");
}
END_TEST

START_TEST(refusals)
{
    put_module("", "alpha", "module_alpha");
    setenv("QWEN_MODULES", made(NULL), 1);
    ck_says(refusal("alpha:asleep", QWEN_EDEVICE), "its driver sleeps");
    ck_says(refusal("alpha:silent", QWEN_EDEVICE), qwen_strerror(QWEN_EDEVICE));
    ck_says(refusal("alpha:dark", QWEN_EDEVICE), "no power");
    ck_says(refusal("alpha:old", QWEN_EDEVICE), "version of the device interface");
    ck_says(refusal("alpha:halves", QWEN_EDEVICE), "neither f32 nor bf16");
    ck_says(refusal("alpha:far", QWEN_EDEVICE), "memory functions");
    ck_says(refusal("alpha:unsure", QWEN_EDEVICE), "its score is not a finite number");
    ck_says(refusal("alpha:best", QWEN_EDEVICE), "its score is not a finite number");
    ck_says(refusal("alpha:vast", QWEN_EDEVICE), "its memory is over 2^63 bytes");
    ck_says(refusal("alpha:none", QWEN_EARG), "there is no device alpha:none");
    /* A name that is whole means that device, before longer ones and better ones. */
    ck_says(refusal("alpha:deep", QWEN_EDEVICE), "asleep too");
    qw_device *d = open_device("alpha:lamp");
    ck_assert_str_eq(d->name, "alpha:lamp");
    d->close(d);
    ck_says(listed("alpha:a b").d.why_not, "its name has other characters");
    ck_assert_int_eq(listed("alpha:half\\n\\xff").times, 1);
}
END_TEST

/* Modules that cannot be used are listed with the reason under the name of their file. */
START_TEST(wrong_modules)
{
    static const struct {
        const char *name, *module, *why;
    } wrong[] = {
        { "stale", "module_stale", "version 1 of the device interface" },
        { "small", "module_small", "version 2 of the device interface in 8 bytes" },
        { "future", "module_future", "version 3 of the device interface" },
        { "nameless", "module_nameless", "no name" },
        { "other", "module_alpha", "the file must be alpha.so" },
        { "ref", "module_alpha", "a built-in device has that name" },
        { "plan", "module_alpha", "a built-in device has that name" },
    };
    char asked[100];
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        put_module("", wrong[i].name, wrong[i].module);
    put_module("", "alien", "module_alien");
    write_text("empty.so", "");
    ck_assert_int_eq(mkfifo(made("pipe.so"), 0600), 0);
    setenv("QWEN_MODULES", made(NULL), 1);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        found f = listed(wrong[i].name);
        ck_assert_int_ge(f.times, 1);
        if (strcmp(wrong[i].name, "ref")) ck_says(f.d.why_not, wrong[i].why);
        if (i >= 5) continue;
        snprintf(asked, sizeof asked, "%s:0", wrong[i].name);
        ck_says(refusal(asked, QWEN_EDEVICE), wrong[i].why);
    }
    ck_assert_int_eq(listed("ref").times, 2); /* the module, with the reason, and the reference */
    ck_assert_str_eq(listed("ref").d.why_not, "");
    ck_assert_ptr_nonnull(loaded("module_future"));
    ck_assert_int_eq(listed("empty").times, 1);
    ck_says(listed("pipe").d.why_not, "is not a regular file");
    /* A backend cannot list another's device. */
    ck_assert_int_eq(listed("ref64:plain").times, 0);
    ck_says(refusal("alien", QWEN_EDEVICE), "which is not the backend's");
    qw_device *d = open_device("ref64");
    ck_assert_int_eq(d->wide, QW_F64);
    d->close(d);
}
END_TEST

/* What a module may not list: two devices of one name, devices without end. */
START_TEST(wrong_lists)
{
    put_module("", "alpha", "module_alpha");
    put_module("", "endless", "module_endless");
    setenv("QWEN_MODULES", made(NULL), 1);
    found f = listed("alpha:twice");
    ck_assert_int_eq(f.times, 2);
    ck_says(f.d.why_not, "another device of the backend has its name");
    ck_assert(f.d.score == 0);
    qw_device *d = open_device("alpha:twice");
    d->close(d);
    ck_assert_int_eq(listed("endless:255").times, 1);
    f = listed("endless:256");
    ck_assert_int_eq(f.times, 1);
    ck_says(f.d.why_not, "lists too many devices");
    ck_assert_int_eq(listed("endless:257").times, 0);
}
END_TEST

/* Copies of a module that end too soon are refused; the whole copy opens. */
START_TEST(cut_modules)
{
    char *all = NULL, name[20];
    size_t size;
    FILE *from = fopen(built("module_alpha"), "rb");
    ck_assert_ptr_nonnull(from);
    ck_assert_int_eq(fseek(from, 0, SEEK_END), 0);
    size = (size_t)ftell(from);
    all = malloc(size);
    ck_assert_ptr_nonnull(all);
    rewind(from);
    ck_assert_uint_eq(fread(all, 1, size, from), size);
    fclose(from);
    for (int i = 0; i < 33; i++) { /* cut32 is whole but for one byte */
        snprintf(name, sizeof name, "cut%d.so", i);
        FILE *to = fopen(made(name), "wb");
        ck_assert_ptr_nonnull(to);
        const size_t n = i < 32 ? size / 32 * (size_t)i : size - 1;
        ck_assert_uint_eq(fwrite(all, 1, n, to), n);
        ck_assert_int_eq(fclose(to), 0);
    }
    free(all);
    setenv("QWEN_MODULES", made(NULL), 1);
    for (int i = 1; i < 32; i++) {
        snprintf(name, sizeof name, "cut%d", i == 31 ? 32 : i);
        ck_says(listed(name).d.why_not, "is cut short");
    }
    ck_assert_int_eq(listed("cut0").times, 1);
}
END_TEST

static int count_surplus(void *user, const qw_listing *d, int is_default)
{
    (void)is_default;
    *(int *)user += strstr(d->why_not, "there are more than 64 modules") != NULL;
    return 0;
}

START_TEST(too_many_modules)
{
    char name[20];
    for (int i = 0; i < 70; i++) {
        snprintf(name, sizeof name, "m%d.so", i);
        write_text(name, "no shared object");
    }
    setenv("QWEN_MODULES", made(NULL), 1);
    int n = 0;
    ck_assert_int_eq(qw_device_list(count_surplus, &n), 0);
    ck_assert_int_eq(n, 1);
    qw_device *d = open_device("ref");
    d->close(d);
}
END_TEST

/* The list of folders: the first file of a name is taken; folders that do not exist are skipped. */
START_TEST(folders)
{
    char list[3000];
    put_module("one", "twin", "module_twin_one");
    put_module("two", "twin", "module_twin_two");
    put_module("two", "alpha", "module_alpha");
    snprintf(list, sizeof list, ":%s::%s:%s:", made("nowhere"), made("two"), made("one"));
    setenv("QWEN_MODULES", list, 1);
    found f = listed("twin:plain");
    ck_assert_int_eq(f.times, 1);
    ck_assert_str_eq(f.d.what, "of folder two");
    ck_assert_int_eq(listed("alpha:plain").times, 1);
    ck_assert_ptr_null(loaded("module_twin_one"));
}
END_TEST

/* Limits of cgroups, in folders laid out as the kernel's. */
static void put_limit(const char *path, const char *text)
{
    char folder[300];
    snprintf(folder, sizeof folder, "%s", path);
    for (char *slash = strchr(folder, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(made(folder), 0777);
        *slash = '/';
    }
    write_text(path, text);
}

static int limit(const char *root)
{
    char folder[1024];
    snprintf(folder, sizeof folder, "%s", made(root));
    return qw_cgroup_threads(folder);
}

START_TEST(cgroups)
{
    ck_assert_int_eq(limit("nowhere"), 0);
    put_limit("two/proc/self/cgroup", "0::/a/b\n");
    ck_assert_int_eq(limit("two"), 0);
    put_limit("two/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    ck_assert_int_eq(limit("two"), 0);
    put_limit("two/sys/fs/cgroup/a/cpu.max", "250000 100000\n"); /* around it: 2.5 */
    ck_assert_int_eq(limit("two"), 3);
    put_limit("two/sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
    ck_assert_int_eq(limit("two"), 1);
    put_limit("two/sys/fs/cgroup/a/b/cpu.max", "garbage\n");
    ck_assert_int_eq(limit("two"), 3);
    /* version 1, beside an empty version 2; in a container that sees its cgroup as the root */
    put_limit("one/proc/self/cgroup", "4:cpuset:/\n3:cpuacct,cpu:/docker/x\n0::/\n");
    put_limit("one/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "400000\n");
    put_limit("one/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    ck_assert_int_eq(limit("one"), 4);
    put_limit("one/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    ck_assert_int_eq(limit("one"), 0);
}
END_TEST

START_TEST(sentences)
{
    qw_error e = { 0 };
    ck_assert_int_eq(qw_fail(&e, QWEN_EIO, "%s is gone", "a.gguf"), QWEN_EIO);
    ck_assert_int_eq(qw_fail(&e, QWEN_EARG, "later"), QWEN_EIO); /* the first stays */
    ck_assert_str_eq(e.text, "a.gguf is gone");
    char out[40], small[9];
    ck_assert_str_eq(qw_visible(out, sizeof out, "a\n\x01\x7f\xff\xc3\xa9"),
                     "a\\n\\x01\\x7f\\xff\xc3\xa9");
    ck_assert_str_eq(qw_visible(out, sizeof out, "\xed\xa0\x80"),
                     "\\xed\\xa0\\x80"); /* a lone surrogate */
    ck_assert_str_eq(qw_visible(out, sizeof out, "\xc0\xaf\xe2\x82"), "\\xc0\\xaf\\xe2\\x82");
    ck_assert_str_eq(qw_visible(out, sizeof out, "\xc2\x9b"), "\\xc2\\x9b"); /* a C1 control */
    ck_assert_uint_lt(strlen(qw_visible(small, sizeof small, "abcdefghijkl")), sizeof small);
    ck_assert_str_eq(qw_visible(small, 1, "abc"), "");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("registry");
    TCase *c = tcase_create("registry");
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_test(c, devices);
    tcase_add_test(c, broken_module);
    tcase_add_test(c, too_many_modules);
    tcase_add_test(c, cgroups);
    tcase_add_test(c, sentences);
    if (have_modules()) {
        tcase_add_test(c, on_demand);
        tcase_add_test(c, defaults);
        tcase_add_test(c, refusals);
        tcase_add_test(c, wrong_modules);
        tcase_add_test(c, wrong_lists);
        tcase_add_test(c, cut_modules);
        tcase_add_test(c, folders);
    } else printf("no shared libraries here: tests of modules are skipped\n");
    suite_add_tcase(s, c);
    return run_suite(s);
}
