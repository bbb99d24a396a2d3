/* api.h - helpers for the tests of the public API: requests that draw or fail. */
#ifndef QW_API_H
#define QW_API_H
#include <qwen/qwen.h>
#include "testing.h"
#include <string.h>

/* Paths of two models. */
static char tiny[500], edit[500];

static inline void find_models(void)
{
    snprintf(tiny, sizeof tiny, "%s", testdata("tiny"));
    snprintf(edit, sizeof edit, "%s", testdata("tiny-edit"));
}

static inline qwen_options options(const char *model)
{
    return (qwen_options){
        .size = sizeof(qwen_options), .model = model, .device = "ref", .threads = 1
    };
}

static inline qwen_request request(const char *prompt)
{
    return (qwen_request){ .size = sizeof(qwen_request),
                           .prompt = prompt,
                           .width = 32,
                           .height = 48,
                           .steps = 2,
                           .guidance = 1,
                           .seed = 7 };
}

static inline qwen *opened(const char *model)
{
    qwen *q;
    const qwen_options o = options(model);
    const int status = qwen_open(&q, &o);
    ck_assert_msg(!status, "%s: %s", model, qwen_error(q));
    return q;
}

static inline qwen_result drawn(qwen *q, const qwen_request *r)
{
    qwen_result res = { .size = sizeof res };
    const int status = qwen_generate(q, r, &res);
    ck_assert_msg(!status, "%s", qwen_error(q));
    ck_assert_int_eq(res.n, 1);
    return res;
}

static inline int same_picture(const qwen_array *a, const qwen_array *b)
{
    return a->dim[0] == b->dim[0] && a->dim[1] == b->dim[1] && a->dim[2] == b->dim[2]
           && !memcmp(a->data, b->data, (size_t)(a->dim[0] * a->dim[1] * a->dim[2]));
}

/* Asserts that the request fails with this status and that the sentence has this word. */
static inline void refused(qwen *q, const qwen_request *r, int status, const char *word)
{
    qwen_result res = { .size = sizeof res };
    const int got = qwen_generate(q, r, &res);
    ck_assert_msg(got == status, "%d, not %d: %s", got, status, qwen_error(q));
    ck_assert_msg(strstr(qwen_error(q), word) != NULL, "\"%s\" lacks \"%s\"", qwen_error(q), word);
    ck_assert_int_eq(res.n, 0);
    ck_assert_ptr_null(res.image);
}

/* An 8-bit picture whose neighbouring pixels differ. */
static inline qwen_array gradient(int64_t w, int64_t h, int64_t c)
{
    qwen_array a = { .dtype = QWEN_U8, .rank = 3, .dim = { h, w, c } };
    uint8_t *p = a.data = malloc((size_t)(w * h * c));
    ck_assert_ptr_nonnull(p);
    for (int64_t i = 0; i < w * h * c; i++) p[i] = (uint8_t)(i * 7 / 3);
    return a;
}

#endif
