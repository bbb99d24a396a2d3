/* fuzz_tokenizer.c - any bytes as a tokenizer.json; if it opens, it tokenizes some text. */
#include "fuzz.h"
#include "host/text.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        "It's 2024!\n  two\tcaf\xc3\xa9 <|im_start|>\xe4\xbd\xa0\xe5\xa5\xbd";
    qw_error err = { 0 };
    qw_tokenizer *t = NULL;
    const char *path = fuzz_file("tokenizer.json", data, size);
    if (!path) return 0;
    if (!qw_tokenizer_open(&t, path, &err)) {
        int32_t *ids = NULL;
        int64_t n = 0;
        qw_tokenize(t, text, sizeof text - 1, &ids, &n, &err);
        free(ids);
    }
    qw_tokenizer_free(t);
    return 0;
}
