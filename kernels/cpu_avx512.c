/* The templates with AVX-512 F, BW, VL and DQ; called after a check of the processor. */
#define CPU_CODE avx512
#include "kernels/cpu_code.h"
