/* Reference attention: one query head at a time, its weights in a row of scratch. */
#include <math.h>

#include "kernels/dtype.h"
#include "kernels/kernels_internal.h"

/* What a number of row j, head g is multiplied with. */
static double factor(const msa_kern_seg *s, const uint16_t *scale, int64_t j, int64_t g)
{
    return s->dtype == MSA_I8 ? msa_f16_to_f32(scale[j * s->scale_stride + g]) : 1;
}

/* One query head at q over all segments in turn and then `own`, key head g.
 * scores has room for all their rows. */
static void attend(const void *q, msa_dtype act, msa_kern_heads h, int64_t g,
                   const msa_kern_seg *segs, int64_t n_segs, const msa_kern_seg *own,
                   double *scores, void *out, int64_t out_at)
{
    double top = -INFINITY, total = 0, *score = scores;
    for (int64_t i = 0; i <= n_segs; i++) {
        const msa_kern_seg *s = i < n_segs ? &segs[i] : own;
        for (int64_t j = 0; j < s->n_rows; j++) {
            double sum = 0;
            for (int64_t d = 0; d < h.D; d++)
                sum += (double)msa_elem_get(q, act, d) *
                       msa_elem_get(s->k, s->dtype, j * s->stride + g * h.D + d);
            *score = sum * factor(s, s->k_scale, j, g) / sqrt((double)h.D);
            top = fmax(top, *score++);
        }
    }
    for (double *p = scores; p < score; p++)
        total += *p = exp(*p - top);
    for (int64_t d = 0; d < h.D; d++) {
        double sum = 0;
        score = scores;
        for (int64_t i = 0; i <= n_segs; i++) {
            const msa_kern_seg *s = i < n_segs ? &segs[i] : own;
            for (int64_t j = 0; j < s->n_rows; j++)
                sum += *score++ * factor(s, s->v_scale, j, g) *
                       msa_elem_get(s->v, s->dtype, j * s->stride + g * h.D + d);
        }
        msa_elem_set(out, act, out_at + d, (float)(sum / total));
    }
}

msa_rc msa_ref_attn_packed(msa_kern *k, msa_kern_stream *st, const void *qkv, int64_t M,
                           msa_kern_heads h, const int64_t *seq_start, int64_t S, void *out,
                           msa_err *err)
{
    (void)st, (void)M, (void)err;
    msa_dtype act = k->info.act;
    int64_t stride = (h.H + 2 * h.G) * h.D;
    for (int64_t s = 0; s < S; s++) {
        const void *first = msa_elem_at(qkv, act, seq_start[s] * stride);
        msa_kern_seg own = {.k = msa_elem_at(first, act, h.H * h.D),
                            .v = msa_elem_at(first, act, (h.H + h.G) * h.D),
                            .stride = stride,
                            .dtype = act};
        for (int64_t r = seq_start[s]; r < seq_start[s + 1]; r++)
            for (int64_t head = 0; head < h.H; head++) {
                own.n_rows = r - seq_start[s] + 1;
                attend(msa_elem_at(qkv, act, r * stride + head * h.D), act, h, head / (h.H / h.G),
                       NULL, 0, &own, ((msa_ref *)k)->scores, out, (r * h.H + head) * h.D);
            }
    }
    return MSA_OK;
}

msa_rc msa_ref_attn_memory(msa_kern *k, msa_kern_stream *st, const void *q, int64_t q_stride,
                           msa_kern_heads h, int64_t B, const int64_t *row_start,
                           const msa_kern_seg *segs, const int64_t *seg_start,
                           const msa_kern_cache *caches, void *out, msa_err *err)
{
    (void)st, (void)err;
    msa_dtype act = k->info.act;
    for (int64_t b = 0; b < B; b++) {
        int64_t n_segs = seg_start[b + 1] - seg_start[b];
        const msa_kern_seg *mine = n_segs ? segs + seg_start[b] : NULL;
        msa_kern_seg own = {
            .k = caches[b].k, .v = caches[b].v, .stride = h.G * h.D, .dtype = act};
        for (int64_t r = row_start[b]; r < row_start[b + 1]; r++)
            for (int64_t head = 0; head < h.H; head++) {
                own.n_rows = caches[b].len - (row_start[b + 1] - r) + 1;
                attend(msa_elem_at(q, act, r * q_stride + head * h.D), act, h, head / (h.H / h.G),
                       mine, n_segs, &own, ((msa_ref *)k)->scores, out, (r * h.H + head) * h.D);
            }
    }
    return MSA_OK;
}
