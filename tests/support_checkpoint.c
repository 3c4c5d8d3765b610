#define _GNU_SOURCE
#include "tests/support_checkpoint.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ftw.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "kernels/dtype.h"

/* ---- folders ----------------------------------------------------------------- */

char *msa_test_folder_new(void)
{
    const char *tmp = getenv("TMPDIR");
    char *dir = msa_sprintf("%s/msa-model-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(dir);
    assert_non_null(mkdtemp(dir));
    return dir;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void msa_test_folder_free(char *dir)
{
    assert_int_equal(nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
    free(dir);
}

void msa_test_file(const char *dir, const char *name, const void *data, int64_t n)
{
    char *path = msa_file_join(dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, (size_t)n, f), n);
    assert_int_equal(fclose(f), 0);
    free(path);
}

void msa_test_text(const char *dir, const char *name, const char *text)
{
    msa_test_file(dir, name, text, (int64_t)strlen(text));
}

/* ---- config and tokenizer ------------------------------------------------------ */

static const char config[] =
    "{\"architectures\": [\"MSAForCausalLM\"], \"model_type\": \"msa\", \"vocab_size\": 270,"
    " \"hidden_size\": 8, \"intermediate_size\": 12, \"num_hidden_layers\": 2,"
    " \"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"head_dim\": 4,"
    " \"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-06, \"rope_theta\": 10000.0,"
    " \"tie_word_embeddings\": false, \"attention_bias\": false, \"hidden_act\": \"silu\","
    " \"eos_token_id\": 264, \"msa_config\": {\"router_layer_idx\": \"1\","
    " \"aux_loss_method\": \"INFONCE\", \"decouple_router\": true, \"top_k_docs\": 3,"
    " \"pooling_kernel_size\": 8, \"head_reduce_method\": \"mean\","
    " \"query_reduce_method\": \"max\", \"chunk_reduce_method\": \"max\"}}";

void msa_test_config(const char *dir, const char *key, const char *json)
{
    json_t *j = json_loads(config, 0, NULL), *at = j;
    assert_non_null(j);
    if (key != NULL && strncmp(key, "msa_config.", 11) == 0) {
        at = json_object_get(j, "msa_config");
        key += 11;
    }
    if (key != NULL && json == NULL) {
        assert_int_equal(json_object_del(at, key), 0);
    } else if (key != NULL) {
        json_t *v = json_loads(json, JSON_DECODE_ANY, NULL);
        assert_non_null(v);
        assert_int_equal(json_object_set_new(at, key, v), 0);
    }
    char *text = json_dumps(j, 0);
    assert_non_null(text);
    msa_test_text(dir, "config.json", text);
    free(text);
    json_decref(j);
}

/* GPT-2's printable stand-in for a byte, as UTF-8. */
static void byte_name(int byte, char out[4])
{
    int printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    int point = byte;
    if (!printable) {
        point = 256;
        for (int b = 0; b < byte; b++)
            point += !((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174);
    }
    if (point < 128) {
        snprintf(out, 4, "%c", point);
    } else {
        out[0] = (char)(0xc0 | point >> 6);
        out[1] = (char)(0x80 | (point & 63));
        out[2] = '\0';
    }
}

void msa_test_tokenizer(const char *dir)
{
    static const char *const merges[][2] = {{"t", "h"}, {"th", "e"}, {"]", "."}, {"e", "["},
                                            {"\xc4\xa0", "a"}, {"a", "b"}, {"ab", "ab"}};
    static const char *const added[] = {"<|im_start|>", "<|im_end|>", "<|object_ref_end|>"};
    json_t *vocab = json_object(), *pairs = json_array(), *specials = json_array();
    char name[16];
    for (int b = 0; b < 256; b++) {
        byte_name(b, name);
        json_object_set_new(vocab, name, json_integer(b));
    }
    for (int i = 0; i < 7; i++) {
        snprintf(name, sizeof name, "%s%s", merges[i][0], merges[i][1]);
        json_object_set_new(vocab, name, json_integer(256 + i));
        json_array_append_new(pairs, json_pack("[s, s]", merges[i][0], merges[i][1]));
    }
    for (int i = 0; i < 3; i++) {
        json_object_set_new(vocab, added[i], json_integer(263 + i));
        json_array_append_new(specials, json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", 263 + i,
                                                  "content", added[i], "single_word", 0, "lstrip", 0,
                                                  "rstrip", 0, "normalized", 0, "special", 1));
    }
    json_t *j = json_pack(
        "{s:s, s:n, s:n, s:o, s:n, s:{s:s, s:[{s:s, s:b}, {s:s, s:b, s:b, s:b}]}, s:n,"
        " s:{s:s, s:b, s:b, s:b}, s:{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}}",
        "version", "1.0", "truncation", "padding", "added_tokens", specials, "normalizer", "pre_tokenizer",
        "type", "Sequence", "pretokenizers", "type", "Digits", "individual_digits", 1, "type", "ByteLevel",
        "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1, "post_processor", "decoder", "type",
        "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1, "model", "type", "BPE",
        "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
        "byte_fallback", 0, "ignore_merges", 0, "vocab", vocab, "merges", pairs);
    char *text = json_dumps(j, 0);
    assert_non_null(text);
    msa_test_text(dir, "tokenizer.json", text);
    free(text);
    json_decref(j);
}

/* ---- weights --------------------------------------------------------------------- */

float msa_test_value(const char *name, int64_t i)
{
    uint64_t h = msa_xxh3(name, (int64_t)strlen(name)) + (uint64_t)i * 0x9e3779b97f4a7c15u;
    return (float)((int64_t)(h >> 40 & 31) - 15) / 8;
}

/* The F16 of a small multiple of 1/8. */
static uint16_t half_of(float f)
{
    for (uint32_t h = 0; h < 0x7c00; h++)
        if (msa_f16_to_f32((uint16_t)h) == (f < 0 ? -f : f))
            return (uint16_t)(h | (f < 0 ? 0x8000u : 0));
    fail();
    return 0;
}

static void set_element(void *data, msa_st_dtype dtype, int64_t i, float v)
{
    if (dtype == MSA_ST_F32)
        ((float *)data)[i] = v;
    else if (dtype == MSA_ST_BF16)
        ((uint16_t *)data)[i] = msa_f32_to_bf16(v);
    else if (dtype == MSA_ST_F16)
        ((uint16_t *)data)[i] = half_of(v);
    else
        memset((char *)data + i * msa_st_dtype_bytes(dtype), 0, (size_t)msa_st_dtype_bytes(dtype));
}

void msa_test_tensor_add(msa_test_tensors *w, const char *name, msa_st_dtype dtype, int64_t rows, int64_t cols)
{
    msa_st_tensor *t = &w->t[w->n++];
    assert_true(w->n <= 64);
    *t = (msa_st_tensor){.name = msa_strdup(name), .dtype = dtype, .n_dims = cols > 0 ? 2 : 1,
                         .shape = {rows, cols}, .n = rows * (cols > 0 ? cols : 1)};
    t->bytes = t->n * msa_st_dtype_bytes(dtype);
    void *data = msa_alloc(t->n, msa_st_dtype_bytes(dtype));
    assert_non_null(data);
    for (int64_t i = 0; i < t->n; i++)
        set_element(data, dtype, i, msa_test_value(name, i));
    t->data = data;
}

void msa_test_tensors_new(msa_test_tensors *w, const msa_test_tensors_opts *o)
{
    enum { E = MSA_TEST_E, Q = MSA_TEST_H * MSA_TEST_D, K = MSA_TEST_G * MSA_TEST_D, I = MSA_TEST_I };
    static const struct {
        const char *name;
        int64_t rows, cols;
    } parts[] = {{"input_layernorm", E, 0},          {"post_attention_layernorm", E, 0},
                 {"self_attn.q_proj", Q, E},         {"self_attn.k_proj", K, E},
                 {"self_attn.v_proj", K, E},         {"self_attn.o_proj", E, Q},
                 {"mlp.gate_proj", I, E},            {"mlp.up_proj", I, E},
                 {"mlp.down_proj", E, I},            {"self_attn.q_norm", MSA_TEST_D, 0},
                 {"self_attn.k_norm", MSA_TEST_D, 0}};
    int n_parts = o->llama ? 9 : 11;
    char name[96];
    *w = (msa_test_tensors){0};
    msa_test_tensor_add(w, "model.embed_tokens.weight", o->dtype, MSA_TEST_V, E);
    for (int l = 0; l < MSA_TEST_LAYERS; l++)
        for (int i = 0; i < n_parts; i++) {
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, parts[i].name);
            msa_test_tensor_add(w, name, o->dtype, parts[i].rows, parts[i].cols);
        }
    if (!o->coupled) {
        msa_test_tensor_add(w, "model.layers.1.self_attn.router_q_proj.0.weight", o->dtype, Q, E);
        msa_test_tensor_add(w, "model.layers.1.self_attn.router_k_proj.0.weight", o->dtype, K, E);
    }
    msa_test_tensor_add(w, "model.norm.weight", o->dtype, E, 0);
    if (!o->tied)
        msa_test_tensor_add(w, "lm_head.weight", o->dtype, MSA_TEST_V, E);
}

void msa_test_tensors_free(msa_test_tensors *w)
{
    for (int64_t i = 0; i < w->n; i++) {
        free((char *)w->t[i].name);
        free((void *)w->t[i].data);
    }
    w->n = 0;
}

msa_st_tensor *msa_test_tensor(msa_test_tensors *w, const char *name)
{
    for (int64_t i = 0; i < w->n; i++)
        if (strcmp(w->t[i].name, name) == 0)
            return &w->t[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

void msa_test_tensor_drop(msa_test_tensors *w, const char *name)
{
    msa_st_tensor *t = msa_test_tensor(w, name);
    free((char *)t->name);
    free((void *)t->data);
    *t = w->t[--w->n];
}

void msa_test_tensors_write(const msa_test_tensors *w, int64_t from, int64_t to, const char *dir, const char *file)
{
    char *path = msa_file_join(dir, file);
    assert_int_equal(msa_safetensors_write(path, w->t + from, to - from, NULL, NULL, NULL), MSA_OK);
    free(path);
}

void msa_test_checkpoint(const char *dir, const msa_test_tensors_opts *opts)
{
    msa_test_tensors w;
    msa_test_config(dir, NULL, NULL);
    msa_test_tokenizer(dir);
    msa_test_tensors_new(&w, opts);
    msa_test_tensors_write(&w, 0, w.n, dir, "model.safetensors");
    msa_test_tensors_free(&w);
}
