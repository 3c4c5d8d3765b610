/* What tests of kernels share: guarded tensors of a backend, seeded numbers and
 * an error measure. */
#ifndef MSA_TESTS_SUPPORT_KERNELS_H
#define MSA_TESTS_SUPPORT_KERNELS_H

#include "kernels/kernels.h"

/* Opens a backend and reserves msa_test_shape; NULL when it is not to be had. */
extern const msa_kern_shape msa_test_shape;
msa_kern *msa_test_kern(const char *name, msa_dtype act, int threads);

/* A tensor in a backend's device memory between two guard zones. A new one is
 * filled with a pattern that no operation writes. */
typedef struct msa_tensor {
    msa_kern *k;
    char *base;
    void *p;         /* what operations get */
    msa_dtype type;
    int64_t n, bytes;
} msa_tensor;

/* n elements; raw: n items of size bytes each. Failures end the test. */
msa_tensor msa_tensor_new(msa_kern *k, msa_dtype type, int64_t n);
msa_tensor msa_tensor_raw(msa_kern *k, const void *data, int64_t n, int64_t size);
/* A new one holding data rounded to type. */
msa_tensor msa_tensor_of(msa_kern *k, msa_dtype type, const float *data, int64_t n);
void msa_tensor_read(const msa_tensor *t, float *out);      /* as floats */
void msa_tensor_bytes(const msa_tensor *t, void *out);
/* Checks the guard zones and frees. */
void msa_tensor_done(msa_tensor *t);

/* Seeded numbers: uniform in [-1, 1), and integers in [lo, hi]. */
void msa_rand_seed(uint64_t seed);
float msa_rand_unit(void);
int64_t msa_rand_int(int64_t lo, int64_t hi);
float *msa_rand_new(int64_t n, float scale); /* from malloc */

/* sum (a-b)^2 / sum b^2; a NaN on one side only, or a zero b with a nonzero a,
 * is infinite. */
double msa_nse(const float *a, const float *b, int64_t n);

#endif
