/* exif.c - the orientation of a picture in its EXIF data. */
#include "media/decode.h"
#include <string.h>

static unsigned exif_number(const unsigned char *p, int n, int big)
{
    unsigned x = 0;
    for (int i = 0; i < n; i++) x |= (unsigned)p[i] << 8 * (big ? n - 1 - i : i);
    return x;
}

int picture_orientation(const unsigned char *exif, size_t bytes)
{
    if (bytes >= 6 && !memcmp(exif, "Exif\0", 6)) {
        exif += 6;
        bytes -= 6;
    }
    if (bytes < 8 || (memcmp(exif, "II*", 4) && memcmp(exif, "MM\0*", 4))) return 1;
    const int big = exif[0] == 'M';
    const size_t at = exif_number(exif + 4, 4, big);
    if (at > bytes - 2) return 1;
    const unsigned n = exif_number(exif + at, 2, big);
    for (size_t i = 0; i < n && at + 2 + 12 * (i + 1) <= bytes; i++) {
        const unsigned char *entry = exif + at + 2 + 12 * i;
        if (exif_number(entry, 2, big) == 0x0112 && exif_number(entry + 2, 2, big) == 3) {
            const unsigned o = exif_number(entry + 8, 2, big);
            return o >= 1 && o <= 8 ? (int)o : 1;
        }
    }
    return 1;
}
