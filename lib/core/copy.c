/* copy.c - numbers on the host to tensors on a device and back. */
#include "core/run_inside.h"
#include <stdlib.h>
#include <string.h>

qw_runs qw_runs_of(const qw_tensor *t)
{
    qw_runs s = { 1, t->rank > 0 ? t->dim[t->rank - 1] : 1, t->rank - 1 };
    while (s.outer > 0 && t->stride[s.outer - 1] == s.n) s.n *= t->dim[--s.outer];
    for (int i = 0; i < s.outer; i++) s.count *= t->dim[i];
    return s;
}

/* Address of run i. */
unsigned char *qw_run_at(const qw_tensor *t, const qw_runs *s, int64_t i)
{
    int64_t e = 0;
    for (int d = s->outer - 1; d >= 0; d--) {
        e += i % t->dim[d] * t->stride[d];
        i /= t->dim[d];
    }
    return (unsigned char *)t->data + qw_row_bytes(t->dtype, e);
}

/* Numbers that are converted at a time: put copies what it is given before it returns. */
enum { PIECE = 1 << 18 };

void qw_put(qw_run *r, qw_tensor dst, const double *src)
{
    if (r->error.status || qw_is_plan(r->dev) || qw_run_spoils(r)) return;
    if (!qw_stores_numbers(dst.dtype)) {
        qw_run_fail(r, QWEN_EARG, "numbers cannot be put into a tensor of type %s",
                    qw_dtype_name(dst.dtype));
        return;
    }
    const qw_runs s = qw_runs_of(&dst);
    const int64_t piece = s.n < PIECE ? s.n : PIECE;
    void *room = malloc(piece ? qw_row_bytes(dst.dtype, piece) : 1);
    if (!room) {
        qw_run_fail(r, QWEN_ENOMEM, "no memory for %lld numbers", (long long)piece);
        return;
    }
    int status = QWEN_OK;
    for (int64_t i = 0; i < s.count && !status; i++)
        for (int64_t j = 0; j < s.n && !status; j += piece) {
            const int64_t n = s.n - j < piece ? s.n - j : piece;
            qw_numbers_put(dst.dtype, src + i * s.n + j, n, room);
            status = r->dev->put(r->dev, QW_COMPUTE,
                                 qw_run_at(&dst, &s, i) + qw_row_bytes(dst.dtype, j), room,
                                 qw_row_bytes(dst.dtype, n));
        }
    free(room);
    if (status) qw_run_device_failed(r, status, "taking data");
}

void qw_get(qw_run *r, qw_tensor src, double *dst)
{
    const qw_runs s = qw_runs_of(&src);
    if (r->error.status || qw_is_plan(r->dev) || qw_run_spoils(r)) {
        memset(dst, 0, (size_t)(s.count * s.n) * sizeof *dst);
        return;
    }
    const int64_t piece = s.n < PIECE ? s.n : PIECE;
    void *room = malloc(piece ? qw_row_bytes(src.dtype, piece) : 1);
    int status = room ? QWEN_OK : QWEN_ENOMEM;
    for (int64_t i = 0; i < s.count && !status; i++)
        for (int64_t j = 0; j < s.n && !status; j += piece) {
            const int64_t n = s.n - j < piece ? s.n - j : piece;
            status = r->dev->get(r->dev, QW_COMPUTE, room,
                                 qw_run_at(&src, &s, i) + qw_row_bytes(src.dtype, j),
                                 qw_row_bytes(src.dtype, n));
            if (!status) qw_numbers_get(src.dtype, room, n, dst + i * s.n + j);
        }
    free(room);
    if (!status) return;
    memset(dst, 0, (size_t)(s.count * s.n) * sizeof *dst);
    qw_run_device_failed(r, status, "giving data back");
}
