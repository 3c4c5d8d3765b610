/* Router queries, scores of documents and the best lists. */
#include <math_constants.h>

#include "kernels/cuda_internal.h"

static __device__ float as_float(float x) { return x; }
static __device__ float as_float(uint16_t bf16) { return __uint_as_float((uint32_t)bf16 << 16); }

static __device__ float warp_sum(float x)
{
    for (int step = 16; step > 0; step >>= 1)
        x += __shfl_xor_sync(~0u, x, step);
    return x;
}

/* ---- router queries --------------------------------------------------------------- */

/* A block a row, a warp an output head: the sum of its `per` query heads. Every lane
 * keeps to its own columns, so what it adds to in `out` needs no barrier. */
template <typename T>
static __global__ void router_query(msa_kern_route r, const T *rq, int64_t stride, float *out)
{
    const int64_t D = r.h.D, heads = r.head == MSA_REDUCE_MEAN ? r.h.G : r.h.H, per = r.h.H / heads;
    const int64_t row = blockIdx.x, lane = threadIdx.x % 32;
    const float factor = r.head == MSA_REDUCE_MEAN ? r.scale / (float)r.h.H : r.scale;
    for (int64_t o = threadIdx.x / 32; o < heads; o += blockDim.x / 32) {
        float *to = out + (row * heads + o) * D;
        for (int64_t i = 0; i < per; i++) {
            const T *x = rq + row * stride + (o * per + i) * D;
            float scale = factor;
            if (r.unit) {
                float sum = 0;
                for (int64_t d = lane; d < D; d += 32)
                    sum += as_float(x[d]) * as_float(x[d]);
                scale = factor / fmaxf(sqrtf(warp_sum(sum)), 1e-12f);
            }
            for (int64_t d = lane; d < D; d += 32)
                to[d] = (i ? to[d] : 0) + as_float(x[d]) * scale;
        }
    }
}

msa_rc msa_cuda_router_query(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r,
                             const void *rq, bool rq_f32, int64_t stride, int64_t T, float *out,
                             msa_err *err)
{
    const cudaStream_t s = msa_cuda_stream(k, st);
    if (rq_f32 || k->info.act == MSA_F32)
        router_query<<<(unsigned)T, 256, 0, s>>>(*r, (const float *)rq, stride, out);
    else
        router_query<<<(unsigned)T, 256, 0, s>>>(*r, (const uint16_t *)rq, stride, out);
    MSA_CUDA_LAUNCHED("router_query");
}

/* ---- scores of chosen documents ----------------------------------------------------- */

enum { DOC_THREADS = 512, DOC_WARPS = DOC_THREADS / 32, DOC_ROWS = 4 };

struct doc_job {
    msa_kern_route r;
    const float *q;
    const int64_t *q_start;
    const msa_kern_doc_rows *items;
    int64_t stride;
    float weight;
    bool add;
    float *out;
};

/* Rows 0..n-1 of n_bytes at rk, as floats: the memory may be the host's, so every
 * byte is read once, and 16 at a time where addresses allow. */
template <typename T>
static __device__ void stage_rows(const T *rk, int64_t stride, int64_t n, int64_t W, float *rows)
{
    enum { WIDE = 16 / sizeof(T) };
    if (((uintptr_t)rk | (uintptr_t)(stride * sizeof(T)) | (uintptr_t)(W * sizeof(T))) % 16 == 0) {
        const int64_t wide = W / WIDE;
        for (int64_t i = threadIdx.x; i < n * wide; i += DOC_THREADS) {
            const int64_t row = i / wide, col = i % wide * WIDE;
            union {
                uint4 v;
                T x[WIDE];
            } got;
            got.v = *(const uint4 *)(rk + row * stride + col);
#pragma unroll
            for (int j = 0; j < WIDE; j++)
                rows[row * W + col + j] = as_float(got.x[j]);
        }
        return;
    }
    for (int64_t i = threadIdx.x; i < n * W; i += DOC_THREADS)
        rows[i] = as_float(rk[i / W * stride + i % W]);
}

/* A block a document: DOC_ROWS chunks at a time stand in shared memory, a warp takes
 * one token after another and meets them all with each number of the query. */
template <typename T>
static __global__ void __launch_bounds__(DOC_THREADS) score_docs(doc_job job)
{
    extern __shared__ float rows[]; /* [DOC_ROWS, W] */
    __shared__ float part[DOC_WARPS][DOC_ROWS];
    const msa_kern_doc_rows item = job.items[blockIdx.x];
    const msa_kern_heads h = job.r.h;
    const bool fold = job.r.head == MSA_REDUCE_MEAN;
    const msa_reduce reduce = job.r.query;
    const int64_t W = h.G * h.D, heads = fold ? 1 : h.H, len = fold ? W : h.D, per = h.H / h.G;
    const int64_t end = job.q_start[item.question + 1];
    const int64_t start = reduce == MSA_REDUCE_LAST ? end - 1 : job.q_start[item.question];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    double doc = job.r.chunk == MSA_REDUCE_MAX ? -CUDART_INF : 0; /* thread 0 */

    for (int64_t c = 0; c < item.n_rows; c += DOC_ROWS) {
        const int64_t left = item.n_rows - c, n = left < DOC_ROWS ? left : DOC_ROWS;
        stage_rows((const T *)item.rk + c * job.stride, job.stride, n, W, rows);
        for (int64_t i = n * W + threadIdx.x; i < DOC_ROWS * W; i += DOC_THREADS)
            rows[i] = 0;
        __syncthreads();

        float got[DOC_ROWS];
#pragma unroll
        for (int j = 0; j < DOC_ROWS; j++)
            got[j] = reduce == MSA_REDUCE_MEAN ? 0 : -CUDART_INF_F;
        for (int64_t t = start + warp; t < end; t += DOC_WARPS) {
            float best[DOC_ROWS];
#pragma unroll
            for (int j = 0; j < DOC_ROWS; j++)
                best[j] = -CUDART_INF_F;
            for (int64_t head = 0; head < heads; head++) {
                const float *q = job.q + (t * heads + head) * len;
                const float *x = rows + (fold ? 0 : head / per * h.D);
                float sum[DOC_ROWS] = {0};
#pragma unroll 8
                for (int64_t i = lane; i < len; i += 32) {
                    const float v = q[i];
#pragma unroll
                    for (int j = 0; j < DOC_ROWS; j++)
                        sum[j] += v * x[j * W + i];
                }
#pragma unroll
                for (int j = 0; j < DOC_ROWS; j++) {
                    sum[j] = warp_sum(sum[j]);
                    best[j] = fold ? sum[j] : fmaxf(best[j], sum[j]);
                }
            }
#pragma unroll
            for (int j = 0; j < DOC_ROWS; j++)
                got[j] = reduce == MSA_REDUCE_MEAN ? got[j] + best[j] : fmaxf(got[j], best[j]);
        }
#pragma unroll
        for (int j = 0; j < DOC_ROWS; j++)
            if (lane == j)
                part[warp][j] = got[j];
        __syncthreads();

        if (threadIdx.x == 0)
            for (int j = 0; j < n; j++) {
                float all = part[0][j];
                for (int w = 1; w < DOC_WARPS; w++)
                    all = reduce == MSA_REDUCE_MEAN ? all + part[w][j] : fmaxf(all, part[w][j]);
                if (reduce == MSA_REDUCE_MEAN)
                    all /= (float)(end - start);
                doc = job.r.chunk == MSA_REDUCE_MAX ? fmax(doc, (double)all) : doc + all;
            }
    }
    if (threadIdx.x == 0) {
        if (job.r.chunk != MSA_REDUCE_MAX)
            doc /= (double)item.n_rows;
        job.out[blockIdx.x] = (float)(job.weight * doc + (job.add ? job.out[blockIdx.x] : 0));
    }
}

msa_rc msa_cuda_score_docs(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q,
                           const int64_t *q_start, int64_t B, const msa_kern_doc_rows *items, int64_t n,
                           msa_dtype rk_dtype, int64_t stride, float weight, bool add, float *out,
                           msa_err *err)
{
    msa_cuda *c = msa_cuda_of(k);
    doc_job job = {*r, q, NULL, NULL, stride, weight, add, out};
    const int64_t W = r->h.G * r->h.D, shared = DOC_ROWS * W * (int64_t)sizeof(float);
    if (W > c->shared_bytes || shared + (int64_t)sizeof(float[DOC_WARPS][DOC_ROWS]) > c->shared_bytes)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL,
                           "score_docs: %lld columns exceed the device's shared memory", (long long)W);
    msa_rc rc = msa_cuda_args(c, st, q_start, (B + 1) * (int64_t)sizeof *q_start,
                              (void **)&job.q_start, err);
    if (rc >= 0)
        rc = msa_cuda_args(c, st, items, n * (int64_t)sizeof *items, (void **)&job.items, err);
    if (rc < 0)
        return rc;
    void (*kernel)(doc_job) = rk_dtype == MSA_F32 ? score_docs<float> : score_docs<uint16_t>;
    if (shared > 40 << 10)
        MSA_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          (int)shared));
    kernel<<<(unsigned)n, DOC_THREADS, (size_t)shared, msa_cuda_stream(k, st)>>>(job);
    MSA_CUDA_LAUNCHED("score_docs");
}

/* ---- chunk scores to document scores -------------------------------------------------- */

/* A NaN stays, whichever side it comes from. */
static __device__ float larger(float a, float b) { return b > a || isnan(b) ? b : a; }

struct reduced {
    float top;
    double sum;
};

/* Reduces scores s[i], i from `first` on in steps, below len >= 1. */
static __device__ reduced reduce_chunks(const float *s, int64_t first, int64_t step, int64_t len)
{
    reduced r = {-CUDART_INF_F, 0};
    for (int64_t i = first; i < len; i += step) {
        r.top = larger(r.top, s[i]);
        r.sum += s[i];
    }
    return r;
}

/* A thread a document; the warp takes the long ones together. A document without
 * chunks in range gets a NaN, which no best list takes. */
static __global__ void doc_scores(const float *chunk_scores, int64_t C, const int64_t *doc_chunk,
                                  int64_t N, bool top, float weight, bool add, float *out)
{
    enum { LONG = 128 };
    const int64_t n = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, b = blockIdx.y;
    const int lane = threadIdx.x % 32;
    chunk_scores += b * C;
    int64_t from = 0, len = 0;
    if (n < N) {
        from = doc_chunk[n];
        len = doc_chunk[n + 1] - from;
        if (from < 0 || len < 1 || from + len > C)
            len = 0;
    }
    reduced mine = {CUDART_NAN_F, CUDART_NAN};
    if (len > 0 && len <= LONG)
        mine = reduce_chunks(chunk_scores + from, 0, 1, len);
    for (unsigned left = __ballot_sync(~0u, len > LONG); left; left &= left - 1) {
        const int owner = __ffs((int)left) - 1;
        reduced r = reduce_chunks(chunk_scores + __shfl_sync(~0u, from, owner), lane, 32,
                                  __shfl_sync(~0u, len, owner));
        for (int step = 16; step > 0; step >>= 1) {
            r.top = larger(r.top, __shfl_xor_sync(~0u, r.top, step));
            r.sum += __shfl_xor_sync(~0u, r.sum, step);
        }
        if (lane == owner)
            mine = r;
    }
    if (n < N) {
        float *o = out + b * N + n;
        const float got = top ? mine.top : (float)(mine.sum / (double)len);
        /* two roundings, as the host's backends have them */
        *o = __fadd_rn(__fmul_rn(weight, got), add ? *o : 0.0f);
    }
}

msa_rc msa_cuda_doc_scores(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r,
                           const float *chunk_scores, int64_t B, int64_t C, const int64_t *doc_chunk,
                           int64_t N, float weight, bool add, float *out, msa_err *err)
{
    const int64_t ROWS = 32768; /* questions of one launch; a grid has at most 65,535 */
    for (int64_t b = 0; b < B; b += ROWS) {
        const dim3 grid((unsigned)((N + 255) / 256), (unsigned)(B - b < ROWS ? B - b : ROWS));
        doc_scores<<<grid, 256, 0, msa_cuda_stream(k, st)>>>(
            chunk_scores + b * C, C, doc_chunk, N, r->chunk == MSA_REDUCE_MAX, weight, add, out + b * N);
    }
    MSA_CUDA_LAUNCHED("doc_scores");
}

/* ---- the best lists --------------------------------------------------------------------
 *
 * Everything offered to a question's list, its entries of before and the scored
 * documents, is cut into parts of PART places. A block keeps its part's scores in
 * registers as integers that order as they do and finds the K-th of them bit by bit;
 * ties on it are decided by the bits of the ids. What the parts chose is offered
 * again, until one part holds it all and is sorted. A list of more than MOST places
 * is filled MOST at a time, each time with what stands behind the last entry: so a
 * document must not be offered twice with the same score, or it enters once. */

static const int TOP_THREADS = 512, TOP_WARPS = TOP_THREADS / 32, HELD = 32;
static const int64_t PART = TOP_THREADS * HELD, MOST = 1024;

struct offered {
    const msa_kern_best *list;   /* [B, n_list] and */
    int64_t n_list;
    const float *scores;         /* [B, n] */
    const int64_t *ids;
    const uint8_t *alive;
    int64_t n;
    const msa_kern_best *behind; /* NULL, or of question b behind[b * behind_stride] */
    int64_t behind_stride;
};

/* One part: places 0..n-1 of a list or of documents. */
struct top_part {
    const msa_kern_best *list;   /* NULL: documents */
    const float *scores;
    const int64_t *ids;
    const uint8_t *alive;
    int n;
};

static __device__ bool before(msa_kern_best a, msa_kern_best b)
{
    if (a.doc < 0 || b.doc < 0)
        return a.doc >= 0;
    return a.score > b.score || (a.score == b.score && a.doc < b.doc);
}

/* Orders as the scores do, both zeros alike; a NaN is 0 and stands below all. */
static __device__ uint32_t sortable(float score)
{
    if (isnan(score))
        return 0;
    const uint32_t u = score == 0 ? 0 : __float_as_uint(score);
    return u >> 31 ? ~u : u | 1u << 31;
}

static __host__ __device__ int64_t parts_of(int64_t n) { return (n + PART - 1) / PART; }

static __device__ top_part part_at(const offered &o, int64_t b, int64_t part)
{
    const int64_t lists = parts_of(o.n_list), at = (part < lists ? part : part - lists) * PART;
    const int64_t left = (part < lists ? o.n_list : o.n) - at;
    const int n = (int)(left < PART ? left : PART);
    if (part < lists)
        return {o.list + b * o.n_list + at, NULL, NULL, NULL, n};
    return {NULL, o.scores + b * o.n + at, o.ids + at, o.alive ? o.alive + at : NULL, n};
}

static __device__ msa_kern_best entry_at(const top_part &p, int place)
{
    return p.list ? p.list[place] : msa_kern_best{p.scores[place], 0, p.ids[place]};
}

/* The places of a thread are every TOP_THREADS-th from its own number on. Bit i of a
 * set stands for its place i, so that code which few places need is not there HELD
 * times. */
#define EACH_PLACE(i) _Pragma("unroll") for (int i = 0; i < HELD; i++)

static __device__ int next_place(uint32_t *set)
{
    const int i = __ffs((int)*set) - 1;
    *set &= *set - 1;
    return i * TOP_THREADS + (int)threadIdx.x;
}

/* A key of 0: nothing to choose there. Loads have no conditions (places past the end
 * read the last one), so that they go out together. */
static __device__ void load_keys(const top_part &p, uint32_t *key)
{
    uint32_t here = 0;
    EACH_PLACE(i)
        here |= (uint32_t)(i * TOP_THREADS + (int)threadIdx.x < p.n) << i;
    if (p.list) {
        uint32_t set = 0;
        EACH_PLACE(i)
            set |= (uint32_t)(p.list[min(i * TOP_THREADS + (int)threadIdx.x, p.n - 1)].doc >= 0) << i;
        here &= set;
        EACH_PLACE(i)
            key[i] = sortable(p.list[min(i * TOP_THREADS + (int)threadIdx.x, p.n - 1)].score);
    } else {
        if (p.alive) {
            uint32_t set = 0;
            EACH_PLACE(i)
                set |= (uint32_t)(p.alive[min(i * TOP_THREADS + (int)threadIdx.x, p.n - 1)] != 0) << i;
            here &= set;
        }
        EACH_PLACE(i)
            key[i] = sortable(p.scores[min(i * TOP_THREADS + (int)threadIdx.x, p.n - 1)]);
    }
    EACH_PLACE(i)
        key[i] = here >> i & 1 ? key[i] : 0;
}

/* Forgets what does not stand behind `last`. */
static __device__ void drop_taken(const top_part &p, msa_kern_best last, uint32_t *key)
{
    uint32_t set = 0, keep = 0;
    EACH_PLACE(i)
        set |= (uint32_t)(key[i] != 0) << i;
    while (set && last.doc >= 0) {
        const uint32_t bit = set & -set;
        if (before(last, entry_at(p, next_place(&set))))
            keep |= bit;
    }
    EACH_PLACE(i)
        key[i] = keep >> i & 1 ? key[i] : 0;
}

/* The sum over the block; sums [2, TOP_WARPS] is used in turns, so one barrier is
 * enough. */
static __device__ int block_sum(unsigned mine, unsigned *sums, int *turn)
{
    const int lane = threadIdx.x % 32;
    unsigned *at = sums + TOP_WARPS * *turn;
    *turn ^= 1;
    mine = __reduce_add_sync(~0u, mine);
    if (lane == 0)
        at[threadIdx.x / 32] = mine;
    __syncthreads();
    return (int)__reduce_add_sync(~0u, lane < TOP_WARPS ? at[lane] : 0);
}

/* The best k <= MOST of part blockIdx.x % parts for question blockIdx.x / parts, at
 * out + question * out_stride + part * k; in order if `sorted`, with empty places
 * behind. */
static __global__ void __launch_bounds__(TOP_THREADS, 2)
choose(const __grid_constant__ offered o, int64_t parts, int k, bool sorted, msa_kern_best *out,
       int64_t out_stride)
{
    __shared__ msa_kern_best chosen[MOST];
    __shared__ unsigned sums[2 * TOP_WARPS];
    __shared__ int taken;
    const int64_t b = blockIdx.x / parts, part = blockIdx.x % parts;
    const top_part p = part_at(o, b, part);
    int turn = 0;
    uint32_t key[HELD];
    load_keys(p, key);
    if (o.behind)
        drop_taken(p, o.behind[b * o.behind_stride], key);

    /* the largest number that k keys reach; 0 if fewer than k are there at all */
    uint32_t least = 0;
    int reach = 0;
    for (int bit = 31; bit >= 0 && reach != k; bit--) {
        const uint32_t want = least | 1u << bit;
        unsigned n = 0;
        EACH_PLACE(i)
            n += key[i] >= want;
        const int all = block_sum(n, sums, &turn);
        if (all >= k) {
            least = want;
            reach = all;
        }
    }
    uint32_t above = 0, ties = 0;
    EACH_PLACE(i) {
        above |= (uint32_t)(key[i] > least) << i;
        ties |= (uint32_t)(key[i] == least && least > 0) << i;
    }
    /* more of them than places: the smallest ids, so the largest complements */
    uint64_t least_id = 0;
    if (reach > k) {
        const int places = k - block_sum(__popc(above), sums, &turn);
        int reach_id = 0;
        for (int bit = 63; bit >= 0 && reach_id != places; bit--) {
            const uint64_t want = least_id | (uint64_t)1 << bit;
            unsigned n = 0;
            for (uint32_t set = ties; set;)
                n += ~(uint64_t)entry_at(p, next_place(&set)).doc >= want;
            const int all = block_sum(n, sums, &turn);
            if (all >= places) {
                least_id = want;
                reach_id = all;
            }
        }
    }

    if (threadIdx.x == 0)
        taken = 0;
    /* ties on both bounds come last: the same document may stand there twice */
    for (int last = 0; last < 2; last++) {
        __syncthreads();
        for (uint32_t set = last ? ties : above | ties; set;) {
            const bool tie = ties & set & -set;
            const msa_kern_best e = entry_at(p, next_place(&set));
            if (tie && (last ? ~(uint64_t)e.doc != least_id : ~(uint64_t)e.doc <= least_id))
                continue;
            const int at = atomicAdd(&taken, 1);
            if (at < k)
                chosen[at] = e;
        }
    }
    __syncthreads();
    int size = k;
    if (sorted)
        for (size = 1; size < k;)
            size *= 2;
    /* taken counts every tie on both bounds, also those beyond the k places */
    for (int i = min(taken, k) + (int)threadIdx.x; i < size; i += TOP_THREADS)
        chosen[i] = {-CUDART_INF_F, 0, -1};
    __syncthreads();
    if (sorted) /* bitonic */
        for (int run = 2; run <= size; run *= 2)
            for (int step = run / 2; step > 0; step /= 2) {
                for (int i = threadIdx.x; i < size; i += TOP_THREADS) {
                    const int j = i ^ step;
                    if (j < i)
                        continue; /* the other place's turn */
                    const msa_kern_best x = chosen[i], y = chosen[j];
                    if ((i & run) == 0 ? before(y, x) : before(x, y)) {
                        chosen[i] = y;
                        chosen[j] = x;
                    }
                }
                __syncthreads();
            }
    for (int i = threadIdx.x; i < k; i += TOP_THREADS)
        out[b * out_stride + part * k + i] = chosen[i];
}

/* Entries of the two buffers between rounds, and of the copy that a list longer than
 * MOST is built in. None falls when an argument grows. */
struct top_room {
    int64_t first, second, whole;
};

static bool top_entries(int64_t B, int64_t N, int64_t K, top_room *r)
{
    int64_t n;
    if (!msa_add(N, K, &n) || !msa_add(n, 2 * PART, &n))
        return false;
    const int64_t k = K < MOST ? K : MOST, parts = parts_of(K) + parts_of(N);
    *r = (top_room){0, 0, 0};
    return msa_mul(B, parts * k, &r->first) && msa_mul(B, parts_of(parts * k) * k, &r->second) &&
           (K <= MOST || msa_mul(B, K, &r->whole));
}

bool msa_cuda_route_bytes(const msa_cuda *c, const msa_kern_shape *s, int64_t *bytes)
{
    (void)c;
    top_room r;
    int64_t n;
    return top_entries(s->queries, s->scan_docs, s->top_k, &r) && msa_add(r.first, r.second, &n) &&
           msa_add(n, r.whole, &n) && msa_mul(n, (int64_t)sizeof(msa_kern_best), bytes);
}

msa_rc msa_cuda_topk_merge(msa_kern *k, msa_kern_stream *st, const float *scores, int64_t B,
                           int64_t N, const int64_t *ids, const uint8_t *alive, int64_t K,
                           msa_kern_best *best, msa_err *err)
{
    const cudaStream_t s = msa_cuda_stream(k, st);
    top_room room;
    top_entries(B, N, K, &room); /* the reservation is larger */
    msa_kern_best *first = (msa_kern_best *)msa_cuda_of(k)->route_scratch;
    msa_kern_best *second = first + room.first, *whole = second + room.second;
    msa_kern_best *result = K > MOST ? whole : best;
    for (int64_t done = 0; done < K; done += MOST) {
        const int64_t now = K - done < MOST ? K - done : MOST;
        offered o = {best, K, scores, ids, alive, N, done ? result + done - 1 : NULL, K};
        int64_t parts = parts_of(K) + parts_of(N);
        msa_kern_best *to = first, *next = second;
        while (parts > 1) {
            choose<<<(unsigned)(B * parts), TOP_THREADS, 0, s>>>(o, parts, (int)now, false, to,
                                                                 parts * now);
            o = {to, parts * now, NULL, NULL, NULL, 0, NULL, 0};
            parts = parts_of(parts * now);
            msa_kern_best *swap = to;
            to = next;
            next = swap;
        }
        choose<<<(unsigned)B, TOP_THREADS, 0, s>>>(o, 1, (int)now, true, result + done, K);
    }
    if (result != best)
        MSA_CUDA_TRY(cudaMemcpyAsync(best, result, (size_t)(B * K) * sizeof *best,
                                     cudaMemcpyDeviceToDevice, s));
    MSA_CUDA_LAUNCHED("topk_merge");
}

static __global__ void empty_lists(msa_kern_best *best, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        best[i] = {-CUDART_INF_F, 0, -1};
}

msa_rc msa_cuda_topk_init(msa_kern *k, msa_kern_stream *st, int64_t B, int64_t K,
                          msa_kern_best *best, msa_err *err)
{
    empty_lists<<<(unsigned)((B * K + 255) / 256), 256, 0, msa_cuda_stream(k, st)>>>(best, B * K);
    MSA_CUDA_LAUNCHED("topk_init");
}
