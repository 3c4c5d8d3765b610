#include "engine/protocol.h"

#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "ingest/template.h"

#define PROTOCOL_MAX (1 << 20)
#define BIAS_MAX 1000.0
#define READ_MAX_DOCS 1024
#define N(a) ((int64_t)(sizeof(a) / sizeof((a)[0])))

/* ---- the strings ----------------------------------------------------------------- */

#define GENERATIVE 1
#define ROUTER 2

/* One string of the protocol: its default in either protocol (NULL: none) and
 * the places it may have. */
typedef struct field {
    const char *key;
    size_t offset;
    unsigned kinds;
    const char *generative, *router;
    const char *places[4];
} field;

#define AT(member) #member, offsetof(msa_protocol, member)
static const field fields[] = {
    {AT(document_head), GENERATIVE | ROUTER, "<|im_start|>[{id}]. ", "<|im_start|>[{id}]. ", {"id"}},
    {AT(document_tail), GENERATIVE | ROUTER, "[{id}]<|im_end|>", "[{id}]<|im_end|>", {"id"}},
    {AT(template_head), GENERATIVE | ROUTER, "<|im_start|>user\n", "<|im_start|>user\n", {NULL}},
    {AT(question_before), GENERATIVE | ROUTER,
     "\nPlease answer the question based on the above historical document information\n\n",
     "\nPlease answer the question based on the above historical document information\n\n", {NULL}},
    {AT(question_after), GENERATIVE | ROUTER,
     "\nPlease return all documents related to the question\n", "", {NULL}},
    {AT(template_tail), GENERATIVE | ROUTER, "<|im_end|>\n", "", {NULL}},
    {AT(response_head), GENERATIVE | ROUTER, "<|im_start|>", "", {NULL}},
    {AT(retrieve_end), GENERATIVE, "<|object_ref_end|>", NULL, {NULL}},
    {AT(retrieve_done), GENERATIVE, "<End-of-Retrieve>", NULL, {NULL}},
    {AT(interleave_item), GENERATIVE, "[{id}]. {text}\n", NULL, {"id", "text"}},
    {AT(answer_head), GENERATIVE,
     "<|im_start|>The user's question is: {question}\n<|object_ref_end|>", NULL, {"question"}},
    {AT(evidence_item), ROUTER, NULL, "[{n}] {text}\n", {"n", "text"}},
    {AT(answer_prompt), ROUTER, NULL,
     "<|im_start|>user\n{evidence}\n{question}<|im_end|>\n<|im_start|>assistant\n",
     {"evidence", "question"}},
    {AT(not_found_text), ROUTER, NULL, NULL, {NULL}},
    {AT(answer_end), GENERATIVE | ROUTER, "<|im_end|>", "<|im_end|>", {NULL}},
};

static char **string_of(const msa_protocol *p, const field *f)
{
    return (char **)((char *)p + f->offset);
}

void msa_protocol_free(msa_protocol *p)
{
    if (p == NULL)
        return;
    for (int64_t i = 0; i < N(fields); i++)
        free(*string_of(p, &fields[i]));
    *p = (msa_protocol){0};
}

/* ---- reading ----------------------------------------------------------------------- */

static msa_rc bad(msa_err *err, const char *key, const char *what)
{
    return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "%s: %s", key, what);
}

static msa_rc read_layer_weights(const json_t *v, int64_t n_router, msa_protocol *p, msa_err *err)
{
    if (json_array_size(v) != (size_t)n_router)
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG,
                           "layer_weights: not a list of %lld numbers, one a router layer",
                           (long long)n_router);
    for (int64_t i = 0; i < n_router; i++) {
        const json_t *w = json_array_get(v, (size_t)i);
        if (!json_is_number(w) || !isfinite(json_number_value(w)))
            return bad(err, "layer_weights", "an entry is no number");
        p->layer_weights[i] = json_number_value(w);
    }
    return MSA_OK;
}

static msa_rc read_count(const json_t *v, const char *key, int64_t hi, int64_t *out, msa_err *err)
{
    if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > hi)
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "%s: not a whole number from 1 to %lld", key,
                           (long long)hi);
    *out = json_integer_value(v);
    return MSA_OK;
}

static msa_rc read_flag(const json_t *v, const char *key, bool *out, msa_err *err)
{
    if (!json_is_boolean(v))
        return bad(err, key, "neither true nor false");
    *out = json_is_true(v);
    return MSA_OK;
}

static msa_rc read_lexical(const json_t *v, msa_protocol *p, msa_err *err)
{
    const char *key;
    json_t *o;
    if (!json_is_object(v))
        return bad(err, "lexical", "not an object");
    json_object_foreach((json_t *)v, key, o) {
        msa_rc rc = MSA_OK;
        if (strcmp(key, "candidates") == 0)
            rc = read_count(o, key, MSA_LEXICAL_MAX_CANDIDATES, &p->lexical_candidates, err);
        else if (strcmp(key, "weight") != 0)
            rc = bad(err, key, "neither weight nor candidates");
        else if (!json_is_number(o) || !(json_number_value(o) >= 0) || !isfinite(json_number_value(o)))
            rc = bad(err, key, "not a number from 0");
        else
            p->lexical_weight = json_number_value(o);
        if (rc < 0)
            return msa_err_prefix(err, rc, "lexical");
    }
    return MSA_OK;
}

static msa_rc read_bias(const json_t *v, msa_protocol *p, msa_err *err)
{
    const char *key;
    json_t *o;
    if (!json_is_object(v))
        return bad(err, "not_found_bias", "not an object");
    json_object_foreach((json_t *)v, key, o) {
        double *to = strcmp(key, "base") == 0    ? &p->not_found_bias.base
                     : strcmp(key, "score") == 0 ? &p->not_found_bias.score
                                                 : NULL;
        msa_rc rc = MSA_OK;
        if (!to)
            rc = bad(err, key, "neither base nor score");
        else if (!json_is_number(o) || !(fabs(json_number_value(o)) <= BIAS_MAX))
            rc = bad(err, key, "not a number from -1000 to 1000");
        else
            *to = json_number_value(o);
        if (rc < 0)
            return msa_err_prefix(err, rc, "not_found_bias");
    }
    return MSA_OK;
}

static msa_rc read_not_found_by(const json_t *v, msa_protocol *p, msa_err *err)
{
    const char *by = json_string_value(v);
    if (by == NULL || (strcmp(by, "evidence") != 0 && strcmp(by, "passage") != 0))
        return bad(err, "not_found_by", "neither \"evidence\" nor \"passage\"");
    p->not_found_by_passage = by[0] == 'p';
    return MSA_OK;
}

static msa_rc read_read(const json_t *v, msa_protocol *p, msa_err *err)
{
    const char *key;
    json_t *o;
    if (!json_is_object(v))
        return bad(err, "read", "not an object");
    json_object_foreach((json_t *)v, key, o) {
        msa_rc rc = MSA_OK;
        if (strcmp(key, "docs") == 0)
            rc = read_count(o, key, READ_MAX_DOCS, &p->read_docs, err);
        else if (strcmp(key, "weight") != 0)
            rc = bad(err, key, "neither docs nor weight");
        else if (!json_is_number(o) || !(json_number_value(o) >= 0) || !isfinite(json_number_value(o)))
            rc = bad(err, key, "not a number from 0");
        else
            p->read_weight = json_number_value(o);
        if (rc < 0)
            return msa_err_prefix(err, rc, "read");
    }
    return p->read_docs > 0 ? MSA_OK : bad(err, "read", "without docs");
}

/* A key that is no string of the table. */
static msa_rc read_other(const char *key, const json_t *v, int64_t n_router, msa_protocol *p,
                         msa_err *err)
{
    bool router = p->kind == MSA_PROTOCOL_ROUTER;
    if (strcmp(key, "version") == 0 || strcmp(key, "protocol") == 0)
        return MSA_OK;
    if (router && strcmp(key, "layer_weights") == 0)
        return read_layer_weights(v, n_router, p, err);
    if (router && strcmp(key, "evidence_docs") == 0)
        return read_count(v, key, 1 << 16, &p->evidence_docs, err);
    if (router && strcmp(key, "evidence_tokens") == 0)
        return read_count(v, key, 1 << 24, &p->evidence_tokens, err);
    if (router && strcmp(key, "route_question_only") == 0)
        return read_flag(v, key, &p->route_question_only, err);
    if (router && strcmp(key, "attend_memory") == 0)
        return read_flag(v, key, &p->attend_memory, err);
    if (router && strcmp(key, "min_score") == 0) {
        if (!json_is_number(v) || !isfinite(json_number_value(v)))
            return bad(err, key, "not a number");
        p->has_min_score = true;
        p->min_score = json_number_value(v);
        return MSA_OK;
    }
    if (router && strcmp(key, "not_found_bias") == 0)
        return read_bias(v, p, err);
    if (router && strcmp(key, "not_found_by") == 0)
        return read_not_found_by(v, p, err);
    if (router && strcmp(key, "read") == 0)
        return read_read(v, p, err);
    if (router && strcmp(key, "lexical") == 0)
        return read_lexical(v, p, err);
    return bad(err, key, router ? "not a key of the router protocol"
                                : "not a key of the generative protocol");
}

static msa_rc read_string(const field *f, const json_t *v, unsigned kind, msa_protocol *p, msa_err *err)
{
    char **s = string_of(p, f);
    if (!(f->kinds & kind))
        return bad(err, f->key, "belongs to the other protocol");
    if (!json_is_string(v))
        return bad(err, f->key, "not a string");
    free(*s);
    *s = msa_strdup(json_string_value(v));
    return *s != NULL ? MSA_OK : msa_err_nomem(err, f->key);
}

static msa_rc set_defaults(msa_protocol *p, int64_t n_router, msa_err *err)
{
    for (int64_t i = 0; i < N(fields); i++) {
        const field *f = &fields[i];
        const char *s = p->kind == MSA_PROTOCOL_ROUTER ? f->router : f->generative;
        if (s != NULL && (*string_of(p, f) = msa_strdup(s)) == NULL)
            return msa_err_nomem(err, f->key);
    }
    for (int64_t i = 0; i < n_router; i++)
        p->layer_weights[i] = 1.0 / (double)n_router;
    if (p->kind == MSA_PROTOCOL_ROUTER) {
        p->route_question_only = true;
        p->evidence_docs = 4;
        p->evidence_tokens = 1500;
        p->lexical_candidates = 100;
    }
    return MSA_OK;
}

static msa_rc check_strings(const msa_protocol *p, msa_err *err)
{
    for (int64_t i = 0; i < N(fields); i++) {
        msa_rc rc = msa_template_check(*string_of(p, &fields[i]), fields[i].places, err);
        if (rc < 0)
            return msa_err_prefix(err, rc, "%s", fields[i].key);
    }
    if (p->kind == MSA_PROTOCOL_ROUTER) {
        if (!msa_template_has(p->answer_prompt, "evidence") || !msa_template_has(p->answer_prompt, "question"))
            return bad(err, "answer_prompt", "must have the places {evidence} and {question}");
        if (!msa_template_has(p->evidence_item, "text"))
            return bad(err, "evidence_item", "must have the place {text}");
        if (p->not_found_by_passage && (p->not_found_text == NULL || p->not_found_text[0] == '\0'))
            return bad(err, "not_found_by", "\"passage\" needs a not_found_text");
        if (p->not_found_by_passage && p->attend_memory)
            return bad(err, "not_found_by", "\"passage\" and attend_memory exclude each other");
        if (p->read_docs > 0 && (p->not_found_text == NULL || p->not_found_text[0] == '\0'))
            return bad(err, "read", "needs a not_found_text");
        if (p->read_docs > 0 && p->attend_memory)
            return bad(err, "read", "excludes attend_memory");
    } else if (!msa_template_has(p->interleave_item, "text") || !msa_template_has(p->interleave_item, "id")) {
        return bad(err, "interleave_item", "must have the places {id} and {text}");
    } else if (p->retrieve_done[0] == '\0') {
        return bad(err, "retrieve_done", "empty");
    }
    return MSA_OK;
}

static msa_rc read_object(const json_t *j, int64_t n_router, msa_protocol *p, msa_err *err)
{
    const char *kind = json_string_value(json_object_get(j, "protocol")), *key;
    json_t *v;
    if (!json_is_object(j))
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "not a JSON object");
    if (json_integer_value(json_object_get(j, "version")) != 1)
        return bad(err, "version", "not 1");
    if (kind == NULL || (strcmp(kind, "router") != 0 && strcmp(kind, "generative") != 0))
        return bad(err, "protocol", "neither \"generative\" nor \"router\"");
    p->kind = kind[0] == 'r' ? MSA_PROTOCOL_ROUTER : MSA_PROTOCOL_GENERATIVE;
    msa_rc rc = set_defaults(p, n_router, err);
    json_object_foreach((json_t *)j, key, v) {
        int64_t i = 0;
        if (rc < 0)
            break;
        while (i < N(fields) && strcmp(key, fields[i].key) != 0)
            i++;
        if (i < N(fields))
            rc = read_string(&fields[i], v, kind[0] == 'r' ? ROUTER : GENERATIVE, p, err);
        else
            rc = read_other(key, v, n_router, p, err);
    }
    return rc;
}

msa_rc msa_protocol_read(const char *dir, int64_t n_router, msa_protocol *out, msa_err *err)
{
    msa_protocol p = {0};
    char *path = msa_file_join(dir, "msa_protocol.json"), *text = NULL;
    json_t *j = NULL;
    json_error_t je;
    int64_t n;
    msa_rc rc;
    if (path == NULL) {
        rc = msa_err_nomem(err, "a file name");
    } else if (!msa_file_exists(path)) {
        rc = set_defaults(&p, n_router, err);
    } else if ((rc = msa_file_read(path, PROTOCOL_MAX, &text, &n, err)) >= 0) {
        j = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &je);
        rc = j != NULL ? read_object(j, n_router, &p, err)
                       : msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "line %d: %s", je.line, je.text);
        if (rc >= 0)
            rc = check_strings(&p, err);
        if (rc < 0)
            rc = msa_err_prefix(err, rc, "%s", path);
    }
    json_decref(j);
    free(text);
    free(path);
    if (rc < 0)
        msa_protocol_free(&p);
    else
        *out = p;
    return rc;
}

/* ---- with the tokenizer; in print ---------------------------------------------------- */

static msa_rc no_control(const msa_tokenizer *t, const char *key, const char *s, msa_err *err)
{
    if (s == NULL || msa_tokenizer_count_special(t, s, (int64_t)strlen(s)) == 0)
        return MSA_OK;
    return bad(err, key, "holds a control token, which would not act there");
}

static msa_rc one_control(const msa_tokenizer *t, const char *key, const char *s, msa_err *err)
{
    if (s == NULL || msa_tokenizer_special(t, s) >= 0)
        return MSA_OK;
    return bad(err, key, "not a control token of the tokenizer");
}

msa_rc msa_protocol_check(const msa_protocol *p, const msa_tokenizer *t, msa_err *err)
{
    msa_rc rc = one_control(t, "answer_end", p->answer_end, err);
    if (rc >= 0)
        rc = one_control(t, "retrieve_end", p->retrieve_end, err);
    if (rc >= 0)
        rc = no_control(t, "interleave_item", p->interleave_item, err);
    if (rc >= 0)
        rc = no_control(t, "evidence_item", p->evidence_item, err);
    return rc < 0 ? msa_err_prefix(err, rc, "msa_protocol.json") : MSA_OK;
}

void msa_protocol_print(const msa_protocol *p, int64_t n_router, msa_buf *out)
{
    msa_buf_printf(out, "protocol %d\n", (int)p->kind);
    for (int64_t i = 0; i < N(fields); i++) {
        const char *s = *string_of(p, &fields[i]);
        if (s != NULL)
            msa_buf_printf(out, "%s %zu %s\n", fields[i].key, strlen(s), s);
    }
    for (int64_t i = 0; i < n_router; i++)
        msa_buf_printf(out, "layer_weight %.17g\n", p->layer_weights[i]);
    msa_buf_printf(out, "route_question_only %d\nattend_memory %d\nevidence %lld %lld\n",
                   p->route_question_only, p->attend_memory, (long long)p->evidence_docs,
                   (long long)p->evidence_tokens);
    if (p->has_min_score)
        msa_buf_printf(out, "min_score %.17g\n", p->min_score);
    if (p->not_found_bias.base != 0 || p->not_found_bias.score != 0)
        msa_buf_printf(out, "not_found_bias %.17g %.17g\n", p->not_found_bias.base, p->not_found_bias.score);
    if (p->not_found_by_passage)
        msa_buf_puts(out, "not_found_by passage\n");
    if (p->read_docs > 0)
        msa_buf_printf(out, "read %lld %.17g\n", (long long)p->read_docs, p->read_weight);
    if (p->lexical_weight > 0)
        msa_buf_printf(out, "lexical %.17g %lld\n", p->lexical_weight, (long long)p->lexical_candidates);
}
