/* fuzz_safetensors.c - any bytes as a .safetensors file: opened, named, every entry read. */
#include "fuzz.h"
#include "fuzz_store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return fuzz_store(fuzz_file("x.safetensors", data, size));
}
