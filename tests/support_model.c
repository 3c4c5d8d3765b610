#include "tests/support_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/mem.h"

uint64_t msa_test_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

float msa_test_uniform(uint64_t *state)
{
    return (float)(int64_t)(msa_test_next(state) >> 40) * 0x1p-23f - 1.0f;
}

static void must(msa_rc rc, const msa_err *err)
{
    if (rc != MSA_OK)
        fail_msg("the test's model: %s", err->msg);
}

static float *random_numbers(uint64_t *seed, int64_t n, float scale, float offset)
{
    float *w = msa_alloc(n, sizeof *w);
    assert_non_null(w);
    for (int64_t i = 0; i < n; i++)
        w[i] = offset + scale * msa_test_uniform(seed);
    return w;
}

static msa_kern_weight *matrix(msa_model *m, uint64_t *seed, int64_t N, int64_t K)
{
    msa_err err;
    msa_err_init(&err);
    msa_kern_weight *out = NULL;
    float *w = random_numbers(seed, N * K, 1.5f / sqrtf((float)K), 0);
    must(msa_kern_weight_new(m->kern, w, MSA_F32, N, K, &out, &err), &err);
    m->weight_bytes += msa_kern_weight_bytes(out);
    free(w);
    return out;
}

static float *gains(msa_model *m, uint64_t *seed, int64_t n)
{
    msa_err err;
    msa_err_init(&err);
    void *out = NULL;
    float *w = random_numbers(seed, n, 0.3f, 1);
    must(msa_kern_alloc(m->kern, n * (int64_t)sizeof *w, MSA_MEM_DEVICE, &out, &err), &err);
    must(msa_kern_copy(m->kern, NULL, out, w, n * (int64_t)sizeof *w, &err), &err);
    must(msa_kern_sync(m->kern, NULL, &err), &err);
    free(w);
    return out;
}

static int64_t or(int64_t value, int64_t otherwise)
{
    return value ? value : otherwise;
}

static msa_config config_of(const msa_test_model_opts *o)
{
    msa_config c = {.qk_norm = !o->llama, .n_layers = or(o->n_layers, 3), .E = or(o->E, 32),
                    .H = or(o->H, 4), .G = or(o->G, 2), .D = or(o->D, 8), .I = or(o->I, 48),
                    .V = or(o->V, 64), .max_positions = or(o->max_positions, 4096),
                    .rms_eps = 1e-6f, .rope_theta = 10000, .P = or(o->P, 4),
                    .top_k = or(o->top_k, 3), .decoupled = !o->coupled};
    c.n_router = o->n_router;
    for (int64_t i = 0; i < c.n_router; i++)
        c.router_layers[i] = o->router_layers[i];
    if (!c.n_router) {
        c.n_router = or(c.n_layers / 2, 1);
        for (int64_t i = 0; i < c.n_router; i++)
            c.router_layers[i] = c.n_layers - c.n_router + i;
    }
    c.route = (msa_kern_route){.h = {c.H, c.G, c.D}, .unit = !o->dot, .head = o->head,
                               .query = o->query, .chunk = o->chunk,
                               .scale = !o->dot && !o->coupled ? 1 : 1 / sqrtf((float)c.D)};
    return c;
}

msa_model *msa_test_model_new(const msa_test_model_opts *o)
{
    msa_err err;
    msa_err_init(&err);
    uint64_t seed = o->seed + 1;
    msa_model *m = msa_calloc(1, sizeof *m);
    assert_non_null(m);
    m->config = config_of(o);
    const msa_config *c = &m->config;
    m->bare = true;
    m->name = msa_strdup("test");
    must(msa_kern_open(o->backend ? o->backend : "ref",
                       &(msa_kern_opts){.act = o->act, .n_threads = o->n_threads ? o->n_threads : 1},
                       &m->kern, &err),
         &err);
    m->embed = matrix(m, &seed, c->V, c->E);
    m->output = matrix(m, &seed, c->V, c->E);
    m->final_norm = gains(m, &seed, c->E);
    m->layers = msa_calloc(c->n_layers, sizeof *m->layers);
    assert_non_null(m->layers);
    for (int64_t i = 0, router = 0; i < c->n_layers; i++) {
        msa_layer *l = &m->layers[i];
        l->attn_norm = gains(m, &seed, c->E);
        l->mlp_norm = gains(m, &seed, c->E);
        if (c->qk_norm) {
            l->q_norm = gains(m, &seed, c->D);
            l->k_norm = gains(m, &seed, c->D);
        }
        l->qkv = matrix(m, &seed, (c->H + 2 * c->G) * c->D, c->E);
        l->o = matrix(m, &seed, c->E, c->H * c->D);
        l->gate_up = matrix(m, &seed, 2 * c->I, c->E);
        l->down = matrix(m, &seed, c->E, c->I);
        l->router = router < c->n_router && c->router_layers[router] == i ? router++ : -1;
        if (l->router >= 0 && c->decoupled) {
            l->router_q = matrix(m, &seed, c->H * c->D, c->E);
            l->router_k = matrix(m, &seed, c->G * c->D, c->E);
        }
    }
    char id[512];
    snprintf(id, sizeof id, "%lld %lld %lld %lld %lld %lld %lld %lld %d %d %d %d %d %d %llu",
             (long long)c->n_layers, (long long)c->E, (long long)c->H, (long long)c->G,
             (long long)c->D, (long long)c->I, (long long)c->V, (long long)c->P, o->llama,
             o->coupled, o->dot, (int)o->head, (int)o->query, (int)o->chunk,
             (unsigned long long)o->seed);
    msa_sha256_hex(id, (int64_t)strlen(id), m->fingerprint);
    return m;
}

void msa_test_model_free(msa_model *m)
{
    if (!m)
        return;
    for (int64_t i = 0; i < m->config.n_layers; i++) {
        msa_layer *l = &m->layers[i];
        float *gammas[] = {l->attn_norm, l->mlp_norm, l->q_norm, l->k_norm};
        msa_kern_weight *weights[] = {l->qkv, l->o, l->gate_up, l->down, l->router_q, l->router_k};
        for (size_t g = 0; g < sizeof gammas / sizeof *gammas; g++)
            msa_kern_free(m->kern, gammas[g], MSA_MEM_DEVICE);
        for (size_t w = 0; w < sizeof weights / sizeof *weights; w++)
            msa_kern_weight_free(m->kern, weights[w]);
    }
    msa_kern_free(m->kern, m->final_norm, MSA_MEM_DEVICE);
    msa_kern_weight_free(m->kern, m->embed);
    msa_kern_weight_free(m->kern, m->output);
    msa_kern_close(m->kern);
    free(m->layers);
    free(m->name);
    free(m);
}
