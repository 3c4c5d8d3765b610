/* Decoding: attention of few rows over the parts of a memory.
 *
 * Up to 8 flat rows meet 16 keys at a time (a stage), S' = K Q' and O' = V' P', so that keys
 * and columns fill the products' long side. Stages of a key head of a sequence are dealt to
 * the warps of a cluster of blocks one by one, those of its own cache first, so that no warp
 * has more than one stage more than another. A warp owns two places in shared memory, for the
 * keys and for the values of a stage, and asks for the next ones as soon as it has used what
 * is in a place: 8 KB a warp are under way nearly all of the time (D = 128). Partial sums meet
 * in shared memory, those of a block's warps first; then each block of the cluster gets its
 * share of the columns from all others.
 *
 * A block takes about 38 KB (D = 128) and at most 128 registers a thread, and two of them fill
 * a multiprocessor's part in a batch of few questions: the next kernel's blocks fit beside
 * them, if they take no more than 148 KB, and these beside the ones of the kernel before. */
#include <cooperative_groups.h>
#include <limits.h>
#include <math.h>

#include "kernels/cuda_attn.h"
#include "kernels/cuda_chain.h"
#include "kernels/cuda_elem.h"
#include "kernels/cuda_rope.h"

namespace cg = cooperative_groups;

enum { ROWS = 8, KEYS = 16, WARPS = 4, THREADS = WARPS * 32, MOST_SPLITS = 8, SM_BLOCKS = 2 };

/* ---- a stage -------------------------------------------------------------------------- */

/* How a stage's rows are read: a cache's lie behind each other. */
enum { FROM_CACHE = MSA_ATTN_ANY + 1 };

/* Where a stage's rows stand. From the cache: this lane's 16 bytes of row lane / (D/8). Else:
 * the row of key lane % 16, of its own kind and type (kind + 4 * dtype) where `way` says any.
 * Rows from n on are not there. */
struct place {
    const char *k, *v;
    float k_scale, v_scale;
    int n, way, type;
};

/* A sequence as a block sees it: stages of its cache, then of its segments. */
struct span {
    msa_cuda_attn_seq s;
    int g, own_rows, own_stages, stages;
    int first_of_lane; /* key number of segment `lane`, where there are no more than 32 */
    bool in_line;      /* the cache's rows are read 16 bytes at a time */
};

template <int D> static __device__ __forceinline__ span span_of(const msa_cuda_attn_call &c, int64_t seq, int g)
{
    span w;
    w.s = c.seqs[seq];
    w.g = g;
    w.own_rows = (int)(w.s.keys - w.s.own);
    w.own_stages = (w.own_rows + KEYS - 1) / KEYS;
    w.stages = w.own_stages + ((int)w.s.own + KEYS - 1) / KEYS;
    w.in_line = ((uintptr_t)w.s.own_k | (uintptr_t)w.s.own_v) % 16 == 0;
    const int lane = threadIdx.x & 31;
    w.first_of_lane = lane < (int)w.s.n_parts - 1 ? (int)c.first[w.s.part + lane] : 0;
    return w;
}

/* The last segment that begins at or before a key. */
static __device__ __forceinline__ int segment_of(const msa_cuda_attn_call &c, const span &w, int key)
{
    const int n = (int)w.s.n_parts - 1;
    if (n > 32)
        return msa_attn_find(c.first + w.s.part, n, key);
    int i = 0;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const int from = __shfl_sync(~0u, w.first_of_lane, (i + step) & 31);
        if (i + step < n && from <= key)
            i += step;
    }
    return i;
}

/* Where stage t stands; its last `kept` rows of the cache are not to be read. Tables, and
 * the factors they name, are no kernel's output of late. */
template <int D>
static __device__ __forceinline__ place place_of(const msa_cuda_attn_call &c, const span &w, int t, int kept)
{
    const int lane = threadIdx.x & 31;
    const bool own = t < w.own_stages;
    place p;
    p.k_scale = p.v_scale = 1;
    p.type = 0;
    if (own && w.in_line) {
        const int64_t row = t * KEYS + lane / (D / 8), at = (row * c.G + w.g) * (D / 8) + lane % (D / 8);
        p.k = (const char *)((const uint4 *)w.s.own_k + at);
        p.v = (const char *)((const uint4 *)w.s.own_v + at);
        p.n = w.own_rows - kept - t * KEYS;
        p.way = FROM_CACHE;
        return p;
    }
    const int row0 = (own ? t : t - w.own_stages) * KEYS, rows = own ? w.own_rows : (int)w.s.own;
    const int key = min(row0 + (lane & 15), rows - 1) + (own ? (int)w.s.own : 0);
    const int i = own ? (int)w.s.n_parts - 1 : segment_of(c, w, key);
    const msa_cuda_attn_part *part = c.parts + w.s.part + i;
    const int row = key - (int)__ldg(c.first + w.s.part + i), kind = part->kind;
    const int64_t at = (row * part->stride + (int64_t)w.g * D) * msa_attn_size(part->dtype);
    p.k = (const char *)part->k + at;
    p.v = (const char *)part->v + at;
    p.n = rows - row0;
    if (part->dtype == MSA_I8) {
        p.k_scale = msa_attn_f16(part->k_scale[row * part->scale_stride + w.g]);
        p.v_scale = msa_attn_f16(part->v_scale[row * part->scale_stride + w.g]);
    }
    p.type = kind + 4 * part->dtype;
    p.way = __all_sync(~0u, kind == MSA_ATTN_BF16) ? MSA_ATTN_BF16
            : __all_sync(~0u, kind == MSA_ATTN_I8) ? MSA_ATTN_I8
                                                   : MSA_ATTN_ANY;
    return p;
}

/* Rows of D numbers lie in shared memory without gaps; within a row, groups of 8 change
 * places with the row, so that 8 rows' groups of one column use all banks. */
template <int D> using rows_of = uint4 (*)[D / 8];

/* Asks for a stage's keys or values (`from`: p.k or p.v); those that are not bf16 are
 * there afterwards. Rows that are not there become zeros, or repeat the last one. */
template <int D>
static __device__ __forceinline__ void fetch(const msa_cuda_attn_call &c, const place &p, const char *from,
                                             rows_of<D> to)
{
    enum { STEP = 32 / (D / 8), TURNS = KEYS / STEP };
    const int lane = threadIdx.x & 31, row0 = lane / (D / 8), group = lane % (D / 8);
    if (p.way == FROM_CACHE) {
        const int64_t step = (int64_t)c.G * D * 2 * STEP;
#pragma unroll
        for (int i = 0; i < TURNS; i++, from += step) {
            const int row = row0 + i * STEP;
            msa_attn_copy16(&to[row][group ^ (row & 7)], from, row < p.n);
        }
        return;
    }
    if (p.way == MSA_ATTN_BF16) {
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            const int row = row0 + i * STEP;
            const unsigned long long at = __shfl_sync(~0u, (unsigned long long)from, row);
            msa_attn_copy16(&to[row][group ^ (row & 7)], (const uint4 *)at + group, row < p.n);
        }
        return;
    }
    if (p.way == MSA_ATTN_I8) {
        uint2 x[TURNS];
#pragma unroll
        for (int i = 0; i < TURNS; i++)
            x[i] = ((const uint2 *)__shfl_sync(~0u, (unsigned long long)from, row0 + i * STEP))[group];
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            const int row = row0 + i * STEP;
            uint4 r;
            msa_attn_bytes(x[i].x, &r.x, &r.y);
            msa_attn_bytes(x[i].y, &r.z, &r.w);
            to[row][group ^ (row & 7)] = r;
        }
        return;
    }
#pragma unroll 1
    for (int i = 0; i < TURNS; i++) {
        const int row = row0 + i * STEP;
        const unsigned long long at = __shfl_sync(~0u, (unsigned long long)from, row);
        const int type = __shfl_sync(~0u, p.type, row);
        to[row][group ^ (row & 7)] = msa_attn_load8((const void *)at, group * 8, type & 3, type >> 2);
    }
}

/* ---- a kernel's memory ---------------------------------------------------------------------- */

/* What is used one after the other lies in the same place. */
template <int D> struct alignas(256) shared {
    uint4 ring[WARPS][2][KEYS][D / 8];  /* a warp's keys and values; at the end, its sums */
    uint4 fresh[2][D / 8];              /* K and V of the row that is new, as a stage holds it */
    union {
        struct {
            uint4 q[ROWS][D / 8 + 1];   /* wider than it need be, for the banks */
            float4 gamma[2][D / 4];
            float2 turn[8][D / 16];
        };
        float2 landed[ROWS * D / 2];    /* this block's columns, of all blocks */
    };
    float top[WARPS][ROWS], sum[WARPS][ROWS];
    float landed_top[MOST_SPLITS][ROWS], landed_sum[MOST_SPLITS][ROWS];
};
enum { SUMS_PAD = 4 }; /* a warp's sums: ROWS rows of D + SUMS_PAD floats */

/* ---- the parts of the kernel ---------------------------------------------------------------- */

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

static __device__ __forceinline__ void cluster_arrive(void)
{
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}

static __device__ __forceinline__ void cluster_wait(void)
{
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

/* What the rotation needs and no kernel writes. */
template <int D>
static __device__ __forceinline__ void rope_begin(const msa_cuda_attn_rope &r, int64_t row, shared<D> *sh)
{
    const int i = threadIdx.x;
    if (i >= D / 2)
        return;
    if (r.q_gamma)
        sh->gamma[i / (D / 4)][i % (D / 4)] = ((const float4 *)(i < D / 4 ? r.q_gamma : r.k_gamma))[i % (D / 4)];
    sh->turn[i % 8][i / 8] = msa_cuda_turn(r.pos[row], i, r.step);
}

/* Norms and rotates the query heads of g into shared memory. With `store`, the new row of K
 * and V goes to the cache and to shared memory, too. */
template <int D>
static __device__ __forceinline__ void rope_rows(const msa_cuda_attn_call &c, const msa_cuda_attn_rope &r,
                                                 const span &w, bool store, shared<D> *sh)
{
    enum { L = D / 8, AT_ONCE = 32 / L };
    const int lane = threadIdx.x & 31, group = c.H / c.G, heads = group + (store ? 2 : 0);
    const int last = w.own_rows - 1;
    for (int n0 = (int)threadIdx.x / 32 * AT_ONCE; n0 < heads; n0 += WARPS * AT_ONCE) {
        /* lanes past the last head do its work again, without storing: all take part in shuffles */
        const int n = min(n0 + lane / L, heads - 1);
        const int head = n < group ? w.g * group + n : c.H + w.g + (n > group ? c.G : 0);
        uint4 x = ((const uint4 *)c.q)[(w.s.row * (c.H + 2 * c.G) + head) * L + lane % L];
        float f[8];
        msa_cuda_bf16::unpack(x, f);
        msa_cuda_rotate<L>(f, r.q_gamma != NULL, &sh->gamma[n >= group][lane % L * 2], r.eps, sh->turn);
        if (n <= group) /* values stay as they are */
            x = msa_cuda_bf16::pack(f);
        if (n0 + lane / L >= heads)
            continue;
        if (n < group) {
            sh->q[n][lane % L] = x;
        } else {
            sh->fresh[n - group][lane % L ^ (last & 7)] = x;
            uint4 *cache = (uint4 *)(n == group ? w.s.own_k : w.s.own_v);
            cache[((int64_t)last * c.G + w.g) * L + lane % L] = x;
        }
    }
}

/* Stages first, first + step, .. of flat rows tile * 8 ..: one warp's part, left in shared
 * memory. p: where the first one stands, which has been asked for. FRESH: the last row of the
 * cache is in shared memory. Arrives at the cluster's barrier when q has been read. */
template <int D, bool FRESH>
static __device__ __forceinline__ void stages(const msa_cuda_attn_call &c, const span &w, int tile, int first,
                                              int step, place p, float scale, shared<D> *sh)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = c.H / c.G;
    const int n_flat = (int)w.s.n_rows * group, rows = min(n_flat - tile * ROWS, (int)ROWS);
    rows_of<D> ring_k = sh->ring[warp][0], ring_v = sh->ring[warp][1];
    /* the rows and groups that this lane names to ldmatrix */
    const int k_row = lane & 15, v_row = (lane & 7) + (lane >> 4) * 8;
    const uint32_t k_group = (uint32_t)((lane >> 4) ^ (lane & 7)) * 16,
                   v_group = (uint32_t)((lane >> 3 & 1) ^ (lane & 7)) * 16;
    uint32_t q[D / 16][2];
#pragma unroll
    for (int j = 0; j < D / 16; j++) {
        const uint32_t *row = (const uint32_t *)sh->q[min(lane / 4, rows - 1)] + j * 8 + lane % 4;
        q[j][0] = row[0];
        q[j][1] = row[4];
    }
    if (step > WARPS)
        cluster_arrive();
    int limit[2]; /* the last row of the cache that flat row 2 (lane%4) + i sees */
#pragma unroll
    for (int i = 0; i < 2; i++)
        limit[i] = w.own_rows - (int)w.s.n_rows + min(tile * ROWS + lane % 4 * 2 + i, n_flat - 1) / group;
    float acc[D / 16][4], top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < D / 16; j++)
        acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0;

    for (int t = first; t < w.stages;) {
        const int next = t + step;
        const bool own = t < w.own_stages;
        const int row0 = (own ? t : t - w.own_stages) * KEYS;
        const float k_of = p.k_scale * scale, v_of = p.v_scale;
        if (next < w.stages)
            p = place_of<D>(c, w, next, FRESH);

        uint32_t k_at = msa_attn_shared(ring_k[k_row]), v_at = msa_attn_shared(ring_v[v_row]);
        if (FRESH && own && row0 + k_row == w.own_rows - 1)
            k_at = msa_attn_shared(sh->fresh[0]);
        if (FRESH && own && row0 + v_row == w.own_rows - 1)
            v_at = msa_attn_shared(sh->fresh[1]);
        k_at += k_group;
        v_at += v_group;

        msa_attn_copied_but_last();
        __syncwarp();
        float even[4] = {0, 0, 0, 0}, odd[4] = {0, 0, 0, 0};
#pragma unroll
        for (int j = 0; j < D / 16; j++) {
            uint32_t a[4];
            msa_attn_matrices(a, k_at ^ (uint32_t)j * 32);
            msa_attn_mma(j % 2 ? odd : even, a[0], a[1], a[2], a[3], q[j][0], q[j][1]);
        }
        __syncwarp(); /* the keys have been read */
        if (next < w.stages)
            fetch<D>(c, p, p.k, ring_k);
        msa_attn_copies_end();

        /* score[i][r]: key lane/4 + 8 i, flat row 2 (lane%4) + r */
        float score[2][2], weight[2][2], shrink[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float of = __shfl_sync(~0u, k_of, lane / 4 + 8 * i);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const bool seen = row0 + lane / 4 + 8 * i <= (own ? limit[r] : (int)w.s.own - 1);
                score[i][r] = seen ? (even[2 * i + r] + odd[2 * i + r]) * of : -INFINITY;
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float now = fmaxf(score[0][r], score[1][r]);
#pragma unroll
            for (int x = 4; x < 32; x <<= 1)
                now = fmaxf(now, __shfl_xor_sync(~0u, now, x));
            now = fmaxf(now, top[r]);
            shrink[r] = shrunk(top[r], now);
            top[r] = now;
#pragma unroll
            for (int i = 0; i < 2; i++)
                weight[i][r] = now == -INFINITY ? 0 : msa_attn_exp2(score[i][r] - now);
            sum[r] = sum[r] * shrink[r] + weight[0][r] + weight[1][r];
        }
        uint32_t b[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float of = __shfl_sync(~0u, v_of, lane / 4 + 8 * i);
            b[i] = transposed(msa_attn_pack(weight[i][0] * of, weight[i][1] * of));
        }

        msa_attn_copied_but_last();
        __syncwarp();
#pragma unroll
        for (int j = 0; j < D / 16; j++) {
            uint32_t a[4];
            msa_attn_matrices_turned(a, v_at ^ (uint32_t)j * 32);
#pragma unroll
            for (int e = 0; e < 4; e++)
                acc[j][e] *= shrink[e & 1];
            msa_attn_mma(acc[j], a[0], a[1], a[2], a[3], b[0], b[1]);
        }
        __syncwarp();
        if (next < w.stages)
            fetch<D>(c, p, p.v, ring_v);
        msa_attn_copies_end();
        t = next;
    }

    /* the warp's places in the ring are free now */
    float *sums = (float *)sh->ring[warp];
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int x = 4; x < 32; x <<= 1)
            sum[r] += __shfl_xor_sync(~0u, sum[r], x);
        const int row = lane % 4 * 2 + r;
        if (lane < 4) {
            sh->top[warp][row] = top[r];
            sh->sum[warp][row] = sum[r];
        }
        if (row < rows) /* acc[j][2 i + r]: column 16 j + 8 i + lane/4 */
#pragma unroll
            for (int j = 0; j < D / 16; j++)
#pragma unroll
                for (int i = 0; i < 2; i++)
                    sums[row * (D + SUMS_PAD) + j * 16 + i * 8 + lane / 4] = acc[j][2 * i + r];
    }
}

/* What n warps or blocks have of a row: its largest score, sum of weights, two columns. All
 * are read before the first is used. */
template <int N> struct partial {
    float top[N], sum[N];
    float2 acc[N];
};

template <int N>
static __device__ __forceinline__ void add_up(const partial<N> &p, float *top, float *sum, float2 *acc)
{
    *top = -INFINITY;
    *sum = 0;
    *acc = make_float2(0, 0);
#pragma unroll
    for (int i = 0; i < N; i++)
        *top = fmaxf(*top, p.top[i]);
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float f = shrunk(p.top[i], *top);
        *sum += f * p.sum[i];
        acc->x += f * p.acc[i].x;
        acc->y += f * p.acc[i].y;
    }
}

/* Two neighbouring numbers of flat row f; sum >= 1 or so, for every row sees a key. */
template <int D>
static __device__ __forceinline__ void put(const msa_cuda_attn_call &c, const span &w, int f, int col, float sum,
                                           float2 acc)
{
    const int group = c.H / c.G;
    uint16_t *row = (uint16_t *)c.out + ((w.s.row + f / group) * c.H + (int64_t)w.g * group + f % group) * D;
    *(uint32_t *)(row + col) = msa_attn_pack(__fdividef(acc.x, sum), __fdividef(acc.y, sum));
}

/* Adds up the warps' parts of flat rows tile * 8 ..; block i of the cluster gets the i-th share
 * of the columns from all others, adds them up and writes them. Every block has arrived at the
 * cluster's barrier once, when its place for them was free. */
template <int D>
static __device__ __forceinline__ void finish(const msa_cuda_attn_call &c, const span &w, int tile, int splits,
                                              int split, shared<D> *sh)
{
    const int rows = min((int)w.s.n_rows * (c.H / c.G) - tile * ROWS, (int)ROWS);
    const int pairs = rows * D / 2, share = pairs / splits;
    cg::cluster_group cluster = cg::this_cluster();
    if (splits > 1)
        cluster_wait();
#pragma unroll 1
    for (int e = threadIdx.x; e < pairs; e += THREADS) {
        const int row = e / (D / 2), col = e % (D / 2) * 2;
        partial<WARPS> p;
        float top, sum;
        float2 acc;
#pragma unroll
        for (int i = 0; i < WARPS; i++) {
            p.top[i] = sh->top[i][row];
            p.sum[i] = sh->sum[i][row];
            p.acc[i] = *(const float2 *)((const float *)sh->ring[i] + row * (D + SUMS_PAD) + col);
        }
        add_up(p, &top, &sum, &acc);
        if (splits == 1) {
            put<D>(c, w, tile * ROWS + row, col, sum, acc);
            continue;
        }
        shared<D> *to = cluster.map_shared_rank(sh, e / share);
        to->landed[split * share + e % share] = acc;
        if (col == 0 || e % share == 0) {
            to->landed_top[split][row] = top;
            to->landed_sum[split][row] = sum;
        }
    }
    if (splits == 1)
        return;
    cluster_arrive();
    cluster_wait();
#pragma unroll 1
    for (int e = threadIdx.x; e < share; e += THREADS) {
        const int at = split * share + e, row = at / (D / 2), col = at % (D / 2) * 2;
        partial<MOST_SPLITS> p;
        float top, sum;
        float2 acc;
#pragma unroll
        for (int i = 0; i < MOST_SPLITS; i++) {
            p.top[i] = i < splits ? sh->landed_top[i][row] : -INFINITY;
            p.sum[i] = i < splits ? sh->landed_sum[i][row] : 0;
            p.acc[i] = i < splits ? sh->landed[i * share + e] : make_float2(0, 0);
        }
        add_up(p, &top, &sum, &acc);
        put<D>(c, w, tile * ROWS + row, col, sum, acc);
    }
}

/* Cluster x: blocks x * splits .. of the grid, one key head of one sequence; those of more
 * than max_flat flat rows are left to others.
 *
 * ROPE: every sequence has one row, which has yet to be rotated and to become its cache's last
 * one. With r.early the other rows are asked for before the kernel in front has ended, and
 * that may be far behind, for it may itself have begun before the one in front of it had
 * ended: what is read so must have been written before the recorded run was launched. */
template <int D, bool ROPE>
static __global__ void __launch_bounds__(THREADS, 4)
decode_kernel(msa_cuda_attn_call c, msa_cuda_attn_rope r, float scale, int max_flat)
{
    __shared__ shared<D> sh;
    msa_cuda_let_next();
    cg::cluster_group cluster = cg::this_cluster();
    const int splits = (int)cluster.num_blocks(), split = (int)cluster.block_rank();
    const int unit = (int)blockIdx.x / splits, warp = threadIdx.x >> 5;
    const int first = warp * splits + split, step = WARPS * splits;
    const span w = span_of<D>(c, unit / c.G, unit % c.G);
    const int n_flat = (int)w.s.n_rows * (c.H / c.G);
    const bool mine = n_flat > 0 && n_flat <= max_flat; /* else nothing is known of the keys */
    bool asked = false;
    place p = {};
    if (ROPE) {
        rope_begin<D>(r, w.s.row, &sh);
        if (r.early && first < w.stages) {
            asked = true;
            p = place_of<D>(c, w, first, 1);
            fetch<D>(c, p, p.k, sh.ring[warp][0]);
            msa_attn_copies_end();
            fetch<D>(c, p, p.v, sh.ring[warp][1]);
            msa_attn_copies_end();
        }
        __syncthreads();
    }
    msa_cuda_wait_previous();
    if (!mine)
        return;

    for (int tile = 0; tile * ROWS < n_flat; tile++) {
        if (!asked && first < w.stages) {
            p = place_of<D>(c, w, first, ROPE);
            fetch<D>(c, p, p.k, sh.ring[warp][0]);
            msa_attn_copies_end();
            fetch<D>(c, p, p.v, sh.ring[warp][1]);
            msa_attn_copies_end();
        }
        if (ROPE) {
            rope_rows<D>(c, r, w, (w.own_stages - 1) % splits == split, &sh);
        } else {
            const int rows = min(n_flat - tile * ROWS, (int)ROWS), group = c.H / c.G;
#pragma unroll 1
            for (int e = threadIdx.x; e < rows * (D / 8); e += THREADS) {
                const int f = tile * ROWS + e / (D / 8);
                const uint16_t *row = (const uint16_t *)c.q + (w.s.row + f / group) * c.q_stride +
                                      ((int64_t)w.g * group + f % group) * D;
                sh.q[e / (D / 8)][e % (D / 8)] = ((const uint4 *)row)[e % (D / 8)];
            }
        }
        __syncthreads();
        stages<D, ROPE>(c, w, tile, first, step, p, scale, &sh);
        __syncthreads();
        finish<D>(c, w, tile, splits, split, &sh);
        __syncthreads(); /* what the next tile writes has been read */
    }
}

msa_rc msa_cuda_attn_decode(msa_cuda *c, cudaStream_t st, const msa_cuda_attn_call *call,
                            const msa_cuda_attn_rope *rope, int max_flat, msa_err *err)
{
    const float scale = (float)(MSA_LOG2E / sqrt((double)call->D));
    const int64_t units = call->n_seqs * call->G;
    int splits = MOST_SPLITS;
    if (units > INT_MAX)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "attention: more rows than a grid holds");
    while (splits > 1 && units * splits > SM_BLOCKS * c->n_sms)
        splits /= 2;
    cudaLaunchAttribute a[2] = {};
    a[0].id = cudaLaunchAttributeClusterDimension;
    a[0].val.clusterDim.x = (unsigned)splits;
    a[0].val.clusterDim.y = a[0].val.clusterDim.z = 1;
    a[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    a[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(units * splits));
    config.blockDim = dim3(THREADS);
    config.stream = st;
    config.attrs = a;
    config.numAttrs = 2;
    void (*kernel)(msa_cuda_attn_call, msa_cuda_attn_rope, float, int) =
        call->D == 64 ? (rope ? decode_kernel<64, true> : decode_kernel<64, false>)
                      : (rope ? decode_kernel<128, true> : decode_kernel<128, false>);
    /* kernels side by side on a multiprocessor need one division of its memory */
    MSA_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                      cudaSharedmemCarveoutMaxShared));
    MSA_CUDA_TRY(cudaLaunchKernelEx(&config, kernel, *call, rope ? *rope : msa_cuda_attn_rope(), scale, max_flat));
    return MSA_OK;
}
