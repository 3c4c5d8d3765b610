/* What the kernels use of the CUDA runtime: what runs in threads is inline and calls
 * emu.h, what the host calls is in emu_host.cpp. Numbers of enumerators are our own. */
#ifndef MSA_TESTS_EMU_CUDA_RUNTIME_H
#define MSA_TESTS_EMU_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/emu/emu.h"

/* ---- types ----------------------------------------------------------------------------- */

#define MSA_EMU_VECTOR2(type, name)                               \
    struct alignas(8) name {                                      \
        type x, y;                                                \
    };                                                            \
    static inline name make_##name(type x, type y) { return {x, y}; }
#define MSA_EMU_VECTOR4(type, name)                                                  \
    struct alignas(16) name {                                                        \
        type x, y, z, w;                                                             \
    };                                                                               \
    static inline name make_##name(type x, type y, type z, type w) { return {x, y, z, w}; }
MSA_EMU_VECTOR2(float, float2)
MSA_EMU_VECTOR2(unsigned, uint2)
MSA_EMU_VECTOR4(float, float4)
MSA_EMU_VECTOR4(unsigned, uint4)

/* ---- in threads -------------------------------------------------------------------------- */

#define MSA_EMU_MINMAX(type)                                                \
    static inline type min(type a, type b) { return a < b ? a : b; }        \
    static inline type max(type a, type b) { return a > b ? a : b; }
MSA_EMU_MINMAX(int)
MSA_EMU_MINMAX(unsigned)
MSA_EMU_MINMAX(long)
MSA_EMU_MINMAX(unsigned long)
MSA_EMU_MINMAX(long long)
MSA_EMU_MINMAX(unsigned long long)

static inline uint32_t __float_as_uint(float x) { return __builtin_bit_cast(uint32_t, x); }
static inline float __uint_as_float(uint32_t x) { return __builtin_bit_cast(float, x); }
static inline int __popc(uint32_t x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fdividef(float a, float b) { return a / b; }
static inline unsigned long long __double2ull_rn(double x) { return (unsigned long long)rint(x); }
#define __expf(x) expf(x)
static inline void sincospif(float x, float *s, float *c)
{
    *s = (float)sin(M_PI * (double)x);
    *c = (float)cos(M_PI * (double)x);
}
template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T __ldcg(const T *p) { return *p; }

static inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector)
{
    const uint64_t all = (uint64_t)y << 32 | x;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) {
        const uint32_t s = selector >> (4 * i) & 15, byte = (uint32_t)(all >> (8 * (s & 7))) & 255;
        r |= (s & 8 ? byte & 128 ? 255u : 0u : byte) << (8 * i);
    }
    return r;
}

static inline void __syncthreads(int line = __builtin_LINE())
{
    const dim3 d = blockDim;
    msa_emu_sync(0, d.x * d.y * d.z, line);
}
static inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE())
{
    msa_emu_meet(mask, &mask, 0, "syncwarp", line);
}

/* Lane `from` of what all gave. */
template <class T> static inline T msa_emu_slot(const msa_emu_slots &slots, unsigned from)
{
    T x;
    __builtin_memcpy(&x, slots[from & 31], sizeof x);
    return x;
}
template <class T> static inline T __shfl_sync(unsigned mask, T x, int from, int line = __builtin_LINE())
{
    return msa_emu_slot<T>(msa_emu_meet(mask, &x, sizeof x, "shfl", line), (unsigned)from);
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T x, int with, int line = __builtin_LINE())
{
    const msa_emu_slots &all = msa_emu_meet(mask, &x, sizeof x, "shfl_xor", line);
    return msa_emu_slot<T>(all, msa_emu_self->lane ^ (unsigned)with);
}
static inline unsigned __ballot_sync(unsigned mask, int yes, int line = __builtin_LINE())
{
    const msa_emu_slots &all = msa_emu_meet(mask, &yes, sizeof yes, "ballot", line);
    unsigned set = 0;
    for (unsigned i = 0; i < 32; i++)
        set |= (unsigned)(msa_emu_slot<int>(all, i) != 0) << i;
    return set;
}
static inline int __all_sync(unsigned mask, int yes, int line = __builtin_LINE())
{
    return __ballot_sync(mask, yes, line) == ~0u;
}
static inline unsigned __reduce_add_sync(unsigned mask, unsigned x, int line = __builtin_LINE())
{
    const msa_emu_slots &all = msa_emu_meet(mask, &x, sizeof x, "reduce_add", line);
    unsigned sum = 0;
    for (unsigned i = 0; i < 32; i++)
        sum += msa_emu_slot<unsigned>(all, i);
    return sum;
}
static inline unsigned __reduce_max_sync(unsigned mask, unsigned x, int line = __builtin_LINE())
{
    const msa_emu_slots &all = msa_emu_meet(mask, &x, sizeof x, "reduce_max", line);
    unsigned top = 0;
    for (unsigned i = 0; i < 32; i++)
        top = max(top, msa_emu_slot<unsigned>(all, i));
    return top;
}

/* Only one thread runs at a time. */
template <class T> static inline T atomicAdd(T *at, T x)
{
    const T was = *at;
    *at += x;
    return was;
}
template <class T> static inline T atomicMax(T *at, T x)
{
    const T was = *at;
    *at = max(was, x);
    return was;
}

static inline size_t __cvta_generic_to_shared(const void *p) { return msa_emu_shared_address(p); }

/* ---- on the host ----------------------------------------------------------------------------- */

typedef enum cudaError_t {
    cudaSuccess,
    cudaErrorInvalidValue,
    cudaErrorMemoryAllocation,
    cudaErrorInvalidConfiguration,
    cudaErrorNoDevice,
    cudaErrorInsufficientDriver,
    cudaErrorStreamCaptureInvalidated
} cudaError_t;
typedef enum cudaMemcpyKind {
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
} cudaMemcpyKind;
typedef enum cudaMemoryType {
    cudaMemoryTypeUnregistered,
    cudaMemoryTypeHost,
    cudaMemoryTypeDevice
} cudaMemoryType;
typedef struct cudaPointerAttributes {
    cudaMemoryType type;
} cudaPointerAttributes;
typedef struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
    size_t totalGlobalMem, sharedMemPerBlockOptin;
} cudaDeviceProp;
typedef enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize,
    cudaFuncAttributePreferredSharedMemoryCarveout
} cudaFuncAttribute;
enum { cudaSharedmemCarveoutMaxShared = 100 };
typedef struct msa_emu_event *cudaEvent_t;
typedef struct msa_emu_graph *cudaGraph_t, *cudaGraphExec_t;
typedef struct msa_emu_node *cudaGraphNode_t;
typedef struct cudaGraphEdgeData {
    unsigned char type;
} cudaGraphEdgeData;
typedef enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed } cudaStreamCaptureMode;
typedef enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone,
    cudaStreamCaptureStatusActive
} cudaStreamCaptureStatus;
typedef enum cudaDriverEntryPointQueryResult {
    cudaDriverEntryPointSuccess,
    cudaDriverEntryPointSymbolNotFound
} cudaDriverEntryPointQueryResult;
enum {
    cudaHostAllocDefault = 0,
    cudaHostAllocPortable = 1,
    cudaHostAllocMapped = 2,
    cudaStreamNonBlocking = 1,
    cudaEventDisableTiming = 1,
    cudaEventBlockingSync = 2,
    cudaEnableDefault = 0
};

cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *p);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaEventCreate(cudaEvent_t *e);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *g, const cudaGraphNode_t **nodes,
                                     const cudaGraphEdgeData **edges, size_t *n);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphNodeGetDependentNodes(cudaGraphNode_t node, cudaGraphNode_t *nodes,
                                           cudaGraphEdgeData *edges, size_t *n);
cudaError_t cudaGraphDestroyNode(cudaGraphNode_t node);
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **f, unsigned version,
                                             unsigned long long flags,
                                             cudaDriverEntryPointQueryResult *found);

template <class F> static inline cudaError_t cudaFuncSetAttribute(F *, cudaFuncAttribute, int bytes)
{
    return bytes <= MSA_EMU_SHARED ? cudaSuccess : cudaErrorInvalidValue;
}

typedef enum cudaLaunchAttributeID {
    cudaLaunchAttributeClusterDimension,
    cudaLaunchAttributeProgrammaticStreamSerialization
} cudaLaunchAttributeID;
typedef struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    struct {
        struct {
            unsigned x, y, z;
        } clusterDim;
        int programmaticStreamSerializationAllowed;
    } val;
} cudaLaunchAttribute;
typedef struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
} cudaLaunchConfig_t;

/* Clusters of a kernel that live at the same time; kernels that this was asked of do. */
cudaError_t msa_emu_most_clusters(int *n, const void *kernel);
bool msa_emu_whole(const void *kernel);
template <class... A>
static inline cudaError_t cudaOccupancyMaxActiveClusters(int *n, void (*kernel)(A...), const cudaLaunchConfig_t *)
{
    return msa_emu_most_clusters(n, (const void *)kernel);
}

cudaError_t msa_emu_launched(void); /* the last launch's error, which stays */

template <class... Want, class... Given>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *l, void (*kernel)(Want...), Given... given)
{
    msa_emu_config c(l->gridDim, l->blockDim, l->dynamicSmemBytes, l->stream);
    for (unsigned i = 0; i < l->numAttrs; i++)
        if (l->attrs[i].id == cudaLaunchAttributeClusterDimension)
            c.cluster = l->attrs[i].val.clusterDim.x;
        else
            c.follow = l->attrs[i].val.programmaticStreamSerializationAllowed;
    c.whole = msa_emu_whole((const void *)kernel);
    msa_emu_launch(c, kernel, static_cast<Want>(given)...);
    return msa_emu_launched();
}

#endif
