#include "engine/route.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "engine/lexical.h"
#include "engine/model_internal.h"
#include "engine/prompt.h"

/* ---- one list ------------------------------------------------------------------- */

static int by_doc(const void *a, const void *b)
{
    const msa_scored *x = a, *y = b;
    return (x->doc > y->doc) - (x->doc < y->doc);
}

static int best_first(const void *a, const void *b)
{
    const msa_scored *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score) - (x->score > y->score) : by_doc(a, b);
}

int64_t msa_route_list(const msa_model *m, const msa_seqs *s, int64_t slot, bool combined,
                       msa_scored *out)
{
    const int64_t R = m->config.n_router;
    int64_t n = 0, merged = 0;
    for (int64_t r = 0; r < (combined ? 1 : R); r++) {
        int64_t count;
        const msa_kern_best *best = msa_seqs_routed(s, slot, r, &count);
        for (int64_t i = 0; i < count; i++)
            out[n++] = (msa_scored){.doc = best[i].doc, .score = combined ? best[i].score
                                                                          : (double)best[i].score / (double)R};
    }
    if (combined)
        return n;
    qsort(out, (size_t)n, sizeof *out, by_doc);
    for (int64_t i = 0; i < n; i++)
        if (merged > 0 && out[merged - 1].doc == out[i].doc)
            out[merged - 1].score += out[i].score;
        else
            out[merged++] = out[i];
    qsort(out, (size_t)merged, sizeof *out, best_first);
    return merged;
}

/* ---- two lists -------------------------------------------------------------------- */

/* The router's place of a document before the one that only the lexical list has. */
static int by_doc_known_first(const void *a, const void *b)
{
    const msa_scored *x = a, *y = b;
    return x->doc != y->doc ? by_doc(a, b) : isnan(x->router) - isnan(y->router);
}

msa_rc msa_route_fuse(const msa_protocol *p, msa_lexical *lexical, const msa_bank *b, const char *question,
                      int64_t n_question, msa_scored *list, int64_t *n, msa_err *err)
{
    const double least = *n > 0 ? list[*n - 1].score : 0;
    msa_rc rc = msa_lexical_ask(lexical, question, n_question, err);
    if (rc < 0)
        return rc;
    for (int64_t i = 0; i < *n; i++) {
        list[i].router = list[i].score;
        list[i].lexical = msa_lexical_score(lexical, list[i].doc);
    }
    int64_t all = *n, kept = 0;
    const int64_t more = msa_lexical_best(lexical, p->lexical_candidates, list + all);
    for (int64_t i = *n; i < *n + more; i++)
        if (msa_bank_has(b, list[i].doc)) {
            list[all] = list[i];
            list[all++].router = NAN;
        }
    qsort(list, (size_t)all, sizeof *list, by_doc_known_first);
    for (int64_t i = 0; i < all; i++)
        if (kept == 0 || list[kept - 1].doc != list[i].doc)
            list[kept++] = list[i];
    for (int64_t i = 0; i < kept; i++)
        list[i].score = (isnan(list[i].router) ? least : list[i].router) + p->lexical_weight * list[i].lexical;
    qsort(list, (size_t)kept, sizeof *list, best_first);
    *n = kept;
    return MSA_OK;
}

/* ---- routing alone ---------------------------------------------------------------- */

/* Questions that run together: one scan of the bank serves them all. */
#define GROUP 32
#define GROUP_ROWS 2048
#define GROUP_LISTS (1 << 22) /* entries of their best lists, together */

typedef struct asked {
    msa_tokens ids;
    msa_span route;
} asked;

static msa_rc tokenize(const msa_prompts *p, const msa_question *qs, int64_t B, asked *a, msa_err *err)
{
    for (int64_t b = 0; b < B; b++) {
        msa_rc rc = msa_prompts_question(p, qs[b].text, qs[b].n, &a[b].ids, &a[b].route, err);
        if (rc >= 0 && p->head.n + p->model->config.top_k + a[b].ids.n > p->model->config.max_positions)
            rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA, "%lld tokens exceed the model's context",
                             (long long)a[b].ids.n);
        if (rc < 0)
            return msa_err_prefix(err, rc, "question %lld", (long long)qs[b].tag);
    }
    return MSA_OK;
}

/* Documents that each router layer keeps for a question. */
static int64_t kept(const msa_model *m, const msa_question *q)
{
    return q->top_k_docs > 0 ? q->top_k_docs : m->config.top_k;
}

msa_rc msa_route_run(msa_model *m, msa_bank *b, const msa_question *qs, int64_t B, int64_t k,
                     msa_scored **out, int64_t *n_out, msa_err *err)
{
    return msa_route_fused(m, b, NULL, qs, B, k, out, n_out, err);
}

msa_rc msa_route_fused(msa_model *m, msa_bank *b, msa_lexical *lexical, const msa_question *qs, int64_t B,
                       int64_t k, msa_scored **out, int64_t *n_out, msa_err *err)
{
    const bool combined = m->protocol.kind == MSA_PROTOCOL_ROUTER;
    msa_prompts p;
    msa_bank_stat stat;
    msa_seqs *seqs = NULL;
    asked *a = NULL;
    msa_scored *list = NULL;
    if (B == 0 || k < 1) {
        for (int64_t i = 0; i < B; i++)
            n_out[i] = 0;
        return MSA_OK;
    }
    msa_rc rc = msa_prompts_init(&p, m, err);
    if (rc < 0)
        return rc;
    msa_bank_stat_get(b, &stat);
    const bool fused = combined && lexical && m->protocol.lexical_weight > 0;
    const int64_t proposed = fused ? m->protocol.lexical_candidates : 0;
    const int64_t wanted = fused ? proposed : k; /* of the router */
    const int64_t n_docs = stat.n_docs > 0 ? stat.n_docs : 1;
    int64_t top_k = combined ? wanted : 1, longest = 1;
    a = msa_calloc(B, sizeof *a);
    if (!a)
        rc = msa_err_nomem(err, "routing");
    if (rc >= 0)
        rc = tokenize(&p, qs, B, a, err);
    for (int64_t i = 0; rc >= 0 && i < B; i++) {
        longest = a[i].ids.n > longest ? a[i].ids.n : longest;
        top_k = !combined && kept(m, &qs[i]) > top_k ? kept(m, &qs[i]) : top_k;
    }
    top_k = top_k < n_docs ? top_k : n_docs;
    int64_t slots = GROUP_LISTS / top_k < GROUP ? GROUP_LISTS / top_k : GROUP;
    slots = slots < 1 ? 1 : slots < B ? slots : B;
    const int64_t rows = longest > GROUP_ROWS ? longest : GROUP_ROWS;
    if (rc >= 0)
        rc = msa_seqs_new(m, b, &(msa_seqs_opts){.head = p.head.ids, .n_head = p.head.n, .slots = slots,
                                                 .context = longest, .rows = rows, .top_k = top_k,
                                                 .attend = combined ? 0 : top_k,
                                                 .combined = combined}, &seqs, err);
    int64_t n_list;
    if (rc >= 0 && (!msa_mul(m->config.n_router, top_k, &n_list) || !msa_add(n_list, proposed, &n_list) ||
                    !(list = msa_alloc(n_list, sizeof *list))))
        rc = msa_err_nomem(err, "routing");

    msa_seq_rows items[GROUP];
    for (int64_t at = 0, n; rc >= 0 && at < B; at += n) {
        int64_t sum = 0;
        for (n = 0; n < slots && at + n < B && sum + a[at + n].ids.n <= rows; n++) {
            const int64_t i = at + n, keep = combined ? wanted : kept(m, &qs[i]);
            items[n] = (msa_seq_rows){
                .slot = n, .ids = a[i].ids.ids, .n = a[i].ids.n, .head = true,
                .pos = p.head.n + m->config.top_k,
                .routing = combined ? MSA_ROUTING_COMBINED : MSA_ROUTING_LAYERS,
                .route = &a[i].route, .n_route = 1, .top_k = keep < top_k ? keep : top_k,
                .weights = m->protocol.layer_weights};
            sum += a[i].ids.n;
        }
        rc = msa_seqs_run(seqs, items, n, err);
        for (int64_t i = 0; rc >= 0 && i < n; i++) {
            int64_t got = msa_route_list(m, seqs, i, combined, list);
            if (fused && (rc = msa_route_fuse(&m->protocol, lexical, b, qs[at + i].text, qs[at + i].n, list, &got, err)) < 0)
                break;
            got = got < k ? got : k;
            for (int64_t d = 0; d < got; d++)
                out[at + i][d] = list[d];
            n_out[at + i] = got;
        }
    }
    for (int64_t i = 0; a && i < B; i++)
        msa_tokens_free(&a[i].ids);
    free(a);
    free(list);
    msa_seqs_free(seqs);
    msa_prompts_free(&p);
    return rc;
}
