#include "jobs/result.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jobs/json_out.h"
#include "jobs/quote.h"
#include "jobs/utf8.h"

/* ---- citations -------------------------------------------------------------------- */

static json_t *members_of(const char *path)
{
    json_t *list = json_array();
    const char *at = strstr(path, "!/");
    while (list && at) {
        const char *from = at + 2;
        at = strstr(from, "!/");
        json_array_append_new(list, msa_json_text(from, at ? at - from : (int64_t)strlen(from)));
    }
    return list;
}

static json_t *also_of(const msa_corpus *c, int64_t doc)
{
    msa_corpus_paths p;
    json_t *list = json_array();
    if (list && msa_corpus_also(c, doc, &p, NULL) < 0) {
        json_decref(list);
        return NULL;
    }
    for (int64_t i = 0; list && i < p.n; i++)
        json_array_append_new(list, msa_json_string(p.paths[i]));
    if (list)
        msa_corpus_paths_free(&p);
    return list;
}

/* The score of the last round that routed the document. */
static json_t *score_of(const msa_answer *a, int64_t doc)
{
    for (int64_t r = a->n_rounds; r-- > 0;)
        for (int64_t i = 0; i < a->rounds[r].n_routed; i++)
            if (a->rounds[r].routed[i].doc == doc)
                return json_real(a->rounds[r].routed[i].score);
    return json_null();
}

static json_t *integer_or_null(int64_t v)
{
    return v > 0 ? json_integer(v) : json_null();
}

static const char *verified_name(msa_verified v)
{
    return v == MSA_VERIFIED_EXACT ? "exact" : v == MSA_VERIFIED_NORMALIZED ? "normalized" : NULL;
}

/* Where a place in a passage lies in the stored text, which has no title. */
static int64_t in_stored_text(const msa_doc *d, int64_t at)
{
    int64_t title = d->title ? msa_utf8_count(d->title, (int64_t)strlen(d->title)) + 1 : 0;
    return d->char_start + (at > title ? at - title : 0);
}

static json_t *citation(const msa_result_in *in, int64_t n, const msa_doc *d, const msa_quote *q)
{
    bool found = q->verified != MSA_VERIFIED_NONE;
    json_t *c = json_object();
    json_object_set_new(c, "n", json_integer(n));
    json_object_set_new(c, "doc_id", json_integer(d->id));
    json_object_set_new(c, "path", msa_json_string(d->path));
    json_object_set_new(c, "members", members_of(d->path));
    json_object_set_new(c, "also", also_of(in->corpus, d->id));
    json_object_set_new(c, "sha256", msa_json_string(d->sha256));
    json_object_set_new(c, "file_sha256", msa_json_string(d->file_sha256));
    json_object_set_new(c, "record", msa_json_string(d->record));
    json_object_set_new(c, "page", integer_or_null(d->page));
    json_object_set_new(c, "page_label", msa_json_string(d->page_label));
    json_object_set_new(c, "char_start", json_integer(found ? in_stored_text(d, q->char_start) : d->char_start));
    json_object_set_new(c, "char_end", json_integer(found ? in_stored_text(d, q->char_end) : d->char_end));
    json_object_set_new(c, "quote", found ? msa_json_text(d->text + q->start, q->end - q->start) : json_null());
    json_object_set_new(c, "verified", msa_json_string(verified_name(q->verified)));
    json_object_set_new(c, "score", score_of(in->answer, d->id));
    return c;
}

/* How a text is looked for in a passage. */
typedef msa_rc look_for(const char *text, int64_t n, const char *passage, int64_t n_passage, msa_quote *out,
                        msa_err *err);

/* Looks in the text of a document and in what the model read of it; what is found in
 * its view alone is a normalised quote of the text it stems from. */
static msa_rc look(look_for *find, const char *text, int64_t n, const msa_doc *d, msa_quote *out, msa_err *err)
{
    msa_rc rc = find(text, n, d->text, d->text_bytes, out, err);
    if (rc < 0 || d->view == MSA_VIEW_NONE)
        return rc;
    msa_view v = {0};
    msa_quote q;
    if ((rc = msa_doc_view(d, &v, err)) == MSA_OK &&
        (rc = find(text, n, v.text.data, v.text.len, &q, err)) == MSA_OK && q.verified != MSA_VERIFIED_NONE) {
        msa_view_source(&v, q.start, q.end, &q.start, &q.end);
        if (q.end - q.start > out->end - out->start)
            *out = (msa_quote){MSA_VERIFIED_NORMALIZED, q.start, q.end, msa_utf8_count(d->text, q.start),
                               msa_utf8_count(d->text, q.end)};
    }
    msa_view_free(&v);
    return rc;
}

/* Words that the answer puts in quotation marks and no passage holds: found
 * here, so that a reviewer need not look for them. false: there are none. */
static msa_rc first_invented(const msa_result_in *in, int64_t *start, int64_t *end, bool *found, msa_err *err)
{
    const msa_answer *a = in->answer;
    int64_t n = (int64_t)strlen(a->text), at = 0;
    *found = false;
    while (msa_quote_next_span(a->text, n, &at, start, end)) {
        bool held = false;
        for (int64_t i = 0; i < a->n_evidence && !held; i++) {
            msa_doc d;
            msa_quote q;
            if (!msa_corpus_doc_get(in->corpus, a->evidence[i], &d))
                continue;
            msa_rc rc = look(msa_quote_match, a->text + *start, *end - *start, &d, &q, err);
            if (rc < 0)
                return rc;
            held = q.verified != MSA_VERIFIED_NONE;
        }
        if (!held) {
            *found = true;
            return MSA_OK;
        }
    }
    return MSA_OK;
}

static msa_rc put_citations(const msa_result_in *in, json_t *list, msa_err *err)
{
    const msa_answer *a = in->answer;
    bool verify = in->verify_quotes && a->outcome != MSA_NOT_FOUND, invented = false;
    int64_t n = (int64_t)strlen(a->text), start = 0, end = 0;
    for (int64_t i = 0; i < a->n_evidence; i++) {
        msa_doc d;
        msa_quote q = {0};
        if (!msa_corpus_doc_get(in->corpus, a->evidence[i], &d))
            return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "document %lld is not in the corpus",
                               (long long)a->evidence[i]);
        msa_rc rc = verify ? look(msa_quote_find, a->text, n, &d, &q, err) : MSA_OK;
        if (rc < 0)
            return rc;
        if (json_array_append_new(list, citation(in, i + 1, &d, &q)) < 0)
            return msa_err_nomem(err, "result");
    }
    msa_rc rc = verify && a->n_evidence ? first_invented(in, &start, &end, &invented, err) : MSA_OK;
    if (rc == MSA_OK && invented) {
        json_t *first = json_array_get(list, 0);
        msa_doc d;
        msa_corpus_doc_get(in->corpus, a->evidence[0], &d);
        json_object_set_new(first, "char_start", json_integer(d.char_start));
        json_object_set_new(first, "char_end", json_integer(d.char_end));
        json_object_set_new(first, "quote", msa_json_text(a->text + start, end - start));
        json_object_set_new(first, "verified", json_string("failed"));
    }
    return rc;
}

/* ---- the line ------------------------------------------------------------------------ */

/* [document, score], and with a lexical score also [..., router's or null, lexical]. */
static json_t *routed_row(const msa_scored *s, bool fused)
{
    json_t *row = json_pack("[I, f]", (json_int_t)s->doc, s->score);
    if (fused) {
        json_array_append_new(row, isnan(s->router) ? json_null() : json_real(s->router));
        json_array_append_new(row, json_real(s->lexical));
    }
    return row;
}

/* [document, lean] of those that were read alone. */
static json_t *read_of(const msa_round *round)
{
    json_t *read = json_array();
    for (int64_t i = 0; i < round->n_read; i++)
        if (isfinite(round->read[i].lean))
            json_array_append_new(read, json_pack("[I, f]", (json_int_t)round->read[i].doc, round->read[i].lean));
    return read;
}

static json_t *trace_of(const msa_answer *a)
{
    json_t *trace = json_array();
    for (int64_t r = 0; trace && r < a->n_rounds; r++) {
        const msa_round *round = &a->rounds[r];
        json_t *routed = json_array(), *chosen = json_array();
        for (int64_t i = 0; i < round->n_routed; i++)
            json_array_append_new(routed, routed_row(&round->routed[i], round->fused));
        for (int64_t i = 0; i < round->n_chosen; i++)
            json_array_append_new(chosen, json_integer(round->chosen[i]));
        json_t *row = json_pack("{s:I, s:o, s:o}", "round", (json_int_t)(r + 1), "routed", routed, "chosen", chosen);
        if (round->n_read > 0)
            json_object_set_new(row, "read", read_of(round));
        json_array_append_new(trace, row);
    }
    return trace;
}

static json_t *line_id(const char *job_id, const char *custom_id)
{
    char *id = msa_sprintf("%s/%s", job_id, custom_id);
    json_t *v = id ? msa_json_string(id) : NULL;
    free(id);
    return v;
}

msa_rc msa_result_put(const msa_result_in *in, msa_buf *out, msa_err *err)
{
    static const char *const outcomes[] = {"answered", "not_found", "partial"};
    const msa_answer *a = in->answer;
    json_t *citations = json_array();
    if (!citations)
        return msa_err_nomem(err, "result");
    msa_rc rc = put_citations(in, citations, err);
    if (rc < 0) {
        json_decref(citations);
        return rc;
    }
    json_t *msa = json_pack("{s:s, s:I, s:I, s:o, s:o, s:n}", "outcome", outcomes[a->outcome], "rounds",
                            (json_int_t)a->n_rounds, "context_tokens", (json_int_t)in->context_tokens,
                            "citations", citations, "trace", trace_of(a), "parsed");
    if (msa && isfinite(a->not_found_lean))
        json_object_set_new(msa, "not_found_lean", json_real(a->not_found_lean));
    if (msa && a->outcome == MSA_PARTIAL && a->limit)
        json_object_set_new(msa, "limit", msa_json_string(a->limit));
    json_t *line = json_pack(
        "{s:o, s:o, s:{s:i, s:{s:s, s:o, s:[{s:i, s:{s:s, s:o}, s:s}], s:{s:I, s:I, s:I}, s:o}}, s:n}",
        "id", line_id(in->job_id, in->custom_id), "custom_id", msa_json_string(in->custom_id),
        "response", "status_code", 200, "body", "object", "chat.completion",
        "model", msa_json_string(in->model), "choices", "index", 0, "message", "role", "assistant",
        "content", msa_json_string(a->text), "finish_reason", a->finish_reason, "usage",
        "prompt_tokens", (json_int_t)a->prompt_tokens, "completion_tokens", (json_int_t)a->completion_tokens,
        "total_tokens", (json_int_t)(a->prompt_tokens + a->completion_tokens), "msa", msa, "error");
    rc = msa_json_put_line(out, line, err);
    json_decref(line);
    return rc;
}

msa_rc msa_error_put(const msa_error_in *in, msa_buf *out, msa_err *err)
{
    char where[32];
    snprintf(where, sizeof where, "line-%lld", (long long)in->line);
    json_t *line = json_pack("{s:o, s:o, s:n, s:{s:s, s:o, s:s, s:b}}", "id",
                             line_id(in->job_id, in->custom_id ? in->custom_id : where), "custom_id",
                             msa_json_string(in->custom_id), "response", "error", "code", in->code,
                             "message", msa_json_string(in->message), "stage", in->stage, "retryable",
                             in->retryable);
    if (line && in->line)
        json_object_set_new(json_object_get(line, "error"), "line", json_integer(in->line));
    msa_rc rc = msa_json_put_line(out, line, err);
    json_decref(line);
    return rc;
}

const char *msa_error_code(msa_code code)
{
    switch (code) {
    case MSA_E_USAGE: return "invalid_request";
    case MSA_E_DATA: return "data";
    case MSA_E_NOINPUT: return "no_input";
    case MSA_E_UNAVAILABLE: return "unavailable";
    case MSA_E_NOMEM: return "os_limit";
    case MSA_E_IO: return "io";
    case MSA_E_TEMPFAIL: return "stopped";
    case MSA_E_REFUSED: return "refused";
    case MSA_E_CONFIG: return "config";
    default: return "internal";
    }
}

bool msa_error_retryable(msa_code code)
{
    return code == MSA_E_UNAVAILABLE || code == MSA_E_NOMEM || code == MSA_E_IO || code == MSA_E_TEMPFAIL;
}
