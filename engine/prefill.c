/* Stage 1: documents are packed into forward passes, pooled, and appended to the
 * bank by extents.
 *
 * A batch belongs to one extent: both begin afresh at an extent's border, so
 * that a repeated prefill runs the very batches of the one that was killed. */
#include "engine/prefill_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "engine/bank.h"

/* ---- sizes --------------------------------------------------------------------- */

static int64_t ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

int64_t msa_prefill_batch_chunks(const msa_config *c, int64_t rows)
{
    const int64_t full = ceil_div(rows, c->P), some = ceil_div(rows, 8);
    return full > some ? full : some;
}

bool msa_prefill_pool_bytes(const msa_config *c, msa_dtype act, int64_t rows, int64_t *bytes)
{
    int64_t width, hidden, per;
    return msa_mul(c->G * c->D, 3 * (int64_t)sizeof(float), &width) &&
           msa_mul(c->E, (int64_t)sizeof(float) + msa_dtype_bytes(act), &hidden) &&
           msa_add(width, hidden, &per) &&
           msa_mul(per, msa_prefill_batch_chunks(c, rows), bytes);
}

bool msa_prefill_stage_bytes(const msa_config *c, int64_t extent_chunks, int64_t *bytes)
{
    return msa_mul(3 * (int64_t)sizeof(float), c->n_router, bytes) &&
           msa_mul(*bytes, c->G * c->D, bytes) && msa_mul(*bytes, extent_chunks, bytes);
}

/* ---- state ----------------------------------------------------------------------- */

enum { ROW_RK, ROW_K, ROW_V, ROW_KINDS };

typedef struct run {
    msa_model *m;
    msa_bank *bank;
    const msa_config *c;
    int64_t width;              /* G*D */
    int64_t extent_chunks;      /* where extents and batches close; what is reserved may be more */
    int64_t batch_tokens, batch_chunks;

    /* the batch: room for f.rows tokens and max_chunks chunks */
    msa_forward f;
    int64_t max_chunks;
    float *pooled[ROW_KINDS];   /* device [max_chunks, G*D] */
    float *hidden;              /* device [max_chunks, E] */
    void *hidden_act;           /* device [max_chunks, E] act */
    int32_t *ids;               /* [rows] */
    int64_t *pos;               /* [rows] */
    int64_t *doc_start;         /* [max_chunks + 1]: rows where documents begin */
    msa_kern_chunk *chunks;     /* [max_chunks] */
    int64_t n_rows, n_chunks, n_docs;

    /* the extent in flight */
    float *stage;               /* pinned [ROW_KINDS, n_router, stage_chunks, G*D] */
    int64_t stage_chunks;
    int64_t *doc_id, *doc_chunk; /* [stage_chunks], [stage_chunks + 1] */
    int32_t *doc_tokens;        /* [stage_chunks] */
    int64_t x_docs, x_chunks;   /* in the extent, the batch included */
    int64_t staged;             /* chunks that earlier batches left in stage */

    int64_t run_docs, run_tokens; /* through the model so far, for progress */
} run;

static void free_batch(run *r)
{
    void *device[] = {r->pooled[ROW_RK], r->pooled[ROW_K], r->pooled[ROW_V], r->hidden,
                      r->hidden_act};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        msa_kern_free(r->m->kern, device[i], MSA_MEM_DEVICE);
    memset(r->pooled, 0, sizeof r->pooled);
    r->hidden = NULL;
    r->hidden_act = NULL;
    msa_forward_free(r->m, &r->f);
    free(r->ids);
    free(r->pos);
    free(r->doc_start);
    free(r->chunks);
    r->ids = NULL;
    r->pos = NULL;
    r->doc_start = NULL;
    r->chunks = NULL;
}

/* Makes room for batches of `rows` tokens; the batch must be empty. */
static msa_rc size_batch(run *r, int64_t rows, msa_err *err)
{
    const msa_config *c = r->c;
    msa_kern *kern = r->m->kern;
    msa_kern_info info;
    int64_t bytes;
    if (rows <= r->f.rows)
        return MSA_OK;
    free_batch(r);
    msa_kern_info_get(kern, &info);
    r->max_chunks = msa_prefill_batch_chunks(c, rows);
    if (!msa_prefill_pool_bytes(c, info.act, rows, &bytes))
        return msa_err_set(err, MSA_FATAL, MSA_E_CONFIG, "a batch of %lld tokens overflows",
                           (long long)rows);
    msa_rc rc = msa_forward_new(r->m, rows, &r->f, err);
    if (rc == MSA_OK)
        rc = msa_kern_reserve(kern, &(msa_kern_shape){.max_seq = rows}, false, NULL, err);
    for (int i = 0; rc == MSA_OK && i < ROW_KINDS; i++)
        rc = msa_kern_alloc(kern, r->max_chunks * r->width * (int64_t)sizeof(float), MSA_MEM_DEVICE,
                            (void **)&r->pooled[i], err);
    if (rc == MSA_OK)
        rc = msa_kern_alloc(kern, r->max_chunks * c->E * (int64_t)sizeof(float), MSA_MEM_DEVICE,
                            (void **)&r->hidden, err);
    if (rc == MSA_OK)
        rc = msa_kern_alloc(kern, r->max_chunks * c->E * msa_dtype_bytes(info.act), MSA_MEM_DEVICE,
                            &r->hidden_act, err);
    if (rc < 0)
        return rc;
    r->ids = msa_alloc(rows, sizeof *r->ids);
    r->pos = msa_alloc(rows, sizeof *r->pos);
    r->doc_start = msa_alloc(r->max_chunks + 1, sizeof *r->doc_start);
    r->chunks = msa_alloc(r->max_chunks, sizeof *r->chunks);
    if (!r->ids || !r->pos || !r->doc_start || !r->chunks)
        return msa_err_nomem(err, "a batch of documents");
    return MSA_OK;
}

static void free_extent(run *r)
{
    msa_kern_free(r->m->kern, r->stage, MSA_MEM_PINNED);
    free(r->doc_id);
    free(r->doc_chunk);
    free(r->doc_tokens);
    r->stage = NULL;
    r->doc_id = NULL;
    r->doc_chunk = NULL;
    r->doc_tokens = NULL;
}

/* Makes room for an extent of `chunks`; the extent must be empty. */
static msa_rc size_extent(run *r, int64_t chunks, msa_err *err)
{
    int64_t bytes;
    if (chunks <= r->stage_chunks)
        return MSA_OK;
    free_extent(r);
    if (!msa_prefill_stage_bytes(r->c, chunks, &bytes))
        return msa_err_set(err, MSA_FATAL, MSA_E_CONFIG, "an extent of %lld chunks overflows",
                           (long long)chunks);
    msa_rc rc = msa_kern_alloc(r->m->kern, bytes, MSA_MEM_PINNED, (void **)&r->stage, err);
    if (rc < 0)
        return rc;
    r->stage_chunks = chunks;
    r->doc_id = msa_alloc(chunks, sizeof *r->doc_id);
    r->doc_chunk = msa_alloc(chunks + 1, sizeof *r->doc_chunk);
    r->doc_tokens = msa_alloc(chunks, sizeof *r->doc_tokens);
    if (!r->doc_id || !r->doc_chunk || !r->doc_tokens)
        return msa_err_nomem(err, "an extent");
    return MSA_OK;
}

static float *stage_at(const run *r, int kind, int64_t router, int64_t chunk)
{
    return r->stage + ((kind * r->c->n_router + router) * r->stage_chunks + chunk) * r->width;
}

/* ---- one batch --------------------------------------------------------------------- */

/* Pools layer l's keys, values and router keys and sends them to the stage. The
 * router projection is linear: the normed rows are pooled first. */
static msa_rc pool_layer(run *r, const msa_layer *l, msa_err *err)
{
    const msa_config *c = r->c;
    const msa_kern_heads h = msa_config_heads(c);
    const int64_t stride = (h.H + 2 * h.G) * h.D, C = r->n_chunks;
    const int64_t bytes = C * r->width * (int64_t)sizeof(float);
    msa_kern *kern = r->m->kern;
    msa_kern_info info;
    msa_kern_info_get(kern, &info);
    msa_rc rc = msa_kern_pool(kern, NULL, r->f.qkv, false, stride, h.H * h.D, r->width, r->chunks, C,
                              r->pooled[ROW_K], err);
    if (rc == MSA_OK)
        rc = msa_kern_pool(kern, NULL, r->f.qkv, false, stride, (h.H + h.G) * h.D, r->width,
                           r->chunks, C, r->pooled[ROW_V], err);
    if (rc == MSA_OK && c->decoupled) {
        rc = msa_kern_pool(kern, NULL, r->f.xn, false, c->E, 0, c->E, r->chunks, C, r->hidden, err);
        if (rc == MSA_OK)
            rc = msa_kern_convert(kern, NULL, r->hidden, MSA_F32, c->E, r->hidden_act, info.act,
                                  c->E, c->E, C, err);
        if (rc == MSA_OK)
            rc = msa_kern_linear(kern, NULL, l->router_k, r->hidden_act, C, r->pooled[ROW_RK],
                                 MSA_LINEAR_F32, err);
    } else if (rc == MSA_OK)
        rc = msa_kern_copy(kern, NULL, r->pooled[ROW_RK], r->pooled[ROW_K], bytes, err);
    if (rc == MSA_OK && c->route.unit)
        rc = msa_kern_unit_heads(kern, NULL, r->pooled[ROW_RK], C, h.G, h.D, err);
    for (int i = 0; rc == MSA_OK && i < ROW_KINDS; i++)
        rc = msa_kern_copy(kern, NULL, stage_at(r, i, l->router, r->staged), r->pooled[i], bytes,
                           err);
    return rc;
}

/* Runs the batch through the layers up to the last router layer, of which only
 * keys, values and router keys are wanted, and empties it. */
static msa_rc run_batch(run *r, const msa_prefill_opts *opts, msa_err *err)
{
    const msa_config *c = r->c;
    const int64_t last = c->router_layers[c->n_router - 1];
    if (!r->n_docs)
        return MSA_OK;
    r->doc_start[r->n_docs] = r->n_rows;
    msa_rc rc = msa_forward_embed(r->m, &r->f, r->ids, r->pos, r->n_rows, err);
    for (int64_t i = 0; rc == MSA_OK && i <= last; i++) {
        const msa_layer *l = &r->m->layers[i];
        rc = msa_forward_project(r->m, l, &r->f, r->n_rows, err);
        if (rc == MSA_OK && l->router >= 0)
            rc = pool_layer(r, l, err);
        if (rc == MSA_OK && i < last)
            rc = msa_kern_attn_packed(r->m->kern, NULL, r->f.qkv, r->n_rows, msa_config_heads(c),
                                      r->doc_start, r->n_docs, r->f.att, err);
        if (rc == MSA_OK && i < last)
            rc = msa_forward_finish(r->m, l, &r->f, r->n_rows, err);
    }
    if (rc == MSA_OK)
        rc = msa_kern_sync(r->m->kern, NULL, err);
    r->staged += r->n_chunks;
    r->run_docs += r->n_docs;
    r->run_tokens += r->n_rows;
    r->n_rows = r->n_chunks = r->n_docs = 0;
    if (rc == MSA_OK && opts->progress)
        opts->progress(opts->user, r->run_docs, r->run_tokens);
    return rc;
}

/* Puts a document into the batch and the extent, which have room for it. */
static void take(run *r, const msa_doc_tokens *d)
{
    r->doc_start[r->n_docs++] = r->n_rows;
    memcpy(r->ids + r->n_rows, d->ids, (size_t)d->n * sizeof *r->ids);
    for (int64_t i = 0; i < d->n; i++)
        r->pos[r->n_rows + i] = i;
    r->doc_id[r->x_docs] = d->id;
    r->doc_tokens[r->x_docs] = (int32_t)d->n;
    r->doc_chunk[r->x_docs++] = r->x_chunks;
    for (int64_t at = 0; at < d->n; at += r->c->P, r->x_chunks++)
        r->chunks[r->n_chunks++] = (msa_kern_chunk){
            .start = r->n_rows + at, .len = d->n - at < r->c->P ? d->n - at : r->c->P};
    r->n_rows += d->n;
}

/* ---- extents ------------------------------------------------------------------------- */

/* Runs what is left of the extent and appends it. */
static msa_rc close_extent(run *r, const msa_prefill_opts *opts, msa_prefill_stat *stat,
                           msa_err *err)
{
    msa_bank_rows rows[MSA_BANK_MAX_ROUTER];
    if (!r->x_docs)
        return MSA_OK;
    msa_rc rc = run_batch(r, opts, err);
    if (rc < 0)
        return rc;
    r->doc_chunk[r->x_docs] = r->x_chunks;
    for (int64_t i = 0; i < r->c->n_router; i++)
        rows[i] = (msa_bank_rows){.rk = stage_at(r, ROW_RK, i, 0), .k = stage_at(r, ROW_K, i, 0),
                                  .v = stage_at(r, ROW_V, i, 0)};
    rc = msa_bank_append(r->bank, r->x_docs, r->doc_id, r->doc_chunk, r->doc_tokens, rows, err);
    if (rc == MSA_OK) {
        stat->extents++;
        stat->docs += r->x_docs;
        stat->chunks += r->x_chunks;
        for (int64_t i = 0; i < r->x_docs; i++)
            stat->tokens += r->doc_tokens[i];
    }
    r->x_docs = r->x_chunks = r->staged = 0;
    return rc;
}

static msa_rc bad_doc(const msa_doc_tokens *d, msa_rc rc, msa_code code, msa_err *err,
                      const char *fault)
{
    const bool first = err && err->code == MSA_E_NONE;
    rc = msa_err_set(err, rc, code, "document %lld of %lld tokens: %s", (long long)d->id,
                     (long long)d->n, fault);
    if (first)
        err->doc = d->id;
    return rc;
}

static msa_rc check_doc(const run *r, const msa_doc_tokens *d, int64_t above, msa_err *err)
{
    char fault[80];
    if (d->id <= above)
        return bad_doc(d, MSA_FATAL, MSA_E_INTERNAL, err, "its id does not rise");
    if (d->n < 1)
        return bad_doc(d, MSA_FAILED, MSA_E_DATA, err, "it is empty");
    if (d->n > r->c->max_positions || d->n > INT32_MAX)
        return bad_doc(d, MSA_FATAL, MSA_E_DATA, err, "longer than the model's positions");
    for (int64_t i = 0; i < d->n; i++)
        if (d->ids[i] < 0 || d->ids[i] >= r->c->V) {
            snprintf(fault, sizeof fault, "token %d is outside the vocabulary", (int)d->ids[i]);
            return bad_doc(d, MSA_FAILED, MSA_E_DATA, err, fault);
        }
    return MSA_OK;
}

/* Makes room for a document, closing extent and batch as the rules have it. */
static msa_rc make_room(run *r, const msa_doc_tokens *d, const msa_prefill_opts *opts,
                        msa_prefill_stat *stat, msa_err *err)
{
    const int64_t chunks = ceil_div(d->n, r->c->P);
    msa_rc rc = MSA_OK;
    if (r->x_docs && r->x_chunks + chunks > r->extent_chunks)
        rc = close_extent(r, opts, stat, err);
    if (rc == MSA_OK && (r->n_rows + d->n > r->batch_tokens || r->n_chunks + chunks > r->batch_chunks))
        rc = run_batch(r, opts, err);
    if (rc == MSA_OK && !r->x_docs)
        rc = size_extent(r, chunks, err);
    if (rc == MSA_OK)
        rc = size_batch(r, d->n, err);
    return rc;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

msa_rc msa_prefill_run(msa_model *m, msa_bank *b, msa_next_doc *next, void *user,
                       const msa_prefill_opts *opts, msa_prefill_stat *stat, msa_err *err)
{
    const msa_prefill_opts none = {0};
    const double start = now();
    msa_kern_info info;
    msa_doc_tokens d = {0};
    int64_t above = msa_bank_last_doc(b);
    msa_prefill_stat s = {0};
    if (!opts)
        opts = &none;
    msa_kern_info_get(m->kern, &info);
    run r = {.m = m, .bank = b, .c = &m->config, .width = m->config.G * m->config.D,
             .extent_chunks = opts->extent_chunks > 0 ? opts->extent_chunks
                                                      : MSA_PREFILL_EXTENT_CHUNKS,
             .batch_tokens = info.batch_tokens,
             .batch_chunks = msa_prefill_batch_chunks(&m->config, info.batch_tokens)};
    msa_rc rc = size_batch(&r, r.batch_tokens, err);
    if (rc == MSA_OK)
        rc = size_extent(&r, r.extent_chunks, err);
    while (rc == MSA_OK) {
        const int stop = opts->stop ? atomic_load(opts->stop) : 0;
        if (stop > 1 || (stop && !r.x_docs)) {
            rc = MSA_END;
            break;
        }
        rc = next(user, &d, err);
        if (rc == MSA_END) {
            rc = close_extent(&r, opts, &s, err);
            break;
        }
        if (rc >= 0)
            rc = check_doc(&r, &d, above, err);
        if (rc == MSA_OK)
            rc = make_room(&r, &d, opts, &s, err);
        /* the document that closes an extent starts the next one, unless asked to stop */
        if (rc == MSA_OK && stop && !r.x_docs)
            rc = MSA_END;
        if (rc == MSA_OK)
            take(&r, &d);
        above = d.id;
    }
    free_batch(&r);
    free_extent(&r);
    s.seconds = now() - start;
    if (stat)
        *stat = s;
    return rc < 0 ? msa_err_prefix(err, rc, "prefill") : rc;
}
