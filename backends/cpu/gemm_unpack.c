/* gemm_unpack.c - rows of a weight, as they lie in the file, to rows of floats or of bf16. */
#include "gemm.h"

int QW_NAME(unpacks)(const qw_tensor *w)
{
    switch (w->dtype) {
    case QW_F32:
    case QW_F16:
    case QW_BF16:
    case QW_F8E4M3:
    case QW_F8E5M2:
    case QW_I8:
    case QW_Q8_0:
    case QW_Q4_0:
    case QW_Q4_1:
    case QW_Q5_0:
    case QW_Q5_1:
    case QW_Q2_K:
    case QW_Q3_K:
    case QW_Q4_K:
    case QW_Q5_K:
    case QW_Q6_K: return !w->layout && !w->block_scale;
    default: return 0;
    }
}

static const char *row_at(const qw_tensor *w, int64_t j)
{
    return (const char *)w->data + (size_t)j * qw_row_bytes(w->dtype, w->stride[0]);
}

static void row_f32(qw_dtype t, const char *row, int64_t l, int64_t count, float *out)
{
    if (!cpu_float(t) || t == QW_F32) {
        qw_decode_f32(t, row + qw_row_bytes(t, l), count, out);
        return;
    }
    for (int64_t i = 0; i < count; i += VL) {
        const vm m = v_first(count - i);
        v_store_n(out + i, m, v_get(t, row, l + i, m));
    }
}

void QW_NAME(unpack_f32)(const qw_tensor *w, int64_t j, int64_t rows, int64_t l, int64_t count,
                         float *out, int64_t ld)
{
    for (int64_t i = 0; i < rows; i++) row_f32(w->dtype, row_at(w, j + i), l, count, out + i * ld);
}

void QW_NAME(unpack_bf16)(const qw_tensor *w, int64_t j, int64_t rows, int64_t l, int64_t count,
                          uint16_t *out, int64_t ld)
{
    enum { CHUNK = 256 };
    for (int64_t i = 0; i < rows; i++) {
        const char *row = row_at(w, j + i);
        uint16_t *to = out + i * ld;
        if (count % 2) to[count] = 0;
        if (w->dtype == QW_BF16) {
            memcpy(to, row + qw_row_bytes(QW_BF16, l), (size_t)count * sizeof *to);
            continue;
        }
        for (int64_t c = 0; c < count; c += CHUNK) {
            float f[CHUNK];
            const int64_t n = count - c < CHUNK ? count - c : CHUNK;
            row_f32(w->dtype, row, l + c, n, f);
            for (int64_t e = 0; e < n; e += VL) {
                const vm m = v_first(n - e);
                v_store_bf16_n(to + c + e, m, v_load_n(f + e, m));
            }
        }
    }
}

float QW_NAME(row_scale)(const qw_tensor *w, int64_t j)
{
    float s = 1; /* like the data it need not be aligned */
    if (w->scale)
        memcpy(&s, (const char *)w->scale + (size_t)(j * w->scale_stride) * sizeof s, sizeof s);
    return s;
}
