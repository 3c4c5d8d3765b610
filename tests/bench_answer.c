/* Stages 2 and 3 on the CPU: tokens a second of greedy decoding beside the memory
 * bandwidth that reading the weights once a step would need, and the routing scan
 * of a bank of a million tokens beside that bandwidth and oneDNN's product of the
 * same shape; both ceilings are measured in this run.
 *
 *   bench_answer [MODEL]    models/default */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/pool.h"
#include "engine/model_internal.h"
#include "engine/scan.h"
#include "engine/sequence.h"
#include "tests/support_ceiling.h"
#include "tests/support_model.h"

enum {
    BATCH = 16, PROMPT = 128, STEPS = 32,
    TOKENS = 30,                    /* that route, a question */
    CHUNKS = 15625, EXTENT = 2048, DOC_CHUNKS = 8
};

static int fail(const char *what, const msa_err *err)
{
    fprintf(stderr, "bench_answer: %s: %s\n", what, err->msg);
    return 1;
}

/* ---- bandwidth ------------------------------------------------------------------ */

typedef uint64_t vec __attribute__((vector_size(64)));
enum { PIECE = 1 << 20, PIECES = 256 };

typedef struct reading {
    const vec *data;
    uint64_t sums[PIECES];
} reading;

static void read_piece(void *arg, int64_t item, int thread)
{
    (void)thread;
    reading *r = arg;
    vec a = {0}, b = {0}, c = {0}, d = {0};
    const vec *p = r->data + item * (PIECE / (int64_t)sizeof *p);
    for (int64_t i = 0; i < PIECE / (int64_t)sizeof *p; i += 4) {
        a += p[i];
        b += p[i + 1];
        c += p[i + 2];
        d += p[i + 3];
    }
    a += b + c + d;
    r->sums[item] = a[0] + a[7];
}

/* Bytes a second that all threads together read from memory, best of several. */
static double bandwidth(int threads)
{
    msa_pool *pool = msa_pool_new(threads);
    void *data = msa_alloc_aligned(PIECE, PIECES);
    double best = 0;
    if (pool && data) {
        reading r = {.data = data};
        memset(data, 1, (size_t)PIECE * PIECES);
        for (int i = 0; i < 8; i++) {
            double from = msa_seconds();
            msa_pool_run(pool, PIECES, read_piece, &r);
            double rate = (double)PIECE * PIECES / (msa_seconds() - from);
            best = rate > best ? rate : best;
        }
    }
    free(data);
    msa_pool_free(pool);
    return best;
}

/* ---- decoding ---------------------------------------------------------------------- */

static msa_rc decode(msa_model *m, msa_bank *b, int64_t batch, double bytes_s, msa_err *err)
{
    int32_t ids[PROMPT], next[BATCH];
    msa_seq_rows rows[BATCH];
    msa_kern_sample greedy[BATCH];
    msa_seqs *s = NULL;
    uint64_t seed = 1;
    for (int i = 0; i < PROMPT; i++)
        ids[i] = (int32_t)(msa_test_next(&seed) % (uint64_t)m->config.V);
    msa_rc rc = msa_seqs_new(m, b, &(msa_seqs_opts){.slots = batch, .context = PROMPT + STEPS + 4,
                                                    .rows = BATCH * PROMPT + STEPS, .top_k = 1, .combined = true},
                             &s, err);
    for (int64_t i = 0; i < batch; i++) {
        rows[i] = (msa_seq_rows){.slot = i, .ids = ids, .n = PROMPT, .logits = true};
        greedy[i] = (msa_kern_sample){.top_p = 1};
    }
    double from = msa_seconds(), prefill = 0, best = 0;
    for (int step = 0; rc >= 0 && step < STEPS; step++) {
        from = msa_seconds();
        rc = msa_seqs_run(s, rows, batch, err);
        if (rc >= 0)
            rc = msa_seqs_sample(s, greedy, next, err);
        double took = msa_seconds() - from;
        if (step == 0)
            prefill = took;
        else if (best == 0 || took < best)
            best = took;
        for (int64_t i = 0; i < batch; i++)
            rows[i] = (msa_seq_rows){.slot = i, .ids = &next[i], .n = 1, .at = rows[i].at + rows[i].n,
                                     .pos = rows[i].at + rows[i].n, .logits = true};
    }
    if (rc >= 0)
        printf("decode, batch %2lld: %6.1f tokens/s, %.2f ms a step, %.2f of bandwidth (weights %.0f MB a step); "
               "entering: %.0f tokens/s\n",
               (long long)batch, (double)batch / best, best * 1e3,
               (double)m->weight_bytes / best / bytes_s, (double)m->weight_bytes * 1e-6,
               (double)(batch * PROMPT) / prefill);
    msa_seqs_free(s);
    return rc;
}

/* ---- scanning ------------------------------------------------------------------------- */

static msa_rc fill(msa_bank *b, const msa_config *c, msa_err *err)
{
    const int64_t W = c->G * c->D;
    msa_bank_rows rows[256];
    int64_t ids[EXTENT], start[EXTENT + 1] = {0};
    int32_t tokens[EXTENT];
    uint64_t seed = 3;
    float *data = msa_alloc(EXTENT * W, sizeof *data);
    if (!data)
        return msa_err_nomem(err, "a bench");
    for (int64_t i = 0; i < EXTENT * W; i++)
        data[i] = msa_test_uniform(&seed);
    for (int64_t r = 0; r < c->n_router; r++)
        rows[r] = (msa_bank_rows){data, data, data};
    msa_rc rc = MSA_OK;
    for (int64_t at = 0, id = 1; rc >= 0 && at < CHUNKS; at += EXTENT) {
        const int64_t chunks = CHUNKS - at < EXTENT ? CHUNKS - at : EXTENT;
        int64_t n = 0;
        for (; start[n] < chunks; n++) {
            int64_t len = chunks - start[n] < DOC_CHUNKS ? chunks - start[n] : DOC_CHUNKS;
            ids[n] = id++;
            start[n + 1] = start[n] + len;
            tokens[n] = (int32_t)(len * c->P);
        }
        rc = msa_bank_append(b, n, ids, start, tokens, rows, err);
    }
    free(data);
    return rc;
}

static msa_rc scan(msa_model *m, msa_bank *b, int64_t batch, double bytes_s, msa_err *err)
{
    const msa_config *c = &m->config;
    const int64_t width = msa_kern_route_width(&c->route), T = batch * TOKENS;
    int64_t layers[256], q_start[BATCH + 1];
    const float *q[256];
    msa_kern_best best_docs[BATCH * 16];
    msa_scan *s = NULL;
    void *queries = NULL;
    uint64_t seed = 9;
    msa_rc rc = msa_kern_alloc(m->kern, T * width * (int64_t)sizeof(float), MSA_MEM_DEVICE, &queries, err);
    for (int64_t i = 0; rc >= 0 && i < T * width; i++)
        ((float *)queries)[i] = msa_test_uniform(&seed);
    for (int64_t l = 0; l < c->n_router; l++)
        layers[l] = l, q[l] = queries;
    for (int64_t i = 0; i <= batch; i++)
        q_start[i] = i * TOKENS;
    if (rc >= 0)
        rc = msa_scan_new(m, b, &(msa_scan_opts){.queries = batch, .tokens = T, .top_k = 16}, &s, err);
    double best = 0;
    for (int i = 0; rc >= 0 && i < 6; i++) {
        double from = msa_seconds();
        rc = msa_scan_run(s, layers, c->n_router, q, m->protocol.layer_weights, q_start, batch, 16, best_docs, err);
        double took = msa_seconds() - from;
        best = best == 0 || took < best ? took : best;
    }
    const double bytes = (double)(CHUNKS * c->G * c->D * c->n_router * msa_dtype_bytes(msa_bank_dtype(b)));
    const double gemm = msa_ceiling_gemm(msa_bank_dtype(b), T, EXTENT, width) / EXTENT * CHUNKS * (double)c->n_router;
    if (rc >= 0)
        printf("scan of %d chunks, %lld layers, batch %2lld of %d tokens: %.2f ms, %.2f ms a question; "
               "%.2f of bandwidth, %.2f of oneDNN's product\n", CHUNKS, (long long)c->n_router,
               (long long)batch, TOKENS, best * 1e3, best * 1e3 / (double)batch, bytes / best / bytes_s,
               gemm / best);
    msa_scan_free(s);
    msa_kern_free(m->kern, queries, MSA_MEM_DEVICE);
    return rc;
}

static msa_rc bench(msa_model *m, const char *folder, msa_err *err)
{
    msa_kern_info info;
    msa_bank *b = NULL;
    msa_kern_info_get(m->kern, &info);
    const double bytes_s = bandwidth(info.n_threads);
    printf("%s on %s, %s, %d threads; memory is read at %.1f GB/s\n", m->name, info.device,
           msa_dtype_name(info.act), info.n_threads, bytes_s * 1e-9);
    msa_rc rc = msa_bank_open(folder, m, MSA_BANK_WRITE, MSA_BF16, &b, err);
    if (rc >= 0)
        rc = fill(b, &m->config, err);
    for (int64_t batch = 1; rc >= 0 && batch <= BATCH; batch *= BATCH)
        rc = decode(m, b, batch, bytes_s, err);
    for (int64_t batch = 1; rc >= 0 && batch <= BATCH; batch *= BATCH)
        rc = scan(m, b, batch, bytes_s, err);
    msa_bank_close(b);
    return rc;
}

int main(int argc, char **argv)
{
    const char *dir = argc > 1 ? argv[1] : "models/default";
    const msa_dtype acts[] = {MSA_BF16, MSA_F32};
    int status = 0;
    for (int i = 0; i < 2 && !status; i++) {
        char folder[] = "/tmp/msa-bench-XXXXXX", command[64];
        msa_model *m = NULL;
        msa_err err;
        msa_err_init(&err);
        if (!mkdtemp(folder))
            return 1;
        const msa_model_opts opts = {.backend = "cpu", .compute = acts[i]};
        if (msa_model_open_bare(dir, &opts, &m, &err) < 0)
            return fail("model", &err);
        if (bench(m, folder, &err) < 0)
            status = fail("run", &err);
        msa_model_close(m);
        snprintf(command, sizeof command, "rm -rf '%s'", folder);
        if (system(command))
            status = 1;
    }
    return status;
}
