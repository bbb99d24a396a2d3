/* decode.h - what the files that read pictures share. */
#ifndef DECODE_H
#define DECODE_H
#include "media/media.h"

/* *orientation and *animated change only where the file has EXIF data or frames. */
int png_decode(const char *path, const char *data, size_t bytes, qwen_array *out, int *orientation,
               int *animated);
int picture_orientation(const unsigned char *exif, size_t bytes); /* 1 to 8, as EXIF numbers them */
#endif
