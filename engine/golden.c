#define _GNU_SOURCE
#include "engine/golden.h"

#include <errno.h>
#include <ftw.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/model_internal.h"
#include "engine/safetensors.h"
#include "engine/sequence.h"

/* ---- case.json -------------------------------------------------------------------- */

typedef struct ids {
    int32_t *id;
    int64_t n;
} ids;

typedef struct golden_case {
    json_t *json;
    ids head, suffix;      /* suffix: template tail, response head */
    ids *docs, *queries;
    int64_t *doc_id;
    int64_t n_docs, n_queries, start, steps, next_doc;
} golden_case;

static msa_rc bad(msa_err *err, const char *what)
{
    return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "case.json: %s", what);
}

/* Appends an array of token ids to out. */
static msa_rc read_ids(const json_t *a, ids *out, msa_err *err)
{
    int64_t n = (int64_t)json_array_size(a);
    if (!json_is_array(a))
        return bad(err, "token ids are missing");
    int32_t *p = msa_realloc(out->id, out->n + n + 1, sizeof *p);
    if (!p)
        return msa_err_nomem(err, "a golden case");
    out->id = p;
    for (int64_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(a, (size_t)i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
            return bad(err, "a token id is not a number");
        out->id[out->n++] = (int32_t)json_integer_value(v);
    }
    return MSA_OK;
}

static msa_rc read_case(const char *dir, golden_case *c, msa_err *err)
{
    char *path = msa_file_join(dir, "case.json"), *text = NULL;
    int64_t n;
    json_error_t at;
    msa_rc rc = path ? msa_file_read(path, 64 << 20, &text, &n, err) : msa_err_nomem(err, "a path");
    if (rc >= 0 && !(c->json = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &at)))
        rc = bad(err, at.text);
    free(path);
    free(text);
    if (rc < 0)
        return rc;
    const json_t *docs = json_object_get(c->json, "documents");
    const json_t *queries = json_object_get(c->json, "queries");
    c->n_docs = (int64_t)json_array_size(docs);
    c->n_queries = (int64_t)json_array_size(queries);
    c->start = json_integer_value(json_object_get(c->json, "query_start_position"));
    c->steps = json_integer_value(json_object_get(c->json, "generated_steps"));
    if (c->n_docs < 1 || c->n_queries < 1 || c->start < 0 || c->start > 1 << 20 || c->steps < 1 ||
        c->steps > 1 << 12)
        return bad(err, "documents, queries, query_start_position or generated_steps out of range");
    c->docs = msa_calloc(c->n_docs, sizeof *c->docs);
    c->doc_id = msa_calloc(c->n_docs, sizeof *c->doc_id);
    c->queries = msa_calloc(c->n_queries, sizeof *c->queries);
    if (!c->docs || !c->doc_id || !c->queries)
        return msa_err_nomem(err, "a golden case");
    rc = read_ids(json_object_get(c->json, "template_head"), &c->head, err);
    if (rc >= 0)
        rc = read_ids(json_object_get(c->json, "template_tail"), &c->suffix, err);
    if (rc >= 0)
        rc = read_ids(json_object_get(c->json, "response_head"), &c->suffix, err);
    for (int64_t i = 0; rc >= 0 && i < c->n_docs; i++) {
        const json_t *d = json_array_get(docs, (size_t)i);
        c->doc_id[i] = json_integer_value(json_object_get(d, "id"));
        rc = read_ids(json_object_get(d, "tokens"), &c->docs[i], err);
    }
    for (int64_t i = 0; rc >= 0 && i < c->n_queries; i++)
        rc = read_ids(json_array_get(queries, (size_t)i), &c->queries[i], err);
    return rc;
}

static void free_case(golden_case *c)
{
    for (int64_t i = 0; c->docs && i < c->n_docs; i++)
        free(c->docs[i].id);
    for (int64_t i = 0; c->queries && i < c->n_queries; i++)
        free(c->queries[i].id);
    free(c->docs);
    free(c->queries);
    free(c->doc_id);
    free(c->head.id);
    free(c->suffix.id);
    json_decref(c->json);
}

static msa_rc next_doc(void *user, msa_doc_tokens *out, msa_err *err)
{
    (void)err;
    golden_case *c = user;
    if (c->next_doc == c->n_docs)
        return MSA_END;
    int64_t i = c->next_doc++;
    *out = (msa_doc_tokens){c->doc_id[i], c->docs[i].id, c->docs[i].n};
    return MSA_OK;
}

/* ---- comparing ----------------------------------------------------------------------- */

/* A tensor NAME.LAYER (layer < 0: NAME) of n elements; NULL with err otherwise. */
static const void *expected(const msa_safetensors *st, const char *name, int64_t layer,
                            msa_st_dtype dtype, int64_t n, msa_err *err)
{
    char full[64];
    snprintf(full, sizeof full, layer < 0 ? "%s" : "%s.%lld", name, (long long)layer);
    const msa_st_tensor *t = msa_safetensors_find(st, full);
    if (t && t->dtype == dtype && t->n == n)
        return t->data;
    msa_err_set(err, MSA_FAILED, MSA_E_DATA, "expected.safetensors: %s is missing or of another shape",
                full);
    return NULL;
}

typedef struct difference {
    double diff, norm;
} difference;

static void compare(difference *d, float got, float want)
{
    d->diff += ((double)got - want) * ((double)got - want);
    d->norm += (double)want * want;
}

/* NaN counts as infinitely wrong. */
static void worst(double *so_far, difference d)
{
    double e = d.norm > 0 ? sqrt(d.diff / d.norm) : sqrt(d.diff);
    if (!(e <= *so_far))
        *so_far = isnan(e) ? INFINITY : e;
}

static msa_rc check_bank(const msa_model *m, const msa_bank *b, const msa_safetensors *st,
                         msa_golden *g, msa_err *err)
{
    const msa_config *c = &m->config;
    const int64_t W = c->G * c->D;
    int64_t C = 0, at = 0;
    for (int64_t x = 0; x < msa_bank_n_extents(b); x++) {
        msa_bank_extent e;
        msa_bank_extent_get(b, x, &e);
        C += e.n_chunks;
    }
    const int32_t *chunk_doc = expected(st, "chunk_doc", -1, MSA_ST_I32, C, err);
    if (!chunk_doc)
        return MSA_FAILED;
    for (int64_t x = 0; x < msa_bank_n_extents(b); x++) {
        msa_bank_extent e;
        msa_bank_extent_get(b, x, &e);
        for (int64_t d = 0; d < e.n_docs; d++)
            for (int64_t i = e.doc_chunk[d]; i < e.doc_chunk[d + 1]; i++)
                if (chunk_doc[at++] != e.doc_id[d])
                    g->documents = false;
    }
    for (int64_t r = 0; r < c->n_router; r++) {
        const float *k = expected(st, "k", c->router_layers[r], MSA_ST_F32, C * W, err);
        const float *v = expected(st, "v", c->router_layers[r], MSA_ST_F32, C * W, err);
        const float *rk = expected(st, "rk", c->router_layers[r], MSA_ST_F32, C * W, err);
        if (!k || !v || !rk)
            return MSA_FAILED;
        difference dk = {0}, dv = {0}, dr = {0};
        at = 0;
        for (int64_t x = 0; x < msa_bank_n_extents(b); x++) {
            msa_bank_extent e;
            msa_bank_extent_get(b, x, &e);
            for (int64_t i = 0; i < e.n_chunks; i++, at += W)
                for (int64_t j = 0; j < W; j++) {
                    const float *kv = e.kv[r];
                    compare(&dk, kv[i * 2 * W + j], k[at + j]);
                    compare(&dv, kv[i * 2 * W + W + j], v[at + j]);
                    compare(&dr, ((const float *)e.rk[r])[i * W + j], rk[at + j]);
                }
        }
        worst(&g->k, dk);
        worst(&g->v, dv);
        worst(&g->rk, dr);
    }
    return MSA_OK;
}

/* n act values from the device as floats. */
static msa_rc fetch(msa_model *m, const void *p, int64_t n, msa_dtype act, float *out, msa_err *err)
{
    float *staged;
    msa_rc rc = msa_kern_alloc(m->kern, n * (int64_t)sizeof *staged, MSA_MEM_DEVICE, (void **)&staged,
                               err);
    if (rc >= 0)
        rc = msa_kern_convert(m->kern, NULL, p, act, n, staged, MSA_F32, n, n, 1, err);
    if (rc >= 0)
        rc = msa_kern_copy(m->kern, NULL, out, staged, n * (int64_t)sizeof *out, err);
    if (rc >= 0)
        rc = msa_kern_sync(m->kern, NULL, err);
    msa_kern_free(m->kern, staged, MSA_MEM_DEVICE);
    return rc;
}

static msa_rc check_head(msa_model *m, const msa_seqs *s, int64_t n_head, const msa_safetensors *st,
                         msa_golden *g, msa_err *err)
{
    const int64_t n = n_head * m->config.G * m->config.D;
    msa_kern_info info;
    msa_kern_info_get(m->kern, &info);
    float *got = msa_alloc(n, sizeof *got);
    msa_rc rc = got ? MSA_OK : msa_err_nomem(err, "a golden case");
    for (int64_t l = 0; rc >= 0 && l < m->config.n_layers; l++) {
        const float *want = expected(st, "template_k", l, MSA_ST_F32, n, err);
        const void *k, *v;
        difference d = {0};
        msa_seqs_head(s, l, &k, &v);
        rc = want ? fetch(m, k, n, info.act, got, err) : MSA_FAILED;
        for (int64_t i = 0; rc >= 0 && i < n; i++)
            compare(&d, got[i], want[i]);
        worst(&g->template_k, d);
    }
    free(got);
    return rc;
}

static msa_rc check_routes(const msa_model *m, const msa_seqs *s, int64_t Q, int64_t K,
                           const msa_safetensors *st, msa_golden *g, msa_err *err)
{
    for (int64_t r = 0; r < m->config.n_router; r++) {
        const int64_t layer = m->config.router_layers[r];
        const int32_t *topk = expected(st, "topk", layer, MSA_ST_I32, Q * K, err);
        const float *score = expected(st, "score", layer, MSA_ST_F32, Q * K, err);
        if (!topk || !score)
            return MSA_FAILED;
        for (int64_t q = 0; q < Q; q++) {
            int64_t n;
            difference d = {0};
            const msa_kern_best *best = msa_seqs_routed(s, q, r, &n);
            if (n != K)
                return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "%lld documents where %lld are expected",
                                   (long long)n, (long long)K);
            for (int64_t i = 0; i < K; i++) {
                compare(&d, best[i].score, score[q * K + i]);
                if (best[i].doc != topk[q * K + i])
                    g->documents = false;
            }
            worst(&g->scores, d);
        }
    }
    return MSA_OK;
}

/* ---- a case ----------------------------------------------------------------------------- */

/* Runs all questions together and compares every step's logits and best token. */
static msa_rc check_questions(msa_model *m, msa_seqs *s, const golden_case *c, const msa_safetensors *st,
                              msa_golden *g, msa_err *err)
{
    const int64_t Q = c->n_queries, V = m->config.V, K = m->config.top_k;
    const float *want = expected(st, "logits", -1, MSA_ST_F32, Q * c->steps * V, err);
    const int32_t *tokens = expected(st, "tokens", -1, MSA_ST_I32, Q * c->steps, err);
    msa_seq_rows *rows = msa_calloc(Q, sizeof *rows);
    msa_span *spans = msa_calloc(Q, sizeof *spans);
    msa_kern_sample *greedy = msa_calloc(Q, sizeof *greedy);
    int32_t *next = msa_calloc(Q, sizeof *next);
    ids *first = msa_calloc(Q, sizeof *first);
    difference *d = msa_calloc(Q, sizeof *d);
    float *got = msa_alloc(Q * V, sizeof *got);
    msa_rc rc = want && tokens ? MSA_OK : MSA_FAILED;
    if (!rows || !spans || !greedy || !next || !first || !d || !got)
        rc = msa_err_nomem(err, "a golden case");
    for (int64_t q = 0; rc >= 0 && q < Q; q++) {
        first[q].n = c->queries[q].n + c->suffix.n;
        first[q].id = msa_alloc(first[q].n, sizeof *first[q].id);
        if (!first[q].id) {
            rc = msa_err_nomem(err, "a golden case");
            break;
        }
        memcpy(first[q].id, c->queries[q].id, (size_t)c->queries[q].n * sizeof(int32_t));
        memcpy(first[q].id + c->queries[q].n, c->suffix.id, (size_t)c->suffix.n * sizeof(int32_t));
        spans[q] = (msa_span){0, c->queries[q].n};
        greedy[q] = (msa_kern_sample){.top_p = 1};
        rows[q] = (msa_seq_rows){.slot = q, .ids = first[q].id, .n = first[q].n, .pos = c->start,
                                 .head = true, .routing = MSA_ROUTING_LAYERS, .route = &spans[q],
                                 .n_route = 1, .top_k = K, .logits = true};
    }
    for (int64_t step = 0; rc >= 0 && step < c->steps; step++) {
        int64_t n;
        rc = msa_seqs_run(s, rows, Q, err);
        if (rc >= 0 && step == 0)
            rc = check_routes(m, s, Q, K, st, g, err);
        if (rc >= 0)
            rc = msa_kern_copy(m->kern, NULL, got, msa_seqs_logits(s, &n),
                               Q * V * (int64_t)sizeof *got, err);
        if (rc >= 0)
            rc = msa_seqs_sample(s, greedy, next, err);
        for (int64_t q = 0; rc >= 0 && q < Q; q++) {
            for (int64_t i = 0; i < V; i++)
                compare(&d[q], got[q * V + i], want[(q * c->steps + step) * V + i]);
            if (next[q] != tokens[q * c->steps + step])
                g->tokens = false;
            /* go on with the expected token: one difference stays one */
            next[q] = tokens[q * c->steps + step];
            rows[q] = (msa_seq_rows){.slot = q, .ids = &next[q], .n = 1, .at = rows[q].at + rows[q].n,
                                     .pos = rows[q].pos + rows[q].n, .head = true, .logits = true};
        }
    }
    for (int64_t q = 0; rc >= 0 && q < Q; q++)
        worst(&g->logits, d[q]);
    for (int64_t q = 0; first && q < Q; q++)
        free(first[q].id);
    free(rows);
    free(spans);
    free(greedy);
    free(next);
    free(first);
    free(d);
    free(got);
    return rc;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

static msa_rc run_case(const char *dir, golden_case *c, msa_model *m, const char *tmp, msa_golden *g,
                       msa_err *err)
{
    msa_bank *b = NULL;
    msa_seqs *s = NULL;
    msa_safetensors *st = NULL;
    int64_t longest = 0;
    char *path = msa_file_join(dir, "expected.safetensors");
    msa_rc rc = path ? msa_safetensors_open(path, &st, err) : msa_err_nomem(err, "a path");
    free(path);
    if (rc >= 0)
        rc = msa_bank_open(tmp, m, MSA_BANK_WRITE, MSA_F32, &b, err);
    if (rc >= 0)
        rc = msa_prefill_run(m, b, next_doc, c, &(msa_prefill_opts){0}, &(msa_prefill_stat){0}, err);
    if (rc >= 0)
        rc = check_bank(m, b, st, g, err);
    for (int64_t q = 0; q < c->n_queries; q++)
        longest = c->queries[q].n > longest ? c->queries[q].n : longest;
    longest += c->suffix.n + c->steps;
    int64_t rows;
    if (rc >= 0 && !msa_mul(c->n_queries, longest, &rows))
        rc = bad(err, "too many tokens");
    if (rc >= 0)
        rc = msa_seqs_new(m, b, &(msa_seqs_opts){.head = c->head.id, .n_head = c->head.n,
                                                 .slots = c->n_queries, .context = longest,
                                                 .rows = rows > c->head.n ? rows : c->head.n,
                                                 .top_k = m->config.top_k,
                                                 .attend = m->config.top_k}, &s, err);
    if (rc >= 0)
        rc = check_head(m, s, c->head.n, st, g, err);
    if (rc >= 0)
        rc = check_questions(m, s, c, st, g, err);
    msa_seqs_free(s);
    msa_bank_close(b);
    msa_safetensors_close(st);
    return rc;
}

msa_rc msa_golden_run(const char *dir, const msa_model_opts *opts, msa_golden *out, msa_err *err)
{
    *out = (msa_golden){.documents = true, .tokens = true};
    golden_case c = {0};
    msa_model *m = NULL;
    const char *base = getenv("TMPDIR");
    char *tmp = msa_sprintf("%s/msa-golden-XXXXXX", base && *base ? base : "/tmp");
    msa_rc rc = tmp ? read_case(dir, &c, err) : msa_err_nomem(err, "a path");
    if (rc >= 0)
        rc = msa_model_open_bare(dir, opts, &m, err);
    bool made = false;
    if (rc >= 0) {
        made = mkdtemp(tmp) != NULL;
        if (!made)
            rc = msa_err_sys(err, MSA_FAILED, MSA_E_IO, errno, "%s", tmp);
    }
    if (rc >= 0)
        rc = run_case(dir, &c, m, tmp, out, err);
    if (made)
        nftw(tmp, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    msa_model_close(m);
    free_case(&c);
    free(tmp);
    return rc < 0 ? msa_err_prefix(err, rc, "golden case %s", dir) : MSA_OK;
}

bool msa_golden_good(const msa_golden *g, msa_dtype compute)
{
    const bool f32 = compute == MSA_F32;
    const double bound = f32 ? 1e-4 : 5e-2;
    const double rows[] = {g->k, g->v, g->rk, g->template_k, g->scores};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i] > bound)
            return false;
    return g->logits <= (f32 ? bound : 2e-1) && (!f32 || (g->documents && g->tokens));
}
