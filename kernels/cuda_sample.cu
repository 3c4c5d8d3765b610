/* CUDA: choosing tokens from logits.
 *
 * Logits are compared as 32-bit keys that order as the numbers do. The largest comes
 * from one pass over all rows. With temperature a cluster of eight blocks takes a row:
 * it walks down the key four bits a step, each step summing the mass of the sixteen
 * next digits, to the token where the mass so far passes a target; once for the set
 * that top_p keeps and once for u within it. Masses are whole numbers, softmax weights
 * times a power of two, so sums are the same in any order and both walks agree. */
#include <cooperative_groups.h>

#include "kernels/cuda_internal.h"

namespace cg = cooperative_groups;

enum { CLUSTER = 8, THREADS = 512, WARPS = THREADS / 32, DIGIT = 4, DIGITS = 1 << DIGIT };
static const uint32_t NAN_KEY = 0xffffffffu;

static __device__ __forceinline__ uint32_t key_of(float v)
{
    const uint32_t u = __float_as_uint(v + 0.0f); /* -0 is 0 */
    return isnan(v) ? NAN_KEY : u & 0x80000000u ? ~u : u | 0x80000000u;
}

static __device__ __forceinline__ float value_of(uint32_t key)
{
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

/* ---- the largest -------------------------------------------------------------------- */

/* Rows on x, slices of a row on y. best[row]: the key above, below it ~id, so that of
 * equal keys the smaller id is larger. */
static __global__ void largest_kernel(const float *logits, int64_t B, int64_t V, int64_t slice, unsigned long long *best)
{
    __shared__ unsigned long long part[THREADS / 32];
    const int64_t end = min((int64_t)(blockIdx.y + 1) * slice, V);
    for (int64_t b = blockIdx.x; b < B; b += gridDim.x) {
        unsigned long long top = 0;
        for (int64_t i = blockIdx.y * slice + threadIdx.x; i < end; i += blockDim.x) {
            const unsigned long long mine = (unsigned long long)key_of(logits[b * V + i]) << 32 | ~(uint32_t)i;
            top = max(top, mine);
        }
        for (int o = 16; o > 0; o /= 2)
            top = max(top, __shfl_xor_sync(~0u, top, o));
        if (threadIdx.x % 32 == 0)
            part[threadIdx.x / 32] = top;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int i = 1; i < (int)blockDim.x / 32; i++)
                top = max(top, part[i]);
            atomicMax(&best[b], top);
        }
        __syncthreads();
    }
}

static __global__ void largest_ids_kernel(const unsigned long long *best, int64_t B, int32_t *ids)
{
    const int64_t b = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (b < B)
        ids[b] = best[b] >> 32 == NAN_KEY ? -1 : (int32_t)~(uint32_t)best[b];
}

/* ---- drawing --------------------------------------------------------------------------- */

/* What a block of a row's cluster knows. */
struct row {
    const float *logits;  /* the block's slice: ids first .. first+n-1 */
    int64_t first, n;
    double top, temperature, one; /* one: the mass of the largest logit */
};

struct shared {
    unsigned long long warp[WARPS][DIGITS];
    unsigned long long block[2][DIGITS]; /* read by the other blocks; two, in turns */
    unsigned long long all[DIGITS];
    unsigned count[WARPS], counted;
};

static __device__ __forceinline__ unsigned long long mass(const row &r, float v)
{
    const double d = ((double)v - r.top) / r.temperature;
    /* exp(-44) * 2^52 is less than a half */
    return d < -44 ? 0 : __double2ull_rn(exp(d) * r.one);
}

/* The next digit's masses over the row, among keys whose upper bits are `prefix`. */
static __device__ void digit_masses(const row &r, shared *s, uint32_t prefix, int step)
{
    cg::cluster_group cluster = cg::this_cluster();
    const int shift = 32 - DIGIT * (step + 1), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    unsigned long long sum[DIGITS];
#pragma unroll
    for (int i = 0; i < DIGITS; i++)
        sum[i] = 0;
    for (int64_t i = threadIdx.x; i < r.n; i += THREADS) {
        const uint32_t digits = key_of(r.logits[i]) >> shift;
        if (digits >> DIGIT != prefix)
            continue;
        const unsigned long long m = mass(r, r.logits[i]);
#pragma unroll
        for (int j = 0; j < DIGITS; j++)
            sum[j] += (digits & (DIGITS - 1)) == j ? m : 0;
    }
#pragma unroll
    for (int j = 0; j < DIGITS; j++) {
#pragma unroll
        for (int o = 16; o > 0; o /= 2)
            sum[j] += __shfl_xor_sync(~0u, sum[j], o);
        if (lane == 0)
            s->warp[warp][j] = sum[j];
    }
    __syncthreads();
    if (threadIdx.x < DIGITS) {
        unsigned long long all = 0;
        for (int w = 0; w < WARPS; w++)
            all += s->warp[w][threadIdx.x];
        s->block[step % 2][threadIdx.x] = all;
    }
    cluster.sync();
    if (threadIdx.x < DIGITS) {
        unsigned long long all = 0;
        for (int b = 0; b < CLUSTER; b++)
            all += cluster.map_shared_rank(s, b)->block[step % 2][threadIdx.x];
        s->all[threadIdx.x] = all;
    }
    __syncthreads();
}

/* The first token in falling order (equal logits: by id) with whose mass the sum
 * reaches, or when `above` exceeds, `share` of `whole`; whole 0: of the whole row.
 * Returns that sum; *key and *nth: the token is the nth (from 1) of its key. */
static __device__ unsigned long long walk(const row &r, shared *s, double share, unsigned long long whole,
                                          bool above, uint32_t *key, unsigned long long *nth)
{
    uint32_t prefix = 0;
    unsigned long long before = 0, among = 0;
    double target = 0;
    for (int step = 0; step < 32 / DIGIT; step++) {
        digit_masses(r, s, prefix, step);
        if (step == 0) {
            for (int j = 0; whole == 0 && j < DIGITS; j++)
                among += s->all[j];
            target = share * (double)(whole ? whole : among);
        }
        int j = DIGITS - 1;
        for (; j > 0; j--) {
            const double sum = (double)(before + s->all[j]);
            if (s->all[j] > 0 && (above ? sum > target : sum >= target))
                break;
            before += s->all[j];
        }
        among = s->all[j];
        prefix = prefix << DIGIT | j;
        __syncthreads(); /* all[] is written by the next step */
    }
    const unsigned long long each = mass(r, value_of(prefix));
    unsigned long long lo = 1, hi = each ? among / each : 1;
    while (lo < hi) {
        const unsigned long long mid = (lo + hi) / 2;
        const double sum = (double)(before + mid * each);
        if (above ? sum > target : sum >= target)
            hi = mid;
        else
            lo = mid + 1;
    }
    *key = prefix;
    *nth = lo;
    return before + lo * each;
}

/* Stores the id of the nth token of a key: ids rise over the blocks of the cluster,
 * their warps and lanes. */
static __device__ void store_nth(const row &r, shared *s, uint32_t key, unsigned long long nth, int32_t *id)
{
    cg::cluster_group cluster = cg::this_cluster();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t share = (r.n + THREADS - 1) / THREADS * 32;
    const int64_t from = min(warp * share, r.n), to = min(from + share, r.n);
    unsigned count = 0;
    for (int64_t i = from; i < to; i += 32)
        count += __popc(__ballot_sync(~0u, i + lane < to && key_of(r.logits[i + lane]) == key));
    if (lane == 0)
        s->count[warp] = count;
    __syncthreads();
    if (threadIdx.x == 0) {
        s->counted = 0;
        for (int w = 0; w < WARPS; w++)
            s->counted += s->count[w];
    }
    cluster.sync();
    unsigned long long at = nth - 1; /* how many of its kind stand before it */
    for (unsigned b = 0; b < cluster.block_rank(); b++) {
        const unsigned other = cluster.map_shared_rank(s, b)->counted;
        at = at < other ? ~0ull : at - other; /* in an earlier block: never found below */
        if (at == ~0ull)
            break;
    }
    for (int w = 0; at != ~0ull && w < warp; w++)
        at = at < s->count[w] ? ~0ull : at - s->count[w];
    if (at < count)
        for (int64_t i = from; i < to; i += 32) {
            const bool is = i + lane < to && key_of(r.logits[i + lane]) == key;
            const unsigned mask = __ballot_sync(~0u, is), below = __popc(mask & ((1u << lane) - 1));
            if (is && at == below)
                *id = (int32_t)(r.first + i + lane);
            if (at < (unsigned)__popc(mask))
                break;
            at -= __popc(mask);
        }
    cluster.sync(); /* counted is read by the others until here */
}

/* A cluster a row. held: room in shared memory for a slice, 0: it is read in place. */
static __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS)
draw_kernel(const float *logits, int64_t V, const msa_kern_sample *params, const unsigned long long *best,
            double one, int64_t held, int32_t *ids)
{
    extern __shared__ float slice[];
    __shared__ shared s;
    const int64_t b = blockIdx.x / CLUSTER, per = (V + CLUSTER - 1) / CLUSTER;
    const msa_kern_sample p = params[b];
    const uint32_t top = (uint32_t)(best[b] >> 32);
    const float value = value_of(top);
    if (top == NAN_KEY || p.temperature == 0 || isinf(value)) {
        if (blockIdx.x % CLUSTER == 0 && threadIdx.x == 0)
            ids[b] = top == NAN_KEY ? -1 : (int32_t)~(uint32_t)best[b];
        return;
    }
    row r;
    r.first = min(blockIdx.x % CLUSTER * per, V);
    r.n = min(per, V - r.first);
    r.logits = logits + b * V + r.first;
    r.top = value;
    r.temperature = p.temperature;
    r.one = one;
    if (held) {
        for (int64_t i = threadIdx.x; i < r.n; i += THREADS)
            slice[i] = r.logits[i];
        r.logits = slice;
        __syncthreads();
    }
    uint32_t key;
    unsigned long long nth;
    const unsigned long long kept = walk(r, &s, p.top_p, 0, false, &key, &nth);
    walk(r, &s, p.u, kept, true, &key, &nth);
    store_nth(r, &s, key, nth, &ids[b]);
}

/* ---- the operation ------------------------------------------------------------------------ */

/* Scratch: a number of 64 bits a row, then an id a row. */
bool msa_cuda_sample_bytes(const msa_cuda *c, const msa_kern_shape *s, int64_t *bytes)
{
    (void)c;
    return msa_mul(s->rows, sizeof(uint64_t) + sizeof(int32_t), bytes);
}

msa_rc msa_cuda_sample_tokens(msa_kern *k, msa_kern_stream *st, const float *logits, int64_t B, int64_t V,
                              const msa_kern_sample *params, int32_t *out, msa_err *err)
{
    enum { SLICES = 32, SLICE = 4096, LARGEST_THREADS = 256 };
    msa_cuda *c = msa_cuda_of(k);
    const cudaStream_t s = msa_cuda_stream(k, st);
    unsigned long long *best = (unsigned long long *)c->sample_scratch;
    int32_t *ids = (int32_t *)(best + k->cap.rows);
    bool drawn = false;
    for (int64_t b = 0; b < B; b++)
        drawn |= params[b].temperature != 0;
    if (B > INT32_MAX / CLUSTER)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "sample: too many rows");

    MSA_CUDA_TRY(cudaMemsetAsync(best, 0, (size_t)B * sizeof *best, s));
    int64_t slices = (V + SLICE - 1) / SLICE;
    if (slices > SLICES)
        slices = SLICES;
    largest_kernel<<<dim3((unsigned)B, (unsigned)slices), LARGEST_THREADS, 0, s>>>(
        logits, B, V, (V + slices - 1) / slices, best);
    MSA_CUDA_TRY(cudaGetLastError());
    if (drawn) {
        void *d;
        msa_rc rc = msa_cuda_args(c, st, params, B * (int64_t)sizeof *params, &d, err);
        if (rc < 0)
            return rc;
        /* sums of V masses stay below 2^63, and a mass is a whole double */
        int bits = 0;
        while (V >> bits)
            bits++;
        const double one = (double)(1ull << (62 - bits < 52 ? 62 - bits : 52));
        int64_t held = (V + CLUSTER - 1) / CLUSTER * (int64_t)sizeof(float);
        if (held > c->shared_bytes - (int64_t)sizeof(shared) - 1024)
            held = 0;
        MSA_CUDA_TRY(cudaFuncSetAttribute(draw_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)held));
        draw_kernel<<<(unsigned)(B * CLUSTER), THREADS, (size_t)held, s>>>(
            logits, V, (const msa_kern_sample *)d, best, one, held, ids);
    } else {
        largest_ids_kernel<<<(unsigned)((B + 255) / 256), 256, 0, s>>>(best, B, ids);
    }
    MSA_CUDA_TRY(cudaGetLastError());
    MSA_CUDA_TRY(cudaMemcpyAsync(out, ids, (size_t)B * sizeof *out, cudaMemcpyDeviceToHost, s));
    MSA_CUDA_TRY(cudaStreamSynchronize(s));
    for (int64_t b = 0; b < B; b++)
        if (out[b] < 0)
            return msa_err_set(err, MSA_FATAL, MSA_E_DATA, "sample: the logits of row %lld hold a NaN",
                               (long long)b);
    return MSA_OK;
}
