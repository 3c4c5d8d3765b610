/* Model folders for tests: a tiny checkpoint whose files a test spoils one at a
 * time. Everything here fails the test when it cannot do its work. */
#ifndef MSA_TESTS_SUPPORT_CHECKPOINT_H
#define MSA_TESTS_SUPPORT_CHECKPOINT_H

#include <stdbool.h>

#include "engine/safetensors.h"

/* A new empty folder; free removes it with all files in it. */
char *msa_test_folder_new(void);
void msa_test_folder_free(char *dir);
void msa_test_file(const char *dir, const char *name, const void *data, int64_t n);
void msa_test_text(const char *dir, const char *name, const char *text);

/* 2 layers, E 8, H 2, G 1, D 4, I 12, V 270, layer 1 routes, decoupled, untied. */
enum { MSA_TEST_LAYERS = 2, MSA_TEST_E = 8, MSA_TEST_H = 2, MSA_TEST_G = 1, MSA_TEST_D = 4,
       MSA_TEST_I = 12, MSA_TEST_V = 270 };

/* Writes config.json with one value replaced, added, or (NULL) left out: key "a"
 * or "msa_config.a", json its JSON text. key NULL: unchanged. */
void msa_test_config(const char *dir, const char *key, const char *json);

/* Writes a tokenizer.json: 256 bytes (ids 0 to 255), a few merges, and the added
 * tokens <|im_start|> 263, <|im_end|> 264, <|object_ref_end|> 265; the smollm kind. */
void msa_test_tokenizer(const char *dir);

/* All tensors in memory, to be changed before they are written. Every element is
 * a small multiple of 1/8, so that F32, BF16 and F16 hold the same numbers. */
typedef struct msa_test_tensors {
    msa_st_tensor t[64];
    int64_t n;
} msa_test_tensors;
typedef struct msa_test_tensors_opts {
    msa_st_dtype dtype;
    bool tied, llama, coupled;   /* no lm_head; no q/k norm; no router matrices */
} msa_test_tensors_opts;
void msa_test_tensors_new(msa_test_tensors *w, const msa_test_tensors_opts *opts);
void msa_test_tensors_free(msa_test_tensors *w);
msa_st_tensor *msa_test_tensor(msa_test_tensors *w, const char *name);
void msa_test_tensor_add(msa_test_tensors *w, const char *name, msa_st_dtype dtype, int64_t rows, int64_t cols);
void msa_test_tensor_drop(msa_test_tensors *w, const char *name);
/* What element i of the tensor of that name holds. */
float msa_test_value(const char *name, int64_t i);
/* Tensors from .. to-1 as a file of the folder. */
void msa_test_tensors_write(const msa_test_tensors *w, int64_t from, int64_t to, const char *dir,
                            const char *file);

/* config.json, tokenizer.json and model.safetensors of that kind. */
void msa_test_checkpoint(const char *dir, const msa_test_tensors_opts *opts);

#endif
