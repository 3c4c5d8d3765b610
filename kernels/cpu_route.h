/* The routing scan: router keys times packed queries, with the reductions over
 * heads and over each question's tokens done while the products are in cache. */
#ifndef MSA_KERNELS_CPU_ROUTE_H
#define MSA_KERNELS_CPU_ROUTE_H

#include "kernels/cpu_gemm.h"

/* One question's tokens s[0..n) to one score. */
static float reduce_tokens(const float *s, int64_t n, msa_reduce how)
{
    if (how == MSA_REDUCE_LAST)
        return s[n - 1];
    int64_t i = 0;
    float got;
    if (how == MSA_REDUCE_MAX) {
        vf top = v_set(-INFINITY);
        for (; i + VL <= n; i += VL)
            top = v_max(top, v_load(s + i));
        for (got = v_top(top); i < n; i++)
            got = s[i] > got ? s[i] : got;
        return got;
    }
    vf sum = v_set(0);
    for (; i + VL <= n; i += VL)
        sum = sum + v_load(s + i);
    for (got = v_sum(sum); i < n; i++)
        got += s[i];
    return got / (float)n;
}

static void scan(void *arg, int64_t item, int thread)
{
    const msa_cpu_scan_job *job = arg;
    msa_kern_heads h = job->r->h;
    int64_t first = item * MSA_CPU_SCAN_ROWS;
    int64_t rows = job->C - first < MSA_CPU_SCAN_ROWS ? job->C - first : MSA_CPU_SCAN_ROWS;
    int64_t wide = msa_round_up(job->T, NR), keys_width = h.G * h.D;
    float *scores = (float *)(job->scratch + thread * job->scratch_bytes);
    float *keys = scores + MSA_CPU_SCAN_ROWS * wide;
    const float *x = keys;
    int64_t ldx = keys_width;
    if (job->rk_type == MSA_F32) {
        x = (const float *)job->rk + first * job->stride;
        ldx = job->stride;
    } else
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < keys_width; j += VL)
                v_put_n(keys, MSA_F32, i * ldx + j, keys_width - j,
                        v_get_n(job->rk, job->rk_type, (first + i) * job->stride + j, keys_width - j));

    for (int64_t part = 0; part < job->parts; part++) {
        const float *at = job->parts == 1 ? x : x + part / (h.H / h.G) * h.D;
        for (int64_t t = 0; t < job->T; t += NR) {
            const float *panel = job->panels + (part * wide + t) * job->depth;
            if (part == 0) {
                panel_product(MSA_F32, at, ldx, rows, panel, job->depth, scores + t, wide,
                              job->T - t);
                continue;
            }
            for (int64_t m = 0; m < rows; m += MR_F32) {
                float c[MR_F32 * NR];
                int64_t n = rows - m < MR_F32 ? rows - m : MR_F32;
                panel_product(MSA_F32, at + m * ldx, ldx, n, panel, job->depth, c, NR,
                              job->T - t);
                for (int64_t i = 0; i < n; i++)
                    for (int64_t j = 0; j < NR && t + j < job->T; j += VL) {
                        float *s = scores + (m + i) * wide + t + j;
                        v_store(s, v_max(v_load(s), v_load(c + i * NR + j)));
                    }
            }
        }
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t b = 0; b < job->B; b++)
            job->out[b * job->C + first + i] =
                reduce_tokens(scores + i * wide + job->q_start[b],
                              job->q_start[b + 1] - job->q_start[b], job->r->query) *
                (job->rk_type == MSA_I8 ? job->scale[first + i] : 1);
}

#endif
