#include "tests/support_device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels_internal.h"

/* ---- what waits -------------------------------------------------------------------- */

/* An operation with its arguments behind it; host arrays are copied, as they may
 * change when the call has returned. */
typedef struct node node;
struct node {
    node *next;
    int64_t id;             /* rising over all streams */
    msa_rc (*run)(node *n, msa_err *err);
    void *owned[4];
};

struct msa_kern_stream {
    node *first, **end;
};

struct msa_kern_event {
    msa_kern_stream *st;    /* NULL: no mark yet */
    int64_t mark;
};

typedef struct block {
    char *p;
    int64_t bytes;
} block;

enum { MAX_BLOCKS = 4096, MAX_WEIGHTS = 256, MAX_STREAMS = 4 };

static struct {
    msa_kern *k;
    const msa_kern_ops *under;
    msa_kern_ops ops;
    msa_kern_stream stream;
    int64_t ids, n_run, n_queued, most_queued, fault_at, refuse_above, n_alloc, refuse_at, n_runs;
    bool dead, recording, others_first;
    msa_kern_stream *streams[MAX_STREAMS]; /* those that were made */
    block blocks[MAX_BLOCKS];   /* what copies need not wait for */
    int n_blocks;
    const msa_kern_weight *weights[MAX_WEIGHTS];
    int64_t rows[MAX_WEIGHTS];
    int n_weights;
} D;

static msa_rc gone(msa_err *err)
{
    return msa_err_set(err, MSA_FATAL, MSA_E_UNAVAILABLE, "the device has fallen off the bus");
}

static void drop(node *n)
{
    for (int i = 0; i < 4; i++)
        free(n->owned[i]);
    free(n);
}

/* Runs what is queued on st up to and with operation `id`. */
static void run_until(msa_kern_stream *st, int64_t id)
{
    while (st->first && st->first->id <= id) {
        node *n = st->first;
        st->first = n->next;
        if (!st->first)
            st->end = &st->first;
        D.n_queued--;
        if (D.fault_at >= 0 && D.n_run >= D.fault_at)
            D.dead = true;
        if (!D.dead) {
            msa_err err;
            msa_err_init(&err);
            D.n_run++;
            if (n->run(n, &err) < 0)
                fail_msg("an operation of the test's device: %s", err.msg);
        }
        drop(n);
    }
}

static msa_kern_stream *stream(msa_kern_stream *st)
{
    return st ? st : &D.stream;
}

/* The host waits for operation `id` of st. */
static msa_rc wait_for(msa_kern_stream *st, int64_t id, msa_err *err)
{
    if (D.others_first) {
        if (st != &D.stream)
            run_until(&D.stream, INT64_MAX);
        for (int i = 0; i < MAX_STREAMS; i++)
            if (D.streams[i] && D.streams[i] != st)
                run_until(D.streams[i], INT64_MAX);
    }
    run_until(st, id);
    return D.dead ? gone(err) : MSA_OK;
}

static msa_rc run_all(msa_kern_stream *st, msa_err *err)
{
    return wait_for(st, INT64_MAX, err);
}

/* Queues an operation of `bytes` (its node with arguments); NULL: the device is
 * dead, err is set. */
static void *queue(msa_kern_stream *st, size_t bytes, msa_rc (*run)(node *, msa_err *), msa_err *err)
{
    if (D.dead) {
        gone(err);
        return NULL;
    }
    node *n = calloc(1, bytes);
    assert_non_null(n);
    n->id = ++D.ids;
    n->run = run;
    *stream(st)->end = n;
    stream(st)->end = &n->next;
    D.n_queued++;
    D.most_queued = D.n_queued > D.most_queued ? D.n_queued : D.most_queued;
    return n;
}

static void *own(node *n, const void *p, int64_t count, size_t size)
{
    int i = 0;
    while (n->owned[i])
        i++;
    n->owned[i] = malloc(count > 0 ? (size_t)count * size : 1);
    assert_non_null(n->owned[i]);
    if (count > 0)
        memcpy(n->owned[i], p, (size_t)count * size);
    return n->owned[i];
}

/* ---- life, memory, streams ----------------------------------------------------------- */

static void close_device(msa_kern *k)
{
    const msa_kern_ops *under = D.under;
    run_until(&D.stream, INT64_MAX);
    memset(&D, 0, sizeof D);
    k->ops = under;
    under->close(k);
}

static msa_rc reserve(msa_kern *k, const msa_kern_shape *max, bool dry_run, int64_t *bytes, msa_err *err)
{
    msa_rc rc = dry_run ? MSA_OK : run_all(&D.stream, err);
    return rc < 0 ? rc : D.under->reserve(k, max, dry_run, bytes, err);
}

static msa_rc alloc(msa_kern *k, int64_t bytes, msa_mem kind, void **out, msa_err *err)
{
    D.n_alloc++;
    if ((D.refuse_above > 0 && bytes > D.refuse_above) || D.n_alloc == D.refuse_at)
        return msa_err_set(err, MSA_FAILED, MSA_E_NOMEM, "the test's device refuses %lld bytes",
                           (long long)bytes);
    msa_rc rc = D.under->alloc(k, bytes, kind, out, err);
    if (rc < 0)
        return rc;
    assert_true(D.n_blocks < MAX_BLOCKS);
    D.blocks[D.n_blocks++] = (block){*out, bytes};
    return MSA_OK;
}

static void free_block(msa_kern *k, void *p, msa_mem kind)
{
    if (D.n_queued > 0 && !D.dead)
        fail_msg("memory is freed with %d operations queued", (int)D.n_queued);
    for (int i = 0; i < D.n_blocks; i++)
        if (D.blocks[i].p == p) {
            memset(p, 0xff, (size_t)D.blocks[i].bytes); /* NaN for whoever reads on */
            D.blocks[i] = D.blocks[--D.n_blocks];
            break;
        }
    D.under->free(k, p, kind);
}

/* Does a copy from or to this memory wait for nobody? */
static bool known(const void *p)
{
    for (int i = 0; i < D.n_blocks; i++)
        if ((const char *)p >= D.blocks[i].p && (const char *)p < D.blocks[i].p + D.blocks[i].bytes)
            return true;
    return false;
}

static msa_rc stream_new(msa_kern *k, msa_kern_stream **out, msa_err *err)
{
    (void)k, (void)err;
    *out = calloc(1, sizeof **out);
    assert_non_null(*out);
    (*out)->end = &(*out)->first;
    int i = 0;
    while (D.streams[i])
        assert_true(++i < MAX_STREAMS);
    D.streams[i] = *out;
    return MSA_OK;
}

static void stream_free(msa_kern *k, msa_kern_stream *st)
{
    (void)k;
    run_until(st, INT64_MAX);
    for (int i = 0; i < MAX_STREAMS; i++)
        if (D.streams[i] == st)
            D.streams[i] = NULL;
    free(st);
}

static msa_rc sync_stream(msa_kern *k, msa_kern_stream *st, msa_err *err)
{
    (void)k;
    return run_all(stream(st), err);
}

static msa_rc event_new(msa_kern *k, msa_kern_event **out, msa_err *err)
{
    (void)k, (void)err;
    *out = calloc(1, sizeof **out);
    assert_non_null(*out);
    return MSA_OK;
}

static void event_free(msa_kern *k, msa_kern_event *e)
{
    (void)k;
    free(e);
}

static msa_rc event_record(msa_kern *k, msa_kern_stream *st, msa_kern_event *e, msa_err *err)
{
    (void)k;
    assert_false(D.recording);
    *e = (msa_kern_event){stream(st), D.ids};
    return D.dead ? gone(err) : MSA_OK;
}

static msa_rc event_wait(msa_kern *k, msa_kern_event *e, msa_err *err)
{
    (void)k;
    assert_false(D.recording);
    return e->st ? wait_for(e->st, e->mark, err) : D.dead ? gone(err) : MSA_OK;
}

/* Its clock ticks once an operation that is queued. */
static msa_rc event_seconds(msa_kern *k, msa_kern_event *from, msa_kern_event *to, double *seconds, msa_err *err)
{
    (void)k, (void)err;
    assert_true(from->st && to->st && from->mark <= to->mark);
    if ((from->st->first && from->st->first->id <= from->mark) || (to->st->first && to->st->first->id <= to->mark))
        fail_msg("time between marks that nobody waited for");
    *seconds = (double)(to->mark - from->mark);
    return MSA_OK;
}

typedef struct wait_node {
    node n;
    msa_kern_event e;
} wait_node;

static msa_rc run_wait(node *n, msa_err *err)
{
    (void)err;
    const wait_node *a = (wait_node *)n;
    run_until(a->e.st, a->e.mark);
    return MSA_OK;
}

static msa_rc stream_wait(msa_kern *k, msa_kern_stream *st, msa_kern_event *e, msa_err *err)
{
    (void)k;
    assert_false(D.recording);
    if (!e->st)
        return MSA_OK;
    wait_node *a = queue(st, sizeof *a, run_wait, err);
    if (!a)
        return MSA_FATAL;
    a->e = *e;
    return MSA_OK;
}

typedef struct copy_node {
    node n;
    void *dst;
    const void *src;
    int64_t bytes;
} copy_node;

static msa_rc run_copy(node *n, msa_err *err)
{
    const copy_node *a = (copy_node *)n;
    return D.under->copy(D.k, NULL, a->dst, a->src, a->bytes, err);
}

static msa_rc copy(msa_kern *k, msa_kern_stream *st, void *dst, const void *src, int64_t bytes, msa_err *err)
{
    (void)k;
    assert_false(D.recording);
    copy_node *a = queue(st, sizeof *a, run_copy, err);
    if (!a)
        return MSA_FATAL;
    a->dst = dst;
    a->src = src;
    a->bytes = bytes;
    return known(dst) && known(src) ? MSA_OK : run_all(stream(st), err);
}

static msa_rc graph_begin(msa_kern *k, msa_kern_stream *st, int64_t key, msa_err *err)
{
    (void)k, (void)st, (void)key;
    assert_false(D.recording);
    D.recording = true;
    D.n_runs++;
    return D.dead ? gone(err) : MSA_OK;
}

static msa_rc graph_end(msa_kern *k, msa_kern_stream *st, msa_err *err)
{
    (void)k, (void)st;
    assert_true(D.recording);
    D.recording = false;
    return D.dead ? gone(err) : MSA_OK;
}

static void graph_clear(msa_kern *k)
{
    (void)k;
    D.recording = false;
}

/* ---- operations -------------------------------------------------------------------------- */

/* OP(name, may stand in a recorded run, parameters, fields, setting them, what is under) */
#define BARE(...) __VA_ARGS__
#define OP(name, in_run, PARAMS, FIELDS, SET, CALL)                          \
    typedef struct name##_node {                                             \
        node n;                                                              \
        BARE FIELDS                                                          \
    } name##_node;                                                           \
    static msa_rc run_##name(node *n, msa_err *err)                          \
    {                                                                        \
        const name##_node *a = (name##_node *)n;                             \
        return D.under->name CALL;                                           \
    }                                                                        \
    static msa_rc name PARAMS                                                \
    {                                                                        \
        (void)k;                                                             \
        assert_true(in_run || !D.recording);                                 \
        name##_node *a = queue(st, sizeof *a, run_##name, err);              \
        if (!a)                                                              \
            return MSA_FATAL;                                                \
        SET return MSA_OK;                                                   \
    }

static void count_rows(const msa_kern_weight *w, int64_t M)
{
    int i = 0;
    while (i < D.n_weights && D.weights[i] != w)
        i++;
    if (i == D.n_weights) {
        assert_true(i < MAX_WEIGHTS);
        D.weights[D.n_weights++] = w;
    }
    D.rows[i] += M;
}

OP(embed, false,
   (msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w, const int32_t *ids, int64_t M, float *x,
    msa_err *err),
   (const msa_kern_weight *w; const int32_t *ids; int64_t M; float *x;),
   a->w = w; a->ids = ids; a->M = M; a->x = x;,
   (D.k, NULL, a->w, a->ids, a->M, a->x, err))

OP(rms_norm, true,
   (msa_kern *k, msa_kern_stream *st, const float *x, const float *gamma, float eps, int64_t M, int64_t E,
    void *out, msa_err *err),
   (const float *x, *gamma; float eps; int64_t M, E; void *out;),
   a->x = x; a->gamma = gamma; a->eps = eps; a->M = M; a->E = E; a->out = out;,
   (D.k, NULL, a->x, a->gamma, a->eps, a->M, a->E, a->out, err))

OP(linear, true,
   (msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w, const void *x, int64_t M, void *out,
    msa_linear_mode mode, msa_err *err),
   (const msa_kern_weight *w; const void *x; int64_t M; void *out; msa_linear_mode mode;),
   a->w = w; a->x = x; a->M = M; a->out = out; a->mode = mode; count_rows(w, M);,
   (D.k, NULL, a->w, a->x, a->M, a->out, a->mode, err))

OP(qk_rope, true,
   (msa_kern *k, msa_kern_stream *st, void *qkv, int64_t M, msa_kern_heads h, const float *q_gamma,
    const float *k_gamma, float eps, const int64_t *pos, double theta, msa_err *err),
   (void *qkv; int64_t M; msa_kern_heads h; const float *q_gamma, *k_gamma; float eps; const int64_t *pos;
   double theta;),
   a->qkv = qkv; a->M = M; a->h = h; a->q_gamma = q_gamma; a->k_gamma = k_gamma; a->eps = eps; a->pos = pos;
   a->theta = theta;,
   (D.k, NULL, a->qkv, a->M, a->h, a->q_gamma, a->k_gamma, a->eps, a->pos, a->theta, err))

OP(attn_packed, false,
   (msa_kern *k, msa_kern_stream *st, const void *qkv, int64_t M, msa_kern_heads h, const int64_t *seq_start,
    int64_t S, void *out, msa_err *err),
   (const void *qkv; int64_t M; msa_kern_heads h; const int64_t *seq_start; int64_t S; void *out;),
   a->qkv = qkv; a->M = M; a->h = h; a->seq_start = own(&a->n, seq_start, S + 1, sizeof *seq_start); a->S = S;
   a->out = out;,
   (D.k, NULL, a->qkv, a->M, a->h, a->seq_start, a->S, a->out, err))

OP(attn_memory, true,
   (msa_kern *k, msa_kern_stream *st, const void *q, int64_t q_stride, msa_kern_heads h, int64_t B,
    const int64_t *row_start, const msa_kern_seg *segs, const int64_t *seg_start, const msa_kern_cache *caches,
    void *out, msa_err *err),
   (const void *q; int64_t q_stride; msa_kern_heads h; int64_t B; const int64_t *row_start;
   const msa_kern_seg *segs; const int64_t *seg_start; const msa_kern_cache *caches; void *out;),
   a->q = q; a->q_stride = q_stride; a->h = h; a->B = B; a->out = out;
   a->row_start = own(&a->n, row_start, B + 1, sizeof *row_start);
   a->segs = own(&a->n, segs, seg_start[B], sizeof *segs);
   a->seg_start = own(&a->n, seg_start, B + 1, sizeof *seg_start);
   a->caches = own(&a->n, caches, B, sizeof *caches);,
   (D.k, NULL, a->q, a->q_stride, a->h, a->B, a->row_start, a->segs, a->seg_start, a->caches, a->out, err))

OP(cache_store, true,
   (msa_kern *k, msa_kern_stream *st, const void *qkv, msa_kern_heads h, int64_t B, const int64_t *row_start,
    void *const *ck, void *const *cv, const int64_t *at, msa_err *err),
   (const void *qkv; msa_kern_heads h; int64_t B; const int64_t *row_start; void *const *ck; void *const *cv;
   const int64_t *at;),
   a->qkv = qkv; a->h = h; a->B = B; a->row_start = own(&a->n, row_start, B + 1, sizeof *row_start);
   a->ck = own(&a->n, ck, B, sizeof *ck); a->cv = own(&a->n, cv, B, sizeof *cv);
   a->at = own(&a->n, at, B, sizeof *at);,
   (D.k, NULL, a->qkv, a->h, a->B, a->row_start, a->ck, a->cv, a->at, err))

OP(swiglu, true,
   (msa_kern *k, msa_kern_stream *st, const void *gu, int64_t M, int64_t I, void *out, msa_err *err),
   (const void *gu; int64_t M, I; void *out;),
   a->gu = gu; a->M = M; a->I = I; a->out = out;,
   (D.k, NULL, a->gu, a->M, a->I, a->out, err))

OP(gather, true,
   (msa_kern *k, msa_kern_stream *st, const float *x, int64_t E, const int64_t *idx, int64_t R, float *out,
    msa_err *err),
   (const float *x; int64_t E; const int64_t *idx; int64_t R; float *out;),
   a->x = x; a->E = E; a->idx = own(&a->n, idx, R, sizeof *idx); a->R = R; a->out = out;,
   (D.k, NULL, a->x, a->E, a->idx, a->R, a->out, err))

OP(pool, false,
   (msa_kern *k, msa_kern_stream *st, const void *x, bool x_f32, int64_t stride, int64_t col, int64_t W,
    const msa_kern_chunk *chunks, int64_t C, float *out, msa_err *err),
   (const void *x; bool x_f32; int64_t stride, col, W; const msa_kern_chunk *chunks; int64_t C; float *out;),
   a->x = x; a->x_f32 = x_f32; a->stride = stride; a->col = col; a->W = W;
   a->chunks = own(&a->n, chunks, C, sizeof *chunks); a->C = C; a->out = out;,
   (D.k, NULL, a->x, a->x_f32, a->stride, a->col, a->W, a->chunks, a->C, a->out, err))

OP(unit_heads, false,
   (msa_kern *k, msa_kern_stream *st, float *x, int64_t R, int64_t heads, int64_t D_, msa_err *err),
   (float *x; int64_t R, heads, D_;),
   a->x = x; a->R = R; a->heads = heads; a->D_ = D_;,
   (D.k, NULL, a->x, a->R, a->heads, a->D_, err))

OP(convert, false,
   (msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from, int64_t src_stride, void *dst,
    msa_dtype to, int64_t dst_stride, int64_t n_, int64_t R, msa_err *err),
   (const void *src; msa_dtype from, to; int64_t src_stride, dst_stride, n_, R; void *dst;),
   a->src = src; a->from = from; a->src_stride = src_stride; a->dst = dst; a->to = to;
   a->dst_stride = dst_stride; a->n_ = n_; a->R = R;,
   (D.k, NULL, a->src, a->from, a->src_stride, a->dst, a->to, a->dst_stride, a->n_, a->R, err))

OP(router_query, false,
   (msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const void *rq, bool rq_f32, int64_t stride,
    int64_t T, float *out, msa_err *err),
   (msa_kern_route r; const void *rq; bool rq_f32; int64_t stride, T; float *out;),
   a->r = *r; a->rq = rq; a->rq_f32 = rq_f32; a->stride = stride; a->T = T; a->out = out;,
   (D.k, NULL, &a->r, a->rq, a->rq_f32, a->stride, a->T, a->out, err))

OP(quantize, false,
   (msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from, int64_t src_stride, int64_t n_,
    int64_t D_, int64_t R, int8_t *dst, int64_t dst_stride, void *scale, msa_dtype scale_type,
    int64_t scale_stride, msa_err *err),
   (const void *src; msa_dtype from, scale_type; int64_t src_stride, n_, D_, R, dst_stride, scale_stride;
   int8_t *dst; void *scale;),
   a->src = src; a->from = from; a->src_stride = src_stride; a->n_ = n_; a->D_ = D_; a->R = R; a->dst = dst;
   a->dst_stride = dst_stride; a->scale = scale; a->scale_type = scale_type; a->scale_stride = scale_stride;,
   (D.k, NULL, a->src, a->from, a->src_stride, a->n_, a->D_, a->R, a->dst, a->dst_stride, a->scale,
    a->scale_type, a->scale_stride, err))

OP(scan, false,
   (msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q, const int64_t *q_start,
    int64_t B, const void *rk, msa_dtype rk_dtype, const float *scale, int64_t stride, int64_t C, float *out,
    msa_err *err),
   (msa_kern_route r; const float *q; const int64_t *q_start; int64_t B; const void *rk; msa_dtype rk_dtype;
   const float *scale; int64_t stride, C; float *out;),
   a->r = *r; a->q = q; a->q_start = own(&a->n, q_start, B + 1, sizeof *q_start); a->B = B; a->rk = rk;
   a->rk_dtype = rk_dtype; a->scale = scale; a->stride = stride; a->C = C; a->out = out;,
   (D.k, NULL, &a->r, a->q, a->q_start, a->B, a->rk, a->rk_dtype, a->scale, a->stride, a->C, a->out, err))

OP(score_docs, false,
   (msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q, const int64_t *q_start,
    int64_t B, const msa_kern_doc_rows *items, int64_t n_, msa_dtype rk_dtype, int64_t stride, float weight,
    bool add, float *out, msa_err *err),
   (msa_kern_route r; const float *q; const int64_t *q_start; int64_t B; const msa_kern_doc_rows *items;
   int64_t n_; msa_dtype rk_dtype; int64_t stride; float weight; bool add; float *out;),
   a->r = *r; a->q = q; a->q_start = own(&a->n, q_start, B + 1, sizeof *q_start); a->B = B;
   a->items = own(&a->n, items, n_, sizeof *items); a->n_ = n_; a->rk_dtype = rk_dtype; a->stride = stride;
   a->weight = weight; a->add = add; a->out = out;,
   (D.k, NULL, &a->r, a->q, a->q_start, a->B, a->items, a->n_, a->rk_dtype, a->stride, a->weight, a->add,
    a->out, err))

OP(doc_scores, false,
   (msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *chunk_scores, int64_t B, int64_t C,
    const int64_t *doc_chunk, int64_t N, float weight, bool add, float *out, msa_err *err),
   (msa_kern_route r; const float *chunk_scores; int64_t B, C; const int64_t *doc_chunk; int64_t N;
   float weight; bool add; float *out;),
   a->r = *r; a->chunk_scores = chunk_scores; a->B = B; a->C = C; a->doc_chunk = doc_chunk; a->N = N;
   a->weight = weight; a->add = add; a->out = out;,
   (D.k, NULL, &a->r, a->chunk_scores, a->B, a->C, a->doc_chunk, a->N, a->weight, a->add, a->out, err))

OP(topk_merge, false,
   (msa_kern *k, msa_kern_stream *st, const float *scores, int64_t B, int64_t N, const int64_t *ids,
    const uint8_t *alive, int64_t K, msa_kern_best *best, msa_err *err),
   (const float *scores; int64_t B, N; const int64_t *ids; const uint8_t *alive; int64_t K;
   msa_kern_best *best;),
   a->scores = scores; a->B = B; a->N = N; a->ids = ids; a->alive = alive; a->K = K; a->best = best;,
   (D.k, NULL, a->scores, a->B, a->N, a->ids, a->alive, a->K, a->best, err))

OP(topk_init, false,
   (msa_kern *k, msa_kern_stream *st, int64_t B, int64_t K, msa_kern_best *best, msa_err *err),
   (int64_t B, K; msa_kern_best *best;),
   a->B = B; a->K = K; a->best = best;,
   (D.k, NULL, a->B, a->K, a->best, err))

/* Waits, as kernels.h has it. */
static msa_rc sample_tokens(msa_kern *k, msa_kern_stream *st, const float *logits, int64_t B, int64_t V,
                            const msa_kern_sample *params, int32_t *out, msa_err *err)
{
    assert_false(D.recording);
    msa_rc rc = run_all(stream(st), err);
    return rc < 0 ? rc : D.under->sample_tokens(k, NULL, logits, B, V, params, out, err);
}

/* ---- for tests ------------------------------------------------------------------------------ */

void msa_test_device_begin(msa_kern *k)
{
    assert_null(D.k);
    D.k = k;
    D.under = k->ops;
    D.fault_at = -1;
    D.stream.end = &D.stream.first;
    D.ops = *k->ops; /* weights are taken at once, as kernels.h has it */
    D.ops.close = close_device;
    D.ops.reserve = reserve;
    D.ops.alloc = alloc;
    D.ops.free = free_block;
    D.ops.stream_new = stream_new;
    D.ops.stream_free = stream_free;
    D.ops.sync = sync_stream;
    D.ops.copy = copy;
    D.ops.event_new = event_new;
    D.ops.event_free = event_free;
    D.ops.event_record = event_record;
    D.ops.event_wait = event_wait;
    D.ops.stream_wait = stream_wait;
    D.ops.event_seconds = event_seconds;
    D.ops.graph_begin = graph_begin;
    D.ops.graph_end = graph_end;
    D.ops.graph_clear = graph_clear;
#define TAKE(name) D.ops.name = name;
    TAKE(embed) TAKE(rms_norm) TAKE(linear) TAKE(qk_rope) TAKE(attn_packed) TAKE(attn_memory)
    TAKE(cache_store) TAKE(swiglu) TAKE(gather) TAKE(pool) TAKE(unit_heads) TAKE(convert)
    TAKE(router_query) TAKE(quantize) TAKE(scan) TAKE(score_docs) TAKE(doc_scores) TAKE(topk_merge)
    TAKE(topk_init) TAKE(sample_tokens)
    k->ops = &D.ops;
    k->info.host_memory = false;
}

void msa_test_device_others_first(bool yes)
{
    D.others_first = yes;
}

void msa_test_device_fault_after(int64_t n)
{
    D.fault_at = n < 0 ? -1 : D.n_run + n;
}

void msa_test_device_refuse_above(int64_t bytes)
{
    D.refuse_above = bytes;
}

void msa_test_device_refuse(int64_t n)
{
    D.refuse_at = n > 0 ? D.n_alloc + n : 0;
}

int64_t msa_test_device_allocs(void)
{
    return D.n_alloc;
}

int64_t msa_test_device_ops(void)
{
    return D.n_run;
}

int64_t msa_test_device_rows(const msa_kern_weight *w)
{
    for (int i = 0; i < D.n_weights; i++)
        if (D.weights[i] == w)
            return D.rows[i];
    return 0;
}

int64_t msa_test_device_queued(void)
{
    return D.most_queued;
}

int64_t msa_test_device_runs(void)
{
    return D.n_runs;
}
