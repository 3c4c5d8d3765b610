/* Elements of tensors in CUDA kernels: one at a time, or 16 bytes at once. A kernel
 * template takes msa_cuda_f32 or msa_cuda_bf16. */
#ifndef MSA_KERNELS_CUDA_ELEM_H
#define MSA_KERNELS_CUDA_ELEM_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

struct msa_cuda_f32 {
    typedef float elem;
    enum { PIECE = 4 }; /* elements of 16 bytes */
    static __device__ __forceinline__ float get(float v) { return v; }
    static __device__ __forceinline__ float set(float v) { return v; }
    static __device__ __forceinline__ void unpack(uint4 v, float f[PIECE])
    {
        f[0] = __uint_as_float(v.x), f[1] = __uint_as_float(v.y);
        f[2] = __uint_as_float(v.z), f[3] = __uint_as_float(v.w);
    }
    static __device__ __forceinline__ uint4 pack(const float f[PIECE])
    {
        return make_uint4(__float_as_uint(f[0]), __float_as_uint(f[1]), __float_as_uint(f[2]),
                          __float_as_uint(f[3]));
    }
};

struct msa_cuda_bf16 {
    typedef __nv_bfloat16 elem;
    enum { PIECE = 8 };
    static __device__ __forceinline__ float get(__nv_bfloat16 v) { return __bfloat162float(v); }
    static __device__ __forceinline__ __nv_bfloat16 set(float v) { return __float2bfloat16_rn(v); }
    static __device__ __forceinline__ uint32_t pack2(float low, float high)
    {
        __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
        return *(uint32_t *)&v;
    }
    static __device__ __forceinline__ void unpack(uint4 v, float f[PIECE])
    {
        const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            f[2 * i] = __uint_as_float(w[i] << 16);
            f[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
        }
    }
    static __device__ __forceinline__ uint4 pack(const float f[PIECE])
    {
        return make_uint4(pack2(f[0], f[1]), pack2(f[2], f[3]), pack2(f[4], f[5]), pack2(f[6], f[7]));
    }
};

/* c [16, 8] += a [16, 16] b [16, 8] of a warp. Lane l holds c of row l / 4 (c[2], c[3]: + 8),
 * columns 2 (l % 4) (+ 1); a of those rows and b of column l / 4 at places 2 (l % 4) (+ 1) and,
 * in a2, a3 and b1, 8 further on: which 16 numbers those are is free, if it is the same in both. */
static __device__ __forceinline__ void msa_cuda_mma(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                                    uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

static inline bool msa_cuda_aligned(const void *p) { return (uintptr_t)p % 16 == 0; }

#endif
