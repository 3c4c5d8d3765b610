/* Model folders: what opens, what it then holds, and what is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/model_internal.h"
#include "tests/support_checkpoint.h"

static const msa_model_opts ref_f32 = {.backend = "ref", .compute = MSA_F32, .n_threads = 1};

static int new_folder(void **state)
{
    *state = msa_test_folder_new();
    return 0;
}

static int free_folder(void **state)
{
    msa_test_folder_free(*state);
    return 0;
}

static msa_model *open_bare(const char *dir)
{
    msa_model *m = NULL;
    msa_err err;
    msa_err_init(&err);
    if (msa_model_open_bare(dir, &ref_f32, &m, &err) < 0)
        fail_msg("%s", err.msg);
    return m;
}

/* Opening must fail with that code and name every one of the words. */
static void refused(const char *dir, msa_code code, const char *word, const char *other)
{
    msa_model *m = NULL;
    msa_err err;
    msa_err_init(&err);
    assert_int_equal(msa_model_open_bare(dir, &ref_f32, &m, &err), MSA_FAILED);
    assert_null(m);
    if (err.code != code || strstr(err.msg, word) == NULL || strstr(err.msg, other) == NULL)
        fail_msg("code %d, not %d, or no \"%s\" and \"%s\" in: %s", (int)err.code, (int)code, word, other, err.msg);
}

/* ---- what a model holds -------------------------------------------------------- */

/* Row r of a packed matrix [N, K] must be row from of the named tensor: the
 * products with unit vectors give its elements back. */
static void check_row(msa_model *m, const msa_kern_weight *w, int64_t N, int64_t K, int64_t r,
                      const char *name, int64_t from)
{
    float *x = msa_calloc(K * K, sizeof *x), *y = msa_calloc(K * N, sizeof *y);
    msa_kern_shape shape = {.rows = K, .E = K, .I = N, .V = N, .H = 1, .G = 1, .D = 2};
    assert_non_null(x);
    assert_non_null(y);
    for (int64_t i = 0; i < K; i++)
        x[i * K + i] = 1;
    assert_int_equal(msa_kern_reserve(m->kern, &shape, false, NULL, NULL), MSA_OK);
    assert_int_equal(msa_kern_linear(m->kern, NULL, w, x, K, y, MSA_LINEAR_F32, NULL), MSA_OK);
    for (int64_t i = 0; i < K; i++)
        assert_true(y[i * N + r] == msa_test_value(name, from * K + i));
    free(x);
    free(y);
}

static void holds_its_weights(void **state)
{
    enum { E = MSA_TEST_E, Q = MSA_TEST_H * MSA_TEST_D, K = MSA_TEST_G * MSA_TEST_D, I = MSA_TEST_I,
           V = MSA_TEST_V };
    static const msa_st_dtype types[] = {MSA_ST_F32, MSA_ST_BF16, MSA_ST_F16};
    for (int i = 0; i < 3; i++) {
        msa_test_checkpoint(*state, &(msa_test_tensors_opts){.dtype = types[i]});
        msa_model *m = open_bare(*state);
        const msa_layer *l = &m->layers[1];
        check_row(m, m->embed, V, E, V - 1, "model.embed_tokens.weight", V - 1);
        check_row(m, m->output, V, E, 3, "lm_head.weight", 3);
        check_row(m, l->qkv, Q + 2 * K, E, 1, "model.layers.1.self_attn.q_proj.weight", 1);
        check_row(m, l->qkv, Q + 2 * K, E, Q + 1, "model.layers.1.self_attn.k_proj.weight", 1);
        check_row(m, l->qkv, Q + 2 * K, E, Q + K + 1, "model.layers.1.self_attn.v_proj.weight", 1);
        check_row(m, l->o, E, Q, 2, "model.layers.1.self_attn.o_proj.weight", 2);
        check_row(m, l->gate_up, 2 * I, E, 2, "model.layers.1.mlp.gate_proj.weight", 2);
        check_row(m, l->gate_up, 2 * I, E, I + 2, "model.layers.1.mlp.up_proj.weight", 2);
        check_row(m, l->down, E, I, 5, "model.layers.1.mlp.down_proj.weight", 5);
        check_row(m, l->router_q, Q, E, 4, "model.layers.1.self_attn.router_q_proj.0.weight", 4);
        check_row(m, l->router_k, K, E, 3, "model.layers.1.self_attn.router_k_proj.0.weight", 3);
        for (int e = 0; e < E; e++) {
            assert_true(m->final_norm[e] == msa_test_value("model.norm.weight", e));
            assert_true(l->attn_norm[e] == msa_test_value("model.layers.1.input_layernorm.weight", e));
            assert_true(l->mlp_norm[e] == msa_test_value("model.layers.1.post_attention_layernorm.weight", e));
        }
        for (int d = 0; d < MSA_TEST_D; d++) {
            assert_true(l->q_norm[d] == msa_test_value("model.layers.1.self_attn.q_norm.weight", d));
            assert_true(l->k_norm[d] == msa_test_value("model.layers.1.self_attn.k_norm.weight", d));
        }
        assert_int_equal(l->router, 0);
        assert_int_equal(m->layers[0].router, -1);
        assert_null(m->layers[0].router_q);
        assert_int_equal(m->n_eos, 1);
        assert_int_equal(m->eos_ids[0], 264);
        assert_true(msa_model_weight_bytes(m) > 0);
        msa_model_close(m);
    }
}

static void stacks_tensors_of_different_types(void **state)
{
    msa_test_tensors w;
    const char *name = "model.layers.0.self_attn.k_proj.weight";
    msa_test_checkpoint(*state, &(msa_test_tensors_opts){0});
    msa_test_tensors_new(&w, &(msa_test_tensors_opts){0});
    msa_test_tensor_drop(&w, name);
    msa_test_tensor_add(&w, name, MSA_ST_F16, MSA_TEST_G * MSA_TEST_D, MSA_TEST_E);
    msa_test_tensors_write(&w, 0, w.n, *state, "model.safetensors");
    msa_model *m = open_bare(*state);
    check_row(m, m->layers[0].qkv, 16, MSA_TEST_E, 9, name, 1);
    check_row(m, m->layers[0].qkv, 16, MSA_TEST_E, 13, "model.layers.0.self_attn.v_proj.weight", 1);
    msa_model_close(m);
    msa_test_tensors_free(&w);
}

static void kinds_of_models(void **state)
{
    msa_test_checkpoint(*state, &(msa_test_tensors_opts){.tied = true});
    msa_test_config(*state, "tie_word_embeddings", "true");
    msa_model *m = open_bare(*state);
    assert_ptr_equal(m->output, m->embed);
    assert_true(m->config.qk_norm);
    msa_model_close(m);

    msa_test_checkpoint(*state, &(msa_test_tensors_opts){.llama = true, .coupled = true});
    msa_test_config(*state, "msa_config.decouple_router", "false");
    m = open_bare(*state);
    assert_false(m->config.qk_norm);
    assert_null(m->layers[0].q_norm);
    assert_null(m->layers[1].router_k);
    assert_int_equal(m->layers[1].router, 0);
    msa_model_close(m);
}

static void routing_follows_the_options(void **state)
{
    static const struct {
        const char *golden;
        bool unit;
        float scale;
        msa_reduce head, query, chunk;
        int64_t P, top_k, first_router;
    } cases[] = {
        {"cosine", true, 1, MSA_REDUCE_MEAN, MSA_REDUCE_MAX, MSA_REDUCE_MAX, 8, 3, 2},
        {"dot", false, 0.17677669f, MSA_REDUCE_MEAN, MSA_REDUCE_MAX, MSA_REDUCE_MAX, 8, 3, 2},
        {"coupled", true, 0.17677669f, MSA_REDUCE_MAX, MSA_REDUCE_MAX, MSA_REDUCE_MAX, 8, 3, 1},
        {"mean", true, 1, MSA_REDUCE_MEAN, MSA_REDUCE_MEAN, MSA_REDUCE_MEAN, 4, 5, 2},
        {"last", true, 1, MSA_REDUCE_MEAN, MSA_REDUCE_LAST, MSA_REDUCE_MAX, 8, 3, 0}};
    (void)state;
    for (int i = 0; i < 5; i++) {
        char dir[64];
        snprintf(dir, sizeof dir, "tests/golden/%s", cases[i].golden);
        msa_model *m = open_bare(dir);
        const msa_config *c = msa_model_config(m);
        assert_int_equal(c->route.unit, cases[i].unit);
        assert_true(c->route.scale == cases[i].scale);
        assert_int_equal(c->route.head, cases[i].head);
        assert_int_equal(c->route.query, cases[i].query);
        assert_int_equal(c->route.chunk, cases[i].chunk);
        assert_int_equal(c->P, cases[i].P);
        assert_int_equal(c->top_k, cases[i].top_k);
        assert_int_equal(c->n_router, 2);
        assert_int_equal(c->router_layers[0], cases[i].first_router);
        assert_string_equal(msa_model_name(m), cases[i].golden);
        msa_model_close(m);
    }
}

static void shards_are_one_model(void **state)
{
    msa_test_tensors w;
    char one[65], *path = msa_file_join(*state, "model.safetensors");
    msa_test_checkpoint(*state, &(msa_test_tensors_opts){.dtype = MSA_ST_BF16});
    msa_model *m = open_bare(*state);
    strcpy(one, msa_model_fingerprint(m));
    msa_model_close(m);
    assert_int_equal(remove(path), 0);
    free(path);
    refused(*state, MSA_E_NOINPUT, "model.safetensors.index.json", "neither");

    msa_test_tensors_new(&w, &(msa_test_tensors_opts){.dtype = MSA_ST_BF16});
    msa_test_tensors_write(&w, 0, 5, *state, "a.safetensors");
    msa_test_tensors_write(&w, 5, w.n, *state, "b.safetensors");
    msa_buf b = {0};
    msa_buf_puts(&b, "{\"weight_map\": {");
    for (int64_t i = 0; i < w.n; i++)
        msa_buf_printf(&b, "%s\"%s\": \"%s.safetensors\"", i > 0 ? ", " : "", w.t[i].name, i < 5 ? "a" : "b");
    msa_buf_puts(&b, "}}");
    msa_test_text(*state, "model.safetensors.index.json", b.data);
    m = open_bare(*state);
    assert_string_equal(msa_model_fingerprint(m), one);
    msa_model_close(m);

    static const char *const bad[][3] = {
        {"{\"weight_map\": {\"x\": \"../a.safetensors\"}}", "../a.safetensors", "not a file beside"},
        {"{\"weight_map\": {\"x\": \"b.safetensors\"}}", "b.safetensors", "tensor x is missing"},
        {"{\"weight_map\": {\"x\": 1}}", "tensor x", "no file"},
        {"{\"weight\": {}}", "index.json", "no weight_map"},
        {"{\"weight_map\": ", "index.json", ""}};
    for (int i = 0; i < 5; i++) {
        msa_test_text(*state, "model.safetensors.index.json", bad[i][0]);
        refused(*state, MSA_E_DATA, bad[i][1], bad[i][2]);
    }
    msa_test_text(*state, "model.safetensors.index.json", "{\"weight_map\": {\"x\": \"c.safetensors\"}}");
    refused(*state, MSA_E_NOINPUT, "c.safetensors", "");
    msa_buf_free(&b);
    msa_test_tensors_free(&w);
}

/* ---- what is refused -------------------------------------------------------------- */

static void refuses_options_by_key(void **state)
{
    static const struct {
        const char *key, *json, *word;
    } cases[] = {
        {"model_type", "\"mixtral\"", "mixtral"},
        {"hidden_act", "\"gelu\"", "hidden_act"},
        {"attention_bias", "true", "attention_bias"},
        {"mlp_bias", "true", "mlp_bias"},
        {"use_sliding_window", "true", "use_sliding_window"},
        {"quantization_config", "{}", "quantization_config"},
        {"layer_types", "[\"full_attention\", \"sliding_attention\"]", "layer_types"},
        {"rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 4}", "rope_scaling"},
        {"rope_scaling", "{\"type\": \"linear\", \"factor\": 2}", "rope_scaling"},
        {"rope_scaling", "{\"factor\": 2}", "rope_scaling"},
        {"rope_parameters", "{\"rope_type\": \"llama3\", \"rope_theta\": 1e4}", "rope_parameters"},
        {"partial_rotary_factor", "0.5", "partial_rotary_factor"},
        {"rope_theta", NULL, "rope_theta: missing"},
        {"rope_theta", "-1", "rope_theta"},
        {"num_hidden_layers", "0", "num_hidden_layers"},
        {"num_hidden_layers", "257", "num_hidden_layers"},
        {"num_hidden_layers", "2.0", "num_hidden_layers"},
        {"hidden_size", "\"8\"", "hidden_size"},
        {"num_attention_heads", NULL, "num_attention_heads: missing"},
        {"num_key_value_heads", "3", "num_key_value_heads"},
        {"head_dim", "5", "head_dim"},
        {"vocab_size", "9223372036854775807", "vocab_size"},
        {"rms_norm_eps", "\"x\"", "rms_norm_eps"},
        {"tie_word_embeddings", "1", "tie_word_embeddings"},
        {"eos_token_id", "270", "eos_token_id"},
        {"eos_token_id", "[1, 2, 3, 4, 5, 6, 7, 8, 9]", "eos_token_id"},
        {"msa_config", NULL, "no msa_config: an ordinary language model"},
        {"msa_config", "[]", "msa_config: not an object"},
        {"msa_config.router_layer_idx", "\"2\"", "router_layer_idx"},
        {"msa_config.router_layer_idx", "\"1,x\"", "router_layer_idx"},
        {"msa_config.router_layer_idx", "\"1,\"", "router_layer_idx"},
        {"msa_config.router_layer_idx", "\"1,1\"", "twice"},
        {"msa_config.router_layer_idx", "[0, 1, 0]", "twice"},
        {"msa_config.router_layer_idx", "\"\"", "names no layer"},
        {"msa_config.router_layer_idx", "[-1]", "router_layer_idx"},
        {"msa_config.router_layer_idx", "1", "router_layer_idx"},
        {"msa_config.pooling_kernel_size", "0", "pooling_kernel_size"},
        {"msa_config.top_k_docs", NULL, "top_k_docs: missing"},
        {"msa_config.decouple_router", "\"yes\"", "decouple_router"},
        {"msa_config.aux_loss_method", NULL, "aux_loss_method: missing"},
        {"msa_config.head_reduce_method", "\"last\"", "head_reduce_method: last"},
        {"msa_config.query_reduce_method", "\"sum\"", "query_reduce_method: sum"},
        {"msa_config.chunk_reduce_method", "null", "chunk_reduce_method: missing"},
        {"msa_config.decouple_pooling_mode", "\"max\"", "decouple_pooling_mode"}};
    msa_test_checkpoint(*state, &(msa_test_tensors_opts){0});
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        msa_test_config(*state, cases[i].key, cases[i].json);
        refused(*state, MSA_E_CONFIG, cases[i].word, "config.json");
    }
    msa_test_text(*state, "config.json", "{\"a\": 1, \"a\": 2}");
    refused(*state, MSA_E_CONFIG, "config.json", "line 1");
    msa_test_text(*state, "config.json", "[]");
    refused(*state, MSA_E_CONFIG, "config.json", "not a JSON object");
    refused("tests/nowhere", MSA_E_NOINPUT, "tests/nowhere/config.json", "");
}

static void accepts_other_spellings(void **state)
{
    static const struct {
        const char *key, *json;
        int64_t n_router;
    } cases[] = {{"msa_config.router_layer_idx", "[1]", 1},
                 {"rope_parameters", "{\"rope_type\": \"default\", \"rope_theta\": 10000.0}", 1},
                 {"rope_scaling", "null", 1},
                 {"rope_scaling", "{\"type\": \"default\"}", 1},
                 {"head_dim", NULL, 1},
                 {"eos_token_id", "[264, 265]", 1},
                 {"model_type", "\"qwen3\"", 1},
                 {"msa_config.unknown_training_option", "0.5", 1}};
    msa_test_checkpoint(*state, &(msa_test_tensors_opts){0});
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        msa_test_config(*state, cases[i].key, cases[i].json);
        msa_model *m = open_bare(*state);
        assert_int_equal(m->config.n_router, cases[i].n_router);
        assert_true(m->config.rope_theta == 10000.0);
        assert_int_equal(m->config.D, 4);
        msa_model_close(m);
    }
    msa_test_checkpoint(*state, &(msa_test_tensors_opts){.coupled = true});
    msa_test_config(*state, "msa_config", "{\"router_layer_idx\": \"all\", \"aux_loss_method\": \"BCE\","
        "\"decouple_router\": false, \"top_k_docs\": 1, \"pooling_kernel_size\": 1,"
        "\"head_reduce_method\": \"max\", \"query_reduce_method\": \"last\", \"chunk_reduce_method\": \"mean\"}");
    msa_test_text(*state, "generation_config.json", "{\"eos_token_id\": [264, 7]}");
    msa_model *m = open_bare(*state);
    assert_int_equal(m->config.n_router, 2);
    assert_int_equal(m->config.router_layers[1], 1);
    assert_false(m->config.route.unit);
    assert_true(m->config.route.scale == 0.5f);
    assert_int_equal(m->n_eos, 2);
    assert_int_equal(m->eos_ids[1], 7);
    msa_model_close(m);
}

typedef void spoil_fn(msa_test_tensors *w);

static void spoil_missing(msa_test_tensors *w) { msa_test_tensor_drop(w, "model.layers.1.mlp.up_proj.weight"); }
static void spoil_head(msa_test_tensors *w) { msa_test_tensor_drop(w, "lm_head.weight"); }
static void spoil_router(msa_test_tensors *w)
{
    msa_test_tensor_drop(w, "model.layers.1.self_attn.router_k_proj.0.weight");
}
static void spoil_norms(msa_test_tensors *w) { msa_test_tensor_drop(w, "model.layers.1.self_attn.q_norm.weight"); }
static void spoil_first_norms(msa_test_tensors *w)
{
    msa_test_tensor_drop(w, "model.layers.0.self_attn.q_norm.weight");
    msa_test_tensor_drop(w, "model.layers.0.self_attn.k_norm.weight");
}
static void spoil_shape(msa_test_tensors *w)
{
    msa_st_tensor *t = msa_test_tensor(w, "model.layers.0.mlp.down_proj.weight");
    t->shape[0] = MSA_TEST_I;
    t->shape[1] = MSA_TEST_E;
}
static void spoil_rank(msa_test_tensors *w)
{
    msa_st_tensor *t = msa_test_tensor(w, "model.norm.weight");
    t->n_dims = 2;
    t->shape[1] = 1;
}
static void spoil_bias(msa_test_tensors *w)
{
    msa_test_tensor_add(w, "model.layers.0.self_attn.q_proj.bias", MSA_ST_F32, 8, 0);
}
static void spoil_layer(msa_test_tensors *w)
{
    msa_test_tensor_add(w, "model.layers.2.input_layernorm.weight", MSA_ST_F32, 8, 0);
}
static void spoil_type(msa_test_tensors *w)
{
    msa_test_tensor_drop(w, "model.norm.weight");
    msa_test_tensor_add(w, "model.norm.weight", MSA_ST_I32, 8, 0);
}

static void refuses_tensors_by_name(void **state)
{
    static const struct {
        spoil_fn *spoil;
        const char *name, *word;
    } cases[] = {{spoil_missing, "model.layers.1.mlp.up_proj.weight", "missing"},
                 {spoil_head, "lm_head.weight", "missing"},
                 {spoil_router, "router_k_proj.0.weight", "missing"},
                 {spoil_norms, "model.layers.1.self_attn.q_norm.weight", "missing"},
                 {spoil_first_norms, "layers.1.self_attn.k_norm.weight", "does not belong"},
                 {spoil_shape, "model.layers.0.mlp.down_proj.weight", "[12, 8], config.json asks for [8, 12]"},
                 {spoil_rank, "model.norm.weight", "[8, 1], config.json asks for [8]"},
                 {spoil_bias, "q_proj.bias", "does not belong"},
                 {spoil_layer, "model.layers.2.input_layernorm.weight", "does not belong"},
                 {spoil_type, "model.norm.weight", "I32"}};
    msa_test_checkpoint(*state, &(msa_test_tensors_opts){0});
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        msa_test_tensors w;
        msa_test_tensors_new(&w, &(msa_test_tensors_opts){0});
        cases[i].spoil(&w);
        msa_test_tensors_write(&w, 0, w.n, *state, "model.safetensors");
        refused(*state, MSA_E_DATA, cases[i].name, cases[i].word);
        msa_test_tensors_free(&w);
    }
}

static void leftovers_of_training_are_ignored(void **state)
{
    msa_test_tensors w;
    msa_test_checkpoint(*state, &(msa_test_tensors_opts){0});
    msa_model *m = open_bare(*state);
    char fingerprint[65];
    strcpy(fingerprint, msa_model_fingerprint(m));
    msa_model_close(m);
    msa_test_tensors_new(&w, &(msa_test_tensors_opts){0});
    msa_test_tensor_add(&w, "temperature", MSA_ST_F32, 1, 0);
    msa_test_tensor(&w, "temperature")->n_dims = 0;
    msa_test_tensor_add(&w, "model.layers.0.self_attn.rotary_emb.inv_freq", MSA_ST_F32, 2, 0);
    msa_test_tensors_write(&w, 0, w.n, *state, "model.safetensors");
    m = open_bare(*state);
    assert_string_equal(msa_model_fingerprint(m), fingerprint);
    msa_model_close(m);
    msa_test_tensors_free(&w);
}

static void refuses_numbers_that_are_not_finite(void **state)
{
    static const struct {
        msa_st_dtype dtype;
        uint32_t bits;
    } cases[] = {{MSA_ST_F32, 0x7f800000}, {MSA_ST_F32, 0xffc00000}, {MSA_ST_BF16, 0x7f80},
                 {MSA_ST_BF16, 0xffff},    {MSA_ST_F16, 0xfc00},     {MSA_ST_F16, 0x7e00}};
    const char *name = "model.layers.1.mlp.gate_proj.weight";
    msa_test_config(*state, NULL, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        msa_test_tensors w;
        msa_test_tensors_new(&w, &(msa_test_tensors_opts){.dtype = cases[i].dtype});
        int64_t size = msa_st_dtype_bytes(cases[i].dtype);
        memcpy((char *)msa_test_tensor(&w, name)->data + 77 * size, &cases[i].bits, (size_t)size);
        msa_test_tensors_write(&w, 0, w.n, *state, "model.safetensors");
        refused(*state, MSA_E_DATA, name, "element 77 is not a finite number");
        msa_test_tensors_free(&w);
    }
}

/* ---- identity ----------------------------------------------------------------------- */

static void the_fingerprint_is_the_models(void **state)
{
    char first[65], other[65], answer[65], answer2[65];
    msa_config c;
    msa_protocol p;
    int64_t bytes = 0;
    msa_model *m = NULL;
    msa_test_checkpoint(*state, &(msa_test_tensors_opts){0});
    assert_int_equal(msa_model_peek(*state, &c, &p, first, answer, &bytes, NULL), MSA_OK);
    assert_int_equal(strlen(first), 64);
    assert_int_equal(c.E, MSA_TEST_E);
    assert_true(c.qk_norm);
    assert_string_equal(p.document_tail, "[{id}]<|im_end|>");
    msa_protocol_free(&p);
    assert_true(bytes > MSA_TEST_V * MSA_TEST_E * 4);

    assert_int_equal(msa_model_open(*state, &(msa_model_opts){.backend = "ref", .compute = MSA_BF16}, &m, NULL),
                     MSA_OK);
    assert_string_equal(msa_model_fingerprint(m), first);
    assert_int_equal(msa_tokenizer_special(msa_model_tokenizer(m), "<|im_end|>"), 264);
    msa_model_close(m);

    /* what only questions use leaves a bank valid, and makes other answers */
    msa_test_config(*state, "msa_config.top_k_docs", "4");
    assert_int_equal(msa_model_peek(*state, &c, NULL, other, answer2, &bytes, NULL), MSA_OK);
    assert_string_equal(other, first);
    assert_string_not_equal(answer2, answer);
    msa_test_config(*state, "eos_token_id", "[264]");
    msa_test_text(*state, "msa_protocol.json", "{\"version\": 1, \"protocol\": \"generative\"}");
    assert_int_equal(msa_model_peek(*state, &c, NULL, other, answer2, &bytes, NULL), MSA_OK);
    assert_string_equal(other, first);
    assert_string_equal(answer2, answer);
    msa_test_text(*state, "msa_protocol.json",
                  "{\"version\": 1, \"protocol\": \"generative\", \"template_head\": \"<|im_start|>human\\n\"}");
    assert_int_equal(msa_model_peek(*state, &c, NULL, other, answer2, &bytes, NULL), MSA_OK);
    assert_string_equal(other, first);
    assert_string_not_equal(answer2, answer);
    msa_test_text(*state, "msa_protocol.json",
                  "{\"version\": 1, \"protocol\": \"generative\", \"document_head\": \"<|im_start|>({id}) \"}");
    assert_int_equal(msa_model_peek(*state, &c, NULL, other, answer2, &bytes, NULL), MSA_OK);
    assert_string_not_equal(other, first);

    msa_test_tensors w;
    msa_test_checkpoint(*state, &(msa_test_tensors_opts){0});
    msa_test_text(*state, "msa_protocol.json", "{\"version\": 1, \"protocol\": \"generative\"}");
    msa_test_tensors_new(&w, &(msa_test_tensors_opts){0});
    ((float *)msa_test_tensor(&w, "model.norm.weight")->data)[7] += 0.125f;
    msa_test_tensors_write(&w, 0, w.n, *state, "model.safetensors");
    assert_int_equal(msa_model_peek(*state, &c, NULL, other, answer2, &bytes, NULL), MSA_OK);
    assert_string_not_equal(other, first);
    msa_test_tensors_free(&w);
}

static void names_of_folders(void **state)
{
    char *dir = msa_sprintf("%s///", (char *)*state), *dot = msa_sprintf("%s/.", (char *)*state);
    const char *last = strrchr(*state, '/') + 1;
    msa_test_checkpoint(*state, &(msa_test_tensors_opts){0});
    msa_model *m = open_bare(dir);
    assert_string_equal(msa_model_name(m), last);
    msa_model_close(m);
    m = open_bare(dot);
    assert_string_equal(msa_model_name(m), last);
    msa_model_close(m);
    free(dir);
    free(dot);
}

static void needs_tokenizer_and_backend(void **state)
{
    msa_model *m = NULL;
    msa_err err;
    msa_err_init(&err);
    msa_test_checkpoint(*state, &(msa_test_tensors_opts){0});
    assert_int_equal(msa_model_open(*state, &(msa_model_opts){.backend = "abacus"}, &m, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_UNAVAILABLE);
    char *path = msa_file_join(*state, "tokenizer.json");
    assert_int_equal(remove(path), 0);
    free(path);
    msa_err_init(&err);
    assert_int_equal(msa_model_open(*state, &ref_f32, &m, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_NOINPUT);
    assert_non_null(strstr(err.msg, "tokenizer.json"));
    assert_null(m);
}

#define IN_FOLDER(f) cmocka_unit_test_setup_teardown(f, new_folder, free_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(holds_its_weights),
        IN_FOLDER(stacks_tensors_of_different_types),
        IN_FOLDER(kinds_of_models),
        cmocka_unit_test(routing_follows_the_options),
        IN_FOLDER(shards_are_one_model),
        IN_FOLDER(refuses_options_by_key),
        IN_FOLDER(accepts_other_spellings),
        IN_FOLDER(refuses_tensors_by_name),
        IN_FOLDER(leftovers_of_training_are_ignored),
        IN_FOLDER(refuses_numbers_that_are_not_finite),
        IN_FOLDER(the_fingerprint_is_the_models),
        IN_FOLDER(names_of_folders),
        IN_FOLDER(needs_tokenizer_and_backend)};
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
