/* Stage 1 on the CPU: tokens a second beside the ceiling that oneDNN's products
 * of the same shapes set in this run, and bytes of store a token.
 *
 *   bench_engine [MODEL [TOKENS]]    models/default, 8192 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine/bank.h"
#include "engine/model_internal.h"
#include "tests/support_ceiling.h"
#include "tests/support_model.h"

enum { PASSAGE = 400 };

typedef struct source {
    int64_t V, left, id;
    uint64_t seed;
    int32_t ids[PASSAGE + PASSAGE / 4];
} source;

/* Passages of 300 to 500 random tokens. */
static msa_rc next_doc(void *user, msa_doc_tokens *out, msa_err *err)
{
    source *s = user;
    (void)err;
    if (s->left <= 0)
        return MSA_END;
    const int64_t n = PASSAGE * 3 / 4 + (int64_t)(msa_test_next(&s->seed) % (PASSAGE / 2 + 1));
    for (int64_t i = 0; i < n; i++)
        s->ids[i] = (int32_t)(msa_test_next(&s->seed) % (uint64_t)s->V);
    s->left -= n;
    *out = (msa_doc_tokens){.id = ++s->id, .ids = s->ids, .n = n};
    return MSA_OK;
}

/* Floating-point operations of the matrix products that stage 1 runs for a token,
 * and the seconds that oneDNN takes for them at M rows. */
static void products(const msa_config *c, msa_dtype act, int64_t M, double *flop, double *seconds)
{
    const int64_t last = c->router_layers[c->n_router - 1];
    const int64_t shape[][2] = {
        {(c->H + 2 * c->G) * c->D, c->E}, {c->E, c->H * c->D}, {2 * c->I, c->E}, {c->E, c->I}};
    *flop = *seconds = 0;
    for (int i = 0; i < 4; i++) {
        const int64_t times = i ? last : last + 1; /* of the last router layer only q, k, v */
        const double one = msa_ceiling_gemm(act, M, shape[i][0], shape[i][1]) / (double)M;
        const double f = 2.0 * (double)shape[i][0] * (double)shape[i][1];
        printf("  oneDNN %lld x %lld x %lld: %.0f GFLOP/s\n", (long long)M, (long long)shape[i][0],
               (long long)shape[i][1], f / one * 1e-9);
        *flop += (double)times * f;
        *seconds += (double)times * one;
    }
}

static int fail(const char *what, const msa_err *err)
{
    fprintf(stderr, "bench_engine: %s: %s\n", what, err->msg);
    return 1;
}

static int bench(msa_model *m, int64_t tokens, const char *folder)
{
    const msa_config *c = &m->config;
    msa_kern_info info;
    msa_prefill_stat st;
    msa_bank_stat bank_st;
    msa_bank *b = NULL;
    msa_err err;
    double flop, ceiling, best = 0;
    msa_err_init(&err);
    msa_kern_info_get(m->kern, &info);
    printf("%s on %s, %s, %d threads: %lld layers, E %lld, router layers %lld to %lld, P %lld\n", m->name,
           info.device, msa_dtype_name(info.act), info.n_threads, (long long)c->n_layers,
           (long long)c->E, (long long)c->router_layers[0],
           (long long)c->router_layers[c->n_router - 1], (long long)c->P);
    if (msa_bank_open(folder, m, MSA_BANK_WRITE, MSA_BF16, &b, &err) < 0)
        return fail("bank", &err);
    source s = {.V = c->V, .seed = 1};
    /* a short run warms up; the better of two runs counts */
    const int64_t runs[] = {info.batch_tokens, tokens, tokens};
    for (int i = 0; i < 3; i++) {
        const clock_t from = clock();
        s.left = runs[i];
        if (msa_prefill_run(m, b, next_doc, &s, NULL, &st, &err) < 0) {
            msa_bank_close(b);
            return fail("prefill", &err);
        }
        const double speed = (double)st.tokens / st.seconds;
        const double core = (double)(clock() - from) / CLOCKS_PER_SEC;
        if (i)
            printf("  prefill of %lld passages, %lld tokens: %.0f tokens/s, %.0f a core-second\n",
                   (long long)st.docs, (long long)st.tokens, speed, (double)st.tokens / core);
        if (i && speed > best)
            best = speed;
    }
    msa_bank_stat_get(b, &bank_st);
    msa_bank_close(b);
    products(c, info.act, info.batch_tokens, &flop, &ceiling);
    printf("prefill: %.0f tokens/s, %.0f GFLOP/s in products; ceiling %.0f tokens/s; share %.2f\n", best,
           best * flop * 1e-9, 1 / ceiling, best * ceiling);
    printf("store: %.0f bytes a token (%s; %.1f tokens a chunk of %lld)\n",
           (double)bank_st.bytes / (double)bank_st.n_tokens, msa_dtype_name(bank_st.dtype),
           (double)bank_st.n_tokens / (double)bank_st.n_chunks, (long long)c->P);
    return 0;
}

int main(int argc, char **argv)
{
    const char *dir = argc > 1 ? argv[1] : "models/default";
    const int64_t tokens = argc > 2 ? atoll(argv[2]) : 8192;
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
        status = bench(m, tokens, folder);
        msa_model_close(m);
        snprintf(command, sizeof command, "rm -rf '%s'", folder);
        if (system(command))
            status = 1;
    }
    return status;
}
