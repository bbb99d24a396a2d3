/* catalog.h - what the files of cli/find share: the catalog being made, names, pieces. */
#ifndef CATALOG_H
#define CATALOG_H
#include "find/find.h"
#include <sys/types.h>

/* --- catalog.c, places.c: what is listed ------------------------------------------------------ */

/* A directory on the way from the root of a search, so that a loop of links is seen. */
typedef struct chain {
    dev_t device;
    ino_t inode;
    const struct chain *above;
} chain;

/* A search through the places.  Everything that is found below one place (a ComfyUI folder with
 * what its YAML adds, a cached repository, a directory) has that place's number. */
typedef struct walk {
    catalog *c;
    const settings *s;
    int place;
    struct {
        dev_t device;
        ino_t inode;
        const char *type;
    } * seen; /* what was searched already */
    size_t n_seen;
} walk;

const char *type_named(const char *directory); /* ComfyUI's type of a folder, or NULL */
const char *type_folder(int i); /* ComfyUI's folders, in order; NULL after the last */
/* The names in a directory, sorted, without those that begin with a dot.  A directory that cannot
 * be read is empty. */
typedef struct listing {
    char **name;
    size_t n;
} listing;
int listing_make(listing *l, const char *path);
void listing_free(listing *l);
/* The type a YAML file or a folder is searched as, for the first time?  -1: no memory, and said. */
int walk_first(walk *w, const char *path, const char *type);
/* Files, sets and model directories below path; names begin with `before`. */
int walk_directory(walk *w, const char *path, const char *before, const char *type, int depth);
/* A directory with model_index.json: one entry.  *is: it was one. */
int walk_model(walk *w, const char *name, const char *path, int *is);
enum { MOST_ENTRIES = 100000, MOST_DEPTH = 8 };

/* The place of a file (or a component's directory), whose pieces come first.  One that no place
 * lists adds the ComfyUI folder or the model directory that it lies in; else the other files of its
 * directory, which come last (*place 0). */
int catalog_beside(catalog *c, const settings *s, const char *path, int *place);

/* --- cache.c: the demo and the Hugging Face cache --------------------------------------------- */

char *find_demo(void);  /* malloc'ed path of the demo's directory, or NULL */
char *find_cache(void); /* root of the Hugging Face cache; malloc'ed, or NULL */
/* The snapshot of "org/name[@revision]" in the cache: 0 and *path; or -1 and *where, a sentence on
 * what the cache lacks.  Both are malloc'ed. */
int find_id(const char *id, char **path, char **where);

/* --- match.c: names --------------------------------------------------------------------------- */

/* How a name answers to what was typed: the greater the better, see match.c. */
enum {
    ANSWER_NONE,
    ANSWER_BEGINS,
    ANSWER_MODEL,
    ANSWER_ALIKE,
    ANSWER_LAST,
    ANSWER_STEM,
    ANSWER_WHOLE
};
typedef struct answer {
    int grade;     /* ANSWER_* */
    int other;     /* ANSWER_BEGINS: the rest says that it is another model */
    int precision; /* 0: not said; then the nearer to what was published */
    char *model;   /* the name without precision; malloc'ed, NULL if none */
} answer;
/* CODE_MEMORY, and said, or CODE_DONE. */
int name_answers(const char *listed, const char *typed, answer *out);
/* How far a listed name is from what was typed; from 1000 on too far to be meant. */
int name_distance(const char *listed, const char *typed);
int name_has_word(const char *name, const char *word);
size_t name_stem(const char *name); /* its length without the extension of a model file */
int is_model_file(const char *name);
int is_gguf(const char *name);
int ends_with(const char *s, const char *end);
/* "NAME-00002-of-00003.EXT": the length of NAME; 0: it is no such name. */
size_t name_part(const char *name, int *part, int *parts);

/* --- pieces.c: what files hold ---------------------------------------------------------------- */

typedef struct contents { /* what the names of a file's tensors say */
    int readable, transformer, layered, text, vision, vae;
    int64_t text_in, text_out;    /* width of the transformer's text, and of the encoder's */
    int64_t latents, vae_latents; /* channels that the transformer and the VAE have */
    int64_t channels;             /* of the VAE's picture */
} contents;
void look_inside(const char *path, contents *c);
/* A component's directory inside a model directory, the GGUF of a directory that holds one (with
 * its mmproj); what is neither stays.  component NULL: only the latter. */
int piece_inside(char **path, const char *component);

/* An option that takes a model, a piece or a LoRA. */
typedef struct file_option {
    const char *option, *what;
    const char *folders[4]; /* types of the files it takes, its own first */
    const char *component;  /* its directory inside a model directory, or NULL */
    const char *words[2];   /* of names that say what the file is */
} file_option;
enum { MODEL, TRANSFORMER, TEXT_ENCODER, VISION, VAE, CONTROLNET, LORA, TOKENIZER, FILE_OPTIONS };
extern const file_option file_options[FILE_OPTIONS];
/* The option that takes an entry, by its tensors, else by its folder; TAKERS: none. */
int entry_kind(const model_entry *e);

/* The piece that fits a transformer, of which `of` is known: *path, or NULL if there is none. */
int find_piece(const catalog *c, const settings *s, int piece, const contents *transformer,
               int place, char **path);
#endif
