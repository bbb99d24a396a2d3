/* main.c - the command `qwen-image`: one table of subcommands. */
#include "cli.h"
#include <stdlib.h>
#include <string.h>

typedef struct subcommand {
    const char *name;
    unsigned who;
    int (*run)(settings *s);
    const char *arguments, *what;
} subcommand;

static const subcommand subcommands[] = {
    { "generate", FOR_GENERATE, run_generate, "[options] [PROMPT]", "draws or edits a picture" },
    { "plan", FOR_PLAN, run_plan, "[options] [PROMPT]", "computes what that would cost" },
    { "devices", FOR_DEVICES, run_devices, "[options]", "lists devices" },
    { "models", FOR_MODELS, run_models, "[options]", "lists models found by name" },
    { "inspect", FOR_INSPECT, run_inspect, "[options] PATH|NAME", "describes a file" },
    { "compare", FOR_COMPARE, run_compare, "[options] A B", "compares two dumps or pictures" },
    { "tokenize", FOR_TOKENIZE, run_tokenize, "[options] [TEXT]", "turns text into token ids" },
};
enum { SUBCOMMANDS = (int)(sizeof subcommands / sizeof *subcommands) };

static void print_usage(FILE *to)
{
    fprintf(to, "usage: qwen-image SUBCOMMAND [options]\n\n");
    for (int i = 0; i < SUBCOMMANDS; i++)
        fprintf(to, "  %-9s %s\n", subcommands[i].name, subcommands[i].what);
    fprintf(
        to,
        "\n  qwen-image SUBCOMMAND --help   the options of a subcommand\n"
        "  qwen-image --version           the version\n"
        "\nFor example: qwen-image generate 'a red circle on a blue background' -o circle.png\n");
}

static int unknown_subcommand(const char *name)
{
    const char *names[SUBCOMMANDS];
    for (int i = 0; i < SUBCOMMANDS; i++) names[i] = subcommands[i].name;
    const char *near = near_miss(name, names, SUBCOMMANDS);
    return near
               ? complain(CODE_USAGE, "there is no subcommand \"%s\"; did you mean %s?", name, near)
               : complain(CODE_USAGE, "there is no subcommand \"%s\"; qwen-image --help lists them",
                          name);
}

static int run_subcommand(const subcommand *c, int argc, char **argv)
{
    settings *s = calloc(1, sizeof *s);
    if (!s) return no_memory();
    int code = options_parse(s, c->who, argc, argv);
    if (!code && s->help) {
        printf("usage: qwen-image %s %s\n\n%s %s.\n", c->name, c->arguments, c->name, c->what);
        options_help(c->who, stdout);
        code = flush_stdout();
    } else if (!code) {
        code = c->run(s);
    }
    settings_free(s);
    free(s);
    return code;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) {
        print_usage(stderr);
        return complain(CODE_USAGE, "expected a subcommand, found none");
    }
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || (!strcmp(name, "help") && argc == 2)) {
        print_usage(stdout);
        return flush_stdout();
    }
    if (!strcmp(name, "--version") || !strcmp(name, "-V")) {
        printf("qwen-image %s\n", qwen_version());
        return flush_stdout();
    }
    if (name[0] == '-')
        return complain(CODE_USAGE, "expected a subcommand before %s; qwen-image --help lists them",
                        name);
    const int ask = !strcmp(name, "help");
    if (ask) name = argv[2];
    for (int i = 0; i < SUBCOMMANDS; i++)
        if (!strcmp(name, subcommands[i].name)) {
            static char help[] = "--help";
            char *asked[] = { help, NULL };
            return ask ? run_subcommand(&subcommands[i], 1, asked)
                       : run_subcommand(&subcommands[i], argc - 2, argv + 2);
        }
    return unknown_subcommand(name);
}
