/* generate.c - the public functions of whole pictures: qwen_generate, qwen_plan. */
#include "api/api.h"
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

int qw_take_request(qwen *q, qwen_request *r, const qwen_request *req)
{
    qw_error *err = qw_model_error(q);
    if (!req) return qw_fail(err, QWEN_EARG, "no request");
    return qw_take_struct(err, r, sizeof *r, req, req->size, "qwen_request");
}

static void free_result(qwen_result *r)
{
    for (int i = 0; r->image && i < r->n; i++) qwen_array_free(&r->image[i]);
    free(r->image);
    qwen_array_free(&r->kept);
    qwen_array_free(&r->mask);
}

void qwen_result_free(qwen_result *r)
{
    if (!r) return;
    const size_t size = r->size;
    qwen_result mine = { 0 };
    memcpy(&mine, r, size < sizeof mine ? size : sizeof mine);
    free_result(&mine);
    memset(r, 0, size < sizeof mine ? size : sizeof mine);
    if (size >= sizeof size) r->size = size;
}

int qwen_generate(qwen *q, const qwen_request *req, qwen_result *out)
{
    const int status = qw_usable(q);
    qwen_request r;
    qwen_result mine;
    if (status) return status;
    qw_error *err = qw_model_error(q);
    if (!out) return qw_fail(err, QWEN_EARG, "no qwen_result");
    const size_t size = out->size;
    if (qw_take_request(q, &r, req)
        || qw_take_struct(err, &mine, sizeof mine, out, size, "qwen_result"))
        return err->status;
    if (size < offsetof(qwen_result, seed))
        return qw_fail(err, QWEN_EARG, "qwen_result: size is %zu", size);
    memset(&mine, 0, sizeof mine);
    if (qw_generate(q, &r, &mine)) {
        free_result(&mine);
        memset(&mine, 0, sizeof mine);
    }
    if (size < offsetof(qwen_result, mask) + sizeof mine.mask) { /* *out lacks these fields */
        qwen_array_free(&mine.kept);
        qwen_array_free(&mine.mask);
    }
    qw_give_struct(out, size, &mine, sizeof mine);
    return err->status;
}

int qwen_plan(qwen *q, const qwen_request *req, qwen_plan_report *out)
{
    const int status = qw_usable(q);
    qwen_request r;
    qwen_plan_report mine, asked;
    if (status) return status;
    qw_error *err = qw_model_error(q);
    if (!out) return qw_fail(err, QWEN_EARG, "no qwen_plan_report");
    const size_t size = out->size;
    if (qw_take_request(q, &r, req)
        || qw_take_struct(err, &asked, sizeof asked, out, size, "qwen_plan_report"))
        return err->status;
    r.tap = NULL;
    r.progress = NULL;
    mine = (qwen_plan_report){ .ops = asked.ops, .user = asked.user, .geometry = asked.geometry };
    qw_plan(q, &r, &mine);
    qw_give_struct(out, size, &mine, sizeof mine);
    return err->status;
}
