/* A GGUF model turned into a Hugging Face folder that the engine opens. */
#ifndef MSA_MODELS_GGUF_CONVERT_H
#define MSA_MODELS_GGUF_CONVERT_H

#include "engine/safetensors.h"
#include "models/gguf.h"

/* Writes config.json, generation_config.json, tokenizer.json and
 * model.safetensors into folder dir, which exists. msa_config: the text of a JSON
 * object that becomes config.json's msa_config. adapter: trained tensors, or NULL.
 * NAME.lora_A.weight [r, cols] and NAME.lora_B.weight [rows, r] update the matrix
 * NAME.weight [rows, cols] to itself plus B A, in the folder's order of rows; the
 * others (router projections) join as they are. An update of no matrix, or one of
 * another shape, is MSA_FAILED, MSA_E_CONFIG.
 *
 * Llama-type models with a byte-level BPE tokenizer of the "smollm" kind only;
 * any other architecture, tensor or token type is MSA_FAILED, MSA_E_CONFIG.
 * With updates, matrices are rounded to BF16 once, as they were when the updates
 * were trained. Without, weights are dequantised to F32: a product of a half scale and a quantum, plus a
 * half minimum, has more bits than BF16 or F16 keep, and rounding it once more
 * moves the logits (models/README.md has the figures). */
msa_rc msa_gguf_convert(const msa_gguf *g, const char *dir, const char *msa_config,
                        const msa_safetensors *adapter, msa_err *err);

#endif
