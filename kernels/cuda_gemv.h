/* Products y = x W^T by own kernels, for cuda_linear.cu: W [N,K], x [M,K], dense;
 * out and mode as msa_kern_linear has them. Queued on s; a launch's error is left for
 * cudaGetLastError. */
#ifndef MSA_KERNELS_CUDA_GEMV_H
#define MSA_KERNELS_CUDA_GEMV_H

#include "kernels/cuda_internal.h"

/* bf16, W and x 16-byte aligned, for shapes that msa_cuda_few_rows takes. */
bool msa_cuda_few_rows(int64_t M, int64_t N, int64_t K);
void msa_cuda_linear_few(const void *W, const void *x, int64_t M, int64_t N, int64_t K, void *out,
                         msa_linear_mode mode, cudaStream_t s);

/* Any shape and alignment, slowly. */
void msa_cuda_linear_any(msa_dtype act, const void *W, const void *x, int64_t M, int64_t N, int64_t K,
                         void *out, msa_linear_mode mode, cudaStream_t s);

#endif
