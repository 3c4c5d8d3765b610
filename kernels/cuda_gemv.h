/* Products y = x W^T by own kernels, for cuda_linear.cu. Queued on s; a launch's error
 * is left for cudaGetLastError. */
#ifndef MSA_KERNELS_CUDA_GEMV_H
#define MSA_KERNELS_CUDA_GEMV_H

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
    const float *gamma;   /* [K], or NULL: no norm. Needs msa_cuda_few_norms */
    float eps;
    void *xn;             /* [M,K] bf16: what the norm gives is left here */
} msa_cuda_few;

bool msa_cuda_few_rows(int64_t M, int64_t N, int64_t K);
bool msa_cuda_few_norms(int64_t M);
void msa_cuda_linear_few(const msa_cuda_few *f, cudaStream_t s);

/* Any shape and alignment, slowly; dense as msa_kern_linear has it. */
void msa_cuda_linear_any(msa_dtype act, const void *W, const void *x, int64_t M, int64_t N, int64_t K,
                         void *out, msa_linear_mode mode, cudaStream_t s);

#endif
