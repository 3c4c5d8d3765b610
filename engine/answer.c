/* Questions in flight.
 *
 * A question is a slot with a context: token ids of which the first `run` stand
 * in the slot's caches and the others are to be run next. Everything a question
 * does is to append ids; one step runs what is pending of every question that
 * fits a pass and then lets each react to its next token.
 *
 *   router protocol       ROUTE (question, combined routing) -> PROBE, where each passage
 *                         is read alone -> PROBE ... -> ANSWER -> done
 *   generative protocol   LIST (routed layer by layer) -> LIST ... -> ANSWER -> done
 *
 * Invariants
 *   1. n <= context, and n > run for every question that is not done: it always
 *      has something to run.
 *   2. A LIST context keeps room for the answer head and a part of the answer, so
 *      that every limit on retrieval still ends in an answer.
 *   3. A pass admits single rows first, then entering questions in the order of
 *      their admission; the rows reserved hold one whole context beside them, so
 *      the oldest always fits and nobody starves. */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/model_internal.h"
#include "engine/prompt.h"
#include "engine/route.h"

#define DEFAULT_BATCH 16
#define DEFAULT_CONTEXT 8192
#define DEFAULT_ROUNDS 8
/* Most documents that one question may ask a router layer to keep. */
#define MAX_TOP_K 1024

typedef enum phase { FREE, ROUTE, PROBE, LIST, ANSWER, DONE } phase;

/* A prompt that waits to be run; reading: the place in the round's `read` of the document
 * that stands in it alone, -1: the answer's. */
typedef struct prompt {
    int32_t *ids;
    int64_t n, reading;
} prompt;

typedef struct quest {
    phase phase;
    msa_arena *arena;         /* text, rounds, evidence; reset when the slot is freed */
    msa_question q;           /* q.text lives in the arena */
    int32_t *ids;             /* [context] */
    int64_t n, run, pos;      /* ids; those in the cache; position of ids[0] */
    int64_t sampled;          /* ids that the model generated */
    int64_t lists;            /* generative: lists that have ended */
    bool head;                /* the template head is visible */
    msa_routing routing;      /* of the pending rows */
    msa_span spans[2];        /* which of them route; place 0: the question part */
    int64_t n_spans;
    int64_t list_from;        /* generative: where the list being generated starts */
    int64_t answer_from;      /* where the generated answer starts: behind the prompt */
    prompt *prompts;          /* router: one for each passage that is still to be read alone, the best
                                 document's first; the last is run first. Place n_prompts: what runs */
    int64_t n_prompts;
    int64_t budget;           /* router: tokens that evidence may have */
    int64_t reserve;          /* generative: ids kept free for the answer */
    msa_round *rounds;        /* [max_rounds + 1]: one a routing pass */
    int64_t *evidence;
    int64_t evidence_cap;
    msa_buf text;             /* of the list being generated, then of the answer; the memory
                                 stays with the slot */
    msa_answer a;
} quest;

struct msa_answerer {
    msa_model *model;
    msa_bank *bank;
    msa_doc_text *doc_text;
    void *user;
    msa_lexical *lexical;     /* NULL: the router's score alone */
    msa_prompts prompts;
    msa_seqs *seqs;
    bool dead, generative;
    int64_t batch, context, rows, top_k;
    quest *quests;            /* [batch], by slot */
    int64_t *order;           /* [batch] slots in flight, oldest first */
    int64_t n_order;
    msa_seq_rows *items;      /* [batch] of one pass */
    msa_kern_sample *params;  /* [batch] */
    int32_t *next;            /* [batch] */
    float *row;               /* [V] one row of logits */
    msa_scored *list;         /* [n_router * top_k + lexical candidates] */
    msa_tokens tokens;        /* scratch of assembling */
    msa_buf evidence, item;
};

/* ---- life -------------------------------------------------------------------------- */

static msa_rc alloc_quests(msa_answerer *a, msa_err *err)
{
    const int64_t n = a->batch;
    int64_t n_list;
    a->quests = msa_calloc(n, sizeof *a->quests);
    a->order = msa_calloc(n, sizeof *a->order);
    a->items = msa_calloc(n, sizeof *a->items);
    a->params = msa_calloc(n, sizeof *a->params);
    a->next = msa_calloc(n, sizeof *a->next);
    a->row = msa_alloc(a->model->config.V, sizeof *a->row);
    if (msa_mul(a->model->config.n_router, a->top_k, &n_list) &&
        msa_add(n_list, a->model->protocol.lexical_candidates, &n_list))
        a->list = msa_calloc(n_list, sizeof *a->list);
    if (!a->quests || !a->order || !a->items || !a->params || !a->next || !a->row || !a->list)
        return msa_err_nomem(err, "an answerer");
    for (int64_t i = 0; i < n; i++) {
        a->quests[i].arena = msa_arena_new();
        a->quests[i].ids = msa_alloc(a->context, sizeof *a->quests[i].ids);
        if (!a->quests[i].arena || !a->quests[i].ids)
            return msa_err_nomem(err, "an answerer");
    }
    return MSA_OK;
}

msa_rc msa_answerer_new(msa_model *m, msa_bank *b, const msa_answerer_opts *opts, msa_answerer **out,
                        msa_err *err)
{
    *out = NULL;
    msa_answerer *a = msa_calloc(1, sizeof *a);
    if (!a)
        return msa_err_nomem(err, "an answerer");
    const msa_config *c = &m->config;
    msa_bank_stat stat;
    msa_bank_stat_get(b, &stat);
    a->model = m;
    a->bank = b;
    a->doc_text = opts->text;
    a->user = opts->user;
    a->generative = m->protocol.kind == MSA_PROTOCOL_GENERATIVE;
    a->lexical = m->protocol.lexical_weight > 0 ? opts->lexical : NULL;
    a->batch = opts->max_batch > 0 ? opts->max_batch : DEFAULT_BATCH;
    a->context = opts->max_context > 0 ? opts->max_context : DEFAULT_CONTEXT;
    a->top_k = stat.n_docs < 1 ? 1 : stat.n_docs < MAX_TOP_K ? stat.n_docs : MAX_TOP_K;
    msa_rc rc = msa_prompts_init(&a->prompts, m, err);
    if (rc >= 0) {
        /* positions start behind the template head and K at the latest */
        int64_t most = c->max_positions - a->prompts.head.n - c->top_k;
        a->context = a->context < most ? a->context : most;
        if (a->context < 1)
            rc = msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "the model's %lld positions leave no context",
                             (long long)c->max_positions);
    }
    if (rc >= 0 && (!msa_add(a->context, a->batch, &a->rows) || !msa_add(a->rows, a->prompts.head.n, &a->rows)))
        rc = msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "max_context is out of range");
    if (rc >= 0)
        rc = msa_seqs_new(m, b, &(msa_seqs_opts){.head = a->prompts.head.ids,
                                                 .n_head = a->prompts.head.n, .slots = a->batch,
                                                 .context = a->context, .rows = a->rows,
                                                 .top_k = a->top_k,
                                                 .attend = a->generative || m->protocol.attend_memory
                                                               ? a->top_k : 0,
                                                 .combined = !a->generative}, &a->seqs, err);
    if (rc >= 0)
        rc = alloc_quests(a, err);
    if (rc < 0) {
        msa_answerer_free(a);
        return rc;
    }
    *out = a;
    return MSA_OK;
}

void msa_answerer_free(msa_answerer *a)
{
    if (!a)
        return;
    for (int64_t i = 0; a->quests && i < a->batch; i++) {
        msa_arena_free(a->quests[i].arena);
        msa_buf_free(&a->quests[i].text);
        free(a->quests[i].ids);
    }
    free(a->quests);
    free(a->order);
    free(a->items);
    free(a->params);
    free(a->next);
    free(a->row);
    free(a->list);
    msa_tokens_free(&a->tokens);
    msa_buf_free(&a->evidence);
    msa_buf_free(&a->item);
    msa_seqs_free(a->seqs);
    msa_prompts_free(&a->prompts);
    free(a);
}

int64_t msa_answerer_room(const msa_answerer *a)
{
    return a->dead ? 0 : a->batch - a->n_order;
}

int64_t msa_answerer_active(const msa_answerer *a)
{
    return a->n_order;
}

/* ---- ends ----------------------------------------------------------------------------- */

static void finish(quest *q, msa_outcome outcome, const char *reason)
{
    q->phase = DONE;
    q->a.outcome = q->a.limit ? MSA_PARTIAL : outcome;
    q->a.finish_reason = reason;
}

/* A limit counts once: the first one reached names the outcome. */
static void limited(quest *q, const char *limit)
{
    if (!q->a.limit)
        q->a.limit = limit;
}

/* The question failed; a fatal rc is the whole answerer's. */
static msa_rc fail(quest *q, msa_rc rc)
{
    if (rc == MSA_FATAL)
        return rc;
    q->phase = DONE;
    q->text.len = 0;
    q->a.rc = MSA_FAILED;
    q->a.finish_reason = "stop";
    return MSA_OK;
}

static bool starts_with(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static msa_rc finish_answer(msa_answerer *a, quest *q, const char *reason, msa_err *err)
{
    q->text.len = 0;
    msa_rc rc = msa_answer_text(a->model->tokenizer, q->ids + q->answer_from, q->n - q->answer_from,
                                &q->text, err);
    if (rc < 0)
        return rc;
    const char *none = a->model->protocol.not_found_text;
    if (!q->a.limit && none && *none && q->text.len > 0 && starts_with(q->text.data, none))
        finish(q, MSA_NOT_FOUND, reason);
    else
        finish(q, MSA_ANSWERED, reason);
    return MSA_OK;
}

/* ---- assembling ------------------------------------------------------------------------- */

/* Appends ids to the context; false: they do not fit, and nothing was appended. */
static bool append(const msa_answerer *a, quest *q, const int32_t *ids, int64_t n)
{
    if (n > a->context - q->n)
        return false;
    if (n > 0)
        memcpy(q->ids + q->n, ids, (size_t)n * sizeof *ids);
    q->n += n;
    return true;
}

static msa_rc too_long(const msa_answerer *a, int64_t n, msa_err *err)
{
    return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "%lld tokens do not fit the context of %lld",
                       (long long)n, (long long)a->context);
}

static msa_rc add_evidence(quest *q, int64_t doc, msa_err *err)
{
    for (int64_t i = 0; i < q->a.n_evidence; i++)
        if (q->evidence[i] == doc)
            return MSA_OK;
    if (q->a.n_evidence == q->evidence_cap) {
        int64_t cap = q->evidence_cap ? 2 * q->evidence_cap : 64;
        int64_t *more = msa_arena_alloc(q->arena, cap, sizeof *more);
        if (!more)
            return msa_err_nomem(err, "an answer");
        if (q->a.n_evidence > 0)
            memcpy(more, q->evidence, (size_t)q->a.n_evidence * sizeof *more);
        q->evidence = more;
        q->evidence_cap = cap;
    }
    q->evidence[q->a.n_evidence++] = doc;
    return MSA_OK;
}

/* The round that starts with the routing of the last pass. */
static msa_rc begin_round(msa_answerer *a, quest *q, msa_err *err)
{
    int64_t n = msa_route_list(a->model, a->seqs, q - a->quests, !a->generative, a->list);
    msa_round *r = &q->rounds[q->a.n_rounds++];
    if (a->lexical) {
        msa_rc rc = msa_route_fuse(&a->model->protocol, a->lexical, a->bank, q->q.text, q->q.n, a->list, &n, err);
        if (rc < 0)
            return rc;
    }
    n = n < q->q.top_k_docs ? n : q->q.top_k_docs;
    *r = (msa_round){.fused = a->lexical != NULL, .n_routed = n, .routed = msa_arena_alloc(q->arena, n, sizeof *r->routed)};
    if (!r->routed)
        return msa_err_nomem(err, "an answer");
    if (n > 0)
        memcpy(r->routed, a->list, (size_t)n * sizeof *r->routed);
    return MSA_OK;
}

static msa_rc begin(msa_answerer *a, quest *q, msa_err *err)
{
    const float temperature = (float)q->q.temperature, top_p = (float)q->q.top_p;
    if (q->q.max_tokens < 1)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "max_tokens must be at least 1");
    if (!(temperature >= 0) || !isfinite(temperature) || !(top_p > 0 && top_p <= 1))
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "temperature or top_p is out of range");
    if (q->q.top_k_docs < 1 || q->q.top_k_docs > MAX_TOP_K)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "top_k_docs must lie in 1 to %d", MAX_TOP_K);
    if (q->q.max_rounds < 1 || q->q.max_rounds > 1 << 16)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "max_rounds is out of range");
    q->rounds = msa_arena_alloc(q->arena, q->q.max_rounds + 1, sizeof *q->rounds);
    if (!q->rounds)
        return msa_err_nomem(err, "a question");

    msa_tokens_clear(&a->tokens);
    a->tokens.want_offsets = false;
    msa_rc rc = msa_prompts_question(&a->prompts, q->q.text, q->q.n, &a->tokens, &q->spans[0], err);
    if (rc < 0)
        return rc;
    if (!append(a, q, a->tokens.ids, a->tokens.n))
        return too_long(a, a->tokens.n, err);
    q->head = true;
    q->n_spans = 1;
    q->pos = a->prompts.head.n + a->model->config.top_k;
    msa_seqs_attend(a->seqs, q - a->quests, NULL, 0);
    if (!a->generative) {
        q->phase = ROUTE;
        q->routing = MSA_ROUTING_COMBINED;
        return MSA_OK;
    }
    q->phase = LIST;
    q->routing = MSA_ROUTING_LAYERS;
    msa_tokens_clear(&a->tokens);
    rc = msa_prompts_answer_head(&a->prompts, q->q.text, q->q.n, &a->tokens, err);
    if (rc < 0)
        return rc;
    /* the list's end, the end of retrieval, the answer head and some of the answer */
    const int64_t least = 1 + a->prompts.done.n + a->tokens.n;
    q->reserve = least + (q->q.max_tokens < a->context / 4 ? q->q.max_tokens : a->context / 4);
    if (!append(a, q, a->prompts.tail.ids, a->prompts.tail.n) || q->n + least + 2 > a->context)
        return too_long(a, q->n + least + 2, err);
    q->list_from = q->n;
    return MSA_OK;
}

/* ---- router protocol: evidence and answer prompt ---------------------------------------------- */

/* Puts a prompt behind those that wait. */
static msa_rc make_prompt(msa_answerer *a, quest *q, int64_t reading, const msa_buf *evidence, msa_err *err)
{
    msa_tokens_clear(&a->tokens);
    a->tokens.want_offsets = false;
    msa_rc rc = msa_prompts_answer(&a->prompts, q->q.text, q->q.n, evidence, &a->tokens, err);
    if (rc < 0)
        return rc;
    if (a->tokens.n >= a->context)
        return too_long(a, a->tokens.n + 1, err);
    prompt *p = &q->prompts[q->n_prompts++];
    *p = (prompt){msa_arena_alloc(q->arena, a->tokens.n, sizeof *p->ids), a->tokens.n, reading};
    if (!p->ids)
        return msa_err_nomem(err, "a prompt");
    memcpy(p->ids, a->tokens.ids, (size_t)p->n * sizeof *p->ids);
    return MSA_OK;
}

/* The last prompt that waits becomes the context. Rows that it begins with stay in
 * the caches; the last one runs in any case. */
static void enter_prompt(quest *q)
{
    const prompt *p = &q->prompts[--q->n_prompts];
    int64_t same = 0;
    while (same < q->run && same < p->n - 1 && q->ids[same] == p->ids[same])
        same++;
    memcpy(q->ids + same, p->ids + same, (size_t)(p->n - same) * sizeof *p->ids);
    q->run = same;
    q->n = q->answer_from = p->n;
    q->phase = p->reading >= 0 ? PROBE : ANSWER;
}

static int64_t docs_to_read(const msa_answerer *a)
{
    const msa_protocol *p = &a->model->protocol;
    if (a->prompts.n_none == 0)
        return 0;
    return p->read_docs > 0 ? p->read_docs : p->not_found_by_passage ? p->evidence_docs : 0;
}

/* Prompts in which one of the best documents is the only evidence. */
static msa_rc make_readings(msa_answerer *a, quest *q, msa_err *err)
{
    msa_round *r = &q->rounds[0];
    const int64_t most = docs_to_read(a), n = most < r->n_routed ? most : r->n_routed;
    q->prompts = msa_arena_alloc(q->arena, n + 1, sizeof *q->prompts);
    r->read = msa_arena_alloc(q->arena, n, sizeof *r->read);
    if (!q->prompts || !r->read)
        return msa_err_nomem(err, "an answer");
    q->n_prompts = 0;
    for (; r->n_read < n; r->n_read++) {
        const int64_t i = r->n_read;
        const char *text;
        int64_t n_text, budget = q->budget;
        r->read[i] = (msa_reading){r->routed[i].doc, r->routed[i].score, NAN};
        msa_rc rc = a->doc_text(a->user, r->read[i].doc, &text, &n_text, err);
        a->item.len = 0;
        if (rc == MSA_OK)
            rc = msa_prompts_evidence(&a->prompts, 1, text, n_text, true, &budget, &a->tokens, &a->item, err);
        if (rc == MSA_OK)
            rc = make_prompt(a, q, i, &a->item, err);
        if (rc < 0)
            return msa_err_prefix(err, rc, "document %lld", (long long)r->read[i].doc);
    }
    return MSA_OK;
}

/* By what a document that was read is ordered: its score and the odds that it holds
 * the answer, as a probability. */
static double worth(const msa_protocol *p, const msa_reading *x)
{
    return x->score + (isnan(x->lean) ? 0 : p->read_weight / (1 + exp(x->lean)));
}

/* The routed documents in the order in which they are taken for evidence [n_routed]:
 * those that were read by their worth, then the others. */
static msa_rc order_evidence(const msa_answerer *a, quest *q, int64_t **out, msa_err *err)
{
    const msa_round *r = &q->rounds[0];
    const msa_protocol *p = &a->model->protocol;
    int64_t *place = *out = msa_arena_alloc(q->arena, r->n_routed, sizeof *place);
    if (!place)
        return msa_err_nomem(err, "an answer");
    for (int64_t i = 0; i < r->n_routed; i++) {
        int64_t at = i;
        for (; i < r->n_read && at > 0 && worth(p, &r->read[i]) > worth(p, &r->read[place[at - 1]]); at--)
            place[at] = place[at - 1];
        place[at] = i;
    }
    for (int64_t i = 0; i < r->n_routed; i++)
        place[i] = r->routed[place[i]].doc;
    return MSA_OK;
}

/* Fills a->evidence with the best documents' texts, whole ones that fit the budget;
 * only the first is cut when it alone exceeds it. */
static msa_rc gather_evidence(msa_answerer *a, quest *q, msa_err *err)
{
    const msa_protocol *p = &a->model->protocol;
    int64_t budget = q->budget, *docs;
    msa_rc rc = order_evidence(a, q, &docs, err);
    if (rc < 0)
        return rc;
    a->evidence.len = 0;
    for (int64_t i = 0; i < q->rounds[0].n_routed && q->a.n_evidence < p->evidence_docs && budget > 0; i++) {
        const char *text;
        int64_t n, number = q->a.n_evidence + 1;
        rc = a->doc_text(a->user, docs[i], &text, &n, err);
        if (rc == MSA_OK)
            rc = msa_prompts_evidence(&a->prompts, number, text, n, number == 1, &budget, &a->tokens,
                                      &a->evidence, err);
        if (rc == MSA_OK)
            rc = add_evidence(q, docs[i], err);
        if (rc < 0)
            return msa_err_prefix(err, rc, "document %lld", (long long)docs[i]);
    }
    return MSA_OK;
}

/* What not_found_bias adds for this question. */
static double bias_of(const msa_answerer *a, const quest *q)
{
    const msa_protocol *p = &a->model->protocol;
    return p->not_found_bias.base + p->not_found_bias.score * q->rounds[0].routed[0].score;
}

/* ln of the odds against any of the documents that were read; NAN: none was. The odds
 * against two are those of the sum of what speaks for either. */
static double lean_of_all(const msa_round *r)
{
    double all = NAN;
    for (int64_t i = 0; i < r->n_read; i++) {
        const double x = r->read[i].lean;
        if (!isnan(x))
            all = isnan(all) ? x : fmin(all, x) - log1p(exp(-fabs(all - x)));
    }
    return all;
}

/* Every passage that is to be read alone has been: they decide whether there is an
 * answer, and which of them it is drawn from. */
static msa_rc begin_answer_pass(msa_answerer *a, quest *q, msa_err *err)
{
    const msa_protocol *p = &a->model->protocol;
    msa_round *r = &q->rounds[0];
    msa_rc rc = gather_evidence(a, q, err);
    if (rc < 0)
        return rc;
    r->chosen = q->evidence;
    r->n_chosen = q->a.n_evidence;
    if (p->not_found_by_passage)
        q->a.not_found_lean = lean_of_all(r);
    if (q->a.n_evidence == 0 && !p->attend_memory) {
        finish(q, MSA_NOT_FOUND, "stop");
        return MSA_OK;
    }
    if (p->not_found_by_passage && q->a.not_found_lean + bias_of(a, q) > 0) {
        q->text.len = 0;
        msa_buf_puts(&q->text, p->not_found_text);
        if (q->text.oom)
            return msa_err_nomem(err, "an answer");
        finish(q, MSA_NOT_FOUND, "stop");
        return MSA_OK;
    }
    rc = make_prompt(a, q, -1, &a->evidence, err);
    if (rc < 0)
        return rc;
    enter_prompt(q);
    if (p->attend_memory) {
        int64_t *docs = msa_arena_alloc(q->arena, r->n_routed, sizeof *docs);
        if (!docs)
            return msa_err_nomem(err, "an answer");
        for (int64_t i = 0; i < r->n_routed; i++)
            docs[i] = r->routed[i].doc;
        msa_seqs_attend(a->seqs, q - a->quests, docs, r->n_routed);
        q->pos = a->model->config.top_k;
    }
    return MSA_OK;
}

/* Runs the next passage that is to be read alone; behind the last comes the answer. */
static msa_rc read_next(msa_answerer *a, quest *q, msa_err *err)
{
    if (q->n_prompts == 0)
        return begin_answer_pass(a, q, err);
    enter_prompt(q);
    return MSA_OK;
}

static msa_rc begin_answer(msa_answerer *a, quest *q, msa_err *err)
{
    const msa_protocol *p = &a->model->protocol;
    const msa_round *r = &q->rounds[0];
    if (r->n_routed == 0 || (p->has_min_score && r->routed[0].score < p->min_score)) {
        finish(q, MSA_NOT_FOUND, "stop");
        return MSA_OK;
    }
    /* the prompt without evidence and a fair part of the answer come first */
    msa_tokens_clear(&a->tokens);
    a->tokens.want_offsets = false;
    msa_rc rc = msa_prompts_answer(&a->prompts, q->q.text, q->q.n, &(msa_buf){0}, &a->tokens, err);
    if (rc < 0)
        return rc;
    if (a->tokens.n >= a->context)
        return too_long(a, a->tokens.n + 1, err);
    int64_t room = q->q.max_tokens < a->context / 4 ? q->q.max_tokens : a->context / 4;
    q->budget = a->context - a->tokens.n - (room > 1 ? room : 1);
    q->budget = p->evidence_tokens < q->budget ? p->evidence_tokens : q->budget;
    q->run = 0;
    q->routing = MSA_ROUTING_NONE;
    q->head = false;
    q->pos = 0;
    rc = make_readings(a, q, err);
    return rc < 0 ? rc : read_next(a, q, err);
}

/* ---- generative protocol: Memory Interleave ----------------------------------------------------- */

/* The answer head behind what stands there; forced: the end of retrieval, which
 * the model did not generate, comes first. */
static msa_rc begin_answer_head(msa_answerer *a, quest *q, bool forced, msa_err *err)
{
    msa_tokens_clear(&a->tokens);
    a->tokens.want_offsets = false;
    msa_rc rc = msa_prompts_answer_head(&a->prompts, q->q.text, q->q.n, &a->tokens, err);
    if (rc < 0)
        return rc;
    if ((forced && !append(a, q, a->prompts.done.ids, a->prompts.done.n)) ||
        !append(a, q, a->tokens.ids, a->tokens.n) || q->n >= a->context)
        return too_long(a, q->n + a->tokens.n + 1, err);
    q->phase = ANSWER;
    q->answer_from = q->n;
    return MSA_OK;
}

/* Appends the texts of the documents that the list names and notes them. */
static msa_rc append_texts(msa_answerer *a, quest *q, const int64_t *docs, int64_t n_docs, msa_err *err)
{
    msa_round *r = &q->rounds[q->a.n_rounds - 1];
    r->chosen = msa_arena_alloc(q->arena, n_docs, sizeof *r->chosen);
    if (!r->chosen)
        return msa_err_nomem(err, "an answer");
    for (int64_t i = 0; i < n_docs; i++) {
        const char *text;
        int64_t n;
        if (!msa_bank_has(a->bank, docs[i]))
            continue;
        msa_rc rc = a->doc_text(a->user, docs[i], &text, &n, err);
        if (rc == MSA_END)
            continue;
        msa_tokens_clear(&a->tokens);
        a->tokens.want_offsets = false;
        if (rc >= 0)
            rc = msa_prompts_item(&a->prompts, docs[i], text, n, &a->tokens, err);
        if (rc < 0)
            return msa_err_prefix(err, rc, "document %lld", (long long)docs[i]);
        if (a->tokens.n > a->context - q->n - q->reserve) {
            limited(q, "max_context");
            continue;
        }
        append(a, q, a->tokens.ids, a->tokens.n);
        r->chosen[r->n_chosen++] = docs[i];
        rc = add_evidence(q, docs[i], err);
        if (rc < 0)
            return rc;
    }
    return MSA_OK;
}

/* Ends a list, whose end token stands in the context already: the texts of its
 * documents follow, and the context is routed again from its start. After a limit
 * there is no further list: what was found is answered from. */
static msa_rc end_list(msa_answerer *a, quest *q, msa_err *err)
{
    int64_t docs[MSA_LIST_DOCS];
    bool more;
    int64_t n_docs = msa_list_parse(q->text.data, q->text.len, docs, &more);
    if (more)
        limited(q, "max_list");
    const int64_t texts_from = q->n;
    msa_rc rc = append_texts(a, q, docs, n_docs, err);
    if (rc < 0)
        return rc;
    q->n_spans = 1;
    if (q->n > texts_from)
        q->spans[q->n_spans++] = (msa_span){texts_from, q->n};
    append(a, q, &a->prompts.retrieve_end, 1);
    q->routing = MSA_ROUTING_LAYERS;
    q->run = 0;
    q->lists++;
    q->list_from = q->n;
    q->text.len = 0;
    return q->a.limit ? begin_answer_head(a, q, true, err) : MSA_OK;
}

/* ---- one token -------------------------------------------------------------------------------- */

static msa_rc on_list_token(msa_answerer *a, quest *q, int32_t id, msa_err *err)
{
    const char *done = a->model->protocol.retrieve_done;
    const bool end = id == a->prompts.retrieve_end;
    if (!end && msa_prompts_stops(&a->prompts, id)) {
        /* the model ended its turn without an answer */
        q->text.len = 0;
        finish(q, MSA_NOT_FOUND, "stop");
        return MSA_OK;
    }
    msa_generated_bytes(a->model->tokenizer, id, true, &q->text);
    if (q->text.oom)
        return msa_err_nomem(err, "a list");
    append(a, q, &id, 1);
    q->sampled++;
    if (q->text.len > 0 && memmem(q->text.data, (size_t)q->text.len, done, strlen(done)))
        return begin_answer_head(a, q, false, err);
    const char *limit = q->n - q->list_from >= MSA_LIST_TOKENS ? "max_list"
                        : a->context - q->n <= q->reserve      ? "max_context"
                                                               : NULL;
    const bool may_end = starts_with(done, q->text.len > 0 ? q->text.data : "");
    if (q->lists >= q->q.max_rounds && (limit || !may_end)) {
        /* one list too many: take it back and answer */
        limited(q, "max_rounds");
        q->sampled -= q->n - q->list_from;
        q->n = q->run = q->list_from;
        return begin_answer_head(a, q, true, err);
    }
    if (!end && !limit)
        return MSA_OK;
    if (!end) {
        limited(q, limit);
        append(a, q, &a->prompts.retrieve_end, 1);
    }
    return end_list(a, q, err);
}

static msa_rc on_answer_token(msa_answerer *a, quest *q, int32_t id, msa_err *err)
{
    if (msa_prompts_stops(&a->prompts, id))
        return finish_answer(a, q, q->a.limit ? "content" : "stop", err);
    append(a, q, &id, 1);
    q->sampled++;
    if (q->n - q->answer_from >= q->q.max_tokens)
        limited(q, "max_tokens");
    else if (q->n == a->context)
        limited(q, "max_context");
    else
        return MSA_OK;
    return finish_answer(a, q, "length", err);
}

/* What a question does with the pass that ran its rows; id: the token sampled
 * behind them. */
static msa_rc react(msa_answerer *a, quest *q, int32_t id, msa_err *err)
{
    const msa_routing routing = q->routing;
    q->run = q->n;
    q->routing = MSA_ROUTING_NONE;
    if (routing != MSA_ROUTING_NONE) {
        msa_rc rc = begin_round(a, q, err);
        if (rc < 0)
            return rc;
    }
    if (routing == MSA_ROUTING_COMBINED)
        return begin_answer(a, q, err);
    if (q->rounds[0].n_routed == 0 && a->generative) {
        finish(q, MSA_NOT_FOUND, "stop");
        return MSA_OK;
    }
    if (q->phase == PROBE)
        return read_next(a, q, err);
    q->a.completion_tokens++;
    return q->phase == LIST ? on_list_token(a, q, id, err) : on_answer_token(a, q, id, err);
}

/* ---- the steps -------------------------------------------------------------------------------------- */

msa_rc msa_answerer_submit(msa_answerer *a, const msa_question *question, msa_err *err)
{
    if (a->dead)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "submit: the answerer has failed");
    if (a->n_order == a->batch)
        return MSA_END;
    int64_t slot = 0;
    while (a->quests[slot].phase != FREE)
        slot++;
    quest *q = &a->quests[slot];
    q->q = *question;
    q->q.text = msa_arena_strndup(q->arena, question->text, question->n);
    if (!q->q.text) {
        msa_arena_reset(q->arena);
        return msa_err_nomem(err, "a question");
    }
    if (q->q.top_k_docs == 0)
        q->q.top_k_docs = a->model->config.top_k;
    if (q->q.max_rounds == 0)
        q->q.max_rounds = DEFAULT_ROUNDS;
    if (q->q.top_p == 0)
        q->q.top_p = 1;
    q->n = q->run = q->sampled = q->lists = 0;
    q->text.len = 0;
    q->evidence = NULL;
    q->evidence_cap = 0;
    q->a = (msa_answer){.tag = question->tag, .not_found_lean = NAN};
    msa_err_init(&q->a.err);
    msa_rc rc = begin(a, q, &q->a.err);
    if (rc < 0 && fail(q, rc) < 0) {
        q->phase = FREE;
        msa_arena_reset(q->arena);
        if (err)
            *err = q->a.err;
        return rc;
    }
    a->order[a->n_order++] = slot;
    return MSA_OK;
}

/* Documents that a routing pass finds for a question. */
static int64_t wanted(const msa_answerer *a, const quest *q)
{
    const int64_t n = a->lexical ? a->model->protocol.lexical_candidates : q->q.top_k_docs;
    return n < a->top_k ? n : a->top_k;
}

/* Chooses what runs in this pass. A scan reads the whole bank however many share
 * it, so that questions wait to be routed until a quarter of those in flight do. */
static int64_t admit(msa_answerer *a)
{
    int64_t n = 0, rows = 0, in_flight = 0, to_route = 0;
    for (int64_t i = 0; i < a->n_order; i++) {
        const quest *q = &a->quests[a->order[i]];
        in_flight += q->phase != DONE;
        to_route += q->phase != DONE && q->routing != MSA_ROUTING_NONE;
    }
    const bool hold = 4 * to_route < in_flight;
    for (int single = 1; single >= 0; single--)
        for (int64_t i = 0; i < a->n_order; i++) {
            const quest *q = &a->quests[a->order[i]];
            const int64_t pending = q->n - q->run;
            if (q->phase == DONE || (pending == 1 && q->routing == MSA_ROUTING_NONE) != single ||
                (hold && q->routing != MSA_ROUTING_NONE))
                continue;
            if (pending > a->rows - rows)
                break;
            rows += pending;
            a->items[n++] = (msa_seq_rows){
                .slot = a->order[i], .ids = q->ids + q->run, .n = pending, .at = q->run,
                .pos = q->pos + q->run, .head = q->head, .routing = q->routing, .route = q->spans,
                .n_route = q->n_spans,
                .top_k = wanted(a, q),
                .weights = a->model->protocol.layer_weights,
                .logits = q->routing != MSA_ROUTING_COMBINED};
        }
    return n;
}

/* Reports what is done and frees its slot. */
static void report(msa_answerer *a, msa_on_answer *fn, void *user)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < a->n_order; i++) {
        quest *q = &a->quests[a->order[i]];
        if (q->phase != DONE) {
            a->order[kept++] = a->order[i];
            continue;
        }
        q->a.text = q->text.len > 0 ? q->text.data : (char *)"";
        q->a.rounds = q->rounds;
        q->a.evidence = q->evidence;
        q->a.prompt_tokens = q->n - q->sampled;
        fn(user, &q->a);
        q->phase = FREE;
        msa_arena_reset(q->arena);
    }
    a->n_order = kept;
}

/* Where an answer begins, and where one from a single passage would: how readily it
 * says that it found nothing. When passages have decided, the answer may not. r: its
 * row of the logits. */
static msa_rc lean(msa_answerer *a, quest *q, int64_t r, msa_err *err)
{
    const bool probe = q->phase == PROBE, decided = !probe && a->model->protocol.not_found_by_passage;
    const int32_t *none = a->prompts.none;
    float *row = a->row, nothing = -INFINITY, other = -INFINITY;
    if (a->prompts.n_none == 0 || q->n > q->answer_from)
        return MSA_OK;
    msa_rc rc = msa_seqs_read(a->seqs, r, row, err);
    for (int64_t i = 0; rc >= 0 && i < a->model->config.V; i++)
        if (i != none[0] && i != none[a->prompts.n_none - 1])
            other = row[i] > other ? row[i] : other;
    const double bias = probe ? 0 : decided ? -INFINITY : bias_of(a, q);
    for (int64_t i = 0; rc >= 0 && i < a->prompts.n_none; i++) {
        nothing = row[none[i]] > nothing ? row[none[i]] : nothing;
        row[none[i]] += (float)bias;
    }
    const double own = (double)nothing - (double)other;
    if (probe)
        q->rounds[0].read[q->prompts[q->n_prompts].reading].lean = own;
    else if (!decided)
        q->a.not_found_lean = own;
    return rc < 0 || bias == 0 ? rc : msa_seqs_write(a->seqs, r, row, err);
}

static msa_rc run_pass(msa_answerer *a, msa_err *err)
{
    int64_t n = admit(a), n_tokens = 0;
    if (n == 0)
        return MSA_OK;
    msa_rc rc = msa_seqs_run(a->seqs, a->items, n, err);
    for (int64_t i = 0; i < n; i++) {
        quest *q = &a->quests[a->items[i].slot];
        if (!a->items[i].logits)
            continue;
        if (rc >= 0)
            rc = lean(a, q, n_tokens, err);
        /* lists of documents are not a matter of chance */
        a->params[n_tokens++] = (msa_kern_sample){
            .temperature = q->phase == ANSWER ? (float)q->q.temperature : 0,
            .top_p = (float)q->q.top_p,
            .u = msa_sample_uniform(q->q.seed, q->a.completion_tokens)};
    }
    if (rc >= 0 && n_tokens > 0)
        rc = msa_seqs_sample(a->seqs, a->params, a->next, err);
    n_tokens = 0;
    for (int64_t i = 0; rc >= 0 && i < n; i++) {
        quest *q = &a->quests[a->items[i].slot];
        rc = react(a, q, a->items[i].logits ? a->next[n_tokens++] : -1, &q->a.err);
        if (rc < 0 && (rc = fail(q, rc)) < 0 && err)
            *err = q->a.err;
    }
    return rc;
}

msa_rc msa_answerer_step(msa_answerer *a, msa_on_answer *fn, void *user, msa_err *err)
{
    if (a->dead)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "step: the answerer has failed");
    if (run_pass(a, err) < 0) {
        a->dead = true;
        return MSA_FATAL;
    }
    report(a, fn, user);
    return MSA_OK;
}
