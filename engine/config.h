/* config.json and generation_config.json of a model folder. */
#ifndef MSA_ENGINE_CONFIG_H
#define MSA_ENGINE_CONFIG_H

#include "engine/engine.h"

#define MSA_EOS_MAX 8

/* Reads and checks DIR/config.json, whose model_type is qwen3, llama or msa and
 * which holds an msa_config; eos gets the ids that end a generation, from it and
 * from DIR/generation_config.json where there is one. out->qk_norm stays false:
 * the tensors decide. What this program does not compute exactly is MSA_FAILED,
 * MSA_E_CONFIG, naming the file and the key. */
msa_rc msa_config_read(const char *dir, msa_config *out, int32_t eos[MSA_EOS_MAX], int64_t *n_eos,
                       msa_err *err);

#endif
