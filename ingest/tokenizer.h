/* Byte-level BPE as in Hugging Face tokenizer.json files (Qwen, SmolLM, Llama 3,
 * GPT-2 kinds): ids are exactly those of the tokenizers library.
 *
 *   msa_tokenizer_open("models/default/tokenizer.json", &tok, err);
 *   msa_tokens ids = {0};
 *   msa_tokenizer_encode(tok, text, n, MSA_TOKENS_PLAIN, &ids, err);
 *   msa_tokens_free(&ids);
 *
 * A tokenizer is immutable once open: any number of threads may encode with it,
 * and ids never depend on threads or on what was encoded before. */
#ifndef MSA_INGEST_TOKENIZER_H
#define MSA_INGEST_TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"

typedef struct msa_tokenizer msa_tokenizer;

/* Reads a tokenizer.json of at most 256 MiB. Anything that this reader does not
 * implement exactly (another model type, normaliser, pre-tokeniser or regular
 * expression) is refused: MSA_FAILED, MSA_E_CONFIG, naming it. */
msa_rc msa_tokenizer_open(const char *path, msa_tokenizer **out, msa_err *err);
void msa_tokenizer_free(msa_tokenizer *t);
int64_t msa_tokenizer_vocab(const msa_tokenizer *t); /* highest id + 1, added tokens included */
const char *msa_tokenizer_sha256(const msa_tokenizer *t); /* of the file */

typedef enum msa_token_mode {
    MSA_TOKENS_PLAIN,   /* special tokens are ordinary text, as with the library's
                         * encode_special_tokens; added tokens that the file does not
                         * call special (Qwen3's <think>) are still recognised */
    MSA_TOKENS_SPECIAL, /* all added tokens are recognised: templates only */
    MSA_TOKENS_LITERAL  /* no added token is recognised */
} msa_token_mode;

/* A growable list of ids; {0} is empty. start[i], end[i]: the bytes of the
 * (un-normalised) text that token i stands for, filled when want_offsets is set
 * beforehand; a token that holds a part of a character has the whole of it. */
typedef struct msa_tokens {
    int32_t *ids;
    int64_t *start, *end;
    int64_t n, cap;
    bool want_offsets;
} msa_tokens;
void msa_tokens_free(msa_tokens *t);  /* leaves an empty list */
void msa_tokens_clear(msa_tokens *t); /* keeps the memory */

/* Appends the ids of n bytes of text. Text that is not UTF-8 is MSA_FAILED,
 * MSA_E_DATA, naming the byte. Linear in n for any text. */
msa_rc msa_tokenizer_encode(const msa_tokenizer *t, const char *text, int64_t n, msa_token_mode mode,
                            msa_tokens *out, msa_err *err);

/* Appends the bytes of ids to out (special tokens are left out unless
 * keep_special). Unknown ids are MSA_FAILED. Bytes may end inside a character:
 * generation decodes whole answers. */
msa_rc msa_tokenizer_decode(const msa_tokenizer *t, const int32_t *ids, int64_t n, bool keep_special,
                            msa_buf *out, msa_err *err);

/* Id of an added token by its exact content ("<|im_end|>"), or -1. */
int32_t msa_tokenizer_special(const msa_tokenizer *t, const char *content);

/* How many places of a text look like an added token: control strings that
 * the literal mode keeps from acting; reported for documents. */
int64_t msa_tokenizer_count_special(const msa_tokenizer *t, const char *text, int64_t n);

#endif
