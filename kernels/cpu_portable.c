/* The templates for any processor. */
#define CPU_CODE portable
#include "kernels/cpu_code.h"
