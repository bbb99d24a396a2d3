/* gemm_finish.c - the end of a row of y: bias, activation, gate, residual, in one pass over its
 * sums. */
#include "gemm.h"

/* act(z) */
INLINE vf activate(qw_act act, vf z)
{
    switch (act) {
    case QW_SILU: return v_mul(z, v_sigmoid(z));
    case QW_GELU_TANH: {
        const vf cubic = v_fma(v_mul(z, z), v_set(0.044715f), v_set(1));
        return v_mul(z, v_sigmoid(v_mul(v_mul(z, v_set(1.5957691216f)), cubic)));
    }
    case QW_GELU_ERF: { /* erfc by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7 */
        const vf x = v_mul(v_abs(z), v_set(0.70710678f));
        const vf t = v_div(v_set(1), v_fma(v_set(0.3275911f), x, v_set(1)));
        vf p = v_set(1.061405429f);
        p = v_fma(p, t, v_set(-1.453152027f));
        p = v_fma(p, t, v_set(1.421413741f));
        p = v_fma(p, t, v_set(-0.284496736f));
        p = v_fma(p, t, v_set(0.254829592f));
        const vf half = v_mul(v_mul(v_mul(p, t), v_exp(v_sub(v_set(0), v_mul(x, x)))), v_set(0.5f));
        /* Phi(|z|) = 1 - half; z Phi(z) = max(z, 0) - |z| half */
        return v_sub(v_max(z, v_set(0)), v_mul(v_abs(z), half));
    }
    default: return z;
    }
}

void QW_NAME(finish_row)(const qw_gemm_args *a, int64_t i, int64_t j, int64_t count,
                         const float *sums)
{
    char *y = (char *)a->y.data + (size_t)(i * a->y.stride[0]) * qw_block_bytes(a->y.dtype);
    const char *res = a->res.data;
    if (res) res += (size_t)(i * a->res.stride[0]) * qw_block_bytes(a->res.dtype);
    for (int64_t c = 0; c < count; c += VL) {
        const vm m = v_first(count - c);
        vf z = v_load(sums + c);
        if (a->bias.data) z = v_add(z, v_load_n((const float *)a->bias.data + j + c, m));
        if (a->act) z = activate(a->act, z);
        if (a->gate.data) z = v_mul(z, v_load_n((const float *)a->gate.data + j + c, m));
        if (res) z = v_add(z, v_get(a->res.dtype, res, j + c, m));
        v_put(a->y.dtype, y, j + c, m, z);
    }
}
