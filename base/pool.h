/* A pool of threads for data-parallel loops.
 *
 *   msa_pool_run(pool, n_items, fn, arg);   // returns when all items are done
 *
 * Items are handed out in order, one at a time; the calling thread works too.
 * Which thread runs an item is not determined, so fn must write its results by
 * item. Waiting threads sleep after a short spin: another process on the same
 * cores costs its share and not more. */
#ifndef MSA_BASE_POOL_H
#define MSA_BASE_POOL_H

#include <stdint.h>

typedef struct msa_pool msa_pool;
/* thread: 0 .. n_threads-1, for per-thread scratch. */
typedef void msa_pool_fn(void *arg, int64_t item, int thread);

/* n_threads counts the caller; 0 means as many as this process may run on.
 * NULL when threads cannot be made. */
msa_pool *msa_pool_new(int n_threads);
void msa_pool_free(msa_pool *p);
int msa_pool_threads(const msa_pool *p);
/* Not reentrant: one run at a time a pool. */
void msa_pool_run(msa_pool *p, int64_t n_items, msa_pool_fn *fn, void *arg);

#endif
