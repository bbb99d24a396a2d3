/* pictures.c - prepares the pictures of a request: extension, copies for the vision tower and for
 * the VAE, masks, control pictures.
 *
 * An edit uses every input picture twice: a view, resized to one area for the vision tower, and a
 * picture for the VAE, resized to another.  comfy.c prepares both with like "comfyui". */
#include "pipeline/job.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int new_image(qwen *q, qw_image *out, int64_t w, int64_t h, int channels)
{
    *out = (qw_image){
        .data = malloc((size_t)(w * h * channels)), .w = w, .h = h, .channels = channels
    };
    return out->data ? QWEN_OK
                     : qw_fail(&q->error, QWEN_ENOMEM, "no memory for a picture of %lldx%lld",
                               (long long)w, (long long)h);
}

/* Copies a picture with `channels` channels: alpha dropped, or added opaque. */
static int take_picture(qwen *q, qw_image *out, const qwen_array *a, int channels)
{
    const int64_t h = a->dim[0], w = a->dim[1], have = a->dim[2];
    const uint8_t *src = a->data;
    if (new_image(q, out, w, h, channels)) return q->error.status;
    for (int64_t i = 0; i < w * h; i++)
        for (int64_t c = 0; c < channels; c++)
            out->data[i * channels + c] = c < have ? src[i * have + c] : 255;
    return QWEN_OK;
}

/* Pillow's L of a mask: (19595 R + 38470 G + 7471 B + 32768) >> 16. */
static int take_mask(qwen *q, qw_image *out, const qwen_array *a)
{
    const int64_t h = a->dim[0], w = a->dim[1], have = a->rank == 2 ? 1 : a->dim[2];
    const uint8_t *src = a->data;
    if (new_image(q, out, w, h, 1)) return q->error.status;
    for (int64_t i = 0; i < w * h; i++) {
        const uint8_t *p = src + i * have;
        out->data[i] =
            have == 1 ? *p : (uint8_t)((19595 * p[0] + 38470 * p[1] + 7471 * p[2] + 32768) >> 16);
    }
    return QWEN_OK;
}

/* *image becomes w x h. */
static int resize_picture(qwen *q, qw_image *image, int64_t w, int64_t h, qw_filter filter)
{
    qw_image out;
    if (image->w == w && image->h == h) return QWEN_OK;
    if (new_image(q, &out, w, h, image->channels)) return q->error.status;
    if (qw_resize(image->data, image->w, image->h, image->channels, filter, w, h, out.data,
                  &q->error)) {
        free(out.data);
        return q->error.status;
    }
    free(image->data);
    *image = out;
    return QWEN_OK;
}

/* The size of about `area` pixels with the picture's aspect, in multiples of 32. */
void qw_fit_area(const qwen_array *a, int64_t area, int64_t *w, int64_t *h)
{
    qw_calculate_dimensions((double)area, (double)a->dim[1] / (double)a->dim[0], w, h);
}

int qw_extends(const qwen_request *r)
{
    return r->extend[0] || r->extend[1] || r->extend[2] || r->extend[3];
}

int64_t qw_reference_area(const qw_job *j)
{
    const qwen_request *r = j->req;
    if (r->reference_area) return r->reference_area;
    if (j->variant == QW_EDIT && r->condition_area)
        return r->condition_area; /* the first Edit has one area for both */
    if (j->q->defaults.reference_area) return j->q->defaults.reference_area;
    return j->variant == QW_LAYERED ? 640 * 640 : 1024 * 1024;
}

static int64_t condition_area(const qw_job *j)
{
    if (j->variant == QW_EDIT) return qw_reference_area(j);
    if (j->req->condition_area) return j->req->condition_area;
    return j->q->defaults.condition_area ? j->q->defaults.condition_area : 384 * 384;
}

/* --- pictures of the tasks -------------------------------------------------------------------- */

/* FNV-1a; part of the key of an embedding. */
static uint64_t hash_bytes(uint64_t h, const void *data, size_t n)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

/* Adds a picture for the vision tower: Lanczos to the area, then bicubic to whole merged
 * patches. */
static int add_view(qw_job *j, const qwen_array *a)
{
    qwen *q = j->q;
    const qw_vision_config *c = &q->config.vision;
    qw_image *v = &j->view[j->views];
    int64_t w, h, *area = j->view_area[j->views];
    if (q->comfy && j->task == QW_EDITING) {
        j->views++;
        if (qw_comfy_view(j, a, condition_area(j), v, area)) return q->error.status;
        w = v->w;
        h = v->h;
    } else {
        qw_fit_area(a, condition_area(j), &area[0], &area[1]);
        if (take_picture(q, v, a, 3)) return q->error.status;
        j->views++;
        if (resize_picture(q, v, area[0], area[1], QW_LANCZOS)
            || qw_smart_resize(area[0], area[1], c->patch * c->merge, c->min_pixels, c->max_pixels,
                               &w, &h, &q->error)
            || resize_picture(q, v, w, h, QW_BICUBIC))
            return q->error.status;
    }
    qw_grid *g = &j->view_grid[j->views - 1];
    *g = (qw_grid){ 1, (int32_t)(h / c->patch), (int32_t)(w / c->patch) };
    j->view_tokens[j->views - 1] = (int64_t)g->rows * g->cols / (c->merge * c->merge);
    j->feature_rows += j->view_tokens[j->views - 1];
    j->view_hash = hash_bytes(j->view_hash, g, sizeof *g);
    j->view_hash = v->data ? hash_bytes(j->view_hash, v->data, (size_t)(w * h * 3))
                           : hash_bytes(j->view_hash, v->value, (size_t)(w * h * 3) * 8);
    return QWEN_OK;
}

static int add_reference(qw_job *j, const qwen_array *a, int64_t w, int64_t h, int channels,
                         int sampled)
{
    qw_reference *f = &j->reference[j->references];
    if (take_picture(j->q, &f->image, a, channels)) return j->q->error.status;
    j->references++;
    f->sampled = sampled;
    return resize_picture(j->q, &f->image, w, h, QW_LANCZOS);
}

int qw_extend_picture(qw_job *j, const qwen_array *a, const int extend[4], qwen_array *out)
{
    qwen *q = j->q;
    const int64_t w = a->dim[1] + extend[0] + extend[1], h = a->dim[0] + extend[2] + extend[3],
                  n = a->dim[2];
    if (w % 16 || h % 16)
        return qw_fail(&q->error, QWEN_EARG,
                       "the extended picture (extend) is %lldx%lld, no multiple of 16: "
                       "%lldx%lld and %lldx%lld are",
                       (long long)w, (long long)h, (long long)(w / 16 * 16),
                       (long long)(h / 16 * 16), (long long)((w + 15) / 16 * 16),
                       (long long)((h + 15) / 16 * 16));
    if (w > 200 * h || h > 200 * w)
        return qw_fail(&q->error, QWEN_EARG,
                       "the extended picture (extend) is %lldx%lld, longer than 200 to 1",
                       (long long)w, (long long)h);
    if (new_image(q, &j->canvas, w, h, (int)n)) return q->error.status;
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            int64_t sy = y - extend[2], sx = x - extend[0];
            sy = sy < 0 ? 0 : sy >= a->dim[0] ? a->dim[0] - 1 : sy;
            sx = sx < 0 ? 0 : sx >= a->dim[1] ? a->dim[1] - 1 : sx;
            memcpy(j->canvas.data + (y * w + x) * n,
                   (const uint8_t *)a->data + (sy * a->dim[1] + sx) * n, (size_t)n);
        }
    *out = *a;
    out->data = j->canvas.data;
    out->dim[0] = h;
    out->dim[1] = w;
    return QWEN_OK;
}

/* Resizes the mask to the picture's size before extension (without a mask: black), then adds the
 * new room around it in white. */
static int extend_mask(qw_job *j, qw_image *m, const int extend[4], const qwen_array *a)
{
    qwen *q = j->q;
    qw_image out;
    if (m->data && resize_picture(q, m, a->dim[1], a->dim[0], QW_LANCZOS)) return q->error.status;
    const int64_t w = a->dim[1] + extend[0] + extend[1], h = a->dim[0] + extend[2] + extend[3];
    if (new_image(q, &out, w, h, 1)) return q->error.status;
    memset(out.data, 255, (size_t)(w * h));
    for (int64_t y = 0; y < a->dim[0]; y++) {
        uint8_t *row = out.data + (y + extend[2]) * w + extend[0];
        if (m->data) memcpy(row, m->data + y * m->w, (size_t)m->w);
        else memset(row, 0, (size_t)a->dim[1]);
    }
    free(m->data);
    *m = out;
    return QWEN_OK;
}

/* Sets j->mask [height][width]: 1 where the resized mask is 128 or more. */
static int make_mask(qw_job *j, const qwen_array *original)
{
    qwen *q = j->q;
    const qwen_request *r = j->req;
    qw_image m = { 0 };
    if ((r->mask && take_mask(q, &m, r->mask))
        || (qw_extends(r) && extend_mask(j, &m, r->extend, original))
        || resize_picture(q, &m, j->width, j->height, QW_LANCZOS)) {
        free(m.data);
        return q->error.status;
    }
    for (int64_t i = 0; i < m.w * m.h; i++) m.data[i] = m.data[i] >= 128;
    j->mask = m.data;
    return QWEN_OK;
}

static int prepare_edit(qw_job *j, const qwen_array *input)
{
    qwen *q = j->q;
    int64_t w, h;
    if (qw_require_net(q, QW_VISION)) return q->error.status;
    for (int i = 0; i < j->req->inputs; i++) {
        qw_fit_area(&input[i], qw_reference_area(j), &w, &h);
        if (j->task == QW_EDIT_INPAINT) { /* its latent is also j->kept, at the result's size */
            w = j->width;
            h = j->height;
        }
        if (add_view(j, &input[i])) return q->error.status;
        if (q->comfy && j->task == QW_EDITING) {
            if (qw_comfy_reference(j, &input[i], qw_reference_area(j),
                                   &j->reference[j->references++].image))
                return q->error.status;
        } else if (add_reference(j, &input[i], w, h, 3, j->task == QW_EDIT_INPAINT)) {
            return q->error.status;
        }
    }
    j->sequence_references = j->references;
    return QWEN_OK;
}

/* Adds the input picture with mid-grey (0) where the mask repaints, for a Fun ControlNet. */
static int add_inpaint(qw_job *j)
{
    const qw_image *from = &j->reference[0].image;
    qw_reference *f = &j->reference[j->references];
    if (new_image(j->q, &f->image, from->w, from->h, from->channels)) return j->q->error.status;
    memcpy(f->image.data, from->data, (size_t)(from->w * from->h * from->channels));
    f->masked = 1;
    j->inpaint = j->references++;
    return QWEN_OK;
}

/* Adds the control picture, resized to the result without regard to its aspect.  For a ControlNet
 * that inpaints, pixels that the mask repaints are encoded as -1. */
static int prepare_control(qw_job *j)
{
    const qwen_request *r = j->req;
    qwen *q = j->q;
    const int given = r->control_strength > 0 || r->control_start > 0 || r->control_end > 0;
    j->control_strength = given ? r->control_strength : 1;
    j->control_start = r->control_start;
    j->control_end = r->control_end > 0 ? r->control_end : 1;
    if (!(fabs(j->control_strength) <= 1000) || !(j->control_start >= 0 && j->control_start <= 1)
        || !(j->control_end >= 0 && j->control_end <= 1))
        return qw_fail(&q->error, QWEN_EARG, "control: strength %g, from %g to %g",
                       r->control_strength, r->control_start, r->control_end);
    const int64_t features = q->files.control_features, plain = 4 * q->config.vae.z;
    const qw_control_kind kind = q->files.control_kind;
    if (features != plain && features != plain + 4 && features != 2 * plain + 4)
        return qw_fail(&q->error, QWEN_EUNSUPPORTED, "%s: a ControlNet that reads %lld features",
                       q->files.net[QW_CONTROL].path, (long long)features);
    if (features == plain + 4 && (!r->mask || r->inputs))
        return qw_fail(&q->error, QWEN_EARG,
                       r->inputs
                           ? "this ControlNet inpaints the control picture: it takes no other "
                             "picture (input)"
                           : "this ControlNet inpaints: it takes a control picture and a mask");
    j->control = j->references;
    const int sampled = kind == QW_CONTROL_INSTANTX && !q->comfy;
    if (add_reference(j, r->control, j->width, j->height, (int)q->config.vae.channels, sampled))
        return q->error.status;
    if (features == 2 * plain + 4 && j->task == QW_INPAINT) return add_inpaint(j);
    if (features != plain + 4) return QWEN_OK;
    j->reference[j->control].holes = 1;
    return make_mask(j, NULL);
}

int qw_prepare_pictures(qw_job *j, const qwen_array *input, const qwen_array *original)
{
    qwen *q = j->q;
    const int channels = (int)q->config.vae.channels;
    switch (j->task) {
    case QW_EDITING:
    case QW_EDIT_INPAINT:
        if (prepare_edit(j, input)) return q->error.status;
        break;
    case QW_REDRAW:
    case QW_INPAINT:
        if (add_reference(j, input, j->width, j->height, channels, 1)) return q->error.status;
        break;
    case QW_LAYERS:
        if (add_reference(j, input, j->width, j->height, channels, 0)) return q->error.status;
        j->sequence_references = 1;
        break;
    default: break;
    }
    if ((j->task == QW_INPAINT || j->task == QW_EDIT_INPAINT) && make_mask(j, original))
        return q->error.status;
    return j->req->control ? prepare_control(j) : QWEN_OK;
}
