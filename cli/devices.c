/* devices.c - the subcommand that lists what can compute, and why the rest cannot. */
#include "cli.h"
#include <stdlib.h>
#include <string.h>

typedef struct list {
    json_t *all;
    const settings *s;
} list;

static int each(void *user, const char *name, const char *what, const char *why_not)
{
    list *l = user;
    json_t *o =
        json_pack("{s:s,s:s,s:b}", "name", name, "what", what ? what : "", "opens", !why_not);
    if (why_not) json_object_set_new(o, "why_not", json_string(why_not));
    json_array_append_new(l->all, o);
    if (!l->s->json)
        printf("%-12s %s%s%s\n", name, what ? what : "", why_not ? "; not here: " : "",
               why_not ? why_not : "");
    return 0;
}

int run_devices(settings *s)
{
    list l = { json_array(), s };
    if (s->words.n) {
        json_decref(l.all);
        return complain(CODE_USAGE, "devices takes no argument, found \"%s\"", s->words.item[0]);
    }
    const int status = qwen_devices(each, &l);
    char *text = s->json ? json_dumps(l.all, JSON_INDENT(2)) : NULL;
    json_decref(l.all);
    if (text) printf("%s\n", text);
    free(text);
    return status ? complain(code_of(status), "devices: %s", qwen_strerror(status))
                  : flush_stdout();
}
