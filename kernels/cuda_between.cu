/* CUDA: what stands between two attentions, for up to 16 rows of bf16, in one kernel.
 *
 * Its four products (three behind the last layer) read each weight once, and while
 * decoding nothing else counts. So one thread of a block does nothing but ask for
 * weights, a ring of shared memory full of them, product after product: it knows what
 * comes next and waits for places in the ring alone. Weights are no kernel's output, so
 * it begins while attention in front still works, and goes on while blocks wait for
 * each other between two products.
 *
 * The grid is as many clusters of four blocks as the device holds at a time. A cluster
 * takes units of 16 weight rows in turn; each of its blocks has a quarter of the
 * columns, and each of a block's eight multiplying warps an eighth of those: what they
 * need of x stays in registers for all units of a product. Sums meet in a fixed order:
 * those of the warps in shared memory, where a warp for every 8 rows of x folds them and
 * sends the result to the block whose turn it is (units go round the cluster); those of
 * the four blocks there, where a last warp adds, finishes and stores them. So results do
 * not depend on who comes first.
 *
 * A norm's factor belongs to a whole row of x, gamma to a column: x times gamma is
 * multiplied, and the factor comes to the sums. Who stores new values of x leaves the sum
 * of their squares, 16 columns a number.
 *
 * Between two products all blocks meet at a counter in global memory. That needs all of
 * them on the device at the same time, which no launch promises: the grid is what an
 * empty device holds, and kernels in front end by themselves, so all of its blocks come
 * to run unless another grid that waits like this one holds some of the places. Hence
 * only the backend's own stream takes this path. On that, a next kernel begins early only
 * when all blocks of this one run. Two processes that decode must not share a card at the
 * same moment (MPS); by turns, as cards do it otherwise, does no harm. */
#include "kernels/cuda_chain.h"
#include "kernels/cuda_elem.h"
#include "kernels/cuda_internal.h"
#include "kernels/cuda_wgmma.h"

enum {
    CLUSTER = 4,
    UNIT = 16,                       /* weight rows; of gate and up 8 each */
    STEP = 16,                       /* columns of a product of the matrix units */
    MULTIPLIERS = 8,                 /* warps */
    ROUND = STEP * MULTIPLIERS,      /* columns of a step of all warps */
    STEPS = 20, NORM_STEPS = 8,      /* most steps along a block's columns, and of a normed x */
    STAGE_STEPS = 5,                 /* of a place in the ring */
    PITCH = 2 * ROUND * STAGE_STEPS + 32, /* bytes from row to row there: 4 rows are in banks of their own */
    STAGE = UNIT * PITCH,
    RING = 6,                        /* places */
    PARTS = 2, INBOX = 2,            /* units whose sums wait to be folded, and to be finished */
    TILE = 8,                        /* rows of x in a product of the matrix units */
    MOST_ROWS = 2 * TILE,
    PRODUCTS = 4
};

enum finishing { ADD_TO_X, SWIGLU, STORE };

/* A product, and what becomes of its sums. */
struct between_product {
    const __nv_bfloat16 *W;
    const void *x;                   /* [M, K] bf16, or f32 when it is normed with gamma */
    const float *gamma;
    void *out;                       /* [M, N]; SWIGLU: of N / 2 columns */
    int32_t K, columns;              /* of W, of out */
    int32_t units, steps;
    int32_t how;
};

struct between_work {
    between_product product[PRODUCTS];
    int32_t n_products, M, E;
    float eps;
    const float *x;                  /* [M, E] */
    __nv_bfloat16 *xn;               /* [M, E], or NULL: behind the last norm */
    float *squares;                  /* [E / UNIT, tiles * TILE] */
    uint32_t *met;                   /* the counter */
};

/* Sums of a unit in the order of the matrix units: lane l has rows l / 4 (x, y) and l / 4 + 8
 * (z, w) at rows 2 (l % 4) (x, z) and 2 (l % 4) + 1 (y, w) of a tile of x. */
template <int TILES> struct between_shared {
    char ring[RING][STAGE];
    float4 parts[PARTS][MULTIPLIERS][TILES][32];
    float4 inbox[INBOX][CLUSTER][TILES][32];
    float factor[MOST_ROWS];
    uint64_t full[RING], empty[RING];
    uint64_t part_full[PARTS], part_empty[PARTS];
    uint64_t inbox_full[INBOX], inbox_empty[CLUSTER][INBOX]; /* of this block; of each, told here */
    uint64_t go;                     /* the next product may begin */
};

/* Which clusters, blocks and units: all warps go through the units in the same order. */
struct between_place {
    int32_t rank, cluster, clusters;
};

static __device__ __forceinline__ between_place place_of_block(void)
{
    return {(int32_t)blockIdx.x % CLUSTER, (int32_t)blockIdx.x / CLUSTER, (int32_t)gridDim.x / CLUSTER};
}

/* A place of a ring that is used in turn, and the parity of its present use. */
struct between_turn {
    uint32_t at, parity;
};

static __device__ __forceinline__ void turn_next(between_turn *t, uint32_t n)
{
    if (++t->at == n) {
        t->at = 0;
        t->parity ^= 1;
    }
}

/* ---- weights -------------------------------------------------------------------------- */

/* One thread. When all is asked for, the next kernel may be set up. */
template <int TILES>
static __device__ void ask(const between_work &w, const between_place &p, between_shared<TILES> *sh)
{
    const uint64_t once = l2_evict_first();
    between_turn ring = {0, 0};
    for (int i = 0; i < w.n_products; i++) {
        const between_product &f = w.product[i];
        const int64_t K = f.K;
        const int rows = f.how == SWIGLU ? UNIT / 2 : UNIT;
        const int64_t second = f.how == SWIGLU ? (int64_t)f.columns * K : UNIT / 2 * K;
        for (int u = p.cluster; u < f.units; u += p.clusters) {
            const __nv_bfloat16 *row = f.W + (int64_t)u * rows * K + p.rank * (f.K / CLUSTER);
            for (int s = 0; s < f.steps; s += STAGE_STEPS, row += ROUND * STAGE_STEPS) {
                const uint32_t bytes = 2 * ROUND * min(STAGE_STEPS, f.steps - s);
                uint64_t *full = &sh->full[ring.at];
                char *to = sh->ring[ring.at];
                barrier_wait(&sh->empty[ring.at], ring.parity ^ 1);
                barrier_expect(full, UNIT * bytes);
#pragma unroll
                for (int r = 0; r < UNIT / 2; r++) {
                    bulk_load(to + r * PITCH, row + r * K, bytes, full, once);
                    bulk_load(to + (r + UNIT / 2) * PITCH, row + second + r * K, bytes, full, once);
                }
                turn_next(&ring, RING);
            }
        }
    }
    msa_cuda_let_next();
}

/* ---- products ---------------------------------------------------------------------------- */

/* A warp's part of x: of step s the columns ROUND * s + 4 (lane % 4) .. + 3 behind its
 * first, of row lane / 4 of each tile; behind the last row the last again. What other blocks wrote in
 * this kernel must not come from the L1 cache. */
template <int TILES> struct between_x {
    uint2 v[STEPS][TILES];
};

static __device__ __forceinline__ int64_t first_of_row(const between_product &f, int M, int tile, int first)
{
    const int lane = threadIdx.x % 32;
    return (int64_t)min(tile * TILE + lane / 4, M - 1) * f.K + first + lane % 4 * 4;
}

template <int TILES>
static __device__ __forceinline__ void load_x(const between_product &f, int M, int first, between_x<TILES> *x)
{
    const __nv_bfloat16 *row[TILES];
#pragma unroll
    for (int n = 0; n < TILES; n++)
        row[n] = (const __nv_bfloat16 *)f.x + first_of_row(f, M, n, first);
#pragma unroll
    for (int s = 0; s < STEPS; s++)
#pragma unroll
        for (int n = 0; n < TILES; n++)
            x->v[s][n] = s < f.steps ? __ldcg((const uint2 *)(row[n] + s * ROUND)) : make_uint2(0, 0);
}

static __device__ __forceinline__ uint2 times(const float4 &a, const float4 &b)
{
    return make_uint2(msa_cuda_bf16::pack2(a.x * b.x, a.y * b.y), msa_cuda_bf16::pack2(a.z * b.z, a.w * b.w));
}

/* The same of x in f32 times gamma, which may be read before the other blocks have
 * written x: that is when `go` is over. */
template <int TILES>
static __device__ __forceinline__ void load_normed(const between_product &f, int M, int first, uint64_t *go,
                                                   uint32_t parity, between_x<TILES> *x)
{
    const int lane = threadIdx.x % 32;
    const float4 none = make_float4(0, 0, 0, 0);
    float4 gamma[NORM_STEPS], v[NORM_STEPS][TILES];
    const float *row[TILES];
#pragma unroll
    for (int n = 0; n < TILES; n++)
        row[n] = (const float *)f.x + first_of_row(f, M, n, first);
#pragma unroll
    for (int s = 0; s < NORM_STEPS; s++)
        gamma[s] = s < f.steps ? *(const float4 *)(f.gamma + first + s * ROUND + lane % 4 * 4) : none;
    barrier_wait(go, parity);
#pragma unroll
    for (int s = 0; s < NORM_STEPS; s++)
#pragma unroll
        for (int n = 0; n < TILES; n++)
            v[s][n] = s < f.steps ? __ldcg((const float4 *)(row[n] + s * ROUND)) : none;
#pragma unroll
    for (int s = 0; s < STEPS; s++)
#pragma unroll
        for (int n = 0; n < TILES; n++)
            x->v[s][n] = s < NORM_STEPS ? times(v[s % NORM_STEPS][n], gamma[s % NORM_STEPS]) : make_uint2(0, 0);
}

/* A warp's eighth of every unit, its sums left in shared memory. */
template <int TILES>
static __device__ void multiply(const between_work &w, const between_place &p, between_shared<TILES> *sh)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int mine = lane / 4 * PITCH + warp * STEP * 2 + lane % 4 * 8; /* in a place of the ring */
    between_turn ring = {0, 0}, part = {0, 0};
    msa_cuda_wait_previous();
    for (int i = 0; i < w.n_products; i++) {
        const between_product &f = w.product[i];
        const int first = p.rank * (f.K / CLUSTER) + warp * STEP;
        between_x<TILES> x;
        if (f.gamma) {
            load_normed<TILES>(f, w.M, first, &sh->go, (i - 1) & 1, &x);
        } else {
            if (i > 0)
                barrier_wait(&sh->go, (i - 1) & 1);
            load_x<TILES>(f, w.M, first, &x);
        }
        for (int u = p.cluster; u < f.units; u += p.clusters) {
            float acc[TILES][4] = {};
#pragma unroll
            for (int s0 = 0; s0 < STEPS; s0 += STAGE_STEPS) {
                if (s0 >= f.steps)
                    break;
                uint2 a[STAGE_STEPS][2];
                barrier_wait(&sh->full[ring.at], ring.parity);
                const char *at = sh->ring[ring.at] + mine;
#pragma unroll
                for (int s = 0; s < STAGE_STEPS; s++)
                    if (s0 + s < f.steps)
#pragma unroll
                        for (int h = 0; h < 2; h++)
                            a[s][h] = *(const uint2 *)(at + h * (UNIT / 2 * PITCH) + s * ROUND * 2);
#pragma unroll
                for (int s = 0; s < STAGE_STEPS; s++)
                    if (s0 + s < f.steps)
#pragma unroll
                        for (int n = 0; n < TILES; n++)
                            msa_cuda_mma(acc[n], a[s][0].x, a[s][1].x, a[s][0].y, a[s][1].y, x.v[s0 + s][n].x,
                                         x.v[s0 + s][n].y);
                /* without it new weights overtook these reads where they queued behind the loads of x */
                copies_after_reads();
                __syncwarp();
                if (lane == 0)
                    barrier_arrive(&sh->empty[ring.at]);
                turn_next(&ring, RING);
            }
            barrier_wait(&sh->part_empty[part.at], part.parity ^ 1);
#pragma unroll
            for (int n = 0; n < TILES; n++)
                sh->parts[part.at][warp][n][lane] = make_float4(acc[n][0], acc[n][1], acc[n][2], acc[n][3]);
            __syncwarp();
            if (lane == 0)
                barrier_arrive(&sh->part_full[part.at]);
            turn_next(&part, PARTS);
        }
    }
}

/* ---- sums --------------------------------------------------------------------------------- */

static __device__ __forceinline__ void add(float4 *sum, const float4 &v)
{
    sum->x += v.x;
    sum->y += v.y;
    sum->z += v.z;
    sum->w += v.w;
}

/* A warp for tile n of x: the sums of the block's warps go to the block that finishes the
 * unit, the count-th of this kernel for this cluster. */
template <int TILES>
static __device__ void fold(const between_work &w, const between_place &p, int n, between_shared<TILES> *sh)
{
    const int lane = threadIdx.x % 32;
    between_turn part = {0, 0};
    uint32_t count = 0;
    for (int i = 0; i < w.n_products; i++)
        for (int u = p.cluster; u < w.product[i].units; u += p.clusters, count++) {
            const uint32_t to = count % CLUSTER, turn = count / CLUSTER, box = turn % INBOX;
            barrier_wait(&sh->part_full[part.at], part.parity);
            float4 v[MULTIPLIERS];
#pragma unroll
            for (int k = 0; k < MULTIPLIERS; k++)
                v[k] = sh->parts[part.at][k][n][lane];
            __syncwarp();
            if (lane == 0)
                barrier_arrive(&sh->part_empty[part.at]);
            turn_next(&part, PARTS);
#pragma unroll
            for (int k = 1; k < MULTIPLIERS; k++)
                add(&v[0], v[k]);
            barrier_wait(&sh->inbox_empty[to][box], (turn / INBOX & 1) ^ 1);
            send_beside(&sh->inbox[box][p.rank][n][lane], v[0], &sh->inbox_full[box], to);
        }
}

/* All blocks of the grid; one thread. Block 0 adds what makes the sum of all a power of
 * two: when the last has come, the highest bit changes, and the counter is as it was but for that. */
static __device__ __forceinline__ void meet(uint32_t *met)
{
    const uint32_t highest = 0x80000000u, mine = blockIdx.x == 0 ? highest - (gridDim.x - 1) : 1;
    uint32_t before, now;
    asm volatile("atom.add.release.gpu.global.u32 %0, [%1], %2;" : "=r"(before) : "l"(met), "r"(mine) : "memory");
    do
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(met) : "memory");
    while (((before ^ now) & highest) == 0);
}

/* A warp: the norm's factors of rows 0 .. TILES * TILE - 1, in shared memory. */
template <int TILES> static __device__ __forceinline__ void find_factors(const between_work &w, float *factor)
{
    enum { QUADS = TILES * TILE / 4, AT_ONCE = 32 / QUADS };
    const int lane = threadIdx.x % 32;
    const float4 *from = (const float4 *)w.squares + lane;
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 10
    for (int i = 0; i < w.E / UNIT / AT_ONCE; i++)
        add(&sum, __ldcg(from + 32 * i));
#pragma unroll
    for (int o = QUADS; o < 32; o *= 2)
        add(&sum, make_float4(__shfl_xor_sync(~0u, sum.x, o), __shfl_xor_sync(~0u, sum.y, o),
                              __shfl_xor_sync(~0u, sum.z, o), __shfl_xor_sync(~0u, sum.w, o)));
    const float each = 1 / (float)w.E;
    if (lane < QUADS)
        ((float4 *)factor)[lane] =
            make_float4(1 / sqrtf(sum.x * each + w.eps), 1 / sqrtf(sum.y * each + w.eps),
                        1 / sqrtf(sum.z * each + w.eps), 1 / sqrtf(sum.w * each + w.eps));
    __syncwarp();
}

/* A warp: this block's share of what the last norm gives. */
static __device__ void leave_normed(const between_work &w, const float *gamma, const float *factor)
{
    const int32_t pieces = w.E / 8;
    for (int32_t i = (int32_t)(blockIdx.x * 32 + threadIdx.x % 32); i < w.M * pieces; i += (int32_t)gridDim.x * 32) {
        const int32_t m = i / pieces, c = i % pieces;
        const float4 *x = (const float4 *)w.x + 2 * i, *g = (const float4 *)gamma + 2 * c;
        float v[8], by[8];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            *(float4 *)(v + 4 * h) = __ldcg(x + h);
            *(float4 *)(by + 4 * h) = g[h];
        }
#pragma unroll
        for (int e = 0; e < 8; e++)
            v[e] *= factor[m] * by[e];
        ((uint4 *)w.xn)[i] = msa_cuda_bf16::pack(v);
    }
}

/* Sums over the lanes whose numbers are of the same row of x. */
static __device__ __forceinline__ float over_columns(float v)
{
#pragma unroll
    for (int o = 4; o < 32; o *= 2)
        v += __shfl_xor_sync(~0u, v, o);
    return v;
}

/* What a lane has of tile n of a unit: rows m and m + 1 of x at columns c and c + 8 of out. */
template <int TILES>
static __device__ __forceinline__ void put_unit(const between_work &w, const between_product &f, int u,
                                                const float (&old)[TILES][4], const float4 (&sum)[TILES],
                                                const float *factor)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < TILES; n++) {
        const float v[2][2] = {{sum[n].x, sum[n].z}, {sum[n].y, sum[n].w}};
        float square[2] = {0, 0};
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int m = n * TILE + lane % 4 * 2 + e;
            if (m >= w.M)
                continue;
            if (f.how == ADD_TO_X) {
                float *to = (float *)f.out + (int64_t)m * f.columns + u * UNIT + lane / 4;
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const float now = old[n][2 * e + h] + v[e][h];
                    to[h * (UNIT / 2)] = now;
                    square[e] = fmaf(now, now, square[e]);
                }
            } else if (f.how == SWIGLU) {
                const float gate = v[e][0] * factor[m], up = v[e][1] * factor[m];
                ((__nv_bfloat16 *)f.out)[(int64_t)m * f.columns + u * (UNIT / 2) + lane / 4] =
                    __float2bfloat16_rn(__fdividef(gate, 1 + __expf(-gate)) * up);
            } else {
                __nv_bfloat16 *to = (__nv_bfloat16 *)f.out + (int64_t)m * f.columns + u * UNIT + lane / 4;
                to[0] = __float2bfloat16_rn(v[e][0] * factor[m]);
                to[UNIT / 2] = __float2bfloat16_rn(v[e][1] * factor[m]);
            }
        }
        if (f.how == ADD_TO_X) {
            const float2 all = make_float2(over_columns(square[0]), over_columns(square[1]));
            if (lane < 4)
                ((float2 *)w.squares)[(u * TILES + n) * (TILE / 2) + lane] = all;
        }
    }
}

/* The warp that adds the sums of the cluster's blocks, for every fourth unit, and meets
 * the other blocks behind each product. */
template <int TILES>
static __device__ void finish(const between_work &w, const between_place &p, between_shared<TILES> *sh)
{
    const int lane = threadIdx.x % 32;
    uint32_t count = 0;
    msa_cuda_wait_previous();
    for (int i = 0; i < w.n_products; i++) {
        const between_product &f = w.product[i];
        if (f.gamma)
            find_factors<TILES>(w, sh->factor);
        if (f.how == STORE)
            leave_normed(w, f.gamma, sh->factor);
        for (int u = p.cluster; u < f.units; u += p.clusters, count++) {
            const uint32_t turn = count / CLUSTER, box = turn % INBOX;
            if ((int32_t)(count % CLUSTER) != p.rank)
                continue;
            float old[TILES][4] = {};
#pragma unroll
            for (int n = 0; n < TILES; n++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const int m = n * TILE + lane % 4 * 2 + j / 2;
                    if (f.how == ADD_TO_X && m < w.M)
                        old[n][j] = __ldcg((const float *)f.out + (int64_t)m * f.columns + u * UNIT + lane / 4 +
                                           j % 2 * (UNIT / 2));
                }
            barrier_wait(&sh->inbox_full[box], turn / INBOX & 1);
            float4 sum[TILES];
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                sum[n] = sh->inbox[box][0][n][lane];
#pragma unroll
                for (int k = 1; k < CLUSTER; k++)
                    add(&sum[n], sh->inbox[box][k][n][lane]);
            }
            copies_after_reads();
            __syncwarp();
            if (lane == 0) {
                barrier_expect(&sh->inbox_full[box], sizeof sh->inbox[box]);
                for (int k = 0; k < CLUSTER; k++)
                    barrier_arrive_at(&sh->inbox_empty[p.rank][box], k);
            }
            put_unit<TILES>(w, f, u, old, sum, sh->factor);
        }
        __syncwarp();
        if (lane == 0 && i + 1 < w.n_products) {
            meet(w.met);
            barrier_arrive(&sh->go);
        }
        __syncwarp();
    }
}

/* ---- the kernel --------------------------------------------------------------------------- */

enum { ASKING = MULTIPLIERS, FINISHING, FOLDING }; /* numbers of warps; those that fold are the last */

template <int TILES> static __device__ void barriers_init(between_shared<TILES> *sh)
{
    for (int i = 0; i < RING; i++) {
        barrier_init(&sh->full[i], 1);
        barrier_init(&sh->empty[i], MULTIPLIERS);
    }
    for (int i = 0; i < PARTS; i++) {
        barrier_init(&sh->part_full[i], MULTIPLIERS);
        barrier_init(&sh->part_empty[i], TILES);
    }
    for (int i = 0; i < INBOX; i++) {
        barrier_init(&sh->inbox_full[i], 1);
        for (int k = 0; k < CLUSTER; k++)
            barrier_init(&sh->inbox_empty[k][i], 1);
    }
    barrier_init(&sh->go, 1);
    barrier_init_done();
    for (int i = 0; i < INBOX; i++)
        barrier_expect(&sh->inbox_full[i], sizeof sh->inbox[i]);
}

template <int TILES>
static __global__ void __launch_bounds__(32 * FOLDING + 32 * TILES, 1)
between_kernel(const __grid_constant__ between_work w)
{
    extern __shared__ __align__(128) char shared[];
    between_shared<TILES> *sh = (between_shared<TILES> *)shared;
    const between_place p = place_of_block();
    const int warp = threadIdx.x / 32;
    if (threadIdx.x == 0)
        barriers_init<TILES>(sh);
    __syncthreads();
    cluster_arrive();
    if (warp == ASKING && one_lane())
        ask<TILES>(w, p, sh); /* of its own block's memory alone: it need not wait for the others */
    cluster_wait();
    if (warp < MULTIPLIERS)
        multiply<TILES>(w, p, sh);
    else if (warp == FINISHING)
        finish<TILES>(w, p, sh);
    else if (warp >= FOLDING)
        fold<TILES>(w, p, warp - FOLDING, sh);
    cluster_arrive();
    cluster_wait(); /* nothing is sent to a block that has ended */
}

/* ---- the operation ------------------------------------------------------------------------- */

/* The scratch: the counter, zero when it is allocated, then squares. */
enum { COUNTER_BYTES = 256 };
static_assert(COUNTER_BYTES + CLUSTER * ROUND * NORM_STEPS / UNIT * MOST_ROWS * 4 <= MSA_CUDA_BETWEEN_BYTES,
              "room for squares");

static bool suits(int64_t K, int64_t steps) { return K % (CLUSTER * ROUND) == 0 && K <= CLUSTER * ROUND * steps; }

template <int TILES> static cudaLaunchConfig_t config_of(cudaLaunchAttribute a[2], int clusters, cudaStream_t s)
{
    a[0] = a[1] = {};
    a[0].id = cudaLaunchAttributeClusterDimension;
    a[0].val.clusterDim.x = CLUSTER;
    a[0].val.clusterDim.y = a[0].val.clusterDim.z = 1;
    a[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    a[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(CLUSTER * clusters));
    config.blockDim = dim3(32 * (FOLDING + TILES));
    config.dynamicSmemBytes = sizeof(between_shared<TILES>);
    config.stream = s;
    config.attrs = a;
    config.numAttrs = 2;
    return config;
}

/* Clusters that an empty device holds; 0: none. */
template <int TILES> static int clusters_of(msa_cuda *c)
{
    int *known = &c->between_clusters[TILES - 1], n = 0;
    if (*known == 0) {
        cudaLaunchAttribute a[2];
        const cudaLaunchConfig_t config = config_of<TILES>(a, c->n_sms / CLUSTER, c->stream);
        if (cudaFuncSetAttribute(between_kernel<TILES>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)config.dynamicSmemBytes) == cudaSuccess &&
            /* attention stands beside it when both divide a multiprocessor's memory alike */
            cudaFuncSetAttribute(between_kernel<TILES>, cudaFuncAttributePreferredSharedMemoryCarveout,
                                 cudaSharedmemCarveoutMaxShared) == cudaSuccess &&
            cudaOccupancyMaxActiveClusters(&n, between_kernel<TILES>, &config) == cudaSuccess && n > 0)
            *known = n;
        else
            *known = -1;
        cudaGetLastError();
    }
    return *known < 0 ? 0 : *known;
}

template <int TILES> static msa_rc launch(msa_cuda *c, cudaStream_t s, const between_work &w, msa_err *err)
{
    /* a unit of each product for every cluster, so that none of its warps is two products ahead */
    int clusters = clusters_of<TILES>(c);
    for (int i = 0; i < w.n_products; i++)
        clusters = clusters < w.product[i].units ? clusters : w.product[i].units;
    cudaLaunchAttribute a[2];
    const cudaLaunchConfig_t config = config_of<TILES>(a, clusters, s);
    c->between_ran = true;
    return msa_cuda_error(cudaLaunchKernelEx(&config, between_kernel<TILES>, w), "between", err);
}

static between_product product_of(const msa_kern_weight *weight, const void *x, const float *gamma, void *out,
                                  finishing how)
{
    between_product f;
    f.W = (const __nv_bfloat16 *)((const msa_cuda_weight *)weight)->w;
    f.x = x;
    f.gamma = gamma;
    f.out = out;
    f.K = (int32_t)weight->K;
    f.columns = (int32_t)(how == SWIGLU ? weight->N / 2 : weight->N);
    f.units = (int32_t)(weight->N / UNIT);
    f.steps = (int32_t)(weight->K / (CLUSTER * ROUND));
    f.how = how;
    return f;
}

static bool takes(msa_cuda *c, const msa_kern_stream *st, const msa_kern_link *l, int64_t M)
{
    const int64_t E = l->o->N, I = l->down->K, N = l->next ? l->next->N : 0;
    return c->base.info.act == MSA_BF16 && !st && M <= MOST_ROWS && suits(l->o->K, STEPS) && suits(E, NORM_STEPS) &&
           suits(I, STEPS) && N % UNIT == 0 && N <= INT32_MAX &&
           (M <= TILE ? clusters_of<1>(c) : clusters_of<2>(c)) > 0;
}

msa_rc msa_cuda_between(msa_kern *k, msa_kern_stream *st, const msa_kern_link *l, const void *att, int64_t M,
                        float *x, void *xn, void *gu, void *mlp, void *qkv, msa_err *err)
{
    (void)gu; /* gate and up never leave the device's shared memory */
    msa_cuda *c = msa_cuda_of(k);
    const void *pointers[] = {att, x, xn, mlp, l->gamma, l->next_gamma, qkv, l->o, l->gate_up, l->down, l->next};
    const cudaStream_t s = msa_cuda_stream(k, st);
    if (!takes(c, st, l, M))
        return MSA_END;
    for (int i = 0; i < 6; i++)
        if (!msa_cuda_aligned(pointers[i]))
            return MSA_END;
    const int64_t numbers[] = {M, l->o->N, l->o->K, l->down->K, l->next ? l->next->N : 0,
                               __builtin_bit_cast(int32_t, l->eps)};
    if (msa_cuda_noted(c, "between", pointers, 11, numbers, 6))
        return MSA_OK;
    between_work w = {};
    w.product[w.n_products++] = product_of(l->o, att, NULL, x, ADD_TO_X);
    w.product[w.n_products++] = product_of(l->gate_up, x, l->gamma, mlp, SWIGLU);
    w.product[w.n_products++] = product_of(l->down, mlp, NULL, x, ADD_TO_X);
    if (l->next)
        w.product[w.n_products++] = product_of(l->next, x, l->next_gamma, qkv, STORE);
    w.M = (int32_t)M;
    w.E = (int32_t)l->o->N;
    w.eps = l->eps;
    w.x = x;
    w.xn = (__nv_bfloat16 *)xn;
    char *scratch = (char *)c->linear_scratch + c->linear_bytes - MSA_CUDA_BETWEEN_BYTES;
    w.met = (uint32_t *)scratch;
    w.squares = (float *)(scratch + COUNTER_BYTES);
    return M <= TILE ? launch<1>(c, s, w, err) : launch<2>(c, s, w, err);
}
