/* A small world for tests of questions and answers: a byte-level tokenizer, a
 * model with random weights or one that follows a script, documents of random
 * text prefilled into a bank in a temporary folder. */
#ifndef MSA_TESTS_SUPPORT_ANSWER_H
#define MSA_TESTS_SUPPORT_ANSWER_H

#include "engine/model_internal.h"

/* Ids of the tokenizer: bytes are 0 .. 255, then these added tokens; the model has
 * two ids more that no text stands for. */
enum {
    MSA_TEST_IM_START = 256,
    MSA_TEST_IM_END,
    MSA_TEST_REF_END,      /* <|object_ref_end|> */
    MSA_TEST_EOS,
    MSA_TEST_LIST = 260,   /* + i: the text "[i]", i = 0 .. 9 */
    MSA_TEST_N_IDS = 270,
    MSA_TEST_V = 272
};

typedef struct msa_test_world_opts {
    const char *backend;         /* NULL: ref */
    msa_dtype act;
    msa_protocol_kind kind;
    bool scripted;               /* the token behind x is next[x]; otherwise random weights */
    const int16_t *next;         /* [MSA_TEST_V] */
    bool coupled;
    int64_t top_k;               /* 0: 3 */
    int64_t n_docs;              /* ids 1 .. n_docs */
    int64_t extent_chunks;       /* 0: 16 */
    uint64_t seed;
} msa_test_world_opts;

typedef struct msa_test_world {
    char folder[64];
    msa_model *model;            /* with protocol and tokenizer, weights as asked */
    msa_bank *bank;
    char **text;                 /* [n_docs + 1], by id */
    int64_t n_docs;
} msa_test_world;

/* Fail the test when something cannot be made. */
void msa_test_world_open(msa_test_world *w, const msa_test_world_opts *o);
void msa_test_world_close(msa_test_world *w);

/* Replaces a protocol string. */
void msa_test_set(char **field, const char *value);
/* msa_doc_text over a world. */
msa_rc msa_test_doc_text(void *world, int64_t doc, const char **text, int64_t *n, msa_err *err);

/* A copy of an answer that outlives the callback. */
typedef struct msa_test_answer {
    msa_answer a;   /* text, rounds and evidence are its own */
    bool there;
} msa_test_answer;

/* Asks all questions with an answerer of these options (text and user are
 * filled in); question i has tag i. out [n]. */
void msa_test_ask(msa_test_world *w, const msa_answerer_opts *opts, const msa_question *qs, int64_t n,
                  msa_test_answer *out);
void msa_test_answers_free(msa_test_answer *a, int64_t n);
/* The same answer to the last bit? */
void msa_test_same_answer(const msa_answer *a, const msa_answer *b);

#endif
