/* The templates with AVX-512 and its BF16 dot product; called after a check of the processor. */
#define CPU_CODE avx512bf16
#include "kernels/cpu_code.h"
