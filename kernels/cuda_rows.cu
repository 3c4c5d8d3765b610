/* CUDA: operations on rows. What a row or a head needs is summed in f32 in a fixed
 * order. Each has a path of 16-byte accesses for shapes and pointers that allow it
 * and one that takes any shape. */
#include <math.h>

#include "kernels/cuda_chain.h"
#include "kernels/cuda_elem.h"
#include "kernels/cuda_internal.h"
#include "kernels/cuda_rope.h"

/* Blocks for n items: a grid's x side ends at 2^31 - 1, kernels go on from there. */
static unsigned grid_of(int64_t n)
{
    return (unsigned)(n < INT32_MAX ? n : INT32_MAX);
}

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Threads of a block that shares n items, each thread taking about `each`. */
static int threads_for(int64_t n, int64_t each, int most)
{
    int64_t t = ceil_div(ceil_div(n, each), 32) * 32;
    return (int)(t < most ? t : most);
}

#define FOR_ACT(k, ...)                         \
    do {                                        \
        if ((k)->info.act == MSA_F32) {         \
            typedef msa_cuda_f32 T;             \
            __VA_ARGS__;                        \
        } else {                                \
            typedef msa_cuda_bf16 T;            \
            __VA_ARGS__;                        \
        }                                       \
    } while (0)

/* How kernels of operations that a decoding step repeats begin. */
static __device__ __forceinline__ void follow(void)
{
    msa_cuda_let_next();
    msa_cuda_wait_previous();
}

static __device__ __forceinline__ float warp_sum(float v)
{
#pragma unroll
    for (int o = 16; o > 0; o /= 2)
        v += __shfl_xor_sync(~0u, v, o);
    return v;
}

/* The same sum in every thread of the block. */
static __device__ float block_sum(float v)
{
    __shared__ float part[32];
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    const int warps = (blockDim.x + 31) / 32;
    v = warp_sum(threadIdx.x % 32 < warps ? part[threadIdx.x % 32] : 0);
    __syncthreads(); /* part may be written again */
    return v;
}

/* ---- embed, gather ------------------------------------------------------------------ */

template <class T>
static __global__ void embed_kernel(const typename T::elem *w, const int32_t *ids, int64_t M, int64_t K, bool wide,
                             float *x)
{
    for (int64_t m = blockIdx.x; m < M; m += gridDim.x) {
        const typename T::elem *from = w + ids[m] * K;
        float *to = x + m * K;
        if (wide) {
            for (int64_t i = threadIdx.x; i < K / T::PIECE; i += blockDim.x) {
                float f[T::PIECE];
                T::unpack(((const uint4 *)from)[i], f);
#pragma unroll
                for (int j = 0; j < T::PIECE / 4; j++)
                    ((uint4 *)to)[i * (T::PIECE / 4) + j] = msa_cuda_f32::pack(f + 4 * j);
            }
        } else {
            for (int64_t i = threadIdx.x; i < K; i += blockDim.x)
                to[i] = T::get(from[i]);
        }
    }
}

msa_rc msa_cuda_embed(msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w, const int32_t *ids,
                      int64_t M, float *x, msa_err *err)
{
    const void *rows = ((const msa_cuda_weight *)w)->w;
    const int64_t K = w->K;
    FOR_ACT(k, (embed_kernel<T><<<grid_of(M), threads_for(K, T::PIECE, 256), 0, msa_cuda_stream(k, st)>>>(
                   (const T::elem *)rows, ids, M, K, K % T::PIECE == 0 && msa_cuda_aligned(x), x)));
    MSA_CUDA_LAUNCHED("embed");
}

static __global__ void gather_kernel(const float *x, int64_t E, const int64_t *idx, int64_t R, bool wide, float *out)
{
    follow();
    for (int64_t r = blockIdx.x; r < R; r += gridDim.x) {
        const float *from = x + idx[r] * E;
        float *to = out + r * E;
        if (wide)
            for (int64_t i = threadIdx.x; i < E / 4; i += blockDim.x)
                ((uint4 *)to)[i] = ((const uint4 *)from)[i];
        else
            for (int64_t i = threadIdx.x; i < E; i += blockDim.x)
                to[i] = from[i];
    }
}

msa_rc msa_cuda_gather(msa_kern *k, msa_kern_stream *st, const float *x, int64_t E, const int64_t *idx,
                       int64_t R, float *out, msa_err *err)
{
    msa_cuda *c = msa_cuda_of(k);
    const void *pointers[] = {x, out};
    const int64_t numbers[] = {E, R};
    const bool noted = msa_cuda_noted(c, "gather", pointers, 2, numbers, 2);
    void *rows;
    msa_rc rc = msa_cuda_args(c, st, idx, R * (int64_t)sizeof *idx, &rows, err);
    if (rc < 0 || noted)
        return rc;
    const bool wide = E % 4 == 0 && msa_cuda_aligned(x) && msa_cuda_aligned(out);
    msa_cuda_follow(gather_kernel, grid_of(R), threads_for(E, 4, 256), msa_cuda_stream(k, st), x, E,
                    (const int64_t *)rows, R, wide, out);
    MSA_CUDA_LAUNCHED("gather");
}

/* ---- rms_norm -------------------------------------------------------------------------- */

template <class T> __device__ __forceinline__ void store4(typename T::elem *p, const float f[4]);
template <> __device__ __forceinline__ void store4<msa_cuda_f32>(float *p, const float f[4])
{
    *(uint4 *)p = msa_cuda_f32::pack(f);
}
template <> __device__ __forceinline__ void store4<msa_cuda_bf16>(__nv_bfloat16 *p, const float f[4])
{
    *(uint2 *)p = make_uint2(msa_cuda_bf16::pack2(f[0], f[1]), msa_cuda_bf16::pack2(f[2], f[3]));
}

/* Four numbers a thread and step, a row held in registers between its two passes:
 * E a multiple of 4, at most 16 * blockDim.x. */
enum { NORM_STEPS = 4, NORM_THREADS = 512 };
template <class T>
static __global__ void __launch_bounds__(NORM_THREADS)
norm_kernel(const float *x, const float *gamma, float eps, int64_t M, int64_t E, typename T::elem *out)
{
    follow();
    const int quads = (int)(E / 4);
    for (int64_t m = blockIdx.x; m < M; m += gridDim.x) {
        uint4 held[NORM_STEPS];
        float sum = 0, f[4], g[4];
#pragma unroll
        for (int s = 0; s < NORM_STEPS; s++) {
            const int i = threadIdx.x + s * blockDim.x;
            held[s] = i < quads ? ((const uint4 *)(x + m * E))[i] : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int s = 0; s < NORM_STEPS; s++) {
            msa_cuda_f32::unpack(held[s], f);
            sum += f[0] * f[0] + f[1] * f[1] + f[2] * f[2] + f[3] * f[3];
        }
        const float scale = 1 / sqrtf(block_sum(sum) / (float)E + eps);
#pragma unroll
        for (int s = 0; s < NORM_STEPS; s++) {
            const int i = threadIdx.x + s * blockDim.x;
            if (i >= quads)
                break;
            msa_cuda_f32::unpack(held[s], f);
            msa_cuda_f32::unpack(((const uint4 *)gamma)[i], g);
#pragma unroll
            for (int j = 0; j < 4; j++)
                f[j] *= scale * g[j];
            store4<T>(out + m * E + 4 * i, f);
        }
    }
}

template <class T>
static __global__ void norm_any_kernel(const float *x, const float *gamma, float eps, int64_t M, int64_t E,
                                typename T::elem *out)
{
    follow();
    for (int64_t m = blockIdx.x; m < M; m += gridDim.x) {
        float sum = 0;
        for (int64_t i = threadIdx.x; i < E; i += blockDim.x)
            sum += x[m * E + i] * x[m * E + i];
        const float scale = 1 / sqrtf(block_sum(sum) / (float)E + eps);
        for (int64_t i = threadIdx.x; i < E; i += blockDim.x)
            out[m * E + i] = T::set(x[m * E + i] * scale * gamma[i]);
    }
}

msa_rc msa_cuda_rms_norm(msa_kern *k, msa_kern_stream *st, const float *x, const float *gamma, float eps,
                         int64_t M, int64_t E, void *out, msa_err *err)
{
    const void *pointers[] = {x, gamma, out};
    const int64_t numbers[] = {M, E, __builtin_bit_cast(int32_t, eps)};
    if (msa_cuda_noted(msa_cuda_of(k), "rms_norm", pointers, 3, numbers, 3))
        return MSA_OK;
    const cudaStream_t s = msa_cuda_stream(k, st);
    if (E % 4 == 0 && E <= 4 * NORM_STEPS * NORM_THREADS && msa_cuda_aligned(x) && msa_cuda_aligned(gamma) &&
        msa_cuda_aligned(out))
        FOR_ACT(k, msa_cuda_follow(norm_kernel<T>, grid_of(M), threads_for(E, 4 * NORM_STEPS, NORM_THREADS), s, x,
                                   gamma, eps, M, E, (T::elem *)out));
    else
        FOR_ACT(k, msa_cuda_follow(norm_any_kernel<T>, grid_of(M), threads_for(E, 4, 256), s, x, gamma, eps, M, E,
                                   (T::elem *)out));
    MSA_CUDA_LAUNCHED("rms_norm");
}

/* ---- qk_rope ----------------------------------------------------------------------------- */

/* Where rows of K and V go: row r of a call is row at[b] + r - row_start[b] of the caches of
 * its sequence b. */
struct store_to {
    int64_t B;
    const int64_t *row_start, *at;
    char *const *ck, *const *cv;
};

/* Addresses of the K and the V row that row r goes to; `bytes` a row. */
static __device__ void store_places(const store_to &s, int64_t r, int64_t bytes, char *places[2])
{
    int64_t lo = 0, hi = s.B; /* row_start[lo] <= r < row_start[hi] */
    while (hi - lo > 1) {
        const int64_t mid = (lo + hi) / 2;
        if (s.row_start[mid] <= r)
            lo = mid;
        else
            hi = mid;
    }
    const int64_t at = (s.at[lo] + r - s.row_start[lo]) * bytes;
    places[0] = s.ck[lo] + at;
    places[1] = s.cv[lo] + at;
}

/* bf16 heads of 8*L elements, L lanes each: a lane holds 8 numbers, its partner half
 * a head away the 8 that they are rotated with. The rotations of a block's rows are
 * computed once; blocks side by side on y share the heads of few rows. STORE: K and V also
 * go to their caches, qkv being row `first` of the call. What no kernel writes is read before
 * the kernel in front has ended. */
enum { ROPE_ROWS = 4, ROPE_THREADS = 256, ROPE_WARPS = ROPE_THREADS / 32 };
template <int L, bool STORE>
static __global__ void __launch_bounds__(ROPE_THREADS)
rope_kernel(__nv_bfloat16 *qkv, int64_t M, int H, int G, const float *q_gamma, const float *k_gamma,
            float eps, const int64_t *pos, double step, int64_t first, store_to to)
{
    enum { D = 8 * L, HALF = D / 2, AT_ONCE = 32 / L };
    __shared__ float2 turn[ROPE_ROWS][8][L / 2]; /* pair 8*i + j at [j][i], for lanes side by side */
    __shared__ char *places[ROPE_ROWS][2];
    __shared__ float4 gammas[2][D / 4];
    msa_cuda_let_next();
    for (int t = threadIdx.x; q_gamma && t < D / 2; t += ROPE_THREADS)
        gammas[t / (D / 4)][t % (D / 4)] = ((const float4 *)(t < D / 4 ? q_gamma : k_gamma))[t % (D / 4)];
    const int64_t row0 = (int64_t)blockIdx.x * ROPE_ROWS;
    const int rows = (int)min((int64_t)ROPE_ROWS, M - row0);
    if (STORE && (int)threadIdx.x < rows)
        store_places(to, first + row0 + threadIdx.x, (int64_t)G * D * 2, places[threadIdx.x]);
    for (int t = threadIdx.x; t < rows * HALF; t += ROPE_THREADS)
        turn[t / HALF][t % 8][t % HALF / 8] = msa_cuda_turn(pos[row0 + t / HALF], t % HALF, step);
    msa_cuda_wait_previous();
    __syncthreads();

    const int lane = threadIdx.x % 32, part = lane % L;
    const int each = H + G + (STORE ? G : 0), heads = rows * each;
    const int warp = blockIdx.y * ROPE_WARPS + threadIdx.x / 32, warps = gridDim.y * ROPE_WARPS;
    for (int n0 = warp * AT_ONCE; n0 < heads; n0 += warps * AT_ONCE) {
        /* lanes past the last head do its work again, without storing: all take part in shuffles */
        const int n = min(n0 + lane / L, heads - 1), row = n / each, head = n % each;
        uint4 *at = (uint4 *)(qkv + ((row0 + row) * (H + 2 * G) + head) * D) + part;
        uint4 v = *at;
        float f[8];
        msa_cuda_bf16::unpack(v, f);
        msa_cuda_rotate<L>(f, q_gamma != NULL, &gammas[head >= H][part * 2], eps, turn[row]);
        const bool value = STORE && head >= H + G; /* stays as it is */
        if (!value)
            v = msa_cuda_bf16::pack(f);
        if (n0 + lane / L >= heads)
            continue;
        if (!value)
            *at = v;
        if (STORE && head >= H) {
            char *p = places[row][value] + ((head - H - (value ? G : 0)) * D + part * 8) * 2;
            if ((uintptr_t)p % 16 == 0)
                *(uint4 *)p = v;
            else {
                const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int j = 0; j < 8; j++)
                    ((uint16_t *)p)[j] = (uint16_t)(w[j / 2] >> j % 2 * 16);
            }
        }
    }
}

/* Any even D: a block a row, a warp a head. Long heads have no room for the table. */
enum { ROPE_TABLE = 2048 };
template <class T>
static __global__ void rope_any_kernel(typename T::elem *qkv, int64_t M, int64_t H, int64_t G, int64_t D,
                                const float *q_gamma, const float *k_gamma, float eps, const int64_t *pos,
                                double step)
{
    follow();
    __shared__ float2 turn[ROPE_TABLE];
    const int64_t half = D / 2;
    const int lane = threadIdx.x % 32;
    for (int64_t m = blockIdx.x; m < M; m += gridDim.x) {
        for (int64_t i = threadIdx.x; i < half && i < ROPE_TABLE; i += blockDim.x)
            turn[i] = msa_cuda_turn(pos[m], i, step);
        __syncthreads();
        for (int64_t head = threadIdx.x / 32; head < H + G; head += blockDim.x / 32) {
            typename T::elem *x = qkv + (m * (H + 2 * G) + head) * D;
            const float *gamma = head < H ? q_gamma : k_gamma;
            float scale = 1;
            if (gamma) {
                float sum = 0;
                for (int64_t d = lane; d < D; d += 32)
                    sum += T::get(x[d]) * T::get(x[d]);
                scale = 1 / sqrtf(warp_sum(sum) / (float)D + eps);
            }
            for (int64_t i = lane; i < half; i += 32) {
                const float2 cs = i < ROPE_TABLE ? turn[i] : msa_cuda_turn(pos[m], i, step);
                float a = T::get(x[i]) * scale, b = T::get(x[half + i]) * scale;
                if (gamma) {
                    a *= gamma[i];
                    b *= gamma[half + i];
                }
                x[i] = T::set(a * cs.x - b * cs.y);
                x[half + i] = T::set(b * cs.x + a * cs.y);
            }
        }
        __syncthreads(); /* the table is the next row's */
    }
}

static bool rope_wide(const msa_kern *k, const void *qkv, int64_t M, msa_kern_heads h, const float *q_gamma,
                      const float *k_gamma)
{
    return k->info.act == MSA_BF16 && (h.D == 64 || h.D == 128) && msa_cuda_aligned(qkv) &&
           msa_cuda_aligned(q_gamma) && msa_cuda_aligned(k_gamma) && ceil_div(M, ROPE_ROWS) <= INT32_MAX &&
           h.H + 2 * h.G <= INT32_MAX / ROPE_ROWS;
}

template <bool STORE>
static void rope_launch(cudaStream_t s, void *qkv, int64_t M, msa_kern_heads h, const float *q_gamma,
                        const float *k_gamma, float eps, const int64_t *pos, double step, int64_t first,
                        store_to to)
{
    const int64_t blocks = ceil_div(M, ROPE_ROWS);
    const dim3 grid((unsigned)blocks, blocks <= 16 ? 8 : 1);
    if (h.D == 128)
        msa_cuda_follow(rope_kernel<16, STORE>, grid, ROPE_THREADS, s, (__nv_bfloat16 *)qkv, M, h.H, h.G,
                        q_gamma, k_gamma, eps, pos, step, first, to);
    else
        msa_cuda_follow(rope_kernel<8, STORE>, grid, ROPE_THREADS, s, (__nv_bfloat16 *)qkv, M, h.H, h.G,
                        q_gamma, k_gamma, eps, pos, step, first, to);
}

msa_rc msa_cuda_qk_rope(msa_kern *k, msa_kern_stream *st, void *qkv, int64_t M, msa_kern_heads h,
                        const float *q_gamma, const float *k_gamma, float eps, const int64_t *pos,
                        double theta, msa_err *err)
{
    const void *pointers[] = {qkv, q_gamma, k_gamma, pos};
    const int64_t numbers[] = {M, h.H, h.G, h.D, __builtin_bit_cast(int32_t, eps),
                               __builtin_bit_cast(int64_t, theta)};
    if (msa_cuda_noted(msa_cuda_of(k), "qk_rope", pointers, 4, numbers, 6))
        return MSA_OK;
    const cudaStream_t s = msa_cuda_stream(k, st);
    if (rope_wide(k, qkv, M, h, q_gamma, k_gamma))
        rope_launch<false>(s, qkv, M, h, q_gamma, k_gamma, eps, pos, msa_cuda_rope_step(h, theta), 0, store_to());
    else
        FOR_ACT(k, msa_cuda_follow(rope_any_kernel<T>, grid_of(M), 256, s, (T::elem *)qkv, M, h.H, h.G, h.D,
                                   q_gamma, k_gamma, eps, pos, msa_cuda_rope_step(h, theta)));
    MSA_CUDA_LAUNCHED("qk_rope");
}

/* ---- cache_store ---------------------------------------------------------------------------- */

/* A block a row and half (K or V). */
static __global__ void cache_store_kernel(const char *qkv, int64_t stride, int64_t kv_at, int64_t kv,
                                          int64_t rows, store_to s)
{
    follow();
    for (int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
        const int64_t r = s.row_start[0] + i;
        char *places[2];
        store_places(s, r, kv, places);
        const char *from = qkv + r * stride + kv_at + blockIdx.y * kv;
        char *to = blockIdx.y ? places[1] : places[0];
        if (((uintptr_t)from | (uintptr_t)to | (uintptr_t)kv) % 16 == 0)
            for (int64_t b = threadIdx.x; b < kv / 16; b += blockDim.x)
                ((uint4 *)to)[b] = ((const uint4 *)from)[b];
        else
            for (int64_t b = threadIdx.x; b < kv / 2; b += blockDim.x)
                ((uint16_t *)to)[b] = ((const uint16_t *)from)[b];
    }
}

static msa_rc store_args(msa_cuda *c, msa_kern_stream *st, int64_t B, const int64_t *row_start, void *const *ck,
                         void *const *cv, const int64_t *at, store_to *s, msa_err *err)
{
    const int64_t word = sizeof(int64_t);
    void *d[4] = {};
    msa_rc rc = msa_cuda_args(c, st, row_start, (B + 1) * word, &d[0], err);
    if (rc == MSA_OK)
        rc = msa_cuda_args(c, st, ck, B * word, &d[1], err);
    if (rc == MSA_OK)
        rc = msa_cuda_args(c, st, cv, B * word, &d[2], err);
    if (rc == MSA_OK)
        rc = msa_cuda_args(c, st, at, B * word, &d[3], err);
    s->B = B;
    s->row_start = (const int64_t *)d[0];
    s->ck = (char *const *)d[1];
    s->cv = (char *const *)d[2];
    s->at = (const int64_t *)d[3];
    return rc;
}

msa_rc msa_cuda_cache_store(msa_kern *k, msa_kern_stream *st, const void *qkv, msa_kern_heads h, int64_t B,
                            const int64_t *row_start, void *const *ck, void *const *cv, const int64_t *at,
                            msa_err *err)
{
    msa_cuda *c = msa_cuda_of(k);
    const int64_t size = msa_dtype_bytes(k->info.act), kv = h.G * h.D * size;
    const int64_t rows = row_start[B] - row_start[0];
    const void *pointers[] = {qkv};
    const int64_t numbers[] = {h.H, h.G, h.D, B, rows};
    const bool noted = msa_cuda_noted(c, "cache_store", pointers, 1, numbers, 5);
    store_to to;
    msa_rc rc = store_args(c, st, B, row_start, ck, cv, at, &to, err);
    if (rc < 0 || noted)
        return rc;
    msa_cuda_follow(cache_store_kernel, dim3(grid_of(rows), 2), threads_for(kv, 16, 256),
                    msa_cuda_stream(k, st), (const char *)qkv, (h.H + 2 * h.G) * h.D * size, h.H * h.D * size,
                    kv, rows, to);
    MSA_CUDA_LAUNCHED("cache_store");
}

msa_rc msa_cuda_qk_rope_store(msa_kern *k, msa_kern_stream *st, void *qkv, msa_kern_heads h, const float *q_gamma,
                              const float *k_gamma, float eps, const int64_t *pos, double theta, int64_t B,
                              const int64_t *row_start, void *const *ck, void *const *cv, const int64_t *at,
                              msa_err *err)
{
    msa_cuda *c = msa_cuda_of(k);
    const int64_t first = row_start[0], M = row_start[B] - first;
    char *rows = (char *)qkv + first * (h.H + 2 * h.G) * h.D * msa_dtype_bytes(k->info.act);
    if (!rope_wide(k, rows, M, h, q_gamma, k_gamma)) {
        msa_rc rc = msa_cuda_qk_rope(k, st, rows, M, h, q_gamma, k_gamma, eps, pos + first, theta, err);
        return rc < 0 ? rc : msa_cuda_cache_store(k, st, qkv, h, B, row_start, ck, cv, at, err);
    }
    const void *pointers[] = {rows, q_gamma, k_gamma, pos};
    const int64_t numbers[] = {first, M, h.H, h.G, h.D, B, __builtin_bit_cast(int32_t, eps),
                               __builtin_bit_cast(int64_t, theta)};
    const bool noted = msa_cuda_noted(c, "qk_rope_store", pointers, 4, numbers, 8);
    store_to to;
    msa_rc rc = store_args(c, st, B, row_start, ck, cv, at, &to, err);
    if (rc < 0 || noted)
        return rc;
    rope_launch<true>(msa_cuda_stream(k, st), rows, M, h, q_gamma, k_gamma, eps, pos + first,
                      msa_cuda_rope_step(h, theta), first, to);
    MSA_CUDA_LAUNCHED("qk_rope_store");
}

/* ---- swiglu ---------------------------------------------------------------------------------- */

template <class T> __device__ __forceinline__ float gated(float gate, float up);
template <> __device__ __forceinline__ float gated<msa_cuda_f32>(float gate, float up)
{
    return gate / (1 + expf(-gate)) * up;
}
/* the intrinsics err by some 1e-6, the result is rounded to 2e-3 */
template <> __device__ __forceinline__ float gated<msa_cuda_bf16>(float gate, float up)
{
    return __fdividef(gate, 1 + __expf(-gate)) * up;
}

/* x: rows, y: pieces of a row. */
template <class T>
static __global__ void swiglu_kernel(const typename T::elem *gu, int64_t M, int64_t I, typename T::elem *out)
{
    follow();
    const int64_t i = (int64_t)blockIdx.y * blockDim.x + threadIdx.x, pieces = I / T::PIECE;
    if (i >= pieces)
        return;
    for (int64_t m = blockIdx.x; m < M; m += gridDim.x) {
        const uint4 *row = (const uint4 *)gu + m * 2 * pieces;
        float gate[T::PIECE], up[T::PIECE];
        const uint4 g = row[i], u = row[pieces + i];
        T::unpack(g, gate);
        T::unpack(u, up);
#pragma unroll
        for (int j = 0; j < T::PIECE; j++)
            gate[j] = gated<T>(gate[j], up[j]);
        ((uint4 *)out)[m * pieces + i] = T::pack(gate);
    }
}

template <class T>
static __global__ void swiglu_any_kernel(const typename T::elem *gu, int64_t M, int64_t I, typename T::elem *out)
{
    follow();
    for (int64_t m = blockIdx.x; m < M; m += gridDim.x)
        for (int64_t i = threadIdx.x; i < I; i += blockDim.x)
            out[m * I + i] = T::set(gated<T>(T::get(gu[m * 2 * I + i]), T::get(gu[m * 2 * I + I + i])));
}

msa_rc msa_cuda_swiglu(msa_kern *k, msa_kern_stream *st, const void *gu, int64_t M, int64_t I, void *out,
                       msa_err *err)
{
    const void *pointers[] = {gu, out};
    const int64_t numbers[] = {M, I};
    if (msa_cuda_noted(msa_cuda_of(k), "swiglu", pointers, 2, numbers, 2))
        return MSA_OK;
    const cudaStream_t s = msa_cuda_stream(k, st);
    const int64_t piece = 16 / msa_dtype_bytes(k->info.act), columns = ceil_div(I / piece, 128);
    if (I % piece == 0 && columns <= UINT16_MAX && msa_cuda_aligned(gu) && msa_cuda_aligned(out))
        FOR_ACT(k, msa_cuda_follow(swiglu_kernel<T>, dim3(grid_of(M), (unsigned)columns), 128, s,
                                   (const T::elem *)gu, M, I, (T::elem *)out));
    else
        FOR_ACT(k, msa_cuda_follow(swiglu_any_kernel<T>, grid_of(M), threads_for(I, 2, 256), s,
                                   (const T::elem *)gu, M, I, (T::elem *)out));
    MSA_CUDA_LAUNCHED("swiglu");
}

/* ---- pooling ----------------------------------------------------------------------------------- */

/* Chunks on x, pieces of the columns on y. A thread sums its columns down the chunk,
 * even and odd rows apart. */
template <class T>
static __global__ void pool_kernel(const typename T::elem *x, int64_t stride, int64_t col, int64_t W,
                            const msa_kern_chunk *chunks, int64_t C, float *out)
{
    const int64_t i = (int64_t)blockIdx.y * blockDim.x + threadIdx.x;
    if (i >= W / T::PIECE)
        return;
    for (int64_t c = blockIdx.x; c < C; c += gridDim.x) {
        const int64_t start = chunks[c].start, len = chunks[c].len;
        const typename T::elem *at = x + start * stride + col + i * T::PIECE;
        float sum[2][T::PIECE] = {{0}}, f[T::PIECE];
#pragma unroll 4
        for (int64_t r = 0; r + 1 < len; r += 2) {
            const uint4 even = *(const uint4 *)(at + r * stride), odd = *(const uint4 *)(at + (r + 1) * stride);
            T::unpack(even, f);
#pragma unroll
            for (int j = 0; j < T::PIECE; j++)
                sum[0][j] += f[j];
            T::unpack(odd, f);
#pragma unroll
            for (int j = 0; j < T::PIECE; j++)
                sum[1][j] += f[j];
        }
        if (len % 2) {
            T::unpack(*(const uint4 *)(at + (len - 1) * stride), f);
#pragma unroll
            for (int j = 0; j < T::PIECE; j++)
                sum[0][j] += f[j];
        }
#pragma unroll
        for (int j = 0; j < T::PIECE; j++)
            f[j] = (sum[0][j] + sum[1][j]) / (float)len;
#pragma unroll
        for (int j = 0; j < T::PIECE / 4; j++)
            ((uint4 *)(out + c * W + i * T::PIECE))[j] = msa_cuda_f32::pack(f + 4 * j);
    }
}

template <class T>
static __global__ void pool_any_kernel(const typename T::elem *x, int64_t stride, int64_t col, int64_t W,
                                const msa_kern_chunk *chunks, int64_t C, float *out)
{
    for (int64_t c = blockIdx.x; c < C; c += gridDim.x)
        for (int64_t w = threadIdx.x; w < W; w += blockDim.x) {
            const int64_t start = chunks[c].start, len = chunks[c].len;
            float sum = 0;
            for (int64_t r = start; r < start + len; r++)
                sum += T::get(x[r * stride + col + w]);
            out[c * W + w] = sum / (float)len;
        }
}

template <class T>
static void pool(const void *x, int64_t stride, int64_t col, int64_t W, const void *chunks, int64_t C,
                 float *out, cudaStream_t s)
{
    const typename T::elem *from = (const typename T::elem *)x;
    const int64_t columns = ceil_div(W / T::PIECE, 64);
    if (stride % T::PIECE == 0 && col % T::PIECE == 0 && W % T::PIECE == 0 && columns <= UINT16_MAX &&
        msa_cuda_aligned(x) && msa_cuda_aligned(out))
        pool_kernel<T><<<dim3(grid_of(C), (unsigned)columns), 64, 0, s>>>(
            from, stride, col, W, (const msa_kern_chunk *)chunks, C, out);
    else
        pool_any_kernel<T><<<grid_of(C), threads_for(W, 1, 256), 0, s>>>(
            from, stride, col, W, (const msa_kern_chunk *)chunks, C, out);
}

msa_rc msa_cuda_pool(msa_kern *k, msa_kern_stream *st, const void *x, bool x_f32, int64_t stride, int64_t col,
                     int64_t W, const msa_kern_chunk *chunks, int64_t C, float *out, msa_err *err)
{
    void *d;
    msa_rc rc = msa_cuda_args(msa_cuda_of(k), st, chunks, C * (int64_t)sizeof *chunks, &d, err);
    if (rc < 0)
        return rc;
    if (x_f32)
        pool<msa_cuda_f32>(x, stride, col, W, d, C, out, msa_cuda_stream(k, st));
    else
        FOR_ACT(k, pool<T>(x, stride, col, W, d, C, out, msa_cuda_stream(k, st)));
    MSA_CUDA_LAUNCHED("pool");
}

/* A warp a head. */
static __global__ void unit_heads_kernel(float *x, int64_t heads, int64_t D)
{
    const int64_t warps = (int64_t)gridDim.x * (blockDim.x / 32);
    for (int64_t i = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; i < heads; i += warps) {
        float *v = x + i * D, sum = 0;
        for (int64_t d = threadIdx.x % 32; d < D; d += 32)
            sum += v[d] * v[d];
        const float scale = 1 / fmaxf(sqrtf(warp_sum(sum)), 1e-12f);
        for (int64_t d = threadIdx.x % 32; d < D; d += 32)
            v[d] *= scale;
    }
}

msa_rc msa_cuda_unit_heads(msa_kern *k, msa_kern_stream *st, float *x, int64_t R, int64_t heads, int64_t D,
                           msa_err *err)
{
    unit_heads_kernel<<<grid_of(ceil_div(R * heads, 8)), 256, 0, msa_cuda_stream(k, st)>>>(x, R * heads, D);
    MSA_CUDA_LAUNCHED("unit_heads");
}

/* ---- conversions ---------------------------------------------------------------------------------- */

/* bf16 whose NaNs keep their sign and upper bits, as the reference has it; the
 * processor's own conversion knows one NaN. */
struct bf16_kept : msa_cuda_bf16 {
    static __device__ __forceinline__ uint16_t bits(float v)
    {
        const uint32_t u = __float_as_uint(v);
        return (uint16_t)(isnan(v) ? u >> 16 | 0x40 : (u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
    static __device__ __forceinline__ __nv_bfloat16 set(float v) { return __ushort_as_bfloat16(bits(v)); }
    static __device__ __forceinline__ uint4 pack(const float f[PIECE])
    {
        uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            w[i] = bits(f[2 * i]) | (uint32_t)bits(f[2 * i + 1]) << 16;
        return make_uint4(w[0], w[1], w[2], w[3]);
    }
};

/* Eight elements a step where rows allow it (wide). */
template <class F, class T>
static __global__ void convert_kernel(const typename F::elem *src, int64_t src_stride, typename T::elem *dst,
                               int64_t dst_stride, int64_t n, int64_t R, bool wide)
{
    for (int64_t r = blockIdx.x; r < R; r += gridDim.x) {
        const typename F::elem *from = src + r * src_stride;
        typename T::elem *to = dst + r * dst_stride;
        const int64_t eights = wide ? n / 8 : 0;
        for (int64_t i = threadIdx.x; i < eights; i += blockDim.x) {
            float f[8];
#pragma unroll
            for (int j = 0; j < 8 / F::PIECE; j++)
                F::unpack(((const uint4 *)from)[i * (8 / F::PIECE) + j], f + j * F::PIECE);
#pragma unroll
            for (int j = 0; j < 8 / T::PIECE; j++)
                ((uint4 *)to)[i * (8 / T::PIECE) + j] = T::pack(f + j * T::PIECE);
        }
        for (int64_t i = eights * 8 + threadIdx.x; i < n; i += blockDim.x)
            to[i] = T::set(F::get(from[i]));
    }
}

template <class F, class T>
static void convert(const void *src, int64_t src_stride, void *dst, int64_t dst_stride, int64_t n, int64_t R,
                    cudaStream_t s)
{
    const bool wide = src_stride % 8 == 0 && dst_stride % 8 == 0 && msa_cuda_aligned(src) && msa_cuda_aligned(dst);
    convert_kernel<F, T><<<grid_of(R), threads_for(n, 8, 256), 0, s>>>(
        (const typename F::elem *)src, src_stride, (typename T::elem *)dst, dst_stride, n, R, wide);
}

msa_rc msa_cuda_convert(msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from, int64_t src_stride,
                        void *dst, msa_dtype to, int64_t dst_stride, int64_t n, int64_t R, msa_err *err)
{
    const cudaStream_t s = msa_cuda_stream(k, st);
    if (from == MSA_F32 && to == MSA_F32)
        convert<msa_cuda_f32, msa_cuda_f32>(src, src_stride, dst, dst_stride, n, R, s);
    else if (from == MSA_F32)
        convert<msa_cuda_f32, bf16_kept>(src, src_stride, dst, dst_stride, n, R, s);
    else if (to == MSA_F32)
        convert<msa_cuda_bf16, msa_cuda_f32>(src, src_stride, dst, dst_stride, n, R, s);
    else
        convert<msa_cuda_bf16, bf16_kept>(src, src_stride, dst, dst_stride, n, R, s);
    MSA_CUDA_LAUNCHED("convert");
}

/* A warp a group. The same f32 division and roundings as the reference: the bits
 * are the same. */
template <class F>
static __global__ void quantize_kernel(const typename F::elem *src, int64_t src_stride, int64_t groups, int64_t D,
                                int64_t R, int8_t *dst, int64_t dst_stride, void *scale, bool f16,
                                int64_t scale_stride)
{
    const int64_t warps = (int64_t)gridDim.x * (blockDim.x / 32);
    const int lane = threadIdx.x % 32;
    for (int64_t n = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; n < R * groups; n += warps) {
        const int64_t r = n / groups, g = n % groups;
        const typename F::elem *from = src + r * src_stride + g * D;
        int8_t *to = dst + r * dst_stride + g * D;
        float top = 0;
        for (int64_t d = lane; d < D; d += 32)
            top = fmaxf(top, fabsf(F::get(from[d])));
#pragma unroll
        for (int o = 16; o > 0; o /= 2)
            top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
        float factor = __fdiv_rn(top, 127.0f);
        if (f16) {
            const __half h = __float2half_rn(factor);
            factor = __half2float(h);
            if (lane == 0)
                ((__half *)scale)[r * scale_stride + g] = h;
        } else if (lane == 0)
            ((float *)scale)[r * scale_stride + g] = factor;
        for (int64_t d = lane; d < D; d += 32) {
            const float v = factor > 0 ? rintf(__fdiv_rn(F::get(from[d]), factor)) : 0;
            to[d] = (int8_t)fminf(fmaxf(v, -127.0f), 127.0f);
        }
    }
}

msa_rc msa_cuda_quantize(msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from, int64_t src_stride,
                         int64_t n, int64_t D, int64_t R, int8_t *dst, int64_t dst_stride, void *scale,
                         msa_dtype scale_type, int64_t scale_stride, msa_err *err)
{
    const cudaStream_t s = msa_cuda_stream(k, st);
    const int64_t groups = n / D;
    const unsigned blocks = grid_of(ceil_div(R * groups, 8));
    const bool f16 = scale_type == MSA_F16;
    if (from == MSA_F32)
        quantize_kernel<msa_cuda_f32><<<blocks, 256, 0, s>>>((const float *)src, src_stride, groups, D, R, dst,
                                                             dst_stride, scale, f16, scale_stride);
    else
        quantize_kernel<msa_cuda_bf16><<<blocks, 256, 0, s>>>((const __nv_bfloat16 *)src, src_stride, groups, D, R,
                                                              dst, dst_stride, scale, f16, scale_stride);
    MSA_CUDA_LAUNCHED("quantize");
}
