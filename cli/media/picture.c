/* picture.c - pictures in: JPEG, WebP, PNG through png.c; turned upright by their EXIF data. */
#include "media/decode.h"
#include <errno.h>
#include <jpeglib.h>
#include <jerror.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <webp/decode.h>
#include <webp/demux.h>

enum { MOST_BYTES = 1 << 30, MOST_PIXELS = 1 << 28 };

int picture_kind(const char *data, size_t bytes)
{
    if (bytes >= 8 && !memcmp(data, "\x89PNG\r\n\x1a\n", 8)) return PICTURE_PNG;
    if (bytes >= 3 && !memcmp(data, "\xff\xd8\xff", 3)) return PICTURE_JPEG;
    if (bytes >= 12 && !memcmp(data, "RIFF", 4) && !memcmp(data + 8, "WEBP", 4))
        return PICTURE_WEBP;
    return PICTURE_NONE;
}

/* Turns the pixels [h][w][c] from `orientation` to 1; 5 to 8 exchange width and height. */
static int turn(qwen_array *a, int orientation)
{
    const int64_t h = a->dim[0], w = a->dim[1], c = a->dim[2];
    const int64_t H = orientation > 4 ? w : h, W = orientation > 4 ? h : w;
    if (orientation == 1) return CODE_DONE;
    uint8_t *out = malloc((size_t)(h * w * c));
    if (!out) return no_memory();
    for (int64_t y = 0; y < H; y++)
        for (int64_t x = 0; x < W; x++) {
            int64_t sy = orientation > 4 ? x : y, sx = orientation > 4 ? y : x;
            if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8)
                sx = w - 1 - sx;
            if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7)
                sy = h - 1 - sy;
            memcpy(out + (y * W + x) * c, (const uint8_t *)a->data + (sy * w + sx) * c, (size_t)c);
        }
    free(a->data);
    a->data = out;
    a->dim[0] = H;
    a->dim[1] = W;
    return CODE_DONE;
}

/* --- JPEG ------------------------------------------------------------------------------------- */

typedef struct jpeg_reader {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    jmp_buf back;
    char message[JMSG_LENGTH_MAX];
    unsigned char *row;
} jpeg_reader;

static void jpeg_fail(j_common_ptr c)
{
    jpeg_reader *r = c->client_data;
    c->err->format_message(c, r->message);
    longjmp(r->back, 1);
}

/* A truncated file is an error; other warnings are not. */
static void jpeg_warn(j_common_ptr c, int level)
{
    if (level < 0 && (c->err->msg_code == JWRN_JPEG_EOF || c->err->msg_code == JWRN_HIT_MARKER))
        jpeg_fail(c);
}

/* Inks of CMYK to RGB as Pillow does: inverted, with Adobe's marker or without. */
static void from_cmyk(const unsigned char *in, uint8_t *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++, in += 4)
        for (int k = 0; k < 3; k++) {
            const int ink = 255 - in[k], light = in[3];
            const int t = ink * light + 128, x = light - (((t >> 8) + t) >> 8);
            *out++ = (uint8_t)(x < 0 ? 0 : x);
        }
}

static void jpeg_rows(jpeg_reader *r, qwen_array *out)
{
    struct jpeg_decompress_struct *j = &r->jpeg;
    const int cmyk = j->jpeg_color_space == JCS_CMYK || j->jpeg_color_space == JCS_YCCK;
    j->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(j);
    const int64_t w = j->output_width, h = j->output_height;
    *out = (qwen_array){ .dtype = QWEN_U8, .rank = 3, .dim = { h, w, 3 } };
    out->data = calloc((size_t)(w * h), 3);
    r->row = malloc((size_t)w * 4);
    if (!out->data || !r->row) ERREXIT1(j, JERR_OUT_OF_MEMORY, 0);
    while (j->output_scanline < j->output_height) {
        uint8_t *to = (uint8_t *)out->data + (int64_t)j->output_scanline * w * 3;
        JSAMPROW row = cmyk ? r->row : to;
        jpeg_read_scanlines(j, &row, 1);
        if (cmyk) from_cmyk(r->row, to, w);
    }
    jpeg_finish_decompress(j);
}

static int jpeg_body(jpeg_reader *r, const char *data, size_t bytes, qwen_array *out,
                     int *orientation)
{
    struct jpeg_decompress_struct *j = &r->jpeg;
    if (setjmp(r->back)) return -1;
    jpeg_create_decompress(j);
    j->client_data = r;
    jpeg_save_markers(j, JPEG_APP0 + 1, 0xffff);
    jpeg_mem_src(j, (const unsigned char *)data, (unsigned long)bytes);
    jpeg_read_header(j, TRUE);
    for (jpeg_saved_marker_ptr m = j->marker_list; m; m = m->next)
        if (m->data_length > 6 && !memcmp(m->data, "Exif\0", 6))
            *orientation = picture_orientation(m->data, m->data_length);
    jpeg_rows(r, out);
    return 0;
}

static int jpeg_decode(const char *path, const char *data, size_t bytes, qwen_array *out,
                       int *orientation)
{
    jpeg_reader r;
    memset(&r, 0, sizeof r);
    r.jpeg.err = jpeg_std_error(&r.errors);
    r.jpeg.client_data = &r;
    r.errors.error_exit = jpeg_fail;
    r.errors.emit_message = jpeg_warn;
    const int failed = jpeg_body(&r, data, bytes, out, orientation);
    jpeg_destroy_decompress(&r.jpeg);
    free(r.row);
    if (!failed) return CODE_DONE;
    qwen_array_free(out);
    return r.errors.msg_code == JERR_OUT_OF_MEMORY
               ? no_memory()
               : complain(CODE_MALFORMED, "%s: broken JPEG: %s", path, r.message);
}

/* --- WebP ------------------------------------------------------------------------------------- */

static int webp_broken(const char *path)
{
    return complain(CODE_MALFORMED,
                    "%s: broken WebP: expected a whole picture, found a damaged or truncated one",
                    path);
}

static void webp_orientation(const WebPData *file, int *orientation)
{
    WebPDemuxer *d = WebPDemux(file);
    WebPChunkIterator chunk;
    if (d && WebPDemuxGetChunk(d, "EXIF", 1, &chunk)) {
        *orientation = picture_orientation(chunk.chunk.bytes, chunk.chunk.size);
        WebPDemuxReleaseChunkIterator(&chunk);
    }
    WebPDemuxDelete(d);
}

/* Decodes the first frame of an animation on its canvas. */
static int webp_first(const char *path, const WebPData *file, qwen_array *out)
{
    WebPAnimDecoder *d = WebPAnimDecoderNew(file, NULL);
    uint8_t *frame = NULL;
    int time = 0, code = CODE_DONE;
    if (d && WebPAnimDecoderGetNext(d, &frame, &time) && frame) {
        const size_t n = (size_t)out->dim[0] * (size_t)out->dim[1] * 4;
        out->dim[2] = 4;
        out->data = malloc(n);
        if (out->data) memcpy(out->data, frame, n);
        else code = no_memory();
    } else {
        code = webp_broken(path);
    }
    WebPAnimDecoderDelete(d);
    return code;
}

static int webp_decode(const char *path, const char *data, size_t bytes, qwen_array *out,
                       int *orientation, int *animated)
{
    const WebPData file = { (const uint8_t *)data, bytes };
    WebPBitstreamFeatures f;
    if (WebPGetFeatures(file.bytes, bytes, &f) != VP8_STATUS_OK) return webp_broken(path);
    webp_orientation(&file, orientation);
    *out = (qwen_array){ .dtype = QWEN_U8,
                         .rank = 3,
                         .dim = { f.height, f.width, f.has_alpha ? 4 : 3 } };
    if (f.has_animation) {
        *animated = 1;
        return webp_first(path, &file, out);
    }
    const size_t stride = (size_t)f.width * (size_t)out->dim[2], n = stride * (size_t)f.height;
    out->data = malloc(n);
    if (!out->data) return no_memory();
    const uint8_t *done = f.has_alpha
                              ? WebPDecodeRGBAInto(file.bytes, bytes, out->data, n, (int)stride)
                              : WebPDecodeRGBInto(file.bytes, bytes, out->data, n, (int)stride);
    if (done) return CODE_DONE;
    qwen_array_free(out);
    return webp_broken(path);
}

/* --- any -------------------------------------------------------------------------------------- */

/* Complains of a file that is no PNG, JPEG or WebP, by the name of its format if it is known. */
static int not_a_picture(const char *path, const char *data, size_t bytes)
{
    static const struct {
        const char *magic;
        size_t at, n;
        const char *name;
    } known[] = {
        { "GIF8", 0, 4, "GIF" },
        { "BM", 0, 2, "BMP" },
        { "II*", 0, 4, "TIFF" },
        { "MM\0*", 0, 4, "TIFF" },
        { "ftypavif", 4, 8, "AVIF" },
        { "ftypheic", 4, 8, "HEIC" },
        { "ftypmif1", 4, 8, "HEIC" },
        { "\xff\x0a", 0, 2, "JPEG XL" },
        { "\0\0\0\x0cJXL ", 0, 8, "JPEG XL" },
    };
    if (!bytes)
        return complain(CODE_MALFORMED,
                        "%s: expected a PNG, JPEG or WebP picture, found an empty file", path);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (bytes >= known[i].at + known[i].n
            && !memcmp(data + known[i].at, known[i].magic, known[i].n))
            return complain(CODE_UNSUPPORTED, "%s: expected a PNG, JPEG or WebP picture, found %s",
                            path, known[i].name);
    return complain(CODE_MALFORMED,
                    "%s: expected a PNG, JPEG or WebP picture, found something else", path);
}

/* Checks the size that a file's header claims, before memory is allocated; a JPEG without a frame
 * header passes here and fails in the decoder. */
static int check_claim(const char *path, int kind, const char *data, size_t bytes)
{
    int w = 0, h = 0;
    if (kind == PICTURE_WEBP && !WebPGetInfo((const uint8_t *)data, bytes, &w, &h))
        return webp_broken(path);
    if (kind == PICTURE_JPEG) /* the first frame header: marker, length, precision, height, width */
        for (size_t i = 2; i + 9 <= bytes && (unsigned char)data[i] == 0xff;) {
            const unsigned char *p = (const unsigned char *)data + i;
            if (p[1] >= 0xc0 && p[1] <= 0xcf && p[1] != 0xc4 && p[1] != 0xc8 && p[1] != 0xcc) {
                h = p[5] << 8 | p[6];
                w = p[7] << 8 | p[8];
                break;
            }
            i += p[1] == 0xff ? 1 : 2 + (size_t)(p[2] << 8 | p[3]);
        }
    if (kind == PICTURE_PNG && bytes >= 24) { /* IHDR is the first chunk */
        const unsigned char *p = (const unsigned char *)data + 16;
        w = p[0] & 0x80 ? 0 : p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
        h = p[4] & 0x80 ? 0 : p[4] << 24 | p[5] << 16 | p[6] << 8 | p[7];
    }
    if ((int64_t)w * h > MOST_PIXELS)
        return complain(CODE_MALFORMED, "%s: expected at most %d pixels, found %dx%d", path,
                        MOST_PIXELS, w, h);
    return CODE_DONE;
}

int picture_decode(const settings *s, const char *path, const char *data, size_t bytes,
                   qwen_array *out)
{
    int orientation = 1, animated = 0, code;
    const int kind = picture_kind(data, bytes);
    memset(out, 0, sizeof *out);
    if (kind == PICTURE_NONE) return not_a_picture(path, data, bytes);
    code = check_claim(path, kind, data, bytes);
    if (!code && kind == PICTURE_PNG)
        code = png_decode(path, data, bytes, out, &orientation, &animated);
    else if (!code && kind == PICTURE_JPEG)
        code = jpeg_decode(path, data, bytes, out, &orientation);
    else if (!code) code = webp_decode(path, data, bytes, out, &orientation, &animated);
    if (!code && animated) notice(s, "%s is an animation: its first frame is used", path);
    if (!code) code = turn(out, orientation);
    if (code) qwen_array_free(out);
    return code;
}

int picture_read(const settings *s, const char *path, qwen_array *out)
{
    char *data;
    size_t bytes;
    memset(out, 0, sizeof *out);
    int code = read_file(path, MOST_BYTES, &data, &bytes);
    if (!code) code = picture_decode(s, path, data, bytes, out);
    free(data);
    return code;
}
