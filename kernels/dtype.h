/* Element types: how bfloat16 and half-precision numbers become floats and
 * back. Rounding is to nearest, ties to even; a NaN stays a (quiet) NaN. */
#ifndef MSA_KERNELS_DTYPE_H
#define MSA_KERNELS_DTYPE_H

#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

static inline float msa_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint16_t msa_f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

static inline float msa_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, mag = h & 0x7fffu, u;
    float f;
    if (mag >= 0x7c00u)
        u = 0x7f800000u | (mag & 0x3ffu) << 13;
    else if (mag >= 0x400u)
        u = (mag << 13) + (112u << 23);
    else { /* subnormal: mag * 2^-24 is exact in f32 */
        f = (float)mag * 0x1p-24f;
        memcpy(&u, &f, sizeof u);
    }
    u |= sign;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Overflows to infinity, keeps subnormals. */
static inline uint16_t msa_f32_to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    const uint16_t sign = (uint16_t)(u >> 16 & 0x8000u);
    u &= 0x7fffffffu;
    if (u >= 0x47800000u) /* 65536 and more, infinity, NaN */
        return sign | (u > 0x7f800000u ? 0x7e00u : 0x7c00u);
    if (u < 0x38800000u) { /* below 2^-14: the sum's last bits hold the rounded number */
        float mag;
        memcpy(&mag, &u, sizeof mag);
        mag += 0.5f;
        memcpy(&u, &mag, sizeof u);
        return sign | (uint16_t)(u - 0x3f000000u);
    }
    u += 0xfffu + (u >> 13 & 1u);
    return sign | (uint16_t)((u >> 13) - (112u << 10));
}

/* Element i of an array of type t; of I8 the bare number. */
static inline float msa_elem_get(const void *p, msa_dtype t, int64_t i)
{
    if (t == MSA_F32)
        return ((const float *)p)[i];
    if (t == MSA_I8)
        return ((const int8_t *)p)[i];
    uint16_t h = ((const uint16_t *)p)[i];
    return t == MSA_BF16 ? msa_bf16_to_f32(h) : msa_f16_to_f32(h);
}

/* t: F32 or BF16. */
static inline void msa_elem_set(void *p, msa_dtype t, int64_t i, float v)
{
    if (t == MSA_F32)
        ((float *)p)[i] = v;
    else
        ((uint16_t *)p)[i] = msa_f32_to_bf16(v);
}

/* Address of element i. */
static inline const void *msa_elem_at(const void *p, msa_dtype t, int64_t i)
{
    return (const char *)p + i * msa_dtype_bytes(t);
}

#endif
