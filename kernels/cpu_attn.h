/* Attention. An item is one key head of up to MSA_CPU_ATTN_ROWS query rows of one
 * sequence: its keys and values are packed into panels in the thread's scratch,
 * then every query head of the group is two products with a softmax between
 * them, in blocks of rows. Keys behind a block's last row are never touched. */
#ifndef MSA_KERNELS_CPU_ATTN_H
#define MSA_KERNELS_CPU_ATTN_H

#include "kernels/cpu_gemm.h"

/* The scratch of one thread. */
typedef struct attn_room {
    char *k;        /* panels [keys / NR][D][NR] */
    char *v;        /* panels [D / NR][keys][NR] */
    float *scores;  /* [MSA_CPU_ATTN_BLOCK, ld]; weights of type act take their place */
    float *out;     /* [MSA_CPU_ATTN_BLOCK, NR] */
    char *stage;    /* rows that need another type: [2][NR, D even] */
    int64_t ld;
} attn_room;

static attn_room attn_layout(char *base, msa_dtype act, int64_t keys, int64_t D)
{
    int64_t size = msa_dtype_bytes(act), padded = msa_round_up(keys, NR), even = D + (D & 1);
    attn_room r = {.ld = padded + 16}; /* off the powers of two */
    r.k = base;
    r.v = r.k + msa_round_up(padded * even * size, 64);
    r.stage = r.v + padded * msa_round_up(D, NR) * size;
    r.scores = (float *)(r.stage + msa_round_up(2 * NR * even * size, 64));
    r.out = r.scores + MSA_CPU_ATTN_BLOCK * r.ld;
    return r;
}

/* What attn_layout lays out; rises with keys and D. */
static int64_t attn_bytes(msa_dtype act, int64_t keys, int64_t D)
{
    int64_t size = msa_dtype_bytes(act), padded = msa_round_up(keys, NR), even = D + (D & 1);
    return padded * (even + msa_round_up(D, NR)) * size + 2 * NR * even * size + 2 * 64 +
           MSA_CPU_ATTN_BLOCK * (padded + 16 + NR) * (int64_t)sizeof(float);
}

/* ---- packing ----------------------------------------------------------------------- */

/* Value rows first .. first+n-1 (first is even) into the panels; a missing
 * partner of the last row, up to padding, is zero. */
static void pack_values(const void *const *rows, int64_t n, msa_dtype act, int64_t D, int64_t first,
                        int64_t padded, char *panels)
{
    static const uint16_t zeros[VL];
    for (int64_t d = 0; d < D; d += VL) {
        int64_t base = d / NR * NR * padded, in = d % NR;
        bool whole = d + VL <= D;
        if (act == MSA_F32) {
            for (int64_t i = 0; i < n; i++)
                v_store((float *)panels + base + (first + i) * NR + in,
                        v_get_n(rows[i], MSA_F32, d, D - d));
            continue;
        }
        for (int64_t i = 0; i < n; i += 2) {
            const uint16_t *a = (const uint16_t *)rows[i] + d;
            const uint16_t *b = i + 1 < n ? (const uint16_t *)rows[i + 1] + d : zeros;
            uint16_t pa[VL] = {0}, pb[VL] = {0};
            if (!whole) {
                memcpy(pa, a, (size_t)(D - d) * 2);
                memcpy(pb, b, (size_t)(D - d) * 2);
                a = pa, b = pb;
            }
            v_zip(a, b, (uint16_t *)panels + base + (first + i) * NR + in * 2);
        }
    }
}

/* Walks the keys of a sequence: segments, then its own rows. */
typedef struct key_walk {
    const msa_kern_seg *segs, *end;
    msa_kern_seg own;
    int64_t row;
} key_walk;

static const msa_kern_seg *walk_next(key_walk *w, int64_t *row)
{
    while (w->segs != w->end && w->row == w->segs->n_rows) {
        w->segs++;
        w->row = 0;
    }
    *row = w->row++;
    return w->segs != w->end ? w->segs : &w->own;
}

/* Row at p (D elements of type from) as a row of type act that may be read in
 * 32-bit units: itself, or a copy in `room`. */
static const void *as_act(const void *p, msa_dtype from, msa_dtype act, int64_t D, char *room)
{
    if (from == act && (act == MSA_F32 || D % 2 == 0))
        return p;
    for (int64_t d = 0; d < D; d += VL)
        v_put_n(room, act, d, D - d, v_get_n(p, from, d, D - d));
    if (D & 1)
        msa_elem_set(room, act, D, 0);
    return room;
}

/* Row `row`, head g of a segment's keys or values as as_act gives it. */
static const void *seg_row(const msa_kern_seg *s, const void *p, const uint16_t *scale, int64_t row,
                           int64_t g, int64_t D, msa_dtype act, char *room)
{
    const int64_t at = row * s->stride + g * D;
    if (s->dtype != MSA_I8)
        return as_act(msa_elem_at(p, s->dtype, at), s->dtype, act, D, room);
    const vf factor = v_set(msa_f16_to_f32(scale[row * s->scale_stride + g]));
    for (int64_t d = 0; d < D; d += VL)
        v_put_n(room, act, d, D - d, v_get_n(p, MSA_I8, at + d, D - d) * factor);
    if (D & 1)
        msa_elem_set(room, act, D, 0);
    return room;
}

static void pack_keys(key_walk *w, int64_t g, int64_t D, msa_dtype act, int64_t keys, attn_room *r)
{
    int64_t size = msa_dtype_bytes(act), even = D + (D & 1);
    int64_t units = act == MSA_F32 ? D : even / 2, padded = msa_round_up(keys, NR);
    for (int64_t first = 0; first < keys; first += NR) {
        const void *k[NR], *v[NR];
        int64_t n = keys - first < NR ? keys - first : NR;
        for (int64_t i = 0; i < n; i++) {
            int64_t row;
            const msa_kern_seg *s = walk_next(w, &row);
            char *room = r->stage + i * even * size;
            k[i] = seg_row(s, s->k, s->k_scale, row, g, D, act, room);
            v[i] = seg_row(s, s->v, s->v_scale, row, g, D, act, room + NR * even * size);
        }
        pack(k, n, units, (uint32_t *)r->k + first * units);
        pack_values(v, n, act, D, first, padded, r->v);
    }
}

/* ---- softmax between two products ------------------------------------------------------ */

/* In place: scores s[0..n) become exp((s - max) * scale) of type act, followed by
 * zeros up to `end`. Returns 1 / their sum. */
static float softmax_row(float *s, msa_dtype act, int64_t n, int64_t end, float scale)
{
    for (int64_t i = n; i < msa_round_up(n, VL); i++)
        s[i] = -INFINITY; /* the row has room for whole vectors */
    vf top = v_set(-INFINITY);
    for (int64_t i = 0; i < n; i += VL)
        top = v_max(top, v_load(s + i));
    vf max = v_set(v_top(top)), by = v_set(scale), sum = v_set(0);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf p = v_exp((v_load(s + i) - max) * by);
        sum = sum + p;
        v_put(s, act, i, p); /* never ahead of what is still to be read */
    }
    if (i < n) {
        float part[VL] = {0};
        v_store(part, v_exp((v_load(s + i) - max) * by));
        for (int64_t j = n - i; j < VL; j++)
            part[j] = 0;
        sum = sum + v_load(part);
        v_put(s, act, i, v_load(part));
        i += VL;
    }
    for (; i < end; i++)
        msa_elem_set(s, act, i, 0);
    return 1 / v_sum(sum);
}

/* Query rows x[0..n); row i sees `seen` + i*step keys. out row i at out_at + i*ldo. */
static void attend(const msa_cpu_attn_job *job, const attn_room *r, int64_t padded, const void *x,
                   int64_t ldx, int64_t n, int64_t seen, int64_t step, int64_t out_at, int64_t ldo)
{
    msa_dtype act = job->act;
    int64_t D = job->h.D, even = D + (D & 1), deep = act == MSA_F32 ? D : even;
    int64_t end = seen + (n - 1) * step, pairs = end + (end & 1);
    float scale = 1 / sqrtf((float)D), inverse[MSA_CPU_ATTN_BLOCK];
    for (int64_t p = 0; p < end; p += NR)
        panel_product(act, x, ldx, n, msa_elem_at(r->k, act, p * deep), D, r->scores + p, r->ld,
                      end - p);
    for (int64_t i = 0; i < n; i++)
        inverse[i] = softmax_row(r->scores + i * r->ld, act, seen + i * step, pairs, scale);
    int64_t ldp = act == MSA_F32 ? r->ld : 2 * r->ld;
    for (int64_t d = 0; d < D; d += NR) {
        int64_t cols = D - d < NR ? D - d : NR;
        panel_product(act, r->scores, ldp, n, msa_elem_at(r->v, act, d * padded),
                      act == MSA_F32 ? end : pairs, r->out, NR, cols);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < cols; j += VL)
                v_put_n(job->out, act, out_at + i * ldo + d + j, cols - j,
                        v_load(r->out + i * NR + j) * v_set(inverse[i]));
    }
}

static void attn(void *arg, int64_t item, int thread)
{
    const msa_cpu_attn_job *job = arg;
    msa_kern_heads h = job->h;
    msa_cpu_attn_item it = job->items[item / h.G];
    int64_t g = item % h.G, group = h.H / h.G, start = job->row_start[it.b];
    int64_t rows = job->row_start[it.b + 1] - start;
    int64_t end = it.row + MSA_CPU_ATTN_ROWS < rows ? it.row + MSA_CPU_ATTN_ROWS : rows;
    key_walk w = {0};
    int64_t before = 0; /* keys in front of the sequence's own rows */
    if (job->caches) {
        const msa_kern_cache *c = &job->caches[it.b];
        w.own = (msa_kern_seg){.k = c->k, .v = c->v, .n_rows = c->len, .stride = h.G * h.D,
                               .dtype = job->act};
        before = c->len - rows;
        if (job->segs) {
            w.segs = job->segs + job->seg_start[it.b];
            w.end = job->segs + job->seg_start[it.b + 1];
        }
        for (const msa_kern_seg *s = w.segs; s != w.end; s++)
            before += s->n_rows;
    } else {
        const void *own = msa_elem_at(job->q, job->act, start * job->q_stride + h.H * h.D);
        w.own = (msa_kern_seg){.k = own, .v = msa_elem_at(own, job->act, h.G * h.D),
                               .n_rows = rows, .stride = job->q_stride, .dtype = job->act};
    }
    int64_t keys = before + end, padded = msa_round_up(keys, NR);
    attn_room r = attn_layout(job->scratch + thread * job->scratch_bytes, job->act, keys, h.D);
    pack_keys(&w, g, h.D, job->act, keys, &r);

    const void *q = msa_elem_at(job->q, job->act, start * job->q_stride + g * group * h.D);
    int64_t out_at = (start * h.H + g * group) * h.D;
    if (end - it.row == 1) { /* one token: the group's heads are the rows */
        q = msa_elem_at(q, job->act, it.row * job->q_stride);
        out_at += it.row * h.H * h.D;
        for (int64_t i = 0; i < group; i += MSA_CPU_ATTN_BLOCK)
            attend(job, &r, padded, msa_elem_at(q, job->act, i * h.D), h.D,
                   group - i < MSA_CPU_ATTN_BLOCK ? group - i : MSA_CPU_ATTN_BLOCK, keys, 0,
                   out_at + i * h.D, h.D);
        return;
    }
    for (int64_t head = 0; head < group; head++)
        for (int64_t i = it.row; i < end; i += MSA_CPU_ATTN_BLOCK)
            attend(job, &r, padded, msa_elem_at(q, job->act, i * job->q_stride + head * h.D),
                   job->q_stride, end - i < MSA_CPU_ATTN_BLOCK ? end - i : MSA_CPU_ATTN_BLOCK,
                   before + i + 1, 1, out_at + i * h.H * h.D + head * h.D, h.H * h.D);
}

#endif
