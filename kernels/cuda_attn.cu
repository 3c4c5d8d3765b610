/* Attention: the call's tables, a plain kernel for every type and head width, and
 * decoding with tensor cores. Tiles of many rows: cuda_attn_packed.cu, cuda_attn_memory.cu. */
#include <cooperative_groups.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda_attn.h"
#include "kernels/cuda_chain.h"

namespace cg = cooperative_groups;

/* ---- every type and head width ------------------------------------------------- */

enum { PLAIN_WARPS = 8 };

static __device__ __forceinline__ float number(const float *p) { return *p; }
static __device__ __forceinline__ float number(const uint16_t *p) { return msa_attn_bf16(*p); }
static __device__ __forceinline__ float number(const int8_t *p) { return *p; }

static __device__ __forceinline__ void store(float *p, float x) { *p = x; }
static __device__ __forceinline__ void store(uint16_t *p, float x)
{
    *(__nv_bfloat16 *)p = __float2bfloat16_rn(x);
}

/* A warp's share of one query head: the largest score yet, and per lane the sum of
 * weights of its keys and the sums of its columns lane, lane + 32, ... */
template <int NV> struct plain_state {
    float top, sum, acc[NV];
};

/* Lane l gets the warp's sum of s[l]. Half of the numbers change lanes at each step. */
template <int W> static __device__ __forceinline__ float sums_by_lane(const float *s)
{
    const bool high = threadIdx.x & W;
    float half[W];
#pragma unroll
    for (int j = 0; j < W; j++)
        half[j] = (high ? s[j + W] : s[j]) + __shfl_xor_sync(~0u, high ? s[j] : s[j + W], W);
    return sums_by_lane<W / 2>(half);
}
template <> __device__ __forceinline__ float sums_by_lane<0>(const float *s) { return s[0]; }

/* Rows from .. from+31 of a part, of which the first n count: columns col .. of the
 * values are added up. */
template <typename A, typename E, int NV>
static __device__ __forceinline__ void plain_block(const A *q, int D, float scale,
                                                   const msa_cuda_attn_part *p, int g, int64_t from,
                                                   int n, int col, plain_state<NV> *st)
{
    const int lane = threadIdx.x & 31;
    const E *k = (const E *)p->k + (int64_t)g * D, *v = (const E *)p->v + (int64_t)g * D;
    float s[32];
#pragma unroll
    for (int j = 0; j < 32; j++)
        s[j] = 0;
    for (int c = 0; c < D; c += 32 * NV) {
        float x[NV];
#pragma unroll
        for (int i = 0; i < NV; i++)
            x[i] = c + lane + 32 * i < D ? number(q + c + lane + 32 * i) : 0;
#pragma unroll
        for (int j = 0; j < 32; j++) {
            const E *row = k + (from + (j < n ? j : 0)) * p->stride + c + lane;
#pragma unroll
            for (int i = 0; i < NV; i++)
                if (c + lane + 32 * i < D)
                    s[j] = fmaf(x[i], number(row + 32 * i), s[j]);
        }
    }
    float score = sums_by_lane<16>(s) * scale, factor = 1;
    if (p->dtype == MSA_I8 && lane < n) {
        const int64_t at = (from + lane) * p->scale_stride + g;
        score *= msa_attn_f16(p->k_scale[at]);
        factor = msa_attn_f16(p->v_scale[at]);
    }
    if (lane >= n)
        score = -INFINITY;
    float top = score;
#pragma unroll
    for (int w = 16; w > 0; w >>= 1)
        top = fmaxf(top, __shfl_xor_sync(~0u, top, w));
    top = fmaxf(top, st->top); /* finite: n >= 1 */
    const float shrink = expf(st->top - top), weight = expf(score - top);
    st->top = top;
    st->sum = st->sum * shrink + weight;
#pragma unroll
    for (int i = 0; i < NV; i++)
        st->acc[i] *= shrink;
    const float w = weight * factor;
#pragma unroll 8
    for (int j = 0; j < n; j++) {
        const float wj = __shfl_sync(~0u, w, j);
        const E *row = v + (from + j) * p->stride + col + lane;
#pragma unroll
        for (int i = 0; i < NV; i++)
            if (col + lane + 32 * i < D)
                st->acc[i] = fmaf(wj, number(row + 32 * i), st->acc[i]);
    }
}

/* A block of threads is one query head of one row; its warps take blocks of 32 keys in
 * turn. grid.y: groups of NV * 32 columns. */
template <typename A, int NV>
static __global__ void __launch_bounds__(PLAIN_WARPS * 32)
plain_kernel(msa_cuda_attn_call c, float scale)
{
    __shared__ float tops[PLAIN_WARPS], sums[PLAIN_WARPS], accs[PLAIN_WARPS][NV * 32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int64_t r = c.seqs[0].row + blockIdx.x / c.H;
    const int head = (int)(blockIdx.x % c.H), g = head / (c.H / c.G), col = (int)blockIdx.y * NV * 32;
    int64_t lo = 0, hi = c.n_seqs; /* the last sequence that begins at or before r */
    while (hi - lo > 1) {
        const int64_t mid = (lo + hi) >> 1;
        if (c.seqs[mid].row <= r)
            lo = mid;
        else
            hi = mid;
    }
    const msa_cuda_attn_seq s = c.seqs[lo];
    const int64_t seen = s.keys - s.n_rows + (r - s.row) + 1;
    const A *q = (const A *)c.q + r * c.q_stride + (int64_t)head * c.D;

    plain_state<NV> st;
    st.top = -INFINITY;
    st.sum = 0;
#pragma unroll
    for (int i = 0; i < NV; i++)
        st.acc[i] = 0;
    int64_t block = 0; /* blocks before this part */
    for (int64_t i = s.part; i < s.part + s.n_parts; i++) {
        const msa_cuda_attn_part *p = &c.parts[i];
        const int64_t end = i + 1 < s.part + s.n_parts ? c.first[i + 1] : s.keys;
        const int64_t n = (end < seen ? end : seen) - c.first[i];
        if (n <= 0)
            continue;
        const int64_t blocks = (n + 31) / 32;
        for (int64_t b = (warp - block % PLAIN_WARPS + PLAIN_WARPS) % PLAIN_WARPS; b < blocks;
             b += PLAIN_WARPS) {
            const int m = n - b * 32 < 32 ? (int)(n - b * 32) : 32;
            if (p->dtype == MSA_F32)
                plain_block<A, float, NV>(q, c.D, scale, p, g, b * 32, m, col, &st);
            else if (p->dtype == MSA_BF16)
                plain_block<A, uint16_t, NV>(q, c.D, scale, p, g, b * 32, m, col, &st);
            else
                plain_block<A, int8_t, NV>(q, c.D, scale, p, g, b * 32, m, col, &st);
        }
        block += blocks;
    }

#pragma unroll
    for (int w = 16; w > 0; w >>= 1)
        st.sum += __shfl_xor_sync(~0u, st.sum, w);
    if (lane == 0) {
        tops[warp] = st.top;
        sums[warp] = st.sum;
    }
#pragma unroll
    for (int i = 0; i < NV; i++)
        accs[warp][lane + 32 * i] = st.acc[i];
    __syncthreads();
    float top = tops[0], sum = 0;
    for (int w = 1; w < PLAIN_WARPS; w++)
        top = fmaxf(top, tops[w]);
    for (int w = 0; w < PLAIN_WARPS; w++)
        sum += expf(tops[w] - top) * sums[w];
    for (int d = threadIdx.x; d < NV * 32 && col + d < c.D; d += PLAIN_WARPS * 32) {
        float x = 0;
        for (int w = 0; w < PLAIN_WARPS; w++)
            x += expf(tops[w] - top) * accs[w][d];
        store((A *)c.out + (r * c.H + head) * c.D + col + d, x / sum);
    }
}

template <typename A>
static void plain_launch(cudaStream_t st, const msa_cuda_attn_call *call, int64_t rows)
{
    const float scale = (float)(1 / sqrt((double)call->D));
    const unsigned blocks = (unsigned)(rows * call->H);
    if (call->D <= 32)
        plain_kernel<A, 1><<<blocks, PLAIN_WARPS * 32, 0, st>>>(*call, scale);
    else if (call->D <= 64)
        plain_kernel<A, 2><<<blocks, PLAIN_WARPS * 32, 0, st>>>(*call, scale);
    else if (call->D <= 128)
        plain_kernel<A, 4><<<blocks, PLAIN_WARPS * 32, 0, st>>>(*call, scale);
    else {
        const dim3 grid(blocks, (unsigned)((call->D + 255) / 256));
        plain_kernel<A, 8><<<grid, PLAIN_WARPS * 32, 0, st>>>(*call, scale);
    }
}

/* ---- decoding ------------------------------------------------------------------- */

/* Up to 8 flat rows against 16 keys at a time, S' = K Q' and O' = V' P', so that keys
 * and columns fill the products' long side. K and V go from memory to registers: which
 * column of a product stands for which number of a head is free, and is chosen so that
 * a thread's share is 16 bytes of a row.
 *
 * The keys of a sequence are split over the blocks of a cluster and their warps; partial
 * sums meet in shared memory, a warp's first, then those of the cluster. An SM holds 16
 * warps: blocks are of 8 where they are few, and of 4 where they are so many that a second
 * wave of them would begin late. */
enum { DECODE_ROWS = 8, DECODE_KEYS = 16, DECODE_SPLITS = 8, DECODE_SM_WARPS = 16 };

/* Where a key stands. A call's tables and the factors they name are no kernel's output
 * of late, the rows they name may be. */
struct decode_key {
    const void *k, *v;
    float k_scale, v_scale;
    int32_t kind, dtype;
};

static __device__ __forceinline__ decode_key decode_find(const msa_cuda_attn_call &c,
                                                         const msa_cuda_attn_seq *s, int key, int g)
{
    const int64_t *first = c.first + s->part;
    const int i = msa_attn_find(first, (int)s->n_parts, key);
    const msa_cuda_attn_part *p = c.parts + s->part + i;
    const int row = key - (int)__ldg(first + i);
    decode_key r;
    r.kind = p->kind;
    r.dtype = p->dtype;
    const int64_t at = (row * p->stride + (int64_t)g * c.D) * msa_attn_size(r.dtype);
    r.k = (const char *)p->k + at;
    r.v = (const char *)p->v + at;
    r.k_scale = r.v_scale = 1;
    if (r.dtype == MSA_I8) {
        r.k_scale = msa_attn_f16(p->k_scale[row * p->scale_stride + g]);
        r.v_scale = msa_attn_f16(p->v_scale[row * p->scale_stride + g]);
    }
    return r;
}

/* A thread's numbers of 16 keys: k of rows lane/4 (+ 8) at columns (lane%4) * 8 + 32 j, v of
 * rows 2 (lane%4) + {0, 1, 8, 9} at columns (lane/4) * 8 + 64 j. */
template <int D> struct decode_tile {
    uint4 k[2][D / 32], v[4][D / 64];
};

/* Asks for the bf16 rows of 16 keys in the L2 cache, where what may yet be written to them
 * arrives too. Lane l holds key l % 16. */
template <int D> static __device__ __forceinline__ void decode_prefetch(const decode_key &key)
{
    enum { SECTORS = D / 16 }; /* of 32 bytes */
    const int lane = threadIdx.x & 31;
    const unsigned long long mine = (unsigned long long)(lane & 16 ? key.v : key.k);
#pragma unroll
    for (int i = 0; i < SECTORS; i++) {
        const unsigned long long row = __shfl_sync(~0u, mine, (i * 32 + lane) / SECTORS);
        asm volatile("prefetch.global.L2 [%0];" ::"l"(row + lane % SECTORS * 32));
    }
}

/* KIND: how all 16 keys are read. Lane l holds key l % 16. */
template <int D, int KIND>
static __device__ __forceinline__ void decode_load(const decode_key &key, decode_tile<D> *t)
{
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const void *row = (const void *)__shfl_sync(~0u, (unsigned long long)key.k, lane / 4 + 8 * i);
#pragma unroll
        for (int j = 0; j < D / 32; j++)
            t->k[i][j] = msa_attn_load8(row, lane % 4 * 8 + 32 * j, KIND, 0);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int from = lane % 4 * 2 + (i & 1) + 8 * (i >> 1);
        const void *row = (const void *)__shfl_sync(~0u, (unsigned long long)key.v, from);
#pragma unroll
        for (int j = 0; j < D / 64; j++)
            t->v[i][j] = msa_attn_load8(row, lane / 4 * 8 + 64 * j, KIND, 0);
    }
}

/* Rows of 16 keys that are not all read in one way, each lane with that of key lane % 16,
 * to shared memory. */
template <int D>
static __device__ __forceinline__ void decode_stage(const decode_key &key, const void *mine,
                                                    uint4 (*stage)[D / 8])
{
    __syncwarp();
#pragma unroll 1
    for (int e = threadIdx.x & 31; e < DECODE_KEYS * (D / 8); e += 32) {
        const int from = e / (D / 8), at = e % (D / 8);
        const void *row = (const void *)__shfl_sync(~0u, (unsigned long long)mine, from);
        const int kind = __shfl_sync(~0u, key.kind, from), dtype = __shfl_sync(~0u, key.dtype, from);
        stage[from][at] = msa_attn_load8(row, at * 8, kind, dtype);
    }
    __syncwarp();
}

template <int D>
static __device__ __forceinline__ void decode_load_any(const decode_key &key, uint4 (*stage)[D / 8],
                                                       decode_tile<D> *t)
{
    const int lane = threadIdx.x & 31;
    decode_stage<D>(key, key.k, stage);
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < D / 32; j++)
            t->k[i][j] = stage[lane / 4 + 8 * i][lane % 4 + 4 * j];
    decode_stage<D>(key, key.v, stage);
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < D / 64; j++)
            t->v[i][j] = stage[lane % 4 * 2 + (i & 1) + 8 * (i >> 1)][lane / 4 + 8 * j];
    __syncwarp();
}

static __device__ __forceinline__ uint32_t word(const uint4 &x, int i)
{
    return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

/* Transposes an 8 x 8 matrix of 16-bit numbers held by a warp. */
static __device__ __forceinline__ uint32_t transposed(uint32_t x)
{
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

/* What is left of a weight when the largest score rises from `from` to `to`; either may
 * be -inf, where nothing was seen. */
static __device__ __forceinline__ float shrunk(float from, float to)
{
    return to == -INFINITY ? 1 : msa_attn_exp2(from - to);
}

/* Rows of q and acc are wider than they need to be, for the banks. */
template <int D, int WARPS> struct decode_shared {
    uint4 q[DECODE_ROWS][D / 8 + 4];
    float acc[WARPS][2][DECODE_ROWS / 2][D + 2]; /* a warp's row r at [r % 2][r / 2]; no less than 16 keys */
    float top[WARPS][DECODE_ROWS], sum[WARPS][DECODE_ROWS];
    float all_acc[DECODE_ROWS][D], all_top[DECODE_ROWS], all_sum[DECODE_ROWS];
};

/* Flat rows tile * 8 .. of a sequence over key blocks b, b + WARPS, .. < to: one warp's part,
 * left in shared memory. key: that of lane % 16 in block b. */
template <int D, int WARPS>
static __device__ __forceinline__ void decode_warp(const msa_cuda_attn_call &c,
                                                   const msa_cuda_attn_seq *s, int g, int tile, int b,
                                                   int to, decode_key key, float scale,
                                                   decode_shared<D, WARPS> *sh)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = c.H / c.G;
    const int n_flat = (int)s->n_rows * group;
    int limit[2];
#pragma unroll
    for (int i = 0; i < 2; i++)
        limit[i] = (int)(s->keys - s->n_rows) +
                   min(tile * DECODE_ROWS + lane % 4 * 2 + i, n_flat - 1) / group;
    float acc[D / 16][4], top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < D / 16; j++)
        acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0;

    const int last = (int)s->keys - 1;
    for (; b < to; b += WARPS) {
        decode_tile<D> t;
        if (__all_sync(~0u, key.kind == MSA_ATTN_BF16))
            decode_load<D, MSA_ATTN_BF16>(key, &t);
        else if (__all_sync(~0u, key.kind == MSA_ATTN_I8))
            decode_load<D, MSA_ATTN_I8>(key, &t);
        else
            decode_load_any<D>(key, (uint4(*)[D / 8])sh->acc[warp], &t); /* acc is not needed yet */
        float k_scale[2], v_scale[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            k_scale[i] = __shfl_sync(~0u, key.k_scale, lane / 4 + 8 * i) * scale;
            v_scale[i] = __shfl_sync(~0u, key.v_scale, lane / 4 + 8 * i);
        }
        float even[4] = {0, 0, 0, 0}, odd[4] = {0, 0, 0, 0};
#pragma unroll
        for (int j = 0; j < D / 32; j++) {
            const uint4 q = sh->q[lane / 4][lane % 4 + 4 * j];
            msa_attn_mma(even, t.k[0][j].x, t.k[1][j].x, t.k[0][j].y, t.k[1][j].y, q.x, q.y);
            msa_attn_mma(odd, t.k[0][j].z, t.k[1][j].z, t.k[0][j].w, t.k[1][j].w, q.z, q.w);
        }
        if (b + WARPS < to) /* here, where keys have left their registers */
            key = decode_find(c, s, min((b + WARPS) * DECODE_KEYS + (lane & 15), last), g);
        /* score[i][r]: key lane/4 + 8 i, flat row 2 (lane%4) + r */
        float score[2][2], weight[2][2];
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const bool seen = b * DECODE_KEYS + lane / 4 + 8 * i <= limit[r];
                score[i][r] = seen ? (even[2 * i + r] + odd[2 * i + r]) * k_scale[i] : -INFINITY;
            }
        float shrink[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float now = fmaxf(score[0][r], score[1][r]);
#pragma unroll
            for (int w = 4; w < 32; w <<= 1)
                now = fmaxf(now, __shfl_xor_sync(~0u, now, w));
            now = fmaxf(now, top[r]);
            shrink[r] = shrunk(top[r], now);
            top[r] = now;
#pragma unroll
            for (int i = 0; i < 2; i++)
                weight[i][r] = now == -INFINITY ? 0 : msa_attn_exp2(score[i][r] - now);
            sum[r] = sum[r] * shrink[r] + weight[0][r] + weight[1][r];
        }
        uint32_t p[2];
#pragma unroll
        for (int i = 0; i < 2; i++)
            p[i] = transposed(msa_attn_pack(weight[i][0] * v_scale[i], weight[i][1] * v_scale[i]));
#pragma unroll
        for (int j = 0; j < D / 16; j++) {
            const int u = j % 4;
            acc[j][0] *= shrink[0];
            acc[j][1] *= shrink[1];
            acc[j][2] *= shrink[0];
            acc[j][3] *= shrink[1];
            const uint32_t v0 = word(t.v[0][j / 4], u), v1 = word(t.v[1][j / 4], u),
                           v2 = word(t.v[2][j / 4], u), v3 = word(t.v[3][j / 4], u);
            msa_attn_mma(acc[j], __byte_perm(v0, v1, 0x5410), __byte_perm(v0, v1, 0x7632),
                         __byte_perm(v2, v3, 0x5410), __byte_perm(v2, v3, 0x7632), p[0], p[1]);
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int w = 4; w < 32; w <<= 1)
            sum[r] += __shfl_xor_sync(~0u, sum[r], w);
        if (lane < 4) {
            sh->top[warp][lane * 2 + r] = top[r];
            sh->sum[warp][lane * 2 + r] = sum[r];
        }
        /* acc[j][i * 2 + r]: column j/4 * 64 + lane/4 * 8 + j%4 * 2 + i, row as above */
        if (tile * DECODE_ROWS + lane % 4 * 2 + r < n_flat)
#pragma unroll
            for (int j = 0; j < D / 16; j++)
                *(float2 *)&sh->acc[warp][r][lane % 4][j / 4 * 64 + lane / 4 * 8 + j % 4 * 2] =
                    make_float2(acc[j][r], acc[j][2 + r]);
    }
}

/* What N warps or blocks have of a row: largest score, sum of weights, two columns. All
 * are read before the first is used. */
template <int N> struct decode_sums {
    float top[N], sum[N];
    float2 acc[N];
};

template <int N>
static __device__ __forceinline__ void decode_take(decode_sums<N> *s, int i, bool there, const float *top,
                                                   const float *sum, const float *acc)
{
    s->top[i] = there ? *top : -INFINITY;
    s->sum[i] = there ? *sum : 0;
    s->acc[i] = there ? *(const float2 *)acc : make_float2(0, 0);
}

template <int N>
static __device__ __forceinline__ void decode_add(const decode_sums<N> &s, float *top, float *sum, float *x,
                                                  float *y)
{
    *top = -INFINITY;
    *sum = *x = *y = 0;
#pragma unroll
    for (int i = 0; i < N; i++)
        *top = fmaxf(*top, s.top[i]);
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float f = shrunk(s.top[i], *top);
        *sum += f * s.sum[i];
        *x += f * s.acc[i].x;
        *y += f * s.acc[i].y;
    }
}

/* Two neighbouring numbers of flat row f; sum >= 1 or so, for every row sees a key. */
template <int D>
static __device__ __forceinline__ void decode_out(const msa_cuda_attn_call &c, const msa_cuda_attn_seq &s,
                                                  int g, int f, int col, float sum, float x, float y)
{
    const int group = c.H / c.G;
    uint16_t *row = (uint16_t *)c.out + ((s.row + f / group) * c.H + (int64_t)g * group + f % group) * D;
    *(uint32_t *)(row + col) = msa_attn_pack(__fdividef(x, sum), __fdividef(y, sum));
}

/* Cluster x: blocks x * splits .. of the grid, one key head of one sequence. Sequences of
 * more than max_flat flat rows are left to others. */
template <int D, int WARPS>
static __global__ void __launch_bounds__(WARPS * 32, DECODE_SM_WARPS / WARPS)
decode_kernel(msa_cuda_attn_call c, float scale, int max_flat)
{
    typedef decode_shared<D, WARPS> shared;
    __shared__ shared sh;
    msa_cuda_let_next();
    cg::cluster_group cluster = cg::this_cluster();
    const int splits = (int)cluster.num_blocks(), split = (int)cluster.block_rank();
    const int unit = (int)blockIdx.x / splits, g = unit % c.G, group = c.H / c.G;
    const msa_cuda_attn_seq *seq = c.seqs + unit / c.G, s = *seq;
    const int n_flat = (int)s.n_rows * group;
    const bool mine = n_flat > 0 && n_flat <= max_flat;
    /* nothing is known of the keys of a sequence without rows */
    const int blocks = mine ? (int)((s.keys + DECODE_KEYS - 1) / DECODE_KEYS) : 0;
    const int share = (blocks + splits - 1) / splits;
    const int from = min(split * share, blocks), to = min(from + share, blocks);
    const int busy = min(to - from, (int)WARPS); /* warps that have keys */
    const int first = from + (int)threadIdx.x / 32;
    const int first_key = min(first * DECODE_KEYS + (int)(threadIdx.x & 15), (int)s.keys - 1);
    decode_key key = {};
    if (first < to) {
        key = decode_find(c, seq, first_key, g);
        if (__all_sync(~0u, key.kind == MSA_ATTN_BF16))
            decode_prefetch<D>(key);
    }
    msa_cuda_wait_previous();
    if (!mine)
        return;

    for (int tile = 0; tile * DECODE_ROWS < n_flat; tile++) {
        if (tile > 0)
            key = decode_find(c, seq, first_key, g);
        const int rows = min(n_flat - tile * DECODE_ROWS, (int)DECODE_ROWS), pairs = rows * D / 2;
#pragma unroll 1
        for (int e = threadIdx.x; e < DECODE_ROWS * D / 8; e += WARPS * 32) {
            const int f = min(tile * DECODE_ROWS + e / (D / 8), n_flat - 1);
            const uint16_t *row = (const uint16_t *)c.q + (s.row + f / group) * c.q_stride +
                                  ((int64_t)g * group + f % group) * D;
            sh.q[e / (D / 8)][e % (D / 8)] = ((const uint4 *)row)[e % (D / 8)];
        }
        __syncthreads();
        if (first < to)
            decode_warp<D, WARPS>(c, seq, g, tile, first, to, key, scale, &sh);
        __syncthreads();
#pragma unroll 1
        for (int e = threadIdx.x; e < pairs; e += WARPS * 32) {
            const int row = e / (D / 2), col = e % (D / 2) * 2;
            decode_sums<WARPS> parts;
#pragma unroll
            for (int w = 0; w < WARPS; w++)
                decode_take(&parts, w, w < busy, &sh.top[w][row], &sh.sum[w][row],
                            &sh.acc[w][row % 2][row / 2][col]);
            float top, sum, x, y;
            decode_add(parts, &top, &sum, &x, &y);
            if (splits == 1)
                decode_out<D>(c, s, g, tile * DECODE_ROWS + row, col, sum, x, y);
            *(float2 *)&sh.all_acc[row][col] = make_float2(x, y);
            if (col == 0) {
                sh.all_top[row] = top;
                sh.all_sum[row] = sum;
            }
        }
        if (splits == 1) {
            __syncthreads(); /* q is the next tile's */
            continue;
        }
        cluster.sync();
#pragma unroll 1
        for (int e = (int)threadIdx.x * splits + split; e < pairs; e += WARPS * 32 * splits) {
            const int row = e / (D / 2), col = e % (D / 2) * 2;
            decode_sums<DECODE_SPLITS> parts;
#pragma unroll
            for (int i = 0; i < DECODE_SPLITS; i++) {
                const shared *other = cluster.map_shared_rank(&sh, min(i, splits - 1));
                decode_take(&parts, i, i < splits, &other->all_top[row], &other->all_sum[row],
                            &other->all_acc[row][col]);
            }
            float top, sum, x, y;
            decode_add(parts, &top, &sum, &x, &y);
            decode_out<D>(c, s, g, tile * DECODE_ROWS + row, col, sum, x, y);
        }
        /* the others have read this block's sums; nothing that was written is waited for */
        asm volatile("barrier.cluster.arrive.relaxed;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
    }
}

static msa_rc decode_launch(msa_cuda *c, cudaStream_t st, const msa_cuda_attn_call *call, int max_flat,
                            msa_err *err)
{
    const float scale = (float)(MSA_LOG2E / sqrt((double)call->D));
    const int64_t units = call->n_seqs * call->G;
    const int warps = 2 * units <= DECODE_SM_WARPS / 8 * c->n_sms ? 8 : 4; /* two blocks a unit, one wave */
    int splits = DECODE_SPLITS;
    if (units > INT_MAX)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "attention: more rows than a grid holds");
    while (splits > 1 && units * splits > DECODE_SM_WARPS / warps * c->n_sms)
        splits /= 2;
    cudaLaunchAttribute a[2] = {};
    a[0].id = cudaLaunchAttributeClusterDimension;
    a[0].val.clusterDim.x = (unsigned)splits;
    a[0].val.clusterDim.y = a[0].val.clusterDim.z = 1;
    a[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    a[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(units * splits));
    config.blockDim = dim3((unsigned)warps * 32);
    config.stream = st;
    config.attrs = a;
    config.numAttrs = 2;
    void (*kernel)(msa_cuda_attn_call, float, int) =
        call->D == 64 ? (warps == 8 ? decode_kernel<64, 8> : decode_kernel<64, 4>)
                      : (warps == 8 ? decode_kernel<128, 8> : decode_kernel<128, 4>);
    MSA_CUDA_TRY(cudaLaunchKernelEx(&config, kernel, *call, scale, max_flat));
    return MSA_OK;
}

/* ---- calls ---------------------------------------------------------------------- */

bool msa_cuda_attn_bytes(const msa_cuda *c, const msa_kern_shape *s, int64_t *bytes)
{
    (void)c, (void)s; /* partial sums stay in shared memory */
    *bytes = 0;
    return true;
}

static bool aligned(const void *p) { return (uintptr_t)p % 16 == 0; }

/* Whether the tensor-core kernels take the call. Nothing here may depend on what a
 * call's arrays hold. */
static bool fast(const msa_cuda *c, const void *q, int64_t q_stride, msa_kern_heads h, const void *out)
{
    int64_t flat;
    return c->base.info.act == MSA_BF16 && (h.D == 64 || h.D == 128) && aligned(q) && aligned(out) &&
           q_stride % 8 == 0 && msa_mul(c->base.cap.max_seq, h.H, &flat) && flat < INT_MAX / 2;
}

/* A call's tables on the host, in one piece as they are uploaded. */
typedef struct tables {
    char *data;
    int64_t n_seqs, n_parts, n_items; /* room */
    int64_t parts_at, first_at, items_at, bytes;
    msa_cuda_attn_seq *seqs;
    msa_cuda_attn_part *parts;
    int64_t *first;
    msa_cuda_attn_item *items;
} tables;

static msa_rc tables_new(tables *t, int64_t n_seqs, int64_t n_parts, int64_t n_items, msa_err *err)
{
    int64_t parts, first, items;
    *t = (tables){};
    t->n_seqs = n_seqs;
    t->n_parts = n_parts;
    t->n_items = n_items;
    if (!msa_mul(n_seqs, sizeof *t->seqs, &t->parts_at) || !msa_mul(n_parts, sizeof *t->parts, &parts) ||
        !msa_add(t->parts_at, parts, &t->first_at) || !msa_mul(n_parts, sizeof *t->first, &first) ||
        !msa_add(t->first_at, first, &t->items_at) || !msa_mul(n_items, sizeof *t->items, &items) ||
        !msa_add(t->items_at, items, &t->bytes) || !(t->data = (char *)msa_calloc(t->bytes, 1)))
        return msa_err_nomem(err, "attention tables");
    t->seqs = (msa_cuda_attn_seq *)t->data;
    t->parts = (msa_cuda_attn_part *)(t->data + t->parts_at);
    t->first = (int64_t *)(t->data + t->first_at);
    t->items = (msa_cuda_attn_item *)(t->data + t->items_at);
    return MSA_OK;
}

/* Uploads and frees the tables; call gets their places on the device. */
static msa_rc tables_pass(tables *t, msa_cuda *c, msa_kern_stream *st, msa_cuda_attn_call *call,
                          msa_err *err)
{
    void *dev = NULL;
    msa_rc rc = msa_cuda_args(c, st, t->data, t->bytes, &dev, err);
    free(t->data);
    call->n_seqs = t->n_seqs;
    call->seqs = (const msa_cuda_attn_seq *)dev;
    call->parts = (const msa_cuda_attn_part *)((const char *)dev + t->parts_at);
    call->first = (const int64_t *)((const char *)dev + t->first_at);
    call->items = (const msa_cuda_attn_item *)((const char *)dev + t->items_at);
    return rc;
}

static msa_cuda_attn_call call_of(const void *q, int64_t q_stride, msa_kern_heads h, void *out)
{
    msa_cuda_attn_call call = {};
    call.q = q;
    call.q_stride = q_stride;
    call.H = (int32_t)h.H;
    call.G = (int32_t)h.G;
    call.D = (int32_t)h.D;
    call.out = out;
    return call;
}

static msa_rc plain(msa_cuda *c, cudaStream_t st, const msa_cuda_attn_call *call, int64_t rows, msa_err *err)
{
    if (rows > INT_MAX / call->H)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "attention: more rows than a grid holds");
    if (c->base.info.act == MSA_F32)
        plain_launch<float>(st, call, rows);
    else
        plain_launch<uint16_t>(st, call, rows);
    MSA_CUDA_LAUNCHED("attention");
}

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Longer sequences first. */
static int by_rows(const void *a, const void *b)
{
    const int64_t x = ((const msa_cuda_attn_seq *)a)->n_rows, y = ((const msa_cuda_attn_seq *)b)->n_rows;
    return (y > x) - (y < x);
}

/* Tiles of a sequence, the longest first; returns their number. */
static int64_t add_items(msa_cuda_attn_item *items, int64_t at, int64_t n_rows, int64_t n_tiles)
{
    for (int64_t i = 0; i < n_tiles; i++) {
        items[i].at = at;
        items[i].n_rows = (int32_t)n_rows;
        items[i].tile = (int32_t)(n_tiles - 1 - i);
    }
    return n_tiles;
}

msa_rc msa_cuda_attn_packed(msa_kern *k, msa_kern_stream *st, const void *qkv, int64_t M,
                            msa_kern_heads h, const int64_t *seq_start, int64_t S, void *out,
                            msa_err *err)
{
    (void)M;
    msa_cuda *c = msa_cuda_of(k);
    const int64_t stride = (h.H + 2 * h.G) * h.D, group = h.H / h.G;
    const int64_t rows = seq_start[S] - seq_start[0];
    const msa_dtype act = k->info.act;
    const bool tiled = fast(c, qkv, stride, h, out);
    int64_t n_items = 0;
    if (rows == 0)
        return MSA_OK;
    for (int64_t s = 0; tiled && s < S; s++)
        n_items += ceil_div((seq_start[s + 1] - seq_start[s]) * group, MSA_ATTN_PACKED_ROWS);
    tables t;
    msa_rc rc = tables_new(&t, S, tiled ? 0 : S, n_items, err);
    if (rc < 0)
        return rc;
    for (int64_t s = 0; s < S; s++) {
        const int64_t n = seq_start[s + 1] - seq_start[s];
        t.seqs[s].row = seq_start[s];
        t.seqs[s].n_rows = t.seqs[s].keys = n;
        t.seqs[s].part = s;
        t.seqs[s].n_parts = 1;
        if (!tiled) {
            const char *first = (const char *)qkv + seq_start[s] * stride * msa_dtype_bytes(act);
            t.parts[s].k = first + h.H * h.D * msa_dtype_bytes(act);
            t.parts[s].v = first + (h.H + h.G) * h.D * msa_dtype_bytes(act);
            t.parts[s].stride = stride;
            t.parts[s].dtype = act;
        }
    }
    if (tiled) {
        qsort(t.seqs, (size_t)S, sizeof *t.seqs, by_rows);
        int64_t n = 0;
        for (int64_t s = 0; s < S; s++)
            n += add_items(t.items + n, t.seqs[s].row, t.seqs[s].n_rows,
                           ceil_div(t.seqs[s].n_rows * group, MSA_ATTN_PACKED_ROWS));
    }
    msa_cuda_attn_call call = call_of(qkv, stride, h, out);
    rc = tables_pass(&t, c, st, &call, err);
    if (rc < 0)
        return rc;
    return tiled ? msa_cuda_attn_packed_tiles(msa_cuda_stream(k, st), &call, n_items, err)
                 : plain(c, msa_cuda_stream(k, st), &call, rows, err);
}

/* How numbers of a part are read, 8 at a time at multiples of 8 columns. */
static int32_t part_kind(const msa_cuda_attn_part *p)
{
    if (p->dtype == MSA_BF16 && aligned(p->k) && aligned(p->v) && p->stride % 8 == 0)
        return MSA_ATTN_BF16;
    if (p->dtype == MSA_I8 && (uintptr_t)p->k % 8 == 0 && (uintptr_t)p->v % 8 == 0 && p->stride % 8 == 0)
        return MSA_ATTN_I8;
    return MSA_ATTN_ANY;
}

/* Sequence b of a memory call as parts n .. of the tables; returns the first part behind it. */
static int64_t add_memory(tables *t, int64_t b, int64_t n, const int64_t *row_start,
                          const msa_kern_seg *segs, const int64_t *seg_start, msa_kern_heads h,
                          const msa_kern_cache *cache, msa_dtype act)
{
    msa_cuda_attn_seq *s = &t->seqs[b];
    s->row = row_start[b];
    s->n_rows = row_start[b + 1] - row_start[b];
    s->part = n;
    for (int64_t i = seg_start[b]; i <= seg_start[b + 1]; i++, n++) {
        msa_cuda_attn_part *p = &t->parts[n];
        t->first[n] = s->keys;
        if (i < seg_start[b + 1]) {
            p->k = segs[i].k;
            p->v = segs[i].v;
            p->k_scale = segs[i].k_scale;
            p->v_scale = segs[i].v_scale;
            p->stride = segs[i].stride;
            p->scale_stride = segs[i].scale_stride;
            p->dtype = segs[i].dtype;
            s->keys += segs[i].n_rows;
        } else {
            p->k = cache->k;
            p->v = cache->v;
            p->stride = h.G * h.D;
            p->dtype = act;
            s->keys += cache->len;
        }
        p->kind = part_kind(p);
    }
    s->n_parts = n - s->part;
    return n;
}

/* Sequences of at most so many flat rows are decoded: tiles would be mostly empty. */
enum { DECODE_MAX_FLAT = 2 * DECODE_ROWS };

msa_rc msa_cuda_attn_memory(msa_kern *k, msa_kern_stream *st, const void *q, int64_t q_stride,
                            msa_kern_heads h, int64_t B, const int64_t *row_start,
                            const msa_kern_seg *segs, const int64_t *seg_start,
                            const msa_kern_cache *caches, void *out, msa_err *err)
{
    msa_cuda *c = msa_cuda_of(k);
    const int64_t group = h.H / h.G, rows = row_start[B] - row_start[0];
    const bool recording = msa_cuda_recording(c), tensor = fast(c, q, q_stride, h, out);
    int64_t n_parts = seg_start[B] - seg_start[0] + B, n_items = 0, n_decoded = B;
    if (recording) /* room, so that most runs of a key have tables of one size */
        n_parts = ceil_div(n_parts, 8 * B) * 8 * B;
    if (tensor && !recording) {
        n_decoded = 0;
        for (int64_t b = 0; b < B; b++) {
            const int64_t flat = (row_start[b + 1] - row_start[b]) * group;
            if (flat > DECODE_MAX_FLAT)
                n_items += ceil_div(flat, MSA_ATTN_MEMORY_ROWS);
            else
                n_decoded += flat > 0;
        }
    }
    const void *pointers[] = {q, out};
    const int64_t numbers[] = {q_stride, h.H, h.G, h.D, B, rows, n_parts};
    const bool noted = msa_cuda_noted(c, "attn_memory", pointers, 2, numbers, 7);

    tables t;
    msa_rc rc = tables_new(&t, B, n_parts, n_items, err);
    if (rc < 0)
        return rc;
    int64_t n = 0, item = 0;
    for (int64_t b = 0; b < B; b++) {
        n = add_memory(&t, b, n, row_start, segs, seg_start, h, &caches[b], k->info.act);
        const int64_t flat = t.seqs[b].n_rows * group;
        if (n_items > 0 && flat > DECODE_MAX_FLAT)
            item += add_items(t.items + item, b, t.seqs[b].n_rows, ceil_div(flat, MSA_ATTN_MEMORY_ROWS));
    }
    msa_cuda_attn_call call = call_of(q, q_stride, h, out);
    rc = tables_pass(&t, c, st, &call, err);
    if (rc < 0 || noted || rows == 0)
        return rc;
    if (!tensor)
        return plain(c, msa_cuda_stream(k, st), &call, rows, err);
    if (n_items > 0)
        rc = msa_cuda_attn_memory_tiles(msa_cuda_stream(k, st), &call, n_items, err);
    if (rc >= 0 && n_decoded > 0)
        rc = decode_launch(c, msa_cuda_stream(k, st), &call, recording ? INT_MAX : (int)DECODE_MAX_FLAT,
                           err);
    return rc;
}
