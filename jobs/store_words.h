/* What a store's documents are, in one hash, and the index of their words. */
#ifndef MSA_JOBS_STORE_WORDS_H
#define MSA_JOBS_STORE_WORDS_H

#include <stdatomic.h>

#include "engine/lexical.h"
#include "ingest/ingest.h"

/* The state of a store: 64 digits over what its answers depend on beside the model.
 * Ids alone would not do, as a store that was deleted and made anew gives them again. */
msa_rc msa_store_state(const msa_corpus *c, char hex[65], msa_err *err);

/* Opens STORE/lexical for the documents of bank b, made first when it is not there
 * or of another state. stop: as in msa_lexical_source. */
msa_rc msa_store_lexical(const char *store, const msa_corpus *c, const char state[65], const msa_bank *b,
                         atomic_int *stop, msa_lexical **out, msa_err *err);

#endif
