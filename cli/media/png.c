/* png.c - PNG files in, through libpng.
 *
 * Any kind becomes 8-bit RGB, or RGBA where there is alpha; 16 bits are cut to the upper 8, as the
 * published pipelines do. */
#include "media/decode.h"
#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

typedef struct reader {
    const unsigned char *data;
    size_t bytes, at;
    char message[200];
    png_structp png;
    png_infop info;
    png_bytep *rows;
} reader;

static void read_bytes(png_structp png, png_bytep to, size_t n)
{
    reader *r = png_get_io_ptr(png);
    if (n > r->bytes - r->at) png_error(png, "the file ends too early");
    memcpy(to, r->data + r->at, n);
    r->at += n;
}

static void fail(png_structp png, png_const_charp message)
{
    reader *r = png_get_error_ptr(png);
    snprintf(r->message, sizeof r->message, "%s", message);
    longjmp(png_jmpbuf(png), 1);
}

static void warn(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static int open_reader(reader *r)
{
    r->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, r, fail, warn);
    r->info = r->png ? png_create_info_struct(r->png) : NULL;
    return r->info ? CODE_DONE : no_memory();
}

static void close_reader(reader *r)
{
    if (r->png) png_destroy_read_struct(&r->png, &r->info, NULL);
    free(r->rows);
}

static void read_header(reader *r, int *animated)
{
    static png_byte actl[] = "acTL";
    png_set_read_fn(r->png, r, read_bytes);
    png_set_user_limits(r->png, 1 << 20, 1 << 20);
    png_set_chunk_malloc_max(r->png, 64 << 20);
    png_set_keep_unknown_chunks(r->png, PNG_HANDLE_CHUNK_ALWAYS, actl, 1);
    png_read_info(r->png, r->info);
    png_unknown_chunkp unknown = NULL;
    const int n = png_get_unknown_chunks(r->png, r->info, &unknown);
    for (int i = 0; i < n; i++) *animated |= !memcmp(unknown[i].name, "acTL", 4);
}

static void set_transforms(reader *r)
{
    png_set_strip_16(r->png);
    png_set_expand(r->png); /* palette, small greys, tRNS */
    png_set_gray_to_rgb(r->png);
    png_set_interlace_handling(r->png);
    png_read_update_info(r->png, r->info);
}

static void find_orientation(reader *r, int *orientation)
{
#ifdef PNG_eXIf_SUPPORTED
    png_bytep exif = NULL;
    png_uint_32 n = 0;
    if (png_get_eXIf_1(r->png, r->info, &n, &exif) && exif)
        *orientation = picture_orientation(exif, n);
#else
    (void)r;
    (void)orientation;
#endif
}

/* All calls of libpng that may leave through longjmp; locals that must survive lie in *r and *out.
 * 0: decoded. */
static int decode(reader *r, qwen_array *out, int *orientation, int *animated)
{
    if (setjmp(png_jmpbuf(r->png))) return -1;
    read_header(r, animated);
    set_transforms(r);
    const png_uint_32 w = png_get_image_width(r->png, r->info),
                      h = png_get_image_height(r->png, r->info);
    const int channels = png_get_channels(r->png, r->info);
    if ((uint64_t)w * h > (uint64_t)1 << 28) png_error(r->png, "more than 268435456 pixels");
    if (channels != 3 && channels != 4) png_error(r->png, "neither 3 nor 4 channels");
    *out = (qwen_array){ .dtype = QWEN_U8, .rank = 3, .dim = { h, w, channels } };
    out->data = calloc((size_t)w * h, (size_t)channels);
    r->rows = malloc(h * sizeof *r->rows);
    if (!out->data || !r->rows) png_error(r->png, "no memory");
    for (png_uint_32 y = 0; y < h; y++)
        r->rows[y] = (png_bytep)out->data + (size_t)y * w * (size_t)channels;
    png_read_image(r->png, r->rows);
    png_read_end(r->png, r->info);
    find_orientation(r, orientation);
    return 0;
}

int png_decode(const char *path, const char *data, size_t bytes, qwen_array *out, int *orientation,
               int *animated)
{
    reader r = { .data = (const unsigned char *)data, .bytes = bytes };
    memset(out, 0, sizeof *out);
    int code = open_reader(&r);
    if (!code && decode(&r, out, orientation, animated)) {
        qwen_array_free(out);
        code = !strcmp(r.message, "no memory")
                   ? no_memory()
                   : complain(CODE_MALFORMED, "%s: broken PNG: %s", path, r.message);
    }
    close_reader(&r);
    return code;
}

static void find_recipe(reader *r, char **recipe)
{
    png_textp text = NULL;
    int n = 0, animated = 0;
    if (setjmp(png_jmpbuf(r->png))) return;
    read_header(r, &animated);
    png_get_text(r->png, r->info, &text, &n);
    for (int i = 0; i < n && !*recipe; i++)
        if (!strcmp(text[i].key, "qwen-image")) *recipe = format_text("%s", text[i].text);
}

char *png_recipe(const char *data, size_t bytes)
{
    reader r = { .data = (const unsigned char *)data, .bytes = bytes };
    char *recipe = NULL;
    if (!open_reader(&r)) find_recipe(&r, &recipe);
    close_reader(&r);
    return recipe;
}
