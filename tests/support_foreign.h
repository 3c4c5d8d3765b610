/* A backend whose memory the host may not touch, for tests without such a device:
 * a CPU backend that answers as one. Its device memory cannot be read or written
 * but by its own operations; it is limited, and allocations can be refused. */
#ifndef MSA_TESTS_SUPPORT_FOREIGN_H
#define MSA_TESTS_SUPPORT_FOREIGN_H

#include "kernels/kernels_internal.h"

typedef struct msa_foreign {
    int64_t limit;               /* bytes of device memory; 0: as much as tests need */
    int64_t claimed;             /* what it says is free at first, when it is not the truth; 0: the limit */
    int64_t pinned_limit;        /* bytes of pinned and mapped memory; 0: no limit */
    int64_t used, pinned;        /* now */
    int64_t most, most_pinned;   /* the highest of these */
    int64_t refused;             /* allocations that found no room */
} msa_foreign;

/* From here on k, a "ref" or "cpu" backend without a reservation of its own to
 * lose, is such a device; one at a time, *f outliving it. What was allocated
 * before stays readable. */
void msa_foreign_begin(msa_kern *k, msa_foreign *f);
/* k is itself again. Everything that it allocated meanwhile must have been freed:
 * fails the test when something was not. */
void msa_foreign_end(msa_kern *k);

#endif
