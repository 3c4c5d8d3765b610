/* What the public operations refuse, and what opening and reserving promise. A
 * name on the command line is tested instead of the CPU backends. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support_kernels.h"

#define OK(call) assert_int_equal((call), MSA_OK)

static struct subject {
    const char *name;
    msa_dtype act;
    msa_kern *k, *ref;
} subjects[8];
static int n_subjects;
#define EACH_SUBJECT(s) for (struct subject *s = subjects; s < subjects + n_subjects; s++)

static void bad_arguments_are_refused(void **unused)
{
    (void)unused;
    EACH_SUBJECT(s) {
        msa_kern *k = s->k;
        msa_err err;
        msa_kern_heads h = {2, 1, 8};
        float x[64] = {0};
        int64_t big = INT64_MAX / 4, pos[4] = {0};
        msa_kern_weight *w = NULL, *odd = NULL, *wide = NULL, *other = NULL;
        OK(msa_kern_weight_new(k, x, MSA_F32, 4, 4, &w, NULL));
        OK(msa_kern_weight_new(k, x, MSA_F32, 3, 4, &odd, NULL));
        OK(msa_kern_weight_new(k, x, MSA_F32, 8, 4, &wide, NULL));
        OK(msa_kern_weight_new(s->ref, x, MSA_F32, 4, 4, &other, NULL));
        msa_kern_route r = {.h = h, .scale = 1, .query = MSA_REDUCE_MAX};
#define REFUSED(call)                                      \
    do {                                                   \
        msa_err_init(&err);                                \
        assert_int_equal((call), MSA_FATAL);               \
        assert_int_equal(err.code, MSA_E_INTERNAL);        \
        assert_non_null(strstr(err.msg, "msa_kern_"));     \
    } while (0)
        msa_kern_weight *none;
        REFUSED(msa_kern_weight_new(k, x, MSA_I8, 2, 2, &none, &err));
        REFUSED(msa_kern_weight_new(k, x, MSA_F32, big, 16, &none, &err));
        REFUSED(msa_kern_weight_new(k, NULL, MSA_F32, 2, 2, &none, &err));
        REFUSED(msa_kern_weight_new(k, x, MSA_F32, 0, 2, &none, &err));
        REFUSED(msa_kern_linear(k, NULL, w, NULL, 1, x, MSA_LINEAR_F32, &err));
        REFUSED(msa_kern_linear(k, NULL, w, x, -1, x, MSA_LINEAR_F32, &err));
        REFUSED(msa_kern_linear(k, NULL, w, x, msa_test_shape.rows + 1, x, MSA_LINEAR_F32, &err));
        REFUSED(msa_kern_linear(k, NULL, w, x, big, x, MSA_LINEAR_F32, &err));
        REFUSED(msa_kern_linear(k, NULL, w, x, 1, x, (msa_linear_mode)9, &err));
        REFUSED(msa_kern_linear(k, NULL, other, x, 1, x, MSA_LINEAR_F32, &err));
        REFUSED(msa_kern_rms_norm(k, NULL, x, x, -1, 1, 4, x, &err));
        REFUSED(msa_kern_rms_norm(k, NULL, x, NULL, 0, 1, 4, x, &err));
        REFUSED(msa_kern_rms_norm(k, NULL, x, x, 0, 1, 0, x, &err));
        REFUSED(msa_kern_norm_linear(k, NULL, x, x, -1, w, 1, x, NULL, x, &err));
        REFUSED(msa_kern_norm_linear(k, NULL, x, x, 0, other, 1, x, NULL, x, &err));
        REFUSED(msa_kern_norm_linear(k, NULL, x, x, 0, w, 1, NULL, x, x, &err));
        REFUSED(msa_kern_norm_linear(k, NULL, x, x, 0, odd, 1, x, x, x, &err));
        msa_kern_link link = {.o = w, .gamma = x, .gate_up = w, .down = w}; /* gate_up of 2 * 4 rows is wanted */
        REFUSED(msa_kern_between(k, NULL, &link, x, 1, x, x, x, x, x, &err));
        link.gate_up = wide;
        REFUSED(msa_kern_between(k, NULL, &link, x, 1, x, x, x, NULL, x, &err));
        link.next = w; /* without its gamma */
        REFUSED(msa_kern_between(k, NULL, &link, x, 1, x, x, x, x, x, &err));
        link.next = odd, link.next_gamma = x;
        REFUSED(msa_kern_between(k, NULL, &link, x, 1, x, x, x, x, NULL, &err));
        link.eps = -1;
        REFUSED(msa_kern_between(k, NULL, &link, x, 1, x, x, x, x, x, &err));
        link.eps = 0, link.o = other;
        REFUSED(msa_kern_between(k, NULL, &link, x, 1, x, x, x, x, x, &err));
        REFUSED(msa_kern_qk_rope(k, NULL, x, 1, (msa_kern_heads){2, 1, 7}, NULL, NULL, 0, pos, 10, &err));
        REFUSED(msa_kern_qk_rope(k, NULL, x, 1, (msa_kern_heads){3, 2, 8}, NULL, NULL, 0, pos, 10, &err));
        REFUSED(msa_kern_qk_rope(k, NULL, x, 1, h, x, NULL, 0, pos, 10, &err));
        REFUSED(msa_kern_qk_rope(k, NULL, x, 1, h, NULL, NULL, 0, pos, 0, &err));
        REFUSED(msa_kern_qk_rope(k, NULL, x, 1, (msa_kern_heads){big, big, 8}, NULL, NULL, 0, pos, 10, &err));
        REFUSED(msa_kern_attn_packed(k, NULL, x, 2, h, (int64_t[]){0, 2, 1}, 2, x, &err));
        REFUSED(msa_kern_attn_packed(k, NULL, x, 2, h, (int64_t[]){0, 3}, 1, x, &err));
        REFUSED(msa_kern_attn_packed(k, NULL, x, 2, h, (int64_t[]){-1, 2}, 1, x, &err));
        msa_kern_cache c = {x, x, 1};
        msa_kern_seg seg = {.k = x, .v = x, .n_rows = 1, .stride = 8, .dtype = MSA_F32};
        int64_t rows[2] = {0, 2}, segs[2] = {0, 1};
        REFUSED(msa_kern_attn_memory(k, NULL, x, 16, h, 1, rows, &seg, segs, &c, x, &err));
        c.len = 2;
        seg.stride = 7;
        REFUSED(msa_kern_attn_memory(k, NULL, x, 16, h, 1, rows, &seg, segs, &c, x, &err));
        seg.stride = 8;
        seg.dtype = MSA_I8;
        REFUSED(msa_kern_attn_memory(k, NULL, x, 16, h, 1, rows, &seg, segs, &c, x, &err));
        seg.dtype = MSA_F32;
        seg.n_rows = msa_test_shape.max_seq;
        REFUSED(msa_kern_attn_memory(k, NULL, x, 16, h, 1, rows, &seg, segs, &c, x, &err));
        seg.n_rows = big;
        REFUSED(msa_kern_attn_memory(k, NULL, x, 16, h, 1, rows, &seg, segs, &c, x, &err));
        REFUSED(msa_kern_attn_memory(k, NULL, x, 15, h, 1, rows, &seg, segs, &c, x, &err));
        void *caches[1] = {NULL};
        REFUSED(msa_kern_cache_store(k, NULL, x, h, 1, rows, caches, caches, pos, &err));
        caches[0] = x;
        REFUSED(msa_kern_cache_store(k, NULL, x, h, 1, rows, caches, caches, (int64_t[]){-1}, &err));
        seg.n_rows = 1;
        REFUSED(msa_kern_qk_rope_attn(k, NULL, x, h, x, NULL, 0, pos, 10, 1, rows, &seg, segs, caches, caches, pos, x, &err));
        REFUSED(msa_kern_qk_rope_attn(k, NULL, x, h, NULL, NULL, 0, pos, 10, 1, rows, NULL, segs, caches, caches, pos, x, &err));
        REFUSED(msa_kern_qk_rope_attn(k, NULL, x, h, NULL, NULL, 0, pos, 10, 1, rows, &seg, segs, caches, caches,
                                      (int64_t[]){msa_test_shape.max_seq}, x, &err));
        REFUSED(msa_kern_qk_rope_attn(k, NULL, x, h, NULL, NULL, 0, pos, 10, 1, rows, &seg, segs, caches, caches, pos, NULL, &err));
        seg.stride = 7;
        REFUSED(msa_kern_qk_rope_attn(k, NULL, x, h, NULL, NULL, 0, pos, 10, 1, rows, &seg, segs, caches, caches, pos, x, &err));
        REFUSED(msa_kern_gather(k, NULL, x, 4, (int64_t[]){-1}, 1, x, &err));
        REFUSED(msa_kern_pool(k, NULL, x, true, 4, 2, 3, &(msa_kern_chunk){0, 1}, 1, x, &err));
        REFUSED(msa_kern_pool(k, NULL, x, true, 4, 0, 4, &(msa_kern_chunk){0, 0}, 1, x, &err));
        REFUSED(msa_kern_pool(k, NULL, x, true, 4, 0, 4, &(msa_kern_chunk){-1, 1}, 1, x, &err));
        REFUSED(msa_kern_convert(k, NULL, x, MSA_F16, 1, x, MSA_F32, 1, 1, 1, &err));
        REFUSED(msa_kern_convert(k, NULL, x, MSA_F32, 1, x, MSA_F32, 1, 2, 1, &err));
        REFUSED(msa_kern_convert(k, NULL, x, MSA_F32, big, x, MSA_F32, big, 2, 3, &err));
        REFUSED(msa_kern_router_query(k, NULL, &r, x, true, 15, 1, x, &err));
        REFUSED(msa_kern_scan(k, NULL, &r, x, (int64_t[]){0, 0}, 1, x, MSA_F32, NULL, 8, 1, x, &err));
        REFUSED(msa_kern_scan(k, NULL, &r, x, (int64_t[]){0, msa_test_shape.route_tokens + 1}, 1, x, MSA_F32, NULL, 8,
                              1, x, &err));
        REFUSED(msa_kern_scan(k, NULL, &r, x, (int64_t[]){0, 1}, 1, x, MSA_I8, NULL, 8, 1, x, &err));
        REFUSED(msa_kern_scan(k, NULL, &r, x, (int64_t[]){0, 1}, 1, x, MSA_F32, NULL, 7, 1, x, &err));
        int64_t one[2] = {0, 1};
        msa_kern_doc_rows doc = {.rk = x, .n_rows = 1};
        REFUSED(msa_kern_score_docs(k, NULL, &r, x, one, 1, &doc, 1, MSA_I8, 8, 1, false, x, &err));
        REFUSED(msa_kern_score_docs(k, NULL, &r, x, one, 1, &doc, 1, MSA_F32, 7, 1, false, x, &err));
        doc.question = 1;
        REFUSED(msa_kern_score_docs(k, NULL, &r, x, one, 1, &doc, 1, MSA_F32, 8, 1, false, x, &err));
        doc = (msa_kern_doc_rows){.rk = x, .n_rows = 0};
        REFUSED(msa_kern_score_docs(k, NULL, &r, x, one, 1, &doc, 1, MSA_F32, 8, 1, false, x, &err));
        int8_t q8[8];
        REFUSED(msa_kern_quantize(k, NULL, x, MSA_F32, 8, 8, 3, 1, q8, 8, x, MSA_F32, 4, &err));
        REFUSED(msa_kern_quantize(k, NULL, x, MSA_F32, 8, 8, 4, 1, q8, 7, x, MSA_F32, 2, &err));
        REFUSED(msa_kern_quantize(k, NULL, x, MSA_F32, 8, 8, 4, 1, q8, 8, x, MSA_BF16, 2, &err));
        REFUSED(msa_kern_quantize(k, NULL, x, MSA_I8, 8, 8, 4, 1, q8, 8, x, MSA_F32, 2, &err));
        r.head = MSA_REDUCE_LAST;
        REFUSED(msa_kern_scan(k, NULL, &r, x, (int64_t[]){0, 1}, 1, x, MSA_F32, NULL, 8, 1, x, &err));
        msa_kern_best best[1];
        REFUSED(msa_kern_topk_init(k, NULL, 1, msa_test_shape.top_k + 1, best, &err));
        REFUSED(msa_kern_topk_merge(k, NULL, x, 1, 1, pos, NULL, 0, best, &err));
        int32_t id;
        REFUSED(msa_kern_sample_tokens(k, NULL, x, 1, 4, &(msa_kern_sample){-1, 1, 0}, &id, &err));
        REFUSED(msa_kern_sample_tokens(k, NULL, x, 1, 4, &(msa_kern_sample){1, 0, 0}, &id, &err));
        REFUSED(msa_kern_sample_tokens(k, NULL, x, 1, 4, &(msa_kern_sample){1, 1, 1}, &id, &err));
        REFUSED(msa_kern_sample_tokens(k, NULL, x, 1, 4, &(msa_kern_sample){NAN, 1, 0}, &id, &err));
        REFUSED(msa_kern_sample_tokens(k, NULL, x, 1, msa_test_shape.V + 1, &(msa_kern_sample){1, 1, 0}, &id, &err));
        /* nothing to do needs no pointers */
        OK(msa_kern_linear(k, NULL, w, NULL, 0, NULL, MSA_LINEAR_F32, NULL));
        OK(msa_kern_norm_linear(k, NULL, NULL, NULL, 0, w, 0, NULL, NULL, NULL, NULL));
        link = (msa_kern_link){.o = w, .gate_up = wide, .down = w};
        OK(msa_kern_between(k, NULL, &link, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL));
        OK(msa_kern_attn_packed(k, NULL, NULL, 0, h, NULL, 0, NULL, NULL));
        OK(msa_kern_scan(k, NULL, &(msa_kern_route){.h = h, .scale = 1}, NULL, NULL, 0, NULL,
                         MSA_F32, NULL, 8, 0, NULL, NULL));
        msa_kern_weight_free(k, w);
        msa_kern_weight_free(k, odd);
        msa_kern_weight_free(k, wide);
        msa_kern_weight_free(s->ref, other);
        msa_kern_weight_free(k, NULL);
    }
}

static void backends_and_reservations(void **unused)
{
    (void)unused;
    msa_kern *k = NULL;
    msa_err err;
    msa_err_init(&err);
    assert_int_equal(msa_kern_open("abacus", NULL, &k, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_UNAVAILABLE);
    msa_err_init(&err);
    assert_int_equal(msa_kern_open("cpu:abacus", NULL, &k, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_UNAVAILABLE);
    assert_null(k);
    OK(msa_kern_open("auto", NULL, &k, NULL));
    msa_kern_close(k);
    msa_kern_close(NULL);
    for (const char *const *n = msa_kern_names(); *n; n++)
        assert_true(strlen(*n) > 0);
    EACH_SUBJECT(s) {
        msa_kern_info info;
        msa_kern_info_get(s->k, &info);
        assert_int_equal(info.act, s->act);
        assert_true(info.mem_total_bytes > info.mem_free_bytes && info.mem_free_bytes > 0);
        assert_true(info.batch_tokens > 0 && info.n_threads >= 0 && strlen(info.device) > 0);
        k = NULL;
        OK(msa_kern_open(s->name, &(msa_kern_opts){.act = s->act, .n_threads = 1, .memory_bytes = 1 << 20}, &k, NULL));
        msa_kern_info_get(k, &info);
        assert_true(info.mem_total_bytes == 1 << 20 && info.mem_free_bytes >= 0 && info.mem_free_bytes <= 1 << 20);
        msa_kern_close(k);
        k = NULL;
        OK(msa_kern_open(s->name, &(msa_kern_opts){.act = s->act, .n_threads = 1}, &k, NULL));
        int64_t bytes = -1, again = -1;
        OK(msa_kern_reserve(k, &msa_test_shape, true, &bytes, NULL));
        assert_true(bytes > 0);
        /* a dry run reserves nothing */
        float x[4] = {1, 2, 3, 4};
        assert_int_equal(msa_kern_rms_norm(k, NULL, x, x, 0, 1, 4, x, NULL), MSA_FATAL);
        OK(msa_kern_reserve(k, &msa_test_shape, false, &again, NULL));
        assert_int_equal(bytes, again);
        /* growing keeps what was there: a smaller shape changes nothing */
        OK(msa_kern_reserve(k, &(msa_kern_shape){.rows = 1}, false, &again, NULL));
        assert_int_equal(bytes, again);
        for (int i = 0; i < 5; i++) {
            msa_kern_shape huge = msa_test_shape;
            int64_t *field[] = {&huge.rows, &huge.max_seq, &huge.D, &huge.route_tokens, &huge.V};
            *field[i] = INT64_MAX - 1;
            if (strcmp(s->name, "ref") == 0 && field[i] != &huge.max_seq && field[i] != &huge.V)
                continue; /* has no scratch for the others */
            assert_int_equal(msa_kern_reserve(k, &huge, true, &again, NULL), MSA_FAILED);
        }
        msa_kern_close(k);
    }
}

/* Host arrays are read before the call returns, whether the same one came before or
 * not: means of one row each, at places that change and come back. */
static void arrays_may_change_and_return(void **unused)
{
    (void)unused;
    enum { ROWS = 32, CHUNKS = 8, CALLS = 40 };
    EACH_SUBJECT(s) {
        float rows[ROWS];
        for (int i = 0; i < ROWS; i++)
            rows[i] = (float)i;
        float *x = NULL, *out = NULL, got[CALLS][CHUNKS];
        OK(msa_kern_alloc(s->k, sizeof rows, MSA_MEM_DEVICE, (void **)&x, NULL));
        OK(msa_kern_alloc(s->k, sizeof got, MSA_MEM_DEVICE, (void **)&out, NULL));
        OK(msa_kern_copy(s->k, NULL, x, rows, sizeof rows, NULL));
        msa_kern_stream *streams[2] = {NULL};
        OK(msa_kern_sync(s->k, NULL, NULL));
        OK(msa_kern_stream_new(s->k, &streams[1], NULL));
        msa_kern_chunk c[CHUNKS];
        for (int i = 0; i < CALLS; i++) {
            for (int j = 0; j < CHUNKS; j++)
                c[j] = (msa_kern_chunk){(i / 2 % 3 * 5 + j) % ROWS, 1};
            c[i % CHUNKS].start = i % 4 ? c[i % CHUNKS].start : i % ROWS;
            OK(msa_kern_pool(s->k, streams[i % 7 == 0], x, true, 1, 0, 1, c, CHUNKS, out + i * CHUNKS, NULL));
            memset(c, 0xff, sizeof c);
        }
        OK(msa_kern_sync(s->k, NULL, NULL));
        OK(msa_kern_sync(s->k, streams[1], NULL));
        OK(msa_kern_copy(s->k, NULL, got, out, sizeof got, NULL));
        OK(msa_kern_sync(s->k, NULL, NULL));
        for (int i = 0; i < CALLS; i++)
            for (int j = 0; j < CHUNKS; j++) {
                const int usual = (i / 2 % 3 * 5 + j) % ROWS;
                assert_true(got[i][j] == (float)(j == i % CHUNKS && i % 4 == 0 ? i % ROWS : usual));
            }
        msa_kern_stream_free(s->k, streams[1]);
        msa_kern_free(s->k, x, MSA_MEM_DEVICE);
        msa_kern_free(s->k, out, MSA_MEM_DEVICE);
    }
}

static int close_all(void **unused)
{
    (void)unused;
    EACH_SUBJECT(s) {
        msa_kern_close(s->k);
        msa_kern_close(s->ref);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(backends_and_reservations),
        cmocka_unit_test(arrays_may_change_and_return),
    };
    const char *names[] = {"ref", "cpu"};
    for (int i = 0; i < (argc > 1 ? 1 : 2); i++)
        for (int act = MSA_F32; act <= MSA_BF16; act++) {
            const char *name = argc > 1 ? argv[1] : names[i];
            msa_kern *k = msa_test_kern(name, (msa_dtype)act, 2);
            if (!k)
                return 1;
            subjects[n_subjects++] =
                (struct subject){name, (msa_dtype)act, k, msa_test_kern("ref", (msa_dtype)act, 1)};
        }
    return cmocka_run_group_tests(tests, NULL, close_all);
}
