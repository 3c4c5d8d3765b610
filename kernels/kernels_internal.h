/* What a backend fills in. kernels.c checks every argument (pointers, shapes,
 * products, the reservation) and then calls the backend, which need not check
 * again; calls that have nothing to do (M = 0 and the like) do not reach it.
 *
 * A backend's handle begins with struct msa_kern and its weights with struct
 * msa_kern_weight. `ops` holds the operations in the order and with the meaning
 * of kernels.h. */
#ifndef MSA_KERNELS_KERNELS_INTERNAL_H
#define MSA_KERNELS_KERNELS_INTERNAL_H

#include "kernels/kernels.h"

typedef struct msa_kern_ops {
    void (*close)(msa_kern *k);
    void (*mem_info)(const msa_kern *k, int64_t *total, int64_t *free_bytes);
    /* Makes scratch for shape `max`, which holds at least k->cap; on failure the
     * old scratch stays. *bytes: size of the scratch. */
    msa_rc (*reserve)(msa_kern *k, const msa_kern_shape *max, bool dry_run, int64_t *bytes,
                      msa_err *err);

    msa_rc (*alloc)(msa_kern *k, int64_t bytes, msa_mem kind, void **out, msa_err *err);
    void (*free)(msa_kern *k, void *p, msa_mem kind);
    msa_rc (*stream_new)(msa_kern *k, msa_kern_stream **out, msa_err *err);
    void (*stream_free)(msa_kern *k, msa_kern_stream *st);
    msa_rc (*sync)(msa_kern *k, msa_kern_stream *st, msa_err *err);
    msa_rc (*copy)(msa_kern *k, msa_kern_stream *st, void *dst, const void *src, int64_t bytes,
                   msa_err *err);

    /* NULL all of them: a record waits for its stream instead */
    msa_rc (*event_new)(msa_kern *k, msa_kern_event **out, msa_err *err);
    void (*event_free)(msa_kern *k, msa_kern_event *e);
    msa_rc (*event_record)(msa_kern *k, msa_kern_stream *st, msa_kern_event *e, msa_err *err);
    msa_rc (*event_wait)(msa_kern *k, msa_kern_event *e, msa_err *err);
    msa_rc (*stream_wait)(msa_kern *k, msa_kern_stream *st, msa_kern_event *e, msa_err *err);
    msa_rc (*event_seconds)(msa_kern *k, msa_kern_event *from, msa_kern_event *to, double *seconds, msa_err *err);

    /* NULL: operations compute at once, and there is nothing to record */
    msa_rc (*graph_begin)(msa_kern *k, msa_kern_stream *st, int64_t key, msa_err *err);
    msa_rc (*graph_end)(msa_kern *k, msa_kern_stream *st, msa_err *err);
    void (*graph_clear)(msa_kern *k);

    msa_rc (*weight_new)(msa_kern *k, const void *data, msa_dtype from, int64_t N, int64_t K,
                         msa_kern_weight **out, msa_err *err);
    void (*weight_free)(msa_kern *k, msa_kern_weight *w);

    msa_rc (*embed)(msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w, const int32_t *ids,
                    int64_t M, float *x, msa_err *err);
    msa_rc (*rms_norm)(msa_kern *k, msa_kern_stream *st, const float *x, const float *gamma,
                       float eps, int64_t M, int64_t E, void *out, msa_err *err);
    msa_rc (*linear)(msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w, const void *x,
                     int64_t M, void *out, msa_linear_mode mode, msa_err *err);
    msa_rc (*qk_rope)(msa_kern *k, msa_kern_stream *st, void *qkv, int64_t M, msa_kern_heads h,
                      const float *q_gamma, const float *k_gamma, float eps, const int64_t *pos,
                      double theta, msa_err *err);
    msa_rc (*attn_packed)(msa_kern *k, msa_kern_stream *st, const void *qkv, int64_t M,
                          msa_kern_heads h, const int64_t *seq_start, int64_t S, void *out,
                          msa_err *err);
    msa_rc (*attn_memory)(msa_kern *k, msa_kern_stream *st, const void *q, int64_t q_stride,
                          msa_kern_heads h, int64_t B, const int64_t *row_start,
                          const msa_kern_seg *segs, const int64_t *seg_start,
                          const msa_kern_cache *caches, void *out, msa_err *err);
    msa_rc (*cache_store)(msa_kern *k, msa_kern_stream *st, const void *qkv, msa_kern_heads h,
                          int64_t B, const int64_t *row_start, void *const *ck, void *const *cv,
                          const int64_t *at, msa_err *err);
    /* NULL: qk_rope, then cache_store */
    msa_rc (*qk_rope_store)(msa_kern *k, msa_kern_stream *st, void *qkv, msa_kern_heads h,
                            const float *q_gamma, const float *k_gamma, float eps,
                            const int64_t *pos, double theta, int64_t B, const int64_t *row_start,
                            void *const *ck, void *const *cv, const int64_t *at, msa_err *err);
    /* NULL: qk_rope_store, then attn_memory */
    msa_rc (*qk_rope_attn)(msa_kern *k, msa_kern_stream *st, void *qkv, msa_kern_heads h,
                           const float *q_gamma, const float *k_gamma, float eps,
                           const int64_t *pos, double theta, int64_t B, const int64_t *row_start,
                           const msa_kern_seg *segs, const int64_t *seg_start, void *const *ck,
                           void *const *cv, const int64_t *at, void *out, msa_err *err);
    msa_rc (*swiglu)(msa_kern *k, msa_kern_stream *st, const void *gu, int64_t M, int64_t I,
                     void *out, msa_err *err);
    /* NULL: rms_norm, linear and swiglu one after the other */
    msa_rc (*norm_linear)(msa_kern *k, msa_kern_stream *st, const float *x, const float *gamma,
                          float eps, const msa_kern_weight *w, int64_t M, void *xn, void *gu,
                          void *out, msa_err *err);
    /* NULL, or MSA_END for what it does not take: linear and norm_linear one after the other */
    msa_rc (*between)(msa_kern *k, msa_kern_stream *st, const msa_kern_link *l, const void *att,
                      int64_t M, float *x, void *xn, void *gu, void *mlp, void *qkv, msa_err *err);
    msa_rc (*gather)(msa_kern *k, msa_kern_stream *st, const float *x, int64_t E,
                     const int64_t *idx, int64_t R, float *out, msa_err *err);

    msa_rc (*pool)(msa_kern *k, msa_kern_stream *st, const void *x, bool x_f32, int64_t stride,
                   int64_t col, int64_t W, const msa_kern_chunk *chunks, int64_t C, float *out,
                   msa_err *err);
    msa_rc (*unit_heads)(msa_kern *k, msa_kern_stream *st, float *x, int64_t R, int64_t heads,
                         int64_t D, msa_err *err);
    msa_rc (*convert)(msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from,
                      int64_t src_stride, void *dst, msa_dtype to, int64_t dst_stride, int64_t n,
                      int64_t R, msa_err *err);

    msa_rc (*router_query)(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r,
                           const void *rq, bool rq_f32, int64_t stride, int64_t T, float *out,
                           msa_err *err);
    msa_rc (*quantize)(msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from,
                       int64_t src_stride, int64_t n, int64_t D, int64_t R, int8_t *dst,
                       int64_t dst_stride, void *scale, msa_dtype scale_type, int64_t scale_stride,
                       msa_err *err);
    msa_rc (*scan)(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q,
                   const int64_t *q_start, int64_t B, const void *rk, msa_dtype rk_dtype,
                   const float *scale, int64_t stride, int64_t C, float *out, msa_err *err);
    msa_rc (*score_docs)(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q,
                         const int64_t *q_start, int64_t B, const msa_kern_doc_rows *items, int64_t n,
                         msa_dtype rk_dtype, int64_t stride, float weight, bool add, float *out,
                         msa_err *err);
    msa_rc (*doc_scores)(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r,
                         const float *chunk_scores, int64_t B, int64_t C, const int64_t *doc_chunk,
                         int64_t N, float weight, bool add, float *out, msa_err *err);
    msa_rc (*topk_merge)(msa_kern *k, msa_kern_stream *st, const float *scores, int64_t B,
                         int64_t N, const int64_t *ids, const uint8_t *alive, int64_t K,
                         msa_kern_best *best, msa_err *err);
    msa_rc (*topk_init)(msa_kern *k, msa_kern_stream *st, int64_t B, int64_t K,
                        msa_kern_best *best, msa_err *err);
    msa_rc (*sample_tokens)(msa_kern *k, msa_kern_stream *st, const float *logits, int64_t B,
                            int64_t V, const msa_kern_sample *params, int32_t *out, msa_err *err);
} msa_kern_ops;

struct msa_kern {
    const msa_kern_ops *ops;
    msa_kern_info info;   /* the memory fields are filled by mem_info when asked */
    int64_t memory_bytes, free_at_open; /* msa_kern_opts's, and what was free then; kept by kernels.c */
    msa_kern_shape cap;   /* the reservation, kept by kernels.c */
};

struct msa_kern_weight {
    msa_kern *owner;
    int64_t N, K;
    int64_t bytes;
};

/* qk_rope_attn by the operations that it is made of, for arguments that a backend has no
 * other way for. */
msa_rc msa_kern_qk_rope_attn_parts(msa_kern *k, msa_kern_stream *st, void *qkv, msa_kern_heads h,
                                   const float *q_gamma, const float *k_gamma, float eps,
                                   const int64_t *pos, double theta, int64_t B, const int64_t *row_start,
                                   const msa_kern_seg *segs, const int64_t *seg_start, void *const *ck,
                                   void *const *cv, const int64_t *at, void *out, msa_err *err);

/* A backend that can be opened by name; a name may carry a device behind a
 * colon, which open reads. */
typedef struct msa_kern_backend {
    const char *name;
    msa_rc (*open)(const char *name, const msa_kern_opts *opts, msa_kern **out, msa_err *err);
} msa_kern_backend;

msa_rc msa_ref_open(const char *name, const msa_kern_opts *opts, msa_kern **out, msa_err *err);
msa_rc msa_cpu_open(const char *name, const msa_kern_opts *opts, msa_kern **out, msa_err *err);
msa_rc msa_cuda_open(const char *name, const msa_kern_opts *opts, msa_kern **out, msa_err *err);
int msa_cuda_count(void); /* devices that can be used; 0 also without a driver */

/* ---- what the two CPU backends share (host.c) ------------------------------- */

void msa_host_mem_info(const msa_kern *k, int64_t *total, int64_t *free_bytes);
msa_rc msa_host_alloc(msa_kern *k, int64_t bytes, msa_mem kind, void **out, msa_err *err);
void msa_host_free(msa_kern *k, void *p, msa_mem kind);
msa_rc msa_host_stream_new(msa_kern *k, msa_kern_stream **out, msa_err *err);
void msa_host_stream_free(msa_kern *k, msa_kern_stream *st);
msa_rc msa_host_sync(msa_kern *k, msa_kern_stream *st, msa_err *err);
msa_rc msa_host_copy(msa_kern *k, msa_kern_stream *st, void *dst, const void *src, int64_t bytes,
                     msa_err *err);
msa_rc msa_host_cache_store(msa_kern *k, msa_kern_stream *st, const void *qkv, msa_kern_heads h,
                            int64_t B, const int64_t *row_start, void *const *ck, void *const *cv,
                            const int64_t *at, msa_err *err);
msa_rc msa_host_gather(msa_kern *k, msa_kern_stream *st, const float *x, int64_t E,
                       const int64_t *idx, int64_t R, float *out, msa_err *err);
msa_rc msa_host_doc_scores(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r,
                           const float *chunk_scores, int64_t B, int64_t C,
                           const int64_t *doc_chunk, int64_t N, float weight, bool add, float *out,
                           msa_err *err);
msa_rc msa_host_topk_merge(msa_kern *k, msa_kern_stream *st, const float *scores, int64_t B,
                           int64_t N, const int64_t *ids, const uint8_t *alive, int64_t K,
                           msa_kern_best *best, msa_err *err);
msa_rc msa_host_topk_init(msa_kern *k, msa_kern_stream *st, int64_t B, int64_t K,
                          msa_kern_best *best, msa_err *err);
/* Memory for free(), in huge pages where it is large and the system has them. */
void *msa_host_pages(int64_t bytes);
/* The processor's name, for info.device. */
void msa_host_cpu_name(char *out, int64_t cap);

/* ---- the reference (ref*.c) -------------------------------------------------- */

typedef struct msa_ref {
    msa_kern base;
    char device[128];
    double *scores;      /* [max_seq]: attention weights of one query head */
    int32_t *order;      /* [V]: token ids while sampling */
} msa_ref;

typedef struct msa_ref_weight {
    msa_kern_weight base;
    float w[];           /* [N, K]; rounded to the act type */
} msa_ref_weight;

msa_rc msa_ref_embed(msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w, const int32_t *ids,
                     int64_t M, float *x, msa_err *err);
msa_rc msa_ref_rms_norm(msa_kern *k, msa_kern_stream *st, const float *x, const float *gamma,
                        float eps, int64_t M, int64_t E, void *out, msa_err *err);
msa_rc msa_ref_linear(msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w, const void *x,
                      int64_t M, void *out, msa_linear_mode mode, msa_err *err);
msa_rc msa_ref_qk_rope(msa_kern *k, msa_kern_stream *st, void *qkv, int64_t M, msa_kern_heads h,
                       const float *q_gamma, const float *k_gamma, float eps, const int64_t *pos,
                       double theta, msa_err *err);
msa_rc msa_ref_swiglu(msa_kern *k, msa_kern_stream *st, const void *gu, int64_t M, int64_t I,
                      void *out, msa_err *err);
msa_rc msa_ref_attn_packed(msa_kern *k, msa_kern_stream *st, const void *qkv, int64_t M,
                           msa_kern_heads h, const int64_t *seq_start, int64_t S, void *out,
                           msa_err *err);
msa_rc msa_ref_attn_memory(msa_kern *k, msa_kern_stream *st, const void *q, int64_t q_stride,
                           msa_kern_heads h, int64_t B, const int64_t *row_start,
                           const msa_kern_seg *segs, const int64_t *seg_start,
                           const msa_kern_cache *caches, void *out, msa_err *err);
msa_rc msa_ref_pool(msa_kern *k, msa_kern_stream *st, const void *x, bool x_f32, int64_t stride,
                    int64_t col, int64_t W, const msa_kern_chunk *chunks, int64_t C, float *out,
                    msa_err *err);
msa_rc msa_ref_unit_heads(msa_kern *k, msa_kern_stream *st, float *x, int64_t R, int64_t heads,
                          int64_t D, msa_err *err);
msa_rc msa_ref_convert(msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from,
                       int64_t src_stride, void *dst, msa_dtype to, int64_t dst_stride, int64_t n,
                       int64_t R, msa_err *err);
msa_rc msa_ref_router_query(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r,
                            const void *rq, bool rq_f32, int64_t stride, int64_t T, float *out,
                            msa_err *err);
msa_rc msa_ref_quantize(msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from,
                        int64_t src_stride, int64_t n, int64_t D, int64_t R, int8_t *dst,
                        int64_t dst_stride, void *scale, msa_dtype scale_type, int64_t scale_stride,
                        msa_err *err);
msa_rc msa_ref_scan(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q,
                    const int64_t *q_start, int64_t B, const void *rk, msa_dtype rk_dtype,
                    const float *scale, int64_t stride, int64_t C, float *out, msa_err *err);
msa_rc msa_ref_score_docs(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q,
                          const int64_t *q_start, int64_t B, const msa_kern_doc_rows *items, int64_t n,
                          msa_dtype rk_dtype, int64_t stride, float weight, bool add, float *out,
                          msa_err *err);
msa_rc msa_ref_sample_tokens(msa_kern *k, msa_kern_stream *st, const float *logits, int64_t B,
                             int64_t V, const msa_kern_sample *params, int32_t *out, msa_err *err);

#endif
