/* CUDA: products of few rows, which read each weight once. Up to 4 rows: cuda_gemv.cu.
 * From 5 to 64 rows, here: a block's weights come through a ring in shared memory as fast as
 * the copy unit brings them, 64 columns of all of its rows at a time with the same columns of x
 * behind them, and a warpgroup multiplies, the weight being the long side of its tiles.
 *
 * What costs is how often x leaves the L2 cache. So a block holds many weight rows, and
 * where there are too few of them for all multiprocessors, the blocks of a cluster
 * share the columns instead, and add up their sums through shared memory. The order of
 * a sum depends on the weight's shape and on which of 16, 32 and 64 rows there are at
 * most. */
#include <cooperative_groups.h>

#include "kernels/cuda_gemv.h"
#include "kernels/cuda_map.h"
#include "kernels/cuda_wgmma.h"

namespace cg = cooperative_groups;

enum {
    SLAB = 128, SLAB_K = 64,     /* bytes, numbers of a row in a slab */
    MULTIPLIERS = 128,           /* threads, and a warp that loads */
    THREADS = MULTIPLIERS + 32,
    UNIT = 8,                    /* rows of a swizzle */
    MOST_ROWS = 256,             /* of a box, and of a warpgroup's four tiles of 64 */
    MOST_SPLITS = 8,
    MOST_STAGES = 32,
    ALIGN_BYTES = 1024,          /* slabs start at multiples of it */
    ROOM = 168 << 10,            /* shared memory: two blocks of attention fit beside it */
};

/* A block's part: `rows` weight rows (gated: half of them gate's, half up's) in each of
 * `passes`, of the columns a share of `share` slabs. */
struct few_plan {
    int32_t rows, passes;
    int32_t places;              /* clusters of `splits` blocks */
    int32_t splits, slabs, share;
    int32_t stages;
};

/* A place in the ring and the parity of its present use. */
struct few_slot {
    int32_t at;
    uint32_t parity;
};

static __device__ __forceinline__ void slot_next(few_slot *s, int32_t n)
{
    if (++s->at == n) {
        s->at = 0;
        s->parity ^= 1;
    }
}

struct few_ring {
    char *at;
    uint64_t *full, *empty;
};

struct few_block {
    int32_t place, first, slabs; /* its first slab and their number */
};

static __device__ __forceinline__ few_block block_of(const few_plan &p)
{
    few_block b;
    b.place = (int32_t)blockIdx.x / p.splits;
    b.first = (int32_t)blockIdx.x % p.splits * p.share;
    b.slabs = min(p.share, p.slabs - b.first);
    return b;
}

/* What a step of the ring holds: slab i of the block's columns in a pass. */
struct few_step {
    int32_t pass, i;
};

static __device__ __forceinline__ void step_next(few_step *s, int32_t n)
{
    if (++s->i == n) {
        s->i = 0;
        s->pass++;
    }
}

static __device__ __forceinline__ void load_weights(char *dst, const CUtensorMap *map, const msa_cuda_few &f,
                                                    const few_plan &p, const few_block &b, const few_step &s,
                                                    uint64_t *full, uint64_t policy)
{
    const int32_t x = (b.first + s.i) * SLAB_K, place = s.pass * p.places + b.place;
    if (f.gated) {
        const int32_t half = p.rows / 2, y = place * half;
        tensor_load(dst, map, x, y, full, policy);
        tensor_load(dst + half * SLAB, map, x, (int32_t)(f.N / 2) + y, full, policy);
    } else {
        tensor_load(dst, map, x, place * p.rows, full, policy);
    }
}

/* One thread. Weights are no kernel's output: what the ring holds of them is on its way
 * before the kernel in front has ended. The next one begins when all is asked for. */
template <int NT>
static __device__ void load(const CUtensorMap *weights, const CUtensorMap *xs, const msa_cuda_few &f,
                            const few_plan &p, const few_block &b, const few_ring &r)
{
    const uint64_t once = l2_evict_first(), often = l2_evict_last();
    const int32_t x_at = p.rows * SLAB, bytes = x_at + NT * SLAB;
    const int32_t steps = p.passes * b.slabs, ahead = min(steps, p.stages);
    few_step s = {0, 0}, x = {0, 0};
    for (int32_t i = 0; i < ahead; i++, step_next(&s, b.slabs)) {
        barrier_expect(&r.full[i], (uint32_t)bytes);
        load_weights(r.at + i * bytes, weights, f, p, b, s, &r.full[i], once);
    }
    previous_wait();
    for (int32_t i = 0; i < ahead; i++, step_next(&x, b.slabs))
        tensor_load(r.at + i * bytes + x_at, xs, (b.first + x.i) * SLAB_K, 0, &r.full[i], often);
    few_slot slot = {0, 0};
    for (int32_t i = ahead; i < steps; i++, step_next(&s, b.slabs), slot_next(&slot, p.stages)) {
        uint64_t *full = &r.full[slot.at];
        char *dst = r.at + slot.at * bytes;
        barrier_wait(&r.empty[slot.at], slot.parity);
        barrier_expect(full, (uint32_t)bytes);
        load_weights(dst, weights, f, p, b, s, full, once);
        tensor_load(dst + x_at, xs, (b.first + s.i) * SLAB_K, 0, full, often);
    }
    next_may_start();
}

/* Where a thread's sums of a tile stand: d[4 j + 2 h + e] is weight row `row` + 8 h, row
 * 8 j + `column` + e of x. */
struct few_thread {
    int32_t row, column;
};

template <int TILES, int NT>
static __device__ __forceinline__ void write_out(const msa_cuda_few &f, const few_plan &p, int32_t place,
                                                 const few_thread &t, const float (&d)[TILES][NT / 2])
{
    const int32_t rows = f.gated ? p.rows / 2 : p.rows;
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int j = 0; j < NT / 2; j++) {
            const int32_t r = i * 64 + t.row + j / 2 % 2 * 8;
            if (r < rows && (!f.gated || i < TILES / 2))
                msa_cuda_few_put(f, j / 4 * 8 + t.column + j % 2, (int64_t)place * rows + r, d[i][j],
                                 i < TILES / 2 ? d[i + TILES / 2][j] : 0);
        }
}

/* The sums of a cluster's blocks, in their order; every block finishes a part. */
template <int TILES, int NT>
static __device__ __forceinline__ void put_sums(float *sums, const few_plan &p, const few_thread &t,
                                                const float (&d)[TILES][NT / 2])
{
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int j = 0; j < NT / 2; j++) {
            const int32_t r = i * 64 + t.row + j / 2 % 2 * 8;
            if (r < p.rows)
                sums[(j / 4 * 8 + t.column + j % 2) * (p.rows + 4) + r] = d[i][j];
        }
}

static __device__ void add_sums(const msa_cuda_few &f, const few_plan &p, int32_t place, float *sums)
{
    cg::cluster_group cluster = cg::this_cluster();
    const int32_t n = (int32_t)f.M * p.rows, split = (int32_t)cluster.block_rank();
    for (int32_t e = split * THREADS + (int32_t)threadIdx.x; e < n; e += p.splits * THREADS) {
        const int32_t m = e / p.rows, r = e % p.rows;
        float part[MOST_SPLITS], sum = 0;
#pragma unroll
        for (int i = 0; i < MOST_SPLITS; i++)
            part[i] = cluster.map_shared_rank(sums, min(i, p.splits - 1))[m * (p.rows + 4) + r];
#pragma unroll
        for (int i = 0; i < MOST_SPLITS; i++)
            sum += i < p.splits ? part[i] : 0;
        msa_cuda_few_put(f, m, (int64_t)place * p.rows + r, sum, 0);
    }
}

/* The warpgroup's part. Where the last tile is longer than the rows, it multiplies what lies
 * behind them, to no purpose and without harm: rows do not mix. */
template <int TILES, int NT>
static __device__ void multiply(const msa_cuda_few &f, const few_plan &p, const few_block &b, const few_ring &r)
{
    const int32_t bytes = (p.rows + NT) * SLAB, lane = (int32_t)threadIdx.x % 32;
    const few_thread t = {(int32_t)threadIdx.x / 32 * 16 + lane / 4, lane % 4 * 2};
    const uint64_t up = (uint64_t)(p.rows / 2 * SLAB / 16);
    few_slot slot = {0, 0};
    float d[TILES][NT / 2];
    previous_wait();
    for (int32_t pass = 0; pass < p.passes; pass++) {
        int32_t used = 0;
        for (int32_t i = 0; i < b.slabs; i++) {
            barrier_wait(&r.full[slot.at], slot.parity);
            const uint32_t at = shared_at(r.at) + (uint32_t)(slot.at * bytes);
            const uint64_t wd = slab_descriptor(at), xd = slab_descriptor(at + (uint32_t)(p.rows * SLAB));
            wgmma_begin();
#pragma unroll
            for (int step = 0; step < SLAB / 32; step++)
#pragma unroll
                for (int n = 0; n < TILES; n++) {
                    const uint64_t tile = (uint64_t)(n * (64 * SLAB / 16));
                    const uint64_t half = up + (uint64_t)((n - TILES / 2) * (64 * SLAB / 16));
                    wgmma(d[n], wd + (f.gated && n >= TILES / 2 ? half : tile) + (uint64_t)(2 * step),
                          xd + (uint64_t)(2 * step), i + step);
                }
            wgmma_commit();
            wgmma_wait<1>(); /* the slab before this one is done with */
            if (i > 0 && lane == 0)
                barrier_arrive(&r.empty[used]);
            used = slot.at;
            slot_next(&slot, p.stages);
        }
        wgmma_wait<0>();
#pragma unroll
        for (int n = 0; n < TILES; n++)
            wgmma_keep(d[n]);
        if (lane == 0)
            barrier_arrive(&r.empty[used]);
        if (p.splits == 1)
            write_out<TILES, NT>(f, p, pass * p.places + b.place, t, d);
    }
    if (p.splits > 1) { /* one pass: the ring is free when all have multiplied */
        asm volatile("bar.sync 1, 128;" ::: "memory");
        put_sums<TILES, NT>((float *)r.at, p, t, d);
    }
}

/* A warpgroup's tiles of 64 weight rows, and rows of x; weights' boxes are of p.rows rows, or
 * gated of half of them, those of x of NT. */
template <int TILES, int NT>
static __global__ void __launch_bounds__(THREADS, 1)
few_kernel(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap xs,
           const __grid_constant__ msa_cuda_few f, const __grid_constant__ few_plan p)
{
    extern __shared__ char shared[];
    __shared__ uint64_t bars[2][MOST_STAGES];
    const few_ring r = {shared + (ALIGN_BYTES - shared_at(shared) % ALIGN_BYTES) % ALIGN_BYTES, bars[0], bars[1]};
    const few_block b = block_of(p);
    if (threadIdx.x < MOST_STAGES) {
        barrier_init(&r.full[threadIdx.x], 1);
        barrier_init(&r.empty[threadIdx.x], MULTIPLIERS / 32);
        barrier_init_done();
    } else if (threadIdx.x == MULTIPLIERS) {
        tensor_prefetch(&weights);
        tensor_prefetch(&xs);
    }
    __syncthreads();
    if (threadIdx.x < MULTIPLIERS)
        multiply<TILES, NT>(f, p, b, r);
    else if (threadIdx.x == MULTIPLIERS)
        load<NT>(&weights, &xs, f, p, b, r);
    if (p.splits == 1)
        return;
    previous_wait(); /* of all who read or write what kernels do */
    cluster_sync();
    add_sums(f, p, b.place, (float *)r.at);
    cluster_sync(); /* the others have read this block's sums */
}

/* ---- the host's part ---------------------------------------------------------------- */

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Clusters that a card of 132 multiprocessors holds at a time, its parts of 16 or 18 being cut
 * up whole. More or less of them change speed alone. */
static int64_t clusters_of(int64_t splits) { return splits == 1 ? 132 : splits == 2 ? 66 : 128 / splits; }

static few_plan plan_of(const msa_cuda_few *f, int64_t NT)
{
    const int64_t unit = f->gated ? 2 * UNIT : UNIT, units = ceil_div(f->N, unit), slabs = ceil_div(f->K, SLAB_K);
    int64_t splits = 1, rows = unit * ceil_div(units, clusters_of(1));
    while (!f->gated && splits < MOST_SPLITS && rows < 4 * NT && slabs >= 2 * splits * 8) {
        const int64_t more = unit * ceil_div(units, clusters_of(2 * splits));
        if (more > MOST_ROWS)
            break;
        splits *= 2;
        rows = more;
    }
    const int64_t passes = ceil_div(rows, MOST_ROWS);
    rows = unit * ceil_div(rows, passes * unit);
    few_plan p;
    p.rows = (int32_t)rows;
    p.passes = (int32_t)passes;
    p.splits = (int32_t)splits;
    p.places = (int32_t)(passes > 1 ? clusters_of(1) : ceil_div(units * unit, rows));
    p.slabs = (int32_t)slabs;
    p.share = (int32_t)ceil_div(slabs, splits);
    p.stages = 0;
    return p;
}

template <int TILES, int NT>
static msa_rc launch(const msa_cuda_few *f, few_plan p, cudaStream_t s, msa_err *err)
{
    const int64_t bytes = (p.rows + NT) * (int64_t)SLAB, steps = (int64_t)p.passes * p.share;
    const int64_t behind = p.rows < TILES * 64 ? (TILES * 64 - p.rows) * (int64_t)SLAB : 0;
    const int64_t sums = p.splits > 1 ? (p.rows + 4) * (int64_t)NT * 4 : 0;
    int64_t stages = (ROOM - ALIGN_BYTES - behind) / bytes;
    stages = stages < MOST_STAGES ? stages : (int64_t)MOST_STAGES;
    p.stages = (int32_t)(stages < steps ? stages : steps);
    int64_t room = p.stages * bytes + behind;
    room = ALIGN_BYTES + (room > sums ? room : sums);
    CUtensorMap weights, xs;
    msa_rc rc = msa_cuda_map_rows(&weights, f->W, MSA_BF16, f->K, f->K, f->N, f->gated ? p.rows / 2 : p.rows, err);
    if (rc == MSA_OK)
        rc = msa_cuda_map_rows(&xs, f->x, MSA_BF16, f->K, f->K, f->M, NT, err);
    if (rc < 0)
        return rc;
    cudaLaunchAttribute a[2] = {};
    a[0].id = cudaLaunchAttributeClusterDimension;
    a[0].val.clusterDim.x = (unsigned)p.splits;
    a[0].val.clusterDim.y = a[0].val.clusterDim.z = 1;
    a[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    a[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(p.places * p.splits));
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = (size_t)room;
    config.stream = s;
    config.attrs = a;
    config.numAttrs = 2;
    MSA_CUDA_TRY(cudaFuncSetAttribute(few_kernel<TILES, NT>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)room));
    return msa_cuda_error(cudaLaunchKernelEx(&config, few_kernel<TILES, NT>, weights, xs, *f, p), "linear", err);
}

template <int NT> static msa_rc launch_for(const msa_cuda_few *f, cudaStream_t s, msa_err *err)
{
    const few_plan p = plan_of(f, NT);
    return p.rows <= 128 ? launch<2, NT>(f, p, s, err) : launch<4, NT>(f, p, s, err);
}

bool msa_cuda_few_rows(int64_t M, int64_t N, int64_t K)
{
    return M <= 64 && K % 8 == 0 && K <= INT32_MAX / 2 && N <= INT32_MAX / 2;
}

msa_rc msa_cuda_linear_few(const msa_cuda_few *f, cudaStream_t s, msa_err *err)
{
    if (f->M <= MSA_CUDA_GEMV_ROWS) {
        msa_cuda_linear_gemv(f, s);
        MSA_CUDA_LAUNCHED("linear");
    }
    return f->M <= 16   ? launch_for<16>(f, s, err)
           : f->M <= 32 ? launch_for<32>(f, s, err)
                        : launch_for<64>(f, s, err);
}
