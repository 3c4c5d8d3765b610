/* The templates with AVX2, FMA and F16C; called after a check of the processor. */
#define CPU_CODE avx2
#include "kernels/cpu_code.h"
