/* Attention: the call's tables, and a plain kernel for every type and head width. With
 * tensor cores: cuda_attn_packed.cu, cuda_attn_memory.cu, cuda_attn_decode.cu. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda_attn.h"
#include "kernels/cuda_rope.h"

/* ---- every type and head width ------------------------------------------------- */

enum { PLAIN_WARPS = 8 };

static __device__ __forceinline__ float number(const float *p) { return *p; }
static __device__ __forceinline__ float number(const uint16_t *p) { return msa_attn_bf16(*p); }
static __device__ __forceinline__ float number(const int8_t *p) { return *p; }

static __device__ __forceinline__ void store(float *p, float x) { *p = x; }
static __device__ __forceinline__ void store(uint16_t *p, float x)
{
    *(__nv_bfloat16 *)p = __float2bfloat16_rn(x);
}

/* A warp's share of one query head: the largest score yet, and per lane the sum of
 * weights of its keys and the sums of its columns lane, lane + 32, ... */
template <int NV> struct plain_state {
    float top, sum, acc[NV];
};

/* Lane l gets the warp's sum of s[l]. Half of the numbers change lanes at each step. */
template <int W> static __device__ __forceinline__ float sums_by_lane(const float *s)
{
    const bool high = threadIdx.x & W;
    float half[W];
#pragma unroll
    for (int j = 0; j < W; j++)
        half[j] = (high ? s[j + W] : s[j]) + __shfl_xor_sync(~0u, high ? s[j] : s[j + W], W);
    return sums_by_lane<W / 2>(half);
}
template <> __device__ __forceinline__ float sums_by_lane<0>(const float *s) { return s[0]; }

/* Rows from .. from+31 of a part, of which the first n count: columns col .. of the
 * values are added up. */
template <typename A, typename E, int NV>
static __device__ __forceinline__ void plain_block(const A *q, int D, float scale,
                                                   const msa_cuda_attn_part *p, int g, int64_t from,
                                                   int n, int col, plain_state<NV> *st)
{
    const int lane = threadIdx.x & 31;
    const E *k = (const E *)p->k + (int64_t)g * D, *v = (const E *)p->v + (int64_t)g * D;
    float s[32];
#pragma unroll
    for (int j = 0; j < 32; j++)
        s[j] = 0;
    for (int c = 0; c < D; c += 32 * NV) {
        float x[NV];
#pragma unroll
        for (int i = 0; i < NV; i++)
            x[i] = c + lane + 32 * i < D ? number(q + c + lane + 32 * i) : 0;
#pragma unroll
        for (int j = 0; j < 32; j++) {
            const E *row = k + (from + (j < n ? j : 0)) * p->stride + c + lane;
#pragma unroll
            for (int i = 0; i < NV; i++)
                if (c + lane + 32 * i < D)
                    s[j] = fmaf(x[i], number(row + 32 * i), s[j]);
        }
    }
    float score = sums_by_lane<16>(s) * scale, factor = 1;
    if (p->dtype == MSA_I8 && lane < n) {
        const int64_t at = (from + lane) * p->scale_stride + g;
        score *= msa_attn_f16(p->k_scale[at]);
        factor = msa_attn_f16(p->v_scale[at]);
    }
    if (lane >= n)
        score = -INFINITY;
    float top = score;
#pragma unroll
    for (int w = 16; w > 0; w >>= 1)
        top = fmaxf(top, __shfl_xor_sync(~0u, top, w));
    top = fmaxf(top, st->top); /* finite: n >= 1 */
    const float shrink = expf(st->top - top), weight = expf(score - top);
    st->top = top;
    st->sum = st->sum * shrink + weight;
#pragma unroll
    for (int i = 0; i < NV; i++)
        st->acc[i] *= shrink;
    const float w = weight * factor;
#pragma unroll 8
    for (int j = 0; j < n; j++) {
        const float wj = __shfl_sync(~0u, w, j);
        const E *row = v + (from + j) * p->stride + col + lane;
#pragma unroll
        for (int i = 0; i < NV; i++)
            if (col + lane + 32 * i < D)
                st->acc[i] = fmaf(wj, number(row + 32 * i), st->acc[i]);
    }
}

/* A block of threads is one query head of one row; its warps take blocks of 32 keys in
 * turn. grid.y: groups of NV * 32 columns. */
template <typename A, int NV>
static __global__ void __launch_bounds__(PLAIN_WARPS * 32)
plain_kernel(msa_cuda_attn_call c, float scale)
{
    __shared__ float tops[PLAIN_WARPS], sums[PLAIN_WARPS], accs[PLAIN_WARPS][NV * 32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int64_t r = c.seqs[0].row + blockIdx.x / c.H;
    const int head = (int)(blockIdx.x % c.H), g = head / (c.H / c.G), col = (int)blockIdx.y * NV * 32;
    int64_t lo = 0, hi = c.n_seqs; /* the last sequence that begins at or before r */
    while (hi - lo > 1) {
        const int64_t mid = (lo + hi) >> 1;
        if (c.seqs[mid].row <= r)
            lo = mid;
        else
            hi = mid;
    }
    const msa_cuda_attn_seq s = c.seqs[lo];
    const int64_t seen = s.keys - s.n_rows + (r - s.row) + 1;
    const A *q = (const A *)c.q + r * c.q_stride + (int64_t)head * c.D;

    plain_state<NV> st;
    st.top = -INFINITY;
    st.sum = 0;
#pragma unroll
    for (int i = 0; i < NV; i++)
        st.acc[i] = 0;
    int64_t block = 0; /* blocks before this part */
    for (int64_t i = s.part; i < s.part + s.n_parts; i++) {
        const msa_cuda_attn_part *p = &c.parts[i];
        const int64_t end = i + 1 < s.part + s.n_parts ? c.first[i + 1] : s.keys;
        const int64_t n = (end < seen ? end : seen) - c.first[i];
        if (n <= 0)
            continue;
        const int64_t blocks = (n + 31) / 32;
        for (int64_t b = (warp - block % PLAIN_WARPS + PLAIN_WARPS) % PLAIN_WARPS; b < blocks;
             b += PLAIN_WARPS) {
            const int m = n - b * 32 < 32 ? (int)(n - b * 32) : 32;
            if (p->dtype == MSA_F32)
                plain_block<A, float, NV>(q, c.D, scale, p, g, b * 32, m, col, &st);
            else if (p->dtype == MSA_BF16)
                plain_block<A, uint16_t, NV>(q, c.D, scale, p, g, b * 32, m, col, &st);
            else
                plain_block<A, int8_t, NV>(q, c.D, scale, p, g, b * 32, m, col, &st);
        }
        block += blocks;
    }

#pragma unroll
    for (int w = 16; w > 0; w >>= 1)
        st.sum += __shfl_xor_sync(~0u, st.sum, w);
    if (lane == 0) {
        tops[warp] = st.top;
        sums[warp] = st.sum;
    }
#pragma unroll
    for (int i = 0; i < NV; i++)
        accs[warp][lane + 32 * i] = st.acc[i];
    __syncthreads();
    float top = tops[0], sum = 0;
    for (int w = 1; w < PLAIN_WARPS; w++)
        top = fmaxf(top, tops[w]);
    for (int w = 0; w < PLAIN_WARPS; w++)
        sum += expf(tops[w] - top) * sums[w];
    for (int d = threadIdx.x; d < NV * 32 && col + d < c.D; d += PLAIN_WARPS * 32) {
        float x = 0;
        for (int w = 0; w < PLAIN_WARPS; w++)
            x += expf(tops[w] - top) * accs[w][d];
        store((A *)c.out + (r * c.H + head) * c.D + col + d, x / sum);
    }
}

template <typename A>
static void plain_launch(cudaStream_t st, const msa_cuda_attn_call *call, int64_t rows)
{
    const float scale = (float)(1 / sqrt((double)call->D));
    const unsigned blocks = (unsigned)(rows * call->H);
    if (call->D <= 32)
        plain_kernel<A, 1><<<blocks, PLAIN_WARPS * 32, 0, st>>>(*call, scale);
    else if (call->D <= 64)
        plain_kernel<A, 2><<<blocks, PLAIN_WARPS * 32, 0, st>>>(*call, scale);
    else if (call->D <= 128)
        plain_kernel<A, 4><<<blocks, PLAIN_WARPS * 32, 0, st>>>(*call, scale);
    else {
        const dim3 grid(blocks, (unsigned)((call->D + 255) / 256));
        plain_kernel<A, 8><<<grid, PLAIN_WARPS * 32, 0, st>>>(*call, scale);
    }
}

/* ---- calls ---------------------------------------------------------------------- */

bool msa_cuda_attn_bytes(const msa_cuda *c, const msa_kern_shape *s, int64_t *bytes)
{
    (void)c, (void)s; /* partial sums stay in shared memory */
    *bytes = 0;
    return true;
}

static bool aligned(const void *p) { return (uintptr_t)p % 16 == 0; }

/* Whether the tensor-core kernels take the call. Nothing here may depend on what a
 * call's arrays hold. */
static bool fast(const msa_cuda *c, const void *q, int64_t q_stride, msa_kern_heads h, const void *out)
{
    int64_t flat;
    return c->base.info.act == MSA_BF16 && (h.D == 64 || h.D == 128) && aligned(q) && aligned(out) &&
           q_stride % 8 == 0 && msa_mul(c->base.cap.max_seq, h.H, &flat) && flat < INT_MAX / 2;
}

/* A call's tables on the host, in one piece as they are uploaded. */
typedef struct tables {
    char *data;
    int64_t n_seqs, n_parts, n_items; /* room */
    int64_t parts_at, first_at, items_at, bytes;
    msa_cuda_attn_seq *seqs;
    msa_cuda_attn_part *parts;
    int64_t *first;
    msa_cuda_attn_item *items;
} tables;

static msa_rc tables_new(tables *t, int64_t n_seqs, int64_t n_parts, int64_t n_items, msa_err *err)
{
    int64_t parts, first, items;
    *t = (tables){};
    t->n_seqs = n_seqs;
    t->n_parts = n_parts;
    t->n_items = n_items;
    if (!msa_mul(n_seqs, sizeof *t->seqs, &t->parts_at) || !msa_mul(n_parts, sizeof *t->parts, &parts) ||
        !msa_add(t->parts_at, parts, &t->first_at) || !msa_mul(n_parts, sizeof *t->first, &first) ||
        !msa_add(t->first_at, first, &t->items_at) || !msa_mul(n_items, sizeof *t->items, &items) ||
        !msa_add(t->items_at, items, &t->bytes) || !(t->data = (char *)msa_calloc(t->bytes, 1)))
        return msa_err_nomem(err, "attention tables");
    t->seqs = (msa_cuda_attn_seq *)t->data;
    t->parts = (msa_cuda_attn_part *)(t->data + t->parts_at);
    t->first = (int64_t *)(t->data + t->first_at);
    t->items = (msa_cuda_attn_item *)(t->data + t->items_at);
    return MSA_OK;
}

/* Uploads and frees the tables; call gets their places on the device. */
static msa_rc tables_pass(tables *t, msa_cuda *c, msa_kern_stream *st, msa_cuda_attn_call *call,
                          msa_err *err)
{
    void *dev = NULL;
    msa_rc rc = msa_cuda_args(c, st, t->data, t->bytes, &dev, err);
    free(t->data);
    call->n_seqs = t->n_seqs;
    call->seqs = (const msa_cuda_attn_seq *)dev;
    call->parts = (const msa_cuda_attn_part *)((const char *)dev + t->parts_at);
    call->first = (const int64_t *)((const char *)dev + t->first_at);
    call->items = (const msa_cuda_attn_item *)((const char *)dev + t->items_at);
    return rc;
}

static msa_cuda_attn_call call_of(const void *q, int64_t q_stride, msa_kern_heads h, void *out)
{
    msa_cuda_attn_call call = {};
    call.q = q;
    call.q_stride = q_stride;
    call.H = (int32_t)h.H;
    call.G = (int32_t)h.G;
    call.D = (int32_t)h.D;
    call.out = out;
    return call;
}

static msa_rc plain(msa_cuda *c, cudaStream_t st, const msa_cuda_attn_call *call, int64_t rows, msa_err *err)
{
    if (rows > INT_MAX / call->H)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "attention: more rows than a grid holds");
    if (c->base.info.act == MSA_F32)
        plain_launch<float>(st, call, rows);
    else
        plain_launch<uint16_t>(st, call, rows);
    MSA_CUDA_LAUNCHED("attention");
}

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Longer sequences first. */
static int by_rows(const void *a, const void *b)
{
    const int64_t x = ((const msa_cuda_attn_seq *)a)->n_rows, y = ((const msa_cuda_attn_seq *)b)->n_rows;
    return (y > x) - (y < x);
}

/* Tiles of a sequence, the longest first; returns their number. */
static int64_t add_items(msa_cuda_attn_item *items, int64_t at, int64_t n_rows, int64_t n_tiles)
{
    for (int64_t i = 0; i < n_tiles; i++) {
        items[i].at = at;
        items[i].n_rows = (int32_t)n_rows;
        items[i].tile = (int32_t)(n_tiles - 1 - i);
    }
    return n_tiles;
}

msa_rc msa_cuda_attn_packed(msa_kern *k, msa_kern_stream *st, const void *qkv, int64_t M,
                            msa_kern_heads h, const int64_t *seq_start, int64_t S, void *out,
                            msa_err *err)
{
    (void)M;
    msa_cuda *c = msa_cuda_of(k);
    const int64_t stride = (h.H + 2 * h.G) * h.D, group = h.H / h.G;
    const int64_t rows = seq_start[S] - seq_start[0];
    const msa_dtype act = k->info.act;
    const bool tiled = fast(c, qkv, stride, h, out);
    int64_t n_items = 0;
    if (rows == 0)
        return MSA_OK;
    for (int64_t s = 0; tiled && s < S; s++)
        n_items += ceil_div((seq_start[s + 1] - seq_start[s]) * group, MSA_ATTN_PACKED_ROWS);
    tables t;
    msa_rc rc = tables_new(&t, S, tiled ? 0 : S, n_items, err);
    if (rc < 0)
        return rc;
    for (int64_t s = 0; s < S; s++) {
        const int64_t n = seq_start[s + 1] - seq_start[s];
        t.seqs[s].row = seq_start[s];
        t.seqs[s].n_rows = t.seqs[s].keys = n;
        t.seqs[s].part = s;
        t.seqs[s].n_parts = 1;
        if (!tiled) {
            const char *first = (const char *)qkv + seq_start[s] * stride * msa_dtype_bytes(act);
            t.parts[s].k = first + h.H * h.D * msa_dtype_bytes(act);
            t.parts[s].v = first + (h.H + h.G) * h.D * msa_dtype_bytes(act);
            t.parts[s].stride = stride;
            t.parts[s].dtype = act;
        }
    }
    if (tiled) {
        qsort(t.seqs, (size_t)S, sizeof *t.seqs, by_rows);
        int64_t n = 0;
        for (int64_t s = 0; s < S; s++)
            n += add_items(t.items + n, t.seqs[s].row, t.seqs[s].n_rows,
                           ceil_div(t.seqs[s].n_rows * group, MSA_ATTN_PACKED_ROWS));
    }
    msa_cuda_attn_call call = call_of(qkv, stride, h, out);
    rc = tables_pass(&t, c, st, &call, err);
    if (rc < 0)
        return rc;
    return tiled ? msa_cuda_attn_packed_tiles(msa_cuda_stream(k, st), &call, n_items, err)
                 : plain(c, msa_cuda_stream(k, st), &call, rows, err);
}

/* How numbers of a part are read, 8 at a time at multiples of 8 columns. */
static int32_t part_kind(const msa_cuda_attn_part *p)
{
    if (p->dtype == MSA_BF16 && aligned(p->k) && aligned(p->v) && p->stride % 8 == 0)
        return MSA_ATTN_BF16;
    if (p->dtype == MSA_I8 && (uintptr_t)p->k % 8 == 0 && (uintptr_t)p->v % 8 == 0 && p->stride % 8 == 0)
        return MSA_ATTN_I8;
    return MSA_ATTN_ANY;
}

/* Sequence b of a memory call as parts n .. of the tables; returns the first part behind it. */
static int64_t add_memory(tables *t, int64_t b, int64_t n, const int64_t *row_start,
                          const msa_kern_seg *segs, const int64_t *seg_start, msa_kern_heads h,
                          msa_kern_cache cache, msa_dtype act)
{
    msa_cuda_attn_seq *s = &t->seqs[b];
    s->row = row_start[b];
    s->n_rows = row_start[b + 1] - row_start[b];
    s->part = n;
    s->own_k = cache.k;
    s->own_v = cache.v;
    for (int64_t i = seg_start[b]; i <= seg_start[b + 1]; i++, n++) {
        msa_cuda_attn_part *p = &t->parts[n];
        t->first[n] = s->keys;
        if (i < seg_start[b + 1]) {
            p->k = segs[i].k;
            p->v = segs[i].v;
            p->k_scale = segs[i].k_scale;
            p->v_scale = segs[i].v_scale;
            p->stride = segs[i].stride;
            p->scale_stride = segs[i].scale_stride;
            p->dtype = segs[i].dtype;
            s->keys += segs[i].n_rows;
        } else {
            p->k = cache.k;
            p->v = cache.v;
            p->stride = h.G * h.D;
            p->dtype = act;
            s->own = s->keys;
            s->keys += cache.len;
        }
        p->kind = part_kind(p);
    }
    s->n_parts = n - s->part;
    return n;
}

/* Parts of a memory call. A recorded run's have room, so that most runs of a key have tables
 * of one size. */
static int64_t parts_of(const msa_cuda *c, int64_t B, const int64_t *seg_start)
{
    const int64_t n = seg_start[B] - seg_start[0] + B;
    return msa_cuda_recording(c) ? ceil_div(n, 8 * B) * 8 * B : n;
}

/* Sequences of at most so many flat rows are decoded: tiles would be mostly empty. */
enum { DECODE_MAX_FLAT = 2 * MSA_ATTN_DECODE_ROWS };

msa_rc msa_cuda_attn_memory(msa_kern *k, msa_kern_stream *st, const void *q, int64_t q_stride,
                            msa_kern_heads h, int64_t B, const int64_t *row_start,
                            const msa_kern_seg *segs, const int64_t *seg_start,
                            const msa_kern_cache *caches, void *out, msa_err *err)
{
    msa_cuda *c = msa_cuda_of(k);
    const int64_t group = h.H / h.G, rows = row_start[B] - row_start[0];
    const bool recording = msa_cuda_recording(c), tensor = fast(c, q, q_stride, h, out) && B <= MSA_ATTN_DECODE_SEQS;
    const int64_t n_parts = parts_of(c, B, seg_start);
    int64_t n_items = 0, n_decoded = B;
    if (tensor && !recording) {
        n_decoded = 0;
        for (int64_t b = 0; b < B; b++) {
            const int64_t flat = (row_start[b + 1] - row_start[b]) * group;
            if (flat > DECODE_MAX_FLAT)
                n_items += ceil_div(flat, MSA_ATTN_MEMORY_ROWS);
            else
                n_decoded += flat > 0;
        }
    }
    const void *pointers[] = {q, out};
    const int64_t numbers[] = {q_stride, h.H, h.G, h.D, B, rows, n_parts};
    const bool noted = msa_cuda_noted(c, "attn_memory", pointers, 2, numbers, 7);

    tables t;
    msa_rc rc = tables_new(&t, B, n_parts, n_items, err);
    if (rc < 0)
        return rc;
    int64_t n = 0, item = 0;
    for (int64_t b = 0; b < B; b++) {
        n = add_memory(&t, b, n, row_start, segs, seg_start, h, caches[b], k->info.act);
        const int64_t flat = t.seqs[b].n_rows * group;
        if (n_items > 0 && flat > DECODE_MAX_FLAT)
            item += add_items(t.items + item, b, t.seqs[b].n_rows, ceil_div(flat, MSA_ATTN_MEMORY_ROWS));
    }
    msa_cuda_attn_call call = call_of(q, q_stride, h, out);
    rc = tables_pass(&t, c, st, &call, err);
    if (rc < 0 || noted || rows == 0)
        return rc;
    if (!tensor)
        return plain(c, msa_cuda_stream(k, st), &call, rows, err);
    if (n_items > 0)
        rc = msa_cuda_attn_memory_tiles(msa_cuda_stream(k, st), &call, n_items, err);
    if (rc >= 0 && n_decoded > 0)
        rc = msa_cuda_attn_decode(c, msa_cuda_stream(k, st), &call, NULL,
                                  recording ? INT_MAX : (int)DECODE_MAX_FLAT, err);
    return rc;
}

msa_rc msa_cuda_qk_rope_attn(msa_kern *k, msa_kern_stream *st, void *qkv, msa_kern_heads h, const float *q_gamma,
                             const float *k_gamma, float eps, const int64_t *pos, double theta, int64_t B,
                             const int64_t *row_start, const msa_kern_seg *segs, const int64_t *seg_start,
                             void *const *ck, void *const *cv, const int64_t *at, void *out, msa_err *err)
{
    msa_cuda *c = msa_cuda_of(k);
    const int64_t stride = (h.H + 2 * h.G) * h.D, n_parts = parts_of(c, B, seg_start);
    bool one = fast(c, qkv, stride, h, out) && B <= MSA_ATTN_DECODE_SEQS && h.H / h.G <= MSA_ATTN_DECODE_ROWS &&
               aligned(q_gamma) && aligned(k_gamma);
    for (int64_t b = 0; one && b < B; b++)
        one = row_start[b + 1] - row_start[b] == 1 && aligned(ck[b]) && aligned(cv[b]);
    if (!one)
        return msa_kern_qk_rope_attn_parts(k, st, qkv, h, q_gamma, k_gamma, eps, pos, theta, B, row_start, segs,
                                           seg_start, ck, cv, at, out, err);
    const void *pointers[] = {qkv, q_gamma, k_gamma, pos, out};
    const int64_t numbers[] = {h.H, h.G, h.D, B, n_parts, __builtin_bit_cast(int32_t, eps),
                               __builtin_bit_cast(int64_t, theta)};
    const bool noted = msa_cuda_noted(c, "qk_rope_attn", pointers, 5, numbers, 7);
    tables t;
    msa_rc rc = tables_new(&t, B, n_parts, 0, err);
    if (rc < 0)
        return rc;
    for (int64_t b = 0, n = 0; b < B; b++)
        n = add_memory(&t, b, n, row_start, segs, seg_start, h, (msa_kern_cache){ck[b], cv[b], at[b] + 1},
                       k->info.act);
    msa_cuda_attn_call call = call_of(qkv, stride, h, out);
    rc = tables_pass(&t, c, st, &call, err);
    if (rc < 0 || noted)
        return rc;
    const msa_cuda_attn_rope rope = {q_gamma, k_gamma, eps, pos, msa_cuda_rope_step(h, theta), msa_cuda_recording(c)};
    return msa_cuda_attn_decode(c, msa_cuda_stream(k, st), &call, &rope, INT_MAX, err);
}
