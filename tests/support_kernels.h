/* What tests of kernels share: the backends under test, guarded tensors of one,
 * seeded numbers and an error measure. */
#ifndef MSA_TESTS_SUPPORT_KERNELS_H
#define MSA_TESTS_SUPPORT_KERNELS_H

#include <stdbool.h>

#include "kernels/kernels.h"

/* Opens a backend and reserves msa_test_shape; NULL when it is not to be had. */
extern const msa_kern_shape msa_test_shape;
msa_kern *msa_test_kern(const char *name, msa_dtype act, int threads);

/* A backend under test, and the reference with the same act. */
typedef struct msa_subject {
    const char *name;
    msa_dtype act;
    msa_kern *k, *ref;
    bool host;       /* device pointers can be read by the host */
} msa_subject;
extern msa_subject msa_subjects[16];
extern int msa_n_subjects;
#define MSA_EACH_SUBJECT(s) \
    for (const msa_subject *s = msa_subjects; s < msa_subjects + msa_n_subjects; s++)
/* The CPU backends that run here, or the one of that name, with either act; how many. */
int msa_subjects_open(const char *name);
int msa_subjects_close(void **unused); /* a group's teardown; tells the worst error seen */

/* Largest normalised squared error of results that differ by the order of sums
 * (seen 1e-13), or also by a rounding to bf16 that falls the other way: (2^-8)^2
 * when the output is a single number (seen 8e-10). */
double msa_sum_bound(const msa_subject *s);
/* Attention weights are rounded to bf16 before they meet the values, which the
 * reference does not do (seen 1.4e-13 and 7.5e-6). */
double msa_attn_bound(const msa_subject *s);
/* Scores of router keys of type rk. A device may round queries for BF16 rows to
 * bf16 (errors of up to 2^-9, 1.6e-3 rms: 2.6e-6) and for I8 rows to 8 bits of the
 * question's largest number (a step of max / 127, so (max / rms)^2 / (12 * 127^2),
 * 1.6e-5 for uniform numbers; factors of f32 add nothing). */
double msa_scan_bound(const msa_subject *s, msa_dtype rk);
void msa_check_close(const msa_subject *s, const float *got, const float *want, int64_t n, double bound,
                     const char *what);

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
