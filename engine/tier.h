/* A bank where the backend can reach it: router keys for the scan, K and V for
 * attention.
 *
 * A backend that works in host memory reads the mapped file in place, extent by
 * extent. For a device with memory of its own the rows are loaded when the tier is
 * opened, each extent after its checksums were compared, into the best arrangement
 * that fits (msa_tiers_plan). A refused allocation leads to the next smaller one.
 *
 *   msa_tier_new(model, bank, &tier, err);       // tables in host memory, no rows
 *   msa_tier_load(tier, &opts, err);             // rows, once
 *   msa_tier_refresh(tier, err);                 // before a scan: withdrawals
 *   for (i < msa_tier_n_slabs(tier)) {
 *       msa_tier_slab_get(tier, i, &slab, err);
 *       msa_tier_keys(tier, &slab, layer, &keys);
 *   }
 *
 * The bank may lose documents while a tier is open; what is appended to it is not
 * seen. Rows that a queued operation reads must not be freed under it: close
 * after the stream has been waited for. */
#ifndef MSA_ENGINE_TIER_H
#define MSA_ENGINE_TIER_H

#include "engine/bank.h"

/* ---- the decision (plan.c) --------------------------------------------------- */

typedef struct msa_tiers_in {
    const msa_config *config;
    msa_dtype bank_dtype, compute;
    int64_t n_chunks, n_docs;
    int64_t slots;                  /* that attend at the same time; 0: none ever does */
    int64_t top_k;                  /* documents that a slot usually attends to in a layer */
    int64_t device_free, host_free; /* bytes the bank may take; negative: not known */
} msa_tiers_in;

/* The best arrangement that fits, from place *step of the list on, for a device
 * with memory of its own; *step becomes its place. The list, best first: content
 * exact on the device, in 8 bits there, pinned, staged; for each of them keys
 * exact, in 8 bits and exact, in 8 bits. Exact keys alone are for float32, which
 * computes from nothing else, and for banks with less than MSA_TIER_SMALL_KEYS of
 * them. MSA_END: none fits, and *out is the smallest there is. MSA_FAILED,
 * MSA_E_CONFIG: sizes overflow. */
#define MSA_TIER_STEPS 12 /* of the list */
#define MSA_TIER_SMALL_KEYS ((int64_t)1 << 30)
msa_rc msa_tiers_plan(const msa_tiers_in *in, int64_t *step, msa_tiers *out, msa_err *err);

/* Places in words, as a plan shows them. */
const char *msa_tiers_keys_name(msa_keys_place p);
const char *msa_tiers_content_name(msa_content_place p);

/* Most chunks that are scanned at once, unless one document has more. */
#define MSA_TIER_SLAB_CHUNKS ((int64_t)1 << 20)
/* Bytes of a device's memory that the bank leaves free: what the driver and
 * libraries take as they go. */
int64_t msa_tiers_spare(const msa_kern_info *info);
/* Host memory that can be had: the machine's, or the control group's when less;
 * -1: not known. */
int64_t msa_tiers_host_free(void);
/* What of it a bank may pin; -1: not known. */
int64_t msa_tiers_host_budget(void);

/* ---- the bank in its places (tier.c) ------------------------------------------- */

typedef struct msa_tier msa_tier;

typedef struct msa_tier_opts {
    int64_t slots, top_k;           /* as in msa_tiers_in */
    int64_t device_free, host_free; /* budgets; 0: what the backend and the system say */
    const msa_tiers *want;          /* this arrangement and no other, whatever is free; may be NULL */
} msa_tier_opts;

msa_rc msa_tier_new(msa_model *m, const msa_bank *b, msa_tier **out, msa_err *err);
/* Nothing to do on a backend that works in host memory. MSA_FAILED: MSA_E_CONFIG
 * when no arrangement fits, MSA_E_DATA naming a damaged extent. */
msa_rc msa_tier_load(msa_tier *t, const msa_tier_opts *opts, msa_err *err);
void msa_tier_free(msa_tier *t);
const msa_tiers *msa_tier_places(const msa_tier *t);

/* Documents that are scanned at once: an extent of a mapped bank, or as many
 * neighbours as fit a slab. Tables are device memory. */
typedef struct msa_tier_slab {
    int64_t first_chunk;          /* of the tier, or (mapped) 0 */
    int64_t extent;               /* mapped: which */
    int64_t n_docs, n_chunks;
    const int64_t *doc_id;        /* [n_docs] */
    const int64_t *doc_chunk;     /* [n_docs + 1], from 0 */
    const uint8_t *alive;         /* [n_docs]; NULL: all are */
} msa_tier_slab;
int64_t msa_tier_n_slabs(const msa_tier *t);
/* Most chunks and documents of a slab, at least 1; known before loading. */
void msa_tier_slab_most(const msa_tier *t, int64_t *chunks, int64_t *docs);
/* Brings withdrawals of since to the device. */
msa_rc msa_tier_refresh(msa_tier *t, msa_err *err);
/* A mapped extent's checksums are compared before it is first given. */
msa_rc msa_tier_slab_get(const msa_tier *t, int64_t i, msa_tier_slab *out, msa_err *err);

/* Router keys of a slab in a router layer, for msa_kern_scan. */
typedef struct msa_tier_rows {
    const void *rows;             /* [n_chunks, G*D] */
    msa_dtype dtype;
    const float *scale;           /* [n_chunks] of I8, else NULL */
} msa_tier_rows;
void msa_tier_keys(const msa_tier *t, const msa_tier_slab *slab, int64_t router, msa_tier_rows *out);

/* Scans read 8-bit keys: the best are to be scored again. */
bool msa_tier_rescores(const msa_tier *t);
/* out [n] f32 (device) = weight * the exact score of items in a router layer, as
 * msa_kern_score_docs has it (added when add); docs [n], questions [n] host: the
 * document of each item, which must be in the bank, and its question. */
msa_rc msa_tier_score(msa_tier *t, int64_t router, const float *q, const int64_t *q_start, int64_t B,
                      const int64_t *docs, const int64_t *questions, int64_t n, float weight, bool add,
                      float *out, msa_err *err);

/* The rows of docs [n] in a router layer as segments [<= n], in the order given;
 * ids that are not in the bank or withdrawn are left out. Good until the same slot
 * asks again for the same layer. MSA_FAILED, MSA_E_NOMEM when staged rows find no
 * memory. */
msa_rc msa_tier_attend(msa_tier *t, int64_t slot, int64_t router, const int64_t *docs, int64_t n,
                       msa_kern_seg *segs, int64_t *n_segs, msa_err *err);

#endif
