/* Hopper's matrix and copy units, one thin function an instruction: mbarriers, bulk
 * tensor copies, warpgroup products with both operands in shared memory.
 *
 * Operands are slabs of rows of 128 bytes, as a tensor copy with the 128-byte swizzle
 * writes them: 64 bf16 or 128 s8 elements along K. A slab starts at a multiple of
 * 1,024 bytes; a product takes 32 bytes of K, so step i of a slab adds 2 * i to the
 * descriptor of step 0. */
#ifndef MSA_KERNELS_CUDA_WGMMA_H
#define MSA_KERNELS_CUDA_WGMMA_H

#include <cuda.h>
#include <stdint.h>

static __device__ __forceinline__ uint32_t shared_at(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- barriers in shared memory ---------------------------------------------------- */

static __device__ __forceinline__ void barrier_init(uint64_t *bar, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_at(bar)), "r"(arrivals));
}

/* Makes initialised barriers known to the copy unit. */
static __device__ __forceinline__ void barrier_init_done(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Orders a thread's reads of shared memory before what the copy unit, or another block of
 * the cluster, writes there once it is told that the place is free. An arrival alone does not:
 * the copy unit has a path of its own to shared memory. */
static __device__ __forceinline__ void copies_after_reads(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint64_t *bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_at(bar)) : "memory");
}

/* At the same barrier of a block of the cluster. */
static __device__ __forceinline__ void barrier_arrive_at(uint64_t *bar, uint32_t block)
{
    asm volatile("{\n\t.reg .b32 there;\n\t"
                 "mapa.shared::cluster.u32 there, %0, %1;\n\t"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n\t}" ::"r"(shared_at(bar)),
                 "r"(block)
                 : "memory");
}

/* One arrival, and `bytes` that copies have still to bring. */
static __device__ __forceinline__ void barrier_expect(uint64_t *bar, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_at(bar)),
                 "r"(bytes)
                 : "memory");
}

/* Waits until the phase of this parity is over. */
static __device__ __forceinline__ void barrier_wait(uint64_t *bar, uint32_t parity)
{
    uint32_t over;
    do
        asm volatile("{\n\t.reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(over)
                     : "r"(shared_at(bar)), "r"(parity)
                     : "memory");
    while (!over);
}

/* 16 bytes to the same place in a block of the cluster; they count at the same barrier
 * there. */
static __device__ __forceinline__ void send_beside(void *to, float4 v, uint64_t *bar, uint32_t block)
{
    asm volatile("{\n\t.reg .b32 there, counts;\n\t"
                 "mapa.shared::cluster.u32 there, %0, %2;\n\t"
                 "mapa.shared::cluster.u32 counts, %1, %2;\n\t"
                 "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [there], {%3, %4, %5, %6}, "
                 "[counts];\n\t}" ::"r"(shared_at(to)),
                 "r"(shared_at(bar)), "r"(block), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
                 : "memory");
}

static __device__ __forceinline__ uint32_t cluster_rank(void)
{
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* All threads of all blocks of the cluster. */
static __device__ __forceinline__ void cluster_sync(void)
{
    asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

/* The same in two halves, for what needs no order of memory but that of initialised
 * barriers and of blocks that end. */
static __device__ __forceinline__ void cluster_arrive(void)
{
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
}

static __device__ __forceinline__ void cluster_wait(void)
{
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

/* True for one lane of a warp that is together. What the copy unit is told by that lane
 * alone needs no loop over lanes. */
static __device__ __forceinline__ bool one_lane(void)
{
    uint32_t chosen;
    asm volatile("{\n\t.reg .pred p;\n\t"
                 "elect.sync _|p, 0xffffffff;\n\t"
                 "selp.u32 %0, 1, 0, p;\n\t}"
                 : "=r"(chosen));
    return chosen;
}

/* ---- the copy unit ------------------------------------------------------------------ */

#define MSA_L2_POLICY(name)                                                              \
    static __device__ __forceinline__ uint64_t l2_##name(void)                            \
    {                                                                                     \
        uint64_t policy;                                                                  \
        asm volatile("createpolicy.fractional.L2::" #name ".b64 %0, 1.0;" : "=l"(policy)); \
        return policy;                                                                    \
    }
MSA_L2_POLICY(evict_first)
MSA_L2_POLICY(evict_normal)
MSA_L2_POLICY(evict_last)

static __device__ __forceinline__ void tensor_prefetch(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* `bytes` that follow each other, a multiple of 16 as both addresses are. */
static __device__ __forceinline__ void bulk_load(void *dst, const void *src, uint32_t bytes, uint64_t *bar,
                                                 uint64_t policy)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1], %2, [%3], %4;" ::"r"(shared_at(dst)),
                 "l"(src), "r"(bytes), "r"(shared_at(bar)), "l"(policy)
                 : "memory");
}

/* The map's box at column x, row y; elements outside of the matrix become zeros, and
 * the whole box counts towards the barrier's bytes. */
static __device__ __forceinline__ void tensor_load(void *dst, const CUtensorMap *map, int32_t x,
                                                   int32_t y, uint64_t *bar, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_at(dst)),
                 "l"(map), "r"(shared_at(bar)), "r"(x), "r"(y), "l"(policy)
                 : "memory");
}

/* The same into every block of the cluster that has a bit in `blocks`, at the same place
 * and counting at the same barrier of each. */
static __device__ __forceinline__ void tensor_load_all(void *dst, const CUtensorMap *map, int32_t x,
                                                       int32_t y, uint64_t *bar, uint16_t blocks,
                                                       uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5, %6;" ::"r"(
                     shared_at(dst)),
                 "l"(map), "r"(shared_at(bar)), "r"(x), "r"(y), "h"(blocks), "l"(policy)
                 : "memory");
}

/* ---- kernels that follow one another without a gap ------------------------------------ */

/* The next kernel of the stream may be set up while this one works. */
static __device__ __forceinline__ void next_may_start(void)
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

/* Waits until the kernel before has ended and its writes can be read. */
static __device__ __forceinline__ void previous_wait(void)
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

/* ---- registers of a warpgroup ----------------------------------------------------------- */

template <int N> static __device__ __forceinline__ void registers_take(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> static __device__ __forceinline__ void registers_give(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

/* ---- products of a warpgroup -------------------------------------------------------------- */

/* A slab's descriptor: address in units of 16 bytes, 1,024 bytes from one group of 8
 * rows to the next, 128-byte swizzle (the leading stride has no meaning then). */
static __device__ __forceinline__ uint64_t slab_descriptor(uint32_t at)
{
    return (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

static __device__ __forceinline__ void wgmma_begin(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most N committed groups are unfinished. */
template <int N> static __device__ __forceinline__ void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* Keeps the compiler from reading accumulators before a wait that stands above. */
template <int N> static __device__ __forceinline__ void wgmma_keep(float (&d)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

template <int N> static __device__ __forceinline__ void wgmma_keep(int32_t (&d)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+r"(d[i])::"memory");
}

#define MSA_R8(c, d, i)                                                                    \
    c((d)[i]), c((d)[(i) + 1]), c((d)[(i) + 2]), c((d)[(i) + 3]), c((d)[(i) + 4]),          \
        c((d)[(i) + 5]), c((d)[(i) + 6]), c((d)[(i) + 7])
#define MSA_R32(c, d, i) \
    MSA_R8(c, d, i), MSA_R8(c, d, (i) + 8), MSA_R8(c, d, (i) + 16), MSA_R8(c, d, (i) + 24)
#define MSA_N32                                                                        \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                           \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define MSA_N64                                                                        \
    MSA_N32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"        \
            "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define MSA_N96                                                                        \
    MSA_N64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"        \
            "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define MSA_N128                                                                       \
    MSA_N96 ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,"      \
            "%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,"   \
            "%124,%125,%126,%127"

/* d [64, N] += A [64, K] B [N, K]^T, or = when add is 0; K is 16 bf16 or 32 s8 elements.
 * Thread t of the warpgroup holds rows 16 * (t / 32) + t % 32 / 4 (+ 8) and columns
 * 8 * j + 2 * (t % 4) (+ 1): d[4 j], d[4 j + 1] of the first row, d[4 j + 2],
 * d[4 j + 3] of the second. */
#define MSA_WGMMA(type, letter, n, regs, names, values, a_at, b_at, p_at, kind, tail)       \
    static __device__ __forceinline__ void wgmma(type(&d)[regs], uint64_t a, uint64_t b,    \
                                                 int32_t add)                               \
    {                                                                                       \
        asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %" p_at ", 0;\n\t"               \
                     "wgmma.mma_async.sync.aligned.m64n" n kind " {" names "}, %" a_at      \
                     ", %" b_at ", p" tail ";\n\t}"                                         \
                     : values(letter, d)                                                    \
                     : "l"(a), "l"(b), "r"(add));                                           \
    }
#define MSA_V32(c, d) MSA_R32(c, d, 0)
#define MSA_V64(c, d) MSA_V32(c, d), MSA_R32(c, d, 32)
#define MSA_V96(c, d) MSA_V64(c, d), MSA_R32(c, d, 64)
#define MSA_V128(c, d) MSA_V96(c, d), MSA_R32(c, d, 96)
#define MSA_BF16_KIND "k16.f32.bf16.bf16"
#define MSA_S8_KIND "k32.s32.s8.s8"
MSA_WGMMA(float, "+f", "64", 32, MSA_N32, MSA_V32, "32", "33", "34", MSA_BF16_KIND, ", 1, 1, 0, 0")
MSA_WGMMA(float, "+f", "128", 64, MSA_N64, MSA_V64, "64", "65", "66", MSA_BF16_KIND, ", 1, 1, 0, 0")
MSA_WGMMA(float, "+f", "192", 96, MSA_N96, MSA_V96, "96", "97", "98", MSA_BF16_KIND, ", 1, 1, 0, 0")
MSA_WGMMA(float, "+f", "256", 128, MSA_N128, MSA_V128, "128", "129", "130", MSA_BF16_KIND,
          ", 1, 1, 0, 0")
MSA_WGMMA(int32_t, "+r", "64", 32, MSA_N32, MSA_V32, "32", "33", "34", MSA_S8_KIND, "")
MSA_WGMMA(int32_t, "+r", "128", 64, MSA_N64, MSA_V64, "64", "65", "66", MSA_S8_KIND, "")
MSA_WGMMA(int32_t, "+r", "192", 96, MSA_N96, MSA_V96, "96", "97", "98", MSA_S8_KIND, "")
MSA_WGMMA(int32_t, "+r", "256", 128, MSA_N128, MSA_V128, "128", "129", "130", MSA_S8_KIND, "")

#endif
