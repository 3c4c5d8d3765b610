/* What a job will need, tier by tier, said before any of it is allocated. */
#ifndef MSA_JOBS_JOB_PLAN_H
#define MSA_JOBS_JOB_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "jobs/job.h"

typedef struct msa_job_plan {
    /* what the job holds */
    int64_t docs, chunks, tokens;   /* alive in the corpus, and expected of new files */
    int64_t new_files, new_bytes;   /* files of the sources that the corpus does not have yet */
    bool estimated;                 /* new_files: chunks and tokens contain a guess */
    /* bytes it takes */
    msa_plan need;
    int64_t max_batch;              /* questions in flight that the scratch is for */
    int64_t bank_bytes_now;         /* on disk already */
    /* bytes there are; -1: not known */
    int64_t host_free, device_free, disk_free;
    bool host_device;               /* the device works in host memory */
    const char *backend, *device;   /* borrowed from the msa_kern */
} msa_job_plan;

/* How many tokens a byte of new input gives, for files not read yet: text at 4
 * bytes a token; archives and PDFs are taken as if they were text. */
#define MSA_PLAN_BYTES_PER_TOKEN 4

/* Opens the backend that a model would be opened with, to be asked and closed. */
msa_rc msa_job_plan_kern(const msa_model_opts *opts, msa_kern **out, msa_err *err);

/* As many questions at a time as the memory allows, at most this. */
#define MSA_PLAN_MAX_BATCH 16

/* Counts the corpus and, with sources, new files, and asks the engine. Allocates
 * no tensor. kern tells which device and how much is free there. */
msa_rc msa_job_plan_make(const msa_job *job, bool with_sources, msa_kern *kern,
                         const msa_config *config, int64_t weight_bytes, msa_job_plan *out, msa_err *err);

/* MSA_FAILED, MSA_E_CONFIG, naming the tier that is too small, when it cannot
 * fit. A guess never refuses. */
msa_rc msa_job_plan_check(const msa_job_plan *p, msa_err *err);

/* Appends the plan as text for people, a line each item. */
void msa_job_plan_print(const msa_job_plan *p, msa_buf *out);

/* Appends bytes in a unit for people: "57.6 GB". */
void msa_print_bytes(int64_t bytes, msa_buf *out);

#endif
