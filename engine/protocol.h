/* msa_protocol.json of a model folder: who chooses documents, and the strings
 * around documents, questions and evidence (struct msa_protocol). How a template
 * becomes tokens stands in ingest/template.h.
 *
 *   { "version": 1, "protocol": "router", "answer_prompt": "...{evidence}...{question}..." }
 *
 * Every key but version and protocol has a default; for the generative protocol
 * these are the published model's strings. */
#ifndef MSA_ENGINE_PROTOCOL_H
#define MSA_ENGINE_PROTOCOL_H

#include "engine/engine.h"

/* Most documents that the router and the lexical score each propose. */
#define MSA_LEXICAL_MAX_CANDIDATES 1024

/* Reads DIR/msa_protocol.json; without the file, the published strings hold.
 * n_router: router layers of the model. Unknown keys, keys of the other protocol,
 * places that nothing fills and values out of range are MSA_FAILED, MSA_E_CONFIG,
 * naming file and key. The caller frees *out with msa_protocol_free. */
msa_rc msa_protocol_read(const char *dir, int64_t n_router, msa_protocol *out, msa_err *err);

/* Do the strings suit the tokenizer? The ends of answers and of lists must be
 * added tokens of it; items that are put together as values must hold none. */
msa_rc msa_protocol_check(const msa_protocol *p, const msa_tokenizer *t, msa_err *err);

/* Appends every field in a fixed form, for the answer id. */
void msa_protocol_print(const msa_protocol *p, int64_t n_router, msa_buf *out);

#endif
