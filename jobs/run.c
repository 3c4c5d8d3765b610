#include "jobs/run.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "engine/lexical.h"
#include "jobs/run_internal.h"
#include "jobs/stop.h"

/* A stage behind which nothing may follow when the run was stopped. */
static msa_rc stopped(msa_rc rc)
{
    return rc >= 0 && (rc == MSA_END || atomic_load(msa_stop_flag())) ? MSA_END : rc;
}

static msa_rc stage(msa_run *r, msa_stage s, msa_err *err)
{
    return stopped(msa_status_stage(&r->status, s, err));
}

static msa_rc take_locks(msa_run *r, bool *skip, msa_err *err)
{
    const msa_job *j = r->job;
    /* nothing to put into it: a store that is not there is a slip of the pen */
    msa_rc rc = j->n_sources || msa_file_exists(j->store)
                    ? msa_file_mkdirs(j->store, err)
                    : msa_err_set(err, MSA_FAILED, MSA_E_NOINPUT, "%s: no such store", j->store);
    char *out = msa_file_join(j->out_dir, "lock"), *store = msa_file_join(j->store, "lock");
    if (rc == MSA_OK && (!out || !store))
        rc = msa_err_nomem(err, "locks");
    if (rc == MSA_OK && r->opts->part == MSA_RUN_ALL && (rc = msa_file_mkdirs(j->out_dir, err)) == MSA_OK)
        rc = msa_run_take_lock(out, r->opts->lock, &r->out_lock, skip, err);
    if (rc == MSA_OK)
        rc = msa_run_take_lock(store, r->opts->lock, &r->store_lock, skip, err);
    free(out);
    free(store);
    return rc;
}

/* The weights are read when a stage needs them, and once. */
static msa_rc load_model(msa_run *r, msa_err *err)
{
    msa_rc rc = stage(r, MSA_STAGE_LOAD, err);
    if (rc == MSA_OK && (rc = msa_model_open(r->job->model, &r->opts->model, &r->model, err)) < 0)
        return msa_err_prefix(err, rc, "model %s", r->job->model);
    return stopped(rc);
}

/* A corpus that is larger than the job allows is refused before a model is loaded. */
static msa_rc check_size(const msa_run *r, msa_err *err)
{
    msa_file_tokens largest[5];
    int64_t n = 5, limit = r->job->corpus_tokens;
    if (!limit || r->context_tokens <= limit)
        return MSA_OK;
    msa_buf names = {0};
    msa_corpus_largest(r->corpus, largest, &n);
    for (int64_t i = 0; i < n; i++)
        msa_buf_printf(&names, "%s%.200s (%lld)", i ? ", " : "", largest[i].path, (long long)largest[i].tokens);
    msa_rc rc = msa_err_set(err, MSA_FAILED, MSA_E_CONFIG,
                            "the corpus has %lld tokens, corpus.limits.tokens allows %lld; its largest files: %s",
                            (long long)r->context_tokens, (long long)limit, names.data ? names.data : "");
    msa_buf_free(&names);
    return rc;
}

static msa_rc ingest_stage(msa_run *r, msa_err *err)
{
    msa_rc rc = stage(r, MSA_STAGE_INGEST, err);
    if (rc == MSA_OK && r->job->n_sources && r->opts->part != MSA_RUN_PREFILL)
        rc = msa_run_ingest(r, err);
    if (stopped(rc) == MSA_OK)
        rc = msa_run_open_corpus(r, err);
    if (stopped(rc) == MSA_OK)
        rc = check_size(r, err);
    return stopped(rc);
}

static msa_rc prefill_stage(msa_run *r, msa_err *err)
{
    msa_rc rc = stage(r, MSA_STAGE_PREFILL, err);
    return rc == MSA_OK ? stopped(msa_run_bank(r, r->opts->part == MSA_RUN_PREFILL, err)) : rc;
}

/* From an ingested store to results; MSA_END when stopped. */
static msa_rc answer_all(msa_run *r, msa_err *err)
{
    bool bank_settled = false, manifest_same = false;
    msa_rc rc = msa_outputs_open(r->job->out_dir, r->opts->restart, &r->outputs, err);
    if (rc == MSA_OK)
        rc = msa_run_want(r, err);
    if (rc == MSA_OK)
        rc = msa_run_bank_settled(r, &bank_settled, err);
    if (rc == MSA_OK)
        rc = msa_run_manifest_same(r, &manifest_same, err);
    if (rc < 0)
        return rc;
    r->report->nothing_to_do = bank_settled && manifest_same && msa_outputs_settled(r->outputs);
    if (r->report->nothing_to_do) {
        r->status.now.stage = MSA_STAGE_FINALIZE;
        r->status.now.docs_prefilled = r->status.now.docs;
        r->status.now.failed = r->report->queries.total - r->report->queries.kept;
        return MSA_OK;
    }
    if (!bank_settled || r->n_pending) {
        if ((rc = load_model(r, err)) == MSA_OK)
            rc = prefill_stage(r, err);
        msa_file_lock_drop(&r->store_lock); /* answering only reads */
    }
    if (rc == MSA_OK)
        rc = msa_outputs_begin(r->outputs, err);
    if (rc == MSA_OK && (rc = stage(r, MSA_STAGE_ANSWER, err)) == MSA_OK)
        rc = msa_run_answer(r, err);
    if (rc == MSA_OK && (rc = msa_status_stage(&r->status, MSA_STAGE_FINALIZE, err)) == MSA_OK) {
        const char **ids = msa_alloc(r->job->n_queries, sizeof *ids);
        for (int64_t i = 0; ids && i < r->job->n_queries; i++)
            ids[i] = r->job->queries[i].custom_id;
        rc = ids ? msa_outputs_finish(r->outputs, ids, r->job->n_queries, err) : msa_err_nomem(err, "results");
        free(ids);
    }
    return rc;
}

static msa_rc run_parts(msa_run *r, msa_err *err)
{
    msa_rc rc = stage(r, MSA_STAGE_PLAN, err);
    if (rc == MSA_OK)
        rc = msa_run_peek_model(r, err);
    if (rc == MSA_OK && r->opts->part != MSA_RUN_INGEST) /* which takes no tensor */
        rc = msa_run_plan(r, r->opts->part == MSA_RUN_ALL, err);
    if (stopped(rc) == MSA_OK)
        rc = ingest_stage(r, err);
    if (stopped(rc) != MSA_OK || r->opts->part == MSA_RUN_INGEST)
        return stopped(rc);
    if (r->opts->part == MSA_RUN_ALL)
        return answer_all(r, err);
    if ((rc = load_model(r, err)) == MSA_OK)
        rc = prefill_stage(r, err);
    return rc;
}

static int exit_code_of(const msa_run *r, msa_rc rc, const msa_err *err)
{
    const msa_run_report *p = r->report;
    int64_t files_failed = p->files.files.failed + p->files.members.failed;
    int64_t files = p->files.files.total + p->files.members.total;
    if (p->skipped)
        return 0;
    if (rc == MSA_END)
        return MSA_E_TEMPFAIL;
    if (rc == MSA_FATAL && r->model && err->code == MSA_E_UNAVAILABLE) {
        /* the device failed at work: worth another run when this one got on */
        const msa_query_counts *q = &p->queries;
        return r->extents_new > 0 || q->answered + q->not_found + q->partial > q->kept ? MSA_E_TEMPFAIL
                                                                                      : MSA_E_INTERNAL;
    }
    if (rc < 0)
        return err->code ? (int)err->code : MSA_E_INTERNAL;
    if (p->nothing_to_do)
        return 0;
    if (msa_failure_limit_exceeded(&r->job->max_failed_files, files_failed, files) ||
        msa_failure_limit_exceeded(&r->job->max_failed_queries, p->queries.failed, p->queries.total))
        return MSA_EXIT_OVER_LIMIT;
    return files_failed || p->queries.failed ? MSA_EXIT_SOME_FAILED : 0;
}

static const char *last_word(msa_rc rc)
{
    return rc < 0 ? "failed"
           : rc != MSA_END ? "completed"
           : atomic_load(msa_stop_flag()) == SIGALRM ? "expired" : "cancelled";
}

static void release(msa_run *r)
{
    msa_outputs_close(r->outputs);
    msa_bank_close(r->bank);
    msa_lexical_close(r->lexical);
    msa_corpus_close(r->corpus);
    msa_model_close(r->model);
    if (r->peeked)
        msa_protocol_free(&r->protocol);
    msa_status_free(&r->status);
    msa_file_lock_drop(&r->store_lock);
    msa_file_lock_drop(&r->out_lock);
    free(r->bank_dir);
    free(r->keys);
    free(r->pending);
}

void msa_run_job(const msa_job *job, const msa_run_opts *opts, msa_run_report *report)
{
    msa_run r = {.job = job, .opts = opts, .report = report, .out_lock = {-1}, .store_lock = {-1},
                 .started_at = time(NULL), .began_ms = msa_now_ms()};
    msa_err err = {0};
    *report = (msa_run_report){0};
    bool whole = opts->part == MSA_RUN_ALL;
    msa_rc rc = take_locks(&r, &report->skipped, &err);
    bool locked = rc == MSA_OK;
    if (locked)
        rc = msa_status_init(&r.status, whole ? job->out_dir : NULL, job->id, opts->progress, opts->user, &err);
    if (rc == MSA_OK && !(r.bank_dir = msa_file_join(job->store, "bank")))
        rc = msa_err_nomem(&err, "run");
    if (rc == MSA_OK) {
        msa_stop_deadline(job->deadline_s);
        rc = run_parts(&r, &err);
        msa_stop_deadline(0);
    }
    report->exit_code = exit_code_of(&r, rc, &err);
    if (locked && whole && r.bank_dir) {
        /* the receipt of a failed run is worth having, and its failing is not a
         * second reason */
        msa_err late = {0};
        msa_rc end = report->nothing_to_do ? MSA_OK : msa_run_receipt(&r, report->exit_code, &late);
        msa_rc said = msa_status_end(&r.status, last_word(rc), report->exit_code, *err.msg ? err.msg : NULL, &late);
        if ((end < 0 || said < 0) && rc >= 0) {
            err = late;
            report->exit_code = late.code ? (int)late.code : MSA_E_INTERNAL;
        }
    }
    if (rc == MSA_END && !err.code)
        msa_err_set(&err, rc, MSA_E_TEMPFAIL, "stopped by %s; run again to go on",
                    atomic_load(msa_stop_flag()) == SIGALRM ? "the deadline" : "a signal");
    report->err = err;
    release(&r);
}
