/* float16 as the kernels use it. */
#ifndef MSA_TESTS_EMU_CUDA_FP16_H
#define MSA_TESTS_EMU_CUDA_FP16_H

#include "cuda_runtime.h"

struct __half {
    _Float16 v;
    operator float() const { return (float)v; }
};
static inline float __half2float(__half h) { return (float)h.v; }
static inline __half __float2half_rn(float x) { return {(_Float16)x}; }
static inline __half __ushort_as_half(unsigned short bits) { return {__builtin_bit_cast(_Float16, bits)}; }

#endif
