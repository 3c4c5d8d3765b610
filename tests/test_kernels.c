/* Every operation of every backend: hand-computed cases, then the reference as
 * the yardstick on seeded shapes with odd tails. A name on the command line
 * ("cuda:0") is tested instead of the CPU backends. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "kernels/dtype.h"
#include "tests/support_kernels.h"

#define OK(call) assert_int_equal((call), MSA_OK)

/* ---- hand-computed cases -------------------------------------------------------- */

static void norm_linear_embed_by_hand(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        msa_kern *k = s->k;
        float out[6];
        /* rows (3,4) and (0,0): mean squares 12.5 and 0; eps 3.5 makes the root 4 */
        msa_tensor x = msa_tensor_of(k, MSA_F32, (float[]){3, 4, 0, 0}, 4);
        msa_tensor gamma = msa_tensor_of(k, MSA_F32, (float[]){1, 2}, 2);
        msa_tensor y = msa_tensor_new(k, s->act, 4);
        OK(msa_kern_rms_norm(k, NULL, x.p, gamma.p, 3.5f, 2, 2, y.p, NULL));
        msa_tensor_read(&y, out);
        assert_float_equal(out[0], 0.75, 1e-6);
        assert_float_equal(out[1], 2.0, 1e-6);
        assert_float_equal(out[2], 0, 0);
        msa_tensor_done(&x), msa_tensor_done(&gamma), msa_tensor_done(&y);

        /* W = [[1,2],[3,4],[5,6]], x = (1,10) */
        msa_kern_weight *w;
        OK(msa_kern_weight_new(k, (float[]){1, 2, 3, 4, 5, 6}, MSA_F32, 3, 2, &w, NULL));
        assert_true(msa_kern_weight_bytes(w) >= 6 * msa_dtype_bytes(s->act));
        x = msa_tensor_of(k, s->act, (float[]){1, 10}, 2);
        y = msa_tensor_of(k, MSA_F32, (float[]){100, 200, 300}, 3);
        msa_tensor a = msa_tensor_new(k, s->act, 3);
        OK(msa_kern_linear(k, NULL, w, x.p, 1, y.p, MSA_LINEAR_ADD, NULL));
        OK(msa_kern_linear(k, NULL, w, x.p, 1, a.p, MSA_LINEAR_ACT, NULL));
        msa_tensor_read(&y, out);
        assert_true(out[0] == 121 && out[1] == 243 && out[2] == 365);
        OK(msa_kern_linear(k, NULL, w, x.p, 1, y.p, MSA_LINEAR_F32, NULL));
        msa_tensor_read(&y, out);
        assert_true(out[0] == 21 && out[1] == 43 && out[2] == 65);
        msa_tensor_read(&a, out);
        assert_true(out[0] == 21 && out[1] == 43 && out[2] == 65);
        msa_tensor_done(&x), msa_tensor_done(&y), msa_tensor_done(&a);

        msa_tensor ids = msa_tensor_raw(k, (int32_t[]){2, 0, 2}, 3, 4);
        y = msa_tensor_new(k, MSA_F32, 6);
        OK(msa_kern_embed(k, NULL, w, ids.p, 3, y.p, NULL));
        msa_tensor_read(&y, out);
        assert_memory_equal(out, ((float[]){5, 6, 1, 2, 5, 6}), sizeof out);
        msa_tensor_done(&ids), msa_tensor_done(&y);
        msa_kern_weight_free(k, w);
    }
}

static void rope_swiglu_by_hand(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        msa_kern *k = s->k;
        double tol = s->act == MSA_F32 ? 2e-6 : 8e-3;
        msa_kern_heads h = {1, 1, 4};
        float out[24];
        /* theta 100: frequencies 1 and 0.1; the second row stands at position 3 */
        float row[12] = {1, 0, 0, 1, 0, 2, 1, 0, 7, 8, 9, 10}, two[24];
        memcpy(two, row, sizeof row);
        memcpy(two + 12, row, sizeof row);
        msa_tensor x = msa_tensor_of(k, s->act, two, 24);
        msa_tensor pos = msa_tensor_raw(k, (int64_t[]){0, 3}, 2, 8);
        OK(msa_kern_qk_rope(k, NULL, x.p, 2, h, NULL, NULL, 0, pos.p, 100, NULL));
        msa_tensor_read(&x, out);
        assert_memory_equal(out, row, sizeof row);
        float want[12] = {cosf(3), -sinf(0.3f), sinf(3), cosf(0.3f),
                          -sinf(3), 2 * cosf(0.3f), cosf(3), 2 * sinf(0.3f), 7, 8, 9, 10};
        for (int i = 0; i < 12; i++)
            assert_float_equal(out[12 + i], want[i], tol);
        msa_tensor_done(&x);
        /* with q norm: (3,0,0,4) has mean square 6.25, root 2.5 */
        x = msa_tensor_of(k, s->act, (float[]){3, 0, 0, 4, 0, 0, 2, 0, 1, 1, 1, 1}, 12);
        msa_tensor gq = msa_tensor_of(k, MSA_F32, (float[]){1, 1, 1, 0.5f}, 4);
        msa_tensor gk = msa_tensor_of(k, MSA_F32, (float[]){1, 1, 3, 1}, 4);
        OK(msa_kern_qk_rope(k, NULL, x.p, 1, h, gq.p, gk.p, 0, pos.p, 100, NULL));
        msa_tensor_read(&x, out);
        float normed[12] = {1.2f, 0, 0, 0.8f, 0, 0, 6, 0, 1, 1, 1, 1};
        for (int i = 0; i < 12; i++)
            assert_float_equal(out[i], normed[i], tol);
        msa_tensor_done(&x), msa_tensor_done(&pos), msa_tensor_done(&gq), msa_tensor_done(&gk);

        /* silu(0) = 0, silu(1) = 0.7310586, silu(-200) = 0, silu(200) = 200 */
        x = msa_tensor_of(k, s->act, (float[]){0, 1, -200, 200, 5, 2, 3, 0.5f}, 8);
        msa_tensor y = msa_tensor_new(k, s->act, 4);
        OK(msa_kern_swiglu(k, NULL, x.p, 1, 4, y.p, NULL));
        msa_tensor_read(&y, out);
        assert_float_equal(out[0], 0, 0);
        assert_float_equal(out[1], 2 * 0.7310586, tol);
        assert_float_equal(out[2], 0, 1e-30);
        assert_float_equal(out[3], 100, 1e-4);
        msa_tensor_done(&x), msa_tensor_done(&y);
    }
}

static void attention_by_hand(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        msa_kern *k = s->k;
        double tol = s->act == MSA_F32 ? 2e-6 : 1.6e-2;
        msa_kern_heads h = {2, 1, 4}; /* scale 1/2 */
        /* rows: q head 0, q head 1, k, v; the second and third are a sequence */
        float x[3][16] = {{9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 1, 2, 3, 4},
                          {1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, -8},
                          {2, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 2, 0, 4, 0, 16}};
        msa_tensor qkv = msa_tensor_of(k, s->act, &x[0][0], 48);
        msa_tensor y = msa_tensor_new(k, s->act, 24);
        OK(msa_kern_attn_packed(k, NULL, qkv.p, 3, h, (int64_t[]){0, 1, 1, 3}, 3, y.p, NULL));
        float out[24];
        msa_tensor_read(&y, out);
        /* one key: its value, whatever the query */
        for (int i = 0; i < 4; i++) {
            assert_float_equal(out[i], x[0][12 + i], 0);
            assert_float_equal(out[8 + i], x[1][12 + i], 0);
            assert_float_equal(out[12 + i], x[1][12 + i], 0);
        }
        /* head 0: scores 0 and 2/2; head 1: 0 and 8/2 */
        double p0 = 1 / (1 + exp(-1)), p1 = 1 / (1 + exp(-4));
        assert_float_equal(out[16], 8 * (1 - p0), 4 * tol);
        assert_float_equal(out[17], 4 * p0, 4 * tol);
        assert_float_equal(out[19], -8 * (1 - p0) + 16 * p0, 8 * tol);
        assert_float_equal(out[20], 8 * (1 - p1), 4 * tol);
        assert_float_equal(out[23], -8 * (1 - p1) + 16 * p1, 8 * tol);
        msa_tensor_done(&qkv), msa_tensor_done(&y);
    }
}

static void pooling_by_hand(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        msa_kern *k = s->k;
        float out[6];
        /* columns 1..2 of 4 rows of 3; chunks of 3 and 1 rows */
        msa_tensor x = msa_tensor_of(k, s->act, (float[]){9, 1, 2, 9, 3, 4, 9, 5, 9, 9, 7, 8}, 12);
        msa_tensor y = msa_tensor_new(k, MSA_F32, 4);
        msa_kern_chunk chunks[2] = {{0, 3}, {3, 1}};
        OK(msa_kern_pool(k, NULL, x.p, s->act == MSA_F32, 3, 1, 2, chunks, 2, y.p, NULL));
        msa_tensor_read(&y, out);
        assert_float_equal(out[0], 3, 1e-6);
        assert_float_equal(out[1], 5, 1e-6);
        assert_float_equal(out[2], 7, 0);
        assert_float_equal(out[3], 8, 0);
        msa_tensor_done(&x), msa_tensor_done(&y);

        x = msa_tensor_of(k, MSA_F32, (float[]){3, 4, 0, 0, 0, -2}, 6);
        OK(msa_kern_unit_heads(k, NULL, x.p, 1, 3, 2, NULL));
        msa_tensor_read(&x, out);
        float unit[6] = {0.6f, 0.8f, 0, 0, 0, -1};
        for (int i = 0; i < 6; i++)
            assert_float_equal(out[i], unit[i], 1e-6);
        msa_tensor_done(&x);

        x = msa_tensor_of(k, MSA_F32, (float[]){1, 2, 3, 4, 5, 6}, 6);
        y = msa_tensor_new(k, MSA_F32, 4);
        OK(msa_kern_gather(k, NULL, x.p, 2, (int64_t[]){2, 0}, 2, y.p, NULL));
        msa_tensor_read(&y, out);
        assert_memory_equal(out, ((float[]){5, 6, 1, 2}), 16);
        msa_tensor_done(&x), msa_tensor_done(&y);
    }
}

/* The bits of rounding: ties to even, NaN stays NaN, infinity stays. */
static void conversion_rounds_to_even(void **unused)
{
    (void)unused;
    static const struct {
        uint32_t f32;
        uint16_t bf16;
    } cases[] = {{0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82},
                 {0x3f808001, 0x3f81}, {0x3f807fff, 0x3f80}, {0x7f800000, 0x7f80},
                 {0xff800000, 0xff80}, {0x7f7fffff, 0x7f80}, {0x80000000, 0x8000},
                 {0x7f800001, 0x7fc0}, {0xbf818000, 0xbf82}, {0x00008000, 0x0000},
                 {0x00018000, 0x0002}, {0xffc12345, 0xffc1}};
    enum { N = sizeof cases / sizeof *cases };
    MSA_EACH_SUBJECT(s) {
        msa_kern *k = s->k;
        /* 3 rows of N behind each other, as tails and whole vectors */
        uint32_t in[3 * N], back[3 * N];
        uint16_t out[3 * N];
        for (int i = 0; i < 3 * N; i++)
            in[i] = cases[i % N].f32;
        for (int64_t cols = 1; cols <= 3 * N; cols = cols == 1 ? N : 3 * cols) {
            int64_t rows = 3 * N / cols;
            msa_tensor x = msa_tensor_raw(k, in, 3 * N, 4), y = msa_tensor_new(k, MSA_BF16, 3 * N);
            msa_tensor z = msa_tensor_new(k, MSA_F32, 3 * N);
            OK(msa_kern_convert(k, NULL, x.p, MSA_F32, cols, y.p, MSA_BF16, cols, cols, rows, NULL));
            OK(msa_kern_convert(k, NULL, y.p, MSA_BF16, cols, z.p, MSA_F32, cols, cols, rows, NULL));
            msa_tensor_bytes(&y, out);
            msa_tensor_bytes(&z, back);
            for (int i = 0; i < 3 * N; i++) {
                assert_int_equal(out[i], cases[i % N].bf16);
                assert_int_equal(back[i], (uint32_t)out[i] << 16);
            }
            msa_tensor_done(&x), msa_tensor_done(&y), msa_tensor_done(&z);
        }
        /* strides: columns between stay as they were */
        float four[8] = {1, 2, 3, 4, 5, 6, 7, 8}, got[6];
        msa_tensor x = msa_tensor_of(k, MSA_F32, four, 8);
        msa_tensor y = msa_tensor_of(k, MSA_F32, (float[]){0, 0, -1, 0, 0, -1}, 6);
        OK(msa_kern_convert(k, NULL, x.p, MSA_F32, 4, y.p, MSA_F32, 3, 2, 2, NULL));
        msa_tensor_read(&y, got);
        assert_memory_equal(got, ((float[]){1, 2, -1, 5, 6, -1}), sizeof got);
        msa_tensor_done(&x), msa_tensor_done(&y);
    }
}

static void half_precision_weights(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        /* 1, -2, smallest subnormal, 65504 */
        uint16_t half[4] = {0x3c00, 0xc000, 0x0001, 0x7bff};
        float want[4] = {1, -2, 0x1p-24f, 65504}, out[4];
        if (s->act == MSA_BF16)
            want[3] = 65536;
        msa_kern_weight *w;
        OK(msa_kern_weight_new(s->k, half, MSA_F16, 1, 4, &w, NULL));
        msa_tensor ids = msa_tensor_raw(s->k, (int32_t[]){0}, 1, 4);
        msa_tensor y = msa_tensor_new(s->k, MSA_F32, 4);
        OK(msa_kern_embed(s->k, NULL, w, ids.p, 1, y.p, NULL));
        msa_tensor_read(&y, out);
        assert_memory_equal(out, want, sizeof out);
        msa_tensor_done(&ids), msa_tensor_done(&y);
        msa_kern_weight_free(s->k, w);
    }
}

static void routing_by_hand(void **unused)
{
    (void)unused;
    static const msa_reduce reduces[] = {MSA_REDUCE_MAX, MSA_REDUCE_MEAN, MSA_REDUCE_LAST};
    MSA_EACH_SUBJECT(s) {
        msa_kern *k = s->k;
        /* two query heads on one key head of 2; tokens (3,4 | 0,2) and (1,0 | 0,1)
         * unit: (.6,.8 | 0,1) and (1,0 | 0,1); scale 10
         * keys (1,0) and (0,1): per head 6,0 and 8,10; then 10,0 and 0,10 */
        float want_mean[3][2] = {{5, 9}, {4, 7}, {5, 5}}, want_max[3][2] = {{10, 10}, {8, 10}, {10, 10}};
        msa_tensor rq = msa_tensor_of(k, s->act, (float[]){3, 4, 0, 2, 77, 1, 0, 0, 1, 77}, 10);
        msa_tensor rk = msa_tensor_of(k, MSA_F32, (float[]){1, 0, 77, 0, 1, 77}, 6);
        for (int head = 0; head < 2; head++)
            for (int q = 0; q < 3; q++) {
                msa_kern_route r = {.h = {2, 1, 2}, .unit = true, .scale = 10,
                                    .head = head ? MSA_REDUCE_MAX : MSA_REDUCE_MEAN,
                                    .query = reduces[q], .chunk = MSA_REDUCE_MAX};
                assert_int_equal(msa_kern_route_width(&r), head ? 4 : 2);
                msa_tensor p = msa_tensor_new(k, MSA_F32, 2 * msa_kern_route_width(&r));
                msa_tensor y = msa_tensor_new(k, MSA_F32, 4);
                OK(msa_kern_router_query(k, NULL, &r, rq.p, s->act == MSA_F32, 5, 2, p.p, NULL));
                /* the second question is the last token alone */
                OK(msa_kern_scan(k, NULL, &r, p.p, (int64_t[]){0, 2}, 1, rk.p, MSA_F32, NULL, 3, 2, y.p,
                                 NULL));
                float out[4];
                msa_tensor_read(&y, out);
                for (int c = 0; c < 2; c++)
                    assert_float_equal(out[c], head ? want_max[q][c] : want_mean[q][c], 2e-5);
                msa_tensor_done(&p), msa_tensor_done(&y);
            }
        msa_tensor_done(&rq), msa_tensor_done(&rk);

        /* documents of 1, 2 and 1 chunks; two questions; added to what is there */
        msa_kern_route r = {.h = {1, 1, 1}, .scale = 1, .query = MSA_REDUCE_MAX};
        msa_tensor cs = msa_tensor_of(k, MSA_F32, (float[]){1, 2, 6, 4, -1, -2, -6, -4}, 8);
        msa_tensor dc = msa_tensor_raw(k, (int64_t[]){0, 1, 3, 4}, 4, 8);
        msa_tensor y = msa_tensor_new(k, MSA_F32, 6);
        float out[6];
        r.chunk = MSA_REDUCE_MAX;
        OK(msa_kern_doc_scores(k, NULL, &r, cs.p, 2, 4, dc.p, 3, 0.5f, false, y.p, NULL));
        msa_tensor_read(&y, out);
        assert_memory_equal(out, ((float[]){0.5f, 3, 2, -0.5f, -1, -2}), sizeof out);
        r.chunk = MSA_REDUCE_MEAN;
        OK(msa_kern_doc_scores(k, NULL, &r, cs.p, 2, 4, dc.p, 3, 1, true, y.p, NULL));
        msa_tensor_read(&y, out);
        assert_memory_equal(out, ((float[]){1.5f, 7, 6, -1.5f, -5, -6}), sizeof out);
        msa_tensor_done(&cs), msa_tensor_done(&dc), msa_tensor_done(&y);
    }
}

static void best_lists_keep_order_and_ties(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        msa_kern *k = s->k;
        enum { K = 3 };
        msa_kern_best got[2 * K], zero = {0};
        msa_tensor best = msa_tensor_raw(k, (msa_kern_best[2 * K]){zero}, 2 * K, sizeof zero);
        OK(msa_kern_topk_init(k, NULL, 2, K, best.p, NULL));
        msa_tensor_bytes(&best, got);
        for (int i = 0; i < 2 * K; i++)
            assert_true(got[i].doc == -1 && got[i].pad == 0);
        msa_tensor sc = msa_tensor_of(
            k, MSA_F32, (float[]){1, NAN, 5, 5, -INFINITY, -1, -2, -3, -4, -5}, 10);
        msa_tensor ids = msa_tensor_raw(k, (int64_t[]){10, 11, 13, 12, 14}, 5, 8);
        msa_tensor alive = msa_tensor_raw(k, (uint8_t[]){1, 1, 1, 1, 0}, 5, 1);
        OK(msa_kern_topk_merge(k, NULL, sc.p, 2, 5, ids.p, NULL, K, best.p, NULL));
        msa_tensor_bytes(&best, got);
        assert_true(got[0].doc == 12 && got[0].score == 5);
        assert_true(got[1].doc == 13 && got[1].score == 5);
        assert_true(got[2].doc == 10 && got[2].score == 1);
        assert_true(got[3].doc == 10 && got[4].doc == 11 && got[5].doc == 13);
        msa_tensor_done(&ids);
        /* a later extent: ties go to the smaller id though it comes later */
        ids = msa_tensor_raw(k, (int64_t[]){7, 21, 22, 1LL << 40, 2}, 5, 8);
        OK(msa_kern_topk_merge(k, NULL, sc.p, 2, 5, ids.p, alive.p, K, best.p, NULL));
        msa_tensor_bytes(&best, got);
        assert_true(got[0].doc == 12 && got[1].doc == 13 && got[2].doc == 22);
        assert_true(got[3].doc == 7 && got[4].doc == 10 && got[5].doc == 11);
        assert_true(got[3].score == -1 && got[4].score == -1 && got[5].score == -2);
        /* what is offered again stands twice, ties beyond the last place or not */
        OK(msa_kern_topk_init(k, NULL, 2, K, best.p, NULL));
        for (int i = 0; i < 2; i++)
            OK(msa_kern_topk_merge(k, NULL, sc.p, 2, 5, ids.p, alive.p, K, best.p, NULL));
        msa_tensor_bytes(&best, got);
        assert_true(got[0].doc == 22 && got[1].doc == 22 && got[2].doc == 1LL << 40);
        assert_true(got[3].doc == 7 && got[4].doc == 7 && got[5].doc == 21);
        /* every list entry withdrawn or NaN: places stay empty */
        OK(msa_kern_topk_init(k, NULL, 2, K, best.p, NULL));
        msa_tensor none = msa_tensor_raw(k, (uint8_t[]){0, 1, 0, 0, 0}, 5, 1);
        OK(msa_kern_topk_merge(k, NULL, sc.p, 1, 5, ids.p, none.p, K, best.p, NULL));
        msa_tensor_bytes(&best, got);
        assert_true(got[0].doc == -1 && got[1].doc == -1 && got[2].doc == -1);
        msa_tensor_done(&sc), msa_tensor_done(&ids), msa_tensor_done(&alive);
        msa_tensor_done(&best), msa_tensor_done(&none);
    }
}

static int32_t sample_one(msa_kern *k, const float *logits, int64_t V, msa_kern_sample p)
{
    msa_tensor l = msa_tensor_of(k, MSA_F32, logits, V);
    int32_t id = -7;
    OK(msa_kern_sample_tokens(k, NULL, l.p, 1, V, &p, &id, NULL));
    msa_tensor_done(&l);
    return id;
}

static void sampling_by_hand(void **unused)
{
    (void)unused;
    float wide[40];
    MSA_EACH_SUBJECT(s) {
        msa_kern *k = s->k;
        for (int i = 0; i < 40; i++)
            wide[i] = i == 17 || i == 39 ? 3 : -1;
        assert_int_equal(sample_one(k, wide, 40, (msa_kern_sample){0, 1, 0.9f}), 17);
        wide[3] = INFINITY;
        assert_int_equal(sample_one(k, wide, 40, (msa_kern_sample){0, 1, 0.9f}), 3);
        assert_int_equal(sample_one(k, wide, 40, (msa_kern_sample){1, 1, 0.9f}), 3);
        for (int i = 0; i < 40; i++)
            wide[i] = -INFINITY;
        assert_int_equal(sample_one(k, wide, 40, (msa_kern_sample){0, 1, 0}), 0);

        /* probabilities 0.5, 0.25, 0.25 (tie: id 1 before id 2) at ids 3, 1, 2 */
        float l[4] = {-50, 0, 0, logf(2)};
        struct {
            float top_p, u;
            int32_t want;
        } cases[] = {{1, 0, 3},       {1, 0.49f, 3},    {1, 0.51f, 1},   {1, 0.74f, 1},
                     {1, 0.76f, 2},   {1, 0.9999f, 2},  {0.4f, 0.99f, 3}, {0.6f, 0.65f, 3},
                     {0.6f, 0.68f, 1}, {0.6f, 0.99f, 1}, {0.01f, 0.99f, 3}};
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            assert_int_equal(
                sample_one(k, l, 4, (msa_kern_sample){1, cases[i].top_p, cases[i].u}),
                cases[i].want);
        /* temperature 1/2 squares the odds: 2/3, 1/6, 1/6 */
        assert_int_equal(sample_one(k, l, 4, (msa_kern_sample){0.5f, 1, 0.66f}), 3);
        assert_int_equal(sample_one(k, l, 4, (msa_kern_sample){0.5f, 1, 0.67f}), 1);
        /* a hair above 0: the largest */
        assert_int_equal(sample_one(k, l, 4, (msa_kern_sample){1e-40f, 1, 0.9f}), 3);
        /* a flat row needs all of the vocabulary */
        for (int i = 0; i < 40; i++)
            wide[i] = (float)-i;
        assert_int_equal(sample_one(k, wide, 40, (msa_kern_sample){1000, 1, 0.999f}), 39);
        assert_int_equal(sample_one(k, wide, 40, (msa_kern_sample){1, 0.99999f, 0.99999f}), 11);

        float rows[3][20] = {{0}};
        rows[2][19] = NAN;
        msa_tensor t = msa_tensor_of(k, MSA_F32, &rows[0][0], 60);
        msa_kern_sample p[3] = {{0, 1, 0}, {0, 1, 0}, {0, 1, 0}};
        int32_t out[3];
        msa_err err;
        msa_err_init(&err);
        assert_int_equal(msa_kern_sample_tokens(k, NULL, t.p, 3, 20, p, out, &err), MSA_FATAL);
        assert_int_equal(err.code, MSA_E_DATA);
        assert_non_null(strstr(err.msg, "row 2"));
        msa_tensor_done(&t);
    }
}

/* ---- against the reference ------------------------------------------------------------ */

static void linear_case(const msa_subject *s, int64_t M, int64_t N, int64_t K)
{
    float *w = msa_rand_new(N * K, 1), *x = msa_rand_new(M * K, 1), *y = msa_rand_new(M * N, 8);
    float *out[2][4];
    for (int side = 0; side < 2; side++) {
        msa_kern *k = side ? s->ref : s->k;
        msa_kern_weight *kw;
        OK(msa_kern_weight_new(k, w, MSA_F32, N, K, &kw, NULL));
        msa_tensor tx = msa_tensor_of(k, s->act, x, M * K);
        for (int mode = 0; mode < 3; mode++) {
            msa_tensor ty = mode == MSA_LINEAR_ACT ? msa_tensor_new(k, s->act, M * N)
                                                   : msa_tensor_of(k, MSA_F32, y, M * N);
            OK(msa_kern_linear(k, NULL, kw, tx.p, M, ty.p, (msa_linear_mode)mode, NULL));
            out[side][mode] = malloc((size_t)(M * N) * 4);
            msa_tensor_read(&ty, out[side][mode]);
            msa_tensor_done(&ty);
        }
        int32_t *ids = malloc((size_t)M * 4);
        for (int64_t m = 0; m < M; m++)
            ids[m] = (int32_t)((m * 7 + 3) % N);
        msa_tensor ti = msa_tensor_raw(k, ids, M, 4), te = msa_tensor_new(k, MSA_F32, M * K);
        OK(msa_kern_embed(k, NULL, kw, ti.p, M, te.p, NULL));
        out[side][3] = malloc((size_t)(M * K) * 4);
        msa_tensor_read(&te, out[side][3]);
        msa_tensor_done(&ti), msa_tensor_done(&te), msa_tensor_done(&tx);
        free(ids);
        msa_kern_weight_free(k, kw);
    }
    msa_check_close(s, out[0][0], out[1][0], M * N, msa_sum_bound(s), "linear act");
    msa_check_close(s, out[0][1], out[1][1], M * N, 2e-12, "linear f32");
    msa_check_close(s, out[0][2], out[1][2], M * N, 2e-12, "linear add");
    assert_memory_equal(out[0][3], out[1][3], (size_t)(M * K) * 4);
    for (int i = 0; i < 8; i++)
        free(out[i / 4][i % 4]);
    free(w), free(x), free(y);
}

static void linear_agrees(void **unused)
{
    (void)unused;
    static const int64_t fixed[][3] = {{1, 1, 1}, {1, 64, 32}, {6, 65, 33}, {7, 16, 1}, {97, 130, 77},
                                       {200, 257, 64}, {16, 512, 256}, {2, 63, 2}};
    MSA_EACH_SUBJECT(s) {
        msa_rand_seed(1);
        for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
            linear_case(s, fixed[i][0], fixed[i][1], fixed[i][2]);
        for (int i = 0; i < 12; i++)
            linear_case(s, msa_rand_int(1, 40), msa_rand_int(1, 200), msa_rand_int(1, 150));
    }
}

/* Row operations with one input and one output, each at odd widths. */
static void rows_agree(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        msa_rand_seed(2);
        for (int round = 0; round < 24; round++) {
            int64_t M = msa_rand_int(1, 70), E = msa_rand_int(1, 90);
            msa_kern_heads h = {msa_rand_int(1, 3), msa_rand_int(1, 3), 2 * msa_rand_int(1, 40)};
            h.H *= h.G;
            int64_t width = (h.H + 2 * h.G) * h.D;
            bool norm = round & 1;
            float *x = msa_rand_new(M * E, 3), *gamma = msa_rand_new(256, 2);
            float *gu = msa_rand_new(M * 2 * E, 12), *qkv = msa_rand_new(M * width, 2);
            int64_t *pos = malloc((size_t)M * 8);
            for (int64_t m = 0; m < M; m++)
                pos[m] = round == 3 ? 100000 + 977 * m : msa_rand_int(0, 5000);
            float *out[2][4];
            for (int side = 0; side < 2; side++) {
                msa_kern *k = side ? s->ref : s->k;
                msa_tensor tg = msa_tensor_of(k, MSA_F32, gamma, 256);
                msa_tensor tx = msa_tensor_of(k, MSA_F32, x, M * E);
                msa_tensor tu = msa_tensor_of(k, s->act, gu, M * 2 * E);
                msa_tensor tq = msa_tensor_of(k, s->act, qkv, M * width);
                msa_tensor tp = msa_tensor_raw(k, pos, M, 8);
                msa_tensor a = msa_tensor_new(k, s->act, M * E);
                msa_tensor b = msa_tensor_new(k, s->act, M * E);
                OK(msa_kern_rms_norm(k, NULL, tx.p, tg.p, 1e-5f, M, E, a.p, NULL));
                OK(msa_kern_swiglu(k, NULL, tu.p, M, E, b.p, NULL));
                OK(msa_kern_qk_rope(k, NULL, tq.p, M, h, norm ? tg.p : NULL,
                                    norm ? (float *)tg.p + h.D : NULL, 1e-6f, tp.p,
                                    round & 2 ? 1e6 : 1e4, NULL));
                OK(msa_kern_unit_heads(k, NULL, tx.p, M, 1, E, NULL));
                msa_tensor *read[4] = {&a, &b, &tq, &tx};
                for (int i = 0; i < 4; i++) {
                    out[side][i] = malloc((size_t)read[i]->n * 4);
                    msa_tensor_read(read[i], out[side][i]);
                }
                msa_tensor_done(&tg), msa_tensor_done(&tx), msa_tensor_done(&tu);
                msa_tensor_done(&tq), msa_tensor_done(&tp), msa_tensor_done(&a);
                msa_tensor_done(&b);
            }
            msa_check_close(s, out[0][0], out[1][0], M * E, msa_sum_bound(s), "rms_norm");
            msa_check_close(s, out[0][1], out[1][1], M * E, msa_sum_bound(s), "swiglu");
            msa_check_close(s, out[0][2], out[1][2], M * width, msa_sum_bound(s), "qk_rope");
            msa_check_close(s, out[0][3], out[1][3], M * E, 2e-12, "unit_heads");
            for (int i = 0; i < 8; i++)
                free(out[i / 4][i % 4]);
            free(x), free(gamma), free(gu), free(qkv), free(pos);
        }
    }
}

static void packed_attention_agrees(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        msa_rand_seed(3);
        for (int round = 0; round < 10; round++) {
            msa_kern_heads h = {msa_rand_int(1, 3), msa_rand_int(1, 2), msa_rand_int(1, 80)};
            if (round == 0)
                h = (msa_kern_heads){3, 1, 64};
            if (round == 1)
                h = (msa_kern_heads){1, 1, 128};
            if (round == 2)
                h = (msa_kern_heads){1, 1, 33};
            h.H *= h.G;
            int64_t start[8] = {msa_rand_int(0, 3)}, S = msa_rand_int(1, 7);
            for (int64_t i = 0; i < S; i++)
                start[i + 1] = start[i] + msa_rand_int(0, i == 1 ? 160 : 30);
            int64_t M = start[S] + 2, width = (h.H + 2 * h.G) * h.D;
            float *x = msa_rand_new(M * width, 2), *out[2];
            for (int side = 0; side < 2; side++) {
                msa_kern *k = side ? s->ref : s->k;
                msa_tensor tx = msa_tensor_of(k, s->act, x, M * width);
                msa_tensor y = msa_tensor_new(k, s->act, M * h.H * h.D);
                OK(msa_kern_attn_packed(k, NULL, tx.p, M, h, start, S, y.p, NULL));
                out[side] = malloc((size_t)y.n * 4);
                msa_tensor_read(&y, out[side]);
                msa_tensor_done(&tx), msa_tensor_done(&y);
            }
            /* rows outside all sequences stay as they were on both sides */
            msa_check_close(s, out[0], out[1], M * h.H * h.D, msa_attn_bound(s), "attn_packed");
            free(x), free(out[0]), free(out[1]);
        }
    }
}

static void memory_attention_agrees(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        msa_rand_seed(4);
        for (int round = 0; round < 12; round++) {
            msa_kern_heads h = {msa_rand_int(1, 3), msa_rand_int(1, 3), msa_rand_int(1, 80)};
            if (round % 3 == 0)
                h.D = 64;
            h.H *= h.G;
            int64_t width = h.G * h.D, stride = width + msa_rand_int(0, 5);
            enum { B = 3, SEGS = 7, SEG_ROWS = 40, CACHE = 150 };
            int64_t rows[B + 1] = {0}, segs[B + 1] = {0, 0, 4, SEGS}, lens[B], n_rows[SEGS];
            for (int b = 0; b < B; b++) {
                int64_t n = round % 2 ? 1 : msa_rand_int(0, 110);
                rows[b + 1] = rows[b] + n;
                lens[b] = n + msa_rand_int(0, CACHE - 110);
            }
            for (int i = 0; i < SEGS; i++)
                n_rows[i] = i == 2 ? 0 : msa_rand_int(1, SEG_ROWS);
            int64_t M = rows[B], q_stride = h.H * h.D + 3;
            float *q = msa_rand_new((M + 1) * q_stride, 2), *bank = msa_rand_new(2 * SEG_ROWS * stride, 2);
            float *cache = msa_rand_new(2 * CACHE * width, 2), *out[2];
            for (int side = 0; side < 2; side++) {
                msa_kern *k = side ? s->ref : s->k;
                msa_tensor tq = msa_tensor_of(k, s->act, q, M * q_stride);
                msa_tensor tb[2] = {msa_tensor_of(k, MSA_F32, bank, 2 * SEG_ROWS * stride),
                                    msa_tensor_of(k, MSA_BF16, bank, 2 * SEG_ROWS * stride)};
                msa_tensor tc = msa_tensor_of(k, s->act, cache, 2 * CACHE * width);
                msa_tensor y = msa_tensor_new(k, s->act, M * h.H * h.D);
                msa_kern_seg seg[SEGS];
                msa_kern_cache c[B];
                for (int i = 0; i < SEGS; i++) {
                    msa_tensor *from = &tb[i & 1];
                    seg[i] = (msa_kern_seg){.k = from->p, .n_rows = n_rows[i], .stride = stride,
                                            .dtype = from->type,
                                            .v = msa_elem_at(from->p, from->type, SEG_ROWS * stride)};
                }
                for (int b = 0; b < B; b++)
                    c[b] = (msa_kern_cache){.k = tc.p, .len = lens[b],
                                            .v = msa_elem_at(tc.p, s->act, CACHE * width)};
                OK(msa_kern_attn_memory(k, NULL, tq.p, q_stride, h, B, rows, seg, segs, c, y.p, NULL));
                out[side] = malloc((size_t)y.n * 4 + 1);
                msa_tensor_read(&y, out[side]);
                msa_tensor_done(&tq), msa_tensor_done(&tb[0]), msa_tensor_done(&tb[1]);
                msa_tensor_done(&tc), msa_tensor_done(&y);
            }
            msa_check_close(s, out[0], out[1], M * h.H * h.D, msa_attn_bound(s), "attn_memory");
            free(q), free(bank), free(cache), free(out[0]), free(out[1]);
        }
    }
}

/* A sequence whose first rows came through the cache attends as a whole one. */
static void cache_continues_a_sequence(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        msa_kern *k = s->k;
        msa_kern_heads h = {6, 2, 32};
        enum { L = 90, AT = 61 };
        int64_t width = (h.H + 2 * h.G) * h.D, kv = h.G * h.D, o = h.H * h.D;
        msa_rand_seed(5);
        float *x = msa_rand_new(L * width, 2), whole[L * 6 * 32], part[L * 6 * 32];
        msa_tensor tx = msa_tensor_of(k, s->act, x, L * width);
        msa_tensor y = msa_tensor_new(k, s->act, L * o), z = msa_tensor_new(k, s->act, L * o);
        OK(msa_kern_attn_packed(k, NULL, tx.p, L, h, (int64_t[]){0, L}, 1, y.p, NULL));
        msa_tensor ck = msa_tensor_new(k, s->act, L * kv), cv = msa_tensor_new(k, s->act, L * kv);
        void *pk[1] = {ck.p}, *pv[1] = {cv.p};
        OK(msa_kern_cache_store(k, NULL, tx.p, h, 1, (int64_t[]){0, AT}, pk, pv, (int64_t[]){0},
                                NULL));
        for (int64_t at = AT; at < L;) {
            int64_t n = at == AT ? 7 : 1; /* some rows at once, then one by one */
            int64_t rows[2] = {0, n};
            const void *from = msa_elem_at(tx.p, s->act, at * width);
            OK(msa_kern_cache_store(k, NULL, from, h, 1, rows, pk, pv, &at, NULL));
            msa_kern_cache c = {ck.p, cv.p, at + n};
            OK(msa_kern_attn_memory(k, NULL, from, width, h, 1, rows, NULL, (int64_t[]){0, 0}, &c,
                                    (void *)msa_elem_at(z.p, s->act, at * o), NULL));
            at += n;
        }
        msa_tensor_read(&y, whole);
        msa_tensor_read(&z, part);
        msa_check_close(s, part + AT * o, whole + AT * o, (L - AT) * o, msa_attn_bound(s), "cached rows");
        msa_tensor_done(&tx), msa_tensor_done(&y), msa_tensor_done(&z);
        msa_tensor_done(&ck), msa_tensor_done(&cv);
        free(x);
    }
}

/* Rotating and keeping at once is rotating, then keeping; rows before the first stay. */
static void rotated_rows_are_kept(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        static const msa_kern_heads shapes[] = {{4, 2, 64}, {2, 1, 128}, {3, 3, 6}};
        enum { B = 3, M = 8, CAP = 5 };
        const int64_t rows[B + 1] = {1, 4, 4, M}, at[B] = {2, 0, 1}, pos[M] = {9, 0, 1, 2, 77, 78, 1000, 1001};
        msa_rand_seed(31);
        for (int round = 0; round < 6; round++) {
            const msa_kern_heads h = shapes[round / 2];
            const bool norm = round % 2;
            const int64_t width = (h.H + 2 * h.G) * h.D, size = CAP * h.G * h.D;
            float *x = msa_rand_new(M * width, 2), *gamma = msa_rand_new(2 * h.D, 1), *out[2][2];
            for (int side = 0; side < 2; side++) {
                msa_tensor tx = msa_tensor_of(s->k, s->act, x, M * width), tg = msa_tensor_of(s->k, MSA_F32, gamma, 2 * h.D);
                msa_tensor tc = msa_tensor_new(s->k, s->act, 2 * B * size + 8), tp = msa_tensor_new(s->k, MSA_I8, M * 8);
                OK(msa_kern_copy(s->k, NULL, tp.p, pos, sizeof pos, NULL));
                const float *gq = norm ? tg.p : NULL, *gk = norm ? (float *)tg.p + h.D : NULL;
                void *ck[B], *cv[B];
                for (int b = 0; b < B; b++) { /* the last one's stand at an odd place */
                    ck[b] = (void *)msa_elem_at(tc.p, s->act, 2 * b * size + (b == 2));
                    cv[b] = (void *)msa_elem_at(tc.p, s->act, (2 * b + 1) * size + (b == 2));
                }
                if (side) {
                    OK(msa_kern_qk_rope_store(s->k, NULL, tx.p, h, gq, gk, 1e-6f, tp.p, 1e4, B, rows, ck, cv, at, NULL));
                } else {
                    OK(msa_kern_qk_rope(s->k, NULL, (void *)msa_elem_at(tx.p, s->act, width), M - 1, h, gq, gk, 1e-6f,
                                        (int64_t *)tp.p + 1, 1e4, NULL));
                    OK(msa_kern_cache_store(s->k, NULL, tx.p, h, B, rows, ck, cv, at, NULL));
                }
                out[side][0] = malloc((size_t)tx.n * 4);
                out[side][1] = malloc((size_t)tc.n * 4);
                msa_tensor_read(&tx, out[side][0]);
                msa_tensor_read(&tc, out[side][1]);
                msa_tensor_done(&tx), msa_tensor_done(&tg), msa_tensor_done(&tc), msa_tensor_done(&tp);
            }
            assert_memory_equal(out[0][0], out[1][0], (size_t)(M * width) * 4);
            assert_memory_equal(out[0][1], out[1][1], (size_t)(2 * B * size + 8) * 4);
            for (int i = 0; i < 4; i++)
                free(out[i / 2][i % 2]);
            free(x), free(gamma);
        }
    }
}

static void routing_agrees(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        msa_rand_seed(6);
        for (int round = 0; round < 18; round++) {
            msa_kern_route r = {.h = {msa_rand_int(1, 3), msa_rand_int(1, 3), msa_rand_int(1, 70)},
                                .unit = round & 1, .scale = 0.7f,
                                .head = round % 3 ? MSA_REDUCE_MEAN : MSA_REDUCE_MAX,
                                .query = (msa_reduce)(round / 3 % 3),
                                .chunk = round & 2 ? MSA_REDUCE_MAX : MSA_REDUCE_MEAN};
            r.h.H *= r.h.G;
            enum { B = 3 };
            int64_t starts[B + 1] = {msa_rand_int(0, 4)};
            for (int b = 0; b < B; b++)
                starts[b + 1] = starts[b] + msa_rand_int(1, 60);
            int64_t T = starts[B], C = msa_rand_int(1, 130), W = r.h.G * r.h.D;
            int64_t wide = r.h.H * r.h.D + 2, stride = W + msa_rand_int(0, 3);
            int64_t N = 0, doc_chunk[131] = {0};
            while (doc_chunk[N] < C) {
                doc_chunk[N + 1] = doc_chunk[N] + msa_rand_int(1, 4);
                N++;
            }
            C = doc_chunk[N];
            msa_dtype kt = round & 4 ? MSA_F32 : MSA_BF16;
            float *rq = msa_rand_new(T * wide, 2), *rk = msa_rand_new(C * stride, 1), *out[2][3];
            for (int side = 0; side < 2; side++) {
                msa_kern *k = side ? s->ref : s->k;
                msa_tensor tq = msa_tensor_of(k, s->act, rq, T * wide);
                msa_tensor tk = msa_tensor_of(k, kt, rk, C * stride);
                msa_tensor td = msa_tensor_raw(k, doc_chunk, N + 1, 8);
                msa_tensor p = msa_tensor_new(k, MSA_F32, T * msa_kern_route_width(&r));
                msa_tensor y = msa_tensor_new(k, MSA_F32, B * C), z = msa_tensor_new(k, MSA_F32, B * N);
                OK(msa_kern_router_query(k, NULL, &r, tq.p, s->act == MSA_F32, wide, T, p.p, NULL));
                OK(msa_kern_scan(k, NULL, &r, p.p, starts, B, tk.p, kt, NULL, stride, C, y.p, NULL));
                OK(msa_kern_doc_scores(k, NULL, &r, y.p, B, C, td.p, N, 0.3f, false, z.p, NULL));
                OK(msa_kern_doc_scores(k, NULL, &r, y.p, B, C, td.p, N, 0.6f, true, z.p, NULL));
                msa_tensor *read[3] = {&p, &y, &z};
                for (int i = 0; i < 3; i++) {
                    out[side][i] = malloc((size_t)read[i]->n * 4);
                    msa_tensor_read(read[i], out[side][i]);
                }
                msa_tensor_done(&tq), msa_tensor_done(&tk), msa_tensor_done(&td);
                msa_tensor_done(&p), msa_tensor_done(&y), msa_tensor_done(&z);
            }
            msa_check_close(s, out[0][0], out[1][0], T * msa_kern_route_width(&r), 2e-12, "router_query");
            msa_check_close(s, out[0][1], out[1][1], B * C, msa_scan_bound(s, kt), "scan");
            msa_check_close(s, out[0][2], out[1][2], B * N, msa_scan_bound(s, kt), "doc_scores");
            for (int i = 0; i < 6; i++)
                free(out[i / 3][i % 3]);
            free(rq), free(rk);
        }
    }
}

static void pooling_and_conversion_agree(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        msa_rand_seed(7);
        for (int round = 0; round < 12; round++) {
            int64_t W = msa_rand_int(1, 80), col = msa_rand_int(0, 5), stride = W + col + 2;
            msa_kern_chunk chunks[20];
            int64_t C = msa_rand_int(1, 20), M = 0;
            for (int64_t c = 0; c < C; c++) {
                chunks[c] = (msa_kern_chunk){M + msa_rand_int(0, 2), msa_rand_int(1, 64)};
                M = chunks[c].start + chunks[c].len;
            }
            bool f32 = round & 1;
            msa_dtype t = f32 ? MSA_F32 : s->act, to = round & 2 ? MSA_BF16 : MSA_F32;
            float *x = msa_rand_new(M * stride, 2), *out[2][2];
            for (int side = 0; side < 2; side++) {
                msa_kern *k = side ? s->ref : s->k;
                msa_tensor tx = msa_tensor_of(k, t, x, M * stride);
                msa_tensor y = msa_tensor_new(k, MSA_F32, C * W), z = msa_tensor_new(k, to, M * (W + 1));
                OK(msa_kern_pool(k, NULL, tx.p, f32, stride, col, W, chunks, C, y.p, NULL));
                OK(msa_kern_convert(k, NULL, tx.p, t, stride, z.p, to, W + 1, W, M, NULL));
                out[side][0] = malloc((size_t)y.n * 4);
                out[side][1] = malloc((size_t)z.n * 4);
                msa_tensor_read(&y, out[side][0]);
                msa_tensor_read(&z, out[side][1]);
                msa_tensor_done(&tx), msa_tensor_done(&y), msa_tensor_done(&z);
            }
            msa_check_close(s, out[0][0], out[1][0], C * W, 2e-12, "pool");
            assert_memory_equal(out[0][1], out[1][1], (size_t)(M * (W + 1)) * 4);
            for (int i = 0; i < 4; i++)
                free(out[i / 2][i % 2]);
            free(x);
        }
    }
}

static void sampling_agrees(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        msa_rand_seed(8);
        for (int round = 0; round < 40; round++) {
            int64_t V = msa_rand_int(1, 600);
            float *l = msa_rand_new(V, round % 4 == 0 ? 0.5f : 12);
            for (int64_t i = 0; i < V; i++) /* ties */
                l[i] = round % 3 ? l[i] : rintf(l[i]);
            msa_kern_sample p = {round % 5 ? 0.3f + 0.1f * (float)(round % 7) : 0,
                                 round % 2 ? 1 : 0.9f, fabsf(msa_rand_unit()) * 0.999f};
            assert_int_equal(sample_one(s->k, l, V, p), sample_one(s->ref, l, V, p));
            free(l);
        }
    }
}

/* ---- what results may depend on ------------------------------------------------------------ */

/* The bits of a row do not change with the rows beside it or with threads. */
static void rows_stand_alone(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        enum { M = 213, N = 150, K = 70 };
        msa_kern_heads h = {4, 2, 24};
        int64_t width = (h.H + 2 * h.G) * h.D, o = h.H * h.D;
        msa_rand_seed(9);
        float *w = msa_rand_new(N * K, 1), *x = msa_rand_new(M * K, 1), *qkv = msa_rand_new(M * width, 2);
        msa_kern *alone = msa_test_kern(s->name, s->act, 1), *many = msa_test_kern(s->name, s->act, 3);
        float *y[3] = {NULL}, *a[3] = {NULL};
        /* document of rows 40..122: in company on both, then by itself */
        for (int side = 0; side < 3; side++) {
            msa_kern *k = side == 1 ? many : alone;
            int64_t from = side == 2 ? 40 : 0, n = side == 2 ? 83 : M;
            msa_kern_weight *kw;
            OK(msa_kern_weight_new(k, w, MSA_F32, N, K, &kw, NULL));
            msa_tensor tx = msa_tensor_of(k, s->act, x + from * K, n * K);
            msa_tensor tq = msa_tensor_of(k, s->act, qkv + from * width, n * width);
            msa_tensor ty = msa_tensor_new(k, MSA_F32, n * N), ta = msa_tensor_new(k, s->act, n * o);
            OK(msa_kern_linear(k, NULL, kw, tx.p, n, ty.p, MSA_LINEAR_F32, NULL));
            if (side == 2)
                OK(msa_kern_attn_packed(k, NULL, tq.p, n, h, (int64_t[]){0, 83}, 1, ta.p, NULL));
            else
                OK(msa_kern_attn_packed(k, NULL, tq.p, n, h, (int64_t[]){0, 40, 123, M}, 3, ta.p,
                                        NULL));
            y[side] = malloc((size_t)ty.n * 4);
            a[side] = malloc((size_t)ta.n * 4);
            msa_tensor_read(&ty, y[side]);
            msa_tensor_read(&ta, a[side]);
            msa_tensor_done(&tx), msa_tensor_done(&tq), msa_tensor_done(&ty), msa_tensor_done(&ta);
            msa_kern_weight_free(k, kw);
        }
        assert_memory_equal(y[0], y[1], M * N * 4);
        assert_memory_equal(a[0], a[1], (size_t)(M * o) * 4);
        assert_memory_equal(y[0] + 40 * N, y[2], 83 * N * 4);
        assert_memory_equal(a[0] + 40 * o, a[2], (size_t)(83 * o) * 4);
        /* one row at a time, as decoding runs it */
        msa_kern_weight *kw;
        OK(msa_kern_weight_new(many, w, MSA_F32, N, K, &kw, NULL));
        for (int64_t m = 0; m < M; m += 53) {
            msa_tensor tx = msa_tensor_of(many, s->act, x + m * K, K);
            msa_tensor ty = msa_tensor_new(many, MSA_F32, N);
            float one[N];
            OK(msa_kern_linear(many, NULL, kw, tx.p, 1, ty.p, MSA_LINEAR_F32, NULL));
            msa_tensor_read(&ty, one);
            assert_memory_equal(one, y[0] + m * N, sizeof one);
            msa_tensor_done(&tx), msa_tensor_done(&ty);
        }
        msa_kern_weight_free(many, kw);
        for (int i = 0; i < 3; i++)
            free(y[i]), free(a[i]);
        free(w), free(x), free(qkv);
        msa_kern_close(alone);
        msa_kern_close(many);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_linear_embed_by_hand),
        cmocka_unit_test(rope_swiglu_by_hand),
        cmocka_unit_test(attention_by_hand),
        cmocka_unit_test(pooling_by_hand),
        cmocka_unit_test(conversion_rounds_to_even),
        cmocka_unit_test(half_precision_weights),
        cmocka_unit_test(routing_by_hand),
        cmocka_unit_test(best_lists_keep_order_and_ties),
        cmocka_unit_test(sampling_by_hand),
        cmocka_unit_test(linear_agrees),
        cmocka_unit_test(rows_agree),
        cmocka_unit_test(packed_attention_agrees),
        cmocka_unit_test(memory_attention_agrees),
        cmocka_unit_test(cache_continues_a_sequence),
        cmocka_unit_test(rotated_rows_are_kept),
        cmocka_unit_test(routing_agrees),
        cmocka_unit_test(pooling_and_conversion_agree),
        cmocka_unit_test(sampling_agrees),
        cmocka_unit_test(rows_stand_alone),
    };
    if (!msa_subjects_open(argc > 1 ? argv[1] : NULL))
        return 1;
    if (argc > 2)
        cmocka_set_test_filter(argv[2]); /* racecheck takes minutes for some: one at a time */
    return cmocka_run_group_tests(tests, NULL, msa_subjects_close);
}
