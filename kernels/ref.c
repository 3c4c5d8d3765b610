/* The reference backend: plain loops, sums in double, one thread, no fast-math.
 * Slow on purpose; every other backend is compared with it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "kernels/dtype.h"
#include "kernels/kernels_internal.h"

/* ---- weights -------------------------------------------------------------------- */

static msa_rc weight_new(msa_kern *k, const void *data, msa_dtype from, int64_t N, int64_t K,
                         msa_kern_weight **out, msa_err *err)
{
    int64_t bytes;
    msa_ref_weight *w = NULL;
    if (msa_mul(N * K, sizeof(float), &bytes) && msa_add(bytes, sizeof *w, &bytes))
        w = msa_alloc(1, bytes);
    if (!w)
        return msa_err_set(err, MSA_FAILED, MSA_E_NOMEM, "no memory for a weight of %lld x %lld",
                           (long long)N, (long long)K);
    w->base = (msa_kern_weight){.owner = k, .N = N, .K = K, .bytes = bytes};
    for (int64_t i = 0; i < N * K; i++) {
        w->w[i] = msa_elem_get(data, from, i);
        if (k->info.act == MSA_BF16)
            w->w[i] = msa_bf16_to_f32(msa_f32_to_bf16(w->w[i]));
    }
    *out = &w->base;
    return MSA_OK;
}

static void weight_free(msa_kern *k, msa_kern_weight *w)
{
    (void)k;
    free(w);
}

static const float *weight_row(const msa_kern_weight *w, int64_t n)
{
    return ((const msa_ref_weight *)w)->w + n * w->K;
}

/* ---- the decoder, all but attention ------------------------------------------------ */

msa_rc msa_ref_embed(msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w, const int32_t *ids,
                     int64_t M, float *x, msa_err *err)
{
    (void)k, (void)st;
    for (int64_t m = 0; m < M; m++) {
        if (ids[m] < 0 || ids[m] >= w->N)
            return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "embed: token id %d of row %lld",
                               ids[m], (long long)m);
        for (int64_t e = 0; e < w->K; e++)
            x[m * w->K + e] = weight_row(w, ids[m])[e];
    }
    return MSA_OK;
}

msa_rc msa_ref_rms_norm(msa_kern *k, msa_kern_stream *st, const float *x, const float *gamma,
                        float eps, int64_t M, int64_t E, void *out, msa_err *err)
{
    (void)st, (void)err;
    for (int64_t m = 0; m < M; m++) {
        double sum = 0;
        for (int64_t e = 0; e < E; e++)
            sum += (double)x[m * E + e] * x[m * E + e];
        double scale = 1 / sqrt(sum / (double)E + eps);
        for (int64_t e = 0; e < E; e++)
            msa_elem_set(out, k->info.act, m * E + e, (float)(x[m * E + e] * scale * gamma[e]));
    }
    return MSA_OK;
}

msa_rc msa_ref_linear(msa_kern *k, msa_kern_stream *st, const msa_kern_weight *w, const void *x,
                      int64_t M, void *out, msa_linear_mode mode, msa_err *err)
{
    (void)st, (void)err;
    msa_dtype act = k->info.act;
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < w->N; n++) {
            const float *row = weight_row(w, n);
            double sum = 0;
            for (int64_t i = 0; i < w->K; i++)
                sum += (double)msa_elem_get(x, act, m * w->K + i) * row[i];
            int64_t at = m * w->N + n;
            if (mode == MSA_LINEAR_ACT)
                msa_elem_set(out, act, at, (float)sum);
            else if (mode == MSA_LINEAR_F32)
                ((float *)out)[at] = (float)sum;
            else
                ((float *)out)[at] += (float)sum;
        }
    return MSA_OK;
}

msa_rc msa_ref_qk_rope(msa_kern *k, msa_kern_stream *st, void *qkv, int64_t M, msa_kern_heads h,
                       const float *q_gamma, const float *k_gamma, float eps, const int64_t *pos,
                       double theta, msa_err *err)
{
    (void)st, (void)err;
    msa_dtype act = k->info.act;
    int64_t half = h.D / 2;
    for (int64_t m = 0; m < M; m++)
        for (int64_t head = 0; head < h.H + h.G; head++) {
            int64_t at = (m * (h.H + 2 * h.G) + head) * h.D;
            const float *gamma = head < h.H ? q_gamma : k_gamma;
            double scale = 1;
            if (gamma) {
                double sum = 0;
                for (int64_t d = 0; d < h.D; d++) {
                    double v = msa_elem_get(qkv, act, at + d);
                    sum += v * v;
                }
                scale = 1 / sqrt(sum / (double)h.D + eps);
            }
            for (int64_t i = 0; i < half; i++) {
                double a = msa_elem_get(qkv, act, at + i) * scale;
                double b = msa_elem_get(qkv, act, at + half + i) * scale;
                if (gamma) {
                    a *= gamma[i];
                    b *= gamma[half + i];
                }
                double angle = (double)pos[m] * pow(theta, -(double)i / (double)half);
                msa_elem_set(qkv, act, at + i, (float)(a * cos(angle) - b * sin(angle)));
                msa_elem_set(qkv, act, at + half + i, (float)(b * cos(angle) + a * sin(angle)));
            }
        }
    return MSA_OK;
}

msa_rc msa_ref_swiglu(msa_kern *k, msa_kern_stream *st, const void *gu, int64_t M, int64_t I,
                      void *out, msa_err *err)
{
    (void)st, (void)err;
    msa_dtype act = k->info.act;
    for (int64_t m = 0; m < M; m++)
        for (int64_t i = 0; i < I; i++) {
            double gate = msa_elem_get(gu, act, m * 2 * I + i);
            double up = msa_elem_get(gu, act, m * 2 * I + I + i);
            msa_elem_set(out, act, m * I + i, (float)(gate / (1 + exp(-gate)) * up));
        }
    return MSA_OK;
}

/* ---- the backend --------------------------------------------------------------------- */

static msa_rc reserve(msa_kern *k, const msa_kern_shape *max, bool dry_run, int64_t *bytes,
                      msa_err *err)
{
    msa_ref *r = (msa_ref *)k;
    int64_t scores_bytes, order_bytes;
    if (!msa_mul(max->max_seq, sizeof *r->scores, &scores_bytes) ||
        !msa_mul(max->V, sizeof *r->order, &order_bytes) ||
        !msa_add(scores_bytes, order_bytes, bytes))
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "reserve: a shape out of range");
    if (dry_run)
        return MSA_OK;
    double *scores = msa_alloc(1, scores_bytes);
    int32_t *order = msa_alloc(1, order_bytes);
    if (!scores || !order) {
        free(scores);
        free(order);
        return msa_err_set(err, MSA_FAILED, MSA_E_NOMEM, "reserve: no memory for %lld bytes",
                           (long long)*bytes);
    }
    free(r->scores);
    free(r->order);
    r->scores = scores;
    r->order = order;
    return MSA_OK;
}

static void ref_close(msa_kern *k)
{
    msa_ref *r = (msa_ref *)k;
    free(r->scores);
    free(r->order);
    free(r);
}

static const msa_kern_ops ops = {
    .close = ref_close,
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
    .embed = msa_ref_embed,
    .rms_norm = msa_ref_rms_norm,
    .linear = msa_ref_linear,
    .qk_rope = msa_ref_qk_rope,
    .attn_packed = msa_ref_attn_packed,
    .attn_memory = msa_ref_attn_memory,
    .cache_store = msa_host_cache_store,
    .swiglu = msa_ref_swiglu,
    .gather = msa_host_gather,
    .pool = msa_ref_pool,
    .unit_heads = msa_ref_unit_heads,
    .convert = msa_ref_convert,
    .router_query = msa_ref_router_query,
    .quantize = msa_ref_quantize,
    .scan = msa_ref_scan,
    .score_docs = msa_ref_score_docs,
    .doc_scores = msa_host_doc_scores,
    .topk_merge = msa_host_topk_merge,
    .topk_init = msa_host_topk_init,
    .sample_tokens = msa_ref_sample_tokens,
};

msa_rc msa_ref_open(const char *name, const msa_kern_opts *opts, msa_kern **out, msa_err *err)
{
    (void)name;
    msa_ref *r = msa_calloc(1, sizeof *r);
    if (!r)
        return msa_err_nomem(err, "the reference backend");
    msa_host_cpu_name(r->device, sizeof r->device);
    r->base.ops = &ops;
    r->base.info = (msa_kern_info){
        .name = "ref",
        .device = r->device,
        .act = opts->act,
        .n_threads = 1,
        .batch_tokens = 512,
        .host_memory = true,
    };
    *out = &r->base;
    return MSA_OK;
}
