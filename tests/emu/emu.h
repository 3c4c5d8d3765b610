/* CUDA's execution model on the CPU, for tests of kernels without a GPU: each CUDA
 * thread is a fiber, the blocks of a cluster live at the same time, clusters of a launch run
 * one after the other, or side by side where the host asked how many the device holds. Threads change places only where they wait: at barriers, in
 * collectives of a warp, at mbarriers.
 *
 * translate.py turns a preprocessed .cu file into C++ that calls what is declared here;
 * include/ holds what <cuda_runtime.h> and its like must offer to such a file. Shared
 * memory is an arena of the block: a shared address is an offset in it, with the
 * block's rank above bit 24 where it names another block of the cluster.
 *
 * What goes wrong ends the process with a message: threads that wait for each other
 * forever, a collective that a warp's lanes do not meet together, memory beyond what a
 * block has. AddressSanitizer finds accesses outside of arrays.
 *
 * MSA_EMU_SEED: 0 (default) runs threads in rising order and asynchronous copies and
 * products at once, 1 in falling order and as late as they may be, any other number
 * mixes both at random. Results must not depend on it: a missing barrier makes them. */
#ifndef MSA_TESTS_EMU_H
#define MSA_TESTS_EMU_H

#include <stddef.h>
#include <stdint.h>

#include <initializer_list>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

typedef struct msa_emu_stream *cudaStream_t;

/* ---- launches ----------------------------------------------------------------------- */

struct msa_emu_config {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
    unsigned cluster;
    bool follow; /* may start before what stands before it on the stream has ended */
    bool whole;  /* its blocks wait for each other: all live at the same time */
    msa_emu_config(dim3 grid_, dim3 block_, size_t shared_ = 0, cudaStream_t stream_ = nullptr,
                   unsigned cluster_ = 1, bool follow_ = false)
        : grid(grid_), block(block_), shared(shared_), stream(stream_), cluster(cluster_), follow(follow_),
          whole(false)
    {
    }
};

/* What stands on a stream: run at once, or kept in a graph. */
struct msa_emu_job {
    virtual ~msa_emu_job() {}
    virtual void run() = 0;
    /* a kernel that may begin early: its first blocks run until they wait for the kernel
     * before, which has not run yet */
    virtual bool kernel() { return false; }
    virtual bool follows() { return false; }
    virtual void begin() {}
};

/* Runs or records a job; takes it. A kernel runs when the next job of its stream is
 * there, so that one which follows it has begun by then. */
void msa_emu_submit(cudaStream_t s, msa_emu_job *job);

struct msa_emu_kernel : msa_emu_job {
    msa_emu_config c;
    struct running *begun;
    explicit msa_emu_kernel(const msa_emu_config &c_) : c(c_), begun(nullptr) {}
    virtual void thread() = 0;
    void run() override;
    bool kernel() override { return true; }
    bool follows() override { return c.follow; }
    void begin() override;
};

/* Whether a launch of this shape is valid; else the error is left for cudaGetLastError. */
bool msa_emu_valid(const msa_emu_config &c);

template <class F> struct msa_emu_call : msa_emu_kernel {
    F f;
    msa_emu_call(const msa_emu_config &c_, const F &f_) : msa_emu_kernel(c_), f(f_) {}
    void thread() override { f(); }
};

template <class F, class... A> static void msa_emu_launch(const msa_emu_config &c, F f, A... a)
{
    auto body = [=] { f(a...); };
    if (msa_emu_valid(c))
        msa_emu_submit(c.stream, new msa_emu_call<decltype(body)>(c, body));
}

/* ---- a thread and what surrounds it ------------------------------------------------------ */

enum { MSA_EMU_ARENA = 256 << 10, MSA_EMU_SHARED = 227 << 10, MSA_EMU_BARRIERS = 16, MSA_EMU_SLOT = 32, MSA_EMU_GROUPS = 4 };

struct msa_emu_barrier {
    uint32_t arrived, turn;
};

/* Lanes leave what they give in a slot; two sets of slots in turns, so that a lane may
 * come to the next collective while others still read. */
struct msa_emu_warp {
    uint32_t arrived, turn;
    const char *what;
    int line;
    alignas(8) char slot[2][32][MSA_EMU_SLOT];
};

struct msa_emu_cluster;

struct msa_emu_block {
    msa_emu_cluster *cluster;
    uint3 index;
    unsigned rank;
    char *arena;
    int64_t used, bytes;      /* of the arena: with gaps, and without */
    void *dynamic;
    void **statics;           /* by number */
    int n_statics, alive;
    msa_emu_warp *warps;
    msa_emu_barrier barriers[MSA_EMU_BARRIERS];
};

struct msa_emu_cluster {
    msa_emu_kernel *kernel;
    msa_emu_block *blocks;
    unsigned n_blocks;
    msa_emu_barrier barrier;
};

/* Something asynchronous that has not happened yet. */
struct msa_emu_later {
    msa_emu_later *next;
    virtual ~msa_emu_later() {}
    virtual void happen() = 0;
};

struct msa_emu_thread {
    uint3 index;
    msa_emu_block *block;
    unsigned warp, lane;
    bool done;
    void *sp;
    char *stack;
    /* waits while (*word & mask) == equal; what and line say for what */
    const volatile uint32_t *word;
    uint32_t mask, equal;
    const char *what;
    int line;
    const volatile uint32_t *polled; /* what it acquired last, and what stood there */
    uint32_t seen;
    uint32_t cluster_turn;          /* between arrival at the cluster's barrier and the wait */
    msa_emu_later *copies;          /* the thread's own, oldest first */
    msa_emu_later *groups[MSA_EMU_GROUPS]; /* committed groups of products; the last is being built */
    int n_groups;
};

/* The thread that runs, and what CUDA tells it about itself. */
extern msa_emu_thread *msa_emu_self;
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

/* Ends the process with a message that names the thread. */
[[noreturn]] void msa_emu_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void msa_emu_wait(const volatile uint32_t *word, uint32_t mask, uint32_t equal, const char *what, int line);
/* All lanes of the warp meet; each gets what all gave (n <= MSA_EMU_SLOT bytes), lane l
 * at [l]. */
typedef char msa_emu_slots[32][MSA_EMU_SLOT];
const msa_emu_slots &msa_emu_meet(unsigned mask, const void *give, size_t n, const char *what, int line);
void msa_emu_wait_previous(int line);
/* A number that other threads change. Who finds the same number again waits. */
uint32_t msa_emu_acquire(const volatile uint32_t *word, int line);
void msa_emu_sync(int barrier, unsigned threads, int line);
void msa_emu_cluster_arrive(void);
void msa_emu_cluster_wait(void);
/* Whether something asynchronous happens at once, now. */
bool msa_emu_at_once(void);
/* Something that the copy unit does: at once or when threads wait. Taken. */
void msa_emu_copy_unit(msa_emu_later *job);
void msa_emu_append(msa_emu_later **list, msa_emu_later *job);
void msa_emu_happen_first(msa_emu_later **list);
void msa_emu_happen_all(msa_emu_later **list);

/* ---- shared memory -------------------------------------------------------------------------- */

int msa_emu_static_number(void);
void *msa_emu_static_at(int number, size_t bytes, size_t align);
void *msa_emu_dynamic(size_t align);
uint32_t msa_emu_shared_address(const void *p);
char *msa_emu_shared_pointer(uint32_t address, int64_t bytes);
void *msa_emu_shared_of(const void *p, unsigned rank);

template <class T> static T *msa_emu_static(void)
{
    static const int number = msa_emu_static_number();
    return (T *)msa_emu_static_at(number, sizeof(T), alignof(T) < 16 ? 16 : alignof(T));
}

/* ---- inline PTX ------------------------------------------------------------------------------ */

struct msa_emu_operand {
    uint64_t value;
    void *ref;
    int bytes;
};

template <class T> static msa_emu_operand msa_emu_in(T x)
{
    msa_emu_operand o = {0, nullptr, (int)sizeof x};
    __builtin_memcpy(&o.value, &x, sizeof x);
    return o;
}

template <class T> static msa_emu_operand msa_emu_out(T &x)
{
    return {0, &x, (int)sizeof x};
}

struct msa_emu_program; /* a parsed asm text */
const msa_emu_program *msa_emu_parse(const char *text, const char *file, int line);
void msa_emu_execute(const msa_emu_program *p, std::initializer_list<msa_emu_operand> operands);

#endif
