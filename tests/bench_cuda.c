/* The CUDA backend beside the ceilings of its card, measured in the same run:
 * build/cuda/tests/bench_cuda [cuda:N] [part...]; parts: prefill scan recall decode.
 * Random weights at the geometry of the published model (Qwen3-4B with 18 router
 * layers) and of SmolLM2-135M. Wall-clock time around repetitions that are queued
 * one behind the other. */
#define _GNU_SOURCE
#include <ftw.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/mem.h"
#include "engine/forward.h"
#include "kernels/dtype.h"
#include "tests/support_cublas.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static msa_err err;
static void must(msa_rc rc, const char *what)
{
    if (rc == MSA_OK)
        return;
    fprintf(stderr, "bench_cuda: %s: %s\n", what, err.msg);
    exit(1);
}
#define DO(call) must(call, #call)

/* Seconds of one of n queued calls, the better of two rounds. */
#define TIMED(seconds, n, call)                                     \
    double seconds = INFINITY;                                      \
    {                                                               \
        call;                                                       \
    }                                                               \
    for (int round_ = 0; round_ < 2; round_++) {                    \
        DO(msa_kern_sync(k, NULL, &err));                           \
        const double from_ = now();                                 \
        for (int i_ = 0; i_ < (n); i_++) {                          \
            call;                                                   \
        }                                                           \
        DO(msa_kern_sync(k, NULL, &err));                           \
        const double one_ = (now() - from_) / (n);                  \
        seconds = one_ < seconds ? one_ : seconds;                  \
    }

static double began;
static void row(const char *what, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void row(const char *what, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    printf("%-34s ", what);
    vprintf(format, ap);
    printf("  [%.0f s]\n", now() - began);
    fflush(stdout);
    va_end(ap);
}

/* ---- numbers ------------------------------------------------------------------- */

enum { PIECE = 1 << 26 }; /* bytes of random numbers that are sent again and again */
static uint64_t *random_bits;

static void make_random(void)
{
    random_bits = msa_alloc(PIECE, 1);
    uint64_t x = 0x9e3779b97f4a7c15u;
    for (int64_t i = 0; random_bits && i < PIECE / 8; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        random_bits[i] = x;
    }
}

/* Uniform in [-1, 1); the bits begin again elsewhere each time they are used up, so
 * that no two rows get the same numbers. */
static float uniform(int64_t *at)
{
    const int64_t n = PIECE / 8, i = (*at + *at / (n - 15) * 777) % n;
    ++*at;
    return (float)(random_bits[i] >> 40) * 0x1p-23f - 1;
}

/* n random numbers of bf16 between 2^-7 and 2^-5 in magnitude; host memory. */
static uint16_t *bf16_numbers(int64_t n)
{
    uint64_t *p = msa_alloc((n + 3) / 4, 8);
    if (!p)
        must(msa_err_nomem(&err, "random numbers"), "numbers");
    for (int64_t i = 0; i < (n + 3) / 4; i++)
        p[i] = (random_bits[(i * 3 + i / 1000003) % (PIECE / 8)] & 0x80ff80ff80ff80ffu) | 0x3c003c003c003c00u;
    return (uint16_t *)p;
}

static void *device(msa_kern *k, int64_t bytes)
{
    void *p;
    DO(msa_kern_alloc(k, bytes, MSA_MEM_DEVICE, &p, &err));
    return p;
}

/* Device memory full of what lies at `from` (from_bytes), again and again. */
static void *device_of(msa_kern *k, const void *from, int64_t from_bytes, int64_t bytes)
{
    char *p = device(k, bytes);
    for (int64_t at = 0; at < bytes; at += from_bytes)
        DO(msa_kern_copy(k, NULL, p + at, from, bytes - at < from_bytes ? bytes - at : from_bytes, &err));
    DO(msa_kern_sync(k, NULL, &err));
    return p;
}

/* ---- ceilings -------------------------------------------------------------------- */

static struct {
    double copy;          /* bytes/s, read and written together: what streaming is measured by */
    double bf16, int8;    /* op/s at the published model's shapes, weighted as prefill needs them */
    double scan_bf16, scan_int8;
} ceiling;

/* The products of a layer, {N, K}. */
typedef struct products {
    int64_t shape[4][2];
} products;

static products products_of(const msa_config *c)
{
    return (products){{{(c->H + 2 * c->G) * c->D, c->E}, {c->E, c->H * c->D}, {2 * c->I, c->E}, {c->E, c->I}}};
}

/* 8-bit op/s over the products of a layer. */
static double int8_rate(int index, const msa_config *c, int64_t M)
{
    const products p = products_of(c);
    double time = 0, ops = 0;
    for (int i = 0; i < 4; i++) {
        const double rate = 1e12 * msa_test_cublas_tflops(index, true, M, p.shape[i][0], p.shape[i][1]);
        const double n = 2.0 * (double)M * (double)p.shape[i][0] * (double)p.shape[i][1];
        if (rate <= 0)
            return 0;
        ops += n;
        time += n / rate;
    }
    return ops / time;
}

static void ceilings(msa_kern *k, int index, const msa_config *c)
{
    const int64_t bytes = 2LL << 30;
    char *a = device_of(k, random_bits, PIECE, bytes), *b = device(k, bytes);
    TIMED(t, 10, DO(msa_kern_copy(k, NULL, b, a, bytes, &err)));
    ceiling.copy = 2 * (double)bytes / t;
    msa_kern_free(k, a, MSA_MEM_DEVICE);
    msa_kern_free(k, b, MSA_MEM_DEVICE);
    row("ceiling: device copy", "%.2f TB/s, read and written", ceiling.copy * 1e-12);
    const products p = products_of(c);
    ceiling.bf16 = 1e12 * msa_test_cublas_layer(index, 32768, p.shape, 4, 0, NULL);
    row("ceiling: bf16, the 4B's layer", "%.0f TFLOP/s at 32,768 rows (cuBLASLt)", ceiling.bf16 * 1e-12);
    ceiling.int8 = int8_rate(index, c, 32768);
    row("ceiling: int8, the 4B's layer", "%.0f TOP/s at 32,768 rows (cuBLASLt)", ceiling.int8 * 1e-12);
    ceiling.scan_bf16 = 1e12 * msa_test_cublas_tflops(index, false, 65536, 2048, 1024);
    ceiling.scan_int8 = 1e12 * msa_test_cublas_tflops(index, true, 65536, 2048, 1024);
    row("ceiling: keys x 2,048 tokens", "bf16 %.0f TFLOP/s, int8 %.0f TOP/s (cuBLASLt, scores written)",
        ceiling.scan_bf16 * 1e-12, ceiling.scan_int8 * 1e-12);
}

/* ---- a model of random weights ------------------------------------------------------ */

static msa_config geometry(bool published)
{
    msa_config c = {.qk_norm = published, .max_positions = 32768, .rms_eps = 1e-6f, .rope_theta = 1e6, .P = 64,
                    .top_k = 16, .tied = true, .decoupled = true};
    if (published)
        c.n_layers = 36, c.E = 2560, c.H = 32, c.G = 8, c.D = 128, c.I = 9728, c.V = 151936, c.n_router = 18;
    else
        c.n_layers = 30, c.E = 576, c.H = 9, c.G = 3, c.D = 64, c.I = 1536, c.V = 49152, c.n_router = 5;
    for (int64_t i = 0; i < c.n_router; i++)
        c.router_layers[i] = published ? 18 + i : 9 + 4 * i;
    c.route = (msa_kern_route){.h = {c.H, c.G, c.D}, .unit = true, .scale = 1, .head = MSA_REDUCE_MEAN,
                               .query = MSA_REDUCE_MAX, .chunk = MSA_REDUCE_MAX};
    return c;
}

static msa_kern_weight *matrix(msa_model *m, const uint16_t *numbers, int64_t N, int64_t K)
{
    msa_kern_weight *w;
    DO(msa_kern_weight_new(m->kern, numbers, MSA_BF16, N, K, &w, &err));
    m->weight_bytes += msa_kern_weight_bytes(w);
    return w;
}

static float *gains(msa_model *m, int64_t n)
{
    float *g = msa_alloc(n, sizeof *g);
    for (int64_t i = 0; i < n; i++)
        g[i] = 1 + 0.1f * (float)(i % 7);
    void *p = device_of(m->kern, g, n * (int64_t)sizeof *g, n * (int64_t)sizeof *g);
    free(g);
    return p;
}

/* Every layer has memory of its own for its weights, with the same numbers. */
static msa_model *model_new(msa_kern *k, const msa_config *c)
{
    msa_model *m = msa_calloc(1, sizeof *m);
    *m = (msa_model){.config = *c, .bare = true, .kern = k, .name = msa_strdup("bench"),
                     .layers = msa_calloc(c->n_layers, sizeof *m->layers)};
    uint16_t *numbers = bf16_numbers(c->V * c->E);
    m->embed = m->output = matrix(m, numbers, c->V, c->E);
    m->final_norm = gains(m, c->E);
    for (int64_t i = 0, router = 0; i < c->n_layers; i++) {
        const bool routes = router < c->n_router && c->router_layers[router] == i;
        m->layers[i] = (msa_layer){
            .attn_norm = gains(m, c->E), .mlp_norm = gains(m, c->E),
            .q_norm = c->qk_norm ? gains(m, c->D) : NULL, .k_norm = c->qk_norm ? gains(m, c->D) : NULL,
            .qkv = matrix(m, numbers, (c->H + 2 * c->G) * c->D, c->E),
            .o = matrix(m, numbers, c->E, c->H * c->D), .gate_up = matrix(m, numbers, 2 * c->I, c->E),
            .down = matrix(m, numbers, c->E, c->I), .router = routes ? router++ : -1,
            .router_q = routes ? matrix(m, numbers, c->H * c->D, c->E) : NULL,
            .router_k = routes ? matrix(m, numbers, c->G * c->D, c->E) : NULL};
    }
    free(numbers);
    msa_sha256_hex("bench", 5, m->fingerprint);
    return m;
}

static void model_free(msa_model *m)
{
    for (int64_t i = 0; i < m->config.n_layers; i++) {
        msa_layer *l = &m->layers[i];
        float *g[] = {l->attn_norm, l->mlp_norm, l->q_norm, l->k_norm};
        msa_kern_weight *w[] = {l->qkv, l->o, l->gate_up, l->down, l->router_q, l->router_k};
        for (int j = 0; j < 4; j++)
            msa_kern_free(m->kern, g[j], MSA_MEM_DEVICE);
        for (int j = 0; j < 6; j++)
            msa_kern_weight_free(m->kern, w[j]);
    }
    msa_kern_free(m->kern, m->final_norm, MSA_MEM_DEVICE);
    msa_kern_weight_free(m->kern, m->embed);
    free(m->layers);
    free(m->name);
    free(m);
}

/* ---- stage 1 -------------------------------------------------------------------------- */

typedef struct stream {
    int64_t docs, doc_tokens, given, V;
    bool mixed;                    /* lengths from half to three halves of doc_tokens */
    int32_t *ids;
} stream;

static msa_rc next_doc(void *user, msa_doc_tokens *out, msa_err *e)
{
    (void)e;
    stream *s = user;
    if (s->given == s->docs)
        return MSA_END;
    const uint64_t any = random_bits[s->given * 31 % (PIECE / 8)] >> 8;
    const int64_t n = s->mixed ? s->doc_tokens / 2 + (int64_t)(any % (uint64_t)s->doc_tokens) : s->doc_tokens;
    for (int64_t i = 0; i < n; i++)
        s->ids[i] = (int32_t)(random_bits[(s->given * s->doc_tokens + i) % (PIECE / 8)] % (uint64_t)s->V);
    *out = (msa_doc_tokens){.id = ++s->given, .ids = s->ids, .n = n};
    return MSA_OK;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    return remove(path);
}

/* FLOP a token that stage 1 needs: products of all layers before the last router
 * layer, keys and values of that one, router keys of chunks. */
static double prefill_flop(const msa_config *c)
{
    const int64_t last = c->router_layers[c->n_router - 1];
    const double layer = (double)c->E * (double)((2 * c->H + 2 * c->G) * c->D + 3 * c->I);
    const double kv = 2 * (double)c->E * (double)(c->G * c->D);
    return 2 * ((double)last * layer + kv + (double)c->n_router * kv / 2 / (double)c->P);
}

/* Seconds of a prefill of `docs` documents into a bank of its own. */
static double prefill_run(msa_model *m, stream *s, int64_t docs, msa_prefill_stat *stat)
{
    char dir[] = "/tmp/bench_cuda_XXXXXX", bank_dir[64];
    if (!mkdtemp(dir))
        must(msa_err_set(&err, MSA_FATAL, MSA_E_INTERNAL, "no folder in /tmp"), "prefill");
    snprintf(bank_dir, sizeof bank_dir, "%s/bank", dir);
    s->docs = docs;
    s->given = 0;
    msa_bank *bank;
    DO(msa_bank_open(bank_dir, m, MSA_BANK_WRITE, MSA_BF16, &bank, &err));
    const double from = now();
    DO(msa_prefill_run(m, bank, next_doc, s, &(msa_prefill_opts){0}, stat, &err));
    const double all = now() - from;
    msa_bank_close(bank);
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return all;
}

/* By the device's own seconds: batches land late and together, so that what lands in a
 * stretch of time says little. A first run of a fifth finds the products' plans. Beside
 * the products of a layer alone, right behind the run while the card is hot: for seconds
 * on end, which is what a prefill lasts, and for moments. */
static void prefill(msa_model *m, int index, const char *name, int64_t doc_tokens, bool mixed, int64_t tokens)
{
    char what[64];
    stream s = {.doc_tokens = doc_tokens, .mixed = mixed, .V = m->config.V,
                .ids = msa_alloc(2 * doc_tokens, sizeof *s.ids)};
    msa_prefill_stat stat;
    prefill_run(m, &s, tokens / doc_tokens / 5, &stat);
    const double all = prefill_run(m, &s, tokens / doc_tokens, &stat);
    const double rate = (double)stat.tokens / stat.device_seconds;
    const products p = products_of(&m->config);
    double hot;
    const double moment = msa_test_cublas_layer(index, 32768, p.shape, 4, 2.5, &hot);
    const double flop = prefill_flop(&m->config) * 1e-12;
    snprintf(what, sizeof what, "prefill %s, documents of %s%lld", name, mixed ? "about " : "", (long long)doc_tokens);
    row(what, "%8.0f tokens/s = %.2f of the GEMM floor as sustained, %.2f of the short one", rate, rate * flop / hot,
        rate * flop / moment);
    row("  its products alone", "%.0f TFLOP/s sustained, %.0f short: %.0f and %.0f tokens/s", hot, moment, hot / flop,
        moment / flop);
    row("  whole call, bank written", "%.0f tokens/s; the device had a batch %.3f of %.3f s, idle %.1f %% at least",
        (double)stat.tokens / all, stat.device_seconds, all, 100 * (1 - stat.device_seconds / all));
    free(s.ids);
}

/* ---- routing --------------------------------------------------------------------------- */

enum { W = 1024, BANK_CHUNKS = 390625, BANK_DOCS = BANK_CHUNKS / 2, QUESTION = 64, MOST_TOKENS = 2048 };

typedef struct bank_rows {
    uint16_t *bf16;   /* [BANK_CHUNKS, W] device */
    int8_t *int8;
    float *factor;    /* [BANK_CHUNKS] */
} bank_rows;

static bank_rows bank_new(msa_kern *k)
{
    const int64_t C = BANK_CHUNKS;
    uint16_t *numbers = bf16_numbers(PIECE / 2);
    bank_rows b = {device_of(k, numbers, PIECE, C * W * 2), device(k, C * W), device(k, C * 4)};
    DO(msa_kern_quantize(k, NULL, b.bf16, MSA_BF16, W, W, W, C, b.int8, W, b.factor, MSA_F32, 1, &err));
    DO(msa_kern_sync(k, NULL, &err));
    free(numbers);
    return b;
}

static void bank_free(msa_kern *k, bank_rows *b)
{
    msa_kern_free(k, b->bf16, MSA_MEM_DEVICE);
    msa_kern_free(k, b->int8, MSA_MEM_DEVICE);
    msa_kern_free(k, b->factor, MSA_MEM_DEVICE);
}

static float *random_queries(msa_kern *k, const msa_kern_route *r, int64_t T)
{
    uint16_t *numbers = bf16_numbers(T * r->h.H * r->h.D);
    void *rq = device_of(k, numbers, T * r->h.H * r->h.D * 2, T * r->h.H * r->h.D * 2);
    float *q = device(k, T * W * 4);
    DO(msa_kern_router_query(k, NULL, r, rq, false, r->h.H * r->h.D, T, q, &err));
    DO(msa_kern_sync(k, NULL, &err));
    msa_kern_free(k, rq, MSA_MEM_DEVICE);
    free(numbers);
    return q;
}

static void scan_part(msa_kern *k, const msa_config *c, const bank_rows *b)
{
    enum { TOP = 64, MOST_QUESTIONS = MOST_TOKENS / QUESTION };
    static const int64_t tokens[] = {64, 256, 2048};
    const int64_t C = BANK_CHUNKS, N = BANK_DOCS;
    DO(msa_kern_reserve(k, &(msa_kern_shape){.H = c->H, .G = c->G, .D = c->D, .queries = MOST_QUESTIONS,
                                             .route_tokens = MOST_TOKENS, .scan_chunks = C, .scan_docs = N,
                                             .top_k = TOP}, false, NULL, &err));
    float *q = random_queries(k, &c->route, MOST_TOKENS);
    float *out = device(k, MOST_QUESTIONS * C * 4), *docs = device(k, MOST_QUESTIONS * N * 4);
    msa_kern_best *best = device(k, MOST_QUESTIONS * TOP * (int64_t)sizeof *best);
    int64_t *host = msa_alloc(N + 1, sizeof *host), q_start[MOST_QUESTIONS + 1];
    for (int64_t n = 0; n <= N; n++)
        host[n] = n == N ? C : 2 * n;
    int64_t *doc_chunk = device_of(k, host, (N + 1) * 8, (N + 1) * 8);
    free(host);
    for (int64_t i = 0; i <= MOST_QUESTIONS; i++)
        q_start[i] = i * QUESTION;
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        const int64_t T = tokens[i], B = T / QUESTION;
        for (int t = 0; t < 2; t++) {
            const msa_dtype kt = t ? MSA_I8 : MSA_BF16;
            const void *rk = t ? (void *)b->int8 : b->bf16;
            TIMED(s, T > 1000 ? 10 : 40,
                  DO(msa_kern_scan(k, NULL, &c->route, q, q_start, B, rk, kt, t ? b->factor : NULL, W, C, out,
                                   &err)));
            const double bytes = (double)C * (W * (double)msa_dtype_bytes(kt) + (t ? 4 : 0)) + 4.0 * (double)(B * C);
            const double ops = 2.0 * (double)T * (double)C * W, rate = t ? ceiling.int8 : ceiling.bf16;
            char what[64];
            snprintf(what, sizeof what, "scan of 25M tokens, %s, T %lld", msa_dtype_name(kt), (long long)T);
            row(what, "%7.0f us; %.2f of the memory floor, %.2f of the GEMM rate (%.2f TB/s, %.0f T/s)", s * 1e6,
                bytes / ceiling.copy / s, rate > 0 ? ops / rate / s : 0, bytes / s * 1e-12, ops / s * 1e-12);
        }
        TIMED(d, 20, DO(msa_kern_doc_scores(k, NULL, &c->route, out, B, C, doc_chunk, N, 1, false, docs, &err)));
        TIMED(m, 20, DO(msa_kern_topk_init(k, NULL, B, TOP, best, &err));
              DO(msa_kern_topk_merge(k, NULL, docs, B, N, doc_chunk, NULL, TOP, best, &err)));
        row("  its documents, best 64", "%7.0f us scores (%.2f of the memory floor), %.0f us best lists", d * 1e6,
            4.0 * (double)(B * (C + N)) / ceiling.copy / d, m * 1e6);
    }
    void *all[] = {q, out, docs, best, doc_chunk};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        msa_kern_free(k, all[i], MSA_MEM_DEVICE);
}

/* ---- recall ------------------------------------------------------------------------------ */

typedef struct found {
    msa_kern_best best[64];
} found;

static int best_first(const void *a, const void *b)
{
    const msa_kern_best *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score) - (x->score > y->score) : (x->doc > y->doc) - (x->doc < y->doc);
}

/* How many of the K documents of `want` are among the first n of `got`. */
static int shared(const found *want, const found *got, int K, int n)
{
    int hits = 0;
    for (int i = 0; i < K; i++)
        for (int j = 0; j < n; j++)
            hits += want->best[i].doc == got->best[j].doc;
    return hits;
}

/* Documents of one chunk around cluster centres, questions of tokens around them:
 * the best 16 by 8 bits with exact rescoring of the best 64, beside those by exact
 * scores of the bf16 rows. */
static void recall_part(msa_kern *k, const msa_config *c)
{
    enum { C = 65536, B = 24, LEN = 48, T = B * LEN, CENTRES = 512, K = 16, TOP = 64 };
    const msa_kern_route *r = &c->route;
    const int64_t wide = c->H * c->D, per = c->H / c->G;
    DO(msa_kern_reserve(k, &(msa_kern_shape){.H = c->H, .G = c->G, .D = c->D, .queries = B, .route_tokens = T,
                                             .scan_chunks = C, .scan_docs = C, .top_k = TOP}, false, NULL, &err));
    float *x = msa_alloc(C, W * 4), *rq = msa_alloc(T, wide * 4), *centre = msa_alloc(CENTRES, W * 4);
    int64_t *ids = msa_alloc(C + 1, sizeof *ids), q_start[B + 1], at = 0;
    for (int64_t i = 0; i < CENTRES * W; i++)
        centre[i] = uniform(&at);
    for (int64_t i = 0; i < C; i++)
        for (int64_t w = 0; w < W; w++)
            x[i * W + w] = centre[i % CENTRES * W + w] + 0.7f * uniform(&at);
    for (int64_t t = 0; t < T; t++)
        for (int64_t h = 0; h < c->H; h++)
            for (int64_t d = 0; d < c->D; d++)
                rq[t * wide + h * c->D + d] =
                    centre[(t / LEN * 7 + t % 3) % CENTRES * W + h / per * c->D + d] + 1.5f * uniform(&at);
    for (int64_t i = 0; i <= C; i++)
        ids[i] = i;
    for (int i = 0; i <= B; i++)
        q_start[i] = i * LEN;
    float *f32 = device_of(k, x, C * W * 4, C * W * 4), *drq = device_of(k, rq, T * wide * 4, T * wide * 4);
    int64_t *dids = device_of(k, ids, (C + 1) * 8, (C + 1) * 8);
    uint16_t *bf16 = device(k, (int64_t)C * W * 2);
    int8_t *i8 = device(k, (int64_t)C * W);
    float *factor = device(k, C * 4), *q = device(k, (int64_t)T * W * 4), *out = device(k, (int64_t)B * C * 4);
    float *again = device(k, B * TOP * 4);
    msa_kern_best *best = device(k, B * TOP * (int64_t)sizeof *best);
    DO(msa_kern_unit_heads(k, NULL, f32, C, c->G, c->D, &err));
    DO(msa_kern_convert(k, NULL, f32, MSA_F32, W, bf16, MSA_BF16, W, W, C, &err));
    DO(msa_kern_quantize(k, NULL, bf16, MSA_BF16, W, W, W, C, i8, W, factor, MSA_F32, 1, &err));
    DO(msa_kern_convert(k, NULL, bf16, MSA_BF16, W, f32, MSA_F32, W, W, C, &err)); /* the exact ones: f32 of the same */
    DO(msa_kern_router_query(k, NULL, r, drq, true, wide, T, q, &err));
    found lists[3][B];
    const struct {
        const void *rk;
        msa_dtype type;
    } ways[3] = {{f32, MSA_F32}, {bf16, MSA_BF16}, {i8, MSA_I8}};
    for (int w = 0; w < 3; w++) {
        DO(msa_kern_scan(k, NULL, r, q, q_start, B, ways[w].rk, ways[w].type, w == 2 ? factor : NULL, W, C, out,
                         &err));
        DO(msa_kern_topk_init(k, NULL, B, TOP, best, &err));
        DO(msa_kern_topk_merge(k, NULL, out, B, C, dids, NULL, TOP, best, &err));
        DO(msa_kern_copy(k, NULL, lists[w], best, sizeof lists[w], &err));
        DO(msa_kern_sync(k, NULL, &err));
    }
    found rescored[B];
    msa_kern_doc_rows items[B * TOP];
    for (int b = 0; b < B; b++)
        for (int i = 0; i < TOP; i++)
            items[b * TOP + i] = (msa_kern_doc_rows){bf16 + lists[2][b].best[i].doc * W, 1, b};
    TIMED(t, 10, DO(msa_kern_score_docs(k, NULL, r, q, q_start, B, items, B * TOP, MSA_BF16, W, 1, false, again,
                                        &err)));
    float scores[B * TOP];
    DO(msa_kern_copy(k, NULL, scores, again, sizeof scores, &err));
    DO(msa_kern_sync(k, NULL, &err));
    int hits[4] = {0};
    for (int b = 0; b < B; b++) {
        rescored[b] = lists[2][b];
        for (int i = 0; i < TOP; i++)
            rescored[b].best[i].score = scores[b * TOP + i];
        qsort(rescored[b].best, TOP, sizeof(msa_kern_best), best_first);
        hits[0] += shared(&lists[0][b], &rescored[b], K, K);
        hits[1] += shared(&lists[0][b], &lists[2][b], K, K);
        hits[2] += shared(&lists[0][b], &lists[2][b], K, TOP);
        hits[3] += shared(&lists[0][b], &lists[1][b], K, K);
    }
    const double all = B * K;
    row("recall, best 16 of 65,536", "int8 rescored %.4f (int8 alone %.4f, exact 16 in its 64 %.4f, bf16 scan %.4f)",
        hits[0] / all, hits[1] / all, hits[2] / all, hits[3] / all);
    row("  rescoring 24 x 64 documents", "%7.0f us", t * 1e6);
    void *memory[] = {f32, drq, dids, bf16, i8, factor, q, out, again, best};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        msa_kern_free(k, memory[i], MSA_MEM_DEVICE);
    free(x), free(rq), free(centre), free(ids);
}

/* ---- decoding ------------------------------------------------------------------------------ */

enum { OWN = 500, CAP = 576, DOCS = 16, DOC_CHUNKS = 4, MOST_BATCH = 64, MOST_LAYERS = 36 };

typedef struct decoder {
    msa_model *m;
    msa_forward f;
    char *ck, *cv;       /* [n_layers, MOST_BATCH, CAP, G*D] */
    float *gathered, *logits;
    void *normed;
    msa_kern_seg segs[MOST_LAYERS][MOST_BATCH * DOCS];
} decoder;

/* One step of B sequences, each with `own` rows before it. */
static void decode_step(decoder *d, int64_t B, int64_t own)
{
    msa_model *m = d->m;
    msa_kern *k = m->kern;
    const msa_config *c = &m->config;
    const int64_t kv = c->G * c->D, bytes = CAP * kv * 2;
    int64_t rows[MOST_BATCH + 1], none[MOST_BATCH + 1], some[MOST_BATCH + 1], at[MOST_BATCH];
    for (int64_t b = 0; b <= B; b++)
        rows[b] = b, none[b] = 0, some[b] = b * DOCS;
    for (int64_t b = 0; b < B; b++)
        at[b] = own;
    DO(msa_kern_graph_begin(k, NULL, B, &err));
    DO(msa_forward_qkv(m, m->layers, &d->f, B, &err));
    for (int64_t i = 0; i < c->n_layers; i++) {
        const msa_layer *l = &m->layers[i];
        const bool routes = l->router >= 0;
        void *ck[MOST_BATCH], *cv[MOST_BATCH];
        for (int64_t b = 0; b < B; b++) {
            ck[b] = d->ck + (i * MOST_BATCH + b) * bytes;
            cv[b] = d->cv + (i * MOST_BATCH + b) * bytes;
        }
        DO(msa_forward_attend(m, l, &d->f, B, rows, routes ? d->segs[i] : NULL, routes ? some : none, ck, cv, at,
                              &err));
        DO(msa_forward_finish(m, l, i + 1 < c->n_layers ? l + 1 : NULL, &d->f, B, &err));
    }
    int64_t idx[MOST_BATCH];
    for (int64_t b = 0; b < B; b++)
        idx[b] = b;
    DO(msa_forward_logits(m, &d->f, idx, B, d->gathered, d->normed, d->logits, &err));
    DO(msa_kern_graph_end(k, NULL, &err));
}

static void decode_part(msa_model *m, const bank_rows *bank)
{
    static const int64_t batches[] = {1, 2, 4, 8, 16, 32, 64};
    enum { STEPS = 30 };
    const msa_config *c = &m->config;
    msa_kern *k = m->kern;
    const int64_t kv = c->G * c->D, caches = c->n_layers * MOST_BATCH * CAP * kv * 2;
    decoder *d = msa_calloc(1, sizeof *d);
    d->m = m;
    DO(msa_kern_reserve(k, &(msa_kern_shape){.rows = MOST_BATCH, .E = c->E, .H = c->H, .G = c->G, .D = c->D,
                                             .I = c->I, .V = c->V, .max_seq = 1024, .queries = MOST_BATCH}, false,
                        NULL, &err));
    DO(msa_forward_new(m, MOST_BATCH, &d->f, &err));
    d->ck = device_of(k, bank->bf16, 1LL << 29, caches);
    d->cv = device_of(k, bank->bf16, 1LL << 29, caches);
    d->gathered = device(k, MOST_BATCH * c->E * 4);
    d->normed = device(k, MOST_BATCH * c->E * 2);
    d->logits = device(k, MOST_BATCH * c->V * 4);
    for (int64_t i = 0, n = 0; i < c->n_layers; i++)
        for (int64_t s = 0; s < MOST_BATCH * DOCS; s++, n++) { /* documents here and there in the bank */
            const uint16_t *row = bank->bf16 + n * 7919 % (BANK_CHUNKS / 2 - DOC_CHUNKS) * W;
            d->segs[i][s] = (msa_kern_seg){.k = row, .v = row + BANK_CHUNKS / 2 * W, .n_rows = DOC_CHUNKS, .stride = W,
                                           .dtype = MSA_BF16};
        }
    int32_t ids[MOST_BATCH];
    int64_t pos[MOST_BATCH];
    for (int b = 0; b < MOST_BATCH; b++)
        ids[b] = 1000 + 37 * b, pos[b] = OWN + 16;
    DO(msa_forward_embed(m, &d->f, ids, pos, MOST_BATCH, &err));
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) {
        const int64_t B = batches[i];
        for (int64_t s = 0; s < 4; s++) /* computed, recorded, replayed */
            decode_step(d, B, OWN + s);
        DO(msa_kern_sync(k, NULL, &err));
        const double from = now();
        for (int64_t s = 0; s < STEPS; s++)
            decode_step(d, B, OWN + 4 + s);
        DO(msa_kern_sync(k, NULL, &err));
        const double t = (now() - from) / STEPS;
        double weights = (double)c->V * (double)c->E * 2;
        for (int64_t l = 0; l < c->n_layers; l++) {
            const msa_layer *y = &m->layers[l];
            weights += (double)(msa_kern_weight_bytes(y->qkv) + msa_kern_weight_bytes(y->o) +
                                msa_kern_weight_bytes(y->gate_up) + msa_kern_weight_bytes(y->down));
        }
        const double keys = (double)(B * kv * 4) * ((OWN + 4 + STEPS / 2) * (double)c->n_layers +
                                                    DOCS * DOC_CHUNKS * (double)c->n_router);
        char what[64];
        snprintf(what, sizeof what, "decode 4B, batch %lld", (long long)B);
        row(what, "%7.3f ms/step, %6.0f tokens/s; %.2f of the floor of weights, %.2f of weights and keys", t * 1e3,
            (double)B / t, weights / ceiling.copy / t, (weights + keys) / ceiling.copy / t);
    }
    msa_kern_graph_clear(k);
    msa_forward_free(m, &d->f);
    void *memory[] = {d->ck, d->cv, d->gathered, d->normed, d->logits};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        msa_kern_free(k, memory[i], MSA_MEM_DEVICE);
    free(d);
}

int main(int argc, char **argv)
{
    const char *backend = argc > 1 && strncmp(argv[1], "cuda", 4) == 0 ? argv[1] : "cuda:0";
    const int first = argc > 1 && backend == argv[1] ? 2 : 1;
    const char *const parts[] = {"scan", "prefill", "decode", "recall"};
    bool want[4];
    for (int p = 0; p < 4; p++) {
        want[p] = first == argc;
        for (int i = first; i < argc; i++)
            want[p] = want[p] || strcmp(argv[i], parts[p]) == 0;
    }
    began = now();
    msa_err_init(&err);
    make_random();
    msa_kern *k;
    DO(msa_kern_open(backend, &(msa_kern_opts){.act = MSA_BF16}, &k, &err));
    msa_kern_info info;
    msa_kern_info_get(k, &info);
    printf("%s: %s\n", info.name, info.device);
    const int index = strchr(backend, ':') ? atoi(strchr(backend, ':') + 1) : 0;
    const msa_config big = geometry(true), little = geometry(false);
    ceilings(k, index, &big);
    bank_rows bank = {0};
    if (want[0] || want[2])
        bank = bank_new(k);
    if (want[0])
        scan_part(k, &big, &bank);
    if (want[1] || want[2]) {
        msa_model *m = model_new(k, &big);
        row("weights of the 4B", "%.2f GB on the device", (double)m->weight_bytes * 1e-9);
        static const int64_t docs[] = {90, 512, 1000};
        for (int i = 0; want[1] && i < 3; i++)
            prefill(m, index, "4B", docs[i], docs[i] == 1000, 450000);
        if (want[2])
            decode_part(m, &bank);
        model_free(m);
    }
    if (want[1]) {
        msa_model *m = model_new(k, &little);
        prefill(m, index, "135M", 400, false, 4000000);
        prefill(m, index, "135M", 400, true, 4000000);
        model_free(m);
    }
    if (want[3])
        recall_part(k, &big);
    bank_free(k, &bank);
    msa_kern_close(k);
    free(random_bits);
    return 0;
}
