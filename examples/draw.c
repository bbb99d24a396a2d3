/* draw.c - the smallest program that draws: from a model and a prompt to a PPM file.
 *
 *     cc draw.c -o draw `pkg-config --cflags --libs libqwen`
 *     ./draw path/to/model "a red circle on a blue background" out.ppm */
#include <qwen/qwen.h>
#include <stdio.h>

static int show(void *user, const qwen_progress *p)
{
    (void)user;
    if (p->block == 0) fprintf(stderr, "\r%s %d/%d   ", p->phase, p->step, p->steps);
    return 0; /* any other value stops the run */
}

static int save(const qwen_array *picture, const char *path)
{
    FILE *f = fopen(path, "wb");
    if (!f) return 1;
    const size_t height = (size_t)picture->dim[0], width = (size_t)picture->dim[1];
    fprintf(f, "P6\n%zu %zu\n255\n", width, height);
    fwrite(picture->data, 3, width * height, f);
    return fclose(f) != 0;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: draw MODEL PROMPT FILE.ppm\n");
        return 2;
    }
    qwen_options opt = { .size = sizeof opt, .model = argv[1] };
    qwen_request req = { .size = sizeof req, .prompt = argv[2], .seed = 1, .progress = show };
    qwen_result res = { .size = sizeof res };
    qwen *q;
    int failed = 1;
    if (qwen_open(&q, &opt) || qwen_generate(q, &req, &res))
        fprintf(stderr, "draw: %s\n", qwen_error(q));
    else if (save(&res.image[0], argv[3])) fprintf(stderr, "draw: cannot write %s\n", argv[3]);
    else failed = 0;
    fputc('\n', stderr);
    qwen_result_free(&res);
    qwen_close(q);
    return failed;
}
