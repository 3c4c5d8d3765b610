#include "engine/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/pool.h"

/* ---- names and shapes ---------------------------------------------------------- */

msa_dtype msa_weights_dtype(const msa_st_tensor *t)
{
    return t->dtype == MSA_ST_BF16 ? MSA_BF16 : t->dtype == MSA_ST_F16 ? MSA_F16 : MSA_F32;
}

/* What has been found so far; the first error stops the search. */
typedef struct finder {
    const msa_safetensors *st;
    uint8_t *used;   /* [tensors of st] */
    msa_rc rc;
    msa_err *err;
} finder;

/* A tensor that must be there as [rows, cols], or [rows] when cols is 0. */
static const msa_st_tensor *take(finder *f, const char *name, int64_t rows, int64_t cols)
{
    if (f->rc < 0)
        return NULL;
    const msa_st_tensor *t = msa_safetensors_find(f->st, name);
    if (t == NULL) {
        f->rc = msa_err_set(f->err, MSA_FAILED, MSA_E_DATA, "tensor %s is missing", name);
    } else if (t->dtype != MSA_ST_F32 && t->dtype != MSA_ST_BF16 && t->dtype != MSA_ST_F16) {
        f->rc = msa_err_set(f->err, MSA_FAILED, MSA_E_DATA, "tensor %s: weights of type %s", name,
                            msa_st_dtype_name(t->dtype));
    } else if (t->n_dims != (cols > 0 ? 2 : 1) || t->shape[0] != rows ||
               (cols > 0 && t->shape[1] != cols)) {
        char want[64], have[32 * MSA_ST_MAX_DIMS] = "";
        snprintf(want, sizeof want, cols > 0 ? "[%lld, %lld]" : "[%lld]", (long long)rows, (long long)cols);
        for (int d = 0, at = 0; d < t->n_dims; d++)
            at += snprintf(have + at, sizeof have - (size_t)at, "%s%lld", d > 0 ? ", " : "",
                           (long long)t->shape[d]);
        f->rc = msa_err_set(f->err, MSA_FAILED, MSA_E_DATA,
                            "tensor %s: its shape is [%s], config.json asks for %s", name, have, want);
    } else {
        f->used[t - msa_safetensors_at(f->st, 0)] = 1;
        return t;
    }
    return NULL;
}

static const msa_st_tensor *take_layer(finder *f, int64_t layer, const char *part, int64_t rows,
                                       int64_t cols)
{
    char name[128];
    snprintf(name, sizeof name, "model.layers.%lld.%s.weight", (long long)layer, part);
    return take(f, name, rows, cols);
}

static bool is_router(const msa_config *c, int64_t layer)
{
    for (int64_t i = 0; i < c->n_router; i++)
        if (c->router_layers[i] == layer)
            return true;
    return false;
}

/* q_norm and k_norm stand in the first layer or in none. */
static bool has_qk_norm(const msa_safetensors *st)
{
    return msa_safetensors_find(st, "model.layers.0.self_attn.q_norm.weight") != NULL ||
           msa_safetensors_find(st, "model.layers.0.self_attn.k_norm.weight") != NULL;
}

static void take_all(finder *f, const msa_config *c, msa_weights *w)
{
    w->embed = take(f, "model.embed_tokens.weight", c->V, c->E);
    w->output = c->tied ? w->embed : take(f, "lm_head.weight", c->V, c->E);
    w->final_norm = take(f, "model.norm.weight", c->E, 0);
    for (int64_t i = 0; i < c->n_layers && f->rc >= 0; i++) {
        msa_layer_weights *l = &w->layers[i];
        l->attn_norm = take_layer(f, i, "input_layernorm", c->E, 0);
        l->mlp_norm = take_layer(f, i, "post_attention_layernorm", c->E, 0);
        l->q = take_layer(f, i, "self_attn.q_proj", c->H * c->D, c->E);
        l->k = take_layer(f, i, "self_attn.k_proj", c->G * c->D, c->E);
        l->v = take_layer(f, i, "self_attn.v_proj", c->G * c->D, c->E);
        l->o = take_layer(f, i, "self_attn.o_proj", c->E, c->H * c->D);
        l->gate = take_layer(f, i, "mlp.gate_proj", c->I, c->E);
        l->up = take_layer(f, i, "mlp.up_proj", c->I, c->E);
        l->down = take_layer(f, i, "mlp.down_proj", c->E, c->I);
        if (c->qk_norm) {
            l->q_norm = take_layer(f, i, "self_attn.q_norm", c->D, 0);
            l->k_norm = take_layer(f, i, "self_attn.k_norm", c->D, 0);
        }
        if (c->decoupled && is_router(c, i)) {
            l->router_q = take_layer(f, i, "self_attn.router_q_proj.0", c->H * c->D, c->E);
            l->router_k = take_layer(f, i, "self_attn.router_k_proj.0", c->G * c->D, c->E);
        }
    }
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* A tensor of the decoder that we would leave out (a bias, a norm in some layers,
 * a layer too many) changes what the model computes. Training leaves others
 * beside the decoder, and old files hold RoPE's frequencies. */
static msa_rc refuse_unknown(const finder *f)
{
    for (int64_t i = 0; i < msa_safetensors_count(f->st); i++) {
        const char *name = msa_safetensors_at(f->st, i)->name;
        bool decoder = strncmp(name, "model.", 6) == 0 || strncmp(name, "lm_head.bias", 12) == 0;
        if (decoder && !f->used[i] && !ends_with(name, ".rotary_emb.inv_freq"))
            return msa_err_set(f->err, MSA_FAILED, MSA_E_DATA,
                               "tensor %s does not belong to the model that config.json describes", name);
    }
    return MSA_OK;
}

msa_rc msa_weights_find(const msa_safetensors *st, msa_config *c, msa_weights *out, msa_err *err)
{
    int64_t n = msa_safetensors_count(st);
    finder f = {.st = st, .used = msa_calloc(n, 1), .err = err};
    msa_weights w = {.layers = msa_calloc(c->n_layers, sizeof *w.layers),
                     .used = msa_calloc(n, sizeof(*w.used))};
    if (f.used == NULL || w.layers == NULL || w.used == NULL) {
        f.rc = msa_err_nomem(err, "a tensor table");
        goto done;
    }
    c->qk_norm = has_qk_norm(st);
    take_all(&f, c, &w);
    if (f.rc >= 0)
        f.rc = refuse_unknown(&f);
    for (int64_t i = 0; i < n && f.rc >= 0; i++) {
        if (!f.used[i])
            continue;
        w.used[w.n_used++] = msa_safetensors_at(st, i);
        w.bytes += msa_safetensors_at(st, i)->bytes;
    }
done:
    free(f.used);
    if (f.rc < 0)
        msa_weights_free(&w);
    else
        *out = w;
    return f.rc;
}

void msa_weights_free(msa_weights *w)
{
    free(w->layers);
    free(w->used);
    *w = (msa_weights){0};
}

/* ---- values --------------------------------------------------------------------- */

/* Index of the first NaN or infinity, or -1: its exponent bits are all ones.
 * Blocks without a branch inside, since there is next to never one to find. */
static int64_t find_nonfinite(const msa_st_tensor *t)
{
    const uint32_t *w = t->data;
    const uint16_t *h = t->data;
    uint32_t half = t->dtype == MSA_ST_BF16 ? 0x7f80u : 0x7c00u;
    for (int64_t at = 0; at < t->n; at += 4096) {
        int64_t end = at + 4096 < t->n ? at + 4096 : t->n;
        uint32_t bad = 0;
        if (t->dtype == MSA_ST_F32)
            for (int64_t i = at; i < end; i++)
                bad |= (w[i] & 0x7f800000u) == 0x7f800000u;
        else
            for (int64_t i = at; i < end; i++)
                bad |= (h[i] & half) == half;
        for (int64_t i = at; bad && i < end; i++)
            if (t->dtype == MSA_ST_F32 ? (w[i] & 0x7f800000u) == 0x7f800000u : (h[i] & half) == half)
                return i;
    }
    return -1;
}

typedef struct digest {
    int64_t bad;
    char hex[65];
} digest;

typedef struct digest_job {
    const msa_weights *w;
    digest *out;
} digest_job;

static void digest_one(void *arg, int64_t item, int thread)
{
    digest_job *job = arg;
    const msa_st_tensor *t = job->w->used[item];
    (void)thread;
    job->out[item].bad = find_nonfinite(t);
    msa_sha256_hex(t->data, t->bytes, job->out[item].hex);
}

msa_rc msa_weights_digest(const msa_weights *w, int n_threads, msa_buf *out, msa_err *err)
{
    digest_job job = {w, msa_calloc(w->n_used, sizeof *job.out)};
    msa_pool *pool = job.out != NULL ? msa_pool_new(n_threads) : NULL;
    msa_rc rc = MSA_OK;
    if (pool == NULL) {
        free(job.out);
        return msa_err_nomem(err, "hashing the weights");
    }
    msa_pool_run(pool, w->n_used, digest_one, &job);
    for (int64_t i = 0; i < w->n_used && rc >= 0; i++) {
        const msa_st_tensor *t = w->used[i];
        if (job.out[i].bad >= 0)
            rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA, "tensor %s: element %lld is not a finite number",
                             t->name, (long long)job.out[i].bad);
        msa_buf_printf(out, "tensor %s %s", t->name, msa_st_dtype_name(t->dtype));
        for (int d = 0; d < t->n_dims; d++)
            msa_buf_printf(out, " %lld", (long long)t->shape[d]);
        msa_buf_printf(out, " %s\n", job.out[i].hex);
    }
    msa_pool_free(pool);
    free(job.out);
    return rc;
}
