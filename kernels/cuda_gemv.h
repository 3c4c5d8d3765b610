/* Products y = x W^T by own kernels, for cuda_linear.cu. Queued on s. */
#ifndef MSA_KERNELS_CUDA_GEMV_H
#define MSA_KERNELS_CUDA_GEMV_H

#include "kernels/cuda_elem.h"
#include "kernels/cuda_internal.h"

/* A product of few rows in bf16: W [N,K], out and mode as msa_kern_linear has them, or
 * as msa_kern_norm_linear has them: norm in front, swiglu behind. Everything 16-byte
 * aligned but out. */
typedef struct msa_cuda_few {
    const void *W, *x;    /* x [M,K] bf16, or f32 with gamma */
    int64_t M, N, K;
    void *out;
    msa_linear_mode mode;
    bool gated;           /* out [M,N/2] = swiglu, mode MSA_LINEAR_ACT */
    const float *gamma;   /* [K], or NULL: no norm. At most MSA_CUDA_GEMV_ROWS rows */
    float eps;
    void *xn;             /* [M,K] bf16: what the norm gives is left here */
} msa_cuda_few;

/* Shapes for which they are, and for which they take a norm. */
bool msa_cuda_few_rows(int64_t M, int64_t N, int64_t K);
enum { MSA_CUDA_GEMV_ROWS = 4 };
msa_rc msa_cuda_linear_few(const msa_cuda_few *f, cudaStream_t s, msa_err *err);

/* At most MSA_CUDA_GEMV_ROWS of them, or any shape and alignment, slowly: dense as
 * msa_kern_linear has it. A launch's error is left for cudaGetLastError. */
void msa_cuda_linear_gemv(const msa_cuda_few *f, cudaStream_t s);
void msa_cuda_linear_any(msa_dtype act, const void *W, const void *x, int64_t M, int64_t N, int64_t K,
                         void *out, msa_linear_mode mode, cudaStream_t s);

template <class T>
static __device__ __forceinline__ void msa_cuda_put(void *out, msa_linear_mode mode, int64_t at, float v)
{
    if (mode == MSA_LINEAR_ACT)
        ((typename T::elem *)out)[at] = T::set(v);
    else if (mode == MSA_LINEAR_F32)
        ((float *)out)[at] = v;
    else
        ((float *)out)[at] += v;
}

/* Stores number n of output row m, unless there is none: v, or, gated, gate's v with up's. */
static __device__ __forceinline__ void msa_cuda_few_put(const msa_cuda_few &f, int64_t m, int64_t n, float v,
                                                        float up)
{
    const int64_t N = f.gated ? f.N / 2 : f.N;
    if (m >= f.M || n >= N)
        return;
    if (f.gated)
        v = __fdividef(v, 1 + __expf(-v)) * up;
    msa_cuda_put<msa_cuda_bf16>(f.out, f.mode, m * N + n, v);
}

#endif
