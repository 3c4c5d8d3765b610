/* The fast CPU backend: picks an instruction set, owns threads, scratch and
 * packed weights, and cuts operations into items for the pool. The arithmetic
 * stands in the templates that cpu_internal.h names. */
#define _GNU_SOURCE
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/cpu_internal.h"
#include "kernels/dtype.h"

typedef struct msa_cpu {
    msa_kern base;
    char name[32], device[128];
    const msa_cpu_code *code;
    msa_pool *pool;
    struct slab *slabs;     /* of weights; newest first */
    /* scratch, all of it made by reserve */
    char *thread_room;      /* n_threads blocks of thread_bytes */
    int64_t thread_bytes;
    msa_cpu_attn_item *attn_items;
    float *query_panels;
    /* cosines and sines of the rows of the last qk_rope: all layers of a batch
     * share them */
    float *angles;          /* [rows, D] */
    int64_t *angle_pos;     /* [rows]: the positions they belong to */
    int64_t angle_rows, angle_D;
    double angle_theta;
} msa_cpu;

static msa_cpu *cpu(msa_kern *k)
{
    return (msa_cpu *)k;
}

/* ---- items ------------------------------------------------------------------------ */

/* Runs a row operation; a row touches about `work` numbers. Items are large
 * enough that handing them out costs nothing beside them. */
static msa_rc run_rows(msa_kern *k, msa_pool_fn *fn, msa_cpu_rows_job *job, int64_t work)
{
    enum { ITEM_WORK = 16384 };
    job->rows = work < ITEM_WORK ? ITEM_WORK / work : 1;
    msa_pool_run(cpu(k)->pool, (job->n - 1) / job->rows + 1, fn, job);
    return MSA_OK;
}

/* ---- weights ------------------------------------------------------------------------ */

/* Packed weights lie behind each other in slabs of huge pages, which make
 * decoding a fifth faster than 4 KB pages do (one Zen 4 core: 24 to 30 GB/s). A
 * slab goes when its last weight does. */
typedef struct slab {
    struct slab *next;
    char *data;
    int64_t cap, used, live;
} slab;

typedef struct cpu_weight {
    msa_kern_weight base;
    void *panels;
    slab *home;
} cpu_weight;

/* Room for `bytes`, a multiple of 64, in the newest slab or a new one. */
static slab *slab_room(msa_cpu *c, int64_t bytes)
{
    enum { FIRST = 1 << 21, MOST = 1 << 26 };
    slab *s = c->slabs;
    if (s && s->cap - s->used >= bytes)
        return s;
    int64_t cap = !s ? FIRST : s->cap < MOST / 2 ? 2 * s->cap : MOST;
    cap = cap < bytes ? bytes : cap;
    s = msa_calloc(1, sizeof *s);
    if (!s || !(s->data = msa_host_pages(cap))) {
        free(s);
        return NULL;
    }
    s->cap = cap;
    s->next = c->slabs;
    c->slabs = s;
    return s;
}

static void slab_leave(msa_cpu *c, slab *s)
{
    if (--s->live > 0)
        return;
    slab **link = &c->slabs;
    while (*link != s)
        link = &(*link)->next;
    *link = s->next;
    free(s->data);
    free(s);
}

/* Packs n rows, each `units` 32-bit units long and row_bytes behind the last. */
static void pack_rows(const msa_cpu_code *code, const void *first, int64_t row_bytes, int64_t n,
                      int64_t units, void *panels)
{
    for (int64_t at = 0; at < n; at += code->nr) {
        const void *rows[MSA_CPU_MAX_NR];
        int64_t in = n - at < code->nr ? n - at : code->nr;
        for (int64_t i = 0; i < in; i++)
            rows[i] = (const char *)first + (at + i) * row_bytes;
        code->pack(rows, in, units, (uint32_t *)panels + at * units);
    }
}

typedef struct pack_job {
    const msa_cpu_code *code;
    const void *data;
    msa_dtype from, act;
    int64_t N, K;
    uint32_t *panels;
    atomic_bool failed;
} pack_job;

/* One panel; rows of another type, or of an odd number of bf16, are copied first. */
static void pack_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    pack_job *job = arg;
    int64_t first = item * job->code->nr, K = job->K, size = msa_dtype_bytes(job->act);
    int64_t n = job->N - first < job->code->nr ? job->N - first : job->code->nr;
    int64_t units = (K * size + 3) / 4, row_bytes = K * size;
    const void *rows = msa_elem_at(job->data, job->from, first * K);
    char *copy = NULL;
    if (job->from != job->act || row_bytes % 4) {
        row_bytes = units * 4;
        copy = msa_calloc(n, row_bytes);
        if (!copy) {
            atomic_store(&job->failed, true);
            return;
        }
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = 0; k < K; k++)
                msa_elem_set(copy + i * row_bytes, job->act, k,
                             msa_elem_get(rows, job->from, i * K + k));
        rows = copy;
    }
    pack_rows(job->code, rows, row_bytes, n, units, job->panels + first * units);
    free(copy);
}

static void weight_free(msa_kern *k, msa_kern_weight *w)
{
    slab_leave(cpu(k), ((cpu_weight *)w)->home);
    free(w);
}

static msa_rc weight_new(msa_kern *k, const void *data, msa_dtype from, int64_t N, int64_t K,
                         msa_kern_weight **out, msa_err *err)
{
    msa_cpu *c = cpu(k);
    int64_t units = (K * msa_dtype_bytes(k->info.act) + 3) / 4;
    int64_t bytes = msa_round_up(msa_round_up(N, c->code->nr) * units * 4, 64);
    cpu_weight *w = msa_calloc(1, sizeof *w);
    slab *home = w ? slab_room(c, bytes) : NULL;
    if (home) {
        w->base = (msa_kern_weight){.owner = k, .N = N, .K = K, .bytes = bytes};
        w->panels = home->data + home->used;
        w->home = home;
        home->used += bytes;
        home->live++;
        pack_job job = {.code = c->code, .data = data, .from = from, .act = k->info.act, .N = N,
                        .K = K, .panels = w->panels};
        msa_pool_run(c->pool, (N - 1) / c->code->nr + 1, pack_item, &job);
        if (!atomic_load(&job.failed)) {
            *out = &w->base;
            return MSA_OK;
        }
        slab_leave(c, home);
    }
    free(w);
    return msa_err_set(err, MSA_FAILED, MSA_E_NOMEM, "no memory for a weight of %lld x %lld",
                       (long long)N, (long long)K);
}

static const void *panels_of(const msa_kern_weight *w)
{
    return ((const cpu_weight *)w)->panels;
}

/* ---- the decoder -------------------------------------------------------------------- */

static msa_rc embed(msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w, const int32_t *ids,
                    int64_t M, float *x, msa_err *err)
{
    (void)st;
    for (int64_t m = 0; m < M; m++)
        if (ids[m] < 0 || ids[m] >= w->N)
            return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "embed: token id %d of row %lld",
                               ids[m], (long long)m);
    msa_cpu_rows_job job = {.n = M, .src = panels_of(w), .src_type = k->info.act, .dst = x,
                            .w = w, .ids = ids};
    return run_rows(k, cpu(k)->code->embed, &job, w->K);
}

static msa_rc rms_norm(msa_kern *k, msa_kern_stream *st, const float *x, const float *gamma,
                       float eps, int64_t M, int64_t E, void *out, msa_err *err)
{
    (void)st, (void)err;
    msa_cpu_rows_job job = {.n = M, .src = x, .dst = out, .dst_type = k->info.act, .width = E,
                            .gamma = gamma, .eps = eps};
    return run_rows(k, cpu(k)->code->rms_norm, &job, E);
}

static msa_rc linear(msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w, const void *x,
                     int64_t M, void *out, msa_linear_mode mode, msa_err *err)
{
    (void)st, (void)err;
    msa_cpu *c = cpu(k);
    msa_cpu_linear_job job = {.x = x, .w = panels_of(w), .act = k->info.act, .M = M, .N = w->N,
                              .K = w->K, .out = out, .mode = mode};
    int64_t panels = (w->N - 1) / c->code->nr + 1, nr_max = 64;
    job.rows = MSA_CPU_LINEAR_ROWS;
    /* few rows: weights are the traffic, so their panels are what is shared out */
    job.panels = M <= MSA_CPU_LINEAR_ROWS ? nr_max / c->code->nr
                                          : MSA_CPU_LINEAR_PANELS * (nr_max / c->code->nr);
    job.panel_items = (panels - 1) / job.panels + 1;
    msa_pool_run(c->pool, ((M - 1) / job.rows + 1) * job.panel_items, c->code->linear, &job);
    return MSA_OK;
}

enum { ANGLE_ROWS = 64 }; /* rows an item of angle_item */

static void angle_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const msa_cpu *c = arg;
    int64_t half = c->angle_D / 2, first = item * ANGLE_ROWS;
    int64_t end = c->angle_rows - first < ANGLE_ROWS ? c->angle_rows : first + ANGLE_ROWS;
    for (int64_t i = 0; i < half; i++) {
        double frequency = pow(c->angle_theta, -(double)i / (double)half);
        for (int64_t m = first; m < end; m++) {
            double sine, cosine;
            sincos((double)c->angle_pos[m] * frequency, &sine, &cosine);
            c->angles[m * c->angle_D + i] = (float)cosine;
            c->angles[m * c->angle_D + half + i] = (float)sine;
        }
    }
}

static void find_angles(msa_cpu *c, int64_t M, int64_t D, const int64_t *pos, double theta)
{
    if (c->angle_rows == M && c->angle_D == D && c->angle_theta == theta &&
        memcmp(c->angle_pos, pos, (size_t)M * sizeof *pos) == 0)
        return;
    memcpy(c->angle_pos, pos, (size_t)M * sizeof *pos);
    c->angle_rows = M;
    c->angle_D = D;
    c->angle_theta = theta;
    msa_pool_run(c->pool, (M - 1) / ANGLE_ROWS + 1, angle_item, c);
}

static msa_rc qk_rope(msa_kern *k, msa_kern_stream *st, void *qkv, int64_t M, msa_kern_heads h,
                      const float *q_gamma, const float *k_gamma, float eps, const int64_t *pos,
                      double theta, msa_err *err)
{
    (void)st, (void)err;
    find_angles(cpu(k), M, h.D, pos, theta);
    msa_cpu_rows_job job = {.n = M, .dst = qkv, .dst_type = k->info.act, .h = h, .gamma = q_gamma,
                            .gamma_k = k_gamma, .eps = eps, .angles = cpu(k)->angles};
    return run_rows(k, cpu(k)->code->qk_rope, &job, (h.H + h.G) * h.D);
}

/* Fills in what is common and runs over all rows of B sequences. */
static msa_rc run_attn(msa_kern *k, msa_cpu_attn_job *job, int64_t B)
{
    msa_cpu *c = cpu(k);
    int64_t n = 0;
    for (int64_t b = 0; b < B; b++)
        for (int64_t row = 0; row < job->row_start[b + 1] - job->row_start[b];
             row += MSA_CPU_ATTN_ROWS)
            c->attn_items[n++] = (msa_cpu_attn_item){b, row};
    job->act = k->info.act;
    job->items = c->attn_items;
    job->scratch = c->thread_room;
    job->scratch_bytes = c->thread_bytes;
    msa_pool_run(c->pool, n * job->h.G, c->code->attn, job);
    return MSA_OK;
}

static msa_rc attn_packed(msa_kern *k, msa_kern_stream *st, const void *qkv, int64_t M,
                          msa_kern_heads h, const int64_t *seq_start, int64_t S, void *out,
                          msa_err *err)
{
    (void)st, (void)M, (void)err;
    msa_cpu_attn_job job = {.q = qkv, .q_stride = (h.H + 2 * h.G) * h.D, .h = h,
                            .row_start = seq_start, .out = out};
    return run_attn(k, &job, S);
}

static msa_rc attn_memory(msa_kern *k, msa_kern_stream *st, const void *q, int64_t q_stride,
                          msa_kern_heads h, int64_t B, const int64_t *row_start,
                          const msa_kern_seg *segs, const int64_t *seg_start,
                          const msa_kern_cache *caches, void *out, msa_err *err)
{
    (void)st, (void)err;
    msa_cpu_attn_job job = {.q = q, .q_stride = q_stride, .h = h, .row_start = row_start,
                            .segs = segs, .seg_start = seg_start, .caches = caches, .out = out};
    return run_attn(k, &job, B);
}

static msa_rc swiglu(msa_kern *k, msa_kern_stream *st, const void *gu, int64_t M, int64_t I,
                     void *out, msa_err *err)
{
    (void)st, (void)err;
    msa_cpu_rows_job job = {.n = M, .src = gu, .dst = out, .dst_type = k->info.act, .width = I};
    return run_rows(k, cpu(k)->code->swiglu, &job, 2 * I);
}

/* ---- pooling, routing ----------------------------------------------------------------- */

static msa_rc pool(msa_kern *k, msa_kern_stream *st, const void *x, bool x_f32, int64_t stride,
                   int64_t col, int64_t W, const msa_kern_chunk *chunks, int64_t C, float *out,
                   msa_err *err)
{
    (void)st, (void)err;
    msa_cpu_rows_job job = {.n = C, .src = x, .src_type = x_f32 ? MSA_F32 : k->info.act,
                            .src_stride = stride, .col = col, .width = W, .chunks = chunks,
                            .dst = out};
    return run_rows(k, cpu(k)->code->pool, &job, 16 * W);
}

static msa_rc unit_heads(msa_kern *k, msa_kern_stream *st, float *x, int64_t R, int64_t heads,
                         int64_t D, msa_err *err)
{
    (void)st, (void)err;
    msa_cpu_rows_job job = {.n = R * heads, .dst = x, .width = D};
    return run_rows(k, cpu(k)->code->unit_heads, &job, D);
}

static msa_rc convert(msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from,
                      int64_t src_stride, void *dst, msa_dtype to, int64_t dst_stride, int64_t n,
                      int64_t R, msa_err *err)
{
    (void)st, (void)err;
    msa_cpu_rows_job job = {.n = R, .src = src, .src_type = from, .src_stride = src_stride,
                            .dst = dst, .dst_type = to, .dst_stride = dst_stride, .width = n};
    return run_rows(k, cpu(k)->code->convert, &job, n);
}

static msa_rc router_query(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r,
                           const void *rq, bool rq_f32, int64_t stride, int64_t T, float *out,
                           msa_err *err)
{
    (void)st, (void)err;
    msa_cpu_rows_job job = {.n = T, .src = rq, .src_type = rq_f32 ? MSA_F32 : k->info.act,
                            .src_stride = stride, .dst = out, .route = r};
    return run_rows(k, cpu(k)->code->router_query, &job, r->h.H * r->h.D);
}

static msa_rc scan(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q,
                   const int64_t *q_start, int64_t B, const void *rk, msa_dtype rk_dtype,
                   const float *scale, int64_t stride, int64_t C, float *out, msa_err *err)
{
    (void)st, (void)err;
    msa_cpu *c = cpu(k);
    int64_t width = msa_kern_route_width(r), T = q_start[B];
    msa_cpu_scan_job job = {.r = r, .panels = c->query_panels, .T = T, .q_start = q_start, .B = B,
                            .rk = rk, .rk_type = rk_dtype, .scale = scale, .stride = stride, .C = C, .out = out,
                            .scratch = c->thread_room, .scratch_bytes = c->thread_bytes};
    job.parts = r->head == MSA_REDUCE_MEAN ? 1 : r->h.H;
    job.depth = width / job.parts;
    for (int64_t p = 0; p < job.parts; p++)
        pack_rows(c->code, q + p * job.depth, width * (int64_t)sizeof *q, T, job.depth,
                  c->query_panels + p * msa_round_up(T, c->code->nr) * job.depth);
    msa_pool_run(c->pool, (C - 1) / MSA_CPU_SCAN_ROWS + 1, c->code->scan, &job);
    return MSA_OK;
}

/* ---- sampling --------------------------------------------------------------------------- */

static msa_rc sample_tokens(msa_kern *k, msa_kern_stream *st, const float *logits, int64_t B,
                            int64_t V, const msa_kern_sample *params, int32_t *out, msa_err *err)
{
    (void)st;
    msa_cpu *c = cpu(k);
    msa_cpu_sample_job job = {logits, V, params, out, c->thread_room, c->thread_bytes};
    msa_pool_run(c->pool, B, c->code->sample, &job);
    for (int64_t b = 0; b < B; b++)
        if (out[b] < 0)
            return msa_err_set(err, MSA_FATAL, MSA_E_DATA,
                               "sample: the logits of row %lld hold a NaN", (long long)b);
    return MSA_OK;
}

/* ---- the backend -------------------------------------------------------------------------- */

/* a * b + c * d, false when it does not fit */
static bool sum_of(int64_t a, int64_t b, int64_t c, int64_t d, int64_t *out)
{
    int64_t ab, cd;
    return msa_mul(a, b, &ab) && msa_mul(c, d, &cd) && msa_add(ab, cd, out);
}

/* Bytes of one thread's scratch: the largest of what attention, a scan and
 * sampling lay out in it. */
static bool thread_bytes(const msa_cpu *c, const msa_kern_shape *s, int64_t *out)
{
    int64_t attn, scan_bytes, sample_bytes, limit, row;
    /* attn_bytes multiplies unchecked: keep its factors far from the edge */
    if (!sum_of(s->max_seq, s->D, s->max_seq, 1024, &limit) || limit > INT64_MAX / 1024 ||
        s->D > INT64_MAX / (1 << 20))
        return false;
    attn = c->code->attn_bytes(c->base.info.act, s->max_seq, s->D);
    if (!sum_of(s->G, s->D, s->route_tokens, 1, &row) || !msa_add(row, c->code->nr, &row) ||
        !msa_mul(row, MSA_CPU_SCAN_ROWS * (int64_t)sizeof(float), &scan_bytes) ||
        !msa_mul(s->V, 8, &sample_bytes))
        return false;
    int64_t most = attn > scan_bytes ? attn : scan_bytes;
    most = most > sample_bytes ? most : sample_bytes;
    if (most > INT64_MAX - 4096)
        return false;
    *out = msa_round_up(most, 4096);
    return true;
}

static msa_rc reserve(msa_kern *k, const msa_kern_shape *max, bool dry_run, int64_t *bytes,
                      msa_err *err)
{
    msa_cpu *c = cpu(k);
    int64_t each, rooms, items, queries, angles, pos, total = 0;
    bool ok = thread_bytes(c, max, &each) && msa_mul(each, k->info.n_threads, &rooms) &&
              msa_mul(max->rows, sizeof *c->attn_items, &items) &&
              sum_of(max->rows, max->D, 0, 0, &angles) &&
              msa_mul(angles, sizeof *c->angles, &angles) &&
              msa_mul(max->rows, sizeof *c->angle_pos, &pos) &&
              msa_add(max->route_tokens, c->code->nr, &queries) &&
              msa_mul(queries, max->H, &queries) && msa_mul(queries, max->D, &queries) &&
              msa_mul(queries, sizeof *c->query_panels, &queries) &&
              msa_add(rooms, items, &total) && msa_add(total, queries, &total) &&
              msa_add(total, angles, &total) && msa_add(total, pos, &total);
    if (!ok)
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "reserve: a shape out of range");
    *bytes = total;
    if (dry_run)
        return MSA_OK;
    msa_cpu n = {.thread_room = msa_alloc_aligned(rooms, 1),
                 .attn_items = msa_alloc_aligned(items, 1),
                 .query_panels = msa_alloc_aligned(queries, 1),
                 .angles = msa_alloc_aligned(angles, 1),
                 .angle_pos = msa_alloc_aligned(pos, 1)};
    ok = n.thread_room && n.attn_items && n.query_panels && n.angles && n.angle_pos;
    msa_cpu *drop = ok ? c : &n;
    free(drop->thread_room);
    free(drop->attn_items);
    free(drop->query_panels);
    free(drop->angles);
    free(drop->angle_pos);
    if (!ok)
        return msa_err_set(err, MSA_FAILED, MSA_E_NOMEM, "reserve: no memory for %lld bytes",
                           (long long)total);
    c->thread_room = n.thread_room;
    c->thread_bytes = each;
    c->attn_items = n.attn_items;
    c->query_panels = n.query_panels;
    c->angles = n.angles;
    c->angle_pos = n.angle_pos;
    c->angle_rows = 0;
    return MSA_OK;
}

static void cpu_close(msa_kern *k)
{
    msa_cpu *c = cpu(k);
    msa_pool_free(c->pool);
    free(c->thread_room);
    free(c->attn_items);
    free(c->query_panels);
    free(c->angles);
    free(c->angle_pos);
    free(c);
}

static const msa_kern_ops ops = {
    .close = cpu_close,
    .mem_info = msa_host_mem_info,
    .reserve = reserve,
    .alloc = msa_host_alloc,
    .free = msa_host_free,
    .stream_new = msa_host_stream_new,
    .stream_free = msa_host_stream_free,
    .sync = msa_host_sync,
    .copy = msa_host_copy,
    .weight_new = weight_new,
    .weight_free = weight_free,
    .embed = embed,
    .rms_norm = rms_norm,
    .linear = linear,
    .qk_rope = qk_rope,
    .attn_packed = attn_packed,
    .attn_memory = attn_memory,
    .cache_store = msa_host_cache_store,
    .swiglu = swiglu,
    .gather = msa_host_gather,
    .pool = pool,
    .unit_heads = unit_heads,
    .convert = convert,
    .router_query = router_query,
    .quantize = msa_ref_quantize,
    .scan = scan,
    .score_docs = msa_ref_score_docs,
    .doc_scores = msa_host_doc_scores,
    .topk_merge = msa_host_topk_merge,
    .topk_init = msa_host_topk_init,
    .sample_tokens = sample_tokens,
};

/* F16C, which the files are compiled with too, came with the first of these, and
 * clang 14 does not know its name. */
static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("fma");
}

static bool usable(const msa_cpu_code *code)
{
    if (code == &msa_cpu_code_avx512bf16)
        return has_avx512() && __builtin_cpu_supports("avx512bf16");
    if (code == &msa_cpu_code_avx512)
        return has_avx512();
    if (code == &msa_cpu_code_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return true;
}

/* The best instruction set this processor has, or the one named behind "cpu:". */
static const msa_cpu_code *find_code(const char *name)
{
    static const msa_cpu_code *const codes[] = {&msa_cpu_code_avx512bf16, &msa_cpu_code_avx512,
                                                &msa_cpu_code_avx2, &msa_cpu_code_portable};
    const char *colon = strchr(name, ':');
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (usable(codes[i]) && (!colon || strcmp(colon + 1, codes[i]->name) == 0))
            return codes[i];
    return NULL;
}

msa_rc msa_cpu_open(const char *name, const msa_kern_opts *opts, msa_kern **out, msa_err *err)
{
    const msa_cpu_code *code = find_code(name);
    if (!code)
        return msa_err_set(err, MSA_FAILED, MSA_E_UNAVAILABLE,
                           "backend \"%s\": this processor or program has no such instruction set",
                           name);
    msa_cpu *c = msa_calloc(1, sizeof *c);
    if (!c)
        return msa_err_nomem(err, "the cpu backend");
    c->pool = msa_pool_new(opts->n_threads);
    if (!c->pool) {
        free(c);
        return msa_err_set(err, MSA_FAILED, MSA_E_NOMEM, "cannot start the threads of a backend");
    }
    c->code = code;
    char model[96];
    msa_host_cpu_name(model, sizeof model);
    snprintf(c->device, sizeof c->device, "%s (%s)", model, code->name);
    snprintf(c->name, sizeof c->name, "%s", name);
    int n = msa_pool_threads(c->pool);
    c->base.ops = &ops;
    c->base.info = (msa_kern_info){
        .name = c->name,
        .device = c->device,
        .act = opts->act,
        .native_bf16 = code->native_bf16,
        .n_threads = n,
        .batch_tokens = n <= 2 ? 1024 : 512 * (int64_t)n,
        .host_memory = true,
    };
    *out = &c->base;
    return MSA_OK;
}
