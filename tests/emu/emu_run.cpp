/* Fibers, the order in which they run, barriers, collectives and shared memory. */
#include "tests/emu/emu.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* This file is compiled without AddressSanitizer, which the kernels are compiled with:
 * what may be touched of shared memory is told to it. */
extern "C" __attribute__((weak)) void __asan_poison_memory_region(const volatile void *at, size_t n);
extern "C" __attribute__((weak)) void __asan_unpoison_memory_region(const volatile void *at, size_t n);

static void forbid(const char *at, size_t n)
{
    if (__asan_poison_memory_region)
        __asan_poison_memory_region(at, n);
}

static void allow(const char *at, size_t n)
{
    if (__asan_unpoison_memory_region)
        __asan_unpoison_memory_region(at, n);
}

/* ---- changing stacks ------------------------------------------------------------------ */

/* Saves the registers that a call keeps on the old stack and its pointer in *from. */
extern "C" void msa_emu_switch(void **from, void *to);
#if defined(__x86_64__)
asm(R"(
.text
.type msa_emu_switch, @function
msa_emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size msa_emu_switch, . - msa_emu_switch
)");
#else
#error "the emulation changes stacks on x86-64 only"
#endif

enum { STACK_BYTES = 128 << 10 };

/* Stacks that no thread uses; the last one given back is in the caches. */
static char **free_stacks;
static int n_free, cap_free;

static char *stack_take(void)
{
    if (n_free > 0)
        return free_stacks[--n_free];
    char *s = (char *)mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                           -1, 0);
    if (s == MAP_FAILED)
        msa_emu_fail("no memory for a stack");
    mprotect(s, 4096, PROT_NONE);
    return s;
}

static void stack_give(char *s)
{
    if (n_free == cap_free) {
        cap_free = cap_free ? 2 * cap_free : 1024;
        free_stacks = (char **)realloc(free_stacks, (size_t)cap_free * sizeof *free_stacks);
    }
    free_stacks[n_free++] = s;
}

/* ---- chance -------------------------------------------------------------------------------- */

static int64_t seed = -1;
static uint64_t state;

static int64_t seed_of(void)
{
    if (seed < 0) {
        const char *s = getenv("MSA_EMU_SEED");
        seed = s ? strtoll(s, NULL, 10) : 0;
        state = (uint64_t)seed * 0x9e3779b97f4a7c15u + 1;
    }
    return seed;
}

static uint32_t chance(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

bool msa_emu_at_once(void)
{
    return seed_of() < 2 ? seed_of() == 0 : chance() & 1;
}

/* ---- waiting ------------------------------------------------------------------------------- */

msa_emu_thread *msa_emu_self;
uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
static void *scheduler;
static msa_emu_later *unit_jobs;

void msa_emu_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "emulation: ");
    if (msa_emu_self)
        fprintf(stderr, "block %u,%u thread %u,%u: ", msa_emu_self->block->index.x, msa_emu_self->block->index.y,
                msa_emu_self->index.x, msa_emu_self->index.y);
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    abort();
}

void msa_emu_wait(const volatile uint32_t *word, uint32_t mask, uint32_t equal, const char *what, int line)
{
    msa_emu_thread *t = msa_emu_self;
    if ((*word & mask) != equal)
        return;
    t->word = word;
    t->mask = mask;
    t->equal = equal;
    t->what = what;
    t->line = line;
    msa_emu_switch(&t->sp, scheduler);
    t->word = NULL;
}

const msa_emu_slots &msa_emu_meet(unsigned mask, const void *give, size_t n, const char *what, int line)
{
    msa_emu_thread *t = msa_emu_self;
    msa_emu_warp *w = &t->block->warps[t->warp];
    const uint32_t turn = w->turn;
    if (mask != ~0u)
        msa_emu_fail("line %d: %s with the mask %#x; only whole warps are emulated", line, what, mask);
    if (w->arrived == 0) {
        w->what = what;
        w->line = line;
    } else if (w->line != line || w->what != what)
        msa_emu_fail("line %d: %s, while other lanes of the warp are at line %d: %s", line, what, w->line, w->what);
    if (n > 0)
        memcpy(w->slot[turn & 1][t->lane], give, n);
    if (++w->arrived == 32) {
        w->arrived = 0;
        w->turn++;
    }
    msa_emu_wait(&w->turn, ~0u, turn, what, line);
    return w->slot[turn & 1];
}

uint32_t msa_emu_acquire(const volatile uint32_t *word, int line)
{
    msa_emu_thread *t = msa_emu_self;
    if (t->polled == word && *word == t->seen)
        msa_emu_wait(word, ~0u, t->seen, "a change in global memory", line);
    t->polled = word;
    t->seen = *word;
    return t->seen;
}

void msa_emu_sync(int barrier, unsigned threads, int line)
{
    msa_emu_barrier *b = &msa_emu_self->block->barriers[barrier];
    const uint32_t turn = b->turn;
    if (++b->arrived == threads) {
        b->arrived = 0;
        b->turn++;
    }
    msa_emu_wait(&b->turn, ~0u, turn, "a barrier of the block", line);
}

void msa_emu_cluster_arrive(void)
{
    msa_emu_cluster *c = msa_emu_self->block->cluster;
    const dim3 d = c->kernel->c.block;
    msa_emu_self->cluster_turn = c->barrier.turn;
    if (++c->barrier.arrived == c->n_blocks * d.x * d.y * d.z) {
        c->barrier.arrived = 0;
        c->barrier.turn++;
    }
}

void msa_emu_cluster_wait(void)
{
    msa_emu_wait(&msa_emu_self->block->cluster->barrier.turn, ~0u, msa_emu_self->cluster_turn,
                 "the cluster's barrier", 0);
}

void msa_emu_append(msa_emu_later **list, msa_emu_later *job)
{
    while (*list)
        list = &(*list)->next;
    job->next = NULL;
    *list = job;
}

void msa_emu_happen_first(msa_emu_later **list)
{
    msa_emu_later *job = *list;
    *list = job->next;
    job->happen();
    delete job;
}

void msa_emu_happen_all(msa_emu_later **list)
{
    while (*list)
        msa_emu_happen_first(list);
}

void msa_emu_copy_unit(msa_emu_later *job)
{
    msa_emu_append(&unit_jobs, job);
    if (msa_emu_at_once())
        msa_emu_happen_all(&unit_jobs);
}

/* ---- shared memory ----------------------------------------------------------------------------- */

/* The system keeps the first KiB of a block's shared memory; between arrays lie gaps
 * that nothing may touch. */
enum { ARENA_START = 1024, GAP = 32, MAX_STATICS = 4096 };

static int n_statics;

int msa_emu_static_number(void)
{
    if (n_statics == MAX_STATICS)
        msa_emu_fail("too many shared arrays in the program");
    return n_statics++;
}

static void *arena_take(msa_emu_block *b, size_t bytes, size_t align)
{
    int64_t at = (b->used + GAP + (int64_t)align - 1) / (int64_t)align * (int64_t)align;
    if (at / (int64_t)align % 2 == 0)
        at += (int64_t)align; /* no better aligned than asked for */
    b->bytes += (int64_t)bytes;
    if (b->bytes > MSA_EMU_SHARED || at + (int64_t)bytes + GAP > MSA_EMU_ARENA)
        msa_emu_fail("%lld bytes of shared memory", (long long)b->bytes);
    b->used = at + (int64_t)bytes;
    allow(b->arena + at, bytes);
    memset(b->arena + at, 0xff, bytes); /* NaNs */
    return b->arena + at;
}

void *msa_emu_static_at(int number, size_t bytes, size_t align)
{
    msa_emu_block *b = msa_emu_self->block;
    if (!b->statics[number])
        b->statics[number] = arena_take(b, bytes, align);
    return b->statics[number];
}

void *msa_emu_dynamic(size_t align)
{
    msa_emu_block *b = msa_emu_self->block;
    if (!b->dynamic)
        b->dynamic = arena_take(b, b->cluster->kernel->c.shared, align < 16 ? 16 : align);
    return b->dynamic;
}

uint32_t msa_emu_shared_address(const void *p)
{
    const int64_t at = (const char *)p - msa_emu_self->block->arena;
    if (at < 0 || at >= MSA_EMU_ARENA)
        msa_emu_fail("an address that is not in the block's shared memory");
    return (uint32_t)at;
}

char *msa_emu_shared_pointer(uint32_t address, int64_t bytes)
{
    msa_emu_block *b = msa_emu_self->block;
    const uint32_t rank = address >> 24;
    const int64_t at = address & 0xffffff;
    if (rank > b->cluster->n_blocks || at + bytes > MSA_EMU_ARENA)
        msa_emu_fail("the shared address %#x", address);
    return (rank ? &b->cluster->blocks[rank - 1] : b)->arena + at;
}

void *msa_emu_shared_of(const void *p, unsigned rank)
{
    msa_emu_block *b = msa_emu_self->block;
    if (rank >= b->cluster->n_blocks)
        msa_emu_fail("block %u of a cluster of %u", rank, b->cluster->n_blocks);
    return b->cluster->blocks[rank].arena + msa_emu_shared_address(p);
}

static void arena_open(msa_emu_block *b)
{
    if (!b->arena) {
        b->arena = (char *)mmap(NULL, MSA_EMU_ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        b->statics = (void **)calloc(MAX_STATICS, sizeof *b->statics);
        if (b->arena == MAP_FAILED || !b->statics)
            msa_emu_fail("no memory for a block");
        b->used = MSA_EMU_ARENA;
    }
    if (b->used > ARENA_START)
        forbid(b->arena, MSA_EMU_ARENA);
    memset(b->statics, 0, (size_t)n_statics * sizeof *b->statics);
    b->used = ARENA_START;
    b->bytes = 0;
    b->dynamic = NULL;
}

/* ---- a cluster -------------------------------------------------------------------------------- */

static void thread_main(void)
{
    msa_emu_thread *t = msa_emu_self;
    msa_emu_block *b = t->block;
    b->cluster->kernel->thread();
    msa_emu_happen_all(&t->copies);
    for (int i = 0; i <= t->n_groups; i++)
        msa_emu_happen_all(&t->groups[i]);
    t->done = true;
    /* what a block held is gone with its last thread */
    if (--b->alive == 0 && b->used > ARENA_START)
        forbid(b->arena, MSA_EMU_ARENA);
    msa_emu_switch(&t->sp, scheduler);
}

static void resume(msa_emu_thread *t)
{
    msa_emu_self = t;
    threadIdx = t->index;
    blockIdx = t->block->index;
    if (!t->stack) {
        t->stack = stack_take();
        /* below the place of a return address: thread_main's own, and six registers. Tops
         * of stacks at like addresses would push each other out of the caches. */
        static unsigned color;
        void **top = (void **)(t->stack + STACK_BYTES - color++ % 61 * 192) - 1;
        *--top = (void *)thread_main;
        for (int i = 0; i < 6; i++)
            *--top = NULL;
        t->sp = top;
    }
    msa_emu_switch(&scheduler, t->sp);
    msa_emu_self = NULL;
    if (t->done)
        stack_give(t->stack);
}

static void deadlock(const msa_emu_thread *threads, int n)
{
    const int per = (int)(blockDim.x * blockDim.y * blockDim.z);
    fprintf(stderr, "emulation: threads wait forever:\n");
    for (int i = 0; i < n;) {
        int j = i;
        const msa_emu_thread *a = &threads[i];
        while (j < n && threads[j].block == a->block && threads[j].done == a->done &&
               (a->done || (threads[j].line == a->line && threads[j].what == a->what)))
            j++;
        fprintf(stderr, "  block %u,%u threads %d to %d: ", a->block->index.x, a->block->index.y,
                i % per, (j - 1) % per);
        if (a->done)
            fprintf(stderr, "ended\n");
        else
            fprintf(stderr, "%s, line %d\n", a->what, a->line);
        i = j;
    }
    abort();
}

/* Clusters of a kernel that live side by side: all of its grid where blocks wait for each
 * other, else one. */
struct running {
    msa_emu_cluster *clusters;
    int64_t side;
    msa_emu_thread *threads;
    msa_emu_warp *warps;
    int *order;
    int n, left;
};

/* 1 while a kernel begins before the one in front of it has run. */
static uint32_t previous_runs;

void msa_emu_wait_previous(int line)
{
    msa_emu_wait(&previous_runs, 1, 1, "the kernel before", line);
}

/* Runs until all threads have ended; while the kernel before runs, until all wait. */
static void clusters_go(running *r)
{
    blockDim = r->clusters->kernel->c.block;
    gridDim = r->clusters->kernel->c.grid;
    for (bool moved = true; r->left > 0 && (moved || !previous_runs);) {
        moved = false;
        for (int i = 0; i < r->n; i++) {
            msa_emu_thread *t = &r->threads[r->order[i]];
            if (t->done || (t->word && (*t->word & t->mask) == t->equal))
                continue;
            resume(t);
            r->left -= t->done;
            moved = true;
        }
        if (unit_jobs && (!moved || msa_emu_at_once())) {
            msa_emu_happen_first(&unit_jobs);
            moved = true;
        }
        if (!moved && r->left > 0 && !previous_runs)
            deadlock(r->threads, r->n);
    }
    if (unit_jobs)
        msa_emu_fail("a cluster ended before the copies that it began");
}

static void order_fill(int *order, int n)
{
    const int64_t s = seed_of();
    for (int i = 0; i < n; i++)
        order[i] = s == 1 ? n - 1 - i : i;
    for (int i = n - 1; s > 1 && i > 0; i--) {
        const int j = (int)(chance() % (uint32_t)(i + 1)), x = order[i];
        order[i] = order[j];
        order[j] = x;
    }
}

/* Clusters number i .. of a kernel, their threads at their beginning; blocks keep their arenas. */
static void clusters_begin(running *r, msa_emu_kernel *k, int64_t i, int64_t n_clusters)
{
    const msa_emu_config &c = k->c;
    const unsigned per = c.block.x * c.block.y * c.block.z, n_warps = (per + 31) / 32;
    const unsigned n_blocks = (unsigned)r->side * c.cluster;
    const int64_t first = (seed_of() == 1 ? n_clusters - r->side - i : i) * c.cluster;
    r->left = r->n;
    memset(r->threads, 0, (size_t)r->n * sizeof *r->threads);
    for (unsigned w = 0; w < n_warps * n_blocks; w++)
        r->warps[w].arrived = r->warps[w].turn = 0;
    for (int64_t j = 0; j < r->side; j++)
        r->clusters[j].barrier = {0, 0};
    for (unsigned number = 0; number < n_blocks; number++) {
        msa_emu_cluster *cluster = &r->clusters[number / c.cluster];
        msa_emu_block *b = &r->clusters->blocks[number];
        const int64_t at = first + number;
        arena_open(b);
        b->cluster = cluster;
        b->rank = number % c.cluster;
        b->index = {(unsigned)(at % c.grid.x), (unsigned)(at / c.grid.x % c.grid.y),
                    (unsigned)(at / c.grid.x / c.grid.y)};
        b->alive = (int)per;
        b->warps = r->warps + number * n_warps;
        memset(b->barriers, 0, sizeof b->barriers);
        for (unsigned t = 0; t < per; t++) {
            msa_emu_thread *own = &r->threads[number * per + t];
            own->block = b;
            own->index = {t % c.block.x, t / c.block.x % c.block.y, t / c.block.x / c.block.y};
            own->warp = t / 32;
            own->lane = t % 32;
        }
    }
    if (i == 0 || seed_of() > 1)
        order_fill(r->order, r->n);
}

static int64_t clusters_of(const msa_emu_config &c)
{
    return (int64_t)c.grid.x * c.grid.y * c.grid.z / c.cluster;
}

/* Two kernels at a time: one that runs and one that has begun. */
enum { MOST_BLOCKS = 16 };
static msa_emu_block blocks[2][MOST_BLOCKS];
static bool taken[2];

static running *running_new(msa_emu_kernel *k)
{
    const int place = taken[0];
    const msa_emu_config &c = k->c;
    const unsigned per = c.block.x * c.block.y * c.block.z;
    running *r = (running *)calloc(1, sizeof *r);
    if (!r || taken[place])
        msa_emu_fail("no place for a kernel");
    taken[place] = true;
    r->side = c.whole ? clusters_of(c) : 1;
    if (r->side * c.cluster > MOST_BLOCKS)
        msa_emu_fail("%d blocks at the same time", (int)(r->side * c.cluster));
    r->n = (int)(per * c.cluster * r->side);
    r->clusters = (msa_emu_cluster *)malloc((size_t)r->side * sizeof *r->clusters);
    r->threads = (msa_emu_thread *)malloc((size_t)r->n * sizeof *r->threads);
    r->order = (int *)malloc((size_t)r->n * sizeof *r->order);
    r->warps = (msa_emu_warp *)malloc((size_t)((per + 31) / 32 * c.cluster * r->side) * sizeof *r->warps);
    if (!r->clusters || !r->threads || !r->order || !r->warps)
        msa_emu_fail("no memory for threads");
    for (int64_t j = 0; j < r->side; j++)
        r->clusters[j] = {k, blocks[place] + j * c.cluster, c.cluster, {0, 0}};
    clusters_begin(r, k, 0, clusters_of(c));
    return r;
}

void msa_emu_kernel::begin()
{
    begun = running_new(this);
    previous_runs = 1;
    clusters_go(begun);
    previous_runs = 0;
}

void msa_emu_kernel::run()
{
    running *r = begun ? begun : running_new(this);
    begun = nullptr;
    clusters_go(r);
    for (int64_t i = r->side, n = clusters_of(c); i < n; i += r->side) {
        clusters_begin(r, this, i, n);
        clusters_go(r);
    }
    taken[r->clusters->blocks == blocks[1]] = false;
    free(r->clusters);
    free(r->threads);
    free(r->order);
    free(r->warps);
    free(r);
}
