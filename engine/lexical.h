/* A score by words beside the router's: BM25 (k1 0.9, b 0.4) of a question over the
 * texts of a bank's documents, words as in ingest/words.h. The index is a file
 * beside the bank that is made once for a state of the documents.
 *
 *   msa_lexical_open("store/lexical", &(msa_lexical_source){...}, &lex, err);
 *   msa_lexical_ask(lex, question, n, err);
 *   n = msa_lexical_best(lex, 100, best);           // and msa_lexical_score(lex, doc)
 *
 * score(q, d) = sum over the words of q of idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * |d| / mean |d|)),
 * idf = ln(1 + (N - df + 0.5) / (df + 0.5)), and then divided by what a document would
 * reach with endlessly many of all words of q: a share of 0 to 1 that can be compared
 * from question to question. A word that q repeats counts as often.
 *
 * The file, little-endian, every section padded to 8 bytes:
 *   struct msa_lexical_header
 *   int64  doc_id[n_docs]       rising
 *   int32  doc_words[n_docs]
 *   bytes  postings             a term's list: for each document that has it, rising, the
 *                               distance of its place from the one before (the first: from -1)
 *                               and its count there, each a varint (7 bits a byte, low bits
 *                               first, the top bit set on all bytes but the last)
 *   uint64 term[n_terms]        rising
 *   int64  list[n_terms + 1]    where its list starts in postings
 *   int32  n_list[n_terms]      documents in it
 * It is replaced as a whole. One that is damaged, of another version or of other
 * documents is made anew; nothing else depends on it. */
#ifndef MSA_ENGINE_LEXICAL_H
#define MSA_ENGINE_LEXICAL_H

#include "engine/bank.h"

#define MSA_LEXICAL_MAGIC "MSALEXIX"
#define MSA_LEXICAL_VERSION 2

typedef struct msa_lexical_header {
    char magic[8];
    uint32_t version;
    uint32_t zero;
    uint64_t check;            /* XXH3-64 of this header, these eight bytes zero */
    uint64_t content;          /* XXH3-64 of all bytes behind it */
    char key[64];              /* what was indexed: SHA-256 over the source's state and the ids */
    int64_t n_docs, n_terms;
    int64_t n_words;           /* sum of doc_words */
    int64_t n_postings;        /* bytes, without their padding */
    int64_t file_bytes;
} msa_lexical_header;

typedef struct msa_lexical msa_lexical;

/* What is indexed: the documents of bank that are not withdrawn. */
typedef struct msa_lexical_source {
    const msa_bank *bank;
    const char *state;         /* a name of the texts: another name is another index */
    msa_doc_text *text;        /* asked for each document in turn; without a text it has no words */
    void *user;
    atomic_int *stop;          /* not 0: give up and return MSA_END; may be NULL */
} msa_lexical_source;

/* Opens the index at path, and makes it first when there is none of this state. A
 * second process that needs it meanwhile waits (lock: path.lock). */
msa_rc msa_lexical_open(const char *path, const msa_lexical_source *source, msa_lexical **out, msa_err *err);
void msa_lexical_close(msa_lexical *l);
int64_t msa_lexical_docs(const msa_lexical *l);
int64_t msa_lexical_bytes(const msa_lexical *l);   /* of the file */

/* Scores every document against a question, for the two calls below. */
msa_rc msa_lexical_ask(msa_lexical *l, const char *question, int64_t n, msa_err *err);
/* Score of a document; 0 when it has no word of the question or is not indexed. */
double msa_lexical_score(const msa_lexical *l, int64_t doc);
/* The best k documents with a score above 0, best first, ties to the smaller id;
 * out [k], score is set in both places. Returns their number. */
int64_t msa_lexical_best(const msa_lexical *l, int64_t k, msa_scored *out);

#endif
