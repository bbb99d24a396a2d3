/* text.h - from words to token ids: the tokenizer, Unicode, chat templates. */
#ifndef QW_TEXT_H
#define QW_TEXT_H
#include "core/core.h"

/* --- tokenizer.c: Qwen2's byte-level BPE ------------------------------------------------------ */
typedef struct qw_tokenizer qw_tokenizer;
/* path: a directory (vocab.json + merges.txt + tokenizer_config.json, or tokenizer.json, or
 * merges.txt alone), or a tokenizer.json. */
int qw_tokenizer_open(qw_tokenizer **out, const char *path, qw_error *err);
void qw_tokenizer_free(qw_tokenizer *t);
/* Special tokens in the text become their ids; nothing is added.  text may hold U+0000.  Invalid
 * UTF-8 is QWEN_EARG with the byte offset.  *ids is malloc'ed. */
int qw_tokenize(const qw_tokenizer *t, const char *text, size_t bytes, int32_t **ids, int64_t *n,
                qw_error *err);

/* --- unicode.c: Unicode for the tokenizer; text is valid UTF-8 here --------------------------- */
typedef enum qw_char_class {
    QW_CHAR_OTHER,
    QW_CHAR_LETTER,
    QW_CHAR_NUMBER,
    QW_CHAR_SPACE
} qw_char_class;
qw_char_class qw_char_classify(int32_t c); /* categories L*; N*; White_Space; all others */
/* Normalisation form C, in linear time.  *out is malloc'ed, not terminated.  QWEN_OK or
 * QWEN_ENOMEM. */
int qw_nfc(const char *text, size_t bytes, char **out, size_t *out_bytes);

/* --- template.c: chat templates --------------------------------------------------------------- */
typedef struct qw_prompt {
    char *text; /* the filled template, UTF-8 */
    size_t bytes;
    int64_t drop; /* leading tokens whose rows are dropped */
} qw_prompt;
/* name: "t2i", "edit", "edit-plus", or a template text with {}.  system NULL: the template's own.
 * pictures: number of pictures with image pads; tokens[i]: pads of picture i.  "edit-plus" and the
 * caller's texts write "Picture k: " before each; "edit" allows one. */
int qw_prompt_make(qw_prompt *out, const char *name, const char *system, const char *user_text,
                   const int64_t *tokens, int pictures, const qw_tokenizer *tok, qw_error *err);
void qw_prompt_free(qw_prompt *p);
#endif
