/* The CUDA backend's own files: cuda.cu (device, memory, streams, arrays of
 * operations), cuda_graph.cu (recorded runs), cuda_linear.cu (weights, cuBLASLt),
 * cuda_gemv.cu (products of few rows), cuda_between.cu (those of a decoding layer), cuda_rows.cu (operations on rows), cuda_attn*.cu,
 * cuda_route.cu, cuda_scan*.cu, cuda_sample.cu.
 *
 * Host arrays of an operation (borders, segments, chunks) reach the device through
 * msa_cuda_args. Outside a recorded run they are copied from a pinned ring on the
 * operation's stream. Inside one they go to the run's own block, which is uploaded
 * once before the run is launched; so a launch must not depend on what the arrays
 * hold, but only on their length: grids come from shapes and from the reservation
 * when msa_cuda_recording says so.
 *
 * Kernels are launched on msa_cuda_stream(k, st) and checked with MSA_CUDA_LAUNCHED. */
#ifndef MSA_KERNELS_CUDA_INTERNAL_H
#define MSA_KERNELS_CUDA_INTERNAL_H

#include <cublasLt.h>
#include <cuda_runtime.h>
#include <stdint.h>

extern "C" {
#include "base/err.h"
#include "base/mem.h"
#include "kernels/kernels_internal.h"
}

struct msa_cuda_args_ring;   /* cuda.cu */
struct msa_cuda_graphs;      /* cuda_graph.cu */
struct msa_cuda_algos;       /* cuda_linear.cu: products' plans by shape */

struct msa_cuda {
    msa_kern base;               /* first: an msa_kern * is an msa_cuda * */
    char name[32], device_name[288];
    int device, n_sms;
    int64_t shared_bytes;        /* most shared memory of a block */
    cudaStream_t stream;         /* what st == NULL names */
    cublasLtHandle_t lt;
    msa_cuda_args_ring *args;
    msa_cuda_graphs *graphs;
    msa_cuda_algos *algos;
    /* scratch of the reservation, device; each owner states its size below */
    bool between_ran;            /* cuda_between.cu's kernel has been launched */
    int between_clusters[2];     /* cuda_between.cu: 0 not asked yet, -1 none */
    void *linear_scratch, *attn_scratch, *route_scratch, *scan_scratch, *sample_scratch;
    int64_t linear_bytes, attn_bytes, route_bytes, scan_bytes, sample_bytes;
};

struct msa_kern_stream {
    cudaStream_t s;
};

struct msa_cuda_weight {
    msa_kern_weight base;
    void *w;                     /* device [N, K] act, row-major, 256-byte aligned */
};

static inline msa_cuda *msa_cuda_of(msa_kern *k) { return (msa_cuda *)k; }
static inline const msa_cuda *msa_cuda_of(const msa_kern *k) { return (const msa_cuda *)k; }
/* The stream of an operation; its device becomes the calling thread's, which may have
 * worked on another one. */
static inline cudaStream_t msa_cuda_stream(msa_kern *k, msa_kern_stream *st)
{
    cudaSetDevice(msa_cuda_of(k)->device);
    return st ? st->s : msa_cuda_of(k)->stream;
}

/* MSA_FATAL, MSA_E_UNAVAILABLE with the runtime's words (a refused allocation:
 * MSA_FAILED, MSA_E_NOMEM); MSA_OK for cudaSuccess. */
msa_rc msa_cuda_error(cudaError_t e, const char *what, msa_err *err);
#define MSA_CUDA_TRY(call)                                              \
    do {                                                                \
        cudaError_t e_ = (call);                                        \
        if (e_ != cudaSuccess)                                          \
            return msa_cuda_error(e_, #call, err);                      \
    } while (0)
/* Ends an operation: the launch's own error, if any. */
#define MSA_CUDA_LAUNCHED(what) return msa_cuda_error(cudaGetLastError(), what, err)

/* Copies `bytes` of a host array to the device, in the order of the stream; *dev is
 * good for the operations queued on st after it and before the same amount of
 * arrays as the ring holds has been passed. 16-byte aligned. */
msa_rc msa_cuda_args(msa_cuda *c, msa_kern_stream *st, const void *host, int64_t bytes, void **dev,
                     msa_err *err);
/* A run is being recorded or replayed: launches must be independent of what arrays
 * hold. */
bool msa_cuda_recording(const msa_cuda *c);
/* True while a recorded run is replayed: every array still goes through
 * msa_cuda_args, in the same order, but nothing is launched or copied. Operations
 * that may stand in a run call msa_cuda_noted first and return MSA_OK after their
 * arrays when it answers true. `what` and the numbers identify the operation, so
 * that a run that differs is found. */
bool msa_cuda_noted(msa_cuda *c, const char *what, const void *const *pointers, int n_pointers,
                    const int64_t *numbers, int n_numbers);

/* Scratch that a reservation needs, false when it overflows. */
/* at the end of linear_scratch, cuda_between.cu's */
enum { MSA_CUDA_BETWEEN_BYTES = 64 << 10 };
bool msa_cuda_linear_bytes(const msa_cuda *c, const msa_kern_shape *s, int64_t *bytes);
bool msa_cuda_attn_bytes(const msa_cuda *c, const msa_kern_shape *s, int64_t *bytes);
bool msa_cuda_route_bytes(const msa_cuda *c, const msa_kern_shape *s, int64_t *bytes);
bool msa_cuda_scan_bytes(const msa_cuda *c, const msa_kern_shape *s, int64_t *bytes);
bool msa_cuda_sample_bytes(const msa_cuda *c, const msa_kern_shape *s, int64_t *bytes);
void msa_cuda_linear_close(msa_cuda *c);

/* Recorded runs, for cuda.cu alone. */
msa_rc msa_cuda_graphs_open(msa_cuda *c, msa_err *err);
void msa_cuda_graphs_close(msa_cuda *c);
msa_rc msa_cuda_run_args(msa_cuda *c, const void *host, int64_t bytes, void **dev, msa_err *err);
/* An array that went through the ring: a run is recorded if all of its would fit. */
void msa_cuda_run_passed(msa_cuda *c, int64_t bytes);
msa_rc msa_cuda_graph_begin(msa_kern *k, msa_kern_stream *st, int64_t key, msa_err *err);
msa_rc msa_cuda_graph_end(msa_kern *k, msa_kern_stream *st, msa_err *err);
void msa_cuda_graph_clear(msa_kern *k);

/* The operations, as kernels_internal.h has them: msa_cuda_OP for each OP of
 * msa_kern_ops. */
extern "C" {
msa_rc msa_cuda_weight_new(msa_kern *k, const void *data, msa_dtype from, int64_t N, int64_t K,
                           msa_kern_weight **out, msa_err *err);
void msa_cuda_weight_free(msa_kern *k, msa_kern_weight *w);
msa_rc msa_cuda_linear(msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w, const void *x,
                       int64_t M, void *out, msa_linear_mode mode, msa_err *err);
msa_rc msa_cuda_norm_linear(msa_kern *k, msa_kern_stream *st, const float *x, const float *gamma,
                            float eps, const msa_kern_weight *w, int64_t M, void *xn, void *gu,
                            void *out, msa_err *err);
/* cuda_between.cu */
msa_rc msa_cuda_between(msa_kern *k, msa_kern_stream *st, const msa_kern_link *l, const void *att,
                        int64_t M, float *x, void *xn, void *gu, void *mlp, void *qkv, msa_err *err);
/* cuda_rows.cu */
msa_rc msa_cuda_embed(msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w, const int32_t *ids,
                      int64_t M, float *x, msa_err *err);
msa_rc msa_cuda_rms_norm(msa_kern *k, msa_kern_stream *st, const float *x, const float *gamma,
                         float eps, int64_t M, int64_t E, void *out, msa_err *err);
msa_rc msa_cuda_qk_rope(msa_kern *k, msa_kern_stream *st, void *qkv, int64_t M, msa_kern_heads h,
                        const float *q_gamma, const float *k_gamma, float eps, const int64_t *pos,
                        double theta, msa_err *err);
msa_rc msa_cuda_cache_store(msa_kern *k, msa_kern_stream *st, const void *qkv, msa_kern_heads h,
                            int64_t B, const int64_t *row_start, void *const *ck, void *const *cv,
                            const int64_t *at, msa_err *err);
msa_rc msa_cuda_qk_rope_store(msa_kern *k, msa_kern_stream *st, void *qkv, msa_kern_heads h,
                              const float *q_gamma, const float *k_gamma, float eps,
                              const int64_t *pos, double theta, int64_t B, const int64_t *row_start,
                              void *const *ck, void *const *cv, const int64_t *at, msa_err *err);
msa_rc msa_cuda_swiglu(msa_kern *k, msa_kern_stream *st, const void *gu, int64_t M, int64_t I,
                       void *out, msa_err *err);
msa_rc msa_cuda_gather(msa_kern *k, msa_kern_stream *st, const float *x, int64_t E,
                       const int64_t *idx, int64_t R, float *out, msa_err *err);
msa_rc msa_cuda_pool(msa_kern *k, msa_kern_stream *st, const void *x, bool x_f32, int64_t stride,
                     int64_t col, int64_t W, const msa_kern_chunk *chunks, int64_t C, float *out,
                     msa_err *err);
msa_rc msa_cuda_unit_heads(msa_kern *k, msa_kern_stream *st, float *x, int64_t R, int64_t heads,
                           int64_t D, msa_err *err);
msa_rc msa_cuda_convert(msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from,
                        int64_t src_stride, void *dst, msa_dtype to, int64_t dst_stride, int64_t n,
                        int64_t R, msa_err *err);
msa_rc msa_cuda_quantize(msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from,
                         int64_t src_stride, int64_t n, int64_t D, int64_t R, int8_t *dst,
                         int64_t dst_stride, void *scale, msa_dtype scale_type, int64_t scale_stride,
                         msa_err *err);
/* cuda_attn.cu */
msa_rc msa_cuda_attn_packed(msa_kern *k, msa_kern_stream *st, const void *qkv, int64_t M,
                            msa_kern_heads h, const int64_t *seq_start, int64_t S, void *out,
                            msa_err *err);
msa_rc msa_cuda_attn_memory(msa_kern *k, msa_kern_stream *st, const void *q, int64_t q_stride,
                            msa_kern_heads h, int64_t B, const int64_t *row_start,
                            const msa_kern_seg *segs, const int64_t *seg_start,
                            const msa_kern_cache *caches, void *out, msa_err *err);
msa_rc msa_cuda_qk_rope_attn(msa_kern *k, msa_kern_stream *st, void *qkv, msa_kern_heads h,
                             const float *q_gamma, const float *k_gamma, float eps,
                             const int64_t *pos, double theta, int64_t B, const int64_t *row_start,
                             const msa_kern_seg *segs, const int64_t *seg_start, void *const *ck,
                             void *const *cv, const int64_t *at, void *out, msa_err *err);
/* cuda_route.cu */
msa_rc msa_cuda_router_query(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r,
                             const void *rq, bool rq_f32, int64_t stride, int64_t T, float *out,
                             msa_err *err);
msa_rc msa_cuda_score_docs(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q,
                           const int64_t *q_start, int64_t B, const msa_kern_doc_rows *items, int64_t n,
                           msa_dtype rk_dtype, int64_t stride, float weight, bool add, float *out,
                           msa_err *err);
msa_rc msa_cuda_doc_scores(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r,
                           const float *chunk_scores, int64_t B, int64_t C, const int64_t *doc_chunk,
                           int64_t N, float weight, bool add, float *out, msa_err *err);
msa_rc msa_cuda_topk_merge(msa_kern *k, msa_kern_stream *st, const float *scores, int64_t B,
                           int64_t N, const int64_t *ids, const uint8_t *alive, int64_t K,
                           msa_kern_best *best, msa_err *err);
msa_rc msa_cuda_topk_init(msa_kern *k, msa_kern_stream *st, int64_t B, int64_t K,
                          msa_kern_best *best, msa_err *err);
/* cuda_scan.cu */
msa_rc msa_cuda_scan(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q,
                     const int64_t *q_start, int64_t B, const void *rk, msa_dtype rk_dtype,
                     const float *scale, int64_t stride, int64_t C, float *out, msa_err *err);
/* cuda_sample.cu */
msa_rc msa_cuda_sample_tokens(msa_kern *k, msa_kern_stream *st, const float *logits, int64_t B,
                              int64_t V, const msa_kern_sample *params, int32_t *out, msa_err *err);
}

#endif
