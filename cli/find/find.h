/* find.h - models, pieces and LoRAs by path, name or id; doc/names.md has the rules. */
#ifndef FIND_H
#define FIND_H
#include "cli.h"

/* --- find.c: paths for the library's options -------------------------------------------------- */
typedef struct found { /* paths for qwen_options; owned */
    char *model, *transformer, *text_encoder, *vision, *vae, *controlnet, *tokenizer;
    char *label; /* the model's name in the recipe: a name or an id, without directories */
} found;
/* Paths of the model and its pieces: what settings name, and what a lone transformer lacks. */
int find_model(const settings *s, found *out);
void found_free(found *f);
int find_lora(const settings *s, const char *name, char **path); /* *path is malloc'ed */
/* The path of a listed entry of any kind, or a copy of the name if none answers; *path is
 * malloc'ed. */
int find_any(const settings *s, const char *name, char **path);
/* "org/name" or "org/name@revision"? */
int is_id(const char *name);

/* --- catalog.c, places.c, pieces.c: what can be found by name --------------------------------- */
typedef struct model_entry {
    char *name, *path;
    const char *folder; /* ComfyUI's type; "diffusers": a model directory; "": unknown */
    uint64_t bytes;
    int place;      /* number of the place that holds it, from 1 */
    int shadowed;   /* an earlier place has that type and name */
    int incomplete; /* a file of it is missing */
} model_entry;
typedef struct catalog {
    model_entry *entry;
    size_t n;
    int places;
} catalog;
int catalog_make(catalog *c, const settings *s); /* on failure too catalog_free is needed */
int catalog_demo(catalog *c, const settings *s); /* adds the demo */
void catalog_free(catalog *c);
/* Nonzero: the entry can be a value of the option of that name (model, vae, lora ...).  strictly:
 * an entry that cannot be read serves no option, a model directory only model and tokenizer. */
int entry_serves(const model_entry *e, const char *option, int strictly);
#endif
