/* safetensors files: written, read back, and every false header refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/safetensors.h"
#include "tests/support_checkpoint.h"
#include "tests/support_fuzz.h"
#include "tests/fuzz_safetensors.c"

/* A file of that header, whose stated length is `stated` (-1: its own), and body
 * bytes of data; parses it. */
static msa_rc parse(const char *header, int64_t stated, int64_t body, msa_safetensors **out, msa_err *err)
{
    static _Alignas(8) char data[4096];
    uint64_t length = (strlen(header) + 7) / 8 * 8, says = stated < 0 ? length : (uint64_t)stated;
    assert_true(8 + length + (uint64_t)body <= sizeof data);
    memset(data, ' ', sizeof data);
    for (int i = 0; i < 8; i++)
        data[i] = (char)(says >> 8 * i);
    memcpy(data + 8, header, strlen(header));
    memset(data + 8 + length, 7, (size_t)body);
    return msa_safetensors_parse(data, 8 + (int64_t)length + body, out, err);
}

#define A "\"a\": {\"dtype\": \"F32\", \"shape\": [2, 2], \"data_offsets\": [0, 16]}"
#define META "\"__metadata__\": {\"format\": \"pt\"}"

static void reads_headers(void **state)
{
    static const struct {
        const char *header;
        int64_t body, n;
    } cases[] = {{"{}", 0, 0},
                 {"{" META "}", 0, 0},
                 {"{" META ", " A "}", 16, 1},
                 {"{\"b\": {\"dtype\": \"BF16\", \"shape\": [3], \"data_offsets\": [16, 22]}, " A "}", 22, 2},
                 {"{\"s\": {\"dtype\": \"I64\", \"shape\": [], \"data_offsets\": [0, 8]}}", 8, 1},
                 {"{\"e\": {\"dtype\": \"F16\", \"shape\": [0, 5], \"data_offsets\": [16, 16]}, " A "}", 16, 2},
                 {"{\"e\": {\"dtype\": \"F16\", \"shape\": [4, 0], \"data_offsets\": [0, 0]}, " A "}", 16, 2}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        msa_safetensors *s = NULL;
        msa_err err;
        msa_err_init(&err);
        if (parse(cases[i].header, -1, cases[i].body, &s, &err) < 0)
            fail_msg("%s: %s", cases[i].header, err.msg);
        assert_int_equal(msa_safetensors_count(s), cases[i].n);
        msa_safetensors_close(s);
    }
}

static void refuses_headers(void **state)
{
#define T(rest) "{\"a\": {" rest "}}"
    static const struct {
        const char *header, *word;
        int64_t stated, body;
    } cases[] = {
        {"{}", "header of 1152921504606846976 bytes", (int64_t)1 << 60, 64},
        {"{}", "header", 100000001, 64},
        {"{}", "header", 9, 0},
        {"{}", "header", 0, 64},
        {"[]", "not an object", -1, 0},
        {"{\"a\": ", "header", -1, 0},
        {"{" A ", " A "}", "duplicate", -1, 16},
        {"{" A "}", "not inside", -1, 15},
        {"{" A "}", "behind the last", -1, 20},
        {T("\"dtype\": \"F32\", \"shape\": [2]"), "not an entry", -1, 8},
        {T("\"dtype\": 4, \"shape\": [2], \"data_offsets\": [0, 8]"), "not an entry", -1, 8},
        {T("\"dtype\": \"F32\", \"shape\": 2, \"data_offsets\": [0, 8]"), "not an entry", -1, 8},
        {T("\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8, 9]"), "not an entry", -1, 8},
        {T("\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8], \"x\": 1"), "not an entry", -1, 8},
        {"{\"a\": []}", "not an entry", -1, 0},
        {T("\"dtype\": \"F8_E4M3\", \"shape\": [8], \"data_offsets\": [0, 8]"), "F8_E4M3 is not supported", -1, 8},
        {T("\"dtype\": \"F32\", \"shape\": [3], \"data_offsets\": [0, 8]"), "does not match", -1, 8},
        {T("\"dtype\": \"F32\", \"shape\": [-2], \"data_offsets\": [0, 8]"), "bad shape", -1, 8},
        {T("\"dtype\": \"F32\", \"shape\": [2.0], \"data_offsets\": [0, 8]"), "bad shape", -1, 8},
        {T("\"dtype\": \"F32\", \"shape\": [4294967296, 4294967296], \"data_offsets\": [0, 8]"), "does not match", -1, 8},
        {T("\"dtype\": \"F32\", \"shape\": [4611686018427387906], \"data_offsets\": [0, 8]"), "does not match", -1, 8},
        {T("\"dtype\": \"F32\", \"shape\": [1,1,1,1,1,1,1,1,2], \"data_offsets\": [0, 8]"), "dimensions", -1, 8},
        {T("\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [8, 0]"), "not inside", -1, 8},
        {T("\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [-8, 0]"), "not inside", -1, 8},
        {T("\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [4611686018427387904, 4611686018427387912]"),
         "not inside", -1, 8},
        {T("\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [2, 10]"), "not aligned", -1, 16},
        {T("\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [8, 16]"), "leaves a hole", -1, 16},
        {"{\"b\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [8, 16]}, " A "}", "overlaps", -1, 16}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        msa_safetensors *s = NULL;
        msa_err err;
        msa_err_init(&err);
        msa_rc rc = parse(cases[i].header, cases[i].stated, cases[i].body, &s, &err);
        if (rc != MSA_FAILED || err.code != MSA_E_DATA || strstr(err.msg, cases[i].word) == NULL)
            fail_msg("%s: no \"%s\" in: %s", cases[i].header, cases[i].word, err.msg);
        assert_null(s);
    }
    msa_safetensors *s = NULL;
    for (int64_t n = 0; n < 8; n++)
        assert_int_equal(msa_safetensors_parse("\2\0\0\0\0\0\0\0{}", n, &s, NULL), MSA_FAILED);
}

static void writes_what_it_reads(void **state)
{
    char *dir = msa_test_folder_new(), *path = msa_file_join(dir, "x.safetensors");
    msa_test_tensors w = {0};
    msa_safetensors *s = NULL;
    (void)state;
    /* an odd number of halves before wider ones: the order keeps all aligned */
    msa_test_tensor_add(&w, "half", MSA_ST_BF16, 3, 0);
    msa_test_tensor_add(&w, "single", MSA_ST_F32, 5, 2);
    msa_test_tensor_add(&w, "long", MSA_ST_I64, 1, 3);
    msa_test_tensor_add(&w, "zero", MSA_ST_F16, 0, 0);
    msa_test_tensors_write(&w, 0, w.n, dir, "x.safetensors");
    assert_int_equal(msa_safetensors_open(path, &s, NULL), MSA_OK);
    assert_int_equal(msa_safetensors_count(s), 4);
    for (int64_t i = 0; i < w.n; i++) {
        const msa_st_tensor *t = msa_safetensors_find(s, w.t[i].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, w.t[i].dtype);
        assert_int_equal(t->n_dims, w.t[i].n_dims);
        assert_memory_equal(t->shape, w.t[i].shape, (size_t)t->n_dims * sizeof *t->shape);
        assert_int_equal(t->bytes, w.t[i].bytes);
        assert_memory_equal(t->data, w.t[i].data, (size_t)t->bytes);
    }
    assert_string_equal(msa_safetensors_at(s, 0)->name, "half");
    assert_null(msa_safetensors_find(s, "hal"));
    msa_safetensors_close(s);
    msa_test_tensors_free(&w);
    free(path);
    msa_test_folder_free(dir);
}

static msa_rc no_data(void *user, int64_t i, const void **data, msa_err *err)
{
    (void)user;
    (void)data;
    return i == 1 ? msa_err_set(err, MSA_FAILED, MSA_E_DATA, "no data") : MSA_OK;
}

static void a_failed_write_leaves_nothing(void **state)
{
    char *dir = msa_test_folder_new(), *path = msa_file_join(dir, "x.safetensors");
    msa_test_tensors w = {0};
    (void)state;
    msa_test_tensor_add(&w, "a", MSA_ST_F32, 3, 0);
    msa_test_tensor_add(&w, "b", MSA_ST_F32, 3, 0);
    assert_int_equal(msa_safetensors_write(path, w.t, w.n, no_data, NULL, NULL), MSA_FAILED);
    assert_false(msa_file_exists(path));
    w.t[0].shape[0] = INT64_MAX / 2;
    assert_int_equal(msa_safetensors_write(path, w.t, w.n, NULL, NULL, NULL), MSA_FAILED);
    assert_false(msa_file_exists(path));
    w.t[0].shape[0] = 3;
    msa_test_tensors_free(&w);
    free(path);
    msa_test_folder_free(dir);
}

static void replays_the_fuzz_seeds(void **state)
{
    (void)state;
    assert_true(msa_fuzz_replay("tests/data/fuzz/safetensors") >= 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_headers), cmocka_unit_test(refuses_headers), cmocka_unit_test(writes_what_it_reads),
        cmocka_unit_test(a_failed_write_leaves_nothing), cmocka_unit_test(replays_the_fuzz_seeds)};
    return cmocka_run_group_tests_name("model_safetensors", tests, NULL, NULL);
}
