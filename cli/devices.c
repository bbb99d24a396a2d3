/* devices.c - the subcommand that lists devices, with the reason why one cannot be used. */
#include "cli.h"
#include <stdlib.h>
#include <string.h>

typedef struct list {
    json_t *all;
    const settings *s;
} list;

static int print_device(void *user, const qwen_device_info *d)
{
    list *l = user;
    json_array_append_new(l->all, json_pack("{s:s,s:s,s:f,s:s,s:I,s:b,s:s?}", "name", d->name,
                                            "what", d->what, "score", d->score, "identity",
                                            d->identity, "memory", (json_int_t)d->memory, "default",
                                            d->is_default, "why_not", d->why_not));
    if (!l->s->json)
        printf("%-20s %s%s%s%s\n", d->name, d->what, d->is_default ? " (the default)" : "",
               d->why_not ? "; not here: " : "", d->why_not ? d->why_not : "");
    return 0;
}

int run_devices(settings *s)
{
    list l = { json_array(), s };
    if (s->words.n) {
        json_decref(l.all);
        return complain(CODE_USAGE, "devices takes no argument, found \"%s\"", s->words.item[0]);
    }
    const int status = qwen_devices(print_device, &l);
    char *text = s->json ? json_dumps(l.all, JSON_INDENT(2)) : NULL;
    json_decref(l.all);
    if (text) printf("%s\n", text);
    free(text);
    return status ? complain(code_of(status), "devices: %s", qwen_strerror(status))
                  : flush_stdout();
}
