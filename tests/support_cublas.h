/* Ceilings of arithmetic on a CUDA device, for benches. */
#ifndef MSA_TESTS_SUPPORT_CUBLAS_H
#define MSA_TESTS_SUPPORT_CUBLAS_H

#include <stdbool.h>
#include <stdint.h>

/* TFLOP/s (TOP/s) of y [M,N] = x [M,K] W[N,K]^T by cuBLASLt on random numbers, the
 * fastest of the plans it proposes: bf16 with f32 sums and bf16 results, or 8-bit
 * integers with int32 sums and results. 0: the device or the library refused. */
double msa_test_cublas_tflops(int device, bool int8, int64_t M, int64_t N, int64_t K);
/* The same over n bf16 products (1 to 8) of M rows, {N, K} each, as a layer runs them:
 * the rate of a few of each, and in *sustained that of all of them one behind the
 * other for `period` seconds, in which a card gets hot and its clock falls. */
double msa_test_cublas_layer(int device, int64_t M, const int64_t (*shapes)[2], int n, double period,
                             double *sustained);

#endif
