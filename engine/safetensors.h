/* Weights on disk: Hugging Face safetensors, read and written.
 *
 * A file is a little-endian u64 header length, a JSON header {"name": {"dtype",
 * "shape", "data_offsets": [from, to]}, ..., "__metadata__": {...}}, and the
 * data the offsets count in. Nothing of it is believed: the header is at most
 * 100 MB and inside the file, shapes multiply to the byte ranges, and the ranges
 * cover the data without overlap or hole, as the format demands. Such errors are
 * MSA_FAILED, MSA_E_DATA, naming the tensor.
 *
 *   msa_safetensors_open_dir("models/default", &st, err);
 *   const msa_st_tensor *t = msa_safetensors_find(st, "model.norm.weight");
 *   msa_safetensors_close(st);
 *
 * Immutable once open. */
#ifndef MSA_ENGINE_SAFETENSORS_H
#define MSA_ENGINE_SAFETENSORS_H

#include <stdint.h>

#include "base/err.h"

/* Other element types are refused. */
typedef enum msa_st_dtype { MSA_ST_F32, MSA_ST_BF16, MSA_ST_F16, MSA_ST_I32, MSA_ST_I64 } msa_st_dtype;
int64_t msa_st_dtype_bytes(msa_st_dtype t);
const char *msa_st_dtype_name(msa_st_dtype t); /* "F32" */

#define MSA_ST_MAX_DIMS 8

typedef struct msa_st_tensor {
    const char *name;
    msa_st_dtype dtype;
    int n_dims;                      /* 0: one element */
    int64_t shape[MSA_ST_MAX_DIMS];
    int64_t n, bytes;                /* elements; n * size of one */
    const void *data;                /* aligned to an element; lives as long as the handle */
} msa_st_tensor;

typedef struct msa_safetensors msa_safetensors;

/* One file, mapped. */
msa_rc msa_safetensors_open(const char *path, msa_safetensors **out, msa_err *err);
/* A model folder: model.safetensors, or the shards that
 * model.safetensors.index.json names, each of them beside it. */
msa_rc msa_safetensors_open_dir(const char *dir, msa_safetensors **out, msa_err *err);
/* n bytes in memory, 8-byte aligned, borrowed. */
msa_rc msa_safetensors_parse(const void *data, int64_t n, msa_safetensors **out, msa_err *err);
void msa_safetensors_close(msa_safetensors *s);

/* Tensors by place, sorted by name (bytes), or by name (NULL: not there). */
int64_t msa_safetensors_count(const msa_safetensors *s);
const msa_st_tensor *msa_safetensors_at(const msa_safetensors *s, int64_t i);
const msa_st_tensor *msa_safetensors_find(const msa_safetensors *s, const char *name);

/* Gives the data of tensor i (a place in the array given to write): a pointer
 * valid until the next call. */
typedef msa_rc msa_st_data(void *user, int64_t i, const void **data, msa_err *err);

/* Replaces path durably with n tensors, of which name, dtype and shape are read;
 * the data comes from data(), one tensor at a time, or, when that is NULL, from
 * t[i].data. Tensors are laid out by falling element size, else in their order. */
msa_rc msa_safetensors_write(const char *path, const msa_st_tensor *t, int64_t n, msa_st_data *data,
                             void *user, msa_err *err);

#endif
