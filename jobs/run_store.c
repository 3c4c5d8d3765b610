/* Ingest and prefill: from the sources to a bank that holds the corpus. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "engine/bank.h"
#include "jobs/job_plan.h"
#include "jobs/run_internal.h"
#include "jobs/stop.h"
#include "jobs/store_words.h"

/* ---- locks ---------------------------------------------------------------------- */

/* Waiting is done in small steps: a signal must be able to end it. */
msa_rc msa_run_take_lock(const char *path, msa_lock_mode mode, msa_file_lock *l, bool *skip, msa_err *err)
{
    for (;;) {
        msa_err held = {0};
        msa_rc rc = msa_file_lock_take(l, path, false, &held);
        if (rc == MSA_OK)
            return MSA_OK;
        *skip = held.code == MSA_E_TEMPFAIL && mode == MSA_LOCK_SKIP;
        if (held.code != MSA_E_TEMPFAIL || mode != MSA_LOCK_WAIT || atomic_load(msa_stop_flag())) {
            if (err)
                *err = held;
            return rc;
        }
        nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    }
}

/* ---- the model, without its weights -------------------------------------------------- */

msa_rc msa_run_peek_model(msa_run *r, msa_err *err)
{
    msa_bank_stat bank;
    msa_rc rc = msa_model_peek(r->job->model, &r->config, &r->protocol, r->fingerprint, r->answer_id,
                              &r->weight_bytes, err);
    if (rc < 0)
        return msa_err_prefix(err, rc, "model %s", r->job->model);
    r->peeked = true;
    rc = msa_bank_peek(r->bank_dir, &bank, err);
    if (rc == MSA_OK && strcmp(bank.fingerprint, r->fingerprint) != 0)
        return msa_err_set(err, MSA_FAILED, MSA_E_REFUSED,
                           "store %s was made with another model: its fingerprint begins %.12s, that of %s %.12s",
                           r->job->store, bank.fingerprint, r->job->model, r->fingerprint);
    return rc < 0 ? rc : MSA_OK;
}

msa_rc msa_run_plan(msa_run *r, bool with_sources, msa_err *err)
{
    msa_job_plan plan;
    msa_kern *kern = r->model ? msa_model_kern(r->model) : NULL;
    msa_rc rc = kern ? MSA_OK : msa_job_plan_kern(&r->opts->model, &kern, err);
    if (rc < 0)
        return rc;
    /* weights that are loaded are no longer free memory */
    rc = msa_job_plan_make(r->job, with_sources, kern, &r->config, r->model ? 0 : r->weight_bytes, &plan, err);
    if (rc == MSA_OK)
        rc = msa_job_plan_check(&plan, err);
    r->max_batch = plan.max_batch;
    if (!r->model)
        msa_kern_close(kern);
    return rc;
}

/* ---- ingest ------------------------------------------------------------------------- */

static void on_ingest(void *user, int64_t files_done, int64_t files_seen, int64_t docs)
{
    msa_run *r = user;
    r->status.now.files_done = r->status.now.done = files_done;
    r->status.now.files_seen = r->status.now.total = files_seen;
    r->status.now.docs = docs;
    msa_status_update(&r->status);
}

msa_rc msa_run_ingest(msa_run *r, msa_err *err)
{
    const msa_job *j = r->job;
    msa_tokenizer *tok = NULL;
    int64_t began = msa_now_ms();
    char *path = msa_file_join(j->model, "tokenizer.json");
    if (!path)
        return msa_err_nomem(err, "ingest");
    msa_rc rc = msa_tokenizer_open(path, &tok, err);
    msa_ingest_opts opts = {.tokenizer = tok, .document_head = r->protocol.document_head,
                            .document_tail = r->protocol.document_tail,
                            .passage_tokens = j->passage_tokens, .extract_path = r->opts->extract_path,
                            .on_change = j->on_change, .limits = j->limits,
                            .isolation_required = j->isolation_required,
                            .retry_quarantined = r->opts->retry_quarantined, .stop = msa_stop_flag(),
                            .progress = on_ingest, .user = r};
    if (rc == MSA_OK)
        rc = msa_ingest_run(j->store, j->sources, j->n_sources, &opts, &r->report->files, err);
    if (rc == MSA_OK || rc == MSA_WARN) {
        r->report->ingested = true;
        r->status.now.docs = r->report->files.docs;
        rc = MSA_OK;
    }
    msa_tokenizer_free(tok);
    free(path);
    r->ingest_s = (double)(msa_now_ms() - began) / 1000;
    return rc;
}

/* ---- the corpus ----------------------------------------------------------------------- */

msa_rc msa_run_open_corpus(msa_run *r, msa_err *err)
{
    int64_t chunks;
    msa_rc rc = msa_corpus_open(r->job->store, &r->corpus, err);
    if (rc < 0)
        return rc;
    msa_corpus_size(r->corpus, r->config.P, &chunks, &r->context_tokens);
    r->status.now.docs = msa_corpus_alive(r->corpus);
    return msa_store_state(r->corpus, r->store_state, err);
}

/* ---- the bank ---------------------------------------------------------------------------- */

msa_rc msa_run_bank_settled(msa_run *r, bool *settled, msa_err *err)
{
    msa_bank_stat s;
    msa_rc rc = msa_bank_peek(r->bank_dir, &s, err);
    *settled = rc == MSA_OK && s.n_docs - s.n_withdrawn == msa_corpus_alive(r->corpus);
    return rc < 0 ? rc : MSA_OK;
}

/* Documents that prefill is to take: alive, behind the bank's last, in order. */
typedef struct feed {
    msa_run *r;
    int64_t next;
} feed;

static msa_rc next_doc(void *user, msa_doc_tokens *out, msa_err *err)
{
    feed *f = user;
    msa_doc d;
    (void)err;
    while (f->next <= msa_corpus_last_doc(f->r->corpus)) {
        if (!msa_corpus_doc_get(f->r->corpus, f->next++, &d) || !d.alive)
            continue;
        *out = (msa_doc_tokens){d.id, d.tokens, d.n_tokens};
        return MSA_OK;
    }
    return MSA_END;
}

static void on_prefill(void *user, int64_t docs, int64_t tokens)
{
    msa_run *r = user;
    (void)tokens;
    r->status.now.done = docs;
    r->status.now.docs_prefilled = r->status.now.docs - r->status.now.total + docs;
    msa_status_update(&r->status);
}

/* Do the bank's rows belong to this document? A corpus that was deleted and made
 * anew gives the same ids to other texts. */
static bool is_row_of(const msa_run *r, const msa_doc *d)
{
    int64_t extent, chunk, n;
    return msa_bank_find(r->bank, d->id, &extent, &chunk, &n) && n == (d->n_tokens + r->config.P - 1) / r->config.P;
}

/* Ids that the bank holds and the corpus does not want any more; how many alive
 * ones lie behind its last. */
static msa_rc compare(msa_run *r, int64_t **dead, int64_t *n_dead, int64_t *n_new, msa_err *err)
{
    msa_bank_stat s;
    msa_doc d;
    msa_bank_stat_get(r->bank, &s);
    *dead = NULL;
    *n_dead = *n_new = 0;
    int64_t cap = 0;
    for (int64_t id = 1; id <= msa_corpus_last_doc(r->corpus); id++) {
        bool alive = msa_corpus_doc_get(r->corpus, id, &d) && d.alive;
        *n_new += alive && id > s.last_doc;
        if (alive && id <= s.last_doc && !is_row_of(r, &d))
            return msa_err_set(err, MSA_FAILED, MSA_E_DATA,
                               "store %s: the bank's rows of document %lld belong to another corpus; "
                               "remove %s and run again",
                               r->job->store, (long long)id, r->bank_dir);
        if (alive || !msa_bank_has(r->bank, id))
            continue;
        if (*n_dead == cap) {
            cap = cap ? cap * 2 : 256;
            int64_t *more = msa_realloc(*dead, cap, sizeof *more);
            if (!more)
                return msa_err_nomem(err, "bank");
            *dead = more;
        }
        (*dead)[(*n_dead)++] = id;
    }
    if (s.last_doc > msa_corpus_last_doc(r->corpus))
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA,
                           "store %s: the bank knows document %lld, the corpus ends at %lld; remove %s and run again",
                           r->job->store, (long long)s.last_doc, (long long)msa_corpus_last_doc(r->corpus),
                           r->bank_dir);
    return MSA_OK;
}

static msa_rc open_bank(msa_run *r, msa_bank_mode mode, msa_err *err)
{
    msa_err note = {0};
    msa_rc rc = msa_bank_open(r->bank_dir, r->model, mode, r->job->bank_dtype, &r->bank, &note);
    if (rc < 0) {
        if (err)
            *err = note;
        return rc;
    }
    if (note.code)
        msa_log('w', "%s", note.msg);
    return MSA_OK;
}

static msa_rc fill(msa_run *r, const int64_t *dead, int64_t n_dead, int64_t n_new, msa_err *err)
{
    msa_bank_stat s;
    msa_rc rc = n_dead ? msa_bank_withdraw(r->bank, dead, n_dead, err) : MSA_OK;
    if (rc < 0)
        return rc;
    msa_bank_stat_get(r->bank, &s);
    feed f = {r, s.last_doc + 1};
    msa_prefill_stat stat;
    msa_prefill_opts opts = {.stop = msa_stop_flag(), .progress = on_prefill, .user = r};
    r->status.now.total = n_new;
    if (!n_new)
        return MSA_OK;
    rc = msa_prefill_run(r->model, r->bank, next_doc, &f, &opts, &stat, err);
    r->extents_new = stat.extents;
    if (rc >= 0)
        msa_log('i', "prefill: %lld documents, %lld tokens, %.3f s, of which the device had a batch %.3f s",
                (long long)stat.docs, (long long)stat.tokens, stat.seconds, stat.device_seconds);
    return rc;
}

msa_rc msa_run_bank(msa_run *r, bool repair, msa_err *err)
{
    int64_t *dead = NULL, n_dead = 0, n_new = 0, began = msa_now_ms();
    msa_bank_stat s;
    /* a bank that is there is read first: a damaged one must be refused, and
     * opening it for writing would mend it */
    msa_rc rc = repair ? MSA_END : msa_bank_peek(r->bank_dir, &s, err);
    bool fresh = rc == MSA_END;
    if (rc >= 0)
        rc = open_bank(r, fresh ? MSA_BANK_WRITE : MSA_BANK_READ, err);
    if (rc == MSA_OK)
        rc = compare(r, &dead, &n_dead, &n_new, err);
    if (rc == MSA_OK && (n_dead || n_new) && !fresh) {
        msa_bank_close(r->bank);
        r->bank = NULL;
        rc = open_bank(r, MSA_BANK_WRITE, err);
    }
    if (rc == MSA_OK && n_new)
        rc = msa_run_plan(r, false, err);
    if (rc == MSA_OK)
        rc = fill(r, dead, n_dead, n_new, err);
    free(dead);
    if (rc == MSA_OK && (fresh || n_dead || n_new)) {
        msa_bank_close(r->bank);
        r->bank = NULL;
        rc = open_bank(r, MSA_BANK_READ, err);
    }
    if (rc == MSA_OK)
        r->status.now.docs_prefilled = msa_corpus_alive(r->corpus);
    if (rc == MSA_OK && r->protocol.lexical_weight > 0)
        rc = msa_store_lexical(r->job->store, r->corpus, r->store_state, r->bank, msa_stop_flag(), &r->lexical, err);
    r->prefill_s = (double)(msa_now_ms() - began) / 1000;
    return rc;
}
