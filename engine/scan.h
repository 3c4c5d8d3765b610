/* The routing scan: questions' prepared router queries against every document of
 * a bank, a slab at a time (engine/tier.h), so that scores never exceed one slab.
 *
 *   msa_scan_new(model, bank, &(msa_scan_opts){.queries = 16, ...}, &scan, err);
 *   msa_scan_run(scan, layers, n, q, weight, q_start, B, K, best, err);
 *
 * Where the tier's keys are in 8 bits, the best max(64, 4 K) documents by them are
 * scored again from exact rows, and the best K of these are chosen: scores and
 * order are those of exact rows.
 *
 * The bank may lose documents (tombstones) while a scan is open; appending to it
 * needs a new scan, because scratch is sized for the extents of that time. */
#ifndef MSA_ENGINE_SCAN_H
#define MSA_ENGINE_SCAN_H

#include "engine/tier.h"

typedef struct msa_scan msa_scan;

typedef struct msa_scan_opts {
    int64_t queries;   /* B of one scan */
    int64_t tokens;    /* routing tokens of one scan, all questions together */
    int64_t top_k;     /* longest best list */
    bool attends;      /* slots 0 .. queries-1 will attend to documents: content is loaded, too */
} msa_scan_opts;

/* Takes scratch, then the memory that is free for the bank's rows: whatever else
 * needs device memory is to be taken before. MSA_FAILED, MSA_E_CONFIG: the bank
 * does not fit the device. */
msa_rc msa_scan_new(msa_model *m, const msa_bank *b, const msa_scan_opts *opts, msa_scan **out,
                    msa_err *err);
/* The same with a chosen arrangement of the bank, or NULL. */
msa_rc msa_scan_new_in(msa_model *m, const msa_bank *b, const msa_scan_opts *opts, const msa_tiers *want,
                       msa_scan **out, msa_err *err);
void msa_scan_free(msa_scan *s);
/* Where the bank's rows are, for attention. */
msa_tier *msa_scan_tier(msa_scan *s);

/* The best K documents of each of B questions. With one layer: that layer's
 * scores times weight[0]; with several: the sum over them, equation in
 * docs/MSA.md, "Combined scores".
 *   layers  [n]      places among the router layers, host
 *   q       [n]      of device [q_start[B], route_width] f32: prepared queries
 *   weight  [n]      host
 *   q_start [B+1]    host, from 0
 *   best    [B, K]   host, out: best first, ties to the smaller id, doc -1 behind the last
 * Withdrawn documents never appear. */
msa_rc msa_scan_run(msa_scan *s, const int64_t *layers, int64_t n, const float *const *q,
                    const double *weight, const int64_t *q_start, int64_t B, int64_t K,
                    msa_kern_best *best, msa_err *err);

/* Most chunks that one document of the bank has; 0: the bank is empty. */
int64_t msa_scan_longest_doc(const msa_bank *b);

#endif
