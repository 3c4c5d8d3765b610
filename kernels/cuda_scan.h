/* The fast scan (cuda_scan_wgmma.cu): rows of bf16 or 8 bits with folded heads against
 * converted queries, on the matrix units.
 *
 * Queries stand in columns. Either every column is a question of its own, or a question
 * owns whole groups of 8 columns, its tokens in order and the last one repeated to fill
 * the group, and its score is the largest of them. */
#ifndef MSA_KERNELS_CUDA_SCAN_H
#define MSA_KERNELS_CUDA_SCAN_H

#include "kernels/cuda_internal.h"

typedef struct msa_cuda_scan_fast {
    const void *rk;        /* row c at rk + c * stride elements, bf16 or s8 */
    msa_dtype dtype;
    int64_t stride, W, C;
    const float *scale;    /* [C], 8-bit rows only */
    const void *columns;   /* [n_columns, W] of the rows' type */
    int64_t n_columns;
    const float *factor;   /* [B]: what a question's products are multiplied with */
    const int32_t *ends;   /* [n_columns / 8]: the question that ends with a group, or -1;
                              NULL: a column a question */
    float *out;            /* [B, C] */
} msa_cuda_scan_fast;

/* Alignment, sizes and shared memory allow it. */
bool msa_cuda_scan_fast_fits(const msa_cuda *c, const msa_cuda_scan_fast *a);
/* The kernel before it on the stream must be the one that writes columns, factor and
 * ends; it may still be running. */
msa_rc msa_cuda_scan_fast_run(msa_cuda *c, cudaStream_t st, const msa_cuda_scan_fast *a,
                              msa_err *err);

#endif
