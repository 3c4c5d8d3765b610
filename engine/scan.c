#include "engine/scan.h"

#include <stdlib.h>

#include "base/mem.h"
#include "engine/model_internal.h"

struct msa_scan {
    msa_model *model;
    const msa_bank *bank;
    msa_dtype dtype;
    float *chunk_scores;   /* [queries, C of the largest extent] device */
    float *doc_scores;     /* [queries, N of the largest extent] device */
    msa_kern_best *best;   /* [queries, top_k] device */
};

msa_rc msa_scan_new(msa_model *m, const msa_bank *b, const msa_scan_opts *opts, msa_scan **out,
                    msa_err *err)
{
    *out = NULL;
    msa_kern_info info;
    msa_kern_info_get(m->kern, &info);
    if (!info.host_memory)
        return msa_err_set(err, MSA_FAILED, MSA_E_UNAVAILABLE,
                           "backend %s cannot read a mapped bank", info.name);
    int64_t C = 1, N = 1, n_chunk, n_doc, n_best;
    for (int64_t i = 0; i < msa_bank_n_extents(b); i++) {
        msa_bank_extent e;
        msa_bank_extent_get(b, i, &e);
        C = e.n_chunks > C ? e.n_chunks : C;
        N = e.n_docs > N ? e.n_docs : N;
    }
    if (!msa_mul(opts->queries, C, &n_chunk) || !msa_mul(n_chunk, sizeof(float), &n_chunk) ||
        !msa_mul(opts->queries, N, &n_doc) || !msa_mul(n_doc, sizeof(float), &n_doc) ||
        !msa_mul(opts->queries, opts->top_k, &n_best) ||
        !msa_mul(n_best, sizeof(msa_kern_best), &n_best))
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "routing scratch overflows");

    const msa_config *c = &m->config;
    msa_kern_shape shape = {.H = c->H, .G = c->G, .D = c->D, .queries = opts->queries,
                            .route_tokens = opts->tokens, .scan_chunks = C, .scan_docs = N,
                            .top_k = opts->top_k};
    msa_rc rc = msa_kern_reserve(m->kern, &shape, false, NULL, err);
    if (rc < 0)
        return rc;
    msa_scan *s = msa_calloc(1, sizeof *s);
    if (!s)
        return msa_err_nomem(err, "a routing scan");
    s->model = m;
    s->bank = b;
    s->dtype = msa_bank_dtype(b);
    if ((rc = msa_kern_alloc(m->kern, n_chunk, MSA_MEM_DEVICE, (void **)&s->chunk_scores, err)) < 0 ||
        (rc = msa_kern_alloc(m->kern, n_doc, MSA_MEM_DEVICE, (void **)&s->doc_scores, err)) < 0 ||
        (rc = msa_kern_alloc(m->kern, n_best, MSA_MEM_DEVICE, (void **)&s->best, err)) < 0) {
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
    msa_kern_free(s->model->kern, s->chunk_scores, MSA_MEM_DEVICE);
    msa_kern_free(s->model->kern, s->doc_scores, MSA_MEM_DEVICE);
    msa_kern_free(s->model->kern, s->best, MSA_MEM_DEVICE);
    free(s);
}

msa_rc msa_scan_run(msa_scan *s, const int64_t *layers, int64_t n, const float *const *q,
                    const double *weight, const int64_t *q_start, int64_t B, int64_t K,
                    msa_kern_best *best, msa_err *err)
{
    const msa_config *c = &s->model->config;
    msa_kern *k = s->model->kern;
    int64_t stride = c->G * c->D;
    msa_rc rc = msa_kern_topk_init(k, NULL, B, K, s->best, err);
    for (int64_t i = 0; rc >= 0 && i < msa_bank_n_extents(s->bank); i++) {
        msa_bank_extent e;
        rc = msa_bank_extent_check(s->bank, i, err); /* what is attended to was scanned before */
        msa_bank_extent_get(s->bank, i, &e);
        for (int64_t l = 0; rc >= 0 && l < n; l++) {
            rc = msa_kern_scan(k, NULL, &c->route, q[l], q_start, B, e.rk[layers[l]], s->dtype,
                               NULL, stride, e.n_chunks, s->chunk_scores, err);
            if (rc >= 0)
                rc = msa_kern_doc_scores(k, NULL, &c->route, s->chunk_scores, B, e.n_chunks,
                                         e.doc_chunk, e.n_docs, (float)weight[l], l > 0,
                                         s->doc_scores, err);
        }
        if (rc >= 0)
            rc = msa_kern_topk_merge(k, NULL, s->doc_scores, B, e.n_docs, e.doc_id, e.alive, K,
                                     s->best, err);
    }
    if (rc >= 0)
        rc = msa_kern_copy(k, NULL, best, s->best, B * K * (int64_t)sizeof *best, err);
    if (rc >= 0)
        rc = msa_kern_sync(k, NULL, err);
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
