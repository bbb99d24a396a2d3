/* write.c - pictures out: PNG with the recipe as text, JPEG, lossless WebP. */
#include "media/media.h"
#include <errno.h>
#include <jpeglib.h>
#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <webp/encode.h>

int picture_format(const char *path)
{
    const char *dot = strrchr(base_name(path), '.');
    if (!strcmp(path, "-") || !dot || dot == base_name(path) || !dot[1] || !strcasecmp(dot, ".png"))
        return PICTURE_PNG;
    if (!strcasecmp(dot, ".jpg") || !strcasecmp(dot, ".jpeg")) return PICTURE_JPEG;
    return !strcasecmp(dot, ".webp") ? PICTURE_WEBP : PICTURE_NONE;
}

/* The end of "%d" or "%0Nd" at s, with *width N; NULL if there is neither. */
static const char *number_field(const char *s, int *width)
{
    *width = 0;
    if (s[0] != '%') return NULL;
    if (s[1] == 'd') return s + 2;
    if (s[1] != '0' || s[2] < '1' || s[2] > '9') return NULL;
    for (s += 2; *s >= '0' && *s <= '9' && *width < 100; s++) *width = *width * 10 + (*s - '0');
    return *s == 'd' && *width < 100 ? s + 1 : NULL;
}

char *picture_name(const char *pattern, int64_t number, int several)
{
    char *name = format_text("%s", "");
    int fields = 0;
    for (const char *s = pattern; *s && name;) {
        int width;
        const char *after = number_field(s, &width);
        char *longer = after ? format_text("%s%0*lld", name, width, (long long)number)
                             : format_text("%s%c", name, *s);
        free(name);
        name = longer;
        fields += after != NULL;
        s = after ? after : s + 1;
    }
    if (!name || fields || !several || !strcmp(pattern, "-")) return name;
    const char *base = base_name(name), *dot = strrchr(base, '.');
    const int stem = dot && dot > base ? (int)(dot - name) : (int)strlen(name);
    char *numbered = format_text("%.*s-%lld%s", stem, name, (long long)number, name + stem);
    free(name);
    return numbered;
}

/* --- PNG -------------------------------------------------------------------------------------- */

static void write_bytes(png_structp png, png_bytep from, size_t n)
{
    output *o = png_get_io_ptr(png);
    errno = 0;
    if (fwrite(from, 1, n, o->file) != n) {
        o->failed = errno ? errno : EIO;
        png_error(png, "not written");
    }
}

static void flush_nothing(png_structp png) { (void)png; }

static void fail(png_structp png, png_const_charp message)
{
    output *o = png_get_error_ptr(png);
    (void)message;
    if (!o->failed) o->failed = ENOMEM; /* write_bytes sets all other failures */
    longjmp(png_jmpbuf(png), 1);
}

static void warn(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static void png_body(png_structp png, png_infop info, const qwen_array *a, png_textp text,
                     output *o)
{
    if (setjmp(png_jmpbuf(png))) return;
    const png_uint_32 h = (png_uint_32)a->dim[0], w = (png_uint_32)a->dim[1];
    png_set_write_fn(png, o, write_bytes, flush_nothing);
    png_set_user_limits(png, 1 << 20, 1 << 20);
    png_set_IHDR(png, info, w, h, 8, a->dim[2] == 4 ? PNG_COLOR_TYPE_RGB_ALPHA : PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (text->text) png_set_text(png, info, text, 1);
    png_write_info(png, info);
    for (png_uint_32 y = 0; y < h; y++)
        png_write_row(png, (png_const_bytep)a->data + (size_t)y * w * (size_t)a->dim[2]);
    png_write_end(png, info);
}

static void write_png(output *o, const qwen_array *a, const char *recipe)
{
    char keyword[] = "qwen-image", none[] = "";
    char *copy = recipe ? format_text("%s", recipe) : NULL;
    png_text text = { .compression = PNG_ITXT_COMPRESSION_NONE,
                      .key = keyword,
                      .text = copy,
                      .lang = none,
                      .lang_key = none,
                      .itxt_length = copy ? strlen(copy) : 0 };
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, o, fail, warn);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info || (recipe && !copy)) o->failed = ENOMEM;
    else png_body(png, info, a, &text, o);
    if (png) png_destroy_write_struct(&png, &info);
    free(copy);
}

/* --- JPEG and WebP ---------------------------------------------------------------------------- */

typedef struct jpeg_writer {
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    jmp_buf back;
    unsigned char *data;
    unsigned long bytes;
} jpeg_writer;

static void jpeg_fail(j_common_ptr c) { longjmp(((jpeg_writer *)c->client_data)->back, 1); }

static void jpeg_body(jpeg_writer *w, const qwen_array *a, output *o)
{
    struct jpeg_compress_struct *j = &w->jpeg;
    if (setjmp(w->back)) {
        o->failed = ENOMEM;
        return;
    }
    jpeg_create_compress(j);
    j->client_data = w;
    jpeg_mem_dest(j, &w->data, &w->bytes);
    j->image_height = (JDIMENSION)a->dim[0];
    j->image_width = (JDIMENSION)a->dim[1];
    j->input_components = 3;
    j->in_color_space = JCS_RGB;
    jpeg_set_defaults(j);
    jpeg_set_quality(j, 95, TRUE);
    j->comp_info[0].h_samp_factor = j->comp_info[0].v_samp_factor = 1; /* colours at full size */
    jpeg_start_compress(j, TRUE);
    while (j->next_scanline < j->image_height) {
        JSAMPROW row = (JSAMPROW)a->data + (size_t)j->next_scanline * (size_t)a->dim[1] * 3;
        jpeg_write_scanlines(j, &row, 1);
    }
    jpeg_finish_compress(j);
}

static void write_jpeg(output *o, const qwen_array *a)
{
    jpeg_writer w;
    memset(&w, 0, sizeof w);
    w.jpeg.err = jpeg_std_error(&w.errors);
    w.jpeg.client_data = &w;
    w.errors.error_exit = jpeg_fail;
    jpeg_body(&w, a, o);
    if (!o->failed && fwrite(w.data, 1, w.bytes, o->file) != w.bytes)
        o->failed = errno ? errno : EIO;
    jpeg_destroy_compress(&w.jpeg);
    free(w.data);
}

static void write_webp(output *o, const qwen_array *a)
{
    WebPConfig config;
    WebPPicture p;
    WebPMemoryWriter w;
    WebPMemoryWriterInit(&w);
    int good = WebPConfigInit(&config) && WebPPictureInit(&p);
    if (!good) {
        o->failed = EINVAL;
        return;
    }
    config.lossless = 1;
    config.exact = 1; /* colours under full transparency too */
    p.use_argb = 1;
    p.width = (int)a->dim[1];
    p.height = (int)a->dim[0];
    p.writer = WebPMemoryWrite;
    p.custom_ptr = &w;
    const int stride = (int)(a->dim[1] * a->dim[2]);
    good = a->dim[2] == 4 ? WebPPictureImportRGBA(&p, a->data, stride)
                          : WebPPictureImportRGB(&p, a->data, stride);
    good = good && WebPEncode(&config, &p);
    if (!good) o->failed = ENOMEM;
    else if (fwrite(w.mem, 1, w.size, o->file) != w.size) o->failed = errno ? errno : EIO;
    WebPPictureFree(&p);
    WebPMemoryWriterClear(&w);
}

int picture_write(const char *path, const qwen_array *a, const char *recipe)
{
    const int format = picture_format(path);
    const int64_t most = format == PICTURE_WEBP ? 16383 : format == PICTURE_JPEG ? 65500 : 1 << 20;
    output o;
    if (a->dim[0] > most || a->dim[1] > most)
        return complain(CODE_WRITE, "%s: %lldx%lld is more than such a file holds, %lld each way",
                        path, (long long)a->dim[1], (long long)a->dim[0], (long long)most);
    if (format == PICTURE_JPEG && a->dim[2] != 3)
        return complain(CODE_USAGE, "%s: JPEG holds no transparency; give a name in .png or .webp",
                        path);
    const int code = output_open(&o, path);
    if (code) return code;
    if (format == PICTURE_PNG) write_png(&o, a, recipe);
    else if (format == PICTURE_JPEG) write_jpeg(&o, a);
    else write_webp(&o, a);
    return output_close(&o, 1);
}
