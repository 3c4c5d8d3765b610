/* CUDA: products of few rows, which read each weight once, and products of any shape.
 *
 * Decoding multiplies few rows with every weight, so what counts is how fast the
 * weight arrives: 16-byte loads, eight in flight a thread, and enough blocks of few
 * weight rows each, whose threads share the row's K, that all of the card pulls.
 * One row is multiplied by ordinary arithmetic, up to 8 by tensor cores with the weight
 * as the side of 16 rows. The order of a sum depends on K alone (and on
 * which of the two it is), not on the number of rows. */
#include "kernels/cuda_chain.h"
#include "kernels/cuda_elem.h"
#include "kernels/cuda_gemv.h"

/* 16 bytes, or zeros when `in` is false; what is read once is kept out of L1. */
static __device__ __forceinline__ uint4 load_once(const void *p, bool in)
{
    uint4 v = make_uint4(0, 0, 0, 0);
    if (in)
        asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                     : "l"(p)
                     : "memory");
    return v;
}

/* Asks for bytes of a weight that a later turn or block will load; both numbers are
 * multiples of 16. */
static __device__ __forceinline__ void want_later(const void *p, int bytes)
{
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes));
}

static __device__ __forceinline__ uint4 load_often(const void *p, bool in)
{
    uint4 v = make_uint4(0, 0, 0, 0);
    if (in)
        asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                     : "l"(p)
                     : "memory");
    return v;
}

template <class T>
static __device__ __forceinline__ void put(void *out, msa_linear_mode mode, int64_t at, float v)
{
    if (mode == MSA_LINEAR_ACT)
        ((typename T::elem *)out)[at] = T::set(v);
    else if (mode == MSA_LINEAR_F32)
        ((float *)out)[at] = v;
    else
        ((float *)out)[at] += v;
}

/* ---- what both kernels of few rows share -------------------------------------------- */

/* Row r of the R weight rows of place `at`. Gated, the first half are rows of the gate,
 * the second the same rows of up. What lies past the last row is the last again. */
static __device__ __forceinline__ const __nv_bfloat16 *weight_row(const msa_cuda_few &f, int64_t at, int r, int R)
{
    int64_t n = at * R + r;
    if (f.gated) {
        const int half = R / 2;
        n = min(at * half + r % half, f.N / 2 - 1) + (r < half ? 0 : f.N / 2);
    }
    return (const __nv_bfloat16 *)f.W + min(n, f.N - 1) * f.K;
}

/* Stores the sum of row r of a place, or, gated, of gate's row r and up's. */
static __device__ __forceinline__ void finish(const msa_cuda_few &f, int64_t at, int r, int R, int m, float sum,
                                              float up)
{
    const int64_t n = at * (f.gated ? R / 2 : R) + r, N = f.gated ? f.N / 2 : f.N;
    if (m >= f.M || n >= N)
        return;
    if (f.gated)
        sum = __fdividef(sum, 1 + __expf(-sum)) * up;
    put<msa_cuda_bf16>(f.out, f.mode, m * N + n, sum);
}

/* ---- one row ------------------------------------------------------------------------ */

/* Weight rows of a block, its most threads, blocks that a multiprocessor should hold:
 * a weight of 2,560 rows is all in flight at once on 132 of them. */
enum { GEMV_ROWS = 4, GEMV_THREADS = 192, GEMV_BLOCKS = 5, GEMV_BLOCKS_NORM = 3 };

/* Sums n values a lane over the warp; lane l gets value l / (32 / n). Each step
 * halves the values that a lane still carries. */
template <int n> static __device__ __forceinline__ float fold(float (&v)[n], int lane)
{
    int o = 16;
#pragma unroll
    for (int left = n; left > 1; left /= 2, o /= 2) {
        const bool upper = lane & o;
#pragma unroll
        for (int i = 0; i < left / 2; i++) {
            const float give = upper ? v[i] : v[i + left / 2], keep = upper ? v[i + left / 2] : v[i];
            v[i] = keep + __shfl_xor_sync(~0u, give, o);
        }
    }
    float sum = v[0];
#pragma unroll
    for (int d = 16 / n; d > 0; d /= 2)
        sum += __shfl_xor_sync(~0u, sum, d);
    return sum;
}

static __device__ __forceinline__ float warp_sum(float v)
{
#pragma unroll
    for (int o = 16; o > 0; o /= 2)
        v += __shfl_xor_sync(~0u, v, o);
    return v;
}

/* Pieces of 8 numbers: of bf16 one load, of f32 two. */
template <bool NORM>
static __device__ __forceinline__ void multiply(const uint4 w[GEMV_ROWS], const uint4 x[1 + NORM],
                                                const uint4 gamma[1 + NORM], float acc[GEMV_ROWS], float *squares)
{
    float a[8], g[8];
    if (NORM) {
        msa_cuda_f32::unpack(x[0], a);
        msa_cuda_f32::unpack(x[NORM], a + 4);
        msa_cuda_f32::unpack(gamma[0], g);
        msa_cuda_f32::unpack(gamma[NORM], g + 4);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            *squares = fmaf(a[j], a[j], *squares);
            a[j] *= g[j];
        }
    } else {
        msa_cuda_bf16::unpack(x[0], a);
    }
#pragma unroll
    for (int r = 0; r < GEMV_ROWS; r++) {
        float b[8];
        msa_cuda_bf16::unpack(w[r], b);
#pragma unroll
        for (int j = 0; j < 8; j++)
            acc[r] = fmaf(a[j], b[j], acc[r]);
    }
}

/* A column of parts, one a warp. */
static __device__ __forceinline__ float total(const float *parts, int pitch)
{
    float sum = 0;
    for (int i = 0; i < (int)blockDim.x / 32; i++)
        sum += parts[i * pitch];
    return sum;
}

/* What the block's next turn loads is asked for a turn ahead; in its last turn a block
 * of the first `ahead`, which may still wait for the kernel before, asks for the first
 * turn of the block that comes after all of these. With a norm, whose registers leave
 * fewer blocks to load at a time, all blocks do.
 *
 * A norm's factor belongs to all of x, so the sums are multiplied by it at the end; its
 * squares are summed on the way, in every block again. */
template <bool NORM>
static __global__ void __launch_bounds__(GEMV_THREADS, NORM ? GEMV_BLOCKS_NORM : GEMV_BLOCKS)
gemv_kernel(msa_cuda_few f, int ahead)
{
    enum { PARTS = 1 + NORM };
    __shared__ float part[GEMV_THREADS / 32][GEMV_ROWS], square[GEMV_THREADS / 32];
    const int pieces = (int)(f.K / 8), turn = 2 * blockDim.x;
    const uint4 *w[GEMV_ROWS], *x = (const uint4 *)f.x;
#pragma unroll
    for (int r = 0; r < GEMV_ROWS; r++)
        w[r] = (const uint4 *)weight_row(f, blockIdx.x, r, GEMV_ROWS);
    float acc[GEMV_ROWS] = {0}, squares = 0;
    msa_cuda_let_next();
    for (int p0 = 0; p0 < pieces; p0 += turn) {
        const int p = p0 + threadIdx.x, q = p + blockDim.x;
        uint4 a[GEMV_ROWS], b[GEMV_ROWS], xa[PARTS], xb[PARTS], ga[PARTS], gb[PARTS];
#pragma unroll
        for (int r = 0; r < GEMV_ROWS; r++)
            a[r] = load_once(w[r] + p, p < pieces);
#pragma unroll
        for (int r = 0; r < GEMV_ROWS; r++)
            b[r] = load_once(w[r] + q, q < pieces);
        if (NORM) {
#pragma unroll
            for (int i = 0; i < PARTS; i++) {
                ga[i] = load_often((const uint4 *)f.gamma + PARTS * p + i, p < pieces);
                gb[i] = load_often((const uint4 *)f.gamma + PARTS * q + i, q < pieces);
            }
        }
        if (threadIdx.x < GEMV_ROWS) {
            const bool last = p0 + turn >= pieces;
            const int64_t place = blockIdx.x + (last ? (int64_t)ahead : 0);
            const int from = last ? 0 : p0 + turn;
            if (place < gridDim.x && (NORM || !last || blockIdx.x < ahead))
                want_later((const uint4 *)weight_row(f, place, threadIdx.x, GEMV_ROWS) + from,
                           16 * min(turn, pieces - from));
        }
        if (p0 == 0)
            msa_cuda_wait_previous(); /* weights are no kernel's output, x is */
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            xa[i] = load_often(x + PARTS * p + i, p < pieces);
            xb[i] = load_often(x + PARTS * q + i, q < pieces);
        }
        multiply<NORM>(a, xa, ga, acc, &squares);
        multiply<NORM>(b, xb, gb, acc, &squares);
    }
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float sum = fold<GEMV_ROWS>(acc, lane);
    if (lane % (32 / GEMV_ROWS) == 0)
        part[warp][lane / (32 / GEMV_ROWS)] = sum;
    if (NORM) {
        const float all = warp_sum(squares);
        if (lane == 0)
            square[warp] = all;
    }
    __syncthreads();
    const float factor = NORM ? 1 / sqrtf(total(square, 1) / (float)f.K + f.eps) : 1;
    if (NORM && blockIdx.x == 0)
        for (int p = threadIdx.x; p < pieces; p += blockDim.x) {
            float v[8], g[8];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                msa_cuda_f32::unpack(x[2 * p + i], v + 4 * i);
                msa_cuda_f32::unpack(((const uint4 *)f.gamma)[2 * p + i], g + 4 * i);
            }
#pragma unroll
            for (int j = 0; j < 8; j++)
                v[j] *= factor * g[j];
            ((uint4 *)f.xn)[p] = msa_cuda_bf16::pack(v);
        }
    if (threadIdx.x >= (f.gated ? GEMV_ROWS / 2 : GEMV_ROWS))
        return;
    const float first = total(&part[0][threadIdx.x], GEMV_ROWS) * factor;
    const float up = f.gated ? total(&part[0][threadIdx.x + GEMV_ROWS / 2], GEMV_ROWS) * factor : 0;
    finish(f, blockIdx.x, threadIdx.x, GEMV_ROWS, 0, first, up);
}

/* ---- up to 8 rows ---------------------------------------------------------------------- */

enum { MMA_MOST = 8, MMA_ROWS = 16, MMA_STEP = 32, MMA_AHEAD = 4, MMA_WARPS = 8, MMA_PITCH = 20 };

/* A block: 16 weight rows; its warps take turns at steps of 32 columns. In a step a
 * lane loads 8 consecutive columns of two weight rows and of one row of x: the products pair
 * them in another order than the columns', the same on both sides. */
static __global__ void __launch_bounds__(32 * MMA_WARPS) mma_kernel(msa_cuda_few f)
{
    __shared__ float part[MMA_WARPS][MMA_MOST][MMA_PITCH];
    const int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
    const int g = lane / 4, t = lane % 4;
    const int64_t K = f.K;
    const __nv_bfloat16 *w0 = weight_row(f, blockIdx.x, g, MMA_ROWS) + t * 8;
    const __nv_bfloat16 *w1 = weight_row(f, blockIdx.x, g + 8, MMA_ROWS) + t * 8;
    const __nv_bfloat16 *x = (const __nv_bfloat16 *)f.x + min((int64_t)g, f.M - 1) * K + t * 8;
    float acc[4] = {0};
    msa_cuda_let_next();
    const int64_t end = K - t * 8; /* what lies from here on is another row's */
    for (int64_t k = warp * MMA_STEP; k < K; k += (int64_t)warps * MMA_STEP * MMA_AHEAD) {
        uint4 a[MMA_AHEAD][2], b[MMA_AHEAD];
#pragma unroll
        for (int u = 0; u < MMA_AHEAD; u++) {
            const int64_t at = k + (int64_t)u * warps * MMA_STEP;
            a[u][0] = load_once(w0 + at, at < end);
            a[u][1] = load_once(w1 + at, at < end);
        }
        if (k == warp * MMA_STEP)
            msa_cuda_wait_previous();
#pragma unroll
        for (int u = 0; u < MMA_AHEAD; u++) {
            const int64_t at = k + (int64_t)u * warps * MMA_STEP;
            b[u] = load_often(x + at, at < end);
        }
        __syncwarp(); /* keeps the compiler from moving each load to its use */
#pragma unroll
        for (int u = 0; u < MMA_AHEAD; u++) {
            msa_cuda_mma(acc, a[u][0].x, a[u][1].x, a[u][0].y, a[u][1].y, b[u].x, b[u].y);
            msa_cuda_mma(acc, a[u][0].z, a[u][1].z, a[u][0].w, a[u][1].w, b[u].z, b[u].w);
        }
    }
#pragma unroll
    for (int j = 0; j < 4; j++)
        part[warp][2 * t + j % 2][g + j / 2 * 8] = acc[j];
    __syncthreads();
    const int R = f.gated ? MMA_ROWS / 2 : MMA_ROWS;
    for (int e = threadIdx.x; e < MMA_MOST * R; e += blockDim.x) {
        const int m = e / R, r = e % R;
        float sum = 0, up = 0;
        for (int i = 0; i < warps; i++)
            sum += part[i][m][r];
        for (int i = 0; f.gated && i < warps; i++)
            up += part[i][m][r + R];
        finish(f, blockIdx.x, r, MMA_ROWS, m, sum, up);
    }
}

/* ---- any shape ------------------------------------------------------------------------------ */

enum { TILE = 16 };

template <class T>
static __global__ void any_kernel(const typename T::elem *W, const typename T::elem *x, int64_t M, int64_t N, int64_t K,
                           void *out, msa_linear_mode mode)
{
    __shared__ float xs[TILE][TILE + 1], ws[TILE][TILE + 1];
    const int tx = threadIdx.x, ty = threadIdx.y;
    const int64_t n0 = (int64_t)blockIdx.x * TILE;
    for (int64_t m0 = (int64_t)blockIdx.y * TILE; m0 < M; m0 += (int64_t)gridDim.y * TILE) {
        float sum = 0;
        for (int64_t k = 0; k < K; k += TILE) {
            const bool in = k + tx < K;
            xs[ty][tx] = in && m0 + ty < M ? T::get(x[(m0 + ty) * K + k + tx]) : 0;
            ws[ty][tx] = in && n0 + ty < N ? T::get(W[(n0 + ty) * K + k + tx]) : 0;
            __syncthreads();
#pragma unroll
            for (int i = 0; i < TILE; i++)
                sum = fmaf(xs[ty][i], ws[tx][i], sum);
            __syncthreads();
        }
        if (m0 + ty < M && n0 + tx < N)
            put<T>(out, mode, (m0 + ty) * N + n0 + tx, sum);
    }
}

/* ---- launches --------------------------------------------------------------------------------- */

/* Of the card that this is tuned for; more or less of them change speed alone. */
enum { SMS = 132 };

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Warps of a block whose threads share `steps` steps, `ahead` at a time: as many as
 * fit, and no more than keep the last turn full. */
static int warps_for(int64_t steps, int64_t ahead, int64_t most)
{
    const int64_t turns = ceil_div(steps, ahead * most);
    return (int)ceil_div(steps, ahead * turns);
}

bool msa_cuda_few_rows(int64_t M, int64_t N, int64_t K)
{
    return M <= MMA_MOST && K % 8 == 0 && K <= INT32_MAX && N <= INT32_MAX;
}

bool msa_cuda_few_norms(int64_t M) { return M == 1; }

void msa_cuda_linear_few(const msa_cuda_few *f, cudaStream_t s)
{
    const int per = f->gated ? 2 : 1;
    const int64_t outputs = f->N / per;
    const int threads = 32 * warps_for(ceil_div(f->K, 8 * 32), 2, GEMV_THREADS / 32);
    const int ahead = (f->gamma ? GEMV_BLOCKS_NORM : GEMV_BLOCKS) * SMS * GEMV_THREADS / threads;
    if (f->M == 1)
        msa_cuda_follow(f->gamma ? gemv_kernel<true> : gemv_kernel<false>,
                        (unsigned)ceil_div(outputs, GEMV_ROWS / per), threads, s, *f, ahead);
    else
        msa_cuda_follow(mma_kernel, (unsigned)ceil_div(outputs, MMA_ROWS / per),
                        32 * warps_for(ceil_div(f->K, MMA_STEP), MMA_AHEAD, MMA_WARPS), s, *f);
}

void msa_cuda_linear_any(msa_dtype act, const void *W, const void *x, int64_t M, int64_t N, int64_t K, void *out,
                         msa_linear_mode mode, cudaStream_t s)
{
    const int64_t down = ceil_div(M, TILE);
    const dim3 grid((unsigned)ceil_div(N, TILE), (unsigned)(down < UINT16_MAX ? down : UINT16_MAX));
    const dim3 block(TILE, TILE);
    if (act == MSA_F32)
        any_kernel<msa_cuda_f32><<<grid, block, 0, s>>>((const float *)W, (const float *)x, M, N, K, out, mode);
    else
        any_kernel<msa_cuda_bf16><<<grid, block, 0, s>>>((const __nv_bfloat16 *)W, (const __nv_bfloat16 *)x, M, N,
                                                         K, out, mode);
}
