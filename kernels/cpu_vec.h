/* Vectors of VL floats and what the templates do with them, for the instruction
 * set that the including file is compiled for. Conversions to bf16 round to
 * nearest even in integer arithmetic on every one, so that stores agree to the
 * bit. */
#ifndef MSA_KERNELS_CPU_VEC_H
#define MSA_KERNELS_CPU_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/dtype.h"

#if defined(__AVX512F__)

#include <immintrin.h>
#define VL 16
#define NV 4 /* vectors a panel */
#define MR_F32 6
typedef __m512 vf;
typedef __m512i vi;

static inline vf v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
static inline vf v_set(float x) { return _mm512_set1_ps(x); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline float v_sum(vf v) { return _mm512_reduce_add_ps(v); }
static inline float v_top(vf v) { return _mm512_reduce_max_ps(v); }
static inline vi v_near(vf v) { return _mm512_cvtps_epi32(v); }
static inline vf v_float(vi v) { return _mm512_cvtepi32_ps(v); }
static inline vf v_pow2(vi n)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
static inline vi v_wide(const uint16_t *p)
{
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
}
static inline vf v_load_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(v_wide(p), 16));
}
static inline void v_store_bf16(uint16_t *p, vf v)
{
    vi u = _mm512_castps_si512(v), top = _mm512_srli_epi32(u, 16);
    vi odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
    vi r = _mm512_srli_epi32(
        _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), top,
                             _mm512_set1_epi32(0x40));
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(r));
}
/* Pairs (a[i], b[i]) of bf16, as panels hold them. */
static inline void v_zip(const uint16_t *a, const uint16_t *b, uint16_t *out)
{
    _mm512_storeu_si512(out, _mm512_or_si512(v_wide(a), _mm512_slli_epi32(v_wide(b), 16)));
}
static inline vi v_pairs(const uint16_t *p) { return _mm512_loadu_si512(p); }
static inline vi v_pair(uint32_t pair) { return _mm512_set1_epi32((int)pair); }

#if defined(__AVX512BF16__)
#define MR_BF16 6
static inline vf v_dot(vf acc, vi a, vi b)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
}
#else
#define MR_BF16 4
static inline vf v_low(vi v) { return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)); }
static inline vf v_high(vi v)
{
    return _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000u)));
}
#endif

#elif defined(__AVX2__)

#include <immintrin.h>
#define VL 8
#define NV 2
#define MR_F32 6
#define MR_BF16 4
typedef __m256 vf;
typedef __m256i vi;

static inline vf v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
static inline vf v_set(float x) { return _mm256_set1_ps(x); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline float v_sum(vf v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline float v_top(vf v)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
static inline vi v_near(vf v) { return _mm256_cvtps_epi32(v); }
static inline vf v_float(vi v) { return _mm256_cvtepi32_ps(v); }
static inline vf v_pow2(vi n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
static inline vi v_wide(const uint16_t *p)
{
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
}
static inline vf v_load_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(v_wide(p), 16));
}
static inline void v_store_bf16(uint16_t *p, vf v)
{
    vi u = _mm256_castps_si256(v), top = _mm256_srli_epi32(u, 16);
    vi odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
    vi r = _mm256_srli_epi32(
        _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    vi quiet = _mm256_or_si256(top, _mm256_set1_epi32(0x40));
    r = _mm256_blendv_epi8(r, quiet, _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
    r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(r));
}
static inline void v_zip(const uint16_t *a, const uint16_t *b, uint16_t *out)
{
    _mm256_storeu_si256((__m256i *)out,
                        _mm256_or_si256(v_wide(a), _mm256_slli_epi32(v_wide(b), 16)));
}
static inline vi v_pairs(const uint16_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline vi v_pair(uint32_t pair) { return _mm256_set1_epi32((int)pair); }
static inline vf v_low(vi v) { return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)); }
static inline vf v_high(vi v)
{
    return _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000u)));
}

#else /* any processor: the compiler's vectors of four */

#define VL 4
#define NV 2
#define MR_F32 4
#define MR_BF16 4
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef uint32_t vu __attribute__((vector_size(16)));

static inline vf v_load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void v_store(float *p, vf v) { memcpy(p, &v, sizeof v); }
static inline vf v_set(float x) { return (vf){x, x, x, x}; }
static inline vf v_fma(vf a, vf b, vf c) { return a * b + c; }
static inline vf v_pick(vi which, vf a, vf b) { return (vf)((which & (vi)a) | (~which & (vi)b)); }
static inline vf v_max(vf a, vf b) { return v_pick(a > b, a, b); }
static inline vf v_min(vf a, vf b) { return v_pick(a < b, a, b); }
static inline float v_sum(vf v) { return (v[0] + v[2]) + (v[1] + v[3]); }
static inline float v_top(vf v) { return fmaxf(fmaxf(v[0], v[2]), fmaxf(v[1], v[3])); }
static inline vi v_near(vf v)
{
    vf half = v_pick(v < 0, v_set(-0.5f), v_set(0.5f));
    return __builtin_convertvector(v + half, vi);
}
static inline vf v_float(vi v) { return __builtin_convertvector(v, vf); }
static inline vf v_pow2(vi n) { return (vf)((n + 127) << 23); }
static inline vu v_wide(const uint16_t *p) { return (vu){p[0], p[1], p[2], p[3]}; }
static inline vf v_load_bf16(const uint16_t *p) { return (vf)(v_wide(p) << 16); }
static inline void v_store_bf16(uint16_t *p, vf v)
{
    uint16_t part[VL]; /* attention narrows floats in place: only memcpy may alias */
    for (int i = 0; i < VL; i++)
        part[i] = msa_f32_to_bf16(v[i]);
    memcpy(p, part, sizeof part);
}
static inline void v_zip(const uint16_t *a, const uint16_t *b, uint16_t *out)
{
    vu v = v_wide(a) | v_wide(b) << 16;
    memcpy(out, &v, sizeof v);
}
static inline vi v_pairs(const uint16_t *p)
{
    vi v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline vi v_pair(uint32_t pair)
{
    vu v = {pair, pair, pair, pair};
    return (vi)v;
}
static inline vf v_low(vi v) { return (vf)(v << 16); }
static inline vf v_high(vi v) { return (vf)(v & (vi)v_pair(0xffff0000u)); }

#endif

#define NR (VL * NV)

/* acc + a.even * b.even + a.odd * b.odd of bf16 pairs, where the processor has
 * no instruction for it. */
#if !defined(__AVX512BF16__)
static inline vf v_dot(vf acc, vi a, vi b)
{
    return v_fma(v_high(a), v_high(b), v_fma(v_low(a), v_low(b), acc));
}
#endif

/* ---- the same for every instruction set ---------------------------------------- */

/* VL elements of type t (F32, BF16; get_n also I8) at index i of p; get_n and
 * put_n move the first n of them and leave the others zero, or untouched. */
static inline vf v_get(const void *p, msa_dtype t, int64_t i)
{
    return t == MSA_F32 ? v_load((const float *)p + i) : v_load_bf16((const uint16_t *)p + i);
}

static inline void v_put(void *p, msa_dtype t, int64_t i, vf v)
{
    if (t == MSA_F32)
        v_store((float *)p + i, v);
    else
        v_store_bf16((uint16_t *)p + i, v);
}

static inline vf v_get_n(const void *p, msa_dtype t, int64_t i, int64_t n)
{
    if (n >= VL && t != MSA_I8)
        return v_get(p, t, i);
    float part[VL] = {0};
    for (int64_t j = 0; j < n && j < VL; j++)
        part[j] = msa_elem_get(p, t, i + j);
    return v_load(part);
}

static inline void v_put_n(void *p, msa_dtype t, int64_t i, int64_t n, vf v)
{
    if (n >= VL) {
        v_put(p, t, i, v);
        return;
    }
    float part[VL];
    v_store(part, v);
    for (int64_t j = 0; j < n; j++)
        msa_elem_set(p, t, i + j, part[j]);
}

/* e^x, relative error below 2e-7; x is clamped to [-87, 88]. Polynomial of the
 * remainder after Cephes (expf). */
static inline vf v_exp(vf x)
{
    x = v_min(v_max(x, v_set(-87.0f)), v_set(88.0f));
    vi n = v_near(x * v_set(1.44269504f));
    vf f = v_float(n);
    vf r = v_fma(f, v_set(-0.693359375f), x);
    r = v_fma(f, v_set(2.12194440e-4f), r);
    vf p = v_set(1.9875691500e-4f);
    p = v_fma(p, r, v_set(1.3981999507e-3f));
    p = v_fma(p, r, v_set(8.3334519073e-3f));
    p = v_fma(p, r, v_set(4.1665795894e-2f));
    p = v_fma(p, r, v_set(1.6666665459e-1f));
    p = v_fma(p, r, v_set(5.0000001201e-1f));
    p = v_fma(p, r * r, r + v_set(1.0f));
    return p * v_pow2(n);
}

/* Sum of squares of n elements. */
static inline float v_squares(const void *p, msa_dtype t, int64_t at, int64_t n)
{
    vf sum = v_set(0);
    for (int64_t i = 0; i < n; i += VL) {
        vf v = v_get_n(p, t, at + i, n - i);
        sum = v_fma(v, v, sum);
    }
    return v_sum(sum);
}

#endif
