/* GGUF files: read, dequantised, turned into model folders; hostile ones refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "kernels/dtype.h"
#include "models/gguf_convert.h"
#include "tests/support_checkpoint.h"
#include "tests/support_fuzz.h"
#include "tests/fuzz_gguf.c"

/* ---- building files ----------------------------------------------------------------- */

enum { T_U32 = 4, T_I32 = 5, T_F32 = 6, T_BOOL = 7, T_STRING = 8, T_ARRAY = 9, T_U64 = 10 };

typedef struct builder {
    msa_buf meta, table, body;
    uint64_t n_meta, n_tensors;
} builder;

static void put(msa_buf *b, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        msa_buf_put(b, &(char){(char)(v >> 8 * i)}, 1);
}

static void put_text(msa_buf *b, const char *s)
{
    put(b, strlen(s), 8);
    msa_buf_puts(b, s);
}

static void key(builder *b, const char *name, uint32_t type)
{
    put_text(&b->meta, name);
    put(&b->meta, type, 4);
    b->n_meta++;
}

static void add_u32(builder *b, const char *name, uint32_t v)
{
    key(b, name, T_U32);
    put(&b->meta, v, 4);
}

static void add_f32(builder *b, const char *name, float v)
{
    key(b, name, T_F32);
    msa_buf_put(&b->meta, &v, sizeof v);
}

static void add_string(builder *b, const char *name, const char *v)
{
    key(b, name, T_STRING);
    put_text(&b->meta, v);
}

static void add_strings(builder *b, const char *name, const char *const *v, int n)
{
    key(b, name, T_ARRAY);
    put(&b->meta, T_STRING, 4);
    put(&b->meta, (uint64_t)n, 8);
    for (int i = 0; i < n; i++)
        put_text(&b->meta, v[i]);
}

static void add_ints(builder *b, const char *name, const int32_t *v, int n)
{
    key(b, name, T_ARRAY);
    put(&b->meta, T_I32, 4);
    put(&b->meta, (uint64_t)n, 8);
    for (int i = 0; i < n; i++)
        put(&b->meta, (uint32_t)v[i], 4);
}

static void add_tensor(builder *b, const char *name, uint32_t type, uint64_t d0, uint64_t d1, const void *data,
                       int64_t bytes)
{
    while (b->body.len % 32 != 0)
        put(&b->body, 0, 1);
    put_text(&b->table, name);
    put(&b->table, d1 > 0 ? 2 : 1, 4);
    put(&b->table, d0, 8);
    if (d1 > 0)
        put(&b->table, d1, 8);
    put(&b->table, type, 4);
    put(&b->table, (uint64_t)b->body.len, 8);
    msa_buf_put(&b->body, data, bytes);
    b->n_tensors++;
}

/* An F32 tensor [rows, cols] (cols 0: [rows]) that holds msa_test_value(name, i). */
static void add_floats(builder *b, const char *name, int64_t rows, int64_t cols)
{
    int64_t n = rows * (cols > 0 ? cols : 1);
    float *v = msa_alloc(n, sizeof *v);
    assert_non_null(v);
    for (int64_t i = 0; i < n; i++)
        v[i] = msa_test_value(name, i);
    add_tensor(b, name, MSA_GGUF_F32, (uint64_t)(cols > 0 ? cols : rows), (uint64_t)(cols > 0 ? rows : 0), v,
               n * (int64_t)sizeof *v);
    free(v);
}

/* The whole file; the builder is empty afterwards. */
static msa_buf finish(builder *b)
{
    msa_buf out = {0};
    msa_buf_puts(&out, "GGUF");
    put(&out, 3, 4);
    put(&out, b->n_tensors, 8);
    put(&out, b->n_meta, 8);
    msa_buf_put(&out, b->meta.data, b->meta.len);
    msa_buf_put(&out, b->table.data, b->table.len);
    while (out.len % 32 != 0)
        put(&out, 0, 1);
    msa_buf_put(&out, b->body.data, b->body.len);
    assert_false(out.oom);
    msa_buf_free(&b->meta);
    msa_buf_free(&b->table);
    msa_buf_free(&b->body);
    *b = (builder){0};
    return out;
}

static msa_gguf *parse(const msa_buf *file)
{
    msa_gguf *g = NULL;
    msa_err err;
    msa_err_init(&err);
    if (msa_gguf_parse(file->data, file->len, &g, &err) < 0)
        fail_msg("%s", err.msg);
    return g;
}

/* ---- reading --------------------------------------------------------------------------- */

static void dequantises(void **state)
{
    /* scale 0.5, minimum -2; first half low nibbles 0..15, second half high nibbles 15..0 */
    unsigned char q4[20] = {0x00, 0x38, 0x00, 0xc0}, q8[34] = {0x00, 0xb4}; /* scale -0.25 */
    const uint16_t half[4] = {0x3c00, 0x0001, 0xc500, 0x7bff};
    const float single[2] = {1.5f, -3e-30f};
    float out[32];
    builder b = {0};
    (void)state;
    for (int j = 0; j < 16; j++)
        q4[4 + j] = (unsigned char)(j | (15 - j) << 4);
    for (int j = 0; j < 32; j++)
        q8[2 + j] = (unsigned char)(j * 8 - 128);
    add_tensor(&b, "q4", MSA_GGUF_Q4_1, 32, 0, q4, sizeof q4);
    add_tensor(&b, "q8", MSA_GGUF_Q8_0, 32, 1, q8, sizeof q8);
    add_tensor(&b, "half", MSA_GGUF_F16, 4, 0, half, sizeof half);
    add_tensor(&b, "single", MSA_GGUF_F32, 2, 0, single, sizeof single);
    add_tensor(&b, "other", 14, 256, 0, q8, 34);
    msa_buf file = finish(&b);
    msa_gguf *g = parse(&file);
    assert_int_equal(msa_gguf_n_tensors(g), 5);
    assert_int_equal(msa_gguf_floats(msa_gguf_find(g, "q4"), out, NULL), MSA_OK);
    for (int j = 0; j < 16; j++) {
        assert_true(out[j] == 0.5f * (float)j - 2);
        assert_true(out[j + 16] == 0.5f * (float)(15 - j) - 2);
    }
    assert_int_equal(msa_gguf_floats(msa_gguf_find(g, "q8"), out, NULL), MSA_OK);
    for (int j = 0; j < 32; j++)
        assert_true(out[j] == -0.25f * (float)(j * 8 - 128));
    assert_int_equal(msa_gguf_floats(msa_gguf_find(g, "half"), out, NULL), MSA_OK);
    assert_true(out[0] == 1 && out[1] == 0x1p-24f && out[2] == -5 && out[3] == 65504);
    assert_int_equal(msa_gguf_floats(msa_gguf_find(g, "single"), out, NULL), MSA_OK);
    assert_true(out[0] == 1.5f && out[1] == -3e-30f);
    assert_int_equal(msa_gguf_floats(msa_gguf_find(g, "other"), out, NULL), MSA_FAILED);
    assert_null(msa_gguf_find(g, "none"));
    msa_gguf_close(g);
    msa_buf_free(&file);
}

static void reads_metadata(void **state)
{
    static const char *const words[] = {"one", "", "three"};
    static const int32_t numbers[] = {-1, 7};
    builder b = {0};
    (void)state;
    add_u32(&b, "u", 4000000000u);
    add_f32(&b, "f", 0.5f);
    add_string(&b, "s", "text");
    add_strings(&b, "words", words, 3);
    add_ints(&b, "numbers", numbers, 2);
    key(&b, "big", T_U64);
    put(&b.meta, UINT64_MAX, 8);
    key(&b, "yes", T_BOOL);
    put(&b.meta, 1, 1);
    msa_buf file = finish(&b);
    msa_gguf *g = parse(&file);
    int64_t v, n, *ints = NULL;
    double x;
    msa_gguf_text t, *texts = NULL;
    assert_true(msa_gguf_int(g, "u", &v) && v == 4000000000);
    assert_false(msa_gguf_int(g, "big", &v) || msa_gguf_int(g, "f", &v) || msa_gguf_int(g, "yes", &v) ||
                 msa_gguf_int(g, "numbers", &v) || msa_gguf_int(g, "absent", &v));
    assert_true(msa_gguf_number(g, "f", &x) && x == 0.5);
    assert_false(msa_gguf_number(g, "u", &x));
    assert_true(msa_gguf_string(g, "s", &t) && t.n == 4 && memcmp(t.s, "text", 4) == 0);
    assert_false(msa_gguf_string(g, "words", &t));
    assert_int_equal(msa_gguf_strings(g, "words", &texts, &n, NULL), MSA_OK);
    assert_true(n == 3 && texts[1].n == 0 && texts[2].n == 5 && memcmp(texts[2].s, "three", 5) == 0);
    assert_int_equal(msa_gguf_ints(g, "numbers", &ints, &n, NULL), MSA_OK);
    assert_true(n == 2 && ints[0] == -1 && ints[1] == 7);
    free(texts);
    free(ints);
    texts = NULL;
    ints = NULL;
    assert_int_equal(msa_gguf_strings(g, "numbers", &texts, &n, NULL), MSA_END);
    assert_int_equal(msa_gguf_ints(g, "words", &ints, &n, NULL), MSA_END);
    assert_null(texts);
    assert_null(ints);
    msa_gguf_close(g);
    msa_buf_free(&file);
}

static void a_file_cut_anywhere_is_refused(void **state)
{
    static const char *const words[] = {"one", "two"};
    builder b = {0};
    (void)state;
    add_strings(&b, "words", words, 2);
    add_u32(&b, "u", 1);
    add_floats(&b, "t", 5, 3);
    msa_buf file = finish(&b);
    for (int64_t n = 0; n <= file.len; n++) {
        msa_gguf *g = NULL;
        msa_err err;
        msa_err_init(&err);
        char *copy = malloc((size_t)n + 1); /* of that size, so that reading past it shows */
        memcpy(copy, file.data, (size_t)n);
        msa_rc rc = msa_gguf_parse(copy, n, &g, &err);
        assert_int_equal(rc, n < file.len ? MSA_FAILED : MSA_OK);
        assert_true(rc == MSA_OK || err.code == MSA_E_DATA);
        msa_gguf_close(g);
        free(copy);
    }
    msa_buf_free(&file);
}

static void refuse_file(builder *b, const char *word)
{
    msa_gguf *g = NULL;
    msa_err err;
    msa_err_init(&err);
    msa_buf file = finish(b);
    assert_int_equal(msa_gguf_parse(file.data, file.len, &g, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_DATA);
    if (strstr(err.msg, word) == NULL)
        fail_msg("no \"%s\" in: %s", word, err.msg);
    msa_buf_free(&file);
}

static void refuses_false_files(void **state)
{
    builder b = {0};
    (void)state;
    add_u32(&b, "k", 1);
    add_u32(&b, "k", 2);
    refuse_file(&b, "k stands there twice");
    add_floats(&b, "t", 4, 0);
    add_floats(&b, "t", 4, 0);
    refuse_file(&b, "t stands there twice");
    add_u32(&b, "general.alignment", 48);
    refuse_file(&b, "general.alignment");
    add_u32(&b, "general.alignment", 64);
    add_floats(&b, "a", 4, 0);
    add_floats(&b, "b", 4, 0); /* placed at 32 */
    refuse_file(&b, "b is not aligned");
    add_tensor(&b, "t", MSA_GGUF_Q8_0, 33, 0, "", 0);
    refuse_file(&b, "impossible size");
    add_tensor(&b, "t", MSA_GGUF_F32, 1u << 31, 1ull << 33, "", 0);
    refuse_file(&b, "impossible size");
    add_tensor(&b, "t", MSA_GGUF_F32, 0, 0, "", 0);
    refuse_file(&b, "impossible size");
    add_tensor(&b, "t", MSA_GGUF_F32, 9, 0, "12345678", 8);
    refuse_file(&b, "t lies outside");
    add_tensor(&b, "", MSA_GGUF_F32, 1, 0, "1234", 4);
    refuse_file(&b, "bad name");
    key(&b, "k", 13);
    refuse_file(&b, "type that is not supported");
    b.n_tensors = UINT64_MAX;
    refuse_file(&b, "more tensors");
    b.n_meta = 1ull << 40;
    refuse_file(&b, "more metadata");
    key(&b, "k", T_STRING);
    put(&b.meta, UINT64_MAX, 8);
    refuse_file(&b, "longer than the file");
}

/* ---- turning into a folder ------------------------------------------------------------------ */

enum { E = 8, H = 2, G = 1, D = 4, I = 6, V = 6 };
static const char msa_config_text[] =
    "{\"router_layer_idx\": \"1\", \"aux_loss_method\": \"INFONCE\", \"decouple_router\": false,"
    " \"top_k_docs\": 3, \"pooling_kernel_size\": 8, \"head_reduce_method\": \"mean\","
    " \"query_reduce_method\": \"max\", \"chunk_reduce_method\": \"max\"}";

/* What a test changes in an otherwise good model. */
typedef struct change {
    const char *arch, *pre, *merge;
    int32_t last_type;
    int heads;
    bool untied, extra, no_norm;
} change;

static msa_buf make_model(change c)
{
    static const char *const tokens[] = {"a", "b", "ab", "<|im_start|>", "<|im_end|>", "<|object_ref_end|>"};
    const int32_t types[] = {1, 1, 1, 3, 3, c.last_type != 0 ? c.last_type : 3};
    const char *merges[] = {c.merge != NULL ? c.merge : "a b"};
    const struct {
        const char *name;
        int64_t rows, cols;
    } parts[] = {{"attn_norm", E, 0}, {"ffn_norm", E, 0}, {"attn_q", H * D, E}, {"attn_k", G * D, E},
                 {"attn_v", G * D, E}, {"attn_output", E, H * D}, {"ffn_gate", I, E}, {"ffn_up", I, E},
                 {"ffn_down", E, I}};
    builder b = {0};
    char name[64];
    add_string(&b, "general.architecture", c.arch != NULL ? c.arch : "llama");
    add_u32(&b, "llama.block_count", 2);
    add_u32(&b, "llama.context_length", 64);
    add_u32(&b, "llama.embedding_length", E);
    add_u32(&b, "llama.feed_forward_length", I);
    add_u32(&b, "llama.attention.head_count", c.heads > 0 ? (uint32_t)c.heads : H);
    add_u32(&b, "llama.attention.head_count_kv", G);
    add_f32(&b, "llama.rope.freq_base", 100000);
    add_f32(&b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    add_string(&b, "tokenizer.ggml.model", "gpt2");
    add_string(&b, "tokenizer.ggml.pre", c.pre != NULL ? c.pre : "smollm");
    add_strings(&b, "tokenizer.ggml.tokens", tokens, V);
    add_ints(&b, "tokenizer.ggml.token_type", types, V);
    add_strings(&b, "tokenizer.ggml.merges", merges, 1);
    add_u32(&b, "tokenizer.ggml.eos_token_id", 4);
    add_floats(&b, "token_embd.weight", V, E);
    if (!c.no_norm)
        add_floats(&b, "output_norm.weight", E, 0);
    if (c.untied)
        add_floats(&b, "output.weight", V, E);
    if (c.extra)
        add_floats(&b, "blk.0.attn_q.bias", H * D, 0);
    for (int l = 0; l < 2; l++)
        for (int i = 0; i < 9; i++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", l, parts[i].name);
            add_floats(&b, name, parts[i].rows, parts[i].cols);
        }
    return finish(&b);
}

static msa_rc convert(change c, const char *dir, const msa_safetensors *adapter, msa_err *err)
{
    msa_buf file = make_model(c);
    msa_gguf *g = parse(&file);
    msa_rc rc = msa_gguf_convert(g, dir, msa_config_text, adapter, err);
    msa_gguf_close(g);
    msa_buf_free(&file);
    return rc;
}

static void expect_tensor(const msa_safetensors *s, const char *name, int64_t row, const char *from, int64_t from_row)
{
    const msa_st_tensor *t = msa_safetensors_find(s, name);
    assert_non_null(t);
    for (int64_t i = 0; i < E; i++)
        assert_true(((const float *)t->data)[row * E + i] == msa_test_value(from, from_row * E + i));
}

static void becomes_a_folder_that_opens(void **state)
{
    char *dir = msa_test_folder_new(), fingerprint[65], answer_id[65];
    msa_config c;
    msa_err err;
    msa_safetensors *s = NULL;
    msa_model *m = NULL;
    int64_t bytes;
    (void)state;
    for (int untied = 0; untied < 2; untied++) {
        msa_err_init(&err);
        if (convert((change){.untied = untied}, dir, NULL, &err) < 0 ||
            msa_model_peek(dir, &c, NULL, fingerprint, answer_id, &bytes, &err) < 0)
            fail_msg("%s", err.msg);
        assert_true(c.tied == !untied && !c.qk_norm && !c.decoupled);
        assert_true(c.n_layers == 2 && c.E == E && c.H == H && c.G == G && c.D == D && c.I == I && c.V == V);
        assert_true(c.max_positions == 64 && c.rope_theta == 100000 && c.rms_eps == 1e-5f);
        assert_int_equal(msa_safetensors_open_dir(dir, &s, NULL), MSA_OK);
        expect_tensor(s, "model.embed_tokens.weight", 5, "token_embd.weight", 5);
        expect_tensor(s, "model.layers.1.self_attn.v_proj.weight", 1, "blk.1.attn_v.weight", 1);
        /* rows of a head: pairs 0 1 | 2 3 in the file, halves 0 2 | 1 3 in the folder */
        expect_tensor(s, "model.layers.1.self_attn.q_proj.weight", 4, "blk.1.attn_q.weight", 4);
        expect_tensor(s, "model.layers.1.self_attn.q_proj.weight", 5, "blk.1.attn_q.weight", 6);
        expect_tensor(s, "model.layers.1.self_attn.q_proj.weight", 6, "blk.1.attn_q.weight", 5);
        expect_tensor(s, "model.layers.0.self_attn.k_proj.weight", 2, "blk.0.attn_k.weight", 1);
        msa_safetensors_close(s);
    }
    assert_int_equal(msa_model_open(dir, &(msa_model_opts){.backend = "ref", .compute = MSA_F32}, &m, &err), MSA_OK);
    msa_tokens ids = {0};
    assert_int_equal(msa_tokenizer_encode(msa_model_tokenizer(m), "ab<|im_end|>b", 13, MSA_TOKENS_SPECIAL, &ids, NULL),
                     MSA_OK);
    assert_true(ids.n == 3 && ids.ids[0] == 2 && ids.ids[1] == 4 && ids.ids[2] == 1);
    msa_tokens_free(&ids);
    msa_model_close(m);
    msa_test_folder_free(dir);
}

static void refuses_other_models(void **state)
{
    static const struct {
        change c;
        const char *word;
    } cases[] = {{{.arch = "qwen2"}, "general.architecture"}, {{.pre = "llama-bpe"}, "tokenizer.ggml.pre"},
                 {{.merge = "ab"}, "merges"},                 {{.merge = "a b c"}, "merges"},
                 {{.last_type = 6}, "token_type"},            {{.heads = 3}, "head_count"},
                 {{.heads = 4}, "attn_k"},                    {{.extra = true}, "tensors where a Llama type has"},
                 {{.no_norm = true}, "output_norm.weight: missing"}};
    char *dir = msa_test_folder_new();
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        msa_err err;
        msa_err_init(&err);
        assert_int_equal(convert(cases[i].c, dir, NULL, &err), MSA_FAILED);
        if (err.code != MSA_E_CONFIG || strstr(err.msg, cases[i].word) == NULL)
            fail_msg("no \"%s\" in: %s", cases[i].word, err.msg);
    }
    msa_test_folder_free(dir);
}

/* ---- updates -------------------------------------------------------------------------------- */

enum { RANK = 2 };
#define Q "model.layers.1.self_attn.q_proj"
#define DOWN "model.layers.0.mlp.down_proj"
#define ROUTER "model.layers.1.self_attn.router_q_proj.0.weight"

/* A good adapter: updates of one matrix whose rows are put back in order and of
 * one that is not square, and a router's projection. */
static void make_adapter(msa_test_tensors *w)
{
    *w = (msa_test_tensors){0};
    msa_test_tensor_add(w, Q ".lora_A.weight", MSA_ST_F16, RANK, E);
    msa_test_tensor_add(w, Q ".lora_B.weight", MSA_ST_F16, H * D, RANK);
    msa_test_tensor_add(w, DOWN ".lora_A.weight", MSA_ST_BF16, RANK, I);
    msa_test_tensor_add(w, DOWN ".lora_B.weight", MSA_ST_F32, E, RANK);
    msa_test_tensor_add(w, ROUTER, MSA_ST_F16, H * D, E);
}

static msa_rc convert_with(msa_test_tensors *w, const char *dir, msa_err *err)
{
    msa_safetensors *adapter = NULL;
    msa_err_init(err);
    msa_test_tensors_write(w, 0, w->n, dir, "adapter.safetensors");
    char *path = msa_file_join(dir, "adapter.safetensors");
    assert_int_equal(msa_safetensors_open(path, &adapter, err), MSA_OK);
    msa_rc rc = convert((change){0}, dir, adapter, err);
    msa_safetensors_close(adapter);
    free(path);
    return rc;
}

/* Row r of NAME.weight [.., cols]: row `from` of the file's matrix, and of B A, rounded once. */
static void expect_row(const msa_safetensors *s, const char *name, bool updated, int64_t r, int64_t cols,
                       const char *matrix, int64_t from)
{
    char weight[96], a[96], b[96];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(a, sizeof a, "%s.lora_A.weight", name);
    snprintf(b, sizeof b, "%s.lora_B.weight", name);
    const msa_st_tensor *t = msa_safetensors_find(s, weight);
    assert_true(t != NULL && t->dtype == MSA_ST_BF16);
    for (int64_t c = 0; c < cols; c++) {
        float want = msa_test_value(matrix, from * cols + c);
        for (int64_t k = 0; updated && k < RANK; k++)
            want += msa_test_value(b, r * RANK + k) * msa_test_value(a, k * cols + c);
        assert_int_equal(((const uint16_t *)t->data)[r * cols + c], msa_f32_to_bf16(want));
    }
}

static void merges_updates(void **state)
{
    char *dir = msa_test_folder_new();
    msa_test_tensors w;
    msa_safetensors *s = NULL;
    msa_err err;
    (void)state;
    make_adapter(&w);
    if (convert_with(&w, dir, &err) < 0)
        fail_msg("%s", err.msg);
    char *model = msa_file_join(dir, "model.safetensors");
    assert_int_equal(msa_safetensors_open(model, &s, NULL), MSA_OK);
    static const int64_t from[] = {0, 2, 1, 3, 4, 6, 5, 7};   /* halves out of pairs, head by head */
    for (int64_t r = 0; r < H * D; r++)
        expect_row(s, Q, true, r, E, "blk.1.attn_q.weight", from[r]);
    for (int64_t r = 0; r < E; r++)
        expect_row(s, DOWN, true, r, I, "blk.0.ffn_down.weight", r);
    expect_row(s, "model.layers.1.mlp.down_proj", false, 3, I, "blk.1.ffn_down.weight", 3);
    expect_row(s, "model.embed_tokens", false, 5, E, "token_embd.weight", 5);
    assert_int_equal(msa_safetensors_find(s, "model.norm.weight")->dtype, MSA_ST_F32);
    const msa_st_tensor *router = msa_safetensors_find(s, ROUTER), *given = msa_test_tensor(&w, ROUTER);
    assert_true(router != NULL && router->dtype == MSA_ST_F16);
    assert_memory_equal(router->data, given->data, given->bytes);
    assert_null(msa_safetensors_find(s, Q ".lora_A.weight"));
    msa_safetensors_close(s);
    msa_test_tensors_free(&w);
    free(model);
    msa_test_folder_free(dir);
}

static void refuses_false_updates(void **state)
{
    static const struct {
        const char *drop, *add;
        msa_st_dtype dtype;
        int64_t rows, cols;
        const char *word;
    } cases[] = {{Q ".lora_B.weight", NULL, 0, 0, 0, "one half of an update"},
                 {Q ".lora_A.weight", NULL, 0, 0, 0, "one half of an update"},
                 {DOWN ".lora_A.weight", DOWN ".lora_A.weight", MSA_ST_F16, RANK, I + 1, "not the shape"},
                 {DOWN ".lora_A.weight", DOWN ".lora_A.weight", MSA_ST_F16, RANK + 1, I, "not the shape"},
                 {DOWN ".lora_B.weight", DOWN ".lora_B.weight", MSA_ST_F16, E + 1, RANK, "not the shape"},
                 {DOWN ".lora_A.weight", DOWN ".lora_A.weight", MSA_ST_I32, RANK, I, "integer"},
                 {ROUTER, "model.layers.2.mlp.up_proj.lora_A.weight", MSA_ST_F16, RANK, E, "does not have"}};
    char *dir = msa_test_folder_new();
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        msa_test_tensors w;
        msa_err err;
        make_adapter(&w);
        msa_test_tensor_drop(&w, cases[i].drop);
        if (cases[i].add != NULL)
            msa_test_tensor_add(&w, cases[i].add, cases[i].dtype, cases[i].rows, cases[i].cols);
        assert_int_equal(convert_with(&w, dir, &err), MSA_FAILED);
        if (err.code != MSA_E_CONFIG || strstr(err.msg, cases[i].word) == NULL)
            fail_msg("case %d: no \"%s\" in: %s", (int)i, cases[i].word, err.msg);
        msa_test_tensors_free(&w);
    }
    msa_test_folder_free(dir);
}

static void replays_the_fuzz_seeds(void **state)
{
    (void)state;
    assert_true(msa_fuzz_replay("tests/data/fuzz/gguf") >= 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dequantises), cmocka_unit_test(reads_metadata),
        cmocka_unit_test(a_file_cut_anywhere_is_refused), cmocka_unit_test(refuses_false_files),
        cmocka_unit_test(becomes_a_folder_that_opens), cmocka_unit_test(refuses_other_models),
        cmocka_unit_test(merges_updates), cmocka_unit_test(refuses_false_updates),
        cmocka_unit_test(replays_the_fuzz_seeds)};
    return cmocka_run_group_tests_name("gguf", tests, NULL, NULL);
}
