extern "C" {
#include "tests/support_cublas.h"
}

#include <cublasLt.h>
#include <cuda_runtime.h>

static __global__ void fill(uint32_t *p, int64_t n, bool int8)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        uint32_t x = (uint32_t)i * 0x9e3779b9u + 12345;
        x ^= x >> 16, x *= 0x85ebca6bu, x ^= x >> 13, x *= 0xc2b2ae35u, x ^= x >> 16;
        /* bf16: both halves between 2^-7 and 2^-5 in magnitude */
        p[i] = int8 ? x : (x & 0x80ff80ffu) | 0x3c003c00u;
    }
}

/* y [M,N] = x [M,K] W[N,K]^T with memory of its own and the fastest plan. */
typedef struct product {
    bool int8;
    int64_t M, N, K;
    void *p[3]; /* W, x, y */
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t of[3];
    cublasLtMatmulAlgo_t algo;
    double seconds; /* of one, short */
} product;

typedef struct library {
    cublasLtHandle_t lt;
    void *room;
} library;

enum { ROOM_BYTES = 64 << 20 };

static bool library_new(library *l, int device)
{
    *l = {};
    return cudaSetDevice(device) == cudaSuccess && cudaMalloc(&l->room, ROOM_BYTES) == cudaSuccess &&
           cublasLtCreate(&l->lt) == CUBLAS_STATUS_SUCCESS;
}

static void library_free(library *l)
{
    if (l->lt)
        cublasLtDestroy(l->lt);
    cudaFree(l->room);
    cudaGetLastError(); /* a refusal must not stand in the way of what follows */
}

static bool queue(const library *l, const product *a, const cublasLtMatmulAlgo_t *algo)
{
    const float one = 1, zero = 0;
    const int32_t i_one = 1, i_zero = 0;
    return cublasLtMatmul(l->lt, a->op, a->int8 ? (const void *)&i_one : &one, a->p[0], a->of[0], a->p[1], a->of[1],
                          a->int8 ? (const void *)&i_zero : &zero, a->p[2], a->of[2], a->p[2], a->of[2], algo,
                          l->room, ROOM_BYTES, 0) == CUBLAS_STATUS_SUCCESS;
}

/* Seconds of one product, by events around several. */
static double seconds(const library *l, const product *a, const cublasLtMatmulAlgo_t *algo, int times)
{
    cudaEvent_t from, to;
    float ms = 0;
    cudaEventCreate(&from);
    cudaEventCreate(&to);
    bool ok = true;
    for (int i = -1; i < times; i++) { /* the first is not counted */
        if (i == 0)
            cudaEventRecord(from);
        ok = ok && queue(l, a, algo);
    }
    cudaEventRecord(to);
    ok = ok && cudaEventSynchronize(to) == cudaSuccess && cudaEventElapsedTime(&ms, from, to) == cudaSuccess;
    cudaEventDestroy(from);
    cudaEventDestroy(to);
    return ok ? ms * 1e-3 / times : 1e30;
}

/* Layouts are column-major as the library has them: y^T [N,M] = (W^T)^T x^T. */
static bool product_new(const library *l, product *a, bool int8, int64_t M, int64_t N, int64_t K)
{
    enum { PLANS = 8 };
    *a = {};
    a->int8 = int8, a->M = M, a->N = N, a->K = K, a->seconds = 1e30;
    const size_t size = int8 ? 1 : 2, out_size = int8 ? 4 : 2;
    const cudaDataType in = int8 ? CUDA_R_8I : CUDA_R_16BF, res = int8 ? CUDA_R_32I : CUDA_R_16BF;
    const cublasOperation_t yes = CUBLAS_OP_T;
    const uint64_t room_limit = ROOM_BYTES;
    cublasLtMatmulPreference_t wish = NULL;
    cublasLtMatmulHeuristicResult_t plans[PLANS];
    int n = 0;
    if (cudaMalloc(&a->p[0], N * K * size) == cudaSuccess && cudaMalloc(&a->p[1], M * K * size) == cudaSuccess &&
        cudaMalloc(&a->p[2], M * N * out_size) == cudaSuccess &&
        cublasLtMatmulDescCreate(&a->op, int8 ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                                 int8 ? CUDA_R_32I : CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
        cublasLtMatmulDescSetAttribute(a->op, CUBLASLT_MATMUL_DESC_TRANSA, &yes, sizeof yes) == CUBLAS_STATUS_SUCCESS &&
        cublasLtMatrixLayoutCreate(&a->of[0], in, K, N, K) == CUBLAS_STATUS_SUCCESS &&
        cublasLtMatrixLayoutCreate(&a->of[1], in, K, M, K) == CUBLAS_STATUS_SUCCESS &&
        cublasLtMatrixLayoutCreate(&a->of[2], res, N, M, N) == CUBLAS_STATUS_SUCCESS &&
        cublasLtMatmulPreferenceCreate(&wish) == CUBLAS_STATUS_SUCCESS &&
        cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room_limit,
                                             sizeof room_limit) == CUBLAS_STATUS_SUCCESS &&
        cublasLtMatmulAlgoGetHeuristic(l->lt, a->op, a->of[0], a->of[1], a->of[2], a->of[2], wish, PLANS, plans, &n) ==
            CUBLAS_STATUS_SUCCESS) {
        fill<<<1024, 256>>>((uint32_t *)a->p[0], N * K * (int64_t)size / 4, int8);
        fill<<<1024, 256>>>((uint32_t *)a->p[1], M * K * (int64_t)size / 4, int8);
        for (int i = 0; i < n; i++) {
            const double t = seconds(l, a, &plans[i].algo, 2);
            const double again = t < a->seconds * 1.1 ? seconds(l, a, &plans[i].algo, 6) : t;
            if (again < a->seconds) {
                a->seconds = again;
                a->algo = plans[i].algo;
            }
        }
    }
    cublasLtMatmulPreferenceDestroy(wish);
    return a->seconds < 1e29;
}

static void product_free(product *a)
{
    for (int i = 0; i < 3; i++) {
        cublasLtMatrixLayoutDestroy(a->of[i]);
        cudaFree(a->p[i]);
    }
    cublasLtMatmulDescDestroy(a->op);
}

static double ops(const product *a)
{
    return 2.0 * (double)a->M * (double)a->N * (double)a->K;
}

double msa_test_cublas_tflops(int device, bool int8, int64_t M, int64_t N, int64_t K)
{
    library l;
    product a = {};
    const bool ok = library_new(&l, device) && product_new(&l, &a, int8, M, N, K);
    const double rate = ok ? ops(&a) / a.seconds * 1e-12 : 0;
    product_free(&a);
    library_free(&l);
    return rate;
}

/* op/s of the products one behind the other for `period` seconds; the first third is
 * not counted. Groups of some 50 ms are queued, one while another runs. */
static double sustain(const library *l, const product *a, int n, double period)
{
    enum { GROUPS = 256 };
    cudaEvent_t at[GROUPS];
    double all = 0, once = 0;
    for (int i = 0; i < n; i++) {
        all += ops(&a[i]);
        once += a[i].seconds;
    }
    const int times = once < 0.05 ? (int)(0.05 / once) + 1 : 1;
    const int want = (int)(period / (once * times)) + 3, groups = want < GROUPS ? want : GROUPS;
    bool ok = true;
    int made = 0;
    for (; ok && made < groups; made++) {
        ok = cudaEventCreate(&at[made]) == cudaSuccess;
        for (int t = 0; t < times; t++)
            for (int i = 0; i < n; i++)
                ok = ok && queue(l, &a[i], &a[i].algo);
        ok = ok && cudaEventRecord(at[made]) == cudaSuccess;
        if (made > 0)
            ok = ok && cudaEventSynchronize(at[made - 1]) == cudaSuccess;
    }
    float ms = 0;
    const int from = groups / 3;
    ok = ok && cudaEventSynchronize(at[groups - 1]) == cudaSuccess &&
         cudaEventElapsedTime(&ms, at[from], at[groups - 1]) == cudaSuccess;
    for (int i = 0; i < made; i++)
        cudaEventDestroy(at[i]);
    return ok && ms > 0 ? all * times * (groups - 1 - from) / (ms * 1e-3) : 0;
}

double msa_test_cublas_layer(int device, int64_t M, const int64_t (*shapes)[2], int n, double period,
                             double *sustained)
{
    enum { MOST = 8 };
    library l;
    product a[MOST] = {};
    double work = 0, once = 0;
    if (n < 1 || n > MOST)
        return 0;
    bool ok = library_new(&l, device);
    for (int i = 0; ok && i < n; i++) {
        ok = product_new(&l, &a[i], false, M, shapes[i][0], shapes[i][1]);
        work += ops(&a[i]);
        once += a[i].seconds;
    }
    if (sustained)
        *sustained = ok ? sustain(&l, a, n, period) * 1e-12 : 0;
    for (int i = 0; i < n; i++)
        product_free(&a[i]);
    library_free(&l);
    return ok ? work / once * 1e-12 : 0;
}
