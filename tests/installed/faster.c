/* faster.c - compares the time of a module's gemm with the reference's.  faster MODULE.so; one
 * thread, processor time. */
#include <dlfcn.h>
#include <qwen/ref.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* y [M][N] = x [M][K] w [N][K]^T: the median of five times, in seconds. */
enum { M = 256, N = 512, K = 1024, TIMES = 5 };

static int by_size(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static double seconds(qw_device *dev, const qw_gemm_args *a)
{
    double t[TIMES];
    for (int i = 0; i < TIMES; i++) {
        const clock_t begin = clock();
        if (dev->op.gemm(dev, a)) return -1;
        t[i] = (double)(clock() - begin) / CLOCKS_PER_SEC;
    }
    qsort(t, TIMES, sizeof t[0], by_size);
    return t[TIMES / 2];
}

int main(int argc, char **argv)
{
    void *module = argc == 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
    const qw_backend *b = module ? dlsym(module, "qw_backend_module_v2") : NULL;
    const qw_open_options o = { .size = sizeof o, .threads = 1 };
    qw_device *dev = NULL, ref;
    float *x = malloc(M * K * sizeof *x), *y = malloc(M * N * sizeof *y);
    uint16_t *w = malloc(N * K * sizeof *w);
    if (!b || b->open(0, &o, &dev) || !x || !y || !w) {
        fprintf(stderr, "faster: %s\n", module ? "the device does not open" : "no module");
        return 2;
    }
    for (int i = 0; i < M * K; i++) x[i] = (float)(i * 7 % 13) / 13 - 0.5f;
    for (int i = 0; i < N * K; i++) w[i] = qw_f32_to_bf16((float)(i * 5 % 11) / 11 - 0.5f);
    const qw_gemm_args a = { .y = qw_dense2(y, QW_F32, M, N),
                             .x = qw_dense2(x, QW_F32, M, K),
                             .w = qw_dense2(w, QW_BF16, N, K) };
    ref_init(&ref, "ref", QW_F32, QW_F32);
    ref.threads = dev->threads = 1;
    const double mine = seconds(dev, &a), theirs = seconds(&ref, &a);
    printf("gemm of %d x %d x %d: %s %.4f s, ref %.4f s\n", M, N, K, dev->name, mine, theirs);
    dev->close(dev);
    free(x);
    free(y);
    free(w);
    return !(mine > 0 && mine < theirs);
}
