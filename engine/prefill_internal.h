/* What stage 1 keeps on the device for a batch of `rows` tokens; plan.c sums it. */
#ifndef MSA_ENGINE_PREFILL_INTERNAL_H
#define MSA_ENGINE_PREFILL_INTERNAL_H

#include "engine/forward.h"

/* Chunks that a batch may hold: a full one of long documents and then some. One
 * of very short documents closes early, so that pooled rows need not be
 * reserved for one token a chunk. */
int64_t msa_prefill_batch_chunks(const msa_config *c, int64_t rows);
/* Bytes of the pooled rows of a batch: those of a layer twice, so that one set
 * leaves while the other is filled; false when they overflow. */
bool msa_prefill_pool_bytes(const msa_config *c, msa_dtype act, int64_t rows, int64_t *bytes);
/* Bytes of the host's staging: of an extent that is computed and one that is written. */
bool msa_prefill_stage_bytes(const msa_config *c, int64_t extent_chunks, int64_t *bytes);

#define MSA_PREFILL_EXTENT_CHUNKS 2048

#endif
