/* vae_stage.c - the VAE on a device: whole, or in bands of rows where the maps do not fit.
 *
 * A band is computed with the rows around it on which its own depend, so that the result is that of
 * the whole picture, to the device's rounding (on the reference devices: bit by bit).  The rows
 * around bands are computed twice. */
#include "pipeline/stage.h"

/* Bytes that the maps may take beside the weights: those of the VAE, and on a device of its own
 * memory those of every net on it.  0: there is no known bound. */
static uint64_t room(const qw_job *j)
{
    const qw_devices *d = j->devices;
    const qw_device *dev = d->vae;
    const uint64_t bound = j->q->opt.memory ? j->q->opt.memory : dev->memory - dev->memory / 4;
    uint64_t weights = 0;
    for (int n = 0; n < QW_NETS; n++) {
        const qw_device *where = n == QW_VAE                      ? d->vae
                                 : n == QW_TEXT || n == QW_VISION ? d->text
                                                                  : d->main;
        if (where == dev && (n == QW_VAE || !dev->host))
            weights += qw_residency_bytes(j->nets->weights[n], 0);
    }
    return !bound ? 0 : bound > weights ? bound - weights : 1;
}

/* Rows of the latent to a band, or 0 for the whole picture.  A band has LEAST rows at least,
 * even if its maps do not fit: smaller bands would mostly compute the rows around them. */
static int64_t choose(const qw_job *j, const qw_vae *net, int encoder, int64_t h, int64_t w)
{
    enum { LEAST = 8 };
    const uint64_t most = room(j), size = qw_row_bytes(j->devices->vae->prefer, 1);
    if (!most || (uint64_t)qw_vae_scratch(net, encoder, h, w, 0) * size <= most) return 0;
    int64_t good = LEAST, bad = h;
    while (bad - good > 1) {
        const int64_t rows = good + (bad - good) / 2;
        if ((uint64_t)qw_vae_scratch(net, encoder, h, w, rows) * size <= most) good = rows;
        else bad = rows;
    }
    if (good >= h) return 0;
    const int64_t bands = (h + good - 1) / good; /* of about one size */
    return (h + bands - 1) / bands;
}

/* Chooses the rows of a band and records the number of bands in the job; logs a notice for the
 * largest picture so far. */
static int64_t choose_bands(qw_stage *s, const qw_vae *net, int encoder, int64_t h, int64_t w)
{
    qw_job *j = s->job;
    double *told = &j->q->told.maps[encoder];
    const int64_t rows = s->run.error.status ? 0 : choose(j, net, encoder, h, w);
    const int bands = rows ? (int)((h + rows - 1) / rows) : 0;
    const double whole = (double)qw_vae_scratch(net, encoder, h, w, 0)
                         * (double)qw_row_bytes(s->run.dev->prefer, 1);
    s->blocks = bands;
    if (bands > j->bands[encoder]) j->bands[encoder] = bands;
    if (rows && whole > *told && !j->tally) {
        qw_note(j, 0, "the VAE %s in %d bands of %lld rows: the whole needs %.4g %s of maps",
                encoder ? "encodes" : "decodes", bands, (long long)(8 * rows),
                whole < 1e9 ? whole / 1e6 : whole / 1e9, whole < 1e9 ? "MB" : "GB");
        *told = whole;
    }
    return rows;
}

void qw_decode_body(qw_run *r, void *arg)
{
    const qw_decode_work *w = arg;
    qw_vae_decode(r, w->net, w->latent, w->h, w->w, w->rows, w->picture);
}

void qw_encode_body(qw_run *r, void *arg)
{
    const qw_encode_work *w = arg;
    qw_vae_encode(r, w->net, w->picture, w->h, w->w, w->rows, w->mean, w->logvar);
}

int qw_stage_decode(qw_stage *s, qw_decode_work *w)
{
    const int64_t up = 8 * qw_vae_enlarges(w->net);
    w->rows = choose_bands(s, w->net, 0, w->h, w->w);
    qw_stage_reserve(s, qw_decode_body, w);
    return qw_stage_run(s, qw_decode_body, w, w->picture,
                        w->h * w->w * up * up * qw_vae_config_of(w->net)->channels);
}

int qw_stage_encode(qw_stage *s, qw_encode_work *w)
{
    w->rows = choose_bands(s, w->net, 1, w->h / 8, w->w / 8);
    qw_stage_reserve(s, qw_encode_body, w);
    return qw_stage_run(s, qw_encode_body, w, w->mean,
                        qw_vae_config_of(w->net)->z * (w->h / 8) * (w->w / 8));
}
