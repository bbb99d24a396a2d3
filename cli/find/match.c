/* match.c - the fit of a listed name to the name that was typed: rules R1 to R7 of doc/names.md.
 *
 * Names are compared without the extension of a model file, and as many of their last parts as were
 * typed.  From the best answer to the worst:
 *
 *   WHOLE   the listed name, to the letter
 *   STEM    the same without its extension
 *   LAST    its last part or parts, to the letter, with or without the extension
 *   ALIKE   the same, case ignored, with '-', '_', '.' and ' ' alike and '\' for '/'
 *   MODEL   ALIKE without the words of a precision (bf16, fp8, e4m3fn, scaled, Q4_K_M ...) and
 *           without "qwen image" at the beginning; a precision that was typed must be there
 *   BEGINS  what was typed is the beginning of that, or of the name ALIKE, and ends with a word
 *
 * A file name that every component's directory has (model.safetensors) stands for its directory. */
#include "find/catalog.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* --- extensions ------------------------------------------------------------------------------- */

/* Compares up to n characters; case is ignored. */
static int same_letters(const char *a, const char *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (tolower((unsigned char)a[i]) != tolower((unsigned char)b[i])) return 0;
    return 1;
}

size_t name_stem(const char *name)
{
    static const char *const extensions[] = { ".safetensors", ".sft", ".gguf" };
    const size_t n = strlen(name);
    for (size_t i = 0; i < sizeof extensions / sizeof *extensions; i++) {
        const size_t k = strlen(extensions[i]);
        if (n > k && same_letters(name + n - k, extensions[i], k)) return n - k;
    }
    return n;
}

int is_model_file(const char *name) { return name_stem(name) < strlen(name); }

int is_gguf(const char *name)
{
    return is_model_file(name) && tolower((unsigned char)name[name_stem(name) + 1]) == 'g';
}

int ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

/* --- one form for all spellings --------------------------------------------------------------- */

static int separates(char c) { return c == '-' || c == '_' || c == '.' || c == ' '; }

/* The offset at which "-00001-of-00003" begins that ends the first n letters of a name, or 0. */
static size_t shard_at(const char *name, size_t n, int *shard, int *shards)
{
    const size_t k = strlen("-00001-of-00003");
    const char *s = name + n - k;
    if (n <= k) return 0;
    for (size_t i = 0; i < k; i++) {
        const char want = "-00000-of-00000"[i];
        if (want == '0' ? !isdigit((unsigned char)s[i]) : s[i] != want) return 0;
    }
    *shard = atoi(s + 1);
    *shards = atoi(s + strlen("-00001-of-"));
    return n - k;
}

size_t name_shard(const char *name, int *shard, int *shards)
{
    return is_model_file(name) ? shard_at(name, name_stem(name), shard, shards) : 0;
}

/* The length without the number of a shard: the name of any shard stands for its set. */
static size_t without_shard(const char *name, size_t n)
{
    int shard, shards;
    const size_t at = shard_at(name, n, &shard, &shards);
    return at ? at : n;
}

/* Small letters, words joined by one '-', parts by '/', no extension; malloc'ed, or NULL. */
static char *plain_form(const char *name)
{
    const size_t n = without_shard(name, name_stem(name));
    char *out = malloc(n + 1);
    size_t k = 0;
    for (size_t i = 0; out && i < n; i++) {
        const char c = name[i] == '\\' ? '/' : (char)tolower((unsigned char)name[i]);
        if (c == '/') {
            while (k && out[k - 1] == '-') k--;
            if (k && out[k - 1] != '/') out[k++] = '/';
        } else if (!separates(c)) {
            out[k++] = c;
        } else if (k && out[k - 1] != '-' && out[k - 1] != '/') {
            out[k++] = '-';
        }
    }
    while (k && (out[k - 1] == '-' || out[k - 1] == '/')) k--;
    if (out) out[k] = 0;
    return out;
}

/* The last `parts` parts of a name with '/' between them; NULL if it has fewer. */
static const char *last_parts(const char *name, int parts)
{
    const char *p = name + strlen(name);
    while (p > name) {
        if (p[-1] == '/' && !--parts) return p;
        p--;
    }
    return parts <= 1 ? name : NULL;
}

static int count_parts(const char *name)
{
    int n = 1;
    for (; *name; name++) n += *name == '/';
    return n;
}

/* --- words ------------------------------------------------------------------------------------ */

/* The length of the next word of a plain form's last part; 0 at the end. */
static size_t next_word(const char **at)
{
    while (**at == '-') ++*at;
    return strcspn(*at, "-");
}

static int is_word(const char *s, size_t n, const char *word)
{
    return strlen(word) == n && !strncmp(s, word, n);
}

/* Words of a precision with their order, the nearest to the published numbers first; 99: no
 * order. */
static const struct {
    const char *word;
    int order;
} precisions[] = {
    { "bf16", 1 },       { "fp16", 2 },        { "f16", 2 },      { "fp32", 3 },    { "f32", 3 },
    { "fp8", 4 },        { "f8", 4 },          { "fp8mixed", 4 }, { "mxfp8", 4 },   { "e4m3fn", 4 },
    { "e4m3", 4 },       { "e5m2", 4 },        { "int8", 4 },     { "w8a8", 4 },    { "q8", 4 },
    { "q6", 5 },         { "q5", 6 },          { "q4", 7 },       { "iq4", 7 },     { "nvfp4", 7 },
    { "mxfp4", 7 },      { "fp4", 7 },         { "int4", 7 },     { "w4a4", 7 },    { "w4a8", 7 },
    { "w4a16", 7 },      { "awq", 7 },         { "q3", 8 },       { "iq3", 8 },     { "q2", 9 },
    { "iq2", 9 },        { "q1", 10 },         { "iq1", 10 },     { "scaled", 99 }, { "mixed", 99 },
    { "convrot", 99 },   { "tensorwise", 99 }, { "rowwise", 99 }, { "rows", 99 },   { "asym", 99 },
    { "quantized", 99 }, { "gguf", 99 },       { "ud", 99 },
};
static const char *const after_q[] = { "k", "s", "m", "l", "xl", "xs", "xxs", "nl", "0", "1" };

/* The order of a word of a precision, 0 for any other word.  *q in: the word before was "q4" or a
 * part of that ("k", "m"), so that such a part may follow; out: the same of this word. */
static int precision_word(const char *s, size_t n, int *q)
{
    const int inside = *q;
    *q = 0;
    for (size_t i = 0; i < sizeof precisions / sizeof *precisions; i++)
        if (is_word(s, n, precisions[i].word)) {
            *q = s[0] == 'q' || (s[0] == 'i' && s[1] == 'q');
            return precisions[i].order;
        }
    for (size_t i = 0; inside && i < sizeof after_q / sizeof *after_q; i++)
        if (is_word(s, n, after_q[i])) {
            *q = 1;
            return 99;
        }
    return 0;
}

/* Nonzero: the name has all words of a precision that were typed. */
static int precision_there(const char *plain, const char *typed)
{
    int q = 0;
    for (size_t n; (n = next_word(&typed)); typed += n) {
        const char *at = plain;
        size_t k;
        if (!precision_word(typed, n, &q)) continue;
        while ((k = next_word(&at)) && !(k == n && !strncmp(at, typed, n))) at += k;
        if (!k) return 0;
    }
    return 1;
}

/* The words that are left without those of a precision and without "qwen image" before them.
 * *family: the name began with that; *order: of its precision, 0: none.  malloc'ed, or NULL. */
static char *model_form(const char *last, int *family, int *order)
{
    char *out = malloc(strlen(last) + 1);
    size_t k = 0, n;
    int q = 0, best = 0;
    const int joined = !strncmp(last, "qwenimage", 9) && (!last[9] || last[9] == '-');
    *family = joined || (!strncmp(last, "qwen-image", 10) && (!last[10] || last[10] == '-'));
    last += joined ? 9 : *family ? 10 : 0;
    for (; out && (n = next_word(&last)); last += n) {
        const int word = precision_word(last, n, &q);
        if (word && (!best || word < best)) best = word;
        if (word) continue;
        if (k) out[k++] = '-';
        memcpy(out + k, last, n);
        k += n;
    }
    if (out) out[k] = 0;
    *order = best;
    return out;
}

/* Nonzero: a is the beginning of b, up to the end of a word. */
static int begins(const char *a, const char *b)
{
    const size_t n = strlen(a);
    return n && !strncmp(a, b, n) && (!b[n] || b[n] == '-');
}

/* Nonzero: the words after what was typed make it another model. */
static int says_other(const char *rest)
{
    static const char *const words[] = { "edit",       "layered", "plus",      "control",
                                         "controlnet", "inpaint", "inpainting" };
    int q = 0, first = 1;
    for (size_t n; (n = next_word(&rest)); rest += n, first = 0) {
        if (precision_word(rest, n, &q)) continue;
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            if (is_word(rest, n, words[i])) return 1;
        if (strspn(rest, "0123456789") == n && (first || n == 4)) return 1; /* 2509, 2.1 */
    }
    return 0;
}

int name_has_word(const char *name, const char *word)
{
    char *plain = plain_form(name);
    const char *at = plain ? plain : "";
    const size_t k = strlen(word);
    int has = 0;
    for (; *at && !has; at++)
        has = (at == plain || at[-1] == '-' || at[-1] == '/') && !strncmp(at, word, k);
    free(plain);
    return has;
}

/* --- answers ---------------------------------------------------------------------------------- */

/* The name without a file name that all components have (model.safetensors); malloc'ed, or NULL. */
static char *called_name(const char *listed)
{
    static const char *const generic[] = { "diffusion_pytorch_model", "model", "pytorch_model" };
    const char *last = base_name(listed);
    const size_t n = name_stem(last);
    for (size_t i = 0; i < sizeof generic / sizeof *generic && last > listed + 1; i++)
        if (n == strlen(generic[i]) && !strncmp(last, generic[i], n))
            return format_text("%.*s", (int)(last - listed - 1), listed);
    return format_text("%s", listed);
}

/* WHOLE, STEM, LAST or NONE. */
static int answer_by_letters(const char *listed, const char *typed)
{
    const size_t n = strlen(typed);
    const char *last = last_parts(listed, count_parts(typed));
    if (!strcmp(listed, typed)) return ANSWER_WHOLE;
    if (n == name_stem(listed) && !strncmp(listed, typed, n)) return ANSWER_STEM;
    return last && (!strcmp(last, typed) || (n == name_stem(last) && !strncmp(last, typed, n)))
               ? ANSWER_LAST
               : ANSWER_NONE;
}

/* Nonzero: an extension was typed, and the file has another. */
static int other_extension(const char *listed, const char *typed)
{
    const char *a = listed + name_stem(listed), *b = typed + name_stem(typed);
    return *b && (strlen(a) != strlen(b) || !same_letters(a, b, strlen(b)));
}

/* ALIKE, MODEL, BEGINS or NONE, from the plain forms of the name's last parts and of what was
 * typed. */
static int answer_by_words(const char *plain, const char *typed, answer *out)
{
    int family, of_typed, order, code = CODE_DONE;
    const char *last = base_name(plain), *last_typed = base_name(typed);
    char *model = model_form(last, &family, &out->precision);
    char *wanted = model_form(last_typed, &of_typed, &order);
    const int same_above = last - plain == last_typed - typed
                           && !strncmp(plain, typed, (size_t)(last - plain));
    if (!model || !wanted) {
        code = no_memory();
    } else if (!strcmp(plain, typed)) {
        out->grade = ANSWER_ALIKE;
    } else if (same_above && !strcmp(model, wanted) && (*wanted || (family && of_typed))
               && precision_there(last, last_typed)) {
        out->grade = ANSWER_MODEL;
    } else if (same_above && begins(last_typed, last)) {
        out->grade = ANSWER_BEGINS;
        out->other = says_other(last + strlen(last_typed));
    } else if (same_above && precision_there(last, last_typed)
               && (*wanted ? begins(wanted, model) : family && of_typed)) {
        out->grade = ANSWER_BEGINS;
        out->other = says_other(model + strlen(wanted));
    }
    free(wanted);
    out->model = model;
    return code;
}

int name_answers(const char *listed, const char *typed, answer *out)
{
    *out = (answer){ .grade = answer_by_letters(listed, typed) };
    char *name = called_name(listed), *plain = name ? plain_form(name) : NULL;
    char *wanted = plain_form(typed);
    const char *last = plain && wanted ? last_parts(plain, count_parts(wanted)) : NULL;
    const int grade = out->grade;
    int code = name && plain && wanted ? CODE_DONE : no_memory();
    if (!code && last && *wanted && !other_extension(listed, typed))
        code = answer_by_words(last, wanted, out);
    if (grade) {
        out->grade = grade;
        out->other = 0;
    }
    free(name);
    free(plain);
    free(wanted);
    return code;
}

/* The words of a form joined, without those of a precision; malloc'ed, or NULL. */
static char *joined_words(const char *form)
{
    char *out = malloc(strlen(form) + 1);
    size_t k = 0, n;
    int q = 0;
    for (; out && (n = next_word(&form)); form += n)
        if (!precision_word(form, n, &q)) {
            memcpy(out + k, form, n);
            k += n;
        }
    if (out) out[k] = 0;
    return out;
}

/* The smaller of `far` and 10 + the edit distance of two forms; that counts up to 2, and from four
 * letters typed on. */
static int nearer(int far, const char *form, const char *typed)
{
    const int d = form && typed && strlen(typed) >= 4 ? edit_distance(typed, form) : 99;
    return d <= 2 && d + 10 < far ? d + 10 : far;
}

int name_distance(const char *listed, const char *typed)
{
    char *name = called_name(listed), *plain = name ? plain_form(name) : NULL;
    char *wanted = plain_form(typed);
    int far = 1000;
    if (plain && wanted && *wanted) {
        int family, order;
        const int n = (int)strlen(wanted), most = n < 4 ? 1 : n < 8 ? 2 : 3;
        const char *last = last_parts(plain, count_parts(wanted));
        char *model = model_form(base_name(plain), &family, &order);
        char *typed_model = model_form(base_name(wanted), &family, &order);
        char *letters = joined_words(base_name(plain)),
             *typed_letters = joined_words(base_name(wanted));
        const int d = last ? edit_distance(wanted, last) : 99;
        far = d <= most ? d : far;
        if (count_parts(wanted) == 1) far = nearer(far, model, typed_model);
        far = nearer(far, letters, typed_letters);
        if (far == 1000 && n >= 3 && strstr(plain, wanted))
            far = 20 + (int)(strlen(plain) - strlen(wanted));
        free(model);
        free(typed_model);
        free(letters);
        free(typed_letters);
    }
    free(name);
    free(plain);
    free(wanted);
    return far < 1000 ? far : 1000;
}
