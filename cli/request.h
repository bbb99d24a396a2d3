/* request.h - the options as the library's structs, and the recipe made of them. */
#ifndef REQUEST_H
#define REQUEST_H
#include "cli.h"
#include "find/find.h"

/* --- request.c -------------------------------------------------------------------------------- */
typedef struct call { /* a request to the library with all that its structs point to */
    const settings *s;
    progress *bar; /* of the run in progress, or NULL: its line ends before a message */
    qwen_options opt;
    qwen_request req;
    found files;
    qwen *q;
    qwen_model_info info;
    qwen_array *input, mask, control, noise, embeds, negative_embeds;
    size_t inputs;
    char *template_file;
} call;
int call_begin(call *c, settings *s); /* checks options and reads inputs; opens no model */
int call_open(call *c);               /* finds and opens the model with its LoRAs */
void call_close(call *c);
/* The prompts of the arguments, --prompt or --prompt-file; *storage holds the file's. */
int prompts_read(settings *s, text_list *prompts, char **storage);

/* --- metadata.c ------------------------------------------------------------------------------- */
json_t *recipe_make(const settings *s, const call *c, const char *prompt, const qwen_result *res);
int recipe_load(settings *s); /* --from */
#endif
