/* The routing scan: converts queries, then takes the fast scan (cuda_scan_wgmma.cu) for
 * rows of bf16 or 8 bits with folded heads, the plain one below for everything else. */
#include <cooperative_groups.h>
#include <cuda_bf16.h>

#include "kernels/cuda_scan.h"
#include "kernels/cuda_wgmma.h"

/* ---- queries ------------------------------------------------------------------------- */

#define CONVERT_BLOCKS 8    /* a cluster: the blocks of one question */
#define CONVERT_THREADS 256

/* 8-bit columns have one factor a question; bf16 ones the factor 1. */
static __device__ __forceinline__ int8_t converted(float v, float factor, int8_t)
{
    const float q = factor > 0 ? rintf(v / factor) : 0;
    return (int8_t)fminf(fmaxf(q, -127), 127);
}
static __device__ __forceinline__ __nv_bfloat16 converted(float v, float, __nv_bfloat16)
{
    return __float2bfloat16_rn(v);
}
static __device__ __forceinline__ float converted(float v, float, float) { return v; }

/* The factor of values whose largest has these bits without the sign. A value that is
 * not finite leaves the factor so, and with it the scores. */
static __device__ __forceinline__ float factor_of(uint32_t largest, int8_t)
{
    return __uint_as_float(largest) / 127.0f;
}
static __device__ __forceinline__ float factor_of(uint32_t, __nv_bfloat16) { return 1; }
static __device__ __forceinline__ float factor_of(uint32_t, float) { return 1; }

static __device__ __forceinline__ uint32_t magnitude(float v)
{
    return __float_as_uint(v) & 0x7fffffffu;
}

template <typename t> struct alignas(4 * sizeof(t)) quad {
    t x, y, z, w;
};

/* Tokens of each question in columns of their own, groups of 8 a question, the last
 * token repeated. A cluster a question. columns [., W], W a multiple of 4. */
template <typename to>
static __global__ void __cluster_dims__(CONVERT_BLOCKS, 1, 1) __launch_bounds__(CONVERT_THREADS)
    columns_of_tokens(const float *q, const int64_t *q_start, int64_t W, to *columns, float *factor,
                      int32_t *ends)
{
    namespace cg = cooperative_groups;
    cg::cluster_group cluster = cg::this_cluster();
    __shared__ uint32_t largest;
    __shared__ int32_t first_group;
    next_may_start();
    const int64_t b = blockIdx.y, n = q_start[b + 1] - q_start[b], n_groups = (n + 7) / 8;
    const int lane = (int)(threadIdx.x % 32), n_warps = CONVERT_BLOCKS * CONVERT_THREADS / 32;
    const int warp = (int)(blockIdx.x * (CONVERT_THREADS / 32) + threadIdx.x / 32);
    if (threadIdx.x == 0) {
        largest = 0;
        first_group = 0;
    }
    __syncthreads();
    int32_t groups = 0;
    for (int64_t i = threadIdx.x; i < b; i += CONVERT_THREADS)
        groups += (int32_t)((q_start[i + 1] - q_start[i] + 7) / 8);
    if (groups)
        atomicAdd(&first_group, groups);
    const float4 *rows = (const float4 *)(q + q_start[b] * W);
    if (sizeof(to) == 1) {
        uint32_t top = 0;
        for (int64_t t = warp; t < n; t += n_warps)
            for (int64_t i = lane; i < W / 4; i += 32) {
                const float4 v = rows[t * (W / 4) + i];
                top = max(max(max(top, magnitude(v.x)), max(magnitude(v.y), magnitude(v.z))),
                          magnitude(v.w));
            }
        top = __reduce_max_sync(~0u, top);
        if (lane == 0)
            atomicMax(&largest, top);
    }
    cluster.sync();
    uint32_t top = 0;
    for (unsigned rank = 0; rank < CONVERT_BLOCKS; rank++)
        top = max(top, *cluster.map_shared_rank(&largest, rank));
    const float f = factor_of(top, to());
    for (int64_t j = warp; j < n_groups * 8; j += n_warps) {
        const int64_t t = j < n ? j : n - 1;
        to *column = columns + (first_group * (int64_t)8 + j) * W;
        for (int64_t i = lane; i < W / 4; i += 32) {
            const float4 v = rows[t * (W / 4) + i];
            *(struct quad<to> *)(column + 4 * i) = {converted(v.x, f, to()), converted(v.y, f, to()),
                                                    converted(v.z, f, to()), converted(v.w, f, to())};
        }
    }
    if (blockIdx.x == 0) {
        for (int64_t g = threadIdx.x; g < n_groups; g += CONVERT_THREADS)
            ends[first_group + g] = g == n_groups - 1 ? (int32_t)b : -1;
        if (threadIdx.x == 0)
            factor[b] = f;
    }
    /* the other blocks read `largest` */
    cluster.sync();
}

/* The mean or the last of a question's tokens in one column: mean [B, W] f32 and, when
 * `to` is not float, columns [B, W] with the questions' factors. A block a question. */
template <typename to>
static __global__ void __launch_bounds__(CONVERT_THREADS)
    columns_of_questions(const float *q, const int64_t *q_start, int64_t W, bool last, float *mean,
                         to *columns, float *factor)
{
    __shared__ uint32_t largest;
    next_may_start();
    const int64_t b = blockIdx.x, end = q_start[b + 1], begin = last ? end - 1 : q_start[b];
    if (threadIdx.x == 0)
        largest = 0;
    __syncthreads();
    mean += b * W;
    uint32_t top = 0;
    for (int64_t w = threadIdx.x; w < W; w += CONVERT_THREADS) {
        float sum = 0;
#pragma unroll 8
        for (int64_t t = begin; t < end; t++)
            sum += q[t * W + w];
        mean[w] = sum / (float)(end - begin);
        top = max(top, magnitude(mean[w]));
    }
    if (sizeof(to) == sizeof(float))
        return;
    top = __reduce_max_sync(~0u, top);
    if (threadIdx.x % 32 == 0)
        atomicMax(&largest, top);
    __syncthreads();
    const float f = factor_of(largest, to());
    for (int64_t w = threadIdx.x; w < W; w += CONVERT_THREADS)
        columns[b * W + w] = converted(mean[w], f, to());
    if (threadIdx.x == 0)
        factor[b] = f;
}

/* ---- any shape -------------------------------------------------------------------------- */

#define PLAIN_KEYS 64
#define PLAIN_TOKENS 32
#define PLAIN_DEPTH 32
#define PLAIN_THREADS 256   /* 16 x 16, each 4 keys x 2 tokens */

struct plain_args {
    const float *q;          /* [., heads * depth] */
    const int64_t *q_start;  /* NULL: row b of q is question b */
    int64_t B, heads, per, depth; /* query head h meets columns h / per * depth .. of a key */
    const float *scale;
    int64_t stride, C;
    msa_reduce query;
    float *out;
};

static __device__ __forceinline__ float number(float v) { return v; }
static __device__ __forceinline__ float number(__nv_bfloat16 v) { return __bfloat162float(v); }
static __device__ __forceinline__ float number(int8_t v) { return v; }

/* Sums in f32. A block takes 64 keys and either a question or 32 single columns. */
template <typename from>
static __global__ void __launch_bounds__(PLAIN_THREADS)
    scan_plain(const struct plain_args a, const from *rk)
{
    __shared__ float keys[PLAIN_DEPTH][PLAIN_KEYS + 1], tokens[PLAIN_DEPTH][PLAIN_TOKENS + 1];
    __shared__ float parts[16][PLAIN_KEYS];
    const int lane = (int)(threadIdx.x % 32), warp = (int)(threadIdx.x / 32);
    const int x = (int)(threadIdx.x % 16), y = (int)(threadIdx.x / 16);
    const int64_t first_key = (int64_t)blockIdx.x * PLAIN_KEYS, width = a.heads * a.depth;
    const int64_t parties = a.q_start ? a.B : (a.B + PLAIN_TOKENS - 1) / PLAIN_TOKENS;
    const bool largest = a.query == MSA_REDUCE_MAX;
    for (int64_t p = blockIdx.y; p < parties; p += gridDim.y) {
        int64_t begin = p * PLAIN_TOKENS, end = min(a.B, begin + PLAIN_TOKENS);
        if (a.q_start) {
            end = a.q_start[p + 1];
            begin = a.query == MSA_REDUCE_LAST ? end - 1 : a.q_start[p];
        }
        float all[4];
        for (int i = 0; i < 4; i++)
            all[i] = largest ? -INFINITY : 0;
        for (int64_t t0 = begin; t0 < end; t0 += PLAIN_TOKENS) {
            float best[4][2];
            for (int64_t head = 0; head < a.heads; head++) {
                float sum[4][2] = {};
                for (int64_t k0 = 0; k0 < a.depth; k0 += PLAIN_DEPTH) {
                    const bool inside = k0 + lane < a.depth;
                    const from *key = rk + head / a.per * a.depth + k0 + lane;
                    const float *token = a.q + head * a.depth + k0 + lane;
                    __syncthreads();
                    for (int i = warp; i < PLAIN_KEYS; i += PLAIN_THREADS / 32)
                        keys[lane][i] = inside && first_key + i < a.C
                                            ? number(key[(first_key + i) * a.stride]) : 0;
                    for (int i = warp; i < PLAIN_TOKENS; i += PLAIN_THREADS / 32)
                        tokens[lane][i] = inside && t0 + i < end ? token[(t0 + i) * width] : 0;
                    __syncthreads();
#pragma unroll 8
                    for (int k = 0; k < PLAIN_DEPTH; k++)
                        for (int i = 0; i < 4; i++)
                            for (int j = 0; j < 2; j++)
                                sum[i][j] += keys[k][x + 16 * i] * tokens[k][y + 16 * j];
                }
                for (int i = 0; i < 4; i++)
                    for (int j = 0; j < 2; j++)
                        best[i][j] = head ? fmaxf(best[i][j], sum[i][j]) : sum[i][j];
            }
            for (int j = 0; j < 2; j++)
                for (int i = 0; i < 4; i++) {
                    const int64_t token = t0 + y + 16 * j, key = first_key + x + 16 * i;
                    if (token >= end)
                        continue;
                    if (a.q_start)
                        all[i] = largest ? fmaxf(all[i], best[i][j]) : all[i] + best[i][j];
                    else if (key < a.C)
                        a.out[token * a.C + key] = best[i][j] * (a.scale ? a.scale[key] : 1);
                }
        }
        if (!a.q_start)
            continue;
        for (int i = 0; i < 4; i++)
            parts[y][x + 16 * i] = all[i];
        __syncthreads();
        const int64_t key = first_key + threadIdx.x;
        if (threadIdx.x < PLAIN_KEYS && key < a.C) {
            float r = parts[0][threadIdx.x];
            for (int i = 1; i < 16; i++)
                r = largest ? fmaxf(r, parts[i][threadIdx.x]) : r + parts[i][threadIdx.x];
            if (!largest)
                r /= (float)(end - begin);
            a.out[p * a.C + key] = r * (a.scale ? a.scale[key] : 1);
        }
    }
}

/* ---- the operation ------------------------------------------------------------------------ */

/* Scratch of a scan of B questions in n columns: offsets, and its size. */
struct scratch {
    int64_t columns, factor, ends, mean, total;
};

static bool scratch_of(int64_t W, int64_t n_columns, int64_t B, struct scratch *s)
{
    const int64_t sizes[4][3] = {{n_columns, W, 2}, {B, 4, 1}, {n_columns, 1, 1}, {B, W, 4}};
    int64_t *places[4] = {&s->columns, &s->factor, &s->ends, &s->mean};
    int64_t at = 0;
    for (int i = 0; i < 4; i++) {
        int64_t n;
        *places[i] = at;
        if (!msa_mul(sizes[i][0], sizes[i][1], &n) || !msa_mul(n, sizes[i][2], &n) ||
            !msa_add(at, n, &at) || !msa_add(at, 255, &at))
            return false;
        at -= at % 256;
    }
    s->total = at;
    return true;
}

bool msa_cuda_scan_bytes(const msa_cuda *c, const msa_kern_shape *max, int64_t *bytes)
{
    (void)c;
    struct scratch s;
    int64_t W, n;
    if (!msa_mul(max->G, max->D, &W) || !msa_mul(max->queries, 7, &n) ||
        !msa_add(n, max->route_tokens, &n) || !scratch_of(W, n, max->queries, &s))
        return false;
    *bytes = s.total;
    return true;
}

/* Queries of the fast scan in scratch, and the scan; q_start: device. */
template <typename to>
static msa_rc scan_fast(msa_cuda *c, cudaStream_t st, const float *q, const int64_t *q_start, int64_t B,
                        bool single, bool last, float *mean, msa_cuda_scan_fast *a, msa_err *err)
{
    if (single)
        columns_of_questions<to><<<(unsigned)B, CONVERT_THREADS, 0, st>>>(
            q, q_start, a->W, last, mean, (to *)a->columns, (float *)a->factor);
    else
        columns_of_tokens<to><<<dim3(CONVERT_BLOCKS, (unsigned)B), CONVERT_THREADS, 0, st>>>(
            q, q_start, a->W, (to *)a->columns, (float *)a->factor, (int32_t *)a->ends);
    MSA_CUDA_TRY(cudaGetLastError());
    return msa_cuda_scan_fast_run(c, st, a, err);
}

static void scan_any(cudaStream_t st, const struct plain_args *a, const void *rk, msa_dtype t)
{
    const int64_t parties = a->q_start ? a->B : (a->B + PLAIN_TOKENS - 1) / PLAIN_TOKENS;
    const dim3 grid((unsigned)((a->C + PLAIN_KEYS - 1) / PLAIN_KEYS),
                    (unsigned)(parties < 65535 ? parties : 65535));
    if (t == MSA_F32)
        scan_plain<<<grid, PLAIN_THREADS, 0, st>>>(*a, (const float *)rk);
    else if (t == MSA_BF16)
        scan_plain<<<grid, PLAIN_THREADS, 0, st>>>(*a, (const __nv_bfloat16 *)rk);
    else
        scan_plain<<<grid, PLAIN_THREADS, 0, st>>>(*a, (const int8_t *)rk);
}

msa_rc msa_cuda_scan(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q,
                     const int64_t *q_start, int64_t B, const void *rk, msa_dtype rk_dtype,
                     const float *scale, int64_t stride, int64_t C, float *out, msa_err *err)
{
    msa_cuda *c = msa_cuda_of(k);
    cudaStream_t s = msa_cuda_stream(k, st);
    const msa_kern_heads h = r->h;
    const int64_t W = h.G * h.D, n_tokens = q_start[B] - q_start[0];
    const bool folded = r->head == MSA_REDUCE_MEAN;
    /* a folded question of one vector: means and last tokens commute with the product */
    const bool single = folded && (r->query != MSA_REDUCE_MAX || n_tokens == B);
    int64_t n_columns = 0;
    for (int64_t b = 0; b < B; b++)
        n_columns += single ? 1 : (q_start[b + 1] - q_start[b] + 7) / 8 * 8;
    struct scratch at;
    if (!scratch_of(W, n_columns, B, &at) || (folded && at.total > c->scan_bytes))
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL,
                           "scan: %lld tokens of width %lld are beyond the reservation",
                           (long long)n_tokens, (long long)W);
    void *borders;
    msa_rc rc = msa_cuda_args(c, st, q_start, (B + 1) * (int64_t)sizeof *q_start, &borders, err);
    if (rc < 0)
        return rc;
    const int64_t *starts = (const int64_t *)borders;
    char *scratch = (char *)c->scan_scratch;
    float *mean = (float *)(scratch + at.mean);
    const bool last = r->query == MSA_REDUCE_LAST;

    msa_cuda_scan_fast f = {rk, rk_dtype, stride, W, C, rk_dtype == MSA_I8 ? scale : NULL,
                            scratch + at.columns, n_columns, (float *)(scratch + at.factor),
                            single ? NULL : (int32_t *)(scratch + at.ends), out};
    /* float32 activations ask for exact products, 8-bit rows cannot have them */
    const bool may_round = rk_dtype == MSA_I8 || k->info.act == MSA_BF16;
    if (folded && may_round && B <= 65535 && (uintptr_t)q % 16 == 0 &&
        msa_cuda_scan_fast_fits(c, &f))
        return rk_dtype == MSA_I8
                   ? scan_fast<int8_t>(c, s, q, starts, B, single, last, mean, &f, err)
                   : scan_fast<__nv_bfloat16>(c, s, q, starts, B, single, last, mean, &f, err);

    struct plain_args a = {q, starts, B, folded ? 1 : h.H, folded ? 1 : h.H / h.G, folded ? W : h.D,
                           f.scale, stride, C, r->query, out};
    if (single) {
        columns_of_questions<float><<<(unsigned)B, CONVERT_THREADS, 0, s>>>(q, starts, W, last, mean,
                                                                         (float *)NULL, NULL);
        MSA_CUDA_TRY(cudaGetLastError());
        a.q = mean;
        a.q_start = NULL;
    }
    scan_any(s, &a, rk, rk_dtype);
    MSA_CUDA_LAUNCHED("scan");
}
