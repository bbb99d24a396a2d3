/* media.h - picture files in and out, and what is done to pixels: pasting, edges, previews.
 *
 * Pictures are U8 [height][width][3 or 4], dense. */
#ifndef MEDIA_H
#define MEDIA_H
#include "cli.h"

enum { PICTURE_NONE, PICTURE_PNG, PICTURE_JPEG, PICTURE_WEBP };

/* --- picture.c, png.c: pictures in ------------------------------------------------------------ */
int picture_kind(const char *data, size_t bytes); /* PICTURE_* by the first bytes */
int picture_read(const settings *s, const char *path, qwen_array *out);
/* The same from memory; path is for messages. */
int picture_decode(const settings *s, const char *path, const char *data, size_t bytes,
                   qwen_array *out);
char *png_recipe(const char *data, size_t bytes); /* text of its iTXt; malloc'ed, or NULL */

/* --- write.c: pictures out -------------------------------------------------------------------- */
int picture_format(const char *path); /* PICTURE_* by extension; PICTURE_NONE: cannot be written */
int picture_write(const char *path, const qwen_array *picture, const char *recipe);
/* The file name of picture `number` (from 1); several: numbers are added if the pattern has none.
 * malloc'ed, or NULL. */
char *picture_name(const char *pattern, int64_t number, int several);

/* --- edges.c, paste.c ------------------------------------------------------------------------- */
int canny(qwen_array *picture); /* in place: edges white on black */
/* Copies r->kept to the picture where r->mask is 0, unless s->no_paste.  The library has resized
 * both, and extended them by --extend (lib/pipeline/pictures.c). */
void paste_kept(const settings *s, const qwen_result *r, qwen_array *picture);

/* --- preview.c -------------------------------------------------------------------------------- */
typedef struct preview preview;
/* Opens a second handle as `handle` says; beside: the picture's own file name.  preview_close after
 * failure too. */
int preview_open(preview **out, const settings *s, const qwen_options *handle, const char *beside);
/* To be called with every tensor of the run; writes the preview when a velocity comes. */
void preview_tensor(preview *p, const char *name, const qwen_array *a);
void preview_close(preview *p); /* removes the file */
#endif
