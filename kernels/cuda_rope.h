/* Rotation of heads in CUDA kernels, where a head of 8 * L bf16 numbers is held by L lanes
 * of a warp, 8 numbers each. */
#ifndef MSA_KERNELS_CUDA_ROPE_H
#define MSA_KERNELS_CUDA_ROPE_H

#include <math.h>

#include "kernels/cuda_internal.h"

static inline double msa_cuda_rope_step(msa_kern_heads h, double theta)
{
    return log2(theta) / (double)(h.D / 2);
}

#ifdef __CUDACC__

/* cos and sin of position * 2^(-i*step), step = log2(theta) / (D/2). The angle is an
 * f64 number of turns, so that the fraction of a turn keeps 1e-9 at any position
 * below 2^20; what follows is f32. */
static __device__ __forceinline__ float2 msa_cuda_turn(int64_t pos, int64_t i, double step)
{
    const double turns = (double)pos * exp2(-(double)i * step) * 0.15915494309189533577;
    float2 cs;
    sincospif((float)(2 * (turns - rint(turns))), &cs.y, &cs.x);
    return cs;
}

/* Norms (norm: with the lane's 8 gammas) and rotates a head; pair 8*i + j turns by turn[j][i].
 * All lanes of the warp take part, in groups of L. */
template <int L>
static __device__ __forceinline__ void msa_cuda_rotate(float f[8], bool norm, const float4 *gamma, float eps,
                                                       const float2 (*turn)[L / 2])
{
    const int part = threadIdx.x % L;
    float other[8];
    if (norm) {
        float sum = 0, g[8];
#pragma unroll
        for (int j = 0; j < 8; j++)
            sum += f[j] * f[j];
#pragma unroll
        for (int o = L / 2; o > 0; o /= 2)
            sum += __shfl_xor_sync(~0u, sum, o);
        const float scale = 1 / sqrtf(sum / (8 * L) + eps);
        *(float4 *)g = gamma[0];
        *(float4 *)(g + 4) = gamma[1];
#pragma unroll
        for (int j = 0; j < 8; j++)
            f[j] *= scale * g[j];
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
        other[j] = __shfl_xor_sync(~0u, f[j], L / 2);
    const float sign = part < L / 2 ? -1.0f : 1.0f;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float2 cs = turn[j][part % (L / 2)];
        f[j] = f[j] * cs.x + sign * other[j] * cs.y;
    }
}

#endif
#endif
