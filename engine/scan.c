#include "engine/scan.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "engine/model_internal.h"

struct msa_scan {
    msa_model *model;
    msa_tier *tier;
    float *chunk_scores;   /* [queries, C of the largest slab] device */
    float *doc_scores;     /* [queries, N of the largest slab] device */
    msa_kern_best *best;   /* [queries, wanted(top_k)] device */

    /* 8-bit keys: what is scored again, [queries * wanted(top_k)] each */
    float *scores;         /* device */
    float *scores_host;
    msa_kern_best *found;
    int64_t *docs, *questions;
};

/* Length of the lists that a scan of 8-bit keys fills for lists of K. */
static int64_t wanted(int64_t K)
{
    int64_t n = K > 16 ? K : 16;
    return msa_mul(n, 4, &n) ? n : K;
}

static msa_rc alloc_scratch(msa_scan *s, const msa_scan_opts *o, msa_err *err)
{
    msa_kern *k = s->model->kern;
    const msa_config *c = &s->model->config;
    msa_kern_info info;
    int64_t C, N, n_chunk, n_doc, n_list, n_best, n_score;
    msa_kern_info_get(k, &info);
    msa_tier_slab_most(s->tier, &C, &N);
    /* which keys there will be depends on what is free then */
    const int64_t K = info.host_memory ? o->top_k : wanted(o->top_k);
    if (!msa_mul(o->queries, C, &n_chunk) || !msa_mul(n_chunk, sizeof(float), &n_chunk) ||
        !msa_mul(o->queries, N, &n_doc) || !msa_mul(n_doc, sizeof(float), &n_doc) ||
        !msa_mul(o->queries, K, &n_list) || !msa_mul(n_list, sizeof(msa_kern_best), &n_best) ||
        !msa_mul(n_list, sizeof(float), &n_score))
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "routing scratch overflows");
    msa_kern_shape shape = {.H = c->H, .G = c->G, .D = c->D, .queries = o->queries,
                            .route_tokens = o->tokens, .scan_chunks = C, .scan_docs = N, .top_k = K};
    msa_rc rc = msa_kern_reserve(k, &shape, false, NULL, err);
    if (rc >= 0)
        rc = msa_kern_alloc(k, n_chunk, MSA_MEM_DEVICE, (void **)&s->chunk_scores, err);
    if (rc >= 0)
        rc = msa_kern_alloc(k, n_doc, MSA_MEM_DEVICE, (void **)&s->doc_scores, err);
    if (rc >= 0)
        rc = msa_kern_alloc(k, n_best, MSA_MEM_DEVICE, (void **)&s->best, err);
    if (rc < 0 || info.host_memory)
        return rc;
    rc = msa_kern_alloc(k, n_score, MSA_MEM_DEVICE, (void **)&s->scores, err);
    s->scores_host = msa_alloc(n_list, sizeof *s->scores_host);
    s->found = msa_alloc(n_list, sizeof *s->found);
    s->docs = msa_alloc(n_list, sizeof *s->docs);
    s->questions = msa_alloc(n_list, sizeof *s->questions);
    if (rc >= 0 && (!s->scores_host || !s->found || !s->docs || !s->questions))
        rc = msa_err_nomem(err, "a routing scan");
    return rc;
}

msa_rc msa_scan_new(msa_model *m, const msa_bank *b, const msa_scan_opts *opts, msa_scan **out,
                    msa_err *err)
{
    return msa_scan_new_in(m, b, opts, NULL, out, err);
}

msa_rc msa_scan_new_in(msa_model *m, const msa_bank *b, const msa_scan_opts *opts, const msa_tiers *want,
                       msa_scan **out, msa_err *err)
{
    *out = NULL;
    msa_scan *s = msa_calloc(1, sizeof *s);
    if (!s)
        return msa_err_nomem(err, "a routing scan");
    s->model = m;
    const msa_tier_opts tier = {.slots = opts->attends ? opts->queries : 0, .top_k = m->config.top_k,
                                .want = want};
    msa_rc rc = msa_tier_new(m, b, &s->tier, err);
    if (rc >= 0)
        rc = alloc_scratch(s, opts, err);
    if (rc >= 0)
        rc = msa_tier_load(s->tier, &tier, err);
    if (rc < 0) {
        msa_scan_free(s);
        return rc;
    }
    *out = s;
    return MSA_OK;
}

void msa_scan_free(msa_scan *s)
{
    if (!s)
        return;
    msa_kern *k = s->model->kern;
    msa_kern_free(k, s->chunk_scores, MSA_MEM_DEVICE);
    msa_kern_free(k, s->doc_scores, MSA_MEM_DEVICE);
    msa_kern_free(k, s->best, MSA_MEM_DEVICE);
    msa_kern_free(k, s->scores, MSA_MEM_DEVICE);
    free(s->scores_host);
    free(s->found);
    free(s->docs);
    free(s->questions);
    msa_tier_free(s->tier);
    free(s);
}

msa_tier *msa_scan_tier(msa_scan *s)
{
    return s->tier;
}

static int by_score(const void *a, const void *b)
{
    const msa_kern_best *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return (x->doc > y->doc) - (x->doc < y->doc);
}

/* Scores the lists [B, M] in found again and takes the best K of each. */
static msa_rc rescore(msa_scan *s, const int64_t *layers, int64_t n, const float *const *q,
                      const double *weight, const int64_t *q_start, int64_t B, int64_t M, int64_t K,
                      msa_kern_best *best, msa_err *err)
{
    msa_kern *k = s->model->kern;
    int64_t n_items = 0;
    for (int64_t i = 0; i < B * M; i++)
        if (s->found[i].doc >= 0) {
            s->docs[n_items] = s->found[i].doc;
            s->questions[n_items++] = i / M;
        }
    msa_rc rc = MSA_OK;
    for (int64_t l = 0; rc >= 0 && l < n; l++)
        rc = msa_tier_score(s->tier, layers[l], q[l], q_start, B, s->docs, s->questions, n_items,
                            (float)weight[l], l > 0, s->scores, err);
    if (rc >= 0)
        rc = msa_kern_copy(k, NULL, s->scores_host, s->scores, n_items * (int64_t)sizeof *s->scores, err);
    if (rc >= 0)
        rc = msa_kern_sync(k, NULL, err);
    if (rc < 0)
        return rc;
    for (int64_t b = 0, at = 0; b < B; b++) {
        int64_t kept = 0;
        msa_kern_best *list = s->found + b * M;
        for (; at < n_items && s->questions[at] == b; at++)
            if (!isnan(s->scores_host[at]))
                list[kept++] = (msa_kern_best){.score = s->scores_host[at], .doc = s->docs[at]};
        qsort(list, (size_t)kept, sizeof *list, by_score);
        for (int64_t i = 0; i < K; i++)
            best[b * K + i] = i < kept ? list[i] : (msa_kern_best){.score = -INFINITY, .doc = -1};
    }
    return MSA_OK;
}

msa_rc msa_scan_run(msa_scan *s, const int64_t *layers, int64_t n, const float *const *q,
                    const double *weight, const int64_t *q_start, int64_t B, int64_t K,
                    msa_kern_best *best, msa_err *err)
{
    const msa_config *c = &s->model->config;
    msa_kern *k = s->model->kern;
    const bool again = msa_tier_rescores(s->tier);
    const int64_t stride = c->G * c->D, M = again ? wanted(K) : K;
    msa_rc rc = msa_tier_refresh(s->tier, err);
    if (rc >= 0)
        rc = msa_kern_topk_init(k, NULL, B, M, s->best, err);
    for (int64_t i = 0; rc >= 0 && i < msa_tier_n_slabs(s->tier); i++) {
        msa_tier_slab e;
        rc = msa_tier_slab_get(s->tier, i, &e, err);
        for (int64_t l = 0; rc >= 0 && l < n; l++) {
            msa_tier_rows keys;
            msa_tier_keys(s->tier, &e, layers[l], &keys);
            rc = msa_kern_scan(k, NULL, &c->route, q[l], q_start, B, keys.rows, keys.dtype, keys.scale,
                               stride, e.n_chunks, s->chunk_scores, err);
            if (rc >= 0)
                rc = msa_kern_doc_scores(k, NULL, &c->route, s->chunk_scores, B, e.n_chunks,
                                         e.doc_chunk, e.n_docs, (float)weight[l], l > 0,
                                         s->doc_scores, err);
        }
        if (rc >= 0)
            rc = msa_kern_topk_merge(k, NULL, s->doc_scores, B, e.n_docs, e.doc_id, e.alive, M,
                                     s->best, err);
    }
    msa_kern_best *out = again ? s->found : best;
    if (rc >= 0)
        rc = msa_kern_copy(k, NULL, out, s->best, B * M * (int64_t)sizeof *out, err);
    if (rc >= 0)
        rc = msa_kern_sync(k, NULL, err);
    if (rc >= 0 && again)
        rc = rescore(s, layers, n, q, weight, q_start, B, M, K, best, err);
    return rc;
}

int64_t msa_scan_longest_doc(const msa_bank *b)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < msa_bank_n_extents(b); i++) {
        msa_bank_extent e;
        msa_bank_extent_get(b, i, &e);
        for (int64_t d = 0; d < e.n_docs; d++) {
            int64_t n = e.doc_chunk[d + 1] - e.doc_chunk[d];
            longest = n > longest ? n : longest;
        }
    }
    return longest;
}
