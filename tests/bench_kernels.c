/* Speed of the operations beside their ceilings, at the shapes of
 * SmolLM2-135M: build/cpu/tests/bench_kernels [backend] [threads].
 * Ceilings: a read sweep over 256 MB for what memory feeds, oneDNN (one call a
 * thread and row block, weights prepacked) for what arithmetic bounds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <dnnl.h>

#include "base/mem.h"
#include "base/pool.h"
#include "kernels/dtype.h"
#include "kernels/kernels.h"

enum { E = 576, H = 9, G = 3, D = 64, I = 1536, V = 49152, LAYERS = 30, DOC = 400 };
static const int64_t shapes[4][2] = {{(H + 2 * G) * D, E}, {E, H *D}, {2 * I, E}, {E, I}};
static const char *const shape_names[4] = {"qkv", "o", "gate+up", "down"};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Best time of one call within about a third of a second. */
#define BEST(best, call)                                                 \
    double best = INFINITY;                                              \
    for (double begin_ = now(), t_; now() - begin_ < 0.35;) {            \
        t_ = now();                                                      \
        call;                                                            \
        t_ = now() - t_;                                                 \
        best = t_ < best ? t_ : best;                                    \
    }

static void must(msa_rc rc, const msa_err *err)
{
    if (rc >= 0)
        return;
    fprintf(stderr, "bench_kernels: %s\n", err->msg);
    exit(1);
}
#define DO(call) must(call, &err)
static msa_err err;

/* ---- ceilings ------------------------------------------------------------------ */

typedef uint64_t word __attribute__((vector_size(16)));
typedef struct sweep_job {
    const word *p;
    int64_t words;
    uint64_t *sums;
} sweep_job;

static void sweep_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    sweep_job *j = arg;
    word a = {0}, b = {0}, c = {0}, d = {0};
    for (const word *p = j->p + item * j->words, *end = p + j->words; p < end; p += 8) {
        a += p[0] ^ p[1];
        b += p[2] ^ p[3];
        c += p[4] ^ p[5];
        d += p[6] ^ p[7];
    }
    a += b + c + d;
    j->sums[item * 8] = a[0] + a[1];
}

static double read_gb_s(msa_pool *pool)
{
    enum { ITEMS = 256, WORDS = 1 << 16 };
    uint64_t sums[ITEMS * 8];
    word *p = msa_alloc_aligned(ITEMS * WORDS, sizeof *p);
    memset(p, 1, ITEMS * WORDS * sizeof *p);
    sweep_job j = {p, WORDS, sums};
    BEST(t, msa_pool_run(pool, ITEMS, sweep_item, &j));
    free(p);
    return ITEMS * WORDS * sizeof *p / t * 1e-9;
}

/* One oneDNN primitive for row blocks of ROWS; items run on the pool. */
enum { DNNL_ROWS = 128 };
typedef struct dnnl_job {
    dnnl_engine_t engine;
    dnnl_primitive_t prim;
    dnnl_memory_desc_t x_md, y_md;
    dnnl_memory_t w;
    char *x, *y;
    int64_t x_bytes, y_bytes;
    void (*set_threads)(int);
} dnnl_job;

static void dnnl_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    dnnl_job *j = arg;
    j->set_threads(1);
    dnnl_stream_t st;
    dnnl_memory_t x, y;
    dnnl_stream_create(&st, j->engine, dnnl_stream_default_flags);
    dnnl_memory_create(&x, &j->x_md, j->engine, j->x + item * j->x_bytes);
    dnnl_memory_create(&y, &j->y_md, j->engine, j->y + item * j->y_bytes);
    dnnl_exec_arg_t a[] = {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, j->w}, {DNNL_ARG_DST, y}};
    dnnl_primitive_execute(j->prim, st, 3, a);
    dnnl_memory_destroy(x);
    dnnl_memory_destroy(y);
    dnnl_stream_destroy(st);
}

static double dnnl_gflops(msa_pool *pool, msa_dtype t, int64_t M, int64_t N, int64_t K)
{
    dnnl_job j = {.x_bytes = DNNL_ROWS * K * msa_dtype_bytes(t), .y_bytes = DNNL_ROWS * N * 4};
    void *sym = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    if (!sym)
        return NAN;
    memcpy(&j.set_threads, &sym, sizeof sym);
    dnnl_data_type_t dt = t == MSA_F32 ? dnnl_f32 : dnnl_bf16;
    dnnl_memory_desc_t w_md;
    dnnl_matmul_desc_t md;
    dnnl_primitive_attr_t attr;
    dnnl_primitive_desc_t pd;
    dnnl_memory_desc_init_by_tag(&j.x_md, 2, (dnnl_dims_t){DNNL_ROWS, K}, dt, dnnl_ab);
    dnnl_memory_desc_init_by_tag(&j.y_md, 2, (dnnl_dims_t){DNNL_ROWS, N}, dnnl_f32, dnnl_ab);
    dnnl_memory_desc_init_by_tag(&w_md, 2, (dnnl_dims_t){K, N}, dt, dnnl_format_tag_any);
    dnnl_engine_create(&j.engine, dnnl_cpu, 0);
    dnnl_matmul_desc_init(&md, &j.x_md, &w_md, NULL, &j.y_md);
    dnnl_primitive_attr_create(&attr);
    if (dnnl_primitive_desc_create(&pd, &md, attr, j.engine, NULL) != dnnl_success)
        return NAN;
    dnnl_primitive_create(&j.prim, pd);
    dnnl_memory_create(&j.w, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0), j.engine,
                       DNNL_MEMORY_ALLOCATE);
    j.x = msa_calloc(M, K * 4);
    j.y = msa_calloc(M, N * 4);
    void *w;
    dnnl_memory_get_data_handle(j.w, &w);
    for (int64_t i = 0; i < N * K; i++)
        msa_elem_set(w, t, i, (float)(i % 17) * 0.1f - 0.8f);
    for (int64_t i = 0; i < M * K; i++)
        msa_elem_set(j.x, t, i, (float)(i % 13) * 0.1f - 0.6f);
    BEST(best, msa_pool_run(pool, M / DNNL_ROWS, dnnl_item, &j));
    dnnl_memory_destroy(j.w);
    dnnl_primitive_destroy(j.prim);
    dnnl_primitive_desc_destroy(pd);
    dnnl_primitive_attr_destroy(attr);
    dnnl_engine_destroy(j.engine);
    free(j.x), free(j.y);
    return 2.0 * (double)M * (double)N * (double)K / best * 1e-9;
}

/* ---- the model's operations ---------------------------------------------------------- */

typedef struct model {
    msa_kern *k;
    msa_dtype act;
    msa_kern_weight *w[LAYERS][4], *embed;
    float *x, *gamma, *logits;
    void *xn, *qkv, *att, *gu, *mid;
    int64_t *pos, M, S, seq_start[64];
    int32_t *ids;
} model;

static void *device(msa_kern *k, int64_t n, msa_dtype t)
{
    void *p;
    DO(msa_kern_alloc(k, n * msa_dtype_bytes(t), MSA_MEM_DEVICE, &p, &err));
    float *f = msa_alloc(n, 4);
    for (int64_t i = 0; i < n; i++)
        f[i] = (float)((i * 7919) % 1999) * 1e-3f - 1;
    for (int64_t i = 0; i < n; i++)
        msa_elem_set(f, t, i, f[i]);
    DO(msa_kern_copy(k, NULL, p, f, n * msa_dtype_bytes(t), &err));
    DO(msa_kern_sync(k, NULL, &err));
    free(f);
    return p;
}

static model model_new(msa_kern *k, msa_dtype act, int64_t M)
{
    model m = {.k = k, .act = act, .M = M};
    float *w = msa_alloc(V * E, 4);
    for (int64_t i = 0; i < V * E; i++)
        w[i] = (float)((i * 104729) % 2003) * 1e-4f - 0.1f;
    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < 4; i++)
            DO(msa_kern_weight_new(k, w, MSA_F32, shapes[i][0], shapes[i][1], &m.w[l][i], &err));
    DO(msa_kern_weight_new(k, w, MSA_F32, V, E, &m.embed, &err));
    free(w);
    m.x = device(k, M * E, MSA_F32);
    m.gamma = device(k, E, MSA_F32);
    m.logits = device(k, 16 * V, MSA_F32);
    m.xn = device(k, M * E, act);
    m.qkv = device(k, M * shapes[0][0], act);
    m.att = device(k, M * E, act);
    m.gu = device(k, M * 2 * I, act);
    m.mid = device(k, M * I, act);
    int64_t *pos = msa_alloc(M, 8);
    int32_t *ids = msa_alloc(M, 4);
    for (int64_t i = 0; i < M; i++) {
        pos[i] = i % DOC;
        ids[i] = (int32_t)((i * 31337) % V);
    }
    for (int64_t at = 0; at < M; at += DOC)
        m.seq_start[m.S++] = at;
    m.seq_start[m.S] = M;
    void *p;
    DO(msa_kern_alloc(k, M * 8, MSA_MEM_DEVICE, &p, &err));
    DO(msa_kern_copy(k, NULL, p, pos, M * 8, &err));
    m.pos = p;
    DO(msa_kern_alloc(k, M * 4, MSA_MEM_DEVICE, &p, &err));
    DO(msa_kern_copy(k, NULL, p, ids, M * 4, &err));
    DO(msa_kern_sync(k, NULL, &err));
    m.ids = p;
    free(pos), free(ids);
    return m;
}

static void model_free(model *m)
{
    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < 4; i++)
            msa_kern_weight_free(m->k, m->w[l][i]);
    msa_kern_weight_free(m->k, m->embed);
    void *all[] = {m->x, m->gamma, m->logits, m->xn, m->qkv, m->att, m->gu, m->mid, m->pos, m->ids};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        msa_kern_free(m->k, all[i], MSA_MEM_DEVICE);
}

/* Matrices of a layer only (gemm), or everything around them only, or both. */
static void layer(model *m, int l, int64_t M, bool gemm, bool rest)
{
    msa_kern *k = m->k;
    msa_kern_heads h = {H, G, D};
    if (rest)
        DO(msa_kern_rms_norm(k, NULL, m->x, m->gamma, 1e-5f, M, E, m->xn, &err));
    if (gemm)
        DO(msa_kern_linear(k, NULL, m->w[l][0], m->xn, M, m->qkv, MSA_LINEAR_ACT, &err));
    if (rest) {
        DO(msa_kern_qk_rope(k, NULL, m->qkv, M, h, NULL, NULL, 0, m->pos, 1e5, &err));
        if (M == m->M)
            DO(msa_kern_attn_packed(k, NULL, m->qkv, M, h, m->seq_start, m->S, m->att, &err));
    }
    if (gemm)
        DO(msa_kern_linear(k, NULL, m->w[l][1], m->att, M, m->x, MSA_LINEAR_ADD, &err));
    if (rest)
        DO(msa_kern_rms_norm(k, NULL, m->x, m->gamma, 1e-5f, M, E, m->xn, &err));
    if (gemm)
        DO(msa_kern_linear(k, NULL, m->w[l][2], m->xn, M, m->gu, MSA_LINEAR_ACT, &err));
    if (rest)
        DO(msa_kern_swiglu(k, NULL, m->gu, M, I, m->mid, &err));
    if (gemm)
        DO(msa_kern_linear(k, NULL, m->w[l][3], m->mid, M, m->x, MSA_LINEAR_ADD, &err));
}

static void forward(model *m, int64_t M, bool gemm, bool rest)
{
    if (rest)
        DO(msa_kern_embed(m->k, NULL, m->embed, m->ids, M, m->x, &err));
    for (int l = 0; l < LAYERS; l++)
        layer(m, l, M, gemm, rest);
    DO(msa_kern_sync(m->k, NULL, &err));
}

static void bench_prefill(model *m, double ceiling)
{
    msa_kern *k = m->k;
    int64_t M = m->M;
    msa_kern_heads h = {H, G, D};
    double gflop = 0, act = (double)msa_dtype_bytes(m->act);
    for (int i = 0; i < 4; i++) {
        double n = 2.0 * (double)(shapes[i][0] * shapes[i][1]);
        gflop += n * LAYERS * 1e-9;
        void *x = i == 3 ? m->mid : m->xn, *y = i == 2 ? m->gu : i == 0 ? m->qkv : (void *)m->x;
        msa_linear_mode mode = i == 1 || i == 3 ? MSA_LINEAR_ADD : MSA_LINEAR_ACT;
        BEST(t, DO(msa_kern_linear(k, NULL, m->w[0][i], x, M, y, mode, &err)));
        printf("linear %-8s M %lld: %.0f GFLOP/s\n", shape_names[i], (long long)M,
               n * (double)M / t * 1e-9);
    }
    BEST(norm, DO(msa_kern_rms_norm(k, NULL, m->x, m->gamma, 1e-5f, M, E, m->xn, &err)));
    BEST(rope, DO(msa_kern_qk_rope(k, NULL, m->qkv, M, h, NULL, NULL, 0, m->pos, 1e5, &err)));
    BEST(attn, DO(msa_kern_attn_packed(k, NULL, m->qkv, M, h, m->seq_start, m->S, m->att, &err)));
    BEST(glu, DO(msa_kern_swiglu(k, NULL, m->gu, M, I, m->mid, &err)));
    double us = 1e6 / (double)M, rows = (double)M * 1e-9, pairs = 0;
    for (int64_t s = 0; s < m->S; s++) {
        double n = (double)(m->seq_start[s + 1] - m->seq_start[s]);
        pairs += n * (n + 1) / 2;
    }
    printf("rms_norm %.1f GB/s, qk_rope %.1f GB/s, swiglu %.1f GB/s, attn_packed %.0f GFLOP/s\n",
           rows * E * (4 + act) / norm, rows * (H + G) * D * 2 * act / rope,
           rows * 3 * I * act / glu, pairs * H * D * 4e-9 / attn);
    printf("us a token and layer: norms %.2f, rope %.2f, attention %.2f, swiglu %.2f\n",
           2 * norm * us, rope * us, attn * us, glu * us);
    BEST(gemm, forward(m, M, true, false));
    BEST(all, forward(m, M, true, true));
    printf("prefill, passages of %d, M %lld: matrices alone %.0f GFLOP/s, all %.0f tokens/s = "
           "%.2f of what oneDNN's rate permits\n",
           DOC, (long long)M, gflop * (double)M / gemm, (double)M / all,
           gflop * (double)M / all / ceiling);
}

static void bench_decode(model *m, double gb_s)
{
    double bytes = (double)msa_kern_weight_bytes(m->embed);
    for (int i = 0; i < 4; i++)
        bytes += LAYERS * (double)msa_kern_weight_bytes(m->w[0][i]);
    for (int64_t M = 1; M <= 16; M *= 2) {
        msa_kern_sample p[16] = {{0}};
        int32_t out[16];
        for (int64_t i = 0; i < M; i++)
            p[i].top_p = 1;
        BEST(t, {
            forward(m, M, true, true);
            DO(msa_kern_linear(m->k, NULL, m->embed, m->xn, M, m->logits, MSA_LINEAR_F32, &err));
        });
        BEST(pick, DO(msa_kern_sample_tokens(m->k, NULL, m->logits, M, V, p, out, &err)));
        printf("decode without attention, batch %2lld: %.1f steps/s, weights at %.1f GB/s = %.2f "
               "of the sweep; argmax %.0f us\n",
               (long long)M, 1 / t, bytes / t * 1e-9, bytes / t * 1e-9 / gb_s, pick * 1e6);
    }
}

static void bench_scan(msa_kern *k, double gb_s, double gflops)
{
    enum { C = 15625 };
    for (int64_t W = 192; W <= 1024; W += 832) {
        msa_kern_route r = {.h = {W / 64, W / 64, 64}, .scale = 1, .query = MSA_REDUCE_MAX};
        void *rk = device(k, C * W, MSA_BF16);
        float *q = device(k, 64 * W, MSA_F32), *out = device(k, 4 * C, MSA_F32);
        for (int64_t T = 16; T <= 64; T *= 4) {
            int64_t B = T / 16, starts[] = {0, 16, 32, 48, 64};
            BEST(t, {
                DO(msa_kern_scan(k, NULL, &r, q, starts, B, rk, MSA_BF16, NULL, W, C, out, &err));
                DO(msa_kern_sync(k, NULL, &err));
            });
            double flop = 2.0 * C * (double)(W * T), bytes = 2.0 * C * (double)W;
            printf("scan of a million tokens, W %lld, T %lld: %.0f us, %.1f GB/s = %.2f of the "
                   "sweep, %.0f GFLOP/s = %.2f of oneDNN f32\n",
                   (long long)W, (long long)T, t * 1e6, bytes / t * 1e-9, bytes / t * 1e-9 / gb_s,
                   flop / t * 1e-9, flop / t * 1e-9 / gflops);
        }
        msa_kern_free(k, rk, MSA_MEM_DEVICE);
        msa_kern_free(k, q, MSA_MEM_DEVICE);
        msa_kern_free(k, out, MSA_MEM_DEVICE);
    }
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "cpu";
    int threads = argc > 2 ? atoi(argv[2]) : 0;
    msa_pool *pool = msa_pool_new(threads);
    if (!pool)
        return 1;
    double gb_s = read_gb_s(pool), ceiling[2] = {0};
    printf("%d threads; memory read %.1f GB/s\n", msa_pool_threads(pool), gb_s);
    for (int t = MSA_F32; t <= MSA_BF16; t++)
        for (int i = 0; i < 4; i++) {
            double g = dnnl_gflops(pool, (msa_dtype)t, 1024, shapes[i][0], shapes[i][1]);
            ceiling[t] = g > ceiling[t] ? g : ceiling[t];
            printf("oneDNN %s %-8s M 1024: %.0f GFLOP/s\n", msa_dtype_name((msa_dtype)t),
                   shape_names[i], g);
        }
    msa_pool_free(pool);
    for (int t = MSA_F32; t <= MSA_BF16; t++) {
        msa_kern *k;
        msa_kern_opts o = {.act = (msa_dtype)t, .n_threads = threads};
        DO(msa_kern_open(name, &o, &k, &err));
        msa_kern_info info;
        msa_kern_info_get(k, &info);
        msa_kern_shape s = {.rows = info.batch_tokens, .E = E, .H = 16, .G = 16, .D = D, .I = I,
                            .V = V, .max_seq = 8192, .queries = 16, .route_tokens = 1024,
                            .scan_chunks = 16384, .scan_docs = 16384, .top_k = 64};
        DO(msa_kern_reserve(k, &s, false, NULL, &err));
        printf("\n%s on %s, %s\n", info.name, info.device, msa_dtype_name(info.act));
        model m = model_new(k, (msa_dtype)t, info.batch_tokens);
        bench_prefill(&m, ceiling[t]);
        bench_decode(&m, gb_s);
        model_free(&m);
        if (t == MSA_BF16)
            bench_scan(k, gb_s, ceiling[MSA_F32]);
        msa_kern_close(k);
    }
    return 0;
}
