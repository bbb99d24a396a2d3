/* fuzz_yaml.c - any bytes as an extra_model_paths.yaml, through the command's search for models. */
#include "fuzz.h"
#include "find/find.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *folder = fuzz_folder();
    settings s = { .quiet = 1 };
    catalog c = { 0 };
    if (!fuzz_file("extra_model_paths.yaml", data, size)) return 0;
    setenv("HOME", folder, 1);
    unsetenv("QWEN_MODELS");
    if (!list_add(&s.models, folder) && !catalog_make(&c, &s)) catalog_free(&c);
    settings_free(&s);
    return 0;
}
