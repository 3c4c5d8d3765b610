/* One list of documents out of what the router layers chose. */
#ifndef MSA_ENGINE_ROUTE_H
#define MSA_ENGINE_ROUTE_H

#include "engine/sequence.h"

/* The slot's routed documents over all router layers, best first, ties to the
 * smaller id; out holds n_router * top_k. With combined, the one list as it
 * stands; otherwise the mean over router layers of a document's score, 0 where a
 * layer did not keep it. Returns their number. */
int64_t msa_route_list(const msa_model *m, const msa_seqs *s, int64_t slot, bool combined,
                       msa_scored *out);

/* Joins the router's list (best first, in list [n], which has room for
 * lexical_candidates more) with the best documents by words: the union, scored anew
 * by msa_fused_score and sorted. Returns their number through *n. */
msa_rc msa_route_fuse(const msa_protocol *p, msa_lexical *lexical, const msa_bank *b, const char *question,
                      int64_t n_question, msa_scored *list, int64_t *n, msa_err *err);

#endif
