/* Tensor maps: what the copy unit is told of a matrix (cuda_wgmma.h, tensor_load). */
#ifndef MSA_KERNELS_CUDA_MAP_H
#define MSA_KERNELS_CUDA_MAP_H

#include <cuda.h>

#include "kernels/cuda_internal.h"

/* A map of `rows`, n rows of W elements of a type (bf16 or int8), `stride` elements
 * apart: boxes of `box` rows (at most 256) of 128 bytes, with the 128-byte swizzle; what
 * lies outside of the matrix reads as zeros. rows and stride are multiples of 16
 * bytes. MSA_FATAL when the driver has no such maps or refuses this one. */
msa_rc msa_cuda_map_rows(CUtensorMap *map, const void *rows, msa_dtype type, int64_t stride, int64_t W,
                         int64_t n, int64_t box, msa_err *err);

#endif
