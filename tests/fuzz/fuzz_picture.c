/* fuzz_picture.c - any bytes as an input picture: PNG, JPEG or WebP, and its metadata. */
#include "fuzz.h"
#include "media/media.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    settings s = { .quiet = 1 };
    qwen_array a = { 0 };
    const char *bytes = (const char *)data;
    if (!picture_decode(&s, "fuzz", bytes, size, &a)) qwen_array_free(&a);
    if (picture_kind(bytes, size) == PICTURE_PNG) free(png_recipe(bytes, size));
    return 0;
}
