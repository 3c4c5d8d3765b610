/* Between the reader of job files and that of batch lines. */
#ifndef MSA_JOBS_JOB_INTERNAL_H
#define MSA_JOBS_JOB_INTERNAL_H

#include <jansson.h>

#include "jobs/id_map.h"
#include "jobs/job.h"

/* Growing a job. */
typedef struct msa_job_build {
    msa_job *job;
    msa_id_map ids;          /* custom_id -> number of its query + 1 */
    const char *queries_path; /* the file whose lines are being read, for messages */
    int64_t cap, cap_bad;
} msa_job_build;

void msa_ask_defaults(msa_ask *a);
/* Takes over the keys of `from` that are there; they have been validated. */
void msa_ask_merge(msa_ask *a, const json_t *from);

/* Why a question's text is not accepted; NULL: it is. *code as in
 * schemas/error.schema.json. */
const char *msa_query_fault(const char *text, int64_t n, const char **code);
/* Adds a question that has no fault; its strings are copied. A custom_id that is
 * there already is MSA_END, with *twin the number of the query that has it. */
msa_rc msa_job_add(msa_job_build *b, const msa_query *q, int64_t *twin, msa_err *err);
msa_rc msa_job_add_bad(msa_job_build *b, const char *custom_id, int64_t line, const char *code,
                       const char *message, msa_err *err);

/* Reads a file of batch lines into the job. Only what concerns the whole file
 * (it cannot be opened) is an error. */
msa_rc msa_batch_lines_read(msa_job_build *b, const char *path, msa_err *err);

#endif
