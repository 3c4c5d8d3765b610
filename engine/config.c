#include "engine/config.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

#define CONFIG_MAX (16 << 20)
#define N(a) ((int64_t)(sizeof(a) / sizeof((a)[0])))

/* ---- values -------------------------------------------------------------------- */

static msa_rc bad(msa_err *err, const char *key, const char *what)
{
    return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "%s: %s", key, what);
}

/* A key that is absent or null counts as not there. */
static const json_t *get(const json_t *j, const char *key)
{
    const json_t *v = json_object_get(j, key);
    return json_is_null(v) ? NULL : v;
}

static msa_rc integer(const json_t *j, const char *key, int64_t lo, int64_t hi, int64_t *out,
                      msa_err *err)
{
    const json_t *v = get(j, key);
    if (v == NULL)
        return bad(err, key, "missing");
    if (!json_is_integer(v) || json_integer_value(v) < lo || json_integer_value(v) > hi)
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "%s: not a whole number from %lld to %lld",
                           key, (long long)lo, (long long)hi);
    *out = json_integer_value(v);
    return MSA_OK;
}

static msa_rc number(const json_t *j, const char *key, double lo, double hi, double *out, msa_err *err)
{
    const json_t *v = get(j, key);
    double x = json_number_value(v);
    if (v == NULL)
        return bad(err, key, "missing");
    if (!json_is_number(v) || !(x >= lo && x <= hi))
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "%s: not a number from %g to %g", key, lo, hi);
    *out = x;
    return MSA_OK;
}

static msa_rc boolean(const json_t *j, const char *key, bool *out, msa_err *err)
{
    const json_t *v = get(j, key);
    if (v == NULL)
        return bad(err, key, "missing");
    if (!json_is_boolean(v))
        return bad(err, key, "neither true nor false");
    *out = json_is_true(v);
    return MSA_OK;
}

/* The place of a string value among the names of which the program does all. */
static msa_rc choice(const json_t *j, const char *key, const char *const *names, int64_t n, int *out,
                     msa_err *err)
{
    const json_t *v = get(j, key);
    const char *s = json_string_value(v);
    if (v == NULL)
        return bad(err, key, "missing");
    for (int64_t i = 0; s != NULL && i < n; i++)
        if (strcmp(s, names[i]) == 0) {
            *out = (int)i;
            return MSA_OK;
        }
    return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "%s: %s is not supported", key,
                       s != NULL ? s : "what is no string");
}

/* Keys that may stand there with one value only. */
static msa_rc only(const json_t *j, const char *key, bool same, msa_err *err)
{
    return get(j, key) == NULL || same ? MSA_OK : bad(err, key, "this value is not supported");
}

static bool is_string(const json_t *j, const char *key, const char *s)
{
    const char *v = json_string_value(get(j, key));
    return v != NULL && strcmp(v, s) == 0;
}

static bool is_false(const json_t *j, const char *key) { return json_is_false(get(j, key)); }

/* ---- the decoder ------------------------------------------------------------------ */

/* Everything that would change what the decoder computes. */
static msa_rc check_options(const json_t *j, msa_err *err)
{
    static const char *const off[] = {"attention_bias", "mlp_bias", "use_sliding_window",
                                      "rope_interleaved"};
    msa_rc rc = only(j, "hidden_act", is_string(j, "hidden_act", "silu"), err);
    for (int64_t i = 0; i < N(off) && rc >= 0; i++)
        rc = only(j, off[i], is_false(j, off[i]), err);
    if (rc >= 0)
        rc = only(j, "quantization_config", false, err);
    if (rc >= 0)
        rc = only(j, "partial_rotary_factor",
                  json_number_value(get(j, "partial_rotary_factor")) == 1, err);
    const json_t *types = get(j, "layer_types");
    for (size_t i = 0; i < json_array_size(types) && rc >= 0; i++) {
        const char *s = json_string_value(json_array_get(types, i));
        if (s == NULL || strcmp(s, "full_attention") != 0)
            rc = bad(err, "layer_types", "only full_attention is supported");
    }
    return rc;
}

/* rope_theta stands at the top or, in newer files, under rope_parameters. */
static msa_rc read_rope(const json_t *j, msa_config *c, msa_err *err)
{
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    const json_t *theta = j;
    for (int64_t i = 0; i < N(keys); i++) {
        const json_t *r = get(j, keys[i]);
        const char *type_key = get(r, "rope_type") != NULL ? "rope_type" : "type";
        if (r != NULL && !json_is_object(r))
            return bad(err, keys[i], "not an object");
        if (get(r, type_key) != NULL && !is_string(r, type_key, "default"))
            return bad(err, keys[i], "only the default rotation is supported");
        if (r != NULL && i == 0 && get(r, type_key) == NULL)
            return bad(err, keys[i], "a rotation without rope_type");
        if (only(r, "partial_rotary_factor",
                 json_number_value(get(r, "partial_rotary_factor")) == 1, err) < 0)
            return MSA_FAILED;
        if (get(r, "rope_theta") != NULL)
            theta = r;
    }
    return number(theta, "rope_theta", 1, 1e15, &c->rope_theta, err);
}

static msa_rc read_decoder(const json_t *j, msa_config *c, msa_err *err)
{
    static const char *const types[] = {"qwen3", "llama", "msa"};
    int type;
    double eps;
    msa_rc rc = choice(j, "model_type", types, N(types), &type, err);
    if (rc >= 0)
        rc = check_options(j, err);
    if (rc >= 0)
        rc = integer(j, "num_hidden_layers", 1, N(c->router_layers), &c->n_layers, err);
    if (rc >= 0)
        rc = integer(j, "hidden_size", 1, 1 << 20, &c->E, err);
    if (rc >= 0)
        rc = integer(j, "num_attention_heads", 1, 1 << 12, &c->H, err);
    if (rc >= 0 && get(j, "num_key_value_heads") == NULL)
        c->G = c->H;
    else if (rc >= 0)
        rc = integer(j, "num_key_value_heads", 1, c->H, &c->G, err);
    if (rc >= 0 && c->H % c->G != 0)
        rc = bad(err, "num_key_value_heads", "does not divide num_attention_heads");
    if (rc >= 0 && get(j, "head_dim") != NULL)
        rc = integer(j, "head_dim", 2, 1 << 12, &c->D, err);
    else if (rc >= 0 && c->E % c->H != 0)
        rc = bad(err, "num_attention_heads", "does not divide hidden_size, and head_dim is missing");
    else if (rc >= 0)
        c->D = c->E / c->H;
    if (rc >= 0 && (c->D < 2 || c->D % 2 != 0))
        rc = bad(err, "head_dim", "odd, so that its halves cannot be rotated");
    if (rc >= 0)
        rc = integer(j, "intermediate_size", 1, 1 << 22, &c->I, err);
    if (rc >= 0)
        rc = integer(j, "vocab_size", 1, 1 << 26, &c->V, err);
    if (rc >= 0)
        rc = integer(j, "max_position_embeddings", 1, INT32_MAX, &c->max_positions, err);
    if (rc >= 0)
        rc = number(j, "rms_norm_eps", 0, 1, &eps, err);
    if (rc < 0)
        return rc;
    c->rms_eps = (float)eps;
    if (get(j, "tie_word_embeddings") != NULL)
        rc = boolean(j, "tie_word_embeddings", &c->tied, err);
    return rc < 0 ? rc : read_rope(j, c, err);
}

/* ---- msa_config --------------------------------------------------------------------- */

static int rising(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* "all", "18,19,35", or a list of numbers. */
static msa_rc read_router_layers(const json_t *m, msa_config *c, msa_err *err)
{
    static const char key[] = "msa_config.router_layer_idx";
    const json_t *v = get(m, "router_layer_idx");
    const char *s = json_string_value(v);
    c->n_router = 0;
    if (v == NULL)
        return bad(err, key, "missing");
    if (s != NULL && strcmp(s, "all") == 0) {
        for (; c->n_router < c->n_layers; c->n_router++)
            c->router_layers[c->n_router] = c->n_router;
        return MSA_OK;
    }
    if (s == NULL && !json_is_array(v))
        return bad(err, key, "neither \"all\" nor a list of layers");
    for (size_t i = 0; s != NULL ? *s != '\0' : i < json_array_size(v); i++) {
        int64_t layer = -1;
        if (s != NULL) {
            char *end;
            long n = strtol(s, &end, 10);
            if (end > s && ((*end == ',' && end[1] != '\0') || *end == '\0'))
                layer = n;
            s = *end == ',' ? end + 1 : end;
        } else if (json_is_integer(json_array_get(v, i))) {
            layer = json_integer_value(json_array_get(v, i));
        }
        if (layer < 0 || layer >= c->n_layers)
            return bad(err, key, "not a list of this model's layers");
        if (c->n_router == c->n_layers)
            return bad(err, key, "a layer stands there twice");
        c->router_layers[c->n_router++] = layer;
    }
    qsort(c->router_layers, (size_t)c->n_router, sizeof c->router_layers[0], rising);
    for (int64_t i = 1; i < c->n_router; i++)
        if (c->router_layers[i] == c->router_layers[i - 1])
            return bad(err, key, "a layer stands there twice");
    return c->n_router > 0 ? MSA_OK : bad(err, key, "names no layer");
}

static msa_rc reduction(const json_t *m, const char *key, const char *const *names, int64_t n,
                        msa_reduce *out, msa_err *err)
{
    static const msa_reduce all[] = {MSA_REDUCE_MEAN, MSA_REDUCE_MAX, MSA_REDUCE_LAST};
    int i;
    msa_rc rc = choice(m, key, names, n, &i, err);
    if (rc >= 0)
        *out = all[i];
    return rc;
}

static msa_rc read_msa(const json_t *j, msa_config *c, msa_err *err)
{
    static const char *const methods[] = {"mean", "max", "last"};
    const json_t *m = get(j, "msa_config"), *loss = get(m, "aux_loss_method");
    if (m == NULL)
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG,
                           "no msa_config: an ordinary language model, without the router layers of "
                           "Memory Sparse Attention");
    if (!json_is_object(m))
        return bad(err, "msa_config", "not an object");
    msa_rc rc = read_router_layers(m, c, err);
    if (rc < 0)
        return rc;
    rc = integer(m, "pooling_kernel_size", 1, 1 << 16, &c->P, err);
    if (rc >= 0)
        rc = integer(m, "top_k_docs", 1, 1 << 16, &c->top_k, err);
    if (rc >= 0)
        rc = boolean(m, "decouple_router", &c->decoupled, err);
    if (rc >= 0 && !json_is_string(loss))
        rc = bad(err, "aux_loss_method", loss == NULL ? "missing" : "not a string");
    if (rc >= 0)
        rc = reduction(m, "head_reduce_method", methods, 2, &c->route.head, err);
    if (rc >= 0)
        rc = reduction(m, "query_reduce_method", methods, 3, &c->route.query, err);
    if (rc >= 0)
        rc = reduction(m, "chunk_reduce_method", methods, 2, &c->route.chunk, err);
    if (rc >= 0)
        rc = only(m, "decouple_pooling_mode", is_string(m, "decouple_pooling_mode", "mean"), err);
    if (rc < 0)
        return msa_err_prefix(err, rc, "msa_config");
    c->route.h = (msa_kern_heads){c->H, c->G, c->D};
    c->route.unit = strcmp(json_string_value(loss), "INFONCE") == 0;
    c->route.scale = c->route.unit && c->decoupled ? 1.0f : (float)(1 / sqrt((double)c->D));
    return MSA_OK;
}

/* ---- files ------------------------------------------------------------------------- */

/* A JSON object of a file; *out stays NULL, with MSA_END, when it is not there. */
static msa_rc load(const char *path, json_t **out, msa_err *err)
{
    char *text = NULL;
    int64_t n;
    json_error_t je;
    if (!msa_file_exists(path))
        return MSA_END;
    msa_rc rc = msa_file_read(path, CONFIG_MAX, &text, &n, err);
    if (rc < 0)
        return rc;
    *out = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &je);
    free(text);
    if (*out == NULL)
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "line %d: %s", je.line, je.text);
    if (!json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "not a JSON object");
    }
    return MSA_OK;
}

/* eos_token_id: one id, or a list of them. */
static msa_rc read_eos(const json_t *j, int64_t vocab, int32_t eos[MSA_EOS_MAX], int64_t *n_eos,
                       msa_err *err)
{
    const json_t *v = get(j, "eos_token_id");
    size_t n = json_is_array(v) ? json_array_size(v) : v != NULL;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(v) ? json_array_get(v, i) : v;
        int64_t k = 0;
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocab)
            return bad(err, "eos_token_id", "not an id of the vocabulary");
        while (k < *n_eos && eos[k] != json_integer_value(id))
            k++;
        if (k == MSA_EOS_MAX)
            return bad(err, "eos_token_id", "too many ids");
        eos[k] = (int32_t)json_integer_value(id);
        *n_eos += k == *n_eos;
    }
    return MSA_OK;
}

msa_rc msa_config_read(const char *dir, msa_config *out, int32_t eos[MSA_EOS_MAX], int64_t *n_eos,
                       msa_err *err)
{
    msa_config c = {0};
    json_t *j = NULL, *generation = NULL;
    char *path = msa_file_join(dir, "config.json"), *more = msa_file_join(dir, "generation_config.json");
    *n_eos = 0;
    if (path == NULL || more == NULL) {
        free(path);
        free(more);
        return msa_err_nomem(err, "a file name");
    }
    msa_rc rc = load(path, &j, err);
    if (rc == MSA_END)
        rc = msa_err_set(err, MSA_FAILED, MSA_E_NOINPUT, "there is no such file");
    if (rc >= 0)
        rc = read_decoder(j, &c, err);
    if (rc >= 0)
        rc = read_msa(j, &c, err);
    if (rc >= 0)
        rc = read_eos(j, c.V, eos, n_eos, err);
    if (rc < 0) {
        rc = msa_err_prefix(err, rc, "%s", path);
        goto done;
    }
    rc = load(more, &generation, err);
    if (rc == MSA_OK)
        rc = read_eos(generation, c.V, eos, n_eos, err);
    if (rc < 0)
        rc = msa_err_prefix(err, rc, "%s", more);
    else
        *out = c;
done:
    json_decref(generation);
    json_decref(j);
    free(more);
    free(path);
    return rc < 0 ? rc : MSA_OK;
}
