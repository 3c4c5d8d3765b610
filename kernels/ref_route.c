/* Reference pooling, routing and sampling. */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>

#include "kernels/dtype.h"
#include "kernels/kernels_internal.h"

/* ---- pooling ------------------------------------------------------------------------ */

msa_rc msa_ref_pool(msa_kern *k, msa_kern_stream *st, const void *x, bool x_f32, int64_t stride,
                    int64_t col, int64_t W, const msa_kern_chunk *chunks, int64_t C, float *out,
                    msa_err *err)
{
    (void)st, (void)err;
    msa_dtype t = x_f32 ? MSA_F32 : k->info.act;
    for (int64_t c = 0; c < C; c++)
        for (int64_t w = 0; w < W; w++) {
            double sum = 0;
            for (int64_t r = chunks[c].start; r < chunks[c].start + chunks[c].len; r++)
                sum += msa_elem_get(x, t, r * stride + col + w);
            out[c * W + w] = (float)(sum / (double)chunks[c].len);
        }
    return MSA_OK;
}

/* 1 / max(|x|, 1e-12) of D elements from element `at` on. */
static double unit_scale(const void *x, msa_dtype t, int64_t at, int64_t D)
{
    double sum = 0;
    for (int64_t d = 0; d < D; d++) {
        double v = msa_elem_get(x, t, at + d);
        sum += v * v;
    }
    return 1 / fmax(sqrt(sum), 1e-12);
}

msa_rc msa_ref_unit_heads(msa_kern *k, msa_kern_stream *st, float *x, int64_t R, int64_t heads,
                          int64_t D, msa_err *err)
{
    (void)k, (void)st, (void)err;
    for (int64_t i = 0; i < R * heads; i++) {
        double scale = unit_scale(x, MSA_F32, i * D, D);
        for (int64_t d = 0; d < D; d++)
            x[i * D + d] = (float)(x[i * D + d] * scale);
    }
    return MSA_OK;
}

msa_rc msa_ref_convert(msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from,
                       int64_t src_stride, void *dst, msa_dtype to, int64_t dst_stride, int64_t n,
                       int64_t R, msa_err *err)
{
    (void)k, (void)st, (void)err;
    for (int64_t r = 0; r < R; r++)
        for (int64_t i = 0; i < n; i++)
            msa_elem_set(dst, to, r * dst_stride + i, msa_elem_get(src, from, r * src_stride + i));
    return MSA_OK;
}

msa_rc msa_ref_quantize(msa_kern *k, msa_kern_stream *st, const void *src, msa_dtype from,
                        int64_t src_stride, int64_t n, int64_t D, int64_t R, int8_t *dst,
                        int64_t dst_stride, void *scale, msa_dtype scale_type, int64_t scale_stride,
                        msa_err *err)
{
    (void)k, (void)st, (void)err;
    for (int64_t r = 0; r < R; r++)
        for (int64_t i = 0; i < n / D; i++) {
            const int64_t at = r * src_stride + i * D, to = r * scale_stride + i;
            float top = 0;
            for (int64_t d = 0; d < D; d++)
                top = fmaxf(top, fabsf(msa_elem_get(src, from, at + d)));
            float factor = top / 127.0f;
            if (scale_type == MSA_F16) {
                ((uint16_t *)scale)[to] = msa_f32_to_f16(factor);
                factor = msa_f16_to_f32(((uint16_t *)scale)[to]);
            } else
                ((float *)scale)[to] = factor;
            for (int64_t d = 0; d < D; d++) {
                float v = factor > 0 ? rintf(msa_elem_get(src, from, at + d) / factor) : 0;
                dst[r * dst_stride + i * D + d] = (int8_t)fminf(fmaxf(v, -127), 127);
            }
        }
    return MSA_OK;
}

/* ---- routing -------------------------------------------------------------------------- */

msa_rc msa_ref_router_query(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r,
                            const void *rq, bool rq_f32, int64_t stride, int64_t T, float *out,
                            msa_err *err)
{
    (void)st, (void)err;
    msa_dtype t = rq_f32 ? MSA_F32 : k->info.act;
    msa_kern_heads h = r->h;
    bool fold = r->head == MSA_REDUCE_MEAN;
    /* folded: output head g is the sum of its `per` query heads, over H */
    int64_t heads = fold ? h.G : h.H, per = h.H / heads;
    for (int64_t row = 0; row < T; row++)
        for (int64_t o = 0; o < heads; o++)
            for (int64_t d = 0; d < h.D; d++) {
                double sum = 0;
                for (int64_t i = o * per; i < (o + 1) * per; i++) {
                    int64_t at = row * stride + i * h.D;
                    double scale = r->unit ? unit_scale(rq, t, at, h.D) : 1;
                    sum += msa_elem_get(rq, t, at + d) * scale;
                }
                sum *= r->scale;
                out[(row * heads + o) * h.D + d] = (float)(fold ? sum / (double)h.H : sum);
            }
    return MSA_OK;
}

/* One token against one chunk, reduced over heads. */
static double match(const msa_kern_route *r, const float *q, const void *rk, msa_dtype t, int64_t at)
{
    msa_kern_heads h = r->h;
    double best = -INFINITY, sum = 0;
    if (r->head == MSA_REDUCE_MEAN) {
        for (int64_t i = 0; i < h.G * h.D; i++)
            sum += (double)q[i] * msa_elem_get(rk, t, at + i);
        return sum;
    }
    for (int64_t head = 0; head < h.H; head++) {
        int64_t g = head / (h.H / h.G);
        sum = 0;
        for (int64_t d = 0; d < h.D; d++)
            sum += (double)q[head * h.D + d] * msa_elem_get(rk, t, at + g * h.D + d);
        best = fmax(best, sum);
    }
    return best;
}

/* One question's n tokens against one chunk, reduced over heads and tokens. */
static double question(const msa_kern_route *r, const float *q, int64_t n, const void *rk, msa_dtype t,
                       int64_t at)
{
    int64_t width = msa_kern_route_width(r);
    double best = -INFINITY, sum = 0, last = 0;
    for (int64_t i = 0; i < n; i++) {
        last = match(r, q + i * width, rk, t, at);
        best = fmax(best, last);
        sum += last;
    }
    return r->query == MSA_REDUCE_MAX ? best : r->query == MSA_REDUCE_LAST ? last : sum / (double)n;
}

msa_rc msa_ref_scan(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q,
                    const int64_t *q_start, int64_t B, const void *rk, msa_dtype rk_dtype,
                    const float *scale, int64_t stride, int64_t C, float *out, msa_err *err)
{
    (void)k, (void)st, (void)err;
    int64_t width = msa_kern_route_width(r);
    for (int64_t b = 0; b < B; b++)
        for (int64_t c = 0; c < C; c++)
            out[b * C + c] = (float)(question(r, q + q_start[b] * width, q_start[b + 1] - q_start[b],
                                              rk, rk_dtype, c * stride) *
                                     (rk_dtype == MSA_I8 ? scale[c] : 1));
    return MSA_OK;
}

msa_rc msa_ref_score_docs(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r, const float *q,
                          const int64_t *q_start, int64_t B, const msa_kern_doc_rows *items, int64_t n,
                          msa_dtype rk_dtype, int64_t stride, float weight, bool add, float *out,
                          msa_err *err)
{
    (void)k, (void)st, (void)B, (void)err;
    int64_t width = msa_kern_route_width(r);
    for (int64_t i = 0; i < n; i++) {
        const int64_t from = q_start[items[i].question], to = q_start[items[i].question + 1];
        double best = -INFINITY, sum = 0;
        for (int64_t c = 0; c < items[i].n_rows; c++) {
            double s = question(r, q + from * width, to - from, items[i].rk, rk_dtype, c * stride);
            best = fmax(best, s);
            sum += s;
        }
        double got = r->chunk == MSA_REDUCE_MAX ? best : sum / (double)items[i].n_rows;
        out[i] = (float)(weight * got + (add ? out[i] : 0));
    }
    return MSA_OK;
}

/* ---- sampling --------------------------------------------------------------------------- */

static int by_logit(const void *a, const void *b, void *logits)
{
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    const float *l = logits;
    if (l[i] != l[j])
        return l[i] > l[j] ? -1 : 1;
    return (i > j) - (i < j);
}

/* logits hold no NaN; order is scratch for V ids. */
static int32_t sample_row(const float *logits, int64_t V, const msa_kern_sample *p, int32_t *order)
{
    for (int64_t i = 0; i < V; i++)
        order[i] = (int32_t)i;
    qsort_r(order, (size_t)V, sizeof *order, by_logit, (void *)logits);
    if (p->temperature == 0 || isinf(logits[order[0]]))
        return order[0];
    double top = logits[order[0]], total = 0, kept = 0, passed = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < V; i++)
        total += exp((logits[i] - top) / p->temperature);
    do
        kept += exp((logits[order[n++]] - top) / p->temperature);
    while (n < V && kept < p->top_p * total);
    for (int64_t i = 0; i < n; i++) {
        passed += exp((logits[order[i]] - top) / p->temperature);
        if (passed > p->u * kept)
            return order[i];
    }
    return order[n - 1];
}

msa_rc msa_ref_sample_tokens(msa_kern *k, msa_kern_stream *st, const float *logits, int64_t B,
                             int64_t V, const msa_kern_sample *params, int32_t *out, msa_err *err)
{
    (void)st;
    for (int64_t b = 0; b < B; b++) {
        for (int64_t i = 0; i < V; i++)
            if (isnan(logits[b * V + i]))
                return msa_err_set(err, MSA_FATAL, MSA_E_DATA,
                                   "sample: the logits of row %lld hold a NaN", (long long)b);
        out[b] = sample_row(logits + b * V, V, &params[b], ((msa_ref *)k)->order);
    }
    return MSA_OK;
}
