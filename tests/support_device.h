/* A device made of the reference backend, as inconvenient as kernels.h allows:
 * operations and copies run as late as they may (when something waits for them),
 * its memory does not count as the host's, it fails and refuses on demand. What an
 * engine gets on it by reading too early, by reusing pinned memory too soon or by
 * freeing what is still in use differs from what it gets on "ref". */
#ifndef MSA_TESTS_SUPPORT_DEVICE_H
#define MSA_TESTS_SUPPORT_DEVICE_H

#include "kernels/kernels.h"

/* Turns an open "ref" into a device; one at a time, until it is closed. */
void msa_test_device_begin(msa_kern *k);
/* Waiting for a stream runs all the others first, as far as they may. */
void msa_test_device_others_first(bool yes);
/* It falls off the bus when it has run n more operations; < 0: never. */
void msa_test_device_fault_after(int64_t n);
/* Allocations of more bytes are refused; 0: none is. */
void msa_test_device_refuse_above(int64_t bytes);
/* The n-th allocation from now is refused; 0: none is. */
void msa_test_device_refuse(int64_t n);
/* Allocations that were asked for so far. */
int64_t msa_test_device_allocs(void);
/* Operations that ran so far. */
int64_t msa_test_device_ops(void);
/* Rows that ran through products with this weight so far. */
int64_t msa_test_device_rows(const msa_kern_weight *w);
/* Most operations that were queued and had not run at a time. */
int64_t msa_test_device_queued(void);
/* Recorded runs that were begun so far. */
int64_t msa_test_device_runs(void);

#endif
