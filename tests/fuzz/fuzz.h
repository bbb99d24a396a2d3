/* fuzz.h - for all fuzz targets: bytes as a file. */
#ifndef QW_FUZZ_H
#define QW_FUZZ_H
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Writes the bytes to <folder>/<name> in a folder of this process and returns the path, which stays
 * valid until the next call; NULL when that fails. */
const char *fuzz_file(const char *name, const uint8_t *data, size_t size);
/* The folder that fuzz_file writes to. */
const char *fuzz_folder(void);
#endif
