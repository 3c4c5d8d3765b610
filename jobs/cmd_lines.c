/* route and tokenize: JSON lines from stdin to stdout. A bad line is named on
 * stderr and costs only itself; its line in the output says so too, where the
 * order of lines is all that ties output to input (tokenize). */
#define _GNU_SOURCE
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "jobs/commands.h"
#include "jobs/json_out.h"
#include "jobs/line_reader.h"
#include "jobs/store_words.h"

enum { OUT_BYTES = 1 << 20 };

static msa_rc flush_out(msa_buf *out, msa_err *err)
{
    msa_rc rc = out->oom ? msa_err_nomem(err, "output")
                         : msa_file_write(STDOUT_FILENO, out->data, out->len, "stdout", err);
    out->len = 0;
    return rc;
}

/* A line as an object, or NULL with what is wrong with it. */
static json_t *parse(const msa_line *l, char *why, size_t cap)
{
    json_error_t je;
    if (l->too_long) {
        snprintf(why, cap, "line is longer than %lld bytes", (long long)l->n);
        return NULL;
    }
    json_t *v = json_loadb(l->text, (size_t)l->n, 0, &je);
    if (!v)
        snprintf(why, cap, "byte %d: %s", je.position, je.text);
    else if (!json_is_object(v))
        snprintf(why, cap, "not an object");
    if (v && !json_is_object(v)) {
        json_decref(v);
        v = NULL;
    }
    return v;
}

static bool is_blank(const msa_line *l)
{
    return !l->too_long && strspn(l->text, " \t") == (size_t)l->n;
}

static void complain(const msa_line *l, const char *why)
{
    fprintf(stderr, "msa-batch: stdin line %lld: %s\n", (long long)l->number, why);
}

/* ---- route -------------------------------------------------------------------------- */

/* A device loads router keys once a batch. */
enum { ROUTE_BATCH = 512 };

typedef struct router {
    msa_model *model;
    msa_bank *bank;
    msa_lexical *lexical;
    msa_corpus *corpus;
    int64_t k, n;
    json_t *lines[ROUTE_BATCH];          /* {"id", "question"} */
    msa_question questions[ROUTE_BATCH];
    msa_scored *found[ROUTE_BATCH];      /* [k] each */
    msa_buf out;
} router;

static json_t *routed(const router *r, const msa_scored *s, int64_t n)
{
    json_t *list = json_array();
    for (int64_t i = 0; list && i < n; i++) {
        msa_doc d;
        if (!msa_corpus_doc_get(r->corpus, s[i].doc, &d))
            continue;
        json_t *row = json_pack("{s:I, s:o, s:o, s:f}", "doc_id", (json_int_t)s[i].doc, "record",
                                msa_json_string(d.record), "path", msa_json_string(d.path), "score", s[i].score);
        if (row && r->lexical) {
            json_object_set_new(row, "router", isnan(s[i].router) ? json_null() : json_real(s[i].router));
            json_object_set_new(row, "lexical", json_real(s[i].lexical));
        }
        json_array_append_new(list, row);
    }
    return list;
}

/* Routes what has been gathered and writes a line for each. */
static msa_rc route_batch(router *r, msa_err *err)
{
    int64_t n_found[ROUTE_BATCH];
    msa_rc rc = r->n ? msa_route_fused(r->model, r->bank, r->lexical, r->questions, r->n, r->k, r->found, n_found, err) : MSA_OK;
    for (int64_t i = 0; rc == MSA_OK && i < r->n; i++) {
        json_t *line = json_pack("{s:O, s:o}", "id", json_object_get(r->lines[i], "id"), "routed",
                                 routed(r, r->found[i], n_found[i]));
        rc = msa_json_put_line(&r->out, line, err);
        json_decref(line);
    }
    for (int64_t i = 0; i < r->n; i++)
        json_decref(r->lines[i]);
    r->n = 0;
    return rc == MSA_OK ? flush_out(&r->out, err) : rc;
}

static msa_rc route_line(router *r, const msa_line *l, bool *bad, msa_err *err)
{
    char why[300];
    json_t *v = parse(l, why, sizeof why);
    const json_t *id = json_object_get(v, "id"), *q = json_object_get(v, "question");
    const char *fault = !v                                             ? why
                        : !json_is_string(id) && !json_is_integer(id) ? "key \"id\" is missing or neither text nor integer"
                        : !json_is_string(q) || !json_string_length(q) ? "key \"question\" is missing or not text"
                        : (int64_t)json_string_length(q) > MSA_JOB_MAX_QUERY_BYTES ? "question is too long"
                                                                                   : NULL;
    if (fault) {
        complain(l, fault);
        *bad = true;
        json_decref(v);
        return MSA_OK;
    }
    r->lines[r->n] = v;
    r->questions[r->n] = (msa_question){.tag = r->n, .text = json_string_value(q),
                                        .n = (int64_t)json_string_length(q), .max_tokens = 1, .top_p = 1,
                                        .top_k_docs = r->k};
    return ++r->n == ROUTE_BATCH ? route_batch(r, err) : MSA_OK;
}

static msa_rc route_open(router *r, const msa_options *o, msa_err *err)
{
    char *bank = msa_file_join(o->store, "bank");
    msa_rc rc = bank ? msa_corpus_open(o->store, &r->corpus, err) : msa_err_nomem(err, "route");
    if (rc == MSA_OK && !msa_file_exists(bank))
        rc = msa_err_set(err, MSA_FAILED, MSA_E_NOINPUT, "store %s has no memory bank yet: run prefill", o->store);
    if (rc == MSA_OK)
        rc = msa_model_open(o->model, &o->model_opts, &r->model, err);
    if (rc == MSA_OK)
        rc = msa_bank_open(bank, r->model, MSA_BANK_READ, MSA_BF16, &r->bank, err);
    free(bank);
    if (rc == MSA_OK && msa_model_protocol(r->model)->lexical_weight > 0) {
        char state[65];
        rc = msa_store_state(r->corpus, state, err);
        if (rc == MSA_OK)
            rc = msa_store_lexical(o->store, r->corpus, state, r->bank, NULL, &r->lexical, err);
    }
    return rc < 0 ? rc : MSA_OK;
}

int msa_cmd_route(const msa_options *o, msa_err *err)
{
    router r = {.k = o->k};
    msa_line_reader in;
    msa_line l;
    bool bad = false;
    msa_rc rc = MSA_OK;
    if (!o->store || !o->model)
        rc = msa_err_set(err, MSA_FAILED, MSA_E_USAGE, "route needs --store and --model");
    for (int64_t i = 0; rc == MSA_OK && i < ROUTE_BATCH; i++)
        if (!(r.found[i] = msa_alloc(r.k, sizeof *r.found[i])))
            rc = msa_err_nomem(err, "route");
    if (rc == MSA_OK)
        rc = route_open(&r, o, err);
    msa_line_reader_init(&in, STDIN_FILENO, MSA_JOB_MAX_LINE_BYTES);
    while (rc == MSA_OK && (rc = msa_line_reader_next(&in, &l, err)) == MSA_OK)
        if (!is_blank(&l))
            rc = route_line(&r, &l, &bad, err);
    if (rc == MSA_END)
        rc = route_batch(&r, err);
    for (int64_t i = 0; i < ROUTE_BATCH; i++) {
        free(r.found[i]);
        if (i < r.n)
            json_decref(r.lines[i]);
    }
    msa_line_reader_free(&in);
    msa_buf_free(&r.out);
    msa_lexical_close(r.lexical);
    msa_bank_close(r.bank);
    msa_model_close(r.model);
    msa_corpus_close(r.corpus);
    return rc < 0 ? (int)err->code : bad ? MSA_EXIT_SOME_FAILED : 0;
}

/* ---- tokenize --------------------------------------------------------------------------- */

#define TOKENIZE_LINE_BYTES (256LL << 20)

static void put_int(msa_buf *out, int64_t v)
{
    char digits[24];
    int n = sizeof digits;
    do
        digits[--n] = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    msa_buf_put(out, digits + n, (int64_t)sizeof digits - n);
}

static void put_ids(msa_buf *out, const msa_tokens *ids)
{
    msa_buf_puts(out, "{\"ids\": [");
    for (int64_t i = 0; i < ids->n; i++) {
        if (i)
            msa_buf_puts(out, ", ");
        put_int(out, ids->ids[i]);
    }
    msa_buf_puts(out, "]}\n");
}

static msa_rc tokenize_line(const msa_tokenizer *tok, msa_token_mode mode, const msa_line *l, msa_tokens *ids,
                            msa_buf *out, bool *bad, msa_err *err)
{
    char why[300] = "";
    json_t *v = parse(l, why, sizeof why);
    const json_t *text = json_object_get(v, "text");
    msa_rc rc = MSA_OK;
    msa_tokens_clear(ids);
    if (v && !json_is_string(text)) {
        snprintf(why, sizeof why, "key \"text\" is missing or not text");
    } else if (v) {
        msa_err e = {0};
        rc = msa_tokenizer_encode(tok, json_string_value(text), (int64_t)json_string_length(text), mode, ids, &e);
        if (rc == MSA_FAILED)
            snprintf(why, sizeof why, "%.280s", e.msg);
        else if (rc < 0 && err)
            *err = e;
    }
    if (rc != MSA_FATAL && !*why) {
        put_ids(out, ids);
    } else if (rc != MSA_FATAL) {
        json_t *error = json_pack("{s:n, s:o}", "ids", "error", msa_json_string(why));
        complain(l, why);
        *bad = true;
        rc = msa_json_put_line(out, error, err);
        json_decref(error);
    }
    json_decref(v);
    return rc;
}

int msa_cmd_tokenize(const msa_options *o, msa_err *err)
{
    msa_tokenizer *tok = NULL;
    msa_tokens ids = {0};
    msa_buf out = {0};
    msa_line_reader in;
    msa_line l;
    bool bad = false;
    char *path = o->model ? msa_file_join(o->model, "tokenizer.json") : NULL;
    msa_rc rc = !o->model ? msa_err_set(err, MSA_FAILED, MSA_E_USAGE, "tokenize needs --model")
                : !path   ? msa_err_nomem(err, "tokenize")
                          : msa_tokenizer_open(path, &tok, err);
    msa_line_reader_init(&in, STDIN_FILENO, TOKENIZE_LINE_BYTES);
    while (rc == MSA_OK && (rc = msa_line_reader_next(&in, &l, err)) == MSA_OK) {
        if (is_blank(&l))
            continue;
        rc = tokenize_line(tok, o->special ? MSA_TOKENS_SPECIAL : MSA_TOKENS_PLAIN, &l, &ids, &out, &bad, err);
        if (rc == MSA_OK && out.len >= OUT_BYTES)
            rc = flush_out(&out, err);
    }
    if (rc == MSA_END)
        rc = flush_out(&out, err);
    msa_line_reader_free(&in);
    msa_buf_free(&out);
    msa_tokens_free(&ids);
    msa_tokenizer_free(tok);
    free(path);
    return rc < 0 ? (int)err->code : bad ? MSA_EXIT_SOME_FAILED : 0;
}
