/* Operations on single rows: norms, rotation, activation, pooling, conversion,
 * router queries, sampling. Arithmetic in f32. */
#ifndef MSA_KERNELS_CPU_ROWS_H
#define MSA_KERNELS_CPU_ROWS_H

#include <stdlib.h>

#include "kernels/cpu_internal.h"
#include "kernels/cpu_vec.h"

#define EACH_ROW(r)                                                                         \
    for (int64_t r = item * job->rows,                                                      \
                 end_##r = r + job->rows < job->n ? r + job->rows : job->n;                 \
         r < end_##r; r++)

static void rms_norm(void *arg, int64_t item, int thread)
{
    (void)thread;
    const msa_cpu_rows_job *job = arg;
    int64_t E = job->width;
    EACH_ROW(r) {
        const float *x = (const float *)job->src + r * E;
        vf scale = v_set(1 / sqrtf(v_squares(x, MSA_F32, 0, E) / (float)E + job->eps));
        for (int64_t i = 0; i < E; i += VL)
            v_put_n(job->dst, job->dst_type, r * E + i, E - i,
                    v_get_n(x, MSA_F32, i, E - i) * scale * v_get_n(job->gamma, MSA_F32, i, E - i));
    }
}

static void qk_rope(void *arg, int64_t item, int thread)
{
    (void)thread;
    const msa_cpu_rows_job *job = arg;
    msa_kern_heads h = job->h;
    msa_dtype t = job->dst_type;
    int64_t half = h.D / 2;
    EACH_ROW(r) {
        const float *cosines = job->angles + r * h.D, *sines = cosines + half;
        for (int64_t head = 0; head < h.H + h.G; head++) {
            int64_t at = (r * (h.H + 2 * h.G) + head) * h.D;
            const float *gamma = head < h.H ? job->gamma : job->gamma_k;
            vf scale = v_set(1);
            if (gamma)
                scale = v_set(1 / sqrtf(v_squares(job->dst, t, at, h.D) / (float)h.D + job->eps));
            for (int64_t i = 0; i < half; i += VL) {
                int64_t n = half - i;
                vf a = v_get_n(job->dst, t, at + i, n), b = v_get_n(job->dst, t, at + half + i, n);
                vf c = v_get_n(cosines, MSA_F32, i, n), s = v_get_n(sines, MSA_F32, i, n);
                if (gamma) {
                    a = a * scale * v_get_n(gamma, MSA_F32, i, n);
                    b = b * scale * v_get_n(gamma, MSA_F32, half + i, n);
                }
                v_put_n(job->dst, t, at + i, n, a * c - b * s);
                v_put_n(job->dst, t, at + half + i, n, b * c + a * s);
            }
        }
    }
}

static void swiglu(void *arg, int64_t item, int thread)
{
    (void)thread;
    const msa_cpu_rows_job *job = arg;
    msa_dtype t = job->dst_type;
    int64_t I = job->width;
    EACH_ROW(r)
        for (int64_t i = 0; i < I; i += VL) {
            vf gate = v_get_n(job->src, t, r * 2 * I + i, I - i);
            vf up = v_get_n(job->src, t, r * 2 * I + I + i, I - i);
            v_put_n(job->dst, t, r * I + i, I - i,
                    gate / (v_set(1) + v_exp(v_set(0) - gate)) * up);
        }
}

static void pool(void *arg, int64_t item, int thread)
{
    (void)thread;
    const msa_cpu_rows_job *job = arg;
    EACH_ROW(r) {
        msa_kern_chunk c = job->chunks[r];
        vf by = v_set(1 / (float)c.len);
        for (int64_t i = 0; i < job->width; i += VL) {
            vf sum = v_set(0);
            for (int64_t j = c.start; j < c.start + c.len; j++)
                sum = sum + v_get_n(job->src, job->src_type, j * job->src_stride + job->col + i,
                                    job->width - i);
            v_put_n(job->dst, MSA_F32, r * job->width + i, job->width - i, sum * by);
        }
    }
}

static inline float unit_scale(const void *x, msa_dtype t, int64_t at, int64_t D)
{
    return 1 / fmaxf(sqrtf(v_squares(x, t, at, D)), 1e-12f);
}

/* n rows are heads here */
static void unit_heads(void *arg, int64_t item, int thread)
{
    (void)thread;
    const msa_cpu_rows_job *job = arg;
    int64_t D = job->width;
    EACH_ROW(r) {
        vf scale = v_set(unit_scale(job->dst, MSA_F32, r * D, D));
        for (int64_t i = 0; i < D; i += VL)
            v_put_n(job->dst, MSA_F32, r * D + i, D - i,
                    v_get_n(job->dst, MSA_F32, r * D + i, D - i) * scale);
    }
}

static void convert(void *arg, int64_t item, int thread)
{
    (void)thread;
    const msa_cpu_rows_job *job = arg;
    EACH_ROW(r)
        for (int64_t i = 0; i < job->width; i += VL)
            v_put_n(job->dst, job->dst_type, r * job->dst_stride + i, job->width - i,
                    v_get_n(job->src, job->src_type, r * job->src_stride + i, job->width - i));
}

static void router_query(void *arg, int64_t item, int thread)
{
    (void)thread;
    const msa_cpu_rows_job *job = arg;
    const msa_kern_route *route = job->route;
    msa_kern_heads h = route->h;
    bool fold = route->head == MSA_REDUCE_MEAN;
    int64_t heads = fold ? h.G : h.H, per = h.H / heads;
    float scale = fold ? route->scale / (float)h.H : route->scale;
    EACH_ROW(r)
        for (int64_t o = 0; o < heads; o++) {
            float *out = (float *)job->dst + (r * heads + o) * h.D;
            for (int64_t i = 0; i < per; i++) {
                int64_t at = r * job->src_stride + (o * per + i) * h.D;
                float by = scale;
                if (route->unit)
                    by *= unit_scale(job->src, job->src_type, at, h.D);
                for (int64_t d = 0; d < h.D; d += VL) {
                    vf sum = i ? v_get_n(out, MSA_F32, d, h.D - d) : v_set(0);
                    vf q = v_get_n(job->src, job->src_type, at + d, h.D - d);
                    v_put_n(out, MSA_F32, d, h.D - d, v_fma(q, v_set(by), sum));
                }
            }
        }
}

/* ---- sampling --------------------------------------------------------------------------- */

/* The greatest of V logits (the smallest id among equals), or -1 for a NaN. */
static int64_t best_logit(const float *l, int64_t V)
{
    vf top = v_set(-INFINITY), bad = v_set(0);
    int64_t i = 0;
    float best = -INFINITY;
    for (; i + VL <= V; i += VL) {
        vf v = v_load(l + i);
        top = v_max(top, v);
        bad = bad + v * v_set(0); /* NaN for a NaN, and for infinities */
    }
    best = v_top(top);
    bool odd = isnan(v_sum(bad));
    for (; i < V; i++) {
        best = l[i] > best ? l[i] : best;
        odd |= isnan(l[i]);
    }
    if (odd) {
        best = -INFINITY;
        for (i = 0; i < V; i++) {
            if (isnan(l[i]))
                return -1;
            best = l[i] > best ? l[i] : best;
        }
    }
    for (i = 0; l[i] != best;)
        i++;
    return i;
}

typedef struct candidate {
    float logit;
    int32_t id;
} candidate;

static int by_logit(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Draws among the tokens whose logit is at least `least`, in order of falling
 * logit; -1 when the draw may lie behind them. */
static int32_t draw(const float *l, int64_t V, float least, const msa_kern_sample *p, double top,
                    double total, candidate *c)
{
    int64_t n = 0, kept_n = 0;
    for (int64_t i = 0; i < V; i++)
        if (l[i] >= least)
            c[n++] = (candidate){l[i], (int32_t)i};
    qsort(c, (size_t)n, sizeof *c, by_logit);
    double kept = 0, passed = 0;
    while (kept_n < n && (kept_n == 0 || kept < p->top_p * total))
        kept += exp((c[kept_n++].logit - top) / p->temperature);
    if (n < V && kept < p->top_p * total) {
        if (p->top_p < 1)
            return -1;
        kept = total; /* the whole vocabulary: its mass is known without sorting it */
    }
    for (int64_t i = 0; i < kept_n; i++) {
        passed += exp((c[i].logit - top) / p->temperature);
        if (passed > p->u * kept)
            return c[i].id;
    }
    return n < V ? -1 : c[kept_n - 1].id;
}

static void sample(void *arg, int64_t item, int thread)
{
    const msa_cpu_sample_job *job = arg;
    const float *l = job->logits + item * job->V;
    const msa_kern_sample *p = &job->params[item];
    int64_t best = best_logit(l, job->V);
    job->out[item] = (int32_t)best;
    if (best < 0 || p->temperature == 0 || isinf(l[best]))
        return;
    candidate *c = (candidate *)(job->scratch + thread * job->scratch_bytes);
    double top = l[best], total = 0;
    float by = fminf(1 / p->temperature, 1e30f);
    for (int64_t i = 0; i < job->V; i += VL) {
        /* a tail is padded with zeros, which are not logits: leave them out */
        float e[VL];
        int64_t n = job->V - i < VL ? job->V - i : VL;
        v_store(e, v_exp((v_get_n(l, MSA_F32, i, n) - v_set(l[best])) * v_set(by)));
        for (int64_t j = 0; j < n; j++)
            total += e[j];
    }
    /* what lies 12 temperatures below the top weighs 6e-6 of it */
    int32_t id = draw(l, job->V, (float)(top - 12.0 * p->temperature), p, top, total, c);
    job->out[item] = id >= 0 ? id : draw(l, job->V, -INFINITY, p, top, total, c);
}

#endif
