#include "models/gguf_convert.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/safetensors.h"
#include "kernels/dtype.h"

#define N(a) ((int64_t)(sizeof(a) / sizeof((a)[0])))
#define LAYERS_MAX 256

typedef struct shape {
    int64_t layers, E, H, G, D, I, V, positions;
    double eps, theta;
    int64_t bos, eos;  /* -1: none */
    bool tied;
} shape;

static msa_rc refuse(msa_err *err, const char *key, const char *what)
{
    return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "%s: %s", key, what);
}

static msa_rc write_json(const char *dir, const char *name, const json_t *j, size_t flags, msa_err *err)
{
    char *path = msa_file_join(dir, name), *text = j != NULL ? json_dumps(j, flags) : NULL;
    msa_rc rc = path == NULL || text == NULL ? msa_err_nomem(err, name)
                                             : msa_file_replace(path, text, (int64_t)strlen(text), err);
    free(text);
    free(path);
    return rc;
}

/* ---- config ------------------------------------------------------------------------- */

static msa_rc count(const msa_gguf *g, const char *key, int64_t hi, int64_t *out, msa_err *err)
{
    if (!msa_gguf_int(g, key, out) || *out < 1 || *out > hi)
        return refuse(err, key, "missing or out of range");
    return MSA_OK;
}

static bool is_text(const msa_gguf *g, const char *key, const char *s)
{
    msa_gguf_text t;
    return msa_gguf_string(g, key, &t) && t.n == (int64_t)strlen(s) && memcmp(t.s, s, (size_t)t.n) == 0;
}

/* The shortest decimal number that is this float: 1e-05, not 9.99999975e-06. */
static double shortest(double x)
{
    char s[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, x);
        if (strtof(s, NULL) == (float)x)
            break;
    }
    return strtod(s, NULL);
}

static msa_rc read_shape(const msa_gguf *g, shape *s, msa_err *err)
{
    static const char dims[] = "llama.rope.dimension_count";
    msa_gguf_text scaling;
    int64_t rotated;
    if (!is_text(g, "general.architecture", "llama"))
        return refuse(err, "general.architecture", "only llama is supported");
    if (msa_gguf_string(g, "llama.rope.scaling.type", &scaling) && !is_text(g, "llama.rope.scaling.type", "none"))
        return refuse(err, "llama.rope.scaling.type", "only none is supported");
    msa_rc rc = count(g, "llama.block_count", LAYERS_MAX, &s->layers, err);
    if (rc >= 0)
        rc = count(g, "llama.embedding_length", 1 << 20, &s->E, err);
    if (rc >= 0)
        rc = count(g, "llama.feed_forward_length", 1 << 22, &s->I, err);
    if (rc >= 0)
        rc = count(g, "llama.attention.head_count", 1 << 12, &s->H, err);
    if (rc >= 0)
        rc = count(g, "llama.attention.head_count_kv", s->H, &s->G, err);
    if (rc >= 0)
        rc = count(g, "llama.context_length", INT32_MAX, &s->positions, err);
    if (rc < 0)
        return rc;
    s->D = s->E / s->H;
    if (s->D < 2 || s->D % 2 != 0 || s->D * s->H != s->E)
        return refuse(err, "llama.attention.head_count", "does not cut embedding_length into even heads");
    if (msa_gguf_int(g, dims, &rotated) && rotated != s->D)
        return refuse(err, dims, "not the head dimension");
    if (!msa_gguf_number(g, "llama.attention.layer_norm_rms_epsilon", &s->eps))
        return refuse(err, "llama.attention.layer_norm_rms_epsilon", "missing");
    if (!msa_gguf_number(g, "llama.rope.freq_base", &s->theta))
        return refuse(err, "llama.rope.freq_base", "missing");
    const msa_gguf_tensor *embed = msa_gguf_find(g, "token_embd.weight");
    if (embed == NULL || embed->n_dims != 2)
        return refuse(err, "token_embd.weight", "missing or no matrix");
    s->V = embed->dim[1];
    s->tied = msa_gguf_find(g, "output.weight") == NULL;
    if (!msa_gguf_int(g, "tokenizer.ggml.bos_token_id", &s->bos))
        s->bos = -1;
    if (!msa_gguf_int(g, "tokenizer.ggml.eos_token_id", &s->eos))
        s->eos = -1;
    return MSA_OK;
}

static msa_rc write_config(const shape *s, const char *dir, const char *msa_config, msa_err *err)
{
    json_error_t je;
    json_t *msa = json_loads(msa_config, JSON_REJECT_DUPLICATES, &je);
    if (msa == NULL)
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "msa_config: line %d: %s", je.line, je.text);
    json_t *j = json_pack(
        "{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:b, s:b, s:b, s:s, s:s, s:o}",
        "architectures", "LlamaForCausalLM", "model_type", "llama", "vocab_size", (json_int_t)s->V,
        "hidden_size", (json_int_t)s->E, "intermediate_size", (json_int_t)s->I, "num_hidden_layers",
        (json_int_t)s->layers, "num_attention_heads", (json_int_t)s->H, "num_key_value_heads",
        (json_int_t)s->G, "head_dim", (json_int_t)s->D, "max_position_embeddings",
        (json_int_t)s->positions, "rms_norm_eps", shortest(s->eps), "rope_theta", shortest(s->theta),
        "tie_word_embeddings", s->tied, "attention_bias", 0, "mlp_bias", 0, "hidden_act", "silu",
        "torch_dtype", "float32", "msa_config", msa);
    json_t *generation = json_object();
    if (s->bos >= 0)
        json_object_set_new(generation, "bos_token_id", json_integer(s->bos));
    if (s->eos >= 0)
        json_object_set_new(generation, "eos_token_id", json_integer(s->eos));
    json_object_update(j, generation);
    msa_rc rc = write_json(dir, "config.json", j, JSON_INDENT(1) | JSON_REAL_PRECISION(15), err);
    if (rc >= 0)
        rc = write_json(dir, "generation_config.json", generation, JSON_INDENT(1), err);
    json_decref(generation);
    json_decref(j);
    return rc;
}

/* ---- tokenizer ------------------------------------------------------------------------ */

/* Digits one by one, then GPT-2's pattern; byte-level. */
static const char tokenizer_frame[] =
    "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [],"
    " \"normalizer\": null,"
    " \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": ["
    "  {\"type\": \"Digits\", \"individual_digits\": true},"
    "  {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}]},"
    " \"post_processor\": null,"
    " \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true,"
    "  \"use_regex\": true},"
    " \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null,"
    "  \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": false,"
    "  \"byte_fallback\": false, \"ignore_merges\": false, \"vocab\": {}, \"merges\": []}}";

enum { TOKEN_NORMAL = 1, TOKEN_CONTROL = 3 };

static msa_rc add_vocab(const msa_gguf *g, json_t *frame, msa_err *err)
{
    static const char key[] = "tokenizer.ggml.tokens", types_key[] = "tokenizer.ggml.token_type";
    json_t *vocab = json_object_get(json_object_get(frame, "model"), "vocab");
    json_t *added = json_object_get(frame, "added_tokens");
    msa_gguf_text *tokens = NULL;
    int64_t *types = NULL, n = 0, n_types = 0;
    msa_rc rc = msa_gguf_strings(g, key, &tokens, &n, err);
    if (rc >= 0)
        rc = msa_gguf_ints(g, types_key, &types, &n_types, err);
    if (rc >= 0 && (tokens == NULL || types == NULL || n != n_types))
        rc = refuse(err, key, "missing, or not of one length with token_type");
    for (int64_t i = 0; i < n && rc >= 0; i++) {
        json_t *content = json_stringn(tokens[i].s, (size_t)tokens[i].n);
        if (content == NULL || strlen(json_string_value(content)) != (size_t)tokens[i].n)
            rc = refuse(err, key, "a token is no UTF-8 text");
        else if (json_object_get(vocab, json_string_value(content)) != NULL)
            rc = refuse(err, key, "a token stands there twice");
        else if (types[i] != TOKEN_NORMAL && types[i] != TOKEN_CONTROL)
            rc = refuse(err, types_key, "a token that is neither normal nor control");
        else if (json_object_set_new(vocab, json_string_value(content), json_integer(i)) < 0)
            rc = msa_err_nomem(err, key);
        else if (types[i] == TOKEN_CONTROL &&
                 json_array_append_new(added, json_pack("{s:I, s:O, s:b, s:b, s:b, s:b, s:b}", "id",
                                                        (json_int_t)i, "content", content, "single_word", 0,
                                                        "lstrip", 0, "rstrip", 0, "normalized", 0,
                                                        "special", 1)) < 0)
            rc = msa_err_nomem(err, key);
        json_decref(content);
    }
    free(tokens);
    free(types);
    return rc < 0 ? rc : MSA_OK;
}

/* "a b" becomes ["a", "b"]. */
static msa_rc add_merges(const msa_gguf *g, json_t *frame, msa_err *err)
{
    static const char key[] = "tokenizer.ggml.merges";
    json_t *merges = json_object_get(json_object_get(frame, "model"), "merges");
    msa_gguf_text *m = NULL;
    int64_t n = 0;
    msa_rc rc = msa_gguf_strings(g, key, &m, &n, err);
    if (rc >= 0 && m == NULL)
        rc = refuse(err, key, "missing");
    for (int64_t i = 0; i < n && rc >= 0; i++) {
        const char *space = memchr(m[i].s, ' ', (size_t)m[i].n), *end = m[i].s + m[i].n;
        if (space == NULL || memchr(space + 1, ' ', (size_t)(end - space - 1)) != NULL)
            rc = refuse(err, key, "an entry is no pair");
        else if (json_array_append_new(merges, json_pack("[o, o]", json_stringn(m[i].s, (size_t)(space - m[i].s)),
                                                         json_stringn(space + 1, (size_t)(end - space - 1)))) < 0)
            rc = refuse(err, key, "an entry is no UTF-8 text");
    }
    free(m);
    return rc < 0 ? rc : MSA_OK;
}

static msa_rc write_tokenizer(const msa_gguf *g, const char *dir, msa_err *err)
{
    if (!is_text(g, "tokenizer.ggml.model", "gpt2") || !is_text(g, "tokenizer.ggml.pre", "smollm"))
        return refuse(err, "tokenizer.ggml.pre", "only the smollm kind of byte-level BPE is supported");
    json_t *frame = json_loads(tokenizer_frame, 0, NULL);
    msa_rc rc = frame != NULL ? add_vocab(g, frame, err) : msa_err_nomem(err, "tokenizer.json");
    if (rc >= 0)
        rc = add_merges(g, frame, err);
    if (rc >= 0)
        rc = write_json(dir, "tokenizer.json", frame, JSON_COMPACT, err);
    json_decref(frame);
    return rc;
}

/* ---- weights -------------------------------------------------------------------------- */

/* One tensor to write: its source, how many heads' rows are to be put back in
 * order (0: none), and the update B A that it gets (NULL: none); or one of the
 * adapter's, which stays as it is. */
typedef struct piece {
    const msa_gguf_tensor *from;
    int64_t heads;
    const msa_st_tensor *a, *b;
    const void *trained;
} piece;

typedef struct weights {
    const shape *s;
    const msa_safetensors *adapter; /* NULL: none */
    bool updated;      /* it has updates: matrices are written as BF16 */
    msa_st_tensor *t;  /* [n], names owned */
    piece *piece;      /* [n] */
    int64_t n;
    float *out, *raw;  /* the tensor being written; before reordering */
} weights;

static const char part_a[] = ".lora_A.weight", part_b[] = ".lora_B.weight";

static const char *const outer_names[][2] = {{"token_embd.weight", "model.embed_tokens.weight"},
                                             {"output_norm.weight", "model.norm.weight"},
                                             {"output.weight", "lm_head.weight"}};
static const char *const layer_names[][2] = {{"attn_norm", "input_layernorm"},
                                             {"ffn_norm", "post_attention_layernorm"},
                                             {"attn_q", "self_attn.q_proj"},
                                             {"attn_k", "self_attn.k_proj"},
                                             {"attn_v", "self_attn.v_proj"},
                                             {"attn_output", "self_attn.o_proj"},
                                             {"ffn_gate", "mlp.gate_proj"},
                                             {"ffn_up", "mlp.up_proj"},
                                             {"ffn_down", "mlp.down_proj"}};

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* The adapter's A or B of the matrix st (named NAME.weight), which is to be
 * [rows, cols]; -1: any number. NULL in *out: there is none. */
static msa_rc find_update(const weights *w, const msa_st_tensor *st, const char *part, int64_t rows, int64_t cols,
                          const msa_st_tensor **out, msa_err *err)
{
    char name[192];
    snprintf(name, sizeof name, "%.*s%s", (int)(strlen(st->name) - strlen(".weight")), st->name, part);
    const msa_st_tensor *t = w->adapter != NULL ? msa_safetensors_find(w->adapter, name) : NULL;
    *out = t;
    if (t == NULL)
        return MSA_OK;
    if (t->dtype != MSA_ST_F32 && t->dtype != MSA_ST_F16 && t->dtype != MSA_ST_BF16)
        return refuse(err, name, "weights of an integer type");
    if (t->n_dims != 2 || (rows >= 0 && t->shape[0] != rows) || (cols >= 0 && t->shape[1] != cols))
        return refuse(err, name, "not the shape of an update of its matrix");
    return MSA_OK;
}

static msa_rc add_tensor(const msa_gguf *g, weights *w, const char *from, char *to, int64_t heads, msa_err *err)
{
    const msa_gguf_tensor *t = msa_gguf_find(g, from);
    if (to == NULL)
        return msa_err_nomem(err, "tensor names");
    msa_st_tensor *st = &w->t[w->n];
    st->name = to;
    piece *p = &w->piece[w->n++];
    *p = (piece){.from = t, .heads = heads};
    if (t == NULL)
        return refuse(err, from, "missing");
    st->dtype = w->updated && t->n_dims == 2 ? MSA_ST_BF16 : MSA_ST_F32;
    st->n_dims = t->n_dims;
    for (int d = 0; d < t->n_dims; d++)
        st->shape[d] = t->dim[t->n_dims - 1 - d];
    if (heads > 0 && (t->n_dims != 2 || t->dim[1] != heads * w->s->D))
        return refuse(err, from, "its rows are not those of its heads");
    if (t->n_dims != 2)
        return MSA_OK;
    msa_rc rc = find_update(w, st, part_a, -1, st->shape[1], &p->a, err);
    if (rc >= 0)
        rc = find_update(w, st, part_b, st->shape[0], p->a != NULL ? p->a->shape[0] : -1, &p->b, err);
    if (rc >= 0 && (p->a == NULL) != (p->b == NULL))
        rc = refuse(err, st->name, "one half of an update without the other");
    return rc;
}

static msa_rc list_tensors(const msa_gguf *g, weights *w, msa_err *err)
{
    const shape *s = w->s;
    msa_rc rc = MSA_OK;
    for (int64_t i = 0; i < N(outer_names) - s->tied && rc >= 0; i++)
        rc = add_tensor(g, w, outer_names[i][0], msa_strdup(outer_names[i][1]), 0, err);
    for (int64_t l = 0; l < s->layers && rc >= 0; l++)
        for (int64_t i = 0; i < N(layer_names) && rc >= 0; i++) {
            char from[64];
            const char *name = layer_names[i][0];
            int64_t heads = strcmp(name, "attn_q") == 0 ? s->H : strcmp(name, "attn_k") == 0 ? s->G : 0;
            snprintf(from, sizeof from, "blk.%lld.%s.weight", (long long)l, name);
            rc = add_tensor(g, w, from,
                            msa_sprintf("model.layers.%lld.%s.weight", (long long)l, layer_names[i][1]),
                            heads, err);
        }
    if (rc >= 0 && w->n != msa_gguf_n_tensors(g))
        rc = msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "%lld tensors where a Llama type has %lld",
                         (long long)msa_gguf_n_tensors(g), (long long)w->n);
    return rc;
}

static bool is_update(const msa_st_tensor *t)
{
    return ends_with(t->name, part_a) || ends_with(t->name, part_b);
}

/* Tensors that are no updates join as they are; every update must have found its matrix. */
static msa_rc list_adapter(weights *w, msa_err *err)
{
    int64_t used = 0, updates = 0;
    for (int64_t i = 0; i < w->n; i++)
        used += w->piece[i].a != NULL ? 2 : 0;
    for (int64_t i = 0; i < msa_safetensors_count(w->adapter); i++) {
        const msa_st_tensor *t = msa_safetensors_at(w->adapter, i);
        if (is_update(t)) {
            updates++;
            continue;
        }
        w->t[w->n] = *t;
        w->piece[w->n] = (piece){.trained = t->data};
        if ((w->t[w->n].name = msa_strdup(t->name)) == NULL)
            return msa_err_nomem(err, "tensor names");
        w->n++;
    }
    if (used != updates)
        return refuse(err, "adapter", "an update of a tensor that the model does not have");
    return MSA_OK;
}

/* GGUF keeps the rows of a q or k head as pairs that RoPE turns together; the
 * engine pairs the first half of a head with the second. */
static void reorder(const float *raw, float *out, int64_t heads, int64_t D, int64_t cols)
{
    for (int64_t h = 0; h < heads; h++)
        for (int64_t half = 0; half < 2; half++)
            for (int64_t j = 0; j < D / 2; j++)
                memcpy(out + (h * D + half * (D / 2) + j) * cols, raw + (h * D + 2 * j + half) * cols,
                       (size_t)cols * sizeof *out);
}

static float value_at(const msa_st_tensor *t, int64_t i)
{
    if (t->dtype == MSA_ST_F32)
        return ((const float *)t->data)[i];
    uint16_t h = ((const uint16_t *)t->data)[i];
    return t->dtype == MSA_ST_BF16 ? msa_bf16_to_f32(h) : msa_f16_to_f32(h);
}

/* out [rows, cols] += B [rows, rank] A [rank, cols]. a: A as floats. */
static void add_update(float *out, const msa_st_tensor *b, const float *a, int64_t rows, int64_t cols)
{
    const int64_t rank = b->shape[1];
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < rank; k++) {
            float x = value_at(b, r * rank + k);
            for (int64_t c = 0; c < cols; c++)
                out[r * cols + c] += x * a[k * cols + c];
        }
}

static msa_rc tensor_data(void *user, int64_t i, const void **data, msa_err *err)
{
    weights *w = user;
    const piece *p = &w->piece[i];
    if (p->trained != NULL) {
        *data = p->trained;
        return MSA_OK;
    }
    msa_rc rc = msa_gguf_floats(p->from, p->heads > 0 ? w->raw : w->out, err);
    if (rc >= 0 && p->heads > 0)
        reorder(w->raw, w->out, p->heads, w->s->D, p->from->dim[0]);
    if (rc >= 0 && p->a != NULL) {
        float *a = msa_alloc(p->a->n, sizeof *a);
        if (a == NULL)
            return msa_err_nomem(err, "an update");
        for (int64_t k = 0; k < p->a->n; k++)
            a[k] = value_at(p->a, k);
        add_update(w->out, p->b, a, p->from->dim[1], p->from->dim[0]);
        free(a);
    }
    *data = w->out;
    if (rc >= 0 && w->t[i].dtype == MSA_ST_BF16) {
        uint16_t *half = (uint16_t *)(void *)w->raw;
        for (int64_t k = 0; k < p->from->n; k++)
            half[k] = msa_f32_to_bf16(w->out[k]);
        *data = half;
    }
    return rc;
}

static msa_rc write_weights(const msa_gguf *g, const shape *s, const char *dir, const msa_safetensors *adapter,
                            msa_err *err)
{
    int64_t cap = N(outer_names) + s->layers * N(layer_names), largest = 0;
    cap += adapter != NULL ? msa_safetensors_count(adapter) : 0;
    weights w = {.s = s, .adapter = adapter, .t = msa_calloc(cap, sizeof *w.t),
                 .piece = msa_calloc(cap, sizeof *w.piece)};
    char *path = msa_file_join(dir, "model.safetensors");
    msa_rc rc = MSA_OK;
    if (w.t == NULL || w.piece == NULL || path == NULL)
        rc = msa_err_nomem(err, "a tensor table");
    for (int64_t i = 0; adapter != NULL && i < msa_safetensors_count(adapter); i++)
        w.updated = w.updated || is_update(msa_safetensors_at(adapter, i));
    if (rc >= 0)
        rc = list_tensors(g, &w, err);
    for (int64_t i = 0; i < w.n && rc >= 0; i++)
        if (w.piece[i].from->n > largest)
            largest = w.piece[i].from->n;
    if (rc >= 0 && adapter != NULL)
        rc = list_adapter(&w, err);
    if (rc >= 0) {
        w.out = msa_alloc(largest, sizeof *w.out);
        w.raw = msa_alloc(largest, sizeof *w.raw);
        rc = w.out == NULL || w.raw == NULL ? msa_err_nomem(err, "a tensor")
                                            : msa_safetensors_write(path, w.t, w.n, tensor_data, &w, err);
    }
    for (int64_t i = 0; i < w.n; i++)
        free((char *)w.t[i].name);
    free(w.raw);
    free(w.out);
    free(w.piece);
    free(w.t);
    free(path);
    return rc;
}

msa_rc msa_gguf_convert(const msa_gguf *g, const char *dir, const char *msa_config,
                        const msa_safetensors *adapter, msa_err *err)
{
    shape s = {0};
    msa_rc rc = read_shape(g, &s, err);
    if (rc >= 0)
        rc = write_config(&s, dir, msa_config, err);
    if (rc >= 0)
        rc = write_tokenizer(g, dir, err);
    return rc < 0 ? rc : write_weights(g, &s, dir, adapter, err);
}
