/* Golden cases: folders that hold a small model and what another implementation
 * computed with it. A case goes through the engine's real path: the model is
 * opened bare, its documents are prefilled into a bank in a temporary folder,
 * and the questions run as active sequences.
 *
 *   config.json, model.safetensors  the model
 *   case.json              token ids: documents, template_head, queries, template_tail,
 *                          response_head; query_start_position, generated_steps
 *   expected.safetensors   k.L, v.L, rk.L (pooled rows), chunk_doc, template_k.L,
 *                          topk.L, score.L, logits, tokens */
#ifndef MSA_ENGINE_GOLDEN_H
#define MSA_ENGINE_GOLDEN_H

#include "engine/engine.h"

/* Relative errors: norm of the difference over the norm, the largest over layers
 * and questions. Logits and scores are compared whatever was chosen before them. */
typedef struct msa_golden {
    double k, v, rk, template_k, scores, logits;
    bool documents, tokens;   /* identical */
} msa_golden;

/* Temporary files go below $TMPDIR (/tmp) and are removed. MSA_FAILED when the
 * case is damaged. */
msa_rc msa_golden_run(const char *dir, const msa_model_opts *opts, msa_golden *out, msa_err *err);
/* Good enough? In f32: everything identical and every error within 1e-4 (the
 * reference shows up to 2e-6). In bf16, whose 8 bits show up to 1.3e-2 on rows and
 * 3.3e-2 on scores, documents that nearly tie may change places and logits follow
 * them (9.4e-2 seen): rows and scores within 5e-2, logits within 2e-1. */
bool msa_golden_good(const msa_golden *g, msa_dtype compute);

#endif
