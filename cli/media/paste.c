/* paste.c - puts the input picture's pixels back where an inpaint mask keeps them.
 *
 * The VAE changes a kept region a little, and the mask works on latents of 8x8 pixels; the file has
 * the original pixels there.  The tensor `image` of a dump has the model's. */
#include "media/media.h"
#include <string.h>

void paste_kept(const settings *s, const qwen_result *r, qwen_array *picture)
{
    const qwen_array *kept = &r->kept, *mask = &r->mask;
    if (s->no_paste || !kept->data || !mask->data) return;
    const int64_t h = picture->dim[0], w = picture->dim[1], c = picture->dim[2], k = kept->dim[2];
    if (kept->dim[0] != h || kept->dim[1] != w || mask->dim[0] != h || mask->dim[1] != w) {
        notice(s, "Nothing is pasted back: the picture came %lldx%lld, what was kept is %lldx%lld",
               (long long)w, (long long)h, (long long)kept->dim[1], (long long)kept->dim[0]);
        return;
    }
    for (int64_t i = 0; i < h * w; i++) {
        uint8_t *to = (uint8_t *)picture->data + i * c;
        const uint8_t *from = (const uint8_t *)kept->data + i * k;
        if (((const uint8_t *)mask->data)[i]) continue;
        memcpy(to, from, 3);
        if (c == 4) to[3] = k == 4 ? from[3] : 255;
    }
}
