#define _GNU_SOURCE
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

/* Waiters spin this often before they sleep: the gaps between the operations of
 * a forward pass are a few microseconds, a futex round trip costs more. */
#define SPINS 4000

struct msa_pool {
    int n_threads;
    pthread_t *threads;
    pthread_mutex_t lock;
    pthread_cond_t start, done;
    _Atomic int64_t next;     /* next item to hand out */
    _Atomic int busy;         /* helpers still inside the present run */
    _Atomic uint64_t round;   /* counts runs; a change wakes the helpers */
    bool stop;
    int64_t n_items;
    msa_pool_fn *fn;
    void *arg;
};

typedef struct member {
    msa_pool *pool;
    int index;
} member;

static void work(msa_pool *p, int thread)
{
    for (;;) {
        int64_t i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (i >= p->n_items)
            return;
        p->fn(p->arg, i, thread);
    }
}

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void *helper(void *arg)
{
    member m = *(member *)arg;
    free(arg);
    msa_pool *p = m.pool;
    uint64_t seen = 0;
    for (;;) {
        for (int i = 0; i < SPINS && atomic_load_explicit(&p->round, memory_order_acquire) == seen; i++)
            relax();
        pthread_mutex_lock(&p->lock);
        while (atomic_load(&p->round) == seen && !p->stop)
            pthread_cond_wait(&p->start, &p->lock);
        seen = atomic_load(&p->round);
        bool stop = p->stop;
        pthread_mutex_unlock(&p->lock);
        if (stop)
            return NULL;
        work(p, m.index);
        if (atomic_fetch_sub_explicit(&p->busy, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->lock);
        }
    }
}

static int usable_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

msa_pool *msa_pool_new(int n_threads)
{
    msa_pool *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->start, NULL);
    pthread_cond_init(&p->done, NULL);
    int want = n_threads > 0 ? n_threads : usable_cores();
    p->n_threads = 1;
    p->threads = calloc((size_t)want, sizeof *p->threads);
    while (p->threads && p->n_threads < want) {
        member *m = malloc(sizeof *m);
        if (m)
            *m = (member){p, p->n_threads};
        if (!m || pthread_create(&p->threads[p->n_threads], NULL, helper, m) != 0) {
            free(m);
            break;
        }
        p->n_threads++;
    }
    if (!p->threads || p->n_threads < want) {
        msa_pool_free(p);
        return NULL;
    }
    return p;
}

void msa_pool_free(msa_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    atomic_fetch_add(&p->round, 1);
    pthread_cond_broadcast(&p->start);
    pthread_mutex_unlock(&p->lock);
    for (int i = 1; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->start);
    pthread_cond_destroy(&p->done);
    pthread_mutex_destroy(&p->lock);
    free(p->threads);
    free(p);
}

int msa_pool_threads(const msa_pool *p)
{
    return p->n_threads;
}

void msa_pool_run(msa_pool *p, int64_t n_items, msa_pool_fn *fn, void *arg)
{
    if (n_items <= 1 || p->n_threads == 1) {
        for (int64_t i = 0; i < n_items; i++)
            fn(arg, i, 0);
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->n_items = n_items;
    p->fn = fn;
    p->arg = arg;
    atomic_store(&p->next, 0);
    atomic_store(&p->busy, p->n_threads - 1);
    atomic_fetch_add(&p->round, 1);
    pthread_cond_broadcast(&p->start);
    pthread_mutex_unlock(&p->lock);
    work(p, 0);
    for (int i = 0; i < SPINS && atomic_load_explicit(&p->busy, memory_order_acquire); i++)
        relax();
    pthread_mutex_lock(&p->lock);
    while (atomic_load(&p->busy))
        pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}
