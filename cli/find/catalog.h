/* catalog.h - what the files of cli/find share: the search, names, contents of files. */
#ifndef CATALOG_H
#define CATALOG_H
#include "find/find.h"
#include <sys/types.h>

/* --- catalog.c, places.c: what is listed ------------------------------------------------------ */

/* A directory on the way from the root of a search to where it is: a link to one of them is a
 * loop. */
typedef struct chain {
    dev_t device;
    ino_t inode;
    const struct chain *above;
} chain;

/* A search through the places.  All entries of one place (a ComfyUI folder with what its YAML adds,
 * a cached repository, a directory) have its number. */
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

const char *type_named(const char *directory); /* type of ComfyUI's folder, or NULL */
const char *type_folder(int i); /* names of ComfyUI's folders, in order; NULL after the last */
/* The names in a directory, sorted, without those that begin with a dot.  A directory that cannot
 * be read is empty. */
typedef struct listing {
    char **name;
    size_t n;
} listing;
int listing_make(listing *l, const char *path);
void listing_free(listing *l);
/* 1: a folder is searched as that type, or a YAML file read, for the first time; 0: again, or it
 * does not exist; -1: no memory, complained. */
int walk_first(walk *w, const char *path, const char *type);
/* Adds the files, sets and model directories below path; names begin with `before`. */
int walk_directory(walk *w, const char *path, const char *before, const char *type, int depth);
/* Adds a directory with model_index.json as one entry; *is: it was one. */
int walk_model(walk *w, const char *name, const char *path, int *is);
enum { MOST_ENTRIES = 100000, MOST_DEPTH = 8 };

/* *place: the place of a file (or a component's directory), whose pieces are preferred.  For a file
 * that no place lists the ComfyUI folder or the model directory that holds it is added as a place;
 * else the files of its directory are added, which come last, and *place is 0. */
int catalog_beside(catalog *c, const settings *s, const char *path, int *place);

/* --- cache.c: the demo and the Hugging Face cache --------------------------------------------- */

char *find_demo(void);  /* malloc'ed path of the demo's directory, or NULL */
char *find_cache(void); /* root of the Hugging Face cache; malloc'ed, or NULL */
/* The snapshot of "org/name[@revision]" in the cache: 0 and *path; or -1 and *where, a sentence on
 * what the cache lacks.  Both are malloc'ed. */
int find_id(const char *id, char **path, char **where);

/* --- match.c: names --------------------------------------------------------------------------- */

/* The fit of a listed name to the name that was typed, from worst to best (match.c). */
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
    int other;     /* ANSWER_BEGINS: the rest of the name makes it another model */
    int precision; /* 0: the name has none; the smaller, the nearer to the published numbers */
    char *model;   /* the name without precision; malloc'ed, or NULL */
} answer;
/* CODE_DONE, or CODE_MEMORY and has complained. */
int name_answers(const char *listed, const char *typed, answer *out);
/* Distance of a listed name from the name that was typed; 1000: too far for a suggestion. */
int name_distance(const char *listed, const char *typed);
int name_has_word(const char *name, const char *word);
size_t name_stem(const char *name); /* length without the extension of a model file */
int is_model_file(const char *name);
int is_gguf(const char *name);
int ends_with(const char *s, const char *end);
/* The length of NAME in "NAME-00002-of-00003.EXT", with shard 2 of 3; 0: it is no such
 * name. */
size_t name_shard(const char *name, int *shard, int *shards);

/* --- pieces.c: what files hold ---------------------------------------------------------------- */

typedef struct contents { /* what the names and shapes of a file's tensors show */
    int readable, transformer, layered, text, vision, vae;
    int64_t text_in, text_out;    /* width of text: read by the transformer, made by the encoder */
    int64_t latents, vae_latents; /* latent channels of the transformer; of the VAE */
    int64_t channels;             /* picture channels of the VAE */
} contents;
void look_inside(const char *path, contents *c);
/* Replaces a directory by the component inside it, or by its only GGUF (with an mmproj beside it);
 * other paths stay.  component NULL: only the GGUF. */
int piece_inside(char **path, const char *component);

/* An option whose value is a model, a piece or a LoRA. */
typedef struct file_option {
    const char *option, *what;
    const char *folders[4]; /* types of its files, its own type first */
    const char *component;  /* its directory inside a model directory, or NULL */
    const char *words[2];   /* words of names that say what the file is */
} file_option;
enum { MODEL, TRANSFORMER, TEXT_ENCODER, VISION, VAE, CONTROLNET, LORA, TOKENIZER, FILE_OPTIONS };
extern const file_option file_options[FILE_OPTIONS];
/* The option for an entry, by its tensors, else by its folder; FILE_OPTIONS: none. */
int entry_kind(const model_entry *e);

/* The piece that fits a transformer: *path is malloc'ed, or NULL if there is none. */
int find_piece(const catalog *c, const settings *s, int piece, const contents *transformer,
               int place, char **path);
#endif
