/* Attention of many rows over the parts of a memory (a question that enters): tiles of
 * flat rows over blocks of 64 keys, which are gathered into shared memory as bf16. */
#include <math.h>

#include "kernels/cuda_attn.h"

enum { TILE_WARPS = 4, TILE_THREADS = TILE_WARPS * 32, TILE_KEYS = 64 };

/* Rows of D numbers lie in shared memory without gaps; within a row, groups of 8 change
 * places with the row, so that 8 rows' groups of one column use all banks. */
template <int D> struct tile_shared {
    uint4 q[MSA_ATTN_MEMORY_ROWS][D / 8];
    uint4 kv[2][2][TILE_KEYS][D / 8]; /* [stage][k, v] */
    float scale[2][2][TILE_KEYS]; /* factors of k and v */
};

template <int D> static __device__ __forceinline__ uint4 *spot(uint4 (*rows)[D / 8], int row, int group)
{
    return &rows[row][group ^ (row & 7)];
}

/* A thread's way along the keys of a sequence, which it meets in rising order. */
struct part_walk {
    int64_t part, last, from, next; /* its keys are from .. next-1 */
    msa_cuda_attn_part p;
};

static __device__ __forceinline__ void walk_to(const msa_cuda_attn_call &c, part_walk *w, int64_t key)
{
    bool moved = false;
    while (key >= w->next) {
        w->part++;
        w->next = w->part < w->last ? c.first[w->part + 1] : INT64_MAX;
        moved = true;
    }
    if (moved) {
        w->from = c.first[w->part];
        w->p = c.parts[w->part];
    }
}

/* Keys block*64 .. of a sequence into a stage, zeros behind the last. */
template <int D>
static __device__ __forceinline__ void load_parts(const msa_cuda_attn_call &c, part_walk *w, int g,
                                                  int block, int n_keys, tile_shared<D> *sh)
{
    const int group = threadIdx.x % (D / 8), row0 = threadIdx.x / (D / 8), step = TILE_THREADS / (D / 8);
#pragma unroll 1
    for (int i = 0; i < TILE_KEYS / step; i++) {
        const int row = row0 + i * step, key = block * TILE_KEYS + row;
        uint4 *k = spot<D>(sh->kv[block & 1][0], row, group), *v = spot<D>(sh->kv[block & 1][1], row, group);
        float k_scale = 1, v_scale = 1;
        if (key >= n_keys) {
            *k = *v = make_uint4(0, 0, 0, 0);
        } else {
            walk_to(c, w, key);
            const int64_t r = key - w->from, at = r * w->p.stride + (int64_t)g * D + group * 8;
            const int size = msa_attn_size(w->p.dtype);
            const char *kp = (const char *)w->p.k + at * size, *vp = (const char *)w->p.v + at * size;
            if (w->p.kind == MSA_ATTN_BF16) {
                msa_attn_copy16(k, kp, true);
                msa_attn_copy16(v, vp, true);
            } else {
                *k = msa_attn_load8(kp, 0, w->p.kind, w->p.dtype);
                *v = msa_attn_load8(vp, 0, w->p.kind, w->p.dtype);
            }
            if (w->p.dtype == MSA_I8 && group == 0) {
                k_scale = msa_attn_f16(w->p.k_scale[r * w->p.scale_stride + g]);
                v_scale = msa_attn_f16(w->p.v_scale[r * w->p.scale_stride + g]);
            }
        }
        if (group == 0) {
            sh->scale[block & 1][0][row] = k_scale;
            sh->scale[block & 1][1][row] = v_scale;
        }
    }
}

/* A tile of 64 flat rows of one key head, 16 a warp. */
template <int D>
static __global__ void __launch_bounds__(TILE_THREADS, 2) tile_kernel(msa_cuda_attn_call c, float scale)
{
    extern __shared__ __align__(128) char dynamic[];
    tile_shared<D> *sh = (tile_shared<D> *)dynamic;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = c.H / c.G;
    const int g = (int)(blockIdx.x % c.G);
    const msa_cuda_attn_item item = c.items[blockIdx.x / c.G];
    const msa_cuda_attn_seq seq = c.seqs[item.at];
    const int n_flat = item.n_rows * group, tile_row = item.tile * MSA_ATTN_MEMORY_ROWS;
    const int before = (int)(seq.keys - seq.n_rows); /* keys that every row sees */
    const int n_keys = before + min(tile_row + MSA_ATTN_MEMORY_ROWS - 1, n_flat - 1) / group + 1;
    const int n_blocks = (n_keys + TILE_KEYS - 1) / TILE_KEYS;
    part_walk walk;
    walk.part = seq.part - 1;
    walk.last = seq.part + seq.n_parts - 1;
    walk.next = 0;

    for (int e = threadIdx.x; e < MSA_ATTN_MEMORY_ROWS * (D / 8); e += TILE_THREADS) {
        const int row = e / (D / 8), f = min(tile_row + row, n_flat - 1);
        msa_attn_copy16(spot<D>(sh->q, row, e % (D / 8)),
                        (const uint16_t *)c.q + (seq.row + f / group) * c.q_stride +
                            ((int64_t)g * group + f % group) * D + e % (D / 8) * 8,
                        true);
    }
    load_parts<D>(c, &walk, g, 0, n_keys, sh);

    /* of row lane/4 + 8 h of the warp */
    int limit[2];
    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, acc[D / 8][4];
#pragma unroll
    for (int h = 0; h < 2; h++)
        limit[h] = before + min(tile_row + warp * 16 + lane / 4 + 8 * h, n_flat - 1) / group;
#pragma unroll
    for (int j = 0; j < D / 8; j++)
        acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0;

    for (int block = 0; block < n_blocks; block++) {
        msa_attn_copied();
        __syncthreads(); /* this stage is there, and nobody reads the other any more */
        if (block + 1 < n_blocks)
            load_parts<D>(c, &walk, g, block + 1, n_keys, sh);
        uint4(*k)[D / 8] = sh->kv[block & 1][0], (*v)[D / 8] = sh->kv[block & 1][1];
        const float *k_scale = sh->scale[block & 1][0], *v_scale = sh->scale[block & 1][1];

        float s[TILE_KEYS / 8][4];
#pragma unroll
        for (int j = 0; j < TILE_KEYS / 8; j++)
            s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            uint32_t a[4];
            msa_attn_matrices(a, msa_attn_shared(spot<D>(sh->q, warp * 16 + (lane & 15), 2 * i + (lane >> 4))));
#pragma unroll
            for (int j = 0; j < TILE_KEYS / 16; j++) {
                uint32_t b[4];
                msa_attn_matrices(b, msa_attn_shared(spot<D>(k, j * 16 + (lane >> 4) * 8 + (lane & 7),
                                                             2 * i + (lane >> 3 & 1))));
                msa_attn_mma(s[2 * j], a[0], a[1], a[2], a[3], b[0], b[1]);
                msa_attn_mma(s[2 * j + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
            }
        }
#pragma unroll
        for (int j = 0; j < TILE_KEYS / 8; j++) {
            const float2 f = *(const float2 *)&k_scale[j * 8 + lane % 4 * 2];
            const int key = block * TILE_KEYS + j * 8 + lane % 4 * 2;
#pragma unroll
            for (int e = 0; e < 4; e++)
                s[j][e] = key + (e & 1) > limit[e >> 1] ? -INFINITY : s[j][e] * (e & 1 ? f.y : f.x);
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float now = top[h];
#pragma unroll
            for (int j = 0; j < TILE_KEYS / 8; j++)
                now = fmaxf(now, fmaxf(s[j][2 * h], s[j][2 * h + 1]));
            now = fmaxf(now, __shfl_xor_sync(~0u, now, 1));
            now = fmaxf(now, __shfl_xor_sync(~0u, now, 2)); /* finite: every row sees key 0 */
            const float shrink = msa_attn_exp2((top[h] - now) * scale), less = now * scale;
            top[h] = now;
            float total = 0;
#pragma unroll
            for (int j = 0; j < TILE_KEYS / 8; j++)
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; e++) {
                    s[j][e] = msa_attn_exp2(fmaf(s[j][e], scale, -less));
                    total += s[j][e];
                }
            sum[h] = sum[h] * shrink + total;
#pragma unroll
            for (int j = 0; j < D / 8; j++) {
                acc[j][2 * h] *= shrink;
                acc[j][2 * h + 1] *= shrink;
            }
        }
#pragma unroll
        for (int i = 0; i < TILE_KEYS / 16; i++) {
            uint32_t p[4];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const float2 f = *(const float2 *)&v_scale[(2 * i + e) * 8 + lane % 4 * 2];
                p[2 * e] = msa_attn_pack(s[2 * i + e][0] * f.x, s[2 * i + e][1] * f.y);
                p[2 * e + 1] = msa_attn_pack(s[2 * i + e][2] * f.x, s[2 * i + e][3] * f.y);
            }
#pragma unroll
            for (int j = 0; j < D / 16; j++) {
                uint32_t b[4];
                msa_attn_matrices_turned(b, msa_attn_shared(spot<D>(v, i * 16 + (lane >> 3 & 1) * 8 + (lane & 7),
                                                                    2 * j + (lane >> 4))));
                msa_attn_mma(acc[2 * j], p[0], p[1], p[2], p[3], b[0], b[1]);
                msa_attn_mma(acc[2 * j + 1], p[0], p[1], p[2], p[3], b[2], b[3]);
            }
        }
    }

    /* a warp's rows of q, which nobody else reads, take its results */
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float total = sum[h];
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        const float inverse = 1 / total;
#pragma unroll
        for (int j = 0; j < D / 8; j++)
            ((uint32_t *)spot<D>(sh->q, warp * 16 + lane / 4 + 8 * h, j))[lane % 4] =
                msa_attn_pack(acc[j][2 * h] * inverse, acc[j][2 * h + 1] * inverse);
    }
    __syncwarp();
    for (int e = lane; e < 16 * (D / 8); e += 32) {
        const int row = warp * 16 + e / (D / 8), f = tile_row + row;
        if (f < n_flat)
            *((uint4 *)c.out + ((seq.row + f / group) * c.H + (int64_t)g * group + f % group) * (D / 8) +
              e % (D / 8)) = *spot<D>(sh->q, row, e % (D / 8));
    }
}

template <int D>
static msa_rc tile_launch(cudaStream_t st, const msa_cuda_attn_call *call, int64_t n_items, msa_err *err)
{
    const int bytes = (int)sizeof(tile_shared<D>);
    if (n_items > INT32_MAX / call->G)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "attention: more rows than a grid holds");
    MSA_CUDA_TRY(cudaFuncSetAttribute(tile_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    tile_kernel<D><<<(unsigned)(n_items * call->G), TILE_THREADS, (size_t)bytes, st>>>(
        *call, (float)(MSA_LOG2E / sqrt((double)D)));
    MSA_CUDA_LAUNCHED("attention");
}

msa_rc msa_cuda_attn_memory_tiles(cudaStream_t st, const msa_cuda_attn_call *call, int64_t n_items,
                                  msa_err *err)
{
    return call->D == 64 ? tile_launch<64>(st, call, n_items, err) : tile_launch<128>(st, call, n_items, err);
}
