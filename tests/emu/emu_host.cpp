/* The runtime's host side: memory that knows what it is, streams that do nothing
 * side by side, graphs, and cuBLASLt's products. */
#include <cublasLt.h>
#include <cudaTypedefs.h>

#include <cuda_bf16.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* MSA_EMU_TESTS: the tests of a cmocka program that run, with * and ?. */
extern "C" __attribute__((weak)) void cmocka_set_test_filter(const char *pattern);

__attribute__((constructor)) static void choose_tests(void)
{
    if (cmocka_set_test_filter && getenv("MSA_EMU_TESTS"))
        cmocka_set_test_filter(getenv("MSA_EMU_TESTS"));
}

/* ---- errors ------------------------------------------------------------------------ */

static thread_local cudaError_t last;

static cudaError_t set(cudaError_t e)
{
    if (e != cudaSuccess)
        last = e;
    return e;
}

cudaError_t cudaGetLastError(void)
{
    const cudaError_t e = last;
    last = cudaSuccess;
    return e;
}

cudaError_t msa_emu_launched(void) { return last; }

const char *cudaGetErrorString(cudaError_t e)
{
    static const char *const names[] = {"no error", "an invalid value", "out of memory", "an invalid launch",
                                        "no device", "an old driver", "a broken capture"};
    return names[e];
}

/* ---- the device --------------------------------------------------------------------- */

enum { N_SMS = 4 };
static const size_t memory_bytes = (size_t)6 << 30;

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 1;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) { return cudaDriverGetVersion(version); }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    if (device != 0)
        return set(cudaErrorInvalidValue);
    *p = {};
    snprintf(p->name, sizeof p->name, "an emulated device");
    p->major = 9;
    p->multiProcessorCount = N_SMS;
    p->totalGlobalMem = memory_bytes;
    p->sharedMemPerBlockOptin = MSA_EMU_SHARED;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : set(cudaErrorInvalidValue); }

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **f, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult *found)
{
    const PFN_cuTensorMapEncodeTiled_v12000 encode =
        [](CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *rows, const cuuint64_t *dims,
           const cuuint64_t *pitches, const cuuint32_t *box, const cuuint32_t *steps, CUtensorMapInterleave,
           CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
            const uint32_t size = type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 ? 2 : 1;
            const uint64_t most = (uint64_t)1 << 32;
            if (rank != 2 || (uintptr_t)map % 64 || (uintptr_t)rows % 16 || pitches[0] % 16 ||
                pitches[0] >= (uint64_t)1 << 40 || dims[0] < 1 || dims[0] > most || dims[1] < 1 ||
                dims[1] > most || box[0] * size > 128 || box[1] < 1 || box[1] > 256 || steps[0] != 1 ||
                steps[1] != 1)
                return CUDA_ERROR_INVALID_VALUE;
            *map = {(const char *)rows, dims[0], dims[1], pitches[0], box[0], box[1], size};
            return CUDA_SUCCESS;
        };
    *found = strcmp(name, "cuTensorMapEncodeTiled") == 0 ? cudaDriverEntryPointSuccess
                                                         : cudaDriverEntryPointSymbolNotFound;
    *f = (void *)encode;
    return cudaSuccess;
}

static const void *whole[8];

bool msa_emu_whole(const void *kernel)
{
    for (const void *w : whole)
        if (w == kernel)
            return true;
    return false;
}

cudaError_t msa_emu_most_clusters(int *n, const void *kernel)
{
    for (const void *&w : whole)
        if (!w || w == kernel) {
            w = kernel;
            *n = 2;
            return cudaSuccess;
        }
    return set(cudaErrorInvalidValue);
}

/* ---- memory ----------------------------------------------------------------------------- */

struct piece {
    piece *next;
    char *at;
    size_t bytes;
    cudaMemoryType type;
};
static piece *pieces;
static size_t taken;

static cudaError_t take(void **p, size_t bytes, cudaMemoryType type)
{
    if (bytes > memory_bytes - taken)
        return set(cudaErrorMemoryAllocation);
    piece *m = (piece *)malloc(sizeof *m);
    if (!m || posix_memalign(p, 256, bytes) != 0)
        return set(cudaErrorMemoryAllocation);
    memset(*p, 0xa9, bytes < 1 << 20 ? bytes : 1 << 20); /* nobody may count on zeros */
    *m = {pieces, (char *)*p, bytes, type};
    pieces = m;
    taken += bytes;
    return cudaSuccess;
}

static void finish_all(void);

static cudaError_t release(void *p)
{
    finish_all(); /* what is queued may use it */
    for (piece **at = &pieces; *at; at = &(*at)->next)
        if ((*at)->at == p) {
            piece *m = *at;
            *at = m->next;
            taken -= m->bytes;
            free(m->at);
            free(m);
            return cudaSuccess;
        }
    return p ? set(cudaErrorInvalidValue) : cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t bytes) { return take(p, bytes, cudaMemoryTypeDevice); }
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned) { return take(p, bytes, cudaMemoryTypeHost); }
cudaError_t cudaFree(void *p) { return release(p); }
cudaError_t cudaFreeHost(void *p) { return release(p); }

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *total = memory_bytes;
    *free_bytes = memory_bytes - taken;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *p)
{
    a->type = cudaMemoryTypeUnregistered;
    for (const piece *m = pieces; m; m = m->next)
        if ((const char *)p >= m->at && (const char *)p < m->at + m->bytes)
            a->type = m->type;
    return cudaSuccess;
}

/* ---- streams and graphs ---------------------------------------------------------------------- */

struct msa_emu_node {
    msa_emu_node *next;
    msa_emu_job *job;
    bool enabled;
};

/* A chain: what one stream did while it was captured. Running it is the same object. */
struct msa_emu_graph {
    msa_emu_node *first, *last;
};

struct msa_emu_stream {
    msa_emu_stream *next;
    msa_emu_graph *capture;
    msa_emu_job *held;     /* a kernel that waits for the next job; NULL: none */
    bool owned;            /* no graph's */
};
static msa_emu_stream *streams;

struct msa_emu_event {
    int unused;
};

/* One thread at a time works on the device. */
static pthread_mutex_t working = PTHREAD_MUTEX_INITIALIZER;

static void finish_held(cudaStream_t s)
{
    msa_emu_job *job = s->held;
    s->held = nullptr;
    if (job)
        job->run();
    if (job && s->owned)
        delete job;
}

static void finish(cudaStream_t s)
{
    pthread_mutex_lock(&working);
    finish_held(s);
    pthread_mutex_unlock(&working);
}

static void finish_all(void)
{
    for (msa_emu_stream *s = streams; s; s = s->next)
        finish(s);
}

static void put(cudaStream_t s, msa_emu_job *job, bool owned)
{
    pthread_mutex_lock(&working);
    if (job == s->held)
        finish_held(s);
    if (s->held && job->follows())
        job->begin();
    finish_held(s);
    s->held = job;
    s->owned = owned;
    if (!job->kernel())
        finish_held(s);
    pthread_mutex_unlock(&working);
}

void msa_emu_submit(cudaStream_t s, msa_emu_job *job)
{
    if (!s->capture) {
        put(s, job, true);
        return;
    }
    msa_emu_node *node = new msa_emu_node{nullptr, job, true};
    *(s->capture->last ? &s->capture->last->next : &s->capture->first) = node;
    s->capture->last = node;
}

bool msa_emu_valid(const msa_emu_config &c)
{
    const int64_t threads = (int64_t)c.block.x * c.block.y * c.block.z;
    const bool good = c.grid.x >= 1 && c.grid.x <= INT32_MAX && c.grid.y >= 1 && c.grid.y <= 65535 && c.grid.z >= 1 &&
                      c.grid.z <= 65535 && threads >= 1 && threads <= 1024 && c.shared <= MSA_EMU_SHARED &&
                      c.cluster >= 1 && c.cluster <= 8 && c.grid.x % c.cluster == 0;
    if (!good)
        set(cudaErrorInvalidConfiguration);
    return good;
}

/* What the host asks for in the order of a stream, by a function of its own. */
template <class F> struct host_job : msa_emu_job {
    F f;
    explicit host_job(const F &f_) : f(f_) {}
    void run() override { f(); }
};
template <class F> static void submit(cudaStream_t s, const F &f) { msa_emu_submit(s, new host_job<F>(f)); }

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t s)
{
    submit(s, [=] { memmove(to, from, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s)
{
    submit(s, [=] { memset(p, value, bytes); });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    *s = new msa_emu_stream{streams, nullptr, nullptr, false};
    streams = *s;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    finish(s);
    for (msa_emu_stream **at = &streams; *at; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            break;
        }
    delete s;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    finish_all();
    return cudaSuccess;
}

/* Waiting while a stream is captured breaks the capture. */
static cudaError_t outside_capture(cudaStream_t s)
{
    if (s->capture)
        return set(cudaErrorStreamCaptureInvalidated);
    finish(s);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) { return outside_capture(s); }
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t, unsigned) { return outside_capture(s); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = new msa_emu_event{0};
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t s) { return outside_capture(s); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t)
{
    *ms = 1;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    if (s->capture)
        return set(cudaErrorInvalidValue);
    s->capture = new msa_emu_graph{nullptr, nullptr};
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    *g = s->capture;
    s->capture = nullptr;
    return *g ? cudaSuccess : set(cudaErrorInvalidValue);
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, cudaStreamCaptureStatus *status, unsigned long long *,
                                     cudaGraph_t *, const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
                                     size_t *n)
{
    static const cudaGraphEdgeData edge = {};
    *status = s->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    *n = s->capture && s->capture->last ? 1 : 0;
    *nodes = s->capture ? &s->capture->last : nullptr;
    *edges = &edge;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t g, unsigned long long)
{
    *exec = g;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    if (s->capture)
        return set(cudaErrorStreamCaptureInvalidated);
    for (msa_emu_node *node = exec->first; node; node = node->next)
        if (node->enabled)
            put(s, node->job, false);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    finish_all(); /* its last job may be held */
    while (g->first) {
        msa_emu_node *node = g->first;
        g->first = node->next;
        delete node->job;
        delete node;
    }
    delete g;
    return cudaSuccess;
}

cudaError_t cudaGraphNodeGetDependentNodes(cudaGraphNode_t node, cudaGraphNode_t *nodes, cudaGraphEdgeData *,
                                           size_t *n)
{
    *n = node->next ? 1 : 0;
    *nodes = node->next;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroyNode(cudaGraphNode_t node)
{
    node->enabled = 0;
    return cudaSuccess;
}

/* ---- cuBLASLt -------------------------------------------------------------------------------------- */

cublasStatus_t cublasLtCreate(cublasLtHandle_t *lt)
{
    *lt = nullptr;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDescOpaque_t *d, cublasComputeType_t, cudaDataType)
{
    d->a = CUBLAS_OP_N;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDescOpaque_t *d, cublasLtMatmulDescAttributes_t,
                                              const void *value, size_t bytes)
{
    if (bytes != sizeof d->a)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&d->a, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayoutOpaque_t *l, cudaDataType type, uint64_t rows,
                                        uint64_t columns, int64_t pitch)
{
    *l = {type, (int64_t)rows, (int64_t)columns, pitch};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreferenceOpaque_t *p)
{
    p->workspace = 0;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreferenceOpaque_t *,
                                                    cublasLtMatmulPreferenceAttributes_t, const void *, size_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

/* One algorithm for everything. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              const cublasLtMatmulPreferenceOpaque_t *, int,
                                              cublasLtMatmulHeuristicResult_t *found, int *n)
{
    found[0] = {{0}, 0, CUBLAS_STATUS_SUCCESS};
    *n = 1;
    return CUBLAS_STATUS_SUCCESS;
}

static float element(const void *p, cudaDataType type, int64_t i)
{
    return type == CUDA_R_32F ? ((const float *)p)[i] : (float)((const __nv_bfloat16 *)p)[i];
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t d, const void *alpha, const void *A,
                              cublasLtMatrixLayout_t a, const void *B, cublasLtMatrixLayout_t b, const void *beta,
                              const void *, cublasLtMatrixLayout_t, void *out, cublasLtMatrixLayout_t o,
                              const cublasLtMatmulAlgo_t *, void *, size_t, cudaStream_t s)
{
    const bool turned = d->a == CUBLAS_OP_T;
    const int64_t depth = turned ? a->rows : a->columns;
    if ((turned ? a->columns : a->rows) != o->rows || b->rows != depth || b->columns != o->columns)
        return CUBLAS_STATUS_INVALID_VALUE;
    const cublasLtMatrixLayoutOpaque_t la = *a, lb = *b, lo = *o;
    const float scale = *(const float *)alpha, keep = *(const float *)beta;
    submit(s, [=] {
        for (int64_t j = 0; j < lo.columns; j++)
            for (int64_t i = 0; i < lo.rows; i++) {
                double sum = 0;
                for (int64_t k = 0; k < depth; k++)
                    sum += (double)element(A, la.type, turned ? i * la.pitch + k : k * la.pitch + i) *
                           (double)element(B, lb.type, j * lb.pitch + k);
                const int64_t at = j * lo.pitch + i;
                const float x = (float)(scale * sum) + (keep != 0 ? keep * element(out, lo.type, at) : 0);
                if (lo.type == CUDA_R_32F)
                    ((float *)out)[at] = x;
                else
                    ((__nv_bfloat16 *)out)[at] = __float2bfloat16_rn(x);
            }
    });
    return CUBLAS_STATUS_SUCCESS;
}
