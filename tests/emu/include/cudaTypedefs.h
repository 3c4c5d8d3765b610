#ifndef MSA_TESTS_EMU_CUDATYPEDEFS_H
#define MSA_TESTS_EMU_CUDATYPEDEFS_H

#include "cuda.h"

typedef CUresult (*PFN_cuTensorMapEncodeTiled_v12000)(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank,
                                                      void *rows, const cuuint64_t *dims, const cuuint64_t *pitches,
                                                      const cuuint32_t *box, const cuuint32_t *steps,
                                                      CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                                      CUtensorMapL2promotion l2, CUtensorMapFloatOOBfill fill);

#endif
