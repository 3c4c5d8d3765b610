/* What the files of a run share. */
#ifndef MSA_JOBS_RUN_INTERNAL_H
#define MSA_JOBS_RUN_INTERNAL_H

#include "base/file.h"
#include "jobs/outputs.h"
#include "jobs/run.h"

typedef struct msa_run {
    const msa_job *job;
    const msa_run_opts *opts;
    msa_run_report *report;
    msa_status status;
    msa_file_lock out_lock, store_lock;
    char *bank_dir;
    int64_t started_at, began_ms;

    /* the model: peeked at first, opened when there is work for it */
    msa_config config;
    msa_protocol protocol;
    bool peeked;
    char fingerprint[65], answer_id[65];
    int64_t weight_bytes;
    int64_t max_batch;          /* questions in flight, by the plan */
    msa_model *model;

    msa_corpus *corpus;
    char store_state[65];       /* hash over the documents alive */
    msa_bank *bank;
    msa_lexical *lexical;       /* where the protocol has a lexical score */
    int64_t context_tokens;     /* of the documents in memory */
    int64_t extents_new;        /* appended to the bank by this run */

    msa_outputs *outputs;
    uint64_t *keys;             /* [n_queries] */
    int64_t *pending;           /* numbers of the queries to ask */
    int64_t n_pending;

    double ingest_s, prefill_s, answer_s;
} msa_run;

/* run_store.c: the store's side. Each returns MSA_END when it was stopped. */
msa_rc msa_run_take_lock(const char *path, msa_lock_mode mode, msa_file_lock *l, bool *skip, msa_err *err);
msa_rc msa_run_peek_model(msa_run *r, msa_err *err);
msa_rc msa_run_plan(msa_run *r, bool with_sources, msa_err *err);
msa_rc msa_run_ingest(msa_run *r, msa_err *err);
msa_rc msa_run_open_corpus(msa_run *r, msa_err *err);
/* Brings the bank in line with the corpus, and the index of words with the bank, and
 * leaves both open for reading. repair: a damaged bank is mended instead of refused. */
msa_rc msa_run_bank(msa_run *r, bool repair, msa_err *err);
/* Does the bank hold exactly the corpus, by its own account? */
msa_rc msa_run_bank_settled(msa_run *r, bool *settled, msa_err *err);

/* run_answer.c: the questions. */
msa_rc msa_run_want(msa_run *r, msa_err *err);
msa_rc msa_run_answer(msa_run *r, msa_err *err);

/* run_receipt.c: run.json and manifest.jsonl of the output folder. */
/* Is the output folder's copy of the manifest that of the store as it is now? */
msa_rc msa_run_manifest_same(msa_run *r, bool *same, msa_err *err);
msa_rc msa_run_receipt(msa_run *r, int exit_code, msa_err *err);

#endif
