/* What this machine can do at best, measured where a speed is to stand beside it. */
#ifndef MSA_TESTS_SUPPORT_CEILING_H
#define MSA_TESTS_SUPPORT_CEILING_H

#include "kernels/kernels.h"

double msa_seconds(void); /* of a clock that only goes forward */

/* Seconds of one product y [M,N] = x [M,K] W^T in oneDNN, weights packed as it
 * likes best, random data: the best of several runs within about 0.2 s. All of
 * the process' cores work unless OMP_NUM_THREADS says otherwise. type: MSA_F32 or
 * MSA_BF16 (y likewise). Negative when oneDNN refuses. */
double msa_ceiling_gemm(msa_dtype type, int64_t M, int64_t N, int64_t K);

#endif
