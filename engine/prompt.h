/* What a protocol's strings become: token ids of the parts of a context, lists of
 * documents out of generated text, and the text of an answer. Nothing here runs
 * the model. */
#ifndef MSA_ENGINE_PROMPT_H
#define MSA_ENGINE_PROMPT_H

#include "engine/sequence.h"

/* The fixed parts of a model's protocol, tokenised once. */
typedef struct msa_prompts {
    const msa_model *model;
    char *question;            /* question_before {question} question_after */
    msa_tokens head;           /* template head */
    msa_tokens tail;           /* template tail, response head: generative protocol */
    int32_t retrieve_end;      /* generative protocol, one token */
    msa_tokens done;           /* retrieve_done: ordinary text with the published tokenizer */
    int32_t stop[16];          /* any of these ends an answer */
    int64_t n_stop;
    int32_t none[2];           /* tokens that begin not_found_text, with a space before it and without */
    int64_t n_none;
} msa_prompts;

/* MSA_FAILED, MSA_E_CONFIG when a string that has to be one token is not, or a
 * template makes ids outside the model's vocabulary. */
msa_rc msa_prompts_init(msa_prompts *p, const msa_model *m, msa_err *err);
void msa_prompts_free(msa_prompts *p);
bool msa_prompts_stops(const msa_prompts *p, int32_t id);

/* The question part of a context appended to out, and which of its tokens route
 * (places in out). Text that is not UTF-8 or is empty: MSA_FAILED, MSA_E_DATA. */
msa_rc msa_prompts_question(const msa_prompts *p, const char *text, int64_t n, msa_tokens *out,
                            msa_span *route, msa_err *err);

/* One document as a round of Memory Interleave appends it. */
msa_rc msa_prompts_item(const msa_prompts *p, int64_t doc, const char *text, int64_t n,
                        msa_tokens *out, msa_err *err);

/* The answer head of the generative protocol. */
msa_rc msa_prompts_answer_head(const msa_prompts *p, const char *question, int64_t n, msa_tokens *out,
                               msa_err *err);

/* The answer prompt of the router protocol. */
msa_rc msa_prompts_answer(const msa_prompts *p, const char *question, int64_t n, const msa_buf *evidence,
                          msa_tokens *out, msa_err *err);

/* Appends the text as evidence number `number` and takes its tokens off *budget;
 * MSA_END (nothing appended) when they exceed it. With cut, a text that exceeds
 * it is shortened at the border of a token instead; MSA_END then means that not
 * one token of it fits. scratch is cleared. */
msa_rc msa_prompts_evidence(const msa_prompts *p, int64_t number, const char *text, int64_t n, bool cut,
                            int64_t *budget, msa_tokens *scratch, msa_buf *out, msa_err *err);

/* Most documents that one generated list may name, and most tokens it may have. */
#define MSA_LIST_DOCS 64
#define MSA_LIST_TOKENS 1024

/* The ids in a generated list such as "[17][4]": decimal numbers in brackets,
 * anything else is passed over. The first MSA_LIST_DOCS different ids, rising, in
 * docs [MSA_LIST_DOCS]; *more: there were further ones. */
int64_t msa_list_parse(const char *text, int64_t n, int64_t *docs, bool *more);

/* Appends the bytes of one generated id to out. An id that the tokenizer does not
 * know (padded embeddings) has none; special tokens have theirs with keep_special. */
void msa_generated_bytes(const msa_tokenizer *t, int32_t id, bool keep_special, msa_buf *out);

/* Appends the text of generated ids to out: valid UTF-8 (U+FFFD for what is not,
 * and for NUL; a character cut off at the end is dropped), white space at both
 * ends removed. Special tokens and ids that the tokenizer does not know are left
 * out. */
msa_rc msa_answer_text(const msa_tokenizer *t, const int32_t *ids, int64_t n, msa_buf *out,
                       msa_err *err);

/* Uniform in [0, 1) from a question's seed and the count of tokens generated
 * before: independent of batching. */
float msa_sample_uniform(uint64_t seed, int64_t step);

#endif
