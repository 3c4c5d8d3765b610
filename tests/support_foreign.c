#define _GNU_SOURCE
#include "tests/support_foreign.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

/* Device memory is one reserved range, handed out in order and never again: its
 * pages open for the time of an operation. */
#define RANGE ((int64_t)1 << 34)
enum { MAX_LIVE = 4096, PAGE = 4096 };

static struct {
    msa_foreign *f;
    const msa_kern_ops *real;
    char *base;
    int64_t end;
    struct {
        void *p;
        int64_t bytes;
        msa_mem kind;
    } live[MAX_LIVE];
    int64_t n_live;
} now;

static void gate(int protection)
{
    if (now.end > 0)
        assert_int_equal(mprotect(now.base, (size_t)now.end, protection), 0);
}

static void mem_info(const msa_kern *k, int64_t *total, int64_t *free_bytes)
{
    (void)k;
    *total = now.f->claimed ? now.f->claimed : now.f->limit;
    *free_bytes = *total - now.f->used;
}

static msa_rc alloc(msa_kern *k, int64_t bytes, msa_mem kind, void **out, msa_err *err)
{
    msa_foreign *f = now.f;
    const bool device = kind == MSA_MEM_DEVICE;
    if (device ? f->used + bytes > f->limit : f->pinned_limit && f->pinned + bytes > f->pinned_limit) {
        f->refused++;
        return msa_err_set(err, MSA_FAILED, MSA_E_NOMEM, "cannot allocate %lld bytes", (long long)bytes);
    }
    assert_true(now.n_live < MAX_LIVE);
    if (device) {
        const int64_t whole = (bytes + PAGE - 1) / PAGE * PAGE;
        assert_true(now.end + whole <= RANGE);
        *out = now.base + now.end;
        now.end += whole;
        f->used += bytes;
        f->most = f->used > f->most ? f->used : f->most;
    } else {
        msa_rc rc = now.real->alloc(k, bytes, kind, out, err);
        if (rc < 0)
            return rc;
        f->pinned += bytes;
        f->most_pinned = f->pinned > f->most_pinned ? f->pinned : f->most_pinned;
    }
    now.live[now.n_live].p = *out;
    now.live[now.n_live].bytes = bytes;
    now.live[now.n_live++].kind = kind;
    return MSA_OK;
}

static void release(msa_kern *k, void *p, msa_mem kind)
{
    for (int64_t i = 0; i < now.n_live; i++) {
        if (now.live[i].p != p)
            continue;
        assert_int_equal(now.live[i].kind, kind);
        if (kind == MSA_MEM_DEVICE) {
            now.f->used -= now.live[i].bytes;
            madvise(p, (size_t)((now.live[i].bytes + PAGE - 1) / PAGE * PAGE), MADV_DONTNEED);
        } else {
            now.f->pinned -= now.live[i].bytes;
            now.real->free(k, p, kind);
        }
        now.live[i] = now.live[--now.n_live];
        return;
    }
    now.real->free(k, p, kind); /* from before it was a device */
}

#define OP(name, params, args)                     \
    static msa_rc op_##name params                 \
    {                                              \
        gate(PROT_READ | PROT_WRITE);              \
        msa_rc rc = now.real->name args;           \
        gate(PROT_NONE);                           \
        return rc;                                 \
    }

OP(copy, (msa_kern *k, msa_kern_stream *st, void *dst, const void *src, int64_t bytes, msa_err *err),
   (k, st, dst, src, bytes, err))
OP(embed, (msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w, const int32_t *ids, int64_t M,
           float *x, msa_err *err), (k, st, w, ids, M, x, err))
OP(rms_norm, (msa_kern *k, msa_kern_stream *st, const float *x, const float *gamma, float eps, int64_t M,
              int64_t E, void *out, msa_err *err), (k, st, x, gamma, eps, M, E, out, err))
OP(linear, (msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w, const void *x, int64_t M, void *out,
            msa_linear_mode mode, msa_err *err), (k, st, w, x, M, out, mode, err))
OP(qk_rope, (msa_kern *k, msa_kern_stream *st, void *qkv, int64_t M, msa_kern_heads h, const float *q_gamma,
             const float *k_gamma, float eps, const int64_t *pos, double theta, msa_err *err),
   (k, st, qkv, M, h, q_gamma, k_gamma, eps, pos, theta, err))
OP(attn_packed, (msa_kern *k, msa_kern_stream *st, const void *qkv, int64_t M, msa_kern_heads h,
                 const int64_t *seq_start, int64_t S, void *out, msa_err *err),
   (k, st, qkv, M, h, seq_start, S, out, err))
OP(attn_memory, (msa_kern *k, msa_kern_stream *st, const void *q, int64_t q_stride, msa_kern_heads h, int64_t B,
                 const int64_t *row_start, const msa_kern_seg *segs, const int64_t *seg_start,
                 const msa_kern_cache *caches, void *out, msa_err *err),
   (k, st, q, q_stride, h, B, row_start, segs, seg_start, caches, out, err))
OP(cache_store, (msa_kern *k, msa_kern_stream *st, const void *qkv, msa_kern_heads h, int64_t B,
                 const int64_t *row_start, void *const *ck, void *const *cv, const int64_t *at, msa_err *err),
   (k, st, qkv, h, B, row_start, ck, cv, at, err))
OP(swiglu, (msa_kern *k, msa_kern_stream *st, const void *gu, int64_t M, int64_t I, void *out, msa_err *err),
   (k, st, gu, M, I, out, err))
OP(gather, (msa_kern *k, msa_kern_stream *st, const float *x, int64_t E, const int64_t *idx, int64_t R,
            float *out, msa_err *err), (k, st, x, E, idx, R, out, err))
OP(pool, (msa_kern *k, msa_kern_stream *st, const void *x, bool x_f32, int64_t stride, int64_t col, int64_t W,
          const msa_kern_chunk *chunks, int64_t C, float *out, msa_err *err),
   (k, st, x, x_f32, stride, col, W, chunks, C, out, err))
OP(unit_heads, (msa_kern *k, msa_kern_stream *st, float *x, int64_t R, int64_t heads, int64_t D, msa_err *err),
   (k, st, x, R, heads, D, err))
OP(convert, (msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from, int64_t src_stride, void *dst,
             msa_dtype to, int64_t dst_stride, int64_t n, int64_t R, msa_err *err),
   (k, st, src, from, src_stride, dst, to, dst_stride, n, R, err))
OP(router_query, (msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const void *rq, bool rq_f32,
                  int64_t stride, int64_t T, float *out, msa_err *err),
   (k, st, r, rq, rq_f32, stride, T, out, err))
OP(quantize, (msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from, int64_t src_stride, int64_t n,
              int64_t D, int64_t R, int8_t *dst, int64_t dst_stride, void *scale, msa_dtype scale_type,
              int64_t scale_stride, msa_err *err),
   (k, st, src, from, src_stride, n, D, R, dst, dst_stride, scale, scale_type, scale_stride, err))
OP(scan, (msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q, const int64_t *q_start,
          int64_t B, const void *rk, msa_dtype rk_dtype, const float *scale, int64_t stride, int64_t C,
          float *out, msa_err *err), (k, st, r, q, q_start, B, rk, rk_dtype, scale, stride, C, out, err))
OP(score_docs, (msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q,
                const int64_t *q_start, int64_t B, const msa_kern_doc_rows *items, int64_t n,
                msa_dtype rk_dtype, int64_t stride, float weight, bool add, float *out, msa_err *err),
   (k, st, r, q, q_start, B, items, n, rk_dtype, stride, weight, add, out, err))
OP(doc_scores, (msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *chunk_scores, int64_t B,
                int64_t C, const int64_t *doc_chunk, int64_t N, float weight, bool add, float *out,
                msa_err *err), (k, st, r, chunk_scores, B, C, doc_chunk, N, weight, add, out, err))
OP(topk_merge, (msa_kern *k, msa_kern_stream *st, const float *scores, int64_t B, int64_t N, const int64_t *ids,
                const uint8_t *alive, int64_t K, msa_kern_best *best, msa_err *err),
   (k, st, scores, B, N, ids, alive, K, best, err))
OP(topk_init, (msa_kern *k, msa_kern_stream *st, int64_t B, int64_t K, msa_kern_best *best, msa_err *err),
   (k, st, B, K, best, err))
OP(sample_tokens, (msa_kern *k, msa_kern_stream *st, const float *logits, int64_t B, int64_t V,
                   const msa_kern_sample *params, int32_t *out, msa_err *err),
   (k, st, logits, B, V, params, out, err))

void msa_foreign_begin(msa_kern *k, msa_foreign *f)
{
    static msa_kern_ops ops;
    if (now.f) /* a test failed between begin and end */
        munmap(now.base, (size_t)RANGE);
    now.f = f;
    now.real = k->ops;
    now.end = now.n_live = 0;
    f->limit = f->limit ? f->limit : RANGE / 2;
    now.base = mmap(NULL, (size_t)RANGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(now.base != MAP_FAILED);
    ops = *k->ops;
    ops.mem_info = mem_info;
    ops.alloc = alloc;
    ops.free = release;
#define TAKE(name) ops.name = op_##name
    TAKE(copy), TAKE(embed), TAKE(rms_norm), TAKE(linear), TAKE(qk_rope), TAKE(attn_packed), TAKE(attn_memory);
    TAKE(cache_store), TAKE(swiglu), TAKE(gather), TAKE(pool), TAKE(unit_heads), TAKE(convert);
    TAKE(router_query), TAKE(quantize), TAKE(scan), TAKE(score_docs), TAKE(doc_scores), TAKE(topk_merge);
    TAKE(topk_init), TAKE(sample_tokens);
    k->ops = &ops;
    k->info.host_memory = false;
}

void msa_foreign_end(msa_kern *k)
{
    k->ops = now.real;
    k->info.host_memory = true;
    assert_int_equal(now.n_live, 0);
    munmap(now.base, (size_t)RANGE);
    now.f = NULL;
}
