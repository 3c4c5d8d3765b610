/* The engine: opens a model, prefills documents into a memory bank, routes
 * questions and generates answers. Nothing here knows about files of a corpus
 * or about jobs; texts and token streams come through callbacks. What is
 * computed stands in Chen et al., arXiv 2603.23516, and docs/MSA.md.
 *
 *   msa_model_open("models/default", &mopts, &model, err);
 *   msa_bank_open("store/bank", model, MSA_BANK_WRITE, dtype, &bank, err);
 *   msa_prefill_run(model, bank, next_doc, user, &popts, &pstat, err);
 *   msa_answerer_new(model, bank, &aopts, &ans, err);
 *   while (msa_answerer_room(ans) > 0 && more) msa_answerer_submit(ans, &q, err);
 *   while (msa_answerer_active(ans)) msa_answerer_step(ans, on_answer, user, err);
 *
 * Handles are used by one thread at a time. */
#ifndef MSA_ENGINE_ENGINE_H
#define MSA_ENGINE_ENGINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "ingest/tokenizer.h"
#include "kernels/kernels.h"

/* ---- model ------------------------------------------------------------------ */

typedef struct msa_model msa_model;

typedef struct msa_model_opts {
    const char *backend;   /* "auto", "ref", "cpu", "cuda:0"; NULL = "auto" */
    msa_dtype compute;     /* act type: MSA_F32 or MSA_BF16 */
    bool compute_auto;     /* bf16 where the device multiplies it in hardware, else f32 */
    int n_threads;         /* 0: all */
    int64_t device_bytes;  /* what plans may count on of a card's memory; 0: what is free */
} msa_model_opts;

/* config.json, read and checked, without any weight. */
typedef struct msa_config {
    bool qk_norm;                /* Qwen3 type; decided by the tensors present */
    int64_t n_layers, E, H, G, D, I, V;
    int64_t max_positions;
    float rms_eps;
    double rope_theta;
    bool tied;                   /* output matrix is the embedding */
    int64_t n_router;            /* router layers */
    int64_t router_layers[256];  /* their indices, rising */
    int64_t P, top_k;
    bool decoupled;              /* router projections of their own */
    msa_kern_route route;        /* heads, unit, scale, reductions */
} msa_config;

/* Who chooses documents (msa_protocol.json; docs/MSA.md section "Protocols"). */
typedef enum msa_protocol_kind { MSA_PROTOCOL_GENERATIVE, MSA_PROTOCOL_ROUTER } msa_protocol_kind;

/* Template strings; {id}, {n}, {text}, {question}, {evidence} are replaced.
 * Special tokens are recognised in the templates alone. */
typedef struct msa_protocol {
    msa_protocol_kind kind;
    char *document_head, *document_tail;  /* around a document: "<|im_start|>[{id}]. " */
    char *template_head;                  /* before the memory: "<|im_start|>user\n" */
    char *question_before, *question_after; /* around the question; these route too */
    bool route_question_only;             /* router protocol: only the question's own tokens route */
    char *template_tail, *response_head;  /* attend only */
    /* generative protocol: Memory Interleave */
    char *retrieve_end;                   /* ends a list of ids: "<|object_ref_end|>" */
    char *retrieve_done;                  /* "<End-of-Retrieve>" */
    char *interleave_item;                /* "[{id}]. {text}\n" */
    char *answer_head;                    /* "<|im_start|>The user's question is: {question}\n<|object_ref_end|>" */
    /* router protocol */
    double layer_weights[256];            /* one a router layer; default 1/n_router each */
    int64_t evidence_docs, evidence_tokens;
    char *evidence_item;                  /* "[{n}] {text}\n" */
    char *answer_prompt;                  /* chat template with {evidence} and {question} */
    bool attend_memory;                   /* pooled K/V of the chosen documents join the answer pass */
    bool has_min_score;
    double min_score;                     /* best score, with the lexical one, below it: not_found */
    double lexical_weight;                /* of the lexical score beside the router's; 0: none */
    int64_t lexical_candidates;           /* documents that each of the two proposes */
    char *not_found_text;                 /* an answer beginning with it is not_found; may be NULL */
    struct {
        double base, score;               /* base + score * the best document's, added to the logits of */
    } not_found_bias;                     /* what begins not_found_text, at an answer's first token */
    bool not_found_by_passage;            /* what decides: each passage read alone, not the answer's prompt */
    int64_t read_docs;                    /* best documents read alone before evidence is chosen; 0: as many as
                                             evidence_docs where not_found_by_passage, else none */
    double read_weight;                   /* of the odds that a passage read alone holds the answer, beside its score */
    /* both */
    char *answer_end;                     /* "<|im_end|>" */
} msa_protocol;

/* Opens a Hugging Face folder: config.json, model.safetensors or its index,
 * tokenizer.json, msa_protocol.json (absent: the published strings). Everything
 * is checked before weights are packed: shapes, missing tensors, NaN and
 * infinite weights, offsets, unsupported options. MSA_FAILED with MSA_E_CONFIG
 * or MSA_E_DATA names file and tensor. */
msa_rc msa_model_open(const char *dir, const msa_model_opts *opts, msa_model **out, msa_err *err);
/* The same without tokenizer and protocol, for golden cases that are token ids. */
msa_rc msa_model_open_bare(const char *dir, const msa_model_opts *opts, msa_model **out, msa_err *err);
void msa_model_close(msa_model *m);
const msa_config *msa_model_config(const msa_model *m);
const msa_protocol *msa_model_protocol(const msa_model *m);
const msa_tokenizer *msa_model_tokenizer(const msa_model *m);
const char *msa_model_name(const msa_model *m);         /* the folder's last component */
/* 64 hexadecimal digits over what a bank and a corpus are bound to: weights, their
 * shapes and constants, router layers, P, tokenizer, document template. Neither
 * the backend and compute type nor what only questions use is in it. */
const char *msa_model_fingerprint(const msa_model *m);
msa_kern *msa_model_kern(msa_model *m);
int64_t msa_model_weight_bytes(const msa_model *m);

/* Reads config.json, msa_protocol.json and the fingerprint only (weights are
 * hashed, not loaded): for plan and validate. answer_id: 64 digits over the
 * fingerprint and all else of the folder that an answer depends on (K, reductions,
 * templates). protocol may be NULL. */
msa_rc msa_model_peek(const char *dir, msa_config *config, msa_protocol *protocol, char fingerprint[65],
                      char answer_id[65], int64_t *weight_bytes, msa_err *err);
void msa_protocol_free(msa_protocol *p);

/* ---- memory bank ------------------------------------------------------------- */

/* Extents of pooled rows on disk; the format stands in engine/bank.h. */
typedef struct msa_bank msa_bank;
typedef enum msa_bank_mode { MSA_BANK_READ, MSA_BANK_WRITE } msa_bank_mode;

/* Opens (WRITE: or creates) the bank in folder dir. dtype is that of a new
 * bank's rows (MSA_BF16 or MSA_F32); an existing bank keeps its own. Another
 * model's bank: MSA_FAILED, MSA_E_REFUSED, before anything is mapped. A damaged
 * extent: with READ MSA_FAILED, MSA_E_DATA naming it; with WRITE it and all
 * behind it are set aside, to be prefilled again, and *err notes it (MSA_WARN). */
msa_rc msa_bank_open(const char *dir, const msa_model *model, msa_bank_mode mode, msa_dtype dtype,
                     msa_bank **out, msa_err *err);
void msa_bank_close(msa_bank *b);

typedef struct msa_bank_stat {
    int64_t n_extents, n_docs, n_withdrawn, n_chunks, n_tokens, bytes;
    int64_t last_doc;      /* highest document id in the bank, 0 when empty */
    msa_dtype dtype;
    char fingerprint[65];
} msa_bank_stat;
void msa_bank_stat_get(const msa_bank *b, msa_bank_stat *out);
/* Counts without a model, for status and plan; MSA_END when there is no bank. */
msa_rc msa_bank_peek(const char *dir, msa_bank_stat *out, msa_err *err);
/* Compares every extent with its checksums, without a model. Tells the documents
 * of whole extents, in order, and each damage in words. MSA_END: there is no bank. */
typedef void msa_bank_seen(void *user, int64_t doc, int64_t n_tokens, bool alive);
typedef void msa_bank_damage(void *user, const char *what);
msa_rc msa_bank_verify(const char *dir, msa_bank_seen *seen, msa_bank_damage *damage, void *user,
                       int64_t *n_extents, msa_err *err);
/* Durable tombstones; ids that are not in the bank or withdrawn already are
 * ignored, so that it can be repeated. */
msa_rc msa_bank_withdraw(msa_bank *b, const int64_t *ids, int64_t n, msa_err *err);
/* Is the document in the bank and not withdrawn? */
bool msa_bank_has(const msa_bank *b, int64_t doc);

/* ---- stage 1: prefill ---------------------------------------------------------- */

typedef struct msa_doc_tokens {
    int64_t id;             /* rising from call to call */
    const int32_t *ids;     /* the wrapped document; valid until the next call */
    int64_t n;
} msa_doc_tokens;
/* MSA_OK with *out filled, MSA_END behind the last one, < 0 with err. */
typedef msa_rc msa_next_doc(void *user, msa_doc_tokens *out, msa_err *err);

typedef struct msa_prefill_opts {
    int64_t extent_chunks;     /* an extent closes before it would exceed this; 0: 2048 */
    atomic_int *stop;          /* 1: finish the extent in flight and return MSA_END; 2: drop it and return */
    void (*progress)(void *user, int64_t docs, int64_t tokens);
    void *user;
} msa_prefill_opts;
typedef struct msa_prefill_stat {
    int64_t docs, tokens, chunks, extents;
    double seconds;
    double device_seconds;     /* of them the device had a batch: from its first operation there
                                * to its last, waits for the host in between included */
} msa_prefill_stat;

/* Encodes every document (ids must exceed the bank's last_doc) and appends the
 * extents. What a document's rows hold depends on its own tokens alone, and
 * where extents end on the sequence of documents alone, so that a killed and
 * repeated prefill gives the same bytes. A document longer than the model's
 * positions is MSA_FATAL: ingest cuts passages far below. An empty document or a
 * token outside the vocabulary is MSA_FAILED, MSA_E_DATA, with the document in
 * err; after any error the bank holds the extents that stat counts. opts and
 * stat may be NULL. */
msa_rc msa_prefill_run(msa_model *m, msa_bank *b, msa_next_doc *next, void *user,
                       const msa_prefill_opts *opts, msa_prefill_stat *stat, msa_err *err);

/* ---- stage 2 and 3: questions --------------------------------------------------- */

typedef struct msa_scored {
    int64_t doc;
    double score;           /* what lists are sorted by */
    double router, lexical; /* what it was made of where a lexical score joined; router is NAN
                               for a document that is not among the router's candidates */
} msa_scored;

/* Scores by words (engine/lexical.h). */
typedef struct msa_lexical msa_lexical;

/* Original text of a document, for rounds and evidence: a pointer valid until
 * the next call. MSA_END: no such document. */
typedef msa_rc msa_doc_text(void *user, int64_t doc, const char **text, int64_t *n, msa_err *err);

typedef struct msa_question {
    int64_t tag;            /* the caller's */
    const char *text;       /* UTF-8, copied */
    int64_t n;
    int64_t max_tokens;     /* of the answer */
    double temperature, top_p;
    uint64_t seed;
    int64_t top_k_docs;     /* 0: the model's */
    int64_t max_rounds;     /* generative protocol */
} msa_question;

typedef enum msa_outcome { MSA_ANSWERED, MSA_NOT_FOUND, MSA_PARTIAL } msa_outcome;

/* A document that was read alone. */
typedef struct msa_reading {
    int64_t doc;
    double score;           /* as it was routed */
    double lean;            /* the logit that begins not_found_text less the largest other: ln of the odds
                               against its holding the answer */
} msa_reading;

/* One retrieval round, as it stands in a result's trace. */
typedef struct msa_round {
    msa_scored *routed;     /* best first; score: combined over router layers */
    int64_t n_routed;
    int64_t *chosen;        /* documents whose text joined the context */
    int64_t n_chosen;
    msa_reading *read;      /* in the order of routing; those whose lean is not NAN were read */
    int64_t n_read;
    bool fused;             /* a lexical score joined: routed[].router and .lexical are set */
} msa_round;

typedef struct msa_answer {
    int64_t tag;
    msa_outcome outcome;
    const char *finish_reason;   /* "stop", "length" or "content" (a limit on rounds or lists) */
    const char *limit;           /* which limit was reached when PARTIAL, else NULL */
    char *text;                  /* the answer, NUL-terminated UTF-8 */
    msa_round *rounds;
    int64_t n_rounds;
    int64_t *evidence;           /* documents put into the context, in the order of their numbers [1].. */
    int64_t n_evidence;
    int64_t prompt_tokens, completion_tokens;
    double not_found_lean;       /* the logit that begins not_found_text less the largest other, at the answer's
                                    first token and without the bias; with not_found_by_passage
                                    -ln(sum of exp(-that)) over the documents read alone; NAN where there is
                                    none */
    msa_rc rc;                   /* MSA_OK, or MSA_FAILED with err: this question failed alone */
    msa_err err;
} msa_answer;

typedef struct msa_answerer msa_answerer;
typedef struct msa_answerer_opts {
    int64_t max_batch;      /* questions in flight; 0: 16 */
    int64_t max_context;    /* tokens of one question's context, all rounds; 0: 8192, at most the model's */
    msa_doc_text *text;
    void *user;
    msa_lexical *lexical;   /* of the same bank; NULL: the router's score alone, whatever the protocol says */
} msa_answerer_opts;

msa_rc msa_answerer_new(msa_model *m, msa_bank *b, const msa_answerer_opts *opts, msa_answerer **out,
                        msa_err *err);
void msa_answerer_free(msa_answerer *a);
int64_t msa_answerer_room(const msa_answerer *a);    /* questions that can be admitted now */
int64_t msa_answerer_active(const msa_answerer *a);  /* questions in flight */
/* Admits a question; MSA_END when there is no room. A question that does not
 * fit the context comes back from step as a failed answer (MSA_E_DATA). */
msa_rc msa_answerer_submit(msa_answerer *a, const msa_question *q, msa_err *err);
/* One engine step for all questions in flight: rows of questions that enter a
 * round and one token for each that generates, together. Calls back for each
 * that finished; the answer is valid during the call. An answer does not depend
 * on which other questions are in flight beyond floating-point rounding; with
 * the "ref" backend not at all. */
typedef void msa_on_answer(void *user, const msa_answer *answer);
msa_rc msa_answerer_step(msa_answerer *a, msa_on_answer *fn, void *user, msa_err *err);

/* Routing alone, as `msa-batch route` does: for every question its best k
 * documents over all router layers. out[b] is an array of k, n_out[b] of them
 * filled, best first. Router protocol: the combined score. Generative protocol:
 * the mean over router layers of a document's score, 0 where it was not kept. */
msa_rc msa_route_run(msa_model *m, msa_bank *b, const msa_question *qs, int64_t B, int64_t k,
                     msa_scored **out, int64_t *n_out, msa_err *err);
/* The same as the router protocol has it: with the lexical score where it asks for
 * one; a list is then at most twice lexical_candidates long. lexical NULL: as above. */
msa_rc msa_route_fused(msa_model *m, msa_bank *b, msa_lexical *lexical, const msa_question *qs, int64_t B,
                       int64_t k, msa_scored **out, int64_t *n_out, msa_err *err);

/* ---- plan ------------------------------------------------------------------------ */

/* Where a bank's rows are while questions are answered. A backend that works in
 * host memory reads both in place in the mapped file. */
typedef enum msa_keys_place {
    MSA_KEYS_FILE,        /* mapped file, in place */
    MSA_KEYS_EXACT,       /* device */
    MSA_KEYS_I8_EXACT,    /* device, in 8 bits for the scan; exact rows beside them score the best again */
    MSA_KEYS_I8           /* device, in 8 bits; exact rows of the best come from the mapped file */
} msa_keys_place;
typedef enum msa_content_place {
    MSA_CONTENT_FILE,     /* mapped file: in place, or (a device) not attended to */
    MSA_CONTENT_EXACT,    /* device */
    MSA_CONTENT_I8,       /* device, in 8 bits */
    MSA_CONTENT_PINNED,   /* pinned host memory, read in place by the device */
    MSA_CONTENT_STAGED    /* mapped file; rows of attended documents are copied to the device */
} msa_content_place;

typedef struct msa_tiers {
    msa_keys_place keys;
    msa_content_place content;
    int64_t key_bytes;       /* router keys where `keys` says, both kinds of them */
    int64_t content_bytes;   /* K and V where `content` says */
    int64_t table_bytes;     /* device: which chunks are a document's, ids, tombstones */
    int64_t attended_bytes;  /* device: rows of attended documents (STAGED), typical lengths */
    int64_t ring_bytes;      /* pinned memory that rows are loaded through, and as much on the device */
    int64_t device_bytes, host_bytes; /* all of the above by where it is; 0 where the file is read */
} msa_tiers;

typedef struct msa_plan_in {
    const msa_config *config;
    int64_t weight_bytes;
    int64_t n_chunks, n_docs;     /* documents and chunks the bank will hold */
    msa_dtype bank_dtype, compute;
    int64_t max_batch, max_context;
    bool text_only;               /* chosen documents are read as text, never attended to */
} msa_plan_in;
typedef struct msa_plan {
    int64_t weights_bytes;         /* device */
    int64_t router_key_bytes;      /* device tier; on a CPU: mapped file */
    int64_t content_bytes;         /* K and V: host tier or mapped file */
    int64_t bank_file_bytes;       /* on disk */
    int64_t scratch_bytes;         /* device: activations, caches, scan, and what stays free */
    int64_t staging_bytes;         /* pinned host memory: an extent being computed, one being written */
    msa_tiers tiers;               /* where rows are to go; the smallest arrangement when none fits */
} msa_plan;
/* Allocates nothing. Scratch is that of prefill or of answering, whichever is
 * more: they do not run at the same time. max_batch and max_context 0: those of
 * msa_answerer_opts. What is free is asked of k, whose weights are not loaded
 * unless weight_bytes is 0. MSA_FAILED, MSA_E_CONFIG when a product overflows. */
msa_rc msa_engine_plan(msa_kern *k, const msa_plan_in *in, msa_plan *out, msa_err *err);

#endif
