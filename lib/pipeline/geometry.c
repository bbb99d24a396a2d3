/* geometry.c - reports the sizes that a request's pictures get, to the log and to qwen_plan. */
#include "pipeline/job.h"

/* "130x70" */
static const char *size_text(char out[32], int64_t w, int64_t h)
{
    snprintf(out, 32, "%lldx%lld", (long long)w, (long long)h);
    return out;
}

static void report_picture(qw_job *j, const qwen_geometry *g)
{
    char given[32], area[32], seen[32], coded[32], views[120] = "", number[16] = "";
    if (j->tally && j->tally->geometry) j->tally->geometry(j->tally->user, g);
    if (j->req->inputs > 1 && g->role[0] == 'i') snprintf(number, sizeof number, " %d", g->index);
    if (g->seen_width)
        snprintf(views, sizeof views, "vision tower %s, then %s; ",
                 size_text(area, g->area_width, g->area_height),
                 size_text(seen, g->seen_width, g->seen_height));
    qw_note(j, 1, "%s%s %s: %s%s %s", g->role, number, size_text(given, g->width, g->height), views,
            g->role[0] == 'm' ? "used as" : "VAE",
            size_text(coded, g->coded_width, g->coded_height));
}

static qwen_geometry of(const char *role, int index, const qwen_array *a)
{
    return (qwen_geometry){ .size = sizeof(qwen_geometry),
                            .role = role,
                            .index = index,
                            .width = (int)a->dim[1],
                            .height = (int)a->dim[0] };
}

void qw_tell_geometry(qw_job *j)
{
    const qwen_request *r = j->req;
    char size[32];
    for (int i = 0; i < r->inputs; i++) {
        qwen_geometry g = of("input", i + 1, &r->input[i]);
        if (i < j->views) {
            g.area_width = (int)j->view_area[i][0];
            g.area_height = (int)j->view_area[i][1];
            g.seen_width = (int)j->view[i].w;
            g.seen_height = (int)j->view[i].h;
        }
        g.coded_width = (int)j->reference[i].image.w;
        g.coded_height = (int)j->reference[i].image.h;
        report_picture(j, &g);
    }
    if (r->mask) {
        qwen_geometry g = of("mask", 1, r->mask);
        g.coded_width = j->width;
        g.coded_height = j->height;
        report_picture(j, &g);
    }
    if (r->control && j->control >= 0) {
        qwen_geometry g = of("control", 1, r->control);
        g.coded_width = (int)j->reference[j->control].image.w;
        g.coded_height = (int)j->reference[j->control].image.h;
        report_picture(j, &g);
    }
    qw_note(j, 1, "output %s: latent %lldx%lld, %lld tokens", size_text(size, j->width, j->height),
            (long long)j->w, (long long)j->h, (long long)(j->frames * j->tokens));
}
