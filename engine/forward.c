#include "engine/forward.h"

#include <string.h>

#include "base/mem.h"

static msa_rc memory(msa_model *m, int64_t rows, int64_t columns, int64_t size, msa_mem kind, void *out,
                     msa_err *err)
{
    int64_t bytes;
    if (!msa_mul(rows, columns, &bytes) || !msa_mul(bytes, size, &bytes))
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "activations of %lld rows overflow",
                           (long long)rows);
    return msa_kern_alloc(m->kern, bytes, kind, out, err);
}

static msa_rc tensor(msa_model *m, int64_t rows, int64_t columns, int64_t size, void *out,
                     msa_err *err)
{
    return memory(m, rows, columns, size, MSA_MEM_DEVICE, out, err);
}

bool msa_forward_bytes(const msa_config *c, msa_dtype act, int64_t rows, int64_t *bytes)
{
    /* a model's own dimensions were multiplied when its weights were read */
    const int64_t columns = c->E + (2 * c->H + 2 * c->G) * c->D + 3 * c->I;
    int64_t row;
    return msa_mul(columns, msa_dtype_bytes(act), &row) &&
           msa_add(row, c->E * (int64_t)sizeof(float) + (int64_t)sizeof(int32_t) +
                            (int64_t)sizeof(int64_t), &row) &&
           msa_mul(row, rows, bytes);
}

msa_rc msa_forward_new(msa_model *m, int64_t rows, msa_forward *f, msa_err *err)
{
    const msa_config *c = &m->config;
    const msa_kern_shape shape = {.rows = rows, .E = c->E, .H = c->H, .G = c->G,
                                  .D = c->D, .I = c->I, .V = c->V};
    msa_kern_info info;
    msa_kern_info_get(m->kern, &info);
    const int64_t act = msa_dtype_bytes(info.act);

    *f = (msa_forward){.rows = rows};
    msa_rc rc = msa_kern_reserve(m->kern, &shape, false, NULL, err);
    if (rc == MSA_OK)
        rc = tensor(m, rows, 1, sizeof *f->ids, (void **)&f->ids, err);
    if (rc == MSA_OK)
        rc = tensor(m, rows, 1, sizeof *f->pos, (void **)&f->pos, err);
    if (rc == MSA_OK)
        rc = tensor(m, rows, c->E, sizeof *f->x, (void **)&f->x, err);
    if (rc == MSA_OK)
        rc = tensor(m, rows, c->E, act, &f->xn, err);
    if (rc == MSA_OK)
        rc = tensor(m, rows, (c->H + 2 * c->G) * c->D, act, &f->qkv, err);
    if (rc == MSA_OK)
        rc = tensor(m, rows, c->H * c->D, act, &f->att, err);
    if (rc == MSA_OK)
        rc = tensor(m, rows, 2 * c->I, act, &f->gate_up, err);
    if (rc == MSA_OK)
        rc = tensor(m, rows, c->I, act, &f->mlp, err);
    for (int i = 0; rc == MSA_OK && i < 2; i++) {
        msa_forward_sent *s = &f->sent[i];
        rc = memory(m, rows, 1, sizeof *s->ids, MSA_MEM_PINNED, &s->ids, err);
        if (rc == MSA_OK)
            rc = memory(m, rows, 1, sizeof *s->pos, MSA_MEM_PINNED, &s->pos, err);
        if (rc == MSA_OK)
            rc = msa_kern_event_new(m->kern, &s->gone, err);
    }
    if (rc < 0)
        msa_forward_free(m, f);
    return rc;
}

void msa_forward_free(msa_model *m, msa_forward *f)
{
    void *all[] = {f->ids, f->pos, f->x, f->xn, f->qkv, f->att, f->gate_up, f->mlp};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        msa_kern_free(m->kern, all[i], MSA_MEM_DEVICE);
    for (int i = 0; i < 2; i++) {
        msa_kern_free(m->kern, f->sent[i].ids, MSA_MEM_PINNED);
        msa_kern_free(m->kern, f->sent[i].pos, MSA_MEM_PINNED);
        msa_kern_event_free(m->kern, f->sent[i].gone);
    }
    *f = (msa_forward){0};
}

/* Sends ids (NULL: none) and positions through the set whose turn it is. */
static msa_rc send(msa_model *m, msa_forward *f, const int32_t *ids, const int64_t *pos, int64_t M,
                   msa_err *err)
{
    msa_forward_sent *s = &f->sent[f->turn];
    msa_rc rc = msa_kern_event_wait(m->kern, s->gone, err);
    if (rc < 0)
        return rc;
    f->turn = !f->turn;
    memcpy(s->pos, pos, (size_t)M * sizeof *pos);
    rc = msa_kern_copy(m->kern, NULL, f->pos, s->pos, M * (int64_t)sizeof *pos, err);
    if (rc == MSA_OK && ids) {
        memcpy(s->ids, ids, (size_t)M * sizeof *ids);
        rc = msa_kern_copy(m->kern, NULL, f->ids, s->ids, M * (int64_t)sizeof *ids, err);
    }
    return rc == MSA_OK ? msa_kern_event_record(m->kern, NULL, s->gone, err) : rc;
}

static msa_rc check_count(const msa_forward *f, int64_t M, msa_err *err)
{
    if (M >= 0 && M <= f->rows)
        return MSA_OK;
    return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "%lld rows where %lld are reserved",
                       (long long)M, (long long)f->rows);
}

msa_rc msa_forward_embed(msa_model *m, msa_forward *f, const int32_t *ids, const int64_t *pos,
                         int64_t M, msa_err *err)
{
    msa_rc rc = check_count(f, M, err);
    for (int64_t i = 0; rc == MSA_OK && i < M; i++)
        if (ids[i] < 0 || ids[i] >= m->config.V)
            rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA,
                             "token %d is outside the vocabulary of %lld", (int)ids[i],
                             (long long)m->config.V);
    if (rc < 0 || M == 0)
        return rc;
    rc = send(m, f, ids, pos, M, err);
    if (rc == MSA_OK)
        rc = msa_kern_embed(m->kern, NULL, m->embed, f->ids, M, f->x, err);
    return rc;
}

msa_rc msa_forward_place(msa_model *m, msa_forward *f, const int64_t *pos, int64_t M, msa_err *err)
{
    msa_rc rc = check_count(f, M, err);
    return rc == MSA_OK && M > 0 ? send(m, f, NULL, pos, M, err) : rc;
}

msa_rc msa_forward_qkv(msa_model *m, const msa_layer *l, msa_forward *f, int64_t M, msa_err *err)
{
    const msa_config *c = &m->config;
    return msa_kern_norm_linear(m->kern, NULL, f->x, l->attn_norm, c->rms_eps, l->qkv, M, f->xn, NULL,
                                f->qkv, err);
}

msa_rc msa_forward_rotate(msa_model *m, const msa_layer *l, msa_forward *f, int64_t M, msa_err *err)
{
    const msa_config *c = &m->config;
    return msa_kern_qk_rope(m->kern, NULL, f->qkv, M, msa_config_heads(c), l->q_norm, l->k_norm, c->rms_eps,
                            f->pos, c->rope_theta, err);
}

msa_rc msa_forward_project(msa_model *m, const msa_layer *l, msa_forward *f, int64_t M, msa_err *err)
{
    msa_rc rc = msa_forward_qkv(m, l, f, M, err);
    return rc == MSA_OK ? msa_forward_rotate(m, l, f, M, err) : rc;
}

msa_rc msa_forward_keep(msa_model *m, const msa_layer *l, msa_forward *f, int64_t B,
                        const int64_t *row_start, void *const *ck, void *const *cv, const int64_t *at,
                        msa_err *err)
{
    const msa_config *c = &m->config;
    return msa_kern_qk_rope_store(m->kern, NULL, f->qkv, msa_config_heads(c), l->q_norm, l->k_norm,
                                  c->rms_eps, f->pos, c->rope_theta, B, row_start, ck, cv, at, err);
}

msa_rc msa_forward_attend(msa_model *m, const msa_layer *l, msa_forward *f, int64_t B,
                          const int64_t *row_start, const msa_kern_seg *segs, const int64_t *seg_start,
                          void *const *ck, void *const *cv, const int64_t *at, msa_err *err)
{
    const msa_config *c = &m->config;
    return msa_kern_qk_rope_attn(m->kern, NULL, f->qkv, msa_config_heads(c), l->q_norm, l->k_norm,
                                 c->rms_eps, f->pos, c->rope_theta, B, row_start, segs, seg_start, ck, cv,
                                 at, f->att, err);
}

msa_rc msa_forward_finish(msa_model *m, const msa_layer *l, const msa_layer *next, msa_forward *f, int64_t M,
                          msa_err *err)
{
    const msa_kern_link link = {.o = l->o, .gamma = l->mlp_norm, .gate_up = l->gate_up, .down = l->down,
                                .next_gamma = next ? next->attn_norm : NULL, .next = next ? next->qkv : NULL,
                                .eps = m->config.rms_eps};
    return msa_kern_between(m->kern, NULL, &link, f->att, M, f->x, f->xn, f->gate_up, f->mlp, f->qkv, err);
}

msa_rc msa_forward_logits(msa_model *m, const msa_forward *f, const int64_t *idx, int64_t R,
                          float *gathered, void *normed, float *logits, msa_err *err)
{
    const msa_config *c = &m->config;
    msa_rc rc = msa_kern_gather(m->kern, NULL, f->x, c->E, idx, R, gathered, err);
    if (rc == MSA_OK)
        rc = msa_kern_rms_norm(m->kern, NULL, gathered, m->final_norm, c->rms_eps, R, c->E, normed,
                               err);
    if (rc == MSA_OK)
        rc = msa_kern_linear(m->kern, NULL, m->output, normed, R, logits, MSA_LINEAR_F32, err);
    return rc;
}
