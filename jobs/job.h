/* A job as it will be run: read from a job file or made from a batch of lines,
 * validated, defaults merged, paths resolved.
 *
 *   msa_job_read("job.json", &job, err);       // or msa_job_from_batch
 *   for (i = 0; i < job->n_queries; i++) ask(&job->queries[i]);
 *   msa_job_free(job);
 *
 * The job object is all or nothing: what its schema does not allow is
 * MSA_FAILED, MSA_E_DATA, naming key and line, and what a later version will do
 * (modes review and find, reports) is MSA_E_CONFIG. Lines of a batch file fail
 * one by one: they stand in `bad`, the rest run. */
#ifndef MSA_JOBS_JOB_H
#define MSA_JOBS_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "ingest/ingest.h"
#include "kernels/kernels.h"

#define MSA_JOB_MAX_BYTES (256LL << 20)       /* a job file */
#define MSA_JOB_MAX_LINE_BYTES (16LL << 20)   /* a line of a batch file */
#define MSA_JOB_MAX_QUERY_BYTES (1LL << 20)   /* the text of one question */

/* How a question is answered. */
typedef struct msa_ask {
    int64_t max_tokens;
    double temperature, top_p;
    int64_t seed;
    int64_t top_k_docs;  /* 0: the model's */
    int64_t max_rounds;
    bool verify_quotes;
} msa_ask;

typedef struct msa_query {
    const char *custom_id;
    const char *text;    /* UTF-8, NUL-terminated */
    int64_t n;
    int64_t line;        /* of the batch file, from 1; 0 when it stands in the job object */
    int64_t place;       /* in the job object's queries, from 0; -1 when it does not */
    msa_ask ask;
} msa_query;

/* A line that is no question. */
typedef struct msa_bad_query {
    const char *custom_id;  /* NULL: none that can be read */
    const char *code;       /* as in schemas/error.schema.json */
    const char *message;
    int64_t line;
} msa_bad_query;

typedef struct msa_failure_limit {
    bool set, percent;
    double value;
} msa_failure_limit;
/* Are `failed` of `total` more than the limit allows? */
bool msa_failure_limit_exceeded(const msa_failure_limit *l, int64_t failed, int64_t total);

typedef struct msa_job {
    const char *path;        /* of the job or batch file, as given */
    char sha256[65];         /* of that file */
    const char *id;
    const char *store, *model, *out_dir;  /* resolved against the job file */
    msa_source *sources;
    int64_t n_sources;       /* 0: the store is used as it is */
    msa_on_change on_change;
    bool isolation_required;   /* of parsers, by a system call filter */
    int64_t passage_tokens;  /* 0: the default */
    msa_dtype bank_dtype;
    msa_ingest_limits limits;
    int64_t corpus_tokens;   /* the corpus may have at most as many; 0: any number */
    msa_ask defaults;
    msa_query *queries;
    int64_t n_queries;
    msa_bad_query *bad;
    int64_t n_bad;
    int64_t deadline_s;      /* 0: none */
    msa_failure_limit max_failed_files, max_failed_queries;
    msa_arena *arena;        /* owns every string above */
} msa_job;

msa_rc msa_job_read(const char *path, msa_job **out, msa_err *err);
/* A bare file of OpenAI batch lines; paths as given, id from the file's name. */
msa_rc msa_job_from_batch(const char *path, const char *store, const char *model,
                          const char *out_dir, msa_job **out, msa_err *err);
void msa_job_free(msa_job *j);

#endif
