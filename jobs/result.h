/* Lines of results.jsonl and errors.jsonl, as in schemas/result.schema.json and
 * schemas/error.schema.json. */
#ifndef MSA_JOBS_RESULT_H
#define MSA_JOBS_RESULT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "ingest/ingest.h"

typedef struct msa_result_in {
    const char *job_id, *custom_id, *model;
    const msa_answer *answer;
    const msa_corpus *corpus;
    int64_t context_tokens;   /* of the documents in memory */
    bool verify_quotes;
} msa_result_in;

/* Appends the result line, its line end included. */
msa_rc msa_result_put(const msa_result_in *in, msa_buf *out, msa_err *err);

typedef struct msa_error_in {
    const char *job_id;
    const char *custom_id;    /* NULL: none */
    int64_t line;             /* of the batch file; 0: none */
    const char *code, *message, *stage;
    bool retryable;
} msa_error_in;
msa_rc msa_error_put(const msa_error_in *in, msa_buf *out, msa_err *err);

/* An error's name in errors.jsonl, and whether trying again may help. */
const char *msa_error_code(msa_code code);
bool msa_error_retryable(msa_code code);

#endif
