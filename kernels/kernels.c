/* The public operations: every argument is checked here, once for all backends,
 * and then handed on. */
#include "kernels/kernels_internal.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "base/mem.h"

static const msa_kern_backend backends[] = {
#ifdef MSA_CUDA
    {"cuda", msa_cuda_open},
#endif
    {"cpu", msa_cpu_open},
    {"ref", msa_ref_open},
};
#define N_BACKENDS ((int)(sizeof backends / sizeof *backends))

/* ---- checks ----------------------------------------------------------------- */

static msa_rc refuse(msa_err *err, const char *op, const char *what)
{
    return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "%s: %s", op, what);
}
#define REFUSE(cond, what)                        \
    do {                                          \
        if (cond)                                 \
            return refuse(err, __func__, (what)); \
    } while (0)
#define REFUSE_NULL(p) REFUSE(!(p), "a null pointer: " #p)
#define REFUSE_BEYOND(n, field) REFUSE((n) > k->cap.field, #n " exceeds the reserved " #field)

/* Does a tensor of these dimensions (a negative number ends the list) have a
 * byte size? Eight bytes is the largest element. */
static bool fits(int64_t first, ...)
{
    int64_t n = 8, d = first;
    va_list ap;
    va_start(ap, first);
    bool ok = msa_mul(n, d, &n);
    while (ok && (d = va_arg(ap, int64_t)) >= 0)
        ok = msa_mul(n, d, &n);
    va_end(ap);
    return ok;
}
#define FITS(...) fits(__VA_ARGS__, (int64_t)-1)

static bool heads_ok(msa_kern_heads h)
{
    return h.H > 0 && h.G > 0 && h.D > 0 && h.H % h.G == 0 && FITS(h.H, (int64_t)3, h.D);
}

static bool heads_reserved(const msa_kern *k, msa_kern_heads h)
{
    return h.H <= k->cap.H && h.G <= k->cap.G && h.D <= k->cap.D;
}

static bool rising(const int64_t *start, int64_t n)
{
    if (start[0] < 0)
        return false;
    for (int64_t i = 0; i < n; i++)
        if (start[i + 1] < start[i])
            return false;
    return true;
}

static bool storage_type(msa_dtype t)
{
    return t == MSA_F32 || t == MSA_BF16;
}

static bool reduce_ok(msa_reduce r)
{
    return r == MSA_REDUCE_MEAN || r == MSA_REDUCE_MAX || r == MSA_REDUCE_LAST;
}

static bool route_ok(const msa_kern_route *r)
{
    return heads_ok(r->h) && isfinite(r->scale) && reduce_ok(r->query) &&
           (r->head == MSA_REDUCE_MEAN || r->head == MSA_REDUCE_MAX) &&
           (r->chunk == MSA_REDUCE_MEAN || r->chunk == MSA_REDUCE_MAX);
}

/* ---- the backend -------------------------------------------------------------- */

int64_t msa_dtype_bytes(msa_dtype t)
{
    switch (t) {
    case MSA_F32: return 4;
    case MSA_BF16:
    case MSA_F16: return 2;
    case MSA_I8: return 1;
    }
    return 0;
}

const char *msa_dtype_name(msa_dtype t)
{
    switch (t) {
    case MSA_F32: return "f32";
    case MSA_BF16: return "bf16";
    case MSA_F16: return "f16";
    case MSA_I8: return "i8";
    }
    return "unknown";
}

const char *const *msa_kern_names(void)
{
#ifdef MSA_CUDA
    /* every device has a name; without one, "cuda:0" says why when it is opened */
    static const char *const all[] = {"cpu",    "ref",    "cuda:0", "cuda:1", "cuda:2", "cuda:3",
                                      "cuda:4", "cuda:5", "cuda:6", "cuda:7", NULL};
    static const char *names[sizeof all / sizeof *all];
    enum { MAX_DEVICES = 8 };
    int n = msa_cuda_count();
    n = n < 1 ? 1 : n > MAX_DEVICES ? MAX_DEVICES : n;
    memcpy(names, all, (size_t)(2 + n) * sizeof *all);
    names[2 + n] = NULL;
#else
    static const char *const names[] = {"cpu", "ref", NULL};
#endif
    return names;
}

static msa_rc open_named(const char *name, const msa_kern_opts *o, msa_kern **out, msa_err *err)
{
    if (strcmp(name, "auto") == 0) {
        /* the first is the best; the one behind it always works */
        msa_err why;
        msa_err_init(&why);
        msa_rc rc = backends[0].open(backends[0].name, o, out, &why);
        if (rc == MSA_OK || why.code != MSA_E_UNAVAILABLE)
            return rc == MSA_OK ? rc : msa_err_set(err, rc, why.code, "%s", why.msg);
        return backends[1].open(backends[1].name, o, out, err);
    }
    size_t stem = strcspn(name, ":");
    for (int i = 0; i < N_BACKENDS; i++)
        if (strlen(backends[i].name) == stem && strncmp(name, backends[i].name, stem) == 0)
            return backends[i].open(name, o, out, err);
    return msa_err_set(err, MSA_FAILED, MSA_E_UNAVAILABLE, "backend \"%s\" is not built in", name);
}

msa_rc msa_kern_open(const char *name, const msa_kern_opts *opts, msa_kern **out, msa_err *err)
{
    REFUSE_NULL(name);
    REFUSE_NULL(out);
    msa_kern_opts o = opts ? *opts : (msa_kern_opts){.act = MSA_F32};
    int64_t total;
    *out = NULL;
    REFUSE(!storage_type(o.act), "the activation type must be f32 or bf16");
    REFUSE(o.n_threads < 0, "a negative number of threads");
    REFUSE(o.memory_bytes < 0, "a negative amount of memory");
    msa_rc rc = open_named(name, &o, out, err);
    if (rc == MSA_OK) {
        (*out)->memory_bytes = o.memory_bytes;
        (*out)->ops->mem_info(*out, &total, &(*out)->free_at_open);
    }
    return rc;
}

void msa_kern_close(msa_kern *k)
{
    if (k)
        k->ops->close(k);
}

void msa_kern_info_get(const msa_kern *k, msa_kern_info *out)
{
    *out = k->info;
    k->ops->mem_info(k, &out->mem_total_bytes, &out->mem_free_bytes);
    if (k->memory_bytes > 0) {
        const int64_t used = k->free_at_open > out->mem_free_bytes ? k->free_at_open - out->mem_free_bytes : 0;
        const int64_t left = k->memory_bytes > used ? k->memory_bytes - used : 0;
        out->mem_total_bytes = out->mem_total_bytes < k->memory_bytes ? out->mem_total_bytes : k->memory_bytes;
        out->mem_free_bytes = out->mem_free_bytes < left ? out->mem_free_bytes : left;
    }
}

msa_rc msa_kern_reserve(msa_kern *k, const msa_kern_shape *max, bool dry_run, int64_t *bytes,
                        msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE_NULL(max);
    /* the struct is int64_t fields only; the greater of old and new counts */
    enum { FIELDS = sizeof(msa_kern_shape) / sizeof(int64_t) };
    int64_t want[FIELDS], have[FIELDS];
    memcpy(want, max, sizeof want);
    memcpy(have, &k->cap, sizeof have);
    for (int i = 0; i < FIELDS; i++) {
        REFUSE(want[i] < 0, "a negative shape");
        if (want[i] < have[i])
            want[i] = have[i];
    }
    msa_kern_shape cap;
    memcpy(&cap, want, sizeof cap);
    int64_t need = 0;
    msa_rc rc = k->ops->reserve(k, &cap, dry_run, &need, err);
    if (rc < 0)
        return rc;
    if (!dry_run)
        k->cap = cap;
    if (bytes)
        *bytes = need;
    return MSA_OK;
}

msa_rc msa_kern_alloc(msa_kern *k, int64_t bytes, msa_mem kind, void **out, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE_NULL(out);
    REFUSE(bytes < 0, "a negative size");
    *out = NULL;
    return k->ops->alloc(k, bytes, kind, out, err);
}

void msa_kern_free(msa_kern *k, void *p, msa_mem kind)
{
    if (k && p)
        k->ops->free(k, p, kind);
}

msa_rc msa_kern_stream_new(msa_kern *k, msa_kern_stream **out, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE_NULL(out);
    *out = NULL;
    return k->ops->stream_new(k, out, err);
}

void msa_kern_stream_free(msa_kern *k, msa_kern_stream *st)
{
    if (k && st)
        k->ops->stream_free(k, st);
}

msa_rc msa_kern_sync(msa_kern *k, msa_kern_stream *st, msa_err *err)
{
    REFUSE_NULL(k);
    return k->ops->sync(k, st, err);
}

msa_rc msa_kern_copy(msa_kern *k, msa_kern_stream *st, void *dst, const void *src, int64_t bytes,
                     msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE(bytes < 0, "a negative size");
    if (bytes == 0)
        return MSA_OK;
    REFUSE_NULL(dst);
    REFUSE_NULL(src);
    return k->ops->copy(k, st, dst, src, bytes, err);
}

msa_rc msa_kern_event_new(msa_kern *k, msa_kern_event **out, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE_NULL(out);
    *out = NULL;
    return k->ops->event_new ? k->ops->event_new(k, out, err) : MSA_OK;
}

void msa_kern_event_free(msa_kern *k, msa_kern_event *e)
{
    if (k && e)
        k->ops->event_free(k, e);
}

msa_rc msa_kern_event_record(msa_kern *k, msa_kern_stream *st, msa_kern_event *e, msa_err *err)
{
    REFUSE_NULL(k);
    if (!k->ops->event_new)
        return k->ops->sync(k, st, err);
    REFUSE_NULL(e);
    return k->ops->event_record(k, st, e, err);
}

msa_rc msa_kern_event_wait(msa_kern *k, msa_kern_event *e, msa_err *err)
{
    REFUSE_NULL(k);
    return e ? k->ops->event_wait(k, e, err) : MSA_OK;
}

msa_rc msa_kern_stream_wait(msa_kern *k, msa_kern_stream *st, msa_kern_event *e, msa_err *err)
{
    REFUSE_NULL(k);
    return e ? k->ops->stream_wait(k, st, e, err) : MSA_OK;
}

msa_rc msa_kern_event_seconds(msa_kern *k, msa_kern_event *from, msa_kern_event *to, double *seconds,
                              msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE_NULL(seconds);
    *seconds = 0;
    return from && to ? k->ops->event_seconds(k, from, to, seconds, err) : MSA_OK;
}

msa_rc msa_kern_graph_begin(msa_kern *k, msa_kern_stream *st, int64_t key, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE(key <= 0, "a key out of range");
    return k->ops->graph_begin ? k->ops->graph_begin(k, st, key, err) : MSA_OK;
}

msa_rc msa_kern_graph_end(msa_kern *k, msa_kern_stream *st, msa_err *err)
{
    REFUSE_NULL(k);
    return k->ops->graph_end ? k->ops->graph_end(k, st, err) : MSA_OK;
}

void msa_kern_graph_clear(msa_kern *k)
{
    if (k && k->ops->graph_clear)
        k->ops->graph_clear(k);
}

/* ---- weights -------------------------------------------------------------------- */

msa_rc msa_kern_weight_new(msa_kern *k, const void *data, msa_dtype from, int64_t N, int64_t K,
                           msa_kern_weight **out, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE_NULL(data);
    REFUSE_NULL(out);
    *out = NULL;
    REFUSE(!storage_type(from) && from != MSA_F16, "weights come as f32, bf16 or f16");
    /* backends pad both sides to tiles; a margin keeps that from overflowing */
    REFUSE(N <= 0 || K <= 0 || !FITS(N, K, (int64_t)256), "a shape out of range");
    return k->ops->weight_new(k, data, from, N, K, out, err);
}

void msa_kern_weight_free(msa_kern *k, msa_kern_weight *w)
{
    if (k && w)
        k->ops->weight_free(k, w);
}

int64_t msa_kern_weight_bytes(const msa_kern_weight *w)
{
    return w ? w->bytes : 0;
}

/* ---- the decoder ------------------------------------------------------------------ */

msa_rc msa_kern_embed(msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w,
                      const int32_t *ids, int64_t M, float *x, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE_NULL(w);
    REFUSE(w->owner != k, "the weight belongs to another backend");
    REFUSE(M < 0 || !FITS(M, w->K), "a shape out of range");
    REFUSE_BEYOND(M, rows);
    if (M == 0)
        return MSA_OK;
    REFUSE_NULL(ids);
    REFUSE_NULL(x);
    return k->ops->embed(k, st, w, ids, M, x, err);
}

msa_rc msa_kern_rms_norm(msa_kern *k, msa_kern_stream *st, const float *x, const float *gamma,
                         float eps, int64_t M, int64_t E, void *out, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE(M < 0 || E <= 0 || !FITS(M, E), "a shape out of range");
    REFUSE(!(eps >= 0), "eps must not be negative");
    REFUSE_BEYOND(M, rows);
    if (M == 0)
        return MSA_OK;
    REFUSE_NULL(x);
    REFUSE_NULL(gamma);
    REFUSE_NULL(out);
    return k->ops->rms_norm(k, st, x, gamma, eps, M, E, out, err);
}

msa_rc msa_kern_linear(msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w, const void *x,
                       int64_t M, void *out, msa_linear_mode mode, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE_NULL(w);
    REFUSE(w->owner != k, "the weight belongs to another backend");
    REFUSE(M < 0 || !FITS(M, w->K) || !FITS(M, w->N), "a shape out of range");
    REFUSE(mode != MSA_LINEAR_ACT && mode != MSA_LINEAR_F32 && mode != MSA_LINEAR_ADD,
           "an unknown mode");
    REFUSE_BEYOND(M, rows);
    if (M == 0)
        return MSA_OK;
    REFUSE_NULL(x);
    REFUSE_NULL(out);
    return k->ops->linear(k, st, w, x, M, out, mode, err);
}

/* What is wrong with arguments of qk_rope, and below of cache_store, for one operation or
 * both; refusals name what was refused, which is enough for what only a bug can show. */
static msa_rc msa_kern_qk_rope_args(const msa_kern *k, const void *qkv, int64_t M, msa_kern_heads h,
                                    const float *q_gamma, const float *k_gamma, float eps,
                                    const int64_t *pos, double theta, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE(!heads_ok(h) || h.D % 2 || M < 0 || !FITS(M, h.H, (int64_t)3, h.D),
           "a shape out of range");
    REFUSE(!heads_reserved(k, h), "heads exceed the reservation");
    REFUSE(!q_gamma != !k_gamma, "one gamma without the other");
    REFUSE(!(eps >= 0), "eps must not be negative");
    REFUSE(!(theta > 0) || !isfinite(theta), "theta must be positive");
    REFUSE_BEYOND(M, rows);
    if (M == 0)
        return MSA_OK;
    REFUSE_NULL(qkv);
    REFUSE_NULL(pos);
    return MSA_OK;
}

msa_rc msa_kern_qk_rope(msa_kern *k, msa_kern_stream *st, void *qkv, int64_t M, msa_kern_heads h,
                        const float *q_gamma, const float *k_gamma, float eps, const int64_t *pos,
                        double theta, msa_err *err)
{
    msa_rc rc = msa_kern_qk_rope_args(k, qkv, M, h, q_gamma, k_gamma, eps, pos, theta, err);
    if (rc < 0 || M == 0)
        return rc;
    return k->ops->qk_rope(k, st, qkv, M, h, q_gamma, k_gamma, eps, pos, theta, err);
}

msa_rc msa_kern_attn_packed(msa_kern *k, msa_kern_stream *st, const void *qkv, int64_t M,
                            msa_kern_heads h, const int64_t *seq_start, int64_t S, void *out,
                            msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE(!heads_ok(h) || M < 0 || S < 0 || !FITS(M, h.H, (int64_t)3, h.D),
           "a shape out of range");
    REFUSE(!heads_reserved(k, h), "heads exceed the reservation");
    REFUSE_BEYOND(M, rows);
    if (M == 0 || S == 0)
        return MSA_OK;
    REFUSE_NULL(qkv);
    REFUSE_NULL(seq_start);
    REFUSE_NULL(out);
    REFUSE(!rising(seq_start, S) || seq_start[S] > M, "sequence borders out of order");
    for (int64_t s = 0; s < S; s++)
        REFUSE(seq_start[s + 1] - seq_start[s] > k->cap.max_seq,
               "a sequence exceeds the reserved max_seq");
    return k->ops->attn_packed(k, st, qkv, M, h, seq_start, S, out, err);
}

/* Keys of sequence b of attn_memory, or -1 when its description is no good. */
static int64_t memory_keys(const msa_kern_seg *segs, int64_t first, int64_t end,
                           const msa_kern_cache *c, int64_t rows, msa_kern_heads h)
{
    int64_t keys = c->len, width = h.G * h.D;
    if (c->len < rows || (rows > 0 && (!c->k || !c->v)))
        return -1;
    for (int64_t i = first; i < end; i++) {
        const msa_kern_seg *s = &segs[i];
        if (s->n_rows == 0)
            continue;
        const bool i8 = s->dtype == MSA_I8;
        if (s->n_rows < 0 || s->stride < width || !s->k || !s->v || (!i8 && !storage_type(s->dtype)) ||
            (i8 && (!s->k_scale || !s->v_scale || s->scale_stride < h.G)) ||
            !FITS(s->n_rows, s->stride) || !msa_add(keys, s->n_rows, &keys))
            return -1;
    }
    return FITS(keys, width) ? keys : -1;
}

msa_rc msa_kern_attn_memory(msa_kern *k, msa_kern_stream *st, const void *q, int64_t q_stride,
                            msa_kern_heads h, int64_t B, const int64_t *row_start,
                            const msa_kern_seg *segs, const int64_t *seg_start,
                            const msa_kern_cache *caches, void *out, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE(!heads_ok(h) || B < 0 || q_stride < h.H * h.D, "a shape out of range");
    REFUSE(!heads_reserved(k, h), "heads exceed the reservation");
    if (B == 0)
        return MSA_OK;
    REFUSE_NULL(row_start);
    REFUSE_NULL(seg_start);
    REFUSE_NULL(caches);
    REFUSE(!rising(row_start, B), "row borders out of order");
    REFUSE(!rising(seg_start, B), "segment borders out of order");
    int64_t M = row_start[B];
    REFUSE(!FITS(M, q_stride), "a shape out of range");
    REFUSE_BEYOND(M, rows);
    REFUSE(!segs && seg_start[B] > 0, "a null pointer: segs");
    for (int64_t b = 0; b < B; b++) {
        int64_t rows = row_start[b + 1] - row_start[b];
        int64_t keys = memory_keys(segs, seg_start[b], seg_start[b + 1], &caches[b], rows, h);
        REFUSE(keys < 0, "a bad segment or cache");
        REFUSE(rows > 0 && keys > k->cap.max_seq, "the keys exceed the reserved max_seq");
    }
    if (M == 0)
        return MSA_OK;
    REFUSE_NULL(q);
    REFUSE_NULL(out);
    return k->ops->attn_memory(k, st, q, q_stride, h, B, row_start, segs, seg_start, caches, out,
                               err);
}

static msa_rc msa_kern_cache_store_args(const msa_kern *k, const void *qkv, msa_kern_heads h,
                                        int64_t B, const int64_t *row_start, void *const *ck,
                                        void *const *cv, const int64_t *at, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE(!heads_ok(h) || B < 0, "a shape out of range");
    REFUSE(!heads_reserved(k, h), "heads exceed the reservation");
    if (B == 0)
        return MSA_OK;
    REFUSE_NULL(row_start);
    REFUSE_NULL(ck);
    REFUSE_NULL(cv);
    REFUSE_NULL(at);
    REFUSE(!rising(row_start, B) || !FITS(row_start[B], h.H, (int64_t)3, h.D),
           "row borders out of order");
    REFUSE_BEYOND(row_start[B], rows);
    if (row_start[B] == 0)
        return MSA_OK;
    REFUSE_NULL(qkv);
    for (int64_t b = 0; b < B; b++) {
        int64_t rows = row_start[b + 1] - row_start[b], end;
        if (rows == 0)
            continue;
        REFUSE(!ck[b] || !cv[b], "a null pointer: cache");
        REFUSE(!msa_add(at[b], rows, &end) || !FITS(end, h.G, h.D), "a place out of range");
    }
    return MSA_OK;
}

msa_rc msa_kern_cache_store(msa_kern *k, msa_kern_stream *st, const void *qkv, msa_kern_heads h,
                            int64_t B, const int64_t *row_start, void *const *ck, void *const *cv,
                            const int64_t *at, msa_err *err)
{
    msa_rc rc = msa_kern_cache_store_args(k, qkv, h, B, row_start, ck, cv, at, err);
    if (rc < 0 || B == 0 || row_start[B] == 0)
        return rc;
    return k->ops->cache_store(k, st, qkv, h, B, row_start, ck, cv, at, err);
}

static msa_rc rope_store(msa_kern *k, msa_kern_stream *st, void *qkv, msa_kern_heads h,
                         const float *q_gamma, const float *k_gamma, float eps, const int64_t *pos,
                         double theta, int64_t B, const int64_t *row_start, void *const *ck,
                         void *const *cv, const int64_t *at, msa_err *err)
{
    if (k->ops->qk_rope_store)
        return k->ops->qk_rope_store(k, st, qkv, h, q_gamma, k_gamma, eps, pos, theta, B, row_start, ck,
                                     cv, at, err);
    const int64_t first = row_start[0], width = (h.H + 2 * h.G) * h.D;
    msa_rc rc = k->ops->qk_rope(k, st, (char *)qkv + first * width * msa_dtype_bytes(k->info.act),
                                row_start[B] - first, h, q_gamma, k_gamma, eps, pos + first, theta, err);
    return rc < 0 ? rc : k->ops->cache_store(k, st, qkv, h, B, row_start, ck, cv, at, err);
}

msa_rc msa_kern_qk_rope_store(msa_kern *k, msa_kern_stream *st, void *qkv, msa_kern_heads h,
                              const float *q_gamma, const float *k_gamma, float eps,
                              const int64_t *pos, double theta, int64_t B, const int64_t *row_start,
                              void *const *ck, void *const *cv, const int64_t *at, msa_err *err)
{
    msa_rc rc = msa_kern_cache_store_args(k, qkv, h, B, row_start, ck, cv, at, err);
    if (rc < 0 || B == 0)
        return rc;
    rc = msa_kern_qk_rope_args(k, qkv, row_start[B], h, q_gamma, k_gamma, eps, pos, theta, err);
    if (rc < 0 || row_start[B] == row_start[0])
        return rc;
    return rope_store(k, st, qkv, h, q_gamma, k_gamma, eps, pos, theta, B, row_start, ck, cv, at, err);
}

msa_rc msa_kern_qk_rope_attn_parts(msa_kern *k, msa_kern_stream *st, void *qkv, msa_kern_heads h,
                                   const float *q_gamma, const float *k_gamma, float eps,
                                   const int64_t *pos, double theta, int64_t B, const int64_t *row_start,
                                   const msa_kern_seg *segs, const int64_t *seg_start, void *const *ck,
                                   void *const *cv, const int64_t *at, void *out, msa_err *err)
{
    enum { AT_ONCE = 64 };
    msa_kern_cache caches[AT_ONCE];
    msa_rc rc = rope_store(k, st, qkv, h, q_gamma, k_gamma, eps, pos, theta, B, row_start, ck, cv, at, err);
    for (int64_t b = 0, n; rc == MSA_OK && b < B; b += n) {
        n = B - b < AT_ONCE ? B - b : AT_ONCE;
        for (int64_t i = 0; i < n; i++) {
            const int64_t rows = row_start[b + i + 1] - row_start[b + i];
            caches[i] = rows ? (msa_kern_cache){ck[b + i], cv[b + i], at[b + i] + rows} : (msa_kern_cache){0};
        }
        if (row_start[b + n] > row_start[b])
            rc = k->ops->attn_memory(k, st, qkv, (h.H + 2 * h.G) * h.D, h, n, row_start + b, segs,
                                     seg_start + b, caches, out, err);
    }
    return rc;
}

msa_rc msa_kern_qk_rope_attn(msa_kern *k, msa_kern_stream *st, void *qkv, msa_kern_heads h,
                             const float *q_gamma, const float *k_gamma, float eps,
                             const int64_t *pos, double theta, int64_t B, const int64_t *row_start,
                             const msa_kern_seg *segs, const int64_t *seg_start, void *const *ck,
                             void *const *cv, const int64_t *at, void *out, msa_err *err)
{
    msa_rc rc = msa_kern_cache_store_args(k, qkv, h, B, row_start, ck, cv, at, err);
    if (rc < 0 || B == 0)
        return rc;
    rc = msa_kern_qk_rope_args(k, qkv, row_start[B], h, q_gamma, k_gamma, eps, pos, theta, err);
    if (rc < 0 || row_start[B] == row_start[0])
        return rc;
    REFUSE_NULL(seg_start);
    REFUSE_NULL(out);
    REFUSE(!rising(seg_start, B), "segment borders out of order");
    REFUSE(!segs && seg_start[B] > 0, "a null pointer: segs");
    for (int64_t b = 0; b < B; b++) {
        const int64_t rows = row_start[b + 1] - row_start[b];
        const msa_kern_cache c = {ck[b], cv[b], rows ? at[b] + rows : 0};
        const int64_t keys = memory_keys(segs, seg_start[b], seg_start[b + 1], &c, rows, h);
        REFUSE(keys < 0, "a bad segment or cache");
        REFUSE(rows > 0 && keys > k->cap.max_seq, "the keys exceed the reserved max_seq");
    }
    return (k->ops->qk_rope_attn ? k->ops->qk_rope_attn : msa_kern_qk_rope_attn_parts)(
        k, st, qkv, h, q_gamma, k_gamma, eps, pos, theta, B, row_start, segs, seg_start, ck, cv, at, out, err);
}

msa_rc msa_kern_swiglu(msa_kern *k, msa_kern_stream *st, const void *gu, int64_t M, int64_t I,
                       void *out, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE(M < 0 || I <= 0 || !FITS(M, I, (int64_t)2), "a shape out of range");
    REFUSE_BEYOND(M, rows);
    if (M == 0)
        return MSA_OK;
    REFUSE_NULL(gu);
    REFUSE_NULL(out);
    return k->ops->swiglu(k, st, gu, M, I, out, err);
}

msa_rc msa_kern_norm_linear(msa_kern *k, msa_kern_stream *st, const float *x, const float *gamma,
                            float eps, const msa_kern_weight *w, int64_t M, void *xn, void *gu,
                            void *out, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE_NULL(w);
    REFUSE(w->owner != k, "the weight belongs to another backend");
    REFUSE(M < 0 || !FITS(M, w->K) || !FITS(M, w->N) || (gu && w->N % 2), "a shape out of range");
    REFUSE(!(eps >= 0), "eps must not be negative");
    REFUSE_BEYOND(M, rows);
    if (M == 0)
        return MSA_OK;
    REFUSE_NULL(x);
    REFUSE_NULL(gamma);
    REFUSE_NULL(xn);
    REFUSE_NULL(out);
    if (k->ops->norm_linear)
        return k->ops->norm_linear(k, st, x, gamma, eps, w, M, xn, gu, out, err);
    msa_rc rc = k->ops->rms_norm(k, st, x, gamma, eps, M, w->K, xn, err);
    if (rc == MSA_OK)
        rc = k->ops->linear(k, st, w, xn, M, gu ? gu : out, MSA_LINEAR_ACT, err);
    if (rc == MSA_OK && gu)
        rc = k->ops->swiglu(k, st, gu, M, w->N / 2, out, err);
    return rc;
}

static bool is_weight(const msa_kern *k, const msa_kern_weight *w, int64_t N, int64_t K)
{
    return w && w->owner == k && w->N == N && w->K == K;
}

msa_rc msa_kern_between(msa_kern *k, msa_kern_stream *st, const msa_kern_link *l, const void *att,
                        int64_t M, float *x, void *xn, void *gu, void *mlp, void *qkv, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE_NULL(l);
    REFUSE(!l->o || !l->down, "a null pointer: a weight");
    const int64_t E = l->o->N, I = l->down->K, N = l->next ? l->next->N : 0;
    REFUSE(!is_weight(k, l->o, E, l->o->K) || !is_weight(k, l->gate_up, 2 * I, E) ||
               !is_weight(k, l->down, E, I) || (l->next && !is_weight(k, l->next, N, E)),
           "weights that do not belong together");
    REFUSE(M < 0 || !FITS(M, E) || !FITS(M, l->o->K) || !FITS(M, 2 * I) || !FITS(M, N), "a shape out of range");
    REFUSE(!(l->eps >= 0), "eps must not be negative");
    REFUSE_BEYOND(M, rows);
    if (M == 0)
        return MSA_OK;
    REFUSE_NULL(l->gamma);
    REFUSE_NULL(att);
    REFUSE_NULL(x);
    REFUSE_NULL(xn);
    REFUSE_NULL(gu);
    REFUSE_NULL(mlp);
    REFUSE(l->next && (!l->next_gamma || !qkv), "a null pointer: what next needs");
    msa_rc rc = k->ops->between ? k->ops->between(k, st, l, att, M, x, xn, gu, mlp, qkv, err) : MSA_END;
    if (rc != MSA_END)
        return rc;
    rc = k->ops->linear(k, st, l->o, att, M, x, MSA_LINEAR_ADD, err);
    if (rc == MSA_OK)
        rc = msa_kern_norm_linear(k, st, x, l->gamma, l->eps, l->gate_up, M, xn, gu, mlp, err);
    if (rc == MSA_OK)
        rc = k->ops->linear(k, st, l->down, mlp, M, x, MSA_LINEAR_ADD, err);
    if (rc == MSA_OK && l->next)
        rc = msa_kern_norm_linear(k, st, x, l->next_gamma, l->eps, l->next, M, xn, NULL, qkv, err);
    return rc;
}

msa_rc msa_kern_gather(msa_kern *k, msa_kern_stream *st, const float *x, int64_t E,
                       const int64_t *idx, int64_t R, float *out, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE(R < 0 || E <= 0 || !FITS(R, E), "a shape out of range");
    REFUSE_BEYOND(R, rows);
    if (R == 0)
        return MSA_OK;
    REFUSE_NULL(x);
    REFUSE_NULL(idx);
    REFUSE_NULL(out);
    for (int64_t i = 0; i < R; i++)
        REFUSE(idx[i] < 0 || !FITS(idx[i], E), "a row out of range");
    return k->ops->gather(k, st, x, E, idx, R, out, err);
}

/* ---- pooling ------------------------------------------------------------------------ */

msa_rc msa_kern_pool(msa_kern *k, msa_kern_stream *st, const void *x, bool x_f32, int64_t stride,
                     int64_t col, int64_t W, const msa_kern_chunk *chunks, int64_t C, float *out,
                     msa_err *err)
{
    REFUSE_NULL(k);
    int64_t end;
    REFUSE(C < 0 || W <= 0 || !msa_add(col, W, &end) || end > stride || !FITS(C, W),
           "a shape out of range");
    REFUSE_BEYOND(C, rows);
    if (C == 0)
        return MSA_OK;
    REFUSE_NULL(x);
    REFUSE_NULL(chunks);
    REFUSE_NULL(out);
    for (int64_t c = 0; c < C; c++)
        REFUSE(chunks[c].len < 1 || !msa_add(chunks[c].start, chunks[c].len, &end) ||
                   !FITS(end, stride),
               "a chunk out of range");
    return k->ops->pool(k, st, x, x_f32, stride, col, W, chunks, C, out, err);
}

msa_rc msa_kern_unit_heads(msa_kern *k, msa_kern_stream *st, float *x, int64_t R, int64_t heads,
                           int64_t D, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE(R < 0 || heads <= 0 || D <= 0 || !FITS(R, heads, D), "a shape out of range");
    if (R == 0)
        return MSA_OK;
    REFUSE_NULL(x);
    return k->ops->unit_heads(k, st, x, R, heads, D, err);
}

msa_rc msa_kern_convert(msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from,
                        int64_t src_stride, void *dst, msa_dtype to, int64_t dst_stride, int64_t n,
                        int64_t R, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE(!storage_type(from) || !storage_type(to), "only f32 and bf16 convert");
    REFUSE(R < 0 || n < 0 || src_stride < n || dst_stride < n || !FITS(R, src_stride) ||
               !FITS(R, dst_stride),
           "a shape out of range");
    if (R == 0 || n == 0)
        return MSA_OK;
    REFUSE_NULL(src);
    REFUSE_NULL(dst);
    return k->ops->convert(k, st, src, from, src_stride, dst, to, dst_stride, n, R, err);
}

msa_rc msa_kern_quantize(msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from,
                         int64_t src_stride, int64_t n, int64_t D, int64_t R, int8_t *dst,
                         int64_t dst_stride, void *scale, msa_dtype scale_type,
                         int64_t scale_stride, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE(!storage_type(from), "only f32 and bf16 are quantised");
    REFUSE(scale_type != MSA_F32 && scale_type != MSA_F16, "factors are f32 or f16");
    REFUSE(R < 0 || n < 0 || D <= 0 || n % D != 0 || src_stride < n || dst_stride < n ||
               scale_stride < n / D || !FITS(R, src_stride) || !FITS(R, dst_stride) ||
               !FITS(R, scale_stride),
           "a shape out of range");
    if (R == 0 || n == 0)
        return MSA_OK;
    REFUSE_NULL(src);
    REFUSE_NULL(dst);
    REFUSE_NULL(scale);
    return k->ops->quantize(k, st, src, from, src_stride, n, D, R, dst, dst_stride, scale, scale_type,
                            scale_stride, err);
}

/* ---- routing -------------------------------------------------------------------------- */

int64_t msa_kern_route_width(const msa_kern_route *r)
{
    return (r->head == MSA_REDUCE_MEAN ? r->h.G : r->h.H) * r->h.D;
}

msa_rc msa_kern_router_query(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r,
                             const void *rq, bool rq_f32, int64_t stride, int64_t T, float *out,
                             msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE_NULL(r);
    REFUSE(!route_ok(r), "bad routing options");
    REFUSE(T < 0 || stride < r->h.H * r->h.D || !FITS(T, stride), "a shape out of range");
    REFUSE_BEYOND(T, route_tokens);
    if (T == 0)
        return MSA_OK;
    REFUSE_NULL(rq);
    REFUSE_NULL(out);
    return k->ops->router_query(k, st, r, rq, rq_f32, stride, T, out, err);
}

/* Every question has tokens, and all of them fit the reservation. */
static bool tokens_ok(const msa_kern *k, const msa_kern_route *r, const int64_t *q_start, int64_t B)
{
    if (q_start[0] < 0)
        return false;
    for (int64_t b = 0; b < B; b++)
        if (q_start[b + 1] <= q_start[b])
            return false;
    return q_start[B] <= k->cap.route_tokens && FITS(q_start[B], r->h.H, r->h.D);
}

msa_rc msa_kern_scan(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q,
                     const int64_t *q_start, int64_t B, const void *rk, msa_dtype rk_dtype,
                     const float *scale, int64_t stride, int64_t C, float *out, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE_NULL(r);
    REFUSE(!route_ok(r), "bad routing options");
    REFUSE(rk_dtype != MSA_I8 && !storage_type(rk_dtype), "router keys are f32, bf16 or i8");
    REFUSE(B < 0 || C < 0 || stride < r->h.G * r->h.D || !FITS(C, stride) || !FITS(B, C),
           "a shape out of range");
    REFUSE_BEYOND(B, queries);
    REFUSE_BEYOND(C, scan_chunks);
    if (B == 0 || C == 0)
        return MSA_OK;
    REFUSE_NULL(q);
    REFUSE_NULL(q_start);
    REFUSE_NULL(rk);
    REFUSE(rk_dtype == MSA_I8 && !scale, "8-bit router keys without factors");
    REFUSE_NULL(out);
    REFUSE(!tokens_ok(k, r, q_start, B), "question borders out of order or beyond the reserved route_tokens");
    return k->ops->scan(k, st, r, q, q_start, B, rk, rk_dtype, scale, stride, C, out, err);
}

msa_rc msa_kern_score_docs(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q,
                           const int64_t *q_start, int64_t B, const msa_kern_doc_rows *items, int64_t n,
                           msa_dtype rk_dtype, int64_t stride, float weight, bool add, float *out,
                           msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE_NULL(r);
    REFUSE(!route_ok(r), "bad routing options");
    REFUSE(!storage_type(rk_dtype), "documents are scored from f32 or bf16 rows");
    REFUSE(B < 0 || n < 0 || stride < r->h.G * r->h.D || !FITS(n, (int64_t)4), "a shape out of range");
    REFUSE_BEYOND(B, queries);
    if (B == 0 || n == 0)
        return MSA_OK;
    REFUSE_NULL(q);
    REFUSE_NULL(q_start);
    REFUSE_NULL(items);
    REFUSE_NULL(out);
    REFUSE(!tokens_ok(k, r, q_start, B), "question borders out of order or beyond the reserved route_tokens");
    for (int64_t i = 0; i < n; i++)
        REFUSE(!items[i].rk || items[i].n_rows < 1 || !FITS(items[i].n_rows, stride) ||
                   items[i].question < 0 || items[i].question >= B,
               "a bad document");
    return k->ops->score_docs(k, st, r, q, q_start, B, items, n, rk_dtype, stride, weight, add, out,
                              err);
}

msa_rc msa_kern_doc_scores(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r,
                           const float *chunk_scores, int64_t B, int64_t C,
                           const int64_t *doc_chunk, int64_t N, float weight, bool add, float *out,
                           msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE_NULL(r);
    REFUSE(!route_ok(r), "bad routing options");
    REFUSE(B < 0 || C < 0 || N < 0 || !FITS(B, C) || !FITS(B, N), "a shape out of range");
    REFUSE_BEYOND(B, queries);
    REFUSE_BEYOND(C, scan_chunks);
    REFUSE_BEYOND(N, scan_docs);
    if (B == 0 || N == 0)
        return MSA_OK;
    REFUSE_NULL(chunk_scores);
    REFUSE_NULL(doc_chunk);
    REFUSE_NULL(out);
    return k->ops->doc_scores(k, st, r, chunk_scores, B, C, doc_chunk, N, weight, add, out, err);
}

msa_rc msa_kern_topk_merge(msa_kern *k, msa_kern_stream *st, const float *scores, int64_t B,
                           int64_t N, const int64_t *ids, const uint8_t *alive, int64_t K,
                           msa_kern_best *best, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE(B < 0 || N < 0 || K <= 0 || !FITS(B, N) || !FITS(B, K, (int64_t)2),
           "a shape out of range");
    REFUSE_BEYOND(B, queries);
    REFUSE_BEYOND(N, scan_docs);
    REFUSE_BEYOND(K, top_k);
    if (B == 0 || N == 0)
        return MSA_OK;
    REFUSE_NULL(scores);
    REFUSE_NULL(ids);
    REFUSE_NULL(best);
    return k->ops->topk_merge(k, st, scores, B, N, ids, alive, K, best, err);
}

msa_rc msa_kern_topk_init(msa_kern *k, msa_kern_stream *st, int64_t B, int64_t K,
                          msa_kern_best *best, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE(B < 0 || K <= 0 || !FITS(B, K, (int64_t)2), "a shape out of range");
    REFUSE_BEYOND(B, queries);
    REFUSE_BEYOND(K, top_k);
    if (B == 0)
        return MSA_OK;
    REFUSE_NULL(best);
    return k->ops->topk_init(k, st, B, K, best, err);
}

/* ---- sampling --------------------------------------------------------------------------- */

msa_rc msa_kern_sample_tokens(msa_kern *k, msa_kern_stream *st, const float *logits, int64_t B,
                              int64_t V, const msa_kern_sample *params, int32_t *out, msa_err *err)
{
    REFUSE_NULL(k);
    REFUSE(B < 0 || V <= 0 || V > INT32_MAX || !FITS(B, V), "a shape out of range");
    REFUSE_BEYOND(B, rows);
    REFUSE_BEYOND(V, V);
    if (B == 0)
        return MSA_OK;
    REFUSE_NULL(logits);
    REFUSE_NULL(params);
    REFUSE_NULL(out);
    for (int64_t b = 0; b < B; b++) {
        const msa_kern_sample *p = &params[b];
        REFUSE(!(p->temperature >= 0) || !isfinite(p->temperature), "a bad temperature");
        REFUSE(!(p->top_p > 0 && p->top_p <= 1), "top_p must lie in (0,1]");
        REFUSE(!(p->u >= 0 && p->u < 1), "u must lie in [0,1)");
    }
    return k->ops->sample_tokens(k, st, logits, B, V, params, out, err);
}
