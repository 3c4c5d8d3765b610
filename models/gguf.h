/* Reads GGUF files, version 3, little-endian: metadata and quantised tensors in
 * one file. Only what turning a model into a Hugging Face folder needs.
 *
 *   offset 0  u32 "GGUF", u32 version, u64 tensors, u64 metadata entries
 *   then each entry: string key, u32 type, value; strings are u64 length, bytes
 *   then each tensor: string name, u32 dims, u64 dim[dims] (fastest first),
 *   u32 type, u64 offset into the data, which begins at the next multiple of
 *   general.alignment (32 when absent)
 *
 * The file is hostile: counts are bounded by what could fit, every length is
 * compared with what is left, dimensions multiply through checked helpers, names
 * are unique, and the data of each tensor is aligned and inside the file. Such
 * errors are MSA_FAILED, MSA_E_DATA, with the byte in err. Tensors in types that
 * are not read here are listed, but not converted. */
#ifndef MSA_MODELS_GGUF_H
#define MSA_MODELS_GGUF_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

typedef struct msa_gguf msa_gguf;

typedef enum msa_gguf_type { /* numbers as in the file */
    MSA_GGUF_F32 = 0,
    MSA_GGUF_F16 = 1,
    MSA_GGUF_Q4_1 = 3,
    MSA_GGUF_Q8_0 = 8
} msa_gguf_type;

typedef struct msa_gguf_tensor {
    const char *name;       /* NUL-terminated */
    uint32_t type;          /* msa_gguf_type, or one that is not read */
    int n_dims;             /* 1 .. 4 */
    int64_t dim[4];         /* fastest first: a matrix [rows, cols] has dim = cols, rows */
    int64_t n, bytes;       /* elements; bytes of data (0 for a type that is not read) */
    const void *data;
} msa_gguf_tensor;

typedef struct msa_gguf_text {
    const char *s;          /* n bytes, not NUL-terminated */
    int64_t n;
} msa_gguf_text;

/* n bytes in memory, borrowed until close. */
msa_rc msa_gguf_parse(const void *data, int64_t n, msa_gguf **out, msa_err *err);
void msa_gguf_close(msa_gguf *g);

int64_t msa_gguf_n_tensors(const msa_gguf *g);
const msa_gguf_tensor *msa_gguf_tensor_at(const msa_gguf *g, int64_t i);
const msa_gguf_tensor *msa_gguf_find(const msa_gguf *g, const char *name); /* NULL: not there */

/* Metadata by key; false when it is absent or of another kind. Integers of any
 * width and sign count as integers when they fit; f32 and f64 as numbers. */
bool msa_gguf_int(const msa_gguf *g, const char *key, int64_t *out);
bool msa_gguf_number(const msa_gguf *g, const char *key, double *out);
bool msa_gguf_string(const msa_gguf *g, const char *key, msa_gguf_text *out);
/* An array of strings, or of integers, as a new array that the caller frees.
 * MSA_END: absent or of another kind. */
msa_rc msa_gguf_strings(const msa_gguf *g, const char *key, msa_gguf_text **out, int64_t *n, msa_err *err);
msa_rc msa_gguf_ints(const msa_gguf *g, const char *key, int64_t **out, int64_t *n, msa_err *err);

/* All elements of a tensor as f32, out [t->n]. A type that is not read is
 * MSA_FAILED, MSA_E_CONFIG, naming the tensor. */
msa_rc msa_gguf_floats(const msa_gguf_tensor *t, float *out, msa_err *err);

#endif
