/* Attention of packed sequences: 128 flat rows, 64 a warpgroup, over blocks of 64 keys
 * with warpgroup products. Two blocks of threads share a multiprocessor, so that one's
 * products run beside the other's softmax. */
#include <math.h>

#include "kernels/cuda_attn.h"

enum { PACKED_THREADS = 256, PACKED_KEYS = 64, PANEL = 64 /* columns, 128 bytes a row */ };

/* Matrices lie in panels of 64 columns; within a row of a panel, groups of 8 numbers
 * change places with the row, as the 128-byte swizzle of the products has it. */
template <int D> struct packed_shared {
    uint4 q[D / PANEL][MSA_ATTN_PACKED_ROWS][8];
    uint4 kv[2][2][D / PANEL][PACKED_KEYS][8]; /* [stage][k, v] */
};

/* A product's operand: rows of 128 bytes, 8 rows in 1,024 bytes, panels `next` bytes apart. */
static __device__ __forceinline__ uint64_t operand(const void *p, int next)
{
    return (uint64_t)(msa_attn_shared(p) >> 4 & 0x3fff) | (uint64_t)(next >> 4) << 16 |
           (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

/* s (+)= a b', 64 rows by 64 keys, 16 columns of each; without `add` s is set. */
static __device__ __forceinline__ void wgmma_scores(float *s, uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
                 " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29,"
                 " %30, %31}, "
                 "%32, %33, p, 1, 1, 0, 0;\n}"
                 : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3]), "+f"(s[4]),
                   "+f"(s[5]), "+f"(s[6]), "+f"(s[7]), "+f"(s[8]), "+f"(s[9]),
                   "+f"(s[10]), "+f"(s[11]), "+f"(s[12]), "+f"(s[13]), "+f"(s[14]),
                   "+f"(s[15]), "+f"(s[16]), "+f"(s[17]), "+f"(s[18]), "+f"(s[19]),
                   "+f"(s[20]), "+f"(s[21]), "+f"(s[22]), "+f"(s[23]), "+f"(s[24]),
                   "+f"(s[25]), "+f"(s[26]), "+f"(s[27]), "+f"(s[28]), "+f"(s[29]),
                   "+f"(s[30]), "+f"(s[31])
                 : "l"(a), "l"(b), "r"(add)
                 : "memory");
}

/* acc += p v, 64 rows by D columns, 16 keys; p in registers. */
static __device__ __forceinline__ void wgmma_values_64(float *acc, const uint32_t *p, uint64_t v)
{
    asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
                 " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29,"
                 " %30, %31}, "
                 "{%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
                 : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3]),
                   "+f"(acc[4]), "+f"(acc[5]), "+f"(acc[6]), "+f"(acc[7]),
                   "+f"(acc[8]), "+f"(acc[9]), "+f"(acc[10]), "+f"(acc[11]),
                   "+f"(acc[12]), "+f"(acc[13]), "+f"(acc[14]), "+f"(acc[15]),
                   "+f"(acc[16]), "+f"(acc[17]), "+f"(acc[18]), "+f"(acc[19]),
                   "+f"(acc[20]), "+f"(acc[21]), "+f"(acc[22]), "+f"(acc[23]),
                   "+f"(acc[24]), "+f"(acc[25]), "+f"(acc[26]), "+f"(acc[27]),
                   "+f"(acc[28]), "+f"(acc[29]), "+f"(acc[30]), "+f"(acc[31])
                 : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v)
                 : "memory");
}

static __device__ __forceinline__ void wgmma_values_128(float *acc, const uint32_t *p, uint64_t v)
{
    asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
                 " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29,"
                 " %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43,"
                 " %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57,"
                 " %58, %59, %60, %61, %62, %63}, "
                 "{%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
                 : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3]),
                   "+f"(acc[4]), "+f"(acc[5]), "+f"(acc[6]), "+f"(acc[7]),
                   "+f"(acc[8]), "+f"(acc[9]), "+f"(acc[10]), "+f"(acc[11]),
                   "+f"(acc[12]), "+f"(acc[13]), "+f"(acc[14]), "+f"(acc[15]),
                   "+f"(acc[16]), "+f"(acc[17]), "+f"(acc[18]), "+f"(acc[19]),
                   "+f"(acc[20]), "+f"(acc[21]), "+f"(acc[22]), "+f"(acc[23]),
                   "+f"(acc[24]), "+f"(acc[25]), "+f"(acc[26]), "+f"(acc[27]),
                   "+f"(acc[28]), "+f"(acc[29]), "+f"(acc[30]), "+f"(acc[31]),
                   "+f"(acc[32]), "+f"(acc[33]), "+f"(acc[34]), "+f"(acc[35]),
                   "+f"(acc[36]), "+f"(acc[37]), "+f"(acc[38]), "+f"(acc[39]),
                   "+f"(acc[40]), "+f"(acc[41]), "+f"(acc[42]), "+f"(acc[43]),
                   "+f"(acc[44]), "+f"(acc[45]), "+f"(acc[46]), "+f"(acc[47]),
                   "+f"(acc[48]), "+f"(acc[49]), "+f"(acc[50]), "+f"(acc[51]),
                   "+f"(acc[52]), "+f"(acc[53]), "+f"(acc[54]), "+f"(acc[55]),
                   "+f"(acc[56]), "+f"(acc[57]), "+f"(acc[58]), "+f"(acc[59]),
                   "+f"(acc[60]), "+f"(acc[61]), "+f"(acc[62]), "+f"(acc[63])
                 : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v)
                 : "memory");
}

template <int D>
static __device__ __forceinline__ void wgmma_values(float *acc, const uint32_t *p, uint64_t v)
{
    if (D == 64)
        wgmma_values_64(acc, p, v);
    else
        wgmma_values_128(acc, p, v);
}

/* Before the first product and after registers that products use have been written. */
static __device__ __forceinline__ void wgmma_begin(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/* Waits for the products; x, which they wrote, may be read behind this. */
template <int N> static __device__ __forceinline__ void wgmma_end(float *x)
{
    asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(x[i])::"memory");
}

/* What this thread wrote to shared memory is seen by products after the next barrier. */
static __device__ __forceinline__ void publish(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Keys block*64 .. into a stage: row r of k at k + r * stride. */
template <int D>
static __device__ __forceinline__ void load_keys(const uint16_t *k, const uint16_t *v, int64_t stride,
                                                 int block, int n_keys, packed_shared<D> *sh)
{
    const int group = threadIdx.x % (D / 8), row0 = threadIdx.x / (D / 8), step = PACKED_THREADS / (D / 8);
#pragma unroll
    for (int i = 0; i < PACKED_KEYS / step; i++) {
        const int row = row0 + i * step, key = block * PACKED_KEYS + row, at = (group ^ row) & 7;
        const bool valid = key < n_keys;
        const int64_t from = (valid ? key : 0) * stride + group * 8;
        msa_attn_copy16(&sh->kv[block & 1][0][group / 8][row][at], k + from, valid);
        msa_attn_copy16(&sh->kv[block & 1][1][group / 8][row][at], v + from, valid);
    }
}

template <int D>
static __global__ void __launch_bounds__(PACKED_THREADS, 2) packed_kernel(msa_cuda_attn_call c, float scale)
{
    extern __shared__ __align__(1024) char dynamic[];
    packed_shared<D> *sh = (packed_shared<D> *)dynamic;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = c.H / c.G;
    const int g = (int)(blockIdx.x % c.G);
    const msa_cuda_attn_item item = c.items[blockIdx.x / c.G];
    const int n_flat = item.n_rows * group, tile_row = item.tile * MSA_ATTN_PACKED_ROWS;
    const int n_keys = min(tile_row + MSA_ATTN_PACKED_ROWS - 1, n_flat - 1) / group + 1;
    const int n_blocks = (n_keys + PACKED_KEYS - 1) / PACKED_KEYS;
    const uint16_t *own = (const uint16_t *)c.q + item.at * c.q_stride;
    const uint16_t *own_k = own + ((int64_t)c.H + g) * D, *own_v = own_k + (int64_t)c.G * D;

    for (int e = threadIdx.x; e < MSA_ATTN_PACKED_ROWS * (D / 8); e += PACKED_THREADS) {
        const int row = e / (D / 8), col = e % (D / 8), f = min(tile_row + row, n_flat - 1);
        msa_attn_copy16(&sh->q[col / 8][row][(col ^ row) & 7],
                        own + f / group * c.q_stride + ((int64_t)g * group + f % group) * D + col * 8, true);
    }
    load_keys<D>(own_k, own_v, c.q_stride, 0, n_keys, sh);

    /* of row lane/4 + 8 h of the warp */
    int limit[2];
    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, acc[D / 2];
#pragma unroll
    for (int h = 0; h < 2; h++)
        limit[h] = min(tile_row + warp * 16 + lane / 4 + 8 * h, n_flat - 1) / group;
    const int all_seen = min(tile_row + warp * 16, n_flat - 1) / group; /* by every row of the warp */
#pragma unroll
    for (int j = 0; j < D / 2; j++)
        acc[j] = 0;

    for (int block = 0; block < n_blocks; block++) {
        msa_attn_copied();
        publish();
        __syncthreads(); /* this stage is there, and nobody reads the other any more */
        if (block + 1 < n_blocks)
            load_keys<D>(own_k, own_v, c.q_stride, block + 1, n_keys, sh);

        /* s[4 j + 2 h + e]: row lane/4 + 8 h, key 8 j + 2 (lane%4) + e */
        float s[PACKED_KEYS / 2];
        wgmma_begin();
#pragma unroll
        for (int i = 0; i < D / 16; i++)
            wgmma_scores(s, operand(&sh->q[i / 4][warp / 4 * 64], 16) + i % 4 * 2,
                         operand(sh->kv[block & 1][0][i / 4], 16) + i % 4 * 2, i > 0);
        wgmma_end<PACKED_KEYS / 2>(s);

        if (block * PACKED_KEYS + PACKED_KEYS - 1 > all_seen) {
            const int key0 = block * PACKED_KEYS + lane % 4 * 2;
#pragma unroll
            for (int i = 0; i < PACKED_KEYS / 2; i++)
                if (key0 + i / 4 * 8 + (i & 1) > limit[i >> 1 & 1])
                    s[i] = -INFINITY;
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float now = top[h];
#pragma unroll
            for (int j = 0; j < PACKED_KEYS / 8; j++)
                now = fmaxf(now, fmaxf(s[4 * j + 2 * h], s[4 * j + 2 * h + 1]));
            now = fmaxf(now, __shfl_xor_sync(~0u, now, 1));
            now = fmaxf(now, __shfl_xor_sync(~0u, now, 2)); /* finite: every row sees key 0 */
            const float shrink = msa_attn_exp2((top[h] - now) * scale), less = now * scale;
            top[h] = now;
            float total = 0;
#pragma unroll
            for (int j = 0; j < PACKED_KEYS / 8; j++)
#pragma unroll
                for (int e = 4 * j + 2 * h; e < 4 * j + 2 * h + 2; e++) {
                    s[e] = msa_attn_exp2(fmaf(s[e], scale, -less));
                    total += s[e];
                }
            sum[h] = sum[h] * shrink + total;
#pragma unroll
            for (int j = 0; j < D / 8; j++) {
                acc[4 * j + 2 * h] *= shrink;
                acc[4 * j + 2 * h + 1] *= shrink;
            }
        }
        uint32_t p[PACKED_KEYS / 4];
#pragma unroll
        for (int i = 0; i < PACKED_KEYS / 4; i++)
            p[i] = msa_attn_pack(s[2 * i], s[2 * i + 1]);

        wgmma_begin();
#pragma unroll
        for (int i = 0; i < PACKED_KEYS / 16; i++)
            wgmma_values<D>(acc, p + 4 * i,
                            operand(sh->kv[block & 1][1][0][16 * i], sizeof sh->kv[0][0][0]));
        wgmma_end<D / 2>(acc);
    }

    /* a warp's rows of q take its results once no product reads them */
    __syncthreads();
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float total = sum[h];
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        const float inverse = 1 / total;
        const int row = warp * 16 + lane / 4 + 8 * h;
#pragma unroll
        for (int j = 0; j < D / 8; j++)
            ((uint32_t *)&sh->q[j / 8][row][(j ^ row) & 7])[lane % 4] =
                msa_attn_pack(acc[4 * j + 2 * h] * inverse, acc[4 * j + 2 * h + 1] * inverse);
    }
    __syncwarp();
    for (int e = lane; e < 16 * (D / 8); e += 32) {
        const int row = warp * 16 + e / (D / 8), col = e % (D / 8), f = tile_row + row;
        if (f < n_flat)
            *((uint4 *)c.out + ((item.at + f / group) * c.H + (int64_t)g * group + f % group) * (D / 8) +
              col) = sh->q[col / 8][row][(col ^ row) & 7];
    }
}

template <int D>
static msa_rc packed_launch(cudaStream_t st, const msa_cuda_attn_call *call, int64_t n_items, msa_err *err)
{
    const int bytes = (int)sizeof(packed_shared<D>);
    if (n_items > INT32_MAX / call->G)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "attention: more rows than a grid holds");
    MSA_CUDA_TRY(cudaFuncSetAttribute(packed_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    packed_kernel<D><<<(unsigned)(n_items * call->G), PACKED_THREADS, (size_t)bytes, st>>>(
        *call, (float)(MSA_LOG2E / sqrt((double)D)));
    MSA_CUDA_LAUNCHED("attention");
}

msa_rc msa_cuda_attn_packed_tiles(cudaStream_t st, const msa_cuda_attn_call *call, int64_t n_items,
                                  msa_err *err)
{
    return call->D == 64 ? packed_launch<64>(st, call, n_items, err)
                         : packed_launch<128>(st, call, n_items, err);
}
