/* Every tensor operation of the engine, behind one C interface.
 *
 * A backend is "ref" (plain C, no fast-math, what the others are compared
 * with), "cpu" (own vector kernels and threads; "cpu:avx512bf16", "cpu:avx512",
 * "cpu:avx2" and "cpu:portable" name an instruction set, else it is the best the
 * processor has) or, when it is built in, "cuda:N". All of them compute the same operations on the same layouts, so
 * a store that one wrote is read by every other.
 *
 *   msa_kern *k;
 *   msa_kern_open("cpu", &(msa_kern_opts){.act = MSA_BF16}, &k, err);
 *   msa_kern_alloc(k, bytes, MSA_MEM_DEVICE, &p, err);        // tensors
 *   msa_kern_weight_new(k, data, MSA_BF16, N, K, &w, err);    // packed matrices
 *   msa_kern_rms_norm(k, st, x, gamma, eps, M, E, xn, err);   // queued on st
 *   msa_kern_sync(k, st, err);                                // wait for st
 *
 * Letters: M rows (tokens of all sequences of a batch, packed), E hidden size,
 * H query heads, G key/value heads (H is a multiple of G), D head dimension,
 * I MLP width, V vocabulary, S sequences, B questions, T routing tokens,
 * C chunks, N documents, P pooling size, K documents kept.
 *
 * Matrices are row-major and dense unless a stride is given; strides and
 * offsets count elements. "act" is the activation type of the backend instance
 * (float32 or bfloat16): what GEMMs read. The residual stream is always f32.
 *
 * Pointers marked "device" come from msa_kern_alloc with MSA_MEM_DEVICE or
 * _MAPPED; those marked "host" are read before the call returns. Every
 * operation is queued on its stream and may return before it ran; on the CPU
 * backends a stream is a formality and work is done when the call returns.
 * Operations of one stream run in order. An msa_kern may be used by one thread
 * at a time.
 *
 * Scratch memory belongs to the msa_kern and is sized by msa_kern_reserve, so
 * no operation allocates. Shapes beyond the reservation are MSA_FATAL
 * (MSA_E_INTERNAL), except those of convert and unit_heads, which need no
 * scratch; a device fault is MSA_FATAL (MSA_E_UNAVAILABLE). All operations check
 * pointers, shapes and products on the host before they run.
 */
#ifndef MSA_KERNELS_KERNELS_H
#define MSA_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

typedef enum msa_dtype { MSA_F32 = 0, MSA_BF16 = 1, MSA_F16 = 2, MSA_I8 = 3 } msa_dtype;
int64_t msa_dtype_bytes(msa_dtype t);
const char *msa_dtype_name(msa_dtype t); /* "f32", "bf16", "f16", "i8" */

typedef struct msa_kern msa_kern;
typedef struct msa_kern_stream msa_kern_stream;
typedef struct msa_kern_event msa_kern_event;
typedef struct msa_kern_weight msa_kern_weight;

/* ---- the backend ---------------------------------------------------------- */

typedef struct msa_kern_opts {
    msa_dtype act;  /* MSA_F32 or MSA_BF16 */
    int n_threads;  /* CPU backends: 0 = all cores this process may use */
    int64_t memory_bytes; /* what msa_kern_info may tell of the device's memory; 0: all of it */
} msa_kern_opts;

typedef struct msa_kern_info {
    const char *name;        /* "ref", "cpu", "cuda:0" */
    const char *device;      /* what it runs on, for people; owned by the backend */
    msa_dtype act;
    bool native_bf16;        /* the device multiplies bfloat16 in hardware */
    int n_threads;
    int64_t batch_tokens;    /* rows M of a prefill batch that it likes best */
    int64_t mem_total_bytes, mem_free_bytes; /* device memory; the host's on a CPU;
                                              * of memory_bytes, what was free at the
                                              * opening and is no more is used */
    bool host_memory;        /* device pointers can be read by the host */
} msa_kern_info;

/* Opens a backend by name. "auto" takes the best one that works. A name that is
 * not built in, or no usable device: MSA_FAILED, MSA_E_UNAVAILABLE. */
msa_rc msa_kern_open(const char *name, const msa_kern_opts *opts, msa_kern **out, msa_err *err);
void msa_kern_close(msa_kern *k);
void msa_kern_info_get(const msa_kern *k, msa_kern_info *out);
/* Names of the backends built in, NULL-terminated. */
const char *const *msa_kern_names(void);

/* Largest shapes that later calls will use; may be called again to grow.
 * Allocates all scratch. *bytes, if not NULL, gets its size; with dry_run
 * nothing is allocated (for plans). */
typedef struct msa_kern_shape {
    int64_t rows;                       /* M */
    int64_t E, H, G, D, I, V;
    int64_t max_seq;                    /* longest sequence, keys included */
    int64_t queries, route_tokens;      /* B and T of one scan */
    int64_t scan_chunks, scan_docs;     /* C and N of one extent */
    int64_t top_k;
} msa_kern_shape;
msa_rc msa_kern_reserve(msa_kern *k, const msa_kern_shape *max, bool dry_run, int64_t *bytes,
                        msa_err *err);

/* ---- memory and streams --------------------------------------------------- */

typedef enum msa_mem {
    MSA_MEM_DEVICE, /* where operations work */
    MSA_MEM_PINNED, /* host memory that copies asynchronously */
    MSA_MEM_MAPPED  /* pinned host memory that operations may read in place */
} msa_mem;

/* 64-byte aligned, zeroed. A refusal is MSA_FAILED, MSA_E_NOMEM: the caller may
 * go on with a smaller plan. */
msa_rc msa_kern_alloc(msa_kern *k, int64_t bytes, msa_mem kind, void **out, msa_err *err);
void msa_kern_free(msa_kern *k, void *p, msa_mem kind);

/* st NULL names the backend's default stream in every call. */
msa_rc msa_kern_stream_new(msa_kern *k, msa_kern_stream **out, msa_err *err);
void msa_kern_stream_free(msa_kern *k, msa_kern_stream *st);
msa_rc msa_kern_sync(msa_kern *k, msa_kern_stream *st, msa_err *err);
/* Copies between host and device or within either; the direction follows from
 * the pointers. Host memory that is not pinned makes the call wait. */
msa_rc msa_kern_copy(msa_kern *k, msa_kern_stream *st, void *dst, const void *src, int64_t bytes,
                     msa_err *err);

/* A mark in the order of a stream's operations: record sets it behind what is
 * queued on st so far (a mark set before is forgotten), event_wait makes the host
 * wait until the stream has come there, stream_wait what is queued on st from now
 * on. Waiting for an event without a mark returns at once; a device fault before
 * the mark is MSA_FATAL (MSA_E_UNAVAILABLE). None of them may stand in a recorded
 * run. On backends that compute at once *out may be NULL, which all of them take. */
msa_rc msa_kern_event_new(msa_kern *k, msa_kern_event **out, msa_err *err);
void msa_kern_event_free(msa_kern *k, msa_kern_event *e);
msa_rc msa_kern_event_record(msa_kern *k, msa_kern_stream *st, msa_kern_event *e, msa_err *err);
msa_rc msa_kern_event_wait(msa_kern *k, msa_kern_event *e, msa_err *err);
msa_rc msa_kern_stream_wait(msa_kern *k, msa_kern_stream *st, msa_kern_event *e, msa_err *err);
/* *seconds that the device took from one mark to a later one, both of which the host
 * has waited for; 0 where events may be NULL. */
msa_rc msa_kern_event_seconds(msa_kern *k, msa_kern_event *from, msa_kern_event *to, double *seconds,
                              msa_err *err);

/* A run of operations that is repeated with the same operations, shapes and device
 * pointers, while what its host arrays hold (borders, segments, cache lengths)
 * changes: a decoding step. Between begin and end stand only rms_norm, linear,
 * norm_linear, between, qk_rope, qk_rope_store, qk_rope_attn, cache_store, attn_memory,
 * swiglu and gather, all on st. A backend that records keeps the first run of a key and replays it,
 * taking the arrays of each later run; the others compute at once. key > 0. A run that
 * differs from the recorded one in anything but its arrays is recorded anew. Nothing
 * may be relied on before end. After an error in between, msa_kern_graph_clear
 * abandons the run. clear also forgets every recorded run: it must come before memory
 * that one names is freed. */
msa_rc msa_kern_graph_begin(msa_kern *k, msa_kern_stream *st, int64_t key, msa_err *err);
msa_rc msa_kern_graph_end(msa_kern *k, msa_kern_stream *st, msa_err *err);
void msa_kern_graph_clear(msa_kern *k);

/* ---- weights -------------------------------------------------------------- */

/* A matrix W [N, K] of y = x W^T, copied and packed as the backend likes best;
 * data is host memory of type `from` and is not kept. It is held in the act
 * type (bf16 backends round f32 weights to nearest even). */
msa_rc msa_kern_weight_new(msa_kern *k, const void *data, msa_dtype from, int64_t N, int64_t K,
                           msa_kern_weight **out, msa_err *err);
void msa_kern_weight_free(msa_kern *k, msa_kern_weight *w);
int64_t msa_kern_weight_bytes(const msa_kern_weight *w);

/* ---- the decoder ---------------------------------------------------------- */

/* x [M,E] f32 = rows ids[M] of the embedding matrix w [V,E] (an ordinary weight,
 * which may serve as the output matrix too). ids: device. An id outside 0..V-1
 * is undefined on a GPU; callers check. */
msa_rc msa_kern_embed(msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w,
                      const int32_t *ids, int64_t M, float *x, msa_err *err);

/* out [M,E] act = x / sqrt(mean(x^2) + eps) * gamma; x [M,E] f32, gamma [E] f32.
 * Statistics in f32. */
msa_rc msa_kern_rms_norm(msa_kern *k, msa_kern_stream *st, const float *x, const float *gamma,
                         float eps, int64_t M, int64_t E, void *out, msa_err *err);

/* y = x W^T, x [M,K] act, accumulated in f32.
 *   MSA_LINEAR_ACT  out [M,N] act
 *   MSA_LINEAR_F32  out [M,N] f32
 *   MSA_LINEAR_ADD  out [M,N] f32 += y   (the residual stream) */
typedef enum msa_linear_mode { MSA_LINEAR_ACT, MSA_LINEAR_F32, MSA_LINEAR_ADD } msa_linear_mode;
msa_rc msa_kern_linear(msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w, const void *x,
                       int64_t M, void *out, msa_linear_mode mode, msa_err *err);

/* Shape of the packed projection rows that qkv tensors hold:
 * [M, (H + 2G) * D] = H query heads, G key heads, G value heads. */
typedef struct msa_kern_heads {
    int64_t H, G, D;
} msa_kern_heads;

/* In place on qkv [M,(H+2G)D] act: RMSNorm of every q and k head with q_gamma
 * and k_gamma [D] f32 (both NULL: no norm, Llama type), then RoPE with
 * positions pos [M] (device) and frequencies theta^(-i/(D/2)): the first half
 * of a head pairs with the second. Values stay. Angles are computed as
 * pos * frequency in f64, or to the same accuracy. Here and in qk_rope_store,
 * norm_linear and between, pos and the gammas are not what an operation computed: they came by
 * msa_kern_copy, and a device may read them before the operation in front has ended. */
msa_rc msa_kern_qk_rope(msa_kern *k, msa_kern_stream *st, void *qkv, int64_t M, msa_kern_heads h,
                        const float *q_gamma, const float *k_gamma, float eps, const int64_t *pos,
                        double theta, msa_err *err);

/* Causal self-attention of S packed sequences, scale D^-0.5, softmax in f32.
 * qkv [M,(H+2G)D] act; seq_start [S+1] (host): rows of sequence s are
 * seq_start[s] .. seq_start[s+1]-1. out [M,H*D] act. */
msa_rc msa_kern_attn_packed(msa_kern *k, msa_kern_stream *st, const void *qkv, int64_t M,
                            msa_kern_heads h, const int64_t *seq_start, int64_t S, void *out,
                            msa_err *err);

/* Attention of B active sequences over key segments and their own cache.
 * Sequence b owns rows row_start[b] .. row_start[b+1]-1 of q. Its keys are, in
 * order, the segments seg_start[b] .. seg_start[b+1]-1, visible to all its
 * rows, and cache rows 0 .. cache_len[b]-1, of which the last
 * row_start[b+1]-row_start[b] are these rows themselves (causal among them).
 * One softmax over everything, scale D^-0.5. Arrays are host, segment and cache
 * pointers device; a segment of zero rows is allowed. */
typedef struct msa_kern_seg {
    const void *k, *v;   /* row r, head g: k + r*stride + g*D */
    int64_t n_rows, stride;
    msa_dtype dtype;     /* MSA_F32, MSA_BF16 or MSA_I8 */
    const uint16_t *k_scale, *v_scale; /* I8: f16 factor of row r, head g at r*scale_stride + g */
    int64_t scale_stride;
} msa_kern_seg;
typedef struct msa_kern_cache {
    const void *k, *v;   /* [len, G, D] act */
    int64_t len;
} msa_kern_cache;
msa_rc msa_kern_attn_memory(msa_kern *k, msa_kern_stream *st, const void *q, int64_t q_stride,
                            msa_kern_heads h, int64_t B, const int64_t *row_start,
                            const msa_kern_seg *segs, const int64_t *seg_start,
                            const msa_kern_cache *caches, void *out /* [M,H*D] act */, msa_err *err);

/* Copies K and V of rows row_start[b].. of qkv behind row `at[b]` of sequence
 * b's cache: ck[b], cv[b] (device, [capacity, G, D] act). Arrays are host. */
msa_rc msa_kern_cache_store(msa_kern *k, msa_kern_stream *st, const void *qkv, msa_kern_heads h,
                            int64_t B, const int64_t *row_start, void *const *ck, void *const *cv,
                            const int64_t *at, msa_err *err);

/* qk_rope of rows row_start[0] .. row_start[B]-1 of qkv, in place, then cache_store of them. */
msa_rc msa_kern_qk_rope_store(msa_kern *k, msa_kern_stream *st, void *qkv, msa_kern_heads h,
                              const float *q_gamma, const float *k_gamma, float eps,
                              const int64_t *pos, double theta, int64_t B, const int64_t *row_start,
                              void *const *ck, void *const *cv, const int64_t *at, msa_err *err);

/* qk_rope_store, then attn_memory of the same rows, whose caches end with them: out [M,H*D]
 * act. What these rows of qkv hold afterwards is undefined. In a recorded run, segments and
 * the rows of caches before at[b] are not what an operation of that run wrote: a device may
 * read them before the operation in front has ended. */
msa_rc msa_kern_qk_rope_attn(msa_kern *k, msa_kern_stream *st, void *qkv, msa_kern_heads h,
                             const float *q_gamma, const float *k_gamma, float eps,
                             const int64_t *pos, double theta, int64_t B, const int64_t *row_start,
                             const msa_kern_seg *segs, const int64_t *seg_start, void *const *ck,
                             void *const *cv, const int64_t *at, void *out, msa_err *err);

/* out [M,I] act = silu(gate) * up; gu [M,2I] act holds gate, then up. */
msa_rc msa_kern_swiglu(msa_kern *k, msa_kern_stream *st, const void *gu, int64_t M, int64_t I,
                       void *out, msa_err *err);

/* rms_norm into xn [M,K] act, then y = xn W^T: out [M,N] act = y with gu NULL; else
 * swiglu of it, out [M,N/2] act, with gu [M,N] act as room for y (undefined
 * afterwards; N even). Backends may do it in one go, rounding less in between. */
msa_rc msa_kern_norm_linear(msa_kern *k, msa_kern_stream *st, const float *x, const float *gamma,
                            float eps, const msa_kern_weight *w, int64_t M, void *xn, void *gu,
                            void *out, msa_err *err);

/* What stands between the attention of one layer and the rotation of the next:
 *   x += att Wo^T;  mlp = swiglu(rms_norm(x) Wgate_up^T);  x += mlp Wdown^T
 * and, unless next is NULL (behind the last layer), xn = rms_norm(x); qkv = xn Wnext^T,
 * each as linear and norm_linear have it. Backends may do it in one go, rounding less in
 * between. x [M,E] f32; att [M,A] and qkv [M,N] act; xn [M,E], gu [M,2I] and mlp [M,I]
 * act are room: undefined afterwards but for xn when next is there. */
typedef struct msa_kern_link {
    const msa_kern_weight *o;         /* [E, A] */
    const float *gamma;               /* [E], of the norm in front of gate_up */
    const msa_kern_weight *gate_up;   /* [2I, E] */
    const msa_kern_weight *down;      /* [E, I] */
    const float *next_gamma;          /* [E], in front of next */
    const msa_kern_weight *next;      /* [N, E] or NULL */
    float eps;                        /* of both norms */
} msa_kern_link;
msa_rc msa_kern_between(msa_kern *k, msa_kern_stream *st, const msa_kern_link *l, const void *att,
                        int64_t M, float *x, void *xn, void *gu, void *mlp, void *qkv, msa_err *err);

/* out [R,E] f32 = rows idx[R] (host) of x [M,E] f32. */
msa_rc msa_kern_gather(msa_kern *k, msa_kern_stream *st, const float *x, int64_t E,
                       const int64_t *idx, int64_t R, float *out, msa_err *err);

/* ---- pooling (stage 1) ------------------------------------------------------ */

/* One pooled row is the mean of rows start .. start+len-1, 1 <= len <= P. */
typedef struct msa_kern_chunk {
    int64_t start, len;
} msa_kern_chunk;

/* out [C,W] f32: means of columns col .. col+W-1 of x [M, stride] act (or f32
 * when x_f32), accumulated in f32. chunks [C]: host. */
msa_rc msa_kern_pool(msa_kern *k, msa_kern_stream *st, const void *x, bool x_f32, int64_t stride,
                     int64_t col, int64_t W, const msa_kern_chunk *chunks, int64_t C, float *out,
                     msa_err *err);

/* In place: every head x[r, h, :] of [R, heads, D] f32 is divided by
 * max(|x|, 1e-12): torch.nn.functional.normalize. */
msa_rc msa_kern_unit_heads(msa_kern *k, msa_kern_stream *st, float *x, int64_t R, int64_t heads,
                           int64_t D, msa_err *err);

/* dst[r*dst_stride ..] (dtype to) = src[r*src_stride ..] (dtype from), n columns,
 * R rows; f32 and bf16 (round to nearest even) in any combination. */
msa_rc msa_kern_convert(msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from,
                        int64_t src_stride, void *dst, msa_dtype to, int64_t dst_stride, int64_t n,
                        int64_t R, msa_err *err);

/* R rows of n columns (row r at src + r*src_stride, from: F32 or BF16) in 8 bits:
 * groups of D columns (n a multiple of D) share one factor, max |x| / 127 as a f16
 * or f32 number (scale_type), and q = round to nearest even of x / that number,
 * within -127 .. 127. A group of zeros has the factor 0.
 *   dst    row r at dst + r*dst_stride bytes
 *   scale  row r, group i at r*scale_stride + i, of scale_type
 * Router keys take one f32 factor a chunk (D = n), K and V one f16 factor a chunk
 * and head. */
msa_rc msa_kern_quantize(msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from,
                         int64_t src_stride, int64_t n, int64_t D, int64_t R, int8_t *dst,
                         int64_t dst_stride, void *scale, msa_dtype scale_type,
                         int64_t scale_stride, msa_err *err);

/* ---- routing (stage 2) ------------------------------------------------------ */

typedef enum msa_reduce { MSA_REDUCE_MEAN, MSA_REDUCE_MAX, MSA_REDUCE_LAST } msa_reduce;

/* How router queries meet router keys; MSA paper eq. (2), ../spec options. */
typedef struct msa_kern_route {
    msa_kern_heads h;
    bool unit;                 /* normalise query heads ("INFONCE") */
    float scale;               /* factor on the products */
    msa_reduce head;           /* over query heads: MEAN or MAX */
    msa_reduce query;          /* over a question's tokens: MAX, MEAN or LAST */
    msa_reduce chunk;          /* over a document's chunks: MAX or MEAN */
} msa_kern_route;

/* Columns of a prepared router query: G*D when heads are averaged (the sum over
 * the H/G query heads of a group commutes with the product, so they are folded
 * into one vector), H*D otherwise. */
int64_t msa_kern_route_width(const msa_kern_route *r);

/* Prepares router queries. rq: T rows, row t at rq + t*stride, H*D columns, act
 * (or f32 when rq_f32). out [T, route_width] f32: unit-normalised per head when
 * r->unit, scaled, folded when r->head is MEAN. Folding or not, a question whose
 * r->query is MEAN or LAST is not collapsed here. */
msa_rc msa_kern_router_query(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r,
                             const void *rq, bool rq_f32, int64_t stride, int64_t T, float *out,
                             msa_err *err);

/* Scores of B questions against the C chunks of one extent.
 *   q       [T, route_width] f32   prepared queries (device)
 *   q_start [B+1] host             tokens of question b
 *   rk      row c at rk + c*stride elements, [G*D] of dtype F32, BF16 or I8 (device)
 *   scale   [C] f32 factors of I8 rows (device); NULL otherwise
 *   out     [B, C] f32             reduced over heads and the question's tokens
 * Accumulated in f32. With BF16 rows a backend may round the queries to bf16, with
 * I8 rows to 8 bits with one factor a token or a question (exact int32 sums): callers
 * that need the order of exact scores rescore the best (msa_kern_score_docs). */
msa_rc msa_kern_scan(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q,
                     const int64_t *q_start, int64_t B, const void *rk, msa_dtype rk_dtype,
                     const float *scale, int64_t stride, int64_t C, float *out, msa_err *err);

/* Scores of chosen documents, computed from f32 or bf16 rows with f32 queries and
 * f32 (or wider) sums: item i is one document for one question.
 *   out [n] f32 (device) = weight * score, added to what is there when add */
typedef struct msa_kern_doc_rows {
    const void *rk;      /* the document's chunks: row c at rk + c*stride; device or MSA_MEM_MAPPED */
    int64_t n_rows;      /* >= 1 */
    int64_t question;    /* 0..B-1 */
} msa_kern_doc_rows;
msa_rc msa_kern_score_docs(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q,
                           const int64_t *q_start, int64_t B, const msa_kern_doc_rows *items /* host */,
                           int64_t n, msa_dtype rk_dtype, int64_t stride, float weight, bool add,
                           float *out, msa_err *err);

/* Chunk scores to document scores: doc n of the extent owns chunks
 * doc_chunk[n] .. doc_chunk[n+1]-1 (doc_chunk [N+1] device, at least one chunk
 * each). out [B,N] f32 = weight * reduced, added to what is there when add. */
msa_rc msa_kern_doc_scores(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r,
                           const float *chunk_scores, int64_t B, int64_t C,
                           const int64_t *doc_chunk, int64_t N, float weight, bool add, float *out,
                           msa_err *err);

/* The running best lists of B questions. */
typedef struct msa_kern_best {
    float score;
    int32_t pad;   /* zero */
    int64_t doc;   /* document id; -1: empty place */
} msa_kern_best;

/* Merges N scored documents into the best lists: best [B,K] (device), sorted by
 * higher score, then smaller document id; ties and order are exactly so.
 * ids [N] device; alive [N] bytes (device), 0 = withdrawn, NULL = all alive.
 * A NaN score is never chosen. */
msa_rc msa_kern_topk_merge(msa_kern *k, msa_kern_stream *st, const float *scores, int64_t B,
                           int64_t N, const int64_t *ids, const uint8_t *alive, int64_t K,
                           msa_kern_best *best, msa_err *err);
/* Empties best [B,K]. */
msa_rc msa_kern_topk_init(msa_kern *k, msa_kern_stream *st, int64_t B, int64_t K,
                          msa_kern_best *best, msa_err *err);

/* ---- sampling --------------------------------------------------------------- */

typedef struct msa_kern_sample {
    float temperature;  /* 0: the largest logit, ties to the smaller id */
    float top_p;        /* (0,1]: smallest set of tokens whose probability reaches it */
    float u;            /* uniform in [0,1), from the caller's seeded generator */
} msa_kern_sample;

/* One token a row of logits [B,V] f32; params [B] host, out [B] host, valid
 * after the call (it waits). With temperature, tokens are taken in order of
 * falling logit (ties: smaller id) until their softmax mass reaches top_p, and u
 * picks among them by inverse transform. A row holding a NaN is MSA_FATAL
 * (MSA_E_DATA) naming the row. */
msa_rc msa_kern_sample_tokens(msa_kern *k, msa_kern_stream *st, const float *logits, int64_t B,
                              int64_t V, const msa_kern_sample *params, int32_t *out, msa_err *err);

#endif
