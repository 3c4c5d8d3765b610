/* Which tensors a model consists of: presence, shapes and values are checked
 * here, before anything is packed. */
#ifndef MSA_ENGINE_WEIGHTS_H
#define MSA_ENGINE_WEIGHTS_H

#include "engine/engine.h"
#include "engine/safetensors.h"

/* One layer's tensors; NULL where the model has none. */
typedef struct msa_layer_weights {
    const msa_st_tensor *attn_norm, *mlp_norm, *q_norm, *k_norm;
    const msa_st_tensor *q, *k, *v, *o, *gate, *up, *down, *router_q, *router_k;
} msa_layer_weights;

/* All tensors, borrowed from the safetensors handle. */
typedef struct msa_weights {
    const msa_st_tensor *embed, *output, *final_norm; /* output is embed when tied */
    msa_layer_weights *layers;                        /* [n_layers] */
    const msa_st_tensor **used;                       /* [n_used], sorted by name */
    int64_t n_used;
    int64_t bytes;                                    /* of all used, as stored */
} msa_weights;

/* Finds every tensor of the model and checks its shape and type; sets
 * c->qk_norm by whether q_norm and k_norm are there (all or none). A missing,
 * misshapen or unknown tensor of the decoder (a bias, say) is MSA_FAILED,
 * MSA_E_DATA, naming it. Free with msa_weights_free. */
msa_rc msa_weights_find(const msa_safetensors *st, msa_config *c, msa_weights *out, msa_err *err);
void msa_weights_free(msa_weights *w);

/* Reads all data once, n_threads at a time (0: all): a NaN or infinite value is
 * MSA_FAILED, MSA_E_DATA, naming tensor and index; appends a line with type,
 * shape and SHA-256 for each tensor to out. */
msa_rc msa_weights_digest(const msa_weights *w, int n_threads, msa_buf *out, msa_err *err);

msa_dtype msa_weights_dtype(const msa_st_tensor *t);

#endif
