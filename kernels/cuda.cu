/* The CUDA backend: opening a device, memory, streams, copies, host arrays on
 * their way to the device, and the table of operations. */
#include "kernels/cuda_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- errors ------------------------------------------------------------------- */

msa_rc msa_cuda_error(cudaError_t e, const char *what, msa_err *err)
{
    if (e == cudaSuccess)
        return MSA_OK;
    cudaGetLastError(); /* what is reported does not stick to the next call */
    if (e == cudaErrorMemoryAllocation)
        return msa_err_set(err, MSA_FAILED, MSA_E_NOMEM, "%s: out of memory", what);
    return msa_err_set(err, MSA_FATAL, MSA_E_UNAVAILABLE, "CUDA: %s: %s", what, cudaGetErrorString(e));
}

/* ---- arrays -------------------------------------------------------------------- */

/* Arrays follow one another through pinned memory and, at the same offsets, device
 * memory. Before the first bytes are used again everything queued must have run:
 * one wait in 64 MiB of arrays. */
enum { RING_BYTES = 64 << 20, ARG_ALIGN = 256 };

/* An array that was sent. Layers ask for the same ones again: borders of documents,
 * chunks. Only small ones of late are looked at, so that none is given out which the
 * other arrays of its operation could overwrite. */
enum { SENT = 8, SENT_BYTES = 1 << 20, SENT_AGE = RING_BYTES / 16 };
typedef struct sent_array {
    cudaStream_t on;
    int64_t at, bytes;      /* in the ring; bytes 0: none */
} sent_array;

struct msa_cuda_args_ring {
    char *pinned, *device;
    int64_t used;
    sent_array sent[SENT];  /* in turn */
    int turn;
};

static void ring_free(msa_cuda_args_ring *r)
{
    if (!r)
        return;
    cudaFreeHost(r->pinned);
    cudaFree(r->device);
    free(r);
}

static msa_rc ring_new(msa_cuda_args_ring **out, msa_err *err)
{
    msa_cuda_args_ring *r = (msa_cuda_args_ring *)msa_calloc(1, sizeof *r);
    if (!r)
        return msa_err_nomem(err, "arrays for the device");
    cudaError_t e = cudaHostAlloc((void **)&r->pinned, RING_BYTES, cudaHostAllocDefault);
    if (e == cudaSuccess)
        e = cudaMalloc((void **)&r->device, RING_BYTES);
    if (e != cudaSuccess) {
        ring_free(r);
        return msa_cuda_error(e, "memory for arrays", err);
    }
    *out = r;
    return MSA_OK;
}

/* Room for `bytes` at offset *at of the ring. */
static msa_rc ring_take(msa_cuda *c, int64_t bytes, int64_t *at, msa_err *err)
{
    msa_cuda_args_ring *r = c->args;
    if (bytes > RING_BYTES)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "an array of %lld bytes exceeds the %d that travel",
                           (long long)bytes, RING_BYTES);
    if (bytes > RING_BYTES - r->used) {
        MSA_CUDA_TRY(cudaSetDevice(c->device));
        MSA_CUDA_TRY(cudaDeviceSynchronize());
        r->used = 0;
        memset(r->sent, 0, sizeof r->sent);
    }
    *at = r->used;
    r->used += (bytes + ARG_ALIGN - 1) / ARG_ALIGN * ARG_ALIGN;
    return MSA_OK;
}

/* The same bytes that went to the device on the same stream of late, or NULL. */
static const sent_array *sent_before(const msa_cuda_args_ring *r, cudaStream_t on, const void *host, int64_t bytes)
{
    for (int i = 0; i < SENT; i++) {
        const sent_array *a = &r->sent[i];
        if (a->bytes == bytes && a->on == on && r->used - a->at <= SENT_AGE &&
            memcmp(r->pinned + a->at, host, (size_t)bytes) == 0)
            return a;
    }
    return NULL;
}

msa_rc msa_cuda_args(msa_cuda *c, msa_kern_stream *st, const void *host, int64_t bytes, void **dev,
                     msa_err *err)
{
    msa_cuda_args_ring *r = c->args;
    int64_t at = 0;
    if (msa_cuda_recording(c))
        return msa_cuda_run_args(c, host, bytes, dev, err);
    msa_cuda_run_passed(c, bytes);
    const cudaStream_t on = msa_cuda_stream(&c->base, st);
    const sent_array *before = bytes > 0 && bytes <= SENT_BYTES ? sent_before(r, on, host, bytes) : NULL;
    if (before) {
        *dev = r->device + before->at;
        return MSA_OK;
    }
    msa_rc rc = ring_take(c, bytes, &at, err);
    if (rc < 0)
        return rc;
    memcpy(r->pinned + at, host, (size_t)bytes);
    *dev = r->device + at;
    MSA_CUDA_TRY(cudaMemcpyAsync(*dev, r->pinned + at, (size_t)bytes, cudaMemcpyHostToDevice, on));
    if (bytes <= SENT_BYTES) {
        r->sent[r->turn] = (sent_array){on, at, bytes};
        r->turn = (r->turn + 1) % SENT;
    }
    return MSA_OK;
}

/* ---- memory, streams, copies ------------------------------------------------------ */

static void mem_info(const msa_kern *k, int64_t *total, int64_t *free_bytes)
{
    size_t have = 0, all = 0;
    cudaSetDevice(msa_cuda_of(k)->device);
    if (cudaMemGetInfo(&have, &all) != cudaSuccess) {
        cudaGetLastError();
        have = all = 0;
    }
    *total = (int64_t)all;
    *free_bytes = (int64_t)have;
}

static msa_rc refused(int64_t bytes, const char *kind, cudaError_t e, msa_err *err)
{
    cudaGetLastError();
    if (e != cudaErrorMemoryAllocation && e != cudaErrorInvalidValue)
        return msa_cuda_error(e, "an allocation", err);
    return msa_err_set(err, MSA_FAILED, MSA_E_NOMEM, "cannot allocate %lld bytes of %s memory",
                       (long long)bytes, kind);
}

static msa_rc cuda_alloc(msa_kern *k, int64_t bytes, msa_mem kind, void **out, msa_err *err)
{
    msa_cuda *c = msa_cuda_of(k);
    const size_t size = bytes ? (size_t)bytes : 1;
    void *p = NULL;
    MSA_CUDA_TRY(cudaSetDevice(c->device));
    if (kind != MSA_MEM_DEVICE) {
        /* the mapped host pointer is the device's pointer too (one address space) */
        cudaError_t e = cudaHostAlloc(&p, size, kind == MSA_MEM_MAPPED
                                                    ? cudaHostAllocMapped | cudaHostAllocPortable
                                                    : cudaHostAllocPortable);
        if (e != cudaSuccess)
            return refused(bytes, "pinned host", e, err);
        memset(p, 0, size);
    } else {
        cudaError_t e = cudaMalloc(&p, size);
        if (e != cudaSuccess)
            return refused(bytes, "device", e, err);
        /* whichever stream uses it first finds it zeroed */
        e = cudaMemsetAsync(p, 0, size, c->stream);
        if (e == cudaSuccess)
            e = cudaStreamSynchronize(c->stream);
        if (e != cudaSuccess) {
            cudaFree(p);
            return msa_cuda_error(e, "an allocation", err);
        }
    }
    *out = p;
    return MSA_OK;
}

static void cuda_free(msa_kern *k, void *p, msa_mem kind)
{
    cudaSetDevice(msa_cuda_of(k)->device);
    if (kind == MSA_MEM_DEVICE)
        cudaFree(p);
    else
        cudaFreeHost(p);
    cudaGetLastError();
}

static msa_rc stream_new(msa_kern *k, msa_kern_stream **out, msa_err *err)
{
    MSA_CUDA_TRY(cudaSetDevice(msa_cuda_of(k)->device));
    msa_kern_stream *st = (msa_kern_stream *)msa_calloc(1, sizeof *st);
    if (!st)
        return msa_err_nomem(err, "a stream");
    cudaError_t e = cudaStreamCreateWithFlags(&st->s, cudaStreamNonBlocking);
    if (e != cudaSuccess) {
        free(st);
        return msa_cuda_error(e, "a stream", err);
    }
    *out = st;
    return MSA_OK;
}

static void stream_free(msa_kern *k, msa_kern_stream *st)
{
    (void)k;
    cudaStreamSynchronize(st->s);
    cudaStreamDestroy(st->s);
    cudaGetLastError();
    free(st);
}

static msa_rc cuda_sync(msa_kern *k, msa_kern_stream *st, msa_err *err)
{
    MSA_CUDA_TRY(cudaStreamSynchronize(msa_cuda_stream(k, st)));
    return MSA_OK;
}

/* The host sleeps while it waits: its cores read and tokenize meanwhile. */
static msa_rc event_new(msa_kern *k, msa_kern_event **out, msa_err *err)
{
    MSA_CUDA_TRY(cudaSetDevice(msa_cuda_of(k)->device));
    cudaEvent_t e;
    MSA_CUDA_TRY(cudaEventCreateWithFlags(&e, cudaEventBlockingSync));
    *out = (msa_kern_event *)e;
    return MSA_OK;
}

static void event_free(msa_kern *k, msa_kern_event *e)
{
    (void)k;
    cudaEventDestroy((cudaEvent_t)e);
    cudaGetLastError();
}

static msa_rc event_record(msa_kern *k, msa_kern_stream *st, msa_kern_event *e, msa_err *err)
{
    MSA_CUDA_TRY(cudaEventRecord((cudaEvent_t)e, msa_cuda_stream(k, st)));
    return MSA_OK;
}

static msa_rc event_wait(msa_kern *k, msa_kern_event *e, msa_err *err)
{
    (void)k;
    MSA_CUDA_TRY(cudaEventSynchronize((cudaEvent_t)e));
    return MSA_OK;
}

static msa_rc stream_wait(msa_kern *k, msa_kern_stream *st, msa_kern_event *e, msa_err *err)
{
    MSA_CUDA_TRY(cudaStreamWaitEvent(msa_cuda_stream(k, st), (cudaEvent_t)e, 0));
    return MSA_OK;
}

static msa_rc event_seconds(msa_kern *k, msa_kern_event *from, msa_kern_event *to, double *seconds, msa_err *err)
{
    (void)k;
    float ms = 0;
    MSA_CUDA_TRY(cudaEventElapsedTime(&ms, (cudaEvent_t)from, (cudaEvent_t)to));
    *seconds = ms * 1e-3;
    return MSA_OK;
}

/* Memory that the runtime does not know is the caller's pageable memory. */
static msa_rc kind_of(const void *p, bool *pageable, bool *device, msa_err *err)
{
    cudaPointerAttributes a;
    MSA_CUDA_TRY(cudaPointerGetAttributes(&a, p));
    *pageable = a.type == cudaMemoryTypeUnregistered;
    *device = a.type == cudaMemoryTypeDevice;
    return MSA_OK;
}

static msa_rc cuda_copy(msa_kern *k, msa_kern_stream *st, void *dst, const void *src, int64_t bytes,
                        msa_err *err)
{
    /* Small arrays go through the ring, so that the caller does not wait for what
     * is queued before them. */
    enum { THROUGH_RING = 4 << 20 };
    msa_cuda *c = msa_cuda_of(k);
    const cudaStream_t s = msa_cuda_stream(k, st);
    bool from_pageable = false, to_pageable = false, from_device, to_device = false;
    msa_rc rc = kind_of(src, &from_pageable, &from_device, err);
    if (rc == MSA_OK)
        rc = kind_of(dst, &to_pageable, &to_device, err);
    if (rc < 0)
        return rc;
    if (from_pageable && to_device && bytes <= THROUGH_RING && !msa_cuda_recording(c)) {
        int64_t at = 0;
        if ((rc = ring_take(c, bytes, &at, err)) < 0)
            return rc;
        memcpy(c->args->pinned + at, src, (size_t)bytes);
        MSA_CUDA_TRY(cudaMemcpyAsync(dst, c->args->pinned + at, (size_t)bytes, cudaMemcpyHostToDevice, s));
        return MSA_OK;
    }
    MSA_CUDA_TRY(cudaMemcpyAsync(dst, src, (size_t)bytes, cudaMemcpyDefault, s));
    if (from_pageable || to_pageable)
        MSA_CUDA_TRY(cudaStreamSynchronize(s));
    return MSA_OK;
}

/* ---- the reservation ---------------------------------------------------------------- */

enum { N_SCRATCH = 5 };

static msa_rc cuda_reserve(msa_kern *k, const msa_kern_shape *max, bool dry_run, int64_t *bytes,
                           msa_err *err)
{
    msa_cuda *c = msa_cuda_of(k);
    int64_t size[N_SCRATCH], all = 0, tensor;
    /* the logits and a cache of the shape must have a size, though no scratch holds them */
    bool ok = msa_mul(max->rows, max->V, &tensor) && msa_mul(tensor, sizeof(float), &tensor) &&
              msa_mul(max->G, max->D, &tensor) && msa_mul(tensor, max->max_seq, &tensor) &&
              msa_mul(tensor, sizeof(float), &tensor) && msa_cuda_linear_bytes(c, max, &size[0]) &&
              msa_cuda_attn_bytes(c, max, &size[1]) && msa_cuda_route_bytes(c, max, &size[2]) &&
              msa_cuda_scan_bytes(c, max, &size[3]) && msa_cuda_sample_bytes(c, max, &size[4]);
    for (int i = 0; ok && i < N_SCRATCH; i++)
        ok = msa_add(all, size[i], &all);
    if (!ok)
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "reserve: a shape out of range");
    *bytes = all;
    if (dry_run)
        return MSA_OK;
    void **place[N_SCRATCH] = {&c->linear_scratch, &c->attn_scratch, &c->route_scratch, &c->scan_scratch,
                               &c->sample_scratch};
    int64_t *has[N_SCRATCH] = {&c->linear_bytes, &c->attn_bytes, &c->route_bytes, &c->scan_bytes,
                               &c->sample_bytes};
    void *fresh[N_SCRATCH] = {NULL};
    for (int i = 0; i < N_SCRATCH; i++) {
        msa_rc rc = *place[i] && *has[i] == size[i]
                        ? MSA_OK
                        : cuda_alloc(k, size[i], MSA_MEM_DEVICE, &fresh[i], err);
        if (rc < 0) {
            while (i-- > 0)
                cudaFree(fresh[i]);
            return msa_err_prefix(err, rc, "reserve");
        }
    }
    /* recorded runs name the old scratch; so may operations that are queued */
    msa_cuda_graph_clear(k);
    cudaDeviceSynchronize();
    for (int i = 0; i < N_SCRATCH; i++)
        if (fresh[i]) {
            cudaFree(*place[i]);
            *place[i] = fresh[i];
            *has[i] = size[i];
        }
    return MSA_OK;
}

/* ---- opening ------------------------------------------------------------------------- */

static void cuda_close(msa_kern *k)
{
    msa_cuda *c = msa_cuda_of(k);
    cudaSetDevice(c->device);
    if (c->stream)
        cudaStreamSynchronize(c->stream);
    msa_cuda_graphs_close(c);
    msa_cuda_linear_close(c);
    if (c->lt)
        cublasLtDestroy(c->lt);
    ring_free(c->args);
    void *scratch[N_SCRATCH] = {c->linear_scratch, c->attn_scratch, c->route_scratch, c->scan_scratch,
                                c->sample_scratch};
    for (int i = 0; i < N_SCRATCH; i++)
        cudaFree(scratch[i]);
    if (c->stream)
        cudaStreamDestroy(c->stream);
    cudaGetLastError();
    free(c);
}

static const msa_kern_ops ops = {
    .close = cuda_close,
    .mem_info = mem_info,
    .reserve = cuda_reserve,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .stream_new = stream_new,
    .stream_free = stream_free,
    .sync = cuda_sync,
    .copy = cuda_copy,
    .event_new = event_new,
    .event_free = event_free,
    .event_record = event_record,
    .event_wait = event_wait,
    .stream_wait = stream_wait,
    .event_seconds = event_seconds,
    .graph_begin = msa_cuda_graph_begin,
    .graph_end = msa_cuda_graph_end,
    .graph_clear = msa_cuda_graph_clear,
    .weight_new = msa_cuda_weight_new,
    .weight_free = msa_cuda_weight_free,
    .embed = msa_cuda_embed,
    .rms_norm = msa_cuda_rms_norm,
    .linear = msa_cuda_linear,
    .qk_rope = msa_cuda_qk_rope,
    .attn_packed = msa_cuda_attn_packed,
    .attn_memory = msa_cuda_attn_memory,
    .cache_store = msa_cuda_cache_store,
    .qk_rope_store = msa_cuda_qk_rope_store,
    .qk_rope_attn = msa_cuda_qk_rope_attn,
    .swiglu = msa_cuda_swiglu,
    .norm_linear = msa_cuda_norm_linear,
    .between = msa_cuda_between,
    .gather = msa_cuda_gather,
    .pool = msa_cuda_pool,
    .unit_heads = msa_cuda_unit_heads,
    .convert = msa_cuda_convert,
    .router_query = msa_cuda_router_query,
    .quantize = msa_cuda_quantize,
    .scan = msa_cuda_scan,
    .score_docs = msa_cuda_score_docs,
    .doc_scores = msa_cuda_doc_scores,
    .topk_merge = msa_cuda_topk_merge,
    .topk_init = msa_cuda_topk_init,
    .sample_tokens = msa_cuda_sample_tokens,
};

/* Devices that can be asked for; 0 with the reason in err. */
static int count_devices(msa_err *err)
{
    int n = 0, driver = 0, runtime = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    cudaGetLastError();
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (e == cudaSuccess && n > 0)
        return n;
    if (driver == 0)
        msa_err_set(err, MSA_FAILED, MSA_E_UNAVAILABLE, "CUDA: no NVIDIA driver is installed");
    else if (e == cudaErrorInsufficientDriver || driver / 1000 < runtime / 1000)
        msa_err_set(err, MSA_FAILED, MSA_E_UNAVAILABLE,
                    "CUDA: the driver supports CUDA %d.%d, this program needs %d.%d: a newer driver is needed",
                    driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    else if (e == cudaSuccess || e == cudaErrorNoDevice)
        msa_err_set(err, MSA_FAILED, MSA_E_UNAVAILABLE, "CUDA: no device");
    else
        msa_err_set(err, MSA_FAILED, MSA_E_UNAVAILABLE, "CUDA: %s", cudaGetErrorString(e));
    return 0;
}

int msa_cuda_count(void)
{
    msa_err err;
    msa_err_init(&err);
    return count_devices(&err);
}

/* "cuda" or "cuda:N" */
static bool device_number(const char *name, int *out)
{
    const char *p = name + strcspn(name, ":");
    char *end;
    *out = 0;
    if (!*p)
        return true;
    if (p[1] < '0' || p[1] > '9' || strlen(p + 1) > 4)
        return false;
    *out = (int)strtol(p + 1, &end, 10);
    return !*end;
}

static msa_rc set_up(msa_cuda *c, const cudaDeviceProp *p, const msa_kern_opts *opts, msa_err *err)
{
    /* Hopper's instructions are in the program, and no others: a kernel that does
     * not load says so here, before any work */
    if (p->major != 9 || p->minor != 0)
        return msa_err_set(err, MSA_FAILED, MSA_E_UNAVAILABLE,
                           "%s: %s has compute capability %d.%d; this program is built for 9.0 (H100, H200)",
                           c->name, p->name, p->major, p->minor);
    MSA_CUDA_TRY(cudaSetDevice(c->device));
    MSA_CUDA_TRY(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking));
    msa_rc rc = ring_new(&c->args, err);
    if (rc < 0)
        return rc;
    if (cublasLtCreate(&c->lt) != CUBLAS_STATUS_SUCCESS)
        return msa_err_set(err, MSA_FAILED, MSA_E_UNAVAILABLE, "%s: cuBLASLt does not start", c->name);
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    c->n_sms = p->multiProcessorCount;
    c->shared_bytes = (int64_t)p->sharedMemPerBlockOptin;
    snprintf(c->device_name, sizeof c->device_name, "%.200s, %lld MiB, %d SMs, CUDA driver %d.%d, runtime %d.%d",
             p->name, (long long)(p->totalGlobalMem >> 20), c->n_sms, driver / 1000, driver % 1000 / 10,
             runtime / 1000, runtime % 1000 / 10);
    c->base.info.name = c->name;
    c->base.info.device = c->device_name;
    c->base.info.act = opts->act;
    c->base.info.native_bf16 = true;
    c->base.info.n_threads = 0;
    c->base.info.host_memory = false;
    /* the tensors of a batch of 32,768 rows of a 4B model take some 4 GB */
    const int64_t all = (int64_t)p->totalGlobalMem;
    const int64_t told = opts->memory_bytes > 0 && opts->memory_bytes < all ? opts->memory_bytes : all;
    c->base.info.batch_tokens = told >= (int64_t)40 << 30 ? 32768 : 8192;
    return MSA_OK;
}

msa_rc msa_cuda_open(const char *name, const msa_kern_opts *opts, msa_kern **out, msa_err *err)
{
    int device, n;
    if (!device_number(name, &device))
        return msa_err_set(err, MSA_FAILED, MSA_E_UNAVAILABLE, "backend \"%s\" is not of the form cuda:N", name);
    if ((n = count_devices(err)) == 0)
        return MSA_FAILED;
    if (device >= n)
        return msa_err_set(err, MSA_FAILED, MSA_E_UNAVAILABLE, "cuda:%d: this machine has %d device%s", device,
                           n, n == 1 ? "" : "s");
    cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, device);
    if (e != cudaSuccess) {
        cudaGetLastError();
        return msa_err_set(err, MSA_FAILED, MSA_E_UNAVAILABLE, "cuda:%d: %s", device, cudaGetErrorString(e));
    }
    msa_cuda *c = (msa_cuda *)msa_calloc(1, sizeof *c);
    if (!c)
        return msa_err_nomem(err, "the CUDA backend");
    c->base.ops = &ops;
    c->device = device;
    snprintf(c->name, sizeof c->name, "cuda:%d", device);
    msa_rc rc = set_up(c, &p, opts, err);
    if (rc == MSA_OK)
        rc = msa_cuda_graphs_open(c, err);
    if (rc < 0) {
        cuda_close(&c->base);
        return MSA_FAILED; /* nothing is lost but this backend */
    }
    *out = &c->base;
    return MSA_OK;
}
