/* The fast scan: a persistent kernel, one block a multiprocessor. A block takes tiles of
 * 128 or 256 keys; a key is a row of the product, a query column a column of it. One warp
 * streams slabs of keys, one slabs of columns, each through a ring of its own; two
 * warpgroups multiply and reduce in registers, so that a question's running maximum
 * crosses from one tile of columns to the next without leaving them.
 *
 * What is read once stays: columns when all of them fit into their ring, keys of a tile
 * when the ring holds the whole width. Columns that do not stay are read by two blocks
 * together, half a slab each, so that they leave the L2 cache once for both. */
#include <cudaTypedefs.h>
#include <limits.h>

#include "kernels/cuda_scan.h"
#include "kernels/cuda_wgmma.h"

#define SLAB 128            /* bytes of a row in a slab */
#define MAX_SLOTS 16
#define THREADS 384         /* a warpgroup that loads, two that multiply */
#define ALIGN_BYTES 1024    /* slabs start at multiples of it */

struct scan_plan {
    int32_t n_slabs, n_tiles, n_column_tiles; /* as many tiles for each block of a cluster */
    int32_t cluster;                          /* blocks that read columns together: 1 or 2 */
    int32_t key_slots, column_slots;
    bool keys_stay, columns_stay;
};

struct scan_args {
    struct scan_plan p;
    int64_t C;
    int32_t n_columns, slab_elements;
    const float *scale, *factor;
    const int32_t *ends;
    float *out;
};

/* A place in a ring of slots and the parity of its present use. */
struct slot {
    int32_t at;
    uint32_t parity;
};

static __device__ __forceinline__ void slot_next(struct slot *s, int32_t n)
{
    if (++s->at == n) {
        s->at = 0;
        s->parity ^= 1;
    }
}

struct rings {
    uint64_t *keys_full, *keys_empty, *columns_full, *columns_empty;
    char *keys, *columns;
};

template <int MT> static __device__ void load_keys(const struct scan_args *a, const CUtensorMap *map,
                                                   struct rings r)
{
    const struct scan_plan p = a->p;
    const uint64_t once = l2_evict_first(), again = l2_evict_normal();
    const int32_t passes = p.keys_stay ? 1 : p.n_column_tiles, bytes = MT * 128 * SLAB;
    struct slot s = {0, 1};
    for (int32_t tile = (int32_t)blockIdx.x; tile < p.n_tiles; tile += (int32_t)gridDim.x)
        for (int32_t pass = 0; pass < passes; pass++)
            for (int32_t i = 0; i < p.n_slabs; i++) {
                barrier_wait(&r.keys_empty[s.at], s.parity);
                barrier_expect(&r.keys_full[s.at], (uint32_t)bytes);
                tensor_load(r.keys + s.at * bytes, map, i * a->slab_elements, tile * (MT * 128),
                            &r.keys_full[s.at], pass == passes - 1 ? once : again);
                slot_next(&s, p.key_slots);
            }
}

template <int NT> static __device__ void load_columns(const struct scan_args *a,
                                                      const CUtensorMap *map, struct rings r)
{
    const struct scan_plan p = a->p;
    const uint64_t policy = l2_evict_last();
    const int32_t bytes = NT * SLAB, first = (int32_t)cluster_rank() * (NT / p.cluster);
    struct slot s = {0, 1};
    previous_wait();
    for (int32_t tile = (int32_t)blockIdx.x; tile < p.n_tiles; tile += (int32_t)gridDim.x) {
        for (int32_t n = 0; n < p.n_column_tiles; n++)
            for (int32_t i = 0; i < p.n_slabs; i++) {
                char *dst = r.columns + s.at * bytes + first * SLAB;
                const int32_t x = i * a->slab_elements, y = n * NT + first;
                barrier_wait(&r.columns_empty[s.at], s.parity);
                barrier_expect(&r.columns_full[s.at], (uint32_t)bytes);
                if (p.cluster == 1)
                    tensor_load(dst, map, x, y, &r.columns_full[s.at], policy);
                else
                    tensor_load_all(dst, map, x, y, &r.columns_full[s.at], 3, policy);
                slot_next(&s, p.column_slots);
            }
        if (p.columns_stay)
            return;
    }
}

static __device__ __forceinline__ float lowest(float) { return -INFINITY; }
static __device__ __forceinline__ int32_t lowest(int32_t) { return INT32_MIN; }
static __device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
static __device__ __forceinline__ int32_t larger(int32_t a, int32_t b) { return max(a, b); }

/* Two of a thread's rows, 8 apart, in each of MT blocks of 128 keys. */
template <int MT> struct rows {
    int64_t first;          /* the upper row of block 0 */
    float scale[MT][2];
};

template <int MT>
static __device__ __forceinline__ struct rows<MT> rows_of(const struct scan_args *a, int64_t first)
{
    struct rows<MT> r = {first, {}};
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int64_t row = first + m * 128 + h * 8;
            r.scale[m][h] = a->scale && row < a->C ? a->scale[row] : 1;
        }
    return r;
}

/* Columns first .. of the accumulators are questions. */
template <typename acc, int MT, int NT>
static __device__ __forceinline__ void write_columns(const struct scan_args *a, int32_t first,
                                                     const struct rows<MT> *rows,
                                                     const acc (&d)[MT][NT / 2])
{
    enum { TOGETHER = 8 };  /* groups of columns whose factors are loaded at once */
    first += 2 * (int32_t)(threadIdx.x % 4);
    /* unrolled, as everything that indexes accumulators: they are registers */
#pragma unroll
    for (int some = 0; some < NT / 8; some += TOGETHER) {
        const int32_t b = first + 8 * some, left = a->n_columns - b;
        float factor[TOGETHER][2];
#pragma unroll
        for (int g = 0; g < TOGETHER; g++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                factor[g][e] = 8 * g + e < left ? a->factor[b + 8 * g + e] : 0;
        float *out = a->out + b * a->C + rows->first;
#pragma unroll
        for (int g = 0; g < TOGETHER; g++, out += 8 * a->C)
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int e = 0; e < 2; e++)
#pragma unroll
                    for (int h = 0; h < 2; h++)
                        if (8 * g + e < left && rows->first + m * 128 + h * 8 < a->C)
                            out[e * a->C + m * 128 + h * 8] =
                                (float)d[m][4 * (some + g) + 2 * h + e] *
                                (rows->scale[m][h] * factor[g][e]);
    }
}

/* Largest products of questions that own groups of columns. best: of the question that
 * has begun and not ended, MT x 2 rows. ends, factor: lane g has those of group g. */
template <typename acc, int MT, int NT>
static __device__ __forceinline__ void write_largest(const struct scan_args *a, int32_t ends,
                                                     float factor, const struct rows<MT> *rows,
                                                     const acc (&d)[MT][NT / 2], acc (&best)[MT][2])
{
    const int lane = (int)(threadIdx.x % 32);
    const uint32_t ending = __ballot_sync(~0u, ends >= 0);
#pragma unroll
    for (int g = 0; g < NT / 8; g++) {
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                best[m][h] = larger(best[m][h], larger(d[m][4 * g + 2 * h], d[m][4 * g + 2 * h + 1]));
        if (!(ending >> g & 1))
            continue;
        const int32_t b = __shfl_sync(~0u, ends, g);
        const float f = __shfl_sync(~0u, factor, g);
        /* the four lanes of a row: odd ones keep the lower row, even ones the upper */
#pragma unroll
        for (int m = 0; m < MT; m++) {
            const acc mine = lane & 1 ? best[m][1] : best[m][0];
            const acc other = lane & 1 ? best[m][0] : best[m][1];
            acc top = larger(mine, __shfl_xor_sync(~0u, other, 1));
            top = larger(top, __shfl_xor_sync(~0u, top, 2));
            const int64_t row = rows->first + m * 128 + (lane & 1) * 8;
            if (!(lane & 2) && row < a->C)
                a->out[b * a->C + row] =
                    (float)top * ((lane & 1 ? rows->scale[m][1] : rows->scale[m][0]) * f);
            best[m][0] = best[m][1] = lowest(acc());
        }
    }
}

/* A warp has done with a slot of keys and one of columns. */
static __device__ __forceinline__ void slots_done(const struct rings *r, const struct scan_plan *p,
                                                  bool keys_done, int32_t keys, int32_t columns)
{
    const uint32_t lane = threadIdx.x % 32;
    if (lane == 0 && keys_done)
        barrier_arrive(&r->keys_empty[keys]);
    if (lane < (uint32_t)p->cluster && !p->columns_stay)
        barrier_arrive_at(&r->columns_empty[columns], lane);
}

template <typename acc, int MT, int NT>
static __device__ void multiply(const struct scan_args *a, struct rings r)
{
    const struct scan_plan p = a->p;
    const int group = (int)(threadIdx.x / 128) - 1, lane = (int)(threadIdx.x % 32);
    const int in_tile = group * 64 + (int)(threadIdx.x % 128 / 32) * 16 + lane / 4;
    const uint32_t keys = shared_at(r.keys) + (uint32_t)group * 64 * SLAB;
    const uint32_t columns = shared_at(r.columns);
    struct slot k = {0, 0}, c = {0, 0};
    acc d[MT][NT / 2], best[MT][2];
    previous_wait();
    struct rows<MT> next = rows_of<MT>(a, (int64_t)blockIdx.x * (MT * 128) + in_tile);
    for (int32_t tile = (int32_t)blockIdx.x; tile < p.n_tiles; tile += (int32_t)gridDim.x) {
        const struct slot tile_k = k;
        const struct rows<MT> rows = next;
        /* a tile ahead: narrow tiles take less time than a load from memory */
        next = rows_of<MT>(a, ((int64_t)tile + gridDim.x) * (MT * 128) + in_tile);
#pragma unroll
        for (int m = 0; m < MT; m++)
            best[m][0] = best[m][1] = lowest(acc());
        for (int32_t n = 0; n < p.n_column_tiles; n++) {
            const bool keys_done = !p.keys_stay || n == p.n_column_tiles - 1;
            if (p.keys_stay)
                k = tile_k;
            if (p.columns_stay)
                c = {0, 0};
            int32_t ends = -1;
            float factor = 0;
            if (a->ends && lane < NT / 8 && n * (NT / 8) + lane < a->n_columns / 8) {
                ends = a->ends[n * (NT / 8) + lane];
                factor = ends < 0 ? 0 : a->factor[ends];
            }
            int32_t used_k = 0, used_c = 0;
            for (int32_t i = 0; i < p.n_slabs; i++) {
                barrier_wait(&r.keys_full[k.at], k.parity);
                barrier_wait(&r.columns_full[c.at], c.parity);
                const uint64_t bd = slab_descriptor(columns + (uint32_t)(c.at * NT * SLAB));
                const uint64_t ad = slab_descriptor(keys + (uint32_t)(k.at * MT * 128 * SLAB));
                wgmma_begin();
#pragma unroll
                for (int step = 0; step < SLAB / 32; step++)
#pragma unroll
                    for (int m = 0; m < MT; m++)
                        wgmma(d[m], ad + (uint64_t)(2 * step + m * 128 * SLAB / 16),
                              bd + (uint64_t)(2 * step), i + step);
                wgmma_commit();
                /* the products of the slabs before this one are done with */
                wgmma_wait<1>();
                if (i > 0)
                    slots_done(&r, &p, keys_done, used_k, used_c);
                used_k = k.at;
                used_c = c.at;
                slot_next(&k, p.key_slots);
                slot_next(&c, p.column_slots);
            }
            wgmma_wait<0>();
#pragma unroll
            for (int m = 0; m < MT; m++)
                wgmma_keep(d[m]);
            slots_done(&r, &p, keys_done, used_k, used_c);
            if (a->ends)
                write_largest<acc, MT, NT>(a, ends, factor, &rows, d, best);
            else
                write_columns<acc, MT, NT>(a, n * NT, &rows, d);
        }
    }
}

/* acc: f32 sums of bf16 products or s32 sums of 8-bit ones. A tile: MT * 128 keys, NT
 * columns. */
template <typename acc, int MT, int NT>
static __global__ void __launch_bounds__(THREADS, 1)
    scan_tiles(const __grid_constant__ CUtensorMap keys, const __grid_constant__ CUtensorMap columns,
               const __grid_constant__ struct scan_args a)
{
    extern __shared__ char shared[];
    __shared__ uint64_t bars[4][MAX_SLOTS];
    struct rings r = {bars[0], bars[1], bars[2], bars[3], NULL, NULL};
    r.keys = shared + (ALIGN_BYTES - shared_at(shared) % ALIGN_BYTES) % ALIGN_BYTES;
    r.columns = r.keys + a.p.key_slots * MT * 128 * SLAB;
    if (threadIdx.x < MAX_SLOTS) {
        barrier_init(&r.keys_full[threadIdx.x], 1);
        barrier_init(&r.columns_full[threadIdx.x], 1);
        barrier_init(&r.keys_empty[threadIdx.x], 8); /* warps that multiply */
        barrier_init(&r.columns_empty[threadIdx.x], 8 * (uint32_t)a.p.cluster);
        barrier_init_done();
    } else if (threadIdx.x == 32) {
        tensor_prefetch(&keys);
        tensor_prefetch(&columns);
    }
    cluster_sync();
    if (threadIdx.x < 128) {
        registers_give<40>();
        if (threadIdx.x == 0)
            load_keys<MT>(&a, &keys, r);
        else if (threadIdx.x == 32)
            load_columns<NT>(&a, &columns, r);
    } else {
        registers_take<232>();
        multiply<acc, MT, NT>(&a, r);
    }
    /* the other block may still arrive at barriers of this one */
    if (a.p.cluster > 1)
        cluster_sync();
}

/* ---- the host's part ---------------------------------------------------------------- */

static int64_t element_bytes(msa_dtype t) { return t == MSA_I8 ? 1 : 2; }

/* Tile sizes and rings for a scan: the fewest columns computed in vain, and what stays
 * in shared memory if it can. */
struct shape {
    int32_t MT, NT;
    struct scan_plan p;
};

static bool shape_choose(const msa_cuda *c, const msa_cuda_scan_fast *a, struct shape *out)
{
    const int64_t room = c->shared_bytes - ALIGN_BYTES - 4 * MAX_SLOTS * (int64_t)sizeof(uint64_t);
    const int64_t slabs = (a->W * element_bytes(a->dtype) + SLAB - 1) / SLAB, key = 128 * SLAB;
    struct shape s = {1, 0, {}};
    int64_t n_key, n_column;
    if (slabs > INT32_MAX / 256 || a->n_columns > INT32_MAX / 2 || a->C > INT32_MAX / 2)
        return false;
    s.NT = a->n_columns <= 64 ? 64 : a->n_columns <= 128 ? 128 : a->n_columns <= 192 ? 192 : 256;
    if (a->n_columns <= s.NT && slabs <= MAX_SLOTS && slabs * s.NT * SLAB + 3 * key <= room) {
        s.p.columns_stay = true;
        n_column = slabs;
    } else if (a->n_columns <= 128) {
        s.MT = 2;
        s.NT = 128;
        n_column = 4;
    } else {
        const int64_t wide = (a->n_columns + 255) / 256 * 256;
        s.NT = (a->n_columns + 191) / 192 * 192 < wide ? 192 : 256;
        n_column = (room - slabs * key) / (s.NT * SLAB) == 3 && a->n_columns > s.NT ? 3 : 4;
    }
    n_key = (room - n_column * s.NT * SLAB) / (s.MT * key);
    n_key = n_key < MAX_SLOTS ? n_key : MAX_SLOTS;
    if (n_key < 2)
        return false;
    s.p.n_slabs = (int32_t)slabs;
    s.p.n_tiles = (int32_t)((a->C + s.MT * 128 - 1) / (s.MT * 128));
    s.p.cluster = s.p.columns_stay || s.p.n_tiles == 1 || c->n_sms < 2 ? 1 : 2;
    s.p.n_tiles += s.p.n_tiles % s.p.cluster;
    s.p.n_column_tiles = (int32_t)((a->n_columns + s.NT - 1) / s.NT);
    s.p.key_slots = (int32_t)n_key;
    s.p.column_slots = (int32_t)n_column;
    s.p.keys_stay = n_key >= slabs;
    *out = s;
    return true;
}

bool msa_cuda_scan_fast_fits(const msa_cuda *c, const msa_cuda_scan_fast *a)
{
    struct shape s;
    return (a->dtype == MSA_BF16 || a->dtype == MSA_I8) && a->W % 64 == 0 &&
           (uintptr_t)a->rk % 16 == 0 && a->stride * element_bytes(a->dtype) % 16 == 0 &&
           a->stride < (int64_t)1 << 38 && shape_choose(c, a, &s);
}

static msa_rc map_rows(CUtensorMap *map, const void *rows, msa_dtype t, int64_t stride, int64_t W,
                       int64_t n, int64_t box, msa_err *err)
{
    static PFN_cuTensorMapEncodeTiled_v12000 known;
    PFN_cuTensorMapEncodeTiled_v12000 encode = __atomic_load_n(&known, __ATOMIC_ACQUIRE);
    if (!encode) {
        void *f = NULL;
        cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
        MSA_CUDA_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000,
                                                      cudaEnableDefault, &found));
        if (found != cudaDriverEntryPointSuccess || !f)
            return msa_err_set(err, MSA_FATAL, MSA_E_UNAVAILABLE,
                               "the CUDA driver has no tensor maps");
        encode = (PFN_cuTensorMapEncodeTiled_v12000)f;
        __atomic_store_n(&known, encode, __ATOMIC_RELEASE);
    }
    const cuuint64_t dims[2] = {(cuuint64_t)W, (cuuint64_t)n};
    const cuuint64_t pitch[1] = {(cuuint64_t)(stride * element_bytes(t))};
    const cuuint32_t boxes[2] = {(cuuint32_t)(SLAB / element_bytes(t)), (cuuint32_t)box};
    const cuuint32_t steps[2] = {1, 1};
    CUresult rc = encode(map, t == MSA_I8 ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                                          : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                         2, (void *)rows, dims, pitch, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                         CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                         CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (rc != CUDA_SUCCESS)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "scan: a tensor map was refused (%d)",
                           (int)rc);
    return MSA_OK;
}

typedef void scan_kernel(CUtensorMap, CUtensorMap, struct scan_args);

template <typename acc> static scan_kernel *kernel_of(const struct shape *s)
{
    if (s->MT == 2)
        return scan_tiles<acc, 2, 128>;
    return s->NT == 64    ? scan_tiles<acc, 1, 64>
           : s->NT == 128 ? scan_tiles<acc, 1, 128>
           : s->NT == 192 ? scan_tiles<acc, 1, 192>
                          : scan_tiles<acc, 1, 256>;
}

msa_rc msa_cuda_scan_fast_run(msa_cuda *c, cudaStream_t st, const msa_cuda_scan_fast *a, msa_err *err)
{
    struct shape s;
    if (!shape_choose(c, a, &s))
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "scan: a shape the fast path lacks");
    CUtensorMap keys, columns;
    msa_rc rc = map_rows(&keys, a->rk, a->dtype, a->stride, a->W, a->C, s.MT * 128, err);
    if (rc < 0 ||
        (rc = map_rows(&columns, a->columns, a->dtype, a->W, a->W, a->n_columns, s.NT / s.p.cluster,
                       err)) < 0)
        return rc;
    struct scan_args args = {s.p, a->C, (int32_t)a->n_columns,
                             (int32_t)(SLAB / element_bytes(a->dtype)), a->scale, a->factor,
                             a->ends, a->out};
    scan_kernel *kernel = a->dtype == MSA_I8 ? kernel_of<int32_t>(&s) : kernel_of<float>(&s);
    cudaLaunchAttribute attrs[2] = {};
    attrs[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attrs[0].val.programmaticStreamSerializationAllowed = 1;
    attrs[1].id = cudaLaunchAttributeClusterDimension;
    attrs[1].val.clusterDim.x = (unsigned)s.p.cluster;
    attrs[1].val.clusterDim.y = attrs[1].val.clusterDim.z = 1;
    const int32_t blocks = c->n_sms - c->n_sms % s.p.cluster;
    cudaLaunchConfig_t launch = {};
    launch.gridDim = dim3((unsigned)(s.p.n_tiles < blocks ? s.p.n_tiles : blocks));
    launch.blockDim = dim3(THREADS);
    launch.dynamicSmemBytes =
        (size_t)(ALIGN_BYTES + (s.p.key_slots * s.MT * 128 + s.p.column_slots * s.NT) * SLAB);
    launch.stream = st;
    launch.attrs = attrs;
    launch.numAttrs = 2;
    MSA_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)launch.dynamicSmemBytes));
    return msa_cuda_error(cudaLaunchKernelEx(&launch, kernel, keys, columns, args), "scan", err);
}
