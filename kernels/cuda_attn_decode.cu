/* Decoding: attention of few rows over the parts of a memory.
 *
 * Up to 8 flat rows meet 16 keys at a time (a stage), S' = K Q' and O' = V' P', so that keys
 * and columns fill the products' long side. Stages of a key head of a sequence are dealt to
 * the warps of a cluster of blocks one by one, those of its own cache first, so that no warp
 * has more than one stage more than another. A warp owns two places in shared memory, for the
 * keys and for the values of a stage, and asks for the next ones as soon as it has used what
 * is in a place: 8 KB a warp are under way nearly all of the time (D = 128). Partial sums meet
 * in shared memory, those of a block's warps first; then each block of the cluster is sent its
 * share of the columns by all others.
 *
 * With 40 KB of shared memory (D = 128) and 128 registers a thread, two blocks leave 144 KB and
 * 32,000 registers of a multiprocessor to the kernels around this one, which may begin before
 * it has ended, and it before they have. */
#include <math.h>

#include "kernels/cuda_attn.h"
#include "kernels/cuda_chain.h"
#include "kernels/cuda_elem.h"
#include "kernels/cuda_rope.h"
#include "kernels/cuda_wgmma.h"

enum { ROWS = 8, KEYS = 16, WARPS = 4, THREADS = WARPS * 32, MOST_SPLITS = 8 };

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

/* A key head of a sequence as a block sees it: stages of its cache, then of its segments. */
struct span {
    int64_t row, part;
    const uint4 *own_k, *own_v; /* the cache, and in it this lane's 16 bytes of row lane / (D/8) */
    int own_at;
    int g, group, n_rows, own_rows, own_stages, seg_rows, stages, n_segs;
    int first_of_lane;          /* row number of segment `lane`, where there are no more than 32 */
    bool in_line;               /* the cache's rows are read 16 bytes at a time */
};

template <int D, bool ONE>
static __device__ __forceinline__ span span_of(const msa_cuda_attn_call &c, int seq, int g, int group)
{
    const msa_cuda_attn_seq s = c.seqs[seq];
    const int lane = threadIdx.x & 31;
    span w;
    w.row = s.row;
    w.part = s.part;
    w.own_k = (const uint4 *)s.own_k;
    w.own_v = (const uint4 *)s.own_v;
    w.own_at = (lane / (D / 8) * c.G + g) * (D / 8) + lane % (D / 8);
    w.g = g;
    w.group = group;
    w.n_rows = ONE ? 1 : (int)s.n_rows;
    w.own_rows = (int)(s.keys - s.own);
    w.own_stages = (w.own_rows + KEYS - 1) / KEYS;
    w.seg_rows = (int)s.own;
    w.stages = w.own_stages + (w.seg_rows + KEYS - 1) / KEYS;
    w.n_segs = (int)s.n_parts - 1;
    w.first_of_lane = lane < w.n_segs ? (int)c.first[s.part + lane] : 0;
    w.in_line = ((uintptr_t)w.own_k | (uintptr_t)w.own_v) % 16 == 0;
    return w;
}

/* The last segment that begins at or before a row. */
static __device__ __forceinline__ int segment_of(const msa_cuda_attn_call &c, const span &w, int row)
{
    if (w.n_segs > 32)
        return msa_attn_find(c.first + w.part, w.n_segs, row);
    int i = 0;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const int from = __shfl_sync(~0u, w.first_of_lane, (i + step) & 31);
        if (i + step < w.n_segs && from <= row)
            i += step;
    }
    return i;
}

/* Where stage t stands. FRESH: the last row of the cache is not to be read, and all are in
 * line. Tables, and the factors they name, are no kernel's output of late. */
template <int D, bool FRESH>
static __device__ __forceinline__ place place_of(const msa_cuda_attn_call &c, const span &w, int t)
{
    const bool own = t < w.own_stages;
    place p;
    p.k_scale = p.v_scale = 1;
    p.type = 0;
    if (own && (FRESH || w.in_line)) {
        const int64_t at = (int64_t)t * (KEYS * (D / 8)) * c.G + w.own_at;
        p.k = (const char *)(w.own_k + at);
        p.v = (const char *)(w.own_v + at);
        p.n = w.own_rows - FRESH - t * KEYS;
        p.way = FROM_CACHE;
        return p;
    }
    const int row0 = (own ? t : t - w.own_stages) * KEYS, rows = own ? w.own_rows : w.seg_rows;
    int row = min(row0 + (int)(threadIdx.x & 15), rows - 1);
    const int i = own ? w.n_segs : segment_of(c, w, row);
    if (!own)
        row -= (int)__ldg(c.first + w.part + i);
    const msa_cuda_attn_part *part = c.parts + w.part + i;
    const int kind = part->kind, dtype = part->dtype;
    const int64_t at = (row * part->stride + (int64_t)w.g * D) * msa_attn_size(dtype);
    p.k = (const char *)part->k + at;
    p.v = (const char *)part->v + at;
    p.n = rows - row0;
    if (dtype == MSA_I8) {
        p.k_scale = msa_attn_f16(part->k_scale[row * part->scale_stride + w.g]);
        p.v_scale = msa_attn_f16(part->v_scale[row * part->scale_stride + w.g]);
    }
    p.type = kind + 4 * dtype;
    p.way = __all_sync(~0u, kind == MSA_ATTN_BF16) ? MSA_ATTN_BF16
            : __all_sync(~0u, kind == MSA_ATTN_I8) ? MSA_ATTN_I8
                                                   : MSA_ATTN_ANY;
    return p;
}

/* Rows of D numbers lie in shared memory without gaps; within a row, groups of 8 change
 * places with the row, so that 8 rows' groups of one column use all banks. */
template <int D> using rows_of = uint4 (*)[D / 8];

/* Rows that are not bf16, or cannot be read 16 bytes at once, become so. from: of lane % 16;
 * those that are not there repeat the last one. */
template <int D>
static __device__ __noinline__ void fetch_converted(const char *from, int type, bool bytes, rows_of<D> to)
{
    enum { STEP = 32 / (D / 8), TURNS = KEYS / STEP };
    const int lane = threadIdx.x & 31, row0 = lane / (D / 8), group = lane % (D / 8);
    if (bytes) {
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
    for (int row = row0; row < KEYS; row += STEP) {
        const unsigned long long at = __shfl_sync(~0u, (unsigned long long)from, row);
        const int of = __shfl_sync(~0u, type, row);
        to[row][group ^ (row & 7)] = msa_attn_load8((const void *)at, group * 8, of & 3, of >> 2);
    }
}

/* Asks for a stage's keys or values (from: p.k or p.v); what has to be converted is there
 * afterwards. */
template <int D>
static __device__ __forceinline__ void fetch(const msa_cuda_attn_call &c, const place &p, const char *from,
                                             rows_of<D> to)
{
    enum { STEP = 32 / (D / 8), TURNS = KEYS / STEP };
    const int lane = threadIdx.x & 31, row0 = lane / (D / 8), group = lane % (D / 8);
    if (p.way == FROM_CACHE) {
        const int64_t step = (int64_t)c.G * (D * 2 * STEP);
#pragma unroll
        for (int i = 0; i < TURNS; i++, from += step) {
            const int row = row0 + i * STEP;
            msa_attn_copy16(&to[row][group ^ (row & 7)], from, row < p.n);
        }
    } else if (p.way == MSA_ATTN_BF16) {
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            const int row = row0 + i * STEP;
            const unsigned long long at = __shfl_sync(~0u, (unsigned long long)from, row);
            msa_attn_copy16(&to[row][group ^ (row & 7)], (const uint4 *)at + group, row < p.n);
        }
    } else {
        fetch_converted<D>(from, p.type, p.way == MSA_ATTN_I8, to);
    }
}

/* ---- a kernel's memory ---------------------------------------------------------------------- */

/* What is used one after the other lies in the same place. */
template <int D> struct alignas(256) shared {
    uint4 ring[WARPS][2][KEYS][D / 8];  /* a warp's keys and values; at the end, its sums */
    uint4 fresh[2][D / 8];              /* K and V of the row that is new, as a stage holds it */
    uint4 q[ROWS][D / 8 + 1];           /* wider than it need be, for the banks */
    union {
        struct {
            float4 gamma[2][D / 4];
            float2 turn[8][D / 16];
        };
        float2 landed[ROWS * D / 2];    /* this block's columns, of all blocks */
    };
    float2 sums[WARPS][ROWS];           /* largest scores and sums of weights */
    float2 landed_sums[MOST_SPLITS][ROWS];
    uint64_t all_landed;                /* a barrier */
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

/* Sends 8 bytes to the same place of a block of the cluster, whose barrier counts them. */
static __device__ __forceinline__ void send(float2 *place, uint64_t *bar, int block, float2 x)
{
    asm volatile("{\n\t.reg .b32 to, at;\n\t"
                 "mapa.shared::cluster.u32 to, %0, %2;\n\t"
                 "mapa.shared::cluster.u32 at, %1, %2;\n\t"
                 "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [to], {%3, %4}, [at];\n\t}" ::"r"(
                     msa_attn_shared(place)),
                 "r"(msa_attn_shared(bar)), "r"(block), "f"(x.x), "f"(x.y)
                 : "memory");
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
 * and V goes to the cache and to shared memory, too. What rope_begin left is waited for here. */
template <int D>
static __device__ __forceinline__ void rope_rows(const msa_cuda_attn_call &c, const msa_cuda_attn_rope &r,
                                                 const span &w, bool store, shared<D> *sh)
{
    enum { L = D / 8, AT_ONCE = WARPS * 32 / L };
    const int part = threadIdx.x % L, heads = w.group + (store ? 2 : 0), last = w.own_rows - 1;
    const uint4 *row = (const uint4 *)c.q + w.row * (c.H + 2 * c.G) * L + part;
#pragma unroll 1
    for (int n0 = 0; n0 < heads; n0 += AT_ONCE) {
        /* threads past the last head do its work again, without storing: all take part in shuffles */
        const int mine = n0 + (int)threadIdx.x / L, n = min(mine, heads - 1);
        uint4 x = row[(n < w.group ? w.g * w.group + n : c.H + w.g + (n > w.group ? c.G : 0)) * L];
        if (n0 == 0)
            __syncthreads();
        float f[8];
        msa_cuda_bf16::unpack(x, f);
        msa_cuda_rotate<L>(f, r.q_gamma != NULL, &sh->gamma[n >= w.group][part * 2], r.eps, sh->turn);
        if (n <= w.group) /* values stay as they are */
            x = msa_cuda_bf16::pack(f);
        if (mine < w.group) {
            sh->q[n][part] = x;
        } else if (mine < heads) {
            sh->fresh[n - w.group][part ^ (last & 7)] = x;
            uint4 *cache = (uint4 *)(n == w.group ? w.own_k : w.own_v);
            cache[((int64_t)last * c.G + w.g) * L + part] = x;
        }
    }
}

/* Stages first, first + step, .. of flat rows tile * 8 ..: one warp's part, left in shared
 * memory. p: where the first one stands, which has been asked for. FRESH: the last row of the
 * cache is in shared memory. */
template <int D, bool FRESH>
static __device__ __forceinline__ void stages(const msa_cuda_attn_call &c, const span &w, int tile, int first,
                                              int step, place p, float scale, shared<D> *sh)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int n_flat = w.n_rows * w.group, rows = min(n_flat - tile * ROWS, (int)ROWS);
    rows_of<D> ring_k = sh->ring[warp][0], ring_v = sh->ring[warp][1];
    /* the rows and groups that this lane names to ldmatrix */
    const int k_row = lane & 15, v_row = (lane & 7) + (lane >> 4) * 8;
    const uint32_t k_group = (uint32_t)((lane >> 4) ^ (lane & 7)) * 16,
                   v_group = (uint32_t)((lane >> 3 & 1) ^ (lane & 7)) * 16;
    const uint32_t *q = (const uint32_t *)sh->q[min(lane / 4, rows - 1)] + lane % 4;
    int limit[2]; /* the last row of the cache that flat row 2 (lane%4) + i sees */
#pragma unroll
    for (int i = 0; i < 2; i++)
        limit[i] = FRESH ? w.own_rows - 1
                         : w.own_rows - w.n_rows + min(tile * ROWS + lane % 4 * 2 + i, n_flat - 1) / w.group;
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
            p = place_of<D, FRESH>(c, w, next);

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
            msa_attn_mma(j % 2 ? odd : even, a[0], a[1], a[2], a[3], q[j * 8], q[j * 8 + 4]);
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
                const bool seen = row0 + lane / 4 + 8 * i <= (own ? limit[r] : w.seg_rows - 1);
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
        if (lane < 4)
            sh->sums[warp][row] = make_float2(top[r], sum[r]);
        if (row < rows) /* acc[j][2 i + r]: column 16 j + 8 i + lane/4 */
#pragma unroll
            for (int j = 0; j < D / 16; j++)
#pragma unroll
                for (int i = 0; i < 2; i++)
                    sums[row * (D + SUMS_PAD) + j * 16 + i * 8 + lane / 4] = acc[j][2 * i + r];
    }
}

/* What N warps or blocks have of a row: the largest score and the sum of weights, two
 * columns. All are read before the first is used. */
template <int N> struct partial {
    float2 sums[N], acc[N];
};

template <int N> static __device__ __forceinline__ void add_up(const partial<N> &p, float2 *sums, float2 *acc)
{
    *sums = make_float2(-INFINITY, 0);
    *acc = make_float2(0, 0);
#pragma unroll
    for (int i = 0; i < N; i++)
        sums->x = fmaxf(sums->x, p.sums[i].x);
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float f = shrunk(p.sums[i].x, sums->x);
        sums->y += f * p.sums[i].y;
        acc->x += f * p.acc[i].x;
        acc->y += f * p.acc[i].y;
    }
}

/* Two neighbouring numbers of flat row f; sum >= 1 or so, for every row sees a key. */
template <int D>
static __device__ __forceinline__ void put(const msa_cuda_attn_call &c, const span &w, int f, int col, float sum,
                                           float2 acc)
{
    int row = 0;
    if (w.n_rows > 1)
        row = f / w.group, f %= w.group;
    uint16_t *to = (uint16_t *)c.out + ((w.row + row) * c.H + w.g * w.group + f) * D;
    *(uint32_t *)(to + col) = msa_attn_pack(__fdividef(acc.x, sum), __fdividef(acc.y, sum));
}

/* Adds up the warps' parts of flat rows tile * 8 ..; block i of the cluster is sent the i-th
 * share of each row's columns by all, itself too, adds them up and writes them. */
template <int D>
static __device__ __forceinline__ void finish(const msa_cuda_attn_call &c, const span &w, int tile, int split_bits,
                                              int split, shared<D> *sh)
{
    enum { PAIRS = D / 2, PAIR_BITS = D == 128 ? 6 : 5 };
    const int rows = min(w.n_rows * w.group - tile * ROWS, (int)ROWS), splits = 1 << split_bits;
    const int share_bits = PAIR_BITS - split_bits, share = 1 << share_bits;
    float2 sums, acc;
    if (splits > 1) /* every block can take what is sent */
        asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#pragma unroll 1
    for (int e = threadIdx.x; e < rows * PAIRS; e += THREADS) {
        const int row = e / PAIRS, pair = e % PAIRS, at = pair & (share - 1);
        partial<WARPS> p;
#pragma unroll
        for (int i = 0; i < WARPS; i++) {
            p.sums[i] = sh->sums[i][row];
            p.acc[i] = *(const float2 *)((const float *)sh->ring[i] + row * (D + SUMS_PAD) + 2 * pair);
        }
        add_up(p, &sums, &acc);
        if (splits == 1) {
            put<D>(c, w, tile * ROWS + row, 2 * pair, sums.y, acc);
            continue;
        }
        send(&sh->landed[((split * ROWS + row) << share_bits) + at], &sh->all_landed, pair >> share_bits, acc);
        if (at == 0)
            send(&sh->landed_sums[split][row], &sh->all_landed, pair >> share_bits, sums);
    }
    if (splits == 1)
        return;
    barrier_wait(&sh->all_landed, tile & 1);
#pragma unroll 1
    for (int e = threadIdx.x; e < rows * share; e += THREADS) {
        const int row = e >> share_bits, at = e & (share - 1);
        partial<MOST_SPLITS> p;
#pragma unroll
        for (int i = 0; i < MOST_SPLITS; i++) {
            const bool there = i < splits;
            p.sums[i] = there ? sh->landed_sums[i][row] : make_float2(-INFINITY, 0);
            p.acc[i] = there ? sh->landed[((i * ROWS + row) << share_bits) + at] : make_float2(0, 0);
        }
        add_up(p, &sums, &acc);
        put<D>(c, w, tile * ROWS + row, 2 * ((split << share_bits) + at), sums.y, acc);
    }
}

/* A kernel's numbers; the grid is [key heads of the cluster's splits, sequences]. */
struct how {
    float scale;
    int group, split_bits, max_flat;
};

/* A cluster of blocks is one key head of one sequence; those of more than max_flat flat rows
 * are left to others.
 *
 * ROPE: every sequence has one row, which has yet to be rotated and to become its cache's last
 * one. With r.early the other rows are asked for before the kernel in front has ended, and
 * what is under way then may reach far back, for that kernel may itself have begun before the
 * one in front of it had ended, and so on: only what was written before the recorded run was
 * launched is certain to be there, for no kernel of a run begins before what stands in front
 * of the run has ended. */
template <int D, bool ROPE>
static __global__ void __launch_bounds__(THREADS, 4) /* no more than 128 registers */
decode_kernel(msa_cuda_attn_call c, msa_cuda_attn_rope r, how h)
{
    __shared__ shared<D> sh;
    msa_cuda_let_next();
    const int splits = 1 << h.split_bits, split = (int)blockIdx.x & (splits - 1), warp = threadIdx.x >> 5;
    const int first = warp * splits + split, step = WARPS * splits;
    const span w = span_of<D, ROPE>(c, (int)blockIdx.y, (int)blockIdx.x >> h.split_bits, h.group);
    const int n_flat = w.n_rows * h.group;
    if (!ROPE || !r.early)
        msa_cuda_wait_previous();
    if (n_flat == 0 || n_flat > h.max_flat)
        return; /* nothing is known of the keys of a sequence without rows */

    if (threadIdx.x == 0 && splits > 1) {
        barrier_init(&sh.all_landed, 1);
        barrier_init_done();
    }
    for (int tile = 0; ROPE ? tile == 0 : tile * ROWS < n_flat; tile++) {
        const int rows = min(n_flat - tile * ROWS, (int)ROWS);
        place p = {};
        if (first < w.stages) {
            p = place_of<D, ROPE>(c, w, first);
#pragma unroll 1
            for (int i = 0; i < 2; i++) {
                fetch<D>(c, p, i ? p.v : p.k, sh.ring[warp][i]);
                msa_attn_copies_end();
            }
        }
        if (ROPE) {
            rope_begin<D>(r, w.row, &sh);
            msa_cuda_wait_previous();
            rope_rows<D>(c, r, w, ((w.own_stages - 1) & (splits - 1)) == split, &sh);
        } else {
#pragma unroll 1
            for (int e = threadIdx.x; e < rows * (D / 8); e += THREADS) {
                const int f = tile * ROWS + e / (D / 8);
                const uint16_t *row = (const uint16_t *)c.q + (w.row + f / h.group) * c.q_stride +
                                      ((int64_t)w.g * h.group + f % h.group) * D;
                sh.q[e / (D / 8)][e % (D / 8)] = ((const uint4 *)row)[e % (D / 8)];
            }
        }
        if (threadIdx.x == 0 && splits > 1)
            barrier_expect(&sh.all_landed, (uint32_t)(rows * (D / 2 + splits) * sizeof(float2)));
        __syncthreads();
        if (splits > 1) /* this block's places are free; it has written nothing that others read */
            asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
        stages<D, ROPE>(c, w, tile, first, step, p, h.scale, &sh);
        __syncthreads();
        finish<D>(c, w, tile, h.split_bits, split, &sh);
        __syncthreads(); /* what the next tile writes has been read */
    }
}

msa_rc msa_cuda_attn_decode(msa_cuda *c, cudaStream_t st, const msa_cuda_attn_call *call,
                            const msa_cuda_attn_rope *rope, int max_flat, msa_err *err)
{
    how h = {(float)(MSA_LOG2E / sqrt((double)call->D)), call->H / call->G, 0, max_flat};
    /* blocks that a multiprocessor is given: four hide more of what one waits for, but once there
     * is work for all without splitting, merging costs more than that (docs/CUDA.md, log 4) */
    const int64_t units = call->n_seqs * call->G, most = (units <= c->n_sms ? 4 : 2) * (int64_t)c->n_sms;
    while (2 << h.split_bits <= MOST_SPLITS && units * (2 << h.split_bits) <= most)
        h.split_bits++;
    cudaLaunchAttribute a[2] = {};
    a[0].id = cudaLaunchAttributeClusterDimension;
    a[0].val.clusterDim.x = 1u << h.split_bits;
    a[0].val.clusterDim.y = a[0].val.clusterDim.z = 1;
    a[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    a[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)call->G << h.split_bits, (unsigned)call->n_seqs);
    config.blockDim = dim3(THREADS);
    config.stream = st;
    config.attrs = a;
    config.numAttrs = 2;
    void (*kernel)(msa_cuda_attn_call, msa_cuda_attn_rope, how) =
        call->D == 64 ? (rope ? decode_kernel<64, true> : decode_kernel<64, false>)
                      : (rope ? decode_kernel<128, true> : decode_kernel<128, false>);
    if (c->between_ran) /* kernels side by side on a multiprocessor need one division of its memory */
        MSA_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                          cudaSharedmemCarveoutMaxShared));
    MSA_CUDA_TRY(cudaLaunchKernelEx(&config, kernel, *call, rope ? *rope : msa_cuda_attn_rope(), h));
    return MSA_OK;
}
