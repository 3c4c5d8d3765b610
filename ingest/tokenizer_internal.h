/* The parts of the tokenizer, for ingest/tokenizer*.c and its tests:
 *   tokenizer_load.c    tokenizer.json -> msa_tokenizer
 *   tokenizer_split.c   text -> pieces (pre-tokenisers), hand-written patterns
 *   tokenizer_regex.c   ... and any other pattern, through PCRE2
 *   tokenizer_bpe.c     piece -> symbols
 *   tokenizer_trie.c    longest known prefix
 *   tokenizer.c         the public functions: normalise, cut, split, look up, merge
 */
#ifndef MSA_INGEST_TOKENIZER_INTERNAL_H
#define MSA_INGEST_TOKENIZER_INTERNAL_H

#include <pthread.h>

#include "ingest/tokenizer.h"
#include "ingest/unicode.h"

/* Ids and symbols stay below this, so that two of them and a merge fit one word. */
#define MSA_TOKENIZER_MAX_ID ((1 << 21) - 2)
/* Token texts longer than this are refused. */
#define MSA_TOKENIZER_MAX_BYTES 4096

/* Zeroed memory for a table that is read at random places: in huge pages where
 * the system has them, since walks of the page table would cost as much as the
 * reads. NULL when out of memory; goes back through free(). */
void *msa_tokenizer_table(int64_t n, int64_t size);

/* ---- trie --------------------------------------------------------------------
 * A double array over bytes. node[i]: label (9 bits; 256 = free), value + 1 (23
 * bits, 0 = none), base (32 bits, 0 = no children). The child of node i for byte
 * c is base ^ c when the label there is c; bases are unique, so no parent check
 * is needed. Node 0 is the root. */
typedef struct msa_trie {
    uint64_t *node;
    int64_t n, cap;
} msa_trie;

typedef struct msa_trie_key {
    const uint8_t *p; /* borrowed during the build */
    int32_t n;        /* >= 1 */
    int32_t value;    /* 0 .. 2^22 */
} msa_trie_key;

#define MSA_TRIE_LABEL(node) ((uint32_t)(node) & 511)
#define MSA_TRIE_VALUE(node) ((int32_t)((uint32_t)(node) >> 9) - 1)
#define MSA_TRIE_BASE(node) ((uint32_t)((node) >> 32))

/* Sorts keys; two equal ones are MSA_FAILED. */
msa_rc msa_trie_build(msa_trie *t, msa_trie_key *keys, int64_t n, msa_err *err);
void msa_trie_free(msa_trie *t);

/* Value of the longest key that p[0..n) starts with, and its length; -1 if none. */
static inline int32_t msa_trie_longest(const msa_trie *t, const uint8_t *p, int64_t n, int32_t *len)
{
    const uint64_t *node = t->node;
    uint64_t at = node[0];
    int32_t found = -1;
    for (int64_t i = 0; i < n && MSA_TRIE_BASE(at);) {
        at = node[MSA_TRIE_BASE(at) ^ p[i]];
        if (MSA_TRIE_LABEL(at) != p[i])
            break;
        i++;
        int32_t v = MSA_TRIE_VALUE(at);
        if (v >= 0) {
            found = v;
            *len = (int32_t)i;
        }
    }
    return found;
}

/* ---- BPE -----------------------------------------------------------------------
 * Symbols number the strings that merging can meet: first the single bytes, then
 * the results of merges in the order of their first appearance. */
typedef struct msa_bpe_symbol {
    int32_t left, right;             /* the halves of the merge that makes it; of a byte itself */
    int32_t first_left, first_right; /* first symbol that it is the left, the right half of, or INT32_MAX */
} msa_bpe_symbol;

typedef struct msa_bpe {
    int32_t byte_symbol[256]; /* -1: the vocabulary lacks this byte */
    int32_t n_symbols, n_bytes;
    int32_t n_merges;
    int32_t *id;     /* [n_symbols] token */
    int32_t *len;    /* [n_symbols] bytes */
    int32_t *result; /* [n_merges] symbol; the index of a merge is its rank */
    uint64_t *pairs; /* open addressing: left << 43 | right << 22 | rank + 1; 0 is empty */
    int64_t pair_mask;
    uint64_t *pair_seen; /* a bit for each hash of a pair: most questions end here, near the core */
    /* ordered: every symbol has one merge, made of earlier symbols. Then rank and
     * symbol are in step, and the linear method applies; otherwise a heap does. */
    bool ordered;
    msa_bpe_symbol *symbol; /* [n_symbols] */
    int32_t *shorter;   /* [n_symbols] longest reachable proper prefix, or -1 */
    bool *reachable;    /* [n_symbols] its own bytes encode to it */
    msa_trie trie;      /* the reachable symbols */
} msa_bpe;

/* Scratch of one encoding thread. */
typedef struct msa_bpe_work {
    int32_t *symbols; /* the result */
    int64_t n, cap;
    void *a, *b;      /* heap method: nodes and heap */
    int64_t a_cap, b_cap;
    uint64_t *dead;   /* linear method: bit per position */
    int64_t dead_cap;
} msa_bpe_work;
void msa_bpe_work_free(msa_bpe_work *w);

/* Fills in pairs, and for ordered merges part, shorter, reachable and the trie.
 * Expects byte_symbol, id, len, result, n_*; left/right [n_merges] and texts
 * [n_symbols] are borrowed. */
msa_rc msa_bpe_prepare(msa_bpe *b, const int32_t *left, const int32_t *right,
                       const uint8_t *const *text, msa_err *err);
void msa_bpe_free(msa_bpe *b);

/* Merges the n >= 1 bytes of a piece, all of which have symbols, into w->symbols.
 * false: out of memory. _heap follows the definition (lowest rank first, leftmost
 * first) in n log n steps and serves any merges; _linear needs b->ordered. */
bool msa_bpe_heap(const msa_bpe *b, const uint8_t *p, int64_t n, msa_bpe_work *w);
bool msa_bpe_linear(const msa_bpe *b, const uint8_t *p, int64_t n, msa_bpe_work *w);

/* ---- splitting -------------------------------------------------------------------
 * A splitter cuts p[*pos .. n) of a section into pieces: it writes the ends of up
 * to cap pieces and moves *pos behind the last. Returns the number of pieces, 0 at
 * the end. */
typedef int msa_split_fn(const uint8_t *p, int64_t n, int64_t *pos, int64_t *ends, int cap);
msa_split_fn msa_split_gpt2, msa_split_qwen, msa_split_llama3, msa_split_digits;

/* The hand-written splitter of a pattern, or NULL. */
msa_split_fn *msa_split_known(const char *pattern);
#define MSA_SPLIT_GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* Any other pattern. */
typedef struct msa_regex msa_regex;
msa_rc msa_regex_new(const char *pattern, msa_regex **out, msa_err *err);
void msa_regex_free(msa_regex *r);
/* Scratch of one thread for all patterns. */
typedef struct msa_regex_work msa_regex_work;
msa_regex_work *msa_regex_work_new(void);
void msa_regex_work_free(msa_regex_work *w);
/* As a splitter; negative: MSA_FAILED, the pattern needs too many steps. */
int msa_regex_split(const msa_regex *r, msa_regex_work *w, const uint8_t *p, int64_t n, int64_t *pos,
                    int64_t *ends, int cap, msa_err *err);

/* ---- the tokenizer ---------------------------------------------------------------- */

#define MSA_TOKENIZER_STAGES 8
typedef struct msa_split_stage {
    msa_split_fn *fn; /* or regex */
    msa_regex *regex;
} msa_split_stage;

/* A piece of up to 15 bytes and its ids. */
typedef struct msa_piece {
    uint64_t k0, k1; /* the bytes, zero-padded; the top byte of k1 is their number, 0: empty */
    int32_t ids[4];  /* -1 behind the last */
} msa_piece;

/* A piece of up to 12 bytes that is one token. Half as large: the vocabulary's
 * table is shared by all threads and does not fit a core's own cache. */
typedef struct msa_whole {
    uint64_t k0;
    uint32_t k1;
    uint32_t len_id; /* length << 24 | id; 0: empty */
} msa_whole;

/* What one encode call works with; calls take one from the tokenizer's list. */
typedef struct msa_tokenizer_work msa_tokenizer_work;
typedef struct msa_tokenizer_works {
    pthread_mutex_t lock;
    msa_tokenizer_work *free;
} msa_tokenizer_works;

/* Added tokens, by content; values are ids. */
typedef struct msa_added {
    msa_trie trie;
    bool start[256]; /* first bytes */
    int64_t n;
} msa_added;

struct msa_tokenizer {
    char sha256[65];
    bool nfc;
    bool ignore_merges;
    bool lacks_bytes;  /* some byte_symbol is -1 */
    int32_t unk;       /* id that stands for such bytes, or -1: they vanish */
    bool fuse_unk;
    bool regexes;      /* some stage needs PCRE2 */
    int n_stages;
    msa_split_stage stage[MSA_TOKENIZER_STAGES];

    int64_t n_ids;     /* highest id + 1 */
    char *bytes;       /* texts of all tokens */
    int64_t *offset;   /* [n_ids] in bytes, or -1: no such id */
    int32_t *length;   /* [n_ids] */
    bool *special;     /* [n_ids] */

    msa_bpe bpe;
    msa_whole *whole;  /* pieces that are one token; open addressing */
    int64_t whole_mask;
    msa_trie whole_trie; /* ignore_merges: pieces of any length that are one token */

    msa_added raw;     /* added tokens that are looked for in the text as it is */
    msa_added normal;  /* ... and in the text after normalisation */

    msa_tokenizer_works *works;
};

/* msa_tokenizer_open on the n bytes of a file. */
msa_rc msa_tokenizer_open_bytes(const char *json, int64_t n, msa_tokenizer **out, msa_err *err);
/* Frees the work spaces of past calls, and what they remember. */
void msa_tokenizer_forget(const msa_tokenizer *t);

static inline uint64_t msa_piece_hash(uint64_t k0, uint64_t k1)
{
    __uint128_t m = (__uint128_t)(k0 ^ 0x9e3779b97f4a7c15u) * (k1 ^ 0xd6e8feb86659fd93u);
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

#endif
