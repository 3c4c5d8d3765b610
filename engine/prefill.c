/* Stage 1: documents are packed into forward passes, pooled, and appended to the
 * bank by extents.
 *
 *   next documents are packed    while a batch runs and others are queued
 *   pooled rows of a layer leave while the next layer is computed (a stream of copies)
 *   an extent is written         while the next one is computed into the other stage
 *
 * Invariants
 *   1. A batch belongs to one extent: both begin afresh at an extent's border, so
 *      that a repeated prefill runs the very batches of the one that was killed.
 *   2. Batches land, and extents are appended, in the order of their documents; an
 *      extent is appended when its last batch has landed. What ends a run early
 *      ends it behind the extents that were closed before.
 *   3. The writer's thread sees the bank and one extent and nothing else, and
 *      between begin_writing and end_writing nobody else does; all calls to the
 *      backend are made by the caller's thread. */
#include "engine/prefill_internal.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "engine/bank.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

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
    return msa_mul(c->G * c->D, 2 * 3 * (int64_t)sizeof(float), &width) &&
           msa_mul(c->E, (int64_t)sizeof(float) + msa_dtype_bytes(act), &hidden) &&
           msa_add(width, hidden, &per) &&
           msa_mul(per, msa_prefill_batch_chunks(c, rows), bytes);
}

bool msa_prefill_stage_bytes(const msa_config *c, int64_t extent_chunks, int64_t *bytes)
{
    return msa_mul(2 * 3 * (int64_t)sizeof(float), c->n_router, bytes) &&
           msa_mul(*bytes, c->G * c->D, bytes) && msa_mul(*bytes, extent_chunks, bytes);
}

/* ---- state ----------------------------------------------------------------------- */

enum { ROW_RK, ROW_K, ROW_V, ROW_KINDS };

/* Batches that are queued at a time: while the host waits for a disk or for documents
 * the device works on. They share the memory of one. */
enum { FLIGHTS = 4 };

/* A batch takes no fewer tokens than this for want of memory. */
#define LEAST_BATCH 256

/* Pooled rows of one layer and batch. */
typedef struct pooled {
    float *rows[ROW_KINDS];     /* device [max_chunks, G*D] */
    msa_kern_event *ready;      /* they stand there */
    msa_kern_event *copied;     /* and have left for the stage */
} pooled;

typedef struct extent {
    float *stage;               /* pinned [ROW_KINDS, n_router, stage_chunks, G*D] */
    int64_t stage_chunks;
    int64_t *doc_id, *doc_chunk; /* [stage_chunks], [stage_chunks + 1] */
    int32_t *doc_tokens;        /* [stage_chunks] */
    int64_t n_docs, n_chunks;   /* the batch being packed included */
    int64_t staged;             /* chunks of the batches that are queued */
    bool closed;                /* complete, and not all of its batches have landed */
} extent;

/* A batch that is queued. */
typedef struct flight {
    msa_kern_event *began, *done; /* around its operations on the device */
    msa_kern_event *landed;     /* all its rows are in the stage */
    bool on;
    int64_t n_docs, n_rows;
    extent *closes;             /* the extent whose last batch it is, or NULL */
} flight;

typedef struct run {
    msa_model *m;
    msa_bank *bank;
    const msa_config *c;
    const msa_prefill_opts *opts;
    msa_prefill_stat stat;
    msa_dtype act;
    int64_t width;              /* G*D */
    int64_t extent_chunks;      /* where extents and batches close; what is reserved may be more */
    int64_t batch_tokens, batch_chunks;

    /* the batch being packed: room for f.rows tokens and max_chunks chunks */
    msa_forward f;
    int64_t max_chunks;
    pooled pool[2];             /* used in turn */
    int pool_turn;
    float *hidden;              /* device [max_chunks, E] */
    void *hidden_act;           /* device [max_chunks, E] act */
    int32_t *ids;               /* [rows] */
    int64_t *pos;               /* [rows] */
    int64_t *doc_start;         /* [max_chunks + 1]: rows where documents begin */
    msa_kern_chunk *chunks;     /* [max_chunks] */
    int64_t n_rows, n_chunks, n_docs;

    msa_kern_stream *copies;
    flight flights[FLIGHTS];    /* used in turn: flights[turn] is the oldest */
    int turn;
    extent extents[2], *x;      /* x: the one being filled, or that was last */

    /* the writer */
    pthread_t thread;
    extent *writing;            /* what it appends, or NULL */
    msa_rc write_rc;
    msa_err write_err;

    int64_t run_docs, run_tokens; /* through the model so far, for progress */
} run;

static void free_batch(run *r)
{
    msa_kern *kern = r->m->kern;
    for (int i = 0; i < 2; i++) {
        for (int kind = 0; kind < ROW_KINDS; kind++)
            msa_kern_free(kern, r->pool[i].rows[kind], MSA_MEM_DEVICE);
        memset(r->pool[i].rows, 0, sizeof r->pool[i].rows);
    }
    msa_kern_free(kern, r->hidden, MSA_MEM_DEVICE);
    msa_kern_free(kern, r->hidden_act, MSA_MEM_DEVICE);
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

/* Makes room for batches of `rows` tokens; nothing may be packed or queued. */
static msa_rc size_batch(run *r, int64_t rows, msa_err *err)
{
    const msa_config *c = r->c;
    msa_kern *kern = r->m->kern;
    int64_t bytes;
    if (rows <= r->f.rows)
        return MSA_OK;
    free_batch(r);
    r->max_chunks = msa_prefill_batch_chunks(c, rows);
    if (!msa_prefill_pool_bytes(c, r->act, rows, &bytes))
        return msa_err_set(err, MSA_FATAL, MSA_E_CONFIG, "a batch of %lld tokens overflows",
                           (long long)rows);
    msa_rc rc = msa_forward_new(r->m, rows, &r->f, err);
    if (rc == MSA_OK)
        rc = msa_kern_reserve(kern, &(msa_kern_shape){.max_seq = rows}, false, NULL, err);
    for (int i = 0; rc == MSA_OK && i < 2 * ROW_KINDS; i++)
        rc = msa_kern_alloc(kern, r->max_chunks * r->width * (int64_t)sizeof(float), MSA_MEM_DEVICE,
                            (void **)&r->pool[i % 2].rows[i / 2], err);
    if (rc == MSA_OK)
        rc = msa_kern_alloc(kern, r->max_chunks * c->E * (int64_t)sizeof(float), MSA_MEM_DEVICE,
                            (void **)&r->hidden, err);
    if (rc == MSA_OK)
        rc = msa_kern_alloc(kern, r->max_chunks * c->E * msa_dtype_bytes(r->act), MSA_MEM_DEVICE,
                            &r->hidden_act, err);
    if (rc == MSA_OK) {
        r->ids = msa_alloc(rows, sizeof *r->ids);
        r->pos = msa_alloc(rows, sizeof *r->pos);
        r->doc_start = msa_alloc(r->max_chunks + 1, sizeof *r->doc_start);
        r->chunks = msa_alloc(r->max_chunks, sizeof *r->chunks);
        if (!r->ids || !r->pos || !r->doc_start || !r->chunks)
            rc = msa_err_nomem(err, "a batch of documents");
    }
    if (rc < 0)
        free_batch(r);
    return rc;
}

static void free_extent(run *r, extent *x)
{
    msa_kern_free(r->m->kern, x->stage, MSA_MEM_PINNED);
    free(x->doc_id);
    free(x->doc_chunk);
    free(x->doc_tokens);
    *x = (extent){0};
}

/* Makes room for an extent of `chunks`; the extent must be empty. */
static msa_rc size_extent(run *r, extent *x, int64_t chunks, msa_err *err)
{
    int64_t bytes;
    if (chunks <= x->stage_chunks)
        return MSA_OK;
    free_extent(r, x);
    if (!msa_prefill_stage_bytes(r->c, chunks, &bytes))
        return msa_err_set(err, MSA_FATAL, MSA_E_CONFIG, "an extent of %lld chunks overflows",
                           (long long)chunks);
    msa_rc rc = msa_kern_alloc(r->m->kern, bytes / 2, MSA_MEM_PINNED, (void **)&x->stage, err);
    if (rc < 0)
        return rc;
    x->stage_chunks = chunks;
    x->doc_id = msa_alloc(chunks, sizeof *x->doc_id);
    x->doc_chunk = msa_alloc(chunks + 1, sizeof *x->doc_chunk);
    x->doc_tokens = msa_alloc(chunks, sizeof *x->doc_tokens);
    if (!x->doc_id || !x->doc_chunk || !x->doc_tokens)
        return msa_err_nomem(err, "an extent");
    return MSA_OK;
}

static float *stage_at(const run *r, const extent *x, int kind, int64_t router, int64_t chunk)
{
    return x->stage + ((kind * r->c->n_router + router) * x->stage_chunks + chunk) * r->width;
}

/* ---- the writer ---------------------------------------------------------------------- */

static void *write_extent(void *arg)
{
    run *r = arg;
    const extent *x = r->writing;
    msa_bank_rows rows[MSA_BANK_MAX_ROUTER];
    for (int64_t i = 0; i < r->c->n_router; i++)
        rows[i] = (msa_bank_rows){.rk = stage_at(r, x, ROW_RK, i, 0), .k = stage_at(r, x, ROW_K, i, 0),
                                  .v = stage_at(r, x, ROW_V, i, 0)};
    msa_err_init(&r->write_err);
    r->write_rc = msa_bank_append(r->bank, x->n_docs, x->doc_id, x->doc_chunk, x->doc_tokens, rows,
                                  &r->write_err);
    return NULL;
}

/* Counts what was written and makes its extent an empty one. A failure is told
 * again by every later call. */
static msa_rc wrote(run *r, msa_err *err)
{
    extent *x = r->writing;
    r->writing = NULL;
    if (x && r->write_rc == MSA_OK) {
        r->stat.extents++;
        r->stat.docs += x->n_docs;
        r->stat.chunks += x->n_chunks;
        for (int64_t i = 0; i < x->n_docs; i++)
            r->stat.tokens += x->doc_tokens[i];
        x->n_docs = x->n_chunks = x->staged = 0;
    }
    if (r->write_rc < 0 && err)
        *err = r->write_err;
    return r->write_rc;
}

static msa_rc end_writing(run *r, msa_err *err)
{
    if (r->writing)
        pthread_join(r->thread, NULL);
    return wrote(r, err);
}

static msa_rc begin_writing(run *r, extent *x, msa_err *err)
{
    msa_rc rc = end_writing(r, err);
    if (rc < 0)
        return rc;
    r->writing = x;
    if (pthread_create(&r->thread, NULL, write_extent, r) == 0)
        return MSA_OK;
    write_extent(r); /* no thread to be had: then here */
    return wrote(r, err);
}

/* ---- one batch --------------------------------------------------------------------- */

/* Waits for a queued batch. */
static msa_rc land(run *r, flight *f, msa_err *err)
{
    if (!f->on)
        return MSA_OK;
    double seconds = 0;
    msa_rc rc = msa_kern_event_wait(r->m->kern, f->done, err);
    if (rc == MSA_OK)
        rc = msa_kern_event_wait(r->m->kern, f->landed, err);
    if (rc == MSA_OK)
        rc = msa_kern_event_seconds(r->m->kern, f->began, f->done, &seconds, err);
    if (rc < 0)
        return rc;
    r->stat.device_seconds += seconds;
    f->on = false;
    r->run_docs += f->n_docs;
    r->run_tokens += f->n_rows;
    if (r->opts->progress)
        r->opts->progress(r->opts->user, r->run_docs, r->run_tokens);
    if (!f->closes)
        return MSA_OK;
    f->closes->closed = false;
    return begin_writing(r, f->closes, err);
}

static msa_rc land_all(run *r, msa_err *err)
{
    msa_rc rc = MSA_OK;
    for (int i = 0; rc == MSA_OK && i < FLIGHTS; i++)
        rc = land(r, &r->flights[(r->turn + i) % FLIGHTS], err);
    return rc;
}

/* Pools layer l's keys, values and router keys and sends them to the stage. The
 * router projection is linear: the normed rows are pooled first. */
static msa_rc pool_layer(run *r, const msa_layer *l, msa_err *err)
{
    const msa_config *c = r->c;
    const msa_kern_heads h = msa_config_heads(c);
    const int64_t stride = (h.H + 2 * h.G) * h.D, C = r->n_chunks;
    const int64_t bytes = C * r->width * (int64_t)sizeof(float);
    msa_kern *kern = r->m->kern;
    pooled *p = &r->pool[r->pool_turn];
    r->pool_turn = !r->pool_turn;
    msa_rc rc = msa_kern_stream_wait(kern, NULL, p->copied, err);
    if (rc == MSA_OK)
        rc = msa_kern_pool(kern, NULL, r->f.qkv, false, stride, h.H * h.D, r->width, r->chunks, C,
                           p->rows[ROW_K], err);
    if (rc == MSA_OK)
        rc = msa_kern_pool(kern, NULL, r->f.qkv, false, stride, (h.H + h.G) * h.D, r->width,
                           r->chunks, C, p->rows[ROW_V], err);
    if (rc == MSA_OK && c->decoupled) {
        rc = msa_kern_pool(kern, NULL, r->f.xn, false, c->E, 0, c->E, r->chunks, C, r->hidden, err);
        if (rc == MSA_OK)
            rc = msa_kern_convert(kern, NULL, r->hidden, MSA_F32, c->E, r->hidden_act, r->act,
                                  c->E, c->E, C, err);
        if (rc == MSA_OK)
            rc = msa_kern_linear(kern, NULL, l->router_k, r->hidden_act, C, p->rows[ROW_RK],
                                 MSA_LINEAR_F32, err);
    } else if (rc == MSA_OK)
        rc = msa_kern_copy(kern, NULL, p->rows[ROW_RK], p->rows[ROW_K], bytes, err);
    if (rc == MSA_OK && c->route.unit)
        rc = msa_kern_unit_heads(kern, NULL, p->rows[ROW_RK], C, h.G, h.D, err);
    if (rc == MSA_OK)
        rc = msa_kern_event_record(kern, NULL, p->ready, err);
    if (rc == MSA_OK)
        rc = msa_kern_stream_wait(kern, r->copies, p->ready, err);
    for (int i = 0; rc == MSA_OK && i < ROW_KINDS; i++)
        rc = msa_kern_copy(kern, r->copies, stage_at(r, r->x, i, l->router, r->x->staged), p->rows[i],
                           bytes, err);
    if (rc == MSA_OK)
        rc = msa_kern_event_record(kern, r->copies, p->copied, err);
    return rc;
}

/* Queues the batch: the layers up to the last router layer, of which only keys,
 * values and router keys are wanted. */
static msa_rc queue_layers(run *r, msa_err *err)
{
    const msa_config *c = r->c;
    const int64_t last = c->router_layers[c->n_router - 1];
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
            rc = msa_forward_finish(r->m, l, NULL, &r->f, r->n_rows, err);
    }
    return rc;
}

/* Sends the batch off behind those that are queued, when the oldest of as many as may
 * be has landed, and empties it; closes: it is the last of its extent. */
static msa_rc run_batch(run *r, bool closes, msa_err *err)
{
    flight *f = &r->flights[r->turn];
    if (!r->n_docs)
        return MSA_OK;
    msa_rc rc = land(r, f, err);
    const double from = now();
    if (rc == MSA_OK)
        rc = msa_kern_event_record(r->m->kern, NULL, f->began, err);
    if (rc == MSA_OK)
        rc = queue_layers(r, err);
    if (rc == MSA_OK)
        rc = msa_kern_event_record(r->m->kern, NULL, f->done, err);
    if (rc == MSA_OK)
        rc = msa_kern_event_record(r->m->kern, r->copies, f->landed, err);
    if (rc < 0)
        return rc;
    r->x->closed = closes;
    r->x->staged += r->n_chunks;
    f->on = true;
    f->n_docs = r->n_docs;
    f->n_rows = r->n_rows;
    f->closes = closes ? r->x : NULL;
    r->turn = (r->turn + 1) % FLIGHTS;
    r->n_rows = r->n_chunks = r->n_docs = 0;
    if (f->landed)
        return MSA_OK;
    r->stat.device_seconds += now() - from; /* without events the backend has computed already */
    return land(r, f, err);
}

/* Puts a document into the batch and the extent, which have room for it. */
static void take(run *r, const msa_doc_tokens *d)
{
    extent *x = r->x;
    r->doc_start[r->n_docs++] = r->n_rows;
    memcpy(r->ids + r->n_rows, d->ids, (size_t)d->n * sizeof *r->ids);
    for (int64_t i = 0; i < d->n; i++)
        r->pos[r->n_rows + i] = i;
    x->doc_id[x->n_docs] = d->id;
    x->doc_tokens[x->n_docs] = (int32_t)d->n;
    x->doc_chunk[x->n_docs++] = x->n_chunks;
    for (int64_t at = 0; at < d->n; at += r->c->P, x->n_chunks++)
        r->chunks[r->n_chunks++] = (msa_kern_chunk){
            .start = r->n_rows + at, .len = d->n - at < r->c->P ? d->n - at : r->c->P};
    r->n_rows += d->n;
}

/* ---- extents ------------------------------------------------------------------------- */

/* Is there an extent that documents join? */
static bool filling(const run *r)
{
    return r->x && r->x->n_docs > 0 && !r->x->closed && r->x != r->writing;
}

/* Sends off the rest of the extent, which is never empty: a batch is sent only to
 * make room for a document, which then joins. */
static msa_rc close_extent(run *r, msa_err *err)
{
    if (!filling(r))
        return MSA_OK;
    r->x->doc_chunk[r->x->n_docs] = r->x->n_chunks;
    return run_batch(r, true, err);
}

/* Begins an extent in the stage that was left first. */
static msa_rc open_extent(run *r, int64_t chunks, msa_err *err)
{
    extent *x = r->x == &r->extents[0] ? &r->extents[1] : &r->extents[0];
    msa_rc rc = MSA_OK;
    for (int i = 0; rc == MSA_OK && x->closed && i < FLIGHTS; i++)
        rc = land(r, &r->flights[(r->turn + i) % FLIGHTS], err);
    if (rc == MSA_OK && r->writing == x)
        rc = end_writing(r, err);
    if (rc == MSA_OK)
        rc = size_extent(r, x, chunks > r->extent_chunks ? chunks : r->extent_chunks, err);
    r->x = x;
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
static msa_rc make_room(run *r, const msa_doc_tokens *d, bool stop, msa_err *err)
{
    const int64_t chunks = ceil_div(d->n, r->c->P);
    msa_rc rc = MSA_OK;
    if (filling(r) && r->x->n_chunks + chunks > r->extent_chunks)
        rc = close_extent(r, err);
    if (rc == MSA_OK && (r->n_rows + d->n > r->batch_tokens || r->n_chunks + chunks > r->batch_chunks))
        rc = run_batch(r, false, err);
    if (rc < 0)
        return rc;
    if (!filling(r)) {
        /* the document that closes an extent starts the next one, unless asked to stop */
        if (stop)
            return MSA_END;
        rc = open_extent(r, chunks, err);
    }
    if (rc == MSA_OK && d->n > r->f.rows) {
        rc = land_all(r, err);
        if (rc == MSA_OK)
            rc = size_batch(r, d->n, err);
    }
    return rc;
}

/* Takes documents until they end, fail, or a stop is asked for. */
static msa_rc take_all(run *r, msa_next_doc *next, void *user, msa_err *err)
{
    msa_doc_tokens d = {0};
    int64_t above = msa_bank_last_doc(r->bank);
    for (;;) {
        const int stop = r->opts->stop ? atomic_load(r->opts->stop) : 0;
        if (stop > 1 || (stop && !filling(r)))
            return MSA_END;
        msa_rc rc = next(user, &d, err);
        if (rc == MSA_END)
            return close_extent(r, err);
        if (rc >= 0)
            rc = check_doc(r, &d, above, err);
        if (rc == MSA_OK)
            rc = make_room(r, &d, stop != 0, err);
        if (rc != MSA_OK)
            return rc;
        take(r, &d);
        above = d.id;
    }
}

/* ---- a run ------------------------------------------------------------------------------ */

static msa_rc begin(run *r, msa_err *err)
{
    msa_kern *kern = r->m->kern;
    msa_rc rc = msa_kern_stream_new(kern, &r->copies, err);
    for (int i = 0; rc == MSA_OK && i < 2; i++) {
        rc = msa_kern_event_new(kern, &r->pool[i].ready, err);
        if (rc == MSA_OK)
            rc = msa_kern_event_new(kern, &r->pool[i].copied, err);
    }
    for (int i = 0; rc == MSA_OK && i < FLIGHTS; i++) {
        rc = msa_kern_event_new(kern, &r->flights[i].began, err);
        if (rc == MSA_OK)
            rc = msa_kern_event_new(kern, &r->flights[i].done, err);
        if (rc == MSA_OK)
            rc = msa_kern_event_new(kern, &r->flights[i].landed, err);
    }
    while (rc == MSA_OK) {
        msa_err why;
        msa_err_init(&why);
        r->batch_chunks = msa_prefill_batch_chunks(r->c, r->batch_tokens);
        rc = size_batch(r, r->batch_tokens, &why);
        if (rc == MSA_OK)
            break;
        if (rc != MSA_FAILED || why.code != MSA_E_NOMEM || r->batch_tokens / 2 < LEAST_BATCH) {
            if (err)
                *err = why;
            break;
        }
        r->batch_tokens /= 2;
        rc = MSA_OK;
    }
    return rc;
}

/* Lands and writes what was closed. Its errors concern earlier documents than
 * what ended the run, and so come first. */
static msa_rc finish(run *r, msa_rc rc, msa_err *err)
{
    msa_kern *kern = r->m->kern;
    msa_err late;
    msa_err_init(&late);
    msa_rc rc_late = land_all(r, &late);
    msa_rc rc_write = end_writing(r, &late);
    if (rc_write < 0)
        rc_late = rc_write;
    if (rc_late < 0 && err)
        *err = late;
    /* after an error operations that write to what is freed may be queued still */
    msa_kern_sync(kern, NULL, NULL);
    msa_kern_sync(kern, r->copies, NULL);
    free_batch(r);
    for (int i = 0; i < 2; i++) {
        free_extent(r, &r->extents[i]);
        msa_kern_event_free(kern, r->pool[i].ready);
        msa_kern_event_free(kern, r->pool[i].copied);
    }
    for (int i = 0; i < FLIGHTS; i++) {
        msa_kern_event_free(kern, r->flights[i].began);
        msa_kern_event_free(kern, r->flights[i].done);
        msa_kern_event_free(kern, r->flights[i].landed);
    }
    msa_kern_stream_free(kern, r->copies);
    return rc_late < 0 ? rc_late : rc;
}

msa_rc msa_prefill_run(msa_model *m, msa_bank *b, msa_next_doc *next, void *user,
                       const msa_prefill_opts *opts, msa_prefill_stat *stat, msa_err *err)
{
    const msa_prefill_opts none = {0};
    const double start = now();
    msa_kern_info info;
    msa_kern_info_get(m->kern, &info);
    if (!opts)
        opts = &none;
    run r = {.m = m, .bank = b, .c = &m->config, .opts = opts, .act = info.act,
             .width = m->config.G * m->config.D,
             .extent_chunks = opts->extent_chunks > 0 ? opts->extent_chunks
                                                      : MSA_PREFILL_EXTENT_CHUNKS,
             .batch_tokens = info.batch_tokens};
    msa_rc rc = begin(&r, err);
    if (rc == MSA_OK)
        rc = take_all(&r, next, user, err);
    rc = finish(&r, rc, err);
    r.stat.seconds = now() - start;
    if (stat)
        *stat = r.stat;
    return rc < 0 ? msa_err_prefix(err, rc, "prefill") : rc;
}
