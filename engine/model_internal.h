/* What the engine's own files share about an open model. */
#ifndef MSA_ENGINE_MODEL_INTERNAL_H
#define MSA_ENGINE_MODEL_INTERNAL_H

#include "engine/engine.h"

/* One decoder layer; gammas are device f32, matrices packed by the backend. */
typedef struct msa_layer {
    float *attn_norm, *mlp_norm;     /* [E] */
    float *q_norm, *k_norm;          /* [D], both NULL on Llama types */
    msa_kern_weight *qkv;            /* [(H+2G)*D, E]: q, k, v stacked */
    msa_kern_weight *o;              /* [E, H*D] */
    msa_kern_weight *gate_up;        /* [2I, E]: gate, then up */
    msa_kern_weight *down;           /* [E, I] */
    msa_kern_weight *router_q;       /* [H*D, E], or NULL */
    msa_kern_weight *router_k;       /* [G*D, E], or NULL */
    int64_t router;                  /* place among the router layers, or -1 */
} msa_layer;

struct msa_model {
    msa_config config;
    msa_protocol protocol;
    bool bare;                       /* no tokenizer, no protocol */
    msa_tokenizer *tokenizer;
    msa_kern *kern;
    msa_kern_weight *embed;          /* [V, E] */
    msa_kern_weight *output;         /* [V, E]; the same pointer when tied */
    float *final_norm;               /* [E] device */
    msa_layer *layers;               /* [n_layers] */
    int64_t weight_bytes;
    char *name;
    char fingerprint[65], answer_id[65];
    int32_t eos_ids[8];              /* generation ends at any of these (config, generation_config) */
    int64_t n_eos;
};

/* What the cpu and reference backends cannot know from config.json alone. */
static inline msa_kern_heads msa_config_heads(const msa_config *c)
{
    return (msa_kern_heads){c->H, c->G, c->D};
}

#endif
