/* Kernels of a decoding step follow each other every few microseconds, so what one
 * takes to start is hidden behind the one before it: a kernel that is launched with
 * msa_cuda_follow may begin as soon as all blocks of the kernel before it have called
 * msa_cuda_let_next (or ended). It may load what no kernel writes (weights) and must
 * call msa_cuda_wait_previous, in every thread, before it touches anything else: that
 * returns when the kernel before it has ended, and with it all before that. */
#ifndef MSA_KERNELS_CUDA_CHAIN_H
#define MSA_KERNELS_CUDA_CHAIN_H

#include <cuda_runtime.h>

static __device__ __forceinline__ void msa_cuda_wait_previous(void)
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

static __device__ __forceinline__ void msa_cuda_let_next(void)
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

/* A launch's error is left for cudaGetLastError. */
template <class... Want, class... Given>
static inline void msa_cuda_follow(void (*kernel)(Want...), dim3 grid, int threads, cudaStream_t s, Given... given)
{
    cudaLaunchAttribute early;
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3((unsigned)threads);
    config.stream = s;
    config.attrs = &early;
    config.numAttrs = 1;
    cudaLaunchKernelEx(&config, kernel, static_cast<Want>(given)...);
}

#endif
