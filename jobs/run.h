/* Runs a job: validate, plan, ingest, prefill, answer, write down.
 *
 *   msa_run_job(job, &opts, &report);     // never fails to fill the report
 *   exit(report.exit_code);
 *
 * Every stage reads what the one before it left on disk, so a run that was
 * stopped at any point is repeated by running it again: ingest knows its files,
 * prefill its documents, the journal its answers. */
#ifndef MSA_JOBS_RUN_H
#define MSA_JOBS_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine.h"
#include "ingest/ingest.h"
#include "jobs/job.h"
#include "jobs/status.h"

typedef enum msa_lock_mode { MSA_LOCK_FAIL, MSA_LOCK_WAIT, MSA_LOCK_SKIP } msa_lock_mode;
typedef enum msa_run_part { MSA_RUN_ALL, MSA_RUN_INGEST, MSA_RUN_PREFILL } msa_run_part;

typedef struct msa_run_opts {
    msa_run_part part;
    msa_model_opts model;
    msa_lock_mode lock;
    bool restart;              /* forget earlier answers */
    bool retry_quarantined;    /* read once more what ended the parser before */
    const char *extract_path;  /* the msa-extract program */
    msa_progress_fn *progress; /* may be NULL */
    void *user;
} msa_run_opts;

typedef struct msa_query_counts {
    int64_t total, answered, not_found, partial, failed;
    int64_t kept;              /* of these, answered by an earlier run */
} msa_query_counts;

typedef struct msa_run_report {
    int exit_code;
    bool nothing_to_do;
    bool skipped;              /* lock held, and the caller said skip */
    bool ingested;             /* files counts are those of this run */
    msa_query_counts queries;
    msa_ingest_counts files;
    msa_err err;               /* why, when exit_code is neither 0, 2 nor 3 */
} msa_run_report;

void msa_run_job(const msa_job *job, const msa_run_opts *opts, msa_run_report *report);

#define MSA_EXIT_SOME_FAILED 2
#define MSA_EXIT_OVER_LIMIT 3

#endif
