/* Recorded runs: a CUDA graph per key.
 *
 * The first run of a key is computed at once, so that everything that is decided or
 * loaded on first use is; the second is captured; later ones replay it. While a run
 * is captured or replayed its host arrays are laid one behind the other in a pinned
 * block, which one copy takes to the same places of a device block before the graph
 * is launched. There is one device block, for runs of one stream follow each other,
 * and two pinned ones, so that the next run's arrays can be written while the last
 * copy may still read. A run of so many arrays that the block might not hold them is
 * computed at once each time. */
#include "kernels/cuda_internal.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 16 << 20, ALIGN = 16, MAX_RUNS = 64 };

/* What msa_cuda_noted was told and how long the arrays were, as numbers one after
 * the other, and the graph's last node before each operation. */
struct run {
    int64_t key;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;   /* NULL: seen once, not recorded yet */
    bool large;             /* its arrays may not fit the block: it is not recorded */
    int64_t *log;
    int64_t n_log, cap_log;
    cudaGraphNode_t end;    /* the graph's last node */
};

enum phase { OUTSIDE, AT_ONCE, RECORD, REPLAY };

struct msa_cuda_graphs {
    run runs[MAX_RUNS];
    int n_runs, turn;       /* turn: the run that makes room when all places are taken */
    phase now;
    run *current;
    int64_t at_log;         /* replay: the next number to compare */
    int slot;
    int64_t used;           /* bytes of arrays, in the block or counted */
    bool broken;            /* the log is not whole: the run is not kept */
    msa_rc failed;          /* what noted could not return; end does */
    msa_err why;
    char *pinned[2], *device;
    cudaEvent_t copied[2], done;
};

/* ---- life ------------------------------------------------------------------------ */

static void forget(run *r)
{
    if (r->exec)
        cudaGraphExecDestroy(r->exec);
    if (r->graph)
        cudaGraphDestroy(r->graph);
    r->exec = NULL;
    r->graph = NULL;
    r->n_log = 0;
}

msa_rc msa_cuda_graphs_open(msa_cuda *c, msa_err *err)
{
    msa_cuda_graphs *g = (msa_cuda_graphs *)msa_calloc(1, sizeof *g);
    if (!g)
        return msa_err_nomem(err, "recorded runs");
    c->graphs = g;
    MSA_CUDA_TRY(cudaEventCreateWithFlags(&g->done, cudaEventDisableTiming));
    MSA_CUDA_TRY(cudaMalloc((void **)&g->device, BLOCK_BYTES));
    for (int i = 0; i < 2; i++) {
        MSA_CUDA_TRY(cudaEventCreateWithFlags(&g->copied[i], cudaEventDisableTiming));
        MSA_CUDA_TRY(cudaHostAlloc((void **)&g->pinned[i], BLOCK_BYTES, cudaHostAllocDefault));
    }
    return MSA_OK;
}

void msa_cuda_graph_clear(msa_kern *k)
{
    msa_cuda_graphs *g = msa_cuda_of(k)->graphs;
    cudaSetDevice(msa_cuda_of(k)->device);
    if (g->now == RECORD) {
        cudaGraph_t half = NULL;
        cudaStreamEndCapture(g->current->stream, &half);
        if (half)
            cudaGraphDestroy(half);
    }
    g->now = OUTSIDE;
    cudaDeviceSynchronize();
    for (int i = 0; i < g->n_runs; i++) {
        forget(&g->runs[i]);
        free(g->runs[i].log);
    }
    memset(g->runs, 0, sizeof g->runs);
    g->n_runs = g->turn = 0;
    cudaGetLastError();
}

void msa_cuda_graphs_close(msa_cuda *c)
{
    msa_cuda_graphs *g = c->graphs;
    if (!g)
        return;
    msa_cuda_graph_clear(&c->base);
    for (int i = 0; i < 2; i++) {
        cudaFreeHost(g->pinned[i]);
        if (g->copied[i])
            cudaEventDestroy(g->copied[i]);
    }
    cudaFree(g->device);
    if (g->done)
        cudaEventDestroy(g->done);
    free(g);
    c->graphs = NULL;
}

/* ---- the log ---------------------------------------------------------------------- */

enum { ARRAY_MARK = -1 };

static void note(msa_cuda_graphs *g, int64_t v)
{
    run *r = g->current;
    if (r->n_log == r->cap_log) {
        int64_t cap = r->cap_log ? 2 * r->cap_log : 1024;
        int64_t *log = (int64_t *)msa_realloc(r->log, cap, sizeof *log);
        if (!log) {
            g->broken = true;
            return;
        }
        r->log = log;
        r->cap_log = cap;
    }
    r->log[r->n_log++] = v;
}

static bool next_is(msa_cuda_graphs *g, int64_t v)
{
    const run *r = g->current;
    return g->at_log < r->n_log && r->log[g->at_log++] == v;
}

/* The one node behind which the next one comes; NULL: none yet. False when the
 * capture has branched. */
static bool last_node(cudaStream_t s, cudaGraphNode_t *node)
{
    cudaStreamCaptureStatus status;
    const cudaGraphNode_t *nodes = NULL;
    const cudaGraphEdgeData *edges; /* asked for, or edges with data are an error */
    size_t n = 0;
    *node = NULL;
    if (cudaStreamGetCaptureInfo(s, &status, NULL, NULL, &nodes, &edges, &n) != cudaSuccess || n > 1)
        return false;
    if (n == 1)
        *node = nodes[0];
    return true;
}

/* ---- launching ---------------------------------------------------------------------- */

static msa_rc upload_and_launch(msa_cuda_graphs *g, run *r, msa_err *err)
{
    MSA_CUDA_TRY(cudaStreamWaitEvent(r->stream, g->done, 0)); /* a run of another stream reads the block */
    if (g->used)
        MSA_CUDA_TRY(cudaMemcpyAsync(g->device, g->pinned[g->slot], (size_t)g->used, cudaMemcpyHostToDevice,
                                     r->stream));
    MSA_CUDA_TRY(cudaEventRecord(g->copied[g->slot], r->stream));
    MSA_CUDA_TRY(cudaGraphLaunch(r->exec, r->stream));
    MSA_CUDA_TRY(cudaEventRecord(g->done, r->stream));
    g->slot ^= 1;
    return MSA_OK;
}

/* The node behind one; a run is a chain, for what would branch was not kept. */
static msa_rc node_behind(cudaGraphNode_t node, cudaGraphNode_t *next, msa_err *err)
{
    cudaGraphEdgeData edge;
    size_t n = 1;
    *next = NULL;
    MSA_CUDA_TRY(cudaGraphNodeGetDependentNodes(node, next, &edge, &n));
    return MSA_OK;
}

/* The replayed run has left the recorded one's path: what both have in common is
 * launched, up to and with `last`, the rest goes on at once, and the next run of the
 * key is recorded anew. */
static msa_rc launch_up_to(msa_cuda_graphs *g, cudaGraphNode_t last, msa_err *err)
{
    run *r = g->current;
    cudaGraphNode_t next;
    msa_rc rc = node_behind(last, &next, err);
    while (rc == MSA_OK && next) {
        const cudaGraphNode_t node = next;
        if ((rc = node_behind(node, &next, err)) == MSA_OK)
            MSA_CUDA_TRY(cudaGraphDestroyNode(node));
    }
    if (rc < 0)
        return rc;
    MSA_CUDA_TRY(cudaGraphExecDestroy(r->exec));
    r->exec = NULL;
    MSA_CUDA_TRY(cudaGraphInstantiate(&r->exec, r->graph, 0));
    if ((rc = upload_and_launch(g, r, err)) == MSA_OK)
        MSA_CUDA_TRY(cudaStreamSynchronize(r->stream));
    return rc;
}

static msa_rc leave_path(msa_cuda_graphs *g, cudaGraphNode_t last, msa_err *err)
{
    msa_rc rc = msa_cuda_error(cudaStreamSynchronize(g->current->stream), "a recorded run", err);
    if (rc == MSA_OK && last) /* nothing of it is under way any more */
        rc = launch_up_to(g, last, err);
    forget(g->current);
    g->now = AT_ONCE;
    return rc;
}

/* ---- what operations ask ------------------------------------------------------------- */

bool msa_cuda_recording(const msa_cuda *c)
{
    return c->graphs->now == RECORD || c->graphs->now == REPLAY;
}

bool msa_cuda_noted(msa_cuda *c, const char *what, const void *const *pointers, int n_pointers,
                    const int64_t *numbers, int n_numbers)
{
    msa_cuda_graphs *g = c->graphs;
    if (g->now == RECORD) {
        cudaGraphNode_t node;
        if (!last_node(g->current->stream, &node))
            g->broken = true;
        note(g, (int64_t)(intptr_t)node);
        note(g, (int64_t)(intptr_t)what);
        note(g, n_pointers);
        for (int i = 0; i < n_pointers; i++)
            note(g, (int64_t)(intptr_t)pointers[i]);
        note(g, n_numbers);
        for (int i = 0; i < n_numbers; i++)
            note(g, numbers[i]);
        return false;
    }
    if (g->now != REPLAY)
        return false;
    const run *r = g->current;
    cudaGraphNode_t before = r->end;
    bool same = g->at_log < r->n_log;
    if (same) {
        before = (cudaGraphNode_t)(intptr_t)r->log[g->at_log++];
        same = next_is(g, (int64_t)(intptr_t)what) && next_is(g, n_pointers);
        for (int i = 0; same && i < n_pointers; i++)
            same = next_is(g, (int64_t)(intptr_t)pointers[i]);
        same = same && next_is(g, n_numbers);
        for (int i = 0; same && i < n_numbers; i++)
            same = next_is(g, numbers[i]);
    }
    if (same)
        return true;
    g->failed = leave_path(g, before, &g->why);
    return false;
}

msa_rc msa_cuda_run_args(msa_cuda *c, const void *host, int64_t bytes, void **dev, msa_err *err)
{
    msa_cuda_graphs *g = c->graphs;
    if (bytes > BLOCK_BYTES - g->used)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "the arrays of a recorded run exceed %d bytes",
                           BLOCK_BYTES);
    if (g->now == RECORD) {
        note(g, ARRAY_MARK);
        note(g, bytes);
    } else if (!next_is(g, ARRAY_MARK) || !next_is(g, bytes))
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL,
                           "a recorded run: an array of other length than its operation noted");
    memcpy(g->pinned[g->slot] + g->used, host, (size_t)bytes);
    *dev = g->device + g->used;
    g->used += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return MSA_OK;
}

void msa_cuda_run_passed(msa_cuda *c, int64_t bytes)
{
    if (c->graphs->now == AT_ONCE)
        c->graphs->used += (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* ---- a run ---------------------------------------------------------------------------- */

/* The place of a key, an old run's when all are taken. */
static run *place_of(msa_cuda_graphs *g, int64_t key, cudaStream_t stream, bool *seen)
{
    for (int i = 0; i < g->n_runs; i++)
        if (g->runs[i].key == key && g->runs[i].stream == stream) {
            *seen = true;
            return &g->runs[i];
        }
    *seen = false;
    run *r;
    if (g->n_runs < MAX_RUNS) {
        r = &g->runs[g->n_runs++];
    } else {
        r = &g->runs[g->turn++ % MAX_RUNS];
        cudaDeviceSynchronize();
        forget(r);
    }
    r->key = key;
    r->stream = stream;
    r->large = false;
    return r;
}

msa_rc msa_cuda_graph_begin(msa_kern *k, msa_kern_stream *st, int64_t key, msa_err *err)
{
    msa_cuda_graphs *g = msa_cuda_of(k)->graphs;
    bool seen;
    if (g->now != OUTSIDE)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "a run begins inside another");
    g->current = place_of(g, key, msa_cuda_stream(k, st), &seen);
    g->used = g->at_log = 0;
    g->broken = false;
    g->failed = MSA_OK;
    msa_err_init(&g->why);
    if (!seen || g->current->large) {
        g->now = AT_ONCE;
        return MSA_OK;
    }
    MSA_CUDA_TRY(cudaEventSynchronize(g->copied[g->slot]));
    if (g->current->exec) {
        g->now = REPLAY;
        return MSA_OK;
    }
    g->current->n_log = 0;
    /* relaxed: libraries may load a kernel on its first use */
    MSA_CUDA_TRY(cudaStreamBeginCapture(g->current->stream, cudaStreamCaptureModeRelaxed));
    g->now = RECORD;
    return MSA_OK;
}

static msa_rc end_recording(msa_cuda_graphs *g, msa_err *err)
{
    run *r = g->current;
    g->broken |= !last_node(r->stream, &r->end);
    MSA_CUDA_TRY(cudaStreamEndCapture(r->stream, &r->graph));
    MSA_CUDA_TRY(cudaGraphInstantiate(&r->exec, r->graph, 0));
    msa_rc rc = upload_and_launch(g, r, err);
    if (rc == MSA_OK && g->broken) {
        MSA_CUDA_TRY(cudaStreamSynchronize(r->stream));
        forget(r);
    }
    return rc;
}

msa_rc msa_cuda_graph_end(msa_kern *k, msa_kern_stream *st, msa_err *err)
{
    msa_cuda_graphs *g = msa_cuda_of(k)->graphs;
    run *r = g->current;
    const phase was = g->now;
    g->now = OUTSIDE;
    if (was == OUTSIDE || r->stream != msa_cuda_stream(k, st))
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "a run ends that did not begin");
    if (was == RECORD)
        return end_recording(g, err);
    if (was == REPLAY && g->at_log == r->n_log)
        return upload_and_launch(g, r, err);
    if (was == REPLAY) {
        msa_rc rc = leave_path(g, (cudaGraphNode_t)(intptr_t)r->log[g->at_log], err);
        g->now = OUTSIDE;
        return rc;
    }
    r->large = g->used > BLOCK_BYTES / 2; /* recorded, its tables have some room more */
    return g->failed < 0 ? msa_err_set(err, g->failed, g->why.code, "%s", g->why.msg) : MSA_OK;
}
