/* Attention of many rows: tiles of flat rows over blocks of 64 keys, products in tensor
 * cores, softmax in f32 as the blocks pass. */
#include <math.h>

#include "kernels/cuda_attn.h"

enum { TILE_WARPS = 4, TILE_THREADS = TILE_WARPS * 32, TILE_KEYS = 64, NO_KEY = 1 << 30 };

/* Rows of D numbers lie in shared memory without gaps; within a row, groups of 8 change
 * places with the row, so that 8 rows' groups of one column use all banks. */
template <int D> struct tile_shared {
    uint4 kv[2][2][TILE_KEYS][D / 8]; /* [stage][k, v] */
    float scale[2][2][TILE_KEYS];
};

template <int D> static __device__ __forceinline__ uint4 *spot(uint4 (*rows)[D / 8], int row, int group)
{
    return &rows[row][group ^ (row & 7)];
}

static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes from memory, or zeros; complete after copies_wait. */
static __device__ __forceinline__ void copy16(void *shared, const void *from, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

static __device__ __forceinline__ void copies_wait(void)
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

/* Four 8 x 8 matrices, their rows' addresses given by lanes 0-7, 8-15, 16-23, 24-31. */
static __device__ __forceinline__ void matrices(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void matrices_transposed(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
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

/* Keys block*64 .. of packed rows into a stage: row r of k at k + r * stride. */
template <int D>
static __device__ __forceinline__ void load_packed(const uint16_t *k, const uint16_t *v, int64_t stride,
                                                   int block, int n_keys, tile_shared<D> *sh)
{
    const int group = threadIdx.x % (D / 8), row0 = threadIdx.x / (D / 8), step = TILE_THREADS / (D / 8);
#pragma unroll
    for (int i = 0; i < TILE_KEYS / step; i++) {
        const int row = row0 + i * step, key = block * TILE_KEYS + row;
        const bool valid = key < n_keys;
        const int64_t at = (valid ? key : 0) * stride + group * 8;
        copy16(spot<D>(sh->kv[block & 1][0], row, group), k + at, valid);
        copy16(spot<D>(sh->kv[block & 1][1], row, group), v + at, valid);
    }
}

/* The same from the parts of a memory. */
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
                copy16(k, kp, true);
                copy16(v, vp, true);
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

/* A tile of TILE_WARPS * MT * 16 flat rows of one key head, MT * 16 a warp. With PARTS
 * the keys are the parts of a memory, else the sequence's own rows of packed qkv. */
template <int D, int MT, bool PARTS>
static __global__ void __launch_bounds__(TILE_THREADS, MT == 2 ? 2 : 3)
tile_kernel(msa_cuda_attn_call c, float scale)
{
    enum { ROWS = TILE_WARPS * MT * 16 };
    extern __shared__ __align__(128) char dynamic[];
    uint4(*q)[D / 8] = (uint4(*)[D / 8])dynamic;
    tile_shared<D> *sh = (tile_shared<D> *)(dynamic + sizeof(uint4) * ROWS * (D / 8));
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = c.H / c.G;
    const int g = (int)(blockIdx.x % c.G);
    const msa_cuda_attn_item item = c.items[blockIdx.x / c.G];
    const int n_flat = item.n_rows * group, tile_row = item.tile * ROWS;
    int64_t row0 = item.at;
    int before = 0; /* keys that every row sees */
    part_walk walk;
    if (PARTS) {
        const msa_cuda_attn_seq s = c.seqs[item.at];
        row0 = s.row;
        before = (int)(s.keys - s.n_rows);
        walk.part = s.part - 1;
        walk.last = s.part + s.n_parts - 1;
        walk.next = 0;
    }
    const int n_keys = before + min(tile_row + ROWS - 1, n_flat - 1) / group + 1;
    const int n_blocks = (n_keys + TILE_KEYS - 1) / TILE_KEYS;
    const uint16_t *own = (const uint16_t *)c.q + row0 * c.q_stride;
    const uint16_t *own_k = own + ((int64_t)c.H + g) * D, *own_v = own_k + (int64_t)c.G * D;

    for (int e = threadIdx.x; e < ROWS * (D / 8); e += TILE_THREADS) {
        const int row = e / (D / 8), f = min(tile_row + row, n_flat - 1);
        copy16(spot<D>(q, row, e % (D / 8)),
               own + f / group * c.q_stride + ((int64_t)g * group + f % group) * D + e % (D / 8) * 8, true);
    }
    if (PARTS)
        load_parts<D>(c, &walk, g, 0, n_keys, sh);
    else
        load_packed<D>(own_k, own_v, c.q_stride, 0, n_keys, sh);

    /* of row lane/4 + 8 h of the warp's tile m */
    int limit[MT][2];
    float top[MT][2], sum[MT][2], acc[MT][D / 8][4];
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            limit[m][h] =
                before + min(tile_row + (warp * MT + m) * 16 + lane / 4 + 8 * h, n_flat - 1) / group;
            top[m][h] = -INFINITY;
            sum[m][h] = 0;
        }
#pragma unroll
        for (int j = 0; j < D / 8; j++)
            acc[m][j][0] = acc[m][j][1] = acc[m][j][2] = acc[m][j][3] = 0;
    }
    /* the first row of the warp sees all keys of blocks that end before this */
    const int all_seen = before + min(tile_row + warp * MT * 16, n_flat - 1) / group;

    for (int block = 0; block < n_blocks; block++) {
        copies_wait();
        __syncthreads(); /* this stage is there, and nobody reads the other any more */
        if (block + 1 < n_blocks) {
            if (PARTS)
                load_parts<D>(c, &walk, g, block + 1, n_keys, sh);
            else
                load_packed<D>(own_k, own_v, c.q_stride, block + 1, n_keys, sh);
        }
        uint4(*k)[D / 8] = sh->kv[block & 1][0], (*v)[D / 8] = sh->kv[block & 1][1];
        const float *factor[2] = {sh->scale[block & 1][0], sh->scale[block & 1][1]};

        float s[MT][TILE_KEYS / 8][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int j = 0; j < TILE_KEYS / 8; j++)
                s[m][j][0] = s[m][j][1] = s[m][j][2] = s[m][j][3] = 0;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            uint32_t a[MT][4];
#pragma unroll
            for (int m = 0; m < MT; m++)
                matrices(a[m], spot<D>(q, (warp * MT + m) * 16 + (lane & 15), 2 * i + (lane >> 4)));
#pragma unroll
            for (int j = 0; j < TILE_KEYS / 16; j++) {
                uint32_t b[4];
                matrices(b, spot<D>(k, j * 16 + (lane >> 4) * 8 + (lane & 7), 2 * i + (lane >> 3 & 1)));
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    msa_attn_mma(s[m][2 * j], a[m][0], a[m][1], a[m][2], a[m][3], b[0], b[1]);
                    msa_attn_mma(s[m][2 * j + 1], a[m][0], a[m][1], a[m][2], a[m][3], b[2], b[3]);
                }
            }
        }

        const int key0 = block * TILE_KEYS + lane % 4 * 2;
        if (PARTS) {
#pragma unroll
            for (int j = 0; j < TILE_KEYS / 8; j++) {
                const float2 f = *(const float2 *)&factor[0][j * 8 + lane % 4 * 2];
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        s[m][j][e] *= e & 1 ? f.y : f.x;
            }
        }
        if (block * TILE_KEYS + TILE_KEYS - 1 > all_seen) {
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int j = 0; j < TILE_KEYS / 8; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        if (key0 + j * 8 + (e & 1) > limit[m][e >> 1])
                            s[m][j][e] = -INFINITY;
        }
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float now = top[m][h];
#pragma unroll
                for (int j = 0; j < TILE_KEYS / 8; j++)
                    now = fmaxf(now, fmaxf(s[m][j][2 * h], s[m][j][2 * h + 1]));
                now = fmaxf(now, __shfl_xor_sync(~0u, now, 1));
                now = fmaxf(now, __shfl_xor_sync(~0u, now, 2)); /* finite: every row sees key 0 */
                const float shrink = msa_attn_exp2((top[m][h] - now) * scale), less = now * scale;
                top[m][h] = now;
                float total = 0;
#pragma unroll
                for (int j = 0; j < TILE_KEYS / 8; j++)
#pragma unroll
                    for (int e = 2 * h; e < 2 * h + 2; e++) {
                        s[m][j][e] = msa_attn_exp2(fmaf(s[m][j][e], scale, -less));
                        total += s[m][j][e];
                    }
                sum[m][h] = sum[m][h] * shrink + total;
#pragma unroll
                for (int j = 0; j < D / 8; j++) {
                    acc[m][j][2 * h] *= shrink;
                    acc[m][j][2 * h + 1] *= shrink;
                }
            }

#pragma unroll
        for (int i = 0; i < TILE_KEYS / 16; i++) {
            uint32_t p[MT][4];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float2 f = {1, 1};
                if (PARTS)
                    f = *(const float2 *)&factor[1][(2 * i + e) * 8 + lane % 4 * 2];
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    p[m][2 * e] = msa_attn_pack(s[m][2 * i + e][0] * f.x, s[m][2 * i + e][1] * f.y);
                    p[m][2 * e + 1] = msa_attn_pack(s[m][2 * i + e][2] * f.x, s[m][2 * i + e][3] * f.y);
                }
            }
#pragma unroll
            for (int j = 0; j < D / 16; j++) {
                uint32_t b[4];
                matrices_transposed(
                    b, spot<D>(v, i * 16 + (lane >> 3 & 1) * 8 + (lane & 7), 2 * j + (lane >> 4)));
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    msa_attn_mma(acc[m][2 * j], p[m][0], p[m][1], p[m][2], p[m][3], b[0], b[1]);
                    msa_attn_mma(acc[m][2 * j + 1], p[m][0], p[m][1], p[m][2], p[m][3], b[2], b[3]);
                }
            }
        }
    }

    /* a warp's rows of q, which nobody else reads, take its results */
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float total = sum[m][h];
            total += __shfl_xor_sync(~0u, total, 1);
            total += __shfl_xor_sync(~0u, total, 2);
            const float inverse = 1 / total;
#pragma unroll
            for (int j = 0; j < D / 8; j++)
                ((uint32_t *)spot<D>(q, (warp * MT + m) * 16 + lane / 4 + 8 * h, j))[lane % 4] =
                    msa_attn_pack(acc[m][j][2 * h] * inverse, acc[m][j][2 * h + 1] * inverse);
        }
    __syncwarp();
    for (int e = lane; e < MT * 16 * (D / 8); e += 32) {
        const int row = warp * MT * 16 + e / (D / 8), f = tile_row + row;
        if (f < n_flat)
            *((uint4 *)c.out + ((row0 + f / group) * c.H + (int64_t)g * group + f % group) * (D / 8) +
              e % (D / 8)) = *spot<D>(q, row, e % (D / 8));
    }
}

template <int D, int MT, bool PARTS>
static msa_rc tile_launch(cudaStream_t st, const msa_cuda_attn_call *call, int64_t n_items, msa_err *err)
{
    const int bytes = (int)(sizeof(tile_shared<D>) + sizeof(uint4) * TILE_WARPS * MT * 16 * (D / 8));
    if (n_items > INT32_MAX / call->G)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "attention: more rows than a grid holds");
    MSA_CUDA_TRY(cudaFuncSetAttribute(tile_kernel<D, MT, PARTS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      bytes));
    tile_kernel<D, MT, PARTS><<<(unsigned)(n_items * call->G), TILE_THREADS, (size_t)bytes, st>>>(
        *call, (float)(MSA_LOG2E / sqrt((double)D)));
    MSA_CUDA_LAUNCHED("attention");
}

msa_rc msa_cuda_attn_packed_tiles(cudaStream_t st, const msa_cuda_attn_call *call, int64_t n_items,
                                  msa_err *err)
{
    return call->D == 64 ? tile_launch<64, MSA_ATTN_PACKED_ROWS / 64, false>(st, call, n_items, err)
                         : tile_launch<128, MSA_ATTN_PACKED_ROWS / 64, false>(st, call, n_items, err);
}

msa_rc msa_cuda_attn_memory_tiles(cudaStream_t st, const msa_cuda_attn_call *call, int64_t n_items,
                                  msa_err *err)
{
    return call->D == 64 ? tile_launch<64, MSA_ATTN_MEMORY_ROWS / 64, true>(st, call, n_items, err)
                         : tile_launch<128, MSA_ATTN_MEMORY_ROWS / 64, true>(st, call, n_items, err);
}
