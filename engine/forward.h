/* The decoder's steps that stage 1 (packed documents) and stage 2 (active
 * sequences) share: everything but attention itself. */
#ifndef MSA_ENGINE_FORWARD_H
#define MSA_ENGINE_FORWARD_H

#include "engine/model_internal.h"

/* Ids and positions of one pass on their way to the device. */
typedef struct msa_forward_sent {
    int32_t *ids;           /* [rows] pinned */
    int64_t *pos;           /* [rows] pinned */
    msa_kern_event *gone;   /* both may be overwritten */
} msa_forward_sent;

/* Activations of up to `rows` tokens, device memory of the model's backend. */
typedef struct msa_forward {
    int64_t rows;
    msa_forward_sent sent[2]; /* used in turn, so that a pass can be queued behind another */
    int turn;
    int32_t *ids;    /* [rows] */
    int64_t *pos;    /* [rows] */
    float *x;        /* [rows, E] residual stream, f32 */
    void *xn;        /* [rows, E] act: normed input of a projection */
    void *qkv;       /* [rows, (H+2G)*D] act */
    void *att;       /* [rows, H*D] act: attention output */
    void *gate_up;   /* [rows, 2I] act */
    void *mlp;       /* [rows, I] act */
} msa_forward;

/* Allocates, and reserves the kernels' scratch for `rows` rows of this model;
 * max_seq and the shapes of routing are the caller's to reserve. */
msa_rc msa_forward_new(msa_model *m, int64_t rows, msa_forward *f, msa_err *err);
/* What that allocates on the device, without the kernels' scratch; false when it
 * overflows. */
bool msa_forward_bytes(const msa_config *c, msa_dtype act, int64_t rows, int64_t *bytes);
void msa_forward_free(msa_model *m, msa_forward *f);

/* x = embeddings of ids [M] (host, each checked against the vocabulary:
 * MSA_FAILED, MSA_E_DATA); pos [M] (host) are kept for RoPE. Both are read before
 * it returns; it waits for the pass before last to have taken its own. */
msa_rc msa_forward_embed(msa_model *m, msa_forward *f, const int32_t *ids, const int64_t *pos,
                         int64_t M, msa_err *err);
/* Other positions [M] (host) for the rows that x now holds. */
msa_rc msa_forward_place(msa_model *m, msa_forward *f, const int64_t *pos, int64_t M, msa_err *err);
/* xn = RMSNorm(x); qkv = its projections. */
msa_rc msa_forward_qkv(msa_model *m, const msa_layer *l, msa_forward *f, int64_t M, msa_err *err);
/* Norms (Qwen3) and rotates q and k of qkv. */
msa_rc msa_forward_rotate(msa_model *m, const msa_layer *l, msa_forward *f, int64_t M, msa_err *err);
/* qkv, then rotate. */
msa_rc msa_forward_project(msa_model *m, const msa_layer *l, msa_forward *f, int64_t M, msa_err *err);
/* Rotates, and keeps K and V as msa_kern_cache_store. */
msa_rc msa_forward_keep(msa_model *m, const msa_layer *l, msa_forward *f, int64_t B,
                        const int64_t *row_start, void *const *ck, void *const *cv, const int64_t *at,
                        msa_err *err);
/* Keeps K and V as that does, and att = attention over the segments and the caches, which
 * then hold these rows. */
msa_rc msa_forward_attend(msa_model *m, const msa_layer *l, msa_forward *f, int64_t B,
                          const int64_t *row_start, const msa_kern_seg *segs, const int64_t *seg_start,
                          void *const *ck, void *const *cv, const int64_t *at, msa_err *err);
/* x += att Wo; x += MLP(RMSNorm(x)); then msa_forward_qkv of the layer `next`, unless it is
 * NULL. */
msa_rc msa_forward_finish(msa_model *m, const msa_layer *l, const msa_layer *next, msa_forward *f, int64_t M,
                          msa_err *err);
/* logits [R, V] f32 (device) of rows idx [R] (host) of x; gathered [R,E] f32 and
 * normed [R,E] act are device scratch of R rows. */
msa_rc msa_forward_logits(msa_model *m, const msa_forward *f, const int64_t *idx, int64_t R,
                          float *gathered, void *normed, float *logits, msa_err *err);

#endif
