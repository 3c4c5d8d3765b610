#include "kernels/cuda_map.h"

#include <cudaTypedefs.h>

enum { BOX_BYTES = 128 };

msa_rc msa_cuda_map_rows(CUtensorMap *map, const void *rows, msa_dtype type, int64_t stride, int64_t W,
                         int64_t n, int64_t box, msa_err *err)
{
    static PFN_cuTensorMapEncodeTiled_v12000 known;
    PFN_cuTensorMapEncodeTiled_v12000 encode = __atomic_load_n(&known, __ATOMIC_ACQUIRE);
    if (!encode) {
        void *f = NULL;
        cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
        MSA_CUDA_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000,
                                                      cudaEnableDefault, &found));
        if (found != cudaDriverEntryPointSuccess || !f)
            return msa_err_set(err, MSA_FATAL, MSA_E_UNAVAILABLE,
                               "the CUDA driver has no tensor maps");
        encode = (PFN_cuTensorMapEncodeTiled_v12000)f;
        __atomic_store_n(&known, encode, __ATOMIC_RELEASE);
    }
    const int64_t size = msa_dtype_bytes(type);
    const cuuint64_t dims[2] = {(cuuint64_t)W, (cuuint64_t)n};
    const cuuint64_t pitch[1] = {(cuuint64_t)(stride * size)};
    const cuuint32_t boxes[2] = {(cuuint32_t)(BOX_BYTES / size), (cuuint32_t)box};
    const cuuint32_t steps[2] = {1, 1};
    CUresult rc = encode(map, type == MSA_I8 ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                                             : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                         2, (void *)rows, dims, pitch, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                         CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                         CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (rc != CUDA_SUCCESS)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "a tensor map was refused (%d)", (int)rc);
    return MSA_OK;
}
