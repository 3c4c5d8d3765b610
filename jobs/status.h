/* status.json of an output folder: replaced atomically, at most once a second,
 * in the words of OpenAI's batches. The same figures go to whoever shows
 * progress to people. */
#ifndef MSA_JOBS_STATUS_H
#define MSA_JOBS_STATUS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

typedef enum msa_stage {
    MSA_STAGE_VALIDATE, MSA_STAGE_PLAN, MSA_STAGE_INGEST, MSA_STAGE_LOAD, MSA_STAGE_PREFILL,
    MSA_STAGE_ANSWER, MSA_STAGE_FINALIZE
} msa_stage;
const char *msa_stage_name(msa_stage s);

typedef struct msa_progress {
    const char *job_id;
    msa_stage stage;
    int64_t queries, completed, failed;
    int64_t files_seen, files_done, docs, docs_prefilled;
    int64_t done, total;       /* of the current stage, in its own unit; total 0: not known */
    int64_t eta_s;             /* of the current stage; -1: not known */
} msa_progress;
typedef void msa_progress_fn(void *user, const msa_progress *p);

typedef struct msa_status {
    char *path;                /* NULL: no file is kept */
    msa_progress now;
    int64_t created_at, stage_began_ms, written_ms;
    msa_progress_fn *fn;       /* may be NULL */
    void *user;
} msa_status;

/* dir NULL: no file. The id is borrowed. */
msa_rc msa_status_init(msa_status *s, const char *dir, const char *job_id, msa_progress_fn *fn,
                       void *user, msa_err *err);
void msa_status_free(msa_status *s);

/* Enters a stage and writes the file. */
msa_rc msa_status_stage(msa_status *s, msa_stage stage, msa_err *err);
/* After changes to `now`: shows progress, and writes the file when it is a
 * second old. Failing to write it is no reason to stop: logged only. */
void msa_status_update(msa_status *s);
/* The last word: "completed", "failed", "expired" or "cancelled". error may be
 * NULL. */
msa_rc msa_status_end(msa_status *s, const char *word, int exit_code, const char *error, msa_err *err);

int64_t msa_now_ms(void); /* monotonic */

#endif
