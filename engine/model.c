/* Opening a model folder: everything is read and checked first, then packed
 * tensor by tensor out of the mapped files, so that weights are never held twice. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "engine/config.h"
#include "engine/model_internal.h"
#include "engine/protocol.h"
#include "engine/safetensors.h"
#include "engine/weights.h"
#include "kernels/dtype.h"

/* ---- the folder ----------------------------------------------------------------- */

/* The folder's last component; "." and ".." are resolved. */
static char *folder_name(const char *dir)
{
    int64_t n = (int64_t)strlen(dir), from;
    while (n > 1 && dir[n - 1] == '/')
        n--;
    for (from = n; from > 0 && dir[from - 1] != '/'; from--)
        ;
    if (n - from > 0 && !(n - from == 1 && dir[from] == '.') &&
        !(n - from == 2 && dir[from] == '.' && dir[from + 1] == '.'))
        return msa_strndup(dir + from, n - from);
    char *full = realpath(dir, NULL);
    char *name = full != NULL && full[1] != '\0' ? msa_strdup(strrchr(full, '/') + 1) : msa_strdup("model");
    free(full);
    return name;
}

/* What pooled rows depend on. */
static void print_config(const msa_config *c, msa_buf *out)
{
    msa_buf_printf(out, "msa-model 1\nlayers %lld E %lld H %lld G %lld D %lld I %lld V %lld\n",
                   (long long)c->n_layers, (long long)c->E, (long long)c->H, (long long)c->G,
                   (long long)c->D, (long long)c->I, (long long)c->V);
    msa_buf_printf(out, "eps %.9g theta %.17g tied %d qk_norm %d P %lld decoupled %d unit %d router",
                   (double)c->rms_eps, c->rope_theta, c->tied, c->qk_norm, (long long)c->P, c->decoupled,
                   c->route.unit);
    for (int64_t i = 0; i < c->n_router; i++)
        msa_buf_printf(out, " %lld", (long long)c->router_layers[i]);
    msa_buf_printf(out, "\n");
}

/* What only questions depend on. */
static void print_question_side(const msa_model *m, msa_buf *out)
{
    const msa_config *c = &m->config;
    msa_buf_printf(out, "top_k %lld scale %.9g head %d query %d chunk %d\n", (long long)c->top_k,
                   (double)c->route.scale, (int)c->route.head, (int)c->route.query, (int)c->route.chunk);
    for (int64_t i = 0; i < m->n_eos; i++)
        msa_buf_printf(out, "eos %d\n", m->eos_ids[i]);
}

/* A model's files while it is being opened. */
typedef struct folder {
    msa_safetensors *st;
    msa_weights w;
} folder;

static void folder_close(folder *f)
{
    msa_weights_free(&f->w);
    msa_safetensors_close(f->st);
}

static msa_rc read_tokenizer(const char *dir, msa_model *m, msa_err *err)
{
    char *path = msa_file_join(dir, "tokenizer.json");
    msa_rc rc = path != NULL ? msa_tokenizer_open(path, &m->tokenizer, err) : msa_err_nomem(err, "a file name");
    free(path);
    if (rc >= 0 && msa_tokenizer_vocab(m->tokenizer) > m->config.V)
        rc = msa_err_set(err, MSA_FAILED, MSA_E_CONFIG,
                         "tokenizer.json has ids up to %lld, the model's vocab_size is %lld",
                         (long long)msa_tokenizer_vocab(m->tokenizer) - 1, (long long)m->config.V);
    if (rc >= 0)
        rc = msa_protocol_read(dir, m->config.n_router, &m->protocol, err);
    return rc < 0 ? rc : msa_protocol_check(&m->protocol, m->tokenizer, err);
}

/* Fills everything in *m that needs no backend; *f keeps the weights' files. */
static msa_rc read_folder(const char *dir, bool bare, int n_threads, msa_model *m, folder *f, msa_err *err)
{
    msa_buf id = {0};
    m->bare = bare;
    m->name = folder_name(dir);
    if (m->name == NULL)
        return msa_err_nomem(err, "a model's name");
    msa_rc rc = msa_config_read(dir, &m->config, m->eos_ids, &m->n_eos, err);
    if (rc >= 0 && !bare)
        rc = read_tokenizer(dir, m, err);
    if (rc >= 0)
        rc = msa_safetensors_open_dir(dir, &f->st, err);
    if (rc >= 0)
        rc = msa_weights_find(f->st, &m->config, &f->w, err);
    if (rc >= 0) {
        print_config(&m->config, &id);
        rc = msa_weights_digest(&f->w, n_threads, &id, err);
    }
    if (rc >= 0 && !bare) {
        msa_buf_printf(&id, "tokenizer %s\nhead %s\ntail %s\n", msa_tokenizer_sha256(m->tokenizer),
                       m->protocol.document_head, m->protocol.document_tail);
    }
    if (rc >= 0 && !id.oom) {
        msa_sha256_hex(id.data, id.len, m->fingerprint);
        id.len = 0;
        msa_buf_printf(&id, "%s\n", m->fingerprint);
        print_question_side(m, &id);
        if (!bare)
            msa_protocol_print(&m->protocol, m->config.n_router, &id);
    }
    if (rc >= 0 && id.oom)
        rc = msa_err_nomem(err, "a fingerprint");
    if (rc >= 0)
        msa_sha256_hex(id.data, id.len, m->answer_id);
    msa_buf_free(&id);
    return rc < 0 ? msa_err_prefix(err, rc, "model %s", dir) : MSA_OK;
}

msa_rc msa_model_peek(const char *dir, msa_config *config, msa_protocol *protocol, char fingerprint[65],
                      char answer_id[65], int64_t *weight_bytes, msa_err *err)
{
    msa_model *m = msa_calloc(1, sizeof *m);
    folder f = {0};
    if (m == NULL)
        return msa_err_nomem(err, "a model");
    msa_rc rc = read_folder(dir, false, 0, m, &f, err);
    if (rc >= 0) {
        *config = m->config;
        memcpy(fingerprint, m->fingerprint, sizeof m->fingerprint);
        memcpy(answer_id, m->answer_id, sizeof m->answer_id);
        *weight_bytes = f.w.bytes;
        if (protocol != NULL) {
            *protocol = m->protocol;
            m->protocol = (msa_protocol){0};
        }
    }
    folder_close(&f);
    msa_model_close(m);
    return rc;
}

/* ---- packing --------------------------------------------------------------------- */

/* Matrices of one input width, stacked in order, as one packed weight. */
static msa_rc pack(msa_model *m, const msa_st_tensor *const *parts, int n, msa_kern_weight **out, msa_err *err)
{
    int64_t K = parts[0]->shape[1], rows = 0;
    bool same = true;
    for (int i = 0; i < n; i++) {
        rows += parts[i]->shape[0];
        same = same && parts[i]->dtype == parts[0]->dtype;
    }
    msa_dtype type = same ? msa_weights_dtype(parts[0]) : MSA_F32;
    const void *data = parts[0]->data;
    char *stack = NULL;
    if (n > 1) {
        stack = msa_alloc_aligned(rows, K * msa_dtype_bytes(type));
        if (stack == NULL)
            return msa_err_nomem(err, parts[0]->name);
        char *at = stack;
        for (int i = 0; i < n; i++) {
            if (same)
                memcpy(at, parts[i]->data, (size_t)parts[i]->bytes);
            else
                for (int64_t e = 0; e < parts[i]->n; e++)
                    ((float *)at)[e] = msa_elem_get(parts[i]->data, msa_weights_dtype(parts[i]), e);
            at += parts[i]->n * msa_dtype_bytes(type);
        }
        data = stack;
    }
    msa_rc rc = msa_kern_weight_new(m->kern, data, type, rows, K, out, err);
    free(stack);
    if (rc < 0)
        return msa_err_prefix(err, rc, "tensor %s", parts[0]->name);
    m->weight_bytes += msa_kern_weight_bytes(*out);
    return MSA_OK;
}

static msa_rc pack_one(msa_model *m, const msa_st_tensor *t, msa_kern_weight **out, msa_err *err)
{
    return t != NULL ? pack(m, &t, 1, out, err) : MSA_OK;
}

/* A norm's gamma as f32 on the device. */
static msa_rc load_gamma(msa_model *m, const msa_st_tensor *t, float **out, msa_err *err)
{
    if (t == NULL)
        return MSA_OK;
    void *p = NULL;
    float *host = msa_alloc(t->n, sizeof *host);
    if (host == NULL)
        return msa_err_nomem(err, t->name);
    for (int64_t i = 0; i < t->n; i++)
        host[i] = msa_elem_get(t->data, msa_weights_dtype(t), i);
    int64_t bytes = t->n * (int64_t)sizeof *host;
    msa_rc rc = msa_kern_alloc(m->kern, bytes, MSA_MEM_DEVICE, &p, err);
    if (rc >= 0) {
        *out = p;
        m->weight_bytes += bytes;
        rc = msa_kern_copy(m->kern, NULL, p, host, bytes, err);
    }
    free(host);
    return rc < 0 ? msa_err_prefix(err, rc, "tensor %s", t->name) : MSA_OK;
}

static msa_rc pack_layer(msa_model *m, const msa_layer_weights *w, msa_layer *l, msa_err *err)
{
    msa_rc rc = load_gamma(m, w->attn_norm, &l->attn_norm, err);
    if (rc >= 0)
        rc = load_gamma(m, w->mlp_norm, &l->mlp_norm, err);
    if (rc >= 0)
        rc = load_gamma(m, w->q_norm, &l->q_norm, err);
    if (rc >= 0)
        rc = load_gamma(m, w->k_norm, &l->k_norm, err);
    if (rc >= 0)
        rc = pack(m, (const msa_st_tensor *const[]){w->q, w->k, w->v}, 3, &l->qkv, err);
    if (rc >= 0)
        rc = pack_one(m, w->o, &l->o, err);
    if (rc >= 0)
        rc = pack(m, (const msa_st_tensor *const[]){w->gate, w->up}, 2, &l->gate_up, err);
    if (rc >= 0)
        rc = pack_one(m, w->down, &l->down, err);
    if (rc >= 0)
        rc = pack_one(m, w->router_q, &l->router_q, err);
    return rc < 0 ? rc : pack_one(m, w->router_k, &l->router_k, err);
}

static msa_rc pack_all(msa_model *m, const msa_weights *w, msa_err *err)
{
    const msa_config *c = &m->config;
    m->layers = msa_calloc(c->n_layers, sizeof *m->layers);
    if (m->layers == NULL)
        return msa_err_nomem(err, "layers");
    for (int64_t i = 0; i < c->n_layers; i++)
        m->layers[i].router = -1;
    for (int64_t i = 0; i < c->n_router; i++)
        m->layers[c->router_layers[i]].router = i;
    msa_rc rc = pack_one(m, w->embed, &m->embed, err);
    if (rc >= 0 && w->output != w->embed)
        rc = pack_one(m, w->output, &m->output, err);
    else
        m->output = m->embed;
    if (rc >= 0)
        rc = load_gamma(m, w->final_norm, &m->final_norm, err);
    for (int64_t i = 0; i < c->n_layers && rc >= 0; i++)
        rc = pack_layer(m, &w->layers[i], &m->layers[i], err);
    return rc;
}

/* ---- opening and closing --------------------------------------------------------- */

static msa_rc open_backend(const msa_model_opts *o, msa_kern **out, msa_err *err)
{
    const char *name = o->backend != NULL ? o->backend : "auto";
    msa_kern_opts k = {o->compute_auto ? MSA_BF16 : o->compute, o->n_threads, o->device_bytes};
    msa_kern_info info;
    msa_rc rc = msa_kern_open(name, &k, out, err);
    if (rc < 0 || !o->compute_auto)
        return rc;
    /* opening a device takes long: what it most likely has was tried first */
    msa_kern_info_get(*out, &info);
    if (info.native_bf16)
        return rc;
    msa_kern_close(*out);
    *out = NULL;
    k.act = MSA_F32;
    return msa_kern_open(name, &k, out, err);
}

static msa_rc open_model(const char *dir, const msa_model_opts *opts, bool bare, msa_model **out, msa_err *err)
{
    static const msa_model_opts defaults = {.compute_auto = true};
    const msa_model_opts *o = opts != NULL ? opts : &defaults;
    msa_model *m = msa_calloc(1, sizeof *m);
    folder f = {0};
    if (m == NULL)
        return msa_err_nomem(err, "a model");
    msa_rc rc = read_folder(dir, bare, o->n_threads, m, &f, err);
    if (rc >= 0)
        rc = open_backend(o, &m->kern, err);
    if (rc >= 0) {
        rc = pack_all(m, &f.w, err);
        if (rc < 0)
            rc = msa_err_prefix(err, rc, "model %s", dir);
    }
    folder_close(&f);
    if (rc < 0)
        msa_model_close(m);
    else
        *out = m;
    return rc;
}

msa_rc msa_model_open(const char *dir, const msa_model_opts *opts, msa_model **out, msa_err *err)
{
    return open_model(dir, opts, false, out, err);
}

msa_rc msa_model_open_bare(const char *dir, const msa_model_opts *opts, msa_model **out, msa_err *err)
{
    return open_model(dir, opts, true, out, err);
}

static void close_layer(msa_kern *k, msa_layer *l)
{
    msa_kern_weight_free(k, l->router_k);
    msa_kern_weight_free(k, l->router_q);
    msa_kern_weight_free(k, l->down);
    msa_kern_weight_free(k, l->gate_up);
    msa_kern_weight_free(k, l->o);
    msa_kern_weight_free(k, l->qkv);
    msa_kern_free(k, l->k_norm, MSA_MEM_DEVICE);
    msa_kern_free(k, l->q_norm, MSA_MEM_DEVICE);
    msa_kern_free(k, l->mlp_norm, MSA_MEM_DEVICE);
    msa_kern_free(k, l->attn_norm, MSA_MEM_DEVICE);
}

void msa_model_close(msa_model *m)
{
    if (m == NULL)
        return;
    if (m->kern != NULL) {
        for (int64_t i = 0; m->layers != NULL && i < m->config.n_layers; i++)
            close_layer(m->kern, &m->layers[i]);
        msa_kern_free(m->kern, m->final_norm, MSA_MEM_DEVICE);
        if (m->output != m->embed)
            msa_kern_weight_free(m->kern, m->output);
        msa_kern_weight_free(m->kern, m->embed);
        msa_kern_close(m->kern);
    }
    free(m->layers);
    msa_tokenizer_free(m->tokenizer);
    msa_protocol_free(&m->protocol);
    free(m->name);
    free(m);
}

const msa_config *msa_model_config(const msa_model *m) { return &m->config; }
const msa_protocol *msa_model_protocol(const msa_model *m) { return &m->protocol; }
const msa_tokenizer *msa_model_tokenizer(const msa_model *m) { return m->tokenizer; }
const char *msa_model_name(const msa_model *m) { return m->name; }
const char *msa_model_fingerprint(const msa_model *m) { return m->fingerprint; }
msa_kern *msa_model_kern(msa_model *m) { return m->kern; }
int64_t msa_model_weight_bytes(const msa_model *m) { return m->weight_bytes; }
