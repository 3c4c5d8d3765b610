#include "engine/prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/model_internal.h"
#include "ingest/template.h"

/* ---- fixed parts ---------------------------------------------------------------- */

/* Ids of the tokenizer beyond the embedding matrix must not reach the model. */
static msa_rc in_vocabulary(const msa_model *m, const msa_tokens *t, msa_err *err)
{
    for (int64_t i = 0; i < t->n; i++)
        if (t->ids[i] < 0 || t->ids[i] >= m->config.V)
            return msa_err_set(err, MSA_FAILED, MSA_E_DATA,
                               "token %d is outside the model's vocabulary of %lld", (int)t->ids[i],
                               (long long)m->config.V);
    return MSA_OK;
}

static msa_rc fill(const msa_prompts *p, const char *what, const char *tmpl,
                   const msa_template_var *vars, int64_t n, msa_template_span *span, msa_tokens *out,
                   msa_err *err)
{
    msa_rc rc = msa_template_encode(p->model->tokenizer, tmpl ? tmpl : "", vars, n, span, out, err);
    if (rc >= 0)
        rc = in_vocabulary(p->model, out, err);
    return rc < 0 ? msa_err_prefix(err, rc, "%s", what) : MSA_OK;
}

static msa_rc one_token(const msa_prompts *p, const char *what, const char *text, int32_t *id,
                        msa_err *err)
{
    msa_tokens t = {0};
    msa_rc rc = fill(p, what, text, NULL, 0, NULL, &t, err);
    if (rc >= 0 && t.n != 1)
        rc = msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "%s \"%s\" is %lld tokens, not one", what,
                         text ? text : "", (long long)t.n);
    if (rc >= 0)
        *id = t.ids[0];
    msa_tokens_free(&t);
    return rc;
}

/* The first token of not_found_text, where an answer may begin with it: behind a
 * space and without one. One that is white space alone begins any answer. */
static msa_rc begin_not_found(msa_prompts *p, const char *text, msa_err *err)
{
    msa_tokens t = {0};
    msa_buf bytes = {0};
    msa_rc rc = MSA_OK;
    for (int spaced = 0; rc >= 0 && spaced < 2; spaced++) {
        char *s = msa_sprintf("%s%s", spaced ? " " : "", text);
        msa_tokens_clear(&t);
        bytes.len = 0;
        rc = s ? fill(p, "not_found_text", s, NULL, 0, NULL, &t, err) : msa_err_nomem(err, "prompts");
        if (rc >= 0 && t.n > 0) {
            rc = msa_answer_text(p->model->tokenizer, t.ids, 1, &bytes, err);
            if (rc >= 0 && bytes.len > 0 && (p->n_none == 0 || p->none[0] != t.ids[0]))
                p->none[p->n_none++] = t.ids[0];
        }
        free(s);
    }
    msa_buf_free(&bytes);
    msa_tokens_free(&t);
    return rc;
}

msa_rc msa_prompts_init(msa_prompts *p, const msa_model *m, msa_err *err)
{
    *p = (msa_prompts){.model = m, .retrieve_end = -1};
    const msa_protocol *s = &m->protocol;
    bool generative = s->kind == MSA_PROTOCOL_GENERATIVE;
    if (m->bare)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "a bare model answers no questions");
    p->question = msa_sprintf("%s{question}%s", s->question_before ? s->question_before : "",
                              s->question_after ? s->question_after : "");
    msa_rc rc = p->question ? MSA_OK : msa_err_nomem(err, "prompts");
    if (rc >= 0)
        rc = fill(p, "template_head", s->template_head, NULL, 0, NULL, &p->head, err);
    if (rc >= 0 && generative)
        rc = fill(p, "template_tail", s->template_tail, NULL, 0, NULL, &p->tail, err);
    if (rc >= 0 && generative)
        rc = fill(p, "response_head", s->response_head, NULL, 0, NULL, &p->tail, err);
    if (rc >= 0 && generative)
        rc = one_token(p, "retrieve_end", s->retrieve_end, &p->retrieve_end, err);
    if (rc >= 0 && generative)
        rc = fill(p, "retrieve_done", s->retrieve_done, NULL, 0, NULL, &p->done, err);
    if (rc >= 0 && generative && p->done.n == 0)
        rc = msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "retrieve_done is empty");
    if (rc >= 0)
        rc = one_token(p, "answer_end", s->answer_end, &p->stop[p->n_stop++], err);
    for (int64_t i = 0; rc >= 0 && i < m->n_eos; i++)
        p->stop[p->n_stop++] = m->eos_ids[i];
    if (rc >= 0 && s->not_found_text)
        rc = begin_not_found(p, s->not_found_text, err);
    if (rc < 0)
        msa_prompts_free(p);
    return rc;
}

void msa_prompts_free(msa_prompts *p)
{
    free(p->question);
    msa_tokens_free(&p->head);
    msa_tokens_free(&p->tail);
    msa_tokens_free(&p->done);
    *p = (msa_prompts){0};
}

bool msa_prompts_stops(const msa_prompts *p, int32_t id)
{
    for (int64_t i = 0; i < p->n_stop; i++)
        if (p->stop[i] == id)
            return true;
    return false;
}

/* ---- parts of a context ----------------------------------------------------------- */

msa_rc msa_prompts_question(const msa_prompts *p, const char *text, int64_t n, msa_tokens *out,
                            msa_span *route, msa_err *err)
{
    if (n < 1)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "the question is empty");
    msa_template_var var = {"question", text, n};
    msa_template_span own = {.name = "question"};
    int64_t from = out->n;
    msa_rc rc = fill(p, "question", p->question, &var, 1, &own, out, err);
    if (rc < 0)
        return rc;
    bool all = p->model->protocol.kind == MSA_PROTOCOL_GENERATIVE ||
               !p->model->protocol.route_question_only;
    *route = all ? (msa_span){from, out->n} : (msa_span){own.from, own.to};
    if (route->from >= route->to)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "the question has no tokens");
    return MSA_OK;
}

msa_rc msa_prompts_item(const msa_prompts *p, int64_t doc, const char *text, int64_t n,
                        msa_tokens *out, msa_err *err)
{
    char id[24];
    int len = snprintf(id, sizeof id, "%lld", (long long)doc);
    msa_template_var vars[] = {{"id", id, len}, {"text", text, n}};
    return fill(p, "interleave_item", p->model->protocol.interleave_item, vars, 2, NULL, out, err);
}

msa_rc msa_prompts_answer_head(const msa_prompts *p, const char *question, int64_t n, msa_tokens *out,
                               msa_err *err)
{
    msa_template_var var = {"question", question, n};
    return fill(p, "answer_head", p->model->protocol.answer_head, &var, 1, NULL, out, err);
}

msa_rc msa_prompts_answer(const msa_prompts *p, const char *question, int64_t n, const msa_buf *evidence,
                          msa_tokens *out, msa_err *err)
{
    msa_template_var vars[] = {{"question", question, n},
                               {"evidence", evidence->data ? evidence->data : "", evidence->len}};
    return fill(p, "answer_prompt", p->model->protocol.answer_prompt, vars, 2, NULL, out, err);
}

/* ---- evidence ------------------------------------------------------------------------ */

/* Appends one filled evidence item to out; *n_tok: its tokens. */
static msa_rc evidence_item(const msa_prompts *p, const char *number, const char *text, int64_t n,
                            msa_tokens *scratch, msa_buf *out, int64_t *n_tok, msa_err *err)
{
    msa_template_var vars[] = {{"n", number, (int64_t)strlen(number)}, {"text", text, n}};
    int64_t from = out->len;
    msa_rc rc = msa_template_text(p->model->protocol.evidence_item, vars, 2, out, err);
    if (rc >= 0 && out->oom)
        rc = msa_err_nomem(err, "evidence");
    msa_tokens_clear(scratch);
    scratch->want_offsets = false;
    if (rc >= 0)
        rc = msa_tokenizer_encode(p->model->tokenizer, out->data + from, out->len - from,
                                  MSA_TOKENS_LITERAL, scratch, err);
    *n_tok = scratch->n;
    return rc;
}

static void shorten(msa_buf *b, int64_t len)
{
    b->len = len;
    if (b->data)
        b->data[len] = 0;
}

msa_rc msa_prompts_evidence(const msa_prompts *p, int64_t number, const char *text, int64_t n, bool cut,
                            int64_t *budget, msa_tokens *scratch, msa_buf *out, msa_err *err)
{
    char num[24];
    snprintf(num, sizeof num, "%lld", (long long)number);
    const int64_t from = out->len;
    int64_t n_tok;
    msa_rc rc = evidence_item(p, num, text, n, scratch, out, &n_tok, err);
    if (rc >= 0 && n_tok > *budget && cut) {
        msa_tokens_clear(scratch);
        scratch->want_offsets = true;
        rc = msa_tokenizer_encode(p->model->tokenizer, text, n, MSA_TOKENS_LITERAL, scratch, err);
        int64_t wrapping = n_tok - scratch->n;
        int64_t keep = *budget - (wrapping > 0 ? wrapping : 0);
        keep = keep < scratch->n ? keep : scratch->n - 1;
        int64_t bytes = rc >= 0 && keep > 0 ? scratch->end[keep - 1] : 0;
        shorten(out, from);
        if (rc >= 0 && bytes > 0)
            rc = evidence_item(p, num, text, bytes, scratch, out, &n_tok, err);
        if (rc >= 0 && bytes > 0) {
            /* merges at the new end may cost a token more: it is within the reserve of the answer */
            *budget = n_tok < *budget ? *budget - n_tok : 0;
            return MSA_OK;
        }
    }
    if (rc < 0 || n_tok > *budget) {
        shorten(out, from);
        return rc < 0 ? msa_err_prefix(err, rc, "evidence") : MSA_END;
    }
    *budget -= n_tok;
    return MSA_OK;
}

/* ---- generated text -------------------------------------------------------------------- */

static int rising(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int64_t msa_list_parse(const char *text, int64_t n, int64_t *docs, bool *more)
{
    int64_t count = 0;
    *more = false;
    for (int64_t i = 0; i < n; i++) {
        if (text[i] != '[')
            continue;
        int64_t id = 0, digits = 0, j = i + 1;
        for (; j < n && text[j] >= '0' && text[j] <= '9' && digits < 18; j++, digits++)
            id = id * 10 + (text[j] - '0');
        if (digits == 0 || j >= n || text[j] != ']')
            continue;
        bool known = false;
        for (int64_t d = 0; d < count; d++)
            known = known || docs[d] == id;
        if (!known && count == MSA_LIST_DOCS)
            *more = true;
        else if (!known)
            docs[count++] = id;
        i = j;
    }
    qsort(docs, (size_t)count, sizeof *docs, rising);
    return count;
}

/* Bytes of the character at s, 0: not UTF-8, -1: cut off by the end. */
static int64_t character(const unsigned char *s, int64_t n)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (s[0] < 0x80)
        return s[0] ? 1 : 0;
    int64_t len = s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] >= 0xf5)
        return 0;
    uint32_t c = s[0] & (0xffu >> (len + 1));
    for (int64_t i = 1; i < len; i++) {
        if (i >= n)
            return -1;
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    return c < least[len] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? 0 : len;
}

static bool blank(unsigned char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

void msa_generated_bytes(const msa_tokenizer *t, int32_t id, bool keep_special, msa_buf *out)
{
    int64_t len = out->len;
    if (msa_tokenizer_decode(t, &id, 1, keep_special, out, NULL) < 0)
        shorten(out, len);
}

msa_rc msa_answer_text(const msa_tokenizer *t, const int32_t *ids, int64_t n, msa_buf *out, msa_err *err)
{
    msa_buf raw = {0};
    for (int64_t i = 0; i < n; i++)
        msa_generated_bytes(t, ids[i], false, &raw);
    const unsigned char *s = (const unsigned char *)raw.data;
    const int64_t start = out->len;
    for (int64_t i = 0, len; i < raw.len; i += len ? len : 1) {
        len = character(s + i, raw.len - i);
        if (len < 0)
            break;
        if (len == 0)
            msa_buf_puts(out, "\xef\xbf\xbd");
        else if (len > 1 || !blank(s[i]) || out->len > start)
            msa_buf_put(out, s + i, len);
    }
    while (out->len > start && blank((unsigned char)out->data[out->len - 1]))
        shorten(out, out->len - 1);
    msa_buf_put(out, "", 0);
    bool oom = raw.oom || out->oom;
    msa_buf_free(&raw);
    return oom ? msa_err_nomem(err, "an answer") : MSA_OK;
}

/* ---- chance -------------------------------------------------------------------------------- */

/* One output of splitmix64 (Steele, Lea and Flood 2014) at a counter. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

float msa_sample_uniform(uint64_t seed, int64_t step)
{
    uint64_t z = mix(mix(seed) + ((uint64_t)step + 1) * 0x9e3779b97f4a7c15u);
    return (float)(z >> 40) * 0x1p-24f;
}
