/* tokenize.c - the subcommand that turns text into token ids; no template is added. */
#include "find/find.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int hex4(const char *s)
{
    int x = 0;
    for (int i = 0; i < 4; i++) {
        const char *digits = "0123456789abcdefABCDEF", *at = s[i] ? strchr(digits, s[i]) : NULL;
        if (!at) return -1;
        const int d = (int)(at - digits);
        x = 16 * x + (d > 15 ? d - 6 : d);
    }
    return x;
}

/* Replaces JSON escapes of half a surrogate pair by that of U+FFFD, in place. */
static void repair_surrogates(char *json)
{
    for (char *s = json; *s; s++) {
        if (*s != '\\') continue;
        if (s[1] != 'u') {
            s += s[1] != 0;
            continue;
        }
        const int x = hex4(s + 2);
        if (x < 0xd800 || x > 0xdfff) continue;
        const int pair = x < 0xdc00 && s[6] == '\\' && s[7] == 'u' && hex4(s + 8) >= 0xdc00
                         && hex4(s + 8) <= 0xdfff;
        if (pair) s += 11;
        else memcpy(s + 2, "fffd", 4);
    }
}

static int print_ids(qwen_tokenizer *t, const char *text, size_t bytes, int jsonl)
{
    qwen_array ids = { 0 };
    const int status = qwen_tokenizer_ids(t, text, bytes, &ids);
    if (status) return complain(code_of(status), "%s", qwen_tokenizer_error(t));
    fputs(jsonl ? "{\"ids\":[" : "", stdout);
    for (int64_t i = 0; i < ids.dim[0]; i++)
        printf("%s%d", !i ? "" : jsonl ? "," : " ", ((const int32_t *)ids.data)[i]);
    fputs(jsonl ? "]}\n" : "\n", stdout);
    qwen_array_free(&ids);
    return ferror(stdout) ? flush_stdout() : CODE_DONE;
}

static int tokenize_text(qwen_tokenizer *t, const char *text, size_t bytes)
{
    size_t n;
    char *good = qwen_utf8_replace(text, bytes, &n);
    const int code = good ? print_ids(t, good, n, 0) : no_memory();
    free(good);
    return code;
}

static int tokenize_line(qwen_tokenizer *t, const char *line, size_t bytes, long long number)
{
    size_t n;
    json_error_t error;
    char *good = qwen_utf8_replace(line, bytes, &n);
    if (!good) return no_memory();
    if (strlen(good) == n) repair_surrogates(good);
    json_t *o = json_loadb(good, n, JSON_ALLOW_NUL, &error);
    json_t *text = json_object_get(o, "text");
    int code;
    if (!o)
        code = complain(CODE_MALFORMED, "line %lld: expected {\"text\": ...}, found no JSON: %s",
                        number, error.text);
    else if (!json_is_string(text))
        code = complain(CODE_MALFORMED,
                        "line %lld: expected an object with a string \"text\", found %s", number,
                        text ? "another \"text\"" : "none");
    else code = print_ids(t, json_string_value(text), json_string_length(text), 1);
    json_decref(o);
    free(good);
    return code;
}

static int tokenize_lines(qwen_tokenizer *t, const char *data, size_t bytes)
{
    long long number = 1;
    int code = CODE_DONE;
    for (const char *end = data + bytes; data < end && !code; number++) {
        const char *stop = memchr(data, '\n', (size_t)(end - data));
        stop = stop ? stop : end;
        if (strspn(data, " \t\r") < (size_t)(stop - data))
            code = tokenize_line(t, data, (size_t)(stop - data), number);
        data = stop + 1;
    }
    return code;
}

/* The path of the tokenizer: that of --tokenizer, else that of the model. */
static int tokenizer_path(settings *s, found *f, const char **path)
{
    const char *named = s->tokenizer;
    struct stat st;
    s->tokenizer = NULL;
    if (named && !stat(named, &st)) {
        char *inside = path_join(named, "tokenizer");
        if (!inside) return no_memory();
        const int whole = !stat(inside, &st);
        f->tokenizer = whole ? inside : format_text("%s", named);
        if (!whole) free(inside);
        *path = f->tokenizer;
        return *path ? CODE_DONE : no_memory();
    }
    if (named && s->model)
        return complain(CODE_READ, "--tokenizer: %s: there is no such directory", named);
    if (named) s->model = named; /* --tokenizer names a model: the tokenizer in it */
    const int quiet = s->quiet;
    s->quiet = 1; /* no notice on the model that the tokenizer is found in */
    const int code = find_model(s, f);
    s->quiet = quiet;
    if (code) return code;
    if (!f->tokenizer && f->model) f->tokenizer = path_join(f->model, "tokenizer");
    *path = f->tokenizer;
    return *path ? CODE_DONE
                 : complain(CODE_READ, "no tokenizer: expected --tokenizer or a model directory");
}

int run_tokenize(settings *s)
{
    qwen_tokenizer *t = NULL;
    found f = { 0 };
    const char *path = NULL;
    char *data = NULL;
    size_t bytes = 0;
    if (s->words.n > 1)
        return complain(
            CODE_USAGE,
            "expected one text, found a second argument \"%s\" (quote a text of several words)",
            s->words.item[1]);
    if (s->words.n && s->jsonl)
        return complain(CODE_USAGE,
                        "--jsonl: expected lines on standard input, found the argument \"%s\"",
                        s->words.item[0]);
    int code = tokenizer_path(s, &f, &path);
    const int status = code ? QWEN_OK : qwen_tokenizer_open(&t, path);
    if (status) code = complain(code_of(status), "%s", qwen_tokenizer_error(t));
    if (!code && !s->words.n) code = read_file("-", (uint64_t)1 << 30, &data, &bytes);
    if (!code && s->jsonl) code = tokenize_lines(t, data, bytes);
    else if (!code)
        code = s->words.n ? tokenize_text(t, s->words.item[0], strlen(s->words.item[0]))
                          : tokenize_text(t, data, bytes);
    const int flushed = flush_stdout();
    free(data);
    qwen_tokenizer_close(t);
    found_free(&f);
    return code ? code : flushed;
}
