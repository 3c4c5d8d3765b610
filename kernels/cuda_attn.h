/* What the attention kernels share: the tables that describe a call to them, and the
 * tensor-core instructions of one warp.
 *
 * Query rows of a key head are flattened: flat row f of a sequence is query head
 * g * (H/G) + f % (H/G) of its row f / (H/G), so that the heads that share keys fill
 * one tile. A flat row of row p sees the keys 0 .. keys - n_rows + p of its sequence. */
#ifndef MSA_KERNELS_CUDA_ATTN_H
#define MSA_KERNELS_CUDA_ATTN_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda_internal.h"

/* One sequence: its rows of q, its parts, and the keys of all of them. */
struct msa_cuda_attn_seq {
    int64_t row, n_rows;
    int64_t part, n_parts;
    int64_t keys;
    int64_t own;               /* keys of segments, which stand before those of its cache */
    const void *own_k, *own_v; /* the cache, which is the last part; NULL in packed attention */
};

/* How a part's numbers are read: 8 of them at once where type and alignment allow. */
enum msa_cuda_attn_kind { MSA_ATTN_BF16, MSA_ATTN_I8, MSA_ATTN_ANY };

/* A run of keys: a segment, or the sequence's own cache, which comes last. */
struct msa_cuda_attn_part {
    const void *k, *v;
    const uint16_t *k_scale, *v_scale;
    int64_t stride, scale_stride;
    int32_t dtype, kind;
};

/* A tile of flat rows. `at` is the sequence's first row in packed attention, its number
 * in memory attention. */
struct msa_cuda_attn_item {
    int64_t at;
    int32_t n_rows, tile;
};

/* A call as its kernels see it. */
struct msa_cuda_attn_call {
    const void *q;
    int64_t q_stride;
    int32_t H, G, D;
    int64_t n_seqs;
    const msa_cuda_attn_seq *seqs;
    const msa_cuda_attn_part *parts;
    const int64_t *first;        /* key number of each part's first row, by part */
    const msa_cuda_attn_item *items;
    void *out;
};

/* Tiles of bf16 rows, D 64 or 128; rows of q and out are 16-byte aligned. Packed: keys and
 * values stand in q behind the query heads, and an item's `at` is a row. */
enum { MSA_ATTN_PACKED_ROWS = 128, MSA_ATTN_MEMORY_ROWS = 64 };
msa_rc msa_cuda_attn_packed_tiles(cudaStream_t st, const msa_cuda_attn_call *call, int64_t n_items,
                                  msa_err *err);
msa_rc msa_cuda_attn_memory_tiles(cudaStream_t st, const msa_cuda_attn_call *call, int64_t n_items,
                                  msa_err *err);

/* Rotation by the kernel of decoding: q of the call is qkv, its rows are one a sequence, and
 * K and V go to their caches' last rows. */
struct msa_cuda_attn_rope {
    const float *q_gamma, *k_gamma; /* 16-byte aligned, or NULL */
    float eps;
    const int64_t *pos;
    double step;                    /* msa_cuda_rope_step */
    bool early;                     /* in a recorded run: see kernels.h */
};

/* Sequences of up to max_flat flat rows; rope NULL: rotated, and in their caches. Types and
 * alignment as tiles, no more than MSA_ATTN_DECODE_SEQS sequences; with rope, caches are
 * 16-byte aligned and H/G <= MSA_ATTN_DECODE_ROWS. */
enum { MSA_ATTN_DECODE_ROWS = 8, MSA_ATTN_DECODE_SEQS = 65535 };
msa_rc msa_cuda_attn_decode(msa_cuda *c, cudaStream_t st, const msa_cuda_attn_call *call,
                            const msa_cuda_attn_rope *rope, int max_flat, msa_err *err);

#ifdef __CUDACC__

#define MSA_LOG2E 1.44269504088896340736f

/* Index of the last of n rising numbers that is <= x; first[0] <= x. */
static __device__ __forceinline__ int msa_attn_find(const int64_t *first, int n, int64_t x)
{
    int lo = 0, hi = n;
    while (hi - lo > 1) {
        const int mid = (lo + hi) >> 1;
        if (__ldg(first + mid) <= x)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

static __device__ __forceinline__ float msa_attn_f16(uint16_t h)
{
    return __half2float(__ushort_as_half(h));
}

static __device__ __forceinline__ float msa_attn_bf16(uint16_t h)
{
    return __uint_as_float((uint32_t)h << 16);
}

/* Two floats as bf16, `lo` in the lower half. */
static __device__ __forceinline__ uint32_t msa_attn_pack(float lo, float hi)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

static __device__ __forceinline__ float msa_attn_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

static __device__ __forceinline__ uint32_t msa_attn_shared(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes from memory, or zeros; complete after msa_attn_copied. */
static __device__ __forceinline__ void msa_attn_copy16(void *shared, const void *from, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(msa_attn_shared(shared)), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

static __device__ __forceinline__ void msa_attn_copied(void)
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

/* Copies so far are one group; all groups but the last are complete. */
static __device__ __forceinline__ void msa_attn_copies_end(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

static __device__ __forceinline__ void msa_attn_copied_but_last(void)
{
    asm volatile("cp.async.wait_group 1;" ::: "memory");
}

/* Four 8 x 8 matrices, their rows' shared addresses given by lanes 0-7, 8-15, 16-23, 24-31. */
static __device__ __forceinline__ void msa_attn_matrices(uint32_t r[4], uint32_t row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

static __device__ __forceinline__ void msa_attn_matrices_turned(uint32_t r[4], uint32_t row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

/* c += a b: a 16 x 16, b 16 x 8 */
static __device__ __forceinline__ void msa_attn_mma(float c[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                    uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* Four signed bytes to bf16: of byte x, 128 + (x & 127) less 128 or, when it is
 * negative, 256. */
static __device__ __forceinline__ void msa_attn_bytes(uint32_t x, uint32_t *lo, uint32_t *hi)
{
    const uint32_t pair[2] = {__byte_perm(x, 0, 0x4140), __byte_perm(x, 0, 0x4342)};
    uint32_t r[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t a = (pair[i] & 0x007f007fu) | 0x43004300u, b = (pair[i] & 0x00800080u) | 0x43004300u;
        asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(r[i]) : "r"(a), "r"(b));
    }
    *lo = r[0];
    *hi = r[1];
}

/* 8 numbers that cannot be read at once. */
static __device__ __forceinline__ uint4 msa_attn_gather8(const void *p, int32_t dtype)
{
    float f[8];
#pragma unroll
    for (int i = 0; i < 8; i++)
        f[i] = dtype == MSA_F32    ? ((const float *)p)[i]
               : dtype == MSA_BF16 ? msa_attn_bf16(((const uint16_t *)p)[i])
                                   : (float)((const int8_t *)p)[i];
    uint4 r;
    r.x = msa_attn_pack(f[0], f[1]);
    r.y = msa_attn_pack(f[2], f[3]);
    r.z = msa_attn_pack(f[4], f[5]);
    r.w = msa_attn_pack(f[6], f[7]);
    return r;
}

/* Bytes of a number; not for F16, which no part has. */
static __device__ __forceinline__ int msa_attn_size(int32_t dtype)
{
    return dtype == MSA_F32 ? 4 : dtype == MSA_BF16 ? 2 : 1;
}

/* Numbers at .. at+7 behind p as bf16. */
static __device__ __forceinline__ uint4 msa_attn_load8(const void *p, int at, int32_t kind, int32_t dtype)
{
    if (kind == MSA_ATTN_BF16) {
        uint4 x; /* the compiler may not know that this is global memory */
        asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                     : "l"((const uint16_t *)p + at));
        return x;
    }
    if (kind == MSA_ATTN_I8) {
        const uint2 x = *(const uint2 *)((const int8_t *)p + at);
        uint4 r;
        msa_attn_bytes(x.x, &r.x, &r.y);
        msa_attn_bytes(x.y, &r.z, &r.w);
        return r;
    }
    return msa_attn_gather8((const char *)p + at * msa_attn_size(dtype), dtype);
}

#endif
#endif
