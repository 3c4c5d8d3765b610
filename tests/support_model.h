/* Small models with random weights for tests, made without a checkpoint. */
#ifndef MSA_TESTS_SUPPORT_MODEL_H
#define MSA_TESTS_SUPPORT_MODEL_H

#include "engine/model_internal.h"

/* Zero fields take the value in brackets. */
typedef struct msa_test_model_opts {
    const char *backend;                   /* ["ref"] */
    msa_dtype act;                         /* [f32] */
    int n_threads;                         /* [1] */
    int64_t n_layers, E, H, G, D, I, V, P; /* [3, 32, 4, 2, 8, 48, 64, 4] */
    int64_t n_router, router_layers[8];    /* [the last n_layers/2, at least 1] */
    int64_t max_positions, top_k;          /* [4096, 3] */
    bool llama, coupled, dot;              /* no q/k norm; no router matrices; products, not cosine */
    msa_reduce head, query, chunk;         /* [MEAN each] */
    uint64_t seed;
} msa_test_model_opts;

/* A bare model; its fingerprint depends on every option but the backend's.
 * Fails the test when it cannot be made. */
msa_model *msa_test_model_new(const msa_test_model_opts *opts);
void msa_test_model_free(msa_model *m);

/* A small generator, the same on every machine. */
uint64_t msa_test_next(uint64_t *state);
/* Uniform in [-1, 1). */
float msa_test_uniform(uint64_t *state);

#endif
