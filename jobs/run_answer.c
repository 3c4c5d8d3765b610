/* Questions: which are left, and answering them, many at a time. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "jobs/result.h"
#include "jobs/doc_text.h"
#include "jobs/run_internal.h"
#include "jobs/stop.h"

/* ---- what is left --------------------------------------------------------------- */

/* Hash of everything that an answer depends on, but for the device. */
static msa_rc key_of(const msa_run *r, const msa_query *q, uint64_t *key, msa_err *err)
{
    const msa_ask *a = &q->ask;
    msa_buf b = {0};
    msa_buf_printf(&b, "ask 2\n%lld %.17g %.17g %lld %lld %lld %d\n%s\n%s\n", (long long)a->max_tokens,
                   a->temperature, a->top_p, (long long)a->seed, (long long)a->top_k_docs,
                   (long long)a->max_rounds, a->verify_quotes, r->answer_id, r->store_state);
    msa_buf_put(&b, q->text, q->n);
    *key = msa_xxh3(b.data, b.len);
    bool oom = b.oom;
    msa_buf_free(&b);
    return oom ? msa_err_nomem(err, "questions") : MSA_OK;
}

/* A line without a custom_id is known by its number. */
static int64_t bad_id(const msa_bad_query *b, char id[32])
{
    id[0] = 0;
    return 1 + snprintf(id + 1, 31, "line %lld", (long long)b->line);
}

static uint64_t bad_key(const msa_bad_query *b)
{
    return msa_xxh3(b->message, (int64_t)strlen(b->message));
}

static void count_answer(msa_query_counts *c, msa_outcome o)
{
    c->answered += o == MSA_ANSWERED;
    c->not_found += o == MSA_NOT_FOUND;
    c->partial += o == MSA_PARTIAL;
}

static msa_rc want_bad(msa_run *r, msa_err *err)
{
    msa_rc rc = MSA_OK;
    for (int64_t i = 0; rc == MSA_OK && i < r->job->n_bad; i++) {
        char id[32];
        msa_want state;
        msa_outcome unused;
        int64_t n = bad_id(&r->job->bad[i], id);
        rc = msa_outputs_want(r->outputs, id, n, bad_key(&r->job->bad[i]), &state, &unused, err);
    }
    return rc;
}

msa_rc msa_run_want(msa_run *r, msa_err *err)
{
    const msa_job *j = r->job;
    msa_query_counts *c = &r->report->queries;
    r->keys = msa_alloc(j->n_queries, sizeof *r->keys);
    r->pending = msa_alloc(j->n_queries, sizeof *r->pending);
    if (!r->keys || !r->pending)
        return msa_err_nomem(err, "questions");
    *c = (msa_query_counts){.total = j->n_queries + j->n_bad};
    msa_rc rc = want_bad(r, err);
    for (int64_t i = 0; rc == MSA_OK && i < j->n_queries; i++) {
        const msa_query *q = &j->queries[i];
        msa_want state;
        msa_outcome outcome;
        if ((rc = key_of(r, q, &r->keys[i], err)) < 0)
            break;
        rc = msa_outputs_want(r->outputs, q->custom_id, (int64_t)strlen(q->custom_id), r->keys[i], &state,
                              &outcome, err);
        if (rc < 0)
            break;
        if (state == MSA_WANT_ANSWERED) {
            c->kept++;
            count_answer(c, outcome);
        } else {
            /* what failed for good is asked again only when there is other work:
             * errors.jsonl is written anew then */
            r->pending[r->n_pending++] = i;
        }
    }
    r->status.now.queries = c->total;
    r->status.now.completed = c->kept;
    return rc;
}

/* ---- answering ---------------------------------------------------------------------- */

typedef struct asking {
    msa_run *r;
    msa_buf line;
    msa_rc rc;        /* of writing results down, inside callbacks */
    msa_err *err;
} asking;

static void write_error(asking *a, const msa_query *q, uint64_t key, msa_code code, const char *message)
{
    msa_run *r = a->r;
    bool retryable = msa_error_retryable(code);
    a->line.len = 0;
    a->rc = msa_error_put(&(msa_error_in){r->job->id, q->custom_id, q->line, msa_error_code(code), message,
                                          "answer", retryable},
                          &a->line, a->err);
    if (a->rc == MSA_OK)
        a->rc = msa_outputs_error(r->outputs, q->custom_id, (int64_t)strlen(q->custom_id), key, retryable,
                                  a->line.data, a->line.len, a->err);
    r->report->queries.failed++;
    r->status.now.failed++;
}

static void on_answer(void *user, const msa_answer *answer)
{
    asking *a = user;
    msa_run *r = a->r;
    const msa_query *q = &r->job->queries[answer->tag];
    if (a->rc < 0)
        return;
    r->status.now.done++;
    if (answer->rc < 0) {
        write_error(a, q, r->keys[answer->tag], answer->err.code, answer->err.msg);
        return;
    }
    a->line.len = 0;
    a->rc = msa_result_put(&(msa_result_in){r->job->id, q->custom_id, msa_model_name(r->model), answer,
                                            r->corpus, r->context_tokens, q->ask.verify_quotes},
                           &a->line, a->err);
    if (a->rc == MSA_OK)
        a->rc = msa_outputs_answer(r->outputs, q->custom_id, (int64_t)strlen(q->custom_id),
                                   r->keys[answer->tag], answer->outcome, a->line.data, a->line.len, a->err);
    count_answer(&r->report->queries, answer->outcome);
    r->status.now.completed++;
}

static msa_rc write_bad(asking *a)
{
    msa_run *r = a->r;
    for (int64_t i = 0; a->rc == MSA_OK && i < r->job->n_bad; i++) {
        const msa_bad_query *b = &r->job->bad[i];
        char id[32];
        int64_t n = bad_id(b, id);
        a->line.len = 0;
        a->rc = msa_error_put(&(msa_error_in){r->job->id, b->custom_id, b->line, b->code, b->message,
                                              "validate", false},
                              &a->line, a->err);
        if (a->rc == MSA_OK)
            a->rc = msa_outputs_error(r->outputs, id, n, bad_key(b), false, a->line.data, a->line.len, a->err);
        r->report->queries.failed++;
        r->status.now.failed++;
    }
    return a->rc == MSA_OK ? msa_outputs_flush(r->outputs, a->err) : a->rc;
}

/* Admits as many questions as there is room for. */
static msa_rc admit(asking *a, msa_answerer *ans, int64_t *next)
{
    msa_run *r = a->r;
    while (*next < r->n_pending && msa_answerer_room(ans) > 0 && !atomic_load(msa_stop_flag())) {
        int64_t i = r->pending[*next];
        const msa_query *q = &r->job->queries[i];
        msa_err e = {0};
        msa_rc rc = msa_answerer_submit(
            ans, &(msa_question){.tag = i, .text = q->text, .n = q->n, .max_tokens = q->ask.max_tokens,
                                 .temperature = q->ask.temperature, .top_p = q->ask.top_p,
                                 .seed = (uint64_t)q->ask.seed, .top_k_docs = q->ask.top_k_docs,
                                 .max_rounds = q->ask.max_rounds}, &e);
        if (rc == MSA_END)
            break;
        if (rc == MSA_FATAL) {
            if (a->err)
                *a->err = e;
            return rc;
        }
        ++*next;
        if (rc == MSA_FAILED) {
            r->status.now.done++;
            write_error(a, q, r->keys[i], e.code, e.msg);
            if (a->rc < 0)
                return a->rc;
        }
    }
    return MSA_OK;
}

msa_rc msa_run_answer(msa_run *r, msa_err *err)
{
    asking a = {.r = r, .err = err};
    msa_answerer *ans = NULL;
    int64_t next = 0, began = msa_now_ms();
    /* the published model knows documents without names */
    msa_doc_reader reader = {.corpus = r->corpus, .named = r->protocol.kind == MSA_PROTOCOL_ROUTER};
    msa_rc rc = write_bad(&a);
    if (rc == MSA_OK && r->n_pending)
        rc = msa_answerer_new(r->model, r->bank, &(msa_answerer_opts){.max_batch = r->max_batch,
                                                                 .text = msa_doc_reader_text, .user = &reader,
                                                                 .lexical = r->lexical}, &ans, err);
    r->status.now.total = r->n_pending;
    while (rc == MSA_OK && ans && !msa_stop_hurry()) {
        if ((rc = admit(&a, ans, &next)) < 0 || msa_answerer_active(ans) == 0)
            break;
        rc = msa_answerer_step(ans, on_answer, &a, err);
        if (rc >= 0)
            rc = a.rc;
        if (rc >= 0)
            rc = msa_outputs_flush(r->outputs, err);
        msa_status_update(&r->status);
    }
    if (rc == MSA_OK)
        rc = msa_outputs_flush(r->outputs, err); /* errors of submission */
    msa_answerer_free(ans);
    msa_doc_reader_free(&reader);
    msa_buf_free(&a.line);
    r->answer_s = (double)(msa_now_ms() - began) / 1000;
    if (rc >= 0 && r->status.now.done < r->n_pending)
        return MSA_END;
    return rc < 0 ? rc : MSA_OK;
}
