/* CUDA: weights and their products. Few rows of bf16 take own kernels (cuda_gemv.cu),
 * what cuBLASLt cannot take for its alignment the kernel for any shape, the rest
 * cuBLASLt.
 *
 * cuBLASLt thinks in columns: a row-major [M,N] is its [N,M], so y = x W^T is asked
 * as y^T = W x^T with W [K,N] transposed. Which of its algorithms runs is kept by
 * shape, rows rounded up. bf16 algorithms are timed once on the operands at hand, so
 * the last bits of a product may depend on what was fastest; sums are f32 in any
 * case. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda_elem.h"
#include "kernels/cuda_gemv.h"
#include "kernels/cuda_internal.h"

/* ---- weights ------------------------------------------------------------------------ */

template <class F, class T>
static __global__ void weight_kernel(const F *from, int64_t n, typename T::elem *to)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        to[i] = T::set((float)from[i]);
}

template <class T> static void fill(const void *from, msa_dtype type, int64_t n, void *to, cudaStream_t s)
{
    enum { BLOCKS = 1024, THREADS = 256 };
    typename T::elem *out = (typename T::elem *)to;
    if (type == MSA_F32)
        weight_kernel<float, T><<<BLOCKS, THREADS, 0, s>>>((const float *)from, n, out);
    else if (type == MSA_BF16)
        weight_kernel<__nv_bfloat16, T><<<BLOCKS, THREADS, 0, s>>>((const __nv_bfloat16 *)from, n, out);
    else
        weight_kernel<__half, T><<<BLOCKS, THREADS, 0, s>>>((const __half *)from, n, out);
}

msa_rc msa_cuda_weight_new(msa_kern *k, const void *data, msa_dtype from, int64_t N, int64_t K,
                           msa_kern_weight **out, msa_err *err)
{
    const int64_t most = 4 << 20; /* elements that travel at once */
    msa_cuda *c = msa_cuda_of(k);
    const int64_t n = N * K, size = msa_dtype_bytes(from), act_size = msa_dtype_bytes(k->info.act);
    msa_cuda_weight *w = (msa_cuda_weight *)msa_calloc(1, sizeof *w);
    if (!w)
        return msa_err_nomem(err, "a weight");
    w->base.owner = k;
    w->base.N = N;
    w->base.K = K;
    w->base.bytes = n * act_size;
    cudaSetDevice(c->device);
    msa_rc rc = msa_cuda_error(cudaMalloc(&w->w, (size_t)w->base.bytes), "a weight", err);
    for (int64_t at = 0; rc == MSA_OK && at < n; at += most) {
        const int64_t part = n - at < most ? n - at : most;
        void *d;
        rc = msa_cuda_args(c, NULL, (const char *)data + at * size, part * size, &d, err);
        if (rc < 0)
            break;
        if (k->info.act == MSA_F32)
            fill<msa_cuda_f32>(d, from, part, (char *)w->w + at * act_size, c->stream);
        else
            fill<msa_cuda_bf16>(d, from, part, (char *)w->w + at * act_size, c->stream);
        rc = msa_cuda_error(cudaGetLastError(), "a weight", err);
    }
    if (rc == MSA_OK) /* whichever stream uses it first finds it there */
        rc = msa_cuda_error(cudaStreamSynchronize(c->stream), "a weight", err);
    if (rc < 0) {
        msa_cuda_weight_free(k, &w->base);
        return rc;
    }
    *out = &w->base;
    return MSA_OK;
}

void msa_cuda_weight_free(msa_kern *k, msa_kern_weight *w)
{
    cudaSetDevice(msa_cuda_of(k)->device);
    cudaFree(((msa_cuda_weight *)w)->w);
    cudaGetLastError();
    free(w);
}

/* ---- plans ------------------------------------------------------------------------------ */

/* Scratch: cuBLASLt's workspace, then a place where candidates write what would add
 * to the caller's output, and which is cleared between them to empty the L2. */
enum { WORKSPACE = 32 << 20, TRIAL = 128 << 20 };

enum { CANDIDATES = 8 };

/* An algorithm for N, K, mode and up to M rows. */
struct plan {
    int64_t N, K, M;
    msa_linear_mode mode;
    bool none;               /* cuBLASLt has none */
    cublasLtMatmulAlgo_t algo;
};

struct msa_cuda_algos {
    plan *plans;
    int64_t n, cap;
    cudaEvent_t from, to;
};

bool msa_cuda_linear_bytes(const msa_cuda *c, const msa_kern_shape *s, int64_t *bytes)
{
    (void)c, (void)s;
    *bytes = (int64_t)WORKSPACE + TRIAL + MSA_CUDA_BETWEEN_BYTES;
    return true;
}

void msa_cuda_linear_close(msa_cuda *c)
{
    msa_cuda_algos *a = c->algos;
    if (!a)
        return;
    if (a->from)
        cudaEventDestroy(a->from);
    if (a->to)
        cudaEventDestroy(a->to);
    free(a->plans);
    free(a);
    c->algos = NULL;
}

/* Rows that share a plan. Real batches have all numbers of rows, and a plan costs some
 * ten milliseconds of trials in the middle of the work (at 30,000 rows of a 4B model
 * 300), so there are few of them. */
static int64_t rows_of_plan(int64_t M)
{
    const int64_t step = M <= 64 ? 16 : M <= 256 ? 64 : 256;
    int64_t rows = (M + step - 1) / step * step;
    if (M > 2048)
        for (rows = 4096; rows < M; rows *= 2)
            ;
    return rows;
}

/* What a product is to cuBLASLt. */
struct product {
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t w, x, y;
};

static bool describe(msa_dtype act, int64_t N, int64_t K, int64_t M, msa_linear_mode mode, product *p)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cudaDataType in = act == MSA_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    const cudaDataType out = mode == MSA_LINEAR_ACT ? in : CUDA_R_32F;
    /* pedantic: f32 products never become TF32 ones */
    const cublasComputeType_t compute = act == MSA_BF16 ? CUBLAS_COMPUTE_32F : CUBLAS_COMPUTE_32F_PEDANTIC;
    return cublasLtMatmulDescInit(&p->desc, compute, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulDescSetAttribute(&p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                          sizeof transposed) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutInit(&p->w, in, (uint64_t)K, (uint64_t)N, K) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutInit(&p->x, in, (uint64_t)K, (uint64_t)M, K) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutInit(&p->y, out, (uint64_t)N, (uint64_t)M, N) == CUBLAS_STATUS_SUCCESS;
}

/* The algorithms that cuBLASLt proposes, best first; how many. Operands are 16-byte
 * aligned, and parts of a sum are never added in a narrower type or in any order. */
static int propose(msa_cuda *c, product *p, cublasLtMatmulHeuristicResult_t found[CANDIDATES], int most)
{
    cublasLtMatmulPreferenceOpaque_t pref;
    const uint64_t workspace = WORKSPACE;
    const uint32_t alignment = 16, reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const cublasLtMatmulPreferenceAttributes_t sides[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    int n = 0;
    bool ok = cublasLtMatmulPreferenceInit(&pref) == CUBLAS_STATUS_SUCCESS &&
              cublasLtMatmulPreferenceSetAttribute(&pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                   sizeof workspace) == CUBLAS_STATUS_SUCCESS &&
              cublasLtMatmulPreferenceSetAttribute(&pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction,
                                                   sizeof reduction) == CUBLAS_STATUS_SUCCESS;
    for (int i = 0; i < 4; i++)
        ok = ok && cublasLtMatmulPreferenceSetAttribute(&pref, sides[i], &alignment, sizeof alignment) ==
                       CUBLAS_STATUS_SUCCESS;
    if (!ok || cublasLtMatmulAlgoGetHeuristic(c->lt, &p->desc, &p->w, &p->x, &p->y, &p->y, &pref, most, found,
                                              &n) != CUBLAS_STATUS_SUCCESS)
        return 0;
    int good = 0;
    for (int i = 0; i < n; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS && found[i].workspaceSize <= WORKSPACE)
            found[good++] = found[i];
    return good;
}

static bool multiply(msa_cuda *c, product *p, const cublasLtMatmulAlgo_t *algo, const void *W, const void *x,
                     void *out, msa_linear_mode mode, cudaStream_t s)
{
    const float alpha = 1, beta = mode == MSA_LINEAR_ADD ? 1 : 0;
    return cublasLtMatmul(c->lt, &p->desc, &alpha, W, &p->w, x, &p->x, &beta, out, &p->y, out, &p->y, algo,
                          c->linear_scratch, WORKSPACE, s) == CUBLAS_STATUS_SUCCESS;
}

/* Milliseconds of a candidate, the best of three after one to warm up; a negative
 * number when it does not run. */
static float time_one(msa_cuda *c, product *p, const cublasLtMatmulAlgo_t *algo, const void *W, const void *x,
                      void *out, int64_t M, msa_linear_mode mode, cudaStream_t s)
{
    enum { WARM = 1, TIMED = 3, IN_CACHE = 2048 };
    float best = -1, ms = 0;
    for (int i = 0; i < WARM + TIMED; i++) {
        if (M < IN_CACHE) /* a weight that is left in the L2 would flatter */
            cudaMemsetAsync((char *)c->linear_scratch + WORKSPACE, 0, TRIAL, s);
        cudaEventRecord(c->algos->from, s);
        if (!multiply(c, p, algo, W, x, out, mode, s))
            return -1;
        cudaEventRecord(c->algos->to, s);
        if (cudaEventSynchronize(c->algos->to) != cudaSuccess ||
            cudaEventElapsedTime(&ms, c->algos->from, c->algos->to) != cudaSuccess)
            return -1;
        if (i >= WARM && (best < 0 || ms < best))
            best = ms;
    }
    return best;
}

/* The fastest candidate's number; the first where none can be timed. The output is
 * written again afterwards; what would be added to goes to the trial place, with as
 * many rows as fit. */
static int fastest(msa_cuda *c, const cublasLtMatmulHeuristicResult_t *found, int n, int64_t N, int64_t K,
                   int64_t M, const void *W, const void *x, void *out, msa_linear_mode mode, cudaStream_t s)
{
    product p;
    int64_t rows = M;
    if (mode == MSA_LINEAR_ADD) {
        out = (char *)c->linear_scratch + WORKSPACE;
        if (rows > TRIAL / (N * (int64_t)sizeof(float)))
            rows = TRIAL / (N * (int64_t)sizeof(float));
    }
    if (n < 2 || rows < 1 || !describe(c->base.info.act, N, K, rows, mode, &p))
        return 0;
    cudaMemsetAsync((char *)c->linear_scratch + WORKSPACE, 0, TRIAL, s);
    int best = 0;
    float best_ms = -1;
    for (int i = 0; i < n; i++) {
        const float ms = time_one(c, &p, &found[i].algo, W, x, out, M, mode, s);
        if (ms >= 0 && (best_ms < 0 || ms < best_ms)) {
            best = i;
            best_ms = ms;
        }
    }
    cudaGetLastError();
    return best;
}

/* The plan of a product, made when there is none; NULL without memory for it. */
static const plan *plan_for(msa_cuda *c, int64_t N, int64_t K, int64_t M, const void *W, const void *x, void *out,
                            msa_linear_mode mode, cudaStream_t s)
{
    msa_cuda_algos *a = c->algos;
    const int64_t rows = rows_of_plan(M);
    for (int64_t i = 0; i < a->n; i++)
        if (a->plans[i].N == N && a->plans[i].K == K && a->plans[i].M == rows && a->plans[i].mode == mode)
            return &a->plans[i];
    if (a->n == a->cap) {
        const int64_t cap = a->cap ? 2 * a->cap : 64;
        plan *more = (plan *)msa_realloc(a->plans, cap, sizeof *more);
        if (!more)
            return NULL;
        a->plans = more;
        a->cap = cap;
    }
    product p;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    const bool timed = c->base.info.act == MSA_BF16 && !msa_cuda_recording(c);
    const int n = describe(c->base.info.act, N, K, rows, mode, &p) ? propose(c, &p, found, CANDIDATES) : 0;
    plan *made = &a->plans[a->n++];
    made->N = N;
    made->K = K;
    made->M = rows;
    made->mode = mode;
    made->none = n == 0;
    if (n > 0)
        made->algo = found[timed ? fastest(c, found, n, N, K, M, W, x, out, mode, s) : 0].algo;
    return made;
}

static msa_rc algos_open(msa_cuda *c, msa_err *err)
{
    if (c->algos)
        return MSA_OK;
    c->algos = (msa_cuda_algos *)msa_calloc(1, sizeof *c->algos);
    if (!c->algos)
        return msa_err_nomem(err, "plans of products");
    MSA_CUDA_TRY(cudaEventCreate(&c->algos->from));
    MSA_CUDA_TRY(cudaEventCreate(&c->algos->to));
    return MSA_OK;
}

/* ---- the operation --------------------------------------------------------------------------- */

msa_rc msa_cuda_linear(msa_kern *k, msa_kern_stream *st, const msa_kern_weight *weight, const void *x, int64_t M,
                       void *out, msa_linear_mode mode, msa_err *err)
{
    msa_cuda *c = msa_cuda_of(k);
    const void *W = ((const msa_cuda_weight *)weight)->w;
    const int64_t N = weight->N, K = weight->K;
    const msa_dtype act = k->info.act;
    const cudaStream_t s = msa_cuda_stream(k, st);
    const void *pointers[] = {W, x, out};
    const int64_t numbers[] = {N, K, M, mode};
    if (msa_cuda_noted(c, "linear", pointers, 3, numbers, 4))
        return MSA_OK;
    const bool aligned = K * msa_dtype_bytes(act) % 16 == 0 && msa_cuda_aligned(x);
    if (act == MSA_BF16 && aligned && msa_cuda_few_rows(M, N, K)) {
        const msa_cuda_few few = {W, x, M, N, K, out, mode, false, NULL, 0, NULL};
        msa_cuda_linear_few(&few, s);
        MSA_CUDA_LAUNCHED("linear");
    }
    product p;
    msa_rc rc = algos_open(c, err);
    if (rc < 0)
        return rc;
    if (aligned && msa_cuda_aligned(out)) {
        const plan *made = plan_for(c, N, K, M, W, x, out, mode, s);
        cublasLtMatmulHeuristicResult_t own;
        /* should the plan not suit this very number of rows, one is asked for that does */
        if (made && !made->none && describe(act, N, K, M, mode, &p) &&
            (multiply(c, &p, &made->algo, W, x, out, mode, s) ||
             (propose(c, &p, &own, 1) == 1 && multiply(c, &p, &own.algo, W, x, out, mode, s))))
            return msa_cuda_error(cudaGetLastError(), "linear", err);
        cudaGetLastError();
    }
    msa_cuda_linear_any(act, W, x, M, N, K, out, mode, s);
    MSA_CUDA_LAUNCHED("linear");
}

msa_rc msa_cuda_norm_linear(msa_kern *k, msa_kern_stream *st, const float *x, const float *gamma, float eps,
                            const msa_kern_weight *weight, int64_t M, void *xn, void *gu, void *out, msa_err *err)
{
    const int64_t N = weight->N, K = weight->K;
    const bool few = k->info.act == MSA_BF16 && msa_cuda_few_rows(M, N, K) && msa_cuda_aligned(x) &&
                     msa_cuda_aligned(gamma) && msa_cuda_aligned(xn);
    const bool norms = few && msa_cuda_few_norms(M);
    if (!norms) {
        msa_rc rc = msa_cuda_rms_norm(k, st, x, gamma, eps, M, K, xn, err);
        if (rc == MSA_OK && !(few && gu)) {
            rc = msa_cuda_linear(k, st, weight, xn, M, gu ? gu : out, MSA_LINEAR_ACT, err);
            return rc == MSA_OK && gu ? msa_cuda_swiglu(k, st, gu, M, N / 2, out, err) : rc;
        }
        if (rc < 0)
            return rc;
    }
    const void *W = ((const msa_cuda_weight *)weight)->w;
    const void *pointers[] = {W, x, gamma, xn, out};
    const int64_t numbers[] = {N, K, M, __builtin_bit_cast(int32_t, eps), gu != NULL};
    if (msa_cuda_noted(msa_cuda_of(k), "norm_linear", pointers, 5, numbers, 5))
        return MSA_OK;
    const msa_cuda_few product = {W, norms ? (const void *)x : xn, M, N, K, out, MSA_LINEAR_ACT, gu != NULL,
                                  norms ? gamma : NULL, eps, xn};
    msa_cuda_linear_few(&product, msa_cuda_stream(k, st));
    MSA_CUDA_LAUNCHED("norm_linear");
}
